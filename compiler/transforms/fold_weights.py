"""Weights that are expressions made numbers again."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..contract import Contract
from ..graph import Graph, ParameterRef, Value
from ..operators.operator import LAYERS
from ..passes.fold_constants import constants, folded
from .choose import Paths, listed, matches, nothing
from .register import Outcome, transform


@transform
def fold_weights(graph: Graph, at: Paths = "*", seed: int = 0) -> Outcome:
    """Make one parameter of each weight that is an expression over parameters: a product of low rank added to a
    weight, slices of a store, a mask, a sparse difference.

    The parameter has the name of the weight that the expression replaced, where it replaced one, so that a model which
    `lora` or `tie` changed has the parameters of an ordinary one again. It is trained if any of those it was made of
    is. The model may grow: what depths shared, each of them then has for itself.

    Contract: exact.

    - at: parameters that the expressions are made of; all of them.
    - seed: for parameters without numbers.

    Refuses a model in which no such expression is made of those parameters.
    """
    found = _expressions(graph)
    chosen = [e for e in found.values() if any(matches(p, at) for p in e.parameters)]
    if not chosen:
        raise nothing(at, dict.fromkeys(p for e in found.values() for p in e.parameters), "weight expression")
    after = folded(graph, "fold_weights", seed=seed, among={path for e in chosen for path in e.nodes})
    gone = [p for p in graph.parameters if p not in after.parameters]
    computed = [p for p, own in after.parameters.items() if own is not graph.parameters.get(p)]
    notes = [f"{len(computed)} parameters are computed: {listed(computed)}"]
    if gone:
        notes.append(f"{len(gone)} are gone: {listed(gone)}")
    sources: dict[str, tuple[str, ...]] = {}
    for each in chosen:
        reader, operand = each.reader
        ref = after.nodes[reader].inputs[operand] if reader in after.nodes else None
        if isinstance(ref, ParameterRef):
            sources[ref.parameter] = tuple(each.parameters)
    return Outcome(after, Contract(), tuple(notes), sources)


@dataclass
class _Expression:
    """What a value is made of that depends on no input."""

    nodes: set[str] = field(default_factory=set[str])
    parameters: dict[str, None] = field(default_factory=dict[str, None])
    reader: tuple[str, int] = ("", 0)
    """A node that reads it, and as which of its inputs."""


def _expressions(graph: Graph) -> dict[Value, _Expression]:
    """The expressions over parameters that a layer reads as its weight or bias, or that stand where one of their
    parameters could: in its shape, read by what depends on an input."""
    fixed = constants(graph)
    made: dict[str, _Expression] = {}
    for path, node in fixed.items():
        own = made[path] = _Expression({path})
        for ref in node.refs:
            if isinstance(ref, ParameterRef):
                own.parameters[ref.parameter] = None
            else:
                own.nodes |= made[ref.node].nodes
                own.parameters |= made[ref.node].parameters
    found: dict[Value, _Expression] = {}
    for node in graph.nodes.values():
        for i, ref in enumerate(node.inputs):
            own = made.get(ref.node) if isinstance(ref, Value) else None
            if own is None or not isinstance(ref, Value):
                continue
            like = any(graph.parameters[p].type == graph.type(ref) for p in own.parameters) and node.path not in fixed
            if own.parameters and (like or (i and node.op.name in LAYERS)):
                own.reader = (node.path, i)
                found[ref] = own
    return found
