"""Weights that are read from stores, whose size is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from ..contract import Contract
from ..graph import Edit, Graph, Node, Parameter, ParameterRef, Ref
from ..operators.layout import Concat, Repeat, Reshape, Slice
from ..operators.linear import Matmul
from ..operators.operator import Initialiser, Operator
from ..types import TensorType
from .choose import Paths
from .limit import allowed, said
from .numbers import made
from .read_instead import read_instead
from .register import Limit, Outcome, Refusal, transform
from .weight import beside, factors, weights

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]
    Numbers = Callable[..., Array]


@transform
def share(
    graph: Graph,
    limit: Limit,
    at: Paths = "*",
    how: Literal["tile", "templates"] = "tile",
    stores: Literal["all", "shape", "layer"] = "all",
    seed: int = 0,
) -> Outcome:
    """Let layers read their weights from stores, so that the model has as many parameters as it is given, and computes
    as much as before.

    Contract: exact where the stores are as large as what is read from them, or have a template for each layer; else
    alters: shapes and work are kept.

    - limit: `parameters <= 5 M`: of the whole model, with what is not in stores; `==` for just as many.
    - at: weights, by their paths or by those of their layers; all of linear and convolution layers.
    - how: `tile`, the weights of a store's layers are laid one after the other round the store, which begins again
      where it ends; a number that stands for several is their mean, the nearest to all of them. `templates`, layers of
      one shape mix the same templates, each with coefficients of its own; both are the best for the weights as they
      are, by singular values in float64.
    - stores: one for all layers, one for each shape, or one for each layer. Templates have one for each shape.
    - seed: for parameters without numbers.

    Refuses a number that the other parameters alone exceed, one that is no multiple of templates where it is to be met
    exactly, and one that is more than the model has.

    Source: Plummer et al., "Neural parameter allocation search" (2022).
    """
    if limit.quantity not in ("parameters", "params"):
        raise Refusal("stores are given a number of parameters", option="limit", fix="parameters <= 1 M")
    budget = int(limit.value) if limit.relation == "==" else allowed(limit)
    chosen = {path: graph.parameters[path] for path in weights(graph, at)}
    others = sum(_size(p) for path, p in graph.parameters.items() if path not in chosen and not p.buffer)
    sharing = _Sharing(graph, graph.edit("share"), limit, budget - others, seed)
    exact = sharing.tile(_grouped(chosen, stores)) if how == "tile" else sharing.mix(_grouped(chosen, "shape"))
    after = sharing.edit.done()
    count = sum(_size(p) for p in after.parameters.values() if not p.buffer)
    if limit.relation == "==" and count != budget:
        message = f"{said(limit)} is no number that stores can meet: the nearest below is {count:_}"
        raise Refusal(message, option="limit", fix=f"{limit.quantity} <= {budget}")
    before = others + sum(map(_size, chosen.values()))
    where = f"{sharing.count} stores" if sharing.count > 1 else "one store"
    notes = (f"{len(chosen)} weights are read from {where}: {before:,} parameters became {count:,}",)
    return Outcome(after, Contract() if exact else Contract("alters"), notes, sharing.sources)


def _size(parameter: Parameter) -> int:
    return cast(int, parameter.type.elements)


def _grouped(chosen: Mapping[str, Parameter], stores: str) -> list[list[Parameter]]:
    groups: dict[object, list[Parameter]] = {}
    for path, parameter in chosen.items():
        key = (str(parameter.type), path if stores == "layer" else "") if stores != "all" else parameter.type.dtype
        groups.setdefault(key, []).append(parameter)
    return list(groups.values())


@dataclass
class _Sharing:
    """What is done to one model. `left` is how many parameters the stores may have together."""

    graph: Graph
    edit: Edit
    limit: Limit
    left: int
    seed: int
    count: int = 0

    def __post_init__(self) -> None:
        self.sources: dict[str, tuple[str, ...]] = {}

    def few(self, least: int) -> Refusal:
        """There are too few."""
        rest = said(replace(self.limit, value=self.limit.value - self.left + least), ">=")
        return Refusal(f"{said(self.limit)} is too few: the least is {rest}", option="limit")

    def store(
        self, like: Parameter, shape: tuple[int, ...], numbers: Numbers, sources: Sequence[Parameter]
    ) -> Parameter:
        """A new store, whose numbers are a function of the weights'."""
        name = "store" if self.count == 0 else f"store_{self.count}"
        while self.edit.find_parameter(name) is not None or name in self.edit:
            name += "_"
        self.count += 1
        self.sources[name] = tuple(p.path for p in sources)
        return self.new(like, name, shape, numbers, sources)

    def new(
        self, like: Parameter, path: str, shape: tuple[int, ...], numbers: Numbers, sources: Sequence[Parameter]
    ) -> Parameter:
        given, kind = replace(like, initialiser=Initialiser("given")), TensorType(like.type.dtype, shape)
        found = made(given, numbers, *sources, path=path, type=kind, seed=self.seed)
        self.edit.parameter(found)
        return found

    def add(self, weight: Parameter, name: str, op: Operator, *inputs: Ref) -> Ref:
        """A node that belongs to the layer that reads a weight."""
        reader = self.reader(weight)
        self.edit.acting("share", reader.path)
        path = self.edit.fresh(f"{reader.path}.{name}")
        return self.edit.add(path, op, *inputs, phase=reader.phase, origin=reader.origin).value

    def reader(self, weight: Parameter) -> Node:
        return self.graph.users[ParameterRef(weight.path)][0]

    def replace(self, weight: Parameter, flat: Ref) -> None:
        """Let the layers of a weight read these numbers in its shape."""
        new = self.add(weight, "stored", Reshape(weight.type.shape), flat)
        read_instead(self.edit, self.graph, ParameterRef(weight.path), new)
        self.edit.remove_parameter(weight.path)

    # ----------------------------------------------------------------------------------------------------------- tile

    def tile(self, groups: Sequence[Sequence[Parameter]]) -> bool:
        """Read the weights of each group from one store, round and round; whether no number stands for several."""
        wholes = [sum(map(_size, group)) for group in groups]
        if self.left < len(groups):
            raise self.few(len(groups))
        if self.left > sum(wholes) and self.limit.relation == "==":
            message = f"{said(self.limit)} is more than the model has"
            raise Refusal(message, option="limit", fix=said(self.limit, "<="))
        sizes = _divided(min(self.left, sum(wholes)), wholes)
        for group, size in zip(groups, sizes, strict=True):
            starts = [sum(map(_size, group[:i])) % size for i in range(len(group))]
            store = ParameterRef(self.store(group[0], (size,), _Means(size), group).path)
            for weight, start in zip(group, starts, strict=True):
                self.replace(weight, self.read(weight, store, start, size))
        return sizes == wholes

    def read(self, weight: Parameter, store: Ref, start: int, size: int) -> Ref:
        """As many numbers as a weight has, from `start`, and from the store's beginning where it ends."""
        first = min(_size(weight), size - start)
        rounds, rest = divmod(_size(weight) - first, size)
        parts = [self.add(weight, "slice", Slice(0, start, start + first), store)] if first < size else [store]
        if rounds:
            parts.append(self.add(weight, "rounds", Repeat((rounds,)), store) if rounds > 1 else store)
        if rest:
            parts.append(self.add(weight, "slice", Slice(0, 0, rest), store))
        return parts[0] if len(parts) == 1 else self.add(weight, "concat", Concat(0), *parts)

    # ------------------------------------------------------------------------------------------------------ templates

    def mix(self, groups: Sequence[Sequence[Parameter]]) -> bool:
        """Mix the weights of each group from the same templates; whether each could keep what it was."""
        alone = sum(_size(group[0]) for group in groups if len(group) == 1)
        groups = [group for group in groups if len(group) > 1]
        if not groups:
            raise Refusal("no two weights have one shape", option="at", fix="how = tile")
        counts = self.counts(groups, self.left - alone, alone)
        for group, count in zip(groups, counts, strict=True):
            self.mixed(group, count)
        return all(count == _most(group) for group, count in zip(groups, counts, strict=True))

    def counts(self, groups: Sequence[Sequence[Parameter]], left: int, alone: int) -> list[int]:
        """How many templates each group has: about as many for each layer, as far as the numbers last."""
        prices = [_size(group[0]) + len(group) for group in groups]
        counts = [1] * len(groups)
        left -= sum(prices)
        if left < 0:
            raise self.few(sum(prices) + alone)
        while True:
            open_ = [i for i, group in enumerate(groups) if counts[i] < _most(group) and prices[i] <= left]
            if not open_:
                return counts
            i = min(open_, key=lambda i: counts[i] / len(groups[i]))
            counts[i] += 1
            left -= prices[i]

    def mixed(self, group: Sequence[Parameter], count: int) -> None:
        def mixture(arrays: Sequence[Array]) -> tuple[Array, Array]:
            import numpy

            rows: list[Array] = [a.reshape(-1) for a in arrays]
            return factors(numpy.stack(rows), count)

        def row(number: int) -> Numbers:
            def numbers(*arrays: Array) -> Array:
                return mixture(arrays)[0][number : number + 1]

            return numbers

        def templates(*arrays: Array) -> Array:
            return mixture(arrays)[1]

        store = self.store(group[0], (count, _size(group[0])), templates, group)
        for number, weight in enumerate(group):
            own = self.new(weight, beside(weight.path, "coefficients"), (1, count), row(number), group)
            mixed = self.add(weight, "mixed", Matmul(), ParameterRef(own.path), ParameterRef(store.path))
            self.replace(weight, mixed)


def _most(group: Sequence[Parameter]) -> int:
    """So many templates keep every weight of a group."""
    return min(len(group), _size(group[0]))


def _divided(total: int, wholes: Sequence[int]) -> list[int]:
    """A number in parts of at least 1, proportional to others', that add up to it."""
    free = total - len(wholes)
    parts = [1 + free * (whole - 1) // max(1, sum(wholes) - len(wholes)) for whole in wholes]
    for i in range(total - sum(parts)):
        parts[i % len(parts)] += 1
    return parts


@dataclass(frozen=True)
class _Means:
    """The mean of all numbers that lie on each place of a store."""

    size: int

    def __call__(self, *arrays: Array) -> Array:
        import numpy

        flat = numpy.concatenate([a.reshape(-1) for a in arrays])
        places = numpy.arange(len(flat)) % self.size
        return numpy.bincount(places, flat, self.size) / numpy.bincount(places, minlength=self.size)
