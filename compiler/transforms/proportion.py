"""The widths of a model: which classes of axes grow with a width factor, and how the others follow them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import lcm
from typing import Literal

from ..axes import Analysis, AxisClass
from ..axes.structure import Dimension
from ..blocks import Block, blocks, spine, stages
from ..graph import Graph, ParameterRef, Ref, Value
from .rounding import round_units, unit_divisor, unit_steps

Ends = Literal["scaled", "kept", "wider"]
"""What becomes of the widths before the first block, or after the last: scaled like the others, kept, or only ever
made wider."""

Grow = Literal["heads", "head_size"]

Relation = Literal["input", "output"]
"""To what a width inside a block keeps its ratio: the block's input, or its output."""

Kind = tuple[str, str]
"""A module, and the first place of a class in its blocks, below their paths."""


@dataclass(frozen=True)
class Member:
    """A class that is scaled. One unit takes `step` elements; units stay a multiple of `divisor`."""

    own: AxisClass
    step: int
    divisor: int
    follows: Value | None = None
    """The value with whose width the class grows; None where the width factor alone says."""
    only: Ends = "scaled"
    by: Fraction | None = None
    """A factor of its own."""

    @property
    def units(self) -> int:
        assert isinstance(self.own.size, int)
        return self.own.size


@dataclass(frozen=True)
class Policy:
    """How widths are scaled; see the options of `scale`."""

    divisor: int = 8
    stem: Ends = "scaled"
    head: Ends = "scaled"
    grow: Grow = "heads"
    heads: Fraction | None = None
    channels: tuple[int, ...] = ()


class Proportions:
    """The widths of a graph as functions of one factor.

    Classes on the spine, those that values between blocks have, are scaled on their own. One inside a block keeps its
    ratio to the block's input, or output, if that ratio is the same in all blocks of its kind; else it is scaled on its
    own too. Where an axis is made of two or more (heads of a size, groups of channels) one of them is scaled, and the
    others stay.
    """

    def __init__(self, graph: Graph, analysis: Analysis, policy: Policy, relations: Mapping[Kind, Relation]) -> None:
        self.graph = graph
        self.analysis = analysis
        self.policy = policy
        self.blocks = blocks(graph)
        self.relations = relations or self._relations()

    # ------------------------------------------------------------------------------------------------ what is scaled

    @cached_property
    def members(self) -> dict[AxisClass, Member]:
        """The classes that are scaled; others stay."""
        return {own: self._member(own) for own in self._scalable}

    @cached_property
    def _scalable(self) -> list[AxisClass]:
        free = [c for c in self.analysis.classes if c.cuttable and _units(c) and "expert" not in c.unit]
        held = self._shared(set(free))
        return [c for c in free if c not in held]

    def _shared(self, free: set[AxisClass]) -> set[AxisClass]:
        """The classes that are factors of an axis of which another factor is scaled."""
        held: set[AxisClass] = set()
        for found in self._factors:
            own = [c for c in found if c in free]
            if len(own) > 1:
                best = max((c for c in own if c not in held), key=lambda c: self._rank(c, own), default=None)
                held.update(c for c in own if c is not best)
        return held

    def _rank(self, own: AxisClass, beside: Sequence[AxisClass]) -> tuple[bool, int]:
        """Heads and groups before what they consist of, unless it is the size of heads that is to grow."""
        plain = self.policy.grow == "head_size" and any("head" in c.unit for c in beside)
        return _counted(own) != plain, _units(own)

    @cached_property
    def _factors(self) -> dict[tuple[AxisClass, ...], int]:
        """The classes whose product an axis of a parameter is, or a part of it, and the largest size of such parts."""
        structure = self.analysis.structure
        found: dict[tuple[AxisClass, ...], int] = {}
        for ref, dimensions in self.analysis.axes.items():
            if not isinstance(ref, ParameterRef):
                continue
            for part in (p for d in dimensions for p in structure.segments(d)):
                factors = [structure.find(f) for f in structure.factors(part)]
                own = tuple(self.analysis.class_of(f) for f in factors if f in self.analysis.atoms)
                size = structure.size(part)
                if own and isinstance(size, int):
                    found[own] = max(size, found.get(own, 0))
        return found

    @cached_property
    def _elements(self) -> dict[AxisClass, int]:
        """By class of heads, groups, and what they consist of: the elements that all of its units take."""
        found: dict[AxisClass, int] = {}
        for own, size in self._factors.items():
            if any(map(_counted, own)):
                found.update({c: max(size, found.get(c, 0)) for c in own})
        return found

    def _step(self, own: AxisClass) -> int:
        """The elements of a unit: of a head, those of all its channels."""
        return self._elements.get(own, _units(own)) // _units(own)

    def _member(self, own: AxisClass) -> Member:
        step = self._step(own)
        divisor = unit_divisor(_units(own), step, self.policy.divisor)
        if self.policy.heads is not None and "head" in own.unit:
            return Member(own, step, 1, by=self.policy.heads)
        block = self._inside.get(own)
        if block is not None:
            relation = self.relations.get(kind_of(block, own))
            if relation:
                return Member(own, step, 1, block.input if relation == "input" else block.output)
            return Member(own, step, divisor)
        only = self.policy.stem if own in self._stem else self.policy.head if own in self._head else "scaled"
        return Member(own, step, lcm(*self._whole.get(own, [divisor])), only=only)

    @cached_property
    def _whole(self) -> dict[AxisClass, list[int]]:
        """By class on the spine: the sizes of heads of which it is a whole number, and must stay one."""
        found: dict[AxisClass, list[int]] = {}
        for own, block in self._inside.items():
            by = "" if self.policy.heads is not None else self.relations.get(kind_of(block, own), "")
            if by and own in self._elements and own in self._scalable:
                ref = block.input if by == "input" else block.output
                classes = self._classes(ref)
                if len(classes) == 1 and self.width(ref) == self._elements[own] == _units(classes[0]):
                    found.setdefault(classes[0], []).append(self._step(own))
        return found

    # ------------------------------------------------------------------------------------------------ where it is

    def _classes(self, ref: Ref) -> tuple[AxisClass, ...]:
        """The classes of a value's channels."""
        axis = self._channels(ref)
        return () if axis is None else tuple(dict.fromkeys(c for c, _ in self.analysis.of(ref, axis)))

    def _channels(self, ref: Ref) -> int | None:
        """The axis of a value that has most units that may change."""
        best: tuple[int, int] | None = None
        for axis in range(self.graph.type(ref).rank):
            size = sum(_units(c) for c, _ in self.analysis.of(ref, axis) if c.cuttable and c.places)
            if size and (best is None or size > best[0]):
                best = size, axis
        return None if best is None else best[1]

    def width(self, ref: Ref, sizes: Mapping[AxisClass, int] | None = None) -> int | None:
        """The channels of a value, with other sizes of classes if given; None where they have no class."""
        axis = self._channels(ref)
        if axis is None:
            return None
        found = self._size(self.analysis.dimension(ref, axis), sizes or {})
        return found if isinstance(found, int) else None

    def _size(self, dimension: Dimension, sizes: Mapping[AxisClass, int]) -> object:
        structure = self.analysis.structure
        whole = 0
        for part in structure.segments(dimension):
            product: int = 1
            for factor in structure.factors(part):
                if structure.form(factor) is not None:
                    size = self._size(factor, sizes)
                else:
                    atom = structure.find(factor)
                    known = atom in self.analysis.atoms
                    size = sizes.get(self.analysis.class_of(atom)) if known else None
                    size = structure.size(atom) if size is None else size
                if not isinstance(size, int):
                    return None
                product *= size
            whole += product
        return whole

    @cached_property
    def _joints(self) -> dict[AxisClass, None]:
        """The classes of values between blocks, before the first and after the last."""
        within = {path for b in self.blocks for path in b.nodes if path != b.output.node}
        between = (v for v in spine(self.graph).joints if v.node not in within)
        return dict.fromkeys(c for v in between for c in self._classes(v))

    @cached_property
    def _inside(self) -> dict[AxisClass, Block]:
        """The classes that occur in one block alone, and not at its ends."""
        owner: dict[str, Block] = {path: block for block in self.blocks for path in block.nodes}
        found: dict[AxisClass, Block] = {}
        for own in self.analysis.classes:
            if own not in self._joints:
                users = {owner.get(u.node) for u in self.analysis.uses(own)}
                block = next(iter(users)) if len(users) == 1 else None
                if block is not None:
                    found[own] = block
        return found

    @cached_property
    def _stem(self) -> set[AxisClass]:
        """Classes of values before the first block that no block's output has."""
        if not self.blocks:
            return set()
        after = {c for b in self.blocks for c in self._classes(b.output)}
        found = spine(self.graph)
        before = found.joints[: found.position(self.blocks[0].input) + 1]
        return {c for v in before for c in self._classes(v)} - after

    @cached_property
    def _head(self) -> set[AxisClass]:
        """Classes of values after the last block that are in none of its ends."""
        if not self.blocks:
            return set()
        ends = {c for b in self.blocks for v in (b.input, b.output) for c in self._classes(v)}
        found = spine(self.graph)
        after = found.joints[found.position(self.blocks[-1].output) + 1 :]
        return {c for v in after for c in self._classes(v)} - ends

    # ------------------------------------------------------------------------------------------------ ratios

    def _relations(self) -> dict[Kind, Relation]:
        """By kind of width inside a block: the end to which its ratio is the same in all blocks that have it."""
        ratios: dict[Kind, list[tuple[Fraction, Fraction]]] = {}
        for own, block in self._inside.items():
            ends = self.width(block.input), self.width(block.output)
            elements = _units(own) * self._step(own)
            pair = tuple(Fraction(elements, e) if e else Fraction(0) for e in ends)
            ratios.setdefault(kind_of(block, own), []).append((pair[0], pair[1]))
        found: dict[Kind, Relation] = {}
        for kind, pairs in ratios.items():
            into, out = {a for a, _ in pairs}, {b for _, b in pairs}
            if len(into) == 1 and 0 not in into:
                found[kind] = "input"
            elif len(out) == 1 and 0 not in out:
                found[kind] = "output"
        return found

    # ------------------------------------------------------------------------------------------------ sizes

    def sizes(self, width: Fraction) -> dict[AxisClass, int]:
        """The units of every class that changes with a width factor."""
        found = {m.own: self._alone(m, width) for m in self.members.values() if m.follows is None}
        for member in self.members.values():
            if member.follows is not None:
                before, after = self.width(member.follows), self.width(member.follows, found)
                assert before is not None
                assert after is not None
                found[member.own] = max(1, int(Fraction(member.units * after, before) + Fraction(1, 2)))
        return {own: size for own, size in found.items() if size != own.size}

    def _alone(self, member: Member, width: Fraction) -> int:
        if member.by is not None:
            return max(1, round(member.by * member.units))
        if member.only == "kept" or (member.only == "wider" and width < 1):
            return member.units
        return round_units(width * self._base(member), member.divisor)

    def _base(self, member: Member) -> int:
        return self._given.get(member.own, member.units * member.step) // member.step

    @cached_property
    def _given(self) -> dict[AxisClass, int]:
        """The channels asked for, by the class that the outputs of a stage have."""
        found: dict[AxisClass, int] = {}
        for stage, channels in zip(stages(self.graph), self.policy.channels, strict=False):
            for own in self._classes(stage[-1].output):
                found[own] = channels
        return found

    def steps(self, low: Fraction, high: Fraction) -> list[Fraction]:
        """The width factors between two, one for each way in which the widths are rounded: the smallest of each."""
        found = {low}
        for member in self.members.values():
            if member.follows is None and member.by is None and member.only != "kept":
                found.update(unit_steps(self._base(member), member.divisor, low, high))
        return sorted(found)


def _units(own: AxisClass) -> int:
    return own.size if isinstance(own.size, int) else 0


def _counted(own: AxisClass) -> bool:
    """Whether a unit is a thing made of channels: a head, a group."""
    return not own.unit.startswith(("channel", "block"))


def kind_of(block: Block, own: AxisClass) -> Kind:
    """What the class is in a block: the first of its parameters, by the path below the block."""
    inside = f"{block.path}."
    names = (f"{p.ref.parameter}[{p.axis}]" for p in own.places if isinstance(p.ref, ParameterRef))
    name = next((n for n in names if n.startswith(inside)), "")
    return block.module, name.removeprefix(inside)


def taken(sizes: Mapping[AxisClass, int]) -> dict[AxisClass, Sequence[int]]:
    """The units of each class in order: the first ones, and again from the first where there are more."""
    return {own: [i % _units(own) for i in range(size)] for own, size in sizes.items()}
