"""Any function whose blocks have loops: parallel over outer axes, vectors along the innermost one."""

from __future__ import annotations

from typing import Any

from ..machine import Machine
from .block import extent, product, reduces, split_loops
from .injective import GRAIN, injective, parallel


def generic(sch: Any, blocks: list[Any], machine: Machine) -> bool:
    """Schedule each block for itself; False where a block has a form that loops do not describe."""
    for block in blocks:
        if not reduces(sch, block):
            injective(sch, block, machine)
            continue
        spatial, steps = split_loops(sch, block)
        if not spatial:
            continue
        work = product([extent(sch, loop) for loop in [*spatial, *steps]])
        sch.reorder(*spatial, *steps)
        if work is None or work >= GRAIN:
            parallel(sch, spatial, machine)
    return True
