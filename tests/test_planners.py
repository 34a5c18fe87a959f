"""Planners: what they give is a partition, its bytes are those of the memory model, and bounds are bounds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netc.compiler.diagnostic import NetcError
from netc.compiler.fusion.group import Group
from netc.compiler.fusion.memory import Members, cheapest
from netc.compiler.fusion.partition import Mask, Partition, Task, bits
from netc.compiler.fusion.planner import PLANNERS
from netc.compiler.fusion.planner.exact import enumerate_groups
from netc.compiler.fusion.planner.split import divide
from netc.compiler.fusion.workload import Workload
from netc.compiler.graph import Graph
from netc.compiler.library import level_steps
from netc.compiler.passes.bind import bind
from netc.compiler.pipeline import run
from netc.compiler.program import read, read_source
from netc.compiler.source import Source
from netc.compiler.types import DType
from pydantic import ValidationError

SPECS = Path(__file__).parents[1] / "specs"
OPTIONS = {"anneal": {"moves": 300}, "exact": {"seconds": 60.0}}
"""Of planners whose defaults are for larger graphs."""

CHAIN = """
module Net(x: [1, 3, 24, 24]) {
    return y = x |> conv2d(8, 3, padding = 1) |> relu |> conv2d(16, 3, stride = 2) |> silu |> conv2d(8, 1)
                 |> max_pool2d(2) |> conv2d(32, 3, padding = 1) |> relu |> mean([2, 3]) |> linear(10)
}
"""
BRANCHES = """
module Net(x: [1, 4, 16, 16]) {
    a = x |> conv2d(8, 3, padding = 1) as stem
    b = a |> conv2d(8, 1) as left |> relu
    c = a |> conv2d(8, 3, padding = 1) as right
    d = max_pool2d(a, 3, 1, 1)
    e = concat([b, c, d], 1) |> conv2d(4, 1) as head
    return y = e + x
}
"""
GATE = """
module Net(x: [1, 8, 12, 12]) {
    y = x |> conv2d(16, 3, padding = 1, groups = 8) |> silu
    s = y |> mean([2, 3], keepdim = true) |> conv2d(4, 1) |> relu |> conv2d(16, 1) |> sigmoid
    return z = x + (y * s |> conv2d(8, 1))
}
"""


def graph_of(text: str) -> Graph:
    """The graph of a text that declares a module `Net` with one input of fixed shape."""
    (head,) = re.findall(r"Net(\(.*\)) {", text)
    return read_source(Source("test.net", f"{text}\nmodel net = Net {head.replace('[', 'f32[')}\n")).model("net").graph


def workload(text: str) -> Workload:
    return Workload(graph_of(text), DType.I8)


@cache
def spec(name: str, model: str) -> Workload:
    found = read(SPECS / f"{name}.net").model(model)
    graph = run(found.graph, level_steps(2, 0), facts=found.facts).final
    return Workload(bind(graph, {"N": 1}), DType.I8)


def plan(task: Task, name: str) -> Partition:
    return PLANNERS[name].run(task, **OPTIONS.get(name, {}))


def check(task: Task, found: Partition) -> None:
    """A partition is one: every free node once, parts convex and connected, in an order, at the model's price."""
    masks = [task.mask(part.nodes) for part in found.parts]
    assert sum(masks) == task.free
    assert sum(m.bit_count() for m in masks) == task.free.bit_count()
    done: Mask = 0
    for mask, part in zip(masks, found.parts, strict=True):
        assert task.connected(mask)
        assert convex(task, mask)
        needed = 0
        for i in bits(mask):
            needed |= task.sources[i]
        assert not needed & ~mask & ~done & task.free, "a part stands before one that it reads"
        done |= mask
        assert part.cost == cheapest(task.workload, part.nodes, task.buffer)
        assert part.nodes == tuple(Members(task.workload, part.nodes).order)
        assert task.floor(mask) <= part.cost.usage.dram
        assert task.buffer is None or part.cost.usage.buffer <= task.buffer
    assert task.acyclic(masks)
    assert found.bound is not None
    assert found.bound <= found.dram
    assert not found.optimal or found.bound == found.dram


def convex(task: Task, mask: Mask) -> bool:
    """By definition: nothing outside is reached from within and reaches back."""
    outside = [1 << i for i in range(len(task.names)) if not mask >> i & 1]
    down = up = mask
    for _ in task.names:
        for node in outside:
            number = node.bit_length() - 1
            down |= node if task.sources[number] & down else 0
            up |= node if task.readers[number] & up else 0
    return down & up == mask


def partitions(task: Task) -> Iterator[list[Mask]]:
    """All partitions into groups that can be executed one after the other."""
    nodes = [1 << i for i in bits(task.free)]

    def extend(done: list[Mask], at: int) -> Iterator[list[Mask]]:
        if at == len(nodes):
            if all(map(task.valid, done)) and task.acyclic(done):
                yield list(done)
            return
        for k, group in enumerate(done):
            yield from extend([*done[:k], group | nodes[at], *done[k + 1 :]], at + 1)
        yield from extend([*done, nodes[at]], at + 1)

    yield from extend([], 0)


# ------------------------------------------------------------------------------------------------------- networks


@st.composite
def networks(draw: st.DrawFn, most: int = 8) -> str:
    """A network of a few nodes that read any of those before."""
    size = draw(st.sampled_from([6, 9, 12]))
    lines = [f"module Net(x0: [1, 4, {size}, {size}]) {{"]
    names = ["x0"]
    for k in range(1, draw(st.integers(3, most)) + 1):
        a, b = draw(st.sampled_from(names[-3:])), draw(st.sampled_from(names))
        kind = draw(st.sampled_from(["conv1", "conv3", "wide", "relu", "add", "mul", "pool", "gate", "soft"]))
        lines.append(
            f"    x{k} = "
            + {
                "conv1": f"{a} |> conv2d(4, 1)",
                "conv3": f"{a} |> conv2d(4, 3, padding = 1)",
                "wide": f"{a} |> conv2d(4, 3, padding = 2, dilation = 2, groups = 2)",
                "relu": f"relu({a})",
                "add": f"{a} + {b}",
                "mul": f"{a} * {b}",
                "pool": f"max_pool2d({a}, 3, 1, 1)",
                "gate": f"{a} * mean({b}, [2, 3], keepdim = true)",
                "soft": f"softmax({a}, 1)",
            }[kind]
        )
        names.append(f"x{k}")
    lines.append(f"    return y = {names[-1]}\n}}")
    return "\n".join(lines)


BUFFERS = st.sampled_from([400, 800, 1600, 4000, None])


@settings(max_examples=30, deadline=None)
@given(networks(), BUFFERS)
def test_exact_is_the_best_of_all_partitions(text: str, buffer: int | None) -> None:
    task = Task(workload(text), buffer)
    try:
        found = plan(task, "exact")
    except NetcError:
        assert any(task.dram(1 << i) == float("inf") for i in bits(task.free))
        return
    check(task, found)
    assert found.optimal
    assert found.dram == min(map(task.total, partitions(task)))


@settings(max_examples=25, deadline=None)
@given(networks(12), BUFFERS, st.sampled_from(sorted(PLANNERS)))
def test_planners_make_partitions_of_random_graphs(text: str, buffer: int | None, name: str) -> None:
    task = Task(workload(text), buffer)
    try:
        plain = plan(task, "layers")
    except NetcError:
        return
    found = plan(task, name)
    check(task, found)
    assert found.dram <= plain.dram


@pytest.mark.parametrize("name", sorted(PLANNERS))
@pytest.mark.parametrize("buffer", [2_000, 6_000, None])
@pytest.mark.parametrize("text", [CHAIN, BRANCHES, GATE])
def test_planners_make_partitions(text: str, buffer: int | None, name: str) -> None:
    task = Task(workload(text), buffer)
    found = plan(task, name)
    check(task, found)
    assert found.planner == name
    assert found.dram <= plan(task, "layers").dram
    again = plan(Task(workload(text), buffer), name)
    assert [part.nodes for part in again.parts] == [part.nodes for part in found.parts]


@pytest.mark.parametrize("buffer", [1_500, 3_000, 6_000, 20_000, None])
def test_cuts_of_a_chain_are_the_best(buffer: int | None) -> None:
    task = Task(workload(CHAIN), buffer)
    best = min(map(task.total, chain_cuts(task)))
    assert plan(task, "intervals").dram == best
    exact = plan(task, "exact")
    assert (exact.dram, exact.bound, exact.optimal) == (best, best, True)


def chain_cuts(task: Task) -> Iterator[list[Mask]]:
    nodes = [1 << i for i in bits(task.free)]
    for choice in range(1 << (len(nodes) - 1)):
        parts = [nodes[0]]
        for k, node in enumerate(nodes[1:]):
            if choice >> k & 1:
                parts.append(node)
            else:
                parts[-1] |= node
        yield parts


def test_the_integer_program_agrees_with_all_partitions_where_branches_cross() -> None:
    task = Task(workload(BRANCHES), 700)
    found = plan(task, "exact")
    assert any("integer program" in note for note in found.notes)
    assert found.dram > task.compulsory
    assert found.dram == min(map(task.total, partitions(task)))
    assert found.optimal


def test_a_limit_on_groups_is_told_and_leaves_the_compulsory_bound() -> None:
    task = Task(workload(BRANCHES), 700)
    found = PLANNERS["exact"].run(task, groups=5)
    check(task, found)
    assert not found.optimal
    assert found.bound == task.compulsory
    assert any("more groups than 5" in note for note in found.notes)


def test_all_groups_are_enumerated() -> None:
    task = Task(workload(BRANCHES))
    found, complete = enumerate_groups(task, float("inf"), 10_000)
    subsets = (mask for mask in range(1, task.free + 1) if mask & ~task.free == 0)
    assert complete
    assert sorted(found) == [m for m in subsets if task.connected(m) and convex(task, m)]


def test_without_a_limit_all_is_one_group() -> None:
    task = Task(workload(GATE))
    found = plan(task, "best")
    assert len(found.parts) == 1
    assert found.dram == task.compulsory == found.bound
    assert found.optimal


def test_nodes_of_other_groups_stay_where_they_are() -> None:
    """A fixed group reads from the stem and gives to the head: what lies on both sides of it cannot be one group."""
    loaded = workload(BRANCHES)
    fixed = Group("middle", ("left", "relu"))
    free = [name for name in loaded.work.nodes if name not in fixed.nodes]
    task = Task(loaded, None, free, (fixed,))
    for name in PLANNERS:
        found = plan(task, name)
        check(task, found)
        assert not any({"stem", "head"} <= set(part.nodes) for part in found.parts)


def test_two_fixed_groups_and_what_lies_between() -> None:
    """Ways lead through a fixed group from any of its nodes to any: `left` must run before `relu` reads `right`'s."""
    loaded = workload(BRANCHES)
    names = list(loaded.work.nodes)
    fixed = (Group("pair", ("right", "max_pool2d")),)
    free = [name for name in names if name not in fixed[0].nodes]
    task = Task(loaded, None, free, fixed)
    assert not task.valid(task.mask(["stem", "left", "relu", "concat"]))
    assert task.valid(task.mask(["stem", "left", "relu"]))


def test_groups_that_wait_for_each_other_have_no_order() -> None:
    loaded = workload("""
    module Net(x: [4]) {
        a = relu(x) as a
        b = exp(x) as b
        c = tanh(b) as c
        d = sigmoid(a) as d
        return p = c + a, q = d + b
    }
    """)
    task = Task(loaded)
    names = [n for n in loaded.work.nodes if n.startswith("add")]
    first, second = task.mask(["a", "c", names[0]]), task.mask(["b", "d", names[1]])
    assert not task.acyclic([first, second])
    assert task.ordered([first, second]) is None


def test_only_what_is_allowed() -> None:
    loaded = workload(CHAIN)
    task = Task(loaded, None, allowed=lambda nodes: len(nodes) <= 2)
    for name in PLANNERS:
        found = plan(task, name)
        check(task, found)
        assert max(len(part.nodes) for part in found.parts) <= 2
    assert plan(task, "exact").dram < plan(task, "layers").dram


def test_a_node_too_large_is_told() -> None:
    with pytest.raises(NetcError) as raised:
        plan(Task(workload(CHAIN), 20), "best")
    problem = raised.value.diagnostics[0]
    assert problem.code == "does-not-fit"
    assert "alone does not fit a buffer of 20 bytes: it needs " in problem.message
    assert problem.fix is not None
    enough = int(problem.fix.removeprefix("buffer = "))
    with pytest.raises(NetcError):
        plan(Task(workload(CHAIN), enough - 1), "layers")
    assert plan(Task(workload(CHAIN), enough), "layers").parts


@pytest.mark.parametrize(
    ("name", "options"),
    [("exact", {"seconds": -5}), ("exact", {"groups": 0}), ("anneal", {"seconds": 0}), ("best", {"effort": 0})],
)
def test_options_have_ranges(name: str, options: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        PLANNERS[name].options(**options)


@pytest.mark.parametrize(
    ("name", "model"), [("mobilenet_v2", "mobilenet_v2"), ("unet", "unet"), ("resnet", "resnet50")]
)
def test_planners_on_specs(name: str, model: str) -> None:
    task = Task(spec(name, model), 1 << 18)
    found = {name: plan(task, name) for name in PLANNERS if name != "exact"}
    for partition in found.values():
        check(task, partition)
    assert found["best"].dram <= min(partition.dram for n, partition in found.items() if n != "anneal")
    assert found["intervals"].dram < 0.8 * found["pattern"].dram


def test_a_group_too_large_is_split_where_it_is_to_blame() -> None:
    task = Task(workload(CHAIN), 3_000)
    parts = divide(task)
    assert task.total(parts) < float("inf")
    assert 1 < len(parts) < task.free.bit_count()


def test_groups_of_one_shape_are_costed_once() -> None:
    task = Task(spec("resnet", "resnet50"), 1 << 19)
    groups = [(f"layer1.{i}.conv2", f"layer1.{i}.relu_1", f"layer1.{i}.conv3") for i in range(3)]
    costs = [task.cost(group) for group in groups]
    assert task.evaluated == 1
    for group, cost in zip(groups, costs, strict=True):
        assert cost == cheapest(task.workload, group, task.buffer)
