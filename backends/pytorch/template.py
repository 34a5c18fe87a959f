"""Source text with places that are filled in later: variables by number, and literals that may become arguments.

A rule writes an expression once for each node; which variable holds an operand, and whether a number is the same in
all instances of a class, is only known afterwards. Until then both are marked in the text by private characters.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

_MARK = re.compile("\ue000([a-z]+)([0-9]+)(?::([0-9]+))?\ue001")

REQUIRED: Any = object()
"""The default of an argument that has none."""


RESERVED = frozenset({*keyword.kwlist, "self", "torch", "nn", "F", "json", "device", "dtype"})
"""Names that generated code gives to nothing of the model's."""


class Rank(IntEnum):
    """How tightly an expression binds, as in Python; an operand of a higher rank than its place allows is bracketed."""

    ATOM = 0
    POWER = 1
    UNARY = 2
    MULTIPLY = 3
    ADD = 4
    AND = 5
    OR = 6
    COMPARE = 7
    ANY = 9


class Expression(NamedTuple):
    """A piece of Python and how tightly it binds. `tuple`: it gives a tuple even where that has one element; `targets`:
    how that is taken apart, where it is nested."""

    text: str
    rank: Rank = Rank.ATOM
    tuple: bool = False
    targets: str = ""


@dataclass(frozen=True, slots=True)
class Hole:
    """A literal. `hint` names it where it becomes an argument; with a `default`, it is written as a keyword argument,
    and not at all where it is the default. `owner` is the member or variable that it belongs to."""

    value: Any
    hint: str
    owner: str
    default: Any = REQUIRED


def variable(number: int, rank: Rank) -> str:
    """The place of variable `number` where operands up to `rank` need no brackets."""
    return f"\ue000v{number}:{int(rank)}\ue001"


def literal(number: int) -> str:
    """The place of hole `number`."""
    return f"\ue000l{number}\ue001"


def option(number: int) -> str:
    """The place of hole `number` as `, hint=value`, which may turn out empty."""
    return f"\ue000o{number}\ue001"


def argument(number: int) -> str:
    """The name of forward argument `number`."""
    return f"\ue000a{number}\ue001"


def fill(text: str, kinds: str, give: Callable[[str, int, Rank], str]) -> str:
    """The text with each mark of the kinds (letters of `"vloa"`) replaced by `give(kind, number, rank)`."""

    def replace(match: re.Match[str]) -> str:
        kind, number, rank = match.groups()
        return give(kind, int(number), Rank(int(rank or Rank.ANY))) if kind in kinds else match.group()

    return _MARK.sub(replace, text)


def variables(text: str) -> list[int]:
    """The variables that a text reads, in order, as often as it does."""
    return [int(number) for kind, number, _ in _MARK.findall(text) if kind == "v"]


def length(text: str) -> int:
    """About how long the text will be."""
    return len(_MARK.sub("xxxx", text))


def nesting(text: str) -> tuple[int, int]:
    """How many calls are open at the end of a text, and how deep they are nested in it at most."""
    stack: list[bool] = []
    deepest = 0
    for before, c in zip(" " + text, text, strict=False):
        if c in "([{":
            stack.append(c == "(" and (before.isalnum() or before in "_]"))
            deepest = max(deepest, sum(stack))
        elif c in ")]}":
            stack.pop()
    return sum(stack), deepest


def bracket(expression: Expression, rank: Rank) -> str:
    """The expression for a place that takes operands up to `rank`."""
    return f"({expression.text})" if expression.rank > rank else expression.text


def python(value: Any) -> str:
    """A literal as Python writes it; infinities through `float`."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return f'float("{value}")'
    if isinstance(value, tuple | list):
        items = [python(v) for v in value]  # type: ignore[reportUnknownVariableType]
        if isinstance(value, list):
            return f"[{', '.join(items)}]"
        return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return repr(value)


def wrap(line: str, width: int = 110) -> list[str]:
    """A line of code broken inside its outermost brackets, one argument a line, where it is too long."""
    if len(line) <= width:
        return [line]
    start, depth, parts, last = -1, 0, list[str](), 0
    quoted = False
    for i, c in enumerate(line):
        if c == '"' and line[i - 1] != "\\":
            quoted = not quoted
        elif quoted:
            continue
        elif c in "([{":
            depth += 1
            if depth == 1 and start < 0:
                start = last = i + 1
        elif c in ")]}":
            depth -= 1
            if depth == 0 and start >= 0:
                return _broken(line, start, i, [*parts, line[last:i]], width)
        elif c == "," and depth == 1:
            parts.append(line[last:i])
            last = i + 1
    return [line]


def _broken(line: str, start: int, end: int, parts: Sequence[str], width: int) -> list[str]:
    if len(parts) == 1 and " for " in parts[0]:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    comma = "," if len(parts) > 1 else ""
    inner = [piece for part in parts if part.strip() for piece in wrap(f"{indent}    {part.strip()}{comma}", width)]
    return [line[:start], *inner, f"{indent}{line[end:]}"]
