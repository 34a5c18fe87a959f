"""The `netc` command: thin functions of plain arguments.

Exit codes: 0 all is well; 1 the input is wrong (diagnostics were printed); 2 the command line is wrong; 3 netc itself failed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import __version__
from .compiler.budget import Budget
from .compiler.diagnostic import Diagnostic, Diagnostics, NetcError, nearest, render

if TYPE_CHECKING:
    from .compiler.model import Model
    from .compiler.program import Program


class Format(StrEnum):
    """How messages and tables are printed."""

    text = "text"
    json = "json"


app = typer.Typer(
    name="netc", help="A declarative compiler for neural-network architectures.", no_args_is_help=True,
    add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 all is well; 1 the input is wrong; 2 the command line is wrong; 3 netc itself failed.",
)  # fmt: skip

ModelArgument = Annotated[str, typer.Argument(metavar="FILE[:MODEL]", help="A .net file and one of its models.")]
FormatOption = Annotated[Format, typer.Option("--format", help="text for people, json for programs")]
BindOption = Annotated[list[str], typer.Option("--bind", metavar="N=1", help="Give a symbolic dimension a number.")]
BudgetOption = Annotated[list[str], typer.Option("--budget", metavar="nodes=…", help="Raise a limit of the elaborator.")]
AllowOption = Annotated[Path | None, typer.Option("--allow", help="A folder that imports and weights may lie in.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the parameters that no weights are loaded into.")]

_format = Format.text


@contextmanager
def reporting(form: Format) -> Iterator[None]:
    """Print diagnostics in the chosen form and leave with exit code 1."""
    try:
        yield
    except NetcError as error:
        show(error.diagnostics, form)
        raise typer.Exit(1) from None


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


def limits(options: Sequence[str]) -> Budget:
    """`nodes=2000000` → a budget."""
    known = [f.name for f in fields(Budget)]
    chosen: dict[str, int] = {}
    for option in options:
        name, _, value = option.partition("=")
        if name not in known or not value.isdigit():
            raise usage(f"--budget takes NAME=NUMBER with a name of {', '.join(known)}, not {option}")
        chosen[name] = int(value)
    return replace(Budget(), **chosen)


def bindings(options: Sequence[str]) -> dict[str, int]:
    """`N=1` → {"N": 1}."""
    result: dict[str, int] = {}
    for option in options:
        name, _, value = option.partition("=")
        if not name.isidentifier() or not value.isdigit() or int(value) < 1:
            raise usage(f"--bind takes SYMBOL=NUMBER with a number of at least 1, not {option}")
        result[name] = int(value)
    return result


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


def version(wanted: bool) -> None:
    if wanted:
        print(f"netc {__version__}")
        raise typer.Exit


@app.callback()
def netc(
    version: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """A declarative compiler for neural-network architectures."""


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="The .net files.")],
    form: FormatOption = Format.text,
    budget: BudgetOption = [],  # noqa: B006 (typer reads the default)
    allow: AllowOption = None,
) -> None:
    """Prove every shape of every model in the files, and every number they expect."""
    found = Diagnostics()
    lines: list[str] = []
    for path in files:
        try:
            lines.extend(_check_file(path, budget, allow, found))
        except NetcError as error:
            found.extend(error.diagnostics)
    if form == Format.json or len(found):
        show(list(found), form)
    if found.errors:
        count = len(found.errors)
        if form == Format.text:
            print(f"{count} error{'s' if count > 1 else ''}", file=sys.stderr)
        raise typer.Exit(1)
    if form == Format.text:
        print("\n".join(lines))


def _check_file(path: Path, budget: Sequence[str], allow: Path | None, found: Diagnostics) -> Iterator[str]:
    from .compiler.expectation import compare

    program, _ = opened(str(path), budget, allow)
    before = len(found.errors)
    found.extend(program.check())
    if len(found.errors) > before:
        return
    for expectation in program.expectations():
        found.extend(compare(expectation, program.model(expectation.model)))
    for name in program.models:
        graph = program.model(name).graph
        inputs = ", ".join(f"{k}: {n.types[0]}" for k, n in graph.inputs.items())
        outputs = ", ".join(f"{k}: {graph.type(r)}" for k, r in graph.outputs.items())
        yield f"{path}:{name}  ({inputs}) -> ({outputs})  {len(graph.nodes)} nodes, {len(graph.parameters)} parameters"


@app.command()
def fmt(
    files: Annotated[list[Path], typer.Argument(help="The .net files; they are rewritten in place.")],
    check_only: Annotated[bool, typer.Option("--check", help="Change nothing; exit with 1 if something would change.")] = False,
) -> None:
    """Format files: one layout, comments kept."""
    from .compiler.files import written_whole
    from .compiler.format import format_text
    from .compiler.source import Source

    changed: list[Path] = []
    problems = Diagnostics()
    for path in files:
        try:
            text = _text(path)
            formatted = format_text(Source(str(path), text, path))
        except NetcError as error:
            problems.extend(error.diagnostics)
            continue
        if formatted != text:
            changed.append(path)
            if not check_only:
                with written_whole(path) as partial:
                    partial.write_text(formatted, "utf-8")
    for path in changed:
        print(f"{'would reformat' if check_only else 'reformatted'} {path}")
    if len(problems):
        show(list(problems), Format.text)
    if problems.errors or (check_only and changed):
        raise typer.Exit(1)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NetcError([Diagnostic("file-not-found", f"{path} cannot be read: {error}")]) from None


@app.command("show")
def show_graph(
    model: ModelArgument,
    phase: Annotated[str, typer.Option(help="both, train or infer")] = "both",
    budget: BudgetOption = [],  # noqa: B006
    allow: AllowOption = None,
) -> None:
    """Print a model's graph in normal form: one named node a line, with its type."""
    from .compiler.passes.strip_phase import strip_phase
    from .compiler.text import print_graph

    with reporting(Format.text):
        _, made = chosen(model, budget, allow)
        if phase not in ("both", "train", "infer"):
            raise usage(f"--phase is both, train or infer, not {phase}")
        graph = made.graph if phase == "both" else strip_phase(made.graph, "train" if phase == "train" else "infer")
        print(print_graph(graph))


@app.command()
def cost(
    model: ModelArgument,
    bind: BindOption = [],  # noqa: B006
    depth: Annotated[int, typer.Option(min=0, help="How many levels of scopes the table shows.")] = 1,
    form: FormatOption = Format.text,
    budget: BudgetOption = [],  # noqa: B006
    allow: AllowOption = None,
) -> None:
    """Parameters, multiply-accumulates, activation bytes, peak memory and critical path."""
    with reporting(form):
        _, made = chosen(model, budget, allow)
        report = made.cost(bindings(bind))
        if form == Format.json:
            print(json.dumps(report.data(), indent=2))
        else:
            _print_table(report.table(depth))


def _print_table(rows: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    header, *body = rows
    table = Table(box=None, header_style="bold", pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(str(name), justify="left" if i == 0 else "right", overflow="fold")
    for row in body:
        table.add_row(*map(str, row))
    Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(table)


@app.command()
def weights(model: ModelArgument, allow: AllowOption = None) -> None:
    """Say what loading a model's weights did: what fitted, what was renamed, cast or dropped."""
    with reporting(Format.text):
        _, made = chosen(model, (), allow)
        if not made.reports:
            print(f"{made.name} loads no weights; its parameters are initialised from a seed")
        for report in made.reports:
            print(report)


@app.command()
def ops(name: Annotated[str | None, typer.Argument(help="One operator; all without it.")] = None) -> None:
    """List the operators of the language, or explain one."""
    from .compiler.reference import describe_operator, operator_names

    with reporting(Format.text):
        if name is None:
            print("\n".join(operator_names()))
        elif name not in operator_names():
            raise NetcError([Diagnostic("unknown-operator", f"there is no operator {name}", fix=nearest(name, operator_names()))])
        else:
            print(describe_operator(name))


@app.command()
def export(
    model: ModelArgument,
    to: Annotated[str, typer.Option(help="pytorch or onnx")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder (pytorch) or a file (onnx).")],
    seed: SeedOption = 0,
    allow: AllowOption = None,
) -> None:
    """Write a model as readable PyTorch source with safetensors, or as ONNX."""
    with reporting(Format.text):
        _, made = chosen(model, (), allow)
        for path in made.export(output, to, seed):
            print(path)


def main() -> None:
    """Run the command; a failure of netc itself is said as such, with what to report."""
    app()


Command = Callable[..., None]

if __name__ == "__main__":
    main()
