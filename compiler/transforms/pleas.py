"""Two models merged in part: some units of both become one, the others stay beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

from pydantic import Field

from ..axes import Analysis, AxisClass, Selection, analyse
from ..calibration import Calibration
from ..contract import Contract
from ..graph import Graph, ParameterRef, Ref
from ..merging.least_squares import Equations, inputs, joined, layers, outputs, parted
from ..merging.maps import Maps
from ..passes.computed import read
from ..passes.widen import widen
from .match_units import WeightMatching, permutable, with_numbers
from .numbers import held
from .register import Outcome, Refusal, word
from .same_shape import names
from .solve import features

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@word("pleas")
@dataclass(frozen=True)
class Pleas:
    """Two models matched by weights; then of each class the pairs of units that are most alike become one, so many that
    the class is `width` times as wide as in one model: 1 merges all, 2 none. Then, layer by layer, the weights that
    give, for the models' features on examples (the mean of a pair's), those of the next layer: least squares in float64
    (PLeaS: Nasery et al., 2024).

    `ridge`, relative to the mean square of a layer's inputs, draws to the mean of the weights. Classes over which a
    norm takes statistics, and features within heads, are merged whatever the width. Batch norms want
    `recompute_statistics` afterwards."""

    calibration: Calibration
    width: Annotated[float, Field(ge=1, le=2)] = 1.0
    samples: Annotated[int, Field(ge=1)] | None = None
    ridge: Annotated[float, Field(ge=0)] = 1e-6

    def merge(self, models: Sequence[Graph], seed: int) -> Outcome:
        if len(models) != 2:
            raise Refusal(f"pleas merges two models, and here {len(models)} are given", option="method")
        first, other = (analyse(with_numbers(m, seed)) for m in models)
        pairs = _paired(first, other, self.width, seed)
        graph = Selection(first, pairs.units).graph()
        numbers = {p: pairs.parameter(p) for p, own in graph.parameters.items() if own.type.dtype.is_float}
        solved = self._solve(graph, pairs, numbers)
        merged = graph.with_parameters(held(graph.parameters[p], a) for p, a in {**numbers, **solved}.items())
        called = names(models)
        notes = (
            f"{len(pairs.units)} classes are {self.width:g} times as wide, {len(pairs.maps[0].made)} are matched",
            f"the weights of {len(layers(graph))} layers are solved for on {self.calibration}",
        )
        sources = {p: tuple(f"{n}.{p}" for n in called) for p in numbers}
        return Outcome(merged, Contract("alters"), notes, sources)

    def _solve(self, graph: Graph, pairs: Pairs, numbers: Mapping[str, Array]) -> dict[str, Array]:
        """The parameters of layers that give the wanted features."""
        found = layers(graph)
        ends: list[tuple[Ref, Ref]] = [(cast(Ref, n.inputs[0]), n.value) for x in found for n in x.nodes]
        owners = [x for x in found for _ in x.nodes]
        start = {x: joined(x, numbers[x.weight], numbers[x.bias] if x.bias else None) for x in found}
        equations = {x: Equations() for x in found}
        watched: dict[str, Ref] = {str(ref): ref for pair in ends for ref in pair}
        wide = [widen(replace(m.analysis.graph, outputs=watched), narrow=True) for m in pairs.maps]
        runs = (features(g, self.calibration, self.samples) for g in wide)
        for one, two in zip(*runs, strict=True):
            for layer, (x, y) in zip(owners, ends, strict=True):
                seen = inputs(layer, pairs.mean(x, one[str(x)], two[str(x)]))
                wanted = outputs(layer, pairs.mean(y, one[str(y)], two[str(y)]))
                rest = [b - a @ w.T for a, b, w in zip(seen, wanted, start[layer], strict=True)]
                equations[layer].add(seen, rest)
        solved: dict[str, Array] = {}
        for layer in found:
            weights = [a + b for a, b in zip(start[layer], equations[layer].solve(self.ridge), strict=True)]
            solved.update(parted(layer, weights, numbers[layer.weight].shape))
        return solved


class Pairs(NamedTuple):
    """Where the units of two models are in one: `maps` has rows of zeros for units that a model has not."""

    maps: tuple[Maps, Maps]
    there: tuple[Maps, Maps]
    """The same, but that any unit counts along axes that are summed over."""
    units: Mapping[AxisClass, Array]
    """For each class that grows, which unit of the first model each new one is shaped after."""

    def mean(self, ref: Ref, one: Array, two: Array) -> Array:
        """The mean, of the models that have it, of each number of a value or parameter."""
        import numpy

        axes = [m.analysis.axes[ref] for m in self.maps]
        parameter = ref if isinstance(ref, ParameterRef) else None
        values = [m.moved(a, d, parameter) for m, a, d in zip(self.maps, (one, two), axes, strict=True)]
        ones = (numpy.ones_like(a) for a in (one, two))
        counts = [m.moved(a, d, parameter) for m, a, d in zip(self.there, ones, axes, strict=True)]
        return (values[0] + values[1]) / numpy.maximum(counts[0] + counts[1], 1)

    def parameter(self, path: str) -> Array:
        """The mean of a parameter."""
        return self.mean(ParameterRef(path), *(read(m.analysis.graph.parameters[path]) for m in self.maps))


def _paired(first: Analysis, other: Analysis, width: float, seed: int) -> Pairs:
    """The units that become one, and those that stay.

    Raises:
        Refusal: where no class can grow.
    """
    import numpy
    from scipy import sparse

    matching = WeightMatching().matching(first, other)
    maps = matching.run(WeightMatching().iterations, seed)
    growing = [c for c in permutable(first) if width > 1 and _grows(first, c)]
    if width > 1 and not growing:
        raise Refusal(f"no class of {first.graph.name} can be wider than merged", option="method")
    made: list[dict[int, Any]] = [{}, {}]
    units: dict[AxisClass, Array] = {}
    for own in permutable(first):
        size = cast(int, own.size)
        alone = numpy.zeros(0, int)
        if own in growing:
            likeness = matching.likeness(own, maps)
            order = maps.orders[own.number]
            products = likeness.products[range(size), order]
            alike: Array = 2 * products / (likeness.first + likeness.second[order])
            alone = numpy.sort(numpy.argsort(-alike, kind="stable")[2 * size - round(size * width) :])
            units[own] = numpy.concatenate([numpy.arange(size), alone])
        all_ = numpy.arange(size)
        rows = numpy.concatenate([numpy.setdiff1d(all_, alone), size + numpy.arange(len(alone))])
        columns = numpy.concatenate([numpy.setdiff1d(all_, alone), alone])
        total = size + len(alone)
        made[0][own.number] = sparse.csr_array((numpy.ones(size), (all_, all_)), shape=(total, size))
        second = sparse.csr_array((numpy.ones(size), (rows, columns)), shape=(total, size))
        made[1][own.number] = (second @ maps.made[own.number]).tocsr()
    analyses = (first, other)
    both = [Maps(a, m) for a, m in zip(analyses, made, strict=True)]
    there = [Maps(a, m, {n: _any(x) for n, x in m.items()}) for a, m in zip(analyses, made, strict=True)]
    return Pairs((both[0], both[1]), (there[0], there[1]), units)


def _any(matrix: Any) -> Any:
    """A matrix of this shape that gives ones for ones."""
    import numpy
    from scipy import sparse

    rows = int(matrix.shape[0])
    return sparse.csr_array((numpy.ones(rows), (numpy.arange(rows), numpy.zeros(rows, int))), shape=matrix.shape)


def _grows(analysis: Analysis, own: AxisClass) -> bool:
    """Whether units of another model may stand beside those of a class and change nothing for them."""
    graph = analysis.graph
    attentions = (n for n in graph.nodes.values() if n.op.name == "scaled_dot_product_attention")
    ends = [(ref, graph.type(ref).rank - 1) for n in attentions for ref in n.inputs[:3] if ref is not None]
    return not own.mixed and all(c != own for end in ends for c, _ in analysis.of(*end))
