"""Rules of activations: one formula each, so that a value read several times is computed once."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt
from typing import Any

from ....compiler.operators import activation as op
from ....compiler.operators.operator import Operator
from ....compiler.types import TensorType
from ..lower import Inputs, Lowering, Types, rules
from ..tensor import Tensor
from ..untyped import tirx
from .normalization import softmax
from .numeric import at_least, at_most, const, dtype_of, erf, exp, let, log, sigmoid, tanh, zero


def _rule(function: Callable[[Any, Any], Any]) -> Callable[..., Tensor]:
    """A rule from `function(operator, x)`."""

    def rule(low: Lowering, node: Operator, inputs: Inputs, types: Types) -> Tensor:
        return low.elementwise(node.name, list(inputs), types[0], lambda x: let(x, lambda x: function(node, x)))

    return rule


def _like(x: Any) -> Callable[[float], Any]:
    """Makes constants of an expression's dtype."""
    dtype = dtype_of(x)
    return lambda value: const(value, dtype)


def _clipped(x: Any, low: float, high: float) -> Any:
    return at_most(at_least(x, low), high)


def _sloped(x: Any, slope: Any) -> Any:
    return tirx.Select(x > zero(dtype_of(x)), x, x * slope)


def _exponential(x: Any, positive: float, negative: float) -> Any:
    c = _like(x)
    below = c(negative) * (exp(at_most(x, 0)) - c(1))
    return tirx.Select(x > c(0), x * c(positive), below)


def _gelu(node: op.Gelu, x: Any) -> Any:
    c = _like(x)
    if node.approximate == "none":
        return x * c(0.5) * (erf(x * c(sqrt(0.5))) + c(1))
    # (1 + tanh z) / 2 = sigmoid 2z, which does not lose the small numbers at the lower end.
    return x * sigmoid((x + x * x * x * c(0.044715)) * c(2 * sqrt(2 / pi)))


def _softplus(x: Any) -> Any:
    c = _like(x)
    return tirx.max(x, c(0)) + log(exp(c(0) - tirx.abs(x)) + c(1))


_SCALE, _ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717

rules.table(
    {
        op.Relu: _rule(lambda _, x: at_least(x, 0)),
        op.Relu6: _rule(lambda _, x: _clipped(x, 0, 6)),
        op.LeakyRelu: _rule(lambda node, x: _sloped(x, _like(x)(node.negative_slope))),
        op.Elu: _rule(lambda node, x: _exponential(x, 1, node.alpha)),
        op.Selu: _rule(lambda _, x: _exponential(x, _SCALE, _SCALE * _ALPHA)),
        op.Gelu: _rule(_gelu),
        op.Silu: _rule(lambda _, x: x * sigmoid(x)),
        op.Sigmoid: _rule(lambda _, x: sigmoid(x)),
        op.Tanh: _rule(lambda _, x: tanh(x)),
        op.Hardsigmoid: _rule(lambda _, x: _clipped(x + _like(x)(3), 0, 6) * _like(x)(1 / 6)),
        op.Hardswish: _rule(lambda _, x: x * _clipped(x + _like(x)(3), 0, 6) * _like(x)(1 / 6)),
        op.Softplus: _rule(lambda _, x: _softplus(x)),
        op.Mish: _rule(lambda _, x: x * tanh(_softplus(x))),
    }
)


@rules(op.Prelu)
def _prelu(low: Lowering, node: op.Prelu, inputs: Inputs, types: Types) -> Tensor:
    x, weight = inputs
    shape = (weight.type.shape[0], *(1,) * max(x.type.rank - 2, 0))
    slopes = low.reshape(weight, TensorType(weight.type.dtype, shape))
    return low.elementwise("prelu", [x, slopes], types[0], _sloped)


@rules(op.Softmax, op.LogSoftmax)
def _softmax(low: Lowering, node: op.Normalised, inputs: Inputs, types: Types) -> Tensor:
    (x,) = inputs
    return softmax(low, x, node.dim % x.type.rank, types[0], logarithm=isinstance(node, op.LogSoftmax))
