"""Types of attributes: what text may give, and the one form operators hold it in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, PlainValidator

from .dimension import Integer

Pairs = tuple[tuple[int, int], ...]
"""Padding (before, after) of each spatial axis."""

Same = Literal["same", "same_lower"]
"""Padding that makes an output axis ⌈input / stride⌉ long; the odd one goes after, or before for `same_lower`."""


def _at_least(low: int) -> Callable[[int], int]:
    def check(value: int) -> int:
        if value < low:
            raise ValueError(f"should be at least {low}")
        return value

    return check


def _at_most(high: int) -> Callable[[int], int]:
    def check(value: int) -> int:
        if value > high:
            raise ValueError(f"should be at most {high}")
        return value

    return check


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("should be true or false")
    return value


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("should be a number")
    return float(value)


def _above_zero(value: float) -> float:
    if value <= 0:
        raise ValueError("should be above 0")
    return value


def _probability(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError("should be between 0 and 1")
    return value


Positive = Annotated[Integer, AfterValidator(_at_least(1))]
"""An integer of at least 1."""

Count = Annotated[Positive, AfterValidator(_at_most(1000))]
"""A number of parts that each have parameters of their own, such as layers."""

Natural = Annotated[Integer, AfterValidator(_at_least(0))]
"""An integer of at least 0."""

Flag = Annotated[bool, PlainValidator(_flag)]
"""`true` or `false`, and nothing that could be read as either."""

Real = Annotated[float, PlainValidator(_real)]
"""A finite number, as a float."""

PositiveReal = Annotated[Real, AfterValidator(_above_zero)]
"""A number above 0, such as the ε of a normalisation."""

Probability = Annotated[Real, AfterValidator(_probability)]
"""A number from 0 to 1."""


def _items(axes: int, value: Any, wanted: str) -> list[Any]:
    """One item an axis; a single integer stands for all."""
    if not isinstance(value, (list, tuple)):
        return [value] * axes
    items: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]
    if len(items) != axes:
        raise ValueError(f"should be {wanted}, not {len(items)} of them")
    return items


def _integer_from(low: int, value: Any, wanted: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"should be {wanted}")
    return _at_least(low)(value)


def _each(axes: int) -> str:
    return "one integer" if axes == 1 else f"one integer, or {axes}, one for each axis"


def _per_axis(axes: int, low: int) -> PlainValidator:
    def check(value: Any) -> tuple[int, ...]:
        return tuple(_integer_from(low, v, _each(axes)) for v in _items(axes, value, _each(axes)))

    return PlainValidator(check)


def _pairs(axes: int, value: Any) -> Pairs:
    wanted = f"{_each(axes)}, or {axes} lists [before, after]"
    pairs: list[tuple[int, int]] = []
    for item in _items(axes, value, wanted):
        before, after = _items(2, item, wanted)
        pairs.append((_integer_from(0, before, wanted), _integer_from(0, after, wanted)))
    return tuple(pairs)


def _padding(axes: int) -> PlainValidator:
    return PlainValidator(lambda value: _pairs(axes, value))


def _same_padding(axes: int) -> PlainValidator:
    def check(value: Any) -> Pairs | Same:
        if value == "same" or value == "same_lower":
            return value
        if isinstance(value, str):
            raise ValueError('should be "same", "same_lower" or numbers')
        return _pairs(axes, value)

    return PlainValidator(check)


# One integer of at least 1 (0) for each of 1, 2, 3 spatial axes; text may give one for all.
Positive1 = Annotated[tuple[int, ...], _per_axis(1, 1)]
Positive2 = Annotated[tuple[int, ...], _per_axis(2, 1)]
Positive3 = Annotated[tuple[int, ...], _per_axis(3, 1)]
Natural1 = Annotated[tuple[int, ...], _per_axis(1, 0)]
Natural2 = Annotated[tuple[int, ...], _per_axis(2, 0)]
Natural3 = Annotated[tuple[int, ...], _per_axis(3, 0)]

# Padding of 1, 2, 3 spatial axes, held as pairs; text may give an integer, one an axis, or pairs.
Padding1 = Annotated[Pairs, _padding(1)]
Padding2 = Annotated[Pairs, _padding(2)]
Padding3 = Annotated[Pairs, _padding(3)]

# The same for constructors, which know the input's size and so can resolve "same".
SamePadding1 = Annotated[Pairs | Same, _same_padding(1)]
SamePadding2 = Annotated[Pairs | Same, _same_padding(2)]
SamePadding3 = Annotated[Pairs | Same, _same_padding(3)]
