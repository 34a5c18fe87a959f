"""Passes in order: facts, verification, failures that leave a file behind, contracts, and the pass at fault."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import netc
import numpy
import pytest
from netc.__main__ import app
from netc.command import traced
from netc.compiler.bisect import bisect
from netc.compiler.contract import Contract
from netc.compiler.diagnostic import NetcError
from netc.compiler.explain import explain_node, explain_rule
from netc.compiler.graph import Graph
from netc.compiler.library import LEVELS, level_steps, library
from netc.compiler.measure import measure
from netc.compiler.passes.register import Pass
from netc.compiler.pipeline import Failure, Step, run
from netc.compiler.probe import probed
from netc.compiler.program import Program
from netc.compiler.reproduce import reproducer
from netc.compiler.source import Source
from safetensors.numpy import save_file
from typer.testing import CliRunner

NET = """\
module Net(c) (x: [N, c, H, W]) {
    for i in 0..3 {
        x = x |> conv2d(c, 3, padding = 1, bias = false) as "conv{i}" |> batch_norm as "bn{i}" |> gelu as "act{i}"
    }
    return x |> mean(dim = [2, 3]) |> linear(5) as head
}

model net = Net(4) (x: f32[N, 4, 6, 5])

# Close to gelu, and not gelu.
rewrite cheap_gelu alters {
    match y = gelu(x, approximate = "none")
    replace y = gelu(x, approximate = "tanh")
}

pipeline deploy = strip_phase(keep = "infer") |> fold |> eliminate_dead
"""


def program(text: str = NET) -> Program:
    return netc.loads(Source("net.net", text))


def broken(name: str, change: float = 1.5, contract: Contract | None = None) -> Step:
    """A pass that scales the head, and says it does not."""

    def scale(graph: Graph) -> Graph:
        edit = graph.edit(name)
        node = graph.nodes["head"]
        factor = edit.add(f"{name}.factor", library_operator("full", size=(), value=change, dtype="f32"))
        made = edit.add(name, library_operator("mul"), node.value, factor.value)
        return replace(edit.done(), outputs={"output": made.value})

    return Step(Pass(name, scale, contract or Contract()))


def library_operator(name: str, **attributes: object) -> object:
    from netc.compiler.operators.operator import OPERATORS, validate

    return validate(OPERATORS[name], attributes)


def test_needs_are_checked_before_anything_runs():
    ran: list[str] = []
    spy = Pass("spy", lambda graph: ran.append("spy") or graph)
    with pytest.raises(NetcError, match="fold_batch_norm needs a graph of which the fact `inference` holds"):
        run(program().model().graph, [Step(spy), Step(library()["fold_batch_norm"])])
    assert not ran


def test_facts_follow_a_model_through_its_file():
    model = program(NET + "model stripped = net |> strip_phase\nmodel fast = stripped |> fold\n").model("fast")
    assert "inference" in model.facts
    assert [s.step.run.name for s in model.stages] == ["strip_phase", "fold"]
    assert not any(n.op.name == "batch_norm" for n in model.graph.nodes.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strip_fase", "there is no pass strip_fase"),
        ("strip_phase{keep = 3}", "keep"),
        ("eliminate_dead{all = true}", "has no option all"),
        ("deploy{keep = true}", "is a pipeline, which takes no options"),
        ('strip_phase{keep = "inferr"}', 'help: keep = "infer"'),
        ('strip_phase{keep = "infer", keep = "train"}', "keep is given twice"),
        ('strip_phase{"infer", "train"}', "takes at most 1 option\n"),
        ("simplify{3}", "simplify takes no options"),
        ('eliminate_dead{parameters = "yes"}', 'parameters is true or false, not "yes"'),
        ("fold_constants{growth = true}", "growth is a number, not true"),
        ("bind", "bind needs its option values"),
        ("bind{values = 3}", "values: input should be"),
        ("strip_phase,,fold", "unexpected"),
        ("cheap_gelu(", "unexpected"),
    ],
)
def test_texts_that_are_no_pipelines(text: str, message: str):
    with pytest.raises(NetcError, match=message):
        program().steps(text)


@pytest.mark.parametrize("level", LEVELS)
def test_levels_keep_the_function(level: int):
    start = probed(program().model().graph)
    trace = run(start, level_steps(level), check=measure)
    assert measure(start, trace.final, Contract()).kept
    assert all(s.measurement is not None for s in trace.stages if s.changed)


def test_a_graph_that_does_not_verify_names_the_pass():
    def wrong(graph: Graph) -> Graph:
        node = graph.nodes["head"]
        return replace(graph, nodes={**graph.nodes, "head": replace(node, types=graph.nodes["x"].types)})

    with pytest.raises(Failure, match="wrong made a graph that does not verify: %head is declared"):
        run(program().model().graph, [Step(Pass("wrong", wrong))])


def test_a_crash_names_the_pass_and_keeps_the_cause():
    def crash(graph: Graph) -> Graph:
        raise ZeroDivisionError("oh")

    with pytest.raises(Failure, match="crash crashed: ZeroDivisionError: oh") as caught:
        run(program().model().graph, [Step(Pass("crash", crash))])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_broken_contract_is_measured():
    start = probed(program().model().graph)
    with pytest.raises(Failure, match=r"doubled broke its contract exact: output differs by .* \(0\.5 relative"):
        run(start, [broken("doubled")], check=measure)
    run(start, [broken("doubled", contract=Contract("alters"))], check=measure)
    run(start, [broken("nearly", 1 + 1e-7, Contract("approx", 1e-6))], check=measure)


def test_a_failure_leaves_a_file_that_runs_it_again():
    spec = program()
    fold = spec.steps("strip_phase,cheap_gelu")
    lying = replace(fold[1], run=replace(fold[1].run, contract=Contract()))
    with pytest.raises(Failure) as caught:
        run(probed(spec.model().graph), [fold[0], lying], check=measure)
    text = reproducer(caught.value)
    again = netc.loads(Source("again.net", text))
    graph = again.model("net").graph
    assert graph == caught.value.before
    trace = run(graph, again.steps("again"))
    assert any(n.op.attributes().get("approximate") == "tanh" for n in trace.final.nodes.values())


def twenty(spec: Program, place: int) -> list[Step]:
    names = ["strip_phase", "eliminate_common", "eliminate_dead", "fold", "fold_constants"]
    steps = [Step(library()["strip_phase"])] + [Step(library()[names[1 + i % 4]]) for i in range(18)]
    return [*steps[: place + 1], *spec.steps("cheap_gelu"), *steps[place + 1 :]]


@pytest.mark.parametrize("place", [0, 7, 18])
def test_bisect_finds_a_planted_pass_among_twenty(place: int):
    spec = program()
    steps = twenty(spec, place)
    assert len(steps) == 20
    found = bisect(run(probed(spec.model().graph), steps), lambda a, b: measure(a, b, Contract()))
    assert found is not None
    assert found.stage.step.run.name == "cheap_gelu"
    assert found.before <= 1e-9 < found.after.relative
    assert found.compared <= 5


def test_bisect_finds_nothing_where_nothing_is():
    steps = [s for s in twenty(program(), 3) if s.run.name != "cheap_gelu"]
    assert bisect(run(probed(program().model().graph), steps), lambda a, b: measure(a, b, Contract())) is None


def test_why_a_rule_applies_and_why_not():
    spec = program()
    graph = run(spec.model().graph, spec.steps("strip_phase")).final
    rule = spec.rule("fold_batch_norm")
    assert "applies at %bn1: it matches %conv1, %bn1" in explain_rule(rule, graph, "bn1")
    assert "applies at %bn1" in explain_rule(rule, graph, "conv1"), "asked at a node inside the match"
    assert "is gelu" in explain_rule(rule, graph, "act1")
    with pytest.raises(NetcError, match="no node bn9"):
        explain_rule(rule, graph, "bn9")


def test_where_a_node_comes_from_and_what_became_of_it():
    spec = program()
    trace = run(spec.model().graph, spec.steps("deploy"))
    told = explain_node(trace, "bn1")
    assert "written at net.net:3:" in told
    assert "removed by fold_batch_norm (in fold)\n  %conv1 stands in its place" in told
    assert "changed by fold_batch_norm (in fold): weight was @conv1.weight" in explain_node(trace, "conv1")


def test_a_failing_pass_on_the_command_line_writes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def lies(graph: Graph) -> Graph:
        return broken("lies").run.run(graph)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.net").write_text(NET)
    monkeypatch.setitem(library(), "lies", Pass("lies", lies))
    result = CliRunner().invoke(app, ["show", "net.net", "-p", "strip_phase,lies", "--verify"])
    assert result.exit_code == 1
    assert "lies broke its contract exact" in result.stderr
    assert "net.lies.again.net runs the failing pass again" in result.stderr
    text = (tmp_path / "net.lies.again.net").read_text()
    again = CliRunner().invoke(app, ["show", "net.lies.again.net:net", "-p", "again", "--verify"])
    assert "pipeline again = lies" in text
    assert again.exit_code == 1
    assert "lies broke its contract exact" in again.stderr


def test_weights_loaded_after_a_pass_reach_every_command(tmp_path: Path):
    """What the passes of the file made has no weights yet; the model that goes on has them, and its own name."""
    spec = program()
    weights = {
        path: numpy.full([int(str(n)) for n in p.type.shape], 0.5, "float32")
        for path, p in spec.model().graph.parameters.items()
    }
    save_file(weights, tmp_path / "w.safetensors")
    late = 'model late = net |> strip_phase |> load("w.safetensors")\nmodel plain = net |> load("w.safetensors")\n'
    (tmp_path / "net.net").write_text(NET + late)
    read = netc.load(tmp_path / "net.net")
    for level, name in ((None, "late"), (None, "plain"), (0, "late")):
        trace = traced(read, read.model(name), level, None)
        assert trace.final.name == name
        assert all(p.data is not None and (p.data.load() == 0.5).all() for p in trace.final.parameters.values())


@pytest.mark.parametrize(
    ("steps", "place"),
    [("pipeline a = strip_phase |> a", "a"), ("pipeline a = strip_phase |> b\npipeline b = fold |> a", "a")],
)
def test_a_pipeline_of_itself_is_shown_where_it_says_so(steps: str, place: str):
    with pytest.raises(NetcError, match="a is defined by itself") as caught:
        program(f"{NET}{steps}\n").steps("a")
    (label,) = caught.value.diagnostics[0].labels
    assert label.span.text == place
    assert label.span.source.text[: label.span.start].endswith("|> ")


def test_a_graph_of_one_phase_does_not_become_one_of_the_other():
    """Inference has left out what training needs: its graph would be no training graph."""
    for text in ('strip_phase,strip_phase{keep = "train"}', 'strip_phase{keep = "train"},strip_phase'):
        with pytest.raises(NetcError, match="which an earlier pass left out"):
            run(program().model().graph, program().steps(text))
    run(program().model().graph, program().steps("strip_phase,strip_phase"))


def test_messages_name_a_rule_and_no_more():
    with pytest.raises(NetcError, match="a dimension is an integer or a symbol, not the rule cheap_gelu\n"):
        program(NET + "model m = Net(4) (x: f32[N, 4, cheap_gelu, 5])\n").model("m")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["deploy", "--of", "net.net"], "deploy = strip_phase(keep = "),
        (["cheap_gelu", "--of", "net.net"], "Close to gelu, and not gelu."),
        (["fold", "bn1", "--of", "net.net:net"], "it is the rules fold_batch_norm, "),
        (["strip_phase", "bn1", "--of", "net.net:net"], "strip_phase is no rule: only rules apply at nodes"),
        (["@conv1.weight", "--of", "net.net:net"], "conv1.weight is a parameter, not a node\n  = its readers: %conv1"),
    ],
)
def test_what_explain_answers(asked: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    models = "model other = Net(2) (x: f32[N, 2, 6, 5])\n"
    (tmp_path / "net.net").write_text(NET + models)
    result = CliRunner().invoke(app, ["explain", *asked])
    assert told in result.stdout + result.stderr
    assert result.exit_code == (1 if result.stderr else 0)


@pytest.mark.parametrize("command", [["report", "-o"], ["export", "--to", "onnx", "-o"]], ids=["report", "onnx"])
def test_a_folder_is_no_file_to_write(command: list[str], tmp_path: Path):
    (tmp_path / "net.net").write_text(NET)
    result = CliRunner().invoke(app, [command[0], f"{tmp_path}/net.net:net", *command[1:], str(tmp_path)])
    assert result.exit_code == 1
    assert "cannot be written: it is a folder" in result.stderr


def test_there_is_no_fourth_level():
    with pytest.raises(NetcError, match="there is no level 4"):
        program().model().optimised(4)


@pytest.mark.parametrize(
    "text", ["rewrite fold exact {\n match y = relu(relu(x))\n replace y = relu(x)\n}", "pipeline fold = merge_layers"]
)
def test_names_of_the_compilers_passes_are_taken(text: str):
    with pytest.raises(NetcError, match="fold is a pass of the compiler"):
        program(f"{NET}{text}\n").steps("fold")
