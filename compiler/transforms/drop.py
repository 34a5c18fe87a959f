"""Take blocks, or branches beside a residual stream, out of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import acos, inf, pi
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveInt

from ..axes import analyse
from ..blocks import Block, blocks, spine
from ..calibration import Calibration
from ..contract import Contract
from ..graph import Graph, ParameterRef, Value
from ..paths import above
from .choose import Paths, matches, nothing
from .importance import random_inputs
from .join import channel_axis
from .limit import allowed, meets, said, spent, unmet
from .numbers import filled
from .register import Limit, Outcome, Refusal, transform
from .solve import features

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@transform
def drop(
    graph: Graph,
    at: Paths = "blocks",
    *,
    by: int | None = None,
    limit: Limit | None = None,
    score: Literal["similarity", "output"] | dict[str, float] = "similarity",
    method: Literal["rank", "contiguous", "knapsack"] = "rank",
    calibration: Calibration | None = None,
    samples: PositiveInt | None = None,
    seed: int = 0,
) -> Outcome:
    """The model without some of its blocks, or of the branches beside its residual stream: what one of them got goes
    on in place of what it gave.

    A branch goes with the norm that leads into it, and with the addition, as if it gave zeros. Only what gives the
    shape that it gets can go, and of which nothing else reads the inside. Paths of what stays do not change.

    Contract: alters.

    - at: `blocks`, `branches` (attention and MLP of a transformer each by itself), or patterns over paths of either.
      Where neither `by` nor `limit` says how many go, all that patterns name do.
    - by: how many go.
    - limit: what the rest may cost for one example (`macs <= 1 G`; also `parameters`, `activations`, `peak`).
    - score: how much the model would miss each. `similarity`: the cosine of the angle between what it gets and what it
      gives, averaged over positions of the calibration data, taken from 1. `output`: by how much the outputs change
      where it alone is missing, squared, relative to them. Or numbers by path.
    - method: `rank`, the lowest scores first; `contiguous`, a run of neighbours, by the angle between what the first
      gets and the last gives or the sum of other scores; `knapsack`, of all choices that meet the limit the one with
      the least sum of scores, exactly.
    - calibration, samples: examples to measure on, and how many; random ones where there are none.
    - seed: of random examples, and of the numbers of parameters without data.

    Refuses patterns that name what cannot go, more than there are, and limits out of reach.

    Source: He et al., "What matters in transformers? Not all attention is needed" (2024), for `similarity`; Gromov et
    al., "The unreasonable ineffectiveness of the deeper layers" (2024), for `contiguous`; Zhang et al., "LAPTOP-Diff"
    (2024), for `output` and `knapsack`.
    """
    if by is not None and limit is not None:
        raise Refusal("give a number or a limit, not both", option="limit")
    if method == "knapsack" and limit is None:
        raise Refusal("a knapsack wants a limit", option="limit")
    parts, stuck = _parts(graph, at)
    if by is None and limit is None:
        if at in _ALL:
            raise Refusal(f"how many {at} are to go?", option="by", fix="by = 1")
        if stuck:
            raise _unremovable(stuck)
        return _outcome(graph, parts, {})
    if by is not None and not 0 < by <= len(parts):
        message = f"{by} cannot go: there {'is' if len(parts) == 1 else 'are'} {len(parts)} that can"
        raise Refusal(message, nodes=list(stuck), option="by", notes=[f"{p}: {why}" for p, why in stuck.items()][:5])
    if limit is not None:
        unmet(graph, limit)
    drawn = graph.with_parameters([filled(p, seed) for p in graph.parameters.values()])
    scores = _Scores(drawn, parts, score, calibration or random_inputs(seed), samples)
    return _outcome(graph, _chosen(graph, parts, scores, method, by, limit), scores.each)


_ALL = ("blocks", "branches")


# ---------------------------------------------------------------------------------------------------- what can go


def _parts(graph: Graph, at: Paths) -> tuple[list[Block], dict[str, str]]:
    """The blocks or branches that are named and can go, in order, and why others cannot."""
    every = blocks(graph)
    if at == "branches" or (at != "blocks" and not any(matches(b.path, at) for b in every)):
        every = branches(graph)
    if not every:
        raise Refusal("it adds nothing to a stream that leads past it: there are no branches", option="at")
    found = [b for b in every if at in _ALL or matches(b.path, at)]
    if not found:
        raise nothing(at, (b.path for b in every), "block")
    problems = {b.path: why for b in found if (why := _problem(graph, b))}
    if len(problems) == len(found):
        raise _unremovable(problems)
    return [b for b in found if b.path not in problems], problems


def branches(graph: Graph) -> list[Block]:
    """What stands beside the residual stream: each part of the spine that ends by adding its input.

    Its path is that of the module which adds, or where that adds several times, of the module within that gives what is
    added.
    """
    found = spine(graph)
    ends = [
        (a, b)
        for a, b in pairwise(found.joints)
        if graph.nodes[b.node].op.name == "add"
        and a in graph.nodes[b.node].inputs
        and any(u.path != b.node and u.path in found.numbers for u in graph.users[a])
    ]
    return [found.between(a, b, _branch(graph, a, b, [end.node for _, end in ends])) for a, b in ends]


def _branch(graph: Graph, start: Value, end: Value, additions: Sequence[str]) -> str:
    """The path of the branch that leads from one value to the addition that gives the other."""
    scope = graph.nodes[end.node].scope
    inside = f"{scope}." if scope else ""
    if scope and sum(path.startswith(inside) for path in additions) == 1:
        return scope
    ref = next((r for r in graph.nodes[end.node].refs if r != start), start)
    while isinstance(ref, Value) and ref != start:
        path = inside + ref.node.removeprefix(inside).partition(".")[0]
        if ref.node.startswith(inside) and (path in graph.scopes or _layer(graph, ref)):
            return path
        ref = next((r for r in graph.nodes[ref.node].refs if isinstance(r, Value)), start)
    return end.node


def _layer(graph: Graph, ref: Value) -> bool:
    return any(isinstance(r, ParameterRef) for r in graph.nodes[ref.node].refs)


def _problem(graph: Graph, part: Block) -> str | None:
    """Why a block cannot go, in words."""
    given, made = graph.type(part.input), graph.type(part.output)
    if given != made:
        return f"it gets {given} and gives {made}"
    if not made.dtype.is_float:
        return f"it gives {made}"
    inside = set(part.nodes)
    named = {r: f"the {kind} {n}" for kind, t in (("tap", graph.taps), ("output", graph.outputs)) for n, r in t.items()}
    for path in part.nodes:
        for value in graph.nodes[path].values:
            readers = [u.path for u in graph.users.get(value, ()) if u.path not in inside]
            if value != part.output and (readers or value in named):
                return f"{value} is {f'read by {readers[0]}' if readers else named[value]}"
    return None


def _unremovable(problems: Mapping[str, str]) -> Refusal:
    notes = [f"{path}: {why}" for path, why in problems.items()]
    return Refusal("nothing else can stand in their place", nodes=list(problems), option="at", notes=notes[:5])


# ---------------------------------------------------------------------------------------------------- scores


class _Scores:
    """How much a model would miss each of its parts, by path, and runs of them."""

    def __init__(
        self,
        graph: Graph,
        parts: Sequence[Block],
        score: Literal["similarity", "output"] | dict[str, float],
        calibration: Calibration,
        samples: int | None,
    ) -> None:
        self._graph = graph
        self._data = calibration, samples
        self._angles = score == "similarity"
        if isinstance(score, dict):
            missing = [p.path for p in parts if p.path not in score]
            if missing:
                raise Refusal("there is no score for some of them", nodes=missing, option="score")
            self.each = {p.path: score[p.path] for p in parts}
        elif score == "output":
            self.each = {p.path: self._missed(p) for p in parts}
        else:
            cosines = self._cosines([(p.input, p.output) for p in parts])
            self.each = {p.path: 1 - float(c.mean()) for p, c in zip(parts, cosines, strict=True)}

    def of(self, runs: Sequence[Sequence[Block]]) -> list[float]:
        """A score for each run of neighbours."""
        if not self._angles:
            return [sum(self.each[p.path] for p in run) for run in runs]
        cosines = self._cosines([(run[0].input, run[-1].output) for run in runs])
        return [sum(acos(max(-1.0, min(1.0, c))) for c in each.tolist()) / len(each) / pi for each in cosines]

    def _cosines(self, pairs: Sequence[tuple[Value, Value]]) -> list[Array]:
        """The cosine of the angle between two values at each position of each example."""
        import numpy

        values = list(dict.fromkeys(v for pair in pairs for v in pair))
        names = {value: f"y{i}" for i, value in enumerate(values)}
        looked_at = replace(self._graph, outputs={name: v for v, name in names.items()}, taps={})
        analysis = analyse(self._graph)
        axes = [channel_axis(analysis, a) for a, _ in pairs]
        found: list[list[Array]] = [[] for _ in pairs]
        for outputs in features(looked_at, *self._data):
            for (a, b), axis, kept in zip(pairs, axes, found, strict=True):
                x, y = (outputs[names[v]].astype("float64") for v in (a, b))
                length = numpy.sqrt(numpy.square(x).sum(axis) * numpy.square(y).sum(axis))
                kept.append(((x * y).sum(axis) / numpy.where(length > 0, length, 1)).ravel())
        return [numpy.concatenate(kept) for kept in found]

    def _missed(self, part: Block) -> float:
        """The change of the outputs without a part, squared, relative to their squares."""
        changed = whole = 0.0
        after = features(without(self._graph, [part]), *self._data)
        for old, new in zip(features(self._graph, *self._data), after, strict=True):
            for name, y in old.items():
                if y.dtype.kind == "f":
                    changed += float(((new[name].astype("float64") - y) ** 2).sum())
                    whole += float((y.astype("float64") ** 2).sum())
        return changed / whole if whole else 0.0


# ---------------------------------------------------------------------------------------------------- choices


def _chosen(
    graph: Graph, parts: Sequence[Block], scores: _Scores, method: str, by: int | None, limit: Limit | None
) -> Sequence[Block]:
    """What goes."""
    if method == "contiguous":
        return _contiguous(graph, parts, scores, by, limit)
    if method == "knapsack" and limit is not None:
        return _cheapest(graph, parts, scores.each, limit)
    ranked = sorted(parts, key=lambda p: scores.each[p.path])
    if limit is None:
        return ranked[:by]
    return _until(graph, [ranked[:n] for n in range(1, len(parts) + 1)], limit)


def _until(graph: Graph, choices: Sequence[Sequence[Block]], limit: Limit) -> Sequence[Block]:
    """The first of growing choices that meets a limit."""
    for choice in choices:
        if meets(without(graph, choice), limit):
            return choice
    raise _out_of_reach(limit, spent(without(graph, choices[-1]), limit.quantity))


def _out_of_reach(limit: Limit, least: int) -> Refusal:
    notes = (f"without any that can go, {limit.quantity} = {least:_}",)
    return Refusal(f"{said(limit)} is out of reach", option="limit", notes=notes)


def _contiguous(
    graph: Graph, parts: Sequence[Block], scores: _Scores, by: int | None, limit: Limit | None
) -> Sequence[Block]:
    """The run of neighbours with the lowest score: of a length, or of the least length of which one meets a limit."""
    for length in [by] if by else range(1, len(parts) + 1):
        runs = [parts[i : i + length] for i in range(len(parts) - length + 1)]
        runs = [r for r in runs if all(_neighbours(graph, a, b) for a, b in pairwise(r))]
        runs = [r for r in runs if limit is None or meets(without(graph, r), limit)]
        if runs:
            found = scores.of(runs)
            return runs[found.index(min(found))]
    if limit is not None:
        raise Refusal(f"no run of neighbours is such that {said(limit)}", option="limit")
    raise Refusal(f"no {by} of them follow each other", option="by")


def _neighbours(graph: Graph, a: Block, b: Block) -> bool:
    """Whether a part gets what another gave, or that through operators without weights."""
    ref = b.input
    while ref != a.output:
        node = graph.nodes[ref.node]
        before = [r for r in node.refs if isinstance(r, Value)]
        if len(before) != 1 or _layer(graph, ref):
            return False
        ref = before[0]
    return True


def _cheapest(graph: Graph, parts: Sequence[Block], scores: Mapping[str, float], limit: Limit) -> Sequence[Block]:
    """Of all choices that meet a limit the one with the lowest sum of scores.

    Raises:
        Refusal: where what parts save does not add up, or the limit is out of reach.
    """
    now = spent(graph, limit.quantity)
    saved = [now - spent(without(graph, [p]), limit.quantity) for p in parts]
    least = spent(without(graph, parts), limit.quantity)
    if now - least != sum(saved):
        message = f"the {limit.quantity} of a model are no sum over these parts: a knapsack does not apply"
        raise Refusal(message, nodes=[p.path for p in parts], option="method", fix="method = rank")
    chosen = knapsack(saved, [scores[p.path] for p in parts], now - allowed(limit))
    if chosen is None:
        raise _out_of_reach(limit, least)
    return [parts[i] for i in chosen]


def knapsack(saved: Sequence[int], scores: Sequence[float], least: int) -> list[int] | None:
    """The items with the lowest sum of scores of those that together save at least so much; None where all do not.

    Dynamic programming over the sums that can be saved: exact, in time of their number (no more than `least`) times
    that of items.
    """
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for item, (weight, score) in enumerate(zip(saved, scores, strict=True)):
        with_it = [(min(least, t + weight), (harm + score, (*chosen, item))) for t, (harm, chosen) in best.items()]
        merged = sorted([*best.items(), *with_it], key=lambda state: (-state[0], state[1][0]))
        best = {}
        lowest = inf
        for total, state in merged:  # what saves less is of use only where it does less harm
            if state[0] < lowest:
                best[total] = state
                lowest = state[0]
    return list(best[least][1]) if least in best else None


# ---------------------------------------------------------------------------------------------------- the result


def without(graph: Graph, parts: Sequence[Block]) -> Graph:
    """The graph where the output of each part is its input. Parameters go that nothing else reads."""
    edit = graph.edit("drop")
    inside = {path for part in parts for path in part.nodes}
    for part in parts:
        edit.redirect(part.output, part.input)
    for path in inside:
        edit.remove(path)
    read = {*graph.outputs.values(), *graph.taps.values()}
    read |= {r for path, node in graph.nodes.items() if path not in inside for r in node.refs}
    for ref in {r for path in inside for r in graph.nodes[path].refs if isinstance(r, ParameterRef)} - read:
        edit.remove_parameter(ref.parameter)
    return _scoped(edit.done())


def _scoped(graph: Graph) -> Graph:
    """The graph without scopes in which there is nothing, but for those whose instance is called again."""
    used: set[str] = set()
    for path in (*graph.nodes, *graph.parameters):
        used |= {"", *above(path)}
    used |= {s.instance for s in graph.scopes.values() if s.path in used}
    return replace(graph, scopes={p: s for p, s in graph.scopes.items() if p in used})


def _outcome(graph: Graph, gone: Sequence[Block], scores: Mapping[str, float]) -> Outcome:
    order = {path: i for i, path in enumerate(graph.nodes)}
    ordered = sorted(gone, key=lambda part: order[part.output.node])
    said = [f"{p.path} is gone" + (f" (score {scores[p.path]:.4g})" if p.path in scores else "") for p in ordered]
    return Outcome(without(graph, gone), Contract("alters"), (*said, "inputs and outputs keep their shapes"))
