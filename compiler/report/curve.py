"""What members of a family reach over what they cost, as a page: a drawing, and the table that it is of."""

from __future__ import annotations

import csv
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, cast

from ..diagnostic import Diagnostic, NetcError
from .chart import Frame, Scale, ticks, words
from .html import hash_of, text_of
from .small import brief

_FRAME = Frame(960, 460)
_COLOURS = 5
"""So many series have colours of their own in curve.css."""


@dataclass(frozen=True, slots=True)
class Point:
    """One member: its multiply-accumulates, what it reaches, and what it is. An anchor is marked and named."""

    macs: float
    value: float
    label: str
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """Points that belong together: the members before training, say, or after."""

    name: str
    points: tuple[Point, ...]


def series(path: Path) -> list[Series]:
    """The series of a file. A `.csv` file, as `netc train` writes for a family, or a `.json` list of objects with the
    same fields has `macs`, `label` and `anchor`; every further column of numbers between 0 and 1 is a series.

    Raises:
        NetcError: where the file cannot be read, or has no such columns (`bad-results`).
    """
    rows = _rows(path)
    if not rows or any(_number(row.get("macs")) is None for row in rows):
        raise _refused(f"{path} has no column macs with a number in each row")
    names = [n for n in rows[0] if n not in _KNOWN and all(_share(row.get(n)) is not None for row in rows)]
    if not names:
        raise _refused(f"{path} has no column of numbers between 0 and 1")
    return [Series(name.replace("_", " "), tuple(_points(rows, name))) for name in names]


_KNOWN = frozenset({"member", "number", "label", "macs", "parameters", "anchor"})


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        text = path.read_text("utf-8")
        found: Any = json.loads(text) if path.suffix == ".json" else list(csv.DictReader(text.splitlines()))
    except (OSError, ValueError) as error:
        raise _refused(f"{path} cannot be read: {error}") from None
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in cast("list[Any]", found)):
        raise _refused(f"{path} is no list of objects")
    return cast("list[Mapping[str, Any]]", found)


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> Iterator[Point]:
    for row in rows:
        value = _share(row[name])
        assert value is not None
        yield Point(float(row["macs"]), value, str(row.get("label") or ""), str(row.get("anchor") or ""))


def _share(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and 0 <= number <= 1 else None


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if isfinite(number) else None


def _refused(message: str) -> NetcError:
    return NetcError([Diagnostic("bad-results", message, notes=("results are a .csv or .json table of members",))])


# ---------------------------------------------------------------------------------------------------- the page


def curve(found: Sequence[Series], title: str, quantity: str = "accuracy", unit: str = "MACs") -> str:
    """One HTML page without scripts: a drawing of the series, shares of 1 over costs, and their table."""
    style = text_of("page.css") + text_of("chart.css") + text_of("curve.css")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src {hash_of(style)}; base-uri 'none'; form-action 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)} · netc report</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<header><h1>{html.escape(title)}</h1></header>\n"
        f'<section id="curve"><figure>{_drawing(found, quantity, unit)}'
        f"<figcaption>{_key(found)}</figcaption></figure>\n{_table(found, unit)}</section>\n</body>\n</html>\n"
    )


def drawing(found: Sequence[Series], quantity: str = "accuracy", unit: str = "MACs") -> str:
    """The drawing alone, as an SVG file that suits a light and a dark page."""
    palette, drawn = text_of("page.css").partition("* {")[0], text_of("curve.css").partition("/* The page")[0]
    style = f"<style>{palette}{text_of('chart.css')}{drawn}svg {{ font-family: var(--sans); }}</style>"
    height = _FRAME.height + 26
    names = "".join(
        f'<g class="series s{i % _COLOURS}"><circle cx="{_FRAME.left + 8 + 190 * i}" cy="{_FRAME.height + 12}" r="4"/>'
        f'<text x="{_FRAME.left + 18 + 190 * i}" y="{_FRAME.height + 16}">{html.escape(one.name)}</text></g>'
        for i, one in enumerate(found)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_FRAME.width} {height}" role="img" '
        f'aria-label="{html.escape(f"{quantity} over {unit}", quote=True)}">{style}'
        f"{''.join(_inside(found, quantity, unit))}{names}</svg>\n"
    )


def _drawing(found: Sequence[Series], quantity: str, unit: str) -> str:
    label = html.escape(f"{quantity} over {unit}", quote=True)
    return (
        f'<svg viewBox="0 0 {_FRAME.width} {_FRAME.height}" role="img" aria-label="{label}">'
        f"{''.join(_inside(found, quantity, unit))}</svg>"
    )


def _inside(found: Sequence[Series], quantity: str, unit: str) -> Iterator[str]:
    points = [p for one in found for p in one.points]
    across = ticks([p.macs for p in points], 8)
    up = [t for t in ticks([p.value for p in points], 6) if -1e-9 < t < 1 + 1e-9]
    x, y = _FRAME.across(across), _FRAME.up(up)
    yield from _FRAME.grid_across(x, across, unit, lambda tick: brief(int(tick)))
    yield from _FRAME.grid_up(y, up, quantity, lambda tick: f"{tick * 100:g} %")
    for i, one in enumerate(found):
        yield f'<g class="series s{i % _COLOURS}">{"".join(_marks(one, x, y, named=i == len(found) - 1))}</g>'


def _marks(one: Series, x: Scale, y: Scale, *, named: bool) -> Iterator[str]:
    """The points of a series, anchors as squares and named, and a line of stairs along the best for every cost."""
    best: list[Point] = []
    for p in sorted(one.points, key=lambda p: (p.macs, -p.value)):
        if not best or p.value > best[-1].value:
            best.append(p)
    if len(best) > 1:
        start, *steps = best
        stairs = "".join(f"H{x(p.macs)}V{y(p.value)}" for p in steps)
        yield f'<path class="best" d="M{x(start.macs)} {y(start.value)}{stairs}"/>'
    for p in one.points:
        at, to = x(p.macs), y(p.value)
        title = html.escape(f"{p.label or p.anchor}: {p.value:.1%}, {brief(int(p.macs))} MACs, {one.name}")
        if p.anchor:
            yield f'<rect x="{at - 5:g}" y="{to - 5:g}" width="10" height="10"><title>{title}</title></rect>'
        else:
            yield f'<circle cx="{at}" cy="{to}" r="3.6"><title>{title}</title></circle>'
    for p in one.points if named else ():
        if p.anchor:
            end = x(p.macs) > (_FRAME.left + _FRAME.width - _FRAME.right) / 2
            side, place = (-9, "end") if end else (9, "start")
            above = 16 if y(p.value) < _FRAME.top + 14 else -8
            yield words("anchor", x(p.macs) + side, y(p.value) + above, p.anchor, place)


def _key(found: Sequence[Series]) -> str:
    names = "".join(f'<span class="s{i % _COLOURS}"><i></i>{html.escape(s.name)}</span>' for i, s in enumerate(found))
    return f"{names}<span>■ a whole model</span><span>— the best for its cost or less</span>"


def _table(found: Sequence[Series], unit: str) -> str:
    """Every member with its values, cheapest first."""
    values: dict[Point, list[float | None]] = {}
    for i, one in enumerate(found):
        for p in one.points:
            key = Point(p.macs, 0, p.label, p.anchor)
            values.setdefault(key, cast("list[float | None]", [None] * len(found)))[i] = p.value
    head = "".join(f'<th scope="col" class="number">{html.escape(s.name)}</th>' for s in found)
    rows = [
        f"<tr{' class=whole' if p.anchor else ''}><td>{html.escape(p.label or p.anchor)}</td>"
        f'<td class="number">{p.macs:,.0f}</td>'
        + "".join(f'<td class="number">{"" if v is None else f"{v:.1%}"}</td>' for v in values[p])
        + "</tr>"
        for p in sorted(values, key=lambda p: p.macs)
    ]
    return (
        f'<table><thead><tr><th scope="col">member</th><th scope="col" class="number">{html.escape(unit)}</th>{head}'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )
