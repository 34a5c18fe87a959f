"""Comparing two graphs: what differs, path by path, and whether they are the same up to names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from .align import Alignment, by_path
from .graph import Graph, Node, Parameter, ParameterRef, Ref, Scope, Value
from .text import literal

if TYPE_CHECKING:
    import networkx

Kind = Literal["added", "removed", "changed"]
What = Literal["graph", "node", "parameter", "scope", "tap", "output"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs: `aspect` of the node, parameter, … at `path`, as text in normal form before and after.

    `path` is that of the second graph, but for what was removed; `was` is the first graph's where it has another.
    """

    kind: Kind
    what: What
    path: str
    aspect: str = ""
    before: str = ""
    after: str = ""
    was: str = ""

    def __str__(self) -> str:
        mark = {"node": "%", "parameter": "@"}.get(self.what, "")
        if self.kind == "changed":
            return f"{self.what} {mark}{self.path}: {self.aspect} {self.before} → {self.after}"
        return f"{self.what} {mark}{self.path} {self.kind}: {self.after or self.before}"

    def data(self) -> dict[str, str]:
        """The difference as JSON-ready values, without those that are empty."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name))}


def differences(a: Graph, b: Graph, pairs: Alignment | None = None) -> list[Difference]:
    """What must change in `a` to make it `b`, besides the names in `pairs`. Without `pairs`, nodes, parameters and
    scopes are each other's where their paths are equal, and the list is empty exactly where the graphs are equal."""
    scopes = {} if pairs is None else pairs.scopes
    taken = set(scopes.values())
    scopes = {path: path for path in a.scopes if path not in taken} | scopes
    pairs = pairs or by_path(a, b)
    found: list[Difference] = []
    if a.name != b.name:
        found.append(Difference("changed", "graph", a.name, "name", a.name, b.name))

    def ref(old: Ref) -> Ref:
        return pairs.ref(old) or old

    def node(old: Node) -> Node:
        return replace(old, inputs=tuple([None if i is None else ref(i) for i in old.inputs]))

    def scope(old: Scope) -> Scope:
        return replace(old, instance=scopes.get(old.instance, old.instance))

    found += _compare("node", a.nodes, b.nodes, pairs.nodes, node, _node_aspects)
    found += _compare("parameter", a.parameters, b.parameters, pairs.parameters, lambda p: p, _parameter_aspects)
    found += _compare("scope", a.scopes, b.scopes, scopes, scope, _scope_aspects)
    found += _compare("tap", a.taps, b.taps, dict(zip(a.taps, a.taps, strict=True)), ref, _ref_aspects)
    found += _compare("output", a.outputs, b.outputs, dict(zip(a.outputs, a.outputs, strict=True)), ref, _ref_aspects)
    return found


Aspects = dict[str, str]
T = TypeVar("T")


def _compare(
    what: What,
    a: Mapping[str, T],
    b: Mapping[str, T],
    names: Mapping[str, str],
    moved: Callable[[T], T],
    aspects: Callable[[T], Aspects],
) -> Iterator[Difference]:
    kept: set[str] = set()
    for path, one in a.items():
        there = names.get(path)
        if there is None or there not in b:
            yield Difference("removed", what, path, before=_whole(aspects(one)))
            continue
        kept.add(there)
        one = moved(one)
        if one != b[there]:
            before, after = aspects(one), aspects(b[there])
            for aspect in [*before, *(k for k in after if k not in before)]:
                if before.get(aspect) != after.get(aspect):
                    was, now = before.get(aspect, "nothing"), after.get(aspect, "nothing")
                    yield Difference("changed", what, there, aspect, was, now, path if path != there else "")
    for path, other in b.items():
        if path not in kept:
            yield Difference("added", what, path, after=_whole(aspects(other)))


def _whole(aspects: Aspects) -> str:
    first, *rest = aspects.items()
    return " ".join([first[1], *(f"{name} = {value}" for name, value in rest)])


def _node_aspects(node: Node) -> Aspects:
    operands = {name: str(ref) for name, ref in zip(operand_names(node), node.inputs, strict=True) if ref}
    attributes = {name: _text(value) for name, value in node.op.attributes().items()}
    types = ", ".join(map(str, node.types))
    return {"operator": node.op.name, **operands, **attributes, "result": types, "phase": node.phase}


def operand_names(node: Node) -> list[str]:
    """The names of a node's inputs, those of a variadic operand numbered from its second: `tensors`, `tensors[1]`, …"""
    names = [o.name for o in node.op.operands]
    more = range(1, len(node.inputs) - len(names) + 1)
    return [*names, *(f"{names[-1]}[{i}]" for i in more)][: len(node.inputs)]


def _text(value: Any) -> str:
    try:
        return literal(value)
    except TypeError:
        return str(value)


def _parameter_aspects(parameter: Parameter) -> Aspects:
    kind = "buffer" if parameter.buffer else "param"
    trainable = "trained" if parameter.trainable else "frozen"
    return {"type": str(parameter.type), "initialiser": str(parameter.initialiser), "kind": kind, "state": trainable}


def _scope_aspects(scope: Scope) -> Aspects:
    return {"module": scope.module, "instance": scope.instance}


def _ref_aspects(ref: Ref) -> Aspects:
    return {"value": str(ref)}


# ------------------------------------------------------------------------------------------------- up to names


def same_structure(a: Graph, b: Graph) -> bool:
    """Whether one graph becomes the other by renaming: nodes, parameters, inputs and outputs in their order of
    declaration. Scopes, taps and the graphs' names do not count."""
    if len(a.nodes) != len(b.nodes) or len(a.parameters) != len(b.parameters) or len(a.outputs) != len(b.outputs):
        return False
    pairs = _paired(a, b)
    if pairs is None:
        return False
    if len(pairs) == len(a.nodes) + len(a.parameters):
        return True
    import networkx

    numbers = {key: i for i, key in enumerate(pairs)}
    others = {pairs[key]: i for key, i in numbers.items()}
    return bool(
        cast(Any, networkx).vf2pp_is_isomorphic(_labelled(a, numbers), _labelled(b, others), node_label="label")
    )


def _paired(a: Graph, b: Graph) -> dict[Ref, Ref] | None:
    """The only possible match of what the outputs depend on: it follows operands from the outputs, in linear time."""
    pairs: dict[Ref, Ref] = {}
    back: dict[Ref, Ref] = {}
    waiting: list[tuple[Ref | None, Ref | None]] = list(zip(a.outputs.values(), b.outputs.values(), strict=True))
    waiting += [(m.value, n.value) for m, n in zip(a.inputs.values(), b.inputs.values(), strict=False)]
    while waiting:
        one, other = waiting.pop()
        if one is None or other is None:
            if one != other:
                return None
            continue
        key, match = _whole_node(one), _whole_node(other)
        if _output(one) != _output(other) or pairs.get(key, match) != match or back.get(match, key) != key:
            return None
        if key in pairs:
            continue
        pairs[key], back[match] = match, key
        if _description(a, key) != _description(b, match):
            return None
        if isinstance(key, Value) and isinstance(match, Value):
            waiting += zip(a.nodes[key.node].inputs, b.nodes[match.node].inputs, strict=True)
    return pairs


def _whole_node(ref: Ref) -> Ref:
    return Value(ref.node) if isinstance(ref, Value) else ref


def _output(ref: Ref) -> int:
    return ref.index if isinstance(ref, Value) else 0


def _description(graph: Graph, ref: Ref) -> tuple[Any, ...]:
    """All there is to a node or parameter but its name and its place."""
    if isinstance(ref, ParameterRef):
        parameter = graph.parameters[ref.parameter]
        return (parameter.type, parameter.initialiser, parameter.trainable, parameter.buffer)
    node = graph.nodes[ref.node]
    return (node.op, len(node.inputs), node.types, node.phase)


def _labelled(graph: Graph, numbers: Mapping[Ref, int]) -> networkx.DiGraph[Any]:
    """Nodes, parameters and, between them, the uses of values, labelled by operand and output; `numbers` labels what is
    matched already."""
    import networkx

    view: networkx.DiGraph[Any] = networkx.DiGraph()
    refs: list[Ref] = [*(n.value for n in graph.nodes.values()), *map(ParameterRef, graph.parameters)]
    for ref in refs:
        view.add_node(ref, label=numbers.get(ref, _description(graph, ref)))
    for node in graph.nodes.values():
        for i, ref in enumerate(node.inputs):
            if ref is not None:
                use = ("use", node.path, i)
                view.add_node(use, label=("use", i, _output(ref)))
                view.add_edge(_whole_node(ref), use)
                view.add_edge(use, node.value)
    return view
