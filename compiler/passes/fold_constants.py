"""Compute what depends on no input once, before the model runs."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, cast

from ..graph import Edit, Graph, Input, Node, Parameter, ParameterRef, Ref, SelectPhase, Value
from ..operators.creation import Constant
from ..operators.operator import LAYERS, Initialiser
from ..types import Expression, TensorType
from .computed import Computation, Computed, extract
from .register import graph_pass
from .widen import widen

SMALL = 2**16
"""Bytes by which folding may always enlarge a model."""


@graph_pass(needs=frozenset({"inference"}))
def fold_constants(graph: Graph, seed: int = 0, growth: float = 0.1) -> Graph:
    """The graph of inference where whatever depends on parameters and constants alone is one parameter.

    Its numbers are computed when they are first asked for, by PyTorch, in the dtypes of the graph; parameters without
    data count with their initial values of `seed`. The new parameter is named after the place that reads it, if that is
    a layer, else after the parameter that it replaces, else after the node; its initialiser is `given`. It is a buffer
    if it depends on no trained parameter, or is a table that is larger than what it was made from. A number made of
    numbers alone becomes a `constant`.

    Before:
    ```net
    input %x: f32[N, 3]

    param @fc.weight: f32[2, 3] = fan_in_uniform
    param @scale: f32[2, 1] = ones

    %w: f32[2, 3] = mul(@fc.weight, @scale)
    %fc: f32[N, 2] = linear(%x, %w)

    return %fc
    ```
    After:
    ```net
    input %x: f32[N, 3]

    param @fc.weight: f32[2, 3] = given

    %fc: f32[N, 2] = linear(%x, @fc.weight)

    return %fc
    ```

    Refuses what would enlarge the model (a tied weight that is needed as it is besides, a broadcast, a product of two
    thin matrices), unless all that together takes at most `growth` of the bytes of its parameters, or 64 KiB; it then
    folds the part before. Refuses values of symbolic size, random ones, a user's functions, and `dequantize`: integers
    stay integers.
    """
    left = SMALL + int(growth * sum(_bytes(p.type) for p in graph.parameters.values()))
    return folded(graph, "fold_constants", left, seed)


def folded(
    graph: Graph, maker: str, left: int | None = None, seed: int = 0, among: Collection[str] | None = None
) -> Graph:
    """See `fold_constants`. `left` are the bytes by which the model may grow, however many where that is None; only
    nodes `among` those given are folded, where any are, and a parameter that is replaced gives its name."""
    parts = _parts(graph, among)
    if not parts:
        return graph
    edit = graph.edit(maker)
    names = _Names(graph, after_replaced=among is not None)
    for part in sorted(parts, key=lambda part: part.added):
        if left is not None:
            part.shrink(left)
            left -= max(0, part.added) if part.inside else 0
        if part.inside:
            _fold(edit, part, names, seed)
    _drop_leaves(edit, graph, dict.fromkeys(path for part in parts for path in part.inside))
    return edit.done()


def _drop_leaves(edit: Edit, graph: Graph, folded: Mapping[str, None]) -> None:
    """Remove nodes without operands that only folded nodes read."""
    kept = {*graph.outputs.values(), *graph.taps.values()}
    for path in dict.fromkeys(r.node for p in folded for r in graph.nodes[p].refs if isinstance(r, Value)):
        if path not in folded and Value(path) not in kept and all(u.path in folded for u in graph.users[Value(path)]):
            edit.remove(path)


# ------------------------------------------------------------------------------------------------------ what to fold


def _bytes(type: TensorType) -> int:
    size = type.bytes
    assert isinstance(size, int)
    return size


def constants(graph: Graph) -> dict[str, Node]:
    """The nodes that depend on no input, in order; those without operands among them."""
    found: dict[str, Node] = {}
    for path, node in graph.nodes.items():
        if all(isinstance(r, ParameterRef) or r.node in found for r in node.refs) and _computable(node):
            found[path] = node
    return found


def _computable(node: Node) -> bool:
    op = node.op
    if op.effect != "none" or op.name == "extern" or isinstance(op, (Input, SelectPhase)) or node.phase == "train":
        return False
    return not _symbolic(node.types) and not any(_symbolic(getattr(op, f.name)) for f in fields(cast(Any, op)))


def _symbolic(value: Any) -> bool:
    if isinstance(value, Expression):
        return True
    if isinstance(value, TensorType):
        return _symbolic(value.shape)
    return isinstance(value, tuple) and any(map(_symbolic, cast("tuple[Any, ...]", value)))


@dataclass
class _Part:
    """Nodes that depend on no input and are connected: by values, or by reading the same parameter.

    `inside` are the nodes to fold, in order; `exposed` the values of theirs that others read; `freed` the parameters
    and written constants that nothing else needs, with their bytes. Nodes without operands belong to no part: they
    cost nothing to read twice.
    """

    graph: Graph
    kept: frozenset[Ref]
    inside: dict[str, Node] = field(default_factory=dict[str, Node])
    exposed: dict[Value, int] = field(default_factory=dict[Value, int])
    freed: dict[Ref, int] = field(default_factory=dict[Ref, int])
    readers: dict[str, int] = field(default_factory=dict[str, int])
    added: int = 0
    """Bytes by which the model would grow."""

    def measure(self, constants: dict[str, Node]) -> None:
        """Find what is exposed and freed."""
        for path, node in self.inside.items():
            self.readers[path] = 0
            for ref in dict.fromkeys(node.refs):
                if isinstance(ref, Value) and ref.node in self.inside:
                    continue
                if self._is_stored(ref) and self._is_mine(ref):
                    self.freed[ref] = _bytes(self.graph.type(ref))
            for source in {r.node for r in node.refs if isinstance(r, Value)} & self.inside.keys():
                self.readers[source] += 1
            for value, type_ in zip(node.values, node.types, strict=True):
                users = self.graph.users.get(value, ())
                if value in self.kept or any(u.path not in constants for u in users):
                    self.exposed[value] = _bytes(type_)
        self.added = sum(self.exposed.values()) - sum(self.freed.values())

    def _is_stored(self, ref: Ref) -> bool:
        return isinstance(ref, ParameterRef) or (isinstance(self.graph.nodes[ref.node].op, Constant))

    def _is_mine(self, ref: Ref) -> bool:
        return ref not in self.kept and all(u.path in self.inside for u in self.graph.users[ref])

    def shrink(self, limit: int) -> None:
        """Give up the nodes that enlarge most, last ones first, until at most `limit` bytes are added."""
        order = {path: i for i, path in enumerate(self.inside)}
        waiting = [(-self._enlarges(p), -order[p], p) for p, count in self.readers.items() if count == 0]
        heapq.heapify(waiting)
        while self.added > limit:
            _, _, path = heapq.heappop(waiting)
            for source in self._give_up(path):
                heapq.heappush(waiting, (-self._enlarges(source), -order[source], source))

    def _enlarges(self, path: str) -> int:
        node = self.inside[path]
        stored = [r for r in dict.fromkeys(node.refs) if self._is_stored(r) or cast(Value, r).node in self.inside]
        exposed = sum(self.exposed.get(v, 0) for v in node.values)
        return exposed - sum(_bytes(self.graph.type(r)) for r in stored)

    def _give_up(self, path: str) -> Iterator[str]:
        """Take a node that no other one inside reads out; the nodes for which that is now so."""
        node = self.inside.pop(path)
        for value in node.values:
            self.added -= self.exposed.pop(value, 0)
        for ref in dict.fromkeys(node.refs):
            if isinstance(ref, Value) and ref.node in self.inside:
                if ref not in self.exposed:
                    self.exposed[ref] = _bytes(self.graph.type(ref))
                    self.added += self.exposed[ref]
            else:
                self.added += self.freed.pop(ref, 0)
        for source in {r.node for r in node.refs if isinstance(r, Value)} & self.inside.keys():
            self.readers[source] -= 1
            if self.readers[source] == 0:
                yield source


def _parts(graph: Graph, among: Collection[str] | None) -> list[_Part]:
    fixed = constants(graph)
    if among is None:
        fixed = _without_fractions(fixed)
    else:
        fixed = {path: node for path, node in fixed.items() if path in among or not any(True for _ in node.refs)}
    inner = {path: node for path, node in fixed.items() if any(True for _ in node.refs)}
    if not inner:
        return []
    kept = frozenset([*graph.outputs.values(), *graph.taps.values()])
    leader: dict[str, str] = {}

    def find(path: str) -> str:
        while leader.setdefault(path, path) != path:
            leader[path] = leader[leader[path]]
            path = leader[path]
        return path

    for path, node in inner.items():
        for ref in node.refs:
            if isinstance(ref, ParameterRef) or ref.node in inner:
                leader[find(path)] = find(str(ref) if isinstance(ref, ParameterRef) else ref.node)
    parts: dict[str, _Part] = {}
    for path, node in inner.items():
        parts.setdefault(find(path), _Part(graph, kept)).inside[path] = node
    for part in parts.values():
        part.measure(fixed)
    return [part for part in parts.values() if part.exposed]


def _without_fractions(fixed: Mapping[str, Node]) -> dict[str, Node]:
    """Those of the nodes that no `dequantize` has a part in: what is stored as integers stays so."""
    kept: dict[str, Node] = {}
    for path, node in fixed.items():
        if node.op.name != "dequantize" and all(isinstance(r, ParameterRef) or r.node in kept for r in node.refs):
            kept[path] = node
    return kept


# ------------------------------------------------------------------------------------------------------- how to fold


def _fold(edit: Edit, part: _Part, names: _Names, seed: int) -> None:
    graph, results = part.graph, list(part.exposed)
    leaves = {r.node: graph.nodes[r.node] for n in part.inside.values() for r in n.refs if isinstance(r, Value)}
    leaves = {path: node for path, node in leaves.items() if path not in part.inside}
    computation = extract(graph, [*leaves.values(), *part.inside.values()], results, seed)
    if not computation.graph.parameters and all(graph.type(v).rank == 0 for v in results):
        for value, array in zip(results, Computation(widen(computation.graph)).arrays, strict=True):
            node = graph.nodes[value.node]
            constant = Constant(array.item(), graph.type(value).dtype)
            path = edit.fresh(f"{node.path}.constant")
            edit.redirect(value, edit.add(path, constant, phase=node.phase, origin=node.origin).value)
    else:
        learned, trained = _learned(part)
        for ref in part.freed:
            if isinstance(ref, ParameterRef):
                edit.remove_parameter(ref.parameter)
        for i, value in enumerate(results):
            path = names.choose(part, value)
            kind = {"trainable": value.node in trained, "buffer": value.node not in learned}
            origin = graph.nodes[value.node].origin
            data = Computed(computation, i)
            new = Parameter(path, graph.type(value), Initialiser("given"), data=data, origin=origin, **kind)
            edit.redirect(value, edit.parameter(new))
    for path in part.inside:
        edit.remove(path)


def _learned(part: _Part) -> tuple[set[str], set[str]]:
    """The nodes that depend on a parameter that is no buffer, and on one that is trained; none where the values that do
    are larger than those parameters."""
    learned: set[str] = set()
    trained: set[str] = set()
    for path, node in part.inside.items():
        for ref in node.refs:
            read = part.graph.parameters[ref.parameter] if isinstance(ref, ParameterRef) else None
            source = ref.node if isinstance(ref, Value) else ""
            if (read and not read.buffer) or source in learned:
                learned.add(path)
            if (read and read.trainable) or source in trained:
                trained.add(path)
    spent = sum(size for r, size in part.freed.items() if isinstance(r, ParameterRef) and not _of(part, r).buffer)
    made = sum(size for v, size in part.exposed.items() if v.node in learned)
    return (learned, trained) if made <= spent else (set(), set())


def _of(part: _Part, ref: ParameterRef) -> Parameter:
    return part.graph.parameters[ref.parameter]


class _Names:
    """Paths for new parameters: free, no prefix of another path and none of another's."""

    def __init__(self, graph: Graph, *, after_replaced: bool = False) -> None:
        self._after_replaced = after_replaced
        self._taken = set(graph.parameters)
        self._prefixes = {s.instance for s in graph.scopes.values()}
        for path in self._taken:
            self._enclose(path)

    def _enclose(self, path: str) -> None:
        while path := path.rpartition(".")[0]:
            self._prefixes.add(path)

    def choose(self, part: _Part, value: Value) -> str:
        freed = {r.parameter for r in part.freed if isinstance(r, ParameterRef)}
        for wanted in _candidates(part, value, freed, after_replaced=self._after_replaced):
            if wanted in freed:
                del part.freed[ParameterRef(wanted)]
                return wanted
            if self._is_free(wanted):
                break
        else:
            wanted = self._fresh(_instance(value.node) + (f"_{value.index}" if value.index else ""))
        self._taken.add(wanted)
        self._enclose(wanted)
        return wanted

    def _is_free(self, path: str) -> bool:
        return path not in self._taken and path not in self._prefixes and not self._is_below(path)

    def _is_below(self, path: str) -> bool:
        """Whether a part of the path is a parameter's."""
        return any(path[:i] in self._taken for i, c in enumerate(path) if c == ".")

    def _fresh(self, path: str) -> str:
        while self._is_below(path):
            path = "_".join(path.rsplit(".", 1))
        number, found = 0, path
        while not self._is_free(found):
            number += 1
            found = f"{path}_{number}"
        return found


def _candidates(part: _Part, value: Value, freed: Collection[str], *, after_replaced: bool) -> Iterator[str]:
    """The operand of the layer that reads the value; before it, a parameter of that name that the value replaces, or
    any that it does."""
    replaced = list(_replaced(part, value))
    for user in part.graph.users.get(value, ())[:1]:
        operands = user.op.operands
        operand = operands[min(user.inputs.index(value), len(operands) - 1)]
        if user.op.name in LAYERS and not operand.variadic:
            wanted = f"{_instance(user.path)}.{operand.name}"
            if wanted not in freed:
                yield from (path for path in replaced if path.rpartition(".")[2] == operand.name)
            if after_replaced:
                yield from replaced
            yield wanted
    yield from replaced


_NEAR = 64
"""So many nodes are searched for the parameter that a value replaces."""


def _replaced(part: _Part, value: Value) -> Iterator[str]:
    """Freed parameters with as many elements as the value that it is made from, the nearest first."""
    waiting: list[Ref] = [value]
    seen: set[Ref] = set()
    while waiting and len(seen) < _NEAR:
        ref = waiting.pop(0)
        if ref in seen:
            continue
        seen.add(ref)
        if isinstance(ref, ParameterRef):
            if ref in part.freed and _of(part, ref).type.elements == part.graph.type(value).elements:
                yield ref.parameter
        elif ref.node in part.inside:
            waiting += part.inside[ref.node].refs


def _instance(path: str) -> str:
    """The path without the numbers of tied calls, `block~1.conv`."""
    return ".".join(part.partition("~")[0] for part in path.split("."))
