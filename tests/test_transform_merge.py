"""Merging: the numbers of mergekit, models brought back from permutations, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import netc
import numpy as np
import pytest
import torch
from mergekit.merge_methods import merge_tensors
from netc.compiler import calibration
from netc.compiler.axes import Selection, analyse
from netc.compiler.calibration import Calibration, Noise
from netc.compiler.contract import Contract
from netc.compiler.graph import Graph, Node, verify
from netc.compiler.measure import measure
from netc.compiler.merging import depth, least_squares
from netc.compiler.probe import probed
from netc.compiler.program import read_source
from netc.compiler.source import Source
from netc.compiler.transforms.align import align
from netc.compiler.transforms.average import Average, Slerp
from netc.compiler.transforms.balance_depth import balanced
from netc.compiler.transforms.deepen import deepen
from netc.compiler.transforms.fold_weights import fold_weights
from netc.compiler.transforms.least_squares import LeastSquares
from netc.compiler.transforms.lora import lora
from netc.compiler.transforms.match_units import ActivationMatching, Transport, WeightMatching
from netc.compiler.transforms.merge import Method, merge
from netc.compiler.transforms.pleas import Pleas
from netc.compiler.transforms.recompute_statistics import recompute_statistics
from netc.compiler.transforms.register import Refusal
from netc.compiler.transforms.task_arithmetic import DareLinear, DareTies, TaskArithmetic, Ties, mask_seed
from netc.compiler.weights import InMemory, value, values
from sklearn.datasets import load_digits

NOISE = Calibration("noise", Noise())
SLOW = pytest.mark.slow
SPECS = Path(__file__).parents[1] / "specs"


@cache
def plain(file: str, name: str) -> Graph:
    return netc.load(SPECS / f"{file}.net").model(name).graph


def drawn(file: str, name: str, seed: int = 0) -> Graph:
    return probed(plain(file, name), seed)


def tuned(graph: Graph, seed: int) -> Graph:
    """The model a little way from where it was, as after some training."""
    rng = np.random.default_rng(seed)
    arrays = {p.path: value(p) for p in graph.parameters.values()}
    moved = {n: (a + 0.1 * a.std() * rng.standard_normal(a.shape)).astype(a.dtype) for n, a in arrays.items()}
    return graph.with_parameters(replace(graph.parameters[n], data=InMemory(a)) for n, a in moved.items())


# ------------------------------------------------------------------------------------------------------- mergekit


LLAMA = "llama_micro_tied"

METHODS: list[tuple[str, Any, dict[str, Any]]] = [
    ("linear", lambda _: Average([0.3, 0.9, 0.2]), {"weight": [0.3, 0.9, 0.2]}),
    ("slerp", lambda _: Slerp(0.3), {"t": 0.3}),
    ("task_arithmetic", lambda b: TaskArithmetic(b, [0.5, 1.0, 0.7], 0.8), {"weight": [0.5, 1.0, 0.7], "lambda": 0.8}),
    ("ties", lambda b: Ties(b, [0.5, 1.0, 0.7], density=0.3), {"weight": [0.5, 1.0, 0.7], "density": 0.3}),
    ("ties", lambda b: Ties(b, scale=0.7), {"weight": 1.0, "density": 0.5, "lambda": 0.7}),
    ("dare_linear", lambda b: DareLinear(b, [0.5, 1.0, 0.7], density=0.4), {"weight": [0.5, 1, 0.7], "density": 0.4}),
    ("dare_ties", lambda b: DareTies(b, density=0.6), {"weight": 1.0, "density": 0.6}),
]


@pytest.mark.parametrize(("name", "method", "options"), METHODS, ids=[f"{i}-{m[0]}" for i, m in enumerate(METHODS)])
def test_the_tensors_are_those_of_mergekit(name: str, method: Any, options: dict[str, Any]) -> None:
    base = drawn("llama", LLAMA)
    models = [tuned(base, seed) for seed in ((1, 2) if name == "slerp" else (1, 2, 3))]
    merged = merge(*models, method=method(base), seed=5)
    verify(merged.graph)
    based = name not in ("linear", "slerp")
    for path, array in values(merged.graph).items():
        given = [torch.from_numpy(value(m.parameters[path])) for m in ([base, *models] if based else models)]
        torch.manual_seed(mask_seed(path, 5))
        index = 0 if based or name == "slerp" else None
        theirs = merge_tensors(given, name, parameters=options, base_index=index)
        np.testing.assert_allclose(array, theirs.numpy(), rtol=2e-6, atol=2e-7, err_msg=path)
        assert not np.allclose(array, given[0].numpy())


def test_what_adds_differences_says_that_statistics_are_added_too() -> None:
    for file, name, told in (("resnet", "resnet18", True), ("llama", LLAMA, False)):
        base = plain(file, name)
        outcome = merge(base, base, method=TaskArithmetic(base))
        assert any("recompute_statistics" in note for note in outcome.notes) == told


# --------------------------------------------------------------------------------------------------- permuted copies


def permuted(graph: Graph, seed: int = 1) -> Graph:
    """The same function with the units of every permutable class in a random order."""
    analysis = analyse(graph)
    rng = np.random.default_rng(seed)
    orders = {c: rng.permutation(int(str(c.size))) for c in analysis.classes if c.permutable}
    assert orders
    assert all((o != np.arange(len(o))).any() or len(o) < 4 for o in orders.values())
    return Selection(analysis, orders).graph()


def same_numbers(a: Graph, b: Graph, tolerance: float = 0.0) -> None:
    there = values(b)
    worst = {path: np.abs(array - there[path]).max() for path, array in values(a).items()}
    assert max(worst.values()) <= tolerance, worst


COPIES = [("llama", "llama_micro_tied"), ("resnet", "resnet18"), ("vit", "deit_tiny")]


@pytest.mark.parametrize("method", [WeightMatching(), Transport()], ids=["weights", "transport"])
@pytest.mark.parametrize(("file", "name"), COPIES, ids=[name for _, name in COPIES])
def test_a_permuted_copy_is_brought_back_exactly(file: str, name: str, method: Method) -> None:
    model = drawn(file, name)
    copy = permuted(model)
    assert np.abs(np.subtract(*(next(iter(values(m).values())) for m in (model, copy)))).max() > 0.1
    same_numbers(merge(model, copy, method=method).graph, model)


@pytest.mark.parametrize(
    "method",
    [
        ActivationMatching(calibration=NOISE, samples=16),
        Transport(calibration=NOISE, samples=16),
        Transport(regularization=1e-3),
    ],
    ids=["activations", "transport-activations", "transport-soft"],
)
@pytest.mark.parametrize(
    ("file", "name"), [("llama", "llama_micro_tied"), ("digits", "digits"), pytest.param(*COPIES[1], marks=SLOW)]
)
def test_activations_and_soft_plans_bring_back_a_copy_too(file: str, name: str, method: Method) -> None:
    model = drawn(file, name)
    same_numbers(merge(model, permuted(model), method=method).graph, model)


def test_three_copies_are_brought_back_at_once() -> None:
    model = drawn("llama", "llama_micro_tied")
    merged = merge(model, permuted(model), permuted(model, 2), method=WeightMatching([0.5, 0.25, 0.25]))
    same_numbers(merged.graph, model)


def test_align_keeps_the_function_and_takes_the_other_models_order() -> None:
    model = drawn("llama", "llama_micro_tied")
    copy = tuned(permuted(model), 3)
    aligned = align(copy, model)
    assert measure(copy, aligned.graph, aligned.contract, probes=1).kept
    near, far = (distance(model, m) for m in (aligned.graph, copy))
    assert near < far / 4
    same_numbers(align(permuted(model), model).graph, model)


def distance(a: Graph, b: Graph) -> float:
    there = values(b)
    return sum(float(np.square(array - there[path]).sum()) for path, array in values(a).items())


# ---------------------------------------------------------------------------------------------------- trained models


MLP = """
module Mlp(h) (x: [N, 64]) -> [N, 10] {
    return logits = x |> linear(h) as fc1 |> relu |> linear(h) as fc2 |> relu |> linear(10) as fc3
}
model mlp = Mlp(128) (x: f32[N, 64])
model narrow = Mlp(96) (x: f32[N, 64])
"""


@cache
def digits() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.data))
    x, y = torch.tensor(found.data[order] / 16, dtype=torch.float32), torch.tensor(found.target[order])
    x = x - x[:1437].mean(0)
    return (x[:1437], y[:1437]), (x[1437:], y[1437:])


@cache
def trained(name: str, seed: int) -> Graph:
    """A perceptron trained from He et al.'s initial weights, by Adam, for 20 epochs."""
    graph = read_source(Source("mlp.net", MLP)).model(name).graph
    random = torch.Generator().manual_seed(seed)
    net: Any = netc.Model(name, graph).torch()
    for p in net.parameters():
        scale = (2 / p.shape[1]) ** 0.5 if p.ndim > 1 else 0
        p.data = torch.empty_like(p).normal_(generator=random) * scale
    step = torch.optim.Adam(net.parameters(), 3e-3, weight_decay=1e-4)
    (x, y), _ = digits()
    for _ in range(20):
        for i in torch.randperm(len(x), generator=random).split(64):
            step.zero_grad()
            torch.nn.functional.cross_entropy(net(x[i]), y[i]).backward()
            step.step()
    arrays = {n: t.detach().numpy() for n, t in net.state_dict().items()}
    return graph.with_parameters(replace(graph.parameters[n], data=InMemory(a)) for n, a in arrays.items())


def accuracy(graph: Graph) -> float:
    _, (x, y) = digits()
    net: Any = netc.Model(graph.name, graph).torch().eval()
    with torch.no_grad():
        return float((net(x).argmax(1) == y).float().mean())


def test_two_trained_perceptrons_become_one() -> None:
    """Of 128 hidden units; from other seeds, so that a mean of the weights as they are is a mean of strangers."""
    models = [trained("mlp", seed) for seed in (1, 2)]
    assert min(map(accuracy, models)) > 0.97
    assert accuracy(merge(*models).graph) < 0.9
    for method in (WeightMatching(), ActivationMatching(calibration=examples()), Transport()):
        assert accuracy(merge(*models, method=method).graph) > 0.96, method


def test_a_narrower_model_is_merged_into_a_wider_one() -> None:
    wide, narrow = trained("mlp", 1), trained("narrow", 2)
    merged = merge(wide, narrow, method=Transport()).graph
    assert {p: t.type for p, t in merged.parameters.items()} == {p: t.type for p, t in wide.parameters.items()}
    alone = merge(wide, narrow, method=Transport([1e-6, 1.0])).graph
    assert accuracy(alone) > 0.97  # units of the narrow one, shared out among 128
    assert accuracy(merged) > 0.9
    with pytest.raises(Refusal, match="another architecture"):
        merge(wide, narrow, method=WeightMatching())


class Held(calibration.Source):
    """Examples that are at hand."""

    array: Any

    def read(self, node: Node, folder: Any, count: int) -> np.ndarray:
        return self.array[:count]


def examples() -> Calibration:
    (x, _), _ = digits()
    return Calibration("digits", Held(array=x.numpy()))


# ----------------------------------------------------------------------------------------------------- least squares


def some(start: int, count: int) -> Calibration:
    (x, _), _ = digits()
    return Calibration(f"digits {start}", Held(array=x[start : start + count].numpy()))


def adapted(base: Graph, seed: int) -> Graph:
    """The model with low-rank updates, as if those were trained."""
    graph = lora(base, rank=4).graph
    rng = np.random.default_rng(seed)
    new = (p for p in graph.parameters.values() if ".lora_" in p.path)
    return graph.with_parameters(
        replace(p, data=InMemory((0.2 * rng.standard_normal(p.type.shape)).astype("f4"))) for p in new
    )


def test_layers_give_what_they_gave_in_each_model() -> None:
    """Of 64 inputs and 15 + 15 examples: one weight gives both models' outputs, and the mean of weights does not."""
    base = trained("mlp", 1)
    models = [fold_weights(adapted(base, seed)).graph for seed in (1, 2)]
    data = [some(0, 15), some(40, 15)]
    merged = values(merge(*models, method=LeastSquares(data)).graph)
    mean = values(merge(*models).graph)
    for model, own in zip(models, data, strict=True):
        x = own.inputs(model)["x"].astype("float64")
        w, b = (value(model.parameters[f"fc1.{p}"]) for p in ("weight", "bias"))
        wanted = x @ w.T + b
        errors = [np.abs(x @ m["fc1.weight"].T + m["fc1.bias"] - wanted).max() for m in (merged, mean)]
        assert errors[0] < 1e-5 < 1e-2 < errors[1]
    alone = merge(models[0], method=LeastSquares(data[:1])).graph
    same_numbers(alone, models[0])


def test_the_closed_form_is_the_solution_of_least_norm() -> None:
    models = [trained("mlp", seed) for seed in (1, 2)]
    data = [some(0, 40), some(50, 40)]
    merged = values(merge(*models, method=LeastSquares(data)).graph)
    weights = [np.concatenate([values(m)["fc1.weight"], values(m)["fc1.bias"][:, None]], 1, dtype="f8") for m in models]
    rows = [d.inputs(m)["x"].astype("f8") for d, m in zip(data, models, strict=True)]
    rows = [np.concatenate([r, np.ones((len(r), 1))], 1) for r in rows]
    mean = sum(weights) / 2
    wanted = np.concatenate([r @ (w - mean).T for r, w in zip(rows, weights, strict=True)])
    solution = mean + np.linalg.lstsq(np.concatenate(rows), wanted)[0].T
    np.testing.assert_allclose(merged["fc1.weight"], solution[:, :-1], atol=1e-5)
    np.testing.assert_allclose(merged["fc1.bias"], solution[:, -1], atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": 2, "groups": 2}])
def test_a_convolution_is_a_product_of_what_it_sees(options: dict[str, Any]) -> None:
    text = "".join(f", {k} = {v}" for k, v in options.items())
    source = f"module M () (x) {{ return y = x |> conv2d(6, 3{text}) as c }}"
    graph = read_source(Source("c.net", f"{source}\nmodel m = M() (x: f32[N, 4, 9, 8])\n")).model("m").graph
    (layer,) = least_squares.layers(graph)
    rng = np.random.default_rng(0)
    shape = tuple(int(str(d)) for d in graph.parameters["c.weight"].type.shape)
    x, w, b = rng.standard_normal((2, 4, 9, 8)), rng.standard_normal(shape), rng.standard_normal(6)
    y = torch.nn.functional.conv2d(*map(torch.from_numpy, (x, w, b)), **options).numpy()
    matrices = least_squares.joined(layer, w, b)
    found = [a @ m.T for a, m in zip(least_squares.inputs(layer, x), matrices, strict=True)]
    for a, wanted in zip(found, least_squares.outputs(layer, y), strict=True):
        np.testing.assert_allclose(a, wanted, atol=1e-12)
    back = least_squares.parted(layer, matrices, shape)
    assert (back["c.weight"] == w).all()
    assert (back["c.bias"] == b).all()


@pytest.mark.parametrize(("file", "name"), [("llama", LLAMA), ("digits", "digits")])
def test_pleas_of_a_permuted_copy_is_the_model(file: str, name: str) -> None:
    model = drawn(file, name)
    same_numbers(merge(model, permuted(model), method=Pleas(NOISE, samples=8)).graph, model, 1e-6)


def test_pleas_between_one_width_and_two() -> None:
    """At twice the width nothing is merged but the outputs: those are the mean of the models'."""
    models = [trained("mlp", seed) for seed in (1, 2)]
    found = [merge(*models, method=Pleas(examples(), width, samples=400)).graph for width in (1.0, 1.25, 2.0)]
    for merged in found:
        verify(merged)
        assert accuracy(merged) > 0.97
    assert [m.parameters["fc2.weight"].type.elements for m in found] == [128**2, 160**2, 256**2]
    _, (x, _) = digits()
    outs = [netc.Model("m", m).torch().eval()(x) for m in (*models, found[-1])]
    torch.testing.assert_close(outs[2], (outs[0] + outs[1]) / 2, rtol=1e-4, atol=1e-4)
    assert np.abs(values(found[-1])["fc2.weight"][:128, 128:]).max() < 1e-6


def test_pleas_widens_heads_and_hidden_units_but_no_residual_stream() -> None:
    model = drawn("llama", LLAMA)
    merged = merge(model, tuned(permuted(model), 1), method=Pleas(NOISE, 1.5, samples=8)).graph
    verify(merged)
    shapes = [merged.parameters[f"layers.0.{p}.weight"].type.shape for p in ("self_attn.v_proj", "mlp.up_proj")]
    assert shapes == [(24, 64), (264, 64)]
    assert measure(merged, merged, Contract(), probes=1).kept


# -------------------------------------------------------------------------------------------------------------- depth


def test_layers_in_order_cost_least() -> None:
    rng = np.random.default_rng(0)
    for rows, columns in ((1, 4), (2, 5), (3, 6), (5, 5)):
        costs = rng.random((rows, columns))
        ways = [(0, *w) for w in combinations(range(1, columns), rows - 1)]
        best = min(ways, key=lambda w: sum(costs[i, j] for i, j in enumerate(w)))
        assert depth.in_order(costs) == list(best)
    assert depth.in_order(np.full((2, 2), np.inf)) is None


def test_stages_are_merged_with_stages() -> None:
    path = SPECS / "of_a_test.net"
    text = 'import "resnet_cifar.net" { ResNet }\n' + "".join(
        f"model {name} = ResNet({count}, project = true) (x: f32[N, 3, 16, 16])\n"
        for name, count in (("deep", 3), ("shallow", 2))
    )
    program = netc.loads(Source(str(path), text, path))
    deep, shallow = (probed(program.model(name).graph, i) for i, name in enumerate(("deep", "shallow")))
    grown = balanced(deep, shallow, NOISE, 8, 0)
    assert list(grown.parameters) == list(deep.parameters)
    assert measure(shallow, grown, Contract(), probes=1).kept
    verify(merge(deep, shallow, method=Transport(calibration=NOISE, samples=8)).graph)


def test_likeness_is_the_same_by_rows_and_by_features() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((6, 9)), rng.standard_normal((6, 7))
    wide = depth.likeness(a, b)
    x, y = a - a.mean(0), b - b.mean(0)
    by_features = (x.T @ y) ** 2
    assert wide == pytest.approx(by_features.sum() / np.sqrt(((x.T @ x) ** 2).sum() * ((y.T @ y) ** 2).sum()))


def test_a_shallower_model_is_merged_into_a_deeper_one() -> None:
    """A model with two blocks, and the same with a third that changes nothing: they are one function, and one model."""
    shallow = drawn("llama", LLAMA)
    deep = deepen(shallow, at="layers.0", by=1).graph
    copy = permuted(shallow)
    grown = balanced(deep, copy, NOISE, 8, 0)
    assert list(grown.parameters) == list(deep.parameters)
    assert measure(copy, grown, Contract(), probes=1).kept
    merged = merge(deep, copy, method=Transport(calibration=NOISE, samples=8)).graph
    verify(merged)
    assert measure(shallow, merged, Contract("approx", 1e-4), probes=1).kept
    with pytest.raises(Refusal, match="examples"):
        merge(deep, copy, method=Transport())
    with pytest.raises(Refusal, match="blocks"):
        merge(copy, deep, method=Transport(calibration=NOISE))


# ------------------------------------------------------------------------------------------------------------- files


FILE = """
module Mlp(h) (x: [N, 64]) -> [N, 10] {
    return logits = x |> linear(h) as fc1 |> relu |> linear(10) as fc2
}
data calib = noise(samples = 8)
model base = Mlp(32) (x: f32[N, 64])
model a = Mlp(32) (x: f32[N, 64])
model b = Mlp(32) (x: f32[N, 64])
model mean = merge(a, b)
model arc = merge(a, b, method = slerp(t = 0.3), seed = 1)
model task = merge(a, b, method = ties(base, density = 0.3))
model matched = merge(a, b, method = weight_matching)
model moved = merge(a, b, method = transport(regularization = 0.01, calibration = calib))
model partly = merge(a, b, method = pleas(calib, width = 1.5))
model solved = merge(a, b, method = least_squares([calib, calib]))
model ordered = align(a, b)
"""


def test_methods_are_written_in_a_file() -> None:
    program = read_source(Source("merge.net", FILE))
    for name in ("mean", "arc", "task", "matched", "moved", "partly", "solved", "ordered"):
        graph = program.model(name).graph
        verify(graph)
        width = 48 if name == "partly" else 32
        assert graph.parameters["fc1.weight"].type.shape == (width, 64), name


def test_what_cannot_be_merged_is_refused() -> None:
    a, b = drawn("llama", "llama_micro"), drawn("llama", LLAMA)
    with pytest.raises(Refusal, match="another architecture") as refused:
        merge(a, b)
    assert "linear" in refused.value.nodes
    with pytest.raises(Refusal, match="2 models to weigh, and 3"):
        merge(a, a, method=Average([1, 2, 3]))
    with pytest.raises(Refusal, match="between two models"):
        merge(a, a, a, method=Slerp())
    with pytest.raises(Refusal, match="as many calibrations"):
        merge(a, a, method=LeastSquares([NOISE]))
    with pytest.raises(ValueError, match="density"):
        Ties(a, density=0)


# -------------------------------------------------------------------------------------------------------- statistics


def test_statistics_are_those_of_one_batch_in_training() -> None:
    graph = drawn("resnet", "resnet18")
    images = np.random.default_rng(0).standard_normal((4, 3, 224, 224)).astype("float32")
    found = recompute_statistics(graph, Calibration("images", Held(array=images)), samples=4)
    net: Any = netc.Model(graph.name, graph).torch().train()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # of the first batch alone
    with torch.no_grad():
        net(torch.from_numpy(images))
    theirs = net.state_dict()
    changed = [p.path for p in graph.parameters.values() if p.buffer]
    assert len(changed) == 40
    for path, array in values(found.graph).items():
        np.testing.assert_allclose(array, theirs[path].numpy(), rtol=1e-4, atol=1e-4, err_msg=path)
        assert (path in changed) == (found.graph.parameters[path].data is not graph.parameters[path].data)


def test_statistics_need_a_batch_norm() -> None:
    with pytest.raises(Refusal, match="no batch norm"):
        recompute_statistics(drawn("llama", LLAMA), NOISE)
