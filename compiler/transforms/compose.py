"""What models differ from a common base by, made sparse and added to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, cast

from ..contract import Contract
from ..graph import Edit, Graph, Parameter, ParameterRef, Ref
from ..operators.indexing import ScatterAdd
from ..operators.layout import Reshape
from ..operators.operator import Initialiser, Operator
from ..types import DType, TensorType
from .choose import Paths, chosen_parameters
from .numbers import arrays, held, made
from .read_instead import read_instead
from .register import Outcome, Refusal, transform
from .same_shape import names, require_same
from .weight import frozen

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@transform
def compose(
    base: Graph,
    *tuned: Graph,
    density: float = 1.0,
    at: Paths = "*",
    overlay: bool = False,
    freeze: bool = True,
    seed: int = 0,
) -> Outcome:
    """Add to a model what others, tuned from it, differ from it by: of each difference those numbers that are largest
    in the whole model, and nothing of the rest. Differences add up, in any order. The notes say what is stored, and how
    many numbers two differences both change.

    Contract: alters, and exact where nothing differs. Shapes and parameters are those of the base.

    - density: the share of each difference that is kept.
    - at: parameters that may differ; all of floats.
    - overlay: each difference stays apart, as the parameter `<path>_<model>` of the kept numbers and the buffer
      `<path>_<model>_at` of where they belong, which a weight is an expression over; `fold_weights` adds them for good.
      Buffers of the base, as statistics, have theirs added at once.
    - freeze: with `overlay`, the base is no longer trained.
    - seed: for parameters without numbers.

    Refuses models that are not one architecture, no tuned model, and a density that is no share.

    Source: Ansell et al., "Composable sparse fine-tuning for cross-lingual transfer" (2022), section 3.
    """
    if not tuned:
        raise Refusal("no model is given that differs from the base", fix="compose(base, tuned)")
    if not 0 < density <= 1:
        raise Refusal(f"density is a share of the numbers, above 0 and at most 1, not {density:g}", option="density")
    require_same([base, *tuned])
    paths = [path for path in chosen_parameters(base, at) if base.parameters[path].type.dtype.is_float]
    deltas = [_largest(name, base, model, paths, density, seed) for name, model in _named(base, tuned)]
    whole = sum(cast(int, base.parameters[path].type.elements) for path in paths)
    edit = base.edit("compose")
    sources: dict[str, tuple[str, ...]] = {}
    new: set[str] = set()
    for path in paths:
        own = [delta for delta in deltas if len(delta.places[path])]
        old = base.parameters[path]
        if overlay and not old.buffer:
            new |= _overlaid(edit, base, old, own, seed, sources)
        elif own:
            edit.parameter(_added(old, own, seed))
            sources[path] = (f"{base.name}.{path}", *(f"{delta.name}.{path}" for delta in own))
    notes = [delta.said(whole) for delta in deltas] + [_overlap(a, b) for a, b in combinations(deltas, 2)]
    if overlay and freeze:
        notes.append(f"{frozen(edit, but=new):,} parameters are frozen")
    same = not any(delta.count for delta in deltas)
    return Outcome(edit.done(), Contract() if same else Contract("alters"), tuple(notes), sources)


@dataclass(frozen=True, eq=False)
class _Delta:
    """The numbers of a model that are taken from it: by parameter, their places in it laid flat."""

    name: str
    model: Graph
    places: dict[str, Array]

    @property
    def count(self) -> int:
        return sum(map(len, self.places.values()))

    def said(self, whole: int) -> str:
        bytes_ = sum(len(p) * (self.model.parameters[path].type.dtype.bytes + 8) for path, p in self.places.items())
        return (
            f"{self.name}: {self.count:,} of {whole:,} numbers ({self.count / whole:.2%}), {bytes_:,} bytes with places"
        )


def _named(base: Graph, tuned: Sequence[Graph]) -> list[tuple[str, Graph]]:
    """The models with names that differ."""
    return list(zip(names([base, *tuned])[1:], tuned, strict=True))


def _largest(name: str, base: Graph, model: Graph, paths: Sequence[str], density: float, seed: int) -> _Delta:
    """The largest differences of a model, over all parameters."""
    import numpy

    sizes: list[Array] = []
    for path in paths:
        old, tuned = arrays([base.parameters[path], model.parameters[path]], seed)
        sizes.append(numpy.abs(tuned - old).reshape(-1))
    flat = numpy.concatenate(sizes)
    count = round(density * len(flat))
    kept = numpy.sort(numpy.argpartition(-flat, count - 1)[:count]) if 0 < count < len(flat) else numpy.arange(count)
    kept = kept[flat[kept] > 0]
    ends = numpy.cumsum([len(s) for s in sizes])
    parts = numpy.split(kept, numpy.searchsorted(kept, ends[:-1]))
    starts = [0, *ends[:-1].tolist()]
    return _Delta(name, model, {path: part - start for path, part, start in zip(paths, parts, starts, strict=True)})


def _overlap(a: _Delta, b: _Delta) -> str:
    import numpy

    both = sum(len(numpy.intersect1d(a.places[path], b.places[path])) for path in a.places)
    least = min(a.count, b.count)
    return f"{a.name} and {b.name} both change {both:,} numbers" + (f" ({both / least:.1%})" if least else "")


def _added(old: Parameter, deltas: Sequence[_Delta], seed: int) -> Parameter:
    """The parameter with differences added."""
    places = [delta.places[old.path] for delta in deltas]

    def numbers(base: Array, *tuned: Array) -> Array:
        flat: Array = base.reshape(-1).copy()
        for place, other in zip(places, tuned, strict=True):
            flat[place] += (other - base).reshape(-1)[place]
        whole: Array = flat.reshape(base.shape)
        return whole

    return made(old, numbers, old, *(delta.model.parameters[old.path] for delta in deltas), seed=seed)


def _overlaid(
    edit: Edit, base: Graph, old: Parameter, deltas: Sequence[_Delta], seed: int, sources: dict[str, tuple[str, ...]]
) -> set[str]:
    """Let the readers of a parameter read it with differences added where they belong; the new parameters."""
    ref: Ref = ParameterRef(old.path)
    users = base.users.get(ref, ())
    if not users or not deltas:
        return set()
    edit.acting("compose", users[0].path)

    def add(name: str, op: Operator, *inputs: Ref) -> Ref:
        path = edit.fresh(f"{users[0].path}.{name}")
        return edit.add(path, op, *inputs, phase=users[0].phase, origin=users[0].origin).value

    total = ref if old.type.rank == 1 else add("flat", Reshape((old.type.elements,)), ref)
    new: set[str] = set()
    for delta in deltas:
        place = delta.places[old.path]
        values = _values(old, delta, place, seed)
        at = Parameter(f"{values.path}_at", TensorType(DType.I64, place.shape), Initialiser("given"), False, True)
        total = add(f"add_{delta.name}", ScatterAdd(0), total, edit.parameter(held(at, place)), edit.parameter(values))
        sources[values.path] = (f"{base.name}.{old.path}", f"{delta.name}.{old.path}")
        new.add(values.path)
    whole = total if old.type.rank == 1 else add("composed", Reshape(old.type.shape), total)
    read_instead(edit, base, ref, whole)
    return new


def _values(old: Parameter, delta: _Delta, place: Array, seed: int) -> Parameter:
    def numbers(base: Array, tuned: Array) -> Array:
        taken: Array = (tuned - base).reshape(-1)[place]
        return taken

    given = replace(old, initialiser=Initialiser("given"), trainable=True)
    kind = TensorType(old.type.dtype, place.shape)
    path = f"{old.path}_{delta.name}"
    return made(given, numbers, old, delta.model.parameters[old.path], path=path, type=kind, seed=seed)
