"""Let what reads a value or parameter of a model read another."""

from __future__ import annotations

from ..graph import Edit, Graph, Ref


def read_instead(edit: Edit, graph: Graph, old: Ref, new: Ref) -> None:
    """Every node of the graph that reads `old` reads `new`, and so do outputs and taps; nodes that were added in this
    batch go on as they are."""
    for user in graph.users.get(old, ()):
        edit.set(user.path, inputs=[new if i == old else i for i in edit.node(user.path).inputs])
    for name, ref in graph.outputs.items():
        if ref == old:
            edit.output(name, new)
    for name, ref in graph.taps.items():
        if ref == old:
            edit.tap(name, new)
