"""What makes a function a planner: its name and options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model

from ..partition import Partition

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Planner:
    """A registered planner. Its options are the keyword parameters of `run`, whose first one is the task."""

    name: str
    run: Callable[..., Partition]
    options: type[BaseModel]
    doc: str


PLANNERS: dict[str, Planner] = {}
"""Every planner by name."""

Function = TypeVar("Function", bound=Callable[..., Partition])


def planner(function: Function) -> Function:
    """Register a function as the planner of its name. Its first parameter is the task, the others its options."""
    _, *parameters = inspect.signature(function, eval_str=True).parameters.values()
    fields: dict[str, Any] = {p.name: (p.annotation, ... if p.default is p.empty else p.default) for p in parameters}
    options = create_model(function.__name__, __config__=ConfigDict(extra="forbid"), **fields)
    PLANNERS[function.__name__] = Planner(function.__name__, function, options, inspect.getdoc(function) or "")
    return function
