"""Graph → `nn.Module`: the generated source is executed and given its weights. And the same source as files."""

from __future__ import annotations

import linecache
import zlib
from collections.abc import Sequence
from importlib.abc import InspectLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import CodeType
from typing import Any

import numpy
import torch
from torch import nn

from ...compiler import weights
from ...compiler.diagnostic import Diagnostic, NetcError
from ...compiler.files import written_whole
from ...compiler.graph import Edit, Graph, Input
from ...compiler.operators.operator import Operator
from ...compiler.types import DType, TensorType
from .forward import DTYPES
from .source import Translation, translate


class _Loader(InspectLoader):
    """Gives Python's import machinery a text, so that tracebacks and `inspect` show it."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file

    def get_source(self, fullname: str) -> str:
        return self._text

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self._text, self._file)


def _build(translation: Translation, name: str) -> nn.Module:
    file = f"{name}-{zlib.crc32(translation.text.encode()):08x}.py"
    spec = spec_from_loader(name, _Loader(translation.text, file))
    assert spec
    assert spec.loader
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    linecache.lazycache(file, vars(made))
    with torch.random.fork_rng(devices=[]):  # layers fill themselves at first; the caller's random state stays
        return getattr(made, translation.name)()


def module(graph: Graph, seed: int = 0, dtype: torch.dtype | None = None) -> nn.Module:
    """The model as an `nn.Module`, in evaluation mode, with its weights (see `netc.compiler.weights.values`).

    `state_dict` has the paths of the graph's parameters, and `num_batches_tracked` of batch norms. It is the class that
    `source(graph)` shows. With a `dtype`, everything that is f32 in the graph is of that dtype instead.

    Raises:
        NetcError: where the graph holds an operator that PyTorch has no rule for.
    """
    made = _load(translate(graph, real=_name(dtype)), graph, seed)
    return made if dtype is None else made.to(dtype)


def _name(dtype: torch.dtype | None) -> str:
    return str(dtype or torch.float32).removeprefix("torch.")


def _load(translation: Translation, graph: Graph, seed: int) -> nn.Module:
    made = _build(translation, f"netc_{graph.name}")
    made.load_state_dict({path: tensor(weights.value(p, seed)) for path, p in graph.parameters.items()})
    return made.eval()


def tensor(array: Any) -> torch.Tensor:
    """A numpy array as a tensor of its own; `ml_dtypes.bfloat16`, which PyTorch does not know, included."""
    array = numpy.asarray(array, order="C")
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(numpy.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def export(graph: Graph, folder: Path | str, seed: int = 0) -> list[Path]:
    """Write `<model>.py` and `<model>.safetensors` into a folder, whole or not at all; the paths written.

    The Python file needs torch alone: `load("<model>.safetensors")` there gives this model, by a reader of its own.
    The same graph and seed give the same bytes.

    Raises:
        NetcError: where the graph holds an operator that PyTorch has no rule for, or the folder cannot be written to
            (`cannot-write`).
    """
    text = translate(graph).text
    code, data = Path(folder) / f"{graph.name}.py", Path(folder) / f"{graph.name}.safetensors"
    try:
        code.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"the folder {folder} cannot be made: {error.strerror}"
        raise NetcError([Diagnostic("cannot-write", message)]) from error
    with written_whole(code) as partial:
        partial.write_text(text, "utf-8")
        weights.save(graph, data, seed)
    return [code, data]


def evaluate(
    op: Operator,
    inputs: Sequence[Any],
    *,
    dtype: torch.dtype | None = None,
    expanded: bool = False,
    training: bool = False,
) -> tuple[torch.Tensor, ...]:
    """What one operator gives for arrays (None where absent); the outputs, in order.

    With a `dtype` (float64, for the exact meaning) f32 arrays and everything f32 inside are of that dtype instead. With
    `expanded`, derived operators are computed by their expansions rather than by rules.
    """
    graph = operation(op, [None if i is None else _type(i) for i in inputs])
    made = _load(translate(graph, frozenset() if expanded else None, _name(dtype)), graph, 0).train(training)
    given = [tensor(i) for i in inputs if i is not None]
    if dtype is not None:
        made = made.to(dtype)
        given = [t.to(dtype) if t.dtype == torch.float32 else t for t in given]
    with torch.no_grad():
        result = made(*given)
    return result if isinstance(result, tuple) else (result,)


def operation(op: Operator, types: Sequence[TensorType | None]) -> Graph:
    """The graph of one operator with inputs `x0`, `x1`, … of these types."""
    edit = Edit(Graph(op.name))
    fixed = sum(not o.variadic for o in op.operands)
    types = [*types, *[None] * (fixed - len(types))]
    refs = [None if t is None else edit.add(f"x{i}", Input(t)).value for i, t in enumerate(types)]
    node = edit.add("result", op.canonical(*types), *refs)
    for i, value in enumerate(node.values):
        edit.output(f"y{i}", value)
    return edit.done()


_TYPES = {name: dtype for dtype, name in DTYPES.items()}


def _type(array: Any) -> TensorType:
    return TensorType(DType(_TYPES[array.dtype.name]), tuple(array.shape))
