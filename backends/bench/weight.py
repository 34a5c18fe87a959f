"""Weights for what loads none: such that what comes out depends on what goes in.

PyTorch's own draw for layers has a sixth of the variance that a rectifier keeps up (He et al., Delving deep into
rectifiers, 2015). After some ten layers only biases are left, and a difference between two results says nothing of the
kernels that made them. Scales of one and biases of zero hide mistakes too.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np

from ...compiler import weights
from ...compiler.graph import Graph, Parameter
from .runtime import Array

HIDDEN = 0.2
"""The most that is added to what would be neutral."""


@dataclass(frozen=True, slots=True)
class Lively:
    """The numbers of a parameter that has none: its own draw, kept up and not neutral."""

    parameter: Parameter
    seed: int

    def load(self) -> Array:
        drawn = weights.value(self.parameter, self.seed)
        kind = self.parameter.initialiser.kind
        if kind in ("zeros", "ones", "constant"):
            generator = np.random.default_rng([self.seed, zlib.crc32(self.parameter.path.encode())])
            return (drawn + generator.uniform(0, HIDDEN, drawn.shape)).astype(drawn.dtype)
        return (drawn * 6**0.5).astype(drawn.dtype) if kind == "fan_in_uniform" and drawn.ndim > 1 else drawn


def lively(graph: Graph, seed: int = 0) -> Graph:
    """The graph with such numbers for every floating-point parameter that no weights are loaded into."""
    return graph.with_parameters(
        [
            replace(p, data=Lively(p, seed))
            for p in graph.parameters.values()
            if p.data is None and p.type.dtype.is_float
        ]
    )
