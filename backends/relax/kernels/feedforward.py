"""Feed-forward layers in one kernel: what lies between their products is never whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

from ....compiler.types import Dim, TensorType, volume
from ..formula import Formula, Values, held
from ..half import DTYPES, narrowed
from ..index import literal, unflatten
from ..kernel import Kernel, View
from ..lower import Lowering
from ..machine import Machine
from ..tensor import Tensor, logical
from ..untyped import build as T
from ..untyped import tirx
from .numeric import cast, zero
from .product import product
from .program import written

HIDDEN = 256
"""Hidden features that are made before they are used, about."""
REPEAT = 5
"""What reading all weights once more costs a task, in rows of the input."""


def feed_forward(
    low: Lowering,
    x: Tensor,
    first: Sequence[tuple[Tensor, Tensor | None]],
    between: Callable[[Sequence[Formula]], Tensor],
    last: tuple[Tensor, Tensor | None],
    after: Callable[[Formula], Tensor],
    type: TensorType,
) -> Tensor:
    """`x` [..., K] by `first` weights [F, K] and biases [F]; `between` of these, by the `last` [N, F]; `after` of that.

    A task takes as many rows of `x` as fit the second-level cache together with what is made of them: it makes some
    hidden features of them, adds their share of the result, and so on. Weights are read once for each task.
    """
    rank = x.type.rank
    order = (*(a for a in x.order if a != rank - 1), rank - 1)
    wide = TensorType(type.dtype, (*type.shape[:-1], first[0][0].type.shape[0]))
    sums = [_biased(low, held(wide, f"first{i}"), bias) for i, (_, bias) in enumerate(first)]
    hidden = between(sums)
    result = after(_biased(low, held(type, "last"), last[1]))
    assert isinstance(hidden, Formula)
    assert isinstance(result, Formula)
    program = _FeedForward(x, [w for w, _ in first], last[0], hidden, result, type, order, low.machine)
    packed = [_packed(low, w, program.width) for w in (*(w for w, _ in first), last[0])]
    extra = list(dict.fromkeys((*hidden.reads, *result.reads)))

    def write(kernel: Kernel, views: Sequence[View], out: Any) -> None:
        source, *rest = views
        weights, read = rest[: len(packed)], rest[len(packed) :]
        program.write(kernel, source, weights, dict(zip(extra, read, strict=True)), out)

    return written(low, "feed_forward", [x, *packed, *extra], type, write, order=order)


def _biased(low: Lowering, value: Formula, bias: Tensor | None) -> Formula:
    if bias is None:
        return value
    element = value.element

    def biased(index: Sequence[Any], values: Values) -> Any:
        made = element(index, values)
        return made + cast(values[bias][(index[-1],)], DTYPES[value.type.dtype])

    return Formula(value.type, None, value.order, False, element=biased, reads=(bias,))


def _packed(low: Lowering, weight: Tensor, width: int) -> Tensor:
    """`[F, K]` as `[F/width, K', width]`: rows of K to whole vectors, surplus rows and columns zero."""
    columns, inner = (low.known(d, "the size of weights") for d in weight.type.shape)
    tiles, deep = -(-columns // width), _whole(inner, low.machine)

    def element(index: Sequence[Any], weight: View) -> Any:
        tile, k, lane = index
        f = tile * literal(width) + lane
        inside = tirx.all(f < literal(columns), k < literal(inner))
        value = weight[(tirx.min(f, literal(columns - 1)), tirx.min(k, literal(inner - 1)))]
        return tirx.Select(inside, value, zero(weight.dtype))

    shape = (tiles, deep, width)
    return low.once(
        ("deep", *weight.key, width),
        lambda: low.map("pack", [weight], TensorType(weight.type.dtype, shape), element),
    )


def _whole(size: int, machine: Machine) -> int:
    return -(-size // machine.lanes) * machine.lanes


class _FeedForward:
    """The loops: over tasks of rows, portions of hidden features, tiles of columns, tiles of rows."""

    def __init__(
        self,
        x: Tensor,
        first: Sequence[Tensor],
        last: Tensor,
        hidden: Formula,
        result: Formula,
        type: TensorType,
        order: Sequence[int],
        machine: Machine,
    ) -> None:
        self.type, self.order, self.machine = type, tuple(order), machine
        self.hidden_formula, self.result_formula = hidden, result
        self.lead = [x.type.shape[a] for a in order[:-1]]
        self.rows: Dim = volume(self.lead)
        self.products = len(first)
        (self.hidden, self.inner), (self.columns, _) = (_sizes(first[0]), _sizes(last))
        self.width = _width((self.hidden, self.columns), machine)
        # Not all accumulators: with two addresses at work, LLVM would spill some of 28.
        most = machine.accumulators * 6 // 7 // (self.width // machine.lanes)
        portion = max(1, HIDDEN // self.width) * self.width
        self.portion = min(portion, -(-self.hidden // self.width) * self.width)
        self.height, self.tiles = _task(self.rows, most, self._bytes, machine)

    @property
    def dtype(self) -> str:
        return DTYPES[self.type.dtype]

    def _bytes(self, rows: int) -> int:
        """What a task of so many rows goes through again and again."""
        panels = self.width * (self.inner + self.portion)
        return 4 * (rows * (self.inner + self.columns + self.portion * self.products) + panels)

    def write(self, kernel: Kernel, x: View, weights: Sequence[View], extra: dict[Any, View], out: Any) -> None:
        each = literal(self.height * self.tiles)
        rows = kernel.dim(self.rows)
        with T.parallel(literal(0), (rows + each - literal(1)) // each) as task:
            _Rows(self, kernel, x, weights, extra, out, task * each).write()


class _Rows:
    """The work of one task: the rows from `start` on.

    Rows are held in tiles: the vectors of a tile's rows at a place in a row follow each other.
    """

    def __init__(
        self,
        program: _FeedForward,
        kernel: Kernel,
        x: View,
        weights: Sequence[View],
        extra: dict[Any, View],
        out: Any,
        start: Any,
    ) -> None:
        self.p, self.x, self.extra, self.out, self.start = program, x, extra, out, start
        *self.first, self.last = weights
        p = program
        self.extents = [kernel.dim(d) for d in p.lead]
        self.total = kernel.dim(p.rows)
        self.lanes = literal(p.machine.lanes)
        self.given = self._tiles(p.inner)
        self.hidden = [self._tiles(p.portion) for _ in self.first]
        self.sums = self._tiles(-(-p.columns // p.width) * p.width)

    def _tiles(self, width: int) -> Any:
        p = self.p
        lanes = p.machine.lanes
        return T.alloc_buffer((p.tiles, -(-width // lanes), p.height, lanes), p.dtype)

    def write(self) -> None:
        p = self.p
        self._take()
        portions = -(-p.hidden // p.portion)
        with T.serial(literal(0), literal(portions)) as portion:
            begin = portion * literal(p.portion)
            count = literal(p.portion)
            if p.hidden % p.portion:
                count = tirx.min(count, literal(_whole(p.hidden, p.machine)) - begin)
            self._hide(begin, count)
            self._add(begin, count)
        self._give()

    def _row(self, tile: Any, line: Any) -> tuple[Any, Any]:
        """The number of a row, and whether there is one; else the number is that of the last."""
        row = self.start + tile * literal(self.p.height) + line
        return tirx.min(row, self.total - literal(1)), row < self.total

    def _index(self, row: Any, column: Any) -> list[Any]:
        return logical(self.p.order, [*unflatten(row, self.extents), column])

    def _take(self) -> None:
        """The rows of the input, with zeros to whole vectors; and no sums yet."""
        p = self.p
        with T.serial(literal(0), literal(p.tiles)) as tile, T.serial(literal(0), literal(p.height)) as line:
            row, _ = self._row(tile, line)

            def copy(v: Any, lane: Any) -> None:
                value = cast(self.x[self._index(row, v * self.lanes + lane)], p.dtype)
                T.buffer_store(self.given, value, [tile, v, line, lane])

            whole, rest = divmod(p.inner, p.machine.lanes)
            if whole:
                with T.serial(literal(0), literal(whole)) as v, T.vectorized(literal(0), self.lanes) as lane:
                    copy(v, lane)
            if rest:
                with T.vectorized(literal(0), self.lanes) as lane:
                    T.buffer_store(self.given, zero(p.dtype), [tile, literal(whole), line, lane])
                with T.serial(literal(0), literal(rest)) as lane:
                    copy(literal(whole), lane)
            vectors = -(-p.columns // p.width) * (p.width // p.machine.lanes)
            with T.serial(literal(0), literal(vectors)) as v, T.vectorized(literal(0), self.lanes) as lane:
                T.buffer_store(self.sums, zero(p.dtype), [tile, v, line, lane])

    def _hide(self, begin: Any, count: Any) -> None:
        """A portion of the hidden features of all rows."""
        p = self.p
        width = literal(p.width)
        vectors = p.width // p.machine.lanes
        panels = (count + width - literal(1)) // width
        with T.serial(literal(0), panels) as panel, T.serial(literal(0), literal(p.tiles)) as tile:
            for hidden, weight in zip(self.hidden, self.first, strict=True):
                self._product(
                    tile,
                    literal(-(-p.inner // p.machine.lanes)),
                    self.given,
                    lambda k, lane, weight=weight: weight[(begin // width + panel, k, lane)],
                    hidden,
                    panel,
                )
            with T.serial(literal(0), literal(p.height)) as line, T.serial(literal(0), literal(vectors)) as v:
                row, _ = self._row(tile, line)
                at = panel * literal(vectors) + v
                with T.vectorized(literal(0), self.lanes) as lane:
                    place = [tile, at, line, lane]
                    T.buffer_store(self.hidden[0], self._hidden(row, begin + at * self.lanes + lane, place), place)

    def _hidden(self, row: Any, column: Any, place: Sequence[Any]) -> Any:
        p = self.p
        ragged = p.hidden % p.width != 0
        at = tirx.min(column, literal(p.hidden - 1)) if ragged else column
        values = {f"first{i}": hidden[tuple(place)] for i, hidden in enumerate(self.hidden)}
        made = cast(p.hidden_formula.at(self._index(row, at), {**values, **self.extra}), p.dtype)
        return tirx.Select(column < literal(p.hidden), made, zero(p.dtype)) if ragged else made

    def _add(self, begin: Any, count: Any) -> None:
        """The share of a portion of hidden features in the result."""
        p = self.p
        with (
            T.serial(literal(0), literal(-(-p.columns // p.width))) as panel,
            T.serial(literal(0), literal(p.tiles)) as tile,
        ):
            self._product(
                tile,
                count // self.lanes,
                self.hidden[0],
                lambda k, lane: self.last[(panel, begin + k, lane)],
                self.sums,
                panel,
                add=True,
            )

    def _product(
        self,
        tile: Any,
        vectors: Any,
        left: Any,
        right: Callable[[Any, Any], Any],
        target: Any,
        panel: Any,
        *,
        add: bool = False,
    ) -> None:
        """A tile of rows by a panel of weights, to its place in `target`, or added to what is there."""
        p = self.p
        each = literal(p.width // p.machine.lanes)

        def place(i: int, lane: Any) -> list[Any]:
            # A lane is `v · lanes + l` with v known: so its vector is known too.
            return [tile, panel * each + tirx.floordiv(lane, self.lanes), literal(i), tirx.floormod(lane, self.lanes)]

        product(
            (vectors, self.lanes),
            p.height,
            p.width,
            p.machine,
            p.dtype,
            left=lambda i, v, k: left[tile, v, literal(i), k],
            right=lambda v, k, lane: cast(right(v * self.lanes + k, lane), p.dtype),
            start=(lambda i, lane: target[tuple(place(i, lane))]) if add else None,
            store=lambda i, lane, value: T.buffer_store(target, value, place(i, lane)),
        )

    def _give(self) -> None:
        p = self.p
        with T.serial(literal(0), literal(p.tiles)) as tile, T.serial(literal(0), literal(p.height)) as line:
            row, exists = self._row(tile, line)
            with T.If(exists), T.Then():

                def store(v: Any, lane: Any) -> None:
                    index = self._index(row, v * self.lanes + lane)
                    made = p.result_formula.at(index, {"last": self.sums[tile, v, line, lane], **self.extra})
                    made = narrowed(cast(made, p.dtype), p.type.dtype)
                    T.buffer_store(self.out, made, [index[a] for a in p.order])

                whole, rest = divmod(p.columns, p.machine.lanes)
                if whole:
                    with T.serial(literal(0), literal(whole)) as v, T.vectorized(literal(0), self.lanes) as lane:
                        store(v, lane)
                if rest:
                    with T.serial(literal(0), literal(rest)) as lane:
                        store(literal(whole), lane)


def _sizes(weight: Tensor) -> tuple[int, int]:
    rows, columns = weight.type.shape
    assert isinstance(rows, int)
    assert isinstance(columns, int)
    return rows, columns


def _width(columns: Sequence[int], machine: Machine) -> int:
    """Columns of a register tile: two vectors, or one where that pads much less."""
    lanes = machine.lanes
    padded = {w: sum(-(-c // (w * lanes)) * w * lanes for c in columns) for w in (2, 1)}
    return (1 if padded[1] < 0.9 * padded[2] else 2) * lanes


def _task(rows: Dim, height: int, size: Callable[[int], int], machine: Machine) -> tuple[int, int]:
    """The rows of a tile and the tiles of a task: as many as stay in cache, and give all threads the same work."""
    best, choice = float("inf"), (height, 1)
    known = rows if isinstance(rows, int) else None
    for high in range(height, max(0, height - 5), -1) if known is None or known > height else (known,):
        for tiles in range(1, 17):
            each = high * tiles
            if tiles > 1 and size(each) > machine.cache:
                break
            turns = 1.0 / each if known is None else ceil(ceil(known / each) / machine.threads)
            cost = turns * (each + REPEAT) * (1 + 0.5 / high)
            if cost < best - 1e-9:
                best, choice = cost, (high, tiles)
    return choice
