"""Rules of images at another size or place, and of a user's own functions."""

from __future__ import annotations

from ...compiler.diagnostic import Diagnostic, Label, NetcError
from ...compiler.operators import extern as ex
from ...compiler.operators import resampling as rs
from ...compiler.types import Dim, divide
from ...compiler.types import Expression as Polynomial
from .call import RULES, Call, compact
from .layers import before, padded
from .template import Expression


@RULES(rs.Interpolate)
def _interpolate(call: Call) -> str:
    op, sizes = call.op, call.type(0).shape[2:]
    if op.scale_factor is not None:
        place = f"scale_factor={call.number(_one(op.scale_factor), 'scale_factor')}"
    elif factor := _doubling(sizes, op.size):
        place = f"scale_factor={call.number(factor, 'scale_factor')}"
    elif all(isinstance(d, int) for d in op.size):
        place = f"size={call.number(compact(op.size), 'size')}"
    else:
        place = f"size=({call.sizes(op.size)}{',' if len(op.size) == 1 else ''})"
    options = call.option("mode", op.mode, "nearest") + call.option("align_corners", op.align_corners, False)
    return f"F.interpolate({call[0]}, {place}{options})"


def _one(values: tuple[float, ...]) -> float | tuple[float, ...]:
    return values[0] if len(set(values)) == 1 else values


def _doubling(sizes: tuple[Dim, ...], wanted: tuple[Dim, ...]) -> int | None:
    """The power of 2 by which all sizes grow: then a factor and a size place points alike, to the last bit."""
    factors = {divide(b, a) for a, b in zip(sizes, wanted, strict=True)}
    factor = factors.pop()
    return factor if not factors and isinstance(factor, int) and factor in (2, 4, 8, 16, 32) else None


@RULES(rs.PixelShuffle)
def _pixel_shuffle(call: Call) -> str:
    return f"F.pixel_shuffle({call[0]}, {call.number(call.op.upscale_factor, 'upscale_factor')})"


@RULES(rs.PixelUnshuffle)
def _pixel_unshuffle(call: Call) -> str:
    return f"F.pixel_unshuffle({call[0]}, {call.number(call.op.downscale_factor, 'downscale_factor')})"


@RULES(rs.Unfold)
def _unfold(call: Call) -> str:
    op = call.op
    options = call.option("dilation", compact(op.dilation), 1) + call.option("padding", before(op.padding), 0)
    options += call.option("stride", compact(op.stride), 1)
    return f"F.unfold({padded(call, op.padding)}, {call.number(compact(op.kernel_size), 'kernel_size')}{options})"


@RULES(rs.GridSample)
def _grid_sample(call: Call) -> str:
    op = call.op
    options = call.option("mode", op.mode, "bilinear") + call.option("padding_mode", op.padding_mode, "zeros")
    return f"F.grid_sample({call[0]}, {call[1]}{options}{call.option('align_corners', op.align_corners)})"


@RULES(ex.Extern)
def _extern(call: Call) -> Expression:
    """The user's function, imported from where its declaration says."""
    op = call.op
    places = dict(op.implementations)
    if "pytorch" not in places:
        raise NetcError([_missing(call, sorted(places))])
    given = call.rest()
    for name, value in op.attributes_:
        given.append(f"{name}={call.size(value) if isinstance(value, Polynomial) else call.number(value, name)}")
    return Expression(f"{call.page.external(places['pytorch'])}({', '.join(given)})", tuple=len(op.types) > 1)


def _missing(call: Call, places: list[str]) -> Diagnostic:
    return Diagnostic(
        "no-implementation",
        f"{call.op.name_} at %{call.node.path} names no function for PyTorch",
        tuple(Label(span) for span in call.node.origin[:1]),
        (f"it has implementations for: {', '.join(places) or 'nothing'}",),
        'pytorch "module:function"',
    )
