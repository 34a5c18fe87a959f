"""Rules of pooling, attention and what is random in training."""

from __future__ import annotations

from ...compiler.operators import attention as at
from ...compiler.operators import pooling as p
from ...compiler.operators import stochastic as st
from . import helpers
from .call import MODULES, RULES, Call, compact
from .layers import before, even, padded
from .template import Expression, Rank

# ---------------------------------------------------------------------------------------------------------- pooling


def _window(call: Call) -> str:
    op = call.op
    kernel = compact(op.kernel_size)
    text = call.number(kernel, "kernel_size") + call.option("stride", compact(op.stride), kernel)
    text += call.option("padding", before(op.padding), 0)
    if isinstance(op, p.MaxPooling):
        text += call.option("dilation", compact(op.dilation), 1)
    text += call.option("ceil_mode", op.ceil_mode, False)
    if isinstance(op, p.AvgPooling) and even(op.padding):
        text += call.option("count_include_pad", op.count_include_pad, True)
    return text


@RULES(p.MaxPool1d, p.MaxPool2d, p.MaxPool3d)
def _max_pool(call: Call) -> str:
    x = padded(call, call.op.padding, ', value=float("-inf")')
    return f"F.{call.op.name}({x}, {_window(call)}){_cut(call)}"


@RULES(p.AvgPool1d, p.AvgPool2d, p.AvgPool3d)
def _avg_pool(call: Call) -> str | Expression:
    text = f"F.{call.op.name}({padded(call, call.op.padding)}, {_window(call)})"
    if even(call.op.padding) or call.op.count_include_pad:
        return text + _cut(call)
    # The mean over a window's own elements: what the mean over all is of a map of ones tells how many those are.
    amounts = tuple(amount for pair in reversed(call.op.padding) for amount in pair)
    ones = f"F.pad(torch.ones_like({call.atom(0)}[:1, :1]), {call.number(amounts, 'padding')})"
    share = f"F.{call.op.name}({ones}, {_window(call)})"
    return Expression(f"{text}{_cut(call)} / {share}{_cut(call)}", Rank.MULTIPLY)


def _cut(call: Call) -> str:
    """Windows that start in padding made by hand do not count; PyTorch, which takes it for input, makes them."""
    if even(call.op.padding) or not call.op.ceil_mode:
        return ""
    return f"[..., {', '.join(f':{call.size(d)}' for d in call.outputs[0].shape[2:])}]"


@RULES(p.AdaptiveAvgPool1d, p.AdaptiveAvgPool2d, p.AdaptiveAvgPool3d, p.AdaptiveMaxPool2d)
def _adaptive(call: Call) -> str:
    return f"F.{call.op.name}({call[0]}, {call.number(compact(call.op.output_size), 'output_size')})"


def _pool_module(call: Call) -> str | None:
    return f"nn.{type(call.op).__name__}({_window(call)})" if even(call.op.padding) else None


def _adaptive_module(call: Call) -> str:
    return f"nn.{type(call.op).__name__}({call.number(compact(call.op.output_size), 'output_size')})"


for _op in (p.MaxPool1d, p.MaxPool2d, p.MaxPool3d, p.AvgPool1d, p.AvgPool2d, p.AvgPool3d):
    MODULES[_op] = _pool_module
for _op in (p.AdaptiveAvgPool1d, p.AdaptiveAvgPool2d, p.AdaptiveAvgPool3d, p.AdaptiveMaxPool2d):
    MODULES[_op] = _adaptive_module

# ---------------------------------------------------------------------------------------------------------- attention


@RULES(at.ScaledDotProductAttention)
def _attention(call: Call) -> str:
    op, (query, key) = call.op, (call.type(0), call.type(1))
    given = [call[i] for i in range(3)]
    if call.has(3):
        # PyTorch wants both axes, of queries and keys.
        mask = call[3] if call.type(3).rank >= 2 else f"{call.atom(3)}.reshape(1, -1)"
        given.append(f"attn_mask={mask}")
    text = ", ".join(given) + call.option("is_causal", op.is_causal, False)
    size = query.shape[3]
    if op.scale is not None and not (isinstance(size, int) and op.scale == size**-0.5):
        text += call.option("scale", op.scale)
    return f"F.scaled_dot_product_attention({text}{call.option('enable_gqa', query.shape[1] != key.shape[1], False)})"


@RULES(at.RotaryEmbedding)
def _rotary(call: Call) -> str:
    positions = f", {call[1]}" if call.has(1) else ""
    options = call.option("base", call.op.base, 10000.0) + call.option("interleaved", call.op.interleaved, False)
    return f"{call.helper(helpers.rotary_embedding)}({call[0]}{positions}{options})"


# ---------------------------------------------------------------------------------------------------------- stochastic


@RULES(st.Dropout)
def _dropout(call: Call) -> str:
    return f"F.dropout({call[0]}, {call.number(call.op.p, 'p')}, training=self.training)"


MODULES[st.Dropout] = lambda call: f"nn.Dropout({call.number(call.op.p, 'p')})"


@RULES(st.DropPath)
def _drop_path(call: Call) -> str:
    return f"{call.helper(helpers.drop_path)}({call[0]}, {call.number(call.op.p, 'p')}, self.training)"


@RULES(st.StopGradient)
def _stop_gradient(call: Call) -> str:
    return f"{call.atom(0)}.detach()"


@RULES(st.Identity)
def _identity(call: Call) -> str:
    return call.atom(0)


MODULES[st.Identity] = lambda _: "nn.Identity()"
