"""Transforms in the language: calls and pipes of models, options, refusals, contracts and receipts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import netc
import numpy
import pytest
from netc.__main__ import app
from netc.compiler.calibration import Calibration
from netc.compiler.contract import Contract
from netc.compiler.diagnostic import NetcError
from netc.compiler.family import Family
from netc.compiler.graph import Graph, verify
from netc.compiler.library import library
from netc.compiler.receipt import receipt
from netc.compiler.source import Source
from netc.compiler.text import print_graph
from netc.compiler.transforms import TRANSFORMS, WORDS, Limit, Outcome, Refusal, transform
from netc.compiler.transforms.numbers import made
from typer.testing import CliRunner

SPECS = Path(__file__).parents[1] / "specs"

NET = """\
module Net(width) (x: [N, 8]) {
    return x |> linear(width) as up |> relu |> linear(4) as head
}

model small = Net(16) (x: f32[N, 8])
model other = Net(16) (x: f32[N, 8])
let plain = small
"""


@pytest.fixture(autouse=True)
def _own_transforms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transforms of these tests alone, besides those of the compiler."""
    known = dict(TRANSFORMS)
    for function in (times, mixed, both_of, choose, fits, watched):
        transform(function)
        own = TRANSFORMS[function.__name__]
        monkeypatch.setitem(TRANSFORMS, function.__name__, own)
    yield  # type: ignore[misc]
    TRANSFORMS.clear()
    TRANSFORMS.update(known)


def times(graph: Graph, by: float = 2.0, promise: Literal["exact", "alters"] = "alters", seed: int = 0) -> Outcome:
    """Multiply the head's weight.

    More than that is not done.
    """
    if "head.weight" not in graph.parameters:
        raise Refusal("there is no head", nodes=["up"], option="by", notes=("a head is needed",), fix="add a head")
    scaled = made(graph.parameters["head.weight"], lambda w: w * by, seed=seed)
    return Outcome(graph.with_parameters([scaled]), Contract(promise), (f"the head is {by:g} times as large",))


def mixed(first: Graph, second: Graph, share: float = 0.5, seed: int = 0) -> Outcome:
    """The mean of two heads."""
    heads = [g.parameters["head.weight"] for g in (first, second)]
    mean = made(heads[0], lambda a, b: a * (1 - share) + b * share, *heads, seed=seed)
    names = tuple(f"{g.name}.head.weight" for g in (first, second))
    return Outcome(first.with_parameters([mean]), Contract("alters"), sources={"head.weight": names})


def both_of(*models: Graph) -> Family:
    """The models themselves."""
    store = {
        f"{g.name}.{path}": replace(p, path=f"{g.name}.{path}") for g in models for path, p in g.parameters.items()
    }

    def build(number: int) -> Graph:
        from netc.compiler.place import place

        graph = models[number]
        edit = Graph(graph.name).edit()
        given = {n.value: edit.add(n.path, n.op).value for n in graph.inputs.values()}
        names = {path: f"{graph.name}.{path}" for path in graph.parameters}
        done = place(edit, graph, "", given, parameters=names)
        for name, ref in graph.outputs.items():
            edit.output(name, done[ref])
        return edit.done()

    names = [g.name for g in models]
    return Family("both", len(models), build, names.__getitem__, store, {n: i for i, n in enumerate(names)})


def choose(graph: Graph, kinds: list[Literal["width", "depth"]], limits: tuple[Limit, ...] = ()) -> Outcome:
    """Note what was given."""
    text = ", ".join([*kinds, *(f"{x.quantity} {x.relation} {x.value:g}" for x in limits)])
    return Outcome(graph, Contract(), (text,))


def fits(graph: Graph, limit: Limit) -> Outcome:
    """Take one budget."""
    return Outcome(graph, Contract(), (str(limit.value),))


def watched(graph: Graph, calibration: Calibration, samples: int = 3) -> Outcome:
    """Note the shapes of the data."""
    shapes = {name: list(a.shape) for name, a in calibration.inputs(graph, samples).items()}
    return Outcome(graph, Contract(), (json.dumps(shapes),))


def model(text: str, name: str = "m") -> netc.Model:
    return netc.loads(Source("net.net", NET + text)).model(name)


def problems(text: str, name: str = "m") -> list[str]:
    with pytest.raises(NetcError) as caught:
        model(text, name)
    return [d.message for d in caught.value.diagnostics]


def test_a_transform_changes_the_model_before_it() -> None:
    made_ = model("model m = small |> times(by = 3)")
    weight = made_.graph.parameters["head.weight"].data
    assert weight is not None
    plain = model("", "small").torch(seed=0).state_dict()["head.weight"].numpy()
    numpy.testing.assert_allclose(weight.load(), 3 * plain, rtol=1e-6)
    assert made_.name == made_.graph.name == "m"
    assert [str(a) for a in made_.applied] == ["times(by = 3)"]
    assert [str(s.step) for s in made_.stages] == ["times(by = 3)"]


def test_transforms_follow_one_another_and_pass_through_lets() -> None:
    text = 'let twice = plain |> times\nmodel m = twice |> strip_phase(keep = "infer") |> times(3)'
    found = model(text)
    assert [s.step.run.name for s in found.stages] == ["times", "strip_phase", "times(3)"]
    assert [str(a) for a in found.applied] == ["times", "times(3)"]


@pytest.mark.parametrize("call", ["mixed(small, other, share = 1.0)", "small |> mixed(other, share = 1.0)"])
def test_models_stand_in_the_call_or_before_it(call: str) -> None:
    found = model(f"model m = {call}")
    (applied,) = found.applied
    assert [g.name for g in applied.models] == ["small", "other"]
    written = receipt(applied, measured=False)
    assert written.changed == ("head.weight",)
    assert "other:up.weight" in written.dropped


def test_models_in_a_call_may_be_made_there() -> None:
    found = model("model m = mixed(small |> times(by = 2), other)")
    assert [str(a) for a in found.applied] == ["times(by = 2)", "mixed(small |> times(by = 2), other)"]


def test_budgets_and_words_are_options() -> None:
    (applied,) = model("model m = small |> choose([width, depth], macs <= 24 M, parameters <= 5 k)").applied
    assert applied.outcome.notes == ("width, depth, macs <= 2.4e+07, parameters <= 5000",)
    (applied,) = model("model m = small |> fits(macs <= 1.5 k)").applied
    assert applied.outcome.notes == ("1500",)


def test_a_constructor_is_meant_by_a_call_whatever_the_file_declares() -> None:
    text = "model ties = merge(small, other, method = ties(plain, density = 0.5))\nmodel m = ties |> times"
    assert len(model(text).applied) == 2


def test_data_are_declared(tmp_path: Path) -> None:
    numpy.savez(tmp_path / "some.npz", x=numpy.ones((5, 2, 4), "float64"))
    text = 'data some = arrays("some.npz")\nmodel m = small |> watched(some)\n'
    text += "data hiss = noise(seed = 1)\nmodel n = small |> watched(hiss, samples = 7)"
    program = netc.loads(Source(str(tmp_path / "net.net"), NET + text, tmp_path / "net.net"))
    assert program.model("m").applied[0].outcome.notes == ('{"x": [3, 8]}',)
    assert program.model("n").applied[0].outcome.notes == ('{"x": [7, 8]}',)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("data d = arrys()", "these are no data"),
        ("data d = arrays()", "arrays needs its option path"),
        ('data d = noise(sed = "a")', "noise has no option sed"),
        ('data d = arrays("gone.npz")', "there is no file gone.npz"),
    ],
)
def test_wrong_data_are_refused(declared: str, message: str) -> None:
    assert any(message in p for p in problems(f"{declared}\nmodel m = small |> watched(d)"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("small |> tims(by = 2)", "there is no pass tims"),
        ("small |> times(bi = 2)", "times has no option bi"),
        ('small |> times(by = "a")', 'by is a number, not "a"'),
        ("small |> times(2, by = 2)", "by is given twice"),
        ("small |> times(promise = exactly)", "exactly is none of exact, alters, and no name of this file"),
        ("small |> times(macs <= 3)", "times takes no budget"),
        ("small |> fits(macs <= 3, macs <= 4)", "fits takes one budget"),
        ("small |> choose([width, height])", "height is none of width, depth, and no name of this file"),
        ("small |> choose()", "choose needs its option kinds"),
        ("small |> widen(seed = -1)", "seed is -1, and must be at least 0"),
        ("small |> prune(ratio = 1e308 * 10)", "ratio is inf, which is no finite number"),
        ("small |> prune(macs <= 1e308 * 10)", "macs is inf, which is no finite number"),
        ("small |> widen(by = 1e9)", "makes 16_000_000_000 units of one dimension, and 1_048_576 are the most"),
        ("small |> deepen(how = net2deeper, by = 1_000_000)", "2_000_000 insertions, and 10_000 are the most"),
        ('small |> path("*", branches = 1_000_000)', "2_000_000 branches, and 10_000 are the most"),
        ("small |> experts(how = upcycle, count = 1_000_000)", "1_000_000 experts, and 10_000 are the most"),
        ("small |> experts(how = views, depth = 1_000_000)", "1_000_000 applications, and 10_000 are the most"),
        ("mixed(small)", "mixed takes 2 models, and here is one"),
        ("mixed(share = 0.1)", "mixed takes 2 models, and here are none"),
        ("small |> mixed(other, plain)", "share: input should be a valid number"),
        ("small |> both_of(other)", "m is the family m of 2 models, not a model"),
        ("both_of(small, other)[2]", "m has the members 0 to 1, not 2"),
    ],
)
def test_wrong_calls_are_refused(call: str, message: str) -> None:
    assert any(message in p for p in problems(f"model m = {call}")), problems(f"model m = {call}")


def test_a_refusal_names_the_argument_the_nodes_and_the_fix() -> None:
    text = """
module Headless() (x: [N, 8]) {
    return x |> linear(3) as up
}
model headless = Headless() (x: f32[N, 8])
model m = headless |> times(by = 2)
"""
    with pytest.raises(NetcError) as caught:
        model(text)
    (found,) = caught.value.diagnostics
    assert found.code == "transform-refused"
    assert found.message == "times: there is no head"
    assert [x.span.text for x in found.labels] == ["by = 2", "linear(3)"]
    assert found.notes == ("it is stopped by %up", "a head is needed")
    assert found.fix == "add a head"


def test_a_family_has_members_that_are_models() -> None:
    text = "family f = both_of(small, other)\nmodel m = f[1]\nmodel n = both_of(other, small)[0]"
    program = netc.loads(Source("net.net", NET + text))
    assert program.families == ["f"]
    family = program.family("f")
    assert (family.name, family.count) == ("f", 2)
    assert list(program.model("m").graph.parameters) == [
        f"other.{p}" for p in ("up.weight", "up.bias", "head.weight", "head.bias")
    ]
    assert print_graph(program.model("f[1]").graph).startswith("graph f_1 ")
    verify(program.model("f[other]").graph)
    assert not program.check()
    assert program.model('f["other"]').graph == program.model("f[other]").graph
    for wrong in ("f[2]", "f[x]"):
        with pytest.raises(NetcError, match="members 0 to 1"):
            program.model(wrong)
    with pytest.raises(NetcError) as caught:
        program.model("f[othr]")
    (found,) = caught.value.diagnostics
    assert (found.fix, found.notes) == ("other", (f"whole models are {', '.join(family.anchors)}",))
    with pytest.raises(NetcError, match="f is a family of 2 models"):
        program.model("f")


def test_weights_are_loaded_into_a_family(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    text = "family f = both_of(small, other)\n"
    family = netc.loads(Source("net.net", NET + text)).family("f")
    save_file(
        {p.path: numpy.full(p.type.shape, i, "float32") for i, p in enumerate(family.parameters.values())},
        tmp_path / "store.safetensors",
    )
    text += 'family g = f |> load("store.safetensors")\nfamily h = f |> times'
    path = tmp_path / "net.net"
    path.write_text(NET + text)
    program = netc.load(path)
    data = program.model("g[1]").graph.parameters["other.head.bias"].data
    assert data is not None
    assert (data.load() == 7).all()
    assert not program.model("f[1]").reports
    (report,) = program.model("g[1]").reports
    assert report is program.family("g").reports[0]
    with pytest.raises(NetcError, match="other transforms take one of its members"):
        program.family("h")


def test_a_receipt_says_what_became_of_parameters_and_whether_the_promise_held() -> None:
    (applied,) = model("model m = small |> times(by = 1, promise = exact)").applied
    kept = receipt(applied)
    assert kept.measured is not None
    assert kept.measured.kept
    assert kept.inherited == ("up.weight", "up.bias", "head.bias")
    assert kept.changed == ("head.weight",)
    assert (kept.new, kept.dropped, kept.tied) == ((), (), ())
    assert kept.before["small"] == kept.after
    (applied,) = model("model m = small |> times(by = 2, promise = exact)").applied
    broken = receipt(applied)
    assert broken.measured is not None
    assert not broken.measured.kept
    assert "BROKEN" in str(broken)


def test_the_commands(tmp_path: Path) -> None:
    path = tmp_path / "net.net"
    text = """
model m = small |> times(by = 2, promise = exact)
model n = small |> times
family f = both_of(small, other)
"""
    path.write_text(NET + text)
    run = CliRunner().invoke
    broken = run(app, ["receipt", f"{path}:m"])
    assert broken.exit_code == 1
    assert "BROKEN" in broken.output
    checked = run(app, ["check", "--verify", str(path)])
    assert checked.exit_code == 1
    assert "broke its contract exact: output differs by 1" in " ".join(checked.output.split())
    fine = run(app, ["receipt", f"{path}:n", "--format", "json"])
    assert fine.exit_code == 0
    (found,) = json.loads(fine.output)
    assert (found["contract"], found["changed"]) == ("alters", ["head.weight"])
    assert found["measured"]["relative"] > 0.1
    assert "small has no receipt: it is as it is written" in run(app, ["receipt", f"{path}:small"]).output
    listed = run(app, ["family", f"{path}:f"]).output.splitlines()
    assert listed[0] == "f: 2 members over 424 parameters"
    assert listed[2].split() == ["1", "192", "MACs", "212", "parameters", "other", "=", "other"]
    assert run(app, ["cost", f"{path}:f[1]"]).exit_code == 0
    assert "a family of 2 models" in run(app, ["check", str(path)]).output
    assert "Multiply the head's weight." in run(app, ["transforms"]).output
    explained = run(app, ["transforms", "times"]).output
    assert explained.startswith('a |> times(by = 2.0, promise = "alters", seed = 0)\n\nMultiply')
    assert "did you mean times?" in run(app, ["transforms", "tims"]).output


def test_no_transform_has_the_name_of_a_pass() -> None:
    assert not TRANSFORMS.keys() & library().keys()


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_every_transform_is_documented(name: str) -> None:
    """What it does, `Contract: …`, options as `- name: …` or `- name, other: …`, `Refuses …`, `Source: …`."""
    assert 20 < len(TRANSFORMS[name].summary) < 240, name
    parts = TRANSFORMS[name].doc.split("\n\n")
    beginnings = ("Contract: ", "- ", "Refuses ", "Source: ")
    kinds = [next((b for b in beginnings if part.startswith(b)), "") for part in parts[1:]]
    told = [k for k in kinds if k]
    assert told == [b for b in beginnings if b in told], f"{name}: in another order, or twice"
    assert "Contract: " in told, name
    assert "" not in kinds[kinds.index("Contract: ") :], f"{name}: what it does comes first"
    listed = re.findall(r"^- (.+?):", parts[1 + kinds.index("- ")], re.MULTILINE) if "- " in told else []
    named = [option for line in listed for option in line.split(", ")]
    assert sorted(named) == sorted(TRANSFORMS[name].options.model_fields)


@pytest.mark.parametrize("name", sorted(WORDS))
def test_every_word_is_documented(name: str) -> None:
    assert WORDS[name].make.__doc__


def test_receipts_count_as_limits_do(tmp_path: Path) -> None:
    (tmp_path / "llama.net").write_text((SPECS / "llama.net").read_text("utf-8"), "utf-8")
    text = 'import "llama.net" { llama_micro }\nmodel lean = llama_micro |> prune(macs <= 5 M)\n'
    (tmp_path / "lean.net").write_text(text, "utf-8")
    (made,) = netc.load(tmp_path / "lean.net").model("lean").applied
    found = receipt(made, measured=False)
    assert found.before["llama_micro"].macs > 15_000_000
    assert 4_500_000 < found.after.macs <= 5_000_000


@pytest.mark.parametrize("resolution", [0, -8])
def test_a_picture_has_a_side(resolution: int) -> None:
    graph = netc.load(SPECS / "digits.net").model("digits").graph
    with pytest.raises(Refusal, match=f"resolution is {resolution}, and must be at least 1"):
        TRANSFORMS["scale"].run(graph, resolution=resolution)
