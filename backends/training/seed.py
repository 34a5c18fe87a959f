"""Everything random in a run follows from its seed, a purpose and a place: no generator has a state to keep."""

from __future__ import annotations

from functools import lru_cache

import numpy
import torch

ORDER, STEP, MEMBER, PROJECTION = range(4)
"""Purposes: the order of an epoch, what is random inside a step, the member that learns in it, new projections."""


def seed_of(*numbers: int) -> int:
    """A seed that follows from numbers: the run's, a purpose, a step."""
    return int(numpy.random.SeedSequence(numbers).generate_state(1, numpy.uint64)[0])


def generator(*numbers: int) -> numpy.random.Generator:
    """Numpy's generator of such a seed."""
    return numpy.random.Generator(numpy.random.Philox(seed_of(*numbers)))


@lru_cache(maxsize=1)
def order(seed: int, epoch: int, count: int) -> torch.Tensor:
    """The order in which an epoch takes the examples."""
    return torch.from_numpy(generator(seed, ORDER, epoch).permutation(count))
