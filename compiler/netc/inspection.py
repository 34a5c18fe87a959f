"""The commands that look at graphs and passes: show, diff, explain, bisect, report, passes."""

from __future__ import annotations

import json
from difflib import unified_diff
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
    chosen_steps,
    opened,
    reporting,
    show,
    through,
    traced,
    usage,
)
from .compiler.diagnostic import nearest

if TYPE_CHECKING:
    from .compiler.graph import Graph
    from .compiler.pipeline import Stage, Trace
    from .compiler.program import Program

app = typer.Typer()


@app.command("show")
def show_graph(
    model: ModelArgument,
    level: LevelOption = None,
    passes: PassesOption = None,
    after: Annotated[str | None, typer.Option(metavar="PASS", help="The graph after this pass.")] = None,
    after_all: Annotated[bool, typer.Option("--after-all", help="The graph after every pass that changed it.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="What every pass changed, line by line.")] = False,
    table: Annotated[bool, typer.Option("--table", help="The passes with contracts, node counts and times.")] = False,
    dot: Annotated[bool, typer.Option("--dot", help="As Graphviz text.")] = False,
    phase: Annotated[str, typer.Option(help="both, train or infer")] = "both",
    verify: VerifyOption = False,
    seed: SeedOption = 0,
    budget: BudgetOption = [],  # noqa: B006 (typer reads the default)
    allow: AllowOption = None,
) -> None:
    """Print a model's graph in normal form, one named node a line, before or after passes."""
    from .compiler.dot import dot as as_dot
    from .compiler.text import print_graph

    with reporting(Format.text):
        if sum((table, diff, after_all, after is not None)) > 1:
            raise usage("--table, --diff, --after and --after-all each say what to print: give one of them")
        program, made = chosen(model, budget, allow)
        if phase not in ("both", "train", "infer"):
            raise usage(f"--phase is both, train or infer, not {phase}")
        if phase != "both":
            passes = f'strip_phase{{keep = "{phase}"}}' + (f",{passes}" if passes else "")
        trace = traced(program, made, level, passes, verify, seed)
        written = as_dot if dot else print_graph
        if table:
            print_table(trace)
        elif diff:
            print("".join(_difference(s) for s in trace.stages if s.changed), end="")
        elif after_all:
            for number, stage in enumerate(trace.stages, 1):
                if stage.changed:
                    print(f"# after {stage.step} (pass {number} of {len(trace.stages)})\n{written(stage.after)}")
        else:
            print(written(trace.final if after is None else _after(trace, after)))


def _after(trace: Trace, name: str) -> Graph:
    found = [s.after for s in trace.stages if s.step.run.name == name]
    if not found:
        ran = list(dict.fromkeys(s.step.run.name for s in trace.stages))
        close = nearest(name, ran)
        what = f"did you mean {close}?" if close else f"the passes are: {', '.join(ran) or 'none; -O or -p run some'}"
        raise usage(f"no pass {name} runs here; {what}")
    return found[-1]


def _difference(stage: Stage) -> str:
    from .compiler.text import print_graph

    before, after = (print_graph(g).splitlines(keepends=True) for g in (stage.before, stage.after))
    lines = unified_diff(before, after, f"before {stage.step}", f"after {stage.step}", n=1)
    return "".join(lines)


def print_table(trace: Trace) -> None:
    """The passes, one a line."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, header_style="bold", pad_edge=False)
    for name, side in (
        ("pass", "left"),
        ("contract", "left"),
        ("nodes", "right"),
        ("after", "right"),
        ("time", "right"),
    ):
        shown.add_column(name, justify="right" if side == "right" else "left", no_wrap=True)
    for step, contract, before, after, seconds in trace.table():
        shown.add_row(step, contract, str(before), str(after), seconds)
    Console(width=140, highlight=False).print(shown)


@app.command()
def diff(
    first: Annotated[str, typer.Argument(metavar="FILE[:MODEL][@PASS]", help="A model, or a stage of its passes.")],
    second: Annotated[str, typer.Argument(metavar="FILE[:MODEL][@PASS]", help="What it is compared with.")],
    level: LevelOption = None,
    passes: PassesOption = None,
    bind: BindOption = [],  # noqa: B006
    form: FormatOption = Format.text,
    allow: AllowOption = None,
) -> None:
    """Say how two models differ: what was renamed or moved, changed, added and removed, and what it costs."""
    from .compiler.compare import compare

    with reporting(form):
        graphs = [_stage(text, level, passes, allow) for text in (first, second)]
        found = compare(graphs[0], graphs[1], bindings(bind))
        print(
            json.dumps(found.data(), indent=2) if form == Format.json else str(found),
            end="\n" if form == Format.json else "",
        )


def _stage(text: str, level: int | None, passes: str | None, allow: Path | None) -> Graph:
    """`FILE:MODEL@PASS` → the graph after that pass; `@start` is the model as written, no `@` its end."""
    where, _, name = text.partition("@")
    program, made = chosen(where, (), allow)
    if name == "start":
        return made.stages[0].before if made.stages else made.graph
    trace = traced(program, made, level, passes)
    return _after(trace, name) if name else trace.final


@app.command()
def explain(
    subject: Annotated[
        str, typer.Argument(metavar="PASS|NODE|axis", help="A pass or rule, a node of the model, or the word `axis`.")
    ],
    at: Annotated[
        str | None, typer.Argument(help="A node where a rule may apply; or an axis, such as conv1.weight[0].")
    ] = None,
    other: Annotated[str | None, typer.Argument(help="Another axis, to be told what ties the two.")] = None,
    of: Annotated[str | None, typer.Option(metavar="FILE[:MODEL]", help="The model that is asked about.")] = None,
    level: LevelOption = None,
    passes: PassesOption = None,
    allow: AllowOption = None,
) -> None:
    """Explain a pass; why a rule applies at a node or not; where a node comes from and what became of it; or of what
    dimensions an axis consists, what ties it to others, and why it is fixed."""
    from .compiler.explain import explain_node, explain_pass, explain_rule
    from .compiler.library import library

    with reporting(Format.text):
        if of is None:
            if subject not in library():
                close = nearest(subject, library())
                raise usage(f"there is no pass {subject}{f'; did you mean {close}?' if close else ''}"
                            " (a node, or a rule of a file, needs --of FILE:MODEL)")  # fmt: skip
            print(explain_pass(library()[subject]))
            return
        program, name = opened(of, (), allow)
        if at is None and name is None and subject in program.declared_passes():
            print(_explained(program, subject))
            return
        program, made = chosen(of, (), allow)
        if subject == "axis":
            from .compiler.axes import analyse, explain_axis

            if at is None:
                raise usage("say which axis: netc explain axis conv1.weight[0] --of FILE:MODEL")
            print(explain_axis(analyse(traced(program, made, level, passes).final), at, other))
        elif at is not None:
            rule = program.rule(subject)
            trace = traced(
                program, made, level, passes or ("strip_phase" if rule.phase == "infer" and level is None else None)
            )
            print(explain_rule(rule, trace.final, at))
        elif subject in program.passes():
            print(_explained(program, subject))
        else:
            print(explain_node(traced(program, made, level, passes), subject))


def _explained(program: Program, name: str) -> str:
    """A pass that a file can name: a pipeline by its steps."""
    from .compiler.explain import explain_pass

    if name in program.pipelines():
        return f"{name} = {program.described(name)}"
    return explain_pass(program.find_pass(name))


@app.command()
def axes(
    model: ModelArgument,
    everything: Annotated[bool, typer.Option("--all", help="Fixed dimensions one by one, too.")] = False,
    level: LevelOption = None,
    passes: PassesOption = None,
    form: FormatOption = Format.text,
    allow: AllowOption = None,
) -> None:
    """List the dimensions of a model: which axes are one, what may be cut, permuted or scaled, and in which units."""
    from .compiler.axes import analyse, data, table

    with reporting(form):
        program, made = chosen(model, (), allow)
        found = analyse(traced(program, made, level, passes).final)
        print(json.dumps(data(found), indent=2) if form == Format.json else table(found, everything=everything))


@app.command()
def bisect(
    model: ModelArgument,
    level: LevelOption = None,
    passes: PassesOption = None,
    tolerance: Annotated[float, typer.Option(min=0, help="The largest relative difference that is none.")] = 1e-9,
    seed: SeedOption = 0,
    allow: AllowOption = None,
) -> None:
    """Find the pass after which the model computes something else; exit code 1 where one is found."""
    from .compiler.bisect import bisect as halve
    from .compiler.contract import Contract
    from .compiler.measure import measure
    from .compiler.pipeline import run
    from .compiler.probe import probed

    with reporting(Format.text):
        program, made = chosen(model, (), allow)
        steps = chosen_steps(program, level, passes, seed)
        if not steps:
            raise usage("there are no passes to search: give -O or -p")
        trace = run(probed(made.graph, seed), steps, facts=made.facts)
        found = halve(trace, lambda a, b: measure(a, b, Contract(), seed=seed), tolerance)
        if found is None:
            print(f"no pass of {len(trace.stages)} makes a difference beyond {tolerance:g}")
            return
        number = trace.stages.index(found.stage) + 1
        print(f"pass {number} of {len(trace.stages)}, {found.stage.step}, makes the difference")
        after = found.after
        print(f"  relative difference before it {found.before:.2e}, after it {after.relative:.2e}, at {after.worst}")
        changed = sum(s.changed for s in trace.stages)
        print(f"  {found.compared} of the {changed} stages that changed something were compared")
        raise typer.Exit(1)


@app.command()
def report(
    model: Annotated[
        str, typer.Argument(metavar="FILE[:MODEL|PLAN]", help="A .net file and one of its models or plans.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The page, one self-contained .html file.")],
    level: LevelOption = None,
    passes: PassesOption = None,
    verify: VerifyOption = False,
    bind: BindOption = [],  # noqa: B006
    results: Annotated[
        Path | None, typer.Option(help="Of a family: its members.csv, or a JSON list; drawn over MACs.")
    ] = None,
    allow: AllowOption = None,
) -> None:
    """Write a page that shows the graph, every pass, the cost of every node and the line it comes from.

    Of a plan: its groups, on the graph and in a table, what each holds on chip and moves, and the roofline.
    Of a family, with `--results`: what each member reaches over what it costs.
    """
    from .compiler.files import written_whole
    from .compiler.report.html import page

    with reporting(Format.text):
        program, name = opened(model, (), allow)
        if name in program.families and results is None:
            fix = "give its results, --results members.csv, or ask about one member"
            raise usage(f"{name} is a family: {fix}, {model}[0]")
        if name in program.plans:
            if passes or level is not None or bind or results:
                raise usage(f"the plan {name} says itself what its model goes through: change it there")
            text = _plan_page(program, name, verify=verify)
        elif results is not None:
            from .compiler.report.curve import curve, series

            if name not in program.families:
                raise usage(f"--results are of a family, and {name or model} is none")
            text = curve(series(results), program.family(name).name)
        else:
            program, made = chosen(model, (), allow)
            text = page(traced(program, made, level, passes, verify), bindings(bind))
        with written_whole(output) as partial:
            partial.write_text(text, "utf-8")
        print(output)


def _plan_page(program: Program, name: str, *, verify: bool) -> str:
    from .compiler.fusion.decide import decide
    from .compiler.fusion.prepare import prepared
    from .compiler.fusion.summarise import summarise
    from .compiler.report.plan import plan_page

    plan = program.plan(name)
    trace = through(program.model(plan.model, plan.span), plan.passes(), verify=verify)
    show([d for d in program.diagnostics if d.severity == "warning"], Format.text)
    decision = decide(plan, prepared(plan, trace.final))
    return plan_page(summarise(decision), decision.workload, trace)


@app.command("passes")
def list_passes(
    file: Annotated[Path | None, typer.Argument(help="A .net file, whose rules and pipelines are listed too.")] = None,
) -> None:
    """List every pass with its contract, and what -O0 to -O3 run."""
    from .compiler.library import LEVELS, level_steps, library, rule_sets

    with reporting(Format.text):
        if file is not None:
            from .compiler.program import read

            for name in read(file).declared_passes():
                print(f"{name}  (of {file})")
        sets = {rule.name: name for name, rules in rule_sets().items() for rule in rules}
        for name, found in sorted(library().items(), key=lambda item: (sets.get(item[0], item[0]), item[0] in sets)):
            indent = "    " if name in sets else "  "
            print(f"{indent}{name:<{36 - len(indent)}}{found.contract!s:<16}{_summary(found.doc)}".rstrip())
        for level in LEVELS:
            print(f"-O{level}  {', '.join(map(str, level_steps(level)))}")


def _summary(text: str) -> str:
    """The first sentence, as far as a line holds it."""
    sentence = " ".join(text.split()).partition(". ")[0].rstrip(".")
    return sentence if len(sentence) <= 90 else f"{sentence[:89].rpartition(' ')[0]} …"
