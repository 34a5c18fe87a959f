"""The specs of convolutional networks against `transformers` and PyTorch, and WideNet's weights shared over depth."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import netc
import pytest
import torch
from netc.backends.pytorch.source import translate
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

SPECS = Path(__file__).parents[1] / "specs"
IMPORTED = {"widenet": ["vit"]}


def declared(folder: Path, spec: str, names: str, text: str) -> netc.Program:
    """A file that declares models from the modules of a spec, beside a copy of it."""
    for stem in (spec, *IMPORTED.get(spec, [])):
        shutil.copy(SPECS / f"{stem}.net", folder)
    path = folder / "declared.net"
    path.write_text(f'import "{spec}.net" {{ {names} }}\n\n{text}\n')
    return netc.load(path)


def stirred(module: nn.Module) -> nn.Module:
    """No norm is neutral and no statistic is that of a fresh module."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 1.5)
            elif tensor.ndim == 1:
                tensor.normal_(0, 0.2)
    return module.eval()


def macs(module: nn.Module, *shape: int) -> int:
    """Multiply-accumulates as FlopCounterMode counts them, on no data."""
    module = module.eval()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(torch.empty(shape, device="meta"))
    return counter.get_total_flops() // 2


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def resnet(kind: str, depths: list[int], width: int, classes: int) -> nn.Module:
    import transformers

    widest = width if kind == "basic" else 4 * width
    config = transformers.ResNetConfig(
        layer_type=kind,
        depths=depths,
        embedding_size=width,
        hidden_sizes=[widest * 2**i for i in range(4)],
        num_labels=classes,
    )
    return transformers.ResNetForImageClassification(config)


@pytest.mark.parametrize(("kind", "block"), [("basic", "Basic"), ("bottleneck", "Bottleneck")])
def test_resnet_equals_transformers(tmp_path: Path, kind: str, block: str) -> None:
    torch.manual_seed(0)
    theirs = stirred(resnet(kind, [2, 1, 2, 1], 16, 7))
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    program = declared(
        tmp_path,
        "resnet",
        f"{block}, ResNet, transformers",
        f"model bare = ResNet({block}, [2, 1, 2, 1], width = 16, classes = 7) (x: f32[N, 3, 64, 64])\n"
        'model loaded = bare |> load("theirs.safetensors", rename = transformers)',
    )
    ours = program.model("loaded").torch().eval()
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        wanted = theirs(x).logits
        found = ours(x)
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kind", "depths"),
    [
        ("resnet18", "basic", [2, 2, 2, 2]),
        ("resnet34", "basic", [3, 4, 6, 3]),
        ("resnet50", "bottleneck", [3, 4, 6, 3]),
        ("resnet101", "bottleneck", [3, 4, 23, 3]),
    ],
)
def test_resnet_costs_what_transformers_does(name: str, kind: str, depths: list[int]) -> None:
    with torch.device("meta"):
        theirs = resnet(kind, depths, 64, 1000)
    cost = netc.load(SPECS / "resnet.net").model(name).cost({"N": 1})
    assert cost.parameters == sum(p.numel() for p in theirs.parameters())
    assert cost.macs == macs(theirs, 1, 3, 224, 224)


def test_resnet_and_densenet_have_the_names_of_torchvision() -> None:
    names = set(netc.load(SPECS / "resnet.net").model("resnet50").graph.parameters)
    assert {"conv1.weight", "bn1.running_var", "layer1.0.downsample.0.weight", "layer4.2.bn3.bias", "fc.bias"} <= names
    names = set(netc.load(SPECS / "densenet.net").model("densenet121").graph.parameters)
    assert {
        "features.conv0.weight",
        "features.denseblock3.denselayer24.norm2.running_mean",
        "features.transition3.conv.weight",
        "features.norm5.weight",
        "classifier.weight",
    } <= names


def test_densenet_reads_the_older_names_of_torchvision(tmp_path: Path) -> None:
    program = declared(
        tmp_path,
        "densenet",
        "DenseNet, torchvision",
        "model bare = DenseNet([2, 1, 1, 1], 8, 3) (x: f32[N, 3, 32, 32])\n"
        'model loaded = bare |> load("old.safetensors", rename = torchvision)',
    )
    theirs = stirred(program.model("bare").torch()).state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): t for name, t in theirs.items()}
    assert "features.denseblock1.denselayer2.norm.1.weight" in old
    save_file(old, tmp_path / "old.safetensors")
    found = program.model("loaded").torch().state_dict()
    assert all(torch.equal(found[name], t) for name, t in theirs.items())


@pytest.mark.parametrize(
    ("spec", "name", "shape"),
    [
        ("resnet", "resnext50_32x4d", (3, 224, 224)),
        ("resnet", "wide_resnet50_2", (3, 224, 224)),
        ("vgg", "vgg16", (3, 224, 224)),
        ("densenet", "densenet121", (3, 224, 224)),
        ("vovnet", "vovnet39a", (3, 224, 224)),
        ("cspresnet", "cspresnet50", (3, 256, 256)),
        ("inception", "inception_v4", (3, 299, 299)),
        ("unet", "unet", (3, 256, 256)),
        ("unet", "unet_classic", (1, 572, 572)),
        ("widenet", "widenet_b", (3, 224, 224)),
    ],
)
def test_macs_are_those_of_our_own_source(tmp_path: Path, spec: str, name: str, shape: tuple[int, ...]) -> None:
    model = netc.load(SPECS / f"{spec}.net").model(name)
    translation = translate(model.graph)
    path = tmp_path / f"{name}.py"
    path.write_text(translation.text)
    with torch.device("meta"):  # no weights are made
        net = getattr(imported(path), translation.name)()
    assert model.cost({"N": 2}).macs == macs(net, 2, *shape)


# --- WideNet

Weights = dict[str, torch.Tensor]


def widenet(folder: Path, depth: int, experts: int = 4, k: int = 2) -> netc.Model:
    arguments = f"32, 4, depth = {depth}, experts = {experts}, k = {k}, hidden = 48, patch = 2, classes = 5"
    return declared(folder, "widenet", "WideNet", f"model m = WideNet({arguments}) (x: f32[N, 1, 6, 6])").model("m")


def attention(w: Weights, x: torch.Tensor, heads: int = 4) -> torch.Tensor:
    """Multi-head attention, written with softmax."""
    n, t, d = x.shape
    q, k, v = functional.linear(x, w["attn.qkv.weight"], w["attn.qkv.bias"]).view(n, t, 3, heads, -1).unbind(2)
    odds = torch.einsum("nihd,njhd->nhij", q, k).div((d // heads) ** 0.5).softmax(-1)
    y = torch.einsum("nhij,njhd->nihd", odds, v).reshape(n, t, d)
    return functional.linear(y, w["attn.proj.weight"], w["attn.proj.bias"])


def expert(w: Weights, e: int, x: torch.Tensor) -> torch.Tensor:
    hidden = functional.linear(x, w[f"moe.experts.{e}.fc1.weight"], w[f"moe.experts.{e}.fc1.bias"])
    return functional.linear(functional.gelu(hidden), w[f"moe.experts.{e}.fc2.weight"], w[f"moe.experts.{e}.fc2.bias"])


def routed(w: Weights, x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each token through its own experts one after another, and the balance of the choices."""
    odds = functional.linear(x, w["moe.router.weight"]).softmax(-1)
    experts = odds.shape[-1]
    chosen = odds.argsort(-1, descending=True)[..., :k]
    rows = [
        torch.stack([sum(p[e] * expert(w, int(e), row) for e in c) for row, p, c in zip(*sample, strict=True)])
        for sample in zip(x, odds, chosen, strict=True)
    ]
    share = torch.bincount(chosen.flatten(), minlength=experts) / chosen.numel()
    return torch.stack(rows), experts * (share * odds.flatten(0, 1).mean(0)).sum()


def dense(w: Weights, x: torch.Tensor, _: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A feed-forward half without a router."""
    return expert(w, 0, x), torch.ones(())


def transformer(layers: list[Weights], x: torch.Tensor, half: Any, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits and the balance of a transformer that has weights of its own at every depth."""
    w = layers[0]
    norm = lambda name, x: functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)  # noqa: E731
    x = functional.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], 2).flatten(2).transpose(1, 2)
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], 1) + w["pos_embed"]
    balances: list[torch.Tensor] = []
    for i, own in enumerate(layers):
        x = x + attention(own, norm(f"norm1.{i}", x))
        y, balance = half(own, norm(f"norm2.{i}", x), k)
        x = x + y
        balances.append(balance)
    return functional.linear(norm("norm", x)[:, 0], w["head.weight"], w["head.bias"]), torch.stack(balances).mean()


def copies(net: nn.Module, depth: int) -> list[Weights]:
    """The parameters once for every depth, each with a gradient of its own."""
    return [{n: p.detach().clone().requires_grad_() for n, p in net.named_parameters()} for _ in range(depth)]


def test_parameters_do_not_grow_with_the_depth_but_for_norms(tmp_path: Path) -> None:
    found = {depth: widenet(tmp_path, depth) for depth in (1, 2, 9)}
    counts = {depth: found[depth].cost().parameters for depth in found}
    assert counts[2] - counts[1] == 4 * 32
    assert counts[9] - counts[1] == 8 * 4 * 32
    assert {p for p in set(found[9].graph.parameters) ^ set(found[1].graph.parameters) if "norm" not in p} == set()
    net = found[9].torch()
    assert sum(p.numel() for p in net.parameters()) == counts[9]
    assert found[9].cost({"N": 1}).macs > 8 * found[1].cost({"N": 1}).macs


@pytest.mark.parametrize("depth", [1, 4])
def test_gradients_accumulate_in_the_shared_tensors(tmp_path: Path, depth: int) -> None:
    torch.manual_seed(0)
    net = stirred(widenet(tmp_path, depth).torch()).train()
    with torch.no_grad():
        net.moe.router.weight.mul_(20)  # so that tokens differ in their experts
    layers = copies(net, depth)
    x, y = torch.randn(8, 1, 6, 6), torch.arange(8) % 5
    losses = []
    for logits, balance in (net(x), transformer(layers, x, routed, 2)):
        losses.append(functional.cross_entropy(logits, y) + 0.5 * balance)
        losses[-1].backward()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    depths: dict[str, int] = {}
    for name, parameter in net.named_parameters():
        parts = [layer[name].grad for layer in layers if layer[name].grad is not None]
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, sum(parts), rtol=1e-4, atol=1e-6, msg=name)
        depths[name] = len(parts)
    # An expert that no token was sent to at one depth has no gradient there.
    chosen = [depths.pop(name) for name in list(depths) if name.startswith("moe.experts.")]
    assert max(chosen) == depth
    assert sum(chosen) > len(chosen) * depth / 2
    assert depths == {name: depth if name.startswith(("attn.", "moe.router.")) else 1 for name in depths}


def test_one_expert_is_a_tied_dense_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = stirred(widenet(tmp_path, 3, experts=1, k=1).torch())
    x = torch.randn(2, 1, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(net(x), transformer(copies(net, 3), x, dense, 1)[0], rtol=1e-5, atol=1e-5)


def test_exported_source_keeps_the_tie(tmp_path: Path) -> None:
    model = widenet(tmp_path, 3)
    code, data = model.export(tmp_path / "out", to="pytorch")
    text = code.read_text()
    assert text.count("= Attention()") == text.count("= Experts()") == 1
    assert text.count("self.attn(") == text.count("self.moe(") == 3
    assert set(load_file(data)) == set(model.graph.parameters)
    made = imported(code).load(data)
    assert sum(p.numel() for p in made.parameters()) == model.cost().parameters
    x = torch.randn(2, 1, 6, 6)
    with torch.no_grad():
        assert torch.equal(made(x), model.torch().eval()(x))
        # One weight changed is changed at every depth.
        made.attn.proj.weight.mul_(2)
        layers = copies(made, 3)
        torch.testing.assert_close(made(x), transformer(layers, x, routed, 2)[0], rtol=1e-5, atol=1e-5)
