"""Which groups are one kernel on a processor.

A kernel has one result. It computes element-wise nodes alone; or one **anchor**, a node that reduces, with element-wise
nodes before it, computed where the anchor reads them, and after it, applied to each tile of its result; or **rows**:
nodes that reduce the last axis, with element-wise ones around them, one row after the other; or a **chain** of anchors
that has a kernel of its own (`chains`). What is taken here, `backends.relax.schedule` has a rule for; what is refused
would be computed stage by stage, no better than by a kernel for each node.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ..graph import Node, Value
from ..operators.activation import LogSoftmax, Prelu, Softmax
from ..operators.arithmetic import Elementwise
from ..operators.normalization import BatchNorm, LayerNorm
from ..operators.operator import Operator
from ..operators.reduction import Arg, Reduction
from ..types import TensorType
from .chains import Chain, decided
from .memory import Members
from .work import TRANSPARENT
from .workload import Edge, Workload

TILED = frozenset(
    {
        "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear", "matmul",
        "einsum", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
        "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d",
    }
)  # fmt: skip
"""Anchors that are computed tile by tile."""

ROWS = frozenset({"softmax", "log_softmax", "layer_norm", "rms_norm"})
"""Anchors, beside reductions, that are computed row by row."""

WHOLE = frozenset(
    {
        "scaled_dot_product_attention", "group_norm", "instance_norm", "cumsum", "topk", "scatter", "scatter_add",
        "lstm", "gru", "var", "norm", "extern",
    }
)  # fmt: skip
"""Operators whose kernel takes in no other node."""

RENAMES = TRANSPARENT | {"permute", "transpose"}
"""Moves that leave elements where they are in memory."""

SHAPES = frozenset({"reshape", "flatten", "squeeze", "unsqueeze"})
"""Moves that leave them there where axes are stored in their order."""

POINTWISE = (Elementwise, BatchNorm, Prelu)
"""Operators that make each element of those at its place: what follows an anchor in its kernel."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """What computes a group: `kind` is `single`, `element-wise`, `tiled`, `rows`, or the kind of a chain."""

    kind: str
    anchors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no kernel computes a group: one sentence, and what each of the nodes does to make it so, most of all the
    first. `inside` is whether a value in the middle is read by others, and not what is computed."""

    reason: str
    responsible: Mapping[str, str]
    notes: tuple[str, ...] = field(default=())
    inside: bool = False


def kernel(workload: Workload, nodes: Collection[str]) -> Kernel | Refusal:
    """The kernel that computes convex and connected nodes as one, or why there is none."""
    members = Members(workload, nodes)
    if len(members.order) == 1:
        return Kernel("single", tuple(members.order))
    refusal = _several_results(members)
    if refusal is not None:
        return refusal
    anchors = [path for path in members.order if _is_anchor(workload.graph.nodes[path].op)]
    if len(anchors) < 2:
        return _alone(members) or _one(members, anchors)
    linked = decided(workload.work, members.order)
    if isinstance(linked, Chain):
        return Kernel(linked.kind, linked.anchors)
    if all(_along_last(workload.graph.nodes[path], members) for path in anchors):
        return _alone(members) or _rows(members, anchors)
    return _alone(members) or _two(members, anchors, linked.reason)


def _one(members: Members, anchors: list[str]) -> Kernel | Refusal:
    """One anchor at most."""
    if not anchors:
        return Kernel("element-wise")
    anchor = anchors[0]
    refusal = _after(members, anchor)
    if refusal is not None and _along_last(members.workload.graph.nodes[anchor], members):
        return refusal if isinstance(_rows(members, anchors), Refusal) else Kernel("rows", (anchor,))
    return refusal or Kernel("tiled" if _op(members, anchor) in TILED else "rows", (anchor,))


def _op(members: Members, path: str) -> str:
    return members.workload.graph.nodes[path].op.name


def _is_anchor(op: Operator) -> bool:
    return op.name in TILED or op.name in ROWS or isinstance(op, Reduction | Arg)


def _several_results(members: Members) -> Refusal | None:
    """A kernel has one result: what others read, or the model gives."""
    leaving = [value for value in members.made if value in members.leaving]
    if len(leaving) < 2:
        return None
    last = leaving[-1].node
    inner = list(dict.fromkeys(value.node for value in leaving if value.node != last))
    if not inner:
        return Refusal(f"%{last} has {len(leaving)} results", {last: "several of its results are read outside"})
    told = {path: _read_outside(members, path) for path in inner}
    are = "is" if len(inner) == 1 else f"and {len(inner) - 1} more are"
    reason = f"%{inner[0]} {are} also read outside of it, and a kernel has one result, that of %{last}"
    return Refusal(reason, told, inside=True)


def _read_outside(members: Members, path: str) -> str:
    workload, inside = members.workload, members.place
    values = workload.graph.nodes[path].values
    readers = list(
        dict.fromkeys(e.reader for v in values for e in workload.readers.get(v, ()) if e.reader not in inside)
    )
    if any(v in workload.results for v in values):
        return "an output of the model" + (f", and read by %{readers[0]}" if readers else "")
    more = f" and {len(readers) - 1} more" if len(readers) > 1 else ""
    return f"read by %{readers[0]}{more}"


def _alone(members: Members) -> Refusal | None:
    """Operators whose kernel takes in nothing else."""
    told: dict[str, str] = {}
    for path in members.order:
        node = members.workload.graph.nodes[path]
        if node.op.name in WHOLE or len(node.types) > 1:
            told[path] = f"{node.op.name} has a kernel of its own, which takes in no other node"
    first = next(iter(told), "")
    return Refusal(f"that of %{first} takes in no other node", told) if told else None


def _rows(members: Members, anchors: list[str]) -> Kernel | Refusal:
    """Anchors that all reduce the last axis: one row after the other is computed."""
    graph = members.workload.graph
    lead = _lead(graph.nodes[anchors[0]], members)
    for path in members.order:
        for type in graph.nodes[path].types:
            if type.shape[: len(lead)] != lead:
                told = {path: f"{type}, while the rows of %{anchors[0]} are {'×'.join(map(str, lead))}"}
                return Refusal(f"%{path} has other rows than %{anchors[0]}", told)
    for edge in members.edges:
        moves = [m.node for m in edge.through if _op(members, m.node) not in TRANSPARENT | {"unsqueeze"}]
        if edge.source.node in members.place and moves:
            return _moved(members, edge, moves[0])
    return Kernel("rows", tuple(anchors))


def _along_last(node: Node, members: Members) -> bool:
    """Whether a node reduces the last axis, and no other."""
    op = node.op
    if op.name in TILED:
        return False
    last = members.workload.graph.type(_first(node)).rank - 1
    if isinstance(op, Reduction):
        return op.dim is not None and tuple(d % (last + 1) for d in op.dim) == (last,)
    if isinstance(op, Arg):
        return op.dim % (last + 1) == last
    if isinstance(op, LayerNorm):
        return op.rank == 1
    return op.name == "rms_norm" or (isinstance(op, Softmax | LogSoftmax) and op.dim % (last + 1) == last)


def _first(node: Node) -> Value:
    ref = node.inputs[0]
    assert isinstance(ref, Value)  # a working node that reduces parameters alone would be carried
    return ref


def _lead(node: Node, members: Members) -> tuple[object, ...]:
    return members.workload.graph.type(_first(node)).shape[:-1]


def _two(members: Members, anchors: list[str], reason: str) -> Refusal:
    told = {path: f"{_op(members, path)} reduces" for path in anchors}
    *most, last = [f"%{path}" for path in anchors] if len(anchors) < 5 else [*(f"%{p}" for p in anchors[:3]), "others"]
    kinds = {_op(members, path) for path in anchors}
    linked = kinds == {"conv2d"} or kinds <= {"matmul", "softmax"} or kinds == {"linear"}
    notes = (f"as a chain: {reason}", *CHAINS) if linked else CHAINS
    return Refusal(f"{', '.join(most)} and {last} reduce, and are no chain that has a kernel", told, notes)


CHAINS = (
    "one kernel computes a node that reduces with element-wise ones around it, or several that reduce the last axis",
    "chains with a kernel: convolutions one after the other (conv → pointwise, pointwise → depthwise → pointwise, …)",
    "also linear → activation → linear, and attention (matmul → softmax → matmul)",
)


def _after(members: Members, anchor: str) -> Refusal | None:
    """What comes after an anchor is element-wise, in the anchor's shape."""
    graph = members.workload.graph
    result = graph.nodes[anchor].types[0]
    behind = _behind(members, anchor)
    for path in members.order:
        if path not in behind:
            continue
        node = graph.nodes[path]
        name = node.op.name
        if not isinstance(node.op, POINTWISE):
            told = {path: f"{name} is not element-wise"}
            return Refusal(f"%{path} comes after %{anchor}, and is not element-wise", told)
        if not _as_large(node.types[0], result):
            told = {path: f"{node.types[0]}, made of {result}"}
            return Refusal(f"%{path} is larger than the result of %{anchor} that it reads", told)
    for edge in members.edges:
        if edge.source.node == anchor or edge.source.node in behind:
            able = RENAMES | SHAPES if graph.nodes[anchor].op.name == "linear" else RENAMES
            moves = [m.node for m in edge.through if graph.nodes[m.node].op.name not in able]
            if moves:
                return _moved(members, edge, moves[0])
    return None


def _as_large(type: TensorType, result: TensorType) -> bool:
    return type.elements == result.elements


def _behind(members: Members, anchor: str) -> set[str]:
    found = {anchor}
    for path in members.order:
        if any(edge.source.node in found for edge in members.workload.edges[path]):
            found.add(path)
    return found - {anchor}


def _moved(members: Members, edge: Edge, move: str) -> Refusal:
    name = _op(members, move)
    told = {edge.reader: f"reads %{edge.source.node} through a {name}"}
    return Refusal(f"{name} between %{edge.source.node} and %{edge.reader} puts elements into other places", told)
