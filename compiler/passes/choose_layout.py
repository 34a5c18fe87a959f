"""Choose the order of axes in which values are computed, so that less is transposed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from ..cost import REFERENCE
from ..graph import Edit, Graph, Node, ParameterRef, Ref, Value
from ..operators.layout import Concat, Permute
from ..operators.operator import Operator
from ..operators.rearrange import Rearrange
from ..types import substitute, symbols
from .fold_constants import constants
from .register import graph_pass

ANY_ORDER = frozenset(
    {
        "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "hardsigmoid", "hardswish", "sigmoid", "tanh",
        "softplus", "mish", "add", "sub", "mul", "div", "pow", "maximum", "minimum", "remainder", "floor_divide", "eq",
        "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not", "neg", "abs", "sign", "floor",
        "ceil", "round", "square", "exp", "log", "sqrt", "rsqrt", "sin", "cos", "erf", "reciprocal", "where", "clip",
        "cast", "stop_gradient", "identity", "concat",
    }
)  # fmt: skip
"""Operators that compute the same in any order of axes (`concat` along another `dim`)."""

Order = tuple[int, ...]
"""The `dims` of a permute."""


@graph_pass()
def choose_layout(graph: Graph) -> Graph:
    """The graph in which element by element operators, and `concat`, between transpositions work in the order of axes
    that needs the fewest elements moved. Transpositions that meet their inverse vanish; others move to where they are
    smaller. Weights and tables are transposed too, which `fold_constants` computes.

    Before:
    ```net
    input %x: f32[N, 8, 4, 4]

    %last: f32[N, 4, 4, 8] = permute(%x, dims = [0, 2, 3, 1])
    %relu: f32[N, 4, 4, 8] = relu(%last)
    %y: f32[N, 8, 4, 4] = permute(%relu, dims = [0, 3, 1, 2])

    return %y
    ```
    After:
    ```net
    input %x: f32[N, 8, 4, 4]

    %relu: f32[N, 8, 4, 4] = relu(%x)

    return %relu
    ```

    Operators with an order of their own (convolutions are channels first, products work on the last axis) keep it: how
    a backend stores their values is its choice.

    Refuses operands of fewer axes than the result that are no single numbers, and changes that move as much as before.
    Where sizes are symbolic, each symbol counts as 128.
    """
    while True:
        edit = graph.edit("choose_layout")
        touched: set[str] = set()
        for region in _regions(graph):
            order = region.best()
            if order is not None and not touched & region.borders:
                touched |= region.borders
                _Turn(edit, region, order).run()
        turned = edit.done()
        if turned is graph:
            return graph
        graph = turned


def _order(node: Node) -> Order | None:
    """The order that a node brings its input's axes into, if that is all it does."""
    if isinstance(node.op, Permute):
        return node.op.dims
    if isinstance(node.op, Rearrange):
        before, after = (side.split() for side in node.op.pattern.split("->"))
        if all(name.isidentifier() for name in before) and sorted(before) == sorted(after):
            return tuple(before.index(name) for name in after)
    return None


def _inverse(order: Order) -> Order:
    return tuple(order.index(i) for i in range(len(order)))


def _after(first: Order, then: Order) -> Order:
    """One permute in the place of two."""
    return tuple(first[i] for i in then)


def _is_same(order: Order) -> bool:
    return order == tuple(range(len(order)))


@dataclass
class _Region:
    """Operators of any order that are connected, and the values at their borders."""

    graph: Graph
    rank: int
    kept: frozenset[Ref]
    fixed: frozenset[str]
    nodes: dict[str, Node] = field(default_factory=dict[str, Node])

    def inputs(self) -> Iterator[Ref]:
        """Values from outside that are transposed with the region; single numbers are not."""
        refs = dict.fromkeys(r for node in self.nodes.values() for r in node.refs)
        for ref in refs:
            if (isinstance(ref, ParameterRef) or ref.node not in self.nodes) and self.graph.type(ref).rank:
                yield ref

    def results(self) -> Iterator[Value]:
        """Values that are read outside."""
        for node in self.nodes.values():
            if node.value in self.kept or any(self.readers(node.value)):
                yield node.value

    def readers(self, value: Value) -> Iterator[Node]:
        return (u for u in self.graph.users.get(value, ()) if u.path not in self.nodes)

    def source(self, ref: Ref) -> tuple[Order, Ref] | None:
        """The order of a border value and the value that it is a transposition of, if that comes from outside too."""
        node = None if isinstance(ref, ParameterRef) else self.graph.nodes[ref.node]
        order = node and _order(node)
        if order is None or node is None:
            return None
        inner = next(node.refs)
        inside = isinstance(inner, Value) and inner.node in self.nodes
        return None if inside else (order, inner)

    def is_mine(self, ref: Ref) -> bool:
        return ref not in self.kept and all(u.path in self.nodes for u in self.graph.users[ref])

    @property
    def borders(self) -> set[str]:
        """The transpositions that a turn of the region may change, and the readers of its values."""
        found = {r.node for r in self.inputs() if isinstance(r, Value)}
        return found | {u.path for v in self.results() for u in self.readers(v)} | self.nodes.keys()

    def best(self) -> Order | None:
        """The order in which the region's values should be kept, so that a permute by it gives what they are now."""
        found = [order for order, _ in filter(None, map(self.source, self.inputs()))]
        found += [_inverse(o) for v in self.results() for u in self.readers(v) if (o := _order(u))]
        choices = {order: self.cost(order) for order in found}
        choices[tuple(range(self.rank))] = self.cost(None)
        cheapest = min(choices, key=lambda order: (choices[order], not _is_same(order), order))
        return None if _is_same(cheapest) else cheapest

    def cost(self, order: Order | None) -> int:
        """Elements that transpositions at the borders move, in one order or (None) as it is."""
        total = 0
        for ref in self.inputs():
            source = self.source(ref)
            if isinstance(ref, ParameterRef) or ref.node in self.fixed:
                continue
            if order is None:
                total += self._size(ref) if source and self.is_mine(ref) else 0
            else:
                total += self._size(ref) if source is None or source[0] != order else 0
        for value in self.results():
            orders = [_order(u) for u in self.readers(value)]
            total += sum(self._size(value) for o in orders if o and not (order and _is_same(_after(order, o))))
            if order and (value in self.kept or None in orders):
                total += self._size(value)
        return total

    def _size(self, ref: Ref) -> int:
        size = self.graph.type(ref).elements
        found = substitute(size, dict.fromkeys(symbols(size), REFERENCE))
        assert isinstance(found, int)
        return found


def _regions(graph: Graph) -> list[_Region]:
    kept = frozenset([*graph.outputs.values(), *graph.taps.values()])
    fixed = frozenset(constants(graph))
    leader: dict[str, str] = {}

    def find(path: str) -> str:
        while leader[path] != path:
            leader[path] = leader[leader[path]]
            path = leader[path]
        return path

    for path, node in graph.nodes.items():
        if path in fixed or not _is_free(graph, node):
            continue
        leader[path] = path
        for ref in node.refs:
            if isinstance(ref, Value) and ref.node in leader and graph.nodes[ref.node].phase == node.phase:
                leader[path] = find(path)
                leader[find(path)] = find(ref.node)
    regions: dict[str, _Region] = {}
    for path in leader:
        node = graph.nodes[path]
        region = regions.setdefault(find(path), _Region(graph, node.types[0].rank, kept, fixed))
        region.nodes[path] = node
    return list(regions.values())


def _is_free(graph: Graph, node: Node) -> bool:
    rank = node.types[0].rank
    ranks = {graph.type(r).rank for r in node.refs}
    return node.op.name in ANY_ORDER and rank > 1 and ranks <= {0, rank}


class _Turn:
    """Brings a region into another order."""

    def __init__(self, edit: Edit, region: _Region, order: Order) -> None:
        self._edit = edit
        self._region = region
        self._order = order
        self._turned: dict[Ref, Ref] = {}

    def run(self) -> None:
        region, edit = self._region, self._edit
        results = list(region.results())
        for ref in list(region.inputs()):
            self._turned[ref] = self._input(ref)
        for path, node in region.nodes.items():
            inputs = [None if i is None else self._turned.get(i, i) for i in node.inputs]
            edit.set(path, op=self._operator(node.op), inputs=inputs)
        for value in results:
            self._result(value)
        for ref in self._turned:
            if isinstance(ref, Value) and region.source(ref) and region.is_mine(ref):
                edit.remove(ref.node)

    def _operator(self, op: Operator) -> Operator:
        return replace(op, dim=self._order[op.dim]) if isinstance(op, Concat) else op

    def _input(self, ref: Ref) -> Ref:
        """What a permute by the order gives `ref` of."""
        source = self._region.source(ref)
        if source is None:
            return self._permute(ref, ref, _inverse(self._order))
        first, inner = source
        whole = _after(first, _inverse(self._order))
        return inner if _is_same(whole) else self._permute(inner, ref, whole)

    def _permute(self, ref: Ref, place: Ref, order: Order) -> Ref:
        base = place.parameter if isinstance(place, ParameterRef) else place.node
        node = None if isinstance(place, ParameterRef) else self._region.graph.nodes[place.node]
        path = self._edit.fresh(f"{base}.permute")
        phase, origin = (node.phase, node.origin) if node else ("both", ())
        return self._edit.add(path, Permute(order), ref, phase=phase, origin=origin).value

    def _result(self, value: Value) -> None:
        region, edit = self._region, self._edit
        plain: Ref | None = None

        def untouched() -> Ref:
            nonlocal plain
            plain = plain or self._permute(value, value, self._order)
            return plain

        for reader in region.readers(value):
            order = _order(reader)
            whole = order and _after(self._order, order)
            if whole is None:
                inputs: Sequence[Ref | None] = edit.node(reader.path).inputs
                edit.set(reader.path, inputs=[untouched() if i == value else i for i in inputs])
            elif _is_same(whole):
                edit.redirect(reader.value, value)
                edit.remove(reader.path)
            else:
                edit.set(reader.path, op=Permute(whole))
        for table, put in ((region.graph.outputs, edit.output), (region.graph.taps, edit.tap)):
            for name, ref in table.items():
                if ref == value:
                    put(name, untouched())
