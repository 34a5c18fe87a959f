"""Which groups can be executed as one, and what is wrong with one that cannot.

A group is legal where it is convex (no way leads out of it and back in: what is on such a way would have to run before
and after it), connected (values pass between its nodes), and can be executed: on an accelerator it fits the buffer by
the memory model, on a processor one kernel computes it (`lowering`). A node alone is convex and has a kernel.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ..diagnostic import Diagnostic, Label, NetcError
from ..paths import above, matches
from ..target import Accelerator, Target
from .explain import Held, Moment, around, components, fullest, least, scores
from .group import Group
from .lowering import Kernel, kernel
from .partition import Mask, Task, bits
from .require import shown
from .workload import Workload

if TYPE_CHECKING:
    import networkx as nx

Kind = Literal["not-convex", "not-connected", "overflow", "cannot-stream", "no-kernel", "leaves-inside", "group-cycle"]

SHOWN = 5
"""How many nodes or values of one kind are told of by name."""

LISTED = 40
"""The most names in a line that is proposed."""


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with a group. Paths in order of their part in it; all sizes in bytes."""

    kind: Kind
    group: Group
    message: str
    responsible: Mapping[str, str]
    """Nodes, and what each does to make it so, the most responsible first."""
    notes: tuple[str, ...] = ()
    parts: tuple[tuple[str, ...], ...] = ()
    """The largest legal group of its nodes, and of those between them, and legal ones that hold the rest, each as large
    as what is left allows."""
    excess: int = 0
    """Bytes that are needed beyond the buffer."""
    others: tuple[Group, ...] = field(default=())
    """Other groups that take part."""


class Legality:
    """The rules of a target on a graph. Groups are sets of working nodes; their order does not matter."""

    def __init__(self, workload: Workload, target: Target) -> None:
        self.workload = workload
        self.target = target
        self.buffer = target.buffer if isinstance(target, Accelerator) else None
        self.task = Task(
            workload,
            self.buffer,
            allowed=self.computed if target.compiles else None,
            results=1 if target.compiles else None,
        )

    def computed(self, nodes: Collection[str]) -> bool:
        """Whether one kernel computes convex and connected nodes."""
        return isinstance(kernel(self.workload, nodes), Kernel)

    def legal(self, nodes: Collection[str]) -> bool:
        """Whether nodes can be executed as one."""
        return self._legal(self.task.mask(nodes))

    def _legal(self, mask: Mask) -> bool:
        return self.task.valid(mask) and (self.buffer is None or self.task.cost_of(mask) is not None)

    # -------------------------------------------------------------------------------------------- what is wrong

    def problems(self, group: Group, others: Sequence[Group] = ()) -> list[Violation]:
        """What is wrong with a group; nothing where it is legal. What only follows from something else is left out.

        Nodes of `others` are not proposed as members.
        """
        mask = self.task.mask(group.nodes)
        if not self.task.convex(mask):
            taken = {path: other for other in others if other is not group for path in other.nodes}
            return [self._not_convex(group, mask, taken)]
        if not self.task.connected(mask):
            return [self._not_connected(group)]
        if self.target.compiles:
            return self._no_kernel(group)
        if self.buffer is not None and self.task.cost_of(mask) is None:
            return [self._overflow(group, self.buffer)]
        return []

    def _not_convex(self, group: Group, mask: Mask, taken: Mapping[str, Group]) -> Violation:
        way = self._way(group.nodes)
        reaching, reached = self.task.around(mask)
        outside = self.task.members(reaching & reached & ~mask)
        told = {path: self._between(path, group.nodes) for path in way[1:-1]}
        are, come = ("is", "comes") if len(outside) == 1 else ("are", "come")
        message = f"{_names(outside)} {are} not in the group {group.name}, but {come} between its nodes"
        whole = self.task.members(mask | self.task.mask(outside))
        notes = [f"a way out and back in: {_way(way)}"]
        elsewhere = [path for path in outside if path in taken]
        if elsewhere:
            notes.append(f"%{elsewhere[0]} is in the group {taken[elsewhere[0]].name}")
            return Violation("not-convex", group, message, told, tuple(notes), self.parts(group.nodes))
        parts = self.parts(whole)
        if wrong := self.problems(Group(group.name, whole, group.origin)):
            notes.append(f"with {'it' if len(outside) == 1 else 'them'}: {wrong[0].message}")
        return Violation("not-convex", group, message, told, tuple(notes), parts)

    def _way(self, nodes: Collection[str]) -> tuple[str, ...]:
        """A shortest way from one of the nodes, through others, to one of them."""
        work, inside = self.workload.work, set(nodes)
        came: dict[str, str] = {}
        waiting = [path for path in work.nodes if path in inside]
        for at in waiting:
            for reader in work.after[at]:
                if reader in inside and at not in inside:
                    way = [reader, at]
                    while way[-1] not in inside:
                        way.append(came[way[-1]])
                    return tuple(reversed(way))
                if reader not in inside and reader not in came:
                    came[reader] = at
                    waiting.append(reader)
        raise AssertionError("a convex group has no way out and back in")

    def _between(self, path: str, nodes: Collection[str]) -> str:
        work = self.workload.work
        read = [p for p in work.before[path] if p in nodes]
        readers = [p for p in work.after[path] if p in nodes]
        told = [f"reads %{read[0]}"] if read else []
        return " and ".join([*told, *([f"is read by %{readers[0]}"] if readers else [])]) or "is on the way"

    def _not_connected(self, group: Group) -> Violation:
        pieces = list(components(self.workload, [p for p in self.workload.work.nodes if p in set(group.nodes)]))
        first, second, *_ = pieces
        message = f"the group {group.name} falls into {len(pieces)} parts between which nothing passes"
        told = {second[0]: f"reads nothing of {_names(first)}", first[-1]: f"reads nothing of {_names(second)}"}
        notes = [f"its parts: {'; '.join(_names(piece) for piece in pieces)}"]
        read = [{str(e.source) for path in piece for e in self.workload.edges[path]} for piece in pieces]
        common = sorted(set[str].intersection(*read))
        if common:
            notes.append(f"{'both' if len(pieces) == 2 else 'all'} read {common[0]}, which is not in the group")
        return Violation("not-connected", group, message, told, tuple(notes), self.parts(group.nodes))

    def _no_kernel(self, group: Group) -> list[Violation]:
        found = kernel(self.workload, group.nodes)
        if isinstance(found, Kernel):
            return []
        kind: Kind = "leaves-inside" if found.inside else "no-kernel"
        message = f"no kernel computes the group {group.name}: {found.reason}"
        return [Violation(kind, group, message, found.responsible, found.notes, self.parts(group.nodes))]

    def _overflow(self, group: Group, buffer: int) -> Violation:
        moment = fullest(self.workload, group.nodes)
        excess = moment.bytes - buffer
        whole = [h for h in moment.held if h.cause in ("whole", "unmade", "torn") and h.bytes * 20 > moment.bytes]
        stuck = [h for h in whole if h.reader is not None]
        kind: Kind = "cannot-stream" if stuck and sum(h.bytes for h in whole) >= excess else "overflow"
        shares = scores(self.workload, group.nodes, buffer)
        told: dict[str, str] = {}
        for held in reversed(stuck[:SHOWN] if kind == "cannot-stream" else ()):
            told = {held.reader or "": self._keeps(held), **told}
        for path in sorted(shares, key=lambda p: -shares[p])[:3] if len(shares) > 1 else ():
            if shares[path] >= 0.1:
                told.setdefault(path, self._relief(group.nodes, path))
        message = (
            f"the group {group.name} needs at least {shown('buffer', moment.bytes)} on chip, "
            f"{shown('buffer', excess)} more than there are"
        )
        if kind == "cannot-stream":
            message += f": %{stuck[0].reader} {told[stuck[0].reader or '']}"
        return Violation(
            kind, group, message, told, tuple(self._notes(moment, buffer)), self.parts(group.nodes), excess=excess
        )

    def _keeps(self, held: Held) -> str:
        """What a node does that a value is held whole."""
        op = self.workload.graph.nodes[held.reader or ""].op.name
        if held.cause == "unmade":
            return f"makes no line alone of its {shown('buffer', held.bytes)}, being a {op}"
        takes = "reads all" if held.cause == "whole" else "goes along another axis"
        return f"{takes} of {held.value}, {shown('buffer', held.bytes)}, being a {op}"

    def _relief(self, nodes: Collection[str], path: str) -> str:
        """What is needed without a node."""
        needs = [least(self.workload, part) for part in around(self.workload, nodes, path)]
        return (
            f"without it, what is before and after it needs {' and '.join(shown('buffer', n) for n in needs[:SHOWN])}"
        )

    def _notes(self, moment: Moment, buffer: int) -> list[str]:
        target = f"the buffer has {shown('buffer', buffer)}; the schedule that needs least has {moment.schedule}"
        notes = [f"{target}, and is fullest with"]
        for held in moment.held[:SHOWN]:
            notes.append(f"  {shown('buffer', held.bytes)} of {held.value}: {self._why(held)}")
        rest = sum(held.bytes for held in moment.held[SHOWN:])
        if rest:
            notes.append(f"  {shown('buffer', rest)} of {len(moment.held) - SHOWN} more")
        if moment.staged:
            notes.append(f"  {shown('buffer', moment.staged)} through which weights are streamed, for {moment.weight}")
        return notes

    def _why(self, held: Held) -> str:
        """What is held of a value, and why."""
        op = self.workload.graph.nodes[held.reader].op.name if held.reader else ""
        lines = f"{held.lines} of {held.size} lines" if held.size > 1 else "whole"
        at_once = f"{lines} in one step" if held.size > 1 else lines
        told = {
            "whole": f"held whole, since {op} %{held.reader} reads all of it",
            "unmade": f"held whole, since {op} makes no line of it alone",
            "torn": f"held whole, since its readers, {op} %{held.reader} last, go through it along different axes",
            "waits": f"{lines}, which wait for {op} %{held.reader} until its other operand is there",
            "later": f"{lines}, kept for {op} %{held.reader}, which runs in a later pass over them",
            "window": f"{lines}, for {op} %{held.reader}, which reads several for one",
            "passes": at_once + (f", for {op} %{held.reader}" if held.reader else ""),
            "leaves": f"{at_once}, on the way out",
        }
        return told[held.cause]

    # -------------------------------------------------------------------------------------------- legal parts

    def parts(self, nodes: Collection[str]) -> tuple[tuple[str, ...], ...]:
        """The largest legal group within nodes, then legal ones that hold the rest.

        The first is maximal: with any other of the nodes, and those between, it is illegal. So is each other within
        what is left. Where the groups would wait for each other, only the first is given. Nodes that are illegal alone
        are in none.
        """
        whole = self.task.mask(nodes)
        found = self._cover(whole, self._seeds(whole) if whole else [])
        while (best := max(found, key=int.bit_count, default=0)).bit_count() > (found[0] if found else 0).bit_count():
            found = self._cover(whole, [best])
        others = ~sum(found) & ((1 << len(self.task.names)) - 1)
        if len(found) > 1 and self.task.ordered([*found, *(1 << i for i in bits(others))]) is None:
            found = found[:1]
        first, *rest = found or [0]
        rest.sort(key=lambda mask: mask & -mask)
        return tuple(self.task.members(mask) for mask in (first, *rest) if mask)

    def _cover(self, whole: Mask, seeds: Sequence[Mask]) -> list[Mask]:
        """The largest legal group that grows from one of the seeds, then the largest of what is left, and so on."""
        left, found = whole, list[Mask]()
        while left:
            best = max((self._grown(seed, left) for seed in seeds), key=int.bit_count)
            left &= ~best
            if self._legal(best):
                found.append(best)
            seeds = self._seeds(left) if left else []
        return found

    def _seeds(self, mask: Mask) -> list[Mask]:
        """Where to begin: with all, what is left without the node to blame, the first node and the last."""
        if self._legal(mask):
            return [mask]
        ends = [mask & -mask, 1 << (mask.bit_length() - 1)]
        return [*(piece for piece in self._pieces(mask) if self._legal(piece)), *ends]

    def _pieces(self, mask: Mask) -> list[Mask]:
        task, nodes = self.task, self.task.members(mask)
        if self.buffer is None or not (task.connected(mask) and task.convex(mask)):
            return []
        shares = scores(self.workload, nodes, self.buffer)
        if not any(shares.values()):
            return []
        worst = max(shares, key=shares.__getitem__)
        return [task.mask(part) for part in around(self.workload, nodes, worst)]

    def _grown(self, mask: Mask, within: Mask) -> Mask:
        """A legal group with all that can be added to it, node by node with what lies between, or two at a time."""
        grown = True
        while grown:
            grown = False
            for more in self._steps(mask, within):
                if self._legal(more):
                    mask, grown = more, True
                    break
        return mask

    def _steps(self, mask: Mask, within: Mask) -> list[Mask]:
        near = [m for i in bits(self._beside(mask) & within) if (m := self._closed(mask | 1 << i)) & ~within == 0]
        if not self.target.compiles:
            return near
        # A chain may be a kernel that its beginning is not.
        wider = [self._closed(m | 1 << i) for m in near for i in bits(self._beside(m) & within)]
        return [*near, *(m for m in wider if m & ~within == 0)]

    def _beside(self, mask: Mask) -> Mask:
        near = 0
        for i in bits(mask):
            near |= self.task.sources[i] | self.task.readers[i]
        return near & ~mask

    def _closed(self, mask: Mask) -> Mask:
        """With what lies between."""
        reaching, reached = self.task.around(mask)
        return reaching & reached

    # -------------------------------------------------------------------------------------------- several groups

    def circle(self, groups: Sequence[Group]) -> Violation | None:
        """Groups each of which waits for another, the last of which must give way; None where all can be executed one
        after the other."""
        import networkx as nx

        work = self.workload.work
        home = {path: group.name for group in groups for path in group.nodes}
        by_name = {group.name: group for group in groups}
        graph: nx.DiGraph[str] = nx.DiGraph()
        for path in work.nodes:
            for source in work.before[path]:
                one, other = home.get(source, f"%{source}"), home.get(path, f"%{path}")
                if one != other and not graph.has_edge(one, other):
                    graph.add_edge(one, other, way=(source, path))
        if nx.is_directed_acyclic_graph(graph):
            return None
        ring = _shortest_ring(graph)
        taking = [by_name[name] for name in ring if name in by_name]
        group = max(taking, key=groups.index)
        told: dict[str, str] = {}
        for one, other in zip([ring[-1], *ring], ring, strict=False):
            source, reader = graph.edges[one, other]["way"]
            told[reader] = f"in {other}, reads %{source} in {one}"
        at = ring.index(group.name)
        waits = self.task.mask([graph.edges[ring[at - 1], group.name]["way"][0]])
        _, reached = self.task.around(waits)
        mask = self.task.mask(group.nodes)
        parts = (*self.parts(self.task.members(mask & ~reached)), *self.parts(self.task.members(mask & reached)))
        others = tuple(g for g in taking if g is not group)
        *first, last = [g.name for g in groups if g in taking]
        message = f"the groups {', '.join(first)} and {last} wait for each other"
        if not others:
            message = f"the group {group.name} waits for itself"
        notes = (f"each needs what the one before makes: {' → '.join([*ring, ring[0]])}",)
        return Violation("group-cycle", group, message, told, notes, parts, others=others)

    # -------------------------------------------------------------------------------------------- messages

    def check(self, groups: Sequence[Group], others: Sequence[Group] = ()) -> None:
        """That groups can be executed, each as one, and one after the other, with `others` that each are legal.

        Raises:
            NetcError: with all that is wrong with any of them.
        """
        every = [*groups, *others]
        found = [self.diagnostic(wrong) for group in groups for wrong in self.problems(group, every)]
        ring = None if found else self.circle(every)
        if ring is not None:
            found.append(self.diagnostic(ring))
        if found:
            raise NetcError(found)

    def line(self, name: str, nodes: Collection[str]) -> str:
        """The line of a plan that makes nodes a group, with the names of scopes where these hold nothing else."""
        written: dict[str, None] = {}
        inside = set(nodes)
        for path in self.workload.work.nodes:
            if path in inside and not any(matches(path, name) for name in written):
                scopes = [s for s in reversed([*above(path)]) if self._lies_within(s, inside)]
                written[next(iter(scopes), path)] = None
        names = list(written)
        if len(names) > LISTED:
            names = [*names[: LISTED - 2], "…", names[-1]]
        return f"fuse group {name} = [{', '.join(names)}]"

    def _lines(self, name: str, parts: Sequence[Sequence[str]]) -> str:
        """Lines that make parts groups, in the order of the graph."""
        ordered = sorted(parts, key=lambda part: self.task.number[part[0]])
        names = [name] if len(ordered) == 1 else [f"{name}_{i}" for i in range(1, len(ordered) + 1)]
        return "\n".join(self.line(n, part) for n, part in zip(names, ordered, strict=True))

    def _lies_within(self, scope: str, nodes: Collection[str]) -> bool:
        below = [path for path in self.workload.work.nodes if matches(path, scope)]
        return len(below) > 1 and all(path in nodes for path in below)

    def diagnostic(self, found: Violation) -> Diagnostic:
        """The message: on the line that asks for the group, and where the responsible nodes are written."""
        labels = [] if found.group.origin is None else [Label(found.group.origin)]
        labels += [Label(g.origin, f"{g.name} is made here") for g in found.others if g.origin is not None]
        for path, told in [*found.responsible.items()][:SHOWN]:
            labels += [Label(span, f"%{path}: {told}") for span in self.workload.graph.nodes[path].origin[:1]]
        notes = list(found.notes)
        several = [part for part in found.parts if len(part) > 1]
        if several:
            fix = self._lines(found.group.name, several)
            size = len({*found.group.nodes, *(path for part in found.parts for path in part)})
            if len(several) > 1 or len(several[0]) < size:
                notes.append(f"the largest legal group of {size} nodes has {len(several[0])}: {_names(several[0])}")
        elif found.kind == "group-cycle":
            fix = f"leave {found.group.name} out, so that its nodes are executed when their turn comes"
        elif found.parts:
            fix = f"leave {found.group.name} out: no two of its nodes can be executed as one"
        else:
            fix = "a larger buffer, or smaller numbers: " + (
                "it is one node already" if len(found.group.nodes) == 1 else "none of its nodes fits alone"
            )
        lost = [p for p in found.group.nodes if found.parts and not any(p in part for part in found.parts)]
        if lost and self.buffer is not None:
            notes.append(f"{_names(lost)} {'does' if len(lost) == 1 else 'do'} not fit alone")
        return Diagnostic(found.kind, found.message, tuple(labels), tuple(notes), fix)


def _shortest_ring(graph: nx.DiGraph[str]) -> list[str]:
    """A shortest cycle, of several always the same, from its first name on."""
    import networkx as nx

    found: list[list[str]] = []
    for part in nx.strongly_connected_components(graph):
        inner = nx.DiGraph([edge for edge in graph.edges if part.issuperset(edge)])
        found += [nx.shortest_path(inner, b, a) for a, b in inner.edges]
    turned = [ring[(at := ring.index(min(ring))) :] + ring[:at] for ring in found]
    return min(turned, key=lambda ring: (len(ring), ring))


def _names(nodes: Sequence[str]) -> str:
    """Nodes in a sentence."""
    if len(nodes) > SHOWN:
        return f"{', '.join(f'%{path}' for path in nodes[: SHOWN - 1])} and {len(nodes) - SHOWN + 1} more"
    *most, last = [f"%{path}" for path in nodes]
    return f"{', '.join(most)} and {last}" if most else last


def _way(way: Sequence[str]) -> str:
    shown = [*way[: SHOWN - 1], "…", way[-1]] if len(way) > SHOWN + 1 else way
    return " → ".join(path if path == "…" else f"%{path}" for path in shown)
