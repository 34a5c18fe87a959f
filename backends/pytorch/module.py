"""Graph → `nn.Module`: the generated source is executed and given its weights. And the same source as files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib.abc import InspectLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import save
from torch import nn

from ...compiler import weights
from ...compiler.graph import Edit, Graph, Input
from ...compiler.operators.operator import Operator
from ...compiler.types import DType, TensorType
from .forward import DTYPES
from .source import Translation, translate


class _Loader(InspectLoader):
    """Gives Python's import machinery a text, so that tracebacks and `inspect` show it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def get_source(self, fullname: str) -> str:
        return self._text


def _build(translation: Translation, name: str) -> nn.Module:
    spec = spec_from_loader(name, _Loader(translation.text), origin=f"<{name}>")
    assert spec
    assert spec.loader
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
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
    missing, unexpected = made.load_state_dict(_state(graph, seed), strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise AssertionError(f"the module of {graph.name} lacks {unexpected} and has {missing} besides")
    return made.eval()


def _state(graph: Graph, seed: int) -> dict[str, torch.Tensor]:
    return {path: tensor(weights.value(p, seed)) for path, p in graph.parameters.items()}


def tensor(array: Any) -> torch.Tensor:
    """A numpy array as a tensor of its own; `ml_dtypes.bfloat16`, which PyTorch does not know, included."""
    array = numpy.ascontiguousarray(array)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(numpy.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def export(graph: Graph, folder: Path | str, seed: int = 0) -> list[Path]:
    """Write `<model>.py` and `<model>.safetensors` into a folder, whole or not at all; the paths written.

    The Python file needs torch alone; `load("<model>.safetensors")` there gives this model. The same graph and seed
    give the same bytes.

    Raises:
        NetcError: where the graph holds an operator that PyTorch has no rule for.
    """
    translation = translate(graph)
    state = _load(translation, graph, seed).state_dict()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        folder / f"{graph.name}.py": translation.text.encode(),
        folder / f"{graph.name}.safetensors": save({k: v.contiguous() for k, v in sorted(state.items())}),
    }
    _write(contents)
    return list(contents)


def _write(contents: Mapping[Path, bytes]) -> None:
    """Write all files beside their places first, and only then put them there."""
    written: list[tuple[str, Path]] = []
    try:
        for path, data in contents.items():
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            written.append((name, path))
            with os.fdopen(handle, "wb") as file:
                file.write(data)
        for name, path in written:
            Path(name).chmod(0o644)
            Path(name).replace(path)
    finally:
        for name, _ in written:
            Path(name).unlink(missing_ok=True)


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
