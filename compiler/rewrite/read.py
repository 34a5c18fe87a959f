"""The text of a rewrite rule → the rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any, NoReturn, cast

from .. import tree as t
from ..contract import Contract
from ..diagnostic import Diagnostic, Diagnostics, Label, NetcError, nearest
from ..graph import Phase
from ..names import check_rule, unknown_name
from ..operators.operator import OPERATORS, Operator
from ..scope import FileScope
from ..source import Span
from ..types import DTYPES
from .pattern import (
    Apply,
    Attribute,
    Either,
    Hole,
    Literal,
    Maybe,
    Pattern,
    Repeat,
    Root,
    Rule,
    Variable,
    applications,
    captures,
    operators,
    over,
)

Resolve = Callable[[FileScope, str, Span], Any]

_PHASES: dict[str, Phase] = {"inference": "infer", "training": "train"}
_BINARY = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "**": "pow", "@": "matmul", "%": "remainder",
    "==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge",
}  # fmt: skip


def read_rule(scope: FileScope, declaration: t.Rewrite, resolve: Resolve) -> Rule:
    """The rule that a declaration describes; `resolve` looks file-level names up.

    Raises:
        NetcError: with every problem of the rule's text.
    """
    return _Reader(scope, declaration, resolve).rule()


class _Reader:
    def __init__(self, scope: FileScope, declaration: t.Rewrite, resolve: Resolve) -> None:
        self._scope = scope
        self._text = declaration
        self._resolve = resolve
        self._places: dict[str, Span] = {}
        """Every captured name, and where it is captured first."""

    def rule(self) -> Rule:
        d = self._text
        matches = [c for c in d.clauses if isinstance(c, t.Match)]
        if not matches:
            _stop(f"the rule {d.name.text} matches nothing", d.name.span, fix="match y = x |> relu |> relu")
        roots = tuple(self._root(m) for m in matches)
        report = Diagnostics()
        check_rule(self._scope, d, [t.Identifier(s, n) for n, s in self._places.items()], report)
        report.stop_on_errors()
        conditions = [c for clause in d.clauses if isinstance(clause, t.Where) for c in clause.conditions]
        once, others = self._uses(conditions, roots)
        return Rule(
            name=d.name.text,
            contract=_contract(d.contract),
            phase=self._phase(d.when),
            roots=roots,
            conditions=tuple(others),
            once=once,
            lets=tuple(c for c in d.clauses if isinstance(c, t.Let)),
            results=self._results(roots),
            home=self._scope,
            resolve=self._resolve,
            span=d.span,
            doc=_comment(d.span),
        )

    def _phase(self, when: t.Identifier | None) -> Phase:
        if when is None:
            return "both"
        if when.text not in _PHASES:
            close = nearest(when.text, _PHASES)
            _stop(f"a rule applies in inference or in training, not when {when.text}", when.span, fix=close)
        return _PHASES[when.text]

    def _root(self, match: t.Match) -> Root:
        pattern = self._value(match.pattern)
        if not operators(pattern):
            _stop("a match begins with an operator", match.pattern.span, fix="match y = relu(x)")
        labels = {label for a in applications(pattern) if (label := a.label)}
        inside = set(captures(pattern)) - labels
        for name in match.names:
            if name.text in inside:
                _stop(f"{name.text} is the value that is matched, and stands in its own pattern", name.span)
            if name.text in labels:
                _stop(f"{name.text} names two values", name.span, fix="give one of them another name")
        count = len(match.names)
        for choice in applications(pattern):
            if count > 1 and choice.span == pattern.span and len(OPERATORS[choice.operator].outputs) not in (1, count):
                _stop(f"{choice.operator} does not have {count} outputs", match.span)
        for name in match.names:
            self._places.setdefault(name.text, name.span)
        return Root(tuple(n.text for n in match.names), pattern, match.span)

    # ---------------------------------------------------------------------------------------------- patterns

    def _value(self, e: t.Expr) -> Pattern:
        """A pattern where a value stands."""
        if isinstance(e, t.Name):
            self._places.setdefault(e.text, e.span)
            return Variable(e.text, e.span)
        number = _number(e)
        if number is not None:
            return Literal(number, e.span)
        if isinstance(e, t.Unary) and e.op == "-":
            return self._operator(e, "neg", (self._value(e.operand),))
        if isinstance(e, t.Binary) and e.op in _BINARY:
            return self._operator(e, _BINARY[e.op], (self._value(e.left), self._value(e.right)))
        if isinstance(e, t.Binary) and e.op == "or":
            return Either((self._value(e.left), self._value(e.right)), e.span)
        if isinstance(e, t.Pipe):
            return over(self._stage(e.stage), self._value(e.value))
        if isinstance(e, t.Call):
            return self._call(e, None)
        if isinstance(e, t.Named):
            return self._labelled(self._value(e.value), e.path)
        if isinstance(e, t.Index):
            return self._output(self._value(e.value), e)
        return _stop("this is no pattern", e.span, ("patterns are made of names, numbers, operators and `|>`",))

    def _stage(self, e: t.Expr) -> Pattern:
        """A pattern with a hole for what is piped into it."""
        if isinstance(e, t.Name):
            return self._call(t.Call(e.span, e, ()), Hole(e.span))
        if isinstance(e, t.Call):
            return self._call(e, Hole(e.span))
        if isinstance(e, t.Quantified):
            made = Maybe if e.mark == "?" else Repeat
            return made(self._stage(e.stage), Hole(e.span), e.span)
        if isinstance(e, t.Binary) and e.op == "or":
            return Either((self._stage(e.left), self._stage(e.right)), e.span)
        if isinstance(e, t.Pipe):
            return over(self._stage(e.stage), self._stage(e.value))
        if isinstance(e, t.Named):
            return self._labelled(self._stage(e.value), e.path)
        if isinstance(e, t.Index):
            return self._output(self._stage(e.value), e)
        return _stop("`|>` needs an operator on its right", e.span, fix="x |> relu")

    def _labelled(self, pattern: Pattern, path: t.Path) -> Pattern:
        name = path.text.raw
        self._places.setdefault(name, path.span)
        return _label(pattern, name)

    def _output(self, pattern: Pattern, e: t.Index) -> Pattern:
        item = e.items[0] if len(e.items) == 1 else None
        if not isinstance(pattern, Apply) or not isinstance(item, t.Number) or not isinstance(item.value, int):
            _stop("in a pattern `[0]`, `[1]`, … take one output of an operator", e.span)
        outputs = OPERATORS[pattern.operator].outputs
        if len(outputs) > 1 and item.value >= len(outputs):
            _stop(f"{pattern.operator} has no output {item.value}", e.span, (f"its outputs: {', '.join(outputs)}",))
        return replace(pattern, output=item.value)

    def _operator(self, e: t.Expr, name: str, inputs: tuple[Pattern, ...]) -> Apply:
        operands = {o.name: p for o, p in zip(OPERATORS[name].operands, inputs, strict=True)}
        return Apply(name, operands, None, {}, None, None, 0, e.span)

    def _call(self, e: t.Call, hole: Hole | None) -> Apply:
        if not isinstance(e.function, t.Name):
            _stop("a pattern applies operators by name", e.function.span)
        cls = OPERATORS.get(e.function.text)
        if cls is None and e.function.text in self._scope.names:
            notes = ("a graph is made of operators; modules are gone by then",)
            _stop(f"{e.function.text} is no operator, which patterns are made of", e.function.span, notes)
        if cls is None or e.function.text == "input":
            raise NetcError([unknown_name(e.function.text, e.function.span, (), called=True)])
        if cls.becomes:
            message = f"{cls.name} never stands in a graph, where it is {cls.becomes}"
            _stop(message, e.function.span, fix=cls.becomes)
        return self._arguments(e, cls, hole)

    def _arguments(self, e: t.Call, cls: type[Operator], hole: Hole | None) -> Apply:
        declared = {o.name: o for o in cls.operands}
        known = {f.name for f in fields(cast(Any, cls))}
        operands: dict[str, Pattern] = {}
        attributes: dict[str, Attribute] = {}
        many: tuple[Pattern, ...] | Variable | None = None
        rest: str | None = None
        slots = [*declared, *(f.name for f in fields(cast(Any, cls)))]
        if hole is not None:
            first = slots.pop(0)
            if declared[first].variadic:
                many = (hole,)
            else:
                operands[first] = hole
        for argument in e.arguments:
            if isinstance(argument.value, t.Rest):
                rest = argument.value.name.text
                self._places.setdefault(rest, argument.span)
                continue
            name = argument.name.text if argument.name else (slots[0] if slots else "")
            if name not in slots:
                _stop_argument(cls, name, argument, slots)
            slots.remove(name)
            if name in known:
                attributes[name] = self._attribute(argument.value)
            elif declared[name].variadic:
                many = self._many(argument.value)
            else:
                operands[name] = self._value(argument.value)
        missing = [o.name for o in cls.operands if not o.optional and not o.variadic and o.name not in operands]
        if missing:
            name = missing[0]
            _stop(f"{cls.name} needs its input {name}", e.span, fix=f"{cls.name}({name} = {name[0]})")
        if cls.operands and cls.operands[-1].variadic and many is None:
            _stop(f"{cls.name} needs its {cls.operands[-1].name}", e.span, fix=f"{cls.name}([a, b])")
        return Apply(cls.name, operands, many, attributes, rest, None, 0, e.span)

    def _many(self, e: t.Expr) -> tuple[Pattern, ...] | Variable:
        if isinstance(e, t.ListOf):
            return tuple(map(self._value, e.items))
        one = self._value(e)
        return one if isinstance(one, Variable) else _stop("several inputs are a list or a name", e.span, fix="[a, b]")

    def _attribute(self, e: t.Expr) -> Attribute:
        """A bare name that the file does not define captures; anything else is compared."""
        if isinstance(e, t.Name) and e.text not in self._scope.names and e.text not in DTYPES:
            self._places.setdefault(e.text, e.span)
            return Attribute(e.text, e, e.span)
        return Attribute(None, e, e.span)

    # ---------------------------------------------------------------------------------------------- clauses

    def _uses(self, conditions: list[t.Expr], roots: tuple[Root, ...]) -> tuple[frozenset[str] | None, list[t.Expr]]:
        labels = {a.label for r in roots for a in applications(r.pattern) if a.label}
        once: frozenset[str] | None = frozenset()
        others: list[t.Expr] = []
        for condition in conditions:
            if isinstance(condition, t.Name) and condition.text == "single_use":
                once = None
            elif isinstance(condition, t.Call) and _is_name(condition.function, "single_use"):
                for argument in condition.arguments:
                    if not isinstance(argument.value, t.Name) or argument.value.text not in labels:
                        fix = f"relu as {argument.value.span.text}"
                        _stop("single_use takes values that the pattern names with `as`", argument.span, fix=fix)
                    if once is not None:
                        once |= {argument.value.text}
            else:
                others.append(condition)
        return once, others

    def _results(self, roots: tuple[Root, ...]) -> dict[str, tuple[t.Expr, int | None]]:
        wanted = {name: root for root in roots for name in root.names}
        found: dict[str, tuple[t.Expr, int | None]] = {}
        for clause in self._text.clauses:
            if not isinstance(clause, t.Replace):
                continue
            if len(clause.values) not in (1, len(clause.names)):
                _stop(f"{len(clause.names)} values are replaced by {len(clause.values)}", clause.span)
            for i, name in enumerate(clause.names):
                if name.text not in wanted:
                    _stop(f"{name.text} is not matched", name.span, fix=nearest(name.text, wanted))
                if name.text in found:
                    _stop(f"{name.text} is replaced twice", name.span)
                if len(clause.values) == len(clause.names):
                    found[name.text] = (clause.values[i], None)
                else:
                    found[name.text] = (clause.values[0], i)
        for name, root in wanted.items():
            if name not in found:
                _stop(f"nothing says what replaces {name}", root.span, fix=f"replace {name} = x")
        return found


def captured(rule: Rule) -> Iterator[str]:
    """Every name the patterns of a rule bind, once each."""
    seen: dict[str, None] = {}
    for root in rule.roots:
        seen.update(dict.fromkeys(captures(root.pattern)))
    return iter(seen)


def _label(pattern: Pattern, name: str) -> Pattern:
    if isinstance(pattern, Apply):
        return replace(pattern, label=name)
    if isinstance(pattern, (Maybe, Repeat)):
        return replace(pattern, stage=_label(pattern.stage, name))
    if isinstance(pattern, Either):
        return replace(pattern, choices=tuple(_label(p, name) for p in pattern.choices))
    return pattern


def _contract(text: t.ContractText) -> Contract:
    kind = text.kind.text
    bound = None if text.bound is None else _number(text.bound)
    if kind in ("exact", "alters") and text.bound is None:
        return Contract(kind)
    if kind in ("approx", "delayed") and bound is not None and bound > 0:
        return Contract(kind, bound)
    known = ("exact", "approx(1e-5)", "delayed(1)", "alters")
    fix = next((k for k in known if k.startswith(kind)), nearest(kind, known))
    return _stop(f"`{text.span.text}` is no contract", text.span, (f"contracts: {', '.join(known)}",), fix)


def _number(e: t.Expr) -> int | float | None:
    if isinstance(e, t.Number) and e.unit is None:
        return e.value
    if isinstance(e, t.Unary) and e.op == "-":
        value = _number(e.operand)
        return None if value is None else -value
    return None


def _is_name(e: t.Expr, name: str) -> bool:
    return isinstance(e, t.Name) and e.text == name


def _comment(span: Span) -> str:
    """The comment block right above a declaration."""
    lines = span.source.text[: span.start].splitlines()
    found: list[str] = []
    while lines and lines[-1].startswith("#"):
        found.append(lines.pop().removeprefix("#").strip())
    return "\n".join(reversed(found))


def _stop_argument(cls: type[Operator], name: str, argument: t.Argument, slots: list[str]) -> NoReturn:
    if not name:
        _stop(f"{cls.name} takes no more arguments", argument.span)
    what = "is given twice" if any(name == o.name for o in cls.operands) else "is no argument"
    notes = (f"its arguments: {', '.join(slots)}",)
    _stop(f"{name} {what} of {cls.name}", (argument.name or argument).span, notes, nearest(name, slots))


def _stop(message: str, span: Span, notes: tuple[str, ...] = (), fix: str | None = None) -> NoReturn:
    raise NetcError([Diagnostic("rewrite", message, (Label(span),), notes, fix)])
