"""How long the compiler takes before any backend, for networks of 1,000 to 100,000 nodes, as Markdown tables.

    python benchmarks/frontend.py [SIZE …]

The network is a residual chain of convolution, batch norm and relu. It is elaborated from a spec of fifteen lines whose
loop makes the blocks, and it is printed in normal form, one line a node, which is parsed and read back. Beside it stand
torch.export on the same network as PyTorch's module, and onnx.checker on the same network as an ONNX file; each runs in
a process of its own, so that none pays for another's memory. Times are seconds of processor time, so that what else the
machine does counts little; of networks up to 3,000 nodes the best of three.
"""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

SIZES = [1_000, 3_000, 10_000, 30_000, 100_000]
PER_BLOCK = 7
LIMITS = {"torch.export": 30_000, "onnx.checker": 100_000}
"""Beyond these sizes the others are not asked."""
PATIENCE = 600
"""Seconds after which one of the others is given up."""

CHAIN = """\
module Block(c) (x: [N, c, H, W]) -> [N, c, H, W] {{
    y = x |> conv2d(c, 3, padding = 1, bias = false) as conv1 |> batch_norm as bn1 |> relu
          |> conv2d(c, 3, padding = 1, bias = false) as conv2 |> batch_norm as bn2
    return relu(x + y)
}}

module Chain(depth) (x) {{
    for i in 0..depth {{
        x = x |> Block(8) as "block{{i}}"
    }}
    return x
}}

model chain = Chain({depth}) (x: f32[N, 8, 8, 8])
"""


def spec(nodes: int) -> str:
    return CHAIN.format(depth=nodes // PER_BLOCK)


def chain(nodes: int) -> Any:
    import netc
    from netc.compiler.source import Source

    return netc.loads(Source("chain.net", spec(nodes))).model()


def best(nodes: int, run: Callable[[], object]) -> float:
    """Seconds of processor time."""
    times: list[float] = []
    for _ in range(3 if nodes <= 3_000 else 1):
        gc.collect()
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def frontend(nodes: int) -> dict[str, float]:
    """Seconds of each phase."""
    from netc.compiler.graph import verify
    from netc.compiler.source import Source
    from netc.compiler.syntax import grammar, parse
    from netc.compiler.text import print_graph, read_graph

    grammar()  # made once, of the grammar's text; chain(7) loads the operators
    chain(PER_BLOCK)
    graph = chain(nodes).graph
    text = print_graph(graph)
    (tree,) = parse(Source("graph.net", text)).declarations
    assert read_graph(tree) == graph  # pyright: ignore[reportArgumentType]
    return {
        "nodes": len(graph.nodes),
        "elaborate": best(nodes, lambda: chain(nodes)),
        "verify": best(nodes, lambda: verify(graph)),
        "print": best(nodes, lambda: print_graph(graph)),
        "parse": best(nodes, lambda: parse(Source("graph.net", text))),
        "read": best(nodes, lambda: read_graph(tree)),  # pyright: ignore[reportArgumentType]
    }


def torch_export(nodes: int) -> dict[str, float]:
    import torch

    module = chain(nodes).torch().eval()
    example = (torch.zeros(1, 8, 8, 8),)
    sys.setrecursionlimit(100_000)
    with torch.no_grad():
        torch.export.export(torch.nn.Sequential(torch.nn.ReLU()), example)  # loads what it loads once
        start = time.process_time()
        torch.export.export(module, example)
    return {"torch.export": time.process_time() - start}


def onnx_checker(nodes: int) -> dict[str, float]:
    import onnx
    from netc.backends.interchange import model

    made = model(chain(nodes).graph)
    return {
        "onnx.checker": best(nodes, lambda: onnx.checker.check_model(made)),
        "with shapes": best(nodes, lambda: onnx.checker.check_model(made, full_check=True)),
    }


PARTS = {"netc": frontend, "torch.export": torch_export, "onnx.checker": onnx_checker}


def apart(part: str, nodes: int) -> dict[str, float] | str:
    """One part in a process of its own: its seconds, or why there are none."""
    if nodes > LIMITS.get(part, nodes):
        return "–"
    command = [sys.executable, __file__, "--part", part, str(nodes)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return f"> {PATIENCE} s"
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return "fails"
    return {k: float(v) for k, v in (line.split("\t") for line in done.stdout.splitlines() if "\t" in line)}


def row(nodes: int) -> str:
    cells: list[str] = []
    for part, columns in COLUMNS.items():
        result = apart(part, nodes)
        for column in columns:
            if isinstance(result, str):
                cells.append(result)
            elif column == "nodes":
                cells.append(f"{result[column]:,.0f}")
            else:
                seconds = result[column]
                cells.append(f"{seconds:.3g} s ({seconds / nodes * 1e6:.0f} µs)")
    return f"| {' | '.join(cells)} |"


COLUMNS = {
    "netc": ["nodes", "elaborate", "verify", "print", "parse", "read"],
    "torch.export": ["torch.export"],
    "onnx.checker": ["onnx.checker", "with shapes"],
}


def main() -> None:
    if sys.argv[1:2] == ["--part"]:
        for name, value in PARTS[sys.argv[2]](int(sys.argv[3])).items():
            print(f"{name}\t{value}")
        return
    names = [name for columns in COLUMNS.values() for name in columns]
    print(f"Python {platform.python_version()}, " + ", ".join(f"{p} {version(p)}" for p in ("lark", "torch", "onnx")))
    print(f"\n| {' | '.join(names)} |\n|{' ---: |' * len(names)}")
    for nodes in map(int, sys.argv[1:] or SIZES):
        print(row(nodes), flush=True)


if __name__ == "__main__":
    main()
