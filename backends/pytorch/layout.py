"""Rules of operators that only arrange: reshaping, cutting, joining, indexing."""

from __future__ import annotations

from ...compiler.operators import indexing as ix
from ...compiler.operators import layout as la
from ...compiler.types import Dim, DType, Shape, known_less, volume
from . import helpers
from .call import MODULES, RULES, Call
from .template import Expression


@RULES(la.Reshape)
def _reshape(call: Call) -> str:
    x, before, after = call.atom(0), call.type(0).shape, call.op.size
    merged = _merged(before, after)
    if merged:
        start, end = merged
        last = "" if end == len(before) - 1 else f", {call.number(end, 'end_dim')}"
        return f"{x}.flatten({call.number(start, 'start_dim')}{last})"
    split = _merged(after, before)
    if split:
        start, end = split
        sizes = _sizes(call, after[start : end + 1])
        return f"{x}.unflatten({call.axis(start, len(before))}, ({sizes}))"
    return f"{x}.reshape({_sizes(call, after) or '()'})"


def _flatten_module(call: Call) -> str | None:
    rank = call.type(0).rank
    return "nn.Flatten()" if _merged(call.type(0).shape, call.op.size) == (1, rank - 1) else None


MODULES[la.Reshape] = _flatten_module


def _merged(before: Shape, after: Shape) -> tuple[int, int] | None:
    """The axes, first and last, that become one in between two shapes which otherwise agree."""
    count = len(before) - len(after)
    if count < 1 or not after:
        return None
    for start in range(len(after)):
        if before[:start] != after[:start]:
            return None
        end = start + count
        if 1 in before[start : end + 1] and (start, len(after)) != (1, 2):
            continue  # what is of size 1 here may not be elsewhere: one form for all
        if before[end + 1 :] == after[start + 1 :] and volume(before[start : end + 1]) == after[start]:
            return start, end
    return None


def _sizes(call: Call, sizes: Shape) -> str:
    """Sizes, comma-separated; a single symbolic one is left to PyTorch."""
    symbolic = [d for d in sizes if not isinstance(d, int)]
    return ", ".join("-1" if len(symbolic) == 1 and not isinstance(d, int) else call.size(d) for d in sizes)


@RULES(la.Permute)
def _permute(call: Call) -> str:
    dims = call.op.dims
    moved = [i for i, d in enumerate(dims) if i != d]
    if len(moved) == 2:
        if moved[1] == len(dims) - 1:
            moved = [i - len(dims) for i in moved] if moved[0] == len(dims) - 2 else [moved[0], -1]
        return f"{call.atom(0)}.transpose({', '.join(call.number(d, 'dim') for d in moved)})"
    return f"{call.atom(0)}.permute({', '.join(call.number(d, 'dim') for d in dims) or '()'})"


@RULES(la.Squeeze)
def _squeeze(call: Call) -> str:
    dims = call.op.dim
    return f"{call.atom(0)}.squeeze({call.axes(dims, call.type(0).rank)})" if dims else call[0]


@RULES(la.Unsqueeze)
def _unsqueeze(call: Call) -> str:
    return f"{call.atom(0)}.unsqueeze({call.axis(call.op.dim, call.type(0).rank + 1)})"


@RULES(la.Expand)
def _expand(call: Call) -> str:
    shape, size = call.type(0).shape, call.op.size
    new = len(size) - len(shape)
    kept = ["-1" if i >= new and shape[i - new] == d else call.size(d) for i, d in enumerate(size)]
    return f"{call.atom(0)}.expand({', '.join(kept) or '()'})"


@RULES(la.Repeat)
def _repeat(call: Call) -> str:
    return f"{call.atom(0)}.repeat({call.sizes(call.op.repeats, 'repeats') or '()'})"


@RULES(la.RepeatInterleave)
def _repeat_interleave(call: Call) -> str:
    dim = call.axis(call.op.dim, call.type(0).rank)
    return f"{call.atom(0)}.repeat_interleave({call.number(call.op.repeats, 'repeats')}, dim={dim})"


@RULES(la.Slice)
def _slice(call: Call) -> str:
    op, whole, rank = call.op, call.type(0).shape[call.op.dim], call.type(0).rank
    if op.stop != whole and known_less(whole, op.stop) is not False:
        # Whether the bound lies inside shows only now; an index would cut it silently.
        length: Dim = op.stop - op.start
        text = f"{call.atom(0)}.narrow({call.number(op.dim, 'dim')}, {call.size(op.start)}, {call.size(length)})"
        return text if op.step == 1 else f"{text}[{_lead(op.dim, rank)}::{call.number(op.step, 'step')}]"
    start = "" if op.start == 0 else call.size(op.start, "start")
    stop = "" if op.stop == whole else call.size(op.stop, "stop")
    step = "" if op.step == 1 else f":{call.number(op.step, 'step')}"
    return f"{call.atom(0)}[{_lead(op.dim, rank)}{start}:{stop}{step}]"


def _lead(dim: int, rank: int) -> str:
    """What stands in an index before the axis."""
    return "..., " if dim == rank - 1 and dim > 1 else ":, " * dim


@RULES(la.Split)
def _split(call: Call) -> Expression:
    sizes, dim = call.op.sizes, call.axis(call.op.dim, call.type(0).rank)
    if len(set(sizes)) == 1:
        return Expression(f"{call.atom(0)}.chunk({call.number(len(sizes), 'chunks')}, dim={dim})", tuple=True)
    return Expression(f"{call.atom(0)}.split([{call.sizes(sizes)}], dim={dim})", tuple=True)


@RULES(la.Concat, la.Stack)
def _join(call: Call) -> str:
    name = "cat" if isinstance(call.op, la.Concat) else "stack"
    rank = call.outputs[0].rank
    return f"torch.{name}([{', '.join(call.rest())}], dim={call.axis(call.op.dim, rank)})"


# ---------------------------------------------------------------------------------------------------------- indexing


def _index(call: Call) -> str:
    """The index, in the integers that PyTorch takes."""
    return call[1] if call.type(1).dtype is DType.I64 else f"{call.atom(1)}.to(torch.int64)"


@RULES(ix.Gather)
def _gather(call: Call) -> str:
    return f"{call.atom(0)}.gather({call.axis(call.op.dim, call.type(0).rank)}, {_index(call)})"


@RULES(ix.Scatter, ix.ScatterAdd)
def _scatter(call: Call) -> str:
    return f"{call.atom(0)}.{call.op.name}({call.axis(call.op.dim, call.type(0).rank)}, {_index(call)}, {call[2]})"


@RULES(ix.IndexSelect)
def _index_select(call: Call) -> str:
    return f"{call.atom(0)}.index_select({call.axis(call.op.dim, call.type(0).rank)}, {call[1]})"


@RULES(ix.OneHot)
def _one_hot(call: Call) -> str:
    x = call[0] if call.type(0).dtype is DType.I64 else f"{call.atom(0)}.to(torch.int64)"
    return f"F.one_hot({x}, {call.number(call.op.num_classes, 'num_classes')})"


@RULES(ix.Flip)
def _flip(call: Call) -> str:
    return f"{call.atom(0)}.flip({call.number(call.op.dims, 'dims')})"


@RULES(ix.Roll)
def _roll(call: Call) -> str:
    shifts = call.number(call.op.shifts, "shifts")
    return f"{call.atom(0)}.roll({shifts}, dims={call.number(call.op.dims, 'dims')})"


@RULES(ix.Pad)
def _pad(call: Call) -> str:
    op, rank = call.op, call.type(0).rank
    padded = next((i for i, pair in enumerate(op.padding) if pair != (0, 0)), rank)
    count = rank - padded
    if not count:
        return call.atom(0)
    if op.mode != "constant":
        # PyTorch mirrors and repeats the last axes only, of a batch of maps.
        fitting = [k for k in (1, 2, 3) if k >= count and rank - k in (1, 2)]
        if not fitting or not call.type(0).dtype.is_float:
            pairs = ", ".join(f"({call.sizes(pair, 'padding')})" for pair in op.padding)
            return f'{call.helper(helpers.pad)}({call[0]}, [{pairs}], mode="{op.mode}")'
        count = fitting[0]
    amounts = ", ".join(call.sizes(pair, "padding") for pair in reversed(op.padding[rank - count :]))
    mode = "" if op.mode == "constant" else f', mode="{op.mode}"'
    return f"F.pad({call[0]}, ({amounts}){mode}{call.option('value', op.value, type(op.value)(0))})"
