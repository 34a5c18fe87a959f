"""How far arrays are apart."""

from __future__ import annotations

from math import inf, nan
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


def apart(expected: Array, got: Array) -> tuple[float, float]:
    """How far two arrays of one shape are apart at most, and relative to the largest number expected.

    NaN where one has a NaN or an infinity that the other has not; those that both have are left out.
    """
    import numpy

    a, b = expected.astype("float64"), got.astype("float64")
    if not a.size:
        return 0.0, 0.0
    finite = numpy.isfinite(a) & numpy.isfinite(b)
    if not numpy.array_equal(a[~finite], b[~finite], equal_nan=True):
        return nan, nan
    if not finite.any():
        return 0.0, 0.0
    absolute = float(numpy.abs(a[finite] - b[finite]).max())
    scale = float(numpy.abs(a[finite]).max())
    return absolute, absolute / scale if scale else inf if absolute else 0.0
