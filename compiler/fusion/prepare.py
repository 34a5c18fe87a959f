"""A model → the graph that a plan groups."""

from __future__ import annotations

from math import prod

from ..backend import backend
from ..diagnostic import Diagnostic, Label, NetcError
from ..graph import Graph
from ..passes.bind import bind
from ..passes.eliminate_dead import eliminate_dead
from ..plan import Plan

LARGEST = 2**40
"""Elements of a value: bytes that a whole model moves can be counted in 63 bits then."""


def prepared(plan: Plan, graph: Graph) -> Graph:
    """What the passes made, of known sizes and without what no output needs; for a target that code is generated for,
    in the operators that its backend has rules for.

    Raises:
        NetcError: where a size is left open or too large, or an operator has no rule.
    """
    bound = bind(graph, plan.sizes(graph))
    _check_sizes(plan, bound)
    if plan.target.compiles:
        return backend("tvm").prepare(bound, {})
    return eliminate_dead(bound)


def _check_sizes(plan: Plan, graph: Graph) -> None:
    for path, node in graph.nodes.items():
        elements = max((prod(int(str(d)) for d in type.shape) for type in node.types), default=0)
        if elements > LARGEST:
            given = [span for name, span in plan.places.items() if name == "batch" or name in plan.bind]
            message = f"%{path} would have {elements:.2e} elements, and no value may have more than {LARGEST:.2e}"
            raise NetcError([Diagnostic("plan", message, tuple(map(Label, given or [plan.span])))])
