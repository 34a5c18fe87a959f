"""Mixtures of experts made of feed-forward parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from pydantic import PositiveInt

from ..axes import Selection, analyse
from ..blocks import blocks
from ..contract import Contract
from ..graph import Edit, Graph, Node, Parameter, ParameterRef, Ref, Value
from ..operators.activation import Sigmoid, Softmax
from ..operators.arithmetic import Add, Cast, Div, Mul, Sub
from ..operators.creation import Constant
from ..operators.indexing import OneHot
from ..operators.layout import Slice, Unsqueeze
from ..operators.linear import Linear
from ..operators.operator import Initialiser, Operator
from ..operators.reduction import Sum, Topk
from ..types import TensorType
from .choose import Paths
from .feedforward import FeedForward, beginnings, copied, every_feed_forward, feed_forwards, layers
from .numbers import filled
from .register import MOST_PARTS, Outcome, Refusal, refuse_many, transform


@transform
def experts(
    graph: Graph,
    at: Paths = "*",
    count: PositiveInt = 4,
    how: Literal["partition", "views", "upcycle"] = "partition",
    top_k: PositiveInt | None = None,
    router: Literal["each", "first"] = "each",
    depth: PositiveInt = 1,
    seed: int = 0,
) -> Outcome:
    """Make mixtures of experts of feed-forward parts: linear layers, what treats each hidden unit alone, and the linear
    layer that sums over them, wherever they are.

    Every expert computes every token, and most outputs may weigh nothing.

    Contract: exact for copies, and for shares where all count 1; else alters. Shapes are kept.

    - at: feed-forward parts, by their paths or by those of their nodes; all that consist of linear layers.
    - count: of experts.
    - how: `partition`, each expert has an equal share of the hidden units. All together they are the part they came
      from; with `top_k` less than `count` a new router chooses some for each token, whose outputs weigh `top_k` in all:
      each 1 where the router is undecided. `views`, the same with weights that are slices of the one part's, so that no
      parameters are added but a router's. `upcycle`, each expert is a copy of the whole part, and a new router weighs
      the `top_k` (2) best of them, in all 1.
    - top_k: how many a token has. Without it, or where it is `count`, shares have no router.
    - router: one for each part, or `first`: one alone, which reads what enters the first block that is changed, so that
      all routes are known before it runs (Read-ME).
    - depth: with `views`, how many times the whole part is applied, each time to its input and what it gave before; a
      new gate blends this and what the experts give, for each token.
    - seed: for the numbers of routers.

    Refuses parts with convolutions, with fewer hidden units than experts, and one router for inputs of other sizes.

    Source: Zhang et al., MoEfication (2022), and Cai et al., Read-ME (2024), for shares; VersatileFFN (2025) for views;
    Komatsuzaki et al., "Sparse upcycling" (2023), for copies.
    """
    parts = _suited(graph, at, count, top_k, depth, how)
    used = {r.parameter for p in parts for n in p.nodes for r in graph.nodes[n].refs if isinstance(r, ParameterRef)}
    graph = graph.with_parameters([filled(graph.parameters[path], seed) for path in used])
    chosen = {part.last for part in parts}
    parts = [part for part in every_feed_forward(analyse(graph)) if part.last in chosen]
    active = top_k or (min(2, count) if how == "upcycle" else count)
    maker = _Maker(graph, graph.edit("experts"), parts, count, active, how, depth, seed)
    if router == "first" and maker.routed:
        maker.route_first()
    for part, home in beginnings(parts):
        maker.replace(part, home)
    exact = how == "upcycle" or (not maker.routed and depth == 1)
    return Outcome(maker.edit.done(), Contract() if exact else Contract("alters"), maker.notes(), maker.sources)


def _suited(graph: Graph, at: Paths, count: int, top_k: int | None, depth: int, how: str) -> list[FeedForward]:
    if top_k is not None and top_k > count:
        raise Refusal(f"a token cannot have {top_k} of {count} experts", option="top_k")
    if depth > 1 and how != "views":
        raise Refusal("only views are applied several times", option="depth", fix="how = views")
    found = feed_forwards(analyse(graph), at)
    parts = [part for part in found if all(node.op.name == "linear" for node in layers(graph, part))]
    others = [part for part in found if part not in parts]
    if not parts or (others and at != "*"):
        nodes = [node.path for part in others for node in layers(graph, part) if node.op.name != "linear"]
        raise Refusal("experts are made of linear layers only", nodes=nodes, option="at")
    refuse_many(len(parts) * count, MOST_PARTS, "experts", "count")
    refuse_many(len(parts) * depth, MOST_PARTS, "applications", "depth")
    small = [part for part in parts if part.size < count]
    if small and how != "upcycle":
        first = small[0]
        message = f"{first.path} has {first.size} hidden units, too few for {count} experts"
        raise Refusal(message, nodes=[part.last for part in small], option="count")
    parted = [part for part in parts if how == "views" and not all(p.whole for p in part.places.values())]
    if parted:
        message = f"the weights of {parted[0].path} hold hidden units in several places, and experts are no slices"
        raise Refusal(message, nodes=[part.last for part in parted], option="how", fix="how = partition")
    return parts


@dataclass
class _Maker:
    graph: Graph
    edit: Edit
    parts: list[FeedForward]
    count: int
    active: int
    how: str
    depth: int
    seed: int
    gates: Ref | None = None
    """The share of each expert for each token, where one router serves all parts."""

    def __post_init__(self) -> None:
        import numpy

        self.sources: dict[str, tuple[str, ...]] = {}
        self.routers = 0
        analysis = analyse(self.graph)
        own = {part.last: part.hidden for part in every_feed_forward(analysis)}
        shares = {part.last: numpy.array_split(numpy.arange(part.size), self.count) for part in self.parts}
        self.shares = {last: [(int(s[0]), int(s[-1]) + 1) for s in found] for last, found in shares.items()}
        self.slices = (
            [self.graph] * self.count
            if self.how == "upcycle"
            else [
                Selection(analysis, {own[last]: found[e] for last, found in shares.items()}).graph()
                for e in range(self.count)
            ]
        )

    @property
    def routed(self) -> bool:
        return self.how == "upcycle" or self.active < self.count

    def notes(self) -> tuple[str, ...]:
        """What was done."""
        kind = {"partition": "a share of the hidden units", "views": "slices of the weights", "upcycle": "a copy"}
        parts = f"{len(self.parts)} feed-forward parts are" if len(self.parts) > 1 else "one feed-forward part is"
        found = [f"{parts} {self.count} experts, {kind[self.how]} for each"]
        if self.routed:
            text = f"{self.active} of them count for a token; {self.routers} routers are new and untrained"
            found.append(text.replace("1 routers are", "1 router is"))
        else:
            found.append("all of them count 1")
        if self.depth > 1:
            found.append(f"a new gate blends them with the whole part, applied {self.depth} times")
        return tuple(found)

    def add(self, path: str, op: Operator, *inputs: Ref | None) -> Ref:
        return self.node(path, op, *inputs).value

    def node(self, path: str, op: Operator, *inputs: Ref | None) -> Node:
        own = op.canonical(*(None if i is None else self.edit.type(i) for i in inputs))
        return self.edit.add(self.edit.fresh(path), own, *inputs)

    # -------------------------------------------------------------------------------------------------------- routers

    def route_first(self) -> None:
        """One router for all parts."""
        first = self.parts[0]
        read: Value = next((b.input for b in blocks(self.graph) if first.last in b.nodes), first.input)
        rows = self.graph.type(read).shape[:-1]
        others = [part.last for part in self.parts if self.graph.type(part.input).shape[:-1] != rows]
        if others:
            message = f"a router that reads {read} knows other tokens than those of {others[0]}"
            raise Refusal(message, nodes=others, option="router", fix="router = each")
        self.edit.acting("experts", read.node)
        self.gates = self.route(read, self.edit.fresh("router"))

    def route(self, x: Ref, path: str) -> Ref:
        """`[..., count]`: how much each expert counts for each token of x."""
        kind = self.edit.type(x)
        logits = self.add(path, Linear(), x, self.matrix(f"{path}.weight", self.count, kind), None)
        share = self.add(f"{path}.softmax", Softmax(-1), logits)
        self.routers += 1
        if self.active < self.count:
            best = self.node(f"{path}.topk", Topk(self.active), share).values
            total = self.add(f"{path}.total", Sum((-1,), keepdim=True), best[0])
            kept = self.add(f"{path}.share", Div(), best[0], total)
            chosen = self.add(f"{path}.chosen", OneHot(self.count), best[1])
            mask = self.add(f"{path}.mask", Cast(kind.dtype), chosen)
            each = self.add(f"{path}.each", Mul(), mask, self.add(f"{path}.column", Unsqueeze(-1), kept))
            share = self.add(f"{path}.gates", Sum((-2,)), each)
        if self.how == "upcycle":
            return share
        scale = self.add(f"{path}.active", Constant(float(self.active), kind.dtype))
        return self.add(f"{path}.scaled", Mul(), share, scale)

    def matrix(self, path: str, rows: int, read: TensorType) -> ParameterRef:
        kind = TensorType(read.dtype, (rows, read.shape[-1]))
        return self.edit.parameter(filled(Parameter(path, kind, Initialiser("normal", (0.0, 0.02))), self.seed))

    # -------------------------------------------------------------------------------------------------------- experts

    def replace(self, part: FeedForward, home: str) -> None:
        """Put experts in the place of a part."""
        graph, edit = self.graph, self.edit
        edit.acting("experts", part.last)
        if self.gates is None and self.routed:
            gates: Ref | None = self.route(part.input, f"{home}.router")
        else:
            gates = self.gates
        bias = cast("ParameterRef | None", (*graph.nodes[part.last].inputs, None)[2])
        outs = [self.expert(part, f"{home}.experts.{e}", e, bias) for e in range(self.count)]
        if gates is not None:
            outs = [self.weighed(gates, e, out, f"{home}.experts.{e}") for e, out in enumerate(outs)]
        total = self.total(outs, f"{home}.experts.sum")
        if bias is not None and self.how != "upcycle":
            total = self.add(f"{home}.experts.biased", Add(), total, bias)
        if self.depth > 1:
            total = self.blended(part, home, total)
        edit.redirect(part.output, total)
        self.forget(part)

    def expert(self, part: FeedForward, prefix: str, e: int, bias: ParameterRef | None) -> Ref:
        given: dict[Ref, Ref | None] = {part.input: part.input}
        own = set(part.places)
        if self.how == "upcycle":
            nodes = [self.graph.nodes[path] for path in part.nodes]
            own |= {r.parameter for n in nodes for r in n.refs if isinstance(r, ParameterRef)}
        elif bias is not None:
            given[bias] = None
        if self.how == "views":
            start, stop = self.shares[part.last][e]
            for path, place in part.places.items():
                cut = Slice(place.axis, start, stop)
                given[ParameterRef(path)] = self.add(part.below(prefix, path), cut, ParameterRef(path))
        else:
            self.sources.update((part.below(prefix, path), (path,)) for path in own)
        return copied(self.edit, self.slices[e], part, prefix, given, own=own)

    def weighed(self, gates: Ref, e: int, out: Ref, path: str) -> Ref:
        gate = self.add(f"{path}.gate", Slice(self.edit.type(gates).rank - 1, e, e + 1), gates)
        return self.add(f"{path}.weighed", Mul(), out, gate)

    def total(self, values: Sequence[Ref], path: str) -> Ref:
        total = values[0]
        for value in values[1:]:
            total = self.add(path, Add(), total, value)
        return total

    def blended(self, part: FeedForward, home: str, wide: Ref) -> Ref:
        """With the whole part, applied again and again, as far as a gate says for each token."""
        read: Ref = part.input
        deep = copied(self.edit, self.graph, part, f"{home}.deep.0", {part.input: read}, own=())
        for i in range(1, self.depth):
            again = self.add(f"{home}.deep.{i}.input", Add(), read, deep)
            deep = copied(self.edit, self.graph, part, f"{home}.deep.{i}", {part.input: again}, own=())
        weight = self.matrix(f"{home}.difficulty.weight", 1, self.edit.type(read))
        gate = self.add(
            f"{home}.difficulty.gate", Sigmoid(), self.add(f"{home}.difficulty", Linear(), read, weight, None)
        )
        change = self.add(f"{home}.difficulty.change", Sub(), deep, wide)
        weighed = self.add(f"{home}.difficulty.weighed", Mul(), change, gate)
        return self.add(f"{home}.difficulty.sum", Add(), wide, weighed)

    def forget(self, part: FeedForward) -> None:
        """Remove the part, and the parameters that the experts have for themselves."""
        nodes = [self.graph.nodes[path] for path in part.nodes]
        bias = (*self.graph.nodes[part.last].inputs, None)[2]
        for node in reversed(nodes):
            self.edit.remove(node.path)
        for ref in dict.fromkeys(r for n in nodes for r in n.refs if isinstance(r, ParameterRef)):
            alone = all(user.path in part.nodes for user in self.graph.users[ref])
            gone = self.how == "upcycle" or (self.how == "partition" and ref.parameter in part.places and ref != bias)
            if alone and gone:
                self.edit.remove_parameter(ref.parameter)
