"""Other units in classes of axes, and the same function: each sum over them is put right where it is taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..axes import Analysis, AxisClass, Selection
from ..axes.pattern import Axis, labels, read
from ..axes.structure import Dimension
from ..graph import Edit, Graph, Node, Parameter, ParameterRef, Ref, Value
from ..operators.arithmetic import Mul
from ..operators.attention import ScaledDotProductAttention
from ..operators.creation import Constant
from ..operators.operator import Initialiser
from ..operators.recurrent import Recurrent
from ..operators.reduction import Max, Mean, Min, Sum, Var
from ..passes.computed import Drawn, Made
from ..types import TensorType
from .numbers import filled
from .units import Lane, Resized, Units, composed, moved

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

_PRODUCTS = frozenset(
    f"{kind}{n}d" for kind in ("conv", "conv_transpose") for n in (1, 2, 3)
) | {"linear", "matmul", "einsum"}  # fmt: skip
"""Operators that are linear in each input, and sum over what only inputs have."""

_NORMS = frozenset({"layer_norm", "rms_norm", "group_norm", "instance_norm"})


class Stop(NamedTuple):
    """A node that cannot give the same with other units of some classes."""

    node: str
    text: str
    classes: tuple[AxisClass, ...]


class Need(NamedTuple):
    """A sum of a node over a label: exactly one of the inputs at `positions` is multiplied so that it stays."""

    node: str
    label: str
    positions: tuple[int, ...]
    factor: float = 1.0


class Resize:
    """New units for some classes of a graph."""

    def __init__(self, analysis: Analysis, units: Mapping[AxisClass, Units]) -> None:
        self.analysis = analysis
        self.units = units
        self._selection = Selection(analysis, {c: u.index for c, u in units.items()})
        self._resized = Resized(analysis, {analysis.atom(c): u for c, u in units.items()})
        self._fresh = any(u.fresh for u in units.values())

    # ------------------------------------------------------------------------------------------------ what is needed

    @cached_property
    def stops(self) -> list[Stop]:
        """What forbids it."""
        return [found for node, label, d in self._labels for found in self._stop(node, label, d)]

    @cached_property
    def _labels(self) -> list[tuple[Node, str, Dimension]]:
        """The labels of nodes that change, but for those that a node treats index by index."""
        uses = dict.fromkeys(use for own in self.units for use in self.analysis.uses(own))
        found: list[tuple[Node, str, Dimension]] = []
        for use in uses:
            node, seen = self.analysis.graph.nodes[use.node], self.analysis.labels[use.node]
            recurrent = isinstance(node.op, Recurrent) and use.label == "h"
            if use.reduced or recurrent or use.label in seen.axes.mixed | seen.axes.ordered:
                found.append((node, use.label, seen.dimensions[use.label]))
        return found

    def _stop(self, node: Node, label: str, dimension: Dimension) -> Iterator[Stop]:
        op, gain = node.op, self._resized.gain(dimension)
        if label in self.analysis.labels[node.path].axes.ordered:
            yield self._stopped(node, dimension, "reads it in order")
        elif op.name in _PRODUCTS or isinstance(op, (Sum, Mean, Recurrent)) or self._scales(op, label):
            if gain is None and self._resized.lane(dimension, summed=True) is None:
                yield self._stopped(node, dimension, "sums over it, and how many there are is known when it runs")
        elif isinstance(op, (Max, Min)):
            if self._fresh:
                yield self._stopped(node, dimension, "would see units that are new")
        elif (
            op.name in _NORMS
            or isinstance(op, ScaledDotProductAttention)
            or (isinstance(op, Var) and not op.correction)
        ):
            if gain is None:
                text = "takes statistics over it, in which every unit must count the same"
                yield self._stopped(node, dimension, text, uneven=True)
        else:
            yield self._stopped(node, dimension, "would give something else with other units")

    @staticmethod
    def _scales(op: object, label: str) -> bool:
        """Whether an attention sums products of queries and keys over it."""
        return isinstance(op, ScaledDotProductAttention) and label == "d" and op.scale is not None

    def _stopped(self, node: Node, dimension: Dimension, text: str, *, uneven: bool = False) -> Stop:
        atoms = self._resized.touched(dimension)
        guilty = [a for a in atoms if uneven and self._resized.gain(a) is None]
        classes = tuple(self.analysis.class_of(a) for a in guilty or atoms)
        return Stop(node.path, f"{node.op.name} %{node.path} {text}", classes)

    @cached_property
    def _needs(self) -> list[Need]:
        return [need for node, label, d in self._labels for need in self._need(node, label, d)]

    def _need(self, node: Node, label: str, dimension: Dimension) -> Iterator[Need]:
        gain = self._resized.gain(dimension)
        if isinstance(node.op, Recurrent):  # each direction and layer sums with weights of its own
            for position in range(1 + node.op.states, len(node.inputs)):
                if self._within(node, label, position, from_axis=1):
                    yield Need(node.path, label, (position,))
        elif isinstance(node.op, Mean):
            if gain is None:
                before, after = self.analysis.structure.size(dimension), self._selection.size(dimension)
                assert isinstance(before, int)
                assert isinstance(after, int)
                yield Need(node.path, label, (0,), after / before)
        elif self._scales(node.op, label):
            if gain is None:
                yield Need(node.path, label, (0,))
        elif node.op.name in _PRODUCTS or isinstance(node.op, Sum):
            present = [i for i, ref in enumerate(node.inputs) if ref is not None]
            yield Need(node.path, label, tuple(i for i in present if self._within(node, label, i)))

    def _within(self, node: Node, label: str, position: int, from_axis: int = 0) -> bool:
        return any(label in labels(axis) for axis in self._axes(node, position)[from_axis:])

    def _axes(self, node: Node, position: int) -> tuple[Axis, ...]:
        """The axes of an input, as the node's pattern has them."""
        present = [i for i, ref in enumerate(node.inputs) if ref is not None]
        pattern = read(self.analysis.labels[node.path].axes.pattern, len(present))
        return pattern.inputs[present.index(position)]

    # -------------------------------------------------------------------------------------------------- who meets it

    @cached_property
    def _met(self) -> tuple[dict[str, tuple[Lane | None, ...]], list[Need]]:
        """Parameters that meet needs of all their readers alike, with the sums along their axes; and what is left."""
        needs: dict[tuple[str, int], list[Need]] = {}
        for need in self._needs:
            for position in need.positions:
                needs.setdefault((need.node, position), []).append(need)
        kept = {*self.analysis.graph.outputs.values(), *self.analysis.graph.taps.values()}
        met: set[Need] = set()
        found: dict[str, tuple[Lane | None, ...]] = {}
        for path in self.analysis.graph.parameters:
            ref = ParameterRef(path)
            readers = self._readers.get(ref, [])
            own = [need for reader in readers for need in needs.get(reader, ())]
            if own and ref not in kept and not met.intersection(own):
                ways = [self._sums(*reader, needs.get(reader, ())) for reader in readers]
                if all(_alike(way, ways[0]) for way in ways[1:]):
                    found[path] = ways[0]
                    met.update(own)
        return found, [need for need in self._needs if need not in met]

    @cached_property
    def _readers(self) -> dict[Ref, list[tuple[str, int]]]:
        found: dict[Ref, list[tuple[str, int]]] = {}
        for node in self.analysis.graph.nodes.values():
            for position, ref in enumerate(node.inputs):
                if ref is not None:
                    found.setdefault(ref, []).append((node.path, position))
        return found

    def _sums(self, path: str, position: int, needs: Sequence[Need]) -> tuple[Lane | None, ...]:
        """The lanes of a parameter's axes where it meets these needs of a reader; None where nothing is summed."""
        node = self.analysis.graph.nodes[path]
        known = {need.label for need in needs}
        first = 1 if isinstance(node.op, Recurrent) else 0
        return tuple(
            self._lane(node, axis, known) if number >= first and known.intersection(labels(axis)) else None
            for number, axis in enumerate(self._axes(node, position))
        )

    def _lane(self, node: Node, axis: Axis, summed: set[str]) -> Lane | None:
        dimensions = self.analysis.labels[node.path].dimensions
        return composed(axis, lambda label: self._resized.lane(dimensions[label], summed=label in summed))

    # ------------------------------------------------------------------------------------------------------ the graph

    def graph(self, maker: str, seed: int = 0) -> Graph:
        """The graph with these units, which no `stops` forbid. Parameters without data are drawn from `seed`."""
        old = self.analysis.graph
        new = self._selection.graph()
        changed = [self._parameter(p, new.parameters[path], seed) for path, p in old.parameters.items()]
        edit = replace(new, parameters={p.path: p for p in changed}).edit(maker)
        for need in self._met[1]:
            edit.acting(maker, need.node)
            self._multiply(edit, need)
        for node, label, dimension in self._labels:
            gain = self._resized.gain(dimension)
            if self._scales(node.op, label) and gain not in (None, 1):
                assert isinstance(node.op, ScaledDotProductAttention)
                assert node.op.scale is not None
                edit.set(node.path, op=replace(node.op, scale=node.op.scale * gain))
        return edit.done()

    def _parameter(self, old: Parameter, new: Parameter, seed: int) -> Parameter:
        sums = self._met[0].get(old.path, (None,) * old.type.rank)
        axes = self.analysis.axes[ParameterRef(old.path)]
        lanes = tuple(
            sums[i] or (self._resized.lane(d, summed=False) if self._resized.touched(d) else None)
            for i, d in enumerate(axes)
        )
        if not any(lanes):
            return old
        if not self._fresh or old.initialiser.kind == "given":
            return replace(new, data=Made(partial(_resized, lanes), (filled(old, seed),), new.type))
        drawn = replace(new, data=Drawn(replace(new, data=None), seed))
        return replace(new, data=Made(partial(_with_fresh, lanes, sums), (filled(old, seed), drawn), new.type))

    def _multiply(self, edit: Edit, need: Need) -> None:
        """Put a product before an input of a node: a value rather than a parameter."""
        node = self.analysis.graph.nodes[need.node]
        dimension = self.analysis.labels[node.path].dimensions[need.label]
        position = next((i for i in need.positions if isinstance(node.inputs[i], Value)), need.positions[0])
        ref = edit.node(node.path).inputs[position]
        assert ref is not None
        kind, gain = edit.type(ref), self._resized.gain(dimension)
        if gain is not None and self._multiplied(edit, ref, node, position, gain * need.factor):
            return
        path = f"{node.path}_share"
        if gain is None:
            shares: Ref = edit.parameter(self._shares(edit, path, node, need, position, kind))
        else:
            shares = _scalar(edit, f"{path}_each", gain * need.factor, kind, node)
        made = edit.add(edit.fresh(path), Mul(), ref, shares, phase=node.phase, origin=node.origin)
        inputs = list(edit.node(node.path).inputs)
        inputs[position] = made.value
        edit.set(node.path, inputs=inputs)

    def _multiplied(self, edit: Edit, ref: Ref, reader: Node, position: int, factor: float) -> bool:
        """Where the input is a product with a number already, as an earlier resizing put it, that number changes."""
        graph, made = self.analysis.graph, edit.node(ref.node) if isinstance(ref, Value) else None
        if made is None or not isinstance(made.op, Mul) or not isinstance(made.inputs[1], Value):
            return False
        each = edit.node(made.inputs[1].node)
        ends = {*graph.outputs.values(), *graph.taps.values()}
        number = each.op.value if isinstance(each.op, Constant) else None
        alone = all(len(graph.users.get(v, ())) == 1 and v not in ends for v in (made.value, each.value))
        if not isinstance(number, float) or not alone:
            return False
        if number * factor != 1:
            edit.set(each.path, op=Constant(number * factor, each.types[0].dtype))
            return True
        inputs = list(edit.node(reader.path).inputs)
        inputs[position] = made.inputs[0]
        edit.set(reader.path, inputs=inputs)
        edit.remove(made.path)
        edit.remove(each.path)
        return True

    def _shares(self, edit: Edit, path: str, node: Node, need: Need, position: int, kind: TensorType) -> Parameter:
        """A parameter with the number by which each unit is multiplied."""
        axes = self._axes(node, position)
        axis = next(i for i, a in enumerate(axes) if need.label in labels(a))
        lane = self._lane(node, axes[axis], {need.label})
        assert lane is not None
        numbers = lane.gains * need.factor
        shape = (len(numbers), *[1] * (kind.rank - axis - 1))
        type_ = TensorType(kind.dtype, shape)
        name = path
        while edit.find_parameter(name) is not None:
            name += "_"
        initialiser = Initialiser("given")
        data = Made(lambda: numbers, (), type_)
        return Parameter(name, type_, initialiser, trainable=self._fresh, buffer=not self._fresh, data=data)


def _scalar(edit: Edit, path: str, number: float, kind: TensorType, reader: Node) -> Ref:
    constant = Constant(number, kind.dtype)
    return edit.add(edit.fresh(path), constant, phase=reader.phase, origin=reader.origin).value


def _alike(a: Sequence[Lane | None], b: Sequence[Lane | None]) -> bool:
    import numpy

    return len(a) == len(b) and all(
        x is y or (x is not None and y is not None and all(map(numpy.array_equal, x, y)))
        for x, y in zip(a, b, strict=True)
    )


def _resized(lanes: Sequence[Lane | None], array: Array) -> Array:
    return moved(array, lanes)


def _with_fresh(lanes: Sequence[Lane | None], sums: Sequence[Lane | None], old: Array, drawn: Array) -> Array:
    """Old numbers where all indices are the first of their kind, drawn ones elsewhere, and 0 where a sum leaves out."""
    import numpy

    made = moved(old, lanes)
    for axis, lane in enumerate(lanes):
        if lane is not None and sums[axis] is None:
            again = numpy.ones(lane.sizes[1], bool)
            again[numpy.unique(lane.old, return_index=True)[1]] = False
            where = again.reshape(-1, *[1] * (made.ndim - axis - 1))
            made = numpy.where(where, drawn, made)
    for axis, lane in enumerate(sums):
        if lane is not None:
            made = made * (lane.gains != 0).reshape(-1, *[1] * (made.ndim - axis - 1))
    return made
