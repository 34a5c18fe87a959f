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
    from netc.compiler.diagnostic import Diagnostic as Diagnostic
    from netc.compiler.diagnostic import NetcError as NetcError
    from netc.compiler.graph import Graph as Graph

__version__ = "0.1.0"

_HOMES = {
    "Diagnostic": ".compiler.diagnostic",
    "Graph": ".compiler.graph",
    "NetcError": ".compiler.diagnostic",
}

__all__ = ["Diagnostic", "Graph", "NetcError"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'netc' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name], "netc"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
