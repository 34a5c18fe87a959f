"""Dynamic programming over intervals of an order of the nodes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import inf
from typing import Any

from ...graph import Value
from ..partition import Mask, Partition, Task, bits
from .atoms import ORDERS, arrange, atoms
from .register import planner


@planner
def intervals(task: Task, *, prune: bool = True) -> Partition:
    """The best cuts of an order of the nodes, of three orders: the best partition at all where there is but one order.

    With `prune`, a group is taken to exceed its inputs, outputs and weights by at least as much as each interval
    within it does, and not to fit where one within it does not. That is so nearly always, and not proved;
    without, only what is proved is left out.
    """
    since = time.process_time()
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
    best: Any = _filled(size + 1, inf)
    best[0] = 0
    came = list(range(-1, size))
    excess = _filled(size, 0.0)
    """By first unit: by how much intervals from there on are known, or taken, to exceed their floors, with inputs read
    as a whole."""
    for j in range(1, size + 1):
        floors, whole, masks = _floors(task, order[:j])
        open = _filled(j, True)
        guess = best[:j] + floors + excess[:j]
        found = best[j - 1] + task.dram(masks[j - 1])
        while (i := int(guess.argmin())) >= 0 and guess[i] < found:
            open[i] = False
            guess[i] = inf
            if not task.valid(masks[i]):
                continue
            cost = task.dram(masks[i], inf if prune else found - best[i])
            if best[i] + cost < found:
                found, came[j] = best[i] + cost, i
            if prune and cost > whole[i] + excess[i]:
                grown: Any = np.maximum(excess[: i + 1], cost - whole[i])
                excess[: i + 1] = grown
                guess = np.where(open, best[:j] + floors + excess[:j], inf)
        best[j] = found if found < inf else best[j - 1]
    return _walk(order, came)


def _filled(size: int, value: float) -> Any:
    import numpy as np

    return np.full(size, value)


def _floors(task: Task, order: Sequence[Mask]) -> tuple[Any, Any, list[Mask]]:
    """For the intervals that end with an order, by first unit: their floors, these with all lines of all inputs, and
    the intervals."""
    floors, whole = _filled(len(order), 0.0), _filled(len(order), 0.0)
    masks = [0] * len(order)
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
            total += sum(size for readers, result, size in node.makes if result or readers & ~mask)
            total += sum(size for name, size in node.weights if name not in weights)
            weights.update(name for name, _ in node.weights)
            for value, _, least in node.loads:
                before = loads.get(value)
                loads[value] = max(least, before or 0)
                total += loads[value] - (before or 0)
                skipped += (task.bytes(value) if before is None else before) - loads[value]
        floors[at], whole[at], masks[at] = total, total + skipped, mask
    return floors, whole, masks


def _walk(order: Sequence[Mask], came: Sequence[int]) -> list[Mask]:
    found: list[Mask] = []
    at = len(order)
    while at:
        mask = 0
        for unit in order[came[at] : at]:
            mask |= unit
        found.append(mask)
        at = came[at]
    return found[::-1]
