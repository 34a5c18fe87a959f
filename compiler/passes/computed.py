"""Numbers that follow from other numbers: the data of a parameter that a pass computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from ..backend import backend
from ..graph import Graph, Node, Parameter, ParameterRef, Ref, Value
from ..operators.arithmetic import Cast
from ..types import DType, TensorType
from ..weights import value

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@dataclass(frozen=True, eq=False, slots=True)
class Drawn:
    """The numbers that a parameter without data has with a seed."""

    parameter: Parameter
    seed: int

    def load(self) -> Array:
        return value(self.parameter, self.seed)


@dataclass(frozen=True, eq=False, slots=True)
class Made:
    """Data computed, when asked for, from the numbers of `sources`: `function` gets floats as f64 and others as they
    are, and what it gives is cast to `type`. Where a graph is widened to f64 it is computed again, without rounding."""

    function: Callable[..., Array]
    sources: tuple[Parameter, ...]
    type: TensorType

    def load(self) -> Array:
        import numpy

        arrays = [read(p) for p in self.sources]
        made = numpy.asarray(self.function(*arrays))
        return numpy.ascontiguousarray(made, self.type.dtype.as_numpy).reshape(cast("tuple[int, ...]", self.type.shape))


def read(parameter: Parameter) -> Array:
    """A parameter's numbers, floats as f64."""
    array = value(parameter)
    return array.astype("float64", copy=False) if parameter.type.dtype.is_float else array


class Computation:
    """A graph without inputs, run once, by PyTorch and in its dtypes, when the first of its outputs is asked for."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    @cached_property
    def arrays(self) -> list[Array]:
        """The outputs in order."""
        types = [self.graph.type(ref) for ref in self.graph.outputs.values()]
        found = backend("pytorch").Reference(_readable(self.graph))([])
        return [a.astype(t.dtype.as_numpy, copy=True) for a, t in zip(found, types, strict=True)]


@dataclass(frozen=True, eq=False, slots=True)
class Computed:
    """Output `index` of a computation as the data of a parameter."""

    computation: Computation
    index: int

    def load(self) -> Array:
        return self.computation.arrays[self.index]


def extract(graph: Graph, nodes: Iterable[Node], results: Sequence[Value], seed: int) -> Computation:
    """These nodes, in order and with the parameters they read, as a computation of `results`.

    The parameters are those of now, drawn from `seed` where they have no data.
    """
    named: dict[Ref, Ref] = {}
    copies: dict[str, Node] = {}
    parameters: dict[str, Parameter] = {}
    for node in nodes:
        for ref in node.refs:
            if isinstance(ref, ParameterRef) and ref not in named:
                old, path = graph.parameters[ref.parameter], f"p{len(parameters)}"
                parameters[path] = replace(old, path=path, data=old.data or Drawn(old, seed))
                named[ref] = ParameterRef(path)
        inputs = tuple([None if i is None else named[i] for i in node.inputs])
        copy = Node(f"n{len(copies)}", node.op, inputs, node.types)
        copies[copy.path] = copy
        named.update(zip(node.values, copy.values, strict=True))
    outputs = {f"y{i}": named[v] for i, v in enumerate(results)}
    return Computation(Graph("constants", copies, outputs, parameters))


def _readable(graph: Graph) -> Graph:
    """The graph with outputs that numpy knows: bf16 ones in f32, which holds them exactly."""
    edit = graph.edit()
    for name, ref in graph.outputs.items():
        if graph.type(ref).dtype is DType.BF16:
            edit.output(name, edit.add(edit.fresh(name), Cast(DType.F32), ref).value)
    return edit.done()
