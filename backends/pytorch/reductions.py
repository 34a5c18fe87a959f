"""Rules of reductions, running sums and the largest elements."""

from __future__ import annotations

from collections.abc import Sequence

from ...compiler.operators import reduction as r
from .call import RULES, Call
from .template import Expression


def _over(call: Call, dims: Sequence[int], *, named: bool = False) -> str:
    """The axes and `keepdim` as arguments; nothing where all axes go."""
    rank = call.type(0).rank
    keep = call.option("keepdim", call.op.keepdim, False)
    if len(dims) == rank and not call.op.keepdim:
        return ""
    return f"{'dim=' if named else ''}{call.axes(dims, rank)}{keep}"


@RULES(r.Mean, r.Sum)
def _mean(call: Call) -> str:
    return f"{call.atom(0)}.{call.op.name}({_over(call, call.op.dim)})"


@RULES(r.Max, r.Min)
def _max(call: Call) -> str:
    return f"{call.atom(0)}.a{call.op.name}({_over(call, call.op.dim)})"


@RULES(r.Prod)
def _prod(call: Call) -> str:
    """PyTorch multiplies along one axis at a time."""
    rank, dims = call.type(0).rank, call.op.dim
    if len(dims) == rank and not call.op.keepdim:
        return f"{call.atom(0)}.prod()"
    keep = call.option("keepdim", call.op.keepdim, False)
    return call.atom(0) + "".join(f".prod({call.number(d, 'dim')}{keep})" for d in sorted(dims, reverse=True))


@RULES(r.Var)
def _var(call: Call) -> str:
    over, correction = _over(call, call.op.dim, named=True), call.option("correction", call.op.correction, 1)
    return f"{call.atom(0)}.var({over}{correction})"


@RULES(r.Norm)
def _norm(call: Call) -> str:
    order = call.option("ord", call.op.p, 2.0)
    over = _over(call, call.op.dim, named=True)
    return f"torch.linalg.vector_norm({call[0]}{order}{', ' if over else ''}{over})"


@RULES(r.Argmax, r.Argmin)
def _arg(call: Call) -> str:
    dim = call.axis(call.op.dim, call.type(0).rank)
    return f"{call.atom(0)}.{call.op.name}({dim}{call.option('keepdim', call.op.keepdim, False)})"


@RULES(r.Topk)
def _topk(call: Call) -> Expression:
    op = call.op
    options = call.option("dim", -1 if op.dim == call.type(0).rank - 1 else op.dim, -1)
    options += call.option("largest", op.largest, True) + call.option("sorted", op.sorted, True)
    return Expression(f"{call.atom(0)}.topk({call.number(op.k, 'k')}{options})", tuple=True)


@RULES(r.Cumsum)
def _cumsum(call: Call) -> str:
    return f"{call.atom(0)}.cumsum({call.axis(call.op.dim, call.type(0).rank)})"
