"""Reading and writing at positions: gathered, scattered, selected, padded, rolled, flipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator

from ..types import Dim, DType, Shape, TensorType, known_less
from .arithmetic import Abs, Eq, Maximum, Minimum, Remainder, Sub, as_type
from .attribute import Positive
from .creation import Arange, Full, as_dtype, scalar
from .dimension import (
    Integer,
    Integers,
    Movement,
    Number,
    Size,
    dim_of,
    given,
    labels,
    need_rank,
    once,
    pattern,
    replaced,
)
from .layout import Concat, Expand, Reshape, Slice, Unsqueeze
from .operator import Axes, Cost, Emit, Operator, ShapeError, Types, V, operands, operator, sample

POSITIONS = "its positions are values of an index"


def need_index(op: Operator, index: TensorType, operand: int) -> None:
    """Raises `ShapeError` where an input is not of integers that can be positions."""
    if index.dtype not in (DType.I64, DType.I32):
        raise ShapeError(
            f"{op.name} takes positions as i64 or i32, not {index}",
            operands=(operand,),
            code="dtype-mismatch",
            fix="cast(index, i64)",
        )


def _need_within(op: Operator, index: TensorType, x: TensorType, dim: int | None, operand: int, other: int) -> None:
    """Raises `ShapeError` where an index is larger than what it indexes, in an axis other than `dim`."""
    for axis, (a, b) in enumerate(zip(index.shape, x.shape, strict=True)):
        if axis != dim and known_less(b, a):
            raise ShapeError(
                f"{op.name}: the index {index} is larger than {x} in axis {axis}, {a} to {b}", operands=(other, operand)
            )


@operator("gather")
class Gather(Movement):
    """Output [i, j, k] is x [i, index[i, j, k], k], for `dim` 1 of 3; the output has the shape of the index."""

    operands = operands("x index")
    dim: Integer

    def canonical(self, *inputs: TensorType | None) -> Gather:
        return Gather(dim_of(self, self.dim, given(inputs)[0].rank))

    def shape(self, *inputs: TensorType | None) -> Types:
        x, index = given(inputs)
        need_index(self, index, 1)
        if x.rank != index.rank:
            raise ShapeError(
                f"gather takes an index with as many axes as x, not {index} for {x}",
                operands=(0, 1),
                fix="use index_select to take whole slices",
            )
        _need_within(self, index, x, self.canonical(*inputs).dim, 1, 0)
        return (TensorType(x.dtype, index.shape),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        x, index = given(inputs)
        dim, names = self.canonical(*inputs).dim, labels(x.rank)
        taken, fixed = _beside(names, x.shape, index.shape, dim, "i")
        return Axes(pattern([names, taken], taken), {**fixed, names[dim]: POSITIONS})


def _beside(names: list[str], shape: Shape, other: Shape, dim: int, prefix: str) -> tuple[list[str], dict[str, str]]:
    """Labels of a shape that goes over the first elements of another, and the labels that so become fixed."""
    taken = [
        n if a == b and i != dim else f"{prefix}{i}"
        for i, (n, a, b) in enumerate(zip(names, shape, other, strict=True))
    ]
    cut = [i for i, (n, t) in enumerate(zip(names, taken, strict=True)) if n != t and i != dim]
    return taken, {k: "an index reaches only a part of it" for i in cut for k in (names[i], taken[i])}


class Scattering(Operator):
    """Writing at positions along `dim`."""

    __slots__ = ()
    operands = operands("x index source")
    dim: int

    def shape(self, *inputs: TensorType | None) -> Types:
        x, index, source = given(inputs)
        dim = dim_of(self, self.dim, x.rank)
        need_index(self, index, 1)
        if not x.rank == index.rank == source.rank:
            raise ShapeError(f"{self.name} takes three tensors of one rank, not {x}, {index} and {source}")
        if x.dtype != source.dtype:
            raise ShapeError(
                f"{self.name} writes {source} into {x}, of another dtype",
                operands=(0, 2),
                code="dtype-mismatch",
                fix=f"cast(source, {x.dtype.value})",
            )
        _need_within(self, index, x, dim, 1, 0)
        _need_within(self, index, source, None, 1, 2)
        return (x,)

    def axes(self, *inputs: TensorType | None) -> Axes:
        x, index, source = given(inputs)
        dim, names = dim_of(self, self.dim, x.rank), labels(x.rank)
        where, fixed = _beside(names, x.shape, index.shape, dim, "i")
        read = [
            w if a == b else f"s{i}" for i, (w, a, b) in enumerate(zip(where, index.shape, source.shape, strict=True))
        ]
        cut = [label for w, r in zip(where, read, strict=True) if w != r for label in (w, r)]
        fixed = {**fixed, **dict.fromkeys(cut, "an index reaches only a part of it"), names[dim]: POSITIONS}
        return Axes(pattern([names, where, read], names), fixed)


@operator("scatter")
class Scatter(Scattering):
    """A copy of x in which [i, index[i, j, k], k] is source [i, j, k]; which one, where several meet, is left open."""

    dim: Integer

    def canonical(self, *inputs: TensorType | None) -> Scatter:
        return Scatter(dim_of(self, self.dim, given(inputs)[0].rank))

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        return Cost()


@operator("scatter_add")
class ScatterAdd(Scattering):
    """A copy of x with source [i, j, k] added at [i, index[i, j, k], k]."""

    dim: Integer

    def canonical(self, *inputs: TensorType | None) -> ScatterAdd:
        return ScatterAdd(dim_of(self, self.dim, given(inputs)[0].rank))

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        return Cost(flops=given(inputs)[1].elements)


@operator("index_select")
class IndexSelect(Movement):
    """The slices of x along `dim` that a list of positions names."""

    operands = operands("x index")
    derived = True
    dim: Integer

    def canonical(self, *inputs: TensorType | None) -> IndexSelect:
        return IndexSelect(dim_of(self, self.dim, given(inputs)[0].rank))

    def shape(self, *inputs: TensorType | None) -> Types:
        x, index = given(inputs)
        need_index(self, index, 1)
        need_rank(self, index, 1, "positions", 1)
        return (TensorType(x.dtype, replaced(x.shape, self.canonical(*inputs).dim, index.shape[0])),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        x, _ = given(inputs)
        dim, names = self.canonical(*inputs).dim, labels(x.rank)
        return Axes(pattern([names, ["i"]], [*names[:dim], "i", *names[dim + 1 :]]), {names[dim]: POSITIONS})

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        x, index = inputs
        assert x is not None
        assert index is not None
        kind = emit.type(x)
        dim = dim_of(self, self.dim, kind.rank)
        size = emit.type(index).shape[0]
        spread = emit(Reshape(tuple(size if i == dim else 1 for i in range(kind.rank))), index)
        return emit(Gather(dim), x, emit(Expand(replaced(kind.shape, dim, size)), spread))


@operator("one_hot")
class OneHot(Operator):
    """A last axis of `num_classes` zeros, with a one at the position that x names; i64, as in PyTorch."""

    operands = operands("x")
    derived = True
    num_classes: Positive

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        need_index(self, x, 0)
        return (TensorType(DType.I64, (*x.shape, self.num_classes)),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        names = labels(given(inputs)[0].rank)
        return Axes(pattern([names], [*names, "k"]), {"k": "its positions are the values of one_hot's input"})

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        kind = emit.type(x)
        classes = emit(Arange(0, self.num_classes, 1, kind.dtype))
        return as_type(emit, emit(Eq(), emit(Unsqueeze(kind.rank), x), classes), DType.I64)


@operator("flip")
class Flip(Movement):
    """The axes `dims` in reverse order."""

    operands = operands("x")
    derived = True
    dims: Integers

    def canonical(self, *inputs: TensorType | None) -> Flip:
        (x,) = given(inputs)
        dims = sorted(dim_of(self, d, x.rank) for d in self.dims)
        once(self, dims)
        return Flip(tuple(dims))

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        self.canonical(x)
        return (x,)

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        names = labels(x.rank)
        return Axes(pattern([names], names), {names[d]: "flip reverses it" for d in self.canonical(x).dims})

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        for dim in self.canonical(emit.type(x)).dims or ():
            size = emit.type(x).shape[dim]
            x = emit(IndexSelect(dim), x, emit(Arange(size - 1, -1, -1)))
        return x


@operator("roll")
class Roll(Movement):
    """Axis `dims[i]` moved by `shifts[i]` towards its end, where elements come back at its start."""

    operands = operands("x")
    derived = True
    shifts: Integers
    dims: Integers

    def canonical(self, *inputs: TensorType | None) -> Roll:
        (x,) = given(inputs)
        if len(self.shifts) != len(self.dims):
            raise ShapeError(
                f"roll is given {len(self.shifts)} shifts for {len(self.dims)} dims", code="attribute-count"
            )
        dims = [dim_of(self, d, x.rank) for d in self.dims]
        once(self, dims)
        pairs = sorted(zip(dims, self.shifts, strict=True))
        shifts = [s % n if isinstance(n := x.shape[d], int) else s for d, s in pairs]
        return Roll(tuple(shifts), tuple(d for d, _ in pairs))

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        self.canonical(x)
        return (x,)

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        names = labels(x.rank)
        return Axes(pattern([names], names), {names[d]: "roll moves it" for d in self.canonical(x).dims})

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        op = self.canonical(emit.type(x))
        for shift, dim in zip(op.shifts, op.dims, strict=True):
            size = emit.type(x).shape[dim]
            if not isinstance(size, int):
                whole = scalar(emit, size, DType.I64)
                x = emit(IndexSelect(dim), x, emit(Remainder(), emit(Arange(-shift, size - shift)), whole))
            elif shift:
                x = emit(Concat(dim), emit(Slice(dim, size - shift, size), x), emit(Slice(dim, 0, size - shift), x))
        return x


def _paddings(value: Any) -> Any:
    for pair in cast("Sequence[Any]", value) if isinstance(value, (list, tuple)) else (value,):
        if not isinstance(pair, (list, tuple)) or len(cast("Sequence[Any]", pair)) != 2:
            raise ValueError("should be a list of [before, after], one for each axis or for the last ones")
    return cast("Any", value)


@operator("pad")
class Pad(Movement):
    """`padding` [before, after] for each axis, or for the last ones.

    `constant` fills with `value`, `replicate` repeats the border, `reflect` mirrors the inside without the border.
    """

    operands = operands("x")
    derived = True
    padding: Annotated[tuple[tuple[Size, Size], ...], BeforeValidator(_paddings)]
    mode: Literal["constant", "reflect", "replicate"] = "constant"
    value: Number = 0.0

    def canonical(self, *inputs: TensorType | None) -> Pad:
        (x,) = given(inputs)
        free = x.rank - len(self.padding)
        if free < 0:
            raise ShapeError(f"pad is given {len(self.padding)} pairs for the {x.rank} axes of {x}", operands=(0,))
        value = as_dtype(self, self.value if self.mode == "constant" else 0, x.dtype)
        return Pad(((0, 0),) * free + self.padding, self.mode, value)

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        shape: list[Dim] = []
        for axis, (size, pair) in enumerate(zip(x.shape, self.canonical(x).padding, strict=True)):
            self._check(x, axis, size, pair)
            shape.append(size + pair[0] + pair[1])
        return (TensorType(x.dtype, tuple(shape)),)

    def _check(self, x: TensorType, axis: int, size: Dim, pair: tuple[Dim, Dim]) -> None:
        for amount in pair:
            if known_less(amount, 0):
                raise ShapeError(f"pad cannot add {amount} to axis {axis}", code="negative-padding", fix="use a slice")
            if self.mode == "reflect" and known_less(size - 1, amount):
                raise ShapeError(
                    f"pad cannot mirror {amount} elements of axis {axis} of {x}: only {size - 1} lie inside the border",
                    operands=(0,),
                )

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        names = labels(x.rank)
        out: list[str] = []
        fixed: dict[str, str] = {}
        sizes: dict[str, Dim] = {}
        for i, (name, (before, after)) in enumerate(zip(names, self.canonical(x).padding, strict=True)):
            if (before, after) == (0, 0):
                out.append(name)
            elif self.mode == "constant":
                added = [f"{p}{i}" for p, n in (("b", before), ("e", after)) if n != 0]
                fixed.update(dict.fromkeys(added, "it is padding"))
                sizes |= {a: before if a[0] == "b" else after for a in added}
                parts = [*(a for a in added if a[0] == "b"), name, *(a for a in added if a[0] == "e")]
                out.append(f"({' + '.join(parts)})")
            else:
                out.append(f"p{i}")
                fixed.update(
                    {name: "its border is mirrored or repeated", f"p{i}": "it is padded with its own elements"}
                )
        return Axes(pattern([names], out), fixed, sizes=sizes)

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        for dim, (before, after) in enumerate(self.canonical(emit.type(x)).padding):
            if (before, after) == (0, 0):
                continue
            if self.mode == "constant":
                kind = emit.type(x)
                sides = [
                    emit(Full(replaced(kind.shape, dim, n), self.value, kind.dtype)) if n != 0 else None
                    for n in (before, after)
                ]
                x = emit(Concat(dim), *(part for part in (sides[0], x, sides[1]) if part is not None))
            else:
                x = emit(IndexSelect(dim), x, self._source(emit, emit.type(x).shape[dim], before, after))
        return x

    def _source(self, emit: Emit[V], size: Dim, before: Dim, after: Dim) -> V:
        """The position in the input of each element of the padded axis."""
        positions = emit(Arange(-before, size + after))
        last = scalar(emit, size - 1, DType.I64)
        if self.mode == "replicate":
            return emit(Minimum(), emit(Maximum(), positions, scalar(emit, 0, DType.I64)), last)
        return emit(Sub(), last, emit(Abs(), emit(Sub(), last, emit(Abs(), positions))))


sample(Gather(1), "f32[2, 5, 3]", "i64[2, 2, 3]", high={1: 5})
sample(Gather(-1), "f32[3, 4]", "i64[2, 6]", high={1: 4})
sample(Scatter(1), "f32[2, 5]", "i64[2, 1]", "f32[2, 1]", high={1: 5})
sample(ScatterAdd(1), "f32[2, 5]", "i64[2, 4]", "f32[2, 4]", high={1: 5})
sample(ScatterAdd(0), "f32[4, 3]", "i64[2, 3]", "f32[3, 3]", high={1: 4})
sample(IndexSelect(1), "f32[2, 5, 3]", "i64[4]", high={1: 5})
sample(IndexSelect(-1), "f32[2, 5]", "i64[3]", high={1: 5})
sample(OneHot(5), "i64[2, 3]", high={0: 5})
sample(Flip((1,)), "f32[2, 3, 4]")
sample(Flip((0, -1)), "f32[2, 3, 4]")
sample(Roll((1, -2), (2, 3)), "f32[1, 2, 4, 5]")
sample(Roll((7,), (-1,)), "f32[2, 5]")
sample(Pad(((1, 2), (0, 1))), "f32[1, 2, 3, 4]")
sample(Pad(((0, 0), (0, 2), (0, 0), (0, 0)), "constant", -1.5), "f32[1, 2, 3, 4]")
sample(Pad(((2, 1), (1, 2)), "reflect"), "f32[1, 2, 3, 4]")
sample(Pad(((2, 4), (1, 0)), "replicate"), "f32[1, 2, 3, 4]")
