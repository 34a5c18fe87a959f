"""Dynamic programming over intervals of an order of the nodes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from math import inf
from typing import NamedTuple

from ...graph import Value
from ..partition import Mask, Partition, Task, bits
from .atoms import ORDERS, arrange, atoms
from .register import planner


@planner
def intervals(task: Task, *, prune: bool = True) -> Partition:
    """The best cuts of an order of the nodes, of three orders: the best partition at all where there is but one order.

    With `prune`, a group is taken to exceed its inputs, outputs and weights by at least as much as each interval
    within it does, and not to fit where one within it does not. That is so nearly always, and not proved; without,
    only what is proved is left out.
    """
    since = time.process_time()
    units = atoms(task)
    orders = dict.fromkeys(tuple(arrange(task, units, order)) for order in ORDERS)
    found = [cut(task, order, prune) for order in orders]
    return task.partition(min(found, key=task.total), "intervals", since)


def cut(task: Task, order: Sequence[Mask], prune: bool = True, effort: float = inf) -> list[Mask]:
    """The cuts of an order that make the fewest bytes in all: a shortest way from its begin to its end, where an
    interval is a step as long as the bytes it moves. Where nothing fits, or the task's effort comes to a limit before,
    each node alone."""
    found = Search(task, order, effort=effort).way() or [1 << i for unit in order for i in bits(unit)]
    return found if prune else Search(task, order, task.total(found)).way() or found


class _Step(NamedTuple):
    """An interval as the last of a way: from the first unit `i` to before `j`."""

    length: float
    """What the whole way takes at least, up to the end of the order."""
    i: int
    j: int
    before: float
    """Bytes of the intervals before it."""
    cost: float
    """Its own, at least."""
    costed: bool


class Search:
    """A* (Hart, Nilsson and Raphael, 1968): intervals are costed only where their floors, and the floor of what comes
    after them, leave a chance.

    Without an `upper` bound on all bytes an interval is taken to exceed its inputs, outputs and weights by as much as
    those within it, of which some are costed first, each twice as long as the one before. With one, only what is proved
    is left out, and a way that is no shorter is not found.
    """

    def __init__(
        self, task: Task, order: Sequence[Mask], upper: float = inf, deadline: float = inf, effort: float = inf
    ) -> None:
        self.task, self.order, self.upper = task, order, upper
        self.deadline, self.effort = deadline, effort
        self.bound = 0.0
        """Bytes that no cuts of the order are below, or `upper`; where `upper` is given, that is proved."""
        self.ends = [_Floors(task, order[:j]) for j in range(1, len(order) + 1)]
        self.heap: list[_Step] = []
        self.reached = list(range(1, len(order) + 1))
        """By first unit: where the longest interval from there ends that is known to fit."""
        self.wall = [len(order) + 1] * len(order)
        """By first unit: where the shortest interval ends that is known, or taken, not to fit."""
        self.over: list[tuple[int, int, float]] = []
        """Intervals that exceed inputs, outputs and weights: the first unit, the one after the last, by how much."""

    def way(self) -> list[Mask]:
        """The intervals of the shortest way; none where none is shorter than `upper`, or at the deadline."""
        came: dict[int, int] = {}
        self._leave(0, 0.0)
        while self.heap:
            step = heappop(self.heap)
            if step.j in came:
                continue
            self.bound = max(self.bound, step.length)
            if time.process_time() >= self.deadline or self.task.effort >= self.effort:
                return []
            if not step.costed:
                self._cost(step)
                continue
            came[step.j] = step.i
            if step.j == len(self.order):
                return _walk(self.order, came)
            self._leave(step.j, step.before + step.cost)
        self.bound = self.upper
        return []

    def _leave(self, i: int, before: float) -> None:
        for j in range(i + 1, min(self.wall[i], len(self.order) + 1)):
            self._push(i, j, before, self.ends[j - 1].least[i])

    def _push(self, i: int, j: int, before: float, cost: float, costed: bool = False) -> None:
        length = before + cost + self._after(j)
        if length < self.upper:
            heappush(self.heap, _Step(length, i, j, before, cost, costed))

    def _after(self, j: int) -> float:
        return self.ends[-1].least[j] if j < len(self.order) else 0.0

    def _cost(self, step: _Step) -> None:
        """Cost an interval, or put it back with more that it must take."""
        i, j, before = step.i, step.j, step.before
        mask = self.ends[j - 1].masks[i]
        if j >= self.wall[i] or not self.task.valid(mask):
            return
        if self.upper < inf:
            self._push(i, j, before, self.task.dram(mask, self.upper - before - self._after(j)), True)
            return
        taken = max((over for a, b, over in self.over if i <= a and b <= j), default=0.0)
        least = max(step.cost, self.ends[j - 1].whole[i] + taken if taken else 0.0)
        far = 2 * self.reached[i] - i
        if least > step.cost:
            self._push(i, j, before, least)
        elif j > far:
            self._measure(i, far)
            self._push(i, j, before, least)
        else:
            self._push(i, j, before, self._measure(i, j), True)

    def _measure(self, i: int, j: int) -> float:
        mask, whole = self.ends[j - 1].masks[i], self.ends[j - 1].whole[i]
        cost = self.task.dram(mask)
        valid = self.task.valid(mask)
        if cost < inf or not valid:
            self.reached[i] = max(self.reached[i], j)
        if cost == inf and valid:
            self.wall[: i + 1] = [min(j, wall) for wall in self.wall[: i + 1]]
        elif cost > whole and valid:
            self.over.append((i, j, cost - whole))
        return cost


class _Floors:
    """Of the intervals that end with an order, by first unit: `masks`, the `least` that they move, and that with inputs
    as a `whole`."""

    def __init__(self, task: Task, order: Sequence[Mask]) -> None:
        self.masks = [0] * len(order)
        self.least, self.whole = [0.0] * len(order), [0.0] * len(order)
        mask, total, skipped = 0, 0, 0
        weights: set[str] = set()
        loads: dict[Value, int] = {}
        for at in reversed(range(len(order))):
            mask |= order[at]
            for i in reversed(tuple(bits(order[at]))):
                node = task.nodes[i]
                for value in node.values:
                    if value in loads:
                        total -= loads[value]
                        skipped -= task.bytes(value) - loads.pop(value)
                for readers, result, size in node.makes:
                    total += size if result or readers & ~mask else 0
                for name, size in node.weights:
                    if name not in weights:
                        weights.add(name)
                        total += size
                for value, _, least in node.loads:
                    before = loads.get(value)
                    loads[value] = max(least, before or 0)
                    total += loads[value] - (before or 0)
                    skipped += (task.bytes(value) if before is None else before) - loads[value]
            self.masks[at], self.least[at], self.whole[at] = mask, total, total + skipped


def _walk(order: Sequence[Mask], came: Mapping[int, int]) -> list[Mask]:
    found: list[Mask] = []
    at = len(order)
    while at:
        mask = 0
        for unit in order[came[at] : at]:
            mask |= unit
        found.append(mask)
        at = came[at]
    return found[::-1]
