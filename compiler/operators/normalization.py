"""Normalisation: batch, layer, group, instance, root mean square."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..types import Dim, DType, Shape, TensorType, floor_divide
from .arithmetic import Add, Cast, Mul, Rsqrt, Square, Sub
from .attribute import Flag, Positive, PositiveReal, Probability
from .creation import scalar
from .dimension import given, labels, pattern
from .layout import Reshape
from .operator import (
    Axes,
    Cost,
    Emit,
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
from .parameter import (
    ONES,
    ZEROS,
    applied,
    check_vector,
    data,
    divided,
    numeric,
    parameter_dtype,
    same_dtype,
    width,
)
from .reduction import Mean


def _affine(
    weight: bool, bias: bool, shape: Shape, dtype: DType, given: Mapping[str, TensorType]
) -> dict[str, ParameterSpec]:
    """The scale (ones) and shift (zeros) that are wanted and not given."""
    wanted = {"weight": (weight, ONES), "bias": (bias, ZEROS)}
    return {
        name: ParameterSpec(shape, initialiser, dtype)
        for name, (want, initialiser) in wanted.items()
        if want and name not in given
    }


class _ChannelLayer(Layer):
    """A layer with one number a channel (axis 1)."""

    def _channels(self, inputs: OptionalTypes, argument: str, stated: int | None) -> tuple[Shape, DType]:
        x = data(inputs)
        if x is not None:
            _need_channels(self.name, x)
        return (width(self.name, argument, stated, None if x is None else x.shape[1]),), parameter_dtype(x)


def _need_channels(name: str, x: TensorType, rank: int = 2) -> None:
    if x.rank < rank:
        layout = "N, C, ..." if rank == 2 else "N, C, L, ..."
        raise ShapeError(f"{name} takes [{layout}], not {x} of rank {x.rank}", operands=(0,), code="rank-mismatch")


class Normalization(Operator):
    """Subtracts the mean and divides by the standard deviation (biased, + eps), then scales and shifts."""

    __slots__ = ()
    operands = operands("x weight?=1 bias?=0")
    derived = True

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        """Sum, centre, square, sum and scale: 5 an element, and 1 for each of weight and bias."""
        return Cost(flops=outputs[0].elements * (5 + sum(t is not None for t in inputs[1:])))


def _in_full(emit: Emit[V], x: V) -> V:
    """16-bit floats as f32: sums of squares need its range."""
    return emit(Cast(DType.F32), x) if emit.type(x).dtype.bytes == 2 else x


def _rounded(emit: Emit[V], x: V, like: V) -> V:
    dtype = emit.type(like).dtype
    return x if emit.type(x).dtype is dtype else emit(Cast(dtype), x)


def _rescaled(emit: Emit[V], x: V, centred: V, dims: tuple[int, ...], eps: float) -> V:
    """X divided by the root of the mean square of `centred`."""
    power = emit(Mean(dims, True), emit(Square(), centred))
    return emit(Mul(), x, emit(Rsqrt(), emit(Add(), power, scalar(emit, eps, emit.type(power).dtype))))


def _standardised(emit: Emit[V], x: V, dims: tuple[int, ...], eps: float) -> V:
    """X with mean 0 and variance 1 over `dims`, computed in f32 at least."""
    full = _in_full(emit, x)
    centred = emit(Sub(), full, emit(Mean(dims, True), full))
    return _rounded(emit, _rescaled(emit, centred, centred, dims, eps), x)


def _affined(emit: Emit[V], x: V, weight: V | None, bias: V | None, trailing: int = 0) -> V:
    """X · weight + bias; `trailing` is how many axes of x follow those of the weight."""
    for op, t in ((Mul(), weight), (Add(), bias)):
        if t is not None:
            shape = (*emit.type(t).shape, *(1,) * trailing)
            x = emit(op, x, emit(Reshape(shape), t) if trailing else t)
    return x


@operator("batch_norm")
class BatchNorm(Operator):
    """Per channel (axis 1): `(x - mean) / √(var + eps) · weight + bias` (Ioffe and Szegedy 2015).

    In inference with the running statistics; in training with those of the batch, which move the running ones by
    `momentum` (by the unbiased variance, as PyTorch).
    """

    operands = operands("x weight?=1 bias?=0 running_mean running_var")
    eps: PositiveReal = 1e-5
    momentum: Probability = 0.1

    def shape(self, *inputs: TensorType | None) -> Types:
        x = inputs[0]
        assert x is not None
        _need_channels(self.name, x)
        same_dtype(self, *inputs)
        for i, (operand, t) in enumerate(zip(self.operands[1:], inputs[1:], strict=True), 1):
            check_vector(self, operand.name, t, x.shape[1], i, "channels")
        return (x,)

    def axes(self, *inputs: TensorType | None) -> Axes:
        x, *vectors = given(inputs)
        names = labels(x.rank)
        return Axes(pattern([names, *[[names[1]] for _ in vectors]], names))

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        """In inference: one product and one sum an element, once the statistics are folded into scale and shift."""
        return Cost(flops=outputs[0].elements * 2)


@layer("batch_norm")
class BatchNormLayer(_ChannelLayer):
    """`x |> batch_norm`: owns `weight` (ones) and `bias` (zeros) if `affine`, and the running statistics as buffers."""

    eps: PositiveReal = 1e-5
    momentum: Probability = 0.1
    affine: Flag = True
    num_features: Positive | None = None

    def parameters(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> dict[str, ParameterSpec]:
        shape, dtype = self._channels(inputs, "num_features", self.num_features)
        specs = _affine(self.affine, self.affine, shape, dtype, given)
        for name, initialiser in (("running_mean", ZEROS), ("running_var", ONES)):
            if name not in given:
                specs[name] = ParameterSpec(shape, initialiser, dtype, buffer=True)
        return specs

    def operator(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> Operator:
        return BatchNorm(self.eps, self.momentum)


@operator("layer_norm")
class LayerNorm(Normalization):
    """Normalises over the last `rank` axes (Ba et al. 2016); `weight` and `bias` have their shape."""

    rank: Positive = 1
    eps: PositiveReal = 1e-5

    def shape(self, *inputs: TensorType | None) -> Types:
        x, weight, bias = (*inputs, None, None)[:3]
        assert x is not None
        _need_trailing(x, self.rank)
        same_dtype(self, x, weight, bias)
        for i, t in enumerate((weight, bias), 1):
            if t is not None and t.shape != x.shape[-self.rank :]:
                wanted = TensorType(x.dtype, x.shape[-self.rank :])
                raise ShapeError(
                    f"the {self.operands[i].name} of layer_norm is {t}, but it normalises over the last "
                    f"{'axis' if self.rank == 1 else f'{self.rank} axes'} of {x} and needs {wanted}",
                    operands=(0, i),
                )
        return (x,)

    def axes(self, *inputs: TensorType | None) -> Axes:
        x, *weights = given(inputs)
        names = labels(x.rank)
        trailing = names[-self.rank :]
        return Axes(pattern([names, *[trailing for _ in weights]], names), mixed=frozenset(trailing))

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        x, weight, bias = (*inputs, None, None)[:3]
        assert x is not None
        rank = emit.type(x).rank
        return _affined(emit, _standardised(emit, x, tuple(range(rank - self.rank, rank)), self.eps), weight, bias)


def _need_trailing(x: TensorType, rank: int) -> None:
    if x.rank < rank:
        raise ShapeError(
            f"layer_norm normalises over the last {rank} axes, but {x} has {x.rank}",
            operands=(0,),
            code="rank-mismatch",
            fix=f"rank = {x.rank} or less" if x.rank else None,
        )


@layer("layer_norm")
class LayerNormLayer(Layer):
    """`x |> layer_norm`: owns `weight` (ones) if `affine`, and `bias` (zeros) if `affine` and `bias`."""

    rank: Positive = 1
    eps: PositiveReal = 1e-5
    affine: Flag = True
    bias: Flag = True

    def parameters(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> dict[str, ParameterSpec]:
        x = applied(self.name, inputs)
        _need_trailing(x, self.rank)
        if not self.affine:
            return {}
        shape = tuple(numeric(self.name, "the normalised size", d) for d in x.shape[-self.rank :])
        return _affine(True, self.bias, shape, parameter_dtype(x), given)

    def operator(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> Operator:
        return LayerNorm(self.rank, self.eps)


@operator("group_norm")
class GroupNorm(Normalization):
    """Normalises over each of `num_groups` groups of channels and all positions (Wu and He 2018)."""

    num_groups: Positive
    eps: PositiveReal = 1e-5

    def shape(self, *inputs: TensorType | None) -> Types:
        x, weight, bias = (*inputs, None, None)[:3]
        assert x is not None
        _need_channels(self.name, x)
        same_dtype(self, x, weight, bias)
        divided(self.name, "num_groups", self.num_groups, "channels", x.shape[1])
        check_vector(self, "weight", weight, x.shape[1], 1, "channels")
        check_vector(self, "bias", bias, x.shape[1], 2, "channels")
        return (x,)

    def axes(self, *inputs: TensorType | None) -> Axes:
        x, *weights = given(inputs)
        n, _, *space = labels(x.rank)
        channels = "c" if self.num_groups == 1 else "(g c)"
        names = [n, channels, *space]
        text = pattern([names, *[[channels] for _ in weights]], names)
        sizes = {"g": self.num_groups} if self.num_groups > 1 else {}
        units = {"g": "group"} if self.num_groups > 1 else {}
        return Axes(text, mixed=frozenset(["c", *space]), sizes=sizes, units=units)

    def resized(self, sizes: Mapping[str, Dim], outputs: Types) -> Operator:
        return self if self.num_groups == 1 else replace(self, num_groups=sizes["g"])

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        x, weight, bias = (*inputs, None, None)[:3]
        assert x is not None
        kind = emit.type(x)
        n, c, *space = kind.shape
        grouped = emit(Reshape((n, self.num_groups, floor_divide(c, self.num_groups), *space)), x)
        normal = _standardised(emit, grouped, tuple(range(2, kind.rank + 1)), self.eps)
        return _affined(emit, emit(Reshape(kind.shape), normal), weight, bias, kind.rank - 2)


@layer("group_norm")
class GroupNormLayer(_ChannelLayer):
    """`x |> group_norm(32)`: owns `weight` (ones) and `bias` (zeros) if `affine`."""

    num_groups: Positive
    eps: PositiveReal = 1e-5
    affine: Flag = True
    num_channels: Positive | None = None

    def parameters(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> dict[str, ParameterSpec]:
        if not self.affine:
            return {}
        shape, dtype = self._channels(inputs, "num_channels", self.num_channels)
        return _affine(True, True, shape, dtype, given)

    def operator(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> Operator:
        return GroupNorm(self.num_groups, self.eps)


@operator("instance_norm")
class InstanceNorm(Normalization):
    """Normalises each channel of each example over its positions (Ulyanov et al. 2016)."""

    eps: PositiveReal = 1e-5

    def shape(self, *inputs: TensorType | None) -> Types:
        x, weight, bias = (*inputs, None, None)[:3]
        assert x is not None
        _need_channels(self.name, x, 3)
        same_dtype(self, x, weight, bias)
        check_vector(self, "weight", weight, x.shape[1], 1, "channels")
        check_vector(self, "bias", bias, x.shape[1], 2, "channels")
        return (x,)

    def axes(self, *inputs: TensorType | None) -> Axes:
        x, *weights = given(inputs)
        names = labels(x.rank)
        return Axes(pattern([names, *[[names[1]] for _ in weights]], names), mixed=frozenset(names[2:]))

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        x, weight, bias = (*inputs, None, None)[:3]
        assert x is not None
        rank = emit.type(x).rank
        return _affined(emit, _standardised(emit, x, tuple(range(2, rank)), self.eps), weight, bias, rank - 2)


@layer("instance_norm")
class InstanceNormLayer(_ChannelLayer):
    """`x |> instance_norm`: owns `weight` (ones) and `bias` (zeros) if `affine`, which it is not by default."""

    eps: PositiveReal = 1e-5
    affine: Flag = False
    num_features: Positive | None = None

    def parameters(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> dict[str, ParameterSpec]:
        if not self.affine:
            return {}
        shape, dtype = self._channels(inputs, "num_features", self.num_features)
        return _affine(True, True, shape, dtype, given)

    def operator(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> Operator:
        return InstanceNorm(self.eps)


@operator("rms_norm")
class RmsNorm(Operator):
    """`x / √(mean(x²) + eps) · weight` over the last axis (Zhang and Sennrich 2019)."""

    operands = operands("x weight?=1")
    derived = True
    eps: PositiveReal = 1e-6

    def shape(self, *inputs: TensorType | None) -> Types:
        x, weight = (*inputs, None)[:2]
        assert x is not None
        _need_features(x)
        same_dtype(self, x, weight)
        check_vector(self, "weight", weight, x.shape[-1], 1, "features")
        return (x,)

    def axes(self, *inputs: TensorType | None) -> Axes:
        x, *weights = given(inputs)
        names = labels(x.rank)
        return Axes(pattern([names, *[names[-1:] for _ in weights]], names), mixed=frozenset(names[-1:]))

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        x, weight = (*inputs, None)[:2]
        assert x is not None
        full = _in_full(emit, x)
        normal = _rounded(emit, _rescaled(emit, full, full, (emit.type(x).rank - 1,), self.eps), x)
        return _affined(emit, normal, weight, None)

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        """Square, sum and scale: 3 an element, and 1 for the weight."""
        return Cost(flops=outputs[0].elements * (3 + sum(t is not None for t in inputs[1:])))


def _need_features(x: TensorType) -> None:
    if x.rank == 0:
        raise ShapeError(f"rms_norm takes [..., features], not {x}", operands=(0,), code="rank-mismatch")


@layer("rms_norm")
class RmsNormLayer(Layer):
    """`x |> rms_norm`: owns `weight` (ones) if `affine`."""

    eps: PositiveReal = 1e-6
    affine: Flag = True
    num_features: Positive | None = None

    def parameters(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> dict[str, ParameterSpec]:
        if not self.affine:
            return {}
        x = data(inputs)
        if x is not None:
            _need_features(x)
        size = width(self.name, "num_features", self.num_features, None if x is None else x.shape[-1])
        return _affine(True, False, (size,), parameter_dtype(x), given)

    def operator(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> Operator:
        return RmsNorm(self.eps)


sample(BatchNorm(), "f32[2, 3, 4, 5]", "f32[3]", "f32[3]", "f32[3]", "f32[3]", positive=(4,))
sample(BatchNorm(1e-3), "f32[4, 3]", None, None, "f32[3]", "f32[3]", positive=(4,))
sample(LayerNorm(), "f32[2, 3, 4]", "f32[4]", "f32[4]")
sample(LayerNorm(), "f32[2, 3, 4]", "f32[4]", None)
sample(LayerNorm(2, 1e-3), "f32[2, 3, 4]", None, None)
sample(GroupNorm(2), "f32[2, 4, 3, 3]", "f32[4]", "f32[4]")
sample(GroupNorm(1), "f32[2, 3, 5]", "f32[3]", "f32[3]")
sample(GroupNorm(3), "f32[4, 6]", None, None)
sample(InstanceNorm(), "f32[2, 3, 4, 5]", None, None)
sample(InstanceNorm(1e-3), "f32[2, 3, 6]", "f32[3]", "f32[3]")
sample(RmsNorm(), "f32[2, 3, 4]", "f32[4]")
sample(RmsNorm(1e-5), "f32[2, 6]", None)
