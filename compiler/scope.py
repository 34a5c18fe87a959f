"""Names and where they live: files, calls, blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from . import tree as t
from .graph import Phase
from .source import Source, Span


@dataclass(eq=False)
class FileScope:
    """The declarations of one file by name; values of `let`s are computed when first asked for."""

    source: Source
    tree: t.File
    names: dict[str, Any] = field(default_factory=dict[str, Any])
    """Module, function and extern values, imported values, and evaluated or pending `let`s and models."""
    declared: dict[str, Span] = field(default_factory=dict[str, Span])


@dataclass(slots=True)
class Variable:
    """A name bound in a call: its value, and where it was bound last."""

    value: Any
    span: Span


@dataclass(eq=False, slots=True)
class Frame:
    """One application of a module: the prefix of its nodes, the prefix of its parameters, and its names."""

    home: FileScope
    path: str
    instance: str
    phase: Phase = "both"
    module: t.Module | None = None
    caller: Frame | None = None
    span: Span | None = None
    depth: int = 0
    blocks: list[dict[str, Variable]] = field(default_factory=lambda: [{}])
    closed: dict[str, Span] = field(default_factory=dict[str, Span])
    """Names whose block has ended, for the message about using them after it."""
    counters: dict[str, int] = field(default_factory=dict[str, int])
    used: dict[str, Span] = field(default_factory=dict[str, Span])

    def find(self, name: str) -> Variable | None:
        for block in reversed(self.blocks):
            if name in block:
                return block[name]
        return None

    def assign(self, name: str, value: Any, span: Span) -> None:
        """Bind a name: where it is bound already, else in the innermost block."""
        for block in reversed(self.blocks):
            if name in block:
                block[name] = Variable(value, span)
                return
        self.blocks[-1][name] = Variable(value, span)

    def declare(self, name: str, value: Any, span: Span) -> None:
        """Bind a name in the innermost block."""
        self.blocks[-1][name] = Variable(value, span)

    def open(self) -> None:
        self.blocks.append({})

    def close(self) -> None:
        for name, variable in self.blocks.pop().items():
            self.closed[name] = variable.span

    def unique(self, name: str) -> str:
        """`name`, or `name_1`, `name_2`, … where it is taken in this call."""
        number = self.counters.get(name)
        self.counters[name] = 0 if number is None else number + 1
        candidate = name if number is None else f"{name}_{number + 1}"
        return candidate if candidate not in self.used else self.unique(name)

    def names(self) -> Iterator[str]:
        for block in self.blocks:
            yield from block


def join(prefix: str, name: str) -> str:
    """A path below another; the root is empty."""
    return f"{prefix}.{name}" if prefix else name


def snake(name: str) -> str:
    """`MBConv` → `mb_conv`: the path of an instance that was not named."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
