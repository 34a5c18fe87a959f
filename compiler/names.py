"""Check names before anything is elaborated: undefined ones, those used after their block, unused parameters.

This looks at every module of a file, also at those that no model uses, so that all such mistakes are reported at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import cache
from typing import Any, cast

from . import operators as _families
from . import tree as t
from .builtin import BUILTINS
from .diagnostic import Diagnostic, Diagnostics, Label, nearest, too_deep
from .operators.operator import INITIALISERS, LAYERS, OPERATORS
from .scope import FileScope
from .source import Span
from .types import DTYPES
from .value import ModuleValue

assert _families  # importing the families fills OPERATORS and LAYERS


def out_of_scope(name: str, span: Span, bound: Span) -> Diagnostic:
    """A name used after the block that binds it."""
    return Diagnostic(
        "out-of-scope",
        f"{name} exists only inside the block that binds it",
        (Label(span), Label(bound, "bound in a block here")),
        fix=f"bind {name} before the block as well, so that the block rebinds it",
    )


_HABITS = {
    "Conv2d": "conv2d", "Linear": "linear", "dense": "linear", "fc": "linear", "batchnorm": "batch_norm",
    "bn": "batch_norm",
    "BatchNorm2d": "batch_norm", "batch_norm2d": "batch_norm", "layernorm": "layer_norm", "LayerNorm": "layer_norm",
    "swish": "silu", "cat": "concat", "view": "reshape", "upsample": "interpolate", "clamp": "clip", "ReLU": "relu",
    "attention": "scaled_dot_product_attention", "global_avg_pool": "mean", "mult": "mul", "range": "0..n",
}  # fmt: skip
"""What people write who come from other libraries."""


def unknown_name(name: str, span: Span, visible: Iterable[str], *, called: bool) -> Diagnostic:
    """A name that nothing defines; `called` where it stands as a layer or module."""
    close = _HABITS.get(name) or nearest(name, [*visible, *BUILTINS, *OPERATORS])
    if called:
        return Diagnostic(
            "unknown-operator", f"there is no operator, layer or module called {name}", (Label(span),), fix=close
        )
    return Diagnostic("undefined-name", f"nothing here is called {name}", (Label(span),), fix=close)


def check_names(scope: FileScope, diagnostics: Diagnostics) -> None:
    """Report every undefined name, use out of scope and unused parameter of a file."""
    for declaration in scope.tree.declarations:
        try:
            _check(_Checker(scope, diagnostics), declaration)
        except RecursionError:
            diagnostics.add(too_deep(declaration.span))


PREDICATES = ("single_use", "constant", "absent", "op", "uses", "number", "known")
"""What the conditions of rewrite rules may ask about a matched value."""


def check_rule(scope: FileScope, declaration: t.Rewrite, captured: Iterable[t.Identifier], report: Diagnostics) -> None:
    """Report every name in a rewrite rule that neither its patterns, nor the file, nor the language define."""
    known = [t.Identifier(declaration.name.span, name) for name in PREDICATES]
    _Checker(scope, report).rule(declaration, [*captured, *known])


def _check(checker: _Checker, declaration: t.Declaration) -> None:
    if isinstance(declaration, t.Module):
        checker.module(declaration)
    elif isinstance(declaration, t.Func):
        checker.function(declaration)
    elif isinstance(declaration, t.Extern):
        checker.extern(declaration)


class _Checker:
    def __init__(self, scope: FileScope, diagnostics: Diagnostics) -> None:
        self._scope = scope
        self._report = diagnostics
        self._blocks: list[dict[str, Span]] = [{}]
        self._closed: dict[str, Span] = {}
        self._read: set[str] = set()

    def module(self, declaration: t.Module) -> None:
        self._fields(declaration.parameters)
        for field in declaration.inputs:
            self._signature(field)
        for declared in declaration.outputs:
            self._shape(declared)
        self._block(declaration.body)
        self._unused(declaration.parameters, declaration.name.text, "parameter")
        self._unused(declaration.inputs, declaration.name.text, "input")

    def function(self, declaration: t.Func) -> None:
        self._fields(declaration.parameters)
        self._expression(declaration.body)
        self._unused(declaration.parameters, declaration.name.text, "parameter")

    def extern(self, declaration: t.Extern) -> None:
        self._fields(declaration.parameters)
        for field in declaration.inputs:
            self._signature(field)
        for declared in declaration.outputs:
            self._shape(declared)

    def rule(self, declaration: t.Rewrite, captured: Iterable[t.Identifier]) -> None:
        """The clauses of a rewrite rule, whose patterns bind the `captured` names."""
        for name in captured:
            self._bind(name)
        for clause in declaration.clauses:
            if isinstance(clause, t.Where):
                for condition in clause.conditions:
                    self._expression(condition)
            elif isinstance(clause, t.Replace):
                for value in clause.values:
                    self._expression(value)
            elif isinstance(clause, t.Let):
                self._expression(clause.value)
                self._bind(clause.name)

    def _fields(self, declared: Iterable[t.Field]) -> None:
        for field in declared:
            if field.default is not None:
                self._expression(field.default)
            self._bind(field.name)

    def _signature(self, field: t.Field) -> None:
        """Bare names in an input's shape are bound by it unless they are known already."""
        if isinstance(field.type, t.ShapeType):
            for dimension in field.type.dimensions:
                if isinstance(dimension, t.Name) and not self._known(dimension.text):
                    self._blocks[-1][dimension.text] = dimension.span
                elif isinstance(dimension, t.Name):
                    self._read.add(dimension.text)
            for dimension in field.type.dimensions:
                if not isinstance(dimension, (t.Name, t.Ellipsis)):
                    self._expression(dimension)
        if field.default is not None:
            self._expression(field.default)
        self._bind(field.name)

    def _shape(self, declared: t.Type) -> None:
        if isinstance(declared, t.ShapeType):
            for dimension in declared.dimensions:
                if isinstance(dimension, t.Name) and not self._known(dimension.text):
                    self._blocks[-1][dimension.text] = dimension.span
                elif not isinstance(dimension, t.Ellipsis):
                    self._expression(dimension)

    def _unused(self, declared: Iterable[t.Field], where: str, what: str) -> None:
        for field in declared:
            if field.name.text not in self._read and not field.name.text.startswith("_"):
                self._report.add(
                    Diagnostic(
                        f"unused-{what}",
                        f"{where} never uses its {what} {field.name.text}",
                        (Label(field.name.span),),
                        fix=f"remove it, or call it _{field.name.text}",
                        severity="warning",
                    )
                )

    def _bind(self, name: t.Identifier) -> None:
        for block in reversed(self._blocks):
            if name.text in block:
                return
        self._blocks[-1][name.text] = name.span

    def _known(self, name: str) -> bool:
        return any(name in b for b in self._blocks) or name in self._scope.names

    def _block(self, block: t.Block) -> None:
        for statement in block.statements:
            self._statement(statement)

    def _inner(self, block: t.Block, names: Iterable[t.Identifier] = ()) -> None:
        self._blocks.append({n.text: n.span for n in names})
        self._block(block)
        self._closed.update(self._blocks.pop())

    def _statement(self, s: t.Statement) -> None:
        if isinstance(s, t.For):
            self._expression(s.over)
            self._inner(s.body, s.names)
        elif isinstance(s, t.If):
            self._if(s)
        elif isinstance(s, t.PhasePart):
            self._block(s.body)
        elif isinstance(s, t.Param):
            self._param(s)
        else:
            self._simple(s)

    def _if(self, s: t.If) -> None:
        self._expression(s.condition)
        self._inner(s.then)
        if isinstance(s.other, t.If):
            self._statement(s.other)
        elif s.other is not None:
            self._inner(s.other)

    def _param(self, s: t.Param) -> None:
        self._shape_read(s.type)
        self._initial(s.initial)
        if s.path is not None:
            self._expression(s.path.text)
        self._blocks[-1][s.name.text] = s.name.span

    def _simple(self, s: t.Statement) -> None:
        """A statement that holds expressions and may bind names after them."""
        for child in children(s):
            if isinstance(child, t.Expr):
                self._expression(child)
            elif isinstance(child, t.Output):
                self._expression(child.value)
        if isinstance(s, t.Assign):
            for name in s.names:
                self._bind(name)
        elif isinstance(s, t.Let):
            self._blocks[-1][s.name.text] = s.name.span

    def _shape_read(self, declared: t.Type) -> None:
        if isinstance(declared, t.ShapeType):
            for dimension in declared.dimensions:
                if not isinstance(dimension, t.Ellipsis):
                    self._expression(dimension)

    def _initial(self, e: t.Expr) -> None:
        function = e.function if isinstance(e, t.Call) else e
        if isinstance(function, t.Name) and function.text in INITIALISERS:
            if isinstance(e, t.Call):
                for argument in e.arguments:
                    self._expression(argument.value)
        elif not (isinstance(function, t.Name) and not self._known(function.text)):
            self._expression(e)  # an unknown name here is reported as an initialiser, by the elaborator

    def _expression(self, e: t.Expr, *, called: bool = False) -> None:
        if isinstance(e, t.Name):
            self._name(e, called)
        elif isinstance(e, t.Comprehension):
            self._comprehension(e)
        elif isinstance(e, t.Call):
            self._expression(e.function, called=True)
            for argument in e.arguments:
                self._expression(argument.value)
        elif isinstance(e, t.Pipe):
            self._expression(e.value)
            self._expression(e.stage, called=True)
        else:
            for part in _expressions_in(e):
                self._expression(part)

    def _comprehension(self, e: t.Comprehension) -> None:
        self._expression(e.over)
        self._blocks.append({n.text: n.span for n in e.names})
        if e.condition is not None:
            self._expression(e.condition)
        self._expression(e.body)
        self._closed.update(self._blocks.pop())

    def _name(self, e: t.Name, called: bool) -> None:
        self._read.add(e.text)
        if self._known(e.text) or e.text in BUILTINS or e.text in OPERATORS or e.text in LAYERS or e.text in DTYPES:
            return
        if e.text in self._closed:
            self._report.add(out_of_scope(e.text, e.span, self._closed[e.text]))
            return
        visible = [*(n for b in self._blocks for n in b), *self._scope.names]
        self._report.add(unknown_name(e.text, e.span, visible, called=called))


def _expressions_in(e: t.Expr) -> Iterator[t.Expr]:
    """The expressions directly inside one that binds no names."""
    for child in children(e):
        if isinstance(child, t.Expr):
            yield child
        elif isinstance(child, t.Slice):
            yield from (b for b in (child.start, child.stop, child.step) if b is not None)
        elif isinstance(child, t.Path):
            yield child.text


@cache
def _field_names(cls: type[Any]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(cls) if f.name != "span")


def children(node: t.Tree) -> Iterator[t.Tree]:
    """The direct parts of a tree node."""
    for name in _field_names(type(node)):
        value = getattr(node, name)
        if isinstance(value, t.Tree):
            yield value
        elif isinstance(value, tuple):
            for item in cast("tuple[Any, ...]", value):
                if isinstance(item, t.Tree):
                    yield item


def least_instances(scope: FileScope, name: str) -> int:
    """A lower bound on the module instances that applying a module makes, found without elaborating it.

    Literal loops multiply, branches count as their cheaper side, and what depends on arguments counts as nothing, so
    an exponential spec is refused at once and a legitimate one never is.
    """
    return _Counter().module(scope, name)


class _Counter:
    def __init__(self) -> None:
        self._known: dict[tuple[int, str], int] = {}

    def module(self, scope: FileScope, name: str) -> int:
        declaration = _declaration(scope, name)
        if declaration is None:
            return 0
        module, home = declaration
        key = (id(home), module.name.text)
        if key not in self._known:
            self._known[key] = 0  # recursion counts as nothing
            self._known[key] = 1 + self._block(home, module.body)
        return self._known[key]

    def _block(self, scope: FileScope, block: t.Block) -> int:
        total = 0
        for s in block.statements:
            if isinstance(s, t.If):
                total += self._if(scope, s)
            elif isinstance(s, t.For):
                total += _repeats(s.over) * self._block(scope, s.body)
            elif isinstance(s, t.PhasePart):
                total += self._block(scope, s.body)
            else:
                total += sum(self._expression(scope, c) for c in children(s))
            if isinstance(s, t.Return):
                break
        return total

    def _if(self, scope: FileScope, s: t.If) -> int:
        if s.other is None:
            return 0
        other = self._if(scope, s.other) if isinstance(s.other, t.If) else self._block(scope, s.other)
        return min(self._block(scope, s.then), other)

    def _expression(self, scope: FileScope, e: t.Tree) -> int:
        if isinstance(e, t.Conditional):
            return min(self._expression(scope, e.then), self._expression(scope, e.other))
        if isinstance(e, t.Comprehension):
            return 0 if e.condition is not None else _repeats(e.over) * self._expression(scope, e.body)
        if isinstance(e, t.Binary) and e.op in ("and", "or"):
            return self._expression(scope, e.left)
        own = 0
        if isinstance(e, t.Pipe):
            stage = e.stage.function if isinstance(e.stage, t.Call) else e.stage
            own = self.module(scope, stage.text) if isinstance(stage, t.Name) else 0
        elif isinstance(e, t.Call) and isinstance(e.function, t.Name) and e.arguments:
            declaration = _declaration(scope, e.function.text)
            if declaration is not None and not declaration[0].parameters:
                own = self.module(scope, e.function.text)
        return own + sum(self._expression(scope, c) for c in children(e))


def _declaration(scope: FileScope, name: str) -> tuple[t.Module, FileScope] | None:
    value = scope.names.get(name)
    return (value.declaration, value.home) if isinstance(value, ModuleValue) else None


def _repeats(over: t.Expr) -> int:
    if isinstance(over, t.ListOf):
        return len(over.items)
    if isinstance(over, t.Range) and isinstance(over.start, t.Number) and isinstance(over.stop, t.Number):
        start, stop = over.start.value, over.stop.value
        if isinstance(start, int) and isinstance(stop, int):
            return max(stop - start, 0)
    return 0
