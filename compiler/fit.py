"""Which tensors of a checkpoint fill which parameters: decided from names, dtypes and shapes before any is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import prod
from typing import Any

from .checkpoint import Checkpoint, Header
from .diagnostic import Diagnostic, Diagnostics, Label, NetcError
from .graph import Graph, Parameter
from .rename import Drop, Move, Part, RenameMap, Rule
from .source import Span


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor of a checkpoint, or a part of it, on its way to a parameter."""

    source: str
    header: Header
    move: Move

    @property
    def size(self) -> tuple[int, ...]:
        return self.move.size(self.header.shape)


@dataclass(slots=True)
class Plan:
    """Which tensor goes where. `pieces` are in the order of the parameter's parts."""

    pieces: dict[str, list[Piece]] = field(default_factory=dict[str, list[Piece]])
    missing: list[Parameter] = field(default_factory=list[Parameter])
    homeless: list[Piece] = field(default_factory=list[Piece])
    dropped: list[str] = field(default_factory=list[str])
    bookkeeping: list[str] = field(default_factory=list[str])
    used: set[Rule | Drop] = field(default_factory=set["Rule | Drop"])


def assign(
    graph: Graph, checkpoint: Checkpoint, rename: RenameMap, span: Span | None = None, strict: bool = True
) -> Plan:
    """Fill every parameter once and use or drop every tensor, or say all that does not fit.

    Raises:
        NetcError: as `weights.load`.
    """
    report = Diagnostics()
    plan = _match(graph, checkpoint, rename, report)
    labels = (Label(span),) if span else ()
    if strict and plan.missing:
        report.add(_missing(graph, checkpoint, plan, labels))
    if strict and plan.homeless:
        report.add(_superfluous(graph, checkpoint, plan, labels))
    problems: dict[str, list[_Problem]] = {}
    for path, pieces in plan.pieces.items():
        for code, problem in _problems(graph.parameters[path], pieces):
            problems.setdefault(code, []).append(problem)
    for code, found in problems.items():
        report.add(_listing(code, checkpoint, found, labels))
    report.stop_on_errors()
    return plan


@dataclass(frozen=True, slots=True)
class _Problem:
    """One line of a diagnostic, the rules that take part, and what to write instead."""

    text: str
    spans: tuple[Span, ...] = ()
    fix: str | None = None


def _match(graph: Graph, checkpoint: Checkpoint, rename: RenameMap, report: Diagnostics) -> Plan:
    plan = Plan()
    faulty: set[tuple[str, tuple[Label, ...]]] = set()
    for name, header in checkpoint.headers.items():
        try:
            moves = rename.moves(name)
        except NetcError as error:
            # A faulty rule is reported for the first tensor it meets, not for every layer's.
            report.extend(d for d in error.diagnostics if (d.code, d.labels) not in faulty)
            faulty.update((d.code, d.labels) for d in error.diagnostics)
            continue
        if isinstance(moves, Drop):
            plan.dropped.append(name)
            plan.used.add(moves)
            continue
        for move in moves:
            if move.rule:
                plan.used.add(move.rule)
            _place(graph, checkpoint, Piece(name, header, move), plan)
    for pieces in plan.pieces.values():
        pieces.sort(key=_index)
    plan.missing = [p for path, p in graph.parameters.items() if path not in plan.pieces]
    return plan


def _place(graph: Graph, checkpoint: Checkpoint, piece: Piece, plan: Plan) -> None:
    if piece.move.target in graph.parameters:
        plan.pieces.setdefault(piece.move.target, []).append(piece)
    elif _is_counter(piece.source, checkpoint):
        plan.bookkeeping.append(piece.source)
    else:
        plan.homeless.append(piece)


def _is_counter(name: str, checkpoint: Checkpoint) -> bool:
    scope, _, last = name.rpartition(".")
    beside = f"{scope}.running_mean" if scope else "running_mean"
    return last == "num_batches_tracked" and checkpoint.headers[name].shape == () and beside in checkpoint.headers


def _index(piece: Piece) -> int:
    part = piece.move.target_part
    return part.index if part and isinstance(part.index, int) else 0


def _problems(parameter: Parameter, pieces: Sequence[Piece]) -> Iterator[tuple[str, _Problem]]:
    """What keeps these pieces from filling the parameter, with the code of its diagnostic."""
    conflict = _conflict(parameter, pieces)
    if conflict:
        yield "rename-conflict", conflict
        return
    left = _left(pieces)
    if left:
        names = _some(p.source for p in pieces)
        fix = f'write a rule: "…" -> "{parameter.path}"{left[0]}'
        text = f"{parameter.path}: nothing fills {_some(map(str, left))}; {names} fill the rest"
        yield "missing-parts", _Problem(text, _spans(*pieces[:1]), fix)
        return
    for found in _misfit(parameter, pieces):
        yield "misshapen-tensors", found
    for piece in pieces:
        stored, wanted = piece.header.dtype, parameter.type.dtype
        if stored != wanted and not (stored and stored.is_float and wanted.is_float):
            text = f"{piece.source} is {piece.header}; the parameter {parameter.path} is {parameter.type}"
            yield "mistyped-tensors", _Problem(text, _spans(piece))


def _spans(*pieces: Piece) -> tuple[Span, ...]:
    return tuple(p.move.rule.span for p in pieces if p.move.rule and p.move.rule.span)


def _conflict(parameter: Parameter, pieces: Sequence[Piece]) -> _Problem | None:
    """Two pieces that cannot both fill the parameter, if there are any."""
    first: dict[int, Piece] = {}
    for piece in pieces:
        one, other = piece.move.target_part, pieces[0].move.target_part
        same = (one and (one.count, one.axis)) == (other and (other.count, other.axis))
        rival = first.setdefault(_index(piece), piece) if same else pieces[0]
        if rival is not piece:
            place = f"part {one} of {parameter.path}" if one and same else parameter.path
            text = f"{place} is filled by {rival.source} {rival.move}, and by {piece.source} {piece.move}"
            fix = f'drop "{piece.source}"' if piece.move.rule is None else None
            return _Problem(text, _spans(rival, piece), fix)
    return None


def _left(pieces: Sequence[Piece]) -> list[Part]:
    """The parts of the parameter that nothing fills."""
    part = pieces[0].move.target_part
    if part is None:
        return []
    taken = {_index(p) for p in pieces}
    return [Part(i, part.count, part.axis) for i in range(part.count) if i not in taken]


def _arrived(parameter: Parameter, pieces: Sequence[Piece]) -> tuple[int, ...]:
    """The shape that the pieces make together; ValueError where they do not fit one another."""
    sizes = [p.size for p in pieces]
    part = pieces[0].move.target_part
    if part is None:
        return sizes[0]
    if len(sizes[0]) < parameter.type.rank and all(s == sizes[0] for s in sizes):
        return (*sizes[0][: part.axis], len(sizes), *sizes[0][part.axis :])
    around = {(*s[: part.axis], *s[part.axis + 1 :]) for s in sizes}
    if len(around) > 1 or any(part.axis >= len(s) for s in sizes):
        raise ValueError(f"the parts are {_some(str(list(s)) for s in sizes)}")
    return (*sizes[0][: part.axis], sum(s[part.axis] for s in sizes), *sizes[0][part.axis + 1 :])


def _misfit(parameter: Parameter, pieces: Sequence[Piece]) -> Iterator[_Problem]:
    names = _some(dict.fromkeys(p.source for p in pieces))
    wanted = parameter.type.shape
    try:
        found = _arrived(parameter, pieces)
    except ValueError as error:
        yield _Problem(f"{names}: {error}; the parameter {parameter.path} is {parameter.type}", _spans(*pieces))
        return
    if found == wanted:
        return
    piece = pieces[0]
    fix = None
    if len(pieces) == 1 and prod(found) == parameter.type.elements:
        turned = len(found) == 2 and found == wanted[::-1]
        step = "permute([1, 0])" if turned else f"reshape([{', '.join(map(str, wanted))}])"
        fix = f'"{piece.source}" -> "{parameter.path}" |> {step}'
    stored = f"{names} is {piece.header}" if len(pieces) == 1 else f"{names} make {list(found)}"
    arrives = f" and arrives as {list(found)}" if len(pieces) == 1 and found != piece.header.shape else ""
    text = f"{stored}{arrives}; the parameter {parameter.path} is {parameter.type}"
    yield _Problem(text, _spans(*pieces), fix)


# ---------------------------------------------------------------------------------------------------- what did not fit

_SHOWN = 10


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _notes(lines: Sequence[str]) -> tuple[str, ...]:
    more = (f"… and {len(lines) - _SHOWN} more",) if len(lines) > _SHOWN else ()
    return (*lines[:_SHOWN], *more)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


_WHAT = {
    "misshapen-tensors": "has another shape than what fills it from",
    "mistyped-tensors": "has another kind of dtype than what fills it from",
    "missing-parts": "is filled only in part by",
    "rename-conflict": "is filled twice by",
}


def _listing(code: str, checkpoint: Checkpoint, found: Sequence[_Problem], labels: tuple[Label, ...]) -> Diagnostic:
    spans = dict.fromkeys(s for problem in found for s in problem.spans)
    what = _WHAT[code]
    if len(found) > 1:
        what = what.replace("has", "have", 1).replace("is ", "are ", 1)
    message = f"{_count(len(found), 'parameter')} {what} {checkpoint.name}"
    fix = next((problem.fix for problem in found if problem.fix), None)
    places = (*labels, *(Label(s) for s in list(spans)[:_SHOWN]))
    return Diagnostic(code, message, places, _notes([problem.text for problem in found]), fix)


def _missing(graph: Graph, checkpoint: Checkpoint, plan: Plan, labels: tuple[Label, ...]) -> Diagnostic:
    lines: list[str] = []
    for parameter in plan.missing[:_SHOWN]:
        close = _closest(parameter, plan.homeless)
        hint = f"; the nearest is {close.source}, {close.header}" if close else ""
        lines.append(f"{parameter.path}, {parameter.type}{hint}")
    lines.extend(p.path for p in plan.missing[_SHOWN:])
    total = len(graph.parameters)
    message = f"{checkpoint.name} lacks {len(plan.missing)} of the {total} tensors that {graph.name} needs"
    fix = _prefix_fix(plan) or _rule_fix(plan)
    if fix is None and not plan.homeless:
        fix = "check that this is a checkpoint of the same architecture and size"
    return Diagnostic("missing-tensors", message, labels, _notes(lines), fix)


_CANDIDATES = 300


def _closest(parameter: Parameter, homeless: Sequence[Piece]) -> Piece | None:
    """The tensor without a place whose name is most like the parameter's, of its shape if there is one."""
    fitting = [p for p in homeless if p.header.shape == parameter.type.shape] or list(homeless)
    names = {p.source: p for p in fitting[:_CANDIDATES]}
    close = get_close_matches(parameter.path, names, n=1, cutoff=0.4)
    return names[close[0]] if close else None


def _superfluous(graph: Graph, checkpoint: Checkpoint, plan: Plan, labels: tuple[Label, ...]) -> Diagnostic:
    lines: list[str] = []
    ties = _ties(checkpoint, plan)
    for piece in plan.homeless:
        went = f" goes to {piece.move.target} {piece.move}" if piece.move.rule else ""
        tie = f": {ties[piece.source]}" if piece.source in ties else ""
        lines.append(f"{piece.source}, {piece.header}{went}{tie}")
    verb = "fits" if len(lines) == 1 else "fit"
    message = f"{_count(len(lines), 'tensor')} of {checkpoint.name} {verb} no parameter of {graph.name}"
    spans = dict.fromkeys(_spans(*plan.homeless))
    places = (*labels, *(Label(s) for s in list(spans)[:_SHOWN]))
    fix = _prefix_fix(plan) or (None if ties else _rule_fix(plan)) or _drop_fix(plan, ties)
    return Diagnostic("superfluous-tensors", message, places, _notes(lines), fix)


def _drop_fix(plan: Plan, ties: Mapping[str, str]) -> str:
    chosen = list(ties) or list(dict.fromkeys(p.source for p in plan.homeless))
    drops = [f'drop "{name}"' for name in chosen[:3]]
    more = ["…"] if len(chosen) > 3 else []
    why = "tied weights are one parameter: leave the second name out with" if ties else "leave them out with"
    return f"{why} rename NAME {{ {' ; '.join([*drops, *more])} }}"


_TIED_NAMES = ("lm_head.weight", "decoder.weight", "decoder.bias", "proj_out.weight", "output_layer.weight")
"""Ends of the names of output layers, which usually share their tensor with an embedding."""


def _ties(checkpoint: Checkpoint, plan: Plan) -> dict[str, str]:
    """Tensors without a place that repeat one which has a place, by storage or by their names: how each is known."""
    placed = {p.source: p.header for pieces in plan.pieces.values() for p in pieces}
    groups: dict[str, list[str]] = {}
    for name in checkpoint.headers:
        groups.setdefault(checkpoint.aliases.get(name, name), []).append(name)
    found: dict[str, str] = {}
    for piece in plan.homeless:
        name = piece.source
        twin = next((n for n in groups[checkpoint.aliases.get(name, name)] if n in placed), None)
        if twin:
            found[name] = f"the same storage as {twin}, which fills a parameter already"
        elif name.endswith(_TIED_NAMES):
            alike = [n for n, header in placed.items() if header == piece.header]
            if len(alike) == 1:
                found[name] = f"of the shape of {alike[0]}, with which it is usually tied"
    return found


def _prefix_fix(plan: Plan) -> str | None:
    """A rule that adds or takes away one prefix, where it explains at least half of what is missing."""
    names = {p.source: p.header.shape for p in plan.homeless if p.move.rule is None}
    wanted = {p.path: p.type.shape for p in plan.missing}
    longer = _prefix(names, wanted)
    shorter = _prefix(wanted, names)
    prefix, explained = max(longer, shorter, key=lambda found: found[1])
    if not prefix or 2 * explained < len(wanted):
        return None
    rule = f'"{prefix}{{rest}}" -> "{{rest}}"' if longer[1] >= shorter[1] else f'"{{rest}}" -> "{prefix}{{rest}}"'
    share = "all" if explained == len(wanted) else f"{explained} of the {len(wanted)}"
    return f"rename NAME {{ {rule} }} explains {share} missing tensors; load(…, rename = NAME)"


def _rule_fix(plan: Plan) -> str | None:
    """A rule for the first missing tensor that another of its shape may be."""
    for parameter in plan.missing[:_SHOWN]:
        close = _closest(parameter, plan.homeless)
        if close and close.header.shape == parameter.type.shape:
            return (
                f'write rules, such as rename NAME {{ "{close.source}" -> "{parameter.path}" }}; load(…, rename = NAME)'
            )
    return None


def _prefix(long: Mapping[str, Any], short: Mapping[str, Any]) -> tuple[str, int]:
    """The prefix that makes most of the short names into long ones of equal shape, and of how many."""
    count: dict[str, int] = {}
    for name, shape in long.items():
        at = name.find(".")
        while at >= 0:
            if short.get(name[at + 1 :]) == shape:
                prefix = name[: at + 1]
                count[prefix] = count.get(prefix, 0) + 1
            at = name.find(".", at + 1)
    return max(count.items(), key=lambda item: item[1], default=("", 0))
