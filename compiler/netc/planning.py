"""The command about plans, and how a plan is compiled."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .command import AllowOption, Format, FormatOption, opened, reporting, show, through
from .compiler.diagnostic import Diagnostic, Label, NetcError
from .compiler.quantity import sized

if TYPE_CHECKING:
    from .backends.relax.choice import Choices
    from .backends.relax.tuning.task import Source
    from .compiler.fusion.decide import Decision
    from .compiler.fusion.summary import Measured, Summary
    from .compiler.graph import Graph
    from .compiler.pipeline import Stage
    from .compiler.plan import Plan
    from .compiler.program import Program
    from .compiler.source import Span

app = typer.Typer()


@app.command("plan")
def show_plan(
    plan: Annotated[str, typer.Argument(metavar="FILE[:PLAN]", help="A .net file and one of its plans.")],
    paths: Annotated[bool, typer.Option("--paths", help="Name the nodes of each group.")] = False,
    form: FormatOption = Format.text,
    allow: AllowOption = None,
) -> None:
    """Say into which groups a plan puts the nodes of its model, what they hold on chip and move to and from DRAM beside
    the same nodes layer by layer, and whether the plan keeps within its limits.

    `auto(minimize = latency)` runs kernels on this machine, one and several for the same nodes in turns.

    Exit code 1 where a limit that can be known without running the model does not hold.
    """
    from .compiler.fusion.decide import decide
    from .compiler.fusion.prepare import prepared
    from .compiler.fusion.require import broken, known, misfits, unknowable
    from .compiler.fusion.summarise import summarise

    with reporting(form):
        program, name = opened(plan, (), allow)
        wanted = program.plan(name)
        made = program.model(wanted.model, wanted.span)
        show([d for d in program.diagnostics if d.severity == "warning"], Format.text)
        decision = decide(wanted, prepared(wanted, through(made, wanted.passes()).final))
        summary = summarise(decision)
        show([*_idle(decision), *_losing(summary)], Format.text)
        facts = known(summary, decision.graph)
        problems = [*misfits(wanted, summary, decision.workload), *broken(wanted, facts)]
        problems.extend(unknowable(wanted, summary, facts))
        if form == Format.json:
            told = {**summary.data(), "model": wanted.model, "facts": facts}
            print(json.dumps({**told, "diagnostics": [d.data() for d in problems]}, indent=2))
        else:
            _print(decision, summary, facts, paths)
            show(problems, form)
        if problems:
            raise typer.Exit(1)


def check_plan(program: Program, plan: Plan) -> None:
    """That the groups which a plan's lines ask for can be executed; what a planner would find is left out.

    Raises:
        NetcError: where they cannot, or the model cannot go through the plan's passes.
    """
    from .compiler.fusion.decide import declared
    from .compiler.fusion.prepare import prepared

    if plan.fuse:
        declared(plan, prepared(plan, through(program.model(plan.model, plan.span), plan.passes()).final))


def _idle(decision: Decision) -> list[Diagnostic]:
    """Warnings about patterns that no node was left for."""
    from .compiler.fusion.resolve import why_unmet
    from .compiler.plan import PatternLine

    met = {group.origin for group in decision.groups}
    idle = [line for line in decision.plan.fuse if isinstance(line, PatternLine) and line.span not in met]
    message, work = "no node is in a group by this pattern", decision.workload.work
    return [
        Diagnostic("idle-pattern", message, (Label(line.span),), (why_unmet(work, line),), severity="warning")
        for line in idle
    ]


def _losing(summary: Summary) -> Iterator[Diagnostic]:
    """Warnings about groups that the plan names and that move more than their nodes alone."""
    for share in summary.shares:
        if share.group.origin is not None and share.cost is not None and share.before is not None:
            moved = share.cost.usage.dram
            if share.maker == "the plan" and moved > share.before:
                message = (
                    f"the group {share.group.name} moves {sized(moved)}, and its nodes alone {sized(share.before)}"
                )
                note = "what does not stay on chip is read, or computed, again in every step"
                yield Diagnostic(
                    "losing-group", message, (Label(share.group.origin),), (note,), "fewer nodes", severity="warning"
                )


def _unpaid(plan: Plan) -> Iterator[Diagnostic]:
    """A warning where a plan's half precision makes no layer faster."""
    from .backends.relax.half import unpaid

    message = None if plan.dtype is None or not plan.target.compiles else unpaid(plan.target, plan.dtype)
    if message is not None:
        note = "two numbers of bf16 are multiplied at a time where there is AVX-512 BF16, as on Zen 4"
        labels = (Label(plan.places["dtype"]),)
        yield Diagnostic("no-gain", message, labels, (note,), "leave out `dtype`", severity="warning")


def _print(decision: Decision, summary: Summary, facts: dict[str, float], paths: bool) -> None:
    from .compiler.fusion.require import MEASURED, bound, open_limits, shown

    plan, groups = decision.plan, decision.groups
    print(f"{plan.name}: {plan.model} on {plan.target_name} = {plan.target}")
    print(f"passes: {', '.join(str(step) for step in plan.passes())}")
    print(f"{sum(len(g.nodes) for g in groups)} nodes in {len(groups)} group{'s' * (len(groups) > 1)}")
    _print_groups(decision, summary)
    for group in groups if paths else ():
        print(f"{group.name}: {', '.join(group.nodes)}")
    for line in _totals(summary):
        print(line)
    for line in _measurements(decision):
        print(line)
    if plan.target.compiles and not plan.fuse:
        print("no line says `fuse`: where the plan is compiled, TVM joins nodes into kernels by its own patterns")
    for requirement in plan.requirements:
        if requirement.name in facts:
            found = shown(requirement.name, facts[requirement.name])
            least = "at least " if bound(plan, requirement.name) else ""
            print(f"{requirement.name}: {least}{found}, of {shown(requirement.name, requirement.most)} at most")
    left = [name for name in open_limits(plan, facts) if name in MEASURED]
    if left and plan.target.compiles:
        print(f"{', '.join(left)}: measured when it is compiled, netc compile {plan.span.source.name}:{plan.name}")


def _print_groups(decision: Decision, summary: Summary) -> None:
    from rich.console import Console
    from rich.table import Table

    rows: list[dict[str, str]] = []
    for share in summary.shares:
        operators = [decision.graph.nodes[path].op.name for path in share.group.nodes]
        row = {"group": share.group.name, "by": share.maker, "nodes": str(len(operators)), "on chip": "does not fit"}
        row["DRAM alone"] = "" if share.before is None else sized(share.before)
        row |= {"DRAM": "", "ops/byte": "", "how": share.kernel}
        if share.cost is not None:
            schedule, usage = share.cost
            row |= {"on chip": sized(usage.buffer), "DRAM": sized(usage.dram), "ops/byte": f"{usage.intensity:.1f}"}
            row["how"] = ", ".join(filter(None, (share.kernel, str(schedule))))
        row["what"] = shortened(operators)
        rows.append(row)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in rows[0] if rows else ():
        left = name in ("group", "by", "how", "what")
        # Where a terminal is narrow the last column gives way, never a number.
        least = None if name == "what" else max(len(name), *(len(row[name]) for row in rows))
        table.add_column(name, justify="left" if left else "right", no_wrap=True, min_width=least)
    for row in rows:
        table.add_row(*row.values())
    width = None if sys.stdout.isatty() else 160
    Console(width=width, highlight=False).print(table)


def shortened(operators: Sequence[str], most: int = 6) -> str:
    """`conv2d relu6 conv2d`, those beyond `most` as a count."""
    rest = f" and {len(operators) - most} more" if len(operators) > most + 1 else ""
    return " ".join(operators[: most if rest else None]) + rest


def _measurements(decision: Decision) -> Iterator[str]:
    """What was run, groups that are like each other on one line."""
    like: dict[tuple[float, float, bool, str], list[Measured]] = {}
    for one in decision.measured:
        like.setdefault((one.fused, one.unfused, one.chosen, one.reason), []).append(one)
    for first, *others in like.values():
        yield f"{'joined' if first.chosen else 'apart'}: {first}" + (f", and {len(others)} like it" if others else "")


def _totals(summary: Summary) -> Iterator[str]:
    """What the whole plan holds and moves."""
    if summary.machine.buffer is not None:
        yield f"on chip: {sized(summary.buffer)} at most, of {sized(summary.machine.buffer)}"
    if summary.after is not None and summary.machine.buffer is not None:
        before = summary.before
        share = (
            f"{100 * abs(1 - summary.after / before):.0f} % {'more' if summary.after > before else 'less'}"
            if before
            else ""
        )
        saved = f", {sized(before)} layer by layer ({share})" if before else ""
        bound = f"; no plan moves less than {sized(summary.bound)}" if summary.bound else ""
        gap = f" ({100 * summary.gap:.1f} % above it)" if summary.gap else ""
        yield f"DRAM: {sized(summary.after)} in one run{saved}{bound}{gap}"
    if summary.seconds is not None:
        yield f"at least {1e3 * summary.seconds:.3g} ms"
    if summary.notes:
        yield f"the planner: {', '.join(summary.notes)}"


def plan_source(program: Program, plan: Plan) -> Source:
    """What to tune for a plan: its graph, and its groups.

    Raises:
        NetcError: where there are none.
    """
    from .backends.relax.tuning.task import Source
    from .compiler.fusion.decide import decide
    from .compiler.fusion.prepare import prepared

    _compilable(plan)
    graph = prepared(plan, through(program.model(plan.model, plan.span), plan.passes()).final)
    return Source(graph, decide(plan, graph).groups if plan.fuse else None)


def _compilable(plan: Plan) -> None:
    if not plan.target.compiles:
        message = f"{plan.target_name} is an {plan.target.kind}, a model of costs: nothing can be compiled for it"
        fix = f"netc plan {plan.span.source.name}:{plan.name}"
        raise NetcError([Diagnostic("unsupported-target", message, (Label(plan.span),), fix=fix)])


def compile_plan(
    program: Program,
    plan: Plan,
    output: Path,
    *,
    seed: int,
    compare: bool,
    verify: bool,
    choices: Callable[[Source], Choices | None] | None = None,
) -> None:
    """Compile a model as a plan says, and check what the plan requires of the artifact.

    `choices` says who answers what its kernels leave open; analytic defaults do without it.

    Raises:
        NetcError: where it cannot be compiled, and with every limit that does not hold.
    """
    from .backends.relax.tuning.task import Source
    from .compiler.backend import backend
    from .compiler.fusion.decide import decide
    from .compiler.fusion.prepare import prepared
    from .compiler.fusion.require import broken, known, open_limits, unknowable
    from .compiler.fusion.summarise import summarise
    from .compiler.passes.bind import bind

    _compilable(plan)
    made = program.model(plan.model, plan.span)
    tvm, sizes = backend("tvm"), plan.sizes(made.graph)
    required = {r.name for r in plan.requirements}
    compare = compare or "difference" in required
    reference = backend("pytorch").Reference(bind(made.graph, sizes), seed) if compare else None
    trace = through(made, plan.passes(), verify=verify, seed=seed)
    final = trace.final if not verify else through(made, plan.passes(), seed=seed).final
    decision = decide(plan, prepared(plan, final))
    summary = summarise(decision)
    show([*_idle(decision), *_losing(summary), *_unpaid(plan)], Format.text)
    facts = known(summary, decision.graph)
    if never := list(unknowable(plan, summary, facts)):
        raise NetcError(never)
    groups = decision.groups if plan.fuse else None
    chosen = None if choices is None else choices(Source(decision.graph, groups))
    artifact = tvm.compile(
        final, plan.target, output, bind=sizes, seed=seed, reference=reference, tolerance=tolerance(trace.stages),
        spec_hash=made.spec_hash, passes=[s.data() for s in trace.stages],
        groups=groups, choices=chosen,
    )  # fmt: skip
    manifest = json.loads((output / "manifest.json").read_text())
    print(f"{plan.name}: {plan.model} for {plan.target}: {len(manifest['kernels'])} kernels in {output}")
    for line in _measurements(decision):
        print(line)
    if manifest["difference"] is not None:
        facts["difference"] = manifest["difference"]["relative"]
        print(f"largest difference to PyTorch: {facts['difference']:.2e} relative")
        allowed = min(
            [manifest["difference"]["allowed"], *(r.most for r in plan.requirements if r.name == "difference")]
        )
        fix = f"plan {plan.name} for a model with weights: {plan.model} |> load(…)"
        show(blind(reference, decision.graph, allowed, fix, plan.span), Format.text)
    if artifact is not None and "latency" in required:
        inputs = tvm.probe({name: node.types[0] for name, node in decision.graph.inputs.items()})
        facts["latency"] = artifact.latency(inputs).median
        print(f"latency: {1e3 * facts['latency']:.3g} ms, the median of 20 runs")
    problems = [*broken(plan, facts), *(_unknown(plan, name, manifest) for name in open_limits(plan, facts))]
    if problems:
        raise NetcError(problems)


def tolerance(stages: Iterable[Stage]) -> float:
    """How far passes say that they may take a model from its meaning."""
    return max((stage.step.run.contract.tolerance or 0 for stage in stages), default=0)


def blind(reference: Any, graph: Graph, allowed: float, fix: str | None, span: Span | None = None) -> list[Diagnostic]:
    """A warning where outputs depend on inputs by no more than they may differ, as they do in deep models of fresh
    weights: wrong kernels would not be noticed."""
    from .compiler.backend import backend

    types = {name: node.types[0] for name, node in graph.inputs.items()}
    if not types:
        return []
    one, other = ([a.astype("f8") for a in reference(backend("tvm").probe(types, seed))] for seed in (0, 1))
    scales = [max(float(abs(a).max(initial=0)), 1e-30) for a in one]
    reaction = max(float(abs(a - b).max(initial=0)) / scale for a, b, scale in zip(one, other, scales, strict=True))
    if reaction > allowed:
        return []
    message = f"with these weights outputs change by {reaction:.2e} from one input to another"
    notes = ("the comparison with PyTorch would not notice a wrong kernel",)
    labels = () if span is None else (Label(span),)
    return [Diagnostic("weak-check", message, labels, notes, fix, severity="warning")]


def _unknown(plan: Plan, name: str, manifest: dict[str, Any]) -> Diagnostic:
    """A limit that cannot be checked here."""
    labels = tuple(Label(r.span) for r in plan.requirements if r.name == name)
    triple = manifest["processor"]["triple"]
    why = f"it is built for {triple}, and does not run here"
    return Diagnostic("requirement", f"{name} cannot be checked: {why}", labels)
