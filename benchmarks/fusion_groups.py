"""Groups as one kernel against the same nodes in our own best separate kernels, where what passes between exceeds L2.

    python benchmarks/fusion_groups.py [--only inverted_residual …] [--turns 31] [--threads 2]

Each chain is compiled through netc's TVM backend as one kernel; as a kernel for each layer with its bias and
activation; as TVM fuses without groups; and attention also as the operator with kernels that keep all scores in memory.
Of all but the first the fastest counts. All run in this process in turns, with the same inputs and threads. Printed are
medians of wall time as a Markdown table, their ratio (below 1 the fused kernel is faster) with the quartiles of the
ratio of each turn, the bytes of the values between the layers beside the L2 cache of one core, what the memory model
says is moved to and from memory beyond L2 either way, and the largest difference between the outputs. For what the
hardware says of it, where it counts: `perf stat -e cache-misses` around this command with one chain.

Kinds whose fused kernel is not faster are what `fuse auto(minimize = latency)` leaves apart: the last column is what it
decides from such times.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any
from unittest.mock import patch

COLUMNS = [
    "chain",
    "between",
    "fused ms",
    "unfused ms",
    "fused / unfused",
    "moved fused",
    "moved unfused",
    "difference",
    "auto",
]


@dataclass(frozen=True)
class Chain:
    """A model that is one chain, and how its layers are called."""

    kind: str
    title: str
    text: str
    operator: str = ""
    """The same as one operator, which is compiled to kernels that are not this chain's."""


def attention_chain(tokens: int) -> Chain:
    """Twelve heads of 64 features."""
    size = f"f32[1, 12, {tokens}, 64]"
    model = f"\nmodel chain = Chain() (q: {size}, k: {size}, v: {size})\nmodule Chain() (q, k, v) "
    several = "{ return (q @ (k |> transpose(2, 3)) * 0.125) |> softmax(dim = -1) |> matmul(v) }"
    one = "{ return scaled_dot_product_attention(q, k, v) }"
    return Chain("attention", f"12 heads of 64, {tokens} tokens", model + several, model + one)


CHAINS = [
    Chain("depthwise_pointwise", "dw 3×3 (32) → pw 64, 112², batch 4", """
model chain = Chain(64) (x: f32[4, 32, 112, 112])
module Chain(c) (x) {
    return x |> conv2d(32, 3, padding = 1, groups = 32) |> relu6 |> conv2d(c, 1) |> relu6
}"""),
    Chain("depthwise_pointwise", "dw 3×3 (128) → pw 128, 56², batch 4", """
model chain = Chain(128) (x: f32[4, 128, 56, 56])
module Chain(c) (x) {
    return x |> conv2d(128, 3, padding = 1, groups = 128) |> relu6 |> conv2d(c, 1) |> relu6
}"""),
    Chain("inverted_residual", "pw 144 → dw 3×3 → pw 24 + x, 56², batch 4", """
model chain = Chain() (x: f32[4, 24, 56, 56])
module Chain() (x) {
    y = x |> conv2d(144, 1) |> relu6 |> conv2d(144, 3, padding = 1, groups = 144) |> relu6 |> conv2d(24, 1)
    return x + y
}"""),
    Chain("inverted_residual", "pw 96 → dw 3×3 s2 → pw 24, 112²", """
model chain = Chain() (x: f32[1, 16, 112, 112])
module Chain() (x) {
    return x |> conv2d(96, 1) |> relu6 |> conv2d(96, 3, stride = 2, padding = 1, groups = 96) |> relu6 |> conv2d(24, 1)
}"""),
    Chain("conv_pointwise", "conv 3×3 (64 → 64) → pw 256, 56², batch 4", """
model chain = Chain() (x: f32[4, 64, 56, 56])
module Chain() (x) {
    return x |> conv2d(64, 3, padding = 1) |> relu |> conv2d(256, 1) |> relu
}"""),
    Chain("conv_pointwise", "conv 3×3 (32 → 64) → pw 32, 112²", """
model chain = Chain() (x: f32[1, 32, 112, 112])
module Chain() (x) {
    return x |> conv2d(64, 3, padding = 1) |> relu |> conv2d(32, 1) |> relu
}"""),
    Chain("feed_forward", "768 → gelu(3072) → 768, 512 tokens", """
model chain = Chain() (x: f32[1, 512, 768])
module Chain() (x) {
    return x |> linear(3072) |> gelu |> linear(768)
}"""),
    Chain("feed_forward", "192 → gelu(768) → 192, 197 tokens, batch 4", """
model chain = Chain() (x: f32[4, 197, 192])
module Chain() (x) {
    return x |> linear(768) |> gelu |> linear(192)
}"""),
    attention_chain(512), attention_chain(1024),
]  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One chain measured. Seconds by turn, bytes, and the largest difference between both outputs."""

    chain: Chain
    between: int
    fused: list[float]
    unfused: list[float]
    moved: tuple[int | None, int | None]
    """None where it does not fit into the cache by any schedule of the model."""
    difference: float

    def __str__(self) -> str:
        from netc.compiler.fusion.race import MARGIN, SURE

        ratios = [a / b for a, b in zip(self.fused, self.unfused, strict=True)]
        low, _, high = quantiles(ratios, n=4)
        ratio = median(self.fused) / median(self.unfused)
        sure = sum(r < 1 for r in ratios) >= SURE * len(ratios)
        cells = [
            f"{self.chain.kind}: {self.chain.title}",
            f"{self.between / 2**20:.2f} MiB",
            f"{1e3 * median(self.fused):.3f}",
            f"{1e3 * median(self.unfused):.3f}",
            f"{ratio:.2f} ({low:.2f}–{high:.2f})",
            *("–" if moved is None else f"{moved / 2**20:.2f} MiB" for moved in self.moved),
            f"{self.difference:.0e}",
            "joined" if ratio <= 1 - MARGIN and sure else "apart",
        ]
        return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=sorted({c.kind for c in CHAINS}))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--turns", type=int, default=31)
    options = parser.parse_args()
    os.environ["TVM_NUM_THREADS"] = str(options.threads)  # read once, when TVM is loaded
    from netc.backends.relax.machine import host

    machine = host(options.threads)
    print(f"Python {platform.python_version()}; {options.threads} threads, {options.turns} turns")
    print(f"L2 of one core: {machine.cache >> 10} KiB")
    print(f"\n| {' | '.join(COLUMNS)} |\n| --- |{' ---: |' * 7} --- |")
    for chain in CHAINS:
        if chain.kind in options.only:
            print(measured(chain, machine, options.turns), flush=True)


def measured(chain: Chain, machine: Any, turns: int) -> Row:
    """A chain in turns, once as one kernel and once as several."""
    import numpy as np
    from netc.backends.relax.build import prepare, probe
    from netc.backends.relax.kernels import attention
    from netc.backends.relax.turns import in_turns, runner
    from netc.compiler.fusion.group import Group
    from netc.compiler.fusion.isolate import isolate
    from netc.compiler.fusion.workload import Workload
    from netc.compiler.program import read_source
    from netc.compiler.source import Source

    graph = read_source(Source("chain.net", chain.text + "\n")).model("chain").graph
    workload = Workload(prepare(graph, {}))
    nodes = tuple(workload.work.nodes)
    parts = [Group(part[0], part) for part in layers(workload, nodes)]
    whole = Group("chain", nodes)
    alone = isolate(workload, nodes)
    arrays = probe({name: node.types[0] for name, node in alone.inputs.items()})
    runs = [runner(alone, groups, machine, arrays) for groups in ([whole], parts, None)]
    if chain.operator:
        with patch.object(attention, "attention", attention.scattered):
            model = read_source(Source("operator.net", chain.operator + "\n")).model("chain")
            runs.append(runner(prepare(model.graph, {}), None, machine, arrays))
    one, *others = (run()[0].numpy().astype(np.float64) for run in runs)
    difference = max(float(np.abs(one - other).max()) for other in others)
    fused, *unfused = in_turns(runs, turns)
    moved = traffic(workload, nodes, parts, machine)
    return Row(chain, between(workload, parts), list(fused), list(min(unfused, key=median)), moved, difference)


def layers(workload: Any, nodes: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Our own best separate kernels: each node that reduces with the element-wise ones around it, as TVM fuses."""
    from netc.compiler.fusion.partition import Task
    from netc.compiler.fusion.planner import PLANNERS

    return [part.nodes for part in PLANNERS["pattern"].run(Task(workload)).parts]


def between(workload: Any, parts: list[Any]) -> int:
    """Bytes of what one layer hands to the next."""
    from netc.compiler.fusion.memory import Members

    made = [value for part in parts for value in Members(workload, part.nodes).leaving]
    return sum(workload.bytes(workload.type(value)) for value in made if value not in workload.results)


def traffic(workload: Any, nodes: tuple[str, ...], parts: list[Any], machine: Any) -> tuple[int | None, int | None]:
    """Bytes to and from beyond L2 by the memory model: as one group, and layer by layer."""
    from netc.compiler.fusion.memory import cheapest

    costs = [cheapest(workload, group, machine.cache) for group in (nodes, *(part.nodes for part in parts))]
    whole, *apart = (None if cost is None else cost.usage.dram for cost in costs)
    return whole, None if None in apart else sum(apart)


if __name__ == "__main__":
    sys.exit(main())
