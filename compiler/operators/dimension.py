"""Dims and sizes: how attributes name them, how shapes broadcast, and how axis patterns label them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator

from ..types import Dim, Expression, Shape, TensorType
from .operator import Axes, Cost, Operator, OptionalTypes, ShapeError, Types


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(
            "should be an integer known at compile time" if isinstance(value, Expression) else "should be an integer"
        )
    return value


def _size(value: Any) -> Dim:
    if isinstance(value, bool) or not isinstance(value, (int, Expression)):
        raise ValueError("should be an integer or a dimension")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, (bool, int, float)):
        raise ValueError("should be a number")
    return value


def _size_or_sizes(value: Any) -> Dim | tuple[Dim, ...]:
    return tuple(_size(v) for v in value) if isinstance(value, (list, tuple)) else _size(value)  # pyright: ignore[reportUnknownVariableType]


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, (int, Expression)) else value


Integer = Annotated[int, PlainValidator(_integer)]
"""An integer and nothing that could be read as one."""

Integers = Annotated[tuple[Integer, ...], BeforeValidator(_several)]
"""Integers; text may give one."""

Size = Annotated[Dim, PlainValidator(_size)]
"""A size or position, symbolic or not."""

Sizes = Annotated[tuple[Size, ...], BeforeValidator(_several)]
"""Sizes; text may give one."""

SizeOrSizes = Annotated[Dim | tuple[Dim, ...], PlainValidator(_size_or_sizes)]
"""A size or a list of sizes, kept apart."""

Number = Annotated[float, PlainValidator(_number)]
"""An int, float or bool, kept as it is."""


class Movement(Operator):
    """An operator that moves or makes numbers without arithmetic."""

    __slots__ = ()

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        return Cost()


def given(inputs: OptionalTypes) -> Types:
    """The inputs that are present."""
    return tuple(t for t in inputs if t is not None)


def dim_of(op: Operator, dim: int, rank: int, operand: int = 0) -> int:
    """`dim` counted from the front.

    Raises:
        ShapeError: where it lies outside `-rank … rank - 1`.
    """
    if -rank <= dim < rank:
        return dim % rank
    range_ = f"dims {-rank} to {rank - 1}" if rank else "no dims"
    raise ShapeError(
        f"{op.name} is given dim {dim}, but a tensor of rank {rank} has {range_}",
        operands=(operand,),
        code="dim-out-of-range",
    )


def dims_of(op: Operator, dims: Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Dims counted from the front, ascending; none means all, as in PyTorch.

    Raises:
        ShapeError: where one is out of range or named twice.
    """
    if not dims:
        return tuple(range(rank))
    found = [dim_of(op, d, rank) for d in dims]
    once(op, found)
    return tuple(sorted(found))


def once(op: Operator, dims: Sequence[int]) -> None:
    """Raises `ShapeError` where a dim is named twice."""
    twice = next((d for i, d in enumerate(dims) if d in dims[:i]), None)
    if twice is not None:
        raise ShapeError(f"{op.name} names dim {twice} twice", operands=(0,), code="dim-named-twice")


def need_float(op: Operator, *inputs: TensorType) -> None:
    """Raises `ShapeError` where an input is not of a floating-point dtype."""
    for i, t in enumerate(inputs):
        if not t.dtype.is_float:
            raise ShapeError(
                f"{op.name} needs floating-point numbers, not {t}",
                operands=(i,),
                code="dtype-mismatch",
                fix="cast(x, f32) makes them so",
            )


def need_rank(op: Operator, x: TensorType, rank: int, layout: str, operand: int = 0) -> None:
    """Raises `ShapeError` where an input is not of this rank; `layout` says what its axes are."""
    if x.rank != rank:
        raise ShapeError(
            f"{op.name} takes [{layout}], not {x} of rank {x.rank}", operands=(operand,), code="rank-mismatch"
        )


def replaced(shape: Shape, dim: int, size: Dim) -> Shape:
    """The shape with one size changed."""
    return (*shape[:dim], size, *shape[dim + 1 :])


def broadcast(op: Operator, *inputs: TensorType) -> Shape:
    """The shape that all inputs broadcast to: aligned from the right, sizes equal or 1.

    Raises:
        ShapeError: where sizes disagree, and where two symbols are not known to be equal.
    """
    rank = max(t.rank for t in inputs)
    result: list[Dim] = []
    for axis in range(-rank, 0):
        size, owner = 1, 0
        for i, t in enumerate(inputs):
            other = t.shape[axis] if -axis <= t.rank else 1
            if other in (1, size):
                continue
            if size != 1:
                raise _disagree(op, inputs, owner, i, rank + axis, axis)
            size, owner = other, i
        result.append(size)
    return tuple(result)


def _disagree(op: Operator, inputs: Types, i: int, j: int, index: int, axis: int) -> ShapeError:
    a, b = inputs[i], inputs[j]
    where = f"axis {index}" if a.rank == b.rank else f"axis {index} (counted {axis} from the right)"
    message = f"{op.name} cannot combine {a} and {b}: {where} is {a.shape[axis]} and {b.shape[axis]}"
    small, large = sorted((a.shape, b.shape), key=len)
    notes: tuple[str, ...] = ()
    if len(small) < len(large) and large[: len(small)] == small:
        fix = "shapes are aligned from the right: add axes of size 1 at the end of the smaller one with unsqueeze"
    elif isinstance(a.shape[axis], Expression) or isinstance(b.shape[axis], Expression):
        notes = (f"{a.shape[axis]} and {b.shape[axis]} may differ when the model runs",)
        fix = "give both dimensions the same name where they are always equal"
    else:
        fix = "make both sizes equal, with linear or a convolution of kernel size 1, or one of them 1"
    return ShapeError(message, operands=(i, j), fix=fix, notes=notes)


def labels(rank: int, prefix: str = "d") -> list[str]:
    """A label for each axis."""
    return [f"{prefix}{i}" for i in range(rank)]


def pattern(inputs: Sequence[Sequence[str]], *outputs: Sequence[str]) -> str:
    """The text of an axis pattern."""
    return f"{', '.join(' '.join(g) for g in inputs)} -> {', '.join(' '.join(g) for g in outputs)}"


def aligned(shape: Shape, target: Shape, names: Sequence[str]) -> list[str]:
    """Labels of a shape that broadcasts to `target`, whose axes are `names`; a broadcast axis is `1`."""
    skip = len(target) - len(shape)
    return ["1" if d == 1 and target[skip + i] != 1 else names[skip + i] for i, d in enumerate(shape)]


def elementwise(shape: Shape, *inputs: TensorType) -> Axes:
    """The pattern of inputs that broadcast to `shape`."""
    names = labels(len(shape))
    return Axes(pattern([aligned(t.shape, shape, names) for t in inputs], names))


def frozen(inputs: Sequence[TensorType], outputs: Sequence[TensorType], reason: str) -> Axes:
    """A pattern that ties nothing and lets nothing be changed."""
    left = [labels(t.rank, f"i{n}_") for n, t in enumerate(inputs)]
    right = [labels(t.rank, f"o{n}_") for n, t in enumerate(outputs)]
    return Axes(pattern(left, *right), dict.fromkeys((label for group in left + right for label in group), reason))


def along(x: TensorType, dim: int, into: str | None, fixed: Mapping[str, str], *, ordered: bool = False) -> Axes:
    """One input, one output, which differ in `dim` only: there the label becomes `into`, or stays if None."""
    names = labels(x.rank)
    out = [*names[:dim], into or names[dim], *names[dim + 1 :]]
    return Axes(pattern([names], out), fixed, frozenset(names[dim : dim + 1] if ordered else ()))
