"""Less to do for a file's nodes: weights are stored as they are read, and axes are exchanged once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import numpy
import onnx
from onnx import helper, numpy_helper

MOVES: dict[str, Callable[..., Any]] = {
    "Concat": lambda *parts, axis: numpy.concatenate(parts, axis),
    "Gather": lambda x, index, axis=0: numpy.take(x, index, axis),
    "Reshape": lambda x, shape: x.reshape([d or x.shape[i] for i, d in enumerate(shape)]),
    "Transpose": lambda x, perm: x.transpose(perm),
    "Unsqueeze": lambda x, axes: numpy.expand_dims(x, tuple(axes)),
}
"""What these do to arrays: no arithmetic, so that no bit can change."""

SMALL = 2**10
"""Bytes by which storing a tensor anew may enlarge the file."""


def exchange_once(nodes: list[onnx.NodeProto], outputs: Collection[str]) -> None:
    """Make, in place, one Transpose of two in a row, and nothing of two that undo each other."""
    made: dict[str, onnx.NodeProto] = {}
    same: dict[str, str] = {}
    for node in nodes:
        node.input[:] = [same.get(name, name) for name in node.input]
        if node.op_type != "Transpose":
            continue
        made[node.output[0]] = node
        before = made.get(node.input[0])
        if before is not None:
            node.input[0] = before.input[0]
            perm = [_perm(before)[axis] for axis in _perm(node)]
            node.attribute[0].ints[:] = perm
            if perm == sorted(perm) and node.output[0] not in outputs:
                same[node.output[0]] = node.input[0]
    read = {name for node in nodes for name in node.input}.union(outputs)
    nodes[:] = [node for node in nodes if node.op_type != "Transpose" or node.output[0] in read]


_SLICE = ("starts", "ends", "axes", "steps")


def cut_once(nodes: list[onnx.NodeProto], initializers: dict[str, onnx.TensorProto], outputs: Collection[str]) -> None:
    """Make, in place, one Slice of two in a row along different axes."""
    readers = Counter(name for node in nodes for name in node.input)
    readers.update(list(outputs))
    made: dict[str, onnx.NodeProto] = {}
    gone: set[str] = set()
    for node in nodes:
        whole = node.op_type == "Slice" and len(node.input) == len(_SLICE) + 1
        if not whole or any(name not in initializers for name in node.input[1:]):
            continue
        made[node.output[0]] = node
        before = made.get(node.input[0])
        if before is None or readers[node.input[0]] > 1:
            continue
        arrays = [[numpy_helper.to_array(initializers[name]) for name in n.input[1:]] for n in (before, node)]
        if set(arrays[0][2].tolist()) & set(arrays[1][2].tolist()):
            continue
        readers.subtract([*before.input[1:], *node.input[1:]])
        gone.add(node.input[0])
        joined = [numpy.concatenate(pair) for pair in zip(*arrays, strict=True)]
        names = [f"{node.output[0]}.{what}" for what in _SLICE]
        made_anew = zip(names, joined, strict=True)
        initializers.update((name, numpy_helper.from_array(array, name)) for name, array in made_anew)
        readers.update(names)
        node.input[:] = [before.input[0], *names]
    nodes[:] = [node for node in nodes if node.output[0] not in gone]
    for name in [name for name in initializers if name in readers and not readers[name]]:
        del initializers[name]


def _perm(node: onnx.NodeProto) -> list[int]:
    return list(node.attribute[0].ints)


def arrange(nodes: list[onnx.NodeProto], initializers: dict[str, onnx.TensorProto], outputs: Collection[str]) -> None:
    """Take out, in place, each node that moves initialisers only. What it makes becomes an initialiser of its name.

    A large initialiser that anything else reads keeps its node: it would have to be stored twice.
    """
    _move_once(nodes, initializers, outputs)
    readers = Counter(name for node in nodes for name in node.input)
    readers.update(list(outputs))
    kept: list[onnx.NodeProto] = []
    for node in nodes:
        made = None if node.output[0] in outputs else _moved(node, initializers, readers)
        if made is None:
            kept.append(node)
            continue
        initializers[node.output[0]] = made
        for name in node.input:
            readers[name] -= 1
            if not readers[name]:
                del initializers[name]
    nodes[:] = kept


def _move_once(
    nodes: list[onnx.NodeProto], initializers: dict[str, onnx.TensorProto], outputs: Collection[str]
) -> None:
    """Keep the first of equal nodes that move initialisers, such as those of tied layers."""
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    for node in nodes:
        node.input[:] = [same.get(name, name) for name in node.input]
        name = node.output[0]
        if node.op_type in MOVES and name not in outputs and all(i in initializers for i in node.input):
            bare = onnx.NodeProto(op_type=node.op_type, input=node.input, attribute=node.attribute)
            known = first.setdefault(bare.SerializeToString(deterministic=True), name)
            if known != name:
                same[name] = known
                continue
        kept.append(node)
    nodes[:] = kept


def _moved(
    node: onnx.NodeProto, initializers: dict[str, onnx.TensorProto], readers: Counter[str]
) -> onnx.TensorProto | None:
    if node.op_type not in MOVES or any(name not in initializers for name in node.input):
        return None
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    arrays = [numpy_helper.to_array(initializers[name]) for name in node.input]
    made = numpy.ascontiguousarray(MOVES[node.op_type](*arrays, **attributes))
    freed = sum(a.nbytes for a, name in zip(arrays, node.input, strict=True) if readers[name] == 1)
    return numpy_helper.from_array(made, node.output[0]) if made.nbytes <= freed + SMALL else None
