"""Which groups can be executed as one, what is wrong with the others, and which nodes are to blame."""

from __future__ import annotations

import random
from collections.abc import Collection
from functools import cache
from itertools import combinations
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netc.backends.relax import kernels as kernels
from netc.backends.relax.build import prepare
from netc.backends.relax.lower import lower
from netc.backends.relax.machine import machine
from netc.backends.relax.optimise import fuse
from netc.backends.relax.schedule import schedule
from netc.compiler.diagnostic import render
from netc.compiler.fusion.explain import around, components, fullest, least, scores
from netc.compiler.fusion.group import Group
from netc.compiler.fusion.isolate import isolate
from netc.compiler.fusion.legality import Legality
from netc.compiler.fusion.lowering import Kernel, Refusal, kernel
from netc.compiler.fusion.memory import Members, Schedule, cheapest, choices, cuts, price
from netc.compiler.fusion.work import Work
from netc.compiler.fusion.workload import Workload
from netc.compiler.graph import Graph, Input, Node, Ref, Value
from netc.compiler.operators.operator import OPERATORS
from netc.compiler.passes.bind import bind
from netc.compiler.passes.eliminate_dead import eliminate_dead
from netc.compiler.passes.strip_phase import strip_phase
from netc.compiler.program import read, read_source
from netc.compiler.source import Source
from netc.compiler.target import LLVM, Accelerator
from netc.compiler.types import DType, TensorType, symbols

SPECS = Path(__file__).parents[1] / "specs"
IMAGE = TensorType(DType.F32, (1, 4, 12, 12))


def chip(buffer: int) -> Accelerator:
    return Accelerator(buffer=buffer, dram=1)


@cache
def model(spec: str, name: str) -> Workload:
    graph = read(SPECS / spec).model(name).graph
    return Workload(eliminate_dead(bind(strip_phase(graph, "infer"), {"N": 1})), DType.I8)


def network(body: str, inputs: str = "x: f32[1, 16, 16, 16]") -> Workload:
    names = ", ".join(part.split(":")[0] for part in inputs.split("; "))
    text = f"model net = Net ({inputs.replace('; ', ', ')})\nmodule Net({names}) {{\n{body}\n}}\n"
    return Workload(strip_phase(read_source(Source("net.net", text)).model("net").graph, "infer"))


@st.composite
def graphs(draw: st.DrawFn, most: int = 9) -> Workload:
    """Poolings, sums and activations of images, each of earlier values; what nobody reads is an output."""
    nodes = {"x": Node("x", Input(IMAGE), (), (IMAGE,))}
    window = OPERATORS["max_pool2d"](kernel_size=(3, 3), stride=(1, 1), padding=((1, 1), (1, 1)))  # pyright: ignore[reportCallIssue]
    read: set[str] = set()
    for i in range(draw(st.integers(2, most))):
        known = sorted(nodes)
        op = draw(st.sampled_from([OPERATORS["relu"](), OPERATORS["add"](), OPERATORS["add"](), window]))
        count = 2 if op.name == "add" else 1
        sources = draw(st.lists(st.sampled_from(known), min_size=count, max_size=count))
        inputs: tuple[Ref, ...] = tuple(Value(path) for path in sources)
        read.update(sources)
        nodes[f"n{i}"] = Node(f"n{i}", op, inputs, (IMAGE,))
    outputs = {f"y{path}": Value(path) for path in nodes if path not in read and path != "x"}
    return Workload(Graph("random", nodes, outputs, {}))


def subset(draw: st.DrawFn, workload: Workload) -> tuple[str, ...]:
    return tuple(draw(st.lists(st.sampled_from(sorted(workload.work.nodes)), min_size=1, unique=True)))


# ------------------------------------------------------------------------------------------------ by definition


def by_definition(workload: Workload, nodes: Collection[str]) -> bool:
    """Whether no simple path between two of the nodes has a node that is none of them."""
    graph = nx.DiGraph([(s, p) for p, before in workload.work.before.items() for s in before])
    graph.add_nodes_from(workload.work.nodes)
    ways = (w for a, b in combinations(nodes, 2) for s, t in ((a, b), (b, a)) for w in nx.all_simple_paths(graph, s, t))
    return all(set(way) <= set(nodes) for way in ways)


@given(st.data())
def test_convexity_is_that_of_the_definition(data: st.DataObject) -> None:
    workload = data.draw(graphs())
    nodes = subset(data.draw, workload)
    found = Legality(workload, chip(1 << 30)).problems(Group("g", nodes))
    assert ([v.kind for v in found] == ["not-convex"]) == (not by_definition(workload, nodes))
    if found and found[0].kind == "not-convex":
        way = found[0].responsible
        assert not set(way) & set(nodes), "those on a way out are outside"
        (first, *_), (*_, last) = way, way
        assert set(workload.work.before[first]) & set(nodes)
        assert set(workload.work.after[last]) & set(nodes)


@given(st.data())
def test_connected_parts_are_those_of_networkx(data: st.DataObject) -> None:
    workload = data.draw(graphs())
    nodes = [path for path in workload.work.nodes if path in subset(data.draw, workload)]
    graph = nx.Graph([(s, p) for p in nodes for s in workload.work.before[p] if s in nodes])
    graph.add_nodes_from(nodes)
    assert {frozenset(p) for p in components(workload, nodes)} == {frozenset(p) for p in nx.connected_components(graph)}


# ------------------------------------------------------------------------------------------------ legal parts


def check_parts(legality: Legality, nodes: Collection[str]) -> None:
    """Parts are legal and disjoint, and the first cannot be made larger, whichever node is added with those between."""
    parts = legality.parts(nodes)
    assert parts, "a node alone fits here"
    told = [path for part in parts for path in part]
    assert len(told) == len(set(told))
    assert set(told) <= set(nodes)
    assert all(legality.legal(part) for part in parts)
    assert all(len(part) <= len(parts[0]) for part in parts)
    task, whole = legality.task, legality.task.mask(nodes)
    first = task.mask(parts[0])
    for path in set(nodes) - set(parts[0]):
        reaching, reached = task.around(first | task.mask([path]))
        assert (reaching & reached) & ~whole or not legality.legal(task.members(reaching & reached)), (
            f"%{path} can be added to {parts[0]}"
        )


@given(st.data(), st.sampled_from([2, 3, 6]))
def test_the_largest_part_is_legal_and_maximal(data: st.DataObject, lines: int) -> None:
    workload = data.draw(graphs())
    nodes = subset(data.draw, workload)
    alone = max(least(workload, [path]) for path in nodes)
    buffer = alone + lines * 4 * 12 * 4
    for target in (chip(buffer), LLVM()):
        check_parts(Legality(workload, target), nodes)


@pytest.mark.parametrize(("spec", "name"), [("resnet.net", "resnet18"), ("mobilenet_v2.net", "mobilenet_v2")])
def test_parts_of_models(spec: str, name: str) -> None:
    workload = model(spec, name)
    nodes = list(workload.work.nodes)
    for first, last in ((0, 9), (4, 20), (10, 30)):
        check_parts(Legality(workload, chip(48 * 1024)), nodes[first:last])
        check_parts(Legality(workload, LLVM()), nodes[first:last])


def test_parts_of_a_whole_model_can_follow_each_other() -> None:
    workload = model("resnet.net", "resnet18")
    legality = Legality(workload, chip(64 * 1024))
    (wrong,) = legality.problems(Group("all", tuple(workload.work.nodes)))
    assert wrong.kind == "overflow"
    assert {path for part in wrong.parts for path in part} == set(workload.work.nodes)
    assert legality.circle([Group(f"g{i}", part) for i, part in enumerate(wrong.parts)]) is None


# ------------------------------------------------------------------------------------------------ what overflows


@given(st.data(), st.integers(1, 5000))
def test_a_group_overflows_where_no_schedule_fits(data: st.DataObject, buffer: int) -> None:
    workload = data.draw(graphs(6))
    nodes = subset(data.draw, workload)
    members = Members(workload, nodes)
    every = [
        price(workload, nodes, Schedule(steps, strips)).buffer
        for steps in choices(members)
        for strips in (1, *cuts(members))
    ]
    assert least(workload, nodes) == min(every)
    assert (least(workload, nodes, buffer) <= buffer) == (cheapest(workload, nodes, buffer) is not None)
    moment = fullest(workload, nodes)
    assert moment.bytes == min(every) == price(workload, nodes, moment.schedule).buffer
    assert sum(held.bytes for held in moment.held) + moment.staged == moment.bytes


def test_an_overflow_names_what_is_held_and_for_whom() -> None:
    workload = network(
        "x = x |> conv2d(32, 3, padding = 1) as conv |> silu as act\n"
        "w = x |> mean(dim = [2, 3], keepdim = true) as squeeze |> sigmoid as weights\n"
        "return mul(x, w) as scale"
    )
    legality = Legality(workload, chip(8 * 1024))
    (wrong,) = legality.problems(Group("gate", ("conv", "act", "squeeze", "weights", "scale")))
    assert wrong.kind == "overflow"
    assert wrong.excess == fullest(workload, wrong.group.nodes).bytes - 8 * 1024
    text = render(legality.diagnostic(wrong))
    assert "30.00 KiB of %act: 16 of 16 lines, which wait for mul %scale until its other operand is there" in text
    assert "squeeze" in wrong.responsible
    assert "fuse group gate = [conv, act, squeeze, weights]" in text


def test_a_product_that_needs_all_of_an_operand_cannot_stream() -> None:
    workload = network(
        "k = y |> linear(64) as key\nreturn matmul(x, transpose(k, 1, 2)) as scores",
        "x: f32[1, 512, 64]; y: f32[1, 512, 64]",
    )
    legality = Legality(workload, chip(32 * 1024))
    (wrong,) = legality.problems(Group("g", ("key", "scores")))
    assert wrong.kind == "cannot-stream"
    assert wrong.responsible["scores"] == "reads all of %key, 128.00 KiB, being a matmul"
    assert legality.problems(Group("g", ("key",))) == []


# ------------------------------------------------------------------------------------------------ to blame


@given(st.data(), st.sampled_from([0.3, 0.6, 0.9]))
def test_shares_of_the_blame_add_up(data: st.DataObject, room: float) -> None:
    workload = data.draw(graphs())
    whole = Legality(workload, chip(1)).task
    mask = whole.mask(subset(data.draw, workload))
    reaching, reached = whole.around(mask)
    nodes = whole.members(reaching & reached)
    needed = least(workload, nodes)
    assert set(scores(workload, nodes, needed).values()) == {0.0}
    found = scores(workload, nodes, int(room * needed))
    assert list(found) == list(nodes)
    assert sum(found.values()) == pytest.approx(1)
    assert min(found.values()) >= 0


@pytest.mark.parametrize(("first", "last", "buffer"), [(10, 40, 30_000), (0, 60, 100_000), (30, 100, 100_000)])
def test_without_the_node_to_blame_less_is_needed(first: int, last: int, buffer: int) -> None:
    workload = model("mobilenet_v2.net", "mobilenet_v2")
    nodes = list(workload.work.nodes)[first:last]
    needed = least(workload, nodes)
    assert needed > buffer, "the group is to overflow"
    shares = scores(workload, nodes, buffer)
    worst = max(shares, key=lambda path: shares[path])
    assert max(least(workload, part) for part in around(workload, nodes, worst)) < needed
    without = {path for part in around(workload, nodes, worst) for path in part}
    assert without == set(nodes) - {worst}


# ------------------------------------------------------------------------------------------------ groups that wait


def test_groups_that_wait_for_each_other() -> None:
    workload = network(
        "a = x |> relu as a1\nb = x |> tanh as b1\nc = add(a, b) as a2\nd = mul(b, a) as b2\nreturn sub(c, d) as end",
    )
    legality = Legality(workload, chip(1 << 20))
    groups = [Group("one", ("a1", "a2")), Group("other", ("b1", "b2"))]
    assert [legality.problems(g) for g in groups] == [[], []]
    wrong = legality.circle(groups)
    assert wrong is not None
    assert wrong.kind == "group-cycle"
    assert {g.name for g in (wrong.group, *wrong.others)} == {"one", "other"}
    assert wrong.responsible == {"a2": "in one, reads %b1 in other", "b2": "in other, reads %a1 in one"}
    cut = [Group(f"g{i}", part) for i, part in enumerate(wrong.parts)]
    assert cut
    assert legality.circle([*wrong.others, *cut]) is None


@given(st.data())
def test_groups_can_follow_each_other_or_are_in_a_circle(data: st.DataObject) -> None:
    workload = data.draw(graphs())
    nodes = list(workload.work.nodes)
    marks = data.draw(st.lists(st.integers(0, 3), min_size=len(nodes), max_size=len(nodes)))
    made = {m: tuple(p for p, mark in zip(nodes, marks, strict=True) if mark == m) for m in set(marks) - {0}}
    groups = [Group(f"g{m}", paths) for m, paths in made.items()]
    home = {path: group.name for group in groups for path in group.nodes}
    whole = nx.DiGraph()
    for path in nodes:
        sources = workload.work.before[path]
        whole.add_edges_from(
            (home.get(s, s), home.get(path, path)) for s in sources if home.get(s, s) != home.get(path, path)
        )
    wrong = Legality(workload, chip(1 << 20)).circle(groups)
    assert (wrong is None) == nx.is_directed_acyclic_graph(whole)


# ------------------------------------------------------------------------------------------------ kernels

INPUTS = "x: f32[1, 16, 16, 16]; y: f32[1, 32, 64]; v: f32[1, 1, 64]"
HERE = machine(LLVM(threads=2))

FUSED = {
    "activations": ("element-wise", "add(x |> relu |> exp, x |> tanh) |> sigmoid"),
    "concatenation": ("element-wise", "concat([x |> relu, x], dim = 1) |> sigmoid"),
    "interpolation": ("element-wise", "x |> relu |> interpolate(scale_factor = 2) |> relu"),
    "convolution": ("tiled", "add(x |> relu |> conv2d(16, 3, padding = 1), x) |> relu"),
    "strided": ("tiled", "x |> conv2d(16, 3, 2, padding = 2, dilation = 2) |> silu"),
    "depthwise": ("tiled", "x |> relu |> conv2d(16, 3, padding = 1, groups = 16) |> relu"),
    "transposed": ("tiled", "x |> conv_transpose2d(8, 2, 2) |> relu"),
    "pooling": ("tiled", "x |> relu |> max_pool2d(3, 2, padding = 1) |> relu"),
    "global pooling": ("tiled", "x |> relu |> adaptive_avg_pool2d(1) |> sigmoid"),
    "linear": ("tiled", "add(y |> gelu |> linear(64) |> sigmoid, y)"),
    "heads": ("tiled", 'y |> linear(64) |> rearrange("b t (h d) -> b h t d", h = 4) |> relu'),
    "matmul": ("tiled", "matmul(relu(y), transpose(relu(y), 1, 2)) |> relu"),
    "softmax": ("rows", "mul(y, 2.0) |> softmax |> relu"),
    "softmax of channels": ("rows", "x |> relu |> softmax(dim = 1) |> relu"),
    "layer norm": ("rows", "add(layer_norm(add(y, y)), y)"),
    "two norms": ("rows", "add(y |> layer_norm, y |> softmax)"),
    "rms norm": ("rows", "mul(y, rsqrt(mean(square(y), dim = [-1], keepdim = true)))"),
    "mean": ("rows", "x |> relu |> mean(dim = [2, 3]) |> relu"),
    "inverted residual": (
        "inverted_residual",
        "x |> conv2d(64, 1) |> relu6 |> conv2d(64, 3, padding = 1, groups = 64) |> relu6 |> conv2d(16, 1)",
    ),
    "feed forward": ("feed_forward", "y |> linear(128) |> gelu |> linear(64)"),
}

REFUSED = {
    "two products": ("no-kernel", "%linear and %linear_1 reduce", "mul(y |> linear(64), y |> linear(64))"),
    "norm and linear": ("no-kernel", "%layer_norm and %linear", "y |> layer_norm |> linear(64)"),
    "softmax of a product": ("no-kernel", "%linear and %softmax", "y |> linear(64) |> softmax"),
    "rows and columns": ("no-kernel", "%softmax and %softmax_1", "add(y |> softmax, y |> softmax(dim = 1))"),
    "concatenation after": ("no-kernel", "%concat", "concat([x |> conv2d(16, 1), x], dim = 1)"),
    "larger result": ("no-kernel", "%add", "add(v |> linear(64), y)"),
    "reshaped image": ("no-kernel", "reshape between", "x |> conv2d(16, 3, padding = 1) |> flatten(2) |> relu"),
    "upsampling after": ("no-kernel", "%interpolate", "x |> conv2d(16, 1) |> interpolate(scale_factor = 2)"),
    "statistics": ("no-kernel", "%group_norm", "x |> group_norm(4) |> relu"),
    "running sum": ("no-kernel", "%cumsum", "y |> relu |> cumsum(dim = -1)"),
    "gate": ("no-kernel", "%mul", "mul(x, x |> mean(dim = [2, 3], keepdim = true) |> sigmoid)"),
    "read again": ("leaves-inside", "%relu is", "relu(x) as relu, tanh(x |> relu) as tanh"),
}


@pytest.mark.parametrize(("kind", "body"), FUSED.values(), ids=FUSED)
def test_what_is_one_kernel_has_a_schedule(kind: str, body: str) -> None:
    workload = network(f"return {body}", INPUTS)
    workload = Workload(prepare(workload.graph, {}))
    found = kernel(workload, workload.work.nodes)
    assert isinstance(found, Kernel), found
    assert found.kind == kind
    rules = scheduled(workload.graph)
    assert not {"generic", "pieces"} & set(rules.values()), rules
    assert Legality(workload, LLVM()).problems(Group("g", tuple(workload.work.nodes))) == []


def scheduled(graph: Graph) -> dict[str, str]:
    """The rules that scheduled the kernels of a graph that is one group."""
    module = lower(graph, HERE, [Group("g", tuple(Work(graph).nodes))]).main
    return schedule(fuse(module, HERE), HERE)[1].rules


MODELS = [("efficientnet.net", "b0"), ("swin.net", "swin_tiny"), ("unet.net", "unet"), ("gpt2.net", "gpt2")]


@pytest.mark.parametrize(("spec", "name"), MODELS)
def test_parts_of_models_have_a_schedule(spec: str, name: str) -> None:
    """What is called a kernel is joined by a rule, and not computed in pieces."""
    graph = read(SPECS / spec).model(name).graph
    names = {s for node in graph.inputs.values() for d in node.types[0].shape for s in symbols(d)}
    workload = Workload(prepare(graph, {s: {"N": 1, "H": 64, "W": 64}.get(s, 16) for s in names}))
    legality, generator = Legality(workload, LLVM()), random.Random(1)
    tried = 0
    while tried < 4:
        start = generator.randrange(len(legality.task.names) - 12)
        part = legality.parts(legality.task.names[start : start + 12])[0]
        if len(part) > 1:
            tried += 1
            rules = set(scheduled(isolate(workload, part)).values())
            assert not rules & {"generic", "pieces"}, (part, rules)


@pytest.mark.parametrize(("kind", "named", "body"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_kernel_says_so(kind: str, named: str, body: str) -> None:
    text = f"r = {body}" if "return" in body else f"return {body}"
    if kind == "leaves-inside":
        text = "r = relu(x) as relu\ns = tanh(r) as tanh\nreturn r, s"
    workload = network(text, INPUTS)
    workload = Workload(prepare(workload.graph, {}))
    legality = Legality(workload, LLVM())
    (wrong,) = legality.problems(Group("g", tuple(workload.work.nodes)))
    assert wrong.kind == kind
    assert named in wrong.message
    assert set(wrong.responsible) <= set(workload.work.nodes)
    assert isinstance(kernel(workload, workload.work.nodes), Refusal)
    assert all(isinstance(kernel(workload, part), Kernel) for part in wrong.parts)


def test_a_node_alone_is_a_kernel() -> None:
    workload = model("unet.net", "unet")
    assert all(isinstance(kernel(workload, [path]), Kernel) for path in workload.work.nodes)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_random_legal_groups_of_a_model_are_kernels(seed: int) -> None:
    workload = model("mobilenet_v2.net", "mobilenet_v2")
    legality, generator = Legality(workload, LLVM()), random.Random(seed)
    task = legality.task
    start = generator.randrange(len(task.names) - 8)
    for part in legality.parts(task.names[start : start + 8]):
        assert isinstance(kernel(workload, part), Kernel)
        leaving = Members(workload, part).leaving
        assert len(part) == 1 or len(leaving) == 1


def test_fixes_are_lines_that_are_legal() -> None:
    """What a message says to write instead is accepted when written."""
    text = """
module Net(x) {
    x = x |> conv2d(32, 3, padding = 1) as conv1 |> relu as relu1
    return x |> conv2d(32, 3, padding = 1) as conv2 |> relu as relu2 |> mean(dim = [2, 3]) as pool
}
model net = Net (x: f32[1, 16, 32, 32])
"""
    graph = strip_phase(read_source(Source("net.net", text)).model("net").graph, "infer")
    legality = Legality(Workload(graph), LLVM())
    nodes = ("conv1", "relu1", "conv2", "relu2", "pool")
    (wrong,) = legality.problems(Group("g", nodes))
    fix = legality.diagnostic(wrong).fix
    assert fix is not None
    lines = [line.partition("[")[2].rstrip("]").split(", ") for line in fix.splitlines()]
    assert lines
    assert all(legality.legal(line) for line in lines)
    assert legality.line("g", ("conv1", "relu1")) == "fuse group g = [conv1, relu1]"


def test_scopes_stand_for_all_their_nodes() -> None:
    workload = model("resnet.net", "resnet18")
    legality = Legality(workload, chip(1 << 20))
    below = [path for path in workload.work.nodes if path.startswith("layer1.")]
    assert legality.line("g", below) == "fuse group g = [layer1]"
    assert legality.line("g", below[:-1]).startswith("fuse group g = [layer1.0, layer1.1.conv1")
