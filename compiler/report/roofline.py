"""The roofline of a plan: how fast each group can be, by the operations that it does for each byte of DRAM traffic."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import atan2, degrees, hypot, sqrt
from typing import NamedTuple

from ..fusion.summary import Share, Summary
from ..quantity import sized
from .chart import Frame, Scale, powers, si, words

_FRAME = Frame(480, 400, left=74, right=16, top=16, bottom=50)


BOX = f"0 0 {_FRAME.width} {_FRAME.height}"
NAME = "Roofline: operations per second over operations per byte"
UNIT = "operations per second"


class Spot(NamedTuple):
    """A group where it stands: operations per byte, and operations per second, or operations where nothing is known
    of bandwidth."""

    group: int
    x: float
    y: float
    weight: float
    """Its part of all time, or of all bytes."""
    title: str


def roofline(summary: Summary, labels: Sequence[str], colours: Sequence[int]) -> tuple[str, str]:
    """The drawing, and what has to be said beside it."""
    after, before = list(_points(summary, labels)), list(_points(summary, labels, alone=True))
    caption = "".join(f"<span>{html.escape(line)}</span>" for line in _said(summary, after, before))
    if not after:
        return "", caption
    machine = summary.machine
    roof = 2 * machine.macs if machine.dram is not None and machine.macs else None
    units = "operations per byte of DRAM traffic", "operations of a group" if machine.dram is None else UNIT
    drawn = plot(after, before, labels, colours, units, Roof(machine.dram, roof))
    name = "Operations over operations per byte" if machine.dram is None else NAME
    return f'<svg id="roofline" viewBox="{BOX}" role="img" aria-label="{name}">{drawn}</svg>', caption


class Roof(NamedTuple):
    """Bytes and operations a second; None where not known."""

    bandwidth: float | None
    operations: float | None
    what: str = "DRAM"
    """What the bandwidth is of."""


def plot(
    after: Sequence[Spot],
    before: Sequence[Spot],
    labels: Sequence[str],
    colours: Sequence[int],
    units: tuple[str, str],
    roof: Roof,
) -> str:
    """What is inside of the drawing: a grid, roofs, and a spot for each group; hollow ones where it was before."""
    bandwidth, top, _ = roof
    ridge = top / bandwidth if top and bandwidth else None
    xs = [p.x for p in (*after, *before)] + ([ridge * 1.6] if ridge else [])
    ys = [p.y for p in (*after, *before)] + ([top * 1.6] if top else [])
    across, up = powers([min(xs) / 1.1, max(xs) * 1.1]), powers([min(ys) / 1.3, max(ys) * 1.3])
    x, y = _FRAME.across(across, log=True), _FRAME.up(up, log=True)
    parts = [*_FRAME.grid_across(x, across, units[0], si), *_FRAME.grid_up(y, up, units[1], si)]
    if bandwidth is not None:
        parts.extend(_roofs(x, y, bandwidth, top, [*after, *before], roof.what))
    parts.extend(_marks(after, before, labels, colours, x, y))
    return "".join(parts)


def _points(summary: Summary, labels: Sequence[str], *, alone: bool = False) -> Iterator[Spot]:
    """Groups of multiply-accumulates; `alone`: the same nodes layer by layer, where that is another thing."""
    machine, whole = summary.machine, summary.after or 1
    spent = [_spent(summary, share, alone=False) for share in summary.shares]
    total = sum(s[1] or 0.0 for s in spent if s is not None)
    for i, share in enumerate(summary.shares):
        found = _spent(summary, share, alone=alone)
        if found is None or not share.macs or not found[0] or (alone and len(share.group.nodes) == 1):
            continue
        moved, seconds = found
        speed = 2 * share.macs / seconds if seconds else None
        weight = seconds / total if seconds and total else moved / whole
        facts = [f"{2 * share.macs / moved:.3g} operations per byte", f"DRAM {sized(moved)}"]
        if speed is not None and seconds is not None:
            facts.append(f"{si(speed)} operations per second at most, {_time(seconds)}")
        what = "layer by layer" if alone else f"one group of {len(share.group.nodes)}"
        title = f"{labels[i]} {share.group.name if share.group.name not in labels[i] else ''}".rstrip()
        y = speed if machine.dram is not None and speed is not None else 2.0 * share.macs
        yield Spot(i, 2 * share.macs / moved, y, weight, "\n".join([f"{title}, {what}", *facts]))


def _spent(summary: Summary, share: Share, *, alone: bool) -> tuple[int, float | None] | None:
    """Bytes moved and least seconds of a group, or of its nodes one after the other; None where it does not fit."""
    costs = share.alone if alone else (share.cost,)
    fitting = [c.usage for c in costs if c is not None]
    if len(fitting) < len(costs):
        return None
    times = [summary.machine.seconds(u.macs, u.dram) for u in fitting]
    known = [t for t in times if t is not None]
    return sum(u.dram for u in fitting), sum(known) if len(known) == len(times) else None


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} µs"


def _roofs(x: Scale, y: Scale, dram: float, roof: float | None, points: Sequence[Spot], what: str) -> Iterator[str]:
    """The slope of the bandwidth, and the roof of the arithmetic where it is known."""
    left, top = max(x.low, y.low / dram), min(y.high, roof or y.high)
    right = min(x.high, top / dram)
    yield f'<path class="roof" d="M{x(left)} {y(left * dram)}L{x(right)} {y(right * dram)}"/>'
    if roof is not None and right < x.high:
        yield f'<path class="roof" d="M{x(right)} {y(roof)}H{x(x.high)}"/>'
    if roof is not None:
        yield f'<path class="ceiling" d="M{x(x.low)} {y(roof)}H{x(right)}"/>'
        yield words("roofed", x(x.low) + 6, y(roof) - 7, f"MACs {si(roof)} operations/s", "start")
    if right > left:
        text = f"{what} {si(dram, 'B/s')}"
        run, rise = x(right) - x(left), y(right * dram) - y(left * dram)
        half = min(0.5, 3.6 * len(text) / hypot(run, rise))
        part = min(max((x(_widest(left, right, [p.x for p in points])) - x(left)) / run, half), 1 - half)
        at, to = x(left) + part * run, y(left * dram) + part * rise
        turn = f' transform="rotate({degrees(atan2(rise, run)):.1f} {at:.1f} {to:.1f})"'
        yield words("roofed", round(at, 1), round(to - 8, 1), text, "middle", turn)


def _widest(low: float, high: float, points: Sequence[float]) -> float:
    """The middle of the widest part of a logarithmic axis that is free of points."""
    stops = [low, *sorted(p for p in points if low < p < high), high]
    a, b = max(pairwise(stops), key=lambda ends: ends[1] / ends[0])
    return sqrt(a * b)


def _marks(
    after: Sequence[Spot],
    before: Sequence[Spot],
    labels: Sequence[str],
    colours: Sequence[int],
    x: Scale,
    y: Scale,
) -> Iterator[str]:
    """Each group: a point whose area is its part of the whole, hollow layer by layer, and a line between the two."""
    now = {p.group: p for p in after}
    shown = sorted(after, key=lambda p: -p.weight)
    for p in before:
        if p.group in now:
            to = now[p.group]
            line = f"M{x(p.x)} {y(p.y)}L{x(to.x)} {y(to.y)}"
            yield f'<path class="gain c{colours[p.group]}" data-group="{p.group}" d="{line}"/>'
    for p in before:
        yield _circle("hollow", p, 3.6, colours, x, y)
    for p in shown:
        yield _circle("solid", p, _radius(p), colours, x, y)
    yield from _names(shown, before, labels, x, y)


def _radius(point: Spot) -> float:
    return round(3.2 + 16 * sqrt(point.weight), 1)


def _circle(kind: str, p: Spot, radius: float, colours: Sequence[int], x: Scale, y: Scale) -> str:
    place = f'cx="{x(p.x)}" cy="{y(p.y)}" r="{min(radius, 13):g}"'
    title = html.escape(p.title)
    return f'<circle class="{kind} c{colours[p.group]}" data-group="{p.group}" {place}><title>{title}</title></circle>'


def _names(shown: Sequence[Spot], before: Sequence[Spot], labels: Sequence[str], x: Scale, y: Scale) -> Iterator[str]:
    """Labels where there is room, the weightiest groups first."""
    taken = [_around(x(p.x), y(p.y), min(_radius(p), 13)) for p in shown]
    taken += [_around(x(p.x), y(p.y), 3.6) for p in before]
    for p in shown:
        wide, radius = 6.6 * len(labels[p.group]) + 3, min(_radius(p), 13)
        at, to = x(p.x), y(p.y)
        places = (
            (at + radius + 4, to + 4, "start"),
            (at - radius - 4, to + 4, "end"),
            (at, to - radius - 5, "middle"),
            (at, to + radius + 13, "middle"),
            (at + radius, to + radius + 9, "start"),
        )
        for left, base, anchor in places:
            start = left - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
            box = start, base - 10, start + wide, base + 2
            inside = box[0] > _FRAME.left and box[2] < _FRAME.width - _FRAME.right + 8
            if inside and box[1] > 4 and not any(_meet(box, other) for other in taken):
                taken.append(box)
                yield words("called", left, base, labels[p.group], anchor, f' data-group="{p.group}"')
                break


_Box = tuple[float, float, float, float]


def _around(x: float, y: float, radius: float) -> _Box:
    return x - radius, y - radius, x + radius, y + radius


def _meet(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _said(summary: Summary, after: Sequence[Spot], before: Sequence[Spot]) -> Iterator[str]:
    by = "time" if summary.machine.dram is not None else "traffic"
    if after:
        yield f"● a group, its area by its part of the {by}"
    if before:
        yield "○ its nodes layer by layer"
    idle = sum(not s.macs for s in summary.shares)
    if idle:
        yield f"not drawn: {idle} group{'s' if idle > 1 else ''} without multiply-accumulates"
    if summary.machine.dram is None:
        yield "no bandwidth is known of the target: upwards are operations, not their speed, and there are no roofs"
    elif summary.machine.macs is None:
        yield "nothing is known of the target's arithmetic: bandwidth is the only roof"
