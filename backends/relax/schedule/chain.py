"""Convolutions that follow each other in one kernel: rows of each are computed when the next one needs them.

A task computes a band of rows of the last result, a few at a time. Each earlier convolution first brings the rows that
are then needed and not yet there into a buffer of its own, which holds only the rows that are still needed and is
written round and round; so what passes between two convolutions stays in the second-level cache. Rows at the border of
two bands are computed for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from ..index import literal
from ..machine import Machine
from ..untyped import Analyzer, Load, Range, mutate, s_tir, tirx, walk
from .block import REDUCTION, annotation, blocks, number
from .inline import PAD, inline
from .stream import stream
from .tile import KEY


class Unfit(Exception):
    """The function is no chain of convolutions."""


@dataclass(frozen=True)
class Frame:
    """How an image lies in a larger one filled with a constant: what is before it, and how large the whole is."""

    above: int
    left: int
    rows: int
    columns: int
    fill: Any


@dataclass(frozen=True)
class Level:
    """A stage of a chain: `value` for each place `[n, y, x, c]` of the `shape`, which `axes` stand for.

    Where it reduces, `value` reads from `total` what comes of setting it to `term` in all `steps`. `scale`, `first` and
    `last` say which rows of `source` a row y reads: scale · y + first … scale · y + last.
    """

    shape: tuple[Any, int, int, int]
    axes: tuple[Any, ...]
    value: Any
    target: Any
    place: tuple[Any, ...]
    source: Any
    scale: int
    first: int
    last: int
    frame: Frame
    term: Any = None
    total: Any = None
    zero: Any = None
    steps: tuple[tuple[Any, int], ...] = ()
    inner: tuple[Any, ...] = ()
    """What stands for the place in `term`."""
    height: int = 1
    width: int = 1
    mode: str = ""


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
            levels.append(_head(block))
            source = block.body.buffer
            at += 1
        elif KEY in dict(block.annotations) and at + 1 < len(found):
            levels.append(_reduced(block, found[at + 1], source))
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


def _reduced(block: Any, result: Any, source: Any) -> Level:
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
    scale, first, last = (1, 0, 0) if source is None else _rows(term, source, inner[1].var, steps)
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
        tuple((v.var, _extent(v)) for v in steps),
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


def _head(block: Any) -> Level:
    """A block that pads an input."""
    axes = list(block.iter_vars)
    if len(axes) != 4:
        raise Unfit
    n, *sizes = [v.dom.extent for v in axes]
    rows, columns, channels = (number(e) for e in sizes)
    if rows is None or columns is None or channels is None:
        raise Unfit
    return Level(
        (number(n) or n, rows, columns, channels),
        tuple(v.var for v in axes),
        block.body.value,
        block.body.buffer,
        tuple(block.body.indices),
        None,
        1,
        0,
        0,
        Frame(0, 0, rows, columns, None),
    )


def _framed(level: Level, block: Any) -> Level:
    """The level stored as the padding after it has it."""
    value = block.body.value
    axes = [v.var for v in block.iter_vars]
    read = loads(value)
    if len(read) != 1 or not read[0].source.same_as(level.target) or len(axes) != 4:
        raise Unfit
    if len(getattr(value, "args", ())) != 3:
        raise Unfit
    inside, fill = value.args[1:]
    if not _is_load(inside, level.target):
        raise Unfit
    zeros = {axis: literal(0) for axis in axes}
    offsets = [number(Analyzer().simplify(replaced(i, zeros))) for i in inside.indices]
    sizes = [number(e) for e in block.body.buffer.shape]
    if offsets[3] != 0 or offsets[1] is None or offsets[2] is None or sizes[1] is None or sizes[2] is None:
        raise Unfit
    return replace(level, frame=Frame(-offsets[1], -offsets[2], sizes[1], sizes[2], fill), target=block.body.buffer)


def _rows(term: Any, source: Any, row: Any, steps: Sequence[Any]) -> tuple[int, int, int]:
    """Which rows of the source a row of the sum reads."""

    def at(index: Any, y: int, last: bool) -> int:
        ends = {v.var: literal(_extent(v) - 1 if last else 0) for v in steps}
        value = number(Analyzer().simplify(replaced(index, ends | {row: literal(y)})))
        if value is None:
            raise Unfit
        return value

    found: set[tuple[int, int, int]] = set()
    for index in (load.indices[1] for load in loads(term) if load.source.same_as(source)):
        first = at(index, 0, False)
        found.add((at(index, 1, False) - first, first, at(index, 0, True)))
    if len(found) != 1:
        raise Unfit
    return found.pop()


def _extent(axis: Any) -> int:
    extent = number(axis.dom.extent)
    if extent is None:
        raise Unfit
    return extent


def _is_load(expression: Any, buffer: Any) -> bool:
    return isinstance(expression, Load) and expression.source.same_as(buffer)


def loads(expression: Any) -> list[Any]:
    found: list[Any] = []
    walk(expression, (Load, found.append))
    return found


def replaced(expression: Any, variables: Mapping[Any, Any]) -> Any:
    """The expression with other expressions for variables."""
    return mutate(expression, (tirx.Var, lambda v, _: variables.get(v, v)))


def simplified(expression: Any, extents: Mapping[Any, Any]) -> Any:
    """The expression with its indices simplified for variables from 0 to below their extents."""
    analyzer = Analyzer()
    for variable, extent in extents.items():
        if isinstance(extent, int):
            analyzer.bind(variable, Range(literal(0), literal(extent)))

    def load(value: Any, _: Any) -> Any:
        return tirx.BufferLoad(value.source, [analyzer.simplify(i) for i in value.indices])

    return mutate(expression, (Load, load))
