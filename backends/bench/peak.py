"""What the machine can do at most, as measured: arithmetic by products of matrices, and reading and writing memory.

Nothing here is a kernel for its own sake. The probes are models like any other, run in turns by every candidate that is
there, and the fastest of all counts: MKL in PyTorch, MLAS in ONNX Runtime, oneDNN in OpenVINO, and our own code.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...compiler.graph import Edit, Graph, Input, Parameter
from ...compiler.operators.arithmetic import Add
from ...compiler.operators.linear import Linear
from ...compiler.operators.operator import Initialiser
from ...compiler.types import DType, TensorType
from .peer import Peer
from .process import Process
from .race import race
from .subject import Subject

PRODUCTS = ((512, 512, 512), (1024, 1024, 1024))
"""Rows, inner size and columns: matrices that fit into caches."""

STREAMED = 1 << 24
"""Numbers in each array whose sum is taken: far more than caches hold."""


@dataclass(frozen=True)
class Peak:
    """The best that was measured, and who it was."""

    rate: float
    """Floating-point operations (two for each multiply-accumulate), or bytes, in a second."""
    by: str
    what: str

    def data(self) -> dict[str, Any]:
        return {"rate": self.rate, "by": self.by, "what": self.what}


def probe(folder: Path, candidates: Iterable[Peer], threads: int, turns: int = 10, *, memory: bool = False) -> Peak:
    """The most operations a second that any candidate reaches with a product of matrices; with `memory`, the most
    bytes a second that a sum of two arrays reads and writes.

    `torch.compile` takes no part: it calls what PyTorch calls.
    """
    found: list[Peak] = []
    probes = [_sum(STREAMED)] if memory else [_product(*sizes) for sizes in PRODUCTS]
    for i, (graph, what, amount) in enumerate(probes):
        subject = Subject(graph, lambda graph=graph: graph, folder / f"{graph.name}{i}", threads)
        with ExitStack() as stack:
            running: dict[str, Process] = {}
            for peer in candidates:
                if peer.name != "inductor":
                    process = Process(peer.name, subject.made(peer.form), subject.inputs, threads)
                    running[peer.name] = stack.enter_context(process)
            seconds = race(running, turns, of=min)
        found.extend(Peak(amount / min(taken), name, what) for name, taken in seconds.items())
    return max(found, key=lambda p: p.rate)


def _product(rows: int, inner: int, columns: int) -> tuple[Graph, str, int]:
    """A linear layer, what it is, and its operations."""
    edit = Edit(Graph("product"))
    x = edit.add("x", Input(TensorType(DType.F32, (rows, inner))))
    type = TensorType(DType.F32, (columns, inner))
    weight = edit.parameter(Parameter("layer.weight", type, Initialiser("fan_in_uniform")))
    edit.output("y", edit.add("layer", Linear(), x.value, weight, None).value)
    return edit.done(), f"a product of matrices, {rows} × {inner} × {columns}", 2 * rows * inner * columns


def _sum(numbers: int) -> tuple[Graph, str, int]:
    """Two arrays added, what that is, and the bytes that are read and written."""
    edit = Edit(Graph("sum"))
    type = TensorType(DType.F32, (numbers,))
    a, b = (edit.add(name, Input(type)).value for name in "ab")
    edit.output("y", edit.add("y", Add(), a, b).value)
    amount = 3 * type.dtype.bytes * numbers
    return edit.done(), f"the sum of two arrays, {amount >> 20} MiB", amount
