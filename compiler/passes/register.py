"""What makes a function from graph to graph a pass: its name and options, facts it needs and gives, its contract."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, create_model

from ..contract import Contract
from ..graph import Graph

EXACT = Contract()


Gives = frozenset[str] | Callable[[Mapping[str, Any], Graph | None], frozenset[str]]
"""Facts, or a function of a pass's options and of the graph it returned (None before it runs)."""


class NoOptions(BaseModel):
    """The options of a pass that has none."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Pass:
    """A registered pass. Its options are the keyword parameters of `run`, validated before it runs.

    `needs` are facts that must hold before it and `gives` those that hold after it: `inference` (the graph is one of
    inference alone), `static` (every dimension is a number).
    """

    name: str
    run: Callable[..., Graph]
    contract: Contract = EXACT
    needs: frozenset[str] = frozenset()
    gives: Gives = frozenset()
    options: type[BaseModel] = NoOptions
    doc: str = ""

    def facts(self, options: Mapping[str, Any], after: Graph | None = None) -> frozenset[str]:
        """The facts that hold after running with these options; those that depend on the result only with it."""
        return self.gives(options, after) if callable(self.gives) else self.gives


PASSES: dict[str, Pass] = {}
"""Every pass of the compiler by name; rules are passes too, and are found with the files that hold them."""

Function = TypeVar("Function", bound=Callable[..., Graph])


def graph_pass(
    *,
    contract: Contract | None = None,
    needs: frozenset[str] = frozenset(),
    gives: Gives = frozenset(),
) -> Callable[[Function], Function]:
    """Register a function as the pass of its name. Its first parameter is the graph, the others its options."""

    def register(function: Function) -> Function:
        name = function.__name__
        _, *parameters = inspect.signature(function, eval_str=True).parameters.values()
        fields: dict[str, Any] = {
            p.name: (p.annotation, ... if p.default is p.empty else p.default) for p in parameters
        }
        options = create_model(name, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=True), **fields)
        doc = inspect.getdoc(function) or ""
        PASSES[name] = Pass(name, function, contract or EXACT, needs, gives, options, doc)
        return function

    return register
