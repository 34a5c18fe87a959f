"""Bring a function to its essential blocks: element-wise steps are computed where they are read."""

from __future__ import annotations

from typing import Any

from ..untyped import Expr, walk
from .block import annotation, blocks, name, reduces

PAD = "netc.pad"
"""Marks a block that surrounds what it reads, along the axes between the first and the last, with a constant."""

LARGEST = 400
"""Expression nodes beyond which a step is kept: a value read twice doubles at every step it is inlined through."""


def inline(sch: Any) -> None:
    """Inline element-wise blocks into their readers.

    Kept are the result, blocks marked `keep` (padding, which a reduction reads many times over), blocks that a
    reduction reads and that read one themselves, and blocks whose formula has grown large.
    """
    results = {name(sch, block) for block in sch.get_output_blocks("root")}
    done = False
    while not done:
        done = True
        for block in blocks(sch)[:-1]:
            if name(sch, block) not in results and _inlines(sch, block):
                sch.compute_inline(block)
                done = False
                break


def _inlines(sch: Any, block: Any) -> bool:
    if reduces(sch, block) or annotation(sch, block, "netc.keep") is not None:
        return False
    readers = list(sch.get_consumers(block))
    if not readers:
        return False  # one of several results
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
