"""What elaboration shares: what was found wrong, how much was done, the graph that grows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ..budget import Budget
from ..diagnostic import Diagnostic, Diagnostics, Label
from ..graph import Edit, Graph
from ..scope import FileScope, Frame
from ..source import Span


class Fault(Exception):
    """A reported problem (or, with no diagnostic, its consequence): ends the statement it happens in."""

    def __init__(self, diagnostic: Diagnostic | None = None) -> None:
        super().__init__(diagnostic.message if diagnostic else "")
        self.diagnostic = diagnostic


class Exhausted(Fault):
    """A budget has run out: ends the whole elaboration."""


@dataclass(frozen=True, slots=True)
class Returned:
    values: list[tuple[str | None, Any]]


class Context:
    """What elaboration shares: what was found wrong, how much was done, the graph that grows."""

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
        chain = [f for f in callers(frame) if f.span is not None and f.path]
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

    def _work(self, span: Span, *values: Any) -> None:
        """Going through a list or string counts as steps too, at what an item takes beside an iteration."""
        self._step(span, sum(len(v) // 32 for v in values if isinstance(v, (list, range, str))))  # pyright: ignore[reportUnknownArgumentType]


def callers(frame: Frame | None) -> Iterator[Frame]:
    while frame is not None:
        yield frame
        frame = frame.caller
