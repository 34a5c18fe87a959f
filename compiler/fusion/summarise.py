"""A decision → what it costs."""

from __future__ import annotations

from ..target import Accelerator
from .decide import Decision
from .lowering import Kernel, kernel
from .partition import Task
from .summary import Machine, Summary, shares


def summarise(decision: Decision) -> Summary:
    """The groups of a plan in numbers.

    The bound is what a planner proved where it planned all nodes; else what enters and leaves the model, and its
    weights, once.
    """
    plan, machine, workload = decision.plan, Machine.of(decision.plan.target), decision.workload
    found = decision.partition
    planned = found is not None and sum(len(p.nodes) for p in found.parts) == len(workload.work.nodes)
    priced = {part.nodes: part.cost for part in found.parts} if found is not None else {}
    costs = {group.name: priced[group.nodes] for group in decision.groups if group.nodes in priced}
    proved = found.bound or 0 if found is not None and planned else 0
    kernels: dict[str, str] = {}
    if plan.target.compiles:
        made = {g.name: kernel(workload, g.nodes) for g in decision.groups}
        kernels = {name: one.kind for name, one in made.items() if isinstance(one, Kernel) and one.kind != "single"}
    return Summary(
        plan.name,
        f"{plan.target_name}, an accelerator" if isinstance(plan.target, Accelerator) else f"{plan.target}",
        machine,
        plan.dtype,
        shares(
            workload, decision.groups, machine.buffer, costs, makers=decision.makers, kernels=kernels, soft=machine.soft
        ),
        max(proved, Task(workload, machine.buffer).compulsory),
        decision.measured,
        found.notes if found is not None else (),
    )
