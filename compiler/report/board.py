"""The page of a scoreboard: bars for every candidate, and for our kernels a roofline and a table."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..quantity import sized
from .chart import Scale, si, words
from .html import hash_of, text_of
from .roofline import BOX, NAME, UNIT, Roof, Spot, plot

Data = Mapping[str, Any]

_WIDTH, _ROW, _LEFT, _RIGHT = 960, 30, 150, 190
_COLOURS = 7
"""So many kinds of kernels have colours of their own in plan.css; the rest share one."""
_ROWS = 60
"""Kernels that the table shows, the slowest first."""


def board_page(data: Data) -> str:
    """One HTML page without scripts, of what `netc bench --format json` prints."""
    style = "".join(map(text_of, ("page.css", "chart.css", "plan.css", "board.css")))
    title = ", ".join(model["model"] for model in (*data["models"], *data["failed"]))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src {hash_of(style)}; base-uri 'none'; form-action 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)} · netc bench</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<header><h1>netc bench</h1></header>\n<section id="board">{_facts(data)}'
        f"{''.join(_model(model, data) for model in data['models'])}{''.join(map(_failed, data['failed']))}</section>\n"
        "</body>\n</html>\n"
    )


def _facts(data: Data) -> str:
    peak, bandwidth, means = data["peak"], data["bandwidth"], data["means"]
    told = {
        "processor": data["processor"],
        "threads of each": str(data["threads"]),
        "turns, in random order": str(data["turns"]),
        "measured peak": f"{si(peak['rate'], 'FLOP/s')} ({peak['by']}, {peak['what']})",
    }
    if bandwidth:
        told["measured bandwidth"] = f"{si(bandwidth['rate'], 'B/s')} ({bandwidth['by']}, {bandwidth['what']})"
    if len(data["models"]) > 1:
        told |= {
            f"netc ÷ {'the best' if name == 'best' else name}, geometric mean": f"{mean:.2f}"
            for name, mean in means.items()
        }
    rows = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in told.items())
    return f"<dl>{rows}</dl>"


def _model(model: Data, data: Data) -> str:
    at = "".join(f", {name} = {number}" for name, number in model["sizes"].items())
    failures = "".join(
        f'<p class="note">without {html.escape(name)}: {html.escape(why)}</p>'
        for name, why in model["failures"].items()
    )
    return (
        f"<article><h2>{html.escape(model['model'] + at)} <small>{si(model['macs'])} MACs</small></h2>"
        f"<figure>{_bars(model)}<figcaption><span>median of the turns, and the quartiles</span></figcaption></figure>"
        f"{_table(model)}{failures}{_kernels(model, data)}</article>\n"
    )


def _failed(model: Data) -> str:
    """A model that was not measured, and why."""
    at = "".join(f", {name} = {number}" for name, number in model["sizes"].items())
    said = ["; ".join((d["message"], *d["notes"])) for d in model["diagnostics"]]
    why = "".join(f'<p class="note">not measured: {html.escape(text)}</p>' for text in said)
    return f"<article><h2>{html.escape(model['model'] + at)}</h2>{why}</article>\n"


def _bars(model: Data) -> str:
    """A bar for each candidate: its median, a whisker between the quartiles, and our time divided by its own."""
    candidates = model["candidates"]
    most = max(c["quartiles"][1] for c in candidates.values())
    x = Scale(0, most, _LEFT, _WIDTH - _RIGHT)
    parts: list[str] = []
    for i, (name, told) in enumerate(candidates.items()):
        top = i * _ROW + 4
        low, high = told["quartiles"]
        text = _time(told["median"])
        if "ratio" in told:
            text += f" · netc takes {told['ratio'][1]:.2f} ×"
        kind = "bar ours" if name == "netc" else "bar"
        parts.append(words("named", _LEFT - 10, top + 15, name, "end"))
        parts.append(f'<rect class="{kind}" x="{_LEFT}" y="{top}" width="{x(told["median"]) - _LEFT:g}" height="22"/>')
        parts.append(
            f'<path class="whisker" d="M{x(low)} {top + 11}H{x(high)}M{x(low)} {top + 6}v10M{x(high)} {top + 6}v10"/>'
        )
        parts.append(words("value", x(max(high, told["median"])) + 8, top + 15, text, "start"))
    label = html.escape(f"Latency of {model['model']} by candidate", quote=True)
    box = f"0 0 {_WIDTH} {len(candidates) * _ROW + 4}"
    return f'<svg class="bars" viewBox="{box}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} µs"


_COLUMNS = ("candidate", "of peak", "difference", "compile", "start-up", "memory", "files")


def _table(model: Data) -> str:
    rows = [
        (
            f"{name} {told['version']}",
            f"{100 * told['share']:.0f} %",
            f"{told['difference']:.1e}",
            "" if told["compile"] is None else f"{told['compile']:.1f} s",
            f"{told['start']:.2f} s",
            sized(told["memory"]),
            sized(told["size"]),
        )
        for name, told in model["candidates"].items()
    ]
    return _html_table(_COLUMNS, rows)


def _html_table(columns: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table whose first columns are `words`, and the others numbers. Cells of the first column may be HTML."""
    kinds = ["" if i < words else ' class="number"' for i in range(len(columns))]
    head = "".join(f'<th scope="col"{k}>{html.escape(c)}</th>' for k, c in zip(kinds, columns, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{k}>{cell}</td>" for k, cell in zip(kinds, row, strict=True)) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


# ------------------------------------------------------------------------------------------------------------ kernels


def _kernels(model: Data, data: Data) -> str:
    """The roofline, and the kernels by their time."""
    kernels = sorted(model["kernels"], key=lambda k: -k["seconds"])
    if not kernels or data["bandwidth"] is None:
        return ""
    roof = Roof(data["bandwidth"]["rate"], data["peak"]["rate"], "memory")
    kinds = list(dict.fromkeys(k["kind"] for k in kernels if k["operations"]))
    colours = [kinds.index(k["kind"]) % _COLOURS if k["operations"] else 0 for k in kernels]
    labels = [str(i + 1) for i in range(len(kernels))]
    total = sum(k["seconds"] for k in kernels)
    spots = [
        Spot(i, k["operations"] / k["bytes"], k["operations"] / k["seconds"], k["seconds"] / total, _title(k))
        for i, k in enumerate(kernels)
        if k["operations"]
    ]
    units = "operations per byte read or written", UNIT
    drawn = plot(spots, [], labels, colours, units, roof) if spots else ""
    figure = f'<svg class="roofline" viewBox="{BOX}" role="img" aria-label="{NAME}">{drawn}</svg>' if spots else ""
    said = "".join(f"<span>{line}</span>" for line in _said(model, kernels, kinds, total))
    return f"<figure>{figure}<figcaption>{said}</figcaption></figure>{_kernel_table(kernels, colours, total, roof)}"


def _title(kernel: Data) -> str:
    speed = si(kernel["operations"] / kernel["seconds"])
    return f"{_named(kernel)}\n{_time(kernel['seconds'])}, {speed} operations per second"


def _named(kernel: Data) -> str:
    first, *others = kernel["nodes"]
    return f"{first} … {others[-1]}" if others else first


def _said(model: Data, kernels: Sequence[Data], kinds: Sequence[str], total: float) -> Iterator[str]:
    for i, kind in enumerate(kinds):
        yield f'<i class="c{i % _COLOURS}"></i>{html.escape(kind)}'
    idle = [k for k in kernels if not k["operations"]]
    if idle:
        spent = sum(k["seconds"] for k in idle)
        yield f"not drawn: {len(idle)} without multiply-accumulates, {_time(spent)} together"
    whole = model["candidates"]["netc"]["median"]
    yield f"kernels one by one take {_time(total)}, the whole model {_time(whole)}"
    yield "a kernel that finds its data in a cache can lie above the slope of memory"
    yield "one that multiplies less than the model says (Winograd) can lie above the roof"


def _kernel_table(kernels: Sequence[Data], colours: Sequence[int], total: float, roof: Roof) -> str:
    """`of its bound`: the time that the roof allows, divided by the time that it takes. Whoever is faster than memory
    is bound by caches, whose speed is not measured."""
    assert roof.bandwidth
    assert roof.operations
    rows: list[Sequence[str]] = []
    for i, (k, colour) in enumerate(zip(kernels[:_ROWS], colours, strict=False)):
        by_memory, by_arithmetic = k["bytes"] / roof.bandwidth, k["operations"] / roof.operations
        bound, least = ("memory", by_memory) if by_memory > by_arithmetic else ("arithmetic", by_arithmetic)
        if bound == "memory" and least > k["seconds"]:
            bound, least = "caches", None
        swatch = f'<span class="swatch {f"c{colour}" if k["operations"] else "rest"}">{i + 1}</span>'
        count = f" <small>{len(k['kernels'])} kernels</small>" if len(k["kernels"]) > 1 else ""
        rows.append(
            (
                f"{swatch} {html.escape(_named(k))}{count}",
                html.escape(k["kind"]),
                _time(k["seconds"]),
                f"{100 * k['seconds'] / total:.1f} %",
                si(k["operations"] / k["seconds"]) if k["operations"] else "",
                sized(k["bytes"]),
                bound,
                "" if least is None else f"{100 * least / k['seconds']:.0f} %",
            )
        )
    columns = ("kernel", "kind", "time", "of all", "operations/s", "touches", "bound by", "of its bound")
    more = f'<p class="note">and {len(kernels) - _ROWS} more</p>' if len(kernels) > _ROWS else ""
    return _html_table(columns, rows, 2) + more
