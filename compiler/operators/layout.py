"""The same numbers in another arrangement: reshaping, permuting, cutting, joining, repeating."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..types import Dim, Shape, TensorType, divide, floor_divide, known_less, volume
from .attribute import Positive
from .dimension import (
    Integer,
    Integers,
    Movement,
    Size,
    SizeOrSizes,
    Sizes,
    aligned,
    along,
    dim_of,
    given,
    labels,
    once,
    pattern,
    replaced,
)
from .factor import factors
from .operator import Axes, Emit, Operator, ShapeError, Types, V, operands, operator, sample


def listed(shape: Sequence[Dim]) -> str:
    """A shape as text."""
    return f"[{', '.join(map(str, shape))}]"


@operator("reshape")
class Reshape(Movement):
    """The same elements, row by row, in the shape `size`; one size may be -1, which is what is left."""

    operands = operands("x")
    size: Sizes

    def canonical(self, *inputs: TensorType | None) -> Reshape:
        (x,) = given(inputs)
        return Reshape(self._resolved(x))

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        return (TensorType(x.dtype, self._resolved(x)),)

    def _resolved(self, x: TensorType) -> Shape:
        wanted = f"reshape cannot make {listed(self.size)} of {x}"
        unknown = [i for i, d in enumerate(self.size) if d == -1]
        known = volume(d for d in self.size if d != -1)
        for size in self.size:
            if size != -1 and known_less(size, 1):
                raise ShapeError(f"{wanted}: a size is {size}", operands=(0,), code="empty-tensor")
        if len(unknown) > 1:
            raise ShapeError(f"{wanted}: only one size can be -1", operands=(0,))
        if not unknown:
            if known != x.elements:
                fix = "write -1 for the size that should follow from the others"
                raise ShapeError(f"{wanted}: {x.elements} elements are not {known}", operands=(0,), fix=fix)
            return self.size
        rest = divide(x.elements, known)
        if rest is None:
            raise ShapeError(f"{wanted}: its {x.elements} elements are no multiple of {known}", operands=(0,))
        return replaced(self.size, unknown[0], rest)

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        size = self._resolved(x)
        left, right, fixed = factors(x.shape, size)
        reason = f"reshape from {listed(x.shape)} to {listed(size)} does not keep it apart"
        return Axes(pattern([left], right), dict.fromkeys(fixed, reason))

    def resized(self, sizes: Mapping[str, Dim], outputs: Types) -> Reshape:
        return Reshape(outputs[0].shape)


@operator("flatten")
class Flatten(Movement):
    """Axes `start_dim` to `end_dim`, both included, as one. In a graph it is a reshape."""

    operands = operands("x")
    derived = True
    becomes = "reshape"
    start_dim: Integer = 0
    end_dim: Integer = -1

    def canonical(self, *inputs: TensorType | None) -> Reshape:
        (x,) = given(inputs)
        if not x.rank:
            return Reshape((1,))
        start, end = dim_of(self, self.start_dim, x.rank), dim_of(self, self.end_dim, x.rank)
        if start > end:
            raise ShapeError(
                f"flatten from dim {start} to dim {end} of {x} runs backwards", operands=(0,), code="dim-out-of-range"
            )
        return Reshape((*x.shape[:start], volume(x.shape[start : end + 1]), *x.shape[end + 1 :]))

    def shape(self, *inputs: TensorType | None) -> Types:
        return self.canonical(*inputs).shape(*inputs)

    def axes(self, *inputs: TensorType | None) -> Axes:
        return self.canonical(*inputs).axes(*inputs)

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        return emit(self.canonical(emit.type(x)), x)


@operator("permute")
class Permute(Movement):
    """Axis i of the output is axis `dims[i]` of the input."""

    operands = operands("x")
    dims: Integers

    def canonical(self, *inputs: TensorType | None) -> Permute:
        (x,) = given(inputs)
        if len(self.dims) != x.rank:
            raise ShapeError(
                f"permute orders {len(self.dims)} dims, but {x} has {x.rank}",
                operands=(0,),
                fix=f"name every dim once, as in {listed(range(x.rank))}",
            )
        dims = tuple(dim_of(self, d, x.rank) for d in self.dims)
        once(self, dims)
        return Permute(dims)

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        return (TensorType(x.dtype, tuple(x.shape[d] for d in self.canonical(x).dims)),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        names = labels(x.rank)
        return Axes(pattern([names], [names[d] for d in self.canonical(x).dims]))


@operator("transpose")
class Transpose(Movement):
    """Two axes exchanged. In a graph it is a permute."""

    operands = operands("x")
    derived = True
    becomes = "permute"
    dim0: Integer
    dim1: Integer

    def canonical(self, *inputs: TensorType | None) -> Permute:
        (x,) = given(inputs)
        a, b = dim_of(self, self.dim0, x.rank), dim_of(self, self.dim1, x.rank)
        return Permute(tuple({a: b, b: a}.get(i, i) for i in range(x.rank)))

    def shape(self, *inputs: TensorType | None) -> Types:
        return self.canonical(*inputs).shape(*inputs)

    def axes(self, *inputs: TensorType | None) -> Axes:
        return self.canonical(*inputs).axes(*inputs)

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        return emit(self.canonical(emit.type(x)), x)


@operator("squeeze")
class Squeeze(Movement):
    """Without the axes `dim`, which must have size 1; all such axes where none are given."""

    operands = operands("x")
    derived = True
    dim: Integers | None = None

    def canonical(self, *inputs: TensorType | None) -> Squeeze:
        (x,) = given(inputs)
        if self.dim is None:
            return Squeeze(tuple(i for i, d in enumerate(x.shape) if d == 1))
        dims = sorted(dim_of(self, d, x.rank) for d in self.dim)
        once(self, dims)
        for dim in dims:
            if x.shape[dim] != 1:
                raise ShapeError(f"squeeze needs size 1 in dim {dim}, which is {x.shape[dim]} in {x}", operands=(0,))
        return Squeeze(tuple(dims))

    def _kept(self, x: TensorType) -> list[int]:
        gone = self.canonical(x).dim or ()
        return [i for i in range(x.rank) if i not in gone]

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        return (TensorType(x.dtype, tuple(x.shape[i] for i in self._kept(x))),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        kept = self._kept(x)
        names = [n if i in kept else "1" for i, n in enumerate(labels(x.rank))]
        return Axes(pattern([names], [names[i] for i in kept]))

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        return emit(Reshape(self.shape(emit.type(x))[0].shape), x)


@operator("unsqueeze")
class Unsqueeze(Movement):
    """With a new axis of size 1 at `dim` of the output."""

    operands = operands("x")
    derived = True
    dim: Integer

    def canonical(self, *inputs: TensorType | None) -> Unsqueeze:
        (x,) = given(inputs)
        return Unsqueeze(dim_of(self, self.dim, x.rank + 1))

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        dim = self.canonical(x).dim
        return (TensorType(x.dtype, (*x.shape[:dim], 1, *x.shape[dim:])),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        dim, names = self.canonical(x).dim, labels(x.rank)
        return Axes(pattern([names], [*names[:dim], "1", *names[dim:]]))

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        return emit(Reshape(self.shape(emit.type(x))[0].shape), x)


@operator("expand")
class Expand(Movement):
    """Axes of size 1 repeated without copying, up to `size`; -1 keeps an axis; new axes come first."""

    operands = operands("x")
    size: Sizes

    def canonical(self, *inputs: TensorType | None) -> Expand:
        (x,) = given(inputs)
        new = len(self.size) - x.rank
        if new < 0:
            raise ShapeError(f"expand to {listed(self.size)} has fewer axes than {x}", operands=(0,))
        size: list[Dim] = []
        for i, wanted in enumerate(self.size):
            have = x.shape[i - new] if i >= new else 1
            if wanted == -1 and i >= new:
                wanted = have
            if known_less(wanted, 1):
                raise ShapeError(f"expand cannot make an axis of size {wanted}", operands=(0,))
            if have not in (1, wanted):
                raise ShapeError(
                    f"expand repeats axes of size 1, but axis {i - new} of {x} is {have} and should become {wanted}",
                    operands=(0,),
                    fix="use repeat, which copies, or repeat_interleave",
                )
            size.append(wanted)
        return Expand(tuple(size))

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        return (TensorType(x.dtype, self.canonical(x).size),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        size = self.canonical(x).size
        names = labels(len(size))
        return Axes(pattern([aligned(x.shape, size, names)], names))

    def resized(self, sizes: Mapping[str, Dim], outputs: Types) -> Expand:
        return Expand(outputs[0].shape)


@operator("repeat")
class Repeat(Movement):
    """`repeats[i]` copies along axis i, one after the other; further repeats come first and make new axes."""

    operands = operands("x")
    derived = True
    repeats: Sizes

    def _shapes(self, x: TensorType) -> tuple[Shape, Shape]:
        """The input's and the output's shape, with as many axes as there are repeats."""
        new = len(self.repeats) - x.rank
        if new < 0:
            fix = f"give {x.rank} numbers, 1 for axes to leave as they are"
            raise ShapeError(f"repeat is given {listed(self.repeats)} for {x}", operands=(0,), fix=fix)
        for count in self.repeats:
            if known_less(count, 1):
                raise ShapeError(f"repeat cannot make {count} copies", operands=(0,), code="empty-tensor")
        shape = ((1,) * new) + x.shape
        return shape, tuple(a * b for a, b in zip(shape, self.repeats, strict=True))

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        return (TensorType(x.dtype, self._shapes(x)[1]),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        new = len(self.repeats) - x.rank
        names, copies = labels(x.rank), labels(len(self.repeats), "r")
        out = [
            copies[i] if i < new else names[i - new] if r == 1 else f"({copies[i]} {names[i - new]})"
            for i, r in enumerate(self.repeats)
        ]
        used = [c for i, c in enumerate(copies) if i < new or self.repeats[i] != 1]
        return Axes(pattern([names], out), dict.fromkeys(used, "it counts the copies of repeat"))

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        shape, out = self._shapes(emit.type(x))
        spread = tuple(d for pair in zip((1,) * len(shape), shape, strict=True) for d in pair)
        copied = tuple(d for pair in zip(self.repeats, shape, strict=True) for d in pair)
        return emit(Reshape(out), emit(Expand(copied), emit(Reshape(spread), x)))


@operator("repeat_interleave")
class RepeatInterleave(Movement):
    """Each slice along `dim` repeated `repeats` times in place."""

    operands = operands("x")
    derived = True
    repeats: Positive
    dim: Integer

    def canonical(self, *inputs: TensorType | None) -> RepeatInterleave:
        (x,) = given(inputs)
        return RepeatInterleave(self.repeats, dim_of(self, self.dim, x.rank))

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        dim = dim_of(self, self.dim, x.rank)
        return (TensorType(x.dtype, replaced(x.shape, dim, x.shape[dim] * self.repeats)),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        dim = dim_of(self, self.dim, x.rank)
        return along(x, dim, f"(d{dim} r)", {"r": "it counts the copies of repeat_interleave"})

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        kind = emit.type(x)
        dim = dim_of(self, self.dim, kind.rank) + 1
        spread = (*kind.shape[:dim], 1, *kind.shape[dim:])
        copied = emit(Expand(replaced(spread, dim, self.repeats)), emit(Reshape(spread), x))
        return emit(Reshape(self.shape(kind)[0].shape), copied)


@operator("slice")
class Slice(Movement):
    """Every `step`-th element along `dim` from `start` to before `stop`; negative numbers count from the end.

    Unlike in PyTorch, bounds beyond the end are errors. Where a size is symbolic and a bound may or may not exceed it,
    the bound is believed, and backends check it when the model runs.
    """

    operands = operands("x")
    dim: Integer
    start: Size = 0
    stop: Size | None = None
    step: Positive = 1

    def canonical(self, *inputs: TensorType | None) -> Slice:
        (x,) = given(inputs)
        dim = dim_of(self, self.dim, x.rank)
        size = x.shape[dim]
        start, stop = _from_front(self.start, size), size if self.stop is None else _from_front(self.stop, size)
        if known_less(start, 0) or known_less(size, stop):
            bad = self.start if known_less(start, 0) else self.stop
            raise ShapeError(
                f"slice reaches to {bad} in dim {dim} of {x}, which has size {size}",
                operands=(0,),
                code="slice-out-of-range",
                fix="leave the bound out to reach the end",
            )
        if known_less(start, stop) is False:
            raise ShapeError(f"slice {start}:{stop} of dim {dim} of {x} is empty", operands=(0,), code="empty-tensor")
        return Slice(dim, start, stop, self.step)

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        op = self.canonical(x)
        assert op.stop is not None
        length = floor_divide(op.stop - op.start + (op.step - 1), op.step)
        return (TensorType(x.dtype, replaced(x.shape, op.dim, length)),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        op = self.canonical(x)
        if (op.start, op.stop, op.step) == (0, x.shape[op.dim], 1):
            return along(x, op.dim, None, {})
        size = x.shape[op.dim]
        assert op.stop is not None
        parts = {"b": op.start, "s": op.stop - op.start, "e": size - op.stop}
        parts = {name: part for name, part in parts.items() if part != 0}
        if op.step == 1 and all(known_less(0, part) for part in parts.values()):
            whole = f"({' + '.join(parts)})" if len(parts) > 1 else "s"
            names, rest = labels(x.rank), labels(x.rank)
            names[op.dim], rest[op.dim] = whole, "s"
            return Axes(pattern([names], rest), sizes=parts)
        reason = f"slice takes {op.start}:{op.stop} of it" + (f" in steps of {op.step}" if op.step > 1 else "")
        return along(x, op.dim, "s", {f"d{op.dim}": reason, "s": f"it is a slice, {op.start}:{op.stop}"})

    def resized(self, sizes: Mapping[str, Dim], outputs: Types) -> Slice:
        if f"d{self.dim}" in sizes:  # it is fixed, or all of it
            return self if "s" in sizes else replace(self, stop=sizes[f"d{self.dim}"])
        start = sizes.get("b", 0)
        return replace(self, start=start, stop=start + sizes["s"])


def _from_front(bound: Dim, size: Dim) -> Dim:
    return bound + size if isinstance(bound, int) and bound < 0 else bound


@operator("split")
class Split(Movement):
    """Consecutive parts of the given sizes along `dim`; a single size makes parts of it, the last maybe smaller."""

    operands = operands("x")
    sizes: SizeOrSizes
    dim: Integer = 0

    def canonical(self, *inputs: TensorType | None) -> Split:
        (x,) = given(inputs)
        dim = dim_of(self, self.dim, x.rank)
        whole = x.shape[dim]
        sizes = self.sizes if isinstance(self.sizes, tuple) else _parts(self, whole, self.sizes, x)
        total: Dim = sum(sizes, 0)
        if total != whole:
            raise ShapeError(
                f"split into {listed(sizes)} needs size {total} in dim {dim}, which is {whole} in {x}", operands=(0,)
            )
        if any(known_less(s, 1) for s in sizes):
            raise ShapeError(f"split into {listed(sizes)} makes an empty part", operands=(0,), code="empty-tensor")
        return Split(sizes, dim)

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        op = self.canonical(x)
        assert isinstance(op.sizes, tuple)
        return tuple(TensorType(x.dtype, replaced(x.shape, op.dim, s)) for s in op.sizes)

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        op = self.canonical(x)
        assert isinstance(op.sizes, tuple)
        names, parts = labels(x.rank), labels(len(op.sizes), "p")
        whole = f"({' + '.join(parts)})" if len(parts) > 1 else parts[0]
        rest = [[*names[: op.dim], n, *names[op.dim + 1 :]] for n in (whole, *parts)]
        return Axes(pattern(rest[:1], *rest[1:]))

    def resized(self, sizes: Mapping[str, Dim], outputs: Types) -> Split:
        return replace(self, sizes=tuple(t.shape[self.dim] for t in outputs))


_MOST_PARTS = 10_000


def _parts(op: Operator, whole: Dim, size: Dim, x: TensorType) -> tuple[Dim, ...]:
    if isinstance(whole, int) and isinstance(size, int) and size > 0:
        if whole > _MOST_PARTS * size:
            raise ShapeError(
                f"{op.name} of {x} into parts of {size} makes {-(-whole // size)} tensors",
                operands=(0,),
                code="too-many-parts",
                fix=f"reshape gives one tensor with an axis for the parts; {op.name} makes at most {_MOST_PARTS}",
            )
        return tuple(min(size, whole - at) for at in range(0, whole, size))
    count = None if size == 0 else divide(whole, size)
    if not isinstance(count, int) or count < 1:
        raise ShapeError(
            f"{op.name} of {x} into parts of {size} does not make a known number of parts of {whole}", operands=(0,)
        )
    return (size,) * count


@operator("chunk")
class Chunk(Movement):
    """`chunks` parts along `dim`, all of ⌈size / chunks⌉ but the last, as in PyTorch. In a graph it is a split."""

    operands = operands("x")
    derived = True
    becomes = "split"
    chunks: Positive
    dim: Integer = 0

    def canonical(self, *inputs: TensorType | None) -> Split:
        (x,) = given(inputs)
        dim = dim_of(self, self.dim, x.rank)
        whole = x.shape[dim]
        part = divide(whole, self.chunks) if not isinstance(whole, int) else -(-whole // self.chunks)
        if part is None:
            raise ShapeError(
                f"chunk into {self.chunks}: dim {dim} of {x} is {whole}, not known to be a multiple of {self.chunks}",
                operands=(0,),
            )
        sizes = _parts(self, whole, part, x)
        if len(sizes) != self.chunks:
            raise ShapeError(f"dim {dim} of {x} does not make {self.chunks} chunks, only {len(sizes)}", operands=(0,))
        return Split(sizes, dim)

    def shape(self, *inputs: TensorType | None) -> Types:
        return self.canonical(*inputs).shape(*inputs)

    def axes(self, *inputs: TensorType | None) -> Axes:
        return self.canonical(*inputs).axes(*inputs)

    def expand(self, emit: Emit[V], *inputs: V | None) -> tuple[V, ...]:
        (x,) = inputs
        assert x is not None
        return emit.many(self.canonical(emit.type(x)), x)


def _alike(op: Operator, tensors: Types, dim: int | None) -> None:
    """Raises `ShapeError` unless all tensors agree, except in the size of `dim`."""
    first = tensors[0]
    for i, t in enumerate(tensors):
        if t.dtype != first.dtype:
            raise ShapeError(
                f"{op.name} joins {first} and {t}, of different dtypes",
                operands=(0, i),
                code="dtype-mismatch",
                fix=f"cast(x, {first.dtype.value}) makes them alike",
            )
        if t.rank != first.rank:
            raise ShapeError(f"{op.name} joins {first} and {t}, of different ranks", operands=(0, i))
        for axis, (a, b) in enumerate(zip(first.shape, t.shape, strict=True)):
            if a != b and axis != dim:
                where = f" along dim {dim}" if dim is not None else ""
                raise ShapeError(
                    f"{op.name}{where}: input {i} is {t}, but input 0 is {first}: axis {axis} is {b} and {a}",
                    operands=(0, i),
                    fix=f"all axes{' but the joined one' if dim is not None else ''} must be equal",
                )


def _joined(op: Operator, inputs: Sequence[TensorType | None]) -> Types:
    tensors = given(inputs)
    if not tensors:
        raise ShapeError(f"{op.name} is given no tensors", code="input-count")
    return tensors


@operator("concat")
class Concat(Movement):
    """All tensors one after the other along `dim`."""

    operands = operands("tensors*")
    dim: Integer = 0

    def canonical(self, *inputs: TensorType | None) -> Concat:
        return Concat(dim_of(self, self.dim, _joined(self, inputs)[0].rank))

    def shape(self, *inputs: TensorType | None) -> Types:
        tensors = _joined(self, inputs)
        dim = self.canonical(*tensors).dim
        _alike(self, tensors, dim)
        total: Dim = sum((t.shape[dim] for t in tensors), 0)
        return (TensorType(tensors[0].dtype, replaced(tensors[0].shape, dim, total)),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        tensors = _joined(self, inputs)
        dim = self.canonical(*tensors).dim
        names, parts = labels(tensors[0].rank), labels(len(tensors), "p")
        whole = f"({' + '.join(parts)})" if len(parts) > 1 else parts[0]
        rest = [[*names[:dim], n, *names[dim + 1 :]] for n in (whole, *parts)]
        return Axes(pattern(rest[1:], rest[0]))


@operator("stack")
class Stack(Movement):
    """Tensors of one shape along a new axis at `dim` of the output."""

    operands = operands("tensors*")
    derived = True
    dim: Integer = 0

    def canonical(self, *inputs: TensorType | None) -> Stack:
        return Stack(dim_of(self, self.dim, _joined(self, inputs)[0].rank + 1))

    def shape(self, *inputs: TensorType | None) -> Types:
        tensors = _joined(self, inputs)
        dim, first = self.canonical(*tensors).dim, tensors[0]
        _alike(self, tensors, None)
        return (TensorType(first.dtype, (*first.shape[:dim], len(tensors), *first.shape[dim:])),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        tensors = _joined(self, inputs)
        dim, names = self.canonical(*tensors).dim, labels(tensors[0].rank)
        out = [*names[:dim], "s", *names[dim:]]
        return Axes(pattern([names] * len(tensors), out), {"s": "it counts the tensors of stack"})

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        tensors = [x for x in inputs if x is not None]
        dim = self.canonical(*map(emit.type, tensors)).dim
        return emit(Concat(dim), *(emit(Unsqueeze(dim), x) for x in tensors))


sample(Reshape((6, 4)), "f32[2, 3, 4]")
sample(Reshape((2, -1)), "f32[2, 3, 4]")
sample(Reshape((4, 3, 2)), "f32[2, 3, 4]")
sample(Reshape(()), "f32[1, 1]")
sample(Flatten(1), "f32[2, 3, 4, 5]")
sample(Flatten(-3, -2), "f32[2, 3, 4, 5]")
sample(Permute((0, 3, 1, 2)), "f32[2, 3, 4, 5]")
sample(Permute((-1, 0)), "i64[2, 3]", high={0: 9})
sample(Transpose(1, -1), "f32[2, 3, 4]")
sample(Squeeze((1,)), "f32[2, 1, 3, 1]")
sample(Squeeze((1, -1)), "f32[2, 1, 3, 1]")
sample(Squeeze(), "f32[2, 1, 3, 1]")
sample(Unsqueeze(1), "f32[2, 3]")
sample(Unsqueeze(-1), "f32[2, 3]")
sample(Expand((2, -1, 4)), "f32[1, 3, 1]")
sample(Expand((5, 2, 3)), "f32[2, 1]")
sample(Repeat((2, 3)), "f32[2, 3]")
sample(Repeat((2, 1, 3)), "f32[2, 3]")
sample(RepeatInterleave(3, 1), "f32[2, 3, 4]")
sample(Slice(1, 1, 4), "f32[2, 5, 3]")
sample(Slice(-1, -3), "f32[2, 5]")
sample(Slice(1, 0, None, 2), "f32[2, 5, 3]")
sample(Split((1, 4), 1), "f32[2, 5, 3]")
sample(Split(2, -1), "f32[2, 6]")
sample(Chunk(3, 1), "f32[2, 6, 2]")
sample(Chunk(2, 0), "f32[5, 2]")
sample(Concat(1), "f32[2, 3, 4]", "f32[2, 1, 4]", "f32[2, 2, 4]")
sample(Concat(-1), "f32[2, 3]", "f32[2, 3]")
sample(Stack(1), "f32[2, 3]", "f32[2, 3]")
sample(Stack(-1), "f32[2, 3]", "f32[2, 3]", "f32[2, 3]")
