"""What a model costs: parameters, arithmetic, memory and critical path, computed from a graph alone.

Conventions, each of which some other tool decides otherwise:

- **Parameters** are unique and exclude buffers, as `sum(p.numel() for p in module.parameters())`. A tied one is counted
  in the scope of the first node that reads it. Those that only the other phase reads are left out.
- **MACs** are those of convolutions and matrix products (`FlopCounterMode / 2`); FLOPs are 2 · MACs; all other
  arithmetic is in its own column, one operation an element.
- **Nodes** are those that an output needs in the chosen phase (a tap alone computes nothing). In inference dropout and
  drop path are free.
- **Weight-only nodes** (values that depend on no input, such as `a @ b` of two parameters) are counted like all others,
  because they are computed unless a pass folds them. `Report.folded` says how many MACs folding would save.
- **Activations** are the outputs of all nodes, inputs and parameters excluded. A reshape, and every other node that
  only renames its input's memory (`VIEWS`), has none.
- **Peak memory** is the largest sum of values alive at one step, parameters excluded, when nodes run one at a time in
  the graph's order, each value is freed after its last reader, nothing is computed in place, and graph inputs and
  outputs stay to the end. Where sizes are symbolic, steps are compared with every free symbol at `REFERENCE`.
- **The critical path** is the longest chain of nodes from an input, by number of nodes and by MACs; views count as
  nodes, weight-only nodes do not take part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Literal, NamedTuple

from .diagnostic import Diagnostic, NetcError, nearest
from .graph import Graph, Node, Parameter, ParameterRef, Ref, SelectPhase, Value
from .operators.operator import Operator
from .types import Dim, TensorType, substitute, symbols, total

REFERENCE = 128
"""What a free symbol stands for where two symbolic sizes must be compared."""

VIEWS = frozenset({"reshape", "flatten", "squeeze", "unsqueeze", "identity", "stop_gradient", "select_phase"})
"""Operators whose output is their input's memory under another shape."""


@dataclass(frozen=True, slots=True)
class Row:
    """One node, or everything below a path. Counts are of elements and operations, memory is in bytes."""

    path: str
    kind: str
    """The operator, the module, or empty for a part of a path that is neither."""
    nodes: int = 0
    parameters: Dim = 0
    trainable: Dim = 0
    buffers: Dim = 0
    weight_bytes: Dim = 0
    """Parameters and buffers as stored."""
    macs: Dim = 0
    other: Dim = 0
    activations: Dim = 0
    peak: Dim = 0
    """The most memory alive, in the whole model, while one of these nodes runs."""
    output: tuple[TensorType, ...] = ()
    """Of a node: the types of its outputs."""

    @property
    def depth(self) -> int:
        return self.path.count(".") + 1 if self.path else 0

    @property
    def flops(self) -> Dim:
        return 2 * self.macs

    def data(self) -> dict[str, Any]:
        """The row as JSON-ready values; symbolic sizes are text."""
        return {
            "path": self.path,
            "kind": self.kind,
            "nodes": self.nodes,
            **{name: _plain(getattr(self, name)) for name in (*_COUNTS, "flops", "peak")},
            "output": [str(t) for t in self.output],
        }


_COUNTS = ("parameters", "trainable", "buffers", "weight_bytes", "macs", "other", "activations")


def _plain(dim: Dim) -> int | str:
    return dim if isinstance(dim, int) else str(dim)


@dataclass(frozen=True, slots=True)
class Chain:
    """A path through the graph: its nodes in order and their MACs."""

    nodes: tuple[str, ...] = ()
    macs: Dim = 0

    def data(self) -> dict[str, Any]:
        return {"length": len(self.nodes), "macs": _plain(self.macs), "nodes": list(self.nodes)}


@dataclass(frozen=True)
class Report:
    """The costs of a model. `rows` are in the order of the graph, a scope before its parts; the first is the whole."""

    model: str
    phase: Literal["train", "infer"]
    rows: tuple[Row, ...]
    folded: Dim
    """MACs of nodes that depend on no input."""
    peak_at: str
    """The node during which most memory is alive."""
    longest: Chain
    """The critical path by nodes."""
    heaviest: Chain
    """The critical path by MACs."""
    bind: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def total(self) -> Row:
        return self.rows[0]

    @property
    def parameters(self) -> Dim:
        return self.total.parameters

    @property
    def macs(self) -> Dim:
        return self.total.macs

    def table(self, depth: int | None = None) -> list[Row]:
        """The rows down to `depth` dots of path (1: the top scopes), below the row of the whole model."""
        return [r for r in self.rows if depth is None or r.depth <= depth]

    def data(self, depth: int | None = None) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return {
            "model": self.model,
            "phase": self.phase,
            "bind": dict(self.bind),
            "total": self.total.data(),
            "folded_macs": _plain(self.folded),
            "peak_at": self.peak_at,
            "critical_path": {"nodes": self.longest.data(), "macs": self.heaviest.data()},
            "rows": [r.data() for r in self.table(depth)[1:]],
        }


def cost(graph: Graph, bind: Mapping[str, int] | None = None, phase: Literal["train", "infer"] = "infer") -> Report:
    """The costs of a graph, with the symbols in `bind` replaced by numbers.

    Raises:
        NetcError: where `bind` names no symbol of the graph, or gives one a number below 1 (`bind`).
    """
    bind = dict(bind or {})
    _check(bind, free_symbols(graph))
    measure = _Measure(graph, phase, bind)
    return Report(
        graph.name,
        phase,
        _rows(graph, measure),
        total(spent.macs for path, spent in measure.spent.items() if path not in measure.varying),
        measure.peak_at,
        measure.chain(dict.fromkeys(measure.spent, 1)),
        measure.chain({path: spent.weight for path, spent in measure.spent.items()}),
        bind,
    )


def assumed(graph: Graph) -> dict[str, int]:
    """A number for every symbol of a graph, where none is given: 1 where it is some input's first dimension (the
    batch), else `REFERENCE`."""
    first = {str(node.types[0].shape[0]) for node in graph.inputs.values() if node.types[0].rank}
    return {name: 1 if name in first else REFERENCE for name in sorted(free_symbols(graph))}


def free_symbols(graph: Graph) -> frozenset[str]:
    """The symbols that the sizes of a graph depend on."""
    types = {t for node in graph.inputs.values() for t in node.types} | {p.type for p in graph.parameters.values()}
    return frozenset(name for t in types for d in t.shape for name in symbols(d))


def _check(bind: Mapping[str, int], free: frozenset[str]) -> None:
    for name, number in bind.items():
        if name not in free:
            known = f"its symbols: {', '.join(sorted(free))}" if free else "it has no symbolic dimension"
            message = f"the model has no dimension {name}"
            raise NetcError([Diagnostic("bind", message, notes=(known,), fix=nearest(name, free))])
        if number < 1:
            raise NetcError([Diagnostic("bind", f"the dimension {name} is {number}, but must be at least 1")])


def _live(graph: Graph, phase: Literal["train", "infer"]) -> dict[str, list[Value]]:
    """What each node reads that an output needs in this phase, in the graph's order; all inputs are among them."""
    needed = {r.node for r in graph.outputs.values() if isinstance(r, Value)} | set(graph.inputs)
    found: list[tuple[str, list[Value]]] = []
    for node in reversed(list(graph.nodes.values())):
        if node.path in needed and node.phase in ("both", phase):
            reads = [r for r in _reads(node, phase) if isinstance(r, Value)]
            needed.update([r.node for r in reads])
            found.append((node.path, reads))
    return dict(reversed(found))


def _reads(node: Node, phase: Literal["train", "infer"]) -> tuple[Ref | None, ...]:
    """What a node reads in this phase, by operand; one that is absent is None."""
    if isinstance(node.op, SelectPhase):
        return node.inputs[:1] if phase == "train" else node.inputs[1:]
    return node.inputs


class _Size(NamedTuple):
    """A type with the symbols in `bind` replaced, and what a tensor of it takes."""

    type: TensorType
    elements: Dim
    bytes: Dim


@dataclass(frozen=True, slots=True)
class _Spent:
    """The costs of one node."""

    macs: Dim = 0
    other: Dim = 0
    activations: Dim = 0
    weight: int = 0
    """The MACs with every symbol at `REFERENCE`."""


class _Measure:
    """The costs of the nodes of one phase, with the symbols in `bind` replaced by numbers.

    Networks repeat themselves, so what follows from a type, or from an operator and its types, is computed once.
    """

    def __init__(self, graph: Graph, phase: Literal["train", "infer"], bind: Mapping[str, int]) -> None:
        self.graph = graph
        self.phase: Literal["train", "infer"] = phase
        self.live = _live(graph, phase)
        self._bind = bind
        self._sizes: dict[TensorType, _Size] = {}
        self._costs: dict[tuple[Operator, tuple[TensorType | None, ...]], _Spent] = {}
        self.varying = set(graph.inputs)
        """The nodes that depend on an input."""
        self._views: dict[Value, Value | None] = {}
        """The value in whose memory a view lies (None: a parameter's)."""
        computed = (graph.nodes[path] for path in self.live if path not in graph.inputs)
        self.spent = {node.path: self._spent(node, self.live[node.path]) for node in computed}
        self.peaks: dict[str, tuple[int, Dim]] = {}
        """Bytes alive while each node runs, first with every symbol at `REFERENCE`."""
        self.peak_at = self._schedule()

    def size(self, type: TensorType) -> _Size:
        found = self._sizes.get(type)
        if found is None:
            bound = type.substitute(self._bind)
            found = self._sizes[type] = _Size(bound, bound.elements, bound.bytes)
        return found

    def bound(self, types: tuple[TensorType, ...]) -> tuple[TensorType, ...]:
        return tuple([self.size(t).type for t in types]) if self._bind else types

    def _spent(self, node: Node, reads: list[Value]) -> _Spent:
        if any(r.node in self.varying for r in reads):
            self.varying.add(node.path)
        if node.op.name in VIEWS or (self.phase == "infer" and node.op.effect == "random"):
            self._views[node.value] = self._views.get(reads[0], reads[0]) if reads else None
            return _FREE
        key = node.op, self.graph.input_types(node)
        found = self._costs.get(key)
        if found is None:
            own = node.op.cost(key[1], node.types)
            macs, other = substitute(own.macs, self._bind), substitute(own.flops, self._bind)
            memory = total(self.size(t).bytes for t in node.types)
            found = self._costs[key] = _Spent(macs, other, memory, _number(macs))
        return found

    def _freed(self) -> dict[str, tuple[Dim, ...]]:
        """By node: the bytes of the values that nothing reads once it has run."""
        nodes, views = self.graph.nodes, self._views
        outputs = [r for r in self.graph.outputs.values() if isinstance(r, Value)]
        inputs = [node.value for node in self.graph.inputs.values()]
        seen: set[Value | None] = {None, *views, *inputs, *[views.get(r, r) for r in outputs]}
        freed: dict[str, tuple[Dim, ...]] = {}
        for path, reads in reversed(self.live.items()):
            held = [views.get(r, r) for r in reads]
            held.extend(nodes[path].values)  # dead at once if no later node has read them
            last = [v for v in dict.fromkeys(held) if v is not None and v not in seen]
            if last:
                seen.update(last)
                freed[path] = tuple([self._held(v) for v in last])
        return freed

    def _held(self, value: Value) -> Dim:
        types = self.graph.nodes[value.node].types
        return self.spent[value.node].activations if len(types) == 1 else self.size(types[value.index]).bytes

    def _schedule(self) -> str:
        """Run the nodes in order and note what is alive at each. Returns the node where it is most."""
        freed = self._freed()
        most, where = -1, ""
        alive: Dim = 0
        released: tuple[Dim, ...] = ()
        steps: dict[tuple[Dim, ...], tuple[int, Dim]] = {}
        for path in self.live:
            own = self.spent.get(path)
            made = own.activations if own else self.size(self.graph.nodes[path].types[0]).bytes
            step = (alive, made, *released)
            found = steps.get(step)
            if found is None:
                after = total([alive, made, *[-d for d in released]])
                found = steps[step] = _number(after), after
            self.peaks[path] = found
            height, alive = found
            if height > most:
                most, where = height, path
            released = freed.get(path, ())
        return where

    def chain(self, weights: Mapping[str, int]) -> Chain:
        """The heaviest chain from an input, each node weighing as given; of equals the one of more nodes."""
        heaviest: dict[str, tuple[int, int]] = {}
        before: dict[str, str | None] = {}
        for path, reads in self.live.items():
            if path in self.varying:
                best, reached, length = None, 0, 0
                for source, _ in reads:
                    if source in self.varying and (best is None or heaviest[source] > (reached, length)):
                        best = source
                        reached, length = heaviest[source]
                heaviest[path] = reached + weights.get(path, 0), length + 1
                before[path] = best
        path = max(heaviest, key=heaviest.__getitem__, default=None)
        chain: list[str] = []
        while path is not None:
            chain.append(path)
            path = before[path]
        nodes = [p for p in reversed(chain) if p in self.spent]
        return Chain(tuple(nodes), total(self.spent[p].macs for p in nodes))


_FREE = _Spent()


def _number(dim: Dim) -> int:
    """The dimension with every symbol at `REFERENCE`, for comparisons only."""
    value = substitute(dim, dict.fromkeys(symbols(dim), REFERENCE))
    assert isinstance(value, int)
    return value


def _owners(graph: Graph, measure: _Measure) -> Iterator[tuple[str, Parameter]]:
    """Every parameter of the phase with the path of the row it counts in: its first reader, or its own scope."""
    first: dict[str, str] = {}
    elsewhere: set[str] = set()
    for path, node in graph.nodes.items():
        live = path in measure.live
        if live or node.phase not in ("both", measure.phase):
            for ref in node.inputs:
                if isinstance(ref, ParameterRef):
                    first.setdefault(ref.parameter, path) if live else elsewhere.add(ref.parameter)
    for path, parameter in graph.parameters.items():
        if path in first or path not in elsewhere:
            yield first.get(path) or path.rpartition(".")[0], parameter


class _Tree:
    """The rows by path, each under the path above it: what is counted in each itself, as in `_COUNTS`."""

    def __init__(self) -> None:
        self.counts: dict[str, list[Dim]] = {"": [0] * len(_COUNTS)}
        self.parts: dict[str, list[str]] = {}
        self.peaks: dict[str, tuple[int, Dim]] = {}

    def at(self, path: str) -> list[Dim]:
        found = self.counts.get(path)
        if found is None:
            above = path.rpartition(".")[0]
            self.at(above)
            self.parts.setdefault(above, []).append(path)
            found = self.counts[path] = [0] * len(_COUNTS)
        return found

    def order(self) -> list[str]:
        """Paths, each before its parts."""
        ordered: list[str] = []
        waiting = [""]
        while waiting:
            path = waiting.pop()
            ordered.append(path)
            waiting.extend(reversed(self.parts.get(path, ())))
        return ordered


def _rows(graph: Graph, measure: _Measure) -> tuple[Row, ...]:
    tree = _Tree()
    for path, spent in measure.spent.items():
        tree.at(path)[4:] = spent.macs, spent.other, spent.activations
    for path, parameter in _owners(graph, measure):
        _, size, stored = measure.size(parameter.type)
        counts = (0, 0, size) if parameter.buffer else (size, size if parameter.trainable else 0, 0)
        own = tree.at(path)
        own[:4] = [known + new for known, new in zip(own, (*counts, stored), strict=False)]
    made: dict[str, Row] = {}
    order = tree.order()
    for path in reversed(order):
        made[path] = _row(graph, measure, tree, path, [made[p] for p in tree.parts.get(path, ())])
    return tuple([made[path] for path in order])


def _row(graph: Graph, measure: _Measure, tree: _Tree, path: str, parts: list[Row]) -> Row:
    node = graph.nodes[path] if path in measure.spent else None
    peaks = [measure.peaks[name] for name in ([path] if node else [] if path else graph.inputs)]
    nodes = 1 if node else 0
    kind = node.op.name if node else graph.scopes[path].module if path in graph.scopes else ""
    if parts:
        nodes += sum([part.nodes for part in parts])
        peaks.extend([tree.peaks[part.path] for part in parts])
        columns = zip(tree.counts[path], *[tree.counts[part.path] for part in parts], strict=True)
        tree.counts[path] = [total(column) for column in columns]
    tree.peaks[path] = max(peaks, key=itemgetter(0), default=(0, 0))
    output = () if node is None else measure.bound(node.types)
    counts: dict[str, Any] = dict(zip(_COUNTS, tree.counts[path], strict=True))
    return Row(path, kind, nodes, peak=tree.peaks[path][1], output=output, **counts)
