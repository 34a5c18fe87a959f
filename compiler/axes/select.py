"""Take, repeat or reorder units of classes, in all parameters and operators at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from ..graph import Graph, Node, Parameter, ParameterRef
from ..types import Dim, TensorType, volume
from .analysis import Analysis, AxisClass
from .structure import Dimension

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@dataclass(frozen=True, eq=False, slots=True)
class Selected:
    """The data of a parameter of which some indices are read along each axis (None: all of them)."""

    source: Parameter
    indices: tuple[Array | None, ...]

    def load(self) -> Array:
        import numpy

        assert self.source.data is not None
        array = self.source.data.load()
        for axis, index in enumerate(self.indices):
            if index is not None:
                array = array.take(index, axis)
        return numpy.ascontiguousarray(array)


class Selection:
    """Units of some classes of an analysed graph: `{class: indices}`.

    A permutation of all indices reorders a class, fewer cut it, repeated ones make it wider. Classes that are not
    named keep all their units. `index` says what this means for an axis, `graph` is the graph with all of it done.
    """

    def __init__(self, analysis: Analysis, units: Mapping[AxisClass, Sequence[int] | Array]) -> None:
        """
        Raises:
            ValueError: for a class that is fixed, an index that it does not have, or no index at all.
        """
        import numpy

        self._analysis = analysis
        self._chosen: dict[Dimension, Array] = {}
        for chosen, indices in units.items():
            index = numpy.asarray(indices, numpy.int64)
            if not chosen.cuttable or not isinstance(chosen.size, int):
                text = chosen.fixed[0].text if chosen.fixed else "its size is 1"
                raise ValueError(f"class {chosen.number} is fixed: {text}")
            if not index.size or index.min() < 0 or index.max() >= chosen.size:
                raise ValueError(f"class {chosen.number} has the units 0 to {chosen.size - 1}, not {indices}")
            self._chosen[analysis.atom(chosen)] = index
        self._sizes: dict[Dimension, Dim] = {}
        self._changed: dict[Dimension, bool] = {}

    def index(self, dimension: Dimension) -> Array | None:
        """Which old index is at each new one along an axis; None where that is all of them, in order."""
        dimension = self._analysis.structure.find(dimension)
        return self._index(dimension) if self._touches(dimension) else None

    def size(self, dimension: Dimension) -> Dim:
        """The new size of a dimension."""
        structure = self._analysis.structure
        dimension = structure.find(dimension)
        if not self._touches(dimension):
            return structure.size(dimension)
        if dimension not in self._sizes:
            self._sizes[dimension] = sum(map(self._width, structure.segments(dimension)), 0)
        return self._sizes[dimension]

    def _width(self, part: Dimension) -> Dim:
        """The new size of an atom or product."""
        if not self._touches(part):
            return self._analysis.structure.size(part)
        if part in self._chosen:
            return len(self._chosen[part])
        return volume(map(self.size, self._analysis.structure.factors(part)))

    def _touches(self, dimension: Dimension) -> bool:
        if dimension not in self._changed:
            self._changed[dimension] = any(a in self._chosen for a in self._analysis.structure.atoms(dimension))
        return self._changed[dimension]

    def _index(self, dimension: Dimension) -> Array:
        import numpy

        structure = self._analysis.structure
        found: list[Array] = []
        before = 0
        for part in structure.segments(dimension):
            size = structure.size(part)
            assert isinstance(size, int), "axes of parameters have sizes in numbers"
            found.append(self._part(part, size) + before)
            before += size
        return numpy.concatenate(found)

    def _part(self, part: Dimension, size: int) -> Array:
        """The indices of an atom or product of this size."""
        import numpy

        if not self._touches(part):
            return numpy.arange(size)
        if part in self._chosen:
            return self._chosen[part]
        found: Array = numpy.zeros(1, numpy.int64)
        for factor in self._analysis.structure.factors(part):
            inner = cast(int, self._analysis.structure.size(factor))
            found = (found[:, None] * inner + self._index(factor)).reshape(-1)
        return found

    def graph(self) -> Graph:
        """The graph with these units only: parameters read through the selection, operators that hold sizes adapted.

        A parameter without data keeps its initialiser. What the model computes stays if classes are only permuted.
        `verify` says where an operator refuses a size, which few do (the variance of a single number).
        """
        old = self._analysis.graph
        parameters = {path: self._parameter(p) for path, p in old.parameters.items()}
        nodes = {path: self._node(node) for path, node in old.nodes.items()}
        return replace(old, nodes=nodes, parameters=parameters)

    def _parameter(self, parameter: Parameter) -> Parameter:
        axes = self._analysis.axes[ParameterRef(parameter.path)]
        indices = tuple(map(self.index, axes))
        if all(i is None for i in indices):
            return parameter
        kind = TensorType(parameter.type.dtype, tuple(map(self.size, axes)))
        return replace(parameter, type=kind, data=parameter.data and Selected(parameter, indices))

    def _node(self, node: Node) -> Node:
        labels = self._analysis.labels[node.path]
        if not any(self._touches(self._analysis.structure.find(d)) for d in labels.dimensions.values()):
            return node
        types = tuple(
            TensorType(t.dtype, tuple(map(self.size, self._analysis.axes[v])))
            for v, t in zip(node.values, node.types, strict=True)
        )
        sizes = {label: self.size(d) for label, d in labels.dimensions.items()}
        return replace(node, op=node.op.resized(sizes, types), types=types)
