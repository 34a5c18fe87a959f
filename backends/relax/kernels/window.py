"""Windows that slide over space: what convolutions and pooling share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from ....compiler.types import Dim, TensorType
from ..half import DTYPES
from ..index import literal
from ..kernel import Kernel, View
from ..lower import Lowering
from ..schedule.inline import PAD
from ..schedule.tile import KEY
from ..tensor import Tensor, channels_last
from ..untyped import tirx
from .numeric import cast
from .tiling import padded, symbolic_height

Pairs = Sequence[tuple[int, int]]
TAPS = 32
"""Steps up to which a reduction channel by channel is unrolled."""


def tiled(
    kernel: Kernel,
    type: TensorType,
    element: Callable[..., Any],
    bias: Sequence[View],
    tile: str,
    attributes: Mapping[str, Any] | None = None,
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
    total = kernel.stage(shape, accumulated, f"{kernel.name}_sum", attributes={KEY: tile, **(attributes or {})})

    def result(n: Any, c: Any, *at: Any) -> Any:
        value = total(n, *at, c)
        for b in bias:
            value = value + cast(b[(c,)], total.dtype)
        return cast(value, DTYPES[type.dtype])

    return kernel.stage(type.shape, result, order=channels_last(type.rank))


def rows_for(rows: Dim, width: int, low: Lowering) -> int:
    """Rows of a tile where every channel is reduced for itself."""
    most = max(1, low.machine.accumulators // 2 // -(-width // low.machine.lanes))
    if not isinstance(rows, int):
        return symbolic_height(rows, most)
    return next((h for h in range(min(most, rows), most // 2, -1) if rows % h == 0), min(most, rows))


def channels_mode(taps: Sequence[int]) -> str:
    """Whether the steps of a reduction channel by channel are few enough to unroll."""
    return "channels" if prod(taps) <= TAPS else "window"


def window(space: Sequence[Any], steps: Sequence[Any], stride: Sequence[int], dilation: Sequence[int]) -> list[Any]:
    """Where a window's taps lie in the (padded) input."""
    return [
        s * literal(st) + step.var * literal(d) for s, step, st, d in zip(space, steps, stride, dilation, strict=True)
    ]


def padding_stage(
    kernel: Kernel, x: View, padding: Pairs, value: Any, channels: Dim | None = None
) -> Callable[..., Any]:
    """A reader of `x` by `(n, *space, channel)` that reaches into the padding, and with `channels` into those that `x`
    lacks; where there are any, a stage holds the value there."""
    batch, own, *space = x.type.shape
    channels = own if channels is None else channels
    if not pads(padding) and channels == own:
        return lambda n, *place: x[(n, place[-1], *place[:-1])]
    extents = x.shape[2:]

    def element(n: Any, *place: Any) -> Any:
        *at, c = place
        inside = [s - literal(before) for s, (before, _) in zip(at, padding, strict=True)]
        valid = [
            condition
            for i, extent, (before, after) in zip(inside, extents, padding, strict=True)
            for condition in ([i >= literal(0)] if before else []) + ([i < extent] if after else [])
        ]
        valid += [] if channels == own else [c < kernel.dim(own)]
        return tirx.if_then_else(tirx.all(*valid), x[(n, c, *inside)], value)

    shape = [batch, *(d + before + after for d, (before, after) in zip(space, padding, strict=True)), channels]
    around = {PAD: " ".join(f"{before} {after}" for before, after in padding)} if channels == own else {}
    return kernel.stage(shape, element, "pad", attributes={"netc.keep": 1, **around})


def pads(padding: Pairs) -> bool:
    return any(before or after for before, after in padding)


def sizes(low: Lowering, weight: Tensor) -> list[int]:
    """The shape of a convolution's weight, which its code is made for."""
    return [low.known(d, "every size of the weight") for d in weight.type.shape]
