"""Integers that stand for fractions: the operators, the transform, what backends make of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from netc.backends import interchange, pytorch
from netc.backends.relax.artifact import kept
from netc.backends.relax.build import Built, build, compile, prepare
from netc.backends.relax.choice import Analytic
from netc.backends.relax.dot import BYTES, has
from netc.backends.relax.lower import lower
from netc.backends.relax.machine import host, machine
from netc.backends.relax.tuning.task import Source as Cut
from netc.backends.relax.tuning.task import tasks
from netc.backends.relax.untyped import tvm
from netc.compiler import program
from netc.compiler import tree as t
from netc.compiler.axes import analyse
from netc.compiler.calibration import Calibration, Noise
from netc.compiler.calibration import Source as Data
from netc.compiler.contract import Contract
from netc.compiler.fusion.group import Group
from netc.compiler.fusion.work import Work
from netc.compiler.graph import Graph, Node, ParameterRef, Value, verify
from netc.compiler.library import level_steps, library
from netc.compiler.operators.operator import ShapeError
from netc.compiler.operators.quantization import Dequantize, Quantize
from netc.compiler.passes.widen import widen
from netc.compiler.pipeline import run
from netc.compiler.probe import bound, probed
from netc.compiler.receipt import receipt
from netc.compiler.source import Source
from netc.compiler.syntax import parse
from netc.compiler.target import LLVM
from netc.compiler.text import print_graph, read_graph
from netc.compiler.transforms import Outcome, Refusal
from netc.compiler.transforms.quantize import quantize
from netc.compiler.types import DType
from netc.compiler.weights import InMemory, value
from strategies import Builder, type_of

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


# ------------------------------------------------------------------------------------------------------- transform

REDUCED = Path(__file__).parent / "reduced"


class Held(Data):
    """Examples that are at hand."""

    array: Any

    def read(self, node: Node, folder: Any, count: int) -> np.ndarray:
        return self.array[:count]


def drawn(name: str, model: str) -> Graph:
    """A small model of the specifications with numbers that hide nothing."""
    return probed(program.read(REDUCED / f"{name}.net", root=REDUCED.parents[1]).model(model).graph)


NOISE = Calibration("noise", Noise())


def rounded(graph: Graph, **options: Any) -> Outcome:
    made = quantize(graph, NOISE, 8, **options)
    verify(made.graph)
    return made


def kinds(graph: Graph) -> Counter[str]:
    return Counter(node.op.name for node in graph.nodes.values())


def example(graph: Graph) -> dict[str, np.ndarray]:
    return {name: a[:1] for name, a in NOISE.inputs(graph, 1).items()}


MODELS = [("resnet", "resnet18"), ("resnet", "resnet50"), ("mobilenet_v2", "mobilenet_v2")]


@pytest.mark.parametrize(("name", "model"), MODELS)
def test_every_layer_reads_integers(name: str, model: str) -> None:
    graph = rounded(drawn(name, model)).graph
    layers = [n for n in graph.nodes.values() if n.op.name in ("conv2d", "linear")]
    assert layers
    for node in layers:
        assert all(isinstance(r, Value) and graph.nodes[r.node].op.name == "dequantize" for r in node.refs)
    assert "batch_norm" not in kinds(graph)
    assert {p.type.dtype for p in graph.parameters.values()} == {DType.I8, DType.I32, DType.F32}


@pytest.mark.parametrize(("name", "model"), MODELS)
def test_onnx_runtime_computes_it_in_integers(name: str, model: str, tmp_path: Path) -> None:
    graph = rounded(drawn(name, model)).graph
    feeds = example(graph)
    graph = bound(graph, {"N": 1})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    session = onnxruntime.InferenceSession(
        interchange.model(graph).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = np.asarray(session.run(None, feeds)[0])
    (wanted,) = pytorch.run(graph, feeds).values()
    assert np.abs(found - wanted).max() <= 0.06 * np.abs(wanted).max()  # a sum on the edge rounds either way
    operators = Counter(n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert operators["QLinearConv"] == kinds(graph)["conv2d"]
    assert "Conv" not in operators
    assert operators["QLinearAdd"] == kinds(graph)["add"]


def test_what_is_lost_is_small_and_said() -> None:
    graph = drawn("resnet", "resnet18")
    made = rounded(graph)
    assert made.contract == Contract("alters")
    assert "on 8 examples logits differs by" in made.notes[-1]
    feeds = NOISE.inputs(graph, 8)
    before, after = (next(iter(pytorch.run(g, feeds).values())) for g in (graph, made.graph))
    gap = np.abs(after - before).max() / np.abs(before).max()
    assert 0 < gap < 0.1


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_scales_are_those_of_the_examples(method: str) -> None:
    """Of normal numbers, mse and percentiles cut the tails off; an outlier moves the whole range of minmax alone."""
    rng = np.random.default_rng(0)
    graph = read(LINEAR).with_parameters(
        [replace(read(LINEAR).parameters["w"], data=InMemory(np.eye(4, dtype="float32")))]
    )
    array = rng.standard_normal((4096, 4)).astype("float32")
    array[0, 0] = 40.0
    made = quantize(graph, Calibration("held", Held(array=array)), 4096, method=method, percentile=99.9).graph
    scale = next(n.op.value for p, n in made.nodes.items() if p == "x.scale")
    low, high = array.min(), array.max()
    whole = (high - low) / 255
    if method == "minmax":
        np.testing.assert_allclose(scale, whole, rtol=1e-6)
    elif method == "percentile":
        assert 5.5 / 255 < scale < 8 / 255
    else:
        assert 0.25 * whole < scale < whole


LINEAR = """\
graph one {
    input %x: f32[N, 4]

    param @w: f32[4, 4] = fan_in_uniform

    %y: f32[N, 4] = linear(%x, @w)

    return %y
}
"""


def test_a_bias_is_never_beyond_its_integers() -> None:
    text = LINEAR.replace("    %y", "    param @b: f32[4] = zeros\n\n    %y").replace("@w)", "@w, bias = @b)")
    graph = read(text)
    numbers = {"w": np.diag([0, 1e-12, 1, 1]).astype("float32"), "b": np.array([5.0, 5.0, -3.0, 0.0], "float32")}
    graph = graph.with_parameters([replace(graph.parameters[k], data=InMemory(v)) for k, v in numbers.items()])
    made = rounded(graph).graph
    x = np.zeros((1, 4), "float32")
    (found,) = pytorch.run(bound(made, {"N": 1}), {"x": x}).values()
    np.testing.assert_allclose(found[0], numbers["b"], rtol=1e-3)


@pytest.mark.parametrize("operator", ["linear", "conv2d", "in groups"])
def test_biases_make_up_for_what_rounding_weights_moves(operator: str) -> None:
    rng, b = np.random.default_rng(0), Builder()
    shape = {"linear": (8, 16), "conv2d": (8, 16, 3, 3), "in groups": (8, 4, 3, 3)}[operator]
    x = b.input("x", "f32[N, 16]" if operator == "linear" else "f32[N, 16, 5, 5]")
    w, bias = b.parameter("w", shape), b.parameter("b", (8,))
    groups = {"groups": 4} if operator == "in groups" else {}
    graph = b.done(b(operator if not groups else "conv2d", x, w, bias, **groups))
    numbers = {"w": rng.standard_normal(shape), "b": rng.standard_normal(8)}
    graph = graph.with_parameters(
        [replace(graph.parameters[k], data=InMemory(v.astype("float32"))) for k, v in numbers.items()]
    )
    feeds = {"x": rng.uniform(3, 5, (64, *graph.nodes["x"].types[0].shape[1:])).astype("float32")}  # type: ignore[misc]
    data = Calibration("held", Held(array=feeds["x"]))
    (wanted,) = pytorch.run(bound(graph, {"N": 64}), feeds).values()
    off: list[float] = []
    for correct in (False, True):
        made = quantize(graph, data, 64, method="minmax", correct=correct).graph
        (found,) = pytorch.run(bound(made, {"N": 64}), feeds).values()
        channels = (0,) if found.ndim == 2 else (0, 2, 3)
        off.append(float(np.abs((found - wanted).mean(channels)).max()))
    assert off[1] < off[0] / 3


def test_a_signed_scale_for_the_whole_weight() -> None:
    made = rounded(drawn("resnet", "resnet18"), activations="i8", per_channel=False).graph
    assert {n.types[0].dtype for n in made.nodes.values() if n.op.name == "quantize"} == {DType.I8}
    scales = value(made.parameters["conv1.scale"])
    assert len(set(scales.tolist())) == 1


def test_layers_can_be_kept() -> None:
    made = rounded(drawn("resnet", "resnet18"), keep=["conv1", "fc"]).graph
    assert made.parameters["fc.weight"].type.dtype is DType.F32
    assert isinstance(made.nodes["fc"].inputs[1], ParameterRef)


def test_sums_that_norms_read_stay_fractions() -> None:
    made = rounded(drawn("vit", "deit_tiny")).graph
    for node in made.nodes.values():
        if node.op.name == "add":
            assert not any(isinstance(r, Value) and made.nodes[r.node].op.name == "dequantize" for r in node.refs)


def test_optimising_it_again_leaves_the_integers() -> None:
    graph = rounded(drawn("mobilenet_v2", "mobilenet_v2")).graph
    again = run(graph, level_steps(2)).final
    assert kinds(again)["quantize"] == kinds(graph)["quantize"]
    assert {k: p.type for k, p in again.parameters.items()} == {k: p.type for k, p in graph.parameters.items()}


def test_too_large_a_difference_is_refused() -> None:
    with pytest.raises(Refusal, match=r"differs by .* and 1e-06 is accepted") as caught:
        rounded(drawn("resnet", "resnet18"), tolerance=1e-6)
    assert caught.value.option == "tolerance"


def test_a_model_without_layers_is_refused() -> None:
    graph = read("graph none {\n    input %x: f32[N, 4]\n\n    %y: f32[N, 4] = relu(%x)\n\n    return %y\n}\n")
    with pytest.raises(Refusal, match="no convolution or linear layer"):
        rounded(graph)


def test_it_stands_in_a_file_and_has_a_receipt() -> None:
    text = (
        "module Net() (x: [N, D]) { return x |> linear(8) as a |> relu |> linear(3) as b }\n"
        "model net = Net() (x: f32[N, 4])\n"
        "data calib = noise(samples = 512, seed = 3)\n"
        "model small = net |> quantize(calib, method = minmax)\n"
    )
    model = program.read_source(Source("small.net", text)).model("small")
    assert kinds(model.graph)["quantize"] == 2
    (applied,) = model.applied
    found = receipt(applied)
    assert found.measured is not None
    assert 0 < found.measured.relative < 0.1
    assert {"a.weight", "b.weight"} <= set(found.changed)


# ------------------------------------------------------------------------------------------------------ processors

HERE = host(threads=1)

LAYERS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "surrounded": ("conv2d", "u8[2, 8, 9, 11]", "i8[24, 8, 3, 3]", {"padding": 1}),
    "of colours": ("conv2d", "u8[2, 3, 13, 13]", "i8[16, 3, 5, 5]", {"stride": 2, "padding": ((1, 2), (2, 2))}),
    "alone": ("conv2d", "u8[1, 16, 7, 7]", "i8[20, 16, 1, 1]", {}),
    "spread": ("conv2d", "u8[1, 4, 9, 9]", "i8[16, 4, 3, 3]", {"dilation": 2}),
    "in groups": ("conv2d", "u8[1, 16, 6, 6]", "i8[32, 8, 3, 3]", {"groups": 2, "padding": 1}),
    "in odd groups": ("conv2d", "u8[1, 6, 6, 6]", "i8[10, 3, 3, 3]", {"groups": 2}),
    "by channel": ("conv2d", "u8[2, 32, 9, 9]", "i8[32, 1, 3, 3]", {"groups": 32, "padding": 1}),
    "by odd channel": ("conv2d", "u8[1, 5, 9, 9]", "i8[5, 1, 3, 3]", {"groups": 5, "stride": 2}),
    "signed": ("conv2d", "i8[1, 8, 6, 6]", "i8[16, 8, 3, 3]", {"padding": 1}),
    "signed by channel": ("conv2d", "i8[1, 16, 6, 6]", "i8[16, 1, 3, 3]", {"groups": 16, "padding": 1}),
    "on a line": ("conv1d", "u8[1, 4, 12]", "i8[16, 4, 3]", {"padding": 1}),
    "in space": ("conv3d", "u8[1, 4, 5, 5, 5]", "i8[16, 4, 2, 2, 2]", {}),
    "a product": ("linear", "u8[5, 24]", "i8[33, 24]", {}),
    "a product of rows": ("linear", "u8[2, 7, 16]", "i8[48, 16]", {}),
    "a signed product": ("linear", "i8[3, 16]", "i8[16, 16]", {}),
    "an odd product": ("linear", "u8[3, 10]", "i8[16, 10]", {}),
}
ZEROS = {"u8": 131, "i8": -20}


def layers(names: Sequence[str], *, bias: bool = True, per_channel: bool = True) -> tuple[Graph, dict[str, np.ndarray]]:
    """Layers of integers, whose results are fractions, and their inputs: none of which lies between two integers."""
    b, rng = Builder(), np.random.default_rng(0)
    results: list[Value] = []
    feeds: dict[str, np.ndarray] = {}
    numbers: dict[str, np.ndarray] = {}

    def parameter(path: str, array: np.ndarray) -> ParameterRef:
        numbers[path] = array
        dtype = {"int8": DType.I8, "int32": DType.I32, "float32": DType.F32}[str(array.dtype)]
        return b.parameter(path, array.shape, "given", dtype=dtype, buffer=True)

    for i, name in enumerate(names):
        operator, x, weight, attributes = LAYERS[name]
        kind, size = type_of(x), [int(str(d)) for d in type_of(weight).shape]
        dtype, step = kind.dtype.value, 0.03 + i / 512
        least = 0 if dtype == "u8" else -128
        whole = rng.integers(least, least + 256, [int(str(d)) for d in kind.shape])
        feeds[f"x{i}"] = ((whole - ZEROS[dtype]) * step).astype("float32")
        scale = b("constant", value=step, dtype="f32")
        zero = b("constant", value=ZEROS[dtype], dtype=dtype)
        q = b("quantize", b.input(f"x{i}", x.replace(dtype, "f32", 1)), scale, zero, dtype=dtype)
        w = parameter(f"w{i}", rng.integers(-127, 128, size).astype("int8"))
        s = parameter(f"s{i}", rng.uniform(0.001, 0.002, size[:1] if per_channel else ()).astype("float32"))
        given = [b("dequantize", q, scale, zero), b("dequantize", w, s, None, axis=0 if per_channel else None)]
        third = None
        if bias:
            integers = parameter(f"b{i}", rng.integers(-2000, 2000, size[:1]).astype("int32"))
            steps = parameter(f"t{i}", rng.uniform(0.001, 0.002, size[:1]).astype("float32"))
            third = b("dequantize", integers, steps, None, axis=0)
        results.append(b(operator, *given, third, **attributes))
    graph = b.done(*results)
    return graph.with_parameters([replace(graph.parameters[k], data=InMemory(v)) for k, v in numbers.items()]), feeds


def executed(graph: Graph, feeds: dict[str, np.ndarray], built: Built) -> list[np.ndarray]:
    call = tvm.runtime.vm.VirtualMachine(built.executable, tvm.cpu())["main"]
    found = call(*(kept(feeds[name]) for name in graph.inputs), *map(kept, built.constants.values()))
    return [array.numpy() for array in found]


def assert_means_the_same(graph: Graph, feeds: dict[str, np.ndarray], built: Built) -> None:
    wanted = pytorch.run(widen(graph), {name: x.astype("float64") for name, x in feeds.items()})
    for ours, theirs in zip(executed(graph, feeds, built), wanted.values(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * np.abs(theirs).max())


def assert_agrees(graph: Graph, built: Built) -> None:
    """A model to a few steps of its integers: a sum on the edge rounds either way."""
    feeds = example(graph)
    (found,) = executed(graph, feeds, built)
    (wanted,) = pytorch.run(graph, feeds).values()
    assert np.abs(found - wanted).max() <= 0.06 * np.abs(wanted).max()


def assembly(built: Built) -> str:
    return str(built.executable.mod.imports[0].inspect_source("asm"))


@pytest.mark.parametrize("plain", [False, True])
def test_layers_of_integers_mean_what_pytorch_says(plain: bool) -> None:
    graph, feeds = layers(list(LAYERS), bias=not plain, per_channel=not plain)
    built = build(prepare(graph, {}), HERE)
    assert "generic" not in built.report.counts
    assert_means_the_same(graph, feeds, built)


def test_a_processor_without_the_instruction_decodes_what_it_reads() -> None:
    graph, feeds = layers([name for name in LAYERS if "by" not in name])
    older = machine(LLVM(cpu="haswell", threads=1))
    assert not has(BYTES, older)
    built = build(prepare(graph, {}), older)
    assert "vpdpbusd" not in assembly(built)
    if older.native:
        assert_means_the_same(graph, feeds, built)


@pytest.mark.skipif(not has(BYTES, HERE), reason="vpdpbusd: this processor has no VNNI")
@pytest.mark.parametrize("name", ["surrounded", "of colours", "alone", "in groups", "signed", "a product"])
def test_four_products_are_one_instruction_and_sums_stay_in_registers(name: str) -> None:
    text = assembly(build(prepare(layers([name])[0], {}), HERE))
    words = [line.split()[0] for line in text.splitlines() if line.startswith("\t") and not line.startswith("\t.")]
    at = [i for i, word in enumerate(words) if word == "vpdpbusd"]
    assert at
    between = [words[i] for a, b in pairwise(at) if b - a < 8 for i in range(a + 1, b)]
    stores = sum(word.startswith("vmovdqu") for word in between)
    assert stores < len(at) / 2


@pytest.mark.parametrize(("name", "model"), MODELS)
def test_compiled_models_agree_to_a_few_steps(name: str, model: str) -> None:
    graph = bound(rounded(drawn(name, model)).graph, {"N": 1})
    built = build(prepare(graph, {}), HERE)
    assert_agrees(graph, built)
    # A kernel for each layer and pool with all that follows it, and one for the input.
    assert len(built.groups) == sum(kinds(graph)[k] for k in ("conv2d", "linear", "max_pool2d", "mean")) + 1


def test_an_artifact_is_held_to_pytorch_and_small(tmp_path: Path) -> None:
    before = bound(drawn("resnet", "resnet18"), {"N": 1})
    graph = rounded(before).graph
    artifact = compile(graph, LLVM(threads=1), tmp_path / "artifact", reference=pytorch.Reference(graph))
    assert artifact is not None
    assert artifact.manifest["difference"]["relative"] < 0.06
    held = sum(math.prod(map(int, p.type.shape)) * p.type.dtype.bytes for p in graph.parameters.values())  # type: ignore[arg-type]
    stored = (tmp_path / "artifact" / "constants.safetensors").stat().st_size
    whole = sum(math.prod(map(int, p.type.shape)) * 4 for p in before.parameters.values())  # type: ignore[arg-type]
    assert held < whole / 3
    if has(BYTES, HERE):
        assert stored < whole / 2


@pytest.mark.parametrize("whole", [False, True])
def test_kernels_are_the_groups(whole: bool) -> None:
    """Each working node alone, or each with those after it that read nothing else."""
    graph = bound(rounded(drawn("resnet", "resnet18")).graph, {"N": 1})
    prepared = prepare(graph, {})
    work = Work(prepared)
    groups: list[list[str]] = []
    for path, node in work.nodes.items():
        begins = node.op.name in ("conv2d", "linear", "max_pool2d", "mean", "dequantize") or not groups
        if whole and not begins and work.before[path] == (groups[-1][-1],):
            groups[-1].append(path)
        else:
            groups.append([path])
    built = build(prepared, HERE, groups=[Group(g[-1], tuple(g)) for g in groups])  # where the promise is held
    assert_agrees(graph, built)


def test_images_of_any_size_and_number() -> None:
    b, rng = Builder(), np.random.default_rng(0)
    scale, zero = b("constant", value=0.05, dtype="f32"), b("constant", value=100, dtype="u8")
    q = b("quantize", b.input("x", "f32[N, 8, H, W]"), scale, zero, dtype="u8")
    w = b.parameter("w", (16, 8, 3, 3), "given", dtype=DType.I8, buffer=True)
    s = b.parameter("s", (16,), "given", buffer=True)
    y = b("conv2d", b("dequantize", q, scale, zero), b("dequantize", w, s, None, axis=0), None, padding=1)
    numbers = {
        "w": rng.integers(-127, 128, (16, 8, 3, 3)).astype("int8"),
        "s": rng.uniform(0.001, 0.002, 16).astype("float32"),
    }
    graph = b.done(y)
    graph = graph.with_parameters([replace(graph.parameters[k], data=InMemory(v)) for k, v in numbers.items()])
    built = build(prepare(graph, {}), HERE)
    for n, height, width in ((1, 5, 7), (3, 12, 20)):
        x = ((rng.integers(0, 256, (n, 8, height, width)) - 100) * 0.05).astype("float32")
        assert_means_the_same(bound(graph, {"N": n, "H": height, "W": width}), {"x": x}, built)


def test_layers_of_integers_are_tuned() -> None:
    """The kernel that the tuner cuts out of a model asks what it asks there."""
    graph = prepare(bound(rounded(drawn("resnet", "resnet18")).graph, {"N": 1}), {})
    found = tasks([Cut(graph, None)], HERE, Analytic())
    assert any("u8" in t.question.key for t in found) == has(BYTES, HERE)
    for task in found:
        assert task.question in [a.question for a in lower(task.graph, HERE, task.groups).asked]
