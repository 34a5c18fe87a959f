"""The training run: from a graph, data and options to weights and metrics.

A run is a function of its options, graph, teacher, data, number of processes, device and threads. Whatever is random
in step `s` is drawn from a generator seeded by (seed, s, process), the member of a family that learns in it by one
seeded by (seed, s), and the order of the examples by (seed, epoch), so a run that is continued from a checkpoint takes
the very steps it would have taken.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from ...compiler.family import Family
from ...compiler.graph import Graph
from .augment import flip, shift
from .check import anchor, check
from .checkpoint import (
    CHECKPOINT,
    MEMBERS,
    METRICS,
    MODEL,
    MemberRow,
    Progress,
    Row,
    fingerprint,
    restore,
    save,
    write_rows,
    write_tensors,
)
from .classifier import Classifier
from .distillation import Distillation, Lesson, check_teacher, distillation, numbers_of, pairs
from .engine import Engine, reproducible
from .members import Members, family_of, frozen
from .options import TrainingOptions
from .sampler import Sampler
from .seed import STEP, order, seed_of
from .task import AUXILIARY, Task, fit

_EVALUATION_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Result:
    """The rows of metrics.csv, the last of them that of the written model, and the folder. `members` are the rows of
    members.csv; of a single model that had weights before, one such row."""

    rows: tuple[Row, ...]
    folder: Path
    members: tuple[MemberRow, ...] = ()

    @property
    def model(self) -> Path:
        """The weights, under the graph's parameter names; of a family, of all of its members."""
        return self.folder / MODEL


def train(
    model: Graph | Family, options: TrainingOptions, console: Console | None = None, teacher: Graph | None = None
) -> Result:
    """Train a graph as a classifier from the graph's own weights, or initial ones of the options' seed; or a family,
    one member a step.

    Writes into the output folder metrics.csv (a line an epoch), checkpoint.safetensors (every epoch, and every
    `checkpoint_steps`) and at the end model.safetensors, each replaced whole; and of a family members.csv, the accuracy
    of its members before and after.

    The loss is the cross entropy of the logits, plus 0.3 times that of further logits of the train phase, plus
    `penalty` times every output of rank 0. A teacher takes the share `distill` of it for its softened logits, and adds
    the error of `features`, times `feature_weight`. The teacher of a family may be one of its anchors, as at the start.

    Numbers are standardised by the training set's mean and standard deviation, which both files keep in their headers;
    an integer input takes the data as they are. Progress goes to `console`, if any.

    Raises:
        NetcError: where graph, data, options and folder do not fit together, or the loss stops being a number.
    """
    data = load_data(options.data)
    family = model if isinstance(model, Family) else family_of(model)
    task = fit(family.member(0), data)
    teacher = teacher or anchor(family, options)
    engine = Engine(options.device)
    check(model, options, data, task, engine)
    if teacher is not None:
        check_teacher(teacher, task, data)
    if options.freeze is not None:
        family = frozen(family, options.freeze)
    with reproducible(engine.device):
        run = _Run(family, teacher, data, task, options, engine)
        if options.resume:
            run.resume()
        run.go(console)
    engine.close()
    return Result(tuple(run.progress.rows), options.output, tuple(run.members_after))


class _Run:
    """The state of one process: models, optimizer, the data on its device, and how far it is."""

    def __init__(
        self,
        family: Family,
        teacher: Graph | None,
        data: Dataset,
        task: Task,
        options: TrainingOptions,
        engine: Engine,
    ) -> None:
        self.data, self.task, self.options, self.engine = data, task, options, engine
        matched = []
        if teacher is not None and options.features is not None:
            matched = pairs(options.features, family.member(0), teacher, data)
        features = [pair.student for pair in matched]
        self.members = Members(
            family, data, engine.device, options.seed, features=features, freeze_statistics=options.freeze_statistics
        )
        self.distillation: Distillation | None = None
        self.identity = {**fingerprint(family, self.members.anchors, data)}
        if teacher is not None:
            self.distillation = distillation(teacher, matched, data, options, engine.device)
            self.identity["teacher"] = numbers_of(teacher)
        self.sampler = Sampler(self.members, options)
        learnt_before = any(p.data is not None for p in family.parameters.values())
        self.measured = self.members.spread(options.evaluate) if learnt_before or len(self.members) > 1 else []
        self.members_after: list[MemberRow] = []
        self.progress = Progress()
        self.steps_per_epoch = len(data.train) // options.batch
        wide = (-1, *(1,) * (len(data.shape) - 1))
        self.dtype: torch.dtype = getattr(torch, task.dtype.as_numpy.name)
        self.mean = torch.from_numpy(data.mean).reshape(wide).to(engine.device)
        self.std = torch.from_numpy(data.std).reshape(wide).to(engine.device)
        self.train = _on_device(data.train, task, engine.device)
        self.test = _on_device(data.test, task, engine.device)
        self.learnt = [t for t in self.tensors.values() if t.requires_grad]
        self.optimizer = _optimizer(self.members, self.learnt, options)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """All that a checkpoint keeps."""
        projections = self.distillation.projections if self.distillation else {}
        return {**self.members.tensors, **{f"netc_projection_{i}": p for i, p in projections.items()}}

    @property
    def about(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be of this run."""
        machine = {"processes": self.engine.count, "device": self.engine.device.type}
        return {**self.options.identity, **self.identity, **machine, **self.standardisation}

    @property
    def standardisation(self) -> dict[str, list[float]]:
        return {"mean": self.data.mean.tolist(), "std": self.data.std.tolist()} if self.dtype.is_floating_point else {}

    def resume(self) -> None:
        for stale in self.options.output.glob(".*.safetensors.*.partial"):
            if self.engine.first:
                stale.unlink(missing_ok=True)
        self.progress = restore(self.options.output / CHECKPOINT, self.tensors, self.optimizer, self.about)

    def go(self, console: Console | None) -> None:
        """Take the steps that remain, and write the model."""
        start = time.monotonic() - self.progress.seconds
        self.totals = torch.tensor(self.progress.totals, dtype=torch.float64, device=self.engine.device)
        if not self.engine.first:
            self.totals.zero_()
        self._make_folder()
        if not self.progress.step:
            self.progress.before = [self._evaluate(self.members[n])[1] for n in self.measured]
            if console and self.engine.first and self.measured:
                low, high = min(self.progress.before), max(self.progress.before)
                console.print(
                    f"before  held out {low:.2%}" + (f" to {high:.2%}" if high > low else ""), highlight=False
                )
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
        after = [self._evaluate(self.members[n])[1] for n in self.measured]
        self.members_after = list(self._member_rows(after))
        if self.engine.first:
            self._write_metrics()
            if len(self.members) > 1:
                write_rows(self.options.output / MEMBERS, MemberRow._fields, self.members_after)
            self._write_model()

    def _member_rows(self, after: Sequence[float]) -> Iterator[MemberRow]:
        family = self.members.family
        anchors = {number: name for name, number in family.anchors.items()}
        for number, first, last in zip(self.measured, self.progress.before, after, strict=True):
            macs, anchor = self.members.macs[number], anchors.get(number, "")
            yield MemberRow(number, family.label(number), macs, first, last, anchor)

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
        places = order(self.options.seed, epoch, len(self.data.train))
        share = self.options.batch // self.engine.count
        first = place * self.options.batch + self.engine.index * share
        chosen = places[first : first + share].to(self.engine.device)
        learning = [self.members[n] for n in self.sampler(step)]
        torch.manual_seed(seed_of(self.options.seed, STEP, step, self.engine.index))
        x, y = self._inputs(self.train[0][chosen], augment=True), self.train[1][chosen]
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.rate(step, self.steps_per_epoch)
        self.optimizer.zero_grad()
        lesson = self.distillation.teach(x, mixed=self._mixed) if self.distillation else None
        for member in learning:
            member.train()
            losses, logits = self._loss(member, x, y, lesson)
            (losses[0] / len(learning)).backward()
            hits = (logits.detach().argmax(1) == y).sum()
            means = torch.stack([loss.detach().double() * len(y) for loss in losses] + [hits.double()])
            self.totals[:4] += means / len(learning)
        self.totals[4] += len(y)
        self.engine.average(self.learnt)
        self.optimizer.step()
        self.progress.step += 1

    def _inputs(self, x: torch.Tensor, *, augment: bool = False) -> torch.Tensor:
        """Stored examples as models take them: of their dtype, augmented, standardised."""
        x = x.to(self.dtype)
        if augment and self.options.shift:
            x = shift(x, self.options.shift)
        if augment and self.options.flip:
            x = flip(x)
        if self.dtype.is_floating_point:
            x = (x - self.mean) / self.std
        return x

    @property
    def _mixed(self) -> bool:
        return self.options.precision == "bf16"

    def _loss(
        self, member: Classifier, x: torch.Tensor, y: torch.Tensor, lesson: Lesson | None
    ) -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
        """The loss of a batch and its two parts from the teacher, and the logits."""
        outputs = member(x, mixed=self._mixed)
        task, options = member.task, self.options
        logits = outputs[task.logits]
        smoothing = options.label_smoothing
        loss = functional.cross_entropy(logits, y, label_smoothing=smoothing)
        for name in task.auxiliary:
            loss = loss + AUXILIARY * functional.cross_entropy(outputs[name], y, label_smoothing=smoothing)
        soft = match = torch.zeros((), device=x.device)
        if self.distillation and lesson:
            soft = self.distillation.soft(lesson, logits)
            loss = (1 - options.distill) * loss + options.distill * soft
            if lesson.features:
                match = self.distillation.match(lesson, [outputs[n] for n in member.features])
                loss = loss + options.feature_weight * match
        for name in task.penalties:
            loss = loss + options.penalty * outputs[name]
        return (loss, soft, match), logits

    @torch.no_grad()
    def _evaluate(self, member: Classifier) -> tuple[float, float]:
        """Mean cross entropy and accuracy of a member on the test set, which the processes share out."""
        member.eval()
        self.engine.share(self.members.buffers.values())
        totals = torch.zeros(2, dtype=torch.float64, device=self.engine.device)
        mine = slice(self.engine.index, None, self.engine.count)
        x_all, y_all = self.test[0][mine], self.test[1][mine]
        for first in range(0, len(y_all), _EVALUATION_BATCH):
            x, y = (t[first : first + _EVALUATION_BATCH] for t in (x_all, y_all))
            logits = member(self._inputs(x), mixed=self._mixed)[member.task.logits]
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
        *sums, count = self._sum()
        loss, soft, match, hits = (total / count for total in sums)
        found = [self._evaluate(self.members[n]) for n in self.members.anchors]
        val_loss, val_accuracy = (sum(values) / len(found) for values in zip(*found, strict=True))
        self._check_finite(val_loss)
        step = self.progress.step
        rate = self.options.rate(step - 1, self.steps_per_epoch)
        seconds = round(time.monotonic() - start, 3)
        epoch = step // self.steps_per_epoch
        self.progress.rows.append(Row(epoch, step, loss, soft, match, hits, val_loss, val_accuracy, rate, seconds))
        self.totals.zero_()
        if self.engine.first:
            self._write_metrics()

    def _save(self, start: float) -> None:
        self.progress.totals = self._sum()
        self.progress.seconds = time.monotonic() - start
        if self.engine.first:
            save(self.options.output / CHECKPOINT, self.tensors, self.optimizer, self.progress, self.about)

    def _write_metrics(self) -> None:
        write_rows(self.options.output / METRICS, Row._fields, self.progress.rows)

    def _write_model(self) -> None:
        found = self.members.tensors
        about = {**self.standardisation, "data": self.data.name, "val_accuracy": self.progress.rows[-1].val_accuracy}
        tensors = {path: found[path] for path in self.members.family.parameters}
        write_tensors(self.options.output / MODEL, tensors, about)


def _optimizer(members: Members, learnt: Sequence[torch.Tensor], options: TrainingOptions) -> torch.optim.Optimizer:
    """Weight decay is for matrices and kernels; scales, shifts and biases go without.

    Raises:
        NetcError: where every parameter is frozen.
    """
    if not any(p.requires_grad for p in members.parameters.values()):
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


def _bar(console: Console | None) -> ProgressBar:
    columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
    return ProgressBar(*columns, console=console or Console(quiet=True), transient=True)


def _line(row: Row, epochs: int) -> str:
    return (
        f"epoch {row.epoch}/{epochs}  loss {row.train_loss:.4f}  accuracy {row.train_accuracy:.2%}  "
        f"held out {row.val_loss:.4f}  {row.val_accuracy:.2%}  {row.seconds:.0f} s"
    )
