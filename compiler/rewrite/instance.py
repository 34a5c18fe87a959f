"""Random small graphs on which a rule applies: what its contract is tested on before it is ever used.

A graph is grown from the rule's patterns, the innermost operators first: optional stages are there or not, repetitions
take one to three turns, one of several choices is taken. Shapes, dtypes and attributes are drawn at random, with those
that rules ask for more often than others; the matcher then decides whether the rule really applies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from random import Random
from typing import Any, cast

from .. import tree as t
from ..diagnostic import NetcError
from ..graph import Edit, Graph, Input, Node, Parameter, ParameterRef, Phase, Ref, Value
from ..operators.operator import OPERATORS, SAMPLES, Initialiser, Operator, ShapeError, validate
from ..text import print_graph
from ..types import Dim, DType, Expression, TensorType, substitute, symbol, symbols
from .draw import Unfit, complete, data, other_channels
from .evaluate import Absent, RuleEvaluator
from .match import Match, Matcher
from .pattern import (
    Apply,
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
    over,
    renamed,
)

INSIDE = "inside"
"""The output that is a value inside what is matched, where there is one: a rule must leave it as it is."""
_TRIES = 100
"""So many graphs are drawn at most for each instance that is asked for."""
_QUICK = 200
_PATIENCE, _ENOUGH = 800, 12
"""After so many tries, so many instances are enough."""
_DTYPES = (*[DType.F32] * 7, DType.F64, DType.BF16, DType.F16, DType.I64, DType.I64, DType.BOOL)
_STRIDE = 5
"""Through the dtypes from graph to graph: each is met in turn, the rare ones early."""
_POSITIVE = {(s.op.name, i) for s in SAMPLES for i in s.positive}
"""Operators and the operands that they want positive: roots, logarithms, divisors, variances."""


_RANK = 8
"""No instance has more axes, whatever a rule asks for."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A graph on which a rule applies, and where it does. The inputs in `positive` are those of roots, divisors, …"""

    graph: Graph
    match: Match
    matcher: Matcher
    positive: frozenset[str]


@dataclass(slots=True)
class Found:
    """Instances, and how often which obstacle kept a graph from being one."""

    instances: list[Instance] = field(default_factory=list[Instance])
    obstacles: Counter[str] = field(default_factory=Counter[str])
    error: tuple[Graph, NetcError] | None = None
    """A graph on which a condition of the rule cannot be decided."""


def generate(rule: Rule, count: int, seed: int = 0, enough: int | None = None) -> Found:
    """Up to `count` different graphs on which the rule applies; the same ones for the same seed. `enough` are as good
    where more would take long."""
    found = Found()
    random = Random(f"{seed} {rule.name}")
    asked = _asked(rule)
    seen: set[str] = set()
    for tries in range(_TRIES * count):
        many = len(found.instances)
        if many == count or (tries > _QUICK and many >= (enough or count)) or (tries > _PATIENCE and many >= _ENOUGH):
            break
        growing = _Growing(rule, random, asked, _DTYPES[tries * _STRIDE % len(_DTYPES)])
        try:
            graph, root = growing.graph()
        except (ShapeError, Unfit) as error:
            found.obstacles[str(error)] += 1
            continue
        refusals: list[tuple[int, str]] = []
        matcher = Matcher(graph, lambda depth, reason, to=refusals: to.append((depth, reason)))
        try:
            match = matcher.find(rule, graph.nodes[root])
        except NetcError as error:
            found.error = graph, error
            break
        if match is None:
            found.obstacles[max(refusals, default=(0, "nothing matches"))[1]] += 1
            continue
        text = print_graph(graph)
        if text not in seen:
            seen.add(text)
            found.instances.append(Instance(graph, match, matcher, frozenset(growing.positive)))
    return found


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the conditions of a rule say about its captures, read off their text."""

    constant: frozenset[str]
    """Names that must be constant, or parameters."""
    absent: frozenset[str]
    numbers: frozenset[str]
    """Names whose number is asked for."""
    kernels: frozenset[str]
    """Weights whose kernel is asked about: mostly whether its sizes are 1."""
    values: Mapping[str, Sequence[Any]]
    """Numbers, texts and lists that a capture is compared with."""
    ranks: Mapping[str, int]


def _asked(rule: Rule) -> _Asked:
    constant: set[str] = set()
    absent: set[str] = set()
    numbers: set[str] = set()
    present: set[str] = set()
    kernels: set[str] = set()
    values: dict[str, list[Any]] = {}
    ranks: dict[str, int] = {}
    evaluator = RuleEvaluator(rule, {}, Matcher(Graph("none")))
    for e in (part for condition in rule.conditions for part in _parts(condition)):
        if isinstance(e, t.Call) and isinstance(e.function, t.Name):
            names = {a.value.text for a in e.arguments if isinstance(a.value, t.Name)}
            if e.function.text in ("constant", "op"):
                constant.update(names)
            elif e.function.text == "absent":
                absent.update(names)
            elif e.function.text == "number":
                numbers.update(names)
        if isinstance(e, t.Unary) and e.op == "not":
            present.update(n.text for n in _parts(e.operand) if isinstance(n, t.Name))
        if isinstance(e, t.Index) and isinstance(e.value, t.Attribute) and isinstance(e.value.value, t.Name):
            kernels.add(e.value.value.text)
        if isinstance(e, t.Binary) and e.op in ("==", "in", "<=", ">="):
            for name, other in ((e.left, e.right), (e.right, e.left)):
                if isinstance(name, t.Attribute) and isinstance(name.value, t.Name) and name.name.text == "rank":
                    proposed = [r for r in _proposed(evaluator, "==", other) if isinstance(r, int) and r <= _RANK]
                    ranks.update((name.value.text, rank) for rank in proposed)
                if isinstance(name, t.Name):
                    values.setdefault(name.text, []).extend(_proposed(evaluator, e.op, other))
    return _Asked(
        frozenset(constant), frozenset(absent - present), frozenset(numbers), frozenset(kernels), values, ranks
    )


def _proposed(evaluator: RuleEvaluator, op: str, e: t.Expr) -> list[Any]:
    """The values that a name is compared with; none where they depend on what is matched."""
    try:
        value = evaluator.value(e)
    except NetcError:
        return []
    return list(cast("Sequence[Any]", value)) if op == "in" and isinstance(value, list | tuple) else [value]


def _parts(e: Any) -> Iterator[Any]:
    """An expression and every expression in it."""
    yield e
    for f in fields(e):
        part = getattr(e, f.name)
        for one in cast("tuple[Any, ...]", part) if isinstance(part, tuple) else (part,):
            if isinstance(one, _EXPRESSIONS):
                yield from _parts(one)


_EXPRESSIONS = tuple(c for c in vars(t).values() if isinstance(c, type) and hasattr(c, "__dataclass_fields__"))


class _Growing:
    """One graph, grown from the patterns of a rule."""

    def __init__(self, rule: Rule, random: Random, asked: _Asked, dtype: DType) -> None:
        self.positive: set[str] = set()
        self._rule = rule
        self._random = random
        self._asked = asked
        self._edit = Edit(Graph("instance"))
        self._values: dict[str, Any] = {}
        """What the names of the rule stand for: values, lists of them, attributes, None where absent."""
        self._labelled: dict[str, Apply] = {}
        self._roots: dict[str, Root] = {}
        self._patterns: dict[int, Pattern] = {}
        self._nodes: list[Node] = []
        self._dtype = dtype
        self._symbolic = random.random() < 0.25
        self._alike = random.random() < 0.5
        """Whether operators of one kind mostly have the same attributes, and inputs the same shapes."""
        self._phase: Phase = rule.phase if rule.phase != "both" and random.random() < 0.2 else "both"
        self._turns = 0

    def graph(self) -> tuple[Graph, str]:
        """A graph, and the node at which the rule should apply.

        Raises:
            ShapeError, Unfit: where the drawn shapes or attributes do not fit together.
        """
        for root in self._rule.roots:
            pattern = self._concrete(root.pattern)
            if not isinstance(pattern, Apply):
                raise Unfit("the pattern has no operator")
            self._patterns[id(root)] = pattern
            self._roots.update(dict.fromkeys(root.names, root))
            self._labelled.update((a.label, a) for a in applications(pattern) if a.label)
        for root in self._rule.roots:
            self._root(root)
        first = cast(Value, self._values[self._rule.roots[0].names[0]]).node
        self._outputs()
        graph = self._edit.done()
        if not all(_sound(d) for n in graph.nodes.values() for kind in n.types for d in kind.shape):
            raise Unfit("a size is below 1")
        return graph, first

    def _root(self, root: Root) -> None:
        if root.names[0] in self._values:
            return
        pattern = cast(Apply, self._patterns[id(root)])
        value = self._apply(pattern, (), None, root.names[0])
        outputs = len(self._edit.node(value.node).types)
        if len(root.names) not in (1, outputs):
            raise Unfit(f"{pattern.operator} has {outputs} outputs, not {len(root.names)}")
        for index, name in enumerate(root.names):
            self._values[name] = Value(value.node, index) if len(root.names) > 1 else value

    def _outputs(self) -> None:
        """The roots are outputs, or are read; so are, at times, values inside."""
        random = self._random
        for name, root in self._roots.items():
            ref = self._values[name]
            if random.random() < 0.25 and self._phase == "both":
                ref = self._add("after", OPERATORS["identity"](), [ref]).value
            self._edit.output(name if len(root.names) + len(self._rule.roots) > 2 else "y", ref)
        once = self._rule.once
        if once is None or random.random() < 0.6:
            return
        kept = {cast(Value, self._values[label]).node for label in once if isinstance(self._values.get(label), Value)}
        roots = {cast(Value, self._values[name]).node for name in self._roots}
        inside = [n for n in self._nodes if n.path not in kept | roots and n.op.name != "identity"]
        if inside:
            self._edit.output(INSIDE, random.choice(inside).value)

    # ---------------------------------------------------------------------------------------------- structure

    def _concrete(self, pattern: Pattern) -> Pattern:
        """The pattern with every choice taken."""
        random = self._random
        if isinstance(pattern, Maybe):
            if random.random() < 0.5:
                return self._concrete(over(pattern.stage, pattern.below))
            self._values.update(dict.fromkeys(captures(pattern.stage)))
            return self._concrete(pattern.below)
        if isinstance(pattern, Repeat):
            below = pattern.below
            for _ in range(random.choice((1, 1, 2, 3))):
                self._turns += 1
                below = over(renamed(pattern.stage, f"#{self._turns}"), below)
            return self._concrete(below)
        if isinstance(pattern, Either):
            return self._concrete(random.choice(pattern.choices))
        if isinstance(pattern, Apply):
            operands = {k: self._concrete(p) for k, p in pattern.operands.items()}
            many = pattern.many
            if isinstance(many, tuple):
                many = tuple(map(self._concrete, many))
            return Apply(
                pattern.operator, operands, many, pattern.attributes, pattern.rest, pattern.label, pattern.output,
                pattern.span,
            )  # fmt: skip
        return pattern

    # ---------------------------------------------------------------------------------------------- values

    def _known(self, pattern: Pattern, above: tuple[str, ...], rank: int | None = None) -> Any:
        """The value of a pattern that needs no more drawing; `_UNKNOWN` for variables that are free."""
        if isinstance(pattern, Apply):
            if pattern.label and pattern.label in self._values:
                return self._values[pattern.label]
            return self._apply(pattern, above, None, rank=rank)
        if not isinstance(pattern, Variable):
            return _UNKNOWN
        name = pattern.name
        if name not in self._values and name in self._labelled:
            self._apply(self._labelled[name], above, None)
        elif name not in self._values and name in self._roots:
            self._root(self._roots[name])
        return self._values.get(name, _UNKNOWN)

    def _apply(
        self,
        pattern: Apply,
        above: tuple[str, ...],
        wanted: TensorType | None,
        path: str = "",
        rank: int | None = None,
    ) -> Value:
        """A node for the pattern; its operands first. `wanted` is a type that would fit its reader, `rank` its rank."""
        cls = OPERATORS[pattern.operator]
        rank = self._asked.ranks.get(pattern.label or path, rank)
        early = self._fixed(pattern) if cls.name == "permute" else {}
        below = len(early["dims"]) if early.get("dims") else None
        slots = _slots(pattern, cls)
        refs: list[Any] = []
        for operand, part, many in slots:
            weight = operand in _WEIGHTS and cls.name in _WEIGHED
            if part is None:
                refs.append(None)
            elif isinstance(part, Literal) or (isinstance(part, Apply) and weight and not part.label):
                refs.append(_UNKNOWN)
            else:
                refs.append(self._known(part, (*above, cls.name), below) if not many else self._values_of(part))
        refs = [self._absent(cls, s, r) for s, r in zip(slots, refs, strict=True)]
        slots, refs = self._several(cls, slots, refs)
        types = [None if r is None else _UNKNOWN if r is _UNKNOWN else self._edit.type(r) for r in refs]
        fixed = self._fixed(pattern)
        if wanted is not None and not slots:  # what is filled with a number is as large as wanted
            names = {f.name for f in fields(cast(Any, cls))}
            fixed = {k: v for k, v in (("size", wanted.shape), ("dtype", wanted.dtype)) if k in names} | fixed
        if all(x is _UNKNOWN or x is None for x in types) and slots:
            self._first(cls, slots, types, above, wanted, below)
        literal = [isinstance(part, Literal) for _, part, _ in slots]
        weight = slots[1][1] if len(slots) > 1 else None
        small = isinstance(weight, Variable) and weight.name in self._asked.kernels
        op, types = complete(cls, fixed, types, literal, self._random, self._earlier(cls), small=small, rank=rank)
        for i, (operand, part, many) in enumerate(slots):
            if refs[i] is _UNKNOWN:
                index = min(i, len(cls.operands) - 1)
                refs[i] = self._made(operand, part, types[i], (*above, cls.name), (cls.name, index), many)
        self._gather(pattern, cls, refs)
        node = self._add(path or pattern.label or cls.name, op, refs)
        self._capture(pattern, node)
        if pattern.output >= len(node.types):
            raise Unfit(f"{cls.name} has no output {pattern.output}")
        value = Value(node.path, pattern.output)
        if pattern.label:
            self._values[pattern.label] = value
        return value

    def _earlier(self, cls: type[Operator]) -> tuple[Operator, tuple[int, ...]] | None:
        """An operator of this kind that the graph holds, at times, and the kernel of its weight."""
        nodes = [n for n in self._nodes if n.op.name == cls.name]
        if not nodes or self._random.random() > (0.95 if self._alike else 0.3):
            return None
        node = self._random.choice(nodes)
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        return node.op, () if weight is None else cast("tuple[int, ...]", self._edit.type(weight).shape[2:])

    def _add(self, path: str, op: Operator, refs: Sequence[Ref | None]) -> Node:
        types = [None if r is None else self._edit.type(r) for r in refs]
        node = self._edit.add(self._edit.fresh(path.replace("#", "_")), op.canonical(*types), *refs, phase=self._phase)
        self._nodes.append(node)
        return node

    def _values_of(self, part: Pattern) -> Any:
        return self._values.get(part.name, _UNKNOWN) if isinstance(part, Variable) else _UNKNOWN

    def _absent(self, cls: type[Operator], slot: _Slot, ref: Any) -> Any:
        """Leave an optional operand out, at times."""
        operand, part, _ = slot
        optional = any(o.name == operand and o.optional for o in cls.operands)
        if ref is not _UNKNOWN or not optional or not isinstance(part, Variable):
            return None if isinstance(ref, Absent) else ref
        if self._random.random() < (0.6 if part.name in self._asked.absent else 0.3):
            self._values[part.name] = None
            return None
        return ref

    def _several(self, cls: type[Operator], slots: list[_Slot], refs: list[Any]) -> tuple[list[_Slot], list[Any]]:
        """A variable for all inputs of a variadic operand, as that many slots."""
        if not slots or not slots[-1][2]:
            return slots, refs
        operand, part, _ = slots[-1]
        known = refs[-1]
        several = [_UNKNOWN] * self._random.choice((1, 2, 2, 3, 4))
        if isinstance(known, tuple):
            several = list(cast("tuple[Any, ...]", known))
        return [*slots[:-1], *[(operand, part, True)] * len(several)], [*refs[:-1], *several]

    def _gather(self, pattern: Apply, cls: type[Operator], refs: list[Any]) -> None:
        if isinstance(pattern.many, Variable):
            self._values[pattern.many.name] = tuple(refs[len(cls.operands) - 1 :])

    def _first(
        self,
        cls: type[Operator],
        slots: list[_Slot],
        types: list[Any],
        above: tuple[str, ...],
        wanted: TensorType | None,
        rank: int | None,
    ) -> None:
        """Choose a type for the first free operand: like another value's at times, so that they fit together."""
        random = self._random
        at = next((i for i, (_, part, _) in enumerate(slots) if not isinstance(part, Literal)), None)
        if at is None:
            return
        if wanted is not None:
            types[at] = wanted
            return
        part = slots[at][1]
        if isinstance(part, Variable):
            rank = self._asked.ranks.get(part.name, rank)
        inputs = [n.types[0] for n in self._inputs() if rank in (None, n.types[0].rank)]
        if inputs and random.random() < (0.95 if self._alike else 0.5):
            types[at] = other_channels(random.choice(inputs), random)
            return
        found = data((*above, cls.name), self._dtype, random, rank)
        if found is not None and self._symbolic and found.rank:
            found = TensorType(found.dtype, (symbol("N"), *found.shape[1:]))
        if found is not None:
            types[at] = found

    def _inputs(self) -> list[Node]:
        return [self._edit.node(r.node) for r in self._values.values() if _is_input(r, self._edit)]

    def _made(
        self, operand: str, part: Any, kind: TensorType, above: tuple[str, ...], place: tuple[str, int], many: bool
    ) -> Ref:
        """A value of a type for a free variable, a number, or the pattern of a weight."""
        if isinstance(part, Apply):
            return self._apply(part, above, kind)
        if isinstance(part, Literal):
            return self._number(part, kind)
        name = cast(Variable, part).name
        if not many and name in self._values:  # it stands twice in this operator
            return self._values[name]
        made = self._variable(name, operand, kind, place)
        if not many:
            self._values[name] = made
        return made

    def _number(self, part: Literal, kind: TensorType) -> Ref:
        """A constant; at times of another dtype or shape, which the matcher may take or leave."""
        random = self._random
        dtype = random.choice(_DTYPES) if random.random() < 0.15 else kind.dtype
        whole = isinstance(part.value, int) or dtype.is_float
        attributes = {"value": part.value, "dtype": dtype if whole else kind.dtype}
        if random.random() < 0.9:
            return self._add("constant", validate(OPERATORS["constant"], attributes), []).value
        size = [random.choice((1, 2, 3))]
        return self._add("full", validate(OPERATORS["full"], {**attributes, "size": size}), []).value

    def _constant(self, kind: TensorType) -> Ref:
        """Numbers that are written out."""
        choices = (0.5, 1.5, 2.0, 0.25) if kind.dtype.is_float else (1, 2, 3)
        flat = tuple(self._random.choice(choices) for _ in range(cast(int, kind.elements)))
        attributes = {"value": flat if kind.rank else flat[0], "dtype": kind.dtype}
        return self._add("constant", validate(OPERATORS["constant"], attributes), []).value

    def _variable(self, name: str, operand: str, kind: TensorType, place: tuple[str, int]) -> Ref:
        random = self._random
        if name in self._asked.numbers and random.random() < 0.9:
            return self._constant(TensorType(kind.dtype, ()))
        same = [r for r in self._values.values() if isinstance(r, Value | ParameterRef) and self._edit.type(r) == kind]
        positive = place in _POSITIVE and random.random() < 0.8
        if same and not positive and random.random() < 0.08:
            return random.choice(same)
        path = self._edit.fresh(name.replace("#", "_"))
        weight = operand in _WEIGHTS and place[0] in _WEIGHED
        chance = 0.95 if name in self._asked.constant else 0.75 if weight else 0.06
        concrete = not any(isinstance(d, Expression) for d in kind.shape)
        if concrete and random.random() < chance:
            while self._edit.find_parameter(path) is not None:
                path += "_"
            initialiser = _initialiser(kind.dtype, positive)
            buffer = operand.startswith("running")
            made = Parameter(path, kind, initialiser, kind.dtype.is_float and not buffer, buffer)
            return self._constant(kind) if kind.rank < 2 and random.random() < 0.2 else self._edit.parameter(made)
        if positive:
            self.positive.add(path)
        return self._edit.add(path, Input(kind)).value

    # ---------------------------------------------------------------------------------------------- attributes

    def _fixed(self, pattern: Apply) -> dict[str, Any]:
        """Attributes that the pattern or an earlier capture determines, or that a condition proposes."""
        found: dict[str, Any] = {}
        for name, wanted in pattern.attributes.items():
            if wanted.name is None:
                values = {k: Absent(None) if v is None else v for k, v in self._values.items() if "#" not in k}
                try:
                    found[name] = RuleEvaluator(self._rule, values, Matcher(self._edit.done())).value(wanted.value)
                except NetcError:
                    continue  # it depends on what is matched further out: the matcher decides
            elif wanted.name in self._values:
                found[name] = self._values[wanted.name]
            else:
                proposed = self._asked.values.get(wanted.name.partition("#")[0], ())
                if proposed and self._random.random() < 0.6:
                    found[name] = self._random.choice(proposed)
        return found

    def _capture(self, pattern: Apply, node: Node) -> None:
        values = node.op.attributes()
        for name, wanted in pattern.attributes.items():
            if wanted.name is not None:
                self._values.setdefault(wanted.name, values[name])


_Slot = tuple[str, Any, bool]
"""An operand's name, the pattern that stands there (None: nothing), and whether it is one for several inputs."""
_UNKNOWN: Any = object()
_WEIGHTS = frozenset({"weight", "bias", "running_mean", "running_var", "weights"})
_WEIGHED = frozenset(s.op.name for s in SAMPLES if any(o.name in _WEIGHTS for o in s.op.operands))


def _slots(pattern: Apply, cls: type[Operator]) -> list[_Slot]:
    slots: list[_Slot] = []
    for operand in cls.operands:
        if not operand.variadic:
            slots.append((operand.name, pattern.operands.get(operand.name), False))
        elif isinstance(pattern.many, tuple):
            slots.extend((operand.name, part, False) for part in pattern.many)
        elif pattern.many is not None:
            slots.append((operand.name, pattern.many, True))
    return slots


def _sound(d: Dim) -> bool:
    """Whether a size is at least 1, whatever its symbols are."""
    return all(cast(int, substitute(d, dict.fromkeys(symbols(d), size))) > 0 for size in (2, 3, 9))


def _is_input(ref: Any, edit: Edit) -> bool:
    return isinstance(ref, Value) and isinstance(edit.node(ref.node).op, Input)


def _initialiser(dtype: DType, positive: bool) -> Initialiser:
    if not dtype.is_float:
        return Initialiser("constant", (2.0,)) if dtype is not DType.BOOL else Initialiser("ones")
    return Initialiser("uniform", (0.25, 2.0)) if positive else Initialiser("normal", (0.0, 1.0))
