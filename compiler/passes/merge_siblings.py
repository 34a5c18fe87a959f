"""Make one product of several that read the same value."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from ..graph import Edit, Graph, Node, ParameterRef, Ref
from ..operators import activation as a
from ..operators.arithmetic import Clip
from ..operators.convolution import Convolution, Transposed
from ..operators.layout import Concat, Split
from ..operators.linear import Linear
from .register import graph_pass


@graph_pass()
def merge_siblings(graph: Graph, convolutions: bool = True) -> Graph:
    """The graph where linear layers, or convolutions, that read one value and differ in their weights alone are one,
    whose output is split. Any number of them: queries, keys and values; the branches of an Inception block.

    Without `convolutions` linear layers only: ONNX Runtime takes 2 % longer for Inception-v4 when its branches are
    merged, since cutting an image apart again costs more than one pass over it saves.

    Where each is followed by the same activation, that is applied once, before the split: an activation is what
    backends compute together with a product.

    Weights are joined by a `concat`, which `fold_constants` computes; until then they stay what they are, so that
    training goes on as before.

    Before:
    ```net
    input %x: f32[N, T, 8]

    param @q.weight: f32[8, 8] = fan_in_uniform
    param @k.weight: f32[4, 8] = fan_in_uniform
    param @v.weight: f32[4, 8] = fan_in_uniform

    %q: f32[N, T, 8] = linear(%x, @q.weight)
    %k: f32[N, T, 4] = linear(%x, @k.weight)
    %v: f32[N, T, 4] = linear(%x, @v.weight)

    return q = %q, k = %k, v = %v
    ```
    After:
    ```net
    input %x: f32[N, T, 8]

    param @q.weight: f32[8, 8] = fan_in_uniform
    param @k.weight: f32[4, 8] = fan_in_uniform
    param @v.weight: f32[4, 8] = fan_in_uniform

    %q_k_v.concat: f32[16, 8] = concat([@q.weight, @k.weight, @v.weight], dim = 0)
    %q_k_v: f32[N, T, 16] = linear(%x, %q_k_v.concat)
    %q_k_v.split: (f32[N, T, 8], f32[N, T, 4], f32[N, T, 4]) = split(%q_k_v, sizes = [8, 4, 4], dim = 2)

    return q = %q_k_v.split, k = %q_k_v.split:1, v = %q_k_v.split:2
    ```

    Refuses layers of which one has a bias and the other none, whose strides, paddings or kernels differ, that are
    grouped or of different phases; convolutions that do not all have the same activation after them, since a split
    between a convolution and what it could be computed with costs more than one convolution saves; and weights that are
    computed, or that anything else reads: joined, they would have to be stored twice.
    """
    kept = {*graph.outputs.values(), *graph.taps.values()}
    families: dict[Hashable, list[Node]] = {}
    activations: dict[str, Node] = {}
    for node in graph.nodes.values():
        kinds = (Linear, Convolution, Transposed) if convolutions else (Linear,)
        if isinstance(node.op, kinds) and _is_mergeable(graph, node, kept):
            follower = _activation(graph, node, kept)
            if follower is None and not isinstance(node.op, Linear):
                continue
            if follower is not None:
                activations[node.path] = follower
            families.setdefault((_kind(graph, node), follower and follower.op), []).append(node)
    edit = graph.edit("merge_siblings")
    for siblings in families.values():
        if len(siblings) > 1:
            _merge(edit, graph, siblings, [activations[n.path] for n in siblings if n.path in activations])
    return edit.done()


_ACTIVATIONS = (a.Activation, a.Relu, Clip)
"""Functions of each element alone."""


def _activation(graph: Graph, node: Node, kept: set[Ref]) -> Node | None:
    """The activation that is all that reads a node."""
    readers = graph.users.get(node.value, [])
    if len(readers) != 1 or node.value in kept or not isinstance(readers[0].op, _ACTIVATIONS):
        return None
    return readers[0] if readers[0].phase == node.phase else None


def _is_mergeable(graph: Graph, node: Node, kept: set[Ref]) -> bool:
    weights = [i for i in node.inputs[1:] if i is not None]
    own = all(isinstance(w, ParameterRef) and len(graph.users[w]) == 1 and w not in kept for w in weights)
    return own and len(set(node.refs)) == 1 + len(weights) and getattr(node.op, "groups", 1) == 1


def _axis(node: Node) -> int:
    """The axis of the weight that counts outputs."""
    return 1 if isinstance(node.op, Transposed) else 0


def _kind(graph: Graph, node: Node) -> Hashable:
    """What siblings have in common."""
    x, weight, bias = (*node.inputs, None)[:3]
    assert weight is not None
    type_ = graph.type(weight)
    shape = tuple(d for i, d in enumerate(type_.shape) if i != _axis(node))
    return x, node.op, type_.dtype, shape, bias is None, node.phase


def _merge(edit: Edit, graph: Graph, siblings: Sequence[Node], activations: Sequence[Node]) -> None:
    """Replace siblings; `activations`, if any, are one for each of them, all the same."""
    first = siblings[0]
    path = edit.fresh(_name(siblings))
    origin = tuple(dict.fromkeys(span for node in (*siblings, *activations) for span in node.origin))

    def join(operand: int, dim: int) -> Ref | None:
        parts = [n.inputs[operand] if operand < len(n.inputs) else None for n in siblings]
        if parts[0] is None:
            return None
        place = edit.fresh(f"{path}.concat")
        return edit.add(place, Concat(dim), *parts, phase=first.phase, origin=origin).value

    weights = [join(1, _axis(first)), join(2, 0)][: len(first.inputs) - 1]
    merged = edit.add(path, first.op, first.inputs[0], *weights, phase=first.phase, origin=origin)
    axis = first.types[0].rank - 1 if isinstance(first.op, Linear) else 1
    split = Split(tuple(n.types[0].shape[axis] for n in siblings), axis)
    if activations:
        op = activations[0].op
        merged = edit.add(edit.fresh(f"{path}.{op.name}"), op, merged.value, phase=first.phase, origin=origin)
    parts = edit.add(edit.fresh(f"{path}.split"), split, merged.value, phase=first.phase, origin=origin)
    for node, part in zip(activations or siblings, parts.values, strict=True):
        edit.redirect(node.value, part)
    for node in (*siblings, *activations):
        edit.remove(node.path)


_LONGEST = 60


def _name(siblings: Sequence[Node]) -> str:
    """`attn.q_k_v` for `attn.q`, `attn.k` and `attn.v`; the first one's name where they are far apart, or many."""
    scope = siblings[0].scope
    names = "_".join(node.path.rpartition(".")[2] for node in siblings)
    if len(names) > _LONGEST or any(node.scope != scope for node in siblings):
        return f"{siblings[0].path}_merged"
    return f"{scope}.{names}" if scope else names
