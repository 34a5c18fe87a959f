"""A task's kernel, compiled with an answer to its question."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..artifact import Array, kept, restored
from ..build import build, probe
from ..choice import Choices
from ..lower import lower
from ..machine import Machine
from ..threads import use
from ..untyped import structural_hash, tvm
from .candidate import Failure, Program, Same
from .task import Task


def program(task: Task, machine: Machine, choices: Choices, known: Collection[str]) -> Program:
    """The model of a task in memory, on random inputs, with the weights that it has or random ones.

    Raises:
        NetcError: where it cannot be built.
        Failure: where the kernel alone does not ask what it asks as a part of its model, or threads cannot be had.
        Same: where the kernel is one of those that are `known`: not every parameter matters whatever the others are.
    """
    if not use(machine.threads):
        raise Failure(f"TVM does not run with {machine.threads} threads here")
    kernel = kernel_of(task, machine, choices, known)
    built = build(task.graph, machine, 0, task.groups, choices)
    call = tvm.runtime.vm.VirtualMachine(built.executable, tvm.cpu())["main"]
    arrays = probe({name: node.types[0] for name, node in task.graph.inputs.items()})
    given = [*map(kept, arrays), *map(kept, built.constants.values())]

    def results() -> Sequence[Array]:
        types = built.lowered.outputs.values()
        return [restored(found, type.dtype) for found, type in zip(call(*given), types, strict=True)]

    # Each thread on a processor of its own: two that share one for a while would make a candidate lose, or win. Not
    # before, since candidates are built side by side.
    use(machine.threads, pin=True)
    return Program(lambda: call(*given), results, kernel)


def kernel_of(task: Task, machine: Machine, choices: Choices, known: Collection[str]) -> str:
    """The name of a task's kernel: a hash of all that is written in it.

    Raises:
        NetcError, Failure, Same: as `program` does.
    """
    lowered = lower(task.graph, machine, task.groups, choices)
    if task.question not in {asked.question for asked in lowered.asked}:
        raise Failure("the kernel alone does not ask this question")
    # Everything that schedules go by is written in the kernels.
    kernel = f"{structural_hash(lowered.main):x} {structural_hash(lowered.prepare):x}"
    if kernel in known:
        raise Same(kernel)
    return kernel
