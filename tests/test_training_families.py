"""Training of what transforms make: from a teacher, with frozen parts, and families by members."""

from __future__ import annotations

import csv
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import netc
import pytest
import torch
from interruption import Interruption
from netc.__main__ import app
from netc.backends.pytorch import module
from netc.backends.training import Result, parse_options, train
from netc.backends.training.distillation import Distillation, Lesson, Pair, value_at
from netc.backends.training.members import Members
from netc.backends.training.sampler import Sampler
from netc.compiler.dataset import load_data
from netc.compiler.family import Family
from netc.compiler.graph import Graph, Value
from netc.compiler.program import read_source
from netc.compiler.source import Source
from netc.compiler.weights import InMemory, value
from safetensors.torch import load_file
from torch.nn import functional
from typer.testing import CliRunner

NETWORK = """
module Net(width = 4) (x: [N, 1, 8, 8]) {
    x = x |> conv2d(width, 3, 2, padding = 1, bias = false) as conv |> batch_norm as bn |> relu
    return logits = x |> flatten(1) |> dropout(0.2) |> linear(10) as fc
}
model net = Net() (x: f32[N, 1, 8, 8])
model wide = Net(9) (x: f32[N, 1, 8, 8])
"""

PLAIN = """
module Net(width = 16) (x: [N, 64]) {
    hidden = x |> linear(width) as stem
    tap "hidden" = hidden
    return logits = hidden |> relu |> linear(10) as fc
}
model net = Net() (x: f32[N, 64])
model wide = Net(24) (x: f32[N, 64])
"""


def graph(text: str, name: str = "net", seed: int | None = None) -> Graph:
    """A model of a text; with a seed, with numbers of its own."""
    made = read_source(Source("spec.net", text)).model(name).graph
    if seed is None:
        return made
    return made.with_parameters([replace(p, data=InMemory(value(p, seed))) for p in made.parameters.values()])


def refused(call: Callable[[], object]) -> netc.Diagnostic:
    with pytest.raises(netc.NetcError) as caught:
        call()
    (found,) = caught.value.diagnostics
    return found


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    """Train a model into a folder of `tmp_path`."""

    def start(model: Graph | Family, folder: str = "run", by: Graph | None = None, **options: Any) -> Result:
        named = {"teacher": by.name} if by else {}
        values = {"data": "digits", "output": tmp_path / folder, "epochs": 1, **named, **options}
        return train(model, parse_options(values), teacher=by)

    return start


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """The training set as a run sees it."""
    data = load_data("digits")
    x = (torch.from_numpy(data.train.x.astype("float32")) - data.mean[0]) / data.std[0]
    return x, torch.from_numpy(data.train.y)


# ------------------------------------------------------------------------------------------------------- a teacher


def test_the_loss_has_the_parts_that_it_is_said_to_have(run: Callable[..., Result]) -> None:
    """One step over the whole training set, against the formulas written out."""
    student, teacher = graph(PLAIN, seed=1), graph(PLAIN, seed=2)
    x, y = digits()
    x = x.reshape(len(x), 64)
    ours, theirs = module(student), module(teacher)
    logits, wanted = ours(x), theirs(x)
    hidden, target = ours.stem(x), theirs.stem(x)
    p, q = functional.softmax(wanted / 3, 1), functional.softmax(logits / 3, 1)
    soft = 9 * (p * (p / q).log()).sum(1).mean()
    match = ((hidden - target) ** 2).mean() / (target**2).mean()
    loss = 0.3 * functional.cross_entropy(logits, y) + 0.7 * soft + 0.25 * match
    options = {"batch": len(y), "distill": 0.7, "temperature": 3, "features": "hidden", "feature_weight": 0.25}
    (row,) = run(student, by=teacher, **options).rows
    assert row.train_loss == pytest.approx(loss.item(), rel=1e-5)
    assert row.distill_loss == pytest.approx(soft.item(), rel=1e-5)
    assert row.feature_loss == pytest.approx(match.item(), rel=1e-5)


def test_a_teacher_teaches(run: Callable[..., Result]) -> None:
    """Without labels, a student of a trained teacher classifies as it does."""
    first = run(graph(PLAIN), "teacher", epochs=10, batch=32, learning_rate=1e-2)
    taught = graph(PLAIN)
    weights = load_file(first.model)
    taught = taught.with_parameters(
        [replace(p, data=InMemory(weights[path].numpy())) for path, p in taught.parameters.items()]
    )
    options = {"epochs": 5, "batch": 32, "learning_rate": 1e-2, "distill": 1}
    result = run(graph(PLAIN, "wide"), "student", taught, **options)
    assert result.rows[-1].val_accuracy > 0.9
    assert result.rows[-1].distill_loss < 0.2 * result.rows[0].distill_loss
    assert result.rows[-1].train_loss == result.rows[-1].distill_loss


def test_features_of_different_widths_are_joined_by_a_projection(run: Callable[..., Result]) -> None:
    options = {"epochs": 4, "batch": 32, "learning_rate": 1e-2, "feature_weight": 1, "distill": 0}
    result = run(graph(NETWORK), by=graph(NETWORK, "wide", 2), features="bn = bn, fc", **options)
    assert result.rows[-1].feature_loss < 0.8 * result.rows[0].feature_loss
    assert load_file(result.model).keys() == graph(NETWORK).parameters.keys()
    stored = load_file(result.folder / "checkpoint.safetensors")
    assert stored["model.netc_projection_0"].shape == (9, 4)
    assert "optimizer.exp_avg.netc_projection_0" in stored


def test_a_projection_that_is_the_identity_leaves_nothing_to_learn() -> None:
    pair = Pair(Value("a"), Value("a"), 1, (3, 5))
    taught = torch.randn(2, 3, 4, 4)
    lift = torch.nn.Parameter(torch.randn(5, 3))
    wanted = torch.einsum("os,nshw->nohw", lift, taught)
    made = Distillation(None, [pair], {0: lift}, 1.0)  # type: ignore[arg-type]
    assert made.match(Lesson(wanted, (wanted,)), [taught]).item() < 1e-12
    assert made.match(Lesson(wanted, (wanted,)), [torch.zeros_like(taught)]).item() == pytest.approx(1)


def test_values_are_found_by_tap_call_and_node() -> None:
    text = """
    module Half() (x) {
        return relu(x |> linear(8) as inner)
    }
    module Net() (x: [N, 64]) {
        early = x |> Half as half
        tap "early" = early
        infer {
            p = early |> softmax as late
        }
        return logits = early |> linear(10) as fc, p
    }
    model net = Net() (x: f32[N, 64])
    """
    found = graph(text)
    assert value_at(found, "early", training=True) == value_at(found, "half", training=True)
    assert value_at(found, "half.inner", training=True) == Value("half.inner")
    assert value_at(found, "late", training=False) == Value("late")
    assert "not in training" in refused(lambda: value_at(found, "late", training=True)).message
    assert refused(lambda: value_at(found, "hal", training=True)).fix == "half"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "conv = fc"}, "features: conv is [4, 4, 4] for an example, and fc [10]"),
        ({"features": "nothing"}, "features: net has nothing at nothing"),
    ],
)
def test_features_that_do_not_fit(run: Callable[..., Result], options: dict[str, Any], message: str) -> None:
    found = refused(lambda: run(graph(NETWORK), "run", graph(NETWORK, "wide", 1), **options))
    assert found.message == message


def test_teachers_that_cannot_teach(run: Callable[..., Result]) -> None:
    assert refused(lambda: run(graph(NETWORK), by=graph(NETWORK))).code == "untrained-teacher"
    integers = (
        PLAIN.replace("f32[", "i64[").replace("64]", "T]").replace("linear(width)", "embedding(20, 8) |> mean(1)")
    )
    assert refused(lambda: run(graph(NETWORK), by=graph(integers, seed=0))).code == "data-mismatch"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distill": 0.5}, "distill has no effect without teacher"),
        ({"temperature": 2}, "temperature has no effect without teacher"),
        ({"teacher": "a", "feature_weight": 1}, "feature_weight has no effect without features"),
        ({"bins": 4}, "bins has no effect with sampler = uniform"),
    ],
)
def test_options_without_effect(options: dict[str, Any], message: str) -> None:
    found = refused(lambda: parse_options({"data": "digits", "output": "run", **options}))
    assert (found.code, found.message) == ("option-without-effect", message)


# ---------------------------------------------------------------------------------------------------- frozen parts


def test_what_is_frozen_stays(run: Callable[..., Result]) -> None:
    start = graph(NETWORK, seed=3)
    trained = load_file(run(start, freeze="conv, bn.weight", freeze_statistics=True).model)
    before = {path: torch.from_numpy(value(p)) for path, p in start.parameters.items()}
    kept = {path for path, tensor in trained.items() if torch.equal(tensor, before[path])}
    assert kept == {"conv.weight", "bn.weight", "bn.running_mean", "bn.running_var"}
    found = refused(lambda: run(start, "other", freeze="convs"))
    assert found.message == 'freeze: no parameter matches "convs"'


def test_frozen_statistics_are_what_training_computes_with(run: Callable[..., Result]) -> None:
    text = NETWORK.replace(" |> dropout(0.2)", "")
    start = graph(text, seed=3)
    x, y = digits()
    loss = functional.cross_entropy(module(start).eval()(x), y)
    (row,) = run(start, batch=len(y), freeze_statistics=True).rows
    assert row.train_loss == pytest.approx(loss.item(), rel=1e-5)


# -------------------------------------------------------------------------------------------------------- families

WIDTHS = (2, 4, 12)


def family() -> Family:
    """Three networks with one last layer of their own and a first one that all share; the middle one twice."""
    text = """
    module Net(width = 4, name = "mid") (x: [N, 1, 8, 8]) {
        x = x |> conv2d(4, 3, 2, padding = 1, bias = false) as conv |> batch_norm as bn |> relu
        x = x |> conv2d(width, 3, padding = 1) as "{name}.conv" |> relu
        return logits = x |> flatten(1) |> dropout(0.1) |> linear(10) as "{name}.fc"
    }
    model small = Net(2, "small") (x: f32[N, 1, 8, 8])
    model mid = Net() (x: f32[N, 1, 8, 8])
    model large = Net(12, "large") (x: f32[N, 1, 8, 8])
    """
    names = ["small", "mid", "mid", "large"]
    graphs = [graph(text, name, 4) for name in names]
    store = {path: p for g in graphs for path, p in g.parameters.items()}
    anchors = {"small": 0, "large": 3}
    return Family("three", 4, graphs.__getitem__, lambda n: f"{names[n]} {n}", store, anchors)


def test_a_family_is_trained_and_its_members_measured(run: Callable[..., Result]) -> None:
    result = run(family(), epochs=6, batch=32, learning_rate=1e-2, teacher="large", distill=0.5)
    with (result.folder / "members.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [r["label"] for r in rows] == ["small 0", "mid 1", "mid 2", "large 3"]
    assert [r["anchor"] for r in rows] == ["small", "", "", "large"]
    # A first layer of 4 · 9 at 4 · 4 places, a second of w · 4 · 9, a last of 10 · 16 w.
    assert [int(r["macs"]) for r in rows] == [16 * (36 + 36 * w) + 160 * w for w in (2, 4, 4, 12)]
    assert all(float(r["accuracy_before"]) < 0.3 for r in rows)
    assert min(float(r["accuracy_after"]) for r in rows) > 0.7
    assert [r.accuracy_after for r in result.members] == [float(r["accuracy_after"]) for r in rows]
    anchors = [r.accuracy_after for r in result.members if r.anchor]
    assert result.rows[-1].val_accuracy == pytest.approx(sum(anchors) / 2)

    # Again from what was written: the member's own graph with the family's file.
    weights = load_file(result.model)
    assert weights.keys() == family().parameters.keys()
    member = module(family().member(1))
    member.load_state_dict({path: weights[path] for path in family().member(1).parameters})
    data = load_data("digits")
    x = (torch.from_numpy(data.test.x.astype("float32")) - data.mean[0]) / data.std[0]
    with torch.no_grad():
        hits = member(x).argmax(1).numpy() == data.test.y
    assert hits.mean() == result.members[1].accuracy_after


@pytest.mark.parametrize(
    "options", [{"sampler": "flops", "bins": 2, "teacher": "large"}, {"sandwich": True, "freeze": "small"}]
)
def test_an_interrupted_family_ends_as_if_it_had_not_been(
    run: Callable[..., Result], interrupt: Callable[[int], None], options: dict[str, Any]
) -> None:
    options = {"batch": 64, "epochs": 2, "shift": 1, **options}
    whole = run(family(), "whole", **options)
    stop = random.Random(str(options)).randrange(6, 44)
    interrupt(stop)
    with pytest.raises(Interruption):
        run(family(), "stopped", checkpoint_steps=5, **options)
    assert not (whole.folder.parent / "stopped" / "members.csv").exists()
    resumed = run(family(), "stopped", checkpoint_steps=5, resume=True, **options)
    assert resumed.model.read_bytes() == whole.model.read_bytes(), f"interrupted in step {stop}"
    assert [r[:-1] for r in resumed.rows] == [r[:-1] for r in whole.rows]
    assert (resumed.folder / "members.csv").read_bytes() == (whole.folder / "members.csv").read_bytes()


def test_a_taught_run_resumes_to_the_same_bytes(run: Callable[..., Result], interrupt: Callable[[int], None]) -> None:
    teacher = graph(NETWORK, "wide", 1)
    options = {"features": "bn, conv", "freeze_statistics": True, "optimizer": "sgd", "learning_rate": 0.01}
    whole = run(graph(NETWORK), "whole", teacher, **options)
    interrupt(8)
    with pytest.raises(Interruption):
        run(graph(NETWORK), "stopped", teacher, checkpoint_steps=3, **options)
    found = refused(lambda: run(graph(NETWORK), "stopped", graph(NETWORK, "wide", 2), resume=True, **options))
    assert "another teacher" in found.message
    resumed = run(graph(NETWORK), "stopped", teacher, resume=True, **options)
    assert resumed.model.read_bytes() == whole.model.read_bytes()


def members() -> Members:
    return Members(family(), load_data("digits"), torch.device("cpu"))


def drawn(**options: Any) -> Counter[tuple[int, ...]]:
    parsed = parse_options({"data": "digits", "output": "run", **options})
    sampler = Sampler(members(), parsed)
    assert [sampler(step) for step in range(20)] == [sampler(step) for step in range(20)]
    return Counter(tuple(sampler(step)) for step in range(3000))


def test_members_are_drawn_alike() -> None:
    found = drawn()
    assert {n: found[n,] / 3000 for n in range(4)} == pytest.approx(dict.fromkeys(range(4), 0.25), abs=0.04)


def test_ranges_of_macs_are_drawn_alike() -> None:
    """Of 2, 4, 4 and 12 units: halves by MACs are the first three members, and the last."""
    found = drawn(sampler="flops", bins=2)
    shares = {n: found[n,] / 3000 for n in range(4)}
    assert shares == pytest.approx({0: 1 / 6, 1: 1 / 6, 2: 1 / 6, 3: 1 / 2}, abs=0.04)


def test_the_sandwich_has_both_ends() -> None:
    assert set(drawn(sandwich=True)) == {(0, 3), (0, 3, 1), (0, 3, 2)}


def test_members_share_their_tensors() -> None:
    made = members()
    first, second = made[0].module, made[3].module
    assert first.conv.weight is second.conv.weight is made.parameters["conv.weight"]
    assert first.bn.running_mean is second.bn.running_mean is made.buffers["bn.running_mean"]
    assert made.spread(0) == [0, 1, 2, 3]
    assert made.spread(2) == [0, 3]


def test_options_of_families_are_for_families(run: Callable[..., Result]) -> None:
    found = refused(lambda: run(graph(NETWORK), sandwich=True))
    assert found.message == "sandwich has no effect: net is one model, and no family"
    found = refused(lambda: run(family(), teacher="larg"))
    assert (found.code, found.fix) == ("unknown-teacher", "teacher = large")
    found = refused(lambda: run(family(), teacher="large", features="conv"))
    assert "each member of a family has its own" in found.message


STORY = """
module Block(c) (x) {
    return relu(x + (x |> conv2d(c, 3, padding = 1) as conv))
}
module Net(width) (x: [N, 1, 8, 8]) {
    x = x |> conv2d(width, 3, 2, padding = 1) as stem |> relu
    for i in 0..2 {
        x = x |> Block(width) as "blocks.{i}"
    }
    return logits = x |> mean([2, 3]) |> linear(10) as fc
}
model raw = Net(8) (x: f32[N, 1, 8, 8])
"""

MADE = """
model large = raw |> load("raw/model.safetensors")
model small = large |> prune(ratio = 0.5)
data calib = examples("digits")
family both = stitch(small, large, init = lstsq(calib, samples = 64))
"""


def test_one_command_each_for_what_is_pruned_and_what_is_stitched(tmp_path: Path) -> None:
    def command(name: str, *options: str) -> list[dict[str, str]]:
        given = ["train", f"{tmp_path / 'story.net'}:{name}", "--data", "digits", "--output", str(tmp_path / name)]
        result = CliRunner().invoke(app, [*given, "--batch", "32", "--learning-rate", "1e-2", *options])
        assert result.exit_code == 0, result.output
        table = tmp_path / name / ("members.csv" if name == "both" else "metrics.csv")
        with table.open() as stream:
            return list(csv.DictReader(stream))

    (tmp_path / "story.net").write_text(STORY)
    command("raw", "--epochs", "10")
    (tmp_path / "story.net").write_text(STORY + MADE)
    last = command("small", "--epochs", "3", "--teacher", "large", "--features", "blocks.1, fc", "--distill", "0.9")[-1]
    assert float(last["distill_loss"]) > 0 < float(last["feature_loss"])
    assert float(last["val_accuracy"]) > 0.4
    members = command("both", "--epochs", "2", "--teacher", "large", "--sampler", "flops", "--bins", "3", "--sandwich")
    assert [m["anchor"] for m in members[:2]] == ["small", "large"]
    gain = [float(m["accuracy_after"]) - float(m["accuracy_before"]) for m in members if not m["anchor"]]
    assert sum(gain) / len(gain) > 0.1
