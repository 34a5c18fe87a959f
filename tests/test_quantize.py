"""Integers that stand for fractions: the operators, the transform, what backends make of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from netc.backends import interchange, pytorch
from netc.compiler import tree as t
from netc.compiler.axes import analyse
from netc.compiler.graph import Graph, ParameterRef, Value, verify
from netc.compiler.library import library
from netc.compiler.operators.operator import ShapeError
from netc.compiler.operators.quantization import Dequantize, Quantize
from netc.compiler.source import Source
from netc.compiler.syntax import parse
from netc.compiler.text import print_graph, read_graph
from netc.compiler.types import DType
from netc.compiler.weights import InMemory
from strategies import type_of

# ------------------------------------------------------------------------------------------------------- operators

BY_HAND = """\
graph by_hand {
    input %x: f32[2, 3, 5, 5]

    param @w: i8[4, 3, 3, 3] = given
    param @s: f32[4] = given

    %scale: f32[] = constant(value = 0.05, dtype = f32)
    %zero: u8[] = constant(value = 120, dtype = u8)
    %q: u8[2, 3, 5, 5] = quantize(%x, %scale, zero_point = %zero)
    %d: f32[2, 3, 5, 5] = dequantize(%q, %scale, zero_point = %zero)
    %v: f32[4, 3, 3, 3] = dequantize(@w, @s, axis = 0)
    %y: f32[2, 4, 3, 3] = conv2d(%d, %v)

    return %y
}
"""


def read(text: str) -> Graph:
    declaration = parse(Source("test", text)).declarations[0]
    assert isinstance(declaration, t.GraphText)
    return read_graph(declaration)


def by_hand() -> Graph:
    rng = np.random.default_rng(0)
    data = {
        "w": rng.integers(-127, 128, (4, 3, 3, 3)).astype("int8"),
        "s": rng.uniform(0.01, 0.02, 4).astype("float32"),
    }
    graph = read(BY_HAND)
    return graph.with_parameters([replace(graph.parameters[k], data=InMemory(v)) for k, v in data.items()])


def onnx_run(graph: Graph, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    made = interchange.model(graph).SerializeToString()
    session = onnxruntime.InferenceSession(made, options, providers=["CPUExecutionProvider"])
    return [np.asarray(a) for a in session.run(None, feeds)]


def test_halves_go_to_even_numbers_and_the_rest_to_the_ends() -> None:
    x = np.array([-9.0, -0.5, 0.5, 1.5, 2.5, 200.0, 1e9], "float32")
    u8, scale = np.uint8(1), np.float32(1)
    (found,) = pytorch.evaluate(Quantize(), [x, scale, u8])
    assert found.tolist() == [0, 1, 1, 3, 3, 201, 255]
    (found,) = pytorch.evaluate(Quantize(dtype=DType.I8), [x, scale, None])
    assert found.tolist() == [-9, 0, 0, 2, 2, 127, 127]


def test_a_graph_of_integers_is_text_and_comes_back() -> None:
    graph = by_hand()
    verify(graph)
    assert print_graph(read(print_graph(graph))) == print_graph(graph)


def test_integers_stay_integers_where_constants_are_folded() -> None:
    graph = library()["fold_constants"].run(by_hand())
    assert graph.parameters["w"].type == type_of("i8[4, 3, 3, 3]")
    assert graph.nodes["v"].op == Dequantize(0)


def test_onnx_runtime_and_pytorch_agree_on_integers() -> None:
    graph = by_hand()
    x = np.random.default_rng(1).standard_normal((2, 3, 5, 5)).astype("float32")
    (wanted,) = pytorch.run(graph, {"x": x}).values()
    (found,) = onnx_run(graph, {"x": x})
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_the_scale_of_each_channel_goes_with_it() -> None:
    found = analyse(by_hand())
    scale, weight, result = ((ParameterRef("s"), 0), (ParameterRef("w"), 0), (Value("y"), 1))
    assert found.tied(scale, weight)
    assert found.tied(scale, result)


@pytest.mark.parametrize(
    ("op", "types", "message", "fix"),
    [
        (Quantize(), ["f32[2, 3]", "f32[3]", None], "the scale of quantize is one number, not f32[3]", "axis = 1"),
        (Quantize(0), ["f32[2, 3]", "f32[2]", "u8[]"],
         "the zero point of quantize is 2 numbers, one for each index of axis 0 of f32[2, 3], not u8[]", None),
        (Quantize(dtype=DType.I32), ["f32[2]", "f32[]", None], "quantize gives u8, i8 or i16, not i32", "dtype = u8"),
        (Quantize(), ["f32[2]", "f32[]", "i8[]"], "quantize has a zero point of i8, and integers of u8",
         "cast(zero_point, u8)"),
        (Quantize(), ["f64[2]", "f32[]", None], "quantize divides f64[2] by a scale of f32", "cast(scale, f64)"),
        (Quantize(), ["i64[2]", "f32[]", None], "quantize needs floating-point numbers, not i64[2]",
         "cast(x, f32) makes them so"),
        (Dequantize(), ["f32[2]", "f32[]", None], "dequantize takes u8, i8, i16 or i32, not f32[2]", None),
        (Dequantize(), ["u8[2]", "i64[]", None], "a scale is a fraction, not i64[]", None),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(op: Quantize, types: list[str | None], message: str, fix: str | None) -> None:
    with pytest.raises(ShapeError) as caught:
        op.shape(*(None if s is None else type_of(s) for s in types))
    assert (caught.value.message, caught.value.fix) == (message, fix)
