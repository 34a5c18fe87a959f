"""ONNX rules of numbers that are kept as integers."""

from __future__ import annotations

from ...compiler.operators.quantization import LIMITS, Dequantize, Quantize, Scaling
from ...compiler.types import DType
from .build import RULES, Build


@RULES(Quantize)
def _quantize(b: Build, op: Quantize, x: str, scale: str, zero: str | None = None) -> str:
    """ONNX reads the type of the integers off the zero point; it does not divide float64."""
    zero = zero or _no_zero(b, op, op.dtype)
    if b.type(0).dtype is not DType.F64:
        return b("QuantizeLinear", x, scale, zero, axis=op.axis)
    whole = b("Round", b("Div", x, _beside(b, op, scale)))
    whole = b("Add", whole, _beside(b, op, b.cast(zero, op.dtype, DType.F64)))
    low, high = (b.constant(v, DType.F64) for v in LIMITS[op.dtype])
    return b.cast(b("Clip", whole, low, high), DType.F64, op.dtype)


@RULES(Dequantize)
def _dequantize(b: Build, op: Dequantize, x: str, scale: str, zero: str | None = None) -> str:
    """Of i32 ONNX takes no zero point but 0."""
    found = b.type(0).dtype
    if b.result.dtype is not DType.F64 and (found is not DType.I32 or zero is None):
        return b("DequantizeLinear", x, scale, zero, axis=op.axis)
    dtype = b.result.dtype
    number = b.cast(x, found, dtype)
    if zero is not None:
        number = b("Sub", number, _beside(b, op, b.cast(zero, found, dtype)))
    return b("Mul", number, _beside(b, op, scale))


def _no_zero(b: Build, op: Scaling, dtype: DType) -> str:
    if op.axis is None:
        return b.constant(0, dtype)
    size = b.type(1).shape[0]
    assert isinstance(size, int)
    return b.constant([0] * size, dtype)


def _beside(b: Build, op: Scaling, number: str) -> str:
    """A scale or zero point, shaped to stand along its axis."""
    behind = 0 if op.axis is None else b.type(0).rank - 1 - op.axis
    return b("Unsqueeze", number, b.constant([*range(1, behind + 1)])) if behind else number
