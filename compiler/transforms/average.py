"""Means of models: of all of them, or on the arc between two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..graph import Graph
from ..merging import combine
from .register import Outcome, Refusal, word
from .same_shape import combined, require_same


@word("average")
@dataclass(frozen=True)
class Average:
    """The mean of the models' numbers (Wortsman et al., 2022), with `weights` where they count differently."""

    weights: list[float] | None = None

    def merge(self, models: Sequence[Graph], seed: int) -> Outcome:
        require_same(models)
        weights = shares(self.weights, len(models))
        text = f"each number is the mean of {len(models)}, with the weights {', '.join(f'{w:g}' for w in weights)}"
        return combined(models, lambda _, given: combine.average(given, weights), seed, text)


@word("slerp")
@dataclass(frozen=True)
class Slerp:
    """Two models, each tensor at `t` of the arc from the first's to the second's (Shoemake, 1985)."""

    t: float = 0.5

    def merge(self, models: Sequence[Graph], seed: int) -> Outcome:
        if len(models) != 2:
            raise Refusal(f"slerp lies between two models, and here are {len(models)}", option="method")
        require_same(models)
        text = f"each tensor lies at {self.t:g} of the arc from {models[0].name} to {models[1].name}"
        return combined(models, lambda _, given: combine.slerp(given[0], given[1], self.t), seed, text)


def shares(weights: Sequence[float] | None, count: int) -> list[float]:
    """A weight for each model: 1 where none are given.

    Raises:
        Refusal: for another number of weights, or where they cancel.
    """
    found = [1.0] * count if weights is None else [*weights]
    if len(found) != count:
        raise Refusal(f"there are {count} models to weigh, and {len(found)} weights", option="method")
    if abs(sum(found)) < 1e-8:
        raise Refusal("the weights sum to 0", option="method")
    return found
