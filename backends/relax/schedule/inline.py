"""Bring a function to its essential blocks: element-wise steps are computed where they are read."""

from __future__ import annotations

from typing import Any

from ..untyped import Expr, s_tir, walk
from .block import PROGRAM, annotation, blocks, name, reduces

PAD = "netc.pad"
"""Marks a block that surrounds what it reads, along the axes between the first and the last, with a constant: how far,
before and after each."""

LARGEST = 400
"""Expression nodes beyond which a step is kept: a value read twice doubles at every step it is inlined through."""


def inline(sch: Any) -> None:
    """Inline element-wise blocks into their readers.

    Kept are the result, blocks marked `keep` (padding, which a reduction reads many times over), blocks that a
    reduction reads and that read one themselves, and blocks whose formula has grown large.
    """
    kept = {name(sch, block) for block in sch.get_output_blocks("root")}
    done = False
    while not done:
        done = True
        for block in blocks(sch)[:-1]:
            if name(sch, block) not in kept and _inlines(sch, block):
                try:
                    sch.compute_inline(block)
                except s_tir.ScheduleError:  # where it cannot be proved that the block makes all that is read of it
                    kept.add(name(sch, block))
                done = False
                break


def _inlines(sch: Any, block: Any) -> bool:
    if reduces(sch, block) or any(annotation(sch, block, key) is not None for key in ("netc.keep", PROGRAM)):
        return False
    readers = list(sch.get_consumers(block))
    if not readers:
        return False  # one of several results
    if any(annotation(sch, reader, PROGRAM) is not None for reader in readers):
        return False  # which may read it many times over
    reduced = any(reduces(sch, reader) for reader in readers)
    if reduced and any(reduces(sch, source) for source in sch.get_producers(block)):
        return False
    if any(annotation(sch, reader, PAD) is not None for reader in readers) and any(
        reduces(sch, source) for source in sch.get_producers(block)
    ):
        return False  # it is computed where it is, and stored with the padding around it
    return _size(sch.get(block).body) <= LARGEST or (len(readers) == 1 and not reduced)


def _size(body: Any) -> int:
    count = 0

    def visit(_: Any) -> None:
        nonlocal count
        count += 1

    walk(body, (Expr, visit))
    return count
