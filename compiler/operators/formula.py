"""Arithmetic on values of one dtype, for expansions that are formulas."""

from __future__ import annotations

from typing import Generic, TypeVar, cast

from ..types import DType, Expression
from .arithmetic import Abs, Add, Clip, Div, Floor, Maximum, Minimum, Mul, Remainder, Sub, as_type
from .creation import scalar
from .operator import Emit, Operator

V = TypeVar("V")


class Formula(Generic[V]):
    """Writes operators to `emit`; numbers and dimensions become constants of `dtype`."""

    def __init__(self, emit: Emit[V], dtype: DType) -> None:
        self._emit = emit
        self._dtype = dtype

    def number(self, value: V | float | Expression) -> V:
        """A number or dimension as a tensor of rank 0; values stay."""
        if isinstance(value, (int, float, Expression)):
            return scalar(self._emit, value, self._dtype)
        return value

    def _binary(self, op: Operator, a: V | float | Expression, b: V | float | Expression) -> V:
        return self._emit(op, self.number(a), self.number(b))

    def add(self, a: V | float | Expression, b: V | float | Expression) -> V:
        return self._binary(Add(), a, b)

    def sub(self, a: V | float | Expression, b: V | float | Expression) -> V:
        return self._binary(Sub(), a, b)

    def mul(self, a: V | float | Expression, b: V | float | Expression) -> V:
        return self._binary(Mul(), a, b)

    def div(self, a: V | float | Expression, b: V | float | Expression) -> V:
        return self._binary(Div(), a, b)

    def remainder(self, a: V | float | Expression, b: V | float | Expression) -> V:
        return self._binary(Remainder(), a, b)

    def between(self, x: V, low: float, high: float | Expression) -> V:
        """The value kept within bounds, of which the upper may be symbolic."""
        if isinstance(high, Expression):
            return self._binary(Minimum(), self._binary(Maximum(), x, low), high)
        return self._emit(Clip(low, high), x)

    def floor(self, x: V) -> V:
        return self._emit(Floor(), x)

    def abs(self, x: V) -> V:
        return self._emit(Abs(), x)

    def polynomial(self, x: V, coefficients: tuple[float, ...]) -> V:
        """Σ coefficient · xⁿ, from the highest power down, by Horner's rule."""
        value: V | float = coefficients[0]
        for coefficient in coefficients[1:]:
            product = self.mul(cast(V, value), x)
            value = self.add(product, coefficient) if coefficient else product
        return cast(V, value)

    def cast(self, x: V) -> V:
        """The value in this dtype."""
        return as_type(self._emit, x, self._dtype)


def cubic_weights(f: Formula[V], t: V) -> tuple[V, V, V, V]:
    """Weights of the four neighbours at -1, 0, 1, 2 of a point `t` in [0, 1) past the second.

    Cubic convolution with a = -0.75, as PyTorch has it (Keys 1981, Cubic convolution interpolation).
    """
    a = -0.75
    near = (a + 2, -(a + 3), 0.0, 1.0)
    far = (a, -5 * a, 8 * a, -4 * a)
    rest = f.sub(1, t)
    return (
        f.polynomial(f.add(t, 1), far),
        f.polynomial(t, near),
        f.polynomial(rest, near),
        f.polynomial(f.add(rest, 1), far),
    )
