"""Names of variables: a chain of steps keeps one, as a person would write it, and none is kept longer than needed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ...compiler.graph import Phase
from ...compiler.operators.operator import OPERATORS
from .statement import Statement
from .template import RESERVED, Rank, argument, fill, variable

_PLAIN_NAMES = frozenset({*OPERATORS, "act", "block", "bn", "conv", "down", "drop", "fc", "layer", "ln", "norm", "up"})
"""Names of layers that say no more than what is computed."""


@dataclass
class Body:
    lines: list[str]
    names: frozenset[str]


class Names:
    """Gives variables their names: a chain of steps keeps one, as a person would write it."""

    def __init__(
        self, statements: list[Statement], arguments: set[int], plain: set[int], base: str, taken: frozenset[str]
    ) -> None:
        self._statements = statements
        self._kept = arguments - plain
        self._base = base
        self._taken = taken | RESERVED
        self._last: dict[int, int] = {}
        self._uses: Counter[int] = Counter()
        for i, statement in enumerate(statements):
            for v in statement.reads:
                self._last[v] = i
                self._uses[v] += 1
        self._names: dict[int, str] = {}
        self._roles: set[int] = set()
        """Variables with a name that says what they are; only what arranges them anew carries it on."""
        self._holders: dict[str, int] = {}
        self._all: set[str] = set()

    def lines(self) -> Body:
        lines: list[str] = []
        before: Phase = "both"
        for i, statement in enumerate(self._statements):
            written = self._write(i, statement)
            if not written:
                continue
            indent = ""
            if statement.head == "return" and statement.phase != "both":
                if statement.phase == "train":
                    if before != "train":
                        lines.append("if self.training:")
                    indent = "    "
            elif statement.phase != "both":
                indent = "    "
                if statement.phase != before:
                    lines.append(self._phase_head(statement.phase, before))
            lines.extend(indent + line for line in written)
            before = statement.phase
        return Body(lines, frozenset(self._all))

    @staticmethod
    def _phase_head(phase: Phase, before: Phase) -> str:
        if phase == "train":
            return "if self.training:"
        return "else:" if before == "train" else "if not self.training:"

    def _write(self, i: int, statement: Statement) -> list[str]:
        if statement.head == "return":
            return [f"return {self._text(statement.text)}"]
        reads = {v: self._name(v) for v in dict.fromkeys(statement.reads)}
        last = [v for v in reads if self._last[v] == i and v not in statement.targets]
        for v in last:
            if statement.carried in (None, v):
                self._free(v)
        targets = [self._target(i, statement, t, n) for n, t in enumerate(statement.targets)]
        text = fill(statement.text, "v", lambda _, n, __: reads.get(n) or self._name(n))
        written = (statement.pattern or ", ".join("{}" for _ in targets)).format(*targets).replace("(_, _)", "_")
        line = f"{written} = {text}"
        if statement.carried is None:
            return [] if line == f"{text} = {text}" else [line]
        for v in last:  # a loop reads them in every turn
            self._free(v)
        before = reads[statement.carried]
        start = [] if before == targets[0] else [f"{targets[0]} = {before}"]
        return [*start, statement.head, f"    {line}"]

    def _text(self, text: str) -> str:
        return fill(text, "v", lambda _, n, __: self._name(n))

    def _name(self, v: int) -> str:
        """The name of a variable; those never assigned are arguments."""
        return self._names.get(v) or argument(v)

    def _free(self, v: int) -> None:
        name = self._names.get(v)
        if name is not None and self._holders.get(name) == v:
            del self._holders[name]

    def _target(self, i: int, statement: Statement, target: int | None, place: int) -> str:
        if target is None:
            return "_"
        if target not in self._names:
            name = self._reused(i, statement) if len(statement.targets) == 1 else None
            name = name or self._new(statement, target, place)
            self._names[target] = name
            self._holders[name] = target
        return self._names[target]

    def _reused(self, i: int, statement: Statement) -> str | None:
        """The name of an operand that is read here for the last time, where the new value carries it on."""
        plain = _is_plain(statement.hint)
        reads = list(dict.fromkeys(statement.reads)) if statement.carried is None else [statement.carried]
        arranged = statement.rank == Rank.ATOM and len(reads) == 1 and statement.carried is None
        for place, v in enumerate(reads):
            if v in self._roles and not arranged:
                continue
            if v in self._kept and not (arranged and statement.text.startswith(f"{variable(v, Rank.ATOM)}.")):
                continue
            if self._last[v] == i and (plain or (place == 0 and self._uses[v] == 1)):
                name = self._name(v)
                if name not in self._holders:
                    if v in self._roles:
                        self._roles.update(t for t in statement.targets if t is not None)
                    return name
        return None

    def _new(self, statement: Statement, target: int, place: int) -> str:
        base = statement.hint
        if _is_plain(base) or base in self._taken or not base.isidentifier():
            base = self._base if self._base not in self._holders else "out"
        name, number = base, 2
        if statement.roles:
            name = statement.roles[place]
        elif len(statement.targets) > 1:
            name, number = f"{base}{place + 1}", place + 2
        if base not in (self._base, "out") or statement.roles:
            self._roles.add(target)
        base = name
        while name in self._holders or name in self._taken:
            name, number = f"{base}{number}", number + 1
        self._all.add(name)
        return name


def _is_plain(hint: str) -> bool:
    """Whether a name says no more than what is computed."""
    base = hint.rstrip("0123456789").rstrip("_")
    return base != hint or base in _PLAIN_NAMES
