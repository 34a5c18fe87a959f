"""Rules that read and write at positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....compiler.operators import indexing as op
from ....compiler.types import Dim
from ..half import DTYPES
from ..index import literal
from ..kernel import Kernel, Pattern, View
from ..lower import Inputs, Lowering, Types, rules
from ..tensor import Tensor
from ..untyped import build as T
from ..untyped import tirx
from .linear import within
from .numeric import cast, const
from .program import lines


@rules(op.Gather)
def _gather(low: Lowering, node: op.Gather, inputs: Inputs, types: Types) -> Tensor:
    x, index = inputs
    low.require_within(index, x.type.shape[node.dim])
    for axis, (taken, size) in enumerate(zip(index.type.shape, x.type.shape, strict=True)):
        if axis != node.dim:
            low.require(taken, size)

    def element(at: Sequence[Any], x: View, index: View) -> Any:
        position = within(index[at], x.shape[node.dim])
        return x[[*at[: node.dim], position, *at[node.dim + 1 :]]]

    return low.map("gather", [x, index], types[0], element)


@rules(op.IndexSelect)
def _index_select(low: Lowering, node: op.IndexSelect, inputs: Inputs, types: Types) -> Tensor:
    low.require_within(inputs[1], inputs[0].type.shape[node.dim])

    def element(at: Sequence[Any], x: View, index: View) -> Any:
        position = within(index[(at[node.dim],)], x.shape[node.dim])
        return x[[*at[: node.dim], position, *at[node.dim + 1 :]]]

    return low.map("index_select", list(inputs), types[0], element, order=inputs[0].order)


@rules(op.Scatter, op.ScatterAdd)
def _scatter(low: Lowering, node: op.Scatter | op.ScatterAdd, inputs: Inputs, types: Types) -> Tensor:
    """A copy, then the writes: lines along `dim` in parallel, each in order, so that the result is always the same."""
    x, index, source = inputs
    dim, (type,) = node.dim, types
    for axis, (taken, size) in enumerate(zip(index.type.shape, x.type.shape, strict=True)):
        if axis != dim:
            low.require(taken, size)
    adds = isinstance(node, op.ScatterAdd)

    def write(kernel: Kernel, sources: list[Any], results: list[Any]) -> None:
        given, positions, values = sources

        def copy(place: list[Any]) -> None:
            T.buffer_store(results[0], given[tuple(place)], place)

        lines(kernel, type.shape, copy)

        def line(place: list[Any]) -> None:
            with T.serial(literal(0), kernel.dim(index.type.shape[dim])) as k:
                at = (*place[:dim], k, *place[dim:])
                position = within(positions[at], kernel.dim(type.shape[dim]))
                goal = [*place[:dim], position, *place[dim:]]
                value = results[0][tuple(goal)] + values[at] if adds else values[at]
                T.buffer_store(results[0], value, goal)

        lines(kernel, [d for a, d in enumerate(index.type.shape) if a != dim], line)

    return low.program(node.name, [x, index, source], [type], write)[0]


@rules(op.OneHot)
def _one_hot(low: Lowering, node: op.OneHot, inputs: Inputs, types: Types) -> Tensor:
    dtype = DTYPES[types[0].dtype]
    return low.map(
        "one_hot",
        list(inputs),
        types[0],
        lambda index, x: tirx.Select(
            tirx.EQ(cast(x[index[:-1]], "int64"), index[-1]), const(1, dtype), const(0, dtype)
        ),
    )


def _moved(low: Lowering, name: str, x: Tensor, types: Types, places: Callable[[Kernel, int, Any, Dim], Any]) -> Tensor:
    """A kernel that reads axis a at `places(kernel, a, index, size)`."""

    def body(kernel: Kernel, x: View) -> Any:
        def element(*index: Any) -> Any:
            return x[[places(kernel, a, i, d) for a, (i, d) in enumerate(zip(index, x.type.shape, strict=True))]]

        return kernel.stage(types[0].shape, element, order=x_order)

    x_order = x.order
    return low.kernel(name, [x], list(types), body, pattern=Pattern.INJECTIVE, orders=[x_order])[0]


@rules(op.Flip)
def _flip(low: Lowering, node: op.Flip, inputs: Inputs, types: Types) -> Tensor:
    def place(kernel: Kernel, axis: int, i: Any, size: Dim) -> Any:
        return kernel.dim(size) - literal(1) - i if axis in node.dims else i

    return _moved(low, "flip", inputs[0], types, place)


@rules(op.Roll)
def _roll(low: Lowering, node: op.Roll, inputs: Inputs, types: Types) -> Tensor:
    shifts = dict(zip(node.dims, node.shifts, strict=True))

    def place(kernel: Kernel, axis: int, i: Any, size: Dim) -> Any:
        return tirx.floormod(i - literal(shifts[axis]), kernel.dim(size)) if shifts.get(axis) else i

    return _moved(low, "roll", inputs[0], types, place)


@rules(op.Pad)
def _pad(low: Lowering, node: op.Pad, inputs: Inputs, types: Types) -> Tensor:
    (x,) = inputs
    padding = node.padding
    if node.mode == "constant":
        return _filled(low, x, node, types)
    if node.mode == "reflect":
        for size, pair in zip(x.type.shape, padding, strict=True):
            for amount in pair:
                low.require(amount, size - 1)

    def place(kernel: Kernel, axis: int, i: Any, size: Dim) -> Any:
        before, after = padding[axis]
        last = kernel.dim(size) - literal(1)
        if (before, after) == (0, 0):
            return i
        at = i - kernel.dim(before)
        if node.mode == "replicate":
            return tirx.max(tirx.min(at, last), literal(0))
        return last - tirx.abs(last - tirx.abs(at))

    return _moved(low, "pad", x, types, place)


def _filled(low: Lowering, x: Tensor, node: op.Pad, types: Types) -> Tensor:
    def body(kernel: Kernel, x: View) -> Any:
        def element(*index: Any) -> Any:
            at = [i - kernel.dim(before) for i, (before, _) in zip(index, node.padding, strict=True)]
            inside: list[Any] = []
            for i, extent, (before, after) in zip(at, x.shape, node.padding, strict=True):
                inside += [i >= literal(0)] if before != 0 else []
                inside += [i < extent] if after != 0 else []
            return tirx.if_then_else(tirx.all(*inside), x[at], const(node.value, x.dtype)) if inside else x[at]

        return kernel.stage(types[0].shape, element, order=order)

    order = x.order
    return low.kernel("pad", [x], list(types), body, pattern=Pattern.INJECTIVE, orders=[order])[0]
