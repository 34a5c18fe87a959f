"""Labelled examples from scikit-learn's digits, IDX files and .npz archives, in memory and in their stored dtype."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy
from numpy import ndarray

from .diagnostic import Diagnostic, NetcError

Array = ndarray[Any, Any]

HELD_OUT = 5
"""Where a data set has no test set of its own, every fifth example (those at 0, 5, 10, …) is held out."""


_LARGEST = float(numpy.finfo(numpy.float32).max)
_LABELS = 2**31


@dataclass(frozen=True, eq=False, slots=True)
class Examples:
    """Inputs `x` as [N, C, H, W] or [N, F] of any real dtype, and their classes `y` as i64[N]."""

    x: Array
    y: Array

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, eq=False, slots=True)
class Dataset:
    """`mean` and `std` are of the training set: a number a channel for images, a feature for vectors; no std is 0."""

    name: str
    train: Examples
    test: Examples
    mean: Array
    std: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.train.x.shape[1:]

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and the largest of all inputs, rounded down."""
        both = (self.train.x, self.test.x)
        return math.floor(min(x.min() for x in both)), math.floor(max(x.max() for x in both))

    @property
    def classes(self) -> int:
        return int(max(self.train.y.max(), self.test.y.max())) + 1


def load_data(name: str) -> Dataset:
    """`digits`, a folder of IDX files, or an .npz file with `x_train y_train x_test y_test`, or `x y`.

    Raises:
        NetcError: where there is no such data, or it does not make a classification task.
    """
    path = Path(name)
    if name == "digits":
        return _held_out(name, *_digits())
    try:
        folder, file = path.is_dir(), path.is_file()
    except OSError as error:
        raise _refuse(f"{name} cannot be read: {error.strerror}") from error
    if folder:
        return _of_folder(path)
    if path.suffix == ".npz" and file:
        return _of_archive(path)
    if file:
        what, fix = f"{name} is no data set", f"data = {path.parent}" if "-ubyte" in path.name else None
    else:
        what, fix = f"there is no data at {name}", None
    notes = ('data is "digits", a folder of IDX files (train-images-idx3-ubyte, …, plain or .gz), or an .npz file',)
    raise NetcError([Diagnostic("unknown-data", what, notes=notes, fix=fix)])


def _refuse(what: str, *notes: str, fix: str | None = None) -> NetcError:
    return NetcError([Diagnostic("bad-data", what, notes=notes, fix=fix)])


def _held_out(name: str, x: Array, y: Array) -> Dataset:
    if not x.ndim or x.shape[:1] != y.shape[:1]:
        raise _refuse(f"{name} has inputs {shown(x.shape)} and labels {shown(y.shape)}: not one label for each example")
    test = numpy.arange(len(y)) % HELD_OUT == 0
    return _checked(name, x[~test], y[~test], x[test], y[test])


def _digits() -> tuple[Array, Array]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        diagnostic = Diagnostic(
            "missing-package", f"digits come with scikit-learn: {error}", fix="pip install scikit-learn"
        )
        raise NetcError([diagnostic]) from error
    load: Any = load_digits
    digits = load()
    return digits.images, digits.target


def _checked(name: str, x: Array, y: Array, x_test: Array, y_test: Array) -> Dataset:
    train, test = _examples(f"{name}, training set", x, y), _examples(f"{name}, test set", x_test, y_test)
    if train.x.shape[1:] != test.x.shape[1:]:
        raise _refuse(
            f"{name} has training examples of shape {shown(train.x.shape[1:])} "
            f"and test examples of shape {shown(test.x.shape[1:])}"
        )
    mean, std = _statistics(train.x)
    return Dataset(name, train, test, mean, std)


def _examples(name: str, x: Array, y: Array) -> Examples:
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim not in (2, 4):
        raise _refuse(f"{name} has inputs of shape {shown(x.shape)}", "shapes are [N, F], [N, H, W] or [N, C, H, W]")
    if x.dtype.kind not in "buif":
        raise _refuse(f"{name} has inputs of dtype {x.dtype}, not real numbers")
    if y.ndim != 1 or y.dtype.kind not in "ui":
        raise _refuse(f"{name} has labels {y.dtype}{shown(y.shape)}", fix="a whole number for each example, 0 and up")
    if len(x) != len(y) or not len(y):
        raise _refuse(f"{name} has {len(x)} inputs and {len(y)} labels")
    if y.min() < 0:
        raise _refuse(f"{name} has a negative label, {y.min()}", fix="classes are numbered from 0")
    if y.max() > _LABELS:
        raise _refuse(f"{name} has a label {y.max()}", fix="classes are numbered from 0")
    if not x.size:
        raise _refuse(f"{name} has empty examples, of shape {shown(x.shape[1:])}")
    if x.dtype.kind == "f":
        if not numpy.isfinite(x).all():
            raise _refuse(f"{name} holds values that are not finite")
        if max(-x.min(), x.max()) > _LARGEST:
            raise _refuse(f"{name} holds values beyond what f32 can say", f"f32 ends at {_LARGEST:.2e}")
    x = numpy.ascontiguousarray(x, x.dtype.newbyteorder("="))
    return Examples(x, y.astype(numpy.int64))


def _statistics(x: Array) -> tuple[Array, Array]:
    """Mean and standard deviation as f32, over everything but axis 1, in blocks of bounded memory."""
    axes = (0, *range(2, x.ndim))
    count = x.size // x.shape[1]
    block = max(1, 2**24 // math.prod(x.shape[1:]))
    blocks = [slice(i, i + block) for i in range(0, len(x), block)]
    total = sum((x[b].sum(axes, dtype=numpy.float64) for b in blocks), numpy.zeros(x.shape[1]))
    mean = total / count
    wide = mean.reshape(-1, *(1,) * (x.ndim - 2))
    square = sum((numpy.square(x[b] - wide).sum(axes) for b in blocks), numpy.zeros(x.shape[1]))
    std = numpy.sqrt(square / count)
    return mean.astype(numpy.float32), numpy.where(std > 0, std, 1).astype(numpy.float32)


def shown(shape: tuple[Any, ...]) -> str:
    """A shape as in the language."""
    return f"[{', '.join(map(str, shape))}]"


# ------------------------------------------------------------------------------------------------------------- IDX

_IDX = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_PARTS = ("train-images", "train-labels", "t10k-images", "t10k-labels")


def _of_folder(path: Path) -> Dataset:
    files = {part: _part(path, part) for part in _PARTS}
    missing = [part for part, file in files.items() if file is None]
    if missing:
        raise _refuse(
            f"{path} has no {' and no '.join(missing)}",
            "an IDX data set is train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
            "t10k-labels-idx1-ubyte, plain or .gz, in one folder",
        )
    return _checked(path.name, *(read_idx(file) for file in files.values() if file))


def _part(folder: Path, part: str) -> Path | None:
    """The file of one part, plain before gzipped; `-idx3-ubyte` and `.idx3-ubyte` are both in use."""
    found = [p for end in ("", ".gz") for p in sorted(folder.glob(f"{part}[-.]idx[0-9]-ubyte{end}"))]
    return found[0] if found else None


def read_idx(path: Path) -> Array:
    """The array of an IDX file, plain or gzipped; the format is that of http://yann.lecun.com/exdb/mnist.

    Raises:
        NetcError: where the file does not hold exactly what its header says.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as stream:
                return _read_idx(path, stream)  # type: ignore[arg-type]
        with path.open("rb") as stream:
            return _read_idx(path, stream)
    except (OSError, EOFError, zlib.error) as error:
        raise _refuse(f"{path} cannot be read: {error}") from error


def _read_idx(path: Path, stream: BinaryIO) -> Array:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX:
        raise _refuse(f"{path} is no IDX file: it begins with {magic.hex(' ') or 'nothing'}")
    rank, dtype = magic[3], numpy.dtype(_IDX[magic[2]])
    header = stream.read(4 * rank)
    if len(header) < 4 * rank:
        raise _refuse(f"{path} ends inside its header")
    shape = struct.unpack(f">{rank}I", header)
    size = math.prod(shape) * dtype.itemsize
    content = _read(stream, size)
    if len(content) < size or stream.read(1):
        raise _refuse(
            f"{path} declares {shown(shape)}, {size:,} bytes, and holds {'fewer' if len(content) < size else 'more'}"
        )
    array = numpy.frombuffer(content, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def _read(stream: BinaryIO, size: int) -> bytes:
    """At most `size` bytes, in pieces: a false header then costs no more memory than the file has content."""
    pieces: list[bytes] = []
    while size and (piece := stream.read(min(size, 2**24))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


# ------------------------------------------------------------------------------------------------------------- npz

_SPLIT = ("x_train", "y_train", "x_test", "y_test")


def _of_archive(path: Path) -> Dataset:
    try:
        if not zipfile.is_zipfile(path):
            raise _refuse(f"{path} is no .npz archive", "numpy.savez writes one")
        with numpy.load(path, allow_pickle=False) as archive:
            names = list(archive)
            wanted = next((kind for kind in (_SPLIT, ("x", "y")) if all(n in names for n in kind)), ())
            arrays: list[Any] = [archive[n] for n in wanted]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise _refuse(f"{path} cannot be read: {error}") from error
    if not wanted:
        raise _refuse(
            f"{path} holds {', '.join(names) or 'nothing'}",
            "an .npz data set holds x_train, y_train, x_test and y_test, or x and y",
        )
    for name, array in zip(wanted, arrays, strict=True):
        if not isinstance(array, ndarray):
            raise _refuse(f"{name} in {path} is no array")
    return _checked(path.name, *arrays) if wanted == _SPLIT else _held_out(path.name, *arrays)
