"""A graph run node by node on arrays: in its own dtypes, whatever its paths are, and with no module to make first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Literal

import numpy
import torch
from torch.nn import functional

from ...compiler import weights
from ...compiler.diagnostic import Diagnostic, NetcError
from ...compiler.graph import Graph, Input, Node, ParameterRef, Ref, SelectPhase, Value
from ...compiler.operators.creation import Constant
from ...compiler.passes.expand import expand
from ...compiler.types import DType
from ...compiler.types import Expression as Polynomial
from .call import RULES, Call
from .forward import DTYPES
from .module import tensor
from .template import REQUIRED, Expression, Hole, Rank, fill, python

Array = numpy.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class _Step:
    """One node: a function of its operands' tensors. `spent` are not read again."""

    function: Callable[..., Any]
    operands: tuple[Ref, ...]
    results: tuple[Value, ...]
    many: bool
    spent: tuple[Ref, ...]


class Interpreter:
    """A graph without symbols, ready to run in one phase, by the rules that its source is written by.

    Operators of effect `random` give their input: their meaning in inference, and their expectation in training.
    Parameters are read when they are needed, and let go after their last use; or `kept` from one run to the next.

    Raises:
        NetcError: where the graph holds an operator that PyTorch has no rule for, or a symbol (`symbolic-size`).
    """

    def __init__(
        self, graph: Graph, phase: Literal["train", "infer"] = "infer", seed: int = 0, *, kept: bool = False
    ) -> None:
        self._kept: dict[Ref, torch.Tensor] | None = {} if kept else None
        self._graph = expand(graph, RULES.direct)
        RULES.check(self._graph)
        self._training = phase == "train"
        self._seed = seed
        self.outputs = {
            name: self._source(ref)
            for name, ref in self._graph.outputs.items()
            if isinstance(ref, ParameterRef) or self._graph.nodes[ref.node].phase in ("both", phase)
        }
        self._steps = list(self._plan())

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of the phase by name, in order; `inputs` are arrays by name."""
        given = {name: tensor(inputs[name]) for name in self._graph.inputs}
        return {name: array(found) for name, found in self.tensors(given).items()}

    def tensors(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The same for tensors, of which no copies are made; an output may share the memory of an input."""
        found: dict[Ref, torch.Tensor] = {node.value: inputs[name] for name, node in self._graph.inputs.items()}
        with torch.inference_mode():
            for step in self._steps:
                given = [found[r] if r in found else self._read(found, r) for r in step.operands]
                result = step.function(*given)
                found.update(zip(step.results, result if step.many else (result,), strict=True))
                del given, result
                for ref in step.spent:
                    del found[ref]
            return {name: found[r] if r in found else self._read(found, r) for name, r in self.outputs.items()}

    def _read(self, found: dict[Ref, torch.Tensor], ref: Ref) -> torch.Tensor:
        assert isinstance(ref, ParameterRef)
        if self._kept is not None and ref in self._kept:
            found[ref] = self._kept[ref]
            return found[ref]
        found[ref] = tensor(weights.value(self._graph.parameters[ref.parameter], self._seed))
        if self._kept is not None:
            self._kept[ref] = found[ref]
        return found[ref]

    def _source(self, ref: Ref) -> Ref:
        """The value that stands for this one in the phase."""
        while isinstance(ref, Value):
            node = self._graph.nodes[ref.node]
            if isinstance(node.op, SelectPhase):
                source = node.inputs[0 if self._training else 1]
            elif node.op.effect == "random":
                source = node.inputs[0]
            else:
                return ref
            assert source is not None
            ref = source
        return ref

    def _plan(self) -> Iterator[_Step]:
        """The nodes that the outputs need, in order."""
        operands: dict[str, tuple[Ref, ...]] = {}
        kept = set(self.outputs.values())
        waiting: list[Ref] = list(kept)
        while waiting:
            ref = waiting.pop()
            if isinstance(ref, Value) and ref.node not in operands:
                node = self._graph.nodes[ref.node]
                operands[ref.node] = tuple(dict.fromkeys(self._source(r) for r in node.refs))
                waiting.extend(operands[ref.node])
        live = [n for p, n in self._graph.nodes.items() if p in operands and not isinstance(n.op, Input)]
        last = {ref: node.path for node in live for ref in (*node.values, *operands[node.path])}
        for node in live:
            given = operands[node.path]
            spent = [r for r in dict.fromkeys((*given, *node.values)) if last[r] == node.path and r not in kept]
            yield self._step(node, given, tuple(spent))

    def _step(self, node: Node, given: tuple[Ref, ...], spent: tuple[Ref, ...]) -> _Step:
        if isinstance(node.op, Constant):
            value = tensor(numpy.asarray(_number(node, node.op.value), node.types[0].dtype.as_numpy))
            return _Step(lambda: value, (), node.values, False, spent)
        page = _Page({ref: f"a{i}" for i, ref in enumerate(given)}, self._source)
        rule = RULES.get(node.op)
        assert rule
        made = rule(Call(self._graph, node, page, node.op.name))
        many = len(node.types) > 1 or (isinstance(made, Expression) and made.tuple)
        text = _filled(made.text if isinstance(made, Expression) else made, page.holes)
        for name in page.modules:
            import_module(name)
        function = _compiled(text, len(given), self._training, tuple(page.modules))
        return _Step(function, given, node.values, many, spent)


def run(
    graph: Graph, inputs: Mapping[str, Array], phase: Literal["train", "infer"] = "infer", seed: int = 0
) -> dict[str, Array]:
    """The outputs of a graph by name, for arrays by name; see `Interpreter`."""
    return Interpreter(graph, phase, seed)(inputs)


def array(tensor: torch.Tensor) -> Array:
    """A tensor as an array; bf16 as `ml_dtypes.bfloat16`."""
    if tensor.dtype is torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(DType.BF16.as_numpy)
    return tensor.numpy()


def _number(node: Node, value: Any) -> Any:
    if isinstance(value, Polynomial):
        raise _symbolic(value, node.path)
    return value


def _symbolic(dim: Polynomial, path: str) -> NetcError:
    message = f"{path} needs the size {dim}, which has no number yet"
    return NetcError([Diagnostic("symbolic-size", message, fix="bind the model's symbols first")])


class _Page:
    """A page whose operands are the arguments of a function, one for each node."""

    def __init__(self, names: Mapping[Ref, str], source: Callable[[Ref], Ref]) -> None:
        self.holes: list[Hole] = []
        self.modules: list[str] = []
        self._names = names
        self._source = source

    def operand(self, ref: Ref, rank: Rank) -> str:
        return self._names[self._source(ref)]

    def write_size(self, dim: Polynomial) -> Expression:
        raise _symbolic(dim, "a node")

    def write_dtype(self, dtype: DType) -> str:
        return f"torch.{DTYPES[dtype]}"

    def write_device(self) -> str:
        return "device"

    def helper(self, function: Callable[..., Any]) -> str:
        _HELPERS[function.__name__] = function
        return function.__name__

    def external(self, place: str) -> str:
        module, _, function = place.partition(":")
        self.modules.append(module)
        return f"{module}.{function}"

    def constant(self, node: Node) -> str:
        return self._names[node.value]


def _filled(text: str, holes: Sequence[Hole]) -> str:
    """A rule's text with its literals in place."""

    def give(kind: str, number: int, _: Rank) -> str:
        hole = holes[number]
        value = python(hole.value)
        if kind == "l":
            return value
        return "" if hole.default is not REQUIRED and value == python(hole.default) else f", {hole.hint}={value}"

    return fill(text, "lo", give).replace("(, ", "(")


_HELPERS: dict[str, Callable[..., Any]] = {}


@lru_cache(maxsize=4096)
def _compiled(text: str, count: int, training: bool, modules: tuple[str, ...]) -> Callable[..., Any]:
    """A function of `a0`, `a1`, …: nodes that are written alike share one."""
    names = {
        "torch": torch,
        "F": functional,
        "device": torch.device("cpu"),
        "self": SimpleNamespace(training=training),
        **_HELPERS,
        **{name.partition(".")[0]: import_module(name.partition(".")[0]) for name in modules},
    }
    return eval(f"lambda {', '.join(f'a{i}' for i in range(count))}: {text}", names)  # noqa: S307 (the rules' own text)
