"""Weights that several depths of a model share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import NonNegativeInt

from ..blocks import blocks
from ..contract import Contract
from ..graph import Edit, Graph, Node, Parameter, ParameterRef
from ..operators.operator import Initialiser
from ..types import TensorType
from .choose import Paths, chosen_blocks, matches, nothing
from .numbers import arrays, made, mean
from .read_instead import read_instead
from .register import Outcome, Refusal, transform
from .weight import beside, elements, factors, low_rank, shape, weights

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@transform
def tie(
    graph: Graph,
    at: Paths = "blocks",
    to: Literal["first", "mean"] = "first",
    by: NonNegativeInt = 0,
    order: Literal["cycle", "sequence"] = "cycle",
    rank: NonNegativeInt = 0,
    own: Paths | None = None,
    seed: int = 0,
) -> Outcome:
    """Let blocks of the same shape, or layers, share their weights: one parameter that each of them reads.

    With a `rank`, every depth adds a product of that rank of its own, `<layer>.lora_b @ <layer>.lora_a`: the best one
    for the difference between the weight it had and the shared one, by singular values in float64. Without, depths
    share as they are. Statistics of normalisations are never shared.

    Contract: exact where the rank is full; else alters. Shapes and work are kept, but for the products'; the notes say
    how many parameters are left, and how much of the differences the products keep.

    - at: blocks; where no block has such a path, weights of layers. Those of the same shape are tied.
    - to: the first one's numbers, or the mean of all that share.
    - by: how many share one set; 0 for all of a shape.
    - order: of n blocks and k sets, whether block i reads set i mod k (`cycle`), or neighbours read one (`sequence`).
    - rank: of each depth's own products. With them vectors (biases, norms) are each depth's own too: a difference of
      vectors has no smaller rank.
    - own: parameters that are not shared in any case: `"*norm*"`.
    - seed: for parameters without numbers.

    Refuses blocks and layers of which no two have the same shape, and says how the first two differ.

    Source: Bae et al., "Relaxed recursive transformers" (2024); without products, Azadbakht et al., inter-layer kernel
    sharing (2022).
    """
    tying = _Tying(graph, graph.edit("tie"), to, rank, seed)
    groups = _groups(graph, at, own)
    sets = [members for group in groups for members in _sets(group, by, order)]
    for members in sets:
        if len(members) > 1:
            tying.share(members)
    after, relaxed = tying.edit.done(), tying.relaxed
    if after is graph:
        raise Refusal("nothing is left to share", option="own" if own else "by")
    full = rank > 0 and all(r.full for r in relaxed)
    depths = sum(map(len, groups))
    text = f"{depths} depths read {len(sets)} sets of weights" if len(sets) > 1 else f"{depths} depths read one set"
    notes = [f"{text}: {elements(graph):,} parameters became {elements(after):,}"]
    if relaxed and not full and elements(graph) <= _LARGE:
        notes.append(_kept(relaxed, seed))
    return Outcome(after, Contract() if full else Contract("alters"), tuple(notes), tying.sources)


_LARGE = 3e8
"""Parameters of a model whose weights are not all read for a note."""

Member = dict[str, str]
"""A block or layer: its parameters by what they are to it."""

Kind = tuple[tuple[str, str, str], ...]
"""What members have in common: for each parameter what it is, its type, and the operator that reads it."""


# ------------------------------------------------------------------------------------------------------------- which


def _groups(graph: Graph, at: Paths, own: Paths | None) -> list[list[Member]]:
    """Blocks, or layers, of the same shape."""
    if at == "blocks" or any(matches(b.path, at) for b in blocks(graph)):
        found = {b.path: _parameters(graph, b.path, b.nodes) for b in chosen_blocks(graph, at)}
    else:
        found = {path: {"weight": path} for path in weights(graph, at)}
    kinds: dict[Kind, list[Member]] = {}
    for member in found.values():
        kinds.setdefault(_kind(graph, member), []).append(member)
    groups = [group for kind, group in kinds.items() if kind and len(group) > 1]
    if not groups:
        nodes = list(found)
        message = f"no two of {', '.join(nodes[:5])} have weights of the same shape"
        raise Refusal(message, nodes=nodes, option="at", notes=_differences(list(kinds)))
    if own is not None:
        shared = {p for group in groups for member in group for p in member.values()}
        if not any(matches(p, own) for p in shared):
            raise nothing(own, shared, "shared parameter", "own")
        groups = [[{k: p for k, p in m.items() if not matches(p, own)} for m in group] for group in groups]
    return groups


def _parameters(graph: Graph, path: str, nodes: Sequence[str]) -> Member:
    """The parameters that only these nodes read, by their paths below the block's."""
    inside = set(nodes)
    refs = dict.fromkeys(r for p in nodes for r in graph.nodes[p].refs if isinstance(r, ParameterRef))
    alone = [r.parameter for r in refs if all(user.path in inside for user in graph.users[r])]
    return {p.removeprefix(f"{path}."): p for p in alone if not graph.parameters[p].buffer}


def _kind(graph: Graph, member: Member) -> Kind:
    return tuple((key, str(graph.parameters[p].type), _reader(graph, p).op.name) for key, p in sorted(member.items()))


def _reader(graph: Graph, path: str) -> Node:
    return graph.users[ParameterRef(path)][0]


def _differences(kinds: Sequence[Kind]) -> tuple[str, ...]:
    if len(kinds) < 2:
        return ()
    return tuple(
        f"the {name} has " + ", ".join(" ".join(part) for part in list(only)[:3])
        for name, only in (
            ("first", dict.fromkeys(k for k in kinds[0] if k not in kinds[1])),
            ("second", dict.fromkeys(k for k in kinds[1] if k not in kinds[0])),
        )
        if only
    )


def _sets(group: Sequence[Member], by: int, order: str) -> list[list[Member]]:
    """Those that share."""
    size = by or len(group)
    count = -(-len(group) // size)
    if order == "cycle":
        return [list(group[i::count]) for i in range(count)]
    return [list(group[i : i + size]) for i in range(0, len(group), size)]


# ------------------------------------------------------------------------------------------------------------- share


@dataclass(frozen=True)
class _Relaxed:
    """A weight that is the shared one and a product of rank `rank`."""

    sources: tuple[Parameter, ...]
    """The weight as it was, and those that the shared one is made of."""
    rank: int

    @property
    def full(self) -> bool:
        return self.rank == min(shape(self.sources[0]))


@dataclass
class _Tying:
    """What is done to one model."""

    graph: Graph
    edit: Edit
    to: str
    rank: int
    seed: int
    relaxed: list[_Relaxed] = field(default_factory=list[_Relaxed])
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    def share(self, members: Sequence[Member]) -> None:
        """Let members read the first one's parameters."""
        for key, first in members[0].items():
            old = [self.graph.parameters[m[key]] for m in members]
            if self.rank and old[0].type.rank < 2:
                continue
            used = old[:1] if self.to == "first" else old
            if self.to == "mean":
                self.edit.parameter(made(old[0], mean, *old, seed=self.seed))
                self.sources[first] = tuple(p.path for p in old)
            for weight in old:
                if self.rank and not (self.to == "first" and weight is old[0]):
                    self.relax(weight, used, first)
                elif weight is not old[0]:
                    read_instead(self.edit, self.graph, ParameterRef(weight.path), ParameterRef(first))
            for weight in old[1:]:
                self.edit.remove_parameter(weight.path)

    def relax(self, weight: Parameter, used: Sequence[Parameter], shared: str) -> None:
        """Let the readers of a weight read the shared one and a product of their own."""
        rows, columns = shape(weight)
        found = _Relaxed((weight, *used), min(self.rank, rows, columns))
        self.relaxed.append(found)

        def half(name: str, size: tuple[int, int], number: int) -> Parameter:
            def numbers(*sources: Array) -> Array:
                return factors(_difference(*sources), found.rank)[number]

            path, kind = beside(weight.path, name), TensorType(weight.type.dtype, size)
            self.sources[path] = tuple(p.path for p in found.sources)
            given = replace(weight, initialiser=Initialiser("given"))
            return made(given, numbers, *found.sources, path=path, type=kind, seed=self.seed)

        a, b = half("lora_a", (found.rank, columns), 1), half("lora_b", (rows, found.rank), 0)
        reader = _reader(self.graph, weight.path)
        ref = low_rank(self.edit, "tie", reader, ParameterRef(shared), a, b, name="relaxed")
        read_instead(self.edit, self.graph, ParameterRef(weight.path), ref)


def _difference(weight: Array, *used: Array) -> Array:
    """What the shared weight lacks, as a matrix."""
    return (weight - mean(*used)).reshape(len(weight), -1)


def _kept(relaxed: Sequence[_Relaxed], seed: int) -> str:
    """How much of the differences the products keep."""
    whole = left = 0.0
    for each in relaxed:
        matrix = _difference(*arrays(each.sources, seed))
        b, a = factors(matrix, each.rank)
        whole += float((matrix**2).sum())
        left += float(((matrix - b @ a) ** 2).sum())
    share = 1 - left / whole if whole else 1.0
    return f"products keep {share:.1%} of the squared differences between {len(relaxed)} weights and the shared ones"
