"""What went wrong, as data: collected by every phase, rendered once, at the door."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from .source import Span

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Label:
    """A place that takes part in a message, and what to say beside it."""

    span: Span
    text: str = ""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One message.

    `code` is a few words with hyphens, stable across releases (`unknown-operator`); `message` one
    sentence; `labels` the places, the first of them primary; `notes` further facts, such as the
    accepted set; `fix` what to write instead, in `.net` where possible.
    """

    code: str
    message: str
    labels: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    fix: str | None = None
    severity: Severity = "error"

    @property
    def span(self) -> Span | None:
        return self.labels[0].span if self.labels else None

    def data(self) -> dict[str, Any]:
        """The message as JSON-ready values, for `--format json`."""
        return {
            "severity": self.severity,
            "code": self.code,
            "message": self.message,
            "labels": [_label_data(label) for label in self.labels],
            "notes": list(self.notes),
            "fix": self.fix,
        }


def _label_data(label: Label) -> dict[str, Any]:
    span = label.span
    line, column = span.source.position(span.start)
    end_line, end_column = span.source.position(span.end)
    return {
        "file": span.source.name,
        "line": line,
        "column": column,
        "end_line": end_line,
        "end_column": end_column,
        "start": span.start,
        "end": span.end,
        "text": label.text,
    }


class NetcError(Exception):
    """Raised at the end of a phase that found errors; carries all its diagnostics."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n\n".join(render(d) for d in self.diagnostics))


class Diagnostics:
    """The messages of one phase, in the order found."""

    def __init__(self) -> None:
        self._all: list[Diagnostic] = []

    def add(self, diagnostic: Diagnostic) -> None:
        if diagnostic not in self._all[-20:]:
            self._all.append(diagnostic)

    def extend(self, diagnostics: Iterable[Diagnostic]) -> None:
        for diagnostic in diagnostics:
            self.add(diagnostic)

    def __iter__(self) -> Iterator[Diagnostic]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def errors(self) -> list[Diagnostic]:
        return [d for d in self._all if d.severity == "error"]

    def stop_on_errors(self) -> None:
        """Raise `NetcError` with everything collected if any of it is an error."""
        if self.errors:
            raise NetcError(self._all)


def too_deep(span: Span) -> Diagnostic:
    """Instead of Python's RecursionError, for texts whose brackets, chains or definitions nest beyond its stack."""
    fix = "give the inner parts names of their own, or write a long chain as a loop"
    return Diagnostic("budget", "this nests too deeply to be followed", (Label(span),), fix=fix)


def nearest(name: str, accepted: Iterable[str]) -> str | None:
    """The accepted name most like a misspelt one, if any is close."""
    matches = get_close_matches(name, list(accepted), n=1, cutoff=0.7)
    return matches[0] if matches else None


def render(diagnostic: Diagnostic, *, colour: bool = False) -> str:
    """A message as text: the sentence, each place with its source line and carets, notes, the fix."""
    paint = _paint if colour else _plain
    out = [paint(f"{diagnostic.severity}[{diagnostic.code}]", diagnostic.severity) + f": {diagnostic.message}"]
    width = max((len(str(label.span.source.position(label.span.start)[0])) for label in diagnostic.labels), default=1)
    for i, label in enumerate(diagnostic.labels):
        out.extend(_render_label(label, width, primary=i == 0, paint=paint, severity=diagnostic.severity))
    out.extend(f"{' ' * width} = {note}" for note in diagnostic.notes)
    if diagnostic.fix:
        first, *rest = diagnostic.fix.splitlines()
        out.append(f"{' ' * width} = {paint('help', 'help')}: {first}")
        out.extend(f"{' ' * (width + 9)}{line}" for line in rest)
    return "\n".join(out)


def _render_label(label: Label, width: int, *, primary: bool, paint: Any, severity: str) -> list[str]:
    span = label.span
    line, column = span.source.position(span.start)
    text = span.source.line(line).replace("\t", " ")
    length = max(1, min(span.end, span.start + len(text) - column + 1) - span.start)
    mark = ("^" if primary else "-") * length
    gutter = " " * width
    return [
        f"{gutter}{'-->' if primary else ':::'} {span.source.name}:{line}:{column}",
        f"{gutter} |",
        f"{str(line).rjust(width)} | {text}",
        f"{gutter} | {' ' * (column - 1)}{paint(f'{mark} {label.text}'.rstrip(), severity if primary else 'note')}",
    ]


_COLOURS = {"error": "1;31", "warning": "1;33", "note": "1;34", "help": "1;32"}


def _paint(text: str, kind: str) -> str:
    return f"\033[{_COLOURS[kind]}m{text}\033[0m"


def _plain(text: str, kind: str) -> str:
    return text
