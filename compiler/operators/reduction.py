"""Reductions, cumulative sums, and the largest elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from ..types import Dim, DType, Shape, TensorType, known_less, volume
from .arithmetic import Abs, Cast, Div, Ne, Pow, Sqrt, Square, Sub, refuse_bool
from .attribute import Flag, Natural, Positive
from .creation import scalar
from .dimension import Integer, Integers, Number, along, dim_of, dims_of, given, labels, need_float, pattern, replaced
from .operator import Axes, Cost, Emit, Operator, ShapeError, Types, V, operands, operator, sample


def _reduced(shape: Shape, dims: Sequence[int], keepdim: bool) -> Shape:
    return tuple(1 if i in dims else d for i, d in enumerate(shape) if keepdim or i not in dims)


def _reduced_axes(rank: int, dims: Sequence[int], keepdim: bool) -> tuple[str, list[str]]:
    names = labels(rank)
    out = ["1" if i in dims else n for i, n in enumerate(names) if keepdim or i not in dims]
    return pattern([names], out), [names[d] for d in dims]


@dataclass(frozen=True, slots=True)
class Reduction(Operator):
    """Over the axes `dim`, all where none are given; with `keepdim` they stay with size 1."""

    operands = operands("x")
    takes: ClassVar[Literal["floats", "numbers", "all"]] = "floats"
    statistic: ClassVar[bool] = True
    """Whether replicating the elements leaves the result as it is."""

    dim: Integers | None = None
    keepdim: Flag = False

    def result(self, x: TensorType) -> DType:
        """The output's dtype."""
        return x.dtype

    def canonical(self, *inputs: TensorType | None) -> Operator:
        (x,) = given(inputs)
        return replace(self, dim=dims_of(self, self.dim, x.rank))

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        if self.takes == "floats":
            need_float(self, x)
        elif self.takes == "numbers":
            refuse_bool(self, x)
        return (TensorType(self.result(x), _reduced(x.shape, dims_of(self, self.dim, x.rank), self.keepdim)),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        text, gone = _reduced_axes(x.rank, dims_of(self, self.dim, x.rank), self.keepdim)
        return Axes(text, mixed=frozenset(gone) if self.statistic else frozenset())

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        return Cost(flops=given(inputs)[0].elements)


@operator("mean")
class Mean(Reduction):
    """The average."""


@operator("sum")
class Sum(Reduction):
    """The total; of integers and booleans in i64, as in PyTorch."""

    takes = "all"
    statistic = False

    def result(self, x: TensorType) -> DType:
        return x.dtype if x.dtype.is_float else DType.I64


@operator("prod")
class Prod(Reduction):
    """The product; of integers in i64, as in PyTorch."""

    takes = "numbers"
    statistic = False

    def result(self, x: TensorType) -> DType:
        return x.dtype if x.dtype.is_float else DType.I64


@operator("max")
class Max(Reduction):
    """The largest element (PyTorch's `amax`)."""

    takes = "numbers"


@operator("min")
class Min(Reduction):
    """The smallest element (PyTorch's `amin`)."""

    takes = "numbers"


@operator("var")
class Var(Reduction):
    """The variance: squared differences from the mean, summed and divided by their number less `correction`."""

    derived = True
    correction: Natural = 1

    def shape(self, *inputs: TensorType | None) -> Types:
        found = Reduction.shape(self, *inputs)
        (x,) = given(inputs)
        count = volume(x.shape[d] for d in dims_of(self, self.dim, x.rank))
        if known_less(count, self.correction + 1):
            raise ShapeError(
                f"var over {count} element of {x} with correction {self.correction} divides by 0",
                operands=(0,),
                fix="use correction = 0",
            )
        return found

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        return Cost(flops=4 * given(inputs)[0].elements)

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        kind = emit.type(x)
        deviation = emit(Sub(), x, emit(Mean(self.dim, True), x))
        square = emit(Square(), deviation)
        if self.correction == 0:
            return emit(Mean(self.dim, self.keepdim), square)
        count: Dim = volume(kind.shape[d] for d in dims_of(self, self.dim, kind.rank))
        total = emit(Sum(self.dim, self.keepdim), square)
        return emit(Div(), total, scalar(emit, count - self.correction, kind.dtype))


@operator("norm")
class Norm(Operator):
    """The p-norm (Σ |x|ᵖ)^(1/p) over `dim`; p may be infinite, and 0 counts the elements that are not 0."""

    operands = operands("x")
    derived = True
    p: Number = 2.0
    dim: Integers | None = None
    keepdim: Flag = False

    def canonical(self, *inputs: TensorType | None) -> Norm:
        (x,) = given(inputs)
        return Norm(float(self.p), dims_of(self, self.dim, x.rank), self.keepdim)

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        need_float(self, x)
        return (TensorType(x.dtype, _reduced(x.shape, dims_of(self, self.dim, x.rank), self.keepdim)),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        return Axes(_reduced_axes(x.rank, dims_of(self, self.dim, x.rank), self.keepdim)[0])

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        return Cost(flops=2 * given(inputs)[0].elements)

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        kind = emit.type(x).dtype
        if self.p == 2:
            return emit(Sqrt(), emit(Sum(self.dim, self.keepdim), emit(Square(), x)))
        if self.p == 0:
            counted = emit(Cast(kind), emit(Ne(), x, scalar(emit, 0, kind)))
            return emit(Sum(self.dim, self.keepdim), counted)
        size = emit(Abs(), x)
        if math.isinf(self.p):
            return emit((Max if self.p > 0 else Min)(self.dim, self.keepdim), size)
        if self.p == 1:
            return emit(Sum(self.dim, self.keepdim), size)
        total = emit(Sum(self.dim, self.keepdim), emit(Pow(), size, scalar(emit, self.p, kind)))
        return emit(Pow(), total, scalar(emit, 1 / self.p, kind))


_POSITIONS = "its positions are values of the result"


@dataclass(frozen=True, slots=True)
class Arg(Operator):
    """The position along `dim` (i64) of an extreme element."""

    operands = operands("x")
    dim: Integer
    keepdim: Flag = False

    def canonical(self, *inputs: TensorType | None) -> Operator:
        (x,) = given(inputs)
        return replace(self, dim=dim_of(self, self.dim, x.rank))

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        refuse_bool(self, x)
        return (TensorType(DType.I64, _reduced(x.shape, (dim_of(self, self.dim, x.rank),), self.keepdim)),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        text, gone = _reduced_axes(x.rank, (dim_of(self, self.dim, x.rank),), self.keepdim)
        return Axes(text, dict.fromkeys(gone, _POSITIONS))

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        return Cost(flops=given(inputs)[0].elements)


@operator("argmax")
class Argmax(Arg):
    """Of the largest element; the first of several."""


@operator("argmin")
class Argmin(Arg):
    """Of the smallest element; the first of several."""


@operator("topk")
class Topk(Operator):
    """The `k` largest (or smallest) elements along `dim`, in order where `sorted`, and their positions (i64)."""

    operands = operands("x")
    outputs = ("values", "indices")
    k: Positive
    dim: Integer = -1
    largest: Flag = True
    sorted: Flag = True

    def canonical(self, *inputs: TensorType | None) -> Topk:
        (x,) = given(inputs)
        return replace(self, dim=dim_of(self, self.dim, x.rank))

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        refuse_bool(self, x)
        dim = dim_of(self, self.dim, x.rank)
        if known_less(x.shape[dim], self.k):
            raise ShapeError(
                f"topk takes k = {self.k} of the {x.shape[dim]} elements along dim {dim} of {x}",
                operands=(0,),
                fix=f"use k = {x.shape[dim]} or less",
            )
        shape = replaced(x.shape, dim, self.k)
        return TensorType(x.dtype, shape), TensorType(DType.I64, shape)

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        dim = dim_of(self, self.dim, x.rank)
        names = labels(x.rank)
        out = [*names[:dim], "k", *names[dim + 1 :]]
        return Axes(pattern([names], out, out), {names[dim]: _POSITIONS, "k": "its size is the attribute k"})

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        return Cost(flops=given(inputs)[0].elements)


@operator("cumsum")
class Cumsum(Operator):
    """Running totals along `dim`; of integers and booleans in i64, as in PyTorch."""

    operands = operands("x")
    dim: Integer

    def canonical(self, *inputs: TensorType | None) -> Cumsum:
        (x,) = given(inputs)
        return Cumsum(dim_of(self, self.dim, x.rank))

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        dim_of(self, self.dim, x.rank)
        return (TensorType(x.dtype if x.dtype.is_float else DType.I64, x.shape),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        return along(x, dim_of(self, self.dim, x.rank), None, {}, ordered=True)


for _made in (Mean, Sum, Max, Min, Prod, Var):
    sample(_made(), "f32[2, 3, 4]")
    sample(_made((1,)), "f32[2, 3, 4]")
    sample(_made((-1, 0), True), "f32[2, 3, 4]")
for _made in (Sum, Max, Min, Prod):
    sample(_made((1,)), "i64[2, 3]", high={0: 5})
sample(Sum((-1,)), "bool[2, 3]")
sample(Var((2, 3), True, 0), "f32[2, 3, 4, 4]")
sample(Norm(), "f32[2, 3]")
sample(Norm(2.0, (1,), True), "f32[2, 3, 4]")
sample(Norm(1.0, (-1,)), "f32[2, 3]")
sample(Norm(3.0, (0, 1)), "f32[2, 3]")
sample(Norm(math.inf, (1,)), "f32[2, 3]")
for _arg in (Argmax, Argmin):
    sample(_arg(-1), "f32[2, 5]")
    sample(_arg(1, True), "f32[2, 5, 3]")
sample(Topk(3), "f32[2, 8]")
sample(Topk(2, 1, False), "f32[2, 5, 3]")
sample(Cumsum(1), "f32[2, 5]")
sample(Cumsum(-1), "i64[2, 5]", high={0: 4})
