"""The statistics of batch norms, from data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ..backend import backend
from ..calibration import Calibration
from ..contract import Contract
from ..graph import Graph, Node, ParameterRef
from ..operators.reduction import Mean, Var
from ..probe import bound
from ..types import Expression
from .numbers import held
from .register import Outcome, Refusal, transform

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@transform
def recompute_statistics(
    graph: Graph,
    calibration: Calibration,
    samples: Annotated[int, Field(ge=1)] | None = None,
) -> Outcome:
    """Compute the running mean and variance of every batch norm anew, from examples.

    Each has the statistics of what reaches it once those before it are right: those of one batch with all examples. A
    mean of models needs it, whose features vary less than theirs did. A norm that is called several times gets the mean
    of what its calls see.

    Contract: alters. All else stays as it is: no other parameter changes.

    - calibration: the examples.
    - samples: how many of them; all run at once.

    Refuses a model without batch norms, or with statistics that are no parameters.

    Source: Jordan et al., "REPAIR" (2023); Izmailov et al., "Averaging weights leads to wider optima" (2018), section
    3.2.
    """
    norms = [n for n in graph.nodes.values() if n.op.name == "batch_norm"]
    if not norms:
        raise Refusal(f"{graph.name} has no batch norm")
    odd = [n.path for n in norms if n.phase == "infer" or not all(isinstance(r, ParameterRef) for r in n.inputs[3:])]
    if odd:
        raise Refusal("statistics of batch norms are expressions, or of inference alone", nodes=odd)
    found = _statistics(graph, norms, calibration, samples)
    gathered: dict[str, list[Array]] = {}
    for node in norms:
        for ref, kind in zip(node.inputs[3:], ("mean", "var"), strict=True):
            assert isinstance(ref, ParameterRef)
            gathered.setdefault(ref.parameter, []).append(found[f"{node.path} {kind}"])
    changed = [held(graph.parameters[path], sum(arrays) / len(arrays)) for path, arrays in gathered.items()]  # pyright: ignore[reportArgumentType]
    note = f"the statistics of {len(norms)} batch norms are those of {calibration}; no other parameter changes"
    return Outcome(graph.with_parameters(changed), Contract("alters"), (note,))


def _statistics(graph: Graph, norms: list[Node], calibration: Calibration, samples: int | None) -> Mapping[str, Array]:
    """Mean and variance of each channel of what norms are given, in one batch and with the statistics of the batch."""
    edit = graph.edit("recompute_statistics")
    outputs = {}
    for node in norms:
        x = node.inputs[0]
        assert x is not None
        others = tuple(d for d in range(graph.type(x).rank) if d != 1)
        for kind, op in (("mean", Mean(others)), ("var", Var(others))):
            outputs[f"{node.path} {kind}"] = edit.add(edit.fresh(f"{node.path}.{kind}"), op, x, phase=node.phase).value
    watched = replace(edit.done(), outputs=outputs)
    given = calibration.inputs(graph, samples)
    sizes = {
        str(d): len(given[name])
        for name, n in graph.inputs.items()
        for d in n.types[0].shape[:1]
        if isinstance(d, Expression)
    }
    return backend("pytorch").Interpreter(bound(watched, sizes), "train")(given)
