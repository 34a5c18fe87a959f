"""What every operator means, in PyTorch's own functions: the standard for shapes, expansions and backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from netc.compiler.operators.operator import Operator, Sample
from netc.compiler.types import DType, TensorType
from strategies import type_of
from torch import Tensor

DTYPES = {
    DType.F64: torch.float64, DType.F32: torch.float32, DType.F16: torch.float16, DType.BF16: torch.bfloat16,
    DType.I64: torch.int64, DType.I32: torch.int32, DType.I16: torch.int16, DType.I8: torch.int8, DType.U8: torch.uint8,
    DType.BOOL: torch.bool,
}  # fmt: skip
_NAMES = {v: k for k, v in DTYPES.items()}


def type_of_tensor(x: Tensor) -> TensorType:
    return TensorType(_NAMES[x.dtype], tuple(x.shape))


def draw(sample: Sample, seed: int = 0) -> tuple[Tensor | None, ...]:
    """Inputs for a sample, as its fields say."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[Tensor | None] = []
    for i, text in enumerate(sample.inputs):
        if text is None:
            drawn.append(None)
            continue
        kind = type_of(text)
        shape = [int(str(d)) for d in kind.shape]
        if not kind.dtype.is_float:
            top = 2 if kind.dtype is DType.BOOL else sample.high.get(i, 2)
            drawn.append(torch.randint(0, top, shape, generator=generator).to(DTYPES[kind.dtype]))
        elif i in sample.positive:
            drawn.append(torch.rand(shape, generator=generator, dtype=DTYPES[kind.dtype]) * 1.9 + 0.1)
        else:
            drawn.append(torch.randn(shape, generator=generator, dtype=DTYPES[kind.dtype]))
    return tuple(drawn)


def doubled(inputs: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """The same in float64."""
    return tuple(x.double() if x is not None and x.is_floating_point() else x for x in inputs)


def call(op: Operator, *inputs: Tensor | None) -> tuple[Tensor, ...]:
    """The outputs of an operator for these inputs; random ones as in inference."""
    op = op.canonical(*(None if x is None else type_of_tensor(x) for x in inputs))
    result = MEANING[op.name](op, *inputs)
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def _flat(pairs: Sequence[Sequence[int]]) -> list[int]:
    """Padding pairs in the order of `F.pad`: from the last axis backwards."""
    return [n for pair in reversed(pairs) for n in pair]


def _conv(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(op: Any, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return function(F.pad(x, _flat(op.padding)), w, b, op.stride, 0, op.dilation, op.groups)

    return run


def _transposed(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(op: Any, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        if all(p == q for p, q in op.padding):
            pads = [p for p, _ in op.padding]
            return function(x, w, b, op.stride, pads, op.output_padding, op.groups, op.dilation)
        # Padding takes away from the ends of the full result; output_padding leaves more of its far end.
        full = function(x, w, b, op.stride, 0, op.output_padding, op.groups, op.dilation)
        for axis, (p, q) in enumerate(op.padding, 2):
            full = full.narrow(axis, p, full.shape[axis] - p - q)
        return full

    return run


def _pool(function: Callable[..., Tensor], fill: float) -> Callable[..., Tensor]:
    def run(op: Any, x: Tensor) -> Tensor:
        maximum = fill < 0
        symmetric = all(p == q for p, q in op.padding)
        pads = [p for p, _ in op.padding]
        if maximum and symmetric:
            return function(x, op.kernel_size, op.stride, pads, op.dilation, op.ceil_mode)
        if symmetric:
            return function(x, op.kernel_size, op.stride, pads, op.ceil_mode, op.count_include_pad)
        wide = F.pad(x, _flat(op.padding), value=fill)
        more = (op.dilation, op.ceil_mode) if maximum else (op.ceil_mode, True)
        result = function(wide, op.kernel_size, op.stride, 0, *more)
        if not maximum and not op.count_include_pad:
            ones = F.pad(torch.ones_like(x), _flat(op.padding))
            result = result / function(ones, op.kernel_size, op.stride, 0, *more)
        for axis, (stride, (before, _)) in enumerate(zip(op.stride, op.padding, strict=True), 2):
            starts = -(-(x.shape[axis] + before) // stride)  # windows that start inside the input or the padding before
            result = result.narrow(axis, 0, min(starts, result.shape[axis]))
        return result

    return run


def _batch_norm(op: Any, x: Tensor, w: Any, b: Any, mean: Tensor, var: Tensor) -> Tensor:
    return F.batch_norm(x, mean, var, w, b, False, op.momentum, op.eps)


def _recurrent(module: type[torch.nn.LSTM] | type[torch.nn.GRU], states: int) -> Callable[..., Any]:
    def run(op: Any, x: Tensor, *rest: Tensor | None) -> Any:
        net = module(
            x.shape[-1], op.hidden_size, op.num_layers, op.bias, batch_first=True, bidirectional=op.bidirectional
        ).to(x.dtype)
        with torch.no_grad():
            for own, given in zip(net.parameters(), rest[states:], strict=True):
                own.copy_(given)
        zero = x.new_zeros(op.num_layers * (1 + op.bidirectional), x.shape[0], op.hidden_size)
        start = tuple(zero if s is None else s for s in rest[:states])
        with torch.no_grad():
            output, last = net(x, start if states == 2 else start[0])
        return (output, *last) if states == 2 else (output, last)

    return run


def _attention(op: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    gqa = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=op.is_causal, scale=op.scale, enable_gqa=gqa)


def _rotary(op: Any, x: Tensor, positions: Tensor | None = None) -> Tensor:
    """By complex numbers: pair i turns by e^(i · position · base^(-2i/D))."""
    size = x.shape[-1]
    where = torch.arange(x.shape[-2]) if positions is None else positions
    angles = torch.outer(where.double(), op.base ** (-torch.arange(0, size, 2).double() / size))
    pairs = x.unflatten(-1, (size // 2, 2)) if op.interleaved else x.unflatten(-1, (2, size // 2)).transpose(-1, -2)
    turned = torch.view_as_complex(pairs.double().contiguous()) * torch.polar(torch.ones_like(angles), angles)
    back = torch.view_as_real(turned)
    return (back if op.interleaved else back.transpose(-1, -2)).flatten(-2).to(x.dtype)


def _rearrange(op: Any, x: Tensor) -> Tensor:
    """Rearrangement in numpy-free steps of its own: split, permute, merge."""
    left, right = (_groups(side, x.dim()) for side in op.pattern.split("->"))
    sizes: dict[str, int] = dict(op.sizes)
    for group, size in zip(left, x.shape, strict=True):
        known = 1
        for name in group:
            known *= sizes.get(name, 1)
        for name in group:
            sizes.setdefault(name, size // known)
    before, after = [n for g in left for n in g], [n for g in right for n in g]
    x = x.reshape([sizes[n] for n in before]).permute([before.index(n) for n in after])
    shape = []
    for group in right:
        size = 1
        for name in group:
            size *= sizes[name]
        shape.append(size)
    return x.reshape(shape)


def _groups(side: str, rank: int) -> list[list[str]]:
    found: list[list[str]] = []
    open_ = False
    for token in side.replace("(", " ( ").replace(")", " ) ").split():
        if token == "(":
            found.append([])
            open_ = True
        elif token == ")":
            open_ = False
        elif open_:
            found[-1].append(token)
        else:
            found.append([] if token == "1" else [token])
    if ["..."] in found:
        at = found.index(["..."])
        found[at : at + 1] = [[f"...{i}"] for i in range(rank - len(found) + 1)]
    return found


def _norm(op: Any, x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, op.p, op.dim, op.keepdim)


def _prod(op: Any, x: Tensor) -> Tensor:
    for dim in sorted(op.dim, reverse=True):
        x = x.prod(dim, op.keepdim)
    return x


def _slice(op: Any, x: Tensor) -> Tensor:
    return x[(slice(None),) * op.dim + (slice(op.start, op.stop, op.step),)]


def _pad(op: Any, x: Tensor) -> Tensor:
    if op.mode == "constant":
        return F.pad(x, _flat(op.padding), value=op.value)
    # PyTorch pads at most the last three axes by these modes.
    used = next((i for i, pair in enumerate(op.padding) if any(pair)), len(op.padding))
    return F.pad(x, _flat(op.padding[used:]), mode=op.mode)


def _interpolate(op: Any, x: Tensor) -> Tensor:
    align = None if op.mode == "nearest" else op.align_corners
    size = op.size if op.scale_factor is None else None
    return F.interpolate(x, size, op.scale_factor, op.mode, align)


def _arange(op: Any) -> Tensor:
    return torch.arange(op.start, op.stop, op.step, dtype=DTYPES[op.dtype])


def _unfold(op: Any, x: Tensor) -> Tensor:
    return F.unfold(F.pad(x, _flat(op.padding)), op.kernel_size, op.dilation, 0, op.stride)


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the inputs alone."""
    return lambda op, *inputs: function(*(x for x in inputs if x is not None))


def _with(function: Callable[..., Any], *names: str, **renamed: str) -> Callable[..., Any]:
    """A function of the inputs and of attributes by position (`names`) or by PyTorch's keyword (`renamed`)."""

    def run(op: Any, *inputs: Tensor) -> Any:
        keywords = {theirs: getattr(op, ours) for theirs, ours in renamed.items()}
        return function(*inputs, *(getattr(op, n) for n in names), **keywords)

    return run


def _beside(op: Any, x: Tensor, number: Tensor | None) -> Tensor | int:
    """A scale or zero point along the axis of x that it has a number for each index of."""
    if number is None or op.axis is None:
        return 0 if number is None else number
    return number.movedim(0, -1).reshape([-1 if d == op.axis else 1 for d in range(x.dim())])


def _quantize(op: Any, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    bounds = torch.iinfo(DTYPES[op.dtype])
    whole = torch.round(x / _beside(op, x, scale)) + _beside(op, x, zero)
    return whole.clamp(bounds.min, bounds.max).to(DTYPES[op.dtype])


def _dequantize(op: Any, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    return (x.to(scale.dtype) - _beside(op, x, zero)) * _beside(op, x, scale)


MEANING: dict[str, Callable[..., Any]] = {
    "quantize": _quantize,
    "dequantize": _dequantize,
    **{f"conv{n}d": _conv(getattr(F, f"conv{n}d")) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _transposed(getattr(F, f"conv_transpose{n}d")) for n in (1, 2, 3)},
    **{f"max_pool{n}d": _pool(getattr(F, f"max_pool{n}d"), -torch.inf) for n in (1, 2, 3)},
    **{f"avg_pool{n}d": _pool(getattr(F, f"avg_pool{n}d"), 0.0) for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": _with(getattr(F, f"adaptive_avg_pool{n}d"), "output_size") for n in (1, 2, 3)},
    "adaptive_max_pool2d": _with(F.adaptive_max_pool2d, "output_size"),
    "linear": _plain(F.linear),
    "embedding": _plain(F.embedding),
    "matmul": _plain(torch.matmul),
    "einsum": lambda op, *x: torch.einsum(op.equation, *x),
    "batch_norm": _batch_norm,
    "layer_norm": lambda op, x, w=None, b=None: F.layer_norm(x, x.shape[-op.rank :], w, b, op.eps),
    "group_norm": lambda op, x, w=None, b=None: F.group_norm(x, op.num_groups, w, b, op.eps),
    "instance_norm": lambda op, x, w=None, b=None: F.instance_norm(x, None, None, w, b, eps=op.eps),
    "rms_norm": lambda op, x, w=None: F.rms_norm(x, x.shape[-1:], w, op.eps),
    "scaled_dot_product_attention": _attention,
    "rotary_embedding": _rotary,
    "lstm": _recurrent(torch.nn.LSTM, 2),
    "gru": _recurrent(torch.nn.GRU, 1),
    "dropout": lambda op, x: F.dropout(x, op.p, False),
    "drop_path": _plain(torch.clone),
    "stop_gradient": _plain(torch.detach),
    "identity": _plain(torch.clone),
    **{
        name: _plain(getattr(F, name))
        for name in ("relu", "relu6", "selu", "silu", "hardswish", "hardsigmoid", "softplus", "mish", "prelu")
    },
    **{
        name: _plain(getattr(torch, name))
        for name in (
            "sigmoid",
            "tanh",
            "add",
            "sub",
            "mul",
            "div",
            "pow",
            "maximum",
            "minimum",
            "remainder",
            "floor_divide",
            "eq",
            "ne",
            "lt",
            "le",
            "gt",
            "ge",
            "logical_and",
            "logical_or",
            "logical_not",
            "neg",
            "abs",
            "exp",
            "log",
            "sqrt",
            "rsqrt",
            "sin",
            "cos",
            "erf",
            "floor",
            "ceil",
            "round",
            "sign",
            "reciprocal",
            "square",
            "where",
        )
    },
    "leaky_relu": _with(F.leaky_relu, "negative_slope"),
    "elu": _with(F.elu, "alpha"),
    "gelu": _with(F.gelu, approximate="approximate"),
    "softmax": _with(torch.softmax, "dim"),
    "log_softmax": _with(torch.log_softmax, "dim"),
    "glu": _with(F.glu, "dim"),
    "mean": _with(torch.mean, "dim", "keepdim"),
    "sum": _with(torch.sum, "dim", "keepdim"),
    "max": _with(torch.amax, "dim", "keepdim"),
    "min": _with(torch.amin, "dim", "keepdim"),
    "prod": _prod,
    "var": _with(torch.var, dim="dim", keepdim="keepdim", correction="correction"),
    "norm": _norm,
    "argmax": _with(torch.argmax, "dim", "keepdim"),
    "argmin": _with(torch.argmin, "dim", "keepdim"),
    "topk": _with(torch.topk, "k", "dim", "largest", "sorted"),
    "cumsum": _with(torch.cumsum, "dim"),
    "clip": _with(torch.clamp, "min", "max"),
    "cast": lambda op, x: x.to(DTYPES[op.dtype]),
    "constant": lambda op: torch.tensor(op.value, dtype=DTYPES[op.dtype]),
    "full": lambda op: torch.full(op.size, op.value, dtype=DTYPES[op.dtype]),
    "arange": _arange,
    "reshape": _with(torch.reshape, "size"),
    "permute": _with(torch.permute, "dims"),
    "squeeze": _with(torch.squeeze, "dim"),
    "unsqueeze": _with(torch.unsqueeze, "dim"),
    "expand": lambda op, x: x.expand(op.size),
    "repeat": lambda op, x: x.repeat(op.repeats),
    "repeat_interleave": _with(torch.repeat_interleave, "repeats", "dim"),
    "rearrange": _rearrange,
    "slice": _slice,
    "split": _with(torch.split, "sizes", "dim"),
    "chunk": _with(torch.chunk, "chunks", "dim"),
    "concat": lambda op, *x: torch.cat(x, op.dim),
    "stack": lambda op, *x: torch.stack(x, op.dim),
    "gather": lambda op, x, i: torch.gather(x, op.dim, i),
    "scatter": lambda op, x, i, s: x.scatter(op.dim, i, s),
    "scatter_add": lambda op, x, i, s: x.scatter_add(op.dim, i, s),
    "index_select": lambda op, x, i: x.index_select(op.dim, i),
    "one_hot": _with(F.one_hot, "num_classes"),
    "flip": _with(torch.flip, "dims"),
    "roll": _with(torch.roll, "shifts", "dims"),
    "pad": _pad,
    "interpolate": _interpolate,
    "pixel_shuffle": _with(F.pixel_shuffle, "upscale_factor"),
    "pixel_unshuffle": _with(F.pixel_unshuffle, "downscale_factor"),
    "unfold": _unfold,
    "grid_sample": _with(F.grid_sample, "mode", "padding_mode", "align_corners"),
}
