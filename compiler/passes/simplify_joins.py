"""Join and part values only where something is left to join or part."""

from __future__ import annotations

from collections.abc import Iterator

from ..graph import Edit, Graph, Node, Ref, Value
from ..operators.layout import Concat, Split
from .register import graph_pass


@graph_pass()
def simplify_joins(graph: Graph) -> Graph:
    """The graph where a `concat` of `concat`s along one axis is one, the parts of a `split` that are put together again
    are what was split, the parts of a `concat` that is split where it was joined are its inputs, and nothing is joined
    or split that is in one piece. Rewrite rules match a fixed number of inputs; this takes any.

    Before:
    ```net
    input %x: f32[N, 6]
    input %y: f32[N, 2]

    %parts: (f32[N, 2], f32[N, 4]) = split(%x, sizes = [2, 4], dim = 1)
    %again: f32[N, 6] = concat([%parts, %parts:1], dim = 1)
    %both: f32[N, 8] = concat([%again, %y], dim = 1)
    %twice: f32[N, 10] = concat([%y, %both], dim = 1)

    return %twice
    ```
    After:
    ```net
    input %x: f32[N, 6]
    input %y: f32[N, 2]

    %twice: f32[N, 10] = concat([%y, %x, %y], dim = 1)

    return %twice
    ```

    Refuses a `concat` inside another one that something else reads: it is needed anyway, and joining its parts again
    would copy more.
    """
    while True:
        edit = graph.edit("simplify_joins")
        joins = _Joins(graph)
        for node in graph.nodes.values():
            if isinstance(node.op, Concat) and not joins.is_absorbed(node):
                _join(edit, graph, joins, node)
            elif isinstance(node.op, Split):
                _part(edit, graph, node)
        simpler = _swept(graph, edit.done())
        if simpler is graph:
            return graph
        graph = simpler


def _swept(before: Graph, after: Graph) -> Graph:
    """Without the joins and parts that nothing reads any more; those that nothing read before stay."""
    if before is after:
        return after
    read = {*after.outputs.values(), *after.taps.values()}
    edit = after.edit("simplify_joins")
    for path, node in reversed(list(after.nodes.items())):
        gone = isinstance(node.op, (Concat, Split)) and any(v in before.users for v in node.values)
        if gone and not any(v in read for v in node.values):
            edit.remove(path)
        else:
            read.update(node.refs)
    return edit.done()


class _Joins:
    """What the `concat`s of a graph join."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._kept = {*graph.outputs.values(), *graph.taps.values()}

    def is_only_for(self, value: Value, reader: Node) -> bool:
        """Whether `reader` reads the value, once, and nothing else does."""
        users = self._graph.users.get(value, ())
        once = sum(i == value for i in reader.inputs) == 1
        return value not in self._kept and len(users) == 1 and users[0] is reader and once

    def is_absorbed(self, node: Node) -> bool:
        """Whether a concat's only reader is another one along the same axis."""
        users = self._graph.users.get(node.value, ())
        return len(users) == 1 and users[0].op == node.op and self.is_only_for(node.value, users[0])

    def pieces(self, node: Node) -> Iterator[Ref]:
        """The values that a concat joins in the end."""
        waiting: list[Ref] = [*reversed(list(node.refs))]
        while waiting:
            ref = waiting.pop()
            source = self._graph.nodes[ref.node] if isinstance(ref, Value) else None
            if source and source.op == node.op and self.is_absorbed(source):
                waiting += reversed(list(source.refs))
            else:
                yield ref


def _join(edit: Edit, graph: Graph, joins: _Joins, node: Node) -> None:
    whole = list(_reunited(graph, node.op, list(joins.pieces(node))))
    if len(whole) == 1:
        edit.redirect(node.value, whole[0])
        edit.remove(node.path)
    elif whole != list(node.refs):
        edit.set(node.path, inputs=whole)


def _reunited(graph: Graph, op: object, pieces: list[Ref]) -> Iterator[Ref]:
    """The pieces, with what was split in the place of all its parts in order."""
    at = 0
    while at < len(pieces):
        ref = pieces[at]
        split = graph.nodes[ref.node] if isinstance(ref, Value) else None
        if split and isinstance(split.op, Split) and isinstance(op, Concat) and split.op.dim == op.dim:
            parts = list(split.values)
            if pieces[at : at + len(parts)] == parts:
                yield next(split.refs)
                at += len(parts)
                continue
        yield ref
        at += 1


def _part(edit: Edit, graph: Graph, node: Node) -> None:
    assert isinstance(node.op, Split)
    (x,) = node.refs
    source = graph.nodes[x.node] if isinstance(x, Value) else None
    if len(node.types) == 1:
        pieces = [x]
    elif source and isinstance(source.op, Concat) and source.op.dim == node.op.dim:
        pieces = list(source.refs)
    else:
        return
    if [graph.type(p) for p in pieces] != list(node.types):
        return
    for value, piece in zip(node.values, pieces, strict=True):
        edit.redirect(value, piece)
    edit.remove(node.path)
