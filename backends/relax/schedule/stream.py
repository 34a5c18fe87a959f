"""Loops over bands of rows, in which each stage of a chain of convolutions computes the rows that the next needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

from ..index import literal
from ..machine import Machine
from ..untyped import Analyzer, Load, Range, mutate, tirx
from ..untyped import build as T
from ..untyped import builder as IRBuilder
from .expression import instead
from .level import Head, Level

Reads = Mapping[Any, Callable[[Sequence[Any]], Any]]
"""How to read what a stage has made, by the buffer that it was to be in."""

TALLEST = 4
"""Columns of an image in a tile where every channel is reduced for itself: registers hold weights beside the sums."""


@dataclass(frozen=True)
class Ring:
    """The rows of a stage's frame that are at hand: row r is at r mod `rows`.

    Of the results up to (not including) row y, rows up to `scale` · y + `end` are read; a result in row y reads from
    `scale` · y + `start`. Both may lie beyond the frame.
    """

    buffer: Any
    rows: int
    scale: int
    start: int
    end: int

    def read(self, index: Sequence[Any]) -> Any:
        """The element at an index into the frame."""
        return tirx.BufferLoad(self.buffer, [tirx.floormod(index[1], literal(self.rows)), *index[2:]])


@dataclass(frozen=True)
class Panel:
    """`count` tiles of channels, `width` each, from `base`; results of each in vectors (offset, lanes)."""

    count: int
    base: int
    width: int
    vectors: tuple[tuple[int, int], ...]


def stream(levels: Sequence[Level], machine: Machine) -> Any:
    """The statements of a chain."""
    with IRBuilder() as builder:
        with T.seq_scope():
            _Stream(levels, machine).write()
        return builder.get().body


class _Stream:
    def __init__(self, levels: Sequence[Level], machine: Machine) -> None:
        self.levels = levels
        self.machine = machine
        self.rows, self.band = plan(levels, machine)

    def write(self) -> None:
        batch, height, *_ = self.levels[-1].shape
        bands = -(-height // self.band)
        count = literal(bands) * (literal(batch) if isinstance(batch, int) else batch)
        with T.parallel(literal(0), count) as task:
            begin = tirx.floormod(task, literal(bands)) * literal(self.band)
            self._band(tirx.floordiv(task, literal(bands)), begin)

    def _band(self, sample: Any, begin: Any) -> None:
        stop = tirx.min(begin + literal(self.band), literal(self.levels[-1].shape[1]))
        rings = self._rings()
        for level, ring in zip(self.levels, rings, strict=False):
            self._border(level, ring)
        step = literal(self.rows)
        with T.serial(literal(0), tirx.floordiv(stop - begin + step - literal(1), step)) as t:
            y = begin + t * step
            upto = tirx.min(y + step, stop)
            for i, level in enumerate(self.levels[:-1]):
                ring = rings[i]
                scale = literal(ring.scale)
                first = y * scale + literal(ring.start)
                there = y * scale + literal(max(ring.start, ring.end))
                start = tirx.max(tirx.Select(t == literal(0), first, there), literal(0))
                end = tirx.min(upto * scale + literal(ring.end), literal(level.frame.rows))
                self._rows(level, sample, start, end, rings[i - 1] if i else None, ring)
            self._tiles(self.levels[-1], sample, y, upto, rings[-1], None)

    def _rings(self) -> list[Ring]:
        """Buffers of all stages but the last, from the last to the first."""
        found: list[Ring] = []
        scale, start, end = 1, 0, 0
        for level, reader in reversed(list(pairwise(self.levels))):
            above = reader.frame.above
            start = reader.scale * (start - above) + reader.first
            end = reader.scale * (end - 1 - above) + reader.last + 1
            scale = reader.scale * scale
            rows = 1 << (scale * self.rows + end - start - 1).bit_length()
            shape = (rows, level.frame.columns, level.shape[3])
            buffer = T.alloc_buffer(tuple(map(literal, shape)), level.target.dtype)
            found.append(Ring(buffer, rows, scale, start, end))
        return found[::-1]

    def _border(self, level: Level, ring: Ring) -> None:
        """What lies left and right of the image is the same in all rows."""
        frame, (_, _, columns, channels) = level.frame, level.shape
        for start, stop in ((0, frame.left), (frame.left + columns, frame.columns)):
            if start == stop:
                continue
            with (
                T.serial(literal(0), literal(ring.rows)) as r,
                T.serial(literal(start), literal(stop)) as x,
                T.serial(literal(0), literal(channels)) as c,
            ):
                T.buffer_store(ring.buffer, frame.fill, [r, x, c])

    def _rows(self, level: Level, sample: Any, start: Any, stop: Any, source: Ring | None, ring: Ring) -> None:
        """Rows of the frame, those of the image among them."""
        above, height = level.frame.above, level.shape[1]
        first, last = start, stop
        if above:
            self._blank(level, start, tirx.min(stop, literal(above)), ring)
            first = tirx.max(start, literal(above))
        if level.frame.rows > above + height:
            self._blank(level, tirx.max(start, literal(above + height)), stop, ring)
            last = tirx.min(stop, literal(above + height))
        self._tiles(level, sample, first - literal(above), last - literal(above), source, ring)

    def _blank(self, level: Level, start: Any, stop: Any, ring: Ring) -> None:
        columns, channels = level.frame.columns, level.shape[3]
        with (
            T.serial(start, stop) as r,
            T.serial(literal(0), literal(columns)) as x,
            T.serial(literal(0), literal(channels)) as c,
        ):
            T.buffer_store(ring.buffer, level.frame.fill, [tirx.floormod(r, literal(ring.rows)), x, c])

    def _tiles(self, level: Level, sample: Any, start: Any, stop: Any, source: Ring | None, ring: Ring | None) -> None:
        """Rows of the image."""
        if level.total is None:
            assert ring is not None
            self._copy(level, sample, start, stop, ring)
            return
        columns, channels = level.shape[2:]
        height = min(level.height, columns, columns if level.mode == "image" else TALLEST)
        tiles = -(-columns // height)
        read: Reads = {level.source: source.read} if source else {}
        for panel in panels(level, channels, self.machine):
            with T.serial(literal(0), literal(panel.count)) as p, T.serial(start, stop) as y:

                def across(first: int, last: int, read: Reads, p: Any = p, y: Any = y, panel: Panel = panel) -> None:
                    """Some of the tiles of the row."""
                    with T.serial(literal(first), literal(last)) as tile:
                        # The last tile, if it does not fit, computes some of the one before once more.
                        at = tile if last - first > 1 else literal(first)
                        x = at * literal(height)
                        x = x if columns % height == 0 else tirx.min(x, literal(columns - height))
                        channel = literal(panel.base) + p * literal(panel.width)
                        self._tile(level, _At(sample, y, x, channel, height, panel), read, ring)

                if level.head is None:
                    across(0, tiles, read)
                else:
                    self._beside(
                        level.head, y, [min(t * height, columns - height) for t in range(tiles)], height, across
                    )

    def _copy(self, level: Level, sample: Any, start: Any, stop: Any, ring: Ring) -> None:
        """Rows of an input. Where channels fill no whole vectors, LLVM makes of the loops what it can."""
        frame, channels = level.frame, level.shape[3]
        whole = channels % self.machine.lanes == 0
        lanes = self.machine.lanes if whole else channels
        with (
            T.serial(start, stop) as y,
            T.serial(literal(0), literal(level.shape[2])) as x,
            T.serial(literal(0), literal(channels // lanes)) as group,
            (T.vectorized if whole else T.serial)(literal(0), literal(lanes)) as lane,
        ):
            c = group * literal(lanes) + lane
            names = dict(zip(level.axes, (sample, y, x, c), strict=True))
            row = tirx.floormod(y + literal(frame.above), literal(ring.rows))
            T.buffer_store(ring.buffer, placed(level.value, names, lane, lanes, {}), [row, x + literal(frame.left), c])

    def _beside(self, head: Head, y: Any, places: Sequence[int], height: int, across: Callable[..., None]) -> None:
        """A row that reads an image with padding around it: without a thought of it where it is far.

        Tiles at the left and the right know their columns.
        """
        far = [t for t, x in enumerate(places) if head.has_columns(x, height)]
        first, last = (far[0], far[-1] + 1) if far else (len(places), len(places))
        with T.If(head.has_rows(y)):
            with T.Then():
                for tile in range(first):
                    across(tile, tile + 1, {head.buffer: head.read_row})
                if far:
                    across(first, last, {head.buffer: head.read})
                for tile in range(last, len(places)):
                    across(tile, tile + 1, {head.buffer: head.read_row})
            with T.Else():
                across(0, len(places), {head.buffer: head.read_any})

    def _tile(self, level: Level, at: _At, read: Reads, ring: Ring | None) -> None:
        sums = T.alloc_buffer((literal(at.height), literal(at.panel.width)), level.total.dtype)
        vectors = vectors_of(at.panel.width, self.machine.lanes)
        for i, v, n in ((i, v, n) for i in range(at.height) for v, n in vectors):
            with T.vectorized(literal(0), literal(n)) as lane:
                T.buffer_store(sums, level.zero, [literal(i), literal(v) + lane])
        self._steps(level, {}, lambda variables: self._accumulate(level, at, variables, vectors, sums, read))
        self._results(level, at, sums, read, ring)

    def _steps(self, level: Level, variables: dict[Any, Any], body: Callable[[dict[Any, Any]], None]) -> None:
        """`body` of each step of the reduction."""
        if len(variables) == len(level.steps):
            body(variables)
            return
        axis, extent = level.steps[len(variables)]
        if extent == 1 or level.mode == "channels":
            for k in range(extent):
                self._steps(level, variables | {axis: literal(k)}, body)
            return
        with T.serial(literal(0), literal(extent)) as k:
            self._steps(level, variables | {axis: k}, body)

    def _accumulate(
        self,
        level: Level,
        at: _At,
        variables: Mapping[Any, Any],
        vectors: Sequence[tuple[int, int]],
        sums: Any,
        read: Reads,
    ) -> None:
        for i, (v, n) in ((i, vector) for i in range(at.height) for vector in vectors):
            with T.vectorized(literal(0), literal(n)) as lane:
                place = [literal(i), literal(v) + lane]
                names = dict(variables) | at.names(level.inner, i, literal(v) + lane)
                term = instead(level.term, level.total, sums[tuple(place)])
                term = placed(term, names, lane, n, read)
                T.buffer_store(sums, term, place)

    def _results(self, level: Level, at: _At, sums: Any, read: Reads, ring: Ring | None) -> None:
        for i, (v, n) in ((i, vector) for i in range(at.height) for vector in at.panel.vectors):
            with T.vectorized(literal(0), literal(n)) as lane:
                names = at.names(level.axes, i, literal(v) + lane)
                value = instead(level.value, level.total, sums[literal(i), literal(v) + lane])
                value = placed(value, names, lane, n, read)
                if ring is None:
                    T.buffer_store(level.target, value, [index_at(p, names, lane, n) for p in level.place])
                    continue
                row = tirx.floormod(at.y + literal(level.frame.above), literal(ring.rows))
                x = at.x + literal(i + level.frame.left)
                T.buffer_store(ring.buffer, value, [row, x, at.channel + literal(v) + lane])


@dataclass(frozen=True)
class _At:
    """A tile: its first place, and how many columns of the image it has."""

    sample: Any
    y: Any
    x: Any
    channel: Any
    height: int
    panel: Panel

    def names(self, axes: Sequence[Any], column: int, channel: Any) -> dict[Any, Any]:
        return dict(zip(axes, (self.sample, self.y, self.x + literal(column), self.channel + channel), strict=True))


def panels(level: Level, channels: int, machine: Machine) -> list[Panel]:
    """The channels in tiles, the last of which may be narrower, or where weights are packed have results to leave."""
    lanes = machine.lanes
    width = level.width if level.mode == "image" else min(2 * lanes, channels)
    found: list[Panel] = []
    count, rest = divmod(channels, width)
    if count:
        found.append(Panel(count, 0, width, vectors_of(width, lanes)))
    base = count * width
    if rest and level.mode == "image":
        found.append(Panel(1, base, width, vectors_of(rest, lanes)))
    elif rest:
        for offset, n in vectors_of(rest, lanes):
            found.append(Panel(1, base + offset, n, ((0, n),)))
    return found


def vectors_of(width: int, lanes: int) -> tuple[tuple[int, int], ...]:
    """Whole vectors, then ever smaller powers of two."""
    found: list[tuple[int, int]] = []
    at = 0
    while at < width:
        while lanes > width - at:
            lanes //= 2
        found.append((at, lanes))
        at += lanes
    return tuple(found)


def index_at(index: Any, names: Mapping[Any, Any], lane: Any, lanes: int) -> Any:
    analyzer = Analyzer()
    analyzer.bind(lane, Range(literal(0), literal(lanes)))
    return analyzer.simplify(mutate(index, (tirx.Var, lambda v, _: names.get(v, v))))


def placed(value: Any, names: Mapping[Any, Any], lane: Any, lanes: int, read: Reads) -> Any:
    """The value at a place, with what other stages made read from where they keep it."""

    def load(given: Any, _: Any) -> Any:
        index = [index_at(i, names, lane, lanes) for i in given.indices]
        found = next((read[buffer] for buffer in read if given.source.same_as(buffer)), None)
        return tirx.BufferLoad(given.source, index) if found is None else found(index)

    return mutate(value, [(Load, load), (tirx.Var, lambda v, _: names.get(v, v))])


def plan(levels: Sequence[Level], machine: Machine) -> tuple[int, int]:
    """Rows of the result that are computed at a time, and rows of a band.

    Bands are chosen so that the busiest thread is done soonest: few, because the rows at their borders are computed
    twice, and so many that all threads have work. Several rows at a time, where a row alone would fetch the weights
    from beyond the second-level cache.
    """
    batch, height = levels[-1].shape[:2]
    batch = batch if isinstance(batch, int) else 1

    def longest(band: int) -> int:
        tasks = batch * -(-height // band)
        return -(-tasks // machine.threads) * sum(
            work(level) * rows for level, rows in zip(levels, _rows(levels, band), strict=True)
        )

    band = min((-(-height // n) for n in range(1, height + 1)), key=lambda band: (longest(band), -band))
    return (1 if sum(map(weights, levels)) <= machine.cache else 4), band


def work(level: Level) -> int:
    """Multiplications for a row."""
    return level.shape[2] * level.shape[3] * prod(extent for _, extent in level.steps)


def weights(level: Level) -> int:
    """Bytes of weights that a row takes, about."""
    per_channel = prod(extent for _, extent in level.steps) * 4
    return per_channel * level.shape[3] if level.steps else 0


def _rows(levels: Sequence[Level], band: int) -> list[int]:
    """Rows of each stage that a band of the result takes."""
    found = [band]
    for level, reader in reversed(list(pairwise(levels))):
        found.append(min(reader.scale * (found[-1] - 1) + reader.last - reader.first + 1, level.shape[1]))
    return found[::-1]
