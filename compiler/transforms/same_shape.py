"""Models that are to be merged: whether they are one architecture, and their parameters side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..contract import Contract
from ..graph import Graph, Parameter
from .numbers import arrays, filled, made
from .register import Outcome, Refusal

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

Combine = Callable[[str, Sequence["Array"]], "Array"]
"""One array of several, for the parameter of a path."""


def require_same(models: Sequence[Graph], option: str | None = None) -> None:
    """
    Raises:
        Refusal: where the models are not one architecture: a node or parameter differs.
    """
    first = models[0]
    for other in models[1:]:
        if nodes := list(_different_nodes(first, other)):
            text = f"{other.name} is another architecture than {first.name}: nodes differ"
            fix = "transport aligns models of other widths and depths" if option is None else None
            raise Refusal(text, nodes=nodes, option=option, fix=fix)
        paths = [p for p in dict.fromkeys([*first.parameters, *other.parameters]) if _types(first, other, p)]
        if paths:
            notes = tuple(f"{p}: {_types(first, other, p)}" for p in paths[:5])
            raise Refusal(f"{len(paths)} parameters of {other.name} differ from those of {first.name}", notes=notes)


def _different_nodes(first: Graph, other: Graph) -> Iterator[str]:
    for path in dict.fromkeys([*first.nodes, *other.nodes]):
        if first.nodes.get(path) != other.nodes.get(path):
            yield path


def _types(first: Graph, other: Graph, path: str) -> str:
    """In which types two models have a parameter, where they differ."""
    a, b = (str(m.parameters[path].type) if path in m.parameters else "none" for m in (first, other))
    return "" if a == b else f"{a} and {b}"


def names(models: Sequence[Graph]) -> list[str]:
    """What the models are called; those of one name are numbered."""
    plain = [m.name for m in models]
    return [n if plain.count(n) == 1 else f"{n}~{plain[: i + 1].count(n)}" for i, n in enumerate(plain)]


def combined(models: Sequence[Graph], combine: Combine, seed: int, note: str) -> Outcome:
    """The first model with parameters that `combine` makes of those of all.

    Raises:
        Refusal: where a parameter of whole numbers differs.
    """
    first = models[0]
    parameters = [_combined([m.parameters[path] for m in models], combine, seed) for path in first.parameters]
    called = names(models)
    sources = {p.path: tuple(f"{n}.{p.path}" for n in called) for p in parameters if p.type.dtype.is_float}
    kept = "architecture, shapes and parameters are those of each model"
    return Outcome(first.with_parameters(parameters), Contract("alters"), (note, kept), sources)


def _combined(same: Sequence[Parameter], combine: Combine, seed: int) -> Parameter:
    first = same[0]
    if first.type.dtype.is_float:
        return made(first, lambda *given: combine(first.path, given), *same, seed=seed)
    numbers = arrays(same, seed)
    if any((n != numbers[0]).any() for n in numbers):
        raise Refusal(f"{first.path} holds whole numbers, which differ: they have no mean")
    return filled(first, seed)
