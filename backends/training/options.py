"""What a user may ask of training, validated at the door."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...compiler.diagnostic import Diagnostic, NetcError, nearest


class TrainingOptions(BaseModel):
    """Everything that decides a run. Two runs of equal options, graph, device and thread count give equal weights."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    data: str = Field(
        description='"digits" of scikit-learn; a folder of IDX files named as MNIST\'s (train-images-idx3-ubyte, '
        "train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, plain or .gz); or an .npz file of "
        "x_train, y_train, x_test and y_test, or of x and y, of which every fifth example is then held out"
    )
    output: Path = Field(description="folder for metrics.csv, checkpoint.safetensors and model.safetensors")
    epochs: int = Field(10, ge=1, description="passes over the training set")
    batch: int = Field(128, ge=2, description="examples a step, over all processes; the last partial batch is dropped")
    optimizer: Literal["sgd", "adam", "adamw"] = Field("adamw", description="as in torch.optim")
    learning_rate: float = Field(1e-3, gt=0, description="the highest of the schedule")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    nesterov: bool = Field(False, description="Nesterov's momentum, of sgd")
    weight_decay: float = Field(0.0, ge=0, description="on parameters of rank 2 and more; norms and biases go without")
    schedule: Literal["constant", "cosine", "step"] = Field("cosine", description="of the learning rate")
    warmup: float = Field(0.0, ge=0, description="epochs of linear increase to the learning rate")
    step_epochs: int = Field(10, ge=1, description="epochs between two decreases of the step schedule")
    step_factor: float = Field(0.1, gt=0, lt=1, description="factor of a decrease of the step schedule")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all classes")
    penalty: float = Field(
        1.0, ge=0, description="weight in the loss of each output of rank 0 that the model has in training"
    )
    teacher: str | None = Field(
        None,
        description="a trained model to distil from: FILE:MODEL, a model of the same file, or an anchor of a family",
    )
    distill: float = Field(
        0.5, ge=0, le=1, description="share in the loss of the teacher's logits; the labels have the rest"
    )
    temperature: float = Field(2.0, gt=0, description="that softens the logits of both (Hinton et al., 2015)")
    features: str | None = Field(
        None,
        description="inner values to be learnt from the teacher: paths of taps, modules or nodes, `student = teacher` "
        "with commas between, or one path where both have the same; a learnt projection joins different widths",
    )
    feature_weight: float = Field(1.0, ge=0, description="weight in the loss of the features' relative squared error")
    freeze: str | None = Field(
        None, description="parameters to be left as they are: patterns over paths, with commas between"
    )
    freeze_statistics: bool = Field(
        False, description="batch norm uses its running statistics in training too, and leaves them as they are"
    )
    sampler: Literal["uniform", "flops"] = Field(
        "uniform",
        description="of the member of a family that learns in a step: all alike, or first a range of MACs, all ranges "
        "alike, then a member in it",
    )
    bins: int = Field(8, ge=2, description="ranges of MACs of the flops sampler")
    sandwich: bool = Field(False, description="the cheapest and the dearest member of a family learn in each step too")
    evaluate: int = Field(
        0, ge=0, description="members of a family to be measured before and after, evenly by MACs; 0 for all"
    )
    shift: int = Field(0, ge=0, description="random shifts of images by up to so many pixels")
    flip: bool = Field(False, description="random mirroring of images, left to right")
    precision: Literal["f32", "bf16"] = Field("f32", description="bf16: automatic mixed precision")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes CUDA where there is a device")
    seed: int = Field(0, ge=0, lt=2**63, description="of weights, data order, augmentation and dropout")
    checkpoint_steps: int = Field(0, ge=0, description="a checkpoint every so many steps, besides that of each epoch")
    resume: bool = Field(False, description="continue the run in the output folder")

    @property
    def identity(self) -> dict[str, Any]:
        """The options on which the result depends, as JSON values. The teacher is told by its numbers."""
        return self.model_dump(mode="json", exclude={"output", "checkpoint_steps", "resume", "device", "teacher"})

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of 0-based step `step`: a linear warm-up, then the schedule over the steps that remain."""
        warm = round(self.warmup * steps_per_epoch)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        if self.schedule == "cosine":
            share = (step - warm) / (self.epochs * steps_per_epoch - warm)
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
        if self.schedule == "step":
            return self.learning_rate * self.step_factor ** (step // (self.step_epochs * steps_per_epoch))
        return self.learning_rate


_NEEDS = {
    "momentum": ("optimizer", "sgd"),
    "nesterov": ("optimizer", "sgd"),
    "step_epochs": ("schedule", "step"),
    "step_factor": ("schedule", "step"),
    "bins": ("sampler", "flops"),
}
_NEEDS_ANY = {
    "distill": "teacher",
    "temperature": "teacher",
    "features": "teacher",
    "feature_weight": "features",
}

OF_FAMILIES = ("sampler", "bins", "sandwich", "evaluate")
"""Options that mean nothing to a single model."""


def parse_options(values: Mapping[str, Any]) -> TrainingOptions:
    """Options from named values, texts among them (`{"epochs": "5"}`).

    Raises:
        NetcError: with every name that does not exist, value that does not fit, and option that would have no effect.
    """
    try:
        options = TrainingOptions.model_validate(dict(values))
    except ValidationError as error:
        raise NetcError([_explain(e) for e in error.errors()]) from None
    conflicts = list(_conflicts(options))
    if conflicts:
        raise NetcError(conflicts)
    return options


def _explain(error: Any) -> Diagnostic:
    name = str(error["loc"][0])
    fields = TrainingOptions.model_fields
    if error["type"] == "extra_forbidden":
        close = nearest(name, fields)
        return Diagnostic(
            "unknown-option",
            f"training has no option {name}",
            notes=("the options are " + ", ".join(fields),),
            fix=f"{close} = {error['input']}" if close else None,
        )
    about = f"{name}: {fields[name].description}"
    if error["type"] == "missing":
        return Diagnostic("missing-option", f"training needs the option {name}", notes=(about,))
    close = nearest(str(error["input"]), _choices(name))
    return Diagnostic(
        "bad-option",
        f"{name} = {error['input']}: {error['msg'][0].lower()}{error['msg'][1:]}",
        notes=(about,),
        fix=f"{name} = {close}" if close else None,
    )


def _choices(name: str) -> tuple[str, ...]:
    return getattr(TrainingOptions.model_fields[name].annotation, "__args__", ())


def _conflicts(options: TrainingOptions) -> Iterator[Diagnostic]:
    for name, (other, needed) in _NEEDS.items():
        chosen = getattr(options, other)
        if name in options.model_fields_set and chosen != needed:
            yield Diagnostic(
                "option-without-effect",
                f"{name} has no effect with {other} = {chosen}",
                fix=f"{other} = {needed}, or leave {name} out",
            )
    for name, other in _NEEDS_ANY.items():
        if name in options.model_fields_set and getattr(options, other) is None:
            yield Diagnostic(
                "option-without-effect",
                f"{name} has no effect without {other}",
                fix=f"give {other}, or leave {name} out",
            )
    if options.nesterov and options.momentum == 0:
        yield Diagnostic("option-without-effect", "nesterov needs a momentum above 0", fix="momentum = 0.9")
    if options.warmup >= options.epochs:
        yield Diagnostic(
            "bad-option",
            f"the warm-up takes {options.warmup:g} epochs of {options.epochs}: nothing is left for the schedule",
            fix=f"warmup = {options.epochs / 10:g}",
        )
