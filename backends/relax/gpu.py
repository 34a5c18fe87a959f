"""Schedules for GPUs: one thread for each element of a result, reductions in a loop in it.

It is TVM's fallback of dlight, which takes every kernel that is a formula; nothing is tiled or shared, so it is right
and slow. Kernels that are written as programs for processors have no threads to give, and are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...compiler.diagnostic import Diagnostic, NetcError
from .choice import Choices, Option, Question
from .schedule import SCHEDULED, Report
from .untyped import s_tir, tirx

DIRECT = "direct"


@dataclass(frozen=True)
class Formulas:
    """Answers that avoid kernels which are programs, where there is another; the others are those of `choices`."""

    choices: Choices

    def answer(self, question: Question) -> Mapping[str, Option]:
        answer = self.choices.answer(question)
        return answer | {name: DIRECT for name, candidates in question.space if DIRECT in candidates}  # type: ignore[operator]


def schedule(module: Any) -> tuple[Any, Report]:
    """The module with every kernel scheduled for a GPU, under its target.

    Raises:
        NetcError: where a kernel is a program for processors (`unsupported-target`).
    """
    kernels = {str(v.name_hint): f for v, f in module.functions.items() if isinstance(f, tirx.PrimFunc)}
    programs = sorted(name for name, f in kernels.items() if f.attrs and SCHEDULED in f.attrs)
    if programs:
        message = f"there is no schedule for GPUs of {', '.join(programs)}"
        raise NetcError([Diagnostic("unsupported-target", message)])
    rules = s_tir.dlight
    module = rules.ApplyDefaultSchedule(rules.gpu.Fallback())(module)
    for variable, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc) and not (function.attrs and SCHEDULED in function.attrs):
            raise AssertionError(f"kernel without a schedule: {variable.name_hint}")
    return module, Report(dict.fromkeys(kernels, "fallback"))


def source(module: Any) -> str:
    """The CUDA source in a module of code."""
    if str(module.kind) == "cuda":
        return str(module.inspect_source())
    return next((text for inner in module.imports if (text := source(inner))), "")
