"""Pieces of kernels that are written as loops and stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....compiler.types import Dim, TensorType
from ..half import STORED
from ..index import literal, unflatten
from ..kernel import Kernel, Pattern, View
from ..lower import Lowering, buffer, whole
from ..schedule.block import STORES
from ..tensor import Order, Tensor, plain
from ..untyped import build as T
from ..untyped import builder as IRBuilder
from ..untyped import te


def lines(kernel: Kernel, shape: Sequence[Dim], write: Callable[[list[Any]], None]) -> None:
    """`write` the statements for each index into `shape`, in parallel."""
    extents = [kernel.dim(d) for d in shape]
    total: Any = literal(1)
    for extent in extents:
        total = total * extent
    with T.parallel(literal(0), total) as position:
        write(unflatten(position, extents))


def written(
    low: Lowering,
    name: str,
    inputs: Sequence[Tensor],
    type: TensorType,
    write: Callable[[Kernel, Sequence[View], Any], None],
    *,
    order: Order | None = None,
    pattern: Pattern = Pattern.OPAQUE,
) -> Tensor:
    """Call a kernel of loops and stores, which reads its inputs where they are: `write(kernel, views, result)`.

    `result` is a buffer stored in `order`, of the type that its dtype is kept in. A `FUSABLE` one stores every element
    of it once and reads none: element-wise followers are then computed at its stores (schedule/follow.py).
    """
    order = plain(type.rank) if order is None else order
    marks = {STORES: 1} if pattern is Pattern.FUSABLE else None

    def body(kernel: Kernel, *views: View) -> Any:
        sources = [view.tensor for view in views if view.tensor is not None]

        def statements(buffers: Sequence[Any], results: Sequence[Any]) -> Any:
            given = iter(buffers)
            read = [
                View(tensor, kernel, None if view.tensor is None else _reader(next(given)))
                for tensor, view in zip(inputs, views, strict=True)
            ]
            with IRBuilder() as builder:
                with T.seq_scope():  # lets several loops follow each other; its own mark means nothing and goes
                    write(kernel, read, results[0])
                return whole(name, builder.get().body, buffers, results, marks)

        extents = [kernel.dim(type.shape[a]) for a in order] or [literal(1)]
        return te.extern(
            [extents],
            sources,
            statements,
            name=name,
            dtype=STORED[type.dtype],
            in_buffers=[buffer(s.shape, s.dtype, s.op.name) for s in sources],
            out_buffers=[buffer(extents, STORED[type.dtype], "out")],
        )

    return low.kernel(name, inputs, [type], body, pattern=pattern, orders=[order], scheduled=True)[0]


def _reader(buffer: Any) -> Callable[..., Any]:
    return lambda *index: buffer[index]
