"""Four products of bytes at once: AVX-512's and AVX's VNNI instructions (vpdpbusd).

In a kernel `dot(bytes, w)` is a number like others, of which loops make vectors: of four bytes that follow each other
in memory and the four signed ones that w holds it is the sum of the products, in i32. TVM has no such operator, and
LLVM finds the instruction in no formula. So `dot` is written as a call of the intrinsic function with scalars for
operands, which TVM's vectoriser widens like any other call; when all loops are written out, `finish` gives each call
the name and the types that go with its width, reads the bytes at once, and makes what is added to it its accumulator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .machine import Machine
from .untyped import Load, mutate, pipelines, tirx, tvm, walk

PIPELINE = "netc"
"""The name, in TVM's table, of its default pipeline with `finish` at the end."""

_NAME = "llvm.x86.avx512.vpdpbusd.512"
_BY_LANES = {16: _NAME, 8: "llvm.x86.avx512.vpdpbusd.256", 4: "llvm.x86.avx512.vpdpbusd.128"}
_CALL = "tirx.call_llvm_pure_intrin"
_FLIP = -0x7F7F7F80
"""0x80808080: 128 added to each of four bytes, which makes signed ones unsigned."""


def has_dots(machine: Machine) -> bool:
    """Whether the machine has the instruction for whole vectors, and for parts of them."""
    if machine.lanes == 16:
        return {"avx512vnni", "avx512vl"} <= set(machine.features)
    return machine.lanes == 8 and "avxvnni" in machine.features


def dot(bytes: Sequence[Any], w: Any) -> Any:
    """The sum of the products of four bytes, which follow each other in memory, with those that are w.

    Signed bytes have 128 added before they are multiplied.
    """
    signed = str(bytes[0].ty.dtype) == "int8"
    x = [tirx.Cast("int32", tirx.Cast("uint8", b) if signed else b) for b in bytes]
    flip = tirx.const(_FLIP if signed else 0, "int32")
    return tirx.call_llvm_pure_intrin("int32", _NAME, tirx.const(0, "int32"), w, flip, *x)


def word(bytes: Sequence[Any]) -> Any:
    """Four bytes in an i32, the first the lowest."""
    parts = [tirx.Cast("int32", tirx.Cast("uint8", b)) << tirx.const(8 * i, "int32") for i, b in enumerate(bytes)]
    return parts[0] | parts[1] | parts[2] | parts[3]


def finish(function: Any, module: Any, context: Any) -> Any:
    """The function with real calls."""
    found: list[Any] = []
    walk(function.body, (tvm.ir.Call, lambda call: found.append(call) if _is_dot(call) else None))
    if not found:
        return function
    body = mutate(function.body, (tirx.Add, _accumulated))
    return function.with_body(mutate(body, (tvm.ir.Call, _typed)))


def _is_dot(value: Any) -> bool:
    named = isinstance(value, tvm.ir.Call) and str(getattr(value.op, "name", "")) == _CALL
    return named and len(value.args) == 8 and int(value.args[0]) == _number()


def _number() -> int:
    """TVM knows intrinsic functions by numbers, which it gives when it is asked for one by name."""
    return int(tirx.call_llvm_pure_intrin("int32", _NAME).args[0])


def _accumulated(sum: Any, m: Any) -> Any:
    sum = m.default_mutate(sum)
    for added, product in ((sum.a, sum.b), (sum.b, sum.a)):
        if _is_dot(product) and _is_zero(product.args[1]):
            return tirx.call_llvm_pure_intrin(str(product.ty.dtype), _NAME, added, *product.args[2:])
    return sum


def _is_zero(start: Any) -> bool:
    value = _bare(start)
    return isinstance(value, tirx.IntImm) and int(value) == 0


def _bare(value: Any) -> Any:
    """The scalar of which all lanes are."""
    return value.value if isinstance(value, tirx.Broadcast) else value


def _typed(call: Any, m: Any) -> Any:
    call = m.default_mutate(call)
    if not _is_dot(call):
        return call
    _, start, w, flip, *x = call.args
    lanes = int(call.ty.dtype.lanes)
    assert all(isinstance(b, tirx.Broadcast) or lanes == 1 for b in x), "the lanes of a vector read different bytes"
    value = _at_once([_bare(b).value for b in x])
    if int(_bare(flip)):
        value = value ^ tirx.const(_FLIP, "int32")
    if lanes not in _BY_LANES:
        value = value if lanes == 1 else tirx.Broadcast(value, lanes)
        return start + _written(value, w, lanes)
    bytes = tirx.reinterpret(f"uint8x{4 * lanes}", tirx.Broadcast(value, lanes))
    weights = tirx.reinterpret(f"int8x{4 * lanes}", w)
    return tirx.call_llvm_pure_intrin(f"int32x{lanes}", _BY_LANES[lanes], start, bytes, weights)


def _at_once(bytes: Sequence[Any]) -> Any:
    """Four bytes in an i32, read at once where they are read: LLVM too would, but forgets what they cannot alias."""
    first = bytes[0].value if isinstance(bytes[0], tirx.Cast) else bytes[0]
    if not isinstance(first, Load):
        return word(bytes)
    *outer, inner = first.indices
    place = tirx.Ramp(inner, tirx.const(1, inner.ty.dtype), 4)
    return tirx.reinterpret("int32", tirx.BufferLoad(first.source, [*outer, place]))


def _written(x: Any, w: Any, lanes: int) -> Any:
    """The same in arithmetic, for vectors of another length."""

    def number(value: int) -> Any:
        return tirx.const(value, f"int32x{lanes}" if lanes > 1 else "int32")

    parts = [((x >> number(8 * i)) & number(255)) * ((w << number(24 - 8 * i)) >> number(24)) for i in range(4)]
    return parts[0] + parts[1] + parts[2] + parts[3]


def _pipeline() -> Any:
    whole, host, device = pipelines.get_tir_pipeline("default")
    last = tirx.transform.prim_func_pass(finish, opt_level=0, name="netc.dot")
    return whole, lambda: tvm.transform.Sequential([host(), last]), device


pipelines.register_tir_pipeline(PIPELINE, _pipeline)
