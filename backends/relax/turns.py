"""A group as one kernel against the same nodes as several: built both ways, and run in turns on the machine at hand."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ...compiler.fusion.group import Group
from ...compiler.fusion.isolate import isolate
from ...compiler.fusion.race import Timing
from ...compiler.fusion.workload import Workload
from ...compiler.graph import Graph
from .artifact import Array, kept
from .build import build, probe
from .machine import Machine
from .threads import use
from .untyped import tvm

LEAST = 2e-3
"""Seconds that one measurement takes at least: shorter kernels are called several times."""


@dataclass(frozen=True)
class Contest:
    """Seconds of one run, in the order of the turns: all of the group in one kernel, and in the kernels of `parts`."""

    group: Group
    parts: tuple[Group, ...]
    fused: tuple[float, ...]
    unfused: tuple[float, ...]
    threads: int

    @property
    def timing(self) -> Timing:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        kernels = f"{len(self.parts)} kernel{'s' if len(self.parts) > 1 else ''}"
        text = f"medians of {len(self.fused)} runs in turns with {kernels}, {threads}"
        faster = sum(a < b for a, b in zip(self.fused, self.unfused, strict=True)) / len(self.fused)
        return Timing(median(self.fused), median(self.unfused), faster, text)


def contest(
    workload: Workload, group: Group, parts: Sequence[Group], machine: Machine, *, turns: int = 15, seed: int = 0
) -> Contest:
    """Measure a group. `parts` are groups of the same nodes; inputs are random, weights what the model has or drawn
    from `seed`. Both run with the machine's threads, in turns: A B A B; as with `Artifact.load`, with others where
    `TVM_NUM_THREADS` says so or TVM has run something already in this process.

    Raises:
        NetcError: where a kernel cannot be built.
    """
    use(int(os.environ.get("TVM_NUM_THREADS", machine.threads)))
    graph = isolate(workload, group.nodes)
    arrays = probe({name: node.types[0] for name, node in graph.inputs.items()}, seed)
    runs = [runner(graph, chosen, machine, arrays, seed) for chosen in ([group], parts)]
    fused, unfused = in_turns(runs, turns)
    return Contest(group, tuple(parts), fused, unfused, int(tvm.get_global_func("runtime.NumThreads")()))


def in_turns(runs: Sequence[Callable[[], Any]], turns: int) -> list[tuple[float, ...]]:
    """Seconds of each run in each turn: A B A B."""
    counts = [_repetitions(run) for run in runs]
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(turns):
        for seconds, run, count in zip(taken, runs, counts, strict=True):
            seconds.append(_seconds(run, count))
    return [tuple(seconds) for seconds in taken]


def runner(
    graph: Graph, groups: Sequence[Group] | None, machine: Machine, arrays: Sequence[Array], seed: int = 0
) -> Callable[[], Any]:
    """A model compiled in memory, a kernel for each group, as TVM fuses where there are none; each call runs it on the
    same arrays."""
    built = build(graph, machine, seed, groups)
    call = tvm.runtime.vm.VirtualMachine(built.executable, tvm.cpu())["main"]
    given = [*map(kept, arrays), *map(kept, built.constants.values())]
    return lambda: call(*given)


def _repetitions(run: Callable[[], Any]) -> int:
    run()
    return max(1, round(LEAST / min(_seconds(run, 1) for _ in range(3))))


def _seconds(run: Callable[[], Any], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - start) / count
