"""The training run: from a graph, data and options to weights and metrics.

A run is a function of its options, graph, data, number of processes, device and threads. Whatever is random in step
`s` is drawn from a generator seeded by (seed, s, process), and the order of the examples from (seed, epoch), so a run
that is continued from a checkpoint takes the very steps it would have taken.
"""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from torch.nn import functional

from ...compiler.dataset import Dataset, Examples, load_data
from ...compiler.diagnostic import Diagnostic, NetcError
from ...compiler.files import written_whole
from ...compiler.graph import Graph
from .augment import flip, shift
from .checkpoint import CHECKPOINT, METRICS, MODEL, Progress, Row, fingerprint, restore, save, tensors_of, write_tensors
from .engine import Engine
from .options import TrainingOptions
from .task import AUXILIARY, Task, fit

_EVALUATION_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Result:
    """The rows of metrics.csv, the last of them that of the written model, and the folder they lie in."""

    rows: tuple[Row, ...]
    folder: Path

    @property
    def model(self) -> Path:
        """The weights, under the graph's parameter names."""
        return self.folder / MODEL


def train(graph: Graph, options: TrainingOptions, console: Console | None = None) -> Result:
    """Train a graph as a classifier from the graph's own weights, or initial ones of the options' seed.

    Writes into the output folder metrics.csv (a line an epoch), checkpoint.safetensors (every epoch, and every
    `checkpoint_steps`) and at the end model.safetensors, each replaced whole. The loss is the cross entropy of the
    logits, plus 0.3 times that of further logits of the train phase, plus `penalty` times every output of rank 0.
    Numbers are standardised by the training set's mean and standard deviation, which both files keep in their headers;
    an integer input takes the data as they are. Progress goes to `console`, if any.

    Raises:
        NetcError: where graph, data, options and folder do not fit together, or the loss stops being a number.
    """
    data = load_data(options.data)
    task = fit(graph, data)
    engine = Engine(options.device)
    _check(options, data, task, engine)
    with _reproducible(engine.device):
        run = _Run(graph, data, task, options, engine)
        if options.resume:
            run.resume()
        run.go(console)
    engine.close()
    return Result(tuple(run.progress.rows), options.output)


def _check(options: TrainingOptions, data: Dataset, task: Task, engine: Engine) -> None:
    problems: list[Diagnostic] = []
    size = len(data.train)
    if options.batch > size:
        message = f"a batch of {options.batch} is larger than the training set of {size}"
        problems.append(Diagnostic("bad-option", message, fix=f"batch = {max(2, size // 10)}"))
    if options.batch % engine.count or options.batch < 2 * engine.count:
        message = (
            f"a batch of {options.batch} does not divide into two examples or more for each of {engine.count} processes"
        )
        problems.append(
            Diagnostic("bad-option", message, fix=f"batch = {engine.count * max(2, options.batch // engine.count)}")
        )
    if len(data.shape) == 1:
        for name in ("shift", "flip"):
            if getattr(options, name):
                message = f"{name} is for images, and an example of {data.name} is a vector of {data.shape[0]}"
                problems.append(Diagnostic("option-without-effect", message, fix=f"leave {name} out"))
    if "penalty" in options.model_fields_set and not task.penalties:
        message = "penalty has no effect: the model has no output of rank 0 in the train phase"
        problems.append(Diagnostic("option-without-effect", message, fix="leave penalty out"))
    problems.extend(_check_folder(options))
    if problems:
        raise NetcError(problems)


def _check_folder(options: TrainingOptions) -> Iterator[Diagnostic]:
    path = options.output / CHECKPOINT
    try:
        exists = path.is_file()
    except OSError as error:
        yield Diagnostic("cannot-write", f"{path} cannot be written: {error.strerror}")
        return
    if options.resume and not exists:
        yield Diagnostic("nothing-to-resume", f"there is no checkpoint at {path}", fix="train without resume")
    if not options.resume and exists:
        message = f"{options.output} holds a run already"
        yield Diagnostic("run-exists", message, fix="resume it, or train into another folder")


@contextmanager
def _reproducible(device: torch.device) -> Generator[None]:
    """Deterministic kernels where PyTorch has them, and the caller's generators untouched."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    benchmark = torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            torch.backends.cudnn.benchmark = False
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
            torch.backends.cudnn.benchmark = benchmark


class _Run:
    """The state of one process: model, optimizer, the data on its device, and how far it is."""

    def __init__(self, graph: Graph, data: Dataset, task: Task, options: TrainingOptions, engine: Engine) -> None:
        from ..pytorch import module

        self.graph, self.data, self.task, self.options, self.engine = graph, data, task, options, engine
        # Convolutions are a fifth faster with channels last on CPUs too; only the strides differ.
        self.module = module(graph, seed=options.seed).to(engine.device)
        self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.progress = Progress()
        self.steps_per_epoch = len(data.train) // options.batch
        wide = (-1, *(1,) * (len(data.shape) - 1))
        self.dtype: torch.dtype = getattr(torch, task.dtype.as_numpy.name)
        self.mean = torch.from_numpy(data.mean).reshape(wide).to(engine.device)
        self.std = torch.from_numpy(data.std).reshape(wide).to(engine.device)
        self.train = _on_device(data.train, task, engine.device)
        self.test = _on_device(data.test, task, engine.device)
        self.optimizer = _optimizer(self.module, options)

    @property
    def about(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be of this run."""
        machine = {"processes": self.engine.count, "device": self.engine.device.type}
        return {**self.options.identity, **fingerprint(self.graph, self.data), **machine, **self.standardisation}

    @property
    def standardisation(self) -> dict[str, list[float]]:
        return {"mean": self.data.mean.tolist(), "std": self.data.std.tolist()} if self.dtype.is_floating_point else {}

    def resume(self) -> None:
        for stale in self.options.output.glob(".*.safetensors.*.partial"):
            if self.engine.first:
                stale.unlink(missing_ok=True)
        self.progress = restore(self.options.output / CHECKPOINT, self.module, self.optimizer, self.about)

    def go(self, console: Console | None) -> None:
        """Take the steps that remain, and write the model."""
        start = time.monotonic() - self.progress.seconds
        self.totals = torch.tensor(self.progress.totals, dtype=torch.float64, device=self.engine.device)
        if not self.engine.first:
            self.totals.zero_()
        self._make_folder()
        with _bar(console if self.engine.first else None) as bar:
            total = self.options.epochs * self.steps_per_epoch
            shown = bar.add_task("", total=total, completed=self.progress.step)
            while self.progress.step < total:
                self._step()
                ends = self.progress.step % self.steps_per_epoch == 0
                if ends:
                    self._end_epoch(start)
                every = self.options.checkpoint_steps
                if ends or (every and self.progress.step % every == 0):
                    self._save(start)
                bar.update(shown, advance=1)
                if ends:
                    bar.console.print(
                        _line(self.progress.rows[-1], self.options.epochs), highlight=False, soft_wrap=True
                    )
        if self.engine.first:
            self._write_metrics()
            self._write_model()

    def _make_folder(self) -> None:
        try:
            self.options.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"{self.options.output} cannot be made: {error.strerror}"
            raise NetcError([Diagnostic("cannot-write", message)]) from error
        if self.engine.first:
            self._write_metrics()  # now, not after an epoch, is the time to learn that nothing can be written there

    def _step(self) -> None:
        step = self.progress.step
        epoch, place = divmod(step, self.steps_per_epoch)
        order = _order(self.options.seed, epoch, len(self.data.train))
        share = self.options.batch // self.engine.count
        first = place * self.options.batch + self.engine.index * share
        chosen = order[first : first + share].to(self.engine.device)
        torch.manual_seed(_seed(self.options.seed, 1, step, self.engine.index))
        x, y = self._inputs(self.train[0][chosen], augment=True), self.train[1][chosen]
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.rate(step, self.steps_per_epoch)
        self.module.train()
        loss, logits = self._loss(x, y)
        self.optimizer.zero_grad()
        loss.backward()
        self.engine.average(self.module.parameters())
        self.optimizer.step()
        hits = (logits.detach().argmax(1) == y).sum()
        self.totals += torch.stack([loss.detach().double() * len(y), hits.double(), hits.new_tensor(len(y)).double()])
        self.progress.step += 1

    def _inputs(self, x: torch.Tensor, *, augment: bool = False) -> torch.Tensor:
        """Stored examples as the model takes them: of its dtype, augmented, standardised, in its shape."""
        x = x.to(self.dtype)
        if augment and self.options.shift:
            x = shift(x, self.options.shift)
        if augment and self.options.flip:
            x = flip(x)
        if self.dtype.is_floating_point:
            x = (x - self.mean) / self.std
        return x.reshape(len(x), *self.task.shape)

    def _loss(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of a batch, and its logits."""
        outputs = self._outputs(x)
        logits = outputs[self.task.logits]
        smoothing = self.options.label_smoothing
        loss = functional.cross_entropy(logits, y, label_smoothing=smoothing)
        for name in self.task.auxiliary:
            loss = loss + AUXILIARY * functional.cross_entropy(outputs[name], y, label_smoothing=smoothing)
        for name in self.task.penalties:
            loss = loss + self.options.penalty * outputs[name]
        return loss, logits

    def _outputs(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.options.precision == "bf16"):
            result = self.module(x)
        values = (result,) if isinstance(result, torch.Tensor) else result
        names = self.task.outputs(training=self.module.training)
        return {name: value.float() for name, value in zip(names, values, strict=True)}

    @torch.no_grad()
    def _evaluate(self) -> tuple[float, float]:
        """Mean cross entropy and accuracy on the test set, which the processes share out."""
        self.module.eval()
        self.engine.share(self.module)
        totals = torch.zeros(2, dtype=torch.float64, device=self.engine.device)
        mine = slice(self.engine.index, None, self.engine.count)
        x_all, y_all = self.test[0][mine], self.test[1][mine]
        for first in range(0, len(y_all), _EVALUATION_BATCH):
            x, y = (t[first : first + _EVALUATION_BATCH] for t in (x_all, y_all))
            logits = self._outputs(self._inputs(x))[self.task.logits]
            loss = functional.cross_entropy(logits, y, reduction="sum")
            totals += torch.stack([loss.double(), (logits.argmax(1) == y).sum().double()])
        loss, hits = self.engine.sum(totals).tolist()
        return loss / len(self.data.test), hits / len(self.data.test)

    def _sum(self) -> list[float]:
        """The running epoch's totals over all processes."""
        totals = self.engine.sum(self.totals.clone()).tolist()
        self._check_finite(totals[0])
        return totals

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            rate = self.options.rate(self.progress.step - 1, self.steps_per_epoch)
            message = f"the loss is {loss} by step {self.progress.step}, at a learning rate of {rate:g}"
            fix = f"learning_rate = {self.options.learning_rate / 10:g}, or a warm-up"
            raise NetcError([Diagnostic("training-diverged", message, fix=fix)])

    def _end_epoch(self, start: float) -> None:
        loss, hits, count = self._sum()
        val_loss, val_accuracy = self._evaluate()
        self._check_finite(val_loss)
        step = self.progress.step
        rate = self.options.rate(step - 1, self.steps_per_epoch)
        seconds = round(time.monotonic() - start, 3)
        epoch = step // self.steps_per_epoch
        self.progress.rows.append(Row(epoch, step, loss / count, hits / count, val_loss, val_accuracy, rate, seconds))
        self.totals.zero_()
        if self.engine.first:
            self._write_metrics()

    def _save(self, start: float) -> None:
        self.progress.totals = self._sum()
        self.progress.seconds = time.monotonic() - start
        if self.engine.first:
            save(self.options.output / CHECKPOINT, self.module, self.optimizer, self.progress, self.about)

    def _write_metrics(self) -> None:
        with written_whole(self.options.output / METRICS) as partial, partial.open("w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(Row._fields)
            writer.writerows(self.progress.rows)

    def _write_model(self) -> None:
        found = tensors_of(self.module)
        about = {**self.standardisation, "data": self.data.name, "val_accuracy": self.progress.rows[-1].val_accuracy}
        write_tensors(self.options.output / MODEL, {path: found[path] for path in self.graph.parameters}, about)


def _optimizer(module: torch.nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    """Weight decay is for matrices and kernels; scales, shifts and biases go without.

    Raises:
        NetcError: where every parameter is frozen.
    """
    learnt = [p for p in module.parameters() if p.requires_grad]
    if not learnt:
        raise NetcError([Diagnostic("nothing-to-train", "the model has no parameter that is not frozen")])
    groups: list[dict[str, Any]] = [
        {"params": [p for p in learnt if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in learnt if p.ndim < 2], "weight_decay": 0.0},
    ]
    rate = options.learning_rate
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, rate, options.momentum, nesterov=options.nesterov)
    return (torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW)(groups, rate)


def _on_device(examples: Examples, task: Task, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes stay bytes, four times as small, until a batch of them is wanted."""
    x = examples.x if examples.x.dtype == numpy.uint8 else examples.x.astype(task.dtype.as_numpy)
    return torch.from_numpy(x).to(device), torch.from_numpy(examples.y).to(device)


def _seed(*numbers: int) -> int:
    return int(numpy.random.SeedSequence(numbers).generate_state(1, numpy.uint64)[0])


@lru_cache(maxsize=1)
def _order(seed: int, epoch: int, count: int) -> torch.Tensor:
    """The order in which an epoch takes the examples."""
    generator = numpy.random.Generator(numpy.random.Philox(_seed(seed, 0, epoch)))
    return torch.from_numpy(generator.permutation(count))


def _bar(console: Console | None) -> ProgressBar:
    columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
    return ProgressBar(*columns, console=console or Console(quiet=True), transient=True)


def _line(row: Row, epochs: int) -> str:
    return (
        f"epoch {row.epoch}/{epochs}  loss {row.train_loss:.4f}  accuracy {row.train_accuracy:.2%}  "
        f"held out {row.val_loss:.4f}  {row.val_accuracy:.2%}  {row.seconds:.0f} s"
    )
