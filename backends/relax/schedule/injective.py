"""Blocks without a reduction: every element on its own."""

from __future__ import annotations

from typing import Any

from ..machine import Machine
from .block import extent, product

GRAIN = 8192
"""Elements below which handing work to other threads costs more than it saves."""

TASKS = 4
"""Iterations a thread should at least get, so that the last ones even out."""


def injective(sch: Any, block: Any, machine: Machine, loops: list[Any] | None = None) -> None:
    """Split the loops of a block over threads and vector lanes. `loops`: those that are its own, by default all."""
    loops = list(sch.get_loops(block)) if loops is None else loops
    if not loops:
        return
    extents = [extent(sch, loop) for loop in loops]
    total = product(extents)
    outer = vectorize_last(sch, loops, machine)
    if total is None or total >= GRAIN:
        parallel(sch, outer, machine)


def vectorize_last(sch: Any, loops: list[Any], machine: Machine) -> list[Any]:
    """Vectorise the innermost loop where it fills whole vectors, and return the loops outside.

    A loop that does not is left to LLVM's own vectoriser, which can peel a remainder; TVM would fall back to scalars.
    """
    *outer, inner = loops
    length = extent(sch, inner)
    if length is None or length % machine.lanes:
        return outer if outer else loops
    if length > machine.lanes:
        middle, inner = sch.split(inner, [None, machine.lanes])
        outer = [*outer, middle]
    sch.vectorize(inner)
    return outer


def parallel(sch: Any, loops: list[Any], machine: Machine) -> Any:
    """Fuse as many of the outermost loops as give every thread work, run them in parallel, and return the loop."""
    if not loops or machine.threads == 1:
        return sch.fuse(*loops[:1]) if loops else None
    taken, count = [loops[0]], extent(sch, loops[0])
    for loop in loops[1:]:
        if count is not None and count >= TASKS * machine.threads:
            break
        n = extent(sch, loop)
        count = None if count is None or n is None else count * n
        taken.append(loop)
    fused = sch.fuse(*taken) if len(taken) > 1 else taken[0]
    sch.parallel(fused)
    return fused
