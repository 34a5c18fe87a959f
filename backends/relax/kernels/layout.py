"""Rules that move numbers: most only change how a value is seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....compiler.operators import layout as op
from ....compiler.types import Dim, TensorType
from ..index import literal
from ..kernel import View
from ..lower import Inputs, Lowering, Types, rules
from ..tensor import Tensor
from ..untyped import tirx


@rules(op.Reshape)
def _reshape(low: Lowering, node: op.Reshape, inputs: Inputs, types: Types) -> Tensor:
    return low.reshape(inputs[0], types[0])


@rules(op.Permute)
def _permute(low: Lowering, node: op.Permute, inputs: Inputs, types: Types) -> Tensor:
    (x,) = inputs
    return low.renamed(x, [d % x.type.rank for d in node.dims])


@rules(op.Expand)
def _expand(low: Lowering, node: op.Expand, inputs: Inputs, types: Types) -> Tensor:
    (x,) = inputs
    (type,) = types
    new = type.rank - x.type.rank
    repeated = [d == 1 for d in x.type.shape]
    order = (*range(new), *(a + new for a in x.order))

    def place(index: Sequence[Any], _: Any) -> list[Any]:
        return [literal(0) if once else i for i, once in zip(index[new:], repeated, strict=True)]

    return low.view(x, type, order, place)


@rules(op.Slice)
def _slice(low: Lowering, node: op.Slice, inputs: Inputs, types: Types) -> Tensor:
    (x,) = inputs
    assert node.stop is not None
    low.require(node.stop, x.type.shape[node.dim])
    return part(low, x, types[0], node.dim, node.start, node.step)


@rules(op.Split)
def _split(low: Lowering, node: op.Split, inputs: Inputs, types: Types) -> tuple[Tensor, ...]:
    (x,) = inputs
    start: Dim = 0
    parts: list[Tensor] = []
    for type in types:
        parts.append(part(low, x, type, node.dim, start))
        start = start + type.shape[node.dim]
    return tuple(parts)


def part(low: Lowering, x: Tensor, type: TensorType, dim: int, start: Dim, step: int = 1) -> Tensor:
    """Every `step`-th slice along `dim` from `start`: a view, or a copy where readers would jump from lane to lane."""
    if x.type.shape == type.shape:
        return x

    def place(index: Sequence[Any], dims: Any) -> list[Any]:
        at = index[dim] * literal(step) + dims.dim(start)
        return [*index[:dim], at, *index[dim + 1 :]]

    seen = low.view(x, type, x.order, place)
    return low.stored(seen) if step > 1 and x.order[-1] == dim else seen


@rules(op.Concat)
def _concat(low: Lowering, node: op.Concat, inputs: Inputs, types: Types) -> Tensor:
    return concat(low, list(inputs), node.dim, types[0])


def concat(low: Lowering, tensors: Sequence[Tensor], dim: int, type: TensorType) -> Tensor:
    """The tensors one after the other along `dim`, stored as the first of them that is no constant."""
    if len(tensors) == 1:
        return tensors[0]
    order = next((t.order for t in tensors if not t.constant), tensors[0].order)
    starts: list[Dim] = [0]
    for t in tensors:
        starts.append(starts[-1] + t.type.shape[dim])

    def element(index: Sequence[Any], *views: View) -> Any:
        value: Any = None
        start: Any = index[dim]
        offset: Any = literal(0)
        reads: list[tuple[Any, Any]] = []
        for view in views:
            at = start - offset
            reads.append((at < view.shape[dim], view[[*index[:dim], at, *index[dim + 1 :]]]))
            offset = offset + view.shape[dim]
        for condition, read in reversed(reads):
            value = read if value is None else tirx.if_then_else(condition, read, value)
        return value

    return low.map("concat", list(tensors), type, element, order=order)
