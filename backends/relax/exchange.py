"""Arrays of the caller as tensors of TVM, and back, without copies wherever memory allows it.

Kernels read and write whole vector registers at once, for which tensors begin at multiples of 64 bytes, as those of
TVM and PyTorch do; numpy's mostly do not, but for those that `aligned` makes.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ...compiler.types import DType
from .runtime import load_runtime

Array = np.ndarray[Any, Any]

ALIGNMENT = 64
"""Bytes at multiples of which kernels expect tensors to begin."""

_BF16 = DType.BF16.as_numpy


def aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array of any contents that kernels can read and write in place."""
    dtype = np.dtype(dtype)
    size = prod(shape) * dtype.itemsize
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -address(room) % ALIGNMENT
    return room[start : start + size].view(dtype).reshape(shape)


def address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def in_place(array: Array) -> bool:
    """Whether kernels can take an array as it lies in memory."""
    return bool(array.flags.c_contiguous) and address(array) % ALIGNMENT == 0


def viewed(array: Any) -> Array:
    """A numpy array of the same memory as anything that speaks DLPack.

    Raises:
        TypeError: for what does not.
        BufferError: for what lies elsewhere, such as on a GPU, or cannot be shared.
    """
    if isinstance(array, np.ndarray):
        return array  # pyright: ignore[reportUnknownVariableType]
    if not hasattr(array, "__dlpack__"):
        return np.asarray(array)
    if "bfloat16" not in str(array.dtype):
        return np.from_dlpack(array)
    # numpy cannot read bfloat16: the same bits as integers.
    ffi = load_runtime()
    tensor = ffi.from_dlpack(array, require_contiguous=True)
    bits = ffi.get_global_func("runtime.TVMTensorCreateView")(tensor, ffi.Shape(tensor.shape), ffi.dtype("uint16"), 0)
    return np.from_dlpack(bits).view(_BF16)


def kept(array: Array) -> Any:
    """An array as kernels take it, bf16 as its bits and rank 0 as one element: in place if possible, else a copy."""
    if not in_place(array):
        copied = aligned(array.shape, array.dtype)
        np.copyto(copied, array)
        array = copied
    return tensor(array)


def tensor(array: Array) -> Any:
    """A tensor of the same memory as an array that is `in_place`."""
    bits = array.view(np.uint16) if array.dtype == _BF16 else array
    # By this version of the protocol, arrays that may not be written to can be handed over too.
    return load_runtime().from_dlpack(bits.reshape(array.shape or (1,)).__dlpack__(max_version=(1, 0)))


def restored(tensor: Any, dtype: DType) -> Array:
    """What a kernel gave, as an array of its dtype, of the same memory."""
    return np.from_dlpack(tensor).view(dtype.as_numpy)
