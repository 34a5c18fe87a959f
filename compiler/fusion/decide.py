"""A plan on a graph: its lines in order, and a planner for what they leave, become a partition into groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..diagnostic import Diagnostic, Label, NetcError
from ..graph import Graph
from ..plan import AutoLine, GroupLine, PatternLine, Plan
from ..source import Span
from ..target import CUDA, LLVM
from .group import Group
from .legality import Legality
from .lowering import Refusal, kernel
from .partition import Task
from .planner import PLANNERS
from .resolve import by_path, by_pattern
from .summary import Machine
from .workload import Workload


@dataclass(frozen=True)
class Decision:
    """The groups of a plan, a partition of the working nodes of `graph`, in the order of their first nodes.

    `makers` says of each group by name which line or planner made it. `facts` are numbers by the names of `require`
    that the memory model knows without running anything.
    """

    plan: Plan
    graph: Graph
    groups: tuple[Group, ...]
    makers: dict[str, str]
    facts: dict[str, float] = field(default_factory=dict[str, float])


def decide(plan: Plan, graph: Graph) -> Decision:
    """The groups of a plan on its graph: see `netc.compiler.fusion.prepare`.

    Raises:
        NetcError: for names that the graph has not, and for groups that overlap or cannot be executed as one.
    """
    legality = Legality(Workload(graph, plan.dtype), plan.target)
    work = legality.workload.work
    groups: list[Group] = []
    makers: dict[str, str] = {}

    def take(made: Sequence[Group], maker: str) -> None:
        for group in made:
            named = Group(_free_name(group.name, makers), group.nodes, group.origin)
            groups.append(named)
            makers[named.name] = maker

    for name in [line.name for line in plan.fuse if isinstance(line, GroupLine)]:
        makers[name] = "the plan"
    auto: AutoLine | None = None
    for line in plan.fuse:
        if isinstance(line, GroupLine):
            groups.append(by_path(work, line))
            _check_overlap(groups)
        elif isinstance(line, PatternLine):
            take(by_pattern(work, line, groups, legality.legal), "a pattern")
        else:
            auto = line
    asked = [group for group in groups if makers[group.name] == "the plan"]
    legality.check(asked, [group for group in groups if group not in asked])
    taken = {path for group in groups for path in group.nodes}
    free = tuple(path for path in work.nodes if path not in taken)
    if auto is None:
        take([Group(path, (path,)) for path in free], "layers")
    elif free:
        found = PLANNERS[auto.planner].run(_task(plan, graph, free, groups), **auto.options)
        take([Group(part.nodes[0], part.nodes, auto.span) for part in found.parts], auto.planner)
    number = {path: i for i, path in enumerate(work.nodes)}
    ordered = sorted(groups, key=lambda group: number[group.nodes[0]])
    return Decision(plan, graph, tuple(ordered), makers)


def _task(plan: Plan, graph: Graph, free: Sequence[str], fixed: Sequence[Group]) -> Task:
    """What a planner is asked. On a processor every group needs a kernel."""
    workload = Workload(graph, plan.dtype)

    def has_kernel(nodes: frozenset[str]) -> bool:
        return not isinstance(kernel(workload, nodes), Refusal)

    allowed = has_kernel if isinstance(plan.target, LLVM | CUDA) else None
    return Task(workload, Machine.of(plan.target).buffer, free, fixed, allowed)


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
