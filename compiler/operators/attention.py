"""Attention and rotary positions."""

from __future__ import annotations

from collections.abc import Sequence

from ..types import Dim, DType, TensorType, divide
from .activation import Softmax
from .arithmetic import Add, Cast, Cos, Le, Mul, Rsqrt, Sin, Sub, Where
from .attribute import Flag, PositiveReal, Real
from .creation import Arange, Constant, scalar
from .dimension import aligned, given, labels, need_float, pattern
from .layout import Concat, Permute, Reshape, Split, Stack
from .linear import Matmul
from .operator import Axes, Cost, Emit, Operator, ShapeError, Types, V, operands, operator, sample
from .parameter import divided, same_dtype


def _four(op: Operator, inputs: Sequence[TensorType | None]) -> tuple[TensorType, TensorType, TensorType]:
    query, key, value = given(inputs[:3])
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
    serves H / K consecutive query heads (grouped-query, Ainslie et al. 2023). `mask` broadcasts to `[B, H, T, S]`: a
    bool one is true where attention is allowed, a float one is added; a query that a bool one allows nothing gives 0.
    `is_causal` lets position t see s ≤ t. `scale` defaults to 1/√D.
    """

    operands = operands("query key value mask?")
    derived = True
    is_causal: Flag = False
    scale: Real | None = None

    def canonical(self, *inputs: TensorType | None) -> ScaledDotProductAttention:
        query, _, _ = _four(self, inputs)
        size = query.shape[3]
        if self.scale is not None or not isinstance(size, int) or size == 0:
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

    def axes(self, *inputs: TensorType | None) -> Axes:
        query, key, _ = _four(self, inputs)
        heads, shared = ("h", "h") if query.shape[1] == key.shape[1] else ("(k g)", "k")
        groups = [["n", heads, "t", "d"], ["n", shared, "s", "d"], ["n", shared, "s", "e"]]
        target = (*query.shape[:3], key.shape[2])
        groups += [aligned(mask.shape, target, ["n", heads, "t", "s"]) for mask in given(inputs[3:])]
        ordered = frozenset("ts" if self.is_causal else "")
        mixed = frozenset("sd" if self.scale is None else "s")
        units = {"h": "head"} if heads == "h" else {"k": "key head", "g": "query head"}
        return Axes(pattern(groups, ["n", heads, "t", "e"]), ordered=ordered, mixed=mixed, units=units)

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        """Query heads that share a key head become rows of one product, so that keys are not copied."""
        query, key, value, mask = (*inputs, None)[:4]
        assert query is not None
        assert key is not None
        assert value is not None
        q, k = emit.type(query), emit.type(key)
        n, heads, t, d = q.shape
        s, shared = k.shape[2], k.shape[1]
        rows = self._groups(q, k) * t
        full = (n, heads, t, s)
        query = emit(Mul(), query, self._scale(emit, q))
        scores = emit(Matmul(), _shaped(emit, query, (n, shared, rows, d)), emit(Permute((0, 1, 3, 2)), key))
        weights = self._weights(emit, _shaped(emit, scores, full), mask)
        result = emit(Matmul(), _shaped(emit, weights, (n, shared, rows, s)), value)
        return _shaped(emit, result, (n, heads, t, emit.type(value).shape[3]))

    def _scale(self, emit: Emit[V], query: TensorType) -> V:
        if self.scale is not None:
            return scalar(emit, self.scale, query.dtype)
        return emit(Rsqrt(), scalar(emit, query.shape[3], query.dtype))

    def _weights(self, emit: Emit[V], scores: V, mask: V | None) -> V:
        """Softmax over the keys that may be seen."""
        kind = emit.type(scores)
        if self.is_causal:
            mask = _causal(emit, kind)
        if mask is None:
            return emit(Softmax(3), scores)
        if emit.type(mask).dtype is not DType.BOOL:
            return emit(Softmax(3), emit(Add(), scores, mask))
        hidden = scalar(emit, -6e4 if kind.dtype is DType.F16 else -1e30, kind.dtype)
        weights = emit(Softmax(3), emit(Where(), mask, scores, hidden))
        # Where nothing may be seen, all scores are equal and softmax gives 1/S. A causal row always sees s = 0.
        return weights if self.is_causal else emit(Mul(), weights, emit(Cast(kind.dtype), mask))


def _equal(op: Operator, what: str, axis: int, types: Sequence[TensorType], places: Sequence[int]) -> None:
    first = types[0]
    for i, t in zip(places, types, strict=True):
        if t.shape[axis] != first.shape[axis]:
            a, b = op.operands[places[0]].name, op.operands[i].name
            raise ShapeError(
                f"{op.name} needs one {what} (axis {axis}) in {a} and {b}, "
                f"but they have {first.shape[axis]} and {t.shape[axis]}: {first} and {t}",
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
                f"the positions of {self.name} are {positions}, but {x} needs [{x.shape[-2]}], "
                f"one for each place of axis {x.rank - 2}",
                operands=(0, 1),
            )
        return (x,)

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        """Two products and a sum an element; the angles' cosines and sines do not depend on the input."""
        return Cost(flops=outputs[0].elements * 3)

    def axes(self, *inputs: TensorType | None) -> Axes:
        x, *positions = given(inputs)
        names = labels(x.rank)
        fixed = {names[-1]: "each pair of features turns by its own angle"}
        ordered = frozenset(names[-2:-1][len(positions) :])
        return Axes(pattern([names, *[names[-2:-1] for _ in positions]], names), fixed, ordered)

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        x, positions = (*inputs, None)[:2]
        assert x is not None
        kind = emit.type(x)
        *lead, size = kind.shape
        assert isinstance(size, int)
        half = size // 2
        cos, sin = self._turns(emit, positions, kind, size)
        if self.interleaved:
            pairs = emit.many(Split((1, 1), kind.rank), emit(Reshape((*lead, half, 2)), x))
            a, b = (emit(Reshape((*lead, half)), p) for p in pairs)
        else:
            a, b = emit.many(Split((half, half), kind.rank - 1), x)
        real = emit(Sub(), emit(Mul(), a, cos), emit(Mul(), b, sin))
        imaginary = emit(Add(), emit(Mul(), b, cos), emit(Mul(), a, sin))
        if self.interleaved:
            return emit(Reshape(kind.shape), emit(Stack(kind.rank), real, imaginary))
        return emit(Concat(kind.rank - 1), real, imaginary)

    def _turns(self, emit: Emit[V], positions: V | None, x: TensorType, size: int) -> tuple[V, V]:
        """Cosines and sines [T, D/2]; angles are computed in f32 at least, as 16 bits do not hold positions."""
        length = x.shape[-2]
        wide = DType.F64 if x.dtype is DType.F64 else DType.F32
        places = emit(Arange(0, length, 1, wide)) if positions is None else emit(Cast(wide), positions)
        frequencies = tuple(self.base ** (-i / size) for i in range(0, size, 2))
        angles = emit(Mul(), emit(Reshape((length, 1)), places), emit(Constant(frequencies, wide)))
        cos, sin = emit(Cos(), angles), emit(Sin(), angles)
        return (cos, sin) if x.dtype is wide else (emit(Cast(x.dtype), cos), emit(Cast(x.dtype), sin))


def _shaped(emit: Emit[V], x: V, shape: tuple[Dim, ...]) -> V:
    return x if emit.type(x).shape == shape else emit(Reshape(shape), x)


def _causal(emit: Emit[V], scores: TensorType) -> V:
    """True where key s ≤ query t, [T, S]."""
    t, s = scores.shape[2:]
    return emit(Le(), emit(Arange(0, s)), emit(Reshape((t, 1)), emit(Arange(0, t))))


sample(ScaledDotProductAttention(), "f32[2, 2, 3, 4]", "f32[2, 2, 5, 4]", "f32[2, 2, 5, 6]", None)
sample(ScaledDotProductAttention(True), "f32[1, 2, 4, 4]", "f32[1, 2, 4, 4]", "f32[1, 2, 4, 4]", None)
sample(ScaledDotProductAttention(True, 0.5), "f32[2, 4, 3, 2]", "f32[2, 2, 5, 2]", "f32[2, 2, 5, 2]", None)
sample(ScaledDotProductAttention(), "f32[2, 4, 3, 2]", "f32[2, 1, 3, 2]", "f32[2, 1, 3, 2]", None)
sample(ScaledDotProductAttention(), "f32[2, 2, 3, 4]", "f32[2, 2, 5, 4]", "f32[2, 2, 5, 4]", "f32[2, 1, 1, 5]")
sample(ScaledDotProductAttention(), "f32[2, 2, 3, 4]", "f32[2, 2, 5, 4]", "f32[2, 2, 5, 4]", "bool[3, 5]")
sample(ScaledDotProductAttention(), "f32[2, 6, 3, 4]", "f32[2, 2, 5, 4]", "f32[2, 2, 5, 4]", "bool[2, 6, 3, 5]")
sample(RotaryEmbedding(), "f32[2, 2, 3, 4]", None)
sample(RotaryEmbedding(500.0, True), "f32[2, 3, 6]", None)
sample(RotaryEmbedding(), "f32[2, 5, 4]", "i64[5]", high={1: 9})
