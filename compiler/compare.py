"""Comparing two models for a reader: what was renamed, moved, added, removed and changed, and what it costs.

`compare` pairs the nodes of two graphs (`align`), takes what still differs (`differences`) and says it shortly: what
follows from something else that is said is left out, a scope counts as one thing, and what is the same in many places
is said once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

from .align import Alignment, above, align, unnamed
from .cost import cost, free_symbols
from .diff import Difference, differences, operand_names
from .graph import Graph, Node, ParameterRef, Ref, Value
from .types import Dim


@dataclass(frozen=True, slots=True)
class Rename:
    """A scope, node, parameter, output or tap under another path or name. `nodes` are those that went with it, `moved`
    says that it left the scope that it was in, `automatic` that only the number of a name that nobody gave has changed.
    """

    what: Literal["scope", "node", "parameter", "output", "tap"]
    before: str
    after: str
    nodes: int = 0
    moved: bool = False
    automatic: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """A scope or node that reads something else than before: it changed its place among the others."""

    path: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    nodes: int


@dataclass(frozen=True, slots=True)
class Part:
    """Something that only one graph has: a scope of which it has every node, a node, or a parameter."""

    what: Literal["scope", "node", "parameter"]
    path: str
    kind: str
    """The module, or the operators and how many there are; of a parameter its type."""
    nodes: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """A cost before and after."""

    name: str
    before: Dim
    after: Dim

    @property
    def difference(self) -> Dim:
        return self.after - self.before

    @property
    def ratio(self) -> float | None:
        """What `after` is of `before`, where that is one number."""
        first, second = _lead(self.before), _lead(self.after)
        return second / first if first and self.before * second == self.after * first else None


def _lead(dim: Dim) -> int:
    return dim if isinstance(dim, int) else dim.terms[0][1]


@dataclass(frozen=True)
class Comparison:
    """What tells one graph from another. Everything is empty where they are equal."""

    before: str
    after: str
    paired: int
    """Nodes that both have."""
    renames: tuple[Rename, ...]
    moves: tuple[Move, ...]
    changes: tuple[Difference, ...]
    """Attributes, operands, parameters, outputs and taps that differ, but for what follows from anything else."""
    removed: tuple[Part, ...]
    added: tuple[Part, ...]
    consequences: tuple[Difference, ...]
    """Results of another type, and readers of what was added, removed or moved."""
    costs: tuple[Change, ...]

    @property
    def same_function(self) -> bool:
        """Whether only names differ."""
        return not (self.moves or self.changes or self.removed or self.added)

    @property
    def same(self) -> bool:
        """Whether nothing differs but the names of the graphs."""
        return self.same_function and not self.renames

    def data(self) -> dict[str, Any]:
        """The comparison as JSON-ready values; symbolic sizes are text."""
        return {
            "before": self.before,
            "after": self.after,
            "same": self.same,
            "same_function": self.same_function,
            "paired": self.paired,
            "renames": [_plain(r) for r in self.renames],
            "moves": [_plain(m) for m in self.moves],
            "changes": [d.data() for d in self.changes],
            "removed": [_plain(p) for p in self.removed],
            "added": [_plain(p) for p in self.added],
            "consequences": [d.data() for d in self.consequences],
            "costs": [{**_plain(c), "change": _number(c.difference), "ratio": c.ratio} for c in self.costs],
        }

    def __str__(self) -> str:
        return "\n".join(_Writer(self).lines()) + "\n"


def _plain(thing: Any) -> dict[str, Any]:
    values = {name: getattr(thing, name) for name in thing.__slots__}
    return {name: list(v) if isinstance(v, tuple) else _number(v) for name, v in values.items()}  # pyright: ignore[reportUnknownArgumentType]


def _number(value: Any) -> Any:
    return value if isinstance(value, int | str | None) else str(value)


def compare(a: Graph, b: Graph, bind: Mapping[str, int] | None = None) -> Comparison:
    """Compare two graphs. Costs are those of inference, with the symbols in `bind` replaced by numbers.

    Raises:
        NetcError: where `bind` names a symbol of neither graph, or gives one a number below 1 (`bind`).
    """
    return _Comparing(a, b).done(bind)


def _costs(a: Graph, b: Graph, bind: Mapping[str, int] | None) -> Iterator[Change]:
    known = free_symbols(a), free_symbols(b)
    unknown = {name for name in bind or () if name not in known[0] | known[1]}
    binds = [{name: size for name, size in (bind or {}).items() if name in free | unknown} for free in known]
    before, after = cost(a, binds[0]).total, cost(b, binds[1]).total
    yield Change("parameters", before.parameters, after.parameters)
    yield Change("MACs", before.macs, after.macs)
    yield Change("activation bytes", before.activations, after.activations)
    yield Change("peak bytes", before.peak, after.peak)
    yield Change("nodes", before.nodes, after.nodes)


# ------------------------------------------------------------------------------------------- what is to be said


class _Comparing:
    """Two graphs and their pairs. Paths of operands are the second graph's where they have one there."""

    def __init__(self, a: Graph, b: Graph) -> None:
        self.a, self.b = a, b
        self.pairs = align(a, b)
        self.back = self.pairs.back
        self.ways = _Ways(a, b, self.pairs)

    def done(self, bind: Mapping[str, int] | None) -> Comparison:
        found = differences(self.a, self.b, self.pairs)
        operands = list(self._operands())
        moves = list(self._moves([o for o in operands if not self.ways.explain(o)]))
        follows = {(o.what, o.path, o.name) for o in operands if self.ways.explain(o)}
        follows |= {(o.what, o.path, o.name) for o in operands if any(_within(o.path, m.path) for m in moves)}
        renames = [*self._renames(), *self._named()]
        renamed = {(r.what, name) for r in renames if r.what in ("tap", "output") for name in (r.before, r.after)}
        told = [d for d in found if d.what in ("tap", "output") or (d.kind == "changed" and d.what != "graph")]
        told = [d for d in told if (d.what, d.path) not in renamed]
        told.sort(key=lambda d: d.what != "scope")
        follows |= {("parameter", d.path, "initialiser") for d in found if d.aspect == "type" and self._bounds(d)}
        results = [d.aspect == "result" or (d.what, d.path, d.aspect) in follows for d in told]
        return Comparison(
            self.a.name,
            self.b.name,
            len(self.pairs.nodes),
            tuple(renames),
            tuple(moves),
            tuple(d for d, result in zip(told, results, strict=True) if not result),
            tuple(_parts(self.a, self.pairs)),
            tuple(_parts(self.b, self.back)),
            tuple(d for d, result in zip(told, results, strict=True) if result),
            tuple(_costs(self.a, self.b, bind)),
        )

    def _bounds(self, d: Difference) -> bool:
        """Whether a parameter of another type is filled by the same rule, with other numbers if any."""
        path = d.was or d.path
        return (
            d.what == "parameter"
            and self.a.parameters[path].initialiser.kind == self.b.parameters[d.path].initialiser.kind
        )

    def _operands(self) -> Iterator[_Operand]:
        """What reads something else than the counterpart of what it read."""
        for path, there in self.pairs.nodes.items():
            node, other = self.a.nodes[path], self.b.nodes[there]
            for name, before, after in zip(operand_names(other), node.inputs, other.inputs, strict=False):
                if before is not None and after is not None and self.pairs.ref(before) != after:
                    yield _Operand("node", there, name, before, after)
        for what, here, there in (("tap", self.a.taps, self.b.taps), ("output", self.a.outputs, self.b.outputs)):
            for name, before in here.items():
                if name in there and self.pairs.ref(before) != there[name]:
                    yield _Operand(what, name, "value", before, there[name])

    def _renames(self) -> Iterator[Rename]:
        inside = Counter(
            (scope, image)
            for here, there in self.pairs.nodes.items()
            for scope in above(here)
            if (image := self.pairs.scopes.get(scope)) is not None and _within(there, image)
        )
        tables: list[tuple[Literal["scope", "node", "parameter"], Mapping[str, str]]] = [
            ("scope", self.pairs.scopes),
            ("node", self.pairs.nodes),
            ("parameter", self.pairs.parameters),
        ]
        for what, names in tables:
            for before, after in names.items():
                image = self.pairs.image(before)
                if after != image:
                    automatic = what == "node" and unnamed(self.a.nodes[before]) and unnamed(self.b.nodes[after])
                    moved = after.rpartition(".")[0] != image.rpartition(".")[0]
                    nodes = inside[before, after] if what == "scope" else 0
                    yield Rename(what, before, after, nodes, moved, automatic and not moved)

    def _named(self) -> Iterator[Rename]:
        """Outputs and taps of the same value under names that only one graph has."""
        tables: list[tuple[Literal["output", "tap"], Mapping[str, Ref], Mapping[str, Ref]]] = [
            ("output", self.a.outputs, self.b.outputs),
            ("tap", self.a.taps, self.b.taps),
        ]
        for what, here, there in tables:
            free: dict[Ref, list[str]] = {}
            for name, ref in reversed([*there.items()]):
                if name not in here:
                    free.setdefault(ref, []).append(name)
            for name, ref in here.items():
                image = self.pairs.ref(ref)
                if name not in there and image is not None and free.get(image):
                    yield Rename(what, name, free[image].pop())

    def _moves(self, open: list[_Operand]) -> Iterator[Move]:
        """The scopes that, taken out of both graphs, leave the most of these operands explained."""
        while open:
            best: tuple[int, int] = (0, 0)
            chosen = ""
            for place in _candidates(open):
                inside = [path for path in self.b.nodes if _within(path, place)]
                if all(path in self.back.nodes for path in inside):
                    ways = self.ways.without({self.back.nodes[path] for path in inside}, set(inside))
                    own = sum(_within(o.path, place) for o in open)
                    gained = sum(not _within(o.path, place) and ways.explain(o) for o in open)
                    if gained and (gained + own, -len(inside)) > best:
                        best, chosen = (gained + own, -len(inside)), place
            if not chosen:
                return
            inside = [path for path in self.b.nodes if _within(path, chosen)]
            self.ways = self.ways.without({self.back.nodes[path] for path in inside}, set(inside))
            own = [o for o in open if _within(o.path, chosen)]
            before = dict.fromkeys(str(self.pairs.ref(o.before) or o.before) for o in own)
            yield Move(chosen, tuple(before), tuple(dict.fromkeys(str(o.after) for o in own)), len(inside))
            open = [o for o in open if o not in own and not self.ways.explain(o)]


@dataclass(frozen=True, slots=True)
class _Operand:
    """An operand of a node (or a tap or output) that is read from somewhere else: `before` in the first graph."""

    what: str
    path: str
    name: str
    before: Ref
    after: Ref


MOVES = 32
"""How many places are tried to explain what reads something else."""


def _candidates(open: Iterable[_Operand]) -> list[str]:
    found = dict.fromkeys(p for o in open if o.what == "node" for p in (o.path, *above(o.path)))
    return list(found)[:MOVES]


def _within(path: str, scope: str) -> bool:
    return path == scope or path.startswith(f"{scope}.")


class _Ways:
    """What can be reached upwards through nodes that only one graph has at their place."""

    def __init__(
        self, a: Graph, b: Graph, pairs: Alignment, gone: Set[str] | None = None, new: Set[str] | None = None
    ) -> None:
        self.a, self.b, self.pairs = a, b, pairs
        self.gone = a.nodes.keys() - pairs.nodes.keys() if gone is None else gone
        self.new = b.nodes.keys() - pairs.back.nodes.keys() if new is None else new
        self._before = _roots(a, self.gone, pairs.ref)
        self._after = _roots(b, self.new, lambda ref: ref)

    def without(self, gone: Set[str], new: Set[str]) -> _Ways:
        return _Ways(self.a, self.b, self.pairs, self.gone | gone, self.new | new)

    def explain(self, operand: _Operand) -> bool:
        """Whether both values come from one, or are one, but for what stands in only one graph."""
        before, after = self._before(operand.before), self._after(operand.after)
        parameters = any(isinstance(ref, ParameterRef) for ref in (operand.before, operand.after))
        return any(parameters or isinstance(ref, Value) for ref in before & after)


ROOTS = 16
"""How many values a value is followed to."""


def _roots(graph: Graph, through: Set[str], image: Callable[[Ref], Ref | None]) -> Callable[[Ref], frozenset[Ref]]:
    known: dict[str, frozenset[Ref]] = {}

    def roots(ref: Ref) -> frozenset[Ref]:
        if isinstance(ref, Value) and ref.node in known:
            return known[ref.node]
        there = image(ref)
        return frozenset() if there is None else frozenset([there])

    for path, node in graph.nodes.items():
        if path in through:
            found = dict.fromkeys(root for ref in node.refs for root in sorted(roots(ref)))
            known[path] = frozenset(list(found)[:ROOTS])
    return roots


def _parts(graph: Graph, pairs: Alignment) -> Iterator[Part]:
    """What has no counterpart: scopes as whole as they can be, then parameters that are read by what has one."""
    alone = [node for path, node in graph.nodes.items() if path not in pairs.nodes]
    total = Counter(scope for path in graph.nodes for scope in above(path))
    lost = Counter(scope for node in alone for scope in above(node.path))
    parts: dict[str, list[Node]] = {}
    for node in alone:
        whole = [scope for scope in above(node.path) if lost[scope] == total[scope]]
        parts.setdefault(whole[-1] if whole else node.path, []).append(node)
    for path, nodes in parts.items():
        if len(nodes) == 1:
            yield Part("node", nodes[0].path, nodes[0].op.name, 1)
        else:
            scope = graph.scopes.get(path)
            yield Part("scope", path, scope.module if scope else _operators(nodes), len(nodes))
    for path, parameter in graph.parameters.items():
        users = graph.users.get(ParameterRef(path), [])
        if path not in pairs.parameters and (not users or any(u.path in pairs.nodes for u in users)):
            yield Part("parameter", path, str(parameter.type))


def _operators(nodes: Iterable[Node]) -> str:
    counts = Counter(node.op.name for node in nodes).most_common()
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in counts)


# ------------------------------------------------------------------------------------------------------- the text

LINES = 24
"""The longest list that is printed whole."""


class _Writer:
    def __init__(self, comparison: Comparison) -> None:
        self.c = comparison

    def lines(self) -> Iterator[str]:
        c = self.c
        yield self._title()
        yield from _section("renamed", [*_grouped(self._renames()), *self._numbered()])
        yield from _section("moved", _grouped((m.path, _moved(m)) for m in c.moves))
        yield from _section("removed", _grouped((p.path, _part(p)) for p in c.removed))
        yield from _section("added", _grouped((p.path, _part(p)) for p in c.added))
        yield from _section("changed", _grouped(_changes(c.changes)))
        if c.consequences:
            yield from _section("in consequence", self._consequences())
        if all(cost.before == cost.after for cost in c.costs):
            yield from ([] if c.same else ["", "cost: the same"])
        else:
            yield from ["", *_table(c.costs)]

    def _title(self) -> str:
        c = self.c
        title = c.before if c.before == c.after else f"{c.before} → {c.after}"
        if c.same:
            return f"{title}: equal"
        if c.same_function:
            return f"{title}: equal up to names"
        removed, added = (sum(p.nodes for p in parts) for parts in (c.removed, c.added))
        changed, parameters = (len({d.path for d in c.changes if d.what == w}) for w in ("node", "parameter"))
        counts = (
            ("removed", removed),
            ("added", added),
            ("changed", changed),
            ("moved", sum(m.nodes for m in c.moves)),
        )
        told = [f"{_count(c.paired, 'node')} in both", *(f"{number} {word}" for word, number in counts if number)]
        told += [f"{_count(parameters, 'parameter')} changed"] if parameters else []
        return f"{title}: {', '.join(told)}"

    def _renames(self) -> Iterator[tuple[str, str]]:
        """Exchanged names are told once, in the place of the first."""
        there = {(r.what, r.before): r.after for r in self.c.renames}
        for r in self.c.renames:
            size = f" ({_count(r.nodes, 'node')})" if r.nodes else ""
            if there.get((r.what, r.after)) == r.before:
                if r.before < r.after:
                    yield r.before, f"{r.what} {{}} and ‹{r.after}› changed places{size}"
            elif not r.automatic:
                yield r.before, f"{r.what} {{}} {'moved' if r.moved else 'renamed'} to ‹{r.after}›{size}"

    def _numbered(self) -> Iterator[str]:
        automatic = [r for r in self.c.renames if r.automatic]
        if automatic:
            first = automatic[0]
            yield (
                f"{_count(len(automatic), 'node')} without names of their own: {first.before} is now {first.after}"
                + (", …" if len(automatic) > 1 else "")
            )

    def _consequences(self) -> Iterator[str]:
        results = {(d.what, d.path) for d in self.c.consequences if d.aspect == "result"}
        readers = {(d.what, d.path) for d in self.c.consequences if d.aspect not in ("result", "initialiser")}
        filled = sum(d.aspect == "initialiser" for d in self.c.consequences)
        if results:
            yield f"{_count(len(results), 'node')} with results of another type"
        if filled:
            yield f"{_count(filled, 'parameter')} with other bounds of the same initialiser"
        if readers:
            yield f"{_count(len(readers), 'reader')} reconnected where something was added, removed or moved"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _moved(move: Move) -> str:
    size = f" ({_count(move.nodes, 'node')})" if move.nodes > 1 else ""
    before, after = (", ".join(f"‹{ref}›" for ref in refs) for refs in (move.before, move.after))
    return f"{{}}{size} reads {after} instead of {before}"


def _part(part: Part) -> str:
    return f"{{}}: {part.kind}" + (f", {_count(part.nodes, 'node')}" if part.what == "scope" else "")


def _changes(changes: Iterable[Difference]) -> Iterator[tuple[str, str]]:
    """What changed of one node or parameter in one line."""
    found: dict[tuple[str, str], list[str]] = {}
    for d in changes:
        if d.kind == "changed":
            change = f"{d.aspect} {_linked(_short(d.before))} → {_linked(_short(d.after))}"
        else:
            change = f"{d.kind}: {_linked(d.after or d.before)}"
        found.setdefault((d.what, d.path), []).append(change)
    names: dict[tuple[str, str, str], list[str]] = {}
    for (what, path), texts in found.items():
        owner, _, name = path.rpartition(".") if what == "parameter" else (path, "", "")
        names.setdefault((what, owner, ", ".join(texts)), []).append(name)
    for (what, owner, text), several in names.items():
        mark = {"node": "", "parameter": "@"}.get(what, f"{what} " if owner else "the whole model")
        last = several[0] if len(several) == 1 else f"{{{','.join(several)}}}"
        yield ".".join(filter(None, (owner, last))), f"{mark}{{}}: {text}"


def _short(text: str) -> str:
    """The text with four digits of each fraction."""
    return re.sub(r"\d+\.\d{5,}(e-?\d+)?", lambda m: f"{float(m[0]):.4g}", text)


def _linked(text: str) -> str:
    """The text with its paths marked as such."""
    return re.sub(r"[%@][\w.~:]+", r"‹\g<0>›", text)


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    listed = list(lines)
    if listed:
        yield from ["", title, *(f"  {line}" for line in listed[:LINES])]
        if len(listed) > LINES:
            yield f"  … and {len(listed) - LINES} more"


_PATH = re.compile(r"‹([^›]*)›")
_NUMBER = re.compile(r"\d+")


def _grouped(items: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Lines of a path and what is said of it (the path in the place of `{}`, others in ‹›), each but once: those that
    differ in the numbers in paths only are one line."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for path, text in items:
        key = _NUMBER.sub("*", path), _PATH.sub(lambda m: _NUMBER.sub("*", m[1]), text)
        groups.setdefault(key, []).append((path, text))
    for group in groups.values():
        paths = [path for path, _ in group]
        others = zip(*[_PATH.findall(text) for _, text in group], strict=True)
        names = iter([_pattern(found) for found in others])
        text = _PATH.sub(lambda _, names=names: next(names), group[0][1])
        places = f"  ({len(group)} times)" if len(group) > 1 else ""
        yield text.replace("{}", _places(paths)) + places


_Box = tuple[tuple[str, ...], ...]
"""The numbers in a path: several in one place stand for as many paths."""


def _places(paths: Sequence[str]) -> str:
    """`layer1.{0..1}, layer3.5`: the paths, which differ in their numbers only."""
    boxes: list[_Box] = [tuple((number,) for number in _NUMBER.findall(path)) for path in paths]
    for axis in reversed(range(len(boxes[0]))):
        merged: dict[tuple[_Box, _Box], list[str]] = {}
        for box in boxes:
            merged.setdefault((box[:axis], box[axis + 1 :]), []).extend(box[axis])
        boxes = [(*before, tuple(numbers), *after) for (before, after), numbers in merged.items()]
    return ", ".join(_filled(paths[0], [_span(numbers) for numbers in box]) for box in boxes)


def _pattern(paths: Sequence[str]) -> str:
    """The one path, or what the paths have in common with `*` for numbers that differ."""
    columns = zip(*[_NUMBER.findall(path) for path in paths], strict=True)
    return _filled(paths[0], [column[0] if len({*column}) == 1 else "*" for column in columns])


def _filled(path: str, numbers: Iterable[str]) -> str:
    waiting = iter(numbers)
    return _NUMBER.sub(lambda _: next(waiting), path)


def _span(numbers: Sequence[str]) -> str:
    if len(numbers) == 1:
        return numbers[0]
    values = sorted(map(int, numbers))
    if values == list(range(values[0], values[-1] + 1)) and len(values) > 2:
        return f"{{{values[0]}..{values[-1]}}}"
    return f"{{{','.join(map(str, values))}}}"


def _table(costs: Iterable[Change]) -> Iterator[str]:
    rows = [("cost", "before", "after", "change")]
    rows += [(c.name, _digits(c.before), _digits(c.after), _relative(c)) for c in costs]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers in rows:
        cells = [name.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True))]
        yield "  ".join(cells)


def _digits(dim: Dim) -> str:
    return re.sub(r"(?<![\w])\d{4,}", lambda m: f"{int(m[0]):,}", str(dim))


def _relative(change: Change) -> str:
    if change.before == change.after:
        return "the same"
    ratio = change.ratio
    if ratio is None or not 0.001 <= ratio <= 100:
        return _signed(change.difference)
    return f"{100 * (ratio - 1):+.1f} %"


def _signed(dim: Dim) -> str:
    text = _digits(dim)
    return text if text.startswith("-") else f"+{text}"
