"""Round what is scaled: channels to multiples, repeats of blocks, and factors to short decimals."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import ceil, floor, gcd, lcm
from typing import Literal

DepthRounding = Literal["ceil", "round", "floor"]


def round_units(value: Fraction, divisor: int) -> int:
    """The nearest multiple of `divisor`, at least one, but not less than nine tenths of the value.

    Source: `make_divisible` of Sandler et al., "MobileNetV2" (CVPR 2018), as TensorFlow's models have it.
    """
    near = max(divisor, floor(value / divisor + Fraction(1, 2)) * divisor)
    return near + divisor if near * 10 < 9 * value else near


def unit_divisor(units: int, step: int, divisor: int) -> int:
    """Of how many units a class must keep a multiple, where a unit takes `step` elements, so that its elements are a
    multiple of `divisor`, or of as large a part of that as they are now."""
    elements = units * step
    return lcm(gcd(divisor, elements), step) // step


def unit_steps(units: int, divisor: int, low: Fraction, high: Fraction) -> Iterator[Fraction]:
    """The factors between two at which `round_units(factor · units)` becomes another: the first that gives it."""
    count = max(1, round_units(low * units, divisor) // divisor)
    while True:
        half = Fraction(divisor, units) * (count + Fraction(1, 2))
        tenth = Fraction(divisor * count * 10, 9 * units)
        at = half if half <= tenth else tenth + Fraction(1, 10**9)
        if at > high:
            return
        if at > low:
            yield at
        count += 1


def round_repeats(value: Fraction, how: DepthRounding) -> int:
    """How many blocks a stage gets, at least one. `round` takes a half to the even number, as Python does."""
    whole: int = ceil(value) if how == "ceil" else floor(value) if how == "floor" else round(value)
    return max(1, whole)


def repeat_steps(count: int, how: DepthRounding, low: Fraction, high: Fraction) -> Iterator[Fraction]:
    """Factors between two, one at least for each number of blocks that a stage of `count` can get there."""
    most: int = ceil(high * count)
    for wanted in range(1, most + 1):
        at = Fraction(wanted, count)
        if how == "round":
            at = Fraction(2 * wanted - 1, 2 * count) + Fraction(wanted % 2, 10**9)
        if low <= at <= high:
            yield at


def shortest(low: Fraction, high: Fraction) -> Fraction:
    """The number from `low` to below `high` of the fewest decimals, and of those the least."""
    for digits in range(12):
        scale = 10**digits
        above: int = ceil(low * scale)
        found = Fraction(above, scale)
        if found < high or found == low:
            return found
    return low
