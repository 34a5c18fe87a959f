"""The default: the best of what is quick."""

from __future__ import annotations

import time
from collections.abc import Iterator
from math import inf

from ..partition import Mask, Partition, Task, bits
from .anneal import cool
from .atoms import ORDERS, arrange, atoms
from .greedy import grow
from .improve import improve, settle
from .intervals import cut
from .pattern import fuse
from .register import Count, planner
from .split import divide


@planner
def best(task: Task, *, effort: Count = 64_000) -> Partition:
    """Where nodes have one order, the best of its cuts; where they have several, of splits, greedy, a random walk from
    the better of these, and cuts of three orders. All are improved by local moves, and compared with patterns and
    layers. Beyond so much effort, counted in nodes of groups that were costed, which is some seconds, nothing new is
    begun."""
    since = time.process_time()
    found, notes = search(task, effort)
    return task.partition(found, "best", since, notes=notes)


def search(task: Task, effort: float = inf) -> tuple[list[Mask], tuple[str, ...]]:
    """The groups of `best`, and where they come from."""
    units = atoms(task)
    order = arrange(task, units, "graph")
    tried = {"greedy": grow(task), "pattern": fuse(task), "layers": [1 << i for i in bits(task.free)]}
    branches = any(order != arrange(task, units, other) for other in ORDERS)
    if not branches:
        tried["intervals"] = cut(task, order)
    else:
        tried["split"] = divide(task)
        for start in ("split", "greedy"):
            tried[start] = settle(task, tried[start], effort)
        least = min(tried, key=lambda n: task.total(tried[n]))
        tried["a walk"] = cool(task, tried[least], _steps(task, effort), hot=0.0003)
    name, found = "", tried["layers"]
    for start in sorted(tried, key=lambda n: task.total(tried[n]))[: 3 if branches else 1]:
        better = improve(task, tried[start], units, effort)
        if not name or task.total(better) < task.total(found):
            name, found = start, better
    if branches:
        for other in ORDERS:
            better = cut(task, arrange(task, units, other), effort=effort)
            found = min(improve(task, better, units, effort), found, key=task.total)
    return found, (f"from {name}",)


def _steps(task: Task, effort: float, moves: int = 4_000) -> Iterator[float]:
    """How much of a walk is over, before each move: of its moves, or of its effort, whichever is more."""
    since = task.effort
    for at in range(moves):
        used = (task.effort - since) / (effort - since) if effort > since else 1.0
        if used >= 1:
            return
        yield max(at / moves, used)
