"""Models made of parts of models: cut, graft, assemble, composite, side, ensemble, interface, and their joints."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import netc
import numpy
import pytest
import torch
from netc.compiler.axes import analyse
from netc.compiler.backend import backend
from netc.compiler.blocks import blocks, stages
from netc.compiler.contract import Contract
from netc.compiler.diagnostic import NetcError
from netc.compiler.family import Family
from netc.compiler.graph import Graph, Value, verify
from netc.compiler.measure import measure
from netc.compiler.passes.widen import widen
from netc.compiler.probe import bound, inputs, probed
from netc.compiler.reach import reaches
from netc.compiler.receipt import broken, receipt, totals
from netc.compiler.source import Source
from netc.compiler.syntax import parse
from netc.compiler.text import print_graph, read_graph
from netc.compiler.transforms.assemble import assemble, reassemble
from netc.compiler.transforms.composite import composite
from netc.compiler.transforms.cut import cut, features
from netc.compiler.transforms.ensemble import ensemble
from netc.compiler.transforms.graft import graft
from netc.compiler.transforms.interface import interface
from netc.compiler.transforms.join import ZEROS, Joint, channel_axis, joined, misfit
from netc.compiler.transforms.numbers import held
from netc.compiler.transforms.register import Outcome, Refusal
from netc.compiler.transforms.side import side
from netc.compiler.types import TensorType
from netc.compiler.weights import value
from strategies import Builder, type_of

ROOT = Path(__file__).parents[1]


@cache
def model(spec: str, name: str, seed: int = 0) -> Graph:
    """A spec's reduced form with random numbers that hide nothing."""
    return probed(netc.load(ROOT / "tests/reduced" / f"{spec}.net", root=ROOT).model(name).graph, seed)


@cache
def read(text: str, name: str) -> netc.Model:
    """A model of a text that may import specs and their reduced forms."""
    return netc.loads(Source("net.net", text), root=ROOT).model(name)


def checked(graph: Graph) -> Graph:
    """A graph that verifies, and that its text says completely."""
    verify(graph)
    (tree,) = parse(Source("graph", print_graph(graph))).declarations
    again: Any = read_graph(tree)  # pyright: ignore[reportArgumentType]
    assert print_graph(again) == print_graph(graph)
    return graph


def run(graph: Graph, *arrays: Any) -> list[Any]:
    return backend("pytorch").Reference(graph)([numpy.asarray(a) for a in arrays])


def wide(graph: Graph) -> Any:
    """A model computed in float64: from arrays by input to arrays by output."""
    return backend("pytorch").Interpreter(widen(bound(graph), narrow=True), "infer")


def given(graph: Graph, seed: int = 0) -> dict[str, Any]:
    found = inputs(bound(graph), seed)
    return {k: a.astype("float64") if a.dtype.kind == "f" else a for k, a in found.items()}


# ------------------------------------------------------------------------------------------------------------- joints


def joint(have: str, wanted: TensorType, how: Joint, axes: tuple[int, int] | None = None, numbers: Any = None) -> Graph:
    build = Builder()
    x = build.input("x", have)
    return checked(build.done(joined(build.edit, "link", x, wanted, how, axes=axes, numbers=numbers)))


@pytest.mark.parametrize(
    ("have", "wanted", "axes", "operators"),
    [
        ("f32[N, 8, 6, 6]", "f32[N, 8, 6, 6]", None, []),
        ("f32[N, 8, 6, 6]", "f32[N, 5, 6, 6]", None, ["conv2d"]),
        ("f32[N, 8, 6, 6]", "f32[N, 5, 3, 2]", None, ["conv2d"]),
        ("f32[N, 8, 6, 6]", "f32[N, 5, 4, 4]", None, ["interpolate", "conv2d"]),
        ("f32[N, 8, 6, 6]", "f32[N, 5, 12, 7]", None, ["conv2d", "interpolate"]),
        ("f32[N, 8, 6, 6]", "f32[N, 8, 3, 3]", None, ["interpolate"]),
        ("f32[N, 6, 6, 8]", "f32[N, 6, 6, 4]", (3, 3), ["linear"]),
        ("f32[N, 6, 6, 8]", "f32[N, 4, 3, 3]", (3, 1), ["permute", "conv2d"]),
        ("f32[N, 8, 6, 6]", "f32[N, 3, 3, 4]", (1, 3), ["conv2d", "permute"]),
        ("f32[N, 8, 6, 6]", "f32[N, 6, 6, 4]", (1, 3), ["permute", "linear"]),
        ("f32[N, T, 8]", "f32[N, T, 5]", None, ["linear"]),
        ("f32[N, 17, 8]", "f32[N, 9, 5]", None, ["permute", "interpolate", "permute", "linear"]),
        ("f32[N, 8, 17]", "f32[N, 5, 17]", (1, 1), ["conv1d"]),
        ("f32[N, 8, 4, 4, 4]", "f32[N, 5, 2, 2, 2]", None, ["conv3d"]),
        ("f32[N, 8]", "f32[N, 5]", None, ["linear"]),
        ("f16[N, 8]", "f32[N, 8]", None, ["cast"]),
    ],
)
def test_a_joint_has_the_type_that_is_wanted(
    have: str, wanted: str, axes: tuple[int, int] | None, operators: list[str]
) -> None:
    graph = joint(have, type_of(wanted), Joint(), axes)
    assert graph.type(graph.outputs["output"]) == type_of(wanted)
    assert [n.op.name for n in graph.nodes.values()][1:] == operators


def test_a_joint_projects_as_numpy_does() -> None:
    rng = numpy.random.default_rng(0)
    weight, bias = rng.standard_normal((5, 8)), rng.standard_normal(5)
    x = rng.standard_normal((2, 8, 6, 6)).astype("float32")
    (y,) = run(joint("f32[N, 8, 6, 6]", type_of("f32[N, 5, 3, 3]"), Joint(), None, (weight, bias)), x)
    expected = numpy.einsum("oc,nchw->nohw", weight, x[:, :, ::2, ::2]) + bias[:, None, None]
    assert numpy.allclose(y, expected, atol=1e-5)
    low = Joint(rank=3)
    (y,) = run(joint("f32[N, 8, 6, 6]", type_of("f32[N, 5, 6, 6]"), low, None, (weight, bias)), x)
    u, s, v = numpy.linalg.svd(weight)
    nearest = (u[:, :3] * s[:3]) @ v[:3]
    assert numpy.allclose(y, numpy.einsum("oc,nchw->nohw", nearest, x) + bias[:, None, None], atol=1e-5)
    assert torch.linalg.matrix_rank(torch.tensor(nearest)) == 3


@pytest.mark.parametrize("rank", [None, 2])
def test_a_joint_of_zeros_gives_zero(rank: int | None) -> None:
    x = numpy.ones((2, 8, 4, 4), "float32")
    (y,) = run(joint("f32[N, 8, 4, 4]", type_of("f32[N, 8, 7, 7]"), Joint(ZEROS, always=True, rank=rank)), x)
    assert y.shape == (2, 8, 7, 7)
    assert not y.any()


def test_a_joint_between_kinds_is_refused_with_both_types() -> None:
    assert misfit(type_of("f32[N, 8, 4, 4]"), type_of("f32[N, 16, 8]"))
    with pytest.raises(Refusal, match=r"x gives f32\[N, 8, 4, 4\] where f32\[N, 16, 8\] is wanted") as caught:
        joint("f32[N, 8, 4, 4]", type_of("f32[N, 16, 8]"), Joint())
    assert caught.value.nodes == ("x",)
    assert "sequence" in caught.value.notes[0]


@pytest.mark.parametrize(
    ("spec", "name", "node", "axis"),
    [
        ("resnet", "resnet18", "layer2.0.relu_1", 1),
        ("vit", "deit_tiny", "blocks.0.add_1", 2),
        ("swin", "swin_tiny", "layers.1.blocks.0.add_1", 3),
        ("mixer", "mixer_b16", "blocks.0.add_1", 2),
        ("gpt2", "gpt2", "h.0.add_1", 2),
        ("resnet", "resnet18", "mean", 1),
    ],
)
def test_the_axis_of_channels_follows_from_parameters(spec: str, name: str, node: str, axis: int) -> None:
    assert channel_axis(analyse(model(spec, name)), Value(node)) == axis


# ---------------------------------------------------------------------------------------------------------------- cut

MODELS = [
    ("resnet", "resnet18", "layer2"),
    ("resnet", "resnet50", "layer2.0"),
    ("vit", "deit_tiny", "blocks.0"),
    ("gpt2", "gpt2", "h.0"),
    ("efficientnet", "b0", "blocks.4"),
    ("swin", "swin_tiny", "layers.1.blocks.0"),
    ("bert", "bert", 1),
]


@pytest.mark.parametrize(("spec", "name", "joint"), MODELS)
def test_the_halves_of_a_model_give_the_whole(spec: str, name: str, joint: Any) -> None:
    whole = model(spec, name)
    first, second = (checked(o.graph) for o in (cut(whole, end=joint), cut(whole, start=joint)))
    ((between, ref),) = first.outputs.items()
    assert second.inputs[between].types[0] == first.type(ref)
    x = given(whole)
    y = wide(first)({k: x[k] for k in first.inputs})
    again = wide(second)({k: y.get(k, x.get(k)) for k in second.inputs})
    for output, expected in wide(whole)(x).items():
        assert numpy.array_equal(again[output], expected)
    assert set(first.parameters) | set(second.parameters) == set(whole.parameters)
    shared = {"wte.weight"} if name == "gpt2" else set[str]()
    assert set(first.parameters) & set(second.parameters) == shared


def test_a_part_between_two_joints() -> None:
    whole = model("resnet", "resnet18")
    middle = checked(cut(whole, "layer1", "layer3").graph)
    assert {p.split(".")[0] for p in middle.parameters} == {"layer2", "layer3"}
    assert list(middle.inputs) == ["layer1"]
    assert list(middle.outputs) == ["layer3"]
    assert set(middle.scopes) == {"layer2.0", "layer3.0"}
    taken = wide(features(whole, ["layer1", "layer3"]).graph)(given(whole))
    assert numpy.array_equal(wide(middle)({"layer1": taken["layer1"]})["layer3"], taken["layer3"])


def test_an_output_keeps_its_name_and_a_number_is_a_block() -> None:
    whole = model("gpt2", "gpt2")
    assert list(cut(whole, 1).graph.outputs) == ["logits"]
    assert list(cut(whole, end="ln_f").graph.outputs) == ["ln_f"]
    assert list(cut(whole, 1, 2).graph.inputs) == ["h_0"]
    assert list(cut(whole, 0, 2).graph.inputs) == ["dropout"]
    assert print_graph(cut(whole, "h.0", "h.1").graph) == print_graph(cut(whole, 1, 2).graph)


def test_a_part_of_several_joints() -> None:
    whole = model("unet", "unet")
    with pytest.raises(Refusal, match=r"pass by %bottleneck\.relu_1") as caught:
        cut(whole, "bottleneck")
    assert caught.value.nodes == tuple(f"encoder{i}.relu_1" for i in (4, 3, 2, 1))
    joints: list[Any] = [*caught.value.nodes, "bottleneck"]
    second = checked(cut(whole, joints).graph)
    first = checked(cut(whole, end=joints).graph)
    x = given(whole)
    assert list(first.outputs) == list(second.inputs)
    (expected,) = wide(whole)(x).values()
    (found,) = wide(second)(wide(first)(x)).values()
    assert numpy.array_equal(found, expected)


@pytest.mark.parametrize(
    ("start", "end", "text"),
    [
        ("layer9", None, "no joint layer9"),
        (None, 7, "4 blocks, so there is no joint 7"),
        ("layer3", "layer1", "nothing leads from %layer3.0.relu_1 to %layer1.0.relu_1"),
        ("layer2.0.conv1", None, "pass by %layer2.0.conv1"),
    ],
)
def test_what_cannot_be_cut_is_refused(start: Any, end: Any, text: str) -> None:
    with pytest.raises(Refusal, match=text):
        cut(model("resnet", "resnet18"), start, end)


@pytest.mark.parametrize(("spec", "name"), [(s, n) for s, n, _ in MODELS])
@pytest.mark.parametrize("at", ["blocks", "stages"])
def test_features_are_the_values_inside(spec: str, name: str, at: str) -> None:
    whole = model(spec, name)
    found = checked(features(whole, at).graph)
    own = blocks(whole)
    assert len(found.outputs) == (len(own) if at == "blocks" else len(stages(whole)))
    assert [found.type(r).shape[1:] for r in found.outputs.values()][-1] == whole.type(own[-1].output).shape[1:]
    x = given(whole)
    y = wide(found)(x)
    last = wide(cut(whole, end=own[-1].path).graph)(x)
    assert numpy.array_equal(y[list(found.outputs)[-1]], next(iter(last.values())))


# -------------------------------------------------------------------------------------------------------------- graft


@pytest.mark.parametrize(("spec", "name", "joint"), MODELS)
def test_a_network_grafted_onto_itself_is_the_same_function(spec: str, name: str, joint: Any) -> None:
    whole = model(spec, name)
    made = checked(graft(whole, whole, joint).graph)
    assert measure(whole, made, Contract()).absolute == 0
    assert {p.split(".")[0] for p in made.parameters} == {name, f"{name}_1"}


@pytest.mark.parametrize("n", range(5))
def test_a_graft_at_each_block(n: int) -> None:
    first, second = model("resnet", "resnet18"), model("resnet", "resnet18", 1)
    made = graft(first, second, n, freeze=True, fresh=True)
    graph = checked(made.graph)
    head = [p for p in graph.parameters.values() if p.path.startswith("resnet18.")]
    assert all(not p.trainable for p in head)
    assert all(numpy.array_equal(value(p), value(first.parameters[p.path[9:]])) for p in head)
    assert set(graph.taps) == {f"resnet18{'' if i <= n else '_1'}.layer{i}" for i in (1, 2, 3, 4)}
    assert {p for p, own in made.sources.items() if own} == {p.path for p in head}
    assert set(made.sources) == set(graph.parameters)
    other = graft(first, second, n, freeze=True, fresh=True, seed=1).graph
    assert print_graph(other) == print_graph(graph)
    changed = {
        path for path, p in graph.parameters.items() if not numpy.array_equal(value(p), value(other.parameters[path]))
    }
    weights = {p for p in graph.parameters if p.startswith("resnet18_1.") and "bn" not in p and "downsample.1" not in p}
    assert changed == weights


def test_a_graft_of_other_widths_is_refused_or_adapted() -> None:
    first, second = model("resnet", "resnet18"), model("resnet", "resnet34")
    with pytest.raises(Refusal, match=r"f32\[N, 32, 8, 8\].*f32\[N, 16, 8, 8\]") as caught:
        graft(first, second, "layer2")
    assert caught.value.fix == "adapt = true"
    assert caught.value.nodes == ("layer2.0.relu_1", "layer2.1.relu_1")
    graph = checked(graft(first, second, "layer2", adapt=True).graph)
    assert graph.parameters["adapter.project.weight"].type == type_of("f32[16, 32, 1, 1]")
    with pytest.raises(Refusal, match="cannot be made a sequence"):
        graft(first, model("vit", "deit_tiny"), "layer2", "blocks.0", adapt=True)


# ----------------------------------------------------------------------------------------------------------- assemble

SMALL = """\
import "specs/resnet.net" { Basic, ResNet }
import "specs/vit.net" { ViT }
import "specs/gpt2.net" { GPT2 }
model large = ResNet(Basic, [2, 2, 1, 3], width = 8, classes = 10) (x: f32[N, 3, 64, 64])
model meta = ResNet(Basic, [1, 1, 1, 1], width = 8, classes = 10) (x: f32[N, 3, 64, 64])
model vit = ViT(24, 3, depth = 7, patch = 8, classes = 10) (x: f32[N, 3, 32, 32])
model vit_64 = ViT(24, 3, depth = 2, patch = 8, classes = 10) (x: f32[N, 3, 64, 64])
model vit_meta = ViT(24, 3, depth = 4, patch = 8, classes = 10) (x: f32[N, 3, 32, 32])
model lm = GPT2(100, 48, 4, 4, positions = 16) (tokens: i64[N, T])
model lm_meta = GPT2(100, 48, 2, 4, positions = 16) (tokens: i64[N, T])
"""


def small(name: str, seed: int = 0) -> Graph:
    return probed(read(SMALL, name).graph, seed)


@pytest.mark.parametrize(
    ("name", "at", "count"), [("large", "stages", 4), ("vit", 4, 4), ("large", ["layer2"], 2), ("lm", 2, 2)]
)
def test_hybrids_assemble_into_the_target(name: str, at: Any, count: int) -> None:
    target, meta = small(name), small("meta" if name == "large" else f"{name}_meta", 1)
    family = assemble(target, meta, at)
    assert isinstance(family, Family)
    assert family.count == count
    trained: list[str] = []
    for i in range(count):
        graph = checked(family.member(i))
        outcome = assemble(target, meta, at, module=i)
        assert isinstance(outcome, Outcome)
        assert print_graph(outcome.graph) == print_graph(graph)
        assert {n: x.types for n, x in graph.inputs.items()} == {n: x.types for n, x in target.inputs.items()}
        assert {n: graph.type(r) for n, r in graph.outputs.items()} == {
            n: target.type(r) for n, r in target.outputs.items()
        }
        own = [p.path for p in graph.parameters.values() if p.trainable]
        assert all(p.startswith(f"{name}.") for p in own)
        trained += [p.removeprefix(f"{name}.") for p in own]
    assert set(trained) == {p.path for p in target.parameters.values() if p.trainable}
    assert sorted(set(trained)) == sorted(trained) or name == "lm"  # its table of embeddings is in two modules
    again = reassemble(target, *(family.member(i) for i in range(count))).graph
    assert print_graph(again) == print_graph(target)
    assert measure(target, again, Contract()).absolute == 0


def test_a_hybrid_is_the_meta_model_with_one_module_of_the_target() -> None:
    target, meta = small("large"), small("meta", 1)
    outcome = assemble(target, meta, module=1)
    assert isinstance(outcome, Outcome)
    x = given(target)
    first = wide(cut(meta, end="layer1").graph)(x)
    middle = wide(cut(target, "layer1", "layer2").graph)(first)
    (expected,) = wide(cut(meta, "layer2").graph)(middle).values()
    assert numpy.array_equal(wide(outcome.graph)(x)["logits"], expected)
    trained = outcome.graph.with_parameters(
        [held(p, value(p) + 1) for p in outcome.graph.parameters.values() if p.path == "large.layer2.1.conv1.weight"]
    )
    others = [assemble(target, meta, module=i) for i in (0, 2, 3)]
    whole = reassemble(target, trained, *(o.graph for o in others if isinstance(o, Outcome))).graph
    changed = [n for n, p in whole.parameters.items() if not numpy.array_equal(value(p), value(target.parameters[n]))]
    assert changed == ["layer2.1.conv1.weight"]


def test_modules_that_do_not_fit_are_refused() -> None:
    target, meta = small("large"), small("meta", 1)
    with pytest.raises(Refusal, match=r"divided into 2 modules \(layer1\), meta into 4"):
        assemble(target, meta, ["layer1"], "stages")
    with pytest.raises(Refusal, match=r"layer1 of large is f32\[N, 8, 16, 16\], and layer2 of meta"):
        assemble(target, meta, ["layer1"], ["layer2"])
    with pytest.raises(Refusal, match="the inputs of large are"):
        assemble(target, small("vit"), 1)
    with pytest.raises(Refusal, match="modules, 0 to 3"):
        assemble(target, meta, module=4)
    hybrids = [assemble(target, meta, module=i) for i in (0, 1, 2)]
    with pytest.raises(Refusal, match=r"no hybrid has layer4\.0") as caught:
        reassemble(target, *(h.graph for h in hybrids if isinstance(h, Outcome)))
    assert caught.value.fix == "after the target (large comes first here), give the hybrids of all modules"


@pytest.mark.parametrize("shared", ["refuse", "first", "mean"])
def test_what_modules_share_and_train_apart(shared: Any) -> None:
    target, meta = small("lm"), small("lm_meta", 1)
    made = [assemble(target, meta, 2, module=i) for i in (0, 1)]
    first, second = (h.graph for h in made if isinstance(h, Outcome))
    table = second.parameters["lm.wte.weight"]
    second = second.with_parameters([held(table, value(table) + 2)])
    if shared == "refuse":
        with pytest.raises(Refusal, match="trained it apart"):
            reassemble(target, first, second)
        return
    found = value(reassemble(target, first, second, shared=shared).graph.parameters["wte.weight"])
    expected = value(target.parameters["wte.weight"]) + (1 if shared == "mean" else 0)
    assert numpy.allclose(found, expected, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------- composite


def changed(graph: Graph, prefix: str, seed: int = 7) -> Graph:
    """The graph with other numbers below a path."""
    new = [p for p in graph.parameters.values() if p.path.startswith(prefix)]
    return probed(graph.with_parameters(replace(p, data=None) for p in new), seed)


def size(graph: Graph, prefix: str = "") -> int:
    return sum(prod(value(p).shape) for p in graph.parameters.values() if p.path.startswith(prefix))


BACKBONES = [("resnet", "resnet18"), ("resnet", "resnet50"), ("swin", "swin_tiny"), ("efficientnet", "b0")]


@pytest.mark.parametrize(
    ("spec", "name", "links"),
    [
        *((s, n, "higher") for s, n in BACKBONES),
        *(("resnet", "resnet18", k) for k in ("same", "lower", "dense_higher")),
    ],
)
def test_a_composite_is_its_lead_until_its_links_are_trained(spec: str, name: str, links: Any) -> None:
    lead = model(spec, name)
    made = composite(lead, links=links)
    graph = checked(made.graph)
    assert made.contract == Contract()
    assert measure(lead, graph, made.contract).absolute == 0
    away = measure(lead, changed(graph, "links."), Contract("alters"))
    assert away.relative > 1e-3
    new, twice = size(graph, "links."), size(graph, f"{name}_1.")
    assert size(graph) == size(lead) + twice + new
    assert 0.5 * size(lead) < twice < size(lead)  # the copy's head is left out


def test_links_are_what_the_paper_draws() -> None:
    lead = model("resnet", "resnet18")
    found = {
        links: {p.split(".")[2] for p in composite(lead, links=links).graph.parameters if p.startswith("links.")}
        for links in ("higher", "same", "lower", "dense_higher")
    }
    assert found["higher"] == {"1_0", "2_1", "3_2", "4_3"}
    assert found["same"] == {"0_0", "1_1", "2_2", "3_3"}
    assert found["lower"] == {"0_1", "1_2", "2_3"}
    assert found["dense_higher"] == {f"{j}_{i}" for i in range(4) for j in range(i + 1, 5)}


def test_a_link_adds_a_projection_of_the_assistant() -> None:
    """Against the same thing done by hand in numpy and torch, on the last of the links."""
    lead, other = model("resnet", "resnet18"), model("resnet", "resnet34")
    graph = changed(composite(lead, other, init="fresh").graph, "links.resnet34.4_3")
    for path in ("1_0", "2_1", "3_2"):
        zero = [p for p in graph.parameters.values() if p.path.startswith(f"links.resnet34.{path}.")]
        graph = graph.with_parameters(held(p, 0 * value(p)) for p in zero)
    x = given(lead)
    third = wide(features(lead, ["layer3"]).graph)(x)["layer3"]
    fourth = wide(features(other, ["layer4"]).graph)(x)["layer4"]
    weight, bias = (value(graph.parameters[f"links.resnet34.4_3.project.{n}"]) for n in ("weight", "bias"))
    link = numpy.einsum("oc,nchw->nohw", weight[:, :, 0, 0].astype("float64"), fourth) + bias[:, None, None]
    fused = third + link.repeat(2, 2).repeat(2, 3)
    (expected,) = wide(cut(lead, "layer3").graph)({"layer3": fused}).values()
    assert numpy.allclose(wide(graph)(x)["logits"], expected, rtol=1e-9)


def test_a_chain_of_copies_with_outputs_of_their_own() -> None:
    lead = model("resnet", "resnet18")
    graph = checked(composite(lead, copies=2, outputs=True, freeze=True).graph)
    assert list(graph.outputs) == ["resnet18_1_logits", "resnet18_2_logits", "logits"]
    assert {p.path.split(".")[0] for p in graph.parameters.values() if not p.trainable and not p.buffer} == {
        "resnet18_1",
        "resnet18_2",
    }
    y = wide(graph)(given(lead))
    assert numpy.array_equal(y["logits"], y["resnet18_1_logits"])
    assert {p.split(".")[1] for p in graph.parameters if p.startswith("links.")} == {"resnet18_1", "resnet18_2"}


def test_a_composite_feature_extractor_keeps_its_outputs_and_taps() -> None:
    """As a detector's neck takes them."""
    lead = features(model("resnet", "resnet18"), "stages").graph
    graph = checked(composite(lead).graph)
    assert measure(lead, graph, Contract()).absolute == 0
    assert {n: graph.type(r) for n, r in graph.outputs.items()} == {n: lead.type(r) for n, r in lead.outputs.items()}
    assert set(graph.taps) == {f"{m}.layer{i}" for m in ("resnet18", "resnet18_1") for i in (1, 2, 3, 4)}


def test_backbones_with_other_stages_are_refused() -> None:
    lead = model("resnet", "resnet18")
    with pytest.raises(Refusal, match="different numbers of stages: resnet18 4, b0 7"):
        composite(lead, model("efficientnet", "b0"))
    with pytest.raises(Refusal, match=r"vit takes the input x: f32\[N, 3, 32, 32\], which is f32\[N, 3, 64, 64\]"):
        composite(small("vit"), small("vit_64"))


# ------------------------------------------------------------------------------------------------------- reach and side


def trained(graph: Graph) -> tuple[Any, set[str]]:
    """A module in training, after a backward pass from its float outputs, and the parameters that got a gradient."""
    module = backend("pytorch").module(graph).train()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(graph.parameters[name].trainable)
    x = inputs(bound(graph))
    found: Any = module(*(torch.from_numpy(x[name]) for name in graph.inputs))
    outputs: list[Any] = [*found] if isinstance(found, tuple) else [found]
    torch.stack([v.square().mean() for v in outputs if v.is_floating_point()]).sum().backward()
    return module, {name for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("spec", "name", "joint"), MODELS)
def test_gradients_reach_what_autograd_says(spec: str, name: str, joint: Any) -> None:
    whole = model(spec, name)
    assert trained(whole)[1] == reaches(whole).parameters
    made = graft(whole, whole, joint, freeze=True).graph
    assert trained(made)[1] == reaches(made).parameters
    assert all(p.startswith(f"{name}_1.") for p in reaches(made).parameters)


def test_gradients_end_at_integers_and_where_they_are_stopped() -> None:
    build = Builder()
    a, b, c = (build.parameter(n, (3,)) for n in "abc")
    frozen = build.parameter("frozen", (3,), trainable=False)
    x = build.input("x", "f32[2, 3]")
    stopped = build("stop_gradient", build("mul", x, a, path="first"))
    index = build("argmax", build("mul", x, b, path="second"), dim=-1)
    y = build("mul", build("add", stopped, frozen, path="third"), c, path="last")
    found = reaches(build.done(y, index))
    assert found.parameters == {"c"}
    assert found.backward == ("last",)
    assert found.nodes == {"last", "third", "stop_gradient"}
    assert found.kept == 2 * 3 * 4


SIDES = [*BACKBONES, ("vit", "deit_tiny"), ("gpt2", "gpt2"), ("bert", "bert")]


@pytest.mark.parametrize(("spec", "name"), SIDES)
def test_no_gradient_enters_what_a_side_network_reads(spec: str, name: str) -> None:
    whole = model(spec, name)
    made = side(whole, reduction=4)
    graph = checked(made.graph)
    found = reaches(graph)
    assert not any(n.startswith(f"{name}.") for n in found.nodes)
    assert all(p.startswith("side.") for p in found.parameters)
    assert trained(graph)[1] == found.parameters
    assert found.parameters == {p.path for p in graph.parameters.values() if p.trainable}
    assert "leads to a node of" in made.notes[0]
    inner = wide(features(graph, [f"{name}.{blocks(whole)[-1].output.node}"]).graph)(given(whole))
    outer = wide(features(whole, [blocks(whole)[-1].path]).graph)(given(whole))
    assert numpy.array_equal(*(next(iter(v.values())) for v in (inner, outer)))


@pytest.mark.parametrize(("spec", "name"), SIDES)
def test_a_side_network_that_gives_nothing_yet(spec: str, name: str) -> None:
    whole = model(spec, name)
    made = side(whole, reduction=4, init="zeros", numbers="fresh")
    assert made.contract == Contract()
    assert measure(whole, checked(made.graph), made.contract).absolute == 0
    assert measure(whole, changed(made.graph, "side.up"), Contract("alters")).relative > 1e-4


def test_a_side_network_is_narrow_and_trains_alone() -> None:
    whole = model("gpt2", "gpt2")
    graph = side(whole, reduction=4).graph
    assert graph.parameters["side.h.0.mlp.c_fc.weight"].type == type_of("f32[48, 12]")
    assert graph.parameters["side.rungs.1.gate"].type == type_of("f32[1]")
    module, _ = trained(graph)
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    torch.optim.SGD(module.parameters(), 0.1).step()
    moved = {n for n, p in module.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all(n.startswith("side.") for n in moved)
    kept = (reaches(bound(g, {"N": 1, "T": 16})).kept for g in (graph, whole))
    narrow, wide_ = kept
    assert isinstance(narrow, int)
    assert isinstance(wide_, int)
    assert narrow < 0.5 * wide_


@pytest.mark.parametrize("at", ["h.0", ["h.1"]])
def test_a_side_network_of_some_blocks(at: Any) -> None:
    whole = model("gpt2", "gpt2")
    graph = checked(side(whole, at, reduction=4, init="zeros").graph)
    assert measure(whole, graph, Contract()).absolute == 0
    own = {p.split(".")[2] for p in graph.parameters if p.startswith("side.h.")}
    assert own == {(at if isinstance(at, str) else at[0])[-1]}


def test_a_side_network_under_the_models_own_head() -> None:
    whole = model("gpt2", "gpt2")
    graph = checked(side(whole, reduction=4, init="zeros", head="frozen").graph)
    assert measure(whole, graph, Contract()).absolute == 0
    assert size(graph, "side.end") == 0
    assert size(graph, "gpt2.") == size(whole)
    found = reaches(graph)
    assert trained(graph)[1] == found.parameters
    assert "side.end.lm_head" in found.backward
    assert not any(n.startswith("gpt2.") for n in found.nodes)


def test_a_side_network_may_begin_at_integers() -> None:
    whole = probed(netc.load(ROOT / "specs/gru_tagger.net", root=ROOT).model("gru_tagger").graph)
    graph = checked(side(whole, init="zeros").graph)
    assert measure(whole, graph, Contract()).absolute == 0
    assert trained(graph)[1] == reaches(graph).parameters


def test_what_has_no_side_is_refused() -> None:
    with pytest.raises(Refusal, match="1 times narrower"):
        side(model("gpt2", "gpt2"), reduction=1)
    with pytest.raises(Refusal, match="no block matches"):
        side(model("gpt2", "gpt2"), at="layer1")


# ------------------------------------------------------------------------------------------------------------ ensemble

PAIRS = [
    (("resnet", "resnet50"), ("resnet", "resnet18")),
    (("vit", "deit_small"), ("vit", "deit_tiny")),
    (("resnet", "resnet18"), ("efficientnet", "b0")),
    (("swin", "swin_tiny"), ("resnet", "resnet18")),
]


def weighing(graph: Graph, chosen: str) -> Graph:
    """All the weight of an ensemble on one of its predictions."""
    own = [p for p in graph.parameters.values() if p.path.startswith("fusion.weights.")]
    assert any(p.path == f"fusion.weights.{chosen}" for p in own)
    return graph.with_parameters(held(p, numpy.array([p.path == f"fusion.weights.{chosen}"])) for p in own)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_an_ensemble_is_either_of_its_models(first: tuple[str, str], second: tuple[str, str]) -> None:
    large, other = model(*first), model(*second)
    made = ensemble(large, other)
    graph = checked(made.graph)
    assert measure(large, graph, made.contract).absolute == 0
    assert measure(other, weighing(graph, second[1]), Contract()).absolute == 0
    assert measure(large, weighing(graph, "0"), Contract("alters")).relative > 1e-3
    assert list(graph.outputs) == ["logits"]
    macs = [totals(g).macs for g in (graph, large, other)]
    assert macs[1] + macs[2] < macs[0] < 1.2 * (macs[1] + macs[2])
    assert all(p.trainable or p.buffer for p in graph.parameters.values())


def test_an_ensemble_of_language_models_fuses_every_token() -> None:
    first, second = small("lm"), small("lm_meta")
    made = ensemble(first, second, at="blocks", freeze=True)
    graph = checked(made.graph)
    assert measure(first, graph, made.contract).absolute == 0
    heads = [p for p in graph.parameters if p.endswith(".head.project.weight")]
    assert heads == ["fusion.0.head.project.weight", "fusion.1.head.project.weight"]
    x = given(first)
    a = wide(features(first, ["h.1"]).graph)(x)["h_1"]
    b = wide(features(second, ["h.0"]).graph)(x)["h_0"]
    weights, bias = (value(graph.parameters[f"fusion.0.head.project.{n}"]) for n in ("weight", "bias"))
    joint, offset = (value(graph.parameters[f"fusion.0.join.project.{n}"]) for n in ("weight", "bias"))
    fused = 0.5 * a + 0.5 * (b @ joint.T.astype("float64") + offset)
    expected = fused @ weights.T.astype("float64") + bias
    assert numpy.allclose(wide(weighing(graph, "0"))(x)["logits"], expected, rtol=1e-9)
    assert not any(p.startswith("lm.") for p in reaches(graph).parameters)


def test_models_of_other_predictions_are_refused() -> None:
    with pytest.raises(Refusal, match=r"resnet18 predicts logits: f32\[N, 10\], and lm logits: f32\[N, T, 100\]"):
        ensemble(model("resnet", "resnet18"), small("lm"))


# ----------------------------------------------------------------------------------------------------------- interface


@pytest.mark.parametrize(
    ("spec", "name"), [("vit", "deit_tiny"), ("gpt2", "gpt2"), ("resnet", "resnet18"), ("swin", "swin_tiny")]
)
@pytest.mark.parametrize("kind", ["weighted", "convolution"])
def test_an_interface_gives_what_the_last_block_could(spec: str, name: str, kind: Any) -> None:
    whole = model(spec, name)
    graph = checked(interface(whole, kind).graph)
    (output,) = graph.outputs.values()
    assert graph.type(output) == whole.type(blocks(whole)[-1].output)
    own = {p for p in graph.parameters if p.startswith("interface.")}
    assert trained(graph)[1] == reaches(graph).parameters == own
    assert not any(n.startswith(f"{name}.") for n in reaches(graph).nodes)
    assert trained(interface(whole, kind, freeze=False).graph)[1] > own


@pytest.mark.parametrize(("spec", "name"), [("vit", "deit_tiny"), ("gpt2", "gpt2"), ("resnet", "resnet18")])
def test_all_weight_on_a_joint_gives_its_value(spec: str, name: str) -> None:
    whole = model(spec, name)
    graph = interface(whole).graph
    last = len(blocks(whole)) - 1
    numbers = graph.parameters["interface.weight"]
    one = graph.with_parameters([held(numbers, 1e4 * (numpy.arange(last + 1) == last))])
    x = given(whole)
    (expected,) = wide(features(whole, [blocks(whole)[-1].path]).graph)(x).values()
    assert numpy.array_equal(wide(one)(x)["features"], expected)
    if name != "resnet18":
        mean = sum(wide(features(whole, "blocks").graph)(x).values()) / (last + 1)
        assert numpy.allclose(wide(graph)(x)["features"], mean, rtol=1e-12)


@pytest.mark.parametrize(("depth", "levels"), [(2, 1), (3, 2), (4, 2), (7, 3), (9, 4)])
def test_a_hierarchical_interface_has_as_many_levels_as_the_logarithm_of_the_depth(depth: int, levels: int) -> None:
    text = f"{SMALL}model deep = ViT(24, 3, depth = {depth}, patch = 8, classes = 10) (x: f32[N, 3, 32, 32])\n"
    graph = interface(read(text, "deep").graph, "convolution").graph
    convolutions = [n for n in graph.nodes.values() if n.path.startswith("interface.") and n.op.name == "conv2d"]
    assert len(convolutions) == levels
    assert size(graph, "interface.") == levels * (24 * 24 * 3 + 24)


def test_a_convolution_over_depths_is_pytorchs() -> None:
    whole = small("vit_64")
    graph = interface(whole, "convolution", kernel_size=5).graph
    x = given(whole)
    taken = list(wide(features(whole, "blocks").graph)(x).values())
    stacked = torch.tensor(numpy.stack(taken, -1))  # [N, T, C, L]
    weights, bias = (
        torch.tensor(value(graph.parameters[f"interface.levels.0.{n}"])).double() for n in ("weight", "bias")
    )
    flat = stacked.reshape(-1, *stacked.shape[2:])
    expected = torch.nn.functional.conv1d(flat, weights[:, :, 0], bias, 2, 2).reshape(stacked.shape[:3])
    assert numpy.allclose(wide(graph)(x)["features"], expected.numpy(), rtol=1e-9)


def test_an_interface_of_one_joint_is_refused() -> None:
    with pytest.raises(Refusal, match="1 joints there"):
        interface(model("vit", "deit_tiny"), at="stages")
    with pytest.raises(Refusal, match=r"relu gives f32\[N, 8, 64, 64\] where f32\[N, 10\] is wanted") as caught:
        interface(model("vgg", "vgg16"))
    assert caught.value.option == "at"
    assert caught.value.nodes[0] in model("vgg", "vgg16").nodes
    with pytest.raises(Refusal, match="no middle"):
        interface(model("vit", "deit_tiny"), kernel_size=4)


# ------------------------------------------------------------------------------------------------------- the language

LANGUAGE = """\
import "tests/reduced/resnet.net" { resnet18, resnet34 }
import "tests/reduced/vit.net" { deit_tiny, deit_small }
model stem = resnet18 |> cut(end = "layer1")
model rest = resnet18 |> cut("layer1")
model taps = resnet18 |> features(["layer2", "layer4"])
model transfer = graft(resnet18, resnet18, 2, freeze = true, fresh = true)
model adapted = graft(resnet18, resnet34, "layer2", adapt = true)
family hybrids = assemble(resnet18, resnet18, at = stages)
model hybrid = assemble(resnet18, resnet18, at = 2, module = 1)
model again = reassemble(resnet18, hybrids[0], hybrids[1], hybrids[2], hybrids[3])
model dual = resnet18 |> composite(copies = 2, links = dense_higher)
model pair = composite(resnet18, resnet34)
model ladder = deit_tiny |> side(reduction = 4, init = zeros)
model both = ensemble(deit_small, deit_tiny, at = blocks)
model upstream = deit_tiny |> interface(kind = convolution)
"""


@pytest.mark.parametrize("name", [w.split()[1] for w in LANGUAGE.splitlines() if w.startswith("model")])
def test_the_language_has_them(name: str) -> None:
    made = read(LANGUAGE, name)
    checked(made.graph)
    assert made.graph.name == name
    assert not broken(made.applied)
    new = {"transfer", "adapted", "dual", "pair", "ladder", "both", "upstream"}
    assert bool(receipt(made.applied[-1], measured=False).new) == (name in new)


def test_a_transform_that_cannot_apply_points_at_what_stops_it() -> None:
    with pytest.raises(NetcError) as caught:
        read(f'{LANGUAGE}model wrong = graft(resnet18, resnet34, "layer2")\n', "wrong")
    (problem,) = caught.value.diagnostics
    assert problem.code == "transform-refused"
    assert "f32[N, 32, 8, 8]" in problem.message
    assert "f32[N, 16, 8, 8]" in problem.message
    assert problem.fix == "adapt = true"


@pytest.mark.parametrize("name", ["pair", "ladder", "both", "upstream"])
def test_what_is_composed_runs_in_onnx(name: str, tmp_path: Path) -> None:
    import onnxruntime

    graph = bound(probed(read(LANGUAGE, name).graph))
    path = tmp_path / "model.onnx"
    backend("onnx").export(graph, path)
    x = inputs(graph)
    session: Any = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, x)
    expected = run(graph, *(x[n] for n in graph.inputs))
    for a, b in zip(found, expected, strict=True):
        assert numpy.allclose(a, b, rtol=1e-3, atol=1e-4)
