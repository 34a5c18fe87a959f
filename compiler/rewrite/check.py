"""A rule is checked when it is loaded, before it is ever used: on generated graphs, both sides must mean the same.

Both sides are computed in float64 on seeded inputs, moderate ones and awkward ones (zeros, ties, large numbers), with
batch statistics and random operators as the phase of the rule has them. What a contract promises, it promises for
finite numbers: where the original gives NaN or an infinity, a rule may give anything (`x * 0` may become 0), but it
must never make a number into one. Since all is float64, the rounding of narrower dtypes is no part of a contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, cast

from ..backend import backend
from ..contract import Contract
from ..diagnostic import Diagnostic, Label, NetcError
from ..graph import Graph, GraphError, ParameterRef, Value, verify
from ..operators.operator import ShapeError
from ..passes.bind import bind
from ..passes.widen import widen
from ..text import literal, print_graph
from ..types import DType, TensorType, substitute, symbols
from .apply import Rewriter, replace_match
from .evaluate import Absent, Rest
from .instance import INSIDE, Found, Instance, generate
from .pattern import Rule

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

_ENOUGH = 4
"""Fewer different graphs than this say too little about a rule."""
_MORE = 3
"""So many times as many graphs are rewritten, for their types, as are computed besides."""
_FLOOR = 0.1
"""Differences are relative to the largest output, or to this where that is smaller: what cancels is not magnified."""
_SIZES = (3, 2)
"""What symbols stand for, from graph to graph."""
_TOGETHER = 6
"""So many instances of each rule are rewritten with all rules at once."""


def check_rule_set(rules: Sequence[Rule], *, instances: int = 24, seed: int = 0) -> None:
    """Refuse rules that are wrong. The same rules and seed give the same verdict.

    Each rule is applied to `instances` different generated graphs, and more where they are found quickly: the result
    must have the same types, be well formed, and keep the contract. Then rules are applied until none applies, each
    alone and all together, which must end.

    Raises:
        NetcError: with a diagnostic for each rule that is refused, which shows the smallest counter-example found.
    """
    problems: list[Diagnostic] = []
    material: list[Instance] = []
    for rule in rules:
        try:
            material += _checked(rule, instances, seed)[:_TOGETHER]
        except NetcError as error:
            problems.extend(error.diagnostics)
    if problems:
        raise NetcError(problems)
    if len(rules) > 1:
        for instance in material:
            _ends(rules, instance)


def _checked(rule: Rule, count: int, seed: int) -> list[Instance]:
    found = generate(rule, count * _MORE, seed, enough=count)
    if found.error is not None:
        graph, error = found.error
        raise NetcError([replace(d, notes=(*d.notes, _shown(graph))) for d in error.diagnostics])
    if len(found.instances) < min(count, _ENOUGH):
        raise NetcError([_unmatched(rule, found)])
    for instance in found.instances[count:]:
        _replaced(instance)
    ordered = sorted(found.instances[:count], key=lambda i: (len(i.graph.nodes), _volume(i.graph)))
    pairs = [(instance, _replaced(instance)) for instance in ordered]
    if rule.contract.tolerance is not None:
        _compare(rule, pairs, seed)
    for instance in ordered:
        _ends([rule], instance)
    return ordered


def _unmatched(rule: Rule, found: Found) -> Diagnostic:
    many = len(found.instances)
    what = "no instance of this rule" if not many else f"only {many} instances of this rule"
    message = f"{what} could be generated, so that {rule.name} cannot be checked"
    notes = tuple(f"{times} times: {reason}" for reason, times in found.obstacles.most_common(3))
    return Diagnostic("unchecked-rule", message, (Label(rule.span),), notes)


# ------------------------------------------------------------------------------------------------- structure


def _replaced(instance: Instance) -> Graph:
    """The graph after the rule was applied once."""
    graph, rule = instance.graph, instance.match.rule
    edit = graph.edit()
    try:
        replace_match(edit, instance.match, instance.matcher)
        after = edit.done()
        verify(after)
    except NetcError as error:
        raise NetcError([_with_example(d, instance) for d in error.diagnostics]) from None
    except (GraphError, ShapeError) as error:
        raise NetcError([_wrong(rule, f"what it makes is no graph: {error}", instance)]) from None
    for name, ref in graph.outputs.items():
        old, new = graph.type(ref), after.type(after.outputs[name])
        if old != new:
            raise NetcError([_wrong(rule, f"{name} is {old}, but afterwards {new}", instance)])
    return after


def _ends(rules: Sequence[Rule], instance: Instance) -> None:
    try:
        Rewriter(rules)(instance.graph)
    except NetcError as error:
        raise NetcError([_with_example(d, instance) for d in error.diagnostics]) from None


# ------------------------------------------------------------------------------------------------- numbers


def _compare(rule: Rule, pairs: Sequence[tuple[Instance, Graph]], seed: int) -> None:
    """Compute both sides of every instance, in the phases in which the rule applies."""
    executor = backend("pytorch")
    compared = 0
    failure = "the original gives no finite number"
    for number, (instance, after) in enumerate(pairs):
        size = _SIZES[number % len(_SIZES)]
        probes = [_probe(instance, size, seed, awkward=awkward) for awkward in (False, True)]
        for training in _modes(rule, instance.graph, after):
            try:
                expected = _computed(executor, instance.graph, probes, size, training)
            except _REFUSED as error:
                failure = str(error).splitlines()[0]
                continue
            try:
                got = _computed(executor, after, probes, size, training)
            except _REFUSED as error:
                what = f"what it makes cannot be computed: {str(error).splitlines()[0]}"
                raise NetcError([_wrong(rule, what, instance)]) from None
            for before, now in zip(expected, got, strict=True):
                for name, a in before.items():
                    contract = rule.contract if name != INSIDE else Contract()
                    difference = _difference(contract, name, a, now[name])
                    if difference is not None:
                        raise NetcError([_broken(rule, difference, instance, training)])
                    compared += _finite(a)
    if not compared:
        message = f"no instance of {rule.name} could be computed, so that it cannot be checked: {failure}"
        raise NetcError([Diagnostic("unchecked-rule", message, (Label(rule.span),))])


_REFUSED = (NetcError, RuntimeError, ValueError, IndexError, NotImplementedError)
"""What PyTorch and its backend raise for operators, dtypes and sizes that they do not compute."""


def _modes(rule: Rule, *graphs: Graph) -> tuple[bool, ...]:
    """Whether to compute in training, or in inference, or in both because they differ."""
    if rule.phase != "both":
        return (rule.phase == "train",)
    differ = any(
        n.op.effect != "none" or n.op.name in ("batch_norm", "instance_norm") for g in graphs for n in g.nodes.values()
    )
    return (False, True) if differ else (False,)


def _computed(
    executor: Any, graph: Graph, probes: Sequence[Mapping[str, Array]], size: int, training: bool
) -> list[Mapping[str, Array]]:
    """What a graph gives in float64, by output, for each probe; random operators draw the same numbers every time."""
    free = {s for node in graph.inputs.values() for d in node.types[0].shape for s in symbols(d)}
    wide = widen(bind(graph, dict.fromkeys(free, size)) if free else graph, narrow=True)
    if training and any(n.op.effect != "none" for n in graph.nodes.values()):
        reference = executor.Reference(wide, training=True)
        return [dict(zip(graph.outputs, reference(list(p.values())), strict=True)) for p in probes]
    interpreter = executor.Interpreter(wide, "train" if training else "infer")
    return [interpreter(p) for p in probes]


def _probe(instance: Instance, size: int, seed: int, *, awkward: bool) -> dict[str, Array]:
    """Arrays for the inputs of a graph. Awkward ones hold zeros, ties and large numbers."""
    import numpy

    graph = instance.graph
    bounds = _bounds(graph, size)
    found: dict[str, Array] = {}
    for number, (path, node) in enumerate(graph.inputs.items()):
        generator = numpy.random.default_rng((seed, number, int(awkward)))
        kind = node.types[0]
        shape = tuple(_number(d, size) for d in kind.shape)
        if kind.dtype is DType.BOOL:
            array = generator.integers(0, 2, shape).astype(bool)
        elif not kind.dtype.is_float:
            low, high = (0, bounds[path]) if path in bounds else (1, 5) if path in instance.positive else (-4, 5)
            array = generator.integers(low, max(low + 1, high), shape).astype(kind.dtype.as_numpy)
        elif path in instance.positive:
            array = generator.uniform(0.25, 2, shape) * (generator.choice([1e-2, 1, 50], shape) if awkward else 1)
        else:
            array = generator.standard_normal(shape)
            if awkward:
                array = numpy.where(
                    generator.random(shape) < 0.5, generator.choice([0, 1, -1, 100, -100], shape), array
                )
        found[path] = numpy.asarray(array)
    return found


_INDICES = {"embedding": (0, 1), "gather": (1, 0), "index_select": (1, 0), "scatter": (1, 0), "scatter_add": (1, 0)}
"""Operators with an operand of indices, and the operand that they point into."""


def _bounds(graph: Graph, size: int) -> dict[str, int]:
    """How large the integers of an input may be, where an operator takes them for indices."""
    import networkx

    found: dict[str, int] = {}
    for node in graph.nodes.values():
        name = node.op.name
        if name not in _INDICES and name != "one_hot":
            continue
        index, into = _INDICES.get(name, (0, 0))
        types = graph.input_types(node)
        target = cast(TensorType, types[into])
        axis = 0 if name == "embedding" else getattr(node.op, "dim", 0)
        bound = cast(Any, node.op).num_classes if name == "one_hot" else _number(target.shape[axis], size)
        ref = node.inputs[index]
        if isinstance(ref, Value):
            for path in {ref.node, *networkx.ancestors(graph.nx, ref.node)} & graph.inputs.keys():
                found[path] = min(bound, found.get(path, bound))
    return found


def _number(d: Any, size: int) -> int:
    found = substitute(d, dict.fromkeys(symbols(d), size))
    assert isinstance(found, int)
    return found


def _volume(graph: Graph) -> int:
    return sum(_number(t.elements, _SIZES[0]) for n in graph.nodes.values() for t in n.types)


def _finite(array: Array) -> int:
    import numpy

    return int(numpy.isfinite(numpy.asarray(array, "float64")).sum())


# ------------------------------------------------------------------------------------------------- differences


@dataclass(frozen=True, slots=True)
class _Difference:
    """The largest difference: absolute, relative to the largest output, where, and both numbers there."""

    absolute: float
    relative: float
    place: str
    expected: float
    got: float


def _difference(contract: Contract, name: str, expected: Array, got: Array) -> _Difference | None:
    """By how much an output differs, if by more than the contract allows."""
    import numpy

    a, b = numpy.asarray(expected, "float64"), numpy.asarray(got, "float64")
    if contract.kind == "delayed":
        steps = int(contract.bound)
        if a.ndim < 2 or a.shape[1] <= steps:
            return None
        a, b = a[:, : a.shape[1] - steps], b[:, steps:]
    finite = numpy.isfinite(a)
    if a.shape == b.shape and not finite.any():
        return None
    if a.shape != b.shape:
        shapes = f"{name} has the shape {list(b.shape)} instead of {list(a.shape)}:"
        return _Difference(numpy.inf, numpy.inf, shapes, numpy.nan, numpy.nan)
    scale = max(_FLOOR, float(numpy.abs(a[finite]).max()))
    with numpy.errstate(invalid="ignore", over="ignore"):
        distance = numpy.where(finite, numpy.abs(a - b), 0.0)
    distance = numpy.where(numpy.isnan(distance), numpy.inf, distance)
    worst = float(distance.max())
    tolerance = contract.tolerance
    assert tolerance is not None
    if worst <= tolerance * scale:
        return None
    at = cast("tuple[int, ...]", numpy.unravel_index(int(distance.argmax()), distance.shape))
    place = _place(name, distance > tolerance * scale, at)
    return _Difference(worst, worst / scale, place, float(a[at]), float(b[at]))


def _place(name: str, wrong: Array, at: tuple[int, ...]) -> str:
    """Where it is wrong: `at the border: y[0, 0, 0, :]` if only there."""
    index = [str(int(i)) for i in at]
    for axis in range(wrong.ndim - 1, 0, -1):
        line = (*at[:axis], slice(None), *at[axis + 1 :])
        if wrong.ndim > 2 and wrong.shape[axis] > 1 and wrong[line].all():
            index[axis] = ":"
            break
    where = f"{name}[{', '.join(index)}]" if index else name
    for axes in (range(2, wrong.ndim), range(1, wrong.ndim - 1)):  # channels first, channels last
        for width in (1, 2) if axes else ():
            inner = tuple(slice(width, -width) if axis in axes else slice(None) for axis in range(wrong.ndim))
            if wrong[inner].size and not wrong[inner].any():
                return f"at the border: {where}"
    return f"at {where}"


# ------------------------------------------------------------------------------------------------- messages


def _broken(rule: Rule, difference: _Difference, instance: Instance, training: bool) -> Diagnostic:
    phase = " in training" if training else ""
    size = f"off by {difference.absolute:.3g}, {difference.relative:.3g} of the largest output"
    if not isfinite(difference.absolute):
        size = "a number becomes none"
    message = f"it is not {rule.contract}{phase}: {size}, {difference.place}"
    note = f"expected {difference.expected:.9g}, got {difference.got:.9g}"
    found = _wrong(rule, message, instance)
    return replace(found, notes=(note, *found.notes))


def _wrong(rule: Rule, message: str, instance: Instance) -> Diagnostic:
    found = Diagnostic("wrong-rule", f"the rule {rule.name} is wrong: {message}", (Label(rule.span),))
    return _with_example(found, instance)


def _with_example(diagnostic: Diagnostic, instance: Instance) -> Diagnostic:
    captured = _captured(instance)
    more = (f"where {captured}",) if captured else ()
    return replace(diagnostic, notes=(*diagnostic.notes, *more, _shown(instance.graph)))


def _shown(graph: Graph) -> str:
    """The counter-example, in normal form."""
    lines = [line for line in print_graph(graph).splitlines()[1:-1] if line]
    return "\n".join(["counter-example:", *lines])


def _captured(instance: Instance) -> str:
    """The attributes that the rule has captured."""
    found: list[str] = []
    for name, value in instance.match.values.items():
        if isinstance(value, Rest):
            found.append(f"{name} = {{{', '.join(f'{k} = {_text(v)}' for k, v in value.attributes.items())}}}")
        elif isinstance(value, Absent):
            found.append(f"{name} is absent")
        elif not _is_reference(value):
            found.append(f"{name} = {_text(value)}")
    return ", ".join(found)


def _is_reference(value: Any) -> bool:
    if isinstance(value, Value | ParameterRef):
        return True
    return isinstance(value, tuple) and any(map(_is_reference, cast("tuple[Any, ...]", value)))


def _text(value: Any) -> str:
    try:
        return literal(value)
    except TypeError:
        return str(value)
