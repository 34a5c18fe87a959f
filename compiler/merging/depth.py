"""Which layers of a deep model those of a shallower one are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


def in_order(costs: Array) -> list[int] | None:
    """For each row of `costs [shallow, deep]` a column, further right than the last, the first of them column 0: those
    of the least sum (CLAFusion: Nguyen et al., 2023, §3.1). None where every way costs infinitely much."""
    import numpy

    rows, columns = costs.shape
    best = numpy.full((rows, columns), numpy.inf)
    before = numpy.zeros((rows, columns), int)
    best[0, 0] = costs[0, 0]
    for row in range(1, rows):
        for column in range(row, columns):
            last = int(best[row - 1, :column].argmin())
            best[row, column] = best[row - 1, last] + costs[row, column]
            before[row, column] = last
    if not numpy.isfinite(best[-1]).any():
        return None
    found = [int(best[-1].argmin())]
    for row in range(rows - 1, 0, -1):
        found.append(int(before[row, found[-1]]))
    return found[::-1]


def likeness(a: Array, b: Array) -> float:
    """How alike two sets of features `[rows, features]` are, whatever their order and rotation, 0 to 1: linear centred
    kernel alignment (Kornblith et al., 2019)."""
    import numpy

    a, b = a - a.mean(0), b - b.mean(0)
    few = len(a) < min(a.shape[1], b.shape[1])  # the products of rows say the same, and pictures have many features

    def size(x: Array, y: Array) -> float:
        return float(((x @ x.T) * (y @ y.T)).sum() if few else numpy.square(x.T @ y).sum())

    both = (size(a, a) * size(b, b)) ** 0.5
    return size(a, b) / both if both else 0.0
