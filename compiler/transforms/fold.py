"""Weights that are expressions made numbers again."""

from __future__ import annotations

from ..contract import Contract
from ..graph import Graph, ParameterRef, Value
from ..operators.operator import LAYERS
from ..passes.fold_constants import constants, folded
from .choose import Paths, matches, nothing
from .register import Outcome, transform


@transform
def fold(graph: Graph, at: Paths = "weights", seed: int = 0) -> Outcome:
    """Make one parameter of each weight that is an expression over parameters: a product of low rank added to a
    weight, slices of a store, a mask, a sparse difference.

    The parameter has the name of the weight that the expression replaced, where it replaced one, so that a model which
    `lora` or `tie` changed has the parameters of an ordinary one again. It is trained if any of those it was made of
    is. The model may grow: what depths shared, each of them then has for itself.

    Contract: exact.

    - at: parameters that the expressions are made of; `weights` are those of which a layer's weight or bias is made.
    - seed: for parameters without numbers.

    Refuses a model in which no such expression is made of those parameters.
    """
    expressed = _sources(graph)
    after = folded(graph, "fold", seed=seed, among=lambda p: p in expressed if at == "weights" else matches(p, at))
    if after is graph:
        raise nothing(at, expressed, "weight expression")
    gone = [p for p in graph.parameters if p not in after.parameters]
    new = [p for p in after.parameters if p not in graph.parameters]
    computed = [p for p, own in after.parameters.items() if own is not graph.parameters.get(p)]
    notes = [f"{len(computed)} parameters are computed: {_listed(computed)}"]
    if gone:
        notes.append(f"{len(gone)} are gone: {_listed(gone)}")
    sources = {path: tuple(gone) for path in new}
    return Outcome(after, Contract(), tuple(notes), sources)


def _sources(graph: Graph) -> dict[str, None]:
    """The parameters of which weights and biases that are expressions are made."""
    fixed = constants(graph)
    waiting = [r for n in graph.nodes.values() if n.op.name in LAYERS for r in n.inputs[1:] if isinstance(r, Value)]
    seen: set[str] = set()
    found: dict[str, None] = {}
    while waiting:
        path = waiting.pop().node
        if path in fixed and path not in seen:
            seen.add(path)
            waiting += [r for r in fixed[path].refs if isinstance(r, Value)]
            found.update((r.parameter, None) for r in fixed[path].refs if isinstance(r, ParameterRef))
    return found


def _listed(paths: list[str]) -> str:
    return ", ".join(paths[:5]) + (f", … ({len(paths)} in all)" if len(paths) > 5 else "")
