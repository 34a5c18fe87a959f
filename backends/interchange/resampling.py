"""ONNX rules of resampling images."""

from __future__ import annotations

import numpy

from ...compiler.operators import resampling as s
from ...compiler.types import DType
from .build import RULES, Build

_MODES = {"nearest": "nearest", "linear": "linear", "bilinear": "linear", "bicubic": "cubic"}


@RULES(s.Interpolate)
def _interpolate(b: Build, op: s.Interpolate, x: str) -> str:
    """The canonical operator has a factor only where points are placed by it and not by the sizes."""
    nearest = op.mode == "nearest"
    placing = "asymmetric" if nearest else "align_corners" if op.align_corners else "half_pixel"
    by_factor = op.scale_factor is not None
    return b(
        "Resize",
        x,
        None,
        _scales(b, op) if by_factor else None,
        None if by_factor else b.vector(b.result.shape),
        mode=_MODES[op.mode],
        coordinate_transformation_mode=placing,
        nearest_mode="floor" if nearest else None,
        cubic_coeff_a=-0.75 if op.mode == "bicubic" else None,
    )


def _scales(b: Build, op: s.Interpolate) -> str:
    """The factors as ONNX's f32, raised by a bit where ⌊size · factor⌋ would lose its last element to rounding."""
    assert op.scale_factor is not None
    factors = [numpy.float32(f) for f in op.scale_factor]
    for i, (before, after) in enumerate(zip(b.type(0).shape[2:], b.result.shape[2:], strict=True)):
        if isinstance(before, int) and isinstance(after, int):
            while numpy.floor(numpy.float32(before) * factors[i]) < after:
                factors[i] = numpy.nextafter(factors[i], numpy.float32(numpy.inf))
    return b.constant([1, 1, *factors], DType.F32)


@RULES(s.GridSample)
def _grid_sample(b: Build, op: s.GridSample, x: str, grid: str) -> str:
    mode = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}[op.mode]
    return b("GridSample", x, grid, mode=mode, padding_mode=op.padding_mode, align_corners=int(op.align_corners))
