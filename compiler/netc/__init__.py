"""netc: a declarative compiler for neural-network architectures.

What `import netc` gives is imported when it is first used: the command and a user's own imports stay fast, and neither
PyTorch, TVM nor ONNX is loaded before something is handed to it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if __name__ != "netc":
    raise ImportError(f"netc was found as {__name__}; import it as netc, or its modules would exist twice")

if TYPE_CHECKING:
    from netc.backends.relax import Artifact as Artifact
    from netc.compiler.diagnostic import Diagnostic as Diagnostic
    from netc.compiler.diagnostic import NetcError as NetcError
    from netc.compiler.graph import Graph as Graph
    from netc.compiler.model import Model as Model
    from netc.compiler.program import Program as Program
    from netc.compiler.program import read as load
    from netc.compiler.program import read_source as loads
    from netc.compiler.target import CUDA as CUDA
    from netc.compiler.target import LLVM as LLVM

__version__ = "0.1.0"

_HOMES = {
    "Artifact": (".backends.relax", "Artifact"),
    "CUDA": (".compiler.target", "CUDA"),
    "Diagnostic": (".compiler.diagnostic", "Diagnostic"),
    "Graph": (".compiler.graph", "Graph"),
    "LLVM": (".compiler.target", "LLVM"),
    "Model": (".compiler.model", "Model"),
    "NetcError": (".compiler.diagnostic", "NetcError"),
    "Program": (".compiler.program", "Program"),
    "load": (".compiler.program", "read"),
    "loads": (".compiler.program", "read_source"),
}

__all__ = ["CUDA", "LLVM", "Artifact", "Diagnostic", "Graph", "Model", "NetcError", "Program", "load", "loads"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'netc' has no attribute {name!r}")
    home, there = _HOMES[name]
    value = getattr(import_module(home, "netc"), there)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
