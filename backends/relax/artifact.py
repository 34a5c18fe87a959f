"""The artifact folder: a compiled model that runs with TVM's runtime alone, without PyTorch and without its spec.

    manifest.json             what was compiled, from what, for what, how well it agrees, and what it takes
    model.so                  kernels and the program that calls them; for foreign targets model.o and program.o
    constants.safetensors     weights as the kernels read them: folded, transposed, packed

The constants lie beside the library, not in it: a linker that copies hundreds of megabytes through an object file is
slow and needs many times their memory, and a safetensors file can be mapped, compared and inspected.

Inputs may be anything that speaks DLPack: arrays of numpy, tensors of PyTorch. Kernels read them in place where they
are contiguous and begin at a multiple of 64 bytes, and a copy else. Outputs are arrays in the memory that kernels wrote
them to: the runtime's own, or what the caller gives to `run_into`.
"""

from __future__ import annotations

import ast
import json
import operator
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ...compiler.diagnostic import Diagnostic, NetcError
from ...compiler.types import DType
from .constants import mapped
from .exchange import ALIGNMENT as ALIGNMENT
from .exchange import Array as Array
from .exchange import aligned, in_place, tensor, viewed
from .exchange import kept as kept
from .exchange import restored as restored
from .runtime import lacking, load_runtime
from .threads import called

FORMAT = 4
"""The version of the manifest's layout."""

MANIFEST = "manifest.json"
LIBRARY = "model.so"
SOURCE = "model.cu"
"""Kernels for a GPU, to be read or compiled; the library holds them too."""
CONSTANTS = "constants.safetensors"

VARIETY = 8
"""Of so many combinations of sizes the runtime keeps the memory of intermediate results; then it starts anew."""

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
    """A compiled model. Made by `Artifact.load` or `compile`; called with arrays by name or in order.

    Any number of threads may call it at a time; each then has a program and `threads` threads of its own.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Mapping[str, Any],
        library: Any,
        constants: Mapping[str, Array],
        threads: int,
        pin: bool,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.inputs: dict[str, Signature] = {i["name"]: Signature.read(i) for i in manifest["inputs"]}
        self.outputs: dict[str, Signature] = {o["name"]: Signature.read(o) for o in manifest["outputs"]}
        self.threads = threads
        """With how many threads kernels run, the calling one counted."""
        self.pin = pin
        """Whether each of these has a processor of its own."""
        self._library = library
        self._constants = [kept(constants[name]) for name in manifest["constants"]]
        bounds = [_range(constants[name]) for name in manifest["constants"]]
        self._range = min((a for a, _ in bounds), default=0), max((b for _, b in bounds), default=0)
        self._local = threading.local()

    @property
    def groups(self) -> list[dict[str, Any]]:
        """What each call of a kernel computes, in order: its name, the paths of its nodes, its kernel and schedule."""
        return list(self.manifest["groups"])

    @classmethod
    def load(cls, folder: str | Path, *, threads: int | None = None, pin: bool | None = None) -> Artifact:
        """Open an artifact folder.

        The number of threads is `threads`, else `TVM_NUM_THREADS`, else what the model was compiled for; so is
        whether each is tied to a processor of its own.

        Raises:
            NetcError: where the folder holds no artifact (`not-an-artifact`), one of another version of netc
                (`artifact-version`), or one for another machine (`foreign-artifact`).
        """
        folder = Path(folder)
        manifest, library, constants = _read(folder)
        threads = threads or int(os.environ.get("TVM_NUM_THREADS", 0)) or int(manifest["processor"]["threads"])
        pin = bool(manifest["target"].get("pin")) if pin is None else pin
        return cls(folder, manifest, library, constants, threads, pin)

    def __call__(self, *arrays: Any, **named: Any) -> dict[str, Array]:
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

    def run(self, arrays: Sequence[Any]) -> list[Array]:
        """Run on one array for each input, in order; the outputs in order.

        Raises:
            NetcError: where an array is not of its input's type.
        """
        given = self._viewed(arrays)
        sizes = self.check(given)
        placed = self._own(sizes).placed(self.inputs, given)
        results = self.call([tensor(a) for a in placed])
        taken = [self._range, *map(_range, placed)]
        found: list[Array] = []
        for result, signature in zip(results, self.outputs.values(), strict=True):
            array = restored(result, signature.dtype).reshape(self._shape(signature, sizes))
            # Of an output that is an input, a constant, or another output, the caller gets a copy.
            found.append(array.copy() if any(_overlap(_range(array), r) for r in taken) else array)
            taken.append(_range(array))
        return found

    def run_into(self, arrays: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Run on one array for each input, and write into one array for each output, in order.

        What begins at a multiple of 64 bytes and is contiguous, as what `array` makes, kernels read and write in place;
        then nothing is allocated, but by the first runs.

        Raises:
            NetcError: where an array is not of its type, may not be written to, or shares memory with another.
        """
        given = self._viewed(arrays)
        sizes = self.check(given)
        taken = self._viewed(outputs)
        self._check_outputs(given, taken, sizes)
        own = self._own(sizes)
        tensors = [tensor(a) for a in own.placed(self.inputs, given)]
        targets = [a if in_place(a) else own.room(f"to {n}", a) for n, a in zip(self.outputs, taken, strict=True)]
        made = [tensor(a) for a in targets]
        results = called(self.threads, self.pin, lambda: own.into(*tensors, *self._constants, *made))
        for result, wanted, at, array, signature in zip(
            results, made, targets, taken, self.outputs.values(), strict=True
        ):
            if result.data_ptr() != wanted.data_ptr():
                at = restored(result, signature.dtype).reshape(array.shape)
            if at is not array:
                np.copyto(array, at)

    def call(self, tensors: Sequence[Any]) -> Any:
        """Run on TVM's tensors, as `kept` makes them; the outputs as TVM's tensors, which `restored` makes arrays of.
        Nothing is checked."""
        main = self._own().main
        return called(self.threads, self.pin, lambda: main(*tensors, *self._constants))

    def array(self, name: str, **sizes: int) -> Array:
        """An array of any contents for an input or output, the symbols of its shape being `sizes`, which kernels read
        or write in place.

        Raises:
            KeyError: for what is neither input nor output, or where a symbol is not given.
        """
        signature = self.inputs[name] if name in self.inputs else self.outputs[name]
        return aligned(self._shape(signature, sizes), signature.dtype.as_numpy)

    def latency(self, arrays: Sequence[Any], repeat: int = 20, warmup: int = 3) -> Latency:
        """Time runs on these inputs, after `warmup` runs that do not count."""
        given = self._viewed(arrays)
        self.check(given)
        tensors = [kept(a) for a in given]
        for _ in range(warmup):
            self.call(tensors)
        seconds: list[float] = []
        for _ in range(repeat):
            start = time.perf_counter()
            self.call(tensors)
            seconds.append(time.perf_counter() - start)
        return Latency(tuple(seconds))

    def _own(self, sizes: Mapping[str, int] | None = None) -> _Program:
        """The program of the calling thread, ready for these sizes."""
        own: _Program | None = getattr(self._local, "program", None)
        if own is None:
            own = self._local.program = _Program(self._library)
        if sizes:
            own.expect(tuple(sizes.values()))
        return own

    def _viewed(self, arrays: Sequence[Any]) -> list[Array]:
        found: list[Array] = []
        for array in arrays:
            try:
                found.append(viewed(array))
            except (BufferError, TypeError, ValueError, RuntimeError) as error:
                message = f"a {type(array).__name__} cannot be shared with the model: {str(error).splitlines()[0]}"
                raise NetcError([Diagnostic("not-an-array", message)]) from error
        return found

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

    def _check_outputs(self, inputs: Sequence[Array], outputs: Sequence[Array], sizes: Mapping[str, int]) -> None:
        if len(outputs) != len(self.outputs):
            message = f"the model gives {len(self.outputs)} outputs, not {len(outputs)}"
            raise NetcError([Diagnostic("output-count", message)])
        problems: list[Diagnostic] = []
        ranges = [_range(a) for a in inputs]
        for (name, signature), array in zip(self.outputs.items(), outputs, strict=True):
            shape = self._shape(signature, sizes)
            if array.dtype != signature.dtype.as_numpy or array.shape != shape:
                wanted = Signature(signature.dtype, shape)
                message = f"the output {name} is {wanted}, but the array is {array.dtype} of shape {list(array.shape)}"
                problems.append(Diagnostic("output-type", message))
            elif not array.flags.writeable:
                problems.append(Diagnostic("output-memory", f"the array for {name} may not be written to"))
            elif any(_overlap(_range(array), r) for r in ranges):
                message = f"the array for {name} shares memory with an input or another output"
                problems.append(Diagnostic("output-memory", message))
            ranges.append(_range(array))
        if problems:
            raise NetcError(problems)

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


class _Program:
    """The virtual machine of one thread: two threads cannot use one at a time."""

    def __init__(self, library: Any) -> None:
        machine = _machine(library)
        self.main = machine["main"]
        self.into = machine["main_into"]
        self._rooms: dict[str, Array] = {}
        self._sizes: set[tuple[int, ...]] = set()

    def placed(self, names: Iterable[str], arrays: Iterable[Array]) -> list[Array]:
        """Inputs where kernels can read them: in place, or copied to where the last one of their shape was."""
        found: list[Array] = []
        for name, array in zip(names, arrays, strict=True):
            if in_place(array):
                found.append(array)
            else:
                found.append(self.room(name, array))
                np.copyto(found[-1], array)
        return found

    def room(self, name: str, array: Array) -> Array:
        """An aligned array like this one, kept for the next run."""
        room = self._rooms.get(name)
        if room is None or room.shape != array.shape or room.dtype != array.dtype:
            room = self._rooms[name] = aligned(array.shape, array.dtype)
        return room

    def expect(self, sizes: tuple[int, ...]) -> None:
        """The runtime keeps memory by its size in bytes, and would keep that of all sizes that ever were."""
        if sizes in self._sizes:
            return
        if len(self._sizes) == VARIETY:
            load_runtime().get_global_func("vm.builtin.memory_manager.clear")()
            self._sizes.clear()
        self._sizes.add(sizes)


def _range(array: Array) -> tuple[int, int]:
    """Where an array begins and ends in memory."""
    return np.lib.array_utils.byte_bounds(array) if array.size else (0, 0)


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def opened(folder: Path) -> tuple[Any, dict[str, Any], list[Any]]:
    """An artifact as TVM sees it, for measurements: its virtual machine, manifest, and constants in order.

    Raises:
        NetcError: as `Artifact.load`.
    """
    manifest, library, constants = _read(folder)
    return _machine(library), manifest, [kept(constants[name]) for name in manifest["constants"]]


def _machine(library: Any) -> Any:
    """A virtual machine that runs the functions of a library."""
    machine = library["vm_load_executable"]()
    processor, pooled = 1, 2
    machine["vm_initialization"](processor, 0, pooled)
    return machine


def _read(folder: Path) -> tuple[dict[str, Any], Any, dict[str, Array]]:
    """Manifest, library and constants of an artifact that runs on this machine."""
    manifest = read_manifest(folder)
    if "library" not in manifest["files"]:
        raise NetcError([_foreign(folder, manifest, f"it holds objects for {manifest['processor']['triple']}")])
    if manifest["target"]["kind"] == "cuda":
        raise NetcError([_foreign(folder, manifest, "netc runs nothing on GPUs; TVM's virtual machine does")])
    architecture = str(manifest["processor"]["triple"]).partition("-")[0]
    if architecture != platform.machine():
        raise NetcError([_foreign(folder, manifest, f"this machine is {platform.machine()}")])
    missing = lacking(manifest["processor"]["features"])
    if missing:
        raise NetcError([_foreign(folder, manifest, f"this processor lacks {', '.join(missing)}")])
    try:
        library = _load_library(folder / manifest["files"]["library"])
    except (RuntimeError, OSError) as error:
        message = f"the library of {folder} cannot be loaded: {str(error).splitlines()[-1]}"
        raise NetcError([Diagnostic("foreign-artifact", message)]) from error
    return manifest, library, mapped(folder / manifest["files"]["constants"])


_LOADED: set[Path] = set()


def _load_library(path: Path) -> Any:
    """Load a shared library. The system gives what it loaded from a path before, whatever lies there now."""
    load = load_runtime().load_module
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
