"""ONNX rules of reductions, cumulative sums, the largest elements, and of matrix products, which reduce too."""

from __future__ import annotations

from ...compiler.operators import linear as m
from ...compiler.operators import reduction as r
from ...compiler.types import DType
from .build import RULES, Build

_REDUCTIONS: dict[type[r.Reduction], str] = {
    r.Mean: "ReduceMean",
    r.Sum: "ReduceSum",
    r.Prod: "ReduceProd",
    r.Max: "ReduceMax",
    r.Min: "ReduceMin",
}


@RULES(*_REDUCTIONS)
def _reduce(b: Build, op: r.Reduction, x: str) -> str:
    x = b.operand(x, 0, b.result.dtype)
    if not op.dim:
        return x
    return b(_REDUCTIONS[type(op)], x, b.constant(list(op.dim)), keepdims=int(op.keepdim))


@RULES(r.Argmax, r.Argmin)
def _arg(b: Build, op: r.Arg, x: str) -> str:
    return b("ArgMax" if op.name == "argmax" else "ArgMin", x, axis=op.dim, keepdims=int(op.keepdim))


@RULES(r.Topk)
def _topk(b: Build, op: r.Topk, x: str) -> tuple[str, ...]:
    return b.many("TopK", 2, x, b.constant([op.k]), axis=op.dim, largest=int(op.largest), sorted=int(op.sorted))


@RULES(r.Cumsum)
def _cumsum(b: Build, op: r.Cumsum, x: str) -> str:
    return b("CumSum", b.operand(x, 0, b.result.dtype), b.constant(op.dim))


@RULES(m.Linear)
def _linear(b: Build, op: m.Linear, x: str, weight: str, bias: str | None = None) -> str:
    """A rank-2 input is ONNX's Gemm; others a product with the weight turned, which runtimes do beforehand."""
    if b.type(0).rank == 2:
        return b("Gemm", x, weight, bias, transB=1)
    product = b("MatMul", x, b("Transpose", weight, perm=[1, 0]))
    return product if bias is None else b("Add", product, bias)


@RULES(m.Embedding)
def _embedding(b: Build, op: m.Embedding, x: str, weight: str) -> str:
    kept = b.type(0).dtype in (DType.I64, DType.I32)
    return b("Gather", weight, x if kept else b.operand(x, 0, DType.I64), axis=0)


@RULES(m.Matmul)
def _matmul(b: Build, op: m.Matmul, x: str, y: str) -> str:
    return b("MatMul", x, y)


@RULES(m.Einsum)
def _einsum(b: Build, op: m.Einsum, *tensors: str) -> str:
    return b("Einsum", *tensors, equation=op.equation)
