"""One tensor made of the tensors of several models, no model is known here.

What is computed is what mergekit 0.1.5 computes, in the precision that the arrays have.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import acos, sin
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

_COLLINEAR = 0.9995
"""Cosine from which two vectors count as parallel: the arc between them is then a line."""
_NEGLIGIBLE = 1e-8


def average(arrays: Sequence[Array], weights: Sequence[float]) -> Array:
    """The mean with these weights (Wortsman et al., 2022)."""
    total: Array = sum(a * w for a, w in zip(arrays, weights, strict=True))  # pyright: ignore[reportAssignmentType]
    return total / sum(weights)


def slerp(a: Array, b: Array, t: float) -> Array:
    """At `t` of the arc from a to b, as vectors; of the line where they are parallel (Shoemake, 1985)."""
    import numpy

    def unit(v: Array) -> Array:
        length = float(numpy.linalg.norm(v))
        return v / length if length > _NEGLIGIBLE else v

    cosine = min(max(float((unit(a) * unit(b)).sum()), -1.0), 1.0)
    if abs(cosine) > _COLLINEAR:
        return (1 - t) * a + t * b
    angle = acos(cosine)
    return (sin((1 - t) * angle) * a + sin(t * angle) * b) / sin(angle)


def add_tasks(
    base: Array, deltas: Sequence[Array], weights: Sequence[float], *, agree: bool, mean: bool, scale: float
) -> Array:
    """The base with what each model differs from it by, weighted (Ilharco et al., 2023).

    With `agree`, only numbers whose sign is that of the weighted sum count (Yadav et al., 2023, §3.2). With `mean`, the
    sum is divided by the weights that count.
    """
    import numpy

    tasks = [d * w for d, w in zip(deltas, weights, strict=True)]
    total: Array = sum(tasks[1:], tasks[0])
    divisor: Any = sum(weights)
    if agree:
        positive = total >= 0
        counts: list[Array] = [(t > 0) & positive | (t < 0) & ~positive for t in tasks]
        total = sum((t * c for t, c in zip(tasks[1:], counts[1:], strict=True)), tasks[0] * counts[0])
        if mean:
            divisor = sum((w * c for w, c in zip(weights[1:], counts[1:], strict=True)), weights[0] * counts[0])
    if mean:
        total = total / numpy.where(abs(divisor) < _NEGLIGIBLE, 1, divisor)
    return base + scale * total


def trimmed(delta: Array, density: float) -> Array:
    """The largest numbers, as many as `density` says and at least one; 0 elsewhere (TIES: Yadav et al., 2023, §3.1)."""
    import numpy

    if density >= 1 or not delta.size:
        return delta
    flat, count = abs(delta).reshape(-1), max(1, int(density * delta.size))
    least = numpy.partition(flat, delta.size - count)[delta.size - count]
    kept = flat > least
    kept[numpy.flatnonzero(flat == least)[: count - int(kept.sum())]] = True  # of equal ones the first
    found: Array = delta * kept.reshape(delta.shape)
    return found


def dropped(delta: Array, kept: Array) -> Array:
    """The numbers that a mask keeps, scaled so that the sum of their sizes stays (DARE: Yu et al., 2024, §3.2, who
    divide by the density instead; mergekit keeps the sum)."""
    import numpy

    found: Array = delta * kept
    before, after = (float(numpy.abs(v).sum()) for v in (delta, found))
    scale = before / after if min(before, after) >= 1e-7 else 1.0
    return found * scale


def masks(shape: Sequence[int], density: float, count: int, seed: int) -> list[Array]:
    """`count` masks that keep each number with a probability: those of `torch.bernoulli` one after the other, after
    `torch.manual_seed(seed)`, on a CPU."""
    import numpy

    if density >= 1:
        return [numpy.ones(shape, bool)] * count
    random = numpy.random.RandomState(seed)  # the same twister as PyTorch's, of which single precision takes 24 bits
    limit = float(numpy.float32(density)) * 2**24
    drawn = (random.randint(0, 2**32, tuple(shape), numpy.uint32) & 0xFFFFFF for _ in range(count))
    return [d < limit for d in drawn]
