"""The numbers of a graph's parameters: loaded from a checkpoint, else drawn from a seed; and written to one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoint import Checkpoint, open_checkpoint
from .files import written_whole
from .fit import Piece, assign
from .graph import Graph, Parameter
from .initialise import draw
from .rename import RenameMap
from .source import Span
from .types import DType, TensorType

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

__all__ = ["InMemory", "LoadReport", "load", "open_checkpoint", "save", "value", "values"]


@dataclass(frozen=True, eq=False, slots=True)
class InMemory:
    """Parameter data that is at hand."""

    array: Array

    def load(self) -> Array:
        return self.array


def value(parameter: Parameter, seed: int = 0) -> Array:
    """One parameter's numbers, in its shape and dtype; read, or drawn, now.

    Raises:
        NetcError: where there is no data and the initialiser cannot be drawn (see `initialise.draw`).
    """
    if parameter.data is None:
        return draw(parameter, seed)
    array = parameter.data.load()
    found, wanted = (array.dtype, array.shape), (parameter.type.dtype.as_numpy, parameter.type.shape)
    if found != wanted:
        raise ValueError(f"the data of {parameter.path} are {found}, not {wanted}")
    return array


def values(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """The numbers of every parameter by path; see `value`, which takes them one at a time."""
    return {path: value(parameter, seed) for path, parameter in graph.parameters.items()}


def save(graph: Graph, path: Path, seed: int = 0, metadata: Mapping[str, str] | None = None) -> None:
    """Write every parameter to a safetensors file, whole or not at all. The same graph gives the same bytes.

    `metadata` (a spec's hash, say) is stored as one JSON object under the key `netc`: the library writes several keys
    in a random order.

    Raises:
        NetcError: where the file cannot be written (`cannot-write`), or a parameter not be drawn.
    """
    import numpy
    import safetensors.numpy

    tensors = {name: numpy.asarray(array, order="C") for name, array in values(graph, seed).items()}
    written = {"netc": json.dumps(dict(metadata), sort_keys=True)} if metadata else None
    with written_whole(path) as partial:
        safetensors.numpy.save_file(tensors, partial, written)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a checkpoint gave a graph. All lists are of names, in the order of the checkpoint or the graph."""

    checkpoint: str
    loaded: Mapping[str, tuple[str, ...]]
    """By parameter, the tensors that fill it."""
    casts: Mapping[str, tuple[DType, DType]]
    """By parameter, the stored dtype and its own, where they differ (floats only)."""
    dropped: tuple[str, ...] = ()
    bookkeeping: tuple[str, ...] = ()
    """Counters that PyTorch's batch norm stores and nothing needs (`num_batches_tracked`)."""
    missing: tuple[str, ...] = ()
    """Parameters without a tensor, which keep their initialisers; only where not `strict`."""
    superfluous: tuple[str, ...] = ()
    """Tensors without a parameter; only where not `strict`."""
    idle: tuple[str, ...] = ()
    """Rules and drop patterns that applied to no tensor."""

    def data(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return {
            "checkpoint": self.checkpoint,
            "loaded": {path: list(names) for path, names in self.loaded.items()},
            "casts": {path: [a.value, b.value] for path, (a, b) in self.casts.items()},
            "dropped": list(self.dropped),
            "bookkeeping": list(self.bookkeeping),
            "missing": list(self.missing),
            "superfluous": list(self.superfluous),
            "idle": list(self.idle),
        }


@dataclass(frozen=True, eq=False, slots=True)
class _Stored:
    """Parameter data in a checkpoint: read, moved into place and cast when asked for."""

    checkpoint: Checkpoint
    pieces: tuple[Piece, ...]
    type: TensorType

    def load(self) -> Array:
        import numpy

        arrays = [p.move.apply(self.checkpoint.read(p.source)) for p in self.pieces]
        part = self.pieces[0].move.target_part
        array = arrays[0]
        if part:
            join = numpy.stack if array.ndim < self.type.rank else numpy.concatenate
            array = join(arrays, part.axis)
        return numpy.asarray(array, self.type.dtype.as_numpy, order="C")


def load(
    graph: Graph,
    checkpoint: Checkpoint,
    rename: RenameMap | None = None,
    span: Span | None = None,
    strict: bool = True,
) -> tuple[Graph, LoadReport]:
    """The graph with its parameters' data in the checkpoint, checked from its header; no tensor is read yet.

    Every parameter must be filled once, and every tensor used or dropped. Floats may be stored in another float dtype
    than the parameter's and are cast when read; other dtypes must agree. With `strict` false, parameters without a
    tensor keep their initialisers and tensors without a parameter are left.

    Raises:
        NetcError: with all that does not fit, one diagnostic a kind: `missing-tensors`, `superfluous-tensors`,
            `misshapen-tensors`, `mistyped-tensors`, `missing-parts`, `rename-conflict`; and those of
            `RenameMap.moves`.
    """
    rename = rename or RenameMap()
    plan = assign(graph, checkpoint, rename, span, strict)
    changed = [
        replace(graph.parameters[path], data=_Stored(checkpoint, tuple(pieces), graph.parameters[path].type))
        for path, pieces in plan.pieces.items()
    ]
    report = LoadReport(
        checkpoint.name,
        {path: tuple(dict.fromkeys(p.source for p in pieces)) for path, pieces in plan.pieces.items()},
        dict(_casts(graph, plan.pieces)),
        tuple(plan.dropped),
        tuple(plan.bookkeeping),
        tuple(p.path for p in plan.missing),
        tuple(dict.fromkeys(p.source for p in plan.homeless)),
        tuple(str(r) for r in [*rename.drops, *rename.rules] if r not in plan.used),
    )
    return graph.with_parameters(changed), report


def _casts(graph: Graph, pieces: Mapping[str, Sequence[Piece]]) -> Iterator[tuple[str, tuple[DType, DType]]]:
    for path, filling in pieces.items():
        wanted = graph.parameters[path].type.dtype
        stored = next((p.header.dtype for p in filling if p.header.dtype not in (None, wanted)), None)
        if stored:
            yield path, (stored, wanted)
