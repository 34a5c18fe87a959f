"""Pooling over windows, and adaptively to a given size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from ..types import Dim, TensorType, divide, floor_divide, known_less, volume
from .attribute import (
    Flag,
    Padding1,
    Padding2,
    Padding3,
    Pairs,
    Positive1,
    Positive2,
    Positive3,
    Same,
    SamePadding1,
    SamePadding2,
    SamePadding3,
)
from .dimension import given, need_float, pattern
from .layout import Concat, Reshape, Slice
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
from .parameter import applied
from .reduction import Max, Mean
from .window import SPATIAL, check_fit, check_rank, extent, lowered, positions, raised, resolve, sliding, tied


class Pooling(Operator):
    """One number for each window of each channel: `x [N, C, *size]`."""

    __slots__ = ()
    operands = operands("x")
    spatial: ClassVar[int]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pairs
    ceil_mode: bool

    @property
    def steps(self) -> tuple[int, ...]:
        """The dilation of each axis."""
        return (1,) * self.spatial

    def shape(self, *inputs: TensorType | None) -> Types:
        x = inputs[0]
        assert x is not None
        check_rank(self.name, x, self.spatial)
        need_float(self, x)
        extents = [extent(k, d) for k, d in zip(self.kernel_size, self.steps, strict=True)]
        self._check_padding(extents)
        check_fit(self, x, extents, self.padding)
        count = self._positions_up if self.ceil_mode else positions
        return (TensorType(x.dtype, (*x.shape[:2], *map(count, x.shape[2:], extents, self.stride, self.padding))),)

    def _check_padding(self, extents: Sequence[int]) -> None:
        """As PyTorch: windows that lie in the padding altogether have no maximum and no mean."""
        for reach, pair in zip(extents, self.padding, strict=True):
            if max(pair) > reach // 2:
                raise ShapeError(
                    f"{self.name} pads by {max(pair)}, which is more than half of its kernel's reach {reach}",
                    code="bad-padding",
                    fix=f"padding = {reach // 2} or less",
                )

    def _positions_up(self, size: Dim, reach: int, stride: int, pad: tuple[int, int]) -> Dim:
        """With `ceil_mode` a last, partial window counts where it starts inside the input or the padding before it."""
        count = floor_divide(size + (sum(pad) - reach + stride - 1), stride) + 1
        if pad[1] + stride <= reach:
            return count
        inside = known_less((count - 1) * stride, size + pad[0])
        if inside is None:
            raise ShapeError(
                f"whether {self.name} with ceil_mode has a last, partial window depends on {size}",
                operands=(0,),
                code="symbolic-window",
                fix="ceil_mode = false, or a kernel at least as large as its stride and padding together",
            )
        return count if inside else count - 1

    def axes(self, *inputs: TensorType | None) -> Axes:
        before, _, after = tied(self.kernel_size, self.stride, self.padding)
        return sliding(before, ("c", "c"), (), after)

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        """One operation for each element of each window."""
        return Cost(flops=outputs[0].elements * volume(self.kernel_size))


class MaxPooling(Pooling):
    """The largest number of each window; padding counts as -∞."""

    __slots__ = ()
    dilation: tuple[int, ...]

    @property
    def steps(self) -> tuple[int, ...]:
        return self.dilation


class AvgPooling(Pooling):
    """The mean of each window; zeros of the padding count with `count_include_pad`, the part of a partial window
    beyond them never does."""

    __slots__ = ()
    count_include_pad: bool


@operator("max_pool1d")
class MaxPool1d(MaxPooling):
    """The largest number of each window of `x [N, C, L]`."""

    spatial = 1
    derived = True
    kernel_size: Positive1
    stride: Positive1
    padding: Padding1 = ((0, 0),)
    dilation: Positive1 = (1,)
    ceil_mode: Flag = False

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        op = MaxPool2d(
            (1, *self.kernel_size), (1, *self.stride), ((0, 0), *self.padding), (1, *self.dilation), self.ceil_mode
        )
        return lowered(emit, emit(op, raised(emit, x)))


@operator("max_pool2d")
class MaxPool2d(MaxPooling):
    """The largest number of each window of `x [N, C, H, W]`."""

    spatial = 2
    kernel_size: Positive2
    stride: Positive2
    padding: Padding2 = ((0, 0), (0, 0))
    dilation: Positive2 = (1, 1)
    ceil_mode: Flag = False


@operator("max_pool3d")
class MaxPool3d(MaxPooling):
    """The largest number of each window of `x [N, C, D, H, W]`."""

    spatial = 3
    kernel_size: Positive3
    stride: Positive3
    padding: Padding3 = ((0, 0), (0, 0), (0, 0))
    dilation: Positive3 = (1, 1, 1)
    ceil_mode: Flag = False


@operator("avg_pool1d")
class AvgPool1d(AvgPooling):
    """The mean of each window of `x [N, C, L]`."""

    spatial = 1
    derived = True
    kernel_size: Positive1
    stride: Positive1
    padding: Padding1 = ((0, 0),)
    ceil_mode: Flag = False
    count_include_pad: Flag = True

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        op = AvgPool2d(
            (1, *self.kernel_size), (1, *self.stride), ((0, 0), *self.padding), self.ceil_mode, self.count_include_pad
        )
        return lowered(emit, emit(op, raised(emit, x)))


@operator("avg_pool2d")
class AvgPool2d(AvgPooling):
    """The mean of each window of `x [N, C, H, W]`."""

    spatial = 2
    kernel_size: Positive2
    stride: Positive2
    padding: Padding2 = ((0, 0), (0, 0))
    ceil_mode: Flag = False
    count_include_pad: Flag = True


@operator("avg_pool3d")
class AvgPool3d(AvgPooling):
    """The mean of each window of `x [N, C, D, H, W]`."""

    spatial = 3
    kernel_size: Positive3
    stride: Positive3
    padding: Padding3 = ((0, 0), (0, 0), (0, 0))
    ceil_mode: Flag = False
    count_include_pad: Flag = True


class PoolingLayer(Layer):
    """Constructor without parameters: `stride` defaults to the kernel, and "same" follows from the input's size."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...] | None
    padding: Pairs | Same
    ceil_mode: bool

    def parameters(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> dict[str, ParameterSpec]:
        return {}

    def _placed(self, inputs: OptionalTypes, dilation: Sequence[int]) -> tuple[tuple[int, ...], Pairs]:
        x = applied(self.name, inputs)
        check_rank(self.name, x, len(self.kernel_size))
        stride = self.stride or self.kernel_size
        return stride, resolve(self.name, self.padding, x.shape[2:], self.kernel_size, stride, dilation)


class MaxPoolingLayer(PoolingLayer):
    """Constructor of max pooling."""

    dilation: tuple[int, ...]

    def operator(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> Operator:
        stride, padding = self._placed(inputs, self.dilation)
        return _MAX[len(stride)](self.kernel_size, stride, padding, self.dilation, self.ceil_mode)


class AvgPoolingLayer(PoolingLayer):
    """Constructor of average pooling."""

    count_include_pad: bool

    def operator(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> Operator:
        stride, padding = self._placed(inputs, (1,) * len(self.kernel_size))
        return _AVG[len(stride)](self.kernel_size, stride, padding, self.ceil_mode, self.count_include_pad)


_MAX = {1: MaxPool1d, 2: MaxPool2d, 3: MaxPool3d}
_AVG = {1: AvgPool1d, 2: AvgPool2d, 3: AvgPool3d}


@layer("max_pool1d")
class MaxPool1dLayer(MaxPoolingLayer):
    """`x |> max_pool1d(2)`."""

    kernel_size: Positive1
    stride: Positive1 | None = None
    padding: SamePadding1 = ((0, 0),)
    dilation: Positive1 = (1,)
    ceil_mode: Flag = False


@layer("max_pool2d")
class MaxPool2dLayer(MaxPoolingLayer):
    """`x |> max_pool2d(3, 2, padding = 1)`."""

    kernel_size: Positive2
    stride: Positive2 | None = None
    padding: SamePadding2 = ((0, 0), (0, 0))
    dilation: Positive2 = (1, 1)
    ceil_mode: Flag = False


@layer("max_pool3d")
class MaxPool3dLayer(MaxPoolingLayer):
    """`x |> max_pool3d(2)`."""

    kernel_size: Positive3
    stride: Positive3 | None = None
    padding: SamePadding3 = ((0, 0), (0, 0), (0, 0))
    dilation: Positive3 = (1, 1, 1)
    ceil_mode: Flag = False


@layer("avg_pool1d")
class AvgPool1dLayer(AvgPoolingLayer):
    """`x |> avg_pool1d(2)`."""

    kernel_size: Positive1
    stride: Positive1 | None = None
    padding: SamePadding1 = ((0, 0),)
    ceil_mode: Flag = False
    count_include_pad: Flag = True


@layer("avg_pool2d")
class AvgPool2dLayer(AvgPoolingLayer):
    """`x |> avg_pool2d(3, 1, padding = "same", count_include_pad = false)`."""

    kernel_size: Positive2
    stride: Positive2 | None = None
    padding: SamePadding2 = ((0, 0), (0, 0))
    ceil_mode: Flag = False
    count_include_pad: Flag = True


@layer("avg_pool3d")
class AvgPool3dLayer(AvgPoolingLayer):
    """`x |> avg_pool3d(2)`."""

    kernel_size: Positive3
    stride: Positive3 | None = None
    padding: SamePadding3 = ((0, 0), (0, 0), (0, 0))
    ceil_mode: Flag = False
    count_include_pad: Flag = True


class AdaptivePooling(Operator):
    """`output_size` windows an axis, the i-th from ⌊i·size/out⌋ to ⌈(i+1)·size/out⌉, as PyTorch."""

    __slots__ = ()
    operands = operands("x")
    derived = True
    spatial: ClassVar[int]
    reduction: ClassVar[type[Mean] | type[Max]] = Mean
    output_size: tuple[int, ...]

    def shape(self, *inputs: TensorType | None) -> Types:
        x = inputs[0]
        assert x is not None
        check_rank(self.name, x, self.spatial)
        need_float(self, x)
        return (TensorType(x.dtype, (*x.shape[:2], *self.output_size)),)

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        """One operation an input element (windows overlap by at most one)."""
        assert inputs[0] is not None
        return Cost(flops=inputs[0].elements)

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        before, after = SPATIAL[self.spatial], list[str]()
        fixed: dict[str, str] = {}
        for label, size, out in zip(before, x.shape[2:], self.output_size, strict=True):
            after.append(label if size == out else "1" if out == 1 else f"{label}2")
            if out != 1:
                fixed[after[-1]] = "its size is the attribute output_size"
        whole = frozenset(label for label, out in zip(before, self.output_size, strict=True) if out == 1)
        kept = frozenset(before) - whole
        return Axes(pattern([["n", "c", *before]], ["n", "c", *after]), fixed, kept - fixed.keys(), whole)

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        """Axis by axis: a window is a product of intervals, and means and maxima over products split."""
        (x,) = inputs
        assert x is not None
        for axis, out in enumerate(self.output_size, 2):
            x = self._along(emit, x, axis, out)
        return x

    def _along(self, emit: Emit[V], x: V, axis: int, out: int) -> V:
        shape = emit.type(x).shape
        size = shape[axis]
        if size == out:
            return x
        if out == 1:
            return emit(self.reduction((axis,), True), x)
        each = divide(size, out)
        if each is not None:
            split = emit(Reshape((*shape[:axis], out, each, *shape[axis + 1 :])), x)
            return emit(self.reduction((axis + 1,), False), split)
        bounds = [(floor_divide(i * size, out), floor_divide((i + 1) * size + (out - 1), out)) for i in range(out)]
        parts = [emit(self.reduction((axis,), True), emit(Slice(axis, a, b), x)) for a, b in bounds]
        return emit(Concat(axis), *parts)


@operator("adaptive_avg_pool1d")
class AdaptiveAvgPool1d(AdaptivePooling):
    """The means of windows that cover `x [N, C, L]`."""

    spatial = 1
    output_size: Positive1


@operator("adaptive_avg_pool2d")
class AdaptiveAvgPool2d(AdaptivePooling):
    """The means of windows that cover `x [N, C, H, W]`."""

    spatial = 2
    output_size: Positive2


@operator("adaptive_avg_pool3d")
class AdaptiveAvgPool3d(AdaptivePooling):
    """The means of windows that cover `x [N, C, D, H, W]`."""

    spatial = 3
    output_size: Positive3


@operator("adaptive_max_pool2d")
class AdaptiveMaxPool2d(AdaptivePooling):
    """The largest numbers of windows that cover `x [N, C, H, W]`."""

    spatial = 2
    reduction = Max
    output_size: Positive2


sample(MaxPool1d((3,), (2,), ((1, 1),)), "f32[2, 3, 9]")
sample(MaxPool2d((2, 2), (2, 2)), "f32[2, 3, 6, 8]")
sample(MaxPool2d((3, 2), (2, 1), ((1, 1), (0, 1)), (1, 2)), "f32[2, 3, 7, 6]")
sample(MaxPool2d((3, 3), (2, 2), ((0, 0), (1, 1)), (1, 1), True), "f32[1, 2, 8, 6]")
sample(MaxPool3d((2, 2, 2), (2, 1, 2)), "f32[1, 2, 4, 3, 4]")
sample(AvgPool1d((2,), (2,)), "f32[2, 3, 8]")
sample(AvgPool2d((3, 3), (1, 1), ((1, 1), (1, 1))), "f32[2, 3, 5, 4]")
sample(AvgPool2d((3, 3), (2, 2), ((1, 1), (0, 1)), False, False), "f32[2, 2, 7, 6]")
sample(AvgPool2d((3, 2), (2, 2), ((1, 1), (1, 1)), True), "f32[1, 2, 6, 7]")
sample(AvgPool2d((2, 3), (2, 2), ((0, 1), (1, 1)), True, False), "f32[1, 2, 6, 6]")
sample(AvgPool3d((2, 1, 2), (2, 1, 1)), "f32[1, 2, 4, 2, 3]")
sample(AdaptiveAvgPool1d((3,)), "f32[2, 3, 7]")
sample(AdaptiveAvgPool2d((1, 1)), "f32[2, 3, 5, 4]")
sample(AdaptiveAvgPool2d((2, 3)), "f32[2, 3, 4, 5]")
sample(AdaptiveAvgPool2d((4, 2)), "f32[2, 3, 4, 6]")
sample(AdaptiveAvgPool3d((1, 2, 3)), "f32[1, 2, 3, 4, 3]")
sample(AdaptiveMaxPool2d((2, 3)), "f32[2, 3, 5, 6]")
sample(AdaptiveMaxPool2d((1, 1)), "f32[2, 3, 4, 4]")
