"""Nodes and parameters: operators validated, types inferred, and shape faults told with both their ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from pydantic import ValidationError

from .. import tree as t
from ..diagnostic import Diagnostic, Label, nearest
from ..graph import Parameter, ParameterRef, Phase, SelectPhase, Value
from ..operators.operator import (
    OPERATORS,
    Operator,
    ParameterSpec,
    ShapeError,
    validate,
)
from ..scope import Frame, join
from ..source import Span
from ..types import DTYPES, Dim, DType, Expression, TensorType
from ..value import (
    Given,
    Tensor,
    describe,
)
from .problem import Context, Fault

_DTYPE_HABITS = {
    "float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16", "float": "f32", "double": "f64",
    "half": "f16", "int64": "i64", "int32": "i32", "int8": "i8", "uint8": "u8", "long": "i64", "int": "i32",
}  # fmt: skip


class Placement(Context, ABC):
    """Nodes and parameters: operators validated, types inferred, and shape faults told with both their ends."""

    @abstractmethod
    def _eval(self, frame: Frame, e: t.Expr) -> Any:
        """The value of an expression; defined where expressions are."""

    def _truth(self, frame: Frame, condition: t.Expr) -> bool:
        value = self._eval(frame, condition)
        if isinstance(value, Tensor):
            self._fail(
                "condition-is-a-tensor",
                f"conditions are decided at compile time, but this is {describe(value)}",
                condition.span,
                fix="where(condition, a, b) chooses element by element",
                frame=frame,
            )
        if not isinstance(value, bool):
            self._fail("condition", f"a condition is true or false, not {describe(value)}", condition.span, frame=frame)
        return value

    def _dimension(self, frame: Frame, e: t.Expr) -> Dim:
        value = self._eval(frame, e)
        if not isinstance(value, (int, Expression)) or isinstance(value, bool):
            self._fail(
                "dimension", f"a dimension is an integer or a symbol, not {describe(value)}", e.span, frame=frame
            )
        if isinstance(value, int) and value < 1:
            self._fail("dimension", f"a dimension is at least 1, not {value}", e.span, frame=frame)
        return value

    def _dtype(self, name: t.Identifier) -> DType:
        if name.text not in DTYPES:
            accepted = [d.value for d in DType]
            self._fail(
                "dtype",
                f"there is no dtype {name.text}",
                name.span,
                notes=(f"dtypes: {', '.join(accepted)}",),
                fix=_DTYPE_HABITS.get(name.text) or nearest(name.text, accepted),
            )
        return DType(name.text)

    def _made(
        self, frame: Frame, cls: type[Any], attributes: Mapping[str, Any], places: Mapping[str, Given], span: Span
    ) -> Any:
        try:
            return validate(cls, attributes)
        except ValidationError as error:
            first, *others = [self._attribute_fault(frame, cls, e, places, span) for e in error.errors()]
            for diagnostic in others:
                self._note(Fault(diagnostic))
            raise Fault(first) from None

    def _attribute_fault(
        self, frame: Frame, cls: type[Any], error: Any, places: Mapping[str, Given], span: Span
    ) -> Diagnostic:
        location = error["loc"]
        name = str(location[0]) if location else ""
        given = places.get(name)
        names = ", ".join(f.name for f in fields(cls))
        if error["type"] in ("missing", "missing_argument"):
            message, fix = f"{cls.name} needs {name}", f"{cls.name}({name} = …)"
        elif error["type"] in ("unexpected_keyword_argument", "unexpected_positional_argument"):
            message, fix = f"{cls.name} has no argument {name}", nearest(name, names.split(", "))
        else:
            reason = str(error["msg"]).removeprefix("Value error, ")
            written = describe(given.value) if given else repr(error["input"])
            message, fix = f"{cls.name} cannot take {written} as {name}: {reason[:1].lower()}{reason[1:]}", None
        return self._diagnostic(
            "attribute", message, given.span if given else span, (), "", (f"its arguments: {names}",), fix, frame
        )

    def _made_node(
        self, frame: Frame, name: str, attributes: Mapping[str, Any], inputs: tuple[Tensor, ...], span: Span
    ) -> Any:
        return self._node(frame, self._made(frame, OPERATORS[name], attributes, {}, span), inputs, span, name)

    def _node(
        self, frame: Frame, op: Operator, inputs: Sequence[Tensor | None], span: Span, name: str, *, fixed: bool = False
    ) -> Any:
        """Add a node; the result is a tensor, or a tuple of tensors."""
        if self._nodes >= self._budget.nodes:
            self._exhausted("too many nodes", self._budget.nodes, span, "nodes")
        self._nodes += 1
        phase = self._phase_of(frame, op, inputs, span)
        path = join(frame.path, name if fixed else frame.unique(name))
        try:
            op = op.canonical(*(None if i is None else i.type for i in inputs))
            node = self._edit.add(
                self._edit.fresh(path),
                op,
                *(None if i is None else i.ref for i in inputs),
                phase=phase,
                origin=self._origins(span),
            )
        except ShapeError as error:
            raise Fault(self._shape_fault(frame, error, inputs, span)) from None
        tensors = tuple(Tensor(Value(node.path, i), type_, span, phase) for i, type_ in enumerate(node.types))
        return tensors[0] if len(tensors) == 1 else tensors

    def _origins(self, span: Span) -> tuple[Span, ...]:
        """The places a node made at `span` comes from."""
        return (span,)

    def _phase_of(self, frame: Frame, op: Operator, inputs: Sequence[Tensor | None], span: Span) -> Phase:
        if isinstance(op, SelectPhase):
            return frame.phase
        for tensor in inputs:
            if tensor is not None and tensor.phase not in ("both", frame.phase):
                self._fail(
                    "phase",
                    f"this value exists only in the {tensor.phase} phase",
                    span,
                    Label(tensor.span, "computed here"),
                    fix=f"put this into a `{tensor.phase} {{ … }}` part too",
                    frame=frame,
                )
        return frame.phase

    def _shape_fault(self, frame: Frame, error: ShapeError, inputs: Sequence[Tensor | None], span: Span) -> Diagnostic:
        which = error.operands or range(len(inputs))
        labels: list[Label] = []
        for i in which:
            tensor = inputs[i] if i < len(inputs) else None
            if tensor is not None:
                labels.append(Label(tensor.span, f"this is {tensor.type}"))
        return self._diagnostic(error.code, error.message, span, labels[:4], "", error.notes, error.fix, frame)

    def _parameter(self, frame: Frame, path: str, spec: ParameterSpec, span: Span) -> Tensor:
        type_ = TensorType(spec.dtype, spec.shape)
        for size in spec.shape:
            if isinstance(size, Expression):
                self._fail(
                    "symbolic-parameter",
                    f"the parameter {path} would be {type_}, but parameters have fixed shapes",
                    span,
                    notes=(f"{size} depends on the input's symbols",),
                    frame=frame,
                )
        known = self._edit.find_parameter(path)
        if known is None:
            self._edit.parameter(Parameter(path, type_, spec.initialiser, not spec.buffer, spec.buffer, origin=(span,)))
        elif known.type != type_:
            self._fail(
                "tied-shape",
                f"{path} is {known.type} from its first call, but this call needs {type_}",
                span,
                *(Label(s, "first called here") for s in known.origin[:1]),
                frame=frame,
                fix="use a separate instance here, or give both calls inputs of one size",
            )
        return Tensor(ParameterRef(path), type_, span)

    def _scalar(self, frame: Frame, value: Any, dtype: DType, span: Span) -> Tensor:
        if isinstance(value, Expression):
            op = self._made(frame, OPERATORS["full"], {"size": (), "value": value, "dtype": dtype}, {}, span)
            return self._node(frame, op, (), span, "full")
        if not isinstance(value, (int, float)):
            self._fail("operand", f"a tensor cannot be combined with {describe(value)}", span, frame=frame)
        if isinstance(value, float) and not dtype.is_float:
            dtype = DType.F32
        op = self._made(frame, OPERATORS["constant"], {"value": value, "dtype": dtype}, {}, span)
        return self._node(frame, op, (), span, "constant")
