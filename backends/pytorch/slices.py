"""Operators on slices: a part of a node's output, computed from the parts of its inputs that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import gcd
from typing import Any, cast

import torch
from torch.nn import functional

from ...compiler.axes.pattern import Axis, read, solve
from ...compiler.fusion.stream import Read, reads
from ...compiler.graph import Graph, Node, Value
from ...compiler.operators.convolution import Convolution, Transposed
from ...compiler.operators.indexing import Pad
from ...compiler.operators.layout import Slice, Split
from ...compiler.operators.operator import Operator
from ...compiler.operators.pooling import AvgPooling, MaxPooling, Pooling
from ...compiler.operators.resampling import Interpolate, PixelShuffle
from ...compiler.operators.window import extent
from ...compiler.types import Dim, TensorType
from .forward import DTYPES
from .interpreter import Interpreter
from .module import operation

Span = tuple[int, int]
"""From the first line to before the last."""

Region = Mapping[int, Span]
"""A part of a tensor: spans of some of its axes; of the others, all."""

Fetch = Callable[[int, Region], torch.Tensor]
"""Gives a region of an operand."""

_TYPES = {getattr(torch, name): dtype for dtype, name in DTYPES.items()}


def cut(tensor: torch.Tensor, region: Region) -> torch.Tensor:
    """A region of a tensor, in its memory."""
    for axis, (start, stop) in region.items():
        tensor = tensor.narrow(axis, start, stop - start)
    return tensor


def compute(graph: Graph, value: Value, region: Region, fetch: Fetch) -> tuple[torch.Tensor, ...]:
    """A region of one output of a node, alone in a tuple; where no axis is cut, all outputs.

    Operands are asked for by the regions that `stream.reads` names. Axes along which the node makes no line alone are
    computed as a whole and cut afterwards.
    """
    node = graph.nodes[value.node]
    types = graph.input_types(node)
    type = node.types[value.index]
    shape = [region[i][1] - region[i][0] if i in region else int(str(d)) for i, d in enumerate(type.shape)]
    if 0 in shape:
        return (torch.empty(shape, dtype=getattr(torch, DTYPES[type.dtype])),)
    if isinstance(node.op, Pooling) and any(axis >= 2 for axis in region):
        # Padding and partial windows are made by hand, along all axes or none.
        whole = {axis: (0, int(str(size))) for axis, size in enumerate(node.types[0].shape) if axis >= 2}
        region = {**whole, **region}
    found = {axis: reads(node.op, types, node.types, value.index, axis) for axis in region}
    piece = _Piece(node, types, value.index, {axis: region[axis] for axis, read in found.items() if read is not None})
    for axis, each in found.items():
        for operand, one in enumerate(each or ()):
            if one is not None:
                piece.need(operand, axis, one)
    present = [i for i, ref in enumerate(node.inputs) if ref is not None]
    tensors: list[torch.Tensor | None] = [None] * len(types)
    for i in present:
        tensors[i] = fetch(i, piece.asked[i])
    if not region:
        return evaluate(node.op, tensors)
    result = cut(piece.made(tensors), {axis: span for axis, span in region.items() if found[axis] is None})
    if list(result.shape) != shape:
        raise AssertionError(f"{node.op.name} at %{node.path} made {list(result.shape)} where {shape} were asked for")
    return (result,)


def evaluate(op: Operator, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
    """All outputs of an operator, by PyTorch's rules of it."""
    types = tuple(None if t is None else TensorType(_TYPES[t.dtype], tuple(t.shape)) for t in inputs)
    given = {f"x{i}": t for i, t in enumerate(inputs) if t is not None}
    return tuple(_interpreter(op, types).tensors(given).values())


@lru_cache(maxsize=16_384)
def _interpreter(op: Operator, types: tuple[TensorType | None, ...]) -> Interpreter:
    return Interpreter(operation(op, types))


@dataclass
class _Reach:
    """What is read along an axis of an operand: `start` … `stop` with padding, of which `before` and `after` lines lie
    beyond its borders."""

    start: int
    stop: int
    before: int
    after: int

    @property
    def inside(self) -> Span:
        return self.start + self.before, self.stop - self.after


class _Piece:
    """A region of a node's output in the making."""

    def __init__(self, node: Node, types: Sequence[TensorType | None], output: int, region: Region) -> None:
        self.node = node
        self.types = types
        self.output = output
        self.region = region
        self.asked: list[dict[int, Span]] = [{} for _ in types]
        self.reach: dict[int, _Reach] = {}
        """By axis of the output, for the first operand."""
        self.axes: dict[int, int] = {}
        """The axis of the first operand that each axis of the output reads along."""

    def need(self, operand: int, axis: int, found: Read) -> None:
        """Add what an axis of the region reads along an axis of an operand."""
        type = self.types[operand]
        assert type is not None
        size = int(str(type.shape[found.axis]))
        start, stop = self.region[axis]
        low, high = found.window.lowest(start), found.window.highest(stop - 1) + 1
        before = min(max(0, -low), high - low)
        after = min(max(0, high - size), high - low - before)
        reach = _Reach(low, high, before, after)
        self.asked[operand][found.axis] = reach.inside if before + after < high - low else (0, 0)
        if operand == 0:
            self.reach[axis] = reach
            self.axes[axis] = found.axis

    def made(self, tensors: list[torch.Tensor | None]) -> torch.Tensor:
        for kind, rule in _RULES.items():
            if isinstance(self.node.op, kind):
                return rule(self, tensors)
        return evaluate(self._resized(tensors), tensors)[self.output]

    def _resized(self, tensors: Sequence[torch.Tensor | None]) -> Operator:
        """The operator for slices of these sizes: attributes that hold sizes follow."""
        op = self.node.op
        if type(op).resized is Operator.resized:
            return op
        rule = op.axes(*self.types)
        given = [t for t in tensors if t is not None]
        pattern = read(rule.pattern, len(given))
        outputs = list(self.node.types)
        shape = [self.region[i][1] - self.region[i][0] if i in self.region else d for i, d in self._shape()]
        outputs[self.output] = TensorType(outputs[self.output].dtype, tuple(shape))
        places: list[tuple[Axis, Dim]] = []
        for axes, tensor in zip(pattern.inputs, given, strict=True):
            places.extend(zip(axes, tensor.shape, strict=True))
        places.extend(zip(pattern.outputs[self.output], shape, strict=True))
        return op.resized(solve(places, rule.sizes), tuple(outputs))

    def _shape(self) -> list[tuple[int, Dim]]:
        return list(enumerate(self.node.types[self.output].shape))

    def filled(self, x: torch.Tensor | None, value: float) -> torch.Tensor:
        """The first operand with lines beyond its borders."""
        assert x is not None
        amounts = [0, 0] * x.ndim
        for axis, reach in self.reach.items():
            place = 2 * (x.ndim - 1 - self.axes[axis])
            amounts[place : place + 2] = reach.before, reach.after
        return functional.pad(x, amounts, value=value) if any(amounts) else x

    def without_padding(self) -> Any:
        """The operator without padding along the axes that are cut."""
        op: Any = self.node.op
        offset = 2 if op.name != "pad" else 0
        padding = [(0, 0) if i + offset in self.region else pair for i, pair in enumerate(op.padding)]
        return replace(op, padding=tuple(padding))


Tensors = list[Any]


def _convolution(piece: _Piece, tensors: Tensors) -> torch.Tensor:
    (result,) = evaluate(piece.without_padding(), [piece.filled(tensors[0], 0.0), *tensors[1:]])
    return result


def _max_pool(piece: _Piece, tensors: Tensors) -> torch.Tensor:
    x = piece.filled(tensors[0], float("-inf"))
    op = piece.without_padding()
    return evaluate(replace(op, ceil_mode=False) if 2 in piece.region else op, [x])[0]


def _avg_pool(piece: _Piece, tensors: Tensors) -> torch.Tensor:
    """What lies beyond the borders adds nothing; whether it counts is made good afterwards."""
    op = cast(AvgPooling, piece.node.op)
    x = piece.filled(tensors[0], 0.0)
    if 2 not in piece.region:
        return evaluate(op, [x])[0]
    (result,) = evaluate(replace(piece.without_padding(), ceil_mode=False), [x])
    type = piece.types[0]
    assert type is not None
    for place, (kernel, stride, pair) in enumerate(zip(op.kernel_size, op.stride, op.padding, strict=True)):
        size, (start, stop) = int(str(type.shape[place + 2])), piece.region[place + 2]
        left, right = pair if op.count_include_pad else (0, 0)
        first = [line * stride - pair[0] for line in range(start, stop)]
        counts = [min(f + kernel, size + right) - max(f, -left) for f in first]
        share = torch.tensor([kernel / count for count in counts], dtype=result.dtype)
        result = result * share.reshape(-1, *[1] * (result.ndim - 3 - place))
    return result


def _transposed(piece: _Piece, tensors: Tensors) -> torch.Tensor:
    """Lines that reach nothing of the region are zeros; what they would make besides is cut off."""
    op: Any = piece.node.op
    x, weight = tensors[0], tensors[1]
    padding, more, crop = list(op.padding), list(op.output_padding), dict[int, Span]()
    for axis, (start, stop) in piece.region.items():
        if axis < 2:
            continue
        place = axis - 2
        stride, before, reach = op.stride[place], padding[place][0], extent(weight.shape[axis], op.dilation[place])
        have = piece.asked[0][axis] if axis in piece.asked[0] else (0, x.shape[axis])
        have = have if have[0] < have[1] else ((start + before) // stride,) * 2
        low = min(have[0], (start + before) // stride)
        high = max(have[1], low + 1, -((reach - stop - before) // stride) + 1)
        amounts = [0, 0] * x.ndim
        at = 2 * (x.ndim - 1 - axis)
        amounts[at : at + 2] = have[0] - low, high - have[1]
        x = functional.pad(x, amounts)
        padding[place], more[place] = (0, 0), 0
        offset = start - (low * stride - before)
        crop[axis] = (offset, offset + stop - start)
    made = replace(op, padding=tuple(padding), output_padding=tuple(more))
    return cut(evaluate(made, [x, *tensors[1:]])[0], crop)


def _interpolate(piece: _Piece, tensors: Tensors) -> torch.Tensor:
    """Sizes are in the ratio P : Q, so that P lines of output stand over Q lines of input alike everywhere: the lines
    are placed in blocks of Q, with blocks around that are not read."""
    op: Any = piece.node.op
    (x,) = tensors
    size, crop = list(op.size), dict[int, Span]()
    for axis, (start, stop) in piece.region.items():
        if axis < 2:
            continue
        type = piece.types[0]
        assert type is not None
        given, made = int(str(type.shape[axis])), int(op.size[axis - 2])
        ends = 1 if op.align_corners else 0
        common = gcd(given - ends, made - ends)
        if common == 0:  # corners that are all: one line, from or to one line
            continue
        q, p = (given - ends) // common, (made - ends) // common
        low, high = piece.asked[0][axis]
        begin, end = max(0, min(low // max(q, 1), start // max(p, 1)) - 2), common
        if q:
            end = min(end, -(-max(high, q) // q) + 2)
        if p:
            end = min(common, max(end, -(-stop // p) + 1))
        amounts = [0, 0] * x.ndim
        at = 2 * (x.ndim - 1 - axis)
        amounts[at : at + 2] = low - begin * q, end * q + ends - high
        x = functional.pad(x, amounts)
        size[axis - 2] = (end - begin) * p + ends
        crop[axis] = (start - begin * p, stop - begin * p)
    return cut(evaluate(replace(op, size=tuple(size)), [x])[0], crop)


def _pad(piece: _Piece, tensors: Tensors) -> torch.Tensor:
    op = cast(Pad, piece.node.op)
    return evaluate(piece.without_padding(), [piece.filled(tensors[0], op.value)])[0]


def _slice(piece: _Piece, tensors: Tensors) -> torch.Tensor:
    op = cast(Slice, piece.node.op)
    (x,) = tensors
    return evaluate(replace(op, start=0, stop=x.shape[op.dim]) if op.dim in piece.region else op, [x])[0]


def _split(piece: _Piece, tensors: Tensors) -> torch.Tensor:
    op = cast(Split, piece.node.op)
    return tensors[0] if op.dim in piece.region else evaluate(op, tensors)[piece.output]


def _shuffle(piece: _Piece, tensors: Tensors) -> torch.Tensor:
    op = cast(PixelShuffle, piece.node.op)
    crop: dict[int, Span] = {}
    for axis, (start, stop) in piece.region.items():
        if axis in piece.reach and axis >= tensors[0].ndim - 2:
            first = piece.asked[0][axis][0] * op.upscale_factor
            crop[axis] = (start - first, stop - first)
    return cut(evaluate(op, tensors)[0], crop)


_RULES: dict[type[Operator], Callable[[_Piece, Tensors], torch.Tensor]] = {
    Convolution: _convolution,
    Transposed: _transposed,
    MaxPooling: _max_pool,
    AvgPooling: _avg_pool,
    Interpolate: _interpolate,
    Pad: _pad,
    Slice: _slice,
    Split: _split,
    PixelShuffle: _shuffle,
}
"""Operators whose attributes have to follow where the borders are."""
