"""Which numbers make a part of a model pass its input on: the last scale, or layer, of each residual branch is 0."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from ..blocks import Block
from ..graph import Graph, Node, Parameter, ParameterRef, Ref, SelectPhase, Value
from ..operators.normalization import BatchNorm
from ..operators.operator import Initialiser
from ..passes.computed import Made
from ..types import TensorType
from .weight import LAYERS

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

Numbers = dict[str, Callable[[Parameter], Parameter]]
"""By the path of a parameter, what gives it the numbers it needs."""

_SAME = frozenset({"dropout", "drop_path", "identity", "stop_gradient"})
"""Pass on what they are given, in inference."""

_MOVES = _SAME | {
    "reshape", "flatten", "permute", "transpose", "rearrange", "expand", "squeeze", "unsqueeze", "slice", "roll",
    "flip", "repeat", "repeat_interleave", "concat", "stack", "max_pool1d", "max_pool2d", "max_pool3d",
}  # fmt: skip
"""Whose outputs have no numbers but those of their inputs."""

_ZERO_OF_ZERO = _MOVES | {
    "relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "gelu", "silu", "hardswish", "tanh", "mish", "neg", "abs",
    "cast", "sqrt", "square", "sum", "mean", "max", "min", "avg_pool1d", "avg_pool2d", "avg_pool3d", "add", "sub",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "interpolate", "pixel_shuffle", "split",
    "chunk", "pixel_unshuffle", "cumsum",
}  # fmt: skip
"""Give 0 where all that they are given is 0."""

_SCALED = frozenset({"batch_norm", "layer_norm", "rms_norm", "group_norm", "instance_norm"})
"""End with a product with their second input and a sum with their third."""

_PRODUCTS = frozenset({"mul", "matmul", "einsum", "scaled_dot_product_attention"})
"""Give 0 where one of the inputs that they multiply is 0."""

IDEMPOTENT = frozenset({"relu", "relu6"})
"""Activations that change nothing of what they gave."""


@dataclass
class Closing:
    """Looks for the numbers. `stopped` are nodes, and why each cannot be what it would have to be."""

    graph: Graph
    block: Block
    own: frozenset[str]
    """Parameters that nothing outside reads."""
    stopped: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    @staticmethod
    def of(graph: Graph, block: Block) -> Closing:
        inside = set(block.nodes)
        own = {
            ref.parameter
            for path in block.nodes
            for ref in graph.nodes[path].refs
            if isinstance(ref, ParameterRef) and all(n.path in inside for n in graph.users[ref])
        }
        return Closing(graph, block, frozenset(own))

    def numbers(self, given: Value) -> Numbers | None:
        """What makes the block the identity where it is given this value of the graph; None where nothing does."""
        if self.graph.type(self.block.input) != self.graph.type(self.block.output):
            self.stopped.append((self.block.path, "its output has another type than its input"))
            return None
        return self._same(self.block.output, given)

    def _same(self, ref: Ref, given: Value) -> Numbers | None:
        """What makes a value the input of the block."""
        if ref == self.block.input:
            return {}
        node = self._node(ref)
        if node is None:
            return None
        name = node.op.name
        if isinstance(node.op, SelectPhase) or name in _SAME:
            return self._same(self._read(node)[0], given)
        if name in ("add", "sub"):
            return self._one_of_two(node, given)
        if name in IDEMPOTENT and within(self.graph, given, name):
            return self._same(self._read(node)[0], given)
        if isinstance(node.op, BatchNorm) and self._owned(node.inputs[1:3]) and self._of_first_output(ref):
            inner = self._same(self._read(node)[0], given)
            return None if inner is None else {**inner, **self._standing(node, node.op)}
        return self._stop(node, "does not pass on what it is given")

    def _one_of_two(self, node: Node, given: Value) -> Numbers | None:
        kind = self.graph.type(self.block.input)
        for kept, other in ((0, 1), (1, 0))[: 2 if node.op.name == "add" else 1]:
            a, b = node.inputs[kept], node.inputs[other]
            if a is None or b is None or self.graph.type(a) != kind or not self._depends(a):
                continue
            before = len(self.stopped)
            same = self._same(a, given)
            zero = None if same is None else self._zero(b)
            if same is not None and zero is not None:
                del self.stopped[before:]
                return {**same, **zero}
        return self._stop(node, "adds no branch that can be made 0 to what the block is given")

    def _depends(self, ref: Ref) -> bool:
        """Whether a value is the input, or made in the block."""
        return isinstance(ref, Value) and (ref == self.block.input or ref.node in self.block.nodes)

    def _zero(self, ref: Ref) -> Numbers | None:
        """What makes a value 0, as close to it as can be."""
        if isinstance(ref, ParameterRef):
            return {ref.parameter: zeros} if ref.parameter in self.own else None
        node = self._node(ref)
        if node is None:
            return None
        name, read = node.op.name, self._read(node)
        if isinstance(node.op, SelectPhase):
            return self._zero(read[0])
        if (name in LAYERS or name in _SCALED) and self._owned(node.inputs[1:3]):
            return {r.parameter: zeros for r in node.inputs[1:3] if isinstance(r, ParameterRef)}
        if name in _PRODUCTS:
            scales = [r for r in read if isinstance(r, ParameterRef)]
            ways = read[2:3] if name == "scaled_dot_product_attention" else [*scales, *read]
            return self._first(node, ways)
        if name in _ZERO_OF_ZERO:
            return self._all(read)
        return self._stop(node, "cannot be made 0 by numbers of its own")

    def _first(self, node: Node, ways: Iterable[Ref]) -> Numbers | None:
        for ref in ways:
            found = self._zero(ref) if self._depends(ref) or isinstance(ref, ParameterRef) else None
            if found is not None:
                return found
        return self._stop(node, "multiplies nothing that can be made 0")

    def _all(self, refs: Iterable[Ref]) -> Numbers | None:
        found: Numbers = {}
        for ref in refs:
            part = self._zero(ref)
            if part is None:
                return None
            found.update(part)
        return found

    def _node(self, ref: Ref) -> Node | None:
        if not self._depends(ref) or ref == self.block.input:
            return None
        assert isinstance(ref, Value)
        return self.graph.nodes[ref.node]

    @staticmethod
    def _read(node: Node) -> list[Ref]:
        """What a node reads, in inference."""
        return [r for r in (node.inputs[1:] if isinstance(node.op, SelectPhase) else node.inputs) if r is not None]

    def _owned(self, refs: Iterable[Ref | None]) -> bool:
        """Whether there is a scale or weight, and it, and the shift or bias if there is one, is the block's own."""
        weight, *bias = refs
        return all(
            isinstance(r, ParameterRef) and r.parameter in self.own
            for r in (weight, *(b for b in bias if b is not None))
        )

    @staticmethod
    def _of_first_output(ref: Ref) -> bool:
        return isinstance(ref, Value) and ref.index == 0

    def _standing(self, node: Node, op: BatchNorm) -> Numbers:
        """Scale and shift that undo the running statistics."""
        weight, bias, mean, var = (
            self.graph.parameters[r.parameter] for r in node.inputs[1:] if isinstance(r, ParameterRef)
        )
        return {
            weight.path: lambda p: replace(p, data=Made(partial(_deviation, op.eps), (var,), p.type)),
            bias.path: lambda p: replace(p, data=Made(_itself, (mean,), p.type)),
        }

    def _stop(self, node: Node, text: str) -> None:
        self.stopped.append((node.path, f"{node.op.name} %{node.path} {text}"))


def _deviation(eps: float, variance: Array) -> Array:
    import numpy

    return numpy.sqrt(variance + eps)


def _itself(array: Array) -> Array:
    return array


def within(graph: Graph, value: Ref, activation: str) -> bool:
    """Whether an activation gave all numbers of a value, so that it changes none of them."""
    if not isinstance(value, Value):
        return False
    node = graph.nodes[value.node]
    if node.op.name == activation or (activation == "relu" and node.op.name == "relu6"):
        return True
    refs = node.inputs[1:] if isinstance(node.op, SelectPhase) else node.inputs
    moves = node.op.name in _MOVES or isinstance(node.op, SelectPhase)
    return moves and all(r is None or within(graph, r, activation) for r in refs)


def zeros(parameter: Parameter) -> Parameter:
    """The parameter with zeros."""
    return constant(parameter, 0.0)


def constant(parameter: Parameter, number: float) -> Parameter:
    """The parameter with this number everywhere."""
    kinds = {0.0: Initialiser("zeros"), 1.0: Initialiser("ones")}
    initialiser = kinds.get(number, Initialiser("constant", (number,)))
    return replace(
        parameter, initialiser=initialiser, data=Made(partial(_full, parameter.type, number), (), parameter.type)
    )


def _full(kind: TensorType, number: float) -> Array:
    import numpy

    return numpy.full(cast("tuple[int, ...]", kind.shape), number)
