"""Laying out tokens on lines: what fits stays on one line, what does not is broken where its group allows.

A line break of the author's is kept where the layout itself would have put one; so a second pass changes nothing.
Comments travel with the tokens beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum


@dataclass(frozen=True, slots=True)
class Gap:
    """What stands between two tokens: the comment that ends the first one's line, those on lines of their own."""

    trailing: str = ""
    comments: tuple[tuple[bool, str], ...] = ()
    """(whether a blank line stands before it, text)."""
    newline: bool = False
    blank: bool = False
    """Whether a blank line stands directly before the second token."""

    @property
    def commented(self) -> bool:
        return bool(self.trailing or self.comments)


def gap(text: str, *, first: bool = False) -> Gap:
    """Read the text between two tokens, `first` where it starts the file."""
    lines = [line.strip() for line in text.split("\n")]
    trailing = "" if first else lines.pop(0)
    comments: list[tuple[bool, str]] = []
    blank = False
    for line in lines[:-1] if lines and not lines[-1].startswith("#") else lines:
        if line:
            comments.append((blank, line))
        blank = not line
    return Gap(trailing, tuple(comments), "\n" in text, blank)


class Break(Enum):
    """When a line of a broken group ends."""

    ALWAYS = "always"
    FILL = "fill"
    """Where the author broke it, or where what follows would not fit."""


class Mode(Enum):
    FLAT = "flat"
    """Everything on one line."""
    HUG = "hug"
    """The group's own lines joined; groups within decide for themselves."""
    BROKEN = "broken"


@dataclass(slots=True)
class Doc:
    """A piece of layout. `flat` is its width on one line; `head` the width up to its first certain line end, where
    `certain` says that there is one; `lead` the width up to the first possible line end, where `open` says so.
    """

    flat: int = 0
    head: int = 0
    certain: bool = False
    lead: int = 0
    open: bool = False


@dataclass(slots=True)
class Text(Doc):
    """Characters; those of token `token` bring their comments along, unless `bare`. `glued` text stands before a
    comment that ends the line."""

    text: str = ""
    token: int | None = None
    glued: bool = False
    bare: bool = False

    def __post_init__(self) -> None:
        self.flat = self.head = self.lead = len(self.text)


@dataclass(slots=True)
class Comments(Doc):
    """The comments before token `token`, alone."""

    token: int = 0


@dataclass(slots=True)
class Line(Doc):
    """A place where a line may end; `text` stands there otherwise. `blank`: a blank line of the author's is kept."""

    text: str = " "
    sticky: bool = False
    blank: bool = False
    how: Break = Break.ALWAYS

    def __post_init__(self) -> None:
        self.flat = self.head = len(self.text)
        self.open = True


@dataclass(slots=True)
class When(Doc):
    """One text where the group is broken, another where it is not."""

    broken: Doc = field(default_factory=Doc)
    joined: Doc = field(default_factory=Doc)

    def __post_init__(self) -> None:
        self.flat, self.head, self.lead = self.joined.flat, self.joined.head, self.joined.lead


@dataclass(slots=True)
class Concat(Doc):
    parts: Sequence[Doc] = ()

    def __post_init__(self) -> None:
        for part in self.parts:
            self.flat += part.flat
            if not self.certain:
                self.head += part.head
                self.certain = part.certain
            if not self.open:
                self.lead += part.lead
                self.open = part.open


@dataclass(slots=True)
class Nest(Doc):
    """Lines within stand further in, where the group is broken."""

    body: Doc = field(default_factory=Doc)

    def __post_init__(self) -> None:
        _measure_as(self, self.body)


@dataclass(slots=True)
class Group(Doc):
    """Lines of one fate: all joined or all broken. `sticky`: the author broke it."""

    body: Doc = field(default_factory=Doc)
    sticky: bool = False

    def __post_init__(self) -> None:
        _measure_as(self, self.body)
        if self.sticky:
            self.head, self.certain = self.body.lead, True


@dataclass(slots=True)
class Chain(Doc):
    """`operand |> stage |> stage`: a line may end before each stage; those lines align under the first `|>`."""

    operand: Doc = field(default_factory=Doc)
    stages: Sequence[tuple[bool, Doc]] = ()
    """(whether the author broke the line before it, the stage from its `|>` on)."""

    def __post_init__(self) -> None:
        self.flat = self.operand.flat + sum(1 + stage.flat for _, stage in self.stages)
        self.head, self.certain = self.operand.head, self.operand.certain
        for sticky, stage in self.stages:
            if self.certain or sticky:
                self.certain = True
                break
            self.head += 1 + stage.head
            self.certain = stage.certain
        self.lead, self.open = self.operand.lead, True


def _measure_as(doc: Doc, body: Doc) -> None:
    doc.flat, doc.head, doc.certain, doc.lead, doc.open = body.flat, body.head, body.certain, body.lead, body.open


INDENT = 4
_FURTHEST = 60
"""A chain whose first `|>` stands further right is continued at the left instead."""


class Printer:
    """Writes documents into lines of at most `width` characters, where that is possible."""

    def __init__(self, gaps: Sequence[Gap], width: int) -> None:
        self._gaps = gaps
        self._width = width
        self._lines: list[tuple[str, str]] = []
        self._parts: list[str] = []
        self._comment = ""
        self._column = 0
        self._indent = 0
        self._blank: bool | None = None

    def write(self, doc: Doc) -> list[tuple[str, str]]:
        """The lines of a document, each with the comment that ends it."""
        self._render(doc, 0, Mode.BROKEN, 0)
        self._finish()
        return self._lines

    def _finish(self) -> None:
        if self._parts or self._comment:
            self._lines.append(("".join(self._parts).rstrip(), self._comment))
        self._parts, self._comment = [], ""

    def _newline(self, indent: int, blank: bool | None = None) -> None:
        """End the line. `blank`: keep blank lines; None: only those after comments; False: none before the first."""
        self._finish()
        self._indent = self._column = indent
        self._blank = blank

    def _put(self, text: str) -> None:
        if text and not self._parts:
            text = " " * self._indent + text.lstrip(" ")
            self._column = 0
        if text:
            self._parts.append(text)
            self._column += len(text)

    def _comments(self, token: int, indent: int) -> None:
        """Write the comments before a token on lines of their own."""
        gap = self._gaps[token]
        if gap.comments and (self._parts or self._comment):
            self._newline(indent)
        keep = bool(self._blank)
        for blank, comment in gap.comments:
            if blank and keep:
                self._lines.append(("", ""))
            self._lines.append((" " * self._indent, comment))
            keep = self._blank is not None
        self._blank = keep

    def _text(self, doc: Text, indent: int) -> None:
        if self._comment and not doc.glued:
            self._newline(indent)
        token = doc.token
        if token is None:
            self._put(doc.text)
            return
        if not doc.bare:
            self._comments(token, indent)
            if self._blank and self._gaps[token].blank and not self._parts:
                self._lines.append(("", ""))
            self._blank = None
        self._put(doc.text)
        trailing = self._gaps[token + 1].trailing
        if trailing:
            self._comment = f"{self._comment}  {trailing}".lstrip()

    def _render(self, doc: Doc, indent: int, mode: Mode, tail: int) -> None:
        if isinstance(doc, Text):
            self._text(doc, indent)
        elif isinstance(doc, Concat):
            self._concat(doc.parts, indent, mode, tail)
        elif isinstance(doc, Group):
            self._render(doc.body, indent, self._mode(doc, mode, tail), tail)
        elif isinstance(doc, Nest):
            self._render(doc.body, indent + INDENT if mode is Mode.BROKEN else indent, mode, tail)
        elif isinstance(doc, Line):
            if mode is Mode.BROKEN or self._comment:
                self._newline(indent, doc.blank)
            else:
                self._put(doc.text)
        elif isinstance(doc, Chain):
            self._chain(doc, indent, mode, tail)
        elif isinstance(doc, When):
            self._render(doc.broken if mode is Mode.BROKEN else doc.joined, indent, mode, tail)
        elif isinstance(doc, Comments):
            self._comments(doc.token, indent)

    def _mode(self, group: Group, outer: Mode, tail: int) -> Mode:
        if outer is Mode.FLAT:
            return Mode.FLAT
        if group.sticky:
            return Mode.BROKEN
        if group.certain:
            return Mode.HUG if self._column + group.head <= self._width else Mode.BROKEN
        return Mode.FLAT if self._column + group.flat + tail <= self._width else Mode.BROKEN

    def _concat(self, parts: Sequence[Doc], indent: int, mode: Mode, tail: int) -> None:
        tails = [tail] * len(parts)
        for i in range(len(parts) - 2, -1, -1):
            following = parts[i + 1]
            if isinstance(following, Line) and mode is not Mode.BROKEN:
                tails[i] = following.flat + tails[i + 1]
            else:
                tails[i] = following.lead + (0 if following.open else tails[i + 1])
        for i, part in enumerate(parts):
            if isinstance(part, Line) and part.how is Break.FILL and mode is Mode.BROKEN and not self._comment:
                following = parts[i + 1]
                rest = following.head if following.certain else following.flat + tails[i + 1]
                if not part.sticky and self._column + part.flat + rest <= self._width:
                    self._put(part.text)
                    continue
            self._render(part, indent, mode, tails[i])

    def _chain(self, doc: Chain, indent: int, mode: Mode, tail: int) -> None:
        height = len(self._lines)
        first = doc.stages[0][1]
        self._render(doc.operand, indent, mode, 1 + first.lead)
        further = indent + INDENT
        for i, (sticky, stage) in enumerate(doc.stages):
            behind = tail if i == len(doc.stages) - 1 else 0
            rest = stage.head if stage.certain else stage.flat + behind
            fits = mode is Mode.FLAT or (not sticky and self._column + 1 + rest <= self._width)
            if fits and not self._comment:
                if i == 0 and self._column < _FURTHEST and len(self._lines) == height:
                    further = self._column + 1
                self._put(" ")
            else:
                self._newline(further)
            self._render(stage, further, mode if mode is Mode.FLAT else Mode.HUG, behind)


def align_comments(lines: Iterable[tuple[str, str]], width: int) -> list[str]:
    """Lines with their comments; those on neighbouring lines of one block stand under one another where that fits."""
    out: list[str] = []
    run: list[tuple[str, str]] = []
    for code, comment in [*lines, ("", "")]:
        if run and (not comment or not code.strip() or run[-1][0].endswith(("{", "[", "("))):
            column = max(len(code) for code, _ in run)
            together = all(column + 2 + len(comment) <= width for _, comment in run)
            out += [f"{code.ljust(column) if together else code}  {comment}" for code, comment in run]
            run = []
        if comment and code.strip():
            run.append((code, comment))
        else:
            out.append(code + comment)
    return out[:-1]
