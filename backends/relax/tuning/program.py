"""A task's kernel, compiled with an answer to its question."""

from __future__ import annotations

from collections.abc import Sequence

from ..artifact import Array, kept, restored
from ..build import build, probe
from ..choice import Choices
from ..machine import Machine
from ..untyped import tvm
from .candidate import Failure, Program
from .task import Task


def program(task: Task, machine: Machine, choices: Choices) -> Program:
    """The model of a task in memory, on random inputs, with the weights that it has or random ones.

    Raises:
        NetcError: where it cannot be built.
        Failure: where the kernel alone does not ask what it asks as a part of its model.
    """
    built = build(task.graph, machine, 0, task.groups, choices)
    if task.question not in {asked.question for asked in built.lowered.asked}:
        raise Failure("the kernel alone does not ask this question")
    call = tvm.runtime.vm.VirtualMachine(built.executable, tvm.cpu())["main"]
    arrays = probe({name: node.types[0] for name, node in task.graph.inputs.items()})
    given = [*map(kept, arrays), *map(kept, built.constants.values())]

    def results() -> Sequence[Array]:
        types = built.lowered.outputs.values()
        return [restored(found, type.dtype) for found, type in zip(call(*given), types, strict=True)]

    return Program(lambda: call(*given), results)
