"""The statements of a forward method: expressions nested where that reads well, parts of one phase side by side."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from ...compiler.graph import Phase
from .template import Expression, Rank, bracket, fill, length, nesting, variable, variables

_DEPTH = 3
"""How deep calls are nested in an expression."""
_LENGTH = 84


@dataclass
class Statement:
    targets: list[int | None]
    text: str
    rank: Rank = Rank.ATOM
    phase: Phase = "both"
    hint: str = "out"
    heavy: bool = False
    """Whether the text calls one of our modules, which nest less deep."""
    carried: int | None = None
    roles: tuple[str, ...] = ()
    """Names of several targets, where they have parts to play."""
    pattern: str = ""
    """How several targets are written, where not one after the other."""
    head: str = ""
    """With `carried`, a loop: the line above its body. The body's target starts as the carried variable."""

    @property
    def reads(self) -> list[int]:
        found = variables(self.text)
        return found if self.carried is None else [self.carried, *(v for v in found if v not in self.targets)]


def nest(statements: list[Statement]) -> list[Statement]:
    """Write an expression that only the statement after it uses inside that statement, while that stays short."""
    uses: Counter[tuple[int, Phase]] = Counter((v, s.phase) for s in statements for v in s.reads)
    done: list[Statement] = []
    for statement in statements:
        while done:
            inner = done[-1]
            nested = _nested(inner, statement, uses)
            if nested is None:
                break
            done.pop()
            statement = nested
        done.append(statement)
    return done


def _nested(inner: Statement, outer: Statement, uses: Counter[tuple[int, Phase]]) -> Statement | None:
    if inner.head or outer.carried is not None or inner.phase != outer.phase or len(inner.targets) != 1:
        return None
    target = inner.targets[0]
    if target is None or target not in variables(outer.text):
        return None
    # What one phase sets alone may be set in the other too, but read there by others.
    elsewhere: tuple[Phase, ...] = ("train", "infer") if inner.phase == "both" else ("both",)
    if uses[target, inner.phase] != 1 or any(uses[target, p] for p in elsewhere):
        return None
    depth = nesting(outer.text.partition(f"\ue000v{target}:")[0])[0] + nesting(inner.text)[1]
    if depth + inner.heavy + outer.heavy > _DEPTH or length(inner.text) + length(outer.text) > _LENGTH:
        return None

    def give(kind: str, number: int, rank: Rank) -> str:
        return bracket(Expression(inner.text, inner.rank), rank) if number == target else variable(number, rank)

    return replace(outer, text=fill(outer.text, "v", give), heavy=inner.heavy or outer.heavy)


def group(statements: list[Statement]) -> list[Statement]:
    """Neighbours of the two phases as one part each: training first."""
    done: list[Statement] = []
    run: list[Statement] = []
    for statement in [*statements, Statement([], "")]:
        if statement.phase == "both":
            done.extend(s for s in run if s.phase == "train")
            done.extend(s for s in run if s.phase == "infer")
            run = []
            done.append(statement)
        else:
            run.append(statement)
    return done[:-1]
