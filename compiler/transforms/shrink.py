"""Fewer units or blocks in a model: first those that add nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from ..axes import Analysis, AxisClass, analyse
from ..blocks import Block, blocks, stages
from ..contract import Contract
from ..graph import Graph
from .choose import Paths, matches, nothing
from .drop import drop
from .duplicates import groups, is_identity
from .prune import makers_of, prune
from .register import Outcome, Refusal, transform
from .units import Units
from .widen import allowed, classes_at, said

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@transform
def shrink(
    graph: Graph, at: Paths = "*", by: float | None = None, of: Literal["width", "depth"] = "width", seed: int = 0
) -> Outcome:
    """Take units, or blocks, out of a model: first those that add nothing, so that it undoes `widen` and `deepen`.

    Contract: exact where what goes adds nothing, and without `by`, always. Else it alters: inputs, outputs and the
    numbers of what stays are preserved.

    - at: the layers whose units go, as in `widen`; or, of `depth`, the blocks.
    - by: how many times fewer there are to be, rounded: 2 leaves half. None: whatever adds nothing goes.
    - of: `width`: units with the same numbers wherever they are made become one, and where they are summed over their
      weights are added. Where that is not enough, what is left is pruned by the norm of its weights (`prune`). `depth`:
      blocks that are the identity go. Where that is not enough, further ones at regular distances, from each stage
      alike, of those that keep the shape of their input.
    - seed: for parameters without data.

    Refuses dimensions that may not change, of which no units are copies; and blocks of which none can go.
    """
    if by is not None and by <= 1:
        raise Refusal(f"shrink makes models smaller, not {by:g} times as small", option="by", fix="by = 2")
    return _narrow(graph, at, by, seed) if of == "width" else _shallow(graph, at, by, seed)


# ----------------------------------------------------------------------------------------------------------- width


def _narrow(graph: Graph, at: Paths, by: float | None, seed: int) -> Outcome:
    analysis = analyse(graph)
    asked = [c for c in classes_at(analysis, at) if c.cuttable]
    if not asked:
        raise Refusal("no dimension of these layers may change", option="at")
    units = {c: u for c in asked if (u := _merged(analysis, c, by, seed)) is not None}
    found, stops = allowed(analysis, units)
    names = _names(analysis, found.units)
    notes = [f"{names[c]}: {c.size} → {len(u.index)}, copies as one" for c, u in found.units.items()]
    rest = [c for c in asked if by is not None and c not in found.units and _wanted(c, by) < _size(c)]
    if not found.units and by is None:
        message = "no units of these dimensions are copies of each other"
        raise Refusal(message, nodes=[s.node for s in stops], option="at", notes=said(stops), fix="by = 2")
    after = found.graph("shrink", seed) if found.units else graph
    if not rest or by is None:
        return Outcome(after, Contract(), tuple(notes))
    makers = makers_of(analysis)
    layers = [path for c in rest for path in makers[c.number]]
    cut = prune(after, layers, ratio=1 - 1 / by, seed=seed)
    return Outcome(cut.graph, Contract("alters"), (*notes, *cut.notes), cut.sources)


def _size(own: AxisClass) -> int:
    assert isinstance(own.size, int)
    return own.size


def _wanted(own: AxisClass, by: float) -> int:
    return max(1, round(_size(own) / by))


def _names(analysis: Analysis, classes: Mapping[AxisClass, Units]) -> dict[AxisClass, str]:
    makers = makers_of(analysis)
    return {c: ", ".join(makers[c.number][:2]) + ", …" * (len(makers[c.number]) > 2) for c in classes}


def _merged(analysis: Analysis, own: AxisClass, by: float | None, seed: int) -> Units | None:
    """Units of which copies are one, as many as are wanted; None where there are not copies enough."""
    import numpy

    found = groups(analysis, own, seed)
    if found is None:
        return None
    sizes = numpy.bincount(found)
    wanted = len(sizes) if by is None else _wanted(own, by)
    if len(sizes) > wanted or wanted == len(found):
        return None
    counts = _shared_out(sizes, wanted)
    kept: dict[tuple[int, int], int] = {}
    seen = [0] * len(sizes)
    merged: list[int] = []
    for group in cast("list[int]", found.tolist()):
        merged.append(kept.setdefault((group, seen[group] % counts[group]), len(kept)))
        seen[group] += 1
    return Units.merged(numpy.array(merged))


def _shared_out(sizes: Array, wanted: int) -> list[int]:
    """How many units of each group are left, one at least, in proportion to its size."""
    counts = [max(1, int(size) * wanted // int(sizes.sum())) for size in sizes]
    while sum(counts) < wanted:
        most = max(range(len(counts)), key=lambda g: sizes[g] / counts[g])
        counts[most] += 1
    while sum(counts) > wanted:
        most = min((g for g in range(len(counts)) if counts[g] > 1), key=lambda g: sizes[g] / counts[g])
        counts[most] -= 1
    return counts


# ----------------------------------------------------------------------------------------------------------- depth


def _shallow(graph: Graph, at: Paths, by: float | None, seed: int) -> Outcome:
    every = blocks(graph)
    chosen = [b for b in every if at in ("*", "blocks") or matches(b.path, at)]
    if not chosen:
        raise nothing(at, (b.path for b in every), "block")
    idle = [b for b in chosen if is_identity(graph, b, seed)]
    gone: list[Block] = idle if by is None else []
    for stage in stages(graph) if by is not None else ():
        own = [b for b in stage if b in chosen]
        count = len(own) - max(1, round(len(own) / by)) if own and by else 0
        gone += [*[b for b in own if b in idle], *_regular(graph, [b for b in own if b not in idle], count)][:count]
    if not gone:
        message = "no block is the identity" if by is None else "no stage has blocks enough"
        raise Refusal(message, nodes=[b.path for b in chosen], option="by", fix="by = 2" if by is None else None)
    found = drop(graph, [b.path for b in gone], seed=seed)
    exact = all(b in idle for b in gone)
    notes = (f"{len(gone)} of {len(every)} blocks go: {', '.join(b.path for b in gone)}",)
    return Outcome(found.graph, Contract() if exact else Contract("alters"), notes, found.sources)


def _regular(graph: Graph, own: list[Block], count: int) -> list[Block]:
    """So many of the blocks that give what they are given, at regular distances."""
    free = [b for b in own if graph.type(b.input) == graph.type(b.output)]
    count = min(count, len(free))
    return [free[(2 * i + 1) * len(free) // (2 * count)] for i in range(count)]
