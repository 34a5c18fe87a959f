"""Convolution and transposed convolution over 1, 2 or 3 spatial axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

from ..types import Dim, Shape, TensorType, known_less, volume
from .attribute import (
    Flag,
    Natural1,
    Natural2,
    Natural3,
    Padding1,
    Padding2,
    Padding3,
    Pairs,
    Positive,
    Positive1,
    Positive2,
    Positive3,
    Same,
    SamePadding1,
    SamePadding2,
    SamePadding3,
)
from .dimension import given
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
    FAN_IN,
    applied,
    bias_of,
    check_vector,
    data,
    divided,
    parameter_dtype,
    same_dtype,
    stated,
    weight_rank,
    width,
)
from .window import check_fit, check_rank, extent, lowered, positions, raised, resolve, sliding, tied


class Windowed(Operator):
    """What both kinds of convolution share: `x [N, in, *size]`, a weight of rank `spatial + 2`, a bias `[out]`."""

    __slots__ = ()
    operands = operands("x weight bias?=0")
    spatial: ClassVar[int]
    stride: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    groups: int

    def _checked(self, inputs: Sequence[TensorType | None], layout: str) -> tuple[TensorType, TensorType]:
        x, weight, bias = (*inputs, None)[:3]
        assert x is not None
        assert weight is not None
        check_rank(self.name, x, self.spatial)
        if weight.rank != x.rank:
            raise ShapeError(
                f"the weight of {self.name} is [{layout}], not {weight} of rank {weight.rank}",
                operands=(1,),
                code="rank-mismatch",
            )
        same_dtype(self, x, weight, bias)
        divided(self.name, "groups", self.groups, "input channels", x.shape[1])
        return x, weight

    def _extents(self, weight: TensorType) -> list[int]:
        return [extent(_kernel_size(self, k), d) for k, d in zip(weight.shape[2:], self.dilation, strict=True)]

    def _tied(self, weight: TensorType) -> tuple[list[str], list[str], list[str]]:
        """Labels of the spatial axes of the input, of the kernel and of the output."""
        kernel = [_kernel_size(self, k) for k in weight.shape[2:]]
        return tied(kernel, self.stride, self.padding)

    def _channels(self) -> tuple[str, str]:
        """Labels of the channels that come in and go out."""
        return ("i", "o") if self.groups == 1 else ("(g i)", "(g o)")

    def _units(self, x: TensorType) -> dict[str, str]:
        return {"g": "group"} if self.groups > 1 and x.shape[1] != self.groups else {}

    def resized(self, sizes: Mapping[str, Dim], outputs: Types) -> Operator:
        return self if self.groups == 1 else replace(cast(Any, self), groups=sizes["g"])

    def _disagree(self, x: TensorType, weight: TensorType, channels: Dim) -> ShapeError:
        groups = f" ({weight.shape[1]} in each of {self.groups} groups)" if self.groups > 1 else ""
        return ShapeError(
            f"{self.name} has a weight {weight} for {channels} input channels{groups}, "
            f"but its input {x} has {x.shape[1]}",
            operands=(0, 1),
            fix=f"a weight made for {x.shape[1]} channels, or an input of {channels} channels",
        )


def _kernel_size(op: Operator, size: Dim) -> int:
    if not isinstance(size, int):
        raise ShapeError(
            f"the kernel of {op.name} has the symbolic size {size}", operands=(1,), code="symbolic-parameter"
        )
    return size


class Convolution(Windowed):
    """Cross-correlation with `weight [out, in/groups, *kernel]`, as PyTorch's `conv`."""

    __slots__ = ()

    def shape(self, *inputs: TensorType | None) -> Types:
        x, weight = self._checked(inputs, f"out, in/groups, {_kernel(self.spatial)}")
        if weight.shape[1] * self.groups != x.shape[1]:
            raise self._disagree(x, weight, weight.shape[1] * self.groups)
        divided(self.name, "groups", self.groups, "output channels", weight.shape[0], operand=1)
        check_vector(self, "bias", (*inputs, None)[2], weight.shape[0], 2, "output channels")
        extents = self._extents(weight)
        check_fit(self, x, extents, self.padding)
        sizes = map(positions, x.shape[2:], extents, self.stride, self.padding)
        return (TensorType(x.dtype, (x.shape[0], weight.shape[0], *sizes)),)

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        _, weight, bias = (*inputs, None)[:3]
        assert weight is not None
        n, _, *sizes = outputs[0].shape
        return Cost(n * volume(sizes) * weight.elements, outputs[0].elements if bias else 0)

    def axes(self, *inputs: TensorType | None) -> Axes:
        x, weight, *bias = given(inputs)
        before, k, after = self._tied(weight)
        into, out = self._channels()
        return sliding(before, (into, out), [[out, "i", *k], [out]][: 1 + len(bias)], after, self._units(x))


class Transposed(Windowed):
    """The gradient of a convolution, with `weight [in, out/groups, *kernel]`, as PyTorch's `conv_transpose`."""

    __slots__ = ()
    output_padding: tuple[int, ...]

    def shape(self, *inputs: TensorType | None) -> Types:
        x, weight = self._checked(inputs, f"in, out/groups, {_kernel(self.spatial)}")
        if weight.shape[0] != x.shape[1]:
            raise self._disagree(x, weight, weight.shape[0])
        out = weight.shape[1] * self.groups
        check_vector(self, "bias", (*inputs, None)[2], out, 2, "output channels")
        self._check_output_padding()
        sizes = [self._size(x, axis, reach) for axis, reach in enumerate(self._extents(weight))]
        return (TensorType(x.dtype, (x.shape[0], out, *sizes)),)

    def _size(self, x: TensorType, axis: int, reach: int) -> Dim:
        grown = (x.shape[axis + 2] - 1) * self.stride[axis] + (reach + self.output_padding[axis])
        size = grown - sum(self.padding[axis])
        if known_less(size, 1):
            raise ShapeError(
                f"{self.name} would make axis {axis + 2} of {x} {size} long",
                operands=(0,),
                code="kernel-too-large",
                fix=f"less padding: its sum on this axis must be below {grown}",
            )
        return size

    def _check_output_padding(self) -> None:
        for extra, s, d in zip(self.output_padding, self.stride, self.dilation, strict=True):
            if extra >= max(s, d):
                raise ShapeError(
                    f"the output_padding {extra} of {self.name} must be smaller than its stride {s} or dilation {d}",
                    code="bad-output-padding",
                    fix=f"output_padding = {max(s, d) - 1} or less",
                )

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        x, weight, bias = (*inputs, None)[:3]
        assert x is not None
        assert weight is not None
        return Cost(x.shape[0] * volume(x.shape[2:]) * weight.elements, outputs[0].elements if bias else 0)

    def axes(self, *inputs: TensorType | None) -> Axes:
        x, weight, *bias = given(inputs)
        before, k, after = self._tied(weight)
        into, out = self._channels()
        return sliding(before, (into, out), [[into, "o", *k], [out]][: 1 + len(bias)], after, self._units(x))


def _kernel(spatial: int) -> str:
    return "*kernel" if spatial > 1 else "kernel"


@operator("conv1d")
class Conv1d(Convolution):
    """Convolution of `x [N, in, L]` with `weight [out, in/groups, k]`."""

    spatial = 1
    derived = True
    stride: Positive1 = (1,)
    padding: Padding1 = ((0, 0),)
    dilation: Positive1 = (1,)
    groups: Positive = 1

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        x, weight, bias = (*inputs, None)[:3]
        assert x is not None
        assert weight is not None
        op = Conv2d((1, *self.stride), ((0, 0), *self.padding), (1, *self.dilation), self.groups)
        return lowered(emit, emit(op, raised(emit, x), raised(emit, weight), bias))


@operator("conv2d")
class Conv2d(Convolution):
    """Convolution of `x [N, in, H, W]` with `weight [out, in/groups, kh, kw]`."""

    spatial = 2
    stride: Positive2 = (1, 1)
    padding: Padding2 = ((0, 0), (0, 0))
    dilation: Positive2 = (1, 1)
    groups: Positive = 1


@operator("conv3d")
class Conv3d(Convolution):
    """Convolution of `x [N, in, D, H, W]` with `weight [out, in/groups, kd, kh, kw]`."""

    spatial = 3
    stride: Positive3 = (1, 1, 1)
    padding: Padding3 = ((0, 0), (0, 0), (0, 0))
    dilation: Positive3 = (1, 1, 1)
    groups: Positive = 1


@operator("conv_transpose1d")
class ConvTranspose1d(Transposed):
    """Transposed convolution of `x [N, in, L]` with `weight [in, out/groups, k]`."""

    spatial = 1
    derived = True
    stride: Positive1 = (1,)
    padding: Padding1 = ((0, 0),)
    output_padding: Natural1 = (0,)
    groups: Positive = 1
    dilation: Positive1 = (1,)

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        x, weight, bias = (*inputs, None)[:3]
        assert x is not None
        assert weight is not None
        op = ConvTranspose2d(
            (1, *self.stride),
            ((0, 0), *self.padding),
            (0, *self.output_padding),
            self.groups,
            (1, *self.dilation),
        )
        return lowered(emit, emit(op, raised(emit, x), raised(emit, weight), bias))


@operator("conv_transpose2d")
class ConvTranspose2d(Transposed):
    """Transposed convolution of `x [N, in, H, W]` with `weight [in, out/groups, kh, kw]`."""

    spatial = 2
    stride: Positive2 = (1, 1)
    padding: Padding2 = ((0, 0), (0, 0))
    output_padding: Natural2 = (0, 0)
    groups: Positive = 1
    dilation: Positive2 = (1, 1)


@operator("conv_transpose3d")
class ConvTranspose3d(Transposed):
    """Transposed convolution of `x [N, in, D, H, W]` with `weight [in, out/groups, kd, kh, kw]`."""

    spatial = 3
    stride: Positive3 = (1, 1, 1)
    padding: Padding3 = ((0, 0), (0, 0), (0, 0))
    output_padding: Natural3 = (0, 0, 0)
    groups: Positive = 1
    dilation: Positive3 = (1, 1, 1)


class WindowedLayer(Layer):
    """A convolution that owns `weight` and, with `bias`, `bias`, initialised U(±1/√fan_in) as PyTorch's."""

    spatial: ClassVar[int]
    out_channels: int | None
    kernel_size: tuple[int, ...] | None
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    bias: bool
    in_channels: int | None

    def _shapes(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> tuple[Shape, Dim]:
        """The weight's shape and the number of output channels."""
        raise NotImplementedError

    def parameters(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> dict[str, ParameterSpec]:
        x = data(inputs)
        if x is not None:
            check_rank(self.name, x, self.spatial)
        shape, out = self._shapes(inputs, given)
        dtype = parameter_dtype(x)
        specs: dict[str, ParameterSpec] = {}
        if "weight" not in given:
            specs["weight"] = ParameterSpec(shape, FAN_IN, dtype)
        if self.bias and "bias" not in given:
            specs["bias"] = bias_of(self.name, shape, out, dtype)
        return specs

    def _in_channels(self, inputs: OptionalTypes) -> int:
        x = data(inputs)
        return width(self.name, "in_channels", self.in_channels, None if x is None else x.shape[1])

    def _kernel_size(self, weight: TensorType | None) -> tuple[int, ...]:
        found = None if weight is None else weight.shape[2:]
        return cast("tuple[int, ...]", stated(self.name, "kernel_size", self.kernel_size, found))


class ConvolutionLayer(WindowedLayer):
    """Constructor of a convolution."""

    padding: Pairs | Same

    def _shapes(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> tuple[Shape, Dim]:
        weight = weight_rank(self.name, given, self.spatial + 2, f"out, in/groups, {_kernel(self.spatial)}")
        out = cast(
            Dim, stated(self.name, "out_channels", self.out_channels, None if weight is None else weight.shape[0])
        )
        kernel = self._kernel_size(weight)
        if weight is not None:
            return weight.shape, out
        inner = divided(self.name, "groups", self.groups, "input channels", self._in_channels(inputs))
        divided(self.name, "groups", self.groups, "output channels", out)
        return (out, inner, *kernel), out

    def operator(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> Operator:
        x = applied(self.name, inputs)
        check_rank(self.name, x, self.spatial)
        kernel = self._kernel_size(given.get("weight"))
        padding = resolve(self.name, self.padding, x.shape[2:], kernel, self.stride, self.dilation)
        return _OPERATORS[self.name](self.stride, padding, self.dilation, self.groups)


_OPERATORS = {"conv1d": Conv1d, "conv2d": Conv2d, "conv3d": Conv3d}


class TransposedLayer(WindowedLayer):
    """Constructor of a transposed convolution."""

    padding: Pairs
    output_padding: tuple[int, ...]

    def _shapes(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> tuple[Shape, Dim]:
        weight = weight_rank(self.name, given, self.spatial + 2, f"in, out/groups, {_kernel(self.spatial)}")
        found = None if weight is None else weight.shape[1] * self.groups
        out = cast(Dim, stated(self.name, "out_channels", self.out_channels, found))
        kernel = self._kernel_size(weight)
        if weight is not None:
            return weight.shape, out
        inner = self._in_channels(inputs)
        divided(self.name, "groups", self.groups, "input channels", inner)
        return (inner, divided(self.name, "groups", self.groups, "output channels", out), *kernel), out

    def operator(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> Operator:
        make = _TRANSPOSED[self.name]
        return make(self.stride, self.padding, self.output_padding, self.groups, self.dilation)


_TRANSPOSED = {
    "conv_transpose1d": ConvTranspose1d,
    "conv_transpose2d": ConvTranspose2d,
    "conv_transpose3d": ConvTranspose3d,
}


@layer("conv1d")
class Conv1dLayer(ConvolutionLayer):
    """`x |> conv1d(64, 3)`."""

    spatial = 1
    out_channels: Positive | None = None
    kernel_size: Positive1 | None = None
    stride: Positive1 = (1,)
    padding: SamePadding1 = ((0, 0),)
    dilation: Positive1 = (1,)
    groups: Positive = 1
    bias: Flag = True
    in_channels: Positive | None = None


@layer("conv2d")
class Conv2dLayer(ConvolutionLayer):
    """`x |> conv2d(64, 3, padding = 1)`."""

    spatial = 2
    out_channels: Positive | None = None
    kernel_size: Positive2 | None = None
    stride: Positive2 = (1, 1)
    padding: SamePadding2 = ((0, 0), (0, 0))
    dilation: Positive2 = (1, 1)
    groups: Positive = 1
    bias: Flag = True
    in_channels: Positive | None = None


@layer("conv3d")
class Conv3dLayer(ConvolutionLayer):
    """`x |> conv3d(64, 3, padding = "same")`."""

    spatial = 3
    out_channels: Positive | None = None
    kernel_size: Positive3 | None = None
    stride: Positive3 = (1, 1, 1)
    padding: SamePadding3 = ((0, 0), (0, 0), (0, 0))
    dilation: Positive3 = (1, 1, 1)
    groups: Positive = 1
    bias: Flag = True
    in_channels: Positive | None = None


@layer("conv_transpose1d")
class ConvTranspose1dLayer(TransposedLayer):
    """`x |> conv_transpose1d(64, 4, 2, padding = 1)`."""

    spatial = 1
    out_channels: Positive | None = None
    kernel_size: Positive1 | None = None
    stride: Positive1 = (1,)
    padding: Padding1 = ((0, 0),)
    output_padding: Natural1 = (0,)
    groups: Positive = 1
    bias: Flag = True
    dilation: Positive1 = (1,)
    in_channels: Positive | None = None


@layer("conv_transpose2d")
class ConvTranspose2dLayer(TransposedLayer):
    """`x |> conv_transpose2d(64, 4, 2, padding = 1)`."""

    spatial = 2
    out_channels: Positive | None = None
    kernel_size: Positive2 | None = None
    stride: Positive2 = (1, 1)
    padding: Padding2 = ((0, 0), (0, 0))
    output_padding: Natural2 = (0, 0)
    groups: Positive = 1
    bias: Flag = True
    dilation: Positive2 = (1, 1)
    in_channels: Positive | None = None


@layer("conv_transpose3d")
class ConvTranspose3dLayer(TransposedLayer):
    """`x |> conv_transpose3d(64, 4, 2, padding = 1)`."""

    spatial = 3
    out_channels: Positive | None = None
    kernel_size: Positive3 | None = None
    stride: Positive3 = (1, 1, 1)
    padding: Padding3 = ((0, 0), (0, 0), (0, 0))
    output_padding: Natural3 = (0, 0, 0)
    groups: Positive = 1
    bias: Flag = True
    dilation: Positive3 = (1, 1, 1)
    in_channels: Positive | None = None


sample(Conv1d(), "f32[2, 3, 8]", "f32[4, 3, 3]", "f32[4]")
sample(Conv1d((2,), ((2, 1),), (2,), 2), "f32[2, 4, 9]", "f32[6, 2, 3]")
sample(Conv2d(), "f32[2, 3, 5, 6]", "f32[4, 3, 3, 2]", "f32[4]")
sample(Conv2d(), "f32[2, 4, 3, 5]", "f32[6, 4, 1, 1]")
sample(Conv2d((2, 1), ((1, 1), (1, 1)), (1, 2)), "f32[2, 3, 7, 8]", "f32[4, 3, 3, 3]", "f32[4]")
sample(Conv2d((2, 2), ((0, 1), (1, 2)), (1, 1), 2), "f32[2, 4, 7, 6]", "f32[6, 2, 3, 3]", "f32[6]")
sample(Conv2d((1, 1), ((1, 1), (1, 1)), (1, 1), 4), "f32[2, 4, 5, 5]", "f32[8, 1, 3, 3]")
sample(Conv3d((1, 2, 1), ((1, 1), (0, 0), (1, 0))), "f32[1, 2, 4, 5, 4]", "f32[3, 2, 3, 2, 2]", "f32[3]")
sample(Conv3d(groups=2, dilation=(2, 1, 1)), "f32[1, 4, 5, 3, 3]", "f32[2, 2, 2, 2, 2]")
sample(ConvTranspose1d((2,), ((1, 1),), (1,)), "f32[2, 3, 5]", "f32[3, 4, 3]", "f32[4]")
sample(ConvTranspose2d(), "f32[2, 3, 4, 5]", "f32[3, 4, 2, 3]")
sample(ConvTranspose2d((2, 2), ((1, 1), (1, 0)), (1, 0), 2), "f32[2, 4, 3, 4]", "f32[4, 3, 3, 3]", "f32[6]")
sample(ConvTranspose2d((1, 2), dilation=(2, 1)), "f32[1, 2, 3, 3]", "f32[2, 3, 3, 2]", "f32[3]")
sample(ConvTranspose3d((2, 1, 2), ((1, 1), (0, 0), (0, 0))), "f32[1, 2, 3, 3, 2]", "f32[2, 3, 3, 2, 2]", "f32[3]")
