"""Text → tree. The grammar is `grammar/net.lark`; this builds the tree and turns parse failures into diagnostics."""

from __future__ import annotations

import gc
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from math import inf
from typing import Any, cast

from lark import Lark, Token, Transformer_NonRecursive, v_args  # pyright: ignore[reportUnknownVariableType]
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken

from . import tree as t
from .diagnostic import Diagnostic, Label, NetcError
from .source import Source, Span


class _Lines:
    """Drops line ends inside brackets, where they mean nothing; refuses words that touch (`letx`)."""

    always_accept = ("_NEWLINE",)

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        depth: list[str] = []
        previous: Token | None = None
        for token in stream:
            if previous is not None and previous.end_pos == token.start_pos and _touch(previous, token):
                raise UnexpectedToken(token, set[str]())
            previous = token
            if token.type in ("LPAR", "LSQB", "LBRACE"):
                depth.append(token.type)
            elif token.type in ("RPAR", "RSQB", "RBRACE") and depth:
                depth.pop()
            elif token.type == "_NEWLINE" and depth and depth[-1] != "LBRACE":
                continue
            yield token


def _touch(one: Token, other: Token) -> bool:
    return other.type != "UNIT" and re.match(r"\w\w", one[-1:] + other[:1]) is not None


@cache
def grammar(*, keep_all_tokens: bool = False) -> Lark:
    """The parser of files and expressions; with all tokens kept for what must write a text back."""
    text = resources.files(__name__.rsplit(".", 2)[0] + ".grammar").joinpath("net.lark").read_text("utf-8")
    parser = Lark(
        text,
        parser="lalr",
        lexer="contextual",
        start=["file", "expr"],
        postlex=cast(Any, _Lines()),
        propagate_positions=True,
        maybe_placeholders=True,
        keep_all_tokens=keep_all_tokens,
    )
    # Each operand climbs a dozen levels of precedence, of which nothing remains: passing it on takes no bookkeeping.
    callbacks: dict[Any, Any] = cast(Any, parser)._callbacks
    for rule in callbacks:
        if rule.options.expand1 and not rule.alias and len(rule.expansion) == 1:
            callbacks[rule] = _only
    return parser


def _only(children: list[Any]) -> Any:
    return children[0]


def parse(source: Source) -> t.File:
    """The tree of a whole file.

    Raises:
        NetcError: with the first problem of every declaration that has one.
    """
    try:
        return cast(t.File, _build(source, "file", source.text, 0))
    except (UnexpectedInput, NetcError) as error:
        raise NetcError(_all_problems(source, error)) from None


def parse_expression(source: Source) -> t.Expr:
    """The tree of a text that is one expression.

    Raises:
        NetcError: where it is none.
    """
    try:
        return cast(t.Expr, _build(source, "expr", source.text, 0))
    except UnexpectedInput as error:
        raise NetcError([_problem(source, error, 0, len(source.text), "expression")]) from None


def _build(source: Source, start: str, text: str, base: int) -> t.Tree:
    problems: list[Diagnostic] = []
    with _uncollected():
        tree = cast(t.Tree, _Builder(source, base, problems).transform(grammar().parse(text, start=start)))
    if problems:
        raise NetcError(problems)
    return tree


@contextmanager
def _uncollected() -> Generator[None, None, None]:
    """A tree is made of very many objects without cycles; searching them for some takes a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


_HEAD = re.compile(
    r"^(?:import|module|model|family|data|let|func|extern|rename|rewrite|pipeline|target|plan|expect|graph)\b"
    r"(?=[ \t]*[\w\"])",
    re.M,
)
_MOST = 20
"""So many problems are reported at once."""


def _all_problems(source: Source, first: UnexpectedInput | NetcError) -> list[Diagnostic]:
    """Parse each declaration on its own, so that one mistake does not hide the next."""
    found: list[Diagnostic] = []
    starts = _heads(source.text)
    for start, end in zip(starts, [*starts[1:], len(source.text)], strict=True):
        try:
            _build(source, "file", source.text[start:end], start)
        except UnexpectedInput as error:
            found.append(_problem(source, error, start, end))
        except NetcError as error:
            found.extend(error.diagnostics)
        if len(found) >= _MOST:
            break
    if found:
        return found[:_MOST]
    return list(first.diagnostics) if isinstance(first, NetcError) else [_problem(source, first, 0, len(source.text))]


def _heads(text: str) -> list[int]:
    """Where declarations start, and 0: what stands before the first must be empty. A `let` inside of braces is a
    statement that was not indented."""
    starts = [0]
    for match in _HEAD.finditer(text):
        between = text[starts[-1] : match.start()]
        if match.group() != "let" or between.count("{") <= between.count("}"):
            starts.append(match.start())
    return starts


_WORDS = {
    "_NEWLINE": "the end of the line", "NAME": "a name", "NUMBER": "a number", "STRING": "a string", "LPAR": "`(`",
    "RPAR": "`)`", "LBRACE": "`{`", "RBRACE": "`}`", "LSQB": "`[`", "RSQB": "`]`", "COMMA": "`,`", "EQUAL": "`=`",
    "COLON": "`:`", "DOT": "`.`", "VALUE": "a graph value", "PARAMETER": "a graph parameter", "PATH": "a path",
    "UNIT": "a unit", "__ANON_0": "`->`", "$END": "the end of the file", "ELLIPSIS": "`...`",
    "PHASE": "`train`, `infer`", "COMPARE": "a comparison", "TIMES": "`*`, `/`",
}  # fmt: skip


def _problem(source: Source, error: UnexpectedInput, base: int, limit: int, what: str = "declaration") -> Diagnostic:
    """The message about a failure in characters `base` to `limit`, which hold one declaration."""
    if isinstance(error, UnexpectedCharacters):
        at = base + cast(int, error.pos_in_stream)
        character = source.text[at : at + 1]
        expected = set(error.allowed or ()) - {"_NEWLINE"}
        message = f"unexpected {character!r}" if character != '"' else "this string does not end on its line"
        span = Span(source, at, min(at + 1, len(source.text)))
    elif isinstance(error, UnexpectedToken) and error.token.type != "$END":
        token = cast(Token, error.token)
        at = base + (token.start_pos or 0)
        expected = error.accepts or error.expected
        message, span = f"unexpected `{token}`", Span(source, at, at + len(token))
        if token.type == "REPEATED":  # a sum without its second operand: what stands in its place is wrong
            at = _next(source, base + (token.end_pos or 0))
            expected, span = _LEAST, Span(source, at, at + 1)
            message = f"unexpected `{span.text}`"
        if token.type == "_NEWLINE" or span.text == "\n":
            message, span = "the line ends too early", Span(source, at, at + 1)
    else:
        expected = getattr(error, "accepts", None) or (error.expected if isinstance(error, UnexpectedEOF) else ())
        at = len(source.text[:limit].rstrip())
        message = f"the {what} ends too early"
        span = Span(source, max(at - 1, 0), max(at, min(1, len(source.text))))
    accepted = {str(name) for name in cast("Iterable[str]", expected)}
    names = sorted(map(_word, accepted - _EXPRESSION)) if accepted >= _LEAST else sorted(map(_word, accepted))
    names += ["an expression"] if accepted >= _LEAST else []
    notes = (f"here may stand: {', '.join(names)}",) if 0 < len(names) <= 12 else ()
    labels = [Label(span)]
    opened = _innermost_open(source.text, base, at)
    if opened is not None and message.startswith(f"the {what} ends"):
        bracket = Span(source, opened, opened + 1)
        message, labels = (
            f"this `{bracket.text}` is never closed",
            [Label(bracket), Label(span, f"the {what} ends here")],
        )
    elif opened is not None and source.text[opened] != "{" and "\n" in source.text[opened : span.start]:
        labels.append(Label(Span(source, opened, opened + 1), "inside of this bracket"))
    fix = _advice(source, span)
    if fix is None and "_NEWLINE" in accepted and opened is not None and source.text[opened] == "{" and _keyword(error):
        fix = f"a new line before `{span.text}`"
    return Diagnostic("syntax", message, tuple(labels), notes, fix)


def _keyword(error: UnexpectedInput) -> bool:
    token = cast(Token, error.token) if isinstance(error, UnexpectedToken) else None
    return token is not None and token.type.lower() == str(token)


def _next(source: Source, at: int) -> int:
    """Where the next token starts, comments left out and line ends not."""
    match = re.compile(r"[ \t]*(#[^\n]*)?").match(source.text, at)
    assert match is not None
    return match.end()


_LEAST = frozenset({"NAME", "NUMBER", "STRING", "LPAR", "LSQB"})
_EXPRESSION = _LEAST | {"MINUS", "NOT", "TRUE", "FALSE", "NONE", "VALUE", "PARAMETER"}
"""What an expression starts with; a lexer that fails lists no keywords."""

_TEXT = re.compile(r'"(?:\\.|[^"\\\n])*"?|#[^\n]*|[()\[\]{}]')


def _innermost_open(text: str, start: int, end: int) -> int | None:
    """Where the last bracket that is still open at `end` stands."""
    opened: list[int] = []
    for match in _TEXT.finditer(text, start, end):
        if match.group() in "([{":
            opened.append(match.start())
        elif match.group() in ")]}" and opened:
            opened.pop()
    return opened[-1] if opened else None


def _word(terminal: str) -> str:
    known = _WORDS.get(terminal)
    if known:
        return known
    for definition in grammar().terminals:
        if definition.name == terminal and definition.pattern.type == "str":
            return f"`{definition.pattern.value}`"
    return terminal.strip("_").lower()


_HABITS = {
    "'": 'strings are written in double quotes: "…"',
    ";": "statements end with the line; remove the `;`",
    "&": "write `and`",
    "|": "write `or`",
    "!": "write `not`",
    "?": "a choice is written `a if condition else b`",
    "def": "a module is written `module Name(parameters) (inputs) { … }`",
    "class": "a module is written `module Name(parameters) (inputs) { … }`",
    "elif": "write `else if`",
}
"""What to write instead, for habits brought from other languages."""

_CONTINUED = re.compile(r"(\|>|\+\+|\*\*|//|[-+*/@]|\b(?:and|or))[ \t]*(?:#.*)?$")


def _advice(source: Source, span: Span) -> str | None:
    text = span.text
    number = source.position(span.start)[0]
    line = source.line(number)
    if text in _HABITS:
        return _HABITS[text]
    if text == ":" and re.match(r"\s*(for|if|else|\}\s*else|module)\b", line):
        return "blocks are written in braces: `{ … }`"
    if span.start and re.match(r"\w\w", source.text[span.start - 1 : span.start + 1]):
        return f"put a space before `{text}`"
    if text == "." and re.match(r"\.\d", source.text[span.start : span.start + 2]):
        return "write the 0 before the point"
    if not text.strip():
        before = source.text[source.line_starts[number - 1] : span.start]
        continued = _CONTINUED.search(before)
        if continued:
            return f"a line goes on where the next one starts with its operator: put `{continued.group(1)}` there"
        if re.match(r"\s*\{", source.text[span.end :]):
            return "the `{` stands on the line that it belongs to"
    return None


_SPECIAL = re.compile(r"\\(.)|\{([^{}]*)\}")
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\", "{": "{", "}": "}"}
_DIGITS = 100
"""Longer integers are mistakes; beyond 4300 digits Python refuses to read them."""

Meta = Any
Items = list[Any]


@v_args(meta=True)
class _Builder(Transformer_NonRecursive[Token, Any]):
    """Lark's tree → ours."""

    def __init__(self, source: Source, base: int, problems: list[Diagnostic]) -> None:
        super().__init__(visit_tokens=False)
        self._problems = problems
        self._source = source
        self._base = base

    # -- helpers

    def _refuse(self, message: str, span: Span, fix: str | None = None) -> None:
        if len(self._problems) < _MOST:
            self._problems.append(Diagnostic("syntax", message, (Label(span),), fix=fix))

    def _span(self, meta: Meta) -> Span:
        if meta.empty:
            return Span(self._source, self._base, self._base)
        return Span(self._source, self._base + meta.start_pos, self._base + meta.end_pos)

    def _at(self, token: Token) -> Span:
        start = self._base + cast(int, token.start_pos)
        return Span(self._source, start, start + len(token))

    def _name(self, token: Token) -> t.Identifier:
        return t.Identifier(self._at(token), str(token))

    def _text(self, token: Token) -> t.Text:
        """Split a string at its interpolations and parse each of them in place."""
        span = self._at(token)
        raw = str(token)[1:-1]
        parts: list[str | t.Expr] = []
        plain = ""
        last = 0
        for match in _SPECIAL.finditer(raw):
            plain += raw[last : match.start()]
            last = match.end()
            escaped, inner = match.groups()
            if escaped is None:
                parts += [plain, self._inner(inner, span.start + 1 + match.start(2))]
                plain = ""
            elif escaped in _ESCAPES:
                plain += _ESCAPES[escaped]
            else:
                at = span.start + 1 + match.start()
                place = Span(self._source, at, at + 2)
                self._refuse(f"unknown escape `\\{escaped}` in a string", place, "write `\\\\` for a backslash")
        parts.append(plain + raw[last:])
        return t.Text(span, tuple(p for p in parts if p != ""), raw)

    def _inner(self, text: str, offset: int) -> t.Expr:
        try:
            return cast(t.Expr, _build(self._source, "expr", text, offset))
        except UnexpectedInput as error:
            if len(self._problems) < _MOST:
                self._problems.append(_problem(self._source, error, offset, offset + len(text), "expression"))
        except NetcError as error:
            self._problems.extend(error.diagnostics)
        return t.Constant(Span(self._source, offset, offset + len(text)), None)

    def _whole(self, text: str, span: Span) -> int:
        digits = text.replace("_", "")
        if not digits.isdigit() or len(digits) > _DIGITS:
            what = f"an integer of more than {_DIGITS} digits" if digits.isdigit() else f"`{text}` is no whole number"
            self._refuse(what, span)
            return 0
        return int(digits)

    # -- declarations

    def file(self, meta: Meta, items: Items) -> t.File:
        return t.File(Span(self._source, 0, len(self._source.text)), tuple(_present(items)))

    def import_(self, meta: Meta, items: Items) -> t.Import:
        return t.Import(self._span(meta), self._text(items[0]), tuple(_present(items[1:])))

    def import_name(self, meta: Meta, items: Items) -> tuple[t.Identifier, t.Identifier]:
        there, here = items
        return self._name(there), self._name(here if here is not None else there)

    def module(self, meta: Meta, items: Items) -> t.Module:
        name, first, second, outputs, body = items
        parameters, inputs = ((), first) if second is None else (first, second)
        return t.Module(self._span(meta), self._name(name), parameters, inputs, outputs or (), body)

    def fields(self, meta: Meta, items: Items) -> tuple[t.Field, ...]:
        return tuple(_present(items))

    def field(self, meta: Meta, items: Items) -> t.Field:
        name, type_, default = items
        return t.Field(self._span(meta), self._name(name), type_[0] if type_ else None, default)

    def model(self, meta: Meta, items: Items) -> t.Model:
        return t.Model(self._span(meta), self._name(items[0]), items[1])

    def family(self, meta: Meta, items: Items) -> t.Family:
        return t.Family(self._span(meta), self._name(items[0]), items[1])

    def data(self, meta: Meta, items: Items) -> t.Data:
        return t.Data(self._span(meta), self._name(items[0]), items[1])

    def top_let(self, meta: Meta, items: Items) -> t.TopLet:
        return t.TopLet(self._span(meta), self._name(items[0]), items[1])

    def func(self, meta: Meta, items: Items) -> t.Func:
        name, parameters, body = items
        return t.Func(self._span(meta), self._name(name), parameters, body)

    def extern(self, meta: Meta, items: Items) -> t.Extern:
        name, first, second, outputs, *implementations = items
        parameters, inputs = ((), first) if second is None else (first, second)
        return t.Extern(
            self._span(meta), self._name(name), parameters, inputs, outputs, tuple(_present(implementations))
        )

    def implementation(self, meta: Meta, items: Items) -> tuple[t.Identifier, t.Text]:
        return self._name(items[0]), self._text(items[1])

    def rename(self, meta: Meta, items: Items) -> t.Rename:
        return t.Rename(self._span(meta), self._name(items[0]), tuple(_present(items[1:])))

    def rename_move(self, meta: Meta, items: Items) -> t.RenameMove:
        return t.RenameMove(self._span(meta), items[0], items[1], tuple(items[2:]))

    def rename_place(self, meta: Meta, items: Items) -> t.RenamePlace:
        pattern, part, of = items
        return t.RenamePlace(self._span(meta), self._raw(pattern), None if part is None else (part, of))

    def _raw(self, token: Token) -> t.Text:
        """A string whose braces belong to another little language (rename patterns)."""
        return t.Text(self._at(token), (str(token)[1:-1],), str(token)[1:-1])

    def part(self, meta: Meta, items: Items) -> int | str:
        token = items[0]
        return str(token) if token.type == "NAME" else self._whole(str(token), self._at(token))

    def rename_step(self, meta: Meta, items: Items) -> t.Call:
        name, arguments = items
        return t.Call(self._span(meta), t.Name(self._at(name), str(name)), arguments)

    def rename_drop(self, meta: Meta, items: Items) -> t.RenameDrop:
        return t.RenameDrop(self._span(meta), self._raw(items[0]))

    def rewrite(self, meta: Meta, items: Items) -> t.Rewrite:
        name, contract, when, *clauses = items
        phase = None if when is None else self._name(when)
        return t.Rewrite(self._span(meta), self._name(name), contract, phase, tuple(_present(clauses)))

    def contract(self, meta: Meta, items: Items) -> t.ContractText:
        return t.ContractText(self._span(meta), self._name(items[0]), items[1])

    def match(self, meta: Meta, items: Items) -> t.Match:
        *names, pattern = items
        return t.Match(self._span(meta), tuple(map(self._name, names)), pattern)

    def where(self, meta: Meta, items: Items) -> t.Where:
        return t.Where(self._span(meta), tuple(items))

    def replace(self, meta: Meta, items: Items) -> t.Replace:
        names = tuple(self._name(i) for i in items if isinstance(i, Token))
        return t.Replace(self._span(meta), names, tuple(i for i in items if isinstance(i, t.Expr)))

    def pipeline(self, meta: Meta, items: Items) -> t.Pipeline:
        return t.Pipeline(self._span(meta), self._name(items[0]), items[1])

    def target(self, meta: Meta, items: Items) -> t.Target:
        return t.Target(self._span(meta), self._name(items[0]), items[1], items[2])

    def remote(self, meta: Meta, items: Items) -> t.Remote:
        return t.Remote(self._span(meta), items[0] or ())

    def plan(self, meta: Meta, items: Items) -> t.Plan:
        name, model, target, *clauses = items
        return t.Plan(self._span(meta), self._name(name), model, self._name(target), tuple(_present(clauses)))

    def batch(self, meta: Meta, items: Items) -> t.Batch:
        return t.Batch(self._span(meta), items[0])

    def bind(self, meta: Meta, items: Items) -> t.Bind:
        return t.Bind(self._span(meta), tuple(items))

    def apply(self, meta: Meta, items: Items) -> t.Apply:
        return t.Apply(self._span(meta), tuple(items))

    def layout(self, meta: Meta, items: Items) -> t.Layout:
        return t.Layout(self._span(meta), self._name(items[0]))

    def dtype(self, meta: Meta, items: Items) -> t.Dtype:
        return t.Dtype(self._span(meta), self._name(items[0]))

    def fuse_group(self, meta: Meta, items: Items) -> t.FuseGroup:
        return t.FuseGroup(self._span(meta), self._name(items[0]), items[1])

    def paths(self, meta: Meta, items: Items) -> tuple[t.Path, ...]:
        return tuple(_present(items))

    def fuse_pattern(self, meta: Meta, items: Items) -> t.FusePattern:
        return t.FusePattern(self._span(meta), items[0])

    def fuse_auto(self, meta: Meta, items: Items) -> t.FuseAuto:
        return t.FuseAuto(self._span(meta), items[0] or ())

    def tune(self, meta: Meta, items: Items) -> t.Tune:
        return t.Tune(self._span(meta), tuple(items))

    def limits(self, meta: Meta, items: Items) -> t.Limits:
        return t.Limits(self._span(meta), tuple(items))

    def number_alone(self, meta: Meta, items: Items) -> t.Number:
        return t.Number(self._at(items[0]), self._whole(str(items[0]), self._at(items[0])), None)

    def expect(self, meta: Meta, items: Items) -> t.Expect:
        name, arguments, *entries = items
        return t.Expect(self._span(meta), self._name(name), arguments or (), tuple(_present(entries)))

    def entry(self, meta: Meta, items: Items) -> tuple[t.Identifier, t.Expr]:
        return self._name(items[0]), items[1]

    # -- the normal form

    def graph(self, meta: Meta, items: Items) -> t.GraphText:
        return t.GraphText(self._span(meta), self._name(items[0]), tuple(_present(items[1:])))

    def graph_input(self, meta: Meta, items: Items) -> t.GraphInput:
        return t.GraphInput(self._span(meta), self._value_name(items[0]), items[1][0])

    def graph_parameter(self, meta: Meta, items: Items) -> t.GraphParameter:
        kind, name, type_, initial = items
        parameter = t.ParameterName(self._at(name), str(name)[1:])
        return t.GraphParameter(self._span(meta), kind, parameter, type_[0], initial)

    def param_kind(self, meta: Meta, items: Items) -> str:
        return "param"

    def frozen_kind(self, meta: Meta, items: Items) -> str:
        return "frozen"

    def buffer_kind(self, meta: Meta, items: Items) -> str:
        return "buffer"

    def graph_scope(self, meta: Meta, items: Items) -> t.GraphScope:
        path, module, instance = items
        name = None if instance is None else str(instance)
        return t.GraphScope(self._span(meta), "" if path is None else str(path), str(module), name)

    def graph_node(self, meta: Meta, items: Items) -> t.GraphNode:
        phase, value, types, expression = items
        name = self._value_name(value)
        return t.GraphNode(self._span(meta), None if phase is None else str(phase), name, types, expression)

    def _value_name(self, token: Token) -> t.ValueName:
        path, _, index = str(token)[1:].partition(":")
        return t.ValueName(self._at(token), path, self._whole(index or "0", self._at(token)))

    # -- statements

    def block(self, meta: Meta, items: Items) -> t.Block:
        return t.Block(self._span(meta), tuple(_present(items)))

    def assign(self, meta: Meta, items: Items) -> t.Assign:
        names = tuple(self._name(i) for i in items if isinstance(i, Token))
        return t.Assign(self._span(meta), names, tuple(i for i in items if isinstance(i, t.Expr)))

    def let(self, meta: Meta, items: Items) -> t.Let:
        return t.Let(self._span(meta), self._name(items[0]), items[1])

    def param(self, meta: Meta, items: Items) -> t.Param:
        kind, name, path, type_, initial = items
        return t.Param(self._span(meta), kind.type == "BUFFER", self._name(name), path, type_[0], initial)

    def for_(self, meta: Meta, items: Items) -> t.For:
        *names, over, body = items
        return t.For(self._span(meta), tuple(self._name(n) for n in names), over, body)

    def if_(self, meta: Meta, items: Items) -> t.If:
        return t.If(self._span(meta), *items)

    def return_(self, meta: Meta, items: Items) -> t.Return:
        return t.Return(self._span(meta), tuple(_present(items)))

    def output(self, meta: Meta, items: Items) -> t.Output:
        name, value = items
        return t.Output(self._span(meta), None if name is None else self._name(name), value)

    def tap(self, meta: Meta, items: Items) -> t.Tap:
        return t.Tap(self._span(meta), self._text(items[0]), items[1])

    def phase(self, meta: Meta, items: Items) -> t.PhasePart:
        return t.PhasePart(self._span(meta), str(items[0]), items[1])

    def freeze(self, meta: Meta, items: Items) -> t.Freeze:
        return t.Freeze(self._span(meta), items[0])

    def require(self, meta: Meta, items: Items) -> t.Require:
        return t.Require(self._span(meta), *items)

    # -- expressions

    def pipe(self, meta: Meta, items: Items) -> t.Pipe:
        return t.Pipe(self._span(meta), *items)

    def named(self, meta: Meta, items: Items) -> t.Named:
        return t.Named(self._span(meta), *items)

    def path(self, meta: Meta, items: Items) -> t.Path:
        token = items[0]
        if token.type == "STRING":
            return t.Path(self._at(token), self._text(token))
        return t.Path(self._at(token), t.Text(self._at(token), (str(token),), str(token)))

    def ternary(self, meta: Meta, items: Items) -> t.Conditional:
        then, condition, other = items
        return t.Conditional(self._span(meta), condition, then, other)

    def binary(self, meta: Meta, items: Items) -> t.Binary:
        left, op, right = items
        return t.Binary(self._span(meta), str(op), left, right)

    def not_in(self, meta: Meta, items: Items) -> t.Unary:
        span = self._span(meta)
        return t.Unary(span, "not", t.Binary(span, "in", items[0], items[-1]))

    def unary(self, meta: Meta, items: Items) -> t.Unary:
        return t.Unary(self._span(meta), str(items[0]), items[1])

    def range(self, meta: Meta, items: Items) -> t.Range:
        return t.Range(self._span(meta), *items)

    def call(self, meta: Meta, items: Items) -> t.Call:
        return t.Call(self._span(meta), *items)

    def applied(self, meta: Meta, items: Items) -> t.Applied:
        function, *inputs = items
        return t.Applied(self._span(meta), function, tuple(inputs))

    def typed(self, meta: Meta, items: Items) -> t.Typed:
        return t.Typed(self._span(meta), self._name(items[0]), items[1][0])

    def arguments(self, meta: Meta, items: Items) -> tuple[t.Argument, ...]:
        return tuple(i if isinstance(i, t.Argument) else t.Argument(i.span, None, i) for i in _present(items))

    def keyword(self, meta: Meta, items: Items) -> t.Argument:
        return t.Argument(self._span(meta), self._name(items[0]), items[1])

    def rest(self, meta: Meta, items: Items) -> t.Argument:
        span = self._span(meta)
        return t.Argument(span, None, t.Rest(span, self._name(items[1])))

    def optional(self, meta: Meta, items: Items) -> t.Quantified:
        return t.Quantified(self._span(meta), items[0], "?")

    def repeated(self, meta: Meta, items: Items) -> t.Quantified:
        return t.Quantified(self._span(meta), items[0], "+")

    def index(self, meta: Meta, items: Items) -> t.Index:
        value, *rest = items
        return t.Index(self._span(meta), value, tuple(rest))

    def attribute(self, meta: Meta, items: Items) -> t.Attribute:
        return t.Attribute(self._span(meta), items[0], self._name(items[1]))

    def slice(self, meta: Meta, items: Items) -> t.Slice:
        return t.Slice(self._span(meta), *items)

    def ellipsis(self, meta: Meta, items: Items) -> t.Ellipsis:
        return t.Ellipsis(self._span(meta))

    def name(self, meta: Meta, items: Items) -> t.Name:
        return t.Name(self._at(items[0]), str(items[0]))

    def number(self, meta: Meta, items: Items) -> t.Number:
        token, unit = items
        text = str(token).replace("_", "")
        span = self._span(meta)
        value = self._whole(text, span) if text.isdigit() else float(text)
        if value == inf:
            self._refuse("this number is too large for a float", span, "write `inf`")
        return t.Number(span, value, None if unit is None else str(unit))

    def string(self, meta: Meta, items: Items) -> t.Text:
        return self._text(items[0])

    def true(self, meta: Meta, items: Items) -> t.Constant:
        return t.Constant(self._span(meta), True)

    def false(self, meta: Meta, items: Items) -> t.Constant:
        return t.Constant(self._span(meta), False)

    def none(self, meta: Meta, items: Items) -> t.Constant:
        return t.Constant(self._span(meta), None)

    def value(self, meta: Meta, items: Items) -> t.ValueName:
        return self._value_name(items[0])

    def parameter(self, meta: Meta, items: Items) -> t.ParameterName:
        return t.ParameterName(self._at(items[0]), str(items[0])[1:])

    def parens(self, meta: Meta, items: Items) -> t.Expr:
        return items[0]

    def tuple(self, meta: Meta, items: Items) -> t.TupleOf:
        return t.TupleOf(self._span(meta), tuple(items))

    def list(self, meta: Meta, items: Items) -> t.ListOf:
        return t.ListOf(self._span(meta), tuple(_present(items)))

    def comprehension(self, meta: Meta, items: Items) -> t.Comprehension:
        body, *names, over, condition = items
        return t.Comprehension(self._span(meta), body, tuple(self._name(n) for n in names), over, condition)

    # -- types: always a tuple, so that one and several read alike

    def plain_type(self, meta: Meta, items: Items) -> tuple[t.Type, ...]:
        return (t.PlainType(self._span(meta), self._name(items[0])),)

    def tensor_type(self, meta: Meta, items: Items) -> tuple[t.Type, ...]:
        dtype, *dimensions = items
        name = None if dtype is None else self._name(dtype)
        return (t.ShapeType(self._span(meta), name, tuple(_present(dimensions))),)

    def type_list(self, meta: Meta, items: Items) -> tuple[t.Type, ...]:
        return tuple(one for group in items for one in group)


for _rule in ("import", "for", "if", "return"):  # Python keywords
    setattr(cast(Any, _Builder), _rule, vars(_Builder)[f"{_rule}_"])


def _present(items: Items) -> Items:
    return [i for i in items if i is not None]
