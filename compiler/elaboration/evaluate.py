"""Expressions: compile-time values are computed, tensors become nodes."""

# The dispatch table at the end names the methods of the class it serves.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import operator as python
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

from .. import tree as t
from ..builtin import BUILTINS, Refused, TooLarge, power
from ..diagnostic import Diagnostic, Label, nearest
from ..graph import ParameterRef
from ..names import out_of_scope, unknown_name
from ..operators.operator import (
    LAYERS,
    OPERATORS,
    ShapeError,
)
from ..scope import Frame, join
from ..source import Span
from ..types import DTYPES, DType, Expression, floor_divide, known_less
from ..value import (
    POISON,
    BuiltinValue,
    ExternValue,
    FunctionValue,
    Inside,
    Instance,
    ModuleValue,
    OperatorValue,
    Tensor,
    contains_tensor,
    describe,
)
from .apply import Application
from .problem import Fault

_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)


SCALES = {
    "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6,
    "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "s": 1, "ms": 1e-3, "us": 1e-6,
}  # fmt: skip
"""What the unit of a number multiplies it by: counts, bytes, seconds; `/s` changes nothing."""


class Evaluator(Application):
    """Expressions: compile-time values are computed, tensors become nodes."""

    def _eval(self, frame: Frame, e: t.Expr) -> Any:
        value = getattr(self, _EXPRESSIONS[type(e)])(frame, e)
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
                self._fail("budget", f"an integer has at most {self._budget.bits} bits", e.span, frame=frame)
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
        items = [self._eval(frame, i) for i in e.items]
        self._bound_nesting(items, e.span)
        return items

    def _tuple(self, frame: Frame, e: t.TupleOf) -> tuple[Any, ...]:
        items = tuple(self._eval(frame, i) for i in e.items)
        self._bound_nesting(items, e.span)
        return items

    def _bound_nesting(self, items: Sequence[Any], span: Span) -> None:
        """Lists of lists are bounded by all they hold: `y = [y, y]` doubles what every later use would walk through."""
        waiting: list[Any] = [i for i in items if isinstance(i, (list, tuple))]
        total = len(items)
        while waiting:
            inner = cast("Sequence[Any]", waiting.pop())
            total += len(inner)
            if total > self._budget.items:
                self._exhausted("a list of lists is too long", self._budget.items, span, "items")
            waiting.extend(cast(Any, i) for i in inner if isinstance(i, (list, tuple)))
        if total > len(items):
            self._step(span, total // 32)

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
        self._work(e.span, left, right)
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
            code = refused.code if isinstance(refused, TooLarge) else "arithmetic"
            self._fail(code, f"`{e.op}` {refused}", e.span, frame=frame)
        except ZeroDivisionError:
            self._fail("arithmetic", "this divides by zero", e.right.span, frame=frame)
        except (OverflowError, ValueError) as error:
            self._fail("arithmetic", f"this cannot be computed: {error}", e.span, frame=frame)
        if isinstance(result, int) and result.bit_length() > self._budget.bits:
            self._fail("budget", f"an integer has at most {self._budget.bits} bits", e.span, frame=frame)
        if isinstance(result, Expression) and _too_large(result, self._budget.bits):
            self._fail("budget", "this dimension has too many terms, or too large ones", e.span, frame=frame)
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

    def _index(self, frame: Frame, e: t.Index) -> Any:
        value = self._eval(frame, e.value)
        if isinstance(value, Tensor):
            return self._tensor_index(frame, e, value)
        if len(e.items) != 1 or not isinstance(value, (list, tuple, range, str)):
            self._fail("index", f"{describe(value)} cannot be indexed so", e.span, frame=frame)
        item, sequence = e.items[0], cast("Sequence[Any]", value)
        if isinstance(item, t.Slice):
            self._work(e.span, value)
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
            function = self._eval(frame, stage.function)
            return self._send(frame, function, inputs, stage.arguments, e, name, at)
        return self._send(frame, self._eval(frame, stage), inputs, (), e, name, at)

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

    def _literal(self, frame: Frame, e: t.Constant) -> Any:
        return e.value

    def _graph_only(self, frame: Frame, e: t.Expr) -> Any:
        self._fail(
            "graph-value",
            f"{e.span.text} names a value of the normal form, which stands only in `graph` blocks",
            e.span,
            fix=e.span.text[1:].rpartition(".")[2],
        )

    def _applied_inside(self, frame: Frame, e: t.Applied) -> Any:
        self._fail("typed-inputs", "inputs with types stand only in a `model` declaration", e.span)

    def _pattern_only(self, frame: Frame, e: t.Quantified | t.Rest) -> Any:
        self._fail("pattern", f"`{e.span.text}` stands only in the patterns of rewrite rules", e.span)


def undefined(frame: Frame, e: t.Name) -> Diagnostic:
    """The message about a name that nothing defines, or whose block has ended."""
    ended = frame.closed.get(e.text)
    if ended is not None:
        return out_of_scope(e.text, e.span, ended)
    return unknown_name(e.text, e.span, [*frame.names(), *frame.home.names], called=False)


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


_PLAIN: dict[str, Callable[[Any, Any], Any]] = {
    "+": python.add, "-": python.sub, "*": python.mul, "/": python.truediv, "//": python.floordiv, "%": python.mod,
    "<": python.lt, ">": python.gt, "<=": python.le, ">=": python.ge,
}  # fmt: skip


_TENSOR_OPERATORS = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "**": "pow", "@": "matmul", "%": "remainder", "//": "floor_divide",
    "==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge",
}  # fmt: skip


_EXPRESSIONS: dict[type[t.Expr], str] = {
    t.Name: "_lookup", t.Number: "_number", t.Text: "_string", t.Constant: "_literal", t.ListOf: "_list",
    t.TupleOf: "_tuple", t.Comprehension: "_comprehension", t.Conditional: "_conditional", t.Range: "_range",
    t.Unary: "_unary", t.Binary: "_binary", t.Index: "_index", t.Attribute: "_attribute", t.Named: "_named",
    t.Pipe: "_pipe", t.Call: "_call", t.ValueName: "_graph_only", t.ParameterName: "_graph_only",
    t.Applied: "_applied_inside", t.Quantified: "_pattern_only", t.Rest: "_pattern_only",
}  # fmt: skip
"""The method for each kind of expression, by name: a subclass may have its own."""
