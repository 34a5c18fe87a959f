"""Kernels that work row by row: normalisation, softmax, reductions over the innermost axes.

The kernel marks each of its reductions `netc.rows = n`: the first n axes of every block are the same rows. All blocks
are computed for one row before the next, so that the row stays in the first-level cache.
"""

from __future__ import annotations

from typing import Any

from ..machine import Machine
from .block import annotation, extent, product, reduces
from .injective import vectorize_last

KEY = "netc.rows"
SMALL = 1 << 13
"""Elements below which one thread is enough."""


def rows(sch: Any, blocks: list[Any], machine: Machine) -> bool:
    """Schedule blocks that share their leading axes; False where they do not."""
    counts = {int(c) for b in blocks if (c := annotation(sch, b, KEY)) is not None}
    if len(counts) != 1:
        return False
    count = counts.pop()
    if not _share(sch, blocks, count):
        return False
    last = blocks[-1]
    loops = list(sch.get_loops(last))
    work = product([extent(sch, loop) for loop in loops])
    if count == 0:
        for block in blocks:
            _within(sch, block, list(sch.get_loops(block)), machine)
        return True
    outer = sch.fuse(*loops[:count]) if count > 1 else loops[0]
    if machine.threads > 1 and (work is None or work >= SMALL or len(blocks) > 1):
        sch.parallel(outer)
    for block in reversed(blocks[:-1]):
        sch.compute_at(block, outer, preserve_unit_loops=True)
    for block in blocks:
        _within(sch, block, list(sch.get_loops(block))[1:], machine)
    return True


def _share(sch: Any, blocks: list[Any], count: int) -> bool:
    """Whether the first axes of all blocks are spatial and of the same extents."""
    found: list[list[str]] = []
    for block in blocks:
        axes = list(sch.get(block).iter_vars)[:count]
        if len(axes) < count or any(int(a.iter_type) == 2 for a in axes):
            return False
        found.append([str(a.dom.extent) for a in axes])
    return all(f == found[0] for f in found)


def _within(sch: Any, block: Any, loops: list[Any], machine: Machine) -> None:
    """Vectorise one block inside its row."""
    if not loops:
        return
    if not reduces(sch, block):
        vectorize_last(sch, loops, machine)
        return
    axes = list(sch.get(block).iter_vars)[-len(loops) :]
    steps = [loop for loop, axis in zip(loops, axes, strict=True) if int(axis.iter_type) == 2]
    lanes = [loop for loop, axis in zip(loops, axes, strict=True) if int(axis.iter_type) != 2]
    if lanes and (extent(sch, lanes[-1]) or 1) > 1:
        sch.reorder(*steps, *lanes)
        sch.vectorize(lanes[-1])  # first: afterwards the block is no reduction in the scheduler's eyes
        start = sch.decompose_reduction(block, steps[0])
        sch.vectorize(list(sch.get_loops(start))[-1])
