"""Arithmetic in kernels: casts, and vectorisable float32 forms of transcendental functions.

LLVM turns `exp`, `tanh` and `erf` of a vector into one library call a lane. The polynomials here stay in vector
registers. Largest relative errors against float64, measured over their whole range (tests/test_relax.py): exp 2e-7,
sigmoid 3e-7, tanh 4e-7, erf 8e-7, log 2e-7. float64 takes the library's functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..untyped import tirx


def const(value: float | int | bool, dtype: str) -> Any:
    return tirx.const(value, dtype)


def zero(dtype: str) -> Any:
    return tirx.const(0, dtype)


def dtype_of(expression: Any) -> str:
    return str(expression.ty.dtype)


def is_float(expression: Any) -> bool:
    return "float" in dtype_of(expression)


def cast(value: Any, dtype: str) -> Any:
    """Conversion as PyTorch does it: to bool by comparison with zero, to integers towards zero."""
    given = dtype_of(value)
    if given == dtype:
        return value
    if dtype == "bool":
        return different(value, zero(given))
    return tirx.Cast(dtype, value)


def let(value: Any, body: Callable[[Any], Any]) -> Any:
    """`body` of a value that it reads several times, computed once."""
    if isinstance(value, tirx.Var):
        return body(value)
    variable = tirx.Var("t", dtype_of(value))
    return tirx.Let(variable, value, body(variable))


def is_nan(x: Any) -> Any:
    """Whether a number of a floating type is none. (`x != x` is simplified to false.)"""
    return tirx.isnan(x)


def equal(a: Any, b: Any) -> Any:
    return ordered(tirx.EQ, a, b)


def different(a: Any, b: Any) -> Any:
    """Whether two numbers differ, as a NaN does from everything (`tirx.NE` says it is not)."""
    if not is_float(a):
        return tirx.NE(a, b)
    return let(a, lambda a: let(b, lambda b: tirx.Or(tirx.NE(a, b), tirx.Or(is_nan(a), is_nan(b)))))


def ordered(compare: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    """A comparison that is false of NaNs, also where both sides are the same expression, which TVM takes for equal."""
    if not is_float(a):
        return compare(a, b)
    return let(
        a, lambda a: let(b, lambda b: tirx.And(compare(a, b), tirx.And(tirx.Not(is_nan(a)), tirx.Not(is_nan(b)))))
    )


def maximum(a: Any, b: Any) -> Any:
    """The larger one; NaN where there is one (`tirx.max` gives the second)."""
    return _extreme(tirx.max, tirx.GT, a, b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller one; NaN where there is one."""
    return _extreme(tirx.min, tirx.LT, a, b)


def _extreme(whole: Callable[..., Any], better: Callable[..., Any], a: Any, b: Any) -> Any:
    if not is_float(a):
        return whole(a, b)
    return let(a, lambda a: let(b, lambda b: tirx.Select(tirx.Or(better(b, a), is_nan(b)), b, a)))


def at_least(x: Any, low: float) -> Any:
    """max(x, low), where a NaN stays one (`tirx.max` would give the bound)."""
    bound = const(low, dtype_of(x))
    return let(x, lambda x: tirx.Select(x < bound, bound, x))


def at_most(x: Any, high: float) -> Any:
    """min(x, high), where a NaN stays one."""
    bound = const(high, dtype_of(x))
    return let(x, lambda x: tirx.Select(x > bound, bound, x))


def _polynomial(x: Any, coefficients: Sequence[float]) -> Any:
    """Horner's scheme, highest power first."""
    total = const(coefficients[0], "float32")
    for c in coefficients[1:]:
        total = total * x + const(c, "float32")
    return total


def _power_of_two(n: Any) -> Any:
    return tirx.reinterpret("float32", (n + const(127, "int32")) << const(23, "int32"))


def _exp_polynomial(r: Any) -> Any:
    """Cephes' e^r for r in ±ln 2 / 2."""
    p = _polynomial(
        r, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
    )
    return p * r * r + r + const(1, "float32")


def exp(x: Any) -> Any:
    """e^x: 2^n · e^r with r in ±ln 2 / 2 by Cephes' polynomial; overflows to infinity and underflows gradually."""
    if dtype_of(x) != "float32":
        return tirx.exp(x)
    f = lambda value: const(value, "float32")  # noqa: E731

    def reduced(x: Any) -> Any:
        return let(tirx.floor(x * f(1.44269504088896341) + f(0.5)), lambda n: scaled(x, n))

    def scaled(x: Any, n: Any) -> Any:
        rest = x - n * f(0.693359375) - n * f(-2.12194440e-4)
        return let(rest, lambda r: let(cast(n, "int32"), lambda k: result(r, k)))

    def result(r: Any, k: Any) -> Any:
        half = k >> const(1, "int32")
        return _exp_polynomial(r) * _power_of_two(half) * _power_of_two(k - half)

    return let(at_least(at_most(x, 89.0), -104.0), reduced)


def decay(x: Any) -> Any:
    """e^x of what is not above 0, for weights that are added to a 1: it is 0 where `exp` has no normal number."""
    if dtype_of(x) != "float32":
        return tirx.exp(x)

    def scaled(x: Any, n: Any) -> Any:
        rest = x - n * const(0.693359375, "float32") - n * const(-2.12194440e-4, "float32")
        return let(rest, lambda r: _exp_polynomial(r) * _power_of_two(cast(n, "int32")))

    def reduced(x: Any) -> Any:
        n = tirx.floor(x * const(1.44269504088896341, "float32") + const(0.5, "float32"))
        return let(n, lambda n: scaled(x, n))

    least = const(-87.0, "float32")
    return let(x, lambda x: tirx.Select(x < least, zero("float32"), let(at_least(x, -87.0), reduced)))


def sigmoid(x: Any) -> Any:
    one = const(1, dtype_of(x))
    return one / (one + exp(zero(dtype_of(x)) - x))


def tanh(x: Any) -> Any:
    """Eigen's rational approximation, exact to rounding beyond ±9."""
    if dtype_of(x) != "float32":
        return tirx.tanh(x)

    def result(x: Any) -> Any:
        return let(x * x, lambda s: x * _numerator(s) / _denominator(s))

    def _numerator(s: Any) -> Any:
        return _polynomial(
            s,
            (
                -2.76076847742355e-16,
                2.00018790482477e-13,
                -8.60467152213735e-11,
                5.12229709037114e-08,
                1.48572235717979e-05,
                6.37261928875436e-04,
                4.89352455891786e-03,
            ),
        )

    def _denominator(s: Any) -> Any:
        return _polynomial(s, (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03))

    limit = 7.90531110763549805
    return let(at_least(at_most(x, limit), -limit), result)


def erf(x: Any) -> Any:
    """Eigen's rational approximation on ±4."""
    if dtype_of(x) != "float32":
        return tirx.erf(x)

    def result(x: Any) -> Any:
        return let(x * x, lambda s: x * _numerator(s) / _denominator(s))

    def _numerator(s: Any) -> Any:
        return _polynomial(
            s,
            (
                -2.72614225801306e-10,
                2.77068142495902e-08,
                -2.10102402082508e-06,
                -5.69250639462346e-05,
                -7.34990630326855e-04,
                -2.95459980854025e-03,
                -1.60960333262415e-02,
            ),
        )

    def _denominator(s: Any) -> Any:
        return _polynomial(
            s,
            (
                -1.45660718464996e-05,
                -2.13374055278905e-04,
                -1.68282697438203e-03,
                -7.37332916720468e-03,
                -1.42647390514189e-02,
            ),
        )

    return let(at_least(at_most(x, 4), -4), result)


def log(x: Any) -> Any:
    return tirx.log(x)
