"""Fusion by fixed patterns, as a general compiler does it without knowing a buffer."""

from __future__ import annotations

import time

from ..partition import Mask, Partition, Task, bits
from ..workload import IN_PLACE
from .register import planner

COMPLEX = frozenset(
    {
        "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear", "matmul",
        "einsum",
    }
)  # fmt: skip
"""What element-wise nodes may follow into one kernel."""

INJECTIVE = IN_PLACE | {
    "concat", "stack", "pad", "where", "interpolate", "pixel_shuffle", "pixel_unshuffle", "repeat", "roll", "flip",
    "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not",
}  # fmt: skip

REDUCTIONS = frozenset({"mean", "sum", "max", "min", "prod", "adaptive_avg_pool1d", "adaptive_avg_pool2d"})


@planner
def pattern(task: Task) -> Partition:
    """By the patterns of TVM's FuseOps: a convolution or product with element-wise nodes after it, chains of nodes that
    make each element of one, and a reduction after such a chain. Only where it fits and saves bytes."""
    since = time.process_time()
    return task.partition(fuse(task), "pattern", since)


def fuse(task: Task) -> list[Mask]:
    """The groups of `pattern` (Chen et al., "TVM", OSDI 2018, section 3; without its way through several branches)."""
    left = task.free
    found: list[Mask] = []
    for anchors in (True, False):
        for i in bits(task.free):
            if left >> i & 1 and (_op(task, i) in COMPLEX) == anchors:
                group = _follow(task, i, left)
                found.append(group)
                left &= ~group
    return found


def _follow(task: Task, number: int, left: Mask) -> Mask:
    """A node and those that follow it, each the only reader of the one before."""
    group = 1 << number
    last, reduced = number, _op(task, number) not in COMPLEX | INJECTIVE
    while not reduced and not _result(task, last):
        readers = task.readers[last]
        if readers & (readers - 1) or not readers & left:
            break
        reader = readers.bit_length() - 1
        name = _op(task, reader)
        reduced = name in REDUCTIONS and _op(task, number) in INJECTIVE
        if not (reduced or name in INJECTIVE):
            break
        joined = group | readers
        if not task.dram(joined) < task.dram(group) + task.dram(readers):
            break
        group, last = joined, reader
    return group


def _op(task: Task, number: int) -> str:
    return task.workload.graph.nodes[task.names[number]].op.name


def _result(task: Task, number: int) -> bool:
    return any(result for _, result, _ in task.nodes[number].makes)
