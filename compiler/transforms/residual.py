"""Residual parts of a model: where a value goes on as it is, and something made of it is added."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ..blocks import Block, Spine
from ..graph import ParameterRef, Value
from ..operators.arithmetic import Add


@dataclass(frozen=True)
class Residual:
    """`sum = input + branch`, where `branch` is made of `input` by `nodes`, and is read nowhere else."""

    input: Value
    branch: Value
    sum: str
    nodes: tuple[str, ...]
    """What leads from the input to the branch, in order; the sum is not among them."""


def residuals(found: Spine, block: Block) -> tuple[list[Residual], str]:
    """The residual parts that a block consists of, one after the other; else none, and the node that is no sum of a
    joint of the spine and something made of it."""
    first, last = found.position(block.input), found.position(block.output)
    parts: list[Residual] = []
    for start, end in pairwise(found.joints[first : last + 1]):
        part = _residual(found, start, end)
        if part is None:
            return [], end.node
        parts.append(part)
    return parts, "" if parts else block.output.node


def _residual(found: Spine, start: Value, end: Value) -> Residual | None:
    node = found.graph.nodes[end.node]
    if not isinstance(node.op, Add) or start not in node.inputs or node.types[0] != found.graph.type(start):
        return None
    branch = node.inputs[1 - node.inputs.index(start)]
    if branch is None or isinstance(branch, ParameterRef) or branch == start:
        return None
    if found.graph.type(branch) != node.types[0] or len(found.graph.users[branch]) > 1:
        return None
    inside = found.between(start, end).nodes
    return Residual(start, branch, node.path, tuple(p for p in inside if p != node.path))
