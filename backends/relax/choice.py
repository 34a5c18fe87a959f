"""What the writing of a kernel leaves open: it asks, and an analytic default answers, or what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

from ...compiler.types import Dim

Option = int | str
Fact = int | str | bool | tuple[int | str, ...]


@dataclass(frozen=True)
class Question:
    """Which numbers a kernel should have.

    `facts` are what its speed depends on besides the machine: sizes, strides, dtypes. `space` gives each parameter's
    candidates, of which the first is the analytic default. Parameters are independent: what may not be combined is one
    parameter, such as a tile of `"height width"`.
    """

    kind: str
    facts: tuple[tuple[str, Fact], ...]
    space: tuple[tuple[str, tuple[Option, ...]], ...]

    @property
    def key(self) -> str:
        """What is asked about, in one line: the same for the same kernel of any model."""
        return json.dumps([self.kind, dict(self.facts)], separators=(",", ":"))

    @property
    def default(self) -> dict[str, Option]:
        return {name: candidates[0] for name, candidates in self.space}

    @property
    def points(self) -> int:
        """How many answers there are."""
        return prod(len(candidates) for _, candidates in self.space)

    def valid(self, answer: Mapping[str, Option]) -> bool:
        """Whether each parameter has one of its candidates, and there is no other."""
        space = dict(self.space)
        return answer.keys() == space.keys() and all(answer[name] in space[name] for name in space)


class Choices(Protocol):
    """Who answers questions."""

    def answer(self, question: Question) -> Mapping[str, Option]:
        """A candidate for each parameter."""
        ...


class Analytic:
    """The default of each."""

    def answer(self, question: Question) -> Mapping[str, Option]:
        return question.default


@dataclass(frozen=True)
class Fixed:
    """One question answered as given, all others by `otherwise`."""

    question: Question
    given: Mapping[str, Option]
    otherwise: Choices

    def answer(self, question: Question) -> Mapping[str, Option]:
        return self.given if question == self.question else self.otherwise.answer(question)


@dataclass(frozen=True)
class Asked:
    """A question, the node on whose account it was asked, and its answer."""

    path: str
    question: Question
    answer: Mapping[str, Option]


def ask(kind: str, facts: Mapping[str, Fact], space: Mapping[str, Sequence[Option]]) -> Question:
    """A question; the candidates of a parameter are those that differ, in order."""
    return Question(
        kind, tuple(facts.items()), tuple((name, tuple(dict.fromkeys(found))) for name, found in space.items())
    )


def size(dim: Dim) -> int | str:
    """A dimension as a fact; a symbolic one by its formula."""
    return dim if isinstance(dim, int) else str(dim)
