"""dtypes, dimensions and tensor types: the facts that are proved about every value.

A dimension is an `int` or an `Expression`: a polynomial with integer coefficients over symbols (`N`, `T`) and
floor quotients (`(H + 1)//2`), kept in a canonical form, so that two dimensions are equal exactly when their
normal forms are. Symbols stand for integers of at least 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from math import gcd, prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy


class DType(StrEnum):
    """Element types, named as in the language."""

    F64 = "f64"
    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    I64 = "i64"
    I32 = "i32"
    I16 = "i16"
    I8 = "i8"
    U8 = "u8"
    BOOL = "bool"

    @property
    def bytes(self) -> int:
        """Bytes of one element."""
        return _BYTES[self]

    @property
    def as_numpy(self) -> numpy.dtype[Any]:
        """The matching numpy dtype; `ml_dtypes.bfloat16` for bf16, which numpy lacks."""
        import numpy

        if self is DType.BF16:
            import ml_dtypes

            return numpy.dtype(ml_dtypes.bfloat16)
        return numpy.dtype(_NUMPY[self])

    @property
    def is_float(self) -> bool:
        return self in _FLOATS

    @property
    def is_integer(self) -> bool:
        return not self.is_float and self is not DType.BOOL


DTYPES: dict[str, DType] = {d.value: d for d in DType}
"""Every dtype by its name."""

_BYTES = {"f64": 8, "f32": 4, "f16": 2, "bf16": 2, "i64": 8, "i32": 4, "i16": 2, "i8": 1, "u8": 1, "bool": 1}
_NUMPY = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "i64": "int64",
    "i32": "int32",
    "i16": "int16",
    "i8": "int8",
    "u8": "uint8",
    "bool": "bool",
}
_FLOATS = frozenset({DType.F64, DType.F32, DType.F16, DType.BF16})
_ORDER = ["bool", "u8", "i8", "i16", "i32", "i64", "f16", "bf16", "f32", "f64"]


def promote(a: DType, b: DType) -> DType:
    """The dtype of an arithmetic result, by PyTorch's lattice for tensors of rank ≥ 1."""
    if a == b:
        return a
    pair = {a, b}
    if pair == {DType.F16, DType.BF16}:
        return DType.F32
    if pair == {DType.U8, DType.I8}:
        return DType.I16
    return max(a, b, key=lambda d: _ORDER.index(d.value))


@dataclass(frozen=True, slots=True, order=True)
class Quotient:
    """The atom ⌊numerator / denominator⌋ of a dimension that does not divide."""

    numerator: Expression
    denominator: int

    def __str__(self) -> str:
        (_, first), *rest = self.numerator.terms
        numerator = f"({self.numerator})" if rest or first < 0 else str(self.numerator)
        return f"{numerator}//{self.denominator}"


Atom = str | Quotient
Monomial = tuple[tuple[Atom, int], ...]


@dataclass(frozen=True, slots=True)
class Expression:
    """A non-constant dimension: Σ coefficient · Π atomᵖᵒʷᵉʳ, terms in canonical order."""

    terms: tuple[tuple[Monomial, int], ...]

    def __add__(self, other: Dim) -> Dim:
        return _build([*self.terms, *_terms(other)])

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return _build((m, -c) for m, c in self.terms)

    def __sub__(self, other: Dim) -> Dim:
        return self + (-other)

    def __rsub__(self, other: int) -> Dim:
        return (-self) + other

    def __mul__(self, other: Dim) -> Dim:
        return _build((_times(m, n), c * d) for m, c in self.terms for n, d in _terms(other))

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floor_divide(self, other)

    def __rfloordiv__(self, other: int) -> Dim:
        return floor_divide(other, self)

    def __mod__(self, other: int) -> Dim:
        return self - (self // other) * other

    def __lt__(self, other: Expression) -> bool:
        return str(self) < str(other)

    def __str__(self) -> str:
        text = ""
        for monomial, coefficient in self.terms:
            size = abs(coefficient)
            alone = size == 1 and len(monomial) == 1 and (coefficient > 0 or bool(text))
            body = "*".join(_factor(a, p, alone) for a, p in monomial)
            part = str(size) if not body else body if size == 1 else f"{size}*{body}"
            sign = "-" if coefficient < 0 else "+"
            text = f"{text} {sign} {part}" if text else (f"-{part}" if coefficient < 0 else part)
        return text

    def __repr__(self) -> str:
        return f"<{self}>"


def _factor(atom: Atom, power: int, alone: bool) -> str:
    text = f"({atom})" if isinstance(atom, Quotient) and not (alone and power == 1) else str(atom)
    return text if power == 1 else f"{text}**{power}"


Dim = int | Expression
Shape = tuple[Dim, ...]


def symbol(name: str) -> Expression:
    """The dimension that is the symbol itself."""
    return Expression(((((name, 1),), 1),))


def _terms(dim: Dim) -> Iterable[tuple[Monomial, int]]:
    return dim.terms if isinstance(dim, Expression) else (((), dim),)


def _order(item: tuple[Monomial, int]) -> tuple[int, str]:
    monomial = item[0]
    return -sum(p for _, p in monomial), str([(str(a), p) for a, p in monomial])


def _build(terms: Iterable[tuple[Monomial, int]]) -> Dim:
    total: dict[Monomial, int] = {}
    for monomial, coefficient in terms:
        total[monomial] = total.get(monomial, 0) + coefficient
    kept = [(m, c) for m, c in total.items() if c]
    if not kept:
        return 0
    if len(kept) > 1:
        kept.sort(key=_order)
    if len(kept) == 1 and not kept[0][0]:
        return kept[0][1]
    return Expression(tuple(kept))


def _times(a: Monomial, b: Monomial) -> Monomial:
    powers: dict[Atom, int] = dict(a)
    for atom, power in b:
        powers[atom] = powers.get(atom, 0) + power
    return tuple(sorted(powers.items(), key=lambda item: str(item[0])))


def floor_divide(a: Dim, b: Dim) -> Dim:
    """⌊a / b⌋. Symbolic divisors are taken only where they divide exactly (ValueError otherwise)."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if isinstance(b, Expression):
        exact = divide(a, b)
        if exact is None:
            raise ValueError(f"{a} is not a multiple of {b}")
        return exact
    if b <= 0:
        raise ValueError("a dimension is divided by a number below 1")
    whole = _build((m, c // b) for m, c in _terms(a) if m and c % b == 0)
    rest = _build((m, c) for m, c in _terms(a) if not m or c % b)
    if isinstance(rest, int):
        return whole + rest // b
    constant = next((c for m, c in rest.terms if not m), 0)
    whole, rest = whole + constant // b, rest - (constant // b) * b
    assert isinstance(rest, Expression)
    common = gcd(b, *(c for _, c in rest.terms))
    if common > 1:
        rest = _build((m, c // common) for m, c in rest.terms)
        assert isinstance(rest, Expression)
    if b == common:
        return whole + rest
    return whole + Expression(((((Quotient(rest, b // common), 1),), 1),))


def divide(a: Dim, b: Dim) -> Dim | None:
    """The quotient a / b where that is a dimension again, else None (polynomial long division)."""
    if isinstance(b, int):
        if b == 0 or any(c % b for _, c in _terms(a)):
            return None
        return _build((m, c // b) for m, c in _terms(a))
    quotient: Dim = 0
    rest = a
    for _ in range(64):
        if rest == 0:
            return quotient
        if isinstance(rest, int):
            return None
        (lead, c), (by, d) = rest.terms[0], b.terms[0]
        powers: dict[Atom, int] = dict(lead)
        for atom, power in by:
            powers[atom] = powers.get(atom, 0) - power
        if c % d or any(p < 0 for p in powers.values()):
            return None
        step = _build([(tuple(sorted(((x, p) for x, p in powers.items() if p), key=lambda i: str(i[0]))), c // d)])
        quotient, rest = quotient + step, rest - step * b
    return None


def symbols(dim: Dim) -> frozenset[str]:
    """The names a dimension depends on."""
    if isinstance(dim, int):
        return frozenset()
    found: set[str] = set()
    for monomial, _ in dim.terms:
        for atom, _power in monomial:
            found |= {atom} if isinstance(atom, str) else symbols(atom.numerator)
    return frozenset(found)


def substitute(dim: Dim, values: Mapping[str, Dim]) -> Dim:
    """The dimension with symbols replaced."""
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    for monomial, coefficient in dim.terms:
        term: Dim = coefficient
        for atom, power in monomial:
            if isinstance(atom, str):
                value = values.get(atom, symbol(atom))
            else:
                value = floor_divide(substitute(atom.numerator, values), atom.denominator)
            for _ in range(power):
                term = term * value
        total = total + term
    return total


def known_less(a: Dim, b: Dim) -> bool | None:
    """Whether a < b for all symbol values of at least 1; None where it depends on them."""
    difference = b - a
    if isinstance(difference, int):
        return difference > 0
    if any(isinstance(atom, Quotient) for m, _ in difference.terms for atom, _p in m):
        return None
    coefficients = [c for m, c in difference.terms if m]
    least = substitute(difference, dict.fromkeys(symbols(difference), 1))
    assert isinstance(least, int)
    if all(c > 0 for c in coefficients):
        return True if least > 0 else None
    if all(c < 0 for c in coefficients):
        return False if least <= 0 else None
    return None


def volume(shape: Iterable[Dim]) -> Dim:
    """The product of the dimensions."""
    return prod(shape, start=1)  # type: ignore[return-value]


def total(dims: Iterable[Dim]) -> Dim:
    """The sum of many dimensions, brought into normal form once."""
    whole = 0
    symbolic: list[Expression] = []
    for dim in dims:
        if isinstance(dim, int):
            whole += dim
        else:
            symbolic.append(dim)
    if len(symbolic) == 1 and whole == 0:
        return symbolic[0]
    return _build([*(t for dim in symbolic for t in dim.terms), ((), whole)]) if symbolic else whole


@dataclass(frozen=True, slots=True)
class TensorType:
    """dtype and shape of a value; prints as in the language, `f32[N, 3, 224, 224]`."""

    dtype: DType
    shape: Shape

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def elements(self) -> Dim:
        return volume(self.shape)

    @property
    def bytes(self) -> Dim:
        return self.elements * self.dtype.bytes

    def substitute(self, values: Mapping[str, Dim]) -> TensorType:
        return TensorType(self.dtype, tuple(substitute(d, values) for d in self.shape))

    def __str__(self) -> str:
        return f"{self.dtype.value}[{', '.join(map(str, self.shape))}]"


@lru_cache(maxsize=4096)
def tensor(dtype: DType, *shape: Dim) -> TensorType:
    """Shorthand that shares equal types: most nodes of a network have one of a few."""
    return TensorType(dtype, shape)
