"""Small networks between the layers of a model, which alone are trained."""

from __future__ import annotations

from typing import Literal, cast

from pydantic import PositiveInt

from ..axes import Analysis, analyse
from ..blocks import spine
from ..contract import Contract
from ..graph import Edit, Graph, Parameter, Ref, Value
from ..operators.activation import Gelu, Relu, Silu
from ..operators.arithmetic import Add
from ..operators.convolution import Conv1d, Conv2d, Conv3d
from ..operators.linear import Linear
from ..operators.operator import Initialiser, Operator
from ..operators.parameter import FAN_IN
from ..types import TensorType
from .choose import Paths, chosen_blocks
from .join import channel_axis
from .numbers import filled
from .read_instead import read_instead
from .register import Outcome, Refusal, transform
from .residual import residuals
from .weight import frozen

_ACTIVATIONS: dict[str, Operator] = {"gelu": Gelu(), "relu": Relu(), "silu": Silu()}


@transform
def adapter(
    graph: Graph,
    at: Paths = "blocks",
    rank: PositiveInt = 16,
    activation: Literal["gelu", "relu", "silu"] = "gelu",
    freeze: bool = True,
    seed: int = 0,
) -> Outcome:
    """Add a bottleneck to what each branch of a block makes, before it is added: f becomes f + up(act(down(f))), with
    the parameters `<block>.adapter.down` and `.up`. Where a block is no sum of its input and what it makes of it, its
    output gets one.

    Contract: exact, since `up` is zero at first.

    - at: blocks.
    - rank: how many features the bottleneck has.
    - activation: between `down` and `up`.
    - freeze: nothing is trained any more but the adapters.
    - seed: for the numbers of `down`.

    Refuses values of which no axis is one of features: the last one, or that after the batch's.

    Source: Houlsby et al., "Parameter-efficient transfer learning for NLP" (2019), section 2.1.
    """
    found, analysis = spine(graph), analyse(graph)
    edit = graph.edit("adapter")
    new: set[str] = set()
    places: list[tuple[str, Value]] = []
    for block in chosen_blocks(graph, at):
        branches = [part.branch for part in residuals(found, block)[0]] or [block.output]
        places += [(block.path, branch) for branch in branches]
    for path, branch in places:
        edit.acting("adapter", branch.node)
        home = edit.fresh(f"{path}.adapter")
        own, out = _bottleneck(edit, analysis, branch, home, rank, _ACTIVATIONS[activation], seed)
        read_instead(edit, graph, branch, out)
        new |= {p.path for p in own}
    count = sum(cast(int, p.type.elements) for p in edit.parameters() if p.path in new)
    notes = [f"{len(places)} adapters of rank {rank} are new, of {count:,} parameters in all"]
    if freeze:
        notes.append(f"{frozen(edit, but=new):,} parameters are frozen")
    return Outcome(edit.done(), Contract(), tuple(notes))


def _bottleneck(
    edit: Edit, analysis: Analysis, x: Value, home: str, rank: int, activation: Operator, seed: int
) -> tuple[list[Parameter], Ref]:
    kind = analysis.graph.type(x)
    axis = channel_axis(analysis, x)
    last = axis == kind.rank - 1
    learned = any(own.places for own, _ in analysis.of(x, axis))
    if not kind.dtype.is_float or not learned or not (last or (axis == 1 and kind.rank in _POINTWISE)):
        raise Refusal(f"no axis of {x} is one of features", nodes=[x.node], option="at")
    width = cast(int, kind.shape[axis])
    op = Linear() if last else _POINTWISE[kind.rank]
    ones = () if last else (1,) * (kind.rank - 2)
    zeros = Initialiser("zeros")

    def new(path: str, shape: tuple[int, ...], initialiser: Initialiser) -> Parameter:
        return filled(Parameter(f"{home}.{path}", TensorType(kind.dtype, shape), initialiser), seed)

    own = [
        new("down.weight", (rank, width, *ones), FAN_IN),
        new("down.bias", (rank,), zeros),
        new("up.weight", (width, rank, *ones), zeros),
        new("up.bias", (width,), zeros),
    ]
    refs = [edit.parameter(p) for p in own]
    down = edit.add(f"{home}.down", op, x, *refs[:2])
    hidden = edit.add(f"{home}.{activation.name}", activation, down.value)
    up = edit.add(f"{home}.up", op, hidden.value, *refs[2:])
    return own, edit.add(home, Add(), x, up.value).value


_POINTWISE: dict[int, Operator] = {
    3: Conv1d(),
    4: Conv2d(),
    5: Conv3d(),
}
"""Convolutions of width 1, by the rank of what they read."""
