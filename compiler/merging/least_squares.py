"""Weights of layers that give wanted outputs for given inputs, by least squares in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, cast

from ..graph import Graph, Node, ParameterRef
from ..operators.operator import Operator

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@dataclass(frozen=True)
class Layer:
    """A weight and the nodes that apply it: linear ones or convolutions, with the same bias or none."""

    weight: str
    bias: str | None
    nodes: tuple[Node, ...]

    kernel: tuple[int, ...]
    """Of a convolution."""

    @property
    def op(self) -> Operator:
        return self.nodes[0].op


def layers(graph: Graph) -> list[Layer]:
    """The layers whose weight and bias are parameters that nothing else reads."""
    found: dict[str, Layer] = {}
    for node in graph.nodes.values():
        if node.op.name == "linear" or node.op.name in ("conv1d", "conv2d", "conv3d"):
            _, weight, bias = (*node.inputs, None)[:3]
            if isinstance(weight, ParameterRef) and (bias is None or isinstance(bias, ParameterRef)):
                users = tuple(graph.users[weight])
                kernel = cast("tuple[int, ...]", graph.type(weight).shape[2:])
                biased = bias.parameter if bias else None
                own = users if all(n.op == node.op and n.inputs[1:] == node.inputs[1:] for n in users) else ()
                alone = bias is None or all(n in own for n in graph.users[bias])
                if own and alone and all(n.inputs[0] != weight for n in own):
                    found[weight.parameter] = Layer(weight.parameter, biased, own, kernel)
    return list(found.values())


class Equations:
    """The normal equations of `y ≈ W x` (and a bias) for each group of a layer, summed up."""

    def __init__(self) -> None:
        self._squares: list[Array] = []
        self._products: list[Array] = []

    def add(self, x: Sequence[Array], y: Sequence[Array]) -> None:
        """For each group rows of `x [rows, in]` and `y [rows, out]`."""
        squares = [a.T @ a for a in x]
        products = [a.T @ b for a, b in zip(x, y, strict=True)]
        if self._squares:
            squares = [a + b for a, b in zip(self._squares, squares, strict=True)]
            products = [a + b for a, b in zip(self._products, products, strict=True)]
        self._squares, self._products = squares, products

    def solve(self, ridge: float) -> list[Array]:
        """For each group the smallest `W [out, in]` that comes nearest; `ridge` is what is added to the square of each
        input, relative to their mean."""
        return [solved(a, b, ridge) for a, b in zip(self._squares, self._products, strict=True)]


def solved(squares: Array, products: Array, ridge: float) -> Array:
    """The smallest `W [out, in]` for sums `xᵀx` and `xᵀy`; `ridge` is added to the square of each input, relative to
    their mean."""
    import numpy
    from scipy import linalg as untyped

    linalg: Any = untyped
    if ridge:  # ten times as fast as eigenvectors, which a convolution of 3 × 3 × 512 inputs has 4,608 of
        lifted = squares + ridge * float(squares.trace()) / len(squares) * numpy.eye(len(squares))
        try:
            return linalg.cho_solve(linalg.cho_factor(lifted, lower=True), products).T
        except linalg.LinAlgError:  # inputs that are zero, or so small a ridge that rounding hides it
            pass
    sizes, vectors = numpy.linalg.eigh(squares)
    least = float(sizes[-1]) * len(sizes) * float(numpy.finfo("float64").eps)
    shift = ridge * float(sizes.mean())
    inverse = numpy.where(sizes > least, 1 / numpy.maximum(sizes + shift, least or 1.0), 0.0)
    return ((vectors * inverse) @ (vectors.T @ products)).T


def inputs(layer: Layer, x: Array) -> list[Array]:
    """What each group of a layer multiplies, for every output: [rows, in]; with a column of ones if it has a bias."""
    import numpy

    found = [x.reshape(-1, x.shape[-1])] if layer.op.name == "linear" else _patches(layer, x)
    if layer.bias:
        found = [numpy.concatenate([a, numpy.ones((len(a), 1))], 1) for a in found]
    return found


def outputs(layer: Layer, y: Array) -> list[Array]:
    """What each group of a layer gives: [rows, out]."""
    import numpy

    if layer.op.name == "linear":
        return [y.reshape(-1, y.shape[-1])]
    rows = numpy.moveaxis(y, 1, -1).reshape(-1, y.shape[1])
    return numpy.split(rows, cast(Any, layer.op).groups, 1)


def joined(layer: Layer, weight: Array, bias: Array | None) -> list[Array]:
    """A layer's numbers as the matrix of each group, [out, in], its bias as the last column."""
    import numpy

    groups = getattr(layer.op, "groups", 1)
    flat = weight.reshape(groups, weight.shape[0] // groups, -1)
    if bias is not None:
        flat = numpy.concatenate([flat, bias.reshape(groups, -1, 1)], 2)
    return list(flat)


def parted(layer: Layer, matrices: Sequence[Array], shape: Sequence[int]) -> dict[str, Array]:
    """The parameters that such matrices make; the weight has this shape."""
    import numpy

    flat = numpy.concatenate(matrices, 0)
    if layer.bias is None:
        return {layer.weight: flat.reshape(shape)}
    return {layer.weight: flat[:, :-1].reshape(shape), layer.bias: flat[:, -1]}


def _patches(layer: Layer, x: Array) -> list[Array]:
    """What a convolution sees, for each group: [rows, channels · kernel]."""
    import numpy

    op: Any = layer.op
    axes = tuple(range(2, x.ndim))
    extents = [(k - 1) * d + 1 for k, d in zip(layer.kernel, op.dilation, strict=True)]
    padded = numpy.pad(x, [(0, 0), (0, 0), *op.padding])
    seen: Array = numpy.lib.stride_tricks.sliding_window_view(padded, extents, axes)
    steps = (*(slice(None, None, s) for s in op.stride), *(slice(None, None, d) for d in op.dilation))
    seen = seen[(slice(None), slice(None), *steps)]
    count = len(axes)
    order = (0, *range(2, 2 + count), 1, *range(2 + count, 2 + 2 * count))
    rows = seen.transpose(order).reshape(-1, op.groups, x.shape[1] // op.groups * prod(layer.kernel))
    return [rows[:, g] for g in range(op.groups)]
