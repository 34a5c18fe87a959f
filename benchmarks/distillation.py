"""What fine-tuning with distillation brings back: a pruned network, and a family stitched of three, before and after.

    python benchmarks/distillation.py [FOLDER] [--fashion PATH] [--epochs N]

Trains three networks of rising width, prunes the largest, joins the three into a family, and fine-tunes both, with the
largest as the teacher: all by `netc train`'s options, on the digits of scikit-learn, and on Fashion-MNIST where PATH
holds its IDX files. FOLDER (default build/distillation) gets the .net files, the runs, members.csv of each family among
them, and curve.csv: accuracy over MACs of every member, with the anchors' own.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netc
import torch
from netc.backends.training import Result, parse_options, train
from netc.compiler.cost import cost
from netc.compiler.graph import Graph
from netc.compiler.program import Program, read
from rich.console import Console

SPECS = Path(__file__).parents[1] / "specs"
SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class Story:
    """One data set: what defines the anchors, and how they and what is made of them are trained."""

    name: str
    data: str
    spec: str
    models: str
    training: dict[str, Any]
    tuning: dict[str, Any]
    """Of the pruned network."""
    family: dict[str, Any]


DIGITS = Story(
    "digits",
    "digits",
    "digit_family.net",
    'import "digit_family.net" { digit_small, digit_medium, digit_large }\n'
    'data calib = examples("digits")\n' + "".join(f"let raw_{s} = digit_{s}\n" for s in SIZES),
    {"epochs": 15, "batch": 32, "learning_rate": 3e-3, "shift": 1},
    {"epochs": 10, "batch": 32, "learning_rate": 1e-3, "shift": 1},
    {"epochs": 20, "batch": 32, "learning_rate": 2e-3, "shift": 1},
)


def fashion(path: str) -> Story:
    """Fashion-MNIST, at the resolution and with the recipe of specs/fashion_mnist.net."""
    widths = {"small": [4, 8, 16], "medium": [8, 16, 32], "large": [16, 32, 64]}
    models = "".join(f"model raw_{s} = SmallResNet(widths = {w}) (x: f32[N, 1, 28, 28])\n" for s, w in widths.items())
    recipe = {"batch": 128, "optimizer": "sgd", "nesterov": True, "weight_decay": 5e-4, "flip": True, "warmup": 0.5}
    return Story(
        "fashion",
        path,
        "fashion_mnist.net",
        f'import "fashion_mnist.net" {{ SmallResNet }}\ndata calib = examples("fashion")\n{models}',
        {**recipe, "epochs": 4, "learning_rate": 0.1},
        {**recipe, "epochs": 3, "learning_rate": 0.02},
        {"batch": 128, "flip": True, "warmup": 0.5, "epochs": 5, "learning_rate": 1e-3},
    )


TRANSFORMED = """
model pruned = large |> prune(ratio = 0.5)
family stitched = stitch(small, medium, large, init = lstsq(calib, samples = 256))
"""


class Work:
    """A folder in which a story is carried out."""

    def __init__(self, story: Story, folder: Path, epochs: int | None, console: Console) -> None:
        self.story = story
        self.folder = folder / story.name
        self.epochs = {"epochs": epochs} if epochs else {}
        self.console = console
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for spec in SPECS.glob("*.net"):
            shutil.copy(spec, self.folder)
        if story.data != "digits":
            shutil.copytree(story.data, self.folder / "fashion")

    def program(self, name: str, text: str) -> Program:
        """The program of a text, which is left in the folder."""
        path = self.folder / name
        path.write_text(text)
        return read(path)

    def train(self, name: str, model: Any, options: dict[str, Any], teacher: Graph | None = None) -> Result:
        """`netc train` into a folder of its name."""
        values = {"data": self.story.data, "output": self.folder / name, **options, **self.epochs}
        self.console.print(f"[bold]{self.story.name} {name}[/]", " ".join(f"{k}={v}" for k, v in options.items()))
        return train(model, parse_options(values), self.console, teacher)

    def anchors(self) -> dict[str, Result]:
        """The three networks, each trained on its own."""
        raw = self.program("raw.net", self.story.models)
        return {s: self.train(s, raw.model(f"raw_{s}").graph, self.story.training) for s in SIZES}

    def transformed(self) -> Program:
        """The file that loads them and says what is made of them."""
        loads = "".join(f'model {s} = raw_{s} |> load("{s}/model.safetensors")\n' for s in SIZES)
        return self.program("story.net", self.story.models + loads + TRANSFORMED)


def row(work: Work, name: str, graph: Graph, accuracy: float) -> None:
    """One line of the table of models."""
    made = cost(graph, {"N": 1})
    work.console.print(f"{name:<28}{made.macs:>12,}{made.parameters:>12,}{accuracy:>10.2%}", highlight=False)


def tell(work: Work) -> None:
    """Train, transform, fine-tune, and say what came of it."""
    started = time.monotonic()
    anchors = work.anchors()
    made = work.transformed()
    teacher, pruned = made.model("large"), made.model("pruned")
    teaching = {"teacher": "large", "distill": 0.7, "temperature": 3}
    labels = work.train("pruned_labels", pruned.graph, work.story.tuning)
    after = work.train("pruned", pruned.graph, {**work.story.tuning, **teaching}, teacher.graph)
    family = made.family("stitched")
    of_family = {"sampler": "flops", "freeze_statistics": True}
    stitched = work.train("family", family, {**work.story.family, **teaching, **of_family})

    show = work.console.print
    show(f"\n{work.story.name}: {time.monotonic() - started:.0f} s")
    show(f"{'model':<28}{'MACs':>12}{'parameters':>12}{'accuracy':>10}")
    for size in SIZES:
        row(work, size, made.model(size).graph, anchors[size].rows[-1].val_accuracy)
    row(work, "pruned", pruned.graph, after.members[0].accuracy_before)
    row(work, "fine-tuned by the labels", pruned.graph, labels.rows[-1].val_accuracy)
    row(work, "fine-tuned by the teacher", pruned.graph, after.rows[-1].val_accuracy)
    show(f"\n{'member':<52}{'MACs':>12}{'before':>10}{'after':>10}{'alone':>10}")
    members = sorted(stitched.members, key=lambda m: (m.macs, m.member))
    alone = {m.member: anchors[m.anchor].rows[-1].val_accuracy for m in members if m.anchor}
    for m in members:
        own = f"{alone[m.member]:.2%}" if m.anchor else ""
        line = f"{m.label:<52}{m.macs:>12,}{m.accuracy_before:>10.2%}{m.accuracy_after:>10.2%}{own:>10}"
        show(line, highlight=False)
    with (work.folder / "curve.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("macs", "accuracy_before", "accuracy_after", "anchor", "accuracy_alone", "label"))
        for m in members:
            writer.writerow((m.macs, m.accuracy_before, m.accuracy_after, m.anchor, alone.get(m.member, ""), m.label))


def main() -> None:
    parser = argparse.ArgumentParser(description="Pruned and stitched networks, before and after fine-tuning.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/distillation"))
    parser.add_argument("--fashion", help="a folder of Fashion-MNIST's IDX files")
    parser.add_argument("--epochs", type=int, help="of every run, to be quick")
    given = parser.parse_args()
    stories = [DIGITS, *([fashion(given.fashion)] if given.fashion else [])]
    for story in stories:
        tell(Work(story, given.folder, given.epochs, Console(width=120)))
    print(f"\nnetc {netc.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
