"""The lines of a plan on a graph: which nodes a path or a pattern means."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from ..diagnostic import Diagnostic, Label, NetcError, nearest
from ..graph import Graph, Input, Node, Removal, Value
from ..paths import above, matches
from ..plan import WINDOWED, Chain, Either, GroupLine, Maybe, Operation, Pattern, PatternLine, Repeat
from ..rewrite.match import has_attribute
from ..source import Span
from .group import Group
from .work import Work


def by_path(work: Work, line: GroupLine) -> Group:
    """The working nodes that the paths of a line name.

    A name stands for a node, for all below it, or, with `*`, for what matches. A node that a pass has put into another
    one (a batch norm that was folded into its convolution) may be named beside that.

    Raises:
        NetcError: for a name that there is not, that nothing is left of, or whose node went into one that is not named;
            and where no node is named that computes something.
    """
    found: set[str] = set()
    gone: list[tuple[str, Span, tuple[str, ...]]] = []
    for written, span in line.paths:
        here = [path for path in work.nodes if matches(path, written)]
        found.update(here)
        if here:
            continue
        removed = [path for path in work.graph.removed if matches(path, written)]
        if removed:
            gone.extend((path, span, _became(work, path)) for path in removed)
        else:
            _check_carried(work, written, span)
    for path, span, became in gone:
        if not found.intersection(became):
            _check_gone(work.graph.removed[path], became, line, span)
    if not found:
        names = ", ".join(f"%{path}" for path, _ in line.paths)
        _refuse(f"nothing in the group {line.name} computes anything: {names}", line.span)
    return Group(line.name, tuple(path for path in work.nodes if path in found), line.span)


def _became(work: Work, path: str) -> tuple[str, ...]:
    """The working nodes that make what stands in the place of a removed node; none where nothing does.

    A node inside of what a rule matched has none in its place: it became what those became that read it.
    """
    graph = work.graph
    found: dict[str, None] = {}
    seen: set[str] = set()
    waiting = [path]
    while waiting:
        at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        if at in graph.nodes:
            found.update(dict.fromkeys(work.sources(Value(at))))
        elif (removal := graph.removed[at]).by is None:
            others = graph.removed.items()
            waiting += [p for p, r in others if r.maker == removal.maker and Value(at) in r.node.inputs]
        elif isinstance(removal.by, Value):
            waiting.append(removal.by.node)
    return tuple(found)


def _check_carried(work: Work, written: str, span: Span) -> None:
    """A name that is no working node may be that of a carried one, which follows its readers."""
    graph = work.graph
    carried = [path for path in graph.nodes if matches(path, written)]
    if any(not isinstance(graph.nodes[path].op, Input) for path in carried):
        return
    if carried:
        _refuse(f"%{carried[0]} is an input of the model, which no group makes", span)
    names = dict.fromkeys([*work.nodes, *graph.removed, *(p for path in work.nodes for p in above(path))])
    _refuse(f"{graph.name} has no node {written}", span, fix=nearest(written, names))


def _check_gone(removal: Removal, became: Sequence[str], line: GroupLine, span: Span) -> None:
    """A removed node of which nothing is in the group may be one that is computed at compile time."""
    path, maker = removal.node.path, removal.maker or "a pass"
    if became:
        message = f"%{path} is part of %{became[0]} by now, which the group {line.name} does not name"
        fix = f"name {became[0]} as well, or in its place"
        _refuse(message, span, (f"it was removed by {maker}",), fix)
    if removal.by is None:
        _refuse(f"nothing is left of %{path}: {maker} removed it", span)


def _refuse(message: str, span: Span, notes: tuple[str, ...] = (), fix: str | None = None) -> NoReturn:
    raise NetcError([Diagnostic("plan", message, (Label(span),), notes, fix)])


# ------------------------------------------------------------------------------------------------------- patterns


def by_pattern(
    work: Work, line: PatternLine, fixed: Collection[Group] = (), legal: Callable[[Collection[str]], bool] | None = None
) -> list[Group]:
    """What matches a pattern, in the order of the graph: from each node that is not in a group yet the longest chain.

    A chain goes from a node to one that reads it, through what only moves values. Values inside may have other readers;
    but no chain is taken that could not be one step of an order of all groups, `fixed` ones among them, or is not
    `legal`.
    """
    machine = _Machine(line.pattern)
    groups = list(fixed)
    for path in work.nodes:
        chain = _longest(work, machine, path, groups, legal or (lambda _: True))
        if chain:
            groups.append(Group(chain[0], tuple(p for p in work.nodes if p in chain), line.span))
    return groups[len(fixed) :]


def why_unmet(work: Work, line: PatternLine) -> str:
    """Why a pattern has made no group."""
    if by_pattern(work, line):
        return "earlier lines take nodes first, and only groups that can be executed are taken"
    here = {node.op.name for node in work.nodes.values()}
    missing = [name for name in dict.fromkeys(_operators(line.pattern)) if name not in here]
    if missing:
        return f"the graph of the plan has no {' and no '.join(missing)}"
    return "the graph of the plan has its operators, but none in this order, with these attributes"


def _operators(pattern: Pattern) -> Iterator[str]:
    if isinstance(pattern, Operation):
        yield pattern.operator
        return
    parts = pattern.parts if isinstance(pattern, Chain) else pattern.choices if isinstance(pattern, Either) else None
    for part in (pattern.part,) if isinstance(pattern, Maybe | Repeat) else parts or ():
        yield from _operators(part)


def _longest(
    work: Work,
    machine: _Machine,
    start: str,
    groups: Collection[Group],
    legal: Callable[[Collection[str]], bool],
) -> tuple[str, ...]:
    """The longest chain from a node that the pattern takes, the first of several; empty where there is none.

    A chain that others must interrupt stays so however it goes on, which leaves one chain from `start` to each node.
    """
    taken = {path for group in groups for path in group.nodes}
    best: tuple[str, ...] = ()
    waiting: list[tuple[tuple[str, ...], frozenset[int]]] = []
    if start not in taken:
        waiting.append(((start,), machine.step(work, machine.start, start)))
    while waiting:
        chain, states = waiting.pop()
        if not states:
            continue
        if machine.accepts(states) and len(chain) > len(best) and (len(chain) == 1 or legal(chain)):
            best = chain
        for reader in reversed(work.after[chain[-1]]):
            after = machine.step(work, states, reader) if reader not in taken else frozenset[int]()
            if after and not interrupted(work, (*chain, reader), groups):
                waiting.append(((*chain, reader), after))
    return best


def interrupted(work: Work, nodes: Collection[str], groups: Iterable[Group] = ()) -> tuple[str, ...]:
    """A way from one of the nodes, through others, back into them, where each of `groups` is executed as one; empty
    where there is none: then the nodes can be executed as one."""
    inside = set(nodes)
    home: Mapping[str, Group] = {path: group for group in groups for path in group.nodes}
    reached: dict[str, str] = {}
    waiting: list[str] = []

    def reach(path: str, source: str) -> None:
        if path not in reached:
            reached[path] = source
            waiting.append(path)

    for path in nodes:
        for source in work.before[path]:
            if source not in inside:
                reach(source, path)
    while waiting:
        path = waiting.pop()
        others = home[path].nodes if path in home else (path,)
        for other in others:
            for source in work.before[other]:
                if source in inside:
                    return (source, *_way(path, reached, inside))
                if other != path:
                    reached.setdefault(other, path)
                reach(source, other)
    return ()


def _way(path: str, reached: Mapping[str, str], inside: Collection[str]) -> Iterator[str]:
    """From a node on the way to the one that it leads into."""
    while path not in inside:
        yield path
        path = reached[path]
    yield path


def _has(graph: Graph, node: Node, name: str, value: Any) -> bool:
    if name != "kernel_size" or node.op.name not in WINDOWED:
        return has_attribute(graph, node, name, value)
    weight = node.inputs[1]
    assert weight is not None
    window = graph.type(weight).shape[2:]
    return window == (tuple(value) if isinstance(value, list) else (value,) * len(window))  # pyright: ignore[reportUnknownArgumentType]


class _Machine:
    """A pattern as an automaton whose steps are nodes (Thompson, "Regular expression search algorithm", CACM 1968)."""

    def __init__(self, pattern: Pattern) -> None:
        self._free: list[list[int]] = []
        """By state: the states that it goes on to without a node."""
        self._needs: dict[int, tuple[Operation, int]] = {}
        """By state: the node that it waits for, and the state after it."""
        begin, self._end = self._built(pattern)
        self.start = self._closed({begin})

    def accepts(self, states: frozenset[int]) -> bool:
        return self._end in states

    def step(self, work: Work, states: frozenset[int], path: str) -> frozenset[int]:
        """The states after one more node."""
        node = work.nodes[path]
        found: set[int] = set()
        for state in states & self._needs.keys():
            operation, after = self._needs[state]
            if node.op.name == operation.operator and all(
                _has(work.graph, node, name, value) for name, value in operation.attributes.items()
            ):
                found.add(after)
        return self._closed(found)

    def _closed(self, states: set[int]) -> frozenset[int]:
        waiting = list(states)
        while waiting:
            for state in self._free[waiting.pop()]:
                if state not in states:
                    states.add(state)
                    waiting.append(state)
        return frozenset(states)

    def _state(self) -> int:
        self._free.append([])
        return len(self._free) - 1

    def _built(self, pattern: Pattern) -> tuple[int, int]:
        begin, end = self._state(), self._state()
        if isinstance(pattern, Operation):
            self._needs[begin] = (pattern, end)
        elif isinstance(pattern, Chain):
            at = begin
            for part in pattern.parts:
                first, last = self._built(part)
                self._free[at].append(first)
                at = last
            self._free[at].append(end)
        else:
            for part in pattern.choices if isinstance(pattern, Either) else (pattern.part,):
                first, last = self._built(part)
                self._free[begin].append(first)
                self._free[last].append(end)
                if isinstance(pattern, Repeat):
                    self._free[last].append(first)
            if isinstance(pattern, Maybe):
                self._free[begin].append(end)
        return begin, end
