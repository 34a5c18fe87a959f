"""Axes of drawings: from numbers to places, with round numbers along them."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10


@dataclass(frozen=True, slots=True)
class Scale:
    """From numbers to places between `start` and `end`; where `log`, equal ratios are equal distances."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, number: float) -> float:
        low, high, at = (log10(n) if self.log else n for n in (self.low, self.high, number))
        return round(self.start + (at - low) / (high - low) * (self.end - self.start), 1)


def ticks(numbers: Sequence[float], about: int) -> list[float]:
    """Round numbers, from the last below all to the first above."""
    low, high = min(numbers), max(numbers)
    if low == high:
        low, high = 0.9 * low, 1.1 * high or 0.1
    rough = (high - low) / about
    power = 10.0 ** floor(log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.999)
    first = floor(low / step + 1e-9)
    found = [first * step]
    while found[-1] < high - step * 1e-9:
        found.append((first + len(found)) * step)
    return [round(t, 12) for t in found]


def powers(numbers: Sequence[float]) -> list[float]:
    """Round numbers of a logarithmic axis, from the last below all to the first above: 1, 2, 5, 10, …, or powers of
    ten where there are many."""
    low, high = min(numbers), max(numbers)
    steps = (1, 10) if high / low > 1e3 else (1, 2, 5, 10)
    span = range(floor(log10(low)), ceil(log10(high)) + 1)
    found = sorted({float(f"{s}e{p}") for p in span for s in steps})
    below = [t for t in found if t <= low * (1 + 1e-9)]
    above = [t for t in found if t >= high * (1 - 1e-9) and t > below[-1]]
    return [t for t in found if below[-1] <= t <= above[0]]


@dataclass(frozen=True, slots=True)
class Frame:
    """A drawing's size and the room that it leaves around what is drawn."""

    width: float
    height: float
    left: float = 66
    right: float = 24
    top: float = 18
    bottom: float = 52

    def across(self, ticks: Sequence[float], *, log: bool = False) -> Scale:
        return Scale(ticks[0], ticks[-1], self.left, self.width - self.right, log)

    def up(self, ticks: Sequence[float], *, log: bool = False) -> Scale:
        return Scale(ticks[0], ticks[-1], self.height - self.bottom, self.top, log)

    def grid_across(self, x: Scale, ticks: Sequence[float], unit: str, text: Callable[[float], str]) -> Iterator[str]:
        """Lines upwards at each tick, the ticks' numbers, and what they count."""
        for tick in ticks:
            yield f'<path class="grid" d="M{x(tick)} {self.top}V{self.height - self.bottom}"/>'
            yield words("tick", x(tick), self.height - self.bottom + 18, text(tick), "middle")
        yield words("axis", (self.left + self.width - self.right) / 2, self.height - 8, unit, "middle")

    def grid_up(self, y: Scale, ticks: Sequence[float], unit: str, text: Callable[[float], str]) -> Iterator[str]:
        """Lines across at each tick, the ticks' numbers, and what they count."""
        for tick in ticks:
            yield f'<path class="grid" d="M{self.left} {y(tick)}H{self.width - self.right}"/>'
            yield words("tick", self.left - 8, y(tick) + 4, text(tick), "end")
        middle = (self.top + self.height - self.bottom) / 2
        yield words("axis", 14, middle, unit, "middle", f' transform="rotate(-90 14 {middle:g})"')


def words(kind: str, x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    """Text at a place."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}"{more}>{html.escape(text)}</text>'


def si(number: float, unit: str = "") -> str:
    """`2e9` → `2 G`, with the unit after it."""
    for power, name in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {name}{unit}"
    return f"{number:.3g} {unit}".rstrip()
