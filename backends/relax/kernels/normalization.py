"""Softmax and normalisations: several passes over a row that stays in cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....compiler.operators import normalization as op
from ....compiler.types import Dim, TensorType, volume
from ..half import DTYPES, single
from ..index import literal
from ..kernel import Kernel, Pattern, View
from ..lower import Inputs, Lowering, Types, rules
from ..tensor import Tensor, logical
from ..untyped import tirx
from .numeric import at_least, cast, const, decay, log
from .reduction import MAX, SUM, Monoid, reduce, row

TOP = Monoid("max", lambda a, b: tirx.max(a, b), MAX.neutral)
"""The largest element, quickly: whether it sees a NaN does not matter, since the sum of the powers does."""

FINITE_TOP = Monoid("max", TOP.combine, lambda dtype: tirx.min_value(dtype))
"""The same, where all may be -∞: a finite number, so that the difference to it stays -∞."""


def softmax(
    low: Lowering, x: Tensor, dim: int, type: TensorType, *, logarithm: bool = False, sparse: bool = False
) -> Tensor:
    """Softmax along `dim`, or its logarithm. Of nothing but -∞ it is NaN, or 0 where rows may be so (`sparse`)."""
    order = (*(a for a in x.order if a != dim), dim)
    x = low.reorder(x, order)
    lead, length = [x.type.shape[a] for a in order[:-1]], x.type.shape[dim]
    dtype = DTYPES[type.dtype]

    def body(kernel: Kernel, x: View) -> Any:
        def value(*place: Any) -> Any:
            return cast(x[logical(order, place)], dtype)

        top = row(kernel, lead, length, value, FINITE_TOP if sparse else TOP, "softmax_max")

        def above(*place: Any) -> Any:
            return value(*place) - top(*place[:-1])

        if logarithm:
            total = row(kernel, lead, length, lambda *i: decay(above(*i)), SUM, "softmax_sum")
            logs = kernel.stage(lead, lambda *i: log(total(*i)), "softmax_log") if lead else lambda: log(total())
            result = lambda *i: above(*i) - logs(*i[:-1])  # noqa: E731
        else:
            powers = kernel.stage(
                [*lead, length], lambda *i: decay(above(*i)), "softmax_exp", attributes={"netc.keep": 1}
            )
            total = row(kernel, lead, length, lambda *i: powers(*i), SUM, "softmax_sum")

            def share(*place: Any) -> Any:
                # Where a row is not -∞ alone its largest element adds 1 to the sum.
                return const(1, dtype) / (at_least(total(*place), 0.5) if sparse else total(*place))

            shares = kernel.stage(lead, share, "softmax_share", attributes={"netc.keep": 1}) if lead else share
            result = lambda *i: powers(*i) * shares(*i[:-1])  # noqa: E731
        return kernel.stage(
            type.shape, lambda *i: cast(result(*(i[a] for a in order)), DTYPES[type.dtype]), order=order
        )

    name = "log_softmax" if logarithm else "softmax"
    return low.kernel(name, [x], [type], body, pattern=Pattern.FUSABLE, orders=[order])[0]


def layer_norm(
    low: Lowering,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    type: TensorType,
    *,
    eps: float,
    rank: int = 1,
    centred: bool = True,
) -> Tensor:
    """Normalise the `rank` trailing axes to mean 0 (if `centred`) and mean square 1, then scale and shift."""
    if rank > 1:
        flat = (*type.shape[: type.rank - rank], volume(type.shape[type.rank - rank :]))
        made = layer_norm(
            low,
            low.reshape(x, TensorType(x.type.dtype, flat)),
            weight and low.reshape(weight, TensorType(weight.type.dtype, flat[-1:])),
            bias and low.reshape(bias, TensorType(bias.type.dtype, flat[-1:])),
            TensorType(type.dtype, flat),
            eps=eps,
            centred=centred,
        )
        return low.reshape(made, type)
    dim = type.rank - 1
    order = (*(a for a in x.order if a != dim), dim)
    x = low.reorder(x, order)
    lead, length = [x.type.shape[a] for a in order[:-1]], x.type.shape[dim]
    dtype = DTYPES[type.dtype]
    operands = [x] + [t for t in (weight, bias) if t is not None]

    def body(kernel: Kernel, x: View, *affine: View) -> Any:
        def value(*place: Any) -> Any:
            return cast(x[logical(order, place)], dtype)

        share = const(1, dtype) / cast(kernel.dim(length), dtype)
        deviation = value
        if centred:
            total = row(kernel, lead, length, value, SUM, "norm_sum")
            deviation = lambda *i: value(*i) - total(*i[:-1]) * share  # noqa: E731
        squares = row(kernel, lead, length, lambda *i: deviation(*i) * deviation(*i), SUM, "norm_squares")

        def scale(*place: Any) -> Any:
            return const(1, dtype) / tirx.sqrt(squares(*place) * share + const(eps, dtype))

        scales = kernel.stage(lead, scale, "norm_scale", attributes={"netc.keep": 1}) if lead else scale

        def result(*index: Any) -> Any:
            place = [index[a] for a in order]
            made = deviation(*place) * scales(*place[:-1])
            for operation, view in zip(_affine(weight, bias), affine, strict=True):
                made = operation(made, cast(view[(index[dim],)], dtype))
            return cast(made, DTYPES[type.dtype])

        return kernel.stage(type.shape, result, order=order)

    name = "layer_norm" if centred else "rms_norm"
    return low.kernel(name, operands, [type], body, pattern=Pattern.FUSABLE, orders=[order])[0]


def _affine(weight: Tensor | None, bias: Tensor | None) -> list[Callable[[Any, Any], Any]]:
    scale = [] if weight is None else [lambda a, b: a * b]
    return scale if bias is None else [*scale, lambda a, b: a + b]


def group_norm(
    low: Lowering,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    type: TensorType,
    *,
    groups: Dim,
    eps: float,
) -> Tensor:
    """Normalise groups of channels of `x` [N, C, ...] over their channels and all further axes."""
    batch, channels, *space = type.shape
    each = low.known(channels // groups, "the number of channels of a group") if groups != channels else 1
    dtype = x.type.dtype
    wide = TensorType(dtype, (batch, groups, each, *space))
    grouped = low.reshape(x, wide)
    dims = tuple(range(2, wide.rank))
    stats = single(TensorType(dtype, (batch, groups)))
    count = volume(wide.shape[2:])

    def share(kernel: Kernel, value: Any) -> Any:
        return value / cast(kernel.dim(count), DTYPES[stats.dtype])

    mean = reduce(low, "mean", [grouped], dims, stats, SUM, keepdim=False, finish=share)

    def squared(index: Sequence[Any], x: View, mean: View) -> Any:
        difference = cast(x[index], DTYPES[stats.dtype]) - mean[index[:2]]
        return difference * difference

    def scale(kernel: Kernel, value: Any) -> Any:
        return const(1, DTYPES[stats.dtype]) / tirx.sqrt(share(kernel, value) + const(eps, DTYPES[stats.dtype]))

    scales = reduce(low, "norm_scale", [grouped, mean], dims, stats, SUM, keepdim=False, element=squared, finish=scale)
    return _apply(low, x, mean, scales, weight, bias, type, each)


def _apply(
    low: Lowering,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    type: TensorType,
    each: int,
) -> Tensor:
    """`x · a + b` with factor and summand of each channel worked out first."""
    channel = TensorType(scale.type.dtype, type.shape[:2])
    dtype = DTYPES[channel.dtype]

    def factor(index: Sequence[Any], scale: View, *weight: View) -> Any:
        n, c = index
        made = scale[(n, _group(c, each))]
        return made * cast(weight[0][(c,)], dtype) if weight else made

    factors = low.map("norm_factor", [scale, *([weight] if weight else [])], channel, factor)

    def summand(index: Sequence[Any], mean: View, factor: View, *bias: View) -> Any:
        n, c = index
        made = const(0, dtype) - mean[(n, _group(c, each))] * factor[(n, c)]
        return made + cast(bias[0][(c,)], dtype) if bias else made

    summands = low.map("norm_summand", [mean, factors, *([bias] if bias else [])], channel, summand)

    def result(index: Sequence[Any], x: View, factor: View, summand: View) -> Any:
        made = cast(x[index], dtype) * factor[index[:2]] + summand[index[:2]]
        return cast(made, DTYPES[type.dtype])

    return low.map("norm", [x, factors, summands], type, result, order=x.order)


def _group(channel: Any, each: int) -> Any:
    return channel if each == 1 else tirx.floordiv(channel, literal(each))


def batch_norm(
    low: Lowering,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    type: TensorType,
    *,
    eps: float,
) -> Tensor:
    """`x · a + b` per channel, with a and b worked out at compile time from the running statistics."""
    channel = single(mean.type)
    dtype = DTYPES[channel.dtype]

    def factor(index: Sequence[Any], variance: View, *weight: View) -> Any:
        made = const(1, dtype) / tirx.sqrt(variance[index] + const(eps, dtype))
        return made * cast(weight[0][index], dtype) if weight else made

    factors = low.map("norm_factor", [variance, *([weight] if weight else [])], channel, factor)

    def summand(index: Sequence[Any], mean: View, factor: View, *bias: View) -> Any:
        made = const(0, dtype) - mean[index] * factor[index]
        return made + cast(bias[0][index], dtype) if bias else made

    summands = low.map("norm_summand", [mean, factors, *([bias] if bias else [])], channel, summand)

    def result(index: Sequence[Any], x: View, factor: View, summand: View) -> Any:
        c = (index[1],)
        return cast(cast(x[index], dtype) * factor[c] + summand[c], DTYPES[type.dtype])

    return low.map("batch_norm", [x, factors, summands], type, result, order=x.order, pattern=Pattern.BROADCAST)


@rules(op.BatchNorm)
def _batch_norm(low: Lowering, node: op.BatchNorm, inputs: Inputs, types: Types) -> Tensor:
    x, weight, bias, mean, variance = inputs
    return batch_norm(low, x, weight, bias, mean, variance, types[0], eps=node.eps)


@rules(op.LayerNorm)
def _layer_norm(low: Lowering, node: op.LayerNorm, inputs: Inputs, types: Types) -> Tensor:
    x, weight, bias = inputs
    return layer_norm(low, x, weight, bias, types[0], eps=node.eps, rank=node.rank)


@rules(op.RmsNorm)
def _rms_norm(low: Lowering, node: op.RmsNorm, inputs: Inputs, types: Types) -> Tensor:
    x, weight = inputs
    return layer_norm(low, x, weight, None, types[0], eps=node.eps, centred=False)


@rules(op.GroupNorm)
def _group_norm(low: Lowering, node: op.GroupNorm, inputs: Inputs, types: Types) -> Tensor:
    x, weight, bias = inputs
    return group_norm(low, x, weight, bias, types[0], groups=node.num_groups, eps=node.eps)


@rules(op.InstanceNorm)
def _instance_norm(low: Lowering, node: op.InstanceNorm, inputs: Inputs, types: Types) -> Tensor:
    x, weight, bias = inputs
    return group_norm(low, x, weight, bias, types[0], groups=types[0].shape[1], eps=node.eps)
