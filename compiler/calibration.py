"""Data that transforms look at: declared in a file as `data NAME = …`, read when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from .diagnostic import Diagnostic, NetcError
from .graph import Graph, Node
from .initialise import generator
from .types import DType

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


class Source(BaseModel):
    """Where data come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def read(self, node: Node, folder: Callable[[str], Path], count: int) -> Array:
        """`count` or fewer examples for an input; `folder` makes a path of the file one on this machine."""
        raise NotImplementedError


class Arrays(Source):
    """`arrays("calib.npz")`: an array for each input by its name; for a single input any one array."""

    path: str
    samples: Annotated[int, Field(ge=1)] | None = None

    def read(self, node: Node, folder: Callable[[str], Path], count: int) -> Array:
        import numpy

        path = folder(self.path)
        try:
            stored = numpy.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise _refused(f"{self.path} cannot be read: {error}", "arrays takes a .npz or .npy file") from None
        if isinstance(stored, numpy.ndarray):
            return cast("Array", stored)[:count]
        with stored:
            names = list(stored.files)
            if node.path not in names and len(names) != 1:
                raise _refused(
                    f"{self.path} has no array {node.path}",
                    f"it has {', '.join(names)}; arrays are named as inputs are",
                )
            return stored[node.path if node.path in names else names[0]][:count]


class Pictures(Source):
    """`pictures("folder", mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225])`: random crops of all pictures of
    a folder, of 0.3 to 1 of the shorter side, half of them mirrored, scaled (bicubic) to the input's size; numbers of
    0 … 1, less `mean`, by `std`, and for an input of u8 the bytes."""

    path: str
    samples: Annotated[int, Field(ge=1)] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size: Annotated[int, Field(ge=1)] | None = None
    """Height and width where the input's are symbols."""
    only: tuple[str, ...] = ("*",)
    """Patterns for the names of the files."""
    seed: int = 0

    def read(self, node: Node, folder: Callable[[str], Path], count: int) -> Array:
        import numpy
        from PIL import Image

        from .feed import PICTURES, opened

        shape = node.types[0].shape
        if len(shape) != 4 or shape[1] not in (1, 3):
            raise _refused(f"pictures do not suit the input {node.path}: {node.types[0]}", "they fit [N, 3, H, W]")
        height, width = (d if isinstance(d, int) else self.size for d in shape[2:])
        if height is None or width is None:
            raise _refused(f"the input {node.path} is {node.types[0]}: of what size?", "size = 224")
        root = folder(self.path)
        found = [p for p in (root.iterdir() if root.is_dir() else [root]) if p.suffix.lower() in PICTURES]
        paths = sorted(p for p in found if any(fnmatchcase(p.name, pattern) for pattern in self.only))
        if not paths:
            raise _refused(f"{self.path} holds no pictures", "they are " + ", ".join(sorted(PICTURES)))
        mode = "RGB" if shape[1] == 3 else "L"
        pictures = [opened(p).convert(mode) for p in paths]
        random = generator(f"pictures {self.path}", self.seed)
        crops: list[Array] = []
        for i in range(count):
            picture = pictures[i % len(pictures)]
            side = int(min(picture.size) * random.uniform(0.3, 1.0))
            left, top = (int(random.integers(0, s - side + 1)) for s in picture.size)
            crop = picture.crop((left, top, left + side, top + side)).resize((width, height), Image.Resampling.BICUBIC)
            array = numpy.asarray(crop, "float32").reshape(height, width, -1)
            crops.append(array[:, ::-1] if random.random() < 0.5 else array)
        if node.types[0].dtype is DType.U8:
            return numpy.stack(crops).astype("uint8").transpose(0, 3, 1, 2)
        stacked = (numpy.stack(crops) / 255 - numpy.asarray(self.mean)) / numpy.asarray(self.std)
        return stacked.transpose(0, 3, 1, 2)


class Labelled(Source):
    """`examples("digits")`, `examples("folder of IDX files")`, `examples("file.npz")`: the inputs of the training set
    of `netc train`, standardised as it does."""

    path: str
    samples: Annotated[int, Field(ge=1)] | None = None

    def read(self, node: Node, folder: Callable[[str], Path], count: int) -> Array:
        from .dataset import load_data

        found = load_data(self.path if self.path == "digits" else str(folder(self.path)))
        x = found.train.x[:count]
        if not node.types[0].dtype.is_float:
            return x
        wide = (-1, *(1,) * (x.ndim - 2))
        return (x.astype("float32") - found.mean.reshape(wide)) / found.std.reshape(wide)


class Noise(Source):
    """`noise(seed = 0)`: numbers of the standard normal distribution, whole ones from those that the model takes."""

    samples: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0
    law: Literal["normal"] = "normal"


SOURCES: dict[str, type[Source]] = {"arrays": Arrays, "pictures": Pictures, "examples": Labelled, "noise": Noise}

_DEFAULT = 64
"""So many examples are taken where nobody says how many."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Examples for the inputs of models. `where` makes a path of the file one on this machine."""

    name: str
    source: Source
    where: Callable[[str], Path] = field(default=Path)

    def __str__(self) -> str:
        return f"the data {self.name}"

    def inputs(self, graph: Graph, samples: int | None = None) -> dict[str, Array]:
        """An array for each input of a graph, `[samples, …]` in the input's dtype; fewer where there are fewer.

        Raises:
            NetcError: where the data cannot be read, or do not suit the inputs.
        """
        count = samples or getattr(self.source, "samples", None) or _DEFAULT
        if isinstance(self.source, Noise):
            return self._noise(graph, count)
        return {name: self._input(node, count) for name, node in graph.inputs.items()}

    def _noise(self, graph: Graph, count: int) -> dict[str, Array]:
        from .probe import bound, inputs

        assert isinstance(self.source, Noise)
        free = {str(d): count for n in graph.inputs.values() for d in n.types[0].shape[:1] if not isinstance(d, int)}
        return inputs(bound(graph, free), self.source.seed)

    def _input(self, node: Node, count: int) -> Array:
        key = (node.path, node.types[0], count)
        if key not in self._read:
            array = self.source.read(node, self.where, count)
            self._read[key] = _suited(array, node, self.name)
        return self._read[key]

    @cached_property
    def _read(self) -> dict[Any, Array]:
        return {}


def _suited(array: Array, node: Node, name: str) -> Array:
    """Examples in the shape and dtype of an input: a vector is folded where the numbers are as many."""
    kind = node.types[0]
    wanted = kind.shape[1:]
    known = [d for d in wanted if isinstance(d, int)]
    fits = len(array.shape) == len(kind.shape) and all(
        not isinstance(d, int) or d == s for d, s in zip(wanted, array.shape[1:], strict=True)
    )
    if not fits and (len(known) < len(wanted) or prod(known) != prod(array.shape[1:])):
        raise _refused(
            f"an example of {name} is {list(array.shape[1:])}, and the input {node.path} is {kind}",
            "the numbers of an example must be those of the input",
        )
    if not fits:
        array = array.reshape(len(array), *known)
    if array.dtype.kind == "f" and not (kind.dtype.is_float or kind.dtype is DType.BOOL):
        raise _refused(f"{name} holds fractions, and the input {node.path} is {kind}", "")
    return array.astype(kind.dtype.as_numpy)


def _refused(message: str, note: str) -> NetcError:
    return NetcError([Diagnostic("bad-data", message, notes=(note,) if note else ())])
