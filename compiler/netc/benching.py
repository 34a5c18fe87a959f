"""The command that measures: models compiled by netc beside the same models in other runtimes."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .command import (
    AllowOption,
    BindOption,
    Format,
    FormatOption,
    PassesOption,
    SeedOption,
    bindings,
    bound_sizes,
    chosen,
    reporting,
    show,
    traced,
    usage,
)
from .compiler.diagnostic import Diagnostic, NetcError
from .compiler.quantity import sized
from .tuning import RecordsOption, answers, records_path

if TYPE_CHECKING:
    from .backends.bench import Board, Failed, Score
    from .compiler.graph import Graph
    from .compiler.model import Model
    from .compiler.program import Program

app = typer.Typer()

ROUNDS = 30
"""How often each kernel is run by itself."""


@app.command()
def bench(
    models: Annotated[list[str], typer.Argument(metavar="FILE[:MODEL]…", help=".net files, each with one model.")],
    against: Annotated[
        str, typer.Option(metavar="PEER,…", help="torch, inductor, onnxruntime, openvino; none with an empty text.")
    ] = "torch,onnxruntime",
    threads: Annotated[int | None, typer.Option(min=1, help="Of every candidate; all cores without it.")] = None,
    bind: BindOption = [],  # noqa: B006
    turns: Annotated[int, typer.Option(min=1, help="How often candidates take turns.")] = 21,
    html: Annotated[
        Path | None, typer.Option(metavar="PAGE", help="Write a page with bars, and a roofline of every kernel.")
    ] = None,
    samples: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every time as CSV.")] = None,
    form: FormatOption = Format.text,
    level: Annotated[int, typer.Option("-O", min=0, max=3, help="Optimise so far.")] = 2,
    passes: PassesOption = None,
    records: RecordsOption = None,
    seed: SeedOption = 0,
    allow: AllowOption = None,
) -> None:
    """Compile models and run them beside other runtimes: latency, difference to float64 PyTorch, compile and start-up
    time, memory, size, and the share of the machine's measured peak.

    Each candidate runs in a process of its own with the same number of threads. They take turns, with pauses in which
    their threads fall asleep. Symbolic sizes are 1 for the batch and 128 for others, unless --bind says so. Parameters
    that no weights are loaded into are drawn so that outputs depend on inputs.

    Where netc cannot compile or run a model, it says why and goes on with the next; the exit code is then 1.
    """
    from .backends.bench import NETC, Board, Failed, Subject, check, lively, measure, probe
    from .compiler.files import refuse_unwritable
    from .compiler.passes.bind import bind as bound
    from .compiler.report.board import board_page
    from .compiler.target import LLVM

    with reporting(form), tempfile.TemporaryDirectory(prefix="netc-bench-") as folder:
        for page in filter(None, (html, samples)):
            refuse_unwritable(page)
        peers = check(name.strip() for name in against.split(",") if name.strip())
        candidates = (NETC, *peers)
        threads = _threads(threads)
        path = records_path(records)
        choices = answers(LLVM(threads=threads), path)
        read = [chosen(model, (), allow) for model in models]
        sizes = _sizes([model for _, model in read], bindings([part for option in bind for part in option.split(",")]))
        board = Board(threads, turns, probe(Path(folder), candidates, threads), records=str(path or "none"))
        if html is not None:
            board.bandwidth = probe(Path(folder), candidates, threads, memory=True)
        if form == Format.text:
            _introduce(board)
        for number, ((program, model), own) in enumerate(zip(read, sizes, strict=True)):
            model = replace(model, graph=lively(model.graph, seed))

            def optimise(program: Program = program, model: Model = model, own: dict[str, int] = own) -> Graph:
                return bound(traced(program, model, level, passes, seed=seed).final, own)

            place = Path(folder) / str(number)
            rounds = 0 if html is None else ROUNDS
            try:
                subject = Subject(bound(model.graph, own), optimise, place, threads, seed, choices)
                board.scores.append(measure(subject, peers, turns=turns, sizes=own, rounds=rounds))
            except NetcError as error:
                board.failed.append(Failed(model.name, own, tuple(error.diagnostics)))
                _tell_failed(board.failed[-1])
            else:
                _tell(board, form, f"{number + 1} of {len(read)}")
            shutil.rmtree(place, ignore_errors=True)
        if form == Format.text and len(board.scores) > 1:
            _print_means(board)
        _write(html, lambda: board_page(board.data()))
        _write(samples, lambda: "\n".join(board.samples()) + "\n")
        if form == Format.json:
            print(json.dumps(board.data(), indent=1))
        if board.failed:
            raise typer.Exit(1)


def _tell(board: Board, form: Format, place: str) -> None:
    """What the last model gave: all of it as text; where JSON comes at the end, that it is done."""
    score = board.scores[-1]
    show([_failed(score, *failure) for failure in score.failures.items()], Format.text)
    if form == Format.text:
        _print_score(score, board)
    else:
        print(f"{place}: {score.model}", file=sys.stderr)


def _tell_failed(failed: Failed) -> None:
    show(failed.diagnostics, Format.text)
    print(f"{failed.model} was not measured", file=sys.stderr)


def _write(path: Path | None, text: Callable[[], str]) -> None:
    from .compiler.files import written_whole

    if path is not None:
        with written_whole(path) as partial:
            partial.write_text(text(), "utf-8")


def _threads(asked: int | None) -> int:
    """Threads of every candidate; also of this process, where models are compiled."""
    cores = len(os.sched_getaffinity(0))
    if asked is not None and asked > cores:
        raise usage(f"--threads {asked} are more than the {cores} cores that this process may use")
    os.environ["TVM_NUM_THREADS"] = str(asked or cores)
    return asked or cores


def _sizes(models: Sequence[Model], given: dict[str, int]) -> list[dict[str, int]]:
    """A number for every symbol of each model."""
    from .compiler.cost import assumed

    graphs = [model.graph for model in models]
    return [assumed(graph) | own for graph, own in zip(graphs, bound_sizes(given, graphs), strict=True)]


def _failed(score: Score, peer: str, why: str) -> Diagnostic:
    return Diagnostic("cannot-run", f"{score.model} is measured without {peer}", notes=(why,), severity="warning")


def _introduce(board: Board) -> None:
    told = board.data()
    each = f"{board.threads} thread{'s' * (board.threads > 1)} each"
    rest = f"with {1e3 * told['pause']:.0f} ms of rest between them"
    print(f"{told['processor']}: {each}, {board.turns} turns in random order {rest}")
    print(f"records of tuning: {board.records}")
    print(f"measured peak: {board.peak.rate / 1e9:.0f} GFLOP/s ({board.peak.by}, {board.peak.what})")
    if board.bandwidth is not None:
        bandwidth = board.bandwidth
        print(f"measured bandwidth: {bandwidth.rate / 1e9:.1f} GB/s ({bandwidth.by}, {bandwidth.what})")


def _print_score(score: Score, board: Board) -> None:
    from rich.console import Console
    from rich.table import Table

    at = "".join(f", {name} = {number}" for name, number in score.sizes.items())
    print(f"\n{score.model}{at}: {score.macs:,} MACs")
    table = Table(box=None, header_style="bold", pad_edge=False)
    rows = [_row(score, name, board) for name in score.entries]
    for column in rows[0]:
        table.add_column(column, justify="left" if column == "candidate" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)


def _row(score: Score, name: str, board: Board) -> dict[str, str]:
    entry = score.entries[name]
    spread = entry.spread
    ours = score.ratio(name) if name in score.peers else None
    return {
        "candidate": f"{name} {entry.version}",
        "ms": f"{1e3 * spread.median:.3f}",
        "half within": f"{1e3 * spread.low:.3f}–{1e3 * spread.high:.3f}",
        "netc takes": "" if ours is None else f"{ours.median:.2f} ×",
        "half between": "" if ours is None else f"{ours.low:.2f}–{ours.high:.2f}",
        "of peak": f"{100 * score.share(name, board.peak):.0f} %",
        "difference": f"{entry.difference:.1e}",
        "compile": "" if entry.compile is None else f"{entry.compile:.1f} s",
        "start-up": f"{entry.start:.2f} s",
        "memory": sized(entry.memory),
        "files": sized(entry.size),
    }


def _print_means(board: Board) -> None:
    means = board.means()
    told = ", ".join(f"{mean:.2f} × {'the best' if name == 'best' else name}" for name, mean in means.items())
    if told:
        print(f"\nnetc takes, as geometric mean of {len(board.scores)} models: {told}")
