"""Chains of convolutions as one kernel: what is one, what it computes, and that it keeps only lines in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from netc.backends.pytorch import module
from netc.backends.relax.artifact import kept, restored
from netc.backends.relax.build import build, fused, prepare
from netc.backends.relax.machine import host
from netc.backends.relax.schedule import SCHEDULED, schedule
from netc.backends.relax.untyped import walk
from netc.compiler.fusion.chains import Chain, Refusal, decided
from netc.compiler.fusion.group import Group
from netc.compiler.fusion.work import Work
from netc.compiler.graph import Graph, Ref
from strategies import Builder
from tvm.runtime.vm import VirtualMachine

HERE = host(threads=2)


def conv(b: Builder, x: Ref, path: str, out: int, kernel: int | tuple[int, int], **attributes: Any) -> Ref:
    inputs = b.edit.type(x).shape[1]
    assert isinstance(inputs, int)
    groups = attributes.get("groups", 1)
    bias = attributes.pop("bias", True)
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    weight = b.parameter(f"{path}.weight", (out, inputs // groups, *size), "kaiming_normal", dtype=b.edit.type(x).dtype)
    summand = b.parameter(f"{path}.bias", (out,), dtype=b.edit.type(x).dtype) if bias else None
    return b("conv2d", x, weight, summand, path=path, **attributes)


def depthwise(b: Builder, x: Ref, path: str, kernel: int | tuple[int, int] = 3, **attributes: Any) -> Ref:
    channels = b.edit.type(x).shape[1]
    assert isinstance(channels, int)
    return conv(b, x, path, channels, kernel, groups=channels, **attributes)


@dataclass(frozen=True)
class Case:
    """One chain: the layers' attributes that differ."""

    kind: str
    input: str
    inner: int = 24
    out: int = 16
    kernel: int | tuple[int, int] = 3
    stride: int | tuple[int, int] = 1
    padding: Any = 1
    dilation: int = 1
    activation: str = "relu6"
    residual: bool = False
    bias: bool = True
    channels_last: bool = False
    """Whether input and output are stored so, as they are between the groups of a model."""

    def graph(self) -> Graph:
        b = Builder("chain")
        x: Ref = b.input("x", self.input)
        x = b("permute", x, dims=[0, 3, 1, 2]) if self.channels_last else x
        window = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "bias": self.bias}
        y = getattr(self, f"_{self.kind}")(b, x, window)
        y = b("add", y, x, path="residual") if self.residual else y
        return b.done(b("permute", y, dims=[0, 2, 3, 1]) if self.channels_last else y)

    def _depthwise_pointwise(self, b: Builder, x: Ref, window: dict[str, Any]) -> Ref:
        y = b(self.activation, depthwise(b, x, "dw", self.kernel, **window))
        return b(self.activation, conv(b, y, "pw", self.out, 1, bias=self.bias))

    def _pointwise_depthwise(self, b: Builder, x: Ref, window: dict[str, Any]) -> Ref:
        y = b(self.activation, conv(b, x, "pw", self.inner, 1, bias=self.bias))
        return b(self.activation, depthwise(b, y, "dw", self.kernel, **window))

    def _inverted_residual(self, b: Builder, x: Ref, window: dict[str, Any]) -> Ref:
        return conv(b, self._pointwise_depthwise(b, x, window), "down", self.out, 1, bias=self.bias)

    def _conv_pointwise(self, b: Builder, x: Ref, window: dict[str, Any]) -> Ref:
        y = b(self.activation, conv(b, x, "conv", self.inner, self.kernel, **window))
        return b(self.activation, conv(b, y, "pw", self.out, 1, bias=self.bias))

    def _convolutions(self, b: Builder, x: Ref, window: dict[str, Any]) -> Ref:
        y = b(self.activation, conv(b, x, "conv", self.inner, self.kernel, **window))
        y = b(self.activation, conv(b, y, "conv2", self.out, 3, padding=1, bias=self.bias))
        return b(self.activation, conv(b, y, "conv3", self.inner, (2, 4), stride=(2, 1), groups=2))

    def _pooled(self, b: Builder, x: Ref, window: dict[str, Any]) -> Ref:
        """A stem: convolution, the largest of a window, convolution, mean of a window."""
        pool = {"kernel_size": self.kernel, "stride": 2, "padding": self.padding, "ceil_mode": True}
        y = b("max_pool2d", b(self.activation, conv(b, x, "conv", self.inner, 3, padding=1)), **pool)
        return b("avg_pool2d", conv(b, y, "pw", self.out, 1), **pool, count_include_pad=False)


def nodes(graph: Graph) -> tuple[str, ...]:
    return tuple(Work(graph).nodes)


CASES = [
    Case("depthwise_pointwise", "f32[1, 32, 20, 20]", out=48),
    Case("depthwise_pointwise", "f32[2, 20, 20, 32]", out=48, channels_last=True),
    Case("depthwise_pointwise", "f32[3, 9, 17, 10]", out=7, activation="silu", bias=False),
    Case("depthwise_pointwise", "f32[1, 19, 15, 50]", kernel=5, stride=2, padding=2, channels_last=True),
    Case("depthwise_pointwise", "f32[1, 40, 11, 8]", padding=((0, 2), (2, 0)), activation="hardswish"),
    Case("depthwise_pointwise", "f32[1, 8, 12, 9]", padding=0, dilation=2),
    Case("depthwise_pointwise", "f32[1, 14, 14, 96]", kernel=(3, 1), padding=(1, 0), channels_last=True),
    Case("depthwise_pointwise", "f32[1, 16, 10, 10]", kernel=2, stride=3, padding=0),
    Case("depthwise_pointwise", "f32[N, 10, 10, 16]", channels_last=True),
    Case("depthwise_pointwise", "f32[2, 3, 16, 16]", residual=True, out=3),
    Case("pointwise_depthwise", "f32[1, 16, 18, 18]", inner=40),
    Case("pointwise_depthwise", "f32[2, 13, 17, 5]", inner=33, stride=2, activation="silu", channels_last=True),
    Case("pointwise_depthwise", "f32[1, 16, 9, 9]", kernel=5, stride=(1, 2), padding=((3, 1), (2, 2))),
    Case("inverted_residual", "f32[1, 24, 16, 16]", inner=72, out=24, residual=True),
    Case("inverted_residual", "f32[2, 15, 15, 24]", inner=72, out=24, residual=True, channels_last=True),
    Case("inverted_residual", "f32[1, 28, 28, 16]", inner=96, out=24, stride=2, channels_last=True),
    Case("inverted_residual", "f32[3, 7, 13, 11]", inner=21, out=7, residual=True, activation="hardswish", bias=False),
    Case("inverted_residual", "f32[1, 16, 7, 7]", inner=48, out=40, kernel=5, padding=2, activation="silu"),
    Case("inverted_residual", "f32[N, 16, 8, 8]", inner=32, out=16, residual=True),
    Case("conv_pointwise", "f32[1, 16, 14, 14]", inner=32, out=64, activation="relu"),
    Case("conv_pointwise", "f32[2, 3, 21, 17]", inner=20, out=33, stride=2, activation="silu"),
    Case("conv_pointwise", "f32[1, 12, 12, 8]", out=8, kernel=5, padding=2, residual=True, channels_last=True),
    Case("conv_pointwise", "f32[1, 5, 9, 13]", kernel=(1, 7), padding=(0, 3), activation="relu"),
    Case("convolutions", "f32[1, 6, 15, 16]", inner=24, out=20, activation="relu"),
    Case("pooled", "f32[1, 20, 21, 16]", inner=40, channels_last=True),
    Case("pooled", "f32[2, 5, 18, 14]", inner=12, kernel=2, padding=0, activation="relu"),
    Case("convolutions", "f32[2, 12, 18, 4]", inner=16, stride=2, activation="gelu", channels_last=True),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_chain_is_one_kernel_that_means_what_pytorch_says(case: Case):
    graph = prepare(case.graph(), {})
    found = decided(Work(graph), nodes(graph))
    assert isinstance(found, Chain)
    assert found.kind == case.kind.replace("pooled", "convolutions")
    built = build(graph, HERE, groups=[Group("all", nodes(graph))])
    assert list(built.report.rules.values()) == ["chain"]
    assert_same(graph, built)


@st.composite
def chains(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Graph:
    """Two to four convolutions of any sizes, padding to no purpose included."""
    b = Builder("chain")
    channels, rows, columns = (draw(st.sampled_from(s)) for s in ([1, 3, 16, 17, 40], [6, 13, 24], [5, 14, 31]))
    x: Ref = b.input("x", f"f32[{draw(st.integers(1, 2))}, {rows}, {columns}, {channels}]")
    x = y = b("permute", x, dims=[0, 3, 1, 2])
    for i in range(draw(st.integers(2, 4))):
        kernel = tuple(draw(st.sampled_from([1, 2, 3, 5])) for _ in range(2))
        window = {
            "stride": tuple(draw(st.sampled_from([1, 1, 2, 3])) for _ in range(2)),
            "padding": tuple((draw(st.integers(k // 2, k)), draw(st.integers(k // 2, k))) for k in kernel),
            "bias": draw(st.booleans()),
        }
        if draw(st.booleans()):
            y = depthwise(b, y, f"layer{i}", kernel, **window)
        else:
            y = conv(b, y, f"layer{i}", draw(st.sampled_from([1, 5, 16, 24, 33])), kernel, **window)
        y = b(draw(st.sampled_from(["relu6", "silu", "hardswish", "identity"])), y)
    y = b("add", y, x) if b.edit.type(y).shape == b.edit.type(x).shape else y
    return prepare(b.done(b("permute", y, dims=[0, 2, 3, 1])), {})


@settings(max_examples=8)
@given(chains(), st.sampled_from([1, 2, 5]))
def test_random_chains(graph: Graph, threads: int):
    assert isinstance(decided(Work(graph), nodes(graph)), Chain)
    assert_same(graph, build(graph, host(threads=threads), groups=[Group("all", nodes(graph))]))


def assert_same(graph: Graph, built: Any, tolerance: float = 1e-4) -> None:
    (node,) = graph.inputs.values()
    shape = [d if isinstance(d, int) else 3 for d in node.types[0].shape]
    x = np.random.default_rng(0).standard_normal(shape).astype(node.types[0].dtype.as_numpy)
    constants = [tvm.runtime.tensor(c) for c in built.constants.values()]
    (made,) = VirtualMachine(built.executable, tvm.cpu())["main"](kept(x), *constants)
    with torch.no_grad():
        wanted = module(graph).double()(torch.from_numpy(x.astype(np.float64))).numpy()
    (type,) = built.lowered.outputs.values()
    np.testing.assert_allclose(restored(made, type.dtype).astype(float), wanted, atol=tolerance, rtol=tolerance)


def scheduled(graph: Graph) -> Any:
    (kernel,) = fused(graph, HERE, [Group("all", nodes(graph))]).values()
    made, report = schedule(tvm.IRModule({"kernel": kernel}), HERE)
    assert report.rules == {"kernel": "chain"}
    return made["kernel"]


def allocated(function: Any) -> list[int]:
    """Elements of what a kernel allocates."""
    found: list[int] = []

    def visit(statement: Any) -> None:
        found.append(int(np.prod([int(d) for d in statement.buffer.shape])))

    walk(function.body, (tvm.tirx.AllocBuffer, visit))
    return found


@pytest.mark.parametrize(
    ("case", "rows"),
    [
        # Lines that are held: the powers of two that hold those that one line of the result reads.
        (Case("depthwise_pointwise", "f32[1, 64, 64, 32]", channels_last=True), [(1, 64 * 32)]),
        (Case("depthwise_pointwise", "f32[1, 32, 64, 64]"), [(4, 66 * 32), (1, 64 * 32)]),
        (Case("pointwise_depthwise", "f32[1, 64, 64, 32]", channels_last=True), [(4, 66 * 24)]),
        (Case("inverted_residual", "f32[4, 8, 64, 64]", kernel=5, padding=2), [(8, 68 * 24), (1, 64 * 24)]),
        (Case("conv_pointwise", "f32[1, 64, 64, 32]", channels_last=True), [(4, 66 * 32), (1, 64 * 24)]),
    ],
    ids=str,
)  # fmt: skip
def test_only_lines_are_kept_in_between(case: Case, rows: list[tuple[int, int]]):
    sizes = allocated(scheduled(prepare(case.graph(), {})))
    wanted = sorted(n * line for n, line in rows)
    tile = 28 * 16  # sums in registers
    assert sorted(s for s in sizes if s > tile) == wanted
    assert max(sizes) < 64 * 64 * 24 / 4


def test_every_thread_has_work():
    case = Case("depthwise_pointwise", "f32[1, 20, 20, 32]", channels_last=True)
    graph = prepare(case.graph(), {})
    (kernel,) = fused(graph, HERE, [Group("all", nodes(graph))]).values()
    for threads in (2, 8):
        made, _ = schedule(tvm.IRModule({"kernel": kernel.without_attr(SCHEDULED)}), host(threads=threads))
        loop = made["kernel"].body
        while not isinstance(loop, tvm.tirx.For):
            loop = loop.body if hasattr(loop, "body") else loop.seq[-1]
        assert int(loop.kind) == tvm.tirx.ForKind.PARALLEL
        assert int(loop.extent) >= threads - 1  # 20 rows: 3 in each of 7 bands


@pytest.mark.parametrize(("dtype", "tolerance"), [("f16", 4e-3), ("bf16", 3e-2)])
@pytest.mark.parametrize("kind", ["depthwise_pointwise", "inverted_residual"])
def test_half_precision(kind: str, dtype: str, tolerance: float):
    graph = prepare(Case(kind, f"{dtype}[1, 16, 9, 9]", inner=32, out=16, residual=True).graph(), {})
    assert isinstance(decided(Work(graph), nodes(graph)), Chain)
    built = build(graph, HERE, groups=[Group("all", nodes(graph))])
    assert list(built.report.rules.values()) == ["chain"]
    assert_same(graph, built, tolerance)


def test_a_group_of_one_convolution_is_scheduled_as_ever():
    b = Builder()
    graph = prepare(b.done(b("relu", conv(b, b.input("x", "f32[1, 8, 9, 9]"), "conv", 8, 3))), {})
    assert isinstance(decided(Work(graph), nodes(graph)), Refusal)
    built = build(graph, HERE, groups=[Group("all", nodes(graph))])
    assert "chain" not in built.report.rules.values()
    assert_same(graph, built)


def refusal(b: Builder, *outputs: Ref, group: tuple[str, ...] | None = None) -> Refusal:
    graph = b.done(*outputs)
    found = decided(Work(graph), group or nodes(graph))
    assert isinstance(found, Refusal)
    return found


def started(type: str = "f32[1, 8, 9, 9]") -> tuple[Builder, Ref]:
    b = Builder()
    return b, b.input("x", type)


def test_what_is_read_in_between_is_no_chain():
    b, x = started()
    y = b("relu", conv(b, x, "a", 8, 1), path="r")
    z = conv(b, y, "b", 8, 1)
    assert refusal(b, z, y) == Refusal("%r is read by the caller of the model too, so that it is stored", ("r",))
    b, x = started()
    y = conv(b, x, "a", 8, 1)
    z = b("add", conv(b, y, "b", 8, 1), y, path="sum")
    assert refusal(b, z) == Refusal("%sum reads %a past the convolutions between them", ("sum", "a"))


def test_branches_are_no_chain():
    b, x = started()
    z = b("add", conv(b, x, "a", 8, 1), conv(b, x, "b", 8, 1))
    assert refusal(b, z) == Refusal("%b does not read what %a made", ("b", "a"))
    b, x = started()
    y = conv(b, x, "a", 8, 1)
    z = conv(b, y, "b", 8, 1)
    assert refusal(b, b("relu", z, path="r"), b("tanh", z, path="t")).nodes == ("r", "t")


def test_what_chains_are_not_made_of():
    b, x = started()
    y = b("softmax", conv(b, x, "a", 8, 1), dim=1, path="shares")
    found = refusal(b, conv(b, y, "b", 8, 1))
    assert found == Refusal("%shares (softmax) is neither a convolution or pooling nor element-wise", ("shares",))
    b, x = started()
    y = b("permute", conv(b, x, "a", 9, 1), dims=[0, 2, 1, 3], path="moved")
    assert refusal(b, conv(b, y, "b", 8, 1)) == Refusal("%b reads the chain through %moved", ("b", "moved"))
    b, x = started("f32[1, 8, H, 9]")
    assert refusal(b, conv(b, conv(b, x, "a", 8, 1), "b", 8, 1)).nodes == ("a",)
    b, x = started("f64[1, 8, 9, 9]")
    weights = [b.parameter(f"w{i}", (8, 8, 1, 1), dtype=b.edit.type(x).dtype) for i in range(2)]
    y = b("conv2d", b("conv2d", x, weights[0], None, path="a"), weights[1], None, path="b")
    assert refusal(b, y).nodes == ("a",)
    b, x = started()
    assert refusal(b, conv(b, x, "a", 8, 1)) == Refusal("%a is the only node of its kind", ("a",))
