"""The process of one candidate: it opens a model, runs it once, says that it is ready, and then does what it is told.

    python -m netc.backends.bench.worker RUNTIME FOLDER INPUTS THREADS

Lines of JSON go both ways. In: `["seconds", count]`, `["results", path]`, `["memory"]`, `["kernels", rounds]`. Out: one
answer a line; the first is said when the model has run once.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .runtime import RUNTIMES


def main(runtime: str, folder: str, inputs: str, threads: str) -> None:
    # What a runtime prints must not get between the lines.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(what: Any) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    with np.load(inputs) as stored:
        arrays = [stored[name] for name in stored.files]
    opened = RUNTIMES[runtime](Path(folder), arrays, int(threads))
    with opened.context():
        opened.run()
    say({"threads": opened.threads(), "version": opened.version})
    for line in sys.stdin:
        order, *rest = json.loads(line)
        if order == "seconds":
            say(opened.seconds(*rest))
        elif order == "results":
            with Path(*rest).open("wb") as file:
                np.savez(file, *opened.results())
            say(None)
        elif order == "memory":
            say(peak())
        elif order == "kernels":
            from .kernel import times

            say(times(Path(folder), arrays, *rest, threads=int(threads)))


def peak() -> int:
    """The most bytes of memory that this process has held."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert found
    return int(found[1]) << 10


if __name__ == "__main__":
    main(*sys.argv[1:])
