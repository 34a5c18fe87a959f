"""Give symbolic dimensions numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

from ..diagnostic import Diagnostic, Label, NetcError, nearest
from ..graph import Graph, Node, ParameterRef, Ref
from ..operators.operator import Operator, ShapeError
from ..types import Dim, Expression, TensorType, substitute, symbols


def bind(graph: Graph, values: Mapping[str, Dim]) -> Graph:
    """The graph with the symbols in `values` replaced, in its inputs and in attributes, and all types inferred again.

    Before: `%x: f32[N, 3]`; after `bind(graph, {"N": 1})`: `%x: f32[1, 3]`.

    Raises:
        NetcError: for a name that is no symbol of the inputs (`unknown-symbol`), and where the model does not fit the
            numbers: with the code, and the node, of the shape rule that refuses them.
    """
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
