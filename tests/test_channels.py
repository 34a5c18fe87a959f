"""Depthwise convolution and pooling: windows at borders, tiles that do not fit, channels of any number."""

from __future__ import annotations

from typing import Any

import pytest
from netc.compiler.graph import Graph
from strategies import Builder
from test_relax import assert_same


def windowed(operator: str, shape: tuple[Any, ...], **attributes: Any) -> Graph:
    """An operator between others that are channels last, as it is inside a network."""
    n, height, width, channels = shape
    b = Builder("windowed")
    x = b("permute", b.input("x", f"f32[{n}, {height}, {width}, {channels}]"), dims=[0, 3, 1, 2])
    if operator == "conv2d":
        size = attributes.pop("kernel_size")
        taps: tuple[int, int] = size if isinstance(size, tuple) else (size, size)
        weight = b.parameter("weight", (channels, 1, *taps), "normal", 0.0, 0.3)
        x = b(operator, x, weight, b.parameter("bias", (channels,)), groups=channels, **attributes)
        x = b("relu6", x)
    else:
        x = b(operator, x, kernel_size=attributes.pop("kernel_size"), **attributes)
    return b.done(b("permute", x, dims=[0, 2, 3, 1]))


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((1, 14, 14, 32), {"kernel_size": 3, "padding": 1}),
        ((2, 29, 31, 48), {"kernel_size": 5, "padding": 2}),
        ((1, 17, 19, 24), {"kernel_size": 3, "padding": 1, "stride": 2}),
        ((3, 7, 7, 64), {"kernel_size": 7, "padding": 3}),
        ((1, 30, 9, 37), {"kernel_size": 3, "padding": 2, "dilation": 2}),
        ((1, 12, 20, 16), {"kernel_size": (3, 5), "padding": ((0, 2), (3, 1)), "stride": (2, 1)}),
        ((1, 11, 13, 3), {"kernel_size": 3}),
        ((2, 5, 5, 16), {"kernel_size": 5, "padding": 4}),
        ((1, 3, 3, 16), {"kernel_size": 5, "padding": 4, "dilation": 2}),
    ],
    ids=str,
)
def test_depthwise_convolution_without_a_padded_copy(shape: tuple[Any, ...], attributes: dict[str, Any]):
    built = assert_same(windowed("conv2d", shape, **attributes), {})
    assert set(built.report.rules.values()) == {"channels"}


@pytest.mark.parametrize("operator", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((1, 23, 25, 32), {"kernel_size": 3, "stride": 2, "padding": 1}),
        ((2, 15, 9, 20), {"kernel_size": 2, "stride": 2, "ceil_mode": True}),
        ((1, 9, 9, 5), {"kernel_size": 3, "stride": 1}),
    ],
    ids=str,
)
def test_pooling_without_a_padded_copy(operator: str, shape: tuple[Any, ...], attributes: dict[str, Any]):
    built = assert_same(windowed(operator, shape, **attributes), {})
    assert "channels" in built.report.rules.values()


def test_any_batch_of_images_goes_without_the_copy_and_any_size_does_not():
    graph = windowed("conv2d", ("N", 10, 12, 32), kernel_size=3, padding=1)
    assert set(assert_same(graph, {"N": 1}, {"N": 3}).report.rules.values()) == {"channels"}
    graph = windowed("conv2d", (1, "H", "W", 32), kernel_size=3, padding=1)
    assert set(assert_same(graph, {"H": 5, "W": 7}, {"H": 16, "W": 9}).report.rules.values()) == {"tile"}
