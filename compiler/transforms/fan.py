"""Initialisers that hold a bound made of a layer's width: they follow when the width changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import isclose, prod, sqrt

from ..graph import Graph, Node, Parameter, ParameterRef
from ..operators.operator import Initialiser


def refitted(before: Graph, after: Graph) -> Graph:
    """`after`, which has other sizes than `before`, with bounds `± 1 / √fan_in` of the new sizes.

    They are PyTorch's for the biases of convolutions and linear layers, and for all weights of recurrent ones: where a
    node reads a parameter of the bound `1 / √(in · kernel)` of one of its weights, the bound is that weight's still.
    """
    changed: dict[str, Parameter] = {}
    for node in after.nodes.values():
        for path in _parameters(node):
            parameter = after.parameters[path]
            kind, bounds = parameter.initialiser.kind, parameter.initialiser.arguments
            if kind == "uniform" and len(bounds) == 2 and bounds[0] == -bounds[1]:
                for weight in _parameters(node):
                    old, new = (_fan(g.parameters.get(weight)) for g in (before, after))
                    if old and new and old != new and isclose(bounds[1] * sqrt(old), 1, rel_tol=1e-9):
                        bound = new**-0.5
                        changed[path] = replace(parameter, initialiser=Initialiser("uniform", (-bound, bound)))
                        break
    return after.with_parameters(changed.values()) if changed else after


def _parameters(node: Node) -> Iterator[str]:
    return (ref.parameter for ref in node.refs if isinstance(ref, ParameterRef))


def _fan(weight: Parameter | None) -> int:
    """The inputs that an output of a weight `[out, in, *kernel]` sums over; 0 for what is no weight."""
    sizes = [d for d in weight.type.shape[1:] if isinstance(d, int)] if weight else []
    return prod(sizes) if weight and weight.type.rank > 1 and len(sizes) == weight.type.rank - 1 else 0
