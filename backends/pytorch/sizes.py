"""Symbolic dimensions in a forward method: which of its tensors' sizes give them, and how they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ...compiler.types import Atom, Dim, TensorType, divide, symbol, symbols
from ...compiler.types import Expression as Polynomial
from .template import RESERVED, Expression, Rank, bracket


class Sizes:
    """The sizes known in one forward method. Each is bound once, at its top, from the shape of an argument.

    An inner module's arguments have sizes such as `(H + 1)//2`; they get names of their own there, as in its
    declaration. A symbol that no argument shows is asked of the caller through `ask`, which gives its name.
    """

    def __init__(self, arguments: Iterable[tuple[int, TensorType]], ask: Callable[[str], str]) -> None:
        self._places: dict[Dim, tuple[int, int]] = {}
        self._ranks: dict[int, int] = {}
        self._names: dict[Dim, str] = {}
        self._taken: set[str] = set(RESERVED)
        self._ask = ask
        for number, kind in arguments:
            self._ranks[number] = kind.rank
            for axis, dim in enumerate(kind.shape):
                if isinstance(dim, Polynomial):
                    self._places.setdefault(dim, (number, axis))

    @property
    def names(self) -> frozenset[str]:
        """The variables that `bindings` sets."""
        return frozenset(self._names.values())

    def reserve(self, name: str) -> str:
        """A variable that no size is called, by that name or one like it."""
        while name in self.names:
            name += "_"
        self._taken.add(name)
        return name

    def bindings(self, argument: Callable[[int], str]) -> list[str]:
        """The lines that read the sizes in use off the arguments' shapes."""
        used: dict[int, dict[int, str]] = {}
        for dim, name in self._names.items():
            number, axis = self._places[dim]
            used.setdefault(number, {})[axis] = name
        lines: list[str] = []
        for number, axes in sorted(used.items()):
            if len(axes) == 1:
                [(axis, name)] = axes.items()
                lines.append(f"{name} = {argument(number)}.shape[{axis}]")
            else:
                rank = self._ranks[number]
                targets = [axes.get(axis, "_") for axis in range(rank if rank < 5 else max(axes) + 1)]
                rest = "" if len(targets) == rank else ", *_"
                lines.append(f"{', '.join(targets)}{rest} = {argument(number)}.shape")
        return lines

    def write(self, dim: Polynomial) -> Expression:
        """The dimension as Python."""
        known = self._known(dim)
        if known:
            return known
        for place in self._places:
            relation = self._relate(dim, place)
            if relation:
                return relation
        parts = [self._term(monomial, coefficient) for monomial, coefficient in dim.terms]
        if len(parts) == 1:
            return parts[0]
        text = bracket(parts[0], Rank.ADD)
        for part in parts[1:]:
            text += f" - {part.text[1:]}" if part.text.startswith("-") else f" + {bracket(part, Rank.MULTIPLY)}"
        return Expression(text, Rank.ADD)

    def _known(self, dim: Dim) -> Expression | None:
        if dim not in self._places:
            return None
        if dim not in self._names:
            self._names[dim] = self._fresh(dim)
        return Expression(self._names[dim])

    def _fresh(self, dim: Dim) -> str:
        found = symbols(dim)
        base = next(iter(found)) if len(found) == 1 else "size"
        name, number = base, 2
        while name in self._taken:
            name, number = f"{base}{number}", number + 1
        self._taken.add(name)
        return name

    def _relate(self, dim: Polynomial, place: Dim) -> Expression | None:
        """The dimension by one known size: a sum with a number, a multiple, or a part of it."""
        difference = dim - place
        if isinstance(difference, int):
            known = self._known(place)
            assert known
            sign = "+" if difference > 0 else "-"
            return Expression(f"{known.text} {sign} {abs(difference)}", Rank.ADD)
        factor = divide(dim, place)
        if factor is not None and factor != 1:
            known = self._known(place)
            assert known
            written = Expression(str(factor)) if isinstance(factor, int) else self.write(factor)
            return Expression(f"{known.text} * {bracket(written, Rank.UNARY)}", Rank.MULTIPLY)
        part = divide(place, dim)
        if isinstance(part, int) and part > 1:
            known = self._known(place)
            assert known
            return Expression(f"{known.text} // {part}", Rank.MULTIPLY)
        return None

    def _term(self, monomial: Sequence[tuple[Atom, int]], coefficient: int) -> Expression:
        factors: list[str] = [] if abs(coefficient) == 1 and monomial else [str(abs(coefficient))]
        for atom, power in monomial:
            written = self._atom(atom)
            factors.extend([bracket(written, Rank.POWER if factors or power > 1 else Rank.MULTIPLY)] * power)
        sign = "-" if coefficient < 0 else ""
        rank = Rank.MULTIPLY if len(factors) > 1 else Rank.UNARY if sign else Rank.ATOM
        if not sign and len(monomial) == 1 and len(factors) == 1 and not isinstance(monomial[0][0], str):
            rank = Rank.MULTIPLY
        return Expression(sign + " * ".join(factors), rank)

    def _atom(self, atom: Atom) -> Expression:
        if isinstance(atom, str):
            return self._known(symbol(atom)) or self._solve(atom) or Expression(self._ask(atom))
        known = self._known(Polynomial((((((atom, 1),)), 1),)))
        if known:
            return known
        return Expression(f"{bracket(self.write(atom.numerator), Rank.MULTIPLY)} // {atom.denominator}", Rank.MULTIPLY)

    def _can_write(self, dim: Dim, without: set[str]) -> bool:
        """Whether the symbols of a dimension are sizes themselves."""
        return all(symbol(name) in self._places for name in symbols(dim) - without)

    def _solve(self, name: str) -> Expression | None:
        """A symbol from a size that is linear in it alone, or that is a product of it with others."""
        for place in self._places:
            assert isinstance(place, Polynomial)
            rest = divide(place, symbol(name))
            if isinstance(rest, Polynomial) and name not in symbols(rest) and self._can_write(rest, {name}):
                known = self._known(place)
                assert known
                return Expression(f"{known.text} // {bracket(self.write(rest), Rank.UNARY)}", Rank.MULTIPLY)
            if symbols(place) != frozenset({name}):
                continue
            rest = [c for m, c in place.terms if not m]
            slopes = [(m, c) for m, c in place.terms if m]
            if len(slopes) == 1 and slopes[0][0] == ((name, 1),) and slopes[0][1] > 0:
                known = self._known(place)
                assert known
                shift = rest[0] if rest else 0
                text = f"({known.text} {'-' if shift > 0 else '+'} {abs(shift)})" if shift else known.text
                slope = slopes[0][1]
                return Expression(f"{text} // {slope}", Rank.MULTIPLY) if slope > 1 else Expression(text)
        return None
