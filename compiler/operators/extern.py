"""A user's own function as an operator."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, cast

from pydantic import AfterValidator, InstanceOf

from ..types import TensorType
from .dimension import frozen, given
from .operator import Axes, Operator, Types, operands, operator

_PLACE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def _places(implementations: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    for backend, place in implementations:
        if not _PLACE.fullmatch(place):
            raise ValueError(f'should be "module:function" for {backend}, not "{place}"')
    if len({backend for backend, _ in implementations}) < len(implementations):
        raise ValueError("should name each backend once")
    return implementations


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, cast("Sequence[Any]", value))) if isinstance(value, (list, tuple)) else value


@operator("extern")
class Extern(Operator):
    """A function that only backends know, by the implementation that its declaration names for each of them.

    `types` are what the declaration's shape rule gives for the inputs at hand. The trailing underscores keep `name_`
    and `attributes_` apart from the class's own members.
    """

    operands = operands("tensors*")
    name_: str
    types: tuple[InstanceOf[TensorType], ...]
    attributes_: tuple[tuple[str, Annotated[Any, AfterValidator(_hashable)]], ...] = ()
    implementations: Annotated[tuple[tuple[str, str], ...], AfterValidator(_places)] = ()

    def shape(self, *inputs: TensorType | None) -> Types:
        return self.types

    def axes(self, *inputs: TensorType | None) -> Axes:
        return frozen(given(inputs), self.types, f"only the function {self.name_} knows what it means")
