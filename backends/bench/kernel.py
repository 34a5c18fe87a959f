"""Our kernels one by one: how long each runs, and what it computes and touches."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import networkx

from ...compiler.fusion.workload import Workload
from .runtime import Array

if TYPE_CHECKING:
    from .process import Process
    from .subject import Subject


@dataclass(frozen=True)
class Kernel:
    """The kernels that compute a set of nodes: one, or several where one node takes several.

    `operations` are two for each multiply-accumulate that the model says, `bytes` what the kernels read and write, each
    tensor once for every kernel, wherever it lies.
    """

    nodes: tuple[str, ...]
    names: tuple[str, ...]
    operations: int
    bytes: int
    seconds: float

    def data(self) -> dict[str, Any]:
        return {
            "nodes": list(self.nodes),
            "kernels": list(self.names),
            "operations": self.operations,
            "bytes": self.bytes,
            "seconds": self.seconds,
        }


def times(folder: Path, arrays: Sequence[Array], rounds: int) -> list[dict[str, Any]]:
    """Every call of a kernel that an artifact makes, in order: its name, the bytes of its arguments, and its median
    time. Each round goes through all of them, so that a kernel finds caches as in a run of the whole."""
    from ..relax.artifact import Artifact, kept

    calls = Artifact.load(folder).calls([kept(a) for a in arrays])
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for seconds, (_, function, arguments) in zip(taken, calls, strict=True):
            start = time.perf_counter()
            function(*arguments)
            seconds.append(time.perf_counter() - start)
    return [
        {
            "kernel": name,
            "bytes": sum(a.numpy().nbytes for a in arguments if hasattr(a, "numpy")),
            "seconds": median(seconds[1:]),
        }
        for (name, _, arguments), seconds in zip(calls, taken, strict=True)
    ]


def kernels(subject: Subject, process: Process, rounds: int) -> tuple[Kernel, ...]:
    """The kernels of the subject's artifact, measured in a process that has it open. Kernels that compute parts of one
    node are one."""
    from ..relax import prepare

    assert subject.compiled
    workload = Workload(prepare(subject.compiled, {}))
    groups = json.loads((subject.made("artifact") / "manifest.json").read_text())["groups"]
    shared: networkx.Graph[str] = networkx.Graph()
    for group in groups:
        networkx.add_path(shared, group["nodes"])
    parts = {node: i for i, part in enumerate(networkx.connected_components(shared)) for node in part}
    together: dict[int, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for group, call in zip(groups, process.kernels(rounds), strict=True):
        together.setdefault(parts[group["nodes"][0]], []).append((group, call))
    return tuple(_kernel(workload, calls) for calls in together.values())


def _kernel(workload: Workload, calls: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> Kernel:
    nodes = tuple(dict.fromkeys(node for group, _ in calls for node in group["nodes"]))
    return Kernel(
        nodes,
        tuple(call["kernel"] for _, call in calls),
        2 * sum(workload.macs(node) for node in nodes),
        sum(call["bytes"] for _, call in calls),
        sum(call["seconds"] for _, call in calls),
    )
