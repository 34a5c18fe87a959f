"""Compute equal values once."""

from __future__ import annotations

from collections.abc import Hashable

from ..graph import Graph, Input, Node, Ref
from .register import graph_pass

COMMUTATIVE = frozenset({"add", "mul", "maximum", "minimum", "eq", "ne", "logical_and", "logical_or"})
"""Operators whose two inputs may change places without changing a bit of the result."""


@graph_pass()
def eliminate_common(graph: Graph) -> Graph:
    """The graph with one node where several apply the same operator to the same inputs; the first one stays.

    The inputs of commutative operators count in either order. Linear in the size of the graph: values that become equal
    because their inputs did are found in the same sweep.

    Before:
    ```net
    input %x: f32[N, 3]
    input %y: f32[N, 3]

    %a: f32[N, 3] = add(%x, %y)
    %b: f32[N, 3] = add(%y, %x)
    %c: f32[N, 3] = relu(%a)
    %d: f32[N, 3] = relu(%b)
    %e: f32[N, 3] = mul(%c, %d)

    return %e
    ```
    After:
    ```net
    input %x: f32[N, 3]
    input %y: f32[N, 3]

    %a: f32[N, 3] = add(%x, %y)
    %c: f32[N, 3] = relu(%a)
    %e: f32[N, 3] = mul(%c, %c)

    return %e
    ```

    Refuses operators of effect `random` or `state` (two dropouts are different), a user's functions, nodes of different
    phases, and numbers that are only nearly equal: 0.0 and -0.0 differ.
    """
    edit = graph.edit("eliminate_common")
    first: dict[Hashable, Node] = {}
    moved: dict[Ref, Ref] = {}
    for path, node in graph.nodes.items():
        if node.op.effect != "none" or node.op.name == "extern" or isinstance(node.op, Input):
            continue
        inputs = tuple([None if i is None else moved.get(i, i) for i in node.inputs])
        if node.op.name in COMMUTATIVE:
            inputs = tuple(sorted(inputs, key=repr))
        # Equal Python numbers may be different tensors (0.0 and -0.0); their texts differ then.
        kept = first.setdefault((node.op, repr(node.op), inputs, node.types, node.phase), node)
        if kept is not node:
            for old, new in zip(node.values, kept.values, strict=True):
                moved[old] = new
                edit.redirect(old, new)
            edit.remove(path)
    return edit.done()
