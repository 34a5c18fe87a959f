"""A model that is measured, and the files from which candidates take it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...compiler.backend import backend
from ...compiler.graph import Graph, Value
from ...compiler.target import LLVM
from .peer import Form
from .runtime import Array


@dataclass
class Subject:
    """A model with known sizes, as it is declared, in a folder of its own.

    Peers get the graph as it is; their own optimisers are theirs. `optimise` gives what is compiled: netc's passes are
    part of its compile time. `choices` answer what kernels leave open, analytically where there are none.
    """

    graph: Graph
    optimise: Callable[[], Graph]
    folder: Path
    threads: int
    seed: int = 0
    choices: Any = None
    compiled: Graph | None = None
    """What `optimise` gave, once the artifact is made."""
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    """How long each form took to make."""
    arrays: Sequence[Array] = ()

    def __post_init__(self) -> None:
        self.arrays = feed(self.graph, self.seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        np.savez(self.inputs, *self.arrays)

    @property
    def inputs(self) -> Path:
        """The file of inputs that all candidates read."""
        return self.folder / "inputs.npz"

    def made(self, form: Form) -> Path:
        """The folder of a form, made where it is not there yet.

        Raises:
            NetcError: where the model cannot be expressed so.
        """
        folder = self.folder / form
        if form not in self.seconds:
            start = time.perf_counter()
            _MAKE[form](self, folder)
            self.seconds[form] = time.perf_counter() - start
        return folder

    def exact(self) -> list[Array]:
        """The outputs by PyTorch in float64."""
        import torch

        pytorch = backend("pytorch")
        torch.set_num_threads(self.threads)
        made = pytorch.module(self.graph, seed=self.seed, dtype=torch.float64)
        given = [torch.from_numpy(a) for a in self.arrays]
        with torch.inference_mode():
            found: Any = made(*(g.double() if g.dtype == torch.float32 else g for g in given))
        return [r.numpy() for r in (found if isinstance(found, tuple) else (found,))]


def _artifact(subject: Subject, folder: Path) -> None:
    subject.compiled = subject.optimise()
    target = LLVM(threads=subject.threads)
    backend("tvm").compile(subject.compiled, target, folder, seed=subject.seed, choices=subject.choices)


def _pytorch(subject: Subject, folder: Path) -> None:
    backend("pytorch").export(subject.graph, folder, subject.seed)


def _onnx(subject: Subject, folder: Path) -> None:
    folder.mkdir()
    backend("onnx").export(subject.graph, folder / "model.onnx", subject.seed)


_MAKE: dict[Form, Callable[[Subject, Path], None]] = {"artifact": _artifact, "pytorch": _pytorch, "onnx": _onnx}


def feed(graph: Graph, seed: int = 0) -> list[Array]:
    """Random inputs: normal numbers, and of integers rows of the tables that they look up, else bits."""
    generator = np.random.default_rng(seed)
    arrays: list[Array] = []
    for path, node in graph.inputs.items():
        type = node.types[0]
        shape = [int(str(d)) for d in type.shape]
        if type.dtype.is_float:
            drawn = generator.standard_normal(shape)
        else:
            tables = [graph.type(ref) for n in graph.users[Value(path)] if n.op.name == "embedding" for ref in n.refs]
            rows = [int(str(t.shape[0])) for t in tables if t.dtype.is_float]
            drawn = generator.integers(0, min(rows, default=2), shape)
        arrays.append(drawn.astype(type.dtype.as_numpy))
    return arrays


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
