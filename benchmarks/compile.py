"""How fast compiled models are: netc's TVM artifact beside PyTorch (eager) and ONNX Runtime, on the same weights.

    python benchmarks/compile.py                                  # a few of the specs
    python benchmarks/compile.py specs/vit.net:deit_tiny --threads 2 --rounds 20

All get the same batch of 1, the same number of threads and numpy arrays (PyTorch: tensors over them). They take turns,
so that a busy machine slows all of them alike, and begin each turn with a run that does not count. Printed are medians
of wall time as a Markdown table, netc's ratio to the others (below 1 netc is faster), and the largest difference
between netc's and PyTorch's outputs, relative to the largest element.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import median

SPECS = Path(__file__).parents[1] / "specs"
MODELS = [
    "resnet.net:resnet18",
    "resnet.net:resnet50",
    "mobilenet_v2.net:mobilenet_v2",
    "vit.net:deit_tiny",
    "gpt2.net:gpt2",
]
RUNS = 4
"""Runs that count in a turn."""
PAUSE = 0.05
"""Seconds between turns: threads that wait actively for more work keep a core for a while."""
COLUMNS = ["model", "compile s", "netc ms", "torch ms", "ort ms", "netc/torch", "netc/ort", "difference"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="FILE:MODEL", default=[str(SPECS / m) for m in MODELS])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=10, help="turns that each gets")
    parser.add_argument("--length", type=int, default=128, help="what symbolic sizes other than the batch are")
    options = parser.parse_args()
    # Read once, by the libraries, when they first run something.
    os.environ["OMP_NUM_THREADS"] = os.environ["TVM_NUM_THREADS"] = str(options.threads)
    packages = ", ".join(f"{p} {version(p)}" for p in ("apache-tvm", "torch", "onnxruntime"))
    print(f"Python {platform.python_version()}, {packages}; {options.threads} threads, {options.rounds * RUNS} runs")
    print(f"\n| {' | '.join(COLUMNS)} |\n| --- |{' ---: |' * (len(COLUMNS) - 1)}")
    for name in options.models:
        measure(name, options.threads, options.rounds, options.length)


def measure(name: str, threads: int, rounds: int, length: int) -> None:
    """Print one line."""
    import netc
    import numpy as np
    import onnxruntime
    import torch
    from netc.backends.relax.build import probe
    from netc.compiler.passes.bind import bind
    from netc.compiler.types import symbols

    torch.set_num_threads(threads)
    path, _, title = name.rpartition(":")
    declared = netc.load(path).model(title)
    free = {s for node in declared.graph.inputs.values() for d in node.types[0].shape for s in symbols(d)}
    model = netc.Model(title, bind(declared.graph, {s: 1 if s == "N" else length for s in free}))
    inputs = probe({path: node.types[0] for path, node in model.graph.inputs.items()})
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        artifact = model.compile(Path(folder) / "artifact", netc.LLVM(threads=threads))
        seconds = time.perf_counter() - start
        (file, *_) = model.export(Path(folder) / "model.onnx", to="onnx")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    net = model.torch()
    tensors = [torch.from_numpy(a) for a in inputs]
    feeds = {i.name: a for i, a in zip(session.get_inputs(), inputs, strict=True)}
    with torch.inference_mode():
        made = net(*tensors)
        wanted = [w.numpy() for w in (made if isinstance(made, tuple) else (made,))]
        difference = max(
            float(np.abs(a - w).max() / max(np.abs(w).max(), 1e-30))
            for a, w in zip(artifact.run(inputs), wanted, strict=True)
        )
        times = interleaved(
            {
                "netc": lambda: artifact.run(inputs),
                "torch": lambda: net(*tensors),
                "ort": lambda: session.run(None, feeds),
            },
            rounds,
        )
    ours, eager, runtime = (median(times[k]) * 1e3 for k in ("netc", "torch", "ort"))
    cells = [f"{seconds:.1f}", f"{ours:.2f}", f"{eager:.2f}", f"{runtime:.2f}", f"{ours / eager:.2f}"]
    print(f"| {title} | {' | '.join(cells)} | {ours / runtime:.2f} | {difference:.1e} |", flush=True)


def interleaved(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run that counts; who begins a round changes."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(PAUSE)
            runs[name]()
            for _ in range(RUNS):
                start = time.perf_counter()
                runs[name]()
                times[name].append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
