"""Why two axes are one dimension, and why one is fixed: the shortest path of nodes that says so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..diagnostic import Diagnostic, NetcError, nearest
from ..graph import Graph, Node, ParameterRef, Ref, Value
from .analysis import Analysis, AxisClass, Place, Reason, Use
from .pattern import build, read
from .structure import Dimension, Structure

if TYPE_CHECKING:
    import networkx

Axis = tuple[Ref, int]
"""An axis of a value or parameter."""


class Seen(NamedTuple):
    """What a node calls a class: one of its occurrences in one of the node's labels."""

    node: str
    label: str
    number: int


Step = Place | Seen


def why(analysis: Analysis, a: Axis, b: Axis) -> list[Step]:
    """The shortest way from one axis to another: places in turn with what ties each to the next. Empty where the axes
    have nothing in common."""
    none: list[Step] = []
    ways = [_way(analysis, tied, _at(a), _at(b)) for tied in analysis.tied(a, b)]
    return min((w for w in ways if w), key=len, default=none)


def why_fixed(analysis: Analysis, axis: Axis) -> list[tuple[AxisClass, Reason, list[Step]]]:
    """For each class of an axis that is fixed: the nearest reason, and the way from the axis to where it lies."""
    found: list[tuple[AxisClass, Reason, list[Step]]] = []
    for own in dict.fromkeys(c for c, _ in analysis.of(*axis)):
        ways = [(reason, _way(analysis, own, _at(axis), _of(analysis, reason))) for reason in _nearby(own, axis)]
        if ways:
            reason, way = min(ways, key=lambda item: len(item[1]) or 1 << 30)
            found.append((own, reason, way))
    return found


_MOST_REASONS = 32
"""So many reasons are compared for the nearest: spatial axes have one at every convolution."""


def _nearby(own: AxisClass, axis: Axis) -> Sequence[Reason]:
    here = [r for r in own.fixed if isinstance(axis[0], Value) and r.node == axis[0].node]
    return (*here, *own.fixed)[:_MOST_REASONS]


Which = Callable[[Step], bool]
"""Whether a step is one to begin with, or to end with."""


def _at(axis: Axis) -> Which:
    def check(step: Step) -> bool:
        return isinstance(step, Place) and (step.ref, step.axis) == axis

    return check


def _of(analysis: Analysis, reason: Reason) -> Which:
    if reason.end is not None:
        return _at(reason.end)
    own = set(analysis.graph.nodes[reason.node].refs) if reason.node and not reason.label else set[Ref]()

    def check(step: Step) -> bool:
        if isinstance(step, Place):
            return step.ref in own
        return (step.node, step.label) == (reason.node, reason.label)

    return check


def _way(analysis: Analysis, own: AxisClass, begins: Which, ends: Which) -> list[Step]:
    """The shortest way through the places of one class."""
    import networkx

    net = ties(analysis, own)
    start, end = object(), object()
    steps = list(net)
    net.add_edges_from((start, s) for s in steps if begins(s))
    net.add_edges_from((end, s) for s in steps if ends(s))
    if start not in net or end not in net or not networkx.has_path(net, start, end):
        return []
    return networkx.shortest_path(net, start, end)[1:-1]


def ties(analysis: Analysis, own: AxisClass) -> networkx.Graph[Any]:
    """Places of a class and what nodes call it, joined where a node sees it there."""
    import networkx

    net: networkx.Graph[Any] = networkx.Graph()
    for path in dict.fromkeys(use.node for use in analysis.uses(own)):
        net.add_edges_from(seen(analysis, analysis.graph.nodes[path], own))
    return net


def sums(analysis: Analysis, own: AxisClass) -> list[tuple[Use, tuple[Place, ...]]]:
    """The nodes that sum or average over a class, and over which places in their inputs.

    Where units are repeated, numbers at such places in weights are shared out among the copies, and the sum stays. (A
    recurrent operator sums over its hidden units too, but gives them: that it does is not seen here.)
    """
    found: list[tuple[Use, tuple[Place, ...]]] = []
    for use in analysis.uses(own):
        if use.reduced:
            places = seen(analysis, analysis.graph.nodes[use.node], own)
            found.append((use, tuple(dict.fromkeys(place for s, place in places if s.label == use.label))))
    return found


def seen(analysis: Analysis, node: Node, own: AxisClass) -> Iterator[tuple[Seen, Place]]:
    """Every occurrence of a class in the labels of a node, with the places where the node has it.

    The node's pattern is made again, with an atom of its own for each occurrence: where those are is where it sees it.
    """
    labels = analysis.labels[node.path]
    atom = analysis.atom(own)
    scratch = Structure()
    occurrences: dict[Dimension, Seen] = {}

    def copy(dimension: Dimension, label: str) -> Dimension:
        parts = [copied(p, label) for p in analysis.structure.segments(dimension)]
        return scratch.sum(parts)

    def copied(part: Dimension, label: str) -> Dimension:
        factors = analysis.structure.factors(part)
        if len(factors) > 1:
            return scratch.product([copy(f, label) for f in factors])
        made = scratch.atom(analysis.structure.size(part))
        if part == atom:
            occurrences[made] = Seen(node.path, label, len(occurrences))
        return made

    one = scratch.atom(1)
    copies = {label: copy(d, label) for label, d in labels.dimensions.items()}
    inputs = list(node.refs)
    pattern = read(labels.axes.pattern, len(inputs))
    refs: list[Ref] = [*inputs, *node.values]
    for ref, group in zip(refs, (*pattern.inputs, *pattern.outputs), strict=True):
        for number, axis in enumerate(group):
            made = build(axis, lambda name: copies.get(name, one), scratch.product, scratch.sum)
            whole = scratch.form(made) is None
            for part, offset, step, loops in scratch.occurrences(made):
                if part in occurrences:
                    size = scratch.size(part)
                    yield occurrences[part], Place(ref, number, offset, step, loops, size, whole)


# ------------------------------------------------------------------------------------------------------- in words


def axis(graph: Graph, text: str) -> Axis | Ref:
    """`conv1.weight[0]`, `@conv1.weight[0]` or `%conv1[1]` as an axis; without `[…]`, the parameter or value.

    Raises:
        NetcError: where there is none such (`unknown-axis`).
    """
    match = re.fullmatch(r"([@%]?)([^\[\]:]+)(?::(\d+))?(?:\[(-?\d+)\])?", text.strip())
    if match is None:
        raise _refused(f"{text} is no axis", "an axis is written conv1.weight[0], or %conv1[1] for a value", None)
    sigil, path, index, number = match.groups()
    ref: Ref
    if sigil != "%" and path in graph.parameters:
        ref = ParameterRef(path)
    elif sigil != "@" and path in graph.nodes and int(index or 0) < len(graph.nodes[path].types):
        ref = Value(path, int(index or 0))
    else:
        known = [*(graph.parameters if sigil != "%" else ()), *(graph.nodes if sigil != "@" else ())]
        near = nearest(path, known) if len(known) <= 20_000 else None
        raise _refused(f"the model has no parameter or value {sigil}{path}", "", near)
    if number is None:
        return ref
    rank = graph.type(ref).rank
    if not -rank <= int(number) < rank:
        raise _refused(f"{ref} is {graph.type(ref)} and has no axis {number}", "", None)
    return ref, int(number) % rank


def _refused(message: str, note: str, fix: str | None) -> NetcError:
    return NetcError([Diagnostic("unknown-axis", message, notes=(note,) if note else (), fix=fix)])


def explain_axis(analysis: Analysis, at: str, other: str | None = None) -> str:
    """Of what an axis consists, where else that is, and why it is fixed; or why two axes are tied.

    Raises:
        NetcError: where `at` or `other` is no axis of the graph.
    """
    found = axis(analysis.graph, at)
    if other is not None:
        return _explain_tie(analysis, _one(analysis, found, at), _one(analysis, axis(analysis.graph, other), other))
    axes = (
        [found]
        if not isinstance(found, (Value, ParameterRef))
        else [(found, i) for i in range(analysis.graph.type(found).rank)]
    )
    return "\n\n".join(_explain(analysis, a) for a in axes) or f"{at} is a number and has no axes"


def _one(analysis: Analysis, found: Axis | Ref, text: str) -> Axis:
    if isinstance(found, (Value, ParameterRef)):
        rank = analysis.graph.type(found).rank
        raise _refused(f"{text} has {rank} axes; one is meant", f"{text}[0] is the first", None)
    return found


def _explain_tie(analysis: Analysis, a: Axis, b: Axis) -> str:
    first, second = f"{a[0]}[{a[1]}]", f"{b[0]}[{b[1]}]"
    if not analysis.tied(a, b):
        return f"{first} and {second} have nothing in common"
    numbers = ", ".join(f"#{c.number} ({c.size}, {c.unit})" for c in analysis.tied(a, b))
    way = why(analysis, a, b)
    steps = [f"  {line}" for line in _told(analysis, way)]
    return "\n".join([f"{first} and {second} are tied: both have {numbers}", *steps])


def _explain(analysis: Analysis, axis: Axis) -> str:
    graph, parts = analysis.graph, analysis.of(*axis)
    size = graph.type(axis[0]).shape[axis[1]]
    lines = [f"{axis[0]}[{axis[1]}], {size} = {spelt(analysis, axis)}"]
    reasons = {own: (reason, way) for own, reason, way in why_fixed(analysis, axis)}
    for own in dict.fromkeys(c for c, _ in parts if c.size != 1):
        lines.append(f"  #{own.number}, {own.size}, {own.unit}: {may(own)}")
        if own in reasons:
            reason, way = reasons[own]
            lines.append(f"    fixed: {reason.text}")
            lines += [f"      {line}" for line in _told(analysis, way)]
        lines += [f"    {text}" for text in (_by_nodes(own.ordered), _by_nodes(own.mixed)) if text]
        if own.mixed_with:
            lines.append(f"    statistics are taken together with {', '.join(f'#{n}' for n in own.mixed_with)}")
        lines.append(f"    {where(own, _SHOWN)}")
    return "\n".join(lines)


def _by_nodes(reasons: Sequence[Reason]) -> str:
    """Reasons of one kind, each with the nodes that give it."""
    nodes: dict[str, list[str]] = {}
    for reason in reasons:
        nodes.setdefault(reason.text, []).append(f"%{reason.node}")
    return "; ".join(f"{text}: {_listed(list(dict.fromkeys(at)), 3)}" for text, at in nodes.items())


def _listed(items: Sequence[object], most: int) -> str:
    return ", ".join(map(str, items[:most])) + (f", … ({len(items)} in all)" if len(items) > most else "")


_SHOWN = 8
"""So many places are shown where there are many."""


def may(own: AxisClass) -> str:
    """What may be done to a class, in words."""
    if not own.cuttable:
        return "fixed"
    what = "may be cut, permuted or repeated" if own.permutable else "may be cut or repeated, not permuted"
    return f"{what}; statistics are taken over it" if own.mixed else what


def where(own: AxisClass, most: int) -> str:
    """The places of a class in parameters."""
    return _listed(own.places, most) if own.places else "in no parameter"


def spelt(analysis: Analysis, axis: Axis) -> str:
    """The make-up of an axis in numbers of classes: `(#3 #4)` for a product, `(#3 + #4)` for parts in turn."""
    return _spelt(analysis, analysis.dimension(*axis))


def _spelt(analysis: Analysis, dimension: Dimension) -> str:
    structure = analysis.structure
    parts = structure.segments(dimension)
    if len(parts) > 1:
        return f"({' + '.join(_spelt(analysis, p) for p in parts)})"
    factors = structure.factors(parts[0])
    if len(factors) > 1:
        return f"({' '.join(_spelt(analysis, f) for f in factors)})"
    size = structure.size(factors[0])
    return "1" if size == 1 else f"#{analysis.class_of(factors[0]).number}"


def _told(analysis: Analysis, way: Sequence[Step]) -> Iterator[str]:
    """Places, and under each the node that ties it to the next."""
    for step in way:
        if isinstance(step, Place):
            yield f"{step}"
        else:
            node = analysis.graph.nodes[step.node]
            yield f"  %{node.path}, {node.op.name}: {step.label} of {analysis.labels[node.path].axes.pattern}"
