from __future__ import annotations

import json
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netc.compiler.cost import REFERENCE, VIEWS, cost
from netc.compiler.diagnostic import NetcError
from netc.compiler.graph import Edit, Graph, Input, Parameter, ParameterRef, Phase, Ref, Scope, SelectPhase, Value
from netc.compiler.operators.activation import Relu
from netc.compiler.operators.arithmetic import Add
from netc.compiler.operators.convolution import Conv2d
from netc.compiler.operators.layout import Reshape
from netc.compiler.operators.linear import Linear, Matmul
from netc.compiler.operators.normalization import BatchNorm
from netc.compiler.operators.operator import Initialiser
from netc.compiler.operators.stochastic import Dropout
from netc.compiler.passes.eliminate_dead import eliminate_dead
from netc.compiler.passes.strip_phase import strip_phase
from netc.compiler.types import Dim, DType, TensorType, substitute, symbol, symbols
from strategies import graphs

N = symbol("N")


class Net:
    """A graph in the making, with short ways to add what these tests need."""

    def __init__(self) -> None:
        self.edit: Edit = Graph("net").edit()

    def input(self, name: str, *shape: Dim) -> Value:
        return self.edit.add(name, Input(TensorType(DType.F32, shape))).value

    def parameter(self, path: str, *shape: Dim, trainable: bool = True, buffer: bool = False) -> ParameterRef:
        type = TensorType(DType.F32, shape)
        return self.edit.parameter(Parameter(path, type, Initialiser("zeros"), trainable, buffer))

    def linear(self, path: str, x: Ref, out: int, phase: Phase = "both", weight: ParameterRef | None = None) -> Value:
        weight = weight or self.parameter(f"{path}.weight", out, self.edit.type(x).shape[-1])
        return self.edit.add(path, Linear(), x, weight, None, phase=phase).value

    def relu(self, path: str, x: Ref) -> Value:
        return self.edit.add(path, Relu(), x).value

    def done(self, *outputs: Ref) -> Graph:
        for i, ref in enumerate(outputs):
            self.edit.output(f"out{i}", ref)
        return self.edit.done()


def test_a_convolution_with_batch_norm():
    net = Net()
    x = net.input("x", N, 3, 8, 8)
    weight = net.parameter("conv.weight", 16, 3, 3, 3)
    y = net.edit.add("conv", Conv2d(padding=((1, 1), (1, 1))), x, weight, None).value
    vectors = [
        net.parameter(f"bn.{n}", 16, buffer=n.startswith("run")) for n in ("weight", "bias", "run_mean", "run_var")
    ]
    y = net.edit.add("bn", BatchNorm(), y, *vectors).value
    report = cost(net.done(y))
    assert report.parameters == 16 * 27 + 32
    assert report.total.buffers == 32
    assert report.total.weight_bytes == 4 * (16 * 27 + 64)
    assert report.macs == N * (64 * 16 * 27)
    assert report.total.flops == 2 * report.macs
    assert report.total.activations == N * (2 * 16 * 64 * 4)
    bound = cost(net.edit.done(), {"N": 2})
    assert bound.macs == 2 * 64 * 16 * 27
    assert bound.total.peak == 2 * (3 + 16 + 16) * 64 * 4
    assert bound.rows[1].output == (TensorType(DType.F32, (2, 16, 8, 8)),)


def test_tied_parameters_are_counted_once_at_their_first_reader():
    net = Net()
    x = net.input("x", 2, 4)
    tied = net.parameter("shared.weight", 4, 4)
    y = net.linear("b.first", net.linear("a.first", x, 4, weight=tied), 4, weight=tied)
    report = cost(net.done(y))
    rows = {r.path: r for r in report.rows}
    assert report.parameters == 16
    assert (rows["a"].parameters, rows["b"].parameters) == (16, 0)
    assert rows["b"].macs == rows["a"].macs == 2 * 16


def test_frozen_parameters_and_those_nobody_reads():
    net = Net()
    x = net.input("x", 2, 4)
    frozen = net.parameter("fc.weight", 4, 4, trainable=False)
    net.parameter("spare.weight", 7)
    report = cost(net.done(net.linear("fc", x, 4, weight=frozen)))
    assert (report.parameters, report.total.trainable) == (23, 7)
    assert {r.path: r.parameters for r in report.rows}["spare"] == 7


def auxiliary() -> Graph:
    """A head for training only, one for inference only, and dropout."""
    net = Net()
    x = net.input("x", 2, 4)
    body = net.edit.add("drop", Dropout(0.5), net.linear("body", x, 8)).value
    train = net.linear("auxiliary.fc", body, 3, phase="train")
    infer = net.linear("head", body, 3, phase="infer")
    return net.done(net.edit.add("select", SelectPhase(), train, infer).value)


def test_each_phase_has_its_own_costs():
    infer, train = cost(auxiliary()), cost(auxiliary(), phase="train")
    assert infer.parameters == train.parameters == 32 + 24
    assert {r.path for r in infer.rows} == {"", "body", "drop", "head", "select"}
    assert {r.path for r in train.rows} == {"", "body", "drop", "auxiliary", "auxiliary.fc", "select"}
    assert infer.total.activations == 2 * (8 + 3) * 4
    assert train.total.activations == 2 * (8 + 8 + 3) * 4


def test_nodes_that_no_output_needs_are_free():
    net = Net()
    x = net.input("x", 2, 4)
    net.linear("dead", x, 1000)
    report = cost(net.done(net.linear("fc", x, 4)))
    assert report.macs == 2 * 16
    assert report.parameters == 16 + 4000


def test_peak_memory_frees_after_the_last_reader():
    net = Net()
    x = net.input("x", 1, 10)
    a = net.relu("a", x)
    b = net.linear("b", a, 100)
    c = net.linear("c", b, 20)
    d = net.linear("d", c, 10)
    report = cost(net.done(net.edit.add("e", Add(), d, a).value))
    peaks = {r.path: r.peak for r in report.rows if r.path}
    assert peaks == {"a": 4 * 20, "b": 4 * 120, "c": 4 * 140, "d": 4 * 50, "e": 4 * 40}
    assert (report.total.peak, report.peak_at) == (4 * 140, "c")


def test_views_and_outputs_hold_their_memory():
    net = Net()
    x = net.input("x", 2, 6)
    a = net.relu("a", x)
    view = net.edit.add("view", Reshape((12,)), a).value
    b = net.relu("b", view)
    c = net.relu("c", b)
    report = cost(net.done(c, a))
    assert {r.path: r.peak for r in report.rows if r.path} == {"a": 96, "view": 96, "b": 144, "c": 192}
    assert report.total.activations == 3 * 48


def test_weight_only_nodes_are_counted_and_named():
    net = Net()
    x = net.input("x", N, 4)
    product = net.edit.add("lora", Matmul(), net.parameter("b", 6, 2), net.parameter("a", 2, 4)).value
    y = net.edit.add("fc", Linear(), x, product, None).value
    report = cost(net.done(y))
    assert report.folded == 6 * 2 * 4
    assert report.macs == 6 * 2 * 4 + N * 24
    assert report.longest.nodes == ("fc",)


def test_critical_paths_by_nodes_and_by_macs():
    net = Net()
    x = net.input("x", N, 4)
    long = net.relu("r3", net.relu("r2", net.relu("r1", x)))
    heavy = net.linear("heavy", x, 4)
    report = cost(net.done(net.edit.add("sum", Add(), long, heavy).value))
    assert report.longest.nodes == ("r1", "r2", "r3", "sum")
    assert report.longest.macs == 0
    assert report.heaviest.nodes == ("heavy", "sum")
    assert report.heaviest.macs == N * 16


def test_symbolic_peaks_are_compared_at_the_reference():
    net = Net()
    x = net.input("x", N, 1)
    fixed = net.relu("fixed", net.edit.add("weights", Add(), net.parameter("p", 200), net.parameter("q", 200)).value)
    grown = net.linear("grown", x, 3)
    report = cost(net.done(net.relu("y", grown), fixed))
    assert report.peak_at == "y"
    assert report.total.peak == N * 28 + 800
    assert REFERENCE * 28 > 1600
    small = cost(net.edit.done(), {"N": 1})
    assert (small.peak_at, small.total.peak) == ("fixed", 1604)


def test_rows_roll_up_by_scope():
    net = Net()
    x = net.input("x", 1, 4)
    y = net.linear("stage.1.fc", net.linear("stage.0.fc", x, 8), 2)
    net.edit.scope(Scope("stage.0", "Block", "stage.0"))
    report = cost(net.done(y))
    assert [(r.path, r.kind, r.nodes, r.macs, r.depth) for r in report.rows] == [
        ("", "", 2, 48, 0),
        ("stage", "", 2, 48, 1),
        ("stage.0", "Block", 1, 32, 2),
        ("stage.0.fc", "linear", 1, 32, 3),
        ("stage.1", "", 1, 16, 2),
        ("stage.1.fc", "linear", 1, 16, 3),
    ]
    assert [r.path for r in report.table(2)] == ["", "stage", "stage.0", "stage.1"]


def test_data_is_json_and_keeps_symbols_as_text():
    net = Net()
    data = cost(net.done(net.linear("fc", net.input("x", N, 4), 2))).data()
    assert json.loads(json.dumps(data)) == data
    assert data["total"]["macs"] == "8*N"
    assert data["rows"][0]["output"] == ["f32[N, 2]"]
    assert data["critical_path"]["macs"] == {"length": 1, "macs": "8*N", "nodes": ["fc"]}


@pytest.mark.parametrize(("bind", "message"), [({"M": 2}, "no dimension M"), ({"N": 0}, "must be at least 1")])
def test_bindings_are_checked(bind: dict[str, int], message: str):
    net = Net()
    with pytest.raises(NetcError, match=message):
        cost(net.done(net.relu("y", net.input("x", N, 4))), bind)


def test_a_graph_of_inputs_alone():
    net = Net()
    report = cost(net.done(net.input("x", 3)))
    assert report.total.peak == 12
    assert report.longest.nodes == ()


def bound(graph: Graph, size: int) -> dict[str, int]:
    return {name: size for node in graph.inputs.values() for d in node.types[0].shape for name in symbols(d)}


@settings(max_examples=50)
@given(graphs(training=False), st.integers(1, 4))
def test_parameters_and_macs_are_pytorchs(graph: Graph, size: int):
    """The counts of `module.parameters()` and of FlopCounterMode, run on the module itself."""
    import torch
    import torch.nn.attention
    from netc.backends.pytorch import module
    from torch.utils import flop_counter as counter

    bind = bound(graph, size)
    graph = eliminate_dead(graph)
    report = cost(graph, bind)
    net = module(graph).eval()
    feeds = [torch.zeros([substitute(d, bind) for d in n.types[0].shape]) for n in graph.inputs.values()]
    types = [n.types[0].dtype for n in graph.inputs.values()]
    # Of attention FlopCounterMode sees the two products, but not the fused kernel for CPUs.
    unfused = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with counter.FlopCounterMode(display=False) as counted, torch.no_grad(), unfused:
        net(*(f if t.is_float else f.long() for f, t in zip(feeds, types, strict=True)))
    assert report.parameters == sum(p.numel() for p in net.parameters())
    assert report.macs == counted.get_total_flops() // 2


@given(graphs(), st.sampled_from(["train", "infer"]))
def test_symbolic_costs_bind_to_the_costs_of_the_bound_graph(graph: Graph, phase: Literal["train", "infer"]):
    bind = bound(graph, 3)
    symbolic, fixed = cost(graph, phase=phase), cost(graph, bind, phase)
    for a, b in zip(symbolic.rows, fixed.rows, strict=True):
        assert (a.path, a.parameters, a.nodes) == (b.path, b.parameters, b.nodes)
        assert [substitute(d, bind) for d in (a.macs, a.other, a.activations)] == [b.macs, b.other, b.activations]
        assert substitute(a.peak, bind) <= b.peak


@given(graphs(training=False))
def test_the_peak_is_that_of_a_naive_simulation(graph: Graph):
    bind = bound(graph, 2)
    graph = eliminate_dead(strip_phase(replace(graph, taps={}), "infer"))
    order = list(graph.nodes.values())
    home: dict[Value, Value | None] = {}
    for node in order:
        view = node.op.name in VIEWS or node.op.effect == "random"
        source = node.inputs[0] if view else None
        for value in node.values:
            home[value] = value if not view else home[source] if isinstance(source, Value) else None
    kept = {home[r] for r in graph.outputs.values() if isinstance(r, Value)}
    peak = 0
    for i, node in enumerate(order):
        later = {home[r] for n in order[i:] for r in n.refs if isinstance(r, Value)}
        made = {v for n in order[: i + 1] for v in n.values if home[v] == v}
        inputs = {n.value for n in graph.inputs.values()}
        alive = [v for v in made if v in later or v in kept or v in inputs or v.node == node.path]
        peak = max(peak, sum(int(str(substitute(graph.type(v).bytes, bind))) for v in alive))
    assert cost(graph, bind).total.peak == peak
