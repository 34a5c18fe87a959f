"""What `netc train` reaches, and how long it takes: digits, and Fashion-MNIST where its files are installed.

    python benchmarks/training.py [FOLDER]

FOLDER holds Fashion-MNIST as IDX files; the default is where Debian's package dataset-fashion-mnist puts them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import netc
import torch
from netc.backends.training import parse_options, train
from rich.console import Console

SPECS = Path(__file__).parents[1] / "specs"
DIGITS = {"data": "digits", "epochs": 20, "batch": 32, "learning_rate": 3e-3}
FASHION = {
    "epochs": 5, "batch": 128, "optimizer": "sgd", "learning_rate": 0.1, "nesterov": True, "weight_decay": 5e-4,
    "warmup": 0.5, "flip": True,
}  # fmt: skip


def measure(spec: str, model: str, options: dict[str, Any]) -> str:
    made = netc.load(SPECS / spec).model(model)
    with tempfile.TemporaryDirectory() as folder:
        result = train(made.graph, parse_options({**options, "output": folder}), Console())
    last = result.rows[-1]
    return f"{model:<16}{made.cost().parameters:>9,}{last.epoch:>8}{last.val_accuracy:>10.2%}{last.seconds:>9.1f}"


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/datasets/fashion-mnist")
    lines = [measure("digits.net", "digits", DIGITS), measure("digits.net", "perceptron", DIGITS)]
    if folder.is_dir():
        lines.append(measure("fashion_mnist.net", "fashion_mnist", {**FASHION, "data": str(folder)}))
    print(f"\ntorch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'model':<16}{'params':>9}{'epochs':>8}{'held out':>10}{'seconds':>9}")
    print("\n".join(lines))
    if not folder.is_dir():
        print(f"no Fashion-MNIST at {folder}")


if __name__ == "__main__":
    main()
