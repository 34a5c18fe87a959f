"""ONNX rules that make tensors, and that arrange them anew."""

from __future__ import annotations

from ...compiler.graph import Input
from ...compiler.operators import creation as c
from ...compiler.operators import layout as m
from ...compiler.operators import stochastic as s
from ...compiler.operators.operator import Operator
from ...compiler.types import DType, Expression
from .build import RULES, Build


@RULES(Input)
def _input(b: Build, op: Input) -> str:
    return b.path


@RULES(c.Constant)
def _constant(b: Build, op: c.Constant) -> str:
    return b.constant(op.value, b.result.dtype)


@RULES(c.Full)
def _full(b: Build, op: c.Full) -> str:
    value = op.value
    number = b.scalar_size(value, op.dtype) if isinstance(value, Expression) else b.constant(value, op.dtype)
    return b("Expand", number, b.vector(op.size))


@RULES(c.Arange)
def _arange(b: Build, op: c.Arange) -> str:
    assert op.stop is not None
    start, stop = b.scalar_size(op.start), b.scalar_size(op.stop)
    numbers = b.once((start, stop, op.step), f"{start} {stop}", lambda: b("Range", start, stop, b.constant(op.step)))
    return b.cast(numbers, DType.I64, op.dtype)


@RULES(m.Reshape)
def _reshape(b: Build, op: m.Reshape, x: str) -> str:
    return b.reshape(x, b.type(0).shape, b.result.shape)


@RULES(m.Permute)
def _permute(b: Build, op: m.Permute, x: str) -> str:
    return b("Transpose", x, perm=op.dims)


@RULES(m.Squeeze)
def _squeeze(b: Build, op: m.Squeeze, x: str) -> str:
    return b("Squeeze", x, b.constant(list(op.dim or ()))) if op.dim else x


@RULES(m.Unsqueeze)
def _unsqueeze(b: Build, op: m.Unsqueeze, x: str) -> str:
    return b("Unsqueeze", x, b.constant([op.dim]))


@RULES(m.Expand)
def _expand(b: Build, op: m.Expand, x: str) -> str:
    return b("Expand", x, b.vector(b.result.shape))


@RULES(m.Slice)
def _slice(b: Build, op: m.Slice, x: str) -> str:
    stop = b.type(0).shape[op.dim] if op.stop is None else op.stop
    return b("Slice", x, b.size(op.start), b.size(stop), b.constant([op.dim]), b.constant([op.step]))


@RULES(m.Split)
def _split(b: Build, op: m.Split, x: str) -> tuple[str, ...]:
    sizes = tuple(t.shape[op.dim] for t in b.results)
    if len(sizes) == 1:
        return (x,)
    return b.many("Split", len(sizes), x, b.vector(sizes), axis=op.dim)


@RULES(m.Concat)
def _concat(b: Build, op: m.Concat, *tensors: str) -> str:
    wanted = b.result.dtype
    return b("Concat", *(b.operand(x, i, wanted) for i, x in enumerate(tensors)), axis=op.dim)


@RULES(m.Repeat)
def _repeat(b: Build, op: m.Repeat, x: str) -> str:
    shape = b.type(0).shape
    new = len(op.repeats) - len(shape)
    if new:
        x = b("Unsqueeze", x, b.constant(list(range(new))))
    return b("Tile", x, b.vector(op.repeats))


@RULES(s.Identity, s.StopGradient, s.Dropout, s.DropPath)
def _same(b: Build, op: Operator, x: str) -> str:
    """What is the identity in inference."""
    return x
