"""LSTM and GRU over sequences, batch first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from ..types import Dim, Shape, TensorType
from .attribute import Flag, Positive
from .operator import (
    Cost,
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
)
from .parameter import data, parameter_dtype, same_dtype, width


class Recurrent(Operator):
    """`x [N, T, in]` → `output [N, T, directions · hidden]` and the last states `[layers · directions, N, hidden]`.

    Weights follow PyTorch's order: for each layer, for each direction, `weight_ih [gates · hidden, in]`,
    `weight_hh [gates · hidden, hidden]`, and with `bias` `bias_ih`, `bias_hh [gates · hidden]`. States start at zero where
    they are not given.
    """

    __slots__ = ()
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
                f"{self.name} with {self.num_layers} layers of {self.directions} directions takes {len(wanted)} weights, "
                f"not {len(weights)}",
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
    num_layers: Positive = 1
    bidirectional: Flag = False
    bias: Flag = True


@operator("gru")
class Gru(Recurrent):
    """Gated recurrent unit (Cho et al. 2014), gates reset, update, new as PyTorch's."""

    operands = operands("x h0? weights*")
    outputs = ("output", "h_n")
    gates = 3
    states = 1
    pointwise = 10  # 3 sums, 3 transcendentals, reset product, and n + z · (h - n)
    hidden_size: Positive
    num_layers: Positive = 1
    bidirectional: Flag = False
    bias: Flag = True


class RecurrentLayer(Layer):
    """A recurrent network that owns its weights, U(±1/√hidden) as PyTorch's."""

    result: ClassVar[type[Recurrent]]
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
    num_layers: Positive = 1
    bidirectional: Flag = False
    bias: Flag = True
    input_size: Positive | None = None

    def _made(self) -> Recurrent:
        return Lstm(self.hidden_size, self.num_layers, self.bidirectional, self.bias)


@layer("gru")
class GruLayer(RecurrentLayer):
    """`output, h = gru(128)(x)`."""

    hidden_size: Positive
    num_layers: Positive = 1
    bidirectional: Flag = False
    bias: Flag = True
    input_size: Positive | None = None

    def _made(self) -> Recurrent:
        return Gru(self.hidden_size, self.num_layers, self.bidirectional, self.bias)
