"""Sums of products of short numbers that follow each other in memory, each sum a single instruction.

There are two: `BYTES`, AVX-512's and AVX's VNNI (vpdpbusd), four products of bytes summed in i32; and `HALVES`,
AVX-512's BF16 (vdpbf16ps), two products of bf16 summed in f32. In a kernel `dot(kind, numbers, w)` is a number like
others, of which loops make vectors: the sum of the products of numbers that follow each other in memory with those that
the 32 bits of w hold. TVM has no such operator, and LLVM finds the instructions in no formula. So `dot` is written as
a call of the intrinsic function with scalars for operands, which TVM's vectoriser widens like any other call; when all
loops are written out, `finish` gives each call the name and the types that go with its width, reads the numbers at
once, and makes what is added to it its accumulator.

vdpbf16ps takes numbers below 2^-126 for 0 and gives none; it adds two products, each exact, one after the other to the
accumulator, and rounds each time to the nearest, of two the even one (Intel, "Instruction Set Extensions Programming
Reference", vdpbf16ps; AMD's agrees). So of n products a·b of which the sum is taken in turn, the error is at most
n · 2^-24 · sum |a·b| + n · 2^-125, as it is where f32 are multiplied and added; a·b itself has none.

`rounded` is the other half of it: f32 to bf16 by one instruction (vcvtneps2bf16), which gives the nearest, of two the
even one, a NaN for a NaN, and 0 of the sign for numbers below 2^-126, which `half.py`'s formula would keep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .machine import Machine
from .untyped import Analyzer, Load, mutate, pipelines, tirx, tvm, walk

PIPELINE = "netc"
"""The name, in TVM's table, of its default pipeline with `finish` at the end."""

_CALL = "tirx.call_llvm_pure_intrin"
_FLIP = -0x7F7F7F80
"""0x80808080: 128 added to each of four bytes, which makes signed ones unsigned."""
_IMPORT = "pragma_import_llvm"
"""Has TVM link a text of LLVM's language, all of whose functions become a part of those that call them."""


@dataclass(frozen=True)
class Dot:
    """An instruction: `size` products at once."""

    size: int
    sums: str
    """The type they are summed in."""
    marker: str
    """The intrinsic function that stands for it until `finish`."""

    @property
    def bits(self) -> int:
        """Of one number."""
        return 32 // self.size


BYTES = Dot(4, "int32", "llvm.x86.avx512.vpdpbusd.512")
HALVES = Dot(2, "float32", "llvm.x86.avx512bf16.dpbf16ps.512")
_ROUND = "llvm.x86.avx512bf16.cvtneps2bf16.512"
_WIDTHS = {16: 512, 8: 256, 4: 128}
"""Bits of vectors by lanes."""


def has(dot: Dot, machine: Machine) -> bool:
    """Whether the machine has the instruction for whole vectors, and for parts of them."""
    if dot is HALVES:
        return machine.lanes == 16 and {"avx512bf16", "avx512vl"} <= set(machine.features)
    if machine.lanes == 16:
        return {"avx512vnni", "avx512vl"} <= set(machine.features)
    return machine.lanes == 8 and "avxvnni" in machine.features


def dot(kind: Dot, numbers: Sequence[Any], w: Any) -> Any:
    """The sum of the products of numbers, which follow each other in memory, with those that are w.

    Signed bytes have 128 added before they are multiplied.
    """
    assert len(numbers) == kind.size
    signed = str(numbers[0].ty.dtype) == "int8"
    x = [tirx.Cast("int32", tirx.Cast("uint8", n) if signed else n) for n in numbers]
    flip = tirx.const(_FLIP if signed else 0, "int32")
    return tirx.call_llvm_pure_intrin(kind.sums, kind.marker, tirx.const(0, kind.sums), w, flip, *x)


def word(numbers: Sequence[Any]) -> Any:
    """Numbers in an i32, the first the lowest."""
    bits = 32 // len(numbers)
    total: Any = None
    for i, n in enumerate(numbers):
        part = tirx.Cast("int32", tirx.Cast(f"uint{bits}", n)) << tirx.const(bits * i, "int32")
        total = part if total is None else total | part
    return total


def rounded(value: Any) -> Any:
    """The bits of an f32 as bf16, for machines that have `HALVES`."""
    return tirx.call_llvm_pure_intrin("uint16", _ROUND, value)


def finish(function: Any, module: Any, context: Any) -> Any:
    """The function with real calls."""
    found: list[Any] = []
    walk(function.body, (tvm.ir.Call, lambda call: found.append(call) if _is_marked(call) else None))
    if not found:
        return function
    texts: dict[str, str] = {}
    prover = _knowing(function.body)

    def real(call: Any, m: Any) -> Any:
        call = m.default_mutate(call)
        kind = _marked(call)
        if kind is not None:
            return _typed(kind, call, texts, prover)
        return _real_rounding(call, texts) if _is(call, _ROUND) else call

    body = mutate(function.body, (tirx.Add, _accumulated))
    body = mutate(body, (tvm.ir.Call, real))
    if texts:
        body = tirx.AttrStmt(tirx.const(0, "int32"), _IMPORT, "\n".join(texts[k] for k in sorted(texts)), body)
    return function.with_body(body)


def _is(value: Any, name: str) -> bool:
    named = isinstance(value, tvm.ir.Call) and str(getattr(value.op, "name", "")) == _CALL
    return named and int(value.args[0]) == _number(name)


def _number(name: str) -> int:
    """TVM knows intrinsic functions by numbers, which it gives when it is asked for one by name."""
    if name not in _numbers:
        _numbers[name] = int(tirx.call_llvm_pure_intrin("int32", name).args[0])
    return _numbers[name]


_numbers: dict[str, int] = {}


def _marked(value: Any) -> Dot | None:
    """Which dot product a call is, that is not yet a real one."""
    return next((k for k in (BYTES, HALVES) if _is(value, k.marker) and len(value.args) == 4 + k.size), None)


def _is_marked(value: Any) -> bool:
    return _marked(value) is not None or _is(value, _ROUND)


def _accumulated(sum: Any, m: Any) -> Any:
    sum = m.default_mutate(sum)
    for added, product in ((sum.a, sum.b), (sum.b, sum.a)):
        kind = _marked(product)
        if kind is not None and _is_zero(product.args[1]):
            return tirx.call_llvm_pure_intrin(str(product.ty.dtype), kind.marker, added, *product.args[2:])
    return sum


def _is_zero(start: Any) -> bool:
    value = _bare(start)
    return isinstance(value, tirx.IntImm | tirx.FloatImm) and float(value.value) == 0


def _bare(value: Any) -> Any:
    """The scalar of which all lanes are."""
    return value.value if isinstance(value, tirx.Broadcast) else value


def _typed(kind: Dot, call: Any, texts: dict[str, str], prover: Any) -> Any:
    _, start, w, flip, *x = call.args
    lanes = int(call.ty.dtype.lanes)
    assert all(isinstance(n, tirx.Broadcast) or lanes == 1 for n in x), "the lanes of a vector read different numbers"
    value = _at_once([_bare(n).value for n in x], prover)
    if int(_bare(flip)):
        value = value ^ tirx.const(_FLIP, "int32")
    value = value if lanes == 1 else tirx.Broadcast(value, lanes)
    if lanes not in _WIDTHS:
        return start + _WRITTEN[kind](value, w, lanes)
    width = _WIDTHS[lanes]
    if kind is HALVES:
        return _linked(f"netc_dot_bf16_{lanes}", f"float32x{lanes}", (start, value, w), texts, _halves_text(lanes))
    bytes = tirx.reinterpret(f"uint8x{4 * lanes}", value)
    weights = tirx.reinterpret(f"int8x{4 * lanes}", w)
    return tirx.call_llvm_pure_intrin(f"int32x{lanes}", f"llvm.x86.avx512.vpdpbusd.{width}", start, bytes, weights)


def _linked(name: str, type: str, arguments: Sequence[Any], texts: dict[str, str], text: str) -> Any:
    """A call of a function in LLVM's own language, for types that TVM has no name for."""
    texts[name] = text
    return tirx.call_pure_extern(type, name, *arguments)


def _halves_text(lanes: int) -> str:
    sums, words, halves = f"<{lanes} x float>", f"<{lanes} x i32>", f"<{2 * lanes} x bfloat>"
    real = f"@llvm.x86.avx512bf16.dpbf16ps.{_WIDTHS[lanes]}"
    return (
        f"declare {sums} {real}({sums}, {halves}, {halves})\n"
        f"define {sums} @netc_dot_bf16_{lanes}({sums} %s, {words} %x, {words} %w) {{\n"
        f"  %a = bitcast {words} %x to {halves}\n"
        f"  %b = bitcast {words} %w to {halves}\n"
        f"  %r = call {sums} {real}({sums} %s, {halves} %a, {halves} %b)\n"
        f"  ret {sums} %r\n}}\n"
    )


def _real_rounding(call: Any, texts: dict[str, str]) -> Any:
    lanes = int(call.ty.dtype.lanes)
    of = (lambda t: t) if lanes == 1 else (lambda t: f"<{lanes} x {t}>")
    wide, half, bits = of("float"), of("bfloat"), of("i16")
    name = f"netc_round_bf16_{lanes}"
    text = (
        f"define {bits} @{name}({wide} %x) {{\n"
        f"  %r = fptrunc {wide} %x to {half}\n"
        f"  %b = bitcast {half} %r to {bits}\n"
        f"  ret {bits} %b\n}}\n"
    )
    return _linked(name, str(call.ty.dtype), [call.args[1]], texts, text)


def _at_once(numbers: Sequence[Any], prover: Any) -> Any:
    """Numbers in an i32, read at once where they are read from one place after the other: LLVM too would, but forgets
    what they cannot alias."""
    loads = [n.value if isinstance(n, tirx.Cast) else n for n in numbers]
    first = loads[0]
    if not all(isinstance(n, Load) and _after(first, n, i, prover) for i, n in enumerate(loads)):
        return word(numbers)
    *outer, inner = first.indices
    place = tirx.Ramp(inner, tirx.const(1, inner.ty.dtype), len(numbers))
    return tirx.reinterpret("int32", tirx.BufferLoad(first.source, [*outer, place]))


def _after(first: Any, load: Any, count: int, prover: Any) -> bool:
    """Whether a number is read so many places after the first. Repeated and permuted ones lie elsewhere."""
    if not load.source.same_as(first.source):
        return False
    *outer, inner = zip(first.indices, load.indices, strict=True)
    same = all(prover.can_prove_equal(here, there) for here, there in outer)
    return same and prover.can_prove_equal(inner[0] + tirx.const(count, inner[0].ty.dtype), inner[1])


def _knowing(body: Any) -> Any:
    """One that knows what variables stand for: TVM has given names to what is computed more than once."""
    prover = Analyzer()

    def learn(bind: Any) -> None:
        if str(getattr(bind.value.ty, "dtype", "")) in ("int32", "int64"):
            prover.bind(bind.var, bind.value)

    walk(body, (tirx.Bind, learn))
    return prover


def _written_bytes(x: Any, w: Any, lanes: int) -> Any:
    """The same in arithmetic, for vectors of another length."""

    def number(value: int) -> Any:
        return tirx.const(value, f"int32x{lanes}" if lanes > 1 else "int32")

    parts = [((x >> number(8 * i)) & number(255)) * ((w << number(24 - 8 * i)) >> number(24)) for i in range(4)]
    return parts[0] + parts[1] + parts[2] + parts[3]


def _written_halves(x: Any, w: Any, lanes: int) -> Any:
    def number(value: int) -> Any:
        return tirx.const(value, f"int32x{lanes}" if lanes > 1 else "int32")

    def both(word: Any) -> list[Any]:
        of = f"float32x{lanes}" if lanes > 1 else "float32"
        return [tirx.reinterpret(of, bits) for bits in (word << number(16), word & number(-0x10000))]

    (a, b), (c, d) = both(x), both(w)
    return a * c + b * d


_WRITTEN: Mapping[Dot, Callable[[Any, Any, int], Any]] = {BYTES: _written_bytes, HALVES: _written_halves}


def _pipeline() -> Any:
    whole, host, device = pipelines.get_tir_pipeline("default")
    last = tirx.transform.prim_func_pass(finish, opt_level=0, name="netc.dot")
    return whole, lambda: tvm.transform.Sequential([host(), last]), device


pipelines.register_tir_pipeline(PIPELINE, _pipeline)
