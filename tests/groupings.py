"""Random graphs in f64 with random groups of them and random schedules: the material of tests of the memory model."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from netc.compiler.fusion.memory import Members, Schedule
from netc.compiler.fusion.workload import Workload
from netc.compiler.graph import Graph, ParameterRef, Ref, Value
from netc.compiler.operators.operator import OPERATORS, ShapeError
from netc.compiler.types import DType
from strategies import Builder

Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass(frozen=True)
class Case:
    """A group, and how it is executed."""

    graph: Graph
    nodes: tuple[str, ...]
    schedule: Schedule
    dtype: DType | None


class _Net:
    """A graph in the making: each call of `grow` adds an operator, with its moves, to a value that is there."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.build = Builder()
        self.values: list[Value] = []
        self.weights: dict[tuple[int, ...], list[ParameterRef]] = {}

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def pick(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def shape(self, value: Ref) -> tuple[int, ...]:
        return tuple(int(str(d)) for d in self.build.edit.type(value).shape)

    def weight(self, *shape: int) -> ParameterRef:
        """A parameter: a new one, or one of this shape that is there already."""
        found = self.weights.setdefault(shape, [])
        if found and self.number(0, 2) == 0:
            return self.pick(*found)
        count = sum(map(len, self.weights.values()))
        found.append(self.build.parameter(f"w{count}", shape, dtype=DType.F64))
        return found[-1]

    def add(self, operator: str, *inputs: Ref | None, **attributes: Any) -> Value:
        operands = OPERATORS[operator].operands
        if not operands[-1].variadic:
            inputs = (*inputs, *[None] * (len(operands) - len(inputs)))
        node = self.build.node(operator, *inputs, **attributes)
        self.values.extend(
            v for v in node.values if node.types[v.index].dtype.is_float and node.types[v.index].rank > 1
        )
        return node.value

    def start(self) -> None:
        n = self.pick(1, 1, 1, 2)
        kind = self.pick(*["image"] * 6, "tokens", "words")
        if kind == "image":
            self.values.append(self.build.input("x", f"f64[{n}, {self.number(1, 4)}, {self.size()}, {self.size()}]"))
        elif kind == "tokens":
            self.values.append(self.build.input("x", f"f64[{n}, {self.number(3, 9)}, 4]"))
        else:
            words = self.build.input("x", f"i64[{n}, {self.number(3, 9)}]")
            self.add("embedding", words, self.weight(6, 4))

    def size(self) -> int:
        return self.number(3, 13)

    def grow(self) -> None:
        x = self.pick(*self.values[-4:])
        rank = len(self.shape(x))
        step = self.pick(*_STEPS.get(rank, ()), *_ANY)
        try:
            step(self, x)
        except ShapeError:  # a kernel larger than what it slides over, and such
            self.add("relu", x)

    def done(self) -> Graph:
        used = {ref for node in self.build.edit.done().nodes.values() for ref in node.refs}
        ends = [v for v in self.values if v not in used]
        more = [v for v in self.values if v in used and self.number(0, 9) == 0]
        return self.build.done(*(ends or self.values[-1:]), *more)


def _pairs(net: _Net, most: int, count: int = 2) -> tuple[tuple[int, int], ...]:
    return tuple((net.number(0, most), net.number(0, most)) for _ in range(count))


def _conv(net: _Net, x: Value) -> None:
    _, channels, *_ = net.shape(x)
    groups = net.pick(1, 1, channels)
    kernel = net.number(1, 3), net.number(1, 3)
    out = groups * net.number(1, 3) if groups > 1 else net.number(1, 5)
    weight = net.weight(out, channels // groups, *kernel)
    bias = net.weight(out) if net.number(0, 1) else None
    stride, dilation = (net.number(1, 3), net.number(1, 2)), (net.number(1, 2), net.number(1, 2))
    net.add("conv2d", x, weight, bias, stride=stride, padding=_pairs(net, 2), dilation=dilation, groups=groups)


def _same_conv(net: _Net, x: Value) -> None:
    """Of the same size, so that a branch can join."""
    channels = net.shape(x)[1]
    made = net.add("conv2d", x, net.weight(channels, channels, 3, 3), padding=((1, 1), (1, 1)))
    if net.number(0, 1):
        net.add(net.pick("add", "mul"), made, x)


def _conv1d(net: _Net, x: Value) -> None:
    channels, kernel = net.shape(x)[1], net.number(1, 3)
    weight = net.weight(net.number(1, 4), channels, kernel)
    net.add("conv1d", x, weight, stride=net.number(1, 2), padding=_pairs(net, 1, 1))


def _transposed(net: _Net, x: Value) -> None:
    channels = net.shape(x)[1]
    groups = net.pick(1, channels)
    kernel = net.number(1, 3), net.number(1, 3)
    stride, dilation = (net.number(1, 3), net.number(1, 2)), (net.number(1, 2), 1)
    extra = tuple(net.number(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True))
    padding = tuple((net.number(0, k // 2), net.number(0, k // 2)) for k in kernel)
    weight = net.weight(channels, net.number(1, 3), *kernel)
    bias = net.weight(net.shape(weight)[1] * groups) if net.number(0, 1) else None
    net.add(
        "conv_transpose2d", x, weight, bias, stride=stride, padding=padding, output_padding=extra, groups=groups,
        dilation=dilation,
    )  # fmt: skip


def _pool(net: _Net, x: Value) -> None:
    kernel = net.number(1, 3), net.number(1, 3)
    padding = tuple((net.number(0, k // 2), net.number(0, k // 2)) for k in kernel)
    common = {"kernel_size": kernel, "stride": (net.number(1, 3), net.number(1, 3)), "padding": padding}
    ceil = bool(net.number(0, 1))
    if net.number(0, 1):
        net.add("max_pool2d", x, **common, dilation=net.number(1, 2), ceil_mode=ceil)
    else:
        net.add("avg_pool2d", x, **common, ceil_mode=ceil, count_include_pad=bool(net.number(0, 1)))


def _resize(net: _Net, x: Value) -> None:
    *_, height, width = net.shape(x)
    mode = net.pick("nearest", "bilinear", "bicubic")
    if mode == "nearest":
        size = height * net.number(1, 3), width * net.number(1, 2)
        net.add("interpolate", x, size=size, mode=mode)
    else:
        size = net.number(1, 15), net.number(1, 9)
        net.add("interpolate", x, size=size, mode=mode, align_corners=bool(net.number(0, 1)))


def _padded(net: _Net, x: Value) -> None:
    mode = net.pick("constant", "constant", "replicate")
    net.add("pad", x, padding=((0, 0), (0, 0), *_pairs(net, 3)), mode=mode)


def _gate(net: _Net, x: Value) -> None:
    channels = net.shape(x)[1]
    kind = net.pick("mean", "pool", "max")
    if kind == "pool":
        mean = net.add("adaptive_avg_pool2d", x, output_size=(1, 1))
    else:
        mean = net.add(kind, x, dim=(2, 3), keepdim=True)
    if net.number(0, 1):
        mean = net.add("conv2d", mean, net.weight(channels, channels, 1, 1))
    net.add("mul", x, net.add("sigmoid", mean))


def _reduced(net: _Net, x: Value) -> None:
    rank = len(net.shape(x))
    dim = net.number(0, rank - 1) if net.number(0, 3) == 0 else net.number(1, rank - 1)
    net.add(net.pick("mean", "sum", "max", "min"), x, dim=dim, keepdim=bool(net.number(0, 1)))


def _joined(net: _Net, x: Value) -> None:
    shape = net.shape(x)
    for dim in net.draw(st.permutations(range(1, len(shape)))):
        rest = [s for i, s in enumerate(shape) if i != dim]
        others = [v for v in net.values if [s for i, s in enumerate(net.shape(v)) if i != dim] == rest]
        others = [v for v in others if len(net.shape(v)) == len(shape)]
        if len(others) > 1:
            net.add("concat", x, net.pick(*others), dim=dim)
            return
    net.add("concat", x, x, dim=1)


def _summed(net: _Net, x: Value) -> None:
    shape = net.shape(x)
    others = [v for v in net.values if len(net.shape(v)) <= len(shape)]
    fitting = [v for v in others if all(d in (1, s) for d, s in zip(net.shape(v)[::-1], shape[::-1], strict=False))]
    other: Ref = net.pick(*fitting) if net.number(0, 3) else net.weight(*shape[net.number(0, len(shape) - 1) :])
    net.add(net.pick("add", "mul", "sub", "maximum"), *net.pick((x, other), (other, x)))


def _activated(net: _Net, x: Value) -> None:
    net.add(net.pick("relu", "sigmoid", "silu", "tanh", "identity"), x)


def _normalised(net: _Net, x: Value) -> None:
    channels = net.shape(x)[1]
    mean, variance = (net.build.parameter(net.build.edit.fresh(f"s{len(net.values)}_{k}"), (channels,), kind,
                                          dtype=DType.F64, buffer=True)
                      for k, kind in enumerate(("zeros", "ones")))  # fmt: skip
    net.add("batch_norm", x, net.weight(channels), net.weight(channels), mean, variance)


def _softmax(net: _Net, x: Value) -> None:
    net.add("softmax", x, dim=net.number(1, len(net.shape(x)) - 1))


def _sliced(net: _Net, x: Value) -> None:
    shape = net.shape(x)
    dim = net.number(1, len(shape) - 1)
    start = net.number(0, shape[dim] - 1)
    made = net.add("slice", x, dim=dim, start=start, stop=net.number(start + 1, shape[dim]), step=net.number(1, 2))
    _activated(net, made)


def _halves(net: _Net, x: Value) -> None:
    shape = net.shape(x)
    dim = net.number(1, len(shape) - 1)
    if shape[dim] > 1:
        first = net.number(1, shape[dim] - 1)
        node = net.build.node("split", x, sizes=(first, shape[dim] - first), dim=dim)
        net.values.extend(node.values)


def _turned(net: _Net, x: Value) -> None:
    rank = len(net.shape(x))
    net.add("permute", x, dims=(0, *net.draw(st.permutations(range(1, rank)))))


def _tokens(net: _Net, x: Value) -> None:
    """An image as a sequence of its places."""
    n, channels, height, width = net.shape(x)
    net.add("permute", net.build("reshape", x, size=(n, channels, height * width)), dims=(0, 2, 1))


def _shuffled(net: _Net, x: Value) -> None:
    _, channels, height, width = net.shape(x)
    if channels % 4 == 0:
        net.add("pixel_shuffle", x, upscale_factor=2)
    elif height % 2 == 0 and width % 2 == 0:
        net.add("pixel_unshuffle", x, downscale_factor=2)
    else:
        net.add("flip", x, dims=(2,))


def _linear(net: _Net, x: Value) -> None:
    features = net.shape(x)[-1]
    out = net.pick(features, features, net.number(1, 6))
    net.add("linear", x, net.weight(out, features), net.weight(out) if net.number(0, 1) else None)


def _layer_norm(net: _Net, x: Value) -> None:
    features = net.shape(x)[-1]
    net.add("layer_norm", x, net.weight(features), net.weight(features))


def _attention(net: _Net, x: Value) -> None:
    n, t, features = net.shape(x)
    heads = 2 if features % 2 == 0 else 1
    made: list[Value] = []
    for _ in range(3):
        each = net.add("linear", x, net.weight(features, features))
        split = net.build("reshape", each, size=(n, t, heads, features // heads))
        made.append(net.build("permute", split, dims=(0, 2, 1, 3)))
    if net.number(0, 1):
        found = net.add("scaled_dot_product_attention", *made, None, is_causal=bool(net.number(0, 1)))
    else:
        scores = net.add("matmul", made[0], net.build("permute", made[1], dims=(0, 1, 3, 2)))
        found = net.add("matmul", net.add("softmax", scores, dim=-1), made[2])
    net.add("reshape", net.build("permute", found, dims=(0, 2, 1, 3)), size=(n, t, features))


def _pool1d(net: _Net, x: Value) -> None:
    kernel = net.number(1, 3)
    padding = ((net.number(0, kernel // 2), net.number(0, kernel // 2)),)
    kind = net.pick("max_pool1d", "avg_pool1d")
    net.add(kind, x, kernel_size=kernel, stride=net.number(1, 2), padding=padding, ceil_mode=bool(net.number(0, 1)))


def _product(net: _Net, x: Value) -> None:
    n, t, features = net.shape(x)
    if net.number(0, 1):
        net.add("einsum", x, net.weight(features, net.number(1, 4)), equation="btd,de->bte")
    else:
        net.add("einsum", x, net.weight(t, 2), net.weight(2, n), equation="btd,tk,kb->bd")


def _group_norm(net: _Net, x: Value) -> None:
    _, channels, height, width = net.shape(x)
    groups = net.pick(1, channels)
    if channels // groups * height * width > 1:  # PyTorch wants more than one number in a group
        net.add("group_norm", x, net.weight(channels), net.weight(channels), num_groups=groups)


def _largest(net: _Net, x: Value) -> None:
    size = net.shape(x)[-1]
    net.add("topk", x, k=net.number(1, size), dim=-1)


def _looked_up(net: _Net, x: Value) -> None:
    """A second use of a table that may be a linear layer's."""
    words = net.build.input(net.build.edit.fresh("words"), f"i64[{net.shape(x)[0]}, {net.number(2, 6)}]")
    net.add("embedding", words, net.weight(net.number(2, 6), net.shape(x)[-1]))


_IMAGE = (
    _conv, _conv, _conv, _same_conv, _same_conv, _transposed, _pool, _pool, _resize, _padded, _gate, _gate,
    _normalised, _group_norm, _tokens, _shuffled,
)  # fmt: skip
_SEQUENCE = (
    _linear, _linear, _layer_norm, _attention, _conv1d, _pool1d, _product, _largest, _looked_up, _normalised,
)  # fmt: skip
_ANY = (_summed, _summed, _activated, _joined, _sliced, _halves, _turned, _reduced, _softmax)
_STEPS: dict[int, tuple[Callable[[_Net, Value], None], ...]] = {4: _IMAGE, 3: _SEQUENCE, 2: (_linear,)}


@st.composite
def cases(draw: Draw, most: int = 8) -> Case:
    """A graph of a few operators, a connected convex group of it, and a schedule."""
    net = _Net(draw)
    net.start()
    for _ in range(net.number(2, most)):
        net.grow()
    graph = net.done()
    dtype = draw(st.sampled_from((None, DType.I8, DType.F16)))
    workload = Workload(graph, dtype)
    nodes = draw(groups(workload))
    members = Members(workload, nodes)
    lines = max((members.size(v, members.rows) for v in (*members.made, *members.inputs)), default=1)
    across = max((members.size(v, members.columns) for v in members.leaving), default=1)
    names = sorted({w.name for weights in members.weights.values() for w in weights})
    resident = draw(st.sets(st.sampled_from(names))) if names else set[str]()
    schedule = Schedule(
        draw(st.integers(1, lines + 1)),
        draw(st.integers(1, min(across, 4))),
        draw(st.sampled_from(("cache", "cache", "recompute"))),
        frozenset(resident),
    )
    return Case(graph, tuple(nodes), schedule, dtype)


@st.composite
def groups(draw: Draw, workload: Workload) -> list[str]:
    """Nodes that are connected, and convex: no path leaves them and comes back."""
    work = workload.work
    if not work.nodes:
        return []
    chosen = {draw(st.sampled_from(list(work.nodes)))}
    for _ in range(draw(st.sampled_from((len(work.nodes), 8, 5, 3, 2, 0)))):
        near = sorted({p for path in chosen for p in (*work.before[path], *work.after[path])} - chosen)
        if not near:
            break
        chosen.add(draw(st.sampled_from(near)))
        chosen = reached(chosen, work.before) & reached(chosen, work.after)
    return [path for path in work.nodes if path in chosen]


def reached(chosen: Collection[str], following: Any) -> set[str]:
    """Nodes that are reached from some, those included."""
    found, waiting = set(chosen), list(chosen)
    while waiting:
        for path in following[waiting.pop()]:
            if path not in found:
                found.add(path)
                waiting.append(path)
    return found
