"""What the commands share: their common options, how they open files, and how they say what is wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .compiler.budget import Budget
from .compiler.diagnostic import Diagnostic, NetcError, nearest, render

if TYPE_CHECKING:
    from .compiler.graph import Graph
    from .compiler.model import Model
    from .compiler.pipeline import Step, Trace
    from .compiler.program import Program


class Format(StrEnum):
    """How messages and tables are printed."""

    text = "text"
    json = "json"


ModelArgument = Annotated[str, typer.Argument(metavar="FILE[:MODEL]", help="A .net file and one of its models.")]
FormatOption = Annotated[Format, typer.Option("--format", help="text for people, json for programs")]
BindOption = Annotated[list[str], typer.Option("--bind", metavar="N=1", help="Give a symbolic dimension a number.")]
BudgetOption = Annotated[
    list[str], typer.Option("--budget", metavar="nodes=…", help="Raise a limit of the elaborator.")
]
AllowOption = Annotated[
    Path | None,
    typer.Option("--allow", help="The folder that imports and weights must lie in, in place of the file's own."),
]
SeedOption = Annotated[int, typer.Option(help="Seed of the parameters that no weights are loaded into.")]
LevelOption = Annotated[int | None, typer.Option("-O", min=0, max=3, help="Optimise first, as `netc passes` lists.")]
PassesOption = Annotated[
    str | None, typer.Option("-p", "--passes", metavar="PASS,…", help="Passes to run: fold,eliminate_dead{…}.")
]
VerifyOption = Annotated[bool, typer.Option("--verify", help="Measure every pass and transform against its contract.")]


@contextmanager
def reporting(form: Format) -> Generator[None]:
    """Print diagnostics in the chosen form and leave with exit code 1, or 2 where the command line was wrong."""
    try:
        yield
    except NetcError as error:
        show(error.diagnostics, form)
        raise typer.Exit(2 if all(d.code == "usage" for d in error.diagnostics) else 1) from None


def show(diagnostics: Sequence[Diagnostic], form: Format) -> None:
    """Messages: as text on standard error, as JSON on standard output."""
    if form == Format.json:
        print(json.dumps({"diagnostics": [d.data() for d in diagnostics]}, indent=2))
        return
    for diagnostic in diagnostics:
        print(render(diagnostic, colour=sys.stderr.isatty()), end="\n\n", file=sys.stderr)


def usage(message: str) -> NetcError:
    """A wrong option value, said like every other problem."""
    return NetcError([Diagnostic("usage", message)])


def leave_to_plan(name: str, options: Mapping[str, object]) -> None:
    """Refuse options that are given, and that a plan decides itself."""
    said = [option for option, value in options.items() if value not in (None, [])]
    if said:
        raise usage(f"the plan {name} says what {', '.join(said)} would: change it there")


def limits(options: Sequence[str]) -> Budget:
    """`nodes=2000000` → a budget."""
    known = [f.name for f in fields(Budget)]
    chosen: dict[str, int] = {}
    for option in options:
        name, _, value = option.partition("=")
        if name not in known or not value.isdecimal():
            raise usage(f"--budget takes NAME=NUMBER with a name of {', '.join(known)}, not {option}")
        chosen[name] = int(value)
    return replace(Budget(), **chosen)


def bindings(options: Sequence[str]) -> dict[str, int]:
    """`N=1` → {"N": 1}."""
    result: dict[str, int] = {}
    for option in options:
        name, _, value = option.partition("=")
        if not name.isidentifier() or not value.isdecimal() or int(value) < 1:
            raise usage(f"--bind takes SYMBOL=NUMBER with a number of at least 1, not {option}")
        result[name] = int(value)
    return result


def bound_sizes(given: dict[str, int], graphs: Iterable[Graph]) -> list[dict[str, int]]:
    """Of numbers for symbols, for each graph those that it has.

    Raises:
        NetcError: for a symbol that none has.
    """
    from .compiler.cost import free_symbols

    found = [free_symbols(graph) for graph in graphs]
    known = frozenset[str]().union(*found)
    for name in given:
        if name not in known:
            message = f"no model has a dimension {name}"
            notes = (f"there are {', '.join(sorted(known))}" if known else "all sizes are numbers",)
            raise NetcError([Diagnostic("bind", message, (), notes, nearest(name, known))])
    return [{name: number for name, number in given.items() if name in own} for own in found]


def opened(text: str, budget: Sequence[str] = (), allow: Path | None = None) -> tuple[Program, str | None]:
    """`FILE[:MODEL]` → the program and the model's name."""
    from .compiler.program import read

    path, _, name = text.partition(":")
    return read(path, budget=limits(budget), root=allow), name or None


def chosen(text: str, budget: Sequence[str] = (), allow: Path | None = None) -> tuple[Program, Model]:
    """`FILE[:MODEL]` → the program and the model, with warnings printed."""
    program, name = opened(text, budget, allow)
    model = program.model(name)
    show([d for d in program.diagnostics if d.severity == "warning"], Format.text)
    return program, model


def chosen_steps(program: Program, level: int | None, passes: str | None, seed: int = 0) -> list[Step]:
    """The steps of `-O` and, after them, of `-p`."""
    from .compiler.library import level_steps

    first = level_steps(level, seed) if level is not None else ()
    return [*first, *(program.steps(passes) if passes else ())]


def traced(
    program: Program, model: Model, level: int | None, passes: str | None, verify: bool = False, seed: int = 0
) -> Trace:
    """The model through a level, and through passes after it; see `through`."""
    return through(model, chosen_steps(program, level, passes, seed), verify=verify, seed=seed)


def through(model: Model, steps: Sequence[Step], *, verify: bool = False, seed: int = 0) -> Trace:
    """The model through passes. A pass that fails leaves a file that runs it again.

    Raises:
        NetcError: with what is wrong with the passes, or with what they did.
    """
    from .compiler.files import written_whole
    from .compiler.pipeline import Failure, Trace, run
    from .compiler.reproduce import reproducer

    start = model.graph
    check = None
    if verify:
        from .compiler.receipt import broken

        problems = broken(model.applied, seed)
        if problems:
            raise NetcError(problems)
        from .compiler.measure import Meter
        from .compiler.probe import probed

        start, check = probed(start, seed), Meter(seed=seed)
    try:
        trace = run(start, steps, facts=model.facts, check=check)
    except Failure as failure:
        path = Path(f"{model.name}.{failure.step.run.name}.again.net")
        with written_whole(path) as partial:
            partial.write_text(reproducer(failure), "utf-8")
        (diagnostic,) = failure.diagnostics
        note = f"{path} runs the failing pass again"
        raise NetcError([replace(diagnostic, notes=(*diagnostic.notes, note))]) from failure
    earlier = model.stages[0].before if model.stages and not verify else trace.start
    return Trace(earlier, (*(() if verify else model.stages), *trace.stages), trace.facts, trace.final)
