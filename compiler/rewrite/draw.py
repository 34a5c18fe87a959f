"""Random operators and operand types that fit together, those that rules ask for more often than others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from random import Random
from typing import Any, cast

from pydantic import ValidationError

from ..dimension import tensor_type
from ..operators.operator import OPERATORS, SAMPLES, Operator, Sample, ShapeError, validate
from ..source import Source
from ..syntax import parse
from ..types import Dim, DType, Shape, TensorType


class Unfit(Exception):
    """What was drawn does not fit together; another draw may."""


_TRIES = 12
_SIZES = (1, 2, 2, 3, 3, 4, 4, 5, 6)

Known = TensorType | None | Any
"""The type of an operand, None where it is absent, any other object where it is free."""


def data(above: Sequence[str], dtype: DType, random: Random, rank: int | None = None) -> TensorType | None:
    """A type for the data that goes through these operators, the outermost first, of this rank where it is asked for;
    None where only a sample of the last one fits."""
    last = above[-1]
    if rank is not None:
        return TensorType(dtype, tuple(random.choice(_SIZES) for _ in range(rank)))
    spatial = [n for n in above if _spatial(n)]
    if last in _BY_SAMPLE and (not spatial or last in spatial):
        return None
    if last in ("logical_and", "logical_or", "logical_not", "where"):
        dtype = DType.BOOL
    if last in ("embedding", "one_hot"):
        dtype = DType.I64
    if spatial and random.random() < 0.95:
        name = random.choice(spatial)
        return TensorType(dtype, _image(_spatial(name), random))
    if any(n in _CHANNELS for n in above):
        return TensorType(dtype, _image(random.choice((0, 1, 2, 2)), random))
    ranks = (2, 3, 3, 4) if "linear" in above or "matmul" in above else (0, 1, 2, 2, 3, 3, 4, 4, 5)
    return TensorType(dtype, tuple(random.choice(_SIZES) for _ in range(random.choice(ranks))))


def _spatial(name: str) -> int:
    """The spatial axes that an operator wants; 0 where it takes any number."""
    if name[-1:] == "d" and name[-2:-1].isdigit():
        return int(name[-2])
    return 2 if name in ("unfold", "interpolate", "pixel_unshuffle", "grid_sample") else 0


def _image(spatial: int, random: Random) -> Shape:
    size = [random.choice((3, 4, 5, 6)) for _ in range(spatial)]
    return (random.choice((1, 2, 2, 3)), random.choice((1, 2, 3, 4, 4, 6)), *size)


def other_channels(kind: TensorType, random: Random) -> TensorType:
    """The same type, with another number of channels at times."""
    if kind.rank < 2 or random.random() < 0.7:
        return kind
    return TensorType(kind.dtype, (kind.shape[0], random.choice(_SIZES), *kind.shape[2:]))


def complete(
    cls: type[Operator],
    fixed: Mapping[str, Any],
    types: Sequence[Known],
    literal: Sequence[bool],
    random: Random,
    earlier: tuple[Operator, tuple[int, ...]] | None,
    *,
    small: bool = False,
    rank: int | None = None,
) -> tuple[Operator, list[Any]]:
    """An operator with the attributes `fixed`, and types for its free operands; `literal` ones are numbers.

    `earlier` is an operator of this kind that the same graph holds, and its kernel, where this one is to be like it.
    `small` makes kernels of size 1 more likely; `rank` is what a reshape should give.

    Raises:
        Unfit: where nothing that was tried fits.
    """
    problem = ""
    for _ in range(_TRIES):
        try:
            made = _Completion(cls, fixed, list(types), literal, random, small, rank)
            op = made.run(earlier).canonical(*made.types)
            op.shape(*made.types)
        except (ShapeError, ValidationError, Unfit, ValueError, IndexError) as error:
            problem = str(error).splitlines()[0]
            continue
        return op, made.types
    raise Unfit(problem)


@dataclass(slots=True)
class _Completion:
    """One attempt at an operator: the types of its operands, completed in place."""

    cls: type[Operator]
    fixed: Mapping[str, Any]
    types: list[Any]
    literal: Sequence[bool]
    random: Random
    small: bool
    rank: int | None
    sample: Sample | None = None
    scale: dict[Dim, Dim] = field(default_factory=dict[Dim, Dim])
    """Sizes of the sample, and what they are here."""
    kernel: tuple[int, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])
    op: Any = None

    @property
    def x(self) -> TensorType | None:
        """The first operand that is known."""
        return next((x for x in self.types if isinstance(x, TensorType)), None)

    def run(self, earlier: tuple[Operator, tuple[int, ...]] | None) -> Operator:
        self.sample = _sample(self.cls, self.types, self.random)
        self._measure()
        if self.sample is not None:
            self.attributes = self.sample.op.attributes()
        if self.x is not None:
            self.kernel = self._kernel(self.x)
        if earlier is not None:
            self.attributes = earlier[0].attributes()
            if not self.small and self.random.random() < 0.7:
                self.kernel = earlier[1] or self.kernel
        elif self.x is not None and self.cls.name not in _WHOLE:
            self._draw()
        self.op = validate(self.cls, {**self.attributes, **self.fixed})
        for i, one in enumerate(self.types):
            if isinstance(one, TensorType) or one is None:
                continue
            if self.literal[i]:
                self.types[i] = TensorType(DType.F32 if self.x is None else self.x.dtype, ())
            else:
                self.types[i] = self._companion(i)
        return self.op

    def _measure(self) -> None:
        """Which sizes those of the sample stand for; where nothing is known, its first operand."""
        if self.sample is None:
            return
        for text, given in zip(self.sample.inputs, self.types, strict=False):
            if text is not None and isinstance(given, TensorType):
                self.scale.update(zip(_type(text).shape, given.shape, strict=False))
        at = next((i for i, x in enumerate(self.types) if x is not None), None)
        if self.scale or self.x is not None or at is None:
            return
        sizes = sorted({cast(int, d) for text in self.sample.inputs if text is not None for d in _type(text).shape})
        same = self.random.random() < 0.4
        self.scale = {s: s if same else s * self.random.choice((1, 1, 2)) for s in sizes}
        self.types[at] = self._scaled(at)

    def _kernel(self, x: TensorType) -> tuple[int, ...]:
        weight = self.types[1] if len(self.types) > 1 else None
        if self.cls.name in _WEIGHTS and isinstance(weight, TensorType):
            return tuple(d for d in weight.shape[2:] if isinstance(d, int))
        spatial = max(0, x.rank - 2)
        kind = self.random.random() / (2 if self.small else 1)
        if kind < 0.55:
            return (1 if kind < 0.25 else 3,) * spatial
        return tuple(self.random.choice((1, 2, 3)) for _ in range(spatial))

    def _draw(self) -> None:
        for f in sorted(fields(cast(Any, self.cls)), key=lambda f: f.name == "padding"):  # it depends on the others
            draw = _ATTRIBUTES.get(f"{self.cls.name}.{f.name}") or _ATTRIBUTES.get(f.name)
            if f.name in self.fixed:
                self.attributes[f.name] = self.fixed[f.name]
            elif draw is not None:
                self.attributes[f.name] = draw(self)

    def _companion(self, i: int) -> TensorType:
        """A type for the free operand `i`."""
        x, random, name = self.x, self.random, self.cls.name
        if x is None:
            raise Unfit(f"nothing is known about the inputs of {name}")
        operand = self.cls.operands[min(i, len(self.cls.operands) - 1)].name
        if name in _WEIGHTS:
            return TensorType(x.dtype if name != "embedding" else DType.F32, _WEIGHTS[name](self, operand))
        if name == "matmul" and x.rank > 1:
            batch = x.shape[:-2] if random.random() < 0.75 else ()
            free = random.choice((1, 2, 3, x.shape[-1], x.shape[-2]))
            return TensorType(x.dtype, (*batch, x.shape[-1], free) if i else (*batch, free, x.shape[-2]))
        if name in _BINARY or name == "where":
            numbers = [t for t in self.types[name == "where" : i + 1] if isinstance(t, TensorType)]
            dtype = numbers[-1].dtype if numbers else DType.F32
            if dtype is not DType.BOOL and random.random() < 0.12:
                dtype = random.choice((DType.F32, DType.F64, DType.F16, DType.I64))
            return TensorType(dtype, _broadcast(x.shape, random))
        if name == "stack":
            return x
        if name == "concat":
            dim: int = self.op.dim % max(1, x.rank)
            sizes: tuple[Dim, ...] = (x.shape[dim], 1, 2, 3)
            return TensorType(x.dtype, (*x.shape[:dim], random.choice(sizes), *x.shape[dim + 1 :]))
        return self._scaled(i, x.dtype)

    def _scaled(self, i: int, dtype: DType | None = None) -> TensorType:
        """The type of the sample's operand, in the sizes that are known here."""
        text = None if self.sample is None or i >= len(self.sample.inputs) else self.sample.inputs[i]
        if text is None:
            raise Unfit(f"no type is known for an input of {self.cls.name}")
        found = _type(text)
        kind = dtype if dtype is not None and dtype.is_float and found.dtype.is_float else found.dtype
        return TensorType(kind, tuple(self.scale.get(d, d) for d in found.shape))


def _broadcast(shape: Shape, random: Random) -> Shape:
    """A shape that goes with this one in element-wise arithmetic."""
    kind = random.random()
    if kind < 0.45:
        return shape
    if kind < 0.6:
        return ()
    if kind < 0.66:
        return (random.choice((1, 2)), *shape)
    if kind < 0.8 and len(shape) > 1:  # along one axis
        at = random.randrange(len(shape))
        found = tuple(1 if i != at else random.choice((2, 3)) if d == 1 else d for i, d in enumerate(shape))
        return found[random.choice((0, at)) :]
    found = tuple(1 if random.random() < 0.4 else random.choice((2, 3)) if d == 1 else d for d in shape)
    return found[random.randint(0, len(found)) if random.random() < 0.5 else 0 :]


# ------------------------------------------------------------------------------------------------- samples

_WHOLE = frozenset({"einsum", "rearrange", "lstm", "gru", "interpolate", "pixel_shuffle", "grid_sample", "constant"})
"""Operators whose attributes only go together: they are taken from a sample as they are."""
_BY_SAMPLE = _WHOLE | {
    "matmul", "scaled_dot_product_attention", "rotary_embedding", "gather", "scatter", "scatter_add", "index_select",
    "unfold", "pixel_unshuffle", "glu",
}  # fmt: skip
"""Operators whose operands are like those of a sample, of other sizes."""
_CHANNELS = frozenset({"batch_norm", "group_norm", "instance_norm", "prelu"})
_BINARY = frozenset(n for n, c in OPERATORS.items() if [o.name for o in c.operands] == ["a", "b"] and n != "matmul")


@cache
def _samples(name: str) -> tuple[Sample, ...]:
    return tuple(s for s in SAMPLES if s.op.name == name)


@cache
def _type(text: str) -> TensorType:
    graph = cast(Any, parse(Source("sample", f"graph g {{\n    input %x: {text}\n}}\n")).declarations[0])
    return tensor_type(graph.lines[0].type)


def _sample(cls: type[Operator], types: Sequence[Known], random: Random) -> Sample | None:
    """A sample with the same operands present, and ranks like those that are known."""
    fitting = [s for s in _samples(cls.name) if all(_fits(s, i, given) for i, given in enumerate(types))]
    return random.choice(fitting or _samples(cls.name)) if _samples(cls.name) else None


def _fits(sample: Sample, i: int, given: Known) -> bool:
    text = sample.inputs[i] if i < len(sample.inputs) else None
    if given is None or text is None:
        return given is None and text is None
    return not isinstance(given, TensorType) or _type(text).rank == given.rank


# ------------------------------------------------------------------------------------------------- weights


def _number(d: Dim) -> int:
    if not isinstance(d, int):
        raise Unfit("a weight would depend on a symbol")
    return d


def _channels(c: _Completion) -> int:
    x = c.types[0]
    if not isinstance(x, TensorType):
        raise Unfit(f"the data of {c.cls.name} is not known")
    return _number(x.shape[1])


def _convolution(c: _Completion, operand: str) -> Shape:
    if operand == "bias":
        return (c.types[1].shape[0],)
    channels = _channels(c)
    out = channels if c.random.random() < 0.35 else c.op.groups * c.random.choice((1, 2, 3))
    return (out, channels // c.op.groups, *c.kernel)


def _transposed(c: _Completion, operand: str) -> Shape:
    if operand == "bias":
        return (c.types[1].shape[1] * c.op.groups,)
    channels = _channels(c)
    return (channels, c.random.choice((1, 2, 3, max(1, channels // c.op.groups))), *c.kernel)


def _linear(c: _Completion, operand: str) -> Shape:
    if operand == "bias":
        return (c.types[1].shape[0],)
    inner = _number(c.types[0].shape[-1])
    return (inner if c.random.random() < 0.35 else c.random.choice((1, 2, 3, 5)), inner)


def _embedding(c: _Completion, operand: str) -> Shape:
    return (c.random.choice((3, 5, 7)), c.random.choice((1, 2, 4)))


def _per_channel(c: _Completion, operand: str) -> Shape:
    return (_channels(c),)


def _trailing(c: _Completion, operand: str) -> Shape:
    return tuple(_number(d) for d in c.types[0].shape[-getattr(c.op, "rank", 1) :])


def _slopes(c: _Completion, operand: str) -> Shape:
    return (c.random.choice((1, _channels(c))),)


_WEIGHTS: dict[str, Callable[[_Completion, str], Shape]] = {
    **{f"conv{n}d": _convolution for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _transposed for n in (1, 2, 3)},
    "linear": _linear,
    "embedding": _embedding,
    "batch_norm": _per_channel,
    "group_norm": _per_channel,
    "instance_norm": _per_channel,
    "layer_norm": _trailing,
    "rms_norm": _trailing,
    "prelu": _slopes,
}
"""The shapes of weights, by operator, for data of a known type."""


# ------------------------------------------------------------------------------------------------- attributes


def _rank(c: _Completion) -> int:
    assert c.x is not None
    return c.x.rank


def _size(c: _Completion, dim: int) -> int:
    assert c.x is not None
    return _number(c.x.shape[dim])


def _stride(c: _Completion) -> list[int]:
    return [1 if c.random.random() < 0.7 else 2 for _ in c.kernel] if c.random.random() < 0.6 else [1] * len(c.kernel)


def _dilation(c: _Completion) -> list[int]:
    return [c.random.choice((1, 2)) for _ in c.kernel] if c.random.random() < 0.25 else [1] * len(c.kernel)


def _padding(c: _Completion) -> list[list[int]]:
    kind = c.random.random()
    if kind < 0.3:
        return [[0, 0] for _ in c.kernel]
    dilation = c.attributes.get("dilation", 1)
    if isinstance(dilation, int):
        dilation = (dilation,) * len(c.kernel)
    if kind < 0.8:  # the size stays, where the stride is 1
        whole = [d * (k - 1) for k, d in zip(c.kernel, dilation, strict=False)]
        before = [n // 2 if kind < 0.55 else c.random.randint(0, n) for n in whole]
        return [[b, n - b] for b, n in zip(before, whole, strict=True)]
    return [[c.random.randint(0, 2), c.random.randint(0, 2)] for _ in c.kernel]


def _pool_padding(c: _Completion) -> list[list[int]]:
    most = [k // 2 if c.random.random() < 0.6 else 0 for k in c.kernel]
    return [[c.random.randint(0, m), c.random.randint(0, m)] for m in most]


def _pool_kernel(c: _Completion) -> list[int]:
    if all(k == 1 for k in c.kernel) and c.random.random() < 0.7:
        c.kernel = (2,) * len(c.kernel)
    return list(c.kernel)


def _output_padding(c: _Completion) -> list[int]:
    stride = c.attributes.get("stride", 1)
    sizes = (stride,) * len(c.kernel) if isinstance(stride, int) else stride
    return [s - 1 if c.random.random() < 0.3 else 0 for s in sizes]


def _groups(c: _Completion) -> int:
    channels = _size(c, 1)
    return 1 if c.random.random() < 0.5 else c.random.choice([d for d in range(1, channels + 1) if channels % d == 0])


def _dim(c: _Completion) -> int:
    rank = _rank(c)
    return c.random.randint(-rank, rank - 1) if rank else 0


def _some_dims(c: _Completion) -> list[int]:
    rank = _rank(c)
    found = c.random.sample(range(rank), c.random.randint(min(1, rank), rank))
    return [d - rank if c.random.random() < 0.3 else d for d in found]


def _reduced(c: _Completion) -> list[int] | None:
    if c.random.random() < 0.15:
        return None
    return [_dim(c)] if c.random.random() < 0.4 else _some_dims(c)


def _permutation(c: _Completion) -> list[int]:
    rank = _rank(c)
    if rank > 1 and c.random.random() < 0.3:
        return [*range(rank - 2), rank - 1, rank - 2]
    return c.random.sample(range(rank), rank)


def _new_shape(c: _Completion) -> list[Any]:
    """The sizes merged, split off, or in another order."""
    assert c.x is not None
    sizes: list[Any] = list(c.x.shape)
    if c.rank is not None:
        return _of_rank(sizes, c.rank, c.random)
    kind = c.random.random()
    if kind < 0.15:
        return [-1]
    if kind < 0.5 and len(sizes) > 1:
        at = c.random.randrange(len(sizes) - 1)
        return [*sizes[:at], sizes[at] * sizes[at + 1], *sizes[at + 2 :]]
    if kind < 0.7:
        sizes.insert(c.random.randint(0, len(sizes)), 1)
        return sizes
    if kind < 0.85 and sizes and isinstance(sizes[-1], int) and sizes[-1] % 2 == 0:
        return [*sizes[:-1], 2, sizes[-1] // 2]
    c.random.shuffle(sizes)
    return sizes


def _of_rank(sizes: list[Any], rank: int, random: Random) -> list[Any]:
    """The sizes, neighbours merged or single ones split until there are as many."""
    while len(sizes) > max(rank, 1):
        at = random.randrange(len(sizes) - 1)
        sizes[at : at + 2] = [sizes[at] * sizes[at + 1]]
    while len(sizes) < rank:
        at = random.randrange(len(sizes)) if sizes else 0
        size = sizes[at] if sizes else 1
        first = random.choice([d for d in range(1, size + 1) if size % d == 0]) if isinstance(size, int) else 1
        sizes[at : at + 1] = [first, size // first]
    return sizes


def _expanded(c: _Completion) -> list[Any]:
    assert c.x is not None
    sizes = [c.random.choice((1, 2, 3)) if d == 1 else d if c.random.random() < 0.5 else -1 for d in c.x.shape]
    return [c.random.choice((1, 2)), *sizes] if c.random.random() < 0.3 else sizes


def _ones(c: _Completion) -> list[int] | None:
    assert c.x is not None
    ones = [i for i, d in enumerate(c.x.shape) if d == 1]
    return None if c.random.random() < 0.2 else ones[: c.random.randint(0, len(ones))]


def _parts(c: _Completion) -> list[int] | int:
    """Two or three parts of an axis, which is drawn with them."""
    dim = c.attributes["dim"] = c.fixed["dim"] if "dim" in c.fixed else _dim(c)
    size = _size(c, dim)
    if size < 2 or c.random.random() < 0.2:
        return c.random.choice((1, 2))
    cuts = sorted(c.random.sample(range(1, size), c.random.choice((1, 1, 2)) if size > 2 else 1))
    return [b - a for a, b in zip([0, *cuts], [*cuts, size], strict=True)]


def _pads(c: _Completion) -> list[list[int]]:
    """Padding of all axes, or of the spatial ones."""
    axes = c.random.choice((_rank(c), max(0, _rank(c) - 2)))
    return [
        [0, 0] if c.random.random() < 0.5 else [c.random.randint(0, 2), c.random.randint(0, 2)] for _ in range(axes)
    ]


def _clip(*usual: float) -> Callable[[_Completion], float | None]:
    return lambda c: c.random.choice((None, c.random.choice(usual), c.random.uniform(-1, 2)))


def _of(*values: Any) -> Callable[[_Completion], Any]:
    return lambda c: c.random.choice(values)


_FLAG = _of(False, True)

_ATTRIBUTES: dict[str, Callable[[_Completion], Any]] = {
    "stride": _stride,
    "padding": _padding,
    "dilation": _dilation,
    "groups": _groups,
    "output_padding": _output_padding,
    **{f"{kind}_pool{n}d.{a}": f for kind in ("max", "avg") for n in (1, 2, 3)
       for a, f in (("kernel_size", _pool_kernel), ("padding", _pool_padding))},
    "kernel_size": lambda c: list(c.kernel),
    "output_size": lambda c: [c.random.choice((1, 1, 2, 3)) for _ in c.kernel],
    **dict.fromkeys(("ceil_mode", "count_include_pad", "keepdim", "largest", "is_causal"), _FLAG),
    "eps": _of(1e-5, 1e-5, 1e-3, 0.1),
    "p": _of(0.5, 0.3, 0.0),
    "norm.p": _of(2.0, 1.0, 3.0),
    "negative_slope": _of(0.01, 0.2, 0.0),
    "alpha": _of(1.0, 0.5),
    "correction": _of(1, 0),
    "min": _clip(-1, 0, 0.5),
    "max": _clip(-0.5, 0, 1, 6),
    **dict.fromkeys(("dim", "dim0", "dim1"), _dim),
    **{f"{n}.dim": _reduced for n in ("mean", "sum", "prod", "max", "min", "var", "norm")},
    "squeeze.dim": _ones,
    **{f"{n}.dim": lambda c: c.random.randint(0, _rank(c)) for n in ("unsqueeze", "stack")},
    "start_dim": lambda c: c.random.randrange(max(1, _rank(c))),
    "end_dim": lambda c: c.random.choice((-1, max(0, _rank(c) - 1), c.attributes["start_dim"])),
    "dims": _some_dims,
    "permute.dims": _permutation,
    "roll.dims": lambda c: [_dim(c) for _ in c.attributes["shifts"]],
    "shifts": lambda c: [c.random.randint(-2, 3) for _ in range(c.random.choice((1, 1, 2)))],
    "reshape.size": _new_shape,
    "expand.size": _expanded,
    "rank": lambda c: c.random.randint(1, max(1, _rank(c) - 1)),
    "num_groups": lambda c: c.random.choice([d for d in range(1, _size(c, 1) + 1) if _size(c, 1) % d == 0]),
    "pad.padding": _pads,
    "pad.mode": _of("constant", "constant", "constant", "reflect", "replicate"),
    "pad.value": _of(0.0, 0.0, 1.5),
    "start": _of(0, 0, 1, -2),
    "stop": _of(None, -1, 2, 3),
    "step": _of(1, 1, 2),
    "chunks": _of(1, 2, 2, 3),
    "split.sizes": _parts,
    "split.dim": lambda c: c.attributes["dim"],
    "repeat.repeats": lambda c: [c.random.choice((1, 2)) for _ in range(_rank(c))],
    "repeat_interleave.repeats": _of(1, 2, 3),
    "dtype": _of(DType.F32, DType.F32, DType.F64, DType.F16, DType.BF16, DType.I64, DType.BOOL),
    "approximate": _of("none", "tanh"),
}  # fmt: skip
"""Draws by the attribute's name, or by operator and attribute where it means something else there."""
