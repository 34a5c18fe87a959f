"""Set single weights to zero, by masks that stay with the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import PositiveInt

from ..calibration import Calibration
from ..contract import Contract
from ..graph import Edit, Graph, Node, Parameter, ParameterRef
from ..operators.arithmetic import Mul
from ..operators.operator import Initialiser
from ..types import DType, TensorType
from ..weights import InMemory
from .choose import Paths
from .importance import Importance
from .numbers import filled
from .read_instead import read_instead
from .register import Outcome, Refusal, transform
from .weight import beside, weights

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@transform
def sparsify(
    graph: Graph,
    at: Paths = "*",
    *,
    ratio: float | None = None,
    pattern: str | None = None,
    score: Literal["l1", "l2", "taylor"] | dict[str, Any] = "l1",
    scope: Literal["uniform", "row", "global"] = "uniform",
    calibration: Calibration | None = None,
    samples: PositiveInt | None = None,
    seed: int = 0,
) -> Outcome:
    """The model with weights of linear and convolution layers multiplied by masks: buffers of truths beside them,
    `fc.mask` for `fc.weight`. Training keeps what they hide at zero; folding constants (`-O1`) multiplies them in.

    With the same scores a higher ratio hides all that a lower one does, so that masks of several ratios are nested.

    Contract: alters. Shapes, and all weights that are not hidden, stay.

    - at: weights, or layers.
    - ratio: the share of numbers that become zero, 0.5 where neither this nor a pattern is given.
    - pattern: `"2:4"`, that of each 4 numbers in a row along the inputs of a layer 2 stay.
    - score: what stays: what is large (`l1`; `l2` ranks alike), to what the outputs are sensitive (`taylor`), or what
      has the largest given numbers.
    - scope: the ratio is that of each weight (`uniform`), of each row of each (`row`: as many in each output), or of
      all together (`global`).
    - calibration, samples: examples for `taylor`, and how many; random ones where there are none.
    - seed: of the numbers of parameters without data.

    Refuses a pattern for weights whose inputs are no multiple of its length; without `at` it leaves those whole, and
    says so.

    Source: Mishra et al., "Accelerating sparse deep neural networks" (2021), for patterns; Qu et al., DRESS (2022), for
    nested masks.
    """
    if ratio is not None and pattern is not None:
        raise Refusal("give a ratio or a pattern, not both", option="pattern")
    share = 0.5 if ratio is None else ratio
    if not 0 < share < 1:
        raise Refusal(f"a ratio of {share:g} is not between 0 and 1", option="ratio")
    found = weights(graph, at)
    whole: dict[str, str] = {}
    groups = None if pattern is None else _groups(pattern)
    if groups is not None:
        whole = {path: why for path, nodes in found.items() if (why := _misfit(graph, path, nodes, groups[1]))}
        if whole and (at != "*" or len(whole) == len(found)):
            notes = [f"{path} has {why}" for path, why in whole.items()]
            raise Refusal(f"{pattern} does not fit all weights", nodes=list(whole), option="pattern", notes=notes[:5])
    importance = Importance(graph, score, calibration, samples, seed)
    scores = {path: _scores(importance, path) for path in found if path not in whole}
    if groups is not None:
        masks = {path: _grouped(s, _input_axis(found[path]), *groups) for path, s in scores.items()}
    else:
        masks = _ranked(scores, share, scope)
    if all(mask.all() for mask in masks.values()):
        raise Refusal(f"no number goes at a ratio of {share:g}", option="ratio")
    edit = graph.edit("sparsify")
    for path, mask in masks.items():
        _mask(edit, graph, path, mask, seed)
    notes = [_said(path, mask, pattern) for path, mask in masks.items()]
    notes += [f"{path} stays whole: it has {why}" for path, why in whole.items()]
    return Outcome(edit.done(), Contract("alters"), tuple(notes), {beside(path, "mask"): (path,) for path in masks})


def _said(path: str, mask: Array, pattern: str | None) -> str:
    share = f"{int(mask.size - mask.sum()):_} of {mask.size:_} are zero"
    return f"{path}: {share}" + (f", {pattern} along its inputs" if pattern else "")


def _mask(edit: Edit, graph: Graph, path: str, mask: Array, seed: int) -> None:
    """Multiply a parameter by a mask for all that read it."""
    old = graph.parameters[path]
    kind = TensorType(DType.BOOL, old.type.shape)
    name = beside(path, "mask")
    if edit.find_parameter(name) is not None:
        raise Refusal(f"the path {name} is taken", nodes=[name])
    edit.parameter(filled(old, seed))
    stored = edit.parameter(Parameter(name, kind, Initialiser("given"), False, True, InMemory(mask), old.origin))
    first = graph.users[ParameterRef(path)][0]
    edit.acting("sparsify", first.path)
    node = edit.add(edit.fresh(beside(path, "masked")), Mul(), ParameterRef(path), stored, origin=first.origin)
    read_instead(edit, graph, ParameterRef(path), node.value)


# ---------------------------------------------------------------------------------------------------- what stays


def _scores(importance: Importance, path: str) -> Array:
    found = importance.numbers(path)
    if found is None:
        raise Refusal(f"there is no score for {path}", nodes=[path], option="score")
    return found


def _ranked(scores: Mapping[str, Array], ratio: float, scope: Literal["uniform", "row", "global"]) -> dict[str, Array]:
    """Masks without the lowest share of the numbers: of each weight, of each row, or of all."""
    import numpy

    if scope == "uniform":
        return {path: _highest(s.reshape(1, -1), ratio).reshape(s.shape) for path, s in scores.items()}
    if scope == "row":
        return {path: _highest(s.reshape(len(s), -1), ratio).reshape(s.shape) for path, s in scores.items()}
    flat = _highest(numpy.concatenate([s.ravel() for s in scores.values()])[None], ratio)[0]
    parts = numpy.split(flat, numpy.cumsum([s.size for s in scores.values()])[:-1])
    return {path: part.reshape(s.shape) for part, (path, s) in zip(parts, scores.items(), strict=True)}


def _highest(rows: Array, ratio: float) -> Array:
    """Where the highest numbers of each row are, at least one; of equal ones the last."""
    import numpy

    gone = min(rows.shape[1] - 1, round(rows.shape[1] * ratio))
    mask = numpy.ones(rows.shape, bool)
    numpy.put_along_axis(mask, numpy.argsort(rows, 1, kind="stable")[:, :gone], False, 1)
    return mask


# ---------------------------------------------------------------------------------------------------- patterns


def _groups(pattern: str) -> tuple[int, int]:
    """How many of how many stay."""
    found = re.fullmatch(r"(\d+):(\d+)", pattern)
    kept, length = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 < kept < length:
        raise Refusal(f'"{pattern}" is no pattern', option="pattern", fix='pattern = "2:4"')
    return kept, length


def _input_axis(layers: list[Node]) -> int:
    """The axis of a weight that its layers sum over."""
    return 0 if "transpose" in layers[0].op.name else 1


def _misfit(graph: Graph, path: str, layers: list[Node], length: int) -> str | None:
    """Why groups of a length do not fill the inputs of a weight, in words."""
    axis = _input_axis(layers)
    inputs = cast(int, graph.parameters[path].type.shape[axis])
    if axis == 0:
        inputs //= int(getattr(layers[0].op, "groups", 1))
    return f"{inputs} input{'s' * (inputs != 1)}" if inputs % length else None


def _grouped(scores: Array, axis: int, kept: int, length: int) -> Array:
    """The highest so many of each so many numbers along an axis."""
    import numpy

    moved = numpy.moveaxis(scores, axis, -1)
    mask = _highest(moved.reshape(-1, length), 1 - kept / length).reshape(moved.shape)
    return numpy.ascontiguousarray(numpy.moveaxis(mask, -1, axis))
