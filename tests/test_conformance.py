"""Every operator in every backend: its rule, its expansion, and the standard of tests/oracle.py, in float64.

The other backends are held to PyTorch in tests of their own, on the same samples.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from netc.backends.pytorch import evaluate
from netc.backends.pytorch.call import RULES
from netc.backends.pytorch.module import module, operation
from netc.compiler.operators.operator import OPERATORS, SAMPLES, Operator, Sample
from oracle import MEANING, call, doubled, draw, type_of_tensor


def title(value: Any) -> str | None:
    return f"{value.op.name}-{'-'.join(map(str, value.inputs))}" if isinstance(value, Sample) else None


def arrays(sample: Sample) -> list[Any]:
    return [None if x is None else x.numpy() for x in draw(sample)]


def assert_equal(found: tuple[torch.Tensor, ...], wanted: tuple[torch.Tensor, ...]) -> None:
    for a, b in zip(found, wanted, strict=True):
        # Of integers PyTorch itself makes f32.
        tolerance = 1e-6 if b.dtype is torch.float32 else 1e-9
        torch.testing.assert_close(a, b.to(a.dtype), rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("sample", SAMPLES, ids=title)
def test_rules_mean_what_the_operators_do(sample: Sample):
    found = evaluate(sample.op, arrays(sample), dtype=torch.float64)
    assert_equal(found, call(sample.op, *doubled(draw(sample))))


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.op.derived], ids=title)
def test_expansions_mean_the_same_as_rules(sample: Sample):
    rule = evaluate(sample.op, arrays(sample), dtype=torch.float64)
    expansion = evaluate(sample.op, arrays(sample), dtype=torch.float64, expanded=True)
    assert_equal(expansion, rule)


@pytest.mark.parametrize("sample", SAMPLES, ids=title)
def test_types_are_those_of_the_shape_rules(sample: Sample):
    inputs = [None if x is None else type_of_tensor(x) for x in draw(sample)]
    wanted = sample.op.canonical(*inputs).shape(*inputs)
    assert tuple(map(type_of_tensor, evaluate(sample.op, arrays(sample)))) == wanted


@pytest.mark.parametrize("sample", SAMPLES, ids=title)
def test_new_tensors_are_made_where_the_model_is(sample: Sample):
    inputs = draw(sample)
    net = module(operation(sample.op, [None if x is None else type_of_tensor(x) for x in inputs])).to("meta")
    results = net(*(x.to("meta") for x in inputs if x is not None))
    assert all(x.device.type == "meta" for x in (results if isinstance(results, tuple) else (results,)))


@pytest.mark.parametrize("op", OPERATORS.values(), ids=lambda op: op.name)
def test_no_operator_is_left_out(op: type[Operator]):
    assert RULES.get(op) or op.derived or RULES.reason(op)
    if op.name not in ("input", "select_phase", "extern"):
        assert op.name in MEANING or op.derived
        assert any(type(s.op) is op for s in SAMPLES)
