"""LSTM and GRU: the input's share of the gates as one matrix product, then the recurrence as a program of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....compiler.operators import recurrent as op
from ....compiler.types import Dim, TensorType
from ..half import DTYPES, single
from ..index import literal
from ..kernel import Kernel, View
from ..lower import Inputs, Lowering, Types, rules
from ..tensor import Tensor
from ..untyped import build as T
from ..untyped import tirx
from .layout import concat
from .linear import linear
from .numeric import const, sigmoid, tanh, zero

SAMPLES = 4
"""Samples of the batch that one task carries through time together: each vector of weights is used for all of them."""


def recur(
    low: Lowering,
    x: Tensor,
    states: Sequence[Tensor],
    input_weight: Tensor,
    hidden_weight: Tensor,
    biases: tuple[Tensor, Tensor] | None,
    *,
    hidden: int,
    reverse: bool,
) -> tuple[Tensor, ...]:
    """One direction of one layer: `x` [N, T, in] to [N, T, hidden] and the last states [N, hidden].

    With two `states` (h, c) an LSTM with gates i, f, g, o; with one a GRU with r, z, n (PyTorch's order).
    `hidden_weight` is [gates · hidden, hidden]. Weights are laid out by blocks of hidden units, so that a block finds
    all its gates.
    """
    gates = 4 if len(states) == 2 else 3
    width = low.machine.lanes
    blocks = -(-hidden // width)
    dtype = x.type.dtype
    batch, length, features = x.type.shape

    def unit(block: Any, lane: Any) -> tuple[Any, Any]:
        """The hidden unit of a lane, and whether there is one."""
        found = block * literal(width) + lane
        return tirx.min(found, literal(hidden - 1)), found < literal(hidden)

    def rows(index: Sequence[Any], weight: View) -> Any:
        row, column = index
        at, exists = unit(row // literal(gates * width), row % literal(width))
        gate = row // literal(width) % literal(gates)
        return tirx.Select(exists, weight[(gate * literal(hidden) + at, column)], zero(weight.dtype))

    def bias_rows(index: Sequence[Any], first: View, second: View) -> Any:
        (row,) = index
        at, exists = unit(row // literal(gates * width), row % literal(width))
        gate = row // literal(width) % literal(gates)
        place = (gate * literal(hidden) + at,)
        total = first[place]
        separate = gates == 3  # PyTorch's GRU multiplies the hidden share of n, its bias included, by r
        share = second[place]
        total = total + (tirx.Select(gate < literal(2), share, zero(first.dtype)) if separate else share)
        return tirx.Select(exists, total, zero(first.dtype))

    def columns(index: Sequence[Any], weight: View) -> Any:
        block, k, gate, lane = index
        at, exists = unit(block, lane)
        return tirx.Select(exists, weight[(gate * literal(hidden) + at, k)], zero(weight.dtype))

    total = blocks * gates * width
    spread = low.map("gates", [input_weight], TensorType(dtype, (total, features)), rows)
    bias = low.map("gates", list(biases), single(TensorType(dtype, (total,))), bias_rows) if biases else None
    gate_input = linear(low, x, spread, bias, single(TensorType(dtype, (batch, length, total))))
    recurrent = low.map("gates", [hidden_weight], TensorType(dtype, (blocks, hidden, gates, width)), columns)
    operands = [gate_input, recurrent, *states]
    if gates == 3 and biases:
        operands.append(biases[1])
    results = [TensorType(dtype, (batch, length, hidden)), *(TensorType(dtype, s.type.shape) for s in states)]
    program = _Program(hidden, gates, width, length, batch, reverse, DTYPES[dtype])
    return low.program("lstm" if gates == 4 else "gru", operands, results, program.write)


class _Program:
    """The loops: over tasks of samples, time, blocks of hidden units, hidden inputs."""

    def __init__(self, hidden: int, gates: int, width: int, length: Dim, batch: Dim, reverse: bool, dtype: str) -> None:
        self.hidden, self.gates, self.width = hidden, gates, width
        self.length, self.batch, self.reverse = length, batch, reverse
        self.dtype = dtype
        self.blocks = -(-hidden // width)
        self.samples = min(batch, SAMPLES) if isinstance(batch, int) else SAMPLES

    def write(self, kernel: Kernel, sources: list[Any], results: list[Any]) -> None:
        batch = kernel.dim(self.batch)
        samples = literal(self.samples)
        with T.parallel(literal(0), (batch + samples - literal(1)) // samples) as task:
            # A last task that is not full repeats its last sample, which gives the same numbers again.
            numbers = [tirx.min(task * samples + literal(i), batch - literal(1)) for i in range(self.samples)]
            self._task(kernel, sources, results, numbers)

    def _task(self, kernel: Kernel, sources: list[Any], results: list[Any], numbers: list[Any]) -> None:
        whole = self.blocks * self.width
        old = T.alloc_buffer((self.samples, whole), self.dtype)
        new = T.alloc_buffer((self.samples, whole), self.dtype)
        states = [old] + [T.alloc_buffer((self.samples, whole), self.dtype) for _ in range(self.gates - 3)]
        for i, n in enumerate(numbers):
            for state, given in zip(states, sources[2:], strict=False):
                with T.serial(literal(0), literal(self.hidden)) as u:
                    T.buffer_store(state, given[n, u], [literal(i), u])
        length = kernel.dim(self.length)
        with T.serial(literal(0), length) as step:
            t = length - literal(1) - step if self.reverse else step
            with T.serial(literal(0), literal(self.blocks)) as block:
                self._block(sources, results[0], states, new, numbers, t, block)
            for i in range(self.samples):
                with T.serial(literal(0), literal(self.hidden)) as u:
                    T.buffer_store(old, new[literal(i), u], [literal(i), u])
        for i, n in enumerate(numbers):
            for state, result in zip(states, results[1:], strict=True):
                with T.serial(literal(0), literal(self.hidden)) as u:
                    T.buffer_store(result, state[literal(i), u], [n, u])

    def _block(
        self, sources: list[Any], output: Any, states: list[Any], new: Any, numbers: list[Any], t: Any, block: Any
    ) -> None:
        """All gates of one block of hidden units, for all samples of the task."""
        gate_input, recurrent = sources[:2]
        width = literal(self.width)
        sums = T.alloc_buffer((self.samples, self.gates, self.width), self.dtype)
        apart = T.alloc_buffer((self.samples, self.width), self.dtype)  # the GRU's input share of n
        for i, n in enumerate(numbers):
            for g in range(self.gates):
                column = (block * literal(self.gates) + literal(g)) * width
                with T.vectorized(literal(0), width) as lane:
                    given = gate_input[n, t, column + lane]
                    if self.gates == 3 and g == 2:
                        T.buffer_store(apart, given, [literal(i), lane])
                        given = zero(self.dtype)
                    T.buffer_store(sums, given, [literal(i), literal(g), lane])
        with T.serial(literal(0), literal(self.hidden)) as k:
            for i in range(self.samples):
                for g in range(self.gates):
                    with T.vectorized(literal(0), width) as lane:
                        at = [literal(i), literal(g), lane]
                        product = states[0][literal(i), k] * recurrent[block, k, literal(g), lane]
                        T.buffer_store(sums, sums[literal(i), literal(g), lane] + product, at)
        for i, n in enumerate(numbers):
            self._finish(sources, output, states, new, sums, apart, i, n, t, block)

    def _finish(
        self,
        sources: list[Any],
        output: Any,
        states: list[Any],
        new: Any,
        sums: Any,
        apart: Any,
        i: int,
        n: Any,
        t: Any,
        block: Any,
    ) -> None:
        width = literal(self.width)
        row = literal(i)
        with T.vectorized(literal(0), width) as lane:
            unit = block * width + lane
            gate = [sums[row, literal(g), lane] for g in range(self.gates)]
            if self.gates == 4:
                carried = sigmoid(gate[1]) * states[1][row, unit] + sigmoid(gate[0]) * tanh(gate[2])
                T.buffer_store(states[1], carried, [row, unit])
                made = sigmoid(gate[3]) * tanh(states[1][row, unit])
            else:
                share = gate[2]
                if len(sources) > 3:
                    share = share + self._hidden_bias(sources[3], unit)
                update = sigmoid(gate[1])
                candidate = tanh(apart[row, lane] + sigmoid(gate[0]) * share)
                made = (const(1, self.dtype) - update) * candidate + update * states[0][row, unit]
            T.buffer_store(new, made, [row, unit])
        if self.hidden % self.width == 0:
            with T.vectorized(literal(0), width) as lane:
                T.buffer_store(output, new[row, block * width + lane], [n, t, block * width + lane])
        else:
            with T.serial(literal(0), tirx.min(width, literal(self.hidden) - block * width)) as lane:
                T.buffer_store(output, new[row, block * width + lane], [n, t, block * width + lane])

    def _hidden_bias(self, bias: Any, unit: Any) -> Any:
        return bias[literal(2 * self.hidden) + tirx.min(unit, literal(self.hidden - 1))]


@rules(op.Lstm, op.Gru)
def _recurrent(low: Lowering, node: op.Recurrent, inputs: Inputs, types: Types) -> tuple[Tensor, ...]:
    x, initial, weights = node.parts(inputs)
    count = 4 if node.bias else 2
    state = TensorType(x.type.dtype, (x.type.shape[0], node.hidden_size))
    last: list[tuple[Tensor, ...]] = []
    for level in range(node.num_layers):
        outputs: list[Tensor] = []
        for direction in range(node.directions):
            index = level * node.directions + direction
            own = weights[index * count : (index + 1) * count]
            states = [_start(low, s, index, state) for s in initial]
            biases = (own[2], own[3]) if node.bias else None
            output, *ends = recur(
                low, x, states, own[0], own[1], biases, hidden=node.hidden_size, reverse=direction == 1
            )
            outputs.append(output)
            last.append(tuple(ends))
        joined = TensorType(x.type.dtype, (*x.type.shape[:2], node.directions * node.hidden_size))
        x = concat(low, outputs, 2, joined)
    level_states = [
        concat(low, [low.reshape(s, TensorType(s.type.dtype, (1, *s.type.shape))) for s in group], 0, type)
        for group, type in zip(zip(*last, strict=True), types[1:], strict=True)
    ]
    return (x, *level_states)


def _start(low: Lowering, given: Tensor | None, index: int, type: TensorType) -> Tensor:
    if given is None:
        return low.map("zeros", [], type, lambda _: zero(DTYPES[type.dtype]))
    return low.view(given, type, (0, 1), lambda place, _: [literal(index), *place])
