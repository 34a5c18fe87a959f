"""A model → the graph that a plan groups."""

from __future__ import annotations

from ..backend import backend
from ..graph import Graph
from ..passes.bind import bind
from ..passes.eliminate_dead import eliminate_dead
from ..pipeline import Trace, run
from ..plan import Plan


def traced(plan: Plan, graph: Graph, facts: frozenset[str] = frozenset()) -> Trace:
    """A model through the passes of a plan; `facts` hold of it before.

    Raises:
        NetcError: where a pass cannot run.
    """
    return run(graph, plan.passes(), facts=facts)


def prepared(plan: Plan, graph: Graph) -> Graph:
    """What the passes made, of known sizes and without what no output needs; for a target that code is generated for,
    in the operators that its backend has rules for.

    Raises:
        NetcError: where a size is left open, or an operator has no rule.
    """
    sizes = plan.sizes(graph)
    if plan.target.compiles:
        return backend("tvm").prepare(graph, sizes)
    return eliminate_dead(bind(graph, sizes))
