"""What the decision about a chain says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chain:
    """A group that has a fused kernel: its `kind`, and the paths of its `anchors`, the nodes that reduce, in order."""

    kind: str
    anchors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a group has none, and the nodes that are to blame."""

    reason: str
    nodes: tuple[str, ...]
