"""ONNX rules of convolution, pooling and normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy

from ...compiler.operators import convolution as v
from ...compiler.operators import normalization as n
from ...compiler.operators import pooling as p
from ...compiler.types import Dim, DType
from .build import RULES, Build


def pads(padding: Sequence[tuple[int, int]]) -> list[int]:
    """Pairs as ONNX orders them: all before, then all after."""
    return [before for before, _ in padding] + [after for _, after in padding]


@RULES(v.Conv1d, v.Conv2d, v.Conv3d)
def _conv(b: Build, op: Any, x: str, weight: str, bias: str | None = None) -> str:
    return b(
        "Conv",
        x,
        weight,
        bias,
        kernel_shape=b.type(1).shape[2:],
        strides=op.stride,
        pads=pads(op.padding),
        dilations=op.dilation,
        group=op.groups,
    )


@RULES(v.ConvTranspose1d, v.ConvTranspose2d, v.ConvTranspose3d)
def _conv_transpose(b: Build, op: Any, x: str, weight: str, bias: str | None = None) -> str:
    return b(
        "ConvTranspose",
        x,
        weight,
        bias,
        kernel_shape=b.type(1).shape[2:],
        strides=op.stride,
        pads=pads(op.padding),
        output_padding=op.output_padding,
        dilations=op.dilation,
        group=op.groups,
    )


def _filled(b: Build, given: str | None, number: float, shape: Sequence[Dim]) -> str:
    """A scale or bias that ONNX asks for where the model has none."""
    if given is not None:
        return given
    dtype = b.result.dtype
    if all(isinstance(d, int) for d in shape):
        return b.constant(numpy.full([int(str(d)) for d in shape], number), dtype)
    return b("Expand", b.constant(number, dtype), b.vector(shape))


@RULES(n.BatchNorm)
def _batch_norm(b: Build, op: n.BatchNorm, x: str, weight: str | None, bias: str | None, mean: str, var: str) -> str:
    shape = b.type(3).shape
    scale, shift = _filled(b, weight, 1, shape), _filled(b, bias, 0, shape)
    return b("BatchNormalization", x, scale, shift, mean, var, epsilon=op.eps)


@RULES(n.LayerNorm)
def _layer_norm(b: Build, op: n.LayerNorm, x: str, weight: str | None = None, bias: str | None = None) -> str:
    shape = b.type(0).shape[-op.rank :]
    return b("LayerNormalization", x, _filled(b, weight, 1, shape), bias, axis=-op.rank, epsilon=op.eps)


@RULES(n.GroupNorm)
def _group_norm(b: Build, op: n.GroupNorm, x: str, weight: str | None = None, bias: str | None = None) -> str:
    shape = b.type(0).shape[1:2]
    scale, shift = _filled(b, weight, 1, shape), _filled(b, bias, 0, shape)
    return b("GroupNormalization", x, scale, shift, num_groups=op.num_groups, epsilon=op.eps)


@RULES(n.InstanceNorm)
def _instance_norm(b: Build, op: n.InstanceNorm, x: str, weight: str | None = None, bias: str | None = None) -> str:
    shape = b.type(0).shape[1:2]
    return b("InstanceNormalization", x, _filled(b, weight, 1, shape), _filled(b, bias, 0, shape), epsilon=op.eps)


def _reaching(x: Sequence[Dim], out: Sequence[Dim], op: Any, steps: Sequence[int]) -> list[tuple[int, int]] | None:
    """Padding that makes the last window whole, so that ONNX need not round up; None where sizes are symbolic."""
    found: list[tuple[int, int]] = []
    for size, count, k, d, s, (before, after) in zip(x, out, op.kernel_size, steps, op.stride, op.padding, strict=True):
        if not isinstance(size, int) or not isinstance(count, int):
            return None
        beyond = (count - 1) * s + (k - 1) * d + 1 - (size + before + after)
        found.append((before, after + max(0, beyond)))
    return found


@RULES(p.MaxPool1d, p.MaxPool2d, p.MaxPool3d)
def _max_pool(b: Build, op: Any, x: str) -> str:
    whole = _reaching(b.type(0).shape[2:], b.result.shape[2:], op, op.dilation) if op.ceil_mode else op.padding
    return b(
        "MaxPool",
        x,
        kernel_shape=op.kernel_size,
        strides=op.stride,
        pads=pads(op.padding if whole is None else whole),
        dilations=op.dilation,
        ceil_mode=int(whole is None),
    )


@RULES(p.AvgPool1d, p.AvgPool2d, p.AvgPool3d)
def _avg_pool(b: Build, op: Any, x: str) -> str:
    """The part of a last, partial window beyond the padding never counts: with `ceil_mode` the padding comes apart."""
    padding, include, whole = op.padding, op.count_include_pad, None
    if op.ceil_mode:
        whole = _reaching(b.type(0).shape[2:], b.result.shape[2:], op, op.steps)
        if include and any(map(any, padding)):
            x = b("Pad", x, b.constant([0, 0, *(q for q, _ in padding), 0, 0, *(q for _, q in padding)]))
            if whole is not None:
                whole = [(0, reach - after) for (_, reach), (_, after) in zip(whole, padding, strict=True)]
            padding = ((0, 0),) * op.spatial
        include = False
    return b(
        "AveragePool",
        x,
        kernel_shape=op.kernel_size,
        strides=op.stride,
        pads=pads(padding if whole is None else whole),
        count_include_pad=int(include),
        ceil_mode=int(op.ceil_mode and whole is None),
    )


@RULES(p.AdaptiveAvgPool1d, p.AdaptiveAvgPool2d, p.AdaptiveAvgPool3d, p.AdaptiveMaxPool2d)
def _adaptive(b: Build, op: Any, x: str) -> str:
    """Over everything, over equal windows, or axis by axis with the table of which position is in which window."""
    mean = op.name.startswith("adaptive_avg")
    sizes = b.type(0).shape[2:]
    if all(out == 1 for out in op.output_size):
        return b("GlobalAveragePool" if mean else "GlobalMaxPool", x)
    if all(isinstance(d, int) and d % out == 0 for d, out in zip(sizes, op.output_size, strict=True)):
        kernel = [int(str(d)) // out for d, out in zip(sizes, op.output_size, strict=True)]
        return b("AveragePool" if mean else "MaxPool", x, kernel_shape=kernel, strides=kernel)
    for axis, (size, out) in enumerate(zip(sizes, op.output_size, strict=True), 2):
        x = _pooled_axis(b, x, axis, _inside(b, size, out), mean=mean)
    return x


def _inside(b: Build, size: Dim, out: int) -> str:
    """Of `[size, out]`, whether a position lies in a window: from ⌊i·size/out⌋ to before ⌈(i+1)·size/out⌉."""
    window = numpy.arange(out)
    if isinstance(size, int):
        position = numpy.arange(size)[:, None]
        return b.constant((position >= window * size // out) & (position < -(-(window + 1) * size // out)), DType.BOOL)
    length = b.scalar_size(size)
    position = b("Unsqueeze", b("Range", b.constant(0), length, b.constant(1)), b.constant([1]))
    first = b("Div", b("Mul", b.constant(window), length), b.constant(out))
    last = b("Div", b("Add", b("Mul", b.constant(window + 1), length), b.constant(out - 1)), b.constant(out))
    return b("And", b("GreaterOrEqual", position, first), b("Less", position, last))


def _pooled_axis(b: Build, x: str, axis: int, inside: str, *, mean: bool) -> str:
    """The mean or maximum along one axis over the windows that a table gives."""
    dtype, rank = b.result.dtype, b.result.rank
    order = [*(i for i in range(rank) if i != axis), axis]
    x = b("Transpose", x, perm=order)
    if mean:
        weight = b.cast(inside, DType.BOOL, dtype)
        count = b("ReduceSum", weight, b.constant([0]), keepdims=1)
        x = b("MatMul", x, b("Div", weight, count))
    else:
        chosen = b("Where", inside, b("Unsqueeze", x, b.constant([-1])), b.constant(-numpy.inf, dtype))
        x = b("ReduceMax", chosen, b.constant([-2]), keepdims=0)
    return b("Transpose", x, perm=[order.index(i) for i in range(rank)])
