"""Numbers kept as integers, and layers that compute with them.

`dequantize` makes nothing: what reads its result reads the integers and decodes them, as half precision is widened. A
layer whose input and weight are such numbers multiplies the integers, sums in i32, and what follows (scale, bias,
activation, the next `quantize`) is computed from the sums before they are stored. Where the machine has no instruction
for four products of bytes, layers decode what they read, and their weights are fractions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ....compiler.operators import quantization as op
from ....compiler.types import DType, TensorType
from ..dot import BYTES, has
from ..formula import Formula
from ..half import DTYPES
from ..kernel import Pattern, View
from ..lower import Inputs, Lowering, Rounded, Types, rules
from ..tensor import Code, Tensor
from ..untyped import tirx
from .convolution import can_dot, convolve
from .depthwise import depthwise
from .linear import linear
from .numeric import cast, const
from .reduction import SUM, reduce
from .window import Pairs, sizes
from .words import divides

SHORT = (DType.U8, DType.I8)


@rules(op.Quantize)
def _quantize(low: Lowering, node: op.Quantize, inputs: Inputs, types: Types) -> Tensor:
    x, scale, zero = inputs
    least, most = op.LIMITS[node.dtype]
    dtype = DTYPES[x.type.dtype]

    def rounded(x: Any, scale: Any, zero: Any = None) -> Any:
        x = x * const(1 / float(scale), dtype) if isinstance(scale, tirx.FloatImm) else x / scale
        whole = tirx.nearbyint(x)
        whole = whole if zero is None else whole + cast(zero, dtype)
        whole = tirx.min(tirx.max(whole, const(least, dtype)), const(most, dtype))
        return cast(cast(whole, "int32"), DTYPES[node.dtype])

    return low.elementwise("quantize", _along(low, node, x, scale, zero), types[0], rounded)


@rules(op.Dequantize)
def _dequantize(low: Lowering, node: op.Dequantize, inputs: Inputs, types: Types) -> Tensor:
    x, scale, zero = inputs
    numbers = [t.number for t in (scale, zero) if t is not None]
    simple = not isinstance(x, Formula) and x.code is None and x.expr is not None and not x.constant
    if simple and x.type.dtype in SHORT and all(isinstance(n, int | float) for n in numbers):
        code = Code(x.type.dtype, int(numbers[1]) if zero is not None else 0, float(numbers[0]))
        return replace(x, type=types[0], code=code)

    def fraction(x: Any, scale: Any, zero: Any = None) -> Any:
        dtype = DTYPES[types[0].dtype]
        number = cast(x, dtype)
        return (number if zero is None else number - cast(zero, dtype)) * scale

    made = low.elementwise("dequantize", _along(low, node, x, scale, zero), types[0], fraction)
    if x.constant and zero is None and node.axis in (None, 0) and x.type.dtype is DType.I8:
        low.rounded[made.key] = Rounded(made, x, scale)
    return made


def _along(low: Lowering, node: op.Scaling, x: Tensor, *others: Tensor | None) -> list[Tensor]:
    """The operands, with scale and zero point shaped to stand along their axis."""
    given = [t for t in others if t is not None]
    if node.axis is not None:
        behind = (1,) * (x.type.rank - 1 - node.axis)
        given = [low.reshape(t, TensorType(t.type.dtype, (*t.type.shape, *behind))) for t in given]
    return [x, *given]


# ------------------------------------------------------------------------------------------------------------ layers


def convolution(
    low: Lowering,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    type: TensorType,
    *,
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    groups: int,
) -> Tensor | None:
    """A convolution of integers as they are kept; None where it reads others, or would not gain by it."""
    found = _integers(low, x, weight)
    if found is None:
        return None
    outputs, inputs = sizes(low, weight)[:2]
    wide = TensorType(DType.I32, type.shape)
    if inputs == 1 and outputs == groups > 1:
        code = x.code
        assert code is not None
        whole = replace(x, type=TensorType(DType.I32, x.type.shape), code=replace(code, scale=None))
        factors = _wide(low, found.integers)
        made = depthwise(low, whole, factors, None, wide, stride, padding, dilation)
        return _scaled(low, made, 1, x, found, bias, corrected=False)
    if not has(BYTES, low.machine) or not can_dot(BYTES, (outputs, inputs), groups):
        return None
    around: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    zero = x.code.zero if x.code else 0
    made = convolve(low, _raw(x), found.integers, None, wide, **around, dot=BYTES, around=zero)
    return _scaled(low, made, 1, x, found, bias, corrected=True)


def product(low: Lowering, x: Tensor, weight: Tensor, bias: Tensor | None, type: TensorType) -> Tensor | None:
    """`x` [..., K] by `weight` [F, K] as integers; None where they are others, or K is no multiple of 4."""
    found = _integers(low, x, weight)
    columns, inner = weight.type.shape
    if found is None or not has(BYTES, low.machine) or not isinstance(columns, int) or not divides(BYTES, inner):
        return None
    made = linear(low, _raw(x), found.integers, None, TensorType(DType.I32, type.shape), BYTES)
    return _scaled(low, made, type.rank - 1, x, found, bias, corrected=True)


def _integers(low: Lowering, x: Tensor, weight: Tensor) -> Rounded | None:
    """The integers of a weight, where what it multiplies are integers too."""
    found = low.rounded.get(weight.key)
    same = found is not None and found.made.type == weight.type
    coded = x.code is not None and x.code.scale is not None and x.place is None and x.type.dtype is DType.F32
    return found if same and coded else None


def _raw(x: Tensor) -> Tensor:
    """The integers in memory."""
    return replace(x, type=TensorType(x.kept, x.type.shape), code=None)


def _wide(low: Lowering, weight: Tensor) -> Tensor:
    """A weight as i32."""
    type = TensorType(DType.I32, weight.type.shape)
    return low.once(("wide", *weight.key), lambda: low.elementwise("widen", [weight], type, lambda w: cast(w, "int32")))


def _scaled(
    low: Lowering, sums: Tensor, axis: int, x: Tensor, found: Rounded, bias: Tensor | None, *, corrected: bool
) -> Tensor:
    """What sums of products of integers stand for; channels are along `axis`. Where it is to be `corrected`, the zero
    point of `x` has been multiplied too."""
    code = x.code
    assert code is not None
    assert code.scale is not None
    step = code.scale
    channels = (found.integers.type.shape[0],)
    behind = (1,) * (sums.type.rank - 1 - axis)

    def column(tensor: Tensor) -> Tensor:
        return low.reshape(tensor, TensorType(tensor.type.dtype, (*channels, *behind))) if behind else tensor

    factor = low.map(
        "scale", [found.scale], TensorType(DType.F32, channels), lambda i, s: s.broadcast(i) * const(step, "float32")
    )
    offset = None
    if corrected and _unsigned_zero(code):
        whole = _wide(low, found.integers)
        dims = list(range(1, whole.type.rank))
        total = reduce(low, "sum", [whole], dims, TensorType(DType.I32, channels), SUM, keepdim=False)
        zero = const(-_unsigned_zero(code), "int32")
        offset = low.elementwise("offset", [total], total.type, lambda t: t * zero)
    given = [t for t in (factor, offset, bias) if t is not None]

    def element(index: Sequence[Any], *views: View) -> Any:
        sum, factor, *others = (v.broadcast(index) for v in views)
        sum = sum if offset is None else sum + others[0]
        made = cast(sum, "float32") * factor
        return made if bias is None else made + others[-1]

    type = TensorType(DType.F32, sums.type.shape)
    operands = [sums, *map(column, given)]
    return low.map("scaled", operands, type, element, order=sums.order, pattern=Pattern.ELEMENTWISE)


def _unsigned_zero(code: Code) -> int:
    """The zero point of integers as bytes from 0: signed ones have 128 added before they are multiplied."""
    return code.zero + (128 if code.dtype is DType.I8 else 0)
