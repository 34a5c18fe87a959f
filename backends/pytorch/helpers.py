"""Functions that generated files hold a copy of where they need them: what PyTorch has no one word for."""

# What stands here is copied as it is: plain PyTorch without annotations.
# pyright: basic
# mypy: ignore-errors

import torch


def drop_path(x, p, training):
    """Zero whole examples with probability p, in training only; the others grow by 1 / (1 - p)."""
    if not training or p == 0:
        return x
    kept = x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(1 - p)
    return x * (kept / (1 - p) if p < 1 else kept)


def rotary_embedding(x, positions=None, base=10000.0, interleaved=False):
    """Turn pairs (i, i + D / 2), or (2i, 2i + 1), of features of x [..., T, D] by position * base ** (-2i / D)."""
    length, size = x.shape[-2:]
    dtype = torch.promote_types(x.dtype, torch.float32)
    if positions is None:
        positions = torch.arange(length, device=x.device)
    powers = torch.arange(0, size, 2, dtype=dtype, device=x.device) / size
    angles = torch.outer(positions.to(dtype), 1 / base**powers)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def pad(x, padding, mode):
    """Mirror ("reflect") or repeat ("replicate") the borders of any axes; padding is (before, after) of each."""
    for dim, (before, after) in enumerate(padding):
        last = x.shape[dim] - 1
        index = torch.arange(-before, last + 1 + after, device=x.device)
        index = index.clamp(0, last) if mode == "replicate" else last - (last - index.abs()).abs()
        x = x.index_select(dim, index)
    return x


def lstm(x, h0, c0, weights, hidden_size, num_layers=1, bidirectional=False, bias=True):
    """nn.LSTM, batch first, with weights from elsewhere: output, h_n, c_n."""
    zeros = x.new_zeros(num_layers * (2 if bidirectional else 1), x.shape[0], hidden_size)
    states = [zeros if s is None else s for s in (h0, c0)]
    return torch.lstm(x, states, weights, bias, num_layers, 0.0, torch.is_grad_enabled(), bidirectional, True)


def gru(x, h0, weights, hidden_size, num_layers=1, bidirectional=False, bias=True):
    """nn.GRU, batch first, with weights from elsewhere: output, h_n."""
    if h0 is None:
        h0 = x.new_zeros(num_layers * (2 if bidirectional else 1), x.shape[0], hidden_size)
    return torch.gru(x, h0, weights, bias, num_layers, 0.0, torch.is_grad_enabled(), bidirectional, True)
