"""Graph → Relax: each node becomes calls of kernels written as tensor expressions.

Three things are decided here, because only here is everything known:

- **Two functions.** What depends on parameters alone is computed once, at compile time, by the function `prepare`
  (weights folded, transposed and packed); what is left is `main`, whose parameters are the model's inputs and the
  results of `prepare`.
- **Axis orders.** A value is stored with its axes in any order: `permute` only renames axes, a convolution gives its
  channels last, and an element-wise kernel keeps the order it finds. Axes are put back where a reader needs them.
- **Symbols.** A symbolic dimension is a TIR variable in the kernels, read from the shapes of the inputs at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, Protocol

from tvm import relax, te, tirx
from tvm.script.ir_builder import IRBuilder

from ...compiler.diagnostic import Diagnostic, Label, NetcError
from ...compiler.graph import Graph, Input, ParameterRef, Ref
from ...compiler.types import Dim, DType, Expression, Quotient, Shape, TensorType, divide, symbols
from ..rules import Rules
from .index import literal
from .machine import Machine

DTYPES: dict[DType, str] = {
    DType.F64: "float64",
    DType.F32: "float32",
    DType.F16: "float16",
    DType.BF16: "bfloat16",
    DType.I64: "int64",
    DType.I32: "int32",
    DType.I16: "int16",
    DType.I8: "int8",
    DType.U8: "uint8",
    DType.BOOL: "bool",
}
"""TVM's names of our dtypes."""

Order = tuple[int, ...]
"""The logical axis that each physical axis holds, outermost first."""


class Pattern(IntEnum):
    """How a kernel takes part in Relax's fusion (`relay::OpPatternKind`)."""

    ELEMENTWISE = 0
    BROADCAST = 1
    INJECTIVE = 2
    REDUCTION = 3
    FUSABLE = 4  # takes element-wise followers into its loops
    OPAQUE = 8


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value on its way through the lowering: what it means, and where and how it is stored."""

    type: TensorType
    expr: Any
    order: Order
    constant: bool
    number: int | float | bool | None = None
    """The value of a rank-0 tensor that is known; kernels take it as an immediate and `expr` is None."""

    @property
    def stored(self) -> Shape:
        """The dimensions in the order of storage."""
        return tuple(self.type.shape[a] for a in self.order)


def plain(rank: int) -> Order:
    return tuple(range(rank))


def _moved(order: Order, shape: Shape) -> list[int]:
    """The axes whose place in storage matters."""
    return [axis for axis in order if shape[axis] != 1]


def channels_last(rank: int) -> Order:
    """The order of `[N, C, *space]` with the channels innermost."""
    return (0, *range(2, rank), 1)


class View:
    """A kernel's argument, read by logical index whatever its storage."""

    def __init__(self, tensor: Tensor, shape: tuple[Any, ...], source: Any) -> None:
        self.type = tensor.type
        self.shape = shape
        self.dtype = DTYPES[tensor.type.dtype]
        self.number = tensor.number
        self._order = tensor.order
        self._source = source

    def __getitem__(self, index: Sequence[Any]) -> Any:
        """The element at a logical index, one expression an axis."""
        assert len(index) == len(self.shape), f"an index of {len(index)} into {self.type}"
        if self.number is not None:
            return tirx.const(self.number, self.dtype)
        return self._source(*(index[a] for a in self._order))

    def broadcast(self, index: Sequence[Any]) -> Any:
        """The element for an index into a shape that this one broadcasts to."""
        own = index[len(index) - len(self.shape) :]
        return self[[literal(0) if d == 1 else i for i, d in zip(own, self.type.shape, strict=True)]]


class Kernel:
    """What a kernel's body is written with: dimensions, reduction axes and stages."""

    def __init__(self, name: str, machine: Machine) -> None:
        self.name = name
        self.machine = machine
        self.symbols: dict[str, Any] = {}

    def dim(self, dim: Dim) -> Any:
        """A dimension as an expression over this kernel's variables."""
        return index_expression(dim, self._symbol)

    def _symbol(self, name: str) -> Any:
        return self.symbols.setdefault(name, tirx.Var(name, "int64"))

    def whole(self, dim: Dim, multiple: int) -> tuple[Any, bool]:
        """The extent of an axis brought to whole tiles, and whether that lengthens it.

        A symbolic one is padded in the very form that splitting a loop gives, in which the scheduler recognises it.
        """
        if divide(dim, multiple) is not None:
            return self.dim(dim), False
        if isinstance(dim, int):
            return literal(-(-dim // multiple) * multiple), True
        return tirx.floordiv(self.dim(dim) + literal(multiple - 1), literal(multiple)) * literal(multiple), True

    def axis(self, extent: Any, name: str) -> Any:
        """A reduction axis; the extent is a `Dim` or an expression."""
        return te.reduce_axis((literal(0), self._extent(extent)), name)

    def _extent(self, extent: Any) -> Any:
        return self.dim(extent) if isinstance(extent, int | Expression) else extent

    def stage(
        self,
        shape: Sequence[Any],
        function: Callable[..., Any],
        name: str | None = None,
        *,
        order: Order | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Any:
        """A tensor by formula: `function` takes a logical index; the result is stored in `order`.

        Attributes become block annotations, which the schedule rules read.
        """
        order = plain(len(shape)) if order is None else order
        extents = [self._extent(shape[a]) for a in order]

        def body(*stored: Any) -> Any:
            return function(*logical(order, stored))

        if not order:
            extents, body = [literal(1)], lambda _: function()  # a block needs a loop; storage of rank 0 is one element
        return te.compute(extents, body, name=name or self.name, attrs=dict(attributes or {}))


def logical(order: Order, stored: Sequence[Any]) -> list[Any]:
    """An index in the order of storage, put in logical order."""
    index: list[Any] = [None] * len(order)
    for axis, value in zip(order, stored, strict=True):
        index[axis] = value
    return index


def index_expression(dim: Dim, symbol: Callable[[str], Any]) -> Any:
    """A dimension as a TIR expression; `symbol` gives the variable of a name."""
    if isinstance(dim, int):
        return literal(dim)
    total: Any = None
    for monomial, coefficient in dim.terms:
        term: Any = None
        for atom, power in monomial:
            factor = (
                tirx.floordiv(index_expression(atom.numerator, symbol), literal(atom.denominator))
                if isinstance(atom, Quotient)
                else symbol(atom)
            )
            for _ in range(power):
                term = factor if term is None else term * factor
        term = literal(coefficient) if term is None else term if coefficient == 1 else term * literal(coefficient)
        total = term if total is None else total + term
    return total


class Stage:
    """One Relax function under construction: bindings in order, over one set of shape variables."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.parameters: list[Any] = []
        self.bindings: list[Any] = []
        self.symbols: dict[str, Any] = {}
        self.builder: Any = relax.BlockBuilder()

    def symbol(self, name: str) -> Any:
        return self.symbols.setdefault(name, tirx.Var(name, "int64"))

    def type(self, dtype: DType, shape: Shape) -> Any:
        return relax.TensorType([index_expression(d, self.symbol) for d in shape], DTYPES[dtype])

    def parameter(self, name: str, dtype: DType, shape: Shape) -> Any:
        variable = relax.Var(name, self.type(dtype, shape))
        self.parameters.append(variable)
        return variable

    def bind(self, value: Any, type: Any) -> Any:
        variable = relax.DataflowVar(f"v{len(self.bindings)}", type)
        self.bindings.append(relax.VarBinding(variable, value))
        return variable

    def module(self, outputs: Sequence[Any]) -> Any:
        """The IRModule of this function and its kernels; it returns the tuple of `outputs`."""
        result = relax.Var("result", relax.TupleType([o.ty for o in outputs]))
        block = relax.DataflowBlock([*self.bindings, relax.VarBinding(result, relax.Tuple(list(outputs)))])
        body = relax.SeqExpr([block], result)
        function = relax.Function(self.parameters, body, result.ty, is_pure=True)
        module = self.builder.get()
        module[self.name] = function.with_attr("global_symbol", self.name)
        return module


class Rule(Protocol):
    """How an operator is lowered: its inputs (None where absent) and output types to its outputs."""

    def __call__(
        self, low: Lowering, op: Any, inputs: Sequence[Tensor | None], types: tuple[TensorType, ...], /
    ) -> Tensor | tuple[Tensor, ...]: ...


rules: Rules[Rule] = Rules("TVM")


@dataclass
class Lowering:
    """The state of one lowering, and the vocabulary that rules are written in."""

    machine: Machine
    main: Stage = field(default_factory=lambda: Stage("main"))
    prepare: Stage = field(default_factory=lambda: Stage("prepare"))
    exports: list[Any] = field(default_factory=list[Any])
    """Variables of `prepare` that `main` reads, in the order of main's extra parameters."""
    data: dict[str, Any] = field(default_factory=dict[str, Any])
    """Arrays that are part of the graph itself (`constant` nodes), by the name of their parameter of `prepare`."""

    _imported: dict[Any, Any] = field(default_factory=dict[Any, Any])
    _made: dict[Any, Tensor] = field(default_factory=dict[Any, Tensor])

    def kernel(
        self,
        name: str,
        inputs: Sequence[Tensor],
        types: Sequence[TensorType],
        body: Callable[..., Any],
        *,
        pattern: Pattern,
        orders: Sequence[Order] | None = None,
    ) -> tuple[Tensor, ...]:
        """Call a kernel: `body(kernel, *views)` gives one stage for each output type.

        It runs at compile time where all it reads is constant and its results have no symbol.
        """
        orders = orders or [plain(t.rank) for t in types]
        kernel = Kernel(name, self.machine)
        arguments: list[Any] = []
        views: list[View] = []
        for i, tensor in enumerate(inputs):
            shape = tuple(kernel.dim(d) for d in tensor.type.shape)
            source: Any = None
            if tensor.number is None:
                extents = [shape[a] for a in tensor.order] or [literal(1)]
                source = te.placeholder(extents, DTYPES[tensor.type.dtype], f"in{i}")
                arguments.append((tensor, source))
            views.append(View(tensor, shape, source if source is None or tensor.order else _scalar_reader(source)))
        made = body(kernel, *views)
        outputs = list(made) if isinstance(made, tuple) else [made]
        return self._call(kernel, arguments, outputs, types, orders, {"op_pattern": int(pattern)})

    def program(
        self, name: str, inputs: Sequence[Tensor], types: Sequence[TensorType], write: Callable[..., None]
    ) -> tuple[Tensor, ...]:
        """Call a kernel written as loops and stores, for what has no formula: `write(kernel, sources, results)`.

        Sources and results are buffers stored in logical order; the program is its own schedule.
        """
        kernel = Kernel(name, self.machine)
        arguments: list[tuple[Tensor, Any]] = []
        for i, given in enumerate(inputs):
            tensor = self.plain(given if given.number is None else self.fill(given))
            extents = [kernel.dim(d) for d in tensor.type.shape] or [literal(1)]
            arguments.append((tensor, te.placeholder(extents, DTYPES[tensor.type.dtype], f"in{i}")))

        def statements(sources: Sequence[Any], results: Sequence[Any]) -> Any:
            with IRBuilder() as builder:
                write(kernel, list(sources), list(results))
                return builder.get()

        shapes = [[kernel.dim(d) for d in t.shape] or [literal(1)] for t in types]
        dtypes = [DTYPES[t.dtype] for t in types]
        sources = [source for _, source in arguments]
        made: Any = te.extern(
            shapes,
            sources,
            statements,
            name=name,
            dtype=dtypes,
            in_buffers=[tirx.decl_buffer(s.shape, s.dtype, s.op.name) for s in sources],
            out_buffers=[tirx.decl_buffer(s, d, f"out{i}") for i, (s, d) in enumerate(zip(shapes, dtypes, strict=True))],
        )
        outputs = [made] if len(types) == 1 else list(made)
        attributes = {"op_pattern": int(Pattern.OPAQUE), "tirx.is_scheduled": True}
        return self._call(kernel, arguments, outputs, types, [plain(t.rank) for t in types], attributes)

    def _call(
        self,
        kernel: Kernel,
        arguments: list[tuple[Tensor, Any]],
        outputs: list[Any],
        types: Sequence[TensorType],
        orders: Sequence[Order],
        attributes: dict[str, Any],
    ) -> tuple[Tensor, ...]:
        constant = all(t.constant for t, _ in arguments) and not kernel.symbols
        stage = self.prepare if constant else self.main
        bound = {d for t, _ in arguments for d in map(str, t.type.shape) if d in kernel.symbols}
        extra = sorted(kernel.symbols.keys() - bound)
        sources = [source for _, source in arguments]
        function = te.create_prim_func([*sources, *(kernel.symbols[s] for s in extra), *outputs], "int64")
        function = function.with_attrs(attributes).without_attr("global_symbol")
        callee = stage.builder.add_func(function, kernel.name)
        read = [self.expression(t, constant) for t, _ in arguments]
        results = [
            stage.type(t.dtype, tuple(t.shape[a] for a in order) or (1,))
            for t, order in zip(types, orders, strict=True)
        ]
        call = relax.call_tir(callee, relax.Tuple([*read, *(stage.symbol(s) for s in extra)]), results)
        if len(results) == 1:
            return (Tensor(types[0], stage.bind(call, results[0]), tuple(orders[0]), constant),)
        whole = stage.bind(call, relax.TupleType(results))
        return tuple(
            Tensor(type, stage.bind(relax.TupleGetItem(whole, i), result), tuple(order), constant)
            for i, (type, order, result) in enumerate(zip(types, orders, results, strict=True))
        )

    def map(
        self,
        name: str,
        inputs: Sequence[Tensor],
        type: TensorType,
        function: Callable[..., Any],
        *,
        order: Order | None = None,
        pattern: Pattern = Pattern.INJECTIVE,
    ) -> Tensor:
        """A kernel of one formula: `function(index, *views)` is the element at a logical output index."""
        order = plain(type.rank) if order is None else order

        def body(kernel: Kernel, *views: View) -> Any:
            return kernel.stage(type.shape, lambda *index: function(index, *views), order=order)

        return self.kernel(name, inputs, [type], body, pattern=pattern, orders=[order])[0]

    def elementwise(
        self, name: str, inputs: Sequence[Tensor], type: TensorType, function: Callable[..., Any]
    ) -> Tensor:
        """A kernel of broadcast operands, stored as the largest of them is; `function` takes their elements."""
        order = next((t.order for t in inputs if t.type.shape == type.shape and not t.constant), None)
        order = order or next((t.order for t in inputs if t.type.shape == type.shape), plain(type.rank))
        return self.map(
            name,
            inputs,
            type,
            lambda index, *views: function(*(v.broadcast(index) for v in views)),
            order=order,
            pattern=_elementwise_pattern(inputs, type, order),
        )

    def number(self, value: float | int | bool, dtype: DType) -> Tensor:
        """A known number of rank 0."""
        return Tensor(TensorType(dtype, ()), None, (), True, value)

    def array(self, value: Any, dtype: DType) -> Tensor:
        """A numpy array as a constant."""
        name = f"constant_{len(self.data)}"
        self.data[name] = value
        shape = tuple(int(d) for d in value.shape)
        return Tensor(
            TensorType(dtype, shape), self.prepare.parameter(name, dtype, shape or (1,)), plain(len(shape)), True
        )

    def input(self, name: str, type: TensorType) -> Tensor:
        return Tensor(type, self.main.parameter(name, type.dtype, type.shape or (1,)), plain(type.rank), False)

    def parameter(self, path: str, type: TensorType) -> Tensor:
        """A parameter of the model, under its path."""
        return Tensor(type, self.prepare.parameter(path, type.dtype, type.shape or (1,)), plain(type.rank), True)

    def expression(self, tensor: Tensor, constant: bool) -> Any:
        """The Relax variable that holds a tensor, in `prepare` where `constant`, else in `main`."""
        if tensor.number is not None:
            tensor = self.fill(tensor)
        if constant or not tensor.constant:
            return tensor.expr
        if tensor.expr not in self._imported:
            name = f"weight_{len(self.exports)}"
            self.exports.append(tensor.expr)
            self._imported[tensor.expr] = self.main.parameter(name, tensor.type.dtype, tensor.stored or (1,))
        return self._imported[tensor.expr]

    def fill(self, tensor: Tensor) -> Tensor:
        """A known number as a tensor in memory."""
        value = tirx.const(tensor.number, DTYPES[tensor.type.dtype])
        return self.map("full", [], tensor.type, lambda _: value)

    def reorder(self, tensor: Tensor, order: Order) -> Tensor:
        """The tensor stored with its axes in `order`: itself where it is so already, else a copy, made once."""
        if tensor.order == order or tensor.number is not None:
            return tensor
        if _moved(tensor.order, tensor.type.shape) == _moved(order, tensor.type.shape):
            return self._view(tensor, tensor.type, order)
        return self.once(
            ("permute", tensor.expr, tensor.order, order),
            lambda: self.map("permute", [tensor], tensor.type, lambda index, x: x[index], order=order),
        )

    def once(self, key: tuple[Any, ...], make: Callable[[], Tensor]) -> Tensor:
        """What `make` gives, made at the first request: several readers of a value share its copies."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def plain(self, tensor: Tensor) -> Tensor:
        """The tensor stored in the logical order of its axes."""
        return self.reorder(tensor, plain(tensor.type.rank))

    def renamed(self, tensor: Tensor, type: TensorType, axes: Sequence[int]) -> Tensor:
        """The same storage under permuted axes: output axis `i` is input axis `axes[i]`. Costs nothing."""
        place = {axis: i for i, axis in enumerate(axes)}
        return replace(tensor, type=type, order=tuple(place[a] for a in tensor.order))

    def reshape(self, tensor: Tensor, type: TensorType) -> Tensor:
        """The same elements in row-major order under another shape; a copy only where axes that merge lie apart."""
        if tensor.number is not None:
            tensor = self.fill(tensor)
        if tensor.type.shape == type.shape:
            return replace(tensor, type=type)
        order = regroup(tensor.type.shape, tensor.order, type.shape)
        if order is None:
            tensor, order = self.plain(tensor), plain(type.rank)
        return self._view(tensor, type, order)

    def _view(self, tensor: Tensor, type: TensorType, order: Order) -> Tensor:
        stage = self.prepare if tensor.constant else self.main
        shape = tuple(type.shape[a] for a in order) or (1,)
        if shape == (tensor.stored or (1,)):
            return replace(tensor, type=type, order=order)
        result = stage.type(type.dtype, shape)
        extents = [index_expression(d, stage.symbol) for d in shape]
        return Tensor(type, stage.bind(relax.op.reshape(tensor.expr, extents), result), order, tensor.constant)


def _scalar_reader(source: Any) -> Callable[[], Any]:
    return lambda: source(literal(0))


def _elementwise_pattern(inputs: Sequence[Tensor], type: TensorType, order: Order) -> Pattern:
    """Fusing into a producer keeps the producer's loops, so that its result must not be broadcast or permuted here."""
    for tensor in inputs:
        if tensor.constant or tensor.number is not None:
            continue
        if tensor.type.shape != type.shape or _moved(tensor.order, type.shape) != _moved(order, type.shape):
            return Pattern.INJECTIVE
    return Pattern.ELEMENTWISE if all(t.type.shape == type.shape for t in inputs) else Pattern.BROADCAST


def regroup(shape: Shape, order: Order, target: Shape) -> Order | None:
    """The storage order of a reshaped tensor, or None where its elements would have to move.

    Old and new axes are matched in groups of equal volume. A group of old axes that lies together and in order in
    storage becomes its new axes in place.
    """
    groups = axis_groups(shape, target)
    if groups is None:
        return None
    found: list[tuple[int, Sequence[int]]] = []
    loose: list[int] = []
    for old, new in groups:
        wide = [a for a in old if shape[a] != 1]
        places = [order.index(a) for a in wide]
        if not wide:
            loose.extend(new)
            continue
        between = [a for a in order[places[0] : places[-1] + 1] if shape[a] != 1]
        if between != wide:
            return None
        found.append((places[0], new))
    result = [a for _, new in sorted(found, key=lambda item: item[0]) for a in new]
    for axis in sorted(loose):
        result.insert(next((i for i, a in enumerate(result) if a > axis), len(result)), axis)
    return tuple(result)


def axis_groups(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]] | None:
    """The finest matching of consecutive old axes with new ones of the same volume; None where it is not decidable."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        mine, yours = [], []
        a: Dim = 1
        b: Dim = 1
        if i < len(old):
            mine, a, i = [i], old[i], i + 1
        if j < len(new):
            yours, b, j = [j], new[j], j + 1
        while a != b:
            step = _shorter(a, b)
            if step == "old" and i < len(old):
                mine.append(i)
                a, i = a * old[i], i + 1
            elif step == "new" and j < len(new):
                yours.append(j)
                b, j = b * new[j], j + 1
            elif i < len(old) and step is None:
                mine.append(i)
                a, i = a * old[i], i + 1
                if j < len(new):
                    yours.append(j)
                    b, j = b * new[j], j + 1
            else:
                return None
        groups.append((mine, yours))
    return groups


def _shorter(a: Dim, b: Dim) -> str | None:
    """Which of two volumes is to be extended to meet the other: the one that divides it."""
    if a == 1 or (a != 0 and divide(b, a) is not None):
        return "old"
    if b == 1 or (b != 0 and divide(a, b) is not None):
        return "new"
    if isinstance(a, int) and isinstance(b, int):
        return "old" if a < b else "new"
    return None


@dataclass(frozen=True)
class Lowered:
    """A graph as two Relax modules. `prepare` takes the named arrays and gives what `main` takes after its inputs."""

    prepare: Any
    main: Any
    arrays: tuple[str, ...]
    """Paths of parameters, and names in `data`, in the order in which `prepare` takes them."""
    data: Mapping[str, Any]
    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, TensorType]


def lower(graph: Graph, machine: Machine) -> Lowered:
    """A graph of supported operators as Relax.

    Raises:
        NetcError: where a symbolic dimension cannot be read from the shapes of the inputs.
    """
    _check_symbols(graph)
    low = Lowering(machine)
    values: dict[Ref, Tensor] = {}
    for path, node in graph.nodes.items():
        if isinstance(node.op, Input):
            values[node.value] = low.input(path, node.types[0])
            continue
        inputs = [None if ref is None else _resolve(low, graph, values, ref) for ref in node.inputs]
        rule = rules.get(node.op)
        assert rule is not None, f"{node.op.name} reached the lowering without a rule"
        made = rule(low, node.op, inputs, node.types)
        values.update(zip(node.values, made if isinstance(made, tuple) else (made,), strict=True))
    results = [low.plain(_resolve(low, graph, values, ref)) for ref in graph.outputs.values()]
    outputs = [low.expression(r, constant=False) for r in results]
    return Lowered(
        low.prepare.module(low.exports),
        low.main.module(outputs),
        tuple(str(p.name_hint) for p in low.prepare.parameters),
        low.data,
        {path: node.types[0] for path, node in graph.inputs.items()},
        {name: graph.type(ref) for name, ref in graph.outputs.items()},
    )


def _resolve(low: Lowering, graph: Graph, values: dict[Ref, Tensor], ref: Ref) -> Tensor:
    if ref not in values:
        assert isinstance(ref, ParameterRef)
        values[ref] = low.parameter(ref.parameter, graph.type(ref))
    return values[ref]


def _check_symbols(graph: Graph) -> None:
    """A symbol is known at run time where it is by itself a dimension of an input."""
    known = {str(d) for node in graph.inputs.values() for d in node.types[0].shape if isinstance(d, Expression)}
    used = {s for node in graph.nodes.values() for t in node.types for d in t.shape for s in symbols(d)}
    unknown = sorted(used - known)
    if unknown:
        raise NetcError(
            Diagnostic(
                "unbound-dimension",
                f"the dimension {name} is not a dimension of an input by itself, so that no input says how large it is",
                tuple(Label(span) for node in list(graph.inputs.values())[:1] for span in node.origin[:1]),
                fix=f"--bind {name}=…",
            )
            for name in unknown
        )
