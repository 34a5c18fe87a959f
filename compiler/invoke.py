"""Calls of transforms: their arguments read as models and options, the transform run, and what it did kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, cast

from . import tree as t
from .diagnostic import Diagnostic, Label, NetcError, nearest
from .family import Family
from .graph import Graph, GraphError, verify
from .operators.operator import ShapeError
from .options import choices, read_options
from .passes.register import Pass
from .pipeline import Stage, Step
from .source import Span
from .transforms import WORDS, Limit, Outcome, Refusal, Transform

COMPARISONS = ("<=", ">=", "==", "<", ">")


@dataclass(frozen=True)
class Applied:
    """A transform that was applied: to these models, with these options, and with this outcome."""

    transform: Transform
    models: tuple[Graph, ...]
    options: Mapping[str, Any]
    outcome: Outcome
    span: Span
    seconds: float = field(compare=False, default=0.0)

    def __str__(self) -> str:
        return " ".join(self.span.text.split())

    def again(self, models: Sequence[Graph]) -> Outcome:
        """The same done to other models."""
        made = self.transform.run(*models, **self.options)
        assert isinstance(made, Outcome)
        return made

    @property
    def stage(self) -> Stage:
        """What was done as a step on the first model's way."""
        first, *others = self.models

        def run(graph: Graph) -> Graph:
            return self.again([graph, *others]).graph

        step = Step(Pass(str(self), run, self.outcome.contract), {}, self.span)
        return Stage(step, first, self.outcome.graph, self.seconds)


class Values:
    """What a file gives a call: the values of names and expressions."""

    def __init__(
        self,
        known: Callable[[str], bool],
        value: Callable[[t.Expr], Any],
        names: Callable[[], list[str]],
        is_model: Callable[[t.Expr], bool],
    ) -> None:
        self.known = known
        """Whether the file declares a name."""
        self.value = value
        """The value of an expression: a graph for a model."""
        self.names = names
        self.is_model = is_model


def invoke(found: Transform, before: Sequence[Graph], call: t.Expr, values: Values) -> Applied | Family:
    """Apply a transform: to the models that come through `|>` and those among the arguments of the call.

    Raises:
        NetcError: for arguments that it does not take, and where it cannot apply.
    """
    arguments = list(call.arguments) if isinstance(call, t.Call) else []
    models = [*before]
    while arguments and _takes_more(found, models) and arguments[0].name is None:
        if not values.is_model(arguments[0].value):
            break
        models.append(values.value(arguments.pop(0).value))
    if len(models) < found.models:
        raise _few(found, len(models), call)
    limits = [a for a in arguments if a.name is None and isinstance(a.value, t.Binary) and a.value.op in COMPARISONS]
    options = read_options(
        found.name,
        "transform-option",
        found.options,
        [*(a for a in arguments if a not in limits), *_gathered(found, limits)],
        call.span,
        lambda e, annotation: _argument(e, choices(annotation), values),
    )
    written = {a.name.text: a for a in arguments if a.name}
    for name, value in options.items():
        if problem := _wrong_number(name, value):
            raise _refused("transform-option", problem, written[name].span if name in written else call.span)
    return _run(found, models, options, call.span, written)


def _wrong_number(name: str, value: object) -> str | None:
    """What is wrong with the number of an option for any transform, if something is."""
    if isinstance(value, Limit):
        return _wrong_number(value.quantity, value.value)
    if isinstance(value, list | tuple):
        found = (_wrong_number(name, i) for i in cast("list[object] | tuple[object, ...]", value))
        return next((text for text in found if text), None)
    if isinstance(value, float) and not isfinite(value):
        return f"{name} is {value}, which is no finite number"
    if name == "seed" and isinstance(value, int) and value < 0:
        return f"seed is {value}, and must be at least 0"
    return None


def _takes_more(found: Transform, models: Sequence[Graph]) -> bool:
    return found.several or len(models) < found.models


def _few(found: Transform, given: int, call: t.Expr) -> NetcError:
    names = ", ".join("abcdefgh"[: max(found.models, 2)])
    wanted = "a model" if found.models == 1 else f"{found.models} models"
    more = " or more" if found.several else ""
    message = f"{found.name} takes {wanted}{more}, and here {'is one' if given == 1 else 'are none'}"
    return NetcError([Diagnostic("missing-argument", message, (Label(call.span),), fix=f"{found.name}({names}, …)")])


def _gathered(found: Transform, limits: Sequence[t.Argument]) -> list[t.Argument]:
    """Budgets, which stand without a name, as the option that takes them."""
    if not limits:
        return []
    for name, option in found.options.model_fields.items():
        text = str(option.annotation)
        if "Limit" in text:
            span = limits[0].span
            several = "tuple" in text or "list" in text
            if not several and len(limits) > 1:
                raise _refused("transform-option", f"{found.name} takes one budget", limits[1].span)
            value = t.ListOf(span, tuple(a.value for a in limits)) if several else limits[0].value
            return [t.Argument(span, t.Identifier(span, name), value)]
    raise _refused("transform-option", f"{found.name} takes no budget", limits[0].span)


def _argument(e: t.Expr, words: Sequence[str], values: Values) -> Any:
    """The value of an option: a word, a budget, a constructor for options, a model, data, or a compile-time value."""
    if isinstance(e, t.ListOf):
        return [_argument(i, words, values) for i in e.items]
    if isinstance(e, t.Name) and e.text in words:
        return e.text
    function = e.function if isinstance(e, t.Call) else e
    called = isinstance(e, t.Call) or (isinstance(e, t.Name) and not values.known(e.text))
    if called and isinstance(function, t.Name) and function.text in WORDS:
        return _made(function.text, e, values)
    if isinstance(e, t.Binary) and e.op in COMPARISONS and isinstance(e.left, t.Name):
        relation: Any = e.op
        return Limit(e.left.text, relation, values.value(e.right))
    if isinstance(e, t.Name) and words and not values.known(e.text):
        close = nearest(e.text, [*words, *WORDS, *values.names()])
        raise _refused(
            "transform-option", f"{e.text} is none of {', '.join(words)}, and no name of this file", e.span, close
        )
    return values.value(e)


def _made(name: str, e: t.Expr, values: Values) -> Any:
    """`lstsq(calib, samples = 100)`; a bare `lstsq` has all its options by default."""
    found = WORDS[name]
    arguments = e.arguments if isinstance(e, t.Call) else ()
    given = read_options(
        name,
        "transform-option",
        found.options,
        arguments,
        e.span,
        lambda value, annotation: _argument(value, choices(annotation), values),
    )
    try:
        return found.make(**given)
    except ValueError as error:
        raise _refused("transform-option", f"{name}: {error}", e.span) from None


def _refused(code: str, message: str, span: Span, fix: str | None = None) -> NetcError:
    return NetcError([Diagnostic(code, message, (Label(span),), fix=fix)])


def _run(
    found: Transform, models: Sequence[Graph], options: Mapping[str, Any], span: Span, written: Mapping[str, t.Argument]
) -> Applied | Family:
    start = time.perf_counter()
    try:
        made = found.run(*models, **options)
    except Refusal as refusal:
        place = written[refusal.option].span if refusal.option and refusal.option in written else span
        raise NetcError([_diagnostic(found, refusal, models, place)]) from None
    except ShapeError as error:
        fix = error.fix
        message = f"{found.name} cannot apply: {error.message}"
        raise NetcError([Diagnostic("transform-refused", message, (Label(span),), tuple(error.notes), fix)]) from None
    if isinstance(made, Family):
        return made
    try:
        verify(made.graph)
    except GraphError as error:
        message = f"{found.name} made a graph that does not verify: {error}"
        raise NetcError([Diagnostic("transform-failed", message, (Label(span),))]) from error
    return Applied(found, tuple(models), options, made, span, time.perf_counter() - start)


_SHOWN = 3
"""So many of the nodes that stop a transform are pointed at."""


def _diagnostic(found: Transform, refusal: Refusal, models: Sequence[Graph], span: Span) -> Diagnostic:
    labels = [Label(span)]
    for path in refusal.nodes:
        origins = [m.nodes[path].origin[0] for m in models if path in m.nodes and m.nodes[path].origin]
        if origins and len(labels) <= _SHOWN and all(x.span != origins[0] for x in labels):
            labels.append(Label(origins[0], f"%{path}"))
    named = ", ".join(f"%{p}" for p in refusal.nodes[: 2 * _SHOWN])
    more = f", … ({len(refusal.nodes)} in all)" if len(refusal.nodes) > 2 * _SHOWN else ""
    notes = (*((f"it is stopped by {named}{more}",) if named else ()), *refusal.notes)
    return Diagnostic("transform-refused", f"{found.name}: {refusal.message}", tuple(labels), notes, refusal.fix)


def renamed(applied: Applied, name: str) -> Applied:
    """The same under the name of the model that it makes."""
    return replace(applied, outcome=replace(applied.outcome, graph=replace(applied.outcome.graph, name=name)))
