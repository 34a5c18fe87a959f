"""The constants of an artifact: a safetensors file that is mapped into memory instead of read.

Kernels want tensors at multiples of 64 bytes, and safetensors allows no holes: tensors named `padding.…` fill them.
What is mapped is read from disk when a kernel first asks for it, and shared by all processes that run the model.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .exchange import ALIGNMENT, Array

CODES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""What safetensors calls numpy's types."""

_TYPES = {code: np.dtype(name) for name, code in CODES.items()}


def save(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays, each at a multiple of `ALIGNMENT` bytes."""
    header: dict[str, Any] = {}
    end = 0

    def place(name: str, code: str, shape: list[int], size: int) -> None:
        nonlocal end
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [end, end + size]}
        end += size

    for name, array in arrays.items():
        place(name, CODES[array.dtype.name], list(array.shape), array.nbytes)
        if end % ALIGNMENT:
            rest = -end % ALIGNMENT
            place(f"padding.{end}", "U8", [rest], rest)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).data)
            file.write(b"\0" * (-array.nbytes % ALIGNMENT))


def offsets(path: Path) -> dict[str, int]:
    """Where each tensor of a file begins, from the beginning of the file."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    return {name: 8 + size + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}


def mapped(path: Path) -> dict[str, Array]:
    """The arrays of a file; what is written to them does not reach it.

    Raises:
        OSError: where it cannot be read.
        ValueError: where it is no safetensors file.
    """
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    start = 8 + int.from_bytes(memory[:8], "little")
    found: dict[str, Array] = {}
    for name, entry in json.loads(memory[8:start]).items():
        if name.startswith(("padding.", "__metadata__")):
            continue
        kind, shape = _TYPES[entry["dtype"]], tuple(entry["shape"])
        count = int(np.prod(shape, dtype=np.int64))
        found[name] = np.frombuffer(memory, kind, count, start + entry["data_offsets"][0]).reshape(shape)
    return found
