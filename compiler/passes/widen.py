"""Compute in double precision: what passes are measured in."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from ..graph import Graph, Node, Parameter, ParameterRef, Ref
from ..operators.operator import Operator
from ..types import DType, TensorType
from ..weights import value
from .computed import Computation, Computed

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@dataclass(frozen=True, eq=False, slots=True)
class _Widened:
    """A parameter's f32 numbers in f64."""

    parameter: Parameter
    seed: int

    def load(self) -> Array:
        return value(self.parameter, self.seed).astype(DType.F64.as_numpy)


def widen(graph: Graph, seed: int = 0) -> Graph:
    """The same graph in f64 wherever it is f32: inputs, attributes, values and parameters; narrower dtypes stay.

    Parameters have the numbers that they have in f32, exactly; but those that a pass computed (`fold_constants`) are
    computed again, in f64. So a folded graph and the graph it was folded from agree to f64's rounding.
    """
    computations: dict[int, Computation] = {}
    parameters = {path: _parameter(p, seed, computations) for path, p in graph.parameters.items()}
    nodes: dict[str, Node] = {}
    for path, node in graph.nodes.items():
        op = cast(Operator, _replaced(node.op))
        types = op.shape(*(None if i is None else _type(i, nodes, parameters) for i in node.inputs))
        nodes[path] = replace(node, op=op, types=types)
    return replace(graph, nodes=nodes, parameters=parameters)


def _type(ref: Ref, nodes: dict[str, Node], parameters: dict[str, Parameter]) -> TensorType:
    return parameters[ref.parameter].type if isinstance(ref, ParameterRef) else nodes[ref.node].types[ref.index]


def _parameter(parameter: Parameter, seed: int, computations: dict[int, Computation]) -> Parameter:
    data, type_ = parameter.data, cast(TensorType, _replaced(parameter.type))
    if isinstance(data, Computed):
        key = id(data.computation)
        if key not in computations:
            computations[key] = Computation(widen(data.computation.graph))
        return replace(parameter, type=type_, data=Computed(computations[key], data.index))
    return parameter if type_ == parameter.type else replace(parameter, type=type_, data=_Widened(parameter, seed))


def _replaced(value: Any) -> Any:
    """An attribute, a type or a whole operator with f64 for f32."""
    if value is DType.F32:
        return DType.F64
    if isinstance(value, TensorType):
        return TensorType(_replaced(value.dtype), value.shape)
    if isinstance(value, tuple):
        return tuple([_replaced(v) for v in cast("tuple[Any, ...]", value)])
    if isinstance(value, Operator):
        assert is_dataclass(value)
        changed = {f.name: new for f in fields(value) if (new := _replaced(old := getattr(value, f.name))) is not old}
        return replace(value, **changed) if changed else value
    return value
