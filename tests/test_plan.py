"""Plans: what they say, what is wrong with them, which nodes their lines mean, and what is compiled of them."""

from __future__ import annotations

import json
import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netc.__main__ import app
from netc.compiler.contract import Contract
from netc.compiler.diagnostic import Diagnostic, NetcError
from netc.compiler.format import format_text
from netc.compiler.fusion.decide import Decision, decide
from netc.compiler.fusion.planner import PLANNERS
from netc.compiler.fusion.prepare import prepared
from netc.compiler.fusion.require import broken, known, open_limits, unknowable
from netc.compiler.fusion.resolve import by_pattern, interrupted, why_unmet
from netc.compiler.fusion.summarise import summarise
from netc.compiler.fusion.work import Work
from netc.compiler.measure import measure
from netc.compiler.pipeline import run as run_passes
from netc.compiler.plan import AutoLine, Chain, Either, GroupLine, Maybe, Operation, Pattern, PatternLine, Plan, Repeat
from netc.compiler.program import Program, read, read_source
from netc.compiler.source import Source, Span
from netc.compiler.target import LLVM, Accelerator, Remote, from_data
from netc.compiler.types import DType
from typer.testing import CliRunner

SPECS = Path(__file__).parents[1] / "specs"

MODEL = """\
module Block(c) (x: [N, c, H, W]) {
    y = x |> conv2d(c, 3, padding = 1, bias = false) as conv1 |> batch_norm as bn1 |> relu as relu1
          |> conv2d(c, 1, bias = false) as conv2 |> batch_norm as bn2
    return relu(x + y)
}

module Net(x: [N, 3, H, W]) {
    x = x |> conv2d(8, 3, padding = 1, bias = false) as conv1 |> batch_norm as bn1 |> relu as relu1
    for i in 0..2 { x = x |> Block(8) as "layer{i}" }
    return logits = x |> mean([2, 3]) as pool |> dropout(0.1) as drop |> linear(10) as fc
}

model net = Net (x: f32[N, 3, 16, 16])
target npu = accelerator(buffer = 64 KiB, dram = 1 GB/s, macs = 1 T)
target here = llvm(threads = 1, cache = 1 MiB)
"""


def program(text: str) -> Program:
    return read_source(Source("test.net", f"{MODEL}{text}"))


def planned(body: str, target: str = "npu") -> Plan:
    return program(f"plan p for net on {target} {{\n{body}\n}}\n").plan()


def decided(body: str, target: str = "npu") -> Decision:
    found = program(f"plan p for net on {target} {{\n{body}\n}}\n")
    plan = found.plan()
    model = found.model(plan.model)
    return decide(plan, prepared(plan, run_passes(model.graph, plan.passes(), facts=model.facts).final))


def groups(body: str, target: str = "npu") -> dict[str, tuple[str, ...]]:
    return {g.name: g.nodes for g in decided(body, target).groups}


def problems(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(NetcError) as caught:
        program(text).plan("p")
    return caught.value.diagnostics


# ---------------------------------------------------------------------------------------------------- what they say

TEXT = """\
plan edge for net on npu {
    batch 1
    apply fold_batch_norm, eliminate_dead(parameters = false)
    layout auto
    dtype i8
    fuse group stem = [conv1, bn1, "layer0.**"]  # by path
    fuse pattern conv2d(kernel_size = 1) |> batch_norm? |> (relu | silu |> add)+
    fuse auto(minimize = dram, planner = layers)
    require latency <= 20 ms, parameters <= 6 M
    require difference <= 1e-4, dram <= 8 MiB, buffer <= 64 KiB, macs <= 1 G
}
"""


def test_a_plan_is_read() -> None:
    plan = program(TEXT).plan("edge")
    assert (plan.model, plan.target_name, plan.batch, plan.dtype, plan.layout) == ("net", "npu", 1, DType.I8, "auto")
    assert plan.target == Accelerator(buffer=65_536, dram=10**9, macs=10**12)
    assert [str(step) for step in plan.steps] == ["fold_batch_norm", "eliminate_dead(parameters = false)"]
    assert {r.name: r.most for r in plan.requirements} == {
        "latency": 0.02, "parameters": 6 * 10**6, "difference": 1e-4, "dram": 2**23, "buffer": 2**16, "macs": 10**9,
    }  # fmt: skip
    group, pattern, auto = plan.fuse
    assert isinstance(group, GroupLine)
    assert [path for path, _ in group.paths] == ["conv1", "bn1", "layer0.**"]
    assert isinstance(pattern, PatternLine)
    assert brief(pattern.pattern) == "conv2d(kernel_size=1) > batch_norm? > [relu, silu > add]+"
    assert isinstance(auto, AutoLine)
    assert (auto.minimize, auto.planner, dict(auto.options)) == ("dram", "layers", {})


def brief(pattern: Pattern) -> str:
    if isinstance(pattern, Operation):
        attributes = ", ".join(f"{k}={v}" for k, v in pattern.attributes.items())
        return f"{pattern.operator}({attributes})" if attributes else pattern.operator
    if isinstance(pattern, Chain):
        return " > ".join(map(brief, pattern.parts))
    if isinstance(pattern, Either):
        return f"[{', '.join(map(brief, pattern.choices))}]"
    return f"{brief(pattern.part)}{'?' if isinstance(pattern, Maybe) else '+'}"


def test_a_plan_is_formatted() -> None:
    careless = TEXT.replace(", ", " ,").replace("(relu | silu", "( relu|silu").replace("auto(", "auto (")
    assert format_text(Source("test.net", careless)) == TEXT
    assert format_text(Source("test.net", TEXT)) == TEXT


def test_clauses_stand_in_any_order() -> None:
    lines = TEXT.splitlines()
    turned = "\n".join([lines[0], *reversed(lines[1:6]), *lines[6:]])
    one, other = program(TEXT).plan("edge"), program(turned).plan("edge")
    assert [str(s) for s in one.passes()] == [str(s) for s in other.passes()]
    assert (one.dtype, one.batch) == (other.dtype, other.batch)


def test_words_of_plans_are_names_elsewhere() -> None:
    text = "let plan = 1\nlet batch = 2\nlet fuse = plan + batch\nfunc auto(group, pattern) = group + pattern\n"
    assert read_source(Source("test.net", text)).check() == []


def test_what_a_plan_is_for_and_on_may_be_imported(tmp_path: Path) -> None:
    (tmp_path / "parts.net").write_text(MODEL)
    text = 'import "parts.net" { net, npu as chip }\nplan p for net on chip { batch 2 }\n'
    (tmp_path / "own.net").write_text(text)
    found = read(tmp_path / "own.net")
    assert found.check() == []
    plan = found.plan()
    assert plan.sizes(found.model(plan.model).graph) == {"N": 2}
    assert isinstance(plan.target, Accelerator)


def test_a_plan_may_be_for_a_member_of_a_family() -> None:
    found = read(SPECS / "stitched.net")
    family = found.families[0]
    text = (SPECS / "stitched.net").read_text()
    text += f"target npu = accelerator(buffer = 1 MiB, dram = 1 GB/s)\nplan p for {family}[0] on npu {{ batch 1 }}\n"
    own = read_source(Source("stitched.net", text, SPECS / "stitched_plan.net"))
    assert own.plan("p").model == f"{family}[0]"
    text = f'import "stitched.net" {{ {family} as kin }}\ntarget npu = accelerator(buffer = 1 MiB, dram = 1 GB/s)\n'
    other = read_source(Source("own.net", f"{text}plan p for kin[0] on npu {{ batch 1 }}\n", SPECS / "own.net"))
    assert other.model(other.plan("p").model).graph.nodes.keys() == found.model(f"{family}[0]").graph.nodes.keys()
    assert own.model(f"{family}[0]").graph.nodes.keys() == found.model(f"{family}[0]").graph.nodes.keys()


# ---------------------------------------------------------------------------------------------------- what is wrong

# What stands in a plan; the place that is told of, a part of the message, and of the advice.
WRONG = {
    "a pass": ("apply fold_batch_norn", "fold_batch_norn", "no pass fold_batch_norn", "fold_batch_norm"),
    "a pass's option": ("apply eliminate_dead(params = 1)", "params = 1", "no option params", "parameters"),
    "batch": ("batch 0", "0", "a whole number of at least 1", None),
    "batch twice": ("batch 1\nbatch 2", "batch 2", "said twice", None),
    "bind twice": ("bind T = 1, T = 2", "T", "said twice", None),
    "a size": ("bind T = 1.5", "1.5", "a whole number", None),
    "a layout": ("layout channels_last", "channels_last", "no layout channels_last", "layout auto"),
    "a dtype": ("dtype bf61", "bf61", "cannot compute in bf61", "bf16"),
    "another dtype": ("dtype i64", "i64", "cannot compute in i64", None),
    "tune what": ("tune trails = 512", "trails", "tune takes no trails", "trials"),
    "tune twice": ("tune trials = 512, trials = 1", "trials", "said twice", None),
    "tune how often": ("tune trials = 0", "0", "trials is a whole number of at least 1", None),
    "tune how long": ('tune minutes = "10"', '"10"', "minutes is a number above 0", None),
    "tune on a model of costs": ("tune trials = 512", "tune trials = 512", "nothing runs on npu", None),
    "an empty group": ("fuse group a = []", "fuse group a = []", "is empty", "fuse group a"),
    "two groups": ("fuse group a = [conv1]\nfuse group a = [fc]", "fuse group a = [fc]", "two groups", None),
    "after auto": ("fuse auto\nfuse group a = [fc]", "fuse group a = [fc]", "nothing is left", "last"),
    "minimize": ("fuse auto(minimize = latenci)", "latenci", "dram or latency, not latenci", "latency"),
    "minimize what": ("fuse auto(minimize = latency)", "minimize = latency", "nothing runs on npu", "dram"),
    "a planner": ("fuse auto(planner = layer)", "layer", "the planner is", "layers"),
    "a planner's option": ("fuse auto(planner = layers, depth = 1)", "depth = 1", "no option depth", None),
    "an option twice": ("fuse auto(planner = layers, planner = greedy)", "planner = greedy", "given twice", None),
    "an option without name": ("fuse auto(dram)", "dram", "by name", "minimize"),
    "an operator": ("fuse pattern conv2 |> relu", "conv2", "no operator, layer or module called conv2", "conv2d"),
    "what moves": ("fuse pattern conv2d |> flatten", "flatten", "belongs to no group", None),
    "no attribute": ("fuse pattern conv2d(kernel = 1)", "kernel = 1", "no attribute of conv2d", "kernel_size"),
    "an operand": ("fuse pattern conv2d(weight = 1)", "weight = 1", "an operand", None),
    "no name": ("fuse pattern conv2d(3)", "3", "names the attributes", None),
    "an attribute's value": ('fuse pattern conv2d(groups = "x")', 'groups = "x"', "should be an integer", None),
    "an attribute of two axes": ('fuse pattern conv2d(stride = "two")', 'stride = "two"', "stride of conv2d: should be",
                                 None),
    "nothing": ("fuse pattern conv2d? |> relu?", "conv2d? |> relu?", "no node at all", "`?`"),
    "no limit": ("require latency", "latency", "is a limit", None),
    "a limit below": ("require latency < 20 ms", "latency < 20 ms", "is a limit", "latency <= 20 ms"),
    "a limit of what": ("require latenzy <= 20 ms", "latenzy", "latenzy cannot be required", "latency"),
    "a unit": ("require latency <= 20 KiB", "20 KiB", "latency is seconds, and 20 KiB is bytes", "20 ms"),
    "a limit of nothing": ("require macs <= 0", "0", "a number above 0", "6 M"),
    "no number": ('require macs <= "1"', '"1"', "a number above 0", None),
}  # fmt: skip


@pytest.mark.parametrize(("body", "place", "message", "advice"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_told(body: str, place: str, message: str, advice: str | None) -> None:
    (found,) = problems(f"plan p for net on npu {{\n{body}\n}}\n")
    assert found.span is not None
    assert found.span.text == place
    assert message in found.message
    assert advice is None or advice in str(found.fix)


HEADS = {
    "a model": ("plan p for nett on npu {}", "nett", "no model nett", "net"),
    "a target": ("plan p for net on heree {}", "heree", "no target heree", "here"),
    "members of a model": ("plan p for net[1] on npu {}", "net[1]", "has no members", "net"),
    "a target's field": ("target t = accelerator(buffer = 1)\nplan p for net on t {}", "accelerator(buffer = 1)",
                         "needs its dram", "dram = 8 GB/s"),
    "i8 on a processor": ("plan p for net on here { dtype i8 }", "dtype i8", "no quantisation yet", None),
}  # fmt: skip


@pytest.mark.parametrize(("text", "place", "message", "advice"), HEADS.values(), ids=HEADS.keys())
def test_wrong_heads(text: str, place: str, message: str, advice: str | None) -> None:
    (found,) = problems(f"{text}\n")
    assert found.span is not None
    assert found.span.text == place
    assert message in found.message
    assert advice is None or advice in str(found.fix)


def test_a_plan_says_how_long_to_tune() -> None:
    tune = planned("tune trials = 2**9, minutes = 2.5", "here").tune
    assert tune is not None
    assert (tune.trials, tune.minutes) == (512, 2.5)
    assert planned("batch 1", "here").tune is None
    (found,) = problems("plan p for net on here {\ntune trials = 1\ntune minutes = 1\n}\n")
    assert "tune is said twice" in found.message


def test_everything_wrong_is_told_at_once_by_check() -> None:
    text = "plan p for nett on npo {\n    batch 0\n    tune trials = 0\n}\n"
    assert len(program(text).check()) == 4


def test_plans_and_models_have_names_of_their_own() -> None:
    with pytest.raises(NetcError, match="net is declared twice"):
        program("plan net for net on npu {}\n")


def test_plans_are_found_by_name() -> None:
    found = program("plan a for net on npu {}\nplan ab for net on npu {}\n")
    assert found.plans == ["a", "ab"]
    with pytest.raises(NetcError, match="say which plan"):
        found.plan()
    with pytest.raises(NetcError, match="no plan abc") as caught:
        found.plan("abc")
    assert caught.value.diagnostics[0].fix == "ab"


def test_a_plan_is_no_model() -> None:
    with pytest.raises(NetcError, match="p is a plan for net, not a model") as caught:
        program("plan p for net on npu {}\n").model("p")
    assert caught.value.diagnostics[0].fix == "net, or netc plan test.net:p"
    with pytest.raises(NetcError, match="npu is accelerator"):
        program("").model("npu")


def test_wrong_syntax_is_told_for_every_plan() -> None:
    with pytest.raises(NetcError) as caught:
        program("plan p for net on npu {\n    fuse groop a = [b]\n}\nplan q for net { batch 1 }\nfamily f = )\n")
    first, second, third = caught.value.diagnostics
    assert first.notes == ("here may stand: `auto`, `group`, `pattern`",)
    assert second.notes == ("here may stand: `[`, `on`",)
    assert third.message == "unexpected `)`"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "leaves the size N of net open"),
        ("bind T = 1", "net has no size T"),
        ("bind N = 2\nbatch 1", "N is the batch of net, and is said twice"),
    ],
)
def test_sizes(body: str, message: str) -> None:
    plan = planned(body)
    with pytest.raises(NetcError, match=message):
        plan.sizes(program("").model("net").graph)


def test_targets_are_written_as_they_are_read() -> None:
    for text in (
        "accelerator(buffer = 64 KiB, dram = 1 GB/s, macs = 1 T/s)",
        "accelerator(buffer = 3 MiB, dram = 25600 MB/s)",
        "accelerator(buffer = 1001, dram = 1)",
        'llvm(cpu = "cortex-a72", threads = 2, cache = 1 MiB)',
        'llvm(cpu = "cortex-a72") remote(host = "farm:9190", key = "pi4")',
        'llvm() remote(host = "[::1]:9190", key = "a b")',
    ):
        assert str(program(f"target t = {text}\n").target("t")) == text


REMOTE = ' remote(host = "farm:9190", key = "pi4")'
UNITS = {
    "buffer = 8 GB/s, dram = 8 GB/s": "buffer is bytes, and 8 GB/s is bytes per second",
    "buffer = 1 KiB, dram = 20 ms": "dram is bytes per second, and 20 ms is seconds",
    "buffer = 1 KiB, dram = 1 GB/s, macs = 1 GB/s": "macs is a count per second",
    "buffer = 0, dram = 1 GB/s": "greater than or equal to 1",
    "buffer = -512 KiB, dram = 1 GB/s": "cannot take -512 KiB as buffer: input should be greater than or equal to 1",
    "buffer = 1 KiB, buffer = 2 KiB, dram = 1 GB/s": "given twice",
    "512 KiB, 8 GB/s": "takes its arguments by name",
}


@pytest.mark.parametrize(("arguments", "message"), UNITS.items(), ids=UNITS.keys())
def test_accelerators_have_units(arguments: str, message: str) -> None:
    with pytest.raises(NetcError, match=message):
        program(f"target t = accelerator({arguments})\n").target("t")


REMOTES = {
    'llvm() remote(host = "farm:9190")': ("remote needs its key", 'remote(host = "farm:9190")', 'key = "pi4"'),
    'llvm() remote(key = "pi4")': ("remote needs its host", 'remote(key = "pi4")', 'host = "farm:9190"'),
    "llvm remote()": ("remote needs its host", "remote()", 'host = "farm:9190"'),
    **{
        f'llvm() remote(host = "{host}", key = "pi4")': (
            f'remote cannot take "{host}" as host: it is written as a host and a port of 1 to 65535',
            f'host = "{host}"', 'host = "farm:9190"',
        )
        for host in ("farm", "farm:", ":9190", "farm:http", "farm:0", "farm:65536", "")
    },
    'llvm() remote(host = 9190, key = "pi4")': ("remote cannot take 9190 as host", "host = 9190", 'host = "farm:9190"'),
    'llvm() remote(host = "farm:9190", key = "")': ('remote cannot take "" as key', 'key = ""', 'key = "pi4"'),
    'llvm() remote(host = "farm:9190", hots = "")': ("remote has no argument hots", 'hots = ""', "host"),
    'llvm() remote("farm:9190", "pi4")': (
        "takes its arguments by name", '"farm:9190"', 'host = "farm:9190", key = "pi4"',
    ),
    'llvm() remote(key = "a", key = "b")': ("key is given twice", 'key = "b"', None),
    'llvm(remote = "farm:9190")': (
        "llvm has no argument remote", 'remote = "farm:9190"', 'llvm(…) remote(host = "farm:9190", key = "pi4")',
    ),
    'cuda(arch = "sm_80") remote(host = "farm:9190", key = "pi4")': (
        "cuda has no remote devices", 'remote(host = "farm:9190", key = "pi4")', "leave `remote(…)` out",
    ),
    'accelerator(buffer = 1 KiB, dram = 1 GB/s) remote(host = "farm:9190", key = "pi4")': (
        "accelerator has no remote devices", 'remote(host = "farm:9190", key = "pi4")', "leave `remote(…)` out",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "problem"), REMOTES.items(), ids=REMOTES.keys())
def test_remote_devices_that_are_said_wrongly(text: str, problem: tuple[str, str, str | None]) -> None:
    with pytest.raises(NetcError) as caught:
        program(f"target t = {text}\n").target("t")
    found = caught.value.diagnostics[0]
    message, place, fix = problem
    assert message in found.message
    assert found.labels[0].span.text == place
    assert found.fix == fix


def test_devices_are_no_part_of_what_is_compiled() -> None:
    text = 'llvm(cpu = "cortex-a72", triple = "aarch64-linux-gnu")'
    bare, far = (program(f"target t = {text}{clause}\n").target("t") for clause in ("", REMOTE))
    assert isinstance(far, LLVM)
    assert far.remote == Remote("farm:9190", "pi4")
    assert far.remote.address == ("farm", 9190)
    assert far.data() == bare.data()
    assert from_data(far.data()) == bare


def test_remote_is_a_word_only_after_a_target() -> None:
    text = f"func twice(remote) = remote * 2\ntarget remote = llvm(threads = twice(2)){REMOTE}\n"
    assert str(read_source(Source("test.net", text)).target("remote")) == f"llvm(threads = 4){REMOTE}"
    with pytest.raises(NetcError, match="unexpected `remote`"):
        read_source(Source("test.net", f"let two = 2{REMOTE}\n"))


# ---------------------------------------------------------------------------------------------------- which nodes


def test_a_group_by_path() -> None:
    found = groups('batch 1\nfuse group a = [relu1, conv1, bn1]\nfuse group b = ["layer1.*", pool]')
    assert found["a"] == ("conv1", "bn1", "relu1")
    assert found["b"][:2] == ("layer1.conv1", "layer1.bn1")
    assert found["b"][-2:] == ("layer1.relu", "pool")
    assert found["fc"] == ("fc",)


def test_a_scope_is_all_below_it() -> None:
    assert groups("batch 1\nfuse group a = [layer0]")["a"] == groups('batch 1\nfuse group a = ["layer0.**"]')["a"]


def test_what_was_folded_belongs_to_what_it_became() -> None:
    body = "batch 1\napply fold_batch_norm\nfuse group a = [conv1, bn1, relu1]\nfuse group b = [pool, drop, fc]"
    found = groups(body)
    assert (found["a"], found["b"]) == (("conv1", "relu1"), ("pool", "fc"))


# The group; the place, a part of the message, of the advice.
ASTRAY = {
    "unknown": ("fuse group a = [konv1]", "konv1", "net has no node konv1", "conv1"),
    "unknown scope": ('fuse group a = ["layer7.*"]', '"layer7.*"', "no node layer7", None),
    "an input": ("fuse group a = [conv1, x]", "x", "an input of the model", None),
    "elsewhere": ("fuse group a = [bn1, relu1]", "bn1", "%bn1 is part of %conv1 by now", "name conv1"),
    "overlap": ("fuse group a = [conv1, relu1]\nfuse group b = [relu1]", "fuse group b = [relu1]", "two groups", None),
    "taken": ("fuse pattern conv2d |> relu\nfuse group b = [relu1]", "fuse group b = [relu1]", "two groups", "earlier"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "place", "message", "advice"), ASTRAY.values(), ids=ASTRAY.keys())
def test_paths_that_lead_astray(body: str, place: str, message: str, advice: str | None) -> None:
    with pytest.raises(NetcError) as caught:
        groups(f"batch 1\napply fold_batch_norm\n{body}")
    (found,) = caught.value.diagnostics
    assert found.span is not None
    assert found.span.text == place
    assert message in found.message
    assert advice is None or advice in str(found.fix)


def test_an_overlap_names_both_places() -> None:
    with pytest.raises(NetcError) as caught:
        groups("batch 1\nfuse group a = [conv1]\nfuse group b = [conv1, bn1]")
    (found,) = caught.value.diagnostics
    assert [label.span.text for label in found.labels] == ["fuse group b = [conv1, bn1]", "fuse group a = [conv1]"]


def patterned(pattern: str, *, fold: bool = False) -> list[tuple[str, ...]]:
    apply = "apply fold_batch_norm\n" if fold else ""
    decision = decided(f"batch 1\n{apply}fuse pattern {pattern}")
    return [g.nodes for g in decision.groups if decision.makers[g.name] == "a pattern"]


def test_the_longest_chain_is_taken() -> None:
    found = patterned("conv2d |> batch_norm? |> relu?")
    assert found[:2] == [("conv1", "bn1", "relu1"), ("layer0.conv1", "layer0.bn1", "layer0.relu1")]
    assert len(found) == 5


def test_alternatives_and_repetitions() -> None:
    assert patterned("(conv2d | linear) |> relu?", fold=True)[-1] == ("fc",)
    assert patterned("(batch_norm | relu)+")[0] == ("bn1", "relu1")
    assert len(patterned("relu+")) == 5


def test_attributes_select() -> None:
    assert patterned("conv2d(kernel_size = 1)") == [("layer0.conv2",), ("layer1.conv2",)]
    assert patterned("conv2d(kernel_size = [3, 3], padding = 1)")[0] == ("conv1",)
    assert patterned("conv2d(groups = 2)") == []


def test_a_chain_leads_through_what_only_moves() -> None:
    assert patterned("mean |> linear") == [("pool", "fc")]


def test_no_chain_is_left_and_entered_again() -> None:
    """The sum reads what the convolutions between make: only with them it could be one step."""
    assert patterned("relu |> add", fold=True) == []
    assert patterned("relu |> conv2d |> relu |> conv2d |> add", fold=True) != []


def test_no_two_chains_wait_for_each_other() -> None:
    text = """\
module Crossed(x: [N, C]) {
    a, b = relu(x), tanh(x)
    return p = a + sigmoid(b), q = b * exp(a)
}
model crossed = Crossed (x: f32[2, 4])
target npu = accelerator(buffer = 64 KiB, dram = 1 GB/s)
"""
    text += "plan p for crossed on npu { fuse pattern (relu |> exp |> mul) | (tanh |> sigmoid |> add) }\n"
    found = read_source(Source("test.net", text))
    plan, model = found.plan(), found.model("crossed")
    decision = decide(plan, prepared(plan, run_passes(model.graph, plan.passes()).final))
    assert sorted(len(g.nodes) for g in decision.groups) == [1, 1, 1, 3]


@cache
def work(spec: str, name: str) -> Work:
    model = read(SPECS / f"{spec}.net").model(name)
    plan = planned("batch 1")
    return Work(prepared(plan, run_passes(model.graph, plan.passes(), facts=model.facts).final))


KINDS = ["conv2d", "batch_norm", "relu6", "relu", "silu", "add", "mul", "concat", "mean", "sigmoid", "max_pool2d"]
HERE = Span(Source("test.net", ""), 0, 0)
PATTERNS = st.recursive(
    st.sampled_from(KINDS).map(lambda name: Operation(name, {}, HERE)),
    lambda inner: (
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: Chain(tuple(parts)))
        | st.lists(inner, min_size=2, max_size=6).map(lambda parts: Either(tuple(parts)))
        | inner.map(Repeat)
        | inner.map(Maybe)
    ),
    max_leaves=12,
)
MODELS = [("mobilenet_v2", "mobilenet_v2"), ("inception", "inception_v4"), ("efficientnet", "b0"), ("unet", "unet")]


@given(PATTERNS, st.sampled_from(MODELS))
def test_patterns_give_chains_that_can_be_executed(pattern: Pattern, model: tuple[str, str]) -> None:
    graph = work(*model)
    found = by_pattern(graph, PatternLine(pattern, HERE))
    nodes = [path for group in found for path in group.nodes]
    assert len(nodes) == len(set(nodes))
    for group in found:
        assert all(b in graph.after[a] for a, b in pairwise(group.nodes))
        assert interrupted(graph, group.nodes, [g for g in found if g is not group]) == ()


def test_a_way_back_is_told() -> None:
    graph = work("mobilenet_v2", "mobilenet_v2")
    way = interrupted(graph, ["blocks.1.project.norm", "blocks.2.add"])
    assert (way[0], way[-1]) == ("blocks.1.project.norm", "blocks.2.add")
    assert all(b in graph.after[a] for a, b in pairwise(way))


@pytest.mark.parametrize(("spec", "name"), MODELS)
def test_groups_are_a_partition(spec: str, name: str) -> None:
    graph = work(spec, name)
    body = "batch 1\nfuse pattern conv2d |> batch_norm? |> (relu | relu6 | silu)?\nfuse auto(planner = layers)"
    decision = decide(planned(body), graph.graph)
    assert sorted(path for g in decision.groups for path in g.nodes) == sorted(graph.nodes)
    assert len({g.name for g in decision.groups}) == len(decision.groups)
    assert set(decision.makers.values()) <= {"a pattern", "layers"}


def test_every_planner_makes_a_partition() -> None:
    for name in PLANNERS:
        decision = decided(f"batch 1\nfuse group a = [conv1, bn1]\nfuse auto(planner = {name})")
        assert sorted(p for g in decision.groups for p in g.nodes) == sorted(Work(decision.graph).nodes)


# ---------------------------------------------------------------------------------------------------- passes


def test_passes_of_a_plan_in_order() -> None:
    plan = planned("dtype bf16\nlayout auto\napply fold_batch_norm", "here")
    assert [step.run.name for step in plan.passes()] == [
        "strip_phase", "fold_batch_norm", "choose_layout", "mixed_precision",
    ]  # fmt: skip
    assert [step.run.name for step in planned("dtype i8").passes()] == ["strip_phase"]


def test_the_graph_of_a_plan_computes_the_same() -> None:
    found = program("plan p for net on here {\n    batch 2\n    apply fold_batch_norm\n}\n")
    plan, model = found.plan(), found.model("net")
    graph = prepared(plan, run_passes(model.graph, plan.passes(), facts=model.facts).final)
    assert graph.inputs["x"].types[0].shape == (2, 3, 16, 16)
    assert measure(model.graph, graph, Contract(), probes=1, seed=1).kept


def test_requirements() -> None:
    decision = decided("batch 1\nrequire parameters <= 1, macs <= 1 G, latency <= 1 ms")
    facts = known(summarise(decision), decision.graph)
    (found,) = broken(decision.plan, facts)
    assert found.span is not None
    assert found.span.text == "parameters <= 1"
    assert "parameters <= 1, but it is" in found.message
    assert f"{facts['parameters']:,}" in found.message
    assert facts["latency"] > 0  # by the rates of the accelerator
    assert open_limits(decision.plan, {"parameters": 1, "macs": 1}) == ["latency"]
    assert [d.code for d in broken(decision.plan, {"latency": float("nan")})] == ["requirement"]


NEVER = {
    "a difference of nothing that runs": (
        "npu", "batch 1\nrequire difference <= 1e-4, dram <= 1 MiB", "difference", "nothing runs on npu"
    ),
    "bytes without a cache": ("bare", "batch 1\nrequire dram <= 1 MiB, latency <= 1 s", "dram", "how large its cache"),
    "bytes of what does not fit": ("scant", "batch 1\nrequire buffer <= 1 MiB", "buffer", "%conv1 and "),
    "time of what does not fit": ("scant", "batch 1\nrequire latency <= 1 s", "latency", "%conv1 and "),
}  # fmt: skip


@pytest.mark.parametrize(("target", "body", "name", "why"), NEVER.values(), ids=NEVER.keys())
def test_limits_that_nothing_tells_of(target: str, body: str, name: str, why: str) -> None:
    targets = "target bare = llvm(threads = 1)\ntarget scant = accelerator(buffer = 64, dram = 1 GB/s)\n"
    found = program(f"{targets}plan p for net on {target} {{\n{body}\n}}\n")
    plan = found.plan()
    model = found.model(plan.model)
    decision = decide(plan, prepared(plan, run_passes(model.graph, plan.passes(), facts=model.facts).final))
    summary = summarise(decision)
    (problem,) = unknowable(plan, summary, known(summary, decision.graph))
    assert problem.span is not None
    assert problem.span.text.startswith(f"{name} <=")
    assert f"{name} cannot be known" in problem.message
    assert why in problem.message


def test_bytes_are_told_apart() -> None:
    near = decided("batch 1\nrequire dram <= 2 MiB").plan
    assert "dram <= 2,097,152 B, but it is 2,097,153 B" in next(broken(near, {"dram": 2**21 + 1})).message
    assert "dram <= 2.00 MiB, but it is 2.50 MiB" in next(broken(near, {"dram": 5 * 2**19})).message


def test_nodes_that_fit_nowhere(spec: Path) -> None:
    spec.write_text(spec.read_text().replace("64 KiB", "512").replace("    fuse group stem = [conv1, bn1]\n", ""))
    found = run("plan", f"{spec}:chip")
    assert found.exit_code == 1
    assert (
        "error[does-not-fit]: chip cannot be executed: %layer0.conv1, %layer1.conv1, %pool do not fit" in found.stderr
    )
    (needs,) = map(int, re.findall(r"help: buffer = (\d+)$", found.stderr, re.MULTILINE))
    text = spec.read_text()
    spec.write_text(text.replace("buffer = 512", f"buffer = {needs - 1}"))
    assert run("plan", f"{spec}:chip").exit_code == 1
    spec.write_text(text.replace("buffer = 512", f"buffer = {needs}"))
    assert run("plan", f"{spec}:chip").exit_code == 0


@pytest.mark.parametrize("target", ["npu", "here"])
def test_sizes_that_nothing_can_have(target: str) -> None:
    with pytest.raises(
        NetcError, match=r"would have \S+ elements, and no value may have more than 1.10e\+12"
    ) as caught:
        decided("batch 100_000_000_000_000_000_000", target)
    assert caught.value.diagnostics[0].span is not None
    assert caught.value.diagnostics[0].span.text.startswith("batch 1")
    assert decided("batch 100_000_000", target).groups


def test_time_by_a_model_of_costs_is_a_bound(spec: Path) -> None:
    spec.write_text(spec.read_text().replace("latency <= 1 s", "latency <= 1e-9"))
    found = run("plan", f"{spec}:chip")
    assert found.exit_code == 1
    assert re.search(r"latency <= \S+ ms, but it is at least \S+ ms", found.stderr)


def test_cost_models_are_no_choice_of_what_to_compile_for() -> None:
    text = "model m = Net (x: f32[N, 3, 8, 8])\n"
    assert str(program(text).target()) == "llvm(threads = 1, cache = 1 MiB)"
    alone = "target npu = accelerator(buffer = 1 KiB, dram = 1 GB/s)\n"
    assert str(read_source(Source("test.net", alone)).target()) == "llvm()"
    with pytest.raises(NetcError, match="say which target"):
        program("target there = llvm(threads = 2)\n").target()


# ---------------------------------------------------------------------------------------------------- the command


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "net.net"
    path.write_text(f"""{MODEL}
plan chip for net on npu {{
    batch 1
    fuse group stem = [conv1, bn1]
    require latency <= 1 s
}}

plan fast for net on here {{
    batch 2
    apply fold_batch_norm
    fuse pattern conv2d |> relu?
    require latency <= 100 s, difference <= 1e-4, parameters <= 1 M, macs <= 1 G
}}

plan slow for net on here {{
    batch 1
    require latency <= 1e-9, parameters <= 1 M
}}

plan half for net on here {{
    batch 1
    dtype bf16
}}
""")
    return path


def test_plan_prints_groups(spec: Path) -> None:
    found = run("plan", f"{spec}:chip")
    assert found.exit_code == 0, found.output
    assert "conv2d batch_norm" in found.output
    assert "conv1, bn1" in run("plan", f"{spec}:chip", "--paths").output
    assert re.search(r"latency: at least \S+ ms, of 1e\+03 ms at most", found.output)
    data = json.loads(run("plan", f"{spec}:chip", "--format", "json").stdout)
    stem = data["groups"][0]
    assert (stem["name"], stem["maker"], stem["nodes"]) == ("stem", "the plan", ["conv1", "bn1"])
    assert stem["dram"] < stem["dram_before"]
    assert data["facts"]["dram"] == sum(group["dram"] for group in data["groups"]) == data["dram"]


def test_a_pattern_that_nothing_meets_is_told(spec: Path) -> None:
    spec.write_text(spec.read_text().replace("[conv1, bn1]", "[conv1, bn1]\n    fuse pattern linear |> silu"))
    found = run("plan", f"{spec}:chip")
    assert found.exit_code == 0, found.output
    assert "warning[idle-pattern]: no node is in a group by this pattern" in found.stderr
    assert "the graph of the plan has no silu" in found.stderr


def test_why_a_pattern_has_no_group() -> None:
    decision = decided("batch 1\nfuse group a = [fc]\nfuse pattern linear")
    work, line = decision.workload.work, decision.plan.fuse[1]
    assert isinstance(line, PatternLine)
    assert why_unmet(work, line).startswith("earlier lines take nodes first")
    other = decided("batch 1\nfuse pattern conv2d |> relu").plan.fuse[0]
    assert isinstance(other, PatternLine)
    assert "none in this order" in why_unmet(work, other)  # a batch norm stands between them


def test_a_plan_without_groups_says_who_makes_kernels(spec: Path) -> None:
    assert "no line says `fuse`" in run("plan", f"{spec}:slow").output
    assert "no line says `fuse`" not in run("plan", f"{spec}:fast").output


def test_a_member_that_there_is_not_is_told_where_a_plan_asks() -> None:
    text = (SPECS / "stitched.net").read_text()
    family = read(SPECS / "stitched.net").families[0]
    made = read_source(
        Source(
            "stitched.net",
            f"{text}\nplan p for {family}[9999] on chip {{ batch 1 }}\n"
            "target chip = accelerator(buffer = 1 MiB, dram = 1 GB/s)\n",
            SPECS / "own.net",
        )
    )
    plan = made.plan()
    with pytest.raises(NetcError, match="not 9999") as caught:
        made.model(plan.model, plan.span)
    assert caught.value.diagnostics[0].span == plan.span


def test_check_lists_plans(spec: Path) -> None:
    found = run("check", spec)
    assert found.exit_code == 0, found.output
    assert f"{spec}:fast  a plan for net on here" in found.output


def test_a_plan_is_compiled_by_its_groups(spec: Path, tmp_path: Path) -> None:
    found = run("compile", f"{spec}:fast", "-o", tmp_path / "out")
    assert found.exit_code == 0, found.output
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["bind"] == {"N": 2}
    assert [p["pass"] for p in manifest["passes"]] == ['strip_phase(keep = "infer")', "fold_batch_norm"]
    wanted = json.loads(run("plan", f"{spec}:fast", "--format", "json").stdout)["groups"]
    assert [(g["name"], g["nodes"]) for g in manifest["groups"]] == [(g["name"], g["nodes"]) for g in wanted]


def test_a_broken_requirement_fails(spec: Path, tmp_path: Path) -> None:
    found = run("compile", f"{spec}:slow", "-o", tmp_path / "out")
    assert found.exit_code == 1
    assert "slow is required to have latency <= 1e-06 ms, but it is" in found.output
    assert "<= 1,000,000" not in found.stderr


def test_a_comparison_that_notices_nothing_is_told(spec: Path, tmp_path: Path) -> None:
    assert "weak-check" not in run("compile", f"{spec}:fast", "-o", tmp_path / "out").stderr
    text = spec.read_text().replace("linear(10) as fc", "mul(1e-9) as tiny |> linear(10) as fc")
    spec.write_text(text)
    found = run("compile", f"{spec}:fast", "-o", tmp_path / "weak")
    assert found.exit_code == 0, found.output
    assert "warning[weak-check]: with these weights outputs change by " in found.stderr
    (tmp_path / "deep.net").write_text(DEEP)
    for model, weak in {"live": False, "dead": True}.items():
        found = run("compile", f"{tmp_path}/deep.net:{model}", "-o", tmp_path / model)
        assert found.exit_code == 0, found.output
        assert "largest difference to PyTorch" in found.stdout
        assert ("weak-check" in found.stderr) == weak
        assert (f"compile it with weights: {model} |> load(…)" in found.stderr) == weak


def test_a_pass_that_rounds_is_allowed_what_it_promises(spec: Path, tmp_path: Path) -> None:
    half = ("-p", 'mixed_precision{dtype = "bf16"}')
    found = run("compile", f"{spec}:net", *half, "-o", tmp_path / "half")
    assert found.exit_code == 0, found.output
    told = json.loads((tmp_path / "half" / "manifest.json").read_text())["difference"]
    assert 1e-3 < told["relative"] < told["allowed"] == 0.1


DEEP = """
module Deep(scale) (x: [N, 8]) { return x |> mul(scale) |> linear(8) |> relu |> linear(4) }
model live = Deep(1.0) (x: f32[N, 8])
model dead = Deep(1e-7) (x: f32[N, 8])
"""


def test_half_precision_is_held_to_its_own_contract(spec: Path, tmp_path: Path) -> None:
    found = run("compile", f"{spec}:half", "-o", tmp_path / "out")
    assert found.exit_code == 0, found.output


def test_nothing_is_compiled_for_a_cost_model(spec: Path, tmp_path: Path) -> None:
    found = run("compile", f"{spec}:chip", "-o", tmp_path / "out")
    assert found.exit_code == 1
    assert "npu is an accelerator, a model of costs" in found.output


@pytest.mark.parametrize("option", [["--target", "here"], ["--bind", "N=1"], ["-O", "2"], ["-p", "fold"]])
def test_a_plan_says_everything(spec: Path, tmp_path: Path, option: list[str]) -> None:
    found = run("compile", f"{spec}:fast", "-o", tmp_path / "out", *option)
    assert found.exit_code == 2
    assert option[0] in found.output


@pytest.mark.parametrize(
    ("path", "name"),
    [(path, name) for path in sorted(SPECS.glob("*.net")) for name in read(path).plans],
    ids=lambda v: v.stem if isinstance(v, Path) else v,
)
def test_plans_of_specs_keep_what_they_require(path: Path, name: str) -> None:
    found = run("plan", f"{path}:{name}")
    assert found.exit_code == 0, found.output
