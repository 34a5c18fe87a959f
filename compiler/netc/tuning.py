"""The command that tunes, and what the others do with records."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from .command import (
    AllowOption,
    BindOption,
    Format,
    PassesOption,
    bindings,
    bound_sizes,
    chosen,
    leave_to_plan,
    opened,
    reporting,
    show,
    traced,
    usage,
)
from .compiler.diagnostic import Diagnostic, Label, NetcError
from .planning import plan_source

if TYPE_CHECKING:
    from .backends.relax.choice import Choices
    from .backends.relax.tuning.recorded import Recorded
    from .backends.relax.tuning.task import Source
    from .backends.relax.tuning.tune import Limits, Progress, State
    from .compiler.graph import Graph
    from .compiler.plan import Plan, Tuning
    from .compiler.source import Span
    from .compiler.target import Target

app = typer.Typer()

MINUTES = 30.0
"""How long to tune where nothing is said."""
LINES = 12
"""Tasks that are shown while tuning, those that take most time."""

RecordsOption = Annotated[
    str | None,
    typer.Option(
        "--records", metavar="FILE|none", show_default=False,
        help="Records of tuning to use; none: analytic answers alone. Without it the file that NETC_RECORDS names, or"
        " netc/records.sqlite in the folder for caches; with those that come with netc.",
    ),
]  # fmt: skip
TrialsOption = Annotated[
    int | None, typer.Option(min=1, help="Stop after so many trials in all, those of earlier runs among them.")
]
MinutesOption = Annotated[
    float | None, typer.Option(min=0, help=f"Stop after so long; {MINUTES:.0f} where neither is said.")
]


@app.command()
def tune(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="FILE:MODEL|PLAN", help="Models or plans to make fast.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="A target of the file; this machine without it.")] = None,
    bind: BindOption = [],  # noqa: B006
    trials: TrialsOption = None,
    minutes: MinutesOption = None,
    records: RecordsOption = None,
    exported: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="Write all records as lines of JSON.")
    ] = None,
    imported: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="Add the records that --export wrote.")
    ] = None,
    level: Annotated[
        int | None, typer.Option("-O", min=0, max=3, help="Optimise so far, as `netc passes` lists; 2 without it.")
    ] = None,
    passes: PassesOption = None,
    allow: AllowOption = None,
) -> None:
    """Try how the kernels of models are best written, by running them on this machine, or on the devices that a target
    names as its remote(host, key), and keep what is found.

    `netc compile` uses what was found, of these models and of others with like kernels.

    Whatever stops it, what was measured is kept, and the same command goes on from there.
    """
    from .backends.relax.machine import machine
    from .backends.relax.tuning.database import Database, read_lines, write_lines
    from .backends.relax.tuning.record import processor
    from .backends.relax.tuning.tune import Limits

    with reporting(Format.text):
        path = records_path(records)
        if not models and exported is None and imported is None:
            raise usage("say what to tune (netc tune FILE:MODEL), or --export FILE, or --import FILE")
        if path is None:
            raise usage("tuning needs a file for its records: --records FILE")
        if imported is not None:
            lines = read_lines(imported)
            with Database(path) as database:
                print(f"{database.put(lines)} of {len(lines)} records are new in {path}")
        if models:
            found = _found(models, target, bind, level, passes, allow)
            targets = {(processor(machine(f.target)), getattr(f.target, "remote", None)): f.target for f in found}
            if len(targets) > 1:
                told = " and ".join(map(str, targets.values()))
                raise usage(f"these are for different targets, {told}: tune one after the other")
            clause = found[0].clause if len(found) == 1 and trials is None and minutes is None else None
            limit = limits(trials, minutes) if clause is None else Limits(clause.trials, clause.minutes)
            tuned([f.source for f in found], found[0].target, path, limit)
        if exported is not None:
            with Database(path) as database:
                print(f"{write_lines(database.records(), exported)} records in {exported}")


def records_path(option: str | None) -> Path | None:
    """The file of `--records`; None where records are not to be used."""
    from .backends.relax.tuning.database import NONE, default_path

    if option is None:
        return default_path()
    return None if option == NONE else Path(option)


def limits(trials: int | None, minutes: float | None) -> Limits:
    """When to stop, as options say."""
    from .backends.relax.tuning.tune import Limits

    return Limits(trials, MINUTES if trials is None and minutes is None else minutes)


def answers(target: Target, path: Path | None) -> Recorded | None:
    """Who answers what kernels leave open, for `compile`; None for the analytic defaults.

    Raises:
        NetcError: where nothing can be compiled for the target, or the file holds something else.
    """
    if path is None:
        return None
    from .backends.relax.machine import machine
    from .backends.relax.tuning.recorded import recorded

    return recorded(machine(target), path)


def tuned(
    sources: Sequence[Source], target: Target, path: Path | None, limit: Limits, span: Span | None = None
) -> list[State]:
    """Tune, show how it goes, and say what was found; on the remote devices of the target, or on this machine.

    Raises:
        NetcError: where code for the target runs neither here nor on devices of its own, or records cannot be kept.
    """
    from .backends.relax.machine import machine
    from .backends.relax.tuning.database import Database
    from .backends.relax.tuning.program import program
    from .backends.relax.tuning.recorded import shipped
    from .backends.relax.tuning.remote import Devices
    from .backends.relax.tuning.tune import tune
    from .compiler.target import LLVM

    labels = () if span is None else (Label(span),)
    if path is None:
        raise NetcError([Diagnostic("usage", "tuning needs a file for its records: --records FILE", labels)])
    processor = machine(target)
    build = program
    if isinstance(target, LLVM) and target.remote is not None:
        devices = Devices(target.remote)
        devices.check()
        build = devices.program
    elif not processor.native:
        message = f"tuning runs kernels, and code for {processor.triple} does not run here"
        fix = f'{target} remote(host = "farm:9190", key = "pi4")' if isinstance(target, LLVM) else None
        raise NetcError([Diagnostic("unsupported-target", message, labels, fix=fix)])
    with Database(path) as database, _Shown.on(sys.stdout.isatty()) as shown:
        try:
            states = tune(sources, processor, database, limit, shipped=shipped(), listen=shown, build=build)
        except KeyboardInterrupt:
            shown.close()
            print(f"stopped; what was measured is in {path}, and the same command goes on from there", file=sys.stderr)
            raise typer.Exit(130) from None
    _report(states, path)
    return states


def model_source(graph: Graph, sizes: dict[str, int]) -> Source:
    """What to tune for a model after its passes.

    Raises:
        NetcError: where a size is left open.
    """
    from .backends.relax.build import prepare
    from .backends.relax.tuning.task import Source
    from .compiler.types import symbols

    made = prepare(graph, sizes)
    open_ = sorted({s for node in made.inputs.values() for d in node.types[0].shape for s in symbols(d)})
    if open_:
        message = f"tuning needs every size as a number, and {graph.name} leaves {', '.join(open_)} open"
        raise NetcError([Diagnostic("symbolic-dimension", message, fix=" ".join(f"--bind {s}=…" for s in open_))])
    return Source(made)


class _Found(NamedTuple):
    """What to tune, for which target, and for how long, where a plan says so."""

    source: Source
    target: Target
    clause: Tuning | None = None


def _found(
    models: Sequence[str],
    target: str | None,
    bind: list[str],
    level: int | None,
    passes: str | None,
    allow: Path | None,
) -> list[_Found]:
    """Models and plans by name; a model takes of the given sizes those that it has."""
    plans: dict[str, _Found] = {}
    graphs: dict[str, tuple[Graph, Target]] = {}
    for text in dict.fromkeys(models):
        program, name = opened(text, (), allow)
        if name in program.plans:
            leave_to_plan(name, {"--target": target, "--bind": bind, "-O": level, "-p": passes})
            plan = program.plan(name)
            plans[text] = _Found(plan_source(program, plan), plan.target, plan.tune)
        else:
            program, made = chosen(text, (), allow)
            graph = traced(program, made, 2 if level is None else level, passes).final
            graphs[text] = graph, program.target(target)
    sizes = bound_sizes(bindings(bind), [graph for graph, _ in graphs.values()])
    opens = {t: _Found(model_source(g, own), to) for (t, (g, to)), own in zip(graphs.items(), sizes, strict=True)}
    return [(plans | opens)[text] for text in dict.fromkeys(models)]


def choosing(plan: Plan, path: Path | None, limit: Limits | None) -> Callable[[Source], Choices | None]:
    """Who answers the questions of a plan: its kernels are tuned first, within `limit`, or as the plan says."""

    def choices(source: Source) -> Choices | None:
        from .backends.relax.tuning.tune import Limits

        if limit is not None:
            tuned([source], plan.target, path, limit)
        elif plan.tune is not None:
            tuned([source], plan.target, path, Limits(plan.tune.trials, plan.tune.minutes), plan.tune.span)
        return answers(plan.target, path)

    return choices


class _Shown:
    """What is said while tuning: a table that changes on a terminal, elsewhere a line for each task that is done."""

    def __init__(self, live: Any) -> None:
        self._live = live

    @classmethod
    @contextmanager
    def on(cls, terminal: bool) -> Generator[_Shown]:
        if not terminal:
            yield cls(None)
            return
        from rich.live import Live

        # Not refreshed by a thread: this process forks.
        with Live(auto_refresh=False, transient=True) as live:
            yield cls(live)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        if self._live is not None:
            self._live.update(self._table(progress), refresh=True)
        elif progress.trial is None and progress.at.decided:
            print(f"{_task(progress.at)}; {_total(progress)}", flush=True)

    @staticmethod
    def _table(progress: Progress) -> Any:
        from rich.console import Group

        slowest = sorted(progress.states, key=lambda s: (s is not progress.at, -s.task.weight * s.seconds))
        return Group(table(slowest[:LINES]), _total(progress))


def table(states: Sequence[State]) -> Any:
    """Tasks, each in a row."""
    from rich.table import Table

    made = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("task", "kernels", "tried", "failed", "default", "best", "", "answer"):
        made.add_column(name, justify="left" if name in ("task", "answer") else "right", no_wrap=True)
    for s in states:
        best = [_time(s.seconds), f"{100 * s.ratio:.0f} %"] if s.record else ["", ""]
        done = f"{s.tried}/{s.task.question.points - 1}"
        answer = _written(s.record.answer) if s.record else s.failure or ""
        made.add_row(
            f"{s.task.name} {s.task.question.kind}", str(s.task.weight), done, str(len(s.failures) or ""),
            _time(s.analytic), *best, answer,
        )  # fmt: skip
    return made


def _task(state: State) -> str:
    record = state.record
    found = f"{_time(state.seconds)} of {_time(state.analytic)} ({_written(record.answer)})" if record else "nothing"
    return f"{state.task.name} {state.task.question.kind}: {found} after {state.tried} trials"


def _total(progress: Progress) -> str:
    left = progress.left
    rest = f", {left:.0f} s left" if left < 100 else f", {left / 60:.0f} min left" if left < float("inf") else ""
    measured = [s for s in progress.states if s.analytic]
    return (
        f"{len(measured)} of {len(progress.states)} tasks: {_time(progress.seconds)} of {_time(progress.analytic)}"
        f" predicted, {progress.made} trials{rest}"
    )


def _time(seconds: float) -> str:
    return "" if not seconds else f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} µs"


def _written(answer: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in answer.items())


def _report(states: Sequence[State], path: Path) -> None:
    """What was found, and what failed and why."""
    from rich.console import Console

    slowest = sorted(states, key=lambda s: -s.task.weight * s.seconds)
    Console(width=None if sys.stdout.isatty() else 240, highlight=False).print(table(slowest))
    for state, trial in [(s, t) for s in states for t in s.failures]:
        print(f"{state.task.name} {state.task.question.kind}, {_written(trial.answer)}: {trial.failure}")
    for state in states:
        if state.failure is not None:
            message = f"%{state.task.name} was not tuned: {state.failure}"
            notes = (f"what it asks: {state.task.question.key}",)
            show([Diagnostic("untuned", message, (), notes, severity="warning")], Format.text)
    before = sum(s.task.weight * s.analytic for s in states)
    after = sum(s.task.weight * s.seconds for s in states)
    share = f" ({100 * after / before:.0f} %)" if before else ""
    print(f"{len(states)} tasks, {sum(s.tried for s in states)} trials: {_time(after)} of {_time(before)}{share}")
    print(f"records: {path}")
