"""Whether what a user asks for can be done, known before the first step."""

from __future__ import annotations

from collections.abc import Iterator

from ...compiler.dataset import Dataset
from ...compiler.diagnostic import Diagnostic, NetcError, nearest
from ...compiler.family import Family
from ...compiler.graph import Graph
from .checkpoint import CHECKPOINT
from .engine import Engine
from .options import OF_FAMILIES, TrainingOptions
from .task import Task


def anchor(family: Family, options: TrainingOptions) -> Graph | None:
    """The anchor that the options name as the teacher."""
    if options.teacher is None:
        return None
    if options.teacher in family.anchors:
        return family.member(family.anchors[options.teacher])
    notes = (f"the anchors: {', '.join(family.anchors)}",) if family.anchors else ()
    message = f"teacher = {options.teacher}: {family.name} has no anchor of this name"
    fix = nearest(options.teacher, family.anchors)
    raise NetcError([Diagnostic("unknown-teacher", message, notes=notes, fix=f"teacher = {fix}" if fix else None)])


def check(model: Graph | Family, options: TrainingOptions, data: Dataset, task: Task, engine: Engine) -> None:
    """Whether options suit the model, the data, the processes and the folder.

    Raises:
        NetcError: with all that does not.
    """
    problems = [
        *_check_batch(options, data, engine),
        *_check_effect(model, options, data, task),
        *_check_folder(options),
    ]
    if problems:
        raise NetcError(problems)


def _check_batch(options: TrainingOptions, data: Dataset, engine: Engine) -> Iterator[Diagnostic]:
    size = len(data.train)
    if options.batch > size:
        message = f"a batch of {options.batch} is larger than the training set of {size}"
        yield Diagnostic("bad-option", message, fix=f"batch = {max(2, size // 10)}")
    if options.batch % engine.count or options.batch < 2 * engine.count:
        message = (
            f"a batch of {options.batch} does not divide into two examples or more for each of {engine.count} processes"
        )
        fix = f"batch = {engine.count * max(2, options.batch // engine.count)}"
        yield Diagnostic("bad-option", message, fix=fix)


def _check_effect(model: Graph | Family, options: TrainingOptions, data: Dataset, task: Task) -> Iterator[Diagnostic]:
    def idle(name: str, reason: str) -> Diagnostic:
        return Diagnostic("option-without-effect", reason, fix=f"leave {name} out")

    given = options.model_fields_set
    if len(data.shape) == 1:
        for name in ("shift", "flip"):
            if getattr(options, name):
                yield idle(name, f"{name} is for images, and an example of {data.name} is a vector of {data.shape[0]}")
    if "penalty" in given and not task.penalties:
        yield idle("penalty", "penalty has no effect: the model has no output of rank 0 in the train phase")
    if isinstance(model, Graph):
        for name in OF_FAMILIES:
            if name in given:
                yield idle(name, f"{name} has no effect: {model.name} is one model, and no family")
    elif options.features is not None:
        message = "features are matched with one model's values, and each member of a family has its own"
        yield Diagnostic("bad-option", message, fix="leave features out: the teacher's logits teach every member")


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
