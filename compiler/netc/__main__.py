"""The `netc` command: thin functions of plain arguments.

Exit codes: 0 all is well; 1 the input is wrong, as diagnostics say; 2 the command line is wrong; 3 netc itself failed.
"""

from __future__ import annotations

import inspect
import json
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from . import __version__
from .backends.training.options import TrainingOptions, parse_options
from .benching import app as benching
from .command import (
    AllowOption,
    BindOption,
    BudgetOption,
    Format,
    FormatOption,
    LevelOption,
    ModelArgument,
    PassesOption,
    SeedOption,
    VerifyOption,
    bindings,
    chosen,
    leave_to_plan,
    opened,
    reporting,
    show,
    traced,
    usage,
)
from .compiler.diagnostic import Diagnostic, Diagnostics, NetcError, nearest
from .compiler.quantity import sized
from .inspection import app as inspection
from .planning import app as planning
from .planning import blind, check_plan, compile_plan, tolerance
from .surgery import app as surgery
from .tuning import (
    MinutesOption,
    RecordsOption,
    TrialsOption,
    answers,
    choosing,
    limits,
    model_source,
    records_path,
    tuned,
)
from .tuning import app as tuning

if TYPE_CHECKING:
    from .compiler.cost import Report
    from .compiler.family import Family
    from .compiler.graph import Graph
    from .compiler.program import Program
    from .compiler.weights import LoadReport


app = typer.Typer(
    name="netc", help="A declarative compiler for neural-network architectures.", no_args_is_help=True,
    add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 all is well; 1 the input is wrong; 2 the command line is wrong; 3 netc itself failed.",
)  # fmt: skip

app.add_typer(inspection)
app.add_typer(planning)
app.add_typer(surgery)
app.add_typer(tuning)
app.add_typer(benching)


def version(wanted: bool) -> None:
    if wanted:
        print(f"netc {__version__}")
        raise typer.Exit


@app.callback()
def netc(
    version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A declarative compiler for neural-network architectures."""


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="The .net files.")],
    verify: VerifyOption = False,
    form: FormatOption = Format.text,
    budget: BudgetOption = [],  # noqa: B006 (typer reads the default)
    allow: AllowOption = None,
) -> None:
    """Prove every shape of every model in the files, and every number they expect."""
    found = Diagnostics()
    lines: list[str] = []
    for path in files:
        try:
            lines.extend(_check_file(path, budget, allow, verify, found))
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


def _check_file(
    path: Path, budget: Sequence[str], allow: Path | None, verify: bool, found: Diagnostics
) -> Iterator[str]:
    from .compiler.expectation import compare

    program, _ = opened(str(path), budget, allow)
    before = len(found.errors)
    found.extend(program.check())
    if len(found.errors) > before:
        return
    for expectation in program.expectations():
        found.extend(compare(expectation, program.model(expectation.model)))
    if verify:
        from .compiler.receipt import broken

        applied = {id(a): a for name in program.models for a in program.model(name).applied}
        found.extend(broken(applied.values()))
    for name in program.declared_passes():
        yield f"{path}:{name}  {program.described(name)}"
    for name in program.families:
        yield f"{path}:{name}  a family of {program.family(name).count:,} models"
    for name in program.plans:
        plan = program.plan(name)
        try:
            check_plan(program, plan)
        except NetcError as error:
            found.extend(error.diagnostics)
            continue
        yield f"{path}:{name}  a plan for {plan.model} on {plan.target_name}"
    for name in program.models:
        graph = program.model(name).graph
        inputs = ", ".join(f"{k}: {n.types[0]}" for k, n in graph.inputs.items())
        outputs = ", ".join(f"{k}: {graph.type(r)}" for k, r in graph.outputs.items())
        yield f"{path}:{name}  ({inputs}) -> ({outputs})  {len(graph.nodes)} nodes, {len(graph.parameters)} parameters"


@app.command()
def fmt(
    files: Annotated[list[Path], typer.Argument(help="The .net files; they are rewritten in place.")],
    check_only: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 if something would change.")
    ] = False,
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
            _print_costs(report, depth)


def _print_costs(report: Report, depth: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("path", "kind", "nodes", "params", "MACs", "other ops", "activations", "peak"):
        table.add_column(name, justify="left" if name in ("path", "kind") else "right", no_wrap=name == "path")
    for row in report.table(depth):
        table.add_row(
            row.path or report.model, row.kind, str(row.nodes), _counted(row.parameters), _counted(row.macs),
            _counted(row.other), sized(row.activations), sized(row.peak),
        )  # fmt: skip
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    console.print(table)
    console.print(f"most memory is alive at {report.peak_at}")
    console.print(
        f"critical path: {len(report.longest.nodes)} nodes; heaviest chain: {_counted(report.heaviest.macs)} MACs"
    )


def _counted(count: Any) -> str:
    return f"{count:,}" if isinstance(count, int) else str(count)


@app.command()
def weights(model: ModelArgument, allow: AllowOption = None) -> None:
    """Say what loading a model's weights did: what fitted, what was renamed, cast or dropped."""
    with reporting(Format.text):
        _, made = chosen(model, (), allow)
        if not made.reports:
            print(f"{made.name} loads no weights; its parameters are initialised from a seed")
        for report in made.reports:
            _print_loading(report)


def _print_loading(report: LoadReport) -> None:
    moved = {path: names for path, names in report.loaded.items() if names != (path,)}
    print(f"{report.checkpoint}: {len(report.loaded)} parameters filled, {len(moved)} of them from other names")
    for path, names in moved.items():
        print(f"  {path} <- {', '.join(names)}")
    for path, (stored, own) in report.casts.items():
        print(f"  {path} is cast from {stored.value} to {own.value}")
    leftovers = {
        "dropped": report.dropped,
        "bookkeeping": report.bookkeeping,
        "rules that matched nothing": report.idle,
    }
    for what, names in leftovers.items():
        if names:
            print(f"{what}: {', '.join(names)}")


@app.command()
def ops(name: Annotated[str | None, typer.Argument(help="One operator; all without it.")] = None) -> None:
    """List the operators of the language, or explain one."""
    from .compiler.reference import describe_operator, operator_names

    with reporting(Format.text):
        if name is None:
            print("\n".join(operator_names()))
        elif name not in operator_names():
            raise NetcError(
                [Diagnostic("unknown-operator", f"there is no operator {name}", fix=nearest(name, operator_names()))]
            )
        else:
            print(describe_operator(name))


@app.command()
def export(
    model: ModelArgument,
    to: Annotated[str, typer.Option(help="pytorch or onnx")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder (pytorch) or a file (onnx).")],
    level: LevelOption = None,
    passes: PassesOption = None,
    seed: SeedOption = 0,
    allow: AllowOption = None,
) -> None:
    """Write a model as readable PyTorch source with safetensors, or as ONNX; as it is, or optimised first."""
    with reporting(Format.text):
        program, made = chosen(model, (), allow)
        made = replace(made, graph=traced(program, made, level, passes, seed=seed).final)
        for path in made.export(output, to, seed):
            print(path)


@app.command("compile")
def compile_model(
    model: Annotated[
        str, typer.Argument(metavar="FILE[:MODEL|PLAN]", help="A .net file and one of its models or plans.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The artifact folder.")],
    target: Annotated[str | None, typer.Option(help="A target of the file; this machine without it.")] = None,
    bind: BindOption = [],  # noqa: B006
    seed: SeedOption = 0,
    compare: Annotated[
        bool,
        typer.Option("--check/--no-check", help="Measure the difference to PyTorch, and say where it says nothing."),
    ] = True,
    level: Annotated[
        int | None, typer.Option("-O", min=0, max=3, help="Optimise so far, as `netc passes` lists; 2 without it.")
    ] = None,
    passes: PassesOption = None,
    verify: VerifyOption = False,
    allow: AllowOption = None,
    records: RecordsOption = None,
    tune: Annotated[bool, typer.Option("--tune", help="Tune first; see `netc tune`.")] = False,
    trials: TrialsOption = None,
    minutes: MinutesOption = None,
) -> None:
    """Compile a model through TVM into a folder that runs without PyTorch and without the spec.

    A plan says itself for what target, in what batch, and through which passes; what it requires is checked then.
    """
    from .compiler.backend import backend
    from .compiler.passes.bind import bind as bound

    with reporting(Format.text):
        program, name = opened(model, (), allow)
        path = records_path(records)
        if not tune and (trials is not None or minutes is not None):
            raise usage("--trials and --minutes limit --tune")
        if name in program.plans:
            leave_to_plan(name, {"--target": target, "--bind": bind, "-O": level, "-p": passes})
            plan = program.plan(name)
            choices = choosing(plan, path, limits(trials, minutes) if tune else None)
            return compile_plan(program, plan, output, seed=seed, compare=compare, verify=verify, choices=choices)
        program, made = chosen(model, (), allow)
        level = 2 if level is None else level
        sizes = bindings(bind)
        described = program.target(target)
        tvm = backend("tvm")
        meant = bound(made.graph, sizes)
        reference = backend("pytorch").Reference(meant, seed) if compare else None
        trace = traced(program, made, level, passes, seed=seed)
        stages = traced(program, made, level, passes, verify, seed).stages if verify else trace.stages
        if tune:
            tuned([model_source(trace.final, sizes)], described, path, limits(trials, minutes))
        options = {"bind": sizes, "seed": seed, "reference": reference, "spec_hash": made.spec_hash}
        options["choices"] = answers(described, path)
        options["tolerance"] = tolerance(trace.stages)
        artifact = tvm.compile(trace.final, described, output, passes=[s.data() for s in stages], **options)
        manifest = json.loads((output / "manifest.json").read_text())
        shares = ", ".join(f"{what} {sized(size)}" for what, size in manifest["sizes"].items())
        print(f"{made.name} for {described}: {len(manifest['kernels'])} kernels, {shares} in {output}")
        if manifest["difference"] is not None:
            difference = manifest["difference"]
            print(
                f"largest difference to PyTorch: {difference['absolute']:.2e} ({difference['relative']:.2e} relative)"
            )
            fix = None if made.reports else f"compile it with weights: {made.name} |> load(…)"
            show(blind(reference, meant, difference["allowed"], fix), Format.text)
        if artifact is None:
            print(f"built for {manifest['processor']['triple']}; it does not run on this machine")


@app.command()
def run(
    artifact: Annotated[Path, typer.Argument(help="A folder that `netc compile` wrote.")],
    inputs: Annotated[list[Path], typer.Argument(help="One .npy file or picture for each input.")],
    top: Annotated[int, typer.Option(min=0, help="Print the largest so many classes of the first output.")] = 0,
    labels: Annotated[Path | None, typer.Option(help="A text file with the name of each class on a line.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the outputs into this .npz file.")
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Runs that are timed.")] = 20,
    against: Annotated[
        str | None, typer.Option(metavar="FILE:MODEL", help="Run this model in PyTorch beside it.")
    ] = None,
) -> None:
    """Run a compiled model, and print its outputs and latency."""
    from .backends.relax import Artifact
    from .compiler.feed import read

    with reporting(Format.text):
        loaded = Artifact.load(artifact)
        if len(inputs) != len(loaded.inputs):
            wanted = ", ".join(f"{name}: {signature}" for name, signature in loaded.inputs.items())
            raise usage(f"the model takes {len(loaded.inputs)} inputs ({wanted}), not {len(inputs)}")
        arrays = [read(p, s.dtype, s.shape) for p, s in zip(inputs, loaded.inputs.values(), strict=True)]
        names = None if labels is None else _text(labels).splitlines()
        results = loaded.run(arrays)
        for (name, signature), result in zip(loaded.outputs.items(), results, strict=True):
            print(f"{name}: {signature.dtype.value}{list(result.shape)}")
        if top:
            _print_top(results[0], top, names)
        if output is not None:
            _write_arrays(output, dict(zip(loaded.outputs, results, strict=True)))
        _print_latency(loaded, arrays, results, repeat, against)


def _print_top(result: Any, count: int, names: Sequence[str] | None) -> None:
    import numpy

    scores = result.reshape(-1, result.shape[-1])[0].astype("float64")
    shares = numpy.exp(scores - scores.max())
    shares /= shares.sum()
    for place in numpy.argsort(-scores, kind="stable")[:count]:
        name = names[place] if names is not None and place < len(names) else f"class {place}"
        print(f"  {100 * shares[place]:5.1f} %  {name}")


def _write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    import numpy

    from .compiler.files import written_whole

    with written_whole(path) as partial, partial.open("wb") as file:
        numpy.savez(file, **arrays)


def _print_latency(loaded: Any, arrays: list[Any], results: list[Any], repeat: int, against: str | None) -> None:
    """Latency alone, or in turns with PyTorch: A B A B, with equal threads, and the largest difference."""
    from statistics import median

    threads = loaded.threads
    if against is None:
        print(f"latency: {1e3 * loaded.latency(arrays, repeat).median:.2f} ms (median of {repeat}, {threads} threads)")
        return
    from .compiler.backend import backend

    _, made = chosen(against)
    reference = backend("pytorch").Reference(made.graph, loaded.manifest["seed"], threads)
    expected = reference(arrays)
    difference = max(
        float(abs(a.astype("float64") - b.astype("float64")).max()) for a, b in zip(results, expected, strict=True)
    )
    loaded.latency(arrays, 1)
    pairs = [(loaded.latency(arrays, 1, warmup=0).median, reference.seconds(arrays)) for _ in range(repeat + 3)][3:]
    ours, theirs = median(a for a, _ in pairs), median(b for _, b in pairs)
    print(
        f"latency: {1e3 * ours:.2f} ms; PyTorch: {1e3 * theirs:.2f} ms"
        f" (medians of {repeat} runs in turns, {threads} threads each)"
    )
    print(f"largest difference to PyTorch: {difference:.2e}")


def _teacher(program: Program, made: Graph | Family, name: str | None, allow: Path | None) -> Graph | None:
    """The model that teaches; None where there is none, or where it is an anchor of the family that learns."""
    if name is None or name in getattr(made, "anchors", {}):
        return None
    if ":" in name or name.endswith(".net"):
        return chosen(name, (), allow)[1].graph
    return program.model(name).graph


def _train_signature() -> inspect.Signature:
    """The options of training as options of the command: one list, kept with the library."""
    ours = [
        inspect.Parameter("model", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=ModelArgument),
        inspect.Parameter("allow", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=AllowOption),
    ]
    for name, field in TrainingOptions.model_fields.items():
        kind: Any = bool if field.annotation is bool else str
        shown = typer.Option(f"--{name.replace('_', '-')}", help=_help(field), show_default=False)
        default = False if kind is bool else None
        ours.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, shown])
        )
    return inspect.Signature(ours)


def _help(field: Any) -> str:
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    words = [f"one of {', '.join(choices)}"] if choices else []
    if not field.is_required() and field.annotation is not bool and field.default is not None:
        words.append(f"default {field.default}")
    elif field.annotation is Path:
        words.append("default build/MODEL")
    return f"{field.description} ({'; '.join(words)})" if words else field.description


def train(model: str, allow: Path | None = None, **given: Any) -> None:
    """Train a model, or a family, as a classifier, from its weights or a seed; `--resume` continues a stopped run.

    The model takes one input and returns logits, [N, classes]. The loss is their cross entropy.

    With `--teacher` the softened logits of a trained model are learnt too; of a family one member learns in each step.

    Further logits of the train phase count 0.3. Numbers (outputs of rank 0) are added, times `--penalty`.

    Several processes: torchrun --nproc-per-node 2 -m netc train …
    """
    with reporting(Format.text):
        program, name = opened(model, (), allow)
        made = program.family(name) if name in program.families else chosen(model, (), allow)[1].graph
        values = {name: value for name, value in given.items() if value is not None and value is not False}
        values.setdefault("output", f"build/{made.name}")
        try:
            options = parse_options(values)
        except NetcError as error:
            show(error.diagnostics, Format.text)
            raise typer.Exit(2) from None
        from rich.console import Console

        from .backends.training import train as run_training

        teacher = _teacher(program, made, options.teacher, allow)
        result = run_training(made, options, Console(), teacher)
        print(result.model)


setattr(train, "__signature__", _train_signature())  # noqa: B010 (a function has no such attribute to a type checker)
app.command()(train)


def main() -> None:
    """Run the command. A failure of netc itself leaves with exit code 3 and says so, below its traceback."""
    try:
        app()
    except Exception:  # noqa: BLE001 (nothing is swallowed: this is the last word on any failure)
        traceback.print_exc()
        print("\nnetc itself failed; this is a bug. Please report it with the command and the spec.", file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()
