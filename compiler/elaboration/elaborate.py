"""Tree → Graph: names, loops, instances, shapes. Everything compile-time ends here; what is left are nodes.

A statement that fails is reported once and the names it would have bound become poison, which silences whatever
depends on them: several independent mistakes are reported in one run, and none twice."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, cast

from .. import tree as t
from ..diagnostic import nearest
from ..graph import Graph, Input
from ..scope import FileScope, Frame
from ..types import TensorType, symbol
from ..value import (
    POISON,
    ExternValue,
    ModuleValue,
    OperatorValue,
    Tensor,
    describe,
)
from .execute import Statements, free_names
from .problem import Fault, Returned
from .signature import flattened


class Elaborator(Statements):
    """Elaborates one model, or evaluates one compile-time expression of a file."""

    def constant(self, home: FileScope, expression: t.Expr) -> Any:
        """Evaluate a compile-time expression of a file (a top-level `let`, a target, an expected number)."""
        return self._eval(Frame(home, "", ""), expression)

    def model(self, name: str, home: FileScope, applied: t.Applied) -> Graph | None:
        """The graph of `Module(…) (x: f32[N, 3, 224, 224])`, or None where problems were reported."""
        self._edit = Graph(name).edit()
        frame = Frame(home, "", "")
        try:
            function = self._eval(frame, applied.function)
            if not isinstance(function, (ModuleValue, OperatorValue, ExternValue)):
                self._fail(
                    "not-a-module",
                    f"a model is a module applied to inputs, not {describe(function)}",
                    applied.function.span,
                )
            inputs = [self._formal(frame, typed) for typed in applied.inputs]
            result = self._apply(frame, function, inputs, {}, applied.span, root=True)
            if result is POISON:
                return None
            self._outputs(result)
            self._freeze()
            return None if self._report.errors else self._edit.done()
        except Fault as fault:
            self._note(fault)
            return None

    def _formal(self, frame: Frame, typed: t.Typed) -> Tensor:
        type_ = self._input_type(frame, typed)
        node = self._edit.add(typed.name.text, Input(type_), origin=(typed.span,))
        frame.used[typed.name.text] = typed.span
        return Tensor(node.value, type_, typed.span)

    def _input_type(self, frame: Frame, typed: t.Typed) -> TensorType:
        if not isinstance(typed.type, t.ShapeType) or typed.type.dtype is None:
            self._fail(
                "input-type",
                f"the input {typed.name.text} needs a dtype and a shape",
                typed.type.span,
                fix=f"{typed.name.text}: f32[N, 3, 224, 224]",
            )
        for d in typed.type.dimensions:
            if isinstance(d, t.Ellipsis):
                self._fail("input-type", "an input's shape is written out; `...` cannot stand in it", d.span)
            for name in free_names(d):
                if frame.find(name.text) is None and name.text not in frame.home.names:
                    frame.declare(name.text, symbol(name.text), name.span)
        shape = tuple(self._dimension(frame, cast(t.Expr, d)) for d in typed.type.dimensions)
        return TensorType(self._dtype(typed.type.dtype), shape)

    def _outputs(self, result: Any) -> None:
        assert isinstance(result, Returned)
        flat = [(name, one) for name, value in result.values for one in flattened(value)]
        taken: dict[str, int] = {}
        for position, (name, tensor) in enumerate(flat):
            base = "output" if len(flat) == 1 and name in (None, "x") else (name or f"output_{position}")
            taken[base] = taken.get(base, 0) + 1
            self._edit.output(base if taken[base] == 1 else f"{base}_{taken[base] - 1}", tensor.ref)

    def _freeze(self) -> None:
        for pattern, span in self._frozen:
            matched = [p for p in self._edit.parameters() if fnmatchcase(p.path, pattern)]
            if not matched:
                close = nearest(pattern, [p.path for p in self._edit.parameters()])
                notes = (f"the nearest parameter is {close}",) if close else ()
                self._add("freeze-matches-nothing", f'no parameter matches "{pattern}"', span, notes=notes)
            for parameter in matched:
                self._edit.parameter(replace(parameter, trainable=False))
