"""What `netc axes` prints: the classes of a model, as text and as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..graph import ParameterRef
from .analysis import Analysis, AxisClass, Place

_PLACES = 3


def table(analysis: Analysis, *, everything: bool = False) -> str:
    """A line for each class that may change, and the fixed ones by their reasons; each of those too if `everything`."""
    free = [c for c in analysis.classes if c.cuttable]
    fixed = [c for c in analysis.classes if not c.cuttable]
    rows = [("#", "size", "unit", "may be", "places", "where")]
    rows += [_row(c) for c in (analysis.classes if everything else free)]
    lines = [f"{analysis.graph.name}: {_count(len(free))} may change, {len(fixed)} are fixed"]
    if len(rows) > 1:
        lines += ["", *_aligned(rows)]
    if any(c.mixed for c in free):
        lines += ["", "* statistics are taken over it (a normalisation, a mean), and a cut changes them"]
    if fixed and not everything:
        lines += ["", "fixed:", *_fixed(fixed)]
    return "\n".join(lines)


def _count(number: int) -> str:
    return f"{number} dimension{'s' * (number != 1)}"


def _row(own: AxisClass) -> tuple[str, ...]:
    star = "*" if own.mixed else ""
    can = own.fixed[0].text if own.fixed else f"cut{star}, permuted" if own.permutable else f"cut{star}"
    return str(own.number), str(own.size), own.unit, can, str(len(own.places)), _listed(own.places)


def _listed(places: Sequence[Place]) -> str:
    return ", ".join(map(str, places[:_PLACES])) + ", …" * (len(places) > _PLACES)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    right = {0, 1, 4}
    return [
        "  ".join([*((row[i].rjust if i in right else row[i].ljust)(w) for i, w in enumerate(widths)), row[5]])
        for row in rows
    ]


def _fixed(classes: Sequence[AxisClass]) -> list[str]:
    """One line a reason, with how many classes it holds and the first places."""
    by: dict[str, list[Place]] = {}
    for own in classes:
        by.setdefault(own.fixed[0].text, []).append(own.places[0])
    width = max(len(str(len(p))) for p in by.values())
    return [f"  {len(places):>{width}}  {text}: {_listed(places)}" for text, places in by.items()]


def data(analysis: Analysis) -> list[dict[str, Any]]:
    """The classes that occur in parameters as JSON-ready values; a symbolic size is its text."""
    return [
        {
            "class": c.number,
            "size": _number(c.size),
            "unit": c.unit,
            "cut": c.cuttable,
            "permute": c.permutable,
            "statistics": bool(c.mixed),
            "statistics_with": list(c.mixed_with),
            "reasons": [{"kind": r.kind, "node": r.node, "text": r.text} for r in c.reasons],
            "places": [_place(p) for p in c.places],
        }
        for c in analysis.classes
    ]


def _place(place: Place) -> dict[str, Any]:
    assert isinstance(place.ref, ParameterRef)
    return {
        "parameter": place.ref.parameter,
        "axis": place.axis,
        "offset": _number(place.offset),
        "step": _number(place.step),
        "loops": [[_number(count), _number(stride)] for count, stride in place.loops],
    }


def _number(dim: Any) -> int | str:
    return dim if isinstance(dim, int) else str(dim)
