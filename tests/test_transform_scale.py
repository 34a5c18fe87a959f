"""Wider, deeper and more branches with the same function, and back: every spec, every operator, random graphs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import netc
import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from netc.backends.interchange import model as onnx_model
from netc.compiler.axes import Selection, analyse
from netc.compiler.backend import backend
from netc.compiler.blocks import blocks
from netc.compiler.contract import Contract
from netc.compiler.graph import Graph, Parameter, ParameterRef, Ref, Value, verify
from netc.compiler.measure import measure
from netc.compiler.operators.activation import Tanh
from netc.compiler.operators.operator import SAMPLES, Initialiser, Sample
from netc.compiler.operators.reduction import Sum
from netc.compiler.probe import bound, inputs, probed
from netc.compiler.source import Source
from netc.compiler.syntax import parse
from netc.compiler.text import print_graph, read_graph
from netc.compiler.transforms.deepen import deepen
from netc.compiler.transforms.merge_paths import merge_paths
from netc.compiler.transforms.path import path
from netc.compiler.transforms.register import Outcome, Refusal
from netc.compiler.transforms.shrink import shrink
from netc.compiler.transforms.widen import widen
from netc.compiler.weights import value
from strategies import Builder, graphs, sample_graph
from test_specs import MODELS, ROOT, small

SLOW = {
    *("inception_v4", "vgg16", "bert", "b3", "lite1", "lite0_pretrained", "lite1_pretrained", "lite0_240", "lite1_240"),
    *("vovnet39a", "resnet56", "resnet56_projected", "mobilenet_v2_linear", "resnet101"),
}
"""Large, or like others."""
ACCEPTED = ("resnet50", "mobilenet_v2", "densenet121", "swin_tiny", "gpt2", "llama_micro")
FILES = {p.values[1]: p.values[0] for p in MODELS}


@cache
def model(name: str) -> Graph:
    """A spec's model in its reduced form, with random numbers that hide nothing."""
    file = FILES[name]
    assert isinstance(file, Path)
    return probed(small(file, name))


def kept(before: Graph, found: Outcome) -> Graph:
    """The graph, which verifies, which its text says completely, and which is the same function where promised."""
    verify(found.graph)
    (tree,) = parse(Source("graph", print_graph(found.graph))).declarations
    assert read_graph(tree) == found.graph  # type: ignore[arg-type]
    if found.contract.kind == "exact":
        measured = measure(before, found.graph, Contract(), probes=1)
        assert measured.kept, measured
    return found.graph


def shapes(graph: Graph) -> dict[str, tuple[object, ...]]:
    return {path: p.type.shape for path, p in graph.parameters.items()}


def array(graph: Graph, path: str) -> np.ndarray:
    return value(graph.parameters[path])


def linear(b: Builder, x: Ref, name: str, out: int, *, bias: bool = True) -> Value:
    weight = b.parameter(f"{name}.weight", (out, b.edit.type(x).shape[-1]), "normal", 0.0, 1.0)
    return b("linear", x, weight, b.parameter(f"{name}.bias", (out,)) if bias else None, path=name)


def mlp(activation: str = "relu") -> Graph:
    b = Builder()
    x = b(activation, linear(b, b.input("x", "f32[2, 3]"), "a", 5))
    return probed(b.done(linear(b, b(activation, linear(b, x, "b", 7)), "c", 2)))


# ------------------------------------------------------------------------------------------------------------- widen


@pytest.mark.parametrize(
    ("file", "name"),
    [pytest.param(*p.values, id=p.id, marks=[pytest.mark.slow] * (p.values[1] in SLOW)) for p in MODELS],
)
def test_every_model_gets_wider_in_every_dimension(file: Path, name: str) -> None:
    before = model(name)
    free = [c for c in analyse(before).classes if c.cuttable]
    if not free:
        with pytest.raises(Refusal, match="no dimension"):
            widen(before)
        return
    found = widen(before)
    after = analyse(kept(before, found))
    assert len(found.notes) == 1, "a dimension stayed as it was"
    assert sorted(c.size for c in after.classes if c.cuttable) == sorted(2 * c.size for c in free)  # type: ignore[operator]


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("by", [1.5, 2.7])
@pytest.mark.parametrize("name", ACCEPTED)
def test_units_are_there_unequally_often(name: str, by: float, fresh: bool) -> None:
    before = model(name)
    found = widen(before, by=by, fresh=fresh, seed=1)
    after = kept(before, found)
    assert sum(np.prod(s) for s in shapes(after).values()) > sum(np.prod(s) for s in shapes(before).values())  # type: ignore[arg-type]
    stays = [note for note in found.notes if "stays" in note]
    assert all("norm" in note and "statistics" in note for note in stays)
    assert bool(stays) == (name in ("swin_tiny", "gpt2", "llama_micro"))


@pytest.mark.slow
@pytest.mark.parametrize("by", [1.5, 2.0])
@pytest.mark.parametrize(("file", "name"), [("gpt2", "gpt2"), ("resnet", "resnet50")])
def test_whole_models_get_wider(file: str, name: str, by: float) -> None:
    before = probed(netc.load(ROOT / "specs" / f"{file}.net", root=ROOT).model(name).graph)
    kept(before, widen(before, by=by))


def test_copies_alone_do_not_keep_the_function() -> None:
    """What the properties above would not forgive: units repeated, and sums over them left as they were."""
    before = mlp()
    analysis = analyse(before)
    units = {c: [*range(c.size)] * 2 for c in analysis.classes if c.cuttable}  # type: ignore[arg-type]
    assert not measure(before, Selection(analysis, units).graph(), Contract(), probes=1).kept


def test_wider_layers_are_those_of_net2net() -> None:
    """Net2WiderNet, section 2.2, written out in PyTorch for two layers."""
    before = mlp()
    after = kept(before, widen(before, "a", by=1.4, seed=3))
    assert shapes(after)["a.weight"] == (7, 3)
    assert shapes(after)["b.weight"] == (7, 7)
    first = [
        *range(5),
        *(
            next(i for i in range(5) if np.array_equal(row, array(before, "a.weight")[i]))
            for row in array(after, "a.weight")[5:]
        ),
    ]
    counts = np.bincount(first)
    np.testing.assert_array_equal(array(after, "b.weight"), (array(before, "b.weight") / counts)[:, first])
    x = torch.tensor(inputs(before)["x"]).double()

    def run(graph: Graph) -> torch.Tensor:
        w = {n: torch.tensor(array(graph, n)).double() for n in graph.parameters}
        h = torch.relu(x @ w["a.weight"].T + w["a.bias"])
        return torch.relu(h @ w["b.weight"].T + w["b.bias"]) @ w["c.weight"].T + w["c.bias"]

    torch.testing.assert_close(run(before), run(after), rtol=1e-6, atol=1e-6)


def test_which_units_are_there_twice_is_drawn() -> None:
    wide = [array(widen(mlp(), "b", by=1.5, seed=seed).graph, "b.weight") for seed in (0, 0, 1, 2, 3)]
    np.testing.assert_array_equal(wide[0], wide[1])
    assert any(not np.array_equal(wide[0], w) for w in wide[2:])


def test_a_tied_table_is_divided_where_it_is_the_output_layer() -> None:
    before = model("gpt2")
    after = kept(before, widen(before, "wte"))
    np.testing.assert_array_equal(array(after, "wte.weight"), np.tile(array(before, "wte.weight"), 2))
    scaled = after.nodes["lm_head"].inputs[0]
    assert isinstance(scaled, Value)
    assert after.nodes[scaled.node].op.name == "mul"
    again = kept(before, widen(after, "wte"))
    assert len(again.nodes) == len(after.nodes), "the number that is there changes"


def test_heads_and_their_features() -> None:
    """Twice the features of a head sum to twice the scores."""
    before = model("llama_micro")
    old = next(n for n in before.nodes.values() if n.op.name == "scaled_dot_product_attention")
    after = kept(before, widen(before, "layers.0.self_attn.q_proj"))
    new = after.nodes[old.path]
    query = [g.type(n.inputs[0]).shape for g, n in ((before, old), (after, new)) if n.inputs[0]]
    assert query[1][1] == 4 * query[0][1]  # type: ignore[operator] # key heads, and query heads of each


def reducing(name: str, **attributes: Any) -> Graph:
    b = Builder()
    x = b("tanh", linear(b, b.input("x", "f32[2, 4, 3]"), "a", 6))
    return probed(b.done(b(name, x, **attributes)))


@pytest.mark.parametrize(
    ("name", "attributes", "by", "op"),
    [
        ("sum", {"dim": -1}, 2, "mul"),
        ("sum", {"dim": -1}, 1.5, "mul"),
        ("mean", {"dim": -1}, 1.5, "mul"),
        ("mean", {"dim": -1}, 2, "mean"),
        ("max", {"dim": -1}, 1.5, "max"),
        ("var", {"dim": -1, "correction": 0}, 2, "var"),
    ],
)
def test_reductions(name: str, attributes: dict[str, Any], by: float, op: str) -> None:
    before = reducing(name, **attributes)
    after = kept(before, widen(before, by=by))
    assert any(n.op.name == op for n in after.nodes.values())


@pytest.mark.parametrize(
    ("name", "attributes", "by", "fresh"),
    [
        ("var", {"dim": -1, "correction": 0}, 1.5, False),
        ("var", {"dim": -1}, 2, False),
        ("prod", {"dim": -1}, 2, False),
        ("norm", {"dim": -1}, 2, False),
        ("max", {"dim": -1}, 2, True),
    ],
)
def test_reductions_that_see_copies(name: str, attributes: dict[str, Any], by: float, fresh: bool) -> None:
    before = reducing(name, **attributes)
    with pytest.raises(Refusal, match="no dimension can become wider") as refused:
        widen(before, by=by, fresh=fresh)
    assert refused.value.nodes == (name,)
    with pytest.raises(Refusal, match=f"a cannot be wider: {name} %{name}"):
        widen(before, "a", by=by, fresh=fresh)


def test_what_is_asked_for_by_name_is_refused_and_what_patterns_match_left_out() -> None:
    before = model("gpt2")
    with pytest.raises(Refusal, match=r"layer_norm %h.0.ln_1 takes statistics over it") as refused:
        widen(before, "wte", by=1.5)
    assert refused.value.nodes[0] == "h.0.ln_1"
    found = widen(before, "h.0.*", by=1.5)
    assert shapes(kept(before, found))["wte.weight"] == shapes(before)["wte.weight"]
    assert any(note.startswith("@wte.weight[1] (48) stays") for note in found.notes)
    with pytest.raises(Refusal, match="it is an axis of the output"):
        widen(mlp(), "c")
    with pytest.raises(Refusal, match='no parameter matches "d"'):
        widen(mlp(), "d")
    with pytest.raises(Refusal, match="makes dimensions larger") as wrong:
        widen(mlp(), by=1)
    assert wrong.value.option == "by"


def test_fresh_units_are_other_units_that_nothing_sees_yet() -> None:
    before = model("resnet18")
    after = kept(before, widen(before, "layer1.0.conv1", fresh=True))
    old, new = (array(g, "layer1.0.conv1.weight") for g in (before, after))
    np.testing.assert_array_equal(new[: len(old)], old)
    assert not np.isclose(new[len(old) :], old).any()
    assert array(after, "layer1.0.conv1.weight")[len(old) :].std() > 0
    assert not array(after, "layer1.0.conv2.weight")[:, len(old) :].any()
    np.testing.assert_array_equal(array(after, "layer1.0.bn1.running_var")[len(old) :], 1)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: f"{s.op.name}-{'-'.join(map(str, s.inputs))}")
def test_every_operator_among_wider_ones(sample: Sample) -> None:
    """Inputs are parameters and outputs are summed up, so that every dimension may change which the operator allows."""
    before = closed(sample)
    for by in (2, 1.5):
        found = attempt(widen, before, by=by)
        if found:
            kept(before, found)


def attempt(transform: Any, graph: Graph, **options: Any) -> Outcome | None:
    try:
        return transform(graph, **options)
    except Refusal:
        return None


def closed(sample: Sample) -> Graph:
    graph = sample_graph(sample)
    edit = Graph("closed").edit()
    moved: dict[Ref, Ref] = {}
    for name, node in graph.inputs.items():
        kind = node.types[0]
        drawn = Parameter(name, kind, Initialiser("normal", (0.0, 1.0)))
        moved[node.value] = edit.parameter(drawn) if kind.dtype.is_float else edit.add(name, node.op).value
    node = graph.nodes["result"] if "result" in graph.nodes else next(iter(graph.nodes.values()))
    new = node if node.path in edit else edit.add(node.path, node.op, *[i and moved[i] for i in node.inputs])
    moved.update(zip(node.values, new.values, strict=True))
    for name, ref in graph.outputs.items():
        out = moved[ref]
        kind = edit.type(out)
        if kind.dtype.is_float:
            out = edit.add(f"total_{name}", Sum().canonical(kind), edit.add(f"tanh_{name}", Tanh(), out).value).value
        edit.output(name, out)
    return probed(edit.done())


@settings(max_examples=25)
@given(graphs(size=25), st.sampled_from([2, 1.5, 3]), st.booleans(), st.integers(0, 3))
def test_random_graphs_get_wider_and_narrow_again(graph: Graph, by: float, fresh: bool, seed: int) -> None:
    before = probed(graph)
    found = attempt(widen, before, by=by, fresh=fresh, seed=seed)
    if found:
        after = kept(before, found)
        if not fresh:
            kept(before, shrink(after))


# ------------------------------------------------------------------------------------------------------------- deepen


@pytest.mark.parametrize("by", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("how", ["residual", "net2deeper"])
@pytest.mark.parametrize("name", ACCEPTED)
def test_models_get_deeper(name: str, how: Literal["residual", "net2deeper"], by: int) -> None:
    before = model(name)
    if (name, how) in {("densenet121", "residual")} | {(n, "net2deeper") for n in ("swin_tiny", "gpt2", "llama_micro")}:
        with pytest.raises(Refusal, match="no block of the model can be followed by the identity") as refused:
            deepen(before, by=by, how=how)
        assert set(refused.value.nodes) <= {*before.nodes, *before.scopes}
        assert refused.value.notes
        return
    found = deepen(before, by=by, how=how)
    after = kept(before, found)
    assert len(after.parameters) > len(before.parameters)
    assert all(p in after.parameters for p in before.parameters), "what was there keeps its path"
    for new, (old,) in found.sources.items():
        np.testing.assert_array_equal(array(after, new), array(before, old))


def test_a_residual_block_again() -> None:
    before = model("resnet18")
    after = kept(before, deepen(before, "layer1.0", by=2))
    assert [b.path for b in blocks(after)][:4] == ["layer1.0", "layer1.0_1", "layer1.0_2", "layer2.0"]
    assert not array(after, "layer1.0_1.bn2.weight").any()
    assert not array(after, "layer1.0_1.bn2.bias").any()
    np.testing.assert_array_equal(array(after, "layer1.0_1.conv1.weight"), array(before, "layer1.0.conv1.weight"))
    trained = after.with_parameters(
        [
            before.parameters["layer1.0.bn2.weight"].__class__(
                "layer1.0_1.bn2.weight",
                after.parameters["layer1.0_1.bn2.weight"].type,
                Initialiser("ones"),
                data=before.parameters["layer1.0.bn2.weight"].data,
            )
        ]
    )
    assert not measure(before, trained, Contract(), probes=1).kept, "the new block is in the way of nothing"


def test_both_branches_of_a_transformer_block_are_closed() -> None:
    after = deepen(model("gpt2"), "h.1").graph
    for name in ("attn.c_proj", "mlp.c_proj"):
        assert not array(after, f"h.1_1.{name}.weight").any()
        assert not array(after, f"h.1_1.{name}.bias").any()


def test_what_cannot_be_the_identity_is_named() -> None:
    with pytest.raises(Refusal, match=r"layer_norm %encoder.layer.0.output.LayerNorm does not pass on") as refused:
        deepen(model("bert"), "encoder.layer.0")
    assert refused.value.nodes == ("encoder.layer.0.output.LayerNorm",)
    with pytest.raises(Refusal, match="its output has another type"):
        deepen(model("resnet18"), "layer2.0")
    with pytest.raises(Refusal, match="no activation that changes nothing when applied again"):
        deepen(mlp("gelu"), "a", how="net2deeper")
    with pytest.raises(Refusal, match="at least one"):
        deepen(mlp(), by=0)


def test_an_inserted_layer_is_pytorchs_identity() -> None:
    before = model("resnet50")
    after = kept(before, deepen(before, "layer2.1", how="net2deeper"))
    weight = torch.empty(*map(int, map(str, shapes(after)["layer2.1.conv3_1.weight"])))
    np.testing.assert_array_equal(array(after, "layer2.1.conv3_1.weight"), torch.nn.init.dirac_(weight).numpy())
    deep = kept(mlp(), deepen(mlp(), how="net2deeper"))
    np.testing.assert_array_equal(array(deep, "b_1.weight"), np.eye(7))


def test_a_batch_norm_beside_the_branches_stands_still() -> None:
    """RepVGG: two branches are 0, and the third, a batch norm, undoes its statistics."""
    before = model("repvgg_a0")
    after = kept(before, deepen(before, "stage2.1"))
    variance = array(after, "stage2.1_1.rbr_identity.running_var").astype("float64")
    np.testing.assert_allclose(array(after, "stage2.1_1.rbr_identity.weight"), np.sqrt(variance + 1e-5), rtol=1e-6)


# ---------------------------------------------------------------------------------------------------------- branches


WAYS = [("sum", 2), ("sum", 3), ("average", 3), ("concat", 2)]


@pytest.mark.parametrize(
    ("name", "how", "branches"),
    [
        pytest.param(name, *way, marks=[pytest.mark.slow] * (name not in ("resnet50", "gpt2", "llama_micro")))
        for name in ACCEPTED
        for way in WAYS
    ],
)
def test_branches_of_branches_and_back(name: str, how: Any, branches: int) -> None:
    before = model(name)
    split = kept(before, path(before, "*", branches, how))
    nested = kept(before, path(split, "*.1", 2, "sum"))
    assert len(nested.nodes) > len(split.nodes) > len(before.nodes)
    for made in (nested, split):
        again = kept(before, merge_paths(made))
        assert len(again.nodes) == len(before.nodes)
        if name != "gpt2":  # its table is tied, and what was split of it is not
            assert shapes(again) == shapes(before)


def test_what_branches_are() -> None:
    before = mlp()
    weight = array(before, "b.weight")
    for how, parts in (("sum", [weight / 2] * 2), ("average", [weight] * 2), ("concat", [weight[:3], weight[3:]])):
        after = path(before, "b", 2, how).graph  # type: ignore[arg-type]
        assert "b.weight" not in after.parameters
        for number, part in enumerate(parts):
            np.testing.assert_array_equal(array(after, f"b.{number}.weight"), part)
    assert path(before, "b").sources["b.1.bias"] == ("b.bias",)


def test_a_small_kernel_beside_a_large_one() -> None:
    """RepVGG's 1×1 beside 3×3, a sum with something else, and one that is strided and padded otherwise."""
    b = Builder()
    x = b.input("x", "f32[2, 4, 9, 9]")
    args: list[tuple[str, int, int]] = [("a", 3, 1), ("b", 1, 0), ("c", 1, 1), ("d", 5, 2)]
    made = [
        b("conv2d", x, b.parameter(f"{n}.weight", (4, 4, k, k), "normal", 0.0, 1.0), None, padding=p, path=n)
        for n, k, p in args
    ]
    total = b("add", b("add", made[0], made[1]), b("add", x, made[3]))
    b.edit.output("other", made[2])
    before = probed(b.done(total))
    after = kept(before, merge_paths(before))
    assert shapes(after) == {"c.weight": (4, 4, 1, 1), "d.weight": (4, 4, 5, 5)}
    np.testing.assert_allclose(
        array(after, "d.weight")[:, :, 2, 2],
        sum(array(before, f"{n}.weight")[:, :, k // 2, k // 2] for n, k, _ in args if n != "c"),
        rtol=1e-6,
    )


def test_what_cannot_be_split_or_merged() -> None:
    grouped = model("mobilenet_v2")
    with pytest.raises(Refusal, match="a convolution of 8 groups, which read other channels"):
        path(grouped, "blocks.0.depthwise.conv", how="concat")
    assert len(path(grouped, "blocks.0.*", how="concat").notes) == 2
    with pytest.raises(Refusal, match="no linear or convolution layer matches"):
        path(grouped, "blocks.0.depthwise.norm")
    with pytest.raises(Refusal, match="two branches at least"):
        path(mlp(), "a", 1)
    with pytest.raises(Refusal, match="no layers that read the same value"):
        merge_paths(mlp())


# ------------------------------------------------------------------------------------------------------------- shrink


@pytest.mark.parametrize("by", [2, 1.5])
@pytest.mark.parametrize("name", [*ACCEPTED, "lstm_tagger", "mixtral_micro"])
def test_what_got_wider_narrows_to_what_it_was(name: str, by: float) -> None:
    before = model(name)
    wide = widen(before, by=by).graph
    found = shrink(wide, by=2 if by == 2 else None)
    after = kept(before, found)
    assert str(found.contract) == "exact"
    same = [p for p in before.parameters if p in after.parameters and shapes(after)[p] == shapes(before)[p]]
    assert len(same) == len(before.parameters)
    for parameter in same:
        np.testing.assert_allclose(array(after, parameter), array(before, parameter), rtol=1e-6)


def test_copies_that_were_trained_apart_where_they_are_read_are_added_up() -> None:
    wide = widen(mlp(), "a").graph
    changed = array(wide, "b.weight").copy()
    changed[:, 5:] *= 3
    wide = wide.with_parameters([held(wide.parameters["b.weight"], changed)])
    after = kept(wide, shrink(wide))
    np.testing.assert_allclose(array(after, "b.weight"), changed[:, :5] + changed[:, 5:], rtol=1e-6)


def held(parameter: Parameter, numbers: np.ndarray) -> Parameter:
    from netc.compiler.transforms.numbers import held as hold

    return hold(parameter, numbers)


def test_units_that_differ_anywhere_are_no_copies() -> None:
    wide = widen(mlp(), "a").graph
    changed = array(wide, "a.bias").copy()
    changed[7] += 1
    wide = wide.with_parameters([held(wide.parameters["a.bias"], changed)])
    assert shapes(kept(wide, shrink(wide)))["a.weight"] == (6, 3)


@pytest.mark.parametrize("name", ACCEPTED)
def test_models_are_cut_where_there_are_no_copies(name: str) -> None:
    before = model(name)
    found = shrink(before, by=2)
    after = kept(before, found)
    assert str(found.contract) == "alters"
    assert sum(np.prod(s) for s in shapes(after).values()) < sum(np.prod(s) for s in shapes(before).values())  # type: ignore[arg-type]
    chosen = bound(after)
    made = backend("pytorch").Interpreter(chosen, "infer")(inputs(chosen))
    assert all(np.isfinite(a).all() for a in made.values())
    with pytest.raises(Refusal, match="no units of these dimensions are copies"):
        shrink(before)


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "swin_tiny", "gpt2", "llama_micro"])
def test_what_got_deeper_shrinks_to_what_it_was(name: str) -> None:
    before = model(name)
    found = shrink(deepen(before, by=2).graph, of="depth")
    assert str(found.contract) == "exact"
    after = kept(before, found)
    assert shapes(after) == shapes(before)
    assert set(after.nodes) == set(before.nodes)


def test_blocks_go_at_regular_distances() -> None:
    before = model("mobilenet_v2")
    found = shrink(before, of="depth", by=2)
    assert str(found.contract) == "alters"
    gone = {b.path for b in blocks(before)} - {b.path for b in blocks(kept(before, found))}
    assert gone == {"blocks.2", "blocks.5", "blocks.7", "blocks.9", "blocks.12", "blocks.15"}
    with pytest.raises(Refusal, match="no block is the identity"):
        shrink(before, of="depth")
    with pytest.raises(Refusal, match="makes models smaller"):
        shrink(before, by=0.5)


# ----------------------------------------------------------------------------------------------------------- together


TEXT = """
import "tests/reduced/resnet.net" { resnet18 }
import "tests/reduced/gpt2.net" { gpt2 }

model wide = resnet18 |> widen("layer1.*", by = 2)
model grown = gpt2 |> widen(by = 1.5, fresh = true)
model deep = gpt2 |> deepen("h.1", by = 2)
model deeper = resnet18 |> deepen(how = net2deeper)
model split = resnet18 |> path("layer1.0.conv1", branches = 3, how = concat)
model whole = split |> merge_paths
model back = wide |> shrink("layer1.*")
model half = resnet18 |> shrink(by = 2)
"""


def test_in_the_language() -> None:
    program = netc.loads(Source("net.net", TEXT), root=ROOT)
    size = {n: int(str(program.model(n).cost().parameters)) for n in program.models}
    plain = int(str(netc.load(ROOT / "tests/reduced/resnet.net", root=ROOT).model("resnet18").cost().parameters))
    assert size["back"] == size["split"] == size["whole"] == plain
    assert size["half"] < plain < min(size["wide"], size["deeper"])


@pytest.mark.parametrize("text", ["widen", "deepen", 'path("*", how = sum)'])
@pytest.mark.parametrize("name", ["resnet18", "gpt2"])
def test_elsewhere(name: str, text: str) -> None:
    """In PyTorch, as a module of f32, and in ONNX Runtime."""
    from test_specs import feeds

    graph = model(name)
    done: dict[str, Any] = {"widen": widen, "deepen": deepen}
    after = done[text](graph).graph if text in done else path(graph, "*").graph
    given = feeds(graph, 3)
    tensors = [torch.from_numpy(a) for a in given.values()]
    with torch.no_grad():
        expected, got = (netc.Model("m", g).torch().eval()(*tensors) for g in (graph, after))
    torch.testing.assert_close(got, expected, rtol=2e-3, atol=2e-4)
    session = onnxruntime.InferenceSession(onnx_model(after).SerializeToString())
    (ran,) = session.run(None, given)[:1]
    np.testing.assert_allclose(np.asarray(ran), got.numpy(), rtol=2e-3, atol=2e-4)


def test_one_after_the_other() -> None:
    """Any order: wider, deeper, branched, and all of it away again."""
    before = model("resnet18")
    steps: Sequence[Any] = (
        lambda g: deepen(g, "layer1.0"),
        lambda g: widen(g, by=1.5),
        lambda g: path(g, "layer3.*", 2, "average"),
        lambda g: deepen(g, "layer4.*", how="net2deeper"),
        lambda g: widen(g, "layer2.*", by=3),
        merge_paths,
        shrink,
        lambda g: shrink(g, of="depth"),
    )
    graph = before
    for step in steps:
        graph = kept(before, step(graph))
    assert (
        shapes(graph).items() >= {p: s for p, s in shapes(before).items() if not p.startswith(("layer4", "fc"))}.items()
    )
    assert not [p for p in graph.parameters if "layer1.0_1" in p]
    assert isinstance(graph.nodes["fc"].inputs[1], ParameterRef)
