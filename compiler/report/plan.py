"""The page of a plan: its groups on the graph and in a table, what is on chip meanwhile, and the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..fusion.occupancy import occupancy
from ..fusion.prepare import prepared
from ..fusion.summary import Share, Summary
from ..fusion.workload import Workload
from ..graph import Graph
from ..passes.register import Pass
from ..pipeline import Stage, Step, Trace
from .chip import chip
from .html import Planned, page
from .roofline import roofline

_COLOURS = 7
"""So many groups have colours of their own in plan.css."""


def plan_page(summary: Summary, workload: Workload, trace: Trace) -> str:
    """The page of a plan: `trace` are its passes, `workload` is of the graph that was prepared of what they made."""
    labels = [_label(i, share) for i, share in enumerate(summary.shares)]
    told = summary.data()
    for group, label, colour in zip(told["groups"], labels, _colours(workload, summary.shares), strict=True):
        group |= {"label": label, "colour": colour}
    colours = [group["colour"] for group in told["groups"]]
    figure, caption = roofline(summary, labels, colours)
    drawn = f"<figure>{figure}<figcaption>{caption}</figcaption></figure>"
    for i, share in enumerate(summary.shares):
        if share.cost is not None:
            found = occupancy(workload, share.group.nodes, share.cost.schedule)
            drawn += f'<template id="chip-{i}">{chip(found, summary.machine.buffer, i)}</template>'
    origins = [s.group.origin for s in summary.shares]
    return page(_prepared(trace, workload.graph), plan=Planned(told, drawn, origins))


def _prepared(trace: Trace, graph: Graph) -> Trace:
    """The trace, with what was done last as a stage of it."""
    if graph == trace.final:
        return trace
    step = Step(Pass("prepared", prepared, doc="Sizes are numbers, and operators are those that there are kernels of."))
    return replace(trace, stages=(*trace.stages, Stage(step, trace.final, graph, 0.0)), end=None)


def _label(number: int, share: Share) -> str:
    """What a group is called where there is little room: its place, and the name that somebody gave it."""
    given = share.maker == "the plan" and len(share.group.name) <= 18
    return f"{number + 1} {share.group.name}" if given else str(number + 1)


def _colours(workload: Workload, shares: Sequence[Share]) -> list[int]:
    """A colour for each group, another one than those that it reads from have, and than the one before has."""
    found: list[int] = []
    home = {path: i for i, share in enumerate(shares) for path in share.group.nodes}
    for i, share in enumerate(shares):
        near = {home[source] for path in share.group.nodes for source in workload.work.before[path]} | {i - 1}
        taken = {found[j] for j in near if 0 <= j < i}
        order = [(i + k) % _COLOURS for k in range(_COLOURS)]
        found.append(next((c for c in order if c not in taken), order[0]))
    return found
