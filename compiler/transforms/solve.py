"""Linear maps between the features of models, by least squares over examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ..backend import backend
from ..calibration import Calibration
from ..graph import Graph
from ..merging.least_squares import solved
from ..probe import bound
from ..types import Expression
from .register import word

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

_CHUNK = 16
"""So many examples run at once: their features are all held until they are summed up."""


@word("lstsq")
@dataclass(frozen=True)
class Lstsq:
    """`lstsq(calib, samples = 100, ridge = 1e-6)`: least squares over examples, solved in float64.

    `ridge` is what is added to each feature's variance, relative to their mean variance; with 0 the solution is the
    one of least norm.
    """

    calibration: Calibration
    samples: Annotated[int, Field(ge=1)] = 100
    ridge: Annotated[float, Field(ge=0)] = 1e-6


class Equations:
    """The normal equations of `y ≈ W x + b`, summed up in float64 from rows that need not be held together.

    Rows are taken relative to the mean of the first ones, so that large means cancel nothing.
    """

    def __init__(self) -> None:
        self.rows = 0

    def add(self, x: Array, y: Array) -> None:
        """Rows of `x [rows, in]` and `y [rows, out]`."""
        import numpy

        x, y = numpy.asarray(x, "float64"), numpy.asarray(y, "float64")
        if not self.rows:
            self._at, self._to = x.mean(0), y.mean(0)
            self._x, self._y = numpy.zeros_like(self._at), numpy.zeros_like(self._to)
            self._xx = numpy.zeros((x.shape[1],) * 2)
            self._xy = numpy.zeros((x.shape[1], y.shape[1]))
            self._yy = 0.0
        x, y = x - self._at, y - self._to
        self.rows += len(x)
        self._x += x.sum(0)
        self._y += y.sum(0)
        self._xx += x.T @ x
        self._xy += x.T @ y
        self._yy += float((y * y).sum())

    def solve(self, ridge: float = 0.0) -> tuple[Array, Array]:
        """`W [out, in]` and `b [out]`. The offset is not held small; directions in which `x` never varies are not
        used."""
        scatter, cross, mean_x, mean_y = self._centred()
        weight = solved(scatter, cross, ridge)
        return weight, self._to + mean_y - weight @ (self._at + mean_x)

    def unexplained(self, weight: Array) -> float:
        """The share of the variance of `y` that a solution leaves, 0 to 1."""
        scatter, cross, _, mean_y = self._centred()
        whole = self._yy - self.rows * float(mean_y @ mean_y)
        left = whole - 2 * float((weight.T * cross).sum()) + float(((weight @ scatter) * weight).sum())
        return max(0.0, left / whole) if whole > 0 else 0.0

    def _centred(self) -> tuple[Array, Array, Array, Array]:
        """The sums about the means, and the means, relative to those of the first rows."""
        import numpy

        mean_x, mean_y = self._x / self.rows, self._y / self.rows
        scatter = self._xx - self.rows * numpy.outer(mean_x, mean_x)
        return scatter, self._xy - self.rows * numpy.outer(mean_x, mean_y), mean_x, mean_y


def features(graph: Graph, calibration: Calibration, samples: int | None = None) -> Iterator[Mapping[str, Array]]:
    """The outputs of a graph for examples, a few at a time.

    Raises:
        NetcError: where the data do not suit the inputs.
    """
    given = calibration.inputs(graph, samples)
    batches = {node.types[0].shape[0] for node in graph.inputs.values() if node.types[0].rank}
    count = min(map(len, given.values()))
    fixed = [d for d in batches if isinstance(d, int)]
    runners: dict[int, Any] = {}
    for start in range(0, count, fixed[0] if fixed else _CHUNK):
        size = min(fixed[0] if fixed else _CHUNK, count - start)
        if fixed and size < fixed[0]:
            break
        if size not in runners:
            numbers = {str(d): size for d in batches if isinstance(d, Expression)}
            runners[size] = backend("pytorch").Interpreter(bound(graph, numbers), kept=True)
        yield runners[size]({name: array[start : start + size] for name, array in given.items()})
