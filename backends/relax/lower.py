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
from typing import Any, Protocol

from ...compiler.diagnostic import Diagnostic, Label, NetcError
from ...compiler.fusion.chains import decided
from ...compiler.fusion.group import Group
from ...compiler.fusion.kinds import Chain
from ...compiler.fusion.work import Work
from ...compiler.graph import Graph, Input, ParameterRef, Ref, Value
from ...compiler.types import Dim, DType, Expression, TensorType, known_less, symbols
from ..rules import Rules
from .choice import Analytic, Asked, Choices, Fact, Option, ask
from .dot import HALVES, has, rounded
from .grouping import Fused, on_account_of, outline
from .half import DTYPES, HALF, STORED, narrowed, single
from .index import flatten, literal, unflatten
from .kernel import Kernel, Pattern, View
from .machine import Machine
from .schedule.block import PROGRAM
from .stage import Stage
from .tensor import (
    Number,
    Order,
    Place,
    Tensor,
    axis_groups,
    index_expression,
    moved,
    plain,
    regroup,
    split_place,
)
from .untyped import build as T
from .untyped import builder as IRBuilder
from .untyped import relax, s_tir, te, tirx, tvm

Inputs = Sequence[Any]
"""A node's inputs: a `Tensor` each, None where an optional operand is absent."""

Types = tuple[TensorType, ...]


class Rule(Protocol):
    """How an operator is lowered: from its inputs and output types to its outputs."""

    def __call__(self, low: Lowering, op: Any, inputs: Inputs, types: Types, /) -> Tensor | tuple[Tensor, ...]: ...


rules: Rules[Rule] = Rules("TVM")

Resolve = Callable[[Ref], Tensor]
"""The tensor that a reference stands for."""

chain_rules: dict[str, Callable[[Any, Work, Sequence[str], Resolve], Tensor]] = {}
"""How a group that is a chain of a kind is lowered as a whole, not node by node: from the lowering, the working nodes,
the group's paths, and a way to the tensors that it reads, to its result."""


@dataclass(frozen=True)
class Rounded:
    """A constant tensor as integers times scales: one for all, or one for each index of its first axis."""

    made: Tensor
    integers: Tensor
    scale: Tensor


@dataclass
class Lowering:
    """The state of one lowering, and the vocabulary that rules are written in."""

    machine: Machine
    choices: Choices = field(default_factory=Analytic)
    path: str = ""
    """Where the node is that is being lowered."""
    owner: str = ""
    """The fusion group on whose account it is lowered; nothing where there are no groups."""
    main: Stage = field(default_factory=lambda: Stage("main"))
    prepare: Stage = field(default_factory=lambda: Stage("prepare"))
    exports: dict[str, Any] = field(default_factory=dict[str, Any])
    """Variables of `prepare` that `main` reads, named after the first reader, in the order of main's parameters."""
    data: dict[str, Any] = field(default_factory=dict[str, Any])
    """Arrays that are part of the graph itself (`constant` nodes), by the name of their parameter of `prepare`."""

    requirements: list[tuple[Dim, Dim]] = field(default_factory=list[tuple[Dim, Dim]])
    """Pairs (least, most) of dimensions that the compiler believed without proof: least <= most."""

    busy: set[str] = field(default_factory=set[str])
    """The groups that a kernel of `main` has been made for."""

    chains: set[str] = field(default_factory=set[str])
    """The groups whose convolutions become one loop (schedule/chain.py), which takes them as sums over their taps."""

    asked: list[Asked] = field(default_factory=list[Asked])
    """What kernels asked, in order."""

    rounded: dict[Any, Rounded] = field(default_factory=dict[Any, "Rounded"])
    """By the key of a constant tensor, the integers that it was made of."""

    _imported: dict[Any, Any] = field(default_factory=dict[Any, Any])
    _made: dict[Any, Tensor] = field(default_factory=dict[Any, Tensor])

    def choose(self, kind: str, facts: Mapping[str, Fact], space: Mapping[str, Sequence[Option]]) -> Mapping[str, Any]:
        """A candidate of each parameter for a kernel that is about to be written; see `Question`."""
        question = ask(kind, facts, space)
        answer = self.choices.answer(question)
        assert question.valid(answer), f"{answer} is no answer to {question.key}"
        self.asked.append(Asked(self.path, question, answer))
        return answer

    def kernel(
        self,
        name: str,
        inputs: Sequence[Tensor],
        types: Sequence[TensorType],
        body: Callable[..., Any],
        *,
        pattern: Pattern,
        orders: Sequence[Order] | None = None,
        scheduled: bool = False,
    ) -> tuple[Tensor, ...]:
        """Call a kernel: `body(kernel, *views)` gives one stage for each output type.

        It runs at compile time where all it reads is constant and its results have no symbol. `scheduled` says that its
        loops are as they should be.
        """
        orders = orders or [plain(t.rank) for t in types]
        kernel = Kernel(name, self.machine)
        arguments: list[Any] = []
        views: list[View] = []
        for i, tensor in enumerate(inputs):
            source: Any = None
            if tensor.number is None:
                extents = [kernel.dim(d) for d in tensor.stored]
                source = te.placeholder(extents, STORED[tensor.kept], f"in{i}")
                arguments.append((tensor, source))
            views.append(View(tensor, kernel, source))
        made = body(kernel, *views)
        # What is computed at compile time may be on another machine.
        machine = None if _constant(kernel, arguments) else self.machine
        outputs = [
            _stored(output, type.dtype, machine)
            for output, type in zip(made if isinstance(made, tuple) else (made,), types, strict=True)
        ]
        attributes: dict[str, Any] = {"op_pattern": int(pattern)}
        if scheduled:
            attributes["tirx.is_scheduled"] = True
        return self._call(kernel, arguments, outputs, types, orders, attributes)

    def program(
        self, name: str, inputs: Sequence[Tensor], types: Sequence[TensorType], write: Callable[..., None]
    ) -> tuple[Tensor, ...]:
        """Call a kernel written as loops and stores, for what has no formula: `write(kernel, sources, results)`.

        Sources and results are buffers stored in logical order, half precision in single; the program is its own
        schedule.
        """
        if any(t.dtype in HALF for t in (*(i.type for i in inputs), *types)):
            made = self.program(name, [self.single(t) for t in inputs], [single(t) for t in types], write)
            return tuple(self.converted(m, t) for m, t in zip(made, types, strict=True))
        kernel = Kernel(name, self.machine)
        arguments: list[tuple[Tensor, Any]] = []
        for i, given in enumerate(inputs):
            tensor = self.plain(given if given.number is None else self.fill(given))
            extents = [kernel.dim(d) for d in tensor.type.shape] or [literal(1)]
            arguments.append((tensor, te.placeholder(extents, DTYPES[tensor.type.dtype], f"in{i}")))

        def statements(sources: Sequence[Any], results: Sequence[Any]) -> Any:
            with IRBuilder() as builder:
                with T.seq_scope():  # lets several loops follow each other; its own mark means nothing and goes
                    write(kernel, list(sources), list(results))
                return whole(name, builder.get().body, sources, results)

        shapes = [[kernel.dim(d) for d in t.shape] or [literal(1)] for t in types]
        dtypes = [DTYPES[t.dtype] for t in types]
        sources = [source for _, source in arguments]
        made: Any = te.extern(
            shapes,
            sources,
            statements,
            name=name,
            dtype=dtypes,
            in_buffers=[buffer(s.shape, s.dtype, s.op.name) for s in sources],
            out_buffers=[buffer(s, d, f"out{i}") for i, (s, d) in enumerate(zip(shapes, dtypes, strict=True))],
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
        constant = _constant(kernel, arguments)
        stage = self.prepare if constant else self.main
        if not constant:
            self.busy.add(self.owner)
        read = [self.expression(t, constant) for t, _ in arguments]
        call, results = self._called(stage, kernel, arguments, read, outputs, types, orders, attributes)
        if len(results) == 1:
            return (Tensor(types[0], stage.bind(call, results[0], self.owner), tuple(orders[0]), constant),)
        whole = stage.bind(call, relax.TupleType(results), self.owner)
        return tuple(
            Tensor(type, stage.bind(relax.TupleGetItem(whole, i), result, self.owner), tuple(order), constant)
            for i, (type, order, result) in enumerate(zip(types, orders, results, strict=True))
        )

    def _called(
        self,
        stage: Stage,
        kernel: Kernel,
        arguments: list[tuple[Tensor, Any]],
        read: Sequence[Any],
        outputs: list[Any],
        types: Sequence[TensorType],
        orders: Sequence[Order],
        attributes: dict[str, Any],
    ) -> tuple[Any, list[Any]]:
        """The call of a kernel on the Relax variables in `read`, and the types of its results."""
        bound = {d for t, _ in arguments for d in map(str, t.stored) if d in kernel.symbols}
        extra = sorted(kernel.symbols.keys() - bound)
        sources = [source for _, source in arguments]
        function = te.create_prim_func([*sources, *(kernel.symbols[s] for s in extra), *outputs], "int64")
        function = function.with_attrs(attributes).without_attr("global_symbol")
        callee = stage.builder.add_func(function, kernel.name)
        results = [
            stage.type(t.dtype, tuple(t.shape[a] for a in order) or (1,))
            for t, order in zip(types, orders, strict=True)
        ]
        call = relax.call_tir(callee, relax.Tuple([*read, *(stage.symbol(s) for s in extra)]), results)
        return on_account_of(self.path, call), results

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

    def single(self, tensor: Tensor) -> Tensor:
        """The tensor itself, or a half-precision one in single precision, in memory."""
        if tensor.type.dtype not in HALF:
            return tensor
        return self.once(("single", *tensor.key, tensor.number), lambda: self.converted(tensor, single(tensor.type)))

    def converted(self, tensor: Tensor, type: TensorType) -> Tensor:
        """The tensor itself, or in memory as another dtype that is computed with as its own is."""
        if tensor.type == type:
            return tensor
        return self.elementwise("cast", [tensor], type, lambda x: x)

    def number(self, value: Number, dtype: DType) -> Tensor:
        """A known number of rank 0, or one that follows from the shapes of the inputs."""
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
        """An input of the model."""
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
            name = f"{self.path}:{len(self.exports)}"
            self.exports[name] = tensor.expr
            self._imported[tensor.expr] = self.main.parameter(name, tensor.kept, tensor.stored)
        return self._imported[tensor.expr]

    def fill(self, tensor: Tensor) -> Tensor:
        """A known number as a tensor in memory."""
        return self.map("full", [tensor], tensor.type, lambda _, x: x[()])

    def reorder(self, tensor: Tensor, order: Order) -> Tensor:
        """The tensor with its axes in `order`: itself where it is so already, else a copy, made once."""
        if tensor.order == order or tensor.number is not None:
            return tensor
        if moved(tensor.order, tensor.type.shape) == moved(order, tensor.type.shape):
            return (
                self._reinterpreted(tensor, tensor.type, order)
                if tensor.place is None
                else replace(tensor, order=order)
            )
        return self._copy(tensor, order)

    def stored(self, tensor: Tensor) -> Tensor:
        """The tensor itself, or a copy of what it is a view of, or is kept otherwise than it is."""
        return tensor if tensor.place is None and tensor.code is None else self._copy(tensor, tensor.order)

    def _copy(self, tensor: Tensor, order: Order) -> Tensor:
        return self.once(
            ("copy", *tensor.key, order),
            lambda: self.map("copy", [tensor], tensor.type, lambda index, x: x[index], order=order),
        )

    def copied(self, tensor: Tensor) -> Tensor:
        """A copy that the model makes when it runs, whatever the tensor is."""
        if tensor.number is not None:
            tensor = self.fill(tensor)
        running = replace(tensor, expr=self.expression(tensor, constant=False), constant=False)
        return self.map("copy", [running], tensor.type, lambda index, x: x[index], order=tensor.order)

    def once(self, key: tuple[Any, ...], make: Callable[[], Tensor]) -> Tensor:
        """What `make` gives, made at the first request: several readers of a value share its copies.

        Those of two fusion groups share only what is made at compile time.
        """
        made = self._made.get(key) or self._made.get((self.owner, key))
        if made is None:
            made = make()
            self._made[key if made.constant else (self.owner, key)] = made
        return made

    def plain(self, tensor: Tensor) -> Tensor:
        """The tensor stored in the logical order of its axes, and no view."""
        return self.stored(self.reorder(tensor, plain(tensor.type.rank)))

    def renamed(self, tensor: Tensor, axes: Sequence[int]) -> Tensor:
        """The same storage under permuted axes: output axis `i` is input axis `axes[i]`. Costs nothing."""
        at = {axis: i for i, axis in enumerate(axes)}
        type = TensorType(tensor.type.dtype, tuple(tensor.type.shape[a] for a in axes))
        order = tuple(at[a] for a in tensor.order)
        if tensor.place is None:
            return replace(tensor, type=type, order=order)
        return tensor.seen(type, order, lambda index, _: [index[at[a]] for a in range(len(axes))])

    def reshape(self, tensor: Tensor, type: TensorType) -> Tensor:
        """The same elements in row-major order under another shape; a copy only where axes that merge lie apart."""
        if tensor.number is not None:
            tensor = self.fill(tensor)
        if tensor.type.shape == type.shape:
            return tensor
        order = regroup(tensor.type.shape, tensor.order, type.shape)
        place = split_place(tensor.type.shape, type.shape) if tensor.place is not None else None
        if order is not None and place is not None:
            return tensor.seen(type, order, place)
        if order is None:
            tensor, order = self.plain(tensor), plain(type.rank)
        whole = tensor if tensor.place is None else self.stored(tensor)
        return self._reinterpreted(whole, type, order)

    def _reinterpreted(self, tensor: Tensor, type: TensorType, order: Order) -> Tensor:
        """The same bytes as another type."""
        stage = self.prepare if tensor.constant else self.main
        shape = tuple(type.shape[a] for a in order) or (1,)
        if shape == tensor.stored:
            return replace(tensor, type=type, order=order)
        result = stage.type(tensor.kept, shape)
        extents = [index_expression(d, stage.symbol) for d in shape]

        def within(source: Any) -> Any:
            return self._rearranged(stage, tensor, source, TensorType(tensor.kept, shape))

        made = stage.bind(relax.op.reshape(tensor.expr, extents), result, self.owner, within)
        return replace(tensor, type=type, expr=made, order=order)

    def _rearranged(self, stage: Stage, tensor: Tensor, source: Any, type: TensorType) -> Any:
        """The call of a kernel that copies the storage of a tensor, in the variable `source`, into another shape."""
        kernel = Kernel("reshape", self.machine)
        old = tensor.stored
        extents = [kernel.dim(d) for d in old]
        given = te.placeholder(extents, STORED[type.dtype], "in0")
        groups = axis_groups(old, type.shape) or [([*range(len(old))], [*range(type.rank)])]

        def element(*index: Any) -> Any:
            found: list[Any] = [literal(0)] * len(old)
            for mine, yours in groups:
                position = flatten([index[a] for a in yours], [kernel.dim(type.shape[a]) for a in yours])
                for axis, at in zip(mine, unflatten(position, [extents[a] for a in mine]), strict=True):
                    found[axis] = at
            return given(*found)

        made = te.compute([kernel.dim(d) for d in type.shape], element, "reshape")
        attributes = {"op_pattern": int(Pattern.INJECTIVE)}
        arguments = [(tensor, given)]
        return self._called(stage, kernel, arguments, [source], [made], [type], [plain(type.rank)], attributes)[0]

    def view(self, tensor: Tensor, type: TensorType, order: Order, place: Place) -> Tensor:
        """Part of a tensor, or a repetition of it, that readers take from where it is; see `Tensor.seen`.

        The innermost axis of `order` must be contiguous, or not matter.
        """
        return (
            self.fill(tensor).seen(type, order, place) if tensor.number is not None else tensor.seen(type, order, place)
        )

    def known(self, dim: Dim, what: str) -> int:
        """A dimension that code is made for.

        Raises:
            NetcError: where it is symbolic.
        """
        if not isinstance(dim, int):
            message = f"TVM code for %{self.path} needs {what} as a number, not {dim}"
            raise NetcError([Diagnostic("symbolic-dimension", message, fix=f"--bind {min(symbols(dim))}=…")])
        return dim

    def require_within(self, positions: Tensor, size: Dim) -> None:
        """Have positions that follow from sizes checked against the axis they point into when the model runs."""
        if positions.limit is not None:
            self.require(positions.limit, size)

    def require(self, least: Dim, most: Dim) -> None:
        """Have `least <= most` checked when the model runs."""
        if known_less(most, least) is not False and (least, most) not in self.requirements:
            self.requirements.append((least, most))


def buffer(shape: Sequence[Any], dtype: str, name: str) -> Any:
    """A buffer such as kernels by formula have; TVM fuses kernels only where these are equal."""
    return tirx.decl_buffer(shape, dtype, name, layout=None)


def whole(
    name: str, body: Any, sources: Sequence[Any], results: Sequence[Any], marks: Mapping[str, int] | None = None
) -> Any:
    """Statements as a block that reads and writes buffers as a whole, for fusion to see what depends on it."""

    def regions(buffers: Sequence[Any]) -> list[Any]:
        return [tirx.BufferRegion(b, [tvm.ir.Range.from_min_extent(literal(0), e) for e in b.shape]) for b in buffers]

    block = s_tir.SBlock([], regions(sources), regions(results), name, body, annotations={PROGRAM: 1, **(marks or {})})
    return s_tir.SBlockRealize([], True, block)


def _constant(kernel: Kernel, arguments: Sequence[tuple[Tensor, Any]]) -> bool:
    """Whether a kernel is run at compile time."""
    return all(t.constant for t, _ in arguments) and not kernel.symbols


def _stored(output: Any, dtype: DType, machine: Machine | None) -> Any:
    """A kernel's result with a last step that brings it to the form in which its dtype is kept, if it takes one: by an
    instruction of the machine, where that is known and has one."""
    if dtype not in HALF or str(output.dtype) == STORED[dtype]:
        return output
    at_once = dtype is DType.BF16 and machine is not None and has(HALVES, machine)

    def element(*index: Any) -> Any:
        return rounded(output(*index)) if at_once else narrowed(output(*index), dtype)

    return te.compute(output.shape, element, name=f"{output.op.name}_{dtype.value}")


def _elementwise_pattern(inputs: Sequence[Tensor], type: TensorType, order: Order) -> Pattern:
    """Fusing into a producer keeps the producer's loops, so that its result must not be broadcast or permuted here."""
    for tensor in inputs:
        if tensor.constant or tensor.number is not None:
            continue
        if tensor.place is not None or tensor.type.shape != type.shape:
            return Pattern.INJECTIVE
        if moved(tensor.order, type.shape) != moved(order, type.shape):
            return Pattern.INJECTIVE
    same = all(t.type.shape == type.shape or t.number is not None for t in inputs)
    return Pattern.ELEMENTWISE if same else Pattern.BROADCAST


@rules(Input)
def _input(low: Lowering, node: Input, inputs: Inputs, types: Types) -> Tensor:
    return low.input(low.path, types[0])


@dataclass(frozen=True)
class Lowered:
    """A graph as two Relax modules. `prepare` takes the named arrays and gives what `main` takes after its inputs."""

    prepare: Any
    main: Any
    arrays: tuple[str, ...]
    """Paths of parameters, and names in `data`, in the order in which `prepare` takes them."""
    data: Mapping[str, Any]
    constants: tuple[str, ...]
    """Names of what `prepare` gives."""
    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, TensorType]
    requirements: Sequence[tuple[Dim, Dim]]
    groups: Sequence[Fused] | None
    """The groups of main, where it was lowered by groups: each a primitive function, and one call of it."""
    asked: Sequence[Asked]
    """What kernels left open, and how they were written."""


def lower(
    graph: Graph, machine: Machine, groups: Sequence[Group] | None = None, choices: Choices | None = None
) -> Lowered:
    """A graph of supported operators as Relax, its working nodes by group where `groups` are given.

    Raises:
        NetcError: where a symbolic dimension cannot be read from the shapes of the inputs, or groups need each other's
            results.
    """
    _check_symbols(graph)
    low = Lowering(machine, choices or Analytic())
    nodes = _Nodes(low, graph, groups)
    # Inputs first, so that they are main's first parameters.
    for path in [*graph.inputs, *(p for p in graph.nodes if p not in graph.inputs)]:
        nodes.lower(path)
    outputs = [nodes.output(ref) for ref in graph.outputs.values()]
    main, fused = low.main.module(outputs), None
    if groups is not None:
        main, fused = outline(low.main, outputs, groups)
    return Lowered(
        low.prepare.module(list(low.exports.values())),
        main,
        tuple(str(p.name) for p in low.prepare.parameters),
        low.data,
        tuple(low.exports),
        {path: node.types[0] for path, node in graph.inputs.items()},
        {name: graph.type(ref) for name, ref in graph.outputs.items()},
        low.requirements,
        fused,
        low.asked,
    )


class _Nodes:
    """The nodes of a graph on their way through the lowering.

    With groups, what only carries is lowered anew for each group that reads it, so that a copy which a reader needs is
    a part of that reader's group.
    """

    def __init__(self, low: Lowering, graph: Graph, groups: Sequence[Group] | None) -> None:
        self._low = low
        self._graph = graph
        self._values: dict[Any, Tensor] = {}
        """By reference; what only carries, by group and reference."""
        self._work = None if groups is None else Work(graph)
        self._owner = {path: group.name for group in groups or () for path in group.nodes}
        self._last = {owner: path for path in graph.nodes if (owner := self._owner.get(path))}
        self._whole: dict[str, tuple[str, Group]] = {}
        """Groups that are lowered as a whole, with the kind of chain that they are."""
        for group in groups or ():
            found = decided(self._work, group.nodes) if self._work is not None and len(group.nodes) > 1 else None
            if isinstance(found, Chain) and found.kind in chain_rules:
                self._whole[group.name] = (found.kind, group)
            elif isinstance(found, Chain):
                low.chains.add(group.name)
        if self._work is not None:
            assert self._owner.keys() == self._work.nodes.keys(), "the groups are no partition of the working nodes"

    def lower(self, path: str) -> None:
        """Lower a node in its turn; not yet one that only carries, where there are groups."""
        owner = self._owner.get(path, "")
        if self._work is not None and owner in self._whole:
            if self._last[owner] == path:
                self._low.path, self._low.owner = path, owner
                kind, group = self._whole[owner]
                made = chain_rules[kind](self._low, self._work, group.nodes, lambda ref: self._value(ref, owner))
                self._values[self._graph.nodes[path].values[0]] = made
            return
        if self._work is None or owner or path in self._work.constant or path in self._graph.inputs:
            made = self._made(path, owner)
            if owner and self._last[owner] == path and owner not in self._low.busy:
                made = tuple(self._low.copied(m) for m in made)
            self._values.update(zip(self._graph.nodes[path].values, made, strict=True))

    def output(self, ref: Ref) -> Any:
        """The Relax variable of an output; the group that makes it brings it into order."""
        sources = [] if self._work is None else list(self._work.sources(ref))
        owner = self._owner[sources[0]] if sources else ""
        tensor = self._value(ref, owner)
        self._low.owner, self._low.path = owner, ref.node if isinstance(ref, Value) else self._low.path
        return self._low.expression(self._low.plain(tensor), constant=False)

    def _made(self, path: str, owner: str) -> tuple[Tensor, ...]:
        node = self._graph.nodes[path]
        inputs = [None if ref is None else self._value(ref, owner) for ref in node.inputs]
        inputs += [None] * (sum(not o.variadic for o in node.op.operands) - len(inputs))
        rule = rules.get(node.op)
        assert rule is not None, f"{node.op.name} reached the lowering without a rule"
        self._low.path, self._low.owner = path, owner
        made = rule(self._low, node.op, inputs, node.types)
        return made if isinstance(made, tuple) else (made,)

    def _value(self, ref: Ref, owner: str) -> Tensor:
        if ref in self._values:
            return self._values[ref]
        if isinstance(ref, ParameterRef):
            self._values[ref] = self._low.parameter(ref.parameter, self._graph.type(ref))
            return self._values[ref]
        if (owner, ref) not in self._values:
            made = self._made(ref.node, owner)
            values = self._graph.nodes[ref.node].values
            self._values.update(zip(((owner, value) for value in values), made, strict=True))
        return self._values[owner, ref]


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
