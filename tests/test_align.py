"""Pairing the nodes of two graphs: by name, by structure, and what happens where the two disagree."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import netc
import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from netc.compiler.align import Alignment, align, by_path, unnamed
from netc.compiler.graph import Graph, Node, ParameterRef, Ref, Value, verify
from strategies import Builder, graphs

SPECS = Path(__file__).parents[1] / "specs"


@cache
def spec(file: str, model: str) -> Graph:
    return netc.load(SPECS / f"{file}.net").model(model).graph


def moved(
    graph: Graph, names: Callable[[str], str], order: Callable[[Graph], list[str]] = lambda g: list(g.nodes)
) -> Graph:
    """The same graph with its nodes, parameters and scopes under other names, perhaps in another order."""

    def ref(old: Ref) -> Ref:
        return (
            ParameterRef(names(old.parameter)) if isinstance(old, ParameterRef) else Value(names(old.node), old.index)
        )

    def node(old: Node) -> Node:
        return replace(old, path=names(old.path), inputs=tuple(None if i is None else ref(i) for i in old.inputs))

    made = Graph(
        graph.name,
        {names(path): node(graph.nodes[path]) for path in order(graph)},
        {name: ref(value) for name, value in graph.outputs.items()},
        {names(path): replace(p, path=names(path)) for path, p in graph.parameters.items()},
        {names(s.path): replace(s, path=names(s.path), instance=names(s.instance)) for s in graph.scopes.values()},
        {name: ref(value) for name, value in graph.taps.items()},
    )
    verify(made)
    return made


def prefixed(names: Mapping[str, str]) -> Callable[[str], str]:
    """A renaming of scopes: the longest known beginning of a path is replaced."""

    def rename(path: str) -> str:
        start = path
        while start:
            if start in names:
                return names[start] + path[len(start) :]
            start = start.rpartition(".")[0]
        return path

    return rename


def shuffled(graph: Graph) -> list[str]:
    """Another topological order."""
    order = {path: i for i, path in enumerate(random.sample(list(graph.nodes), len(graph.nodes)))}
    return list(networkx.lexicographical_topological_sort(graph.nx, key=order.__getitem__))


def preserves(a: Graph, b: Graph, pairs: Alignment) -> bool:
    """Whether every node and parameter of both has a counterpart that differs in its name only."""
    if len(pairs.nodes) != len(a.nodes) or len(pairs.parameters) != len(a.parameters):
        return False
    if len(a.nodes) != len(b.nodes) or len(a.parameters) != len(b.parameters):
        return False
    for path, node in a.nodes.items():
        other = b.nodes[pairs.nodes[path]]
        inputs = tuple(None if i is None else pairs.ref(i) for i in node.inputs)
        if (node.op, inputs, node.types, node.phase) != (other.op, other.inputs, other.types, other.phase):
            return False
    return all(
        (p.type, p.buffer) == (q.type, q.buffer)
        for p, q in ((a.parameters[here], b.parameters[there]) for here, there in pairs.parameters.items())
    )


@given(graphs(), st.sampled_from(["new", "permuted"]))
def test_a_renamed_graph_is_paired_whole(graph: Graph, kind: str) -> None:
    paths = [*graph.nodes, *graph.parameters]
    if kind == "new":
        others = {path: f"n{i}" for i, path in enumerate(paths)}
    else:
        nodes = dict(zip(graph.nodes, random.sample(list(graph.nodes), len(graph.nodes)), strict=True))
        parameters = list(graph.parameters)
        others = {**dict(zip(parameters, random.sample(parameters, len(parameters)), strict=True)), **nodes}
    other = moved(replace(graph, scopes={}), lambda path: others[path], shuffled)
    assert preserves(graph, other, align(graph, other))
    assert preserves(other, graph, align(other, graph))


@given(graphs())
def test_a_graph_is_paired_with_itself(graph: Graph) -> None:
    assert align(graph, graph) == by_path(graph, graph)


@given(graphs(), graphs())
def test_pairs_are_one_to_one(a: Graph, b: Graph) -> None:
    pairs = align(a, b)
    for table, here, there in ((pairs.nodes, a.nodes, b.nodes), (pairs.parameters, a.parameters, b.parameters)):
        assert set(table) <= set(here)
        assert set(table.values()) <= set(there)
        assert len(set(table.values())) == len(table)
    assert pairs.back.back == pairs


@given(graphs(), st.data())
def test_a_changed_node_keeps_its_counterpart(graph: Graph, data: st.DataObject) -> None:
    """Under other names, with a node of another phase: everything else says which it is."""
    other = moved(replace(graph, scopes={}), lambda path: f"m.{path}")
    node = data.draw(st.sampled_from(list(other.nodes.values())))
    changed = replace(node, phase="train" if node.phase == "both" else "both")
    pairs = align(graph, replace(other, nodes={**other.nodes, node.path: changed}))
    assert len(pairs.nodes) == len(graph.nodes)


STAGES = {"layer1": "stage1", "layer2": "stage2", "layer3": "stage3", "layer4": "stage4", "fc": "head", "conv1": "stem"}


@pytest.mark.parametrize("names", [STAGES, {"layer1.0": "front"}, {"layer1.0": "layer1.1", "layer1.1": "layer1.0"}])
def test_renamed_scopes(names: dict[str, str]) -> None:
    graph = spec("resnet", "resnet18")
    other = moved(graph, prefixed(names))
    pairs = align(graph, other)
    assert pairs.nodes == {path: prefixed(names)(path) for path in graph.nodes}
    assert pairs.parameters == {path: prefixed(names)(path) for path in graph.parameters}
    assert {here: there for here, there in names.items() if here in pairs.scopes}.items() <= pairs.scopes.items()


def test_what_both_have_keeps_its_name() -> None:
    small, large = spec("resnet", "resnet18"), spec("resnet", "resnet34")
    assert align(small, large).nodes == {path: path for path in small.nodes}
    wider = align(spec("vit", "deit_tiny"), spec("vit", "deit_small"))
    assert wider == by_path(spec("vit", "deit_tiny"), spec("vit", "deit_small"))


def test_renamed_and_deeper() -> None:
    small, large = spec("resnet", "resnet18"), moved(spec("resnet", "resnet34"), prefixed(STAGES))
    assert align(small, large).nodes == {path: prefixed(STAGES)(path) for path in small.nodes}


def test_another_block_under_the_same_names() -> None:
    """Basic and bottleneck blocks: what is named alike is paired, and the last activation with the last."""
    pairs = align(spec("resnet", "resnet18"), spec("resnet", "resnet50")).nodes
    assert len(pairs) == len(spec("resnet", "resnet18").nodes)
    other = {here: there for here, there in pairs.items() if here != there}
    assert other == {f"layer{i}.{j}.relu_1": f"layer{i}.{j}.relu_2" for i in (1, 2, 3, 4) for j in (0, 1)}


def stack(*widths: int | str) -> Graph:
    """A chain as torch's `Sequential` names it: convolutions of these widths, each with an activation, and pools."""
    build = Builder("stack")
    x = build.input("x", "f32[N, 3, 32, 32]")
    channels, number = 3, 0
    for width in widths:
        if isinstance(width, str):
            x = build(width, x, path=f"features.{number}", kernel_size=2, stride=2)
            number += 1
        else:
            weight = build.parameter(f"features.{number}.weight", (width, channels, 3, 3))
            x = build("conv2d", x, weight, None, path=f"features.{number}", padding=1)
            x = build("relu", x, path=f"features.{number + 1}")
            channels, number = width, number + 2
    return build.done(x)


def test_numbers_are_no_names() -> None:
    """An insertion renumbers what follows; what is the same computation is paired."""
    pairs = align(stack(16, "max_pool2d", 32, "max_pool2d"), stack(16, 16, "max_pool2d", 32, "max_pool2d")).nodes
    assert pairs == {
        "x": "x", "features.0": "features.0", "features.1": "features.1", "features.2": "features.4",
        "features.3": "features.5", "features.4": "features.6", "features.5": "features.7",
    }  # fmt: skip


def test_names_that_nobody_gave() -> None:
    build = Builder()
    x = build.input("x", "f32[2]")
    paths = {"relu": True, "relu_1": True, "a.0": True, "a.relu_12": True, "relu1": True, "act": False, "relu_a": False}
    assert {path: unnamed(build.node("relu", x, path=path)) for path in paths} == paths


def scaled(first: str, second: str, *, crossed: bool = False) -> Graph:
    """(x · a) - (x · b): two branches that only the order of operands tells apart."""
    build = Builder("branches")
    x = build.input("x", "f32[N, 4]")
    a, b = build.parameter("a", (4,)), build.parameter("b", (4,))
    one = build("mul", x, b if crossed else a, path=first)
    two = build("mul", x, a if crossed else b, path=second)
    return build.done(build("sub", one, two, path="end"))


def test_symmetric_branches_follow_the_order_of_operands() -> None:
    assert align(scaled("p", "q"), scaled("s", "t")).nodes == {"x": "x", "p": "s", "q": "t", "end": "end"}
    assert align(scaled("p", "q"), scaled("q", "p")).nodes == {"x": "x", "p": "q", "q": "p", "end": "end"}


def test_a_replaced_node() -> None:
    """Another operator between the same neighbours, under its own automatic name; at the end of the graph as well."""

    def perceptron(activation: str) -> Graph:
        build = Builder("net")
        x = build.input("x", "f32[N, 8]")
        for i in range(3):
            x = build("linear", x, build.parameter(f"fc{i}.weight", (8, 8)), None, path=f"fc{i}")
            x = build(activation, x)
        return build.done(x)

    pairs = align(perceptron("relu"), perceptron("silu")).nodes
    assert {pairs["relu"], pairs["relu_1"], pairs["relu_2"]} == {"silu", "silu_1", "silu_2"}
    assert pairs["relu_2"] == "silu_2"


def test_images_of_paths() -> None:
    pairs = Alignment({"a.b.c": "x.b.c", "a.d": "x.e"}, {})
    assert pairs.scopes == {"a": "x", "a.b": "x.b"}
    assert [pairs.image(p) for p in ("a", "a.b", "a.b.new", "a.d.weight", "z.y")] == [
        "a", "x.b", "x.b.new", "x.e.weight", "z.y",
    ]  # fmt: skip


def test_thousands_of_equal_nodes() -> None:
    """Nothing tells them apart but their names: any pairs will do, and no search is needed to find them."""
    build = Builder("fan")
    x = build.input("x", "f32[N, 8]")
    for _ in range(3000):
        build("relu", x)
    graph = build.done(x)
    names = {path: f"n{i}" for i, path in enumerate(graph.nodes)}
    other = moved(graph, names.__getitem__, shuffled)
    assert preserves(graph, other, align(graph, other))
    assert align(graph, graph) == by_path(graph, graph)
