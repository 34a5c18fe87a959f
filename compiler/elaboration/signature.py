"""Arguments meet parameters, and tensors the declared shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, NoReturn, cast

from .. import tree as t
from ..diagnostic import Label, nearest
from ..operators.operator import (
    LAYERS,
    OPERATORS,
)
from ..scope import Frame
from ..source import Span
from ..types import Dim, Expression
from ..value import (
    ExternValue,
    Given,
    Instance,
    ModuleValue,
    OperatorValue,
    Tensor,
    describe,
)
from .place import Placement
from .problem import Returned

COMPILE_TIME_TYPES: dict[str, Callable[[Any], bool]] = {
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "dim": lambda v: isinstance(v, (int, Expression)) and not isinstance(v, bool),
    "float": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "bool": lambda v: isinstance(v, bool),
    "str": lambda v: isinstance(v, str),
    "list": lambda v: isinstance(v, list),
    "module": lambda v: isinstance(v, (ModuleValue, OperatorValue, ExternValue, Instance)),
    "any": lambda v: True,
}
"""The words that may stand as the type of a compile-time parameter."""


class Signatures(Placement):
    """Arguments meet parameters, and tensors the declared shapes."""

    def _bind(
        self,
        frame: Frame,
        parameters: Sequence[t.Field],
        bound: Mapping[str, Given],
        arguments: list[tuple[str | None, Given]],
        what: str,
        declared: Span,
        span: Span,
    ) -> dict[str, Given]:
        names = [p.name.text for p in parameters]
        result = dict(bound)
        free = [n for n in names if n not in result]
        for name, given in arguments:
            if name is None:
                if not free:
                    self._fail(
                        "too-many-arguments",
                        f"{what} takes {len(names)} arguments",
                        given.span,
                        Label(declared, "declared here"),
                        notes=(f"its parameters: {', '.join(names) or 'none'}",),
                        frame=frame,
                    )
                name = free.pop(0)
            elif name not in names:
                close = nearest(name, names)
                self._fail(
                    "unknown-argument",
                    f"{what} has no parameter {name}",
                    given.span,
                    Label(declared, "declared here"),
                    notes=(f"its parameters: {', '.join(names) or 'none'}",),
                    fix=close and f"{close} = …",
                    frame=frame,
                )
            elif name in free:
                free.remove(name)
            result[name] = given
        return result

    def _attributes(
        self, frame: Frame, constructor: OperatorValue, arguments: list[tuple[str | None, Given]], span: Span
    ) -> dict[str, Given]:
        accepted = _fields(constructor.operator)
        weights = weight_names(constructor.operator)
        if constructor.operator == "rearrange":
            arguments = _gather_sizes(arguments, accepted, span)
        result = dict(constructor.bound)
        free = [n for n in accepted if n not in result]
        for name, given in arguments:
            if name is None:
                if not free:
                    self._fail(
                        "too-many-arguments",
                        f"{constructor.operator} takes {len(accepted)} arguments",
                        given.span,
                        notes=(f"its arguments: {', '.join(accepted) or 'none'}",),
                        frame=frame,
                    )
                name = free.pop(0)
            elif name not in accepted and name not in weights:
                close = nearest(name, [*accepted, *weights])
                self._fail(
                    "unknown-argument",
                    f"{constructor.operator} has no argument {name}",
                    given.span,
                    notes=(f"its arguments: {', '.join([*accepted, *(w for w in weights if w not in accepted)])}",),
                    fix=f"{close} = …" if close else None,
                    frame=frame,
                )
            elif name in free:
                free.remove(name)
            result[name] = given
        return result

    def _declare_parameters(
        self, frame: Frame, parameters: Sequence[t.Field], bound: Mapping[str, Given], what: str, span: Span
    ) -> None:
        for field in parameters:
            given = bound.get(field.name.text)
            if given is not None:
                value, at = given.value, given.span
            elif field.default is not None:
                value, at = self._eval(frame, field.default), field.default.span
            else:
                self._fail(
                    "missing-argument",
                    f"{what} needs {field.name.text}",
                    span,
                    Label(field.span, "declared here, without a default"),
                    fix=f"{what}({field.name.text} = …)",
                    frame=frame.caller,
                )
            if field.type is not None:
                self._check_kind(frame, field, value, at)
            frame.declare(field.name.text, value, at)

    def _check_kind(self, frame: Frame, field: t.Field, value: Any, at: Span) -> None:
        if isinstance(field.type, t.ShapeType):
            self._fail("parameter-type", "tensors come in the second parenthesis", field.type.span, frame=frame)
        assert isinstance(field.type, t.PlainType)
        kind = field.type.name.text
        accepts = COMPILE_TIME_TYPES.get(kind)
        if accepts is None:
            self._fail(
                "parameter-type",
                f"there is no kind {kind}",
                field.type.span,
                frame=frame,
                notes=(f"kinds: {', '.join(COMPILE_TIME_TYPES)}",),
                fix=nearest(kind, COMPILE_TIME_TYPES),
            )
        if not accepts(value):
            self._fail(
                "argument-type",
                f"{field.name.text} is declared {kind}, not {describe(value)}",
                at,
                Label(field.span, "declared here"),
                frame=frame,
            )

    def _declare_inputs(self, frame: Frame, declaration: t.Module, tensors: list[Any], span: Span) -> None:
        what = declaration.name.text
        inputs = declaration.inputs
        if len(tensors) > len(inputs) or any(f.default is None for f in inputs[len(tensors) :]):
            self._fail(
                "input-count",
                f"{what} takes {len(inputs)} inputs, not {len(tensors)}",
                span,
                Label(declaration.name.span, f"declared with {', '.join(f.name.text for f in inputs) or 'no inputs'}"),
                frame=frame.caller,
            )
        for i, field in enumerate(inputs):
            if i < len(tensors):
                value = tensors[i]
            else:
                assert field.default is not None
                value = self._eval(frame, field.default)
            if isinstance(field.type, t.ShapeType) and value is not None:
                if not isinstance(value, Tensor):
                    self._fail(
                        "input-type",
                        f"{what} takes a tensor {field.name.text}, not {describe(value)}",
                        span,
                        Label(field.span),
                        frame=frame,
                    )
                self._unify(frame, field.type, value, span, f"the input {field.name.text} of {what}")
            at = value.span if isinstance(value, Tensor) else field.span
            frame.declare(field.name.text, value, at)

    def _unify(self, frame: Frame, declared: t.ShapeType, tensor: Tensor, span: Span, what: str) -> None:
        """Bind the names of a declared shape to the sizes of a tensor, and check what is known already."""
        if declared.dtype is not None and self._dtype(declared.dtype) != tensor.type.dtype:
            self._fail(
                "dtype-mismatch",
                f"{what} is declared {declared.dtype.text}, but it is {tensor.type}",
                span,
                Label(declared.span, "declared here"),
                Label(tensor.span, f"this is {tensor.type}"),
                fix=f"cast(x, {declared.dtype.text})",
                frame=frame,
            )
        pattern = list(declared.dimensions)
        dots = [i for i, d in enumerate(pattern) if isinstance(d, t.Ellipsis)]
        rank = tensor.type.rank
        if len(dots) > 1 or (rank < len(pattern) - 1 if dots else rank != len(pattern)):
            self._fail(
                "rank-mismatch",
                f"{what} is declared with {len(pattern) - len(dots)} axes, but it is {tensor.type}",
                span,
                Label(declared.span, "declared here"),
                Label(tensor.span, f"this is {tensor.type}"),
                frame=frame,
            )
        if dots:
            after = len(pattern) - dots[0] - 1
            pairs = [*zip(pattern[: dots[0]], tensor.type.shape, strict=False)]
            pairs += zip(pattern[dots[0] + 1 :], tensor.type.shape[rank - after :], strict=True)
        else:
            pairs = list(zip(pattern, tensor.type.shape, strict=True))
        late: list[tuple[t.Expr, Dim]] = []
        for dimension, size in pairs:
            assert not isinstance(dimension, t.Ellipsis)
            if isinstance(dimension, t.Name) and self._unbound(frame, dimension):
                if dimension.text != "_":
                    frame.declare(dimension.text, size, dimension.span)
            else:
                late.append((dimension, size))
        for dimension, size in late:
            if isinstance(dimension, t.Name) and dimension.text == "_":
                continue
            expected = self._dimension(frame, dimension)
            if expected != size:
                self._mismatch(frame, dimension, expected, size, declared, tensor, span, what)

    def _unbound(self, frame: Frame, name: t.Name) -> bool:
        return frame.find(name.text) is None and (
            name.text not in frame.home.names or not isinstance(frame.home.names[name.text], int)
        )

    def _mismatch(
        self,
        frame: Frame,
        dimension: t.Expr,
        expected: Dim,
        size: Dim,
        declared: t.ShapeType,
        tensor: Tensor,
        span: Span,
        what: str,
    ) -> NoReturn:
        labels = [Label(dimension.span, f"declared {dimension.span.text} here, which is {expected}")]
        if isinstance(dimension, t.Name):
            variable = frame.find(dimension.text)
            if variable is not None and variable.span != dimension.span:
                labels.append(Label(variable.span, f"{dimension.text} is {expected} from here"))
        labels.append(Label(tensor.span, f"this is {tensor.type}"))
        self._fail(
            "shape-mismatch",
            f"{what} has {size} where {expected} is declared ({dimension.span.text})",
            span,
            *labels,
            fix=f"make this axis {expected}, or declare {size} there",
            frame=frame,
        )

    def _check_outputs(self, frame: Frame, declaration: t.Module, result: Returned) -> None:
        if not declaration.outputs:
            return
        flat = [one for _, value in result.values for one in flattened(value)]
        if len(flat) != len(declaration.outputs):
            self._fail(
                "output-count",
                f"{declaration.name.text} declares {len(declaration.outputs)} outputs and returns {len(flat)}",
                declaration.outputs[0].span,
                frame=frame,
            )
        for declared, tensor in zip(declaration.outputs, flat, strict=True):
            if isinstance(declared, t.ShapeType):
                self._unify(frame, declared, tensor, declared.span, f"the output of {declaration.name.text}")


def _gather_sizes(
    arguments: list[tuple[str | None, Given]], accepted: Sequence[str], span: Span
) -> list[tuple[str | None, Given]]:
    """`rearrange("n t (h d) -> n h t d", h = 8)`: other keywords are the sizes of the pattern's names."""
    sizes = [[name, given.value] for name, given in arguments if name is not None and name not in accepted]
    rest = [(name, given) for name, given in arguments if name is None or name in accepted]
    return [*rest, ("sizes", Given(sizes, span))] if sizes else rest


@cache
def _fields(operator: str) -> tuple[str, ...]:
    cls: Any = LAYERS.get(operator) or OPERATORS[operator]
    return tuple(f.name for f in fields(cls))


@cache
def weight_names(operator: str) -> tuple[str, ...]:
    """Operands that may be given by keyword as tensors."""
    return tuple(o.name for o in OPERATORS[operator].operands if not o.variadic)


def flattened(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in cast("Sequence[Any]", value):
            yield from flattened(one)
