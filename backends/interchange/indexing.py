"""ONNX rules of reading and writing at positions."""

from __future__ import annotations

from ...compiler.operators import indexing as i
from ...compiler.operators.extern import Extern
from .build import RULES, Build


@RULES(i.Gather)
def _gather(b: Build, op: i.Gather, x: str, index: str) -> str:
    return b("GatherElements", x, index, axis=op.dim)


@RULES(i.IndexSelect)
def _index_select(b: Build, op: i.IndexSelect, x: str, index: str) -> str:
    return b("Gather", x, index, axis=op.dim)


@RULES(i.Scatter, i.ScatterAdd)
def _scatter(b: Build, op: i.Scatter | i.ScatterAdd, x: str, index: str, source: str) -> str:
    """ONNX takes as many elements as the index has; what the source has beyond them is cut off."""
    wanted, found = b.type(1).shape, b.type(2).shape
    cut = [axis for axis, (a, c) in enumerate(zip(wanted, found, strict=True)) if a != c]
    if cut:
        stops = b.vector([wanted[axis] for axis in cut])
        source = b("Slice", source, b.constant([0] * len(cut)), stops, b.constant(cut))
    return b("ScatterElements", x, index, source, axis=op.dim, reduction="add" if op.name == "scatter_add" else None)


@RULES(i.OneHot)
def _one_hot(b: Build, op: i.OneHot, x: str) -> str:
    return b("OneHot", x, b.constant(op.num_classes), b.constant([0, 1], b.result.dtype))


@RULES(i.Flip)
def _flip(b: Build, op: i.Flip, x: str) -> str:
    count = len(op.dims)
    if not count:
        return x
    first, beyond, step = ([n] * count for n in (-1, -(2**62), -1))
    return b("Slice", x, b.constant(first), b.constant(beyond), b.constant(list(op.dims)), b.constant(step))


@RULES(i.Pad)
def _pad(b: Build, op: i.Pad, x: str) -> str:
    mode = {"constant": None, "reflect": "reflect", "replicate": "edge"}[op.mode]
    pads = b.vector([before for before, _ in op.padding] + [after for _, after in op.padding])
    return b("Pad", x, pads, None if mode else b.constant(op.value, b.result.dtype), mode=mode)


RULES.unsupported(Extern, "ONNX files hold no code; give the function as a module of .net operators instead")
