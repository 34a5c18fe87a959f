"""What is on chip while a group is executed: bytes by value at every step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..graph import Value
from .memory import Grid, Lines, Members, Schedule, events, flow, unit
from .workload import Workload


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Bytes on chip at the fullest moment of each step, in the widest strip.

    `values` are a value's bytes by step, for every value that is ever there at such a moment; `kept` are weights that
    stay from the first step to the last, `staged` the staging buffer of those that are streamed.
    """

    phases: int
    """Steps are those of each phase, one after the other."""
    values: dict[Value, tuple[int, ...]]
    kept: int
    staged: int

    @property
    def steps(self) -> int:
        return len(next(iter(self.values.values()), ()))

    @property
    def totals(self) -> tuple[int, ...]:
        """All bytes at each step; the largest is `Usage.buffer`."""
        return tuple(sum(column) + self.kept + self.staged for column in zip(*self.values.values(), strict=True))


def occupancy(workload: Workload, nodes: Collection[str], schedule: Schedule) -> Occupancy:
    """What is on chip while a schedule runs; see `memory`."""
    import numpy as np

    members = Members(workload, nodes)
    phases = members.phases if schedule.halo == "cache" else 1
    along, across = Grid((schedule.steps,), phases), Grid((schedule.strips,))
    lines = flow(members, members.rows, along, schedule.halo)
    widths = {v: found.new for v, found in flow(members, members.columns, across, "recompute").items()}
    best: tuple[int, dict[Value, Any]] = -1, {}
    for strip in range(schedule.strips):
        units = {v: int(widths[v][strip]) * unit(members, v) for v in lines}
        moments = _fullest(members, lines, units, along)
        peak = int(np.max(sum(moments.values()), initial=0))
        if peak > best[0]:
            best = peak, moments
    weights = {w.name: w for of in members.weights.values() for w in of}
    kept = {name for name in schedule.resident & weights.keys() if not weights[name].looked_up}
    return Occupancy(
        phases,
        {v: tuple(map(int, area)) for v, area in best[1].items() if area.any()},
        sum(w.bytes for name, w in weights.items() if name in kept),
        max((w.portion for name, w in weights.items() if name not in kept), default=0),
    )


def _fullest(members: Members, lines: Mapping[Value, Lines], units: dict[Value, int], along: Grid) -> dict[Value, Any]:
    """Bytes of each value at every step, when the sum over all values is largest within the step."""
    import numpy as np

    now: dict[Value, Any] = {v: units[v] * found.carry for v, found in lines.items()}
    total: Any = sum(now.values(), np.zeros(len(along.place), np.int64))
    most: Any = total
    found: dict[Value, Any] = dict(now)

    def change(value: Value, by: Any) -> None:
        nonlocal total
        now[value], total = now[value] + by, total + by

    def look() -> None:
        nonlocal most, found
        fuller = total > most
        if fuller.any():
            most = np.maximum(most, total)
            found = {v: np.where(fuller, area, found[v]) for v, area in now.items()}

    for event in events(members):
        for value in event.loaded:
            change(value, units[value] * lines[value].new)
        look()
        for value in event.replaced:
            change(value, -units[value] * _freed(lines[value], along))
        for value in event.made:
            change(value, units[value] * lines[value].new)
        look()
        for value in event.freed:
            change(value, -units[value] * _freed(lines[value], along))
    return found


def _freed(found: Lines, along: Grid) -> Any:
    return found.carry + found.new - along.after(found.carry)
