"""Models that are to be merged: whether they are one architecture, and their parameters side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..axes import Analysis
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


def require_same_but_widths(first: Analysis, other: Analysis) -> None:
    """
    Raises:
        Refusal: where two models differ by more than the sizes of classes that may be permuted in both.
    """
    a, b = first.graph, other.graph
    if nodes := [p for p in dict.fromkeys([*a.nodes, *b.nodes]) if not _resembles(first, other, p)]:
        raise Refusal(f"{b.name} differs from {a.name} in more than widths", nodes=nodes)
    for own, there in zip(first.classes, other.classes, strict=False):
        if [(p.ref, p.axis) for p in own.places] != [(p.ref, p.axis) for p in there.places]:
            raise Refusal(f"{b.name} differs from {a.name} in how {own.places[0].ref} is taken apart")
        if own.size != there.size and not (own.permutable and there.permutable):
            reasons = [*own.fixed, *own.ordered, *there.fixed, *there.ordered]
            where = f"{own.places[0].ref} is {own.size} in {a.name} and {there.size} in {b.name}"
            raise Refusal(f"{where}, which cannot be changed", nodes=[r.node for r in reasons if r.node])
    if len(first.classes) != len(other.classes):
        raise Refusal(f"{b.name} has other dimensions than {a.name}")


def _resembles(first: Analysis, other: Analysis, path: str) -> bool:
    """Whether both models have a node, of one kind, that reads the same, and differs in sizes at most."""
    a, b = first.graph.nodes.get(path), other.graph.nodes.get(path)
    if a is None or b is None or type(a.op) is not type(b.op) or a.inputs != b.inputs or a.phase != b.phase:
        return False
    sizes = {label: first.structure.size(d) for label, d in first.labels[path].dimensions.items()}
    return b == a or (sizes.keys() == other.labels[path].dimensions.keys() and b.op.resized(sizes, a.types) == a.op)


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


def combined(models: Sequence[Graph], combine: Combine, seed: int, *notes: str) -> Outcome:
    """The first model with parameters that `combine` makes of those of all.

    Raises:
        Refusal: where a parameter of whole numbers differs.
    """
    first = models[0]
    parameters = [_combined([m.parameters[path] for m in models], combine, seed) for path in first.parameters]
    called = names(models)
    sources = {p.path: tuple(f"{n}.{p.path}" for n in called) for p in parameters if p.type.dtype.is_float}
    kept = f"architecture, shapes and parameters are those of {first.name}"
    return Outcome(first.with_parameters(parameters), Contract("alters"), (*notes, kept), sources)


def _combined(same: Sequence[Parameter], combine: Combine, seed: int) -> Parameter:
    first = same[0]
    if first.type.dtype.is_float:
        return made(first, lambda *given: combine(first.path, given), *same, seed=seed)
    numbers = arrays(same, seed)
    if any((n != numbers[0]).any() for n in numbers):
        raise Refusal(f"{first.path} holds whole numbers, which differ: they have no mean")
    return filled(first, seed)
