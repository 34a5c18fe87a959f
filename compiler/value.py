"""What expressions evaluate to while a model is elaborated: tensors, and compile-time values of several kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import tree as t
from .graph import Phase, Ref
from .source import Span
from .types import Expression, TensorType


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value of the graph, and the place that computes it."""

    ref: Ref
    type: TensorType
    span: Span
    phase: Phase = "both"


@dataclass(frozen=True, slots=True)
class Given:
    """A compile-time argument with the place where it was written."""

    value: Any
    span: Span


@dataclass(frozen=True, slots=True)
class ModuleValue:
    """A module, with some or all of its compile-time parameters given. Applying it makes an instance."""

    declaration: t.Module
    home: Any
    """The file scope whose names the body sees."""
    bound: Mapping[str, Given] = field(default_factory=dict[str, Given])
    name: str | None = None
    """The path given with `as` before it was applied."""

    def __str__(self) -> str:
        return f"the module {self.declaration.name.text}"


@dataclass(frozen=True, slots=True)
class OperatorValue:
    """An operator or layer by name, with some attributes given. Applying it makes a node."""

    operator: str
    bound: Mapping[str, Given] = field(default_factory=dict[str, Given])
    name: str | None = None

    def __str__(self) -> str:
        return f"the operator {self.operator}"


@dataclass(frozen=True, slots=True)
class ExternValue:
    """A declared user's function."""

    declaration: t.Extern
    home: Any
    bound: Mapping[str, Given] = field(default_factory=dict[str, Given])
    name: str | None = None

    def __str__(self) -> str:
        return f"the extern {self.declaration.name.text}"


Constructor = ModuleValue | OperatorValue | ExternValue


@dataclass(slots=True)
class Instance:
    """A constructor bound with `let`: it owns its parameters, and every call shares them."""

    constructor: Constructor
    path: str
    span: Span
    calls: int = 0

    def __str__(self) -> str:
        return f"the instance {self.path}"


@dataclass(frozen=True, slots=True)
class Inside:
    """A path below an instance, on the way to one of its parameters (`attn.q` of `attn.q.weight`)."""

    path: str
    span: Span

    def __str__(self) -> str:
        return f"the instance {self.path}"


@dataclass(frozen=True, slots=True)
class FunctionValue:
    """A user's compile-time function."""

    declaration: t.Func
    home: Any

    def __str__(self) -> str:
        return f"the function {self.declaration.name.text}"


@dataclass(frozen=True, slots=True)
class BuiltinValue:
    """A compile-time function of the language."""

    name: str

    def __str__(self) -> str:
        return f"the function {self.name}"


class Poison:
    """Stands for a value whose computation was already reported, so that nothing else is reported about it."""


POISON = Poison()


def describe(value: Any) -> str:
    """What a value is, for messages: `a tensor f32[N, 3]`, `the integer 3`, `the list [1, 2]`."""
    if isinstance(value, Tensor):
        return f"a tensor {value.type}"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, int):
        return f"the integer {value}"
    if isinstance(value, Expression):
        return f"the dimension {value}"
    if isinstance(value, float):
        return f"the number {value}"
    if isinstance(value, str):
        return f'the string "{value}"'
    if isinstance(value, list):
        if contains_tensor(value):
            return f"a list of {len(value)} tensors"  # pyright: ignore[reportUnknownArgumentType]
        text = f"the list {value}"
        return text if len(text) < 80 else f"a list of {len(value)} items"  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(value, tuple):
        return f"a group of {len(value)} values"  # pyright: ignore[reportUnknownArgumentType]
    return str(value)


def contains_tensor(value: Any) -> bool:
    """Whether a value is a tensor or a list or group with one in it."""
    if isinstance(value, Tensor):
        return True
    return isinstance(value, (list, tuple)) and any(contains_tensor(v) for v in value)  # pyright: ignore[reportUnknownVariableType]
