"""Which unit of one model is which of another, class by class, each given what is known of the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ..axes import Analysis, AxisClass
from ..axes.structure import Dimension
from .evidence import Evidence
from .maps import Maps, Matrix, cells, permuting, places

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


class Likeness(NamedTuple):
    """Products of the features of units, [units of the first, units of the second], and the features' squares."""

    products: Array
    first: Array
    second: Array

    @property
    def costs(self) -> Array:
        """The squared distances."""
        import numpy

        return numpy.maximum(self.first[:, None] + self.second - 2 * self.products, 0)


class Found(NamedTuple):
    """The matrices of a class (see `Maps`)."""

    made: Matrix
    summed: Matrix | None = None


Solve = Callable[[Likeness], Found]
"""From how alike units are to which is which."""

_ENOUGH = 16
"""So many numbers for each unit tell units apart, where nothing about their order is unknown."""


def assign(likeness: Likeness) -> Found:
    """The permutation with the largest sum of products (Ainsworth et al., 2023, §3.2)."""
    from scipy import optimize

    solve = cast(Any, optimize).linear_sum_assignment
    return Found(permuting(solve(likeness.products, maximize=True)[1]))


def transport(likeness: Likeness, regularization: float = 0.0) -> Found:
    """The plan that moves units of equal mass at the least cost, which is the squared distance of their features; with
    `regularization`, in units of the mean cost, one that spreads (Cuturi, 2013).

    Each new unit is a mean of those that come to it. Where a class is summed over, what a unit had is shared out.
    """
    import numpy
    import ot
    from scipy import sparse

    library: Any = ot
    costs = likeness.costs
    new, old = costs.shape
    masses = numpy.full(new, 1 / new), numpy.full(old, 1 / old)
    if regularization:
        strength = regularization * (float(costs.mean()) or 1.0)
        # Where it does not converge its sums are a little off, which the division below puts right.
        plan: Array = library.sinkhorn(*masses, costs, strength, method="sinkhorn_log", numItermax=2_000, warn=False)
    else:
        plan = library.emd(*masses, costs, numItermax=10_000_000)
    if new == old and abs(plan * new - (order := plan * new).round()).max() < 1e-6:
        return Found(permuting(order.argmax(1)))
    return Found(sparse.csr_array(plan / plan.sum(1, keepdims=True)), sparse.csr_array(plan / plan.sum(0)))


@dataclass(frozen=True, eq=False)
class Matching:
    """Two analysed models of one structure, the classes to match, and the evidence."""

    first: Analysis
    second: Analysis
    classes: Sequence[AxisClass]
    """Of the first model; those of the second have the same numbers."""
    evidence: Sequence[Evidence]
    solve: Solve

    def run(self, iterations: int, seed: int) -> Maps:
        """Maps for all classes: of two starts, each improved by coordinate descent, the better one.

        One start goes from what is fixed inwards. A class is solved by evidence whose other axes are known by then; if
        that is scarce, by other evidence too, its numbers sorted along the axes whose order is not known. The other
        start is that every unit keeps its number.
        """
        start = self._outward()
        if not iterations or not self._distance(start):
            return start
        found = self._improved(start, iterations, seed)
        if any(a != b for a, b in map(self._sizes, self.classes)):
            return found
        plain = Maps(self.second, {c.number: permuting(_range(cast(int, c.size))) for c in self.classes})
        return min(found, self._improved(plain, iterations, seed), key=self._distance)

    def _outward(self) -> Maps:
        maps = Maps(self.second, {})
        waiting = list(self.classes)
        while waiting:
            known = {c.number: self._known(c, maps) for c in waiting}
            own = max(waiting, key=lambda c: known[c.number])
            waiting.remove(own)
            found = self.solve(self.likeness(own, maps, sure=known[own.number] >= _ENOUGH))
            maps = maps.with_class(own.number, *found)
        return maps

    def _improved(self, maps: Maps, iterations: int, seed: int) -> Maps:
        """Coordinate descent: classes in random orders, each solved given all others, until none changes."""
        import numpy

        rng: Any = numpy.random.default_rng(seed)
        for _ in range(iterations):
            changed = False
            for number in cast("list[int]", rng.permutation(len(self.classes)).tolist()):
                own = self.classes[number]
                new = maps.with_class(own.number, *self.solve(self.likeness(own, maps)))
                if abs(new.made[own.number] - maps.made[own.number]).max() < 1e-9:
                    continue
                if self._distance(new, own) < self._distance(maps, own) * (1 - 1e-12):
                    maps, changed = new, True
            if not changed:
                break
        return maps

    # ------------------------------------------------------------------------------------------------ evidence

    def _of(self, own: AxisClass) -> list[Evidence]:
        return self._evidence.get(own.number, [])

    @cached_property
    def _evidence(self) -> dict[int, list[Evidence]]:
        found: dict[int, list[Evidence]] = {}
        for one in self.evidence:
            for number in self._numbers(one):
                found.setdefault(number, []).append(one)
        return found

    def _numbers(self, one: Evidence) -> dict[int, int]:
        """The classes to match that a piece of evidence has, and in how many axes."""
        found: dict[int, int] = {}
        wanted = {c.number for c in self.classes}
        for dimension in one.first_axes:
            if dimension is not None:
                for atom in self.first.structure.atoms(dimension):
                    number = self.first.atoms.get(atom, 0)
                    if number in wanted:
                        found[number] = found.get(number, 0) + 1
        return found

    def _known(self, own: AxisClass, maps: Maps) -> int:
        """How many numbers for each unit there are whose other classes are known."""
        sure = (e for e in self._of(own) if self._sure(own, e, maps))
        return sum(e.first.size for e in sure) // cast(int, own.size)

    def _sure(self, own: AxisClass, one: Evidence, maps: Maps) -> bool:
        numbers = self._numbers(one)
        return numbers[own.number] == 1 and all(n in maps.made for n in numbers if n != own.number)

    def _sizes(self, own: AxisClass) -> tuple[int, int]:
        other = self.second.every_class[own.number - 1]
        return cast(int, own.size), cast(int, other.size)

    def likeness(self, own: AxisClass, maps: Maps, *, sure: bool = False) -> Likeness:
        """How alike the units of a class are, given what is known of others; by sure evidence only, or by all."""
        import numpy

        rows, columns = self._sizes(own)
        products, first, second = numpy.zeros((rows, columns)), numpy.zeros(rows), numpy.zeros(columns)
        for one in self._of(own):
            if sure and not self._sure(own, one, maps):
                continue
            for a, b in self._features(own, one, maps):
                if a.shape[1] == b.shape[1]:
                    products += one.weight * (a @ b.T)
                    first += one.weight * numpy.square(a).sum(1)
                    second += one.weight * numpy.square(b).sum(1)
        return Likeness(products, first, second)

    def _features(self, own: AxisClass, one: Evidence, maps: Maps) -> Iterator[tuple[Array, Array]]:
        """The numbers of each unit in both models, in one order: [units, numbers]."""
        unknown = {n for n, axes in self._numbers(one).items() if n not in maps.made and (n != own.number or axes > 1)}
        for axis, (a, b) in enumerate(zip(one.first_axes, one.second_axes, strict=True)):
            if a is not None and b is not None and self.first.atom(own) in self.first.structure.atoms(a):
                moved = maps.moved(one.second, one.second_axes, one.ref, (own.number, axis))
                given = _Side(self.first, one.first, one.first_axes, Maps(self.first, {}))
                other = _Side(self.second, moved, one.second_axes, maps)
                yield from zip(*(s.features(own.number, axis, unknown) for s in (given, other)), strict=True)

    # ------------------------------------------------------------------------------------------------ the whole

    def _distance(self, maps: Maps, own: AxisClass | None = None) -> float:
        """The squared distance of the models over all evidence, or over that of a class."""
        import numpy

        total = 0.0
        for one in self._of(own) if own else self.evidence:
            moved = maps.moved(one.second, one.second_axes, one.ref)
            total += one.weight * float(numpy.square(one.first - moved).sum())
        return total


@dataclass(frozen=True, eq=False)
class _Side:
    """An array of one model, mapped as far as is known."""

    analysis: Analysis
    array: Array
    axes: Sequence[Dimension | None]
    maps: Maps

    def features(self, number: int, axis: int, unknown: Collection[int]) -> Iterator[Array]:
        """The numbers of each unit of a class along an axis, at each of its occurrences there: [units, numbers]. Along
        classes whose order is unknown they are sorted."""
        import numpy

        dimension = self.axes[axis]
        assert dimension is not None
        atom = self._atom(number)
        flat = numpy.moveaxis(self.array, axis, 0)
        for index in places(self.analysis.structure, dimension, atom, self._size(atom)):
            found = flat[index.reshape(-1)].reshape(len(index), -1)
            if unknown:
                labels = numpy.broadcast_to(self._labels(number, axis, index[0], unknown), found.shape)
                found = numpy.take_along_axis(found, numpy.lexsort((found, labels), axis=-1), -1)
            yield found

    def _labels(self, number: int, axis: int, index: Array, unknown: Collection[int]) -> Array:
        """Equal numbers for the features of a unit that differ only in units of unknown classes."""
        import numpy

        atom = self._atom(number)
        blurred = {atom, *map(self._atom, unknown)}

        def along(k: int) -> Array:
            dimension = self.axes[k]
            if dimension is None:
                return _range(self.array.shape[k])
            return cells(self.analysis.structure, dimension, blurred, self._size(atom))

        labels = along(axis)[index]
        for k in range(self.array.ndim):
            if k != axis:
                labels = (labels[:, None] * self.array.shape[k] + along(k)).reshape(-1)
        return numpy.asarray(labels)

    def _atom(self, number: int) -> Dimension:
        return self.analysis.structure.find(self.analysis.atom(self.analysis.every_class[number - 1]))

    def _size(self, own: Dimension) -> Callable[[Dimension], int]:
        """How many units an atom has by now; the one that is looked at has not changed."""

        def size(atom: Dimension) -> int:
            mapped = None if atom == own else self.maps.size(self.analysis.atoms.get(atom, 0))
            return cast(int, self.analysis.structure.size(atom)) if mapped is None else mapped

        return size


def _range(count: int) -> Array:
    import numpy

    return numpy.arange(count)
