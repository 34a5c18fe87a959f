"""Draw a parameter's first numbers: from a seed and the parameter's path alone, in whatever order they are asked for.

Fans are those of PyTorch: of a shape `[out, in, *kernel]`, fan-in is `in · Π kernel` and fan-out `out · Π kernel`; of a
vector both are its length, of a scalar 1.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from math import prod, sqrt
from typing import TYPE_CHECKING, Any

from .diagnostic import Diagnostic, Label, NetcError
from .graph import Parameter
from .types import DType

if TYPE_CHECKING:
    from numpy import ndarray
    from numpy.random import Generator

    Array = ndarray[Any, Any]
    Draw = Callable[[Any, tuple[int, ...], Any, tuple[float, ...]], Array]
    """Generator (`Any`: its overloads want a literal dtype), shape, dtype, arguments."""

LARGEST = 64 * 2**30
"""Bytes above which a parameter is refused rather than drawn: a slip in a spec should not fill the machine."""


def draw(parameter: Parameter, seed: int = 0) -> Array:
    """The parameter's initial values, in its shape and dtype.

    The same seed and path give the same numbers, whatever else the model holds. f16 and bf16 are drawn in f32 and
    rounded.

    Raises:
        NetcError: for a symbolic shape (`symbolic-parameter`), an initialiser that does not suit the shape or dtype
            (`unfit-initialiser`), one too large (`parameter-too-large`), or `given` numbers, which cannot be drawn
            (`parameter-without-data`).
    """
    shape = _concrete(parameter)
    dtype, kind, arguments = parameter.type.dtype, parameter.initialiser.kind, parameter.initialiser.arguments
    if prod(shape) * dtype.bytes > LARGEST:
        raise _refuse(parameter, "parameter-too-large", f"has {prod(shape):,} elements, more than {LARGEST:,} bytes")
    if kind == "given":
        text = "has no numbers: they are given with the model and cannot be drawn"
        fix = "load its weights, or use the model that the passes made in the same run"
        raise _refuse(parameter, "parameter-without-data", text, fix)
    if kind == "identity" and len(shape) < 2:
        raise _refuse(parameter, "unfit-initialiser", "needs two axes or more to be initialised as an identity")
    if kind not in _PLAIN and not dtype.is_float:
        raise _refuse(parameter, "unfit-initialiser", f"is of dtype {dtype} and cannot be drawn from {kind}")
    drawn = DType.F64 if dtype is DType.F64 else DType.F32
    working = drawn.as_numpy if dtype.is_float else dtype.as_numpy
    return _DRAW[kind](generator(parameter.path, seed), shape, working, arguments).astype(dtype.as_numpy, copy=False)


def generator(path: str, seed: int) -> Generator:
    """Random numbers of a parameter's own."""
    from numpy.random import Generator, Philox

    digest = blake2b(f"{seed}\0{path}".encode(), digest_size=16).digest()
    return Generator(Philox(key=int.from_bytes(digest, "little")))


def _concrete(parameter: Parameter) -> tuple[int, ...]:
    shape = parameter.type.shape
    if not all(isinstance(d, int) for d in shape):
        raise _refuse(
            parameter,
            "symbolic-parameter",
            f"is {parameter.type}, whose size is not known",
            fix="give the parameter a shape of numbers: only inputs may have symbolic dimensions",
        )
    return tuple(d for d in shape if isinstance(d, int))


def _refuse(parameter: Parameter, code: str, text: str, fix: str | None = None) -> NetcError:
    labels = tuple(Label(span) for span in parameter.origin[:1])
    return NetcError([Diagnostic(code, f"the parameter {parameter.path} {text}", labels, fix=fix)])


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) < 2:
        return prod(shape), prod(shape)
    kernel = prod(shape[2:])
    return max(1, shape[1] * kernel), max(1, shape[0] * kernel)


def _full(_: Any, shape: tuple[int, ...], dtype: Any, arguments: tuple[float, ...]) -> Array:
    import numpy

    return numpy.full(shape, arguments[0], dtype)


def _zeros(generator: Any, shape: tuple[int, ...], dtype: Any, _: tuple[float, ...]) -> Array:
    return _full(generator, shape, dtype, (0.0,))


def _ones(generator: Any, shape: tuple[int, ...], dtype: Any, _: tuple[float, ...]) -> Array:
    return _full(generator, shape, dtype, (1.0,))


def _identity(_: Any, shape: tuple[int, ...], dtype: Any, __: tuple[float, ...]) -> Array:
    """The identity matrix; with a kernel, its centre (Dirac), so that a padded convolution of stride 1 copies."""
    import numpy

    values = numpy.zeros(shape, dtype)
    diagonal = numpy.arange(min(shape[:2]))
    values[(diagonal, diagonal, *(size // 2 for size in shape[2:]))] = 1
    return values


def _uniform(generator: Any, shape: tuple[int, ...], dtype: Any, arguments: tuple[float, ...]) -> Array:
    low, high = arguments
    values: Array = generator.random(shape, dtype)
    values *= high - low
    values += low
    return values


def _normal(generator: Any, shape: tuple[int, ...], dtype: Any, arguments: tuple[float, ...]) -> Array:
    mean, std = arguments
    values: Array = generator.standard_normal(shape, dtype)
    values *= std
    values += mean
    return values


def _trunc_normal(generator: Any, shape: tuple[int, ...], dtype: Any, arguments: tuple[float, ...]) -> Array:
    """Normal, cut at two standard deviations from the mean: what lies outside is drawn again.

    As `torch.nn.init.trunc_normal_` with `a = mean − 2·std` and `b = mean + 2·std`; torch's own defaults are ±2
    whatever the standard deviation.
    """
    import numpy

    mean, std = arguments
    values: Array = generator.standard_normal(prod(shape), dtype)
    outside = numpy.flatnonzero(numpy.abs(values) > 2)
    while outside.size:
        again: Array = generator.standard_normal(outside.size, dtype)
        values[outside] = again
        outside = outside[numpy.abs(again) > 2]
    values *= std
    values += mean
    return values.reshape(shape)


def _scaled(distribution: Draw, spread: Callable[[int, int], float]) -> Draw:
    """`distribution` about 0, with a bound or standard deviation that depends on (fan-in, fan-out)."""

    def scaled(generator: Any, shape: tuple[int, ...], dtype: Any, _: tuple[float, ...]) -> Array:
        width = spread(*_fans(shape))
        return distribution(generator, shape, dtype, (-width, width) if distribution is _uniform else (0.0, width))

    return scaled


_DRAW: dict[str, Draw] = {
    "zeros": _zeros,
    "ones": _ones,
    "constant": _full,
    "identity": _identity,
    "normal": _normal,
    "trunc_normal": _trunc_normal,
    "uniform": _uniform,
    # He et al., 2015; Glorot and Bengio, 2010.
    "kaiming_normal": _scaled(_normal, lambda _, out: sqrt(2 / out)),
    "kaiming_uniform": _scaled(_uniform, lambda _, out: sqrt(6 / out)),
    "xavier_normal": _scaled(_normal, lambda into, out: sqrt(2 / (into + out))),
    "xavier_uniform": _scaled(_uniform, lambda into, out: sqrt(6 / (into + out))),
    "fan_in_uniform": _scaled(_uniform, lambda into, _: 1 / sqrt(into)),
}
_PLAIN = frozenset({"zeros", "ones", "constant", "identity"})
