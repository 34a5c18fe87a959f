"""Forward methods: the steps of one frame as statements, nested where that reads well, in variables that are reused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...compiler.diagnostic import Diagnostic, NetcError
from ...compiler.graph import Graph, Input, Node, ParameterRef, Phase, Ref, SelectPhase, Value
from ...compiler.operators.creation import Constant
from ...compiler.types import DType, symbol
from ...compiler.types import Expression as Polynomial
from .call import RULES, Call, local
from .hierarchy import Frame, InstanceRef, Outer, SymbolRef, is_scalar
from .names import Names
from .plan import Plan, Run
from .sizes import Sizes
from .slots import TAKEN
from .statement import Statement, group, nest
from .template import (
    RESERVED,
    Expression,
    Hole,
    Rank,
    argument,
    bracket,
    literal,
    variable,
    wrap,
)

_PLAIN_OPERATORS = frozenset({"embedding", "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"})
"""Operators whose layers are called after their kind, whatever comes out."""
_SPARE = ["x", "y", "z", "w"]
"""Names of arguments that say nothing."""
_PLAIN_OPERANDS = frozenset({"x", "a", "b", "tensors", "weights", "source", "train", "infer", "condition"})


@dataclass(frozen=True)
class Buffer:
    """A constant of rank ≥ 1, kept with the module so that it moves with it; `like` marks a dtype and device only."""

    value: Any
    dtype: DType


@dataclass
class Method:
    """A forward method. Lines hold marks for literals (`holes`) and for the names of its arguments."""

    name: str
    lines: list[str]
    holes: list[Hole]
    arguments: list[Outer]
    marks: list[int]
    """The number by which the lines mark each argument's name."""
    preferences: list[str]
    """A name for each argument, as this call suggests it."""
    results: list[Value]
    names: frozenset[str]
    """The variables of the lines, which arguments must not be called."""
    buffers: dict[str, Buffer]
    helpers: dict[str, Callable[..., Any]]
    imports: set[str]
    """The modules of a user's functions."""


@dataclass
class Writer:
    """Writes one frame. `methods` holds those of the frames that it calls, by path."""

    graph: Graph
    frame: Frame
    plan: Plan
    methods: Mapping[str, Method]
    taken: Mapping[str, Buffer]
    """The buffers that other methods of the instance have made."""
    holes: list[Hole] = field(default_factory=list[Hole])

    def __post_init__(self) -> None:
        self._slot = self.plan.root.find(self.frame.instance) if self.frame.instance else self.plan.root
        inputs: list[Outer] = [n.value for n in self.graph.inputs.values()]
        self._arguments: list[Outer] = list(self.frame.inputs) if self.frame.parent else inputs
        self._numbers: dict[Outer, int] = {ref: i for i, ref in enumerate(self._arguments)}
        tensors = [(i, self.graph.type(r)) for i, r in enumerate(self._arguments) if isinstance(r, Value)]
        self._sizes = Sizes(tensors, self._ask)
        self._constants = {s.path for s in self.frame.steps if isinstance(s, Node) and isinstance(s.op, Constant)}
        self._statements: list[Statement] = []
        self._buffers: dict[str, Buffer] = {}
        self._helpers: dict[str, Callable[..., Any]] = {}
        self._imports: set[str] = set()
        self._loops: set[str] = set()
        self._uses_device = False
        self._uses_dtype = False
        self._owner = ""

    def write(self) -> Method:
        """The method of the frame."""
        self._write_steps()
        results = list(self.frame.results) if self.frame.parent else []
        ends = self._ends(results)
        self._complete_phases(ends)
        statements = nest(group([*self._statements, *ends]))
        self._arguments.extend(r for r in self._numbers if isinstance(r, SymbolRef))
        marks = [self._numbers[r] for r in self._arguments]
        preferences = self._preferences()
        plain = {n for n, name in zip(marks, preferences, strict=True) if name in _SPARE}
        base = "out" if "x" in preferences else "x"
        taken = (
            self._sizes.names | self._helpers.keys() | self._loops | {name.partition(".")[0] for name in self._imports}
        )
        body = Names(statements, set(marks), plain, base, taken | set(preferences)).lines()
        top = [f"{a} = {b}" for a, b in self._places()]
        lines = [*top, *self._sizes.bindings(argument), *body.lines]
        return Method(
            "forward", [piece for line in lines for piece in wrap(line)], self.holes, self._arguments, marks,
            preferences, results, body.names | taken, self._buffers, self._helpers, self._imports,
        )  # fmt: skip

    # ---------------------------------------------------------------------------------------------- steps

    def _write_steps(self) -> None:
        runs: dict[str, Run | None] = {}
        for run in self.plan.runs[self.frame.path]:
            if self._is_uniform(run):
                runs.update(dict.fromkeys(s.path for s in run.steps[1:]))
                runs[run.steps[0].path] = run
        for step in self.frame.steps:
            if step.path in runs:
                run = runs[step.path]
                if run:
                    self._write_run(run)
            elif isinstance(step, Frame):
                self._write_frame(step)
            elif isinstance(step.op, SelectPhase):
                self._write_select(step)
            elif step.path not in self._constants:
                self._write_node(step)

    def _is_uniform(self, run: Run) -> bool:
        methods = [self.methods[s.path] for s in run.steps if isinstance(s, Frame)]
        return all(m.name == "forward" and not _symbols(m) for m in methods)

    def _write_run(self, run: Run) -> None:
        access = self._reach(run.slot.path)
        phase = self.frame.relative(run.steps[0])
        target = self._number(run.result)
        hint = local("out", run.slot.path)
        if run.kind == "sequence":
            text = f"{access}({self.operand(run.start, Rank.ANY)})"
            heavy = any(isinstance(s, Frame) for s in run.steps)
            self._statements.append(Statement([target], text, phase=phase, hint=hint, heavy=heavy))
            return
        step = run.parts[0]
        assert isinstance(step, Frame)
        name = self._sizes.reserve(_loop_name(step.module))
        self._loops.add(name)
        given = [
            variable(target, Rank.ANY) if r == run.start else self._outer(r) for r in self.methods[step.path].arguments
        ]
        self._statements.append(
            Statement(
                [target], f"{name}({', '.join(given)})", phase=phase, hint=hint,
                carried=self._number(run.start), head=f"for {name} in {access}:",
            )
        )  # fmt: skip

    def _write_frame(self, frame: Frame) -> None:
        method = self.methods[frame.path]
        self._owner = local(frame.module, frame.path)
        if self.frame.owns(frame.instance):
            access = self._reach(frame.instance)
        else:
            access = variable(self._numbers[InstanceRef(frame.instance)], Rank.ATOM)
        if method.name != "forward":
            access += f".{method.name}"
        text = f"{access}({', '.join(self._outer(r) for r in method.arguments)})"
        targets: list[int | None] = [self._number(v) for v in method.results]
        self._statements.append(
            Statement(targets, text, phase=self.frame.relative(frame), hint=self._owner, heavy=True)
        )

    def _write_node(self, node: Node) -> None:
        slot = self.plan.layers.get(node.path)
        self._owner = local(node.op.name, node.path)
        hint = node.op.name if node.op.name in _PLAIN_OPERATORS else self._owner
        call = Call(self.graph, node, self, self._owner, self._reach(slot) if slot else None)
        rule = RULES.get(node.op)
        if slot and not node.op.operands[1:]:
            made = Expression(f"{call.layer}({call[0]})")
        else:
            assert rule
            found = rule(call)
            made = Expression(found) if isinstance(found, str) else found
        read = self._read(node)
        targets: list[int | None] = [self._number(v) if v in read else None for v in node.values]
        if len(targets) == 1 and made.tuple:
            made = Expression(f"{bracket(made, Rank.ATOM)}[0]")
        phase = self.frame.relative(node)
        roles = self._parts(node) if len(targets) > 1 else ()
        self._statements.append(
            Statement(targets, made.text, made.rank, phase, hint, roles=roles, pattern=made.targets)
        )

    def _parts(self, node: Node) -> tuple[str, ...]:
        """What each output is in the end: `query`, `key`, `value`; the operator's own words; or nothing."""
        if len(node.op.outputs) == len(node.types):
            return node.op.outputs
        found = [self._part(v) for v in node.values]
        return tuple(found) if all(found) and len(set(found)) == len(found) else ()

    def _part(self, value: Value) -> str:
        """The operand that a value becomes, after steps that only arrange it."""
        for _ in range(5):
            readers = self.graph.users.get(value, [])
            if len(readers) != 1 or len(readers[0].types) != 1:
                return ""
            reader = readers[0]
            index = reader.inputs.index(value)
            name = reader.op.operands[min(index, len(reader.op.operands) - 1)].name
            if name not in _PLAIN_OPERANDS:
                return name
            if index:
                return ""
            value = reader.value
        return ""

    def _read(self, node: Node) -> set[Value]:
        """The outputs that somebody reads."""
        if len(node.types) == 1:
            return {node.value}
        kept = set(self.graph.outputs.values())
        return {v for v in node.values if v in self.graph.users or v in kept}

    def _write_select(self, node: Node) -> None:
        phases: tuple[Phase, Phase] = ("train", "infer")
        hint = local(node.op.name, node.path)
        for phase, ref in zip(phases, node.inputs, strict=True):
            assert ref is not None
            text = self.operand(ref, Rank.ANY)
            self._statements.append(Statement([self._number(node.value)], text, phase=phase, hint=hint))

    # ---------------------------------------------------------------------------------------------- the page of rules

    def operand(self, ref: Ref, rank: Rank) -> str:
        """An operand: a variable, a number, a buffer, or a parameter reached from `self`."""
        if isinstance(ref, ParameterRef):
            if ref in self._numbers:
                return variable(self._numbers[ref], rank)
            return self._reach(ref.parameter)
        node = self.graph.nodes[ref.node]
        if is_scalar(node):
            return self._scalar(node)
        if ref.node in self._constants:
            return self.constant(node)
        return variable(self._number(ref), rank)

    def write_size(self, dim: Polynomial) -> Expression:
        return self._sizes.write(dim)

    def write_dtype(self, dtype: DType) -> str:
        """A dtype. f32 stands for the model's own: the code then also runs in float64."""
        if dtype is DType.F32:
            self._uses_dtype = True
            return "dtype"
        return f"torch.{DTYPES[dtype]}"

    def write_device(self) -> str:
        self._uses_device = True
        return "device"

    def helper(self, function: Callable[..., Any]) -> str:
        self._helpers[function.__name__] = function
        return function.__name__

    def external(self, place: str) -> str:
        module, _, function = place.partition(":")
        self._imports.add(module)
        return f"{module}.{function}"

    def constant(self, node: Node) -> str:
        assert node.types[0].shape
        buffer = Buffer(node.op.value, node.types[0].dtype)  # type: ignore[attr-defined]
        return f"self.{self._buffer(local('constant', node.path), buffer)}"

    def _scalar(self, node: Node) -> str:
        dtype, value = self.write_dtype(node.types[0].dtype), node.op.value  # type: ignore[attr-defined]
        if isinstance(value, Polynomial):
            text = self.write_size(value).text
        else:
            self.holes.append(Hole(value, "value", self._owner))
            text = literal(len(self.holes) - 1)
        return f"torch.tensor({text}, dtype={dtype}, device={self.write_device()})"

    def _buffer(self, hint: str, buffer: Buffer) -> str:
        name, number = hint if hint.isidentifier() and hint not in RESERVED else "constant", 2
        base = name
        while name in self._slot.below or self._made(name) not in (None, buffer) or name in TAKEN:
            name, number = f"{base}{number}", number + 1
        self._buffers[name] = buffer
        return name

    def _made(self, name: str) -> Buffer | None:
        return self._buffers.get(name, self.taken.get(name))

    # ---------------------------------------------------------------------------------------------- references

    def _reach(self, path: str) -> str:
        return f"self{self._slot.reach(path)}"

    def _number(self, ref: Outer) -> int:
        return self._numbers.setdefault(ref, len(self._numbers))

    def _outer(self, ref: Outer) -> str:
        """An argument for an inner call."""
        if isinstance(ref, SymbolRef):
            made = self._sizes.write(symbol(ref.symbol))  # type: ignore[arg-type]
            return made.text
        if isinstance(ref, InstanceRef):
            return variable(self._numbers[ref], Rank.ANY) if ref in self._numbers else self._reach(ref.instance)
        return self.operand(ref, Rank.ANY)

    def _ask(self, name: str) -> str:
        """A symbol that no tensor here shows, as one more argument."""
        if self.frame.parent is None:
            message = f"no input of {self.graph.name} shows the size {name} when the model runs"
            raise NetcError([Diagnostic("unsupported-dimension", message)])
        return variable(self._number(SymbolRef(name)), Rank.ANY)

    def _places(self) -> list[tuple[str, str]]:
        """Where the dtype and device of new tensors come from."""
        found: list[tuple[str, str]] = []
        if self._uses_device:
            found.append(("device", f"{self._example(any_dtype=True)}.device"))
        if self._uses_dtype:
            found.append(("dtype", f"{self._example(any_dtype=False)}.dtype"))
        return found

    def _example(self, *, any_dtype: bool) -> str:
        for i, ref in enumerate(self._arguments):
            if isinstance(ref, Value | ParameterRef) and (any_dtype or self.graph.type(ref).dtype is DType.F32):
                return argument(i)
        for slot in self._slot.walk():
            if slot.parameter and (any_dtype or slot.parameter.type.dtype is DType.F32):
                return self._reach(slot.path)
        return f"self.{self._buffer('like', Buffer(None, DType.F32))}"

    # ---------------------------------------------------------------------------------------------- ends

    def _ends(self, results: Sequence[Value]) -> list[Statement]:
        """The return statements."""
        if self.frame.parent:
            return [self._return(list(results), "both")]
        refs = list(self.graph.outputs.values())
        phases = [self.graph.nodes[r.node].phase if isinstance(r, Value) else "both" for r in refs]
        train = [r for r, p in zip(refs, phases, strict=True) if p != "infer"]
        infer = [r for r, p in zip(refs, phases, strict=True) if p != "train"]
        if train == infer:
            return [self._return(train, "both")]
        return [self._return(train, "train"), self._return(infer, "infer")]

    def _return(self, refs: Sequence[Ref], phase: Phase) -> Statement:
        text = ", ".join(self.operand(r, Rank.ANY) for r in refs)
        return Statement([], text or "None", Rank.ANY, phase, head="return")

    def _complete_phases(self, ends: Sequence[Statement]) -> None:
        """Set what exists in one phase only to None in the other, where code of both phases mentions it."""
        phase: dict[int, set[Phase]] = {}
        for statement in self._statements:
            for target in statement.targets:
                if target is not None:
                    phase.setdefault(target, set()).add(statement.phase)
        read = {v for s in (*self._statements, *ends) if s.phase == "both" for v in s.reads}
        complete: list[Statement] = []
        for statement in self._statements:
            complete.append(statement)
            for target in statement.targets:
                if target in read and phase[target] in ({"train"}, {"infer"}):  # type: ignore[index]
                    other: Phase = "infer" if statement.phase == "train" else "train"
                    complete.append(Statement([target], "None", phase=other, hint=statement.hint))
        self._statements = complete

    # ---------------------------------------------------------------------------------------------- names of arguments

    def _preferences(self) -> list[str]:
        found: list[str] = []
        spare = iter([*_SPARE[1:], *(f"x{i}" for i in range(2, len(self._arguments) + 2))])
        roles = self._roles() if len(self._arguments) > 1 else {}
        for i, ref in enumerate(self._arguments):
            name = self._preference(ref, first=i == 0, role=roles.get(ref))
            found.append(name or next(spare))
        return found

    def _preference(self, ref: Outer, *, first: bool, role: str | None) -> str | None:
        if isinstance(ref, SymbolRef):
            return ref.symbol
        if isinstance(ref, InstanceRef):
            return local("module", ref.instance)
        if isinstance(ref, ParameterRef):
            return "_".join(p for p in ref.parameter.split(".")[-2:] if p.isidentifier()) or "weight"
        node = self.graph.nodes[ref.node]
        if isinstance(node.op, Input) and (self.frame.parent is None or not first or not node.types[0].dtype.is_float):
            return node.path if node.path.isidentifier() else local("x", node.path)
        return "x" if first else role

    def _roles(self) -> dict[Outer, str]:
        """What arguments are to the operators that read them: masks, positions, queries."""
        found: dict[Outer, str] = {}
        for step in self.frame.steps:
            if isinstance(step, Frame):
                method = self.methods[step.path]
                pairs = zip(method.arguments, method.preferences, strict=True)
                found.update({r: n for r, n in pairs if len(n) > 2 and r not in found})
            else:
                declared = step.op.operands
                for i, ref in enumerate(step.inputs[: len(declared)]):
                    if ref is not None and declared[i].name not in _PLAIN_OPERANDS:
                        found.setdefault(ref, declared[i].name)
        return found


DTYPES = {
    DType.F64: "float64", DType.F32: "float32", DType.F16: "float16", DType.BF16: "bfloat16", DType.I64: "int64",
    DType.I32: "int32", DType.I16: "int16", DType.I8: "int8", DType.U8: "uint8", DType.BOOL: "bool",
}  # fmt: skip
"""PyTorch's names."""


def _symbols(method: Method) -> bool:
    return any(isinstance(r, SymbolRef) for r in method.arguments)


def _loop_name(module: str) -> str:
    name = module[:1].lower() + module[1:]
    return name if name.isidentifier() and len(name) < 12 and name not in RESERVED else "block"
