"""Chains: groups with several reductions that one kernel computes without their intermediate values leaving the cache.

What a chain is, is decided here, on the graph; a backend that says that it has chain kernels has one for every chain.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from ..graph import Graph, Node, Ref, Value
from ..operators.activation import Softmax
from ..operators.arithmetic import Elementwise
from ..operators.convolution import Conv2d
from ..operators.normalization import BatchNorm
from ..operators.pooling import AvgPool2d, MaxPool2d
from ..types import Dim, DType
from .kinds import Chain, Refusal
from .transformer import PRODUCTS, attention, feed_forward
from .work import TRANSPARENT, Work

CONVOLUTIONS: dict[str, tuple[str, ...]] = {
    "depthwise_pointwise": ("depthwise", "pointwise"),
    "pointwise_depthwise": ("pointwise", "depthwise"),
    "inverted_residual": ("pointwise", "depthwise", "pointwise"),
    "conv_pointwise": ("convolution", "pointwise"),
}
"""Chains of convolutions that have names; others of two and more, pooling among them, are "convolutions"."""


def decided(work: Work, nodes: Sequence[str]) -> Chain | Refusal:
    """The chain that a group's working nodes are, in the order of the graph, or why they are none."""
    unknown = tuple(path for path in nodes if path not in work.nodes)
    if unknown:
        return Refusal(f"%{unknown[0]} computes nothing, or is not there", unknown)
    for applies, decide in FAMILIES:
        if any(applies(work.nodes[path]) for path in nodes):
            return decide(work, nodes)
    return Refusal("none of the nodes is one that chains are made of", tuple(nodes))


def _convolutions(work: Work, nodes: Sequence[str]) -> Chain | Refusal:
    """Convolutions and pooling, each the only reader of the one before, with element-wise nodes in between."""
    members = [work.nodes[path] for path in nodes]
    anchors = [node for node in members if isinstance(node.op, Conv2d | MaxPool2d | AvgPool2d)]
    shapes = {anchor.types[0].shape for anchor in anchors}
    shapes |= {work.graph.type(anchor.inputs[0]).shape for anchor in anchors if anchor.inputs[0] is not None}
    for node in members:
        is_anchor = isinstance(node.op, Conv2d | MaxPool2d | AvgPool2d)
        fault = _convolution_fault(node, work) if is_anchor else _between_fault(node, shapes)
        if fault:
            return Refusal(f"%{node.path} {fault}", (node.path,))
    if len(anchors) < 2:
        return Refusal(f"%{anchors[0].path} is the only node of its kind", (anchors[0].path,))
    broken = _broken(work, members, anchors)
    if broken:
        return broken
    roles = tuple(_role(node, work.graph) for node in anchors)
    kind = next((kind for kind, wanted in CONVOLUTIONS.items() if wanted == roles), "convolutions")
    return Chain(kind, tuple(node.path for node in anchors))


def _role(node: Node, graph: Graph) -> str:
    if not isinstance(node.op, Conv2d):
        return "pooling"
    assert node.inputs[1] is not None
    outputs, inputs, *kernel = graph.type(node.inputs[1]).shape
    if inputs == 1 and outputs == node.op.groups != 1:
        return "depthwise"
    return "pointwise" if kernel == [1, 1] and node.op.groups == 1 else "convolution"


def _convolution_fault(node: Node, work: Work) -> str | None:
    assert node.inputs[0] is not None
    if node.types[0].dtype not in (DType.F32, DType.F16, DType.BF16):
        return f"computes in {node.types[0].dtype.value}, for which there is no chain kernel"
    weight = node.inputs[1] if isinstance(node.op, Conv2d) else None
    if isinstance(weight, Value) and weight.node not in work.constant:
        return "has a weight that is computed when the model runs"
    if not all(isinstance(d, int) for d in (*node.types[0].shape[1:], *work.graph.type(node.inputs[0]).shape[1:])):
        return f"has the symbolic size {node.types[0]}; only the batch of a chain may be symbolic"
    return None


def _between_fault(node: Node, shapes: Collection[tuple[Dim, ...]]) -> str | None:
    if not isinstance(node.op, Elementwise | BatchNorm):
        return f"({node.op.name}) is neither a convolution or pooling nor element-wise"
    if node.types[0].shape not in shapes:
        return f"makes {node.types[0]}, which is not the shape of what a convolution of the chain reads or makes"
    return None


def _broken(work: Work, members: Sequence[Node], anchors: Sequence[Node]) -> Refusal | None:
    """Where the nodes are no chain: each reads only what the convolution before it has made, and nobody else does."""
    number = {anchor.path: i for i, anchor in enumerate(anchors, 1)}
    after: dict[str, int] = {}
    """For each node, how many convolutions there are up to it."""
    for node in members:
        read = {after[s] for ref in _data(node) for s in work.sources(ref) if s in after}
        at = number.get(node.path)
        if at is not None and read != {at - 1} and (read or at > 1):
            before = anchors[at - 2].path if at > 1 else anchors[0].path
            return Refusal(f"%{node.path} does not read what %{before} made", (node.path, before))
        if len(read) > 1:
            first = anchors[max(min(read) - 1, 0)].path
            return Refusal(f"%{node.path} reads %{first} past the convolutions between them", (node.path, first))
        spread = _spread(work, node, after) if at is None else None
        if spread is not None:
            return Refusal(f"%{node.path} spreads %{spread} over a larger image", (node.path, spread))
        after[node.path] = max(read, default=0) if at is None else at
    return _moved(work, members) or _leaving(work, members)


def _spread(work: Work, node: Node, chain: Collection[str]) -> str | None:
    """A node of the chain that an element-wise one reads as if it were larger: all of it is needed at once."""
    for ref in _data(node):
        if work.graph.type(ref).shape != node.types[0].shape:
            for source in work.sources(ref):
                if source in chain:
                    return source
    return None


def _moved(work: Work, members: Sequence[Node]) -> Refusal | None:
    inside = {node.path for node in members}
    for node in members:
        for ref in _data(node):
            carriers = tuple(_carriers(work, ref)) if any(s in inside for s in work.sources(ref)) else ()
            if carriers:
                return Refusal(f"%{node.path} reads the chain through %{carriers[0]}", (node.path, *carriers))
    return None


def _leaving(work: Work, members: Sequence[Node]) -> Refusal | None:
    """Where more than the last value of a chain is read by others."""
    inside = {node.path for node in members}
    ends = tuple(path for path in inside if not inside.intersection(work.after[path]))
    if len(ends) > 1:
        ends = tuple(node.path for node in members if node.path in ends)
        return Refusal(f"{' and '.join(f'%{path}' for path in ends)} are not read within the group", ends)
    for node in members:
        outside = tuple(reader for reader in work.after[node.path] if reader not in inside)
        if node.path not in ends and (outside or node.path in work.leaving):
            reader = f"%{outside[0]}" if outside else "the caller of the model"
            return Refusal(f"%{node.path} is read by {reader} too, so that it is stored", (node.path, *outside))
    return None


def _data(node: Node) -> Iterator[Ref]:
    """What a node reads that can be made when the model runs."""
    yield from (ref for ref in node.inputs if isinstance(ref, Value))


def _carriers(work: Work, ref: Ref) -> Iterator[str]:
    """The nodes that a value is moved by before it is read here."""
    while isinstance(ref, Value) and ref.node not in work.nodes and ref.node not in work.constant:
        node = work.graph.nodes[ref.node]
        if node.op.name not in TRANSPARENT:
            yield ref.node
        if not node.inputs or node.inputs[0] is None:
            return
        ref = node.inputs[0]


FAMILIES: list[tuple[Callable[[Node], bool], Callable[[Work, Sequence[str]], Chain | Refusal]]] = [
    (lambda node: isinstance(node.op, Conv2d), _convolutions),
    (lambda node: isinstance(node.op, Softmax), attention),
    (lambda node: node.op.name in PRODUCTS, feed_forward),
]
"""Which nodes chains are made around, and what decides about a group that has one; the first that applies."""
