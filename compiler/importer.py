"""Files and their imports → what they declare, by name. Nothing is evaluated here but the maps that rename weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

from . import tree as t
from .diagnostic import Diagnostic, Diagnostics, Label, NetcError, nearest
from .names import check_names
from .rename import Drop, Part, Permute, RenameMap, Reshape, Rule
from .scope import FileScope
from .source import Source, Span
from .syntax import parse
from .value import ExternValue, FunctionValue, ModuleValue


@dataclass(slots=True)
class Pending:
    """A declaration whose value is computed when it is first asked for."""

    declaration: t.Model | t.Family | t.Data | t.TopLet | t.GraphText | t.Rewrite | t.Pipeline | t.Target | t.Plan
    home: FileScope
    state: str = "new"
    value: Any = None


@dataclass(eq=False, slots=True)
class Files:
    """A file with everything it imports. `root` is the folder that all of it lies in."""

    scope: FileScope
    root: Path
    diagnostics: Diagnostics
    by_path: dict[Path, FileScope]


def read_file(path: Path) -> Source:
    """The text of a file.

    Raises:
        NetcError: where it cannot be read, or is no UTF-8 text.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise NetcError([Diagnostic("file-not-found", f"{path} cannot be read: {reason}")]) from None
    return Source(str(path), text, path.resolve())


def read_imports(source: Source, root: Path | None = None) -> Files:
    """A file and all that it imports, with syntax, imports and names checked. Imports must lie in its folder, or below
    `root`.

    Raises:
        NetcError: with all problems of the first phase that has any.
    """
    base = root or (source.path.parent if source.path else Path.cwd())
    reader = _Reader(base.resolve())
    scope = reader.file(source)
    reader.diagnostics.stop_on_errors()
    for one in reader.files.values() or (scope,):
        check_names(one, reader.diagnostics)
    reader.diagnostics.stop_on_errors()
    return Files(scope, reader.root, reader.diagnostics, reader.files)


_IMPORTS = 100
"""Files may import files so many levels deep."""


class _Reader:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.diagnostics = Diagnostics()
        self.files: dict[Path, FileScope] = {}
        self._open: list[Path] = []

    def file(self, source: Source) -> FileScope:
        scope = FileScope(source, parse(source))
        if source.path is not None:
            self.files[source.path] = scope
            self._open.append(source.path)
        for declaration in scope.tree.declarations:
            self._declare(scope, declaration)
        if source.path is not None:
            self._open.pop()
        return scope

    def _declare(self, scope: FileScope, d: t.Declaration) -> None:
        if isinstance(d, t.Import):
            self._import(scope, d)
        elif isinstance(d, t.Module):
            self._name(scope, d.name, ModuleValue(d, scope))
        elif isinstance(d, t.Func):
            self._name(scope, d.name, FunctionValue(d, scope))
        elif isinstance(d, t.Extern):
            self._name(scope, d.name, ExternValue(d, scope))
        elif isinstance(d, (t.Model, t.Family, t.Data, t.TopLet, t.GraphText, t.Rewrite, t.Pipeline, t.Target, t.Plan)):
            self._name(scope, d.name, Pending(d, scope))
        elif isinstance(d, t.Rename):
            try:
                self._name(scope, d.name, _rename_map(d))
            except NetcError as error:
                self.diagnostics.extend(error.diagnostics)

    def _name(self, scope: FileScope, name: t.Identifier, value: Any) -> None:
        if name.text in scope.names:
            self.diagnostics.add(
                Diagnostic(
                    "duplicate-name",
                    f"{name.text} is declared twice",
                    (Label(name.span), Label(scope.declared[name.text], "first declared here")),
                    fix="give one of them another name",
                )
            )
            return
        scope.names[name.text] = value
        scope.declared[name.text] = name.span

    def _import(self, scope: FileScope, d: t.Import) -> None:
        there = self._imported(scope, d)
        for theirs, ours in d.names:
            if there is None:
                self._name(scope, ours, None)
                continue
            if theirs.text not in there.names:
                close = nearest(theirs.text, there.names)
                self.diagnostics.add(
                    Diagnostic(
                        "unknown-import",
                        f"{d.path.raw} does not declare {theirs.text}",
                        (Label(theirs.span),),
                        fix=close,
                    )
                )
            else:
                self._name(scope, ours, there.names[theirs.text])

    def _imported(self, scope: FileScope, d: t.Import) -> FileScope | None:
        base = scope.source.path.parent if scope.source.path else self.root
        path = (base / d.path.raw).resolve()
        problem: Diagnostic | None = None
        if not path.is_relative_to(self.root):
            problem = Diagnostic(
                "outside-folder",
                f"{d.path.raw} lies outside the folder that files of this spec may lie in",
                (Label(d.path.span),),
                (f"the folder is {self.root}",),
                "allow a folder that all of them lie in: --allow FOLDER",
            )
        elif path in self._open:
            chain = " → ".join(p.name for p in [*self._open[self._open.index(path) :], path])
            problem = Diagnostic(
                "import-cycle",
                f"the imports run in a circle: {chain}",
                (Label(d.path.span),),
                fix="move what both files need into a third one",
            )
        elif path in self.files:
            return self.files[path]
        elif len(self._open) >= _IMPORTS:
            message = f"imports within imports: the limit is {_IMPORTS}"
            problem = Diagnostic("budget", message, (Label(d.path.span),), fix="import the files from fewer levels")
        elif not path.is_file():
            close = nearest(path.name, [p.name for p in path.parent.glob("*.net")]) if path.parent.is_dir() else None
            problem = Diagnostic("file-not-found", f"there is no file {d.path.raw}", (Label(d.path.span),), fix=close)
        if problem is not None:
            self.diagnostics.add(problem)
            return None
        try:
            return self.file(Source(str(Path(scope.source.name).parent / d.path.raw), path.read_text("utf-8"), path))
        except UnicodeDecodeError:
            self.diagnostics.add(Diagnostic("file-not-found", f"{d.path.raw} is not UTF-8 text", (Label(d.path.span),)))
        except NetcError as error:
            self.diagnostics.extend(error.diagnostics)
        return None


_STEPS: dict[str, Callable[[tuple[int, ...]], Permute | Reshape]] = {"permute": Permute, "reshape": Reshape}


def _rename_map(d: t.Rename) -> RenameMap:
    rules: list[Rule] = []
    drops: list[Drop] = []
    for rule in d.rules:
        if isinstance(rule, t.RenameDrop):
            drops.append(Drop(rule.pattern.raw, rule.span))
            continue
        steps = tuple(_step(s) for s in rule.steps)
        source, target = _part(rule.source), _part(rule.target)
        rules.append(Rule(rule.source.pattern.raw, rule.target.pattern.raw, source, steps, target, rule.span))
    return RenameMap(d.name.text, tuple(rules), tuple(drops))


def _part(place: t.RenamePlace) -> Part | None:
    if place.part is None:
        return None
    index, count = place.part
    if not isinstance(count, int):
        _stop("rename", f"the number of parts is a number, not {count}", place.span, fix=f"[{index} of 3]")
    return Part(index, count)


def _step(call: t.Call) -> Permute | Reshape:
    name = cast(t.Name, call.function).text
    items = call.arguments[0].value if len(call.arguments) == 1 else None
    if name not in _STEPS:
        _stop(
            "rename",
            f"a rename cannot {name}",
            call.span,
            notes=(f"steps: {', '.join(_STEPS)}",),
            fix=nearest(name, _STEPS),
        )
    if not isinstance(items, t.ListOf) or not all(isinstance(_signed(i), int) for i in items.items):
        _stop("rename", f"{name} takes one list of integers", call.span, fix=f"{name}([1, 0])")
    return _STEPS[name](tuple(cast(int, _signed(i)) for i in items.items))


def _signed(e: t.Expr) -> int | float | None:
    if isinstance(e, t.Number):
        return e.value
    if isinstance(e, t.Unary) and e.op == "-" and isinstance(e.operand, t.Number):
        return -e.operand.value
    return None


def _stop(code: str, message: str, span: Span, *, notes: tuple[str, ...] = (), fix: str | None = None) -> NoReturn:
    raise NetcError([Diagnostic(code, message, (Label(span),), notes, fix)])
