"""The first layers of one network with the last ones of another."""

from __future__ import annotations

from ..axes import analyse
from ..contract import Contract
from ..graph import Edit, Graph, Ref, Value
from .choose import listed
from .join import Joint, channel_axis, joined
from .part import Point, add_part, frozen, part, point, points, prefixes, sources
from .part import fresh as drawn
from .register import Outcome, Refusal, transform


@transform
def graft(
    first: Graph,
    second: Graph,
    at: Point,
    to: Point | None = None,
    freeze: bool = False,
    fresh: bool = False,
    adapt: bool = False,
    seed: int = 0,
) -> Outcome:
    """The layers of one network up to a joint, followed by those of another after its joint.

    Both keep their paths below their names, so that weights stay traceable: `resnet18.layer1.0.conv1`; where the names
    are the same the second one has `_1`. Inputs of the same name are shared. The outputs are those of the second.

    Contract: alters. What is preserved: both parts compute exactly what they did; a network grafted onto itself is the
    same function.

    - at: the joint of the first network: the path of a block, call or node, which stands for what it gives, the name of
      a tap, or a number n for the output of the n-th block.
    - to: the joint of the second; without it the one of the same name or number.
    - freeze: the layers of the first are not trained.
    - fresh: the layers of the second get new numbers, drawn from their initialisers with `seed`.
    - adapt: where the types at the joints differ, a projection that resamples goes between; it is drawn with `seed`.
    - seed: what new numbers are drawn with.

    Refuses joints whose types differ, unless `adapt` joins them, and says which joints would fit; joints that other
    values pass by; models that take different inputs under one name.

    Source: Yosinski, Clune, Bengio and Lipson, "How transferable are features in deep neural networks?" (2014),
    section 2: `freeze` says whether the copied layers are frozen (AnB) or fine-tuned (AnB+), `fresh` draws the others
    anew, and a sweep goes over `at = 1, 2, …`.
    """
    end, start = point(first, at), point(second, at if to is None else to, "at" if to is None else "to")
    a, b = prefixes([first, second])
    head = part(frozen(first) if freeze else first, (), (end,))
    tail = part(drawn(second, seed) if fresh else second, (start,))
    edit = Graph(second.name).edit("graft")
    there = add_part(edit, head, a, {})
    value = _met(edit, first, second, end, start, there[end], adapt, seed)
    done = add_part(edit, tail, b, {start: value})
    for name, ref in second.outputs.items():
        edit.output(name, done[ref])
    made = edit.done()
    notes = (
        f"{a} up to {end}{', frozen' if freeze else ''}: {_count(made, a)} parameters",
        f"{b} after {start}{f', drawn with seed {seed}' if fresh else ''}: {_count(made, b)} parameters",
    )
    kept = sources(a, first, made) | sources(b, second, made, new=fresh)
    return Outcome(made, Contract("alters"), notes, kept)


def _count(graph: Graph, prefix: str) -> int:
    return sum(path.startswith(f"{prefix}.") for path in graph.parameters)


def _met(edit: Edit, first: Graph, second: Graph, end: Value, start: Value, value: Ref, adapt: bool, seed: int) -> Ref:
    """What the second network is given at its joint."""
    have, wanted = first.type(end), second.type(start)
    if have == wanted:
        return value
    if adapt:
        axes = channel_axis(analyse(first), end), channel_axis(analyse(second), start)
        return joined(edit, "adapter", value, wanted, Joint(seed=seed), axes=axes, node=str(end)[1:], option="to")
    fitting = [name for name, v in points(second, "blocks").items() if second.type(v) == have]
    raise Refusal(
        f"{end} of {first.name} gives {have}, and {start} of {second.name} is {wanted}",
        nodes=[end.node, start.node],
        option="to",
        notes=(f"joints of {second.name} that would fit: {listed(fitting)}",),
        fix=fitting[0] if fitting else "adapt = true",
    )
