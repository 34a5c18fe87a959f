"""The models that one model can be scaled to, built where they are asked for, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Literal, NamedTuple

from ..axes import Analysis, Selection, analyse
from ..cost import Report, assumed, cost, free_symbols
from ..diagnostic import NetcError, nearest
from ..graph import Graph, GraphError, Node, Parameter, verify
from ..operators.attention import ScaledDotProductAttention
from ..passes.bind import bind
from ..types import Dim, Expression
from .choose import listed
from .extent import Stuck, with_inputs
from .fan import refitted
from .proportion import Kind, Policy, Proportions, Relation, taken
from .register import Limit, Refusal
from .restack import Restacked, Stages, restack
from .rounding import DepthRounding, round_repeats, shortest


class Point(NamedTuple):
    """Where a model is scaled to: two factors, and the sides of pictures (None: as they are)."""

    width: Fraction | None
    depth: Fraction | None
    resolution: tuple[int, ...] | None


@dataclass(frozen=True)
class Built:
    """A scaled model."""

    graph: Graph
    sources: dict[str, str]
    notes: tuple[str, ...]


QUANTITIES: dict[str, Callable[[Report], Dim]] = {
    "macs": lambda r: r.macs,
    "flops": lambda r: r.total.flops,
    "parameters": lambda r: r.parameters,
    "weights": lambda r: r.total.weight_bytes,
    "activations": lambda r: r.total.activations,
    "peak": lambda r: r.total.peak,
}
Knob = Literal["resolution", "depth", "width"]
KNOBS: tuple[Knob, ...] = ("width", "depth", "resolution")


class Space:
    """All ways of scaling a graph, with what has been built of them."""

    def __init__(
        self,
        graph: Graph,
        policy: Policy,
        rounding: DepthRounding,
        repeats: Sequence[int],
        limits: Sequence[Limit],
    ) -> None:
        self.graph = graph
        self.policy = policy
        self.rounding: DepthRounding = rounding
        self.stages = Stages(graph, self._relations)
        if repeats and len(repeats) != len(self.stages.repeats):
            text = f"repeats has {len(repeats)} numbers for {len(self.stages.repeats)} stages"
            raise Refusal(text, option="repeats", notes=[f"its stages have {self.stages.repeats} blocks"])
        if len(policy.channels) > len(self.stages.repeats):
            text = f"channels has {len(policy.channels)} numbers for {len(self.stages.repeats)} stages"
            raise Refusal(text, option="channels", notes=[f"its stages have {self.stages.repeats} blocks"])
        self.given = tuple(repeats) or self.stages.repeats
        self.sizes = self._sizes(limits)
        self._stacked: dict[tuple[int, ...], tuple[Restacked, Analysis]] = {}
        self._extended: dict[tuple[tuple[int, ...], tuple[int, ...] | None], tuple[Graph, tuple[str, ...]]] = {}
        self._sized: dict[tuple[tuple[int, ...], tuple[int, ...] | None], Proportions] = {}
        self._costs: dict[Point, dict[str, int]] = {}

    # ------------------------------------------------------------------------------------------------ names

    def measures(self, quantity: str) -> bool:
        """Whether a limit's name is that of a cost."""
        return quantity in QUANTITIES or quantity == "heads"

    def symbol(self, name: str) -> bool:
        """Whether it is a symbol of the model's sizes."""
        return name in free_symbols(self.graph)

    def _sizes(self, limits: Sequence[Limit]) -> dict[str, int]:
        """A number for each symbol: 1 for batches, the one that limits give, or the one that stands for all."""
        free = free_symbols(self.graph)
        sizes = assumed(self.graph)
        known = [*QUANTITIES, "heads", *KNOBS, *sorted(free)]
        for limit in limits:
            if limit.quantity not in known:
                message = f"{limit.quantity} is nothing that scale can limit"
                notes = [f"limits are of {', '.join(known)}"]
                raise Refusal(message, option="limits", notes=notes, fix=nearest(limit.quantity, known))
            if limit.quantity in free:
                if limit.relation != "==" or limit.value < 1 or limit.value != int(limit.value):
                    raise Refusal(f"{limit.quantity} is a size: give it a number, as {limit.quantity} == 128")
                sizes[limit.quantity] = int(limit.value)
        return sizes

    # ------------------------------------------------------------------------------------------------ resolution

    @cached_property
    def picture(self) -> Node | None:
        """The input whose resolution is meant: the first with two axes or more after the channels."""
        return next((n for n in self.graph.inputs.values() if n.types[0].rank > 3), None)

    @cached_property
    def base_sides(self) -> tuple[int, ...] | None:
        """Height and width (and depth) of the picture; None where there is none, or they are symbols."""
        sides = self.picture.types[0].shape[2:] if self.picture else ()
        found = tuple(d for d in sides if isinstance(d, int))
        return found if sides and len(found) == len(sides) else None

    def sides(self, resolution: int | list[int]) -> tuple[int, ...]:
        """A resolution as all sides; a single number is the first, and the others keep their ratio to it."""
        if self.picture is None:
            shapes = ", ".join(str(n.types[0]) for n in self.graph.inputs.values())
            raise Refusal(f"the model has no input with a resolution: {shapes}", option="resolution")
        count = self.picture.types[0].rank - 2
        if isinstance(resolution, int):
            if resolution < 1:
                raise Refusal(f"resolution is {resolution}, and must be at least 1", option="resolution")
            base = self.base_sides or (1,) * count
            found = tuple(max(1, round(Fraction(resolution * d, base[0]))) for d in base)
        else:
            found = tuple(resolution)
        if len(found) != count or min(found) < 1:
            shape = self.picture.types[0]
            raise Refusal(f"{list(found)} is no resolution for the input {shape}", option="resolution")
        return found

    # ------------------------------------------------------------------------------------------------ building

    def repeats(self, depth: Fraction) -> tuple[int, ...]:
        """The blocks of each stage at a depth, as many as the stages can have."""
        wanted = tuple(round_repeats(depth * n, self.rounding) for n in self.given)
        return self.stages.clamped(wanted if depth != 1 else self.given)

    def stacked(self, repeats: tuple[int, ...]) -> tuple[Restacked, Analysis]:
        if repeats not in self._stacked:
            same = repeats == self.stages.repeats
            found = Restacked(self.graph, {}, (), ()) if same else restack(self.stages, repeats)
            self._stacked[repeats] = found, analyse(found.graph, interface=())
        return self._stacked[repeats]

    def extended(self, repeats: tuple[int, ...], sides: tuple[int, ...] | None) -> tuple[Graph, tuple[str, ...]]:
        """The model at a depth and a resolution, and the parameters that changed with the latter.

        Raises:
            Stuck: where a node cannot have it.
        """
        key = repeats, sides
        if key not in self._extended:
            stacked, analysis = self.stacked(repeats)
            graph, changed = stacked.graph, ()
            if sides is not None and sides != self.base_sides:
                assert self.picture is not None
                shape = self.picture.types[0].shape
                if self.base_sides is None:
                    graph = _bound(graph, shape[2:], sides, self.picture.path)
                else:
                    found = with_inputs(graph, {self.picture.path: (*shape[:2], *sides)}, analysis)
                    graph, changed = found.graph, found.parameters
            self._extended[key] = graph, changed
        return self._extended[key]

    def sized(self, repeats: tuple[int, ...], sides: tuple[int, ...] | None) -> Proportions:
        """The widths of the model at a depth and a resolution."""
        key = repeats, sides
        if key not in self._sized:
            graph, _ = self.extended(repeats, sides)
            self._sized[key] = Proportions(graph, analyse(graph), self.policy, self._relations)
        return self._sized[key]

    @cached_property
    def base(self) -> Proportions:
        """The widths of the model as it is."""
        return Proportions(self.graph, analyse(self.graph), self.policy, {})

    @cached_property
    def _relations(self) -> Mapping[Kind, Relation]:
        return self.base.relations

    def build(self, point: Point) -> Built:
        """The model at a point.

        Raises:
            Refusal: where a node cannot have the resolution, or an operator refuses a size.
        """
        repeats = self.repeats(point.depth or Fraction(1))
        try:
            graph, resized = self._graph(point)
        except Stuck as stuck:
            raise Refusal(f"%{stuck.node} cannot take another resolution: {stuck.text}", nodes=[stuck.node]) from None
        try:
            verify(graph)
        except GraphError as error:
            raise Refusal("an operator refuses a size", notes=error.problems) from None
        lost = [p for p, new in graph.parameters.items() if new.initialiser.kind == "given" and self._differs(new)]
        if lost:
            raise Refusal(f"{listed(lost)} would change, whose numbers are given with the model", nodes=lost)
        stacked = self.stacked(repeats)[0]
        notes = [f"new blocks: {', '.join(stacked.made)}"] if stacked.made else []
        notes += [f"blocks left out: {', '.join(stacked.gone)}"] if stacked.gone else []
        notes += [f"parameters with another number of positions: {', '.join(resized)}"] if resized else []
        return Built(graph, dict(stacked.sources), tuple(notes))

    def _differs(self, parameter: Parameter) -> bool:
        old = self.graph.parameters.get(parameter.path)
        return old is not None and old.type != parameter.type

    def _graph(self, point: Point) -> tuple[Graph, tuple[str, ...]]:
        key = self.repeats(point.depth or Fraction(1)), point.resolution
        found, (_, resized) = self.sized(*key), self.extended(*key)
        sizes = found.sizes(point.width or Fraction(1))
        if not sizes:
            return found.graph, resized
        graph = Selection(found.analysis, taken(sizes)).graph()
        return refitted(found.graph, graph.with_parameters(_grown(found.graph, graph))), resized

    # ------------------------------------------------------------------------------------------------ costs

    def costs(self, point: Point) -> dict[str, int]:
        """All quantities at a point, the knobs among them.

        Raises:
            Stuck: where a node cannot have the resolution.
        """
        if point not in self._costs:
            graph, _ = self._graph(point)
            self._costs[point] = self._count(graph)
        return self._costs[point]

    def known(self, point: Point) -> bool:
        """Whether the costs of a point have been counted."""
        return point in self._costs

    def _count(self, graph: Graph) -> dict[str, int]:
        free = free_symbols(graph)
        report = cost(graph, {name: size for name, size in self.sizes.items() if name in free})
        found = {name: _number(read(report)) for name, read in QUANTITIES.items()}
        return {**found, "heads": _heads(graph)}

    def heaviest(self, point: Point, quantity: str) -> str:
        """The node that has most of a quantity."""
        graph, _ = self._graph(point)
        free = free_symbols(graph)
        report = cost(graph, {name: size for name, size in self.sizes.items() if name in free})
        if quantity == "peak":
            return report.peak_at
        name = {"flops": "macs", "weights": "weight_bytes", "heads": "macs"}.get(quantity, quantity)
        return max((r for r in report.rows if r.path in graph.nodes), key=lambda r: _number(getattr(r, name))).path

    # ------------------------------------------------------------------------------------------------ words

    def said(self, point: Point) -> tuple[str, ...]:
        """A point in words, with what it costs."""
        parts: list[str] = []
        if point.width is not None and point.width != 1:
            parts.append(f"width × {float(self.short(point)):g}")
        repeats = self.repeats(point.depth or Fraction(1))
        if repeats != self.stages.repeats:
            change = f"{list(self.stages.repeats)} to {list(repeats)}"
            parts.append(f"depth × {float(point.depth or 1):.4g} (blocks of the stages: {change})")
        if point.resolution is not None and point.resolution != self.base_sides:
            parts.append(f"resolution {' × '.join(map(str, point.resolution))}")
        costs = self.costs(point)
        numbers = ", ".join(f"{costs[q]:,} {q}" for q in ("macs", "parameters"))
        memory = f"{costs['activations']:,} bytes of activations"
        return (*parts, f"{numbers}, {memory}{self._with_sizes()}")

    def short(self, point: Point) -> Fraction:
        """The width factor of the fewest decimals that gives the same widths."""
        width = point.width or Fraction(1)
        steps = self.base.steps(width, width * 2)
        following = next((s for s in steps if s > width), width * 2)
        return shortest(width, following)

    def _with_sizes(self) -> str:
        shown = [f"{name} = {size}" for name, size in sorted(self.sizes.items())]
        return f" (with {', '.join(shown)})" if shown else ""


def _number(dim: Dim) -> int:
    assert isinstance(dim, int), "every symbol has a number"
    return dim


def _heads(graph: Graph) -> int:
    """The heads of all attentions together, for one example."""
    kinds = [
        graph.type(n.inputs[0])
        for n in graph.nodes.values()
        if isinstance(n.op, ScaledDotProductAttention) and n.inputs[0]
    ]
    return sum(k.shape[1] for k in kinds if isinstance(k.shape[1], int))


def _grown(before: Graph, after: Graph) -> list[Parameter]:
    """The parameters that got units they did not have: repeating old ones would be no initialisation."""
    found: list[Parameter] = []
    for path, parameter in after.parameters.items():
        pairs = zip(parameter.type.shape, before.parameters[path].type.shape, strict=True)
        if any(isinstance(a, int) and isinstance(b, int) and a > b for a, b in pairs):
            found.append(replace(parameter, data=None))
    return found


def _bound(graph: Graph, symbolic: Sequence[Dim], sides: Sequence[int], node: str) -> Graph:
    """The graph with numbers for the symbols of a picture's sides."""
    values = {str(d): side for d, side in zip(symbolic, sides, strict=True) if isinstance(d, Expression)}
    try:
        return bind(graph, values)
    except NetcError as error:
        raise Stuck(node, error.diagnostics[0].message) from None
