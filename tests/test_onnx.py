"""ONNX files are checked by onnx, run in ONNX Runtime, and compared with PyTorch's float64."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from netc.backends import interchange
from netc.backends.interchange import export, model
from netc.backends.interchange.build import OPSET, RULES
from netc.backends.pytorch.module import module, operation
from netc.compiler.diagnostic import NetcError
from netc.compiler.graph import Graph
from netc.compiler.operators.extern import Extern
from netc.compiler.operators.operator import OPERATORS, SAMPLES, Operator, Sample
from netc.compiler.types import Dim, DType, TensorType, substitute, symbol, symbols
from netc.compiler.weights import values
from strategies import Builder, graphs, type_of

N, T, H, W = map(symbol, "NTHW")


def run(made: onnx.ModelProto | Path, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = str(made) if isinstance(made, Path) else made.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def reference(graph: Graph, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What PyTorch computes in float64."""
    net = module(graph).eval().double()
    given = [torch.from_numpy(a) for a in feeds.values()]
    with torch.no_grad():
        results = net(*(t.double() if t.is_floating_point() else t for t in given))
    results = results if isinstance(results, tuple) else (results,)
    return {name: r.detach().numpy() for name, r in zip(graph.outputs, results, strict=True)}


def numbers(type: TensorType, bind: Mapping[str, int], seed: int = 0) -> np.ndarray:
    shape = [substitute(d, bind) for d in type.shape]
    rng = np.random.default_rng(seed)
    if type.dtype.is_float:
        return rng.standard_normal([int(str(d)) for d in shape]).astype(type.dtype.as_numpy)
    return rng.integers(0, 3, [int(str(d)) for d in shape]).astype(type.dtype.as_numpy)


def assert_same(graph: Graph, feeds: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The checked model of a graph, which computes what PyTorch does."""
    made = model(graph)
    onnx.checker.check_model(made, full_check=True)
    read = {*graph.outputs, *(name for node in made.graph.node for name in node.input)}
    assert all(read.intersection(node.output) for node in made.graph.node)
    found, wanted = run(made, feeds), reference(graph, feeds)
    assert list(found) == list(graph.outputs)
    for name, ref in graph.outputs.items():
        assert found[name].dtype == graph.type(ref).dtype.as_numpy
        assert found[name].shape == wanted[name].shape
        np.testing.assert_allclose(found[name].astype(float), wanted[name].astype(float), rtol=1e-4, atol=1e-5)
    return made


def assert_same_at(graph: Graph, *binds: dict[str, int]) -> onnx.ModelProto:
    """The same for several sizes of its symbols."""
    for seed, bind in enumerate(binds):
        feeds = {path: numbers(node.types[0], bind, seed) for path, node in graph.inputs.items()}
        made = assert_same(graph, feeds)
    return made


def title(value: Any) -> str | None:
    return f"{value.op.name}-{'-'.join(map(str, value.inputs))}" if isinstance(value, Sample) else None


@pytest.mark.parametrize("sample", [s for s in SAMPLES if not RULES.reason(type(s.op))], ids=title)
def test_every_sample(sample: Sample):
    graph = operation(sample.op, [None if text is None else type_of(text) for text in sample.inputs])
    rng = np.random.default_rng(0)
    feeds: dict[str, np.ndarray] = {}
    places = [i for i, text in enumerate(sample.inputs) if text is not None]
    for place, (path, node) in zip(places, graph.inputs.items(), strict=True):
        type = node.types[0]
        shape = [int(str(d)) for d in type.shape]
        low = place in sample.positive
        if type.dtype.is_float:
            drawn = rng.uniform(0.1, 2, shape) if low else rng.standard_normal(shape)
        else:
            drawn = rng.integers(int(low), sample.high.get(place, 2) + int(low), shape)
        feeds[path] = np.asarray(drawn).astype(type.dtype.as_numpy)
    assert_same(graph, feeds)


@pytest.mark.parametrize("op", [o for o in OPERATORS.values() if o.name != "select_phase"], ids=lambda o: o.name)
def test_every_operator_is_translated_expanded_or_declared(op: type[Operator]):
    assert RULES.get(op) or op.derived or RULES.reason(op)


@settings(max_examples=60)
@given(graphs())
def test_random_graphs(graph: Graph):
    free = {name for node in graph.inputs.values() for d in node.types[0].shape for name in symbols(d)}
    assert_same_at(graph, dict.fromkeys(free, 2), dict.fromkeys(free, 3))


# --------------------------------------------------------------------------------------------------- symbolic sizes


def test_a_convolutional_network_of_any_batch_and_size():
    b = Builder()
    x = b.input("x", "f32[N, 3, H, W]")
    x = b("conv2d", x, b.parameter("conv.weight", (8, 3, 3, 3)), b.parameter("conv.bias", (8,)), stride=2, padding=1)
    stats = [b.parameter(f"bn.{n}", (8,), "ones", buffer=n.startswith("running")) for n in ("weight", "bias")]
    stats += [b.parameter(f"bn.{n}", (8,), "ones", buffer=True) for n in ("running_mean", "running_var")]
    x = b("relu", b("batch_norm", x, *stats))
    x = b("max_pool2d", x, kernel_size=3, stride=1, padding=1)
    x = b("mean", x, dim=[2, 3])
    x = b("linear", x, b.parameter("fc.weight", (5, 8)), b.parameter("fc.bias", (5,)))
    made = assert_same_at(b.done(x), {"N": 1, "H": 16, "W": 9}, {"N": 3, "H": 7, "W": 12})
    shape = made.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in shape] == ["N", 3, "H", "W"]


def test_a_transformer_block_of_any_length():
    b = Builder()
    ids = b.input("ids", "i64[N, T]")
    x = b("embedding", ids, b.parameter("wte", (3, 16)))
    positions = b.node("arange", start=T).value
    x = b("add", x, b("embedding", positions, b.parameter("wpe", (9, 16))))
    y = b("layer_norm", x, b.parameter("ln.weight", (16,)), b.parameter("ln.bias", (16,)))
    qkv = b("linear", y, b.parameter("qkv", (48, 16)), None)
    parts = b.node("chunk", qkv, chunks=3, dim=-1).values
    heads = [b("rearrange", p, pattern="n t (h d) -> n h t d", sizes=[["h", 4]]) for p in parts]
    heads[:2] = [b("rotary_embedding", h, None) for h in heads[:2]]
    y = b("scaled_dot_product_attention", *heads, None, is_causal=True)
    y = b("rearrange", y, pattern="n h t d -> n t (h d)")
    x = b("add", x, b("linear", y, b.parameter("proj", (16, 16)), None))
    flat = b("reshape", x, size=(N * T, 16))
    assert_same_at(
        b.done(logits=b("matmul", x, b.parameter("head", (16, 3))), flat=flat), {"N": 2, "T": 5}, {"N": 1, "T": 9}
    )


@pytest.mark.parametrize(
    ("size", "make"),
    [
        (2 * H + 1, lambda b, x: b("arange", start=2 * H + 1)),
        (H * H + 3 * H, lambda b, x: b("arange", start=H * H + 3 * H)),
        ((H + 1) // 2, lambda b, x: b("slice", x, dim=0, step=2)),
        (3, lambda b, x: b("slice", x, dim=0, start=H - 3)),
        (H, lambda b, x: b("expand", b("sum", x, dim=0, keepdim=True), size=(H,))),
        (2 * H, lambda b, x: b("repeat", x, repeats=2)),
        (2 * H, lambda b, x: b("repeat_interleave", x, repeats=2, dim=0)),
        (H, lambda b, x: b("roll", x, shifts=2, dims=0)),
        (H, lambda b, x: b("flip", x, dims=0)),
        (H + 3, lambda b, x: b("pad", x, padding=[[1, 2]])),
        (H + 2, lambda b, x: b("pad", x, padding=[[1, 1]], mode="reflect")),
        (2 * H, lambda b, x: b("concat", x, x, dim=0)),
    ],
)
def test_sizes_are_computed_from_the_inputs(size: Dim, make: Any):
    b = Builder()
    x = b.input("x", "f32[H]")
    graph = b.done(make(b, x))
    assert graph.type(graph.outputs["output"]).shape == (size,)
    assert_same_at(graph, {"H": 5}, {"H": 8})


def test_a_size_as_a_number():
    b = Builder()
    b.input("x", "f32[2*H]")
    made = model(b.done(b("full", size=(2,), value=H)))
    assert run(made, {"x": np.zeros(14, np.float32)})["output"].tolist() == [7, 7]


def test_a_symbol_is_solved_from_an_affine_size():
    b = Builder()
    x = b.input("x", "f32[2*H + 1, 3]")
    assert_same_at(b.done(b("arange", start=H), y=b("neg", x)), {"H": 4}, {"H": 1})


def test_a_symbol_that_no_input_gives():
    b = Builder()
    x = b.input("x", "f32[H*W]")
    with pytest.raises(NetcError, match="the size H cannot be read"):
        model(b.done(b("expand", b("sum", x, keepdim=True), size=(H,)), y=x))


@pytest.mark.parametrize("name", ["adaptive_avg_pool2d", "adaptive_max_pool2d"])
@pytest.mark.parametrize("out", [1, 2, (3, 5)])
def test_adaptive_pooling_of_any_size(name: str, out: Any):
    b = Builder()
    x = b.input("x", "f32[N, 2, H, W]")
    assert_same_at(b.done(b(name, x, output_size=out)), {"N": 1, "H": 7, "W": 5}, {"N": 2, "H": 6, "W": 11})


@pytest.mark.parametrize(
    "make",
    [
        lambda b, x: b("interpolate", x, scale_factor=2.0, mode="bilinear"),
        lambda b, x: b("interpolate", x, scale_factor=0.5),
        lambda b, x: b("interpolate", x, size=(2 * H, W + 1), mode="bicubic", align_corners=True),
        lambda b, x: b("pixel_shuffle", x, upscale_factor=2),
        lambda b, x: b("pixel_unshuffle", b("interpolate", x, scale_factor=2.0), downscale_factor=2),
        lambda b, x: b("unfold", x, kernel_size=3, padding=1, stride=2),
        lambda b, x: b("group_norm", x, None, None, num_groups=2),
        lambda b, x: b("instance_norm", x, None, None),
        lambda b, x: b("var", x, dim=[2, 3]),
        lambda b, x: b("glu", x, dim=1),
        lambda b, x: b("rms_norm", b("permute", x, dims=[0, 2, 3, 1]), None),
    ],
)
def test_images_of_any_size(make: Any):
    b = Builder()
    x = b.input("x", "f32[N, 4, H, W]")
    assert_same_at(b.done(make(b, x)), {"N": 1, "H": 5, "W": 6}, {"N": 2, "H": 8, "W": 7})


@pytest.mark.parametrize("dtype", [DType.F64, DType.F16, DType.BF16])
def test_weights_are_stored_in_their_own_dtype(dtype: DType):
    b = Builder()
    x = b.input("x", f"{dtype.value}[2, 4]")
    x = b("linear", x, b.parameter("w", (3, 4), dtype=dtype), b.parameter("b", (3,), dtype=dtype))
    graph = b.done(b("gelu", x))
    made = model(graph)
    onnx.checker.check_model(made, full_check=True)
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in made.graph.initializer}
    for name, array in values(graph).items():
        assert stored[name].dtype == array.dtype
        assert (stored[name] == array).all()


@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, [[1, 0]]])
@pytest.mark.parametrize("size", range(5, 9))
def test_pooling_rounds_up_as_pytorch(kernel: int, stride: int, padding: Any, size: int):
    b = Builder()
    x = b.input("x", f"f32[1, 2, {size}]")
    window = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": True}
    outputs = {f"avg{i}": b("avg_pool1d", x, count_include_pad=bool(i), **window) for i in range(2)}
    assert_same_at(b.done(max=b("max_pool1d", x, **window), **outputs), {})


@pytest.mark.parametrize("include", [True, False])
def test_pooling_of_any_size_rounds_up(include: bool):
    b = Builder()
    x = b.input("x", "f32[N, 2, H]")
    window = {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}
    y = b("avg_pool1d", x, count_include_pad=include, **window)
    assert_same_at(b.done(b("max_pool1d", x, **window), y=y), {"N": 1, "H": 6}, {"N": 1, "H": 7}, {"N": 2, "H": 8})


@pytest.mark.parametrize("dtype", ["i64", "i32", "f32"])
def test_whole_number_division_of_negative_numbers(dtype: str):
    b = Builder()
    x, y = b.input("x", f"{dtype}[6]"), b.input("y", f"{dtype}[6]")
    graph = b.done(b("remainder", x, y), q=b("floor_divide", x, y))
    pairs = np.array([[7, 3], [-7, 3], [7, -3], [-7, -3], [6, -3], [-6, 3]]).T.astype(DType(dtype).as_numpy)
    assert_same(graph, {"x": pairs[0].copy(), "y": pairs[1].copy()})


@pytest.mark.parametrize("name", ["lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_networks_agree_with_pytorchs_own(name: str, bidirectional: bool):
    theirs = getattr(torch.nn, name.upper())(5, 4, 2, batch_first=True, bidirectional=bidirectional)
    b = Builder()
    x = b.input("x", "f32[N, T, 5]")
    weights = [b.parameter(n, tuple(w.shape)) for n, w in theirs.named_parameters()]
    absent = [None] * (2 if name == "lstm" else 1)
    node = b.node(name, x, *absent, *weights, hidden_size=4, num_layers=2, bidirectional=bidirectional)
    graph = b.done(*node.values)
    with torch.no_grad():
        for parameter, own in zip(theirs.parameters(), values(graph).values(), strict=True):
            parameter.copy_(torch.from_numpy(own))
        given = torch.randn(3, 6, 5)
        output, states = theirs(given)
    wanted = [output, *(states if name == "lstm" else [states])]
    for found, expected in zip(run(model(graph), {"x": given.numpy()}).values(), wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------- what is done before a model runs


def kinds(made: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in made.graph.node]


@pytest.mark.parametrize(
    ("size", "written"),
    [
        ((N, T, 2, 3), [0, 0, 2, 3]),
        ((N, T * 6), [0, -1]),
        ((N * T, 6), [-1, 6]),
        ((N, 3, T, 2), [0, 3, -1, 2]),
        ((6, T, N), [6, 0, -1]),
    ],
)
def test_sizes_that_the_value_has_are_not_computed(size: tuple[Dim, ...], written: list[int]):
    b = Builder()
    x = b.input("x", "f32[N, T, 6]")
    made = assert_same_at(b.done(b("reshape", x, size=size)), {"N": 2, "T": 3}, {"N": 1, "T": 5})
    assert kinds(made) == ["Reshape"]
    assert onnx.numpy_helper.to_array(made.graph.initializer[0]).tolist() == written


def test_sizes_that_must_be_computed_are_computed_once():
    b = Builder()
    x = b.input("x", "f32[N, T, 6]")
    parts = [b("reshape", b(op, x), size=(T, N, 6)) for op in ("neg", "exp")]
    made = assert_same_at(b.done(*parts), {"N": 2, "T": 3}, {"N": 1, "T": 5})
    assert sorted(kinds(made)) == ["Concat", "Exp", "Neg", "Reshape", "Reshape", "Shape", "Shape"]


def test_weights_are_stored_as_they_are_read():
    b = Builder()
    x = b.input("x", "f32[N, T, 4]")
    x = b("linear", x, b.parameter("w", (3, 4)), None, path="fc")
    x = b("prelu", b("permute", x, dims=[0, 2, 1]), b.parameter("slope", (3,)))
    made = assert_same_at(b.done(x), {"N": 2, "T": 3})
    assert kinds(made) == ["MatMul", "Transpose", "PRelu"]
    stored = {i.name: tuple(i.dims) for i in made.graph.initializer}
    assert stored == {"fc/Transpose": (4, 3), "prelu/Unsqueeze": (3, 1)}


def test_axes_are_exchanged_once():
    b = Builder()
    x = b.input("x", "f32[2, 3, 4]")
    y = b("permute", x, dims=[1, 2, 0])
    made = assert_same(
        b.done(z=b("permute", y, dims=[1, 2, 0])), {"x": np.random.default_rng(0).random((2, 3, 4), "f4")}
    )
    assert [(n.op_type, list(n.input)) for n in made.graph.node] == [("Transpose", ["x"])]


@pytest.mark.parametrize("kept", [False, True])
def test_axes_that_are_exchanged_back(kept: bool):
    b = Builder()
    x = b.input("x", "f32[2, 3, 4]")
    y = b("permute", b("permute", x, dims=[1, 2, 0]), dims=[2, 0, 1])
    z = b("neg", y)
    graph = b.done(z, y=y) if kept else b.done(z)
    made = assert_same(graph, {"x": np.random.default_rng(0).random((2, 3, 4), "f4")})
    assert kinds(made) == (["Transpose", "Neg"] if kept else ["Neg"])


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_weights_of_recurrent_networks_are_stored_in_onnxs_order(name: str):
    gates = 4 if name == "lstm" else 3
    b = Builder()
    x = b.input("x", "f32[N, T, 5]")
    shapes = [(gates * 64, 5), (gates * 64, 64), (gates * 64,), (gates * 64,)]
    weights = [b.parameter(f"w{i}", shape) for i, shape in enumerate(shapes)]
    node = b.node(name, x, *[None] * (gates - 2), *weights, hidden_size=64)
    made = assert_same_at(b.done(node.value), {"N": 2, "T": 3})
    assert kinds(made) == ["Transpose", name.upper(), "Transpose", "Reshape"]
    assert len(made.graph.initializer) == 4


def test_a_weight_that_is_read_twice_is_stored_once():
    b = Builder()
    ids = b.input("ids", "i64[N, T]")
    table = b.parameter("table", (50, 16))
    made = assert_same_at(b.done(b("linear", b("embedding", ids, table), table, None)), {"N": 2, "T": 3})
    assert kinds(made) == ["Gather", "Transpose", "MatMul"]
    assert [i.name for i in made.graph.initializer] == ["table"]


def test_a_weight_of_several_layers_is_stored_as_they_read_it():
    b = Builder()
    x = b.input("x", "f32[N, T, 32]")
    tied = b.parameter("tied", (32, 32))
    made = assert_same_at(b.done(b("linear", b("linear", x, tied, None), tied, None)), {"N": 2, "T": 3})
    assert kinds(made) == ["MatMul", "MatMul"]
    assert len(made.graph.initializer) == 1


def test_masks_of_attention_are_computed_once():
    def attention(depth: int) -> int:
        b = Builder()
        x = b.input("x", "f32[N, 2, T, 4]")
        for _ in range(depth):
            x = b("scaled_dot_product_attention", x, x, x, None, is_causal=True)
        return len(kinds(assert_same_at(b.done(x), {"N": 2, "T": 3})))

    one, two, three = map(attention, (1, 2, 3))
    assert two - one == three - two < one


# --------------------------------------------------------------------------------------------------- the file itself


def small() -> Graph:
    b = Builder("tiny")
    x = b.input("x", "f32[N, 4]")
    tied = b.parameter("block.fc.weight", (4, 4))
    x = b("linear", b("linear", x, tied, None, path="block.fc"), tied, None, path="block.again")
    return b.done(y=b.node("relu", x, path="act").value)


def test_names_are_paths_and_tied_weights_are_stored_once():
    made = model(small())
    assert [n.name for n in made.graph.node] == ["block.fc", "block.again", "act"]
    assert [n.output[0] for n in made.graph.node] == ["block.fc", "block.again", "y"]
    assert [i.name for i in made.graph.initializer] == ["block.fc.weight"]
    assert (onnx.numpy_helper.to_array(made.graph.initializer[0]) == values(small())["block.fc.weight"]).all()
    assert {v.name for v in made.graph.value_info} == {"block.fc", "block.again"}
    assert (made.graph.name, made.opset_import[0].version) == ("tiny", OPSET)


def test_the_seed_fills_parameters_without_data():
    arrays = [onnx.numpy_helper.to_array(model(small(), seed).graph.initializer[0]) for seed in (0, 0, 1)]
    assert (arrays[0] == arrays[1]).all()
    assert (arrays[0] != arrays[2]).any()


def test_any_value_can_be_an_output():
    b = Builder()
    x = b.input("x", "f32[2, 3]")
    p = b.parameter("p", (3,))
    y = b("add", x, p)
    c = b("constant", value=2.5, dtype="f32")
    same = b("identity", y)
    made = assert_same_at(b.done(a=y, b=y, x2=x, p=p, c=c, same=same), {})
    assert len({o.name for o in made.graph.output}) == 6


def test_names_that_clash_are_told_apart():
    b = Builder()
    x = b.input("x", "f32[2]")
    y = b.node("relu", x, path="y").value
    z = b.node("neg", y, path="z").value
    assert_same_at(b.done(z=y, y=z), {})


def test_only_the_inference_phase_is_written():
    b = Builder()
    x = b.input("x", "f32[2, 3]")
    train = b.node("linear", x, b.parameter("auxiliary", (3, 3)), None, phase="train").value
    y = b("select_phase", train, b("dropout", x, p=0.5))
    made = model(b.done(b("relu", y)))
    assert [n.op_type for n in made.graph.node] == ["Relu"]
    assert not made.graph.initializer


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path):
    for name in ("a", "b"):
        assert export(small(), tmp_path / f"{name}.onnx") == [tmp_path / f"{name}.onnx"]
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_large_weights_go_to_a_file_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(interchange, "EXTERNAL", 2000)
    b = Builder()
    x = b.input("x", "f32[2, 32]")
    graph = b.done(b("linear", x, b.parameter("w", (32, 32)), None))
    path = tmp_path / "m.onnx"
    assert export(graph, path) == [path, tmp_path / "m.onnx.data"]
    assert path.stat().st_size < 2000
    feeds = {"x": numbers(TensorType(DType.F32, (2, 32)), {})}
    np.testing.assert_allclose(run(path, feeds)["output"], reference(graph, feeds)["output"], rtol=1e-4, atol=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]


def test_nothing_is_left_of_a_failed_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "m.onnx"
    path.write_text("before")

    def fail(*_: Any, **__: Any) -> None:
        raise onnx.checker.ValidationError("no")

    monkeypatch.setattr(onnx.checker, "check_model", fail)
    with pytest.raises(onnx.checker.ValidationError):
        export(small(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert path.read_text() == "before"


def test_a_folder_that_does_not_exist(tmp_path: Path):
    with pytest.raises(NetcError, match="cannot be written"):
        export(small(), tmp_path / "missing" / "m.onnx")


def test_a_users_function_is_refused_with_the_reason():
    b = Builder()
    x = b.input("x", "f32[2]")
    node = b.edit.add("mine", Extern("swish", (TensorType(DType.F32, (2,)),)), x)
    with pytest.raises(NetcError, match="ONNX files hold no code"):
        model(b.done(node.value))


def test_slices_along_several_axes_are_one():
    b = Builder()
    x = b.input("x", "f32[N, 3, 8, 9]")
    cut = x
    for dim, (start, stop, step) in {1: (0, 2, 1), 2: (1, 7, 2), 3: (2, 9, 3)}.items():
        cut = b("slice", cut, dim=dim, start=start, stop=stop, step=step)
    twice = b("slice", cut, dim=2, start=1, stop=3, step=1)
    graph = b.done(twice)
    made = model(graph)
    assert [n.op_type for n in made.graph.node] == ["Slice", "Slice"], "one axis twice is not one slice"
    array = np.random.default_rng(0).normal(size=(2, 3, 8, 9)).astype("float32")
    (found,) = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": array})
    np.testing.assert_array_equal(found, array[:, 0:2, 1:7:2, 2:9:3][:, :, 1:3])
