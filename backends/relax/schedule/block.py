"""Asking a schedule about its blocks and loops."""

from __future__ import annotations

from typing import Any

from ..untyped import tirx

REDUCTION = 2
"""`IterVar.kCommReduce`."""

PROGRAM = "netc.program"
"""Marks a block of statements that are their own schedule."""

STORES = "netc.stores"
"""Marks such a block that stores each element of its result once and reads none of it."""


def blocks(sch: Any) -> list[Any]:
    """The blocks of a function, in order."""
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def name(sch: Any, block: Any) -> str:
    return str(sch.get(block).name_hint)


def annotation(sch: Any, block: Any, key: str) -> Any:
    """The value that a kernel's author put on a block, or None."""
    return dict(sch.get(block).annotations).get(key)


def reduces(sch: Any, block: Any) -> bool:
    return any(int(v.iter_type) == REDUCTION for v in sch.get(block).iter_vars)


def extent(sch: Any, loop: Any) -> int | None:
    """The trip count of a loop, None where it is symbolic."""
    return number(sch.get(loop).extent)


def number(expression: Any) -> int | None:
    return int(expression) if isinstance(expression, int | tirx.IntImm) else None


def split_loops(sch: Any, block: Any) -> tuple[list[Any], list[Any]]:
    """The spatial and the reduction loops that a block's own axes run over (its innermost loops)."""
    axes = list(sch.get(block).iter_vars)
    loops = list(sch.get_loops(block))[-len(axes) :] if axes else []
    pairs = list(zip(loops, axes, strict=True))
    return (
        [loop for loop, axis in pairs if int(axis.iter_type) != REDUCTION],
        [loop for loop, axis in pairs if int(axis.iter_type) == REDUCTION],
    )


def spatial_extents(sch: Any, block: Any) -> list[int | None]:
    return [number(v.dom.extent) for v in sch.get(block).iter_vars if int(v.iter_type) != REDUCTION]


def product(extents: list[int | None]) -> int | None:
    total = 1
    for e in extents:
        if e is None:
            return None
        total *= e
    return total
