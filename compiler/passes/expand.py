"""Replace derived operators by simpler ones."""

from __future__ import annotations

from collections.abc import Collection

from ..diagnostic import Diagnostic, NetcError, nearest
from ..graph import Edit, Graph, Node, ParameterRef, Ref, Value
from ..operators.operator import OPERATORS, Operator
from ..types import TensorType
from .register import graph_pass


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


@graph_pass()
def expand(graph: Graph, keep: Collection[type[Operator] | str] = ()) -> Graph:
    """The graph without derived operators, except those in `keep`, by class or by name: a backend may have better.

    Before:
    ```net
    input %x: f32[N, 3]

    %y: f32[N, 3] = silu(%x)

    return %y
    ```
    After:
    ```net
    input %x: f32[N, 3]

    %y.sigmoid: f32[N, 3] = sigmoid(%x)
    %y.mul: f32[N, 3] = mul(%x, %y.sigmoid)

    return %y.mul
    ```

    Refuses nothing: an operator that is not derived stays.

    Raises:
        NetcError: for a name in `keep` that is no operator (`unknown-operator`).
    """
    kept = {_operator(each) if isinstance(each, str) else each for each in keep}
    while True:
        edit = graph.edit("expand")
        for node in graph.nodes.values():
            if node.op.derived and type(node.op) not in kept:
                _replace(edit, node)
        expanded = edit.done()
        if expanded is graph:
            return graph
        graph = expanded


def _operator(name: str) -> type[Operator]:
    if name not in OPERATORS:
        message = f"expand cannot keep {name}, which is no operator"
        raise NetcError([Diagnostic("unknown-operator", message, fix=nearest(name, OPERATORS))])
    return OPERATORS[name]


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
