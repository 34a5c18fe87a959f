"""The limits of a plan, and what was found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..cost import cost
from ..diagnostic import Diagnostic, Label
from ..graph import Graph
from ..plan import LIMITS, Plan
from ..quantity import enough, sized
from ..types import Dim
from .explain import least
from .summary import Summary
from .workload import Workload

MEASURED = ("latency", "difference")
"""Limits of what is measured where a plan is compiled."""


def known(summary: Summary, graph: Graph) -> dict[str, float]:
    """Numbers by the names of limits that follow without running anything: parameters and multiply-accumulates of a
    prepared graph, without those that are computed at compile time; and what the memory model says, where the target
    has a buffer."""
    report = cost(graph)
    found: dict[str, float] = {
        "parameters": _number(report.parameters),
        "macs": _number(report.macs) - _number(report.folded),
    }
    if summary.machine.buffer is not None and summary.after is not None:
        found |= {"dram": summary.after, "buffer": summary.buffer}
    if summary.seconds is not None:
        found["latency"] = summary.seconds
    return found


def _number(dim: Dim) -> int:
    assert isinstance(dim, int)  # every size of a plan's graph is known
    return dim


def broken(plan: Plan, facts: Mapping[str, float]) -> Iterator[Diagnostic]:
    """The requirements that do not hold; those that no fact tells of are left out."""
    for requirement in plan.requirements:
        found = facts.get(requirement.name)
        if found is not None and not found <= requirement.most:
            most, it = shown(requirement.name, requirement.most), shown(requirement.name, found)
            if most == it and LIMITS[requirement.name] == "bytes":
                most, it = f"{requirement.most:,.0f} B", f"{found:,.0f} B"
            least = "at least " if bound(plan, requirement.name) else ""
            message = f"{plan.name} is required to have {requirement.name} <= {most}, but it is {least}{it}"
            yield Diagnostic("requirement", message, (Label(requirement.span),))


def bound(plan: Plan, name: str) -> bool:
    """Whether what is known is not the number itself, but one that it is not below: time by a model of costs."""
    return name == "latency" and not plan.target.compiles


def open_limits(plan: Plan, facts: Mapping[str, float]) -> list[str]:
    """What is required, and no fact tells of."""
    return list(dict.fromkeys(r.name for r in plan.requirements if r.name not in facts))


def unknowable(plan: Plan, summary: Summary, facts: Mapping[str, float]) -> Iterator[Diagnostic]:
    """The requirements that no fact tells of, and that running the model would not tell of either."""
    for requirement in plan.requirements:
        name = requirement.name
        if name in facts or (plan.target.compiles and name in MEASURED):
            continue
        big = [path for share in summary.shares if share.cost is None for path in share.group.nodes]
        notes, fix = (), None
        if name == "difference":
            why = f"nothing runs on {plan.target_name}, a model of costs"
        elif summary.machine.buffer is None:
            why = f"{plan.target_name} does not say how large its cache is"
            fix = "llvm(cache = 1 MiB)" if plan.target.kind == "llvm" else None
        else:
            rest = f" and {len(big) - 1} more" if len(big) > 1 else ""
            why = f"%{big[0]}{rest} cannot run within {shown('buffer', summary.machine.buffer)}"
            notes = ("`does not fit` stands beside them in what `netc plan` prints",)
        yield Diagnostic("requirement", f"{name} cannot be known: {why}", (Label(requirement.span),), notes, fix)


def misfits(plan: Plan, summary: Summary, workload: Workload) -> Iterator[Diagnostic]:
    """The nodes that no line names and that do not fit the buffer by themselves."""
    big = [path for share in summary.shares if share.cost is None for path in share.group.nodes]
    if big:
        names = ", ".join(f"%{path}" for path in big[:4]) + (f" and {len(big) - 4} more" if len(big) > 4 else "")
        needs = max(least(workload, [path]) for path in big)
        message = f"{plan.name} cannot be executed: {names} do{'es' * (len(big) == 1)} not fit alone"
        has = shown("buffer", summary.machine.buffer or 0)
        notes = (f"{plan.target_name} has {has}, {shown('buffer', needs)} are needed",)
        fix = f"buffer = {enough(needs)}"
        yield Diagnostic("does-not-fit", message, (Label(plan.span),), notes, fix)


def shown(name: str, value: float) -> str:
    """A number as people read it, in the unit of its limit."""
    quantity = LIMITS[name]
    if quantity == "seconds":
        return f"{1e3 * value:.3g} ms"
    if quantity == "bytes":
        return sized(value)
    return f"{value:,.0f}" if quantity == "a count" else f"{value:.2e}"
