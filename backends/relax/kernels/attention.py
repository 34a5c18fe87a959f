"""Scaled dot-product attention as scores, softmax and weighted sum, with rows of scores padded to whole vectors."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

from tvm import tirx

from ....compiler.types import DType, TensorType
from ..index import literal
from ..lower import Kernel, Lowering, Tensor, View
from .linear import matmul
from .normalization import softmax
from .numeric import cast, const
from .tiling import padded, symbolic_width

NEVER = -1e30
"""The score of what must not be attended to: finite, so that a row without anything to attend to gives no NaN."""


def attention(
    low: Lowering,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    type: TensorType,
    *,
    causal: bool,
    scale: float | None,
) -> Tensor:
    """`query` [B, H, T, D], `key` [B, G, S, D], `value` [B, G, S, E], H a multiple of G; the result [B, H, T, E]."""
    batch, heads, length, depth = query.type.shape
    groups, span = key.type.shape[1:3]
    width = value.type.shape[3]
    shared = heads // groups
    dtype = type.dtype
    score_dtype = DType.F32 if dtype in (DType.F16, DType.BF16) else dtype
    total = padded(span, low.machine.lanes if isinstance(span, int) else symbolic_width(low.machine))
    if mask is not None:
        mask = _additive(low, mask, (batch, heads, length, span), total, score_dtype)
        mask = low.reshape(mask, TensorType(score_dtype, _grouped(mask.type.shape, heads, groups, shared)))
    query = low.reshape(query, TensorType(dtype, (batch, groups, shared, length, depth)))
    turned = low.renamed(key, TensorType(dtype, (batch, groups, depth, span)), (0, 1, 3, 2))
    right = low.reshape(turned, TensorType(dtype, (batch, groups, 1, depth, span)))
    factor = scale if scale is not None else 1 / sqrt(_depth(depth))

    def score(raw: Any, index: Sequence[Any], kernel: Kernel, *mask: View) -> Any:
        made = raw * const(factor, "float32" if score_dtype is DType.F32 else "float64")
        t, s = index[-2:]
        if mask:
            made = made + mask[0].broadcast(index)
        limits = [s <= t] if causal else []
        if total != span and not mask:
            limits.append(s < kernel.dim(span))
        never = const(NEVER, "float32" if score_dtype is DType.F32 else "float64")
        return tirx.Select(tirx.all(*limits), made, never) if limits else made

    scores_type = TensorType(score_dtype, (batch, groups, shared, length, total))
    scores = matmul(
        low, query, right, scores_type, name="attention_scores", extra=[mask] if mask else [], epilogue=score
    )
    weights = softmax(low, scores, 4, scores_type)
    values = low.reshape(value, TensorType(dtype, (batch, groups, 1, span, width)))
    made = matmul(
        low,
        weights,
        values,
        TensorType(dtype, (batch, groups, shared, length, width)),
        name="attention",
        order=(0, 3, 1, 2, 4),
        inner=span,
    )
    return low.reshape(made, type)


def _depth(depth: Any) -> int:
    assert isinstance(depth, int)
    return depth


def _grouped(shape: Sequence[Any], heads: Any, groups: Any, shared: Any) -> tuple[Any, ...]:
    b, h, t, s = shape
    return (b, groups, shared, t, s) if h == heads and heads != 1 else (b, 1, 1, t, s)


def _additive(low: Lowering, mask: Tensor, shape: Sequence[Any], total: Any, dtype: DType) -> Tensor:
    """A mask as numbers to add to scores, its last axis padded to `total`. Axes of size 1 stay so."""
    given = (1,) * (4 - mask.type.rank) + mask.type.shape
    mask = low.reshape(mask, TensorType(mask.type.dtype, given))
    span = shape[3]
    wanted = TensorType(dtype, (*given[:3], total))
    text = "float32" if dtype is DType.F32 else "float64"

    def element(index: Sequence[Any], mask: View) -> Any:
        *lead, s = index
        read = mask[(*lead, literal(0) if given[3] == 1 else s)]
        if mask.type.dtype is DType.BOOL:
            read = tirx.Select(read, const(0, text), const(NEVER, text))
        read = cast(read, text)
        if total == span:
            return read
        limit = mask.shape[3] if given[3] != 1 else None
        if limit is None:
            return tirx.Select(s < literal(span), read, const(NEVER, text)) if isinstance(span, int) else read
        return tirx.if_then_else(s < limit, read, const(NEVER, text))

    return low.map("mask", [mask], wanted, element)
