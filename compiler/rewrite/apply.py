"""Rules applied to a graph until none applies any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from ..diagnostic import Diagnostic, Label, NetcError
from ..graph import Edit, Graph, GraphError, Node, Ref, Value
from ..operators.operator import ShapeError
from ..source import Span
from ..value import describe
from .evaluate import RuleEvaluator
from .match import Match, Matcher
from .pattern import Rule

Ages = dict[str, tuple[int, frozenset[str]]]
"""By node: how often it and what it came from were replaced by as many nodes or more, and by which rules."""

_REACH = 16
"""A change can make rules applicable so many nodes further on."""


@dataclass(slots=True)
class Rewriter:
    """Applies a set of rules. `applied` counts how often each did."""

    rules: Sequence[Rule]
    applied: Counter[str] = field(default_factory=Counter[str])

    def __call__(self, graph: Graph) -> Graph:
        """The graph in which no rule applies any more; the same graph where none did.

        Every round matches all rules on one graph, and applies what does not overlap in one batch; the next round looks
        only near what changed.

        Raises:
            NetcError: where the rules undo each other or make the graph ever larger, or where a replacement is not of
                the type it replaces.
        """
        index: dict[str, list[Rule]] = {}
        for rule in self.rules:
            for operator in rule.operators:
                index.setdefault(operator, []).append(rule)
        limit = 64 + len(graph.nodes)
        largest = 1000 + 8 * len(graph.nodes)
        ages: Ages = {}
        near: set[str] | None = None
        while True:
            batch = _Round(graph, index, ages, limit)
            changed, again = batch.run(near)
            self.applied.update(batch.applied)
            if changed is graph:
                return graph
            if len(changed.nodes) > largest:
                raise _growing(self.rules, batch.applied, len(graph.nodes))
            near = _near(changed, batch.seeds) | again
            graph = changed


class _Round:
    """One sweep over a graph."""

    def __init__(self, graph: Graph, index: Mapping[str, Sequence[Rule]], ages: Ages, limit: int) -> None:
        self.applied: Counter[str] = Counter()
        self.seeds: set[str] = set()
        self._graph = graph
        self._index = index
        self._ages = ages
        self._limit = limit
        self._matcher = Matcher(graph)
        self._touched: set[str] = set()

    def run(self, near: set[str] | None) -> tuple[Graph, set[str]]:
        """The graph after the round, and the nodes where a match had to wait for the next."""
        edit = self._graph.edit()
        again: set[str] = set()
        # From the outputs on, so that the longest chain is found before its parts are.
        for path, node in reversed(list(self._graph.nodes.items())):
            if (near is not None and path not in near) or path in self._touched:
                continue
            for rule in self._index.get(node.op.name, ()):
                match = self._matcher.find(rule, node)
                if match is None:
                    continue
                if self._touched.isdisjoint(match.nodes):
                    self._apply(edit, match)
                else:
                    again.add(path)
                break
        try:
            return edit.done(), again
        except (GraphError, ShapeError) as error:
            names = ", ".join(self.applied)
            raise NetcError([Diagnostic("rewrite", f"after {names}: {error}")]) from None

    def _apply(self, edit: Edit, match: Match) -> None:
        self._touched.update(match.nodes)
        self.applied[match.rule.name] += 1
        made, removed = replace_match(edit, match, self._matcher)
        self._age(match, made, removed)
        self.seeds.update(made)
        for path in match.nodes:
            self.seeds.update(r.node for r in self._graph.nodes[path].refs if isinstance(r, Value))

    def _age(self, match: Match, made: Sequence[str], removed: Sequence[str]) -> None:
        """Follow how often nodes have come from nodes without growing fewer: rules that undo each other never end."""
        age, rules = 0, frozenset({match.rule.name})
        for path in match.nodes:
            older, others = self._ages.get(path, (0, frozenset[str]()))
            age, rules = max(age, older), rules | others
        if len(made) >= len(removed):
            age += 1
        if age > self._limit:
            raise _cyclic(self._index, rules, match.roots[0], age)
        self._ages.update(dict.fromkeys(made, (age, rules)))


def _growing(rules: Sequence[Rule], applied: Mapping[str, int], nodes: int) -> NetcError:
    found = [rule for rule in rules if applied[rule.name]]
    many = ", ".join(rule.name for rule in found)
    what = f"the rules {many} make" if len(found) > 1 else f"the rule {many} makes"
    message = f"{what} the graph larger without end: {nodes} nodes so far"
    labels = tuple(Label(rule.span) for rule in found)
    return NetcError([Diagnostic("cyclic-rules", message, labels, fix="add a `where` that ends it")])


def _cyclic(index: Mapping[str, Sequence[Rule]], names: frozenset[str], at: str, age: int) -> NetcError:
    found = {r.name: r for rules in index.values() for r in rules if r.name in names}
    many = ", ".join(sorted(names))
    what = f"the rules {many} undo each other" if len(names) > 1 else f"the rule {many} undoes itself"
    place = at if len(at) < 60 else f"{at[:60]}…"
    message = f"{what}: at %{place} they were applied {age} times, one after the other"
    labels = tuple(Label(rule.span) for rule in found.values())
    return NetcError([Diagnostic("cyclic-rules", message, labels, fix="add a `where` that ends it")])


def replace_match(edit: Edit, match: Match, matcher: Matcher) -> tuple[list[str], list[str]]:
    """Put what a rule says in the place of a match; the paths of the nodes that were made and of those removed.

    The new node that computes the result keeps the path of the matched node of its operator, if there is one, and else
    that of the root.

    Raises:
        NetcError: where the replacement cannot be evaluated, or is not of the type of what it replaces.
    """
    graph, rule = matcher.graph, match.rule
    spans = dict.fromkeys(s for path in match.nodes for s in graph.nodes[path].origin)
    origin = tuple(sorted(spans, key=lambda s: (s.source.name, s.start)))
    anchor = graph.nodes[match.roots[0]]
    edit.acting(rule.name, anchor.path)
    evaluator = RuleEvaluator(rule, match.values, matcher, edit=edit, anchor=anchor, origin=origin)
    results = _results(evaluator, match, graph)
    used = {r.node for p in evaluator.made for r in edit.node(p).refs if isinstance(r, Value)}
    used |= {r.node for r in results.values() if isinstance(r, Value)}
    removed = _dead(graph, match, used)
    for path in removed:
        edit.remove(path)
    made = dict.fromkeys(evaluator.made)
    free = [graph.nodes[path] for path in removed]
    for root, path in zip(rule.roots, match.roots, strict=True):
        _place(edit, graph, {cast(Value, match.values[n]): results[n] for n in root.names}, path, made, free)
    _keep_paths(edit, made, [n for n in free if n.path not in match.roots])
    return list(made), removed


def _results(evaluator: RuleEvaluator, match: Match, graph: Graph) -> dict[str, Ref]:
    """What replaces each name of the rule; an expression for several names is evaluated once."""
    rule = match.rule
    values: dict[int, Any] = {}
    results: dict[str, Ref] = {}
    for name, (expression, index) in rule.results.items():
        if id(expression) not in values:
            values[id(expression)] = evaluator.value(expression)
        value = values[id(expression)]
        if index is not None:
            several = cast("Sequence[Any]", value) if isinstance(value, (tuple, list)) else ()
            if index >= len(several):
                raise _mistake(rule, f"{name} is replaced by output {index} of {describe(value)}", expression.span)
            value = several[index]
        tensor = evaluator.tensor(value, expression.span)
        old = graph.type(match.values[name])
        if old != tensor.type:
            raise _mistake(rule, f"{name} is {old}, but what replaces it is {tensor.type}", expression.span)
        results[name] = tensor.ref
    return results


def _dead(graph: Graph, match: Match, used: set[str]) -> list[str]:
    """The matched nodes that nothing reads any more, readers before what they read."""
    kept = {*graph.outputs.values(), *graph.taps.values()}
    number = {path: i for i, path in enumerate(match.nodes)}
    gone: dict[str, None] = {}
    waiting = sorted(match.nodes, key=lambda p: (p not in match.roots, number[p]))
    changed = True
    while changed:
        changed = False
        for path in waiting:
            if path in gone or path in used:
                continue
            values = graph.nodes[path].values
            read = any(v in kept or any(n.path not in gone for n in graph.users.get(v, ())) for v in values)
            if path in match.roots or not read:
                gone[path] = None
                changed = True
    return list(gone)


def _place(
    edit: Edit, graph: Graph, replaced: Mapping[Value, Ref], root: str, made: dict[str, None], free: list[Node]
) -> None:
    """Redirect the readers of one root, and give the node that stands in its place a path that is known."""
    new = {r.node for r in replaced.values() if isinstance(r, Value)}
    (path,) = new if len(new) == 1 else ("",)
    if path in made:
        op = edit.node(path).op.name
        same = [n for n in free if n.op.name == op]
        target = same[0].path if len(same) == 1 else root
        if target not in edit:
            edit.rename(path, target)
            del made[path]
            made[target] = None
            replaced = {old: Value(target, cast(Value, r).index) for old, r in replaced.items()}
    for old, ref in replaced.items():
        edit.redirect(old, ref)


def _keep_paths(edit: Edit, made: dict[str, None], free: list[Node]) -> None:
    """Give a new node inside the replacement the path of the one inside the match that has its operator."""
    for path in list(made):
        name = edit.node(path).op.name
        old = [n.path for n in free if n.op.name == name]
        new = [p for p in made if edit.node(p).op.name == name]
        if len(old) == len(new) == 1 and old[0] not in edit:
            edit.rename(path, old[0])
            del made[path]
            made[old[0]] = None


def _near(graph: Graph, seeds: Iterable[str]) -> set[str]:
    """Nodes at which a change can have made a rule applicable."""
    found = {s for s in seeds if s in graph.nodes}
    level = found
    for _ in range(_REACH):
        level = {n.path for path in level for v in graph.nodes[path].values for n in graph.users.get(v, ())} - found
        if not level:
            break
        found |= level
    return found


def _mistake(rule: Rule, message: str, span: Span) -> NetcError:
    return NetcError([Diagnostic("rewrite", f"in the rule {rule.name}: {message}", (Label(span),))])
