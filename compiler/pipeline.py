"""Passes in order: their needs checked, each verified, timed and, where asked for, measured against its contract."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from . import tree as t
from .contract import Contract
from .diagnostic import Diagnostic, Label, NetcError, nearest
from .graph import Graph, GraphError, verify
from .operators.operator import ShapeError
from .options import read_options
from .passes.register import Pass
from .source import Span
from .text import literal


@dataclass(frozen=True, slots=True)
class Measurement:
    """How far two graphs were apart on the same inputs: the largest differences over all probes and outputs.

    `relative` is the absolute difference divided by the largest magnitude of the reference's output. `worst` names the
    output.
    """

    contract: Contract
    probes: int
    absolute: float
    relative: float
    worst: str

    @property
    def kept(self) -> bool:
        """Whether the contract holds. A difference that is NaN breaks every promise."""
        return self.contract.tolerance is None or self.relative <= self.contract.tolerance


@dataclass(frozen=True, slots=True)
class Step:
    """A pass with its options; `span` is where it was asked for."""

    run: Pass
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    span: Span | None = None

    def __str__(self) -> str:
        options = ", ".join(f"{name} = {literal(value)}" for name, value in self.options.items())
        return f"{self.run.name}({options})" if options else self.run.name


@dataclass(frozen=True, slots=True)
class Stage:
    """What one step did. `before is after` where it changed nothing. `seconds` are of wall time."""

    step: Step
    before: Graph
    after: Graph
    seconds: float
    measurement: Measurement | None = None

    @property
    def changed(self) -> bool:
        return self.before is not self.after

    def data(self) -> dict[str, Any]:
        """What a manifest keeps of a stage."""
        found = self.measurement
        measured = found and {"probes": found.probes, "absolute": found.absolute, "relative": found.relative}
        nodes = [len(self.before.nodes), len(self.after.nodes)]
        return {"pass": str(self.step), "contract": str(self.step.run.contract), "nodes": nodes, "measured": measured}


@dataclass(frozen=True, slots=True)
class Trace:
    """A model on its way through a pipeline; `facts` hold at its end.

    `end` is given where it is not what the last stage made: weights may be loaded between passes and after them.
    """

    start: Graph
    stages: tuple[Stage, ...] = ()
    facts: frozenset[str] = frozenset()
    end: Graph | None = None

    @property
    def final(self) -> Graph:
        if self.end is not None:
            return self.end
        return self.stages[-1].after if self.stages else self.start

    def table(self) -> list[tuple[str, str, int, int, str]]:
        """A row a stage: the step, its contract and difference, nodes before and after, milliseconds."""
        return [
            (str(s.step), _kept(s), len(s.before.nodes), len(s.after.nodes), f"{1e3 * s.seconds:.1f} ms")
            for s in self.stages
        ]


def _kept(stage: Stage) -> str:
    contract, found = stage.step.run.contract, stage.measurement
    return str(contract) if found is None else f"{contract}: {found.relative:.1e}"


Check = Callable[[Graph, Graph, Contract], Measurement]
"""Measures two graphs against a contract; see `netc.compiler.measure`."""


class Failure(NetcError):
    """A pass that crashed, made a graph that does not verify, or broke its contract: which, and what it was given."""

    def __init__(self, diagnostic: Diagnostic, step: Step, before: Graph) -> None:
        super().__init__([diagnostic])
        self.step = step
        self.before = before


def run(
    graph: Graph, steps: Iterable[Step], *, facts: frozenset[str] = frozenset(), check: Check | None = None
) -> Trace:
    """Run passes in order, each verified, timed and (with `check`) measured against its contract.

    Raises:
        NetcError: where a pass needs a fact that does not hold, before any pass runs.
        Failure: where a pass fails.
    """
    steps = tuple(steps)
    check_order(steps, facts)
    stages: list[Stage] = []
    current = graph
    for step in steps:
        stage = _stage(current, step, check)
        stages.append(stage)
        current = stage.after
        facts |= step.run.facts(step.options, current)
    return Trace(graph, tuple(stages), facts)


def check_order(steps: Sequence[Step], facts: frozenset[str]) -> None:
    """Whether what every step needs holds when its turn comes.

    Raises:
        NetcError: with each need that is not met, and what would meet it.
    """
    problems: list[Diagnostic] = []
    for step in steps:
        for need in sorted(step.run.needs - facts):
            labels = (Label(step.span),) if step.span is not None else ()
            message = f"{step.run.name} needs a graph of which the fact `{need}` holds"
            giver = _GIVERS.get(need)
            notes = (f"facts that hold here: {', '.join(sorted(facts)) or 'none'}",)
            problems.append(Diagnostic("pass-order", message, labels, notes, giver and f"{giver} before it"))
        given = step.run.facts(step.options)
        for fact in sorted(f for f in given if _OPPOSITE.get(f) in facts):
            labels = (Label(step.span),) if step.span is not None else ()
            message = (
                f"{step} would keep what is of {fact}, which an earlier pass left out: `{_OPPOSITE[fact]}` holds here"
            )
            problems.append(Diagnostic("pass-order", message, labels, fix="run it on the model as it is written"))
        facts |= given
    if problems:
        raise NetcError(problems)


_GIVERS = {"inference": 'strip_phase(keep = "infer")', "training": 'strip_phase(keep = "train")', "static": "bind"}
_OPPOSITE = {"inference": "training", "training": "inference"}
"""Facts that cannot both hold."""


def _stage(before: Graph, step: Step, check: Check | None) -> Stage:
    start = time.perf_counter()
    try:
        after = step.run.run(before, **step.options)
        seconds = time.perf_counter() - start
        if after is not before:
            verify(after)
    except NetcError:
        raise
    except (GraphError, ShapeError) as error:
        raise _failure(f"{step} made a graph that does not verify: {error}", step, before) from error
    except Exception as error:
        raise _failure(f"{step} crashed: {type(error).__name__}: {error}", step, before) from error
    contract = step.run.contract
    if check is None or after is before or contract.tolerance is None:
        return Stage(step, before, after, seconds)
    found = check(before, after, contract)
    if not found.kept:
        raise _failure(
            f"{step} broke its contract {contract}: {found.worst} differs by {found.absolute:.3g}"
            f" ({found.relative:.3g} relative; {contract.tolerance:g} is allowed)",
            step,
            before,
        )
    return Stage(step, before, after, seconds, found)


def _failure(message: str, step: Step, before: Graph) -> Failure:
    labels = (Label(step.span),) if step.span is not None else ()
    return Failure(Diagnostic("pass-failed", message, labels), step, before)


# ---------------------------------------------------------------------------------------------------- reading steps

Find = Callable[[t.Name], "Pass | tuple[Step, ...] | None"]
"""What a name stands for among passes: one pass, a pipeline of several, or nothing."""


def read_steps(
    e: t.Expr, find: Find, names: Callable[[], list[str]], constant: Callable[[t.Expr], Any]
) -> tuple[Step, ...]:
    """The steps of `strip_phase(keep = "infer") |> fold |> eliminate_dead`.

    Raises:
        NetcError: for a name that is no pass, and for options it does not take.
    """
    if isinstance(e, t.Pipe):
        return (
            *read_steps(e.value, find, names, constant),
            *read_steps(e.stage, find, names, constant),
        )
    function = e.function if isinstance(e, t.Call) else e
    arguments = e.arguments if isinstance(e, t.Call) else ()
    found = find(function) if isinstance(function, t.Name) else None
    if found is None:
        text = function.span.text
        diagnostic = Diagnostic("unknown-pass", f"there is no pass {text}", (Label(function.span),))
        raise NetcError(
            [
                replace(
                    diagnostic,
                    notes=("`netc passes` lists them, `netc transforms` what is done to models",),
                    fix=nearest(text, names()),
                )
            ]
        )
    if isinstance(found, tuple):
        if arguments:
            message = f"{function.span.text} is a pipeline, which takes no options"
            raise NetcError([Diagnostic("pass-option", message, (Label(arguments[0].span),))])
        return found
    return (_step(found, arguments, e.span, constant),)


def _step(found: Pass, arguments: Sequence[t.Argument], span: Span, constant: Callable[[t.Expr], Any]) -> Step:
    """A pass with the options of a call.

    Raises:
        NetcError: for options it does not take.
    """
    given = read_options(found.name, "pass-option", found.options, arguments, span, lambda value, _: constant(value))
    return Step(found, given, span)
