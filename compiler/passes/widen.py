"""Compute in double precision: what passes are measured in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from ..axes.select import Selected
from ..graph import Graph, Node, Parameter, ParameterRef, Ref, Value
from ..operators.arithmetic import Cast
from ..operators.operator import Operator
from ..types import DType, TensorType
from ..weights import value
from .computed import Computation, Computed, Made

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@dataclass(frozen=True, eq=False, slots=True)
class _Widened:
    """A parameter's numbers in f64."""

    parameter: Parameter
    seed: int

    def load(self) -> Array:
        return value(self.parameter, self.seed).astype(DType.F64.as_numpy)


def widen(graph: Graph, seed: int = 0, *, narrow: bool = False) -> Graph:
    """The same graph in f64 wherever it is f32: inputs, attributes, values and parameters, and what is f32 for being
    made of integers. Narrower dtypes stay, or are widened too where `narrow`. Constants are the numbers as they are
    written, not as f32 rounds them.

    Parameters have the numbers that they have in f32, exactly; but those that a pass computed (`fold_constants`) are
    computed again, in f64. So a folded graph and the graph it was folded from agree to f64's rounding.
    """
    computations: dict[int, Computation] = {}
    wider = _NARROW if narrow else _F32
    parameters = {path: _parameter(p, seed, computations, wider) for path, p in graph.parameters.items()}
    nodes: dict[str, Node] = {}
    for path, node in graph.nodes.items():
        op, inputs = cast(Operator, _replaced(node.op, wider)), node.inputs
        known = [None if i is None else _type(i, nodes, parameters) for i in inputs]
        types = op.shape(*known)
        if any(t.dtype in wider for t in types):
            wholes = {
                i: _free(graph, f"{path}.wide{i}")
                for i, t in enumerate(known)
                if t is not None and not t.dtype.is_float
            }
            for i, name in wholes.items():
                nodes[name] = _cast(name, node, i, known)
            inputs = tuple(Value(wholes[i]) if i in wholes else ref for i, ref in enumerate(inputs))
            types = op.shape(*(None if i is None else _type(i, nodes, parameters) for i in inputs))
        nodes[path] = replace(node, op=op, inputs=inputs, types=types)
    return replace(graph, nodes=nodes, parameters=parameters)


_F32 = frozenset({DType.F32})
_NARROW = frozenset({DType.F32, DType.F16, DType.BF16})


def _free(graph: Graph, path: str) -> str:
    while path in graph.nodes:
        path += "_"
    return path


def _cast(name: str, node: Node, operand: int, types: Sequence[TensorType | None]) -> Node:
    """An operand of integers in f64, for an operator that would make f32 of it."""
    kind = types[operand]
    assert kind is not None
    return Node(name, Cast(DType.F64), (node.inputs[operand],), (TensorType(DType.F64, kind.shape),), node.phase)


def _type(ref: Ref, nodes: dict[str, Node], parameters: dict[str, Parameter]) -> TensorType:
    return parameters[ref.parameter].type if isinstance(ref, ParameterRef) else nodes[ref.node].types[ref.index]


def _parameter(
    parameter: Parameter, seed: int, computations: dict[int, Computation], wider: frozenset[DType]
) -> Parameter:
    data, type_ = parameter.data, cast(TensorType, _replaced(parameter.type, wider))
    if isinstance(data, Computed):
        key = id(data.computation)
        if key not in computations:
            computations[key] = Computation(widen(data.computation.graph, narrow=wider is _NARROW))
        return replace(parameter, type=type_, data=Computed(computations[key], data.index))
    if isinstance(data, Selected):
        return replace(
            parameter, type=type_, data=replace(data, source=_parameter(data.source, seed, computations, wider))
        )
    if isinstance(data, Made):
        sources = tuple(_parameter(p, seed, computations, wider) for p in data.sources)
        return replace(parameter, type=type_, data=replace(data, sources=sources, type=type_))
    return parameter if type_ == parameter.type else replace(parameter, type=type_, data=_Widened(parameter, seed))


def _replaced(value: Any, wider: frozenset[DType]) -> Any:
    """An attribute, a type or a whole operator with f64 for these dtypes."""
    if isinstance(value, DType) and value in wider:
        return DType.F64
    if isinstance(value, TensorType):
        return TensorType(_replaced(value.dtype, wider), value.shape)
    if isinstance(value, tuple):
        return tuple([_replaced(v, wider) for v in cast("tuple[Any, ...]", value)])
    if isinstance(value, Operator):
        assert is_dataclass(value)
        changed = {
            f.name: new for f in fields(value) if (new := _replaced(old := getattr(value, f.name), wider)) is not old
        }
        return replace(value, **changed) if changed else value
    return value
