"""What the language offers, told from the operator classes themselves."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from typing import Any

from . import operators as _families
from .operators.operator import LAYERS, OPERATORS, Operator

assert _families  # importing the families fills OPERATORS and LAYERS


def operator_names() -> list[str]:
    """Every operator that can be written in a spec, alphabetically."""
    return sorted(OPERATORS)


def describe_operator(name: str) -> str:
    """Signature, tensor inputs, results and docstring of one operator."""
    cls = OPERATORS[name]
    constructor: type[Any] = LAYERS.get(name, cls)
    lines = [f"{name}({', '.join(_field(f) for f in fields(constructor))})"]
    lines.append(f"  inputs   {', '.join(_operands(cls)) or 'none'}")
    lines.append(f"  results  {', '.join(cls.outputs)}")
    if cls.derived:
        lines.append("  derived  expands into simpler operators where a backend has no rule of its own")
    documentation = inspect.getdoc(cls)
    if documentation:
        lines += ["", *(f"  {line}".rstrip() for line in documentation.splitlines())]
    return "\n".join(lines)


def _field(field: Any) -> str:
    if field.default is not MISSING:
        return f"{field.name} = {_value(field.default)}"
    if field.default_factory is not MISSING:
        return f"{field.name} = {_value(field.default_factory())}"
    return field.name


def _value(value: Any) -> str:
    words = {True: "true", False: "false", None: "none"}
    if isinstance(value, (bool, type(None))):
        return words[value]
    if isinstance(value, tuple):
        return f"[{', '.join(_value(v) for v in value)}]"  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return f'"{value}"' if isinstance(value, str) else str(value)


def _operands(cls: type[Operator]) -> list[str]:
    marks = {(False, False): "", (True, False): " (optional)", (False, True): " (a list)"}
    return [o.name + marks.get((o.optional, o.variadic), " (a list, optional)") for o in cls.operands]
