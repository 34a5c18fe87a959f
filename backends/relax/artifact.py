"""The artifact folder: a compiled model that runs with TVM's runtime alone, without PyTorch and without its spec.

    manifest.json             what was compiled, from what, for what, how well it agrees, and what it takes
    model.so                  kernels and the program that calls them; for foreign targets model.o and program.o
    constants.safetensors     weights as the kernels read them: folded, transposed, packed

The constants lie beside the library, not in it: a linker that copies hundreds of megabytes through an object file is
slow and needs many times their memory, and a safetensors file can be mapped, compared and inspected.
"""

from __future__ import annotations

import ast
import json
import operator
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import safetensors.numpy

from ...compiler.diagnostic import Diagnostic, NetcError
from ...compiler.types import DType
from .runtime import lacking, load_tvm

FORMAT = 3
"""The version of the manifest's layout."""

MANIFEST = "manifest.json"
LIBRARY = "model.so"
CONSTANTS = "constants.safetensors"

Array = np.ndarray[Any, Any]
Size = int | str
"""A dimension in a manifest: a number, or an expression over symbols."""


@dataclass(frozen=True)
class Signature:
    """The type of an input or output; `shape` may hold symbols."""

    dtype: DType
    shape: tuple[Size, ...]

    def __str__(self) -> str:
        return f"{self.dtype.value}[{', '.join(map(str, self.shape))}]"

    @staticmethod
    def read(data: Mapping[str, Any]) -> Signature:
        return Signature(DType(data["dtype"]), tuple(data["shape"]))


@dataclass(frozen=True)
class Latency:
    """Times of single runs, in seconds, without the copies in and out of numpy."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def least(self) -> float:
        return min(self.seconds)


class Artifact:
    """A compiled model. Made by `Artifact.load` or `compile`; called with numpy arrays by name or in order."""

    def __init__(
        self, folder: Path, manifest: Mapping[str, Any], call: Callable[..., Any], constants: Sequence[Any]
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.inputs: dict[str, Signature] = {i["name"]: Signature.read(i) for i in manifest["inputs"]}
        self.outputs: dict[str, Signature] = {o["name"]: Signature.read(o) for o in manifest["outputs"]}
        self._call = call
        self._constants = list(constants)

    @property
    def groups(self) -> list[dict[str, Any]]:
        """What each call of a kernel computes, in order: its name, the paths of its nodes, its kernel and schedule."""
        return list(self.manifest["groups"])

    @classmethod
    def load(cls, folder: str | Path) -> Artifact:
        """Open an artifact folder.

        The number of threads is the manifest's, unless `TVM_NUM_THREADS` is set or TVM has run something already in
        this process: it starts its threads once.

        Raises:
            NetcError: where the folder holds no artifact (`not-an-artifact`), one of another version of netc
                (`artifact-version`), or one for another machine (`foreign-artifact`).
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        if "library" not in manifest["files"]:
            raise NetcError([_foreign(folder, manifest, f"it holds objects for {manifest['processor']['triple']}")])
        architecture = str(manifest["processor"]["triple"]).partition("-")[0]
        if architecture != platform.machine():
            raise NetcError([_foreign(folder, manifest, f"this machine is {platform.machine()}")])
        missing = lacking(manifest["processor"]["features"])
        if missing:
            raise NetcError([_foreign(folder, manifest, f"this processor lacks {', '.join(missing)}")])
        os.environ.setdefault("TVM_NUM_THREADS", str(manifest["processor"]["threads"]))
        tvm = load_tvm()
        try:
            library = _load_library(folder / manifest["files"]["library"])
        except (RuntimeError, OSError) as error:
            message = f"the library of {folder} cannot be loaded: {str(error).splitlines()[-1]}"
            raise NetcError([Diagnostic("foreign-artifact", message)]) from error
        stored = safetensors.numpy.load_file(folder / manifest["files"]["constants"])
        constants = [tvm.runtime.tensor(stored[name]) for name in manifest["constants"]]
        return cls(folder, manifest, tvm.runtime.vm.VirtualMachine(library, tvm.cpu())["main"], constants)

    def __call__(self, *arrays: Array, **named: Array) -> dict[str, Array]:
        """Run on one array for each input, given in order or by name; the outputs by name.

        Raises:
            NetcError: where an input is missing, unknown, or not of its type.
        """
        given = dict(zip(self.inputs, arrays, strict=False))
        problems: list[Diagnostic] = []
        if len(arrays) > len(self.inputs):
            problems.append(
                _problem("input-count", f"the model takes {len(self.inputs)} inputs, not {len(arrays)}", self)
            )
        for name, array in named.items():
            if name not in self.inputs:
                problems.append(_problem("unknown-input", f"the model has no input {name}", self))
            elif name in given:
                problems.append(_problem("input-count", f"the input {name} is given twice", self))
            given[name] = array
        missing = [name for name in self.inputs if name not in given]
        if missing:
            problems.append(_problem("missing-input", f"the input {', '.join(missing)} is missing", self))
        if problems:
            raise NetcError(problems)
        return dict(zip(self.outputs, self.run([given[name] for name in self.inputs]), strict=True))

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Run on one array for each input, in order; the outputs in order.

        Raises:
            NetcError: where an array is not of its input's type.
        """
        sizes = self.check(arrays)
        results = self._call(*self._tensors(arrays), *self._constants)
        return [
            restored(r, s.dtype).reshape(self._shape(s, sizes))
            for r, s in zip(results, self.outputs.values(), strict=True)
        ]

    def call(self, tensors: Sequence[Any]) -> list[Any]:
        """Run on what `kept` made of arrays that `check` has seen, without copies; what `restored` takes comes out."""
        return list(self._call(*tensors, *self._constants))

    def latency(self, arrays: Sequence[Array], repeat: int = 20, warmup: int = 3) -> Latency:
        """Time runs on these inputs, after `warmup` runs that do not count."""
        self.check(arrays)
        tensors = self._tensors(arrays)
        for _ in range(warmup):
            self._call(*tensors, *self._constants)
        seconds: list[float] = []
        for _ in range(repeat):
            start = time.perf_counter()
            self._call(*tensors, *self._constants)
            seconds.append(time.perf_counter() - start)
        return Latency(tuple(seconds))

    def check(self, arrays: Sequence[Array]) -> dict[str, int]:
        """The values of the symbols for these inputs.

        Raises:
            NetcError: one diagnostic for each array that is not of its input's type.
        """
        if len(arrays) != len(self.inputs):
            raise NetcError(
                [_problem("input-count", f"the model takes {len(self.inputs)} inputs, not {len(arrays)}", self)]
            )
        sizes: dict[str, int] = {}
        problems: list[Diagnostic] = []
        for (name, signature), array in zip(self.inputs.items(), arrays, strict=True):
            found = f"{array.dtype} of shape {list(array.shape)}"
            if array.dtype != signature.dtype.as_numpy:
                message = f"the input {name} is {signature}, but the array is {found}"
                fix = f"array.astype({signature.dtype.as_numpy.name!r})"
                problems.append(Diagnostic("input-dtype", message, fix=fix))
            elif len(array.shape) != len(signature.shape):
                problems.append(Diagnostic("input-shape", f"the input {name} is {signature}, but the array is {found}"))
            else:
                for size, actual in zip(signature.shape, array.shape, strict=True):
                    if isinstance(size, str) and size.isidentifier():
                        sizes.setdefault(size, int(actual))
        problems = problems or self._mismatches(arrays, sizes)
        if problems:
            raise NetcError(problems)
        return sizes

    def _mismatches(self, arrays: Sequence[Array], sizes: Mapping[str, int]) -> list[Diagnostic]:
        problems: list[Diagnostic] = []
        bound = ", ".join(f"{k} = {v}" for k, v in sizes.items())
        for (name, signature), array in zip(self.inputs.items(), arrays, strict=True):
            wanted = self._shape(signature, sizes)
            if wanted != tuple(array.shape):
                notes = (f"other inputs say {bound}",) if bound else ()
                message = f"the input {name} is {signature}, but the array has shape {list(array.shape)}"
                problems.append(Diagnostic("input-shape", message, notes=notes))
        for least, most in self.manifest["requirements"]:
            if evaluate(least, sizes) > evaluate(most, sizes):
                message = f"the model needs {least} to be at most {most}, but it runs with {bound}"
                problems.append(Diagnostic("input-shape", message))
        return problems

    def _shape(self, signature: Signature, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(evaluate(d, sizes) for d in signature.shape)

    def _tensors(self, arrays: Sequence[Array]) -> list[Any]:
        return [kept(a) for a in arrays]


def kept(array: Array) -> Any:
    """An array as kernels take it: bf16 as its bits, rank 0 as one element."""
    bits = array.view(np.uint16) if array.dtype == DType.BF16.as_numpy else array
    return load_tvm().runtime.tensor(np.ascontiguousarray(bits).reshape(array.shape or (1,)))


def restored(tensor: Any, dtype: DType) -> Array:
    """What a kernel gave, as an array of its dtype."""
    return tensor.numpy().view(dtype.as_numpy)


_LOADED: set[Path] = set()


def _load_library(path: Path) -> Any:
    """Load a shared library. The system gives what it loaded from a path before, whatever lies there now."""
    load = load_tvm().runtime.load_module
    if path.resolve() not in _LOADED:
        _LOADED.add(path.resolve())
        return load(str(path))
    with tempfile.TemporaryDirectory() as folder:
        return load(shutil.copy(path, folder))


def evaluate(size: Size, sizes: Mapping[str, int]) -> int:
    """The number that a dimension is, its symbols given.

    Raises:
        ValueError: for a text that is no dimension.
        KeyError: for a symbol that is not given.
    """
    if isinstance(size, int):
        return size
    return _evaluate(ast.parse(size, mode="eval").body, sizes)


_OPERATORS: dict[type[ast.AST], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}


def _evaluate(node: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand, sizes)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_evaluate(node.left, sizes), _evaluate(node.right, sizes))
    raise ValueError(f"{ast.unparse(node)} is no dimension")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact folder.

    Raises:
        NetcError: where there is none (`not-an-artifact`), or it is of another version (`artifact-version`).
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        version = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"{folder} holds no compiled model: {MANIFEST} cannot be read ({error})"
        raise NetcError([Diagnostic("not-an-artifact", message, fix=f"netc compile FILE:MODEL -o {folder}")]) from error
    if version != FORMAT:
        message = (
            f"{folder} was compiled by netc {manifest.get('netc')}, whose artifacts have format {version}, not {FORMAT}"
        )
        raise NetcError([Diagnostic("artifact-version", message, fix="compile it again")])
    return manifest


def _problem(code: str, message: str, artifact: Artifact) -> Diagnostic:
    takes = ", ".join(f"{name}: {signature}" for name, signature in artifact.inputs.items())
    return Diagnostic(code, message, notes=(f"it takes {takes or 'nothing'}",))


def _foreign(folder: Path, manifest: Mapping[str, Any], why: str) -> Diagnostic:
    processor = manifest["processor"]
    made_for = f"{processor['cpu']} ({processor['triple']})"
    message = f"{folder} was compiled for {made_for} and does not run here: {why}"
    return Diagnostic("foreign-artifact", message)
