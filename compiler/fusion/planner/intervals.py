"""Dynamic programming over intervals of an order of the nodes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import inf
from typing import Any

from ..graph import Value  # noqa
from ..partition import Mask, Partition, Task, bits
from .atoms import ORDERS, arrange, atoms
from .register import planner


@planner
def intervals(task: Task, *, prune: bool = True) -> Partition:
    """The best cuts of an order of the nodes, of three orders: the best partition at all where there is but one order.

    With `prune`, a group is taken to exceed its floor (inputs, outputs and weights once) by at least as much as each
    interval within it does, and not to fit where one within it does not. That is so nearly always, and not proved;
    without, only what is proved is left out.
    """
    since = time.perf_counter()
    units = atoms(task)
    orders = dict.fromkeys(tuple(arrange(task, units, order)) for order in ORDERS)
    found = [cut(task, order, prune) for order in orders]
    best = min(found, key=task.total)
    return task.partition(best, "intervals", since)


def cut(task: Task, order: Sequence[Mask], prune: bool = True) -> list[Mask]:
    """The cuts of an order that make the fewest bytes in all.

    best[j] = min over i of best[i] + dram(units i … j − 1): a shortest way from 0 to the number of units. Intervals are
    tried from the most promising floor on, until no floor is below what is found.
    """
    import numpy as np

    size = len(order)
    best = np.full(size + 1, inf)
    best[0] = 0
    came = [0] * (size + 1)
    excess = np.zeros(size)
    """By first unit: how much intervals up to the last unit are known, or taken, to exceed their floors."""
    for j in range(1, size + 1):
        floors, masks = _floors(task, order, j)
        known = excess if prune else np.zeros(size)
        known[:j][masks == 0] = inf
        tried = np.zeros(j, bool)
        exact = np.full(j, inf)
        while True:
            guess = np.where(tried, exact, best[:j] + floors + known[:j])
            i = int(guess.argmin())
            if tried[i] or guess[i] == inf:
                break
            cost = task.dram(int(masks[i]))
            tried[i], exact[i] = True, best[i] + cost
            if prune:
                over = cost - floors[i]
                known[: i + 1] = np.maximum(known[: i + 1], over)
        best[j], came[j] = exact[i], i
    return _walk(order, came)
