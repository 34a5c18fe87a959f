"""Arithmetic, comparison, logic and casts, element by element.

Binary operators broadcast and promote as PyTorch does. Numbers in the text become rank-0 constants of the other
operand's dtype, so that `x * 2` keeps the dtype of x.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..types import DType, TensorType, promote
from .creation import as_dtype, scalar
from .dimension import Number, broadcast, elementwise, given
from .operator import Axes, Cost, Emit, Operator, ShapeError, Types, V, operands, operator, sample


def refuse_bool(op: Operator, *inputs: TensorType) -> None:
    """Raises `ShapeError` where all inputs are booleans, for which arithmetic means nothing."""
    if all(t.dtype is DType.BOOL for t in inputs):
        raise ShapeError(
            f"{op.name} of booleans means nothing",
            operands=range(len(inputs)),
            code="dtype-mismatch",
            fix="use logical_and, logical_or, logical_not, or cast(x, f32)",
        )


class Elementwise(Operator):
    """Inputs broadcast to the output, which is computed element by element."""

    __slots__ = ()

    def result(self, *inputs: TensorType) -> DType:
        """The output's dtype.

        Raises:
            ShapeError: where the inputs' dtypes are refused.
        """
        raise NotImplementedError

    def shape(self, *inputs: TensorType | None) -> Types:
        present = given(inputs)
        return (TensorType(self.result(*present), broadcast(self, *present)),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        present = given(inputs)
        return elementwise(broadcast(self, *present), *present)


class Unary(Elementwise):
    """One input; numbers of any kind, whose dtype stays."""

    __slots__ = ()
    operands = operands("x")

    def result(self, *inputs: TensorType) -> DType:
        refuse_bool(self, *inputs)
        return inputs[0].dtype


class FloatUnary(Elementwise):
    """One input; the result is floating-point: f32 for integers, as in PyTorch."""

    __slots__ = ()
    operands = operands("x")

    def result(self, *inputs: TensorType) -> DType:
        refuse_bool(self, *inputs)
        return inputs[0].dtype if inputs[0].dtype.is_float else DType.F32


class Binary(Elementwise):
    """Two inputs, promoted to one dtype."""

    __slots__ = ()
    operands = operands("a b")

    def result(self, *inputs: TensorType) -> DType:
        refuse_bool(self, *inputs)
        return promote(inputs[0].dtype, inputs[1].dtype)


class Comparison(Elementwise):
    """Two inputs, promoted to one dtype and compared; the result is bool."""

    __slots__ = ()
    operands = operands("a b")

    def result(self, *inputs: TensorType) -> DType:
        return DType.BOOL


class Logical(Elementwise):
    """Booleans to a boolean."""

    __slots__ = ()
    operands = operands("a b")

    def result(self, *inputs: TensorType) -> DType:
        for i, t in enumerate(inputs):
            need_bool(self, t, i)
        return DType.BOOL


def need_bool(op: Operator, x: TensorType, operand: int) -> None:
    """Raises `ShapeError` where an input is not boolean."""
    if x.dtype is not DType.BOOL:
        raise ShapeError(
            f"{op.name} needs booleans, not {x}",
            operands=(operand,),
            code="dtype-mismatch",
            fix="compare first, as in x > 0, or cast(x, bool)",
        )


@operator("add")
class Add(Binary):
    """a + b."""


@operator("sub")
class Sub(Binary):
    """a - b."""


@operator("mul")
class Mul(Binary):
    """a · b."""


@operator("div")
class Div(Binary):
    """a / b; of integers too a float, f32, as in PyTorch."""

    def result(self, *inputs: TensorType) -> DType:
        refuse_bool(self, *inputs)
        found = promote(inputs[0].dtype, inputs[1].dtype)
        return found if found.is_float else DType.F32


@operator("pow")
class Pow(Binary):
    """a to the power of b."""


@operator("maximum")
class Maximum(Binary):
    """The larger of a and b."""


@operator("minimum")
class Minimum(Binary):
    """The smaller of a and b."""


@operator("remainder")
class Remainder(Binary):
    """a - b · ⌊a / b⌋, which has the sign of b."""


@operator("floor_divide")
class FloorDivide(Binary):
    """⌊a / b⌋."""


@operator("eq")
class Eq(Comparison):
    """a = b."""


@operator("ne")
class Ne(Comparison):
    """a ≠ b."""


@operator("lt")
class Lt(Comparison):
    """a < b."""


@operator("le")
class Le(Comparison):
    """a ≤ b."""


@operator("gt")
class Gt(Comparison):
    """a > b."""


@operator("ge")
class Ge(Comparison):
    """a ≥ b."""


@operator("logical_and")
class LogicalAnd(Logical):
    """Both."""


@operator("logical_or")
class LogicalOr(Logical):
    """At least one."""


@operator("logical_not")
class LogicalNot(Logical):
    """The opposite."""

    operands = operands("x")


@operator("neg")
class Neg(Unary):
    """-x."""


@operator("abs")
class Abs(Unary):
    """|x|."""


@operator("sign")
class Sign(Unary):
    """-1, 0 or 1."""


@operator("floor")
class Floor(Unary):
    """⌊x⌋."""


@operator("ceil")
class Ceil(Unary):
    """⌈x⌉."""


@operator("round")
class Round(Unary):
    """The nearest whole number; halves go to the even one."""


@operator("square")
class Square(Unary):
    """x²."""

    derived = True

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        return emit(Mul(), inputs[0], inputs[0])


@operator("exp")
class Exp(FloatUnary):
    """eˣ."""


@operator("log")
class Log(FloatUnary):
    """The natural logarithm."""


@operator("sqrt")
class Sqrt(FloatUnary):
    """√x."""


@operator("rsqrt")
class Rsqrt(FloatUnary):
    """1 / √x."""


@operator("sin")
class Sin(FloatUnary):
    """The sine of radians."""


@operator("cos")
class Cos(FloatUnary):
    """The cosine of radians."""


@operator("erf")
class Erf(FloatUnary):
    """The Gauss error function."""


@operator("reciprocal")
class Reciprocal(FloatUnary):
    """1 / x."""

    derived = True

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        found = emit.type(x).dtype
        return emit(Div(), scalar(emit, 1, found), x)


@operator("where")
class Where(Elementwise):
    """a where the condition holds, else b; all three broadcast."""

    operands = operands("condition a b")

    def result(self, *inputs: TensorType) -> DType:
        need_bool(self, inputs[0], 0)
        return promote(inputs[1].dtype, inputs[2].dtype)


@operator("clip")
class Clip(Elementwise):
    """x kept between `min` and `max`, each optional. Integers take whole bounds."""

    operands = operands("x")
    min: Number | None = None
    max: Number | None = None

    def result(self, *inputs: TensorType) -> DType:
        refuse_bool(self, *inputs)
        return inputs[0].dtype

    def canonical(self, *inputs: TensorType | None) -> Clip:
        (x,) = given(inputs)
        if self.min is None and self.max is None:
            raise ShapeError("clip is given neither min nor max", code="missing-attribute")
        low, high = (None if v is None else as_dtype(self, v, x.dtype) for v in (self.min, self.max))
        return Clip(low, high)


@operator("cast")
class Cast(Elementwise):
    """The same numbers in another dtype; floats are truncated to integers, and anything but 0 is true."""

    operands = operands("x")
    dtype: DType

    def result(self, *inputs: TensorType) -> DType:
        return self.dtype

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        return Cost()


def as_type(emit: Emit[V], x: V, dtype: DType) -> V:
    """The value in a dtype, for expansions; no node where it has it."""
    return x if emit.type(x).dtype is dtype else emit(Cast(dtype), x)


for _op in (Add(), Sub(), Mul(), Maximum(), Minimum(), Eq(), Ne(), Lt(), Le(), Gt(), Ge()):
    sample(_op, "f32[2, 3, 4]", "f32[3, 1]")
    sample(_op, "i64[2, 3]", "i64[3]", high={0: 4, 1: 4})
sample(Add(), "f32[2, 3]", "f32[]")
sample(Add(), "f32[2, 3]", "i64[3]", high={1: 4})
sample(Div(), "f32[2, 3]", "f32[2, 1]", positive=[1])
sample(Div(), "i64[2, 3]", "f32[3]", high={0: 9}, positive=[1])
sample(Pow(), "f32[2, 3]", "f32[3]", positive=[0])
sample(Remainder(), "f32[2, 3]", "f32[3]", positive=[1])
sample(FloorDivide(), "f32[2, 3]", "f32[3]", positive=[1])
for _op in (LogicalAnd(), LogicalOr()):
    sample(_op, "bool[2, 3]", "bool[3]")
sample(LogicalNot(), "bool[2, 3]")
for _op in (Neg(), Abs(), Sign(), Floor(), Ceil(), Round(), Square(), Exp(), Sin(), Cos(), Erf()):
    sample(_op, "f32[2, 3]")
for _op in (Neg(), Abs(), Sign(), Square(), Exp()):
    sample(_op, "i64[2, 3]", high={0: 5})
for _op in (Log(), Sqrt(), Rsqrt(), Reciprocal()):
    sample(_op, "f32[2, 3]", positive=[0])
sample(Where(), "bool[2, 1]", "f32[2, 3]", "f32[]")
sample(Clip(-0.5, 0.5), "f32[2, 3]")
sample(Clip(min=0), "f32[2, 3]")
sample(Clip(max=2), "i64[2, 3]", high={0: 5})
sample(Cast(DType.I64), "f32[2, 3]")
sample(Cast(DType.F32), "i64[2, 3]", high={0: 9})
sample(Cast(DType.BOOL), "f32[2, 3]")
sample(Cast(DType.F32), "bool[2, 3]")
