"""What makes a function from models to a model a transform: its name, its options, and what it gives back.

A transform's first parameters, annotated `Graph`, are models: one comes through `|>`, or all stand in the call. The
others are options, validated before it runs. It returns an `Outcome`, or a `Family`; where it cannot apply it raises
`Refusal`, which names the nodes that stop it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, create_model
from pydantic_core.core_schema import CoreSchema, is_instance_schema

from ..contract import Contract
from ..family import Family
from ..graph import Graph


@dataclass(frozen=True)
class Outcome:
    """What a transform made: a graph with its numbers, what is promised of it, and what a reader should know."""

    graph: Graph
    contract: Contract
    notes: tuple[str, ...] = ()
    """What was done, in sentences of one line: units removed, terms dropped, what is preserved where it `alters`."""
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """By parameter, those of the given models that its numbers come from, where it is not the one of the same path.
    With several models their names stand before: `resnet18.conv1.weight`."""


class Refusal(Exception):
    """A transform cannot apply. `nodes` are those that stop it, `option` is the argument that is wrong, if one is."""

    def __init__(
        self,
        message: str,
        *,
        nodes: Sequence[str] = (),
        option: str | None = None,
        notes: Sequence[str] = (),
        fix: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.nodes = tuple(nodes)
        self.option = option
        self.notes = tuple(notes)
        self.fix = fix


MOST_UNITS = 2**20
"""A dimension does not become larger than this by a transform."""
MOST_PARTS = 10_000
"""So many layers, blocks, branches or experts a transform makes at most."""


def refuse_many(count: float, most: int, what: str, option: str) -> None:
    """
    Raises:
        Refusal: where a transform would make more than it may, which is sooner a mistake than meant.
    """
    if count > most:
        raise Refusal(f"that makes {count:_.0f} {what}, and {most:_} are the most", option=option)


@dataclass(frozen=True)
class Limit:
    """A budget as it is written: `macs <= 24 M`, `parameters <= 5 M`, `activations <= 2 MiB`."""

    quantity: str
    relation: Literal["<=", ">=", "==", "<", ">"]
    value: float


@dataclass(frozen=True)
class Transform:
    """A registered transform. `options` are its keyword parameters; `models` how many models it takes at least, and
    `several` whether it takes more."""

    name: str
    run: Callable[..., Outcome | Family]
    options: type[BaseModel]
    models: int
    several: bool
    doc: str = ""

    @property
    def summary(self) -> str:
        """The first sentence of its documentation."""
        return " ".join(self.doc.split()).partition(". ")[0].rstrip(".:") + "."


@dataclass(frozen=True)
class Word:
    """A constructor that stands in the options of transforms: `lstsq(calib, samples = 100)`."""

    name: str
    make: Callable[..., Any]
    options: type[BaseModel]


TRANSFORMS: dict[str, Transform] = {}
WORDS: dict[str, Word] = {}

Function = TypeVar("Function", bound=Callable[..., Any])
Class = TypeVar("Class", bound=type)


def transform(function: Function) -> Function:
    """Register a function as the transform of its name."""
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    models = [p for p in parameters if p.annotation is Graph and p.default is p.empty]
    options = [p for p in parameters if p not in models]
    name = function.__name__
    TRANSFORMS[name] = Transform(
        name,
        function,
        _options(name, options),
        sum(p.kind is not p.VAR_POSITIONAL for p in models),
        any(p.kind is p.VAR_POSITIONAL for p in models),
        inspect.getdoc(function) or "",
    )
    return function


def word(name: str) -> Callable[[Class], Class]:
    """Register a frozen dataclass as a constructor for options: its fields are the arguments."""

    def register(cls: Class) -> Class:
        parameters = list(inspect.signature(cls, eval_str=True).parameters.values())
        WORDS[name] = Word(name, cls, _options(name, parameters))
        return cls

    return register


def _options(name: str, parameters: Sequence[inspect.Parameter]) -> type[BaseModel]:
    fields: dict[str, Any] = {
        p.name: (_instances(p.annotation), ... if p.default is p.empty else p.default) for p in parameters
    }
    return create_model(name, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=True), **fields)


def _instances(annotation: Any) -> Any:
    """The annotation, with dataclasses in it (graphs, data, words) taken as they are: pydantic would look into them."""
    if isinstance(annotation, type) and is_dataclass(annotation):
        return Annotated[annotation, _Instance(annotation)]
    origin: Any = get_origin(annotation)
    arguments = tuple(_instances(a) for a in get_args(annotation))
    if origin in (Union, UnionType):
        return Union[arguments]  # noqa: UP007 (made, not written)
    return origin[arguments] if origin in _CONTAINERS else cast(Any, annotation)


_CONTAINERS: tuple[Any, ...] = (list, tuple)


@dataclass(frozen=True)
class _Instance:
    """What pydantic checks of a class that it must not look into."""

    type: type

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return is_instance_schema(self.type)
