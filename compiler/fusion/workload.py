"""A graph as a memory sees it: who reads what through which moves, and how many bytes there are of everything."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from ..diagnostic import Diagnostic, Label, NetcError
from ..graph import Graph, Node, ParameterRef, Ref, Value
from ..operators.pooling import AdaptivePooling
from ..operators.reduction import Max, Mean, Min, Sum
from ..types import DType, TensorType, symbols
from .stream import SAME, Read, Window, reads
from .work import Work

IN_PLACE = frozenset(
    {
        "relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "gelu", "silu", "hardsigmoid", "hardswish", "sigmoid",
        "tanh", "softplus", "mish", "add", "sub", "mul", "div", "pow", "maximum", "minimum", "remainder", "neg", "abs",
        "sign", "floor", "ceil", "round", "square", "exp", "log", "sqrt", "rsqrt", "sin", "cos", "erf", "reciprocal",
        "clip", "batch_norm", "cast",
    }
)  # fmt: skip
"""Operators that make each element of the one at its place, so that it can take that one's memory."""


class Edge(NamedTuple):
    """A working node reads a value, through carried nodes (each with the output that is gone through, reader first)."""

    reader: str
    operand: int
    source: Value
    """Made by a working node, or an input of the model."""
    through: tuple[Value, ...]


class Weight(NamedTuple):
    """What a node reads that no input determines: a parameter, or a table that is computed at compile time."""

    name: str
    bytes: int
    portion: int
    """Bytes of one portion in which it is streamed: what makes one unit of the output, such as a filter."""
    looked_up: bool = False
    """Only rows of it are read, as many bytes in all as `bytes` says; it is never kept on chip."""


class Path(NamedTuple):
    """What a line of a reader's output reads of a source: lines of its axis `axis`, by windows one after the other;
    with each the size of the axis that it reads from."""

    axis: int
    steps: tuple[tuple[Window, int], ...]


class Workload:
    """A graph of inference with known sizes, in the dtype that its floating-point numbers are kept in.

    Raises:
        NetcError: where a size is not known (`symbolic-dimension`).
    """

    def __init__(self, graph: Graph, dtype: DType | None = None) -> None:
        _check_sizes(graph)
        self.graph = graph
        self.dtype = dtype
        self.work = Work(graph)
        self.edges: dict[str, tuple[Edge, ...]] = {}
        self.weights: dict[str, tuple[Weight, ...]] = {}
        for path, node in self.work.nodes.items():
            self.edges[path] = tuple(self._edges(node))
            self.weights[path] = tuple(self._weights(node))
        self.values = {path: node.values for path, node in self.work.nodes.items()}
        self._sizes: dict[Value, tuple[int, ...]] = {}
        self._macs: dict[str, int] = {}
        self._paths: dict[tuple[Edge, int | None], Path | None] = {}
        self._alone: dict[tuple[str, int], bool] = {}
        self._batched: dict[str, bool] = {}

    @cached_property
    def readers(self) -> dict[Value, tuple[Edge, ...]]:
        """Who reads each value that a working node makes or an input is."""
        found: dict[Value, list[Edge]] = {}
        for edges in self.edges.values():
            for edge in edges:
                found.setdefault(edge.source, []).append(edge)
        return {value: tuple(edges) for value, edges in found.items()}

    @cached_property
    def results(self) -> frozenset[Value]:
        """Values that outputs of the model carry."""
        found = (self.resolve(ref) for ref in self.graph.outputs.values())
        return frozenset(f[0] for f in found if f is not None)

    def element(self, type: TensorType) -> int:
        """Bytes of one element."""
        return (self.dtype if self.dtype is not None and type.dtype.is_float else type.dtype).bytes

    def bytes(self, type: TensorType) -> int:
        return int(type.elements) * self.element(type)  # pyright: ignore[reportArgumentType] (no symbols)

    def type(self, value: Value) -> TensorType:
        return self.graph.nodes[value.node].types[value.index]

    def sizes(self, value: Value) -> tuple[int, ...]:
        """Of the axes of a value."""
        if value not in self._sizes:
            self._sizes[value] = tuple(int(str(d)) for d in self.type(value).shape)
        return self._sizes[value]

    def macs(self, path: str) -> int:
        """Multiply-accumulates of a node."""
        if path not in self._macs:
            node = self.graph.nodes[path]
            self._macs[path] = int(str(node.op.cost(self.graph.input_types(node), node.types).macs))
        return self._macs[path]

    def resolve(self, ref: Ref | None) -> tuple[Value, tuple[Value, ...]] | None:
        """The value that `ref` carries, and the moves that carry it, last first; None for what no input determines."""
        through: list[Value] = []
        while isinstance(ref, Value) and ref.node not in self.work.constant:
            node = self.graph.nodes[ref.node]
            if ref.node in self.work.nodes or not node.inputs:
                return ref, tuple(through)
            through.append(ref)
            ref = node.inputs[0]
        return None

    def _edges(self, node: Node) -> Iterator[Edge]:
        for i, ref in enumerate(node.inputs):
            found = self.resolve(ref)
            if found is not None:
                yield Edge(node.path, i, *found)

    def _weights(self, node: Node) -> Iterator[Weight]:
        for i, ref in enumerate(node.inputs):
            if ref is None or self.resolve(ref) is not None:
                continue
            type = self.graph.type(ref)
            size = self.bytes(type)
            name = str(ref) if isinstance(ref, Value) else ref.parameter
            if not isinstance(ref, ParameterRef) and not type.rank:
                continue  # a number, part of the instruction
            if node.op.name == "embedding" and i == 1:
                rows = int(node.types[0].elements) * self.element(type)  # pyright: ignore[reportArgumentType]
                yield Weight(name, rows, size // int(str(type.shape[0])), True)
            else:
                yield Weight(name, size, size // int(str(type.shape[0])) if type.rank > 1 else size)

    def makes_lines(self, path: str, axis: int) -> bool:
        """Whether a node can make lines of its output along an axis, each alone."""
        key = path, axis
        if key not in self._alone:
            node = self.graph.nodes[path]
            single = len(node.types) == 1 and axis < node.types[0].rank and node.types[0].shape[axis] != 1
            self._alone[key] = single and self._reads(Value(path, 0), axis) is not None
        return self._alone[key]

    def path(self, edge: Edge, axis: int | None) -> Path | None:
        """What a line of the reader's output, along `axis`, reads of the edge's source; None: all of it."""
        key = edge, axis
        if key not in self._paths:
            self._paths[key] = None if axis is None else self._follow(edge, axis)
        return self._paths[key]

    def _follow(self, edge: Edge, axis: int) -> Path | None:
        found = self._reads(Value(edge.reader, 0), axis)
        read = None if found is None else found[edge.operand]
        steps: list[tuple[Window, int]] = []
        for move in edge.through:
            if read is None:
                return None
            steps.append((read.window, self.sizes(move)[read.axis]))
            found = self._reads(move, read.axis)
            read = None if found is None else found[0]
        if read is None:
            return None
        steps.append((read.window, self.sizes(edge.source)[read.axis]))
        return Path(read.axis, tuple(steps))

    def _reads(self, value: Value, axis: int) -> tuple[Read | None, ...] | None:
        node = self.graph.nodes[value.node]
        return reads(node.op, self.graph.input_types(node), node.types, value.index, axis)

    def gathers(self, edge: Edge, axis: int | None) -> bool:
        """Whether a node can take a value line by line as they come, along an axis, and reduces it to no line."""
        op = self.graph.nodes[edge.reader].op
        if axis is None or edge.through:
            return False
        if isinstance(op, Mean | Sum | Max | Min):
            return op.dim is None or axis in op.dim
        if isinstance(op, AdaptivePooling):
            return axis >= 2 and op.output_size[axis - 2] == 1
        return False

    def batched(self, path: str) -> bool:
        """Whether a node makes each example of a batch, along axis 0, of that example alone."""
        if path not in self._batched:
            node = self.graph.nodes[path]
            edges = self.edges[path]
            self._batched[path] = len(node.types) == 1 and all(self._by_example(e) for e in edges)
        return self._batched[path]

    def _by_example(self, edge: Edge) -> bool:
        path = self._follow(edge, 0) if self.type(Value(edge.reader, 0)).rank else None
        return path is not None and path.axis == 0 and all(window == SAME for window, _ in path.steps)


def _check_sizes(graph: Graph) -> None:
    for node in graph.nodes.values():
        for type in node.types:
            names = sorted({s for d in type.shape for s in symbols(d)})
            if names:
                message = f"a plan needs every size as a number, and %{node.path} is {type}"
                fix = f"batch 1, or --bind {names[0]}=…"
                labels = tuple(Label(span) for span in node.origin[:1])
                raise NetcError([Diagnostic("symbolic-dimension", message, labels, fix=fix)])
