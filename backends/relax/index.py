"""Arithmetic on indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .untyped import tirx


def literal(value: int) -> Any:
    """An index constant. Indices are int64 throughout: TVM does not simplify across widths."""
    return tirx.IntImm("int64", value)


def unflatten(position: Any, extents: Sequence[Any]) -> list[Any]:
    """The index into axes of these extents at a row-major position."""
    index: list[Any] = []
    for extent in reversed(extents[1:]):
        index.insert(0, tirx.floormod(position, extent))
        position = tirx.floordiv(position, extent)
    return [position, *index] if extents else []


def flatten(index: Sequence[Any], extents: Sequence[Any]) -> Any:
    """The row-major position of an index."""
    position: Any = literal(0)
    for i, extent in zip(index, extents, strict=True):
        position = position * extent + i
    return position
