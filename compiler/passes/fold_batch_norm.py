"""Fold the batch norm that follows a convolution or linear layer into its weight and bias."""

from __future__ import annotations

from ..graph import Edit, Graph, Node, ParameterRef, Ref, Value
from ..operators.arithmetic import Add, Mul, Neg, Rsqrt, Sub
from ..operators.convolution import Convolution, Transposed
from ..operators.creation import Constant
from ..operators.layout import Reshape
from ..operators.linear import Linear
from ..operators.normalization import BatchNorm
from ..operators.operator import Operator
from ..types import Shape


def fold_batch_norm(graph: Graph) -> Graph:
    """The graph of inference without batch norms right after a convolution, transposed convolution or linear layer.

    Before: `%y = conv2d(%x, @w, @b)` and `%z = batch_norm(%y, @gamma, @beta, @mean, @var)`; after: `%y = conv2d(%x,
    @w * s, (@b - @mean) * s + @beta)` with `s = @gamma / √(@var + eps)`, all of it constant.

    Refuses a batch norm whose input has another reader (the convolution would be needed twice), whose statistics are
    no parameters, and one after a grouped transposed convolution or a linear layer over more than `[N, features]`.
    """
    edit = graph.edit("fold_batch_norm")
    for node in graph.nodes.values():
        source = _foldable(graph, node)
        if source is not None:
            _fold(edit, source, node)
    return edit.done()


def _foldable(graph: Graph, node: Node) -> Node | None:
    """The layer that a batch norm can be folded into."""
    read = node.inputs[0] if node.inputs else None
    if not isinstance(node.op, BatchNorm) or not isinstance(read, Value):
        return None
    if not all(isinstance(i, ParameterRef) for i in node.inputs[1:] if i is not None):
        return None
    kept = {*graph.outputs.values(), *graph.taps.values()}
    source = graph.nodes[read.node]
    if len(graph.users[read]) > 1 or read in kept:
        return None
    if isinstance(source.op, Transposed):
        return source if source.op.groups == 1 else None
    if isinstance(source.op, Linear):
        return source if source.types[0].rank == 2 else None
    return source if isinstance(source.op, Convolution) else None


def _fold(edit: Edit, source: Node, norm: Node) -> None:
    assert isinstance(norm.op, BatchNorm)
    _, gamma, beta, mean, variance = norm.inputs
    assert mean is not None
    assert variance is not None

    def emit(op: Operator, *inputs: Ref) -> Ref:
        path = edit.fresh(f"{norm.path}.{op.name}")
        op = op.canonical(*(edit.type(i) for i in inputs))
        return edit.add(path, op, *inputs, phase=norm.phase, origin=norm.origin).value

    kind = edit.type(variance)
    scale = emit(Rsqrt(), emit(Add(), variance, emit(Constant(norm.op.eps, kind.dtype))))
    if gamma is not None:
        scale = emit(Mul(), scale, gamma)
    inputs = [*source.inputs, None]
    weight, bias = inputs[1:3]
    assert weight is not None
    centred = emit(Sub(), bias, mean) if bias is not None else emit(Neg(), mean)
    moved = emit(Mul(), centred, scale)
    if beta is not None:
        moved = emit(Add(), moved, beta)
    spread = emit(Reshape(_spread(source, edit.type(weight).rank)), scale)
    edit.set(source.path, inputs=[inputs[0], emit(Mul(), weight, spread), moved])
    edit.redirect(norm.value, source.value)
    edit.remove(norm.path)


def _spread(source: Node, rank: int) -> Shape:
    """The shape in which the output channels lie along the weight's axis for them."""
    axis = 1 if isinstance(source.op, Transposed) else 0
    channels = source.types[0].shape[1]
    return tuple(channels if i == axis else 1 for i in range(rank))
