"""Joints between models: a value brought into the shape that another place wants."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any, Literal

from ..axes import Analysis
from ..graph import Edit, Parameter, Ref, Value
from ..operators.arithmetic import Cast
from ..operators.convolution import Conv1d, Conv2d, Conv3d
from ..operators.layout import Permute
from ..operators.linear import Linear
from ..operators.operator import Initialiser, Operator
from ..operators.resampling import Interpolate
from ..source import Span
from ..types import Dim, Shape, TensorType, volume
from .numbers import filled, held
from .register import Refusal

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

ZEROS = Initialiser("zeros")
FRESH = Initialiser("fan_in_uniform")

_MODES: dict[int, Literal["linear", "bilinear"]] = {3: "linear", 4: "bilinear"}
_KINDS = {2: "a vector [N, C]", 3: "a sequence [N, T, C]", 4: "a map [N, C, H, W]", 5: "a volume [N, C, D, H, W]"}


def channel_axis(found: Analysis, ref: Ref) -> int:
    """The axis of a value that holds its channels: of those after the batch the one that most parameters have, in a
    model of convolutions 1, in one of tokens the last."""
    kind = found.graph.type(ref)
    usual = 1 if kind.rank > 3 else kind.rank - 1
    counts = {i: sum(len(own.places) for own, _ in found.of(ref, i)) for i in range(1, kind.rank)}
    return max(counts, key=lambda i: (counts[i], i == usual), default=0)


@dataclass(frozen=True)
class Joint:
    """How values of one model are brought to places of another.

    Where channels differ, or `always`, a projection follows: a 1 × 1 convolution, or a linear layer where the channels
    are the last axis. Its weight is drawn from `initialiser` with `seed`, its bias is 0. With a `rank` it is the
    product of two, of which the second is drawn so. Where the space differs, it is resampled by `mode`; where it
    shrinks by whole factors and is projected anyway, by the stride of the projection.
    """

    initialiser: Initialiser = FRESH
    bias: bool = True
    rank: int | None = None
    always: bool = False
    mode: Literal["linear", "nearest"] = "linear"
    seed: int = 0


def misfit(have: TensorType, wanted: TensorType, axes: tuple[int, int] | None = None) -> str | None:
    """Why no joint leads from one type to another, in words, or None."""
    a, b = axes or _usual(have, wanted)
    if have.rank != wanted.rank or have.rank not in _KINDS:
        return f"{_kind(have)} cannot be made {_kind(wanted)}"
    if have.shape[0] != wanted.shape[0]:
        return f"they are batches of {have.shape[0]} and of {wanted.shape[0]}"
    if not have.dtype.is_float or not wanted.dtype.is_float:
        return f"there is no projection from {have.dtype.value} to {wanted.dtype.value}"
    if not isinstance(have.shape[a], int) or not isinstance(wanted.shape[b], int):
        return "the number of channels is not known"
    return None


def joined(
    edit: Edit,
    path: str,
    value: Ref,
    wanted: TensorType,
    how: Joint | None = None,
    *,
    axes: tuple[int, int] | None = None,
    numbers: tuple[Array, Array | None] | None = None,
    origin: tuple[Span, ...] = (),
    node: str = "",
    option: str | None = None,
) -> Ref:
    """A value of type `wanted` made of `value` by nodes and parameters below `path`; `value` itself where it fits.

    `axes` are those of the channels, in `value` and in `wanted` (see `channel_axis`); usually axis 1 of maps and the
    last one of others. `numbers` are the weight `[out, in]` and the bias of the projection, of any float dtype; with a
    rank the weight is brought to it by its singular vectors. `node` is what a refusal calls the value, a path in the
    model that it comes from, and `option` what it says is wrong.

    Raises:
        Refusal: where there is no joint between the types; the message has both.
    """
    have, how = edit.type(value), how or Joint()
    if have == wanted and (axes is None or axes[0] == axes[1]) and not how.always and numbers is None:
        return value
    problem = misfit(have, wanted, axes)
    if problem:
        node = node or (value.node if isinstance(value, Value) else value.parameter)
        message = f"{node} gives {have} where {wanted} is wanted: {problem}"
        notes = (f"what would fit: {_kind(wanted)}, of any size and width",)
        raise Refusal(message, nodes=[node], option=option, notes=notes)
    return _Joining(edit, path, how, axes or _usual(have, wanted), numbers, origin).run(value, wanted)


def _usual(have: TensorType, wanted: TensorType) -> tuple[int, int]:
    a, b = (1 if kind.rank > 3 else kind.rank - 1 for kind in (have, wanted))
    return a, b


def _kind(kind: TensorType) -> str:
    return _KINDS.get(kind.rank, f"a value of {kind.rank} axes")


@dataclass
class _Joining:
    """One joint being built. `at` is the axis of the channels by now."""

    edit: Edit
    path: str
    how: Joint
    axes: tuple[int, int]
    numbers: tuple[Array, Array | None] | None
    origin: tuple[Span, ...]

    def run(self, value: Ref, wanted: TensorType) -> Ref:
        self.at, end = self.axes
        have = self.edit.type(value)
        if have.dtype is not wanted.dtype:
            value = self._add("cast", Cast(wanted.dtype), value)
        width = wanted.shape[end]
        space = wanted.shape[1:end] + wanted.shape[end + 1 :]
        before = have.shape[1 : self.at] + have.shape[self.at + 1 :]
        projected = self.how.always or self.numbers is not None or have.shape[self.at] != width
        assert isinstance(width, int)
        if before == space:
            value = self._projected(value, width) if projected else value
        elif projected and (stride := _stride(before, space)):
            value = self._projected(self._moved(value, 1), width, stride)
        elif projected and _grows(before, space):
            value = self._resampled(self._projected(value, width), space)
        else:
            value = self._resampled(value, space)
            value = self._projected(value, width) if projected else value
        return self._moved(value, end)

    def _add(self, name: str, op: Operator, *inputs: Ref | None) -> Value:
        return self.edit.add(self.edit.fresh(f"{self.path}.{name}"), op, *inputs, origin=self.origin).value

    def _moved(self, value: Ref, to: int) -> Ref:
        """With the channels as axis `to`."""
        if to == self.at:
            return value
        rest = [i for i in range(self.edit.type(value).rank) if i != self.at]
        rest.insert(to, self.at)
        self.at = to
        return self._add("permute", Permute(tuple(rest)), value)

    def _resampled(self, value: Ref, space: Shape) -> Ref:
        value = self._moved(value, 1)
        kind = self.edit.type(value)
        smooth = _MODES.get(kind.rank) if self.how.mode == "linear" else None
        return self._add("resample", Interpolate(space, None, smooth or "nearest"), value)

    def _projected(self, value: Ref, width: int, stride: tuple[int, ...] = ()) -> Ref:
        last = self.edit.type(value).rank - 1
        value = self._moved(value, last if not stride and last in (self.at, self.axes[1]) else 1)
        if self.how.rank is None:
            return self._layer("project", value, width, self.how.initialiser, self.numbers, self.how.bias, stride)
        down, up = _factors(self.numbers, self.how.rank)
        value = self._layer("down", value, self.how.rank, FRESH, down, False, stride)
        return self._layer("up", value, width, self.how.initialiser, up, self.how.bias)

    def _layer(
        self,
        name: str,
        value: Ref,
        width: int,
        initialiser: Initialiser,
        numbers: tuple[Array, Array | None] | None,
        bias: bool,
        stride: tuple[int, ...] = (),
    ) -> Ref:
        kind = self.edit.type(value)
        path = self.edit.fresh(f"{self.path}.{name}")
        while self.edit.find_parameter(f"{path}.weight"):
            path = self.edit.fresh(f"{self.path}.{name}")
        space = 0 if self.at == kind.rank - 1 else kind.rank - 2
        wide = kind.shape[self.at]
        assert isinstance(wide, int), "a misfit otherwise"
        shape = (width, wide, *(1,) * space)
        weight = Parameter(f"{path}.weight", TensorType(kind.dtype, shape), initialiser, origin=self.origin)
        offset = Parameter(f"{path}.bias", TensorType(kind.dtype, (width,)), ZEROS, origin=self.origin)
        if numbers:
            weight = held(weight, numbers[0].reshape(shape))
            offset = offset if numbers[1] is None else held(offset, numbers[1])
        refs = [
            self.edit.parameter(filled(weight, self.how.seed)),
            self.edit.parameter(filled(offset)) if bias else None,
        ]
        return self.edit.add(path, _projection(space, stride), value, *refs, origin=self.origin).value


def _projection(space: int, stride: tuple[int, ...]) -> Operator:
    if not space:
        return Linear()
    kind = {1: Conv1d, 2: Conv2d, 3: Conv3d}[space]
    return kind(stride or (1,) * space, ((0, 0),) * space, (1,) * space, 1)


def _stride(before: Shape, after: Shape) -> tuple[int, ...] | None:
    """By how many whole times the space shrinks along each axis."""
    found: list[int] = []
    for a, b in zip(before, after, strict=True):
        if not isinstance(a, int) or not isinstance(b, int) or a % b:
            return None
        found.append(a // b)
    return tuple(found)


def _grows(before: Shape, after: Shape) -> bool:
    a: Dim = volume(before)
    b: Dim = volume(after)
    return isinstance(a, int) and isinstance(b, int) and a < b


def _factors(
    numbers: tuple[Array, Array | None] | None, rank: int
) -> tuple[tuple[Array, None] | None, tuple[Array, Array | None] | None]:
    """The weights `[rank, in]` and `[out, rank]` whose product is nearest to a weight (Eckart and Young, 1936)."""
    import numpy

    if numbers is None:
        return None, None
    weight = numpy.asarray(numbers[0], "float64")
    left, sizes, right = numpy.linalg.svd(weight.reshape(weight.shape[0], -1), full_matrices=False)
    roots = numpy.array([sqrt(s) for s in sizes[:rank]])
    up, down = left[:, :rank] * roots, roots[:, None] * right[:rank]
    missing = rank - len(roots)
    if missing > 0:  # a rank above that of the matrix
        up, down = numpy.pad(up, ((0, 0), (0, missing))), numpy.pad(down, ((0, missing), (0, 0)))
    return (down, None), (up, numbers[1])
