"""Merging after bringing the units of the models (channels, heads, hidden features) into one order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ..axes import Analysis, AxisClass, analyse, sums
from ..calibration import Calibration
from ..graph import Graph, Parameter, Value
from ..merging import combine
from ..merging.evidence import Evidence, of_activations, of_weights
from ..merging.maps import Maps
from ..merging.match import Found, Likeness, Matching, assign, transport
from .average import shares
from .balance_depth import balanced
from .numbers import filled, made
from .register import Outcome, Refusal, word
from .same_shape import combined, require_same, require_same_but_widths
from .solve import features

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@dataclass(frozen=True)
class Matched:
    """The mean, after the units of each model are brought into the order of the first."""

    weights: list[float] | None = None
    iterations: Annotated[int, Field(ge=0)] = 100

    by = "weights"

    def merge(self, models: Sequence[Graph], seed: int) -> Outcome:
        shared = shares(self.weights, len(models))
        first, *others = [analyse(m) for m in self.prepared([with_numbers(m, seed) for m in models], seed)]
        aligned = [first.graph, *(moved(self.maps(first, o, seed)) for o in others)]
        text = (
            f"the units of {len(permutable(first))} classes are matched by {self.by}",
            f"each number is the mean of {len(models)}, with the weights {', '.join(f'{w:g}' for w in shared)}",
        )
        named = [replace(a, name=m.name) for a, m in zip(aligned, models, strict=True)]
        return combined(named, lambda _, given: combine.average(given, shared), seed, *text)

    def prepared(self, models: Sequence[Graph], seed: int) -> Sequence[Graph]:
        """The models, made of one depth where that is a part of the method."""
        return models

    def maps(self, first: Analysis, other: Analysis, seed: int) -> Maps:
        """What brings another model's units into the order of the first.

        Raises:
            Refusal: where they are of different architectures.
        """
        return self.matching(first, other).run(self.iterations, seed)

    def matching(self, first: Analysis, other: Analysis) -> Matching:
        """What finds them; see `maps`."""
        require_same([first.graph, other.graph])
        return Matching(first, other, permutable(first), self.evidence(first, other), assign)

    def evidence(self, first: Analysis, other: Analysis) -> list[Evidence]:
        """What tells which unit is which."""
        return of_weights(first, other)


@word("weight_matching")
@dataclass(frozen=True)
class WeightMatching(Matched):
    """The mean, after the units of each model are brought into the order of the first: by the permutations of all
    permutable classes that bring the weights nearest to each other (Git Re-Basin: Ainsworth et al., 2023, §3.2).
    `iterations` is how often each class is looked at again at most."""


@word("activation_matching")
@dataclass(frozen=True)
class ActivationMatching(Matched):
    """As `weight_matching`, but those units belong together whose activations on examples are most correlated (Li et
    al., 2016; Git Re-Basin: Ainsworth et al., 2023, §3.1): what the layers that sum over a class are given."""

    calibration: Calibration = field(kw_only=True)
    samples: Annotated[int, Field(ge=1)] | None = None

    by = "activations"

    def evidence(self, first: Analysis, other: Analysis) -> list[Evidence]:
        return seen_by_layers(first, other, self.calibration, self.samples)


@word("transport")
@dataclass(frozen=True)
class Transport(Matched):
    """The mean, after each unit of the first model gets units of the others by optimal transport (OTFusion: Singh and
    Jaggi, 2020; of transformers: Imfeld et al., 2024). Widths may differ; those of the first stay. A model with fewer
    blocks gets ones that pass on what they are given, where examples say that it lacks them (CLAFusion: Nguyen et al.,
    2023).

    `regularization`, in units of the mean cost, makes it soft: a unit is then a mean of several. With a `calibration`
    units are compared by activations, else by weights."""

    regularization: Annotated[float, Field(ge=0)] = 0.0
    calibration: Calibration | None = None
    samples: Annotated[int, Field(ge=1)] | None = None

    by = "optimal transport"

    def prepared(self, models: Sequence[Graph], seed: int) -> Sequence[Graph]:
        first, *others = models
        return [first, *(balanced(first, m, self.calibration, self.samples, seed) for m in others)]

    def matching(self, first: Analysis, other: Analysis) -> Matching:
        require_same_but_widths(first, other)
        return Matching(first, other, permutable(first), self.evidence(first, other), self._solve)

    def evidence(self, first: Analysis, other: Analysis) -> list[Evidence]:
        if self.calibration is None:
            return of_weights(first, other)
        return seen_by_layers(first, other, self.calibration, self.samples)

    def _solve(self, likeness: Likeness) -> Found:
        return transport(likeness, self.regularization)


def seen_by_layers(first: Analysis, other: Analysis, calibration: Calibration, samples: int | None) -> list[Evidence]:
    """The activations of two models that layers sum over, for the same examples; and the weights, for units that the
    examples do not tell apart.

    Raises:
        Refusal: where a class has none.
    """
    wanted = permutable(first)
    values: dict[Value, list[int]] = {}
    for own in wanted:
        found = [p.ref for _, places in sums(first, own) for p in places if isinstance(p.ref, Value)]
        if not found:
            raise Refusal(f"no layer sums over the {own.size} units ({own.unit}) of {own.places[0]}: match by weights")
        for ref in found:
            axes = range(len(first.axes[ref]))
            values[ref] = [k for k in axes if any(c in wanted for c, _ in first.of(ref, k))]
    given = (observed(a.graph, calibration, samples, values) for a in (first, other))
    weights = (replace(e, weight=e.weight * _HINT) for e in of_weights(first, other))
    return [*of_activations(first, other, values, *given), *weights]


_HINT = 1e-6
"""What weights count for beside activations."""


def observed(
    graph: Graph, calibration: Calibration, samples: int | None, values: Mapping[Value, Sequence[int]]
) -> dict[Value, Array]:
    """Values of a graph for examples: those of the axes given, and as the last axis some positions of all others, the
    same ones for any model."""
    import numpy

    outputs = {str(i): v for i, v in enumerate(values)}
    found: dict[Value, list[Array]] = {v: [] for v in values}
    for batch in features(replace(graph, outputs=outputs), calibration, samples):
        for (value, kept), array in zip(values.items(), batch.values(), strict=True):
            others = [k for k in range(array.ndim) if k not in kept]
            flat = array.transpose(*kept, *others).reshape(*(array.shape[k] for k in kept), -1)
            found[value].append(flat[..., :: max(1, flat.shape[-1] // _POSITIONS)])
    return {v: numpy.concatenate(arrays, -1) for v, arrays in found.items()}


_POSITIONS = 512
"""So many positions of a value are looked at for each few examples: neighbours tell little more."""


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

        return made(parameter, numbers, type=maps.type(parameter))

    return graph.with_parameters(one(p) if p.type.dtype.is_float else p for p in graph.parameters.values())
