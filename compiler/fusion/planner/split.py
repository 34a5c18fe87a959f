"""From the whole graph down: what makes a group invalid is found, and the group split there."""

from __future__ import annotations

import time
from math import inf

from ..explain import scores
from ..partition import Mask, Partition, Task, bits
from .atoms import atoms
from .improve import improve
from .register import planner

EXPLAINED = 48
"""Larger groups are halved first where the least passes between: to score them takes long, and says little."""


@planner
def split(task: Task) -> Partition:
    """From the whole graph down: a group that does not fit is split at the node that is most to blame, and one that
    moves more than it must where the least passes between the parts, if that helps; at last by local moves."""
    since = time.process_time()
    return task.partition(improve(task, divide(task), atoms(task)), "split", since)


def divide(task: Task) -> list[Mask]:
    """The groups of `split`, before moves."""
    known: dict[Mask, list[Mask]] = {}
    return [leaf for whole in task.components(task.free) for leaf in _divide(task, whole, known)]


def _divide(task: Task, group: Mask, known: dict[Mask, list[Mask]]) -> list[Mask]:
    if group not in known:
        known[group] = _divided(task, group, known)
    return known[group]


def _divided(task: Task, group: Mask, known: dict[Mask, list[Mask]]) -> list[Mask]:
    """A group, or what it is split into (Mills et al., "Applying Graph Explanation to Operator Fusion", 2024: a tree of
    splits at the node whose explanation weighs most)."""
    if group & (group - 1) == 0:
        return [group]
    whole = task.dram(group)
    if whole == task.floor(group):
        return [group]
    ways = _at_the_blamed(task, group) if whole == inf and group.bit_count() <= EXPLAINED else []
    ways = ways or [_narrowest(task, group)]
    best, least = [group], whole
    for way in ways:
        parts = [leaf for part in way for leaf in _divide(task, part, known)]
        if (total := task.total(parts)) < least:
            best, least = parts, total
    return best if least < inf else [1 << i for i in bits(group)]


def _at_the_blamed(task: Task, group: Mask) -> list[list[Mask]]:
    """Before the node that is most to blame, and after it."""
    if task.buffer is None or not task.valid(group):
        return []
    shares = scores(task.workload, task.members(group), task.buffer)
    name = max(shares, key=lambda n: shares[n])
    if not shares[name]:
        return []
    number = task.number[name]
    after = (task.below[number] & group) | 1 << number
    before = (task.above[number] & group) | 1 << number
    ways = [_cut(task, group, group & ~after), _cut(task, group, before)]
    return [list(way) for way in dict.fromkeys(map(tuple, ways)) if len(way) > 1]


def _cut(task: Task, group: Mask, first: Mask) -> list[Mask]:
    return [*task.components(first), *task.components(group & ~first)]


def _narrowest(task: Task, group: Mask) -> list[Mask]:
    """The two halves, by what precedes a node, between which the least passes; each a third of the nodes at least
    where there is such a place."""
    size = group.bit_count()
    best: tuple[float, list[Mask]] | None = None
    for i in bits(group):
        for first in (group & ~((task.below[i] & group) | 1 << i), (task.above[i] & group) | 1 << i):
            if first in (0, group):
                continue
            share = min(first.bit_count(), size - first.bit_count()) / size
            parts = _cut(task, group, first)
            passed = sum(map(task.floor, parts)) - task.floor(group)
            if best is None or passed / share < best[0]:
                best = passed / share, parts
    assert best is not None  # a group of two nodes can be cut
    return best[1]
