"""A group as a model of its own: what it reads are inputs, what leaves it are outputs."""

from __future__ import annotations

from collections.abc import Collection

from ..graph import Graph, Input, Node, ParameterRef, Ref, Value
from ..operators.layout import Permute
from .memory import Members
from .workload import Workload


def isolate(workload: Workload, nodes: Collection[str]) -> Graph:
    """The model of a group's nodes, under the paths that they have, with the moves and constants that they read.

    Images come in and go out with their channels last, as convolutions keep them in memory: a model that took and gave
    them in the order of their axes would spend its time on bringing them into order, which the group does not do.
    """
    members = Members(workload, nodes)
    graph = workload.graph
    last = any(graph.nodes[path].op.name.startswith("conv") for path in members.order)
    made: dict[str, Node] = {}
    names: dict[Ref, Ref] = {}
    for source in members.inputs:
        names[source] = _input(made, source, graph, last)
    waiting = [ref for path in members.order for ref in graph.nodes[path].refs]
    needed = set(members.order)
    parameters: dict[str, None] = {}
    while waiting:
        ref = waiting.pop()
        if isinstance(ref, ParameterRef):
            parameters[ref.parameter] = None
        elif ref not in names and ref.node not in needed:
            needed.add(ref.node)
            waiting.extend(graph.nodes[ref.node].refs)
    for path, node in graph.nodes.items():
        if path in needed:
            inputs = tuple(None if i is None else names.get(i, i) for i in node.inputs)
            made[path] = Node(path, node.op, inputs, node.types, origin=node.origin, maker=node.maker)
    outputs = {f"y{i}": _output(made, value, graph, last) for i, value in enumerate(sorted(members.leaving))}
    used = {path: graph.parameters[path] for path in graph.parameters if path in parameters}
    return Graph(f"{graph.name}_part", made, outputs, used)


def _input(made: dict[str, Node], source: Value, graph: Graph, last: bool) -> Value:
    type = graph.type(source)
    path = f"{source.node}~{source.index}" if source.index else source.node
    if not last or type.rank != 4:
        made[path] = Node(path, Input(type), (), (type,))
        return Value(path)
    (stored,) = Permute((0, 2, 3, 1)).shape(type)
    made[f"{path}~last"] = Node(f"{path}~last", Input(stored), (), (stored,))
    made[path] = Node(path, Permute((0, 3, 1, 2)), (Value(f"{path}~last"),), (type,))
    return Value(path)


def _output(made: dict[str, Node], value: Value, graph: Graph, last: bool) -> Value:
    type = graph.type(value)
    if not last or type.rank != 4:
        return value
    path = f"{value.node}~given{value.index or ''}"
    op = Permute((0, 2, 3, 1))
    made[path] = Node(path, op, (value,), op.shape(type))
    return Value(path)
