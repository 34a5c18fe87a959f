"""Pieces of kernels that are written as loops and stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....compiler.types import Dim
from ..index import literal, unflatten
from ..kernel import Kernel
from ..untyped import build as T


def lines(kernel: Kernel, shape: Sequence[Dim], write: Callable[[list[Any]], None]) -> None:
    """`write` the statements for each index into `shape`, in parallel."""
    extents = [kernel.dim(d) for d in shape]
    total: Any = literal(1)
    for extent in extents:
        total = total * extent
    with T.parallel(literal(0), total) as position:
        write(unflatten(position, extents))
