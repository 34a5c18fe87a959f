"""A model in a notebook: totals and the tree of its modules with what they cost, in HTML without scripts."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

from ..cost import Row, assumed, cost
from ..graph import Graph
from ..quantity import sized
from ..types import Dim

_ROWS = 1000
"""More rows than this are cut off: a notebook keeps its output in its file."""
_STYLE = (
    ".netc{font:13px/1.5 system-ui,sans-serif;max-width:60em}.netc table{border-collapse:collapse}"
    ".netc details{margin-left:1.2em}.netc .leaf{margin-left:2.2em}.netc summary{cursor:pointer}"
    ".netc small{opacity:.65}.netc b{font-weight:600}.netc .n{float:right;font-variant-numeric:tabular-nums}"
    ".netc code{font-size:12px;background:none}"
)


def small(graph: Graph) -> str:
    """An HTML fragment for `_repr_html_`: a summary, and the modules as a tree that opens. Sizes are at the numbers
    that `collect` assumes for free symbols; text from the graph is escaped."""
    bind = assumed(graph)
    report = cost(graph, bind)
    at = f" at {', '.join(f'{name} = {number}' for name, number in bind.items())}" if bind else ""
    total = report.total
    head = (
        f"<b>{html.escape(graph.name)}</b> <small>{len(graph.nodes):,} nodes · {brief(total.parameters)} parameters · "
        f"{brief(total.macs)} MACs · peak {sized(total.peak)}{html.escape(at)}</small>"
    )
    interface = "".join(f"<div class=leaf><code>{html.escape(line)}</code></div>" for line in _interface(graph))
    return f'<div class="netc"><style>{_STYLE}</style>{head}{interface}{"".join(_tree(report.rows[1:]))}</div>'


def _interface(graph: Graph) -> Iterator[str]:
    for node in graph.inputs.values():
        yield f"{node.path}: {node.types[0]}"
    for name, ref in graph.outputs.items():
        yield f"→ {name}: {graph.type(ref)}"


def _tree(rows: Sequence[Row]) -> Iterator[str]:
    """The rows, each inside the element of the row above its path. They come in that order."""
    open_ = 0
    for row, after in zip(rows[:_ROWS], (*rows[1:], None), strict=False):
        yield "</details>" * (open_ - row.depth + 1)
        open_ = min(open_, row.depth - 1)
        name = row.path.rpartition(".")[2]
        counts = ((row.macs, "MACs"), (row.parameters, "parameters"))
        numbers = " · ".join(f"{brief(n)} {unit}" for n, unit in counts if n)
        told = " ".join(([] if name.startswith(row.kind) else [row.kind]) + [str(t) for t in row.output])
        line = f"<b>{html.escape(name)}</b> <small>{html.escape(told)}</small><span class=n>{numbers}</span>"
        if after is not None and after.depth > row.depth:
            yield f"<details><summary>{line}</summary>"
            open_ += 1
        else:
            yield f"<div class=leaf>{line}</div>"
    yield "</details>" * open_
    if len(rows) > _ROWS:
        yield f"<div class=leaf><small>and {len(rows) - _ROWS:,} rows more</small></div>"


def brief(number: Dim) -> str:
    """`4490566656` → `4.49G`."""
    assert isinstance(number, int)
    value, at = float(number), 0
    while value >= 1000 and at < 4:
        value, at = value / 1000, at + 1
    return f"{value:.{0 if value >= 100 or not at else 1 if value >= 10 else 2}f}{('', 'k', 'M', 'G', 'T')[at]}"
