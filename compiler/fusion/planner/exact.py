"""The optimum, with its proof: a shortest way where nodes have one order, else an integer program."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil, inf
from typing import Any

from ..partition import Mask, Partition, Task, bits
from .atoms import arrange
from .best import search as quick
from .intervals import Search
from .register import Count, Positive, planner


@planner
def exact(task: Task, *, seconds: Positive = 600.0, groups: Count = 20_000) -> Partition:
    """The best partition of all, and the proof that it is: an integer program (HiGHS) over all groups there may be.

    Where the nodes have but one order, groups are intervals, and dynamic programming needs no integer program. With
    more than `groups` groups the optimum is over some of them, and after `seconds` it is the best so far; then the
    bound is what is proved of it.
    """
    since = time.process_time()
    start = quick(task)[0]
    order = arrange(task, [1 << i for i in bits(task.free)], "graph")
    if _only_order(task, order):
        search = Search(task, order, task.total(start), since + seconds)
        found = search.way() or start
        bound = None if search.bound == inf else int(search.bound)
        notes = ["the nodes have one order: groups are intervals, and dynamic programming proves the bound"]
        if time.process_time() >= since + seconds:
            notes.append(f"stopped after {seconds:g} s")
        return task.partition(found, "exact", since, bound, task.total(found) == bound, notes)
    return _program(task, start, since, seconds, groups)


def _only_order(task: Task, order: Sequence[Mask]) -> bool:
    """Whether each node reads what the one before makes, so that convex groups are intervals."""
    return all(task.sources[b.bit_length() - 1] & a for a, b in pairwise(order))


def _program(task: Task, start: list[Mask], since: float, seconds: float, groups: int) -> Partition:
    upper = task.total(start)
    columns, complete = enumerate_groups(task, upper, groups, start)
    master = _Master(task, columns, upper, since + seconds)
    found = master.solve()
    chosen = start if found is None or task.total(found) >= upper else found
    total = task.total(chosen)
    notes = [f"an integer program over {len(columns):,} groups, {task.evaluated:,} of them costed"]
    if not complete:
        notes.append(f"there are more groups than {groups:,}: the best of those tried, and the bound is compulsory")
        return task.partition(chosen, "exact", since, notes=notes)
    if master.finished:
        return task.partition(chosen, "exact", since, int(total), True, notes)
    bound = min(ceil(master.bound - 0.5), int(total))
    notes.append(f"stopped after {seconds:g} s")
    return task.partition(chosen, "exact", since, bound, bound == total, notes)


def enumerate_groups(task: Task, upper: float, most: int, first: Sequence[Mask] = ()) -> tuple[list[Mask], bool]:
    """Valid groups that a partition of fewer than `upper` bytes may have, and whether they are all.

    Each convex connected set grows from a smaller one by a neighbour and all that lies on ways between. `first` are
    among them in any case.
    """
    found = dict.fromkeys(first)
    seen: set[Mask] = {1 << i for i in bits(task.free)}
    waiting = sorted(seen)
    for mask in waiting:
        if len(found) >= most:
            return list(found), False
        if task.valid(mask) and task.floor(mask) + task.floor(task.free & ~mask) < upper:
            found.setdefault(mask)
        for larger in _larger(task, mask):
            if larger not in seen:
                seen.add(larger)
                waiting.append(larger)
        if len(seen) > 50 * most:
            return list(found), False
    return list(found), True


def _larger(task: Task, mask: Mask) -> list[Mask]:
    near = 0
    for i in bits(mask):
        near |= task.sources[i] | task.readers[i]
    made: list[Mask] = []
    for i in bits(near & ~mask & task.free):
        above, below = task.around(mask | 1 << i)
        hull = above & below
        if not hull & ~task.free:
            made.append(hull)
    return made


@dataclass
class _Master:
    """Set partitioning: of the groups some, so that each node is in one, and no two wait for each other.

    Costs of groups are their floors until a solution uses them. A solution whose costs are all known, and whose groups
    can follow each other, is therefore the best of all.
    """

    task: Task
    columns: list[Mask]
    upper: float
    deadline: float
    bound: float = 0.0
    finished: bool = False
    cuts: list[list[Mask]] = field(default_factory=list[list[Mask]])

    def __post_init__(self) -> None:
        self.floors = {mask: float(self.task.floor(mask)) for mask in self.columns}
        self.known: set[Mask] = set()
        self.bound = float(self.task.compulsory)

    @property
    def left(self) -> float:
        return self.deadline - time.process_time()

    def solve(self) -> list[Mask] | None:
        """The best partition that beats `upper`; None where there is none, or time is up."""
        if not self._relax():
            return None
        while self.left > 0:
            chosen = self._integer()
            if chosen is None:
                return None
            fresh = [mask for mask in chosen if mask not in self.known]
            self._learn(fresh)
            if not fresh:
                ring = self._ring(chosen)
                if ring is None:
                    self.finished = True
                    return chosen
                self.cuts.append(ring)
        return None

    def _learn(self, masks: Sequence[Mask]) -> None:
        """The costs of groups in place of their floors; without those that no better partition has."""
        for mask in masks:
            rest = self.task.floor(self.task.free & ~mask)
            cost = self.task.dram(mask, self.upper - rest)
            self.known.add(mask)
            if cost == inf:
                del self.floors[mask]
            else:
                self.floors[mask] = cost
        self.columns = [mask for mask in self.columns if mask in self.floors]

    def _matrix(self) -> Any:
        import numpy as np
        from scipy.sparse import csc_matrix

        row = {number: at for at, number in enumerate(bits(self.task.free))}
        rows = [[row[i] for i in bits(mask)] for mask in self.columns]
        ends = np.cumsum([0, *map(len, rows)])
        flat = np.array([i for members in rows for i in members])
        return csc_matrix((np.ones(len(flat)), flat, ends), shape=(len(row), len(self.columns)))

    def _relax(self) -> bool:
        """The bound of the linear program, and the columns that it leaves; False where nothing beats `upper`."""
        import numpy as np
        import scipy.optimize as optimize

        while self.left > 0:
            cost = np.array([self.floors[mask] for mask in self.columns])
            matrix = self._matrix()
            if not len(self.columns) or np.any(np.diff(matrix.tocsr().indptr) == 0):
                self.finished = True
                return False
            options = {"time_limit": max(1.0, self.left)}
            program: Any = optimize
            found: Any = program.linprog(
                cost, A_eq=matrix, b_eq=np.ones(matrix.shape[0]), method="highs", options=options
            )
            if found.status == 2:
                self.finished = True
                return False
            if found.status != 0:
                return False
            self.bound = max(self.bound, min(float(found.fun), self.upper))
            reduced = cost - matrix.T @ found.eqlin.marginals
            keep = reduced < self.upper - found.fun + 0.5
            order = np.argsort(reduced, kind="stable")
            fresh: list[Mask] = [
                self.columns[k] for k in order[:400] if self.columns[k] not in self.known and reduced[k] < 0.5
            ]
            self.columns = [mask for mask, stays in zip(self.columns, keep, strict=True) if stays]
            if not fresh:
                return True
            kept = set(self.columns)
            self._learn([mask for mask in fresh if mask in kept])
        return False

    def _integer(self) -> list[Mask] | None:
        import numpy as np
        import scipy.optimize as optimize

        program: Any = optimize

        matrix = self._matrix()
        if np.any(np.diff(matrix.tocsr().indptr) == 0):
            self.finished = True
            return None
        limits: list[Any] = [program.LinearConstraint(matrix, 1, 1)]
        place = {mask: k for k, mask in enumerate(self.columns)}
        for ring in self.cuts:
            row = np.zeros(len(self.columns))
            row[[place[mask] for mask in ring if mask in place]] = 1
            limits.append(program.LinearConstraint(row[None, :], 0, len(ring) - 1))
        cost = np.array([self.floors[mask] for mask in self.columns])
        options = {"time_limit": max(1.0, self.left), "mip_rel_gap": 0.0}
        found: Any = program.milp(cost, constraints=limits, integrality=1, bounds=program.Bounds(0, 1), options=options)
        if found.status == 2:
            self.finished = True
            return None
        if found.mip_dual_bound is not None:
            self.bound = max(self.bound, min(float(found.mip_dual_bound), self.upper))
        if found.status != 0:
            return None
        if found.fun >= self.upper - 0.5:
            self.finished = True
            return None
        return [mask for mask, x in zip(self.columns, found.x, strict=True) if x > 0.5]

    def _ring(self, chosen: Sequence[Mask]) -> list[Mask] | None:
        """Groups of a solution that wait for each other; None where there are none."""
        import networkx as nx

        if self.task.acyclic(chosen):
            return None
        task = self.task
        home = {i: unit for unit in (*task.units, *chosen) for i in bits(unit)}
        graph: nx.DiGraph[Mask] = nx.DiGraph()
        for i, unit in home.items():
            graph.add_edges_from((home[j], unit) for j in bits(task.sources[i]) if home.get(j, unit) != unit)
        library: Any = nx
        circle: list[Any] = list(library.find_cycle(graph))
        return [edge[0] for edge in circle if edge[0] not in task.units]
