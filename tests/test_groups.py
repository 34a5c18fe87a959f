"""Groups of a plan as kernels: one for one on the module that is compiled, whatever they are, and the same numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from random import Random

import netc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netc.backends.pytorch.reference import Reference
from netc.backends.relax import compile
from netc.backends.relax.build import Built, build, fused, prepare, probe
from netc.backends.relax.grouping import chosen, correspondence
from netc.backends.relax.lower import lower
from netc.backends.relax.machine import host
from netc.backends.relax.optimise import choose, generate, optimise
from netc.compiler.diagnostic import NetcError
from netc.compiler.fusion.decide import decide
from netc.compiler.fusion.group import Group
from netc.compiler.fusion.prepare import prepared
from netc.compiler.fusion.work import Work
from netc.compiler.graph import Graph
from netc.compiler.operators.operator import SAMPLES
from netc.compiler.plan import PLANNER, AutoLine, Plan
from netc.compiler.source import Source, Span
from netc.compiler.target import LLVM
from netc.compiler.types import symbols
from oracle import call, doubled, draw
from strategies import graphs
from test_relax import CHOICES, assert_close, execute, sampled
from test_specs import MODELS, OTHER_SIZES, SIZES, assert_agree, feeds, small
from test_specs import reference as wanted

HERE = host(threads=1)
Planner = Callable[[Graph], list[Group]]


def alone(graph: Graph) -> list[Group]:
    """Each node by itself."""
    return [Group(path, (path,)) for path in Work(graph).nodes]


def together(graph: Graph) -> list[Group]:
    """Everything in one kernel."""
    return [Group("all", tuple(Work(graph).nodes))]


def drawn(seed: int) -> Planner:
    """Pieces of a random topological order: the groups are convex, and not always connected."""

    def plan(graph: Graph) -> list[Group]:
        random = Random(seed)
        work = Work(graph)
        waiting = {path: set(before) for path, before in work.before.items()}
        groups: list[list[str]] = [[]]
        while waiting:
            path = random.choice([p for p, before in waiting.items() if not before])
            del waiting[path]
            for before in waiting.values():
                before.discard(path)
            if groups[-1] and random.random() < 0.4:
                groups.append([])
            groups[-1].append(path)
        place = list(graph.nodes).index
        return [Group(f"g{i}", tuple(sorted(group, key=place))) for i, group in enumerate(groups) if group]

    return plan


def model(text: str) -> Graph:
    return netc.loads(Source("test.net", text)).model("m").graph


def compiled(graph: Graph, plan: Planner) -> Built:
    """The graph by the groups of a plan, its kernels held to them and its numbers to PyTorch's."""
    graph = prepare(graph, {})
    groups = plan(graph)
    built = build(graph, HERE, 0, groups)
    assert_one_kernel_each(built, groups)
    inputs = probe({name: node.types[0] for name, node in graph.inputs.items()})
    for found, right in zip(execute(built, inputs).values(), Reference(graph)(inputs), strict=True):
        assert_close(found, right, 1e-4)
    return built


def assert_one_kernel_each(built: Built, groups: Sequence[Group]) -> None:
    """Read off the instructions of the virtual machine."""
    text = built.executable.as_text().partition("@main:")[2].partition("\n@")[0]
    called = re.findall(r"^ +call +(?!vm\.builtin|shape_func)(\S+)", text, re.M)
    assert called == [f.kernel for f in built.groups]
    assert len(called) == len(groups)
    assert sorted((f.group.name, f.group.nodes) for f in built.groups) == sorted((g.name, g.nodes) for g in groups)
    assert set(called) == built.report.rules.keys()


GRAPHS = {
    "conv_bn_relu": """
        module M() (x: [2, 5, 9, 9]) -> y {
            return y = x |> conv2d(8, 3, padding = 1) as conv |> batch_norm as norm |> relu
        }
        model m = M() (x: f32[2, 5, 9, 9])
    """,
    "residual": """
        module M() (x: [N, 8, H, W]) -> y {
            y = x |> conv2d(16, 1) as expand |> silu |> conv2d(16, 3, padding = 1, groups = 16) as depth |> silu
            s = y |> mean(dim = [2, 3], keepdim = true) |> conv2d(4, 1) as squeeze |> silu |> conv2d(16, 1) as excite
            return y = x + (y * sigmoid(s) |> conv2d(8, 1) as project)
        }
        model m = M() (x: f32[N, 8, H, W])
    """,
    "attention": """
        module M(d = 16, heads = 2) (x: [N, T, 16]) -> y {
            q = x |> linear(d) as q |> rearrange("n t (h d) -> n h t d", h = heads)
            k = x |> linear(d) as k |> rearrange("n t (h d) -> n h t d", h = heads)
            v = x |> linear(d) as v |> rearrange("n t (h d) -> n h t d", h = heads)
            y = scaled_dot_product_attention(q, k, v) |> rearrange("n h t d -> n t (h d)") |> linear(d) as out
            z = x + y |> layer_norm as norm
            return z + (z |> linear(32) as up |> gelu |> linear(d) as down)
        }
        model m = M() (x: f32[N, T, 16])
    """,
    "attention_by_hand": """
        module M(d = 16, heads = 2) (x: [2, 5, 16]) -> y {
            y = x |> linear(3 * d) as qkv |> rearrange("n t (s h d) -> n h t (s d)", s = 3, h = heads)
            q, k, v = y |> chunk(3, 3)
            a = matmul(q, transpose(k, 2, 3)) * 0.35 |> softmax
            return y = matmul(a, v) |> rearrange("n h t d -> n t (h d)") |> linear(d) as out
        }
        model m = M() (x: f32[2, 5, 16])
    """,
    "several_results": """
        module M() (x: [N, 12]) -> (a, b, c, d) {
            y = x |> linear(12) as first |> relu
            values, indices = y |> topk(3)
            left, right = y |> split([4, 8], 1)
            z = concat(left |> sin, values, dim = 1)
            return a = values + 1.0, b = indices, c = y, d = exp(right)
        }
        model m = M() (x: f32[N, 12])
    """,
    "views": """
        module M() (x: [4, 6, 10]) -> (a, b) {
            y = x |> relu |> permute([2, 0, 1]) |> reshape([5, 8, 6]) |> sigmoid
            y = y |> permute([0, 2, 1]) |> reshape([30, 8])
            z = y |> softmax(0) |> reshape([2, 3, 5, 8]) |> permute([3, 1, 0, 2])
            return a = z, b = y |> reshape([240])
        }
        model m = M() (x: f32[4, 6, 10])
    """,
    "symbolic_views": """
        module M() (x: [N, T, 8]) -> (a, b) {
            y = x |> exp |> reshape([N * T, 8]) |> linear(6) as fc |> reshape([N, T, 2, 3]) |> permute([2, 0, 1, 3])
            return a = y |> reshape([2 * N, T, 3]) |> softmax, b = y |> cumsum(2)
        }
        model m = M() (x: f32[N, T, 8])
    """,
    "shared_copies": """
        module M() (x: [2, 3, 8]) -> (a, b, c) {
            y = x |> relu |> permute([2, 0, 1]) |> reshape([4, 12])
            return a = sin(y), b = cos(y), c = y |> linear(5) as fc
        }
        model m = M() (x: f32[2, 3, 8])
    """,
    "moved_inputs": """
        module M() (x: [2, 3, 8], y: [4]) -> (a, b, c, d) {
            return a = permute(x, [1, 2, 0]), b = reshape(x, [6, 8]), c = y, d = cast(y, dtype = f32) |> exp
        }
        model m = M() (x: f32[2, 3, 8], y: f32[4])
    """,
    "recurrent": """
        module M() (x: [N, T, 6]) -> (a, b) {
            y, h, c = x |> lstm(5, 2, bidirectional = true) as lstm
            z, last = y |> gru(4) as gru
            return a = z |> relu, b = h + c
        }
        model m = M() (x: f32[N, T, 6])
    """,
    "programs": """
        module M() (x: [2, 3, 4]) -> y {
            values, indices = x |> mish |> topk(2)
            return y = values |> softmax |> cumsum(1) |> sin
        }
        model m = M() (x: f32[2, 3, 4])
    """,
    "sizes": """
        module M() (x: [M, 4], y: [N]) -> (a, b) {
            t = arange(0, N) |> cast(dtype = f32)
            return a = x |> sin |> sqrt, b = (y + t |> exp) * mean(x)
        }
        model m = M() (x: f32[2 * N, 4], y: f32[N])
    """,
}
PLANS: dict[str, Planner] = {"alone": alone, "together": together} | {f"drawn{i}": drawn(i) for i in range(4)}
SLOW = {"drawn1", "drawn2", "drawn3"}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("plan", [pytest.param(p, marks=pytest.mark.slow) if p in SLOW else p for p in PLANS])
def test_kernels_are_the_groups(graph: str, plan: str) -> None:
    compiled(model(GRAPHS[graph]), PLANS[plan])


@settings(max_examples=5, derandomize=True)
@given(graphs(training=False), st.integers(0, 99))
def test_kernels_are_the_groups_of_any_graph(graph: Graph, seed: int) -> None:
    compiled(graph, drawn(seed))


@pytest.mark.slow
@settings(max_examples=60, derandomize=True)
@given(graphs(size=25, training=False), st.integers(0, 99))
def test_kernels_are_the_groups_of_many_graphs(graph: Graph, seed: int) -> None:
    compiled(graph, drawn(seed))


def by_sample(graph: Graph) -> list[Group]:
    """What each sample of an operator was expanded into is a group."""
    found: dict[str, list[str]] = {}
    for path in Work(graph).nodes:
        found.setdefault(re.split(r"[.~]", path)[0], []).append(path)
    return [Group(name, tuple(nodes)) for name, nodes in found.items()]


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("plan", [alone, by_sample])
def test_every_operator_is_a_kernel(choice: str, plan: Planner) -> None:
    graph, inputs, taken = sampled(CHOICES[choice])
    graph = prepare(graph, {})
    groups = plan(graph)
    built = build(graph, HERE, 0, groups)
    assert_one_kernel_each(built, groups)
    found = execute(built, inputs)
    for number in taken:
        sample = SAMPLES[number]
        for i, right in enumerate(call(sample.op, *doubled(draw(sample)))):
            assert_close(found[f"{number}:{i}"], right.numpy(), 1e-4)


TARGET = LLVM(threads=1, cache=512 * 1024)
PLANNERS = ("alone", "pattern", PLANNER)
"""Plans for every model of every spec: each node alone, fusion by patterns, and what is meant where none is named."""

graph_of = lru_cache(maxsize=2)(small)


@lru_cache(maxsize=2)
def right(path: Path, name: str) -> list[np.ndarray]:
    graph = graph_of(path, name)
    return wanted(graph, feeds(graph, 0))


def planned(graph: Graph, planner: str) -> tuple[dict[str, int], list[Group]]:
    """Sizes, and the groups of a planner at these; nodes alone need no sizes."""
    if planner == "alone":
        return {}, alone(prepare(graph, {}))
    names = {s for node in graph.inputs.values() for d in node.types[0].shape for s in symbols(d)}
    sizes = {name: SIZES.get(name, OTHER_SIZES) for name in names}
    nowhere = Span(Source("test.net", ""), 0, 0)
    fuse = (AutoLine("dram", planner, {}, nowhere),)
    plan = Plan(planner, graph.name, "here", TARGET, nowhere, bind=sizes, fuse=fuse)
    return sizes, list(decide(plan, prepared(plan, graph)).groups)


@pytest.mark.slow
@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize(("path", "name"), MODELS)
def test_every_model_is_compiled_by_groups(path: Path, name: str, planner: str, tmp_path: Path) -> None:
    graph = graph_of(path, name)
    sizes, groups = planned(graph, planner)
    artifact = compile(graph, TARGET, tmp_path / "artifact", groups=groups, bind=sizes)
    assert artifact is not None
    assert sorted((g["name"], tuple(g["nodes"])) for g in artifact.groups) == sorted((g.name, g.nodes) for g in groups)
    assert {g["kernel"] for g in artifact.groups} == {k["name"] for k in artifact.manifest["kernels"]}
    assert_agree(artifact.run(list(feeds(graph, 0).values())), right(path, name))


# ----------------------------------------------------------------------------------------------- how it is done

CHAIN = """
    module M() (x: [2, 3, 8]) -> y {
        return y = x |> relu as a |> permute([2, 0, 1]) |> reshape([4, 12]) |> sin as b |> exp as c
    }
    model m = M() (x: f32[2, 3, 8])
"""


def groups_of(built: Built) -> list[tuple[str, tuple[str, ...], str]]:
    return [(f.group.name, f.group.nodes, f.kernel) for f in built.groups]


def test_copies_belong_to_their_readers() -> None:
    built = compiled(model(CHAIN), lambda _: [Group("one", ("a",)), Group("two", ("b", "c"))])
    assert groups_of(built) == [("one", ("a",), "group_relu"), ("two", ("b", "c"), "group_copy_sin_exp")]


def test_a_view_inside_a_group_is_computed_in_it() -> None:
    (kernel,) = fused(prepare(model(CHAIN), {}), HERE).values()
    blocks = re.findall(r'T\.sblock\("(\w+)"\)', kernel.script())
    assert blocks == ["root", "relu", "copy", "reshape", "sin", "exp"]


def test_equal_groups_share_a_kernel_and_are_called_each() -> None:
    text = """
        module M() (x: [2, 8]) -> y {
            y = x |> linear(8) as one |> relu as two |> linear(8) as three |> relu as four
            return y = y |> exp as five
        }
        model m = M() (x: f32[2, 8])
    """
    built = compiled(model(text), lambda _: [Group("a", ("one", "two")), Group("b", ("three", "four", "five"))])
    assert [k for *_, k in groups_of(built)] == ["group_linear_relu", "group_linear_relu_exp"]
    built = compiled(
        model(text), lambda _: [Group("a", ("one", "two")), Group("b", ("three", "four")), Group("c", ("five",))]
    )
    assert [k for *_, k in groups_of(built)] == ["group_linear_relu", "group_linear_relu", "group_exp"]


def test_groups_that_need_each_other_are_refused() -> None:
    graph = prepare(model(CHAIN), {})
    with pytest.raises(NetcError, match="groups need each other's results: ends, middle"):
        build(graph, HERE, 0, [Group("ends", ("a", "c")), Group("middle", ("b",))])


def test_groups_hold_every_working_node_once() -> None:
    with pytest.raises(AssertionError, match="no partition"):
        build(prepare(model(CHAIN), {}), HERE, 0, [Group("some", ("a", "b"))])


def test_what_does_not_correspond_is_found() -> None:
    graph = prepare(model(CHAIN), {})
    before = lower(graph, HERE).main
    module = choose(before, HERE)
    kernels = chosen(module, before)
    module, _ = optimise(module, HERE)
    executable = generate(module, HERE)
    correspondence(module, executable, kernels)
    assert len(kernels) == 2
    for wrong in (kernels[:1], kernels[::-1], [*kernels, kernels[0]], [replace(k, kernel="relu") for k in kernels]):
        with pytest.raises(AssertionError):
            correspondence(module, executable, wrong)


def test_kernels_that_calls_share_are_told_apart() -> None:
    """TVM keeps one function for equal ones, which bears the paths of the first alone."""
    layer = '|> linear(8) as {0} |> relu as {0}r |> linear(8) as {0}t |> gelu(approximate = "tanh") as {0}g'
    body = " ".join(layer.format(name) for name in "abc")
    text = f"model m = M() (x: f32[4, 8])\nmodule M() (x) {{ return x {body} }}\n"
    built = build(prepare(model(text), {}), HERE, 0)
    assert [set(g.group.nodes) for g in built.groups] == [
        {f"{name}{one}", f"{name}{two}"} for name in "abc" for one, two in (("", "r"), ("t", "g"))
    ]
    assert len({g.kernel for g in built.groups}) == 2


def test_the_manifest_lists_groups(tmp_path: Path) -> None:
    groups = [Group("one", ("a",)), Group("two", ("b", "c"))]
    artifact = compile(model(CHAIN), LLVM(threads=1), tmp_path / "m", groups=groups)
    assert artifact is not None
    assert artifact.groups == [
        {"name": "one", "nodes": ["a"], "kernel": "group_relu", "schedule": "injective"},
        {"name": "two", "nodes": ["b", "c"], "kernel": "group_copy_sin_exp", "schedule": "injective"},
    ]


def test_the_manifest_lists_what_tvm_fuses(tmp_path: Path) -> None:
    artifact = compile(model(CHAIN), LLVM(threads=1), tmp_path / "m")
    assert artifact is not None
    assert [(g["nodes"], g["kernel"]) for g in artifact.groups] == [
        (["a", "reshape"], "fused_relu_copy"),
        (["b", "c"], "fused_sin_exp"),
    ]
