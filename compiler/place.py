"""Put a graph, or a part of it, into another one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from .graph import Edit, Graph, Input, ParameterRef, Ref, Value
from .paths import above


def place(
    edit: Edit,
    graph: Graph,
    prefix: str,
    given: Mapping[Ref, Ref],
    nodes: Collection[str] | None = None,
    parameters: Mapping[str, str] | None = None,
) -> dict[Ref, Ref]:
    """Add the nodes of a graph (all of them but inputs, or those named) to an edit, below the path `prefix`.

    `given` says what stands for the inputs, and for any value of `graph` from outside `nodes`. Nodes that stand for a
    given value are left out. Parameters come along, below the prefix too, or as `parameters` maps their paths; one that
    the edit has under that path already is shared. Scopes come along; taps and outputs do not.

    Returns:
        What stands for each value and parameter of the graph.

    Raises:
        KeyError: where a path is taken, or a value is neither given nor computed.
    """
    done: dict[Ref, Ref] = dict(given)

    def path(old: str) -> str:
        return f"{prefix}.{old}" if prefix and old else prefix or old

    def moved(ref: Ref) -> Ref:
        if ref in done:
            return done[ref]
        if isinstance(ref, Value):
            raise KeyError(f"{ref} is not given")
        old = graph.parameters[ref.parameter]
        new = parameters[ref.parameter] if parameters and ref.parameter in parameters else path(ref.parameter)
        if edit.find_parameter(new) is None:
            edit.parameter(replace(old, path=new))
        done[ref] = ParameterRef(new)
        return done[ref]

    used: set[str] = set()
    for node in graph.nodes.values():
        absent = isinstance(node.op, Input) or (nodes is not None and node.path not in nodes)
        if absent or all(v in given for v in node.values):
            continue
        inputs = [None if i is None else moved(i) for i in node.inputs]
        new = edit.add(path(node.path), node.op, *inputs, phase=node.phase, origin=node.origin)
        done.update({v: w for v, w in zip(node.values, new.values, strict=True) if v not in given})
        used |= {"", *above(node.path)}
    for scope in graph.scopes.values():
        if (scope.path or prefix) and scope.path in used:
            edit.scope(replace(scope, path=path(scope.path), instance=path(scope.instance)))
    return done
