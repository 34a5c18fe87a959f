"""Compute layers in integers: their inputs and weights rounded to 8 bits, on scales that examples give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field, PositiveInt

from ..backend import backend
from ..calibration import Calibration
from ..contract import Contract
from ..graph import Edit, Graph, Node, Parameter, ParameterRef, Ref, Value
from ..library import level_steps
from ..operators.creation import Constant
from ..operators.operator import Initialiser
from ..operators.quantization import LIMITS, Dequantize, Quantize
from ..operators.reduction import Mean
from ..pipeline import run
from ..probe import bound
from ..types import DType, Expression, TensorType
from ..weights import InMemory, value
from .choose import Paths, matches
from .register import Outcome, Refusal, transform
from .weight import beside

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

Method = Literal["minmax", "percentile", "mse"]

LAYERS = frozenset({"conv1d", "conv2d", "conv3d", "linear"})
"""Operators that multiply by weights."""
POOLS = frozenset(
    {"mean", "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"}
)
JOINS = frozenset({"add", "concat"})
"""Operators that are computed in integers between others that are."""
BETWEEN = frozenset(
    {
        "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "hardsigmoid", "hardswish", "sigmoid", "tanh",
        "mish", "clip", "reshape", "flatten", "permute", "transpose", "squeeze", "unsqueeze", "identity",
    }
)  # fmt: skip
"""Operators that may stand between one that is computed in integers and the rounding of its result."""

BINS = 2048
"""Of the histogram of a value."""
BATCH = 4
"""Examples that run at once."""


@transform
def quantize(
    graph: Graph,
    calibration: Calibration,
    samples: PositiveInt | None = None,
    *,
    method: Method = "mse",
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99,
    activations: Literal["u8", "i8"] = "u8",
    per_channel: bool = True,
    correct: bool = True,
    keep: Paths = "",
    tolerance: Annotated[float, Field(gt=0)] | None = None,
    seed: int = 0,
) -> Outcome:
    """Round what convolutions, linear layers, residual additions and pools compute with to integers of 8 bits.

    The model becomes one of inference and is optimised as by `-O2`, so that batch norms are part of weights. Then what
    a layer reads is rounded by `quantize` and read by `dequantize`; its weight is stored as i8, its bias as i32. Each
    value has one scale and zero point, such that the range it has on examples, and 0, fill the integers. Scales of
    weights are symmetric. A backend may compute `dequantize … layer … quantize` in integers; all of them give what
    these operators mean. Outputs of the model are not rounded.

    Contract: alters. The notes say how far outputs are from those before, on the examples; the names of inputs and
    outputs and their types stay.

    - calibration: the examples. Only `noise` is random, and a model calibrated on it suits nothing else.
    - samples: how many of them.
    - method: what part of the range counts: all (`minmax`), all but the outermost numbers (`percentile`), or as much as
      makes the mean squared error of rounding least (`mse`).
    - percentile: of 100 numbers so many are below the end of the range, and as many above its start.
    - activations: unsigned or signed integers.
    - per_channel: a scale for each output channel of a weight, or one for all.
    - correct: whether biases make up for what rounding weights changes in the mean of each channel on the examples.
    - keep: layers, by path, that stay in fractions.
    - tolerance: the largest difference of an output, relative to the largest of its numbers, that is accepted on the
      examples.
    - seed: of the numbers of parameters without data.

    Refuses a model without such layers, in another dtype than f32, and what differs by more than `tolerance`.

    Source: Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference" (2018); Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference" (2018); Nagel et
    al., "Data-free quantization through weight equalization and bias correction" (2019), section 4.2.
    """
    folded = run(graph, level_steps(2, seed)).final
    chosen = _chosen(folded, keep)
    if not any(folded.nodes[path].op.name in LAYERS for path in chosen):
        raise Refusal(
            f"{graph.name} has no convolution or linear layer in f32 to round", option="keep" if keep else None
        )
    examples = list(_batches(folded, calibration.inputs(folded, samples)))
    sources = _sources(folded, chosen)
    watched = list(dict.fromkeys(sources.values()))
    ranges = _Ranges(folded, watched, examples, seed).find(method, percentile, DType(activations))
    scales = {r: ranges[s] for r, s in sources.items()}
    means = _means(folded, chosen, examples, seed) if correct else {}
    made = _Rounding(folded, scales, means, DType(activations), per_channel, seed)
    after = made.run(chosen)
    lost = _difference(folded, after, examples, seed)
    if tolerance is not None and lost.relative > tolerance:
        message = f"{lost.output} differs by {lost.relative:.2g} of its largest number, and {tolerance:g} is accepted"
        raise Refusal(message, option="tolerance", fix="keep = the first and last layer, or another method")
    counts = f"{len(made.layers)} layers and {len(chosen) - len(made.layers)} additions, joins and pools"
    said = f"{counts} compute with integers: {len(watched)} values of {activations}, weights of i8"
    notes = (said, f"scales are by {method} of {calibration}", str(lost))
    return Outcome(after, Contract("alters"), notes, made.origins)


# -------------------------------------------------------------------------------------------- what to compute so


def _chosen(graph: Graph, keep: Paths) -> dict[str, None]:
    """The nodes to compute in integers, in order: layers, and what lies between them."""
    chosen: set[str] = set()
    through: set[str] = set()
    for path, node in reversed(list(graph.nodes.items())):
        readers = {user.path for user in graph.users.get(node.value, ())}
        wanted = bool(readers & (chosen | through))
        if node.op.name in LAYERS:
            if _is_layer(graph, node) and not (keep and matches(path, keep)):
                chosen.add(path)
        elif wanted and node.op.name in BETWEEN:
            through.add(path)
        elif wanted and (node.op.name in POOLS or node.op.name in JOINS) and _is_single(graph, node):
            chosen.add(path)
    return {path: None for path in graph.nodes if path in chosen}


def _is_layer(graph: Graph, node: Node) -> bool:
    x, weight, bias = (*node.inputs, None)[:3]
    fixed = all(isinstance(r, ParameterRef) for r in (weight, bias) if r is not None)
    return isinstance(x, Value) and fixed and _is_single(graph, node)


def _is_single(graph: Graph, node: Node) -> bool:
    """Whether it computes in single precision, and with whole values: no number, no parameter, nothing broadcast."""
    types = [graph.type(r) for r in node.refs]
    if node.op.name in JOINS:
        whole = all(t.rank == node.types[0].rank for t in types)
        moving = all(isinstance(r, Value) and not isinstance(graph.nodes[r.node].op, Constant) for r in node.refs)
        if not (whole and moving):
            return False
    return all(t.dtype is DType.F32 for t in types)


def _sources(graph: Graph, chosen: Mapping[str, None]) -> dict[Value, Value]:
    """The values to round, each with the one whose range it has: a largest element lies in the range of the others."""
    found: dict[Value, Value] = {}
    for path in chosen:
        node = graph.nodes[path]
        for ref in node.inputs[:1] if node.op.name in LAYERS else node.inputs:
            assert isinstance(ref, Value)
            found.setdefault(ref, ref)
    for path in chosen:
        if graph.nodes[path].op.name.startswith("max_pool") and (made := Value(path)) in found:
            source = graph.nodes[path].inputs[0]
            assert isinstance(source, Value)
            found[made] = found[source]
    return found


# -------------------------------------------------------------------------------------------------------- ranges


def _batches(graph: Graph, inputs: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """The examples a few at a time: as many as the model takes at once, where that is a number.

    Raises:
        Refusal: where there are fewer.
    """
    counts = {d for n in graph.inputs.values() for d in n.types[0].shape[:1] if isinstance(d, int)}
    size = counts.pop() if counts else BATCH
    total = min((len(a) for a in inputs.values()), default=0)
    if total < size and (counts or total == 0):
        raise Refusal(f"{graph.name} takes {size} examples at once, and there are {total}", option="calibration")
    whole = bool(graph.inputs) and all(isinstance(n.types[0].shape[0], int) for n in graph.inputs.values())
    for start in range(0, total - size + 1 if whole else total, size):
        yield {name: array[start : start + size] for name, array in inputs.items()}


def _running(graph: Graph, examples: Sequence[Mapping[str, Array]], seed: int) -> Iterator[dict[str, Array]]:
    """The outputs of a graph for each of the batches."""
    engines: dict[int, Any] = {}
    for batch in examples:
        count = len(next(iter(batch.values())))
        if count not in engines:
            first = {d: count for n in graph.inputs.values() for d in n.types[0].shape[:1] if isinstance(d, Expression)}
            sizes = {str(d): size for d, size in first.items()}
            for name, node in graph.inputs.items():
                pairs = zip(node.types[0].shape, batch[name].shape, strict=True)
                sizes |= {str(d): size for d, size in pairs if isinstance(d, Expression)}
            engines[count] = backend("pytorch").Interpreter(bound(graph, sizes), "infer", seed, kept=True)
        yield engines[count](batch)


@dataclass(frozen=True)
class Scale:
    """(integer - zero) · scale."""

    scale: float
    zero: int


class _Ranges:
    """What range values have on examples."""

    def __init__(
        self, graph: Graph, values: Sequence[Value], examples: Sequence[Mapping[str, Array]], seed: int
    ) -> None:
        self._values = {f"v{i}": v for i, v in enumerate(values)}
        outputs: dict[str, Ref] = dict(self._values)
        self._watched = replace(graph, outputs=outputs, taps={})
        self._examples = examples
        self._seed = seed

    def find(self, method: Method, percentile: float, dtype: DType) -> dict[Value, Scale]:
        import numpy

        low = dict.fromkeys(self._values, 0.0)
        high = dict.fromkeys(self._values, 0.0)
        for found in _running(self._watched, self._examples, self._seed):
            for name, array in found.items():
                if not numpy.isfinite(array).all():
                    raise Refusal(f"{self._values[name]} is not finite on the examples", option="calibration")
                low[name] = min(low[name], float(array.min(initial=0)))
                high[name] = max(high[name], float(array.max(initial=0)))
        ends = {name: (low[name], high[name]) for name in self._values}
        if method != "minmax":
            counts = self._histograms(ends)
            for name, own in ends.items():
                if own[0] < own[1]:
                    part = _quantile(counts[name], own, percentile) if method == "percentile" else None
                    ends[name] = part or _least_error(counts[name], own)
        return {value: _scale(*ends[name], dtype) for name, value in self._values.items()}

    def _histograms(self, ends: Mapping[str, tuple[float, float]]) -> dict[str, Array]:
        import numpy

        counts = {name: numpy.zeros(BINS) for name in self._values}
        for found in _running(self._watched, self._examples, self._seed):
            for name, array in found.items():
                low, high = ends[name]
                if low < high:
                    # `numpy.histogram` is ten times as slow.
                    place = ((array.ravel() - low) * (BINS / (high - low))).astype("int64")
                    counts[name] += numpy.bincount(place.clip(0, BINS - 1), minlength=BINS)
        return counts


def _means(
    graph: Graph, chosen: Mapping[str, None], examples: Sequence[Mapping[str, Array]], seed: int
) -> dict[str, Array]:
    """The mean of each input channel of the layers, by path."""
    import numpy

    layers = [path for path in chosen if graph.nodes[path].op.name in LAYERS]
    edit = graph.edit("quantize")
    outputs: dict[str, Ref] = {}
    for path in layers:
        x = graph.nodes[path].inputs[0]
        assert x is not None
        rank = graph.type(x).rank
        channels = rank - 1 if graph.nodes[path].op.name == "linear" else 1
        others = tuple(d for d in range(rank) if d != channels)
        outputs[path] = edit.add(edit.fresh(f"{path}.mean"), Mean(others), x, phase=graph.nodes[path].phase).value
    watched = replace(edit.done(), outputs=outputs, taps={})
    found = list(_running(watched, examples, seed))
    return {path: numpy.mean([f[path] for f in found], 0, "float64") for path in layers}


def _quantile(counts: Array, ends: tuple[float, float], percentile: float) -> tuple[float, float]:
    """The range without the outermost numbers at both sides; 0 is in it."""
    import numpy

    low, high = ends
    edges = numpy.linspace(low, high, BINS + 1)
    below = numpy.cumsum(counts) / counts.sum()
    first = int(numpy.searchsorted(below, 1 - percentile / 100))
    last = int(numpy.searchsorted(below, percentile / 100))
    return min(float(edges[first]), 0.0), max(float(edges[min(last, BINS - 1) + 1]), 0.0)


def _least_error(counts: Array, ends: tuple[float, float]) -> tuple[float, float]:
    """The part of the range, shortened at both ends alike, whose rounding errs least in the mean of squares."""
    import numpy

    low, high = ends
    middles: Array = numpy.linspace(low, high, 2 * BINS + 1)[1::2]
    best, chosen = numpy.inf, ends
    for part in (1 - i / 100 for i in range(71)):
        step = part * (high - low) / 255
        zero = round(-part * low / step)
        rounded: Array = numpy.rint(middles / step).clip(-zero, 255 - zero)
        error = float((counts * numpy.square(rounded * step - middles)).sum())
        if error < best:
            best, chosen = error, (part * low, part * high)
    return chosen


def _scale(low: float, high: float, dtype: DType) -> Scale:
    """The scale on which a range that holds 0 fills the integers, and on which 0 is one of them."""
    import numpy

    least, most = LIMITS[dtype]
    scale = float(numpy.float32((high - low) / (most - least))) or 1.0
    return Scale(scale, max(least, min(most, round(least - low / scale))))


# ------------------------------------------------------------------------------------------------------ the graph


class _Rounding:
    """One sweep that puts roundings around the chosen nodes."""

    def __init__(
        self,
        graph: Graph,
        scales: Mapping[Value, Scale],
        means: Mapping[str, Array],
        dtype: DType,
        per_channel: bool,
        seed: int,
    ) -> None:
        self._graph = graph
        self._scales = scales
        self._means = means
        self._dtype = dtype
        self._per_channel = per_channel
        self._seed = seed
        self._edit: Edit = graph.edit("quantize")
        self._rounded: dict[Value, Ref] = {}
        self._weights: dict[str, tuple[Ref, Array]] = {}
        self._errors: dict[str, Array] = {}
        """By weight, what rounding has added to it."""
        self.layers: list[str] = []
        self.origins: dict[str, tuple[str, ...]] = {}

    def run(self, chosen: Mapping[str, None]) -> Graph:
        for path in chosen:
            node = self._graph.nodes[path]
            self._edit.acting("quantize", path)
            if node.op.name in LAYERS:
                self.layers.append(path)
                self._edit.set(path, inputs=self._layer(node))
            else:
                self._edit.set(path, inputs=[self._through_integers(cast(Value, r)) for r in node.inputs])
        return _without_idle(self._edit.done())

    def _through_integers(self, ref: Value) -> Ref:
        """What a value is after it was rounded."""
        if ref not in self._rounded:
            scale = self._scales[ref]
            source = self._graph.nodes[ref.node]
            name = ref.node if ref.index == 0 else f"{ref.node}.{ref.index}"

            def add(suffix: str, op: Any, *inputs: Ref) -> Ref:
                return self._edit.add(
                    self._edit.fresh(f"{name}.{suffix}"), op, *inputs, phase=source.phase, origin=source.origin
                ).value

            numbers = (
                add("scale", Constant(scale.scale, DType.F32)),
                add("zero_point", Constant(scale.zero, self._dtype)),
            )
            integers = add(self._dtype.value, Quantize(dtype=self._dtype), ref, *numbers)
            self._rounded[ref] = add("f32", Dequantize(), integers, *numbers)
        return self._rounded[ref]

    def _layer(self, node: Node) -> list[Ref | None]:
        x, weight, bias = (*node.inputs, None)[:3]
        assert isinstance(x, Value)
        assert isinstance(weight, ParameterRef)
        step = self._scales[x].scale
        numbers = (
            None if bias is None else value(self._graph.parameters[cast(ParameterRef, bias).parameter], self._seed)
        )
        read, scales = self._weight(node, weight.parameter, numbers, step)
        whole = None
        if bias is not None and numbers is not None:
            if node.path in self._means:
                numbers = numbers - self._shift(node, weight.parameter)
            whole = self._bias(node, cast(ParameterRef, bias).parameter, numbers, scales * step)
        return [self._through_integers(x), read, whole]

    def _weight(self, node: Node, path: str, bias: Array | None, step: float) -> tuple[Ref, Array]:
        """A weight of i8 as it is read, and its scale for each output channel."""
        import numpy

        if path in self._weights:
            return self._weights[path]
        own = self._graph.parameters[path]
        array = value(own, self._seed).astype("float64")
        scales = numpy.abs(array.reshape(len(array), -1)).max(1, initial=0) / 127
        if bias is not None:  # so that a bias is not beyond what i32 holds
            scales = numpy.maximum(scales, numpy.abs(bias.astype("float64")) / (step * 2**30))
        if not self._per_channel:
            scales = numpy.full_like(scales, scales.max(initial=0))
        scales = numpy.where(scales > 1e-30, scales, 1.0).astype("float32")
        wide = scales.astype("float64").reshape(-1, *[1] * (array.ndim - 1))
        integers = numpy.round(array / wide).clip(-127, 127).astype("int8")
        self._errors[path] = integers * wide - array
        self._weights[path] = self._stored(node, own, integers, scales), scales
        return self._weights[path]

    def _shift(self, node: Node, path: str) -> Array:
        """By how much rounding a weight moves the mean of each output channel, away from the borders of an image."""
        error = self._errors[path]
        error = error.reshape(*error.shape[:2], -1).sum(2)
        groups = int(getattr(node.op, "groups", 1))
        mean = self._means[node.path].reshape(groups, 1, -1)
        return (error.reshape(groups, -1, error.shape[1]) * mean).sum(2).reshape(-1)

    def _bias(self, node: Node, path: str, numbers: Array, scales: Array) -> Ref:
        import numpy

        steps = scales.astype("float32")
        integers = numpy.round(numbers.astype("float64") / steps).clip(*LIMITS[DType.I32]).astype("int32")
        return self._stored(node, self._graph.parameters[path], integers, steps)

    def _stored(self, node: Node, own: Parameter, integers: Array, scales: Array) -> Ref:
        """Integers and their scales as parameters, and their reading. They take the old parameter's place where no
        other node reads that."""
        alone = len(self._graph.users.get(ParameterRef(own.path), ())) == 1
        dtype = DType.I8 if integers.dtype == "int8" else DType.I32
        path = own.path if alone else self._free(beside(own.path, dtype.value))
        kept = Parameter(path, TensorType(dtype, own.type.shape), Initialiser("given"), False, True, origin=own.origin)
        scale = Parameter(
            self._free(beside(path, "scale")),
            TensorType(DType.F32, tuple(scales.shape)),
            Initialiser("given"),
            False,
            True,
            origin=own.origin,
        )
        refs = [self._edit.parameter(replace(p, data=InMemory(a))) for p, a in ((kept, integers), (scale, scales))]
        self.origins |= {p.path: (own.path,) for p in (kept, scale)}
        name = self._edit.fresh(f"{path}.f32")
        return self._edit.add(name, Dequantize(0), *refs, None, phase=node.phase, origin=node.origin).value

    def _free(self, path: str) -> str:
        base, number = path, 1
        while self._edit.find_parameter(path) is not None:
            path, number = f"{base}_{number}", number + 1
        return path


def _without_idle(graph: Graph) -> Graph:
    """Without parameters that no node reads any more: the weights of layers that share them."""
    edit = graph.edit("quantize")
    for path in graph.parameters:
        if not graph.users.get(ParameterRef(path)) and ParameterRef(path) not in graph.outputs.values():
            edit.remove_parameter(path)
    return edit.done()


# ------------------------------------------------------------------------------------------------- what is lost


@dataclass(frozen=True)
class _Difference:
    """How far the worst output is from what it was."""

    output: str
    relative: float
    ratio: float
    """Of the power of the output to that of the difference, in dB."""
    agree: tuple[int, int] | None
    """Of how many examples the largest number of the last axis is at the same place, and of how many there are."""
    examples: int

    def __str__(self) -> str:
        text = f"on {self.examples} examples {self.output} differs by {self.relative:.2g} of its largest number, "
        text += f"{self.ratio:.1f} dB of signal to error"
        return text if self.agree is None else f"{text}; the largest is the same in {self.agree[0]} of {self.agree[1]}"


def _difference(before: Graph, after: Graph, examples: Sequence[Mapping[str, Array]], seed: int) -> _Difference:
    import numpy

    worst: dict[str, list[float]] = {name: [0.0, 0.0, 0.0, 0.0] for name in before.outputs}
    same = dict.fromkeys(before.outputs, 0)
    total = dict.fromkeys(before.outputs, 0)
    for old, new in zip(_running(before, examples, seed), _running(after, examples, seed), strict=True):
        for name, wanted in old.items():
            wanted, gap = wanted.astype("float64"), new[name].astype("float64") - wanted
            own = worst[name]
            own[0], own[1] = max(own[0], float(numpy.abs(gap).max())), max(own[1], float(numpy.abs(wanted).max()))
            own[2], own[3] = own[2] + float(numpy.square(gap).sum()), own[3] + float(numpy.square(wanted).sum())
            if wanted.ndim >= 2:
                equal = wanted.argmax(-1) == new[name].argmax(-1)
                same[name], total[name] = same[name] + int(equal.sum()), total[name] + equal.size
    relative = {name: own[0] / (own[1] or 1.0) for name, own in worst.items()}
    name = max(relative, key=lambda n: relative[n])
    ratio = 10 * numpy.log10(worst[name][3] / worst[name][2]) if worst[name][2] and worst[name][3] else numpy.inf
    count = sum(len(next(iter(batch.values()))) for batch in examples)
    agree = (same[name], total[name]) if total[name] else None
    return _Difference(name, relative[name], float(ratio), agree, count)
