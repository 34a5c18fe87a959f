"""Winograd's convolutions: the transforms exactly, the kernels against float64, and what fuses with them."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from netc.backends.pytorch import module
from netc.backends.relax.build import Built, build, prepare
from netc.backends.relax.choice import Option, Question
from netc.backends.relax.kernels.winograd import POINTS, read, transforms
from netc.backends.relax.lower import lower
from netc.backends.relax.machine import host
from netc.compiler.fusion.group import Group
from netc.compiler.graph import Graph
from strategies import Builder
from tvm.runtime.vm import VirtualMachine

HERE = host(threads=1)

PLANS = {2: "winograd2 12 6 32 1", 4: "winograd4 6 3 16 2"}


class Fixed:
    """The given algorithm, else the default."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm

    def answer(self, question: Question) -> Mapping[str, Option]:
        own = "algorithm" in question.default
        return dict(question.default) | ({"algorithm": self.algorithm} if own else {})


@pytest.fixture(autouse=True)
def _any_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans that nobody would offer, for images as small as these."""
    monkeypatch.setattr(Question, "valid", lambda *_: True)


@pytest.mark.parametrize("m", POINTS)
def test_the_transforms_give_correlations_exactly(m: int):
    output, weights, inputs = transforms(m)
    d = [Fraction(n * n - 3, n + 1) for n in range(m + 2)]
    g = [Fraction(2), Fraction(-3, 5), Fraction(7, 11)]

    def times(matrix: Any, vector: list[Fraction]) -> list[Fraction]:
        return [sum((a * b for a, b in zip(row, vector, strict=True)), start=Fraction(0)) for row in matrix]

    found = times(output, [a * b for a, b in zip(times(weights, g), times(inputs, d), strict=True)])
    assert found == [sum((d[i + k] * g[k] for k in range(3)), start=Fraction(0)) for i in range(m)]


def convolution(
    input: str, outputs: int, padding: tuple[tuple[int, int], tuple[int, int]], after: str = "", bias: bool = True
) -> Graph:
    """A convolution in which values are positive, as after `relu`; residual and activations `after` it."""
    b = Builder()
    x = b("relu", b.input("x", input))
    channels = b.edit.type(x).shape[1]
    assert isinstance(channels, int)
    weight = b.parameter("weight", (outputs, channels, 3, 3), "normal", 0.0, (2 / 9 / channels) ** 0.5)
    y = b("conv2d", x, weight, b.parameter("bias", (outputs,)) if bias else None, padding=padding)
    if "add" in after:
        n, c, h, w = b.edit.type(y).shape
        y = b("add", y, b("permute", b.input("r", f"f32[{n}, {h}, {w}, {c}]"), dims=(0, 3, 1, 2)))
    if "gelu" in after:
        y = b("gelu", y)
    if "transposed" in after:
        y = b("permute", y, dims=(0, 1, 3, 2))
    return b.done(y)


def run(built: Built, graph: Graph, sizes: Mapping[str, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The result, and that of PyTorch in float64."""
    rng = np.random.default_rng(1)
    arrays: list[np.ndarray] = []
    for node in graph.inputs.values():
        shape = [int(str(d)) for d in node.types[0].substitute(dict(sizes or {})).shape]
        arrays.append(rng.standard_normal(shape).astype(np.float32))
    given = [*arrays, *built.constants.values()]
    results = VirtualMachine(built.executable, tvm.cpu())["main"](*(tvm.runtime.tensor(a) for a in given))
    with torch.no_grad():
        wanted = module(graph).double()(*(torch.from_numpy(a).double() for a in arrays))
    return results[0].numpy(), wanted.numpy()


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """The root of the mean squared difference, relative."""
    return float(np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean()))


CASES = {
    "even": ("f32[1, 16, 8, 8]", 32, ((1, 1), (1, 1)), ""),
    "odd": ("f32[1, 32, 9, 7]", 32, ((1, 1), (1, 1)), "add gelu"),
    "no padding": ("f32[2, 16, 11, 6]", 32, ((0, 0), (0, 0)), "gelu"),
    "wide padding": ("f32[1, 16, 5, 6]", 64, ((3, 2), (2, 4)), "add"),
    "one side": ("f32[3, 16, 7, 10]", 32, ((0, 1), (2, 0)), ""),
    "a result of one row": ("f32[1, 16, 3, 9]", 32, ((0, 0), (1, 1)), ""),
    "transposed after": ("f32[2, 16, 6, 5]", 32, ((1, 1), (1, 1)), "add transposed"),
    "any batch": ("f32[N, 16, 9, 6]", 32, ((1, 1), (1, 0)), "gelu"),
}


@pytest.mark.parametrize("m", POINTS)
@pytest.mark.parametrize("case", CASES)
def test_kernels_mean_what_pytorch_says(case: str, m: int):
    graph = convolution(*CASES[case], bias=case != "even")
    built = build(prepare(graph, {}), HERE, choices=Fixed(PLANS[m]))
    assert sum("winograd" in name for name in built.report.rules) == 1
    assert not built.report.failures
    for n in (1, 3) if case == "any batch" else (1,):
        found, wanted = run(built, graph, {"N": n})
        assert np.abs(found - wanted).max() <= 5e-6 * np.abs(wanted).max()


@pytest.mark.parametrize(("m", "most"), [(2, 5), (4, 16)])
def test_the_error_is_within_its_bound(m: int, most: float):
    graph = convolution("f32[1, 256, 12, 12]", 32, ((1, 1), (1, 1)))
    found, wanted = run(build(prepare(graph, {}), HERE, choices=Fixed(PLANS[m])), graph)
    assert error(found, wanted) <= most * 2**-24


def test_what_follows_is_computed_where_results_are_stored():
    graph = prepare(convolution(*CASES["odd"]), {})
    built = build(graph, HERE, choices=Fixed(PLANS[4]))
    assert [len(group.group.nodes) for group in built.groups if "winograd" in group.kernel] == [3]
    assert [rule for name, rule in built.report.rules.items() if "winograd" in name] == ["follow"]


def test_several_threads_share_tiles_and_channels():
    graph = convolution("f32[1, 32, 14, 14]", 64, ((1, 1), (1, 1)), "add")
    built = build(prepare(graph, {}), host(threads=4), choices=Fixed("winograd4 4 4 32 2"))
    found, wanted = run(built, graph)
    assert np.abs(found - wanted).max() <= 5e-6 * np.abs(wanted).max()


def test_small_images_and_few_channels_are_convolved_directly():
    asked = lower(prepare(convolution("f32[1, 16, 2, 2]", 16, ((1, 1), (1, 1))), {}), HERE).asked
    assert [a.answer["algorithm"] for a in asked] == ["direct"]
    asked = lower(prepare(convolution("f32[1, 12, 32, 32]", 32, ((1, 1), (1, 1))), {}), HERE).asked
    assert all("algorithm" not in a.answer for a in asked)


def test_large_ones_are_not():
    asked = lower(prepare(convolution("f32[1, 64, 56, 56]", 64, ((1, 1), (1, 1))), {}), HERE).asked
    plan = read(str(asked[0].answer["algorithm"]))
    assert plan is not None
    assert plan.m == 4
    assert asked[0].question.valid(asked[0].answer)


def test_a_chain_of_convolutions_takes_sums_over_taps():
    b = Builder()
    x = b.input("x", "f32[1, 32, 32, 32]")
    y = b("conv2d", x, b.parameter("a", (32, 32, 3, 3)), None, padding=((1, 1), (1, 1)), path="first")
    y = b("conv2d", y, b.parameter("b", (32, 32, 1, 1)), None, path="second")
    graph = prepare(b.done(y), {})
    together = build(graph, HERE, groups=[Group("both", ("first", "second"))])
    assert list(together.report.rules.values()) == ["chain"]
    apart = build(graph, HERE, groups=[Group("one", ("first",)), Group("two", ("second",))])
    assert any("winograd" in name for name in apart.report.rules)


@pytest.mark.parametrize(
    ("channels", "kernel", "stride"), [(2048, 1, 1), (1024, 1, 2), (256, 3, 2), (96, 3, 1), (509, 1, 1), (36, 5, 1)]
)
def test_long_sums_are_sums_of_short_ones(channels: int, kernel: int, stride: int):
    b = Builder()
    x = b("relu", b.input("x", f"f32[2, {channels}, 7, 9]"))
    weight = b.parameter("weight", (40, channels, kernel, kernel), "normal", 0.0, channels**-0.5)
    padding = ((kernel // 2, kernel // 2),) * 2
    graph = b.done(b("relu", b("conv2d", x, weight, None, stride=(stride, stride), padding=padding)))
    built = build(prepare(graph, {}), HERE, choices=Fixed("direct"))
    assert set(built.report.rules.values()) <= {"tile", "injective"}
    assert not built.report.failures
    found, wanted = run(built, graph)
    assert error(found, wanted) <= (8 if channels % 2 == 0 else 12) * 2**-24


@pytest.mark.parametrize("share", ["rows", "columns"])
def test_threads_share_rows_or_columns(share: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Fixed, "answer", lambda self, question: dict(question.default) | {"share": share})
    b = Builder()
    x = b.input("x", "f32[N, 24, 9, 11]")
    weight = b.parameter("weight", (40, 24, 3, 3), "normal", 0.0, 0.1)
    graph = b.done(b("conv2d", x, weight, None, stride=(2, 1), padding=((1, 1), (0, 1))))
    built = build(prepare(graph, {}), host(threads=2), choices=Fixed("direct"))
    assert not built.report.failures
    for n in (1, 5):
        found, wanted = run(built, graph, {"N": n})
        assert np.abs(found - wanted).max() <= 2e-6 * np.abs(wanted).max()
