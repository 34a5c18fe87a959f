"""`scale`: published models from others by their factors, and budgets of every spec, met or refused with a reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import netc
import pytest
import torch
from netc.compiler.contract import Contract
from netc.compiler.cost import Report, cost, free_symbols
from netc.compiler.graph import Graph, Value, verify
from netc.compiler.operators.attention import ScaledDotProductAttention
from netc.compiler.probe import probed
from netc.compiler.program import Program, read_source
from netc.compiler.source import Source
from netc.compiler.syntax import parse
from netc.compiler.text import print_graph, read_graph
from netc.compiler.transforms import Limit, Outcome, Refusal
from netc.compiler.transforms.rounding import repeat_steps, round_repeats, round_units, shortest, unit_steps
from netc.compiler.transforms.scale import scale

ROOT = Path(__file__).parents[1]


@cache
def program(path: Path) -> Program:
    return netc.load(path, root=ROOT)


@cache
def spec(file: str, name: str) -> Graph:
    """A model in full size."""
    return program(ROOT / f"specs/{file}.net").model(name).graph


@cache
def small(file: str, name: str) -> Graph:
    """A model in reduced form, where there is one."""
    there = ROOT / f"tests/reduced/{file}.net"
    whole = ROOT / f"specs/{file}.net"
    return program(there if there.exists() and name in program(there).models else whole).model(name).graph


def counted(graph: Graph) -> Report:
    batch = {"N", "B"}
    return cost(graph, {name: 1 if name in batch else 128 for name in free_symbols(graph)})


def quantity(graph: Graph, name: str) -> int:
    found = counted(graph)
    values = {
        "macs": found.macs,
        "parameters": found.parameters,
        "activations": found.total.activations,
        "peak": found.total.peak,
    }
    number = values[name]
    assert isinstance(number, int)
    return number


def sound(outcome: Outcome) -> Graph:
    """The result, which is a graph like any other."""
    graph = outcome.graph
    verify(graph)
    assert outcome.contract == Contract("alters")
    (tree,) = parse(Source("scaled", print_graph(graph))).declarations
    assert print_graph(read_graph(tree)) == print_graph(graph)  # pyright: ignore[reportArgumentType]
    return graph


def attentions(graph: Graph) -> list[tuple[object, ...]]:
    """The shapes of the queries of all attentions: batch, heads, positions, size of a head."""
    nodes = [n for n in graph.nodes.values() if isinstance(n.op, ScaledDotProductAttention)]
    return [graph.type(next(n.refs)).shape for n in nodes]


def run(graph: Graph) -> dict[str, torch.Tensor]:
    """What the model gives for one picture of zeros and ones."""
    from netc.compiler.backend import backend
    from netc.compiler.probe import bound, inputs

    ready = bound(probed(graph))
    interpreter = backend("pytorch").Interpreter(ready, "infer")
    return interpreter(inputs(ready, 0))


# ---------------------------------------------------------------------------------------------- published models


def test_efficientnet_b3_is_b0_scaled() -> None:
    """Every node, shape, path, initialiser and rate of the spec's own B3, but the dropout of its head."""
    made = sound(scale(spec("efficientnet", "b0"), width=1.2, depth=1.4, resolution=300))
    assert (quantity(made, "parameters"), quantity(made, "macs")) == (12_233_232, 1_827_141_392)
    text = (
        print_graph(made).replace("graph b0", "graph b3").replace("dropout(%mean, p = 0.2)", "dropout(%mean, p = 0.3)")
    )
    assert text == print_graph(spec("efficientnet", "b3"))


@pytest.mark.parametrize(
    ("name", "width", "depth", "side", "parameters"),
    [("a", 1.0, 1.2, 192, 6_187_972), ("e", 0.51, 0.6, 106, 2_042_972)],
)
def test_tinynets_have_their_published_parameters(
    name: str, width: float, depth: float, side: int, parameters: int
) -> None:
    b0 = spec("efficientnet", "b0")
    made = scale(b0, width=width, depth=depth, resolution=side, depth_rounding="round", stem="kept", head="wider")
    assert quantity(sound(made), "parameters") == parameters


def test_tinynet_meets_24_million_macs() -> None:
    """By the paper's resolution and depth the width that meets the budget is TinyNet-E's."""
    b0 = spec("efficientnet", "b0")
    limits = (Limit("macs", "<=", 24e6),)
    made = sound(scale(b0, limits, method="tiny", depth_rounding="round", stem="kept", head="wider"))
    assert 0.99 * 24e6 <= quantity(made, "macs") <= 24e6
    assert quantity(made, "parameters") == 2_042_972


def test_24_million_macs_in_order_of_preference() -> None:
    """Resolution is kept before depth, and depth before width."""
    b0 = spec("efficientnet", "b0")
    limits = (Limit("macs", "<=", 24e6), Limit("width", ">=", 0.4))
    made = sound(scale(b0, limits, prefer=["resolution", "depth", "width"]))
    assert 0.99 * 24e6 <= quantity(made, "macs") <= 24e6
    side = made.inputs["x"].types[0].shape[2]
    smallest = scale(b0, width=0.4, depth=0.001, resolution=int(str(side)) + 6)
    assert quantity(smallest.graph, "macs") > 24e6, "a larger picture is too much at any width and depth"


# ---------------------------------------------------------------------------------------------- every spec


def names(path: Path) -> list[str]:
    return re.findall(r"^(?:model|graph) (\w+)", path.read_text(), re.M)


EVERY = [(path.stem, name) for path in sorted((ROOT / "specs").glob("*.net")) for name in names(path)]
QUICK = {
    "digits",
    "fashion_mnist",
    "resnet18",
    "deit_tiny",
    "swin_tiny",
    "gpt2",
    "tinyllama",
    "lstm_tagger",
}


def budgets() -> Iterator[object]:
    for file, name in EVERY:
        for what in ("macs", "parameters", "activations"):
            marks = [] if name in QUICK else [pytest.mark.slow]
            yield pytest.param(file, name, what, marks=marks, id=f"{name}-{what}")


def met(graph: Graph, limit: Limit) -> Outcome | Refusal:
    try:
        return scale(graph, (limit,), divisor=1)
    except Refusal as refusal:
        return refusal


@pytest.mark.parametrize(("file", "name", "what"), list(budgets()))
def test_half_of_everything(file: str, name: str, what: str) -> None:
    """Half of a quantity is met from below, or refused with the least there is, which is too much indeed."""
    graph = small(file, name)
    limit = quantity(graph, what) // 2
    made = met(graph, Limit(what, "<=", limit))
    if isinstance(made, Refusal):
        assert made.nodes
        assert any("width" in note for note in made.notes)
        least = next(n for n in made.notes if n.startswith(f"{what} can be at most"))
        assert int(re.findall(r"at least ([\d,]+)", least)[0].replace(",", "")) > limit
        return
    used = quantity(sound(made), what)
    assert used <= limit
    assert used >= 0.99 * limit or any("of the budget is used" in note for note in made.notes)
    assert {n: v.types[0].rank for n, v in made.graph.inputs.items()} == {
        n: v.types[0].rank for n, v in graph.inputs.items()
    }


@pytest.mark.parametrize(("file", "name"), [("resnet", "resnet18"), ("swin", "swin_tiny"), ("gpt2", "gpt2")])
def test_what_is_made_runs(file: str, name: str) -> None:
    graph = small(file, name)
    made = sound(scale(graph, (Limit("parameters", "<=", quantity(graph, "parameters") * 0.6),)))
    assert all(bool(torch.isfinite(torch.as_tensor(v)).all()) for v in run(made).values())


def test_growing_to_a_budget() -> None:
    graph = small("mobilenet_v2", "mobilenet_v2")
    wanted = 3 * quantity(graph, "macs")
    made = sound(scale(graph, (Limit("macs", "==", wanted),), prefer=["width"], divisor=1))
    assert abs(quantity(made, "macs") / wanted - 1) <= 0.01


def test_several_limits_hold_at_once() -> None:
    graph = small("resnet", "resnet50")
    macs, parameters = quantity(graph, "macs"), quantity(graph, "parameters")
    limits = (Limit("macs", "<=", macs / 2), Limit("parameters", ">=", parameters * 0.9))
    made = sound(scale(graph, limits))
    assert quantity(made, "macs") <= macs / 2
    assert quantity(made, "parameters") >= parameters * 0.9


def test_limits_of_a_knob_alone() -> None:
    graph = small("resnet", "resnet50")
    made = scale(graph, (Limit("width", "<=", 0.5),))
    assert print_graph(sound(made)) == print_graph(scale(graph, width=0.5).graph)


def test_sequences_are_counted_at_the_length_given() -> None:
    graph = small("gpt2", "gpt2")
    short = scale(graph, (Limit("macs", "<=", 2e6), Limit("T", "==", 16)), divisor=1)
    assert int(str(cost(short.graph, {"N": 1, "T": 16}).macs)) <= 2e6
    assert any("T = 16" in note for note in short.notes)


# ---------------------------------------------------------------------------------------------- knobs


def test_heads_are_whole_and_the_width_is_made_of_them() -> None:
    made = sound(scale(spec("vit", "deit_tiny"), width=2.0))
    assert quantity(made, "parameters") == quantity(spec("vit", "deit_small"), "parameters")
    queries = attentions(made)
    assert {(q[1], q[3]) for q in queries} == {(6, 64)}


def test_size_of_heads_grows_instead() -> None:
    made = sound(scale(spec("vit", "deit_tiny"), width=2.0, grow="head_size"))
    queries = attentions(made)
    assert {(q[1], q[3]) for q in queries} == {(3, 128)}


def test_total_heads_stay_while_depth_falls() -> None:
    """Brown et al., "Wide Attention Is The Way Forward For Transformers?": layers × heads are constant."""
    tiny = spec("vit", "deit_tiny")
    limits = (Limit("heads", "==", 36),)
    made = sound(scale(tiny, limits, depth=0.25, heads=4))
    counts = [q[1] for q in attentions(made)]
    assert counts == [12, 12, 12]
    assert quantity(made, "parameters") < quantity(tiny, "parameters")


def test_depths_of_stages_can_be_given() -> None:
    """ResNet-101 and -152 from ResNet-50, as Bello et al. ("Revisiting ResNets") go on to 270, 350 and 420."""
    made = sound(scale(spec("resnet", "resnet50"), repeats=[3, 4, 23, 3]))
    text = print_graph(made).replace("graph resnet50", "graph resnet101")
    assert text == print_graph(spec("resnet", "resnet101"))
    deep = scale(spec("resnet", "resnet50"), repeats=[3, 8, 36, 3])
    assert quantity(deep.graph, "parameters") == 60_192_808


def test_wide_resnet_channels_can_be_given() -> None:
    made = sound(scale(small("resnet", "resnet18"), channels=[24, 40, 72, 136]))
    assert [made.type(Value(f"layer{i}.0.relu_1")).shape[1] for i in (1, 2, 3, 4)] == [24, 40, 72, 136]


def test_position_tables_follow_the_resolution() -> None:
    made = scale(spec("vit", "deit_tiny"), resolution=384)
    assert sound(made).parameters["pos_embed"].type.shape == (1, 577, 192)
    assert any("pos_embed" in note for note in made.notes)


def test_windows_that_do_not_fit_are_named() -> None:
    with pytest.raises(Refusal) as refused:
        scale(spec("swin", "swin_tiny"), resolution=240)
    assert refused.value.nodes
    assert refused.value.nodes[0].startswith("layers.")


def test_inherited_numbers_are_the_first_of_each() -> None:
    from netc.compiler.weights import value

    before = probed(small("resnet", "resnet18"))
    made = scale(before, width=0.5, inherit=True).graph
    old, new = value(before.parameters["conv1.weight"]), value(made.parameters["conv1.weight"])
    assert new.shape[0] < old.shape[0]
    assert (new == old[: new.shape[0]]).all()
    assert all(p.data is None for p in scale(before, width=0.5).graph.parameters.values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "no factor and no limit"),
        ({"width": -1.0}, "above 0"),
        ({"limits": (Limit("speed", "<=", 1),)}, "nothing that scale can limit"),
        ({"limits": (Limit("macs", "<=", 1),)}, "meets the limits"),
        ({"limits": (Limit("macs", "<=", 5e6), Limit("macs", ">=", 6e6))}, "meets all its limits"),
        ({"limits": (Limit("width", "<=", 0.5),), "width": 0.7}, "outside its limits"),
        ({"limits": (Limit("macs", "<=", 5e6), Limit("resolution", "==", 0.1))}, "no resolution lies"),
        ({"repeats": [1, 2]}, "stages"),
        ({"resolution": [64]}, "no resolution"),
        ({"width": 1.0}, "scales nothing"),
    ],
)
def test_what_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        scale(small("resnet", "resnet18"), **options)  # pyright: ignore[reportArgumentType]


def test_in_the_language() -> None:
    text = """
import "specs/efficientnet.net" { b0 }

model tiny = b0 |> scale(macs <= 24 M, width >= 0.5, prefer = [resolution, depth, width])
model small = b0 |> scale(parameters <= 2 M, divisor = 4, depth = 0.6, depth_rounding = round, stem = kept)
model none = b0 |> scale(macs <= 10 K)
"""
    file = read_source(Source("scaled.net", text), root=ROOT)
    macs = file.model("tiny").cost({"N": 1}).macs
    assert isinstance(macs, int)
    assert 0.99 * 24e6 <= macs <= 24e6
    parameters = file.model("small").cost().parameters
    assert isinstance(parameters, int)
    assert 0.99 * 2e6 <= parameters <= 2e6
    with pytest.raises(netc.NetcError) as refused:
        file.model("none")
    assert any("at least" in note for note in refused.value.diagnostics[0].notes)


def test_a_u_net_is_made_wider() -> None:
    """Its classes of channels are joined by concatenation from afar."""
    unet = small("unet", "unet")
    made = sound(scale(unet, width=2.0))
    assert quantity(made, "parameters") > 3.9 * quantity(unet, "parameters")
    assert [made.type(r) for r in made.outputs.values()] == [unet.type(r) for r in unet.outputs.values()]


# ---------------------------------------------------------------------------------------------- rounding


def test_channels_round_as_mobilenets_do() -> None:
    def make_divisible(v: float, divisor: int = 8) -> int:
        """TensorFlow's, word for word."""
        new_v = max(divisor, int(v + divisor / 2) // divisor * divisor)
        if new_v < 0.9 * v:
            new_v += divisor
        return new_v

    for channels in (16, 24, 32, 40, 112, 320, 1280):
        for percent in range(1, 300):
            value = Fraction(percent * channels, 100)
            assert round_units(value, 8) == make_divisible(float(value)), (channels, percent)


def test_steps_of_a_width_miss_none() -> None:
    low, high = Fraction(1, 10), Fraction(2)
    steps = [low, *unit_steps(24, 8, low, high)]
    seen = {round_units(s * 24, 8) for s in steps}
    assert seen == {round_units(Fraction(i * 24, 1000), 8) for i in range(100, 2001)}
    assert len(seen) == len(steps)


@pytest.mark.parametrize("how", ["ceil", "round", "floor"])
def test_steps_of_a_depth_miss_none(how: str) -> None:
    low, high = Fraction(1, 10), Fraction(3)
    steps = [low, high, *repeat_steps(4, how, low, high)]  # pyright: ignore[reportArgumentType]
    seen = {round_repeats(s * 4, how) for s in steps}  # pyright: ignore[reportArgumentType]
    assert seen == {round_repeats(Fraction(i * 4, 1000), how) for i in range(100, 3001)}  # pyright: ignore[reportArgumentType]


def test_shortest_factors() -> None:
    assert shortest(Fraction("0.5078"), Fraction("0.5156")) == Fraction("0.51")
    assert shortest(Fraction(1, 3), Fraction("0.334")) == Fraction("0.3334")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 1e9}, "1_000_000_000 times as many"),
        ({"depth": 1e6}, "1_000_000 times as many"),
        ({"resolution": 1_000_000}, "1_000_000 pixels on a side"),
        ({"repeats": [100_000]}, "100_000 blocks of a stage"),
        ({"channels": [10_000_000]}, "10_000_000 channels"),
    ],
)
def test_what_is_sooner_a_mistake_than_meant_is_refused(options: dict[str, Any], words: str) -> None:
    graph = netc.load(Path(__file__).parents[1] / "specs" / "resnet_cifar.net").model("resnet20").graph
    with pytest.raises(Refusal, match=words) as caught:
        scale(graph, **options)
    assert caught.value.option == next(iter(options))
