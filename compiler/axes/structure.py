"""Dimensions as sums of products of atoms, refined by equations between them: union-find over structured sets.

A dimension is a set of indices 0 … size - 1. It is an atom; or a product, the row-major pairs of indices of its
factors; or a sum, its parts one after the other. Equal dimensions seen in two ways are refined until both ways agree
down to the atoms: `(h d) = c` splits c in two factors, `(a + b) = (g c)` cuts g at the border of a and b.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from ..types import Dim, divide, known_less, volume

Dimension = int
"""The number of a dimension within its `Structure`."""


class Form(NamedTuple):
    """What a dimension consists of."""

    kind: Literal["product", "sum"]
    parts: tuple[Dimension, ...]


class Occurrence(NamedTuple):
    """An atom within a dimension: its index i is the block of `step` elements from `offset` + i·`step`, repeated for
    each (count, stride) in `loops`."""

    atom: Dimension
    offset: Dim
    step: Dim
    loops: tuple[tuple[Dim, Dim], ...] = ()


class Structure:
    """Dimensions and what is known of them. All sizes are at least 1; factors of size 1 are left out of products."""

    def __init__(self) -> None:
        self._parent: list[Dimension] = []
        self._sizes: list[Dim] = []
        self._forms: list[Form | None] = []
        self._products: dict[tuple[Dimension, ...], Dimension] = {}
        self.conflicts: list[tuple[Dimension, ...]] = []
        """Dimensions of which equal ones were seen in ways that have no common refinement."""

    def atom(self, size: Dim) -> Dimension:
        return self._new(size, None)

    def _new(self, size: Dim, form: Form | None) -> Dimension:
        self._parent.append(len(self._parent))
        self._sizes.append(size)
        self._forms.append(form)
        return len(self._parent) - 1

    def product(self, factors: Sequence[Dimension]) -> Dimension:
        """The row-major product."""
        kept = tuple(f for f in map(self.find, factors) if self._sizes[f] != 1)
        if len(kept) < 2:
            return (*kept, *factors)[0] if factors else self.atom(1)
        if kept not in self._products:
            self._products[kept] = self._new(volume(self._sizes[f] for f in kept), Form("product", kept))
        return self._products[kept]

    def sum(self, parts: Sequence[Dimension]) -> Dimension:
        """The parts one after the other."""
        if len(parts) == 1:
            return parts[0]
        return self._new(sum((self._sizes[p] for p in parts), 0), Form("sum", tuple(parts)))

    def find(self, dimension: Dimension) -> Dimension:
        """The one that stands for all equal dimensions."""
        root = dimension
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[dimension] != root:
            self._parent[dimension], dimension = root, self._parent[dimension]
        return root

    def size(self, dimension: Dimension) -> Dim:
        return self._sizes[dimension]

    def form(self, dimension: Dimension) -> Form | None:
        """None for an atom."""
        return self._forms[self.find(dimension)]

    # ------------------------------------------------------------------------------------------------ equations

    def equate(self, a: Dimension, b: Dimension) -> None:
        """Two dimensions are the same: refine both until they agree. What cannot be refined goes to `conflicts`."""
        waiting = [(a, b)]
        while waiting:
            a, b = map(self.find, waiting.pop())
            if a == b:
                continue
            x, y = self._forms[a], self._forms[b]
            if self._sizes[a] != self._sizes[b]:
                self.conflicts.append((a, b))
                continue
            if x is not None and y is None:
                a, b = b, a
            elif x is not None and y is not None:
                same = x.kind == y.kind == "product"
                waiting += self._factored(a, b) if same else self._aligned(a, b)
            self._parent[a] = b

    def _factored(self, a: Dimension, b: Dimension) -> Iterator[tuple[Dimension, Dimension]]:
        """Equations between factors of two products: equal leading ones, then from the right."""
        left, right = deque(self.factors(a)), deque(self.factors(b))
        while left and right and self._sizes[left[0]] == self._sizes[right[0]]:
            yield left.popleft(), right.popleft()
        while left and right:
            u, v = left.pop(), right.pop()
            if self._sizes[u] == self._sizes[v]:
                yield u, v
                continue
            for big, small, rest in ((u, v, left), (v, u, right)):
                quotient = divide(self._sizes[big], self._sizes[small])
                if quotient is not None:
                    rest.append(self.atom(quotient))
                    yield big, self.product([rest[-1], small])
                    break
            else:
                self.conflicts.append((*left, u, *right, v))
                return

    def _aligned(self, a: Dimension, b: Dimension) -> Iterator[tuple[Dimension, Dimension]]:
        """Equations between parts of two sums (one may be a product), cut where either is."""
        left, right = deque(self.segments(a)), deque(self.segments(b))
        while left and right:
            u, v = left.popleft(), right.popleft()
            if self._sizes[u] == self._sizes[v]:
                yield u, v
                continue
            less = known_less(self._sizes[u], self._sizes[v])
            small, large, rest = (u, v, right) if less else (v, u, left)
            halves = None if less is None else self._cut([large], self._sizes[small])
            if halves is None:
                self.conflicts.append((u, v, *left, *right))
                return
            (left if less else right).appendleft(small)
            rest.extendleft(reversed([*halves[0], *halves[1]]))
            if len(halves[0]) == 1:
                yield (left if less else right).popleft(), rest.popleft()

    def _cut(self, parts: list[Dimension], at: Dim) -> tuple[list[Dimension], list[Dimension]] | None:
        """The parts before and after an index, those across it cut in two; None where no way is known."""
        before: list[Dimension] = []
        waiting = deque(s for p in parts for s in self.segments(p))
        while waiting and at != 0:
            part = waiting.popleft()
            size = self._sizes[part]
            if size != at and known_less(at, size) is None:
                return None
            if size == at or not known_less(at, size):
                before.append(part)
                at = at - size
                continue
            halves = self._cut_one(part, at)
            if halves is None:
                return None
            before += halves[0]
            waiting.extendleft(reversed(halves[1]))
            at = 0
        return before, list(waiting)

    def _cut_one(self, part: Dimension, at: Dim) -> tuple[list[Dimension], list[Dimension]] | None:
        """An atom or product cut at an index inside it."""
        head, *rest = self.factors(part)
        inner = self.product(rest)
        width = self._sizes[inner]
        if isinstance(at, int) and isinstance(width, int):
            count, inside = divmod(at, width)
        else:
            exact, inside = divide(at, width), 0
            if exact is None:
                return None
            count = exact
        sizes = [count, *([1] if inside else []), self._sizes[head] - count - (1 if inside else 0)]
        pieces = [self.atom(s) for s in sizes if s != 0]
        if len(pieces) > 1:
            self._forms[head] = Form("sum", tuple(pieces))
        blocks = [self.product([p, inner]) for p in (pieces if len(pieces) > 1 else [head])]
        first = 1 if count != 0 else 0
        if not inside:
            return blocks[:first], blocks[first:]
        halves = self._cut([inner], inside)
        return None if halves is None else ([*blocks[:first], *halves[0]], [*halves[1], *blocks[first + 1 :]])

    # ------------------------------------------------------------------------------------------------ reading

    def factors(self, dimension: Dimension) -> list[Dimension]:
        """The factors of a product, none of them a product itself; of others, the dimension alone."""
        found: list[Dimension] = []
        waiting = [dimension]
        while waiting:
            dimension = self.find(waiting.pop())
            form = self._forms[dimension]
            if form is not None and form.kind == "product":
                waiting.extend(reversed(form.parts))
            else:
                found.append(dimension)
        return found

    def segments(self, dimension: Dimension) -> list[Dimension]:
        """The parts of a sum: atoms, and products that begin with one. `(a + b) c` has the parts `a c` and `b c`."""
        found: list[Dimension] = []
        waiting = [dimension]
        while waiting:
            dimension = self.find(waiting.pop())
            form = self._forms[dimension]
            if form is None:
                found.append(dimension)
            elif form.kind == "sum":
                waiting.extend(reversed(form.parts))
            else:
                head, *rest = self.factors(dimension)
                parts = self.segments(head)
                if len(parts) == 1:
                    found.append(dimension)
                else:
                    waiting.extend(self.product([p, *rest]) for p in reversed(parts))
        return found

    def atoms(self, dimension: Dimension) -> list[Dimension]:
        """The atoms that a dimension consists of, each once."""
        found: list[Dimension] = []
        seen: set[Dimension] = set()
        waiting = [dimension]
        while waiting:
            dimension = self.find(waiting.pop())
            if dimension in seen:
                continue
            seen.add(dimension)
            form = self._forms[dimension]
            if form is None:
                found.append(dimension)
            else:
                waiting.extend(reversed(form.parts))
        return found

    def occurrences(self, dimension: Dimension) -> Iterator[Occurrence]:
        """Every atom of a dimension with its place, in order of offsets."""
        yield from self._spread(dimension, 0, 1, ())

    def _spread(
        self, dimension: Dimension, offset: Dim, step: Dim, loops: tuple[tuple[Dim, Dim], ...]
    ) -> Iterator[Occurrence]:
        for part in self.segments(dimension):
            size = self._sizes[part]
            if self._forms[part] is None:
                yield Occurrence(part, offset, step, loops)
            else:
                factors = self.factors(part)
                strides = [volume(self._sizes[f] for f in factors[i + 1 :]) * step for i in range(len(factors))]
                rounds = [(self._sizes[f], s) for f, s in zip(factors, strides, strict=True)]
                for i, factor in enumerate(factors):
                    yield from self._spread(factor, offset, strides[i], (*loops, *rounds[:i]))
            offset = offset + size * step
