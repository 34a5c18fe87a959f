"""Images at another size or place: interpolation, pixel shuffling, patches, sampling on a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal, cast

from pydantic import PlainValidator

from ..types import Dim, DType, Expression, Shape, TensorType, divide, floor_divide, known_less
from .arithmetic import Ge, Le, LogicalAnd, Maximum, Minimum, Round, as_type
from .attribute import Flag, Padding2, Positive, Positive2
from .creation import Arange
from .dimension import Movement, Sizes, given, labels, need_float, need_rank, pattern
from .formula import Formula, cubic_weights
from .indexing import Gather, IndexSelect, Pad
from .layout import Expand, Permute, Reshape, Slice, Stack
from .operator import Axes, Cost, Emit, Operator, ShapeError, Types, V, operands, operator, sample
from .window import check_fit, extent, positions


def _factors(value: Any) -> tuple[float, ...]:
    items = cast("Sequence[Any]", value) if isinstance(value, (list, tuple)) else (value,)
    for item in items:
        if isinstance(item, bool) or not isinstance(item, (int, float)) or not 0 < item < math.inf:
            raise ValueError("should be a number above 0, or one for each spatial axis")
    return tuple(map(float, items))


_RANKS = {"nearest": (3, 4, 5), "linear": (3,), "bilinear": (4,), "bicubic": (4,)}
_TAPS = {"nearest": 1, "linear": 2, "bilinear": 4, "bicubic": 16}


@operator("interpolate")
class Interpolate(Operator):
    """Another spatial size for `x [N, C, *size]`, as in `torch.nn.functional.interpolate` without antialiasing.

    Give `size` or `scale_factor`. The canonical form has the size, and keeps the factor only where it is not exactly
    the quotient of the sizes: PyTorch then places points by the factor. Linear modes take points at half-pixel
    centres, or with `align_corners` so that the corners meet; bicubic convolution has a = -0.75.
    """

    operands = operands("x")
    derived = True
    size: Sizes | None = None
    scale_factor: Annotated[tuple[float, ...], PlainValidator(_factors)] | None = None
    mode: Literal["nearest", "linear", "bilinear", "bicubic"] = "nearest"
    align_corners: Flag = False

    def canonical(self, *inputs: TensorType | None) -> Interpolate:
        (x,) = given(inputs)
        self._check(x)
        size = None if self.size is None else self._each(self.size, x)
        factor = None if self.scale_factor is None else self._each(self.scale_factor, x)
        if factor is not None:
            scaled = tuple(self._scaled(d, s, x) for d, s in zip(x.shape[2:], factor, strict=True))
            if size is not None and size != scaled:
                raise ShapeError("interpolate is given both size and scale_factor", code="conflicting-attributes")
            size = scaled
            exact = all(_is_exact(d, s) for d, s in zip(x.shape[2:], factor, strict=True))
            factor = None if exact or self.align_corners else factor
        if size is None:
            raise ShapeError("interpolate needs size or scale_factor", code="missing-attribute")
        for wanted in size:
            if known_less(wanted, 1):
                raise ShapeError(f"interpolate of {x} would make an axis of size {wanted}", operands=(0,))
        return Interpolate(size, factor, self.mode, self.align_corners)

    def _check(self, x: TensorType) -> None:
        need_float(self, x)
        if x.rank not in _RANKS[self.mode]:
            other = {3: "linear", 4: "bilinear"}.get(x.rank, "nearest")
            raise ShapeError(
                f'interpolate with mode "{self.mode}" takes rank {" to ".join(map(str, _RANKS[self.mode]))}, not {x}',
                operands=(0,),
                code="rank-mismatch",
                fix=f'mode = "{other}"' if 3 <= x.rank <= 5 else None,
            )
        if self.align_corners and self.mode == "nearest":
            raise ShapeError("interpolate with mode nearest does not align corners", code="conflicting-attributes")

    def _each(self, values: tuple[Any, ...], x: TensorType) -> tuple[Any, ...]:
        if len(values) == 1:
            return values * (x.rank - 2)
        if len(values) != x.rank - 2:
            raise ShapeError(f"interpolate is given {len(values)} numbers for the {x.rank - 2} spatial axes of {x}")
        return values

    def _scaled(self, size: Dim, factor: float, x: TensorType) -> Dim:
        if isinstance(size, int):
            return math.floor(size * factor)
        exact = Fraction(factor)
        if exact.denominator > 64:
            raise ShapeError(
                f"interpolate cannot multiply the symbolic size {size} of {x} by {factor}",
                operands=(0,),
                fix="give size, or a factor that is a whole number or a half, quarter, …",
            )
        return floor_divide(size * exact.numerator, exact.denominator)

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        return (TensorType(x.dtype, (*x.shape[:2], *self._sizes(x))),)

    def _sizes(self, x: TensorType) -> Shape:
        size = self.canonical(x).size
        assert size is not None
        return size

    def axes(self, *inputs: TensorType | None) -> Axes:
        (x,) = given(inputs)
        before, after = labels(x.rank - 2, "y"), labels(x.rank - 2, "z")
        text = pattern([["n", "c", *before]], ["n", "c", *after])
        return Axes(text, dict.fromkeys((*before, *after), "interpolate resamples it"))

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        return Cost(flops=(2 * _TAPS[self.mode] - 1) * outputs[0].elements if self.mode != "nearest" else 0)

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        kind = emit.type(x)
        op = self.canonical(kind)
        assert op.size is not None
        precise = DType.F64 if kind.dtype is DType.F64 else DType.F32
        value = x if self.mode == "nearest" else as_type(emit, x, precise)
        for axis, size in enumerate(op.size):
            factor = None if op.scale_factor is None else op.scale_factor[axis]
            if size == kind.shape[axis + 2] and factor in (None, 1):
                continue
            line = _Line(emit, value, axis + 2, size, factor, precise)
            value = line.nearest() if op.mode == "nearest" else line.interpolated(op.mode, op.align_corners)
        return as_type(emit, value, kind.dtype)


def _is_exact(size: Dim, factor: float) -> bool:
    """Whether a size times a factor is a whole number, so that the factor is the quotient of the sizes."""
    if isinstance(size, int):
        return abs(size * factor - round(size * factor)) < 1e-9 * size
    exact = Fraction(factor)
    return divide(size * exact.numerator, exact.denominator) is not None


class _Line:
    """Interpolation along one axis of a value."""

    def __init__(self, emit: Emit[V], x: V, dim: int, size: Dim, factor: float | None, dtype: DType) -> None:
        self._emit: Any = emit
        self._x: Any = x
        self._dim = dim
        self._size = size
        self._factor = factor
        self._dtype = dtype
        self._before: Dim = emit.type(x).shape[dim]

    def nearest(self) -> Any:
        """Element ⌊i · scale⌋, computed in f32 whatever the dtype, as PyTorch does."""
        f = Formula[Any](self._emit, DType.F32)
        point = f.mul(self._emit(Arange(0, self._size, 1, DType.F32)), self._scale(f))
        return self._taken(f.floor(point))

    def interpolated(self, mode: str, align_corners: bool) -> Any:
        """The weighted sum of two or four neighbours."""
        f = Formula[Any](self._emit, self._dtype)
        steps = self._emit(Arange(0, self._size, 1, self._dtype))
        if align_corners:
            point = f.mul(steps, self._corner_scale(f))
        else:
            point = f.sub(f.mul(f.add(steps, 0.5), self._scale(f)), 0.5)
        if mode != "bicubic" and not align_corners:
            point = self._emit(Maximum(), point, f.number(0))
        base = self._emit(Minimum(), f.floor(point), f.number(self._before - 1))
        past = f.between(f.sub(point, base), 0, 1)
        weights = cubic_weights(f, past) if mode == "bicubic" else (f.sub(1, past), past)
        first = -1 if mode == "bicubic" else 0
        rest = self._emit.type(self._x).rank - self._dim - 1
        total: Any = None
        for offset, weight in enumerate(weights, first):
            taken = self._taken(f.add(base, offset) if offset else base)
            term = f.mul(taken, self._emit(Reshape((self._size, *(1,) * rest)), weight))
            total = term if total is None else f.add(total, term)
        return total

    def _taken(self, position: Any) -> Any:
        """The slices at positions, which are floats; those beyond the border are the border."""
        f = Formula[Any](self._emit, self._emit.type(position).dtype)
        index = as_type(self._emit, f.between(position, 0, self._before - 1), DType.I64)
        return self._emit(IndexSelect(self._dim), self._x, index)

    def _scale(self, f: Formula[Any]) -> Any:
        """Input elements an output element."""
        if self._factor is not None:
            return f.number(1 / self._factor)
        known = ratio(self._before, self._size)
        return f.number(known) if known is not None else f.div(self._before, self._size)

    def _corner_scale(self, f: Formula[Any]) -> Any:
        last, steps = self._before - 1, self._size - 1
        if steps == 0:
            return f.number(0)
        known = ratio(last, steps)
        if known is not None:
            return f.number(known)
        return f.div(last, steps if isinstance(steps, int) else self._emit(Maximum(), f.number(steps), f.number(1)))


def ratio(a: Dim, b: Dim) -> float | None:
    """The quotient a / b where it is one number for all values of the symbols."""
    if isinstance(a, int) and isinstance(b, int):
        return a / b
    if isinstance(a, int) or isinstance(b, int):
        return None
    top, bottom = a.terms[0][1], b.terms[0][1]
    return top / bottom if a * bottom == b * top else None


@operator("pixel_shuffle")
class PixelShuffle(Movement):
    """`[*, C·r², H, W]` as `[*, C, H·r, W·r]` (Shi et al. 2016)."""

    operands = operands("x")
    derived = True
    upscale_factor: Positive

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        *lead, c, h, w = self._split(x)
        return (TensorType(x.dtype, (*lead, c, h * self.upscale_factor, w * self.upscale_factor)),)

    def _split(self, x: TensorType) -> Shape:
        r = self.upscale_factor
        if x.rank < 3:
            raise ShapeError(f"pixel_shuffle takes [*, C, H, W], not {x}", operands=(0,), code="rank-mismatch")
        channels = divide(x.shape[-3], r * r)
        if channels is None:
            raise ShapeError(
                f"pixel_shuffle by {r} needs a multiple of {r * r} channels, but {x} has {x.shape[-3]}",
                operands=(0,),
                code="indivisible",
            )
        return (*x.shape[:-3], channels, *x.shape[-2:])

    def axes(self, *inputs: TensorType | None) -> Axes:
        lead = labels(given(inputs)[0].rank - 3)
        fixed = dict.fromkeys("rs", "it is the factor of pixel_shuffle")
        return Axes(pattern([[*lead, "(c r s)", "h", "w"]], [*lead, "c", "(h r)", "(w s)"]), fixed, frozenset("hw"))

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        kind, r = emit.type(x), self.upscale_factor
        *lead, c, h, w = self._split(kind)
        n = len(lead)
        split = emit(Reshape((*lead, c, r, r, h, w)), x)
        moved = emit(Permute((*range(n), n, n + 3, n + 1, n + 4, n + 2)), split)
        return emit(Reshape(self.shape(kind)[0].shape), moved)


@operator("pixel_unshuffle")
class PixelUnshuffle(Movement):
    """`[*, C, H·r, W·r]` as `[*, C·r², H, W]`."""

    operands = operands("x")
    derived = True
    downscale_factor: Positive

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        *lead, c, h, w = self._split(x)
        return (TensorType(x.dtype, (*lead, c * self.downscale_factor**2, h, w)),)

    def _split(self, x: TensorType) -> Shape:
        r = self.downscale_factor
        if x.rank < 3:
            raise ShapeError(f"pixel_unshuffle takes [*, C, H, W], not {x}", operands=(0,), code="rank-mismatch")
        sizes: list[Dim] = []
        for axis in (x.rank - 2, x.rank - 1):
            size = divide(x.shape[axis], r)
            if size is None:
                raise ShapeError(
                    f"pixel_unshuffle by {r} needs multiples of {r}, but axis {axis} of {x} is {x.shape[axis]}",
                    operands=(0,),
                    code="indivisible",
                )
            sizes.append(size)
        return (*x.shape[:-2], *sizes)

    def axes(self, *inputs: TensorType | None) -> Axes:
        lead = labels(given(inputs)[0].rank - 3)
        fixed = dict.fromkeys("rs", "it is the factor of pixel_unshuffle")
        return Axes(pattern([[*lead, "c", "(h r)", "(w s)"]], [*lead, "(c r s)", "h", "w"]), fixed, frozenset("hw"))

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        kind, r = emit.type(x), self.downscale_factor
        *lead, c, h, w = self._split(kind)
        n = len(lead)
        split = emit(Reshape((*lead, c, h, r, w, r)), x)
        moved = emit(Permute((*range(n), n, n + 2, n + 4, n + 1, n + 3)), split)
        return emit(Reshape(self.shape(kind)[0].shape), moved)


@operator("unfold")
class Unfold(Movement):
    """Windows of `x [N, C, H, W]` as columns `[N, C·kh·kw, windows]`, as in `torch.nn.functional.unfold`."""

    operands = operands("x")
    derived = True
    kernel_size: Positive2
    dilation: Positive2 = (1, 1)
    padding: Padding2 = ((0, 0), (0, 0))
    stride: Positive2 = (1, 1)

    def _windows(self, x: TensorType) -> tuple[Dim, Dim]:
        need_rank(self, x, 4, "N, C, H, W")
        reach = [extent(k, d) for k, d in zip(self.kernel_size, self.dilation, strict=True)]
        check_fit(self, x, reach, self.padding)
        h, w = (positions(x.shape[i + 2], reach[i], self.stride[i], self.padding[i]) for i in (0, 1))
        return h, w

    def shape(self, *inputs: TensorType | None) -> Types:
        (x,) = given(inputs)
        h, w = self._windows(x)
        kh, kw = self.kernel_size
        return (TensorType(x.dtype, (x.shape[0], x.shape[1] * (kh * kw), h * w)),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        fixed = {
            **dict.fromkeys("kl", "it is a place in the windows of unfold"),
            **dict.fromkeys("hw", "a window slides over it"),
            "p": "it counts the places of a sliding window",
        }
        return Axes("n c h w -> n (c k l) p", fixed, sizes=dict(zip("kl", self.kernel_size, strict=True)))

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        (x,) = inputs
        assert x is not None
        kind = emit.type(x)
        sizes = self._windows(kind)
        padded = x if self.padding == ((0, 0), (0, 0)) else emit(Pad(self.padding), x)
        places: list[V] = []
        for i in range(self.kernel_size[0]):
            row = self._strided(emit, padded, 0, i, sizes[0])
            places.extend(self._strided(emit, row, 1, j, sizes[1]) for j in range(self.kernel_size[1]))
        return emit(Reshape(self.shape(kind)[0].shape), emit(Stack(2), *places))

    def _strided(self, emit: Emit[V], x: V, axis: int, place: int, count: Dim) -> V:
        """What the kernel sees at one of its places along an axis, over all windows."""
        start = place * self.dilation[axis]
        return emit(Slice(axis + 2, start, (count - 1) * self.stride[axis] + (start + 1), self.stride[axis]), x)


@operator("grid_sample")
class GridSample(Operator):
    """`x [N, C, H, W]` at the points (x, y) of `grid [N, H', W', 2]`, which run from -1 to 1 over the image.

    As in `torch.nn.functional.grid_sample`. -1 and 1 are the centres of the corner pixels with `align_corners`, else
    their outer edges. Points outside read 0, the border, or the mirrored image.
    """

    operands = operands("x grid")
    derived = True
    mode: Literal["bilinear", "nearest", "bicubic"] = "bilinear"
    padding_mode: Literal["zeros", "border", "reflection"] = "zeros"
    align_corners: Flag = False

    def shape(self, *inputs: TensorType | None) -> Types:
        x, grid = given(inputs)
        need_float(self, x, grid)
        need_rank(self, x, 4, "N, C, H, W")
        need_rank(self, grid, 4, "N, H, W, 2", 1)
        if x.dtype != grid.dtype:
            raise ShapeError(
                f"grid_sample takes {x} and {grid}, of different dtypes",
                operands=(0, 1),
                code="dtype-mismatch",
                fix=f"cast(grid, {x.dtype.value})",
            )
        if x.shape[0] != grid.shape[0]:
            raise ShapeError(
                f"grid_sample takes {x} and {grid}: axis 0 is {x.shape[0]} and {grid.shape[0]}", operands=(0, 1)
            )
        if grid.shape[3] != 2:
            raise ShapeError(f"grid_sample takes points (x, y), so axis 3 of {grid} should be 2", operands=(1,))
        return (TensorType(x.dtype, (*x.shape[:2], *grid.shape[1:3])),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        fixed = {**dict.fromkeys("hw", "the grid holds positions in it"), "xy": "it is the x and y of a point"}
        return Axes("n c h w, n i j xy -> n c i j", fixed)

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        taps = {"nearest": 1, "bilinear": 4, "bicubic": 16}[self.mode]
        return Cost(flops=(2 * taps - 1) * outputs[0].elements)

    def expand(self, emit: Emit[V], *inputs: V | None) -> V:
        x, grid = inputs
        assert x is not None
        assert grid is not None
        kind = emit.type(x)
        precise = DType.F64 if kind.dtype is DType.F64 else DType.F32
        sampler = _Sampler(self, emit, as_type(emit, x, precise), as_type(emit, grid, precise))
        return as_type(emit, cast(V, sampler.sampled()), kind.dtype)


class _Sampler:
    """The expansion of `grid_sample`: points in pixels, and the image read at them."""

    def __init__(self, op: GridSample, emit: Emit[V], x: V, grid: V) -> None:
        self._op = op
        self._emit: Any = emit
        kind = emit.type(x)
        self._f = Formula[Any](self._emit, kind.dtype)
        self._sizes = (kind.shape[3], kind.shape[2])
        self._batch, self._channels = kind.shape[:2]
        self._points: Shape = emit.type(grid).shape[1:3]
        self._image: Any = emit(Reshape((*kind.shape[:2], kind.shape[2] * kind.shape[3])), x)
        self._grid: Any = grid

    def sampled(self) -> Any:
        x, y = (self._pixels(axis) for axis in (0, 1))
        if self._op.mode == "bicubic":
            return self._bicubic(x, y)
        x, y = self._inside(x, 0), self._inside(y, 1)
        if self._op.mode == "nearest":
            return self._read(self._emit(Round(), x), self._emit(Round(), y))
        return self._weighted([(x, self._two(x)), (y, self._two(y))])

    def _pixels(self, axis: int) -> Any:
        """A coordinate of the grid in pixels, `[N, H', W']`; 0 is the centre of the first pixel."""
        f, size = self._f, self._sizes[axis]
        cut = self._emit(Slice(3, axis, axis + 1), self._grid)
        value = f.add(self._emit(Reshape((self._batch, *self._points)), cut), 1)
        if self._op.align_corners:
            return f.mul(value, f.div(size - 1, 2) if isinstance(size, Expression) else (size - 1) / 2)
        return f.mul(f.sub(f.mul(value, size), 1), 0.5)

    def _inside(self, point: Any, axis: int) -> Any:
        """A coordinate in pixels moved into the image as the padding mode says; `zeros` leaves it."""
        last = self._sizes[axis] - 1
        if self._op.padding_mode == "reflection":
            point = self._reflected(point, axis)
        return point if self._op.padding_mode == "zeros" else self._f.between(point, 0, last)

    def _reflected(self, point: Any, axis: int) -> Any:
        """A triangle wave between the corner pixels' centres, or their outer edges."""
        f, size = self._f, self._sizes[axis]
        low, span = (0.0, size - 1) if self._op.align_corners else (-0.5, size)
        if span == 0:
            return f.mul(point, 0)
        away = f.abs(f.sub(point, low) if low else point)
        # 0 … span and back: span - |span - away mod 2·span|.
        turned = f.abs(f.sub(span, f.remainder(away, span * 2)))
        return f.add(f.sub(span, turned), low)

    def _two(self, point: Any) -> list[tuple[Any, Any]]:
        """The pixels before and after a coordinate, and their weights."""
        before = self._f.floor(point)
        past = self._f.sub(point, before)
        return [(before, self._f.sub(1, past)), (self._f.add(before, 1), past)]

    def _bicubic(self, x: Any, y: Any) -> Any:
        taps: list[tuple[Any, list[tuple[Any, Any]]]] = []
        for axis, point in enumerate((x, y)):
            base = self._f.floor(point)
            weights = cubic_weights(self._f, self._f.sub(point, base))
            places = [self._f.add(base, offset) for offset in (-1, 0, 1, 2)]
            taps.append((point, [(self._inside(p, axis), w) for p, w in zip(places, weights, strict=True)]))
        return self._weighted(taps)

    def _weighted(self, taps: list[tuple[Any, list[tuple[Any, Any]]]]) -> Any:
        (_, columns), (_, rows) = taps
        total: Any = None
        for y, y_weight in rows:
            for x, x_weight in columns:
                weight = self._spread(self._f.mul(x_weight, y_weight))
                term = self._f.mul(self._read(x, y), weight)
                total = term if total is None else self._f.add(total, term)
        return total

    def _spread(self, value: Any) -> Any:
        return self._emit(Reshape((self._batch, 1, *self._points)), value)

    def _read(self, x: Any, y: Any) -> Any:
        """The image `[N, C, H', W']` at whole coordinates; 0 outside where the padding mode is `zeros`."""
        f, (w, h) = self._f, self._sizes
        flat = f.add(f.mul(f.between(y, 0, h - 1), w), f.between(x, 0, w - 1))
        count = self._points[0] * self._points[1]
        index = self._emit(Reshape((self._batch, 1, count)), as_type(self._emit, flat, DType.I64))
        index = self._emit(Expand((self._batch, self._channels, count)), index)
        found = self._emit(Gather(2), self._image, index)
        found = self._emit(Reshape((self._batch, self._channels, *self._points)), found)
        if self._op.padding_mode != "zeros":
            return found
        inside = [
            self._emit(test, point, f.number(bound))
            for point, size in ((x, w), (y, h))
            for test, bound in ((Ge(), 0), (Le(), size - 1))
        ]
        within = inside[0]
        for condition in inside[1:]:
            within = self._emit(LogicalAnd(), within, condition)
        return f.mul(found, self._spread(f.cast(within)))


for _mode in ("nearest", "bilinear", "bicubic"):
    sample(Interpolate((7, 4), None, _mode), "f32[1, 2, 4, 6]")
    sample(Interpolate(None, (2.0,), _mode), "f32[1, 2, 3, 4]")
    sample(Interpolate(None, (0.7, 1.6), _mode), "f32[1, 2, 5, 6]")
for _mode in ("bilinear", "bicubic"):
    sample(Interpolate((5, 3), None, _mode, True), "f32[1, 2, 4, 6]")
sample(Interpolate((1, 6), None, "bilinear", True), "f32[1, 2, 4, 3]")
sample(Interpolate((9,), None, "linear"), "f32[1, 2, 4]")
sample(Interpolate(None, (3.0,)), "f32[1, 2, 4]")
sample(PixelShuffle(2), "f32[2, 12, 3, 4]")
sample(PixelShuffle(3), "f32[9, 2, 2]")
sample(PixelUnshuffle(2), "f32[2, 3, 4, 6]")
sample(Unfold((2, 3)), "f32[2, 3, 4, 5]")
sample(Unfold((3, 3), (2, 1), ((1, 1), (2, 2)), (2, 3)), "f32[1, 2, 6, 7]")
for _padding in ("zeros", "border", "reflection"):
    sample(GridSample("bilinear", _padding), "f32[2, 3, 5, 4]", "f32[2, 3, 6, 2]")
    sample(GridSample("bicubic", _padding), "f32[1, 2, 5, 4]", "f32[1, 3, 3, 2]")
sample(GridSample("nearest", "border", True), "f32[1, 2, 5, 4]", "f32[1, 3, 3, 2]")
sample(GridSample("bilinear", "reflection", True), "f32[1, 2, 5, 4]", "f32[1, 3, 3, 2]")
