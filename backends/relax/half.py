"""Half precision: kept in memory in two bytes, computed in single precision.

TVM's own treatment of bfloat16 takes the bits of some numbers for an integer (a value bound by `Let`), and fails on
vectors; so no kernel sees that type. Its numbers are bits in memory, which a kernel widens where it reads them and
rounds where it writes its result. float16 is read and written likewise, so that formulas know one type for both.
Layers of bf16 multiply the bits themselves where the processor has an instruction for it (kernels/words.py).
"""

from __future__ import annotations

from typing import Any

from ...compiler.target import Target
from ...compiler.types import DType, TensorType
from .dot import HALVES, has
from .machine import machine
from .untyped import tirx

DTYPES: dict[DType, str] = {
    DType.F64: "float64",
    DType.F32: "float32",
    DType.F16: "float32",
    DType.BF16: "float32",
    DType.I64: "int64",
    DType.I32: "int32",
    DType.I16: "int16",
    DType.I8: "int8",
    DType.U8: "uint8",
    DType.BOOL: "bool",
}
"""TVM's names of the types that our dtypes are computed in."""

STORED: dict[DType, str] = DTYPES | {DType.F16: "float16", DType.BF16: "uint16"}
"""TVM's names of the types that they are kept in."""

HALF = (DType.F16, DType.BF16)

_NAN = 0x7FC0


def single(type: TensorType) -> TensorType:
    """The type, in single precision where it is half."""
    return TensorType(DType.F32, type.shape) if type.dtype in HALF else type


def unpaid(target: Target, dtype: DType) -> str | None:
    """Why layers in half precision save no arithmetic on a processor; None where they do, or that is not asked."""
    if dtype not in HALF:
        return None
    processor = machine(target)
    if dtype is DType.BF16 and has(HALVES, processor):
        return None
    return f"on {processor.cpu} {dtype} takes half the memory, but all is computed in f32"


def widened(value: Any, dtype: DType) -> Any:
    """A number read from memory, as it is computed with. Exact."""
    if dtype is DType.F16:
        return tirx.Cast("float32", value)
    if dtype is DType.BF16:
        return tirx.reinterpret("float32", tirx.Cast("uint32", value) << tirx.const(16, "uint32"))
    return value


def narrowed(value: Any, dtype: DType) -> Any:
    """A number as it is kept: the nearest one, of two the even one."""
    if dtype is DType.F16:
        return tirx.Cast("float16", value)
    if dtype is DType.BF16:
        return _rounded(value)
    return value


def _rounded(value: Any) -> Any:
    """The upper half of a float32's bits, after adding half a unit of its last place, less 1 where that is even."""
    number = tirx.Var("n", "float32")
    bits = tirx.Var("bits", "uint32")

    def c(value: int) -> Any:
        return tirx.const(value, "uint32")

    even = (bits >> c(16)) & c(1)
    upper = (bits + c(0x7FFF) + even) >> c(16)
    # Not `isnan`: what code generators make of it depends on how freely they may treat floating-point numbers.
    kept = tirx.Select((bits & c(0x7FFFFFFF)) > c(0x7F800000), c(_NAN), upper)
    return tirx.Let(number, value, tirx.Let(bits, tirx.reinterpret("uint32", number), tirx.Cast("uint16", kept)))
