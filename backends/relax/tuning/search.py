"""Which answer to try next."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import inf
from random import Random

from ..choice import Option, Question
from .record import written

SMALL = 24
"""Answers up to which all are tried, in the order of the analytic model."""
PARENTS = 4
"""Of the best answers, whose parts are mixed."""
ATTEMPTS = 64
"""To draw an answer that was not tried; a space where that many fail is as good as exhausted."""


def proposals(question: Question, tried: Mapping[str, float]) -> Iterator[dict[str, Option]]:
    """Answers that were not tried yet, the most promising first; `tried` has the time of each by `written`, as a part
    of the analytic default's, infinite where it failed, and is read anew for every proposal.

    All of a small space. Of a large one the neighbours of the best answer (one parameter another), nearest first, as
    long as there are some; then, with the same chance each, a mixture of two of the best, or a change of two
    parameters of one. The draws depend on the question and on how much was tried alone, so that a search which was
    stopped goes on as it would have.
    """
    given: set[str] = set()

    def new(answer: Mapping[str, Option]) -> bool:
        return written(answer) not in tried and written(answer) not in given

    while True:
        answer = next(filter(new, _candidates(question, tried)), None)
        if answer is None:
            return
        given.add(written(answer))
        yield answer


def _candidates(question: Question, tried: Mapping[str, float]) -> Iterator[dict[str, Option]]:
    if question.points <= SMALL:
        yield from _all(question)
        return
    ranked = sorted((seconds, answer) for answer, seconds in tried.items() if seconds < inf)
    best = [found for _, answer in ranked if (found := _read(question, answer)) is not None][:PARENTS]
    best = best or [question.default]
    yield from _neighbours(question, best[0])
    draw = Random(f"{question.key} {len(tried)}")
    for _ in range(ATTEMPTS):
        yield _mixed(best, draw) if draw.random() < 0.5 else _changed(question, draw.choice(best), draw)


def _all(question: Question) -> Iterator[dict[str, Option]]:
    names = [name for name, _ in question.space]
    for values in product(*(candidates for _, candidates in question.space)):
        yield dict(zip(names, values, strict=True))


def _read(question: Question, answer: str) -> dict[str, Option] | None:
    """An answer of the space from its text: the space may have been another one when it was tried."""
    found: dict[str, Option] = json.loads(answer)
    return found if question.valid(found) else None


def _neighbours(question: Question, best: Mapping[str, Option]) -> Iterator[dict[str, Option]]:
    steps = sorted(
        (abs(at - candidates.index(best[name])), place, at, name)
        for place, (name, candidates) in enumerate(question.space)
        for at in range(len(candidates))
    )
    space = dict(question.space)
    yield dict(best)
    for _, _, at, name in steps:
        yield {**best, name: space[name][at]}


def _mixed(best: Sequence[Mapping[str, Option]], draw: Random) -> dict[str, Option]:
    one, other = draw.choice(best), draw.choice(best)
    return {name: draw.choice((one, other))[name] for name in one}


def _changed(question: Question, start: Mapping[str, Option], draw: Random) -> dict[str, Option]:
    names = draw.sample([name for name, _ in question.space], min(2, len(question.space)))
    return {name: draw.choice(c) if name in names else start[name] for name, c in question.space}
