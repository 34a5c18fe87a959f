"""Merging by what models differ from a common base by."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..graph import Graph
from ..merging import combine
from .average import shares
from .register import Outcome, word
from .same_shape import combined, names, require_same

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@dataclass(frozen=True)
class _Tasks:
    base: Graph
    weights: list[float] | None = None
    scale: float = 1.0

    agree = False
    mean = False

    def merge(self, models: Sequence[Graph], seed: int) -> Outcome:
        require_same([self.base, *models])
        weights = shares(self.weights, len(models))

        def numbers(path: str, given: Sequence[Array]) -> Array:
            deltas = self.sparse(path, [g - given[0] for g in given[1:]], seed)
            return combine.add_tasks(given[0], deltas, weights, agree=self.agree, mean=self.mean, scale=self.scale)

        text = f"{self.base.name} and what {', '.join(names(models))} differ from it by"
        notes = [text]
        if any(n.op.name == "batch_norm" for n in self.base.nodes.values()):
            notes.append("statistics of batch norms too, so that variances may be below 0: recompute_statistics")
        return combined([self.base, *models], numbers, seed, *notes)

    def sparse(self, path: str, deltas: Sequence[Array], seed: int) -> Sequence[Array]:
        """What is left of the differences."""
        return deltas


@word("task_arithmetic")
@dataclass(frozen=True)
class TaskArithmetic(_Tasks):
    """The base with the sum of what each model differs from it by, times `weights` (one each) and `scale` (Ilharco et
    al., 2023)."""


@dataclass(frozen=True)
class _Sparse(_Tasks):
    density: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ValueError(f"density is a share of the numbers, above 0 and at most 1, not {self.density:g}")


@word("ties")
@dataclass(frozen=True)
class Ties(_Sparse):
    """Of each model's differences from the `base`, tensor by tensor, the largest, a share `density` of them; for each
    number the sign that weighs more, and the weighted mean of those that have it, times `scale` (Yadav et al., 2023,
    who keep 0.2)."""

    agree = True
    mean = True

    def sparse(self, path: str, deltas: Sequence[Array], seed: int) -> Sequence[Array]:
        return [combine.trimmed(d, self.density) for d in deltas]


@word("dare_linear")
@dataclass(frozen=True)
class DareLinear(_Sparse):
    """Of each model's differences from the `base` a random share `density`, scaled so that the sum of their sizes
    stays; their weighted sum, times `scale` (Yu et al., 2024). `seed`, of the transform, draws which."""

    def sparse(self, path: str, deltas: Sequence[Array], seed: int) -> Sequence[Array]:
        kept = combine.masks(deltas[0].shape, self.density, len(deltas), mask_seed(path, seed))
        return [combine.dropped(d, k) for d, k in zip(deltas, kept, strict=True)]


@word("dare_ties")
@dataclass(frozen=True)
class DareTies(DareLinear):
    """As `dare_linear`; for each number only those count whose sign weighs more."""

    agree = True


def mask_seed(path: str, seed: int) -> int:
    """The seed of the random masks of a parameter."""
    return zlib.crc32(f"{seed} {path}".encode())
