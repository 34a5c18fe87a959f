"""What all blocks of a model give, brought together for what follows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..axes import analyse
from ..contract import Contract
from ..graph import Edit, Graph, Parameter, Ref
from ..operators.activation import Gelu, Softmax
from ..operators.arithmetic import Mul
from ..operators.convolution import Conv2d
from ..operators.layout import Permute, Reshape, Stack
from ..operators.reduction import Sum
from ..operators.stochastic import StopGradient
from ..types import Dim, TensorType, volume
from .choose import listed
from .gate import weight
from .join import FRESH, ZEROS, Joint, channel_axis, joined
from .numbers import filled
from .part import Points, add_part, frozen, part, points, prefixes, sources
from .register import Outcome, Refusal, transform


@transform
def interface(
    graph: Graph,
    kind: Literal["weighted", "convolution"] = "weighted",
    at: Points = "blocks",
    kernel_size: int = 3,
    freeze: bool = True,
    seed: int = 0,
) -> Outcome:
    """What a model gives at many depths, as one value of the last one's type: features for a task.

    `weighted` is the sum by weights that are the softmax of learned numbers (equal at first). `convolution` goes over
    the axis of depths by convolutions of stride 2, each but the last followed by GELU, until one is left: as many
    levels as the logarithm of the number of joints. Values of other sizes or widths are joined to the last one's
    first. The model stands below its name, the rest below `interface`.

    Contract: alters. What is preserved: every value of the model; the weighted sum with all weight on one joint is the
    value there.

    - kind: `weighted` or `convolution`.
    - at: the joints: `blocks`, `stages`, or a list (see `features`).
    - kernel_size: how many neighbouring depths a convolution sees; odd.
    - freeze: the model is not trained, and no gradient enters it.
    - seed: what new numbers are drawn with.

    Refuses models without blocks, and values that cannot be joined.

    Source: Shih and Harwath, "Interface design for self-supervised speech models" (2024), sections 3.1 (weighted sum,
    as in SUPERB) and 3.2 (hierarchical convolution).
    """
    if kernel_size < 3 or not kernel_size % 2:
        raise Refusal(f"a kernel of {kernel_size} has no middle, or no neighbours", option="kernel_size", fix="3")
    ends = points(graph, at)
    if len(ends) < 2:
        raise Refusal(f"{graph.name} has {len(ends)} joints there, and an interface takes 2 or more", option="at")
    (name,) = prefixes([graph])
    joints = list(ends.values())
    found = analyse(graph)
    edit = Graph(graph.name).edit("interface")
    done = add_part(edit, part(frozen(graph) if freeze else graph, (), joints), name, {})
    wanted, axis = graph.type(joints[-1]), channel_axis(found, joints[-1])
    values: list[Ref] = []
    for i, joint in enumerate(joints):
        tap = edit.add(f"interface.taps.{i}", StopGradient(), done[joint]).value if freeze else done[joint]
        axes = channel_axis(found, joint), axis
        path, node = f"interface.join.{i}", str(joint)[1:]
        values.append(joined(edit, path, tap, wanted, Joint(seed=seed), axes=axes, node=node, option="at"))
    features = _weighted(edit, values) if kind == "weighted" else _convolved(edit, values, axis, kernel_size, seed)
    edit.output("features", features)
    made = edit.done()
    new = [p for p in made.parameters if p.startswith("interface.")]
    notes = (
        f"features: {wanted} from {len(joints)} joints: {listed(ends)}",
        f"{len(new)} new parameter{'s' * (len(new) > 1)}; the model is {'frozen' if freeze else 'trained too'}",
    )
    return Outcome(made, Contract("alters"), notes, sources(name, graph, made) | dict.fromkeys(new, ()))


def _weighted(edit: Edit, values: Sequence[Ref]) -> Ref:
    kind = edit.type(values[0])
    numbers = weight(edit, "interface.weight", 0.0, len(values), kind.dtype)
    shares = edit.add("interface.softmax", Softmax(0), numbers).value
    shares = edit.add("interface.reshape", Reshape((len(values), *(1,) * kind.rank)), shares).value
    stacked = edit.add("interface.stack", Stack(0), *values).value
    terms = edit.add("interface.mul", Mul(), stacked, shares).value
    return edit.add("interface.sum", Sum((0,), False), terms).value


def _convolved(edit: Edit, values: Sequence[Ref], axis: int, kernel: int, seed: int) -> Ref:
    """As maps `[N, C, places, depths]`, convolved along the last axis."""
    kind = edit.type(values[0])
    order = (0, axis, *(i for i in range(1, kind.rank) if i != axis))
    moved = tuple(kind.shape[i] for i in order)
    count, width = len(values), kind.shape[axis]
    value = edit.add("interface.stack", Stack(kind.rank), *values).value
    if order != tuple(range(kind.rank)):
        value = edit.add("interface.permute", Permute((*order, kind.rank)), value).value
    places = volume(moved[2:])
    value = edit.add("interface.flatten", Reshape((kind.shape[0], width, places, count)), value).value
    level = 0
    while count > 1:
        value = _level(edit, f"interface.levels.{level}", value, width, kernel, seed)
        count, level = (count + 1) // 2, level + 1
        if count > 1:
            value = edit.add(f"interface.levels.{level - 1}.gelu", Gelu(), value).value
    value = edit.add("interface.unflatten", Reshape(moved), value).value
    back = tuple(order.index(i) for i in range(kind.rank))
    return value if back == order == tuple(range(kind.rank)) else edit.add("interface.back", Permute(back), value).value


def _level(edit: Edit, path: str, value: Ref, width: Dim, kernel: int, seed: int) -> Ref:
    """Half as many depths."""
    dtype = edit.type(value).dtype
    shape = TensorType(dtype, (width, width, 1, kernel))
    weights = edit.parameter(filled(Parameter(f"{path}.weight", shape, FRESH), seed))
    bias = edit.parameter(filled(Parameter(f"{path}.bias", TensorType(dtype, (width,)), ZEROS)))
    op = Conv2d((1, 2), ((0, 0), (kernel // 2, kernel // 2)), (1, 1), 1)
    return edit.add(path, op, value, weights, bias).value
