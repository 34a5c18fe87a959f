"""The numbers of parameters that a transform computes from others'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..graph import Parameter, ParameterData
from ..passes.computed import Drawn, Made, read
from ..types import TensorType
from ..weights import InMemory

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


def data(parameter: Parameter, seed: int = 0) -> ParameterData:
    """Where a parameter's numbers are: its data, or what its initialiser draws with a seed."""
    return parameter.data or Drawn(parameter, seed)


def filled(parameter: Parameter, seed: int = 0) -> Parameter:
    """The parameter with data, drawn from a seed where it has none."""
    return parameter if parameter.data is not None else replace(parameter, data=Drawn(parameter, seed))


def made(
    parameter: Parameter,
    function: Callable[..., Array],
    *sources: Parameter,
    path: str | None = None,
    type: TensorType | None = None,
    seed: int = 0,
) -> Parameter:
    """A parameter like this one whose numbers `function` computes from those of `sources` (itself where there are
    none); `path` and `type` where they change."""
    kind = type or parameter.type
    given = tuple(filled(p, seed) for p in sources or (parameter,))
    return replace(parameter, path=path or parameter.path, type=kind, data=Made(function, given, kind))


def mean(*arrays: Array) -> Array:
    """The mean of arrays, number by number."""
    import numpy

    return numpy.mean(arrays, 0)


def held(parameter: Parameter, array: Array) -> Parameter:
    """The parameter with these numbers, cast to its dtype; its shape becomes theirs."""
    import numpy

    kind = TensorType(parameter.type.dtype, tuple(array.shape))
    return replace(parameter, type=kind, data=InMemory(numpy.ascontiguousarray(array, kind.dtype.as_numpy)))


def arrays(parameters: Sequence[Parameter], seed: int = 0) -> list[Array]:
    """The numbers of parameters, floats as f64."""
    return [read(filled(p, seed)) for p in parameters]
