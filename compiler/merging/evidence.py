"""What tells which unit of one model is which of another: arrays of both whose axes have the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..axes import Analysis
from ..axes.structure import Dimension
from ..graph import ParameterRef, Ref, Value
from ..passes.computed import read

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

Axes = tuple[Dimension | None, ...]
"""The dimension of each axis, in the structure of its model; None for one that is of no class."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """An array of each of two models, with the same axes; `weight` is what it counts for."""

    ref: Ref
    first: Array
    second: Array
    first_axes: Axes
    second_axes: Axes
    weight: float = 1.0


def of_weights(first: Analysis, second: Analysis) -> list[Evidence]:
    """The parameters. Statistics, whose scale says nothing beside that of weights, are brought to it."""
    import numpy

    arrays = {path: (read(p), read(second.graph.parameters[path])) for path, p in first.graph.parameters.items()}
    squares = {path: float(numpy.square(a).mean() + numpy.square(b).mean()) for path, (a, b) in arrays.items()}
    learned = [path for path, p in first.graph.parameters.items() if not p.buffer]
    usual = float(numpy.mean([squares[path] for path in learned])) if learned else 1.0
    found: list[Evidence] = []
    for path, (a, b) in arrays.items():
        buffer = first.graph.parameters[path].buffer
        weight = usual / squares[path] if buffer and squares[path] else 1.0
        ref = ParameterRef(path)
        found.append(Evidence(ref, a, b, tuple(first.axes[ref]), tuple(second.axes[ref]), weight))
    return found


def of_activations(
    first: Analysis,
    second: Analysis,
    values: Mapping[Value, Sequence[int]],
    one: Mapping[Value, Array],
    other: Mapping[Value, Array],
) -> list[Evidence]:
    """Values of both models for the same inputs. Their axes are those of `values`, which have classes, and one of
    positions, over which numbers are brought to mean 0 and deviation 1: products are correlations (Li et al., 2016)."""
    found: list[Evidence] = []
    for value, kept in values.items():
        a, b = _standard(one[value]), _standard(other[value])
        axes = [(*(own.axes[value][k] for k in kept), None) for own in (first, second)]
        found.append(Evidence(value, a, b, axes[0], axes[1], 1 / a.shape[-1]))
    return found


def _standard(array: Array) -> Array:
    import numpy

    array = array.astype("float64")
    array = array - array.mean(-1, keepdims=True)
    deviation = numpy.sqrt(numpy.square(array).mean(-1, keepdims=True))
    return array / numpy.where(deviation > 1e-12, deviation, 1)
