"""Reductions over any axes, row by row or channel by channel as the axes are stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from ....compiler.operators import reduction as op
from ....compiler.types import Dim, TensorType, volume
from ..half import DTYPES
from ..index import flatten, literal
from ..kernel import Kernel, Pattern, View
from ..lower import Inputs, Lowering, Types, rules
from ..machine import Machine
from ..schedule.rows import KEY as ROWS
from ..schedule.tile import KEY as TILE
from ..tensor import Order, Tensor, logical
from ..untyped import build as T
from ..untyped import te, tirx
from .numeric import cast, const, dtype_of, is_float, is_nan, maximum, minimum
from .program import lines
from .tiling import channel_width


@dataclass(frozen=True)
class Monoid:
    """An associative operation and its neutral element."""

    name: str
    combine: Callable[[Any, Any], Any]
    neutral: Callable[[str], Any]

    def over(self, value: Any, axes: Sequence[Any]) -> Any:
        reducer = te.comm_reducer(self.combine, self.neutral, self.name)
        return reducer(value, axis=list(axes))


def _lowest(dtype: str) -> Any:
    return const(-inf, dtype) if "float" in dtype else tirx.min_value(dtype)


def _highest(dtype: str) -> Any:
    return const(inf, dtype) if "float" in dtype else tirx.max_value(dtype)


SUM = Monoid("sum", lambda a, b: a + b, lambda dtype: const(0, dtype))
PRODUCT = Monoid("prod", lambda a, b: a * b, lambda dtype: const(1, dtype))
MAX = Monoid("max", maximum, _lowest)
MIN = Monoid("min", minimum, _highest)


def lanes_of(length: Dim, machine: Machine) -> int:
    """Partial results to keep side by side when a row is reduced: a divisor of its length, 1 where there is none."""
    if not isinstance(length, int):
        return 1
    widths = [v * machine.lanes for v in (4, 2, 1)] + [w for w in (8, 4) if w < machine.lanes]
    return next((w for w in widths if length % w == 0), 1)


def row(
    kernel: Kernel, lead: Sequence[Any], length: Dim, element: Callable[..., Any], monoid: Monoid, name: str
) -> Callable[..., Any]:
    """Reduce `element(*lead index, k)` over k; gives a reader of the result by the lead index.

    A row that divides into vectors is reduced to one vector first: a chain of scalar additions would wait for each.
    """
    rows = {ROWS: len(lead)}
    lanes = lanes_of(length, kernel.machine)
    if lanes == 1:
        k = kernel.axis(length, "k")
        whole = kernel.stage(lead, lambda *i: monoid.over(element(*i, k.var), [k]), name, attributes=rows)
        return whole if lead else lambda: whole(literal(0))
    assert isinstance(length, int)
    k = kernel.axis(length // lanes, "k")
    part = kernel.stage(
        [*lead, lanes],
        lambda *i: monoid.over(element(*i[:-1], k.var * literal(lanes) + i[-1]), [k]),
        f"{name}_lanes",
        attributes=rows,
    )
    return _joined(kernel, lead, lanes, part, monoid, name)


def _joined(
    kernel: Kernel, lead: Sequence[Any], lanes: int, part: Callable[..., Any], monoid: Monoid, name: str
) -> Callable[..., Any]:
    """`part(*lead index, lane)` of all lanes combined: whole vectors with each other, then one vector pair by pair."""
    kept = {ROWS: len(lead), "netc.keep": 1}
    vector = min(lanes, kernel.machine.lanes)
    if lanes > vector:
        folded = kernel.stage(
            [*lead, vector],
            lambda *i: _tree([part(*i[:-1], i[-1] + literal(v)) for v in range(0, lanes, vector)], monoid),
            f"{name}_vector",
            attributes=kept,
        )
    else:
        folded = part
    whole = kernel.stage(
        lead, lambda *i: _tree([folded(*i, literal(v)) for v in range(vector)], monoid), name, attributes=kept
    )
    return whole if lead else lambda: whole(literal(0))


def _tree(values: list[Any], monoid: Monoid) -> Any:
    while len(values) > 1:
        half = len(values) // 2
        values = [monoid.combine(a, b) for a, b in zip(values[:half], values[half:], strict=True)]
    return values[0]


def reduce(
    low: Lowering,
    name: str,
    inputs: Sequence[Tensor],
    dims: Sequence[int],
    type: TensorType,
    monoid: Monoid,
    *,
    keepdim: bool,
    element: Callable[..., Any] | None = None,
    finish: Callable[[Kernel, Any], Any] | None = None,
    dtype: str | None = None,
) -> Tensor:
    """Reduce `element(index, *views)` (by default the first input) over `dims` of the first input.

    `finish` is applied to each result, which is accumulated in `dtype`.
    """
    x = inputs[0]
    dtype = dtype or DTYPES[x.type.dtype]
    kept = [a for a in x.order if a not in dims]
    order = _renumbered(kept)
    bare = TensorType(type.dtype, tuple(d for a, d in enumerate(x.type.shape) if a not in dims))
    gone = [a for a in x.order if a in dims]
    tail = next((a for a in reversed(x.order) if x.type.shape[a] != 1), None)
    channels = tail is not None and tail in kept

    def body(kernel: Kernel, *views: View) -> Any:
        def value(place: Sequence[Any], steps: Sequence[Any]) -> Any:
            index = logical((*kept, *gone), [*place, *steps])
            return cast(element(index, *views) if element else views[0][index], dtype)

        lead = [x.type.shape[a] for a in kept]
        if channels:
            total = _by_channel(kernel, lead, [x.type.shape[a] for a in gone], value, monoid)
        else:
            total = _by_row(kernel, lead, [x.type.shape[a] for a in gone], value, monoid)

        def result(*index: Any) -> Any:
            found = total(*(index[a] for a in order))
            return cast(finish(kernel, found) if finish else found, DTYPES[type.dtype])

        return kernel.stage(bare.shape, result, order=order)

    pattern = Pattern.FUSABLE if len(inputs) > 1 or finish else Pattern.REDUCTION
    made = low.kernel(name, inputs, [bare], body, pattern=pattern, orders=[order])[0]
    return low.reshape(made, type) if keepdim else made


def _renumbered(kept: Sequence[int]) -> Order:
    """The order of the axes that stay, by their numbers among themselves."""
    return tuple(sorted(kept).index(a) for a in kept)


def _by_channel(
    kernel: Kernel, lead: Sequence[Dim], gone: Sequence[Dim], value: Callable[..., Any], monoid: Monoid
) -> Callable[..., Any]:
    last = lead[-1]
    width = channel_width(last, kernel.machine) if isinstance(last, int) else 1
    steps = [kernel.axis(d, f"k{i}") for i, d in enumerate(gone)]
    return kernel.stage(
        lead,
        lambda *i: monoid.over(value(i, [s.var for s in steps]), steps),
        f"{kernel.name}_all",
        attributes={TILE: f"1 {width} batch"},
    )


def _by_row(
    kernel: Kernel, lead: Sequence[Dim], gone: Sequence[Dim], value: Callable[..., Any], monoid: Monoid
) -> Callable[..., Any]:
    """The innermost reduced axis runs in vectors, the outer ones step by step."""
    lanes = lanes_of(gone[-1], kernel.machine) if gone else 1
    rows = {ROWS: len(lead)}
    outer = [kernel.axis(d, f"k{i}") for i, d in enumerate(gone[:-1])]
    places = [s.var for s in outer]
    name = f"{kernel.name}_all"
    if lanes == 1:
        last = kernel.axis(gone[-1] if gone else 1, "k")
        inner = [last.var] if gone else []
        whole = kernel.stage(
            lead, lambda *i: monoid.over(value(i, [*places, *inner]), [*outer, last]), name, attributes=rows
        )
    else:
        length = gone[-1]
        assert isinstance(length, int)
        k = kernel.axis(length // lanes, "k")
        part = kernel.stage(
            [*lead, lanes],
            lambda *i: monoid.over(value(i[:-1], [*places, k.var * literal(lanes) + i[-1]]), [*outer, k]),
            f"{name}_lanes",
            attributes=rows,
        )
        return _joined(kernel, lead, lanes, part, monoid, name)
    return whole if lead else lambda: whole(literal(0))


def arg_extreme(
    low: Lowering, name: str, x: Tensor, dims: Sequence[int], type: TensorType, *, largest: bool, keepdim: bool
) -> Tensor:
    """The index of the first largest (smallest) element along one axis, or of all elements in row-major order.

    A NaN is both the largest and the smallest.
    """
    kept = [a for a in x.order if a not in dims]
    order = _renumbered(kept)
    bare = TensorType(type.dtype, tuple(d for a, d in enumerate(x.type.shape) if a not in dims))

    def combine(a: Sequence[Any], b: Sequence[Any]) -> tuple[Any, Any]:
        better, same = a[1] > b[1] if largest else a[1] < b[1], tirx.EQ(a[1], b[1])
        if is_float(a[1]):
            better = tirx.Or(better, tirx.And(is_nan(a[1]), tirx.Not(is_nan(b[1]))))
            same = tirx.Or(same, tirx.And(is_nan(a[1]), is_nan(b[1])))
        first = tirx.Or(better, tirx.And(same, a[0] < b[0]))
        return tirx.Select(first, a[0], b[0]), tirx.Select(first, a[1], b[1])

    def neutral(index: str, value: str) -> tuple[Any, Any]:
        return tirx.max_value(index), (_lowest if largest else _highest)(value)

    reducer = te.comm_reducer(combine, neutral, name)
    dtype = DTYPES[x.type.dtype]

    def body(kernel: Kernel, x: View) -> Any:
        steps = [kernel.axis(x.type.shape[a], f"k{a}") for a in dims]
        position = flatten([s.var for s in steps], [x.shape[a] for a in dims])
        lead = [x.type.shape[a] for a in kept]

        def found(*place: Any) -> Any:
            index = logical((*kept, *dims), [*place, *(s.var for s in steps)])
            return reducer((position, cast(x[index], dtype)), axis=steps)

        best, _ = kernel.stage(lead, found, f"{name}_all", attributes={ROWS: len(lead)})

        def result(*index: Any) -> Any:
            return best(*(index[a] for a in order)) if lead else best(literal(0))

        return kernel.stage(bare.shape, result, order=order)

    made = low.kernel(name, [x], [bare], body, pattern=Pattern.FUSABLE, orders=[order])[0]
    return low.reshape(made, type) if keepdim else made


def _dims(node: op.Reduction, x: Tensor) -> tuple[int, ...]:
    return tuple(sorted(d % x.type.rank for d in node.dim)) if node.dim else tuple(range(x.type.rank))


@rules(op.Sum, op.Prod, op.Max, op.Min)
def _reduction(low: Lowering, node: op.Reduction, inputs: Inputs, types: Types) -> Tensor:
    (x,) = inputs
    monoid = {"sum": SUM, "prod": PRODUCT, "max": MAX, "min": MIN}[node.name]
    dtype = DTYPES[types[0].dtype]
    return reduce(low, node.name, [x], _dims(node, x), types[0], monoid, keepdim=node.keepdim, dtype=dtype)


@rules(op.Mean)
def _mean(low: Lowering, node: op.Mean, inputs: Inputs, types: Types) -> Tensor:
    (x,) = inputs
    dims = _dims(node, x)
    return reduce(low, "mean", [x], dims, types[0], SUM, keepdim=node.keepdim, finish=share_of(x, dims))


def share_of(x: Tensor, dims: Sequence[int]) -> Callable[[Kernel, Any], Any]:
    """Divides a sum over these axes by their number of elements."""
    count = volume(x.type.shape[d] for d in dims)

    def share(kernel: Kernel, total: Any) -> Any:
        return total / cast(kernel.dim(count), dtype_of(total))

    return share


@rules(op.Argmax, op.Argmin)
def _arg(low: Lowering, node: op.Arg, inputs: Inputs, types: Types) -> Tensor:
    (x,) = inputs
    largest = isinstance(node, op.Argmax)
    return arg_extreme(low, node.name, x, (node.dim % x.type.rank,), types[0], largest=largest, keepdim=node.keepdim)


@rules(op.Cumsum)
def _cumsum(low: Lowering, node: op.Cumsum, inputs: Inputs, types: Types) -> Tensor:
    (x,) = inputs
    (type,) = types
    dim = node.dim % type.rank
    dtype = DTYPES[type.dtype]

    def write(kernel: Kernel, sources: list[Any], results: list[Any]) -> None:
        def line(place: list[Any]) -> None:
            total = T.alloc_buffer((1,), dtype)
            T.buffer_store(total, const(0, dtype), [literal(0)])
            with T.serial(literal(0), kernel.dim(type.shape[dim])) as k:
                at = [*place[:dim], k, *place[dim:]]
                T.buffer_store(total, total[literal(0)] + cast(sources[0][tuple(at)], dtype), [literal(0)])
                T.buffer_store(results[0], cast(total[literal(0)], DTYPES[type.dtype]), at)

        lines(kernel, [d for a, d in enumerate(type.shape) if a != dim], line)

    return low.program("cumsum", [x], [type], write)[0]


@rules(op.Topk)
def _topk(low: Lowering, node: op.Topk, inputs: Inputs, types: Types) -> tuple[Tensor, ...]:
    """A sorted list of the k best so far, into which each element is inserted: made for the small k of routing.

    A NaN is larger than all numbers.
    """
    (x,) = inputs
    dim = node.dim % x.type.rank

    def better(a: Any, b: Any) -> Any:
        more, less = (a, b) if node.largest else (b, a)
        if not is_float(a):
            return more > less
        return tirx.Or(more > less, tirx.And(is_nan(more), tirx.Not(is_nan(less))))

    def write(kernel: Kernel, sources: list[Any], results: list[Any]) -> None:
        def line(place: list[Any]) -> None:
            def at(k: Any) -> list[Any]:
                return [*place[:dim], k, *place[dim:]]

            values, indices = results
            with T.serial(literal(0), kernel.dim(x.type.shape[dim])) as i:
                given = sources[0][tuple(at(i))]
                last = literal(node.k - 1)
                enters = tirx.Or(i < literal(node.k), better(given, values[tuple(at(last))]))
                with T.If(enters), T.Then(), T.serial(literal(0), literal(node.k)) as step:
                    slot = last - step
                    before = tirx.max(slot - literal(1), literal(0))
                    here = tirx.Or(i <= slot, better(given, values[tuple(at(slot))]))
                    beyond = tirx.Or(i <= before, better(given, values[tuple(at(before))]))
                    with T.If(tirx.And(slot > literal(0), beyond)):
                        with T.Then():
                            T.buffer_store(indices, indices[tuple(at(before))], at(slot))
                            T.buffer_store(values, values[tuple(at(before))], at(slot))
                        with T.Else(), T.If(here), T.Then():
                            T.buffer_store(indices, i, at(slot))
                            T.buffer_store(values, given, at(slot))

        lines(kernel, [d for a, d in enumerate(x.type.shape) if a != dim], line)

    return low.program("topk", [x], list(types), write)
