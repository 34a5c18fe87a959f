"""A candidate in a process of its own: a fork of this one, which has TVM loaded, builds it there and runs it when told.

A fork starts in milliseconds, and what a candidate does stays in it: where it crashes, hangs, or computes something
else, it fails, and nothing else does. TVM's threads do not survive a fork, but they belong to the thread that started
them: the work is done in a new one, which starts its own.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from ....compiler.diagnostic import NetcError
from ..artifact import Array

BUILD = 120.0
"""Seconds that building a candidate may take, and its first run."""
RUN = 20.0
"""Seconds that one measurement may take."""
LEAST = 2e-3
"""Seconds that one measurement takes at least, and half of it before, unmeasured: short kernels are called often."""
REST = 1e-2
"""Seconds before a measurement with several threads: those of the process that was measured before spin for some
milliseconds before they sleep, and must not take a processor from these."""
DIFFERENCE = {"float64": 1e-7, "float32": 1e-3, "float16": 2e-2, "bfloat16": 2e-2}
"""How far results of a dtype may be from the analytic default's, relative to their largest element."""


class Failure(Exception):
    """A candidate failed; says why in one line."""


class Same(Exception):
    """A candidate is a kernel that is known: the message says which."""


@dataclass(frozen=True)
class Program:
    """A candidate that was built: `run` runs it once, `results` gives what that gave.

    `kernel` names what was built; others of the same name need not be.
    """

    run: Callable[[], Any]
    results: Callable[[], Sequence[Array]]
    kernel: str | None = None
    seconds: Callable[[], float] | None = None
    """How long one run takes, where that is not measured by running it here."""


Build = Callable[[], Program]
Clock = Callable[[], float]

_living: set[Connection] = set()
"""The ends of pipes to candidates. A new fork closes its copies, or none would see that this process is gone."""


class Candidate:
    """A process that builds a candidate from now on. Close it, or leave its `with`: it is killed then.

    `expected`: results that it must agree with.
    """

    def __init__(self, build: Build, threads: int, expected: Sequence[Array] | None = None) -> None:
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self._pipe, theirs = Pipe()
        self._pid = _fork()
        if self._pid == 0:
            # Whatever happens here, this copy of the program ends here.
            try:
                self._pipe.close()
                for other in _living:
                    other.close()
                _prepare(self._messages.fileno())
                # With one thread its own time counts, to which other work on the machine adds nothing.
                clock, rest = (time.thread_time, 0.0) if threads == 1 else (time.perf_counter, REST)
                _in_a_thread(lambda: _serve(theirs, build, expected, clock, rest))
            finally:
                os._exit(1)
        theirs.close()
        _living.add(self._pipe)
        self._deadline = time.monotonic() + BUILD

    def __enter__(self) -> Candidate:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        if self._pid:
            _living.discard(self._pipe)
            self._pipe.close()
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._messages.close()
            self._pid = 0

    def ready(self) -> str | None:
        """Wait until it is built and has run; which kernel it is.

        Raises:
            Failure: where it could not be built or run, or its results differ.
            Same: where it was not built, since it is a kernel that is known.
        """
        return self._answer(self._deadline - time.monotonic(), "building it")

    def results(self) -> list[Array]:
        """What it computes.

        Raises:
            Failure: where it cannot be run.
        """
        return self._ask("results", "running it")

    def seconds(self) -> float:
        """Seconds of one run, as the mean of several.

        Raises:
            Failure: where it cannot be run.
        """
        return self._ask("seconds", "running it")

    def _ask(self, message: str, what: str) -> Any:
        try:
            self._pipe.send(message)
        except OSError:
            raise self._ended() from None
        return self._answer(RUN, what)

    def _answer(self, patience: float, what: str) -> Any:
        try:
            if not self._pipe.poll(max(0.0, patience)):
                self.close()
                raise Failure(f"{what} took too long")
            kind, value = self._pipe.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if kind == "failed":
            raise Failure(value)
        if kind == "same":
            raise Same(value)
        return value

    def _ended(self) -> Failure:
        """What is known of a process that ended by itself."""
        if not self._pid:
            return Failure("it was ended")
        _, status = os.waitpid(self._pid, 0)
        self._messages.seek(0)
        lines = self._messages.read().decode(errors="replace").strip().splitlines()
        self._pid = 0
        _living.discard(self._pipe)
        self._pipe.close()
        self._messages.close()
        code = os.waitstatus_to_exitcode(status)
        how = f"it crashed ({signal.Signals(-code).name})" if code < 0 else f"it ended with code {code}"
        return Failure(f"{how}: {lines[-1][:300]}" if lines else how)


def _fork() -> int:
    """Fork; an interruption waits as long as that takes. Python would lose it, where it comes while hooks run that
    modules have for forks: what these raise is ignored."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _prepare(messages: int) -> None:
    """Make a fork independent: silent, and not to be stopped from the keyboard, since the process that it works for
    is, and ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    faulthandler.disable()  # it may write to where this process is not to write
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.dup2(messages, 2)


def _in_a_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def _serve(pipe: Connection, build: Build, expected: Sequence[Array] | None, clock: Clock, rest: float) -> None:
    """Build, then answer. An alarm ends what hangs also where nobody is left who would."""
    signal.alarm(int(BUILD) + 10)
    try:
        program = build()
        program.run()
        difference = None if expected is None else differing(program.results(), expected)
        pipe.send(("failed", difference) if difference else ("ready", program.kernel))
        count = 0
        while True:
            signal.alarm(0)
            wanted = pipe.recv()
            signal.alarm(int(RUN) + 10)
            if wanted == "results":
                pipe.send(("results", program.results()))
            elif program.seconds is not None:
                pipe.send(("seconds", program.seconds()))
            else:
                time.sleep(rest)
                count = count or _repetitions(program.run, clock)
                pipe.send(("seconds", _seconds(program.run, count, clock)))
    except (EOFError, BrokenPipeError):
        os._exit(0)
    except Same as same:
        pipe.send(("same", str(same)))
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 (told to whom it concerns)
        pipe.send(("failed", cause(error)))
        os._exit(0)


def cause(error: BaseException) -> str:
    """An error in one line: TVM's begin with a traceback of several."""
    if isinstance(error, Failure):
        return str(error)
    if isinstance(error, NetcError):
        return "; ".join(d.message for d in error.diagnostics)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:300]}" if lines else type(error).__name__


def differing(found: Sequence[Array], expected: Sequence[Array]) -> str | None:
    """How results differ from what they must be, by more than `DIFFERENCE`; None where they do not."""
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"output {i} is {a.dtype}{list(a.shape)}, not {b.dtype}{list(b.shape)}"
        a, b = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(b)
        if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
            return f"output {i} is finite elsewhere"
        scale = max(float(np.abs(b[finite]).max(initial=0.0)), 1e-30)
        difference = float(np.abs(a[finite] - b[finite]).max(initial=0.0)) / scale
        allowed = DIFFERENCE.get(str(expected[i].dtype), 0.0)
        if not difference <= allowed:
            return f"wrong numbers: output {i} differs by {difference:.1e} of its largest element"
    return None


def _repetitions(run: Callable[[], Any], clock: Clock) -> int:
    return max(1, round(LEAST / max(1e-9, min(_seconds(run, 1, clock) for _ in range(3)))))


def _seconds(run: Callable[[], Any], count: int, clock: Clock) -> float:
    """Of one run, as the mean of `count`, when half as many have woken the threads and filled the caches."""
    for _ in range(-(-count // 2)):
        run()
    start = clock()
    for _ in range(count):
        run()
    return (clock() - start) / count
