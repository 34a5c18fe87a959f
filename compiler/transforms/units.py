"""How many units a class of axes gets: which of the old ones each is, and what the old sums become in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from ..axes import Analysis
from ..axes.pattern import Axis
from ..axes.structure import Dimension

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


class Lane(NamedTuple):
    """How indices of an axis become others: old index `old[i]`, times `weight[i]`, is added to new index `new[i]`."""

    old: Array
    new: Array
    weight: Array
    sizes: tuple[int, int]
    """The old and the new size of the axis."""

    @property
    def gains(self) -> Array:
        """What each new index is multiplied by where all that become one are equal."""
        import numpy

        return numpy.bincount(self.new, self.weight, self.sizes[1])


@dataclass(frozen=True, eq=False)
class Units:
    """New units for a class. In all axes, new unit i is the old unit `index[i]`; in sums, `summed` says how the
    numbers that old units were multiplied by become those of new ones, so that the sum stays."""

    index: Array
    summed: Lane
    fresh: bool = False
    """Those that are there again get numbers of their own, and count for nothing in sums."""

    @staticmethod
    def copies(index: Array, size: int, *, fresh: bool = False) -> Units:
        """Old units, each at least once; `index` says which. Each copy gets its share of a sum; of `fresh` ones, the
        first gets all of it."""
        import numpy

        if fresh:
            weight = numpy.zeros(len(index))
            weight[numpy.unique(index, return_index=True)[1]] = 1
        else:
            weight = 1 / numpy.bincount(index, minlength=size)[index]
        return Units(index, Lane(index, numpy.arange(len(index)), weight, (size, len(index))), fresh)

    @staticmethod
    def merged(groups: Array) -> Units:
        """Old units that are copies of each other become one: old unit i is in group `groups[i]`."""
        import numpy

        index = numpy.unique(groups, return_index=True)[1]
        size = len(groups)
        return Units(index, Lane(numpy.arange(size), groups, numpy.ones(size), (size, len(index))))

    @cached_property
    def gain(self) -> float | None:
        """What new units are multiplied by in a sum, where that is one number for all."""
        gains = self.summed.gains
        return float(gains[0]) if (gains == gains[0]).all() else None


class Resized:
    """Dimensions whose atoms get other units."""

    def __init__(self, analysis: Analysis, units: dict[Dimension, Units]) -> None:
        self._structure = analysis.structure
        self._units = units

    def touched(self, dimension: Dimension) -> list[Dimension]:
        """The atoms of a dimension that get other units."""
        return [a for a in self._structure.atoms(dimension) if a in self._units]

    def gain(self, dimension: Dimension) -> float | None:
        """What the indices of a dimension are multiplied by in a sum, where that is one number for all of them."""
        found = [self._gain(part) for part in self._structure.segments(dimension)]
        return found[0] if all(g == found[0] for g in found) else None

    def _gain(self, part: Dimension) -> float | None:
        factors = self._structure.factors(part)
        if len(factors) == 1:
            units = self._units.get(factors[0])
            return units.gain if units else 1.0
        gain = 1.0
        for factor in factors:
            found = self.gain(factor)
            if found is None:
                return None
            gain *= found
        return gain

    def lane(self, dimension: Dimension, *, summed: bool) -> Lane | None:
        """How a dimension's indices change, as a sum over it sees them or as others do; None where its size is
        symbolic."""
        return _after([self._lane(part, summed) for part in self._structure.segments(dimension)])

    def _lane(self, part: Dimension, summed: bool) -> Lane | None:
        import numpy

        factors = self._structure.factors(part)
        if len(factors) > 1:
            return _nested([self.lane(f, summed=summed) for f in factors])
        units, size = self._units.get(part), self._structure.size(part)
        if not isinstance(size, int):
            return None
        if units is None:
            every = numpy.arange(size)
            return Lane(every, every, numpy.ones(size), (size, size))
        if summed:
            return units.summed
        index = units.index
        return Lane(index, numpy.arange(len(index)), numpy.ones(len(index)), (size, len(index)))


def composed(axis: Axis, label: Callable[[str], Lane | None]) -> Lane | None:
    """The lane of an axis made of labels."""
    if isinstance(axis, str):
        return label(axis)
    lanes = [composed(item, label) for item in axis.items]
    return _nested(lanes) if axis.kind == "product" else _after(lanes)


def _nested(lanes: Sequence[Lane | None]) -> Lane | None:
    """The lane of a row-major product."""
    first, *rest = lanes
    for lane in rest:
        if first is None or lane is None:
            return None
        old = (first.old[:, None] * lane.sizes[0] + lane.old).ravel()
        new = (first.new[:, None] * lane.sizes[1] + lane.new).ravel()
        weight = (first.weight[:, None] * lane.weight).ravel()
        first = Lane(old, new, weight, (first.sizes[0] * lane.sizes[0], first.sizes[1] * lane.sizes[1]))
    return first


def _after(lanes: Sequence[Lane | None]) -> Lane | None:
    """The lane of parts that follow each other."""
    import numpy

    known = [lane for lane in lanes if lane is not None]
    if len(known) < len(lanes):
        return None
    if len(known) == 1:
        return known[0]
    olds, news = ([0, *numpy.cumsum([lane.sizes[i] for lane in known])] for i in (0, 1))
    return Lane(
        numpy.concatenate([lane.old + start for lane, start in zip(known, olds, strict=False)]),
        numpy.concatenate([lane.new + start for lane, start in zip(known, news, strict=False)]),
        numpy.concatenate([lane.weight for lane in known]),
        (int(olds[-1]), int(news[-1])),
    )


def moved(array: Array, lanes: Sequence[Lane | None]) -> Array:
    """An array whose axes change by lanes; None leaves an axis as it is."""
    import numpy

    for axis, lane in enumerate(lanes):
        if lane is None:
            continue
        order = numpy.argsort(lane.new, kind="stable")
        array = array.take(lane.old[order], axis)
        if (lane.weight != 1).any():
            array = array * lane.weight[order].reshape(-1, *[1] * (array.ndim - axis - 1))
        if len(order) > lane.sizes[1]:
            array = numpy.add.reduceat(array, numpy.searchsorted(lane.new[order], numpy.arange(lane.sizes[1])), axis)
    return array
