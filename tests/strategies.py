"""Random valid graphs, and graphs of one operator: the material of property tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import netc.compiler.operators  # noqa: F401 - fills OPERATORS and SAMPLES
from hypothesis import strategies as st
from netc.compiler import tree as t
from netc.compiler.dimension import tensor_type
from netc.compiler.graph import Edit, Graph, Input, Node, Parameter, ParameterRef, Phase, Ref, Scope, Value, verify
from netc.compiler.operators.operator import OPERATORS, Initialiser, Sample, ShapeError, validate
from netc.compiler.source import Source
from netc.compiler.syntax import parse
from netc.compiler.types import Dim, DType, Shape, TensorType


@cache
def type_of(text: str) -> TensorType:
    """`"f32[N, 3]"` as a type."""
    graph = parse(Source("type", f"graph g {{\n    input %x: {text}\n}}\n")).declarations[0]
    assert isinstance(graph, t.GraphText)
    line = graph.lines[0]
    assert isinstance(line, t.GraphInput)
    return tensor_type(line.type)


class Builder:
    """A graph in the making; operators by name, attributes as text would give them."""

    def __init__(self, name: str = "g") -> None:
        self.edit: Edit = Graph(name).edit()

    def input(self, name: str, type: str) -> Value:
        return self.edit.add(name, Input(type_of(type))).value

    def parameter(
        self, path: str, shape: Shape, kind: str = "normal", *arguments: float, dtype: DType = DType.F32, **kinds: bool
    ) -> ParameterRef:
        """A parameter; `trainable = False` freezes it, `buffer = True` makes it state."""
        kinds = {"trainable": not kinds.get("buffer", False), **kinds}
        initialiser = Initialiser(kind, arguments or ((0.0, 0.1) if kind == "normal" else ()))
        return self.edit.parameter(Parameter(path, TensorType(dtype, shape), initialiser, **kinds))

    def node(
        self, operator: str, *inputs: Ref | None, path: str | None = None, phase: Phase = "both", **attributes: Any
    ) -> Node:
        """Add a node.

        Raises:
            ShapeError: where the inputs do not fit.
        """
        types = [None if i is None else self.edit.type(i) for i in inputs]
        op = validate(OPERATORS[operator], attributes).canonical(*types)
        return self.edit.add(self.edit.fresh(path or operator), op, *inputs, phase=phase)

    def __call__(self, operator: str, *inputs: Ref | None, **attributes: Any) -> Value:
        return self.node(operator, *inputs, **attributes).value

    def done(self, *outputs: Ref, **named: Ref) -> Graph:
        """The graph; a single output is called `output`."""
        names = ["output"] if len(outputs) == 1 else [f"output{i}" for i in range(len(outputs))]
        for name, ref in [*zip(names, outputs, strict=True), *named.items()]:
            self.edit.output(name, ref)
        graph = self.edit.done()
        verify(graph)
        return graph


# Operands that are usually parameters, and how they are filled; the others are inputs.
_WEIGHTS = {
    "weight": ("normal", False), "weights": ("normal", False), "bias": ("normal", False),
    "running_mean": ("zeros", True), "running_var": ("ones", True),
}  # fmt: skip


def sample_graph(sample: Sample, *, parameters: bool = False) -> Graph:
    """A graph of one node; its inputs are graph inputs, or those that are weights parameters where asked for."""
    build = Builder(sample.op.name)
    operands = sample.op.operands
    refs: list[Ref | None] = []
    for i, text in enumerate(sample.inputs):
        name = operands[min(i, len(operands) - 1)].name
        path = f"{name}{i}" if i >= len(operands) or operands[i].variadic else name
        if text is None:
            refs.append(None)
        elif parameters and name in _WEIGHTS:
            kind, buffer = _WEIGHTS[name]
            type_ = type_of(text)
            refs.append(build.parameter(path, type_.shape, kind, dtype=type_.dtype, buffer=buffer))
        else:
            refs.append(build.input(path, text))
    if not operands[-1:] or not operands[-1].variadic:  # optional inputs at the end may be left out of a sample
        refs += [None] * (len(operands) - len(refs))
    types = [None if r is None else build.edit.type(r) for r in refs]
    node = build.edit.add("result", sample.op.canonical(*types), *refs)
    names = [n if n not in ("output", "result") else "output" for n in sample.op.outputs]
    if len(node.values) == 1:
        return build.done(node.value)
    return build.done(**{f"{(names * len(node.values))[i]}{i}": v for i, v in enumerate(node.values)})


# ----------------------------------------------------------------------------------------------- random graphs

Draw = Callable[[st.SearchStrategy[Any]], Any]

# Functions of one tensor whose values and slopes stay moderate, so that a deep composition still says something.
_ACTIVATIONS: list[tuple[str, dict[str, Any]]] = [
    ("relu", {}), ("relu6", {}), ("leaky_relu", {"negative_slope": 0.2}), ("elu", {}), ("selu", {}), ("silu", {}),
    ("gelu", {"approximate": "tanh"}), ("gelu", {}), ("hardswish", {}), ("hardsigmoid", {}), ("sigmoid", {}),
    ("tanh", {}), ("softplus", {}), ("mish", {}), ("softmax", {"dim": -1}), ("abs", {}), ("neg", {}), ("sin", {}),
    ("clip", {"min": -1.0, "max": 2.5}), ("clip", {"max": 1.0}), ("identity", {}), ("stop_gradient", {}),
]  # fmt: skip
_BINARY = ["add", "sub", "mul", "maximum", "minimum"]


@dataclass
class _Growing:
    """A graph being drawn: the values that later nodes may read, and what was added since a scope began."""

    draw: Draw
    build: Builder
    values: list[Value] = field(default_factory=list[Value])
    prefix: str = ""
    phase: Phase = "both"
    calls: int = 0

    def type(self, ref: Ref) -> TensorType:
        return self.build.edit.type(ref)

    def add(self, operator: str, *inputs: Ref | None, name: str | None = None, **attributes: Any) -> Value:
        """Add a node in the current scope and offer its floating outputs to later ones."""
        path = f"{self.prefix}{name or operator}"
        node = self.build.node(operator, *inputs, path=path, phase=self.phase, **attributes)
        self.values += [v for v in node.values if self.type(v).dtype is DType.F32]
        return node.value

    def parameter(self, name: str, shape: Shape, kind: str, *arguments: float, **kinds: bool) -> ParameterRef:
        """A parameter in the current scope, sometimes one that exists already."""
        edit = self.build.edit
        owner, _, rest = f"{self.prefix}{name}".rpartition(".")
        path = f"{self.prefix}{name}"
        number = 0
        while (old := edit.find_parameter(path)) is not None:
            same = old.type.shape == shape and old.initialiser.kind == kind and not kinds
            if same and self.draw(st.booleans()):
                return ParameterRef(path)
            number += 1
            path = f"{owner}_{number}.{rest}"
        return self.build.parameter(path, shape, kind, *arguments, **kinds)

    def weight(self, name: str, *shape: Dim) -> ParameterRef:
        return self.parameter(name, shape, "fan_in_uniform")

    def bias(self, name: str, *shape: Dim) -> ParameterRef:
        return self.parameter(name, shape, "normal", 0.0, 0.1)

    def gain(self, name: str, *shape: Dim) -> ParameterRef:
        """Factors and variances: away from 0 and different from 1, so that they show."""
        return self.parameter(name, shape, "uniform", 0.5, 1.5)

    def one(self, wanted: Callable[[TensorType], bool] = lambda _: True) -> Value:
        """A value so far, the last ones rather than the first."""
        fitting = [v for v in self.values if wanted(self.type(v))]
        if not fitting:
            raise ShapeError("no value fits")
        return fitting[-1 - self.draw(st.integers(0, len(fitting) - 1))]

    def image(self) -> Value:
        return self.one(lambda t: t.rank == 4 and all(isinstance(d, int) for d in t.shape[1:]))

    def optional(self, make: Callable[[], Ref]) -> Ref | None:
        return make() if self.draw(st.booleans()) else None


def _conv(g: _Growing) -> None:
    x = g.image()
    channels, *size = _ints(g.type(x).shape[1:])
    groups = g.draw(st.sampled_from([d for d in (1, 2, channels) if channels % d == 0]))
    out = groups * g.draw(st.integers(1, 3))
    kernel = [g.draw(st.integers(1, min(3, s))) for s in size]
    dilation = [g.draw(st.integers(1, 2)) for _ in kernel]
    padding = [[g.draw(st.integers(0, 2)), g.draw(st.integers(0, 2))] for _ in kernel]
    weight = g.weight("conv.weight", out, channels // groups, *kernel)
    bias = g.optional(lambda: g.bias("conv.bias", out))
    stride = g.draw(st.integers(1, 2))
    g.add("conv2d", x, weight, bias, name="conv", stride=stride, padding=padding, dilation=dilation, groups=groups)


def _conv_transpose(g: _Growing) -> None:
    x = g.image()
    channels = _ints(g.type(x).shape[1:])[0]
    weight = g.weight("up.weight", channels, g.draw(st.integers(1, 3)), 2, 2)
    g.add("conv_transpose2d", x, weight, None, name="up", stride=g.draw(st.integers(1, 2)))


def _batch_norm(g: _Growing) -> None:
    x = g.image()
    channels = g.type(x).shape[1]
    weight = g.optional(lambda: g.gain("bn.weight", channels))
    bias = g.optional(lambda: g.bias("bn.bias", channels)) if weight else None
    mean = g.parameter("bn.running_mean", (channels,), "normal", 0.0, 0.5, buffer=True)
    variance = g.parameter("bn.running_var", (channels,), "uniform", 0.5, 2.0, buffer=True)
    g.add("batch_norm", x, weight, bias, mean, variance, name="bn", eps=g.draw(st.sampled_from([1e-5, 1e-3])))


def _norm(g: _Growing) -> None:
    x = g.one(lambda t: t.rank >= 2 and isinstance(t.shape[-1], int))
    width = g.type(x).shape[-1]
    weight = g.optional(lambda: g.gain("norm.weight", width))
    if g.draw(st.booleans()):
        g.add("rms_norm", x, weight, name="norm")
    else:
        bias = g.optional(lambda: g.bias("norm.bias", width)) if weight else None
        g.add("layer_norm", x, weight, bias, name="norm")


def _group_norm(g: _Growing) -> None:
    x = g.image()
    channels = _ints(g.type(x).shape[1:])[0]
    groups = g.draw(st.sampled_from([d for d in range(1, channels + 1) if channels % d == 0]))
    weight, bias = g.gain("gn.weight", channels), g.bias("gn.bias", channels)
    g.add("group_norm", x, weight, bias, name="gn", num_groups=groups)


def _activation(g: _Growing) -> None:
    name, attributes = g.draw(st.sampled_from(_ACTIVATIONS))
    g.add(name, g.one(lambda t: t.rank >= 1), **attributes)


def _binary(g: _Growing) -> None:
    a = g.one()
    b = g.one(lambda t: t == g.type(a))
    g.add(g.draw(st.sampled_from(_BINARY)), *g.draw(st.permutations([a, b])))


def _scalar(g: _Growing) -> None:
    value = g.draw(st.sampled_from([0.5, -1.0, 2.0, 0.1]))
    constant = g.build("constant", value=value, path=f"{g.prefix}constant", phase=g.phase)
    g.add(g.draw(st.sampled_from(["add", "mul"])), g.one(), constant)


def _scale(g: _Growing) -> None:
    """A parameter that is broadcast, or an expression over parameters."""
    x = g.image()
    scale = g.gain("layer_scale.scale", g.type(x).shape[1], 1, 1)
    g.add("mul", x, g.add("square", scale) if g.draw(st.booleans()) else scale)


def _linear(g: _Growing) -> None:
    x = g.one(lambda t: t.rank >= 2 and isinstance(t.shape[-1], int))
    out = g.draw(st.sampled_from([2, 4, 6]))
    weight = g.weight("fc.weight", out, g.type(x).shape[-1])
    g.add("linear", x, weight, g.optional(lambda: g.bias("fc.bias", out)), name="fc")


def _concat(g: _Growing) -> None:
    a = g.one(lambda t: t.rank >= 2)
    type_ = g.type(a)
    dim = g.draw(st.integers(1, type_.rank - 1))
    others = [
        g.one(lambda t: t.rank == type_.rank and all(i == dim or s == type_.shape[i] for i, s in enumerate(t.shape)))
        for _ in range(g.draw(st.integers(0, 2)))
    ]
    g.add("concat", a, *others, dim=g.draw(st.sampled_from([dim, dim - type_.rank])))


def _split(g: _Growing) -> None:
    dim = 1
    x = g.one(lambda t: t.rank >= 2 and isinstance(t.shape[dim], int) and t.shape[dim] > 1)
    size = _ints(g.type(x).shape[dim : dim + 1])[0]
    if g.draw(st.booleans()):
        g.add("chunk", x, chunks=2, dim=dim)
    else:
        first = g.draw(st.integers(1, size - 1))
        g.add("split", x, sizes=[first, size - first], dim=dim)


def _slice(g: _Growing) -> None:
    x = g.one(lambda t: t.rank >= 2 and isinstance(t.shape[-1], int) and t.shape[-1] > 1)
    g.add("slice", x, dim=-1, start=g.draw(st.integers(0, 1)), stop=g.draw(st.sampled_from([None, -1, 2])), step=1)


def _pool(g: _Growing) -> None:
    x = g.image()
    kind = g.draw(st.sampled_from(["max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"]))
    if kind == "adaptive_avg_pool2d":
        g.add(kind, x, output_size=g.draw(st.integers(1, 2)))
    else:
        g.add(kind, x, kernel_size=2, stride=g.draw(st.integers(1, 2)), padding=g.draw(st.integers(0, 1)))


def _pad(g: _Growing) -> None:
    x = g.image()
    g.add("pad", x, padding=[[1, 0], [0, 2]], mode=g.draw(st.sampled_from(["constant", "replicate"])))


def _reshape(g: _Growing) -> None:
    x = g.one(lambda t: t.rank >= 3)
    type_ = g.type(x)
    kind = g.draw(st.sampled_from(["flatten", "merge", "permute", "transpose", "unsqueeze", "rearrange"]))
    if kind == "flatten":
        g.add("flatten", x, start_dim=g.draw(st.integers(1, type_.rank - 2)), end_dim=-1)
    elif kind == "merge":
        g.add("reshape", x, size=[type_.shape[0], -1, type_.shape[-1]])
    elif kind == "permute":
        g.add("permute", x, dims=[0, *g.draw(st.permutations(range(1, type_.rank)))])
    elif kind == "transpose":
        g.add("transpose", x, dim0=-1, dim1=-2)
    elif kind == "unsqueeze":
        g.add("squeeze", g.add("unsqueeze", x, dim=1), dim=1)
    else:
        axes = "abcdef"[: type_.rank]
        g.add("rearrange", x, pattern=f"{' '.join(axes)} -> {' '.join([axes[0], axes[-1], *axes[1:-1]])}")


def _reduce(g: _Growing) -> None:
    x = g.one(lambda t: t.rank >= 3)
    kind = g.draw(st.sampled_from(["mean", "sum", "max", "var"]))
    g.add(kind, x, dim=g.draw(st.sampled_from([[-1], [-1, -2]])), keepdim=g.draw(st.booleans()))


def _topk(g: _Growing) -> None:
    x = g.one(lambda t: t.rank >= 2 and isinstance(t.shape[-1], int))
    size = _ints(g.type(x).shape[-1:])[0]
    g.add("topk", x, k=g.draw(st.integers(1, min(3, size))), dim=-1)


def _attention(g: _Growing) -> None:
    x = g.one(lambda t: t.rank == 3 and isinstance(t.shape[-1], int) and t.shape[-1] % 2 == 0)
    width = g.type(x).shape[-1]
    query, key, value = (
        g.add("linear", x, g.weight(f"attn.{n}.weight", width, width), None, name=f"attn.{n}") for n in "qkv"
    )
    heads = [g.add("rearrange", v, pattern="n t (h d) -> n h t d", sizes=[["h", 2]]) for v in (query, key, value)]
    y = g.add("scaled_dot_product_attention", *heads, None, is_causal=g.draw(st.booleans()))
    g.add("rearrange", y, pattern="n h t d -> n t (h d)")


def _embedding(g: _Growing) -> None:
    tokens = [n.value for n in _inputs(g.build) if g.type(n.value).dtype is DType.I64]
    if not tokens:
        raise ShapeError("no tokens")
    g.add("embedding", tokens[0], g.weight("wte.weight", 10, 4), name="wte")


def _training(g: _Growing) -> None:
    """A part that exists in training only, and the value it leaves behind."""
    x = g.one()
    g.phase = "train"
    noisy = g.add("dropout", x, p=0.25)
    if g.draw(st.booleans()):
        noisy = g.add("tanh", noisy)
    g.phase = "both"
    trained = g.build.node("select_phase", noisy, x, path=f"{g.prefix}select_phase")
    hidden = {noisy.node, *(v.node for v in g.values if g.build.edit.node(v.node).phase == "train")}
    g.values = [*(v for v in g.values if v.node not in hidden), trained.value]


_MOVES: list[Callable[[_Growing], None]] = [
    _conv, _conv, _batch_norm, _activation, _activation, _binary, _binary, _linear, _norm, _group_norm, _conv_transpose,
    _scalar, _scale, _concat, _split, _slice, _pool, _pad, _reshape, _reduce, _topk, _attention, _embedding, _training,
]  # fmt: skip


def _block(g: _Growing) -> None:
    """An instance of a module, sometimes called again on another value: the same parameters, other nodes."""
    build, edit = g.build, g.build.edit
    path = edit.fresh(f"block{g.calls}")
    g.calls += 1
    x = g.one()
    calls = [path]
    edit.scope(Scope(path, "Block", path))
    before = list(g.values)
    g.values = [x]
    g.prefix = f"{path}."
    first = set(_paths(build))
    for _ in range(g.draw(st.integers(1, 3))):
        _try(g, g.draw(st.sampled_from(_MOVES)))
    g.prefix = ""
    inner = [edit.node(p) for p in _paths(build) if p not in first]
    made = g.values[1:]
    again = [v for v in before if g.type(v) == g.type(x)]
    if inner and g.draw(st.booleans()):
        made += _repeat(g, inner, x, g.draw(st.sampled_from(again)), f"{path}~{len(calls)}", path)
    g.values = before + made


def _repeat(g: _Growing, nodes: Sequence[Node], x: Value, other: Value, path: str, instance: str) -> list[Value]:
    """The nodes of an instance once more, reading `other` in the place of `x`."""
    edit = g.build.edit
    edit.scope(Scope(path, "Block", instance))
    moved: dict[Ref, Ref] = {x: other}
    made: list[Value] = []
    for node in nodes:
        inputs = [None if i is None else moved.get(i, i) for i in node.inputs]
        copy = edit.add(path + node.path.removeprefix(instance), node.op, *inputs, phase=node.phase)
        moved.update(zip(node.values, copy.values, strict=True))
        if node.phase == "both":
            made += [v for v in copy.values if edit.type(v).dtype is DType.F32]
    return made


def _try(g: _Growing, move: Callable[[_Growing], None]) -> None:
    """Make a move; one that does not fit the values at hand changes nothing that matters."""
    try:
        move(g)
    except ShapeError:
        g.phase = "both"


def _ints(shape: Sequence[Dim]) -> list[int]:
    assert all(isinstance(d, int) for d in shape)
    return [d for d in shape if isinstance(d, int)]


def _paths(build: Builder) -> list[str]:
    return list(build.edit.done().nodes)


def _inputs(build: Builder) -> list[Node]:
    return list(build.edit.done().inputs.values())


_INPUTS = [
    "f32[{N}, 4, 6, 5]",
    "f32[{N}, 3, 8, 8]",
    "f32[{N}, 2, 7, 6]",
    "f32[{N}, {T}, 4]",
    "f32[{N}, 6, 4]",
    "i64[{N}, {T}]",
]


@st.composite
def graphs(draw: Draw, *, size: int = 12, symbolic: bool = True, training: bool = True) -> Graph:
    """Valid graphs of about `size` nodes: convolutions, normalisations, joins, splits, reshapes, attention, tied
    instances, weights as expressions, several inputs and outputs.

    `symbolic`: the batch and the sequence length may be symbols. `training`: there may be parts for one phase only.
    Everything that is not an output is read or not; dead nodes occur. Values stay moderate for inputs that are.
    """
    build = Builder(draw(st.sampled_from(["g", "net", "resnet18"])))
    g = _Growing(draw, build)
    n, length = ("N", "T") if symbolic and draw(st.booleans()) else ("2", "3")
    for i, text in enumerate(draw(st.lists(st.sampled_from(_INPUTS), min_size=1, max_size=3))):
        value = build.input(f"x{i}" if i else "x", text.format(N=n, T=length))
        if g.type(value).dtype is DType.F32:
            g.values.append(value)
    if not g.values:
        g.values.append(build.input("image", f"f32[{n}, 4, 6, 6]"))
    moves = [_block, *(m for m in _MOVES if training or m is not _training)]
    for _ in range(draw(st.integers(1, size))):
        _try(g, draw(st.sampled_from(moves)))
    outputs = list(dict.fromkeys([g.values[-1], *draw(st.lists(st.sampled_from(g.values), max_size=2))]))
    if draw(st.booleans()):
        build.edit.tap("features", draw(st.sampled_from(g.values)))
    return build.done(*outputs)
