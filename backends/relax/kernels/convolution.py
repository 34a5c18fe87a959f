"""Convolution of any rank: channels last, weights packed by tiles of output channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from ....compiler.operators import convolution as op
from ....compiler.types import Dim, TensorType
from ..choice import Fact, size
from ..half import DTYPES
from ..index import literal
from ..kernel import Kernel, Pattern, View
from ..lower import Inputs, Lowering, Types, rules
from ..schedule.inline import PAD
from ..schedule.tile import KEY
from ..tensor import Tensor, channels_last
from ..untyped import te, tirx
from .numeric import cast, zero
from .tiling import channel_width, padded, read, symbolic_height, tiles, written

Pairs = Sequence[tuple[int, int]]
TAPS = 32
"""Steps up to which a reduction channel by channel is unrolled."""


def convolve(
    low: Lowering,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    type: TensorType,
    *,
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """`x` [N, C, *space] with `weight` [F, C/groups, *kernel]; the result is stored channels last."""
    outputs, inputs, *taps = sizes(low, weight)
    if inputs == 1 and outputs == groups > 1:
        return _depthwise(low, x, weight, bias, type, stride, padding, dilation)

    def places(space: Sequence[Any], steps: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        return window(space, steps, stride, dilation), [step.var for step in steps]

    facts = _facts(x, type, taps, stride, padding, dilation, groups)
    return _contract(low, "conv", x, weight, bias, type, padding, groups, taps, places, facts)


def transpose_convolve(
    low: Lowering,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    type: TensorType,
    *,
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The transpose of a convolution, `weight` [C, F/groups, *kernel], as a gathering: no multiplication by zero.

    Place s of the result receives input i through tap k where s + padding = i · stride + k. So k runs over
    (s + padding) mod stride + j · stride, and i = ⌊(s + padding) / stride⌋ - j. A dilated kernel is spread out first.
    """
    spread, taps = _spread(low, weight, groups, stride, dilation)
    around: list[tuple[int, int]] = []
    for j, st, (before, _), n, out in zip(taps, stride, padding, x.type.shape[2:], type.shape[2:], strict=True):
        beyond = (out - 1 + before) // st - (n - 1)
        assert isinstance(beyond, int)
        around.append((max(0, j - 1 - before // st), max(0, beyond)))

    def places(space: Sequence[Any], steps: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        inputs, kernels = [], []
        for s, step, st, (before, _), (front, _) in zip(space, steps, stride, padding, around, strict=True):
            shifted = s + literal(before)
            inputs.append(tirx.floordiv(shifted, literal(st)) - step.var + literal(front))
            kernels.append(tirx.floormod(shifted, literal(st)) + step.var * literal(st))
        return inputs, kernels

    facts = _facts(x, type, sizes(low, weight)[2:], stride, padding, dilation, groups)
    return _contract(low, "conv_transpose", x, spread, bias, type, around, groups, taps, places, facts)


def _facts(
    x: Tensor,
    type: TensorType,
    taps: Sequence[int],
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    groups: int,
) -> dict[str, Fact]:
    """What the speed of a convolution depends on."""
    return {
        "input": tuple(map(size, x.type.shape)), "output": tuple(map(size, type.shape)), "kernel": tuple(taps),
        "stride": tuple(stride), "padding": tuple(n for pair in padding for n in pair), "dilation": tuple(dilation),
        "groups": groups, "dtype": type.dtype.value,
    }  # fmt: skip


def _spread(
    low: Lowering, weight: Tensor, groups: int, stride: Sequence[int], dilation: Sequence[int]
) -> tuple[Tensor, list[int]]:
    """The weight as `[F, C/groups, *kernel]` with the dilation's zeros, and the taps of each phase of the stride."""
    inputs, per_group, *kernel = sizes(low, weight)
    taps = [-(-((k - 1) * d + 1) // st) for k, d, st in zip(kernel, dilation, stride, strict=True)]
    each = inputs // groups

    def element(index: Sequence[Any], w: View) -> Any:
        f, c, *at = index
        exists = [
            condition
            for i, k, d in zip(at, kernel, dilation, strict=True)
            for condition in (tirx.floormod(i, literal(d)) == literal(0), i < literal(k * d))
        ]
        source = [tirx.floordiv(i, literal(d)) for i, d in zip(at, dilation, strict=True)]
        channel = tirx.floordiv(f, literal(per_group)) * literal(each) + c
        read = w[(channel, tirx.floormod(f, literal(per_group)), *source)]
        return tirx.if_then_else(tirx.all(*exists), read, zero(w.dtype))

    shape = (per_group * groups, each, *(j * st for j, st in zip(taps, stride, strict=True)))
    return low.map("spread", [weight], TensorType(weight.type.dtype, shape), element), taps


def _contract(
    low: Lowering,
    name: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    type: TensorType,
    padding: Pairs,
    groups: int,
    taps: Sequence[int],
    places: Callable[..., tuple[Sequence[Any], Sequence[Any]]],
    facts: Mapping[str, Fact],
) -> Tensor:
    """Sum over taps and channels; `places` gives where a place of the result and taps lie in input and kernel."""
    outputs, inputs = sizes(low, weight)[:2]
    order = channels_last(type.rank)
    if not pads(padding):
        x = low.reorder(x, order)
    per_group = outputs // groups
    candidates = tiles(type.shape[-1], per_group, low.machine)
    if groups > 1:
        dividing = next(w for w in (4 * low.machine.lanes >> i for i in range(8)) if per_group % w == 0)
        candidates = [(height, min(dividing, 2 * low.machine.lanes)) for height, _ in candidates]
    height, width = read(low.choose(name, facts, {"tile": [written(tile) for tile in candidates]})["tile"])

    def body(kernel: Kernel, x: View, w: View, *bias: View) -> Any:
        source = padding_stage(kernel, x, padding, zero(x.dtype))
        steps = [kernel.axis(n, f"k{i}") for i, n in enumerate(taps)]
        c = kernel.axis(inputs, "c")
        dtype = x.dtype

        def product(n: Any, *place: Any) -> Any:
            *space, f = place
            at, tap = places(space, steps)
            channel = c.var if groups == 1 else f // literal(per_group) * literal(inputs) + c.var
            factor = w[(f // literal(width), *tap, c.var, f % literal(width))]
            return te.sum(cast(source(n, *at, channel), dtype) * cast(factor, dtype), axis=[*steps, c])

        return tiled(kernel, type, product, bias, f"{height} {width} image")

    operands = [x, pack(low, weight, width), *([bias] if bias is not None else [])]
    return low.kernel(name, operands, [type], body, pattern=Pattern.FUSABLE, orders=[order])[0]


def _depthwise(
    low: Lowering,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    type: TensorType,
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
) -> Tensor:
    channels, _, *taps = sizes(low, weight)
    order = channels_last(type.rank)
    width = channel_width(channels, low.machine)
    height = rows_for(type.shape[-1], width, low)
    last = low.reorder(weight, (*range(1, weight.type.rank), 0))
    if not pads(padding):
        x = low.reorder(x, order)

    def body(kernel: Kernel, x: View, w: View, *bias: View) -> Any:
        source = padding_stage(kernel, x, padding, zero(x.dtype))
        steps = [kernel.axis(n, f"k{i}") for i, n in enumerate(taps)]
        dtype = x.dtype

        def product(n: Any, *place: Any) -> Any:
            *space, c = place
            value = source(n, *window(space, steps, stride, dilation), c)
            factor = w[(c, literal(0), *(s.var for s in steps))]
            return te.sum(cast(value, dtype) * cast(factor, dtype), axis=steps)

        return tiled(kernel, type, product, bias, f"{height} {width} {channels_mode(taps)}")

    operands = [x, last, *([bias] if bias is not None else [])]
    return low.kernel("depthwise_conv", operands, [type], body, pattern=Pattern.FUSABLE, orders=[order])[0]


def rows_for(rows: Dim, width: int, low: Lowering) -> int:
    """Rows of a tile where every channel is reduced for itself."""
    most = max(1, low.machine.accumulators // 2 // -(-width // low.machine.lanes))
    if not isinstance(rows, int):
        return symbolic_height(rows, most)
    return next((h for h in range(min(most, rows), most // 2, -1) if rows % h == 0), min(most, rows))


def tiled(
    kernel: Kernel,
    type: TensorType,
    element: Callable[..., Any],
    bias: Sequence[View],
    tile: str,
) -> Any:
    """The two stages of a tiled reduction: `element(n, *space, channel)` accumulated, then the result, channels last.

    Where the tile does not divide the last axis of space, the accumulation runs over whole tiles all the same and its
    surplus rows repeat the last one.
    """
    batch, channels, *space = type.shape
    height, width, _ = tile.split()
    height, width = int(height), int(width)
    whole, ragged = kernel.whole(space[-1], height)
    last = kernel.dim(space[-1])

    def accumulated(n: Any, *place: Any) -> Any:
        *at, c = place
        if ragged:
            at[-1] = tirx.min(at[-1], last - literal(1))
        return element(n, *at, c)

    shape = [batch, *space[:-1], whole, padded(channels, width)]
    total = kernel.stage(shape, accumulated, f"{kernel.name}_sum", attributes={KEY: tile})

    def result(n: Any, c: Any, *at: Any) -> Any:
        value = total(n, *at, c)
        for b in bias:
            value = value + cast(b[(c,)], total.dtype)
        return cast(value, DTYPES[type.dtype])

    return kernel.stage(type.shape, result, order=channels_last(type.rank))


def channels_mode(taps: Sequence[int]) -> str:
    """Whether the steps of a reduction channel by channel are few enough to unroll."""
    return "channels" if prod(taps) <= TAPS else "window"


def window(space: Sequence[Any], steps: Sequence[Any], stride: Sequence[int], dilation: Sequence[int]) -> list[Any]:
    """Where a window's taps lie in the (padded) input."""
    return [
        s * literal(st) + step.var * literal(d) for s, step, st, d in zip(space, steps, stride, dilation, strict=True)
    ]


def padding_stage(kernel: Kernel, x: View, padding: Pairs, value: Any) -> Callable[..., Any]:
    """A reader of `x` by `(n, *space, channel)` that reaches into the padding, if any, which is then a stage."""
    if not pads(padding):
        return lambda n, *place: x[(n, place[-1], *place[:-1])]
    batch, channels, *space = x.type.shape
    extents = x.shape[2:]

    def element(n: Any, *place: Any) -> Any:
        *at, c = place
        inside = [s - literal(before) for s, (before, _) in zip(at, padding, strict=True)]
        valid = [
            condition
            for i, extent, (before, after) in zip(inside, extents, padding, strict=True)
            for condition in ([i >= literal(0)] if before else []) + ([i < extent] if after else [])
        ]
        return tirx.if_then_else(tirx.all(*valid), x[(n, c, *inside)], value)

    shape = [batch, *(d + before + after for d, (before, after) in zip(space, padding, strict=True)), channels]
    around = " ".join(f"{before} {after}" for before, after in padding)
    return kernel.stage(shape, element, "pad", attributes={"netc.keep": 1, PAD: around})


def pads(padding: Pairs) -> bool:
    return any(before or after for before, after in padding)


def pack(low: Lowering, weight: Tensor, width: int) -> Tensor:
    """`[F, C, *kernel]` as `[F/width, *kernel, C, width]`, surplus output channels zero."""
    outputs, inputs, *taps = sizes(low, weight)
    tiles = -(-outputs // width)

    def element(index: Sequence[Any], w: View) -> Any:
        tile, *at, c, lane = index
        f = tile * literal(width) + lane
        value = w[(f, c, *at)]
        return value if outputs % width == 0 else tirx.if_then_else(f < literal(outputs), value, zero(w.dtype))

    shape = (tiles, *taps, inputs, width)
    type = TensorType(weight.type.dtype, shape)
    key = ("pack", *weight.key, width)
    return low.once(key, lambda: low.map("pack", [weight], type, element))


def sizes(low: Lowering, weight: Tensor) -> list[int]:
    """The shape of a convolution's weight, which its code is made for."""
    return [low.known(d, "every size of the weight") for d in weight.type.shape]


@rules(op.Conv1d, op.Conv2d, op.Conv3d)
def _convolution(low: Lowering, node: op.Convolution, inputs: Inputs, types: Types) -> Tensor:
    x, weight, bias = inputs
    return convolve(
        low,
        x,
        weight,
        bias,
        types[0],
        stride=node.stride,
        padding=node.padding,
        dilation=node.dilation,
        groups=node.groups,
    )


@rules(op.ConvTranspose1d, op.ConvTranspose2d, op.ConvTranspose3d)
def _transposed(low: Lowering, node: op.Transposed, inputs: Inputs, types: Types) -> Tensor:
    x, weight, bias = inputs
    return transpose_convolve(
        low,
        x,
        weight,
        bias,
        types[0],
        stride=node.stride,
        padding=node.padding,
        dilation=node.dilation,
        groups=node.groups,
    )
