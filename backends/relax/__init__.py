"""TVM: a graph compiled for a processor, as a folder that runs without PyTorch and without the spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .artifact import Artifact as Artifact
    from .build import compile as compile
    from .build import prepare as prepare
    from .build import probe as probe
    from .turns import contest as contest


def __getattr__(name: str) -> Any:
    # What runs an artifact does not wait for what compiles one.
    if name == "Artifact":
        from .artifact import Artifact

        return Artifact
    if name in ("compile", "prepare", "probe"):
        from . import build

        return getattr(build, name)
    if name == "contest":
        from .turns import contest

        return contest
    if name == "processor":
        from .machine import machine

        return machine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
