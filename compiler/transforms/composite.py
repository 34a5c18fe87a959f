"""Several backbones as one: what assisting ones give at each stage is added in the lead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from ..axes import analyse
from ..contract import Contract
from ..graph import Edit, Graph, Ref, Value
from ..operators.arithmetic import Add
from .choose import listed
from .join import FRESH, ZEROS, Joint, channel_axis, joined
from .part import Points, add_part, all_blocks, frozen, part, points, prefixes, sources
from .register import Outcome, Refusal, transform

Links = Literal["higher", "same", "lower", "dense_higher"]


@transform
def composite(
    lead: Graph,
    *assistants: Graph,
    copies: int = 1,
    links: Links = "higher",
    at: Points = "stages",
    init: Literal["zeros", "fresh"] = "zeros",
    outputs: bool = False,
    freeze: bool = False,
    seed: int = 0,
) -> Outcome:
    """A composite backbone: what assisting backbones give at their stages is added to what the lead's stages are given.

    Each link is a 1 × 1 convolution (or linear layer) whose result is brought to the size that the stage is given, by
    the nearest element. Assistants are chained: the first one has no links, each further one and in the end the lead
    gets those of the one before it. All are given the same inputs; paths stand below the models' names, links below
    `links`. The outputs are those of the lead, and what else assistants compute is left out.

    Contract: exact to the lead with `init = zeros`, where the links give 0 until they are trained; else `alters`.

    - copies: so many assistants of each given one; without any given, so many copies of the lead.
    - links: which stage's output is added to the input of a stage: `higher`, that of the same number (so the level
      above the one that the stage is given), `same` level, the `lower` one, or all of `dense_higher`.
    - at: the stages: the joints that they end at (see `features`).
    - init: `zeros` or `fresh` weights of the links.
    - outputs: whether the outputs of assistants stay, under their names: `resnet18_1_logits`.
    - freeze: whether assistants are frozen.
    - seed: what new numbers are drawn with.

    Refuses backbones with different numbers of stages, with different inputs, and stages that no link can join.

    Source: Liu, Wang, Wang et al., "CBNet: a novel composite backbone network architecture for object detection"
    (2020), section 3, whose links have a batch norm too; `dense_higher` is from Liang, Chu, Liu et al., "CBNetV2"
    (2021), section 3.2, and so are the assistants' outputs, which an auxiliary head or loss supervises.
    """
    if copies < 1:
        raise Refusal("there must be a copy or more", option="copies")
    chained = [g for g in assistants or (lead,) for _ in range(copies)]
    models = [lead, *chained]
    levels = [_levels(g, at) for g in models]
    counts = {len(own) for own in levels}
    if len(counts) > 1:
        said = ", ".join(f"{g.name} {len(own) - 1}" for g, own in zip(models, levels, strict=True))
        raise Refusal(f"the backbones have different numbers of stages: {said}", option="at", fix="list the joints")
    names = prefixes(models)
    edit = Graph(lead.name).edit("composite")
    how = Joint(ZEROS if init == "zeros" else FRESH, always=True, mode="nearest", seed=seed)
    before: _Placed | None = None
    for i in [*range(1, len(models)), 0]:
        graph = frozen(models[i]) if freeze and i else models[i]
        placed = _Placed(edit, graph, names[i], levels[i], whole=outputs or not i)
        if before:
            before.link(placed, links, how)
        if outputs or not i:
            placed.name_outputs("" if not i else f"{names[i]}_")
        before = placed
    made = edit.done()
    kept = {
        path: own for name, graph in zip(names, models, strict=True) for path, own in sources(name, graph, made).items()
    }
    new = [p for p in made.parameters if p.startswith("links.")]
    notes = (
        f"{len(chained)} assisting backbone{'s' * (len(chained) > 1)}: {listed(names[1:])}",
        f"stages end at {listed(str(v) for v in levels[0][1:])}",
        f"{len(new)} new parameters in the links",
    )
    promise = Contract() if init == "zeros" else Contract("alters")
    return Outcome(made, promise, notes, kept | dict.fromkeys(new, ()))


def _levels(graph: Graph, at: Points) -> list[Value]:
    """What the first stage is given, where that is no integers, and what each stage gives."""
    ends = list(points(graph, at).values())
    own = all_blocks(graph)
    if not ends or not own:
        raise Refusal(f"{graph.name} has no stages", option="at", fix="list the joints that its stages end at")
    number = {path: i for i, path in enumerate(graph.nodes)}
    first = own[0].input
    begins = number[first.node] < number[ends[0].node] and graph.type(first).dtype.is_float
    return [first, *ends] if begins else ends


class _Placed:
    """A backbone in the composite. `levels` are what its first stage is given and what each stage gives."""

    def __init__(self, edit: Edit, graph: Graph, name: str, levels: Sequence[Value], *, whole: bool) -> None:
        self.edit, self.graph, self.name, self.levels = edit, graph, name, levels
        self.done = add_part(edit, part(graph, (), () if whole else levels[1:]), name, {})
        self._axes = analyse(graph)

    def name_outputs(self, prefix: str) -> None:
        for name, ref in self.graph.outputs.items():
            self.edit.output(f"{prefix}{name}", self.done[ref])

    def link(self, other: _Placed, links: Links, how: Joint) -> None:
        """Add what the stages of this backbone give to what those of the other one are given."""
        for stage, level in enumerate(other.levels[:-1]):
            given = other.done[level]
            axis = channel_axis(other._axes, level)
            total: Ref = given
            for source in _sources(links, stage, len(self.levels)):
                mine = self.levels[source]
                path = f"links.{self.name}.{source}_{stage}"
                axes = channel_axis(self._axes, mine), axis
                wanted, node = other.graph.type(level), str(mine)[1:]
                link = joined(self.edit, path, self.done[mine], wanted, how, axes=axes, node=node, option="at")
                total = self.edit.add(f"{path}.add", Add(), total, link).value
            other.read(level, total)

    def read(self, level: Value, total: Ref) -> None:
        """Let the nodes that read a value read another in its place."""
        old = self.done[level]
        for reader in self.graph.users.get(level, ()):
            there = next(iter(self.done[v] for v in reader.values if v in self.done), None)
            if isinstance(there, Value):
                inputs = self.edit.node(there.node).inputs
                self.edit.set(there.node, inputs=[total if i == old else i for i in inputs])


def _sources(links: Links, stage: int, levels: int) -> Iterator[int]:
    """The levels that are added to the level that a stage, counted from 0, is given."""
    if links == "same":
        yield stage
    elif links == "lower":
        yield from range(max(0, stage - 1), stage)
    else:
        yield from range(stage + 1, levels if links == "dense_higher" else stage + 2)
