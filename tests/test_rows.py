"""Kernels row by row, and matrix products whose rows crowd a cache: lengths that fill vectors, and others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from netc.backends.relax.build import build, prepare
from netc.compiler.graph import Graph
from strategies import Builder
from test_relax import HERE, assert_close, assert_same, execute, reference

LENGTHS = [1, 5, 16, 32, 33, 48, 64, 192, 200]


def normalised(operator: str, shape: str, length: int, **attributes: Any) -> Graph:
    b = Builder(operator)
    x = b.input("x", f"f32[{shape}, {length}]")
    affine = [b.parameter(n, (length,), "uniform", 0.5, 1.5) for n in ("weight", "bias")]
    return b.done(b(operator, x, *(affine if operator == "layer_norm" else ()), **attributes))


@pytest.mark.parametrize("length", LENGTHS)
def test_rows_of_any_length_are_normalised(length: int):
    for graph in (
        normalised("layer_norm", "N, 3", length),
        normalised("softmax", "N, 3", length, dim=-1),
        normalised("log_softmax", "N, 3", length, dim=-1),
    ):
        built = assert_same(graph, {"N": 1}, {"N": 7})
        assert set(built.report.rules.values()) == {"rows"}


@pytest.mark.parametrize("length", [5, 64, 200])
@pytest.mark.parametrize("operator", ["sum", "max", "min", "mean", "prod"])
def test_rows_of_any_length_are_reduced(operator: str, length: int):
    assert_same(normalised(operator, "N, 3", length, dim=[2]), {"N": 1}, {"N": 5})


def test_a_softmax_far_below_its_largest_element_is_nothing_and_keeps_odd_numbers():
    graph = normalised("softmax", "5", 64, dim=-1)
    x = np.full((5, 64), -200, np.float32)
    x[:, 3] = 0
    x[1, 5], x[2, 5], x[3, :] = -np.inf, np.nan, 88
    built = build(prepare(graph, {}), HERE)
    found, wanted = execute(built, [x])["output"], reference(graph, [x])["output"]
    assert np.isnan(found[2]).all()
    rest = [0, 1, 3, 4]
    assert_close(found[rest], wanted[rest], 1e-7)


@pytest.mark.parametrize(
    ("rows", "inner", "columns"), [(128, 1024, 48), (49, 2048, 33), (13, 1024, 100), ("N", 1024, 64), (300, 96, 2000)]
)
def test_matrix_products_in_blocks(rows: int | str, inner: int, columns: int):
    b = Builder("linear")
    x = b.input("x", f"f32[{rows}, {inner}]")
    weight, bias = b.parameter("weight", (columns, inner), "fan_in_uniform"), b.parameter("bias", (columns,))
    graph = b.done(b("gelu", b("linear", x, weight, bias)))
    built = assert_same(graph, {}) if isinstance(rows, int) else assert_same(graph, {"N": 1}, {"N": 31})
    (asked,) = [a for a in built.lowered.asked if a.question.kind == "linear"]
    height = int(str(asked.answer["tile"]).split()[0])
    assert inner % 1024 or height <= 8  # rows a multiple of 4096 bytes apart evict each other


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("length", "queries"), [(128, (64, 32)), (197, (32, 16)), (20, (32, 32))])
def test_tiles_of_queries_by_what_they_leave_empty_and_see(length: int, queries: tuple[int, int], causal: bool):
    b = Builder("attention")
    q, k, v = (b.input(name, f"f32[2, 3, {length}, 16]") for name in "qkv")
    graph = b.done(b("scaled_dot_product_attention", q, k, v, None, is_causal=causal))
    built = assert_same(graph, {})
    (asked,) = [a for a in built.lowered.asked if a.question.kind == "attention"]
    assert asked.answer["queries"] == queries[causal] or HERE.lanes != 16
