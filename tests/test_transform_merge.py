"""Merging: the numbers of mergekit, models brought back from permutations, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import netc
import numpy as np
import pytest
import torch
from mergekit.merge_methods import merge_tensors
from netc.compiler.axes import Selection, analyse
from netc.compiler.graph import Graph, verify
from netc.compiler.probe import probed
from netc.compiler.transforms.average import Average, Slerp
from netc.compiler.transforms.match_units import WeightMatching
from netc.compiler.transforms.merge import merge
from netc.compiler.transforms.task_arithmetic import DareLinear, DareTies, TaskArithmetic, Ties, mask_seed
from netc.compiler.weights import InMemory, value, values

SPECS = Path(__file__).parents[1] / "specs"


@cache
def plain(file: str, name: str) -> Graph:
    return netc.load(SPECS / f"{file}.net").model(name).graph


def drawn(file: str, name: str, seed: int = 0) -> Graph:
    return probed(plain(file, name), seed)


def tuned(graph: Graph, seed: int) -> Graph:
    """The model a little way from where it was, as after some training."""
    rng = np.random.default_rng(seed)
    arrays = {p.path: value(p) for p in graph.parameters.values()}
    moved = {n: (a + 0.1 * a.std() * rng.standard_normal(a.shape)).astype(a.dtype) for n, a in arrays.items()}
    return graph.with_parameters(replace(graph.parameters[n], data=InMemory(a)) for n, a in moved.items())


# ------------------------------------------------------------------------------------------------------- mergekit


LLAMA = "llama_micro_tied"

METHODS: list[tuple[str, Any, dict[str, Any]]] = [
    ("linear", lambda _: Average([0.3, 0.9, 0.2]), {"weight": [0.3, 0.9, 0.2]}),
    ("slerp", lambda _: Slerp(0.3), {"t": 0.3}),
    ("task_arithmetic", lambda b: TaskArithmetic(b, [0.5, 1.0, 0.7], 0.8), {"weight": [0.5, 1.0, 0.7], "lambda": 0.8}),
    ("ties", lambda b: Ties(b, [0.5, 1.0, 0.7], density=0.3), {"weight": [0.5, 1.0, 0.7], "density": 0.3}),
    ("ties", lambda b: Ties(b, scale=0.7), {"weight": 1.0, "density": 0.5, "lambda": 0.7}),
    ("dare_linear", lambda b: DareLinear(b, [0.5, 1.0, 0.7], density=0.4), {"weight": [0.5, 1, 0.7], "density": 0.4}),
    ("dare_ties", lambda b: DareTies(b, density=0.6), {"weight": 1.0, "density": 0.6}),
]


@pytest.mark.parametrize(("name", "method", "options"), METHODS, ids=[f"{i}-{m[0]}" for i, m in enumerate(METHODS)])
def test_the_tensors_are_those_of_mergekit(name: str, method: Any, options: dict[str, Any]) -> None:
    base = drawn("llama", LLAMA)
    models = [tuned(base, seed) for seed in ((1, 2) if name == "slerp" else (1, 2, 3))]
    merged = merge(*models, method=method(base), seed=5)
    verify(merged.graph)
    based = name not in ("linear", "slerp")
    for path, array in values(merged.graph).items():
        given = [torch.from_numpy(value(m.parameters[path])) for m in ([base, *models] if based else models)]
        torch.manual_seed(mask_seed(path, 5))
        index = 0 if based or name == "slerp" else None
        theirs = merge_tensors(given, name, parameters=options, base_index=index)
        np.testing.assert_allclose(array, theirs.numpy(), rtol=2e-6, atol=2e-7, err_msg=path)
        assert not np.allclose(array, given[0].numpy())


# --------------------------------------------------------------------------------------------------- permuted copies


def permuted(graph: Graph, seed: int = 1) -> Graph:
    """The same function with the units of every permutable class in a random order."""
    analysis = analyse(graph)
    rng = np.random.default_rng(seed)
    orders = {c: rng.permutation(int(str(c.size))) for c in analysis.classes if c.permutable}
    assert orders
    assert all((o != np.arange(len(o))).any() or len(o) < 4 for o in orders.values())
    return Selection(analysis, orders).graph()


def same_numbers(a: Graph, b: Graph, tolerance: float = 0.0) -> None:
    there = values(b)
    worst = {path: np.abs(array - there[path]).max() for path, array in values(a).items()}
    assert max(worst.values()) <= tolerance, worst


COPIES = [("llama", "llama_micro_tied"), ("resnet", "resnet18"), ("vit", "deit_tiny")]


@pytest.mark.parametrize(("file", "name"), COPIES, ids=[name for _, name in COPIES])
def test_a_permuted_copy_is_brought_back_exactly(file: str, name: str) -> None:
    model = drawn(file, name)
    copy = permuted(model)
    assert np.abs(np.subtract(*(next(iter(values(m).values())) for m in (model, copy)))).max() > 0.1
    merged = merge(model, copy, method=WeightMatching()).graph
    same_numbers(merged, model)
