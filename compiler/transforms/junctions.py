"""Where one model can go over into another: pairs of blocks at about the same relative depth, and ways through them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Rule = Literal["windows", "depth"]
Direction = Literal["forward", "backward", "both"]


class Junction(NamedTuple):
    """From model `source` after its block `leave` to model `target` before its block `enter`, all numbered from 0."""

    source: int
    leave: int
    target: int
    enter: int


@dataclass(frozen=True, slots=True)
class Route:
    """A way through models: it begins in `start`, and each junction leads on."""

    start: int
    junctions: tuple[Junction, ...] = ()

    @property
    def models(self) -> tuple[int, ...]:
        """The models in order."""
        return (self.start, *(j.target for j in self.junctions))


def windows(first: int, second: int, size: int, stride: int) -> list[tuple[int, int]]:
    """Pairs (leave, enter) for models of `first` and `second` blocks: every block with every one in the same window.

    The window slides over the deeper model, in whose numbering a block of the other one stands for those at its
    relative depth (Pan et al., 2023, §3.3: paired stitching, and for models of unequal depth unpaired).
    """
    depth = max(first, second)
    found: dict[tuple[int, int], None] = {}
    for start in range(0, depth, stride):
        inside = range(start, min(start + size, depth))
        ours, theirs = ([i * own // depth for i in inside] for own in (first, second))
        found.update(((a, b), None) for a in ours for b in theirs)
    return list(found)


def depths(first: int, second: int) -> list[tuple[int, int]]:
    """Pairs (leave, enter) at equal relative depth: where a share of the blocks of one model has run, that share of the
    other's is left out; one pair for every place between two blocks of the shallower (Pan et al., 2023b)."""
    least, most = min(first, second), max(first, second)
    found: list[tuple[int, int]] = []
    for here in range(1, least):
        there = (2 * here * most + least) // (2 * least)
        done, left = (here, there) if first == least else (there, here)
        found.append((done - 1, left))
    return found


def combinations(count: int, direction: Direction, nearest: bool) -> list[tuple[int, int]]:
    """The pairs of models, in order, that a junction may lead between."""
    found: list[tuple[int, int]] = []
    for a in range(count):
        for b in range(count):
            allowed = abs(a - b) == 1 if nearest else a != b
            if allowed and (direction == "both" or (a < b) == (direction == "forward")):
                found.append((a, b))
    return found


def routes(count: int, junctions: Iterable[Junction], crossings: int) -> list[Route]:
    """Every way with up to so many junctions, between two of which at least one block runs: whole models first, then by
    number of junctions, then by the models they pass."""
    leaving: dict[int, list[Junction]] = {}
    for junction in junctions:
        leaving.setdefault(junction.source, []).append(junction)
    found = latest = [Route(i) for i in range(count)]
    for _ in range(crossings):
        latest = sorted(_longer(latest, leaving), key=lambda route: route.models)
        found = found + latest
    return found


def _longer(known: Sequence[Route], leaving: Mapping[int, Sequence[Junction]]) -> Iterator[Route]:
    for route in known:
        at, entered = (route.junctions[-1].target, route.junctions[-1].enter) if route.junctions else (route.start, 0)
        for junction in leaving.get(at, ()):
            if junction.leave >= entered:
                yield Route(route.start, (*route.junctions, junction))
