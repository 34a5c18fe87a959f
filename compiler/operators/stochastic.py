"""Operators that act in training only, and the identity."""

from __future__ import annotations

from collections.abc import Sequence

from ..types import TensorType
from .attribute import Probability
from .dimension import elementwise, given, need_float
from .operator import Axes, Cost, Operator, ShapeError, Types, operands, operator, sample


class Unchanged(Operator):
    """One output of the input's type; the same dimensions on both sides."""

    __slots__ = ()
    operands = operands("x")

    def shape(self, *inputs: TensorType | None) -> Types:
        return given(inputs)

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        return elementwise(x.shape, x)

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        """None in inference, where they are removed."""
        return Cost()


class Drop(Unchanged):
    """Multiplies by random zeros and by 1 / (1 - p) in training; the identity in inference."""

    __slots__ = ()
    effect = "random"

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        need_float(self, x)
        return (x,)


@operator("dropout")
class Dropout(Drop):
    """Each element becomes 0 with probability p (Srivastava et al. 2014)."""

    p: Probability = 0.5


@operator("drop_path")
class DropPath(Drop):
    """Each example (index of axis 0) becomes 0 altogether with probability p (Huang et al. 2016)."""

    p: Probability = 0.0

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        need_float(self, x)
        if x.rank == 0:
            raise ShapeError(f"drop_path drops examples along axis 0, but {x} has none", code="rank-mismatch")
        return (x,)


@operator("stop_gradient")
class StopGradient(Unchanged):
    """The identity, through which no gradient flows back."""


@operator("identity")
class Identity(Unchanged):
    """Its input."""


sample(Dropout(0.3), "f32[2, 5]")
sample(DropPath(0.2), "f32[2, 3, 4]")
sample(StopGradient(), "f32[2, 3]")
sample(Identity(), "f32[2, 3]")
sample(Identity(), "i64[4]")
