"""Merging after bringing the units of the models (channels, heads, hidden features) into one order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..axes import Analysis, AxisClass, analyse
from ..graph import Graph, Parameter
from ..merging import combine
from ..merging.evidence import of_weights
from ..merging.maps import Maps
from ..merging.match import Matching, assign
from .average import shares
from .numbers import filled, made
from .register import Outcome, word
from .same_shape import combined, require_same

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@word("weight_matching")
@dataclass(frozen=True)
class WeightMatching:
    """The mean, after the units of each model are brought into the order of the first: the permutations of all
    permutable classes that make the sum of products of the weights largest (Git Re-Basin: Ainsworth et al., 2023,
    §3.2). `iterations` is how often each class is looked at again at most."""

    weights: list[float] | None = None
    iterations: int = 100

    def merge(self, models: Sequence[Graph], seed: int) -> Outcome:
        require_same(models)
        weights = shares(self.weights, len(models))
        first, *others = [analyse(with_numbers(m, seed)) for m in models]
        aligned = [first.graph, *(moved(self.maps(first, o, seed)) for o in others)]
        count = len(permutable(first))
        text = f"the units of {count} classes matched by weights; each number is the mean of {len(models)}"
        return combined(aligned, lambda _, given: combine.average(given, weights), seed, text)

    def maps(self, first: Analysis, other: Analysis, seed: int) -> Maps:
        """What brings another model's units into the order of the first."""
        matching = Matching(first, other, permutable(first), of_weights(first, other), assign)
        return matching.run(self.iterations, seed)


def with_numbers(graph: Graph, seed: int) -> Graph:
    """The graph with data for every parameter."""
    return graph.with_parameters(filled(p, seed) for p in graph.parameters.values())


def permutable(analysis: Analysis) -> list[AxisClass]:
    return [c for c in analysis.classes if c.permutable]


def moved(maps: Maps) -> Graph:
    """The graph with its units mapped."""
    graph = maps.analysis.graph

    def one(parameter: Parameter) -> Parameter:
        def numbers(array: Array) -> Array:
            return maps.parameter(parameter.path, array)

        return made(parameter, numbers)

    return graph.with_parameters(one(p) if p.type.dtype.is_float else p for p in graph.parameters.values())
