"""The compile-time functions of the language.

Names shared with operators (`max`, `sum`) mean the operator as soon as an argument is a tensor or the name stands in a
chain."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

from .types import Dim, Expression, known_less


class Refused(Exception):
    """Raised by a builtin that cannot take its arguments; the message completes "`name` …"."""

    code = "builtin"


class TooLarge(Refused):
    """Raised where what a builtin would make is beyond the limits."""

    code = "budget"


def _numbers(values: tuple[Any, ...]) -> list[Any]:
    items: list[Any] = list(cast(Any, values[0])) if len(values) == 1 and isinstance(values[0], list) else list(values)
    if not items:
        raise Refused("needs at least one value")
    for item in items:
        if not isinstance(item, (int, float, Expression)):
            raise Refused("takes numbers")
    return items


def _extreme(values: tuple[Any, ...], *, largest: bool) -> Any:
    best, *rest = _numbers(values)
    for item in rest:
        if isinstance(best, Expression) or isinstance(item, Expression):
            if best == item:
                continue
            less = known_less(best, item)
            if less is None:
                raise Refused(f"cannot compare {best} and {item}, which depends on the symbols' values")
        else:
            less = best < item
        if less == largest and best != item:
            best = item
    return best


def _number(value: Any) -> float:
    if isinstance(value, (int, float)):
        return value
    raise Refused("takes a number")


def _integer(value: Any) -> int:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            raise Refused(f'cannot read "{value}" as an integer') from None
    number = _number(value)
    if not math.isfinite(number):
        raise Refused(f"cannot make {number} an integer")
    return int(number)


def _rounded(how: Callable[[float], int]) -> Callable[..., int]:
    def function(value: Any) -> int:
        number = _number(value)
        if not math.isfinite(number):
            raise Refused(f"cannot round {number}")
        return how(number)

    return function


def _math(function: Callable[[float], float]) -> Callable[..., float]:
    def wrapped(value: Any) -> float:
        try:
            return function(_number(value))
        except (ValueError, OverflowError) as error:
            raise Refused(f"is not defined at {value}: {error}") from None

    return wrapped


def _list(value: Any) -> list[Any]:
    if isinstance(value, (list, range)):
        return list(cast(Any, value))
    raise Refused("takes a list")


def _length(value: Any) -> int:
    if isinstance(value, (list, str, tuple, range)):
        return len(value)  # pyright: ignore[reportUnknownArgumentType]
    raise Refused("takes a list or a string")


def _total(value: Any) -> Any:
    return sum(_numbers((_list(value),))) if _list(value) else 0


def _prod(value: Any) -> Any:
    product: Any = 1
    for item in _numbers((_list(value),)) if _list(value) else ():
        product = product * item
        if isinstance(product, int) and product.bit_length() > 2_000:
            raise TooLarge("makes an integer of more than 2000 bits")
    return product


def _zip(*lists: Any) -> list[Any]:
    columns = [_list(v) for v in lists]
    if len({len(c) for c in columns}) > 1:
        raise Refused(f"takes lists of one length, not {', '.join(str(len(c)) for c in columns)}")
    return [list(row) for row in zip(*columns, strict=True)]


def _absolute(value: Any) -> Any:
    return abs(_number(value))


def _linspace(start: Any, stop: Any, count: Any) -> list[float]:
    """`count` evenly spaced numbers from start to stop, both included (stochastic-depth rates)."""
    n = _integer(count)
    if n > 100_000:
        raise TooLarge("makes at most 100000 numbers")
    step = (_number(stop) - _number(start)) / (n - 1) if n > 1 else 0.0
    return [_number(start) + step * i for i in range(n)]


def _round_half_even(value: Any, digits: Any = None) -> float:
    return round(_number(value), None if digits is None else _integer(digits))


def _least(*values: Any) -> Any:
    return _extreme(values, largest=False)


def _greatest(*values: Any) -> Any:
    return _extreme(values, largest=True)


def _fraction(value: Any) -> float:
    return float(_number(value))


def _enumerated(value: Any) -> list[Any]:
    return [[i, x] for i, x in enumerate(_list(value))]


def _backwards(value: Any) -> list[Any]:
    return _list(value)[::-1]


def _ascending(value: Any) -> list[Any]:
    return sorted(_number(x) for x in _list(value))


BUILTINS: dict[str, Callable[..., Any]] = {
    "min": _least,
    "max": _greatest,
    "abs": _absolute,
    "round": _round_half_even,
    "floor": _rounded(math.floor),
    "ceil": _rounded(math.ceil),
    "int": _integer,
    "float": _fraction,
    "str": str,
    "sqrt": _math(math.sqrt),
    "log": _math(math.log),
    "log2": _math(math.log2),
    "exp": _math(math.exp),
    "len": _length,
    "sum": _total,
    "prod": _prod,
    "zip": _zip,
    "enumerate": _enumerated,
    "reversed": _backwards,
    "sorted": _ascending,
    "linspace": _linspace,
}
"""Functions by name; each raises `Refused` for arguments it cannot take."""


def power(base: Any, exponent: Any, bits: int) -> Any:
    """Base ** exponent, refusing integers beyond `bits` before computing them."""
    if isinstance(base, Expression):
        if not isinstance(exponent, int) or not 0 <= exponent <= 8:
            raise Refused("raises a symbolic dimension to whole powers from 0 to 8 only")
        result: Dim = 1
        for _ in range(exponent):
            result = result * base
        return result
    if isinstance(exponent, Expression):
        raise Refused("cannot use a symbolic dimension as an exponent")
    if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
        if base not in (-1, 0, 1) and base.bit_length() * exponent > 2 * bits:
            raise TooLarge(f"makes an integer of more than {bits} bits")
        return base**exponent
    try:
        result_number = base**exponent
    except (OverflowError, ZeroDivisionError) as error:
        raise Refused(f"is not defined here: {error}") from None
    if isinstance(result_number, complex):
        raise Refused(f"of the negative number {base} is not real")
    return result_number
