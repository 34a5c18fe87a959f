"""How long the optimiser takes on networks of 1,000 to 30,000 nodes, as a Markdown table.

    python benchmarks/rewrite.py [SIZE …]

The network is the residual chain of `benchmarks/frontend.py`, where every batch norm folds and nothing else applies:
every rule of every set is tried at every node. Times are seconds of processor time, so that what else the machine does
counts little.
"""

from __future__ import annotations

import gc
import sys
import time

from frontend import chain
from netc.compiler.graph import Graph
from netc.compiler.library import level_steps, library
from netc.compiler.pipeline import Step, run

SIZES = [1_000, 3_000, 10_000, 30_000]
SETS = ["simplify", "recognise", "fold", "merge_layers", "reduce"]


def seconds(graph: Graph, steps: tuple[Step, ...], facts: frozenset[str] = frozenset()) -> float:
    gc.collect()
    start = time.process_time()
    run(graph, steps, facts=facts)
    return time.process_time() - start


def main() -> None:
    library()  # the rules are read once
    print(f"| nodes | after | {' | '.join(SETS)} | whole -O2 | a node |\n|{' ---: |' * (len(SETS) + 4)}")
    for size in map(int, sys.argv[1:] or SIZES):
        graph = chain(size).graph
        stripped = run(graph, level_steps(0)).final
        facts = frozenset({"inference"})
        times = [seconds(stripped, (Step(library()[name]),), facts) for name in SETS]
        whole = seconds(graph, level_steps(2))
        after = len(run(graph, level_steps(2)).final.nodes)
        cells = " | ".join(f"{t:.2f} s" for t in times)
        print(
            f"| {len(graph.nodes):,} | {after:,} | {cells} | {whole:.2f} s | {1e6 * whole / size:.0f} µs |", flush=True
        )


if __name__ == "__main__":
    main()
