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
from netc.compiler.align import Alignment, align, by_path
from netc.compiler.graph import Graph, Node, ParameterRef, Ref, Value, verify
from strategies import Builder, graphs

SPECS = Path(netc.load.__code__.co_filename).parents[1] / "specs"


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
