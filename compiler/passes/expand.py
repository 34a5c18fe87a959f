"""Replace derived operators by simpler ones."""

from __future__ import annotations

from ..graph import Edit, Graph, Node, ParameterRef, Ref, Value
from ..operators.operator import Operator
from ..types import TensorType


class _Emit:
    """Writes an expansion below the path of the node it replaces, in its phase and with its origin."""

    def __init__(self, edit: Edit, node: Node) -> None:
        self._edit = edit
        self._node = node
        self.added: list[str] = []

    def __call__(self, op: Operator, *inputs: Ref | None) -> Ref:
        return self.many(op, *inputs)[0]

    def many(self, op: Operator, *inputs: Ref | None) -> tuple[Ref, ...]:
        node = self._node
        path = self._edit.fresh(f"{node.path}.{op.name}")
        op = op.canonical(*(None if i is None else self._edit.type(i) for i in inputs))
        made = self._edit.add(path, op, *inputs, phase=node.phase, origin=node.origin)
        self.added.append(path)
        return made.values

    def type(self, value: Ref) -> TensorType:
        return self._edit.type(value)


def expand(graph: Graph, keep: frozenset[type[Operator]] = frozenset()) -> Graph:
    """The graph without derived operators, except those in `keep` (which a backend translates directly).

    Before: `%attn.softmax = softmax(%scores, dim = 3)`; after: `max`, `sub`, `exp`, `sum` and `div` below
    `%attn.softmax`. Refuses nothing: an operator that is not derived stays.
    """
    while True:
        edit = graph.edit("expand")
        for node in graph.nodes.values():
            if node.op.derived and type(node.op) not in keep:
                _replace(edit, node)
        expanded = edit.done()
        if expanded is graph:
            return graph
        graph = expanded


def _replace(edit: Edit, node: Node) -> None:
    emit = _Emit(edit, node)
    result = node.op.expand(emit, *edit.node(node.path).inputs)
    values = (result,) if isinstance(result, (Value, ParameterRef)) else result
    for old, new in zip(node.values, values, strict=True):
        found = edit.type(new)
        if found != edit.type(old):
            raise AssertionError(f"the expansion of {node.op.name} at %{node.path} is {found}, not {edit.type(old)}")
        edit.redirect(old, new)
    edit.remove(node.path)
