"""The spine of a model, the values that everything passes through, and the blocks and stages that lie along it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise

from .graph import Graph, Node, Scope, SelectPhase, Value
from .paths import above


@dataclass(frozen=True)
class Block:
    """A part of a model between two neighbouring joints of its spine, or joints further apart.

    `path` and `module` are those of the call it is; of its first node and operator where it is no call.
    """

    path: str
    module: str
    input: Value
    output: Value
    nodes: tuple[str, ...]
    """In order: what leads from `input` to `output`, and what only that needs (weights made of parameters)."""
    side: tuple[Value, ...]
    """Values from outside, other than `input`, that the nodes read: masks, positions, tables that blocks share."""

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class Spine:
    """The joints of a graph in order. `order` are the nodes that lead from the first input to the output."""

    graph: Graph
    joints: tuple[Value, ...]
    order: tuple[str, ...]

    def position(self, joint: Value) -> int:
        """Where a joint stands among the joints."""
        return self._positions[joint]

    @cached_property
    def _positions(self) -> dict[Value, int]:
        return {joint: i for i, joint in enumerate(self.joints)}

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Where each node on the way stands in `order`."""
        return {path: i for i, path in enumerate(self.order)}

    @cached_property
    def _ranks(self) -> dict[str, int]:
        return {path: i for i, path in enumerate(self.graph.nodes)}

    def between(self, start: Value, end: Value, path: str = "", module: str = "") -> Block:
        """The part from one joint to a later one."""
        own = self.order[self.numbers[start.node] + 1 : self.numbers[end.node] + 1]
        nodes = self._with_makers(own)
        inside = set(nodes)
        side = (v for p in nodes for v in _values(self.graph.nodes[p]) if v != start and v.node not in inside)
        first = self.graph.nodes[own[0]] if own else None
        name = module or (first.op.name if first else "")
        return Block(path or (own[0] if own else start.node), name, start, end, nodes, tuple(dict.fromkeys(side)))

    def _with_makers(self, own: Sequence[str]) -> tuple[str, ...]:
        """These nodes and those that they alone need and that no input feeds, in order."""
        graph, inside = self.graph, set(own)
        waiting = list(own)
        while waiting:
            for maker in {r.node for r in graph.nodes[waiting.pop()].refs if isinstance(r, Value)}:
                if maker in inside or maker in self.numbers or maker in graph.inputs:
                    continue
                if all(n.path in inside for v in graph.nodes[maker].values for n in graph.users.get(v, ())):
                    inside.add(maker)
                    waiting.append(maker)
        return tuple(sorted(inside, key=self._ranks.__getitem__))


def spine(graph: Graph, output: str | None = None) -> Spine:
    """The values through which every way from the first input to an output (the first) leads, in inference.

    Other inputs, and what is made of parameters alone, are no part of it: they stand at its side.
    """
    end = graph.outputs[output or next(iter(graph.outputs))]
    if not isinstance(end, Value) or not graph.inputs:
        return Spine(graph, (), ())
    order = _way(graph, next(iter(graph.inputs)), end)
    number = {path: i for i, path in enumerate(order)}
    last: dict[Value, int] = {end: len(order)}
    for path in order:
        for value in _values(graph.nodes[path]):
            if value.node in number:
                last[value] = max(last.get(value, 0), number[path])
    joints: list[Value] = []
    alive: set[Value] = set()
    for i, path in enumerate(order):
        alive = {v for v in alive if last[v] > i}
        alive |= {v for v in graph.nodes[path].values if last.get(v, -1) > i}
        if len(alive) == 1 and next(iter(alive)).node == path:
            joints.append(next(iter(alive)))
    return Spine(graph, tuple(joints), tuple(order))


def _values(node: Node) -> Iterator[Value]:
    """The values that a node reads in inference."""
    refs = node.inputs[1:] if isinstance(node.op, SelectPhase) else node.inputs
    return (r for r in refs if isinstance(r, Value))


def _way(graph: Graph, start: str, end: Value) -> list[str]:
    """The nodes on ways from an input to a value, in the order of the graph."""
    needed: set[str] = set()
    waiting = [end.node]
    while waiting:
        path = waiting.pop()
        if path not in needed:
            needed.add(path)
            waiting += [v.node for v in _values(graph.nodes[path])]
    found: set[str] = {start}
    return [
        path
        for path, node in graph.nodes.items()
        if path in needed and (path == start or any(v.node in found for v in _values(node))) and not found.add(path)
    ]


def blocks(graph: Graph, output: str | None = None) -> list[Block]:
    """The blocks of a model in order.

    A block is a call of a module from joint to joint, of a module that joins branches in some of its calls (a residual,
    a concatenation); the outermost of such calls. A model without any is cut before each layer with weights.
    """
    found = spine(graph, output)
    calls = dict(_calls(found))
    joining = {scope.module for scope, block in calls.values() if _joins(found, block, scope, calls)}
    kept: dict[str, Block] = {}
    for path, (scope, block) in calls.items():
        if scope.module in joining and kept.keys().isdisjoint(above(path)):
            kept[path] = block
    return sorted(kept.values(), key=lambda b: found.position(b.input)) or list(_layers(found))


def stages(graph: Graph, output: str | None = None) -> list[list[Block]]:
    """The blocks in runs whose outputs have one shape."""
    return [list(run) for _, run in groupby(blocks(graph, output), lambda b: graph.type(b.output).shape)]


def _calls(found: Spine) -> Iterator[tuple[str, tuple[Scope, Block]]]:
    """The calls of modules that lie on the spine, but for the whole, outer ones first."""
    graph = found.graph
    joints = {v.node: v for v in found.joints}
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    count: dict[str, int] = {}
    for i, path in enumerate(found.order):
        for scope in above(path):
            if scope in graph.scopes:
                first.setdefault(scope, i)
                last[scope] = i
                count[scope] = count.get(scope, 0) + 1
    for path, scope in graph.scopes.items():
        if path not in first or first[path] == 0 or count[path] != last[path] - first[path] + 1:
            continue
        start, end = joints.get(found.order[first[path] - 1]), joints.get(found.order[last[path]])
        if start is not None and end is not None:
            yield path, (scope, found.between(start, end, path, scope.module))


def _joins(found: Spine, block: Block, scope: Scope, calls: dict[str, tuple[Scope, Block]]) -> bool:
    """Whether a call joins branches itself, and not in a call within it that lies on the spine."""
    way = found.numbers
    for path in block.nodes:
        values = {v for v in _values(found.graph.nodes[path]) if v.node in way}
        inner = (s for s in above(path) if s.startswith(f"{scope.path}."))
        if path in way and len(values) > 1 and calls.keys().isdisjoint(inner):
            return True
    return False


def _layers(found: Spine) -> Iterator[Block]:
    """Each layer with weights, with what follows it up to the next."""
    graph = found.graph
    starts = [i for i, v in enumerate(found.joints) if i and _weighted(graph, graph.nodes[v.node])]
    for a, b in pairwise([*starts, len(found.joints)]):
        node = graph.nodes[found.joints[a].node]
        yield found.between(found.joints[a - 1], found.joints[b - 1], node.path, node.op.name)


def _weighted(graph: Graph, node: Node) -> bool:
    """Whether a node multiplies by a matrix or kernels, and not merely by numbers for each channel."""
    return any(not isinstance(r, Value) and graph.type(r).rank > 1 for r in node.refs)
