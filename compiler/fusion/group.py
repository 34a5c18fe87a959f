"""A group: nodes that are executed together."""

from __future__ import annotations

from dataclasses import dataclass

from ..source import Span


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes that are executed as one, so that what passes between them alone need not leave the chip.

    `nodes` are paths of working nodes (see `work`) in the order of the graph. `origin` is the line that asks for the
    group; None where a planner made it.
    """

    name: str
    nodes: tuple[str, ...]
    origin: Span | None = None
