"""Sharing and adding weights: lora, adapters, ties, stores, parallel branches, sparse differences, experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import netc
import numpy as np
import onnxruntime
import pytest
from netc.backends.interchange import model as onnx_model
from netc.compiler.backend import backend
from netc.compiler.contract import Contract
from netc.compiler.cost import cost
from netc.compiler.graph import Graph, ParameterRef, verify
from netc.compiler.measure import measure
from netc.compiler.passes.bind import bind
from netc.compiler.probe import inputs, probed
from netc.compiler.program import read_source
from netc.compiler.source import Source
from netc.compiler.text import print_graph
from netc.compiler.transforms import Limit, Outcome, Refusal
from netc.compiler.transforms.adapter import adapter
from netc.compiler.transforms.compose import compose
from netc.compiler.transforms.dense import dense
from netc.compiler.transforms.experts import experts
from netc.compiler.transforms.fold_weights import fold_weights
from netc.compiler.transforms.lora import lora
from netc.compiler.transforms.numbers import held
from netc.compiler.transforms.parallelize import parallelize
from netc.compiler.transforms.share import share
from netc.compiler.transforms.tie import tie
from netc.compiler.weights import values

ROOT = Path(__file__).parents[1]

TEXT = """import "gpt2.net" { GPT2 }
import "llama.net" { Decoder, SelfAttention, SwiGLU }
import "vit.net" { ViT }
import "swin.net" { Swin }
import "mixer.net" { Mixer }
import "resnet.net" { ResNet, Basic }
import "mobilenet_v2.net" { MobileNetV2 }
model gpt2 = GPT2(50, 16, 4, 2, positions = 16) (tokens: i64[N, T])
model llama = Decoder(50, 16, 2, SelfAttention(4, 2), SwiGLU(24)) (tokens: i64[N, T])
model vit = ViT(16, 2, depth = 3, patch = 8, classes = 5) (x: f32[N, 3, 32, 32])
model swin = Swin(8, [2, 2], [2, 4], window = 4, classes = 5) (x: f32[N, 3, 32, 32])
model mixer = Mixer(16, 2, patch = 8, tokens = 12, channels = 32, classes = 5) (x: f32[N, 3, 32, 32])
model resnet = ResNet(Basic, [2, 1], width = 8, classes = 5) (x: f32[N, 3, 32, 32])
model mobilenet = MobileNetV2(width = 0.25, classes = 10) (x: f32[N, 3, 64, 64])
"""


@cache
def program() -> netc.Program:
    return netc.loads(Source("here.net", TEXT, ROOT / "specs" / "here.net"), root=ROOT)


@cache
def spec(name: str) -> Graph:
    return probed(program().model(name).graph)


def small(text: str, name: str = "net") -> Graph:
    return probed(netc.loads(Source("net.net", text)).model(name).graph)


def difference(a: Graph, b: Graph) -> float:
    return measure(a, b, Contract(), probes=1).relative


def whole(graph: Graph) -> Graph:
    """The graph, which is sound, and is its text."""
    verify(graph)
    assert read_source(Source("normal.net", print_graph(graph))).model(graph.name).graph == graph
    return graph


def keeps(before: Graph, outcome: Outcome) -> Graph:
    """What a transform made that promises the same function, and holds it."""
    assert outcome.contract == Contract()
    found = measure(before, whole(outcome.graph), outcome.contract, probes=1)
    assert found.kept, found
    return outcome.graph


def differs(before: Graph, outcome: Outcome) -> Graph:
    assert outcome.contract.kind == "alters"
    assert difference(before, whole(outcome.graph)) > 1e-3
    return outcome.graph


def count(graph: Graph) -> int:
    return sum(int(str(p.type.elements)) for p in graph.parameters.values() if not p.buffer)


def macs(graph: Graph) -> int:
    sizes = {"N": 1, "T": 8} if "tokens" in graph.inputs else {"N": 1}
    return int(str(cost(graph, sizes).macs))


def changed(graph: Graph, ending: str, seed: int = 0) -> Graph:
    """The graph with other numbers for the parameters whose paths end so, as after training."""
    rng = np.random.default_rng(seed)
    own = [p for path, p in graph.parameters.items() if path.endswith(ending)]
    assert own
    return graph.with_parameters([held(p, 0.3 * rng.normal(size=p.type.shape)) for p in own])


def with_numbers(graph: Graph, numbers: Mapping[str, np.ndarray]) -> Graph:
    return graph.with_parameters([held(graph.parameters[path], array) for path, array in numbers.items()])


def refused(run: Callable[[], object], words: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        run()
    assert words in caught.value.message
    return caught.value


# ------------------------------------------------------------------------------------------------------ lora, adapters


def test_a_weight_that_is_an_expression_is_folded_first() -> None:
    once = lora(spec("vit"), rank=2).graph
    with pytest.raises(Refusal, match="are expressions") as caught:
        lora(once, rank=2)
    assert caught.value.fix == "fold_weights() before it"


@pytest.mark.parametrize("name", ["gpt2", "llama", "vit", "swin", "resnet"])
def test_a_product_of_low_rank_is_nothing_at_first_and_folds_exactly(name: str) -> None:
    graph = spec(name)
    tuned = changed(keeps(graph, lora(graph, rank=3, alpha=6)), "lora_b")
    assert difference(graph, tuned) > 1e-3
    folded = keeps(tuned, fold_weights(tuned))
    assert set(folded.parameters) == set(graph.parameters)
    assert {p: n.op for p, n in folded.nodes.items()} == {p: n.op for p, n in graph.nodes.items()}


@pytest.mark.parametrize(("name", "weight"), [("vit", "blocks.1.mlp.fc1"), ("resnet", "layer1.0.conv2")])
def test_a_folded_weight_is_the_sum_of_the_paper(name: str, weight: str) -> None:
    tuned = changed(lora(spec(name), weight, rank=3, alpha=6).graph, "lora_b")
    old = {path.rpartition(".")[2]: array.astype("f8") for path, array in values(tuned).items() if weight in path}
    expected = old["weight"] + 6 / 3 * (old["lora_b"] @ old["lora_a"]).reshape(old["weight"].shape)
    folded = values(fold_weights(tuned).graph)[f"{weight}.weight"]
    np.testing.assert_allclose(folded, expected, rtol=1e-5, atol=1e-6)


def test_only_what_is_new_is_trained() -> None:
    for made in (lora(spec("vit"), "blocks.*"), adapter(spec("vit"))):
        assert {p for p, own in made.graph.parameters.items() if own.trainable} == {
            p for p in made.graph.parameters if p not in spec("vit").parameters
        }
    assert all(p.trainable for p in lora(spec("vit"), freeze=False).graph.parameters.values())


def test_a_tied_weight_is_adapted_once_for_all_that_read_it() -> None:
    graph = lora(spec("gpt2"), "wte", rank=2).graph
    assert [p for p in graph.parameters if "lora" in p] == ["wte.lora_b", "wte.lora_a"]
    assert len({ref for node in ("wte", "lm_head") for ref in [graph.nodes[node].inputs[1]]}) == 1


def test_what_cannot_be_adapted_or_folded_is_refused() -> None:
    refused(lambda: lora(spec("vit"), "nothing.*"), "no layer weight matches")
    refused(lambda: lora(lora(spec("vit"), "head").graph, "head"), "are expressions")
    refused(lambda: fold_weights(spec("vit")), "no weight expression matches")


@pytest.mark.parametrize("name", ["gpt2", "swin", "mixer", "resnet", "mobilenet"])
def test_adapters_are_nothing_at_first_and_something_later(name: str) -> None:
    graph = spec(name)
    after = keeps(graph, adapter(graph, rank=4, activation="relu"))
    assert difference(graph, changed(after, "up.weight")) > 1e-4


def test_each_branch_has_an_adapter() -> None:
    new = set(adapter(spec("vit"), "blocks.1", rank=4).graph.parameters) - set(spec("vit").parameters)
    parts = ("down.weight", "down.bias", "up.weight", "up.bias")
    assert new == {f"blocks.1.{home}.{part}" for home in ("adapter", "adapter_1") for part in parts}


# -------------------------------------------------------------------------------------------------------------- experts


@pytest.mark.parametrize("name", ["gpt2", "llama", "vit", "swin", "mixer"])
@pytest.mark.parametrize("options", [{"count": 3}, {"how": "views"}, {"how": "upcycle"}], ids=str)
def test_experts_that_all_count_are_the_dense_part(name: str, options: dict[str, Any]) -> None:
    graph = spec(name)
    after = keeps(graph, experts(graph, **options))
    if options.get("how") != "upcycle":
        assert (count(after), macs(after)) == (count(graph), macs(graph))


@pytest.mark.parametrize("name", ["gpt2", "llama", "swin"])
def test_dense_is_the_reverse_of_experts(name: str) -> None:
    graph = spec(name)
    apart = experts(graph, count=3).graph
    again = keeps(apart, dense(apart))
    assert again == graph
    assert all((values(again)[path] == array).all() for path, array in values(graph).items())
    views = fold_weights(experts(graph, count=3, how="views").graph).graph
    assert dense(views).graph.nodes == graph.nodes


def test_a_router_chooses_as_many_experts_as_are_asked_for() -> None:
    graph = small("model net = Net() (x: f32[N, 6])\nmodule Net() (x: [N, d]) {\n"
                  "    return x |> linear(8) as up |> relu |> linear(3) as down\n}\n")  # fmt: skip
    after = differs(graph, experts(graph, count=4, top_k=2))
    given = inputs(bind(after, {"N": 5}), 0)
    found = backend("pytorch").Interpreter(bind(after, {"N": 5}), "infer")(given)["output"]
    numbers = {path: array.astype("f8") for path, array in values(after).items()}
    logits = given["x"] @ numbers["down.router.weight"].T
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = np.tile(numbers["down.bias"], (5, 1))
    for row in range(5):
        best = np.argsort(-odds[row])[:2]
        for e in best:
            w = {k: numbers[f"down.experts.{e}.{k}"] for k in ("up.weight", "up.bias", "down.weight")}
            hidden = np.maximum(given["x"][row] @ w["up.weight"].T + w["up.bias"], 0)
            expected[row] += 2 * odds[row, e] / odds[row, best].sum() * (hidden @ w["down.weight"].T)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_one_router_knows_all_routes_before_the_first_block() -> None:
    graph = spec("gpt2")
    each, first = experts(graph, top_k=2).graph, whole(experts(graph, top_k=2, router="first").graph)
    routers = [[p for p in g.parameters if p.endswith("router.weight")] for g in (each, first)]
    assert (len(routers[0]), routers[1]) == (4, ["router.weight"])
    before = {p for p in first.nodes if p in _ancestors(first, "router")}
    assert not any(p.startswith("h.") for p in before)
    stopped = refused(lambda: experts(spec("swin"), top_k=2, router="first"), "knows other tokens")
    assert "layers.1.blocks.0.mlp.fc2" in stopped.nodes


def _ancestors(graph: Graph, path: str) -> set[str]:
    found, waiting = set[str](), [path]
    while waiting:
        node = graph.nodes[waiting.pop()]
        new = {r.node for r in node.refs if not isinstance(r, ParameterRef)} - found
        found |= new
        waiting += new
    return found


def test_views_add_no_parameters_but_routers_and_depth_adds_work() -> None:
    graph = spec("vit")
    new = [set(experts(graph, how="views", top_k=2, depth=d).graph.parameters) - set(graph.parameters) for d in (1, 2)]
    assert new[0] == {f"blocks.{i}.mlp.router.weight" for i in range(3)}
    assert new[1] == new[0] | {f"blocks.{i}.mlp.difficulty.weight" for i in range(3)}
    work = [macs(differs(graph, experts(graph, how="views", depth=d))) for d in (2, 3, 4)]
    assert work[1] - work[0] == work[2] - work[1] == 3 * 17 * 2 * 16 * 64


def test_experts_say_what_stops_them() -> None:
    assert refused(lambda: experts(spec("resnet"), "layer1.0"), "linear layers only").nodes == (
        "layer1.0.conv1",
        "layer1.0.conv2",
    )
    assert refused(lambda: experts(spec("llama"), count=25), "24 hidden units").option == "count"
    assert refused(lambda: experts(spec("vit"), top_k=5), "5 of 4").option == "top_k"
    weighed = experts(spec("vit"), "blocks.0", top_k=2).graph
    assert refused(lambda: dense(weighed), "not added as they are").nodes[0] == "blocks.0.mlp.experts.0.weighed"
    refused(lambda: dense(spec("vit")), "no two feed-forward parts")


# ------------------------------------------------------------------------------------------------------------------ tie


@pytest.mark.parametrize("name", ["gpt2", "llama", "vit", "resnet"])
@pytest.mark.parametrize("to", ["first", "mean"])
def test_products_of_full_rank_recover_the_model(name: str, to: Any) -> None:
    graph = spec(name)
    keeps(graph, tie(graph, to=to, rank=1000))
    differs(graph, tie(graph, to=to, rank=1))


def test_tied_parameters_count_once() -> None:
    graph = spec("gpt2")
    block = sum(int(str(p.type.elements)) for path, p in graph.parameters.items() if path.startswith("h.0."))
    for by, sets in ((0, 1), (2, 2), (3, 2)):
        after = differs(graph, tie(graph, by=by))
        assert count(after) == count(graph) - (4 - sets) * block
        assert macs(after) == macs(graph)
    assert read_at(tie(graph, by=2, order="cycle").graph) == [0, 1, 0, 1]
    assert read_at(tie(graph, by=2, order="sequence").graph) == [0, 0, 2, 2]
    own = tie(graph, own="*.ln_*").graph
    assert count(own) == count(graph) - 3 * (block - 4 * 16)


def read_at(graph: Graph) -> list[int]:
    """Of which block each block reads the weights."""
    refs = [graph.nodes[f"h.{i}.mlp.c_fc"].inputs[1] for i in range(4)]
    return [int(ref.parameter.split(".")[1]) for ref in refs if isinstance(ref, ParameterRef)]


def test_products_are_those_of_the_singular_values_and_none_is_strict_recursion() -> None:
    graph = spec("vit")
    strict = tie(graph, "blocks.*", own=["*.norm*", "*.bias"]).graph
    relaxed = tie(graph, "blocks.*", rank=2).graph
    nothing = relaxed.with_parameters(
        [held(p, np.zeros(p.type.shape)) for path, p in relaxed.parameters.items() if path.endswith("lora_b")]
    )
    assert difference(strict, nothing) == 0
    old, new = values(graph), values(relaxed)
    gap = (old["blocks.2.mlp.fc1.weight"] - old["blocks.0.mlp.fc1.weight"]).astype("f8")
    kept = new["blocks.2.mlp.fc1.lora_b"] @ new["blocks.2.mlp.fc1.lora_a"]
    u, s, v = np.linalg.svd(gap)
    np.testing.assert_allclose(kept, (u[:, :2] * s[:2]) @ v[:2], atol=1e-5)


def test_layers_of_one_shape_are_tied_where_no_block_is_named() -> None:
    graph = spec("resnet")
    after = differs(graph, tie(graph, "layer1.*.conv*"))
    assert count(graph) - count(after) == 3 * 8 * 8 * 9
    stopped = refused(lambda: tie(graph, ["layer1.0.conv1", "layer2.0.conv1"]), "weights of the same shape")
    assert stopped.nodes == ("layer1.0.conv1.weight", "layer2.0.conv1.weight")
    assert any("f32[16, 8, 3, 3]" in note for note in stopped.notes)
    refused(lambda: tie(graph, by=1), "nothing is left to share")


def test_the_gradient_of_a_tied_weight_is_the_sum_over_its_uses() -> None:
    import torch

    tied = tie(spec("vit"), "blocks.*").graph
    alike = with_numbers(
        spec("vit"),
        {p: values(tied)[f"blocks.0.{p.split('.', 2)[2]}"] for p in spec("vit").parameters if p.startswith("blocks.")},
    )
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    found: list[dict[str, torch.Tensor]] = []
    for graph in (tied, alike):
        module = netc.Model("net", graph).torch().double().eval()
        module(x).square().sum().backward()
        found.append({n: p.grad for n, p in module.named_parameters() if p.grad is not None})
    total = sum(found[1][f"blocks.{i}.mlp.fc1.weight"] for i in range(3))
    torch.testing.assert_close(found[0]["blocks.0.mlp.fc1.weight"], total, rtol=1e-9, atol=1e-9)


# --------------------------------------------------------------------------------------------------------------- stores


@pytest.mark.parametrize("name", ["gpt2", "resnet"])
@pytest.mark.parametrize("stores", ["all", "shape", "layer"])
def test_a_model_has_just_the_parameters_it_is_given(name: str, stores: Any) -> None:
    graph = spec(name)
    keeps(graph, share(graph, Limit("parameters", "==", count(graph)), stores=stores))
    for part in (0.9, 0.37):
        budget = int(part * count(graph))
        after = differs(graph, share(graph, Limit("parameters", "==", budget), stores=stores))
        assert (count(after), macs(after)) == (budget, macs(graph))
        folded = fold_weights(after).graph
        assert {p: q.type for p, q in folded.parameters.items()} == {p: q.type for p, q in graph.parameters.items()}
        assert difference(after, folded) < 1e-12


def test_templates_mix_into_every_weight() -> None:
    graph = spec("vit")
    full = share(graph, Limit("parameters", "<=", 2 * count(graph)), how="templates")
    keeps(graph, full)
    budget = int(0.8 * count(graph))
    after = differs(graph, share(graph, Limit("parameters", "<=", budget), how="templates"))
    assert 0.5 * budget < count(after) <= budget


def test_stores_say_what_is_too_few_and_too_many() -> None:
    graph = spec("vit")
    refused(lambda: share(graph, Limit("parameters", "<=", 100)), "too few: the least is parameters >=")
    refused(lambda: share(graph, Limit("parameters", "==", count(graph) + 1)), "more than the model has")
    refused(lambda: share(graph, Limit("macs", "<=", 100)), "a number of parameters")
    refused(lambda: share(graph, Limit("parameters", "==", count(graph)), how="templates"), "nearest below")


# --------------------------------------------------------------------------------------------------------- parallelize

STACK = """module Branch(h) (x: [N, c, H, W]) {{
    return x + (x |> conv2d(h, 3, padding = 1) as conv1 |> {act} |> conv2d(c, 3, padding = 1, bias = {bias}) as conv2)
}}
module Net() (x: [N, c, H, W]) {{
    for i in 0..3 {{
        x = x |> Branch(4 + i) as "b.{{i}}"
    }}
    return x
}}
model net = Net() (x: f32[N, 3, 8, 8])
"""


def test_branches_of_two_convolutions_become_one_wide_pair() -> None:
    graph = small(STACK.format(act="relu", bias="true"))
    apart, merged = parallelize(graph), parallelize(graph, merge=True)
    differs(graph, apart)
    assert difference(apart.graph, whole(merged.graph)) < 1e-12
    assert merged.graph.parameters["b.0.conv1.weight"].type.shape == (4 + 5 + 6, 3, 3, 3)
    assert [p for p in merged.graph.nodes if "conv" in p] == ["b.0.conv1", "b.0.conv2"]
    assert macs(merged.graph) == macs(graph)
    assert "of 2^3 products of branches 4 are dropped (3 of order 2, 1 of order 3)" in apart.notes[0]
    assert f"{difference(graph, apart.graph):.3g}" in apart.notes[1]


LINEAR = """module Net() (x: [N, d]) {
    x = x + (x |> linear(d, bias = false) as f1)
    x = x + (x |> linear(d, bias = false) as f2)
    return x
}
model net = Whole() (x: f32[N, 4])
module Whole() (x: [N, d]) {
    return x |> Part as a |> Part as b
}
module Part() (x: [N, d]) {
    return x + (x |> linear(d, bias = false) as f)
}
"""


def test_of_linear_branches_the_products_are_lost_and_nothing_else() -> None:
    graph = small(LINEAR)
    after = parallelize(graph).graph
    f, g = (values(graph)[f"{n}.f.weight"].astype("f8") for n in "ab")
    runs = [backend("pytorch").Interpreter(bind(m, {"N": 3}), "infer") for m in (graph, after)]
    x = inputs(bind(graph, {"N": 3}), 0)
    lost = runs[0](x)["output"] - runs[1](x)["output"]
    np.testing.assert_allclose(lost, x["x"] @ (g @ f).T, atol=1e-5)
    up, down = np.zeros((4, 4)), np.zeros((4, 4))
    up[:2, 2:], down[:2, 2:] = f[:2, 2:], g[:2, 2:]
    orthogonal = with_numbers(graph, {"a.f.weight": up, "b.f.weight": down})
    assert difference(orthogonal, parallelize(orthogonal).graph) < 1e-12


def test_sublayers_side_by_side_differ_in_the_square_of_the_step() -> None:
    graph = spec("vit")
    gaps: list[float] = []
    for step in (2e-2, 1e-2):
        ends = ("attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias")
        numbers = {p: step * a for p, a in values(graph).items() if p.endswith(ends)}
        scaled = with_numbers(graph, numbers)
        after = whole(parallelize(scaled, how="sublayers").graph)
        assert (count(after), macs(after)) == (count(graph), macs(graph))
        gaps.append(measure(scaled, after, Contract("alters"), probes=1).absolute)
    assert 3.6 < gaps[0] / gaps[1] < 4.4


def test_blocks_of_several_branches_keep_what_is_inside_them() -> None:
    graph = spec("gpt2")
    assert [len(parallelize(graph, by=by).notes) for by in (2, 0)] == [2, 2]
    after = differs(graph, parallelize(graph, "h.*", by=2))
    before = _ancestors(after, "h.1.mlp.c_fc")
    assert "h.1.attn.c_proj" in before
    assert not any(path.startswith("h.0.") for path in before)


def test_a_rectifier_after_the_sum_stops_it() -> None:
    assert refused(lambda: parallelize(spec("resnet"), "layer1"), "not the sum").nodes == ("layer1.0.relu_1",)
    refused(lambda: parallelize(spec("resnet")), "no two residual parts")
    assert "blocks.0.norm1" in refused(lambda: parallelize(spec("vit"), merge=True), "more than two layers").nodes


# ------------------------------------------------------------------------------------------------------------- compose


def tuned(graph: Graph, name: str, seed: int) -> Graph:
    rng = np.random.default_rng(seed)
    numbers = {p: a + 0.1 * rng.normal(size=a.shape) for p, a in values(graph).items()}
    return replace(with_numbers(graph, numbers), name=name)


def test_sparse_differences_add_up_in_any_order() -> None:
    graph = spec("vit")
    a, b = tuned(graph, "task", 1), tuned(graph, "language", 2)
    both, other = compose(graph, a, b, density=0.05), compose(graph, b, a, density=0.05)
    assert difference(differs(graph, both), other.graph) < 1e-12
    assert both.graph.nodes == graph.nodes
    assert set(both.graph.parameters) == set(graph.parameters)
    assert difference(compose(graph, a).graph, a) < 1e-12
    keeps(graph, compose(graph, graph, density=0.5))


def test_the_largest_differences_are_kept_and_overlaps_counted() -> None:
    graph = spec("vit")
    old = values(graph)
    models = [tuned(graph, "task", 1), tuned(graph, "language", 2)]
    gaps = [np.concatenate([(values(m)[p].astype("f8") - old[p]).reshape(-1) for p in old]) for m in models]
    supports = [set(np.argsort(-np.abs(gap))[: round(0.1 * len(gap))].tolist()) for gap in gaps]
    outcome = compose(graph, *models, density=0.1)
    new = values(outcome.graph)
    moved = np.concatenate([(new[p] != old[p]).reshape(-1) for p in old])
    assert set(np.flatnonzero(moved).tolist()) == supports[0] | supports[1]
    assert f"both change {len(supports[0] & supports[1]):,} numbers" in outcome.notes[2]


def test_differences_laid_over_a_base_are_stored_sparsely_and_fold() -> None:
    graph = spec("swin")
    models = [tuned(graph, "task", 1), tuned(graph, "language", 2)]
    over = whole(compose(graph, *models, density=0.05, overlay=True).graph)
    added = compose(graph, *models, density=0.05).graph
    assert difference(added, over) < 1e-12
    stored = sum(int(str(p.type.elements)) for path, p in over.parameters.items() if path.endswith("_task"))
    assert stored == round(0.05 * count(graph))
    assert {p for p, own in over.parameters.items() if own.trainable} <= {
        p for p in over.parameters if p.endswith(("_task", "_language"))
    }
    folded = fold_weights(over).graph
    assert folded.nodes.keys() == graph.nodes.keys()
    assert set(folded.parameters) == set(graph.parameters)
    assert difference(added, folded) < 1e-12


def test_only_models_of_one_architecture_are_composed() -> None:
    graph = spec("vit")
    assert refused(lambda: compose(graph, spec("mixer")), "another architecture").nodes
    assert refused(lambda: compose(graph, graph, density=0), "share of the numbers").option == "density"
    refused(lambda: compose(graph), "no model is given")


# ---------------------------------------------------------------------------------------------------- text and export

HERE = """
let tiny = gpt2
model tuned = tiny |> lora("h.*", rank = 4, alpha = 8)
model folded = tuned |> fold_weights
model adapted = vit |> adapter(rank = 8, activation = relu)
model looped = tiny |> tie(by = 2, order = cycle, rank = 4)
model banked = tiny |> share(parameters <= 12 k, how = tile)
model wide = tiny |> parallelize(how = sublayers)
model moe = llama |> experts("layers.1", count = 4, how = upcycle, top_k = 2)
model again = llama |> experts(count = 4) |> dense
model both = compose(tiny, folded, density = 0.05, overlay = true)
"""


def test_all_are_written_in_the_language() -> None:
    read = netc.loads(Source("here.net", TEXT + HERE, ROOT / "specs" / "here.net"), root=ROOT)
    makers = {name: {n.maker for n in read.model(name).graph.nodes.values()} for name in ("tuned", "adapted", "moe")}
    assert all(own in found for own, found in zip(("lora", "adapter", "experts"), makers.values(), strict=True))
    assert count(read.model("banked").graph) == 12_000
    for name in ("folded", "looped", "wide", "again", "both"):
        whole(read.model(name).graph)


@pytest.mark.parametrize(
    "make",
    [
        lambda g: lora(g, rank=2),
        lambda g: experts(g, top_k=2),
        lambda g: compose(g, tuned(g, "task", 1), density=0.1, overlay=True),
    ],
    ids=["lora", "experts", "compose"],
)
def test_results_are_exported(make: Callable[[Graph], Outcome]) -> None:
    graph = bind(make(spec("vit")).graph, {"N": 2})
    given = inputs(graph, 0)
    wanted = backend("pytorch").Interpreter(graph, "infer")(given)
    session = onnxruntime.InferenceSession(onnx_model(graph).SerializeToString())
    (got,) = session.run(None, given)
    np.testing.assert_allclose(got, next(iter(wanted.values())), rtol=1e-3, atol=1e-4)


def test_a_tie_counts_parameters_and_not_statistics_and_keeps_only_what_exists() -> None:
    graph = probed(netc.load(ROOT / "specs" / "resnet_cifar.net").model("resnet20").graph)
    made = tie(graph)
    assert f"{count(graph):,} parameters became {count(made.graph):,}" in made.notes[0]
    assert 'no shared parameter matches "nosuch"' in refused(lambda: tie(graph, own="nosuch"), "nosuch").message
