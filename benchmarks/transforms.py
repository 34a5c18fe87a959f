"""Transforms beside the tools that do the same work: times, and whether the results are the same.

    python -m venv peers
    peers/bin/pip install . "torch-pruning==1.6.1" "mergekit==0.1.5"
    peers/bin/pip install --no-deps "ofa==0.1.0.post202307202001"
    peers/bin/python benchmarks/transforms.py [--only prune merge …] [--threads 2] [--rounds 7]

Where a peer is not installed, its rows are left out. Of ofa only the networks are used: an empty module stands in for
its data loaders, which want torchvision and a PyTorch of long ago.

Both do the same work on the same numbers, with the same number of threads, from models in memory to a result with all
its numbers computed; netc, which computes numbers when they are read, reads all. They take turns, and who begins a
round changes, so that a busy machine slows both alike. What a tool destroys is copied before the clock starts. Printed
are medians of wall time as a Markdown table, netc's ratio to the peer (below 1 netc is faster), and how the results
compare:

- prune: torch-pruning's dependency graph and pruner, and netc's `prune`: 30 % of the channels, by the L2 norm of
  their group. Compared are all numbers that stay. torch-pruning gives the weights of depthwise convolutions no score,
  and so keeps other channels of MobileNet-V2.
- extract: a sub-network of the once-for-all MobileNetV3 by ofa's `get_active_subnet`, and by netc: the same supernet as
  a spec, blocks taken out with `drop`, and the first channels of what is elastic. All kernels are 7 × 7: smaller ones
  of ofa are crops times learned matrices, for which netc has no transform. Compared are all numbers, and outputs.
- merge: TIES on three variants of a Llama, by mergekit's `merge_state_dicts` and netc's `merge`. Compared are all
  numbers.
- stitch: stitching layers between two models by least squares, in plain PyTorch (features by hooks,
  `torch.linalg.lstsq` in float64, by the fastest of LAPACK's drivers that solves them) and by netc's
  `stitch(init = lstsq(...))`, on 64 random images. Compared are the layers' numbers.
"""

from __future__ import annotations

import argparse
import copy
import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
COLUMNS = ["work", "peer", "netc s", "peer s", "netc / peer", "results"]
PAUSE = 0.05
"""Seconds before each run: threads that wait actively for more work keep a core for a while."""


@dataclass(frozen=True)
class Comparison:
    """The same work done twice. `fresh` makes what the peer works on and may destroy; `differ` says how the results,
    netc's and the peer's, compare."""

    work: str
    peer: str
    netc: Callable[[], Any]
    fresh: Callable[[], Any]
    theirs: Callable[[Any], Any]
    differ: Callable[[Any, Any], str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(WORKS), choices=WORKS)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    # Read once, by the libraries, when they first run something.
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(options.threads)
    import torch

    torch.set_num_threads(options.threads)
    packages = ", ".join(filter(None, map(installed, ("torch", "numpy", "torch-pruning", "ofa", "mergekit"))))
    print(f"Python {platform.python_version()}, {packages}; {options.threads} threads, {options.rounds} rounds")
    print(f"\n| {' | '.join(COLUMNS)} |\n| --- | --- |{' ---: |' * 3} --- |")
    for name in options.only:
        peer, comparisons = WORKS[name]
        if peer is None or installed(peer):
            for comparison in comparisons():
                print(row(comparison, options.rounds), flush=True)


def installed(package: str) -> str | None:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return None


def row(comparison: Comparison, rounds: int) -> str:
    results = comparison.differ(comparison.netc(), comparison.theirs(comparison.fresh()))
    ours: list[float] = []
    theirs: list[float] = []
    for turn in range(rounds):
        for own in (True, False) if turn % 2 else (False, True):
            (ours if own else theirs).append(seconds(comparison, own))
    a, b = median(ours), median(theirs)
    return f"| {comparison.work} | {comparison.peer} | {a:.3f} | {b:.3f} | {a / b:.2f} | {results} |"


def seconds(comparison: Comparison, own: bool) -> float:
    given = None if own else comparison.fresh()
    gc.collect()
    time.sleep(PAUSE)
    start = time.perf_counter()
    if own:
        comparison.netc()
    else:
        comparison.theirs(given)
    return time.perf_counter() - start


def model(spec: str, name: str, seed: int = 0) -> Any:
    """A model of the specs with numbers of which none are neutral, at hand."""
    import netc
    from netc.compiler.probe import probed

    return probed(netc.load(ROOT / "specs" / f"{spec}.net", root=ROOT).model(name).graph, seed)


def module(graph: Any) -> Any:
    """A model as a module of PyTorch that others may change."""
    from netc.compiler.backend import backend

    made = backend("pytorch").module(graph)
    for parameter in made.parameters():
        parameter.requires_grad_()
    return made.eval()


def furthest(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """The largest difference between arrays, relative to the largest number of each."""
    import numpy as np

    assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())
    shapes = {n: (a.shape, theirs[n].shape) for n, a in ours.items() if a.shape != theirs[n].shape}
    assert not shapes, shapes
    return max(float(np.abs(a - theirs[n]).max() / max(np.abs(a).max(), 1e-30)) for n, a in ours.items())


def said(difference: float) -> str:
    return "equal" if difference == 0 else f"{difference:.0e} apart"


# -------------------------------------------------------------------------------------------------------------- prune


def pruned() -> Iterator[Comparison]:
    for spec, name, classifier, size in (
        ("resnet_cifar", "resnet56_projected", "linear", 32),
        ("resnet", "resnet50", "fc", 224),
        ("mobilenet_v2", "mobilenet_v2", "classifier", 224),
    ):
        yield pruning(model(spec, name), classifier, size)


def pruning(graph: Any, classifier: str, size: int) -> Comparison:
    import torch
    import torch_pruning
    from netc.compiler.transforms.limit import spent
    from netc.compiler.transforms.prune import prune
    from netc.compiler.weights import values
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.randn(1, 3, size, size)
    net = module(graph)

    def ours() -> dict[str, Any]:
        return values(prune(graph, ratio=0.3).graph)

    def theirs(net: Any) -> Any:
        score = torch_pruning.importance.GroupMagnitudeImportance(p=2)
        ignored = [net.get_submodule(classifier)]
        torch_pruning.pruner.BasePruner(net, x, score, pruning_ratio=0.3, ignored_layers=ignored).step()
        return net

    def differ(ours: dict[str, Any], net: Any) -> str:
        state = net.state_dict()
        apart = furthest(ours, {n: state[n].numpy() for n in ours})
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(x)
        parameters, macs = sum(p.numel() for p in net.parameters()), counter.get_total_flops() // 2
        after = prune(graph, ratio=0.3).graph
        found = spent(after, "parameters"), spent(after, "macs")
        same = f"both {parameters / 1e6:.3g} M parameters, {macs / 1e6:.4g} M MACs"
        assert found == (parameters, macs), (found, parameters, macs)
        return f"{'other channels' if apart else 'equal'}; {same}"

    return Comparison(f"prune {graph.name}", "torch-pruning", ours, lambda: copy.deepcopy(net), theirs, differ)


# ------------------------------------------------------------------------------------------------------------ extract


SUPERNET = """
import "specs/mobilenet_v3.net" { DepthwiseSeparable, InvertedResidual }

# As published, but for the order of stages' settings: squeeze, activation, channels, stride.
module Supernet(depth, expansion, kernel) (x: [N, 3, H, W]) -> [N, _] {
    x = x |> conv2d(16, 3, 2, 1, bias = false) as first.conv |> batch_norm as first.bn |> hardswish
    x = x |> DepthwiseSeparable(16) as blocks.0
    stages = [
        [false, relu, 24, 2], [true, relu, 40, 2], [false, hardswish, 80, 2], [true, hardswish, 112, 1],
        [true, hardswish, 160, 2],
    ]
    for i, s in stages {
        for j in 0..depth {
            wide = x.shape[1] * expansion
            stride = s[3] if j == 0 else 1
            x = x |> InvertedResidual(s[2], wide, kernel, stride, s[0], s[1]) as "blocks.{1 + depth * i + j}"
        }
    }
    x = x |> conv2d(960, 1, bias = false) as expand.conv |> batch_norm as expand.bn |> hardswish
    x = x |> mean([2, 3], keepdim = true) |> conv2d(1280, 1, bias = false) as mix |> hardswish
    return logits = x |> flatten(1) |> linear(1000) as classifier
}

model supernet = Supernet(4, 6, 7) (x: f32[N, 3, 224, 224])
"""
"""The once-for-all MobileNetV3 (Cai et al., 2020) with all that is elastic at its largest."""

OUTSIDE = {
    "first.": "first_conv.",
    "expand.": "final_expand_layer.",
    "mix.": "feature_mix_layer.conv.",
    "classifier.": "classifier.linear.",
}
FIRST = {
    "conv_dw.": "conv.depth_conv.conv.",
    "bn1.": "conv.depth_conv.bn.",
    "conv_pw.": "conv.point_linear.conv.",
    "bn2.": "conv.point_linear.bn.",
}
OTHERS = {
    "conv_pw.": "conv.inverted_bottleneck.conv.",
    "bn1.": "conv.inverted_bottleneck.bn.",
    "conv_dw.": "conv.depth_conv.conv.",
    "bn2.": "conv.depth_conv.bn.",
    "se.conv_reduce.": "conv.depth_conv.se.fc.reduce.",
    "se.conv_expand.": "conv.depth_conv.se.fc.expand.",
    "conv_pwl.": "conv.point_linear.conv.",
    "bn3.": "conv.point_linear.bn.",
}
"""Our names and ofa's: of the first block, and of others."""
DEPTHS = [2, 3, 4, 3, 2]
"""Blocks of each stage, of 4."""
EXPANSIONS = [3, 4, 6, 4]
"""By block of a stage, of 6."""


def theirs_of(path: str) -> str:
    """The name of a parameter in ofa."""
    if not path.startswith("blocks."):
        own = next(n for n in OUTSIDE if path.startswith(n))
        return OUTSIDE[own] + path.removeprefix(own)
    _, number, rest = path.split(".", 2)
    names = OTHERS if number != "0" else FIRST
    own = next(n for n in names if rest.startswith(n))
    return f"blocks.{number}.{names[own]}{rest.removeprefix(own)}"


def extracted() -> Iterator[Comparison]:
    import numpy as np
    import torch
    from netc.compiler.axes import Selection, analyse
    from netc.compiler.graph import ParameterRef
    from netc.compiler.model import Model
    from netc.compiler.probe import probed
    from netc.compiler.program import read_source
    from netc.compiler.source import Source
    from netc.compiler.transforms.drop import drop
    from netc.compiler.weights import values

    sys.modules["ofa.utils.my_dataloader"] = ModuleType("ofa.utils.my_dataloader")
    from ofa.imagenet_classification.elastic_nn.networks.ofa_mbv3 import OFAMobileNetV3
    from ofa.utils import make_divisible

    graph = probed(read_source(Source(str(ROOT / "supernet.net"), SUPERNET)).model("supernet").graph)
    net = OFAMobileNetV3(dropout_rate=0, ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6], depth_list=[2, 3, 4])
    inner = {n.replace(".conv.conv.", ".conv.").replace(".bn.bn.", ".bn."): t for n, t in net.state_dict().items()}
    for path, array in values(graph).items():
        inner[theirs_of(path)].copy_(torch.from_numpy(array))
    net.set_active_subnet(ks=7, e=EXPANSIONS * 5, d=DEPTHS)
    stay = [(1 + 4 * i + j, EXPANSIONS[j]) for i, depth in enumerate(DEPTHS) for j in range(depth)]
    gone = [f"blocks.{n}" for n in range(1, 21) if n not in dict(stay)]

    def extract() -> Any:
        analysis = analyse(drop(graph, gone).graph)
        units: dict[Any, Any] = {}
        for number, expansion in stay:
            for layer, divisor in (("conv_pw", 1), ("se.conv_reduce", 4)):
                ref = ParameterRef(f"blocks.{number}.{layer}.weight")
                if ref in analysis.axes:
                    ((own, _),) = analysis.of(ref, 0)
                    wide = int(str(analysis.graph.parameters[f"blocks.{number}.conv_pw.weight"].type.shape[1]))
                    units[own] = np.arange(make_divisible(wide * expansion // divisor, 8))
        return Selection(analysis, units).graph()

    def differ(ours: dict[str, Any], found: Any) -> str:
        order = {str(number): str(i) for i, (number, _) in enumerate([(0, 1), *stay])}
        named: dict[str, Any] = {}
        for path, array in ours.items():
            first, number, *rest = theirs_of(path).split(".")
            named[".".join([first, order[number] if first == "blocks" else number, *rest])] = array
        state = {n: t.numpy() for n, t in found.state_dict().items() if not n.endswith("num_batches_tracked")}
        x = torch.randn(2, 3, 224, 224)
        with torch.no_grad():
            wanted, made = found.eval()(x), Model("sub", extract()).torch()(x)
        outputs = furthest({"logits": made.numpy()}, {"logits": wanted.numpy()})
        return f"numbers {said(furthest(named, state))}; outputs {said(outputs)}"

    def theirs(_: Any) -> Any:
        return net.get_active_subnet(preserve_weight=True)

    work = f"extract {len(stay) + 1} of 21 blocks"
    yield Comparison(work, "ofa", lambda: values(extract()), lambda: None, theirs, differ)


# -------------------------------------------------------------------------------------------------------------- merge


LLAMA = """
import "specs/llama.net" { Decoder, SelfAttention, SwiGLU }

model llama = Decoder(16_000, 768, 8, SelfAttention(12, 4), SwiGLU(2048)) (tokens: i64[N, T])
"""


def merged() -> Iterator[Comparison]:
    import numpy as np
    import torch
    from mergekit.merge_methods import merge_state_dicts
    from netc.compiler.program import read_source
    from netc.compiler.source import Source
    from netc.compiler.transforms.merge import merge
    from netc.compiler.transforms.task_arithmetic import Ties
    from netc.compiler.weights import InMemory, values

    plain = read_source(Source(str(ROOT / "llama.net"), LLAMA)).model("llama").graph
    rng = np.random.default_rng(0)

    def numbers(kind: Any, scale: float) -> Any:
        return rng.standard_normal(kind.shape, np.float32) * np.float32(scale)

    start = {path: numbers(p.type, 0.02) for path, p in plain.parameters.items()}
    tuned = [{path: a + numbers(a, 0.002) for path, a in start.items()} for _ in range(3)]
    base, *models = (
        plain.with_parameters(replace(plain.parameters[n], data=InMemory(a)) for n, a in arrays.items())
        for arrays in (start, *tuned)
    )
    states = [{n: torch.from_numpy(a) for n, a in arrays.items()} for arrays in (start, *tuned)]

    def ours() -> dict[str, Any]:
        return values(merge(*models, method=Ties(base, density=0.5)).graph)

    def theirs(_: Any) -> Any:
        return merge_state_dicts(states, "ties", parameters={"density": 0.5, "weight": 1.0}, base=0)

    def differ(ours: dict[str, Any], found: dict[str, Any]) -> str:
        apart = [abs(a - found[n].numpy()) for n, a in ours.items()]
        count, of = sum(int((d > 1e-6).sum()) for d in apart), sum(d.size for d in apart)
        rest = max(float(d[d <= 1e-6].max()) for d in apart)
        return f"{count} of {of:,} numbers differ, the others by at most {rest:.0e}"

    count = sum(a.size for a in start.values())
    yield Comparison(f"TIES of 3 × {count / 1e6:.0f} M", "mergekit", ours, lambda: None, theirs, differ)


# ------------------------------------------------------------------------------------------------------------- stitch


def stitched() -> Iterator[Comparison]:
    # The features of a ResNet have dead units: of them, other drivers of LAPACK make nothing.
    yield stitching(model("vit", "deit_tiny"), model("vit", "deit_small", 1), "norm1", "gels")
    yield stitching(model("resnet", "resnet18"), model("resnet", "resnet34", 1), "conv1", "gelsd")


def stitching(first: Any, last: Any, layer: str, driver: str, samples: int = 64) -> Comparison:
    """`layer` is what each block does first with what it gets; `driver` solves PyTorch's least squares."""
    import numpy as np
    import torch
    from netc.compiler.blocks import blocks
    from netc.compiler.calibration import Calibration, Source
    from netc.compiler.transforms.solve import Lstsq
    from netc.compiler.transforms.stitch import stitch
    from netc.compiler.weights import value

    images = np.random.default_rng(0).standard_normal((samples, 3, 224, 224), np.float32)

    class Held(Source):
        def read(self, node: Any, folder: Any, count: int) -> Any:
            return images[:count]

    init = Lstsq(Calibration("images", Held()), samples=samples, ridge=0.0)
    nets = [module(g) for g in (first, last)]
    paths = [[b.path for b in blocks(g)] for g in (first, last)]
    store = stitch(first, last, pairs="depth", init=init).parameters
    names = sorted({p.rpartition(".project.")[0] for p in store if p.startswith("stitch.")})
    junctions = {n: tuple(int(part.rpartition("_")[2]) for part in n.split(".")[1:]) for n in names}
    seen = sorted({leave + 1 for leave, _ in junctions.values()}), sorted({enter for _, enter in junctions.values()})

    def ours() -> dict[str, Any]:
        family = stitch(first, last, pairs="depth", init=init)
        return {p: value(a) for p, a in family.parameters.items() if p.startswith("stitch.")}

    def theirs(_: Any) -> dict[str, Any]:
        kept = watched(nets, [[f"{p}.{layer}" for p in own] for own in paths], seen, torch.from_numpy(images))
        found: dict[str, Any] = {}
        for name, (leave, enter) in junctions.items():
            y = kept[1, enter]
            x = rows(kept[0, leave + 1], y.shape[-1])
            ones = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
            solution = torch.linalg.lstsq(ones, rows(y), driver=driver).solution.T.float()
            found[f"{name}.project.weight"], found[f"{name}.project.bias"] = solution[:, :-1], solution[:, -1]
        return found

    def differ(ours: dict[str, Any], found: dict[str, Any]) -> str:
        return said(furthest(ours, {n: found[n].numpy().reshape(a.shape) for n, a in ours.items()}))

    work = f"{len(junctions)} stitches {first.name} → {last.name}"
    return Comparison(work, f"PyTorch, {driver}", ours, lambda: None, theirs, differ)


def watched(nets: Any, layers: Any, numbers: Any, images: Any) -> dict[tuple[int, int], Any]:
    """What layers of two modules get, by module and number, in one run over images."""
    import torch

    kept: dict[tuple[int, int], list[Any]] = {}
    hooks: list[Any] = []
    for which, net in enumerate(nets):
        for number in numbers[which]:
            into = kept.setdefault((which, number), [])
            watch = net.get_submodule(layers[which][number]).register_forward_pre_hook
            hooks.append(watch(lambda _, x, into=into: into.append(x[0])))
    with torch.no_grad():
        for part in images.split(16):
            for net in nets:
                net(part)
    for hook in hooks:
        hook.remove()
    return {key: torch.cat(parts) for key, parts in kept.items()}


def rows(tensor: Any, width: int | None = None) -> Any:
    """Features as rows; of images that are larger than wanted, pixels at regular distances."""
    if tensor.dim() == 4:
        step = tensor.shape[-1] // width if width else 1
        tensor = tensor[:, :, ::step, ::step].permute(0, 2, 3, 1)
    return tensor.reshape(-1, tensor.shape[-1]).double()


WORKS: dict[str, tuple[str | None, Callable[[], Iterator[Comparison]]]] = {
    "prune": ("torch-pruning", pruned),
    "extract": ("ofa", extracted),
    "merge": ("mergekit", merged),
    "stitch": (None, stitched),
}
"""What is compared, and the package it needs."""


if __name__ == "__main__":
    main()
