"""What a model is compiled for. A target is a description only: whether it can be built is for a backend to say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from dataclasses import Field as DataclassField
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

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


def _with_port(address: str) -> str:
    name, _, port = address.rpartition(":")
    if not name or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ValueError("it is written as a host and a port of 1 to 65535")
    return address


@dataclass(frozen=True, slots=True)
class Remote:
    """Devices that the TVM tracker at `host`, such as `"farm:9190"`, knows under a `key`."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    host: Annotated[str, AfterValidator(_with_port)]
    key: Annotated[str, Field(min_length=1)]

    @property
    def address(self) -> tuple[str, int]:
        """The tracker's host and port."""
        name, _, port = self.host.rpartition(":")
        return name.strip("[]"), int(port)

    def __str__(self) -> str:
        return f'remote(host = "{self.host}", key = "{self.key}")'


@dataclass(frozen=True, slots=True)
class Target:
    """Base of all targets; the class of each is found in `TARGETS` under its name in the language."""

    kind: ClassVar[str]
    compiles: ClassVar[bool] = True
    """Whether there is code for it; else it is a cost model, for plans."""

    def __str__(self) -> str:
        units, values = _units(type(self)), {f: getattr(self, f.name) for f in _arguments(type(self))}
        given = [
            f"{f.name} = {_text(value, units.get(f.name))}"
            for f, value in values.items()
            if f.default is MISSING or value != f.default
        ]
        return f"{self.kind}({', '.join(given)})"

    def data(self) -> dict[str, Any]:
        """The description as JSON-ready values, for manifests; `from_data` reads it back. What is compiled is the same
        wherever it is measured: devices are no part of it."""
        return {"kind": self.kind, **{f.name: getattr(self, f.name) for f in _arguments(type(self))}}


def _arguments(cls: type[Target | Remote]) -> tuple[DataclassField[Any], ...]:
    """The fields that are given in parentheses, which are all but the clause after them."""
    return tuple(f for f in fields(cls) if f.name != "remote")


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
    itself, None where unknown. Kernels are measured on the devices of `remote`, on this machine where it is None.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    kind: ClassVar[str] = "llvm"

    cpu: Annotated[str, Field(min_length=1)] = "native"
    threads: Positive | None = None
    pin: bool = False
    triple: Annotated[str, Field(min_length=1)] | None = None
    features: tuple[Annotated[str, Field(pattern=r"^[+-][\w.\-]+$")], ...] = ()
    cache: Bytes | None = None
    remote: Remote | None = None

    def __str__(self) -> str:
        written = Target.__str__(self)
        return written if self.remote is None else f"{written} {self.remote}"


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
    called = value.arguments if isinstance(value, t.Call) else ()
    made: Target = _validated(TARGETS[function.text], function.text, called, value.span, constant)
    clause = declaration.remote
    if clause is None:
        return made
    if not isinstance(made, LLVM):
        message = f"{function.text} has no remote devices: kernels are measured for llvm alone"
        raise _problem("target", message, clause.span, "leave `remote(…)` out")
    return replace(made, remote=_validated(Remote, "remote", clause.arguments, clause.span, constant))


def _validated(
    cls: type[Any], function: str, arguments: Iterable[t.Argument], span: Span, constant: Callable[[t.Expr], Any]
) -> Any:
    """What a call with arguments by name describes; `span` is the call's."""
    units = _units(cls)
    places: dict[str, Span] = {}
    given: dict[str, Any] = {}
    accepted = [f.name for f in _arguments(cls)]
    for argument in arguments:
        if argument.name is None:
            message = f"{function} takes its arguments by name"
            raise _problem("target", message, argument.span, _EXAMPLES[function])
        name = argument.name.text
        if name not in accepted:
            fix = f"{function}(…) {_CLAUSE}" if name == "remote" and cls is LLVM else nearest(name, accepted)
            notes = (f"its arguments: {', '.join(accepted)}",)
            raise _problem("target", f"{function} has no argument {name}", argument.span, fix, notes)
        if name in given:
            raise _problem("target", f"{name} is given twice", argument.span, None)
        wanted = units.get(name)
        problem = wanted and wrong_unit(name, wanted, argument.value)
        if problem:
            raise NetcError([problem])
        places[name] = argument.span
        given[name] = constant(argument.value)
    try:
        return TypeAdapter(cls).validate_python(given)
    except ValidationError as error:
        raise NetcError([_refused(cls, function, e, places, span) for e in error.errors()]) from None


_CLAUSE = 'remote(host = "farm:9190", key = "pi4")'
_EXAMPLES = {
    "llvm": 'cpu = "native"', "cuda": 'arch = "sm_80"', "accelerator": "buffer = 512 KiB, dram = 8 GB/s",
    "remote": 'host = "farm:9190", key = "pi4"',
}  # fmt: skip
_FIXES = {"host": 'host = "farm:9190"', "key": 'key = "pi4"'}


def _units(cls: type[Target | Remote]) -> dict[str, Quantity]:
    """What the fields of a target measure that measure something."""
    found: dict[str, Quantity] = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        for part in (hint, *get_args(hint)):
            found.update((name, m.quantity) for m in getattr(part, "__metadata__", ()) if isinstance(m, Unit))
    return found


def _refused(cls: type[Any], function: str, error: Any, places: Mapping[str, Span], call: Span) -> Diagnostic:
    name = str(error["loc"][0]) if error["loc"] else ""
    unit = _units(cls).get(name)
    notes = (f"its arguments: {', '.join(f.name for f in _arguments(cls))}",)
    span = places.get(name, call)
    fix = f"{name} = {EXAMPLES[unit]}" if unit else _FIXES.get(name)
    if error["type"] == "missing":
        message, fix = f"{function} needs its {name}", fix or f"{name} = …"
    else:
        value, reason = span.text.partition("=")[2].strip(), error["msg"].removeprefix("Value error, ")
        message = f"{function} cannot take {value} as {name}: {reason[:1].lower()}{reason[1:]}"
    return Diagnostic("target", message, (Label(span),), notes, fix)


def _problem(code: str, message: str, span: Span, fix: str | None, notes: tuple[str, ...] = ()) -> NetcError:
    return NetcError([Diagnostic(code, message, (Label(span),), notes, fix)])
