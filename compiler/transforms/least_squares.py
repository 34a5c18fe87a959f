"""Merging by least squares: each layer gives what those of the models give, on their own examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ..calibration import Calibration
from ..graph import Graph, Ref
from ..merging import combine
from ..merging.least_squares import Equations, Layer, inputs, joined, layers, parted
from ..passes.widen import widen
from .numbers import arrays, held
from .register import Outcome, Refusal, word
from .same_shape import combined, require_same
from .solve import features

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@word("least_squares")
@dataclass(frozen=True)
class LeastSquares:
    """Each layer gives what it gives in each model, as nearly as one weight can, on that model's examples: one
    `calibrations` for each. In closed form and float64 what Mix-of-Show's gradient fusion (Gu et al., 2023, §3.3) looks
    for: of all solutions the one nearest to the mean. For models that differ by low-rank updates, `fold_weights` first.

    `ridge`, relative to the mean square of a layer's inputs, draws to the mean. Other parameters are means."""

    calibrations: list[Calibration]
    samples: Annotated[int, Field(ge=1)] | None = None
    ridge: Annotated[float, Field(ge=0)] = 0.0

    def merge(self, models: Sequence[Graph], seed: int) -> Outcome:
        require_same(models)
        if len(self.calibrations) != len(models):
            count = len(self.calibrations)
            raise Refusal(f"{len(models)} models need as many calibrations, and here are {count}", option="method")
        found = layers(models[0])
        weights = [1.0] * len(models)
        mean = combined(models, lambda _, given: combine.average(given, weights), seed, "")
        equations = {layer: Equations() for layer in found}
        numbers = [_numbers(m, found, seed) for m in [mean.graph, *models]]
        for model, data, own in zip(models, self.calibrations, numbers[1:], strict=True):
            for layer, x in given(model, found, data, self.samples, seed):
                seen = inputs(layer, x)
                change = [a - b for a, b in zip(own[layer], numbers[0][layer], strict=True)]
                equations[layer].add(seen, [a @ w.T for a, w in zip(seen, change, strict=True)])
        changed: dict[str, Array] = {}
        for layer in found:
            moved = [a + b for a, b in zip(numbers[0][layer], equations[layer].solve(self.ridge), strict=True)]
            changed.update(parted(layer, moved, _shape(models[0], layer.weight)))
        graph = mean.graph.with_parameters(held(models[0].parameters[p], a) for p, a in changed.items())
        others = sum(p.path not in changed for p in graph.parameters.values())
        notes = (
            f"{len(found)} layers give what they give in each model on {', '.join(c.name for c in self.calibrations)}",
            f"the other {others} parameters are means",
        )
        return replace(mean, graph=graph, notes=(*notes, mean.notes[-1]))


def given(
    graph: Graph, found: Sequence[Layer], data: Calibration, samples: int | None, seed: int
) -> Iterator[tuple[Layer, Array]]:
    """What each layer reads for some examples, and for the next ones; in float64."""
    read = [(layer, node.inputs[0]) for layer in found for node in layer.nodes]
    watched: dict[str, Ref] = {str(i): ref for i, (_, ref) in enumerate(read) if ref is not None}
    wide = widen(replace(graph, outputs=watched), seed, narrow=True)
    for batch in features(wide, data, samples):
        yield from ((layer, x) for (layer, _), x in zip(read, batch.values(), strict=True))


def _numbers(graph: Graph, found: Sequence[Layer], seed: int) -> Mapping[Layer, list[Array]]:
    """The matrices of layers."""

    def one(path: str) -> Array:
        return arrays([graph.parameters[path]], seed)[0]

    return {x: joined(x, one(x.weight), one(x.bias) if x.bias else None) for x in found}


def _shape(graph: Graph, path: str) -> tuple[int, ...]:
    return tuple(int(str(d)) for d in graph.parameters[path].type.shape)
