"""How much the numbers of a model's parameters matter, and by them the units of its dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, Literal, cast

from ..axes import AxisClass, Place
from ..backend import backend
from ..calibration import Calibration, Noise
from ..diagnostic import nearest
from ..graph import Graph, Node, Parameter, ParameterRef
from ..passes.computed import read
from .numbers import filled
from .register import Refusal

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

Score = Literal["l1", "l2", "batch_norm", "taylor"] | dict[str, Any]
"""By what numbers are ranked: their size `l1`, its square `l2`, the size of the gains of batch norms (Liu et al.,
"Learning efficient convolutional networks through network slimming", 2017), what the first order of a Taylor series
says that the outputs lose with them, |w · ∂/∂w| (Molchanov et al., "Importance estimation for neural network pruning",
2019), or an array given for each parameter."""


class Importance:
    """The importance of every number of the parameters of a graph, which are drawn from `seed` where they have no data.

    `taylor` takes the sum of squares of all outputs for what must not change, on `calibration` or, without any, on
    random inputs.
    """

    def __init__(
        self,
        graph: Graph,
        score: Score,
        calibration: Calibration | None = None,
        samples: int | None = None,
        seed: int = 0,
    ) -> None:
        """
        Raises:
            Refusal: for numbers that are given for a parameter that is not there, or in another shape.
        """
        self._graph = graph
        self._score = score
        self._calibration = calibration or random_inputs(seed)
        self._samples = samples
        self._seed = seed
        self._profiles: dict[tuple[str, int], Array] = {}
        if isinstance(score, dict):
            for path, numbers in score.items():
                self._check(path, numbers)

    def _check(self, path: str, numbers: Any) -> None:
        import numpy

        if path not in self._graph.parameters:
            fix = nearest(path, self._graph.parameters)
            raise Refusal(f"a score is given for {path}, which is no parameter", option="score", fix=fix)
        found, wanted = numpy.shape(numbers), self._graph.parameters[path].type.shape
        if found != wanted:
            message = f"the score of {path} is {list(found)}, and the parameter {list(wanted)}"
            raise Refusal(message, nodes=[path], option="score")

    def numbers(self, path: str) -> Array | None:
        """The importance of each number of a parameter; None where it does not count.

        Weights of layers count, and gains of norms; biases and statistics do not. With `batch_norm` its gains do alone.
        """
        import numpy

        if isinstance(self._score, dict):
            given = self._score.get(path)
            return None if given is None else numpy.asarray(given, "float64")
        parameter = self._graph.parameters[path]
        if not _counts(self._graph, parameter, only_batch_norm=self._score == "batch_norm"):
            return None
        array = read(filled(parameter, self._seed))
        if self._score == "l2":
            return numpy.square(array)
        return numpy.abs(array * self._gradients[path] if self._score == "taylor" else array)

    def unit(self, own: AxisClass) -> Array | None:
        """The importance of each unit of a dimension: what its numbers at one place add up to, averaged over places.
        None where no place counts.

        This is the group importance of torch-pruning (Fang et al., "DepGraph: towards any structural pruning", 2023)
        with the mean over a group's layers.
        """
        found = [p for place in own.places if (p := self._at(place)) is not None]
        return sum(found[1:], found[0]) / len(found) if found else None

    def _at(self, place: Place) -> Array | None:
        profile = self._profile(cast(ParameterRef, place.ref).parameter, place.axis)
        return None if profile is None else profile[indices(place)].sum(1)

    def _profile(self, path: str, axis: int) -> Array | None:
        """The importance of each index along an axis of a parameter."""
        if (path, axis) not in self._profiles:
            numbers = self.numbers(path)
            if numbers is None:
                return None
            for i in {axis, *range(min(2, numbers.ndim))}:  # outputs and inputs, of which both are mostly wanted
                self._profiles[path, i] = _summed(numbers, i)
        return self._profiles[path, axis]

    @cached_property
    def _gradients(self) -> dict[str, Array]:
        given = self._calibration.inputs(self._graph, self._samples)
        return backend("pytorch").gradients(self._graph, given, seed=self._seed)


def random_inputs(seed: int = 0) -> Calibration:
    """What a model is looked at with where no data are given."""
    return Calibration("random inputs", Noise(seed=seed))


def indices(place: Place) -> Array:
    """The indices of each unit along the axis of a place: a row a unit."""
    import numpy

    offset, step, size = (cast(int, n) for n in (place.offset, place.step, place.size))
    found: Array = offset + step * numpy.arange(size)[:, None] + numpy.arange(step)
    for count, stride in cast("tuple[tuple[int, int], ...]", place.loops):
        found = (found[:, :, None] + stride * numpy.arange(count)).reshape(size, -1)
    return found


def _summed(numbers: Array, axis: int) -> Array:
    """The sums over all axes but one; as products with ones, which take a fraction of the time."""
    import numpy

    before, after = prod(numbers.shape[:axis]), prod(numbers.shape[axis + 1 :])
    return (numpy.ones(before) @ numbers.reshape(before, -1)).reshape(-1, after) @ numpy.ones(after)


def _counts(graph: Graph, parameter: Parameter, *, only_batch_norm: bool) -> bool:
    if parameter.buffer or not parameter.type.dtype.is_float:
        return False
    gains = {node.op.name for node in _scaled(graph, parameter)}
    return "batch_norm" in gains if only_batch_norm else bool(gains) or parameter.type.rank > 1


def _scaled(graph: Graph, parameter: Parameter) -> Iterator[Node]:
    """The norms whose gain a parameter is."""
    for node in graph.users.get(ParameterRef(parameter.path), ()):
        names = [o.name for o in node.op.operands]
        gain = names.index("weight") if node.op.name.endswith("_norm") and "weight" in names else None
        if gain is not None and node.inputs[gain] == ParameterRef(parameter.path):
            yield node
