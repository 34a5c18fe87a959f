"""Layers of bf16: two products at a time where the processor has the instruction, and what all of it is good for."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from netc.__main__ import app
from netc.backends import pytorch
from netc.backends.relax.artifact import kept
from netc.backends.relax.build import Built, build, prepare
from netc.backends.relax.choice import Analytic
from netc.backends.relax.dot import HALVES, has
from netc.backends.relax.half import unpaid
from netc.backends.relax.lower import lower
from netc.backends.relax.machine import host, machine
from netc.backends.relax.tuning.task import Source as Cut
from netc.backends.relax.tuning.task import tasks
from netc.backends.relax.untyped import tvm
from netc.compiler.graph import Graph
from netc.compiler.passes.widen import widen
from netc.compiler.target import LLVM
from netc.compiler.types import DType, TensorType
from netc.compiler.weights import InMemory, value
from strategies import Builder
from typer.testing import CliRunner

HERE = host(1)
OLDER = machine(LLVM(cpu="haswell", threads=1))
needed = pytest.mark.skipif(not has(HALVES, HERE), reason="vdpbf16ps: this processor has no AVX-512 BF16")

LAYERS = {
    "of colours": ("conv2d", "bf16[2, 3, 9, 8]", (20, 3, 3, 3), {"padding": 1, "stride": 2}),
    "surrounded": ("conv2d", "bf16[1, 8, 7, 7]", (18, 8, 3, 3), {"padding": 1}),
    "alone": ("conv2d", "bf16[1, 16, 7, 7]", (36, 16, 1, 1), {}),
    "spread": ("conv2d", "bf16[1, 6, 9, 9]", (16, 6, 3, 3), {"dilation": 2}),
    "in groups": ("conv2d", "bf16[1, 12, 6, 6]", (32, 6, 3, 3), {"groups": 2, "padding": 1}),
    "in odd groups": ("conv2d", "bf16[1, 6, 6, 6]", (10, 3, 3, 3), {"groups": 2}),
    "by channel": ("conv2d", "bf16[2, 32, 9, 9]", (32, 1, 3, 3), {"groups": 32, "padding": 1}),
    "transposed": ("conv_transpose2d", "bf16[1, 8, 5, 5]", (8, 12, 3, 3), {"stride": 2, "padding": 1}),
    "on a line": ("conv1d", "bf16[1, 4, 12]", (16, 4, 3), {"padding": 1}),
    "in space": ("conv3d", "bf16[1, 4, 5, 5, 5]", (16, 4, 2, 2, 2), {}),
    "a product": ("linear", "bf16[5, 24]", (33, 24), {}),
    "a product of rows": ("linear", "bf16[2, 7, 16]", (48, 16), {}),
    "a long product": ("linear", "bf16[3, 3000]", (16, 3000), {}),
    "few columns": ("linear", "bf16[6, 30]", (3, 30), {}),
    "one column": ("linear", "bf16[6, 30]", (1, 30), {}),
    "an odd product": ("linear", "bf16[3, 11]", (16, 11), {}),
}
"""By name: operator, input, shape of the weight, attributes. None is of the shape that Winograd's algorithm takes."""


def layers(names: list[str]) -> Graph:
    b = Builder()
    for i, name in enumerate(names):
        operator, x, shape, attributes = LAYERS[name]
        weight = b.parameter(f"w{i}", shape, "uniform", -1.0, 1.0, dtype=DType.BF16)
        outputs = shape[1] if operator == "conv_transpose2d" else shape[0]
        bias = b.parameter(f"b{i}", (outputs,), "uniform", -1.0, 1.0, dtype=DType.BF16)
        b.node(operator, b.input(f"x{i}", x), weight, bias, path=f"y{i}", **attributes)
    nodes = [n for n in b.edit.done().nodes.values() if n.path.startswith("y")]
    return b.done(**{f"{n.path}.0": n.value for n in nodes})


def drawn(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    types = {name: node.types[0] for name, node in graph.inputs.items()}
    sizes = {name: [int(str(d)) for d in t.shape] for name, t in types.items()}
    return {name: rng.standard_normal(sizes[name]).astype(t.dtype.as_numpy) for name, t in types.items()}


def executed(graph: Graph, feeds: dict[str, np.ndarray], built: Built) -> list[np.ndarray]:
    call = tvm.runtime.vm.VirtualMachine(built.executable, tvm.cpu())["main"]
    found = call(*(kept(feeds[name]) for name in graph.inputs), *map(kept, built.constants.values()))
    arrays = [array.numpy() for array in found]
    return [(a.view(DType.BF16.as_numpy) if a.dtype == np.uint16 else a).astype("float64") for a in arrays]


def exact(graph: Graph, feeds: dict[str, np.ndarray], *, positive: bool = False) -> list[np.ndarray]:
    """In float64, of the very numbers that are kept in bf16; with `positive` of their absolute values."""

    def number(x: np.ndarray) -> np.ndarray:
        return np.abs(x.astype("float64")) if positive else x.astype("float64")

    wide = widen(graph)
    given = [
        replace(p, type=TensorType(DType.F64, p.type.shape), data=InMemory(number(np.asarray(value(p, 0)))))
        for p in graph.parameters.values()
    ]
    return list(pytorch.run(wide.with_parameters(given), {k: number(x) for k, x in feeds.items()}).values())


def terms(name: str) -> int:
    _, _, shape, _ = LAYERS[name]
    return shape[0] * 4 + 1 if name == "transposed" else int(np.prod(shape[1:])) + 1


def assert_within_bounds(names: list[str], built: Built, graph: Graph) -> None:
    """Half a unit of the result's last place, 2^-8 of it at most, and what dot.py states of sums."""
    feeds = drawn(graph)
    found, wanted, sizes = executed(graph, feeds, built), exact(graph, feeds), exact(graph, feeds, positive=True)
    for name, ours, theirs, size in zip(names, found, wanted, sizes, strict=True):
        sums = (terms(name) + 1) * 2.0**-24 * size
        assert (np.abs(ours - theirs) <= 2.0**-8 * (np.abs(theirs) + sums) + sums + 2.0**-126).all(), name


def assembly(built: Built) -> str:
    return str(built.executable.mod.imports[0].inspect_source("asm"))


def test_layers_of_bf16_are_rounded_once() -> None:
    names = list(LAYERS)
    graph = layers(names)
    built = build(prepare(graph, {}), HERE)
    assert "generic" not in built.report.counts
    assert_within_bounds(names, built, graph)
    assert ("vdpbf16ps" in assembly(built)) == has(HALVES, HERE)


def test_a_processor_without_the_instruction_widens_what_it_reads() -> None:
    names = ["surrounded", "alone", "a product"]
    graph = layers(names)
    assert not has(HALVES, OLDER)
    built = build(prepare(graph, {}), OLDER)
    assert not {"vdpbf16ps", "vcvtneps2bf16"} & set(assembly(built).split())
    if OLDER.native:
        assert_within_bounds(names, built, graph)


@needed
@pytest.mark.parametrize("name", ["surrounded", "of colours", "alone", "in groups", "a product", "transposed"])
def test_two_products_are_one_instruction_and_sums_stay_in_registers(name: str) -> None:
    graph = prepare(layers([name]), {})
    text = assembly(build(graph, HERE))
    words = [line.split()[0] for line in text.splitlines() if line.startswith("\t") and not line.startswith("\t.")]
    at = [i for i, word in enumerate(words) if word == "vdpbf16ps"]
    assert at
    between = [words[i] for a, b in pairwise(at) if b - a < 8 for i in range(a + 1, b)]
    assert sum(word.startswith(("vmovup", "vmovap")) for word in between) < len(at)
    assert "netc_" not in text  # all that is LLVM's own language became part of the kernels
    assert text == assembly(build(graph, HERE))


@pytest.mark.parametrize("view", ["repeated", "transposed", "every other"])
@pytest.mark.parametrize("operator", ["linear", "conv2d"])
def test_numbers_that_do_not_follow_each_other(operator: str, view: str) -> None:
    """What a layer reads is written nowhere: each number of a word is where the view says."""
    b = Builder()
    if view == "repeated":
        x = b("expand", b.input("x", "bf16[5, 1]"), size=(5, 8))
    elif view == "transposed":
        x = b("permute", b.input("x", "bf16[8, 5]"), dims=(1, 0))
    else:
        x = b("slice", b.input("x", "bf16[5, 16]"), dim=1, start=0, stop=16, step=2)
    weight: tuple[int, ...] = (16, 8)
    if operator == "conv2d":
        x, weight = b("reshape", x, size=(5, 8, 1, 1)), (16, 8, 1, 1)
    y = b(operator, x, b.parameter("w", weight, "uniform", -1.0, 1.0, dtype=DType.BF16), None)
    graph = b.done(y=y)
    built = build(prepare(graph, {}), HERE)
    (found,), (wanted,) = executed(graph, drawn(graph), built), exact(graph, drawn(graph))
    assert np.abs(found - wanted).max() <= 2.0**-8 * np.abs(wanted).max()


@needed
@pytest.mark.parametrize("channels", [16, 32])
def test_what_follows_a_layer_is_computed_with_it(channels: int) -> None:
    """Bias, an addition and an activation; with 3 × 3 taps also where Winograd's algorithm is chosen."""
    b = Builder()
    x = b.input("x", f"bf16[1, {channels}, 28, 28]")
    shape = (channels, channels, 3, 3)
    y = b("conv2d", x, b.parameter("w", shape, "uniform", -0.1, 0.1, dtype=DType.BF16), None, padding=1)
    graph = b.done(y=b("relu", b("add", y, x)))
    built = build(prepare(graph, {}), HERE)
    assert len(built.report.rules) <= 2  # one of them may put channels last
    (found,), (wanted,) = executed(graph, drawn(graph), built), exact(graph, drawn(graph))
    assert np.abs(found - wanted).max() <= 2.0**-7 * np.abs(wanted).max()


@needed
def test_the_smallest_numbers_are_zero_and_others_as_they_are() -> None:
    b = Builder()
    y = b("linear", b.input("x", "bf16[1, 2]"), b.parameter("w", (16, 2), "ones", dtype=DType.BF16), None)
    graph = b.done(y=y)
    built = build(prepare(graph, {}), HERE)
    for x, wanted in (([2.0**-127, 0], 0), ([2.0**-126, 0], 2.0**-126), ([3e38, 3e38], np.inf), ([np.nan, 1], np.nan)):
        feeds = {"x": np.array([x]).astype(DType.BF16.as_numpy)}
        assert np.array_equal(executed(graph, feeds, built)[0], np.full((1, 16), wanted), equal_nan=True)


@needed
def test_what_is_tuned_are_the_same_kernels() -> None:
    graph = prepare(layers(["alone", "a product"]), {})
    found = tasks([Cut(graph, None)], HERE, Analytic())
    assert sum("bf16" in t.question.key for t in found) == 2
    for task in found:
        assert task.question in [a.question for a in lower(task.graph, HERE, task.groups).asked]


@pytest.mark.parametrize("dtype", [DType.F32, DType.F16, DType.BF16])
@pytest.mark.parametrize("cpu", ["haswell", "znver4"])
def test_where_half_precision_gains_nothing_is_known(cpu: str, dtype: DType) -> None:
    said = unpaid(LLVM(cpu=cpu, threads=1), dtype)
    assert (said is None) == (dtype is DType.F32 or (cpu, dtype) == ("znver4", DType.BF16))


def test_a_plan_is_told_so(tmp_path: Path) -> None:
    text = """\
module Net(x: [N, 8]) { return x |> linear(4) }

model small = Net (x: f32[N, 8])
target there = llvm(cpu = "haswell", threads = 1)
plan p for small on there {
    batch 1
    dtype bf16
}
"""
    (tmp_path / "net.net").write_text(text)
    found = CliRunner().invoke(app, ["compile", f"{tmp_path}/net.net:p", "-o", f"{tmp_path}/out"])
    assert found.exit_code == 0, found.output
    assert "warning[no-gain]: on haswell bf16 takes half the memory, but all is computed in f32" in found.stderr
