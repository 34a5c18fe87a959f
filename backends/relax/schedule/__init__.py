"""Analytic schedules for processors: no kernel reaches the build without one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ..machine import Machine
from ..untyped import s_tir, tirx
from .block import blocks, reduces
from .chain import chain
from .channels import channels
from .follow import follow
from .generic import generic
from .injective import injective
from .inline import inline
from .pieces import pieces
from .rows import rows
from .tile import tile

SCHEDULED = "tirx.is_scheduled"
HOST = "tirx.is_host_func"


@dataclass
class Report:
    """What became of every kernel: the rule that scheduled it, and why a better one could not."""

    rules: dict[str, str] = field(default_factory=dict[str, str])
    failures: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.rules.values())


def _injective(sch: Any, found: list[Any], machine: Machine) -> bool:
    if any(reduces(sch, block) for block in found):
        return False
    for block in found:
        injective(sch, block, machine)
    return True


RULES = {"injective": _injective, "tile": tile, "rows": rows, "pieces": pieces, "generic": generic}


def schedule(module: Any, machine: Machine) -> tuple[Any, Report]:
    """The module with every kernel scheduled, and the account of it."""
    report = Report()
    for variable, function in sorted(module.functions.items(), key=lambda item: item[0].name_hint):
        if not isinstance(function, tirx.PrimFunc):
            continue
        name = str(variable.name_hint)
        if function.attrs is not None and SCHEDULED in function.attrs:
            report.rules[name] = "own"
            continue
        module[variable] = _schedule(name, function, machine, report).with_attr(SCHEDULED, True)
    return module, report


def unscheduled(module: Any) -> list[str]:
    """The kernels that nothing has scheduled. The arithmetic on sizes, once a call, is no kernel."""
    kernels = {str(v.name_hint): f.attrs or {} for v, f in module.functions.items() if isinstance(f, tirx.PrimFunc)}
    return sorted(name for name, said in kernels.items() if SCHEDULED not in said and HOST not in said)


def _schedule(name: str, function: Any, machine: Machine, report: Report) -> Any:
    for whole in (chain, channels):
        made = whole(function, machine)
        if made is not None:
            report.rules[name] = whole.__name__
            return made
    joined, done = follow(function)
    if done:
        report.rules[name] = "follow"
        return joined
    function = joined
    for rule, apply in RULES.items():
        sch = s_tir.Schedule(function)
        try:
            inline(sch)
            if apply(sch, blocks(sch), machine):
                report.rules[name] = rule
                return sch.mod["main"]
        except s_tir.ScheduleError as error:
            report.failures.setdefault(name, f"{rule}: {_reason(error)}")
    # What cannot even be inlined is scheduled step by step, which touches loops alone.
    sch = s_tir.Schedule(function)
    generic(sch, blocks(sch), machine)
    report.rules[name] = "generic"
    return sch.mod["main"]


def _reason(error: Exception) -> str:
    text = str(error)
    return text.rpartition("Error message:")[2].strip().replace("\n", " ")[:300] or text[:300]
