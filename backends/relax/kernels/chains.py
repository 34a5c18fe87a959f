"""Groups that are lowered as a whole, not node by node: feed-forward layers, and attention written as its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....compiler.fusion.transformer import Attention, FeedForward, read_attention, read_feed_forward, source
from ....compiler.fusion.work import Work
from ....compiler.graph import Node, Ref, Value
from ..formula import Formula, Formulas, held
from ..kernel import Kernel, View
from ..lower import Lowering, Resolve, chain_rules, rules
from ..tensor import Tensor, plain
from .feedforward import feed_forward
from .flash import flash


def _feed_forward(low: Lowering, work: Work, nodes: Sequence[str], resolve: Resolve) -> Tensor:
    parts = read_feed_forward(work, nodes)
    assert isinstance(parts, FeedForward)
    compose = _Compose(low, work, resolve)

    def weights(node: Node) -> tuple[Tensor, Tensor | None]:
        """The weight [F, K] and the bias of a product."""
        weight = resolve(_given(node, 1))
        if node.op.name == "matmul":
            return low.renamed(weight, (1, 0)), None
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        return weight, None if bias is None else resolve(bias)

    def between(sums: Sequence[Formula]) -> Tensor:
        made: dict[Ref, Tensor] = {n.values[0]: s for n, s in zip(parts.first, sums, strict=True)}
        read = source(work, parts.last.inputs[0])
        assert isinstance(read, Value)
        return compose(parts.between, made)[read]

    def after(product: Formula) -> Tensor:
        return compose(parts.after, {parts.last.values[0]: product})[parts.result.values[0]]

    x = resolve(_given(parts.first[0], 0))
    first = [weights(n) for n in parts.first]
    return feed_forward(low, x, first, between, weights(parts.last), after, parts.result.types[0])


def _attention(low: Lowering, work: Work, nodes: Sequence[str], resolve: Resolve) -> Tensor:
    parts = read_attention(work, nodes)
    assert isinstance(parts, Attention)
    compose = _Compose(low, work, resolve)
    type = parts.values.types[0]
    query, key, value = (
        resolve(_given(node, i)) for node, i in ((parts.scores, 0), (parts.scores, 1), (parts.values, 1))
    )
    axes = (*range(key.type.rank - 2), key.type.rank - 1, key.type.rank - 2)
    scores = parts.scores.types[0]
    read = source(work, parts.softmax.inputs[0])
    assert isinstance(read, Value)
    made = compose(parts.between, {parts.scores.values[0]: held(scores, "score")})[read]
    assert isinstance(made, Formula)
    extra = [t for t in made.reads if not isinstance(t, Formula)]

    def score(raw: Any, index: Sequence[Any], kernel: Kernel, *views: View) -> Any:
        return made.at(index, {"score": raw, **dict(zip(extra, views, strict=True))})

    rank = type.rank
    # Heads inside positions, as the projection that mostly follows reads them; outputs as they are.
    outside = parts.values.values[0] in work.graph.outputs.values() or rank < 4
    order = plain(rank) if outside else (*range(rank - 3), rank - 2, rank - 3, rank - 1)
    return flash(
        low,
        query,
        low.renamed(key, axes),
        value,
        type,
        extra=extra,
        score=score if parts.between else None,
        order=order,
    )


class _Compose:
    """Element-wise nodes of a group as formulas."""

    def __init__(self, low: Lowering, work: Work, resolve: Resolve) -> None:
        self._low, self._work, self._resolve = low, work, resolve

    def __call__(self, nodes: Sequence[Node], made: Mapping[Ref, Tensor]) -> dict[Ref, Tensor]:
        values: dict[Ref, Tensor] = dict(made)
        formulas = Formulas(self._low)
        for node in nodes:
            inputs: list[Any] = []
            for ref in node.inputs:
                at = source(self._work, ref)
                known = None if at is None else values.get(at)
                inputs.append(known if known is not None or ref is None else self._resolve(ref))
            inputs += [None] * (sum(not o.variadic for o in node.op.operands) - len(inputs))
            rule = rules.get(node.op)
            assert rule is not None
            result = rule(formulas, node.op, inputs, node.types)
            assert isinstance(result, Tensor)
            values[node.values[0]] = result
        return values


def _given(node: Node, operand: int) -> Ref:
    ref = node.inputs[operand]
    assert ref is not None
    return ref


chain_rules.update({"feed_forward": _feed_forward, "attention": _attention})
