"""Greedily, node by node: the baseline that looks no further than the next node."""

from __future__ import annotations

import time

from ..partition import Mask, Partition, Task, bits
from .register import planner


@planner
def greedy(task: Task) -> Partition:
    """Nodes in the order of the graph: each joins the group of one of those it reads where that saves most bytes."""
    since = time.process_time()
    return task.partition(grow(task), "greedy", since)


def grow(task: Task) -> list[Mask]:
    """The groups of `greedy`."""
    home: dict[int, Mask] = {}
    for i in bits(task.free):
        alone = 1 << i
        sources = dict.fromkeys(home[s] for s in bits(task.sources[i] & task.free))
        saved = {group: task.dram(group) + task.dram(alone) - task.dram(group | alone) for group in sources}
        for group in sorted(saved, key=lambda g: (-saved[g], g)):
            if saved[group] > 0 and task.acyclic([*({*home.values()} - {group}), group | alone, *_later(task, i)]):
                alone |= group
                break
        for member in bits(alone):
            home[member] = alone
    return list(dict.fromkeys(home.values()))


def _later(task: Task, last: int) -> list[Mask]:
    """The nodes after `last`, each alone."""
    return [1 << i for i in bits(task.free & ~((2 << last) - 1))]
