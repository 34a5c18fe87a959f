"""Contracts measured: probes, the interpreter and float64 below them, and what counts as kept and as broken."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import netc
import numpy as np
import pytest
import torch
from netc.backends.pytorch import Interpreter, module, run
from netc.compiler.contract import Contract
from netc.compiler.diagnostic import NetcError
from netc.compiler.graph import Graph, Input, verify
from netc.compiler.library import library
from netc.compiler.measure import Meter, measure
from netc.compiler.operators.operator import SAMPLES, Sample
from netc.compiler.passes.bind import bind
from netc.compiler.passes.fold_constants import fold_constants
from netc.compiler.passes.strip_phase import strip_phase
from netc.compiler.passes.widen import widen
from netc.compiler.pipeline import Measurement
from netc.compiler.probe import bound, inputs, probed, wishes
from netc.compiler.types import DType, tensor
from netc.compiler.weights import InMemory, values
from strategies import Builder, sample_graph

ROOT = Path(__file__).parents[1]
EXACT = Contract()


def model(spec: str, name: str, folder: str = "tests/reduced") -> Graph:
    return netc.load(ROOT / folder / f"{spec}.net", root=ROOT).model(name).graph


def net(scale: float = 1.0, *, batch_norm: bool = True) -> Graph:
    """A convolution, a batch norm, a scale and a rectifier."""
    build = Builder()
    x = build.input("x", "f32[N, 3, 9, 8]")
    y: Any = build("conv2d", x, build.parameter("conv.weight", (4, 3, 3, 3)), None, padding=1)
    if batch_norm:
        bn = [build.parameter(f"bn.{n}", (4,), k) for n, k in (("weight", "ones"), ("bias", "zeros"))]
        bn += [build.parameter(f"bn.{n}", (4,), k, buffer=True) for n, k in (("mean", "zeros"), ("var", "ones"))]
        y = build("batch_norm", y, *bn)
    y = build("mul", y, build("constant", value=scale, dtype="f32"))
    return build.done(build("relu", y))


def mapped(*operators: str, **attributes: Any) -> Graph:
    build = Builder()
    y: Any = build.input("x", "f32[N, 6]")
    for name in operators:
        y = build(name, y, **attributes)
    return build.done(y)


# ---------------------------------------------------------------------------------------------------- exact


@pytest.mark.parametrize(
    ("spec", "name"),
    [("resnet", "resnet18"), ("mobilenet_v2", "mobilenet_v2"), ("gpt2", "gpt2"), ("lstm_tagger", "lstm_tagger")],
)
def test_what_is_exact_is_kept_on_models(spec: str, name: str) -> None:
    folder = "tests/reduced" if (ROOT / "tests/reduced" / f"{spec}.net").exists() else "specs"
    before = probed(model(spec, name, folder))
    stripped = strip_phase(before, "infer")
    after = fold_constants(library()["fold"].run(stripped))
    for old, new in ((before, stripped), (stripped, after)):
        found = measure(old, new, EXACT, probes=1)
        assert found.kept, found
        assert found.probes == 1


def test_a_fold_that_forgets_eps_is_broken() -> None:
    before = probed(net())
    (norm,) = (n for n in before.nodes.values() if n.op.name == "batch_norm")
    edit = before.edit()
    edit.set(norm.path, op=replace(norm.op, eps=0.0))  # type: ignore[call-arg]
    found = measure(before, edit.done(), EXACT)
    assert not found.kept
    assert 1e-7 < found.relative < 1e-3
    assert found.worst == "output"
    assert measure(before, edit.done(), Contract("approx", 1e-2)).kept


def test_default_numbers_do_not_hide_a_forgotten_bias() -> None:
    """With scales of 1 and biases of 0 it would not show."""
    before = net()
    (norm,) = (n for n in before.nodes.values() if n.op.name == "batch_norm")
    x, weight, _, mean, variance = norm.inputs
    for operands in ([x, None, norm.inputs[2], mean, variance], [x, weight, None, mean, variance]):
        edit = before.edit()
        edit.set(norm.path, inputs=operands)
        assert not measure(before, edit.done(), EXACT).kept


def test_folded_numbers_are_compared_beyond_the_precision_they_are_kept_in() -> None:
    before = probed(net(1 / 3))
    after = fold_constants(library()["fold"].run(before))
    assert not [n for n in after.nodes.values() if n.op.name == "batch_norm"]
    assert measure(before, after, EXACT).relative < 1e-13
    assert 1e-9 < measure(before, after, Contract("approx", 1e-5)).relative < 1e-5


def test_the_same_seed_measures_the_same() -> None:
    before, after = net(1.0), net(1.001)
    assert measure(before, after, EXACT, seed=3) == measure(before, after, EXACT, seed=3)
    assert measure(before, after, EXACT, seed=3) != measure(before, after, EXACT, seed=4)


def test_a_graph_is_itself() -> None:
    assert measure(net(), net(), EXACT) == Measurement(EXACT, 3, 0.0, 0.0, "output")


def test_a_chain_of_passes_is_measured_as_each_pair_is(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = [probed(net(scale)) for scale in (1.0, 1.0, 2.0, 2.001)]
    runs: list[object] = []
    plain = Interpreter.__call__
    monkeypatch.setattr(Interpreter, "__call__", lambda self, given: (runs.append(self), plain(self, given))[1])
    meter = Meter()
    found = [meter(a, b, EXACT) for a, b in pairwise(graphs)]
    assert len(runs) == 3 * len(graphs)
    assert found == [measure(a, b, EXACT) for a, b in pairwise(graphs)]
    assert [f.kept for f in found] == [True, False, False]
    assert meter(graphs[0], graphs[2], EXACT) == measure(graphs[0], graphs[2], EXACT)


def test_alters_promises_nothing_and_is_still_measured() -> None:
    found = measure(net(), net(2.0), Contract("alters"))
    assert found.kept
    assert found.relative == pytest.approx(1)


# ---------------------------------------------------------------------------------------------------- broken


@pytest.mark.parametrize(
    ("operators", "words"),
    [(("argmax",), r"was f32\[2, 6\] and is i64\[2\]"), (("unsqueeze",), r"was f32\[2, 6\] and is f32\[2, 6, 1\]")],
)
def test_other_types_are_broken(operators: tuple[str, ...], words: str) -> None:
    found = measure(mapped("relu"), mapped(*operators, dim=-1), EXACT)
    assert not found.kept
    assert re.search(words, found.worst)


def test_missing_outputs_and_inputs_are_broken() -> None:
    graph = mapped("relu")
    renamed = replace(graph, outputs={"other": graph.outputs["output"]})
    assert measure(graph, renamed, EXACT).worst == "the output output, which is missing afterwards,"
    more = graph.edit()
    more.add("mask", Input(tensor(DType.BOOL, 2)))
    assert measure(graph, more.done(), EXACT).worst == "the input mask, which is new,"
    assert not measure(more.done(), graph, EXACT).kept


def test_numbers_from_nowhere_are_broken() -> None:
    before = net(batch_norm=False)
    edit = before.edit()
    (conv,) = (n for n in before.nodes.values() if n.op.name == "conv2d")
    old = before.parameters["conv.weight"]
    edit.set(conv.path, inputs=[conv.inputs[0], edit.parameter(replace(old, path="folded")), None])
    after = edit.done()
    assert "the parameter folded" in measure(before, after, EXACT).worst
    given = probed(before)
    folded = replace(after.parameters["folded"], data=given.parameters["conv.weight"].data)
    assert measure(given, after.with_parameters([folded]), EXACT).relative == 0


def test_nan_and_infinity_on_one_side_are_broken() -> None:
    plain, nan = mapped("relu"), mapped("relu", "log", "sqrt", "relu")
    found = measure(plain, nan, EXACT)
    assert not found.kept
    assert np.isnan(found.relative)
    assert not measure(nan, plain, EXACT).kept
    assert measure(nan, nan, EXACT).kept
    assert not measure(mapped("neg", "relu", "log"), mapped("relu", "log"), EXACT).kept  # -inf in other places


def test_every_output_counts() -> None:
    def two(second: str) -> Graph:
        build = Builder()
        x = build.input("x", "f32[2, 3]")
        return build.done(a=build("relu", x), b=build(second, x))

    found = measure(two("exp"), two("sigmoid"), EXACT)
    assert (found.kept, found.worst) == (False, "b")


# ---------------------------------------------------------------------------------------------------- delayed, approx


def test_delayed_outputs_are_compared_later() -> None:
    def late(steps: int) -> Graph:
        build = Builder()
        y: Any = build("tanh", build.input("x", "f32[N, T, 3]"))
        if steps:
            y = build("pad", y, padding=[[0, 0], [steps, 0], [0, 0]])
            y = build("slice", y, dim=1, start=0, stop=-steps)
        return build.done(y)

    def measured(steps: int, delay: float) -> Measurement:
        sizes = {"N": 2, "T": 9}  # a slice from the end keeps its length in words only
        return measure(bind(late(0), sizes), bind(late(steps), sizes), Contract("delayed", delay))

    assert measured(2, 2).relative == 0
    assert not measured(2, 1).kept
    assert not measured(1, 2).kept
    assert "has no 9 steps" in measured(2, 9).worst
    assert not measure(bind(late(0), {"T": 9}), bind(late(2), {"T": 9}), EXACT).kept


def test_approx_is_of_the_graph_in_its_own_precision() -> None:
    build = Builder()
    y = build("cast", build("cast", build.input("x", "f32[N, 6]"), dtype="bf16"), dtype="f32")
    rounded = build.done(build("relu", y))
    assert measure(mapped("relu"), rounded, EXACT).relative == 0
    found = measure(mapped("relu"), rounded, Contract("approx", 1e-2))
    assert found.kept
    assert 1e-4 < found.relative < 1e-2
    assert not measure(mapped("relu"), rounded, Contract("approx", 1e-5)).kept


# ---------------------------------------------------------------------------------------------------- phases


def test_each_phase_is_measured_by_itself() -> None:
    build = Builder()
    x = build.input("x", "f32[4, 3]")
    train, infer = build("relu", x), build("tanh", x)
    both = build.done(build("select_phase", build.node("dropout", train, phase="train").value, infer))
    assert measure(both, mapped_alone("tanh"), EXACT).kept
    assert not measure(both, mapped_alone("relu"), EXACT).kept
    assert measure(both, mapped_alone("relu"), EXACT, phase="train").kept  # dropout: its expectation


def mapped_alone(operator: str) -> Graph:
    build = Builder()
    return build.done(build(operator, build.input("x", "f32[4, 3]")))


def test_training_uses_the_statistics_of_the_batch() -> None:
    before = probed(net())
    changed = before.parameters["bn.mean"]
    after = before.with_parameters([replace(changed, data=InMemory(np.ones(4, "f4")))])
    assert not measure(before, after, EXACT).kept
    assert measure(before, after, EXACT, phase="train").kept
    assert (values(after)["bn.mean"] == 1).all()  # the run leaves the data alone


# ---------------------------------------------------------------------------------------------------- probes


def test_integers_lie_in_the_tables_they_look_up() -> None:
    build = Builder()
    ids, places = build.input("ids", "i64[N, T]"), build.input("places", "i32[T]")
    flat = build("slice", build("reshape", build("cast", ids, dtype="i32"), size=[-1]), dim=0, start=0, stop=4)
    a = build("embedding", flat, build.parameter("table", (5, 3)))
    shifted = build("add", places, build("constant", value=2, dtype="i32"))
    b = build("embedding", shifted, build.parameter("positions", (4, 3)))
    graph = bound(build.done(a=a, b=b))
    drawn = [inputs(graph, seed) for seed in range(40)]
    assert {int(i) for d in drawn for i in d["ids"].flat} == set(range(5))
    assert {int(i) for d in drawn for i in d["places"].flat} == {0, 1}
    assert {d["ids"].dtype for d in drawn} == {np.dtype("int64")}
    assert measure(graph, graph, EXACT).kept


def test_the_narrowest_table_decides() -> None:
    build = Builder()
    index = build.input("index", "i64[7, 1]")
    hot = build("one_hot", index, num_classes=6)
    picked = build("gather", build.input("x", "f32[7, 3]"), index, dim=1)
    drawn = inputs(build.done(hot=hot, picked=picked))["index"]
    assert 0 <= drawn.min() < drawn.max() <= 2


def test_pictures_in_bytes_are_bytes() -> None:
    build = Builder()
    drawn = inputs(bound(build.done(build("cast", build.input("x", "u8[N, 3, 8, 8]"), dtype="f32"))))["x"]
    assert drawn.dtype == np.uint8
    assert drawn.max() > 200


@pytest.mark.parametrize("inverted", [False, True])
def test_masks_leave_something_to_see(inverted: bool) -> None:
    build = Builder()
    q, k, v = (build.input(n, "f32[2, 2, T, 4]") for n in "qkv")
    mask: Any = build.input("hide", "bool[2, 1, T, T]")
    if inverted:
        mask = build("logical_not", mask)
    graph = bound(build.done(build("scaled_dot_product_attention", q, k, v, mask)))
    for seed in range(20):
        drawn = inputs(graph, seed)["hide"] ^ inverted
        assert drawn.any(-1).all()
        assert not drawn.all()
        assert np.isfinite(run(graph, inputs(graph, seed))["output"]).all()


def test_masks_by_very_negative_numbers_leave_something_to_see() -> None:
    build = Builder()
    scores, hide = build.input("scores", "f32[3, 5]"), build.input("hide", "bool[3, 5]")
    lowest = build("constant", value=float("-inf"), dtype="f32")
    graph = build.done(build("softmax", build("where", hide, lowest, scores), dim=-1))
    for seed in range(20):
        assert np.isfinite(run(graph, inputs(graph, seed))["output"]).all()


def test_numbers_below_a_root_or_a_logarithm_are_positive() -> None:
    build = Builder()
    x, y = build.input("x", "f32[50]"), build.input("y", "f32[50]")
    scale = build.parameter("scale", (50,))
    reached = build("log", build("add", build("reshape", x, size=[5, 10]), build("constant", value=1.0, dtype="f32")))
    graph = build.done(a=reached, b=build("div", y, build("rsqrt", scale)))
    drawn, made = inputs(graph), values(probed(graph))
    assert (drawn["x"] > -1).all()
    assert (drawn["y"] < 0).any()
    assert (made["scale"] > 0.1).all()


def test_parameters_keep_their_data() -> None:
    graph = net()
    data = InMemory(np.full(4, 7, "f4"))
    graph = graph.with_parameters([replace(graph.parameters["bn.mean"], data=data)])
    made = probed(graph)
    assert made.parameters["bn.mean"].data is data
    assert all(p.data for p in made.parameters.values())
    assert probed(made) is made
    numbers = values(made)
    assert (numbers["bn.var"] > 0).all()
    assert np.abs(numbers["bn.weight"] - 1).max() > 0.01 < np.abs(numbers["bn.bias"]).max()
    assert all(np.array_equal(a, b) for a, b in zip(numbers.values(), values(probed(graph)).values(), strict=True))


def test_activations_stay_moderate_in_deep_networks() -> None:
    build = Builder()
    x: Any = build.input("x", "f32[4, 16, 8, 8]")
    for i in range(60):
        x = build("relu", build("conv2d", x, build.parameter(f"w{i}", (16, 16, 3, 3)), None, padding=1))
    graph = probed(build.done(x))
    assert 1e-2 < np.abs(run(graph, inputs(graph))["output"]).max() < 1e4


def test_symbols_get_small_numbers_that_the_model_takes() -> None:
    build = Builder()
    x = build.input("x", "f32[N, 6, T]")
    graph = build.done(build("conv1d", x, build.parameter("w", (3, 6, 10)), None))
    assert bound(graph).inputs["x"].types[0].shape == (2, 6, 16)
    assert bound(graph, {"T": 12}).inputs["x"].types[0].shape == (2, 6, 12)
    assert bound(graph, longer=4).inputs["x"].types[0].shape == (2, 6, 11)
    with pytest.raises(NetcError, match="T = 7"):
        bound(graph, {"T": 7})
    pair = Builder()
    two = bound(pair.done(pair("matmul", pair.input("a", "f32[M, K]"), pair.input("b", "f32[K, L]"))))
    assert len({d for n in two.inputs.values() for d in n.types[0].shape}) == 3


def test_a_pass_may_bind_symbols() -> None:
    before = mapped("relu")
    assert measure(before, bind(before, {"N": 5}), EXACT).kept
    assert not measure(before, bind(mapped("relu", "neg"), {"N": 5}), EXACT).kept


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.op.name)
def test_every_sample_can_be_measured(sample: Sample) -> None:
    graph = sample_graph(sample, parameters=True)
    assert measure(graph, graph, EXACT, probes=1).relative == 0
    assert not wishes(graph) or all(w.low <= w.high for w in wishes(graph).values())


# ---------------------------------------------------------------------------------------------------- below


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.op.name)
def test_the_interpreter_computes_what_the_source_does(sample: Sample) -> None:
    graph = probed(sample_graph(sample, parameters=True))
    given = inputs(graph)
    with torch.no_grad():
        wanted = module(graph)(*map(torch.from_numpy, given.values()))
    found = run(graph, given)
    assert list(found) == list(graph.outputs)
    for a, b in zip(found.values(), wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        torch.testing.assert_close(torch.from_numpy(a), b, equal_nan=True)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.op.name)
def test_everything_can_be_computed_in_float64(sample: Sample) -> None:
    graph = probed(sample_graph(sample, parameters=True))
    wide = widen(graph, narrow=True)
    verify(wide)
    assert not [n for n in wide.nodes.values() for t in n.types if t.dtype.is_float and t.dtype is not DType.F64]
    given = inputs(graph)
    found = run(wide, {k: a.astype("f8") if a.dtype.kind == "f" else a for k, a in given.items()})
    for a, b in zip(found.values(), run(graph, given).values(), strict=True):
        assert a.dtype == (np.float64 if b.dtype.kind == "f" else b.dtype)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_the_interpreter_needs_sizes() -> None:
    build = Builder()
    x = build.input("x", "f32[N, T]")
    graph = build.done(build("arange", start=build.edit.type(x).shape[1]))
    with pytest.raises(NetcError, match="bind"):
        run(graph, {"x": np.zeros((2, 3), "f4")})


def test_paths_that_no_module_could_have_are_run() -> None:
    build = Builder()
    y: Any = build.input("x", "f32[6]")
    for path in ("training", "a", "a.b"):
        y = build("mul", y, build.parameter(path, (6,), "constant", 2.0))
    assert (run(build.done(y), {"x": np.ones(6, "f4")})["output"] == 8).all()
