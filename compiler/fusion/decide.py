"""A plan on a graph: its lines in order, and a planner for what they leave, become a partition into groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..backend import backend
from ..diagnostic import Diagnostic, Label, NetcError
from ..graph import Graph
from ..plan import AutoLine, GroupLine, PatternLine, Plan
from ..source import Span
from .group import Group
from .legality import Legality
from .partition import Partition, Task
from .planner import PLANNERS
from .race import Measure, Timing, race
from .resolve import by_path, by_pattern
from .summary import Machine, Measured
from .workload import Workload


@dataclass(frozen=True)
class Decision:
    """The groups of a plan, a partition of the working nodes of `graph`, in the order of their first nodes.

    `makers` says of each group by name which line or planner made it. `measured` are the kernels that were run to find
    out whether to join them.
    """

    plan: Plan
    workload: Workload
    groups: tuple[Group, ...]
    makers: dict[str, str]
    partition: Partition | None = None
    """What a planner made of the nodes that no line names."""
    measured: tuple[Measured, ...] = ()

    @property
    def graph(self) -> Graph:
        return self.workload.graph


@dataclass
class Declared:
    """What the lines of a plan ask for: groups, and a planner for the rest of the nodes."""

    legality: Legality
    groups: list[Group] = field(default_factory=list[Group])
    makers: dict[str, str] = field(default_factory=dict[str, str])
    auto: AutoLine | None = None

    def take(self, made: Sequence[Group], maker: str) -> None:
        """Add groups, under names that are free."""
        for group in made:
            named = Group(_free_name(group.name, self.makers), group.nodes, group.origin)
            self.groups.append(named)
            self.makers[named.name] = maker


def declared(plan: Plan, graph: Graph) -> Declared:
    """The groups that the lines of a plan ask for on its graph, each of which can be executed as one.

    Raises:
        NetcError: for names that the graph has not, and for groups that overlap or cannot be executed.
    """
    found = Declared(Legality(Workload(graph, plan.dtype), plan.target))
    work = found.legality.workload.work
    found.makers = {line.name: "the plan" for line in plan.fuse if isinstance(line, GroupLine)}
    for line in plan.fuse:
        if isinstance(line, GroupLine):
            found.groups.append(by_path(work, line))
            _check_overlap(found.groups)
        elif isinstance(line, PatternLine):
            found.take(by_pattern(work, line, found.groups, found.legality.legal), "a pattern")
        else:
            found.auto = line
    asked = [group for group in found.groups if found.makers[group.name] == "the plan"]
    found.legality.check(asked, [group for group in found.groups if group not in asked])
    return found


def decide(plan: Plan, graph: Graph) -> Decision:
    """The groups of a plan on its graph: see `netc.compiler.fusion.prepare`.

    Raises:
        NetcError: for lines that ask for what cannot be, and where a planner finds no groups that the target can
            execute.
    """
    lines = declared(plan, graph)
    work = lines.legality.workload.work
    taken = {path for group in lines.groups for path in group.nodes}
    free = tuple(path for path in work.nodes if path not in taken)
    found: Partition | None = None
    measured: list[Measured] = []
    if lines.auto is None:
        lines.take([Group(path, (path,)) for path in free], "layers")
    elif free:
        task = _task(plan, lines.legality, free, lines.groups)
        found = PLANNERS[lines.auto.planner].run(task, **lines.auto.options)
        parts, maker = [part.nodes for part in found.parts], lines.auto.planner
        if lines.auto.minimize == "latency" and plan.target.compiles:
            joined, measured = race(task, [task.mask(nodes) for nodes in parts], _measure(plan, task, lines.auto))
            faster = {one.group.nodes for one in measured if one.chosen}
            parts, found = [task.members(mask) for mask in joined], None
            lines.take([Group(nodes[0], nodes, lines.auto.span) for nodes in parts if nodes in faster], "measured")
            parts = [nodes for nodes in parts if nodes not in faster]
        lines.take([Group(nodes[0], nodes, lines.auto.span) for nodes in parts], maker)
    number = {path: i for i, path in enumerate(work.nodes)}
    ordered = sorted(lines.groups, key=lambda group: number[group.nodes[0]])
    return Decision(plan, lines.legality.workload, tuple(ordered), lines.makers, found, tuple(measured))


def _measure(plan: Plan, task: Task, line: AutoLine) -> Measure:
    """How long kernels take on the plan's target.

    Raises:
        NetcError: where that is another machine.
    """
    tvm = backend("tvm")
    machine = tvm.processor(plan.target)
    if not machine.native:
        message = f"latency is measured, and code for {plan.target_name} does not run on this machine"
        raise NetcError([Diagnostic("plan", message, (Label(line.span),), fix="fuse auto(minimize = dram)")])

    def measure(group: Group, parts: Sequence[Group]) -> Timing:
        return tvm.contest(task.workload, group, parts, machine).timing

    return measure


def _task(plan: Plan, legality: Legality, free: Sequence[str], fixed: Sequence[Group]) -> Task:
    """What a planner is asked. On a processor every group needs a kernel."""
    allowed = legality.computed if plan.target.compiles else None
    machine = Machine.of(plan.target)
    results = 1 if plan.target.compiles else None
    return Task(legality.workload, machine.buffer, free, fixed, allowed, soft=machine.soft, results=results)


def _free_name(name: str, taken: dict[str, str]) -> str:
    """The name, or the first free `name_1`, `name_2`, …"""
    if name not in taken:
        return name
    return next(f"{name}_{i}" for i in range(1, len(taken) + 2) if f"{name}_{i}" not in taken)


def _check_overlap(groups: Sequence[Group]) -> None:
    """Whether the last group shares a node with an earlier one."""
    *earlier, last = groups
    for group in earlier:
        common = [path for path in last.nodes if path in group.nodes]
        if common:
            places = [_label(last.origin, ""), _label(group.origin, f"in {group.name} already")]
            more = f" and {len(common) - 1} more" if len(common) > 1 else ""
            message = f"%{common[0]}{more} cannot be in two groups"
            fix = "earlier lines take nodes first: name it in one of them, or put the group before the pattern"
            raise NetcError([Diagnostic("plan", message, tuple(p for p in places if p), fix=fix)])


def _label(span: Span | None, text: str) -> Label | None:
    return None if span is None else Label(span, text)
