"""Another size of pictures: the sizes of all values follow, and of the parameters that have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from ..axes import Analysis, analyse
from ..axes.structure import Dimension
from ..graph import Graph, Input, Node, ParameterRef, Ref, Value
from ..operators.operator import Operator, ShapeError
from ..types import Dim, TensorType, divide, volume


class Stuck(Exception):
    """A node cannot take another size."""

    def __init__(self, node: str, text: str) -> None:
        super().__init__(text)
        self.node = node
        self.text = text


@dataclass(frozen=True)
class Extents:
    """A graph with inputs of other shapes, and the parameters that changed with them."""

    graph: Graph
    parameters: tuple[str, ...]


def with_inputs(graph: Graph, shapes: Mapping[str, tuple[Dim, ...]], analysis: Analysis | None = None) -> Extents:
    """The graph with inputs of these shapes. Parameters that have an axis of positions change, and lose their data.

    Where a model pads its strided windows unevenly, as TensorFlow's "same" does, paddings follow the size.

    Raises:
        Stuck: at the first node that holds a size, or takes none like this.
    """
    return _Sizes(graph, analysis or analyse(graph, interface=())).run(shapes)


@dataclass
class _Sizes:
    graph: Graph
    analysis: Analysis
    new: dict[Dimension, Dim] = field(default_factory=dict[Dimension, Dim])
    """The sizes of atoms that have been met."""
    nodes: dict[str, Node] = field(default_factory=dict[str, Node])
    """What has been done so far."""
    _known: dict[Dimension, Dim] = field(default_factory=dict[Dimension, Dim])

    def run(self, shapes: Mapping[str, tuple[Dim, ...]]) -> Extents:
        for name, shape in shapes.items():
            node = self.graph.inputs[name]
            for dimension, size in zip(self.analysis.axes[node.value], shape, strict=True):
                self._set(dimension, size, node)
        same = _pads_to_same(self.graph)
        seen: dict[str, list[TensorType | None]] = {}
        for path, node in self.graph.nodes.items():
            seen[path] = [None if i is None else self._now(i) for i in node.inputs]
            self.nodes[path] = self._node(node, seen[path], same=same)
        for path, node in self.nodes.items():
            if seen[path] != [None if i is None else self._now(i) for i in node.inputs]:
                raise Stuck(path, "it reads a parameter that has another size elsewhere")
        parameters = {path: self._parameter(path) for path in self.graph.parameters}
        changed = tuple(p for p, new in parameters.items() if new.type != self.graph.parameters[p].type)
        return Extents(replace(self.graph, nodes=self.nodes, parameters=parameters), changed)

    def _now(self, ref: Ref) -> TensorType:
        return self.nodes[ref.node].types[ref.index] if isinstance(ref, Value) else self._type(ref)

    # ------------------------------------------------------------------------------------------------ sizes

    def _size(self, dimension: Dimension) -> Dim:
        structure = self.analysis.structure
        dimension = structure.find(dimension)
        if dimension not in self._known:
            parts = (volume(map(self._factor, structure.factors(p))) for p in structure.segments(dimension))
            self._known[dimension] = sum(parts, cast(Dim, 0))
        return self._known[dimension]

    def _factor(self, dimension: Dimension) -> Dim:
        structure = self.analysis.structure
        dimension = structure.find(dimension)
        if structure.form(dimension) is not None:
            return self._size(dimension)
        return self.new.get(dimension, structure.size(dimension))

    def _type(self, ref: Ref) -> TensorType:
        return TensorType(self.graph.type(ref).dtype, tuple(map(self._size, self.analysis.axes[ref])))

    def _set(self, dimension: Dimension, size: Dim, node: Node) -> None:
        """A dimension has this size: so have the atoms it consists of."""
        structure = self.analysis.structure
        dimension = structure.find(dimension)
        if self._size(dimension) == size:
            for atom in structure.atoms(dimension):
                self.new.setdefault(atom, structure.size(atom))
            return
        if structure.form(dimension) is None:
            if dimension in self.new:
                raise Stuck(node.path, f"it would be {size} where others are {self.new[dimension]}")
            self.new[dimension] = size
            self._known.clear()
            return
        parts = structure.segments(dimension)
        open_parts = [p for p in parts if any(a not in self.new for a in structure.atoms(p))]
        rest = sum((self._factor_size(p) for p in parts if p not in open_parts), cast(Dim, 0))
        if len(open_parts) != 1:
            raise Stuck(node.path, f"its parts are {self._size(dimension)} and would be {size} together")
        self._set_product(open_parts[0], size - rest, node)

    def _factor_size(self, part: Dimension) -> Dim:
        return volume(map(self._factor, self.analysis.structure.factors(part)))

    def _set_product(self, part: Dimension, size: Dim, node: Node) -> None:
        """The first factor that is not known yet makes the product what it is."""
        structure = self.analysis.structure
        factors = structure.factors(part)
        free = next((f for f in factors if any(a not in self.new for a in structure.atoms(f))), None)
        others = volume(self._factor(f) for f in factors if f != free)
        quotient = divide(size, others)
        if free is None or quotient is None or quotient == 0:
            raise Stuck(self._splits(part) or node.path, f"it splits {size}, which is no multiple of {others}")
        self._set(free, quotient, node)

    def _splits(self, part: Dimension) -> str | None:
        """The first node that has a part of a dimension as an axis of its own."""
        structure = self.analysis.structure
        whole = set(structure.atoms(part))
        for path, node in self.graph.nodes.items():
            axes = (set(structure.atoms(d)) for v in node.values for d in self.analysis.axes[v])
            if node.inputs and any(own and own < whole for own in axes):
                return path
        return None

    # ------------------------------------------------------------------------------------------------ nodes

    def _node(self, node: Node, inputs: list[TensorType | None], *, same: bool) -> Node:
        before = self.graph.input_types(node)
        grown = any(self._type(v) != kind for v, kind in zip(node.values, node.types, strict=True))
        if before == tuple(inputs) and not grown:
            return node
        op = self._op(node)
        if same:
            op = _padded(op, before, inputs)
        try:
            types = op.shape(*inputs)
        except ShapeError as error:
            raise Stuck(node.path, error.message) from None
        for value, kind in zip(node.values, types, strict=True):
            if kind.rank != self.graph.type(value).rank:
                raise Stuck(node.path, f"it would be {kind}")
            for dimension, size in zip(self.analysis.axes[value], kind.shape, strict=True):
                self._set(dimension, size, node)
        return replace(node, op=op, types=types)

    def _op(self, node: Node) -> Operator:
        if isinstance(node.op, Input):
            return Input(self._type(node.value))
        labels = self.analysis.labels[node.path]
        sizes = {label: self._size(d) for label, d in labels.dimensions.items()}
        return node.op.resized(sizes, tuple(map(self._type, node.values)))

    def _parameter(self, path: str) -> Any:
        parameter = self.graph.parameters[path]
        kind = self._type(ParameterRef(path))
        if kind == parameter.type:
            return parameter
        if parameter.initialiser.kind == "given":
            raise Stuck(path, "its numbers are given, for one size")
        return replace(parameter, type=kind, data=None)


# ---------------------------------------------------------------------------------------------------- paddings


def _pads_to_same(graph: Graph) -> bool:
    """Whether a strided window pads more on one side than on the other, and as TensorFlow's "same" would."""
    for node in graph.nodes.values():
        op: Any = node.op
        found = same_padding(op, graph.input_types(node)) if hasattr(op, "padding") and hasattr(op, "stride") else None
        if found is not None and found == op.padding and any(a != b for a, b in found):
            return True
    return False


def _padded(op: Operator, before: tuple[TensorType | None, ...], after: list[TensorType | None]) -> Operator:
    """The window with the padding of "same" for its new input, if it had that of its old one."""
    if not (hasattr(op, "padding") and hasattr(op, "stride")):
        return op
    known: Any = op
    was, wanted = same_padding(op, before), same_padding(op, tuple(after))
    if was is None or wanted is None or was != known.padding or wanted == known.padding:
        return op
    return replace(known, padding=wanted)


def same_padding(op: Any, inputs: tuple[TensorType | None, ...]) -> tuple[tuple[int, int], ...] | None:
    """The padding that gives ⌈size / stride⌉ positions; None where it depends on a symbol, or nothing is strided."""
    x = inputs[0]
    kernel = getattr(op, "kernel_size", None)
    if kernel is None and len(inputs) > 1 and inputs[1] is not None:
        kernel = inputs[1].shape[2:]
    if op.name.startswith("conv_transpose") or x is None or kernel is None or len(op.stride) != len(kernel):
        return None
    dilation = getattr(op, "dilation", None) or (1,) * len(kernel)
    pairs: list[tuple[int, int]] = []
    for size, k, s, d in zip(x.shape[2:], kernel, op.stride, dilation, strict=True):
        if not isinstance(size, int):
            return None
        whole = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        pairs.append((whole // 2, whole - whole // 2))
    return tuple(pairs)
