"""Dimensions and types as the normal form writes them: `f32[2*N + 1, (H + 1)//2]`. Every name is a symbol."""

from __future__ import annotations

from . import tree as t
from .builtin import Refused, power
from .diagnostic import Diagnostic, Label, NetcError, nearest
from .source import Span
from .types import Dim, DType, Expression, TensorType, floor_divide, symbol

_TERMS = 10_000
"""No product of dimensions has more terms; longer ones are hostile, and slow."""
_BITS = 256
_DEPTH = 100


def tensor_type(type: t.Type) -> TensorType:
    """The type that a text declares.

    Raises:
        NetcError: where it is no tensor type, or a dimension cannot be read.
    """
    if not isinstance(type, t.ShapeType) or type.dtype is None:
        raise _refused("type", "a type is written with its dtype and shape, such as f32[N, 3]", type.span)
    name = type.dtype.text
    known = [d.value for d in DType]
    if name not in known:
        note = f"dtypes: {', '.join(known)}"
        raise _refused("dtype", f"there is no dtype {name}", type.dtype.span, note, nearest(name, known))
    return TensorType(DType(name), tuple(_size(d) for d in type.dimensions))


def _size(part: t.Expr | t.Ellipsis) -> Dim:
    if isinstance(part, t.Ellipsis):
        raise _refused("dimension", "every dimension is written out here", part.span)
    size = dimension(part)
    if isinstance(size, int) and size < 0:
        raise _refused("dimension", f"a dimension cannot be {size}", part.span)
    return size


def dimension(expression: t.Expr, depth: int = 0) -> Dim:
    """The value of an expression over integers and symbols with `+ - * // **`.

    Raises:
        NetcError: for anything else, and where an operation is not defined.
    """
    if depth > _DEPTH:
        raise _refused("dimension", "this dimension nests too deeply", expression.span)
    if isinstance(expression, t.Name):
        return symbol(expression.text)
    if isinstance(expression, t.Number) and isinstance(expression.value, int) and expression.unit is None:
        return expression.value
    if isinstance(expression, t.Unary) and expression.op == "-":
        return -dimension(expression.operand, depth + 1)
    if isinstance(expression, t.Binary):
        left, right = dimension(expression.left, depth + 1), dimension(expression.right, depth + 1)
        try:
            return _binary(expression.op, left, right)
        except (Refused, ValueError, ZeroDivisionError) as error:
            raise _refused("dimension", f"this dimension is not defined: {error}", expression.span) from None
    note = "dimensions are made of integers, symbols, + - * // and **"
    raise _refused("dimension", "this is no dimension", expression.span, note)


def _binary(op: str, left: Dim, right: Dim) -> Dim:
    if op == "+":
        return left + right
    if op == "-":
        return left - right
    if op == "*":
        if _terms(left) * _terms(right) > _TERMS:
            raise Refused(f"the product has more than {_TERMS} terms")
        return left * right
    if op == "//":
        return floor_divide(left, right)
    if op == "**":
        if isinstance(right, int) and isinstance(left, Expression) and _terms(left) ** min(abs(right), 64) > _TERMS:
            raise Refused(f"the power has more than {_TERMS} terms")
        result = power(left, right, _BITS)
        if isinstance(result, (int, Expression)):
            return result
    raise Refused(f"{left} {op} {right} is no dimension")


def _terms(dim: Dim) -> int:
    return len(dim.terms) if isinstance(dim, Expression) else 1


def _refused(code: str, message: str, span: Span, note: str = "", fix: str | None = None) -> NetcError:
    return NetcError([Diagnostic(code, message, (Label(span),), (note,) if note else (), fix)])
