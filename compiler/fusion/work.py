"""Which nodes of a graph work, and which only carry: a plan groups the first, the others follow their readers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from ..graph import Graph, Input, Node, Ref, Value
from ..passes.fold_constants import constants

MOVES = frozenset(
    {
        "reshape", "flatten", "squeeze", "unsqueeze", "identity", "stop_gradient", "dropout", "drop_path",
        "select_phase", "permute", "transpose", "slice", "split", "chunk", "expand", "constant", "full",
    }
)  # fmt: skip
"""Operators that say where elements are, and compute none."""

TRANSPARENT = frozenset({"identity", "stop_gradient", "dropout", "drop_path"})
"""Those among them whose value is what they read."""


class Work:
    """The working nodes of a graph of inference.

    Carried nodes are those whose operator is in `MOVES`, and those that depend on no input, which are computed at
    compile time. A move that is itself an output of the model, and moves an input of the model, works: nobody else
    could bring its elements into order.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.constant = frozenset(constants(graph))
        self.nodes: dict[str, Node] = {
            path: node
            for path, node in graph.nodes.items()
            if not isinstance(node.op, Input) and path not in self.constant and node.op.name not in MOVES
        }
        for ref in graph.outputs.values():
            if isinstance(ref, Value) and self._moves_input(ref):
                self.nodes[ref.node] = graph.nodes[ref.node]
        self.nodes = {path: self.nodes[path] for path in graph.nodes if path in self.nodes}

    def _moves_input(self, ref: Value) -> bool:
        if ref.node in self.constant or isinstance(self.graph.nodes[ref.node].op, Input):
            return False
        return not any(self.sources(ref))

    def sources(self, ref: Ref | None) -> Iterator[str]:
        """The working nodes that make what `ref` carries, itself included."""
        seen: set[str] = set()
        waiting = [ref]
        while waiting:
            at = waiting.pop()
            if not isinstance(at, Value) or at.node in seen or at.node in self.constant:
                continue
            seen.add(at.node)
            if at.node in self.nodes:
                yield at.node
            else:
                waiting.extend(self.graph.nodes[at.node].inputs)

    @cached_property
    def before(self) -> dict[str, tuple[str, ...]]:
        """The working nodes that each working node reads from, carried ones between them left out."""
        return {
            path: tuple(dict.fromkeys(s for ref in node.inputs for s in self.sources(ref)))
            for path, node in self.nodes.items()
        }

    @cached_property
    def after(self) -> dict[str, tuple[str, ...]]:
        """The working nodes that read from each."""
        found: dict[str, list[str]] = {path: [] for path in self.nodes}
        for path, sources in self.before.items():
            for source in sources:
                found[source].append(path)
        return {path: tuple(readers) for path, readers in found.items()}

    @cached_property
    def leaving(self) -> frozenset[str]:
        """Working nodes that make an output of the model."""
        return frozenset(s for ref in self.graph.outputs.values() for s in self.sources(ref))
