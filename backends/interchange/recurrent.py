"""ONNX rules of LSTM and GRU, which ONNX knows a layer at a time, time first and with its own order of gates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from ...compiler.operators import recurrent as r
from ...compiler.types import Dim
from .build import RULES, Build

_GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}
"""ONNX's gates (input, output, forget, cell; update, reset, new) as places in PyTorch's order."""


@RULES(r.Lstm, r.Gru)
def _recurrent(b: Build, op: r.Recurrent, *inputs: str | None) -> tuple[str, ...]:
    x, states, weights = op.parts(inputs)
    x = b("Transpose", x, perm=[1, 0, 2])
    each = len(weights) // (op.num_layers * op.directions)
    last: list[list[str]] = []
    for level in range(op.num_layers):
        own = weights[level * op.directions * each : (level + 1) * op.directions * each]
        output, *ends = b.many(
            "LSTM" if op.name == "lstm" else "GRU",
            1 + op.states,
            x,
            *_weights(b, op, own, each),
            None,
            *(_state(b, op, s, level) for s in states),
            hidden_size=op.hidden_size,
            direction="bidirectional" if op.bidirectional else None,
            linear_before_reset=1 if op.name == "gru" else None,
        )
        last.append(ends)
        x = _joined(b, op, output, last=level == op.num_layers - 1)
    joined = zip(*last, strict=True)
    return (x, *(s[0] if len(s) == 1 else b("Concat", *s, axis=0) for s in joined))


def _weights(b: Build, op: r.Recurrent, own: Sequence[str], each: int) -> tuple[str | None, ...]:
    """W, R and B of one layer, directions along the first axis."""
    rows = [gate * op.hidden_size + i for gate in _GATES[op.name] for i in range(op.hidden_size)]
    ordered = [b("Gather", w, b.constant(numpy.array(rows)), axis=0) for w in own]
    directions = [ordered[i : i + each] for i in range(0, len(ordered), each)]
    biases = [b("Concat", *d[2:], axis=0) for d in directions] if op.bias else []
    groups = ([d[0] for d in directions], [d[1] for d in directions], biases)
    return tuple(_stacked(b, group) for group in groups)


def _stacked(b: Build, group: Sequence[str]) -> str | None:
    if not group:
        return None
    first = [b("Unsqueeze", w, b.constant([0])) for w in group]
    return first[0] if len(first) == 1 else b("Concat", *first, axis=0)


def _state(b: Build, op: r.Recurrent, state: str | None, level: int) -> str | None:
    """The initial state of one layer, out of those of all."""
    if state is None or op.num_layers == 1:
        return state
    start, stop = level * op.directions, (level + 1) * op.directions
    return b("Slice", state, b.constant([start]), b.constant([stop]), b.constant([0]))


def _joined(b: Build, op: r.Recurrent, output: str, *, last: bool) -> str:
    """`[T, directions, N, hidden]` as the next layer's input, or batch first as the result."""
    if not op.bidirectional and not last:
        return b("Squeeze", output, b.constant([1]))
    turned = b("Transpose", output, perm=[2, 0, 1, 3] if last else [0, 2, 1, 3])
    n, t, features = b.result.shape
    shape: tuple[Dim, ...] = (n, t, features) if last else (t, n, features)
    return b.reshape(turned, shape[:2], shape)
