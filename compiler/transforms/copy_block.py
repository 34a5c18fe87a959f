"""A block once more, somewhere else in its model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from ..blocks import Block
from ..graph import Edit, Graph, Parameter, ParameterRef, Ref
from ..paths import above, lies_in
from .numbers import filled


class FreePaths:
    """Paths below which a graph has nothing yet; each is given once."""

    def __init__(self, graph: Graph) -> None:
        every = (*graph.nodes, *graph.parameters, *graph.scopes)
        self._taken = {path for one in every for path in (one, *above(one))}

    def after(self, path: str) -> str:
        """`path_1`, or the first of `path_2`, … that is free."""
        number = 1
        while (free := f"{path}_{number}") in self._taken:
            number += 1
        self._taken.add(free)
        return free


def copy_block(
    edit: Edit,
    graph: Graph,
    block: Block,
    path: str,
    given: Mapping[Ref, Ref],
    own: Collection[str],
    numbers: Mapping[str, Callable[[Parameter], Parameter]],
    seed: int = 0,
) -> tuple[Ref, dict[str, str]]:
    """Add the nodes of a block at another path, with the parameters `own` as copies and the others as they are.

    `given` says what stands for values from outside, `numbers` gives parameters, by their old paths, other numbers.

    Returns:
        What stands for the output of the block, and the new path of each parameter that is a copy.
    """
    done: dict[Ref, Ref] = dict(given)
    copies: dict[str, str] = {}

    def moved(old: str) -> str:
        if lies_in(old, block.path):
            return path + old[len(block.path) :]
        return f"{path}.{old}"

    for name in block.nodes:
        node = graph.nodes[name]
        for ref in node.refs:
            if isinstance(ref, ParameterRef) and ref.parameter in own and ref not in done:
                copies[ref.parameter] = moved(ref.parameter)
                parameter = replace(filled(graph.parameters[ref.parameter], seed), path=copies[ref.parameter])
                done[ref] = edit.parameter(numbers.get(ref.parameter, lambda p: p)(parameter))
        inputs = [None if r is None else done.get(r, r) for r in node.inputs]
        new = edit.add(moved(name), node.op, *inputs, phase=node.phase, origin=node.origin)
        done.update(zip(node.values, new.values, strict=True))
    for scope in graph.scopes.values():
        if lies_in(scope.path, block.path):
            edit.scope(replace(scope, path=moved(scope.path), instance=moved(scope.instance)))
    return done[block.output], copies
