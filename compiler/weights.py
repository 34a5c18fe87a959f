"""The numbers of a graph's parameters: their own data where there is some, else seeded initial values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .graph import Graph, Parameter
from .initialise import initialise

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@dataclass(frozen=True, eq=False, slots=True)
class InMemory:
    """Parameter data that is at hand."""

    array: Array

    def load(self) -> Array:
        return self.array


def value(parameter: Parameter, seed: int = 0) -> Array:
    """One parameter's numbers, in its shape and dtype; read, or drawn, now.

    Raises:
        NetcError: where there is no data and the initialiser cannot be drawn (see `initialise`).
    """
    if parameter.data is None:
        return initialise(parameter, seed)
    array = parameter.data.load()
    found, wanted = (array.dtype, array.shape), (parameter.type.dtype.as_numpy, parameter.type.shape)
    if found != wanted:
        raise ValueError(f"the data of {parameter.path} are {found}, not {wanted}")
    return array


def values(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """The numbers of every parameter by path; see `value`, which takes them one at a time."""
    return {path: value(parameter, seed) for path, parameter in graph.parameters.items()}
