"""Tree → Graph: names, loops, instances, shapes. Everything compile-time ends here; what is left are nodes.

A statement that fails is reported once and the names it would have bound become poison, which silences whatever
depends on them: several independent mistakes are reported in one run, and none twice.
"""

# The dispatch tables at the end name the methods of the class they serve.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import operator as python
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, NoReturn, cast

from pydantic import ValidationError

from . import operators as _families
from . import tree as t
from .budget import Budget
from .builtin import BUILTINS, Refused, power
from .diagnostic import Diagnostic, Diagnostics, Label, nearest
from .graph import Edit, Graph, Input, Parameter, ParameterRef, Phase, Scope, SelectPhase, Value
from .names import out_of_scope, unknown_name
from .operators.operator import (
    INITIALISERS,
    LAYERS,
    OPERATORS,
    Initialiser,
    Layer,
    Operator,
    ParameterSpec,
    ShapeError,
    validate,
)
from .scope import FileScope, Frame, Variable, join, snake
from .source import Span
from .types import DTYPES, Dim, DType, Expression, TensorType, floor_divide, known_less, symbol
from .value import (
    POISON,
    BuiltinValue,
    Constructor,
    ExternValue,
    FunctionValue,
    Given,
    Inside,
    Instance,
    ModuleValue,
    OperatorValue,
    Tensor,
    contains_tensor,
    describe,
)

assert _families  # importing the families fills OPERATORS and LAYERS

_PATH = re.compile(r"\w+(\.\w+)*")

SCALES = {
    "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6,
    "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "s": 1, "ms": 1e-3, "us": 1e-6,
}  # fmt: skip
"""What the unit of a number multiplies it by: counts, bytes, seconds; `/s` changes nothing."""

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


class Fault(Exception):
    """A reported problem (or, with no diagnostic, its consequence): ends the statement it happens in."""

    def __init__(self, diagnostic: Diagnostic | None = None) -> None:
        super().__init__(diagnostic.message if diagnostic else "")
        self.diagnostic = diagnostic


class Exhausted(Fault):
    """A budget has run out: ends the whole elaboration."""


@dataclass(frozen=True, slots=True)
class _Return:
    values: list[tuple[str | None, Any]]


class Elaborator:
    """Elaborates one model, or evaluates one compile-time expression of a file."""

    def __init__(
        self, diagnostics: Diagnostics, budget: Budget, resolve: Callable[[FileScope, str, Span], Any]
    ) -> None:
        self._report = diagnostics
        self._budget = budget
        self._resolve = resolve
        """Looks a file-level name up; evaluates pending `let`s."""
        self._edit: Edit = Graph("").edit()
        self._nodes = 0
        self._instances = 0
        self._steps = 0
        self._frozen: list[tuple[str, Span]] = []
        self._first_use: dict[str, Span] = {}

    # ------------------------------------------------------------------------------------------------ entry points

    def constant(self, home: FileScope, expression: t.Expr) -> Any:
        """Evaluate a compile-time expression of a file (a top-level `let`, a target, an expected number)."""
        return self._eval(Frame(home, "", ""), expression)

    def evaluate(self, frame: Frame, expression: t.Expr) -> Any:
        return self._eval(frame, expression)

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
            for name in _free_names(d):
                if frame.find(name.text) is None and name.text not in frame.home.names:
                    frame.declare(name.text, symbol(name.text), name.span)
        shape = tuple(self._dimension(frame, cast(t.Expr, d)) for d in typed.type.dimensions)
        return TensorType(self._dtype(typed.type.dtype), shape)

    def _outputs(self, result: Any) -> None:
        assert isinstance(result, _Return)
        flat = [(name, one) for name, value in result.values for one in _flattened(value)]
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

    # ------------------------------------------------------------------------------------------------ problems

    def _add(
        self,
        code: str,
        message: str,
        span: Span,
        *labels: Label,
        text: str = "",
        notes: Sequence[str] = (),
        fix: str | None = None,
        frame: Frame | None = None,
    ) -> None:
        self._report.add(self._diagnostic(code, message, span, labels, text, notes, fix, frame))

    def _fail(
        self,
        code: str,
        message: str,
        span: Span,
        *labels: Label,
        text: str = "",
        notes: Sequence[str] = (),
        fix: str | None = None,
        frame: Frame | None = None,
    ) -> NoReturn:
        raise Fault(self._diagnostic(code, message, span, labels, text, notes, fix, frame))

    def _diagnostic(
        self,
        code: str,
        message: str,
        span: Span,
        labels: Sequence[Label],
        text: str,
        notes: Sequence[str],
        fix: str | None,
        frame: Frame | None,
    ) -> Diagnostic:
        kept = [Label(span, text)]
        for label in labels:
            if label.span != span:
                kept.append(label)
        chain = [f for f in _callers(frame) if f.span is not None and f.path]
        if chain:
            where = chain[0]
            assert where.span is not None
            if where.span != span:
                kept.append(Label(where.span, f"in {where.path}, applied here"))
        return Diagnostic(code, message, tuple(kept), tuple(notes), fix)

    def _note(self, fault: Fault) -> None:
        if fault.diagnostic is not None:
            seen = {(d.code, d.span) for d in self._report}
            if (fault.diagnostic.code, fault.diagnostic.span) not in seen:
                self._report.add(fault.diagnostic)

    def _exhausted(self, what: str, limit: int, span: Span, option: str) -> NoReturn:
        raise Exhausted(
            Diagnostic(
                "budget",
                f"{what}: the limit is {limit}",
                (Label(span),),
                ("the limit protects against mistakes",),
                f"make the model smaller, or raise the limit: --budget {option}=…",
            )
        )

    def _step(self, span: Span, count: int = 1) -> None:
        self._steps += count
        if self._steps > self._budget.steps:
            self._exhausted("too many loop iterations and calls", self._budget.steps, span, "steps")

    # ------------------------------------------------------------------------------------------------ statements

    def _block(self, frame: Frame, block: t.Block) -> _Return | None:
        for statement in block.statements:
            try:
                result = _STATEMENTS[type(statement)](self, frame, statement)
            except Exhausted:
                raise
            except Fault as fault:
                self._note(fault)
                self._poison(frame, statement)
                if isinstance(statement, t.Return):
                    return _Return([(None, POISON)])
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
            frame.assign(name.text, self._renamed(value, s), name.span)

    def _renamed(self, value: Any, s: t.Assign) -> Any:
        return value

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

    def _name(self, frame: Frame, name: str, span: Span) -> str:
        """Take an explicit name in this call; two things cannot have one name."""
        taken = frame.used.get(name)
        if taken is not None:
            self._fail(
                "duplicate-name",
                f'the name "{name}" is given twice in one module call',
                span,
                Label(taken, "first given here"),
                frame=frame,
                fix="give another name; to share weights, bind the layer with `let` and call it twice",
            )
        frame.used[name] = span
        return name

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

    def _for(self, frame: Frame, s: t.For) -> _Return | None:
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

    def _iterate(self, frame: Frame, over: t.Expr, names: Sequence[t.Identifier]) -> Iterator[tuple[Any, ...]]:
        sequence = self._eval(frame, over)
        if not isinstance(sequence, (list, range, tuple)):
            symbolic = isinstance(sequence, Expression)
            self._fail(
                "not-iterable",
                f"a loop runs over a list or a range, not {describe(sequence)}",
                over.span,
                frame=frame,
                fix=f"0..{over.span.text}" if isinstance(sequence, int) or symbolic else None,
            )
        items = cast("Sequence[Any]", sequence)
        if len(items) > self._budget.steps:
            self._exhausted(f"a loop of {len(items)} iterations", self._budget.steps, over.span, "steps")
        for index, item in enumerate(items):
            self._step(over.span)
            if len(names) == 1:
                yield (item,)
            elif isinstance(item, (list, tuple)):
                parts = cast("Sequence[Any]", item)
                if len(parts) == len(names):
                    yield tuple(parts)
                elif len(parts) == len(names) - 1:
                    yield (index, *parts)
                elif len(names) == 2:
                    yield (index, item)
                else:
                    self._fail(
                        "unpack", f"{len(names)} loop names are given {len(parts)} values", over.span, frame=frame
                    )
            elif len(names) == 2:
                yield (index, item)
            else:
                self._fail("unpack", f"{len(names)} loop names are given {describe(item)}", over.span, frame=frame)

    def _if(self, frame: Frame, s: t.If) -> _Return | None:
        if self._truth(frame, s.condition):
            return self._inner(frame, s.then)
        if isinstance(s.other, t.If):
            return self._if(frame, s.other)
        return None if s.other is None else self._inner(frame, s.other)

    def _inner(self, frame: Frame, block: t.Block) -> _Return | None:
        frame.open()
        try:
            return self._block(frame, block)
        finally:
            frame.close()

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

    def _return(self, frame: Frame, s: t.Return) -> _Return:
        values: list[tuple[str | None, Any]] = []
        for output in s.outputs:
            value = self._eval(frame, output.value)
            if not contains_tensor(value):
                self._fail(
                    "return-needs-tensors", f"a module returns tensors, not {describe(value)}", output.span, frame=frame
                )
            implied = output.value.text if isinstance(output.value, t.Name) else None
            values.append((output.name.text if output.name else implied, value))
        return _Return(values)

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
        for name in dict.fromkeys(n.text for n in _free_names(expression)):
            variable = frame.find(name)
            if variable is not None and isinstance(variable.value, (int, float, str, Expression)):
                found.append(f"{name} is {variable.value}")
        return found

    # ------------------------------------------------------------------------------------------------ expressions

    def _eval(self, frame: Frame, e: t.Expr) -> Any:
        value = _EXPRESSIONS[type(e)](self, frame, e)
        if value is POISON:
            raise Fault()
        return value

    def _lookup(self, frame: Frame, e: t.Name) -> Any:
        variable = frame.find(e.text)
        if variable is not None:
            return variable.value
        if e.text in frame.home.names:
            return self._resolve(frame.home, e.text, e.span)
        if e.text in BUILTINS and e.text not in OPERATORS:
            return BuiltinValue(e.text)
        if e.text in OPERATORS or e.text in LAYERS:
            return OperatorValue(e.text)
        if e.text in DTYPES:
            return DType(e.text)
        raise Fault(undefined(frame, e))

    def _number(self, frame: Frame, e: t.Number) -> Any:
        if e.unit is None:
            if isinstance(e.value, int) and e.value.bit_length() > self._budget.bits:
                self._fail("number", f"an integer has at most {self._budget.bits} bits", e.span, frame=frame)
            return e.value
        scaled = e.value * SCALES[e.unit.removesuffix("/s")]
        return int(scaled) if isinstance(scaled, float) and scaled.is_integer() else scaled

    def _string(self, frame: Frame, e: t.Text) -> str:
        pieces: list[str] = []
        for part in e.parts:
            if isinstance(part, str):
                pieces.append(part)
                continue
            value = self._eval(frame, part)
            if isinstance(value, (Tensor, list, tuple)) or value is None:
                self._fail(
                    "interpolation",
                    f"a string can hold numbers and strings, not {describe(value)}",
                    part.span,
                    frame=frame,
                )
            pieces.append(str(value))
        text = "".join(pieces)
        if len(text) > self._budget.items:
            self._exhausted("a string is too long", self._budget.items, e.span, "items")
        return text

    def _list(self, frame: Frame, e: t.ListOf) -> list[Any]:
        return [self._eval(frame, i) for i in e.items]

    def _tuple(self, frame: Frame, e: t.TupleOf) -> tuple[Any, ...]:
        return tuple(self._eval(frame, i) for i in e.items)

    def _comprehension(self, frame: Frame, e: t.Comprehension) -> list[Any]:
        result: list[Any] = []
        for values in self._iterate(frame, e.over, e.names):
            frame.open()
            try:
                for name, value in zip(e.names, values, strict=True):
                    frame.declare(name.text, value, name.span)
                if e.condition is None or self._truth(frame, e.condition):
                    result.append(self._eval(frame, e.body))
            finally:
                frame.close()
            if len(result) > self._budget.items:
                self._exhausted("a list is too long", self._budget.items, e.span, "items")
        return result

    def _conditional(self, frame: Frame, e: t.Conditional) -> Any:
        return self._eval(frame, e.then if self._truth(frame, e.condition) else e.other)

    def _range(self, frame: Frame, e: t.Range) -> range:
        start, stop = self._eval(frame, e.start), self._eval(frame, e.stop)
        for bound, where in ((start, e.start), (stop, e.stop)):
            if not isinstance(bound, int) or isinstance(bound, bool):
                symbolic = isinstance(bound, Expression)
                notes = ("loops are unrolled, so their bounds must be known",) if symbolic else ()
                self._fail(
                    "range",
                    f"a range runs between integers, not {describe(bound)}",
                    where.span,
                    notes=notes,
                    frame=frame,
                )
        if stop - start > self._budget.steps:
            self._exhausted(f"a range of {stop - start} steps", self._budget.steps, e.span, "steps")
        return range(start, max(start, stop))

    def _unary(self, frame: Frame, e: t.Unary) -> Any:
        if e.op == "not":
            return not self._truth(frame, e.operand)
        value = self._eval(frame, e.operand)
        if isinstance(value, Tensor):
            return self._node(frame, OPERATORS["neg"](), (value,), e.span, "neg")
        if isinstance(value, (int, float, Expression)) and not isinstance(value, bool):
            return -value
        self._fail("operand", f"`-` takes a number or a tensor, not {describe(value)}", e.span, frame=frame)

    def _binary(self, frame: Frame, e: t.Binary) -> Any:
        if e.op in ("and", "or"):
            left = self._truth(frame, e.left)
            return self._truth(frame, e.right) if left == (e.op == "and") else left
        left, right = self._eval(frame, e.left), self._eval(frame, e.right)
        if isinstance(left, Tensor) or isinstance(right, Tensor):
            return self._tensor_binary(frame, e, left, right)
        if e.op == "++":
            if isinstance(left, (list, range)) and isinstance(right, (list, range)):
                joined: list[Any] = [*cast("Sequence[Any]", left), *cast("Sequence[Any]", right)]
                if len(joined) > self._budget.items:
                    self._exhausted("a list is too long", self._budget.items, e.span, "items")
                return joined
            self._fail(
                "operand",
                f"`++` joins two lists, not {describe(left)} and {describe(right)}",
                e.span,
                fix=_bracket(e, left, right),
                frame=frame,
            )
        if e.op in ("==", "!="):
            return self._equal(left, right) == (e.op == "==")
        if e.op == "in":
            if not isinstance(right, (list, range, str)):
                self._fail("operand", f"`in` looks into a list, not {describe(right)}", e.right.span, frame=frame)
            return left in right
        return self._arithmetic(frame, e, left, right)

    def _equal(self, left: Any, right: Any) -> bool:
        if isinstance(left, (ModuleValue, OperatorValue)) or isinstance(right, (ModuleValue, OperatorValue)):
            return type(left) is type(right) and left == right
        if isinstance(left, range) or isinstance(right, range):
            sequences = isinstance(left, (range, list)) and isinstance(right, (range, list))
            return sequences and list(cast(Any, left)) == list(cast(Any, right))
        return bool(left == right)

    def _arithmetic(self, frame: Frame, e: t.Binary, left: Any, right: Any) -> Any:
        numbers = all(isinstance(v, (int, float, Expression)) and not isinstance(v, bool) for v in (left, right))
        if isinstance(left, str) and isinstance(right, str) and e.op in ("+", "<", ">", "<=", ">="):
            return _PLAIN[e.op](left, right)
        if isinstance(left, list) and isinstance(right, int) and e.op == "*":
            if len(left) * max(right, 0) > self._budget.items:  # pyright: ignore[reportUnknownArgumentType]
                self._exhausted("a list is too long", self._budget.items, e.span, "items")
            return left * right  # pyright: ignore[reportUnknownVariableType]
        if not numbers or e.op == "@":
            self._fail("operand", f"`{e.op}` does not take {describe(left)} and {describe(right)}", e.span, frame=frame)
        try:
            result = self._compute(e, left, right)
        except Refused as refused:
            self._fail("arithmetic", f"`{e.op}` {refused}", e.span, frame=frame)
        except ZeroDivisionError:
            self._fail("arithmetic", "this divides by zero", e.right.span, frame=frame)
        except (OverflowError, ValueError) as error:
            self._fail("arithmetic", f"this cannot be computed: {error}", e.span, frame=frame)
        if isinstance(result, int) and result.bit_length() > self._budget.bits:
            self._fail("arithmetic", f"an integer has at most {self._budget.bits} bits", e.span, frame=frame)
        if isinstance(result, Expression) and _too_large(result, self._budget.bits):
            self._fail("arithmetic", "this dimension has too many terms, or too large ones", e.span, frame=frame)
        return result

    def _compute(self, e: t.Binary, left: Any, right: Any) -> Any:
        symbolic = isinstance(left, Expression) or isinstance(right, Expression)
        if e.op == "**":
            return power(left, right, self._budget.bits)
        if e.op in ("<", ">", "<=", ">=") and symbolic:
            return _compare(e.op, left, right)
        if symbolic and (isinstance(left, float) or isinstance(right, float)):
            raise Refused("mixes a symbolic dimension with a fraction")
        if e.op == "//" and symbolic:
            return floor_divide(left, right)
        if e.op == "/" and symbolic:
            raise Refused("is not defined on symbolic dimensions; `//` is")
        if e.op == "%" and symbolic and isinstance(right, Expression):
            raise Refused("needs a known divisor")
        return _PLAIN[e.op](left, right)

    def _tensor_binary(self, frame: Frame, e: t.Binary, left: Any, right: Any) -> Any:
        name = _TENSOR_OPERATORS.get(e.op)
        if name is None:
            fix = "concat([a, b], dim)" if e.op == "++" else None
            self._fail(
                "operand",
                f"`{e.op}` does not take {describe(left)} and {describe(right)}",
                e.span,
                fix=fix,
                frame=frame,
            )
        a, b = self._operand(frame, left, right, e.left), self._operand(frame, right, left, e.right)
        return self._node(frame, OPERATORS[name](), (a, b), e.span, name)

    def _operand(self, frame: Frame, value: Any, beside: Any, e: t.Expr) -> Tensor:
        """A tensor, or a number made one in the dtype of the tensor it meets."""
        if isinstance(value, Tensor):
            return value
        dtype = beside.type.dtype if isinstance(beside, Tensor) else DType.F32
        return self._scalar(frame, value, dtype, e.span)

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

    def _index(self, frame: Frame, e: t.Index) -> Any:
        value = self._eval(frame, e.value)
        if isinstance(value, Tensor):
            return self._tensor_index(frame, e, value)
        if len(e.items) != 1 or not isinstance(value, (list, tuple, range, str)):
            self._fail("index", f"{describe(value)} cannot be indexed so", e.span, frame=frame)
        item, sequence = e.items[0], cast("Sequence[Any]", value)
        if isinstance(item, t.Slice):
            cut = slice(*(self._bound(frame, b) for b in (item.start, item.stop, item.step)))
            if cut.step == 0:
                self._fail("index", "the step of a slice cannot be 0", item.span, frame=frame)
            return list(sequence[cut]) if not isinstance(sequence, str) else sequence[cut]
        if isinstance(item, t.Ellipsis):
            self._fail("index", "`...` indexes tensors, not lists", item.span, frame=frame)
        index = self._eval(frame, item)
        if not isinstance(index, int) or isinstance(index, bool):
            self._fail("index", f"a list is indexed by an integer, not {describe(index)}", item.span, frame=frame)
        if not -len(sequence) <= index < len(sequence):
            self._fail("index", f"the list has {len(sequence)} items, so there is no [{index}]", item.span, frame=frame)
        return sequence[index]

    def _bound(self, frame: Frame, e: t.Expr | None) -> int | None:
        if e is None:
            return None
        value = self._eval(frame, e)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            self._fail("index", f"a bound is an integer, not {describe(value)}", e.span, frame=frame)
        return value

    def _tensor_index(self, frame: Frame, e: t.Index, value: Tensor) -> Tensor:
        used = sum(1 for i in e.items if not isinstance(i, t.Ellipsis) and not _is_none(i))
        dots = [k for k, i in enumerate(e.items) if isinstance(i, t.Ellipsis)]
        if used > value.type.rank or len(dots) > 1:
            self._fail(
                "index", f"{describe(value)} has {value.type.rank} axes, but {used} are indexed", e.span, frame=frame
            )
        items: list[Any] = list(e.items)
        whole = t.Slice(e.span, None, None, None)
        gap = [whole] * (value.type.rank - used)
        at = dots[0] if dots else len(items)
        items[at : at + 1] = gap
        dim = 0
        for item in items:
            value, dim = self._index_axis(frame, item, value, dim, e.span)
        return replace(value, span=e.span)

    def _index_axis(self, frame: Frame, item: Any, value: Tensor, dim: int, span: Span) -> tuple[Tensor, int]:
        if _is_none(item):
            return self._made_node(frame, "unsqueeze", {"dim": dim}, (value,), span), dim + 1
        size = value.type.shape[dim]
        if isinstance(item, t.Slice):
            start = 0 if item.start is None else self._eval(frame, item.start)
            stop = size if item.stop is None else self._eval(frame, item.stop)
            step = 1 if item.step is None else self._eval(frame, item.step)
            if (start, stop, step) == (0, size, 1):
                return value, dim + 1
            attributes = {"dim": dim, "start": start, "stop": stop, "step": step}
            return self._made_node(frame, "slice", attributes, (value,), span), dim + 1
        index = self._eval(frame, item)
        if isinstance(index, Tensor):
            fix = "gather(x, index, dim) or index_select(x, index, dim)"
            self._fail("index", "a tensor is not indexed by a tensor", item.span, fix=fix, frame=frame)
        if not isinstance(index, (int, Expression)) or isinstance(index, bool):
            self._fail("index", f"a tensor is indexed by integers, not {describe(index)}", item.span, frame=frame)
        if isinstance(index, int) and isinstance(size, int) and not -size <= index < size:
            self._fail("index", f"axis {dim} has size {size}, so there is no [{index}]", item.span, frame=frame)
        start = index + size if isinstance(index, int) and index < 0 else index
        cut = self._made_node(
            frame, "slice", {"dim": dim, "start": start, "stop": start + 1, "step": 1}, (value,), span
        )
        return self._made_node(frame, "squeeze", {"dim": dim}, (cut,), span), dim

    def _attribute(self, frame: Frame, e: t.Attribute) -> Any:
        value = self._eval(frame, e.value)
        name = e.name.text
        if isinstance(value, Tensor):
            known: dict[str, Any] = {
                "shape": list(value.type.shape),
                "rank": value.type.rank,
                "dtype": value.type.dtype,
            }
            if name in known:
                return known[name]
            self._fail(
                "attribute",
                f"a tensor has no attribute {name}",
                e.name.span,
                notes=(f"a tensor has: {', '.join(known)}",),
                frame=frame,
            )
        if isinstance(value, (Instance, Inside)):
            return self._below(frame, value, e)
        self._fail("attribute", f"{describe(value)} has no attributes", e.span, frame=frame)

    def _below(self, frame: Frame, value: Instance | Inside, e: t.Attribute) -> Any:
        path = join(value.path, e.name.text)
        parameter = self._edit.find_parameter(path)
        if parameter is None and isinstance(value, Instance) and isinstance(value.constructor, OperatorValue):
            self._create_early(frame, value, e.span)
            parameter = self._edit.find_parameter(path)
        if parameter is not None:
            return Tensor(ParameterRef(path), parameter.type, e.span)
        below = [p.path for p in self._edit.parameters() if p.path.startswith(path + ".")]
        if below:
            return Inside(path, e.span)
        known = [p.path[len(value.path) + 1 :] for p in self._edit.parameters() if p.path.startswith(value.path + ".")]
        notes = (f"it has: {', '.join(known[:8])}",) if known else ("its parameters exist once it has been applied",)
        self._fail(
            "attribute",
            f"{value.path} has no parameter {e.name.text}",
            e.name.span,
            Label(value.span, "bound here"),
            notes=notes,
            frame=frame,
            fix=nearest(e.name.text, known),
        )

    def _create_early(self, frame: Frame, instance: Instance, span: Span) -> None:
        """The parameters of a layer that says its input sizes itself, before it is applied to anything."""
        constructor = cast(OperatorValue, instance.constructor)
        cls = LAYERS.get(constructor.operator)
        if cls is None:
            return
        made = self._made(frame, cls, {k: g.value for k, g in constructor.bound.items()}, constructor.bound, span)
        try:
            specs = made.parameters([], {})
        except ShapeError as error:
            self._fail(error.code, error.message, span, Label(instance.span, "bound here"), fix=error.fix, frame=frame)
        for name, spec in specs.items():
            self._parameter(frame, join(instance.path, name), spec, instance.span)

    # ------------------------------------------------------------------------------------------------ application

    def _named(self, frame: Frame, e: t.Named) -> Any:
        name = self._path(frame, e.path)
        if isinstance(e.value, t.Pipe):
            return self._pipe(frame, e.value, name, e.path.span)
        if isinstance(e.value, t.Call):
            return self._call(frame, e.value, name, e.path.span)
        value = self._eval(frame, e.value)
        if isinstance(value, (ModuleValue, OperatorValue, ExternValue)):
            return replace(value, name=name)
        self._fail("as", f"`as` names what a layer or module makes, not {describe(value)}", e.span, frame=frame)

    def _path(self, frame: Frame, path: t.Path) -> str:
        text = self._string(frame, path.text)
        # Below a module a name may be a number alone, as in a list of layers.
        if not _PATH.fullmatch(join("_" if frame.path else "", text)):
            self._fail(
                "path",
                f'"{text}" is not a path',
                path.span,
                notes=("a path is words and numbers joined by dots",),
                frame=frame,
            )
        return text

    def _pipe(self, frame: Frame, e: t.Pipe, name: str | None = None, at: Span | None = None) -> Any:
        value = self._eval(frame, e.value)
        if not contains_tensor(value):
            self._fail(
                "pipe", f"`|>` sends a tensor through a layer, but this is {describe(value)}", e.value.span, frame=frame
            )
        inputs = list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else [value]
        stage = e.stage
        if isinstance(stage, t.Call):
            function = self._stage(frame, stage.function)
            return self._send(frame, function, inputs, stage.arguments, e, name, at)
        return self._send(frame, self._stage(frame, stage), inputs, (), e, name, at)

    def _stage(self, frame: Frame, e: t.Expr) -> Any:
        """In a chain a name that is both a builtin and an operator means the operator."""
        return self._eval(frame, e)

    def _send(
        self,
        frame: Frame,
        function: Any,
        inputs: list[Any],
        arguments: Sequence[t.Argument],
        e: t.Pipe,
        name: str | None,
        at: Span | None,
    ) -> Any:
        if isinstance(function, FunctionValue):
            return self._function(frame, function, inputs, self._arguments(frame, arguments), e.span)
        if not isinstance(function, (ModuleValue, OperatorValue, ExternValue, Instance)):
            self._fail(
                "pipe",
                f"`|>` needs a layer or module on its right, not {describe(function)}",
                e.stage.span,
                frame=frame,
            )
        span = e.stage.span
        return self._invoke(frame, function, inputs, self._arguments(frame, arguments), span, name, at)

    def _arguments(self, frame: Frame, arguments: Sequence[t.Argument]) -> list[tuple[str | None, Given]]:
        return [(a.name.text if a.name else None, Given(self._eval(frame, a.value), a.span)) for a in arguments]

    def _call(self, frame: Frame, e: t.Call, name: str | None = None, at: Span | None = None) -> Any:
        function = self._eval(frame, e.function)
        arguments = self._arguments(frame, e.arguments)
        if isinstance(function, BuiltinValue) or (
            isinstance(function, OperatorValue)
            and isinstance(e.function, t.Name)
            and function.operator in BUILTINS
            and arguments
            and not any(contains_tensor(g.value) for _, g in arguments)
            and not any(n for n, _ in arguments)
        ):
            builtin = function.name if isinstance(function, BuiltinValue) else function.operator
            return self._builtin(frame, builtin, arguments, e)
        if isinstance(function, FunctionValue):
            return self._function(frame, function, [], arguments, e.span)
        if not isinstance(function, (ModuleValue, OperatorValue, ExternValue, Instance)):
            self._fail("not-callable", f"{describe(function)} cannot be called", e.function.span, frame=frame)
        return self._invoke(frame, function, [], arguments, e.span, name, at)

    def _builtin(self, frame: Frame, name: str, arguments: list[tuple[str | None, Given]], e: t.Call) -> Any:
        self._step(e.span)
        try:
            if any(n for n, _ in arguments):
                raise Refused("takes its arguments by position")
            return BUILTINS[name](*(g.value for _, g in arguments))
        except Refused as refused:
            self._fail("builtin", f"{name} {refused}", e.span, frame=frame)
        except TypeError:
            self._fail(
                "builtin", f"{name} does not take {len(arguments)} arguments of these kinds", e.span, frame=frame
            )

    def _function(
        self,
        frame: Frame,
        function: FunctionValue,
        inputs: list[Any],
        arguments: list[tuple[str | None, Given]],
        span: Span,
    ) -> Any:
        declaration = function.declaration
        self._step(span)
        if frame.depth >= self._budget.nesting:
            self._exhausted("functions call each other too deeply", self._budget.nesting, span, "nesting")
        given = [(None, Given(v, span)) for v in inputs]
        bound = self._bind(
            frame, declaration.parameters, {}, [*given, *arguments], declaration.name.text, declaration.name.span, span
        )
        inner = Frame(function.home, frame.path, frame.instance, frame.phase, None, frame, span, frame.depth + 1)
        inner.used, inner.counters = frame.used, frame.counters
        self._declare_parameters(inner, declaration.parameters, bound, declaration.name.text, span)
        return self._eval(inner, declaration.body)

    def _invoke(
        self,
        frame: Frame,
        function: Constructor | Instance,
        inputs: list[Any],
        arguments: list[tuple[str | None, Given]],
        span: Span,
        name: str | None,
        at: Span | None,
    ) -> Any:
        """A call: of a constructor, more arguments or (with tensors) an application; of an instance, an application."""
        constructor = function.constructor if isinstance(function, Instance) else function
        tensors, rest = self._divide(constructor, inputs, arguments)
        constructor = self._given(frame, constructor, rest, span)
        if not tensors and not (isinstance(constructor, OperatorValue) and _is_source(constructor)):
            if isinstance(function, Instance):
                self._fail(
                    "call-needs-tensors", f"{function.path} is an instance: call it on tensors", span, frame=frame
                )
            return replace(constructor, name=name) if name else constructor
        if isinstance(function, Instance):
            if rest:
                self._fail(
                    "instance-arguments",
                    f"{function.path} is made already, so a call gives it tensors only",
                    rest[0][1].span,
                    Label(function.span, "made here"),
                    frame=frame,
                )
            return self._again(frame, function, tensors, span)
        path = name or constructor.name
        if path is not None:
            path = self._name(frame, path, at or span)
        return self._result(self._apply(frame, constructor, tensors, {}, span, name=path))

    def _result(self, result: Any) -> Any:
        if isinstance(result, _Return):
            values = [v for _, v in result.values]
            return values[0] if len(values) == 1 else tuple(values)
        return result

    def _divide(
        self, constructor: Constructor, inputs: list[Any], arguments: list[tuple[str | None, Given]]
    ) -> tuple[list[Any], list[tuple[str | None, Given]]]:
        """Split a call's positional arguments into tensor inputs, which come first, and compile-time ones."""
        tensors = list(inputs)
        rest = list(arguments)
        wanted = _operand_count(constructor) if isinstance(constructor, OperatorValue) else None
        if isinstance(constructor, OperatorValue) and wanted is not None and wanted > 1 and not _variadic(constructor):
            positional = [g.value for n, g in rest if n is None][: max(wanted - len(tensors), 0)]
            if any(isinstance(v, Tensor) for v in [*tensors, *positional]):
                while rest and rest[0][0] is None and len(tensors) < wanted and _operand_like(rest[0][1].value):
                    tensors.append(rest.pop(0)[1].value)
        while rest and rest[0][0] is None and contains_tensor(rest[0][1].value):
            tensors.append(rest.pop(0)[1].value)
        return tensors, rest

    def _given(
        self, frame: Frame, constructor: Constructor, arguments: list[tuple[str | None, Given]], span: Span
    ) -> Constructor:
        if not arguments:
            return constructor
        if isinstance(constructor, OperatorValue):
            return replace(constructor, bound=self._attributes(frame, constructor, arguments, span))
        declared = constructor.declaration
        bound = self._bind(
            frame, declared.parameters, constructor.bound, arguments, declared.name.text, declared.name.span, span
        )
        return replace(constructor, bound=bound)

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
        weights = _weight_names(constructor.operator)
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

    # ------------------------------------------------------------------------------------------------ instances

    def _again(self, frame: Frame, instance: Instance, tensors: list[Any], span: Span) -> Any:
        leaf = instance.path.rpartition(".")[2]
        if leaf in frame.used and instance.path != join(frame.instance, leaf):
            name = frame.unique(leaf)
        else:
            name = leaf if instance.calls == 0 else f"{leaf}~{instance.calls}"
        instance.calls += 1
        result = self._apply(frame, instance.constructor, tensors, {}, span, name=name, instance=instance.path)
        return self._result(result)

    def _apply(
        self,
        frame: Frame,
        constructor: Constructor,
        tensors: list[Any],
        given: Mapping[str, Tensor],
        span: Span,
        *,
        name: str | None = None,
        instance: str | None = None,
        root: bool = False,
    ) -> Any:
        if isinstance(constructor, ModuleValue):
            self._instances += 1
            if self._instances > self._budget.instances:
                self._exhausted("too many instances", self._budget.instances, span, "instances")
            return self._apply_module(frame, constructor, tensors, span, name, instance, root)
        if isinstance(constructor, ExternValue):
            result = self._apply_extern(frame, constructor, tensors, span, name)
        else:
            result = self._apply_operator(frame, constructor, tensors, span, name, instance)
        if root:
            values = cast("tuple[Any, ...]", result) if isinstance(result, tuple) else (result,)
            return _Return([(None, v) for v in values])
        return result

    def _apply_module(
        self,
        frame: Frame,
        module: ModuleValue,
        tensors: list[Any],
        span: Span,
        name: str | None,
        instance: str | None,
        root: bool,
    ) -> _Return | Any:
        declaration = module.declaration
        if frame.depth >= self._budget.nesting:
            self._exhausted(
                f"modules are nested too deeply, at {declaration.name.text}", self._budget.nesting, span, "nesting"
            )
        local = "" if root else name or frame.unique(snake(declaration.name.text))
        path = "" if root else join(frame.path, local)
        owner = "" if root else instance or join(frame.instance, local)
        inner = Frame(module.home, path, owner, frame.phase, declaration, frame, span, frame.depth + 1)
        if root:
            inner.used.update(frame.used)
            self._edit.scope(Scope("", declaration.name.text, "", (span,)))
        else:
            self._edit.scope(Scope(path, declaration.name.text, owner, (span,)))
        self._declare_parameters(inner, declaration.parameters, module.bound, declaration.name.text, span)
        self._declare_inputs(inner, declaration, tensors, span)
        result = self._block(inner, declaration.body)
        if result is None:
            self._fail(
                "no-return",
                f"{declaration.name.text} ends without `return`",
                declaration.name.span,
                fix="return x as its last statement",
                frame=inner,
            )
        if any(v is POISON for _, v in result.values):
            return POISON
        self._check_outputs(inner, declaration, result)
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

    def _check_outputs(self, frame: Frame, declaration: t.Module, result: _Return) -> None:
        if not declaration.outputs:
            return
        flat = [one for _, value in result.values for one in _flattened(value)]
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

    # ------------------------------------------------------------------------------------------------ nodes

    def _apply_operator(
        self, frame: Frame, value: OperatorValue, tensors: list[Any], span: Span, name: str | None, instance: str | None
    ) -> Any:
        cls = OPERATORS[value.operator]
        local = name or frame.unique(value.operator)
        weights = _weight_names(value.operator)
        given = {k: g.value for k, g in value.bound.items() if k in weights and isinstance(g.value, Tensor)}
        attributes = {k: g.value for k, g in value.bound.items() if k not in given}
        data = self._data(frame, cls, tensors, span)
        layer_class = LAYERS.get(value.operator)
        if layer_class is None:
            op = self._made(frame, cls, attributes, value.bound, span)
            inputs = self._placed(frame, cls, data, given, {}, span)
        else:
            layer = cast(Layer, self._made(frame, layer_class, attributes, value.bound, span))
            types: list[TensorType | None] = [i.type for i in data]
            weight_types = {k: w.type for k, w in given.items()}
            owner = instance or join(frame.instance, local)
            try:
                specs = layer.parameters(types, weight_types)
                op = layer.operator(types, weight_types)
            except ShapeError as error:
                raise Fault(self._shape_fault(frame, error, data, span)) from None
            created = {k: self._parameter(frame, join(owner, k), s, span) for k, s in specs.items() if k not in given}
            inputs = self._placed(frame, cls, data, given, created, span)
        return self._node(frame, op, inputs, span, local, fixed=True)

    def _data(self, frame: Frame, cls: type[Operator], tensors: list[Any], span: Span) -> list[Tensor]:
        flat: list[Any] = []
        for item in tensors:
            flat.extend(cast("Sequence[Any]", item) if isinstance(item, (list, tuple)) else [item])
        example = next((x for x in flat if isinstance(x, Tensor)), None)
        if example is None:
            return []
        boolean_first = cls.name == "where"
        beside = next((x for x in flat[1:] if isinstance(x, Tensor)), example) if boolean_first else example
        result: list[Tensor] = []
        for item in flat:
            result.append(item if isinstance(item, Tensor) else self._scalar(frame, item, beside.type.dtype, span))
        return result

    def _placed(
        self,
        frame: Frame,
        cls: type[Operator],
        data: list[Tensor],
        given: Mapping[str, Tensor],
        created: Mapping[str, Tensor],
        span: Span,
    ) -> tuple[Tensor | None, ...]:
        """Data inputs, given weights and own parameters in the order of the operands."""
        named = {**created, **given}
        inputs: list[Tensor | None] = []
        waiting = list(data)
        for operand in cls.operands:
            if operand.variadic:
                own = [v for k, v in created.items() if k not in {o.name for o in cls.operands}]
                inputs.extend(own or waiting)
                waiting = [] if not own else waiting
            elif operand.name in named:
                inputs.append(named[operand.name])
            elif waiting:
                inputs.append(waiting.pop(0))
            elif operand.optional:
                inputs.append(None)
            else:
                self._fail("input-count", f"{cls.name} needs its input {operand.name}", span, frame=frame)
        if waiting:
            wanted = [o.name for o in cls.operands if o.name not in created]
            self._fail(
                "input-count",
                f"{cls.name} takes {len(wanted)} inputs ({', '.join(wanted)}), not {len(data)}",
                span,
                frame=frame,
            )
        return tuple(inputs)

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
                self._edit.fresh(path), op, *(None if i is None else i.ref for i in inputs), phase=phase, origin=(span,)
            )
        except ShapeError as error:
            raise Fault(self._shape_fault(frame, error, inputs, span)) from None
        tensors = tuple(Tensor(Value(node.path, i), type_, span, phase) for i, type_ in enumerate(node.types))
        return tensors[0] if len(tensors) == 1 else tensors

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

    # ------------------------------------------------------------------------------------------------ externs

    def _apply_extern(self, frame: Frame, value: ExternValue, tensors: list[Any], span: Span, name: str | None) -> Any:
        declaration = value.declaration
        inner = Frame(value.home, frame.path, frame.instance, frame.phase, None, frame, span, frame.depth + 1)
        what = declaration.name.text
        self._declare_parameters(inner, declaration.parameters, value.bound, what, span)
        if len(tensors) != len(declaration.inputs):
            self._fail(
                "input-count", f"{what} takes {len(declaration.inputs)} inputs, not {len(tensors)}", span, frame=frame
            )
        for field, tensor in zip(declaration.inputs, tensors, strict=True):
            if isinstance(field.type, t.ShapeType):
                self._unify(inner, field.type, tensor, span, f"the input {field.name.text} of {what}")
        types: list[TensorType] = []
        for declared in declaration.outputs:
            if not isinstance(declared, t.ShapeType):
                self._fail("extern-type", f"{what} must declare the shapes it returns", declared.span, frame=frame)
            dtype = (
                tensors[0].type.dtype
                if declared.dtype is None and tensors
                else self._dtype(declared.dtype or declaration.name)
            )
            types.append(TensorType(dtype, tuple(self._dimension(inner, cast(t.Expr, d)) for d in declared.dimensions)))
        attributes = tuple((f.name.text, cast(Variable, inner.find(f.name.text)).value) for f in declaration.parameters)
        implementations = tuple((backend.text, text.raw) for backend, text in declaration.implementations)
        op = self._made(
            frame,
            OPERATORS["extern"],
            {"name_": what, "attributes_": attributes, "types": tuple(types), "implementations": implementations},
            {},
            span,
        )
        return self._node(frame, op, tensors, span, name or frame.unique(snake(what)), fixed=True)

    # ------------------------------------------------------------------------------------------------ types

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


_DTYPE_HABITS = {
    "float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16", "float": "f32", "double": "f64",
    "half": "f16", "int64": "i64", "int32": "i32", "int8": "i8", "uint8": "u8", "long": "i64", "int": "i32",
}  # fmt: skip


def undefined(frame: Frame, e: t.Name) -> Diagnostic:
    """The message about a name that nothing defines, or whose block has ended."""
    ended = frame.closed.get(e.text)
    if ended is not None:
        return out_of_scope(e.text, e.span, ended)
    return unknown_name(e.text, e.span, [*frame.names(), *frame.home.names], called=False)


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


def _free_names(e: t.Expr) -> Iterator[t.Name]:
    if isinstance(e, t.Name):
        yield e
    elif isinstance(e, t.Binary):
        yield from _free_names(e.left)
        yield from _free_names(e.right)
    elif isinstance(e, t.Unary):
        yield from _free_names(e.operand)


def _callers(frame: Frame | None) -> Iterator[Frame]:
    while frame is not None:
        yield frame
        frame = frame.caller


def _flattened(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in cast("Sequence[Any]", value):
            yield from _flattened(one)


def _is_none(item: Any) -> bool:
    return isinstance(item, t.Constant) and item.value is None


def _bracket(e: t.Binary, left: Any, right: Any) -> str | None:
    if isinstance(left, list) and not isinstance(right, list):
        return f"{e.left.span.text} ++ [{e.right.span.text}]"
    return None


def _too_large(dimension: Expression, bits: int) -> bool:
    terms = dimension.terms
    return len(terms) > 64 or any(c.bit_length() > bits or sum(p for _, p in m) > 16 for m, c in terms)


def _compare(op: str, left: Any, right: Any) -> bool:
    less, more = known_less(left, right), known_less(right, left)
    decided = {"<": less, ">": more, "<=": None if more is None else not more, ">=": None if less is None else not less}
    answer = decided[op]
    if answer is None:
        raise Refused(f"cannot be decided: {left} and {right} depend on the symbols' values")
    return answer


def _operand_like(value: Any) -> bool:
    return isinstance(value, (Tensor, int, float)) and not isinstance(value, bool)


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
def _weight_names(operator: str) -> tuple[str, ...]:
    """Operands that may be given by keyword as tensors."""
    return tuple(o.name for o in OPERATORS[operator].operands if not o.variadic)


def _operand_count(value: OperatorValue) -> int | None:
    """How many data inputs an operator without own weights needs; None where it makes its weights."""
    if value.operator in LAYERS:
        return None
    return sum(1 for o in OPERATORS[value.operator].operands if not o.optional)


def _variadic(value: OperatorValue) -> bool:
    declared = OPERATORS[value.operator].operands
    return bool(declared) and declared[-1].variadic


def _is_source(value: OperatorValue) -> bool:
    """Operators without inputs (`arange`, `full`) make their node as soon as they are called."""
    return not OPERATORS[value.operator].operands


_PLAIN: dict[str, Callable[[Any, Any], Any]] = {
    "+": python.add, "-": python.sub, "*": python.mul, "/": python.truediv, "//": python.floordiv, "%": python.mod,
    "<": python.lt, ">": python.gt, "<=": python.le, ">=": python.ge,
}  # fmt: skip

_TENSOR_OPERATORS = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "**": "pow", "@": "matmul", "%": "remainder", "//": "floor_divide",
    "==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge",
}  # fmt: skip

_STATEMENTS: dict[type[t.Statement], Callable[[Elaborator, Frame, Any], _Return | None]] = {
    t.Assign: Elaborator._assign, t.Let: Elaborator._let, t.Param: Elaborator._param, t.For: Elaborator._for,
    t.If: Elaborator._if, t.Return: Elaborator._return, t.Tap: Elaborator._tap, t.PhasePart: Elaborator._phase,
    t.Freeze: Elaborator._freeze_statement, t.Require: Elaborator._require,
}  # fmt: skip


def _constant(self: Elaborator, frame: Frame, e: t.Constant) -> Any:
    return e.value


def _graph_only(self: Elaborator, frame: Frame, e: t.Expr) -> Any:
    raise Fault(
        Diagnostic(
            "graph-value",
            f"{e.span.text} names a value of the normal form, which stands only in `graph` blocks",
            (Label(e.span),),
            fix=e.span.text[1:].rpartition(".")[2],
        )
    )


def _applied_inside(self: Elaborator, frame: Frame, e: t.Applied) -> Any:
    raise Fault(Diagnostic("typed-inputs", "inputs with types stand only in a `model` declaration", (Label(e.span),)))


_EXPRESSIONS: dict[type[t.Expr], Callable[[Elaborator, Frame, Any], Any]] = {
    t.Name: Elaborator._lookup, t.Number: Elaborator._number, t.Text: Elaborator._string, t.Constant: _constant,
    t.ListOf: Elaborator._list, t.TupleOf: Elaborator._tuple, t.Comprehension: Elaborator._comprehension,
    t.Conditional: Elaborator._conditional, t.Range: Elaborator._range, t.Unary: Elaborator._unary,
    t.Binary: Elaborator._binary, t.Index: Elaborator._index, t.Attribute: Elaborator._attribute,
    t.Named: Elaborator._named, t.Pipe: Elaborator._pipe, t.Call: Elaborator._call, t.ValueName: _graph_only,
    t.ParameterName: _graph_only, t.Applied: _applied_inside,
}  # fmt: skip
