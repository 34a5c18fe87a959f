"""Element-wise rules: arithmetic, comparison, logic, casts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ....compiler.operators import arithmetic as op
from ....compiler.operators.operator import Operator
from ....compiler.types import DType, promote
from ..formula import Formula
from ..half import DTYPES, narrowed
from ..lower import Inputs, Lowering, Types, rules
from ..tensor import Tensor
from ..untyped import tirx
from .numeric import (
    at_least,
    at_most,
    cast,
    const,
    different,
    dtype_of,
    equal,
    erf,
    exp,
    is_float,
    let,
    log,
    maximum,
    minimum,
    ordered,
    zero,
)

Function = Callable[..., Any]


def _unary(function: Function) -> Callable[..., Tensor]:
    """A rule that applies a function to elements in the result's dtype."""

    def rule(low: Lowering, node: Operator, inputs: Inputs, types: Types) -> Tensor:
        (x,) = inputs
        dtype = DTYPES[types[0].dtype]
        return low.elementwise(node.name, [x], types[0], lambda v: function(cast(v, dtype)))

    return rule


def _binary(function: Function) -> Callable[..., Tensor]:
    """A rule that applies a function to pairs of elements in the result's dtype."""

    def rule(low: Lowering, node: Operator, inputs: Inputs, types: Types) -> Tensor:
        a, b = inputs
        dtype = DTYPES[types[0].dtype]
        return low.elementwise(node.name, [a, b], types[0], lambda v, w: function(cast(v, dtype), cast(w, dtype)))

    return rule


def _comparison(function: Function) -> Callable[..., Tensor]:
    def rule(low: Lowering, node: Operator, inputs: Inputs, types: Types) -> Tensor:
        a, b = inputs
        # LLVM compares no single bits.
        promoted = promote(a.type.dtype, b.type.dtype)
        dtype = DTYPES[DType.U8 if promoted is DType.BOOL else promoted]
        return low.elementwise(node.name, [a, b], types[0], lambda v, w: function(cast(v, dtype), cast(w, dtype)))

    return rule


def _sign(x: Any) -> Any:
    dtype = dtype_of(x)
    return tirx.Select(x > zero(dtype), const(1, dtype), tirx.Select(x < zero(dtype), const(-1, dtype), zero(dtype)))


def _whole(function: Function) -> Function:
    """Rounding leaves integers as they are."""
    return lambda x: function(x) if is_float(x) else x


def _rsqrt(x: Any) -> Any:
    return const(1, dtype_of(x)) / tirx.sqrt(x)


def _floor_divide(a: Any, b: Any) -> Any:
    """As PyTorch: the quotient of what is left without the remainder, so that both agree."""
    if not is_float(a):
        return tirx.floordiv(a, b)
    dtype = dtype_of(a)

    def divided(a: Any, b: Any, rest: Any) -> Any:
        exact = (a - rest) / b - tirx.Select(_opposed(rest, b), const(1, dtype), zero(dtype))
        return tirx.Select(tirx.EQ(b, zero(dtype)), a / b, tirx.nearbyint(exact))

    return let(a, lambda a: let(b, lambda b: let(_fmod(a, b), lambda rest: divided(a, b, rest))))


def _remainder(a: Any, b: Any) -> Any:
    if not is_float(a):
        return tirx.floormod(a, b)
    return let(b, lambda b: let(_fmod(a, b), lambda rest: tirx.Select(_opposed(rest, b), rest + b, rest)))


def _opposed(rest: Any, divisor: Any) -> Any:
    """Whether a remainder that rounds towards zero has the sign that the divisor has not."""
    none = zero(dtype_of(rest))
    return tirx.Or(tirx.And(rest < none, divisor > none), tirx.And(rest > none, divisor < none))


def _fmod(a: Any, b: Any) -> Any:
    """C's remainder, with the sign of `a`; exact, whatever the quotient."""
    dtype = dtype_of(a)
    return tirx.call_pure_extern(dtype, "fmod" if dtype == "float64" else "fmodf", a, b)


rules.table(
    {
        op.Add: _binary(lambda a, b: a + b),
        op.Sub: _binary(lambda a, b: a - b),
        op.Mul: _binary(lambda a, b: a * b),
        op.Div: _binary(lambda a, b: a / b),
        op.Maximum: _binary(maximum),
        op.Minimum: _binary(minimum),
        op.Remainder: _binary(_remainder),
        op.FloorDivide: _binary(_floor_divide),
        op.Eq: _comparison(equal),
        op.Ne: _comparison(different),
        op.Lt: _comparison(tirx.LT),
        op.Le: _comparison(partial(ordered, tirx.LE)),
        op.Gt: _comparison(tirx.GT),
        op.Ge: _comparison(partial(ordered, tirx.GE)),
        op.LogicalAnd: _binary(tirx.And),
        op.LogicalOr: _binary(tirx.Or),
        op.LogicalNot: _unary(tirx.Not),
        op.Neg: _unary(lambda x: zero(dtype_of(x)) - x if not is_float(x) else -x),
        op.Abs: _unary(tirx.abs),
        op.Sign: _unary(_sign),
        op.Floor: _unary(_whole(tirx.floor)),
        op.Ceil: _unary(_whole(tirx.ceil)),
        op.Round: _unary(_whole(tirx.nearbyint)),
        op.Square: _unary(lambda x: x * x),
        op.Exp: _unary(exp),
        op.Log: _unary(log),
        op.Sqrt: _unary(tirx.sqrt),
        op.Rsqrt: _unary(_rsqrt),
        op.Sin: _unary(tirx.sin),
        op.Cos: _unary(tirx.cos),
        op.Erf: _unary(erf),
        op.Reciprocal: _unary(lambda x: const(1, dtype_of(x)) / x),
    }
)


@rules(op.Pow)
def _pow(low: Lowering, node: op.Pow, inputs: Inputs, types: Types) -> Tensor:
    a, b = inputs
    dtype = types[0].dtype
    if dtype.is_float and b.number in _POWERS:
        simple = _POWERS[b.number]
        return low.elementwise("pow", [a], types[0], lambda v: simple(cast(v, DTYPES[dtype])))
    wider = dtype if dtype in (DType.F32, DType.F64) else DType.F32 if dtype.is_float else DType.F64

    def power(v: Any, w: Any) -> Any:
        made = tirx.power(cast(v, DTYPES[wider]), cast(w, DTYPES[wider]))
        return cast(made if dtype.is_float else tirx.nearbyint(made), DTYPES[dtype])

    return low.elementwise("pow", [a, b], types[0], power)


_POWERS: dict[Any, Function] = {
    1: lambda x: x,
    2: lambda x: x * x,
    3: lambda x: x * x * x,
    0.5: tirx.sqrt,
    -0.5: _rsqrt,
    -1: lambda x: const(1, dtype_of(x)) / x,
}


@rules(op.Where)
def _where(low: Lowering, node: op.Where, inputs: Inputs, types: Types) -> Tensor:
    dtype = DTYPES[types[0].dtype]
    return low.elementwise("where", inputs, types[0], lambda c, a, b: tirx.Select(c, cast(a, dtype), cast(b, dtype)))


@rules(op.Clip)
def _clip(low: Lowering, node: op.Clip, inputs: Inputs, types: Types) -> Tensor:
    def clipped(x: Any) -> Any:
        x = x if node.min is None else at_least(x, node.min)
        return x if node.max is None else at_most(x, node.max)

    return low.elementwise("clip", inputs, types[0], clipped)


@rules(op.Cast)
def _cast(low: Lowering, node: op.Cast, inputs: Inputs, types: Types) -> Tensor:
    (x,) = inputs
    if x.type.dtype is types[0].dtype:
        return x
    dtype = types[0].dtype

    def converted(value: Any) -> Any:
        made = cast(value, DTYPES[dtype])
        # To the last bit: what rounds the results of arithmetic may take the smallest numbers for 0 (../dot.py).
        return made if isinstance(x, Formula) else narrowed(made, dtype)

    return low.elementwise("cast", [x], types[0], converted)
