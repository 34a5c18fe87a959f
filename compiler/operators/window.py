"""Windows that slide over spatial axes: what convolution and pooling have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..types import Dim, Shape, TensorType, floor_divide, known_less
from .attribute import Pairs, Same
from .dimension import pattern
from .layout import Reshape
from .operator import Axes, Emit, Operator, ShapeError, V

LAYOUTS = {1: "N, C, L", 2: "N, C, H, W", 3: "N, C, D, H, W"}
"""Axes of the input by the number of spatial axes."""

SPATIAL = {1: ("x",), 2: ("y", "x"), 3: ("z", "y", "x")}
"""Labels of the spatial axes in axis patterns."""


def extent(kernel: int, dilation: int) -> int:
    """How far a dilated kernel reaches along one axis."""
    return dilation * (kernel - 1) + 1


def resolve(
    name: str,
    padding: Pairs | Same,
    sizes: Shape,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> Pairs:
    """Padding as pairs. "same" is TensorFlow's: the output has ⌈size / stride⌉ positions.

    Raises:
        ShapeError: where "same" depends on a symbolic size.
    """
    if not isinstance(padding, str):
        return padding
    pairs: list[tuple[int, int]] = []
    for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        total = (floor_divide(size + (s - 1), s) - 1) * s + extent(k, d) - size
        if not isinstance(total, int):
            raise ShapeError(
                f'{name} with padding "{padding}" and stride {s} pads by an amount that depends on {size}',
                operands=(0,),
                code="symbolic-padding",
                fix=f"give the padding in numbers, or an input size that is a multiple of {s}, such as {s}*{size}",
            )
        small = max(total, 0) // 2
        large = max(total, 0) - small
        pairs.append((small, large) if padding == "same" else (large, small))
    return tuple(pairs)


def check_rank(name: str, x: TensorType, spatial: int) -> None:
    """Raises `ShapeError` where the input is not a batch of `spatial`-dimensional maps."""
    if x.rank != spatial + 2:
        raise ShapeError(
            f"{name} takes [{LAYOUTS[spatial]}], not {x} of rank {x.rank}",
            operands=(0,),
            code="rank-mismatch",
            fix=f"{name[:-2]}{x.rank - 2}d takes an input of rank {x.rank}" if 3 <= x.rank <= 5 else None,
        )


def check_fit(op: Operator, x: TensorType, extents: Sequence[int], padding: Pairs) -> None:
    """Raises `ShapeError` where a kernel is certainly larger than the padded input."""
    for axis, (size, reach, (before, after)) in enumerate(zip(x.shape[2:], extents, padding, strict=True), 2):
        padded = size + before + after
        if known_less(padded, reach):
            short = reach - padded
            enough = f"{(reach - size + 1) // 2} or more" if isinstance(size, int) else "more"
            raise ShapeError(
                f"the kernel of {op.name} reaches over {reach}, but axis {axis} of its input {x} has {size}"
                + (f", padded to {padded}" if before + after else ""),
                operands=(0,),
                code="kernel-too-large",
                fix=f"a smaller kernel or dilation (a reach of at most {padded}), padding = {enough}, "
                f"or an input larger by {short}",
            )


def positions(size: Dim, reach: int, stride: int, pad: tuple[int, int]) -> Dim:
    """How many windows lie in a padded axis: ⌊(size + pad - reach) / stride⌋ + 1."""
    return floor_divide(size + (sum(pad) - reach), stride) + 1


def tied(kernel: Sequence[int], stride: Sequence[int], padding: Pairs) -> tuple[list[str], list[str], list[str]]:
    """Labels of the spatial axes of the input, of the kernel and of the output.

    An axis on which each output position reads the input position of the same number only keeps its label.
    """
    before = list(SPATIAL[len(kernel)])
    passes = [k == 1 and s == 1 and pair == (0, 0) for k, s, pair in zip(kernel, stride, padding, strict=True)]
    return before, [f"k{y}" for y in before], [y if same else f"{y}2" for y, same in zip(before, passes, strict=True)]


def sliding(
    before: list[str],
    channels: Sequence[str],
    weights: Sequence[Sequence[str]],
    after: list[str],
    units: Mapping[str, str] | None = None,
) -> Axes:
    """The pattern `n in *before, *weights -> n out *after`. What windows slide over is fixed, and so are the windows:
    how many positions there are follows from both."""
    given, made = channels
    fixed = {label: "a window slides over it" for label in before if label not in after}
    fixed |= {label: "it counts the places of a sliding window" for label in after if label not in before}
    fixed |= {label: "it is a place in a window" for group in weights for label in group if label.startswith("k")}
    return Axes(pattern([["n", given, *before], *weights], ["n", made, *after]), fixed, units=units or {})


def raised(emit: Emit[V], x: V) -> V:
    """`[N, C, L]` as `[N, C, 1, L]`: expansions of 1-dimensional operators are 2-dimensional ones."""
    a, b, length = emit.type(x).shape
    return emit(Reshape((a, b, 1, length)), x)


def lowered(emit: Emit[V], x: V) -> V:
    """`[N, C, 1, L]` as `[N, C, L]`."""
    a, b, _, length = emit.type(x).shape
    return emit(Reshape((a, b, length)), x)
