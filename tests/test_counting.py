"""Groups executed by their schedules: the same values as the plain graph, and bytes as the formulas say."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest
import torch
from groupings import Case, cases
from hypothesis import given, settings
from netc.backends.pytorch import Interpreter
from netc.backends.pytorch.counting import BufferExceeded, Counted, Parameters, execute
from netc.compiler.fusion.memory import Schedule, price
from netc.compiler.fusion.workload import Workload
from netc.compiler.graph import Graph, Value
from netc.compiler.types import TensorType


def drawn(type: TensorType) -> torch.Tensor:
    shape = [int(str(d)) for d in type.shape]
    return torch.randn(*shape, dtype=torch.float64) if type.dtype.is_float else torch.randint(0, 2, shape)


def values(graph: Graph) -> dict[Value, torch.Tensor]:
    """What the plain graph computes everywhere."""
    inputs = {name: drawn(node.types[0]) for name, node in graph.inputs.items()}
    outputs = {str(v): v for node in graph.nodes.values() for v in node.values}
    found = Interpreter(replace(graph, outputs=outputs)).tensors(inputs)
    return {value: found[name] for name, value in outputs.items()}


def counted(workload: Workload, nodes: Collection[str], schedule: Schedule) -> Counted:
    """A group executed: its values have to be the plain graph's, and its counts the formulas'."""
    plain = values(workload.graph)
    parameters = Parameters(workload.graph)
    found = execute(workload, nodes, schedule, plain, parameters=parameters)
    for value, tensor in found.values.items():
        torch.testing.assert_close(tensor, plain[value], rtol=1e-9, atol=1e-9)
    assert found.usage == price(workload, nodes, schedule)
    again = execute(workload, nodes, schedule, plain, parameters=parameters, buffer=found.usage.buffer)
    assert again.usage == found.usage
    with pytest.raises(BufferExceeded):
        execute(workload, nodes, schedule, plain, parameters=parameters, buffer=found.usage.buffer - 1)
    return found


def check(case: Case) -> None:
    if case.nodes:
        counted(Workload(case.graph, case.dtype), case.nodes, case.schedule)


@given(cases())
@settings(max_examples=60, derandomize=True)
def test_formulas_are_what_is_counted(case: Case) -> None:
    check(case)


@pytest.mark.slow
@given(cases(most=14))
@settings(max_examples=2000, derandomize=True)
def test_formulas_are_what_is_counted_in_2000_groups(case: Case) -> None:
    check(case)
