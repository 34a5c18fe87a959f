"""What there is to tune: each question that the kernels of models ask, with one kernel that asks it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ....compiler.fusion.group import Group
from ....compiler.fusion.isolate import isolate
from ....compiler.fusion.workload import Workload
from ....compiler.graph import Graph
from ..choice import Choices, Question
from ..grouping import Fused, chosen
from ..lower import lower
from ..machine import Machine
from ..optimise import choose


@dataclass(frozen=True)
class Source:
    """A prepared graph of known sizes that is to be fast, and its groups, where it has some."""

    graph: Graph
    groups: tuple[Group, ...] | None = None


@dataclass(frozen=True)
class Task:
    """A question, and a model of the kernel that asks it, the first of `weight` of them."""

    question: Question
    name: str
    """The path of the node on whose account it is asked."""
    graph: Graph
    groups: tuple[Group, ...] | None
    weight: int = 1


def tasks(sources: Iterable[Source], machine: Machine, choices: Choices) -> list[Task]:
    """The questions of models whose other questions are answered by `choices`, each once, in the order in which they
    are asked first. What is asked for work at compile time is left out, and so is what has one answer only.

    The kernel is the group that asks; without groups it is what TVM's fusion makes around the node. Its neighbours
    are not a part of it: it reads and writes what lies in memory as they leave and take it.

    Raises:
        NetcError: where a size is not known (`symbolic-dimension`), or a graph cannot be lowered.
    """
    found: dict[Question, Task] = {}
    for source in sources:
        workload = Workload(source.graph)
        lowered = lower(source.graph, machine, source.groups, choices)
        kernels = _kernels(source, lowered.groups or chosen(choose(lowered.main, machine), lowered.main), workload)
        asked = {(a.question, a.path): None for a in lowered.asked if a.question.points > 1}
        for question, path in asked:
            if path not in kernels:
                continue
            if question in found:
                found[question] = replace(found[question], weight=found[question].weight + 1)
            else:
                nodes, groups = kernels[path]
                found[question] = Task(question, path, isolate(workload, nodes), groups)
    return list(found.values())


def _kernels(
    source: Source, made: Sequence[Fused], workload: Workload
) -> dict[str, tuple[tuple[str, ...], tuple[Group, ...] | None]]:
    """For each node the nodes of the kernels that work for it, and the group that they are."""
    whole = {group.name: group for group in source.groups or ()}
    found: dict[str, tuple[tuple[str, ...], tuple[Group, ...] | None]] = {}
    for one in made:
        nodes = tuple(path for path in one.group.nodes if path in workload.work.nodes)
        groups = (whole[one.group.name],) if whole else None
        if not whole:
            nodes = (*_decoders(workload, nodes), *nodes)
        for path in nodes:
            before = found[path][0] if path in found else ()
            found[path] = tuple(dict.fromkeys((*before, *nodes))), groups
    return found


def _decoders(workload: Workload, nodes: Sequence[str]) -> list[str]:
    """Nodes that have no kernel: the reading of integers, which is done by what reads their result."""
    before = (source for path in nodes for source in workload.work.before[path])
    return [p for p in dict.fromkeys(before) if workload.graph.nodes[p].op.name == "dequantize" and p not in nodes]
