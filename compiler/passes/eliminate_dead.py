"""Remove what no output needs."""

from __future__ import annotations

from ..graph import Graph, Input, ParameterRef, Ref


def eliminate_dead(graph: Graph, *, parameters: bool = True) -> Graph:
    """The graph without nodes that reach no output or tap, and without parameters that no node reads.

    Inputs stay: they are the model's interface. Refuses nothing.
    """
    live: set[str] = set()
    used: set[str] = set()
    waiting: list[Ref] = [*graph.outputs.values(), *graph.taps.values()]
    while waiting:
        ref = waiting.pop()
        if isinstance(ref, ParameterRef):
            used.add(ref.parameter)
        elif ref.node not in live:
            live.add(ref.node)
            waiting.extend(graph.nodes[ref.node].refs)
    edit = graph.edit("eliminate_dead")
    for path, node in graph.nodes.items():
        if path not in live and not isinstance(node.op, Input):
            edit.remove(path)
    if parameters:
        for path in graph.parameters:
            if path not in used:
                edit.remove_parameter(path)
    return edit.done()
