"""Divisors of sizes, and common row-major factors of two shapes with the same elements."""

from __future__ import annotations

from ..types import Dim, Shape, divide

_NEAR = 10_000
"""How far a divisor to suggest may lie: sizes may be of any magnitude."""


def nearest_divisors(whole: int, wanted: int) -> list[int]:
    """The largest divisor of `whole` below `wanted` and the smallest above it, where they are near."""
    below = next((d for d in range(wanted - 1, max(0, wanted - _NEAR), -1) if whole % d == 0), None)
    above = next((d for d in range(wanted + 1, min(whole, wanted + _NEAR) + 1) if whole % d == 0), None)
    return [d for d in (below, above) if d is not None]


def factors(before: Shape, after: Shape) -> tuple[list[str], list[str], list[str]]:
    """The axes of two shapes of one volume as products of shared labels, and the labels that are not shared.

    `[N, 12, 4]` and `[N, 3, 16]` are `a0 (a3 a2) a1` and `a0 a3 (a2 a1)`: equal leading axes are one label; from the
    right, the smaller of two sizes is split off the larger as long as it divides it. What does not divide gets labels
    of its own.
    """
    left = [i for i, d in enumerate(before) if d != 1]
    right = [i for i, d in enumerate(after) if d != 1]
    names: tuple[dict[int, list[str]], dict[int, list[str]]] = ({}, {})
    count = 0
    while left and right and before[left[0]] == after[right[0]]:
        names[0][left.pop(0)] = names[1][right.pop(0)] = [f"a{count}"]
        count += 1
    a: Dim = 1
    b: Dim = 1
    shared: list[tuple[int, int, str]] = []
    while left and right:
        a = before[left[-1]] if a == 1 else a
        b = after[right[-1]] if b == 1 else b
        over_b, over_a = divide(a, b), divide(b, a)
        if over_b is None and over_a is None:
            break
        shared.append((left[-1], right[-1], f"a{count}"))
        count += 1
        a, b = (over_b, 1) if over_b is not None else (1, over_a if over_a is not None else 1)
        if a == 1:
            left.pop()
        if b == 1:
            right.pop()
    alone = _alone(shared, left, right)
    for i, j, name in shared:
        if i not in alone[0] and j not in alone[1]:
            names[0].setdefault(i, []).insert(0, name)
            names[1].setdefault(j, []).insert(0, name)
    for side, prefix in ((0, "x"), (1, "y")):
        names[side].update({i: [f"{prefix}{i}"] for i in alone[side]})
    fixed = [n for side in (0, 1) for i in sorted(alone[side]) for n in names[side][i]]
    return _written(before, names[0]), _written(after, names[1]), fixed


def _alone(shared: list[tuple[int, int, str]], left: list[int], right: list[int]) -> tuple[set[int], set[int]]:
    """The axes that were not factorised to the end, and those that share a factor with one of them."""
    alone = (set(left), set(right))
    changed = True
    while changed:
        changed = False
        for i, j, _ in shared:
            if (i in alone[0]) != (j in alone[1]):
                alone[0].add(i)
                alone[1].add(j)
                changed = True
    return alone


def _written(shape: Shape, names: dict[int, list[str]]) -> list[str]:
    parts = [names.get(i, ["1"]) for i in range(len(shape))]
    return [p[0] if len(p) == 1 else f"({' '.join(p)})" for p in parts]
