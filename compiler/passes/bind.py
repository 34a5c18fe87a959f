"""Give symbolic dimensions numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

from ..diagnostic import Diagnostic, Label, NetcError, nearest
from ..graph import Graph, Node, ParameterRef, Ref
from ..operators.operator import Operator, ShapeError
from ..types import Dim, Expression, TensorType, substitute, symbols
from .register import graph_pass


def _facts(_: Mapping[str, Any], after: Graph | None) -> frozenset[str]:
    free = after is None or any(isinstance(d, Expression) for n in after.inputs.values() for d in n.types[0].shape)
    return frozenset[str]() if free else frozenset({"static"})


@graph_pass(gives=_facts)
def bind(graph: Graph, values: Mapping[str, Dim] | Sequence[tuple[str, Dim]]) -> Graph:
    """The graph with the symbols in `values` replaced, in its inputs and in attributes, and all types inferred again.

    `values` are numbers by symbol, or pairs. Gives the fact `static` where no symbol is left.

    Before:
    ```net
    input %x: f32[N, T, 3]

    %y: f32[N, 3*T] = reshape(%x, size = [N, 3*T])

    return %y
    ```
    After (values = [["T", 8]]):
    ```net
    input %x: f32[N, 8, 3]

    %y: f32[N, 24] = reshape(%x, size = [N, 24])

    return %y
    ```

    Refuses symbols that no input has, and numbers that a shape rule refuses.

    Raises:
        NetcError: for a name that is no symbol of the inputs (`unknown-symbol`), and where the model does not fit the
            numbers: with the code, and the node, of the shape rule that refuses them.
    """
    values = dict(values)
    known = {s for node in graph.inputs.values() for d in node.types[0].shape for s in symbols(d)}
    unknown = [name for name in values if name not in known]
    if unknown:
        raise NetcError(_unknown(name, known) for name in unknown)
    if not values:
        return graph
    nodes: dict[str, Node] = {}
    for path, node in graph.nodes.items():
        inputs = [None if i is None else _type(graph, nodes, i) for i in node.inputs]
        try:
            op = cast(Operator, _replaced(node.op, values)).canonical(*inputs)
            nodes[path] = replace(node, op=op, types=op.shape(*inputs))
        except ShapeError as error:
            given = ", ".join(f"{name} = {value}" for name, value in values.items())
            labels = tuple(Label(span) for span in node.origin[:1])
            message = f"with {given}: {error.message}"
            raise NetcError([Diagnostic(error.code, message, labels, error.notes, error.fix)]) from None
    return replace(graph, nodes=nodes)


def _type(graph: Graph, nodes: Mapping[str, Node], ref: Ref) -> TensorType:
    return graph.type(ref) if isinstance(ref, ParameterRef) else nodes[ref.node].types[ref.index]


def _unknown(name: str, known: set[str]) -> Diagnostic:
    notes = (f"its symbols: {', '.join(sorted(known)) or 'none'}",)
    return Diagnostic("unknown-symbol", f"the model has no symbolic dimension {name}", (), notes, nearest(name, known))


def _replaced(value: Any, values: Mapping[str, Dim]) -> Any:
    """An attribute, or a whole operator, with its dimensions substituted."""
    if isinstance(value, Expression):
        return substitute(value, values)
    if isinstance(value, TensorType):
        return value.substitute(values)
    if isinstance(value, tuple):
        return tuple([_replaced(v, values) for v in cast("tuple[Any, ...]", value)])
    if isinstance(value, Operator):
        assert is_dataclass(value)
        changed = {f.name: _replaced(getattr(value, f.name), values) for f in fields(value)}
        return replace(value, **changed)
    return value
