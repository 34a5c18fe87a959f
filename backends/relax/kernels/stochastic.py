"""Rules of what acts in training only."""

from __future__ import annotations

from ....compiler.operators import stochastic as op
from ..lower import Inputs, Lowering, Types, rules
from ..tensor import Tensor


@rules(op.Identity, op.StopGradient, op.Dropout, op.DropPath)
def _unchanged(low: Lowering, node: op.Unchanged, inputs: Inputs, types: Types) -> Tensor:
    return inputs[0]
