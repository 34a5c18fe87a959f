"""Loading TVM: its runtime alone, which runs compiled models, or all of it, which compiles them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@contextmanager
def _without_torch() -> Generator[None]:
    """Make `import torch` fail, unless it is loaded already.

    tvm-ffi imports PyTorch wherever it is installed, to share tensors with it, which takes a second and a few hundred
    megabytes. netc hands tensors over as DLPack, so PyTorch stays out.
    """
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # makes `import torch` raise ImportError
    try:
        yield
    finally:
        del sys.modules["torch"]


@cache
def load_runtime() -> Any:
    """The package `tvm_ffi`, with TVM's runtime loaded beside it: what runs a compiled model, and little more.

    Its compiler is a library of hundreds of megabytes, and its Python takes half a second to import.
    """
    # Else TVM ties its threads, and the one that calls it, to the first processors, whoever is at work there.
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    with _without_torch():
        ffi = import_module("tvm_ffi")
    if "tvm" not in sys.modules:
        spec = find_spec("tvm")
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError("No module named 'tvm'", name="tvm")
        libraries = [Path(spec.origin).parent / "lib"]
        import_module("tvm_ffi.libinfo").load_lib_ctypes("tvm", "tvm_runtime", "RTLD_GLOBAL", extra_lib_paths=libraries)
    return ffi


def load_tvm() -> Any:
    """The package `tvm`, its compiler included."""
    load_runtime()
    with _without_torch():
        import_module("tvm")
        import_module("tvm.runtime.vm")
    return sys.modules["tvm"]


CODE = re.compile("adx|amx|avx|bmi|dotprod|f16c|fma|fullfp16|lzcnt|movbe|neon|popcnt|s?sse|sve")
"""How the names begin of features whose instructions compiled code may hold; others are for systems, or only tune."""

KERNEL_NAMES = {
    "sse3": "pni", "lzcnt": "abm", "bmi": "bmi1", "neon": "asimd", "fullfp16": "asimdhp", "dotprod": "asimddp",
}  # fmt: skip
"""What Linux calls features, where it is not LLVM's name without its punctuation."""


def lacking(features: Iterable[str]) -> list[str]:
    """Those of LLVM's features for a processor that compiled code may need and this machine does not have.

    A virtual machine often lacks features of the processor whose name it bears.
    """
    wanted = [f for f in features if CODE.match(f)]
    flags = _flags()
    if flags is not None:
        return sorted(f for f in wanted if KERNEL_NAMES.get(f, _bare(f)) not in flags)
    own = dict(load_tvm().get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")())
    known = {str(name): bool(has) for name, has in own.items()}
    return sorted(f for f in wanted if not known.get(f, True))


@cache
def _flags() -> frozenset[str] | None:
    """Features of this machine as Linux names them; None where it does not say: LLVM can, but is large to load."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.M)
    return frozenset(_bare(f) for f in found[1].split()) if found else None


def _bare(name: str) -> str:
    return re.sub("[._-]", "", name)
