"""Write one graph as ONNX: names, initialisers, sizes that are known only when the model runs, and nodes by rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...compiler.diagnostic import Diagnostic, NetcError
from ...compiler.graph import Graph, Input, Node, Parameter, ParameterRef, Ref, Value
from ...compiler.types import Dim, DType, Expression, Quotient, TensorType, symbols
from ...compiler.weights import value
from ..rules import Rules
from .arrange import arrange, cut_once, exchange_once

OPSET = 21
"""ONNX 1.16 (2024): widely implemented, and the first opset whose GroupNormalization takes a scale for each channel.

The later Attention, RMSNormalization and RotaryEmbedding (23) are not worth a file that few runtimes read: they are
written as the matrix products and element-wise operators that they are.
"""

TYPES: dict[DType, int] = {
    DType.F64: TensorProto.DOUBLE,
    DType.F32: TensorProto.FLOAT,
    DType.F16: TensorProto.FLOAT16,
    DType.BF16: TensorProto.BFLOAT16,
    DType.I64: TensorProto.INT64,
    DType.I32: TensorProto.INT32,
    DType.I16: TensorProto.INT16,
    DType.I8: TensorProto.INT8,
    DType.U8: TensorProto.UINT8,
    DType.BOOL: TensorProto.BOOL,
}

Rule = Callable[..., str | tuple[str, ...]]
"""`rule(build, op, *inputs)`: the names of the values it made; inputs are names, None where absent."""

RULES: Rules[Rule] = Rules("onnx")


class Build:
    """The ONNX graph so far, and the node being translated: `types` of its inputs, `results` of its outputs."""

    def __init__(self, graph: Graph, seed: int) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.types: tuple[TensorType | None, ...] = ()
        self.results: tuple[TensorType, ...] = ()
        self.path = ""
        self._seed = seed
        self._names: dict[Ref, str] = {}
        self._taken: set[str] = {*graph.inputs, *graph.outputs}
        self._constants: dict[Any, str] = {}
        self._sizes: dict[Any, str] = {}
        self._made: dict[str, tuple[onnx.NodeProto, int]] = {}
        self._wanted = _output_names(graph)

    # ------------------------------------------------------------------------------------------------- what rules call

    def __call__(self, kind: str, *inputs: str | None, **attributes: Any) -> str:
        """Add an ONNX node of one output and return its name; attributes that are None are left out."""
        return self.many(kind, 1, *inputs, **attributes)[0]

    def many(self, kind: str, outputs: int, *inputs: str | None, **attributes: Any) -> tuple[str, ...]:
        """Add an ONNX node and return the names of its first `outputs` outputs."""
        name = self._fresh(f"{self.path}/{kind}")
        names = [name if i == 0 else f"{name}:{i}" for i in range(outputs)]
        given = ["" if i is None else i for i in inputs]
        while given and not given[-1]:
            given.pop()
        kept = {k: v for k, v in attributes.items() if v is not None}
        made = helper.make_node(kind, given, names, name, **kept)
        self.nodes.append(made)
        self._made.update((n, (made, i)) for i, n in enumerate(names))
        return tuple(names)

    @property
    def result(self) -> TensorType:
        """The type of the node's first output."""
        return self.results[0]

    def type(self, operand: int) -> TensorType:
        """The type of an input that is present."""
        found = self.types[operand]
        assert found is not None
        return found

    def constant(self, numbers: Any, dtype: DType = DType.I64) -> str:
        """An initialiser with these numbers; equal ones are shared."""
        array = numpy.asarray(numbers, dtype.as_numpy)
        key = (dtype, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._fresh(f"constant/{_shown(array)}")
            self.initializers[name] = numpy_helper.from_array(array, name)
            self._constants[key] = name
        return self._constants[key]

    def cast(self, x: str, found: DType, wanted: DType) -> str:
        """The value x in the dtype `wanted`."""
        return x if found is wanted else self("Cast", x, to=TYPES[wanted])

    def operand(self, x: str, index: int, wanted: DType) -> str:
        """The input `index`, whose name is x, in the dtype `wanted`."""
        return self.cast(x, self.type(index).dtype, wanted)

    def reshape(self, x: str, before: Sequence[Dim], after: Sequence[Dim]) -> str:
        """The value x of shape `before` as one of shape `after`.

        A symbolic size is written as 0 where x has it at the same axis, and one as -1, so that none need be computed.
        """
        sizes = [0 if isinstance(d, Expression) and d == old else d for d, old in zip(after, before, strict=False)]
        sizes += after[len(sizes) :]
        if sum(isinstance(d, Expression) for d in sizes) > 1:
            return self("Reshape", x, self.vector(after))
        return self("Reshape", x, self.constant([-1 if isinstance(d, Expression) else d for d in sizes]))

    def vector(self, dims: Sequence[Dim]) -> str:
        """An i64 vector of sizes."""
        if not any(isinstance(d, Expression) for d in dims):
            return self.constant(list(dims))
        return self.once((*dims,), "x".join(str(d) for d in dims), lambda: self._joined(dims))

    def _joined(self, dims: Sequence[Dim]) -> str:
        parts: list[str] = []
        run: list[int] = []
        for dim in [*dims, None]:
            if isinstance(dim, int):
                run.append(dim)
                continue
            if run:
                parts.append(self.constant(run))
                run = []
            if dim is not None:
                parts.append(self.size(dim))
        return parts[0] if len(parts) == 1 else self("Concat", *parts, axis=0)

    def size(self, dim: Dim) -> str:
        """A size as an i64 vector of one element, computed from the shapes of the graph's inputs where symbolic."""
        if isinstance(dim, int):
            return self.constant([dim])
        return self.once(dim, str(dim), lambda: self._computed(dim))

    def _computed(self, dim: Expression) -> str:
        whole: str | None = None
        for monomial, coefficient in dim.terms:
            term: str | None = None if coefficient == 1 and monomial else self.constant([coefficient])
            for atom, power in monomial:
                factor = self._symbol(atom) if isinstance(atom, str) else self._quotient(atom)
                for _ in range(power):
                    term = factor if term is None else self("Mul", term, factor)
            assert term is not None
            whole = term if whole is None else self("Add", whole, term)
        assert whole is not None
        return whole

    def scalar_size(self, dim: Dim, dtype: DType = DType.I64) -> str:
        """A size as a rank-0 value."""
        if isinstance(dim, int):
            return self.constant(dim, dtype)

        def make() -> str:
            return self.cast(self("Squeeze", self.size(dim), self.constant([0])), DType.I64, dtype)

        return self.once((dim, dtype), str(dim), make)

    def once(self, key: Any, shown: str, make: Callable[[], str]) -> str:
        """What `make` computes of sizes alone, for the node that first asks for it and for all others."""
        if key not in self._sizes:
            # It outlives that node: its value must keep its name.
            outside = self.path, self._made
            self.path, self._made = f"size/{shown}", {}
            self._sizes[key] = make()
            self.path, self._made = outside
        return self._sizes[key]

    def _quotient(self, atom: Quotient) -> str:
        # Sizes are not negative, so that ONNX's truncating division is the floor.
        return self("Div", self.size(atom.numerator), self.constant([atom.denominator]))

    def _symbol(self, name: str) -> str:
        return self.once(name, name, lambda: self._solve(name))

    def _solve(self, name: str) -> str:
        """The symbol from an axis of an input that is `scale · name + offset`, simplest first."""
        found: list[tuple[tuple[bool, bool], str, int, int, int]] = []
        for path, node in self.graph.inputs.items():
            for axis, dim in enumerate(node.types[0].shape):
                line = _line(dim, name)
                if line:
                    found.append(((line[0] != 1, line[1] != 0), path, axis, *line))
        if not found:
            message = f"the size {name} cannot be read from the shape of an input, as ONNX needs"
            raise NetcError([Diagnostic("unsupported-dimension", message)])
        _, path, axis, scale, offset = min(found)
        size = self("Shape", path, start=axis, end=axis + 1)
        if offset:
            size = self("Sub", size, self.constant([offset]))
        return size if scale == 1 else self("Div", size, self.constant([scale]))

    # -------------------------------------------------------------------------------------------------------- the graph

    def run(self) -> None:
        """Translate all nodes; afterwards `nodes` and `initializers` are complete."""
        for node in self.graph.nodes.values():
            if isinstance(node.op, Input):
                self._names[node.value] = node.path
            else:
                self._node(node)
        for name, ref in self.graph.outputs.items():
            if self._name(ref) != name:
                self.path = f"output/{name}"
                self.nodes.append(helper.make_node("Identity", [self._name(ref)], [name], self._fresh(self.path)))
        exchange_once(self.nodes, self.graph.outputs)
        cut_once(self.nodes, self.initializers, self.graph.outputs)
        arrange(self.nodes, self.initializers, self.graph.outputs)

    def _node(self, node: Node) -> None:
        rule = RULES.get(node.op)
        assert rule is not None, f"{node.op.name} has no rule"
        self.path = node.path
        self._made = {}
        self.types = self.graph.input_types(node)
        self.results = node.types
        first = len(self.nodes)
        made = rule(self, node.op, *(None if i is None else self._name(i) for i in node.inputs))
        names = (made,) if isinstance(made, str) else made
        renamed: dict[str, str] = {}
        for ref, name in zip(node.values, names, strict=True):
            if name in self._made and name not in renamed:
                renamed[name] = self._wanted.get(ref) or self._fresh(str(ref)[1:])
            self._names[ref] = renamed.get(name, name)
        self._rename(first, renamed)
        main = self._made.get(names[0])
        if main:
            main[0].name = node.path

    def _rename(self, first: int, renamed: dict[str, str]) -> None:
        """Give the results of the nodes from `first` on the names of the values they are."""
        for made in self.nodes[first:]:
            for i, name in enumerate(made.input):
                made.input[i] = renamed.get(name, name)
            for i, name in enumerate(made.output):
                made.output[i] = renamed.get(name, name)

    def _name(self, ref: Ref) -> str:
        if ref not in self._names:
            assert isinstance(ref, ParameterRef)
            self._names[ref] = self._parameter(self.graph.parameters[ref.parameter])
        return self._names[ref]

    def _parameter(self, parameter: Parameter) -> str:
        name = self._fresh(parameter.path)
        self.initializers[name] = numpy_helper.from_array(value(parameter, self._seed), name)
        return name

    def _fresh(self, name: str) -> str:
        found, number = name, 0
        while found in self._taken:
            number += 1
            found = f"{name}_{number}"
        self._taken.add(found)
        return found

    def described(self) -> list[onnx.ValueInfoProto]:
        """The types of all values inside the graph."""
        inner = {n for made in self.nodes for n in made.output} - set(self.graph.outputs)
        return [
            info(name, self.graph.type(ref))
            for ref, name in self._names.items()
            if isinstance(ref, Value) and name in inner
        ]


def info(name: str, type: TensorType) -> onnx.ValueInfoProto:
    """A name with its type; symbolic sizes are `dim_param`s."""
    shape = [d if isinstance(d, int) else str(d) for d in type.shape]
    return helper.make_tensor_value_info(name, TYPES[type.dtype], shape)


def _output_names(graph: Graph) -> dict[Ref, str]:
    """Values that can carry an output's name themselves: each the first output that it is."""
    found: dict[Ref, str] = {}
    for name, ref in graph.outputs.items():
        if isinstance(ref, Value) and not isinstance(graph.nodes[ref.node].op, Input):
            found.setdefault(ref, name)
    return found


def _line(dim: Dim, name: str) -> tuple[int, int] | None:
    """(scale, offset) of a size that is `scale · name + offset`, else None."""
    if isinstance(dim, int) or symbols(dim) != frozenset({name}):
        return None
    offset = next((c for m, c in dim.terms if not m), 0)
    rest = [(m, c) for m, c in dim.terms if m]
    if len(rest) != 1 or rest[0][0] != ((name, 1),):
        return None
    return rest[0][1], offset


def _shown(array: Any) -> str:
    if array.ndim == 0:
        return str(array.item())
    return "x".join(map(str, array.tolist())) if array.size <= 6 and array.ndim == 1 else "table"
