"""Answers out of records: the record of the question itself, the nearest one, or the analytic default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..choice import Analytic, Choices, Option, Question
from . import database
from .nearest import adapted, distance, near
from .record import Processor, Record, processor

if TYPE_CHECKING:
    from ..machine import Machine

SHIPPED = Path(__file__).parent / "records"
"""Records that come with netc, a file for each family of processors."""

Origin = Literal["records", "near records", "shipped records", "near shipped records", "analytic"]


class Recorded:
    """Answers a processor's questions: out of `own` records, out of `shipped` ones, or as `otherwise` does.

    A record of the very question on the very processor comes first; otherwise the nearest (see `nearest`), own ones
    before shipped ones that are as near. The order of records does not matter.
    """

    def __init__(
        self,
        processor: Processor,
        own: Sequence[Record],
        shipped: Sequence[Record] = (),
        otherwise: Choices | None = None,
    ) -> None:
        self._processor = processor
        self._otherwise = otherwise or Analytic()
        self._kinds: dict[str, list[tuple[bool, Record]]] = {}
        for foreign, records in ((False, own), (True, shipped)):
            for record in records:
                self._kinds.setdefault(record.kind, []).append((foreign, record))
        self._answers: dict[Question, Mapping[str, Option]] = {}
        self.origins: dict[Question, Origin] = {}
        """Where each answer came from."""

    def answer(self, question: Question) -> Mapping[str, Option]:
        if question not in self._answers:
            self._answers[question], self.origins[question] = self._found(question)
        return self._answers[question]

    def _found(self, question: Question) -> tuple[Mapping[str, Option], Origin]:
        found = self.record(question)
        if found is None:
            return self._otherwise.answer(question), "analytic"
        foreign, record = found
        exact = record.question == question.key and record.processor == self._processor
        if exact and question.valid(record.answer):
            return record.answer, "shipped records" if foreign else "records"
        return adapted(question, record), "near shipped records" if foreign else "near records"

    def record(self, question: Question) -> tuple[bool, Record] | None:
        """The record that says most about a question, and whether it is a shipped one."""
        ranked = [
            ((away, foreign, record.line), foreign, record)
            for foreign, record in self._kinds.get(question.kind, ())
            if near(away := distance(question, self._processor, record))
        ]
        return min(ranked, key=lambda r: r[0])[1:] if ranked else None


@cache
def shipped() -> tuple[Record, ...]:
    """The records that come with netc."""
    return tuple(r for path in sorted(SHIPPED.glob("*.jsonl")) for r in database.read_lines(path))


def recorded(machine: Machine, path: Path | None) -> Recorded:
    """Answers for a machine: out of the records in a file, where it exists, and those that come with netc.

    Raises:
        NetcError: where the file holds something else.
    """
    return Recorded(processor(machine), database.load(path), shipped())
