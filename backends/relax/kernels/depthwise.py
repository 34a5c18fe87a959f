"""Depthwise convolution: every channel by itself, channels last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....compiler.types import Dim, TensorType
from ..choice import Fact, size
from ..index import literal
from ..kernel import Kernel, Pattern, View
from ..lower import Lowering
from ..machine import Machine
from ..schedule.channels import ROWS
from ..schedule.injective import TASKS
from ..tensor import Tensor, channels_last
from ..untyped import te
from .numeric import cast, zero
from .tiling import read, symbolic_height, written
from .window import Pairs, channels_mode, padding_stage, pads, sizes, tiled, window

TALLEST = 14
"""Results of a row to compute at once, at most: their code is written out."""


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
    taps = sizes(low, weight)[2:]
    order = channels_last(type.rank)
    chosen = choose_tile(low, "depthwise_conv", x, type, taps, stride)
    height, width = read(chosen["tile"])
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

        return tiled(kernel, type, product, bias, f"{height} {width} {channels_mode(taps)}", {ROWS: chosen["rows"]})

    operands = [x, last, *([bias] if bias is not None else [])]
    return low.kernel("depthwise_conv", operands, [type], body, pattern=Pattern.FUSABLE, orders=[order])[0]


def choose_tile(
    low: Lowering, kind: str, x: Tensor, type: TensorType, taps: Sequence[int], stride: Sequence[int]
) -> Mapping[str, Any]:
    """The `tile` of columns × channels, and the `rows` of a task, for windows of so many taps along each axis."""
    channels = low.known(type.shape[1], "the number of channels")
    facts: dict[str, Fact] = {
        "input": tuple(map(size, x.type.shape)), "output": tuple(map(size, type.shape)), "kernel": tuple(taps),
        "stride": tuple(stride), "dtype": type.dtype.value,
    }  # fmt: skip
    found = tiles(type.shape[-1], channels, taps[-1], stride[-1], low.machine)
    rows = rows_of_task(x, type, found[0][1], low.machine)
    return low.choose(kind, facts, {"tile": [written(t) for t in found], "rows": rows})


def tiles(columns: Dim, channels: int, taps: int, stride: int, machine: Machine) -> list[tuple[int, int]]:
    """Columns × channels to compute at once, the best first; channels are a divisor of all, or 1 where no vector is.

    For every row of the window a tile loads its columns of the image and the weights once, and keeps the weights in
    registers beside the sums if they fit.
    """
    lanes = machine.lanes
    widths = [v * lanes for v in (1, 2, 3, 4)] + [w for w in (8, 4) if w < lanes]
    widths = [w for w in widths if channels % w == 0] or [1]
    if widths[0] >= lanes:
        widths = [w for w in widths if w >= lanes]
    found: dict[tuple[int, int], float] = {}
    for width in widths:
        vectors = -(-max(width, lanes) // lanes)
        most = max(1, (machine.registers - 3) // vectors)
        heights = range(1, min(columns, most, TALLEST) + 1) if isinstance(columns, int) else ()
        for height in heights or (symbolic_height(columns, max(1, most // 2)),):
            found[height, width] = _score(columns, height, vectors, taps, stride, machine)
    return sorted(found, key=lambda tile: -found[tile])[:12]


def _score(columns: Dim, height: int, vectors: int, taps: int, stride: int, machine: Machine) -> float:
    """Multiplications for each instruction and place, about."""
    products = height * taps * vectors
    kept = (height + taps) * vectors + 1 <= machine.registers - 1
    loads = ((height - 1) * stride + taps) * vectors + taps * vectors
    loads += 0 if kept else (height - 1) * taps * vectors
    chains = min(1.0, height * vectors / 10)
    used = columns / (-(-columns // height) * height) if isinstance(columns, int) else 1.0
    lines = 1.0 if vectors == 2 else 0.93  # two vectors are two neighbouring lines of cache
    return round(chains * used * lines * products / (products + 0.5 * loads), 9)


def rows_of_task(x: Tensor, type: TensorType, width: int, machine: Machine) -> list[int]:
    """Rows of results that a task computes, the best first: many, for those at its border are read once more.

    What they read of all channels stays in cache from one vector of channels to the next, and all threads have work.
    """
    sizes = [d for d in (*type.shape[1:], *x.type.shape[2:]) if isinstance(d, int)]
    if len(sizes) != 5:
        return [1]  # neither this nor another: images with symbols for sizes are padded
    channels, height, _, rows, columns = sizes
    batch = type.shape[0]
    fit = machine.cache // 2 // (channels * columns * 4) * height // rows
    panels = -(-channels // width) * (batch if isinstance(batch, int) else 1)
    tasks = TASKS * machine.threads if machine.threads > 1 else 1
    divided = height * panels // tasks
    first = max(1, min(height, fit, divided))
    even = -(-height // -(-height // first))
    return [even, height, -(-height // 2), -(-height // 4), 8, 4, 2]
