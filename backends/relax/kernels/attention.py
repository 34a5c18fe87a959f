"""Scaled dot-product attention: in one pass, or where features have no number as scores, softmax and weighted sum."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

from ....compiler.operators import attention as op
from ....compiler.types import Dim, DType, TensorType
from ..half import DTYPES, single
from ..index import literal
from ..kernel import Kernel, Pattern, View
from ..lower import Inputs, Lowering, Types, rules
from ..tensor import Tensor
from ..untyped import tirx
from .flash import flash
from .linear import matmul
from .normalization import softmax
from .numeric import cast, const, dtype_of
from .tiling import padded, symbolic_width


def attention(
    low: Lowering,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    type: TensorType,
    *,
    causal: bool,
    scale: float,
) -> Tensor:
    """`query` [B, H, T, D], `key` [B, G, S, D], `value` [B, G, S, E], H a multiple of G; the result [B, H, T, E].

    What must not be attended to has the score -∞; a query that sees nothing gives zeros.
    """
    batch, heads, length, depth = query.type.shape
    groups = key.type.shape[1]
    lead = (batch, groups, heads // groups)
    width = value.type.shape[3]
    alone = isinstance(length, int) and 4 * length < 3 * low.machine.lanes and not low.owner
    if alone or low.machine.gpu or not (isinstance(depth, int) and isinstance(width, int)):
        # A few queries would leave most lanes empty; a group is one kernel all the same. GPUs want formulas.
        return scattered(low, query, key, value, mask, type, causal=causal, scale=scale)

    def grouped(tensor: Tensor) -> Tensor:
        return _grouped(low, tensor, heads, groups)

    def score(raw: Any, index: Sequence[Any], kernel: Kernel, *mask: View) -> Any:
        return masked(raw, mask[0].type.dtype, mask[0].broadcast(index)) if mask else raw

    made = flash(
        low,
        grouped(query),
        grouped(key),
        grouped(value),
        TensorType(type.dtype, (*lead, length, width)),
        extra=[] if mask is None else [grouped(_of_rank(low, mask, 4))],
        score=None if mask is None else score,
        scale=scale,
        causal=causal,
        sparse=True,
        order=(0, 3, 1, 2, 4),  # heads inside positions, as the projection that follows reads them
    )
    return low.reshape(made, type)


def masked(score: Any, dtype: DType, mask: Any) -> Any:
    """A score under an element of a mask of a dtype: seen or not, or a number to add."""
    kind = dtype_of(score)
    return tirx.Select(mask, score, const(-inf, kind)) if dtype is DType.BOOL else score + cast(mask, kind)


def _grouped(low: Lowering, tensor: Tensor, heads: Dim, groups: Dim) -> Tensor:
    """`[B, H, T, ·]` as `[B, G, H/G, T, ·]`, whatever of it is 1."""
    b, h, *rest = tensor.type.shape
    split = (groups, heads // groups) if h == heads else (h, 1)
    return low.reshape(tensor, TensorType(tensor.type.dtype, (b, *split, *rest)))


def _of_rank(low: Lowering, tensor: Tensor, rank: int) -> Tensor:
    return low.reshape(tensor, TensorType(tensor.type.dtype, (1,) * (rank - tensor.type.rank) + tensor.type.shape))


def scattered(
    low: Lowering,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    type: TensorType,
    *,
    causal: bool,
    scale: float,
) -> Tensor:
    """The same with all scores in memory: three kernels, and two that lay out keys and mask.

    Rows of scores are padded to whole vectors.
    """
    batch, heads, length, depth = query.type.shape
    groups, span = key.type.shape[1:3]
    width = value.type.shape[3]
    shared = heads // groups
    dtype = type.dtype
    scores_dtype = single(type).dtype
    text = DTYPES[dtype]
    total = padded(span, low.machine.lanes if isinstance(span, int) else symbolic_width(low.machine))

    def grouped(tensor: Tensor) -> Tensor:
        return _grouped(low, tensor, heads, groups)

    extra: list[Tensor] = []
    if mask is not None:
        extra.append(grouped(_additive(low, _of_rank(low, mask, 4), span, total, scores_dtype)))

    def score(raw: Any, index: Sequence[Any], kernel: Kernel, *mask: View) -> Any:
        made = raw * const(scale, text)
        t, s = index[-2:]
        if mask:
            made = made + mask[0].broadcast(index)
        limits = [s <= t] if causal else []
        if total != span and not mask:
            limits.append(s < kernel.dim(span))
        return tirx.Select(tirx.all(*limits), made, const(-inf, text)) if limits else made

    columns = low.reshape(low.renamed(key, (0, 1, 3, 2)), TensorType(dtype, (batch, groups, 1, depth, span)))
    scores_type = TensorType(scores_dtype, (batch, groups, shared, length, total))
    scores = matmul(low, grouped(query), columns, scores_type, name="attention_scores", extra=extra, epilogue=score)
    made = matmul(
        low,
        softmax(low, scores, 4, scores_type, sparse=True),
        low.reshape(value, TensorType(dtype, (batch, groups, 1, span, width))),
        TensorType(dtype, (batch, groups, shared, length, width)),
        name="attention",
        order=(0, 3, 1, 2, 4),  # heads inside positions, as the projection that follows reads them
        inner=span,
    )
    return low.reshape(made, type)


def _additive(low: Lowering, mask: Tensor, span: Dim, total: Dim, dtype: DType) -> Tensor:
    """A mask [·, ·, ·, S] as numbers to add to scores, its last axis padded to `total`."""
    text = DTYPES[dtype]

    def element(index: Sequence[Any], mask: View) -> Any:
        *lead, s = index
        once = mask.type.shape[3] == 1
        read = mask[(*lead, literal(0) if once else tirx.min(s, mask.shape[3] - literal(1)))]
        if mask.type.dtype is DType.BOOL:
            read = tirx.Select(read, const(0, text), const(-inf, text))
        return cast(read, text)

    def body(kernel: Kernel, mask: View) -> Any:
        def bounded(*index: Any) -> Any:
            read = element(index, mask)
            return read if total == span else tirx.Select(index[3] < kernel.dim(span), read, const(-inf, text))

        return kernel.stage(type.shape, bounded)

    type = TensorType(dtype, (*mask.type.shape[:3], total))
    return low.kernel("mask", [mask], [type], body, pattern=Pattern.INJECTIVE)[0]


@rules(op.ScaledDotProductAttention)
def _attention(low: Lowering, node: op.ScaledDotProductAttention, inputs: Inputs, types: Types) -> Tensor:
    scale = low.known(inputs[0].type.shape[3], "the size of heads") ** -0.5 if node.scale is None else node.scale
    query, key, value, mask = inputs
    return attention(low, query, key, value, mask, types[0], causal=node.is_causal, scale=scale)


@rules(op.RotaryEmbedding)
def _rotary(low: Lowering, node: op.RotaryEmbedding, inputs: Inputs, types: Types) -> Tensor:
    """Each feature times a cosine, plus its partner times a sine; tables in float64, which hold far positions."""
    x, positions = inputs
    (type,) = types
    length = type.shape[-2]
    size = low.known(type.shape[-1], "the number of features")
    half = literal(size // 2)
    dtype = DTYPES[type.dtype]

    def angle(index: Sequence[Any], positions: Sequence[View]) -> Any:
        t, d = index
        pair = tirx.floordiv(d, literal(2)) if node.interleaved else tirx.floormod(d, half)
        place = positions[0][(t,)] if positions else t
        exponent = cast(pair, "float64") * const(-2 / size, "float64")
        return cast(place, "float64") * tirx.power(const(node.base, "float64"), exponent)

    def first(d: Any) -> Any:
        return tirx.EQ(tirx.floormod(d, literal(2)), literal(0)) if node.interleaved else d < half

    table = TensorType(DType.F64 if type.dtype is DType.F64 else DType.F32, (length, size))
    wide = DTYPES[table.dtype]
    given = [positions] if positions is not None else []
    cosines = low.map("cosines", given, table, lambda i, *p: cast(tirx.cos(angle(i, p)), wide))

    def sine(index: Sequence[Any], *positions: View) -> Any:
        value = tirx.sin(angle(index, positions))
        return cast(tirx.Select(first(index[1]), -value, value), wide)

    sines = low.map("sines", given, table, sine)

    def turned(index: Sequence[Any], x: View, cosines: View, sines: View) -> Any:
        *_, t, d = index
        beside = d + literal(1) - tirx.floormod(d, literal(2)) * literal(2)
        other = beside if node.interleaved else tirx.floormod(d + half, half + half)
        straight = cast(x[index], wide) * cosines[(t, d)]
        return cast(straight + cast(x[[*index[:-1], other]], wide) * sines[(t, d)], dtype)

    return low.map("rotary", [x, cosines, sines], type, turned, order=x.order)
