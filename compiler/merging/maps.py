"""Units of one model's classes made of units of another's: a matrix for each class, and what it means for an axis."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, cast

from ..axes import Analysis, sums
from ..axes.structure import Dimension, Structure
from ..graph import Parameter, ParameterRef, Ref
from ..types import TensorType

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

Matrix = Any
"""A sparse matrix of scipy, [new units, old units]."""


class Maps:
    """What the units of some classes of an analysed graph become.

    `made` holds a matrix by the number of a class. An axis along which weights make a class is multiplied by it. One
    along which a class is summed over is multiplied by that of `summed`, if there is one: there the numbers of a unit
    are shared out among those that it becomes.
    """

    def __init__(self, analysis: Analysis, made: Mapping[int, Matrix], summed: Mapping[int, Matrix] | None = None):
        self.analysis = analysis
        self.made = made
        self.summed = summed

    def with_class(self, number: int, made: Matrix, summed: Matrix | None = None) -> Maps:
        """The same with another matrix for a class."""
        both = None if summed is None else {**(self.summed or {}), number: summed}
        return Maps(self.analysis, {**self.made, number: made}, both or self.summed)

    def moved(
        self,
        array: Array,
        dimensions: Sequence[Dimension | None],
        ref: Ref | None = None,
        skip: tuple[int, int] = (0, 0),
    ) -> Array:
        """The array with each axis mapped as its dimension says; `skip` is a class, and the axis where it stays."""
        import numpy

        for axis, dimension in enumerate(dimensions):
            left = skip[0] if skip[1] == axis else 0
            matrix = None if dimension is None else self._axis(dimension, ref, axis, left)
            if matrix is None:
                continue
            order = permutation(matrix)
            if order is not None:
                array = array.take(order, axis)
                continue
            front = numpy.moveaxis(array, axis, 0)
            flat = numpy.asarray(matrix @ front.reshape(len(front), -1))
            array = numpy.moveaxis(flat.reshape(-1, *front.shape[1:]), 0, axis)
        return array

    def parameter(self, path: str, array: Array) -> Array:
        """A parameter's numbers after it."""
        ref = ParameterRef(path)
        return self.moved(array, self.analysis.axes[ref], ref)

    def type(self, parameter: Parameter) -> TensorType:
        """A parameter's type after it."""
        axes = self.analysis.axes[ParameterRef(parameter.path)]
        matrices = [self._axis(d, None, k, 0) for k, d in enumerate(axes)]
        shape = [n if m is None else m.shape[0] for n, m in zip(parameter.type.shape, matrices, strict=True)]
        return TensorType(parameter.type.dtype, tuple(shape))

    @property
    def orders(self) -> dict[int, Array]:
        """Which old unit each new one is, of the classes that are only permuted."""
        found = {number: permutation(matrix) for number, matrix in self.made.items()}
        return {number: order for number, order in found.items() if order is not None}

    def size(self, number: int) -> int | None:
        """How many units a class has afterwards, if it is mapped."""
        return self.made[number].shape[0] if number in self.made else None

    def _axis(self, dimension: Dimension, ref: Ref | None, axis: int, left: int) -> Matrix | None:
        """The matrix of an axis; None where nothing in it is mapped."""
        from scipy import sparse

        structure = self.analysis.structure
        atoms = self.analysis.atoms

        def one(atom: Dimension) -> Matrix | None:
            number = atoms.get(atom, 0)
            if number == left or number not in self.made:
                return None
            summed = self.summed and number in self.summed and (ref, axis, number) in self._sums
            return (self.summed if summed and self.summed else self.made)[number]

        def whole(part: Dimension) -> Matrix:
            found = one(part) if structure.form(part) is None else None
            return sparse.eye_array(cast(int, structure.size(part)), format="csr") if found is None else found

        def factor(part: Dimension) -> Matrix:
            return block(part) if structure.form(part) is not None else whole(part)

        def block(part: Dimension) -> Matrix:
            found = [joined(s) for s in structure.segments(part)]
            return found[0] if len(found) == 1 else sparse.block_diag(found, format="csr")

        def joined(part: Dimension) -> Matrix:
            first, *rest = [factor(f) for f in structure.factors(part)]
            for matrix in rest:
                first = sparse.kron(first, matrix, format="csr")
            return first

        if all(one(a) is None for a in structure.atoms(dimension)):
            return None
        return block(structure.find(dimension))

    @cached_property
    def _sums(self) -> frozenset[tuple[Ref, int, int]]:
        """Axes of parameters, and the classes that nodes sum over along them."""
        found: set[tuple[Ref, int, int]] = set()
        for own in self.analysis.classes:
            if own.number in self.made:
                found.update((p.ref, p.axis, own.number) for _, places in sums(self.analysis, own) for p in places)
        return frozenset(found)


def permutation(matrix: Matrix) -> Array | None:
    """Which old unit each new one is, if each is one."""
    rows, columns = matrix.shape
    if matrix.nnz != rows or rows != columns or (matrix.data != 1).any():
        return None
    return matrix.indices if (matrix.indptr[1:] - matrix.indptr[:-1] == 1).all() else None


def permuting(order: Array) -> Matrix:
    """The matrix that puts old unit `order[i]` in place i."""
    import numpy
    from scipy import sparse

    count = len(order)
    return sparse.csr_array((numpy.ones(count), order, numpy.arange(count + 1)), shape=(count, count))


def places(
    structure: Structure, dimension: Dimension, atom: Dimension, size: Callable[[Dimension], int]
) -> Iterator[Array]:
    """Where the units of an atom are in an axis: for each occurrence of it an array [units, elements of one].

    `size` says how many units each atom has, which need not be what the structure says.
    """
    import numpy

    def width(part: Dimension) -> int:
        if structure.form(part) is None:
            return size(structure.find(part))
        return sum(prod(map(width, structure.factors(s))) if _composed(s) else width(s) for s in segments(part))

    def segments(part: Dimension) -> list[Dimension]:
        return structure.segments(part)

    def _composed(part: Dimension) -> bool:
        return structure.form(part) is not None

    def within(part: Dimension) -> Iterator[Array]:
        offset = 0
        for segment in segments(part):
            if not _composed(segment):
                if segment == atom:
                    yield offset + numpy.arange(size(atom))[:, None]
                offset += width(segment)
                continue
            factors = structure.factors(segment)
            widths = [width(f) for f in factors]
            for i, factor in enumerate(factors):
                inner = prod(widths[i + 1 :])
                outer = numpy.arange(prod(widths[:i])) * (widths[i] * inner)
                for found in within(factor):
                    blocks = found[:, None, :, None] * inner + outer[:, None, None] + numpy.arange(inner)
                    yield offset + blocks.reshape(len(found), -1)
            offset += prod(widths)

    yield from within(structure.find(dimension))


def cells(
    structure: Structure, dimension: Dimension, blurred: Collection[Dimension], size: Callable[[Dimension], int]
) -> Array:
    """A number for each index of an axis: equal where indices differ only in the units of `blurred` atoms."""
    import numpy

    def whole(part: Dimension) -> tuple[Array, int]:
        """The numbers, and how many there are."""
        if structure.form(part) is None:
            atom = structure.find(part)
            count = size(atom)
            return (numpy.zeros(count, int), 1) if atom in blurred else (numpy.arange(count), count)
        found: list[Array] = []
        total = 0
        for segment in structure.segments(part):
            numbers, count = product(segment)
            found.append(numbers + total)
            total += count
        return numpy.concatenate(found), total

    def product(part: Dimension) -> tuple[Array, int]:
        numbers, total = numpy.zeros(1, int), 1
        for factor in structure.factors(part):
            inner, count = whole(factor)
            numbers, total = (numbers[:, None] * count + inner).reshape(-1), total * count
        return numbers, total

    return whole(structure.find(dimension))[0]
