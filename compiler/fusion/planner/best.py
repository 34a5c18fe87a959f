"""The default: the best of what is quick."""

from __future__ import annotations

import time

from ..partition import Mask, Partition, Task, bits
from .anneal import cool
from .atoms import ORDERS, arrange, atoms
from .greedy import grow
from .improve import improve
from .intervals import cut
from .pattern import fuse
from .register import planner


@planner
def best(task: Task) -> Partition:
    """The best of intervals of several orders, greedy, patterns and layers, improved by local moves and, where branches
    may be ordered in several ways, by a random walk of a fixed length."""
    since = time.process_time()
    found, notes = search(task)
    return task.partition(found, "best", since, notes=notes)


def search(task: Task, moves: int = 1_500) -> tuple[list[Mask], tuple[str, ...]]:
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
    found = improve(task, tried[name], units)
    if len(orders) > 1:
        walked = cool(task, found, (at / moves for at in range(moves)), hot=0.003)
        found = improve(task, walked, units) if task.total(walked) < task.total(found) else found
    saved = task.total(tried[name]) - task.total(found)
    return found, (f"from {name}", *((f"{saved:,.0f} bytes less by local moves",) if saved else ()))
