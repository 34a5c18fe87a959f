"""A candidate against the analytic default, in turns: what slows the machine down for a while slows down both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles

TURNS = 9
"""Of a first measurement."""
HOPELESS = 1.5
TRIED = 4
"""A candidate that takes `HOPELESS` times the default's time in all of its first `TRIED` turns is not run further."""
FINAL = 15
"""Turns of a final."""
MARGIN = 0.02
"""How much faster than the default an answer must be in a final to take its place, as a part of its time: less is
noise, and the default of a neighbouring shape is the surer answer."""
SURE = 0.75
"""In which part of the turns it must be faster."""


@dataclass(frozen=True)
class Race:
    """Seconds of one run, turn by turn."""

    candidate: tuple[float, ...]
    default: tuple[float, ...]

    @property
    def spread(self) -> float:
        """The distance of the quartiles of the candidate's times, as a part of the least."""
        first, _, third = quantiles(self.candidate, n=4)
        return (third - first) / min(self.candidate)

    @property
    def won(self) -> bool:
        """Whether the candidate is faster, and not by chance."""
        pairs = list(zip(self.candidate, self.default, strict=True))
        faster = sum(a < b for a, b in pairs) / len(pairs)
        typical = median(a / b for a, b in pairs)
        return typical < 1 - MARGIN and faster >= SURE and min(self.candidate) < min(self.default)


def race(candidate: Callable[[], float], default: Callable[[], float], turns: int = TURNS) -> Race:
    """Run both in turns: A B A B; each call gives the seconds of one run."""
    found: list[tuple[float, float]] = []
    for turn in range(turns):
        found.append((candidate(), default()))
        if turn + 1 == TRIED and min(a for a, _ in found) > HOPELESS * min(b for _, b in found):
            break
    return Race(tuple(a for a, _ in found), tuple(b for _, b in found))
