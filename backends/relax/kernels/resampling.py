"""Rules of images at another size or place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....compiler.operators import resampling as op
from ....compiler.types import Dim
from ..half import DTYPES
from ..index import literal
from ..kernel import Kernel, Pattern, View
from ..lower import Inputs, Lowering, Types, rules
from ..tensor import Tensor, channels_last
from ..untyped import tirx
from .numeric import cast, const

Taps = list[tuple[Any, Any]]
"""Positions along one axis, and their weights."""


@rules(op.Interpolate)
def _interpolate(low: Lowering, node: op.Interpolate, inputs: Inputs, types: Types) -> Tensor:
    """The weighted sum over all axes' taps at once; taps of a place are the same for all its channels."""
    (x,) = inputs
    (type,) = types
    order = channels_last(type.rank)
    x = low.reorder(x, order)
    dtype = DTYPES[type.dtype]
    wide = dtype if dtype == "float64" else "float32"

    def body(kernel: Kernel, x: View) -> Any:
        def element(n: Any, c: Any, *place: Any) -> Any:
            taps = [
                _taps(kernel, node, wide, i, x.type.shape[a + 2], type.shape[a + 2], a) for a, i in enumerate(place)
            ]
            if node.mode == "nearest":
                return x[(n, c, *(axis[0][0] for axis in taps))]
            return cast(_weighted(lambda at: cast(x[(n, c, *at)], wide), taps), dtype)

        return kernel.stage(type.shape, element, order=order)

    return low.kernel("interpolate", [x], [type], body, pattern=Pattern.INJECTIVE, orders=[order])[0]


def _weighted(read: Callable[[list[Any]], Any], taps: Sequence[Taps], at: Sequence[Any] = ()) -> Any:
    """Sum over the taps of the first axis of their weight times the sum over the others."""
    if not taps:
        return read(list(at))
    total: Any = None
    for position, weight in taps[0]:
        term = weight * _weighted(read, taps[1:], [*at, position])
        total = term if total is None else total + term
    return total


def _taps(kernel: Kernel, node: op.Interpolate, dtype: str, i: Any, size: Dim, out: Dim, axis: int) -> Taps:
    """Where an output position reads along one axis, as `torch.nn.functional.interpolate` places it."""
    factor = None if node.scale_factor is None else node.scale_factor[axis]
    extent = kernel.dim(size)
    last = extent - literal(1)

    def c(value: float) -> Any:
        return const(value, dtype)

    def number(dim: Dim) -> Any:
        return c(float(dim)) if isinstance(dim, int) else cast(kernel.dim(dim), dtype)

    def quotient(a: Dim, b: Dim) -> Any:
        if isinstance(a, int) and isinstance(b, int):
            return c(a / b)
        return number(a) / tirx.max(number(b), c(1))

    def clamped(position: Any) -> Any:
        return tirx.max(tirx.min(position, last), literal(0))

    if size == out and factor in (None, 1):
        return [(i, c(1))]
    scale = c(1 / factor) if factor is not None else quotient(size, out)
    step = cast(i, dtype)
    if node.mode == "nearest":
        return [(clamped(cast(tirx.floor(step * scale), "int64")), c(1))]
    if node.align_corners:
        point = step * (c(0) if out == 1 else quotient(size - 1, out - 1))
    else:
        point = (step + c(0.5)) * scale - c(0.5)
    if node.mode != "bicubic":
        point = tirx.max(point, c(0))
    floor = tirx.floor(point)
    past = point - floor
    base = cast(floor, "int64")
    if node.mode == "bicubic":
        return [(clamped(base + literal(o)), w) for o, w in zip((-1, 0, 1, 2), cubic(past, dtype), strict=True)]
    return [(clamped(base), c(1) - past), (clamped(base + literal(1)), past)]


def cubic(past: Any, dtype: str) -> list[Any]:
    """Weights of the four neighbours of a point `past` the second, by cubic convolution with a = -0.75."""
    a = const(-0.75, dtype)
    c = lambda value: const(value, dtype)  # noqa: E731

    def near(d: Any) -> Any:
        return ((a + c(2)) * d - (a + c(3))) * d * d + c(1)

    def far(d: Any) -> Any:
        return ((a * d - a * c(5)) * d + a * c(8)) * d - a * c(4)

    return [far(past + c(1)), near(past), near(c(1) - past), far(c(2) - past)]
