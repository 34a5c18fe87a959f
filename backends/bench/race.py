"""Processes that take turns."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from .process import Process

PAUSE = 0.03
"""Seconds between turns. Threads of pools spin for some milliseconds before they sleep; they must not do so in the turn
of another."""

LEAST = 0.03
"""Seconds that the runs of a turn take at least together; models that take longer run once."""

MOST = 1000
"""Runs in a turn."""


def race(
    processes: Mapping[str, Process],
    turns: int,
    seed: int = 0,
    of: Callable[[Sequence[float]], float] = median,
) -> dict[str, list[float]]:
    """Seconds of one run in each turn, by candidate: the median `of` its runs. The order within a turn is random."""
    counts: dict[str, int] = {}
    for name, process in processes.items():
        time.sleep(PAUSE)
        counts[name] = min(max(1, round(LEAST / min(process.seconds(3)))), MOST)
    taken: dict[str, list[float]] = {name: [] for name in processes}
    order = random.Random(seed)
    for _ in range(turns):
        for name in order.sample(list(processes), len(processes)):
            time.sleep(PAUSE)
            taken[name].append(of(processes[name].seconds(counts[name])))
    return taken
