"""Numbers as integers on an even scale, and back.

A real number r is kept as the integer q = round(r / scale) + zero_point and read as (q - zero_point) · scale. Both are
ordinary operators, so that what integers lose is in the graph for everyone to see (ONNX's QuantizeLinear and
DequantizeLinear; Jacob et al. 2018, Quantization and training of neural networks for efficient integer-arithmetic-only
inference).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..types import DType, TensorType
from .arithmetic import Add, Cast, Clip, Div, Elementwise, Mul, Round, Sub, as_type
from .dimension import Integer, dim_of, given, labels, need_float, pattern
from .layout import Reshape
from .operator import Axes, Cost, Emit, Operator, ShapeError, Types, V, operands, operator, sample

LIMITS = {
    DType.U8: (0, 255),
    DType.I8: (-128, 127),
    DType.I16: (-(2**15), 2**15 - 1),
    DType.I32: (-(2**31), 2**31 - 1),
}
"""The least and the largest number of the integer types that stand for fractions."""


class Scaling(Elementwise):
    """Numbers along an even scale: one scale for all of them, or with `axis` one for each index of that axis."""

    __slots__ = ()
    operands = operands("x scale zero_point?=0")
    axis: Integer | None
    flops: ClassVar[int] = 2

    def integers(self, x: TensorType) -> DType:
        """The type of the integers, which is also that of the zero point.

        Raises:
            ShapeError: where it is none that stands for fractions.
        """
        raise NotImplementedError

    def result(self, *inputs: TensorType) -> DType:
        raise NotImplementedError

    def shape(self, *inputs: TensorType | None) -> Types:
        x, scale, *_ = inputs
        assert x is not None
        assert scale is not None
        zero = inputs[2] if len(inputs) > 2 else None
        if not scale.dtype.is_float:
            raise ShapeError(f"a scale is a fraction, not {scale}", operands=(1,), code="dtype-mismatch")
        wanted = () if self.axis is None else (x.shape[dim_of(self, self.axis, x.rank)],)
        for i, t in ((1, scale), (2, zero)):
            if t is not None and t.shape != wanted:
                raise self._misfit(i, t, x, wanted)
        integers = self.integers(x)
        if zero is not None and zero.dtype is not integers:
            message = f"{self.name} has a zero point of {zero.dtype.value}, and integers of {integers.value}"
            raise ShapeError(message, operands=(2,), code="dtype-mismatch", fix=f"cast(zero_point, {integers.value})")
        return (TensorType(self.result(x, scale), x.shape),)

    def _misfit(self, operand: int, found: TensorType, x: TensorType, wanted: Sequence[object]) -> ShapeError:
        what = ("scale", "zero point")[operand - 1]
        whole = "one number" if not wanted else f"{wanted[0]} numbers, one for each index of axis {self.axis} of {x}"
        fix = f"axis = {x.shape.index(found.shape[0])}" if found.rank == 1 and found.shape[0] in x.shape else None
        return ShapeError(f"the {what} of {self.name} is {whole}, not {found}", operands=(operand,), fix=fix)

    def axes(self, *inputs: TensorType | None) -> Axes:
        x, *others = given(inputs)
        names = labels(x.rank)
        own = [] if self.axis is None else [names[self.axis]]
        return Axes(pattern([names, *(own for _ in others)], names))

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        return Cost(flops=outputs[0].elements * self.flops)

    def beside(self, emit: Emit[V], x: V, number: V) -> V:
        """A scale or zero point in a shape that broadcasts to x."""
        behind = 0 if self.axis is None else emit.type(x).rank - 1 - self.axis
        return emit(Reshape((*emit.type(number).shape, *(1,) * behind)), number) if behind else number


@operator("quantize")
class Quantize(Scaling):
    """round(x / scale) + zero_point as integers of `dtype` (u8, i8 or i16); what lies beyond them becomes the nearest.

    Halves are rounded to the even number. `axis`: the one that scale and zero point have a number for each index of.
    """

    derived = True
    axis: Integer | None = None
    dtype: DType = DType.U8
    flops = 4

    def integers(self, x: TensorType) -> DType:
        need_float(self, x)
        if self.dtype not in (DType.U8, DType.I8, DType.I16):
            message = f"quantize gives u8, i8 or i16, not {self.dtype.value}"
            raise ShapeError(message, operands=(0,), code="dtype-mismatch", fix="dtype = u8")
        return self.dtype

    def result(self, *inputs: TensorType) -> DType:
        x, scale = inputs
        if x.dtype is not scale.dtype:
            message = f"quantize divides {x} by a scale of {scale.dtype.value}"
            raise ShapeError(message, operands=(0, 1), code="dtype-mismatch", fix=f"cast(scale, {x.dtype.value})")
        return self.dtype

    def canonical(self, *inputs: TensorType | None) -> Operator:
        axis = None if self.axis is None else dim_of(self, self.axis, given(inputs)[0].rank)
        return Quantize(axis, self.dtype)

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        x, scale, *zero = inputs
        assert x is not None
        assert scale is not None
        whole = emit(Round(), emit(Div(), x, self.beside(emit, x, scale)))
        if zero and zero[0] is not None:
            whole = emit(Add(), whole, self.beside(emit, x, as_type(emit, zero[0], emit.type(x).dtype)))
        low, high = LIMITS[self.dtype]
        return emit(Cast(self.dtype), emit(Clip(float(low), float(high)), whole))


@operator("dequantize")
class Dequantize(Scaling):
    """(x - zero_point) · scale: the numbers that integers (u8, i8, i16 or i32) stand for, in the scale's dtype.

    `axis`: the one that scale and zero point have a number for each index of.
    """

    derived = True
    axis: Integer | None = None

    def integers(self, x: TensorType) -> DType:
        if x.dtype not in LIMITS:
            message = f"dequantize takes u8, i8, i16 or i32, not {x}"
            raise ShapeError(message, operands=(0,), code="dtype-mismatch")
        return x.dtype

    def result(self, *inputs: TensorType) -> DType:
        return inputs[1].dtype

    def canonical(self, *inputs: TensorType | None) -> Operator:
        return Dequantize(None if self.axis is None else dim_of(self, self.axis, given(inputs)[0].rank))

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        x, scale, *zero = inputs
        assert x is not None
        assert scale is not None
        dtype = emit.type(scale).dtype
        number = as_type(emit, x, dtype)
        if zero and zero[0] is not None:
            number = emit(Sub(), number, self.beside(emit, x, as_type(emit, zero[0], dtype)))
        return emit(Mul(), number, self.beside(emit, x, scale))


sample(Quantize(), "f32[2, 3, 4]", "f32[]", "u8[]", high={2: 9}, positive=[1])
sample(Quantize(dtype=DType.I8), "f32[2, 3]", "f32[]", None, positive=[1])
sample(Quantize(1, DType.I8), "f32[2, 3, 4]", "f32[3]", "i8[3]", high={2: 9}, positive=[1])
sample(Quantize(-1, DType.I16), "f32[2, 3]", "f32[3]", None, positive=[1])
sample(Dequantize(), "u8[2, 3, 4]", "f32[]", "u8[]", high={0: 255, 2: 200}, positive=[1])
sample(Dequantize(), "i8[2, 3]", "f32[]", None, high={0: 127}, positive=[1])
sample(Dequantize(0), "i8[4, 3, 2, 2]", "f32[4]", "i8[4]", high={0: 127, 2: 9}, positive=[1])
sample(Dequantize(-1), "i32[2, 3]", "f32[3]", None, high={0: 999}, positive=[1])
