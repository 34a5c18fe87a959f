"""Taking a kernel's formulas apart, and putting others in their places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..index import literal
from ..untyped import Analyzer, Load, Range, mutate, tirx, walk


def loads(expression: Any) -> list[Any]:
    found: list[Any] = []
    walk(expression, (Load, found.append))
    return found


def replaced(expression: Any, variables: Mapping[Any, Any]) -> Any:
    """The expression with other expressions for variables."""
    return mutate(expression, (tirx.Var, lambda v, _: variables.get(v, v)))


def simplified(expression: Any, extents: Mapping[Any, Any]) -> Any:
    """The expression with its indices simplified for variables from 0 to below their extents."""
    analyzer = Analyzer()
    for variable, extent in extents.items():
        if isinstance(extent, int):
            analyzer.bind(variable, Range(literal(0), literal(extent)))

    def load(value: Any, _: Any) -> Any:
        return tirx.BufferLoad(value.source, [analyzer.simplify(i) for i in value.indices])

    return mutate(expression, (Load, load))


def instead(expression: Any, buffer: Any, element: Any) -> Any:
    """The expression with `element` for what it reads from a buffer."""
    return mutate(
        expression, (Load, lambda load, m: element if load.source.same_as(buffer) else m.default_mutate(load))
    )
