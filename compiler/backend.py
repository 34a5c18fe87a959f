"""Backends by name: the compiler imports none, and other packages add theirs by the entry points `netc.backends`."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from .diagnostic import Diagnostic, NetcError, nearest


def backend(name: str) -> Any:
    """The module of a backend: `pytorch`, `tvm`, `onnx`, or one that another installed package provides.

    Raises:
        NetcError: where no installed package provides it, or it cannot be imported.
    """
    found = {e.name: e for e in entry_points(group="netc.backends")}
    if name not in found:
        notes = (f"installed: {', '.join(sorted(found)) or 'none'}",)
        raise NetcError([Diagnostic("unknown-backend", f"there is no backend {name}", (), notes, nearest(name, found))])
    try:
        return found[name].load()
    except ImportError as error:
        raise NetcError([Diagnostic("backend", f"the backend {name} cannot be loaded: {error}")]) from error
