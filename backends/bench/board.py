"""The scoreboard: every candidate on every model, in turns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from math import exp, log
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import numpy as np

from ...compiler.cost import cost
from ...compiler.diagnostic import Diagnostic, NetcError
from ...compiler.difference import apart
from .kernel import Kernel, kernels
from .peak import Peak
from .peer import NETC, Peer
from .process import Process
from .race import PAUSE, race
from .runtime import CHANNELS_LAST, Array
from .subject import Subject, size

TURNS = 21


@dataclass(frozen=True)
class Spread:
    """The middle of some numbers, and between which the middle half of them lies."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        low, _, high = quantiles(numbers, n=4, method="inclusive") if len(numbers) > 1 else (*numbers, 0, *numbers)
        return cls(low, median(numbers), high)


@dataclass(frozen=True)
class Entry:
    """What one candidate did with one model."""

    version: str
    seconds: tuple[float, ...]
    """Of one run, by turn."""
    difference: float
    """The largest to float64 PyTorch, relative to the largest element of the output that it is in."""
    compile: float | None
    """Seconds of work that is done once, ahead; None where there is none."""
    start: float
    """Seconds from nothing to the first result: a process begins, loads its runtime and the model, and runs."""
    memory: int
    """The most bytes that this process held."""
    size: int
    """Bytes of the files that it reads."""

    @property
    def spread(self) -> Spread:
        return Spread.of(self.seconds)

    def data(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "median": self.spread.median,
            "quartiles": [self.spread.low, self.spread.high],
            "difference": self.difference,
            "compile": self.compile,
            "start": self.start,
            "memory": self.memory,
            "size": self.size,
            "seconds": list(self.seconds),
        }


@dataclass(frozen=True)
class Score:
    """One model. `entries` are in the order in which candidates were named, ourselves first."""

    model: str
    sizes: Mapping[str, int]
    macs: int
    entries: Mapping[str, Entry]
    failures: Mapping[str, str] = field(default_factory=dict[str, str])
    """Peers that could not run it, and why."""
    kernels: tuple[Kernel, ...] = ()

    @property
    def peers(self) -> list[str]:
        return [name for name in self.entries if name != NETC.name]

    def ratio(self, peer: str) -> Spread:
        """Our time divided by a peer's in the same turn."""
        pairs = zip(self.entries[NETC.name].seconds, self.entries[peer].seconds, strict=True)
        return Spread.of([ours / theirs for ours, theirs in pairs])

    @property
    def best(self) -> str | None:
        """The fastest peer."""
        return min(self.peers, key=lambda name: self.entries[name].spread.median, default=None)

    def share(self, name: str, peak: Peak) -> float:
        """The part of the machine's measured peak that a candidate reaches; more than 1 where it multiplies less often
        than the model says, as Winograd's algorithm does."""
        return 2 * self.macs / self.entries[name].spread.median / peak.rate

    def data(self, peak: Peak) -> dict[str, Any]:
        ratios = {name: self.ratio(name) for name in self.peers}
        return {
            "model": self.model,
            "sizes": dict(self.sizes),
            "macs": self.macs,
            "candidates": {
                name: entry.data()
                | {"share": self.share(name, peak)}
                | ({"ratio": [r.low, r.median, r.high]} if (r := ratios.get(name)) else {})
                for name, entry in self.entries.items()
            },
            "best": self.best,
            "failures": dict(self.failures),
            "kernels": [kernel.data() for kernel in self.kernels],
        }


@dataclass(frozen=True)
class Failed:
    """A model that netc itself could not compile or run."""

    model: str
    sizes: Mapping[str, int]
    diagnostics: tuple[Diagnostic, ...]

    def data(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "sizes": dict(self.sizes),
            "diagnostics": [diagnostic.data() for diagnostic in self.diagnostics],
        }


@dataclass
class Board:
    """All models, and what the machine can do. Models are added one by one."""

    threads: int
    turns: int
    peak: Peak
    bandwidth: Peak | None = None
    records: str = "none"
    """The file of records of tuning that we compiled with, and those that come with netc; `none`: with neither."""
    scores: list[Score] = field(default_factory=list[Score])
    failed: list[Failed] = field(default_factory=list[Failed])

    def means(self) -> dict[str, float]:
        """The geometric mean of our ratio to each peer that ran all of `scores`, and to the `best` peer of each."""
        found: dict[str, float] = {}
        for peer in dict.fromkeys(p for s in self.scores for p in s.peers):
            if all(peer in s.entries for s in self.scores):
                found[peer] = _mean([s.ratio(peer).median for s in self.scores])
        best = [s.ratio(s.best).median for s in self.scores if s.best is not None]
        if best and len(best) == len(self.scores):
            found["best"] = _mean(best)
        return found

    def data(self) -> dict[str, Any]:
        return {
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)),
            "threads": self.threads,
            "turns": self.turns,
            "pause": PAUSE,
            "records": self.records,
            "peak": self.peak.data(),
            "bandwidth": self.bandwidth.data() if self.bandwidth else None,
            "models": [score.data(self.peak) for score in self.scores],
            "failed": [failed.data() for failed in self.failed],
            "means": self.means(),
        }

    def samples(self) -> Iterator[str]:
        """Lines of CSV: every time that counted."""
        yield "model,candidate,turn,seconds"
        for score in self.scores:
            for name, entry in score.entries.items():
                yield from (f"{score.model},{name},{turn},{s:.4g}" for turn, s in enumerate(entry.seconds))


def _mean(ratios: Sequence[float]) -> float:
    return exp(sum(map(log, ratios)) / len(ratios))


def processor() -> str:
    """Its name, as the system knows it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def measure(
    subject: Subject,
    peers: Sequence[Peer],
    *,
    turns: int = TURNS,
    sizes: Mapping[str, int] | None = None,
    rounds: int = 0,
) -> Score:
    """Run a model by ourselves and all peers, each in a fresh process, with the subject's threads, in turns.

    With `rounds`, our kernels are run one by one after it, so many times.

    Raises:
        NetcError: where we cannot compile or run it. Peers that cannot are in `failures`.
    """
    expected = subject.exact()
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        running: dict[str, Started] = {}
        for peer in (NETC, *peers):
            try:
                running[peer.name] = start(subject, peer)
            except NetcError as error:
                if peer is NETC:
                    raise
                failures[peer.name] = "; ".join(d.message for d in error.diagnostics)
            else:
                stack.enter_context(running[peer.name].process)
        taken = race({name: started.process for name, started in running.items()}, turns)
        entries = {
            name: Entry(
                process.version, tuple(taken[name]), difference(process.results(), expected), compiled,
                process.start, process.memory(), bytes,
            )
            for name, (process, compiled, bytes) in running.items()
        }  # fmt: skip
        found = kernels(subject, running[NETC.name].process, rounds) if rounds else ()
    macs = int(str(cost(subject.graph).macs))
    return Score(subject.graph.name, dict(sizes or {}), macs, entries, failures, found)


class Started(NamedTuple):
    """A fresh process, the seconds of compiling before it (None without any), and the bytes of the files it reads."""

    process: Process
    compile: float | None
    size: int


def start(subject: Subject, peer: Peer) -> Started:
    """A fresh process of a candidate.

    Raises:
        NetcError: where the model has no such form, or the candidate cannot run it.
    """
    folder = subject.made(peer.form)
    if peer.name == "torch":
        return Started(_faster(subject, folder), None, size(folder))
    if peer.name != "inductor":
        process = Process(peer.name, folder, subject.inputs, subject.threads)
        return Started(process, subject.seconds[peer.form] if peer is NETC else None, size(folder))
    cache = subject.folder / "inductor"
    settings = {"TORCHINDUCTOR_CACHE_DIR": str(cache)}
    with Process(peer.name, folder, subject.inputs, subject.threads, settings) as cold:
        compiled = cold.start
    process = Process(peer.name, folder, subject.inputs, subject.threads, settings)
    return Started(process, compiled, size(folder) + size(cache))


def _faster(subject: Subject, folder: Path) -> Process:
    """PyTorch with the memory format in which it runs the model faster; there is one where nothing convolves."""
    plain = Process("torch", folder, subject.inputs, subject.threads)
    if not any(node.op.name.startswith("conv2d") for node in subject.graph.nodes.values()):
        return plain
    started = {"plain": plain}
    faster: Process | None = None
    try:
        times = {"plain": [0.0]}
        with suppress(NetcError):  # what the model does to shapes may need the plain format
            started["other"] = Process("torch", folder, subject.inputs, subject.threads, CHANNELS_LAST)
            times = race(started, 3)
        faster = started[min(times, key=lambda name: min(times[name]))]
    finally:
        for process in started.values():
            if process is not faster:
                process.close()
    assert faster
    return faster


def difference(found: Sequence[Array], expected: Sequence[Array]) -> float:
    """The largest difference, each relative to the largest element of its output; NaN as `apart` says."""
    pairs = [apart(b, a.reshape(b.shape)) for a, b in zip(found, expected, strict=True)]
    return float(np.max([relative for _, relative in pairs], initial=0.0))
