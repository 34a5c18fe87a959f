"""Whether two graphs are the same function: run on the same probes, and held to what a contract promises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from .backend import backend
from .contract import Contract
from .diagnostic import NetcError
from .difference import apart
from .graph import Graph, Parameter, ParameterRef
from .passes.widen import widen
from .pipeline import Measurement
from .probe import bound, inputs, probed
from .types import Expression, Shape, symbols

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

Phase = Literal["train", "infer"]

_Run = tuple[dict[str, "Array"], dict[str, "Array"]]
"""Inputs, and the outputs for them."""

_DRAWS = 4
"""So many inputs are tried for one that gives a finite number everywhere."""


def measure(
    before: Graph,
    after: Graph,
    contract: Contract,
    *,
    probes: int = 3,
    seed: int = 0,
    bind: Mapping[str, int] | None = None,
    phase: Phase | None = None,
) -> Measurement:
    """How far `after` is from `before` on seeded inputs, in one phase: inference, where that has outputs.

    `before` is computed in float64, and `after` too unless the contract is `approx`: then in its own precision. Both
    have the same parameters. What `before` has no data for is probed (`netc.compiler.probe`). A parameter that only
    `after` has must carry data. `bind` gives symbols numbers; others get small ones.

    Inputs or outputs that differ in name, shape or dtype, and parameters whose numbers nobody knows, count as
    infinitely different; `worst` then says what is wrong. So do NaN and infinities that one side has alone, as NaN.

    Raises:
        NetcError: where `before` cannot be computed: its symbols find no numbers, an operator has no rule.
    """
    return Meter(probes=probes, seed=seed, bind=bind, phase=phase)(before, after, contract)


class Meter:
    """`measure` for one pair of graphs after another, as a pipeline makes them: what the last pair's `after` gave is
    not computed again where it comes next as `before`."""

    def __init__(
        self, *, probes: int = 3, seed: int = 0, bind: Mapping[str, int] | None = None, phase: Phase | None = None
    ) -> None:
        self._probes = probes
        self._seed = seed
        self._bind = dict(bind or {})
        self._phase: Phase | None = phase
        self._last: tuple[Graph, Phase, Graph, list[_Run]] | None = None
        """A graph as given, the phase, the graph as computed, and what it gave."""

    def __call__(self, before: Graph, after: Graph, contract: Contract) -> Measurement:
        """See `measure`."""
        start, end = probed(before, self._seed), after
        after, unknown = _given(start, after)
        problem = unknown or _interfaces(start, after)
        if problem:
            return Measurement(contract, 0, inf, inf, problem)
        chosen, after, problem = _same_sizes(start, after, {**_fixed(start, after), **self._bind}, contract)
        if problem:
            return Measurement(contract, 0, inf, inf, problem)
        phase = self._phase or _phase(chosen)
        wide = contract.kind != "approx"
        candidate = backend("pytorch").Interpreter(widen(after, narrow=True) if wide else after, phase)
        expected = self._runs(before, chosen, phase)
        missing = [name for name in expected[0][1] if name not in candidate.outputs]
        if missing:
            return Measurement(contract, 0, inf, inf, f"{missing[0]}, which has no value in {_PHASES[phase]} any more,")
        found = Measurement(contract, self._probes, 0.0, 0.0, next(iter(expected[0][1]), ""))
        runs: list[_Run] = []
        for given, outputs in expected:
            got = candidate(_suited(given, after, widened=wide))
            runs.append((given, got))
            for name, a in outputs.items():
                found = _further(found, *_difference(contract, a, got[name]), name)
        complete = all(p.data is not None for p in end.parameters.values())
        self._last = (end, phase, after, runs) if wide and complete else None
        return found

    def _runs(self, before: Graph, chosen: Graph, phase: Phase) -> list[_Run]:
        """The probes, and what the graph before gives for them."""
        if self._last:
            graph, known, computed, runs = self._last
            if graph is before and known == phase and computed.inputs == chosen.inputs:
                return runs
        reference = backend("pytorch").Interpreter(widen(chosen, narrow=True), phase)
        return [_probe(chosen, reference, self._seed + number * _DRAWS) for number in range(self._probes)]


_PHASES = {"train": "training", "infer": "inference"}


def _further(found: Measurement, absolute: float, relative: float, worst: str) -> Measurement:
    """The larger of two differences; NaN is the largest."""
    if relative > found.relative or (relative != relative and found.relative == found.relative):
        found = replace(found, relative=relative, worst=worst)
    if absolute > found.absolute or absolute != absolute:
        found = replace(found, absolute=absolute)
    return found


# ---------------------------------------------------------------------------------------------------- both sides alike


def _given(before: Graph, after: Graph) -> tuple[Graph, str]:
    """`after` with the numbers of `before`, and what is wrong with its parameters."""
    changed: list[Parameter] = []
    for path, parameter in after.parameters.items():
        if parameter.data is None and ParameterRef(path) in after.users:
            old = before.parameters.get(path)
            if old is None or old.type != parameter.type:
                return after, f"the parameter {path}, which is new and has no data computed from others,"
            changed.append(replace(parameter, data=old.data))
    return after.with_parameters(changed) if changed else after, ""


def _interfaces(before: Graph, after: Graph) -> str:
    """Names of inputs and outputs that only one of the graphs has, in words."""
    for kind, old, new in (("input", before.inputs, after.inputs), ("output", before.outputs, after.outputs)):
        gone = [n for n in old if n not in new and not (kind == "output" and _of_training(before, n))]
        added = [n for n in new if n not in old and kind == "input"]
        if gone:
            return f"the {kind} {gone[0]}, which is missing afterwards,"
        if added:
            return f"the {kind} {added[0]}, which is new,"
    return ""


def _of_training(graph: Graph, output: str) -> bool:
    ref = graph.outputs[output]
    return not isinstance(ref, ParameterRef) and graph.nodes[ref.node].phase == "train"


def _fixed(before: Graph, after: Graph) -> dict[str, int]:
    """Numbers that symbols of `before` have in the inputs of `after`."""
    pairs = [(node.types[0].shape, after.inputs[n].types[0].shape) for n, node in before.inputs.items()]
    return {
        str(old): new
        for a, b in pairs
        for old, new in zip(a, b, strict=False)
        if isinstance(old, Expression) and str(old) in symbols(old) and isinstance(new, int)
    }


def _same_sizes(before: Graph, after: Graph, sizes: Mapping[str, int], contract: Contract) -> tuple[Graph, Graph, str]:
    """Both graphs with the same numbers for symbols; and which input or output differs in type, in words."""
    chosen = bound(before, sizes, int(contract.bound) if contract.kind == "delayed" else 0)
    known = {
        str(old): new
        for name, node in before.inputs.items()
        for old, new in zip(node.types[0].shape, chosen.inputs[name].types[0].shape, strict=True)
        if isinstance(old, Expression) and isinstance(new, int)
    }
    try:
        other = bound(after, {**known, **sizes})
    except NetcError as error:
        return chosen, after, f"the model, which does not take {known} any more ({error.diagnostics[0].message}),"
    for name, node in chosen.inputs.items():
        if node.types != other.inputs[name].types:
            return chosen, other, f"the input {name}, which was {node.types[0]} and is {other.inputs[name].types[0]},"
    for name, ref in chosen.outputs.items():
        if name in other.outputs and chosen.type(ref) != other.type(other.outputs[name]):
            return chosen, other, f"{name}, which was {chosen.type(ref)} and is {other.type(other.outputs[name])},"
        if contract.kind == "delayed" and not _has_steps(chosen.type(ref).shape, contract.bound):
            return chosen, other, f"{name}, which is {chosen.type(ref)} and has no {contract.bound:g} steps to wait,"
    return chosen, other, ""


def _has_steps(shape: Shape, steps: float) -> bool:
    return len(shape) > 1 and isinstance(shape[1], int) and shape[1] > steps


def _phase(graph: Graph) -> Phase:
    return "train" if all(_of_training(graph, name) for name in graph.outputs) else "infer"


# ---------------------------------------------------------------------------------------------------- numbers


def _probe(graph: Graph, reference: Any, seed: int) -> _Run:
    """Inputs and what the reference gives for them; those of the most finite outputs of a few draws."""
    import numpy

    best: tuple[int, dict[str, Array], dict[str, Array]] | None = None
    for attempt in range(_DRAWS):
        given = inputs(graph, seed + attempt)
        found = reference(_suited(given, graph, widened=True))
        lost = sum(int((~numpy.isfinite(a)).sum()) for a in found.values() if a.dtype.kind == "f")
        if best is None or lost < best[0]:
            best = lost, given, found
        if not lost:
            break
    assert best
    return best[1:]


def _suited(given: Mapping[str, Array], graph: Graph, *, widened: bool) -> dict[str, Array]:
    """Inputs in the dtypes of the graph, or in those of the widened graph."""
    return {
        name: a.astype("float64") if widened and graph.inputs[name].types[0].dtype.is_float else a
        for name, a in given.items()
    }


def _difference(contract: Contract, expected: Array, got: Array) -> tuple[float, float]:
    """As `apart`, of what the contract says is to be equal."""
    if contract.kind == "delayed":
        steps = int(contract.bound)
        expected, got = expected[:, : expected.shape[1] - steps], got[:, steps:]
    return apart(expected, got)
