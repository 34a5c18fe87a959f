"""A shallower model made as deep as another, of the same function and with the other's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..blocks import blocks, stages
from ..calibration import Calibration
from ..graph import Graph, ParameterRef, Ref, Value
from ..merging.depth import in_order, likeness
from ..paths import above
from .deepen import deepen
from .register import Refusal
from .solve import features

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


def balanced(first: Graph, other: Graph, calibration: Calibration | None, samples: int | None, seed: int) -> Graph:
    """The other model with blocks that pass on what they are given, so that it has as many as the first, and with the
    first model's names (CLAFusion: Nguyen et al., 2023).

    A block stands where the first model's block is whose output is most like its own, in the same stage where both have
    as many stages; the order stays.

    Raises:
        Refusal: without examples; where the other model is the deeper one, or no block of the first has its shape.
    """
    deep, shallow = blocks(first), blocks(other)
    if len(deep) == len(shallow):
        return other
    if len(deep) < len(shallow):
        text = f"{other.name} has {len(shallow)} blocks and {first.name} {len(deep)}"
        raise Refusal(text, fix=f"merge({other.name}, {first.name}, …): the deepest model comes first")
    if calibration is None:
        text = (
            f"{first.name} has {len(deep)} blocks and {other.name} {len(shallow)}: which they are is seen by examples"
        )
        raise Refusal(text, option="method", fix="transport(calibration = …)")
    import numpy

    outputs = (
        _outputs(g, [b.output for b in own], calibration, samples) for g, own in ((other, shallow), (first, deep))
    )
    one, two = outputs
    costs = numpy.array([[1 - likeness(a, b) if len(a) == len(b) else numpy.inf for b in two] for a in one])
    chosen = _by_stages(costs, [[len(s) for s in stages(g)] for g in (other, first)])
    if chosen is None:
        raise Refusal(f"the blocks of {other.name} cannot be put among those of {first.name}")
    for block, start, end in zip(shallow, chosen, [*chosen[1:], len(deep)], strict=True):
        if end - start > 1:
            other = deepen(other, at=block.path, by=end - start - 1, seed=seed).graph
    made = blocks(other)
    grown = renamed(other, {b.path: d.path for b, d in zip(made, deep, strict=True)})
    # What is inserted comes last among the parameters, and classes are numbered in their order.
    order = dict.fromkeys(p for p in (*first.parameters, *grown.parameters) if p in grown.parameters)
    return replace(grown, parameters={p: grown.parameters[p] for p in order})


def _by_stages(costs: Array, counts: Sequence[Sequence[int]]) -> list[int] | None:
    """`in_order` within each stage, where both models have as many: what begins a stage changes the shape."""
    few, many = counts
    if len(few) != len(many) or any(a > b for a, b in zip(few, many, strict=True)):
        return in_order(costs)
    found: list[int] = []
    for number, (rows, columns) in enumerate(zip(few, many, strict=True)):
        row, column = sum(few[:number]), sum(many[:number])
        part = in_order(costs[row : row + rows, column : column + columns])
        if part is None:
            return None
        found += [column + i for i in part]
    return found


def renamed(graph: Graph, paths: Mapping[str, str]) -> Graph:
    """The graph with other paths for calls, and for all that lies below them."""

    def new(path: str) -> str:
        way = next((p for p in (path, *above(path)) if p in paths), None)
        return path if way is None else paths[way] + path[len(way) :]

    def ref(old: Any) -> Any:
        if isinstance(old, Value):
            return Value(new(old.node), old.index)
        return ParameterRef(new(old.parameter)) if isinstance(old, ParameterRef) else None

    nodes = [replace(n, path=new(n.path), inputs=tuple(ref(i) for i in n.inputs)) for n in graph.nodes.values()]
    scopes = [replace(s, path=new(s.path), instance=new(s.instance)) for s in graph.scopes.values()]
    return replace(
        graph,
        nodes={n.path: n for n in nodes},
        parameters={new(p): replace(own, path=new(p)) for p, own in graph.parameters.items()},
        scopes={s.path: s for s in scopes},
        outputs={name: ref(r) for name, r in graph.outputs.items()},
        taps={name: ref(r) for name, r in graph.taps.items()},
    )


def _outputs(graph: Graph, values: list[Value], calibration: Calibration, samples: int | None) -> list[Array]:
    """Values for examples, as rows of features: of positions, where those are not the first or last axis."""
    import numpy

    watched: dict[str, Ref] = {str(i): v for i, v in enumerate(values)}
    batches = list(features(replace(graph, outputs=watched), calibration, samples))
    return [numpy.concatenate([b[name].reshape(len(b[name]), -1) for b in batches]) for name in watched]
