"""Passes in order: their needs checked, each verified, timed and, where asked for, measured against its contract."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from .contract import Contract
from .diagnostic import Diagnostic, Label, NetcError, nearest
from .graph import Graph, GraphError, verify
from .operators.operator import ShapeError
from .passes.register import PASSES, Pass
from .source import Span


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
        from .text import literal

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


@dataclass(frozen=True, slots=True)
class Trace:
    """A model on its way through a pipeline."""

    start: Graph
    stages: tuple[Stage, ...]

    @property
    def final(self) -> Graph:
        return self.stages[-1].after if self.stages else self.start


Check = Callable[[Graph, Graph, Contract], Measurement]
"""Measures two graphs against a contract; see `netc.compiler.measure`."""
