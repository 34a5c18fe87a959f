"""What a teacher adds to the loss: its logits, softened, and values inside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import numpy
import torch
from torch.nn import functional

from ...compiler.dataset import Dataset, shown
from ...compiler.diagnostic import Diagnostic, NetcError, nearest
from ...compiler.graph import Graph, Ref
from ...compiler.types import TensorType
from ...compiler.weights import value
from .classifier import Classifier, channels_last, classifier, with_features
from .options import TrainingOptions
from .seed import PROJECTION, generator
from .task import Task, fit, phase_of, sizes


class Pair(NamedTuple):
    """A value of the student that is to be like one of the teacher's."""

    student: Ref
    teacher: Ref
    axis: int
    widths: tuple[int, int] | None
    """Of student and teacher along `axis`, where they differ."""


class Lesson(NamedTuple):
    """What the teacher says of a batch."""

    logits: torch.Tensor
    features: tuple[torch.Tensor, ...]


def value_at(graph: Graph, path: str, *, training: bool) -> Ref:
    """The value at a tap, the one that a module's call gives to the outside, or a node's first output.

    Raises:
        NetcError: where there is none in the phase, or the call gives several.
    """
    if path in graph.taps:
        found = {graph.taps[path]}
    elif path in graph.nodes:
        found = {graph.nodes[path].value}
    else:
        found = _results(graph, path)
    if len(found) != 1:
        known = [*graph.taps, *(s for s in graph.scopes if s), *graph.nodes]
        message = f"{graph.name} has several values at {path}" if found else f"{graph.name} has nothing at {path}"
        notes = (", ".join(sorted(map(str, found))),) if found else ()
        raise NetcError([Diagnostic("bad-option", f"features: {message}", notes=notes, fix=nearest(path, known))])
    (ref,) = found
    if phase_of(graph, ref) == ("infer" if training else "train"):
        phase = "training" if training else "inference"
        raise NetcError([Diagnostic("bad-option", f"features: {graph.name} computes {path} not in {phase}")])
    return ref


def _results(graph: Graph, scope: str) -> set[Ref]:
    """The values from inside a call that are read outside of it."""
    inner = f"{scope}."
    own: set[Ref] = {v for node in graph.nodes.values() if node.path.startswith(inner) for v in node.values}
    read = {r for n in graph.nodes.values() if not n.path.startswith(inner) for r in n.refs}
    return own & {*read, *graph.outputs.values()}


def pairs(text: str, student: Graph, teacher: Graph, data: Dataset) -> list[Pair]:
    """`layer1 = layer2, fc` as values of both.

    Raises:
        NetcError: where there is no such value, or two differ in more than one width.
    """
    return [_pair(part.strip(), student, teacher, data) for part in text.split(",")]


def _pair(text: str, student: Graph, teacher: Graph, data: Dataset) -> Pair:
    left, _, right = (p.strip() for p in text.partition("="))
    ours, theirs = value_at(student, left, training=True), value_at(teacher, right or left, training=False)
    a, b = _type(student, ours, data), _type(teacher, theirs, data)
    differing = [i for i, (x, y) in enumerate(zip(a.shape, b.shape, strict=False)) if x != y]
    kept = a.rank == b.rank and a.rank > 1 and len(differing) < 2 and 0 not in differing
    if not kept or not (a.dtype.is_float and b.dtype.is_float):
        message = f"features: {left} is {shown(a.shape[1:])} for an example, and {right or left} {shown(b.shape[1:])}"
        note = "shapes may differ in one width, over which a projection is learnt"
        raise NetcError([Diagnostic("bad-option", message, notes=(note,))])
    axis = differing[0] if differing else 1
    x, y = a.shape[axis], b.shape[axis]
    assert isinstance(x, int)
    assert isinstance(y, int)
    return Pair(ours, theirs, axis, (x, y) if differing else None)


def _type(graph: Graph, ref: Ref, data: Dataset) -> TensorType:
    return graph.type(ref).substitute(sizes(graph, data))


def check_teacher(teacher: Graph, student: Task, data: Dataset) -> None:
    """Whether a teacher can teach the student.

    Raises:
        NetcError: where the teacher does not fit the data as the student does, or has learnt nothing.
    """
    task = fit(teacher, data)
    if task.dtype != student.dtype:
        message = f"the teacher {teacher.name} takes {task.dtype.value}, and the student {student.dtype.value}"
        raise NetcError([Diagnostic("teacher-mismatch", message)])
    if all(p.data is None for p in teacher.parameters.values()):
        message = f"the teacher {teacher.name} has no weights: all of its numbers would be drawn by chance"
        raise NetcError([Diagnostic("untrained-teacher", message, fix='load("…/model.safetensors") in its spec')])


def numbers_of(graph: Graph) -> str:
    """A hash of a graph's parameters: of their paths and numbers."""
    found = blake2b(digest_size=16)
    for path, parameter in graph.parameters.items():
        found.update(path.encode())
        found.update(numpy.ascontiguousarray(value(parameter)).tobytes())
    return found.hexdigest()


@dataclass(frozen=True, eq=False)
class Distillation:
    """A teacher, in inference and never changed, and what is learnt to read its features."""

    teacher: Classifier
    pairs: Sequence[Pair]
    projections: dict[int, torch.nn.Parameter]
    temperature: float

    @torch.no_grad()
    def teach(self, x: torch.Tensor, *, mixed: bool) -> Lesson:
        """The teacher's logits and features for examples."""
        outputs = self.teacher(x, mixed=mixed)
        return Lesson(outputs[self.teacher.task.logits], tuple(outputs[n] for n in self.teacher.features))

    def soft(self, lesson: Lesson, logits: torch.Tensor) -> torch.Tensor:
        """Kullback-Leibler divergence of the softened classes from the teacher's, times the squared temperature, which
        keeps its gradient's size (Hinton et al., "Distilling the knowledge in a neural network", 2015, section 2)."""
        t = self.temperature
        ours, theirs = functional.log_softmax(logits / t, 1), functional.log_softmax(lesson.logits / t, 1)
        return t * t * functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)

    def match(self, lesson: Lesson, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Mean over the pairs of the squared error relative to the teacher's mean square, after the projection where
        there is one (the regressor of Romero et al., "FitNets", 2015, section 2.2)."""
        errors: list[torch.Tensor] = []
        for number, (pair, ours, theirs) in enumerate(zip(self.pairs, features, lesson.features, strict=True)):
            if number in self.projections:
                ours = functional.linear(ours.movedim(pair.axis, -1), self.projections[number]).movedim(-1, pair.axis)
            scale = theirs.square().mean().clamp_min(torch.finfo(theirs.dtype).tiny)
            errors.append((ours - theirs).square().mean() / scale)
        return torch.stack(errors).mean()


def distillation(
    teacher: Graph, matched: Sequence[Pair], data: Dataset, options: TrainingOptions, device: torch.device
) -> Distillation:
    """The teacher on a device, with projections drawn from the run's seed."""
    from ..pytorch import module

    whole = with_features(teacher, [p.teacher for p in matched])
    made = classifier(whole, module(whole, options.seed).requires_grad_(False).to(device), data)
    channels_last(made.module)
    made.eval()
    projections = {
        i: torch.nn.Parameter(_projection(options.seed, i, *pair.widths).to(device))
        for i, pair in enumerate(matched)
        if pair.widths
    }
    return Distillation(made, matched, projections, options.temperature)


def _projection(seed: int, number: int, width: int, wanted: int) -> torch.Tensor:
    """A linear map [wanted, width], drawn as PyTorch's are."""
    drawn = generator(seed, PROJECTION, number).uniform(-(width**-0.5), width**-0.5, (wanted, width))
    return torch.from_numpy(drawn.astype(numpy.float32))
