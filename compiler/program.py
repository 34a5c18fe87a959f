"""A `.net` file and what it imports: its modules, models, targets, rename maps and expectations, computed on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from . import tree as t
from .budget import Budget
from .diagnostic import Diagnostic, Diagnostics, Label, NetcError, nearest, too_deep
from .elaboration.elaborate import Elaborator, Fault
from .family import Family
from .graph import Graph
from .importer import Pending, read_file, read_imports
from .library import library, rule_pass, rule_sets
from .locate import locate
from .model import Model
from .names import least_instances
from .options import read_options
from .passes.register import PASSES, Pass
from .pipeline import Step, read_steps, run
from .plan import Known, Plan, read_plan
from .rename import RenameMap
from .rewrite.pattern import Rule
from .rewrite.read import read_rule
from .scope import FileScope
from .source import Source, Span
from .syntax import parse_expression
from .target import LLVM, Target, read_target
from .text import read_graph
from .value import Given, describe
from .weights import load, open_checkpoint

if TYPE_CHECKING:
    from .calibration import Calibration


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a spec says about one of its models: numbers by key, each with its place."""

    model: str
    bind: Mapping[str, int]
    entries: Mapping[str, Given]
    span: Span


@dataclass(eq=False)
class Program:
    """A loaded file. Reading it has checked syntax, imports and names; models are elaborated when asked for."""

    scope: FileScope
    diagnostics: Diagnostics
    budget: Budget
    root: Path
    _files: dict[Path, FileScope] = field(default_factory=dict[Path, FileScope])

    @property
    def source(self) -> Source:
        return self.scope.source

    @property
    def models(self) -> list[str]:
        """The names of the models this file declares, in order."""
        kinds = (t.Model, t.GraphText)
        return [d.name.text for d in self.scope.tree.declarations if isinstance(d, kinds)]

    @property
    def families(self) -> list[str]:
        """The names of the families this file declares, in order."""
        return [d.name.text for d in self.scope.tree.declarations if isinstance(d, t.Family)]

    @property
    def targets(self) -> dict[str, Target]:
        """The targets this file declares.

        Raises:
            NetcError: where one is not a valid target.
        """
        found = [d for d in self.scope.tree.declarations if isinstance(d, t.Target)]
        return {d.name.text: self._declared(self.scope, d.name.text) for d in found}

    @property
    def plans(self) -> list[str]:
        """The names of the plans this file declares, in order."""
        return [d.name.text for d in self.scope.tree.declarations if isinstance(d, t.Plan)]

    @property
    def spec_hash(self) -> str:
        """SHA-256 over the texts of this file and its imports: what was compiled, for manifests."""
        digest = hashlib.sha256()
        for scope in (self.scope, *(s for s in self._files.values() if s is not self.scope)):
            digest.update(scope.source.text.encode() + b"\0")
        return digest.hexdigest()

    def model(self, name: str | None = None, asked: Span | None = None) -> Model:
        """A model by name; without a name the file's only one. `snn[3]` is a member of a family. `asked` is the place
        that asks for it, where a spec does.

        Raises:
            NetcError: with everything that is wrong with it.
        """
        if name is None:
            name = self._only()
        families = _names(self.scope, t.Family)
        if name.endswith("]") and name.partition("[")[0] in families:
            family, _, number = name[:-1].partition("[")
            return self._member(self.family(family), number, asked)
        if name in families:
            family, fix = self.family(name), f"{self.source.name}:{name}[0]"
            message = f"{name} is a family of {family.count} models"
            raise NetcError([Diagnostic("unknown-model", message, notes=("say which member is meant",), fix=fix)])
        if name not in self.models and not isinstance(self.scope.names.get(name), Pending):
            close = nearest(name, self.models)
            notes = (f"it declares: {', '.join(self.models) or 'no models'}",)
            raise NetcError([Diagnostic("unknown-model", f"{self.source.name} has no model {name}", (), notes, close)])
        before = len(self.diagnostics)
        try:
            value = self._resolve(self.scope, name, Span(self.source, 0, 0))
        except Fault as fault:
            if fault.diagnostic is not None:
                self.diagnostics.add(fault.diagnostic)
            raise NetcError([d for d in self.diagnostics if d.severity == "error"]) from None
        new = list(self.diagnostics)[before:]
        if any(d.severity == "error" for d in new) or not isinstance(value, Model):
            problems = new or [self._no_model(name, value)]
            raise NetcError(problems)
        return value

    def family(self, name: str) -> Family:
        """A family of models by name.

        Raises:
            NetcError: with everything that is wrong with it.
        """
        if name not in _names(self.scope, t.Family):
            close = nearest(name, self.families)
            notes = (f"it declares: {', '.join(self.families) or 'no families'}",)
            raise NetcError(
                [Diagnostic("unknown-family", f"{self.source.name} has no family {name}", (), notes, close)]
            )
        found = self._declared(self.scope, name)
        assert isinstance(found, Family)
        return found

    def _member(self, family: Family, number: Any, span: Span | None) -> Model:
        labels = (Label(span),) if span is not None else ()
        if isinstance(number, str):
            number = number.strip("\"'")
            number = int(number) if number.isdecimal() else number
        if isinstance(number, str) and number in family.anchors:
            number = family.anchors[number]
        if not isinstance(number, int) or not 0 <= number < family.count:
            message = f"{family.name} has the members 0 to {family.count - 1}, not {number}"
            notes = (f"whole models are {', '.join(family.anchors)}",) if family.anchors else ()
            close = nearest(str(number), family.anchors)
            raise NetcError([Diagnostic("unknown-member", message, labels, notes, close)])
        graph = replace(family.member(number), name=f"{family.name}_{number}")
        return Model(graph.name, graph, family.reports, spec_hash=self.spec_hash)

    def _no_model(self, name: str, value: Any) -> Diagnostic:
        place = self.scope.declared.get(name)
        labels = (Label(place),) if place is not None else ()
        if isinstance(value, Plan):
            fix = f"{value.model}, or netc plan {self.source.name}:{name}"
            return Diagnostic("unknown-model", f"{name} is a plan for {value.model}, not a model", labels, fix=fix)
        fix = f"model {name} = Module(…) (x: f32[N, 3, 224, 224])"
        return Diagnostic("unknown-model", f"{name} is {describe(value)}, not a model", labels, fix=fix)

    def _only(self) -> str:
        if len(self.models) == 1:
            return self.models[0]
        notes = (f"it declares: {', '.join(self.models) or 'no models'}",)
        fix = f"{self.source.name}:{self.models[0]}" if self.models else None
        raise NetcError(
            [Diagnostic("unknown-model", f"say which model of {self.source.name} is meant", (), notes, fix)]
        )

    def check(self) -> list[Diagnostic]:
        """Elaborate every model and target and prove every rule; returns all messages. Expected numbers are compared
        elsewhere."""
        for name, find in [*((n, self.model) for n in self.models), *((n, self.family) for n in self.families)]:
            try:
                find(name)
            except NetcError as error:
                self.diagnostics.extend(d for d in error.diagnostics if d not in self.diagnostics)
        for declaration in self.scope.tree.declarations:
            try:
                if isinstance(declaration, (t.Rewrite, t.Pipeline, t.Target, t.Plan)):
                    self._declared(self.scope, declaration.name.text)
            except NetcError as error:
                self.diagnostics.extend(d for d in error.diagnostics if d not in self.diagnostics)
        return list(self.diagnostics)

    def expectations(self) -> list[Expectation]:
        """The file's `expect` blocks, evaluated."""
        found: list[Expectation] = []
        for declaration in self.scope.tree.declarations:
            if isinstance(declaration, t.Expect):
                found.append(self._expectation(declaration))
        return found

    def _expectation(self, declaration: t.Expect) -> Expectation:
        if declaration.name.text not in self.models:
            close = nearest(declaration.name.text, self.models)
            message = f"there is no model {declaration.name.text} in this file"
            raise NetcError([Diagnostic("unknown-model", message, (Label(declaration.name.span),), fix=close)])
        bind = {a.name.text: self._constant(a.value) for a in declaration.arguments if a.name is not None}
        entries = {name.text: Given(self._constant(value), value.span) for name, value in declaration.entries}
        return Expectation(declaration.name.text, bind, entries, declaration.span)

    def target(self, name: str | None = None) -> Target:
        """A declared target by name; without a name the only one that code is generated for, or this machine where none
        is declared.

        Raises:
            NetcError: where there is no such target.
        """
        declared = self.targets
        able = [target for target in declared.values() if target.compiles]
        if name is None and len(able) <= 1:
            return able[0] if able else LLVM()
        if name is None or name not in declared:
            message = (
                f"{self.source.name} has no target {name}"
                if name
                else f"say which target of {self.source.name} is meant"
            )
            close = nearest(name or "", declared) or next(iter(declared), None)
            raise NetcError(
                [Diagnostic("unknown-target", message, (), (f"it declares: {', '.join(declared) or 'none'}",), close)]
            )
        return declared[name]

    def plan(self, name: str | None = None) -> Plan:
        """A plan by name; without a name the file's only one.

        Raises:
            NetcError: with everything that is wrong with it.
        """
        known = self.plans
        if name is None and len(known) == 1:
            name = known[0]
        if name is None or name not in known:
            message = (
                f"{self.source.name} has no plan {name}" if name else f"say which plan of {self.source.name} is meant"
            )
            close = nearest(name or "", known) or (f"{self.source.name}:{known[0]}" if known else None)
            notes = (f"it declares: {', '.join(known) or 'no plans'}",)
            raise NetcError([Diagnostic("unknown-plan", message, (), notes, close)])
        return self._declared(self.scope, name)

    def _plan(self, scope: FileScope, declaration: t.Plan) -> Plan:
        from .fusion.planner import PLANNERS  # most files have no plans
        from .fusion.work import MOVES

        def target(name: t.Identifier) -> Target:
            known = _names(scope, t.Target)
            if name.text not in known:
                message = f"there is no target {name.text}"
                notes = (f"targets here: {', '.join(known) or 'none'}",)
                close = nearest(name.text, known) or (None if known else 'target here = llvm(cpu = "native")')
                raise NetcError([Diagnostic("unknown-target", message, (Label(name.span),), notes, close)])
            return self._declared(scope, name.text, name.span)

        known = Known(
            target,
            lambda e: self._planned(scope, e),
            lambda e: self._constant(e, scope),
            lambda e: self._steps(scope, e),
            {name: planner.options for name, planner in PLANNERS.items()},
            MOVES,
        )
        return read_plan(declaration, known)

    def _planned(self, scope: FileScope, e: t.Expr) -> str:
        """The model that a plan is for, as it is asked for by name; that there is one is checked."""
        base = e.value if isinstance(e, t.Index) else e
        assert isinstance(base, t.Name)
        known = _names(scope, t.Model, t.GraphText)
        families = _names(scope, t.Family)
        if base.text not in (*known, *families):
            message = f"there is no model {base.text}"
            notes = (f"models here: {', '.join([*known, *families]) or 'none'}",)
            close = nearest(base.text, [*known, *families])
            raise NetcError([Diagnostic("unknown-model", message, (Label(base.span),), notes, close)])
        if isinstance(e, t.Index) and base.text in known:
            message = f"{base.text} is a model, and has no members"
            raise NetcError([Diagnostic("unknown-member", message, (Label(e.span),), fix=base.text)])
        if isinstance(e, t.Name) and base.text in families:
            message = f"{base.text} is a family: a plan is for one of its members"
            raise NetcError([Diagnostic("unknown-model", message, (Label(base.span),), fix=f"{base.text}[0]")])
        if not isinstance(e, t.Index):
            return base.text
        member = e.items[0]
        return f"{base.text}[{member.value if isinstance(member, t.Number) else member.span.text}]"

    def _constant(self, expression: t.Expr, scope: FileScope | None = None) -> Any:
        """Evaluate a compile-time expression of this file, or of another one."""
        report = Diagnostics()
        try:
            return Elaborator(report, self.budget, self._resolve).constant(scope or self.scope, expression)
        except Fault as fault:
            raise NetcError([*report, *([fault.diagnostic] if fault.diagnostic else [])]) from None
        except RecursionError:
            raise NetcError([too_deep(expression.span)]) from None

    # ------------------------------------------------------------------------------------------------ declarations

    def _resolve(self, scope: FileScope, name: str, span: Span) -> Any:
        """The value of a file-level name."""
        value = scope.names[name]
        if not isinstance(value, Pending):
            return value
        if value.state == "running":
            raise Fault(Diagnostic("cycle", f"{name} is defined by itself", (Label(span),)))
        if value.state == "failed" and isinstance(value.declaration, t.Target):
            value.state = "new"  # a target is asked for from several places, each of which says what is wrong with it
        if value.state == "failed":
            raise Fault()
        if value.state == "new":
            value.state = "running"
            try:
                value.value = self._compute(value, name)
                value.state = "done"
            except RecursionError:
                raise Fault(too_deep(value.declaration.span)) from None
            finally:
                if value.state == "running":
                    value.state = "failed"
        return value.value

    def _compute(self, pending: Pending, name: str) -> Any:
        declaration = pending.declaration
        if isinstance(declaration, (t.Rewrite, t.Pipeline)) and declaration.name.text in (*PASSES, *rule_sets()):
            message = f"{declaration.name.text} is a pass of the compiler"
            label = Label(declaration.name.span)
            raise NetcError([Diagnostic("duplicate-name", message, (label,), fix="give it another name")])
        if isinstance(declaration, t.GraphText):
            return Model(name, read_graph(declaration), spec_hash=self.spec_hash)
        if isinstance(declaration, t.Rewrite):
            from .rewrite.check import check_rule_set  # most files have no rules to check

            rule = read_rule(pending.home, declaration, self._resolve)
            check_rule_set([rule])
            return rule
        if isinstance(declaration, t.Pipeline):
            return self._steps(pending.home, declaration.steps)
        if isinstance(declaration, t.Data):
            return self._data(pending.home, declaration)
        if isinstance(declaration, t.Target):
            return read_target(declaration, lambda e: self._constant(e, pending.home))
        if isinstance(declaration, t.Plan):
            return self._plan(pending.home, declaration)
        value = self._value(pending.home, declaration.value, name)
        if isinstance(value, Model) and value.name != name:
            value = replace(value, name=name, graph=replace(value.graph, name=name))
        wanted = Family if isinstance(declaration, t.Family) else Model if isinstance(declaration, t.Model) else None
        if wanted and not isinstance(value, wanted):
            kind = "model" if wanted is Model else "family"
            fix = f"model {name} = {name}[0], or family {name} = …" if isinstance(value, Family) else None
            message = f"{name} is {describe(value)}, not a {kind}"
            raise Fault(Diagnostic(f"unknown-{kind}", message, (Label(declaration.value.span),), fix=fix))
        return value

    def _value(self, scope: FileScope, e: t.Expr, name: str) -> Any:
        """A top-level value: a model, however it is made, or a compile-time value."""
        if isinstance(e, t.Applied):
            return self._model(scope, e, name)
        if isinstance(e, t.Call) and self._is_transform(scope, e.function):
            return self._invoked(scope, None, e, name)
        if isinstance(e, t.Index) and len(e.items) == 1:
            family = self._family_before(scope, e.value, name)
            if family is not None:
                made = self._member(family, self._value(scope, cast(t.Expr, e.items[0]), name), e.span)
                return replace(made, name=name, graph=replace(made.graph, name=name))
        if isinstance(e, t.Pipe):
            source = self._value(scope, e.value, name)
            if isinstance(source, Family):
                return self._tuned(scope, source, e.stage, name)
            if isinstance(source, Model):
                return self._transformed(scope, source, e.stage, name)
            raise Fault(
                Diagnostic(
                    "pipe",
                    f"at file level `|>` sends a model through transforms, not {describe(source)}",
                    (Label(e.value.span),),
                )
            )
        report = Diagnostics()
        elaborator = Elaborator(report, self.budget, self._resolve)
        try:
            return elaborator.constant(scope, e)
        finally:
            self.diagnostics.extend(report)

    def _model(self, scope: FileScope, e: t.Applied, name: str) -> Model:
        function = e.function.function if isinstance(e.function, t.Call) else e.function
        if isinstance(function, t.Name):
            least = least_instances(scope, function.text)
            if least > self.budget.instances:
                many = str(least) if least < 10**9 else f"10**{len(str(least)) - 1} or more"
                raise Fault(
                    Diagnostic(
                        "budget",
                        f"{name} would have at least {many} module instances: the limit is {self.budget.instances}",
                        (Label(e.span),),
                        fix="make the model smaller, or raise the limit: --budget instances=…",
                    )
                )
        report = Diagnostics()
        graph = Elaborator(report, self.budget, self._resolve).model(name, scope, e)
        self.diagnostics.extend(report)
        if graph is None:
            raise Fault()
        return Model(name, graph, spec_hash=self.spec_hash)

    def _transformed(self, scope: FileScope, model: Model, stage: t.Expr, name: str) -> Model | Family:
        function = stage.function if isinstance(stage, t.Call) else stage
        arguments = stage.arguments if isinstance(stage, t.Call) else ()
        if isinstance(function, t.Name) and function.text == "load":
            return self._load(scope, model, arguments, stage.span, name)
        if self._is_transform(scope, function):
            return self._invoked(scope, model, stage, name)
        try:
            trace = run(model.graph, self._steps(scope, stage, transforms=True), facts=model.facts)
        except NetcError as error:
            self.diagnostics.extend(error.diagnostics)
            raise Fault() from None
        stages = (*model.stages, *trace.stages)
        return replace(model, name=name, graph=replace(trace.final, name=name), facts=trace.facts, stages=stages)

    # ------------------------------------------------------------------------------------------------ transforms

    def _named(self, scope: FileScope, name: t.Name) -> Any:
        """What a file-level name stands for; None where there is none."""
        return self._resolve(scope, name.text, name.span) if name.text in scope.names else None

    def _family_before(self, scope: FileScope, e: t.Expr, name: str) -> Family | None:
        """The family that an index stands behind, if that is what it stands behind."""
        if isinstance(e, t.Name):
            found = self._named(scope, e)
        elif isinstance(e, t.Pipe) or (isinstance(e, t.Call) and self._is_transform(scope, e.function)):
            found = self._value(scope, e, name)
        else:
            found = None
        return found if isinstance(found, Family) else None

    def _is_transform(self, scope: FileScope, function: t.Expr) -> bool:
        if not isinstance(function, t.Name) or function.text in library():
            return False
        own = scope.names.get(function.text)
        if own is not None and not (isinstance(own, Pending) and isinstance(own.declaration, _VALUES)):
            return False  # a function, rule or pipeline of the file
        from .transforms import TRANSFORMS  # most files transform nothing

        return function.text in TRANSFORMS

    def _invoked(self, scope: FileScope, before: Model | None, call: t.Expr, name: str) -> Model | Family:
        """A transform applied to the model before it and to those in its call."""
        from .invoke import Values, invoke, renamed
        from .transforms import TRANSFORMS

        function = call.function if isinstance(call, t.Call) else call
        assert isinstance(function, t.Name)
        used = [before] if before else []

        def value(e: t.Expr) -> Any:
            found = self._value(scope, e, _first_name(e) or name)
            if isinstance(found, Model):
                used.append(found)
                return found.graph
            return found

        def known(text: str) -> bool:
            return text in scope.names

        def is_model(e: t.Expr) -> bool:
            if isinstance(e, t.Name):
                return isinstance(self._named(scope, e), Model)
            if isinstance(e, t.Call):
                return self._is_transform(scope, e.function)
            return isinstance(e, (t.Pipe, t.Applied, t.Index))

        values = Values(known, value, lambda: list(scope.names), is_model)
        try:
            made = invoke(TRANSFORMS[function.text], [m.graph for m in used], call, values)
        except NetcError as error:
            self.diagnostics.extend(error.diagnostics)
            raise Fault() from None
        reports = tuple(r for m in used for r in m.reports)
        if isinstance(made, Family):
            return replace(made, name=name, reports=reports)
        made = renamed(made, name)
        first = used[0]
        applied = tuple({id(a): a for m in used for a in m.applied}.values())
        stages = (*first.stages, made.stage)
        return Model(name, made.outcome.graph, reports, self.spec_hash, frozenset(), stages, (*applied, made))

    def _tuned(self, scope: FileScope, family: Family, stage: t.Expr, name: str) -> Family:
        """`snn |> load("model.safetensors")`: a family with other numbers."""
        function = stage.function if isinstance(stage, t.Call) else stage
        if not (isinstance(function, t.Name) and function.text == "load" and isinstance(stage, t.Call)):
            message = "a family can be loaded into; other transforms take one of its members"
            raise Fault(Diagnostic("pipe", message, (Label(stage.span),), fix=f"model one = {family.name}[0]"))
        store = Graph(family.name, parameters=family.parameters)
        loaded = self._load(scope, Model(family.name, store), stage.arguments, stage.span, name)
        reports = (*family.reports, *loaded.reports)
        return replace(family.with_parameters(loaded.graph.parameters), name=name, reports=reports)

    def _data(self, scope: FileScope, declaration: t.Data) -> Calibration:
        """`data calib = pictures("photos", samples = 200)`."""
        from .calibration import SOURCES, Calibration

        e = declaration.value
        function = e.function if isinstance(e, t.Call) else e
        if not isinstance(function, t.Name) or function.text not in SOURCES:
            close = nearest(function.span.text, SOURCES)
            notes = (f"data come from {', '.join(SOURCES)}",)
            raise Fault(Diagnostic("unknown-data", "these are no data", (Label(e.span),), notes, close))
        source, arguments = SOURCES[function.text], e.arguments if isinstance(e, t.Call) else ()
        report = Diagnostics()
        elaborator = Elaborator(report, self.budget, self._resolve)
        try:
            given = read_options(
                function.text, "data-option", source, arguments, e.span, lambda v, _: elaborator.constant(scope, v)
            )
        except NetcError as error:
            raise Fault(error.diagnostics[0]) from None
        place, base = arguments[0].span if arguments else e.span, _folder(scope)
        # Data may be read long after: what is wrong then is no matter of this file's elaboration.
        return Calibration(declaration.name.text, source(**given), lambda path: locate(path, base, self.root, place))

    # ------------------------------------------------------------------------------------------------ passes

    def rule(self, name: str) -> Rule:
        """A rewrite rule that this file declares or imports, or one of the compiler's.

        Raises:
            NetcError: where there is none, and with what is wrong with it.
        """
        if name in _names(self.scope, t.Rewrite):
            return self._declared(self.scope, name)
        known = {rule.name: rule for rules in rule_sets().values() for rule in rules}
        if name in known:
            return known[name]
        if name in rule_sets():
            inside = f"it is the rules {', '.join(rule.name for rule in rule_sets()[name])}"
            raise NetcError([Diagnostic("unknown-rule", f"{name} is several rules: ask about one", (), (inside,))])
        if name in self.passes():
            raise NetcError([Diagnostic("unknown-rule", f"{name} is no rule: only rules apply at nodes")])
        close = nearest(name, [*_names(self.scope, t.Rewrite), *known])
        raise NetcError([Diagnostic("unknown-rule", f"there is no rule {name}", fix=close)])

    def declared_passes(self) -> list[str]:
        """The rules and pipelines that this file declares or imports."""
        return _names(self.scope, t.Rewrite, t.Pipeline)

    def pipelines(self) -> list[str]:
        """The pipelines that this file declares or imports."""
        return _names(self.scope, t.Pipeline)

    def described(self, name: str) -> str:
        """A rule with its contract, or a pipeline with its steps, in a line."""
        found = self._declared(self.scope, name)
        if isinstance(found, Rule):
            return f"rule, {found.contract}"
        return " |> ".join(str(step) for step in found)

    def passes(self) -> list[str]:
        """The names of everything that can stand in a pipeline of this file."""
        return [*self.declared_passes(), *library()]

    def find_pass(self, name: str) -> Pass:
        """One pass by name, a rule of this file among them.

        Raises:
            NetcError: where there is none, and with what is wrong with it.
        """
        if name in _names(self.scope, t.Rewrite):
            return rule_pass(name, [self.rule(name)])
        if name in library():
            return library()[name]
        raise NetcError([Diagnostic("unknown-pass", f"there is no pass {name}", fix=nearest(name, self.passes()))])

    def steps(self, text: str) -> tuple[Step, ...]:
        """The steps of a pipeline on the command line: `fold_batch_norm,eliminate_dead{parameters = false}`.

        Raises:
            NetcError: where the text is no list of passes and their options.
        """
        written = Source("-p", f"[{text.translate(_BRACES)}]")
        parsed = parse_expression(written)
        items = parsed.items if isinstance(parsed, t.ListOf) else ()
        return tuple(step for item in items for step in self._steps(self.scope, item))

    def _steps(self, scope: FileScope, expression: t.Expr, *, transforms: bool = False) -> tuple[Step, ...]:
        """The steps of a pipeline; where `transforms` could stand too, names like theirs are proposed."""

        def find(name: t.Name) -> Pass | tuple[Step, ...] | None:
            value = scope.names.get(name.text)
            if isinstance(value, Pending) and isinstance(value.declaration, (t.Rewrite, t.Pipeline)):
                found = self._declared(scope, name.text, name.span)
                return rule_pass(name.text, [found]) if isinstance(found, Rule) else found
            return PASSES.get(name.text) or library().get(name.text)

        def names() -> list[str]:
            if not transforms:
                return [*_names(scope, t.Rewrite, t.Pipeline), *library()]
            from .transforms import TRANSFORMS

            return [*_names(scope, t.Rewrite, t.Pipeline), *library(), *TRANSFORMS]

        return read_steps(expression, find, names, self._constant)

    def _declared(self, scope: FileScope, name: str, span: Span | None = None) -> Any:
        """A rule or pipeline of a file, named at `span`; what is wrong with it is raised, not noted."""
        try:
            return self._resolve(scope, name, span or Span(scope.source, 0, 0))
        except Fault as fault:
            known = [d for d in self.diagnostics if d.severity == "error"]
            raise NetcError([fault.diagnostic] if fault.diagnostic else known) from None

    def _load(self, scope: FileScope, model: Model, arguments: tuple[t.Argument, ...], span: Span, name: str) -> Model:
        """`load("weights.safetensors", rename = hf)`."""
        path: str | None = None
        rename: RenameMap | None = None
        for argument in arguments:
            if argument.name is None and path is None:
                path = self._weights_path(scope, argument)
            elif argument.name is not None and argument.name.text == "rename":
                rename = self._rename(scope, argument)
            else:
                raise Fault(Diagnostic("unknown-argument", "load takes a path and rename = …", (Label(argument.span),)))
        if path is None:
            raise Fault(
                Diagnostic(
                    "missing-argument",
                    "load needs the path of a checkpoint",
                    (Label(span),),
                    fix='load("weights.safetensors")',
                )
            )
        location = self._located(scope, path, arguments[0].span)
        try:
            graph, report = load(model.graph, open_checkpoint(location), rename=rename, span=span)
        except NetcError as error:
            self.diagnostics.extend(error.diagnostics)
            raise Fault() from None
        return replace(model, name=name, graph=replace(graph, name=name), reports=(*model.reports, report))

    def _weights_path(self, scope: FileScope, argument: t.Argument) -> str:
        value = Elaborator(Diagnostics(), self.budget, self._resolve).constant(scope, argument.value)
        if not isinstance(value, str):
            raise Fault(
                Diagnostic("argument-type", f"a path is a string, not {describe(value)}", (Label(argument.span),))
            )
        return value

    def _located(self, scope: FileScope, text: str, span: Span) -> Path:
        try:
            return locate(text, _folder(scope), self.root, span)
        except NetcError as error:
            raise Fault(error.diagnostics[0]) from None

    def _rename(self, scope: FileScope, argument: t.Argument) -> RenameMap:
        if isinstance(argument.value, t.Name):
            value = scope.names.get(argument.value.text)
            if isinstance(value, RenameMap):
                return value
        known = [n for n, v in scope.names.items() if isinstance(v, RenameMap)]
        raise Fault(
            Diagnostic(
                "unknown-rename",
                f"there is no rename map {argument.value.span.text}",
                (Label(argument.value.span),),
                (f"rename maps here: {', '.join(known) or 'none'}",),
                nearest(argument.value.span.text, known),
            )
        )


def _folder(scope: FileScope) -> Path:
    """The folder that a file's paths start from."""
    return scope.source.path.parent if scope.source.path else Path.cwd()


def _names(scope: FileScope, *kinds: type[t.Declaration]) -> list[str]:
    pending = {n: v for n, v in scope.names.items() if isinstance(v, Pending)}
    return [name for name, value in pending.items() if isinstance(value.declaration, kinds)]


_BRACES = str.maketrans("{}", "()")
"""On the command line options stand in braces, which shells leave alone."""

_VALUES = (t.Model, t.GraphText, t.Family, t.Data, t.TopLet)
"""Declarations that cannot be called: a transform of the same name is still meant by a call."""


def _first_name(e: t.Expr) -> str | None:
    """The name of the model that an expression begins with."""
    while isinstance(e, t.Pipe):
        e = e.value
    return e.text if isinstance(e, t.Name) else None


# ---------------------------------------------------------------------------------------------------- reading files


def read(path: str | Path, *, budget: Budget | None = None, root: Path | None = None) -> Program:
    """Read a file and everything it imports, and check syntax, imports and names.

    Imports and weights must lie in the file's own folder, or with `root` in that one instead.

    Raises:
        NetcError: with all problems of the first phase that has any.
    """
    return read_source(read_file(Path(path)), budget=budget, root=root)


def read_source(source: Source, *, budget: Budget | None = None, root: Path | None = None) -> Program:
    """`read` for a text that is at hand."""
    files = read_imports(source, root)
    return Program(files.scope, files.diagnostics, budget or Budget(), files.root, files.by_path)
