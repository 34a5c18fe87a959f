"""The graph: nodes, parameters, and editing in batches. A `Graph` never changes once made; see `Edit`."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from .operators.dimension import elementwise, given, labels, pattern
from .operators.operator import Axes, Initialiser, Operator, ShapeError, operands, operator
from .source import Span
from .types import Dim, TensorType

if TYPE_CHECKING:
    import networkx
    import numpy

Phase = Literal["both", "train", "infer"]


class Value(NamedTuple):
    """Output `index` of the node at path `node`; prints as `%node` or `%node:index`."""

    node: str
    index: int = 0  # pyright: ignore[reportIncompatibleMethodOverride] (tuples have a method of this name; values use none)

    def __str__(self) -> str:
        return f"%{self.node}:{self.index}" if self.index else f"%{self.node}"


class ParameterRef(NamedTuple):
    """A use of the parameter at path `parameter`; prints as `@parameter`."""

    parameter: str

    def __str__(self) -> str:
        return f"@{self.parameter}"


Ref = Value | ParameterRef


class ParameterData(Protocol):
    """Where a parameter's numbers are; read only when asked for."""

    def load(self) -> numpy.ndarray[Any, Any]: ...


@dataclass(frozen=True, slots=True)
class Parameter:
    """A tensor that belongs to the model. Tied use is one parameter referred to from several nodes."""

    path: str
    type: TensorType
    initialiser: Initialiser
    trainable: bool = True
    buffer: bool = False
    data: ParameterData | None = field(default=None, compare=False)
    origin: tuple[Span, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Node:
    """One application of an operator. `inputs` follow the operator's operands; absent optional ones are None."""

    path: str
    op: Operator
    inputs: tuple[Ref | None, ...]
    types: tuple[TensorType, ...]
    phase: Phase = "both"
    origin: tuple[Span, ...] = field(default=(), compare=False)
    maker: str = field(default="", compare=False)

    @property
    def value(self) -> Value:
        """The first output."""
        return Value(self.path)

    @property
    def values(self) -> tuple[Value, ...]:
        return tuple(Value(self.path, i) for i in range(len(self.types)))

    @property
    def scope(self) -> str:
        """Path of the instance the node belongs to, `""` at the top."""
        return self.path.rpartition(".")[0]

    @property
    def refs(self) -> Iterator[Ref]:
        """The inputs that are present."""
        return (i for i in self.inputs if i is not None)


@dataclass(frozen=True, slots=True)
class Scope:
    """An instance of a module: every node whose path lies below `path` belongs to the call.

    `instance` is the path of the instance that is called: equal to `path` for the first call, shared by later calls
    of the same (tied) instance, whose paths end in `~1`, `~2`, …
    """

    path: str
    module: str
    instance: str
    origin: tuple[Span, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of a node: the pass that removed it and the value that stands in its place, if any."""

    node: Node
    maker: str
    by: Ref | None


@operator("input")
class Input(Operator):
    """A graph input. Its path is the input's name."""

    type: TensorType

    def shape(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        return (self.type,)

    def axes(self, *inputs: TensorType | None) -> Axes:
        return Axes(pattern([], labels(self.type.rank)))

    def resized(self, sizes: Mapping[str, Dim], outputs: tuple[TensorType, ...]) -> Input:
        return Input(outputs[0])


class GraphError(Exception):
    """A graph that breaks its own rules; `problems` lists all of them."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Graph:
    """A model as data. `nodes` are in topological order, inputs among them; all mappings are read-only by contract."""

    name: str
    nodes: Mapping[str, Node] = field(default_factory=dict[str, Node])
    outputs: Mapping[str, Ref] = field(default_factory=dict[str, Ref])
    parameters: Mapping[str, Parameter] = field(default_factory=dict[str, Parameter])
    scopes: Mapping[str, Scope] = field(default_factory=dict[str, Scope])
    taps: Mapping[str, Ref] = field(default_factory=dict[str, Ref])
    removed: Mapping[str, Removal] = field(default_factory=dict[str, Removal], compare=False)

    def type(self, ref: Ref) -> TensorType:
        """The type of a value or parameter."""
        if isinstance(ref, ParameterRef):
            return self.parameters[ref.parameter].type
        return self.nodes[ref.node].types[ref.index]

    def input_types(self, node: Node) -> tuple[TensorType | None, ...]:
        """Types of a node's inputs, None where an optional one is absent."""
        return tuple(None if i is None else self.type(i) for i in node.inputs)

    @cached_property
    def inputs(self) -> dict[str, Node]:
        """The input nodes by name, in order of declaration."""
        return {path: node for path, node in self.nodes.items() if isinstance(node.op, Input)}

    @cached_property
    def users(self) -> dict[Ref, list[Node]]:
        """The nodes that read each value or parameter, each once."""
        found: dict[Ref, list[Node]] = {}
        for node in self.nodes.values():
            for ref in dict.fromkeys(node.refs):
                found.setdefault(ref, []).append(node)
        return found

    @cached_property
    def nx(self) -> networkx.DiGraph[str]:
        """Node paths and data edges; no attributes. For reasoning about structure only."""
        import networkx

        view: networkx.DiGraph[str] = networkx.DiGraph()
        view.add_nodes_from(self.nodes)
        view.add_edges_from((r.node, n.path) for n in self.nodes.values() for r in n.refs if isinstance(r, Value))
        return view

    def edit(self, maker: str = "") -> Edit:
        """Start a batch of changes, in the name of the pass `maker`."""
        return Edit(self, maker)

    def with_parameters(self, changed: Iterable[Parameter]) -> Graph:
        """The graph with some parameters replaced (data loaded, frozen); shapes must stay."""
        return replace(self, parameters={**self.parameters, **{p.path: p for p in changed}})


class Edit:
    """A batch of changes to one graph. Nothing is visible until `done`, which costs one sweep however many edits."""

    def __init__(self, graph: Graph, maker: str = "") -> None:
        self._graph = graph
        self._maker = maker
        self._nodes = dict(graph.nodes)
        self._outputs = dict(graph.outputs)
        self._parameters = dict(graph.parameters)
        self._scopes = dict(graph.scopes)
        self._taps = dict(graph.taps)
        self._moved: dict[Ref, Ref] = {}
        self._removed: dict[str, tuple[Node, str]] = {}
        self._dirty: set[str] = set()
        self._changed = False
        self._counters: dict[str, int] = {}
        self._at: str | None = None
        self._placed: dict[str, str] = {}

    def acting(self, maker: str, at: str) -> None:
        """What is added from now on is made by `maker`, and stands where the node `at` stood."""
        self._maker = maker
        self._at = self._placed.get(at, at)

    def fresh(self, path: str) -> str:
        """`path`, or the first free `path_1`, `path_2`, …"""
        if path not in self._nodes and path not in self._counters:
            return path
        number = self._counters.get(path, 0) + 1
        while f"{path}_{number}" in self._nodes:
            number += 1
        self._counters[path] = number
        return f"{path}_{number}"

    def add(
        self,
        path: str,
        op: Operator,
        *inputs: Ref | None,
        phase: Phase = "both",
        origin: tuple[Span, ...] = (),
    ) -> Node:
        """Add a node; its types are inferred at once.

        Raises:
            ShapeError: from the operator's shape rule.
            KeyError: where the path is taken or an input does not exist.
        """
        if path in self._nodes:
            raise KeyError(f"the path {path} is taken")
        inputs = tuple(None if i is None else self._resolve(i) for i in inputs)
        types = op.shape(*(None if i is None else self.type(i) for i in inputs))
        node = Node(path, op, inputs, types, phase, origin, self._maker)
        self._nodes[path] = node
        if self._at is not None:
            self._placed[path] = self._at
        self._changed = True
        return node

    def rename(self, path: str, new: str) -> None:
        """Give a node that was added in this batch the free path `new`."""
        if new in self._nodes:
            raise KeyError(f"the path {new} is taken")
        node = self._nodes[new] = replace(self._nodes.pop(path), path=new)
        if path in self._placed:
            self._placed[new] = self._placed.pop(path)
        for old, value in zip((Value(path, i) for i in range(len(node.types))), node.values, strict=True):
            self._moved[old] = value
        self._changed = True

    def type(self, ref: Ref) -> TensorType:
        ref = self._resolve(ref)
        if isinstance(ref, ParameterRef):
            return self._parameters[ref.parameter].type
        return self._nodes[ref.node].types[ref.index]

    def node(self, path: str) -> Node:
        return self._nodes[path]

    def parameter(self, parameter: Parameter) -> ParameterRef:
        """Add or replace a parameter."""
        old = self._parameters.get(parameter.path)
        if old is not None and old.type != parameter.type:
            self._dirty.update(n.path for n in self._nodes.values() if ParameterRef(parameter.path) in n.inputs)
        self._parameters[parameter.path] = parameter
        self._changed = True
        return ParameterRef(parameter.path)

    def find_parameter(self, path: str) -> Parameter | None:
        return self._parameters.get(path)

    def parameters(self) -> list[Parameter]:
        return list(self._parameters.values())

    def __contains__(self, path: str) -> bool:
        return path in self._nodes

    def scope(self, scope: Scope) -> None:
        self._scopes[scope.path] = scope
        self._changed = True

    def output(self, name: str, ref: Ref) -> None:
        self._outputs[name] = ref
        self._changed = True

    def tap(self, name: str, ref: Ref) -> None:
        self._taps[name] = ref
        self._changed = True

    def set(self, path: str, *, op: Operator | None = None, inputs: Sequence[Ref | None] | None = None) -> None:
        """Change a node's operator or inputs in place; types are inferred again at `done`."""
        old = self._nodes[path]
        new = replace(
            old,
            op=op or old.op,
            inputs=old.inputs if inputs is None else tuple(inputs),
            maker=self._maker or old.maker,
        )
        if new != old:
            self._nodes[path] = new
            self._dirty.add(path)
            self._changed = True

    def redirect(self, old: Ref, new: Ref) -> None:
        """Every reader of `old` reads `new` instead."""
        new = self._resolve(new)
        if new != old:
            self._moved[old] = new
            self._changed = True

    def remove(self, path: str) -> None:
        """Remove a node; its values must have been redirected or be unused by the time of `done`."""
        self._removed[path] = (self._nodes.pop(path), self._maker)
        self._changed = True

    def remove_parameter(self, path: str) -> None:
        del self._parameters[path]
        self._changed = True

    def _resolve(self, ref: Ref) -> Ref:
        """What stands in the place of a value by now. What is passed on the way leads there at once from then on."""
        end = ref
        while end in self._moved:
            end = self._moved[end]
        while ref != end:
            self._moved[ref], ref = end, self._moved[ref]
        return end

    def done(self) -> Graph:
        """The edited graph, or the very same graph where nothing changed.

        Raises:
            GraphError: on a reader of a removed value, or a cycle.
            ShapeError: where a changed node no longer fits its inputs.
        """
        if not self._changed:
            return self._graph
        if self._moved:
            self._follow()
        ordered = _sorted(self._in_place() if self._placed else self._nodes)
        if self._dirty:
            ordered = _retype(ordered, self._parameters, self._dirty)
        removed = dict(self._graph.removed)
        for path, (node, maker) in self._removed.items():
            by = self._moved.get(node.value)
            removed[path] = Removal(node, maker, None if by is None else self._resolve(by))
        return Graph(self._graph.name, ordered, self._outputs, self._parameters, self._scopes, self._taps, removed)

    def _in_place(self) -> dict[str, Node]:
        """The nodes, with those that were added where they belong."""
        number = {path: i for i, path in enumerate(self._graph.nodes)}
        last = len(number)
        order = sorted(self._nodes, key=lambda p: number.get(self._placed.get(p, p), last))
        return {path: self._nodes[path] for path in order}

    def _follow(self) -> None:
        for path, node in self._nodes.items():
            if any(i in self._moved for i in node.refs):
                inputs = tuple(None if i is None else self._resolve(i) for i in node.inputs)
                self._nodes[path] = replace(node, inputs=inputs)
                self._dirty.add(path)
        self._outputs = {name: self._resolve(ref) for name, ref in self._outputs.items()}
        self._taps = {name: self._resolve(ref) for name, ref in self._taps.items()}


def _sorted(nodes: dict[str, Node]) -> dict[str, Node]:
    """Topological order, keeping the given order where it is one already (the usual case costs one sweep)."""
    seen: set[str] = set()
    for path, node in nodes.items():
        if any(isinstance(r, Value) and r.node not in seen for r in node.refs):
            return _kahn(nodes)
        seen.add(path)
    return nodes


def _kahn(nodes: dict[str, Node]) -> dict[str, Node]:
    number = {path: i for i, path in enumerate(nodes)}
    paths = list(nodes)
    waiting: dict[str, int] = {}
    readers: dict[str, list[str]] = {}
    for path, node in nodes.items():
        sources = {r.node for r in node.refs if isinstance(r, Value)}
        missing = {s for s in sources if s not in nodes}  # a set minus keys would go through all keys
        if missing:
            raise GraphError([f"%{path} reads %{m}, which does not exist" for m in sorted(missing)])
        waiting[path] = len(sources)
        for source in sources:
            readers.setdefault(source, []).append(path)
    ready = [number[p] for p, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    ordered: dict[str, Node] = {}
    while ready:
        path = paths[heapq.heappop(ready)]
        ordered[path] = nodes[path]
        for reader in readers.get(path, ()):
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, number[reader])
    if len(ordered) < len(nodes):
        raise GraphError([f"%{p} lies on a cycle" for p in nodes if p not in ordered])
    return ordered


def _retype(nodes: dict[str, Node], parameters: Mapping[str, Parameter], dirty: set[str]) -> dict[str, Node]:
    """Infer types again from the changed nodes downwards, as far as they differ."""
    changed: set[str] = set()
    result: dict[str, Node] = {}
    for path, node in nodes.items():
        if path in dirty or any(isinstance(r, Value) and r.node in changed for r in node.refs):
            types = node.op.shape(*(_type(i, result, parameters) for i in node.inputs))
            if types != node.types:
                changed.add(path)
                node = replace(node, types=types)
        result[path] = node
    return result


def _type(ref: Ref | None, nodes: Mapping[str, Node], parameters: Mapping[str, Parameter]) -> TensorType | None:
    if ref is None:
        return None
    return parameters[ref.parameter].type if isinstance(ref, ParameterRef) else nodes[ref.node].types[ref.index]


@operator("select_phase")
class SelectPhase(Operator):
    """The first input when training, the second in inference: where a `train` or `infer` part rebinds a value."""

    operands = operands("train infer")

    def shape(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        train, infer = inputs
        if train is None or infer is None or train != infer:
            raise ShapeError(f"the value is {train} in training and {infer} in inference", operands=(0, 1))
        return (infer,)

    def axes(self, *inputs: TensorType | None) -> Axes:
        return elementwise(given(inputs)[0].shape, *given(inputs))


def verify(graph: Graph) -> None:
    """Check everything a graph promises: structure, order, types by the shape rules, phases, parameters, outputs.

    Raises:
        GraphError: with every problem found.
    """
    problems: list[str] = []
    seen: set[str] = set()
    for path, node in graph.nodes.items():
        problems.extend(_check_node(graph, path, node, seen))
        seen.add(path)
    for kind, table in (("output", graph.outputs), ("tap", graph.taps)):
        problems.extend(
            f"the {kind} {n} is {r}, which does not exist" for n, r in table.items() if not _exists(graph, r)
        )
    problems.extend(f"the parameter {k} is stored as {p.path}" for k, p in graph.parameters.items() if k != p.path)
    if not graph.outputs:
        problems.append("the graph has no outputs")
    if problems:
        raise GraphError(problems)


def _exists(graph: Graph, ref: Ref) -> bool:
    if isinstance(ref, ParameterRef):
        return ref.parameter in graph.parameters
    return ref.node in graph.nodes and ref.index < len(graph.nodes[ref.node].types)


def _check_node(graph: Graph, path: str, node: Node, seen: set[str]) -> Iterator[str]:
    if path != node.path:
        yield f"the node %{path} is stored as %{node.path}"
    for ref in node.refs:
        if not _exists(graph, ref):
            yield f"%{path} reads {ref}, which does not exist"
            return
        if isinstance(ref, Value):
            if ref.node not in seen:
                yield f"%{path} reads {ref} before it is computed"
            yield from check_phase(graph, node, ref)
    problem = check_operands(node.op, node.inputs)
    if problem:
        yield f"%{path}: {problem}"
        return
    try:
        types = node.op.shape(*graph.input_types(node))
    except ShapeError as error:
        yield f"%{path}: {error.message}"
        return
    if types != node.types:
        yield f"%{path} is declared {_listed(node.types)} but is {_listed(types)}"


def _listed(types: Iterable[TensorType]) -> str:
    return ", ".join(map(str, types))


def check_phase(graph: Graph, node: Node, ref: Value) -> Iterator[str]:
    source = graph.nodes[ref.node].phase
    if isinstance(node.op, SelectPhase):
        allowed: Phase = "train" if node.inputs[0] == ref else "infer"
        if source not in ("both", allowed):
            yield f"%{node.path} reads {ref} of the {source} phase in its {allowed} place"
    elif source not in ("both", node.phase):
        yield f"%{node.path} ({node.phase}) reads {ref}, which exists only in the {source} phase"


def check_operands(op: Operator, inputs: Sequence[Ref | None]) -> str | None:
    """What is wrong with the number of inputs, or None."""
    declared = op.operands
    variadic = bool(declared) and declared[-1].variadic
    fixed = declared[:-1] if variadic else declared
    if len(inputs) < len(fixed) or (len(inputs) > len(fixed) and not variadic):
        return f"{op.name} takes {len(declared)} inputs, not {len(inputs)}"
    for operand, value in zip(fixed, inputs, strict=False):
        if value is None and not operand.optional:
            return f"{op.name} needs its input {operand.name}"
    return None
