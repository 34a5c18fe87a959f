"""The receipt of a transform: what was promised and measured, where parameters come from, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from .contract import Contract
from .cost import REFERENCE, assumed, cost
from .diagnostic import Diagnostic, Label
from .graph import Graph, Parameter, ParameterRef
from .invoke import Applied
from .measure import measure
from .pipeline import Measurement
from .probe import probed


@dataclass(frozen=True)
class Totals:
    """What a model costs, for one example: unique parameters, multiply-accumulates, bytes of all activations."""

    parameters: int
    macs: int
    activations: int


@dataclass(frozen=True)
class Receipt:
    """What became of models in a transform. Parameters are those of the result by path, but for `dropped`."""

    text: str
    contract: Contract
    notes: tuple[str, ...]
    measured: Measurement | None
    before: Mapping[str, Totals]
    """By the name of each model."""
    after: Totals
    inherited: tuple[str, ...]
    """As they were: the same numbers, if under another path."""
    changed: tuple[str, ...]
    """Computed from others: cut, repeated, merged, masked."""
    new: tuple[str, ...]
    tied: tuple[str, ...]
    """Read in more places than before; they are among the others too."""
    dropped: tuple[str, ...]
    """Those of the models before that nothing comes from, under `model.path` where there are several models."""
    symbols: tuple[str, ...] = ()
    """Those of the result, but for the batch's: costs are counted with `REFERENCE` for each."""

    def data(self) -> dict[str, Any]:
        """The receipt as JSON-ready values."""
        found = self.measured
        return {
            "transform": self.text,
            "contract": str(self.contract),
            "notes": list(self.notes),
            "measured": found
            and {"probes": found.probes, "absolute": found.absolute, "relative": found.relative, "kept": found.kept},
            "before": {name: _numbers(own) for name, own in self.before.items()},
            "after": _numbers(self.after),
            **{k: list(getattr(self, k)) for k in ("inherited", "changed", "new", "tied", "dropped")},
        }

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def _numbers(own: Totals) -> dict[str, int]:
    return {"parameters": own.parameters, "macs": own.macs, "activations": own.activations}


def receipt(applied: Applied, *, measured: bool = True, seed: int = 0) -> Receipt:
    """The receipt of one transform.

    What it promises is measured in float64, on seeded inputs, against the first model. Where that has parameters
    without loaded weights, the transform is applied again with random numbers for them, since those of initialisers
    (scales of 1, biases of 0) hide mistakes.
    """
    after = applied.outcome.graph
    found = _measured(applied, seed) if measured else None
    sources = _sources(applied)
    sources = {p: {} if _fresh(after.parameters[p], own) else own for p, own in sources.items()}
    inherited = [
        p for p, own in sources.items() if len(own) == 1 and _same(after.parameters[p], next(iter(own.values())))
    ]
    used = {name for own in sources.values() for name in own}
    known = _named(applied.models)
    several = len(applied.models) > 1
    return Receipt(
        str(applied),
        applied.outcome.contract,
        applied.outcome.notes,
        found,
        {m.name: totals(m) for m in applied.models},
        totals(after),
        tuple(inherited),
        tuple(p for p, own in sources.items() if own and p not in inherited),
        tuple(p for p, own in sources.items() if not own),
        tuple(_tied(applied.models, after)),
        tuple(name if several else name.partition(":")[2] for name in known if name not in used),
        tuple(name for name, size in assumed(after).items() if size == REFERENCE),
    )


def broken(applied: Iterable[Applied], seed: int = 0) -> list[Diagnostic]:
    """A message for each transform that does not keep what it promises; see `receipt`."""
    found: list[Diagnostic] = []
    for one in applied:
        if one.outcome.contract.tolerance is not None:
            measured = _measured(one, seed)
            if measured is None or not measured.kept:
                far = f"{measured.worst} differs by {measured.relative:.3g}" if measured else "its inputs differ"
                message = f"{one} broke its contract {one.outcome.contract}: {far}"
                found.append(Diagnostic("contract-broken", message, (Label(one.span),)))
    return found


def _measured(applied: Applied, seed: int) -> Measurement | None:
    first = applied.models[0]
    after = applied.outcome
    models = list(applied.models)
    if any(p.data is None for m in models for p in m.parameters.values()):
        models = [probed(m, seed) for m in models]
        after = applied.again(models)
    same = set(first.inputs) == set(after.graph.inputs) and set(first.outputs) <= set(after.graph.outputs)
    if after.contract.tolerance is None and not same:
        return None
    found = measure(models[0], after.graph, after.contract, probes=2, seed=seed)
    return None if after.contract.tolerance is None and found.probes == 0 else found


def _named(models: Sequence[Graph]) -> dict[str, Parameter]:
    """Every parameter of the models, as `model:path`."""
    return {f"{m.name}:{path}": p for m in models for path, p in m.parameters.items()}


def _sources(applied: Applied) -> dict[str, dict[str, Parameter]]:
    """For each parameter of the result, those that it comes from, as `model:path`."""
    known = _named(applied.models)
    names = [m.name for m in applied.models]
    found: dict[str, dict[str, Parameter]] = {}
    for path in applied.outcome.graph.parameters:
        own: dict[str, Parameter] = {}
        for source in applied.outcome.sources.get(path, (path,)):
            ways = [f"{name}:{source[len(name) + 1 :]}" for name in names if source.startswith(f"{name}.")]
            ways += [f"{name}:{source}" for name in names]
            own |= {way: known[way] for way in [w for w in ways if w in known][:1]}
        found[path] = own
    return found


def _fresh(now: Parameter, own: Mapping[str, Parameter]) -> bool:
    """Whether a parameter is drawn anew: it has no numbers, and is none that had none before."""
    return now.data is None and not any(old.data is None and old.type == now.type for old in own.values())


def _same(now: Parameter, before: Parameter) -> bool:
    return now.type == before.type and (now.data is before.data or _drawn_of(now, before))


def _drawn_of(now: Parameter, before: Parameter) -> bool:
    """Whether a parameter's numbers are those that an earlier one without data has by its initialiser."""
    origin = getattr(now.data, "parameter", None)
    return before.data is None and origin is not None and origin.path == before.path and origin.type == before.type


def _tied(models: Sequence[Graph], after: Graph) -> Iterator[str]:
    """Parameters that more nodes read than did in any of the models, and more than one."""
    for path in after.parameters:
        readers = len(after.users.get(ParameterRef(path), ()))
        before = max((len(m.users.get(ParameterRef(path), ())) for m in models), default=0)
        if readers > max(before, 1):
            yield path


def totals(graph: Graph) -> Totals:
    """What a model costs, of inputs with one example, and as limits count it: with `REFERENCE` for other symbols."""
    found = cost(graph, assumed(graph)).rows[0]
    return Totals(cast(int, found.parameters), cast(int, found.macs), cast(int, found.activations))


_NOTES = 8
"""So many notes are printed."""


def _lines(found: Receipt) -> Iterator[str]:
    yield found.text
    yield f"  promised   {_promise(found.contract)}"
    if found.measured is not None:
        m = found.measured
        verdict = "" if found.contract.tolerance is None else ": kept" if m.kept else ": BROKEN"
        size = f"{m.relative:.1e} relative, {m.absolute:.1e} absolute"
        yield f"  measured   {size}, {m.probes} probes in float64{verdict}"
    for name, own in found.before.items():
        yield f"  before     {_cost(own)}  {name}"
    counted = f"  with {', '.join(f'{name} = {REFERENCE}' for name in found.symbols)}" if found.symbols else ""
    yield f"  after      {_cost(found.after)}{counted}"
    for what in ("inherited", "changed", "new", "tied", "dropped"):
        names: tuple[str, ...] = getattr(found, what)
        if names:
            shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            yield f"  {what:<10} {len(names)} parameter{'s' * (len(names) > 1)}: {shown}"
    shown = found.notes if len(found.notes) <= _NOTES + 1 else found.notes[:_NOTES]
    for note in shown:
        yield f"  {note}"
    if len(shown) < len(found.notes):
        yield f"  … and {len(found.notes) - len(shown)} lines more, which --format json has"


def _promise(contract: Contract) -> str:
    meaning = {
        "exact": "the same function",
        "approx": f"outputs within {contract.bound:g} of the largest",
        "delayed": f"the same outputs {contract.bound:g} steps later",
        "alters": "another function",
    }
    return f"{contract}: {meaning[contract.kind]}"


def _cost(own: Totals) -> str:
    return f"{own.parameters:>13,} parameters  {own.macs:>15,} MACs  {own.activations / 2**20:>9.2f} MiB activations"
