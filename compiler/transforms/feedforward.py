"""Feed-forward parts: layers around a dimension that nothing else sees, found from what each axis is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import cast

from ..axes import Analysis, AxisClass, Place
from ..graph import Edit, Graph, Node, ParameterRef, Ref, Value
from .choose import Paths, matches, nothing
from .weight import LAYERS


@dataclass(frozen=True, eq=False)
class FeedForward:
    """`input` goes through layers that make the hidden units, whatever treats each of them alone, and one layer that
    sums over them: nothing else reads or makes these units."""

    scope: str
    """What the paths of all its nodes have in common; empty at the top of a model."""
    input: Value
    nodes: tuple[str, ...]
    """In order; the last one is the layer that sums."""
    hidden: AxisClass
    size: int
    places: dict[str, Place]
    """By parameter, the axis that the hidden units are in."""

    @property
    def path(self) -> str:
        """The scope, or the last layer where there is none."""
        return self.scope or self.last

    @property
    def last(self) -> str:
        """The layer that sums over the hidden units."""
        return self.nodes[-1]

    @property
    def output(self) -> Value:
        return Value(self.last)

    def below(self, prefix: str, path: str) -> str:
        """A path of the part, below another one."""
        return f"{prefix}.{path.removeprefix(f'{self.scope}.' if self.scope else '')}"


def layers(graph: Graph, part: FeedForward) -> list[Node]:
    """Those that multiply by weights."""
    return [node for path in part.nodes if (node := graph.nodes[path]).op.name in LAYERS]


def copied(
    edit: Edit, graph: Graph, part: FeedForward, prefix: str, given: Mapping[Ref, Ref | None], *, own: Collection[str]
) -> Ref:
    """Add a part's nodes, as they are in `graph`, below a path; the value that stands for its output.

    `given` says what stands for its input, and for any of its parameters; those among `own` come along below the path
    too, and others stay the same.
    """
    named: dict[Ref, Ref | None] = dict(given)

    def moved(ref: Ref | None) -> Ref | None:
        if ref is None or ref in named:
            return ref and named[ref]
        assert isinstance(ref, ParameterRef)
        if ref.parameter in own:
            old = graph.parameters[ref.parameter]
            named[ref] = edit.parameter(replace(old, path=part.below(prefix, old.path)))
            return named[ref]
        return ref

    for path in part.nodes:
        node = graph.nodes[path]
        fresh = edit.fresh(part.below(prefix, path))
        new = edit.add(fresh, node.op, *map(moved, node.inputs), phase=node.phase, origin=node.origin)
        named.update(zip(node.values, new.values, strict=True))
    found = named[part.output]
    assert found is not None
    return found


def every_feed_forward(analysis: Analysis) -> list[FeedForward]:
    """All feed-forward parts of a model, in order."""
    number = {path: i for i, path in enumerate(analysis.graph.nodes)}
    found = [part for own in analysis.classes if (part := _part(analysis, own, number))]
    return sorted(found, key=lambda part: number[part.last])


def feed_forwards(analysis: Analysis, at: Paths = "*") -> list[FeedForward]:
    """The feed-forward parts of a model that patterns name, in order.

    Raises:
        Refusal: where there are none.
    """
    found = every_feed_forward(analysis)
    chosen = [part for part in found if any(matches(p, at) for p in (part.path, *part.nodes))]
    if not chosen:
        raise nothing(at, (part.path for part in found), "feed-forward part")
    return chosen


def _part(analysis: Analysis, own: AxisClass, number: Mapping[str, int]) -> FeedForward | None:
    graph = analysis.graph
    if not own.permutable or own.mixed or not isinstance(own.size, int):
        return None
    uses = analysis.uses(own)
    last = [use for use in uses if use.reduced]
    if len(last) != 1 or not _multiplies(graph.nodes[last[0].node]) or last[0].inputs[0] != 0:
        return None
    nodes = [graph.nodes[path] for path in dict.fromkeys(use.node for use in uses)]
    makers = {use.node for use in uses if use.outputs and 0 not in use.inputs and _multiplies(graph.nodes[use.node])}
    if not makers or not all(_alone(graph, n) for n in nodes if n.path not in makers and n.path != last[0].node):
        return None
    inside = {n.path for n in nodes}
    outside = {r for n in nodes for r in n.refs if isinstance(r, Value) and r.node not in inside}
    read = {graph.nodes[path].inputs[0] for path in makers}
    order = sorted(inside, key=number.__getitem__)
    places = {cast(ParameterRef, p.ref).parameter: p for p in own.places}
    if outside != read or len(outside) != 1 or order[-1] != last[0].node or len(places) != len(own.places):
        return None
    if _seen(graph, inside, order[-1]) or not _only_there(graph, places, inside):
        return None
    return FeedForward(_scope(order), next(iter(outside)), tuple(order), own, own.size, places)


def _multiplies(node: Node) -> bool:
    return node.op.name in LAYERS and all(r is None or isinstance(r, ParameterRef) for r in node.inputs[1:])


def _alone(graph: Graph, node: Node) -> bool:
    """Whether a node multiplies nothing by weights: it treats each unit by itself."""
    return node.op.cost(graph.input_types(node), node.types).macs == 0


def _seen(graph: Graph, inside: set[str], last: str) -> bool:
    """Whether the hidden units are read outside, or given out."""
    values = {v for p in inside - {last} for v in graph.nodes[p].values}
    read = any(user.path not in inside for v in values for user in graph.users.get(v, ()))
    return read or any(v in values for v in (*graph.outputs.values(), *graph.taps.values()))


def _only_there(graph: Graph, places: dict[str, Place], inside: set[str]) -> bool:
    """Whether the parameters belong to these nodes alone."""
    return all(user.path in inside for path in places for user in graph.users.get(ParameterRef(path), ()))


def _scope(nodes: list[str]) -> str:
    """What the paths of nodes have in common, in whole names."""
    names = zip(*(path.split(".")[:-1] for path in nodes), strict=False)
    common = takewhile(lambda level: len(set(level)) == 1, names)
    return ".".join(level[0] for level in common)


def beginnings(parts: list[FeedForward]) -> Iterator[tuple[FeedForward, str]]:
    """Each part with a path that only it has: its own, or its last layer's where several lie in one scope."""
    count: dict[str, int] = {}
    for part in parts:
        count[part.path] = count.get(part.path, 0) + 1
    for part in parts:
        yield part, part.path if count[part.path] == 1 else part.last
