"""`netc fmt`: one layout for every file. Tokens are kept as written and comments where they were.

Line breaks are the author's where they say something (stages of a chain, rows of a table that starts on its own line,
statements and blank lines between them); what does not fit 120 characters is broken, what fits and was broken by chance
is joined. A second pass changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

from lark import Token, Tree

from .diagnostic import Diagnostic, NetcError
from .layout import (
    Break,
    Chain,
    Comments,
    Concat,
    Doc,
    Gap,
    Group,
    Line,
    Nest,
    Printer,
    Text,
    When,
    align_comments,
    gap,
)
from .source import Source
from .syntax import grammar, parse

WIDTH = 120

Part = Tree[Token] | Token


def format_text(source: Source) -> str:
    """The text in its one layout.

    Raises:
        NetcError: where the text does not parse, or nests too deeply to be laid out.
    """
    parse(source)
    try:
        return _Formatter(source.text).text()
    except RecursionError:
        raise NetcError([Diagnostic("budget", f"{source.name} nests too deeply to be formatted")]) from None


_OPEN = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}
_CLOSE = frozenset(_OPEN.values())

# Operators of one precedence form one group.
_LEVEL = {
    "OR": 0, "BAR": 0, "AND": 1, "COMPARE": 2, "IN": 2, "JOIN": 3, "PLUS": 4, "MINUS": 4, "TIMES": 5, "AT": 5,
    "PERCENT": 5, "POWER": 6,
}  # fmt: skip

# Before these a line may end outside of brackets, too; see _NEWLINE in the grammar.
_CONTINUES = frozenset({"OR", "AND", "JOIN", "PLUS", "MINUS", "TIMES", "AT", "ELSE"})

_TIGHT_RULES = frozenset(
    {"attribute", "call", "index", "range", "slice", "rename_place", "optional", "repeated", "rest", "remote"}
)


_SINGLE = frozenset({"parens", "comprehension", "freeze", "rename_place", "contract"})
"""Rules whose brackets hold one thing, after which no comma may stand."""


class _Formatter:
    def __init__(self, text: str) -> None:
        tree = grammar(keep_all_tokens=True).parse(text, start="file")
        self._tokens = list(_leaves(tree))
        self._number = {id(token): i for i, token in enumerate(self._tokens)}
        self._gaps = _gaps(text, self._tokens)
        self._commented = self._find_commented()
        self._declarations = [_tree(d) for d in tree.children if isinstance(d, Tree)]
        self._brackets = 0
        self._tight = False

    # -- the file

    def text(self) -> str:
        lines: list[tuple[str, str]] = []
        previous = 0
        for declaration in self._declarations:
            first = self._first(declaration)
            gap = self._gaps[first]
            width = 10**9 if declaration.data == "graph" else WIDTH
            body = Printer(self._gaps, width).write(self._doc(declaration, bare=True))
            tall = len(body) > 1 or previous > 1
            if lines and (tall or (gap.comments[0][0] if gap.comments else gap.blank)):
                lines.append(("", ""))
            lines.extend(_own_lines(gap, gap.blank))
            lines.extend(body)
            previous = len(body)
        last = self._gaps[-1]
        if last.comments and lines and (previous > 1 or last.comments[0][0]):
            lines.append(("", ""))
        lines.extend(_own_lines(last, False))
        return "".join(f"{line}\n" for line in align_comments(lines, WIDTH))

    def _find_commented(self) -> set[int]:
        """The opening brackets that hold a comment, not counting those inside of brackets within."""
        found: set[int] = set()
        opened: list[int] = []
        for i, token in enumerate(self._tokens):
            if opened and self._gaps[i].commented:
                found.add(opened[-1])
            if token.type in _OPEN:
                opened.append(i)
            elif token.type in _CLOSE:
                opened.pop()
        return found

    # -- tokens

    def _first(self, part: Part) -> int:
        while isinstance(part, Tree):
            part = _children(part)[0]
        return self._number[id(part)]

    def _last(self, part: Part) -> int:
        while isinstance(part, Tree):
            part = _children(part)[-1]
        return self._number[id(part)]

    def _text(self, token: Token, *, bare: bool = False) -> Doc:
        return Text(text=str(token), token=self._number[id(token)], glued=token.type == "COMMA", bare=bare)

    def _broken_before(self, part: Part) -> bool:
        return self._gaps[self._first(part)].newline

    # -- documents

    def _doc(self, part: Part, *, bare: bool = False) -> Doc:
        if isinstance(part, Token):
            return self._text(part, bare=bare)
        children = _children(part)
        rule = getattr(self, f"_on_{part.data}", None)
        if rule is not None:
            return rule(children)
        opening = next((i for i, c in enumerate(children) if isinstance(c, Token) and c.type in _OPEN), None)
        if opening is not None:
            return self._with_bracket(str(part.data), children, opening, bare=bare)
        if part.data in _TIGHT_RULES:
            return self._tight_parts(children)
        return self._sentence(children, bare=bare)

    def _sentence(self, children: Sequence[Part], *, bare: bool = False) -> Concat:
        """Parts with spaces between, except before commas, colons and the first parenthesis of a declaration."""
        parts: list[Doc] = []
        for i, child in enumerate(children):
            own = _is(children[i - 1], "NAME") and isinstance(child, Tree) and child.data == "fields"
            if i and not (own or _is(child, "COMMA") or _is(child, "COLON")):
                parts.append(Text(text=" "))
            parts.append(self._doc(child, bare=bare and i == 0))
        return Concat(parts=parts)

    # -- brackets

    def _with_bracket(self, rule: str, children: list[Part], opening: int, *, bare: bool) -> Doc:
        head, rest = children[:opening], children[opening:]
        tight, self._tight = self._tight, self._tight or rule in ("tensor_type", "graph")
        if _is(rest[0], "LBRACE"):
            before = self._sentence(head, bare=bare)
            body = self._on_block(rest) if rule == "graph" else self._entries(rest, rows=rule != "import")
            self._tight = tight
            return Concat(parts=[before, Text(text=" "), body])
        parts = [self._doc(c, bare=bare and i == 0) for i, c in enumerate(head)]
        if rule == "applied":
            parts.append(Text(text=" "))
        parts.append(self._list(rest, comma=rule not in _SINGLE))
        self._tight = tight
        return Concat(parts=parts)

    def _list(self, children: list[Part], *, comma: bool) -> Doc:
        """`( … )` or `[ … ]`. Kept open where the author started a new line after the bracket."""
        opening, *items, closing = children
        number = self._first(opening)
        sticky = number in self._commented or (bool(items) and self._gaps[number + 1].newline)
        self._brackets += 1
        inner: list[Doc] = [Line(text="")]
        if comma:
            inner.extend(self._rows(items))
        else:
            inner.append(self._sentence(items))
        self._brackets -= 1
        if not items and not sticky:
            return Concat(parts=[self._doc(opening), self._doc(closing)])
        return Group(
            body=Concat(parts=[self._doc(opening), Nest(body=Concat(parts=inner)), *self._closing(closing)]),
            sticky=sticky,
        )

    def _rows(self, items: list[Part]) -> Iterator[Doc]:
        for i in range(0, len(items), 2):
            doc, rest = self._doc(items[i]), items[i + 1 : i + 3]
            if not rest:
                yield Concat(parts=[doc, When(broken=Text(text=",", glued=True))])
            elif len(rest) == 1:
                yield Concat(parts=[doc, When(broken=self._doc(rest[0]), joined=self._dropped(rest[0]))])
            else:
                yield Concat(parts=[doc, self._doc(rest[0])])
                yield Line(sticky=self._broken_before(rest[1]), blank=True, how=Break.FILL)

    def _dropped(self, token: Part) -> Doc:
        return Text(token=self._first(token), glued=True)

    def _closing(self, token: Part) -> list[Doc]:
        """A closing bracket on its own line; the comments before it belong to what it closes."""
        number = self._first(token)
        parts: list[Doc] = []
        if self._gaps[number].comments:
            parts.append(Nest(body=Concat(parts=[Line(text="", blank=True), Comments(token=number)])))
        space = " " if _is(token, "RBRACE") else ""
        return [*parts, Line(text=space), self._doc(token, bare=True)]

    def _entries(self, children: list[Part], *, rows: bool) -> Doc:
        """`{ a, b }`, or on lines of their own: without commas where every entry has its row."""
        opening, *items, closing = children
        if not items and self._first(opening) not in self._commented:
            return Concat(parts=[self._doc(opening), self._doc(closing)])
        inner: list[Doc] = [Line()]
        entries = [c for c in items if not _is(c, "COMMA")]
        for i, entry in enumerate(entries):
            doc = self._doc(entry)
            after = self._last(entry) + 1
            written = self._tokens[after].type == "COMMA"
            comma: Doc = self._text(self._tokens[after]) if written else Text(text=",", glued=True)
            nothing: Doc = self._dropped(self._tokens[after]) if written else Text()
            if i == len(entries) - 1:
                inner.append(Concat(parts=[doc, nothing if rows else When(broken=comma, joined=nothing)]))
                break
            inner.append(Concat(parts=[doc, When(broken=nothing, joined=comma) if rows else comma]))
            how = Break.ALWAYS if rows else Break.FILL
            inner.append(Line(sticky=self._broken_before(entries[i + 1]), blank=True, how=how))
        body = Concat(parts=[self._doc(opening), Nest(body=Concat(parts=inner)), *self._closing(closing)])
        return Group(body=body, sticky=self._has_newline(children))

    def _has_newline(self, children: Sequence[Part]) -> bool:
        return any(g.newline for g in self._gaps[self._first(children[0]) + 1 : self._last(children[-1]) + 1])

    def _on_block(self, children: list[Part]) -> Doc:
        return Group(body=self._braces(children), sticky=self._has_newline(children))

    def _braces(self, children: list[Part]) -> Doc:
        opening, *statements, closing = children
        if not statements and self._first(opening) not in self._commented:
            return Concat(parts=[self._doc(opening), self._doc(closing)])
        inner: list[Doc] = []
        brackets, self._brackets = self._brackets, 0
        for i, statement in enumerate(statements):
            inner += [Line(blank=i > 0), self._doc(statement)]
        self._brackets = brackets
        return Concat(parts=[self._doc(opening), Nest(body=Concat(parts=inner)), *self._closing(closing)])

    def _on_if(self, children: list[Part]) -> Doc:
        """All branches on one line, or each in a block of its own."""
        words: list[Part] = []
        while isinstance(children[-1], Tree) and children[-1].data == "if":
            words += children[:-1]
            children = _children(children[-1])
        words += children
        parts: list[Doc] = []
        sticky = False
        for word in words:
            if isinstance(word, Tree) and word.data == "block":
                sticky = sticky or self._has_newline(_children(word))
                parts.append(self._braces(_children(word)))
            else:
                parts.append(self._doc(word))
            parts.append(Text(text=" "))
        return Group(body=Concat(parts=parts[:-1]), sticky=sticky)

    # -- expressions

    def _line_before(self, token: Token) -> Doc:
        return Line() if self._brackets or token.type in _CONTINUES else Text(text=" ")

    def _on_binary(self, children: list[Part]) -> Doc:
        left, operator, right = children
        level = _LEVEL[_token(operator).type]
        tail = [(_token(operator), right)]
        while isinstance(left, Tree) and left.data == "binary" and _LEVEL[_token(left.children[1]).type] == level:
            left, operator, right = _children(left)
            tail.append((_token(operator), right))
        tight = level == _LEVEL["POWER"] or (self._tight and all(op.type == "TIMES" for op, _ in tail))
        parts: list[Doc] = []
        for op, operand in reversed(tail):
            parts += [Text() if tight else self._line_before(op), self._doc(op)]
            parts += [Text(text="" if tight else " "), self._doc(operand)]
        if tight:
            return Concat(parts=[self._doc(left), *parts])
        sticky = any(self._broken_before(op) for op, _ in tail)
        return Group(body=Concat(parts=[self._doc(left), Nest(body=Concat(parts=parts))]), sticky=sticky)

    def _on_unary(self, children: list[Part]) -> Doc:
        operator, operand = children
        if _is(operator, "NOT"):
            return self._sentence(children)
        return Concat(parts=[self._doc(operator), self._doc(operand)])

    def _on_ternary(self, children: list[Part]) -> Doc:
        parts: list[Doc] = []
        words: list[Token] = []
        last: Part = children[0]
        first = self._doc(last)
        while True:
            _, if_, condition, else_, last = children
            words += [_token(if_), _token(else_)]
            parts += [self._line_before(_token(if_)), self._doc(if_), Text(text=" "), self._doc(condition)]
            parts += [self._line_before(_token(else_)), self._doc(else_), Text(text=" ")]
            if not (isinstance(last, Tree) and last.data == "ternary"):
                break
            children = _children(last)
            parts.append(self._doc(children[0]))
        parts.append(self._doc(last))
        sticky = any(self._broken_before(w) for w in words)
        return Group(body=Concat(parts=[first, Nest(body=Concat(parts=parts))]), sticky=sticky)

    def _on_comprehension(self, children: list[Part]) -> Doc:
        opening, body, *rest, closing = children
        number = self._first(opening)
        self._brackets += 1
        inner: list[Doc] = [Line(text=""), self._doc(body)]
        for i, child in enumerate(rest):
            if _is(child, "FOR") or _is(child, "IF"):
                inner.append(Line())
            elif not _is(child, "COMMA") and i:
                inner.append(Text(text=" "))
            inner.append(self._doc(child))
        self._brackets -= 1
        sticky = number in self._commented or self._gaps[number + 1].newline
        parts = [self._doc(opening), Nest(body=Concat(parts=inner)), *self._closing(closing)]
        return Group(body=Concat(parts=parts), sticky=sticky)

    def _on_pipe(self, children: list[Part]) -> Doc:
        return self._chain(children)

    def _on_named(self, children: list[Part]) -> Doc:
        return self._chain(children)

    def _chain(self, children: list[Part]) -> Doc:
        """`x |> a as b |> c`: the left spine of pipes and names."""
        spine: list[tuple[Token, Part]] = []
        left: Part = children[0]
        while True:
            spine.append((_token(children[1]), children[2]))
            left = children[0]
            if not (isinstance(left, Tree) and left.data in ("pipe", "named")):
                break
            children = _children(left)
        parts: list[Doc] = [self._doc(left)]
        operand: Doc | None = None
        stages: list[tuple[bool, Doc]] = []
        for word, right in reversed(spine):
            if word.type == "AS":
                parts.append(Text(text=" "))
            elif operand is None:
                operand, parts = Concat(parts=parts), []
            else:
                stages[-1] = (stages[-1][0], Concat(parts=parts))
                parts = []
            if word.type != "AS":
                stages.append((self._broken_before(word), Doc()))
            parts += [self._doc(word), Text(text=" "), self._doc(right)]
        if operand is None:
            return Concat(parts=parts)
        stages[-1] = (stages[-1][0], Concat(parts=parts))
        return Chain(operand=operand, stages=stages)

    def _tight_parts(self, children: Sequence[Part]) -> Doc:
        """Parts without spaces, except where two tokens would be read as one: `%x :1`, `%x .y`."""
        parts: list[Doc] = []
        for child in children:
            point = _is(child, "COLON") or _is(child, "DOT")
            if parts and point and self._tokens[self._first(child) - 1].type in ("VALUE", "PARAMETER"):
                parts.append(Text(text=" "))
            parts.append(self._doc(child))
        return Concat(parts=parts)

    def _on_fuse_auto(self, children: list[Part]) -> Doc:
        words = self._sentence([c for c in children if isinstance(c, Token)])
        return Concat(parts=[words, *(self._doc(c) for c in children if isinstance(c, Tree))])

    def _on_rename_step(self, children: list[Part]) -> Doc:
        pipe, name, arguments = children
        return Concat(parts=[self._doc(pipe), Text(text=" "), self._doc(name), self._doc(arguments)])

    def _on_rename_move(self, children: list[Part]) -> Doc:
        steps = [c for c in children if isinstance(c, Tree) and c.data == "rename_step"]
        before = self._sentence([c for c in children if c not in steps])
        if not steps:
            return before
        return Chain(operand=before, stages=[(self._broken_before(s), self._doc(s)) for s in steps])


def _gaps(text: str, tokens: Sequence[Token]) -> list[Gap]:
    """What stands before each token, and after the last."""
    gaps: list[Gap] = []
    end = 0
    for token in tokens:
        start = cast(int, token.start_pos)
        gaps.append(gap(text[end:start], first=end == 0))
        end = start + len(token)
    gaps.append(gap(text[end:], first=end == 0))
    for i, token in enumerate(tokens):  # a comma stays with what stands before it
        if token.type == "COMMA" and gaps[i].comments:
            gaps[i + 1] = replace(gaps[i + 1], comments=gaps[i].comments + gaps[i + 1].comments, newline=True)
            gaps[i] = replace(gaps[i], comments=())
    return gaps


def _own_lines(gap: Gap, blank: bool) -> Iterator[tuple[str, str]]:
    """The comments above a declaration, and a blank line where one separates them from it."""
    for i, (space, comment) in enumerate(gap.comments):
        if space and i:
            yield "", ""
        yield "", comment
    if gap.comments and blank:
        yield "", ""


def _leaves(tree: Tree[Token]) -> Iterator[Token]:
    """The tokens of a tree in order, without recursion."""
    stack: list[Any] = [tree]
    while stack:
        part = stack.pop()
        if isinstance(part, Tree):
            stack.extend(reversed(cast(list[Any], part.children)))
        elif part is not None and part.type != "_NEWLINE":
            yield part


def _children(part: Tree[Token]) -> list[Part]:
    return [c for c in cast(list[Any], part.children) if c is not None and not _is(c, "_NEWLINE")]


def _is(part: Part, kind: str) -> bool:
    return isinstance(part, Token) and part.type == kind


def _token(part: Part) -> Token:
    assert isinstance(part, Token)
    return part


def _tree(part: Part) -> Tree[Token]:
    assert isinstance(part, Tree)
    return part
