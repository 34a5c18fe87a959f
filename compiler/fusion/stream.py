"""Which part of its inputs a part of a node's output reads: what lets a group be executed a few lines at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, cast

from ..axes.pattern import labels, read
from ..operators.attention import ScaledDotProductAttention
from ..operators.convolution import Convolution, Transposed
from ..operators.indexing import Pad
from ..operators.layout import Slice, Split
from ..operators.linear import Einsum
from ..operators.operator import Operator
from ..operators.pooling import Pooling
from ..operators.resampling import Interpolate, PixelShuffle, PixelUnshuffle
from ..operators.window import extent
from ..types import TensorType


class Window(NamedTuple):
    """Output line `o` reads the input lines from ⌊(o · scale + first) / divisor⌋ to ⌊(o · scale + last) / divisor⌋.

    Lines beyond the input's borders are padding and take no memory. Both ends grow with `o`.
    """

    scale: int = 1
    first: int = 0
    last: int = 0
    divisor: int = 1

    def lowest(self, line: Any) -> Any:
        """The first input line of an output line, or of each of an array of them."""
        return (line * self.scale + self.first) // self.divisor

    def highest(self, line: Any) -> Any:
        return (line * self.scale + self.last) // self.divisor


SAME = Window()
"""Each line is made of the one at its place."""


class Read(NamedTuple):
    """What one output line reads of an input: lines of its axis `axis`."""

    axis: int
    window: Window


Reads = tuple[Read | None, ...]
"""For each input of a node; None: all of it, whatever the line."""


@lru_cache(maxsize=65_536)
def reads(
    op: Operator, inputs: tuple[TensorType | None, ...], types: tuple[TensorType, ...], output: int, axis: int
) -> Reads | None:
    """What a line of an output reads, where lines lie along `axis`. None where the node makes no line alone.

    All sizes are known. An operator of which nothing is said here reads what its axis rule says: an axis of the same
    label line by line, others as a whole; where the label is mixed, ordered or fixed, as in statistics over it, no line
    is made alone.
    """
    for kind, rule in _RULES.items():
        if isinstance(op, kind):
            found = rule(op, inputs, types, output, axis)
            if found is not NotImplemented:
                return found
    return _by_label(op, inputs, output, axis)


def _by_label(op: Operator, inputs: tuple[TensorType | None, ...], output: int, axis: int) -> Reads | None:
    rule = op.axes(*inputs)
    present = sum(t is not None for t in inputs)
    pattern = read(rule.pattern, present)
    label = pattern.outputs[output][axis]
    if not isinstance(label, str) or label in rule.fixed or label in rule.ordered or label in rule.mixed:
        return None
    groups = iter(pattern.inputs)
    found: list[Read | None] = []
    for type in inputs:
        axes = next(groups) if type is not None else ()
        if label in axes and label != "1":
            found.append(Read(axes.index(label), SAME))
        elif label != "1" and any(label in labels(a) for a in axes):
            return None
        else:
            found.append(None)
    return tuple(found) if any(found) else None


def _convolution(op: Convolution, inputs: Any, types: Any, output: int, axis: int) -> Any:
    if axis < 2:
        return NotImplemented
    place = axis - 2
    reach = extent(int(inputs[1].shape[axis]), op.dilation[place])
    return _sliding(op, axis, reach, len(inputs))


def _pooling(op: Pooling, inputs: Any, types: Any, output: int, axis: int) -> Any:
    if axis < 2:
        return NotImplemented
    return _sliding(op, axis, extent(op.kernel_size[axis - 2], op.steps[axis - 2]), len(inputs))


def _sliding(op: Convolution | Pooling, axis: int, reach: int, count: int) -> Reads:
    before = op.padding[axis - 2][0]
    return (Read(axis, Window(op.stride[axis - 2], -before, reach - 1 - before)), *(None,) * (count - 1))


def _transposed(op: Transposed, inputs: Any, types: Any, output: int, axis: int) -> Any:
    """Input line i reaches the output lines i·s − p … i·s − p + reach − 1."""
    if axis < 2:
        return NotImplemented
    place = axis - 2
    reach = extent(int(inputs[1].shape[axis]), op.dilation[place])
    stride, before = op.stride[place], op.padding[place][0]
    window = Window(1, before - reach + stride, before, stride)
    return (Read(axis, window), *(None,) * (len(inputs) - 1))


def _interpolate(op: Interpolate, inputs: Any, types: Any, output: int, axis: int) -> Any:
    if axis < 2:
        return NotImplemented
    size, made = int(inputs[0].shape[axis]), int(types[output].shape[axis])
    if op.scale_factor is not None:
        return None
    if op.mode == "nearest":
        return (Read(axis, Window(size, 0, 0, made)),) if made % size == 0 or size % made == 0 else None
    before, after = (1, 2) if op.mode == "bicubic" else (0, 1)
    if op.align_corners:
        scale, first, divisor = (size - 1, 0, made - 1) if made > 1 else (0, 0, 1)
    else:
        scale, first, divisor = 2 * size, size - made, 2 * made
    return (Read(axis, Window(scale, first - before * divisor, first + after * divisor, divisor)),)


def _pad(op: Pad, inputs: Any, types: Any, output: int, axis: int) -> Any:
    before, after = op.padding[axis]
    if op.mode != "constant" and (before or after):
        return None
    return (Read(axis, Window(1, -int(cast(int, before)), -int(cast(int, before)))),)


def _slice(op: Slice, inputs: Any, types: Any, output: int, axis: int) -> Any:
    if axis != op.dim:
        return NotImplemented
    start = int(cast(int, op.start))
    return (Read(axis, Window(op.step, start, start)),)


def _split(op: Split, inputs: Any, types: Any, output: int, axis: int) -> Any:
    if axis != op.dim:
        return NotImplemented
    start = sum(int(t.shape[axis]) for t in types[:output])
    return (Read(axis, Window(1, start, start)),)


def _shuffle(op: PixelShuffle, inputs: Any, types: Any, output: int, axis: int) -> Any:
    if axis < types[0].rank - 2:
        return NotImplemented
    return (Read(axis, Window(1, 0, 0, op.upscale_factor)),)


def _unshuffle(op: PixelUnshuffle, inputs: Any, types: Any, output: int, axis: int) -> Any:
    if axis < types[0].rank - 2:
        return NotImplemented
    return (Read(axis, Window(op.downscale_factor, 0, op.downscale_factor - 1)),)


def _attention(op: ScaledDotProductAttention, inputs: Any, types: Any, output: int, axis: int) -> Any:
    """Features of the values alone would take all scores each time."""
    return None if axis == 3 else NotImplemented


def _einsum(op: Einsum, inputs: Any, types: Any, output: int, axis: int) -> Any:
    """Of several products, the first would be computed for each line again."""
    return None if len(inputs) > 2 else NotImplemented


_RULES: dict[type[Operator], Callable[..., Any]] = {
    Convolution: _convolution,
    Transposed: _transposed,
    Pooling: _pooling,
    Interpolate: _interpolate,
    Pad: _pad,
    Slice: _slice,
    Split: _split,
    PixelShuffle: _shuffle,
    PixelUnshuffle: _unshuffle,
    ScaledDotProductAttention: _attention,
    Einsum: _einsum,
}
"""Rules of operators whose lines are not made each of the one at its place; NotImplemented where an axis is no such."""
