"""A small network beside a frozen one, which gradients never enter."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Literal

from ..axes import Analysis, analyse
from ..blocks import Block, blocks
from ..contract import Contract
from ..graph import Edit, Graph, Ref, Value
from ..operators.activation import Sigmoid
from ..operators.arithmetic import Add, Mul, Sub
from ..operators.creation import Constant
from ..operators.stochastic import StopGradient
from ..probe import bound
from ..reach import Reach, reaches
from ..types import TensorType
from .choose import Paths, chosen_blocks
from .gate import weight
from .join import FRESH, ZEROS, Joint, channel_axis, joined
from .part import add_part, fresh, frozen, part, prefixes, sources
from .prune import prune
from .register import Outcome, Refusal, transform

TEMPERATURE = 10.0
"""What a gate's parameter is multiplied by before the sigmoid (Sung et al., 2022, section 3.1: one over 0.1)."""


@transform
def side(
    graph: Graph,
    at: Paths = "blocks",
    reduction: int = 8,
    numbers: Literal["pruned", "fresh"] = "pruned",
    init: Literal["fresh", "zeros"] = "fresh",
    head: Literal["trained", "frozen"] = "trained",
    seed: int = 0,
) -> Outcome:
    """A ladder side network: a narrow copy of a model's blocks, which reads what the model computes and gives the
    prediction in its place. The model itself is frozen, and outside the backward path.

    A block of the side network is given g · s + (1 - g) · p(h): s is what its block before gives, h what the model's
    block is given, p a projection to the side's width, and g the sigmoid of a learned number. A last such sum is
    projected back and passed to a copy of what follows the model's blocks. Everything of the model stands below its
    name, everything else below `side`.

    Contract: alters; with `init = zeros` `exact`, where the last projection gives 0 and is added to what the model's
    last block gives. Checked on the graph, for every result: no way back from the outputs leads to a node of the model.
    (Its batch norms, in training, still take the statistics of batches.)

    - at: the blocks that the side network has copies of.
    - reduction: how many times narrower it is: of every dimension that can be cut, one in so many units is kept.
    - numbers: those of the copy: of the model's largest units (`pruned`, section 3.2), or new.
    - init: of the last projection: `fresh`, or `zeros` that are added to the model's own.
    - head: whether the copy of what follows the blocks is trained, or has the frozen parameters of the model.
    - seed: what new numbers are drawn with.

    Refuses a reduction below 2, and models without blocks or with nothing that can be narrower.

    Source: Sung, Cho and Bansal, "LST: ladder side-tuning for parameter and memory efficient transfer learning" (2022),
    section 3.
    """
    if reduction < 2:
        raise Refusal(f"a side network {reduction} times narrower is not smaller", option="reduction", fix="8")
    chosen = chosen_blocks(graph, at)
    narrow = prune(graph, ratio=float(1 - Fraction(1, reduction)), score="l1", seed=seed).graph
    narrow = replace(fresh(narrow, seed) if numbers == "fresh" else narrow, name="side")
    a, b = prefixes([graph, narrow])
    ladder = _Ladder(graph, narrow, a, b, Joint(seed=seed))
    end = ladder.climb(chosen, init == "zeros")
    made = ladder.finish(end, trained=head == "trained")
    found = reaches(made)
    own = [path for path in found.nodes if path.startswith(f"{a}.")]
    if own:
        raise Refusal("gradients reach the model", nodes=own)
    kept = sources(a, graph, made)
    kept |= sources(f"{b}.end", graph, made)
    kept |= sources(b, replace(narrow, name=graph.name), made, new=numbers == "fresh")
    new = [p for p in made.parameters if p not in kept]
    return Outcome(
        made,
        Contract() if init == "zeros" else Contract("alters"),
        tuple(_notes(graph, made, a, found)),
        kept | dict.fromkeys(new, ()),
    )


class _Ladder:
    """The side network being built beside the model."""

    def __init__(self, graph: Graph, narrow: Graph, name: str, side: str, how: Joint) -> None:
        self.graph, self.narrow, self.name, self.side, self.how = graph, narrow, name, side, how
        self.edit: Edit = Graph(graph.name).edit("side")
        self.axes: tuple[Analysis, Analysis] = analyse(graph), analyse(narrow)
        self.taken: dict[Value, Ref] = {}

    def climb(self, chosen: list[Block], add: bool) -> Ref:
        """Place the model and the side's blocks; what is passed to the head."""
        last = blocks(self.graph)[-1].output
        self.model = add_part(
            self.edit, part(frozen(self.graph), (), [*(b.input for b in chosen), last]), self.name, {}
        )
        small = {b.path: b for b in blocks(self.narrow)}
        placed: dict[Ref, Ref] = {}
        value: Ref | None = None
        axis = 0
        for i, block in enumerate(chosen):
            own = small[block.path]
            value = self._rung(i, block.input, own.input, value, axis)
            axis = channel_axis(self.axes[1], own.output)
            body = part(self.narrow, (own.input,), (own.output,))
            placed |= add_part(self.edit, body, self.side, {**placed, own.input: value})
            value = placed[own.output]
        end = list(small.values())[-1].output
        value = self._rung(len(chosen), last, end, value, axis)
        how = replace(self.how, initialiser=ZEROS if add else FRESH, always=True)
        axes = channel_axis(self.axes[1], end), channel_axis(self.axes[0], last)
        up = self._joined("up", value, self.graph.type(last), axes, how)
        if not add:
            return up
        return self.edit.add(f"{self.side}.up.add", Add(), self._tapped(last), up).value

    def finish(self, end: Ref, *, trained: bool) -> Graph:
        """Behind it, a copy of what follows the blocks."""
        last = blocks(self.graph)[-1].output
        rest = part(self.graph if trained else frozen(self.graph), (last,))
        done = add_part(self.edit, rest, f"{self.side}.end", {last: end}, None if trained else self.name)
        for name, ref in self.graph.outputs.items():
            self.edit.output(name, done[ref])
        return self.edit.done()

    def _rung(self, number: int, there: Value, here: Value, below: Ref | None, axis: int) -> Ref:
        """What stands for the value `here` of the narrow model: a sum of the model's value `there` and of what the side
        network has computed."""
        wanted, into = self.narrow.type(here), channel_axis(self.axes[1], here)
        path = f"rungs.{number}"
        axes = channel_axis(self.axes[0], there), into
        down = self._joined(f"{path}.down", self._tapped(there), wanted, axes, self.how, str(there)[1:])
        if below is None:
            return down
        below = self._joined(f"{path}.below", below, wanted, (axis, into), self.how)
        path = f"{self.side}.{path}"
        gate = self._gate(path, wanted)
        difference = self.edit.add(f"{path}.sub", Sub(), below, down).value
        share = self.edit.add(f"{path}.mul", Mul(), difference, gate).value
        return self.edit.add(f"{path}.add", Add(), down, share).value

    def _gate(self, path: str, wanted: TensorType) -> Ref:
        number = weight(self.edit, f"{path}.gate", 0.0, dtype=wanted.dtype)
        constant = self.edit.add(f"{path}.temperature", Constant(TEMPERATURE, wanted.dtype)).value
        scaled = self.edit.add(f"{path}.scale", Mul(), number, constant).value
        return self.edit.add(f"{path}.sigmoid", Sigmoid(), scaled).value

    def _joined(
        self, path: str, value: Ref, wanted: TensorType, axes: tuple[int, int], how: Joint, node: str = ""
    ) -> Ref:
        return joined(self.edit, f"{self.side}.{path}", value, wanted, how, axes=axes, node=node, option="at")

    def _tapped(self, value: Value) -> Ref:
        """A value of the model, behind which gradients end."""
        if value not in self.taken:
            path = f"{self.side}.taps.{len(self.taken)}"
            self.taken[value] = self.edit.add(path, StopGradient(), self.model[value]).value
        return self.taken[value]


def _notes(graph: Graph, made: Graph, name: str, found: Reach) -> list[str]:
    """What is trained, and what the forward path keeps for it."""
    one = {"N": 1, "B": 1}
    whole, kept = (reaches(bound(g, one)) for g in (graph, made))
    trained = sum(_size(made, p) for p in found.parameters)
    everything = sum(_size(made, p) for p in made.parameters)
    memory = f"activations kept for the backward path: {_share(kept, whole):.1%} of those of training {name} whole"
    return [
        f"no way back from the outputs leads to a node of {name}; {len(found.backward)} others are on one",
        f"{trained / everything:.1%} of the parameters are trained",
        *([memory] if whole.kept else []),
    ]


def _size(graph: Graph, path: str) -> int:
    elements = graph.parameters[path].type.elements
    return elements if isinstance(elements, int) else 0


def _share(a: Reach, b: Reach) -> float:
    assert isinstance(a.kept, int)
    assert isinstance(b.kept, int)
    return a.kept / b.kept
