"""Models that share one set of parameters: each member is an ordinary graph over some of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from .cost import assumed, cost
from .graph import Graph, Parameter
from .weights import LoadReport


@dataclass(frozen=True)
class Family:
    """`count` members, numbered from 0. Parameters of the same path are the same in all of them.

    A member is built when asked for, by `build`, and `label` says in a few words what it is.
    """

    name: str
    count: int
    build: Callable[[int], Graph]
    label: Callable[[int], str]
    parameters: Mapping[str, Parameter]
    """The store: every parameter that any member has."""
    anchors: Mapping[str, int] = field(default_factory=dict[str, int])
    """Members that were whole models before, by their names."""
    notes: tuple[str, ...] = ()
    reports: tuple[LoadReport, ...] = ()
    """What loading weights did, into models that it is made of or into the store."""

    def __str__(self) -> str:
        return f"the family {self.name} of {self.count:,} models"

    def member(self, number: int) -> Graph:
        """Member `number` as an ordinary graph, with the parameters of the store under their paths there.

        Raises:
            IndexError: where there is no such member.
        """
        if not 0 <= number < self.count:
            raise IndexError(f"{self.name} has the members 0 to {self.count - 1}, not {number}")
        if number not in self._built:
            graph = self.build(number)
            self._built[number] = graph.with_parameters(self.parameters[path] for path in graph.parameters)
        return self._built[number]

    @cached_property
    def _built(self) -> dict[int, Graph]:
        return {}

    def with_parameters(self, parameters: Mapping[str, Parameter]) -> Family:
        """The family over other numbers: of the same paths and types."""
        return replace(self, parameters={**self.parameters, **parameters})


@dataclass(frozen=True, slots=True)
class MemberCost:
    """What one member costs; `anchor` where it was a model before."""

    number: int
    label: str
    macs: int
    parameters: int
    anchor: str | None = None


def costs(family: Family, most: int | None = None) -> list[MemberCost]:
    """The multiply-accumulates and parameters of every member, in their order, or of the first so many: of one example,
    as limits and receipts count them (`assumed`)."""
    anchors = {number: name for name, number in family.anchors.items()}
    found: list[MemberCost] = []
    for number in range(family.count if most is None else min(most, family.count)):
        graph = family.member(number)
        report = cost(graph, assumed(graph))
        macs, parameters = report.macs, report.parameters
        assert isinstance(macs, int), "every symbol has a number"
        assert isinstance(parameters, int), "every symbol has a number"
        found.append(MemberCost(number, family.label(number), macs, parameters, anchors.get(number)))
    return found
