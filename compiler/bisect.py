"""Finding the pass after which a model computes something else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .contract import EXACT
from .graph import Graph
from .pipeline import Measurement, Stage, Trace

Compare = Callable[[Graph, Graph], Measurement]


@dataclass(frozen=True, slots=True)
class Finding:
    """The first stage after which the difference to the start exceeds the tolerance, the difference before and after
    it, and how many stages were compared."""

    stage: Stage
    before: float
    after: Measurement
    compared: int


def bisect(trace: Trace, compare: Compare, tolerance: float = EXACT) -> Finding | None:
    """The stage that introduced a difference, by halving: a difference that is there stays to the end.

    `compare` measures two graphs; relative differences beyond `tolerance` count. None where the last graph still
    computes what the first does.
    """
    stages = [s for s in trace.stages if s.changed]
    seen: dict[int, Measurement] = {}

    def differs(last: int) -> bool:
        if last not in seen:
            seen[last] = compare(trace.start, stages[last].after)
        return not seen[last].relative <= tolerance

    if not stages or not differs(len(stages) - 1):
        return None
    first = _first(range(len(stages)), differs)
    before = seen[first - 1].relative if first else 0.0
    return Finding(stages[first], before, seen[first], len(seen))


def _first(places: Sequence[int], differs: Callable[[int], bool]) -> int:
    low, high = 0, len(places) - 1
    while low < high:
        middle = (low + high) // 2
        if differs(places[middle]):
            high = middle
        else:
            low = middle + 1
    return places[low]
