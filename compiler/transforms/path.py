"""One layer as several beside each other, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from ..contract import Contract
from ..graph import Edit, Graph, Node, Parameter, ParameterRef, Ref
from ..operators.arithmetic import Add, Mul
from ..operators.convolution import Transposed
from ..operators.creation import Constant
from ..operators.layout import Concat
from ..operators.linear import Linear
from ..types import TensorType
from .choose import Paths, matches, named, nothing
from .numbers import filled, made
from .register import MOST_PARTS, Outcome, Refusal, refuse_many, transform
from .weight import LAYERS

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

How = Literal["sum", "average", "concat"]


@transform
def path(graph: Graph, at: Paths, branches: int = 2, how: How = "sum", seed: int = 0) -> Outcome:
    """Replace layers by branches that read the same and together give the same.

    Contract: exact. `merge_paths` is the way back.

    - at: the linear and convolution layers, transposed ones too. The branches of `conv1` are `conv1.0`, `conv1.1`, …,
      layers like any other: apply it to one of them for branches of branches, or deepen them.
    - branches: how many.
    - how: `sum`, branches with equal parts of the weights, added; `average`, branches with the same weights, added and
      divided by their number; `concat`, branches that each give some of the output's channels, one after the other.
    - seed: for parameters without data.

    Refuses a `concat` of grouped convolutions, whose groups read other channels, and of more branches than channels;
    of patterns, such layers are left out and noted.

    Source: Cai, Yang, Zhang, Han, Yu, Path-Level Network Transformation for Efficient Architecture Search, 2018,
    section 3.1.
    """
    if branches < 2:
        raise Refusal(f"a layer has two branches at least, not {branches}", option="branches")
    known = [node for node in graph.nodes.values() if layer(node)]
    chosen = [node for node in known if matches(node.path, at)]
    if not chosen:
        raise nothing(at, (node.path for node in known), "linear or convolution layer")
    refuse_many(len(chosen) * branches, MOST_PARTS, "branches", "branches")
    edit = graph.edit("path")
    sources: dict[str, tuple[str, ...]] = {}
    stopped = {node.path: text for node in chosen if (text := _stop(node, branches, how))}
    done = [node for node in chosen if node.path not in stopped]
    if not done or any(named(path, at) for path in stopped):
        first = next((p for p in stopped if named(p, at)), next(iter(stopped)))
        raise Refusal(stopped[first], nodes=list(stopped), option="how", fix="how = sum")
    for node in done:
        sources |= _branch(edit, graph, node, branches, how, seed)
    drop_unread(edit, graph, {node.path for node in done})
    notes = (f"{len(done)} layers are {branches} branches each: {', '.join(n.path for n in done)}", *stopped.values())
    return Outcome(edit.done(), Contract(), notes, sources)


def layer(node: Node) -> bool:
    """Whether a node is a linear or convolution layer with parameters for weights."""
    weights = [r for r in node.inputs[1:] if r is not None]
    return node.op.name in LAYERS and all(isinstance(r, ParameterRef) for r in weights)


def out_axis(node: Node) -> int:
    """The axis of a layer's weight that counts output channels."""
    return 1 if isinstance(node.op, Transposed) else 0


def channels(node: Node) -> int:
    """The axis of a layer's output that counts channels."""
    return node.types[0].rank - 1 if isinstance(node.op, Linear) else 1


def _stop(node: Node, branches: int, how: How) -> str:
    """Why a layer cannot have such branches, if it cannot."""
    size, groups = node.types[0].shape[channels(node)], getattr(node.op, "groups", 1)
    if how == "concat" and groups > 1:
        return f"{node.path} stays: it is a convolution of {groups} groups, which read other channels"
    if how == "concat" and isinstance(size, int) and size < branches:
        return f"{node.path} stays: it gives {size} channels, too few for {branches} branches"
    return ""


def _branch(edit: Edit, graph: Graph, node: Node, branches: int, how: How, seed: int) -> dict[str, tuple[str, ...]]:
    edit.acting("path", node.path)
    sources: dict[str, tuple[str, ...]] = {}
    made_: list[Ref] = []
    for number in range(branches):
        refs: list[Ref | None] = [node.inputs[0]]
        for position, ref in enumerate(node.inputs[1:], 1):
            if not isinstance(ref, ParameterRef):
                refs.append(None)
                continue
            old = graph.parameters[ref.parameter]
            new = f"{node.path}.{number}.{ref.parameter.rpartition('.')[2]}"
            axis = out_axis(node) if position == 1 else 0
            refs.append(edit.parameter(_part(old, new, number, branches, axis, how, seed)))
            sources[new] = (old.path,)
        made_.append(edit.add(f"{node.path}.{number}", node.op, *refs, phase=node.phase, origin=node.origin).value)
    if how == "concat":
        edit.set(node.path, op=Concat(channels(node)), inputs=made_)
    else:
        join(edit, node, made_, 1 / branches if how == "average" else 1)
    return sources


def _part(old: Parameter, path: str, number: int, branches: int, axis: int, how: How, seed: int) -> Parameter:
    """The weight or bias of one branch."""
    if how == "average":
        return replace(filled(old, seed), path=path)
    if how == "sum":
        return made(old, partial(_divided, branches), path=path, seed=seed)
    size = old.type.shape[axis]
    assert isinstance(size, int)
    start, stop = (size * n // branches for n in (number, number + 1))
    kind = TensorType(old.type.dtype, (*old.type.shape[:axis], stop - start, *old.type.shape[axis + 1 :]))
    return made(old, partial(_sliced, axis, start, stop), path=path, type=kind, seed=seed)


def _divided(by: int, array: Array) -> Array:
    return array / by


def _sliced(axis: int, start: int, stop: int, array: Array) -> Array:
    return array[(slice(None),) * axis + (slice(start, stop),)]


def join(edit: Edit, node: Node, refs: list[Ref], factor: float = 1) -> None:
    """Let a node be the sum of values, times a number."""
    total = refs[0]
    last = len(refs) - (factor == 1)
    for ref in refs[1:last]:
        path = edit.fresh(f"{node.path}.sum")
        total = edit.add(path, Add(), total, ref, phase=node.phase, origin=node.origin).value
    if factor == 1:
        edit.set(node.path, op=Add(), inputs=[total, refs[-1]])
        return
    constant = Constant(factor, node.types[0].dtype)
    each = edit.add(edit.fresh(f"{node.path}.each"), constant, phase=node.phase, origin=node.origin)
    edit.set(node.path, op=Mul(), inputs=[total, each.value])


def drop_unread(edit: Edit, graph: Graph, gone: set[str], kept: Callable[[str], bool] = lambda _: False) -> None:
    """Remove parameters that no output is and only nodes read that are `gone`; but those `kept`."""
    ends = {*graph.outputs.values(), *graph.taps.values()}
    for ref, readers in graph.users.items():
        unread = ref not in ends and gone.issuperset(n.path for n in readers)
        if isinstance(ref, ParameterRef) and unread and not kept(ref.parameter):
            edit.remove_parameter(ref.parameter)
