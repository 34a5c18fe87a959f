"""Local moves: what makes a partition better a little at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from math import inf

from ..partition import Mask, Task, bits
from .intervals import cut


def improve(task: Task, parts: Collection[Mask], units: Sequence[Mask], effort: float = inf) -> list[Mask]:
    """Merge neighbours, shift nodes between them, and cut the order that comes of it anew, as long as that saves bytes
    and the task's effort is below a limit.

    `units` are what cuts do not part; see `atoms`.
    """
    found = list(parts)
    while task.effort < effort:
        before = task.total(found)
        found = settle(task, found, effort)
        if task.effort < effort:
            found = min(cut(task, _along(task, found, units), effort=effort), found, key=task.total)
        if task.total(found) >= before:
            break
    return found


def settle(task: Task, found: list[Mask], effort: float) -> list[Mask]:
    """Moves between two groups until none saves bytes."""
    waiting = _neighbours(task, found)
    while waiting and task.effort < effort:
        first, second = waiting.pop(0)
        if first not in found or second not in found:
            continue
        made = _better(task, found, first, second)
        if made is not None:
            found = [*(mask for mask in found if mask not in (first, second)), *made]
            waiting.extend(pair for pair in _neighbours(task, found) if pair not in waiting and set(pair) & set(made))
    return found


def _along(task: Task, parts: Collection[Mask], units: Sequence[Mask]) -> list[Mask]:
    """An order in which each part is an interval."""
    order: list[Mask] = []
    for part in task.ordered(parts) or ():
        whole = all(unit & part in (0, unit) for unit in units)
        pieces = [unit for unit in units if unit & part] if whole else [1 << i for i in bits(part)]
        order.extend(sorted(pieces, key=lambda m: m.bit_length()))
    return order


def _neighbours(task: Task, parts: Collection[Mask]) -> list[tuple[Mask, Mask]]:
    """Pairs of which the second reads what the first makes."""
    home = {i: mask for mask in parts for i in bits(mask)}
    pairs = ((home[j], mask) for mask in parts for i in bits(mask) for j in bits(task.sources[i]) if j in home)
    return list(dict.fromkeys(pair for pair in pairs if pair[0] != pair[1]))


def _better(task: Task, parts: Collection[Mask], first: Mask, second: Mask) -> tuple[Mask, ...] | None:
    """The best of the moves between two parts; None where none saves bytes."""
    rest = [mask for mask in parts if mask not in (first, second)]
    now = task.dram(first) + task.dram(second)
    best = None
    for made in _moves(task, first, second):
        cost = task.total(made, now)
        if cost < now and task.acyclic([*rest, *made]):
            best, now = made, cost
    return best


def _moves(task: Task, first: Mask, second: Mask) -> Iterator[tuple[Mask, ...]]:
    """What two parts may become: one; or nodes that the second reads go over to it, with those that follow them; or
    nodes that read the first, with those that they follow."""
    yield (first | second,)
    for i in bits(first):
        some = (task.below[i] & first) | 1 << i
        if task.readers[i] & second and some != first:
            yield second | some, first & ~some
    for i in bits(second):
        some = (task.above[i] & second) | 1 << i
        if task.sources[i] & first and some != second:
            yield first | some, second & ~some
