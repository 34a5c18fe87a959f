"""Rename maps: which tensor of a checkpoint fills which parameter, as data.

**Patterns** are matched against the whole name of a tensor.

- `{name}` captures one or more characters other than `.`: a segment, or a part of one (`layer{s}`). The same name twice
  must capture the same text. A name that the target uses in arithmetic captures 1 to 9 digits and nothing else, so
  that a rule for `"h.{i}.{p}"` with `{i+1}` leaves `h.norm.weight` to later rules.
- `{name**}` captures one or more characters, dots included; `{rest}` is short for `{rest**}`.
- `*` matches any characters other than `.`, or none; `**` any characters, or none. Both capture nothing.

**Targets** are text with `{expression}`: a captured name alone, or arithmetic of integers and captured names with
`+ - * // %` and parentheses.

**A tensor** goes where the first rule that matches sends it; one that no rule matches keeps its name. Drop patterns
come before all rules. A rule may take one of n equal parts of its source (`source_part`): then later rules may take the
other parts, and all must be taken. A rule may fill one of n parts of its target (`target_part`): pieces are
concatenated in order along the axis, or stacked along a new one where their rank is one less than the parameter's.
Between the two come the steps: `"q.weight" -> "qkv.weight"[0 of 3] |> permute([1, 0])` places the permuted tensor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

from .diagnostic import Diagnostic, Label, NetcError, nearest
from .source import Span

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """Part `index` of `count` along `axis`; prints as `[0 of 3]`. As a source the parts are of equal size.

    In a target part the index may be an expression over captured names: `"experts.{e}.w" -> "experts.w"[e of 8]`.
    """

    index: int | str
    count: int
    axis: int = 0

    def __str__(self) -> str:
        return f"[{self.index} of {self.count}]" if self.axis == 0 else f"[{self.index} of {self.count}, {self.axis}]"

    def size(self, shape: Sizes) -> Sizes:
        """The shape of one part of a tensor of this shape; ValueError where it does not divide."""
        if self.axis >= len(shape) or shape[self.axis] % self.count:
            raise ValueError(f"axis {self.axis} of {list(shape)} does not divide into {self.count} parts")
        return (*shape[: self.axis], shape[self.axis] // self.count, *shape[self.axis + 1 :])

    def cut(self, array: Array) -> Array:
        """The part of an array; the index must be a number."""
        assert isinstance(self.index, int)
        size = array.shape[self.axis] // self.count
        return array[(slice(None),) * self.axis + (slice(self.index * size, (self.index + 1) * size),)]


@dataclass(frozen=True, slots=True)
class Permute:
    """Reorder the axes, as `permute`."""

    dims: Sizes

    def __str__(self) -> str:
        return f"permute({list(self.dims)})"

    def size(self, shape: Sizes) -> Sizes:
        """The shape afterwards; ValueError where it does not fit."""
        if sorted(self.dims) != list(range(len(shape))):
            raise ValueError(f"{self} does not fit the shape {list(shape)}")
        return tuple(shape[d] for d in self.dims)

    def apply(self, array: Array) -> Array:
        return array.transpose(self.dims)


@dataclass(frozen=True, slots=True)
class Reshape:
    """Give another shape to the same elements, as `reshape`; one size may be -1."""

    shape: Sizes

    def __str__(self) -> str:
        return f"reshape({list(self.shape)})"

    def size(self, shape: Sizes) -> Sizes:
        """The shape afterwards; ValueError where it does not fit."""
        known = prod(d for d in self.shape if d >= 0)
        if -1 in self.shape and known and prod(shape) % known == 0:
            known = prod(shape)
            rest = known // max(1, prod(d for d in self.shape if d >= 0))
            return tuple(rest if d == -1 else d for d in self.shape)
        if -1 in self.shape or known != prod(shape):
            raise ValueError(f"{self} does not fit the shape {list(shape)}")
        return self.shape

    def apply(self, array: Array) -> Array:
        return array.reshape(self.shape)


Step = Permute | Reshape


@dataclass(frozen=True)
class Drop:
    """A pattern of tensors that are left out."""

    pattern: str
    span: Span | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        _ = self.regex

    def __str__(self) -> str:
        return f'drop "{self.pattern}"'

    @cached_property
    def regex(self) -> re.Pattern[str]:
        return _compile(self.pattern, frozenset(), self.span)


@dataclass(frozen=True)
class Rule:
    """Tensors whose name matches `source` fill the parameter `target`, after `steps`.

    Raises:
        NetcError: on a malformed pattern or target (`bad-pattern`, `bad-target`).
    """

    source: str
    target: str
    source_part: Part | None = None
    steps: tuple[Step, ...] = ()
    target_part: Part | None = None
    span: Span | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for part in (self.source_part, self.target_part):
            if part and (part.count < 1 or (isinstance(part.index, int) and not 0 <= part.index < part.count)):
                raise _error("bad-target", f"{part} is no part: the first of {part.count} is 0", self.span)
        if self.source_part and isinstance(self.source_part.index, str):
            raise _error("bad-pattern", f"the source part {self.source_part} needs a number for its index", self.span)
        _ = self.regex
        for name in self._names:
            if name not in self.regex.groupindex:
                close = nearest(name, self.regex.groupindex)
                raise _error(
                    "bad-target",
                    f'"{self.target}" uses {name}, which "{self.source}" does not capture',
                    self.span,
                    fix=f"write {close}" if close else None,
                )

    def __str__(self) -> str:
        steps = "".join(f" |> {s}" for s in self.steps)
        return f'"{self.source}"{self.source_part or ""} -> "{self.target}"{self.target_part or ""}{steps}'

    @cached_property
    def _template(self) -> tuple[str | Expression, ...]:
        return tuple(_template(self.target, self.span))

    @cached_property
    def _index(self) -> Expression | None:
        if self.target_part is None or isinstance(self.target_part.index, int):
            return None
        return _parse(self.target_part.index, self.span)

    @cached_property
    def _names(self) -> list[str]:
        parts = [*self._template, *([self._index] if self._index else [])]
        return [name for part in parts if isinstance(part, Expression) for name in part.names]

    @cached_property
    def regex(self) -> re.Pattern[str]:
        numeric = {n for part in self._template if isinstance(part, Expression) and not part.bare for n in part.names}
        if self._index:
            numeric.update(self._index.names)
        return _compile(self.source, frozenset(numeric), self.span)

    def move(self, name: str) -> Move | None:
        """Where the tensor `name` goes by this rule, or None where the rule does not match.

        Raises:
            NetcError: where the target's arithmetic has no result (division by zero), or gives no part.
        """
        match = self.regex.fullmatch(name)
        if match is None:
            return None
        captured = match.groupdict()
        try:
            target = "".join(p if isinstance(p, str) else p.text(captured) for p in self._template)
            index = self._index.number(captured) if self._index else None
        except ZeroDivisionError as error:
            raise _error("bad-target", f"{self} divides by zero for the tensor {name}", self.span) from error
        part = self.target_part
        if part and index is not None:
            if not 0 <= index < part.count:
                raise _error("bad-target", f"{self} makes {name} part {index} of {part.count}", self.span)
            part = Part(index, part.count, part.axis)
        return Move(target, self, part)


@dataclass(frozen=True, slots=True)
class Move:
    """Where one tensor, or a part of it, goes. `rule` is None where the tensor keeps its name."""

    target: str
    rule: Rule | None = None
    target_part: Part | None = None

    @property
    def source_part(self) -> Part | None:
        return self.rule.source_part if self.rule else None

    def size(self, shape: Sizes) -> Sizes:
        """The shape of what arrives, for a tensor of this shape; ValueError where a step does not fit."""
        if self.rule is None:
            return shape
        if self.rule.source_part:
            shape = self.rule.source_part.size(shape)
        for step in self.rule.steps:
            shape = step.size(shape)
        return shape

    def apply(self, array: Array) -> Array:
        """What arrives."""
        if self.rule is None:
            return array
        if self.rule.source_part:
            array = self.rule.source_part.cut(array)
        for step in self.rule.steps:
            array = step.apply(array)
        return array

    def __str__(self) -> str:
        return f"by the rule {self.rule}" if self.rule else "by its name"


@dataclass(frozen=True)
class RenameMap:
    """Ordered rules and drop patterns; the rules are explained at the top of this file."""

    name: str = ""
    rules: tuple[Rule, ...] = ()
    drops: tuple[Drop, ...] = ()
    span: Span | None = field(default=None, compare=False)

    def moves(self, name: str) -> tuple[Move, ...] | Drop:
        """Where the tensor `name` goes: one move, or one for each of its parts; or the pattern that drops it.

        Raises:
            NetcError: where rules take unequal parts of the tensor, or leave some of it (`rename-parts`).
        """
        for drop in self.drops:
            if drop.regex.fullmatch(name):
                return drop
        taken: dict[int | str, Move] = {}
        for rule in self.rules:
            move = rule.move(name)
            if move is None or (taken and move.source_part is None):
                continue
            if move.source_part is None:
                return (move,)
            first = next(iter(taken.values()), move)
            _check_parts(name, first, move)
            taken.setdefault(move.source_part.index, move)
        if taken:
            _check_whole(name, taken)
        return tuple(taken.values()) or (Move(name),)


def _check_parts(name: str, first: Move, move: Move) -> None:
    a, b = first.source_part, move.source_part
    if a and b and (a.count, a.axis) != (b.count, b.axis):
        spans = [m.rule.span for m in (first, move) if m.rule]
        raise _error("rename-parts", f"{name} is cut in two ways: {a} {first} and {b} {move}", *spans)


def _check_whole(name: str, taken: Mapping[int | str, Move]) -> None:
    move = next(iter(taken.values()))
    part = move.source_part
    left = [i for i in range(part.count) if i not in taken] if part else []
    if part and left:
        parts = [str(Part(i, part.count, part.axis)) for i in left]
        raise _error(
            "rename-parts",
            f"{len(left)} of the {part.count} parts of {name} go nowhere: {', '.join(parts)}",
            move.rule.span if move.rule else None,
            fix=f'write a rule for each of them: "{name}"{parts[0]} -> …',
        )


def _error(code: str, message: str, *spans: Span | None, fix: str | None = None) -> NetcError:
    return NetcError([Diagnostic(code, message, tuple(Label(s) for s in spans if s), fix=fix)])


_WILD = re.compile(r"\{\s*([A-Za-z_]\w*)\s*(\*\*)?\s*\}|(\*\*)|(\*)|([{}])")
_MANY = 2
"""Wildcards across dots in one pattern, so that matching a name costs at most the square of its length."""
_FEW = 3
"""Wildcards in one segment."""


def _compile(pattern: str, numeric: frozenset[str], span: Span | None) -> re.Pattern[str]:
    """The pattern as a regular expression.

    A segment without `**` can match in one way only as far as its neighbours are concerned, and is made atomic: no
    pattern, however hostile, backtracks across segments except through its few `**`.
    """
    seen: set[str] = set()
    segments: list[str] = []
    many = 0
    for segment in pattern.split("."):
        text, wide, narrow = _segment(pattern, segment, numeric, seen, span)
        many += wide
        if many > _MANY or narrow > _FEW:
            limit = f"{_MANY} wildcards across dots" if many > _MANY else f"{_FEW} wildcards in a segment"
            raise _error("bad-pattern", f'"{pattern}" has more than {limit}', span)
        segments.append(text if wide else rf"(?>{text}(?=\.|\Z))")
    return re.compile(r"\.".join(segments), re.DOTALL)


def _segment(
    pattern: str, segment: str, numeric: frozenset[str], seen: set[str], span: Span | None
) -> tuple[str, int, int]:
    """A segment as a regular expression, and its numbers of wildcards across dots and within."""
    text, at, wide, narrow = "", 0, 0, 0
    for found in _WILD.finditer(segment):
        text += re.escape(segment[at : found.start()])
        at = found.end()
        name, tail, double, single, brace = found.groups()
        if brace:
            raise _error("bad-pattern", f'"{pattern}" has a brace that opens no {{name}}', span)
        if name and name in seen:
            text += f"(?P={name})"
            continue
        across = bool(double or tail or name == "rest")
        wide, narrow = wide + across, narrow + (not across)
        body = "." if across else "[^.]"
        if name:
            seen.add(name)
            text += f"(?P<{name}>{'[0-9]{1,9}' if name in numeric else body + '+'})"
        else:
            text += ("." if double else "[^.]" if single else "") + "*"
    return text + re.escape(segment[at:]), wide, narrow


@dataclass(frozen=True, slots=True)
class Expression:
    """Integer arithmetic over captured names: what stands in the braces of a target."""

    names: tuple[str, ...]
    number: Callable[[Mapping[str, str]], int]
    bare: bool

    def text(self, captured: Mapping[str, str]) -> str:
        """What is written in the braces' place; a name alone keeps its captured text."""
        return captured[self.names[0]] if self.bare else str(self.number(captured))


_LONGEST = 100
"""Characters of an expression: deeper nesting than this allows has no use, and could exhaust the stack."""
_TOKEN = re.compile(r"\s*(?:([0-9]{1,9})|([A-Za-z_]\w*)|(//|[-+*%()]))")
_BRACES = re.compile(r"\{([^{}]*)\}|([{}])")


def _template(target: str, span: Span | None) -> Iterator[str | Expression]:
    at = 0
    for found in _BRACES.finditer(target):
        if found[2]:
            raise _error("bad-target", f'"{target}" has an unbalanced brace', span)
        yield target[at : found.start()]
        yield _parse(found[1], span)
        at = found.end()
    yield target[at:]


def _parse(text: str, span: Span | None) -> Expression:
    tokens = _tokens(text, span)
    parser = _Parser(text, tokens, span)
    number = parser.sum()
    parser.expect_end()
    names = tuple(dict.fromkeys(t for t in tokens if t[0].isalpha() or t[0] == "_"))
    return Expression(names, number, bare=len(tokens) == 1 and len(names) == 1)


def _tokens(text: str, span: Span | None) -> list[str]:
    found: list[str] = []
    at = 0
    rest = text.rstrip()
    while at < len(rest):
        match = _TOKEN.match(rest, at)
        if match is None or len(text) > _LONGEST:
            raise _bad_expression(text, span)
        found.append(match[0].strip())
        at = match.end()
    return found


def _bad_expression(text: str, span: Span | None) -> NetcError:
    return _error(
        "bad-target",
        f"“{text[:_LONGEST]}” is no arithmetic of integers and captured names",
        span,
        fix='write a captured name, or arithmetic with + - * // % and parentheses, such as "{i + 1}"',
    )


Number = Callable[[Mapping[str, str]], int]

_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
}


class _Parser:
    """Recursive descent: a sum of products of atoms, each a number, a name, a sum in parentheses or a negated atom."""

    def __init__(self, text: str, tokens: list[str], span: Span | None) -> None:
        self._text = text
        self._tokens = [*tokens, ""]
        self._at = 0
        self._span = span

    def sum(self) -> Number:
        return self._chain(self._product, ("+", "-"))

    def expect_end(self) -> None:
        if self._tokens[self._at]:
            raise _bad_expression(self._text, self._span)

    def _product(self) -> Number:
        return self._chain(self._atom, ("*", "//", "%"))

    def _chain(self, operand: Callable[[], Number], operators: Iterable[str]) -> Number:
        value = operand()
        while self._tokens[self._at] in operators:
            value = _binary(_OPERATIONS[self._next()], value, operand())
        return value

    def _next(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1]

    def _atom(self) -> Number:
        token = self._next()
        if token == "-":
            inner = self._atom()
            return lambda captured: -inner(captured)
        if token == "(":
            value = self.sum()
            if self._next() != ")":
                raise _bad_expression(self._text, self._span)
            return value
        if token.isdigit():
            return lambda captured: int(token)
        if token[:1].isalpha() or token[:1] == "_":
            return lambda captured: int(captured[token])
        raise _bad_expression(self._text, self._span)


def _binary(operation: Callable[[int, int], int], a: Number, b: Number) -> Number:
    return lambda captured: operation(a(captured), b(captured))
