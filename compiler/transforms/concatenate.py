"""Feed-forward parts that stand beside each other, and are added, made one with all their hidden units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..axes import Analysis, Selection
from ..graph import Edit, Graph, Parameter, ParameterRef, Ref, Value
from ..operators.arithmetic import Add
from .feedforward import FeedForward, copied
from .numbers import made

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Siblings:
    """Parts of one input and of one kind, and the innermost sum that all their outputs are in."""

    parts: tuple[FeedForward, ...]
    total: str

    @property
    def first(self) -> FeedForward:
        return self.parts[0]


def siblings(graph: Graph, parts: Sequence[FeedForward]) -> tuple[list[Siblings], list[FeedForward]]:
    """Groups of at least two parts that can be made one; and parts that have the input of others of their kind, but
    whose outputs meet those in no sum."""
    groups: list[list[FeedForward]] = []
    for part in parts:
        for group in groups:
            if part.input == group[0].input and _pairs(graph, group[0], part) is not None:
                group.append(part)
                break
        else:
            groups.append([part])
    found: list[Siblings] = []
    apart: list[FeedForward] = []
    for group in groups:
        common = set(_sums(graph, group[0].output)).intersection(*(_sums(graph, p.output) for p in group))
        total = next((path for path in _sums(graph, group[0].output) if path in common), None)
        if len(group) > 1 and total:
            found.append(Siblings(tuple(group), total))
        elif len(group) > 1:
            apart += group
    return found, apart


def _sums(graph: Graph, value: Value) -> Iterator[str]:
    """The additions that a value goes into, each the only reader of the last."""
    while True:
        users = graph.users.get(value, ())
        shown = value in graph.outputs.values() or value in graph.taps.values()
        if len(users) != 1 or shown or not isinstance(users[0].op, Add) or users[0].inputs.count(value) > 1:
            return
        if users[0].types[0] != graph.type(value):
            return
        value = users[0].value
        yield value.node


def _pairs(graph: Graph, a: FeedForward, b: FeedForward) -> dict[str, str] | None:
    """For each parameter of a, that in its place in b; None where they differ in more than numbers and hidden units."""
    same: dict[Ref | None, Ref | None] = {a.input: b.input, None: None}
    if len(a.nodes) != len(b.nodes) or (a is not b and set(a.nodes) & set(b.nodes)):
        return None
    for x, y in zip((graph.nodes[p] for p in a.nodes), (graph.nodes[p] for p in b.nodes), strict=True):
        if x.op != y.op or len(x.inputs) != len(y.inputs):
            return None
        for position, (i, j) in enumerate(zip(x.inputs, y.inputs, strict=True)):
            if isinstance(i, ParameterRef) and isinstance(j, ParameterRef) and i not in same:
                if not _alike(graph, a, b, i, j, last=x.path == a.last and position == 2):
                    return None
                same[i] = j
            elif i not in same or same[i] != j:
                return None
        same.update(zip(x.values, y.values, strict=True))
    return {
        i.parameter: j.parameter for i, j in same.items() if isinstance(i, ParameterRef) and isinstance(j, ParameterRef)
    }


def _alike(graph: Graph, a: FeedForward, b: FeedForward, i: ParameterRef, j: ParameterRef, *, last: bool) -> bool:
    """Whether two parameters can be made one: along the hidden units, or as they are the same, or as their sum."""
    p, q = a.places.get(i.parameter), b.places.get(j.parameter)
    kind, other = graph.type(i), graph.type(j)
    if p is None or q is None:
        return p is q and (i == j or (last and kind == other))
    rest = [(d, e) for axis, (d, e) in enumerate(zip(kind.shape, other.shape, strict=True)) if axis != p.axis]
    return p.whole and q.whole and p.axis == q.axis and kind.dtype == other.dtype and all(d == e for d, e in rest)


def concatenated(
    analysis: Analysis, groups: Sequence[Siblings], maker: str, homes: Sequence[str | None], seed: int = 0
) -> tuple[Graph, dict[str, tuple[str, ...]]]:
    """The graph with each group as one part, below the path of its home, or in the place of its first; and the
    parameters that each new one was made of. The hidden units stand in the order of the parts."""
    import numpy

    graph = analysis.graph
    units = {
        group.first.hidden: numpy.arange(sum(part.size for part in group.parts)) % group.first.size for group in groups
    }
    wide = Selection(analysis, units).graph()
    new: list[Parameter] = []
    sources: dict[str, tuple[str, ...]] = {}
    for group in groups:
        for path, others in _columns(graph, group).items():
            new.append(_one(graph, wide, group.first, path, others, seed))
            sources[path] = others
    wide = wide.with_parameters(new)
    edit = wide.edit(maker)
    for group, home in zip(groups, homes, strict=True):
        edit.acting(maker, group.total)
        alone = _sum_again(edit, graph, group)
        for part in group.parts[1:]:
            _remove(edit, graph, part)
        if home is not None:
            edit.acting(maker, group.first.last)
            out = _move(edit, wide, group.first, home, sources)
            if alone:
                _take_bias(edit, graph, Value(group.total), out)
    return edit.done(), sources


def _columns(graph: Graph, group: Siblings) -> dict[str, tuple[str, ...]]:
    """For each parameter of the first part that is not shared by all, those in its place in all parts."""
    found: dict[str, list[str]] = {}
    for part in group.parts:
        for path, other in cast("dict[str, str]", _pairs(graph, group.first, part)).items():
            found.setdefault(path, []).append(other)
    return {path: tuple(others) for path, others in found.items() if len(set(others)) > 1}


def _one(graph: Graph, wide: Graph, first: FeedForward, path: str, others: Sequence[str], seed: int) -> Parameter:
    import numpy

    place = first.places.get(path)

    def join(*arrays: Array) -> Array:
        return numpy.sum(arrays, 0) if place is None else numpy.concatenate(arrays, place.axis)

    old = [graph.parameters[other] for other in others]
    return made(graph.parameters[path], join, *old, type=wide.parameters[path].type, seed=seed)


def _sum_again(edit: Edit, graph: Graph, group: Siblings) -> bool:
    """The sum without the outputs of all parts but the first; whether nothing else is left of it."""
    gone = {part.output for part in group.parts[1:]}
    inner = {path for part in group.parts for path in _until(graph, part, group.total)}
    leaves: list[Ref] = []

    def walk(ref: Ref | None) -> None:
        if isinstance(ref, Value) and ref.node in inner:
            for i in graph.nodes[ref.node].inputs:
                walk(i)
        elif ref is not None and ref not in gone:
            leaves.append(ref)

    walk(Value(group.total))
    total: Ref = leaves[0]
    for leaf in leaves[1:-1]:
        total = edit.add(edit.fresh(group.total), Add(), total, leaf).value
    if len(leaves) > 1:
        edit.set(group.total, inputs=[total, leaves[-1]])
    else:
        edit.redirect(Value(group.total), total)
        edit.remove(group.total)
    for path in inner - {group.total}:
        edit.remove(path)
    return len(leaves) == 1


def _until(graph: Graph, part: FeedForward, total: str) -> Iterator[str]:
    for path in _sums(graph, part.output):
        yield path
        if path == total:
            return


def _remove(edit: Edit, graph: Graph, part: FeedForward) -> None:
    for path in reversed(part.nodes):
        edit.remove(path)
    own = dict.fromkeys(r for p in part.nodes for r in graph.nodes[p].refs if isinstance(r, ParameterRef))
    for ref in own:
        if all(user.path in part.nodes for user in graph.users[ref]):
            edit.remove_parameter(ref.parameter)


def _move(edit: Edit, graph: Graph, part: FeedForward, home: str, sources: dict[str, tuple[str, ...]]) -> Value:
    """Put a part below another path; its output there."""
    own = {r.parameter for p in part.nodes for r in graph.nodes[p].refs if isinstance(r, ParameterRef)}
    out = copied(edit, graph, part, home, {part.input: part.input}, own=own)
    edit.redirect(part.output, out)
    _remove(edit, graph, part)
    sources.update({part.below(home, path): sources.pop(path) for path in own if path in sources})
    assert isinstance(out, Value)
    return out


def _take_bias(edit: Edit, graph: Graph, total: Value, out: Value) -> None:
    """Make the vector that is added to a sum, of which only `out` is left, the bias of the linear layer it is."""
    layer, users = edit.node(out.node), graph.users.get(total, ())
    given = total in graph.outputs.values() or total in graph.taps.values()
    if layer.op.name != "linear" or layer.inputs[2:] != (None,) or len(users) != 1 or given:
        return
    bias = next((r for r in users[0].inputs if isinstance(r, ParameterRef)), None)
    if isinstance(users[0].op, Add) and bias is not None and graph.type(bias).shape == layer.types[0].shape[-1:]:
        edit.set(out.node, inputs=[*layer.inputs[:2], bias])
        edit.redirect(users[0].value, out)
        edit.remove(users[0].path)
