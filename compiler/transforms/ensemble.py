"""Two models side by side, whose layers together give the prediction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ..axes import Analysis, analyse
from ..contract import Contract
from ..graph import Edit, Graph, Ref, Value
from ..operators.reduction import Mean
from ..types import TensorType
from .gate import weight, weighted
from .join import Joint, channel_axis, joined
from .part import Points, add_part, frozen, part, points, prefixes, sources
from .register import Outcome, Refusal, transform


@transform
def ensemble(
    first: Graph,
    second: Graph,
    at: Points = "stages",
    to: Points | None = None,
    freeze: bool = False,
    seed: int = 0,
) -> Outcome:
    """A layer-wise ensemble of two models: what they give at corresponding depths is added with learned gates and leads
    to predictions of its own, and the result is a learned sum of those and of the two models' own predictions.

    At each depth: the values of both (averaged over space or tokens where the models give one prediction for an
    example), the second's projected to the first's width, each times its gate; then a projection to the output. The
    weights of the sum begin as 1 for the first model and 0 for all else; with 1 for the second alone it is the second.
    Both models are given the same inputs. Their paths stand below their names, the rest below `fusion`: weights of the
    sum are `fusion.weights.resnet18`, `fusion.weights.0`, …, gates `fusion.0.gates.resnet18`.

    Contract: exact to the first model, until weights are trained.

    - at: the joints of the first model (see `features`): stages, blocks, or a list.
    - to: those of the second; without it as `at` says. The model with more gives those of equal relative depth.
    - freeze: the first model is not trained.
    - seed: what new numbers are drawn with.

    Refuses models whose first outputs, or inputs of one name, differ in type, and values that cannot be joined.

    Source: Roh, Liu, Gui, Yuan, Qin, Whang and Zhao, "LEVI: generalizable fine-tuning via layer-wise ensemble of
    different views" (2024), section 4; there, `first` is pretrained and `second` a small model for the task.
    """
    outputs = next(iter(first.outputs)), next(iter(second.outputs))
    wanted = _prediction(first, second, *outputs)
    ends = list(points(first, at).values()), list(points(second, at if to is None else to).values())
    names = prefixes([first, second])
    edit = Graph(first.name).edit("ensemble")
    one = _Member(edit, frozen(first) if freeze else first, names[0], ends[0], first.outputs.values())
    two = _Member(edit, second, names[1], ends[1], [second.outputs[outputs[1]]])
    how = Joint(always=True, seed=seed)
    axis = channel_axis(one.axes, first.outputs[outputs[0]])
    heads: list[Ref] = []
    for depth, (a, b) in enumerate(_paired(len(ends[0]), len(ends[1]))):
        fused, into = _fused(
            edit, f"fusion.{depth}", one.view(depth, a, wanted), two.view(depth, b, wanted), names, how
        )
        heads.append(joined(edit, f"fusion.{depth}.head", fused, wanted, how, axes=(into, axis)))
    labels = [*names, *map(str, range(len(heads)))]
    weights = [weight(edit, f"fusion.weights.{n}", float(n == names[0]), dtype=wanted.dtype) for n in labels]
    for output, ref in first.outputs.items():
        edit.output(output, one.done[ref])
    predictions = [one.done[first.outputs[outputs[0]]], two.done[second.outputs[outputs[1]]], *heads]
    edit.output(outputs[0], weighted(edit, "fusion.sum", predictions, weights))
    made = edit.done()
    new = [p for p in made.parameters if p.startswith("fusion.")]
    notes = (f"{len(heads)} depth{'s are' if len(heads) > 1 else ' is'} joined", f"{len(new)} new parameters")
    kept = sources(names[0], first, made) | sources(names[1], second, made) | dict.fromkeys(new, ())
    return Outcome(made, Contract(), notes, kept)


def _prediction(first: Graph, second: Graph, a: str, b: str) -> TensorType:
    """The type of what both models predict."""
    mine, other = first.type(first.outputs[a]), second.type(second.outputs[b])
    if mine != other or not mine.dtype.is_float:
        message = f"{first.name} predicts {a}: {mine}, and {second.name} {b}: {other}"
        raise Refusal(message, fix="give models of one prediction, in floats")
    return mine


class _Member:
    """A model in the ensemble."""

    def __init__(self, edit: Edit, graph: Graph, name: str, joints: Sequence[Value], outputs: Iterable[Ref]) -> None:
        self._edit, self._name, self._joints = edit, name, joints
        self.axes: Analysis = analyse(graph)
        self.done = add_part(edit, part(graph, (), [*outputs, *joints]), name, {})

    def view(self, depth: int, number: int, wanted: TensorType) -> tuple[Ref, int]:
        """What the model gives at a joint, as a vector where it predicts one, and the axis of its channels."""
        joint = self._joints[number]
        value, axis = self.done[joint], channel_axis(self.axes, joint)
        rank = self._edit.type(value).rank
        if wanted.rank > 2 or rank == 2:
            return value, axis
        space = tuple(i for i in range(1, rank) if i != axis)
        return self._edit.add(f"fusion.{depth}.{self._name}", Mean(space), value).value, 1


def _fused(
    edit: Edit, path: str, one: tuple[Ref, int], two: tuple[Ref, int], names: Sequence[str], how: Joint
) -> tuple[Ref, int]:
    """Two values, the second brought to the type of the first, each times its gate; and the axis of the channels."""
    first, axis = one
    second = joined(edit, f"{path}.join", two[0], edit.type(first), how, axes=(two[1], axis))
    dtype = edit.type(first).dtype
    gates = [weight(edit, f"{path}.gates.{name}", 0.5, dtype=dtype) for name in names]
    return weighted(edit, path, [first, second], gates), axis


def _paired(first: int, second: int) -> Iterator[tuple[int, int]]:
    """Joints of equal relative depth: all of the model that has fewer."""
    count = min(first, second)
    for i in range(1, count + 1):
        yield i * first // count - 1, i * second // count - 1
