"""Take units out of a model: channels, heads, groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor, gcd, prod
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import PositiveInt

from ..axes import Analysis, AxisClass, Place, Selection, analyse
from ..calibration import Calibration
from ..contract import Contract
from ..graph import Graph, GraphError, Input, ParameterRef, Value, verify
from .choose import Paths, matches, nothing
from .importance import Importance, Score
from .limit import meets, said, spent, unmet
from .numbers import filled
from .register import Limit, Outcome, Refusal, transform

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@transform
def prune(
    graph: Graph,
    at: Paths = "*",
    *,
    ratio: float | None = None,
    limit: Limit | None = None,
    score: Score = "l2",
    scope: Literal["uniform", "global"] = "uniform",
    divisor: int = 1,
    within: bool = False,
    calibration: Calibration | None = None,
    samples: PositiveInt | None = None,
    seed: int = 0,
) -> Outcome:
    """The model without its least important units, each taken out of everything that has it.

    What belongs together is derived from the axes of all operators: the channels of layers that are added, the rows of
    one layer and the columns of the next, the gains and statistics of norms. A unit is a whole head where an axis
    consists of heads, a whole group where it consists of groups, else a channel. Inputs and outputs keep their shapes.

    Contract: alters.

    - at: the layers whose outputs are cut. A dimension is cut where all layers that make it are named: those of a
      residual stream all together.
    - ratio: the share of units that goes, 0.5 where neither this nor a limit is given.
    - limit: instead of a ratio, what the result may cost for one example (`macs <= 24 M`; also `parameters`,
      `activations`, `peak`, `bytes`): as few units go as meet it.
    - score: what is kept: what has large numbers (`l1`, `l2`), large gains in batch norms (`batch_norm`), or to what
      the outputs are sensitive (`taylor`, with `calibration` data). Scores of a unit at several places are averaged.
    - scope: `uniform`, the same share of every dimension; or `global`, one ranking of the units of all of them, by
      scores relative to the mean of their dimension. At least one unit of each is kept.
    - divisor: sizes that remain are multiples of this, in elements; rounded down, but not to nothing.
    - within: cut inside units too: the features of a head, the channels of a group.
    - calibration, samples: examples for `taylor`, and how many; random ones where there are none.
    - seed: of the numbers of parameters without data.

    Refuses what nothing can be taken out of, with the nodes that hold it, and limits that cannot be met.

    Source: Fang et al., "DepGraph: towards any structural pruning" (2023); Molchanov et al., "Importance estimation for
    neural network pruning" (2019), for `taylor`.
    """
    if ratio is not None and limit is not None:
        raise Refusal("give a ratio or a limit, not both", option="limit")
    if ratio is not None and not 0 < ratio < 1:
        raise Refusal(f"a ratio of {ratio:g} is not between 0 and 1", option="ratio")
    if divisor < 1:
        raise Refusal(f"a divisor of {divisor} is less than 1", option="divisor")
    analysis = analyse(graph)
    importance = Importance(graph, score, calibration, samples, seed)
    cuts, unranked = _cuts(analysis, chosen(analysis, at, within), importance, divisor)
    keep: _Plan = _uniform if scope == "uniform" else _global
    kept = keep(cuts, ratio or 0.5) if limit is None else _within(analysis, cuts, keep, limit)
    if all(len(kept[c.own]) == c.size for c in cuts):
        raise Refusal(f"no unit goes at a ratio of {ratio or 0.5:g}", option="ratio" if divisor == 1 else "divisor")
    after = _checked(Selection(_filled(analysis, cuts, seed), kept).graph())
    notes = [f"{c.name}: {_counted(c, c.size)} → {len(kept[c.own])}" for c in cuts if len(kept[c.own]) < c.size]
    notes += [f"{name} stays whole: nothing there has a score by {score}" for name in unranked]
    return Outcome(after, Contract("alters"), (*notes, "inputs and outputs keep their shapes"))


# ------------------------------------------------------------------------------------------------- what may be cut


def chosen(analysis: Analysis, at: Paths, within: bool = False) -> list[AxisClass]:
    """The dimensions that may be cut and that the layers named by patterns make: the outer one of heads and their
    features, of groups and their channels, unless `within`.

    Raises:
        Refusal: where there are none, with the nodes that hold what is named.
    """
    free = [c for c in analysis.classes if c.permutable]
    inner = set[int]() if within else _inner(analysis)
    makers = makers_of(analysis)
    found = [c for c in free if c.number not in inner and all(matches(m, at) for m in makers[c.number])]
    if not found:
        raise _none(analysis, at, free, makers)
    return found


def makers_of(analysis: Analysis) -> dict[int, list[str]]:
    """By class, the nodes that make it: it is in what they give, and in nothing that they get from the inputs; where
    there are none, the parameters that have it."""
    varying: set[str] = set()
    found: dict[int, list[str]] = {}
    graph = analysis.graph
    for node in graph.nodes.values():
        if isinstance(node.op, Input) or any(isinstance(r, Value) and r.node in varying for r in node.refs):
            varying.add(node.path)
    for own in analysis.classes:
        made: dict[str, bool] = {}
        for use in analysis.uses(own):
            given = (graph.nodes[use.node].inputs[i] for i in use.inputs)
            fresh = not any(isinstance(r, Value) and r.node in varying for r in given)
            made[use.node] = made.get(use.node, True) and fresh and bool(use.inputs and use.outputs)
        layers = [path for path, fresh in made.items() if fresh and path in varying]
        found[own.number] = layers or list(dict.fromkeys(cast(ParameterRef, p.ref).parameter for p in own.places))
    return found


def _inner(analysis: Analysis) -> set[int]:
    """The classes that lie inside units of others: in products after a factor that can be cut."""
    found: set[int] = set()
    for ref, axes in analysis.axes.items():
        if isinstance(ref, ParameterRef):
            for dimension in axes:
                for part in analysis.structure.segments(dimension):
                    _add_inner(analysis, part, found)
    return found


def _add_inner(analysis: Analysis, part: int, found: set[int]) -> None:
    outer = False
    for factor in analysis.structure.factors(part):
        atoms = [a for a in analysis.structure.atoms(factor) if analysis.class_of(a).permutable]
        if outer:
            found.update(analysis.class_of(a).number for a in atoms)
        outer = outer or bool(atoms)


def _none(analysis: Analysis, at: Paths, free: Sequence[AxisClass], makers: Mapping[int, list[str]]) -> Refusal:
    """Why nothing that patterns name can be cut."""
    named = [p for p in (*analysis.graph.nodes, *analysis.graph.parameters) if matches(p, at)]
    if not named:
        return nothing(at, (p for p, n in analysis.graph.nodes.items() if any(_weights(n))), "layer")
    for own in free:
        others = [m for m in makers[own.number] if not matches(m, at)]
        if len(others) < len(makers[own.number]):
            notes = (f"at = [{', '.join(repr(m) for m in makers[own.number][:6])}{', …' * (len(others) > 5)}]",)
            message = f"{len(others)} other layers make the same {own.size} units"
            return Refusal(message, nodes=others[:5], option="at", notes=notes)
    places = [(c, p) for c in analysis.classes for p in c.places if matches(cast(ParameterRef, p.ref).parameter, at)]
    reasons = dict.fromkeys(f"{p}: {c.fixed[0].text}" for c, p in places if c.fixed)
    nodes = dict.fromkeys(c.fixed[0].node for c, _ in places if c.fixed and c.fixed[0].node)
    return Refusal("nothing there can be cut", nodes=list(nodes)[:5], option="at", notes=list(reasons)[:5])


def _weights(node: Any) -> list[ParameterRef]:
    return [r for r in node.refs if isinstance(r, ParameterRef)]


# ---------------------------------------------------------------------------------------------------- what goes


@dataclass(frozen=True, eq=False)
class _Cut:
    """A dimension to cut: the scores of its units, what multiple of them is kept, and a name to show."""

    own: AxisClass
    scores: Array
    multiple: int
    name: str

    @property
    def size(self) -> int:
        return len(self.scores)

    def kept(self, count: int) -> Array:
        """The best units, in order: so many, or as the multiple wants; equal ones from the first."""
        import numpy

        count = max(count - count % self.multiple, min(self.multiple, self.size))
        return numpy.sort(numpy.argsort(self.scores, kind="stable")[self.size - count :])


_Kept = Mapping[AxisClass, "Array"]
_Plan = Callable[[Sequence[_Cut], float], _Kept]


def _cuts(
    analysis: Analysis, classes: Sequence[AxisClass], importance: Importance, divisor: int
) -> tuple[list[_Cut], list[str]]:
    """The dimensions with their scores, and the names of those that have none."""
    makers = makers_of(analysis)
    cuts: list[_Cut] = []
    unranked: list[str] = []
    for own in classes:
        first, *others = makers[own.number]
        name = f"{first} and {len(others)} more" if others else first
        scores = importance.unit(own)
        if scores is None:
            unranked.append(name)
        else:
            cuts.append(_Cut(own, scores, divisor // gcd(divisor, min(map(_elements, own.places))), name))
    if not cuts:
        raise Refusal("nothing that can be cut has a score", nodes=unranked[:5], option="score")
    return cuts, unranked


def _elements(place: Place) -> int:
    """How many elements a unit has at a place."""
    return cast(int, place.step) * prod(cast(int, count) for count, _ in place.loops)


def _remaining(size: int, ratio: float) -> int:
    return floor(size * (1 - ratio) + 1e-9)


def _uniform(cuts: Sequence[_Cut], ratio: float) -> _Kept:
    """The same share of each dimension."""
    return {c.own: c.kept(max(1, _remaining(c.size, ratio))) for c in cuts}


def _global(cuts: Sequence[_Cut], ratio: float) -> _Kept:
    """One ranking of all units, the best of each dimension aside."""
    import numpy

    relative = [c.scores / (c.scores.mean() or 1.0) for c in cuts]
    for scores in relative:
        scores[numpy.argsort(scores, kind="stable")[-1]] = numpy.inf
    every = numpy.concatenate(relative)
    gone = numpy.argsort(every, kind="stable")[: len(every) - max(len(cuts), _remaining(len(every), ratio))]
    stays = numpy.ones(len(every), bool)
    stays[gone] = False
    ends = numpy.cumsum([c.size for c in cuts])
    counts = [int(part.sum()) for part in numpy.split(stays, ends[:-1])]
    return {c.own: c.kept(count) for c, count in zip(cuts, counts, strict=True)}


def _within(analysis: Analysis, cuts: Sequence[_Cut], keep: _Plan, limit: Limit) -> _Kept:
    """The largest choice that meets a limit: a search among all ratios that make a difference.

    Raises:
        Refusal: where the smallest does not meet it, or the model does already.
    """
    from bisect import bisect_left

    def cut(ratio: float) -> Graph:
        return Selection(analysis, keep(cuts, ratio)).graph()

    unmet(analysis.graph, limit)
    total = sum(c.size for c in cuts)
    sizes = {c.size for c in cuts} if keep is _uniform else {total}
    ratios = sorted({gone / size for size in sizes for gone in range(1, size)})
    if not meets(cut(ratios[-1]), limit):
        least = spent(cut(ratios[-1]), limit.quantity)
        notes = (f"with one unit left of each dimension, {limit.quantity} = {least:_}",)
        raise Refusal(f"{said(limit)} is out of reach", option="limit", notes=notes)
    return keep(cuts, ratios[bisect_left(ratios, True, key=lambda ratio: meets(cut(ratio), limit))])


# ---------------------------------------------------------------------------------------------------- the result


def _filled(analysis: Analysis, cuts: Sequence[_Cut], seed: int) -> Analysis:
    """The same analysis of the graph with numbers for all parameters that are cut."""
    graph = analysis.graph
    touched = dict.fromkeys(cast(ParameterRef, p.ref).parameter for c in cuts for p in c.own.places)
    return replace(analysis, graph=graph.with_parameters(filled(graph.parameters[p], seed) for p in touched))


def _checked(graph: Graph) -> Graph:
    try:
        verify(graph)
    except GraphError as error:
        raise Refusal("what is left is no model", notes=error.problems[:3]) from None
    return graph


def _counted(cut: _Cut, count: int) -> str:
    name, of, rest = cut.own.unit.partition(" of ")
    return f"{count} {name}s{of}{rest}"
