"""The options of a pass or transform: from the arguments of a call to values that its model of options accepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from . import tree as t
from .diagnostic import Diagnostic, Label, NetcError, nearest
from .source import Span

Read = Callable[[t.Expr, Any], Any]
"""The value of an argument, given the annotation of the option that it is for (None where there is no such option)."""


def read_options(
    owner: str, code: str, options: type[BaseModel], arguments: Sequence[t.Argument], span: Span, read: Read
) -> dict[str, Any]:
    """The options that the arguments of a call give, by name, validated.

    `owner` is what they are options of, and `code` that of the diagnostics.

    Raises:
        NetcError: for options that there are not, that are missing, or given twice, or have a value that does not suit.
    """
    accepted = list(options.model_fields)
    given: dict[str, Any] = {}
    places: dict[str, Span] = {}

    def refuse(message: str, place: Span, fix: str | None = None) -> NetcError:
        notes = (f"its options: {', '.join(accepted) or 'none'}",)
        return NetcError([Diagnostic(code, message, (Label(place),), notes, fix)])

    for position, argument in enumerate(arguments):
        name = argument.name.text if argument.name else (accepted[position] if position < len(accepted) else "")
        if name in given:
            raise refuse(f"{name} is given twice", argument.span)
        if not name:
            most = f"at most {len(accepted)} option{'s' * (len(accepted) > 1)}" if accepted else "no options"
            raise refuse(f"{owner} takes {most}", argument.span)
        wanted: Any = options.model_fields[name].annotation if name in accepted else None
        value: Any = read(argument.value, wanted)
        given[name], places[name] = value, argument.span
        wrong = not isinstance(value, bool) if wanted is bool else isinstance(value, (bool, str))
        if wrong and wanted in (bool, int, float):
            what = "true or false" if wanted is bool else "a number"
            raise refuse(f"{name} is {what}, not {argument.value.span.text}", argument.span)
    try:
        valid = options.model_validate(given)
    except ValidationError as error:
        problems: list[Diagnostic] = []
        for one in error.errors():
            name = str(one["loc"][0]) if one["loc"] else ""
            place = places.get(name, span)
            if one["type"] == "extra_forbidden":
                problem = refuse(f"{owner} has no option {name}", place, nearest(name, accepted))
            elif one["type"] == "missing":
                problem = refuse(f"{owner} needs its option {name}", place, f"{name} = …")
            else:
                words = choices(options.model_fields[name].annotation)
                close = nearest(str(one["input"]), words)
                problem = refuse(f"{name}: {one['msg'].lower()}", place, close and f"{name} = {_written(close, code)}")
            problems.extend(d for d in problem.diagnostics if all(p.message != d.message for p in problems))
        raise NetcError(problems) from None
    return {name: getattr(valid, name) for name in given}


def _written(choice: str, code: str) -> str:
    """A choice as it is written: passes take strings, transforms words."""
    return f'"{choice}"' if code == "pass-option" else choice


def choices(annotation: Any) -> tuple[str, ...]:
    """The words that an option accepts as they are: those of its `Literal`s, however deep."""
    found: list[str] = []
    for part in get_args(annotation):
        found += [part] if isinstance(part, str) else choices(part)
    return tuple(found)
