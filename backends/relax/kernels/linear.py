"""Matrix products: rows of the left operand by columns of the right, which lie contiguous or are packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from ....compiler.types import Dim, TensorType, volume
from ..index import flatten, literal, unflatten
from ..lower import DTYPES, Kernel, Lowering, Order, Pattern, Tensor, View, logical, plain
from ..schedule.tile import KEY
from .numeric import accumulator, cast, zero
from .tiling import padded, symbolic_width, tiling

Epilogue = Callable[..., Any]
"""The element of a result from its accumulated value and its logical index: `(value, index, kernel, *views)`."""


def linear(low: Lowering, x: Tensor, weight: Tensor, bias: Tensor | None, type: TensorType) -> Tensor:
    """`x` [..., K] by `weight` [F, K] and `bias` [F]: all leading axes are rows, in the order they are stored."""
    rank = x.type.rank
    inner, columns = weight.type.shape[1], weight.type.shape[0]
    assert isinstance(columns, int)
    order = (*(a for a in x.order if a != rank - 1), rank - 1)
    x = low.reorder(x, order)
    lead = [x.type.shape[a] for a in order[:-1]]
    rows = volume(lead)
    height, width = tiling(rows, columns, low.machine)
    right = low.renamed(weight, TensorType(weight.type.dtype, (inner, columns)), (1, 0))
    packed = pack(low, right, width)

    def body(kernel: Kernel, x: View, w: View, *bias: View) -> Any:
        k = kernel.axis(inner, "k")
        dtype = accumulator(x.dtype)
        extents = [kernel.dim(d) for d in lead]
        last = kernel.dim(rows) - literal(1)
        whole, ragged = kernel.whole(rows, height)

        def product(i: Any, f: Any) -> Any:
            at = unflatten(tirx.min(i, last) if ragged else i, extents)
            value = x[logical(order, [*at, k.var])]
            factor = w[(f // literal(width), k.var, f % literal(width))]
            return te.sum(cast(value, dtype) * cast(factor, dtype), axis=[k])

        shape = [whole, padded(columns, width)]
        total = kernel.stage(shape, product, "linear_sum", attributes={KEY: f"{height} {width} flat"})

        def result(*index: Any) -> Any:
            value = total(flatten([index[a] for a in order[:-1]], extents), index[-1])
            for b in bias:
                value = value + cast(b[(index[-1],)], dtype)
            return cast(value, DTYPES[type.dtype])

        return kernel.stage(type.shape, result, order=order)

    operands = [x, packed, *([bias] if bias is not None else [])]
    return low.kernel("linear", operands, [type], body, pattern=Pattern.FUSABLE, orders=[order])[0]


def matmul(
    low: Lowering,
    a: Tensor,
    b: Tensor,
    type: TensorType,
    *,
    name: str = "matmul",
    order: Order | None = None,
    extra: Sequence[Tensor] = (),
    epilogue: Epilogue | None = None,
    inner: Dim | None = None,
) -> Tensor:
    """`a` [..., M, K] by `b` [..., K, N], leading axes broadcast; surplus columns of the result are zero.

    `order`: how to store the result, columns last. `extra`: what the epilogue reads besides. `inner`: how much of K.
    """
    order = order or plain(type.rank)
    *batch, rows, columns = type.shape
    inner = a.type.shape[-1] if inner is None else inner
    height, width = _tile(rows, columns, low)
    direct = not b.constant and b.order[-1] == b.type.rank - 1 and isinstance(columns, int) and columns % width == 0
    right = b if direct else pack(low, b, width)

    def body(kernel: Kernel, a: View, b: View, *views: View) -> Any:
        k = kernel.axis(inner, "k")
        dtype = accumulator(DTYPES[type.dtype])
        last = kernel.dim(rows) - literal(1)
        whole, ragged = kernel.whole(rows, height)

        def product(*index: Any) -> Any:
            *at, i, j = index
            row = tirx.min(i, last) if ragged else i
            value = a.broadcast([*at, row, k.var])
            tile = [k.var, j] if direct else [j // literal(width), k.var, j % literal(width)]
            lead = at[len(at) - (len(b.shape) - len(tile)) :]
            factor = b[[*(literal(0) if d == 1 else i for i, d in zip(lead, b.type.shape, strict=False)), *tile]]
            return te.sum(cast(value, dtype) * cast(factor, dtype), axis=[k])

        shape = [*batch, whole, kernel.whole(columns, width)[0]]
        tile = f"{height} {width} batch {order.index(len(batch))}"
        total = kernel.stage(shape, product, f"{name}_sum", order=order, attributes={KEY: tile})

        def result(*index: Any) -> Any:
            value = total(*(index[a] for a in order))
            return cast(epilogue(value, index, kernel, *views) if epilogue else value, DTYPES[type.dtype])

        return kernel.stage(type.shape, result, order=order)

    return low.kernel(name, [a, right, *extra], [type], body, pattern=Pattern.FUSABLE, orders=[order])[0]


def _tile(rows: Dim, columns: Dim, low: Lowering) -> tuple[int, int]:
    if isinstance(columns, int):
        return tiling(rows, columns, low.machine)
    return tiling(rows, symbolic_width(low.machine), low.machine)


def pack(low: Lowering, b: Tensor, width: int) -> Tensor:
    """`[..., K, N]` as `[..., N/width, K, width]`, surplus columns zero."""

    def make() -> Tensor:
        *lead, inner, columns = b.type.shape
        tiles = padded(columns, width) // width
        ragged = not isinstance(columns, int) or columns % width != 0

        def element(index: Sequence[Any], b: View) -> Any:
            *at, tile, k, lane = index
            j = tile * literal(width) + lane
            value = b[(*at, k, j)]
            return tirx.if_then_else(j < b.shape[-1], value, zero(b.dtype)) if ragged else value

        return low.map("pack", [b], TensorType(b.type.dtype, (*lead, tiles, inner, width)), element)

    return low.once(("pack", b.expr, b.order, width), make)
