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
    parts: int = 0,
) -> None:
    """Statements that accumulate `left(i, *k) · right(*k, j)` over k in registers, and store the sums.

    `height` rows i, known when the code is made, by `width` columns j, whole vectors; k goes through loops of
    `steps`. `right` and `start`, the values to begin with, are read along a vector at a time, and so `store(i, j,
    value)` is called. With `parts`, each iteration of so many outermost loops is summed for itself and then added, for
    which registers should suffice twice over: errors grow with the root of the number of terms that are summed in turn.
    """
    vectors, lanes = width // machine.lanes, literal(machine.lanes)
    tiles = [(i, v) for i in range(height) for v in range(vectors)]

    def each(statement: Callable[[list[Any]], None]) -> None:
        for i, v in tiles:
            with T.vectorized(literal(0), lanes) as lane:
                statement([literal(i), literal(v), lane])

    def column(at: Sequence[Any]) -> Any:
        return at[1] * lanes + at[2]

    def sums() -> Any:
        return T.alloc_buffer((height, vectors, machine.lanes), dtype, scope="local")

    total = sums()
    each(lambda at: T.buffer_store(total, start(int(at[0]), column(at)) if start else zero(dtype), at))
    with ExitStack() as outer:
        k = [outer.enter_context(T.serial(literal(0), extent)) for extent in steps[:parts]]
        part = sums() if parts else total
        if parts:
            each(lambda at: T.buffer_store(part, zero(dtype), at))
        with ExitStack() as inner:
            k += [inner.enter_context(T.serial(literal(0), extent)) for extent in steps[parts:]]
            each(lambda at: T.buffer_store(part, part[tuple(at)] + left(int(at[0]), *k) * right(*k, column(at)), at))
        if parts:
            each(lambda at: T.buffer_store(total, total[tuple(at)] + part[tuple(at)], at))
    each(lambda at: store(int(at[0]), column(at), total[tuple(at)]))


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
