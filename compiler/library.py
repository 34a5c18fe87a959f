"""The passes that come with the compiler: those written in Python, and the rules of `rewrites/*.net`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any

from . import passes as _registered
from . import tree as t
from .contract import Contract
from .diagnostic import Diagnostic, NetcError
from .importer import read_imports
from .passes.register import PASSES, Pass
from .pipeline import Step
from .rewrite.apply import Rewriter
from .rewrite.pattern import Rule
from .rewrite.read import read_rule
from .scope import FileScope
from .source import Source, Span

assert _registered  # importing the passes fills PASSES

LEVELS: dict[int, tuple[str, ...]] = {
    0: ("strip_phase", "eliminate_dead"),
    1: ("strip_phase", "simplify", "simplify_joins", "eliminate_common", "fold_constants", "eliminate_dead"),
    2: (
        "strip_phase", "simplify", "recognise", "fold", "merge_layers", "fold_constants", "merge_siblings",
        "simplify", "simplify_joins", "choose_layout", "eliminate_common", "fold_constants", "eliminate_dead",
    ),
    3: (
        "strip_phase", "simplify", "recognise", "fold", "merge_layers", "reduce", "fold_constants", "merge_siblings",
        "simplify", "simplify_joins", "choose_layout", "eliminate_common", "fold_constants", "eliminate_dead",
    ),
}  # fmt: skip
"""What `-O0` to `-O3` run, in order. Rule sets run until none of their rules applies."""

_OPTIONS: dict[int, dict[str, dict[str, Any]]] = {2: {"merge_siblings": {"convolutions": False}}}
"""Options that a level gives to its passes."""


def level_steps(level: int, seed: int = 0) -> tuple[Step, ...]:
    """The steps of a level. `seed` is for the passes that draw numbers: the parameters without weights.

    Raises:
        NetcError: where there is no such level.
    """
    if level not in LEVELS:
        raise NetcError([Diagnostic("unknown-level", f"there is no level {level}", fix="0, 1, 2 or 3")])
    given = _OPTIONS.get(level, {})
    return tuple(_step(library()[name], given.get(name, {}), seed) for name in LEVELS[level])


def _step(found: Pass, options: dict[str, Any], seed: int) -> Step:
    return Step(found, options | ({"seed": seed} if seed and "seed" in found.options.model_fields else {}))


@cache
def rule_sets() -> dict[str, tuple[Rule, ...]]:
    """The rules of every file of `rewrites`, by the file's name. They are proved by the tests, not each time."""
    folder = resources.files(__name__.rpartition(".")[0]).joinpath("rewrites")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".net")), key=lambda f: f.name)
    return {f.name.removesuffix(".net"): _rules(Source(f"rewrites/{f.name}", f.read_text("utf-8"))) for f in files}


def _rules(source: Source) -> tuple[Rule, ...]:
    scope = read_imports(source).scope
    return tuple(read_rule(scope, d, _lookup) for d in scope.tree.declarations if isinstance(d, t.Rewrite))


def _lookup(scope: FileScope, name: str, span: Span) -> Any:
    """Rule files declare functions and rules only, which need no evaluation."""
    return scope.names[name]


@cache
def library() -> dict[str, Pass]:
    """Every pass by name: Python's, rule sets, and each rule alone."""
    found = dict(PASSES)
    for name, rules in rule_sets().items():
        found[name] = rule_pass(name, rules)
        for rule in rules:
            if rule.name in found:
                raise ValueError(f"the pass {rule.name} is defined twice")
            found[rule.name] = rule_pass(rule.name, (rule,))
    return found


def rule_pass(name: str, rules: Iterable[Rule]) -> Pass:
    """Rules as a pass, which applies them until none applies. It promises what the weakest of them promises."""
    rules = tuple(rules)
    order = ("alters", "delayed", "approx", "exact")
    weakest = min((r.contract for r in rules), key=lambda c: (order.index(c.kind), -c.bound), default=Contract())
    phases = {"infer": "inference", "train": "training"}
    needs = frozenset(phases[r.phase] for r in rules if r.phase in phases)
    doc = "\n\n".join(r.doc for r in rules) if len(rules) == 1 else f"The rules {', '.join(r.name for r in rules)}."
    return Pass(name, Rewriter(rules), weakest, needs, doc=doc)
