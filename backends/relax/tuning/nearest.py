"""How far a record is from a question, and what it says about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import inf, log2
from typing import Any

from ..choice import Option, Question
from .record import Processor, Record

SMALL = 8
"""Numbers below it count something (taps, strides, padding, groups, examples): another one is another loop nest. From
it on they are sizes, of which twice as much is much the same."""

FAR = 1.0
"""Distance from which on a record says nothing: a size that differs by more than a factor of two."""

ALIKE = 1.5
"""Factor by which a number of a candidate may differ from the recorded one to stand for it."""

NUMBER = re.compile(r"\d+")


def distance(question: Question, processor: Processor, record: Record) -> tuple[float, float, float]:
    """Of processors, then the largest of a size, then the sum of all: in factors of two, infinite where there is
    nothing to compare. Processors come first: what is best on another one may be bad here, while neighbours of a shape
    behave much alike."""
    between = _between_processors(processor, record.processor)
    facts = dict(question.facts)
    if between == inf or record.kind != question.kind or record.facts.keys() != facts.keys():
        return inf, inf, inf
    steps = [step for name, fact in facts.items() for step in _steps(fact, record.facts[name])]
    return between, max(steps, default=0.0), sum(steps)


def near(found: tuple[float, float, float]) -> bool:
    """Whether a record at this distance says anything."""
    return max(found[:2]) <= FAR


def adapted(question: Question, record: Record) -> dict[str, Option]:
    """A record as an answer to a question, valid whatever the record is.

    Of each parameter: where the record has its own analytic default, the analytic default of the question, since what
    was found is that the default is right; else the candidate that was recorded, or the one that is most like it (a
    tile of 6 rows where no tile has 7); else, where none is like it, the default.
    """
    answer: dict[str, Option] = {}
    for name, candidates in question.space:
        wanted = record.answer.get(name)
        if wanted is None or wanted == record.default.get(name):
            answer[name] = candidates[0]
        else:
            answer[name] = _like(wanted, candidates)
    return answer


def _like(wanted: Option, candidates: Sequence[Option]) -> Option:
    for candidate in candidates:
        if candidate == wanted and type(candidate) is type(wanted):
            return candidate
    factors = {c: _factor(wanted, c) for c in candidates}
    best = min(candidates, key=lambda c: factors[c])
    return best if factors[best] <= ALIKE else candidates[0]


def _factor(a: Option, b: Option) -> float:
    """The largest factor between numbers of two candidates; infinite where other than numbers differ."""
    if type(a) is not type(b) or NUMBER.sub("#", str(a)) != NUMBER.sub("#", str(b)):
        return inf
    pairs = zip(map(int, NUMBER.findall(str(a))), map(int, NUMBER.findall(str(b))), strict=True)
    return max((_ratio(x, y) for x, y in pairs), default=inf)


def _ratio(x: int, y: int) -> float:
    if x == y:
        return 1.0
    return inf if min(x, y) == 0 else max(x, y) / min(x, y)


def _between_processors(a: Processor, b: Processor) -> float:
    """0 for the same; candidates are made for lanes and registers, so that others do not compare."""
    if a == b:
        return 0.0
    if (a.architecture, a.lanes, a.registers) != (b.architecture, b.lanes, b.registers):
        return inf
    mine, yours = set(a.features), set(b.features)
    other = len(mine ^ yours) / max(1, len(mine | yours))
    caches, threads = abs(log2(a.cache / b.cache)), abs(log2(a.threads / b.threads))
    return 0.1 * (a.cpu != b.cpu) + 0.5 * other + 0.25 * caches + 0.25 * threads


def _steps(a: Any, b: Any) -> Sequence[float]:
    """Factors of two between facts, one for each number."""
    if isinstance(a, Sequence) and not isinstance(a, str):
        if not isinstance(b, Sequence) or isinstance(b, str) or len(a) != len(b):
            return [inf]
        return [step for x, y in zip(a, b, strict=True) for step in _steps(x, y)]
    if type(a) is int and type(b) is int and a != b and min(a, b) >= SMALL:
        return [abs(log2(a / b))]
    return [0.0 if a == b and type(a) is type(b) else inf]
