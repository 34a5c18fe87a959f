"""Our kernels one by one: how long each runs, and what it computes and touches."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import networkx

from ...compiler.fusion.memory import Members
from ...compiler.fusion.workload import Workload
from .runtime import Array

if TYPE_CHECKING:
    from .process import Process
    from .subject import Subject


@dataclass(frozen=True)
class Kernel:
    """The kernels that compute a set of nodes: one, or several where one node takes several.

    `operations` are two for each multiply-accumulate, and `bytes` what has to be read and written at least: the values
    that come in and go out, and weights, each once, wherever they lie. Both are the model's: kernels that prepare
    weights in a larger form, or multiply less often, are counted like others.
    """

    nodes: tuple[str, ...]
    names: tuple[str, ...]
    kind: str
    """The operator of the node that computes most."""
    operations: int
    bytes: int
    seconds: float

    def data(self) -> dict[str, Any]:
        return {
            "nodes": list(self.nodes),
            "kernels": list(self.names),
            "kind": self.kind,
            "operations": self.operations,
            "bytes": self.bytes,
            "seconds": self.seconds,
        }


def times(folder: Path, arrays: Sequence[Array], rounds: int, threads: int) -> list[dict[str, Any]]:
    """Every call of a kernel that an artifact makes, in order: its name and its median time. Each
    round goes through all of them, so that a kernel finds caches as in a run of the whole."""
    from ..relax.artifact import kept, opened
    from ..relax.threads import called

    machine, manifest, constants = opened(folder)
    names = {group["kernel"] for group in manifest["groups"]}
    calls: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = []

    def record(function: Callable[..., Any], name: str, before: bool, _: Any, *arguments: Any) -> int:
        if before and name in names:
            calls.append((name, function, arguments))
        return 0

    def measured() -> list[list[float]]:
        machine["main"](*[kept(a) for a in arrays], *constants)
        taken: list[list[float]] = [[] for _ in calls]
        for _ in range(rounds + 1):
            for seconds, (_, function, arguments) in zip(taken, calls, strict=True):
                start = time.perf_counter()
                function(*arguments)
                seconds.append(time.perf_counter() - start)
        return taken

    machine["set_instrument"](record)
    taken = called(threads, False, measured)
    return [
        {"kernel": name, "seconds": median(seconds[1:])} for (name, _, _), seconds in zip(calls, taken, strict=True)
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
    members = Members(workload, nodes)
    moved = sum(workload.bytes(workload.type(value)) for value in {*members.inputs, *members.leaving})
    weights = {weight.name: weight.bytes for path in members.order for weight in workload.weights[path]}
    return Kernel(
        nodes,
        tuple(call["kernel"] for _, call in calls),
        workload.graph.nodes[max(nodes, key=workload.macs)].op.name,
        2 * sum(workload.macs(node) for node in nodes),
        moved + sum(weights.values()),
        sum(call["seconds"] for _, call in calls),
    )
