"""Latency of the standard set, compiled by netc and in other runtimes.

    python benchmarks/latency.py [--only resnet18 …] [--threads 2] [--turns 31] [--against torch,onnxruntime]

It is `netc bench` with all models of `MODELS`: batch 1, 128 tokens, float32, each candidate in a process of its own
with the same number of threads, in turns. Printed are Markdown tables: milliseconds, and netc's time divided by that of
each other in the same turn (medians, and quartiles); then what else was measured of each candidate. `--samples` writes
every time, and `--page` the page with the roofline of each model's kernels.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

SPECS = Path(__file__).parents[1] / "specs"
MODELS = {
    "resnet18": "resnet.net",
    "resnet50": "resnet.net",
    "mobilenet_v2": "mobilenet_v2.net",
    "lite0": "efficientnet_lite.net",
    "convnext_tiny": "convnext.net",
    "deit_tiny": "vit.net",
    "bert_mini": "bert.net",
    "gpt2_block": "gpt2.net",
    "unet": "unet.net",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--against", default="torch,inductor,onnxruntime,openvino")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--turns", type=int, default=31)
    parser.add_argument("--records", help="of tuning; none: analytic answers alone")
    parser.add_argument("--samples", type=Path)
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    found = measured(options)
    print(
        f"Python {platform.python_version()}, {versions(found)}; {found['processor']}, {found['threads']} threads each,"
    )
    print(f"{found['turns']} turns. {peak(found)}.")
    for table in (latencies, others):
        print()
        for row in table(found):
            print(f"| {' | '.join(row)} |")
    if found["failed"]:  # netc bench has said why
        sys.exit(f"not measured: {', '.join(model['model'] for model in found['failed'])}")


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """What `netc bench` says of the models."""
    models = [f"{SPECS / MODELS[name]}:{name}" for name in options.only]
    command = [sys.executable, "-m", "netc", "bench", *models, "--against", options.against, "--format", "json"]
    command += ["--threads", str(options.threads), "--turns", str(options.turns)]
    command += ["--records", options.records] if options.records else []
    command += ["--samples", str(options.samples)] if options.samples else []
    command += ["--html", str(options.page)] if options.page else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    if not found.get("models"):
        sys.exit(done.stdout)
    return found


def versions(found: dict[str, Any]) -> str:
    told = {n: c["version"].partition("+")[0] for model in found["models"] for n, c in model["candidates"].items()}
    return ", ".join(f"{name} {version}" for name, version in told.items())


def peak(found: dict[str, Any]) -> str:
    best = found["peak"]
    return f"Measured peak: {best['rate'] / 1e9:.0f} GFLOP/s ({best['what']}, by {best['by']})"


def latencies(found: dict[str, Any]) -> list[list[str]]:
    """Milliseconds of each, and our time divided by theirs, with quartiles."""
    names = list(dict.fromkeys(n for model in found["models"] for n in model["candidates"]))
    peers = names[1:]
    rows = [["model", *(f"{n} ms" for n in names), *(f"netc / {n}" for n in peers), "netc / best", "of peak"]]
    rows.append(["---", *["---:"] * (len(rows[0]) - 1)])
    for model in found["models"]:
        told = model["candidates"]
        cells = [f"{1e3 * told[n]['median']:.2f}" if n in told else "–" for n in names]
        cells += [ratio(told[n]) if n in told else "–" for n in peers]
        cells.append(f"{told[model['best']]['ratio'][1]:.2f}" if model["best"] else "–")
        rows.append([model["model"], *cells, f"{100 * told['netc']['share']:.0f} %"])
    means = found["means"]
    told = [f"**{means[n]:.2f}**" if n in means else "–" for n in (*peers, "best")]
    rows.append(["geometric mean", *[""] * len(names), *told, ""])
    return rows


def ratio(told: dict[str, Any]) -> str:
    low, middle, high = told["ratio"]
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def others(found: dict[str, Any]) -> list[list[str]]:
    """Difference, compile and start-up time, memory and size: each candidate by each model."""
    rows = [["model", "candidate", "difference", "compile s", "start-up s", "memory MiB", "files MiB"]]
    rows.append(["---", "---", *["---:"] * 5])
    for model in found["models"]:
        for name, told in model["candidates"].items():
            compiled = "" if told["compile"] is None else f"{told['compile']:.1f}"
            sizes = [f"{told[key] / 2**20:.0f}" for key in ("memory", "size")]
            numbers = [f"{told['difference']:.1e}", compiled, f"{told['start']:.2f}", *sizes]
            last = " channels_last" if told["version"].endswith("channels_last") else ""
            rows.append([model["model"], name + last, *numbers])
        for name, why in model["failures"].items():
            rows.append([model["model"], name, why, "", "", "", ""])
    return rows


if __name__ == "__main__":
    main()
