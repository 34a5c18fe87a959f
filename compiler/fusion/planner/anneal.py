"""Simulated annealing: a baseline that knows nothing of orders."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from math import inf, log
from typing import Literal

from ..partition import Mask, Partition, Task, bits
from .greedy import grow
from .register import Count, Positive, planner


@planner
def anneal(
    task: Task,
    *,
    moves: Count = 5_000,
    seconds: Positive | None = None,
    start: Literal["layers", "greedy"] = "layers",
    hot: Positive = 0.01,
    seed: int = 0,
) -> Partition:
    """Simulated annealing: random neighbours merge, nodes shift between them, groups fall apart.

    What makes it worse is taken with a probability that falls with how much worse, from `hot` times all bytes at first
    to a thousandth of that (Kirkpatrick, Gelatt and Vecchi, "Optimization by simulated annealing", Science 1983). It
    ends after so many moves, or seconds of processor time where given, which is not the same each time.
    """
    since = time.process_time()
    begin = grow(task) if start == "greedy" else [1 << i for i in bits(task.free)]
    progress = _progress(moves, None if seconds is None else since + seconds, since)
    return task.partition(cool(task, begin, progress, hot, seed), "anneal", since)


def cool(task: Task, begin: Sequence[Mask], progress: Iterable[float], hot: float, seed: int = 0) -> list[Mask]:
    """The best partition on a random walk from `begin` with a move for each of `progress`, which goes from 0 to 1."""
    rng = random.Random(seed)
    now: list[Mask] = list(begin)
    best = now
    total = least = task.total(now)
    for part in progress:
        made = _neighbour(task, now, rng)
        if made is None:
            continue
        gone, come = made
        warmth = hot * 0.001**part * total
        cost = task.total(come, task.total(gone) - warmth * log(1 - rng.random()))
        if cost == inf:
            continue
        after = [*(mask for mask in now if mask not in gone), *come]
        if not task.acyclic(after):
            continue
        total += cost - task.total(gone)
        now = after
        if total < least:
            best, least = now, total
    return best


def _progress(moves: int, deadline: float | None, since: float) -> Iterator[float]:
    """How much of the time is over, before each move."""
    at = 0
    while deadline is not None or at < moves:
        clock = time.process_time()
        if deadline is not None and clock >= deadline:
            return
        yield at / moves if deadline is None else (clock - since) / (deadline - since)
        at += 1


def _neighbour(task: Task, parts: list[Mask], rng: random.Random) -> tuple[list[Mask], list[Mask]] | None:
    """Groups to replace, and what to replace them with; None where a move comes to nothing."""
    first = rng.choice(parts)
    if rng.random() < 0.2:
        return _fall_apart(task, first, rng)
    near = 0
    for i in bits(first):
        near |= task.readers[i]
    others = [mask for mask in parts if mask & near and mask != first]
    if not others:
        return None
    second = rng.choice(others)
    if rng.random() < 0.5:
        return [first, second], [first | second]
    if rng.random() < 0.5:
        moving = [i for i in bits(first) if task.readers[i] & second]
        some = _with_followers(task, first, rng.choice(moving))
        return None if some == first else ([first, second], [first & ~some, second | some])
    moving = [i for i in bits(second) if task.sources[i] & first]
    some = _with_sources(task, second, rng.choice(moving))
    return None if some == second else ([first, second], [first | some, second & ~some])


def _with_followers(task: Task, group: Mask, number: int) -> Mask:
    return (task.below[number] & group) | 1 << number


def _with_sources(task: Task, group: Mask, number: int) -> Mask:
    return (task.above[number] & group) | 1 << number


def _fall_apart(task: Task, group: Mask, rng: random.Random) -> tuple[list[Mask], list[Mask]] | None:
    """A group without a node and all that follows it there, and these."""
    number = rng.choice(list(bits(group)))
    after = _with_followers(task, group, number)
    if after == group:
        return None
    return [group], [group & ~after, after]
