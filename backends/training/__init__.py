"""Training of a graph as a classifier: `netc train`. `options` checks what a user asks for, `train` does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loop import Result as Result
    from .loop import train as train
    from .options import TrainingOptions as TrainingOptions
    from .options import parse_options as parse_options

_HOMES = {"Result": "loop", "train": "loop", "TrainingOptions": "options", "parse_options": "options"}

__all__ = ["Result", "TrainingOptions", "parse_options", "train"]


def __getattr__(name: str) -> Any:
    """Load a name when it is first used: the options are known without PyTorch, for the command's help."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
