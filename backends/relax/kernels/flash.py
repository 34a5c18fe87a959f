"""Attention in one pass: a tile of queries meets the keys block by block, and no row of scores is ever whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ....compiler.types import Dim, TensorType, volume
from ..choice import Fact, size
from ..half import DTYPES, HALF, narrowed
from ..index import literal, unflatten
from ..kernel import Kernel, View
from ..lower import Lowering
from ..machine import Machine
from ..tensor import Order, Tensor, plain
from ..untyped import build as T
from ..untyped import tirx
from .numeric import at_least, cast, const, decay, zero
from .product import product, register_tile
from .program import written

Score = Callable[..., Any]
"""What a score becomes before the softmax: `score(product, index, kernel, *views)`, -∞ where not to be attended to."""

QUERIES = 64
"""Queries of a tile, at most, unless another number is chosen."""
SQUARE = 8
"""Elements of a side of what is transposed at once."""
KEYS = 256
"""Keys of a block, about: their scores and a register tile's columns of their values stay in the nearest caches."""


def flash(
    low: Lowering,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    type: TensorType,
    *,
    extra: Sequence[Tensor] = (),
    score: Score | None = None,
    scale: float = 1.0,
    causal: bool = False,
    sparse: bool = False,
    order: Order | None = None,
) -> Tensor:
    """Softmax of `query` [..., T, D] by `key` [..., S, D] along S, by `value` [..., S, E]: [..., T, E].

    Leading axes broadcast to those of `type`; D and E are numbers. Query t sees no key after t if `causal`, and blocks
    of keys that no query of a tile sees are left out. `score` may read `extra`. A row of nothing but -∞ gives NaN, or
    zeros where rows may be so (`sparse`).

    Maximum and sum of a row run along with its blocks (Milakov and Gimelshein, Online normalizer calculation for
    softmax, 2018; Dao et al., FlashAttention, 2022, algorithm 1): what was summed under a smaller maximum is scaled
    down when a larger one turns up. Queries lie along the lanes of vectors, so that all this takes no sums across them.
    """
    order = order or plain(type.rank)
    *lead, length, width = type.shape
    span, depth = key.type.shape[-2:]
    facts: dict[str, Fact] = {
        "batch": size(volume(lead)), "queries": size(length), "keys": size(span), "depth": size(depth),
        "width": size(width), "causal": causal, "dtype": type.dtype.value,
    }  # fmt: skip
    space = {"queries": _queries(length, low.machine.lanes, causal), "keys": [KEYS, KEYS // 2, KEYS // 4, 2 * KEYS]}
    chosen = low.choose("attention", facts, space)
    program = _Flash(query, key, value, type, order, score, scale, causal, sparse, low.machine, **chosen)
    return written(low, "attention", [query, key, value, *extra], type, program.write, order=order)


class _Flash:
    """What is the same for all tiles."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        type: TensorType,
        order: Order,
        score: Score | None,
        scale: float,
        causal: bool,
        sparse: bool,
        machine: Machine,
        queries: int,
        keys: int,
    ) -> None:
        self.type, self.order, self.score, self.scale = type, order, score, scale
        self.causal, self.sparse, self.machine = causal, sparse, machine
        *self.lead, self.length, width = type.shape
        self.span, depth = key.type.shape[-2:]
        assert isinstance(width, int)
        assert isinstance(depth, int)
        self.depth, self.width = depth, width
        """Features that are compared, and those of the values."""
        lanes = machine.lanes
        self.queries = queries
        self.scores_tile = register_tile(2 * lanes if self.queries % (2 * lanes) == 0 else lanes, machine)
        """Keys × queries."""
        self.values_tile = register_tile(self.padded, machine, rows=self.queries)
        """Queries × features."""
        self.keys = max(1, keys // self.scores_tile[0]) * self.scores_tile[0]
        """Keys of a block."""
        ragged = self.padded != width or value.order[-1] != value.type.rank - 1
        self.copied = (key.type.dtype in HALF, value.type.dtype in HALF or ragged)
        """Whether keys and values of a block are copied to where they can be read."""

    @property
    def dtype(self) -> str:
        return DTYPES[self.type.dtype]

    @property
    def padded(self) -> int:
        return -(-self.width // self.machine.lanes) * self.machine.lanes

    def write(self, kernel: Kernel, views: Sequence[View], out: Any) -> None:
        lead = [kernel.dim(d) for d in self.lead]
        tiles = (kernel.dim(self.length) + literal(self.queries - 1)) // literal(self.queries)
        total = tiles
        for extent in lead:
            total = total * extent
        with T.parallel(literal(0), total) as task:
            at = unflatten(task // tiles, lead)
            _Tile(self, kernel, views, out, at, task % tiles * literal(self.queries)).write()


def _queries(length: Dim, lanes: int, causal: bool) -> list[int]:
    """Queries of a tile, the best first: as many as pay, but no many more than there are or than see the same keys."""
    sizes = [q for q in (QUERIES, QUERIES // 2, lanes, 3 * lanes, 2 * QUERIES) if q % lanes == 0 and q >= lanes]
    if not isinstance(length, int):
        return sizes
    starts = {q: range(0, length, q) for q in sizes[:3]}

    def cost(q: int) -> float:
        return sum(min(start + q, length) if causal else length for start in starts[q]) * (q + 5)

    return [min(starts, key=cost), *sizes]


def _is_table(view: View) -> bool:
    """Whether it has an element for each query and key: queries lie along lanes, where neighbours should be close."""
    return view.type.rank >= 2 and view.type.shape[-2] != 1 and view.number is None


@dataclass(frozen=True)
class _Turned:
    """What is read of a table in place of the table."""

    type: TensorType
    element: Any

    def broadcast(self, _: Sequence[Any]) -> Any:
        """The element at hand."""
        return self.element


class _Tile:
    """The work of one task: the queries from `first` on, at `at` of the leading axes."""

    def __init__(
        self, program: _Flash, kernel: Kernel, views: Sequence[View], out: Any, at: Sequence[Any], first: Any
    ) -> None:
        self.p, self.kernel, self.out, self.at, self.first = program, kernel, out, at, first
        self.query, self.key, self.value, *self.extra = views
        p = program
        self.lanes = literal(p.machine.lanes)
        self.length, self.span = kernel.dim(p.length), kernel.dim(p.span)
        self.count = tirx.min(literal(p.queries), self.length - first)
        self.queries = T.alloc_buffer((p.depth, p.queries), p.dtype)
        self.scores = T.alloc_buffer((p.queries // p.scores_tile[1], p.keys, p.scores_tile[1]), p.dtype)
        self.sums = T.alloc_buffer((p.queries, p.padded), p.dtype)
        self.top = T.alloc_buffer((p.queries,), p.dtype)
        self.total = T.alloc_buffer((p.queries,), p.dtype)
        self.factor = T.alloc_buffer((p.queries,), p.dtype)
        self.keys = T.alloc_buffer((p.keys, p.depth), p.dtype) if p.copied[0] else None
        self.values = T.alloc_buffer((p.keys, p.padded), p.dtype) if p.copied[1] else None
        self.turned = [
            T.alloc_buffer((p.keys, p.queries), view.dtype) if _is_table(view) else None for view in self.extra
        ]

    def write(self) -> None:
        p = self.p
        self._start()
        seen = tirx.min(self.span, self.first + self.count) if p.causal else self.span
        with T.serial(literal(0), (seen + literal(p.keys - 1)) // literal(p.keys)) as block:
            first = block * literal(p.keys)
            count = tirx.min(literal(p.keys), seen - first)
            self._copy(first, count)
            self._score(first, count)
            self._normalise(count)
            self._sum(first, count)
        self._finish()

    def _start(self) -> None:
        """The queries transposed, and nothing summed yet."""
        p = self.p
        with T.serial(literal(0), literal(p.queries)) as r:
            t = tirx.min(self.first + r, self.length - literal(1))
            with T.serial(literal(0), literal(p.depth)) as d:
                value = self.query.broadcast([*self.at, t, d])
                T.buffer_store(self.queries, cast(value, p.dtype) * const(p.scale, p.dtype), [d, r])
        with T.serial(literal(0), literal(p.queries // p.machine.lanes)) as v:
            with T.vectorized(literal(0), self.lanes) as lane:
                T.buffer_store(self.top, tirx.min_value(p.dtype), [v * self.lanes + lane])
            with T.vectorized(literal(0), self.lanes) as lane:
                T.buffer_store(self.total, zero(p.dtype), [v * self.lanes + lane])
        with (
            T.serial(literal(0), literal(p.queries)) as r,
            T.serial(literal(0), literal(p.padded // p.machine.lanes)) as v,
            T.vectorized(literal(0), self.lanes) as lane,
        ):
            T.buffer_store(self.sums, zero(p.dtype), [r, v * self.lanes + lane])

    def _copy(self, first: Any, count: Any) -> None:
        p = self.p
        for buffer, view, width in ((self.keys, self.key, p.depth), (self.values, self.value, p.width)):
            if buffer is None:
                continue
            with T.serial(literal(0), count) as s, T.serial(literal(0), literal(width)) as d:
                T.buffer_store(buffer, cast(view.broadcast([*self.at, first + s, d]), p.dtype), [s, d])

        for buffer, view in zip(self.turned, self.extra, strict=True):
            if buffer is None:
                continue
            self._turn(buffer, view, first, count)

    def _turn(self, buffer: Any, view: View, first: Any, count: Any) -> None:
        """A table's part for a block of keys, with queries along lanes.

        Squares are written out element by element, since LLVM would make a scatter of a loop.
        """
        p = self.p

        def copy(s: Any, r: Any) -> None:
            t = tirx.min(self.first + r, self.length - literal(1))
            T.buffer_store(buffer, view.broadcast([*self.at, t, first + s]), [s, r])

        side = SQUARE
        squares = count // literal(side)
        with T.serial(literal(0), literal(p.queries // side)) as column:
            with T.serial(literal(0), squares) as row:
                for s in range(side):
                    for r in range(side):
                        copy(row * literal(side) + literal(s), column * literal(side) + literal(r))
            with T.serial(squares * literal(side), count) as s:
                for r in range(side):
                    copy(s, column * literal(side) + literal(r))

    def _score(self, first: Any, count: Any) -> None:
        """Keys by queries."""
        p = self.p
        height, width = p.scores_tile
        with (
            T.serial(literal(0), (count + literal(height - 1)) // literal(height)) as i,
            T.serial(literal(0), literal(p.queries // width)) as j,
        ):
            row, column = i * literal(height), j * literal(width)

            def key(r: int, d: Any) -> Any:
                s = tirx.min(row + literal(r), count - literal(1))
                if self.keys is not None:
                    return self.keys[s, d]
                return cast(self.key.broadcast([*self.at, first + s, d]), p.dtype)

            def store(r: int, lane: Any, value: Any) -> None:
                s = row + literal(r)
                T.buffer_store(self.scores, self._scored(value, first, s, column + lane), self._place(s, column + lane))

            product(
                (literal(p.depth),),
                height,
                width,
                p.machine,
                p.dtype,
                left=key,
                right=lambda d, lane: self.queries[d, column + lane],
                store=store,
            )

    def _place(self, s: Any, r: Any) -> tuple[Any, ...]:
        """Where the score of a key of the block and a query is: one tile's columns after those of another."""
        width = literal(self.p.scores_tile[1])
        return r // width, s, r % width

    def _scored(self, value: Any, first: Any, s: Any, r: Any) -> Any:
        """The score of key s of the block from `first` on and query r of the tile."""
        p = self.p
        if p.score is not None:
            t = tirx.min(self.first + r, self.length - literal(1))
            index = [*self.at, t, tirx.min(first + s, self.span - literal(1))]
            extra = [
                view if buffer is None else _Turned(view.type, buffer[s, r])
                for view, buffer in zip(self.extra, self.turned, strict=True)
            ]
            value = p.score(value, index, self.kernel, *extra)
        if p.causal:
            value = tirx.Select(first + s <= self.first + r, value, const(float("-inf"), p.dtype))
        return value

    def _normalise(self, count: Any) -> None:
        """Scores to powers, under the new maximum."""
        p = self.p
        with T.serial(literal(0), (self.count + self.lanes - literal(1)) // self.lanes) as v:
            top = T.alloc_buffer((p.machine.lanes,), p.dtype, scope="local")
            total = T.alloc_buffer((p.machine.lanes,), p.dtype, scope="local")
            lanes = (literal(0), self.lanes)
            at = v * self.lanes
            with T.vectorized(*lanes) as lane:
                T.buffer_store(top, self.top[at + lane], [lane])
            with T.serial(literal(0), count) as s, T.vectorized(*lanes) as lane:
                T.buffer_store(top, tirx.max(top[lane], self.scores[self._place(s, at + lane)]), [lane])
            with T.vectorized(*lanes) as lane:
                T.buffer_store(self.factor, decay(self.top[at + lane] - top[lane]), [at + lane])
            with T.vectorized(*lanes) as lane:
                T.buffer_store(total, self.total[at + lane] * self.factor[at + lane], [lane])
            with T.serial(literal(0), count) as s:
                with T.vectorized(*lanes) as lane:
                    T.buffer_store(
                        self.scores,
                        decay(self.scores[self._place(s, at + lane)] - top[lane]),
                        self._place(s, at + lane),
                    )
                with T.vectorized(*lanes) as lane:
                    T.buffer_store(total, total[lane] + self.scores[self._place(s, at + lane)], [lane])
            with T.vectorized(*lanes) as lane:
                T.buffer_store(self.top, top[lane], [at + lane])
            with T.vectorized(*lanes) as lane:
                T.buffer_store(self.total, total[lane], [at + lane])

    def _sum(self, first: Any, count: Any) -> None:
        """What was summed so far, scaled, and the values of this block."""
        p = self.p
        height, width = p.values_tile
        with (
            T.serial(literal(0), literal(p.padded // width)) as j,
            T.serial(literal(0), (self.count + literal(height - 1)) // literal(height)) as i,
        ):
            row, column = i * literal(height), j * literal(width)

            def value(s: Any, lane: Any) -> Any:
                if self.values is not None:
                    return self.values[s, column + lane]
                return cast(self.value.broadcast([*self.at, first + s, column + lane]), p.dtype)

            product(
                (count,),
                height,
                width,
                p.machine,
                p.dtype,
                left=lambda r, s: self.scores[self._place(s, row + literal(r))],
                right=value,
                start=lambda r, lane: self.sums[row + literal(r), column + lane] * self.factor[row + literal(r)],
                store=lambda r, lane, made: T.buffer_store(self.sums, made, [row + literal(r), column + lane]),
            )

    def _finish(self) -> None:
        p = self.p
        # Where a row is not -∞ alone its largest element adds 1 to the sum.
        with T.serial(literal(0), self.count) as r:
            share = T.alloc_buffer((1,), p.dtype, scope="local")
            total = at_least(self.total[r], 0.5) if p.sparse else self.total[r]
            T.buffer_store(share, const(1, p.dtype) / total, [literal(0)])
            whole = p.width // p.machine.lanes
            rest = p.width % p.machine.lanes

            def store(e: Any) -> None:
                index = [*self.at, self.first + r, e]
                made = narrowed(self.sums[r, e] * share[literal(0)], p.type.dtype)
                T.buffer_store(self.out, made, [index[a] for a in p.order])

            if whole:
                with T.serial(literal(0), literal(whole)) as v, T.vectorized(literal(0), self.lanes) as lane:
                    store(v * self.lanes + lane)
            if rest:
                with T.serial(literal(0), literal(rest)) as e:
                    store(literal(whole * p.machine.lanes) + e)
