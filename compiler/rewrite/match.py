"""Finding where a rule applies: a backtracking match from the outermost operator inwards.

An anchor is looked up by operator. From there every operand leads to one node, so that a match costs no more than the
pattern is large, but for optional stages, repetitions and the order of commutative operands. Further `match` lines of a
rule begin at the readers of what is bound already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import ValidationError

from .. import tree as t
from ..graph import Graph, Node, ParameterRef, Ref, Value
from ..operators.operator import Operand, Operator, ShapeError, validate
from ..text import literal
from ..types import TensorType
from .evaluate import Absent, Rest, RuleEvaluator
from .pattern import (
    Apply,
    Attribute,
    Either,
    Literal,
    Maybe,
    Pattern,
    Repeat,
    Root,
    Rule,
    Variable,
    applications,
    captures,
    operators,
    over,
    renamed,
)

COMMUTATIVE = frozenset({
    "add", "mul", "maximum", "minimum", "eq", "ne", "logical_and", "logical_or",
})  # fmt: skip
"""Operators of two operands whose order does not matter."""

_REACH = 16
"""So many nodes at most lie between what is bound and the next root of a rule."""


@dataclass(frozen=True, slots=True)
class Match:
    """Where a rule applies: what its names stand for, the nodes in it, and the nodes of its roots in order."""

    rule: Rule
    values: Mapping[str, Any]
    nodes: Mapping[str, Apply]
    roots: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _State:
    values: Mapping[str, Any]
    nodes: Mapping[str, Apply]

    def bound(self, name: str, value: Any) -> _State:
        return _State({**self.values, name: value}, self.nodes)

    def entered(self, path: str, pattern: Apply) -> _State:
        return _State(self.values, {**self.nodes, path: pattern})


_Pair = tuple[Pattern, Ref | tuple[Ref | None, ...] | None, Operand]
"""A pattern, what it must match (all inputs of a variadic operand), and the operand they belong to."""

Refusal = Callable[[int, str], None]
"""Is told why a match ended, and after how many nodes."""


class Matcher:
    """Matches rules on one graph."""

    def __init__(self, graph: Graph, refused: Refusal | None = None) -> None:
        self.graph = graph
        self._users = graph.users
        self._kept = {*graph.outputs.values(), *graph.taps.values()}
        self._constant: dict[str, bool] = {}
        self._refused = refused
        self._rule: Rule | None = None

    def constant(self, ref: Ref) -> bool:
        """Whether a value depends on parameters and constants alone."""
        if isinstance(ref, ParameterRef):
            return True
        waiting = [ref.node]
        while waiting:
            path = waiting[-1]
            node = self.graph.nodes[path]
            inputs = [i.node for i in node.refs if isinstance(i, Value)]
            unknown = [i for i in inputs if i not in self._constant]
            if unknown and path not in self._constant:
                waiting.extend(unknown)
                continue
            waiting.pop()
            source = node.op.name == "input" or node.op.effect != "none"
            self._constant.setdefault(path, not source and all(self._constant[i] for i in inputs))
        return self._constant[ref.node]

    def find(self, rule: Rule, node: Node) -> Match | None:
        """The first way in which the rule applies with its first root at `node`.

        Raises:
            NetcError: where a condition of the rule cannot be evaluated.
        """
        if rule.phase != "both" and node.phase not in ("both", rule.phase):
            self._no(0, f"%{node.path} belongs to the {node.phase} phase")
            return None
        self._rule = rule
        for state, roots in self._roots(rule, node):
            found = self._accepted(rule, state, roots)
            if found is not None:
                return found
        return None

    def _no(self, depth: int, reason: str) -> None:
        if self._refused is not None:
            self._refused(depth, reason)

    # ---------------------------------------------------------------------------------------------- roots

    def _roots(self, rule: Rule, node: Node) -> Iterator[tuple[_State, tuple[str, ...]]]:
        first, *others = rule.roots
        for state in self._root(first, node, _State({}, {})):
            yield from self._further(others, state, (node.path,))

    def _further(
        self, roots: Sequence[Root], state: _State, found: tuple[str, ...]
    ) -> Iterator[tuple[_State, tuple[str, ...]]]:
        if not roots:
            yield state, found
            return
        anchor = self.graph.nodes[found[0]]
        for node in self._near(roots[0].pattern, state):
            if node.path not in state.nodes and node.phase == anchor.phase:
                for next_state in self._root(roots[0], node, state):
                    yield from self._further(roots[1:], next_state, (*found, node.path))

    def _root(self, root: Root, node: Node, state: _State) -> Iterator[_State]:
        if len(root.names) > len(node.types):
            return self._no(0, f"%{node.path} has {len(node.types)} outputs, not {len(root.names)}")
        for index in range(len(node.types)):
            if len(root.names) > 1 and index:
                return None
            for matched in self._match(root.pattern, Value(node.path, index), state):
                if node.path in matched.nodes:
                    for position, name in enumerate(root.names):
                        matched = matched.bound(name, Value(node.path, position if len(root.names) > 1 else index))
                    yield matched
        return None

    def _near(self, pattern: Pattern, state: _State) -> Iterator[Node]:
        """Nodes that may be a further root, found from the readers of a value that is bound already."""
        known = [state.values[n] for n in captures(pattern) if isinstance(state.values.get(n), (Value, ParameterRef))]
        wanted = operators(pattern)
        if not known:
            yield from (n for n in self.graph.nodes.values() if n.op.name in wanted)
            return
        seen: set[str] = set()
        level = self._users.get(known[0], [])
        for _ in range(min(_REACH, sum(1 for _ in applications(pattern)) + _REACH * _repeats(pattern))):
            below: dict[str, Node] = {}
            for node in level:
                if node.path in seen:
                    continue
                seen.add(node.path)
                if node.op.name in wanted:
                    yield node
                for value in node.values:
                    below.update((n.path, n) for n in self._users.get(value, ()))
            level = list(below.values())

    # ---------------------------------------------------------------------------------------------- patterns

    def _match(self, pattern: Pattern, ref: Ref | None, state: _State) -> Iterator[_State]:
        if isinstance(pattern, Apply):
            yield from self._apply(pattern, ref, state)
        elif isinstance(pattern, Variable):
            yield from self._bind(pattern.name, Absent(None) if ref is None else ref, state)
        elif isinstance(pattern, Literal):
            if self._is_number(ref, pattern.value):
                yield state
            else:
                self._no(len(state.nodes), f"{ref} is not the constant {pattern.value}")
        elif isinstance(pattern, Maybe):
            yield from self._match(over(pattern.stage, pattern.below), ref, state)
            absent = state
            for name in captures(pattern.stage):
                if name not in absent.values:
                    absent = absent.bound(name, Absent(None))
            yield from self._match(pattern.below, ref, absent)
        elif isinstance(pattern, Repeat):
            yield from self._repeat(pattern, ref, state, 0)
        elif isinstance(pattern, Either):
            for choice in pattern.choices:
                yield from self._match(choice, ref, state)

    def _repeat(self, pattern: Repeat, ref: Ref | None, state: _State, turn: int) -> Iterator[_State]:
        """Longest first. The turns are met from the last one of the computation; see `_gathered`."""
        end = Variable(f"#{turn}", pattern.span)
        for inner in self._match(over(renamed(pattern.stage, f"#{turn}"), end), ref, state):
            below = inner.values[end.name]
            yield from self._repeat(pattern, below, inner, turn + 1)
            gathered = self._gathered(pattern.stage, inner, turn)
            yield from self._match(pattern.below, below, gathered)

    def _gathered(self, stage: Pattern, state: _State, last: int) -> _State:
        for name in dict.fromkeys(captures(stage)):
            turns = tuple(state.values[f"{name}#{turn}"] for turn in range(last, -1, -1))
            state = state.bound(name, turns)
        return state

    def _apply(self, pattern: Apply, ref: Ref | None, state: _State) -> Iterator[_State]:
        depth = len(state.nodes)
        if not isinstance(ref, Value):
            what = "nothing" if ref is None else f"the parameter {ref}"
            return self._no(depth, f"{what} stands where {pattern.operator} should")
        node = self.graph.nodes[ref.node]
        if node.op.name != pattern.operator:
            return self._no(depth, f"%{node.path} is {node.op.name}, not {pattern.operator}")
        earlier = state.nodes.get(node.path)
        if earlier is not None and (len(node.types) == 1 or earlier.output == pattern.output):
            return self._no(depth, f"%{node.path} is matched twice")
        if ref.index != pattern.output:
            return self._no(depth, f"{ref} is not output {pattern.output} of {pattern.operator}")
        state = state.entered(node.path, pattern)
        if pattern.label is not None:
            state = state.bound(pattern.label, ref)
        attributed = self._attributes(pattern, node, state)
        if attributed is None:
            return None
        for pairs in self._operands(pattern, node):
            if all(self._written(node, ref) for p, ref, _ in pairs if isinstance(p, Literal)):
                yield from self._all(pairs, attributed)
        return None

    def _all(self, pairs: Sequence[_Pair], state: _State) -> Iterator[_State]:
        if not pairs:
            yield state
            return
        (pattern, ref, operand), *rest = pairs
        if isinstance(pattern, Variable):
            found = self._bind(pattern.name, Absent(operand.absent) if ref is None else ref, state)
        else:
            found = self._match(pattern, cast("Ref | None", ref), state)
        for matched in found:
            yield from self._all(rest, matched)

    def _operands(self, pattern: Apply, node: Node) -> Iterator[list[_Pair]]:
        """Patterns with what they must match, in each order that the operator allows."""
        pairs: list[_Pair] = []
        for operand, ref in zip(node.op.operands, node.inputs, strict=False):
            if operand.variadic:
                break
            given = pattern.operands.get(operand.name)
            if given is not None:
                pairs.append((given, ref, operand))
            elif ref is not None:
                return self._no(0, f"%{node.path} has the input {operand.name}, which the pattern does not mention")
        if node.op.operands and node.op.operands[-1].variadic:
            operand = node.op.operands[-1]
            refs = node.inputs[len(node.op.operands) - 1 :]
            if isinstance(pattern.many, Variable):
                pairs.append((pattern.many, refs, operand))
            elif pattern.many is None or len(refs) != len(pattern.many):
                return self._no(0, f"%{node.path} joins {len(refs)} inputs")
            else:
                pairs.extend((p, r, operand) for p, r in zip(pattern.many, refs, strict=True))
        yield pairs
        if node.op.name in COMMUTATIVE and len(pairs) == 2:
            (one, a, operand), (other, b, _) = pairs
            yield [(one, b, operand), (other, a, operand)]
        return None

    def _bind(self, name: str, value: Any, state: _State) -> Iterator[_State]:
        if name not in state.values:
            yield state.bound(name, value)
        elif state.values[name] == value:
            yield state
        else:
            self._no(len(state.nodes), f"{name} is {_shown(state.values[name])} and {_shown(value)}")

    def _is_number(self, ref: Ref | None, value: float) -> bool:
        if not isinstance(ref, Value):
            return False
        op = self.graph.nodes[ref.node].op
        return op.name in ("constant", "full") and getattr(op, "value", None) == value

    def _written(self, node: Node, ref: Ref | tuple[Ref | None, ...] | None) -> bool:
        """Whether a number could be written where this input stands: it gives the result neither shape nor dtype."""
        types = self.graph.input_types(node)
        others = {kind.dtype for kind, r in zip(types, node.inputs, strict=True) if kind is not None and r != ref}
        for dtype in others:
            scalar = TensorType(dtype, ())
            given = (scalar if r == ref else kind for kind, r in zip(types, node.inputs, strict=True))
            try:
                if node.op.shape(*given) == node.types:
                    return True
            except ShapeError:
                continue
        if others:
            self._no(1, f"{ref} gives %{node.path} its type: it is no mere number")
        return not others

    # ---------------------------------------------------------------------------------------------- attributes

    def _attributes(self, pattern: Apply, node: Node, state: _State) -> _State | None:
        values = node.op.attributes()
        for name, wanted in pattern.attributes.items():
            if wanted.name is not None:
                bound = next(self._bind(wanted.name, values[name], state), None)
                if bound is None:
                    return None
                state = bound
            elif not self._equal(node, name, wanted, state):
                self._no(len(state.nodes), f"%{node.path} has {name} = {_shown(values[name])}, not {wanted.span.text}")
                return None
        if pattern.rest is None:
            return state
        rest = {k: v for k, v in values.items() if k not in pattern.attributes}
        return next(self._bind(pattern.rest, Rest(rest), state), None)

    def _equal(self, node: Node, name: str, wanted: Attribute, state: _State) -> bool:
        """Whether an attribute is what the pattern writes, in any form that the operator takes: `1` for `[1, 1]`, `-1`
        for the last axis."""
        value = _plain(wanted.value)
        if value is _NOT_PLAIN:
            value = self._evaluated(wanted.value, state)
        return has_attribute(self.graph, node, name, value)

    def _evaluated(self, expression: t.Expr, state: _State) -> Any:
        assert self._rule is not None
        return RuleEvaluator(self._rule, state.values, self).value(expression)

    # ---------------------------------------------------------------------------------------------- conditions

    def _accepted(self, rule: Rule, state: _State, roots: tuple[str, ...]) -> Match | None:
        state = _State({k: v for k, v in state.values.items() if "#" not in k}, state.nodes)
        match = Match(rule, state.values, state.nodes, roots)
        depth = len(state.nodes) + 1
        problem = self._reader(match) or self._other_output(match) or self._circle(match)
        if problem is not None:
            self._no(depth, problem)
            return None
        if not rule.conditions:
            return match
        evaluator = RuleEvaluator(rule, state.values, self)
        for number, condition in enumerate(rule.conditions, 1):
            if not evaluator.holds(condition):
                self._no(depth + number, f"the condition `{condition.span.text}` does not hold")
                return None
        return match

    def _reader(self, match: Match) -> str | None:
        """Why a value inside the match cannot go: another node reads it, or it is an output."""
        once = match.rule.once
        for path, pattern in match.nodes.items():
            if path in match.roots or (once is not None and pattern.label not in once):
                continue
            for value in self.graph.nodes[path].values:
                if value in self._kept:
                    return f"{value} is an output of the model"
                others = [n.path for n in self._users.get(value, ()) if n.path not in match.nodes]
                if others:
                    return f"{value} is also read by %{others[0]}"
        return None

    def _other_output(self, match: Match) -> str | None:
        """Why a root cannot go: an output that the rule does not replace is read."""
        for root, path in zip(match.rule.roots, match.roots, strict=True):
            replaced = {match.values[name] for name in root.names}
            for value in self.graph.nodes[path].values:
                if value not in replaced and (value in self._kept or self._users.get(value)):
                    return f"the rule does not replace {value}, which is read"
        return None

    def _circle(self, match: Match) -> str | None:
        """Why replacing several roots at once would close a circle: one reads, from outside, what another computes."""
        if len(match.roots) == 1:
            return None
        import networkx

        outside = {
            ref.node
            for path in match.nodes
            for ref in self.graph.nodes[path].refs
            if isinstance(ref, Value) and ref.node not in match.nodes
        }
        for source in outside:
            for root in match.roots:
                if not self.constant(Value(source)) and networkx.has_path(self.graph.nx, root, source):
                    return f"%{source} depends on %{root}"
        return None


def has_attribute(graph: Graph, node: Node, name: str, value: Any) -> bool:
    """Whether an attribute of a node is `value`, in any form that its operator takes: `1` for `[1, 1]`, `-1` for the
    last axis."""
    try:
        other = cast(Operator, validate(type(node.op), {**node.op.attributes(), name: value}))
        other = other.canonical(*graph.input_types(node))
    except (ValidationError, ShapeError):
        return False
    return getattr(other, name) == getattr(node.op, name)


_NOT_PLAIN = object()


def _plain(e: t.Expr) -> Any:
    """The value of an expression without names."""
    if isinstance(e, t.Number) and e.unit is None:
        return e.value
    if isinstance(e, t.Constant):
        return e.value
    if isinstance(e, t.Text) and all(isinstance(p, str) for p in e.parts):
        return "".join(cast("tuple[str, ...]", e.parts))
    if isinstance(e, t.Unary) and e.op == "-":
        value = _plain(e.operand)
        return -value if isinstance(value, (int, float)) else _NOT_PLAIN
    if isinstance(e, t.ListOf):
        items = [_plain(i) for i in e.items]
        return _NOT_PLAIN if any(i is _NOT_PLAIN for i in items) else items
    return _NOT_PLAIN


def _repeats(pattern: Pattern) -> int:
    if isinstance(pattern, Repeat):
        return 1
    if isinstance(pattern, Apply):
        return max((_repeats(p) for p in pattern.operands.values()), default=0)
    return _repeats(pattern.below) if isinstance(pattern, Maybe) else 0


def _shown(value: Any) -> str:
    if isinstance(value, Absent):
        return "absent"
    try:
        return literal(value)
    except TypeError:
        return str(value)
