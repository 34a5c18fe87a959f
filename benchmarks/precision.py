"""Models in bf16, f16 and 8-bit integers: latency beside float32 and ONNX Runtime, what is lost, and what pretrained
models see in photos.

    python benchmarks/precision.py [--only resnet50 …] [--threads 2] [--turns 15] [--skip photos | latency]

Latency: random weights, batch 1, 128 tokens, no records of tuning; each candidate in a process of its own with the same
number of threads, in turns. bf16 and f16 are what the pass `mixed_precision` makes after `-O2`. int8 is calibrated on
noise, and ONNX Runtime runs the very model that netc exports, with QuantizeLinear and DequantizeLinear. Differences are
the largest to PyTorch in float64, relative to the largest output.

Photos: EfficientNet-Lite0 and -Lite1 with the weights that their authors published, on the central squares of
scikit-image's pictures: how often the first choice, and how many of the first five, are those of float32. *Sure*: the
same for pictures in which float32 gives its choice 0.3 and more. int8 is calibrated on random crops of these pictures.

Needs what `make test` installs (photos, and the weights of the pretrained models), and the extra `bench`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import netc
import numpy as np
import onnxruntime
import skimage
from netc.backends.bench.board import difference, start
from netc.backends.bench.peer import NETC, PEERS
from netc.backends.bench.process import Process
from netc.backends.bench.race import race
from netc.backends.bench.subject import Subject
from netc.backends.bench.weight import lively
from netc.backends.pytorch import Interpreter
from netc.backends.relax.artifact import Artifact
from netc.compiler.calibration import Calibration, Noise, Pictures
from netc.compiler.cost import assumed
from netc.compiler.graph import Graph
from netc.compiler.library import level_steps, library
from netc.compiler.passes.bind import bind
from netc.compiler.pipeline import Step, run
from netc.compiler.transforms.quantize import quantize
from PIL import Image

SPECS = Path(__file__).parents[1] / "specs"
MODELS = {
    "resnet50": "resnet.net",
    "mobilenet_v2": "mobilenet_v2.net",
    "deit_tiny": "vit.net",
    "bert_mini": "bert.net",
    "gpt2_block": "gpt2.net",
}
INTEGERS = ("resnet50", "mobilenet_v2")
"""Those that are also run as integers."""
HALF = ("bf16", "f16")
PRETRAINED = {"lite0_pretrained": 224, "lite1_pretrained": 240}
PHOTOS = Path(skimage.__file__).parent / "data"
SURE = 0.3
TOP = 5

ORT = PEERS["onnxruntime"]
CANDIDATES = {
    **{f"netc {dtype}": (NETC, dtype) for dtype in ("f32", *HALF, "int8")},
    **{f"ONNX Runtime {dtype}": (ORT, dtype) for dtype in ("f32", "int8")},
}

PAIR = ("netc int8", "ONNX Runtime int8")
"""Whose ratio is measured in turns of their own, four times as many: beside others it varied by a factor of two."""

Run = Callable[[Any], Any]
"""Logits of a picture [1, 3, H, W]."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--samples", type=int, default=64, help="crops that scales of integers are found on")
    parser.add_argument("--skip", choices=["photos", "latency"], nargs="*", default=[])
    options = parser.parse_args()
    if "latency" not in options.skip:
        table("ms", *CANDIDATES, *(f"{d} / f32" for d in (*HALF, "int8")), "int8: netc / ONNX Runtime")
        lost: list[list[str]] = []
        for name in options.only:
            times, differences = measured(name, options.threads, options.turns)
            print(row(name, *times), flush=True)
            lost.append([name, *differences])
        table("difference", *CANDIDATES)
        print(*(row(*cells) for cells in lost), sep="\n", flush=True)
    if "photos" not in options.skip:
        table("", "same", "sure", "top 5", "mean difference")
        for name, size in PRETRAINED.items():
            for cells in agreement(name, size, options.samples, options.threads):
                print(row(*cells), flush=True)


def table(*names: str) -> None:
    print(f"\n{row(*names)}\n{row('---', *['---:'] * (len(names) - 1))}", flush=True)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def measured(name: str, threads: int, turns: int) -> tuple[list[str], list[str]]:
    """Medians of times and of ratios of two times of the same turn; then differences."""
    graph = netc.load(SPECS / MODELS[name]).model(name).graph
    graph = bind(lively(graph), assumed(graph))
    wanted = {c: given for c, given in CANDIDATES.items() if given[1] != "int8" or name in INTEGERS}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        made: dict[str, Subject] = {}
        running: dict[str, Process] = {}
        for candidate, (peer, dtype) in wanted.items():
            if dtype not in made:
                made[dtype] = subject(graph, dtype, Path(folder) / dtype, threads)
            running[candidate] = stack.enter_context(start(made[dtype], peer).process)
        taken = race(running, turns)
        exact = made["f32"].exact()
        lost = [f"{difference(running[c].results(), exact):.1e}" if c in running else "–" for c in CANDIDATES]
        stack.close()
        alone: dict[str, list[float]] = {}
        if name in INTEGERS:
            with ExitStack() as pair:
                both = {c: start(made["int8"], CANDIDATES[c][0]).process for c in PAIR}
                for process in both.values():
                    pair.enter_context(process)
                alone = race(both, 4 * turns)
    times = [f"{1e3 * median(taken[c]):.2f}" if c in taken else "–" for c in CANDIDATES]
    ratios = [ratio(taken, f"netc {dtype}", "netc f32") for dtype in (*HALF, "int8")]
    return [*times, *ratios, ratio(alone, *PAIR)], lost


def subject(graph: Graph, dtype: str, folder: Path, threads: int) -> Subject:
    """A model of float32 in other numbers."""
    if dtype == "int8":
        graph = quantize(graph, Calibration("noise", Noise()), 4).graph
    return Subject(graph, partial(optimised, graph, dtype), folder, threads)


def optimised(graph: Graph, dtype: str = "f32") -> Graph:
    steps = level_steps(2, 0)
    if dtype in HALF:
        steps = (*steps, Step(library()["mixed_precision"], {"dtype": dtype}))
    return run(graph, steps).final


def ratio(taken: dict[str, list[float]], ours: str, theirs: str) -> str:
    if ours not in taken or theirs not in taken:
        return "–"
    return f"{median(a / b for a, b in zip(taken[ours], taken[theirs], strict=True)):.2f}"


class Seen(NamedTuple):
    """A picture: how sure float32 is of its first choice, its logits, and those of others."""

    sure: float
    logits: Any
    others: dict[str, Any]


def agreement(name: str, size: int, samples: int, threads: int) -> list[list[str]]:
    model = netc.load(SPECS / "efficientnet_lite.net").model(name)
    whole = bind(model.graph, {"N": 1})
    crops = Calibration("photos", Pictures(path=str(PHOTOS), only=("*.png", "*.jpg")))
    small = bind(quantize(model.graph, crops, samples, method="mse").graph, {"N": 1})
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        runs = {f"netc {d}": compiled(whole, d, place / d, threads) for d in ("f32", *HALF)}
        runs["netc int8"] = compiled(small, "int8", place / "int8", threads)
        runs["PyTorch int8"] = interpreted(small)
        runs["ONNX Runtime int8"] = exported(small, place / "onnx", threads)
        exact = interpreted(whole)
        seen: list[Seen] = []
        for photo in (square(path, size) for path in sorted(PHOTOS.iterdir()) if path.suffix in (".png", ".jpg")):
            logits = exact(photo)
            odds = np.exp(logits - logits.max())
            seen.append(Seen(float((odds / odds.sum()).max()), logits, {k: f(photo) for k, f in runs.items()}))
    return [counted(name.partition("_")[0], runtime, seen) for runtime in runs]


def interpreted(graph: Graph) -> Run:
    call = Interpreter(graph, kept=True)
    (input,) = graph.inputs
    return lambda photo: next(iter(call({input: photo}).values()))


def compiled(graph: Graph, dtype: str, folder: Path, threads: int) -> Run:
    made = Subject(graph, partial(optimised, graph, dtype), folder, threads).made("artifact")
    artifact = Artifact.load(made, threads=threads)
    return lambda photo: artifact.run([photo])[0]


def exported(graph: Graph, folder: Path, threads: int) -> Run:
    """The file that netc exports, run by ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    file = Subject(graph, lambda: graph, folder, threads).made("onnx") / "model.onnx"
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (slot,) = session.get_inputs()
    return lambda photo: session.run(None, {slot.name: photo})[0]


def square(path: Path, size: int) -> Any:
    """The central square of a picture as bytes [1, 3, size, size]."""
    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box)).transpose(2, 0, 1)[None].copy()


def counted(name: str, runtime: str, seen: Sequence[Seen]) -> list[str]:
    def first(s: Seen) -> bool:
        return bool(s.others[runtime].argmax() == s.logits.argmax())

    def best(logits: Any) -> set[int]:
        return set(np.argsort(-logits[0])[:TOP].tolist())

    sure = [s for s in seen if s.sure > SURE]
    shared = float(np.mean([len(best(s.others[runtime]) & best(s.logits)) / TOP for s in seen]))
    apart = float(np.mean([np.abs(s.others[runtime] - s.logits).max() / np.abs(s.logits).max() for s in seen]))
    same = f"{sum(map(first, seen))} of {len(seen)}"
    return [f"{name}, {runtime}", same, f"{sum(map(first, sure))} of {len(sure)}", f"{shared:.2f}", f"{apart:.4f}"]


if __name__ == "__main__":
    main()
