"""Convolutions that follow each other in one kernel: rows of each are computed when the next one needs them.

A task computes a band of rows of the last result, a few at a time. Each earlier convolution first brings the rows that
are then needed and not yet there into a buffer of its own, which holds only the rows that are still needed and is
written round and round; so what passes between two convolutions stays in the second-level cache. Rows at the border of
two bands are computed for both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from ..index import literal
from ..machine import Machine
from ..untyped import Analyzer, Load, Range, s_tir, tirx
from .block import REDUCTION, annotation, blocks, number
from .expression import instead, loads, replaced, simplified
from .inline import PAD, inline
from .level import Frame, Head, Level
from .stream import stream
from .tile import KEY


class Unfit(Exception):
    """The function is no chain of convolutions."""


def chain(function: Any, machine: Machine) -> Any | None:
    """The function as one loop over bands of rows; None where it is no chain of convolutions."""
    sch = s_tir.Schedule(function)
    if sum(annotation(sch, b, KEY) is not None for b in blocks(sch)) < 2:
        return None
    inline(sch)
    try:
        levels = read(sch)
    except Unfit:
        return None
    batch, height, *_ = levels[-1].shape
    if isinstance(batch, int) and 2 * batch * height < machine.threads:
        return None  # rows are too few to give all threads work
    return sch.mod["main"].with_body(stream(levels, machine))


def read(sch: Any) -> list[Level]:
    """The stages of a function whose element-wise blocks are inlined.

    Raises:
        Unfit: where it is no chain.
    """
    found = [sch.get(b) for b in blocks(sch)]
    levels: list[Level] = []
    source: Any = None
    at = 0
    while at < len(found):
        block = found[at]
        if PAD in dict(block.annotations) and levels:
            levels[-1] = _framed(levels[-1], block)
            source = block.body.buffer
            at += 1
        elif PAD in dict(block.annotations):
            levels.append(head_of(block))
            source = block.body.buffer
            at += 1
        elif KEY in dict(block.annotations) and at + 1 < len(found):
            levels.append(reduced(block, found[at + 1], source))
            if len(levels) == 2 and levels[0].total is None:
                levels = headless(*levels, ("channels",))
            source = found[at + 1].body.buffer
            at += 2
        else:
            raise Unfit
    if sum(level.total is not None for level in levels) < 2:
        raise Unfit
    _check(found, levels)
    return levels


def _check(found: Sequence[Any], levels: Sequence[Level]) -> None:
    """Every stage is read by the next one alone."""
    readers: dict[Any, int] = {}
    for block in found:
        for buffer in {load.source for load in loads(block.body.value)}:
            readers[buffer] = readers.get(buffer, 0) + (not buffer.same_as(block.body.buffer))
    if any(readers.get(b.body.buffer, 0) != 1 for b in found[:-1]) or readers.get(found[-1].body.buffer, 0):
        raise Unfit
    for level, reader in pairwise(levels):
        if reader.source is None or str(level.shape[0]) != str(reader.shape[0]):
            raise Unfit


def reduced(block: Any, result: Any, source: Any) -> Level:
    height, width, mode, *_ = str(block.annotations[KEY]).split()
    axes = list(block.iter_vars)
    inner = [v for v in axes if int(v.iter_type) != REDUCTION]
    steps = [v for v in axes if int(v.iter_type) == REDUCTION]
    if mode not in ("image", "channels", "window") or len(inner) != 4 or block.init is None:
        raise Unfit
    total, value = block.body.buffer, result.body.value
    shape, places = _roles(result, total)
    real = {v.var: e for v, e in zip(inner[:3], shape[:3], strict=True)} | {v.var: _extent(v) for v in steps}
    term = simplified(block.body.value, real)
    taken = {v.var: _extent(v) for v in steps}
    scale, first, last = (1, 0, 0) if source is None else _reads(term, source, 1, inner[1].var, taken)
    _, rows, columns, _ = shape
    return Level(
        shape,
        places,
        value,
        result.body.buffer,
        tuple(result.body.indices),
        source,
        scale,
        first,
        last,
        Frame(0, 0, rows, columns, None),
        term,
        total,
        block.init.value,
        tuple(taken.items()),
        tuple(v.var for v in inner),
        int(height),
        int(width),
        mode,
    )


def _roles(result: Any, total: Any) -> tuple[tuple[Any, int, int, int], tuple[Any, ...]]:
    """The extents of `[n, y, x, c]` and the variables that stand for them, by where the result reads the total."""
    read = [load for load in loads(result.body.value) if load.source.same_as(total)]
    extents = {v.var: v.dom.extent for v in result.iter_vars}
    if not read or any(int(v.iter_type) == REDUCTION for v in result.iter_vars):
        raise Unfit
    places = [tuple(load.indices) for load in read]
    if any(str(p) != str(places[0]) for p in places):
        raise Unfit
    shape: list[Any] = []
    roles: list[Any] = []
    for index in places[0]:
        if isinstance(index, tirx.Var) and index in extents:
            shape.append(extents.pop(index))
            roles.append(index)
        elif number(index) == 0:
            shape.append(1)
            roles.append(None)
        else:
            raise Unfit
    for variable, extent in extents.items():
        # An axis of one element is read at 0.
        free = [i for i, role in enumerate(roles) if role is None]
        if number(extent) != 1 or not free:
            raise Unfit
        roles[free[0]] = variable
    if any(r is None for r in roles):
        raise Unfit
    n, *rest = shape
    sizes = [number(e) for e in rest]
    if None in sizes:
        raise Unfit
    return (number(n) or n, *sizes), tuple(roles)  # pyright: ignore[reportReturnType]


def head_of(block: Any) -> Level:
    """A block that pads an input."""
    frame, inside = _frame(block)
    n, y, x, c = (v.var for v in block.iter_vars)
    (above, below), (left, right) = _around(block)
    channels = number(block.iter_vars[3].dom.extent)
    if channels is None:
        raise Unfit
    batch = block.iter_vars[0].dom.extent
    return Level(
        (number(batch) or batch, frame.rows - above - below, frame.columns - left - right, channels),
        (n, y, x, c),
        replaced(inside, {y: y + literal(above), x: x + literal(left)}),
        block.body.buffer,
        tuple(block.body.indices),
        None,
        1,
        0,
        0,
        frame,
    )


def headless(padded: Level, level: Level, modes: Collection[str]) -> list[Level]:
    """The two levels, or one of these modes that does without the padded image, where it takes vectors of it."""
    load = padded.value
    contiguous = isinstance(load, Load) and load.indices[len(load.indices) - 1].same_as(padded.axes[3])
    if level.mode not in modes or not contiguous:
        return [padded, level]
    down = (level.scale, level.first, level.last)
    across = _reads(level.term, padded.target, 2, level.inner[2], dict(level.steps))
    _, height, width, _ = padded.shape
    head = Head(padded.target, padded.axes, load, padded.frame, height, width, down, across)
    return [replace(level, source=None, scale=1, first=0, last=0, head=head)]


def _framed(level: Level, block: Any) -> Level:
    """The level stored as the padding after it has it."""
    frame, inside = _frame(block)
    if any(not load.source.same_as(level.target) for load in loads(inside)):
        raise Unfit
    return replace(level, value=instead(inside, level.target, level.value), frame=frame, target=block.body.buffer)


def _frame(block: Any) -> tuple[Frame, Any]:
    """What a block puts around an image, and what it makes of an element of that."""
    value, around = block.body.value, _around(block)
    sizes = [number(v.dom.extent) for v in block.iter_vars]
    if len(sizes) != 4 or sizes[1] is None or sizes[2] is None or len(getattr(value, "args", ())) != 3:
        raise Unfit
    _, inside, fill = value.args
    (above, _), (left, _) = around
    return Frame(above, left, sizes[1], sizes[2], fill), inside


def _around(block: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """How far a padding goes above and below, left and right."""
    numbers = [int(n) for n in str(block.annotations[PAD]).split()]
    if len(numbers) != 4:
        raise Unfit
    above, below, left, right = numbers
    return (above, below), (left, right)


def _reads(term: Any, source: Any, axis: int, place: Any, steps: Mapping[Any, int]) -> tuple[int, int, int]:
    """Where along an axis of the source the term reads for a place p: scale · p + first … scale · p + last."""
    analyzer = Analyzer()
    for step, extent in steps.items():
        analyzer.bind(step, Range(literal(0), literal(extent)))
    found: set[tuple[int, int, int]] = set()
    for index in (load.indices[axis] for load in loads(term) if load.source.same_as(source)):
        start, after = (analyzer.simplify(replaced(index, {place: literal(p)})) for p in (0, 1))
        scale = number(analyzer.simplify(after - start))
        bound = analyzer.const_int_bound(start)
        if scale is None or number(analyzer.simplify(index - start - place * literal(scale))) != 0:
            raise Unfit
        found.add((scale, int(bound.min_value), int(bound.max_value)))
    if len(found) != 1:
        raise Unfit
    return found.pop()


def _extent(axis: Any) -> int:
    extent = number(axis.dom.extent)
    if extent is None:
        raise Unfit
    return extent
