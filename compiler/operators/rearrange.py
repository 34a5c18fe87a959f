"""Rearrangement by a pattern of axis names, after einops (Rogozhnikov 2022)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Any, NamedTuple, cast

from pydantic import AfterValidator, BeforeValidator

from ..types import Dim, Expression, Shape, TensorType, divide, volume
from .dimension import Movement, Size, given
from .factor import nearest_divisors
from .layout import Permute, Reshape
from .operator import Axes, Emit, Operator, ShapeError, Types, V, operands, operator, sample

Groups = tuple[tuple[str, ...], ...]
"""Axes of one side, each a product of named factors; none for an axis of size 1."""

_TOKEN = re.compile(r"\s*(\.\.\.|[()]|[A-Za-z_]\w*|\d+|\S)")


class Sides(NamedTuple):
    """A parsed pattern."""

    before: Groups
    after: Groups


@lru_cache(maxsize=1024)
def parse(text: str) -> Sides:
    """A pattern such as `"b t (h d) -> b h t d"`. `...` is a group of the one name `...`.

    Raises:
        ValueError: where the text is no pattern, or the sides do not hold the same names.
    """
    sides = text.split("->")
    if len(sides) != 2:
        raise ValueError('should have two sides, as in "b t (h d) -> b h t d"')
    before, after = (_side(s) for s in sides)
    left, right = ([n for g in side for n in g] for side in (before, after))
    for names in (left, right):
        twice = next((n for i, n in enumerate(names) if n in names[:i]), None)
        if twice is not None:
            raise ValueError(f"should name {twice} once on each side")
    for here, there, side in ((left, right, "left"), (right, left, "right")):
        lone = next((n for n in here if n not in there), None)
        if lone is not None:
            instead = "mean, sum or another reduction" if side == "left" else "repeat or expand"
            raise ValueError(f"should have {lone} on both sides, not only on the {side} (for that, use {instead})")
    if any("..." in group and len(group) > 1 for group in (*before, *after)):
        raise ValueError("should have ... outside of parentheses")
    return Sides(before, after)


def _side(text: str) -> Groups:
    groups: list[tuple[str, ...]] = []
    inside: list[str] | None = None
    for token in _TOKEN.findall(text):
        if token == "(" and inside is None:
            inside = []
        elif token == ")" and inside is not None:
            groups.append(tuple(inside))
            inside = None
        elif token == "..." or token.isidentifier():
            if inside is None:
                groups.append((token,))
            else:
                inside.append(token)
        elif token == "1":
            if inside is None:
                groups.append(())
        else:
            raise ValueError(f"should consist of names, 1, ... and parentheses, which are not nested; {token} is wrong")
    if inside is not None:
        raise ValueError("should close every parenthesis")
    return tuple(groups)


def _checked(text: str) -> str:
    parse(text)
    return " ".join(text.split())


def _named(value: Any) -> tuple[tuple[str, Any], ...]:
    """Pairs of a name and a size, in the order of the names, from a mapping or a list of pairs."""
    pairs = list(cast("Mapping[Any, Any]", value).items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, (list, tuple)):
        raise ValueError("should be sizes by name")
    found: dict[str, Any] = {}
    for pair in cast("Sequence[Any]", pairs):
        name, size = cast("Sequence[Any]", pair) if isinstance(pair, (list, tuple)) and len(pair) == 2 else (None, None)  # pyright: ignore[reportUnknownArgumentType]
        if not isinstance(name, str) or name in found:
            raise ValueError('should be sizes by name, such as [["h", 8]]')
        found[name] = size
    return tuple(sorted(found.items()))


@operator("rearrange")
class Rearrange(Movement):
    """Axes split, permuted and merged as the pattern says; `sizes` gives the factors that do not follow.

    `rearrange("b t (h d) -> b h t d", sizes = [["h", 8]])` makes heads. `1` or `()` is an axis of size 1 and `...` any
    number of axes.
    """

    operands = operands("x")
    derived = True
    pattern: Annotated[str, AfterValidator(_checked)]
    sizes: Annotated[tuple[tuple[str, Size], ...], BeforeValidator(_named)] = ()

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        _, after, sizes = self._solved(x)
        return (TensorType(x.dtype, tuple(volume(sizes[n] for n in group) for group in after)),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        before, after, _ = self._solved(x)
        return Axes(f"{_text(before)} -> {_text(after)}", sizes=dict(self.sizes))

    def resized(self, sizes: Mapping[str, Dim], outputs: Types) -> Rearrange:
        return replace(self, sizes=tuple((name, sizes[name]) for name, _ in self.sizes))

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        kind = emit.type(x)
        before, after, sizes = self._solved(kind)
        split, merged = [n for g in before for n in g], [n for g in after for n in g]
        value = _reshaped(emit, x, tuple(sizes[n] for n in split))
        if split != merged:
            value = emit(Permute(tuple(split.index(n) for n in merged)), value)
        return _reshaped(emit, value, self.shape(kind)[0].shape)

    def _solved(self, x: TensorType) -> tuple[Groups, Groups, dict[str, Dim]]:
        """Both sides without `...`, and the size of every name."""
        sides = parse(self.pattern)
        before, after = (_spelt(self, side, x, len(sides.before)) for side in sides)
        what = f'rearrange "{self.pattern}"'
        if len(before) != x.rank:
            raise ShapeError(f"{what} takes {len(before)} axes, but {x} has {x.rank}", operands=(0,))
        sizes = dict(self.sizes)
        known = {n for group in before for n in group}
        stray = next((n for n in sizes if n not in known), None)
        if stray is not None:
            raise ShapeError(f"{what} does not name {stray}, which sizes gives", code="unknown-argument")
        for group, whole in zip(before, x.shape, strict=True):
            _solve(what, group, whole, sizes, x)
        return before, after, sizes


def _spelt(op: Operator, groups: Groups, x: TensorType, written: int) -> Groups:
    """The groups with `...` as the names `_0`, `_1`, …"""
    if ("...",) not in groups:
        return groups
    at = groups.index(("...",))
    return (*groups[:at], *((f"_{i}",) for i in range(x.rank - written + 1)), *groups[at + 1 :])


def _solve(what: str, group: tuple[str, ...], whole: Dim, sizes: dict[str, Dim], x: TensorType) -> None:
    """Find the sizes of the factors of an axis of size `whole`, and check them."""
    open_ = [n for n in group if n not in sizes]
    text = _text((group,))
    if len(open_) > 1:
        raise ShapeError(
            f"{what}: {text} is {whole} in {x}, but how much of it {' and '.join(open_)} are does not follow",
            operands=(0,),
            code="ambiguous-pattern",
            fix=f"give sizes for all but one, such as {open_[0]}",
        )
    known = volume(sizes[n] for n in group if n in sizes)
    if not open_:
        if known != whole:
            given_ = ", ".join(f"{n} = {sizes[n]}" for n in group) or "1"
            raise ShapeError(f"{what}: {text} is {whole} in {x}, not {known} ({given_})", operands=(0,))
        return
    rest = None if known == 0 else divide(whole, known)
    if rest is None:
        raise _indivisible(what, text, whole, known, [n for n in group if n in sizes], x)
    sizes[open_[0]] = rest


def _indivisible(what: str, text: str, whole: Dim, known: Dim, names: Sequence[str], x: TensorType) -> ShapeError:
    factor = f"{' · '.join(names)} = {known}"
    if isinstance(whole, Expression) or isinstance(known, Expression):
        message = f"{what}: {text} is {whole} in {x}, which is not known to be a multiple of {factor}"
        fix = f"declare the dimension as a multiple, such as {known}*k"
        return ShapeError(message, operands=(0,), code="indivisible", fix=fix)
    near = nearest_divisors(whole, known)
    return ShapeError(
        f"{what}: {text} is {whole} in {x}, which {factor} does not divide",
        operands=(0,),
        code="indivisible",
        fix=f"{' or '.join(f'{names[0]} = {n}' for n in near)}" if len(names) == 1 else None,
        notes=(f"nearest divisors of {whole}: {', '.join(map(str, near))}",) if near else (),
    )


def _text(groups: Groups) -> str:
    return " ".join("1" if not g else g[0] if len(g) == 1 else f"({' '.join(g)})" for g in groups)


def _reshaped(emit: Emit[V], x: V, shape: Shape) -> V:
    return x if emit.type(x).shape == shape else emit(Reshape(shape), x)


sample(Rearrange("b t (h d) -> b h t d", (("h", 2),)), "f32[2, 3, 8]")
sample(Rearrange("b c (h p) (w q) -> b (h w) (p q c)", (("p", 2), ("q", 2))), "f32[2, 3, 4, 6]")
sample(Rearrange("b h t d -> b t (h d)"), "f32[2, 2, 3, 4]")
sample(Rearrange("... a b -> ... b a"), "f32[2, 3, 4]")
sample(Rearrange("a b -> a 1 b ()"), "i64[2, 3]", high={0: 9})
