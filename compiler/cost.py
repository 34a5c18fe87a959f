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

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .diagnostic import Diagnostic, NetcError, nearest
from .graph import Graph, Input, Node, Parameter, ParameterRef, Ref, SelectPhase, Value
from .operators.operator import Cost, Operator
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
    free = _symbols(graph)
    _check(bind, free)
    measure = _Measure(graph, phase, {**dict.fromkeys(free, REFERENCE), **bind})
    rows = [_bound(row, bind) for row in _rows(graph, measure)]
    longest, heaviest = measure.chain(lambda _: 1), measure.chain(lambda spent: spent.macs)
    return Report(
        graph.name,
        phase,
        tuple(rows),
        substitute(total(s.macs for s in measure.spent.values() if not s.varies), bind),
        measure.peak_at,
        replace(longest, macs=substitute(longest.macs, bind)),
        replace(heaviest, macs=substitute(heaviest.macs, bind)),
        bind,
    )


def _symbols(graph: Graph) -> frozenset[str]:
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


def _bound(row: Row, bind: Mapping[str, int]) -> Row:
    if not bind:
        return row
    counts: dict[str, Any] = {name: substitute(getattr(row, name), bind) for name in (*_COUNTS, "peak")}
    return replace(row, output=tuple(t.substitute(bind) for t in row.output), **counts)


def _live(graph: Graph, phase: Literal["train", "infer"]) -> dict[str, Node]:
    """The nodes that an output needs in this phase, in the graph's order, and all inputs."""
    waiting: list[Ref | None] = list(graph.outputs.values())
    found = set(graph.inputs)
    while waiting:
        ref = waiting.pop()
        if isinstance(ref, Value) and ref.node not in found and graph.nodes[ref.node].phase in ("both", phase):
            found.add(ref.node)
            waiting.extend(_reads(graph.nodes[ref.node], phase))
    return {path: node for path, node in graph.nodes.items() if path in found}


def _reads(node: Node, phase: Literal["train", "infer"]) -> Iterator[Ref]:
    """What a node reads in this phase."""
    if isinstance(node.op, SelectPhase):
        kept = node.inputs[0 if phase == "train" else 1]
        return iter(() if kept is None else (kept,))
    return node.refs


def _is_view(node: Node, phase: Literal["train", "infer"]) -> bool:
    return node.op.name in VIEWS or (phase == "infer" and node.op.effect == "random")


@dataclass(slots=True)
class _Spent:
    """The costs of one node."""

    macs: Dim = 0
    other: Dim = 0
    activations: Dim = 0
    varies: bool = True
    """Whether it depends on an input."""
    peak: Dim = 0
    """Bytes alive while it runs."""


class _Measure:
    """The costs of the nodes of one phase. `reference` gives every symbol a number, for comparisons only."""

    def __init__(self, graph: Graph, phase: Literal["train", "infer"], reference: Mapping[str, int]) -> None:
        self.graph = graph
        self.phase: Literal["train", "infer"] = phase
        self.live = _live(graph, phase)
        self._reference = reference
        self._numbers: dict[Dim, int] = {}
        self._bytes: dict[TensorType, Dim] = {}
        self._negative: dict[Dim, Dim] = {}
        self._costs: dict[tuple[Operator, tuple[TensorType | None, ...]], Cost] = {}
        self.spent: dict[str, _Spent] = {}
        for path, node in self.live.items():
            self.spent[path] = self._spent(node)
        self.peak_at = self._schedule()

    def number(self, dim: Dim) -> int:
        """The dimension with every symbol at its reference."""
        if isinstance(dim, int):
            return dim
        found = self._numbers.get(dim)
        if found is None:
            value = substitute(dim, self._reference)
            assert isinstance(value, int)
            found = self._numbers[dim] = value
        return found

    def bytes(self, type: TensorType) -> Dim:
        """The type's bytes, computed once: most values have one of a few types."""
        found = self._bytes.get(type)
        if found is None:
            found = self._bytes[type] = type.bytes
        return found

    def _spent(self, node: Node) -> _Spent:
        if isinstance(node.op, Input):
            return _Spent()
        varies = any(isinstance(r, Value) and self.spent[r.node].varies for r in _reads(node, self.phase))
        if _is_view(node, self.phase):
            return _Spent(varies=varies)
        own = self._cost(node)
        return _Spent(own.macs, own.flops, total(self.bytes(t) for t in node.types), varies)

    def _cost(self, node: Node) -> Cost:
        """The operator's own count, computed once for equal operators of equal types: networks repeat themselves."""
        key = node.op, self.graph.input_types(node)
        found = self._costs.get(key)
        if found is None:
            found = self._costs[key] = node.op.cost(key[1], node.types)
        return found

    def _memory(self) -> dict[Value, Value | None]:
        """The value in whose memory each value lies: itself, or what it is a view of (None: a parameter)."""
        memory: dict[Value, Value | None] = {}
        for node in self.live.values():
            if _is_view(node, self.phase):
                source = next(_reads(node, self.phase))
                memory[node.value] = memory[source] if isinstance(source, Value) else None
            else:
                memory.update((v, v) for v in node.values)
        return memory

    def _freed(self, memory: Mapping[Value, Value | None]) -> dict[str, list[Value]]:
        """By node: the values that are dead once it has run."""
        last: dict[Value, str] = {}
        for path, node in self.live.items():
            for value in node.values:
                if memory.get(value) == value:
                    last[value] = path
            for ref in _reads(node, self.phase):
                held = memory[ref] if isinstance(ref, Value) else None
                if held is not None:
                    last[held] = path
        kept = {memory.get(r) for r in self.graph.outputs.values() if isinstance(r, Value)}
        freed: dict[str, list[Value]] = {}
        for value, path in last.items():
            if value not in kept and not isinstance(self.live[value.node].op, Input):
                freed.setdefault(path, []).append(value)
        return freed

    def _schedule(self) -> str:
        """Run the nodes in order and note what is alive at each. Returns the node where it is most."""
        memory = self._memory()
        freed = self._freed(memory)
        most, where = -1, ""
        alive: Dim = 0
        change: list[Dim] = []
        sums: dict[tuple[Dim, ...], Dim] = {}
        for path, node in self.live.items():
            change.extend(self.bytes(t) for v, t in zip(node.values, node.types, strict=True) if memory.get(v) == v)
            key = (alive, *change)
            alive = sums[key] if key in sums else sums.setdefault(key, total(key))
            self.spent[path].peak = alive
            if self.number(alive) > most:
                most, where = self.number(alive), path
            change = [self._released(v) for v in freed.get(path, ())]
        return where

    def _released(self, value: Value) -> Dim:
        size = self.bytes(self.live[value.node].types[value.index])
        found = self._negative.get(size)
        if found is None:
            found = self._negative[size] = -size
        return found

    def chain(self, weight: Callable[[_Spent], Dim]) -> Chain:
        """The heaviest chain from an input, each node weighing `weight`; of equals the one of more nodes."""
        heaviest: dict[str, tuple[int, int]] = {}
        before: dict[str, str | None] = {}
        for path, node in self.live.items():
            if not self.spent[path].varies:
                continue
            sources = [r.node for r in _reads(node, self.phase) if isinstance(r, Value) and r.node in heaviest]
            best = max(sources, key=heaviest.__getitem__, default=None)
            reached, length = heaviest[best] if best else (0, 0)
            heaviest[path] = reached + self.number(weight(self.spent[path])), length + 1
            before[path] = best
        path = max(heaviest, key=heaviest.__getitem__, default=None)
        chain: list[str] = []
        while path is not None:
            if not isinstance(self.live[path].op, Input):
                chain.append(path)
            path = before[path]
        return Chain(tuple(reversed(chain)), total(self.spent[p].macs for p in chain))


def _owners(graph: Graph, measure: _Measure) -> Iterator[tuple[str, Parameter]]:
    """Every parameter of the phase with the path of the row it counts in: its first reader, or its own scope."""
    first: dict[str, str] = {}
    elsewhere: set[str] = set()
    for path, node in graph.nodes.items():
        for ref in node.refs:
            if isinstance(ref, ParameterRef) and path in measure.live:
                first.setdefault(ref.parameter, path)
            elif isinstance(ref, ParameterRef) and node.phase not in ("both", measure.phase):
                elsewhere.add(ref.parameter)
    for path, parameter in graph.parameters.items():
        if path in first or path not in elsewhere:
            yield first.get(path) or path.rpartition(".")[0], parameter


@dataclass(slots=True)
class _Tally:
    """What is counted in one row, before the rows below are added."""

    nodes: int = 0
    peak: Dim = 0
    counts: dict[str, list[Dim]] = field(default_factory=dict[str, "list[Dim]"])
    parts: list[str] = field(default_factory=list[str])

    def add(self, **counts: Dim) -> None:
        for name, count in counts.items():
            if count != 0:
                self.counts.setdefault(name, []).append(count)


class _Tree:
    """The rows by path, each under the path above it."""

    def __init__(self) -> None:
        self.rows: dict[str, _Tally] = {"": _Tally()}

    def at(self, path: str) -> _Tally:
        found = self.rows.get(path)
        if found is None:
            found = _Tally()
            self.at(path.rpartition(".")[0]).parts.append(path)
            self.rows[path] = found
        return found

    def order(self) -> list[str]:
        """Paths, each before its parts."""
        ordered: list[str] = []
        waiting = [""]
        while waiting:
            path = waiting.pop()
            ordered.append(path)
            waiting.extend(reversed(self.rows[path].parts))
        return ordered


def _rows(graph: Graph, measure: _Measure) -> list[Row]:
    tree = _Tree()
    for path, node in measure.live.items():
        spent = measure.spent[path]
        if isinstance(node.op, Input):
            tree.at("").peak = max(tree.at("").peak, spent.peak, key=measure.number)
            continue
        tally = tree.at(path)
        tally.nodes += 1
        tally.peak = spent.peak
        tally.add(macs=spent.macs, other=spent.other, activations=spent.activations)
    for path, parameter in _owners(graph, measure):
        size = parameter.type.elements
        own: Dim = 0 if parameter.buffer else size
        tree.at(path).add(
            parameters=own,
            trainable=own if parameter.trainable else 0,
            buffers=size if parameter.buffer else 0,
            weight_bytes=parameter.type.bytes,
        )
    made: dict[str, Row] = {}
    order = tree.order()
    for path in reversed(order):
        made[path] = _row(graph, measure, path, tree.rows[path], [made[p] for p in tree.rows[path].parts])
    return [made[path] for path in order]


def _row(graph: Graph, measure: _Measure, path: str, tally: _Tally, parts: list[Row]) -> Row:
    counts: dict[str, Any] = {name: total(own) for name, own in tally.counts.items()}
    for name in _COUNTS if parts else ():
        counts[name] = total([counts.get(name, 0), *[getattr(part, name) for part in parts]])
    node = measure.live.get(path)
    scope = graph.scopes.get(path)
    return Row(
        path,
        node.op.name if node else scope.module if scope else "",
        tally.nodes + sum(part.nodes for part in parts),
        peak=max([tally.peak, *(part.peak for part in parts)], key=measure.number) if parts else tally.peak,
        output=node.types if node else (),
        **counts,
    )
