"""Products of tiles, written out: what kernels that keep their intermediates in cache are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from ..index import literal
from ..machine import Machine
from ..untyped import build as T
from .numeric import zero


def product(
    steps: Sequence[Any],
    height: int,
    width: int,
    machine: Machine,
    dtype: str,
    *,
    left: Callable[..., Any],
    right: Callable[..., Any],
    store: Callable[[int, Any, Any], None],
    start: Callable[[int, Any], Any] | None = None,
) -> None:
    """Statements that accumulate `left(i, *k) · right(*k, j)` over k in registers, and store the sums.

    `height` rows i, known when the code is made, by `width` columns j, whole vectors; k goes through loops of
    `steps`. `right` and `start`, the values to begin with, are read along a vector at a time, and so `store(i, j,
    value)` is called.
    """
    vectors, lanes = width // machine.lanes, literal(machine.lanes)
    sums = T.alloc_buffer((height, vectors, machine.lanes), dtype, scope="local")
    tiles = [(i, v) for i in range(height) for v in range(vectors)]
    for i, v in tiles:
        with T.vectorized(literal(0), lanes) as lane:
            first = start(i, literal(v) * lanes + lane) if start else zero(dtype)
            T.buffer_store(sums, first, [literal(i), literal(v), lane])
    with ExitStack() as loops:
        k = [loops.enter_context(T.serial(literal(0), extent)) for extent in steps]
        for i, v in tiles:
            with T.vectorized(literal(0), lanes) as lane:
                at = [literal(i), literal(v), lane]
                T.buffer_store(sums, sums[tuple(at)] + left(i, *k) * right(*k, literal(v) * lanes + lane), at)
    for i, v in tiles:
        with T.vectorized(literal(0), lanes) as lane:
            store(i, literal(v) * lanes + lane, sums[literal(i), literal(v), lane])


def register_tile(columns: int, machine: Machine, *, rows: int | None = None) -> tuple[int, int]:
    """Rows × columns to accumulate at once, the columns a divisor of `columns`, the rows one of `rows`.

    The one that loads least for its arithmetic.
    """
    best, choice = 0.0, (1, machine.lanes)
    count = columns // machine.lanes
    for vectors in (v for v in (2, 4, 1, 3) if count % v == 0):
        most = machine.accumulators // vectors
        height = most if rows is None else max(h for h in range(1, most + 1) if rows % h == 0)
        score = min(1.0, height * vectors / 12) * height * vectors / (height + vectors)
        if score > best:
            best, choice = score, (height, vectors * machine.lanes)
    return choice
