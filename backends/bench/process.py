"""A candidate's process, as seen from the one that measures."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ...compiler.diagnostic import Diagnostic, NetcError
from .runtime import Array

_numbers = count()
"""Of processes, so that each has a log of its own."""


class Process:
    """A worker that has run its model once. `start` is how many seconds that took, from nothing."""

    def __init__(
        self, runtime: str, folder: Path, inputs: Path, threads: int, more: Mapping[str, str] | None = None
    ) -> None:
        """Start it.

        Raises:
            NetcError: where the candidate cannot run the model, or computes with another number of threads
                (`cannot-run`).
        """
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TVM_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, str(threads)), **(more or {})}
        self.runtime = runtime
        self._log = inputs.with_name(f"{runtime}.{next(_numbers)}.log")
        command = [sys.executable, "-m", "netc.backends.bench.worker", runtime, str(folder), str(inputs), str(threads)]
        begun = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, text=True
            )
        try:
            ready = self._answer()
        except NetcError:
            self.close()
            raise
        self.start = time.perf_counter() - begun
        self.version = str(ready["version"])
        if ready["threads"] != threads:
            self.close()
            raise self._problem(f"it computes with {ready['threads']} threads, not {threads}")

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def seconds(self, runs: int) -> list[float]:
        """The times of so many runs, one after the other."""
        return self._ask("seconds", runs)

    def results(self) -> list[Array]:
        """The outputs of the last run."""
        path = self._log.with_name(f"{self.runtime}.results.npz")
        self._ask("results", str(path))
        with np.load(path) as stored:
            return [stored[name] for name in stored.files]

    def memory(self) -> int:
        """The most bytes that it has held so far."""
        return self._ask("memory")

    def kernels(self, rounds: int) -> list[dict[str, Any]]:
        """Of an artifact: each call of a kernel, see `kernel.times`."""
        return self._ask("kernels", rounds)

    def close(self) -> None:
        """End it; what it was doing is of no use any more."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, *order: Any) -> Any:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return json.loads(line)

    def _ended(self) -> NetcError:
        """With the error that it ended with."""
        status = self._process.wait()
        lines = self._log.read_text(errors="replace").splitlines()
        # Python's own last word; frames of C++ may follow it.
        said = [line.strip() for line in lines if re.match(r"[\w.]+(Error|Exception|Exit|Interrupt): ", line)]
        end = signal.Signals(-status).name if status < 0 else f"status {status}"
        return self._problem(said[-1] if said else f"its process ended with {end}")

    def _problem(self, why: str) -> NetcError:
        return NetcError([Diagnostic("cannot-run", f"{self.runtime} cannot run the model: {why}")])
