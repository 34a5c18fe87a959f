"""Rules of numbers that are kept as integers."""

from __future__ import annotations

from ...compiler.operators.quantization import LIMITS, Dequantize, Quantize
from .call import RULES, Call
from .forward import DTYPES
from .template import Expression, Rank


def _beside(call: Call, operand: int, rank: Rank) -> str:
    """A scale or zero point, shaped to stand along its axis."""
    value = call.scalar(operand)
    if value is not None:
        return call.value(value, ("scale", "zero_point")[operand - 1], rank)
    behind = 0 if call.op.axis is None else call.type(0).rank - 1 - call.op.axis
    if not behind:
        return call.place(operand, rank)
    return f"{call.place(operand, Rank.ATOM)}.view(-1{', 1' * behind})"


@RULES(Quantize)
def _quantize(call: Call) -> str:
    whole = f"({call.place(0, Rank.MULTIPLY)} / {_beside(call, 1, Rank.UNARY)}).round()"
    if call.has(2):
        whole = f"({whole} + {_beside(call, 2, Rank.MULTIPLY)})"
    low, high = LIMITS[call.op.dtype]
    return f"{whole}.clamp({low}, {high}).to(torch.{DTYPES[call.op.dtype]})"


@RULES(Dequantize)
def _dequantize(call: Call) -> Expression:
    number = f"{call.place(0, Rank.ATOM)}.to({call.dtype(call.outputs[0].dtype)})"
    if call.has(2):
        number = f"({number} - {_beside(call, 2, Rank.MULTIPLY)})"
    return Expression(f"{number} * {_beside(call, 1, Rank.UNARY)}", Rank.MULTIPLY)
