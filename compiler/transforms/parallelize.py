"""Residual parts beside each other that stood one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Literal

from pydantic import NonNegativeInt

from ..axes import analyse
from ..blocks import Block, Spine, spine
from ..contract import Contract
from ..graph import Edit, Graph, Ref, Value
from ..measure import measure
from ..operators.arithmetic import Add
from ..probe import probed
from .choose import Paths, chosen_blocks
from .concatenate import concatenated, siblings
from .feedforward import every_feed_forward
from .register import Outcome, Refusal, transform
from .residual import Residual, residuals
from .weight import elements

Stack = list[list[Residual]]
"""What is put side by side: each element the residual parts that stay one after the other."""


@transform
def parallelize(
    graph: Graph,
    at: Paths = "blocks",
    how: Literal["blocks", "sublayers"] = "blocks",
    by: NonNegativeInt = 0,
    merge: bool = False,
    seed: int = 0,
) -> Outcome:
    """Let residual parts that stand one after the other read the same value, and add all that they make of it.

    Contract: alters. Parameters, shapes and work stay; the notes say how many terms are dropped, and how far the result
    is from the model on a probe. It is the same function where branches are linear and their products vanish.

    - at: blocks.
    - how: `blocks`, y = (1 + f2)(1 + f1) x becomes x + f1(x) + f2(x) for neighbouring blocks: the expansion of the
      stack without the products of two branches and more. `sublayers`, within each block, as attention and feed-forward
      half: x + a(x) + m(x + a(x)) becomes x + a(x) + m(x).
    - by: how many neighbours stand side by side; 0 for all of a run.
    - merge: make branches that are two layers around hidden units one wide branch (exact, as they now read the same).
    - seed: for the numbers of the probe.

    Refuses blocks named that are no sum of their input and what they make of it (a rectifier after the sum, a new
    width), and where no two stand together. Of all `blocks` those are left as they are.

    Source: Bermeitinger et al., "Make deep networks shallow again" (2023), and "On residual network depth" (2025);
    Zhong et al., "A neural ODE interpretation of transformer layers" (2022), for sublayers.
    """
    found = spine(graph)
    stacks = _sublayers(found, at) if how == "sublayers" else _blocks(found, at, by)
    if not stacks:
        message = "no two residual parts stand together"
        raise Refusal(message, nodes=[b.output.node for b in chosen_blocks(graph, at)], option="at")
    edit = graph.edit("parallelize")
    for stack in stacks:
        _side_by_side(edit, graph, stack)
    after = edit.done()
    notes = _dropped(stacks)
    sources: dict[str, tuple[str, ...]] = {}
    notes.append(_difference(graph, after, seed))
    if merge:
        after, sources, text = _merged(after, stacks, seed)
        notes.append(text)
    return Outcome(after, Contract("alters"), tuple(notes), sources)


# ------------------------------------------------------------------------------------------------------------- which


def _runs(found: Spine, at: Paths) -> list[list[tuple[Block, list[Residual]]]]:
    """The blocks that consist of residual parts, in runs of neighbours."""
    runs: list[list[tuple[Block, list[Residual]]]] = [[]]
    for block in chosen_blocks(found.graph, at):
        parts, stop = residuals(found, block)
        if not parts and at != "blocks":
            text = "is not the sum of its input and what it makes of it"
            raise Refusal(f"{block} {text}", nodes=[stop], option="at")
        if not parts or (runs[-1] and runs[-1][-1][0].output != block.input):
            runs.append([])
        if parts:
            runs[-1].append((block, parts))
    return [run for run in runs if run]


def _blocks(found: Spine, at: Paths, by: int) -> list[Stack]:
    stacks: list[Stack] = []
    for run in _runs(found, at):
        size = by or len(run)
        stacks += [[parts for _, parts in run[i : i + size]] for i in range(0, len(run), size)]
    return [stack for stack in stacks if len(stack) > 1]


def _sublayers(found: Spine, at: Paths) -> list[Stack]:
    blocks = (parts for run in _runs(found, at) for _, parts in run)
    return [[[part] for part in parts] for parts in blocks if len(parts) > 1]


# --------------------------------------------------------------------------------------------------------------- how


def _side_by_side(edit: Edit, graph: Graph, stack: Stack) -> None:
    """Let every element read what the first reads. The sums still add up what all branches make; within an element of
    several parts, what its later parts read is added up beside."""
    start = stack[0][0].input
    for element in stack[1:]:
        read: Ref = start
        for part, following in zip(element, [*element[1:], None], strict=True):
            _read_instead(edit, graph, part, read)
            if following is not None:
                edit.acting("parallelize", part.sum)
                own = edit.fresh(f"{part.sum}.beside")
                read = edit.add(own, Add(), read, part.branch, origin=graph.nodes[part.sum].origin).value


def _read_instead(edit: Edit, graph: Graph, part: Residual, ref: Ref) -> None:
    """Let a branch read another value than it did; the sum still adds what it added."""
    for path in part.nodes:
        inputs = edit.node(path).inputs
        if part.input in inputs:
            edit.set(path, inputs=[ref if i == part.input else i for i in inputs])


def _dropped(stacks: Sequence[Stack]) -> list[str]:
    """What is no longer computed, for each number of branches."""
    notes: list[str] = []
    for count in sorted({len(stack) for stack in stacks}):
        where = [f"{stack[0][0].sum} … {stack[-1][-1].sum}" for stack in stacks if len(stack) == count]
        orders = ", ".join(f"{comb(count, k)} of order {k}" for k in range(2, min(count, 4) + 1))
        more = ", …" if count > 4 else ""
        text = f"{count} branches read one value at {where[0]}" + (f" and {len(where) - 1} more" if where[1:] else "")
        lost = f"of 2^{count} products of branches {2**count - 1 - count} are dropped ({orders}{more})"
        notes.append(f"{text}: {lost}")
    return notes


def _difference(before: Graph, after: Graph, seed: int) -> str:
    """How far the function is from what it was, on a probe; not of a model that would fill the memory."""
    if elements(before) > _LARGE:
        return "the model is too large to be measured here"
    found = measure(probed(before, seed), probed(after, seed), Contract("alters"), probes=1, seed=seed)
    return f"on a probe the outputs differ by {found.relative:.3g} of the largest"


_LARGE = 3e8
"""Parameters of a model that is not run in double precision for a note."""


# ------------------------------------------------------------------------------------------------------------- merge


def _merged(graph: Graph, stacks: Sequence[Stack], seed: int) -> tuple[Graph, dict[str, tuple[str, ...]], str]:
    inside = {path for stack in stacks for element in stack for part in element for path in part.nodes}
    analysis = analyse(graph)
    parts = [p for p in every_feed_forward(analysis) if inside.issuperset(p.nodes)]
    groups, _ = siblings(graph, parts)
    whole = {Value(part.last): part for group in groups for part in group.parts}
    branches = [part for stack in stacks for element in stack for part in element]
    apart = [part for part in branches if part.branch not in whole]
    if apart:
        other = next((p for p in apart[0].nodes if graph.nodes[p].inputs[:1] == (apart[0].input,)), apart[0].sum)
        message = "a branch is more than two layers around hidden units, and cannot be made one with others"
        raise Refusal(message, nodes=[other, apart[0].branch.node], option="merge", notes=("fold its norms first",))
    after, sources = concatenated(analysis, groups, "parallelize", [None] * len(groups), seed)
    count = sum(len(group.parts) for group in groups)
    return after, sources, f"{count} branches are {len(groups)} wide ones"
