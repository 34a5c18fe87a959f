"""What a graph is trained on: how examples become its input, which output is judged, and what else is in the loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from numpy import iinfo

from ...compiler.dataset import Dataset, shown
from ...compiler.diagnostic import Diagnostic, Label, NetcError
from ...compiler.graph import Graph, Node, Phase, Ref, Value
from ...compiler.types import Dim, DType, Shape, TensorType, substitute, symbols

AUXILIARY = 0.3
"""Weight of an output of the train phase in the loss (Szegedy et al., "Going deeper with convolutions", section 5)."""


@dataclass(frozen=True, slots=True)
class Task:
    """What an example is to the model, and what its outputs are to the loss."""

    shape: tuple[int, ...]
    """Of one example as the model takes it."""
    dtype: DType
    """Of the input: f32, or an integer type."""
    logits: str
    """The output that is judged."""
    auxiliary: tuple[str, ...]
    """Further logits, of the train phase."""
    penalties: tuple[str, ...]
    """Numbers to be added to the loss as they are: outputs of rank 0."""


def sizes(graph: Graph, data: Dataset) -> dict[str, Dim]:
    """The symbols of a graph that fits the data, with their values for one example."""
    node = _input(graph, data)
    wanted = node.types[0].shape[1:]
    return {**(_bind(wanted, _fold(wanted, data.shape) or ()) or {}), str(_batch(node)): 1}


def phase_of(graph: Graph, ref: Ref) -> Phase:
    """The phase in which a value exists."""
    return graph.nodes[ref.node].phase if isinstance(ref, Value) else "both"


def fit(graph: Graph, data: Dataset) -> Task:
    """Match a graph with a data set: one input, one output of logits [N, classes] in both phases.

    Outputs of rank 0 are penalties (a balance of experts, say); further outputs of the train phase are further logits;
    those of the inference phase take no part. An integer input takes integers as they are, an f32 input standardised
    numbers. Examples are flattened or folded where one side is a vector, and axes of size 1 come and go; nothing else
    moves.

    Raises:
        NetcError: with everything that does not fit.
    """
    node = _input(graph, data)
    kind = node.types[0]
    batch = _batch(node)
    shape = _fold(kind.shape[1:], data.shape)
    if shape is None:
        wanted = data.shape if kind.rank != 2 else (math.prod(data.shape),)
        raise _refuse(
            "data-mismatch",
            f"an example of {data.name} is {shown(data.shape)}, and the model takes {shown(kind.shape[1:])}",
            node,
            *_transposed(kind.shape[1:], data.shape),
            fix=f"declare the input as {kind.dtype.value}{shown((batch, *wanted))}",
        )
    phases: dict[str, Phase] = {name: phase_of(graph, ref) for name, ref in graph.outputs.items()}
    penalties = tuple(n for n in phases if phases[n] != "infer" and _is_penalty(graph, n))
    judged = [n for n, phase in phases.items() if phase == "both" and n not in penalties]
    if len(judged) != 1:
        raise _refuse(
            "several-outputs",
            f"a classifier has one output in both phases, and this model has {', '.join(judged) or 'none'}",
            None,
            fix="return the logits, and auxiliary logits from a train { … } part",
        )
    auxiliary = tuple(n for n, phase in phases.items() if phase == "train" and n not in penalties)
    known = _bind(kind.shape[1:], shape) or {}
    checks = (_check_logits(graph, n, batch, known, data) for n in (*judged, *auxiliary))
    problems = [p for p in (*checks, *_check_rows(graph, node, data)) if p]
    if problems:
        raise NetcError(problems)
    return Task(shape, kind.dtype, judged[0], auxiliary, penalties)


def _is_penalty(graph: Graph, name: str) -> bool:
    kind = graph.type(graph.outputs[name])
    return not kind.rank and kind.dtype.is_float


def _check_rows(graph: Graph, node: Node, data: Dataset) -> Iterator[Diagnostic]:
    """The tables that look up what the input holds must have rows enough."""
    if not node.types[0].dtype.is_integer:
        return
    low, high = data.range
    for user in graph.users[node.value]:
        if user.op.name == "embedding" and user.inputs[0] == node.value and user.inputs[1] is not None:
            rows = graph.type(user.inputs[1]).shape[0]
            if isinstance(rows, int) and not 0 <= low <= high < rows:
                message = f"{data.name} holds integers from {low} to {high}, and the embedding has {rows} rows"
                fix = f"give the embedding {high + 1} rows" if low >= 0 else "number from 0"
                yield Diagnostic("data-mismatch", message, _labels(user), fix=fix)


def _refuse(code: str, message: str, node: Node | None, *notes: str, fix: str | None = None) -> NetcError:
    return NetcError([Diagnostic(code, message, _labels(node), notes, fix)])


def _labels(node: Node | None) -> tuple[Label, ...]:
    return tuple(Label(span) for span in node.origin[:1]) if node else ()


def _input(graph: Graph, data: Dataset) -> Node:
    inputs = list(graph.inputs.values())
    if len(inputs) != 1:
        names = ", ".join(graph.inputs) or "(none)"
        raise _refuse("several-inputs", f"training takes a model of one input, and this one has {names}", None)
    kind, dtype = inputs[0].types[0], data.train.x.dtype
    if kind.dtype.is_integer:
        low, high = data.range
        limits = iinfo(kind.dtype.as_numpy)
        if dtype.kind not in "ui" or not limits.min <= low <= high <= limits.max:
            held = f"integers from {low} to {high}" if dtype.kind in "ui" else f"numbers of {dtype}"
            fix = f"declare the input as {'i64' if dtype.kind in 'ui' else 'f32'}{shown(kind.shape)}"
            raise _refuse("data-mismatch", f"the input is {kind}, and {data.name} holds {held}", inputs[0], fix=fix)
    elif kind.dtype is not DType.F32:
        message = f"the input is {kind}; training feeds standardised numbers of f32, or integers"
        raise _refuse("data-mismatch", message, inputs[0], fix=f"declare the input as f32{shown(kind.shape)}")
    return inputs[0]


def _batch(node: Node) -> Dim:
    """The symbol of the batch."""
    kind = node.types[0]
    batch = kind.shape[0] if kind.shape else 0
    if isinstance(batch, int):
        raise _refuse(
            "fixed-batch",
            f"the input {kind} has a fixed first axis; training feeds batches of different sizes",
            node,
            fix=f"declare the input as {kind.dtype.value}{shown(('N', *kind.shape[1:]))}",
        )
    return batch


def _fold(wanted: Shape, given: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape, of the same elements in the same order, that an example takes to fit."""
    if _bind(wanted, given) is not None:
        return given
    if not all(isinstance(d, int) for d in wanted):
        return None
    target = tuple(d for d in wanted if isinstance(d, int))
    vector = min(len(target), len(given)) == 1 and math.prod(target) == math.prod(given)
    return target if vector or [d for d in target if d != 1] == [d for d in given if d != 1] else None


def _bind(wanted: Shape, given: tuple[int, ...]) -> dict[str, Dim] | None:
    """The symbols' values with which the shapes are equal; sizes that are computed follow plain symbols."""
    if len(wanted) != len(given):
        return None
    known: dict[str, Dim] = {}
    for dim, size in zip(wanted, given, strict=True):
        if symbols(dim) == frozenset({str(dim)}):
            known.setdefault(str(dim), size)
    return known if all(substitute(d, known) == s for d, s in zip(wanted, given, strict=True)) else None


def _transposed(wanted: Shape, given: tuple[int, ...]) -> tuple[str, ...]:
    """A hint where channels come last."""
    if len(given) == 3 and _bind(wanted, (given[2], given[0], given[1])) is not None:
        return ("the data seem to have their channels last: numpy.moveaxis(x, -1, 1) puts them first",)
    return ()


def _check_logits(graph: Graph, name: str, batch: Dim, known: Mapping[str, Dim], data: Dataset) -> Diagnostic | None:
    ref = graph.outputs[name]
    kind: TensorType = graph.type(ref).substitute(known)
    node = graph.nodes[ref.node] if isinstance(ref, Value) else None
    if kind.rank != 2 or kind.shape[0] != batch or not kind.dtype.is_float:
        return Diagnostic("data-mismatch", f"the output {name} is {kind}; logits are [{batch}, classes]", _labels(node))
    if kind.shape[1] != data.classes:
        return Diagnostic(
            "data-mismatch",
            f"the output {name} has {kind.shape[1]} classes, and {data.name} has {data.classes}",
            _labels(node),
            fix=f"make the last layer {data.classes} wide",
        )
    return None
