"""Depthwise convolution: every channel by itself, channels last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....compiler.types import TensorType
from ..index import literal
from ..kernel import Kernel, Pattern, View
from ..lower import Lowering
from ..tensor import Tensor, channels_last
from ..untyped import te
from .numeric import cast, zero
from .tiling import channel_width
from .window import Pairs, channels_mode, padding_stage, pads, rows_for, sizes, tiled, window


def depthwise(
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
