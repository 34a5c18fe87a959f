"""The default: the best of what is quick."""

from __future__ import annotations

import time
from collections.abc import Iterator
from math import inf

from ..partition import Mask, Partition, Task, bits
from .anneal import cool
from .atoms import ORDERS, arrange, atoms
from .greedy import grow
from .improve import improve
from .intervals import cut
from .pattern import fuse
from .register import planner
from .split import divide


@planner
def best(task: Task, *, effort: int = 40_000) -> Partition:
    """The best of intervals, greedy, patterns and layers, improved by local moves. Where branches have several orders,
    splits are tried as well, and a random walk from the best. Beyond so much effort, counted in nodes of groups that
    were costed, which is some seconds, nothing new is begun."""
    since = time.process_time()
    found, notes = search(task, effort)
    return task.partition(found, "best", since, notes=notes)


def search(task: Task, effort: float = inf) -> tuple[list[Mask], tuple[str, ...]]:
    """The groups of `best`, and where they come from."""
    units = atoms(task)
    orders = dict.fromkeys(tuple(arrange(task, units, order)) for order in ORDERS)
    tried = {
        "intervals": min((cut(task, order) for order in orders), key=task.total),
        "greedy": grow(task),
        "pattern": fuse(task),
        "layers": [1 << i for i in bits(task.free)],
    }
    name = min(tried, key=lambda n: task.total(tried[n]))
    first = task.total(tried[name])
    found = improve(task, tried[name], units, effort)
    if len(orders) > 1:
        for other in sorted({"intervals", "greedy"} - {name}):
            found = min(found, improve(task, tried[other], units, effort), key=task.total)
        if task.effort < effort:
            found = min(found, improve(task, divide(task), units, effort), key=task.total)
        walked = cool(task, found, _steps(task, effort), hot=0.003)
        if task.total(walked) < task.total(found):
            found = improve(task, walked, units, effort)
    saved = first - task.total(found)
    return found, (f"from {name}", *((f"{saved:,.0f} bytes less by splits and local moves",) if saved else ()))


def _steps(task: Task, effort: float, moves: int = 1_000) -> Iterator[float]:
    for at in range(moves):
        if task.effort >= effort:
            return
        yield at / moves
