"""Fusion groups in Relax: the calls that were made for a group become one primitive function, and one call of it.

Each call of a kernel bears the path of the node on whose account it was made, as its span's source, through TVM's
passes.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...compiler.diagnostic import Diagnostic, NetcError
from ...compiler.fusion.group import Group
from .stage import Binding, Stage
from .untyped import StructuralKey, relax, tirx, tvm, walk

CALL = re.compile(r"^ +call +(\S+)", re.M)
LONGEST = 80
"""Letters of a kernel's name."""


@dataclass(frozen=True)
class Fused:
    """A group, and the kernel that computes it, which others may share."""

    group: Group
    kernel: str


def outline(stage: Stage, outputs: Sequence[Any], groups: Sequence[Group]) -> tuple[Any, list[Fused]]:
    """The module of a stage whose bindings are owned by groups: each group a call of a primitive function.

    Groups that are equal but for what they read share a function. Views that a group takes of what others made are
    taken before its call; those of what it made itself are computed in it.

    Raises:
        NetcError: where groups need each other's results (`group-cycle`).
    """
    parts = _Parts(stage, outputs, groups)
    done: list[Any] = []
    placed: set[Any] = set()
    names: dict[str, str] = {}
    known = _Functions(stage)
    for name in parts.order():
        part = parts.groups[name]
        for view in part.reads:
            done.extend(parts.views(view, placed))
        function, arguments = part.function()
        variable, kernel = known.variable(function, part.callees)
        names[name] = kernel
        done.extend(part.call(variable, arguments))
    for output in outputs:
        done.extend(parts.views(output, placed))
    whole = {g.name: g for g in groups}
    return stage.finished(done, outputs), [Fused(whole[name], names[name]) for name in names]


def on_account_of(path: str, call: Any) -> Any:
    """The call of a kernel, which bears a node's path."""
    span = tvm.ir.Span(tvm.ir.SourceName(path), 0, 0, 0, 0)
    return relax.Call(call.op, call.args, call.attrs, call.ty_args, span)


def chosen(module: Any, before: Any) -> list[Fused]:
    """What TVM's fusion has made of `main`, which was as in the module `before`: the nodes that each call works for,
    named after the last of them.

    A function that several calls share bears the paths of the first. For whom each call works is known from `before`,
    where the same kernels are called with the same values.
    """
    found: list[Fused] = []
    names: set[str] = set()
    origins = _Origins(before)
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            value = binding.value
            if _is_call(value):
                kernel, paths = value.args[0], [_path(value)]
            elif isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar):
                kernel, paths = value.op, origins.inside(binding, module[value.op])
            else:
                origins.follow(binding)
                continue
            nodes = tuple(dict.fromkeys(paths))
            name = next(n for i in range(len(found) + 1) if (n := nodes[-1] + (f"~{i}" if i else "")) not in names)
            names.add(name)
            found.append(Fused(Group(name, nodes), str(kernel.name_hint)))
    return found


class _Origins:
    """The calls of kernels in `main` before fusion, by what they call and read; what is computed twice is one value."""

    def __init__(self, before: Any) -> None:
        self._calls: dict[Any, list[Any]] = {}
        self._same: dict[Any, Any] = {}
        """What variables that came with fusion hold: a variable of before, or several. Those of before that hold the
        same are the first of them."""
        self._parts: dict[tuple[Any, int], Any] = {}
        for block in before["main"].body.blocks:
            for binding in block.bindings:
                value = binding.value
                if _is_call(value):
                    alike = self._calls.setdefault(self._key(value), [])
                    alike.append(binding)
                    self._same[binding.var] = alike[0].var
                elif isinstance(value, relax.TupleGetItem):
                    part = self._held(value.tuple_value), int(value.index)
                    self._same[binding.var] = self._parts.setdefault(part, binding.var)

    def inside(self, binding: Any, function: Any) -> list[str]:
        """The paths of the calls that a fused function makes where `binding` calls it."""
        for parameter, argument in zip(function.params, binding.value.args, strict=True):
            self._same[parameter] = self._held(argument)
        paths: list[str] = []
        for inner in (b for block in function.body.blocks for b in block.bindings):
            if _is_call(inner.value):
                alike = self._calls[self._key(inner.value)]
                made = alike.pop(0) if len(alike) > 1 else alike[0]
                self._same[inner.var] = self._held(made.var)
                paths.append(_path(made.value))
            else:
                self.follow(inner)
        self._same[binding.var] = self._held(function.body.body)
        return paths

    def follow(self, binding: Any) -> None:
        """A binding that calls no kernel: a part of several results, or another name."""
        value = binding.value
        if isinstance(value, relax.TupleGetItem):
            held, index = self._held(value.tuple_value), int(value.index)
            self._same[binding.var] = held[index] if isinstance(held, tuple) else self._parts[held, index]
        elif isinstance(value, relax.Var | relax.Tuple):
            self._same[binding.var] = self._held(value)

    def _held(self, value: Any) -> Any:
        if isinstance(value, relax.Tuple):
            return tuple(self._held(field) for field in value.fields)
        return self._same.get(value, value)

    def _key(self, call: Any) -> Any:
        given = tuple(self._held(field) for field in call.args[1].fields if _is_tensor(field))
        return str(call.args[0].name_hint), given


def _path(call: Any) -> str:
    return str(call.span.source_name.name)


def correspondence(module: Any, executable: Any, groups: Sequence[Fused]) -> None:
    """Make sure that what was compiled is these groups: each one call of its kernel, in this order, and nothing else.

    The calls are read off the instructions of the virtual machine, the kernels off the module of its code.

    Raises:
        AssertionError: where a group has no call or several, or there is a call or a kernel of no group.
    """
    functions = {str(v.name_hint): f for v, f in module.functions.items() if isinstance(f, tirx.PrimFunc)}
    sizes = {name for name, f in functions.items() if f.attrs and "tirx.is_host_func" in f.attrs}
    main = str(executable.as_text()).partition("@main:")[2].partition("\n@")[0]
    called = [name for name in CALL.findall(main) if not name.startswith("vm.builtin.") and name not in sizes]
    wanted = [g.kernel for g in groups]
    kernels = functions.keys() - sizes
    # Not by `assert`, which `python -O` leaves out: this is a promise to the reader of the manifest.
    if called != wanted:
        raise AssertionError(f"the groups are {wanted}, the calls {called}")
    if kernels != set(wanted):
        raise AssertionError(f"kernels of no group: {sorted(kernels - set(wanted))}")
    if len({g.group.name for g in groups}) != len(groups):
        raise AssertionError("groups share a name")


@dataclass
class _Part:
    """What was made for one group."""

    name: str
    bindings: list[Binding] = field(default_factory=list[Binding])
    """Calls of kernels, parts of their results, and views of these that the group reads itself, in order."""
    reads: list[Any] = field(default_factory=list[Any])
    """Variables from outside, which may be views, in the order of the first reading."""
    results: list[Any] = field(default_factory=list[Any])
    """Variables that others read."""

    @property
    def callees(self) -> list[str]:
        return [str(b.value.args[0].name_hint) for b in self.bindings if _is_call(b.value)]

    def function(self) -> tuple[Any, list[Any]]:
        """The primitive function, and the arguments for it: what is read, then the sizes that this does not give."""
        parameters = [relax.Var(f"in{i}", v.ty) for i, v in enumerate(self.reads)]
        renamed: dict[Any, Any] = dict(zip(self.reads, parameters, strict=True))
        body: list[Any] = []
        for binding in self.bindings:
            variable = relax.DataflowVar(f"v{len(body)}", binding.variable.ty)
            body.append(relax.VarBinding(variable, _renamed(binding, renamed)))
            renamed[binding.variable] = variable
        single = len(self.results) == 1
        given = [renamed[r] for r in self.results]
        type = given[0].ty if single else relax.TupleType([g.ty for g in given])
        result = relax.Var("result", type)
        block = relax.DataflowBlock([*body, relax.VarBinding(result, given[0] if single else relax.Tuple(given))])
        sizes = _sizes(self)
        arguments = list(self.reads)
        if sizes:
            parameters.append(relax.Var("sizes", relax.ShapeType(sizes)))
            arguments.append(relax.ShapeExpr(sizes))
        function = relax.Function(parameters, relax.SeqExpr([block], result), type, is_pure=True)
        function = function.with_attr("Primitive", True)
        return relax.utils.copy_with_new_vars(function), arguments

    def call(self, function: Any, arguments: Sequence[Any]) -> Iterator[Any]:
        """The bindings of `main` that call the group's function and take its results."""
        call = relax.Call(function, arguments)
        if len(self.results) == 1:
            yield relax.VarBinding(self.results[0], call)
            return
        whole = relax.DataflowVar(self.name, relax.TupleType([r.ty for r in self.results]))
        yield relax.VarBinding(whole, call)
        for i, result in enumerate(self.results):
            yield relax.VarBinding(result, relax.TupleGetItem(whole, i))


class _Parts:
    """The bindings of a stage by group."""

    def __init__(self, stage: Stage, outputs: Sequence[Any], groups: Sequence[Group]) -> None:
        self.groups = {g.name: _Part(g.name) for g in groups}
        self._made = {b.variable: b for b in stage.bindings}
        live = self._live(outputs)
        inside = self._inside(live)
        self._at: dict[str, int] = {}
        shared: set[Any] = {self._base(o) for o in outputs}
        for at, binding in enumerate(live):
            if _is_view(binding):
                owner = self._owner(binding.variable)
                if (owner, binding.variable) in inside:
                    self.groups[owner].bindings.append(binding)
                continue
            assert binding.owner in self.groups, f"{binding.variable} was made on nobody's account"
            part = self.groups[binding.owner]
            part.bindings.append(binding)
            self._at.setdefault(part.name, at)
            for variable in _reads(binding.value):
                if self._owner(variable) != part.name:
                    shared.add(self._base(variable))
                    if variable not in part.reads:
                        part.reads.append(variable)
        for part in self.groups.values():
            assert part.callees, f"nothing was made for the group {part.name}"
            part.results = [b.variable for b in part.bindings if b.variable in shared]

    def _live(self, outputs: Sequence[Any]) -> list[Binding]:
        """The bindings that the outputs depend on, in order."""
        found: set[Any] = set()
        waiting = list(outputs)
        while waiting:
            variable = waiting.pop()
            if variable in self._made and variable not in found:
                found.add(variable)
                waiting.extend(_reads(self._made[variable].value))
        return [b for v, b in self._made.items() if v in found]

    def _inside(self, live: Sequence[Binding]) -> set[tuple[str, Any]]:
        """Views, with the group, that the group which made what they view reads itself."""
        found: set[tuple[str, Any]] = set()
        for binding in live:
            if _is_view(binding):
                continue
            for variable in _reads(binding.value):
                while self._owner(variable) == binding.owner and _is_view(self._made[variable]):
                    found.add((binding.owner, variable))
                    (variable,) = _reads(self._made[variable].value)
        return found

    def _base(self, variable: Any) -> Any:
        """What a variable is a view of, through all views."""
        while variable in self._made and _is_view(self._made[variable]):
            (variable,) = _reads(self._made[variable].value)
        return variable

    def _owner(self, variable: Any) -> str:
        """The group that made what a variable is a view of; nothing for a parameter."""
        base = self._base(variable)
        return self._made[base].owner if base in self._made else ""

    def views(self, variable: Any, placed: set[Any]) -> Iterator[Any]:
        """The bindings of `main` that make a view, those that were not `placed` before."""
        chain: list[Binding] = []
        while variable in self._made and _is_view(self._made[variable]) and variable not in placed:
            placed.add(variable)
            chain.append(self._made[variable])
            (variable,) = _reads(chain[-1].value)
        for binding in reversed(chain):
            yield relax.VarBinding(binding.variable, binding.value)

    def order(self) -> list[str]:
        """The groups, each after those that it reads from, otherwise as they were begun."""
        sources = {name: {o for v in part.reads if (o := self._owner(v))} for name, part in self.groups.items()}
        readers: dict[str, list[str]] = {name: [] for name in self.groups}
        for name, read in sources.items():
            for source in read:
                readers[source].append(name)
        missing = {name: len(read) for name, read in sources.items()}
        ready = [(self._at[name], name) for name, count in missing.items() if count == 0]
        heapq.heapify(ready)
        order: list[str] = []
        while ready:
            _, name = heapq.heappop(ready)
            order.append(name)
            for reader in readers[name]:
                missing[reader] -= 1
                if missing[reader] == 0:
                    heapq.heappush(ready, (self._at[reader], reader))
        if len(order) < len(self.groups):
            stuck = [name for name in self.groups if name not in order]
            message = f"groups need each other's results: {', '.join(stuck)}"
            raise NetcError([Diagnostic("group-cycle", message)])
        return order


class _Functions:
    """Primitive functions, each kept once."""

    def __init__(self, stage: Stage) -> None:
        self._builder = stage.builder
        self._known: dict[Any, Any] = {}
        self._names: set[str] = {str(v.name_hint) for v in stage.builder.get().functions}

    def variable(self, function: Any, callees: Sequence[str]) -> tuple[Any, str]:
        """The variable of the function, or of one that is equal, and its name."""
        key = StructuralKey(function)
        if key not in self._known:
            self._known[key] = self._builder.add_func(function, self._name(callees))
        return self._known[key], str(self._known[key].name_hint)

    def _name(self, callees: Sequence[str]) -> str:
        kinds = [c.rstrip("0123456789") for c in callees]
        whole = "_".join(["group", *kinds])
        stem = whole if len(whole) <= LONGEST else whole[: LONGEST - 4] + "_etc"
        name, number = stem, 0
        while name in self._names:
            number += 1
            name = f"{stem}{number}"
        self._names.add(name)
        return name


def _is_call(value: Any) -> bool:
    return isinstance(value, relax.Call) and str(getattr(value.op, "name", "")) == "relax.call_tir"


def _is_view(binding: Binding) -> bool:
    return binding.within is not None


def _reads(value: Any) -> list[Any]:
    """The variables that a binding's value reads."""
    if isinstance(value, relax.TupleGetItem):
        return [value.tuple_value]
    given = value.args[1].fields if _is_call(value) else value.args[:1]
    return [v for v in given if _is_tensor(v)]


def _is_tensor(argument: Any) -> bool:
    """Whether it is a variable of Relax; sizes are arguments too."""
    return isinstance(argument, relax.Var) and not isinstance(argument.ty, tvm.ir.PrimType)


def _renamed(binding: Binding, names: Mapping[Any, Any]) -> Any:
    """A binding's value inside of a function, over its variables."""
    value = binding.value
    if isinstance(value, relax.TupleGetItem):
        return relax.TupleGetItem(names[value.tuple_value], int(value.index))
    if binding.within is not None:
        (source,) = _reads(value)
        return binding.within(names[source])
    arguments = relax.Tuple([names[v] if _is_tensor(v) else v for v in value.args[1].fields])
    return relax.Call(value.op, [value.args[0], arguments, *value.args[2:]], value.attrs, value.ty_args, value.span)


def _sizes(part: _Part) -> list[Any]:
    """The symbols of a group that are no dimension of what it reads, by name."""
    given = {d for v in part.reads for d in v.ty.shape.values if isinstance(d, tirx.Var)}
    found: dict[Any, str] = {}

    def visit(variable: Any) -> None:
        if variable not in given:
            found[variable] = str(variable.name)

    for type in [*(v.ty for v in part.reads), *(b.variable.ty for b in part.bindings)]:
        for tensor in type.fields if isinstance(type, relax.TupleType) else [type]:
            for dim in tensor.shape.values:
                walk(dim, (tirx.Var, visit))
    for binding in part.bindings:
        if _is_call(binding.value):
            for argument in binding.value.args[1].fields:
                if not _is_tensor(argument):
                    walk(argument, (tirx.Var, visit))
    return sorted(found, key=lambda v: found[v])
