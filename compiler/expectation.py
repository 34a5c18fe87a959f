"""Compare what a spec expects of a model with what the compiler computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .cost import Report
from .diagnostic import Diagnostic, Label, nearest
from .model import Model
from .program import Expectation
from .types import Dim, substitute

FACTS: dict[str, Callable[[Report, Model], Dim]] = {
    "params": lambda report, model: report.parameters,
    "macs": lambda report, model: report.macs,
    "nodes": lambda report, model: len(model.graph.nodes),
}
"""What an `expect` block can hold: unique parameters, multiply-accumulates, nodes."""


def facts(model: Model, bind: Mapping[str, int]) -> dict[str, Dim]:
    """The numbers of a model by their names in `expect`, symbols replaced by `bind`."""
    report = model.cost(bind)
    return {name: substitute(fact(report, model), bind) for name, fact in FACTS.items()}


def compare(expectation: Expectation, model: Model) -> list[Diagnostic]:
    """One diagnostic for every expected number that is another, and for every name that is no fact."""
    found: list[Diagnostic] = []
    known = facts(model, expectation.bind)
    for name, given in expectation.entries.items():
        if name not in known:
            notes = (f"facts: {', '.join(FACTS)}",)
            message = f"there is no fact {name}"
            found.append(Diagnostic("unknown-fact", message, (Label(given.span),), notes, nearest(name, FACTS)))
        elif not _agrees(known[name], given.value):
            message = f"{expectation.model} is expected to have {name} = {given.value}, but it is {known[name]}"
            found.append(Diagnostic("expectation", message, (Label(given.span),)))
    return found


def _agrees(actual: Dim, expected: Any) -> bool:
    return actual == expected
