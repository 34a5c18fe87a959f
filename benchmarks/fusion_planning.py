"""Planners of fusion groups beside each other: bytes to and from DRAM, and whether the plans are what they say.

    python benchmarks/fusion_planning.py [--only resnet50 …] [--buffers 128 256 …] [--exact 600] [--no-verify]

Models go through level 2 of the optimiser, with a batch of 1. Numbers are kept in one byte (int8). In f16 everything
is twice as large: what is told of a buffer of 256 KiB here holds of one of 512 KiB there, with twice the bytes, so
that the buffers 128 KiB to 2 MiB here are 256 KiB to 2 MiB of both.

By column: bytes layer by layer, and by each planner. `anneal` is given the seconds that `best`, the default planner,
took, and starts from single nodes. `saved` is what `best` moves less than the better of `greedy` and `anneal`.
`optimum` is what the exact planner proved within `--exact` seconds, or the bound that it reached, with `best`'s
distance to it. `seconds` are those of `best`, of CPU time. `verified`: the whole model was executed by the counting
executor, group by group with the schedules of the plan, on random inputs and weights; bytes read and written and the
most on chip equal what the plan says, no group exceeded the buffer, and everything that went through DRAM has the
values of the graph executed node by node.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

B3_224 = """
import "efficientnet.net" { EfficientNet }

model b3_224 = EfficientNet(width = 1.2, depth = 1.4, dropped = 0.3) (x: f32[N, 3, 224, 224])
"""

MODELS = {
    "efficientnet_b3 224": ("b3_224", B3_224),
    "efficientnet_b3 300": ("b3", "efficientnet.net"),
    "resnet50": ("resnet50", "resnet.net"),
    "mobilenet_v2": ("mobilenet_v2", "mobilenet_v2.net"),
    "inception_v4": ("inception_v4", "inception.net"),
    "unet 256": ("unet", "unet.net"),
    "unet_classic 572": ("unet_classic", "unet.net"),
}
"""By title: the model, and the spec or a text beside the specs."""

COLUMNS = (
    "model", "buffer", "layers", "pattern", "greedy", "anneal", "split", "best", "saved", "optimum", "groups",
    "seconds", "verified",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(MODELS), choices=MODELS, metavar="MODEL")
    parser.add_argument("--buffers", nargs="*", type=int, default=[128, 256, 512, 1024, 2048], help="KiB")
    parser.add_argument("--exact", type=float, default=600, help="seconds for the exact planner; 0 leaves it out")
    parser.add_argument("--verify", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    print(f"Python {platform.python_version()}; int8, MB of 10^6 bytes")
    print(f"\n| {' | '.join(COLUMNS)} |\n| --- |{' ---: |' * (len(COLUMNS) - 2)} --- |")
    for title in options.only:
        graph = optimised(*MODELS[title])
        for buffer in options.buffers:
            print(f"| {title} | {buffer} KiB | {' | '.join(compared(graph, buffer << 10, options))} |", flush=True)


def optimised(name: str, spec: str) -> Any:
    """A model of a spec after level 2, for one example."""
    from netc.compiler.library import level_steps
    from netc.compiler.passes.bind import bind
    from netc.compiler.passes.eliminate_dead import eliminate_dead
    from netc.compiler.pipeline import run
    from netc.compiler.program import read, read_source
    from netc.compiler.source import Source

    folder = ROOT / "specs"
    if spec.endswith(".net"):
        model = read(folder / spec).model(name)
    else:
        model = read_source(Source("b3.net", spec, folder / "b3.net")).model(name)
    graph = run(model.graph, level_steps(2, 0), facts=model.facts).final
    return eliminate_dead(bind(graph, {"N": 1}))


def compared(graph: Any, buffer: int, options: Any) -> list[str]:
    """The cells of one row."""
    found = {name: planned(graph, buffer, name) for name in ("layers", "pattern", "greedy", "split", "best")}
    best = found["best"]
    found["anneal"] = planned(graph, buffer, "anneal", seconds=max(best.seconds, 0.1))
    baseline = min(found["greedy"].dram, found["anneal"].dram)
    optimum = "–"
    if options.exact:
        proved = planned(graph, buffer, "exact", seconds=options.exact)
        kind = "optimum" if proved.optimal else "bound"
        optimum = f"{kind} {proved.bound / 1e6:.2f} (+{100 * (best.dram / proved.bound - 1):.1f} %)"
    moved = [f"{found[name].dram / 1e6:.2f}" for name in ("layers", "pattern", "greedy", "anneal", "split", "best")]
    saved = f"{100 * (1 - best.dram / baseline):.1f} %"
    verified = executed(graph, buffer, best) if options.verify else "–"
    return [*moved, saved, optimum, str(len(best.parts)), f"{best.seconds:.1f}", verified]


def planned(graph: Any, buffer: int, name: str, **given: Any) -> Any:
    """What a planner finds, from nothing: nothing that another found out is known to it."""
    from netc.compiler.fusion.partition import Task
    from netc.compiler.fusion.planner import PLANNERS
    from netc.compiler.fusion.workload import Workload
    from netc.compiler.types import DType

    return PLANNERS[name].run(Task(Workload(graph, DType.I8), buffer), **given)


def executed(graph: Any, buffer: int, partition: Any) -> str:
    """Whether the counting executor finds what the plan says.

    Raises:
        AssertionError: where it does not.
    """
    import torch
    from netc.backends.pytorch.counting import execute_plan
    from netc.compiler.fusion.memory import Schedule
    from netc.compiler.fusion.workload import Workload
    from netc.compiler.types import DType

    workload = Workload(graph, DType.I8)
    generator = torch.Generator().manual_seed(0)
    inputs = {n: torch.randn([int(d) for d in i.types[0].shape], generator=generator) for n, i in graph.inputs.items()}
    start = time.perf_counter()
    plain = execute_plan(workload, [((path,), Schedule(1)) for path in workload.work.nodes], inputs)
    groups = [(part.nodes, part.cost.schedule) for part in partition.parts]
    made = execute_plan(workload, groups, inputs, buffer=buffer)
    for part, usage in zip(partition.parts, made.usages, strict=True):
        assert usage == part.cost.usage, f"{part.nodes}: {usage}, not {part.cost.usage}"
    for value, found in made.values.items():
        wanted = plain.values[value]
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())), f"other values: {value}"
    return f"yes, {time.perf_counter() - start:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
