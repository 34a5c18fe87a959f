"""LSTM and GRU over sequences, batch first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

from ..types import Dim, Shape, TensorType
from .activation import Sigmoid, Tanh
from .arithmetic import Add, Mul, Sub
from .attribute import Count, Flag, Positive
from .creation import Full
from .dimension import pattern
from .layout import Concat, Reshape, Slice, Split, Stack
from .linear import Linear
from .operator import (
    Axes,
    Cost,
    Emit,
    Initialiser,
    Layer,
    Operator,
    OptionalTypes,
    ParameterSpec,
    ShapeError,
    Types,
    V,
    layer,
    operands,
    operator,
    sample,
)
from .parameter import data, parameter_dtype, same_dtype, width


class Recurrent(Operator):
    """`x [N, T, in]` → `output [N, T, directions · hidden]` and the last states `[layers · directions, N, hidden]`.

    Weights follow PyTorch's order: for each layer, for each direction, `weight_ih [gates · hidden, in]`,
    `weight_hh [gates · hidden, hidden]`, and with `bias` `bias_ih`, `bias_hh [gates · hidden]`. States that are not
    given start at zero.
    """

    __slots__ = ()
    derived = True
    gates: ClassVar[int]
    states: ClassVar[int]
    hidden_size: int
    num_layers: int
    bidirectional: bool
    bias: bool

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    def weight_shapes(self, features: Dim) -> dict[str, Shape]:
        """Every weight by PyTorch's name, in operand order."""
        rows = self.gates * self.hidden_size
        shapes: dict[str, Shape] = {}
        for level in range(self.num_layers):
            inner = features if level == 0 else self.directions * self.hidden_size
            for suffix in (f"_l{level}", f"_l{level}_reverse")[: self.directions]:
                shapes[f"weight_ih{suffix}"] = (rows, inner)
                shapes[f"weight_hh{suffix}"] = (rows, self.hidden_size)
                if self.bias:
                    shapes[f"bias_ih{suffix}"] = (rows,)
                    shapes[f"bias_hh{suffix}"] = (rows,)
        return shapes

    def parts(self, inputs: Sequence[V | None]) -> tuple[V, tuple[V | None, ...], tuple[V, ...]]:
        """The data input, the initial states, the weights."""
        x, states, weights = inputs[0], inputs[1 : 1 + self.states], inputs[1 + self.states :]
        assert x is not None
        return x, tuple(states), tuple(w for w in weights if w is not None)

    def shape(self, *inputs: TensorType | None) -> Types:
        x, states, weights = self.parts(inputs)
        check_sequence(self.name, x)
        same_dtype(self, x, *states, *weights)
        n, t, features = x.shape
        state = TensorType(x.dtype, (self.num_layers * self.directions, n, self.hidden_size))
        for i, given in enumerate(states, 1):
            if given is not None and given != state:
                raise ShapeError(
                    f"the initial state {self.operands[i].name} of {self.name} is {given}, but needs {state}: "
                    "layers times directions, batch, hidden",
                    operands=(0, i),
                )
        self._check_weights(x, features, weights)
        output = TensorType(x.dtype, (n, t, self.directions * self.hidden_size))
        return (output, *[state] * self.states)

    def _check_weights(self, x: TensorType, features: Dim, weights: Types) -> None:
        wanted = self.weight_shapes(features)
        if len(weights) != len(wanted):
            raise ShapeError(
                f"{self.name} takes {len(wanted)} weights for {self.num_layers} layers of {self.directions} "
                f"directions, not {len(weights)}",
                code="input-count",
                notes=(f"they are {', '.join(wanted)}",),
            )
        for i, ((name, shape), weight) in enumerate(zip(wanted.items(), weights, strict=True), 1 + self.states):
            if weight.shape != shape:
                raise ShapeError(
                    f"{name} of {self.name} is {weight}, but needs {TensorType(x.dtype, shape)}", operands=(0, i)
                )

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        """The products of the weights with inputs and states, for each place of the sequence.

        FlopCounterMode counts the same where PyTorch decomposes the op, and nothing where it calls a fused kernel
        (oneDNN, cuDNN).
        """
        x, _, weights = self.parts(inputs)
        places = x.shape[0] * x.shape[1]
        macs = sum((w.elements for w in weights if w.rank == 2), 0) * places
        adds = sum((w.elements for w in weights if w.rank == 1), 0) * places
        cells = places * (self.num_layers * self.directions * self.hidden_size)
        return Cost(macs, adds + cells * self.pointwise)

    pointwise: ClassVar[int]
    """Element-wise operations for each hidden unit and place, biases apart."""

    def axes(self, *inputs: TensorType | None) -> Axes:
        """One order of hidden units for all layers and directions, as the states have one axis for them."""
        states = [["l", "n", "h"] for t in inputs[1 : 1 + self.states] if t is not None]
        output = "(r h)" if self.bidirectional else "h"
        weights = [_columns(name, output) for name in self.weight_shapes(1)]
        fixed = {"q": f"the gates of {self.name} have their order", "l": "each layer and direction has one state"}
        if self.bidirectional:
            fixed["r"] = "there are two directions"
        text = pattern([["n", "t", "i"], *states, *weights], ["n", "t", output], *[["l", "n", "h"]] * self.states)
        return Axes(text, fixed, frozenset("t"), units={"h": "hidden unit"})

    def resized(self, sizes: Mapping[str, Dim], outputs: Types) -> Operator:
        return replace(cast(Any, self), hidden_size=sizes["h"])

    def expand(self, emit: Emit[V], *inputs: V | None) -> tuple[V, ...]:
        """Unrolled over a sequence whose length is a number."""
        x, initial, weights = self.parts(inputs)
        count = len(weights) // (self.num_layers * self.directions)
        last: list[tuple[V, ...]] = []
        for level in range(self.num_layers):
            outputs: list[V] = []
            for direction in range(self.directions):
                index = level * self.directions + direction
                state = tuple(self._start(emit, x, s, index) for s in initial)
                own = weights[index * count : (index + 1) * count]
                sequence, state = self._unrolled(emit, x, state, own, backwards=direction == 1)
                outputs.append(sequence)
                last.append(state)
            x = outputs[0] if len(outputs) == 1 else emit(Concat(2), *outputs)
        return (x, *(emit(Stack(0), *states) for states in zip(*last, strict=True)))

    def _start(self, emit: Emit[V], x: V, initial: V | None, index: int) -> V:
        """The first state of one layer and direction, [N, hidden]."""
        kind = emit.type(x)
        shape = (kind.shape[0], self.hidden_size)
        if initial is None:
            return emit(Full(shape, 0.0, kind.dtype))
        return emit(Reshape(shape), emit(Slice(0, index, index + 1), initial))

    def _unrolled(
        self, emit: Emit[V], x: V, state: tuple[V, ...], weights: tuple[V, ...], *, backwards: bool
    ) -> tuple[V, tuple[V, ...]]:
        """One direction of one layer: its outputs [N, T, hidden] and last state."""
        w_ih, w_hh, b_ih, b_hh = (*weights, None, None)[:4]
        n, length, _ = emit.type(x).shape
        if not isinstance(length, int):
            raise ShapeError(
                f"{self.name} is unrolled for this target, which needs a sequence length in numbers, not {length}",
                operands=(0,),
                code="symbolic-sequence",
                fix="give the input's second axis as a number",
            )
        inner = emit(Linear(), x, w_ih, b_ih)
        outputs: dict[int, V] = {}
        for t in reversed(range(length)) if backwards else range(length):
            step = emit(Reshape((n, self.gates * self.hidden_size)), emit(Slice(1, t, t + 1), inner))
            state = self.step(emit, step, emit(Linear(), state[0], w_hh, b_hh), state)
            outputs[t] = state[0]
        return emit(Stack(1), *(outputs[t] for t in range(length))), state

    def step(self, emit: Emit[V], inner: V, outer: V, state: tuple[V, ...]) -> tuple[V, ...]:
        """The next state from the gates' inputs: of the sequence (`inner`) and of the state (`outer`)."""
        raise NotImplementedError


def _columns(name: str, output: str) -> list[str]:
    """Labels of the axes of a weight."""
    if name.startswith("bias"):
        return ["(q h)"]
    if name.startswith("weight_hh"):
        return ["(q h)", "h"]
    return ["(q h)", "i" if "_l0" in name else output]


def check_sequence(name: str, x: TensorType) -> None:
    """Raises `ShapeError` where the input is not a batch of sequences."""
    if x.rank != 3:
        raise ShapeError(
            f"{name} takes [N, T, features], not {x} of rank {x.rank}", operands=(0,), code="rank-mismatch"
        )


@operator("lstm")
class Lstm(Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997), gates input, forget, cell, output as PyTorch's."""

    operands = operands("x h0? c0? weights*")
    outputs = ("output", "h_n", "c_n")
    gates = 4
    states = 2
    pointwise = 13  # 4 sums of input and state, 5 transcendentals, 3 products, 1 sum
    hidden_size: Positive
    num_layers: Count = 1
    bidirectional: Flag = False
    bias: Flag = True

    def step(self, emit: Emit[V], inner: V, outer: V, state: tuple[V, ...]) -> tuple[V, ...]:
        i, f, g, o = emit.many(Split((self.hidden_size,) * 4, 1), emit(Add(), inner, outer))
        kept = emit(Mul(), emit(Sigmoid(), f), state[1])
        cell = emit(Add(), kept, emit(Mul(), emit(Sigmoid(), i), emit(Tanh(), g)))
        return emit(Mul(), emit(Sigmoid(), o), emit(Tanh(), cell)), cell


@operator("gru")
class Gru(Recurrent):
    """Gated recurrent unit (Cho et al. 2014), gates reset, update, new as PyTorch's."""

    operands = operands("x h0? weights*")
    outputs = ("output", "h_n")
    gates = 3
    states = 1
    pointwise = 10  # 3 sums, 3 transcendentals, reset product, and n + z · (h - n)
    hidden_size: Positive
    num_layers: Count = 1
    bidirectional: Flag = False
    bias: Flag = True

    def step(self, emit: Emit[V], inner: V, outer: V, state: tuple[V, ...]) -> tuple[V, ...]:
        sizes = (self.hidden_size,) * 3
        r, z, n = emit.many(Split(sizes, 1), inner)
        r_, z_, n_ = emit.many(Split(sizes, 1), outer)
        reset, update = emit(Sigmoid(), emit(Add(), r, r_)), emit(Sigmoid(), emit(Add(), z, z_))
        new = emit(Tanh(), emit(Add(), n, emit(Mul(), reset, n_)))
        return (emit(Add(), new, emit(Mul(), update, emit(Sub(), state[0], new))),)


class RecurrentLayer(Layer):
    """A recurrent network that owns its weights, U(±1/√hidden) as PyTorch's."""

    hidden_size: int
    num_layers: int
    bidirectional: bool
    bias: bool
    input_size: int | None

    def _made(self) -> Recurrent:
        raise NotImplementedError

    def parameters(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> dict[str, ParameterSpec]:
        x = data(inputs)
        if x is not None:
            check_sequence(self.name, x)
        features = width(self.name, "input_size", self.input_size, None if x is None else x.shape[-1])
        bound = self.hidden_size**-0.5
        uniform = Initialiser("uniform", (-bound, bound))
        shapes = self._made().weight_shapes(features)
        return {name: ParameterSpec(shape, uniform, parameter_dtype(x)) for name, shape in shapes.items()}

    def operator(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> Operator:
        return self._made()


@layer("lstm")
class LstmLayer(RecurrentLayer):
    """`output, h, c = lstm(128, bidirectional = true)(x)`."""

    hidden_size: Positive
    num_layers: Count = 1
    bidirectional: Flag = False
    bias: Flag = True
    input_size: Positive | None = None

    def _made(self) -> Recurrent:
        return Lstm(self.hidden_size, self.num_layers, self.bidirectional, self.bias)


@layer("gru")
class GruLayer(RecurrentLayer):
    """`output, h = gru(128)(x)`."""

    hidden_size: Positive
    num_layers: Count = 1
    bidirectional: Flag = False
    bias: Flag = True
    input_size: Positive | None = None

    def _made(self) -> Recurrent:
        return Gru(self.hidden_size, self.num_layers, self.bidirectional, self.bias)


_LSTM = ("f32[12, 4]", "f32[12, 3]", "f32[12]", "f32[12]")
_GRU = ("f32[9, 4]", "f32[9, 3]", "f32[9]", "f32[9]")
sample(Lstm(3), "f32[2, 5, 4]", None, None, *_LSTM)
sample(Lstm(3, bias=False), "f32[2, 5, 4]", "f32[1, 2, 3]", "f32[1, 2, 3]", *_LSTM[:2])
sample(
    Lstm(3, 2, True), "f32[2, 4, 4]", "f32[4, 2, 3]", "f32[4, 2, 3]",
    *_LSTM, *_LSTM, *("f32[12, 6]", *_LSTM[1:]) * 2,
)  # fmt: skip
sample(Gru(3), "f32[2, 5, 4]", None, *_GRU)
sample(Gru(3, 2), "f32[2, 4, 4]", "f32[2, 2, 3]", *_GRU, "f32[9, 3]", *_GRU[1:])
sample(Gru(3, bidirectional=True, bias=False), "f32[2, 4, 4]", None, *_GRU[:2], *_GRU[:2])
