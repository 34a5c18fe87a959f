"""Weights of layers, and expressions in their place."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any, cast

from ..graph import Edit, Graph, Node, Parameter, ParameterRef, Ref, Value
from ..operators.arithmetic import Add, Mul
from ..operators.creation import Constant
from ..operators.layout import Reshape
from ..operators.linear import Matmul
from ..operators.operator import Initialiser
from ..types import TensorType
from .choose import Paths, listed, matches, nothing
from .numbers import filled
from .register import Refusal

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

LAYERS = frozenset({"linear", *(f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3))})
"""Operators that multiply by a matrix or kernels."""


def weights(graph: Graph, at: Paths) -> dict[str, list[Node]]:
    """The weights of linear and convolution layers that patterns name, each with the layers that multiply by it.

    Raises:
        Refusal: where there are none.
    """
    known: dict[str, list[Node]] = {}
    made: list[str] = []
    for node in graph.nodes.values():
        weight = node.inputs[1] if node.op.name in LAYERS else None
        if isinstance(weight, Value) and matches(node.path, at):
            made.append(node.path)
        if isinstance(weight, ParameterRef) and graph.parameters[weight.parameter].type.dtype.is_float:
            known.setdefault(weight.parameter, []).append(node)
    chosen = {path: nodes for path, nodes in known.items() if matches(path, at)}
    if not chosen and made:
        text = f"the weights of {listed(made)} are expressions"
        raise Refusal(text, nodes=made, option="at", fix="fold_weights() before it")
    if not chosen:
        raise nothing(at, known, "layer weight")
    return chosen


def beside(path: str, name: str) -> str:
    """The path of what belongs to a weight: `fc.weight` has `fc.lora_a`, `fc.kernel` has `fc.kernel_lora_a`."""
    layer, _, own = path.rpartition(".")
    whole = name if own == "weight" else f"{own}_{name}"
    return f"{layer}.{whole}" if layer else whole


def shape(parameter: Parameter) -> tuple[int, int]:
    """A weight as a matrix: its first axis, and all others as one."""
    sizes = cast("tuple[int, ...]", parameter.type.shape)
    return sizes[0], prod(sizes[1:])


def low_rank(
    edit: Edit,
    maker: str,
    node: Node,
    weight: ParameterRef,
    a: Parameter,
    b: Parameter,
    scale: float = 1.0,
    name: str = "lora",
) -> Ref:
    """`weight + scale · b @ a` as nodes that stand before `node`, below its path; `name` is that of the product."""
    edit.acting(maker, node.path)
    kind = edit.type(weight)
    left, right = edit.parameter(b), edit.parameter(a)

    def add(suffix: str, op: Add | Mul | Matmul | Reshape | Constant, *inputs: Ref) -> Ref:
        path = edit.fresh(f"{node.path}.{suffix}")
        return edit.add(path, op, *inputs, phase=node.phase, origin=node.origin).value

    change = add(name, Matmul(), left, right)
    if scale != 1:
        change = add(f"{name}_scaled", Mul(), change, add(f"{name}_scale", Constant(scale, kind.dtype)))
    if kind.rank != 2:
        change = add(f"{name}_shaped", Reshape(kind.shape), change)
    return add(f"{name}_weight", Add(), weight, change)


def factors(matrix: Array, rank: int) -> tuple[Array, Array]:
    """`b [rows, rank]` and `a [rank, columns]`, whose product is the nearest of that rank. The vectors are those of the
    smaller side's Gram matrix: orthonormal to rounding, so that the product of full rank is the matrix."""
    import numpy

    if matrix.shape[0] <= matrix.shape[1]:
        left = numpy.linalg.eigh(matrix @ matrix.T)[1][:, ::-1][:, :rank]
        return left, left.T @ matrix
    right = numpy.linalg.eigh(matrix.T @ matrix)[1][:, ::-1][:, :rank]
    return matrix @ right, right.T


def elements(graph: Graph) -> int:
    """How many numbers the parameters of a model have, each counted once; buffers are none."""
    return sum(cast(int, p.type.elements) for p in graph.parameters.values() if not p.buffer)


def factor(like: Parameter, path: str, size: tuple[int, int], initialiser: Initialiser, seed: int) -> Parameter:
    """A new, trained matrix of a weight's dtype, drawn with a seed."""
    kind = TensorType(like.type.dtype, size)
    return filled(Parameter(path, kind, initialiser, origin=like.origin), seed)


def frozen(edit: Edit, *, but: set[str]) -> int:
    """Freeze every parameter except those; the number of elements that are frozen."""
    count = 0
    for parameter in edit.parameters():
        if parameter.path not in but and not parameter.buffer:
            edit.parameter(replace(parameter, trainable=False))
            count += cast(int, parameter.type.elements)
    return count
