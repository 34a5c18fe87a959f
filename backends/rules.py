"""How a backend says what it can translate: rules by operator class, plain renames as a table, declared gaps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from ..compiler.diagnostic import Diagnostic, Label, NetcError
from ..compiler.graph import Graph, Node
from ..compiler.operators.operator import Operator

R = TypeVar("R", bound=Callable[..., Any])


class Rules(Generic[R]):
    """The translation rules of one backend.

    An operator is *direct* where it has a rule, *expanded* where it is derived and has none, *unsupported* where the
    backend declares so with the reason the user will read. Anything else is a gap, which the conformance test reports.
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self._rules: dict[type[Operator], R] = {}
        self._unsupported: dict[type[Operator], str] = {}

    def __call__(self, *ops: type[Operator]) -> Callable[[R], R]:
        """Decorator: this function translates these operators."""

        def register(function: R) -> R:
            self.table(dict.fromkeys(ops, function))
            return function

        return register

    def table(self, rules: Mapping[type[Operator], R]) -> None:
        """Many rules at once, such as plain renames."""
        for op, rule in rules.items():
            if op in self._rules:
                raise ValueError(f"{self.backend} has two rules for {op.name}")
            self._rules[op] = rule

    def unsupported(self, op: type[Operator], reason: str) -> None:
        """Declare a gap; `reason` completes “… is not supported by this backend: ”."""
        self._unsupported[op] = reason

    def get(self, op: Operator | type[Operator]) -> R | None:
        return self._rules.get(op if isinstance(op, type) else type(op))

    def reason(self, op: type[Operator]) -> str | None:
        """Why an operator is unsupported, or None."""
        return self._unsupported.get(op)

    @property
    def direct(self) -> frozenset[type[Operator]]:
        """The operators to keep when a graph is expanded for this backend."""
        return frozenset(self._rules)

    def check(self, graph: Graph) -> None:
        """Refuse an (expanded) graph that holds nodes without a rule.

        Raises:
            NetcError: one diagnostic a kind of operator, with the spans of its first node.
        """
        missing: dict[type[Operator], Node] = {}
        for node in graph.nodes.values():
            if type(node.op) not in self._rules:
                missing.setdefault(type(node.op), node)
        if missing:
            raise NetcError(self._diagnose(op, node) for op, node in missing.items())

    def _diagnose(self, op: type[Operator], node: Node) -> Diagnostic:
        reason = self._unsupported.get(op, "it has neither a rule nor an expansion")
        return Diagnostic(
            "unsupported-operator",
            f"{op.name} at %{node.path} is not supported by the {self.backend} backend: {reason}",
            tuple(Label(span) for span in node.origin[:1]),
        )
