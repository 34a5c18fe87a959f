"""Comparison of graphs: differences path by path, and equality up to names."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from netc.compiler.diff import Difference, differences, same_structure
from netc.compiler.graph import Graph, Node, Parameter, ParameterRef, Ref, Scope, Value
from netc.compiler.operators.operator import Initialiser
from strategies import Builder, graphs


def example(*, kernel: int = 3, slope: float = 0.1, tied: bool = False) -> Graph:
    build = Builder("net")
    x = build.input("x", "f32[N, 4, 8, 8]")
    first = build.parameter("a.weight", (4, 4, kernel, kernel))
    second = first if tied else build.parameter("b.weight", (4, 4, kernel, kernel))
    y = build("conv2d", x, first, None, path="a", padding=kernel // 2)
    y = build("leaky_relu", y, path="act", negative_slope=slope)
    y = build("conv2d", y, second, None, path="b", padding=kernel // 2)
    return build.done(y)


def test_equal_graphs_do_not_differ() -> None:
    assert differences(example(), example()) == []


def test_attributes_types_and_parameters_are_compared() -> None:
    found = differences(example(), example(kernel=1, slope=0.2))
    assert [str(d) for d in found] == [
        "node %a: padding [[1, 1], [1, 1]] → [[0, 0], [0, 0]]",
        "node %act: negative_slope 0.1 → 0.2",
        "node %b: padding [[1, 1], [1, 1]] → [[0, 0], [0, 0]]",
        "parameter @a.weight: type f32[4, 4, 3, 3] → f32[4, 4, 1, 1]",
        "parameter @b.weight: type f32[4, 4, 3, 3] → f32[4, 4, 1, 1]",
    ]


def test_added_and_removed() -> None:
    graph = example()
    tied = differences(graph, example(tied=True))
    assert tied == [
        Difference("changed", "node", "b", "weight", "@b.weight", "@a.weight"),
        Difference(
            "removed", "parameter", "b.weight",
            before="f32[4, 4, 3, 3] initialiser = normal(0.0, 0.1) kind = param state = trained",
        ),
    ]  # fmt: skip
    assert str(tied[1]).startswith("parameter @b.weight removed: f32[4, 4, 3, 3]")
    assert [d.kind for d in differences(example(tied=True), graph)] == ["changed", "added"]


def test_everything_else_is_compared() -> None:
    graph = example()
    scopes = {"a": Scope("a", "A", "a")}
    frozen = replace(graph.parameters["a.weight"], trainable=False, initialiser=Initialiser("zeros"))
    other = replace(
        graph.with_parameters([frozen]),
        name="other",
        scopes=scopes,
        taps={"t": Value("a")},
        outputs={"output": Value("act"), "second": ParameterRef("a.weight")},
        nodes={**graph.nodes, "a": replace(graph.nodes["a"], phase="train")},
    )
    assert [str(d) for d in differences(graph, other)] == [
        "graph net: name net → other",
        "node %a: phase both → train",
        "parameter @a.weight: initialiser normal(0.0, 0.1) → zeros",
        "parameter @a.weight: state trained → frozen",
        "scope a added: A instance = a",
        "tap t added: %a",
        "output output: value %b → %act",
        "output second added: @a.weight",
    ]


def test_another_operator_shows_its_attributes() -> None:
    graph = example()
    build = Builder()
    op = build.node("softmax", build.input("x", "f32[2, 3]")).op
    other = replace(graph, nodes={**graph.nodes, "act": replace(graph.nodes["act"], op=op)})
    assert [(d.aspect, d.before, d.after) for d in differences(graph, other)] == [
        ("operator", "leaky_relu", "softmax"),
        ("negative_slope", "0.1", "nothing"),
        ("dim", "nothing", "1"),
    ]


@given(graphs(), graphs())
def test_no_difference_means_equal(a: Graph, b: Graph) -> None:
    assert differences(a, a) == []
    assert (differences(a, b) == []) == (a == b)


# ----------------------------------------------------------------------------------------------------- structure


def renamed(graph: Graph) -> Graph:
    """The same graph under other names, its parameters in another order."""
    node = {path: f"n{i}" for i, path in enumerate(graph.nodes)}
    parameter = {path: f"p{i}" for i, path in enumerate(reversed(graph.parameters))}

    def ref(old: Ref | None) -> Ref | None:
        if old is None:
            return None
        return (
            ParameterRef(parameter[old.parameter])
            if isinstance(old, ParameterRef)
            else Value(node[old.node], old.index)
        )

    def moved(n: Node) -> Node:
        return replace(n, path=node[n.path], inputs=tuple(map(ref, n.inputs)))

    def named(p: Parameter) -> Parameter:
        return replace(p, path=parameter[p.path])

    return Graph(
        "other",
        {node[n.path]: moved(n) for n in graph.nodes.values()},
        {f"o{i}": r for i, o in enumerate(graph.outputs.values()) if (r := ref(o)) is not None},
        {parameter[p.path]: named(p) for p in reversed(graph.parameters.values())},
    )


@given(graphs())
def test_names_do_not_count(graph: Graph) -> None:
    assert same_structure(graph, renamed(graph))
    assert same_structure(renamed(graph), graph)


@given(graphs(), st.data())
def test_one_changed_node_counts(graph: Graph, data: st.DataObject) -> None:
    other = renamed(graph)
    node = data.draw(st.sampled_from(list(other.nodes.values())))
    changed = replace(node, phase="train" if node.phase == "both" else "both")
    assert not same_structure(graph, replace(other, nodes={**other.nodes, node.path: changed}))


def test_ties_count() -> None:
    assert not same_structure(example(), example(tied=True))
    assert same_structure(example(tied=True), renamed(example(tied=True)))


def difference(*, swapped: bool = False, exchanged: bool = False) -> Graph:
    """x·a - y·b, and a dead x·a."""
    build = Builder()
    x, y = build.input("x", "f32[2]"), build.input("y", "f32[2]")
    a, b = build.parameter("a", (2,)), build.parameter("b", (2,))
    build("mul", x, a)
    left, right = build("mul", x, b if exchanged else a), build("mul", y, a if exchanged else b)
    return build.done(build("sub", right, left) if swapped else build("sub", left, right))


def test_order_of_operands_and_inputs_counts() -> None:
    assert same_structure(difference(), renamed(difference()))
    assert not same_structure(difference(), difference(swapped=True))


def test_what_dead_nodes_read_counts() -> None:
    assert not same_structure(difference(), difference(exchanged=True))


def dead(extra: int, chained: bool) -> Graph:
    """A graph with symmetric dead nodes, which no output tells apart."""
    build = Builder()
    x = build.input("x", "f32[2]")
    result = build("relu", x)
    for _ in range(extra):
        y = build("tanh", x)
        build("sigmoid", y if chained else x)
    return build.done(result)


def test_dead_nodes_count() -> None:
    assert same_structure(dead(4, True), renamed(dead(4, True)))
    assert not same_structure(dead(4, True), dead(4, False))
    assert not same_structure(dead(3, True), dead(4, True))
