"""The clauses of a rule, evaluated where it matched: conditions at compile time, replacements into nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn, Protocol, cast

from .. import tree as t
from ..budget import Budget
from ..diagnostic import Diagnostic, Diagnostics, Label, NetcError
from ..elaboration.elaborate import Elaborator
from ..elaboration.problem import Fault
from ..graph import Edit, Graph, Node, ParameterRef, Phase, Ref, Value
from ..operators.operator import OPERATORS, Operator
from ..scope import Frame
from ..source import Span
from ..types import DType, Expression, TensorType
from ..value import Constructor, Given, Instance, OperatorValue, Tensor, describe
from .pattern import Rule


@dataclass(frozen=True, slots=True)
class Absent:
    """An optional operand that the matched node does not have; arithmetic takes it for `number`."""

    number: int | None


@dataclass(frozen=True, slots=True)
class Rest:
    """The attributes that `*attrs` captured."""

    attributes: Mapping[str, Any]

    def __str__(self) -> str:
        return "captured attributes"


@dataclass(eq=False, slots=True)
class _Later:
    """A `let` of the rule, evaluated when it is first used: conditions cannot use one that makes nodes."""

    expression: t.Expr
    running: bool = False


class Facts(Protocol):
    """What conditions may ask about a matched value; see `match.Matcher`."""

    @property
    def graph(self) -> Graph: ...

    def constant(self, ref: Ref) -> bool: ...


class _Still:
    """Stands for the edit while conditions are decided, which make no nodes."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def type(self, ref: Ref) -> TensorType:
        return self._graph.type(ref)

    def fresh(self, path: str) -> str:
        return path

    def add(self, path: str, op: Operator, *inputs: Ref | None, phase: Phase, origin: tuple[Span, ...]) -> NoReturn:
        message = f"conditions are decided at compile time, but this computes {op.name} of tensors"
        raise Fault(Diagnostic("condition", message, (Label(origin[0]),)))


class RuleEvaluator(Elaborator):
    """Evaluates a rule's expressions where its patterns have bound `values`.

    Operators are those of the graph: they take their weights as operands and create no parameters. New nodes get the
    path `path`, the phase and the `origin` of what they replace.
    """

    def __init__(
        self,
        rule: Rule,
        values: Mapping[str, Any],
        facts: Facts,
        *,
        edit: Edit | None = None,
        anchor: Node | None = None,
        origin: tuple[Span, ...] = (),
    ) -> None:
        super().__init__(Diagnostics(), Budget(), rule.resolve)
        self._edit = cast(Edit, _Still(facts.graph)) if edit is None else edit
        self._known_facts = facts
        self._values = values
        self._origin = origin
        self.made: list[str] = []
        """The paths of the nodes that were added, in order."""
        path = "" if anchor is None else anchor.path
        phase: Phase = "both" if anchor is None else anchor.phase
        self._frame = Frame(rule.home, path, path, phase)
        for name, value in values.items():
            self._frame.declare(name, self._spoken(value, rule.span), rule.span)
        for let in rule.lets:
            self._frame.declare(let.name.text, _Later(let.value), let.name.span)

    def value(self, expression: t.Expr) -> Any:
        """The value of an expression of the rule.

        Raises:
            NetcError: where it cannot be evaluated here.
        """
        try:
            return self._eval(self._frame, expression)
        except Fault as fault:
            raise NetcError([d for d in (*self._report, fault.diagnostic) if d is not None]) from None

    def holds(self, condition: t.Expr) -> bool:
        """Whether a condition is true.

        Raises:
            NetcError: where it is no compile-time condition.
        """
        value = self.value(condition)
        if isinstance(value, bool):
            return value
        message = f"a condition is true or false, not {describe(value)}"
        raise NetcError([Diagnostic("condition", message, (Label(condition.span),))])

    def tensor(self, value: Any, span: Span) -> Tensor:
        """The tensor that a replacement is.

        Raises:
            NetcError: where it is none.
        """
        if isinstance(value, Tensor):
            return value
        message = f"a value is replaced by a tensor, not by {describe(value)}"
        raise NetcError([Diagnostic("rewrite", message, (Label(span),))])

    def _spoken(self, value: Any, span: Span) -> Any:
        """A bound value as expressions see it."""
        if isinstance(value, (Value, ParameterRef)):
            return Tensor(value, self._edit.type(value), span, self._frame.phase)
        if isinstance(value, Absent):
            return value.number
        if isinstance(value, tuple):
            return [self._spoken(v, span) for v in cast("tuple[Any, ...]", value)]
        return value

    # ---------------------------------------------------------------------------------------------- elaboration

    def _lookup(self, frame: Frame, e: t.Name) -> Any:
        value = super()._lookup(frame, e)
        if not isinstance(value, _Later):
            return value
        if value.running:
            self._fail("cycle", f"{e.text} is defined by itself", e.span)
        value.running = True
        found = self._eval(self._frame, value.expression)
        self._frame.declare(e.text, found, e.span)
        return found

    def _node(
        self, frame: Frame, op: Operator, inputs: Sequence[Tensor | None], span: Span, name: str, *, fixed: bool = False
    ) -> Any:
        result = super()._node(frame, op, inputs, span, name, fixed=fixed)
        first = cast("tuple[Tensor, ...]", result)[0] if isinstance(result, tuple) else cast(Tensor, result)
        self.made.append(cast(Value, first.ref).node)
        return cast(Any, result)

    def _origins(self, span: Span) -> tuple[Span, ...]:
        return self._origin or (span,)

    def _arguments(self, frame: Frame, arguments: Sequence[t.Argument]) -> list[tuple[str | None, Given]]:
        found: list[tuple[str | None, Given]] = []
        for argument in arguments:
            if not isinstance(argument.value, t.Rest):
                found.extend(super()._arguments(frame, [argument]))
                continue
            name = argument.value.name
            rest = self._lookup(frame, t.Name(name.span, name.text))
            if not isinstance(rest, Rest):
                self._fail("rewrite", f"{name.text} holds no attributes", argument.span, fix="*attrs")
            found.extend((k, Given(self._spoken(v, argument.span), argument.span)) for k, v in rest.attributes.items())
        return found

    def _call(self, frame: Frame, e: t.Call, name: str | None = None, at: Span | None = None) -> Any:
        asked = e.function.text if isinstance(e.function, t.Name) else ""
        if asked in _QUESTIONS and frame.find(asked) is None:
            names = [a.value for a in e.arguments if isinstance(a.value, t.Name)]
            if len(names) != len(e.arguments) or not names or (len(names) > 1 and asked != "constant"):
                self._fail("rewrite", f"{asked} asks about one matched value", e.span, fix=f"{asked}(x)")
            answers = [self._answer(asked, n) for n in names]
            return answers[0] if len(answers) == 1 else all(answers)
        return super()._call(frame, e, name, at)

    def _answer(self, question: str, name: t.Name) -> Any:
        value = self._values.get(name.text)
        if question == "absent":
            return value is None or isinstance(value, Absent)
        if question == "known":
            return self._is_known(value)
        if isinstance(value, tuple) and not isinstance(value, (Value, ParameterRef)):
            answers = [self._ask(question, v, name) for v in cast("tuple[Any, ...]", value)]
            return all(answers) if question == "constant" else answers
        return self._ask(question, value, name)

    def _ask(self, question: str, value: Any, name: t.Name) -> Any:
        if value is None or isinstance(value, Absent):
            return {"constant": True, "op": "none", "uses": 0, "number": None}[question]
        if not isinstance(value, (Value, ParameterRef)):
            self._fail("rewrite", f"{name.text} is {describe(value)}, not a matched value", name.span)
        graph = self._known_facts.graph
        if question == "constant":
            return self._known_facts.constant(value)
        if question == "uses":
            kept = (*graph.outputs.values(), *graph.taps.values())
            return len(graph.users.get(value, ())) + kept.count(value)
        if question == "number":
            number = None if isinstance(value, ParameterRef) else getattr(graph.nodes[value.node].op, "value", None)
            return number if isinstance(number, (int, float)) and graph.type(value).rank == 0 else None
        return "parameter" if isinstance(value, ParameterRef) else graph.nodes[value.node].op.name

    def _is_known(self, value: Any) -> bool:
        """Whether sizes, or attributes, are numbers, whatever the symbols stand for."""
        if isinstance(value, (Value, ParameterRef)):
            value = self._known_facts.graph.type(value).shape
        if isinstance(value, tuple):
            return all(self._is_known(v) for v in cast("tuple[Any, ...]", value))
        return not isinstance(value, Expression)

    def _invoke(
        self,
        frame: Frame,
        function: Constructor | Instance,
        inputs: list[Any],
        arguments: list[tuple[str | None, Given]],
        span: Span,
        name: str | None,
        at: Span | None,
    ) -> Any:
        if not isinstance(function, OperatorValue):
            return super()._invoke(frame, function, inputs, arguments, span, name, at)
        cls = OPERATORS[function.operator]
        operands, attributes = self._sorted(cls, inputs, arguments, span)
        tensors = self._inputs(frame, cls, operands, span)
        op = self._made(frame, cls, {k: g.value for k, g in attributes.items()}, attributes, span)
        return self._node(frame, op, tensors, span, name or cls.name, fixed=name is not None)

    def _sorted(
        self, cls: type[Operator], inputs: list[Any], arguments: list[tuple[str | None, Given]], span: Span
    ) -> tuple[dict[str, Any], dict[str, Given]]:
        """Operands and attributes by name; both may be given by position, operands first."""
        names = {o.name for o in cls.operands}
        slots = [*(o.name for o in cls.operands), *(f.name for f in fields(cast(Any, cls)))]
        operands: dict[str, Any] = {}
        attributes: dict[str, Given] = {}
        given = [*((None, Given(i, span)) for i in inputs), *arguments]
        for name, value in given:
            slot = name or (slots[0] if slots else "")
            if slot not in slots:
                notes = (f"its arguments: {', '.join(slots)}",)
                self._fail("attribute", f"{cls.name} has no argument {slot or 'left'}", value.span, notes=notes)
            slots.remove(slot)
            if slot in names:
                operands[slot] = value.value
            else:
                attributes[slot] = value
        return operands, attributes

    def _inputs(
        self, frame: Frame, cls: type[Operator], operands: Mapping[str, Any], span: Span
    ) -> tuple[Tensor | None, ...]:
        given = [v for value in operands.values() for v in _flat(value)]
        example = next((v for v in reversed(given) if isinstance(v, Tensor)), None)
        dtype = DType.F32 if example is None else example.type.dtype
        tensors: list[Tensor | None] = []
        for operand in cls.operands:
            value = operands.get(operand.name)
            if operand.variadic:
                tensors.extend(self._tensor(frame, v, dtype, span) for v in _flat(value))
            elif value is None or (operand.optional and not isinstance(value, Tensor) and value == operand.absent):
                if not operand.optional:
                    self._fail("input-count", f"{cls.name} needs its input {operand.name}", span)
                tensors.append(None)
            else:
                tensors.append(self._tensor(frame, value, dtype, span))
        return tuple(tensors)

    def _tensor(self, frame: Frame, value: Any, dtype: DType, span: Span) -> Tensor:
        return value if isinstance(value, Tensor) else self._scalar(frame, value, dtype, span)

    def _tensor_binary(self, frame: Frame, e: t.Binary, left: Any, right: Any) -> Any:
        """Arithmetic with what an absent operand stands for makes no nodes."""
        if e.op == "*" and any(v == 0 and not isinstance(v, Tensor) for v in (left, right)):
            return 0
        if left == 0 and not isinstance(left, Tensor):
            if e.op == "+":
                return right
            if e.op == "-":
                return self._node(frame, OPERATORS["neg"](), (right,), e.span, "neg")
        if (right == 0 and not isinstance(right, Tensor) and e.op in ("+", "-")) or (
            right == 1 and not isinstance(right, Tensor) and e.op in ("*", "/")
        ):
            return left
        if left == 1 and not isinstance(left, Tensor) and e.op == "*":
            return right
        return super()._tensor_binary(frame, e, left, right)


_QUESTIONS = ("constant", "absent", "op", "uses", "number", "known")


def _flat(value: Any) -> list[Any]:
    return list(cast("Sequence[Any]", value)) if isinstance(value, (list, tuple)) else [value]
