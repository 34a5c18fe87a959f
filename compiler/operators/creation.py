"""Tensors from nothing: constants, ranges, filled tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import PlainValidator

from ..types import Dim, DType, Expression, TensorType, floor_divide, known_less
from .dimension import Integer, Movement, Size, Sizes, labels, pattern
from .layout import Expand, Reshape
from .operator import Axes, Emit, Operator, ShapeError, Types, V, operator, sample


def _nested(value: Any) -> Any:
    """Numbers in equally long lists, as tuples."""
    if isinstance(value, (bool, int, float)):
        return value
    if not isinstance(value, (list, tuple)):
        raise ValueError("should be a number or nested lists of numbers")
    items: list[Any] = [_nested(v) for v in value]  # pyright: ignore[reportUnknownVariableType]
    if not items:
        raise ValueError("should hold at least one number")
    if len({_shape(v) for v in items}) > 1:
        raise ValueError("should be rectangular: its lists differ in length or depth")
    return tuple(items)


def _shape(value: Any) -> tuple[int, ...]:
    return (len(value), *_shape(value[0])) if isinstance(value, tuple) else ()  # pyright: ignore[reportUnknownArgumentType]


def _kinds(value: Any) -> set[type]:
    return set[type]().union(*map(_kinds, value)) if isinstance(value, tuple) else {type(value)}  # pyright: ignore[reportUnknownArgumentType]


def _natural(value: Any) -> DType:
    kinds = _kinds(value)
    return DType.F32 if float in kinds else DType.I64 if int in kinds else DType.BOOL


def _fill(value: Any) -> float | Expression:
    if not isinstance(value, (bool, int, float, Expression)):
        raise ValueError("should be a number or a dimension")
    return value


_BITS = {DType.I64: 64, DType.I32: 32, DType.I16: 16, DType.I8: 8}


def as_dtype(op: Operator, value: Any, dtype: DType) -> Any:
    """A number, or nested tuples of them, as Python values of the kind of `dtype`.

    Raises:
        ShapeError: where a number is not whole or out of range for it.
    """
    if isinstance(value, tuple):
        return tuple([as_dtype(op, v, dtype) for v in value])  # pyright: ignore[reportUnknownVariableType]
    if dtype.is_float:
        return float(value)
    low, high = (0, 1) if dtype is DType.BOOL else (0, 255)
    if dtype in _BITS:
        low, high = -(1 << (_BITS[dtype] - 1)), (1 << (_BITS[dtype] - 1)) - 1
    if not low <= value <= high or value != int(value):
        raise ShapeError(f"{op.name} holds {value}, which is no {dtype.value}", code="number-out-of-range")
    return bool(value) if dtype is DType.BOOL else int(value)


@operator("constant")
class Constant(Movement):
    """Numbers written in the specification: one of rank 0, or nested lists."""

    value: Annotated[Any, PlainValidator(_nested)]
    dtype: DType | None = None

    def canonical(self, *inputs: TensorType | None) -> Constant:
        dtype = self.dtype or _natural(self.value)
        return Constant(as_dtype(self, self.value, dtype), dtype)

    def shape(self, *inputs: TensorType | None) -> Types:
        return (TensorType(self.dtype or _natural(self.value), _shape(self.value)),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        names = labels(len(_shape(self.value)))
        return Axes(pattern([], names), dict.fromkeys(names, "its numbers are written out in the constant"))


@operator("full")
class Full(Movement):
    """A tensor of `size` filled with one number, or with a dimension that is known only when the model runs."""

    derived = True
    size: Sizes
    value: Annotated[float | Expression, PlainValidator(_fill)]
    dtype: DType = DType.F32

    def canonical(self, *inputs: TensorType | None) -> Full:
        value = self.value if isinstance(self.value, Expression) else as_dtype(self, self.value, self.dtype)
        return Full(self.size, value, self.dtype)

    def shape(self, *inputs: TensorType | None) -> Types:
        for size in self.size:
            need_positive(self, size)
        return (TensorType(self.dtype, self.size),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        return Axes(pattern([], labels(len(self.size))))

    def resized(self, sizes: Mapping[str, Dim], outputs: Types) -> Full:
        return replace(self, size=outputs[0].shape)

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        return emit(Expand(self.size), scalar(emit, self.value, self.dtype))


def need_positive(op: Operator, size: Dim, code: str = "empty-tensor") -> None:
    """Raises `ShapeError` where a size is certainly below 1."""
    if known_less(size, 1):
        raise ShapeError(f"{op.name} would make an axis of size {size}", code=code)


@operator("arange")
class Arange(Movement):
    """`start`, `start + step`, … below `stop` (above, for negative steps); `arange(n)` counts from 0 to n - 1."""

    start: Size
    stop: Size | None = None
    step: Integer = 1
    dtype: DType = DType.I64

    def canonical(self, *inputs: TensorType | None) -> Arange:
        if self.step == 0:
            raise ShapeError("arange has step 0", code="bad-step")
        if self.stop is None:
            return Arange(0, self.start, self.step, self.dtype)
        return self

    def shape(self, *inputs: TensorType | None) -> Types:
        op = self.canonical()
        assert op.stop is not None
        size = steps(op.start, op.stop, op.step)
        need_positive(op, size)
        return (TensorType(op.dtype, (size,)),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        return Axes("-> d0", {"d0": "its values count positions"})


def steps(start: Dim, stop: Dim, step: int) -> Dim:
    """How many numbers `start, start + step, …` lie before `stop`."""
    span = stop - start if step > 0 else start - stop
    return floor_divide(span + (abs(step) - 1), abs(step))


def scalar(emit: Emit[V], value: float | Expression, dtype: DType) -> V:
    """A number as a tensor of rank 0, for expansions. A symbolic one is the only element of an `arange`."""
    if isinstance(value, Expression):
        return emit(Reshape(()), emit(Arange(value, value + 1, 1, dtype)))
    return emit(Constant(value, dtype))


sample(Constant(2.5, DType.F32))
sample(Constant(((1, 2, 3), (4, 5, 6))))
sample(Constant((0.5, -1), DType.F64))
sample(Constant((True, False)))
sample(Full((2, 3), -1.5))
sample(Full((4,), 7, DType.I64))
sample(Arange(5))
sample(Arange(2, 11, 3))
sample(Arange(9, 0, -2, DType.F32))
