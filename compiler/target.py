"""What a model is compiled for. A target is a description only: whether it can be built is for a backend to say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from . import tree as t
from .diagnostic import Diagnostic, Label, NetcError, nearest
from .source import Span

Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class Target:
    """Base of all targets; the class of each is found in `TARGETS` under its name in the language."""

    kind: ClassVar[str]

    def __str__(self) -> str:
        given = [
            f"{f.name} = {_text(getattr(self, f.name))}" for f in fields(self) if getattr(self, f.name) != f.default
        ]
        return f"{self.kind}({', '.join(given)})"

    def data(self) -> dict[str, Any]:
        """The description as JSON-ready values, for manifests; `from_data` reads it back."""
        return {"kind": self.kind, **{f.name: getattr(self, f.name) for f in fields(self)}}


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_text, value))}]"  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return f'"{value}"' if isinstance(value, str) else str(value)


@dataclass(frozen=True, slots=True)
class LLVM(Target):
    """A processor that LLVM generates code for.

    `triple` is None for the machine at hand, and `cpu` may then be `"native"`. `features` are LLVM's, with sign
    (`"+avx2"`), in addition to the processor's own. `threads` None takes every core of the machine at hand, and one
    elsewhere. `cache`: bytes of cache that one core has to itself, None where unknown.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    kind: ClassVar[str] = "llvm"

    cpu: Annotated[str, Field(min_length=1)] = "native"
    threads: Positive | None = None
    triple: Annotated[str, Field(min_length=1)] | None = None
    features: tuple[Annotated[str, Field(pattern=r"^[+-][\w.\-]+$")], ...] = ()
    cache: Positive | None = None


@dataclass(frozen=True, slots=True)
class CUDA(Target):
    """An NVIDIA GPU. `arch` is a compute capability (`"sm_80"`), None for that of the machine at hand."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    kind: ClassVar[str] = "cuda"

    arch: Annotated[str, Field(pattern=r"^sm_\d+[a-z]?$")] | None = None


TARGETS: dict[str, type[Target]] = {cls.kind: cls for cls in (LLVM, CUDA)}
"""Every kind of target by its name in the language."""


def from_data(data: Mapping[str, Any]) -> Target:
    """The target of a manifest.

    Raises:
        KeyError: for a kind that is not known.
        pydantic.ValidationError: for values that do not fit.
    """
    values = dict(data)
    return TypeAdapter(TARGETS[values.pop("kind")]).validate_python(values)


def read_target(declaration: t.Target, constant: Callable[[t.Expr], Any]) -> Target:
    """The target that a file declares; `constant` evaluates its arguments.

    Raises:
        NetcError: where it is no valid target.
    """
    value = declaration.value
    function = value.function if isinstance(value, t.Call) else value
    if not isinstance(function, t.Name) or function.text not in TARGETS:
        written = function.span.text
        message = f"there is no kind of target {written}"
        notes = (f"kinds: {', '.join(TARGETS)}",)
        raise _problem("unknown-target", message, function.span, nearest(written, TARGETS), notes)
    places: dict[str, Span] = {}
    attributes: dict[str, Any] = {}
    for argument in value.arguments if isinstance(value, t.Call) else ():
        if argument.name is None:
            message = f"{function.text} takes its arguments by name"
            raise _problem("target", message, argument.span, 'cpu = "native"')
        places[argument.name.text] = argument.span
        attributes[argument.name.text] = constant(argument.value)
    try:
        return TypeAdapter(TARGETS[function.text]).validate_python(attributes)
    except ValidationError as error:
        raise NetcError([_refused(function, e, places, declaration) for e in error.errors()]) from None


def _refused(function: t.Name, error: Any, places: Mapping[str, Span], declaration: t.Target) -> Diagnostic:
    name = str(error["loc"][0]) if error["loc"] else ""
    accepted = list(TARGETS[function.text].__dataclass_fields__)
    span = places.get(name, declaration.value.span)
    if "unexpected" in error["type"]:
        message = f"{function.text} has no argument {name}"
    else:
        message = f"{function.text} cannot take {error['input']!r} as {name}: {error['msg']}"
    return Diagnostic(
        "target", message, (Label(span),), (f"its arguments: {', '.join(accepted)}",), nearest(name, accepted)
    )


def _problem(code: str, message: str, span: Span, fix: str | None, notes: tuple[str, ...] = ()) -> NetcError:
    return NetcError([Diagnostic(code, message, (Label(span),), notes, fix)])
