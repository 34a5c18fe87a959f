"""TVM: every operator against the standard of tests/oracle.py, symbolic sizes, schedules, artifacts, targets."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from hypothesis import given, settings
from netc.backends.pytorch import module
from netc.backends.relax import Artifact, compile
from netc.backends.relax import build as building
from netc.backends.relax.artifact import evaluate, kept, restored
from netc.backends.relax.build import Built, build, prepare
from netc.backends.relax.kernels import numeric
from netc.backends.relax.lower import Lowering, rules
from netc.backends.relax.machine import host, machine
from netc.backends.relax.optimise import generate, optimise
from netc.backends.relax.tensor import regroup
from netc.compiler.diagnostic import NetcError
from netc.compiler.graph import Graph, Input
from netc.compiler.library import library
from netc.compiler.operators.extern import Extern
from netc.compiler.operators.operator import OPERATORS, SAMPLES, Operator, Sample, ShapeError
from netc.compiler.passes.bind import bind
from netc.compiler.target import CUDA, LLVM
from netc.compiler.types import Dim, DType, TensorType, substitute, symbol, symbols
from oracle import DTYPES as ORACLE_DTYPES
from oracle import call, doubled, draw, type_of_tensor
from strategies import Builder, graphs, type_of
from tvm.runtime.vm import VirtualMachine

HERE = host(threads=1)


def execute(built: Built, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Run what was compiled in memory."""
    given = [kept(a) for a in inputs]
    constants = [tvm.runtime.tensor(c) for c in built.constants.values()]
    results = VirtualMachine(built.executable, tvm.cpu())["main"](*given, *constants)
    return {
        name: restored(r, type.dtype) for r, (name, type) in zip(results, built.lowered.outputs.items(), strict=True)
    }


def reference(graph: Graph, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """What PyTorch computes in float64."""
    net = module(graph).double()
    with torch.no_grad():
        results = net(*(torch.from_numpy(a).double() if a.dtype.kind == "f" else torch.from_numpy(a) for a in inputs))
    results = results if isinstance(results, tuple) else (results,)
    return {name: r.double().numpy() for name, r in zip(graph.outputs, results, strict=True)}


def drawn(graph: Graph, sizes: Mapping[str, int] | None = None, seed: int = 0) -> list[np.ndarray]:
    """Inputs for a graph; its symbols are `sizes`, 3 where nothing is said."""
    rng = np.random.default_rng(seed)
    arrays: list[np.ndarray] = []
    for node in graph.inputs.values():
        free = {s: (sizes or {}).get(s, 3) for d in node.types[0].shape for s in symbols(d)}
        type = node.types[0].substitute(free)
        shape = [int(str(d)) for d in type.shape]
        floats = type.dtype.is_float
        arrays.append((rng.standard_normal(shape) if floats else rng.integers(0, 3, shape)).astype(type.dtype.as_numpy))
    return arrays


def assert_close(found: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-5) -> None:
    wanted = wanted.astype(float)
    scale = max(1.0, float(np.abs(wanted).max(initial=0)))
    np.testing.assert_allclose(found.astype(float).reshape(wanted.shape), wanted, rtol=0, atol=tolerance * scale)


def assert_same(graph: Graph, *sizes: dict[str, int], tolerance: float = 1e-5) -> Built:
    """Compile a graph once, run it at several sizes, and hold it to PyTorch."""
    built = build(prepare(graph, {}), HERE)
    assert not built.report.failures
    assert "generic" not in built.report.counts
    for size in sizes or ({},):
        inputs = drawn(graph, size)
        found, wanted = execute(built, inputs), reference(graph, inputs)
        for name, array in wanted.items():
            assert_close(found[name], array, tolerance)
    return built


# ----------------------------------------------------------------------------------------------- every operator
# A thousand kernels in three compilations take seconds, one compilation for each sample minutes.


def symbolic(sample: Sample, types: Sequence[TensorType | None], axes: Callable[[int, int], bool]) -> Any:
    """A sample's types with the chosen axes as symbols, and the operator for them; None where a shape rule refuses."""
    made = [
        t and TensorType(t.dtype, tuple(symbol(f"D{d}") if axes(i, a) and d > 1 else d for a, d in enumerate(t.shape)))
        for i, t in enumerate(types)
    ]
    try:
        op = sample.op.canonical(*made)
        outputs = op.shape(*made)
    except ShapeError:
        return None
    bare = {str(d) for t in made if t for d in t.shape}
    free = {s for t in (*made, *outputs) if t for d in t.shape for s in symbols(d)}
    return (op, made) if free and free <= bare else None


def sampled(choose: Callable[[Sample, Sequence[TensorType | None]], Any]) -> tuple[Graph, list[np.ndarray], set[int]]:
    """One graph of all samples, each with its own inputs, outputs and symbols."""
    edit = Graph("samples").edit()
    inputs: list[np.ndarray] = []
    taken: set[int] = set()
    for number, sample in enumerate(SAMPLES):
        tensors = draw(sample)
        chosen = choose(sample, [None if x is None else type_of_tensor(x) for x in tensors])
        if chosen is None:
            continue
        own = {f"D{n}": symbol(f"S{number}D{n}") for n in range(2, 100)}
        op, types = chosen
        renamed = [t and t.substitute(own) for t in types]
        refs = [None if t is None else edit.add(f"s{number}.in{i}", Input(t)).value for i, t in enumerate(renamed)]
        node = edit.add(f"s{number}", _renamed(op, own).canonical(*renamed), *refs)
        inputs.extend(x.numpy() for x in tensors if x is not None)
        for i, value in enumerate(node.values):
            edit.output(f"{number}:{i}", value)
        taken.add(number)
    return edit.done(), inputs, taken


def _renamed(op: Operator, own: Mapping[str, Dim]) -> Operator:
    def renamed(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(renamed, value))
        return value if isinstance(value, (str, bool, float)) or value is None else substitute(value, own)

    return replace(op, **{k: renamed(v) for k, v in op.attributes().items()})  # type: ignore[type-var]


def _static(sample: Sample, types: Sequence[TensorType | None]) -> Any:
    return sample.op.canonical(*types), types


def _batch(sample: Sample, types: Sequence[TensorType | None]) -> Any:
    return symbolic(sample, types, lambda operand, axis: axis == 0 and operand == 0)


_WEIGHTED = ("conv", "linear", "group_norm", "lstm", "gru", "scaled_dot_product")


def _everything(sample: Sample, types: Sequence[TensorType | None]) -> Any:
    """All axes, but for weights and head sizes, which code is made for."""
    if sample.op.name.startswith(_WEIGHTED):
        return symbolic(sample, types, lambda operand, axis: operand == 0 and axis != 1 and axis < 3)
    return symbolic(sample, types, lambda operand, axis: True)


CHOICES = {"static": _static, "batch": _batch, "everything": _everything}
_RESULTS: dict[str, tuple[Built, dict[str, np.ndarray], set[int]]] = {}


def results(choice: str) -> tuple[Built, dict[str, np.ndarray], set[int]]:
    if choice not in _RESULTS:
        graph, inputs, taken = sampled(CHOICES[choice])
        built = build(prepare(graph, {}), HERE)
        _RESULTS[choice] = built, execute(built, inputs), taken
    return _RESULTS[choice]


@pytest.mark.parametrize("choice", CHOICES)
def test_operators_mean_what_pytorch_says(choice: str):
    _, found, taken = results(choice)
    assert len(taken) > (len(SAMPLES) - 1 if choice == "static" else len(SAMPLES) // 2)
    wrong: list[str] = []
    for number in taken:
        sample = SAMPLES[number]
        for i, wanted in enumerate(call(sample.op, *doubled(draw(sample)))):
            try:
                assert_close(found[f"{number}:{i}"], wanted.numpy())
            except AssertionError as error:
                wrong.append(f"{sample.op} of {sample.inputs}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_kernel_has_a_schedule_made_for_it(choice: str):
    report = results(choice)[0].report
    assert report.rules.keys() >= {"conv2d"} or len(report.rules) > 100
    assert report.counts.keys() <= {"injective", "tile", "channels", "rows", "own"}
    assert report.failures == {}


FLOATS = {DType.F64: 1e-14, DType.F16: 2**-10, DType.BF16: 2**-7}
"""Floating types besides float32, and the distance from 1 to the next number."""

FIRST = {sample.op.name: number for number, sample in reversed(list(enumerate(SAMPLES)))}
"""The first sample of every operator."""


def in_dtype(sample: Sample, dtype: DType) -> tuple[Operator, list[torch.Tensor | None]]:
    """A sample with `dtype` where it has float32."""
    made = getattr(sample.op, "dtype", None) is DType.F32
    op = replace(sample.op, dtype=dtype) if made else sample.op  # type: ignore[call-arg]
    return op, [x.to(ORACLE_DTYPES[dtype]) if x is not None and x.is_floating_point() else x for x in draw(sample)]


def as_numpy(x: torch.Tensor) -> np.ndarray:
    return x.float().numpy().astype(DType.BF16.as_numpy) if x.dtype is torch.bfloat16 else x.numpy()


def assert_all_mean_the_same(numbers: Sequence[int], dtype: DType) -> None:
    """Hold samples to PyTorch's results in float64, rounded: within 2 units of the last place of each element.

    What is rounded on the way too, the states between layers of a recurrence, is held to one unit of the largest.
    """
    edit = Graph("samples").edit()
    inputs: list[np.ndarray] = []
    wanted: dict[str, tuple[Operator, torch.Tensor, DType]] = {}
    for number in numbers:
        op, tensors = in_dtype(SAMPLES[number], dtype)
        types = [None if x is None else type_of_tensor(x) for x in tensors]
        op = op.canonical(*types)
        refs = [None if t is None else edit.add(f"s{number}.in{i}", Input(t)).value for i, t in enumerate(types)]
        node = edit.add(f"s{number}", op, *refs)
        inputs.extend(as_numpy(x) for x in tensors if x is not None)
        for i, (value, meant) in enumerate(zip(node.values, call(op, *doubled(tensors)), strict=True)):
            edit.output(f"{number}:{i}", value)
            wanted[f"{number}:{i}"] = op, meant, node.types[i].dtype
    built = build(prepare(edit.done(), {}), HERE)
    assert built.report.failures == {}
    found = execute(built, inputs)
    wrong: list[str] = []
    for name, (op, meant, kind) in wanted.items():
        assert found[name].dtype == kind.as_numpy
        right = meant.double().numpy()
        error = np.abs(found[name].astype(np.float64).reshape(right.shape) - right)
        unit = 2**-23 if kind is DType.F32 else FLOATS.get(kind, 0.0)  # f32: what integers are turned into
        largest = float(np.abs(right).max(initial=0))
        allowed = 2 * unit * np.abs(right) + (unit * largest if op.name in ("lstm", "gru") or kind is DType.F64 else 0)
        allowed += 2 * float(np.finfo(np.float16).smallest_subnormal) if kind is DType.F16 else 0
        if not (error <= allowed).all():
            wrong.append(f"{op} gives {found[name]}, not {right}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("dtype", FLOATS)
def test_operators_mean_the_same_in_other_floating_types(dtype: DType):
    assert_all_mean_the_same(list(FIRST.values()), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FLOATS)
def test_all_samples_mean_the_same_in_other_floating_types(dtype: DType):
    assert_all_mean_the_same([n for n in range(len(SAMPLES)) if n not in FIRST.values()], dtype)


@pytest.mark.parametrize("op", [o for o in OPERATORS.values() if o.name != "select_phase"], ids=lambda o: o.name)
def test_every_operator_has_a_rule_an_expansion_or_a_reason(op: type[Operator]):
    assert rules.get(op) or op.derived or rules.reason(op)


def assert_same_at_all_sizes(graph: Graph) -> None:
    free = {s for node in graph.inputs.values() for d in node.types[0].shape for s in symbols(d)}
    assert_same(graph, dict.fromkeys(free, 2), dict.fromkeys(free, 5), tolerance=1e-4)


@settings(max_examples=15, derandomize=True)
@given(graphs(training=False))
def test_random_graphs(graph: Graph):
    assert_same_at_all_sizes(graph)


@pytest.mark.slow
@settings(max_examples=80, derandomize=True)
@given(graphs(size=30))
def test_many_random_graphs(graph: Graph):
    assert_same_at_all_sizes(graph)


# ---------------------------------------------------------------------------------------------------- whole networks


def residual(b: Builder, x: Any, channels: int, stride: int, name: str) -> Any:
    def normed(x: Any, path: str) -> Any:
        names = [("weight", "uniform", 0.5, 1.5), ("bias", "normal", 0.0, 0.1)]
        affine = [b.parameter(f"{path}.{n}", (channels,), k, *a) for n, k, *a in names]
        stats = [
            b.parameter(f"{path}.running_mean", (channels,), "normal", 0.0, 0.1, buffer=True),
            b.parameter(f"{path}.running_var", (channels,), "uniform", 0.5, 1.5, buffer=True),
        ]
        return b("batch_norm", x, *affine, *stats, path=path)

    def conv(x: Any, size: int, stride: int, path: str) -> Any:
        inner = b.edit.type(x).shape[1]
        weight = b.parameter(f"{path}.weight", (channels, inner, size, size), "kaiming_normal")
        return b("conv2d", x, weight, None, stride=stride, padding=size // 2, path=path)

    y = b("relu", normed(conv(x, 3, stride, f"{name}.conv1"), f"{name}.bn1"))
    y = normed(conv(y, 3, 1, f"{name}.conv2"), f"{name}.bn2")
    if stride != 1 or b.edit.type(x).shape[1] != channels:
        x = normed(conv(x, 1, stride, f"{name}.skip"), f"{name}.skip.bn")
    return b("relu", b("add", y, x))


def small_resnet(input: str = "f32[N, 3, 32, 32]") -> Graph:
    b = Builder("small_resnet")
    x = b.input("x", input)
    x = residual(b, x, 16, 1, "layer1")
    x = b("max_pool2d", x, kernel_size=3, stride=2, padding=1)
    x = residual(b, x, 24, 2, "layer2")
    x = b("mean", x, dim=[2, 3])
    x = b("linear", x, b.parameter("fc.weight", (10, 24), "fan_in_uniform"), b.parameter("fc.bias", (10,)), path="fc")
    return b.done(logits=x)


def test_a_residual_network_of_any_batch_and_size():
    graph = library()["fold"].run(small_resnet("f32[N, 3, H, W]"))
    built = assert_same(graph, {"N": 1, "H": 32, "W": 20}, {"N": 3, "H": 9, "W": 33})
    kernels = built.report.rules
    assert kernels["mean"] == "tile"
    assert any(name.startswith("fused_conv") and "add" in name and "relu" in name for name in kernels)
    # Batch norms are in the weights: nothing but convolutions, pooling, the mean and the classifier is left.
    assert not any("norm" in name for name in kernels)


def transformer(length: str = "T") -> Graph:
    b = Builder("transformer")
    tokens = b.input("tokens", f"i64[N, {length}]")
    table = b.parameter("embed.weight", (11, 24))
    x = b("embedding", tokens, table)
    t = b.edit.type(tokens).shape[1]
    where = b("slice", b.parameter("positions", (40, 24)), dim=0, start=0, stop=t)
    x = b("add", x, where)
    n = b("layer_norm", x, b.parameter("norm.weight", (24,), "ones"), b.parameter("norm.bias", (24,)))
    qkv = b("linear", n, b.parameter("qkv.weight", (72, 24), "fan_in_uniform"), b.parameter("qkv.bias", (72,)))
    parts = b.node("split", qkv, sizes=24, dim=2).values
    q, k, v = (b("rearrange", p, pattern="b t (h d) -> b h t d", sizes={"h": 3}) for p in parts)
    q, k = b("rotary_embedding", q, None), b("rotary_embedding", k, None)
    y = b("scaled_dot_product_attention", q, k, v, None, is_causal=True)
    y = b("rearrange", y, pattern="b h t d -> b t (h d)")
    x = b("add", x, b("linear", y, b.parameter("proj.weight", (24, 24), "fan_in_uniform"), None))
    h = b("gelu", b("linear", x, b.parameter("up.weight", (48, 24), "fan_in_uniform"), b.parameter("up.bias", (48,))))
    x = b("add", x, b("linear", h, b.parameter("down.weight", (24, 48), "fan_in_uniform"), None))
    return b.done(logits=b("linear", x, table, None))


def test_a_transformer_of_any_batch_and_length_with_a_tied_head():
    built = assert_same(transformer(), {"N": 1, "T": 1}, {"N": 2, "T": 7}, {"N": 3, "T": 33})
    # Queries, keys and values are read where the projection left them, and heads written where the next one reads.
    assert not any(name.startswith(("copy", "slice", "split", "permute")) for name in built.report.rules)


def test_a_recurrent_tagger_of_any_batch_and_length():
    b = Builder("tagger")
    x = b.input("x", "f32[N, T, 6]")
    gates = 4 * 20
    weights = []
    for suffix in ("", "_reverse"):
        weights += [b.parameter(f"weight_ih{suffix}", (gates, 6)), b.parameter(f"weight_hh{suffix}", (gates, 20))]
        weights += [b.parameter(f"bias_ih{suffix}", (gates,)), b.parameter(f"bias_hh{suffix}", (gates,))]
    node = b.node("lstm", x, None, None, *weights, hidden_size=20, bidirectional=True)
    y = b("linear", node.values[0], b.parameter("fc.weight", (5, 40)), b.parameter("fc.bias", (5,)))
    assert_same(b.done(y, h=node.values[1], c=node.values[2]), {"N": 1, "T": 1}, {"N": 6, "T": 11})


def test_weight_expressions_are_computed_at_compile_time():
    b = Builder("lora")
    x = b.input("x", "f32[N, 8]")
    low = b("matmul", b.parameter("b", (16, 2)), b.parameter("a", (2, 8)))
    weight = b("add", b.parameter("weight", (16, 8)), low)
    built = assert_same(b.done(b("linear", x, weight, None)), {"N": 3})
    assert list(built.report.rules) == ["linear"]
    assert len(built.constants) == 1


@pytest.mark.parametrize(("dtype", "tolerance"), [("f64", 1e-12), ("f16", 2e-3), ("bf16", 2e-2)])
def test_half_precision_accumulates_in_single(dtype: str, tolerance: float):
    """4,096 products of one sign: summed in f16 or bf16 they would stop growing long before the end."""
    b = Builder("long")
    kind = DType(dtype)
    x = b.input("x", f"{dtype}[2, 4096]")
    weight = b.parameter("weight", (8, 4096), "uniform", 0.0, 1.0, dtype=kind)
    y = b("linear", b("abs", x), weight, None)
    image = b("reshape", b("abs", x), size=[2, 64, 8, 8])
    kernel = b.parameter("kernel", (4, 64, 3, 3), "uniform", 0.0, 1.0, dtype=kind)
    graph = b.done(y, conv=b("conv2d", image, kernel, None, padding=1), total=b("sum", b("abs", x), dim=[1]))
    built = build(prepare(graph, {}), HERE)
    inputs = drawn(graph)
    exact = [a.astype(np.float64) for a in inputs]
    wide = Graph(graph.name, graph.nodes, graph.outputs, graph.parameters)
    net = module(wide).double()
    with torch.no_grad():
        wanted = net(*map(torch.from_numpy, exact))
    for found, right in zip(execute(built, inputs).values(), wanted, strict=True):
        np.testing.assert_allclose(found.astype(np.float64), right.numpy(), rtol=tolerance)


# ------------------------------------------------------------------------------------------------------------ kernels


@pytest.mark.parametrize(
    ("name", "low", "high", "most"),
    [("exp", -100, 88, 3e-7), ("sigmoid", -80, 80, 5e-7), ("tanh", -12, 12, 5e-7), ("erf", -6, 6, 1e-6)],
)
def test_polynomials_are_as_exact_as_they_say(name: str, low: float, high: float, most: float):
    points = np.concatenate([np.linspace(low, high, 200_001), np.geomspace(1e-30, 1, 1000)]).astype(np.float32)
    found = mapped(getattr(numeric, name), points)
    x = torch.from_numpy(points).double()
    wanted = getattr(torch, name)(x).numpy()
    error = np.abs(found - wanted) / np.maximum(np.abs(wanted), np.finfo(np.float32).tiny)
    assert error.max() < most


def test_the_exponential_at_its_ends():
    points = np.array([0, -0.0, 89, 1000, np.inf, -200, -np.inf, np.nan, -103], np.float32)
    found = mapped(numeric.exp, points)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(found, np.exp(points), rtol=1e-6, atol=2e-45)


ODD = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1, -1, 2.5, -2.5, 7, -7, 100, -100, 1e30, -1e30, -0.3], np.float32)
"""Numbers at which formulas that are equal on paper differ, and what is no number."""

UNARY = [
    "neg",
    "abs",
    "exp",
    "log",
    "sqrt",
    "rsqrt",
    "sin",
    "cos",
    "erf",
    "floor",
    "ceil",
    "round",
    "sign",
    "reciprocal",
    "square",
    "relu",
    "relu6",
    "elu",
    "selu",
    "silu",
    "hardswish",
    "hardsigmoid",
    "sigmoid",
    "tanh",
    "softplus",
    "mish",
]
BINARY = [
    "add",
    "sub",
    "mul",
    "div",
    "pow",
    "maximum",
    "minimum",
    "remainder",
    "floor_divide",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
]
ALONG = ["max", "min", "sum", "mean", "argmax", "argmin", "softmax", "log_softmax", "cumsum"]


def test_odd_numbers_mean_what_pytorch_says():
    b = Builder()
    x, y = b.input("x", f"f32[{len(ODD)}, {len(ODD)}]"), b.input("y", f"f32[{len(ODD)}, {len(ODD)}]")
    image = b("reshape", x, size=[1, 1, len(ODD), len(ODD)])
    nodes = [
        *(b.node(name, x) for name in UNARY),
        b.node("gelu", b("clip", x, max=1e30), approximate="tanh"),
        b.node("clip", x, min=-1.0, max=1.0),
        b.node("cast", x, dtype=DType.BOOL),
        *(b.node(name, x, y) for name in BINARY),
        *(b.node(name, x, x) for name in ("eq", "ne", "le", "ge")),  # a NaN does not equal itself
        *(b.node(name, v, dim=d) for name in ALONG for v in (x, y) for d in (0, 1)),
        b.node("max_pool2d", image, kernel_size=3, stride=2, padding=1),
        b.node("adaptive_max_pool2d", image, output_size=3),
        *(b.node("topk", v, k=3, dim=d, largest=m) for v in (x, y) for d in (0, 1) for m in (True, False)),
    ]
    graph = b.done(**{f"{n.path}.0": n.value for n in nodes})
    built = build(prepare(graph, {}), HERE)
    assert "generic" not in built.report.counts
    inputs = [np.ascontiguousarray(a) for a in np.meshgrid(ODD, ODD)]
    found = execute(built, inputs)
    tensors = dict(zip((x, y), map(torch.from_numpy, inputs), strict=True))
    tensors[image] = tensors[x].reshape(1, 1, *tensors[x].shape)
    for node in nodes:
        given = [tensors[i] if i in tensors else tensors[x].clamp(max=1e30) for i in node.inputs]
        wanted = call(node.op, *given)[0].numpy()
        np.testing.assert_allclose(found[f"{node.path}.0"], wanted, rtol=2e-6, atol=1e-6, err_msg=str(node))


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
def test_half_precision_is_rounded_as_pytorch_does(dtype: DType):
    """To the nearest, of two the even one; to infinity beyond the largest; NaN stays NaN."""
    rng = np.random.default_rng(0)
    bits = np.concatenate([rng.integers(0, 2**32, 50_000), np.arange(0x7F7F0000, 0x7F800010), np.arange(0x10000) << 15])
    points = bits.astype(np.uint32).view(np.float32)
    b = Builder()
    y = b("cast", b.input("x", f"f32[{len(points)}]"), dtype=dtype)
    graph = b.done(y=y, back=b("cast", y, dtype=DType.F32))
    found = execute(build(prepare(graph, {}), HERE), [points])
    wanted = torch.from_numpy(points).to(ORACLE_DTYPES[dtype]).float().numpy()
    np.testing.assert_array_equal(found["y"].astype(np.float32), wanted)
    np.testing.assert_array_equal(found["back"], wanted)


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
def test_odd_numbers_in_half_precision(dtype: DType):
    b = Builder()
    kind = f"{dtype.value}[{len(ODD)}, {len(ODD)}]"
    x, y = b.input("x", kind), b.input("y", kind)
    names = [n for n in (*UNARY, *BINARY) if n not in ("sin", "cos")]
    nodes = [b.node(n, *((x,) if n in UNARY else (x, y))) for n in names]
    graph = b.done(**{n.op.name: n.value for n in nodes})
    given = [torch.from_numpy(a).to(ORACLE_DTYPES[dtype]) for a in np.meshgrid(ODD, ODD)]
    found = execute(build(prepare(graph, {}), HERE), [as_numpy(g) for g in given])
    for node in nodes:
        (exact,) = call(node.op, *(g.float() for g in given[: len(node.inputs)]))
        wanted = exact.to(ORACLE_DTYPES[dtype]).float() if exact.is_floating_point() else exact
        np.testing.assert_allclose(
            found[node.op.name].astype(np.float32), wanted.numpy(), rtol=2 * FLOATS[dtype], atol=1e-7, err_msg=str(node)
        )


def test_an_artifact_in_bf16(tmp_path: Path):
    b = Builder("narrow")
    x = b.input("x", "bf16[N, 8]")
    y = b("linear", b("relu", x), b.parameter("weight", (4, 8), "fan_in_uniform", dtype=DType.BF16), None)
    graph = b.done(y=y)
    made = compile(graph, LLVM(threads=1), tmp_path / "a", bind={})
    assert made is not None
    (given,) = drawn(graph, {"N": 3})
    found = made(x=given)["y"]
    assert found.dtype == DType.BF16.as_numpy
    with torch.no_grad():
        wanted = module(graph)(torch.from_numpy(given.astype(np.float32)).bfloat16()).float().numpy()
    np.testing.assert_allclose(found.astype(np.float32), wanted, rtol=2**-6, atol=2**-9)


def test_booleans_are_compared():
    b = Builder()
    x, y = b.input("x", "bool[4]"), b.input("y", "bool[4]")
    names = ["eq", "ne", "lt", "le", "gt", "ge"]
    graph = b.done(**{name: b(name, x, y) for name in names})
    inputs = [np.array([False, False, True, True]), np.array([False, True, False, True])]
    found = execute(build(prepare(graph, {}), HERE), inputs)
    for name in names:
        np.testing.assert_array_equal(found[name], getattr(torch, name)(*map(torch.from_numpy, inputs)))


@pytest.mark.parametrize("span", [5, 16])
@pytest.mark.parametrize("hidden", [-np.inf, float(np.finfo(np.float32).min), -1e4, False], ids=str)
def test_queries_that_see_nothing(hidden: float | bool, span: int):
    """A row of -inf or False gives zeros; one of large numbers the mean of the values, padding not among them."""
    b = Builder()
    kind = "bool" if hidden is False else "f32"
    types = [f"f32[2, 2, {n}, 8]" for n in (4, span, span)] + [f"{kind}[2, 1, 4, {span}]"]
    given = [b.input(n, t) for n, t in zip(("q", "k", "v", "mask"), types, strict=True)]
    node = b.node("scaled_dot_product_attention", *given)
    graph = b.done(node.value)
    *inputs, _ = drawn(graph)
    mask = np.full((2, 1, 4, span), hidden is False, bool if hidden is False else np.float32)
    mask[:, :, 1] = hidden
    mask[0, :, :, 2:] = hidden
    inputs.append(mask)
    (found,) = execute(build(prepare(graph, {}), HERE), inputs).values()
    (wanted,) = call(node.op, *map(torch.from_numpy, inputs))
    assert_close(found, wanted.numpy())


def mapped(function: Callable[[Any], Any], points: np.ndarray) -> np.ndarray:
    """A kernel's scalar function applied to an array."""
    low = Lowering(HERE)
    type = TensorType(DType.F32, points.shape)
    y = low.elementwise("f", [low.input("x", type)], type, function)
    module, _ = optimise(low.main.module([y.expr]), HERE)
    (made,) = VirtualMachine(generate(module, HERE), tvm.cpu())["main"](tvm.runtime.tensor(points))
    return made.numpy()


@pytest.mark.parametrize(
    ("shape", "order", "target", "wanted"),
    [
        ((2, 6, 4), (0, 1, 2), (2, 2, 3, 4), (0, 1, 2, 3)),
        ((2, 5, 3, 4), (0, 2, 3, 1), (2, 5, 12), (0, 2, 1)),  # an image's pixels, channels last
        ((2, 3, 5, 4), (0, 2, 1, 3), (2, 15, 4), None),  # heads and positions lie crosswise
        ((2, 5, 1, 1), (0, 2, 3, 1), (2, 5), (0, 1)),
        ((6,), (0,), (2, 3, 1), (0, 1, 2)),
        ((2, 6), (1, 0), (2, 2, 3), (1, 2, 0)),
        ((4, 6), (0, 1), (6, 4), (0, 1)),
        ((4, 6), (1, 0), (6, 4), None),
    ],
)
def test_reshapes_that_move_nothing_are_found(shape: Any, order: Any, target: Any, wanted: Any):
    assert regroup(shape, order, target) == wanted
    if wanted is not None:  # stored in that order, the elements are where they were
        whole = np.arange(math.prod(shape)).reshape(shape)
        stored = whole.transpose(order)
        assert (stored.reshape([target[a] for a in wanted]) == whole.reshape(target).transpose(wanted)).all()


def test_a_schedule_that_fails_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch):
    from netc.backends.relax import schedule
    from tvm.s_tir import ScheduleError

    def broken(*_: Any) -> bool:
        raise ScheduleError("Error message: out of order")

    for rule in ("tile", "pieces"):  # which tiles each piece
        monkeypatch.setitem(schedule.RULES, rule, broken)
    graph = small_resnet("f32[1, 3, 8, 8]")
    built = build(prepare(graph, {}), HERE)
    assert "tile" not in built.report.counts
    assert built.report.rules["linear"] == "generic"
    assert built.report.failures["linear"] == "tile: out of order"
    inputs = drawn(graph)
    assert_close(execute(built, inputs)["logits"], reference(graph, inputs)["logits"])


def twice(x: Any, factor: float) -> Any:
    """A user's own function for TVM."""
    from tvm import te, tirx

    return te.compute(x.shape, lambda *i: x(*i) * tirx.const(factor, x.dtype), name="twice")


def extern(b: Builder, place: str, result: str = "f32[N, 3]") -> Graph:
    x = b.input("x", "f32[N, 3]")
    op = Extern("mine", (type_of(result),), (("factor", 2.5),), (("tvm", place),) if place else ())
    return b.done(b("relu", b.edit.add("mine", op, x).value))


def test_a_users_own_function():
    graph = extern(Builder(), f"{__name__}:twice")
    sys.modules.setdefault(__name__, sys.modules[twice.__module__])
    (x,) = drawn(graph)
    (found,) = execute(build(prepare(graph, {}), HERE), [x]).values()
    np.testing.assert_array_equal(found, np.maximum(x * np.float32(2.5), 0))


@pytest.mark.parametrize(
    ("place", "result", "message"),
    [
        ("", "f32[N, 3]", "mine at %mine names no function for TVM"),
        ("no_such:function", "f32[N, 3]", "cannot be found at no_such:function"),
        (f"{__name__}:twice", "f32[N, 4]", "is declared to give f32[N, 4], but gives float32[N, 3]"),
        (f"{__name__}:twice", "bf16[N, 3]", "mine at %mine takes or gives bf16, of which TVM computes wrong numbers"),
    ],
)
def test_a_users_own_function_that_does_not_fit(place: str, result: str, message: str):
    sys.modules.setdefault(__name__, sys.modules[twice.__module__])
    with pytest.raises(NetcError, match=re.escape(message)):
        build(prepare(extern(Builder(), place, result), {}), HERE)


# ----------------------------------------------------------------------------------------------------------- passes


def test_symbols_are_bound_everywhere():
    bound = bind(transformer(), {"N": 2, "T": 5})
    assert not {s for n in bound.nodes.values() for t in n.types for d in t.shape for s in symbols(d)}
    assert bound.nodes["slice"].op.attributes()["stop"] == 5
    assert_same(bound)
    half = bind(transformer(), {"T": 5})
    assert {s for n in half.nodes.values() for t in n.types for d in t.shape for s in symbols(d)} == {"N"}
    assert bind(half, {}) is half


def test_what_cannot_be_bound():
    with pytest.raises(NetcError, match=r"no symbolic dimension M[\s\S]*symbols: N, T"):
        bind(transformer(), {"M": 1})
    with pytest.raises(NetcError, match=r"with T = 41: slice reaches to 41 in dim 0") as caught:
        bind(transformer(), {"T": 41})
    assert caught.value.diagnostics[0].code == "slice-out-of-range"


# --------------------------------------------------------------------------------------------------------- artifacts


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    graph = small_resnet()

    def means(inputs: list[np.ndarray]) -> list[np.ndarray]:
        return list(reference(graph, inputs).values())

    folder = tmp_path_factory.mktemp("compiled") / "resnet"
    made = compile(graph, LLVM(threads=1), folder, reference=means, spec_hash="abc")
    assert made is not None
    return made


def test_an_artifact_says_what_it_is(artifact: Artifact):
    manifest = json.loads((artifact.folder / "manifest.json").read_text())
    assert manifest["model"] == "small_resnet"
    assert manifest["spec"] == "abc"
    assert manifest["target"]["kind"] == "llvm"
    assert manifest["processor"]["threads"] == 1
    assert manifest["inputs"] == [{"name": "x", "dtype": "f32", "shape": ["N", 3, 32, 32]}]
    assert manifest["outputs"] == [{"name": "logits", "dtype": "f32", "shape": ["N", 10]}]
    assert 0 <= manifest["difference"]["relative"] < 1e-5
    assert {k["schedule"] for k in manifest["kernels"]} <= {"tile", "injective", "rows", "channels", "own"}
    assert sorted(p.name for p in artifact.folder.iterdir()) == ["constants.safetensors", "manifest.json", "model.so"]
    assert [p.name for p in artifact.folder.parent.iterdir()] == ["resnet"]


def test_what_gives_no_numbers_is_miscompiled(tmp_path: Path):
    b = Builder()
    graph = b.done(y=b("relu", b.input("x", "f32[3]")))
    for wrong in (np.nan, np.inf):
        with pytest.raises(NetcError) as caught:
            compile(graph, LLVM(threads=1), tmp_path / "out", reference=lambda x, w=wrong: [np.full(3, w, "f4")])
        assert caught.value.diagnostics[0].code == "miscompiled"
    assert not list(tmp_path.iterdir())


def test_an_artifact_runs_on_any_batch(artifact: Artifact):
    graph = small_resnet()
    for n in (1, 4):
        (x,) = drawn(graph, {"N": n})
        wanted = reference(graph, [x])["logits"]
        assert_close(artifact(x=x)["logits"], wanted)
        assert_close(artifact(x)["logits"], wanted)
        assert_close(artifact.run([x])[0], wanted)
    # Numbers in any memory layout are the same numbers.
    assert_close(artifact(np.asfortranarray(x))["logits"], wanted)
    assert len(artifact.latency([x], repeat=3).seconds) == 3


def test_an_artifact_runs_in_a_process_without_torch(artifact: Artifact, tmp_path: Path):
    (x,) = drawn(small_resnet(), {"N": 2})
    np.save(tmp_path / "x.npy", x)
    script = (
        "import sys, numpy, netc\n"
        f"a = netc.Artifact.load({str(artifact.folder)!r})\n"
        f"numpy.save({str(tmp_path / 'y.npy')!r}, a(x=numpy.load({str(tmp_path / 'x.npy')!r}))['logits'])\n"
        "assert 'torch' not in sys.modules and 'onnx' not in sys.modules\n"
        "assert 'netc.backends.relax.build' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), artifact(x=x)["logits"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ({}, "missing-input", "the input x is missing"),
        ({"y": np.zeros(3)}, "unknown-input", "the model has no input y"),
        ({"x": np.zeros((2, 3, 32, 32))}, "input-dtype", r"x is f32\[N, 3, 32, 32\], but the array is float64"),
        ({"x": np.zeros((3, 32, 32), "f4")}, "input-shape", r"the array is float32 of shape \[3, 32, 32\]"),
        ({"x": np.zeros((2, 3, 32, 31), "f4")}, "input-shape", r"the array has shape \[2, 3, 32, 31\]"),
    ],
)
def test_inputs_that_do_not_fit(artifact: Artifact, arguments: dict[str, Any], code: str, message: str):
    with pytest.raises(NetcError, match=message) as caught:
        artifact(**arguments)
    assert code in [d.code for d in caught.value.diagnostics]


def test_sizes_that_the_compiler_could_not_check_are_checked(tmp_path: Path):
    made = compile(transformer(), LLVM(threads=1), tmp_path / "t")
    assert made is not None
    assert made.manifest["requirements"] == [["T", 40]]
    assert made(tokens=np.zeros((1, 40), np.int64))["logits"].shape == (1, 40, 11)
    with pytest.raises(NetcError, match=r"needs T to be at most 40, but it runs with N = 1, T = 41"):
        made(tokens=np.zeros((1, 41), np.int64))


def test_positions_that_follow_from_sizes_are_checked():
    b = Builder()
    x = b.input("x", "f32[N, T]")
    places = b("expand", b("arange", start=0, stop=b.edit.type(x).shape[1]), size=list(b.edit.type(x).shape))
    graph = b.done(b("embedding", places, b.parameter("table", (6, 2))))
    assert assert_same(graph, {"N": 2, "T": 6}).lowered.requirements == [(symbol("T"), 6)]


def test_one_symbol_has_one_value(tmp_path: Path):
    b = Builder("pair")
    made = compile(
        b.done(b("add", b.input("a", "f32[N, 2*K]"), b.input("b", "f32[N, K]") and b.edit.node("a").value)),
        LLVM(),
        tmp_path / "p",
    )
    assert made is not None
    made(np.zeros((2, 6), "f4"), np.zeros((2, 3), "f4"))
    with pytest.raises(NetcError, match=r"the input b is f32\[N, K\], but the array has shape \[3, 3\]"):
        made(np.zeros((2, 6), "f4"), np.zeros((3, 3), "f4"))
    with pytest.raises(NetcError, match=r"the input a is f32\[N, 2\*K\], but the array has shape \[2, 5\]"):
        made(np.zeros((2, 5), "f4"), np.zeros((2, 3), "f4"))


def test_rank_zero_and_passed_through(tmp_path: Path):
    b = Builder("odd")
    x, s = b.input("x", "f32[3]"), b.input("s", "f32[]")
    made = compile(
        b.done(total=b("mul", b("sum", x), s), same=x, fixed=b("full", size=[2], value=7.0)), LLVM(), tmp_path / "o"
    )
    assert made is not None
    found = made(x=np.arange(3, dtype="f4"), s=np.float32(2) * np.ones((), "f4"))
    assert found["total"].shape == ()
    assert found["total"] == 6
    assert found["same"].tolist() == [0, 1, 2]
    assert found["fixed"].tolist() == [7, 7]


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path):
    """TVM orders sizes by a hash of addresses, which differ from one compilation to the next."""
    made = [compile(small_resnet("f32[N, 3, H, W]"), LLVM(threads=1), tmp_path / str(i)) for i in range(3)]
    contents = [{f.name: f.read_bytes() for f in sorted(a.folder.iterdir())} for a in made if a]
    assert len(contents) == 3
    for name, data in contents[0].items():
        assert all(other[name] == data for other in contents), name


def test_an_artifact_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "a"
    graph = small_resnet("f32[1, 3, 8, 8]")
    wrong = [np.zeros((1, 10))]
    with pytest.raises(NetcError, match="differs from its meaning"):
        compile(graph, LLVM(threads=1), folder, reference=lambda _: wrong)
    assert list(tmp_path.iterdir()) == []
    assert compile(graph, LLVM(threads=1), folder) is not None
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(NetcError, match="differs from its meaning"):
        compile(graph, LLVM(threads=1), folder, reference=lambda _: wrong)
    assert (folder / "manifest.json").read_bytes() == before
    assert compile(graph, LLVM(threads=1), folder, seed=1) is not None
    assert (folder / "manifest.json").read_bytes() != before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(NetcError, match="holds no artifact; it is left as it is"):
        compile(graph, LLVM(threads=1), tmp_path / "mine")
    monkeypatch.setattr(building, "linker", lambda _: None)
    monkeypatch.setattr("netc.backends.relax.link.linker", lambda _: None)
    with pytest.raises(NetcError, match="linked with a C compiler, and none was found"):
        compile(graph, LLVM(threads=1), tmp_path / "unlinked")
    assert not (tmp_path / "unlinked").exists()


def test_a_folder_compiled_again_runs_what_is_in_it_now(tmp_path: Path):
    for factor in (2.0, 3.0):
        b = Builder("scaled")
        made = compile(
            b.done(y=b("mul", b.input("x", "f32[2]"), b("full", size=[], value=factor))), LLVM(), tmp_path / "a"
        )
        assert made is not None
        assert made(np.ones(2, "f4"))["y"].tolist() == [factor, factor]


def test_what_is_no_artifact(tmp_path: Path, artifact: Artifact):
    with pytest.raises(NetcError, match="holds no compiled model"):
        Artifact.load(tmp_path)
    manifest = dict(artifact.manifest)
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(NetcError, match="artifacts have format 99, not 4"):
        Artifact.load(tmp_path)
    foreign = {**manifest["processor"], "triple": "sparcv9-sun-solaris"}
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "processor": foreign}))
    with pytest.raises(NetcError, match=r"was compiled for .* and does not run here"):
        Artifact.load(tmp_path)


@pytest.mark.parametrize(("text", "value"), [("N", 3), ("2*N + 1", 7), ("(T + 1)//2", 4), ("N**2 - T", 2)])
def test_dimensions_of_a_manifest(text: str, value: int):
    assert evaluate(text, {"N": 3, "T": 7}) == value


@pytest.mark.parametrize("text", ["__import__('os')", "N.real", "N if N else T", "[N]"])
def test_manifests_hold_no_code(text: str):
    with pytest.raises(ValueError, match="is no dimension"):
        evaluate(text, {"N": 3, "T": 7})


# ----------------------------------------------------------------------------------------------------------- targets


def test_this_machine_is_described_by_its_real_features():
    assert HERE.native
    assert HERE.threads == 1
    assert str(HERE.target.attrs["mcpu"]) == str(tvm.get_global_func("tvm.codegen.llvm.GetHostCPUName")())
    assert HERE.lanes in (4, 8, 16)
    assert machine(LLVM(cache=12345)).cache == 12345


@pytest.mark.parametrize(
    ("triple", "cpu", "lanes", "registers"),
    [
        ("aarch64-linux-gnu", "cortex-a72", 4, 32),
        ("armv7-linux-gnueabihf", "cortex-a9", 4, 16),
        ("riscv64-linux-gnu", "generic-rv64", 4, 32),
        ("x86_64-linux-gnu", "skylake-avx512", 16, 32),
        ("x86_64-linux-gnu", "haswell", 8, 16),
    ],
)
def test_objects_for_other_machines(tmp_path: Path, triple: str, cpu: str, lanes: int, registers: int):
    target = LLVM(triple=triple, cpu=cpu)
    made = machine(target)
    assert (made.lanes, made.registers) == (lanes, registers)
    if not made.native:
        assert compile(small_resnet("f32[1, 3, 8, 8]"), target, tmp_path / "a") is None
        manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
        files = manifest["files"].get("objects") or [manifest["files"].get("library")]
        assert all((tmp_path / "a" / name).read_bytes()[:4] == b"\x7fELF" for name in files)
        with pytest.raises(NetcError, match="does not run here"):
            Artifact.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("target", "code", "message"),
    [
        (LLVM(cpu="znver44"), "unknown-processor", "LLVM knows no processor znver44"),
        (LLVM(triple="pdp11-unix"), "unknown-architecture", "generates no code for pdp11-unix"),
        (LLVM(triple="aarch64-linux-gnu"), "unknown-processor", "is the processor of this machine"),
        (CUDA(), "unsupported-target", r"needs an NVIDIA driver|has no schedules for GPUs"),
    ],
)
def test_targets_that_cannot_be_built_for(target: Any, code: str, message: str):
    with pytest.raises(NetcError, match=message) as caught:
        machine(target)
    assert caught.value.diagnostics[0].code == code


def test_a_symbol_that_no_input_tells():
    b = Builder()
    graph = b.done(b("relu", b.input("x", "f32[2*K]")))
    with pytest.raises(NetcError, match="the dimension K is not a dimension of an input by itself"):
        build(prepare(graph, {}), HERE)
    assert_same(bind(graph, {"K": 3}))


def test_a_kernel_is_made_for_the_sizes_of_its_weights():
    b = Builder()
    x, w = b.input("x", "f32[1, C, 8, 8]"), b.input("w", "f32[4, C, 3, 3]")
    with pytest.raises(NetcError, match="needs every size of the weight as a number, not C"):
        build(prepare(b.done(b("conv2d", x, w, None)), {}), HERE)
