"""A plan in numbers: what groups cost beside their nodes alone, what comes with them, and what is on chip when."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import netc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from netc.compiler.cost import cost
from netc.compiler.fusion.group import Group
from netc.compiler.fusion.memory import Schedule, cheapest, price
from netc.compiler.fusion.occupancy import occupancy
from netc.compiler.fusion.summary import Machine, Measured, Summary, carried, shares
from netc.compiler.fusion.workload import Workload
from netc.compiler.graph import Graph, Input
from netc.compiler.operators.activation import Relu
from netc.compiler.operators.arithmetic import Add
from netc.compiler.operators.layout import Reshape, Transpose
from netc.compiler.passes.bind import bind
from netc.compiler.passes.strip_phase import strip_phase
from netc.compiler.target import LLVM, Accelerator
from netc.compiler.types import DType, symbols, tensor

SPECS = Path(__file__).parents[1] / "specs"


@cache
def workload(file: str, model: str) -> Workload:
    graph = strip_phase(netc.load(SPECS / f"{file}.net").model(model).graph, keep="infer")
    sizes = {"N": 1, "T": 48}
    names = {s for node in graph.inputs.values() for dim in node.types[0].shape for s in symbols(dim)}
    return Workload(bind(graph, {n: sizes[n] for n in names}), DType.I8)


@given(st.data())
def test_the_fullest_step_is_what_the_group_needs(data: st.DataObject) -> None:
    """In each schedule: lines, tiles, strips, several phases (attention)."""
    file, model = data.draw(st.sampled_from([("mobilenet_v2", "mobilenet_v2"), ("unet", "unet"), ("gpt2", "gpt2")]))
    found = workload(file, model)
    names = list(found.work.nodes)
    first = data.draw(st.integers(0, len(names) - 1))
    nodes = names[first : first + data.draw(st.integers(1, 14))]
    halo = data.draw(st.sampled_from(["cache", "recompute"]))
    weights = [w.name for path in nodes for w in found.weights[path] if not w.looked_up]
    kept = frozenset(data.draw(st.sets(st.sampled_from(weights))) if weights else ())
    schedule = Schedule(data.draw(st.integers(1, 60)), data.draw(st.integers(1, 4)), halo, kept)
    chip = occupancy(found, nodes, schedule)
    assert max(chip.totals) == price(found, nodes, schedule).buffer
    assert chip.steps % chip.phases == 0
    assert all(len(area) == chip.steps for area in chip.values.values())


def moved() -> Graph:
    """Moves before, between and after two nodes."""
    edit = Graph("moved").edit()
    x = edit.add("x", Input(tensor(DType.F32, 4, 8))).value
    turned = edit.add("turned", Transpose(0, 1), x).value
    a = edit.add("a", Relu(), turned).value
    flat = edit.add("flat", Reshape((32,)), a).value
    again = edit.add("again", Reshape((8, 4)), flat).value
    b = edit.add("b", Add(), again, turned).value
    edit.output("out", edit.add("last", Reshape((32,)), b).value)
    return edit.done()


def test_what_only_carries_comes_with_its_readers() -> None:
    found = Workload(moved())
    apart = carried(found, [Group("one", ("a",)), Group("two", ("b",))])
    assert apart == {"one": ("turned",), "two": ("turned", "flat", "again", "last")}
    assert carried(found, [Group("both", ("a", "b"))]) == {"both": ("turned", "flat", "again", "last")}


def summary(buffer: int, machine: Machine | None = None, bound: int | None = None) -> tuple[Workload, Summary]:
    found = workload("mobilenet_v2", "mobilenet_v2")
    names = list(found.work.nodes)
    groups = [Group(f"g{i}", tuple(names[i : i + 9])) for i in range(0, len(names), 9)]
    parts = shares(found, groups, buffer, makers={"g0": "the plan"}, kernels={"g0": "tiled"})
    measured = (Measured(groups[0], 1.5, 2.0, True, "faster"), Measured(groups[9], 2.0, 1.0, False, "slower"))
    return found, Summary("p", "npu", machine or Machine(buffer, 8e9, 1e12), DType.I8, parts, bound, measured)


def test_sums_are_those_of_the_groups() -> None:
    found, told = summary(2**20, bound=10**6)
    data = json.loads(json.dumps(told.data()))
    alone = [cheapest(found, (path,), 2**20) for path in found.work.nodes]
    assert data["dram_before"] == sum(c.usage.dram for c in alone if c is not None)
    assert data["dram"] == sum(g["inputs"] + g["outputs"] + g["weights"] for g in data["groups"]) < data["dram_before"]
    assert data["gap"] == pytest.approx(data["dram"] / 10**6 - 1)
    assert data["buffer"] == max(g["buffer"] for g in data["groups"]) <= 2**20
    assert data["macs"] == cost(found.graph, {}).macs
    assert [p for g in data["groups"] for p in g["nodes"]] == list(found.work.nodes)
    assert data["groups"][0]["kernel"] == "tiled"
    assert [(m["group"], m["chosen"]) for m in data["measured"]] == [("g0", True), ("g81", False)]


def test_what_does_not_fit_has_no_bytes() -> None:
    _, told = summary(2**10)
    data = json.loads(json.dumps(told.data()))
    assert (data["dram"], data["dram_before"], data["gap"]) == (None, None, None)
    large = [g for g in data["groups"] if not g["fits"]]
    assert large
    assert not any("dram" in g for g in large)


def test_machines_bound_time_by_what_is_known_of_them() -> None:
    known = Machine.of(Accelerator(buffer=2**20, dram=10**9, macs=10**12))
    assert known == Machine(2**20, 10**9, 10**12)
    assert known.seconds(10**9, 10**9) == 1
    assert known.seconds(10**13, 10**9) == 10
    assert Machine.of(Accelerator(buffer=1, dram=10**9)).seconds(10**13, 10**9) == 1
    assert Machine.of(LLVM(cache=2**20)) == Machine(2**20, soft=True)
    assert Machine.of(LLVM()).seconds(1, 1) is None
