"""Rules of arithmetic, activations and tensors from nothing."""

from __future__ import annotations

from collections.abc import Callable

from ...compiler.graph import Input, SelectPhase
from ...compiler.operators import activation as act
from ...compiler.operators import arithmetic as a
from ...compiler.operators import creation
from ...compiler.operators.operator import Operator
from ...compiler.types import DType, TensorType, promote
from .call import LAYERS, MODULES, RULES, Call
from .template import Expression, Rank


@RULES(Input, SelectPhase, creation.Constant)
def _structure(call: Call) -> str:
    raise AssertionError(f"{call.op.name} is written by the frame that it stands in")


# ---------------------------------------------------------------------------------------------------------- binary


def _outcome(left: TensorType, right: TensorType) -> DType:
    """The dtype that PyTorch gives: tensors of rank 0 only count where they are of a higher kind."""
    full, small = (left, right) if left.rank else (right, left)
    if full.rank and not small.rank and _level(full.dtype) >= _level(small.dtype):
        return full.dtype
    return promote(left.dtype, right.dtype)


def _level(dtype: DType) -> int:
    return 2 if dtype.is_float else 1 if dtype.is_integer else 0


def _fits(number: TensorType, other: TensorType) -> bool:
    """Whether a number may stand as a Python literal beside the other operand without another result."""
    return number.dtype is other.dtype or (other.dtype.is_float and promote(number.dtype, other.dtype) is other.dtype)


def _operand(call: Call, index: int, rank: Rank) -> str:
    """An operand of a binary operator: a literal where that means the same, cast where PyTorch would not promote."""
    kind, other = call.type(index), call.type(1 - index)
    value = call.scalar(index)
    if value is not None and call.scalar(1 - index) is None and _fits(kind, other):
        return call.value(value, rank=rank)
    wanted = promote(kind.dtype, other.dtype)
    if kind.rank and _outcome(kind, other) is not wanted:
        return f"{call.place(index, Rank.ATOM)}.to({call.dtype(wanted)})"
    return call.place(index, rank)


def _infix(symbol: str, rank: Rank, left: Rank, right: Rank) -> Callable[[Call], Expression]:
    def write(call: Call) -> Expression:
        return Expression(f"{_operand(call, 0, left)} {symbol} {_operand(call, 1, right)}", rank)

    return write


RULES.table(
    {
        a.Add: _infix("+", Rank.ADD, Rank.ADD, Rank.MULTIPLY),
        a.Sub: _infix("-", Rank.ADD, Rank.ADD, Rank.MULTIPLY),
        a.Mul: _infix("*", Rank.MULTIPLY, Rank.MULTIPLY, Rank.UNARY),
        a.FloorDivide: _infix("//", Rank.MULTIPLY, Rank.MULTIPLY, Rank.UNARY),
        a.Remainder: _infix("%", Rank.MULTIPLY, Rank.MULTIPLY, Rank.UNARY),
        a.Pow: _infix("**", Rank.POWER, Rank.ATOM, Rank.POWER),
        a.Eq: _infix("==", Rank.COMPARE, Rank.OR, Rank.OR),
        a.Ne: _infix("!=", Rank.COMPARE, Rank.OR, Rank.OR),
        a.Lt: _infix("<", Rank.COMPARE, Rank.OR, Rank.OR),
        a.Le: _infix("<=", Rank.COMPARE, Rank.OR, Rank.OR),
        a.Gt: _infix(">", Rank.COMPARE, Rank.OR, Rank.OR),
        a.Ge: _infix(">=", Rank.COMPARE, Rank.OR, Rank.OR),
        a.LogicalAnd: _infix("&", Rank.AND, Rank.AND, Rank.ADD),
        a.LogicalOr: _infix("|", Rank.OR, Rank.OR, Rank.AND),
    }
)

_divide = _infix("/", Rank.MULTIPLY, Rank.MULTIPLY, Rank.UNARY)


@RULES(a.Div)
def _div(call: Call) -> Expression:
    if call.type(0).dtype.is_float or call.type(1).dtype.is_float:
        return _divide(call)
    # Of integers PyTorch makes its default dtype, whatever the model's is.
    return Expression(f"{_floating(call)} / {call.place(1, Rank.UNARY)}", Rank.MULTIPLY)


@RULES(a.Maximum, a.Minimum)
def _extreme(call: Call) -> str:
    for index in (0, 1):
        value = call.scalar(index)
        if value is not None and call.scalar(1 - index) is None and _fits(call.type(index), call.type(1 - index)):
            bound = "min" if isinstance(call.op, a.Maximum) else "max"
            return f"{call.atom(1 - index)}.clamp({bound}={call.value(value, bound)})"
    return f"torch.{call.op.name}({_operand(call, 0, Rank.ANY)}, {_operand(call, 1, Rank.ANY)})"


@RULES(a.Where)
def _where(call: Call) -> str:
    texts: list[str] = []
    for index, other in ((1, 2), (2, 1)):
        value = call.scalar(index)
        plain = value is not None and call.scalar(other) is None and call.type(index).dtype is call.type(other).dtype
        texts.append(call.value(value) if plain else call[index])
    wanted = promote(call.type(1).dtype, call.type(2).dtype)
    text = f"torch.where({call[0]}, {texts[0]}, {texts[1]})"
    return text if _outcome(call.type(1), call.type(2)) is wanted else f"{text}.to({call.dtype(wanted)})"


# ---------------------------------------------------------------------------------------------------------- unary


def _floating(call: Call) -> str:
    """The operand, as a float of the model's dtype where it is none."""
    return call.atom(0) if call.type(0).dtype.is_float else f"{call.atom(0)}.to({call.dtype(DType.F32)})"


def _function(name: str) -> Callable[[Call], str]:
    return lambda call: f"{name}({call[0] if call.type(0).dtype.is_float else _floating(call)})"


RULES.table(
    {op: _function(f"torch.{op.name}") for op in (a.Exp, a.Log, a.Sqrt, a.Rsqrt, a.Sin, a.Cos, a.Erf, a.Reciprocal)}
)
RULES.table(
    {
        op: (lambda call: f"torch.{call.op.name}({call[0]})")
        for op in (a.Abs, a.Sign, a.Floor, a.Ceil, a.Round, a.Square)
    }
)


@RULES(a.Neg)
def _neg(call: Call) -> Expression:
    return Expression(f"-{call.place(0, Rank.UNARY)}", Rank.UNARY)


@RULES(a.LogicalNot)
def _logical_not(call: Call) -> Expression:
    return Expression(f"~{call.place(0, Rank.UNARY)}", Rank.UNARY)


@RULES(a.Clip)
def _clip(call: Call) -> str:
    bounds = "".join(call.option(n, v) for n, v in (("min", call.op.min), ("max", call.op.max)) if v is not None)
    return f"{call.atom(0)}.clamp({bounds})"


@RULES(a.Cast)
def _cast(call: Call) -> str:
    return f"{call.atom(0)}.to({call.dtype(call.op.dtype)})"


# ---------------------------------------------------------------------------------------------------------- activations


_ACTIVATIONS: dict[type[Operator], tuple[str, str, dict[str, object]]] = {
    act.Relu: ("F.relu", "nn.ReLU", {}),
    act.Relu6: ("F.relu6", "nn.ReLU6", {}),
    act.LeakyRelu: ("F.leaky_relu", "nn.LeakyReLU", {"negative_slope": 0.01}),
    act.Elu: ("F.elu", "nn.ELU", {"alpha": 1.0}),
    act.Selu: ("F.selu", "nn.SELU", {}),
    act.Gelu: ("F.gelu", "nn.GELU", {"approximate": "none"}),
    act.Silu: ("F.silu", "nn.SiLU", {}),
    act.Hardswish: ("F.hardswish", "nn.Hardswish", {}),
    act.Hardsigmoid: ("F.hardsigmoid", "nn.Hardsigmoid", {}),
    act.Sigmoid: ("torch.sigmoid", "nn.Sigmoid", {}),
    act.Tanh: ("torch.tanh", "nn.Tanh", {}),
    act.Softplus: ("F.softplus", "nn.Softplus", {}),
    act.Mish: ("F.mish", "nn.Mish", {}),
}
"""Function, module, and the attributes with PyTorch's defaults."""


def _options(call: Call) -> str:
    defaults = _ACTIVATIONS[type(call.op)][2]
    return "".join(call.option(name, getattr(call.op, name), default) for name, default in defaults.items())


def _activate(call: Call) -> str:
    return f"{_ACTIVATIONS[type(call.op)][0]}({call[0]}{_options(call)})"


def _activation_module(call: Call) -> str:
    return f"{_ACTIVATIONS[type(call.op)][1]}({_options(call)})"


RULES.table(dict.fromkeys(_ACTIVATIONS, _activate))
MODULES.update(dict.fromkeys(_ACTIVATIONS, _activation_module))


@RULES(act.Softmax, act.LogSoftmax)
def _softmax(call: Call) -> str:
    return f"F.{call.op.name}({call[0]}, dim={call.axis(call.op.dim, call.type(0).rank)})"


def _softmax_module(call: Call) -> str:
    name = "Softmax" if isinstance(call.op, act.Softmax) else "LogSoftmax"
    return f"nn.{name}(dim={call.axis(call.op.dim, call.type(0).rank)})"


MODULES.update({act.Softmax: _softmax_module, act.LogSoftmax: _softmax_module})


@RULES(act.Glu)
def _glu(call: Call) -> str:
    return f"F.glu({call[0]}, dim={call.axis(call.op.dim, call.type(0).rank)})"


@RULES(act.Prelu)
def _prelu(call: Call) -> str:
    return f"{call.layer}({call[0]})" if call.layer else f"F.prelu({call[0]}, {call[1]})"


@LAYERS(act.Prelu)
def _prelu_layer(call: Call) -> str:
    (count,) = call.type(1).shape
    return f"nn.PReLU({call.number(count, 'num_parameters')})"


# ---------------------------------------------------------------------------------------------------------- creation


@RULES(creation.Full)
def _full(call: Call) -> str:
    shape = call.sizes(call.op.size)
    value = call.number(call.op.value, "value")
    comma = "," if len(call.op.size) == 1 else ""
    return f"torch.full(({shape}{comma}), {value}, dtype={call.dtype(call.op.dtype)}, device={call.device})"


@RULES(creation.Arange)
def _arange(call: Call) -> str:
    op = call.op
    limits = [call.size(op.stop, "stop")]
    if op.start != 0 or op.step != 1:
        limits.insert(0, call.size(op.start, "start"))
    if op.step != 1:
        limits.append(call.number(op.step, "step"))
    dtype = "" if op.dtype is DType.I64 else f", dtype={call.dtype(op.dtype)}"
    return f"torch.arange({', '.join(limits)}{dtype}, device={call.device})"
