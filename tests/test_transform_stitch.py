"""Stitching: which members there are, what each computes and costs, least squares, and the switchable module."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import netc
import numpy as np
import pytest
import torch
from netc.backends.pytorch import family as switchable
from netc.backends.pytorch import module, run
from netc.compiler.calibration import Calibration, Noise, Pictures
from netc.compiler.contract import Contract
from netc.compiler.diagnostic import NetcError
from netc.compiler.family import Family, MemberCost, costs
from netc.compiler.graph import Graph, verify
from netc.compiler.measure import measure
from netc.compiler.model import Model
from netc.compiler.passes.bind import bind
from netc.compiler.passes.widen import widen
from netc.compiler.probe import inputs, probed
from netc.compiler.program import read_source
from netc.compiler.source import Source
from netc.compiler.text import print_graph
from netc.compiler.transforms import Refusal
from netc.compiler.transforms.junctions import depths, windows
from netc.compiler.transforms.solve import Equations, Lstsq
from netc.compiler.transforms.stitch import stitch
from netc.compiler.weights import value

ROOT = Path(__file__).parents[1]
NOISE = Calibration("noise", Noise())


def spec(text: str, *names: str) -> list[Graph]:
    program = read_source(Source("here.net", text, ROOT / "specs" / "here.net"), root=ROOT)
    return [program.model(name).graph for name in names]


@pytest.fixture(scope="module")
def deit() -> list[Graph]:
    program = netc.load(ROOT / "specs/vit.net", root=ROOT)
    return [program.model(name).graph for name in ("deit_tiny", "deit_small", "vit_b_16")]


@pytest.fixture(scope="module")
def published(deit: list[Graph]) -> Family:
    return stitch(*deit)


@pytest.fixture(scope="module")
def found(published: Family) -> list[MemberCost]:
    return costs(published)


@pytest.fixture(scope="module")
def lite() -> list[Graph]:
    text = """import "efficientnet_lite.net" { lite }
model small = lite(0.5, 1.0) (x: f32[N, 3, 64, 64])
model large = lite(0.5, 1.1) (x: f32[N, 3, 64, 64])
"""
    return [probed(g, i) for i, g in enumerate(spec(text, "small", "large"))]


TINY = """import "vit.net" { ViT }
model a = ViT(16, 2, depth = 4, patch = 8, classes = 5) (x: f32[N, 3, 32, 32])
model b = ViT(24, 2, depth = 4, patch = 8, classes = 5) (x: f32[N, 3, 32, 32])
model c = ViT(32, 2, depth = 4, patch = 8, classes = 5) (x: f32[N, 3, 32, 32])
model deep = ViT(24, 2, depth = 8, patch = 8, classes = 5) (x: f32[N, 3, 32, 32])
model coarse = ViT(24, 2, depth = 4, patch = 16, classes = 5) (x: f32[N, 3, 32, 32])
model large = ViT(24, 2, depth = 4, patch = 8, classes = 5) (x: f32[N, 3, 64, 64])
"""


@pytest.fixture(scope="module")
def tiny() -> dict[str, Graph]:
    names = ("a", "b", "c", "deep", "coarse", "large")
    return {n: probed(g, i) for i, (n, g) in enumerate(zip(names, spec(TINY, *names), strict=True))}


def difference(before: Graph, after: Graph) -> float:
    """Of two graphs with numbers of their own, on the same probes, in float64."""
    graphs = [widen(bind(g, {"N": 2}), narrow=True) for g in (before, after)]
    given = inputs(graphs[0])
    (left,), (right,) = (run(g, given).values() for g in graphs)
    return float(np.abs(left - right).max())


# ---------------------------------------------------------------------------------------------------- members

# Members 3, 4, 5, 36, 37 and 70 of stitching_deit/results/stitches_res.txt in github.com/ziplab/SN-Net.
PUBLISHED = {
    3: (4696010496, 22345960), 4: (4316862720, 20571496), 5: (4798437888, 22790824), 36: (1652086272, 7720360),
    37: (17961426432, 88190440), 70: (6121909248, 29742952),
}  # fmt: skip


def test_deit_has_the_71_members_of_the_published_family_in_their_order(
    published: Family, found: list[MemberCost]
) -> None:
    family = published
    assert family.count == len(found) == 71
    assert family.anchors == {"deit_tiny": 0, "deit_small": 1, "vit_b_16": 2}
    tokens = 197
    for number, (flops, parameters) in PUBLISHED.items():
        member = family.member(number)
        # fvcore counts 5 operations for each element that a block's layer norm reads (of the last one, none).
        norms = [n for n in member.nodes.values() if n.op.name == "layer_norm" and ".blocks." in n.path]
        normed = sum(int(np.prod([d for d in n.types[0].shape if isinstance(d, int)])) for n in norms)
        assert found[number].macs + 5 * normed == flops
        # The class token and the positions of the first model are not counted there.
        width = 192 if number < 37 else 384
        assert found[number].parameters - (tokens + 1) * width == parameters


def test_costs_are_monotone_between_anchors(found: list[MemberCost]) -> None:
    pairs = windows(12, 12, 2, 1)
    for first, start in ((0, 3), (1, 37)):
        macs = {pair: found[start + i].macs for i, pair in enumerate(pairs)}
        for shift in (-1, 0, 1):
            ways = [macs[p] for p in sorted(macs) if p[1] - p[0] == shift]
            assert len(ways) == 12 - abs(shift)
            assert all(a > b for a, b in pairwise(ways)), "the later it is left, the more of the small model runs"
        between = [m for (leave, enter), m in macs.items() if enter == leave + 1]
        assert all(found[first].macs < m < found[first + 1].macs for m in between)


def test_two_way_paths_are_counted_as_published(tiny: dict[str, Graph], deit: list[Graph]) -> None:
    # SN-Netv2's DeiT3-S and -L, 12 and 24 blocks: classification/results/stitches_res_s_l.txt has 134 members.
    options: Any = {"direction": "both", "pairs": "depth", "crossings": 2}
    assert stitch(*deit[:2], **options).count == 2 + 11 + 11 + 55 + 55 == 134
    # 4 and 8 blocks: 3 places to cross at, either way; or at two of them.
    family = stitch(tiny["a"], tiny["deep"], **options)
    assert family.count == 2 + 3 + 3 + 3 + 3
    assert family.label(family.count - 1) == "deep ..blocks.3 → a blocks.2..blocks.2 → deep blocks.6.."


def test_windows_and_depths_for_unequal_models() -> None:
    assert len(windows(12, 12, 2, 1)) == 34
    assert windows(2, 4, 2, 1) == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (1, 3)]
    assert windows(4, 2, 2, 1) == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (3, 1)]
    assert windows(4, 4, 2, 2) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (2, 3), (3, 2), (3, 3)]
    assert depths(12, 24) == [(i, 2 * (i + 1)) for i in range(11)]
    assert depths(24, 12) == [(2 * i + 1, i + 1) for i in range(11)]
    assert depths(2, 3) == [(0, 2)]


def test_at_says_where_members_may_change(tiny: dict[str, Graph]) -> None:
    family = stitch(tiny["a"], tiny["b"], at=["blocks.1", "blocks.2"])
    assert [family.label(k) for k in range(2, family.count)] == [
        f"a ..blocks.{i} → b blocks.{j}.." for i, j in ((1, 1), (1, 2), (2, 1), (2, 2))
    ]


def test_three_models_and_their_neighbours(tiny: dict[str, Graph]) -> None:
    a, b, c = tiny["a"], tiny["b"], tiny["c"]
    assert stitch(a, b, c).count == 3 + 2 * 10
    assert stitch(a, b, c, nearest=False).count == 3 + 3 * 10
    assert stitch(a, b, c, direction="backward").label(3) == "b ..blocks.0 → a blocks.0.."
    two = stitch(a, b, c, crossings=2)
    assert all(two.label(k).count("→") == 2 for k in range(23, two.count))
    # For each pair into b, those out of it that lie no earlier.
    pairs = windows(4, 4, 2, 1)
    assert two.count == 23 + sum(leave >= enter for _, enter in pairs for leave, _ in pairs)
    verify(two.member(two.count - 1))


# ---------------------------------------------------------------------------------------------------- functions


def test_anchors_are_the_models_they_were(tiny: dict[str, Graph], lite: list[Graph]) -> None:
    for models in ([tiny["a"], tiny["b"]], lite):
        family = stitch(*models)
        for number, model in enumerate(models):
            assert difference(model, family.member(number)) == 0
            found = measure(family.member(number), family.member(number), Contract(), probes=1)
            assert found.kept


def test_a_model_that_goes_over_into_itself_is_itself(tiny: dict[str, Graph], lite: list[Graph]) -> None:
    for model in (tiny["a"], lite[1]):
        family = stitch(model, model, init="plain", pairs="depth", direction="both", crossings=2)
        assert all(path.startswith((f"{model.name}.", f"{model.name}_2.")) for path in family.parameters)
        for number in (0, 1, 2, family.count // 2, family.count - 1):
            assert difference(model, family.member(number)) == 0
        # Entered one block early, a block runs twice: that is another function.
        early = stitch(model, model, init="plain")
        assert difference(model, early.member(2)) > 1e-6


def test_layers_between_blocks_run_with_the_block_before_them() -> None:
    model = probed(netc.load(ROOT / "tests/reduced/densenet.net", root=ROOT).model("densenet121").graph)
    family = stitch(model, model, init="plain", pairs="depth")
    assert difference(model, family.member(3)) == 0


def test_an_identity_changes_nothing_where_the_widths_agree(tiny: dict[str, Graph]) -> None:
    family = stitch(tiny["a"], tiny["a"], init="identity", pairs="depth")
    assert any(path.startswith("stitch.") for path in family.parameters)
    assert difference(tiny["a"], family.member(3)) == 0


def test_a_low_rank_update_is_nothing_at_first(tiny: dict[str, Graph]) -> None:
    plain, updated = (stitch(tiny["a"], tiny["b"], rank=rank) for rank in (0, 3))
    added = [p for path, p in updated.parameters.items() if path not in plain.parameters]
    assert {p.path.split(".update.")[1] for p in added} == {"down.weight", "up.weight"}
    for number in (2, 5):
        assert difference(plain.member(number), updated.member(number)) == 0
        weights = [p for path, p in updated.member(number).parameters.items() if path.endswith("project.weight")]
        assert not any(p.trainable for p in weights)
        (up,) = (p for path, p in updated.member(number).parameters.items() if path.endswith("up.weight"))
        assert up.trainable
        assert up.type.shape == (24, 3)


def test_members_run_where_space_differs(tiny: dict[str, Graph], lite: list[Graph]) -> None:
    # Entering block 2 of the larger model from block 0 of the smaller one, the map is halved by a stride.
    family = stitch(*lite)
    member = next(
        family.member(k) for k in range(family.count) if family.label(k) == "small ..blocks.0 → large blocks.2.."
    )
    (layer,) = (n for n in member.nodes.values() if n.path.startswith("stitch."))
    assert (layer.op.name, layer.op.stride) == ("conv2d", (2, 2))  # type: ignore[attr-defined]
    verify(member)
    # Of tokens, the sequence is resampled.
    family = stitch(tiny["a"], tiny["coarse"])
    names = [n.op.name for n in family.member(4).nodes.values() if n.path.startswith("stitch.")]
    assert "interpolate" in names
    assert "linear" in names or "conv1d" in names


def test_members_are_ordinary_graphs(tiny: dict[str, Graph]) -> None:
    family = stitch(tiny["a"], tiny["b"], rank=2)
    for number in range(family.count):
        member = family.member(number)
        verify(member)
        again = read_source(Source("member.net", print_graph(member))).model(member.name).graph
        assert print_graph(again) == print_graph(member)


# ---------------------------------------------------------------------------------------------------- least squares


def test_the_solution_is_that_of_numpy() -> None:
    random = np.random.default_rng(0)
    x = random.normal(5.0, 1.0, (400, 7)) @ random.normal(size=(7, 7))
    y = x @ random.normal(size=(7, 4)) + random.normal(size=(400, 4)) - 100
    wanted, *_ = np.linalg.lstsq(np.c_[x, np.ones(400)], y, rcond=None)
    found = Equations()
    for start in (0, 13, 300):
        found.add(x[start : {0: 13, 13: 300, 300: 400}[start]], y[start : {0: 13, 13: 300, 300: 400}[start]])
    weight, offset = found.solve()
    np.testing.assert_allclose(weight, wanted[:-1].T, rtol=1e-9)
    np.testing.assert_allclose(offset, wanted[-1], rtol=1e-9)
    left = ((y - x @ weight.T - offset) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()
    assert found.unexplained(weight) == pytest.approx(left, rel=1e-9)
    ridge, _ = found.solve(0.1)
    centred = x - x.mean(0)
    added = 0.1 * np.trace(centred.T @ centred) / 7
    np.testing.assert_allclose(
        ridge.T, np.linalg.solve(centred.T @ centred + added * np.eye(7), centred.T @ (y - y.mean(0))), rtol=1e-9
    )


def test_features_that_never_vary_are_not_used() -> None:
    random = np.random.default_rng(0)
    x = np.c_[random.normal(size=(50, 3)), np.full(50, 2.0)]
    x = np.c_[x, x[:, 0] + x[:, 1]]
    y = x[:, :3] @ random.normal(size=(3, 2)) + 1
    found = Equations()
    found.add(x, y)
    weight, offset = found.solve()
    np.testing.assert_allclose(x @ weight.T + offset, y, atol=1e-9)
    centred = x - x.mean(0)
    least, *_ = np.linalg.lstsq(centred, y - y.mean(0), rcond=None)
    np.testing.assert_allclose(weight, least.T, atol=1e-9)


def features(graph: Graph, at: str, given: dict[str, Any]) -> Any:
    edit = graph.edit()
    (node,) = (n for n in graph.nodes.values() if n.path == at)
    edit.output("feature", node.value)
    return run(edit.done(), given)["feature"]


@pytest.mark.parametrize("kind", ["tokens", "maps"])
def test_stitching_layers_are_the_least_squares_of_the_features(
    kind: str, tiny: dict[str, Graph], lite: list[Graph]
) -> None:
    first, second = (tiny["a"], tiny["b"]) if kind == "tokens" else lite
    family = stitch(first, second, init=Lstsq(NOISE, samples=11, ridge=0.0), pairs="depth")
    number = 2 + (1 if kind == "tokens" else 4)
    given = NOISE.inputs(first, 11)
    (path,) = {p.rpartition(".")[0] for p in family.member(number).parameters if p.startswith("stitch.")}
    member = family.member(number)
    layer = member.nodes[path]
    (source,) = (r.node.removeprefix(f"{first.name}.") for r in layer.refs if hasattr(r, "node"))
    reader = next(n for n in member.nodes.values() if layer.value in n.inputs)
    old = second.nodes[reader.path.removeprefix(f"{second.name}.")]
    wanted = old.inputs[reader.inputs.index(layer.value)]
    x = features(bind(first, {"N": 11}), source, given)
    y = features(bind(second, {"N": 11}), wanted.node, given)  # type: ignore[union-attr]
    if kind == "maps":
        x, y = x.transpose(0, 2, 3, 1), y.transpose(0, 2, 3, 1)
    x, y = (a.reshape(-1, a.shape[-1]).astype("float64") for a in (x, y))
    best, *_ = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)
    weight, offset = (value(family.parameters[f"{path}.{n}"]) for n in ("weight", "bias"))
    np.testing.assert_allclose(weight.reshape(weight.shape[:2]), best[:-1].T, atol=2e-4 * np.abs(best).max())
    np.testing.assert_allclose(offset, best[-1], atol=2e-4 * np.abs(best).max())


def test_least_squares_reaches_what_a_linear_map_can(tiny: dict[str, Graph]) -> None:
    # A model and its copy with the same weights: the identity is the solution.
    family = stitch(tiny["a"], tiny["a"], init=Lstsq(NOISE, samples=64, ridge=0.0), pairs="depth")
    assert difference(tiny["a"], family.member(3)) < 1e-4


# ---------------------------------------------------------------------------------------------------- the module


def test_the_switchable_module_is_each_member(tiny: dict[str, Graph]) -> None:
    family = stitch(tiny["a"], tiny["b"], init=Lstsq(NOISE, samples=8), rank=2)
    made, x = switchable(family), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for number in (0, 5, 1, family.count - 1, 0):
            assert torch.equal(made.use(number)(x), module(family.member(number))(x))
        assert torch.equal(made.use("b")(x), module(tiny["b"])(x))
    assert set(made.state_dict()) == set(family.parameters)
    assert sum(p.numel() for p in made.parameters()) == sum(int(p.type.elements) for p in family.parameters.values())  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="members 0 to 11"):
        made.use(12)


def test_members_share_what_is_learnt(lite: list[Graph]) -> None:
    family = stitch(*lite, pairs="depth")
    made, x = switchable(family).train(), torch.randn(2, 3, 64, 64)
    before = {path: t.clone() for path, t in made.state_dict().items()}
    with torch.no_grad():
        old = made.eval().use(1)(x)
    made.train().use(4)(x).square().mean().backward()
    used = set(made.parameters_used())
    assert used == set(family.member(4).parameters)
    assert {path for path, p in made.named_parameters() if p.grad is not None} <= used
    torch.optim.SGD(made.parameters(), 0.1).step()
    changed = {path for path, t in made.state_dict().items() if not torch.equal(t, before[path])}
    assert changed
    assert changed <= used
    assert any("running_mean" in path for path in changed)
    with torch.no_grad():
        new = made.eval().use(1)(x)
    assert not torch.equal(old, new), "the second half of the anchor is the member's"
    again = family.with_parameters(made.stored())
    assert torch.equal(module(again.member(1))(x), new)
    other = switchable(family)
    other.load_state_dict(made.state_dict())
    with torch.no_grad():
        assert torch.equal(other.use(4)(x), made.use(4)(x))


def test_members_move_with_the_module(tiny: dict[str, Graph]) -> None:
    made, x = switchable(stitch(tiny["a"], tiny["b"])), torch.randn(1, 3, 32, 32)
    first = made.use(3)(x)
    assert made.double()(x.double()).dtype is torch.float64
    assert torch.allclose(made(x.double()).float(), first, atol=1e-4)
    assert not made._members[3].training
    assert made.train()._members[3].training


def test_paths_may_have_parts_that_modules_have() -> None:
    text = """import "vit.net" { ViT }
model train = ViT(16, 2, depth = 2, patch = 8, classes = 5) (x: f32[N, 3, 16, 16])
model family = ViT(16, 2, depth = 2, patch = 8, classes = 5) (x: f32[N, 3, 16, 16])
"""
    a, b = (probed(g) for g in spec(text, "train", "family"))
    made = switchable(stitch(a, b))
    assert made.use(2)(torch.randn(1, 3, 16, 16)).shape == (1, 5)


# ---------------------------------------------------------------------------------------------------- what is refused


def test_models_of_different_inputs_are_refused(tiny: dict[str, Graph]) -> None:
    with pytest.raises(Refusal, match=r"a takes x: f32\[N, 3, 32, 32\], and large takes x: f32\[N, 3, 64, 64\]"):
        stitch(tiny["a"], tiny["large"])


def test_one_model_is_refused(tiny: dict[str, Graph]) -> None:
    with pytest.raises(Refusal, match="two models or more are joined"):
        stitch(tiny["a"])


def test_models_with_nothing_in_common_are_refused(tiny: dict[str, Graph], lite: list[Graph]) -> None:
    (other,) = spec('import "efficientnet_lite.net" { lite }\nmodel o = lite(0.5, 1.0) (x: f32[N, 3, 32, 32])\n', "o")
    with pytest.raises(Refusal, match="joined nowhere") as found:
        stitch(tiny["a"], other)
    assert any("cannot be made" in note for note in found.value.notes)
    with pytest.raises(Refusal, match="joined nowhere") as found:
        stitch(tiny["a"], tiny["coarse"], resample=False)
    assert any("the space differs" in note for note in found.value.notes)
    with pytest.raises(Refusal, match="no block matches"):
        stitch(*lite, at="layers")


def test_junctions_left_out_are_told(lite: list[Graph]) -> None:
    every, same = (stitch(*lite, resample=resample) for resample in (True, False))
    assert same.count < every.count
    assert any("the space differs" in note for note in same.notes)


# ---------------------------------------------------------------------------------------------------- in the language


def test_a_family_in_a_file() -> None:
    text = (
        TINY
        + """
data calib = noise(samples = 8)
family snn = stitch(a, b, init = lstsq(calib, samples = 8), direction = both, pairs = depth, crossings = 2)
model middle = snn[3]
"""
    )
    program = read_source(Source("here.net", text, ROOT / "specs" / "here.net"), root=ROOT)
    family = program.family("snn")
    assert isinstance(family, Family)
    assert family.count == 2 + 3 + 3 + 3 + 3
    assert program.model("middle").torch()(torch.randn(1, 3, 32, 32)).shape == (1, 5)


def test_data_that_are_not_there_are_told_when_they_are_needed() -> None:
    text = (
        TINY
        + """
data calib = arrays("nothing.npz")
family snn = stitch(a, b, init = lstsq(calib))
"""
    )
    program = read_source(Source("here.net", text, ROOT / "specs" / "here.net"), root=ROOT)
    family = program.family("snn")
    assert len(costs(family)) == 12
    with pytest.raises(NetcError, match=r"no file nothing\.npz"):
        switchable(family)


def test_the_families_of_the_specs_are_those_that_were_published() -> None:
    program = netc.load(ROOT / "specs/stitched.net")
    assert {n: program.family(n).count for n in program.families} == {"deit": 71, "deit_two_way": 134, "lites": 53}


def test_a_member_runs_in_onnx(tiny: dict[str, Graph], tmp_path: Path) -> None:
    import onnxruntime

    member = stitch(tiny["a"], tiny["b"], rank=2).member(4)
    Model(member.name, member).export(tmp_path / "member.onnx", to="onnx")
    x = torch.randn(2, 3, 32, 32)
    (found,) = onnxruntime.InferenceSession(str(tmp_path / "member.onnx")).run(None, {"x": x.numpy()})
    np.testing.assert_allclose(found, module(member)(x).detach().numpy(), atol=1e-4)


# ---------------------------------------------------------------------------------------------------- real weights


@pytest.mark.slow
def test_trained_models_joined_by_least_squares_choose_as_the_second_one() -> None:
    """EfficientNet-Lite0 into Lite1 at middle depth, fitted on crops of some pictures, on crops of other photos."""
    import skimage

    def crops(*only: str) -> Calibration:
        folder = str(Path(skimage.__file__).parent / "data")
        return Calibration("photos", Pictures(path=folder, only=only, mean=(127 / 255,), std=(128 / 255,)))

    program = netc.load(ROOT / "specs/stitched.net")
    models = [program.model(name).graph for name in ("lite0_240", "lite1_240")]
    seen = crops("astronaut.*", "camera.*", "coins.*", "color.*", "hubble*", "ihc.*", "motorcycle_*", "retina.*")
    at = ["blocks.5", "blocks.7", "blocks.8", "blocks.11"]
    plain = stitch(*models, init="plain", at=at)
    fitted = stitch(*models, init=Lstsq(seen, samples=100), at=at)
    labels = [fitted.label(k) for k in range(2, fitted.count)]
    number = 2 + labels.index("lite0_240 ..blocks.7 → lite1_240 blocks.11..")
    x = torch.from_numpy(crops("chelsea.*", "coffee.*", "rocket.*").inputs(models[0], 48)["x"])
    with torch.inference_mode():
        wanted = module(models[1])(x).argmax(1)
        before, after = (module(f.member(number))(x).argmax(1) for f in (plain, fitted))
    assert (before == wanted).float().mean() < 0.05
    assert (after == wanted).float().mean() >= 0.60
