"""Pooling of any rank: channels last, each channel reduced for itself over a window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from ....compiler.operators import pooling as op
from ....compiler.types import Dim, TensorType
from ..half import DTYPES
from ..index import literal
from ..kernel import Kernel, Pattern, View
from ..lower import Inputs, Lowering, Types, rules
from ..schedule.channels import ROWS
from ..schedule.tile import KEY
from ..tensor import Tensor, channels_last
from ..untyped import tirx
from .depthwise import choose_tile
from .numeric import cast, const
from .reduction import MAX, SUM, Monoid
from .tiling import channel_width, read
from .window import Pairs, channels_mode, padding_stage, pads, rows_for, window


def max_pool(
    low: Lowering,
    x: Tensor,
    type: TensorType,
    *,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
) -> Tensor:
    """The largest element of each window; a window may reach beyond the padding (`ceil_mode`)."""
    lowest = MAX.neutral(DTYPES[type.dtype])
    return _pool(
        low,
        "max_pool",
        x,
        type,
        MAX,
        kernel_size,
        stride,
        _cover(x, type, kernel_size, stride, padding, dilation),
        dilation,
        lowest,
        None,
    )


def avg_pool(
    low: Lowering,
    x: Tensor,
    type: TensorType,
    *,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Pairs,
    count_include_pad: bool,
) -> Tensor:
    """The mean of each window, over its elements inside the input or, with `count_include_pad`, the padded input."""
    ones = [1] * len(kernel_size)
    cover = _cover(x, type, kernel_size, stride, padding, ones)
    whole = all(after <= given for (_, after), (_, given) in zip(cover, padding, strict=True))

    def count(kernel: Kernel, place: Sequence[Any]) -> Any:
        if not pads(cover) or (whole and count_include_pad):
            return literal(prod(kernel_size))
        total: Any = literal(1)
        for s, n, st, (before, after), d in zip(place, kernel_size, stride, padding, x.type.shape[2:], strict=True):
            start = s * literal(st) - literal(before)
            size = kernel.dim(d)
            stop = tirx.min(start + literal(n), size + literal(after))
            if not count_include_pad:
                start, stop = tirx.max(start, literal(0)), tirx.min(stop, size)
            total = total * (stop - start)
        return total

    zero = const(0, DTYPES[type.dtype])
    return _pool(low, "avg_pool", x, type, SUM, kernel_size, stride, cover, ones, zero, count)


def _cover(
    x: Tensor,
    type: TensorType,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
) -> Pairs:
    """Padding, with as much more after as the last windows reach beyond it."""
    found: list[tuple[int, int]] = []
    for n, st, (before, after), dl, size, out in zip(
        kernel_size, stride, padding, dilation, x.type.shape[2:], type.shape[2:], strict=True
    ):
        reach = (out - 1) * st + (n - 1) * dl + 1 - before - size
        found.append((before, max(after, reach) if isinstance(reach, int) else max(after, st - 1 + after)))
    return found


def _pool(
    low: Lowering,
    name: str,
    x: Tensor,
    type: TensorType,
    monoid: Monoid,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    filler: Any,
    count: Callable[[Kernel, Sequence[Any]], Any] | None,
) -> Tensor:
    order = channels_last(type.rank)
    if not pads(padding):
        x = low.reorder(x, order)

    def element(kernel: Kernel, x: View) -> tuple[Callable[..., Any], list[Any]]:
        source = padding_stage(kernel, x, padding, filler)
        steps = [kernel.axis(n, f"k{i}") for i, n in enumerate(kernel_size)]
        return lambda n, space, c: source(n, *window(space, steps, stride, dilation), c), steps

    mode = channels_mode(kernel_size)
    return windows(low, name, x, type, monoid, element, count, mode, (kernel_size, stride))


def windows(
    low: Lowering,
    name: str,
    x: Tensor,
    type: TensorType,
    monoid: Monoid,
    element: Callable[[Kernel, View], tuple[Callable[..., Any], list[Any]]],
    count: Callable[[Kernel, Sequence[Any]], Any] | None,
    mode: str,
    regular: tuple[Sequence[int], Sequence[int]] | None = None,
) -> Tensor:
    """Reduce, for every channel and place, what `element` gives; divide by `count` of the place.

    `regular`: taps and strides, where all windows have as many and lie as far apart.
    """
    batch, channels, *space = type.shape
    width = channel_width(channels, low.machine) if isinstance(channels, int) else 1
    height = rows_for(space[-1], width, low)
    attributes: dict[str, int] = {}
    if regular is not None and isinstance(channels, int):
        chosen = choose_tile(low, name, x, type, *regular)
        height, width = read(chosen["tile"])
        attributes = {ROWS: chosen["rows"]}
    order = channels_last(type.rank)

    def body(kernel: Kernel, x: View) -> Any:
        dtype = x.dtype
        value, steps = element(kernel, x)
        last = kernel.dim(space[-1]) - literal(1)
        whole, ragged = kernel.whole(space[-1], height)

        def accumulated(n: Any, *place: Any) -> Any:
            *at, c = place
            if ragged:
                at[-1] = tirx.min(at[-1], last)
            return monoid.over(cast(value(n, at, c), dtype), steps)

        shape = [batch, *space[:-1], whole, channels]
        total = kernel.stage(
            shape, accumulated, f"{name}_all", attributes={KEY: f"{height} {width} {mode}", **attributes}
        )

        def result(n: Any, c: Any, *place: Any) -> Any:
            made = total(n, *place, c)
            if count is not None:
                made = made / cast(count(kernel, place), dtype)
            return cast(made, DTYPES[type.dtype])

        return kernel.stage(type.shape, result, order=order)

    return low.kernel(name, [x], [type], body, pattern=Pattern.FUSABLE, orders=[order])[0]


def adaptive_pool(low: Lowering, x: Tensor, type: TensorType, monoid: Monoid) -> Tensor:
    """Windows ⌊i·n/m⌋ … ⌈(i+1)·n/m⌉ for m outputs of n inputs, their mean (SUM) or largest element (MAX)."""
    sizes, outs = x.type.shape[2:], type.shape[2:]
    kernel_size = [_longest(n, m) for n, m in zip(sizes, outs, strict=True)]
    x = low.reorder(x, channels_last(type.rank))
    name = "adaptive_avg_pool" if monoid is SUM else "adaptive_max_pool"

    def bounds(kernel: Kernel, i: Any, size: Dim, out: Dim) -> tuple[Any, Any]:
        n, m = kernel.dim(size), kernel.dim(out)
        return tirx.floordiv(i * n, m), tirx.floordiv((i + literal(1)) * n + m - literal(1), m)

    def element(kernel: Kernel, x: View) -> tuple[Callable[..., Any], list[Any]]:
        steps = [kernel.axis(n, f"k{i}") for i, n in enumerate(kernel_size)]

        def value(n: Any, space: Sequence[Any], c: Any) -> Any:
            inside, at = [], []
            for i, step, size, out, longest in zip(space, steps, sizes, outs, kernel_size, strict=True):
                start, stop = bounds(kernel, i, size, out)
                at.append(start + step.var)
                if not _even(size, out):
                    inside.append(at[-1] < stop)
                assert longest
            read = x[(n, c, *at)]
            return tirx.if_then_else(tirx.all(*inside), read, monoid.neutral(x.dtype)) if inside else read

        return value, steps

    def count(kernel: Kernel, place: Sequence[Any]) -> Any:
        total: Any = literal(1)
        for i, size, out in zip(place, sizes, outs, strict=True):
            start, stop = bounds(kernel, i, size, out)
            total = total * (stop - start)
        return total

    mode = channels_mode(kernel_size) if all(isinstance(n, int) for n in kernel_size) else "window"
    return windows(low, name, x, type, monoid, element, count if monoid is SUM else None, mode)


def _even(size: Dim, out: Dim) -> bool:
    return out == 1 or (isinstance(size, int) and isinstance(out, int) and size % out == 0)


def _longest(size: Dim, out: Dim) -> Any:
    """The length of the longest window."""
    if out == 1:
        return size
    if isinstance(size, int) and isinstance(out, int):
        return max(-(-(i + 1) * size // out) - i * size // out for i in range(out))
    assert isinstance(out, int)
    return (size + (out - 1)) // out + 1


@rules(op.MaxPool1d, op.MaxPool2d, op.MaxPool3d)
def _max_pool(low: Lowering, node: op.MaxPooling, inputs: Inputs, types: Types) -> Tensor:
    return max_pool(
        low,
        inputs[0],
        types[0],
        kernel_size=node.kernel_size,
        stride=node.stride,
        padding=node.padding,
        dilation=node.dilation,
    )


@rules(op.AvgPool1d, op.AvgPool2d, op.AvgPool3d)
def _avg_pool(low: Lowering, node: op.AvgPooling, inputs: Inputs, types: Types) -> Tensor:
    return avg_pool(
        low,
        inputs[0],
        types[0],
        kernel_size=node.kernel_size,
        stride=node.stride,
        padding=node.padding,
        count_include_pad=node.count_include_pad,
    )


@rules(op.AdaptiveAvgPool1d, op.AdaptiveAvgPool2d, op.AdaptiveAvgPool3d)
def _adaptive_avg_pool(low: Lowering, node: op.AdaptivePooling, inputs: Inputs, types: Types) -> Tensor:
    return adaptive_pool(low, inputs[0], types[0], SUM)


@rules(op.AdaptiveMaxPool2d)
def _adaptive_max_pool(low: Lowering, node: op.AdaptivePooling, inputs: Inputs, types: Types) -> Tensor:
    return adaptive_pool(low, inputs[0], types[0], MAX)
