"""Loading TVM itself."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Any


def load_tvm() -> Any:
    """The package `tvm`.

    tvm-ffi imports PyTorch wherever it is installed, to share tensors with it, which takes a second and a few hundred
    megabytes. netc passes numpy arrays, so PyTorch stays out, unless it is loaded already.
    """
    if "tvm_ffi" not in sys.modules and "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]  # makes `import torch` raise ImportError
        try:
            import_module("tvm")
        finally:
            del sys.modules["torch"]
    import_module("tvm.runtime.vm")
    return sys.modules["tvm"]


CODE = re.compile("adx|amx|avx|bmi|dotprod|f16c|fma|fullfp16|lzcnt|movbe|neon|popcnt|s?sse|sve")
"""How the names begin of features whose instructions compiled code may hold; others are for systems, or only tune."""


def lacking(features: Iterable[str]) -> list[str]:
    """Those of LLVM's features for a processor that compiled code may need and this machine does not have.

    A virtual machine often lacks features of the processor whose name it bears.
    """
    own = dict(load_tvm().get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")())
    known = {str(name): bool(has) for name, has in own.items()}
    return sorted(f for f in features if CODE.match(f) and not known.get(f, True))
