"""The state of a run in one safetensors file, replaced whole: tensors by name, everything else as JSON in its header.

There is no generator state to save: order, augmentation and dropout follow from the seed and the step (see `loop`).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ...compiler.dataset import Dataset
from ...compiler.diagnostic import Diagnostic, NetcError
from ...compiler.family import Family
from ...compiler.files import written_whole

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.csv"
MEMBERS = "members.csv"
MODEL = "model.safetensors"


class Row(NamedTuple):
    """One epoch's line of metrics.csv. The training columns are of the batches as they came, the others of the test set
    after the epoch; of a family, of its anchors on average. `train_loss` is all that is made small; `distill_loss` and
    `feature_loss` are what the teacher adds to it, before their weights, and 0 without one. `seconds` count from the
    start, over all resumed parts."""

    epoch: int
    step: int
    train_loss: float
    distill_loss: float
    feature_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    seconds: float


@dataclass
class Progress:
    """How far a run is: steps taken, what has been summed in the running epoch, rows of the finished ones."""

    step: int = 0
    totals: list[float] = field(default_factory=lambda: [0.0] * 5)
    """Loss, its two parts from a teacher, hits and examples."""
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list[Row])
    before: list[float] = field(default_factory=list[float])
    """Accuracies of a family's measured members before the first step."""


class MemberRow(NamedTuple):
    """One line of members.csv. MACs are for one example, accuracies on the test set; `anchor` is the name of the whole
    model that the member was, or empty."""

    member: int
    label: str
    macs: int
    accuracy_before: float
    accuracy_after: float
    anchor: str


def fingerprint(family: Family, members: Iterable[int], data: Dataset) -> dict[str, str]:
    """What a run is of: hashes of the structure of some members and of the family, and of the training examples."""
    graphs = [family.member(number) for number in members]
    nodes = [[(n.path, n.op, n.inputs, n.types, n.phase) for n in graph.nodes.values()] for graph in graphs]
    parameters = [(p.path, p.type, p.trainable) for p in family.parameters.values()]
    structure = repr((nodes, parameters, [g.outputs for g in graphs], family.count)).encode()
    examples = blake2b(data.train.x.data, digest_size=16)
    examples.update(data.train.y.data)
    return {"graph": blake2b(structure, digest_size=16).hexdigest(), "data": examples.hexdigest()}


def save(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    about: Mapping[str, Any],
) -> None:
    """Write the checkpoint. `about` identifies the run, as JSON values.

    Raises:
        NetcError: where the file cannot be written.
    """
    stored = {f"model.{name}": tensor for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        for key, value in optimizer.state.get(tensor, {}).items():
            stored[f"optimizer.{key}.{name}"] = value
    write_tensors(path, stored, {"progress": asdict(progress), "about": dict(about)})


def write_rows(path: Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """A table, whole or not at all."""
    with written_whole(path) as partial, partial.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]) -> None:
    """A safetensors file with `header` as JSON under one metadata key, `netc`: the format does not order several."""
    try:
        with written_whole(path) as partial:
            save_file(
                {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
                partial,
                {"netc": json.dumps(header, allow_nan=False)},
            )
    except SafetensorError as error:  # what the library makes of a full disk
        raise NetcError([Diagnostic("cannot-write", f"{path} cannot be written: {error}")]) from error


def restore(
    path: Path, tensors: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer, about: Mapping[str, Any]
) -> Progress:
    """Fill the tensors and optimizer from a checkpoint of the same run.

    Raises:
        NetcError: where the file is no checkpoint, or one of another run, with every difference.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["netc"])
            _compare(path, header["about"], about)
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 the library's object is no mapping
        return _fill(stored, header["progress"], tensors, optimizer)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise NetcError([Diagnostic("bad-checkpoint", f"{path} is no checkpoint of netc train: {reason}")]) from error


def _fill(
    stored: Mapping[str, torch.Tensor],
    progress: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> Progress:
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(stored[f"model.{name}"])
    for name, tensor in stored.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            key, _, owner = rest.partition(".")
            parameter = tensors[owner]
            # Adam's step counter stays a scalar on the CPU; anything else lies in memory as its parameter does.
            like = tensor.clone() if tensor.ndim == 0 else torch.empty_like(parameter).copy_(tensor)
            optimizer.state[parameter][key] = like
    rows = [Row(*row) for row in progress["rows"]]
    return Progress(progress["step"], progress["totals"], progress["seconds"], rows, progress["before"])


def _compare(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    different = [name for name in now if before.get(name) != now[name]]
    if different:
        raise NetcError(
            Diagnostic(
                "another-run",
                f"{path} is of a run with {_described(name, before.get(name))}, not {_described(name, now[name])}",
                fix="resume with the options it was started with, or train into another folder",
            )
            for name in different
        )


def _described(name: str, value: Any) -> str:
    return f"another {name}" if name in ("graph", "data", "teacher") else f"{name} = {value}"
