"""What is said of two models: shortly, completely, and in words that a stranger understands."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netc import NetcError
from netc.compiler.compare import Change, Comparison, Move, Part, Rename, compare
from netc.compiler.graph import Graph, ParameterRef, Value
from netc.compiler.library import library
from netc.compiler.operators.activation import Silu
from netc.compiler.operators.convolution import Conv2d
from netc.compiler.passes.strip_phase import strip_phase
from netc.compiler.types import symbol
from strategies import Builder, graphs
from test_align import STAGES, moved, prefixed, shuffled, spec


def said(comparison: Comparison, *, costs: bool = False) -> list[str]:
    """The lines of the text that are not empty, without the table of costs."""
    lines = [line for line in str(comparison).splitlines() if line]
    ends = [i for i, line in enumerate(lines) if line.startswith("cost")]
    return lines if costs or not ends else lines[: ends[0]]


# ------------------------------------------------------------------------------------------------------- renames


@given(graphs())
def test_a_graph_is_equal_to_itself(graph: Graph) -> None:
    found = compare(graph, graph)
    assert found.same
    assert str(found) == f"{graph.name}: equal\n"
    assert found.paired == len(graph.nodes)
    assert all(c.before == c.after for c in found.costs)


@given(graphs(), st.sampled_from(["m.{}", "n{}"]))
def test_random_names_are_pure_renames(graph: Graph, form: str) -> None:
    numbers = {path: i for i, path in enumerate([*graph.nodes, *graph.parameters, *graph.scopes])}
    other = moved(graph, lambda p: form.format(p if form == "m.{}" else numbers[p]), shuffled)
    outputs = {f"o{i}": ref for i, ref in enumerate(other.outputs.values())}
    found = compare(graph, replace(other, outputs=outputs))
    assert found.same_function, str(found)
    assert not found.same
    assert said(found)[0] == f"{graph.name}: equal up to names"
    assert {(r.before, r.after) for r in found.renames if r.what == "output"} == set(
        zip(graph.outputs, outputs, strict=True)
    )


def test_renamed_scopes_are_a_line_each() -> None:
    graph = spec("resnet", "resnet18")
    found = compare(graph, moved(graph, prefixed(STAGES)))
    assert said(found) == [
        "resnet18: equal up to names",
        "renamed",
        "  scope layer1 renamed to stage1 (14 nodes)",
        "  scope layer{2..4} renamed to stage* (16 nodes)  (3 times)",
        "  node conv1 renamed to stem",
        "  node fc renamed to head",
    ]
    assert Rename("scope", "layer2", "stage2", 16) in found.renames
    assert str(found).endswith("\ncost: the same\n")


def test_a_moved_block_is_one_line() -> None:
    graph = spec("resnet", "resnet18")
    found = compare(graph, moved(graph, prefixed({"layer1.0": "stage.0"})))
    assert found.renames == (Rename("scope", "layer1.0", "stage.0", 7, moved=True),)
    assert said(found)[2:] == ["  scope layer1.0 moved to stage.0 (7 nodes)"]


def test_exchanged_names_are_one_line() -> None:
    graph = spec("resnet", "resnet18")
    found = compare(graph, moved(graph, prefixed({"layer1.0": "layer1.1", "layer1.1": "layer1.0"})))
    assert said(found)[2:] == ["  scope layer1.0 and layer1.1 changed places (7 nodes)"]


# --------------------------------------------------------------------------------------------- changes of models


def test_a_deeper_model() -> None:
    found = compare(spec("resnet", "resnet18"), spec("resnet", "resnet34"))
    assert (
        str(found)
        == """\
resnet18 → resnet34: 69 nodes in both, 56 added

added
  layer{1,4}.2, layer2.{2,3}, layer3.{2..5}: Basic, 7 nodes  (8 times)

in consequence
  11 readers reconnected where something was added, removed or moved

cost                       before            after    change
parameters             11,689,512       21,797,672   +86.5 %
MACs              1,814,073,344*N  3,663,761,408*N  +102.0 %
activation bytes     32,921,504*N     50,483,104*N   +53.3 %
peak bytes            7,024,640*N      7,024,640*N  the same
nodes                          68              124   +82.4 %
"""
    )
    assert not found.changes
    assert found.added[0] == Part("scope", "layer1.2", "Basic", 7)


def test_the_other_way_round() -> None:
    there = compare(spec("resnet", "resnet18"), spec("resnet", "resnet34"))
    back = compare(spec("resnet", "resnet34"), spec("resnet", "resnet18"))
    assert (back.removed, back.added, back.paired) == (there.added, there.removed, there.paired)
    assert [(c.after, c.before) for c in back.costs] == [(c.before, c.after) for c in there.costs]


def test_another_stride() -> None:
    """The cause is told, what follows counted."""
    graph = spec("resnet", "resnet18")
    edit = graph.edit()
    for path in ("layer3.0.conv1", "layer3.0.downsample.0"):
        op = graph.nodes[path].op
        assert isinstance(op, Conv2d)
        edit.set(path, op=replace(op, stride=(1, 1)))
    found = compare(graph, edit.done())
    assert said(found) == [
        "resnet18: 69 nodes in both, 2 changed",
        "changed",
        "  layer3.0.conv1: stride [2, 2] → [1, 1]",
        "  layer3.0.downsample.0: stride [2, 2] → [1, 1]",
        "in consequence",
        "  32 nodes with results of another type",
    ]


def test_a_wider_model() -> None:
    found = compare(spec("vit", "deit_tiny"), spec("vit", "deit_small"))
    lines = said(found)
    assert lines[0] == "deit_tiny → deit_small: 250 nodes in both, 13 changed, 152 parameters changed"
    assert '  blocks.{0..11}.attn.rearrange: sizes [["h", 3], ["p", 3]] → [["h", 6], ["p", 3]]  (12 times)' in lines
    assert "  @blocks.{0..11}.norm{1,2}.{weight,bias}: type f32[192] → f32[384]  (24 times)" in lines
    assert "  @blocks.{0..11}.attn.qkv.weight: type f32[576, 192] → f32[1152, 384]  (12 times)" in lines
    assert lines[-2:] == [
        "  248 nodes with results of another type",
        "  48 parameters with other bounds of the same initialiser",
    ]


def test_another_kind_of_block() -> None:
    lines = said(compare(spec("resnet", "resnet18"), spec("resnet", "resnet50")))
    assert "  8 nodes without names of their own: layer1.0.relu_1 is now layer1.0.relu_2, …" in lines
    assert "  layer{1,4}.2, layer2.{2,3}, layer3.{2..5}: Bottleneck, 10 nodes  (8 times)" in lines
    assert "  scope layer{1..4}.{0,1}: module Basic → Bottleneck  (8 times)" in lines


def test_long_lists_are_cut() -> None:
    found = compare(spec("resnet", "resnet18"), spec("resnet", "resnext50_32x4d"))
    lines = said(found)
    start = lines.index("changed")
    assert lines[start + 25 : start + 27] == ["  … and 5 more", "in consequence"]
    assert "layer4.1.conv1.weight" in {d["path"] for d in found.data()["changes"]}


def test_two_stages_of_a_pipeline() -> None:
    graph = spec("resnet", "resnet18")
    found = compare(graph, library()["fold"].run(strip_phase(graph, "infer")))
    assert [p for p in found.removed if p.kind != "batch_norm"] == []
    assert len(found.removed) == 20
    lines = said(found)
    assert lines[1:3] == ["removed", "  bn1: batch_norm"]
    assert "  layer{1..4}.{0,1}.bn{1,2}: batch_norm  (16 times)" in lines
    assert "  layer{1..4}.{0,1}.conv{1,2}: bias nothing → %layer*.*.bn*.add_1  (16 times)" in lines
    assert found.costs[1].before == found.costs[1].after


def test_training_nodes_that_inference_lacks() -> None:
    graph = spec("vit", "deit_tiny")
    found = compare(graph, strip_phase(graph, "infer"))
    assert {p.kind for p in found.removed} == {"drop_path"}
    assert (found.changes, found.added, found.moves, found.renames) == ((), (), (), ())
    assert found.consequences


# ---------------------------------------------------------------------------------------------- small, one by one


def blocks(*order: str) -> Graph:
    """Residual blocks named `a…` (a softmax) and `m…` (an activation), in this order."""
    build = Builder("blocks")
    x = build.input("x", "f32[N, 8]")
    for name in order:
        h = build("linear", x, build.parameter(f"{name}.fc.weight", (8, 8)), None, path=f"{name}.fc")
        h = build("softmax", h, path=f"{name}.act", dim=-1) if name[0] == "a" else build("gelu", h, path=f"{name}.act")
        x = build("add", x, h, path=f"{name}.add")
    return build.done(build("linear", x, build.parameter("head.weight", (4, 8)), None, path="head"))


def test_a_block_that_changed_its_place() -> None:
    found = compare(blocks("a0", "m0", "a1", "m1"), blocks("m0", "a0", "a1", "m1"))
    assert found.moves == (Move("a0", ("%x",), ("%m0.add",), 3),)
    assert (found.changes, found.added, found.removed, found.renames) == ((), (), (), ())
    assert said(found)[1:3] == ["moved", "  a0 (3 nodes) reads %m0.add instead of %x"]
    assert not found.same_function


def test_a_block_that_went_far() -> None:
    found = compare(blocks("a0", "m0", "a1", "m1"), blocks("m0", "a1", "m1", "a0"))
    assert found.moves == (Move("a0", ("%x",), ("%m1.add",), 3),)
    assert not found.changes


def test_two_blocks_that_moved() -> None:
    found = compare(blocks("a0", "m0", "a1", "m1", "a2"), blocks("m0", "a0", "a1", "a2", "m1"))
    assert len(found.moves) == 2
    assert {m.path[0] for m in found.moves} <= {"a", "m"}
    assert not found.changes


def test_a_new_operand_is_no_move() -> None:
    """Nothing that was added, removed or moved explains it."""
    before = blocks("a0", "m0")
    edit = before.edit()
    edit.set("m0.add", inputs=[Value("a0.act"), Value("m0.act")])
    found = compare(before, edit.done())
    assert [str(d) for d in found.changes] == ["node %m0.add: a %a0.add → %a0.act"]
    assert not found.moves


def test_another_operator() -> None:
    before = blocks("m0", "m1", "m2")
    edit = before.edit()
    for i in range(3):
        edit.set(f"m{i}.act", op=Silu())
    assert said(compare(before, edit.done())) == [
        "blocks: 9 nodes in both, 3 changed".replace("9", str(len(before.nodes))),
        "changed",
        '  m{0..2}.act: operator gelu → silu, approximate "none" → nothing  (3 times)',
    ]


def test_a_tie() -> None:
    before = blocks("a0", "m0")
    edit = before.edit()
    edit.set("m0.fc", inputs=[Value("a0.add"), ParameterRef("a0.fc.weight"), None])
    edit.remove_parameter("m0.fc.weight")
    found = compare(before, edit.done())
    assert found.removed == (Part("parameter", "m0.fc.weight", "f32[8, 8]"),)
    assert [str(d) for d in found.changes] == ["node %m0.fc: weight @m0.fc.weight → @a0.fc.weight"]
    assert found.costs[0] == Change("parameters", 160, 96)


def test_outputs_and_taps() -> None:
    before = blocks("a0", "m0")
    edit = before.edit()
    edit.output("second", Value("a0.add"))
    edit.tap("t", Value("a0.act"))
    found = compare(before, edit.done())
    assert [str(d) for d in found.changes] == ["tap t added: %a0.act", "output second added: %a0.add"]
    assert said(found)[1:] == ["changed", "  tap t: added: %a0.act", "  output second: added: %a0.add"]


def test_a_frozen_parameter() -> None:
    before = blocks("a0")
    frozen = replace(before.parameters["a0.fc.weight"], trainable=False)
    assert said(compare(before, before.with_parameters([frozen])))[1:] == [
        "changed",
        "  @a0.fc.weight: state trained → frozen",
    ]


# --------------------------------------------------------------------------------------------------- costs, JSON


def test_ratios_of_symbolic_costs() -> None:
    n, t = symbol("N"), symbol("T")
    assert Change("", 2 * n, 3 * n).ratio == 1.5
    assert Change("", 2 * n + 4 * t, n + 2 * t).ratio == 0.5
    assert Change("", 2 * n, 2 * t).ratio is None
    assert Change("", 0, 5).ratio is None
    assert str(Change("", 2 * n, 2 * t + n).difference) == "-N + 2*T"


def test_sizes_may_be_given() -> None:
    found = compare(spec("resnet", "resnet18"), spec("resnet", "resnet34"), {"N": 2})
    assert (found.costs[1].before, found.costs[1].after) == (2 * 1_814_073_344, 2 * 3_663_761_408)
    with pytest.raises(NetcError, match="no dimension M"):
        compare(spec("resnet", "resnet18"), spec("resnet", "resnet34"), {"M": 2})


def test_a_size_that_one_graph_has() -> None:
    found = compare(spec("resnet", "resnet18"), spec("llama", "llama_micro"), {"N": 1, "T": 8})
    assert all(isinstance(size, int) for c in found.costs for size in (c.before, c.after))


@pytest.mark.parametrize("other", ["resnet34", "resnet50"])
def test_data_is_json(other: str) -> None:
    data = compare(spec("resnet", "resnet18"), spec("resnet", other)).data()
    assert json.loads(json.dumps(data)) == data
    assert (data["before"], data["after"], data["same"], data["paired"]) == ("resnet18", other, False, 69)
    assert data["costs"][1]["before"] == "1814073344*N"
    assert {"what": "scope", "path": "layer1.2", "kind": "Basic", "nodes": 7} in data["added"] or other == "resnet50"
    if other == "resnet50":
        assert {
            "kind": "changed", "what": "node", "path": "layer2.0.conv2", "aspect": "stride",
            "before": "[1, 1]", "after": "[2, 2]",
        } in data["changes"]  # fmt: skip


@pytest.mark.parametrize("renamed", [False, True])
def test_ten_thousand_nodes(renamed: bool) -> None:
    before = blocks(*(f"{kind}{i}" for i in range(1700) for kind in "am"))
    edit = before.edit()
    edit.set("m800.act", op=Silu())
    after = edit.done()
    if renamed:
        after = moved(after, lambda path: f"net.{path}".replace("act", "function"))
    found = compare(before, after)
    assert (found.paired, len(found.changes), found.added, found.removed, found.moves) == (10_202, 2, (), (), ())
    assert {d.aspect for d in found.changes} == {"operator", "approximate"}
    assert bool(found.renames) == renamed
