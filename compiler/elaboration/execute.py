"""Statements: names bound, loops unrolled, branches decided, phases merged."""

# The dispatch table at the end names the methods of the class it serves.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from .. import tree as t
from ..diagnostic import nearest
from ..graph import Phase, SelectPhase
from ..operators.operator import (
    INITIALISERS,
    Initialiser,
    ParameterSpec,
)
from ..scope import Frame, Variable, join
from ..source import Span
from ..types import DType, Expression
from ..value import (
    POISON,
    ExternValue,
    Instance,
    ModuleValue,
    OperatorValue,
    Tensor,
    contains_tensor,
    describe,
)
from .evaluate import (
    Evaluator,
)
from .problem import Exhausted, Fault, Returned


class Statements(Evaluator):
    """Statements: names bound, loops unrolled, branches decided, phases merged."""

    def _block(self, frame: Frame, block: t.Block) -> Returned | None:
        for statement in block.statements:
            try:
                result = _STATEMENTS[type(statement)](self, frame, statement)
            except Exhausted:
                raise
            except Fault as fault:
                self._note(fault)
                self._poison(frame, statement)
                if isinstance(statement, t.Return):
                    return Returned([(None, POISON)])
                if len(self._report.errors) >= 30:
                    raise Exhausted() from None
                continue
            if result is not None:
                return result
        return None

    def _poison(self, frame: Frame, statement: t.Statement) -> None:
        for name in assigned(statement):
            frame.assign(name.text, POISON, name.span)

    def _assign(self, frame: Frame, s: t.Assign) -> None:
        values = [self._eval(frame, v) for v in s.values]
        if len(values) == 1 and len(s.names) > 1:
            whole = values[0]
            if not isinstance(whole, (tuple, list)):
                self._fail("unpack", f"{len(s.names)} names are given {describe(whole)}", s.values[0].span, frame=frame)
            values = list(cast(Sequence[Any], whole))
        if len(values) != len(s.names):
            self._fail(
                "unpack",
                f"{len(s.names)} names are given {len(values)} values",
                s.span,
                fix=f"write {len(values)} names before the `=`",
                frame=frame,
            )
        for name, value in zip(s.names, values, strict=True):
            frame.assign(name.text, value, name.span)

    def _let(self, frame: Frame, s: t.Let) -> None:
        value = self._eval(frame, s.value)
        if isinstance(value, (Tensor, list, int, float, str)):
            self._fail(
                "let-needs-a-module",
                f"`let` binds an instance of a module or layer, not {describe(value)}",
                s.value.span,
                fix=f"{s.name.text} = {s.value.span.text}",
                frame=frame,
            )
        if not isinstance(value, (ModuleValue, OperatorValue, ExternValue)):
            self._fail(
                "let-needs-a-module", f"`let` binds an instance, not {describe(value)}", s.value.span, frame=frame
            )
        name = self._name(frame, value.name or s.name.text, s.name.span)
        frame.declare(s.name.text, Instance(value, join(frame.instance, name), s.span), s.name.span)

    def _param(self, frame: Frame, s: t.Param) -> None:
        if not isinstance(s.type, t.ShapeType):
            self._fail(
                "param-type",
                "a parameter needs a shape",
                s.type.span,
                fix=f"param {s.name.text}: f32[64, 3] = zeros",
                frame=frame,
            )
        for d in s.type.dimensions:
            if isinstance(d, t.Ellipsis):
                self._fail(
                    "param-type", "a parameter's shape is written out; `...` cannot stand in it", d.span, frame=frame
                )
        shape = tuple(self._dimension(frame, cast(t.Expr, d)) for d in s.type.dimensions)
        for d in shape:
            if isinstance(d, Expression):
                self._fail("param-type", f"a parameter's shape is fixed, but {d} is symbolic", s.type.span, frame=frame)
        dtype = DType.F32 if s.type.dtype is None else self._dtype(s.type.dtype)
        if s.path is None:
            name = frame.unique(s.name.text)
        else:
            name = self._name(frame, self._path(frame, s.path), s.path.span)
        spec = ParameterSpec(shape, self.initialiser(frame, s.initial), dtype, s.buffer)
        tensor = self._parameter(frame, join(frame.instance, name), spec, s.span)
        frame.declare(s.name.text, tensor, s.name.span)

    def initialiser(self, frame: Frame, expression: t.Expr) -> Initialiser:
        """`zeros`, `normal(0, 0.02)`, or a number that fills the tensor."""
        function = expression.function if isinstance(expression, t.Call) else expression
        arguments = expression.arguments if isinstance(expression, t.Call) else ()
        if isinstance(function, t.Name) and function.text in INITIALISERS:
            wanted = INITIALISERS[function.text]
            values: dict[str, float] = {}
            for i, argument in enumerate(arguments):
                name = argument.name.text if argument.name else (wanted[i] if i < len(wanted) else "")
                value = self._eval(frame, argument.value)
                if name not in wanted or not isinstance(value, (int, float)):
                    self._fail(
                        "initialiser",
                        f"{function.text} takes {', '.join(wanted) or 'no arguments'}",
                        argument.span,
                        frame=frame,
                    )
                values[name] = float(value)
            defaults = {"mean": 0.0, "std": 1.0, "low": 0.0, "high": 1.0}
            missing = [n for n in wanted if n not in values and n not in defaults]
            if missing:
                self._fail("initialiser", f"{function.text} needs {', '.join(missing)}", expression.span, frame=frame)
            return Initialiser(function.text, tuple(values.get(n, defaults.get(n, 0.0)) for n in wanted))
        if isinstance(function, t.Name) and frame.find(function.text) is None and function.text not in frame.home.names:
            close = nearest(function.text, INITIALISERS)
            self._fail(
                "initialiser",
                f"there is no initialiser {function.text}",
                function.span,
                frame=frame,
                notes=(f"initialisers: {', '.join(INITIALISERS)}",),
                fix=close,
            )
        value = self._eval(frame, expression)
        if not isinstance(value, (int, float)):
            self._fail(
                "initialiser",
                f"a parameter is filled by an initialiser or a number, not {describe(value)}",
                expression.span,
                frame=frame,
            )
        return Initialiser("constant", (float(value),))

    def _for(self, frame: Frame, s: t.For) -> Returned | None:
        for values in self._iterate(frame, s.over, s.names):
            frame.open()
            try:
                for name, value in zip(s.names, values, strict=True):
                    frame.declare(name.text, value, name.span)
                result = self._block(frame, s.body)
            finally:
                frame.close()
            if result is not None:
                return result
        return None

    def _if(self, frame: Frame, s: t.If) -> Returned | None:
        if self._truth(frame, s.condition):
            return self._inner(frame, s.then)
        if isinstance(s.other, t.If):
            return self._if(frame, s.other)
        return None if s.other is None else self._inner(frame, s.other)

    def _inner(self, frame: Frame, block: t.Block) -> Returned | None:
        frame.open()
        try:
            return self._block(frame, block)
        finally:
            frame.close()

    def _return(self, frame: Frame, s: t.Return) -> Returned:
        values: list[tuple[str | None, Any]] = []
        for output in s.outputs:
            value = self._eval(frame, output.value)
            if not contains_tensor(value):
                self._fail(
                    "return-needs-tensors", f"a module returns tensors, not {describe(value)}", output.span, frame=frame
                )
            implied = output.value.text if isinstance(output.value, t.Name) else None
            values.append((output.name.text if output.name else implied, value))
        return Returned(values)

    def _tap(self, frame: Frame, s: t.Tap) -> None:
        value = self._eval(frame, s.value)
        if not isinstance(value, Tensor):
            self._fail("tap-needs-a-tensor", f"a tap names a tensor, not {describe(value)}", s.value.span, frame=frame)
        self._edit.tap(join(frame.path, str(self._eval(frame, s.name))), value.ref)

    def _phase(self, frame: Frame, s: t.PhasePart) -> None:
        phase = cast(Phase, s.phase)
        if frame.phase not in ("both", phase):
            self._fail("phase", f"a {phase} part cannot stand inside a {frame.phase} part", s.span, frame=frame)
        before = [dict(block) for block in frame.blocks]
        outer, frame.phase = frame.phase, phase
        try:
            if self._block(frame, s.body) is not None:
                self._fail(
                    "phase",
                    f"`return` cannot stand in a {phase} part",
                    s.span,
                    fix="bind a name and return it after the part",
                    frame=frame,
                )
        finally:
            frame.phase = outer
        if outer == "both":
            self._merge(frame, before, phase, s.span)

    def _merge(self, frame: Frame, before: list[dict[str, Variable]], phase: Phase, span: Span) -> None:
        """A tensor rebound in one phase is chosen by phase from here on."""
        for block, old in zip(frame.blocks, before, strict=True):
            for name, variable in block.items():
                was = old.get(name)
                if was is None or was is variable:
                    continue
                new = self._chosen(frame, was.value, variable.value, phase, span, name)
                block[name] = Variable(new, variable.span)

    def _chosen(self, frame: Frame, old: Any, new: Any, phase: Phase, span: Span, name: str) -> Any:
        if isinstance(old, Tensor) and old.phase == phase:
            return new
        if isinstance(old, Tensor) and isinstance(new, Tensor):
            train, infer = (new, old) if phase == "train" else (old, new)
            return self._node(frame, SelectPhase(), (train, infer), span, "select_phase")
        if old == new or POISON in (old, new):
            return new
        self._fail("phase", f"`{name}` is not a tensor, so it cannot differ between the phases", span, frame=frame)

    def _freeze_statement(self, frame: Frame, s: t.Freeze) -> None:
        pattern = self._eval(frame, s.pattern)
        if not isinstance(pattern, str):
            self._fail(
                "freeze",
                f"freeze takes a path pattern, not {describe(pattern)}",
                s.pattern.span,
                fix='freeze("stem.*")',
                frame=frame,
            )
        self._frozen.append((join(frame.instance, pattern), s.pattern.span))

    def _require(self, frame: Frame, s: t.Require) -> None:
        if not self._truth(frame, s.condition):
            message = "a requirement does not hold" if s.message is None else str(self._eval(frame, s.message))
            self._fail("requirement", message, s.condition.span, notes=self._facts(frame, s.condition), frame=frame)

    def _facts(self, frame: Frame, expression: t.Expr) -> list[str]:
        found: list[str] = []
        for name in dict.fromkeys(n.text for n in free_names(expression)):
            variable = frame.find(name)
            if variable is not None and isinstance(variable.value, (int, float, str, Expression)):
                found.append(f"{name} is {variable.value}")
        return found


def assigned(statement: t.Statement) -> Iterator[t.Identifier]:
    """The names a statement binds, those of inner blocks included."""
    if isinstance(statement, t.Assign):
        yield from statement.names
    elif isinstance(statement, (t.Let, t.Param)):
        yield statement.name
    elif isinstance(statement, (t.For, t.PhasePart)):
        for inner in statement.body.statements:
            yield from assigned(inner)
    elif isinstance(statement, t.If):
        for inner in statement.then.statements:
            yield from assigned(inner)
        if isinstance(statement.other, t.If):
            yield from assigned(statement.other)
        elif statement.other is not None:
            for inner in statement.other.statements:
                yield from assigned(inner)


_STATEMENTS: dict[type[t.Statement], Callable[[Statements, Frame, Any], Returned | None]] = {
    t.Assign: Statements._assign, t.Let: Statements._let, t.Param: Statements._param, t.For: Statements._for,
    t.If: Statements._if, t.Return: Statements._return, t.Tap: Statements._tap, t.PhasePart: Statements._phase,
    t.Freeze: Statements._freeze_statement, t.Require: Statements._require,
}  # fmt: skip


def free_names(e: t.Expr) -> Iterator[t.Name]:
    if isinstance(e, t.Name):
        yield e
    elif isinstance(e, t.Binary):
        yield from free_names(e.left)
        yield from free_names(e.right)
    elif isinstance(e, t.Unary):
        yield from free_names(e.operand)
