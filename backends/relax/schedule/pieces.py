"""Several kernels in one function which no rule joins: each piece is scheduled as it would be by itself.

A piece is a reduction into registers with the padding before it and the result after it, or reductions over the same
rows with what lies between and after them, or any other step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..machine import Machine
from ..untyped import s_tir
from .block import PROGRAM, annotation, name, reduces
from .generic import generic
from .rows import KEY as ROWS
from .rows import rows
from .tile import KEY as TILE
from .tile import tile

Rule = Callable[[Any, list[Any], Machine], bool]


def pieces(sch: Any, blocks: list[Any], machine: Machine) -> bool:
    """Schedule blocks piece by piece; False where there is no piece that a rule is made for."""
    left = {name(sch, block): block for block in blocks}
    found = 0
    for block in blocks:
        if annotation(sch, block, TILE) is not None:
            found += _takes(sch, tile, _tiled(sch, block, left), left, machine)
    for block in blocks:
        if annotation(sch, block, ROWS) is not None and name(sch, block) in left:
            found += any(_takes(sch, rows, piece, left, machine) for piece in _runs(sch, block, left))
    for block in left.values():
        generic(sch, [block], machine)
    return found > 0


def _takes(sch: Any, rule: Rule, piece: Sequence[str], left: dict[str, Any], machine: Machine) -> bool:
    """Schedule a piece by a rule, if that can be, and take it off what is left."""
    if not piece or not _applies(sch.copy(), rule, piece, machine):
        return False
    rule(sch, [left.pop(block) for block in piece], machine)
    return True


def _applies(trial: Any, rule: Rule, piece: Sequence[str], machine: Machine) -> bool:
    try:
        return rule(trial, [trial.get_sblock(block) for block in piece], machine)
    except (s_tir.ScheduleError, AssertionError):  # the latter where a tile's extents are not found to be numbers
        return False


def _tiled(sch: Any, block: Any, left: dict[str, Any]) -> list[str]:
    """A reduction with what it alone reads and its one reader; nothing where the reader is another reduction."""
    readers = list(sch.get_consumers(block))
    if len(readers) != 1 or reduces(sch, readers[0]) or name(sch, readers[0]) not in left:
        return []
    sources = [
        name(sch, source)
        for source in sch.get_producers(block)
        if name(sch, source) in left and _is_padding(sch, source)
    ]
    ordered = [n for n in left if n in sources]
    return [*ordered, name(sch, block), name(sch, readers[0])]


def _is_padding(sch: Any, block: Any) -> bool:
    """Whether a block is a step of loops for a single reader."""
    alone = len(list(sch.get_consumers(block))) == 1
    return alone and not reduces(sch, block) and annotation(sch, block, PROGRAM) is None


def _runs(sch: Any, block: Any, left: dict[str, Any]) -> list[list[str]]:
    """The steps from a block on that are left, the longest run first, such that nobody else reads from within it."""
    names = list(left)
    start = names.index(name(sch, block))
    found: list[list[str]] = []
    for end in range(len(names), start, -1):
        run = names[start:end]
        readers = {name(sch, r) for n in run[:-1] for r in sch.get_consumers(left[n])}
        if readers <= set(run):
            found.append(run)
    return found
