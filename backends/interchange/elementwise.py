"""ONNX rules of arithmetic, comparison, logic, casts and activations."""

from __future__ import annotations

from collections.abc import Mapping

from ...compiler.operators import activation as act
from ...compiler.operators import arithmetic as a
from ...compiler.operators.operator import Operator
from ...compiler.types import DType, promote
from .build import RULES, TYPES, Build, Rule


def _unary(kind: str) -> Rule:
    def rule(b: Build, op: Operator, x: str) -> str:
        return b(kind, b.operand(x, 0, b.result.dtype))

    return rule


def _binary(kind: str) -> Rule:
    """Both operands in the dtype of the result."""

    def rule(b: Build, op: Operator, x: str, y: str) -> str:
        wanted = b.result.dtype
        return b(kind, b.operand(x, 0, wanted), b.operand(y, 1, wanted))

    return rule


def _compared(b: Build, kind: str, x: str, y: str) -> str:
    """Both operands in their common dtype."""
    wanted = promote(b.type(0).dtype, b.type(1).dtype)
    if wanted is DType.BOOL and kind != "Equal":
        wanted = DType.U8
    return b(kind, b.operand(x, 0, wanted), b.operand(y, 1, wanted))


def _comparison(kind: str) -> Rule:
    def rule(b: Build, op: Operator, x: str, y: str) -> str:
        return _compared(b, kind, x, y)

    return rule


UNARY: Mapping[type[Operator], str] = {
    a.LogicalNot: "Not",
    a.Neg: "Neg",
    a.Abs: "Abs",
    a.Sign: "Sign",
    a.Exp: "Exp",
    a.Log: "Log",
    a.Sqrt: "Sqrt",
    a.Sin: "Sin",
    a.Cos: "Cos",
    a.Erf: "Erf",
    act.Sigmoid: "Sigmoid",
    act.Tanh: "Tanh",
    act.Hardswish: "HardSwish",
    act.Softplus: "Softplus",
    act.Mish: "Mish",
}
BINARY: Mapping[type[Operator], str] = {
    a.Add: "Add",
    a.Sub: "Sub",
    a.Mul: "Mul",
    a.Div: "Div",
    a.Pow: "Pow",
    a.Maximum: "Max",
    a.Minimum: "Min",
    a.LogicalAnd: "And",
    a.LogicalOr: "Or",
}
COMPARISONS: Mapping[type[Operator], str] = {
    a.Eq: "Equal",
    a.Lt: "Less",
    a.Le: "LessOrEqual",
    a.Gt: "Greater",
    a.Ge: "GreaterOrEqual",
}
RULES.table({op: _unary(kind) for op, kind in UNARY.items()})
RULES.table({op: _binary(kind) for op, kind in BINARY.items()})
RULES.table({op: _comparison(kind) for op, kind in COMPARISONS.items()})


@RULES(a.Ne)
def _ne(b: Build, op: Operator, x: str, y: str) -> str:
    return b("Not", _compared(b, "Equal", x, y))


@RULES(a.Floor, a.Ceil, a.Round)
def _rounded(b: Build, op: Operator, x: str) -> str:
    """Integers are whole already; ONNX rounds floats only."""
    return b({"floor": "Floor", "ceil": "Ceil", "round": "Round"}[op.name], x) if b.result.dtype.is_float else x


@RULES(a.Rsqrt)
def _rsqrt(b: Build, op: Operator, x: str) -> str:
    return b("Reciprocal", b("Sqrt", b.operand(x, 0, b.result.dtype)))


@RULES(a.Remainder)
def _remainder(b: Build, op: Operator, x: str, y: str) -> str:
    """ONNX's Mod has the sign of the divisor for integers only."""
    wanted = b.result.dtype
    x, y = b.operand(x, 0, wanted), b.operand(y, 1, wanted)
    if wanted.is_integer:
        return b("Mod", x, y)
    return b("Sub", x, b("Mul", b("Floor", b("Div", x, y)), y))


@RULES(a.FloorDivide)
def _floor_divide(b: Build, op: Operator, x: str, y: str) -> str:
    """ONNX divides integers towards 0: what the divisor's Mod leaves is taken away first."""
    wanted = b.result.dtype
    x, y = b.operand(x, 0, wanted), b.operand(y, 1, wanted)
    if wanted.is_integer:
        return b("Div", b("Sub", x, b("Mod", x, y)), y)
    return b("Floor", b("Div", x, y))


@RULES(a.Where)
def _where(b: Build, op: Operator, condition: str, x: str, y: str) -> str:
    return b("Where", condition, b.operand(x, 1, b.result.dtype), b.operand(y, 2, b.result.dtype))


@RULES(a.Clip)
def _clip(b: Build, op: a.Clip, x: str) -> str:
    dtype = b.result.dtype
    low, high = (None if v is None else b.constant(v, dtype) for v in (op.min, op.max))
    return b("Clip", x, low, high)


@RULES(a.Cast)
def _cast(b: Build, op: a.Cast, x: str) -> str:
    return b("Cast", x, to=TYPES[op.dtype])


@RULES(act.Relu)
def _relu(b: Build, op: Operator, x: str) -> str:
    return b("Relu", x) if b.result.dtype.is_float else b("Max", x, b.constant(0, b.result.dtype))


@RULES(act.LeakyRelu)
def _leaky_relu(b: Build, op: act.LeakyRelu, x: str) -> str:
    return b("LeakyRelu", x, alpha=op.negative_slope)


@RULES(act.Prelu)
def _prelu(b: Build, op: act.Prelu, x: str, weight: str) -> str:
    """ONNX aligns the slope from the right; channels are axis 1."""
    behind = b.type(0).rank - 2
    if b.type(1).shape != (1,) and behind > 0:
        weight = b("Unsqueeze", weight, b.constant(list(range(1, behind + 1))))
    return b("PRelu", x, weight)


@RULES(act.Elu)
def _elu(b: Build, op: act.Elu, x: str) -> str:
    return b("Elu", x, alpha=op.alpha)


@RULES(act.Selu)
def _selu(b: Build, op: act.Selu, x: str) -> str:
    return b("Selu", x, alpha=1.6732632423543772, gamma=1.0507009873554805)


@RULES(act.Gelu)
def _gelu(b: Build, op: act.Gelu, x: str) -> str:
    return b("Gelu", x, approximate=op.approximate)


@RULES(act.Hardsigmoid)
def _hardsigmoid(b: Build, op: act.Hardsigmoid, x: str) -> str:
    return b("HardSigmoid", x, alpha=1 / 6, beta=0.5)


@RULES(act.Softmax)
def _softmax(b: Build, op: act.Softmax, x: str) -> str:
    return b("Softmax", x, axis=op.dim)


@RULES(act.LogSoftmax)
def _log_softmax(b: Build, op: act.LogSoftmax, x: str) -> str:
    return b("LogSoftmax", x, axis=op.dim)
