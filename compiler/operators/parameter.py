"""What layers have in common: the parameters they ask for, and the words for what they cannot know."""

from __future__ import annotations

from collections.abc import Mapping

from ..types import Dim, DType, Expression, Shape, TensorType, divide
from .factor import nearest_divisors
from .operator import Initialiser, Operator, OptionalTypes, ParameterSpec, ShapeError

ZEROS = Initialiser("zeros")
ONES = Initialiser("ones")
FAN_IN = Initialiser("fan_in_uniform")


def data(inputs: OptionalTypes) -> TensorType | None:
    """The layer's data input, None before it is applied to anything."""
    return inputs[0] if inputs else None


def applied(name: str, inputs: OptionalTypes) -> TensorType:
    """The layer's data input.

    Raises:
        ShapeError: where it is absent.
    """
    x = data(inputs)
    if x is None:
        raise ShapeError(f"{name} needs its input x", code="input-count", fix=f"x |> {name}(…)")
    return x


def parameter_dtype(x: TensorType | None) -> DType:
    """Parameters are of their input's dtype where that is a float."""
    return x.dtype if x is not None and x.dtype.is_float else DType.F32


def width(name: str, argument: str, stated: int | None, found: Dim | None) -> int:
    """An input size that a layer is told, or reads off its input; both where both are known.

    Raises:
        ShapeError: where neither is known, they disagree, or the size is symbolic.
    """
    if found is None:
        if stated is None:
            raise ShapeError(
                f"{name} has no parameters before it is applied: their shapes depend on its input",
                code="unknown-input-size",
                fix=f"{name}(…, {argument} = …)",
            )
        return stated
    if stated is not None and stated != found:
        raise ShapeError(
            f"{name} is made with {argument} = {stated}, but its input has {found}",
            operands=(0,),
            fix=f"{argument} = {found}, or leave it out",
        )
    return numeric(name, argument, found)


def numeric(name: str, what: str, size: Dim) -> int:
    """A size that must be a number.

    Raises:
        ShapeError: where it is symbolic.
    """
    if isinstance(size, Expression):
        raise ShapeError(
            f"the parameters of {name} would depend on {what} = {size}, but parameters have fixed shapes",
            operands=(0,),
            code="symbolic-parameter",
            fix="declare that axis of the input with a number",
        )
    return size


def stated(name: str, argument: str, value: int | tuple[int, ...] | None, found: Dim | Shape | None) -> Dim | Shape:
    """An argument of a layer, or what its given weight says; both where both are known.

    Raises:
        ShapeError: where neither is known, or they disagree.
    """
    if found is None:
        if value is None:
            raise ShapeError(
                f"{name} needs {argument}, or a weight that has it",
                code="missing-argument",
                fix=f"{name}({argument} = …) or {name}(weight = …)",
            )
        return value
    if value is not None and value != found:
        raise ShapeError(
            f"{name} is made with {argument} = {_text(value)}, but its weight has {_text(found)}",
            code="shape-mismatch",
            fix=f"leave {argument} out where the weight is given",
        )
    return found


def _text(value: Dim | Shape) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def weight_rank(name: str, given: Mapping[str, TensorType], rank: int, layout: str) -> TensorType | None:
    """The given weight, if any, which must be of this rank."""
    weight = given.get("weight")
    if weight is not None and weight.rank != rank:
        raise ShapeError(
            f"the weight of {name} is [{layout}], not {weight} of rank {weight.rank}", code="rank-mismatch"
        )
    return weight


def bias_of(name: str, weight: Shape, size: Dim, dtype: DType) -> ParameterSpec:
    """A bias beside a weight of this shape: U(±1/√fan_in), PyTorch's default."""
    fan_in = 1
    for d in weight[1:]:
        fan_in *= numeric(name, "the weight's size", d)
    bound = max(fan_in, 1) ** -0.5
    return ParameterSpec((size,), Initialiser("uniform", (-bound, bound)), dtype)


def same_dtype(op: Operator, *inputs: TensorType | None) -> None:
    """Raises `ShapeError` where inputs that are multiplied differ in dtype, or are no floats."""
    first = inputs[0]
    assert first is not None
    for i, t in enumerate(inputs):
        if t is None or t.dtype is first.dtype:
            continue
        raise ShapeError(
            f"{op.name} combines {first} and {t}, whose dtypes differ",
            operands=(0, i),
            code="dtype-mismatch",
            fix=f"cast(…, {first.dtype.value}) on the second, or cast(…, {t.dtype.value}) on the first",
        )
    if not first.dtype.is_float:
        raise ShapeError(
            f"{op.name} needs floating-point numbers, not {first}",
            operands=(0,),
            code="dtype-mismatch",
            fix="cast(x, f32) makes them so",
        )


def check_vector(op: Operator, name: str, vector: TensorType | None, size: Dim, index: int, of: str) -> None:
    """Raises `ShapeError` where a per-channel vector is present and not `[size]`."""
    if vector is not None and vector.shape != (size,):
        raise ShapeError(
            f"the {name} of {op.name} is {vector}, but needs [{size}], one number for each of its {of}",
            operands=(index,) if index == 0 else (0, index),
        )


def divided(
    op: str, argument: str, parts: int, what: str, size: Dim, operand: int = 0, code: str = "does-not-divide"
) -> Dim:
    """`size / parts`.

    Raises:
        ShapeError: where that is not a whole number, with the nearest numbers that are.
    """
    whole = divide(size, parts)
    if whole is not None:
        return whole
    fix = None
    if isinstance(size, int) and parts:
        near = nearest_divisors(size, parts)
        sizes = [s for s in (size // parts * parts, (size // parts + 1) * parts) if s]
        options = [f"{argument} = {_alternatives(near)}"] if near else []
        fix = ", or ".join([*options, f"{_alternatives(sizes)} {what}"])
    raise ShapeError(
        f"{op} cannot divide {size} {what} into {argument} = {parts}", operands=(operand,), code=code, fix=fix
    )


def _alternatives(numbers: list[int]) -> str:
    return " or ".join(map(str, dict.fromkeys(numbers)))
