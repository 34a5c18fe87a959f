"""Weights that a node only arranges anew are stored as it would leave them."""

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
"""Bytes of a tensor that may be stored twice."""


def arrange(nodes: list[onnx.NodeProto], initializers: dict[str, onnx.TensorProto], outputs: Collection[str]) -> None:
    """Take out, in place, each node that moves initialisers only. What it makes becomes an initialiser of its name.

    A large initialiser that anything else reads keeps its place and its node: it would have to be stored twice.
    """
    readers = Counter(name for node in nodes for name in node.input)
    readers.update(list(outputs))
    kept: list[onnx.NodeProto] = []
    for node in nodes:
        if not _is_moved(node, initializers, readers) or node.output[0] in outputs:
            kept.append(node)
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        arrays = [numpy_helper.to_array(initializers[name]) for name in node.input]
        made = numpy.ascontiguousarray(MOVES[node.op_type](*arrays, **attributes))
        initializers[node.output[0]] = numpy_helper.from_array(made, node.output[0])
        for name in node.input:
            readers[name] -= 1
            if not readers[name]:
                del initializers[name]
    nodes[:] = kept


def _is_moved(node: onnx.NodeProto, initializers: dict[str, onnx.TensorProto], readers: Counter[str]) -> bool:
    if node.op_type not in MOVES or any(name not in initializers for name in node.input):
        return False
    return all(readers[name] == 1 or len(initializers[name].raw_data) <= SMALL for name in node.input)
