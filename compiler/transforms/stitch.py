"""Several models as one family: a member runs the first blocks of one model and goes over into another."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ..axes import analyse
from ..blocks import Block, blocks
from ..family import Family
from ..graph import Edit, Graph, Input, Parameter, Ref, Value
from ..operators.arithmetic import Add
from ..operators.operator import Initialiser
from ..place import place
from ..types import TensorType
from .choose import Paths, chosen_blocks
from .join import Joint, channel_axis, joined, misfit
from .junctions import Direction, Junction, Route, Rule, combinations, depths, routes, windows
from .numbers import filled
from .register import Refusal, transform
from .solve import Equations, Lstsq, features

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

_IDENTITY = Initialiser("identity")
_ZEROS = Initialiser("zeros")

Start = Literal[
    "plain", "identity", "fan_in_uniform", "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"
]


@transform
def stitch(
    *models: Graph,
    at: Paths = "blocks",
    direction: Direction = "forward",
    init: Start | Lstsq = "fan_in_uniform",
    pairs: Rule = "windows",
    window: Annotated[int, Field(ge=1)] = 2,
    stride: Annotated[int, Field(ge=1)] = 1,
    nearest: bool = True,
    crossings: Annotated[int, Field(ge=1)] = 1,
    resample: bool = True,
    rank: Annotated[int, Field(ge=0)] = 0,
    seed: int = 0,
) -> Family:
    """Join models into a family: a member runs the first blocks of one and goes over into another.

    A member computes the stem and the blocks of a model up to one of them (and what lies before the next), brings
    the value into the shape that another model's block wants, and runs that model from there to its end. Every
    model itself is a member, an anchor, and comes first. In the store, parameters are below their model's name
    (`deit_tiny.blocks.0.norm1.weight`), those of stitching layers below `stitch.<model>_<block it
    leaves>.<model>_<block it enters>`. A stitching layer is a linear map of the channels with an offset (a 1 × 1
    convolution where they are not the last axis); where the space differs, the value is resampled, where it shrinks
    by whole factors by the layer's stride. All models must have the same inputs: a member has those of the family.

    Contract: alters. What is exact: an anchor is the model it was, and with `init = plain` a model that goes over into
    itself where it was left is that model.

    - at: the blocks after which a member may leave a model, and before which it may enter one; all of them.
    - direction: `forward`, from a model to later ones of the call, `backward`, or `both` (Pan et al., 2023b).
    - init: `plain`, no layer where the types agree, and an identity where channels must be cut or added; `identity`;
      the name of an initialiser; or `lstsq(calib, samples = 100, ridge = 1e-6)`, the linear map that brings the
      features of one model closest to those of the other.
    - pairs: `windows`, every block of one model into every block of the other in the same sliding window, or `depth`,
      equal relative depth only.
    - window, stride: size and step of the sliding window, in blocks of the deeper model. With 2 and 1, DeiT-Ti, -S and
      -B of 12 blocks each make 3 anchors and 2 · 34 stitches: the 71 members of Pan et al., 2023, in their order.
    - nearest: join neighbours in the call only.
    - crossings: the most junctions of a member. With `direction = both`, `pairs = depth` and 2, two models make the
      paths of Pan et al., 2023b: there and back again.
    - resample: whether models may be joined where their space differs.
    - rank: with a number above 0, stitching layers have a low-rank update, 0 at first, and their weights are frozen
      (Pan et al., 2023b).
    - seed: of what is drawn.

    Refuses fewer than two models, models without blocks, of different inputs, and those between which no junction is
    found, with what stands in its way.

    Source: Pan, Cai and Zhuang, "Stitchable Neural Networks", CVPR 2023, §3.3; Pan et al., "Stitched ViTs are Flexible
    Vision Backbones", 2023, §3 (2023b); Shi et al., "Building Variable-sized Models via Learngene Pool", AAAI 2024.
    """
    anchors = _anchors(models, at)
    found, problems = _junctions(anchors, pairs, direction, nearest, window, stride, resample)
    if not found:
        nodes = [b.path for a in anchors for b in (a.leaving or a.blocks)[:1]]
        raise Refusal("the models can be joined nowhere", nodes=nodes, option="at", notes=tuple(problems)[:4])
    how = _how(init, seed)
    made = _Stitched(anchors, how, rank, init if isinstance(init, Lstsq) else None)
    ways = routes(len(models), found, crossings)
    notes = [f"{len(models)} whole models and {len(ways) - len(models)} joined ones"]
    notes += [f"left out: {problem}" for problem in problems]
    return Family(
        "_".join(a.name for a in anchors),
        len(ways),
        lambda number: made.member(ways[number]),
        lambda number: made.label(ways[number]),
        made.store(found),
        {a.name: i for i, a in enumerate(anchors)},
        tuple(notes),
    )


def _how(init: Start | Lstsq, seed: int) -> Joint:
    if isinstance(init, Lstsq):
        return Joint(always=True, seed=seed)
    initialiser = _IDENTITY if init in ("plain", "identity") else Initialiser(init)
    return Joint(initialiser, always=init != "plain", seed=seed)


# ---------------------------------------------------------------------------------------------------- the models


@dataclass(frozen=True, eq=False)
class _Anchor:
    """A model of the family with its blocks. `name` is its own among the models."""

    name: str
    graph: Graph
    blocks: Sequence[Block]
    leaving: Sequence[Block]
    """The blocks at which junctions may lie."""

    def allows(self, number: int) -> bool:
        return self.blocks[number] in self.leaving

    def after(self, number: int) -> Value:
        """What a block hands on to the next one: layers between the two run with the first."""
        return self.blocks[number + 1].input if number + 1 < len(self.blocks) else self.blocks[number].output

    def axis(self, value: Value) -> int:
        """The axis of the channels."""
        return channel_axis(self._axes, value)

    @cached_property
    def _axes(self) -> Any:
        return analyse(self.graph)


def _anchors(models: Sequence[Graph], at: Paths) -> list[_Anchor]:
    """
    Raises:
        Refusal: where they are fewer than two, have no blocks, or different inputs.
    """
    if len(models) < 2:
        raise Refusal("two models or more are joined, and one is given", fix="stitch(a, b)")
    first = _inputs(models[0])
    made: list[_Anchor] = []
    for graph in models:
        if _inputs(graph) != first:
            a, b = (", ".join(f"{n}: {t}" for n, t in _inputs(g).items()) for g in (models[0], graph))
            fix = "declare the models over one input type"
            raise Refusal(f"{models[0].name} takes {a}, and {graph.name} takes {b}", nodes=list(graph.inputs), fix=fix)
        taken = sum(a.graph.name == graph.name for a in made)
        found = blocks(graph)
        if not found:
            raise Refusal(f"{graph.name} has no blocks", nodes=list(graph.inputs))
        name = f"{graph.name}_{taken + 1}" if taken else graph.name
        made.append(_Anchor(name, graph, found, chosen_blocks(graph, at)))
    return made


def _inputs(graph: Graph) -> dict[str, TensorType]:
    return {name: node.types[0] for name, node in graph.inputs.items()}


def _junctions(
    anchors: Sequence[_Anchor],
    pairs: Rule,
    direction: Direction,
    nearest: bool,
    window: int,
    stride: int,
    resample: bool,
) -> tuple[list[Junction], list[str]]:
    """The junctions that the rules propose and types allow, and why others are left out, each reason once."""
    found: list[Junction] = []
    problems: dict[str, int] = {}
    for a, b in combinations(len(anchors), direction, nearest):
        here, there = anchors[a], anchors[b]
        sizes = len(here.blocks), len(there.blocks)
        proposed = windows(*sizes, window, stride) if pairs == "windows" else depths(*sizes)
        for leave, enter in proposed:
            if here.allows(leave) and there.allows(enter):
                problem = _problem(here, leave, there, enter, resample)
                if problem:
                    problems[problem] = problems.get(problem, 0) + 1
                else:
                    found.append(Junction(a, leave, b, enter))
    return found, [f"{p} ({n} times)" if n > 1 else p for p, n in problems.items()]


def _problem(here: _Anchor, leave: int, there: _Anchor, enter: int, resample: bool) -> str | None:
    out, into = here.after(leave), there.blocks[enter].input
    have, wanted = here.graph.type(out), there.graph.type(into)
    axes = here.axis(out), there.axis(into)
    problem = misfit(have, wanted, axes)
    if problem is None and not resample and _space(have, axes[0]) != _space(wanted, axes[1]):
        problem = "the space differs"
    return problem and f"{here.name} gives {have} where {there.name} wants {wanted}: {problem}"


def _space(kind: TensorType, axis: int) -> tuple[Any, ...]:
    return kind.shape[:axis] + kind.shape[axis + 1 :]


# ---------------------------------------------------------------------------------------------------- the family


@dataclass(frozen=True, eq=False)
class _Stitched:
    """How members are put together."""

    anchors: Sequence[_Anchor]
    how: Joint
    rank: int
    init: Lstsq | None

    def path(self, junction: Junction) -> str:
        """The path of a stitching layer."""
        here, there = self.anchors[junction.source], self.anchors[junction.target]
        return f"stitch.{here.name}_{junction.leave}.{there.name}_{junction.enter}"

    def label(self, route: Route) -> str:
        """`lite0 ..blocks.5 → lite1 blocks.7..`"""
        parts = [self.anchors[route.start].name]
        for junction in route.junctions:
            here, there = self.anchors[junction.source], self.anchors[junction.target]
            dots = "" if len(parts) > 1 else " "
            parts[-1] += f"{dots}..{here.blocks[junction.leave].path}"
            parts.append(f"{there.name} {there.blocks[junction.enter].path}")
        return " → ".join(parts) + (".." if route.junctions else "")

    def member(self, route: Route) -> Graph:
        """The graph of one way."""
        names = [self.anchors[route.start].name]
        for j in route.junctions:
            names += [str(j.leave), self.anchors[j.target].name, str(j.enter)]
        edit = Graph("_".join(names)).edit("stitch")
        given = _shared_inputs(edit, [self.anchors[i].graph for i in route.models])
        entered: Value | None = None
        carried: Ref | None = None
        for junction in route.junctions:
            here = self.anchors[junction.source]
            out = here.after(junction.leave)
            done = self._run(edit, here, given, entered, carried, [out])
            carried = self.cross(edit, done[out], junction)
            entered = self.anchors[junction.target].blocks[junction.enter].input
        last = self.anchors[route.models[-1]]
        outputs = _reached(last.graph, entered)
        done = self._run(edit, last, given, entered, carried, [r for r in outputs.values() if isinstance(r, Value)])
        for name, ref in outputs.items():
            edit.output(name, done[ref])
        return edit.done()

    def _run(
        self,
        edit: Edit,
        anchor: _Anchor,
        given: Mapping[str, Ref],
        entered: Value | None,
        carried: Ref | None,
        ends: Sequence[Value],
    ) -> dict[Ref, Ref]:
        """Add what of a model leads to `ends`, from its inputs or from where it was entered."""
        known: dict[Ref, Ref] = {Value(name): ref for name, ref in given.items()}
        if entered is not None and carried is not None:
            known[entered] = carried
        needed = _needed(anchor.graph, ends, known)
        return {**known, **place(edit, anchor.graph, anchor.name, known, needed)}

    def cross(self, edit: Edit, value: Ref, junction: Junction) -> Ref:
        """Add a stitching layer."""
        here, there = self.anchors[junction.source], self.anchors[junction.target]
        out, into = here.after(junction.leave), there.blocks[junction.enter].input
        wanted, path = there.graph.type(into), self.path(junction)
        axes = here.axis(out), there.axis(into)
        origin = there.graph.nodes[into.node].origin
        stitched = joined(edit, path, value, wanted, self.how, axes=axes, origin=origin)
        if not self.rank:
            return stitched
        update = Joint(_ZEROS, bias=False, rank=self.rank, always=True, seed=self.how.seed)
        change = joined(edit, f"{path}.update", value, wanted, update, axes=axes, origin=origin)
        return edit.add(f"{path}.sum", Add(), stitched, change, origin=origin).value

    def store(self, junctions: Sequence[Junction]) -> dict[str, Parameter]:
        """Every parameter of every member, by its path in them."""
        found: dict[str, Parameter] = {}
        for anchor in self.anchors:
            for path, parameter in anchor.graph.parameters.items():
                found[f"{anchor.name}.{path}"] = replace(filled(parameter, self.how.seed), path=f"{anchor.name}.{path}")
        solution = self.init and Solution(self, tuple(junctions), self.init)
        for junction in junctions:
            for parameter in self._layer(junction):
                name = parameter.path.removeprefix(f"{self.path(junction)}.")
                if solution and name.startswith("project."):
                    parameter = replace(
                        parameter, data=_Solved(solution, junction, name.rpartition(".")[2], parameter.type)
                    )
                if self.rank and name == "project.weight":
                    parameter = replace(parameter, trainable=False)
                found[parameter.path] = parameter
        return found

    def _layer(self, junction: Junction) -> list[Parameter]:
        """The parameters of a stitching layer."""
        here = self.anchors[junction.source]
        edit = Graph("layer").edit()
        value = edit.add("value", Input(here.graph.type(here.after(junction.leave)))).value
        self.cross(edit, value, junction)
        return edit.parameters()


def _shared_inputs(edit: Edit, graphs: Sequence[Graph]) -> dict[str, Ref]:
    return {name: edit.add(name, node.op, origin=node.origin).value for name, node in graphs[0].inputs.items()}


def _needed(graph: Graph, ends: Sequence[Value], given: Collection[Ref]) -> set[str]:
    """The nodes that lead to values, as far back as those that are given."""
    found: set[str] = set()
    waiting = [v for v in ends if v not in given]
    while waiting:
        path = waiting.pop().node
        if path not in found:
            found.add(path)
            waiting += [r for r in graph.nodes[path].refs if isinstance(r, Value) and r not in given]
    return found


def _reached(graph: Graph, entered: Value | None) -> dict[str, Ref]:
    """The outputs of a model; where it is entered in its middle, those that come after."""
    if entered is None:
        return dict(graph.outputs)
    after = {entered}
    for node in graph.nodes.values():
        if not after.isdisjoint(r for r in node.refs if isinstance(r, Value)):
            after.update(node.values)
    return {name: ref for name, ref in graph.outputs.items() if ref in after}


# ---------------------------------------------------------------------------------------------------- least squares


@dataclass(frozen=True, eq=False)
class Solution:
    """The stitching layers of a family by least squares, all found in one run of the models, when first asked for."""

    made: _Stitched
    junctions: Sequence[Junction]
    init: Lstsq

    @cached_property
    def numbers(self) -> dict[Junction, tuple[Array, Array]]:
        """By junction the weight `[out, in]` and the offset `[out]`."""
        return {j: e.solve(self.init.ridge) for j, e in self.equations.items()}

    @cached_property
    def equations(self) -> dict[Junction, Equations]:
        """By junction the normal equations: features as they come out of one model, those that the other wants."""
        graph, sources, targets = self._features()
        found = {j: Equations() for j in self.junctions}
        for values in features(graph, self.init.calibration, self.init.samples):
            rows = {name: array.reshape(-1, array.shape[-1]).astype("float64") for name, array in values.items()}
            for junction, equations in found.items():
                equations.add(rows[sources[junction]], rows[targets[junction]])
        return found

    def _features(self) -> tuple[Graph, dict[Junction, str], dict[Junction, str]]:
        """The models side by side; its outputs are what junctions get, in the space that is wanted, and what they
        should give, channels last. And which outputs those are."""
        anchors = self.made.anchors
        edit = Graph("features").edit("stitch")
        given = _shared_inputs(edit, [a.graph for a in anchors])
        done = [place(edit, a.graph, a.name, {Value(n): r for n, r in given.items()}) for a in anchors]
        names: dict[tuple[Ref, TensorType], str] = {}
        sources: dict[Junction, str] = {}
        targets: dict[Junction, str] = {}

        def read(value: Ref, wanted: TensorType, axis: int) -> str:
            """The output that is a value in the space of a type, its channels last."""
            kind = edit.type(value)
            space = wanted.shape[1:-1]
            key = (value, TensorType(kind.dtype, (*wanted.shape[:-1], kind.shape[axis])))
            if key not in names:
                names[key] = f"f{len(names)}"
                how = Joint(_IDENTITY, bias=False, always=_projects(kind, axis, space))
                last = len(wanted.shape) - 1
                edit.output(names[key], joined(edit, names[key], value, key[1], how, axes=(axis, last)))
            return names[key]

        for junction in self.junctions:
            here, there = anchors[junction.source], anchors[junction.target]
            out, into = here.after(junction.leave), there.blocks[junction.enter].input
            wanted = there.graph.type(into)
            axis = there.axis(into)
            flat = TensorType(wanted.dtype, (*_space(wanted, axis), wanted.shape[axis]))
            sources[junction] = read(done[junction.source][out], flat, here.axis(out))
            targets[junction] = read(done[junction.target][into], flat, axis)
        return edit.done(), sources, targets


def _projects(kind: TensorType, axis: int, space: Sequence[Any]) -> bool:
    """Whether a layer brings a value into a space by its stride: by one that does nothing else, so does this."""
    before = kind.shape[1:axis] + kind.shape[axis + 1 :]
    return tuple(before) != tuple(space)


@dataclass(frozen=True, eq=False, slots=True)
class _Solved:
    """A stitching layer's weight or offset."""

    solution: Solution
    junction: Junction
    name: str
    type: TensorType

    def load(self) -> Array:
        weight, offset = self.solution.numbers[self.junction]
        array = weight if self.name == "weight" else offset
        return array.astype(self.type.dtype.as_numpy).reshape([d for d in self.type.shape if isinstance(d, int)])
