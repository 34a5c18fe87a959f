"""Images reduced channel by channel: depthwise convolution and pooling, without a padded copy of the image.

A task computes some rows of results for a few vectors of channels. Tiles at the left and the right know their columns
and leave out what lies in the padding, rows leave it out by where their loop over the window begins and ends. In a tile
each vector of the image is read once for all results that it takes part in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..index import literal
from ..machine import Machine
from ..untyped import build as T
from ..untyped import builder as IRBuilder
from ..untyped import s_tir, tirx
from .block import annotation, blocks, number
from .chain import Unfit, head_of, headless, reduced
from .expression import instead, loads
from .inline import PAD, inline
from .level import Head, Level
from .stream import index_at, placed, vectors_of
from .tile import KEY

ROWS = "netc.rows_of_task"
"""Marks the reduction: how many rows of results a task computes."""

MODES = ("channels", "window")


def channels(function: Any, machine: Machine) -> Any | None:
    """The function as loops over tasks; None where it is no such reduction, or its image has symbols for sizes."""
    sch = s_tir.Schedule(function)
    if sum(annotation(sch, b, KEY) is not None for b in blocks(sch)) != 1:
        return None
    inline(sch)
    try:
        level, rows = _read(sch)
    except Unfit:
        return None
    with IRBuilder() as builder:
        with T.seq_scope():
            _Channels(level, rows, machine).write()
        return sch.mod["main"].with_body(builder.get().body)


def _read(sch: Any) -> tuple[Level, int]:
    """The one stage of a function: `[padding], reduction, result`."""
    found = [sch.get(b) for b in blocks(sch)]
    if len(found) not in (2, 3) or ROWS not in dict(found[-2].annotations):
        raise Unfit
    *before, reduction, result = found
    if str(reduction.annotations[KEY]).split()[2] not in MODES:
        raise Unfit
    if not before:
        return reduced(reduction, result, None), int(reduction.annotations[ROWS])
    if PAD not in dict(before[0].annotations):
        raise Unfit
    padding = head_of(before[0])
    levels = headless(padding, reduced(reduction, result, before[0].body.buffer), MODES)
    # What is left out must be nothing: the value to begin with.
    if len(levels) != 1 or str(padding.frame.fill) != str(levels[0].zero):
        raise Unfit
    return levels[0], int(reduction.annotations[ROWS])


@dataclass(frozen=True)
class _Tile:
    """Results computed at once: `height` of a row from column `x` on, in vectors (offset, lanes) from a channel on."""

    sample: Any
    y: Any
    x: Any
    channel: Any
    height: int
    vectors: tuple[tuple[int, int], ...]

    def names(self, axes: Sequence[Any], column: int, channel: Any) -> dict[Any, Any]:
        return dict(zip(axes, (self.sample, self.y, self.x + literal(column), self.channel + channel), strict=True))


class _Channels:
    def __init__(self, level: Level, rows: int, machine: Machine) -> None:
        self.level, self.machine = level, machine
        _, height, self.columns, _ = level.shape
        self.rows = min(rows, height)
        self.height = min(level.height, self.columns)

    def write(self) -> None:
        batch, height, _, count = self.level.shape
        bands = literal(-(-height // self.rows))
        width = self.level.width
        if width < self.machine.lanes:
            width = min(2 * self.machine.lanes, count)
        for first, panels, vectors in _panels(count, width, self.machine):
            batch = literal(batch) if isinstance(batch, int) else batch
            with T.parallel(literal(0), batch * bands * literal(panels)) as task:
                channel = literal(first) + tirx.floormod(task, literal(panels)) * literal(width)
                band = tirx.floordiv(task, literal(panels))
                begin = tirx.floormod(band, bands) * literal(self.rows)
                stop = tirx.min(begin + literal(self.rows), literal(height))
                with T.serial(literal(0), stop - begin) as row:
                    self._row(_Tile(tirx.floordiv(band, bands), begin + row, literal(0), channel, self.height, vectors))

    def _row(self, tile: _Tile) -> None:
        """Tiles side by side; the last one, if it does not fit, computes some of the one before once more."""
        head, height = self.level.head, self.height
        places = [min(x, self.columns - height) for x in range(0, self.columns, height)]
        regular = [x for x in places if x % height == 0 and (head is None or head.has_columns(x, height))]
        if len(regular) > 1:
            with T.serial(literal(0), literal(len(regular))) as i:
                self._tile(replace(tile, x=literal(regular[0]) + i * literal(height)))
        for x in places if len(regular) < 2 else [x for x in places if x not in regular]:
            self._tile(replace(tile, x=literal(x)))

    def _tile(self, tile: _Tile) -> None:
        level = self.level
        width = sum(n for _, n in tile.vectors)
        sums = T.alloc_buffer((literal(tile.height), literal(width)), level.total.dtype)
        for i, (v, n) in self._each(tile):
            with T.vectorized(literal(0), literal(n)) as lane:
                T.buffer_store(sums, level.zero, [literal(i), literal(v) + lane])
        (row, rows), *others = level.steps
        start, stop = self._inside(tile.y, rows)
        # From 0 on: of a loop that begins at an expression TVM makes wrong code where another is around it.
        with T.serial(literal(0), stop - start) as k:
            self._accumulate(tile, {row: start + k}, others, sums)
        for i, (v, n) in self._each(tile):
            with T.vectorized(literal(0), literal(n)) as lane:
                names = tile.names(level.axes, i, literal(v) + lane)
                value = instead(level.value, level.total, sums[literal(i), literal(v) + lane])
                value = placed(value, names, lane, n, {})
                T.buffer_store(level.target, value, [index_at(p, names, lane, n) for p in level.place])

    def _each(self, tile: _Tile) -> list[tuple[int, tuple[int, int]]]:
        return [(i, vector) for i in range(tile.height) for vector in tile.vectors]

    def _inside(self, y: Any, steps: int) -> tuple[Any, Any]:
        """The steps along a column of the window that lie in the image."""
        head = self.level.head
        if head is None:
            return literal(0), literal(steps)
        scale, first, last = head.down
        dilation = (last - first) // (steps - 1) if steps > 1 else 1
        top = y * literal(scale) + literal(first - head.frame.above)
        before = tirx.floordiv(literal(dilation - 1) - top, literal(dilation))
        end = tirx.floordiv(literal(head.height + dilation - 1) - top, literal(dilation))
        return tirx.max(before, literal(0)), tirx.min(end, literal(steps))

    def _accumulate(
        self, tile: _Tile, variables: Mapping[Any, Any], steps: Sequence[tuple[Any, int]], sums: Any
    ) -> None:
        """All steps of a row of the window, so that what reads the same column of the image is side by side."""
        found = [dict(variables)]
        for axis, extent in steps:
            found = [f | {axis: literal(k)} for f in found for k in range(extent)]
        scale = 1 if self.level.head is None else self.level.head.across[0]
        work = sorted(
            ((i * scale + k, k, i) for k in range(len(found)) for i in range(tile.height)),
        )
        for _, k, i in work:
            if not self._has_column(tile, found[k], i):
                continue
            for v, n in tile.vectors:
                with T.vectorized(literal(0), literal(n)) as lane:
                    place = [literal(i), literal(v) + lane]
                    names = found[k] | tile.names(self.level.inner, i, literal(v) + lane)
                    term = instead(self.level.term, self.level.total, sums[tuple(place)])
                    T.buffer_store(sums, placed(term, names, lane, n, self._source()), place)

    def _source(self) -> dict[Any, Callable[[Sequence[Any]], Any]]:
        head = self.level.head
        return {} if head is None else {head.buffer: head.read}

    def _has_column(self, tile: _Tile, step: Mapping[Any, Any], i: int) -> bool:
        """Whether the column that a result takes in a step lies in the image; those that are not known do."""
        head = self.level.head
        if head is None:
            return True
        lane = literal(0)
        names = dict(step) | tile.names(self.level.inner, i, lane)
        return all(_in(head, load, names) for load in loads(self.level.term) if load.source.same_as(head.buffer))


def _in(head: Head, load: Any, names: Mapping[Any, Any]) -> bool:
    column = number(index_at(load.indices[2], names, tirx.Var("lane", "int64"), 1))
    return column is None or 0 <= column - head.frame.left < head.width


def _panels(channels: int, width: int, machine: Machine) -> list[tuple[int, int, tuple[tuple[int, int], ...]]]:
    """The channels as (first, number of panels, vectors of each): panels of a width, and one for the rest."""
    count, rest = divmod(channels, width)
    found = [(0, count, vectors_of(width, machine.lanes))] if count else []
    return [*found, (count * width, 1, vectors_of(rest, machine.lanes))] if rest else found
