"""The commands about what is done to models: transforms, receipt, family."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from .command import AllowOption, Format, FormatOption, ModelArgument, SeedOption, chosen, opened, reporting, usage
from .compiler.diagnostic import nearest

if TYPE_CHECKING:
    from pydantic import BaseModel

    from .compiler.transforms import Transform

app = typer.Typer()


@app.command("transforms")
def list_transforms(
    name: Annotated[str | None, typer.Argument(help="One transform, to be explained; all without it.")] = None,
) -> None:
    """List what can be done to models, or explain one transform with its options."""
    from .compiler.transforms import TRANSFORMS, WORDS

    with reporting(Format.text):
        if name is None:
            width = max(map(len, TRANSFORMS), default=0)
            for key, found in sorted(TRANSFORMS.items()):
                print(f"  {key:<{width}}  {found.summary}")
        elif name in TRANSFORMS:
            print(_explained(TRANSFORMS[name]))
        elif name in WORDS:
            print(f"{_signature(name, WORDS[name].options)}\n\n{WORDS[name].make.__doc__ or ''}")
        else:
            close = nearest(name, [*TRANSFORMS, *WORDS])
            raise usage(f"there is no transform {name}{f'; did you mean {close}?' if close else ''}")


def _explained(found: Transform) -> str:
    models = ["a", "b", "c"][: max(found.models, 1)]
    return f"{_signature(found.name, found.options, [*models, *(['…'] if found.several else [])])}\n\n{found.doc}"


def _signature(name: str, options: type[BaseModel], models: list[str] | None = None) -> str:
    """`a |> widen(at = "*", by = 2.0)`, or `merge(a, b, …)` where it takes several models."""
    shown = [f"{k} = {_default(f.default)}" if not f.is_required() else k for k, f in options.model_fields.items()]
    if models is None:
        return f"{name}({', '.join(shown)})"
    return f"a |> {name}({', '.join(shown)})" if len(models) == 1 else f"{name}({', '.join([*models, *shown])})"


def _default(value: Any) -> str:
    from .compiler.text import literal
    from .compiler.transforms import WORDS

    names = [n for n, word in WORDS.items() if isinstance(word.make, type) and type(value) is word.make]
    if names:
        return names[0]
    return literal(list(value) if isinstance(value, tuple) else value)  # pyright: ignore[reportUnknownArgumentType]


@app.command()
def receipt(
    model: ModelArgument,
    measured: Annotated[bool, typer.Option("--measure/--no-measure", help="Run both models in float64.")] = True,
    seed: SeedOption = 0,
    form: FormatOption = Format.text,
    allow: AllowOption = None,
) -> None:
    """Say what the transforms of a model promised, what was measured, where its parameters come from, and its cost.

    Exit code 1 where a promise is broken.
    """
    from .compiler.receipt import receipt as written

    with reporting(form):
        _, made = chosen(model, (), allow)
        found = [written(a, measured=measured, seed=seed) for a in made.applied]
        if form == Format.json:
            print(json.dumps([r.data() for r in found], indent=2))
        elif not found:
            print(f"{made.name} has no receipt: it is as it is written, or a member of a family as it is there")
        else:
            print("\n\n".join(map(str, found)))
        if any(r.measured is not None and not r.measured.kept for r in found):
            raise typer.Exit(1)


@app.command()
def family(
    model: Annotated[str, typer.Argument(metavar="FILE:FAMILY", help="A .net file and one of its families.")],
    limit: Annotated[int, typer.Option(min=0, help="List so many members; 0 for all.")] = 100,
    form: FormatOption = Format.text,
    allow: AllowOption = None,
) -> None:
    """Count the members of a family, and list each with its multiply-accumulates and parameters."""
    from .compiler.family import costs

    with reporting(form):
        program, name = opened(model, (), allow)
        if name is None and len(program.families) == 1:
            name = program.families[0]
        found = program.family(name or "")
        members = costs(found, limit or None)
        if form == Format.json:
            rows = [
                {
                    "member": m.number,
                    "label": m.label,
                    "macs": m.macs,
                    "parameters": m.parameters,
                    "anchor": m.anchor or "",
                }
                for m in members
            ]
            print(json.dumps({"family": found.name, "count": found.count, "members": rows}, indent=2))
            return
        stored = sum(cast(int, p.type.elements) for p in found.parameters.values() if not p.buffer)
        print(f"{found.name}: {found.count:,} members over {stored:,} parameters")
        for note in found.notes:
            print(f"  {note}")
        for m in members:
            label = f"{m.label}  = {m.anchor}" if m.anchor else m.label
            print(f"{m.number:>6}  {m.macs:>16,} MACs  {m.parameters:>14,} parameters  {label}")
        if len(members) < found.count:
            print(f"… and {found.count - len(members):,} more; --limit 0 lists all", file=sys.stderr)
