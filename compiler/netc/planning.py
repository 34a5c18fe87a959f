"""The command about plans, and how a plan is compiled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .command import AllowOption, Format, FormatOption, opened, reporting, show, through
from .compiler.diagnostic import Diagnostic, Label, NetcError

if TYPE_CHECKING:
    from .compiler.fusion.decide import Decision
    from .compiler.plan import Plan
    from .compiler.program import Program

app = typer.Typer()

TOLERANCE = 1e-3
"""The largest relative difference to PyTorch of a plan whose passes promise no larger one."""


@app.command("plan")
def show_plan(
    plan: Annotated[str, typer.Argument(metavar="FILE[:PLAN]", help="A .net file and one of its plans.")],
    form: FormatOption = Format.text,
    allow: AllowOption = None,
) -> None:
    """Say into which groups a plan puts the nodes of its model, and whether it keeps within its limits.

    Exit code 1 where a limit that can be known without running the model does not hold.
    """
    from .compiler.fusion.decide import decide
    from .compiler.fusion.prepare import prepared
    from .compiler.fusion.require import broken, counted

    with reporting(form):
        program, name = opened(plan, (), allow)
        wanted = program.plan(name)
        made = program.model(wanted.model)
        show([d for d in program.diagnostics if d.severity == "warning"], Format.text)
        decision = decide(wanted, prepared(wanted, through(made, wanted.passes()).final))
        show(_idle(decision), Format.text)
        facts = {**counted(decision.graph), **decision.facts}
        problems = list(broken(wanted, facts))
        if form == Format.json:
            print(json.dumps({**_data(decision, facts), "diagnostics": [d.data() for d in problems]}, indent=2))
        else:
            _print(decision, facts)
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
        declared(plan, prepared(plan, through(program.model(plan.model), plan.passes()).final))


def _idle(decision: Decision) -> list[Diagnostic]:
    """Warnings about patterns that no node was left for."""
    from .compiler.plan import PatternLine

    met = {group.origin for group in decision.groups}
    idle = [line.span for line in decision.plan.fuse if isinstance(line, PatternLine) and line.span not in met]
    note = "earlier lines take nodes first, and only groups that can be executed are taken"
    return [
        Diagnostic("idle-pattern", "no node is in a group by this pattern", (Label(s),), (note,), severity="warning")
        for s in idle
    ]


def _data(decision: Decision, facts: dict[str, float]) -> dict[str, Any]:
    plan = decision.plan
    groups = [{"name": g.name, "maker": decision.makers[g.name], "nodes": list(g.nodes)} for g in decision.groups]
    return {"plan": plan.name, "model": plan.model, "target": plan.target.data(), "groups": groups, "facts": facts}


def _print(decision: Decision, facts: dict[str, float]) -> None:
    from .compiler.fusion.require import open_limits, shown

    plan, groups = decision.plan, decision.groups
    print(f"{plan.name}: {plan.model} on {plan.target_name} = {plan.target}")
    print(f"passes: {', '.join(str(step) for step in plan.passes())}")
    print(f"{sum(len(g.nodes) for g in groups)} nodes in {len(groups)} groups")
    width = max((len(g.name) for g in groups), default=0)
    by = max((len(maker) for maker in decision.makers.values()), default=0)
    for group in groups:
        print(f"  {group.name:<{width}}  {decision.makers[group.name]:<{by}}  {', '.join(group.nodes)}")
    for requirement in plan.requirements:
        if requirement.name in facts:
            found = shown(requirement.name, facts[requirement.name])
            print(f"{requirement.name}: {found}, of {shown(requirement.name, requirement.most)} at most")
    left = open_limits(plan, facts)
    if left and plan.target.compiles:
        print(f"{', '.join(left)}: measured when it is compiled, netc compile {plan.span.source.name}:{plan.name}")
    elif left:
        print(f"{', '.join(left)}: not known of {plan.target.kind}")


def compile_plan(program: Program, plan: Plan, output: Path, *, seed: int, compare: bool, verify: bool) -> None:
    """Compile a model as a plan says, and check what the plan requires of the artifact.

    Raises:
        NetcError: where it cannot be compiled, and with every limit that does not hold.
    """
    from .compiler.backend import backend
    from .compiler.fusion.decide import decide
    from .compiler.fusion.prepare import prepared
    from .compiler.fusion.require import broken, counted, open_limits
    from .compiler.passes.bind import bind

    if not plan.target.compiles:
        message = f"{plan.target_name} is an {plan.target.kind}, a model of costs: nothing can be compiled for it"
        fix = f"netc plan {plan.span.source.name}:{plan.name}"
        raise NetcError([Diagnostic("unsupported-target", message, (Label(plan.span),), fix=fix)])
    made = program.model(plan.model)
    tvm, sizes = backend("tvm"), plan.sizes(made.graph)
    required = {r.name for r in plan.requirements}
    compare = compare or "difference" in required
    reference = backend("pytorch").Reference(bind(made.graph, sizes), seed) if compare else None
    trace = through(made, plan.passes(), verify=verify, seed=seed)
    final = trace.final if not verify else through(made, plan.passes(), seed=seed).final
    decision = decide(plan, prepared(plan, final))
    show(_idle(decision), Format.text)
    tolerance = max(TOLERANCE, *(s.step.run.contract.tolerance or 0 for s in trace.stages))
    artifact = tvm.compile(
        final, plan.target, output, bind=sizes, seed=seed, reference=reference, tolerance=tolerance,
        spec_hash=made.spec_hash, passes=[s.data() for s in trace.stages],
        groups=decision.groups if plan.fuse else None,
    )  # fmt: skip
    manifest = json.loads((output / "manifest.json").read_text())
    print(f"{plan.name}: {plan.model} for {plan.target}: {len(manifest['kernels'])} kernels in {output}")
    facts = {**counted(decision.graph), **decision.facts}
    if manifest["difference"] is not None:
        facts["difference"] = manifest["difference"]["relative"]
        print(f"largest difference to PyTorch: {facts['difference']:.2e} relative")
    if artifact is not None and "latency" in required:
        inputs = tvm.probe({name: node.types[0] for name, node in decision.graph.inputs.items()})
        facts["latency"] = artifact.latency(inputs).median
        print(f"latency: {1e3 * facts['latency']:.3g} ms, the median of 20 runs")
    problems = [*broken(plan, facts), *(_unknown(plan, name, manifest) for name in open_limits(plan, facts))]
    if problems:
        raise NetcError(problems)


def _unknown(plan: Plan, name: str, manifest: dict[str, Any]) -> Diagnostic:
    """A limit that cannot be checked here."""
    labels = tuple(Label(r.span) for r in plan.requirements if r.name == name)
    triple = manifest["processor"]["triple"]
    why = f"it is built for {triple}, and does not run here" if name in ("latency", "difference") else "it is unknown"
    return Diagnostic("requirement", f"{name} cannot be checked: {why}", labels)
