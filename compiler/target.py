"""What a model is compiled for. A target is a description only: whether it can be built is for a backend to say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from . import tree as t
from .diagnostic import Diagnostic, Label, NetcError, nearest
from .quantity import EXAMPLES, Quantity, written, wrong_unit
from .source import Span

Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class Unit:
    """What a field of a target measures."""

    quantity: Quantity


Bytes = Annotated[int, Field(ge=1), Unit("bytes")]
BytesPerSecond = Annotated[int, Field(ge=1), Unit("bytes per second")]
CountPerSecond = Annotated[int, Field(ge=1), Unit("a count per second")]


@dataclass(frozen=True, slots=True)
class Target:
    """Base of all targets; the class of each is found in `TARGETS` under its name in the language."""

    kind: ClassVar[str]
    compiles: ClassVar[bool] = True
    """Whether there is code for it; else it is a cost model, for plans."""

    def __str__(self) -> str:
        units = _units(type(self))
        given = [
            f"{f.name} = {_text(getattr(self, f.name), units.get(f.name))}"
            for f in fields(self)
            if f.default is MISSING or getattr(self, f.name) != f.default
        ]
        return f"{self.kind}({', '.join(given)})"

    def data(self) -> dict[str, Any]:
        """The description as JSON-ready values, for manifests; `from_data` reads it back."""
        return {"kind": self.kind, **{f.name: getattr(self, f.name) for f in fields(self)}}


def _text(value: object, unit: Quantity | None = None) -> str:
    if unit is not None and isinstance(value, int):
        return written(value, unit)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_text, value))}]"  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


@dataclass(frozen=True, slots=True)
class LLVM(Target):
    """A processor that LLVM generates code for.

    `triple` is None for the machine at hand, and `cpu` may then be `"native"`. `features` are LLVM's, with sign
    (`"+avx2"`), in addition to the processor's own. `threads` None takes every core of the machine at hand, and one
    elsewhere; with `pin`, each of them is tied to a core of its own. `cache`: bytes of cache that one core has to
    itself, None where unknown.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    kind: ClassVar[str] = "llvm"

    cpu: Annotated[str, Field(min_length=1)] = "native"
    threads: Positive | None = None
    pin: bool = False
    triple: Annotated[str, Field(min_length=1)] | None = None
    features: tuple[Annotated[str, Field(pattern=r"^[+-][\w.\-]+$")], ...] = ()
    cache: Bytes | None = None


@dataclass(frozen=True, slots=True)
class CUDA(Target):
    """An NVIDIA GPU. `arch` is a compute capability (`"sm_80"`), None for that of the machine at hand."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    kind: ClassVar[str] = "cuda"

    arch: Annotated[str, Field(pattern=r"^sm_\d+[a-z]?$")] | None = None


@dataclass(frozen=True, slots=True)
class Accelerator(Target):
    """A cost model of a chip with a memory of its own: `buffer` bytes of it, filled from and emptied into DRAM at
    `dram` bytes per second, and `macs` multiply-accumulates per second, None where computing takes no time worth
    counting."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    kind: ClassVar[str] = "accelerator"
    compiles: ClassVar[bool] = False

    buffer: Bytes
    dram: BytesPerSecond
    macs: CountPerSecond | None = None


TARGETS: dict[str, type[Target]] = {cls.kind: cls for cls in (LLVM, CUDA, Accelerator)}
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
    units = _units(TARGETS[function.text])
    places: dict[str, Span] = {}
    attributes: dict[str, Any] = {}
    for argument in value.arguments if isinstance(value, t.Call) else ():
        if argument.name is None:
            message = f"{function.text} takes its arguments by name"
            raise _problem("target", message, argument.span, _EXAMPLES[function.text])
        if argument.name.text in attributes:
            raise _problem("target", f"{argument.name.text} is given twice", argument.span, None)
        wanted = units.get(argument.name.text)
        problem = wanted and wrong_unit(argument.name.text, wanted, argument.value)
        if problem:
            raise NetcError([problem])
        places[argument.name.text] = argument.span
        attributes[argument.name.text] = constant(argument.value)
    try:
        return TypeAdapter(TARGETS[function.text]).validate_python(attributes)
    except ValidationError as error:
        raise NetcError([_refused(function, e, places, declaration) for e in error.errors()]) from None


_EXAMPLES = {"llvm": 'cpu = "native"', "cuda": 'arch = "sm_80"', "accelerator": "buffer = 512 KiB, dram = 8 GB/s"}


def _units(cls: type[Target]) -> dict[str, Quantity]:
    """What the fields of a target measure that measure something."""
    found: dict[str, Quantity] = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        for part in (hint, *get_args(hint)):
            found.update((name, m.quantity) for m in getattr(part, "__metadata__", ()) if isinstance(m, Unit))
    return found


def _refused(function: t.Name, error: Any, places: Mapping[str, Span], declaration: t.Target) -> Diagnostic:
    name = str(error["loc"][0]) if error["loc"] else ""
    unit = _units(TARGETS[function.text]).get(name)
    accepted = [f.name for f in fields(TARGETS[function.text])]
    notes = (f"its arguments: {', '.join(accepted)}",)
    span = places.get(name, declaration.value.span)
    fix = None
    if "unexpected" in error["type"]:
        message, fix = f"{function.text} has no argument {name}", nearest(name, accepted)
    elif error["type"] == "missing":
        message = f"{function.text} needs its {name}"
        fix = f"{name} = {EXAMPLES[unit]}" if unit else f"{name} = …"
    else:
        value, reason = span.text.partition("=")[2].strip(), error["msg"].removeprefix("Value error, ")
        message = f"{function.text} cannot take {value} as {name}: {reason[:1].lower()}{reason[1:]}"
        fix = f"{name} = {EXAMPLES[unit]}" if unit else None
    return Diagnostic("target", message, (Label(span),), notes, fix)


def _problem(code: str, message: str, span: Span, fix: str | None, notes: tuple[str, ...] = ()) -> NetcError:
    return NetcError([Diagnostic(code, message, (Label(span),), notes, fix)])
