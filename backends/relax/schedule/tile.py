"""Reductions into a tile of registers: convolutions, matrix products, pooling, sums over outer axes.

The kernel gives the reduction a block of its own, marked `netc.tile = "height width mode [axis]"`, and the result
another after it. The rows are the last axis but one, or the given one. The last axis of both is contiguous in memory
and is read by whole vectors. The reduction is computed for a tile of rows × columns at a time, which LLVM keeps in
registers over the whole reduction; what follows (bias, activation, residual) is applied to the tile before it is
stored.
"""

from __future__ import annotations

from typing import Any

from ..index import flatten
from ..machine import Machine
from ..untyped import tirx
from .block import annotation, extent, number, product, reduces, spatial_extents, split_loops
from .injective import TASKS, injective, parallel, vectorize_last

KEY = "netc.tile"
"""Modes: `flat`, the rows are all axes but the last, taken as one, and columns are gone through for so many tiles of
rows at a time as the number after it says (0: all); `batch`, every tile is a task of its own; `image`, the rows lie in
an image with padding around; `channels` and `window`, the same where every channel is reduced for itself, in a few
steps to be unrolled or in many."""

DOT = "netc.dot"
"""Marks a reduction whose steps are single instructions (../dot.py): its vectors are as long as a register."""

LONG, LEAST = 256, 32
"""A float32 sum of more terms than twice `LONG` is one of sums of at most `LONG`, and at least `LEAST`, terms: errors
grow with the root of the number of terms that are summed in turn. In two parts it would take twice the time, as
`FEW` says."""

FEW = 4
"""Parts of a sum below which LLVM writes them out one after the other, and keeps the sum of the first in registers
while it adds up the next: where both do not fit, the tile of the next is in memory."""

SHARE = "netc.share"
"""What of a result in mode `image` threads share: `rows` of the image, or `columns`, which are its channels."""

SMALL = 1 << 15
"""Multiplications below which one thread is enough."""


def tile(sch: Any, blocks: list[Any], machine: Machine) -> bool:
    """Schedule `[padding], reduction, [result]`; False where the blocks are not of that form."""
    marked = [i for i, b in enumerate(blocks) if annotation(sch, b, KEY) is not None]
    if len(marked) != 1 or sum(reduces(sch, b) for b in blocks) != 1:
        return False
    at = marked[0]
    sources, reduction, results = blocks[:at], blocks[at], blocks[at + 1 :]
    if len(results) != 1 or not _aligned(sch, reduction, results[0]):
        return False
    _schedule(sch, sources, reduction, results[0], machine)
    return True


def _aligned(sch: Any, reduction: Any, result: Any) -> bool:
    """Whether the result's axes are the reduction's (whose last ones may be padded to whole tiles)."""
    if _read(str(annotation(sch, reduction, KEY)))[2] == "flat":
        return len(sch.get_loops(result)) >= 1
    return len(spatial_extents(sch, reduction)) == len(sch.get_loops(result)) >= 1


def _schedule(sch: Any, sources: list[Any], reduction: Any, result: Any, machine: Machine) -> None:
    height, width, mode, place = _read(str(annotation(sch, reduction, KEY)))
    unrolled = mode == "channels"
    share = annotation(sch, reduction, SHARE)
    *outer, column = _rows(sch, result, mode == "flat")
    if width == 1:
        _scalar(sch, sources, reduction, [*outer, column], unrolled, machine)
        return
    row = outer.pop(-1 if mode == "flat" else place)
    steps = product([extent(sch, loop) for loop in split_loops(sch, reduction)[1]])
    columns = extent(sch, column)
    count = product([extent(sch, loop) for loop in [*outer, row]])
    weights = None if steps is None or columns is None else steps * columns * 4
    work = None if weights is None or count is None else weights // 4 * count
    lines = product([extent(sch, loop) for loop in outer])
    column_tiles, lane = sch.split(column, [None, width])
    row_tiles, line = sch.split(row, [None, height])
    if mode == "flat":
        blocks = []
        if place > 0:
            block, row_tiles = sch.split(row_tiles, [None, place])
            blocks = [block]
        task = inner = _tasks(sch, [*outer, *blocks, column_tiles, row_tiles], [line, lane], work, machine)
        at = None
    elif mode == "batch" or not outer:
        task = _tasks(sch, [*outer, row_tiles, column_tiles], [line, lane], work, machine)
        inner = task
        at = None
    elif by_rows(lines, weights, mode, machine) if share is None else str(share) == "rows":
        task, inner = _row_blocks(sch, outer, column_tiles, row_tiles, line, lane, work, machine)
        at = task
    else:
        task, inner = _column_blocks(sch, outer, column_tiles, row_tiles, line, lane, work, machine)
        at = None
    vectorize(sch, lane, machine)
    sch.unroll(line)
    _accumulate(sch, reduction, inner, unrolled, machine)
    for source in reversed(sources):
        if at is None:
            injective(sch, source, machine)
        else:
            depth = _depth(sch, at)
            sch.compute_at(source, at, preserve_unit_loops=True)
            vectorize_last(sch, list(sch.get_loops(source))[depth:], machine)


def _scalar(sch: Any, sources: list[Any], reduction: Any, loops: list[Any], unrolled: bool, machine: Machine) -> None:
    """Where no vector divides the columns, leave the loop over them to LLVM, which can peel a remainder.

    It vectorises innermost loops alone: so either the steps are unrolled inside, or each goes through all columns.
    """
    task = parallel(sch, loops[:-1], machine)
    at = loops[-1] if unrolled else task
    outside = _depth(sch, at)
    sch.compute_at(reduction, at, preserve_unit_loops=True)
    axes = list(sch.get(reduction).iter_vars)
    pairs = list(zip(list(sch.get_loops(reduction))[outside:], axes, strict=True))
    steps = [loop for loop, axis in pairs if int(axis.iter_type) == 2]
    sch.reorder(*steps, *(loop for loop, axis in pairs if int(axis.iter_type) != 2))
    for loop in steps if unrolled else []:
        sch.unroll(loop)
    sch.decompose_reduction(reduction, steps[0])
    for source in reversed(sources):
        sch.compute_at(source, task, preserve_unit_loops=True)


def _read(text: str) -> tuple[int, int, str, int]:
    """Height, width, mode, and which of the axes before the last holds the rows."""
    height, width, mode, *place = text.split()
    return int(height), int(width), mode, int(place[0]) if place else -1


def _rows(sch: Any, result: Any, flat: bool) -> list[Any]:
    """The loops of the result, all but the last made one where its rows are `flat`."""
    extents = [v.dom.extent for v in sch.get(result).iter_vars]
    if flat and len(extents) > 2:
        flattened = tirx.IndexMap.from_func(lambda *i: (flatten(i[:-1], extents[:-1]), i[-1]), len(extents))
        sch.transform_block_layout(result, flattened)
    loops = list(sch.get_loops(result))
    return loops if len(loops) > 1 else [sch.add_unit_loop(loops[0]), *loops]


def _tasks(sch: Any, outer: list[Any], inner: list[Any], work: int | None, machine: Machine) -> Any:
    """One loop over all tiles."""
    sch.reorder(*outer, *inner)
    task = sch.fuse(*outer) if len(outer) > 1 else outer[0]
    if machine.threads > 1 and (work is None or work >= SMALL):
        sch.parallel(task)
    return task


def by_rows(rows: int | None, weights: int | None, mode: str, machine: Machine) -> bool:
    """Whether threads take rows of the image each, through all columns: where the weights' bytes stay in cache."""
    if rows is not None and rows < TASKS * machine.threads:
        return False
    return mode != "image" or (weights is not None and weights <= machine.cache)


def _row_blocks(
    sch: Any, outer: list[Any], columns: Any, rows: Any, line: Any, lane: Any, work: int | None, machine: Machine
) -> tuple[Any, Any]:
    """Parallel over groups of image rows; in each, a column of weights is used for all its tiles in turn."""
    *lead, last = outer
    total, length = product([extent(sch, loop) for loop in outer]), extent(sch, last)
    group = 1
    if length is not None:
        count = length if total is None else total
        group = next(n for n in (4, 2, 1) if length % n == 0 and (n == 1 or count // n >= TASKS * machine.threads))
    block, within = sch.split(last, [None, group])
    sch.reorder(*lead, block, columns, within, rows, line, lane)
    task = sch.fuse(*lead, block) if lead else block
    if machine.threads > 1 and (work is None or work >= SMALL):
        sch.parallel(task)
    return task, rows


def _column_blocks(
    sch: Any, outer: list[Any], columns: Any, rows: Any, line: Any, lane: Any, work: int | None, machine: Machine
) -> tuple[Any, Any]:
    """Parallel over columns of weights, which are many: each is read once, and stays in cache for all rows."""
    sch.reorder(columns, *outer, rows, line, lane)
    tiles = extent(sch, columns)
    task = columns
    if tiles is None or tiles < TASKS * machine.threads // 2:
        task = sch.fuse(columns, *outer)
    if machine.threads > 1 and (work is None or work >= SMALL):
        sch.parallel(task)
    return task, rows


def vectorize(sch: Any, loop: Any, machine: Machine, *, apart: bool = False) -> None:
    """Vectorise a loop; one that is no power of two long, which LLVM handles badly, as several vectors side by side.

    `apart`: one that is longer than a register too.
    """
    length = extent(sch, loop)
    assert length is not None
    if length & (length - 1) or (apart and length > machine.lanes):
        vectors, loop = sch.split(loop, [None, machine.lanes])
        sch.unroll(vectors)
    sch.vectorize(loop)


def _accumulate(sch: Any, reduction: Any, at: Any, unrolled: bool, machine: Machine) -> None:
    """Compute the reduction for one tile, the tile innermost."""
    apart = annotation(sch, reduction, DOT) is not None
    part = None if unrolled or apart else _part(sch, reduction, machine)
    step = _compute(sch, reduction, at, unrolled, machine, apart)
    if part is not None:
        _compute(sch, part, step, False, machine, apart)


def _compute(sch: Any, reduction: Any, at: Any, unrolled: bool, machine: Machine, apart: bool) -> Any:
    """Compute a reduction for one tile, the tile innermost, and return the last loop over its steps."""
    outside = _depth(sch, at)
    sch.compute_at(reduction, at, preserve_unit_loops=True)
    axes = list(sch.get(reduction).iter_vars)
    loops = list(sch.get_loops(reduction))[outside:]
    pairs = list(zip(loops, axes, strict=True))
    steps = [loop for loop, axis in pairs if int(axis.iter_type) == 2]
    spatial = [loop for loop, axis in pairs if int(axis.iter_type) != 2]
    sch.reorder(*steps, *spatial)
    vectorize(sch, spatial[-1], machine, apart=apart)
    for loop in spatial[:-1]:
        if (number(sch.get(loop).extent) or 99) <= 32:
            sch.unroll(loop)
    if unrolled:
        for loop in steps:
            sch.unroll(loop)
    start = sch.decompose_reduction(reduction, steps[0])
    sch.vectorize(list(sch.get_loops(start))[-1])
    return steps[-1]


def _part(sch: Any, reduction: Any, machine: Machine) -> Any | None:
    """Split a long reduction in two: parts of it, which are returned, and their sum; None where it is short."""
    spatial, steps = split_loops(sch, reduction)
    extents = [extent(sch, loop) for loop in steps]
    total = product(extents)
    if total is None or total <= 2 * LONG or len(spatial) + len(steps) != len(sch.get_loops(reduction)):
        return None
    if str(sch.get(reduction).writes[0].source.dtype) != "float32":
        return None
    height, width, *_ = _read(str(annotation(sch, reduction, KEY)))
    vectors = -(-width // machine.lanes)
    both = 2 * height * vectors + vectors + 1
    most = LONG if both <= machine.registers else min(LONG, total // FEW)
    within = 1
    while steps and within * (extents[-1] or most) <= most:
        within *= extents.pop() or 1
        steps.pop()
    if within < LEAST:
        last = extents[-1] or 1
        inner = next((n for n in range(most // within, LEAST // within, -1) if last % n == 0), None)
        if inner is None:
            return None
        steps[-1], _ = sch.split(steps[-1], [None, inner])
    whole = sch.fuse(*steps) if len(steps) > 1 else steps[0]
    return sch.rfactor(whole, 0)


def _depth(sch: Any, loop: Any) -> int:
    """How many loops there are down to and including this one."""
    depth, ref = 0, sch.get_sref(loop)
    while ref is not None:
        depth += type(ref.stmt).__name__ == "For"
        ref = ref.parent
    return depth
