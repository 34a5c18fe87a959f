"""The axis patterns of operators, read; see `operators.operator.Axes`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from ..types import Dim, divide, volume


class Parts(NamedTuple):
    """An axis that consists of others: their row-major product, or one after the other."""

    kind: Literal["product", "sum"]
    items: tuple[Axis, ...]


Axis = str | Parts
"""A label, or parts. `1` is an axis that is broadcast."""

Groups = tuple[tuple[Axis, ...], ...]


class Pattern(NamedTuple):
    """The axes of each input that is present, and of each output."""

    inputs: Groups
    outputs: Groups
    plain: bool
    """No axis has parts."""


@lru_cache(maxsize=65_536)
def read(text: str, inputs: int) -> Pattern:
    """The pattern that a text stands for, of an operator with so many inputs: nothing may be none, or a number."""
    left, right = text.split("->")
    return Pattern(_groups(left)[:inputs], _groups(right), "(" not in text)


def _groups(text: str) -> Groups:
    found: list[tuple[Axis, ...]] = []
    for group in text.split(","):
        tokens = re.findall(r"\w+|[()+]", group)[::-1]
        axes: list[Axis] = []
        while tokens:
            axes.append(_axis(tokens))
        found.append(tuple(axes))
    return tuple(found)


def _axis(tokens: list[str]) -> Axis:
    first = tokens.pop()
    if first != "(":
        return first
    items = [_axis(tokens)]
    kind: Literal["product", "sum"] = "sum" if tokens[-1] == "+" else "product"
    while tokens[-1] != ")":
        if kind == "sum":
            tokens.pop()
        items.append(_axis(tokens))
    tokens.pop()
    return Parts(kind, tuple(items))


def labels(axis: Axis) -> Iterable[str]:
    """The labels within an axis, in order."""
    if isinstance(axis, str):
        yield axis
    else:
        for item in axis.items:
            yield from labels(item)


def solve(places: Sequence[tuple[Axis, Dim]], given: Mapping[str, Dim]) -> dict[str, Dim]:
    """The size of every label, from the sizes of the axes in which it is and those that are given."""
    sizes: dict[str, Dim] = {"1": 1, **given}
    for axis, size in places:
        if isinstance(axis, str):
            sizes.setdefault(axis, size)
    waiting = [(axis, size) for axis, size in places if not isinstance(axis, str)]
    for _ in waiting:
        before = len(sizes)
        for axis, size in waiting:
            _deduce(axis, size, sizes)
        if len(sizes) == before:
            break
    return sizes


def _deduce(axis: Axis, size: Dim, sizes: dict[str, Dim]) -> None:
    if isinstance(axis, str):
        sizes.setdefault(axis, size)
        return
    found = [(item, measured(axis=item, sizes=sizes)) for item in axis.items]
    open_ = [item for item, s in found if s is None]
    known = [s for _, s in found if s is not None]
    rest = None
    if axis.kind == "sum" and open_ and len(set(open_)) == 1:
        rest = divide(size - sum(known, 0), len(open_))
    elif axis.kind == "product" and len(open_) == 1:
        rest = divide(size, volume(known))
    if rest is not None:
        _deduce(open_[0], rest, sizes)


def measured(axis: Axis, sizes: Mapping[str, Dim]) -> Dim | None:
    """The size of an axis, where those of its labels are known."""
    if isinstance(axis, str):
        return sizes.get(axis)
    inner = [measured(item, sizes) for item in axis.items]
    known = [s for s in inner if s is not None]
    if len(known) < len(inner):
        return None
    return sum(known, 0) if axis.kind == "sum" else volume(known)


def build(
    axis: Axis, label: Callable[[str], int], product: Callable[[list[int]], int], sum_: Callable[[list[int]], int]
) -> int:
    """The axis made of what stands for its labels."""
    if isinstance(axis, str):
        return label(axis)
    parts = [build(item, label, product, sum_) for item in axis.items]
    return product(parts) if axis.kind == "product" else sum_(parts)
