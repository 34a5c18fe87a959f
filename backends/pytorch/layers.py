"""Rules of the operators that usually own their weights, as a layer or, for weights from elsewhere, as a function."""

from __future__ import annotations

from ...compiler.operators import convolution as c
from ...compiler.operators import linear as li
from ...compiler.operators import normalization as n
from ...compiler.operators import recurrent as r
from ...compiler.types import Dim, TensorType
from . import helpers
from .call import LAYERS, RULES, Call, compact
from .template import Expression, Rank

Pairs = tuple[tuple[int, int], ...]

# ---------------------------------------------------------------------------------------------------------- convolution


def even(padding: Pairs) -> bool:
    """Whether both ends of every axis are padded alike, which is all that PyTorch's layers can."""
    return all(before == after for before, after in padding)


def padded(call: Call, padding: Pairs, fill: str = "") -> str:
    """The first operand, padded by hand where the padding is uneven."""
    if even(padding):
        return call[0]
    amounts = tuple(amount for pair in reversed(padding) for amount in pair)
    return f"F.pad({call[0]}, {call.number(amounts, 'padding')}{fill})"


def before(padding: Pairs) -> int | tuple[int, ...]:
    """What is left for PyTorch's own padding argument."""
    return compact(b for b, _ in padding) if even(padding) else 0


def _windows(call: Call, *, transposed: bool = False) -> str:
    op = call.op
    text = call.option("stride", compact(op.stride), 1)
    text += call.option("padding", before(op.padding), 0)
    if transposed:
        text += call.option("output_padding", compact(op.output_padding), 0)
        return text + call.option("groups", op.groups, 1) + call.option("dilation", compact(op.dilation), 1)
    return text + call.option("dilation", compact(op.dilation), 1) + call.option("groups", op.groups, 1)


@RULES(c.Conv1d, c.Conv2d, c.Conv3d)
def _convolution(call: Call) -> str:
    x = padded(call, call.op.padding)
    if call.layer:
        return f"{call.layer}({x})"
    bias = f", {call[2]}" if call.has(2) else ""
    return f"F.{call.op.name}({x}, {call[1]}{bias}{_windows(call)})"


@LAYERS(c.Conv1d, c.Conv2d, c.Conv3d)
def _convolution_layer(call: Call) -> str:
    out, inner, *kernel = _numbers(call.type(1))
    return _convolution_head(call, inner * call.op.groups, out, kernel) + f"{_windows(call)}{_bias(call)})"


def _convolution_head(call: Call, inner: int, out: int, kernel: list[int]) -> str:
    name = type(call.op).__name__
    given = [(inner, "in_channels"), (out, "out_channels"), (compact(kernel), "kernel_size")]
    return f"nn.{name}({', '.join(call.number(value, hint) for value, hint in given)}"


def _bias(call: Call, operand: int = 2) -> str:
    return call.option("bias", call.has(operand), True)


def _numbers(kind: TensorType) -> list[int]:
    return [d for d in kind.shape if isinstance(d, int)]


@RULES(c.ConvTranspose1d, c.ConvTranspose2d, c.ConvTranspose3d)
def _transposed(call: Call) -> str:
    bias = f", {call[2]}" if call.has(2) else ""
    function = f"F.{call.op.name}({call[0]}, {call[1]}{bias}"
    text = f"{call.layer}({call[0]})" if call.layer else f"{function}{_windows(call, transposed=True)})"
    if even(call.op.padding):
        return text
    # Padding of a transposed convolution cuts its result; what is uneven is cut by a pad of negative width.
    cut = tuple(-amount for pair in reversed(call.op.padding) for amount in pair)
    return f"F.pad({text}, {call.number(cut, 'padding')})"


@LAYERS(c.ConvTranspose1d, c.ConvTranspose2d, c.ConvTranspose3d)
def _transposed_layer(call: Call) -> str:
    inner, out, *kernel = _numbers(call.type(1))
    head = _convolution_head(call, inner, out * call.op.groups, kernel)
    stride = call.option("stride", compact(call.op.stride), 1)
    stride += call.option("padding", before(call.op.padding), 0)
    stride += call.option("output_padding", compact(call.op.output_padding), 0)
    stride += call.option("groups", call.op.groups, 1) + _bias(call)
    return f"{head}{stride}{call.option('dilation', compact(call.op.dilation), 1)})"


# ---------------------------------------------------------------------------------------------------------- products


@RULES(li.Linear)
def _linear(call: Call) -> str:
    if call.layer:
        return f"{call.layer}({call[0]})"
    bias = f", {call[2]}" if call.has(2) else ""
    return f"F.linear({call[0]}, {call[1]}{bias})"


@LAYERS(li.Linear)
def _linear_layer(call: Call) -> str:
    out, inner = _numbers(call.type(1))
    return f"nn.Linear({call.number(inner, 'in_features')}, {call.number(out, 'out_features')}{_bias(call)})"


@RULES(li.Embedding)
def _embedding(call: Call) -> str:
    return f"{call.layer}({call[0]})" if call.layer else f"F.embedding({call[0]}, {call[1]})"


@LAYERS(li.Embedding)
def _embedding_layer(call: Call) -> str:
    rows, features = _numbers(call.type(1))
    return f"nn.Embedding({call.number(rows, 'num_embeddings')}, {call.number(features, 'embedding_dim')})"


@RULES(li.Matmul)
def _matmul(call: Call) -> Expression:
    return Expression(f"{call.place(0, Rank.MULTIPLY)} @ {call.place(1, Rank.UNARY)}", Rank.MULTIPLY)


@RULES(li.Einsum)
def _einsum(call: Call) -> str:
    left, right = call.op.equation.split("->")
    return f'torch.einsum("{left.replace(",", ", ")} -> {right}", {", ".join(call.rest())})'


# ---------------------------------------------------------------------------------------------------- normalisation


@RULES(n.BatchNorm)
def _batch_norm(call: Call) -> str:
    if call.layer:
        return f"{call.layer}({call[0]})"
    op = call.op
    scale = f", {call[1]}, {call[2]}" if call.has(1) or call.has(2) else ""
    options = call.option("momentum", op.momentum, 0.1) + call.option("eps", op.eps, 1e-5)
    return f"F.batch_norm({call[0]}, {call[3]}, {call[4]}{scale}, training=self.training{options})"


@LAYERS(n.BatchNorm)
def _batch_norm_layer(call: Call) -> str | None:
    rank = {2: "1d", 3: "1d", 4: "2d", 5: "3d"}.get(call.type(0).rank)
    if rank is None or call.has(1) != call.has(2):
        return None
    (features,) = _numbers(call.type(3))
    options = call.option("eps", call.op.eps, 1e-5) + call.option("momentum", call.op.momentum, 0.1)
    return f"nn.BatchNorm{rank}({call.number(features, 'num_features')}{options}{_affine(call, 'affine', True)})"


def _affine(call: Call, name: str, default: bool) -> str:
    return call.option(name, call.has(1), default)


@RULES(n.LayerNorm)
def _layer_norm(call: Call) -> str:
    if call.layer:
        return f"{call.layer}({call[0]})"
    eps = call.option("eps", call.op.eps, 1e-5)
    return f"F.layer_norm({call[0]}, {_normalised(call, call.op.rank)}{_scale(call)}{eps})"


def _normalised(call: Call, rank: int) -> str:
    """The trailing shape, as a tuple."""
    shape = call.type(0).shape[-rank:]
    return f"({call.sizes(shape)},)" if rank == 1 else f"({call.sizes(shape)})"


def _scale(call: Call) -> str:
    text = f", weight={call[1]}" if call.has(1) else ""
    return text + (f", bias={call[2]}" if call.has(2) else "")


@LAYERS(n.LayerNorm)
def _layer_norm_layer(call: Call) -> str | None:
    if not call.has(1):
        return None
    shape = call.number(_shape(call.type(1).shape), "normalized_shape")
    return f"nn.LayerNorm({shape}{call.option('eps', call.op.eps, 1e-5)}{_bias(call)})"


def _shape(shape: tuple[Dim, ...]) -> object:
    return shape[0] if len(shape) == 1 else shape


@RULES(n.GroupNorm)
def _group_norm(call: Call) -> str:
    if call.layer:
        return f"{call.layer}({call[0]})"
    groups = call.number(call.op.num_groups, "num_groups")
    return f"F.group_norm({call[0]}, {groups}{_scale(call)}{call.option('eps', call.op.eps, 1e-5)})"


@LAYERS(n.GroupNorm)
def _group_norm_layer(call: Call) -> str | None:
    if not (call.has(1) and call.has(2)):
        return None
    (channels,) = _numbers(call.type(1))
    groups, width = call.number(call.op.num_groups, "num_groups"), call.number(channels, "num_channels")
    return f"nn.GroupNorm({groups}, {width}{call.option('eps', call.op.eps, 1e-5)})"


@RULES(n.InstanceNorm)
def _instance_norm(call: Call) -> str:
    if call.layer:
        return f"{call.layer}({call[0]})"
    return f"F.instance_norm({call[0]}{_scale(call)}{call.option('eps', call.op.eps, 1e-5)})"


@LAYERS(n.InstanceNorm)
def _instance_norm_layer(call: Call) -> str | None:
    rank = {3: "1d", 4: "2d", 5: "3d"}.get(call.type(0).rank)
    if rank is None or not (call.has(1) and call.has(2)):
        return None
    (channels,) = _numbers(call.type(1))
    width = call.number(channels, "num_features")
    return f"nn.InstanceNorm{rank}({width}{call.option('eps', call.op.eps, 1e-5)}, affine=True)"


@RULES(n.RmsNorm)
def _rms_norm(call: Call) -> str:
    if call.layer:
        return f"{call.layer}({call[0]})"
    weight = f", weight={call[1]}" if call.has(1) else ""
    return f"F.rms_norm({call[0]}, {_normalised(call, 1)}{weight}, eps={call.number(call.op.eps, 'eps')})"


@LAYERS(n.RmsNorm)
def _rms_norm_layer(call: Call) -> str:
    shape = call.number(_shape(call.type(1).shape), "normalized_shape")
    return f"nn.RMSNorm({shape}, eps={call.number(call.op.eps, 'eps')})"


# ---------------------------------------------------------------------------------------------------------- recurrent


@RULES(r.Lstm)
def _lstm(call: Call) -> Expression:
    if call.layer and call.has(1) == call.has(2):
        state = f", ({call[1]}, {call[2]})" if call.has(1) else ""
        return Expression(f"{call.layer}({call[0]}{state})", tuple=True, targets="{}, ({}, {})")
    return Expression(f"{call.helper(helpers.lstm)}({_recurrent(call, 3)})", tuple=True)


@RULES(r.Gru)
def _gru(call: Call) -> Expression:
    if call.layer:
        state = f", {call[1]}" if call.has(1) else ""
        return Expression(f"{call.layer}({call[0]}{state})", tuple=True)
    return Expression(f"{call.helper(helpers.gru)}({_recurrent(call, 2)})", tuple=True)


def _recurrent(call: Call, start: int) -> str:
    op = call.op
    given = [call[i] for i in range(start)]
    options = call.option("num_layers", op.num_layers, 1) + call.option("bidirectional", op.bidirectional, False)
    hidden = call.number(op.hidden_size, "hidden_size")
    return f"{', '.join(given)}, [{', '.join(call.rest(start))}], {hidden}{options}{call.option('bias', op.bias, True)}"


@LAYERS(r.Lstm, r.Gru)
def _recurrent_layer(call: Call) -> str:
    op = call.op
    width = call.number(call.type(0).shape[-1], "input_size")
    hidden = call.number(op.hidden_size, "hidden_size")
    options = call.option("num_layers", op.num_layers, 1) + call.option("bias", op.bias, True)
    name = "LSTM" if isinstance(op, r.Lstm) else "GRU"
    bidirectional = call.option("bidirectional", op.bidirectional, False)
    return f"nn.{name}({width}, {hidden}{options}, batch_first=True{bidirectional})"
