"""Taking out of a model: units of its dimensions, whole blocks, single numbers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import netc
import numpy as np
import onnxruntime
import pytest
import torch
import torch_pruning
from netc.compiler.axes import analyse
from netc.compiler.backend import backend
from netc.compiler.blocks import blocks
from netc.compiler.calibration import Calibration, Noise
from netc.compiler.contract import Contract
from netc.compiler.cost import cost
from netc.compiler.graph import Graph, ParameterRef, verify
from netc.compiler.measure import measure
from netc.compiler.probe import bound, inputs, probed
from netc.compiler.source import Source
from netc.compiler.transforms.choose import matches
from netc.compiler.transforms.drop import _Scores, branches, drop, knapsack, without
from netc.compiler.transforms.importance import Importance
from netc.compiler.transforms.limit import spent
from netc.compiler.transforms.prune import prune
from netc.compiler.transforms.register import Limit, Refusal
from netc.compiler.transforms.sparsify import sparsify
from netc.compiler.weights import InMemory, value
from strategies import Builder
from test_pytorch import load as loaded
from test_specs import MODELS, ROOT, program, small
from test_text import check_round_trip
from torch.utils.flop_counter import FlopCounterMode

QUICK = {"digits", "llama_micro", "resnext50_32x4d"}

NOISE = Calibration("noise", Noise(samples=4))


@cache
def model(spec: str, name: str) -> Graph:
    return probed(program(ROOT / "specs" / f"{spec}.net").model(name).graph)


def numbers(graph: Graph, path: str) -> np.ndarray:
    return value(graph.parameters[path])


def changed(graph: Graph, arrays: Mapping[str, np.ndarray]) -> Graph:
    return graph.with_parameters([replace(graph.parameters[p], data=InMemory(a)) for p, a in arrays.items()])


def written(graph: Graph) -> None:
    """It holds together, has a text that says all of it, and runs."""
    verify(graph)
    check_round_trip(graph)
    fixed = bound(graph)
    found = backend("pytorch").Interpreter(fixed, "infer")(inputs(fixed))
    assert {n: a.shape for n, a in found.items()} == {n: fixed.type(fixed.outputs[n]).shape for n in found}
    assert all(np.isfinite(a).all() for a in found.values())


# ---------------------------------------------------------------------------------------------------- torch-pruning


def theirs(graph: Graph, **options: Any) -> torch.nn.Module:
    """The module of a ResNet as torch-pruning cuts it."""
    net = backend("pytorch").module(graph)
    for parameter in net.parameters():
        parameter.requires_grad_()
    x = torch.randn(1, 3, 32, 32)
    score = torch_pruning.importance.GroupMagnitudeImportance(p=options.pop("p", 2))
    torch_pruning.pruner.BasePruner(net, x, score, ignored_layers=[net.linear], **options).step()
    return net


@pytest.mark.parametrize(
    ("options", "own"),
    [
        ({"pruning_ratio": 0.3}, {"ratio": 0.3}),
        ({"pruning_ratio": 0.3, "p": 1}, {"ratio": 0.3, "score": "l1"}),
        ({"pruning_ratio": 0.5, "global_pruning": True}, {"ratio": 0.5, "scope": "global"}),
        ({"pruning_ratio": 0.4, "round_to": 4}, {"ratio": 0.4, "divisor": 4}),
    ],
    ids=["l2", "l1", "global", "multiples"],
)
def test_torch_pruning_cuts_resnet_56_likewise(options: dict[str, Any], own: dict[str, Any]) -> None:
    """The same numbers stay in every tensor: so the same layers were tied, and the same channels went."""
    graph = model("resnet_cifar", "resnet56_projected")
    net, after = theirs(graph, **options), prune(graph, **own).graph
    state = net.state_dict()
    for path, parameter in after.parameters.items():
        np.testing.assert_array_equal(value(parameter), state[path].numpy(), err_msg=path)
    assert cost(after).parameters == sum(p.numel() for p in net.parameters()) < 0.6 * 855_770
    with FlopCounterMode(display=False) as counter:
        net(torch.randn(1, 3, 32, 32))
    assert spent(after, "macs") == counter.get_total_flops() // 2
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(netc.Model("after", after).torch()(x), net.eval()(x))


def test_torch_pruning_finds_the_same_groups() -> None:
    """Layer by layer: what is tied to what, and on which side."""
    graph = model("resnet_cifar", "resnet56_projected")
    net = backend("pytorch").module(graph)
    for parameter in net.parameters():
        parameter.requires_grad_()
    found = torch_pruning.DependencyGraph().build_dependency(net, example_inputs=torch.randn(1, 3, 32, 32))
    names = {module: name for name, module in net.named_modules()}
    groups: set[frozenset[tuple[str, bool]]] = set()
    for group in found.get_all_groups(ignored_layers=[net.linear]):
        own = [(names.get(d.target.module, ""), d.is_out if hasattr(d, "is_out") else _out(d)) for d, _ in group]
        groups.add(frozenset((n, out) for n, out in own if n))
    ours: set[frozenset[tuple[str, bool]]] = set()
    for c in analyse(graph).classes:
        if c.cuttable:
            weights = [(str(p.ref)[1:].rpartition(".")[0], p.axis == 0) for p in c.places]
            ours.add(frozenset(weights))
    assert len(ours) == 30
    assert groups == ours


def _out(dependency: Any) -> bool:
    return "out_channels" in dependency.handler.__name__


# ---------------------------------------------------------------------------------------------------- what goes


def test_dead_units_go_first_and_nothing_changes() -> None:
    """In all three stages at once, whose channels the padded shortcuts tie."""
    graph = model("resnet_cifar", "resnet20")
    dead = [3, 7, 8, 12]
    a = analyse(graph)
    stem = a.of(ParameterRef("conv1.weight"), 0)[0][0]
    arrays: dict[str, np.ndarray] = {}
    for place in stem.places:
        path = str(place.ref)[1:]
        array = arrays.setdefault(path, numbers(graph, path).copy())
        units = (slice(None),) * place.axis + ([int(str(place.offset)) + d for d in dead],)
        if path.endswith(("weight", "bias", "mean")):
            array[units] = 0
    graph = changed(graph, arrays)
    after = prune(graph, at=["conv1", "*.conv2"], ratio=0.25).graph
    assert after.parameters["conv1.weight"].type.shape[0] == 12
    assert after.parameters["layer3.2.conv2.weight"].type.shape[0] == 60
    found = measure(graph, after, Contract())
    assert found.kept, found


def fused(heads: int = 4, width: int = 32) -> Graph:
    """A transformer block whose queries, keys and values are one layer."""
    text = f"""
    module Attention(heads) (x: [N, T, D]) -> [N, T, D] {{
        q, k, v = x |> linear(3 * D) as qkv |> rearrange("n t (three h d) -> three n h t d", three = 3, h = heads)
                    |> split([1, 1, 1], 0)
        y = scaled_dot_product_attention(q |> squeeze([0]), k |> squeeze([0]), v |> squeeze([0]))
        return y |> rearrange("n h t d -> n t (h d)") |> linear(D) as proj
    }}

    module Block(heads) (x: [N, T, D]) -> [N, T, D] {{
        x = x + (x |> layer_norm as norm1 |> Attention(heads) as attn)
        return x + (x |> layer_norm as norm2 |> linear(4 * D) as fc1 |> gelu |> linear(D) as fc2)
    }}

    model block = Block({heads}) (x: f32[N, 5, {width}])
    """
    return probed(netc.compiler.program.read_source(Source("block.net", text)).model("block").graph)


def test_fused_attention_is_cut_by_whole_heads() -> None:
    graph = fused()
    cut = prune(graph, at="attn", ratio=0.5)
    qkv = numbers(cut.graph, "attn.qkv.weight")
    assert qkv.shape == (3 * 2 * 8, 32)
    whole = numbers(graph, "attn.qkv.weight").reshape(3, 4, 8, 32)
    scores = Importance(graph, "l2").unit(_class_of(graph, "attn.qkv.weight", 0))
    assert scores is not None
    best = sorted(np.argsort(scores)[2:])
    np.testing.assert_array_equal(qkv.reshape(3, 2, 8, 32), whole[:, best])
    np.testing.assert_array_equal(
        numbers(cut.graph, "attn.proj.weight"),
        numbers(graph, "attn.proj.weight").reshape(32, 4, 8)[:, best].reshape(32, 16),
    )
    assert numbers(cut.graph, "fc1.weight").shape == (128, 32)
    assert cut.notes == ("attn.qkv: 4 heads of 8 → 2", "inputs and outputs keep their shapes")
    written(cut.graph)
    inside = prune(graph, at="attn", ratio=0.5, within=True).graph
    assert numbers(inside, "attn.qkv.weight").shape == (3 * 2 * 4, 32)
    written(inside)


def _class_of(graph: Graph, path: str, axis: int) -> Any:
    a = analyse(graph)
    return next(c for c, _ in a.of(ParameterRef(path), axis) if c.permutable)


def test_a_head_whose_output_is_not_read_is_cut_without_a_change() -> None:
    """It is the whole head that goes, in queries, keys and values: nothing of it is left in another."""
    graph = fused()
    proj, qkv = numbers(graph, "attn.proj.weight").copy(), numbers(graph, "attn.qkv.weight").copy()
    proj[:, 8:16] = 0
    qkv.reshape(3, 4, 8, 32)[:, 1] *= 1e-3
    graph = changed(graph, {"attn.proj.weight": proj, "attn.qkv.weight": qkv})
    assert measure(graph, prune(graph, at="*.qkv", ratio=0.25).graph, Contract()).kept
    assert not measure(graph, prune(graph, at="fc1", ratio=0.25).graph, Contract()).kept


def test_groups_go_whole() -> None:
    graph = probed(small(*next(p.values for p in MODELS if p.values[1] == "resnext50_32x4d")))
    after = prune(graph, at="layer1.0.conv1", ratio=0.5).graph
    assert after.parameters["layer1.0.conv2.weight"].type.shape == (16, 4, 3, 3)
    assert after.nodes["layer1.0.conv2"].op.groups == 4
    inside = prune(graph, at=["layer1.0.conv1", "layer1.0.conv2"], ratio=0.5, within=True).graph
    assert inside.parameters["layer1.0.conv2.weight"].type.shape == (8, 2, 3, 3)


def test_importance_is_averaged_over_places() -> None:
    b = Builder()
    x = b.input("x", "f32[2, 3]")
    y = b("linear", x, b.parameter("a.weight", (4, 3)), b.parameter("a.bias", (4,)), path="a")
    graph = probed(b.done(b("linear", b("relu", y), b.parameter("c.weight", (2, 4)), None, path="c")))
    own = _class_of(graph, "a.weight", 0)
    a, c = numbers(graph, "a.weight").astype(float), numbers(graph, "c.weight").astype(float)
    wanted = {"l2": (np.square(a).sum(1) + np.square(c).sum(0)) / 2, "l1": (abs(a).sum(1) + abs(c).sum(0)) / 2}
    for score, each in wanted.items():
        np.testing.assert_allclose(Importance(graph, score).unit(own), each)
    assert Importance(graph, "batch_norm").unit(own) is None
    given = np.zeros((4, 3))
    given[[1, 3]] = 1
    after = prune(graph, score={"a.weight": given}).graph
    np.testing.assert_array_equal(numbers(after, "a.weight"), numbers(graph, "a.weight")[[1, 3]])


def test_taylor_is_the_gradient_times_the_weight() -> None:
    graph = model("digits", "digits")
    x = NOISE.inputs(graph)["x"]
    net = netc.Model("digits", graph).torch()
    for parameter in net.parameters():
        parameter.requires_grad_()
    (net(torch.from_numpy(x)).square().sum() / len(x)).backward()
    found = Importance(graph, "taylor", NOISE)
    for path, parameter in net.named_parameters():
        if path.endswith("weight"):
            assert parameter.grad is not None
            wanted = (parameter * parameter.grad).abs().detach().numpy()
            np.testing.assert_allclose(found.numbers(path), wanted, rtol=1e-4, atol=1e-7)
    after = prune(graph, score="taylor", calibration=NOISE).graph
    written(after)
    assert any(
        not np.array_equal(value(p), value(prune(graph).graph.parameters[n])) for n, p in after.parameters.items()
    )


def test_taylor_is_that_of_torch_pruning() -> None:
    """Whose batch norms have no part in it: |w · ∂| is given here for convolutions alone."""
    graph = model("resnet_cifar", "resnet20")
    net = backend("pytorch").module(graph)
    for parameter in net.parameters():
        parameter.requires_grad_()
    x = torch.randn(4, 3, 32, 32)
    net(x).square().sum().backward()
    score = {
        n: (p * p.grad).abs().detach().numpy() for n, p in net.named_parameters() if p.grad is not None and p.ndim > 1
    }
    kinds = [torch.nn.Conv2d, torch.nn.Linear]
    theirs = torch_pruning.importance.GroupTaylorImportance(target_types=kinds)
    ignored = [m for n, m in net.named_modules() if n.endswith("conv2") or n in ("conv1", "linear")]
    torch_pruning.pruner.BasePruner(net, x[:1], theirs, pruning_ratio=0.5, ignored_layers=ignored).step()
    after = prune(graph, at="*.conv1", ratio=0.5, score=score).graph
    state = net.state_dict()
    for path in after.parameters:
        np.testing.assert_array_equal(numbers(after, path), state[path].detach().numpy(), err_msg=path)


def test_gains_of_batch_norms() -> None:
    graph = model("resnet_cifar", "resnet20")
    after = prune(graph, at="layer1.0.conv1", ratio=0.5, score="batch_norm").graph
    gain = numbers(graph, "layer1.0.bn1.weight")
    kept = np.sort(np.argsort(abs(gain))[8:])
    np.testing.assert_array_equal(numbers(after, "layer1.0.bn1.weight"), gain[kept])
    with pytest.raises(Refusal, match="nothing that can be cut has a score"):
        prune(model("digits", "digits"), score="batch_norm")


def test_one_ranking_of_all() -> None:
    graph = model("resnet_cifar", "resnet56_projected")
    after = prune(graph, ratio=0.7, scope="global").graph
    sizes = [c.size for c in analyse(graph).classes if c.permutable]
    left = [after.type(c.places[0].ref).shape[c.places[0].axis] for c in analyse(graph).classes if c.permutable]
    assert sum(map(int, map(str, left))) == int(sum(map(int, map(str, sizes))) * 0.3)
    assert min(map(int, map(str, left))) >= 1
    assert len({int(str(a)) / int(str(b)) for a, b in zip(left, sizes, strict=True)}) > 5


def test_what_has_no_numbers_is_drawn() -> None:
    graph = program(ROOT / "specs/digits.net").model("digits").graph
    a, b, c = (prune(graph, seed=seed).graph for seed in (0, 0, 1))
    path = "conv2.weight"
    np.testing.assert_array_equal(numbers(a, path), numbers(b, path))
    assert not np.array_equal(numbers(a, path), numbers(c, path))
    rows = {r.tobytes() for r in value(graph.parameters["conv1.weight"])}
    assert {r.tobytes() for r in numbers(a, "conv1.weight")} < rows


# ---------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("scope", ["uniform", "global"])
@pytest.mark.parametrize(("quantity", "share"), [("macs", 0.5), ("parameters", 0.3), ("activations", 0.6)])
def test_a_limit_is_met_by_as_little_as_can_be(scope: Any, quantity: str, share: float) -> None:
    graph = model("resnet_cifar", "resnet20")
    limit = int(share * spent(graph, quantity))
    after = prune(graph, limit=Limit(quantity, "<=", limit), scope=scope).graph
    found = spent(after, quantity)
    assert found <= limit
    every = {spent(prune(graph, ratio=r, scope=scope).graph, quantity) for r in np.linspace(0.1, 0.9, 9)}
    assert max(c for c in every if c <= limit) <= found
    written(after)


def test_limits_out_of_reach_and_met() -> None:
    graph = model("digits", "digits")
    with pytest.raises(Refusal, match="macs <= 100 is out of reach") as caught:
        prune(graph, limit=Limit("macs", "<=", 100))
    least = spent(prune(graph, ratio=0.999).graph, "macs")
    assert caught.value.notes == (f"with one unit left of each dimension, macs = {least:_}",)
    with pytest.raises(Refusal, match="holds already: macs = 315_904"):
        prune(graph, limit=Limit("macs", "<=", 1e6))
    with pytest.raises(Refusal, match="is no upper limit"):
        prune(graph, limit=Limit("macs", ">=", 1e5))
    with pytest.raises(Refusal, match="there is no limit of mac"):
        prune(graph, limit=Limit("mac", "<=", 1e5))


def test_sizes_are_multiples() -> None:
    after = prune(model("resnet_cifar", "resnet56_projected"), ratio=0.3, divisor=8).graph
    assert {n.op.name for n in after.nodes.values()} >= {"conv2d"}
    assert {p.type.shape[0] for p in after.parameters.values() if p.type.rank == 4} == {8, 16, 40}
    heads = prune(fused(), at="attn", ratio=0.5, divisor=16).graph
    assert numbers(heads, "attn.qkv.weight").shape == (48, 32)


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message", "nodes"),
    [
        ({"at": "linear"}, "nothing there can be cut", ()),
        ({"at": "layer1.0.conv2"}, "9 other layers make the same 16 units", ("conv1", "layer1.1.conv2")),
        ({"at": "layr1"}, 'no layer matches "layr1"', ()),
        ({"ratio": 1.5}, "a ratio of 1.5 is not between 0 and 1", ()),
        ({"at": "layer1.0.conv1", "divisor": 16}, "no unit goes at a ratio of 0.5", ()),
        ({"ratio": 0.5, "limit": Limit("macs", "<=", 1)}, "give a ratio or a limit", ()),
        ({"divisor": 0}, "a divisor of 0", ()),
        ({"score": {"conv.weight": np.ones(3)}}, "a score is given for conv.weight", ()),
        ({"score": {"conv1.weight": np.ones(3)}}, r"the score of conv1.weight is \[3\]", ("conv1.weight",)),
    ],
)
def test_refusals(options: dict[str, Any], message: str, nodes: tuple[str, ...]) -> None:
    with pytest.raises(Refusal, match=message) as caught:
        prune(model("resnet_cifar", "resnet56_projected"), **options)
    assert caught.value.nodes[:2] == nodes


def test_an_output_says_why_it_stays() -> None:
    with pytest.raises(Refusal) as caught:
        prune(model("resnet_cifar", "resnet56_projected"), at="linear")
    assert any("it is an axis of the output logits" in note for note in caught.value.notes)


# ---------------------------------------------------------------------------------------------------- every spec


@pytest.mark.parametrize(
    ("path", "name"),
    [p if p.values[1] in QUICK else pytest.param(*p.values, id=p.id, marks=pytest.mark.slow) for p in MODELS],
)
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_every_spec_is_pruned_written_and_read(path: Path, name: str, ratio: float, tmp_path: Path) -> None:
    graph = small(path, name)
    if name == "perceptron":  # all of its layers are as wide as its input
        with pytest.raises(Refusal, match="nothing there can be cut"):
            prune(graph, ratio=ratio)
        return
    found = prune(graph, ratio=ratio)
    assert measure(graph, found.graph, found.contract, probes=1).kept
    assert found.contract == Contract("alters")
    written(found.graph)
    assert spent(found.graph, "parameters") < spent(graph, "parameters")
    code, data = backend("pytorch").export(found.graph, tmp_path)
    again, net = loaded(code).load(data), netc.Model(name, found.graph).torch()
    assert all(torch.equal(t, net.state_dict()[path]) for path, t in again.state_dict().items())
    given = [torch.from_numpy(x) for x in inputs(bound(found.graph)).values()]
    with torch.no_grad():
        pairs = (v if isinstance(v, tuple) else (v,) for v in (again(*given), net(*given)))
    for x, y in zip(*pairs, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4 * float(y.abs().max()))


# ---------------------------------------------------------------------------------------------------- blocks


def spec(name: str) -> Graph:
    return probed(small(*next(p.values for p in MODELS if p.values[1] == name)))


def test_blocks_and_branches_go() -> None:
    graph = spec("gpt2")
    for at in ("h.1", "h.1.attn", "h.*.mlp", "h"):
        found = drop(graph, at)
        written(found.graph)
        gone = {path for path in graph.parameters if matches(path, at) or (at == "h.*.mlp" and ".ln_2." in path)}
        gone |= {path for path in graph.parameters if at == "h.1.attn" and path.startswith("h.1.ln_1.")}
        assert set(graph.parameters) - set(found.graph.parameters) == gone
        assert not any(matches(path, at) for path in (*found.graph.nodes, *found.graph.scopes))


@pytest.mark.parametrize(
    ("name", "at", "last"), [("gpt2", "h.0.mlp", "h.0.mlp.c_proj"), ("resnet18", "layer1.0", "layer1.0.bn2")]
)
def test_without_a_branch_is_as_if_it_gave_zeros(name: str, at: str, last: str) -> None:
    graph = spec(name)
    after = without(graph, [b for b in branches(graph) if b.path == at])
    zeros = {p: np.zeros_like(numbers(graph, p)) for p in (f"{last}.weight", f"{last}.bias")}
    found = measure(changed(graph, zeros), after, Contract())
    assert found.kept, found
    assert not measure(graph, after, Contract()).kept


def test_what_does_least_goes_first() -> None:
    """Of a branch that adds nothing what goes in comes out; it is as similar as can be, and is not missed."""
    graph = spec("gpt2")
    names = ("h.1.attn.c_proj.weight", "h.1.attn.c_proj.bias")
    graph = changed(graph, {p: np.zeros_like(numbers(graph, p)) for p in names})
    for score in ("similarity", "output"):
        found = drop(graph, "branches", by=1, score=score, samples=2)
        assert found.notes[0].startswith("h.1.attn is gone (score ")
        assert abs(float(found.notes[0].split()[-1][:-1])) < 1e-6
        assert measure(graph, found.graph, Contract()).kept


def test_similarity_is_the_mean_cosine_of_positions() -> None:
    graph = spec("llama_micro")
    given = NOISE.inputs(graph)
    net = netc.Model("m", graph).torch()
    seen: dict[str, torch.Tensor] = {}
    net.layers[0].register_forward_hook(lambda _m, x, y: seen.update(x=x[0], y=y))
    with torch.no_grad():
        net(*map(torch.from_numpy, given.values()))
    wanted = 1 - torch.cosine_similarity(seen["x"], seen["y"], dim=-1).mean()
    (block, *_) = blocks(graph)
    found = _Scores(graph, [block], "similarity", NOISE, None)
    assert found.each["layers.0"] == pytest.approx(float(wanted), abs=1e-6)
    angle = torch.acos(torch.cosine_similarity(seen["x"].double(), seen["y"].double(), dim=-1)).mean() / torch.pi
    assert found.of([[block]])[0] == pytest.approx(float(angle), abs=1e-5)


def test_the_score_of_outputs_is_their_change() -> None:
    graph = spec("resnet34")
    parts = [b for b in blocks(graph) if b.path in ("layer1.0", "layer1.1")]
    found = _Scores(graph, parts, "output", NOISE, 3).each
    x = NOISE.inputs(graph, 3)
    whole = backend("pytorch").Interpreter(bound(graph, {"N": 3}))(x)["logits"]
    for part in parts:
        other = backend("pytorch").Interpreter(bound(without(graph, [part]), {"N": 3}))(x)["logits"]
        wanted = ((other - whole) ** 2).sum() / (whole**2).sum()
        assert found[part.path] == pytest.approx(wanted, rel=1e-4)


def test_a_run_of_neighbours() -> None:
    graph = model("resnet_cifar", "resnet56")
    scores = {b.path: float(s) for b, s in zip(blocks(graph), np.random.default_rng(0).random(27), strict=True)}
    found = drop(graph, by=3, method="contiguous", score=scores)
    runs = [[f"layer{i}.{j + k}" for k in range(3)] for i in (1, 2, 3) for j in range(i > 1, 7)]
    best = min(runs, key=lambda run: sum(scores[p] for p in run))
    assert [n.split()[0] for n in found.notes[:3]] == best
    measured = drop(spec("gpt2"), by=1, method="contiguous", samples=2)
    assert measured.notes[0].split()[0] in ("h.0", "h.1")
    with pytest.raises(Refusal, match="no 12 of them follow each other"):
        drop(graph, by=12, method="contiguous", score=scores)


def test_the_knapsack_is_that_of_brute_force() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        count = int(rng.integers(1, 10))
        saved = [int(s) for s in rng.integers(0, 20, count)]
        scores = [float(s) for s in rng.normal(0.4, 0.5, count)]
        least = int(rng.integers(1, 100))
        found = knapsack(saved, scores, least)
        sets = [c for n in range(count + 1) for c in combinations(range(count), n) if sum(saved[i] for i in c) >= least]
        assert (found is None) == (not sets)
        if found is not None:
            assert sum(saved[i] for i in found) >= least
            wanted = min(sum(scores[i] for i in c) for c in sets)
            assert sum(scores[i] for i in found) == pytest.approx(wanted)


@pytest.mark.parametrize("quantity", ["macs", "parameters"])
def test_a_limit_by_knapsack_and_by_rank(quantity: str) -> None:
    """Parameters of ResNet-20 lie in its last stage, operations in all alike: what goes is another choice."""
    graph = model("resnet_cifar", "resnet20")
    parts = [b for b in blocks(graph) if graph.type(b.input) == graph.type(b.output)]
    scores = {b.path: float(s) for b, s in zip(parts, np.random.default_rng(1).random(7), strict=True)}
    limit = Limit(quantity, "<=", 0.6 * spent(graph, quantity))
    found = drop(graph, limit=limit, method="knapsack", score=scores)
    gone = [n.split()[0] for n in found.notes[:-1]]
    assert spent(found.graph, quantity) <= limit.value
    fits = [c for n in range(8) for c in combinations(parts, n) if spent(without(graph, c), quantity) <= limit.value]
    wanted = min(sum(scores[b.path] for b in c) for c in fits)
    assert sum(scores[p] for p in gone) == pytest.approx(wanted)
    ranked = drop(graph, limit=limit, score=scores)
    names = [n.split()[0] for n in ranked.notes[:-1]]
    assert sorted(scores, key=lambda p: scores[p])[: len(names)] == sorted(names, key=lambda p: scores[p])
    assert spent(ranked.graph, quantity) <= limit.value
    assert sum(scores[p] for p in names) >= wanted


def test_a_block_that_is_called_again() -> None:
    """One of several calls of one instance goes, and the parameters stay."""
    graph = spec("perceptron")
    for at in ("mix", "mix~1"):
        after = drop(graph, at).graph
        assert set(graph.parameters) - set(after.parameters) == {
            f"norm{int(at == 'mix~1')}.{p}" for p in ("weight", "bias")
        }
        written(after)
        netc.Model("m", after).torch()
    with pytest.raises(Refusal, match="no sum over these parts"):
        drop(graph, "branches", limit=Limit("parameters", "<", 1000), method="knapsack", samples=2)


@pytest.mark.parametrize(
    ("name", "at", "options", "message", "nodes"),
    [
        ("resnet34", "blocks", {}, "how many blocks are to go", ()),
        ("resnet34", "layer*", {}, "nothing else can stand in their place", ("layer2.0",)),
        ("resnet34", "blocks", {"by": 4}, "4 cannot go: there are 3 that can", ("layer2.0",)),
        ("resnet34", "blocks", {"by": 1, "limit": Limit("macs", "<", 1)}, "a number or a limit", ()),
        ("resnet34", "blocks", {"by": 1, "method": "knapsack"}, "a knapsack wants a limit", ()),
        ("resnet34", "blocks", {"by": 1, "score": {"layer1.0": 1.0}}, "there is no score for some", ("layer1.1",)),
        ("resnet34", "blocks", {"limit": Limit("macs", "<", 1000), "samples": 1}, "macs < 1_000 is out of reach", ()),
        ("resnet34", "blocks", {"limit": Limit("macs", "<", 1e12)}, "holds already", ()),
        ("resnet34", "layr", {}, 'no block matches "layr"', ()),
        ("vovnet39a", "branches", {"by": 1}, "there are no branches", ()),
        ("densenet121", "blocks", {"by": 1}, "nothing else can stand in their place", ("features.denseblock1",)),
        ("widenet_digits_2", "moe", {}, "nothing else can stand in their place", ("moe",)),
    ],
)
def test_what_cannot_go(name: str, at: str, options: dict[str, Any], message: str, nodes: tuple[str, ...]) -> None:
    with pytest.raises(Refusal, match=message) as caught:
        drop(spec(name), at, **options)
    assert caught.value.nodes[:1] == nodes


# ---------------------------------------------------------------------------------------------------- single numbers


def groups_of(mask: np.ndarray, length: int, axis: int) -> np.ndarray:
    """How many stay in each group along an axis, by slices."""
    return sum(np.take(mask, range(i, mask.shape[axis], length), axis).astype(int) for i in range(length))


def test_two_of_four_stay_along_the_inputs() -> None:
    graph = spec("gpt2")
    found = sparsify(graph, pattern="2:4")
    masks = {path: numbers(found.graph, path) for path in found.graph.parameters if path.endswith("mask")}
    assert len(masks) == 9
    for path, mask in masks.items():
        weight = numbers(graph, path.replace("mask", "weight"))
        assert (groups_of(mask, 4, 1) == 2).all()
        quads = np.abs(weight).reshape(len(weight), -1, 4)
        hidden = np.where(mask.reshape(quads.shape), -1, quads).max(-1)
        assert (hidden <= np.where(mask.reshape(quads.shape), quads, 9).min(-1)).all()
        np.testing.assert_array_equal(numbers(found.graph, path.replace("mask", "weight")), weight)
    written(found.graph)
    dense = {p.replace("mask", "weight"): numbers(graph, p.replace("mask", "weight")) * m for p, m in masks.items()}
    measured = measure(changed(graph, dense), found.graph, Contract())
    assert measured.kept, measured


def test_patterns_of_convolutions() -> None:
    graph = spec("resnet18")
    found = sparsify(graph, pattern="1:4")
    mask = numbers(found.graph, "layer1.0.conv1.mask")
    assert mask.shape == (16, 16, 3, 3)
    assert (groups_of(mask, 4, 1) == 1).all()
    assert "conv1.weight stays whole: it has 3 inputs" in found.notes
    written(found.graph)
    with pytest.raises(Refusal, match="1:4 does not fit all weights") as caught:
        sparsify(graph, ["conv1", "layer1"], pattern="1:4")
    assert caught.value.nodes == ("conv1.weight",)
    transposed = spec("unet")
    (path, *_) = [n.path for n in transposed.nodes.values() if n.op.name == "conv_transpose2d"]
    mask = numbers(sparsify(transposed, path, pattern="2:4").graph, f"{path}.mask")
    assert (groups_of(mask, 4, 0) == 2).all()


@pytest.mark.parametrize("scope", ["uniform", "row", "global"])
def test_shares_of_zeros(scope: Any) -> None:
    graph = spec("gpt2")
    masks: dict[float, dict[str, np.ndarray]] = {}
    for ratio in (0.5, 0.8):
        after = sparsify(graph, ratio=ratio, scope=scope).graph
        masks[ratio] = {path: numbers(after, path) for path in after.parameters if path.endswith("mask")}
        total = sum(m.size for m in masks[ratio].values())
        left = sum(int(m.sum()) for m in masks[ratio].values())
        assert left == pytest.approx((1 - ratio) * total, rel=0.05)
        for mask in masks[ratio].values():
            rows = {int(n) for n in mask.reshape(len(mask), -1).sum(1)}
            assert len(rows) == 1 if scope == "row" else len(rows) > 1 or scope == "global"
    assert all((b <= a).all() and (b != a).any() for a, b in zip(masks[0.5].values(), masks[0.8].values(), strict=True))
    if scope == "global":
        assert len({round(float(m.mean()), 3) for m in masks[0.5].values()}) > 1


def test_the_mask_is_folded_exactly_and_kept_in_training() -> None:
    graph = model("digits", "digits")
    after = sparsify(graph, ratio=0.7).graph
    folded = netc.Model("digits", after).optimised(2).graph
    for path in ("conv1", "conv2", "fc"):
        wanted = numbers(graph, f"{path}.weight") * numbers(after, f"{path}.mask")
        np.testing.assert_array_equal(numbers(folded, f"{path}.weight"), wanted)
    assert not any("mask" in path for path in folded.parameters)
    net = netc.Model("digits", after).torch().train()
    optimiser = torch.optim.SGD(net.parameters(), 0.1, weight_decay=0.1)
    net(torch.randn(8, 1, 8, 8)).square().sum().backward()
    optimiser.step()
    state = {path: t.numpy() for path, t in net.state_dict().items()}
    trained = changed(after, {path: state[path].astype(p.type.dtype.as_numpy) for path, p in after.parameters.items()})
    assert not np.array_equal(numbers(trained, "fc.weight"), numbers(graph, "fc.weight"))
    np.testing.assert_array_equal(numbers(trained, "fc.mask"), numbers(after, "fc.mask"))
    effective = numbers(netc.Model("digits", trained).optimised(2).graph, "fc.weight")
    assert (effective == 0).mean() == pytest.approx(0.7, abs=0.01)


def test_a_tied_weight_has_one_mask() -> None:
    graph = spec("llama_micro_tied")
    after = sparsify(graph, "embed_tokens", ratio=0.5).graph
    assert [path for path in after.parameters if path.endswith("mask")] == ["embed_tokens.mask"]
    readers = [n.op.name for n in after.users[after.nodes["embed_tokens.masked"].value]]
    assert sorted(readers) == ["embedding", "linear"]
    written(after)


def test_given_scores_and_gradients_of_numbers() -> None:
    graph = model("digits", "digits")
    given = np.arange(32 * 9.0).reshape(32, 1, 3, 3)
    after = sparsify(graph, "conv1", ratio=0.25, score={"conv1.weight": given}).graph
    np.testing.assert_array_equal(numbers(after, "conv1.mask"), given >= 72)
    taylor = sparsify(graph, "fc", score="taylor", calibration=NOISE).graph
    wanted = Importance(graph, "taylor", NOISE).numbers("fc.weight")
    assert wanted is not None
    np.testing.assert_array_equal(numbers(taylor, "fc.mask"), wanted > np.median(wanted))


def test_masks_go_to_onnx(tmp_path: Path) -> None:
    after = sparsify(model("digits", "digits"), pattern="1:2", at="conv2").graph
    (path, *_) = backend("onnx").export(after, tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype("f")
    (found,) = onnxruntime.InferenceSession(path).run(None, {"x": x})
    with torch.no_grad():
        wanted = netc.Model("m", after).torch()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "4:2"}, '"4:2" is no pattern'),
        ({"pattern": "2-4"}, '"2-4" is no pattern'),
        ({"pattern": "2:4", "ratio": 0.5}, "give a ratio or a pattern"),
        ({"ratio": 1.0}, "a ratio of 1 is not between 0 and 1"),
        ({"ratio": 1e-9}, "no number goes"),
        ({"at": "conv3"}, 'no layer weight matches "conv3"'),
        ({"score": {"fc.weight": np.ones((10, 256))}}, "there is no score for conv1.weight"),
    ],
)
def test_masks_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal, match=message):
        sparsify(model("digits", "digits"), **options)


# ---------------------------------------------------------------------------------------------------- everywhere


def removable(graph: Graph, at: str) -> bool:
    """Whether any block or branch gives the shape that it gets, and keeps its inside to itself."""
    for part in blocks(graph) if at == "blocks" else branches(graph):
        inside = {v for path in part.nodes for v in graph.nodes[path].values} - {part.output}
        readers = {u.path for v in inside for u in graph.users.get(v, ())}
        shown = inside & {*graph.outputs.values(), *graph.taps.values()}
        if graph.type(part.input) == graph.type(part.output) and readers <= set(part.nodes) and not shown:
            return True
    return False


@pytest.mark.parametrize(
    ("path", "name"),
    [p if p.values[1] in QUICK else pytest.param(*p.values, id=p.id, marks=pytest.mark.slow) for p in MODELS],
)
def test_every_spec_with_a_block_less_and_with_masks(path: Path, name: str) -> None:
    graph = small(path, name)
    sparse = sparsify(graph, ratio=0.5)
    written(sparse.graph)
    folded = netc.Model(name, sparse.graph).optimised(2).graph
    assert not any(p.endswith("mask") for p in folded.parameters)
    assert measure(sparse.graph, folded, Contract(), probes=1).kept
    for at in ("blocks", "branches"):
        if not removable(graph, at):
            with pytest.raises(Refusal, match=r"nothing else can stand|it adds nothing"):
                drop(graph, at, by=1)
            continue
        found = drop(graph, at, by=1, samples=2)
        written(found.graph)
        netc.Model(name, found.graph).torch()
        assert spent(found.graph, "macs") < spent(graph, "macs")


def test_what_was_cut_goes_to_onnx(tmp_path: Path) -> None:
    graph = drop(prune(spec("swin_tiny")).graph, "layers.0.blocks.1").graph
    (path, *_) = backend("onnx").export(graph, tmp_path / "m.onnx")
    given = inputs(bound(graph))
    (found,) = onnxruntime.InferenceSession(path).run(None, given)
    with torch.no_grad():
        wanted = netc.Model("m", graph).torch()(*map(torch.from_numpy, given.values())).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_in_the_language(tmp_path: Path) -> None:
    shutil.copy(ROOT / "specs" / "resnet_cifar.net", tmp_path)
    text = """
    import "resnet_cifar.net" { resnet56_projected, resnet20 }

    data some = noise(samples = 4)

    model lean = resnet56_projected |> prune(ratio = 0.3, score = l2)
    model small = resnet20 |> prune(limit = macs <= 20 M, scope = global, score = taylor, calibration = some)
    model short = resnet20 |> drop(limit = macs <= 30 M, method = knapsack, calibration = some)
    model sparse = resnet20 |> sparsify(["layer2", "layer3"], pattern = "2:4")
    """
    (tmp_path / "transformed.net").write_text(text)
    read = netc.load(tmp_path / "transformed.net")
    lean, small_, short, sparse = (read.model(name).graph for name in ("lean", "small", "short", "sparse"))
    assert (spent(lean, "macs"), spent(lean, "parameters")) == (59_530_680, 405_635)
    assert 19e6 < spent(small_, "macs") <= 20e6
    assert spent(short, "macs") <= 30e6
    assert sum(path.endswith("mask") for path in sparse.parameters) == 12
