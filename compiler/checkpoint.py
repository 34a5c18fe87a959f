"""Checkpoints: the names, dtypes and shapes a file declares at once, its numbers one tensor at a time when asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .diagnostic import Diagnostic, Label, NetcError
from .source import Span
from .types import DType

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Header:
    """What a file declares of one tensor. `dtype` is None for storage that netc does not know; `stored` names it."""

    stored: str
    dtype: DType | None
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype or self.stored}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, eq=False, slots=True)
class Checkpoint:
    """Stored tensors by name. `read` gives one, in its stored dtype; `aliases` maps a tensor that shares another's
    storage to that other's name (only PyTorch's own format says so)."""

    name: str
    headers: Mapping[str, Header]
    read: Callable[[str], Array]
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])


def open_checkpoint(path: Path, span: Span | None = None) -> Checkpoint:
    """The checkpoint at `path`: only its header is read.

    `.safetensors` and `.safetensors.index.json` (several files of one folder) are read by the safetensors library;
    `.pth`, `.pt` and `.bin` by PyTorch's weights-only loader, which runs no code of the file. Of PyTorch's format a
    state dict is taken, at the top or under one of the keys in `WRAPPERS`; entries that are no tensors are left out.

    Raises:
        NetcError: for another kind of file (`unknown-checkpoint-format`), or one that cannot be read
            (`unreadable-checkpoint`).
    """
    if not path.is_file():
        raise _unreadable(path, "there is no such file", span)
    if path.suffix == ".safetensors":
        return _open_safetensors(path.name, [path], span)
    if path.name.endswith(".safetensors.index.json"):
        return _open_index(path, span)
    if path.suffix in (".pth", ".pt", ".bin"):
        return _open_torch(path, span)
    raise NetcError(
        [
            Diagnostic(
                "unknown-checkpoint-format",
                f"{path.name} is of no known checkpoint format",
                _labels(span),
                notes=("known are .safetensors, .safetensors.index.json, .pth, .pt and .bin",),
            )
        ]
    )


def _labels(span: Span | None) -> tuple[Label, ...]:
    return (Label(span),) if span else ()


def _unreadable(path: Path, reason: str, span: Span | None, fix: str | None = None) -> NetcError:
    return NetcError(
        [Diagnostic("unreadable-checkpoint", f"{path} cannot be read: {reason}", _labels(span), fix=fix)],
    )


_SAFETENSORS = {
    "F64": DType.F64,
    "F32": DType.F32,
    "F16": DType.F16,
    "BF16": DType.BF16,
    "I64": DType.I64,
    "I32": DType.I32,
    "I16": DType.I16,
    "I8": DType.I8,
    "U8": DType.U8,
    "BOOL": DType.BOOL,
}


def _open_safetensors(name: str, paths: Iterable[Path], span: Span | None) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    headers: dict[str, Header] = {}
    files: dict[str, Any] = {}
    for path in paths:
        try:
            opened: Any = safe_open(path, framework="numpy")
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, _first_line(error), span) from error
        for tensor in opened.keys():  # noqa: SIM118 the library's object is no mapping
            if tensor in headers:
                raise _unreadable(path, f"{tensor} lies in another of the files too", span)
            piece = opened.get_slice(tensor)
            stored = str(piece.get_dtype())
            headers[tensor] = Header(stored, _SAFETENSORS.get(stored), tuple(piece.get_shape()))
            files[tensor] = opened

    def read(tensor: str) -> Array:
        return files[tensor].get_tensor(tensor)

    return Checkpoint(name, headers, read)


_LARGEST_INDEX = 64 * 2**20


def _open_index(path: Path, span: Span | None) -> Checkpoint:
    """The tensors of the files that an index names: siblings of it, never elsewhere."""
    try:
        if path.stat().st_size > _LARGEST_INDEX:
            raise ValueError("it is larger than 64 MiB")
        index: Any = json.loads(path.read_text(encoding="utf-8"))
        names: dict[str, str] = {str(tensor): str(file) for tensor, file in index["weight_map"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(path, f"it is no index of safetensors files ({_first_line(error)})", span) from error
    files = sorted(set(names.values()))
    for name in files:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise _unreadable(path, f"it names {name!r}, which is no safetensors file beside it", span)
        if not path.with_name(name).is_file():
            raise _unreadable(path, f"it names {name}, which does not exist", span)
    checkpoint = _open_safetensors(path.name, [path.with_name(name) for name in files], span)
    lost = [name for name in names if name not in checkpoint.headers]
    if lost:
        raise _unreadable(path, f"its files hold no {lost[0]}", span)
    return checkpoint


WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which training scripts put the state dict, in the order they are looked for."""


def _open_torch(path: Path, span: Span | None) -> Checkpoint:
    loaded = _load_torch(path, span)
    inner = [_tensors(_entries(loaded).get(key)) for key in WRAPPERS]
    tensors = next((t for t in [_tensors(loaded), *inner] if t), None)
    if tensors is None:
        entries = _entries(loaded)
        found = f"a dictionary of {_some(entries)}" if entries else f"a {type(loaded).__name__}"
        keys = ", ".join(WRAPPERS)
        raise _unreadable(path, f"it holds {found}, not a state dict (nor one under {keys})", span)
    headers: dict[str, Header] = {}
    aliases: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name, tensor in tensors.items():
        stored = str(tensor.dtype).removeprefix("torch.")
        dense = str(tensor.layout) == "torch.strided" and not tensor.is_quantized and tensor.device.type == "cpu"
        headers[name] = Header(stored, _TORCH.get(stored) if dense else None, tuple(tensor.shape))
        if dense and tensor.numel():
            place = tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()
            if first.setdefault(place, name) != name:
                aliases[name] = first[place]

    def read(name: str) -> Array:
        return _to_numpy(tensors[name])

    return Checkpoint(path.name, headers, read, aliases)


_TORCH = {
    "float64": DType.F64,
    "float32": DType.F32,
    "float16": DType.F16,
    "bfloat16": DType.BF16,
    "int64": DType.I64,
    "int32": DType.I32,
    "int16": DType.I16,
    "int8": DType.I8,
    "uint8": DType.U8,
    "bool": DType.BOOL,
}


def _load_torch(path: Path, span: Span | None) -> Any:
    """What the file holds, through the weights-only unpickler; zip archives (all since 2020) are mapped, not read."""
    import pickle
    import zipfile

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise _unreadable(
            path,
            "PyTorch's weights-only loader refuses it",
            span,
            fix="save a state dict alone, best as safetensors: save_file(model.state_dict(), …)",
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError, OSError) as error:
        raise _unreadable(path, _first_line(error), span) from error


def _entries(loaded: Any) -> Mapping[Any, Any]:
    return cast("Mapping[Any, Any]", loaded) if isinstance(loaded, Mapping) else {}


def _tensors(loaded: Any) -> dict[str, Any]:
    import torch

    return {k: v for k, v in _entries(loaded).items() if isinstance(k, str) and isinstance(v, torch.Tensor)}


def _to_numpy(tensor: Any) -> Array:
    import torch

    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(DType.BF16.as_numpy)
    return tensor.numpy()


def _some(table: Mapping[Any, Any]) -> str:
    names = [repr(k) for k in list(table)[:5]]
    return ", ".join(names) + (", …" if len(table) > 5 else "") if names else "nothing"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
