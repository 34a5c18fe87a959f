"""How few bytes to and from DRAM each planner's groups move, as a Markdown table.

    python benchmarks/fusion_planning.py [--models resnet50 …] [--buffers 256 512 …] [--dtypes i8 f16] [--exact SECONDS]
                                         [--verify] [--no-head]

Every model of the table is prepared as a plan prepares it (-O2, inference, batch 1) and partitioned for on-chip buffers
of so many KiB, by each planner with a task of its own, so that none profits from what another has costed. Annealing is
given as much processor time as the default planner took, once from layers and once from greedy, and the better is
shown. `saved` is how much less the default planner's groups move than the better of greedy and annealing. With
`--exact`, the exact planner is given so many seconds, and the last columns say what it proves: the bytes that no
partition is below, and how far above them the default planner is; without, the bound is compulsory (weights, inputs and
outputs of the model once). With `--verify` the counting executor executes the default planner's groups on random
numbers: its counts must be the formulas', and its values those of the graph executed node by node. Times are seconds
of processor time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from netc.compiler.fusion.partition import Partition, Task
from netc.compiler.fusion.planner import PLANNERS
from netc.compiler.fusion.workload import Workload
from netc.compiler.graph import Graph
from netc.compiler.library import level_steps
from netc.compiler.passes.bind import bind
from netc.compiler.pipeline import run
from netc.compiler.program import read_source
from netc.compiler.source import Source
from netc.compiler.types import DType

SPECS = Path(__file__).parents[1] / "specs"
B3_224 = "\nmodel b3_224 = EfficientNet(width = 1.2, depth = 1.4, dropped = 0.3) (x: f32[N, 3, 224, 224])\n"
MODELS = {
    "mobilenet_v2": ("mobilenet_v2", "mobilenet_v2"),
    "unet": ("unet", "unet"),
    "unet_classic": ("unet", "unet_classic"),
    "resnet50": ("resnet", "resnet50"),
    "b3_224": ("efficientnet", "b3_224"),
    "b3": ("efficientnet", "b3"),
    "inception_v4": ("inception", "inception_v4"),
}
BASELINES = ("layers", "pattern", "greedy")
OURS = ("intervals", "split", "best")
COLUMNS = [
    "model", "dtype", "KiB", *BASELINES, "annealing", *OURS, "groups", "best s", "saved", "bound", "above", "exact s",
]  # fmt: skip


def graph(model: str) -> Graph:
    file, name = MODELS[model]
    text = (SPECS / f"{file}.net").read_text() + (B3_224 if name == "b3_224" else "")
    found = read_source(Source(f"{file}.net", text)).model(name)
    return bind(run(found.graph, level_steps(2, 0), facts=found.facts).final, {"N": 1})


def row(workload: Workload, buffer: int, seconds: float | None) -> tuple[Iterator[str], Partition]:
    found = {name: PLANNERS[name].run(Task(workload, buffer)) for name in (*BASELINES, *OURS)}
    best = found["best"]
    annealed = min(
        PLANNERS["anneal"].run(Task(workload, buffer), seconds=best.seconds, start=start).dram
        for start in ("layers", "greedy")
    )
    exact = None if seconds is None else PLANNERS["exact"].run(Task(workload, buffer), seconds=seconds)
    return cells(found, annealed, exact), best


def cells(found: dict[str, Partition], annealed: int, exact: Partition | None) -> Iterator[str]:
    best = found["best"]
    rival = min(annealed, found["greedy"].dram)
    bound = (best if exact is None else exact).bound or 0
    for name in BASELINES:
        yield f"{found[name].dram / 1e6:.2f}"
    yield f"{annealed / 1e6:.2f}"
    for name in OURS:
        yield f"{found[name].dram / 1e6:.2f}"
    yield str(len(best.parts))
    yield f"{best.seconds:.1f}"
    yield f"{100 * (1 - best.dram / rival):.1f} %"
    kind = "compulsory" if exact is None else "optimum" if exact.optimal else "proved"
    yield f"{bound / 1e6:.2f} ({kind})"
    yield f"{100 * (best.dram / bound - 1):.1f} %"
    yield "" if exact is None else f"{exact.seconds:.0f}"


def verify(workload: Workload, found: Partition, buffer: int) -> None:
    """The counts of an execution are the formulas', group by group, and all that went through DRAM has the values of
    the graph executed node by node."""
    import torch
    from netc.backends.pytorch.counting import execute_plan
    from netc.compiler.fusion.memory import Schedule

    torch.manual_seed(0)
    inputs = {
        name: torch.randn(*(int(str(d)) for d in node.types[0].shape)) for name, node in workload.graph.inputs.items()
    }
    groups = [(part.nodes, part.cost.schedule) for part in found.parts]
    counted = execute_plan(workload, groups, inputs, buffer=buffer)
    for part, usage in zip(found.parts, counted.usages, strict=True):
        if usage != part.cost.usage:
            raise SystemExit(f"{part.nodes[0]} …: counted {usage}, formulas say {part.cost.usage}")
    plain = execute_plan(workload, [((path,), Schedule(1)) for path in workload.work.nodes], inputs)
    for value, made in counted.values.items():
        wanted = plain.values[value]
        if not torch.allclose(made, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())):
            raise SystemExit(f"{value} has other values")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--buffers", nargs="+", type=int, default=[256, 512, 1024, 2048])
    parser.add_argument("--dtypes", nargs="+", type=DType, default=[DType.I8, DType.F16])
    parser.add_argument("--exact", type=float, metavar="SECONDS")
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--no-head", action="store_true")
    options = parser.parse_args()
    if not options.no_head:
        print(f"| {' | '.join(COLUMNS)} |\n| --- | --- |{' ---: |' * (len(COLUMNS) - 2)}")
    for model in options.models:
        loaded = graph(model)
        for dtype in options.dtypes:
            workload = Workload(loaded, dtype)
            for kib in options.buffers:
                made, best = row(workload, kib << 10, options.exact)
                print(f"| {model} | {dtype.value} | {kib} | {' | '.join(made)} |", flush=True)
                if options.verify:
                    verify(workload, best, kib << 10)


if __name__ == "__main__":
    main()
