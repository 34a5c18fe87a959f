"""What a rule looks for: patterns over values, and the rule that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .. import tree as t
from ..contract import Contract
from ..graph import Phase
from ..scope import FileScope
from ..source import Span


@dataclass(frozen=True, slots=True)
class Variable:
    """Any value or parameter; the same one wherever the name stands. None where it is an operand that is left out."""

    name: str
    span: Span


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant of this number, whatever its dtype."""

    value: int | float
    span: Span


@dataclass(frozen=True, slots=True)
class Hole:
    """Where the value that is piped into a stage stands, before the stage is placed over one."""

    span: Span


@dataclass(frozen=True, slots=True)
class Attribute:
    """`stride = s` captures (`name`), `dim = 1` compares (`value`)."""

    name: str | None
    value: t.Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Apply:
    """One application of an operator.

    `operands` by name; an optional operand that is not mentioned must be absent. `many` are the inputs of the variadic
    operand: patterns one by one, or a variable for all of them. Attributes that are not mentioned may be anything;
    `rest` captures them by name. `label` names the value (`as c`).
    """

    operator: str
    operands: Mapping[str, Pattern]
    many: tuple[Pattern, ...] | Variable | None
    attributes: Mapping[str, Attribute]
    rest: str | None
    label: str | None
    output: int
    span: Span


@dataclass(frozen=True, slots=True)
class Maybe:
    """`below |> stage?`"""

    stage: Pattern
    below: Pattern
    span: Span


@dataclass(frozen=True, slots=True)
class Repeat:
    """`below |> stage+`: what the stage captures becomes lists, in the order of the computation."""

    stage: Pattern
    below: Pattern
    span: Span


@dataclass(frozen=True, slots=True)
class Either:
    """`below |> (relu or silu)`"""

    choices: tuple[Pattern, ...]
    span: Span


Pattern = Variable | Literal | Hole | Apply | Maybe | Repeat | Either


def over(stage: Pattern, below: Pattern) -> Pattern:
    """The stage with `below` in its hole."""
    if isinstance(stage, Hole):
        return below
    if isinstance(stage, Apply):
        many = stage.many if not isinstance(stage.many, tuple) else tuple(over(p, below) for p in stage.many)
        return replace(stage, operands={k: over(p, below) for k, p in stage.operands.items()}, many=many)
    if isinstance(stage, (Maybe, Repeat)):
        return replace(stage, below=over(stage.below, below))
    if isinstance(stage, Either):
        return replace(stage, choices=tuple(over(p, below) for p in stage.choices))
    return stage


def renamed(pattern: Pattern, suffix: str) -> Pattern:
    """A copy whose variables, captures and labels end in `suffix`: the next turn of a repetition."""
    if isinstance(pattern, Variable):
        return replace(pattern, name=pattern.name + suffix)
    if isinstance(pattern, Apply):
        many = pattern.many
        if isinstance(many, tuple):
            many = tuple(renamed(p, suffix) for p in many)
        elif many is not None:
            many = replace(many, name=many.name + suffix)
        return replace(
            pattern,
            operands={k: renamed(p, suffix) for k, p in pattern.operands.items()},
            many=many,
            attributes={k: replace(a, name=a.name and a.name + suffix) for k, a in pattern.attributes.items()},
            rest=pattern.rest and pattern.rest + suffix,
            label=pattern.label and pattern.label + suffix,
        )
    if isinstance(pattern, (Maybe, Repeat)):
        return replace(pattern, stage=renamed(pattern.stage, suffix), below=renamed(pattern.below, suffix))
    if isinstance(pattern, Either):
        return replace(pattern, choices=tuple(renamed(p, suffix) for p in pattern.choices))
    return pattern


def captures(pattern: Pattern) -> Iterator[str]:
    """Every name a pattern binds, in order, repeated ones repeatedly."""
    if isinstance(pattern, Variable):
        yield pattern.name
    elif isinstance(pattern, Apply):
        for operand in pattern.operands.values():
            yield from captures(operand)
        many = pattern.many
        for one in many if isinstance(many, tuple) else () if many is None else (many,):
            yield from captures(one)
        yield from (a.name for a in pattern.attributes.values() if a.name is not None)
        yield from (name for name in (pattern.rest, pattern.label) if name is not None)
    elif isinstance(pattern, (Maybe, Repeat)):
        yield from captures(pattern.stage)
        yield from captures(pattern.below)
    elif isinstance(pattern, Either):
        for choice in pattern.choices:
            yield from captures(choice)


def applications(pattern: Pattern) -> Iterator[Apply]:
    """Every operator of a pattern, the outermost first."""
    if isinstance(pattern, Apply):
        yield pattern
        for operand in pattern.operands.values():
            yield from applications(operand)
        for one in pattern.many if isinstance(pattern.many, tuple) else ():
            yield from applications(one)
    elif isinstance(pattern, (Maybe, Repeat)):
        yield from applications(pattern.stage)
        yield from applications(pattern.below)
    elif isinstance(pattern, Either):
        for choice in pattern.choices:
            yield from applications(choice)


def operators(pattern: Pattern) -> frozenset[str]:
    """The operators that the outermost node of a match may have."""
    if isinstance(pattern, Apply):
        return frozenset({pattern.operator})
    if isinstance(pattern, Maybe):
        return operators(over(pattern.stage, pattern.below)) | operators(pattern.below)
    if isinstance(pattern, Repeat):
        return operators(pattern.stage)
    if isinstance(pattern, Either):
        return frozenset(name for choice in pattern.choices for name in operators(choice))
    return frozenset()


@dataclass(frozen=True, slots=True)
class Root:
    """One `match`: the values that are replaced, which are outputs of one node, and the pattern of that node."""

    names: tuple[str, ...]
    pattern: Pattern
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class Rule:
    """A rewrite rule. `once` are the labels whose values must have no other reader; None stands for all inside."""

    name: str
    contract: Contract
    phase: Phase
    roots: tuple[Root, ...]
    conditions: tuple[t.Expr, ...]
    once: frozenset[str] | None
    lets: tuple[t.Let, ...]
    results: Mapping[str, tuple[t.Expr, int | None]]
    """By replaced name: the expression, and which of its several values (None: it has one)."""
    home: FileScope
    resolve: Callable[[FileScope, str, Span], Any]
    """Looks up a name of the file `home`."""
    span: Span
    doc: str = ""

    def __repr__(self) -> str:
        return f"the rule {self.name}"

    @property
    def operators(self) -> frozenset[str]:
        """What the anchor of a match may be."""
        return operators(self.roots[0].pattern)
