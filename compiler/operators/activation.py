"""Activations. Formulas are PyTorch's; expansions are written so that no intermediate overflows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..types import DType, TensorType, divide
from .arithmetic import Abs, Add, Clip, Div, Elementwise, Erf, Exp, Log, Minimum, Mul, Neg, Sub, Unary
from .attribute import Positive, Real
from .creation import scalar
from .dimension import Integer, dim_of, elementwise, given, labels, need_float, pattern, replaced
from .layout import Reshape, Split
from .operator import (
    Axes,
    Cost,
    Emit,
    Initialiser,
    Layer,
    Operator,
    OptionalTypes,
    ParameterSpec,
    ShapeError,
    Types,
    V,
    layer,
    operands,
    operator,
    sample,
)
from .reduction import Max, Sum


class Activation(Elementwise):
    """A function of each element, of floating-point numbers only."""

    __slots__ = ()
    operands = operands("x")

    def result(self, *inputs: TensorType) -> DType:
        need_float(self, *inputs)
        return inputs[0].dtype


@operator("relu")
class Relu(Unary):
    """max(x, 0)."""


@operator("sigmoid")
class Sigmoid(Activation):
    """1 / (1 + e⁻ˣ)."""


@operator("tanh")
class Tanh(Activation):
    """The hyperbolic tangent."""


@operator("relu6")
class Relu6(Activation):
    """min(max(x, 0), 6)."""

    derived = True

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        return emit(Clip(0.0, 6.0), inputs[0])


@operator("leaky_relu")
class LeakyRelu(Activation):
    """x where positive, else x · negative_slope."""

    derived = True
    negative_slope: Real = 0.01

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        return _sloped(emit, x, scalar(emit, self.negative_slope, emit.type(x).dtype))


def _sloped(emit: Emit[V], x: V, slope: V) -> V:
    """max(x, 0) + slope · min(x, 0), right for slopes above 1 and below 0 too."""
    negative = emit(Minimum(), x, scalar(emit, 0, emit.type(x).dtype))
    return emit(Add(), emit(Relu(), x), emit(Mul(), slope, negative))


@operator("prelu")
class Prelu(Operator):
    """x where positive, else x · weight; one weight for all, or one for each channel (axis 1)."""

    operands = operands("x weight")
    derived = True

    def shape(self, *inputs: TensorType | None) -> Types:
        x, weight = given(inputs)
        need_float(self, x, weight)
        channels = x.shape[1] if x.rank > 1 else 1
        if weight.shape not in ((1,), (channels,)):
            raise ShapeError(
                f"prelu takes one weight or one for each of the {channels} channels of {x}, not {weight}",
                operands=(0, 1),
                fix=f"prelu(num_parameters = {channels})",
            )
        return (x,)

    def axes(self, *inputs: TensorType | None) -> Axes:
        x, weight = given(inputs)
        names = labels(x.rank)
        per_channel = x.rank > 1 and weight.shape[0] == x.shape[1]
        return Axes(pattern([names, [names[1] if per_channel else "1"]], names))

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        x, weight = inputs
        assert x is not None
        assert weight is not None
        size = emit.type(weight).shape[0]
        return _sloped(emit, x, emit(Reshape((size, *(1,) * max(emit.type(x).rank - 2, 0))), weight))


@layer("prelu")
class PreluLayer(Layer):
    """A slope of 0.25 for negative numbers, learned: one, or one for each channel."""

    num_parameters: Positive = 1

    def parameters(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> dict[str, ParameterSpec]:
        if "weight" in given:
            return {}
        x = inputs[0]
        dtype = x.dtype if x is not None and x.dtype.is_float else DType.F32
        return {"weight": ParameterSpec((self.num_parameters,), Initialiser("constant", (0.25,)), dtype)}

    def operator(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> Operator:
        return Prelu()


@operator("elu")
class Elu(Activation):
    """x where positive, else alpha · (eˣ - 1)."""

    derived = True
    alpha: Real = 1.0

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        return _exponential(emit, x, 1.0, self.alpha)


@operator("selu")
class Selu(Activation):
    """Elu scaled so that unit variance is kept (Klambauer et al. 2017, Self-Normalizing Neural Networks)."""

    derived = True

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        scale, alpha = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
        return _exponential(emit, x, scale, scale * alpha)


def _exponential(emit: Emit[V], x: V, positive: float, negative: float) -> V:
    """Positive · max(x, 0) + negative · (e^min(x, 0) - 1)."""
    dtype = emit.type(x).dtype
    above = emit(Relu(), x)
    if positive != 1:
        above = emit(Mul(), above, scalar(emit, positive, dtype))
    below = emit(Exp(), emit(Minimum(), x, scalar(emit, 0, dtype)))
    below = emit(Sub(), below, scalar(emit, 1, dtype))
    return emit(Add(), above, emit(Mul(), below, scalar(emit, negative, dtype)))


@operator("gelu")
class Gelu(Activation):
    """x · Φ(x) with the normal distribution's Φ, or its approximation by tanh (Hendrycks & Gimpel 2016)."""

    derived = True
    approximate: Literal["none", "tanh"] = "none"

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        dtype = emit.type(x).dtype
        if self.approximate == "none":
            inner = emit(Erf(), emit(Mul(), x, scalar(emit, math.sqrt(0.5), dtype)))
        else:
            cube = emit(Mul(), emit(Mul(), x, x), x)
            inner = emit(Add(), x, emit(Mul(), cube, scalar(emit, 0.044715, dtype)))
            inner = emit(Tanh(), emit(Mul(), inner, scalar(emit, math.sqrt(2 / math.pi), dtype)))
        half = emit(Mul(), x, scalar(emit, 0.5, dtype))
        return emit(Mul(), half, emit(Add(), inner, scalar(emit, 1, dtype)))


@operator("silu")
class Silu(Activation):
    """x · sigmoid(x), also called swish."""

    derived = True

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        return emit(Mul(), inputs[0], emit(Sigmoid(), inputs[0]))


@operator("hardsigmoid")
class Hardsigmoid(Activation):
    """relu6(x + 3) / 6."""

    derived = True

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        dtype = emit.type(x).dtype
        clipped = emit(Clip(0.0, 6.0), emit(Add(), x, scalar(emit, 3, dtype)))
        return emit(Div(), clipped, scalar(emit, 6, dtype))


@operator("hardswish")
class Hardswish(Activation):
    """x · relu6(x + 3) / 6 (Howard et al. 2019, MobileNetV3)."""

    derived = True

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        dtype = emit.type(x).dtype
        clipped = emit(Clip(0.0, 6.0), emit(Add(), x, scalar(emit, 3, dtype)))
        return emit(Div(), emit(Mul(), x, clipped), scalar(emit, 6, dtype))


@operator("softplus")
class Softplus(Activation):
    """log(1 + eˣ)."""

    derived = True

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        decay = emit(Exp(), emit(Neg(), emit(Abs(), x)))
        rest = emit(Log(), emit(Add(), decay, scalar(emit, 1, emit.type(x).dtype)))
        return emit(Add(), emit(Relu(), x), rest)


@operator("mish")
class Mish(Activation):
    """x · tanh(softplus(x)) (Misra 2019)."""

    derived = True

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        return emit(Mul(), inputs[0], emit(Tanh(), emit(Softplus(), inputs[0])))


@dataclass(frozen=True, slots=True)
class Normalised(Operator):
    """An activation whose elements along `dim` depend on each other."""

    operands = operands("x")
    derived = True
    per_element: ClassVar[int] = 5

    dim: Integer = -1

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        need_float(self, x)
        dim_of(self, self.dim, x.rank)
        return (x,)

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        found = elementwise(x.shape, x)
        return Axes(found.pattern, mixed=frozenset({f"d{dim_of(self, self.dim, x.rank)}"}))

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        return Cost(flops=self.per_element * outputs[0].elements)


@operator("softmax")
class Softmax(Normalised):
    """eˣ divided by its sum along `dim`."""

    def canonical(self, *inputs: TensorType | None) -> Softmax:
        return Softmax(dim_of(self, self.dim, given(inputs)[0].rank))

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        powers = emit(Exp(), emit(Sub(), x, emit(Max((self.dim,), True), x)))
        return emit(Div(), powers, emit(Sum((self.dim,), True), powers))


@operator("log_softmax")
class LogSoftmax(Normalised):
    """The logarithm of softmax."""

    def canonical(self, *inputs: TensorType | None) -> LogSoftmax:
        return LogSoftmax(dim_of(self, self.dim, given(inputs)[0].rank))

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        below = emit(Sub(), x, emit(Max((self.dim,), True), x))
        return emit(Sub(), below, emit(Log(), emit(Sum((self.dim,), True), emit(Exp(), below))))


@operator("glu")
class Glu(Operator):
    """The first half along `dim` times the sigmoid of the second (Dauphin et al. 2017)."""

    operands = operands("x")
    derived = True
    dim: Integer = -1

    def canonical(self, *inputs: TensorType | None) -> Glu:
        return Glu(dim_of(self, self.dim, given(inputs)[0].rank))

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        need_float(self, x)
        dim = dim_of(self, self.dim, x.rank)
        half = divide(x.shape[dim], 2)
        if half is None:
            raise ShapeError(f"glu halves dim {dim} of {x}, but {x.shape[dim]} is not even", operands=(0,))
        return (TensorType(x.dtype, replaced(x.shape, dim, half)),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        dim, names = dim_of(self, self.dim, x.rank), labels(x.rank)
        names[dim] = "g"
        return Axes(pattern([[*names[:dim], "(g + g)", *names[dim + 1 :]]], names))

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        return Cost(flops=2 * outputs[0].elements)

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        kind = emit.type(x)
        half = self.shape(kind)[0].shape[dim_of(self, self.dim, kind.rank)]
        value, gate = emit.many(Split((half, half), self.dim), x)
        return emit(Mul(), value, emit(Sigmoid(), gate))


for _op in (
    Relu(), Sigmoid(), Tanh(), Relu6(), LeakyRelu(), LeakyRelu(0.2), Elu(), Elu(0.5), Selu(), Gelu(), Gelu("tanh"),
    Silu(), Hardsigmoid(), Hardswish(), Softplus(), Mish(), Softmax(), Softmax(1), LogSoftmax(), LogSoftmax(0),
):  # fmt: skip
    sample(_op, "f32[2, 3, 4]")
sample(Relu(), "i64[2, 3]", high={0: 5})
sample(Prelu(), "f32[2, 3, 4, 4]", "f32[3]")
sample(Prelu(), "f32[2, 3]", "f32[1]")
sample(Glu(), "f32[2, 6]")
sample(Glu(1), "f32[2, 4, 3]")
