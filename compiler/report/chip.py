"""What is on chip while a group is executed, as a drawing."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from itertools import pairwise

from ..fusion.occupancy import Occupancy
from ..quantity import sized
from .chart import Frame, Scale, ticks, words

_FRAME = Frame(338, 200, left=52, right=8, top=14, bottom=40)
_COLUMNS = 96
"""Steps beyond so many are drawn several in one, by the fullest."""
_BANDS = 5
"""So many values have a band of their own."""


def chip(found: Occupancy, buffer: int | None, place: int) -> str:
    """Bytes on chip over the steps of a group, stacked: weights, then values by their most bytes."""
    columns, fullest = _columns(found.totals)
    values = sorted(found.values.items(), key=lambda item: -max(item[1]))
    bands = [(str(value), [area[i] for i in fullest], f"b{n}") for n, (value, area) in enumerate(values[:_BANDS])]
    rest = values[_BANDS:]
    if rest:
        other = [sum(area[i] for _, area in rest) for i in fullest]
        bands.append((f"{len(rest)} other{'s' if len(rest) > 1 else ''}", other, "rest"))
    fixed = [("weights kept", found.kept, "kept"), ("weights streamed", found.staged, "staged")]
    bands = [(name, [number] * len(fullest), kind) for name, number, kind in fixed if number] + bands
    peak = max(found.totals, default=0)
    shown = buffer if buffer is not None and buffer <= 4 * max(peak, 1) else None
    up = ticks([0, max(peak, shown or 0, 1) / 1024], 4)
    x, y = _FRAME.across([0, max(found.steps, 1)]), _FRAME.up(up)
    across = [t for t in ticks([0, max(found.steps, 1)], 5) if t <= found.steps and t == round(t)]
    parts = [
        *_FRAME.grid_across(x, across, _steps(found), lambda t: f"{t:g}"),
        *_FRAME.grid_up(y, up, "KiB", lambda t: f"{t:g}"),
        *_stack(bands, columns, x, y),
    ]
    for phase in range(1, found.phases):
        at = x(phase * found.steps / found.phases)
        parts.append(f'<path class="phase" d="M{at} {_FRAME.top}V{_FRAME.height - _FRAME.bottom}"/>')
    if shown is not None:
        parts.append(f'<path class="limit" d="M{_FRAME.left} {y(shown / 1024)}H{_FRAME.width - _FRAME.right}"/>')
        below = y(shown / 1024) < _FRAME.top + 4
        at = y(shown / 1024) + (11 if below else -4)
        parts.append(words("limited", _FRAME.width - _FRAME.right - 3, at, "buffer", "end"))
    key = "".join(
        f'<li><i class="{kind}"></i><span>{html.escape(name)}</span><b>{sized(max(area, default=0))}</b></li>'
        for name, area, kind in reversed(bands)
    )
    label = f"Bytes on chip over the steps of group {place + 1}"
    svg = f'<svg class="onchip" viewBox="0 0 {_FRAME.width} {_FRAME.height}" role="img" aria-label="{label}">'
    return f'{svg}{"".join(parts)}</svg><ul class="bands">{key}</ul>'


def _steps(found: Occupancy) -> str:
    return "steps" if found.phases == 1 else f"steps, in {found.phases} phases"


def _columns(totals: Sequence[int]) -> tuple[list[int], list[int]]:
    """Where columns begin and the last ends, and the fullest step of each."""
    count = len(totals)
    starts = [i * count // min(count, _COLUMNS) for i in range(min(count, _COLUMNS) + 1)] if count else [0]
    return starts, [max(range(a, b), key=totals.__getitem__) for a, b in pairwise(starts)]


def _stack(bands: Sequence[tuple[str, Sequence[int], str]], starts: Sequence[int], x: Scale, y: Scale) -> Iterator[str]:
    below = [0] * (len(starts) - 1)
    for name, sizes, kind in bands:
        top = [low + number for low, number in zip(below, sizes, strict=True)]
        upper = "".join(f"V{y(t / 1024)}H{x(b)}" for t, b in zip(top, starts[1:], strict=True))
        lower = "".join(
            f"V{y(low / 1024)}H{x(a)}" for low, a in zip(reversed(below), reversed(starts[:-1]), strict=True)
        )
        title = html.escape(f"{name}: {sized(max(sizes, default=0))} at most")
        first = y((below[0] if below else 0) / 1024)
        yield f'<path class="band {kind}" d="M{x(starts[0])} {first}{upper}{lower}Z"><title>{title}</title></path>'
        below = top
