"""Which parameters a loss can train: where gradients flow, from the graph alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from .graph import Graph, ParameterRef, Ref, SelectPhase, Value
from .types import Dim, total


@dataclass(frozen=True)
class Reach:
    """Where the gradients of some outputs flow. Every set is exact but for operators whose gradient is zero."""

    nodes: frozenset[str]
    """Nodes that a way back from the outputs leads to, whether or not anything before them is trained."""
    backward: tuple[str, ...]
    """Those of them that have a trained parameter before them, in order: the nodes of the backward path."""
    parameters: frozenset[str]
    """Trained parameters that get a gradient."""
    kept: Dim
    """Bytes of activations that the nodes of the backward path read: what the forward path must keep for them."""


_STOPS = frozenset({"stop_gradient"})


def reaches(graph: Graph, outputs: Collection[str] | None = None) -> Reach:
    """How far gradients of these outputs (all) flow back in training.

    They do not pass `stop_gradient`, nor values that are not floats. Buffers and frozen parameters get none.
    """
    ends = [ref for name, ref in graph.outputs.items() if outputs is None or name in outputs]
    seen: set[Ref] = set()
    waiting = [ref for ref in ends if graph.type(ref).dtype.is_float]
    while waiting:
        ref = waiting.pop()
        if ref in seen:
            continue
        seen.add(ref)
        if isinstance(ref, Value):
            waiting += [r for r in _read(graph, ref.node) if graph.type(r).dtype.is_float]
    nodes = {ref.node for ref in seen if isinstance(ref, Value)}
    parameters = {ref.parameter for ref in seen if isinstance(ref, ParameterRef)}
    trained = frozenset(p for p in parameters if graph.parameters[p].trainable and not graph.parameters[p].buffer)
    backward = _behind(graph, nodes, trained)
    kept = {r for path in backward for r in graph.nodes[path].refs if isinstance(r, Value)}
    return Reach(frozenset(nodes), backward, trained, total(graph.type(r).bytes for r in kept))


def _read(graph: Graph, path: str) -> list[Ref]:
    """What the output of a node is differentiable in."""
    node = graph.nodes[path]
    if node.op.name in _STOPS:
        return []
    return list(node.refs)[:1] if isinstance(node.op, SelectPhase) else list(node.refs)


def _behind(graph: Graph, nodes: Collection[str], trained: Collection[str]) -> tuple[str, ...]:
    """The nodes that gradients reach and that depend, differentiably, on a trained parameter."""
    found: dict[str, None] = {}
    for path in graph.nodes:
        if path in nodes and any(
            r.parameter in trained if isinstance(r, ParameterRef) else r.node in found for r in _read(graph, path)
        ):
            found[path] = None
    return tuple(found)
