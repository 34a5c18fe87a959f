"""A partition of working nodes into groups, and the task of finding one that moves few bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import NamedTuple, NoReturn

from ..diagnostic import Diagnostic, Label, NetcError
from ..graph import Value
from ..quantity import enough
from .explain import least
from .group import Group
from .memory import Cost, cheapest, in_one_step
from .workload import Edge, Path, Weight, Workload

Allowed = Callable[[frozenset[str]], bool]


@dataclass(frozen=True)
class Part:
    """A group of a partition: paths in the order of the graph, and what the best schedule of it costs."""

    nodes: tuple[str, ...]
    cost: Cost


@dataclass(frozen=True)
class Partition:
    """What a planner found: convex and connected parts that hold every free node once, each after those it reads."""

    parts: tuple[Part, ...]
    planner: str
    seconds: float
    """Of processor time."""
    bound: int | None
    """Bytes to and from DRAM that no partition of the task is below; proved."""
    optimal: bool = False
    """No partition of the task moves fewer bytes; proved."""
    notes: tuple[str, ...] = ()

    @property
    def dram(self) -> int:
        """Bytes to and from DRAM in one run."""
        return sum(part.cost.usage.dram for part in self.parts)

    @property
    def buffer(self) -> int:
        """The most bytes of any part on chip."""
        return max((part.cost.usage.buffer for part in self.parts), default=0)

    @property
    def gap(self) -> float | None:
        """How much more is moved than the bound says, as a fraction of the bound."""
        return (self.dram - self.bound) / self.bound if self.bound else None


Mask = int
"""A set of working nodes: bit `i` is node `i` in the order of the graph."""


def bits(mask: Mask) -> Iterator[int]:
    """The numbers of the nodes of a set, in the order of the graph."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


class Reading(NamedTuple):
    """An edge, and which kind it is: edges of one kind read in the same way what is of the same type."""

    source: Value
    kind: int


@dataclass
class Node:
    """What a planner asks of a working node again and again."""

    kind: int
    """Nodes of one kind compute the same of what they read, and have the same weights."""
    values: tuple[Value, ...]
    edges: tuple[Reading, ...]
    names: tuple[str, ...]
    """Of the weights."""

    weights: tuple[tuple[str, int], ...]
    """By name, of a table that is looked up a name of its own: the fewest bytes that are loaded."""
    loads: tuple[tuple[Value, Mask, int], ...]
    """By edge: the value, the node that makes it (nothing: an input of the model), and the fewest bytes of it that a
    group loads to run the node."""
    makes: tuple[tuple[Mask, bool, int], ...]
    """By value: its readers, whether it is an output of the model, and its bytes."""


LARGE = 24
"""Nodes of a group from which on it is first tried whether it fits at once."""


class Task:
    """What a planner is asked: to group the nodes `free`, beside the groups `fixed`, for a buffer of so many bytes.

    A buffer is `soft` where it is a cache, which a node alone may exceed: it moves everything once then.
    `allowed` refuses groups that nothing can execute as one; a node alone is always allowed. Groups are sets of bits
    to planners (`Mask`), and convex where no way leads out of them and back in, fixed groups taken as one. At most
    `results` values may leave a group of several nodes: what `allowed` would find out too, and much later.
    """

    def __init__(
        self,
        workload: Workload,
        buffer: int | None = None,
        free: Collection[str] | None = None,
        fixed: Sequence[Group] = (),
        allowed: Allowed | None = None,
        soft: bool = False,
        results: int | None = None,
    ) -> None:
        self.workload = workload
        self.soft = soft
        self.results = results
        self.buffer = buffer
        self.fixed = tuple(fixed)
        self.allowed = allowed
        self.names = tuple(workload.work.nodes)
        self.number = {name: i for i, name in enumerate(self.names)}
        self.free = self.mask(self.names if free is None else free)
        self.sources = [self.mask(workload.work.before[name]) for name in self.names]
        self.readers = [self.mask(workload.work.after[name]) for name in self.names]
        self.units = [self.mask(group.nodes) for group in self.fixed]
        self.below = self._reach(self.readers)
        self.above = self._reach(self.sources)
        self._costs: dict[Mask, Cost | None] = {}
        self._not_below: dict[Mask, float] = {}
        """Groups of which only this much is known of their bytes."""
        self._valid: dict[Mask, bool] = {}
        self._shapes: dict[tuple[Hashable, ...], tuple[Cost, tuple[str, ...]]] = {}
        self._shape_not_below: dict[tuple[Hashable, ...], float] = {}
        self._whole: dict[tuple[Hashable, ...], int | None] = {}
        self._bytes: dict[Value, int] = {}
        self._floors: dict[Mask, int] = {}
        self._needed: dict[Mask, Mask] = {}
        self.evaluated = 0
        """How many groups have been costed so far; of those of one shape, one."""
        self.effort = 0
        """How many nodes they had, and 35 for each group: what time a planner takes goes by this, on any machine."""

    # -------------------------------------------------------------------------------------------- sets of nodes

    def mask(self, names: Iterable[str]) -> Mask:
        found = 0
        for name in names:
            found |= 1 << self.number[name]
        return found

    def members(self, mask: Mask) -> tuple[str, ...]:
        return tuple(self.names[i] for i in bits(mask))

    def _reach(self, next: Sequence[Mask]) -> list[Mask]:
        """For each node those that ways lead to, itself included; what leads to a fixed group leads to all of it."""
        home = {i: unit for unit in self.units for i in bits(unit)}
        found = [1 << i | home.get(i, 0) for i in range(len(self.names))]
        forward = next is self.sources
        changed = True
        while changed:
            changed = False
            for i in range(len(found)) if forward else reversed(range(len(found))):
                more = found[i]
                for j in bits(next[i]):
                    more |= found[j]
                for j in bits(home.get(i, 0)):
                    more |= found[j]
                if more != found[i]:
                    found[i], changed = more, bool(home)
        return found

    def around(self, mask: Mask) -> tuple[Mask, Mask]:
        """All that ways lead from into a set, and all that ways lead to from it."""
        above = below = 0
        for i in bits(mask):
            above |= self.above[i]
            below |= self.below[i]
        return above, below

    def convex(self, mask: Mask) -> bool:
        above, below = self.around(mask)
        return above & below == mask

    def connected(self, mask: Mask) -> bool:
        return next(self.components(mask), 0) == mask

    def components(self, mask: Mask) -> Iterator[Mask]:
        """The connected parts of a set."""
        while mask:
            seen = edge = mask & -mask
            while edge:
                near = 0
                for i in bits(edge):
                    near |= self.sources[i] | self.readers[i]
                edge = near & mask & ~seen
                seen |= edge
            yield seen
            mask &= ~seen

    def valid(self, mask: Mask) -> bool:
        """Whether a set is free, connected, convex and allowed; what it costs is another matter."""
        if mask & (mask - 1) == 0:
            return bool(mask & self.free)
        if mask not in self._valid:
            whole = mask & ~self.free == 0 and self._few_leave(mask) and self.connected(mask) and self.convex(mask)
            self._valid[mask] = whole and (self.allowed is None or self.allowed(frozenset(self.members(mask))))
        return self._valid[mask]

    def _few_leave(self, mask: Mask) -> bool:
        if self.results is None:
            return True
        left, found = mask, 0
        while left:  # the last first: that is where most intervals are open
            last = left.bit_length() - 1
            left ^= 1 << last
            found += sum(result or readers & ~mask != 0 for readers, result, _ in self.nodes[last].makes)
            if found > self.results:
                return False
        return True

    # -------------------------------------------------------------------------------------------- what groups cost

    def cost(self, nodes: Collection[str]) -> Cost | None:
        """The best schedule of a group within the buffer; None where none fits. The group must be valid."""
        return self.cost_of(self.mask(nodes))

    def cost_of(self, mask: Mask) -> Cost | None:
        if mask not in self._costs:
            self._find(mask, inf)
        return self._costs[mask]

    def dram(self, mask: Mask, below: float = inf) -> float:
        """Bytes that a group moves; infinitely many where it is not valid, does not fit, or moves no fewer than
        `below`."""
        if not self.valid(mask) or self._not_below.get(mask, 0) >= below:
            return inf
        if mask not in self._costs:
            if mask.bit_count() >= LARGE and (quick := self._at_once(mask)) is not None:
                return quick if quick < below else inf
            self._find(mask, below)
        cost = self._costs.get(mask)
        return inf if cost is None or cost.usage.dram >= below else cost.usage.dram

    def _at_once(self, mask: Mask) -> int | None:
        """The bytes of a group that fits the buffer at once, which is sooner known than its best schedule."""
        if mask & self._large:
            return None
        shape = self._shape(mask)[0]
        if shape not in self._whole:
            self._whole[shape] = in_one_step(self.workload, self.members(mask), self.buffer)
            self.effort += mask.bit_count() // 2
        return self._whole[shape]

    def _find(self, mask: Mask, below: float) -> None:
        """What a group costs, or that it moves no fewer bytes than `below`: as another of its shape, if known."""
        shape, weights = self._shape(mask)
        known, names = self._shapes.get(shape, (None, ()))
        if known is None and self._shape_not_below.get(shape, 0) < below:
            known, names = self._cheapest(mask, below), weights
            self.evaluated += 1
            self.effort += mask.bit_count() + 35
            if known is None:
                self._shape_not_below[shape] = below
            else:
                self._shapes[shape] = known, names
        if known is not None:
            renamed = dict(zip(names, weights, strict=True))
            resident = frozenset(renamed[name] for name in known.schedule.resident)
            self._costs[mask] = Cost(replace(known.schedule, resident=resident), known.usage)
        elif self._shape_not_below[shape] == inf:
            self._costs[mask] = None
        else:
            self._not_below[mask] = self._shape_not_below[shape]

    def _cheapest(self, mask: Mask, below: float) -> Cost | None:
        members = self.members(mask)
        found = cheapest(self.workload, members, self.buffer, below)
        if found is None and self.soft and len(members) == 1:
            return cheapest(self.workload, members, None, below)
        return found

    def _shape(self, mask: Mask) -> tuple[tuple[Hashable, ...], tuple[str, ...]]:
        """All of a group that its cost depends on, and the weights that it has, in order of appearance."""
        found: list[Hashable] = []
        places: dict[Value, int] = {}
        weights: dict[str, int] = {}
        for i in bits(mask):
            node = self.nodes[i]
            found.append(node.kind)
            for edge in node.edges:
                found.append((places.setdefault(edge.source, len(places)), edge.kind))
            found.extend(weights.setdefault(name, len(weights)) for name in node.names)
            for value, (readers, result, _) in zip(node.values, node.makes, strict=True):
                found.append((places.setdefault(value, len(places)), result or bool(readers & ~mask)))
        return tuple(found), tuple(weights)

    @cached_property
    def nodes(self) -> list[Node]:
        """By number, what each node brings to the floor of a group."""
        workload = self.workload
        spans = _spans(workload)
        kinds: dict[Hashable, int] = {}
        made: list[Node] = []
        for name in self.names:
            weights = {w.name: w.bytes for w in workload.weights[name] if not w.looked_up}
            rows = {
                f"{name}: {w.name}": _looked_up(workload, name, w, spans) for w in workload.weights[name] if w.looked_up
            }
            loads = [(e.source, self._maker(e.source), _load(workload, e, spans)) for e in workload.edges[name]]
            values = [(v, workload.type(v)) for v in workload.graph.nodes[name].values]
            makes = [
                (self.mask(e.reader for e in workload.readers.get(v, ())), v in workload.results, workload.bytes(t))
                for v, t in values
            ]
            read = [
                Reading(e.source, kinds.setdefault(_edge_kind(workload, e), len(kinds))) for e in workload.edges[name]
            ]
            kind = kinds.setdefault(_node_kind(workload, name), len(kinds))
            values = workload.graph.nodes[name].values
            names = tuple(w.name for w in workload.weights[name])
            own = tuple((weights | rows).items())
            made.append(Node(kind, values, tuple(read), names, own, tuple(loads), tuple(makes)))
        return made

    @cached_property
    def _large(self) -> Mask:
        """Nodes of which no group fits the buffer at once: what they read of a value, or make, is larger."""
        found = 0
        for i, node in enumerate(self.nodes):
            if self.buffer is not None and max((least for _, _, least in node.loads), default=0) > self.buffer:
                found |= 1 << i
        return found

    def _maker(self, value: Value) -> Mask:
        return 1 << self.number[value.node] if value.node in self.number else 0

    def bytes(self, value: Value) -> int:
        if value not in self._bytes:
            self._bytes[value] = self.workload.bytes(self.workload.type(value))
        return self._bytes[value]

    def floor(self, mask: Mask) -> int:
        """Bytes that no schedule of a group is below: what enters it once, what leaves it, and its weights once."""
        if mask not in self._floors:
            self._floors[mask] = self._floor(mask)
        return self._floors[mask]

    def _floor(self, mask: Mask) -> int:
        total = 0
        weights: dict[str, int] = {}
        loads: dict[Value, int] = {}
        for i in bits(mask):
            node = self.nodes[i]
            weights.update(node.weights)
            for value, maker, fewest in node.loads:
                if not maker & mask:
                    loads[value] = max(fewest, loads.get(value, 0))
            for readers, result, size in node.makes:
                if result or readers & ~mask:
                    total += size
        return total + sum(weights.values()) + sum(loads.values())

    @cached_property
    def compulsory(self) -> int:
        """Bytes that no partition is below: all weights once, and once each what free nodes read of others and make
        for others."""
        return self.floor(self.free)

    # -------------------------------------------------------------------------------------------- partitions

    def ordered(self, parts: Collection[Mask]) -> list[Mask] | None:
        """Parts in an order in which each follows those it reads, the first nodes first where there is a choice; None
        where there is none, because parts read from each other in a circle."""
        import networkx as nx

        home = {i: unit for unit in (*self.units, *parts) for i in bits(unit)}
        graph: nx.DiGraph[Mask] = nx.DiGraph()
        graph.add_nodes_from(home.values())
        for i, unit in home.items():
            graph.add_edges_from((home[j], unit) for j in bits(self.sources[i]) if home.get(j, unit) != unit)

        def first(unit: Mask) -> Mask:
            return unit & -unit

        try:
            found = list(nx.lexicographical_topological_sort(graph, key=first))
        except nx.NetworkXUnfeasible:
            return None
        wanted = set(parts)
        return [mask for mask in found if mask in wanted]

    def acyclic(self, parts: Collection[Mask]) -> bool:
        """Whether parts can be executed one after the other."""
        waiting = {mask: self._needs(mask) for mask in (*self.units, *parts)}
        known = self.free
        for unit in self.units:
            known |= unit
        done = ~known
        while waiting:
            ready = [mask for mask, needs in waiting.items() if not needs & ~done]
            if not ready:
                return False
            for mask in ready:
                done |= mask
                del waiting[mask]
        return True

    def _needs(self, mask: Mask) -> Mask:
        """What is read of others."""
        if mask not in self._needed:
            found = 0
            for i in bits(mask):
                found |= self.sources[i]
            self._needed[mask] = found & ~mask
        return self._needed[mask]

    def total(self, parts: Collection[Mask], below: float = inf) -> float:
        """Bytes that groups move together; infinitely many where it is no less than `below`. The first has most to
        prove."""
        if below == inf:
            return sum(self.dram(mask) for mask in parts)
        left = sum(map(self.floor, parts))
        total = 0.0
        for mask in parts:
            if left >= below:
                return inf
            floor = self.floor(mask)
            cost = self.dram(mask, below - (left - floor))
            total += cost
            left += cost - floor
        return total if total < below else inf

    def partition(
        self,
        parts: Collection[Mask],
        planner: str,
        since: float,
        bound: int | None = None,
        optimal: bool = False,
        notes: Sequence[str] = (),
    ) -> Partition:
        """Parts as a partition, found since the time `since` of `time.process_time`.

        Raises:
            NetcError: where a node alone does not fit the buffer.
        """
        order = self.ordered(parts)
        if order is None:
            raise AssertionError(f"{planner} made groups that wait for each other")
        made: list[Part] = []
        for mask in order:
            cost = self.cost_of(mask)
            if cost is None:
                self._refuse()
            made.append(Part(self.members(mask), cost))
        bound = max(bound or 0, self.compulsory)
        found = Partition(tuple(made), planner, time.process_time() - since, bound, optimal, tuple(notes))
        return replace(found, optimal=optimal or found.dram == bound)

    def _refuse(self) -> NoReturn:
        """Say which nodes alone do not fit, each with its line, and the buffer that would hold them."""
        big = [self.names[i] for i in bits(self.free) if self.cost_of(1 << i) is None]
        needs = {name: least(self.workload, [name]) for name in big}
        fix = f"buffer = {enough(max(needs.values()))}"
        raise NetcError(
            Diagnostic(
                "does-not-fit",
                f"%{name} alone does not fit a buffer of {self.buffer:,} bytes: it needs {needs[name]:,}",
                tuple(Label(span) for span in self.workload.graph.nodes[name].origin[:1]),
                fix=fix,
            )
            for name in big
        )


def _node_kind(workload: Workload, name: str) -> Hashable:
    node = workload.graph.nodes[name]
    weights = tuple((w.bytes, w.portion, w.looked_up) for w in workload.weights[name])
    return node.op, workload.graph.input_types(node), node.types, weights


def _edge_kind(workload: Workload, edge: Edge) -> Hashable:
    nodes = workload.graph.nodes
    moves = tuple((nodes[v.node].op, v.index, workload.graph.input_types(nodes[v.node])) for v in edge.through)
    source = nodes[edge.source.node]
    return edge.operand, moves, source.types, edge.source.index, len(source.types)


# ------------------------------------------------------------------------------------------- the least that is read

Stretch = tuple[int, int]
"""The first and the last of some lines."""


def _spans(workload: Workload) -> Mapping[Value, Mapping[int, Stretch]]:
    """For each value and each of its axes the first and last line that outputs of the model depend on.

    A group makes at least these: a value that leaves it is made whole.
    """
    found: dict[Value, dict[int, Stretch]] = {}
    for name in reversed(workload.work.nodes):
        for value in workload.graph.nodes[name].values:
            shape = workload.sizes(value)
            if value in workload.results:
                found[value] = {a: (0, n - 1) for a, n in enumerate(shape)}
                continue
            edges = workload.readers.get(value, ())
            spans = [{a: _read(workload, e, a, found) for a in range(len(shape))} for e in edges]
            found[value] = {
                a: (min(s[a][0] for s in spans), max(s[a][1] for s in spans)) if spans else (0, n - 1)
                for a, n in enumerate(shape)
            }
    return found


def _read(workload: Workload, edge: Edge, axis: int, spans: Mapping[Value, Mapping[int, Stretch]]) -> Stretch:
    """The lines of the source, along one of its axes, that an edge reads for what is needed of its reader."""
    whole = 0, workload.sizes(edge.source)[axis] - 1
    reader = workload.graph.nodes[edge.reader]
    if len(reader.types) > 1:
        return whole
    best = whole
    for along, (low, high) in spans[Value(edge.reader)].items():
        path = workload.path(edge, along)
        if path is not None and path.axis == axis and low <= high:
            low, high = _through(path, low, high)
            if high - low < best[1] - best[0]:
                best = low, high
    return best


def _through(path: Path, low: int, high: int) -> Stretch:
    for window, size in path.steps:
        low = min(max(window.lowest(low), 0), size - 1)
        high = min(max(window.highest(high), 0), size - 1)
    return low, high


def _load(workload: Workload, edge: Edge, spans: Mapping[Value, Mapping[int, Stretch]]) -> int:
    """The fewest bytes of its source that a group loads for an edge."""
    total = workload.bytes(workload.type(edge.source))
    for axis, size in enumerate(workload.sizes(edge.source)):
        low, high = _read(workload, edge, axis, spans)
        total = total * (high - low + 1) // size
    return total


def _looked_up(workload: Workload, name: str, weight: Weight, spans: Mapping[Value, Mapping[int, Stretch]]) -> int:
    """The fewest bytes of a table that a node looks up."""
    total = weight.bytes
    for axis, (low, high) in spans[Value(name)].items():
        total = total * (high - low + 1) // workload.sizes(Value(name))[axis]
    return total
