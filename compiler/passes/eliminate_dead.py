"""Remove what no output needs."""

from __future__ import annotations

from ..graph import Graph, Input, ParameterRef, Ref
from .register import graph_pass


@graph_pass()
def eliminate_dead(graph: Graph, *, parameters: bool = True) -> Graph:
    """The graph without nodes that reach no output or tap, and (with `parameters`) without parameters that no node
    reads. Inputs stay: they are the model's interface.

    Before:
    ```net
    input %x: f32[N, 3]

    param @used: f32[3] = zeros
    param @unused: f32[3] = zeros

    %y: f32[N, 3] = add(%x, @used)
    %dead: f32[N, 3] = add(%x, @unused)

    return %y
    ```
    After:
    ```net
    input %x: f32[N, 3]

    param @used: f32[3] = zeros

    %y: f32[N, 3] = add(%x, @used)

    return %y
    ```

    Refuses nothing.
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
