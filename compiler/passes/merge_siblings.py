"""Make one product of several that read the same value."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from ..graph import Edit, Graph, Node, ParameterRef, Ref
from ..operators.convolution import Convolution, Transposed
from ..operators.layout import Concat, Split
from ..operators.linear import Linear
from .register import graph_pass


@graph_pass()
def merge_siblings(graph: Graph) -> Graph:
    """The graph where linear layers, or convolutions, that read one value and differ in their weights alone are one,
    whose output is split. Any number of them: queries, keys and values; the branches of an Inception block.

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
    grouped or of different phases; and weights that are computed, or that anything else reads: joined, they would have
    to be stored twice.
    """
    kept = {*graph.outputs.values(), *graph.taps.values()}
    families: dict[Hashable, list[Node]] = {}
    for node in graph.nodes.values():
        if isinstance(node.op, (Linear, Convolution, Transposed)) and _is_mergeable(graph, node, kept):
            families.setdefault(_kind(graph, node), []).append(node)
    edit = graph.edit("merge_siblings")
    for siblings in families.values():
        if len(siblings) > 1:
            _merge(edit, graph, siblings)
    return edit.done()


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


def _merge(edit: Edit, graph: Graph, siblings: Sequence[Node]) -> None:
    first = siblings[0]
    path = edit.fresh(_name(siblings))
    origin = tuple(dict.fromkeys(span for node in siblings for span in node.origin))

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
    parts = edit.add(edit.fresh(f"{path}.split"), split, merged.value, phase=first.phase, origin=origin)
    for node, part in zip(siblings, parts.values, strict=True):
        edit.redirect(node.value, part)
        edit.remove(node.path)


_LONGEST = 60


def _name(siblings: Sequence[Node]) -> str:
    """`attn.q_k_v` for `attn.q`, `attn.k` and `attn.v`; the first one's name where they are far apart, or many."""
    scope = siblings[0].scope
    names = "_".join(node.path.rpartition(".")[2] for node in siblings)
    if len(names) > _LONGEST or any(node.scope != scope for node in siblings):
        return f"{siblings[0].path}_merged"
    return f"{scope}.{names}" if scope else names
