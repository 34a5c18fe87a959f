"""Models in 8-bit integers: latency beside float32 and ONNX Runtime, and what pretrained models see in photos.

    python benchmarks/quantization.py [--threads 2] [--turns 21] [--skip photos | latency]

Latency: ResNet-50 and MobileNet-V2 with random weights, calibrated on noise; netc and ONNX Runtime run the model of
float32 and the very same quantised one (as ONNX with QuantizeLinear and DequantizeLinear), each in a process of its own
with the same number of threads, in turns.

Photos: EfficientNet-Lite0 and -Lite1 with the weights that their authors published, calibrated on random crops of
scikit-image's pictures, on the central squares of the same pictures: how often the first choice, and how many of the
first five, are those of float32. *Sure*: the same for pictures in which float32 gives its choice 0.3 and more.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import netc
import numpy as np
import onnxruntime
import skimage
from netc.backends.bench.board import start
from netc.backends.bench.peer import NETC, PEERS
from netc.backends.bench.race import race
from netc.backends.bench.subject import Subject
from netc.backends.bench.weight import lively
from netc.backends.pytorch import Interpreter
from netc.backends.relax.artifact import Artifact
from netc.compiler.calibration import Calibration, Noise, Pictures
from netc.compiler.graph import Graph
from netc.compiler.library import level_steps
from netc.compiler.passes.bind import bind
from netc.compiler.pipeline import run
from netc.compiler.transforms.quantize import quantize
from PIL import Image

SPECS = Path(__file__).parents[1] / "specs"
MODELS = {"resnet50": "resnet.net", "mobilenet_v2": "mobilenet_v2.net"}
PRETRAINED = {"lite0_pretrained": 224, "lite1_pretrained": 240}
PHOTOS = Path(skimage.__file__).parent / "data"
SURE = 0.3
TOP = 5

Run = Callable[[Any], Any]
"""Logits of a picture [1, 3, H, W]."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=21)
    parser.add_argument("--samples", type=int, default=64, help="crops that scales are found on")
    parser.add_argument("--skip", choices=["photos", "latency"], nargs="*", default=[])
    options = parser.parse_args()
    if "latency" not in options.skip:
        print("| ms | netc f32 | netc int8 | ONNX Runtime f32 | ONNX Runtime int8 | int8 / f32 | netc / ONNX Runtime |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        for name, file in MODELS.items():
            print(f"| {' | '.join(latency(name, file, options.threads, options.turns))} |", flush=True)
    if "photos" not in options.skip:
        print("\n| | same | sure | top 5 | difference |\n| --- | ---: | ---: | ---: | ---: |")
        for name, size in PRETRAINED.items():
            for row in agreement(name, size, options.samples, options.threads):
                print(f"| {' | '.join(row)} |", flush=True)


def latency(name: str, file: str, threads: int, turns: int) -> list[str]:
    """Medians, and medians of ratios of two times of the same turn."""
    whole = bind(lively(netc.load(SPECS / file).model(name).graph), {"N": 1})
    small = quantize(whole, Calibration("noise", Noise()), 4).graph
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        running: dict[str, Any] = {}
        for dtype, graph in (("f32", whole), ("int8", small)):
            subject = Subject(graph, lambda graph=graph: optimised(graph), Path(folder) / dtype, threads)
            for peer in (NETC, PEERS["onnxruntime"]):
                running[f"{peer.name} {dtype}"] = stack.enter_context(start(subject, peer).process)
        taken = race(running, turns)
    numbers = [
        f"{1e3 * median(taken[k]):.2f}" for k in sorted(taken, key=lambda k: (k.split()[0], k.split()[1] == "int8"))
    ]
    own, other = ratio(taken["netc int8"], taken["netc f32"]), ratio(taken["netc int8"], taken["onnxruntime int8"])
    return [name, *numbers, own, other]


def optimised(graph: Graph) -> Graph:
    return run(graph, level_steps(2, 0)).final


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    return f"{median(a / b for a, b in zip(ours, theirs, strict=True)):.2f}"


class Seen(NamedTuple):
    """A picture: how sure float32 is of its first choice, and what others give beside its logits."""

    sure: float
    logits: Any
    others: dict[str, Any]


def agreement(name: str, size: int, samples: int, threads: int) -> list[list[str]]:
    model = netc.load(SPECS / "efficientnet_lite.net").model(name)
    whole = bind(model.graph, {"N": 1})
    crops = Calibration("photos", Pictures(path=str(PHOTOS), only=("*.png", "*.jpg")))
    small = bind(quantize(model.graph, crops, samples, method="mse").graph, {"N": 1})
    with tempfile.TemporaryDirectory() as folder:
        runs = {"PyTorch": interpreted(small), **compiled(small, Path(folder), threads)}
        exact = interpreted(whole)
        seen: list[Seen] = []
        for photo in (square(path, size) for path in sorted(PHOTOS.iterdir()) if path.suffix in (".png", ".jpg")):
            logits = exact(photo)
            odds = np.exp(logits - logits.max())
            seen.append(Seen(float((odds / odds.sum()).max()), logits, {k: f(photo) for k, f in runs.items()}))
    return [counted(name, runtime, seen) for runtime in runs]


def interpreted(graph: Graph) -> Run:
    call = Interpreter(graph, kept=True)
    (input,) = graph.inputs
    return lambda photo: next(iter(call({input: photo}).values()))


def compiled(graph: Graph, folder: Path, threads: int) -> dict[str, Run]:
    """The model of integers by netc, and by ONNX Runtime from the file that netc exports."""
    subject = Subject(graph, lambda: optimised(graph), folder, threads)
    artifact = Artifact.load(subject.made("artifact"), threads=threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    file = subject.made("onnx") / "model.onnx"
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (slot,) = session.get_inputs()
    return {
        "netc": lambda photo: artifact.run([photo])[0],
        "ONNX Runtime": lambda photo: session.run(None, {slot.name: photo})[0],
    }


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
    shared = [len(best(s.others[runtime]) & best(s.logits)) / TOP for s in seen]
    apart = [float(np.abs(s.others[runtime] - s.logits).max() / np.abs(s.logits).max()) for s in seen]
    same = f"{sum(map(first, seen))} of {len(seen)}"
    return [
        f"{name}, {runtime}",
        same,
        f"{sum(map(first, sure))} of {len(sure)}",
        f"{np.mean(shared):.2f}",
        f"{np.mean(apart):.3f}",
    ]


if __name__ == "__main__":
    main()
