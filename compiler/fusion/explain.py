"""Why a group does not fit a buffer: what is held at its fullest moment and for whom, and which nodes are to blame.

After Mills et al., "Applying Graph Explanation to Operator Fusion" (2024): a group that is invalid is split at the node
that explains it best. There a graph neural network is trained to tell valid groups from invalid ones, and explanation
methods for such networks score the nodes. Here nothing is learned: what is explained is the memory model itself, which
answers in milliseconds, so that a node's score is what the excess over the buffer falls by without it (occlusion),
exactly. Nodes are screened by what they hold at the fullest moment, and only those screened are left out in turn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ..graph import Value
from .memory import Grid, Members, Schedule, choices, cuts, flow, tabulate
from .occupancy import occupancy
from .workload import Edge, Path, Workload

SCREENED = 16
"""How many nodes are left out in turn; of smaller groups, all. Of groups of more than 50 nodes fewer, so that what is
computed stays within `EFFORT` nodes, but 4 at least."""
EFFORT = 800

Cause = Literal["whole", "unmade", "torn", "waits", "later", "window", "passes", "leaves"]
"""Why lines are held: a reader takes all of them; their node makes none alone; readers want different axes; a reader
waits for its other operands; a reader runs when all lines of something else are there; a reader reads several; they are
read at once; they are written out at once."""


@dataclass(frozen=True, slots=True)
class Held:
    """A value on chip at the fullest moment: `lines` of its `size`, and the node that they are held for."""

    value: Value
    bytes: int
    lines: int
    size: int
    cause: Cause
    reader: str | None
    """The node to blame: the reader, or where the value's own node makes no line alone, that."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The fullest moment of the schedule that needs the least of a buffer."""

    schedule: Schedule
    bytes: int
    """All that is on chip."""
    held: tuple[Held, ...]
    """The largest first."""
    staged: int
    """Bytes through which weights are streamed."""
    weight: str
    """The weight whose portion is that large; empty without weights."""


def least(workload: Workload, nodes: Collection[str], buffer: int = 0) -> int:
    """The fewest bytes on chip over all schedules that `memory.cheapest` tries; strips are left out where lines as a
    whole fit into `buffer`."""
    members = Members(workload, nodes)
    staged = _staged(members)[0]
    found = int(tabulate(members, choices(members)).peak.min()) + staged
    strips = cuts(members)
    if found <= buffer or not strips:
        return found
    return min(found, int(tabulate(members, choices(members), strips).peak.min()) + staged)


def fullest(workload: Workload, nodes: Collection[str]) -> Moment:
    """The fullest moment of the schedule that needs the least."""
    import numpy as np

    members = Members(workload, nodes)
    table = tabulate(members, choices(members), (1, *cuts(members)))
    i, j = np.unravel_index(int(np.argmin(table.peak)), table.peak.shape)
    schedule = Schedule(table.steps[int(j)], table.strips[int(i)])
    there = occupancy(workload, nodes, schedule)
    at = max(range(there.steps), key=there.totals.__getitem__)
    moment = _Moment(members, schedule, at)
    held = [moment.held(value, areas[at]) for value, areas in there.values.items() if areas[at]]
    held.sort(key=lambda h: -h.bytes)
    return Moment(schedule, there.totals[at], tuple(held), *_staged(members))


def _staged(members: Members) -> tuple[int, str]:
    """The largest portion of a weight, and the weight's name."""
    return max(((w.portion, w.name) for of in members.weights.values() for w in of), default=(0, ""))


class _Moment:
    """A group in one step of a schedule."""

    def __init__(self, members: Members, schedule: Schedule, step: int) -> None:
        import numpy as np

        self.members = members
        lines = flow(members, members.rows, Grid((schedule.steps,), members.phases), "cache")
        self.before = {v: int(np.sum(found.new[:step])) for v, found in lines.items()}
        """Lines that were made before the step."""
        self.made = {v: self.before[v] + int(found.new[step]) for v, found in lines.items()}
        self.all = {v: int(np.sum(found.new)) for v, found in lines.items()}
        self.there = {v: int(found.carry[step] + found.new[step]) for v, found in lines.items()}

    def held(self, value: Value, bytes: int) -> Held:
        size = self.members.size(value, self.members.rows)
        cause, node = self.cause(value)
        return Held(value, bytes, min(size, self.there[value]), size, cause, node)

    def cause(self, value: Value) -> tuple[Cause, str | None]:
        """Why lines of a value are held, and the node to blame."""
        members = self.members
        edges = [edge for edge in members.readers[value] if edge not in members.gathered]
        paths = [members.workload.path(edge, members.rows[Value(edge.reader)]) for edge in edges]
        axis = members.rows[value]
        if axis is None:
            return self._whole(value, edges, paths)
        for edge, path in zip(edges, paths, strict=True):
            if path is None or path.axis != axis:
                return "whole", edge.reader
        oldest = min(
            ((self._first(edge, path), i) for i, (edge, path) in enumerate(zip(edges, paths, strict=True)) if path),
            default=None,
        )
        if oldest is None or oldest[0] > self.made[value]:
            return ("leaves" if value in members.leaving else "passes"), next((e.reader for e in edges), None)
        edge, path = edges[oldest[1]], paths[oldest[1]]
        reach = _reach(path)
        new = self.made[Value(edge.reader)] - self.before[Value(edge.reader)]
        if self.there[value] > reach + max(new, 1) * _stride(path):
            return ("waits" if len(self._operands(edge.reader)) > 1 else "later"), edge.reader
        return ("window" if reach > 1 else "passes"), edge.reader

    def _whole(self, value: Value, edges: Sequence[Edge], paths: Sequence[Path | None]) -> tuple[Cause, str | None]:
        """Why a value has no lines."""
        workload = self.members.workload
        axes = {path.axis for path in paths if path is not None}
        if len(axes) > 1:
            return "torn", edges[-1].reader
        if value.node in self.members.place and axes and not workload.makes_lines(value.node, next(iter(axes))):
            return "unmade", value.node
        taker = next((e.reader for e, path in zip(edges, paths, strict=True) if path is None), None)
        return ("whole", taker) if taker else ("leaves" if value in self.members.leaving else "passes", None)

    def _first(self, edge: Edge, path: Path) -> int:
        """The first line of the source that a reader has still to read; beyond all where it has read everything."""
        line = self.before[Value(edge.reader)]
        if line >= self.all[Value(edge.reader)]:
            return self.all[edge.source] + 1
        for window, size in path.steps:
            line = min(max(window.lowest(line), 0), size)
        return line

    def _operands(self, path: str) -> set[Value]:
        return {edge.source for edge in self.members.workload.edges[path]}


def _reach(path: Path | None) -> int:
    """How many lines of the source one line of the reader reads."""
    return _extent(path, 1)


def _stride(path: Path | None) -> int:
    """How many more lines of the source the next line of the reader reads."""
    return max(1, _extent(path, 2) - _extent(path, 1))


def _extent(path: Path | None, lines: int) -> int:
    low, high = 100, 99 + lines  # any place away from the border
    for window, _ in path.steps if path is not None else ():
        low, high = window.lowest(low), window.highest(high)
    return high - low + 1


# ------------------------------------------------------------------------------------------------------- scores


def scores(workload: Workload, nodes: Collection[str], buffer: int) -> dict[str, float]:
    """How much each node is to blame that a convex group does not fit a buffer: shares that add up to 1, all 0 where
    it fits.

    A node's share is what the largest excess over the buffer falls by when the group is executed in parts around it:
    what does not follow from it, and what does. Where no single node makes a difference, shares are the bytes that
    are held of it and for it at the fullest moment.
    """
    members = Members(workload, nodes)
    found = dict.fromkeys(members.order, 0.0)
    excess = least(workload, members.order, buffer) - buffer
    if excess <= 0:
        return found
    blamed = _blamed(workload, members)
    size = len(members.order)
    ranked = sorted(blamed, key=lambda path: -blamed[path])[: max(4, min(SCREENED, EFFORT // size))]
    for path in members.order if size <= SCREENED else ranked:
        parts = around(workload, members.order, path)
        left = max((least(workload, part, buffer) - buffer for part in parts), default=0)
        found[path] = float(max(0, excess - max(0, left)))
    if not any(found.values()):
        found.update(blamed)
    total = sum(found.values())
    return {path: value / total for path, value in found.items()}


def _blamed(workload: Workload, members: Members) -> dict[str, float]:
    """Bytes at the fullest moment, by the nodes that they are held of and held for."""
    moment = fullest(workload, members.order)
    found: dict[str, float] = {}
    for held in moment.held:
        for path in (held.value.node, held.reader):
            if path in members.place:
                found[path] = found.get(path, 0.0) + held.bytes
    for path, weights in members.weights.items():
        if any(weight.name == moment.weight for weight in weights):
            found[path] = found.get(path, 0.0) + moment.staged
    return found


def around(workload: Workload, nodes: Collection[str], path: str) -> list[tuple[str, ...]]:
    """The connected parts of a convex group without one of its nodes, none of which is both before and after it."""
    inside = [p for p in workload.work.nodes if p in set(nodes)]
    after = {path}
    for other in inside:
        if after.intersection(workload.work.before[other]):
            after.add(other)
    first = [p for p in inside if p not in after]
    return [*components(workload, first), *components(workload, [p for p in inside if p in after and p != path])]


def components(workload: Workload, nodes: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The connected parts of nodes that are in the order of the graph."""
    left = dict.fromkeys(nodes)
    work = workload.work
    while left:
        seen: set[str] = set()
        waiting = [next(iter(left))]
        while waiting:
            at = waiting.pop()
            if at in left and at not in seen:
                seen.add(at)
                waiting.extend((*work.before[at], *work.after[at]))
        yield tuple(p for p in nodes if p in seen)
        left = {p: None for p in left if p not in seen}
