"""The block that can follow one that changes the shape: the same, from its own output, and joined as others are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from ..axes import Selection, analyse
from ..blocks import Block
from ..graph import Graph, GraphError, Input, Node, ParameterRef, Ref, Value
from ..operators.operator import Operator, ShapeError
from .extent import same_padding
from .fan import refitted
from .proportion import Kind, Relation, kind_of, taken

INPUT = "input"


@dataclass(frozen=True)
class Template:
    """A block and the graph it stands in."""

    graph: Graph
    block: Block


def successor(
    graph: Graph, block: Block, siblings: Sequence[Block], relations: Mapping[Kind, Relation]
) -> Template | None:
    """A block of the same module whose input is like this one's output; None where the model does not show how.

    It has no stride, its widths follow its new input, and what a sibling that keeps its shape does after the node that
    ends this one (drop a path, add the input) it does too. It stands in a graph of its own.
    """
    tail = next((t for s in siblings if (t := _tail(graph, block, s))), None)
    if tail is None or block.side or graph.type(block.input).rank != graph.type(block.output).rank:
        return None
    try:
        return _joined(_narrowed(graph, block, relations), block, *tail)
    except (ShapeError, GraphError):
        return None


def _tail(graph: Graph, block: Block, sibling: Block) -> tuple[Block, list[Node]] | None:
    """What a sibling does after its counterpart of the node that ends a block."""
    end = sibling.path + block.output.node[len(block.path) :]
    after = {Value(end, block.output.index)}
    found: list[Node] = []
    for path in sibling.nodes:
        node = graph.nodes[path]
        if any(ref in after for ref in node.refs):
            if not all(ref in after or ref == sibling.input for ref in node.refs):
                return None
            after.update(node.values)
            found.append(node)
    joins = any(sibling.input in node.inputs for node in found)
    return (sibling, found) if joins and sibling.module == block.module else None


def _narrowed(graph: Graph, block: Block, relations: Mapping[Kind, Relation]) -> Graph:
    """The block alone, without strides, with as many channels at its input as at its output."""
    alone = _unstrided(graph, block)
    found = analyse(alone, interface=())
    axes = [i for i, (a, b) in enumerate(zip(*_ends(alone), strict=True)) if a != b]
    sizes: dict[Any, int] = {}
    for axis in axes:
        before, after = (shape[axis] for shape in _ends(alone))
        (own, _), *others = found.of(Value(INPUT), axis)
        if others or not isinstance(before, int) or not isinstance(after, int) or not own.cuttable:
            raise GraphError(["its input is made of several parts"])
        sizes[own] = after
        for inner in found.classes:
            if inner is not own and relations.get(kind_of(block, inner)) == "input" and isinstance(inner.size, int):
                sizes[inner] = max(1, round(Fraction(inner.size * after, before)))
    return refitted(alone, Selection(found, taken(sizes)).graph()) if sizes else alone


def _ends(alone: Graph) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return alone.inputs[INPUT].types[0].shape, alone.type(alone.outputs["output"]).shape


def _unstrided(graph: Graph, block: Block) -> Graph:
    """The block as a graph, each strided window made to keep the size."""
    edit = Graph(graph.name).edit()
    kind = graph.type(block.input)
    given: dict[Ref, Ref] = {block.input: edit.add(INPUT, Input(kind)).value}
    for path in block.nodes:
        node = graph.nodes[path]
        for ref in node.refs:
            if isinstance(ref, ParameterRef):
                given[ref] = edit.parameter(replace(graph.parameters[ref.parameter], data=None))
        inputs = [None if ref is None else given[ref] for ref in node.inputs]
        types = [None if i is None else edit.type(i) for i in inputs]
        new = edit.add(path, _kept_size(node.op, types), *inputs, phase=node.phase, origin=node.origin)
        given.update(zip(node.values, new.values, strict=True))
    edit.output("output", given[block.output])
    return edit.done()


def _kept_size(op: Operator, inputs: Sequence[Any]) -> Operator:
    known: Any = op
    if not op.name.startswith("conv") or all(s == 1 for s in getattr(op, "stride", ())):
        return op
    one = replace(known, stride=(1,) * len(known.stride))
    return replace(one, padding=same_padding(one, tuple(inputs)))


def _joined(alone: Graph, block: Block, sibling: Block, tail: Sequence[Node]) -> Template:
    """The narrowed block with the end of its sibling."""
    edit = alone.edit()
    end = alone.outputs["output"]
    given: dict[Ref, Ref] = {
        sibling.input: Value(INPUT),
        Value(sibling.path + block.output.node[len(block.path) :], block.output.index): end,
    }
    last = end
    for node in tail:
        path = edit.fresh(block.path + node.path[len(sibling.path) :])
        inputs = [None if ref is None else given[ref] for ref in node.inputs]
        new = edit.add(path, node.op, *inputs, phase=node.phase, origin=node.origin)
        given.update(zip(node.values, new.values, strict=True))
        last = new.value
    edit.output("output", last)
    graph = edit.done()
    if graph.type(last) != graph.inputs[INPUT].types[0]:
        raise GraphError(["it does not keep its shape"])
    assert isinstance(last, Value)
    nodes = tuple(p for p in graph.nodes if p != INPUT)
    return Template(graph, Block(block.path, block.module, Value(INPUT), last, nodes, ()))
