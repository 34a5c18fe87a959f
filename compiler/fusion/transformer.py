"""Chains of matrix products: feed-forward layers, plain and gated, and attention written as its steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..graph import Node, Ref, Value
from ..operators.activation import Softmax
from ..operators.arithmetic import Elementwise
from ..types import DType
from .kinds import Chain, Refusal
from .work import TRANSPARENT, Work

FLOATS = (DType.F32, DType.F16, DType.BF16, DType.F64)
PRODUCTS = ("linear", "matmul")
GATES = 2
"""Products that what lies between may be made of: one, or one and its gate."""


@dataclass(frozen=True)
class FeedForward:
    """`last` of what `between` makes of `first` products of the same `x`, and `after` of that."""

    first: tuple[Node, ...]
    between: tuple[Node, ...]
    last: Node
    after: tuple[Node, ...]

    @property
    def result(self) -> Node:
        return self.after[-1] if self.after else self.last


@dataclass(frozen=True)
class Attention:
    """`values`, the product of the `softmax` of what `between` makes of `scores`, a product too."""

    scores: Node
    between: tuple[Node, ...]
    softmax: Node
    values: Node


def feed_forward(work: Work, nodes: Sequence[str]) -> Chain | Refusal:
    """A linear node, an activation, a linear node; or two of the same value at first, such as one and its gate."""
    found = read_feed_forward(work, nodes)
    if isinstance(found, Refusal):
        return found
    return Chain("feed_forward", (*(n.path for n in found.first), found.last.path))


def attention(work: Work, nodes: Sequence[str]) -> Chain | Refusal:
    """A matmul, what scales and masks, a softmax, a matmul."""
    found = read_attention(work, nodes)
    if isinstance(found, Refusal):
        return found
    return Chain("attention", (found.scores.path, found.softmax.path, found.values.path))


def read_feed_forward(work: Work, nodes: Sequence[str]) -> FeedForward | Refusal:
    """The parts of a feed-forward layer, or why a group is none."""
    members = [work.nodes[path] for path in nodes]
    products = [n for n in members if n.op.name in PRODUCTS]
    faults = (
        (n, _product_fault(work, n) if n in products else None if isinstance(n.op, Elementwise) else "other")
        for n in members
    )
    for node, fault in faults:
        if fault:
            fault = f"({node.op.name}) is neither a matrix product nor element-wise" if fault == "other" else fault
            return Refusal(f"%{node.path} {fault}", (node.path,))
    if not 2 <= len(products) <= GATES + 1:
        paths = tuple(n.path for n in products)
        return Refusal(f"a feed-forward layer has two matrix products, or three with a gate, not {len(paths)}", paths)
    *first, last = products
    other = next((n for n in first if source(work, n.inputs[0]) != source(work, first[0].inputs[0])), None)
    if other is not None:
        return Refusal(f"%{other.path} reads another value than %{first[0].path}", (other.path, first[0].path))
    behind = _behind(work, members, [last])
    between = [n for n in members if n not in products and n.path not in behind]
    after = [n for n in members if n.path in behind]
    hidden = source(work, last.inputs[0])
    inside = {n.path for n in (*first, *between)}
    if not isinstance(hidden, Value) or hidden.node not in inside:
        return Refusal(f"%{last.path} does not read what the group made", (last.path,))
    for node in (*first, *after):
        for ref in node.inputs:
            own = {*inside, last.path} if node in first else inside
            if own.intersection(work.sources(ref)):
                return Refusal(f"%{node.path} reads what the group made before", (node.path,))
    result = after[-1] if after else last
    for node in (*first, result):
        if node.types[0].dtype is not last.types[0].dtype:
            message = f"%{node.path} makes {node.types[0]}, %{last.path} {last.types[0]}"
            return Refusal(message, (node.path, last.path))
    fault = (
        _moved(work, members, first)
        or _shaped(between, first[0])
        or _shaped(first[1:], first[0])
        or _shaped(after, last)
        or _leaving(work, members)
    )
    return fault or FeedForward(tuple(first), tuple(between), last, tuple(after))


def read_attention(work: Work, nodes: Sequence[str]) -> Attention | Refusal:
    """The parts of attention, or why a group is none."""
    members = [work.nodes[path] for path in nodes]
    products = [n for n in members if n.op.name == "matmul"]
    normal = [n for n in members if isinstance(n.op, Softmax)]
    between = [n for n in members if n not in products and n not in normal]
    for node in between:
        if not isinstance(node.op, Elementwise):
            message = f"%{node.path} ({node.op.name}) is neither a matrix product nor a softmax nor element-wise"
            return Refusal(message, (node.path,))
    if len(products) != 2 or len(normal) != 1:
        paths = tuple(n.path for n in (*products, *normal))
        return Refusal("attention is a matmul, a softmax and a matmul", paths)
    (scores, values), (softmax,) = products, normal
    for node in members:
        fault = _attention_fault(work, node, scores)
        if fault:
            return Refusal(f"%{node.path} {fault}", (node.path,))
    fault = _linked(work, members, scores, softmax, values)
    if fault:
        return fault
    fault = _moved(work, members, [scores]) or _shaped([*between, softmax], scores) or _leaving(work, members)
    return fault or Attention(scores, tuple(between), softmax, values)


def _linked(work: Work, members: Sequence[Node], scores: Node, softmax: Node, values: Node) -> Refusal | None:
    """Where the softmax does not lie between the products, with nothing beside it."""
    made = source(work, values.inputs[0])
    if made != softmax.values[0]:
        return Refusal(f"%{values.path} does not read the softmax first", (values.path, softmax.path))
    read = source(work, softmax.inputs[0])
    if not isinstance(read, Value) or read.node not in {n.path for n in members if n not in (softmax, values)}:
        return Refusal(f"%{softmax.path} does not read what %{scores.path} made", (softmax.path, scores.path))
    if len({n.types[0].dtype for n in (scores, softmax, values)}) > 1:
        paths = (scores.path, softmax.path, values.path)
        return Refusal("the dtype changes on the way from scores to values", paths)
    late = _behind(work, members, [softmax]) - {values.path}
    if late:
        path = next(n.path for n in members if n.path in late)
        return Refusal(f"%{path} comes after the softmax", (path,))
    for node, others in ((scores, ()), (values, (softmax.path,))):
        for ref in node.inputs:
            if any(s in {n.path for n in members} - {*others} for s in work.sources(ref)) and source(work, ref) != made:
                return Refusal(f"%{node.path} reads what the group made, beside the softmax", (node.path,))
    return None


def source(work: Work, ref: Ref | None) -> Ref | None:
    """What a reference is through nodes that change nothing."""
    while isinstance(ref, Value) and ref.node not in work.nodes and ref.node not in work.constant:
        node = work.graph.nodes[ref.node]
        if node.op.name not in TRANSPARENT:
            break
        ref = node.inputs[0]
    return ref


def _product_fault(work: Work, node: Node) -> str | None:
    if node.types[0].dtype not in FLOATS:
        return f"computes in {node.types[0].dtype.value}"
    weight, x = node.inputs[1], node.inputs[0]
    assert weight is not None
    assert x is not None
    if isinstance(weight, Value) and weight.node not in work.constant:
        return "has a weight that is computed when the model runs"
    shape = work.graph.type(weight).shape
    if len(shape) != 2 or not all(isinstance(d, int) for d in shape):
        return "has a weight that is no matrix of known size"
    if work.graph.type(x).rank < 2:
        return "has one row only"
    return None


def _attention_fault(work: Work, node: Node, first: Node) -> str | None:
    if node.types[0].dtype not in FLOATS:
        return f"computes in {node.types[0].dtype.value}"
    if isinstance(node.op, Softmax):
        last = node.types[0].rank - 1
        return None if node.op.dim % (last + 1) == last else "does not sum along the last axis"
    if node.op.name == "matmul":
        types = [work.graph.type(ref) for ref in node.inputs if ref is not None]
        if any(t.rank < 2 for t in types):
            return "has a vector for an operand"
        if not isinstance(types[0].shape[-1], int) and node == first:
            return f"compares {types[0].shape[-1]} features, which is no number"
        if not isinstance(types[1].shape[-1], int) and node != first:
            return f"makes {types[1].shape[-1]} features, which is no number"
        if any(isinstance(ref, Value) and ref.node in work.constant for ref in node.inputs):
            return "has an operand that no input determines"
        if any(not isinstance(ref, Value) for ref in node.inputs):
            return "has a parameter for an operand"
    return None


def _shaped(nodes: Iterable[Node], anchor: Node) -> Refusal | None:
    for node in nodes:
        if node.types[0].shape != anchor.types[0].shape:
            message = f"%{node.path} makes {node.types[0]}, which is not the shape of what %{anchor.path} makes"
            return Refusal(message, (node.path, anchor.path))
    return None


def _behind(work: Work, members: Sequence[Node], starts: Sequence[Node]) -> set[str]:
    """The members that read one of the starts, or what was made of it."""
    found = {n.path for n in starts}
    for node in members:
        if found.intersection(work.before[node.path]):
            found.add(node.path)
    return found - {n.path for n in starts}


def _moved(work: Work, members: Sequence[Node], first: Sequence[Node]) -> Refusal | None:
    """Where what the group made is read through a move; what the `first` read comes from outside."""
    inside = {n.path for n in members}
    for node in members:
        for ref in node.inputs:
            through = source(work, ref)
            if (
                node not in first
                and isinstance(through, Value)
                and through.node not in inside
                and inside.intersection(work.sources(through))
            ):
                return Refusal(f"%{node.path} reads the group through %{through.node}", (node.path, through.node))
    return None


def _leaving(work: Work, members: Sequence[Node]) -> Refusal | None:
    """Where more than the last value is read by others, or something is read by nobody."""
    inside = {n.path for n in members}
    for node in members[:-1]:
        outside = [reader for reader in work.after[node.path] if reader not in inside]
        if outside or node.path in work.leaving or not work.after[node.path]:
            reader = f"%{outside[0]}" if outside else "the caller of the model"
            return Refusal(f"%{node.path} is read by {reader} too, so that it is stored", (node.path, *outside))
    return None
