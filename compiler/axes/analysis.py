"""Which axes of a graph are the same dimension, and what may be done to it: from the axis rules of operators alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from ..graph import Graph, Node, ParameterRef, Ref, Value
from ..operators.operator import Axes
from ..types import Dim, Expression
from .pattern import Axis, Parts, build, labels, read, solve
from .structure import Dimension, Structure

Kind = Literal["fixed", "ordered", "mixed"]


class Place(NamedTuple):
    """Where a class occurs: in axis `axis` of `ref`, as blocks of `step` elements that begin at `offset` + i·`step`
    for each unit i; all that again for each (count, stride) in `loops`."""

    ref: Ref
    axis: int
    offset: Dim = 0
    step: Dim = 1
    loops: tuple[tuple[Dim, Dim], ...] = ()
    size: Dim = 1
    """How many units."""
    whole: bool = True
    """Whether the axis consists of this class alone, one element a unit."""

    def __str__(self) -> str:
        where = f"{self.ref}[{self.axis}]"
        if self.whole:
            return where
        each = "".join(f", {count} times every {stride}" for count, stride in self.loops)
        step = f":{self.step}" if self.step != 1 else ""
        return f"{where}[{self.offset}:{self.offset + self.size * self.step}{step}{each}]"


class Reason(NamedTuple):
    """Why a class is fixed, in order, or in the statistics of a normalisation: what a node says of one of its labels.
    `node` is empty where the reason lies in no node: `end` is then the input or output of the model, if that is it."""

    kind: Kind
    node: str
    label: str
    """Empty where a node sees all of it in a way that others do not."""
    text: str
    end: tuple[Ref, int] | None = None


@dataclass(frozen=True, eq=False)
class AxisClass:
    """A dimension of the model: everything that must be cut, permuted or repeated together. One index is a unit."""

    number: int
    size: Dim
    places: tuple[Place, ...]
    """In parameters, in order of the parameters and of the offset."""
    reasons: tuple[Reason, ...]
    unit: str
    """What one index is: `channel`, `head of 64`, `group of 4`, …"""
    mixed_with: tuple[int, ...] = ()
    """Numbers of the classes that statistics are taken over together with this one: repeating one of them alone gives
    it more weight."""

    @property
    def fixed(self) -> tuple[Reason, ...]:
        return tuple(r for r in self.reasons if r.kind == "fixed")

    @property
    def ordered(self) -> tuple[Reason, ...]:
        return tuple(r for r in self.reasons if r.kind == "ordered")

    @property
    def mixed(self) -> tuple[Reason, ...]:
        """Why cutting changes what the remaining units compute: statistics are taken over all of them."""
        return tuple(r for r in self.reasons if r.kind == "mixed")

    @property
    def cuttable(self) -> bool:
        """Units can be taken out (and so can they be added, or repeated)."""
        return not self.fixed and self.size != 1

    @property
    def permutable(self) -> bool:
        return self.cuttable and not self.ordered


@dataclass(frozen=True, slots=True)
class Labels:
    """How a node sees its axes."""

    axes: Axes
    dimensions: Mapping[str, Dimension]


class Use(NamedTuple):
    """A label of a node that has a class: the inputs and outputs in whose axes it is, by position."""

    node: str
    label: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def reduced(self) -> bool:
        """The node sums, or averages, over it: a unit that is there twice counts twice in a sum."""
        return bool(self.inputs) and not self.outputs


@dataclass(frozen=True)
class Analysis:
    """The classes of a graph's dimensions.

    `axes[ref][i]` is the dimension of an axis, `labels[path]` what a node calls them; both are read with `structure`.
    """

    graph: Graph
    structure: Structure
    axes: Mapping[Ref, list[Dimension]]
    labels: Mapping[str, Labels]
    marks: list[tuple[Dimension, Reason]] = field(repr=False)

    def dimension(self, ref: Ref, axis: int) -> Dimension:
        """
        Raises:
            KeyError: where the graph has no such value or parameter.
            IndexError: where it has no such axis.
        """
        return self.axes[ref][axis]

    def of(self, ref: Ref, axis: int) -> tuple[tuple[AxisClass, Place], ...]:
        """The classes of which an axis consists, with where they lie in it, in order of offsets. Parts of size 1 that
        no other axis has are left out."""
        found = self._by_atom
        places = self.places_in(ref, axis)
        return tuple((found[atom], place) for atom, place in places if atom in found)

    def places_in(self, ref: Ref, axis: int) -> Iterator[tuple[Dimension, Place]]:
        """Every atom of an axis and where it lies."""
        dimension = self.axes[ref][axis]
        whole = self.structure.form(dimension) is None
        for atom, offset, step, loops in self.structure.occurrences(dimension):
            yield atom, Place(ref, axis, offset, step, loops, self.structure.size(atom), whole)

    def tied(self, a: tuple[Ref, int], b: tuple[Ref, int]) -> tuple[AxisClass, ...]:
        """The classes that two axes have in common."""
        there = {c.number for c, _ in self.of(*b)}
        return tuple(dict.fromkeys(c for c, _ in self.of(*a) if c.number in there))

    def uses(self, own: AxisClass) -> list[Use]:
        """Every label of a node that has a class, in the order of the nodes."""
        return self._uses.get(own.number, [])

    @cached_property
    def _uses(self) -> dict[int, list[Use]]:
        found: dict[int, list[Use]] = {}
        for node in self.graph.nodes.values():
            present = [i for i, ref in enumerate(node.inputs) if ref is not None]
            pattern = read(self.labels[node.path].axes.pattern, len(present))
            given = [{n for axis in group for n in labels(axis)} for group in pattern.inputs]
            made = [{n for axis in group for n in labels(axis)} for group in pattern.outputs]
            for label, dimension in self.labels[node.path].dimensions.items():
                inputs = tuple(i for i, names in zip(present, given, strict=True) if label in names)
                use = Use(node.path, label, inputs, tuple(i for i, names in enumerate(made) if label in names))
                for atom in self.structure.atoms(dimension):
                    if atom in self.atoms:  # a factor of size 1 need be in no axis
                        found.setdefault(self.atoms[atom], []).append(use)
        return found

    @cached_property
    def every_class(self) -> tuple[AxisClass, ...]:
        """All classes, in order of the values and parameters in which they first occur; those that have places in
        parameters come first."""
        return tuple(_classes(self))

    @cached_property
    def classes(self) -> tuple[AxisClass, ...]:
        """The classes that occur in parameters and have more than one unit."""
        return tuple(c for c in self.every_class if c.places and c.size != 1)

    def atom(self, own: AxisClass) -> Dimension:
        """The dimension that stands for a class."""
        return self._order[own.number - 1]

    @cached_property
    def _order(self) -> list[Dimension]:
        return list(self.atoms)

    def class_of(self, atom: Dimension) -> AxisClass:
        return self._by_atom[self.structure.find(atom)]

    @cached_property
    def _by_atom(self) -> dict[Dimension, AxisClass]:
        return dict(zip(self.atoms, self.every_class, strict=True))

    @cached_property
    def atoms(self) -> dict[Dimension, int]:
        """The atom of each class and its number."""
        dims: dict[Dimension, None] = {}
        for ref in sorted(self.axes, key=lambda ref: isinstance(ref, Value)):
            dims.update(dict.fromkeys(map(self.structure.find, self.axes[ref])))
        found: dict[Dimension, None] = {}
        for dimension in dims:
            found.update(dict.fromkeys(self.structure.atoms(dimension)))
        ordered = sorted(found, key=lambda atom: self.structure.size(atom) == 1)
        return {atom: number for number, atom in enumerate(ordered, 1)}


def analyse(graph: Graph, *, interface: Collection[str] | None = None) -> Analysis:
    """The equivalence classes of the axes of every value and parameter.

    Axes of the inputs and outputs in `interface` are fixed, of all where it is None: what changes them changes what
    the model is given, or gives.
    """
    return _Analyser(graph, interface).run()


class _Analyser:
    def __init__(self, graph: Graph, interface: Collection[str] | None) -> None:
        self.graph = graph
        self.interface = interface
        self.structure = Structure()
        self.axes: dict[Ref, list[Dimension]] = {}
        self.labels: dict[str, Labels] = {}
        self.marks: list[tuple[Dimension, Reason]] = []

    def run(self) -> Analysis:
        for path, parameter in self.graph.parameters.items():
            self.axes[ParameterRef(path)] = [self.structure.atom(d) for d in parameter.type.shape]
        for node in self.graph.nodes.values():
            self._node(node)
        self._interface()
        return Analysis(self.graph, self.structure, self.axes, self.labels, self.marks)

    def _node(self, node: Node) -> None:
        known = len(self.structure.conflicts)
        axes = node.op.axes(*self.graph.input_types(node))
        inputs = [i for i in node.inputs if i is not None]
        pattern = read(axes.pattern, len(inputs))
        types = [*(self.graph.type(i) for i in inputs), *node.types]
        groups = (*pattern.inputs, *pattern.outputs)
        sizes: Mapping[str, Dim] = {}
        if not pattern.plain:
            places = [p for group, kind in zip(groups, types, strict=True) for p in zip(group, kind.shape, strict=True)]
            sizes = solve(places, axes.sizes)
        names: dict[str, Dimension] = {}
        composed: list[tuple[Parts, Dimension]] = []
        for ref, group in zip(inputs, pattern.inputs, strict=True):
            for axis, dimension in zip(group, self.axes[ref], strict=True):
                if isinstance(axis, Parts):
                    composed.append((axis, dimension))
                elif axis != "1" and names.setdefault(axis, dimension) != dimension:
                    self.structure.equate(names[axis], dimension)
        for axis, dimension in composed:
            self.structure.equate(dimension, self._built(axis, names, sizes))
        for value, group, kind in zip(node.values, pattern.outputs, node.types, strict=True):
            places = zip(group, kind.shape, strict=True)
            self.axes[value] = [self._made(axis, size, names, sizes) for axis, size in places]
        self.labels[node.path] = Labels(axes, names)
        self._mark(node, axes, names)
        for dimensions in self.structure.conflicts[known:]:
            text = f"{node.op.name} takes it apart in another way than others do"
            self.marks += [(d, Reason("fixed", node.path, "", text)) for d in dimensions]

    def _made(self, axis: Axis, size: Dim, names: dict[str, Dimension], sizes: Mapping[str, Dim]) -> Dimension:
        """The dimension of an output's axis."""
        if isinstance(axis, Parts):
            return self._built(axis, names, sizes)
        if axis == "1":
            return self.structure.atom(1)
        if axis not in names:
            names[axis] = self.structure.atom(size)
        return names[axis]

    def _built(self, axis: Axis, names: dict[str, Dimension], sizes: Mapping[str, Dim]) -> Dimension:
        def label(name: str) -> Dimension:
            if name not in names:
                names[name] = self.structure.atom(sizes[name])
            return names[name]

        return build(axis, label, self.structure.product, self.structure.sum)

    def _mark(self, node: Node, axes: Axes, names: Mapping[str, Dimension]) -> None:
        for label, text in axes.fixed.items():
            self.marks.append((names[label], Reason("fixed", node.path, label, text)))
        for label in axes.ordered:
            text = f"{node.op.name} reads it in order"
            self.marks.append((names[label], Reason("ordered", node.path, label, text)))
        for label in axes.mixed:
            text = f"{node.op.name} takes statistics over it"
            self.marks.append((names[label], Reason("mixed", node.path, label, text)))

    def _interface(self) -> None:
        ends = [("input", name, node.value) for name, node in self.graph.inputs.items()]
        ends += [("output", name, ref) for name, ref in self.graph.outputs.items()]
        for kind, name, ref in ends:
            if self.interface is None or name in self.interface:
                text = f"it is an axis of the {kind} {name}"
                marks = [(d, Reason("fixed", "", "", text, (ref, axis))) for axis, d in enumerate(self.axes[ref])]
                self.marks += marks


def _classes(found: Analysis) -> Iterator[AxisClass]:
    structure = found.structure
    reasons, together = _reasons(found)
    places: dict[Dimension, list[Place]] = {}
    for ref, own in found.axes.items():
        if isinstance(ref, ParameterRef):
            for axis in range(len(own)):
                for atom, place in found.places_in(ref, axis):
                    places.setdefault(atom, []).append(place)
    units = _units(found)
    for atom, number in found.atoms.items():
        size = structure.size(atom)
        own = [*reasons.get(atom, ())]
        if isinstance(size, Expression):
            own.insert(0, Reason("fixed", "", "", f"its size is {size}, which is known when the model runs"))
        where = places.get(atom, [])
        beside = tuple(sorted(found.atoms[a] for a in together.get(atom, ()) if a != atom and a in found.atoms))
        unit = _unit(units.get(atom), where)
        yield AxisClass(number, size, tuple(where), tuple(dict.fromkeys(own)), unit, beside)


def _reasons(found: Analysis) -> tuple[dict[Dimension, list[Reason]], dict[Dimension, set[Dimension]]]:
    """By atom: what is said of the dimensions that have it, and the other atoms that are averaged over with it."""
    structure = found.structure
    marked: dict[Dimension, list[Reason]] = {}
    for dimension, reason in found.marks:
        marked.setdefault(structure.find(dimension), []).append(reason)
    reasons: dict[Dimension, list[Reason]] = {}
    together: dict[Dimension, set[Dimension]] = {}
    for dimension, own in marked.items():
        atoms = structure.atoms(dimension)
        mixed = any(r.kind == "mixed" for r in own)
        for atom in atoms:
            reasons.setdefault(atom, []).extend(own)
            if mixed and len(atoms) > 1:
                together.setdefault(atom, set()).update(a for a in atoms if structure.size(a) != 1)
    return reasons, together


def _units(found: Analysis) -> dict[Dimension, str]:
    """What operators call an index of an atom, the first that has a name for it."""
    names: dict[Dimension, str] = {}
    for own in found.labels.values():
        for label, name in own.axes.units.items():
            dimension = own.dimensions[label]
            for atom in found.structure.atoms(dimension):
                names.setdefault(atom, name)
    return names


def _unit(name: str | None, places: list[Place]) -> str:
    """The name of a unit, with the elements it takes where it takes as many wherever it takes more than one."""
    steps = {p.step for p in places if p.step != 1}
    if len(steps) != 1:
        return name or ("block" if steps else "channel")
    (step,) = steps
    return f"{name or 'block'} of {step}"
