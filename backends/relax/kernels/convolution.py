"""Convolution of any rank: channels last, weights packed by tiles of output channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from ....compiler.operators import convolution as op
from ....compiler.types import TensorType, volume
from ..choice import Fact, size
from ..dot import Dot
from ..dot import dot as dot_product
from ..index import literal
from ..kernel import Kernel, Pattern, View
from ..lower import Inputs, Lowering, Types, rules
from ..schedule.tile import DOT, SHARE, by_rows
from ..tensor import Tensor, channels_last
from ..untyped import te, tirx
from . import winograd
from .depthwise import depthwise
from .numeric import cast, const, zero
from .tiling import read, tiles, written
from .window import Pairs, padding_stage, pads, sizes, tiled, window
from .words import halves, numbers, packed


def convolve(
    low: Lowering,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    type: TensorType,
    *,
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    groups: int,
    dot: Dot | None = None,
    around: int = 0,
) -> Tensor:
    """`x` [N, C, *space] with `weight` [F, C/groups, *kernel]; the result is stored channels last.

    With a `dot`, of integers, the sums of its products; then what is `around` an image may be another than 0.
    """
    outputs, inputs, *taps = sizes(low, weight)
    if inputs == 1 and outputs == groups > 1:
        return depthwise(low, x, weight, bias, type, stride, padding, dilation)
    dot = dot or _halves(low, x, weight, groups)

    def places(space: Sequence[Any], steps: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        return window(space, steps, stride, dilation), [step.var for step in steps]

    facts = _facts(x, type, taps, stride, padding, dilation, groups, dot)
    once = all(n == 1 for n in (*stride, *dilation, groups)) and low.owner not in low.chains
    plans = winograd.plans(low, x, weight, type, dot.size if dot else 1) if once else []
    return _contract(low, "conv", x, weight, bias, type, padding, groups, taps, places, facts, plans, dot, around)


def can_dot(dot: Dot, weight: Sequence[int], groups: int) -> bool:
    """Whether a convolution goes by words: a group has whole ones, and whole vectors of outputs."""
    outputs, inputs = weight[:2]
    return groups == 1 or (inputs % dot.size == 0 and (outputs // groups) % 4 == 0)


def _halves(low: Lowering, x: Tensor, weight: Tensor, groups: int) -> Dot | None:
    dot = halves(low, x, weight)
    shape = sizes(low, weight)
    return dot if dot is not None and shape[1] > 1 and can_dot(dot, shape, groups) else None


def transpose_convolve(
    low: Lowering,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    type: TensorType,
    *,
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The transpose of a convolution, `weight` [C, F/groups, *kernel], as a gathering: no multiplication by zero.

    Place s of the result receives input i through tap k where s + padding = i · stride + k. So k runs over
    (s + padding) mod stride + j · stride, and i = ⌊(s + padding) / stride⌋ - j. A dilated kernel is spread out first.
    """
    spread, taps = _spread(low, weight, groups, stride, dilation)
    around: list[tuple[int, int]] = []
    for j, st, (before, _), n, out in zip(taps, stride, padding, x.type.shape[2:], type.shape[2:], strict=True):
        beyond = (out - 1 + before) // st - (n - 1)
        assert isinstance(beyond, int)
        around.append((max(0, j - 1 - before // st), max(0, beyond)))

    def places(space: Sequence[Any], steps: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        inputs, kernels = [], []
        for s, step, st, (before, _), (front, _) in zip(space, steps, stride, padding, around, strict=True):
            shifted = s + literal(before)
            inputs.append(tirx.floordiv(shifted, literal(st)) - step.var + literal(front))
            kernels.append(tirx.floormod(shifted, literal(st)) + step.var * literal(st))
        return inputs, kernels

    dot = _halves(low, x, spread, groups)
    facts = _facts(x, type, sizes(low, weight)[2:], stride, padding, dilation, groups, dot)
    return _contract(low, "conv_transpose", x, spread, bias, type, around, groups, taps, places, facts, dot=dot)


def _facts(
    x: Tensor,
    type: TensorType,
    taps: Sequence[int],
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    groups: int,
    dot: Dot | None,
) -> dict[str, Fact]:
    """What the speed of a convolution depends on."""
    return {
        "input": tuple(map(size, x.type.shape)), "output": tuple(map(size, type.shape)), "kernel": tuple(taps),
        "stride": tuple(stride), "padding": tuple(n for pair in padding for n in pair), "dilation": tuple(dilation),
        "groups": groups, "dtype": (x.kept if dot else type.dtype).value,
    }  # fmt: skip


def _spread(
    low: Lowering, weight: Tensor, groups: int, stride: Sequence[int], dilation: Sequence[int]
) -> tuple[Tensor, list[int]]:
    """The weight as `[F, C/groups, *kernel]` with the dilation's zeros, and the taps of each phase of the stride."""
    inputs, per_group, *kernel = sizes(low, weight)
    taps = [-(-((k - 1) * d + 1) // st) for k, d, st in zip(kernel, dilation, stride, strict=True)]
    each = inputs // groups

    def element(index: Sequence[Any], w: View) -> Any:
        f, c, *at = index
        exists = [
            condition
            for i, k, d in zip(at, kernel, dilation, strict=True)
            for condition in (tirx.floormod(i, literal(d)) == literal(0), i < literal(k * d))
        ]
        source = [tirx.floordiv(i, literal(d)) for i, d in zip(at, dilation, strict=True)]
        channel = tirx.floordiv(f, literal(per_group)) * literal(each) + c
        read = w[(channel, tirx.floormod(f, literal(per_group)), *source)]
        return tirx.if_then_else(tirx.all(*exists), read, zero(w.dtype))

    shape = (per_group * groups, each, *(j * st for j, st in zip(taps, stride, strict=True)))
    return low.map("spread", [weight], TensorType(weight.type.dtype, shape), element), taps


def _contract(
    low: Lowering,
    name: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    type: TensorType,
    padding: Pairs,
    groups: int,
    taps: Sequence[int],
    places: Callable[..., tuple[Sequence[Any], Sequence[Any]]],
    facts: Mapping[str, Fact],
    plans: Sequence[str] = (),
    dot: Dot | None = None,
    around: int = 0,
) -> Tensor:
    """Sum over taps and channels; `places` gives where a place of the result and taps lie in input and kernel.

    Unless another algorithm is chosen among `plans`.
    """
    outputs, inputs = sizes(low, weight)[:2]
    order = channels_last(type.rank)
    per_group = outputs // groups
    stride = facts["stride"]
    assert isinstance(stride, tuple)
    each = dot.size if dot else 1
    words = -(-inputs // each)
    apart = x.kept.bytes * inputs * groups * int(stride[-1])
    candidates = tiles(type.shape[-1], per_group, low.machine, apart=apart)
    if groups > 1:
        dividing = next(w for w in (4 * low.machine.lanes >> i for i in range(8)) if per_group % w == 0)
        candidates = [(height, min(dividing, 2 * low.machine.lanes)) for height, _ in candidates]
    rows = volume([type.shape[0], *type.shape[2:-1]])
    weights = 4 * prod(taps) * words * outputs
    first = by_rows(rows if isinstance(rows, int) else None, weights, "image", low.machine)
    space: dict[str, Sequence[str]] = {
        "tile": [written(tile) for tile in candidates],
        "share": ["rows", "columns"] if first else ["columns", "rows"],
    }
    if plans:
        space["algorithm"] = plans
    answer = low.choose(name, facts, space)
    plan = winograd.read(answer["algorithm"]) if plans else None
    if plan is not None:
        return winograd.winograd(low, x, weight, bias, type, padding, plan)
    if not pads(padding) and inputs % each == 0:
        x = low.reorder(x, order)
    height, width = read(answer["tile"])

    def body(kernel: Kernel, x: View, w: View, *bias: View) -> Any:
        x = x.kept() if dot else x
        dtype = x.dtype
        source = padding_stage(kernel, x, padding, const(around, dtype), words * each * groups)
        steps = [kernel.axis(n, f"k{i}") for i, n in enumerate(taps)]
        c = kernel.axis(words, "c")

        def product(n: Any, *place: Any) -> Any:
            *space, f = place
            at, tap = places(space, steps)
            factor = w[(f // literal(width), *tap, c.var, f % literal(width))]
            if dot is not None:
                # By tiles, of which a group has whole ones, so that all lanes of a vector see the same.
                group = f // literal(width) // literal(per_group // width) if groups > 1 else literal(0)
                word = group * literal(words) + c.var
                return te.sum(dot_product(dot, numbers(lambda i: source(n, *at, i), word, dot), factor), [*steps, c])
            channel = c.var if groups == 1 else f // literal(per_group) * literal(inputs) + c.var
            return te.sum(cast(source(n, *at, channel), dtype) * cast(factor, dtype), axis=[*steps, c])

        marks = {SHARE: answer["share"]} | ({DOT: 1} if dot else {})
        return tiled(kernel, type, product, bias, f"{height} {width} image", marks)

    weights_packed = packed(low, weight, width, dot) if dot else pack(low, weight, width)
    operands = [x, weights_packed, *([bias] if bias is not None else [])]
    return low.kernel(name, operands, [type], body, pattern=Pattern.FUSABLE, orders=[order])[0]


def pack(low: Lowering, weight: Tensor, width: int) -> Tensor:
    """`[F, C, *kernel]` as `[F/width, *kernel, C, width]`, surplus output channels zero."""
    outputs, inputs, *taps = sizes(low, weight)
    tiles = -(-outputs // width)

    def element(index: Sequence[Any], w: View) -> Any:
        tile, *at, c, lane = index
        f = tile * literal(width) + lane
        value = w[(f, c, *at)]
        return value if outputs % width == 0 else tirx.if_then_else(f < literal(outputs), value, zero(w.dtype))

    shape = (tiles, *taps, inputs, width)
    type = TensorType(weight.type.dtype, shape)
    key = ("pack", *weight.key, width)
    return low.once(key, lambda: low.map("pack", [weight], type, element))


@rules(op.ConvTranspose1d, op.ConvTranspose2d, op.ConvTranspose3d)
def _transposed(low: Lowering, node: op.Transposed, inputs: Inputs, types: Types) -> Tensor:
    x, weight, bias = inputs
    return transpose_convolve(
        low,
        x,
        weight,
        bias,
        types[0],
        stride=node.stride,
        padding=node.padding,
        dilation=node.dilation,
        groups=node.groups,
    )
