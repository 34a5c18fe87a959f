"""The models of `benchmarks/latency.py`: their largest difference to PyTorch in float64 beside ONNX Runtime's own."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import netc
import numpy as np
import onnxruntime
import pytest
import torch
from netc.backends.bench import lively
from netc.backends.bench.board import difference
from netc.backends.bench.subject import feed
from netc.backends.relax.build import compile
from netc.backends.relax.machine import machine
from netc.backends.relax.tuning.record import processor
from netc.backends.relax.tuning.recorded import Recorded, shipped
from netc.compiler.backend import backend
from netc.compiler.cost import assumed
from netc.compiler.graph import Graph
from netc.compiler.library import level_steps
from netc.compiler.passes.bind import bind
from netc.compiler.pipeline import run
from netc.compiler.target import LLVM

ROOT = Path(__file__).parents[1]
SEEDS = range(4)
"""Of the inputs."""
MOST = 2.0
"""Our largest difference, in ONNX Runtime's."""
TARGET = LLVM(threads=1)


def benchmark() -> dict[str, str]:
    """The models that are measured, and their files."""
    spec = importlib.util.spec_from_file_location("latency", ROOT / "benchmarks" / "latency.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MODELS


def exact(graph: Graph, inputs: Sequence[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """What PyTorch computes in float64."""
    made = backend("pytorch").module(graph, seed=0, dtype=torch.float64)
    found: list[list[np.ndarray]] = []
    for arrays in inputs:
        given = [torch.from_numpy(a) for a in arrays]
        with torch.inference_mode():
            results: Any = made(*(g.double() if g.is_floating_point() else g for g in given))
        found.append([r.numpy() for r in (results if isinstance(results, tuple) else (results,))])
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file"), benchmark().items(), ids=benchmark().keys())
def test_no_less_accurate_than_onnx_runtime(name: str, file: str, tmp_path: Path) -> None:
    made = netc.load(ROOT / "specs" / file, root=ROOT).model(name)
    graph = bind(lively(made.graph), sizes := assumed(made.graph))
    inputs = [feed(graph, seed) for seed in SEEDS]
    wanted = exact(graph, inputs)
    for a, b in zip(wanted[0], wanted[1], strict=True):
        assert abs(a - b).max() > 0.01 * abs(a).max(), "where inputs do not matter, differences say nothing"

    backend("onnx").export(graph, tmp_path / "model.onnx", 0)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    names = [slot.name for slot in session.get_inputs()]
    theirs = [session.run(None, dict(zip(names, arrays, strict=True))) for arrays in inputs]

    final = run(lively(made.graph), level_steps(2, 0), facts=made.facts).final
    choices = Recorded(processor(machine(TARGET)), shipped())
    artifact = compile(final, TARGET, tmp_path / "artifact", bind=sizes, choices=choices)
    assert artifact is not None
    ours = [artifact.run(arrays) for arrays in inputs]

    apart, allowed = (max(map(difference, found, wanted)) for found in (ours, theirs))
    assert 0 < apart <= MOST * allowed
