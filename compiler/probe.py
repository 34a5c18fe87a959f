"""Numbers to try a model on: inputs and parameters that respect what the model does with them, and hide nothing.

What a value is for is followed backwards from its readers: integers that look up rows of a table are rows of it,
values that reach a logarithm are positive, masks leave something to see. Everything is drawn from a seed and the path.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice, product
from math import prod, sqrt
from typing import TYPE_CHECKING, Any, cast

from .diagnostic import Diagnostic, NetcError
from .graph import Graph, Node, Parameter, ParameterRef, Ref, Value
from .initialise import draw, generator
from .operators.creation import Arange, Constant, Full
from .operators.operator import SAMPLES, Operator
from .passes.bind import bind
from .types import Dim, DType, Expression, TensorType, symbols
from .weights import InMemory

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

_POSITIVE = (0.5, 2.0)
_VERY_NEGATIVE = -1e3
"""What a mask adds, or puts in place, to hide: this or less."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the readers of a value want of its numbers.

    They lie from `low` to `high`. `mean` and `std` are of a normal distribution where there are no bounds. `first` is
    what truths, and integers that stand for them, are at the start of their last axis, where everything may see them.
    """

    low: float = -math.inf
    high: float = math.inf
    normal: tuple[float, float] | None = None
    first: bool | None = None

    def __and__(self, other: Wish) -> Wish:
        low, high = max(self.low, other.low), min(self.high, other.high)
        if low > high:
            low, high = self.low, self.high
        laws = [n for n in (self.normal, other.normal) if n]
        return Wish(
            low, high, min(laws, key=lambda n: n[1], default=None), other.first if self.first is None else self.first
        )

    def shifted(self, low: float, high: float) -> Wish:
        """For an operand to which numbers from `low` to `high` are added."""
        return replace(self, low=self.low - low, high=self.high - high)


# ---------------------------------------------------------------------------------------------------------- symbols

_BATCH = frozenset({"N", "B"})
_SIZES = (7, 5, 11, 13, 3, 17)
_IMAGES = (37, 41, 43, 47)
_OTHERS = (8, 16, 64, 32, 12, 96, 224, 128, 256, 4, 1)
"""For models whose sizes must be multiples."""
_TRIES = 300


def bound(graph: Graph, given: Mapping[str, int] | None = None, longer: int = 0) -> Graph:
    """The graph with its symbols as small numbers, different ones: `N` 2, others 7, 5, …, sides of pictures 37, 41, …
    Where the model refuses those, others are tried. What is `given` stays; `longer` is added to all but `N`.

    Raises:
        NetcError: where no numbers are found that the model takes (`unbound-symbols`), or those given do not suit it.
    """
    given = {name: size for name, size in (given or {}).items() if name in _symbols(graph)}
    graph = bind(graph, given)
    free = _symbols(graph)
    others = [name for name in free if name not in _BATCH]
    choices = [[2, 1, 3] if n in _BATCH else _candidates(graph, n, others.index(n), longer) for n in free]
    problem: NetcError | None = None
    for sizes in islice(_combinations(choices), _TRIES):
        try:
            return bind(graph, dict(zip(free, sizes, strict=True)))
        except NetcError as error:
            problem = problem or error
    assert problem
    reason = problem.diagnostics[0].message
    fix = f"bind {free[0]}=<number>"
    message = f"no sizes are found for {', '.join(free)} that the model takes: {reason}"
    raise NetcError([Diagnostic("unbound-symbols", message, fix=fix)]) from problem


def _combinations(choices: Sequence[Sequence[int]]) -> Iterator[tuple[int, ...]]:
    """One of each: the first ones first, the last ones last."""
    for last in range(max(map(len, choices), default=1)):
        for index in product(*(range(min(last + 1, len(c))) for c in choices)):
            if max(index, default=0) == last:
                yield tuple(c[i] for c, i in zip(choices, index, strict=True))


def _symbols(graph: Graph) -> list[str]:
    dims = [d for node in graph.inputs.values() for d in node.types[0].shape]
    return list(dict.fromkeys(s for d in dims for s in sorted(symbols(d))))


def _candidates(graph: Graph, name: str, number: int, longer: int) -> list[int]:
    side = any(name in symbols(d) for n in graph.inputs.values() if n.types[0].rank > 3 for d in n.types[0].shape[2:])
    primes = _IMAGES if side else _SIZES
    turned = [primes[(number + i) % len(primes)] for i in range(len(primes))]
    return [size + longer for size in (turned[0], *_OTHERS, *turned[1:])]


# ---------------------------------------------------------------------------------------------------------- numbers


def inputs(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """An array for each input of a graph without symbols. The same graph and seed give the same arrays."""
    found = wishes(graph)
    return {path: _input(node, found.get(node.value, Wish()), seed) for path, node in graph.inputs.items()}


def _input(node: Node, wish: Wish, seed: int) -> Array:
    import numpy

    kind, rng = node.types[0], generator(f"input {node.path}", seed)
    shape = cast("tuple[int, ...]", kind.shape)
    if kind.dtype.is_float:
        drawn = _reals(rng, shape, wish, (0.0, 1.0))
    elif kind.dtype is DType.BOOL:
        drawn = rng.random(shape) < (0.25 if wish.first is False else 0.75)
        if drawn.ndim:
            drawn[..., 0] = wish.first is not False
    else:
        flag = wish.first is not None or "mask" in node.path
        low, high = _whole(kind.dtype, wish, 1 if flag else 7)
        drawn = rng.integers(low, high, shape, endpoint=True)
        if flag and drawn.ndim:
            drawn[..., 0] = 0 if wish.first is False else max(1, low)
    return numpy.asarray(drawn).astype(kind.dtype.as_numpy)


def _reals(rng: Any, shape: tuple[int, ...], wish: Wish, normal: tuple[float, float]) -> Array:
    if wish.low == -math.inf and wish.high == math.inf:
        mean, std = wish.normal or normal
        return rng.standard_normal(shape) * std + mean
    low = wish.low if wish.low > -math.inf else wish.high - 2
    return rng.uniform(low, wish.high if wish.high < math.inf else low + 2, shape)


def _whole(dtype: DType, wish: Wish, spread: int) -> tuple[int, int]:
    """The least and the largest integer, not below 0 where that is possible."""
    import numpy

    limits = numpy.iinfo(dtype.as_numpy)
    high = min(math.floor(wish.high), int(limits.max)) if wish.high < math.inf else None
    low = math.ceil(wish.low) if wish.low > -math.inf else min(0, high) if high is not None else 0
    if high is None:
        high = low + (255 if dtype is DType.U8 else spread)
    if high >= 0:
        low = max(low, 0)
    return max(low, int(limits.min)), max(low, high)


def probed(graph: Graph, seed: int = 0) -> Graph:
    """The graph with numbers for the parameters that have none: not those of their initialisers, which hide what is
    wrong (scales of 1, biases of 0), but random ones of a scale that keeps activations moderate in deep networks."""
    found = wishes(graph)
    made = [
        replace(p, data=InMemory(_parameter(p, found.get(ParameterRef(path), Wish()), seed)))
        for path, p in graph.parameters.items()
        if p.data is None
    ]
    return graph.with_parameters(made) if made else graph


def _parameter(parameter: Parameter, wish: Wish, seed: int) -> Array:
    kind = parameter.type
    if isinstance(kind.elements, Expression):
        return draw(parameter, seed)  # raises: it is symbolic
    shape, rng = cast("tuple[int, ...]", kind.shape), generator(parameter.path, seed)
    if kind.dtype.is_float:
        inner = prod(shape[1:]) if len(shape) > 1 else 4
        return _reals(rng, shape, wish, (0.0, 1 / sqrt(max(1, inner)))).astype(kind.dtype.as_numpy)
    if kind.dtype is DType.BOOL or wish.high == math.inf:
        return draw(parameter, seed)
    low, high = _whole(kind.dtype, wish, 7)
    return rng.integers(low, high, shape, endpoint=True).astype(kind.dtype.as_numpy)


# ---------------------------------------------------------------------------------------------------------- wishes


def wishes(graph: Graph) -> dict[Ref, Wish]:
    """What is wanted of each value and parameter, as far as anything is."""
    found: dict[Ref, Wish] = {}
    for node in reversed(list(graph.nodes.values())):
        wanted: Wish | None = None
        for value in node.values:
            if value in found:
                wanted = found[value] if wanted is None else wanted & found[value]
        for ref, wish in (*_own(graph, node), *(() if wanted is None else _passed(graph, node, wanted))):
            found[ref] = found[ref] & wish if ref in found else wish
    return found


@cache
def _positive(op: type[Operator]) -> frozenset[int]:
    """The operands that an operator's samples draw from positive numbers."""
    return frozenset(i for s in SAMPLES if type(s.op) is op for i in s.positive)


def _own(graph: Graph, node: Node) -> Iterator[tuple[Ref, Wish]]:
    """What the operator itself wants of its operands."""
    types = graph.input_types(node)
    for i, ref in enumerate(node.inputs):
        kind = types[i]
        if ref is None or kind is None:
            continue
        if i in _positive(type(node.op)):
            yield ref, Wish(*_POSITIVE) if kind.dtype.is_float else Wish(1, 7)
        rows = _rows(node, i, types)
        if isinstance(rows, int):
            yield ref, Wish(0, rows - 1)
        law = _law(node.op, i, types) if kind.dtype.is_float and isinstance(ref, ParameterRef) else None
        if law:
            yield ref, Wish(normal=law)
    yield from _seen(graph, node)


def _seen(graph: Graph, node: Node) -> Iterator[tuple[Ref, Wish]]:
    """Masks: where an operator hides by them, by a truth or by a very negative number."""
    name, refs = node.op.name, node.inputs
    if name == "scaled_dot_product_attention" and len(refs) > 3 and refs[3] is not None:
        yield refs[3], Wish(first=True)
    for hidden, mask, first in _HIDING.get(name, ()):
        limits, ref = _limits(graph, refs[hidden]), refs[mask]
        if limits and ref is not None and limits[1] <= _VERY_NEGATIVE:
            yield ref, Wish(first=first)


_HIDING = {"where": ((1, 0, False), (2, 0, True)), "mul": ((0, 1, False), (1, 0, False))}
"""Operand that may be very negative, operand that then says where, and what says that something is seen."""


def _rows(node: Node, operand: int, types: Sequence[TensorType | None]) -> Dim | None:
    """How many places an operand's integers choose from."""
    if not types:
        return None
    op, name = cast(Any, node.op), node.op.name
    into = types[1 if name == "embedding" and len(types) > 1 else 0]
    assert into is not None
    if (name, operand) == ("embedding", 0):
        return into.shape[0]
    if (name, operand) == ("one_hot", 0):
        return cast(int, op.num_classes)
    if name in ("gather", "scatter", "scatter_add", "index_select") and operand == 1:
        return into.shape[int(op.dim)]
    return None


_GAINS = frozenset({"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"})


def _law(operator: Operator, operand: int, types: Sequence[TensorType | None]) -> tuple[float, float] | None:
    """Mean and standard deviation for a parameter: of weights such that each layer's output is about as large as its
    input (twice the variance where a rectifier usually follows: He et al., 2015)."""
    op, kind = cast(Any, operator), cast(TensorType, types[operand])
    name: str = op.operands[min(operand, len(op.operands) - 1)].name
    shape = [d if isinstance(d, int) else 1 for d in kind.shape]
    if op.name in _GAINS:
        return (1.0, 0.2) if name == "weight" else (0.0, 0.2)
    if op.name in ("mul", "div"):
        return 1.0, 0.2
    if name == "bias" or op.name in ("add", "sub"):
        return 0.0, 0.2
    if op.name == "embedding":
        return 0.0, 1.0
    if op.name == "prelu":
        return 0.25, 0.1
    if op.name.startswith("conv_transpose"):
        inner = shape[0] // op.groups * prod(shape[2:]) / prod(op.stride)
        return 0.0, sqrt(2 / max(1, inner))
    if op.name.startswith("conv"):
        return 0.0, sqrt(2 / prod(shape[1:]))
    if op.name == "matmul" and len(shape) > 1:
        return 0.0, 1 / sqrt(shape[-2] if operand else shape[-1])
    if op.name in ("linear", "lstm", "gru") and len(shape) > 1:
        return 0.0, 1 / sqrt(shape[-1])
    return None


# -------------------------------------------------------------------------------------------- passing wishes on

_UNCHANGED = frozenset(
    {
        "reshape", "flatten", "permute", "transpose", "squeeze", "unsqueeze", "expand", "repeat", "repeat_interleave",
        "slice", "split", "chunk", "concat", "stack", "flip", "roll", "pad", "rearrange", "unfold", "pixel_shuffle",
        "pixel_unshuffle", "identity", "stop_gradient", "dropout", "drop_path", "cast", "clip", "maximum", "minimum",
        "max", "min", "mean", "select_phase", "round", "floor", "ceil", "logical_and", "logical_or",
    }
)  # fmt: skip
"""Operators whose results are numbers among, or between, those of all their operands."""


def _passed(graph: Graph, node: Node, wish: Wish) -> Iterator[tuple[Ref, Wish]]:
    """What is wanted of the operands so that the results are as wanted."""
    name = node.op.name
    refs = [r for r in node.inputs if r is not None]
    plain = replace(wish, normal=None)
    if name in _UNCHANGED:
        yield from ((r, wish) for r in refs)
    elif name in ("gather", "index_select"):
        yield refs[0], wish
    elif name == "embedding":
        yield refs[1], wish
    elif name in ("where", "scatter", "scatter_add"):
        yield from ((r, wish) for r in (refs[1:] if name == "where" else refs[::2]))
    elif name == "logical_not":
        yield refs[0], Wish(first=None if wish.first is None else not wish.first)
    elif name in ("eq", "ne", "gt", "lt") and wish.first is not None:
        # Of integers that say by 0 that there is nothing.
        yield refs[0], Wish(first=wish.first is (name in ("ne", "gt")))
    elif name == "neg":
        yield refs[0], Wish(-wish.high, -wish.low)
    elif name in ("add", "sub", "mul", "floor_divide"):
        yield from _through(graph, node, plain)
    elif name in ("relu", "abs", "square", "div") and wish.low > 0:
        yield refs[0], plain
    elif name in ("sum", "cumsum") and wish.high < math.inf:
        summed = cast(TensorType, graph.input_types(node)[0]).elements
        count = summed if isinstance(summed, int) else 1
        yield refs[0], Wish(wish.low / count, wish.high / count) if wish.low > 0 else Wish(0, wish.high / count)


def _through(graph: Graph, node: Node, wish: Wish) -> Iterator[tuple[Ref, Wish]]:
    """Through arithmetic with a number that is known, or with another value, each half of what is wanted."""
    a, b = cast("tuple[Ref, Ref]", node.inputs[:2])
    name, left, right = node.op.name, _limits(graph, a), _limits(graph, b)
    if name == "add" and (left or right):
        yield (a, wish.shifted(*right)) if right else (b, wish.shifted(*cast("tuple[float, float]", left)))
    elif name == "sub" and right:
        yield a, wish.shifted(-right[1], -right[0])
    elif name == "sub" and left:
        turned = None if wish.first is None else not wish.first
        yield b, Wish(left[1] - wish.high, left[0] - wish.low, first=turned)
    elif name in ("mul", "floor_divide") and (left or right):
        factor = (right or left or (1.0,))[0]
        if factor == 0:
            return
        ends = sorted(e / factor if name == "mul" else e * factor for e in (wish.low, wish.high))
        yield (a if right else b), replace(wish, low=ends[0], high=ends[1])
    elif name == "add" and wish.high < math.inf:
        low = wish.low / 2 if wish.low > 0 else 0
        yield from ((r, Wish(low, wish.high / 2)) for r in (a, b))
    elif name == "mul" and wish.low > 0:
        yield from ((r, Wish(sqrt(wish.low), sqrt(wish.high))) for r in (a, b))


def _limits(graph: Graph, ref: Ref | None) -> tuple[float, float] | None:
    """The least and largest of numbers that the graph itself states."""
    while isinstance(ref, Value):
        node = graph.nodes[ref.node]
        op = node.op
        if isinstance(op, Constant):
            numbers = list(_flat(op.value))
            return min(numbers), max(numbers)
        if isinstance(op, Full):
            return None if isinstance(op.value, Expression) else (op.value, op.value)
        if isinstance(op, Arange):
            size = node.types[0].shape[0]
            if not isinstance(op.start, int) or not isinstance(size, int):
                return None
            ends = op.start, op.start + (size - 1) * op.step
            return min(ends), max(ends)
        if op.name not in _UNCHANGED or len(node.inputs) != 1 or op.name in ("pad", "clip"):
            return None
        ref = node.inputs[0]
    return None


def _flat(value: Any) -> Iterator[float]:
    if isinstance(value, tuple):
        for v in cast("tuple[Any, ...]", value):
            yield from _flat(v)
    else:
        yield float(value)
