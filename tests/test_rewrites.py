"""The rules that come with the compiler: on generated graphs, at borders, in what they refuse, and on real models."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import netc
import numpy as np
import pytest
from netc.compiler.backend import backend
from netc.compiler.contract import Contract
from netc.compiler.diagnostic import NetcError
from netc.compiler.graph import Graph, Ref, Value, verify
from netc.compiler.library import library, rule_sets
from netc.compiler.measure import measure
from netc.compiler.passes.widen import widen
from netc.compiler.pipeline import run
from netc.compiler.probe import probed
from netc.compiler.rewrite.check import check_rule_set
from netc.compiler.source import Source

from .strategies import Builder
from .test_passes import outputs

ROOT = Path(__file__).parents[1]
DEPLOY = "strip_phase, fold, merge_layers, eliminate_common, fold_constants, eliminate_dead{parameters = true}"

program = cache(netc.load)


def applied(graph: Graph, *names: str) -> Graph:
    """The graph after passes, which keep its function to 1e-9 in float64."""
    after = graph
    for name in names:
        after = library()[name].run(after)
    verify(after)
    found = measure(graph, after, Contract())
    assert found.kept, f"{found.worst} differs by {found.relative}"
    return after


def operators(graph: Graph) -> Counter[str]:
    """How often each operator computes something from the inputs."""
    folded = library()["fold_constants"].run(graph)
    return Counter(n.op.name for n in folded.nodes.values() if n.op.name not in ("input", "constant"))


# ---------------------------------------------------------------------------------------------------- every rule


@pytest.mark.parametrize("name", rule_sets())
def test_rules_keep_their_contracts_on_generated_graphs(name: str) -> None:
    check_rule_set(rule_sets()[name], instances=8)


def test_every_rule_says_what_it_does() -> None:
    for rules in rule_sets().values():
        for rule in rules:
            assert rule.doc.endswith("."), rule.name


def test_every_rule_stands_in_the_book() -> None:
    page = (Path(__file__).parent / "book" / "rewrites.md").read_text()
    shown = dict(re.findall(r"^### (\w+)\n\n(.*?)\n\n```net", page, re.M | re.S))
    assert shown == {rule.name: rule.doc for rules in rule_sets().values() for rule in rules}


# ------------------------------------------------------------------------------------------------------- borders


class Image(Builder):
    """Convolutions of a small image."""

    def __init__(self, channels: int = 3, size: int = 5) -> None:
        super().__init__()
        self.x = self.input("x", f"f32[N, {channels}, {size}, {size}]")

    def convolution(self, x: Ref, out: int, kernel: int = 1, bias: bool = True, name: str = "c", **attributes: object):
        inner = self.edit.type(x).shape[1]
        groups = int(str(attributes.get("groups", 1)))
        assert isinstance(inner, int)
        weight = self.parameter(f"{name}.weight", (out, inner // groups, kernel, kernel), "normal", 0.0, 1.0)
        offset = self.parameter(f"{name}.bias", (out,), "uniform", 1.0, 2.0) if bias else None
        return self.node("conv2d", x, weight, offset, path=name, **attributes).value


def difference(before: Graph, after: Graph, image: np.ndarray) -> float:
    a, b = (backend("pytorch").Reference(widen(g))([image])[0] for g in (before, after))
    return float(np.abs(a - b).max() / np.abs(a).max())


def border_images() -> list[np.ndarray]:
    """Images of which only corners, edges, or nothing at all is not zero: what padding reaches shows."""
    corner, edge, empty = (np.zeros((1, 3, 5, 5)) for _ in range(3))
    corner[:, :, 0, 0] = corner[:, :, -1, -1] = 1e3
    edge[:, :, :, 0] = edge[:, :, -1, :] = -1e3
    return [corner, edge, empty]


BORDERS: dict[str, Callable[[Image], Value]] = {
    "padding before": lambda g: g.convolution(g.convolution(g.x, 6, padding=1, name="a"), 2, 3, name="b"),
    "no bias": lambda g: g.convolution(g.convolution(g.x, 6, bias=False, name="a"), 2, 3, name="b", padding=1),
    "uneven": lambda g: g.convolution(
        g.convolution(g.x, 6, bias=False, name="a"), 2, 3, name="b", padding=[[0, 1], [2, 0]], stride=[2, 1]
    ),
    "dilated": lambda g: g.convolution(
        g.convolution(g.x, 6, bias=False, name="a"), 2, 3, name="b", padding=2, dilation=2
    ),
    "1x1 after": lambda g: g.convolution(g.convolution(g.x, 6, 3, padding=1, stride=2, name="a"), 2, name="b"),
    "two kernels": lambda g: g.convolution(g.convolution(g.x, 24, 3, padding=2, name="a"), 1, 3, name="b"),
    "separable": lambda g: g.convolution(
        g.convolution(g.convolution(g.x, 18, padding=1, name="a"), 18, 3, groups=18, name="b"), 3, name="c"
    ),
}


@pytest.mark.parametrize("case", BORDERS)
def test_merged_convolutions_agree_where_only_padding_reaches(case: str) -> None:
    build = Image()
    before = build.done(BORDERS[case](build))
    after = applied(before, "merge_layers")
    assert operators(after) == {"conv2d": 1}
    for image in border_images():
        assert difference(before, after, image) <= 1e-9


NOT_AT_BORDERS: dict[str, Callable[[Image], Value]] = {
    "a bias before padding": lambda g: g.convolution(g.convolution(g.x, 6, name="a"), 2, 3, name="b", padding=1),
    "a kernel before padding": lambda g: g.convolution(
        g.convolution(g.x, 24, 3, bias=False, name="a"), 1, 3, name="b", padding=1
    ),
    "padding of a 1x1": lambda g: g.convolution(g.convolution(g.x, 6, 3, name="a"), 2, name="b", padding=1),
    "an inverted residual that pads inside": lambda g: g.convolution(
        g.convolution(g.convolution(g.x, 18, name="a"), 18, 3, groups=18, padding=1, name="b"), 3, name="c"
    ),
}


@pytest.mark.parametrize("case", NOT_AT_BORDERS)
def test_convolutions_that_differ_at_borders_stay(case: str) -> None:
    build = Image()
    before = build.done(NOT_AT_BORDERS[case](build))
    assert library()["merge_layers"].run(before) is before


def test_without_its_condition_on_borders_the_rule_is_refused() -> None:
    text = (ROOT / "compiler/rewrites/merge_layers.net").read_text()
    condition = "    where absent(b1) or every(p2, [0, 0])\n"
    assert text.count(condition) == 2
    wrong = netc.loads(Source("wrong.net", text.replace(condition, "")))  # its rules hide the compiler's
    with pytest.raises(NetcError, match="counter-example") as caught:
        wrong.steps("merge_pointwise_before")
    assert caught.value.diagnostics[0].code == "wrong-rule"


# ------------------------------------------------------------------------------------------------------- refusals


def tied(g: Image) -> Value:
    once = g.convolution(g.x, 3, name="a")
    weight, bias = (g.edit.node("a").inputs[i] for i in (1, 2))
    twice = g("conv2d", once, weight, bias)
    stats = [g.parameter(f"s{i}", (3,), "uniform", 0.5, 1.5) for i in range(4)]
    return g("batch_norm", twice, *stats)


def read_twice(g: Image) -> Value:
    inner = g.convolution(g.x, 3, name="a")
    return g("add", g.convolution(inner, 2, name="b"), g("mean", inner, dim=[1], keepdim=True))


REFUSALS: dict[str, tuple[str, Callable[[Image], Value]]] = {
    "a tied weight": ("fold", tied),
    "another reader": ("merge_layers", read_twice),
    "a wider product": (
        "merge_layers",
        lambda g: g.convolution(g.convolution(g("concat", g.x, g.x, dim=1), 2, name="a"), 64, name="b"),
    ),
    "another stride": (
        "merge_layers",
        lambda g: g("add", g.convolution(g.x, 2, 3, name="a"), g.convolution(g.x, 2, name="b", stride=2)),
    ),
    "a kernel beside its pixel": (
        "merge_layers",
        lambda g: g("add", g.convolution(g.x, 3, 2, padding=1, dilation=2, name="a"), g.x),
    ),
    "a border that is mirrored": (
        "fold",
        lambda g: g.convolution(g("pad", g.x, padding=[[1, 1], [1, 1]], mode="reflect"), 2, 3),
    ),
    "a border of ones": ("fold", lambda g: g.convolution(g("pad", g.x, padding=[[1, 1], [1, 1]], value=1), 2, 3)),
    "a border of unknown size": (
        "fold",
        lambda g: g.convolution(g("pad", g.x, padding=[[g.edit.type(g.input("k", "f32[M]")).shape[0], 1], [1, 1]]), 2),
    ),
    "positions": ("fold", lambda g: g("add", g.convolution(g.x, 2), g.parameter("p", (2, 5, 5)))),
    "zeros that are the largest": (
        "fold",
        lambda g: g("max_pool2d", g("pad", g.x, padding=[[1, 1], [1, 1]]), kernel_size=3, stride=2),
    ),
    "a rounding cast": ("simplify", lambda g: g("cast", g("cast", g.x, dtype="f16"), dtype="f32")),
    "a zero that makes the shape": ("simplify", lambda g: g("add", g.x, g("full", size=[2, 1, 1, 1, 1], value=0.0))),
    "parts in another order": (
        "simplify",
        lambda g: (lambda s: g("concat", s.values[1], s.values[0], dim=2))(g.node("split", g.x, sizes=[2, 3], dim=2)),
    ),
    "a mean that pads": (
        "reduce",
        lambda g: g("avg_pool2d", g.convolution(g.x, 2), kernel_size=2, stride=2, padding=1),
    ),
    "a slice of the features": ("reduce", lambda g: g("slice", linear(g, g.x), dim=3, start=0, stop=1)),
}


def linear(g: Image, x: Ref, bias: bool = True) -> Value:
    width = g.edit.type(x).shape[-1]
    assert isinstance(width, int)
    return g("linear", x, g.parameter("l.weight", (4, width)), g.parameter("l.bias", (4,)) if bias else None)


@pytest.mark.parametrize("case", REFUSALS)
def test_rules_refuse(case: str) -> None:
    name, make = REFUSALS[case]
    build = Image()
    graph = build.done(make(build))
    assert library()[name].run(graph) is graph


# -------------------------------------------------------------------------------------------------- single rules


def test_a_scale_goes_into_a_grouped_convolution() -> None:
    build = Image(4)
    scale = build.parameter("s", (6, 1, 1))
    before = build.done(build("mul", build.convolution(build.x, 6, 3, groups=2, padding=1), scale))
    assert operators(applied(before, "fold")) == {"conv2d": 1}


@pytest.mark.parametrize("order", [[0, 2, 4, 3, 5, 1], [0, 2, 4, 1, 3, 5]])
def test_patches_are_a_strided_convolution(order: list[int]) -> None:
    build = Builder()
    x = build.input("x", "f32[N, 3, 8, 12]")
    cut = build("permute", build("reshape", x, size=[-1, 3, 4, 2, 3, 4]), dims=order)
    rows = build("reshape", cut, size=[-1, 12, 24])
    y = build("linear", rows, build.parameter("weight", (5, 24)), build.parameter("bias", (5,)))
    after = applied(build.done(y), "patches_to_convolution")
    assert operators(after) == {"conv2d": 1, "reshape": 1, "permute": 1}


def test_both_outputs_of_one_node_in_a_pattern() -> None:
    build = Builder()
    x = build.input("x", "f32[N, 6]")
    halves = build.node("split", x, sizes=[3, 3], dim=1)
    gated = build("mul", halves.values[0], build("sigmoid", halves.values[1]))
    assert operators(applied(build.done(gated), "recognise")) == {"glu": 1}
    build = Builder()
    x = build.input("x", "f32[N, 6]")
    parts = build.node("split", x, sizes=[2, 4], dim=1)
    joined = build("relu", build("concat", *parts.values, dim=1))
    assert operators(applied(build.done(joined), "simplify")) == {"relu": 1}


def test_attention_of_several_heads_is_recognised() -> None:
    build = Builder()
    q, k, v = (build.input(n, "f32[N, T, 8]") for n in "qkv")
    mask = build.input("mask", "f32[N, 1, T, T]")
    t = build.edit.type(q).shape[1]

    def heads(x: Value) -> Value:
        return build("permute", build("reshape", x, size=[-1, t, 2, 4]), dims=[0, 2, 1, 3])

    scores = build("matmul", heads(q), build("permute", heads(k), dims=[0, 1, 3, 2]))
    scores = build("add", build("div", scores, build("constant", value=2.0)), mask)
    y = build("matmul", build("softmax", scores, dim=-1), heads(v))
    after = applied(build.done(y), "simplify", "recognise")
    assert operators(after) == {"scaled_dot_product_attention": 1, "reshape": 3, "permute": 3}
    (attention,) = (n for n in after.nodes.values() if n.op.name == "scaled_dot_product_attention")
    assert attention.op.attributes()["scale"] == 0.5


def test_a_norm_goes_through_a_concatenation() -> None:
    build = Image()
    parts = [build.convolution(build.x, out, kernel, padding=kernel // 2, bias=out > 2, name=f"c{out}")
             for out, kernel in ((2, 1), (3, 3), (4, 5))]  # fmt: skip
    stats = [build.parameter(f"s{i}", (9,), "uniform", 0.5, 1.5) for i in range(4)]
    before = build.done(build("batch_norm", build("concat", *parts, dim=1), *stats))
    assert operators(applied(before, "fold")) == {"conv2d": 3, "concat": 1}


# ----------------------------------------------------------------------------------------------------- whole models


def deployed(spec: str, name: str, *, small: bool = False, wide: bool = True) -> tuple[Graph, Graph]:
    """A model, or its reduced form, and what it is deployed as; in float64 unless not `wide`."""
    path = Path(__file__).parent / "reduced" / spec if small else ROOT / "specs" / spec
    found = program(path, root=ROOT)
    graph = probed(found.model(name).graph, 0)
    graph = widen(graph) if wide else graph
    return graph, run(graph, found.steps(DEPLOY)).final


def shape(graph: Graph) -> list[tuple[str, str, list[str]]]:
    """What a graph computes, whatever its nodes and parameters are called."""
    return [(n.op.name, str(n.types), [str(graph.type(r)) for r in n.refs]) for n in graph.nodes.values()]


def stored(graph: Graph) -> int:
    return sum(int(str(p.type.elements)) for p in graph.parameters.values() if not p.buffer)


@pytest.mark.parametrize(
    ("spec", "name", "parameters"),
    [("repvgg.net", "repvgg_a0", 8_309_384), ("parnet.net", "parnet_s", 19_177_032)],
)
def test_branches_become_the_published_form(spec: str, name: str, parameters: int) -> None:
    before, after = deployed(spec, name)
    _, form = deployed(spec, f"{name}_deploy")
    assert sorted(shape(after)) == sorted(shape(form))
    assert stored(after) == stored(form) == parameters
    assert (
        Counter(n.op.name for n in after.nodes.values())["conv2d"]
        < Counter(n.op.name for n in before.nodes.values())["conv2d"]
    )


@pytest.mark.parametrize(
    ("spec", "name", "small"),
    [
        ("repvgg.net", "repvgg_a0", False),
        ("repvgg.net", "repvgg_a0", True),
        ("parnet.net", "parnet_s", True),
        ("mobilenet_v2.net", "mobilenet_v2_linear", True),
    ],
)
def test_models_fold_exactly(spec: str, name: str, small: bool) -> None:
    found = measure(*deployed(spec, name, small=small), Contract(), probes=1, bind={"N": 1})
    assert found.kept, f"{found.worst} differs by {found.relative}"


def test_mobilenet_without_activations_merges() -> None:
    before, after = deployed("mobilenet_v2.net", "mobilenet_v2_linear", wide=False)
    assert operators(after) == {"conv2d": 20, "relu6": 19, "mean": 1, "linear": 1}
    found = measure(before, after, Contract("approx", 1e-5), probes=1, bind={"N": 1})
    assert found.kept, f"{found.worst} differs by {found.relative} in float32"


def test_outputs_are_those_of_the_reference() -> None:
    """The oracle of these tests and that of the passes' agree."""
    build = Image()
    graph = build.done(BORDERS["separable"](build))
    (one,) = outputs(graph)
    (two,) = outputs(applied(graph, "merge_layers"))
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-9 * np.abs(one).max())
