"""Which lines of the values of a group are asked for, backwards from what leaves it."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import ceil

from ...compiler.fusion.memory import Members
from ...compiler.fusion.workload import Edge
from ...compiler.graph import Value
from .slices import Span

Axes = Mapping[Value, int | None]
"""The axis along which the lines of each value lie."""


def share(size: int, part: int, parts: int) -> Span:
    """The lines that the `part`-th of `parts` equal parts makes of `size`: up to the next whole line."""
    return ceil(Fraction(part * size, parts)), ceil(Fraction((part + 1) * size, parts))


def demand(members: Members, axes: Axes, part: int, parts: int) -> dict[Value, Span]:
    """The lines of every value that a part of everything that leaves the group needs."""
    found: dict[Value, Span] = {}
    for value in [*reversed(members.made), *members.inputs]:
        wanted = [reach(members, axes, edge, found[Value(edge.reader)]) for edge in members.readers[value]]
        if value in members.leaving or not members.readers[value]:
            wanted.append(share(members.size(value, axes), part, parts))
        for other in together(members, value):
            wanted.append(found[other])
        spans = [span for span in wanted if span[0] < span[1]]
        span = (min(s for s, _ in spans), max(s for _, s in spans)) if spans else (0, 0)
        found.update(dict.fromkeys((value, *together(members, value)), span))
    return found


def together(members: Members, value: Value) -> tuple[Value, ...]:
    """The other outputs of a node of the group, which are made when its first is, to be seen after them."""
    inside = value.index == 0 and value.node in members.place
    return members.workload.graph.nodes[value.node].values[1:] if inside else ()


def reach(members: Members, axes: Axes, edge: Edge, span: Span) -> Span:
    """The lines of an edge's source that some lines of its reader read. Where these are padding alone, the span is
    empty, and starts at the first line that later ones may read."""
    if span[0] >= span[1]:
        return span
    path = members.workload.path(edge, axes[Value(edge.reader)])
    if path is None or path.axis != axes[edge.source]:
        return 0, members.size(edge.source, axes)
    start, stop = span
    for window, size in path.steps:
        start, stop = window.lowest(start), window.highest(stop - 1) + 1
        start, stop = min(max(start, 0), size), min(max(stop, 0), size)
    return start, stop
