"""Rules of tensors from nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ....compiler.operators import creation as op
from ..half import DTYPES
from ..index import literal
from ..kernel import Kernel, Pattern
from ..lower import Inputs, Lowering, Types, rules
from ..tensor import Tensor
from .numeric import cast


@rules(op.Constant)
def _constant(low: Lowering, node: op.Constant, inputs: Inputs, types: Types) -> Tensor:
    import numpy as np

    if isinstance(node.value, tuple):
        return low.array(np.array(node.value, dtype=types[0].dtype.as_numpy), types[0].dtype)
    return low.number(node.value, types[0].dtype)


@rules(op.Full)
def _full(low: Lowering, node: op.Full, inputs: Inputs, types: Types) -> Tensor:
    (type,) = types
    number = low.number(node.value, type.dtype)
    return low.map("full", [number], type, lambda _, value: value[()]) if type.shape else number


@rules(op.Arange)
def _arange(low: Lowering, node: op.Arange, inputs: Inputs, types: Types) -> Tensor:
    (type,) = types

    def body(kernel: Kernel) -> Any:
        start = kernel.dim(node.start)
        return kernel.stage(type.shape, lambda i: cast(start + i * literal(node.step), DTYPES[type.dtype]))

    made = low.kernel("arange", [], [type], body, pattern=Pattern.INJECTIVE)[0]
    return replace(made, limit=node.stop if node.step > 0 else node.start + 1)
