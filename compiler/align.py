"""Which node of one graph is which of another: by name where names agree with the structure, else by structure.

Evidence is used in the order of its strength, and what is paired once stays paired:

1. the same computation before it and after it, whatever the names (graphs that are equal up to names are paired whole),
   or the same path and the same computation before it or after it;
2. scopes with the same inside, under the same path or another: blocks that moved;
3. the same path and description (operator, attributes, types), and a neighbour of the same path;
4. the same description beside a pair (pairs spread along edges), then the same surroundings, as far as four edges, both
   where no better claim by name is left open;
5. the same path and operator; the same operator beside a pair;
6. another operator between the same neighbours: a replacement.

Surroundings are compared by iterated hashing of neighbourhoods (Weisfeiler and Leman, 1968), with labels that are
numbered instead of hashed, so that equal labels never lie; each step takes time linear in the number of edges.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, takewhile
from typing import Literal, NamedTuple

from .graph import Graph, Node, ParameterRef, Ref, Value


@dataclass(frozen=True)
class Alignment:
    """Pairs of paths, each path in one pair at most: those of the first graph → those of the second."""

    nodes: Mapping[str, str]
    parameters: Mapping[str, str]

    @cached_property
    def back(self) -> Alignment:
        """The same pairs from the second graph's side."""
        nodes = {there: here for here, there in self.nodes.items()}
        return Alignment(nodes, {there: here for here, there in self.parameters.items()})

    @cached_property
    def scopes(self) -> dict[str, str]:
        """Scopes, and beginnings of paths that are none, whose nodes are mostly each other's. A node has two guesses:
        the names above it are its counterpart's from below, and from above."""
        votes: dict[str, Counter[str]] = {}
        for here, there in self.nodes.items():
            left, right = above(here), above(there)
            for pair in {*zip(left, right, strict=False), *zip(left[::-1], right[::-1], strict=False)}:
                votes.setdefault(pair[0], Counter())[pair[1]] += 1
        found: dict[str, tuple[int, str]] = {}
        for here, there in votes.items():
            count, _, _, best = max((n, s == here, _last(s) == _last(here), s) for s, n in there.items())
            if count > found.get(best, (0, ""))[0]:
                found[best] = count, here
        return {here: there for there, (_, here) in sorted(found.items(), key=lambda item: item[1][1])}

    def image(self, path: str) -> str:
        """Where a path of the first graph is in the second, were nothing renamed but what encloses it."""
        above, dot, name = path.rpartition(".")
        if not dot:
            return name
        known = self.nodes.get(above) or self.scopes.get(above)
        return f"{known or self.image(above)}.{name}"

    def ref(self, ref: Ref) -> Ref | None:
        """What a value or parameter of the first graph is in the second; None where it has no counterpart."""
        if isinstance(ref, ParameterRef):
            path = self.parameters.get(ref.parameter)
            return None if path is None else ParameterRef(path)
        path = self.nodes.get(ref.node)
        return None if path is None else Value(path, ref.index)


def above(path: str) -> list[str]:
    """The paths that enclose a path, the nearest first."""
    found: list[str] = []
    end = path.rfind(".")
    while end > 0:
        found.append(path[:end])
        end = path.rfind(".", 0, end)
    return found


def unnamed(node: Node) -> bool:
    """Whether a node's name says nothing: a number, or the operator's name, which a node has that was given none."""
    name = _last(node.path).removeprefix(node.op.name).removeprefix("_")
    return not name or name.isdigit()


def by_path(a: Graph, b: Graph) -> Alignment:
    """The pairs of equal paths, whatever is there."""
    return Alignment({p: p for p in a.nodes if p in b.nodes}, {p: p for p in a.parameters if p in b.parameters})


def align(a: Graph, b: Graph) -> Alignment:
    """Pair the nodes and parameters of two graphs, each with its counterpart if it seems to have one.

    Time is linear in the sizes of the graphs, but for sorting. Graphs that are equal up to names, in any order, are
    paired whole; else the pairs are the most plausible, not the most numerous.
    """
    return _Pairing(a, b).run()


class _Link(NamedTuple):
    """An edge from a vertex's point of view: the operand and the output it joins, and the vertex at the other end."""

    operand: int
    output: int
    other: int


Labels = Sequence[int]
_Both = tuple[Labels, Labels]
_Queues = dict[tuple[_Link, bool], deque[int]]


class _Numbers:
    """The numbers of things: equal ones have one number, in both graphs."""

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}

    def __call__(self, thing: Hashable) -> int:
        return self._known.setdefault(thing, len(self._known))


class _Side:
    """A graph as numbered vertices: parameters first, then nodes in order. Edges have their operands as labels."""

    def __init__(self, graph: Graph, numbers: _Numbers, ends: Iterable[Ref]) -> None:
        self.graph = graph
        self.refs: list[Ref] = [*map(ParameterRef, graph.parameters), *(Value(path) for path in graph.nodes)]
        self.number = {ref: i for i, ref in enumerate(self.refs)}
        self.first = len(graph.parameters)
        self.reads: list[list[_Link]] = [[] for _ in self.refs]
        self.users: list[list[_Link]] = [[] for _ in self.refs]
        self.ends: list[list[tuple[int, int]]] = [[] for _ in self.refs]
        """The outputs and taps of the graph that a vertex is: their numbers, and which of its values."""
        for i, node in enumerate(graph.nodes.values(), self.first):
            for operand, ref in enumerate(node.inputs):
                if ref is not None:
                    source, output = self.at(ref)
                    self.reads[i].append(_Link(operand, output, source))
                    self.users[source].append(_Link(operand, output, i))
        for number, ref in enumerate(ends):
            source, output = self.at(ref)
            self.ends[source].append((number, output))
        nodes = graph.nodes.values()
        self.automatic = [False] * self.first + [unnamed(n) for n in nodes]
        self.scopes = {"", *(scope for path in graph.nodes for scope in above(path))}
        self.kind = [numbers(None)] * self.first + [numbers(n.op.name) for n in nodes]
        parameters = [numbers((p.type, p.buffer)) for p in graph.parameters.values()]
        self.look = parameters + [numbers((n.op, n.types, n.phase)) for n in nodes]

    def at(self, ref: Ref) -> tuple[int, int]:
        if isinstance(ref, Value):
            return self.number[Value(ref.node)], ref.index
        return self.number[ref], 0

    def path(self, vertex: int) -> str:
        return self.refs[vertex][0]

    def before(self, labels: Labels, numbers: _Numbers) -> list[int]:
        """Everything a vertex depends on."""
        found = [0] * len(self.refs)
        for i, label in enumerate(labels):
            found[i] = numbers((label, *[(o, k, found[j]) for o, k, j in self.reads[i]]))
        return found

    def after(self, labels: Labels, numbers: _Numbers) -> list[int]:
        """Everything that depends on a vertex, the outputs of the graph included."""
        found = [0] * len(self.refs)
        for i in reversed(range(len(found))):
            users = sorted([(o, k, found[j]) for o, k, j in self.users[i]])
            found[i] = numbers(("after", labels[i], *self.ends[i], *users))
        return found

    def around(self, labels: Labels, numbers: _Numbers) -> list[int]:
        """The labels with those of the neighbours."""
        found: list[int] = []
        for i, label in enumerate(labels):
            sources = [(o, k, labels[j]) for o, k, j in self.reads[i]]
            found.append(
                numbers(("around", label, *sources, *sorted([(o, k, labels[j]) for o, k, j in self.users[i]])))
            )
        return found

    def insides(self, numbers: _Numbers) -> dict[str, _Inside]:
        """The scopes, those outside before those within."""
        members: dict[str, list[int]] = {}
        for i, node in enumerate(self.graph.nodes.values(), self.first):
            for scope in above(node.path):
                members.setdefault(scope, []).append(i)
        found = {scope: self._inside(vertices, numbers) for scope, vertices in members.items() if len(vertices) > 1}
        return dict(sorted(found.items(), key=lambda item: -len(item[1].labels)))

    def _inside(self, vertices: list[int], numbers: _Numbers) -> _Inside:
        labels: dict[int, int] = {}
        for i in vertices:
            reads = [(o, k, labels.get(j, self.look[j] if j < self.first else -1)) for o, k, j in self.reads[i]]
            labels[i] = numbers(("inside", self.look[i], *reads))
        return _Inside(numbers(("scope", *sorted(labels.values()))), labels)


class _Inside(NamedTuple):
    """A scope: its label, and those of its nodes as far as they follow from it alone."""

    label: int
    labels: dict[int, int]


class _Pairing:
    """The pairs found so far: numbers of vertices."""

    def __init__(self, a: Graph, b: Graph) -> None:
        self.numbers = _Numbers()
        here, there = _ends(a, b)
        self.a = _Side(a, self.numbers, here)
        self.b = _Side(b, self.numbers, there)
        self.pairs: dict[int, int] = {}
        self.back: dict[int, int] = {}

    def run(self) -> Alignment:
        look, kind = (self.a.look, self.b.look), (self.a.kind, self.b.kind)
        self._same_computation(look)
        self._same_insides()
        self._spread(look)
        self._same_paths(look, beside=True)
        self._ends(look)
        self._spread(look)
        self._same_surroundings(look)
        self._same_paths(kind, beside=True)
        self._same_computation(kind)
        self._ends(kind)
        self._spread(kind)
        self._same_paths(kind, beside=False)
        self._spread(kind)
        self._ends(kind, plausible=False)
        self._spread(kind, accept="any")
        self._replacements(kind)
        nodes: dict[str, str] = {}
        parameters: dict[str, str] = {}
        for i, j in sorted(self.pairs.items()):
            (parameters if i < self.a.first else nodes)[self.a.path(i)] = self.b.path(j)
        return Alignment(nodes, parameters)

    # ------------------------------------------------------------------------------------------------ pairs

    def _free(self, i: int, j: int) -> bool:
        return i not in self.pairs and j not in self.back

    def _pair(self, i: int, j: int) -> None:
        self.pairs[i] = j
        self.back[j] = i

    def _common(self, labels: _Both) -> Iterator[tuple[int, int]]:
        """Free vertices of one path and one label."""
        for i, ref in enumerate(self.a.refs):
            j = self.b.number.get(ref)
            if j is not None and labels[0][i] == labels[1][j] and self._free(i, j):
                yield i, j

    def _alike(self, here: Iterable[int], there: Iterable[int]) -> Iterator[tuple[int, int]]:
        """Pairs of two lists of interchangeable vertices: equal paths first, then equal last names, then in order."""
        left: list[int] = [i for i in here if i not in self.pairs]
        right: list[int] = [j for j in there if j not in self.back]
        for name in (str, _last):
            if not left or not right or len(left) == len(right) == 1:
                break
            known: dict[str, list[int]] = {}
            for j in reversed(right):
                known.setdefault(name(self.b.path(j)), []).append(j)
            named = [(i, known[key].pop()) for i in left if known.get(key := name(self.a.path(i)))]
            yield from named
            used, taken = {i for i, _ in named}, {j for _, j in named}
            left, right = [i for i in left if i not in used], [j for j in right if j not in taken]
        yield from zip(left, right, strict=False)

    def _groups(self, labels: _Both) -> dict[int, tuple[list[int], list[int]]]:
        """The free vertices by label, where both graphs have some."""
        found: dict[int, tuple[list[int], list[int]]] = {}
        for i, label in enumerate(labels[0]):
            if i not in self.pairs:
                found.setdefault(label, ([], []))[0].append(i)
        for j, label in enumerate(labels[1]):
            if j not in self.back and label in found:
                found[label][1].append(j)
        return {label: group for label, group in found.items() if group[1]}

    def _spread(
        self,
        labels: _Both,
        seeds: Iterable[tuple[int, int]] | None = None,
        accept: Literal["plausible", "forced", "any"] = "plausible",
    ) -> list[tuple[int, int]]:
        """Pair what reads a pair, and what it reads, in the same place and with the same label, and so on.

        With `accept="forced"` only where there is no choice, but whatever the names; with "any" whatever the names.
        """
        found: list[tuple[int, int]] = []
        waiting = list(self.pairs.items() if seeds is None else seeds)
        while waiting:
            made: list[tuple[int, int]] = []
            for i, j in waiting:
                for here, there in self._neighbours(labels, i, j):
                    if accept != "forced" or len(here) == len(there) == 1:
                        for pair in self._alike(here, there):
                            if accept != "plausible" or self._plausible(*pair):
                                self._pair(*pair)
                                made.append(pair)
            waiting = made
            found += made
        return found

    def _plausible(self, i: int, j: int) -> bool:
        """Whether names do not speak against a pair: neither has a free vertex of its own name and kind to be paired
        with, nor, if its name was given by nobody, a scope of its own path that the other is not in."""
        here, there = self.a.refs[i], self.b.refs[j]
        return here == there or (self._unclaimed(i, j, self.a, self.b) and self._unclaimed(j, i, self.b, self.a))

    def _unclaimed(self, i: int, j: int, own: _Side, other: _Side) -> bool:
        if own.automatic[i]:
            scope = own.path(i).rpartition(".")[0]
            return scope not in other.scopes or scope == other.path(j).rpartition(".")[0]
        same = other.number.get(own.refs[i])
        paired = self.back if own is self.a else self.pairs
        return same is None or same in paired or own.kind[i] != other.kind[same]

    def _neighbours(self, labels: _Both, i: int, j: int) -> Iterator[tuple[list[int], list[int]]]:
        for here, there in ((self.a.reads[i], self.b.reads[j]), (self.a.users[i], self.b.users[j])):
            groups: dict[tuple[int, int, int], tuple[list[int], list[int]]] = {}
            for o, k, v in here:
                if v not in self.pairs:
                    groups.setdefault((o, k, labels[0][v]), ([], []))[0].append(v)
            if groups:
                for o, k, v in there:
                    if v not in self.back and (o, k, labels[1][v]) in groups:
                        groups[o, k, labels[1][v]][1].append(v)
                yield from groups.values()

    # ------------------------------------------------------------------------------------------------ steps

    def _same_computation(self, labels: _Both) -> None:
        """The same computation before and after; then one path, and the same computation before or after."""
        sides = (self.a, self.b)
        before = [s.before(x, self.numbers) for s, x in zip(sides, labels, strict=True)]
        after = [s.after(x, self.numbers) for s, x in zip(sides, labels, strict=True)]
        # Once more from what was found: the labels then tell a value read twice from two equal values.
        wholes = [[self.numbers(pair) for pair in zip(*x, strict=True)] for x in zip(before, after, strict=True)]
        again = [
            zip(s.before(x, self.numbers), s.after(x, self.numbers), strict=True)
            for s, x in zip(sides, wholes, strict=True)
        ]
        here, there = ([self.numbers(("whole", *pair)) for pair in x] for x in again)
        self._equal((here, there))
        for i, j in list(self._common(labels)):
            if (i >= self.a.first and before[0][i] == before[1][j]) or after[0][i] == after[1][j]:
                self._pair(i, j)

    def _equal(self, labels: _Both) -> None:
        """Pair vertices of equal labels. Where several are equal, one pair is chosen at a time, and its neighbours with
        it, so that the pairs of symmetric parts agree."""
        groups = self._groups(labels)
        for here, there in groups.values():
            if len(here) == len(there) == 1:
                self._pair(here[0], there[0])
        self._spread(labels, accept="forced")
        queues: _Queues = {}
        for label, (here, there) in groups.items():
            waiting = deque(there)
            for i in here:
                while waiting and waiting[0] in self.back:
                    waiting.popleft()
                if not waiting:
                    break
                if i not in self.pairs:
                    beside = self._beside(labels, i, queues)
                    if beside is None:
                        same = self.b.number.get(self.a.refs[i], -1)
                        beside = [j for j in (same, *islice(waiting, CHOICES)) if j >= 0 and j not in self.back]
                        beside = [j for j in beside if labels[1][j] == label]
                    if beside:
                        path = self.a.path(i)
                        choice = min(beside, key=lambda j, path=path: _distance(path, self.b.path(j)))
                        self._pair(i, choice)
                        self._spread(labels, [(i, choice)], accept="forced")

    def _beside(self, labels: _Both, i: int, queues: _Queues) -> list[int] | None:
        """The free vertices of one label with `i` beside the counterparts of all that is beside it; None: any. Of those
        that nothing but one operand tells apart, which may be thousands, the first few; `queues` keeps the others."""
        places: list[tuple[_Link, Sequence[_Link], Sequence[list[_Link]]]] = []
        for own, other, back in (
            (self.a.reads[i], self.b.users, self.b.reads),
            (self.a.users[i], self.b.reads, self.b.users),
        ):
            for o, k, v in own:
                place = self.pairs.get(v)
                if place is not None:
                    places.append((_Link(o, k, place), other[place], back))
        if not places:
            return None
        (o, k, place), near, _ = min(places, key=lambda p: len(p[1]))

        def fits(w: int) -> bool:
            return w not in self.back and labels[1][w] == labels[0][i] and all(at in back[w] for at, _, back in places)

        if len(places) > 1 or len(near) <= CHOICES:
            return [w for p, q, w in near if (p, q) == (o, k) and fits(w)]
        key = places[0][0], places[0][2] is self.b.reads
        queue = queues.get(key)
        if queue is None:
            queue = queues[key] = deque(w for p, q, w in near if (p, q) == (o, k))
        while queue and queue[0] in self.back:
            queue.popleft()
        found = [w for w in islice(queue, CHOICES) if fits(w)]
        return found or [w for w in queue if fits(w)]

    def _same_insides(self) -> None:
        """Scopes with the same inside: those of one path, then those that left their path or are the only ones, in
        their order or, where one graph has more of them, by the numbers in their paths."""
        here, there = self.a.insides(self.numbers), self.b.insides(self.numbers)
        for scope, inside in here.items():
            if scope in there and there[scope].label == inside.label:
                self._inside(inside, there[scope])
        groups: dict[int, tuple[list[str], list[str]]] = {}
        for scope, inside in here.items():
            if not inside.labels.keys() & self.pairs.keys():
                groups.setdefault(inside.label, ([], []))[0].append(scope)
        for scope, inside in there.items():
            if inside.label in groups and not inside.labels.keys() & self.back.keys():
                groups[inside.label][1].append(scope)
        for left, right in groups.values():
            only = len(left) == len(right) == 1
            numbered = {_numbers(scope): scope for scope in right}
            order = right if len(left) == len(right) else [numbered.get(_numbers(scope)) for scope in left]
            for one, other in zip(left, order, strict=True):
                if other is not None and (only or one not in there or other not in here):
                    self._inside(here[one], there[other])

    def _inside(self, here: _Inside, there: _Inside) -> None:
        """Pair two scopes with the same inside, where both are wholly free."""
        if here.labels.keys() & self.pairs.keys() or there.labels.keys() & self.back.keys():
            return
        groups: dict[int, tuple[list[int], list[int]]] = {}
        for i, label in here.labels.items():
            groups.setdefault(label, ([], []))[0].append(i)
        for j, label in there.labels.items():
            groups[label][1].append(j)
        for group in groups.values():
            for pair in self._alike(*group):
                self._pair(*pair)

    def _same_paths(self, labels: _Both, *, beside: bool) -> None:
        """One path and label; with `beside`, only where a neighbour in the same place has one path too."""
        for i, j in list(self._common(labels)):
            if (
                not beside
                or self._share(self.a.reads[i], self.b.reads[j])
                or self._share(self.a.users[i], self.b.users[j])
            ):
                self._pair(i, j)

    def _share(self, here: Iterable[_Link], there: Iterable[_Link]) -> bool:
        known = {(o, k, self.a.refs[v]) for o, k, v in here}
        return any((o, k, self.b.refs[v]) in known for o, k, v in there)

    def _ends(self, labels: _Both, *, plausible: bool = True) -> None:
        """Inputs of the graph in their order; its taps by name, and its outputs by name, else in their order."""
        inputs = ([s.number[n.value] for n in s.graph.inputs.values()] for s in (self.a, self.b))
        ends: list[dict[tuple[int, int], int]] = [
            {end: v for v, all in enumerate(s.ends) for end in all} for s in (self.a, self.b)
        ]
        pairs = [*self._alike(*inputs), *((v, ends[1][end]) for end, v in ends[0].items() if end in ends[1])]
        for i, j in pairs:
            if labels[0][i] == labels[1][j] and self._free(i, j) and (not plausible or self._plausible(i, j)):
                self._pair(i, j)

    def _same_surroundings(self, labels: _Both) -> None:
        """The same neighbourhood, the widest first; narrow ones only where there is no other like it."""
        widths: list[_Both] = []
        for _ in range(RADIUS):
            labels = self.a.around(labels[0], self.numbers), self.b.around(labels[1], self.numbers)
            widths.append(labels)
        for width in reversed(widths):
            for here, there in self._groups(width).values():
                if len(here) == len(there) and (len(here) == 1 or width is widths[-1]):
                    for pair in self._alike(here, there):
                        if self._plausible(*pair):
                            self._pair(*pair)
            self._spread((self.a.look, self.b.look))

    def _replacements(self, kind: _Both) -> None:
        """Another operator that alone reads the same and is read by the same, and what its pair leads to."""
        anything = [0] * len(self.a.refs), [0] * len(self.b.refs)
        waiting = list(self.pairs.items())
        while waiting:
            made: list[tuple[int, int]] = []
            for i, j in waiting:
                for here, there in self._neighbours(anything, i, j):
                    if len(here) == len(there) == 1:
                        pair = here[0], there[0]
                        if self._free(*pair) and self._read_alike(kind, *pair):
                            self._pair(*pair)
                            made.append(pair)
            waiting = made + self._spread(kind, made, accept="any")

    def _read_alike(self, kind: _Both, i: int, j: int) -> bool:
        """Whether two nodes are the same output, or have readers that are a pair or could be one."""
        if i < self.a.first or j < self.b.first:
            return False
        places = {(o, self.pairs[v]) for o, _, v in self.a.users[i] if v in self.pairs}
        kinds = {(o, kind[0][v]) for o, _, v in self.a.users[i] if v not in self.pairs}
        return not {*self.a.ends[i]}.isdisjoint(self.b.ends[j]) or any(
            (o, v) in places or (v not in self.back and (o, kind[1][v]) in kinds) for o, _, v in self.b.users[j]
        )


RADIUS = 4
"""How far around a node its surroundings are compared."""


CHOICES = 16
"""Among how many equal nodes the one with the most similar name is chosen."""


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _numbers(path: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\d+", path))


def _distance(here: str, there: str) -> int:
    """How many names two paths do not have in common at their ends."""
    left, right = here.split("."), there.split(".")
    pairs = zip(reversed(left), reversed(right), strict=False)
    return len(left) + len(right) - 2 * sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _ends(a: Graph, b: Graph) -> tuple[list[Ref], list[Ref]]:
    """The taps and outputs that graphs have in common by name, then the other outputs in their order."""
    taps = [name for name in a.taps if name in b.taps]
    common = [name for name in a.outputs if name in b.outputs]
    here, there = (
        [
            *(g.taps[n] for n in taps),
            *(g.outputs[n] for n in common),
            *(r for n, r in g.outputs.items() if n not in common),
        ]
        for g in (a, b)
    )
    return here, there
