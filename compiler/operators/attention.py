"""Attention and rotary positions."""

from __future__ import annotations

from collections.abc import Sequence

from ..types import Dim, TensorType, divide
from .attribute import Flag, PositiveReal, Real
from .dimension import need_float
from .operator import Cost, Operator, ShapeError, Types, operands, operator
from .parameter import divided, same_dtype


def _four(op: Operator, inputs: Sequence[TensorType | None]) -> tuple[TensorType, TensorType, TensorType]:
    query, key, value = inputs[:3]
    assert query is not None and key is not None and value is not None
    for i, t in enumerate((query, key, value)):
        if t.rank != 4:
            raise ShapeError(
                f"the {op.operands[i].name} of {op.name} is [B, heads, T, D], not {t} of rank {t.rank}",
                operands=(i,),
                code="rank-mismatch",
                fix='rearrange(x, "b t (h d) -> b h t d", h = heads)' if t.rank == 3 else None,
            )
    return query, key, value


@operator("scaled_dot_product_attention")
class ScaledDotProductAttention(Operator):
    """`softmax(query · keyᵀ · scale + mask) · value` (Vaswani et al. 2017).

    `query [B, H, T, D]`, `key [B, K, S, D]`, `value [B, K, S, E]` give `[B, H, T, E]`. Where K < H, each key head
    serves H / K consecutive query heads (grouped-query, Ainslie et al. 2023). `mask` broadcasts to `[B, H, T, S]`: a bool
    one is true where attention is allowed, a float one is added. `is_causal` lets position t see s ≤ t. `scale`
    defaults to 1/√D.
    """

    operands = operands("query key value mask?")
    derived = True
    is_causal: Flag = False
    scale: Real | None = None

    def canonical(self, *inputs: TensorType | None) -> ScaledDotProductAttention:
        query, _, _ = _four(self, inputs)
        size = query.shape[3]
        if self.scale is not None or not isinstance(size, int):
            return self
        return ScaledDotProductAttention(self.is_causal, size**-0.5)

    def shape(self, *inputs: TensorType | None) -> Types:
        query, key, value = _four(self, inputs)
        same_dtype(self, query, key, value)
        _equal(self, "batch", 0, (query, key, value), (0, 1, 2))
        _equal(self, "head size", 3, (query, key), (0, 1))
        _equal(self, "heads", 1, (key, value), (1, 2))
        _equal(self, "length", 2, (key, value), (1, 2))
        self._groups(query, key)
        self._check_mask(inputs[3] if len(inputs) > 3 else None, query, key)
        return (TensorType(query.dtype, (*query.shape[:3], value.shape[3])),)

    def _groups(self, query: TensorType, key: TensorType) -> Dim:
        """How many query heads share a key head."""
        heads, shared = query.shape[1], key.shape[1]
        if isinstance(shared, int):
            return divided(self.name, "key heads", shared, "query heads", heads)
        ratio = divide(heads, shared)
        if ratio is None:
            raise ShapeError(
                f"{self.name} has {heads} query heads and {shared} key heads, which may not divide them",
                operands=(0, 1),
                code="does-not-divide",
            )
        return ratio

    def _check_mask(self, mask: TensorType | None, query: TensorType, key: TensorType) -> None:
        if mask is None:
            return
        target = (*query.shape[:3], key.shape[2])
        tail = target[len(target) - mask.rank :] if mask.rank <= 4 else ()
        if mask.rank > 4 or any(m not in (1, d) for m, d in zip(mask.shape, tail, strict=True)):
            raise ShapeError(
                f"the mask of {self.name} is {mask}, which does not broadcast to "
                f"[{', '.join(map(str, target))}] (batch, heads, queries, keys)",
                operands=(0, 1, 3),
            )
        if mask.dtype.value != "bool" and mask.dtype is not query.dtype:
            raise ShapeError(
                f"the mask of {self.name} is {mask}: it must be bool (true where attention is allowed), or "
                f"{query.dtype.value} to be added",
                operands=(3,),
                code="dtype-mismatch",
                fix=f"cast(mask, bool) or cast(mask, {query.dtype.value})",
            )
        if self.is_causal:
            raise ShapeError(
                f"{self.name} is given a mask and is_causal, as only one of them is allowed",
                operands=(3,),
                code="causal-with-mask",
                fix="is_causal = false, with a mask that is causal too",
            )

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        """Both products, in full where causal (FlopCounterMode); softmax, scale and mask: 5 or 6 a score."""
        query, key, value = _four(self, inputs)
        scores = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
        masked = self.is_causal or any(t is not None for t in inputs[3:])
        return Cost(scores * (query.shape[3] + value.shape[3]), scores * (6 if masked else 5))


def _equal(op: Operator, what: str, axis: int, types: Sequence[TensorType], places: Sequence[int]) -> None:
    first = types[0]
    for i, t in zip(places, types, strict=True):
        if t.shape[axis] != first.shape[axis]:
            a, b = op.operands[places[0]].name, op.operands[i].name
            raise ShapeError(
                f"{op.name} needs one {what} (axis {axis}) in {a} and {b}, but they have {first.shape[axis]} and {t.shape[axis]}: "
                f"{first} and {t}",
                operands=(places[0], i),
            )


@operator("rotary_embedding")
class RotaryEmbedding(Operator):
    """Turns pairs of features of `x [..., T, D]` by angles `position · base^(-2i/D)` (Su et al. 2021, RoFormer).

    Pair i is (i, i + D/2), as in Llama; with `interleaved` (2i, 2i + 1), as in the paper. `positions [T]` default to
    0 … T-1.
    """

    operands = operands("x positions?")
    derived = True
    base: PositiveReal = 10000.0
    interleaved: Flag = False

    def shape(self, *inputs: TensorType | None) -> Types:
        x, positions = (*inputs, None)[:2]
        assert x is not None
        need_float(self, x)
        if x.rank < 2:
            raise ShapeError(f"{self.name} takes [..., T, D], not {x}", operands=(0,), code="rank-mismatch")
        if not isinstance(x.shape[-1], int):
            raise ShapeError(
                f"{self.name} needs a number of features, not {x.shape[-1]}", operands=(0,), code="symbolic-features"
            )
        divided(self.name, "pairs of", 2, "features", x.shape[-1])
        if positions is not None and positions.shape != (x.shape[-2],):
            raise ShapeError(
                f"the positions of {self.name} are {positions}, but {x} needs [{x.shape[-2]}], one for each place of axis "
                f"{x.rank - 2}",
                operands=(0, 1),
            )
        return (x,)

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        """Two products and a sum an element; the angles' cosines and sines do not depend on the input."""
        return Cost(flops=outputs[0].elements * 3)
