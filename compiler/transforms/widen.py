"""More units in the dimensions of a model, and the same function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..axes import Analysis, AxisClass, analyse
from ..contract import Contract
from ..graph import Graph, ParameterRef
from .choose import Paths, chosen_parameters, named
from .duplicates import made_places
from .register import MOST_UNITS, Outcome, Refusal, refuse_many, transform
from .resize import Resize, Stop
from .units import Units

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@transform
def widen(graph: Graph, at: Paths = "*", by: float = 2.0, fresh: bool = False, seed: int = 0) -> Outcome:
    """Repeat units of a model's dimensions, and share out what is summed over them: the same function, wider.

    Contract: exact. A unit that is there k times is multiplied by 1/k in every sum over it: in the weights that read
    it, or by a product of its own where those weights serve elsewhere as they are (a table that is also the output
    layer). Statistics (layer, root-mean-square and group norms, averages) stay where every unit is there equally often,
    as with a whole `by`; a dimension for which that cannot be is left alone.

    - at: the layers or parameters whose units are repeated: those that they give, with all that is tied to them. All of
      a model by default. What is asked for by its own path and cannot be is refused; of patterns, it is left out and
      noted.
    - by: how many times as many units, rounded: 2, 1.5. Which are there once more is drawn from `seed`.
    - fresh: give units that are new numbers of their own, from the initialisers, and weights of 0 where they are read.
      Norms over them would see them, so such dimensions stay.
    - seed: for what is drawn.

    Source: Chen, Goodfellow, Shlens, Net2Net: Accelerating Learning via Knowledge Transfer, 2016, section 2.2.
    """
    if by <= 1:
        raise Refusal(f"widen makes dimensions larger, not {by:g} times as large", option="by", fix="by = 2")
    analysis = analyse(graph)
    asked = classes_at(analysis, at)
    largest = max((c.size for c in asked if c.cuttable and isinstance(c.size, int)), default=0)
    refuse_many(largest * by, MOST_UNITS, "units of one dimension", "by")
    wanted = {c: _units(c, by, fresh, seed) for c in asked if c.cuttable}
    found, stops = allowed(analysis, {c: u for c, u in wanted.items() if u is not None})
    _refuse_missing(asked, stops)
    if not found.units:
        text = f"no dimension becomes larger by {by:g}" if not stops else "no dimension can become wider"
        raise Refusal(text, nodes=[s.node for s in stops], notes=said(stops), option=None if stops else "by")
    count = sum(len(u.index) - u.summed.sizes[0] for u in found.units.values())
    how = "with numbers of their own that are read with weight 0" if fresh else "copies that share what is summed"
    notes = (f"{len(found.units)} dimensions are wider, by {count} units: {how}", *said(stops))
    return Outcome(found.graph("widen", seed), Contract(), notes)


def classes_at(analysis: Analysis, at: Paths) -> dict[AxisClass, set[str]]:
    """The classes whose units layers or parameters give that patterns match, each with the patterns that are the very
    path of such a layer or parameter.

    Raises:
        Refusal: where patterns match no parameter.
    """
    found: dict[AxisClass, set[str]] = {}
    paths = set(chosen_parameters(analysis.graph, at))
    for cls in analysis.classes:
        for place in made_places(analysis, cls):
            assert isinstance(place.ref, ParameterRef)
            path = place.ref.parameter
            if path in paths:
                meant = {p for p in (path, path.rpartition(".")[0]) if named(p, at)}
                found.setdefault(cls, set()).update(meant)
    return found


def _units(own: AxisClass, by: float, fresh: bool, seed: int) -> Units | None:
    """The old units, all of them before any is there again, and each as often as any other or once more."""
    import numpy

    assert isinstance(own.size, int)
    size, count = own.size, round(own.size * by)
    if count <= size:
        return None
    again = numpy.random.default_rng([seed, own.number]).choice(size, count % size, replace=False)
    every = numpy.arange(size)
    return Units.copies(numpy.concatenate([*[every] * (count // size), numpy.sort(again)]), size, fresh=fresh)


def allowed(analysis: Analysis, units: dict[AxisClass, Units]) -> tuple[Resize, list[Stop]]:
    """As many of the classes as can get these units together, and what stops the others."""
    stops: list[Stop] = []
    while True:
        found = Resize(analysis, units)
        if not found.stops:
            return found, stops
        stops += found.stops
        lost = {c for stop in found.stops for c in stop.classes}
        units = {c: u for c, u in units.items() if c not in lost}


def _refuse_missing(asked: dict[AxisClass, set[str]], stops: Sequence[Stop]) -> None:
    """Raises `Refusal` where a layer is meant by its own path, and a dimension of it is stopped or all are fixed."""
    for path in sorted({path for meant in asked.values() for path in meant}):
        own = [c for c, meant in asked.items() if path in meant]
        stopped = [(s.node, s.text) for c in own for s in stops if c in s.classes]
        fixed = [(r.node, r.text) for c in own for r in c.fixed]
        reasons = stopped or (fixed if all(c.fixed for c in own) else [])
        if reasons:
            nodes = list(dict.fromkeys(node for node, _ in reasons if node))
            raise Refusal(f"{path} cannot be wider: {reasons[0][1]}", nodes=nodes, option="at")


def said(stops: Sequence[Stop]) -> tuple[str, ...]:
    """Which classes stay as they are, each with the first node that stops it."""
    first: dict[AxisClass, Stop] = {}
    for stop in stops:
        for own in stop.classes:
            first.setdefault(own, stop)
    return tuple(f"{own.places[0]} ({own.size}) stays: {stop.text}" for own, stop in first.items())
