"""What optimisers make of the same ONNX models: netc's `-O2`, onnxsim, and ONNX Runtime's own, run offline.

    python benchmarks/optimizer.py                                # every model of the specs
    python benchmarks/optimizer.py --only vit_b_16 --operators
    python benchmarks/optimizer.py --quick                        # no latencies

Each model is exported as it is declared (inference, random weights) and given to the others; netc optimises
the model and exports it after. The very large ones are those of tests/reduced. Printed as Markdown tables are

- nodes (constants are none), the largest difference between outputs and those of the exported model, relative to the
  largest element, and seconds that the optimiser took;
- latencies in ONNX Runtime, with the session's own optimisation as it is by default and without: milliseconds of netc's
  file, and by how much the other files take longer or (below 1) less. Sessions take turns, and each ratio is the median
  over the turns, so that a busy machine slows all alike. The last column is netc's file beside itself: the noise.

ONNX Runtime's `extended` optimisation makes operators that only it has (`com.microsoft`), which are counted as they
are: `netc + extended` is the same optimisation after netc's.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
REDUCED = ROOT / "tests" / "reduced"
PARAMETERS, MACS = 2e8, 5e10
"""A model with more of either is measured in its reduced form."""
LENGTH = 128
"""What symbolic sizes other than the batch are; the batch is 1."""
PER_SESSION = 0.6
"""Seconds that each session's measured runs may take together."""
TURNS = 5, 60
"""At least and at most so many turns."""
SHORT = 0.005
"""Seconds below which a run that does not count comes before each that does."""


# ------------------------------------------------------------------------------------------------------------- models


def declared() -> dict[str, Path]:
    """Every model of the specs, with its file."""
    found: dict[str, Path] = {}
    for path in sorted((ROOT / "specs").glob("*.net")):
        found.update(dict.fromkeys(re.findall(r"^(?:model|graph) (\w+)", path.read_text(), re.M), path))
    return found


def size(dim: Any) -> int:
    from netc.compiler.types import substitute, symbols

    return int(str(substitute(dim, {s: 1 if s == "N" else LENGTH for s in symbols(dim)})))


def read(name: str) -> tuple[Any, bool]:
    """The model with its weights, and whether it is a reduced one."""
    import netc

    path = declared()[name]
    model = netc.load(path, root=ROOT).model(name)
    cost = model.cost()
    reduced = size(cost.parameters) >= PARAMETERS or size(cost.macs) >= MACS
    if reduced:
        model = netc.load(REDUCED / path.name, root=ROOT).model(name)
    return replace(model, graph=weighted(model.graph)), reduced


def weighted(graph: Any) -> Any:
    """The graph with weights of seed 0, and none neutral: zeros and ones are easily optimised, and all alike."""
    import numpy as np
    from netc.compiler.weights import InMemory, value

    rng = np.random.default_rng(0)

    def numbers(parameter: Any) -> Any:
        drawn = value(parameter, seed=0)
        if parameter.type.dtype.is_float and parameter.initialiser.kind in ("zeros", "ones", "constant"):
            drawn = (drawn + rng.uniform(0, 0.2, drawn.shape)).astype(drawn.dtype)
        return drawn

    return graph.with_parameters([replace(p, data=InMemory(numbers(p))) for p in graph.parameters.values()])


def feeds(graph: Any) -> dict[str, Any]:
    """Random inputs: normal numbers, bytes, indices of the tables that integers look up, and bits."""
    import numpy as np
    from netc.compiler.graph import Value

    rng = np.random.default_rng(0)
    made: dict[str, Any] = {}
    positions = [p.type.shape[0] for path, p in graph.parameters.items() if "position" in path and p.type.rank == 2]
    length = min([LENGTH, *(int(p) for p in positions if p > 1)])
    for path, node in graph.inputs.items():
        type = node.types[0]
        shape = [min(size(d), length) if not isinstance(d, int) and str(d) != "N" else size(d) for d in type.shape]
        tables = [graph.type(n.inputs[1]).shape[0] for n in graph.users[Value(path)] if n.op.name == "embedding"]
        high = min(tables, default=256 if type.dtype.value == "u8" else 2)
        drawn = rng.standard_normal(shape) if type.dtype.is_float else rng.integers(0, high, shape)
        made[path] = drawn.astype(type.dtype.as_numpy)
    return made


# --------------------------------------------------------------------------------------------------------- optimisers


def by_onnxsim(exported: Any, _: Path) -> Any:
    import onnxsim

    made, same = onnxsim.simplify(exported)
    if not same:
        raise RuntimeError("onnxsim says that its result computes something else")
    return made


def by_runtime(level: str) -> Callable[[Any, Path], Any]:
    def run(exported: Any, folder: Path) -> Any:
        import onnx
        import onnxruntime

        path = folder / f"{level}.onnx"
        session(exported.SerializeToString(), 1, getattr(onnxruntime.GraphOptimizationLevel, level), path)
        return onnx.load(path)

    return run


def session(source: Any, threads: int, level: Any = None, written: Path | None = None) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    if level is not None:
        settings.graph_optimization_level = level
    if written:
        settings.optimized_model_filepath = str(written)
    return onnxruntime.InferenceSession(source, settings, providers=["CPUExecutionProvider"])


OTHERS = {
    "onnxsim": by_onnxsim,
    "basic": by_runtime("ORT_ENABLE_BASIC"),
    "extended": by_runtime("ORT_ENABLE_EXTENDED"),
}
NETC, FUSED = "netc", "netc + extended"


def optimised(model: Any, folder: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """The ONNX models, the exported one first, and seconds by optimiser. netc's are without those of writing ONNX, and
    nobody's with those of importing the library or reading its rules."""
    import onnxruntime
    import onnxsim
    from netc.backends.interchange import model as onnx_model
    from netc.compiler.library import library

    assert onnxruntime, onnxsim
    library()

    exported = onnx_model(model.graph)
    made: dict[str, Any] = {"exported": exported}
    seconds: dict[str, float] = {}

    def timed(name: str, run: Callable[[], Any]) -> Any:
        gc.collect()
        start = time.perf_counter()
        result = run()
        seconds[name] = time.perf_counter() - start
        return result

    for name, run in OTHERS.items():
        made[name] = timed(name, lambda run=run: run(exported, folder))
    final = timed(NETC, lambda: model.optimised(2))
    made[NETC] = onnx_model(final.graph)
    made[FUSED] = OTHERS["extended"](made[NETC], folder)
    return made, seconds


def operators(made: Any) -> Counter[str]:
    """How many nodes there are of each kind, those of subgraphs too."""

    def kinds(graph: Any) -> Iterator[str]:
        for node in graph.node:
            if node.op_type != "Constant":
                yield node.op_type
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    yield from kinds(inner)

    return Counter(kinds(made.graph))


def megabytes(made: Any) -> float:
    """Of the tensors that the file holds."""
    from onnx import numpy_helper

    constants = [a.t for node in made.graph.node if node.op_type == "Constant" for a in node.attribute if a.t.data_type]
    return sum(numpy_helper.to_array(tensor).nbytes for tensor in (*made.graph.initializer, *constants)) / 1e6


# -------------------------------------------------------------------------------------------------------- measurement


def outputs(made: Any, given: dict[str, Any]) -> list[Any]:
    """By a session that optimises nothing itself."""
    import onnxruntime

    level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return session(made.SerializeToString(), 1, level).run(None, given)


def difference(found: list[Any], wanted: list[Any]) -> float:
    import numpy as np

    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(found, wanted, strict=True)]
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)) for a, b in pairs)


def latencies(made: dict[str, Any], given: dict[str, Any], threads: int, *, optimise: bool) -> dict[str, list[float]]:
    """Seconds by file, one of each turn, whose order is random. `again` is netc's file a second time."""
    import onnxruntime

    level = None if optimise else onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    files = {name: made[name] for name in ("exported", *OTHERS, NETC)} | {"again": made[NETC]}
    sessions = {name: session(file.SerializeToString(), threads, level) for name, file in files.items()}
    # One thread computes in the caller's: its own time leaves out what else the machine did.
    clock = time.thread_time if threads == 1 else time.perf_counter
    longest = 0.0
    for each in sessions.values():
        each.run(None, given)
        start = clock()
        each.run(None, given)
        longest = max(longest, clock() - start)
    turns = int(min(max(PER_SESSION / longest, TURNS[0]), TURNS[1]))
    names = list(sessions)
    times: dict[str, list[float]] = {name: [] for name in names}
    order = random.Random(0)
    for _ in range(turns):
        for name in order.sample(names, len(names)):
            if longest < SHORT:
                sessions[name].run(None, given)  # after another model's run, caches are cold
            start = clock()
            sessions[name].run(None, given)
            times[name].append(clock() - start)
    return times


def ratios(times: dict[str, list[float]]) -> list[str]:
    """Milliseconds of netc's file, and the others' times divided by netc's."""
    ours = times[NETC]
    others = [name for name in times if name != NETC]
    cells = [f"{median(a / b for a, b in zip(times[name], ours, strict=True)):.2f}" for name in others]
    return [f"{median(ours) * 1e3:.2f}", *cells]


# ------------------------------------------------------------------------------------------------------------- tables

NODES = [
    *("exported", *OTHERS, NETC, FUSED),
    *(f"{name} MB" for name in ("exported", "onnxsim", NETC)),
    *(f"{name} diff" for name in (*OTHERS, NETC)),
    *(f"{name} s" for name in (*OTHERS, NETC)),
]
LATENCIES = ["netc ms", "exported", *OTHERS, "again"]


def measure(name: str, threads: int, *, quick: bool, listed: bool) -> None:
    """Print the rows of one model: nodes, and latencies."""
    model, reduced = read(name)
    given = feeds(model.graph)
    title = f"{name} (reduced)" if reduced else name
    with tempfile.TemporaryDirectory() as folder:
        made, seconds = optimised(model, Path(folder))
    counts = {n: operators(m) for n, m in made.items()}
    wanted = outputs(made["exported"], given)
    cells = [str(c.total()) for c in counts.values()]
    cells += [f"{megabytes(made[n]):.3g}" for n in ("exported", "onnxsim", NETC)]
    cells += [f"{difference(outputs(made[n], given), wanted):.0e}" for n in (*OTHERS, NETC)]
    cells += [f"{seconds[n]:.2f}" for n in (*OTHERS, NETC)]
    print(f"nodes\t| {title} | {' | '.join(cells)} |")
    if listed:
        for other in OTHERS:
            ours = counts[FUSED if other == "extended" else NETC]
            more = [f"{kind} {n:+d}" for kind, n in compared(ours, counts[other])]
            print(f"operators\t{title}, netc against {other}: {', '.join(more) or 'the same'}")
    if not quick:
        for optimise in (True, False):
            times = latencies(made, given, threads, optimise=optimise)
            print(f"{'default' if optimise else 'disabled'}\t| {title} | {' | '.join(ratios(times))} |", flush=True)


def compared(ours: Counter[str], theirs: Counter[str]) -> list[tuple[str, int]]:
    """By how many nodes two models are apart in each kind, what netc has more of first."""
    found = [(kind, ours[kind] - theirs[kind]) for kind in {*ours, *theirs} if ours[kind] != theirs[kind]]
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))


def apart(name: str, options: argparse.Namespace) -> list[tuple[str, str]]:
    """The rows of one model, made in a process of its own: each with the table it belongs to."""
    flags = [f"--{flag}" for flag in ("quick", "operators") if getattr(options, flag)]
    command = [sys.executable, __file__, "--part", name, "--threads", str(options.threads), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"{name} fails:\n{done.stderr}", file=sys.stderr)
        return [("nodes", f"| {name} | fails |")]
    found = (line.partition("\t") for line in done.stdout.splitlines())
    return [(table, row) for table, tab, row in found if tab]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", choices=list(declared()), help="these models only")
    parser.add_argument("--quick", action="store_true", help="measure no latencies")
    parser.add_argument("--operators", action="store_true", help="list which operators netc has more or fewer of")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)  # read once, when torch is loaded
        measure(options.part, options.threads, quick=options.quick, listed=options.operators)
        return
    packages = ", ".join(f"{p} {version(p)}" for p in ("onnx", "onnxsim", "onnxruntime"))
    print(f"Python {platform.python_version()}, {packages}; {options.threads} threads")
    rows: dict[str, list[str]] = {"nodes": [], "default": [], "disabled": [], "operators": []}
    for name in options.only or declared():
        for table, row in apart(name, options):
            rows[table].append(row)
            print(f"{table}: {row}", file=sys.stderr, flush=True)
    titles = {"nodes": NODES, "default": LATENCIES, "disabled": LATENCIES}
    for table, columns in titles.items():
        if rows[table]:
            print(f"\n{table}:\n\n| model | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}")
            print("\n".join(rows[table]))
    print("\n".join(["", *rows["operators"]]))


if __name__ == "__main__":
    main()
