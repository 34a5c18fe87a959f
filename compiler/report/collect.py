"""What the page shows, as JSON-ready data: each node, parameter and scope of all stages once, stages as runs of them.

Strings are interned, since paths, types and attributes repeat; a stage that changes ten nodes of ten thousand costs a
few numbers. A reference is the number of its path in `strings`, or a pair with the output's index; `-1 - number` is a
parameter, `null` an absent operand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from ..cost import Report, Row, assumed, cost
from ..graph import Graph, Input, Node, Parameter, ParameterRef, Ref, Scope
from ..operators.operator import Operator
from ..pipeline import Measurement, Stage, Trace
from ..source import Source, Span
from ..text import literal
from ..types import TensorType

_PHASES = {"both": 0, "train": 1, "infer": 2}
_LONGEST = 2000
"""Characters of an attribute that are shown: a constant may hold a million numbers."""
_Json = int | str | None | list[Any]


def collect(
    trace: Trace,
    bind: Mapping[str, int] | None = None,
    phase: Literal["train", "infer"] = "infer",
    origins: Iterable[Span | None] = (),
) -> dict[str, Any]:
    """The data of a trace. Costs are numbers: a free symbol is 1 where it is some input's first dimension (the batch),
    else `REFERENCE`; `bind` says otherwise. `origins` are further spans, whose numbers the data has in their order.

    Raises:
        NetcError: where `bind` names no symbol of the model (`bind`).
    """
    return _Collector(dict(bind or {}), phase).data(trace, origins)


class _Pool:
    """Records, each stored once. What is pooled must outlive the pool, since it is known by identity."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self._numbers: dict[Any, int] = {}

    def number(self, key: Any, make: Callable[[], Any]) -> int:
        found = self._numbers.get(key)
        if found is None:
            record = make()
            found = self._numbers[key] = len(self.records)
            self.records.append(record)
        return found


class _Collector:
    def __init__(self, bind: Mapping[str, int], phase: Literal["train", "infer"]) -> None:
        self._bind = bind
        self._phase: Literal["train", "infer"] = phase
        self._strings, self._sources, self._spans = _Pool(), _Pool(), _Pool()
        self._nodes, self._parameters, self._scopes = _Pool(), _Pool(), _Pool()
        self._operators: dict[str, list[str]] = {}
        self._numbers: dict[str, int] = {}
        """Of each node of the latest stage, its record."""

    def data(self, trace: Trace, origins: Iterable[Span | None]) -> dict[str, Any]:
        assumptions = {**assumed(trace.start), **self._bind}
        report = cost(trace.start, assumptions, self._phase)
        stages = [self._graph(trace.start, report)]
        for stage in trace.stages:
            stages.append(self._stage(stage, assumptions))
        further = [None if span is None else self._origin([span])[0] for span in origins]
        return {
            "model": trace.start.name,
            "phase": self._phase,
            "bind": assumptions,
            "operators": self._operators,
            "strings": self._strings.records,
            "sources": self._sources.records,
            "spans": self._spans.records,
            "nodes": self._nodes.records,
            "parameters": self._parameters.records,
            "scopes": self._scopes.records,
            "stages": stages,
            "origins": further,
        }

    # -- stages

    def _stage(self, stage: Stage, assumptions: Mapping[str, int]) -> dict[str, Any]:
        run = stage.step.run
        told: dict[str, Any] = {
            "name": str(stage.step),
            "doc": run.doc.partition("\n\n")[0].replace("\n", " "),
            "contract": str(run.contract),
            "ms": round(1000 * stage.seconds, 2),
            "measured": None if stage.measurement is None else _measured(stage.measurement),
        }
        if not stage.changed:
            return told
        before = self._numbers
        known = assumed(stage.after)
        report = cost(stage.after, {name: assumptions.get(name, number) for name, number in known.items()}, self._phase)
        told |= self._graph(stage.after, report)
        old, new = stage.before.nodes, stage.after.nodes
        told["changed"] = [self._string(p) for p, n in new.items() if p in old and old[p] is not n and old[p] != n]
        told["removed"] = [self._removal(stage.after, p, before[p]) for p in old if p not in new]
        return told

    def _removal(self, graph: Graph, path: str, record: int) -> list[_Json]:
        found = graph.removed.get(path)
        return [record, None if found is None or found.by is None else self._ref(found.by)]

    def _graph(self, graph: Graph, report: Report) -> dict[str, Any]:
        own = _own(graph, report)
        self._numbers = {path: self._node(node, own.get(path)) for path, node in graph.nodes.items()}
        return {
            "nodes": _runs(self._numbers.values()),
            "parameters": _runs(map(self._parameter, graph.parameters.values())),
            "scopes": _runs(map(self._scope, graph.scopes.values())),
            "outputs": [[name, self._ref(ref)] for name, ref in graph.outputs.items()],
            "taps": [[name, self._ref(ref)] for name, ref in graph.taps.items()],
            "total": [*_counts(report.total), report.total.peak],
        }

    # -- records

    def _node(self, node: Node, counts: tuple[int, ...] | None) -> int:
        return self._nodes.number((id(node), counts), lambda: self._node_record(node, counts))

    def _node_record(self, node: Node, counts: tuple[int, ...] | None) -> list[_Json]:
        op = node.op
        if op.name not in self._operators:
            family = "input" if isinstance(op, Input) else type(op).__module__.rpartition(".")[2]
            self._operators[op.name] = [family, " ".join(o.name + "*" * o.variadic for o in op.operands)]
        return [
            self._string(node.path),
            self._string(op.name),
            [None if i is None else self._ref(i) for i in node.inputs],
            [self._string(str(t)) for t in node.types],
            self._string("\n".join(_attributes(op))),
            self._origin(node.origin),
            _PHASES[node.phase],
            self._string(node.maker),
            None if counts is None else list(counts),
        ]

    def _parameter(self, parameter: Parameter) -> int:
        kind = "buffer" if parameter.buffer else "param" if parameter.trainable else "frozen param"
        return self._parameters.number(
            id(parameter),
            lambda: [
                self._string(parameter.path),
                self._string(str(parameter.type)),
                self._string(kind),
                self._string("loaded weights" if parameter.data is not None else str(parameter.initialiser)),
                self._origin(parameter.origin),
            ],
        )

    def _scope(self, scope: Scope) -> int:
        return self._scopes.number(
            id(scope),
            lambda: [*map(self._string, (scope.path, scope.module, scope.instance)), self._origin(scope.origin)],
        )

    def _string(self, text: str) -> int:
        return self._strings.number(text, lambda: text)

    def _ref(self, ref: Ref) -> int | list[int]:
        if isinstance(ref, ParameterRef):
            return -1 - self._string(ref.parameter)
        number = self._string(ref.node)
        return [number, ref.index] if ref.index else number

    def _origin(self, spans: Iterable[Span]) -> list[int]:
        return [self._spans.number((id(s.source), s.start, s.end), lambda s=s: self._span(s)) for s in spans]

    def _span(self, span: Span) -> list[int]:
        source = span.source
        number = self._sources.number(id(source), lambda: [source.name, source.text])
        return [number, _units(source, span.start), _units(source, span.end)]


def _units(source: Source, offset: int) -> int:
    """An offset in JavaScript's UTF-16 units."""
    return offset if source.text.isascii() else len(source.text[:offset].encode("utf-16-le")) // 2


def _own(graph: Graph, report: Report) -> dict[str, tuple[int, ...]]:
    """What each node costs itself: a row includes the rows below its path, which a pass may have put there."""
    own = {row.path: list(_counts(row)) for row in report.rows if row.path in graph.nodes}
    for row in report.rows:
        above = row.path.rpartition(".")[0]
        if row.path and above in own:
            own[above] = [whole - part for whole, part in zip(own[above], _counts(row), strict=True)]
    return {path: tuple(counts) for path, counts in own.items()}


def _counts(row: Row) -> tuple[int, ...]:
    """What the page sums up: MACs, other operations, bytes of activations, parameters, bytes of weights."""
    counts = (row.macs, row.other, row.activations, row.parameters, row.weight_bytes)
    return tuple(c for c in counts if isinstance(c, int))


def _measured(measurement: Measurement) -> list[Any]:
    """Differences as text: JSON has no NaN."""
    m = measurement
    return [m.kept, str(m.contract), m.probes, f"{m.absolute:.2g}", f"{m.relative:.2g}", m.worst]


def _attributes(op: Operator) -> Iterable[str]:
    for name, value in op.attributes().items():
        if isinstance(value, TensorType) or (value and isinstance(value, tuple) and isinstance(value[0], TensorType)):
            continue  # the node's own types
        text = literal(value)
        yield f"{name} = {text if len(text) <= _LONGEST else f'{text[:_LONGEST]}… ({len(text)} characters)'}"


def _runs(numbers: Iterable[int]) -> list[int]:
    """`7 8 9 3 4` → `7 3 3 2`: where each run of consecutive numbers starts, and how long it is."""
    runs: list[int] = []
    for number in numbers:
        if runs and number == runs[-2] + runs[-1]:
            runs[-1] += 1
        else:
            runs += [number, 1]
    return runs
