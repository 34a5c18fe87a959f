"""Convolutions and linear layers, of integers as they are kept where both sides are (quantized.py)."""

from __future__ import annotations

from typing import Any

from ....compiler.operators import convolution, linear
from ..lower import Inputs, Lowering, Types, rules
from ..tensor import Tensor
from . import quantized
from .convolution import convolve
from .linear import linear as multiply


@rules(convolution.Conv1d, convolution.Conv2d, convolution.Conv3d)
def _convolution(low: Lowering, node: convolution.Convolution, inputs: Inputs, types: Types) -> Tensor:
    x, weight, bias = inputs
    around: dict[str, Any] = {
        "stride": node.stride,
        "padding": node.padding,
        "dilation": node.dilation,
        "groups": node.groups,
    }
    made = quantized.convolution(low, x, weight, bias, types[0], **around)
    return convolve(low, x, weight, bias, types[0], **around) if made is None else made


@rules(linear.Linear)
def _linear(low: Lowering, node: linear.Linear, inputs: Inputs, types: Types) -> Tensor:
    x, weight, bias = inputs
    made = quantized.product(low, x, weight, bias, types[0])
    return multiply(low, x, weight, bias, types[0]) if made is None else made
