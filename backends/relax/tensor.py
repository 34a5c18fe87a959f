"""Values on their way through the lowering: what they mean, and where and how they are stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ...compiler.types import Dim, DType, Expression, Quotient, Shape, TensorType, divide
from .index import flatten, literal
from .untyped import tirx

Order = tuple[int, ...]
"""The logical axis that each physical axis holds, outermost first."""


Number = int | float | bool | Expression
"""A number that kernels take as an immediate, or work out from the sizes of their arguments."""


class Dims(Protocol):
    """Gives dimensions as expressions of the kernel at hand."""

    def dim(self, dim: Dim) -> Any: ...


Place = Callable[[Sequence[Any], Dims], list[Any]]
"""Where the element at an index of a view lies in what it is a view of."""


@dataclass(frozen=True)
class Code:
    """Integers of `dtype` that stand for others: q for (q - zero) · scale, or for q - zero where there is no scale."""

    dtype: DType
    zero: int
    scale: float | None = None


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value: `expr` holds `base` (by default `type`) stored in `order`; with `place` it is a view of that."""

    type: TensorType
    expr: Any
    order: Order
    """Of a view: the order in which to go through its own axes."""
    constant: bool
    """Whether it is computed at compile time."""
    number: Number | None = None
    """The value of a rank-0 tensor that is known; kernels take it as an immediate and `expr` is None."""
    base: tuple[TensorType, Order] | None = None
    place: Place | None = None
    limit: Dim | None = None
    """What whole numbers in it are known to lie below: positions that are read from sizes, not from data."""
    code: Code | None = None
    """How its numbers are kept in memory, where not as they are: kernels decode what they read."""

    @property
    def kept(self) -> DType:
        """What `expr` holds numbers of."""
        return self.code.dtype if self.code else self.type.dtype

    @property
    def storage(self) -> tuple[TensorType, Order]:
        """What `expr` holds, and in which order of axes."""
        return self.base or (self.type, self.order)

    @property
    def stored(self) -> Shape:
        """The dimensions of `expr`; one element for rank 0."""
        type, order = self.storage
        return tuple(type.shape[a] for a in order) or (1,)

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for tensors that are the same storage seen in the same way."""
        return (self.expr, self.order, self.place, self.code, self.type.dtype)

    def seen(self, type: TensorType, order: Order, place: Place) -> Tensor:
        """A view: `place` takes an index into `type` to one into this tensor."""
        inner = self.place

        def whole(index: Sequence[Any], dims: Dims) -> list[Any]:
            index = place(index, dims)
            return index if inner is None else inner(index, dims)

        return replace(self, type=type, order=order, base=self.storage, place=whole)


def plain(rank: int) -> Order:
    return tuple(range(rank))


def moved(order: Order, shape: Shape) -> list[int]:
    """The axes whose place in storage matters."""
    return [axis for axis in order if shape[axis] != 1]


def channels_last(rank: int) -> Order:
    """The order of `[N, C, *space]` with the channels innermost."""
    return (0, *range(2, rank), 1)


def logical(order: Order, stored: Sequence[Any]) -> list[Any]:
    """An index in the order of storage, put in logical order."""
    index: list[Any] = [None] * len(order)
    for axis, value in zip(order, stored, strict=True):
        index[axis] = value
    return index


def index_expression(dim: Dim, symbol: Callable[[str], Any]) -> Any:
    """A dimension as a TIR expression; `symbol` gives the variable of a name."""
    if isinstance(dim, int):
        return literal(dim)
    total: Any = None
    for monomial, coefficient in dim.terms:
        term: Any = None
        for atom, power in monomial:
            factor = (
                tirx.floordiv(index_expression(atom.numerator, symbol), literal(atom.denominator))
                if isinstance(atom, Quotient)
                else symbol(atom)
            )
            for _ in range(power):
                term = factor if term is None else term * factor
        term = literal(coefficient) if term is None else term if coefficient == 1 else term * literal(coefficient)
        total = term if total is None else total + term
    return total


def regroup(shape: Shape, order: Order, target: Shape) -> Order | None:
    """The storage order of a reshaped tensor, or None where its elements would have to move.

    Old and new axes are matched in groups of equal volume. A group of old axes that lies together and in order in
    storage becomes its new axes in place.
    """
    groups = axis_groups(shape, target)
    if groups is None:
        return None
    found: list[tuple[int, Sequence[int]]] = []
    loose: list[int] = []
    for old, new in groups:
        wide = [a for a in old if shape[a] != 1]
        places = [order.index(a) for a in wide]
        if not wide:
            loose.extend(new)
            continue
        between = [a for a in order[places[0] : places[-1] + 1] if shape[a] != 1]
        if between != wide:
            return None
        found.append((places[0], new))
    result = [a for _, new in sorted(found, key=lambda item: item[0]) for a in new]
    for axis in sorted(loose):
        result.insert(next((i for i, a in enumerate(result) if a > axis), len(result)), axis)
    return tuple(result)


def axis_groups(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]] | None:
    """The finest matching of consecutive old axes with new ones of the same volume; None where it is not decidable."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        mine, yours = [], []
        a: Dim = 1
        b: Dim = 1
        if i < len(old):
            mine, a, i = [i], old[i], i + 1
        if j < len(new):
            yours, b, j = [j], new[j], j + 1
        while a != b:
            step = _shorter(a, b)
            if step == "old" and i < len(old):
                mine.append(i)
                a, i = a * old[i], i + 1
            elif step == "new" and j < len(new):
                yours.append(j)
                b, j = b * new[j], j + 1
            elif i < len(old) and step is None:
                mine.append(i)
                a, i = a * old[i], i + 1
                if j < len(new):
                    yours.append(j)
                    b, j = b * new[j], j + 1
            else:
                return None
        groups.append((mine, yours))
    return groups


def _shorter(a: Dim, b: Dim) -> str | None:
    """Which of two volumes is to be extended to meet the other: the one that divides it."""
    if a == 1 or (a != 0 and divide(b, a) is not None):
        return "old"
    if b == 1 or (b != 0 and divide(a, b) is not None):
        return "new"
    if isinstance(a, int) and isinstance(b, int):
        return "old" if a < b else "new"
    return None


def split_place(old: Shape, new: Shape) -> Place | None:
    """Where an element of a reshaped view lies, if that takes no division: no axes merge."""
    groups = axis_groups(old, new)
    if groups is None or any(sum(old[a] != 1 for a in mine) > 1 for mine, _ in groups):
        return None

    def place(index: Sequence[Any], dims: Dims) -> list[Any]:
        found: list[Any] = [literal(0)] * len(old)
        for mine, yours in groups:
            wide = [a for a in mine if old[a] != 1]
            if wide:
                found[wide[0]] = flatten([index[a] for a in yours], [dims.dim(new[a]) for a in yours])
        return found

    return place
