"""Kernels as netc schedules them against the best that MetaSchedule finds for the same formula.

    python benchmarks/metaschedule.py [FILE:MODEL …] [--only NAME …] [--share 0.03] [--trials 64] [--threads 1]

Kernels that are formulas, not loops of our own, are given to MetaSchedule as they are before netc schedules them,
weights packed as netc packs them: those in `CHOSEN`, or of the models named (batch 1, 128 tokens, level 2) all that
take at least `--share` of the time. Its evolutionary search over its own space for processors tries `--trials`
schedules of each. They are built, compared with netc's results and run in forks of this process, as in `netc tune`:
TVM's own builder and runner start workers that import its intrinsic functions for every processor, which takes longer
than they allow themselves. What it finds then meets netc's schedule, without tuning, in 15 turns. Printed is a Markdown
table of medians, with one thread of processor time: GFLOP/s are netc's; where the ratio is below 1, MetaSchedule is
faster, and `–` is where its own rules raise an error.

Needs xgboost for the cost model (`pip install xgboost-cpu`); without it candidates are chosen at random.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from types import ModuleType
from typing import Any
from unittest.mock import patch

SPECS = Path(__file__).parents[1] / "specs"
CHOSEN = {
    "resnet.net:resnext50_32x4d": ("fused_conv16_relu5", "fused_conv8_add1_relu4", "fused_conv2_relu1"),
    "resnet.net:resnet18": ("fused_conv1_relu2",),
    "mobilenet_v2.net:mobilenet_v2": ("fused_depthwise_conv2_relu63",),
    "vit.net:deit_tiny": ("fused_linear2_gelu", "layer_norm"),
    "mixtral.net:mixtral_micro_each": ("einsum", "pack", "copy", "index_select"),
}
BATCH, TOGETHER = 32, 2
"""Candidates that MetaSchedule proposes at a time, and that are built at a time."""
PATIENCE = 30.0
"""Seconds that building a candidate may take."""
TURNS, FINAL = 3, 15
"""Measurements of a candidate, of which the least counts, and of the best against netc's."""


@dataclass(frozen=True)
class Kernel:
    """A kernel before and after netc schedules it, and its part of the model's time."""

    name: str
    rule: str
    formula: Any
    scheduled: Any
    calls: int
    share: float


@dataclass
class Trials:
    """What became of candidates."""

    ready: dict[str, Any] = field(default_factory=dict[str, Any])
    """Forks that are built and wait to be measured."""
    tried: int = 0
    failures: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class Result:
    kernel: Kernel
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    """Empty where no candidate ran."""
    seen: Trials
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="FILE:MODEL")
    parser.add_argument("--only", nargs="*", help="kernels of these names, or scheduled by these rules")
    parser.add_argument("--share", type=float, help="of the model's time that a kernel takes at least; 0.03")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if not options.models and (options.only or options.share is not None):
        parser.error("--only and --share choose among the kernels of models: name them")
    os.environ["TVM_NUM_THREADS"] = str(options.threads)
    logging.getLogger("tvm.s_tir.meta_schedule").setLevel(logging.CRITICAL)
    without_foreign_intrinsics()
    from netc.backends.relax.machine import host

    machine = host(options.threads)
    print(f"Python {platform.python_version()}; {machine.cpu}, {machine.threads} threads, {options.trials} trials.\n")
    print(
        "| model | kernel | schedule | calls | of time | netc µs | GFLOP/s | MetaSchedule / netc | failed | search s |"
    )
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    chosen = dict.fromkeys(options.models, (options.only, 0.03 if options.share is None else options.share))
    for model, (names, share) in (chosen or {str(SPECS / m): (n, 0.0) for m, n in CHOSEN.items()}).items():
        for kernel in kernels(model, machine, share):
            if names is None or {kernel.name, kernel.rule} & {*names}:
                print(f"| {model.rpartition(':')[2]} | {row(compared(kernel, machine, options.trials))} |", flush=True)


def without_foreign_intrinsics() -> None:
    """Let `tvm.s_tir.tensor_intrin`, which MetaSchedule imports, hold x86's alone: all take 16 to 20 s to parse."""
    import tvm.s_tir

    name = "tvm.s_tir.tensor_intrin"
    module = ModuleType(name)
    module.__path__ = [str(Path(str(tvm.s_tir.__file__)).parent / "tensor_intrin")]
    sys.modules[name] = module
    importlib.import_module(f"{name}.x86")


def kernels(path: str, machine: Any, share: float) -> list[Kernel]:
    """The kernels of a model that are formulas, and take a part of its time, the longest first."""
    from netc.backends.relax.artifact import kept
    from netc.backends.relax.build import build, prepare, probe
    from netc.backends.relax.optimise import choose, fuse
    from netc.backends.relax.untyped import tirx, tvm
    from netc.compiler.library import level_steps
    from netc.compiler.pipeline import run
    from netc.compiler.program import read_source
    from netc.compiler.source import Source
    from netc.compiler.types import symbols

    file, _, name = path.rpartition(":")
    model = read_source(Source(file, Path(file).read_text())).model(name)
    graph = run(model.graph, level_steps(2, 0), facts=model.facts).final
    free = {str(s) for node in graph.inputs.values() for t in node.types for d in t.shape for s in symbols(d)}
    graph = prepare(graph, {s: 128 if s == "T" else 1 for s in free})
    built = build(graph, machine)
    formulas = fuse(choose(built.lowered.main, machine), machine)
    before = {str(v.name_hint): expanded(f) for v, f in formulas.functions.items() if isinstance(f, tirx.PrimFunc)}
    after = {str(v.name_hint): f for v, f in scheduled(formulas, machine).items()}
    call = tvm.runtime.vm.VirtualMachine(built.executable, tvm.cpu())
    arrays = probe({name: node.types[0] for name, node in graph.inputs.items()})
    taken = times(call, [*map(kept, arrays), *map(kept, built.constants.values())], set(built.report.rules))
    whole = sum(t for t, _ in taken.values())
    found = [
        Kernel(name, built.report.rules[name], before[name], after[name], calls, seconds / whole)
        for name, (seconds, calls) in taken.items()
        if built.report.rules[name] not in {"own", "follow"}  # loops of our own: nothing is left to schedule
    ]
    return sorted((k for k in found if k.share >= share), key=lambda k: -k.share)


def expanded(function: Any) -> Any:
    """The function with values in the place of their names, which MetaSchedule does not know."""
    from netc.backends.relax.schedule.expression import replaced
    from netc.backends.relax.untyped import mutate, tirx

    def inlined(let: Any, m: Any) -> Any:
        let = m.default_mutate(let)
        return replaced(let.body, {let.var: let.value})

    return function.with_body(mutate(function.body, (tirx.Let, inlined)))


def scheduled(module: Any, machine: Any) -> dict[Any, Any]:
    """The kernels of a module as netc schedules them; the module stays as it is."""
    from netc.backends.relax.schedule import schedule
    from netc.backends.relax.untyped import tirx, tvm

    copy = tvm.IRModule(dict(module.functions.items()))
    made, _ = schedule(copy, machine)
    return {v: f for v, f in made.functions.items() if isinstance(f, tirx.PrimFunc)}


def times(machine: Any, given: Sequence[Any], names: set[str]) -> dict[str, tuple[float, int]]:
    """Seconds that the calls of each kernel take together, and how many they are."""
    calls: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = []

    def record(function: Callable[..., Any], name: str, before: bool, _: Any, *arguments: Any) -> int:
        if before and name in names:
            calls.append((name, function, arguments))
        return 0

    machine["set_instrument"](record)
    machine["main"](*given)
    least = [math.inf] * len(calls)
    for _ in range(5):
        for i, (_, function, arguments) in enumerate(calls):
            start = time.process_time()
            function(*arguments)
            least[i] = min(least[i], time.process_time() - start)
    found: dict[str, tuple[float, int]] = {}
    for (name, _, _), seconds in zip(calls, least, strict=True):
        total, count = found.get(name, (0.0, 0))
        found[name] = total + seconds, count + 1
    return found


def compared(kernel: Kernel, machine: Any, trials: int) -> Result:
    """What MetaSchedule makes of a kernel, beside what netc does."""
    from netc.backends.relax.tuning.candidate import Candidate

    start = time.monotonic()
    with Candidate(lambda: program(kernel.scheduled, machine), machine.threads) as ours:
        ours.ready()
        expected = ours.results()
        best, seen = search(kernel, machine, trials, expected)
        seconds = time.monotonic() - start
        if best is None:
            return Result(kernel, tuple(ours.seconds() for _ in range(FINAL)), (), seen, seconds)
        with Candidate(lambda: program(best, machine), machine.threads, expected) as theirs:
            theirs.ready()
            turns = [(ours.seconds(), theirs.seconds()) for _ in range(FINAL)]
    return Result(kernel, tuple(a for a, _ in turns), tuple(b for _, b in turns), seen, seconds)


def program(function: Any, machine: Any) -> Any:
    """A kernel built alone, on random arrays."""
    import numpy as np
    from netc.backends.relax.dot import PIPELINE
    from netc.backends.relax.threads import use
    from netc.backends.relax.tuning.candidate import Program
    from netc.backends.relax.untyped import tirx, tvm

    assert use(machine.threads)
    function = function.with_attr("global_symbol", "main").with_attr("tirx.noalias", True)
    module = tvm.IRModule({"main": function})
    run = tvm.runtime.Executable(tirx.build(module, target=machine.target, pipeline=PIPELINE)).jit()["main"]
    random = np.random.default_rng(0)
    arrays: list[Any] = []
    for buffer in function.params:
        shape, dtype = [int(n) for n in buffer.shape], str(buffer.dtype)
        made = random.standard_normal(shape) if dtype.startswith("float") else random.integers(0, 2, shape)
        arrays.append(tvm.runtime.tensor(made.astype(dtype)))
    return Program(lambda: run(*arrays), lambda: [a.numpy() for a in arrays])


def search(kernel: Kernel, machine: Any, trials: int, expected: Sequence[Any]) -> tuple[Any | None, Trials]:
    """The best schedule that MetaSchedule finds, and what became of those it tried."""
    from netc.backends.relax.untyped import s_tir

    ms: Any = importlib.import_module("tvm.s_tir.meta_schedule")
    seen = Trials()
    builder, runner = plumbing(ms, machine, expected, seen)
    with tempfile.TemporaryDirectory() as folder:
        try:
            database = ms.tir_integration.tune_tir(
                kernel.formula.without_attr("global_symbol"),
                machine.target,
                folder,
                trials,
                num_trials_per_iter=BATCH,
                builder=builder,
                runner=runner,
                cost_model="xgb" if importlib.util.find_spec("xgboost") else "random",
                measure_callbacks=[ms.measure_callback.AddToDatabase(), ms.measure_callback.UpdateCostModel()],
                num_tuning_cores=1,
                seed=0,
            )
        except s_tir.ScheduleError:  # of its own rules, which do not fit every formula
            return None, seen
        records = [r for r in database.get_all_tuning_records() if r.run_secs]
        if not records:
            return None, seen
        best = min(records, key=lambda r: float(r.run_secs[0]))
        schedule = s_tir.Schedule(best.workload.mod)
        best.trace.apply_to_schedule(schedule, remove_postproc=False)
        return schedule.mod["main"], seen


def plumbing(ms: Any, machine: Any, expected: Sequence[Any], seen: Trials) -> tuple[Any, Any]:
    """A builder and a runner for MetaSchedule: a fork for each candidate builds it, waits, and measures when told."""
    from netc.backends.relax.tuning.candidate import Candidate, Failure
    from tvm.ir.utils import derived_object

    @derived_object
    class Builder(ms.builder.PyBuilder):
        def build(self, build_inputs: Sequence[Any]) -> list[Any]:
            functions = [given.mod["main"] for given in build_inputs]
            parts = [functions[i : i + TOGETHER] for i in range(0, len(functions), TOGETHER)]
            with patch(f"{Candidate.__module__}.BUILD", PATIENCE):
                return [self._built(candidate) for part in parts for candidate in self._started(part)]

        def _started(self, functions: Sequence[Any]) -> list[Candidate]:
            return [Candidate(lambda f=f: program(f, machine), machine.threads, expected) for f in functions]

        def _built(self, candidate: Candidate) -> Any:
            seen.tried += 1
            try:
                candidate.ready()
            except Failure as failure:
                candidate.close()
                seen.failures.append(str(failure))
                return ms.builder.BuilderResult(None, str(failure))
            seen.ready[str(seen.tried)] = candidate
            return ms.builder.BuilderResult(str(seen.tried), None)

    @derived_object
    class Future(ms.runner.PyRunnerFuture):
        def __init__(self, seconds: list[float] | None, error: str | None) -> None:
            super().__init__()
            self.seconds, self.error = seconds, error

        def done(self) -> bool:
            return True

        def result(self) -> Any:
            return ms.runner.RunnerResult(self.seconds, self.error)

    @derived_object
    class Runner(ms.runner.PyRunner):
        def run(self, runner_inputs: Sequence[Any]) -> list[Any]:
            return [self._measured(str(given.artifact_path)) for given in runner_inputs]

        def _measured(self, name: str) -> Any:
            with seen.ready.pop(name) as candidate:
                try:
                    return Future([min(candidate.seconds() for _ in range(TURNS))], None)
                except Failure as failure:
                    seen.failures.append(str(failure))
                    return Future(None, str(failure))

    return Builder(), Runner()


def row(result: Result) -> str:
    kernel = result.kernel
    ours = median(result.ours)
    cells = [f"`{kernel.name}`", kernel.rule, str(kernel.calls), f"{kernel.share:.1%}", f"{1e6 * ours:.0f}"]
    cells.append(f"{operations(kernel.formula) / ours / 1e9:.0f}")
    if result.theirs:
        ratios = [b / a for a, b in zip(result.ours, result.theirs, strict=True)]
        first, _, third = quantiles(ratios, n=4)
        cells.append(f"{median(ratios):.2f} ({first:.2f}–{third:.2f})")
    else:
        cells.append("–")
    return " | ".join([*cells, f"{len(result.seen.failures)} of {result.seen.tried}", f"{result.seconds:.0f}"])


def operations(function: Any) -> float:
    from netc.backends.relax.untyped import tvm
    from tvm.s_tir.analysis import estimate_tir_flops

    return float(estimate_tir_flops(tvm.IRModule({"main": function})))


if __name__ == "__main__":
    main()
