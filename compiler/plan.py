"""What a `plan` says: what is done to a model for a target, in which groups its nodes run, and what must hold then."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, Literal, NoReturn, cast, get_args

from pydantic import BaseModel, ValidationError

from . import tree as t
from .diagnostic import Diagnostic, Label, NetcError, nearest
from .graph import Graph
from .library import library
from .names import unknown_name
from .operators.operator import OPERATORS, Operator, validate
from .options import read_options
from .passes.strip_phase import strip_phase
from .pipeline import Step
from .quantity import EXAMPLES, Quantity, wrong_unit
from .source import Span
from .target import LLVM, Target
from .types import DType, symbols

LIMITS: dict[str, Quantity] = {
    "latency": "seconds",
    "parameters": "a count",
    "macs": "a count",
    "difference": "a fraction",
    "dram": "bytes",
    "buffer": "bytes",
}
"""What `require` may limit. `latency`: the median of single runs. `difference`: the largest to PyTorch, relative to the
largest element. `dram`: bytes moved in one run, `buffer`: the most of any group on chip, both by the memory model."""

Minimize = Literal["dram", "latency"]
DTYPES: dict[str, tuple[DType, ...]] = {
    "llvm": (DType.F32, DType.F16, DType.BF16),
    "accelerator": (DType.F32, DType.F16, DType.BF16, DType.I8),
}
"""What numbers can be kept in, by kind of target."""

WINDOWED = frozenset(
    {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"},
)
"""Operators whose weight says over how large a window they sum: patterns ask for its `kernel_size`."""

LAYOUTS = ("auto",)
TUNE = ("trials", "minutes")
"""What limits tuning."""
PLANNER = "best"
"""The planner where none is named."""
RACED = ("pattern", "layers")
"""Planners whose groups are the kernels that measurements join; the first where none is named."""


# ------------------------------------------------------------------------------------------------------- patterns


@dataclass(frozen=True, slots=True)
class Operation:
    """A node of this operator with these attributes, `kernel_size` of `WINDOWED` among them; others may be anything."""

    operator: str
    attributes: Mapping[str, Any]
    span: Span


@dataclass(frozen=True, slots=True)
class Maybe:
    """`batch_norm?`"""

    part: Pattern


@dataclass(frozen=True, slots=True)
class Repeat:
    """`add+`"""

    part: Pattern


@dataclass(frozen=True, slots=True)
class Either:
    """`relu | silu`"""

    choices: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """`conv2d |> relu`: each reads the one before, whatever else it reads."""

    parts: tuple[Pattern, ...]


Pattern = Operation | Maybe | Repeat | Either | Chain


# ------------------------------------------------------------------------------------------------------- lines


@dataclass(frozen=True, slots=True)
class GroupLine:
    """`fuse group stem = [conv1, "layer1.*"]`: paths of nodes and scopes, and patterns of these, with their places."""

    name: str
    paths: tuple[tuple[str, Span], ...]
    span: Span


@dataclass(frozen=True, slots=True)
class PatternLine:
    """`fuse pattern conv2d |> relu?`"""

    pattern: Pattern
    span: Span


@dataclass(frozen=True, slots=True)
class AutoLine:
    """`fuse auto(minimize = dram, planner = exact)`; `options` are those of the planner."""

    minimize: Minimize
    planner: str
    options: Mapping[str, Any]
    span: Span


@dataclass(frozen=True, slots=True)
class Tuning:
    """`tune trials = 512`: how much is tried before the model is compiled; None for no limit."""

    trials: int | None
    """Candidates in all, those of earlier runs among them."""
    minutes: float | None
    span: Span


FuseLine = GroupLine | PatternLine | AutoLine


@dataclass(frozen=True, slots=True)
class Requirement:
    """`latency <= 20 ms`: `most` is in seconds, bytes, or a count."""

    name: str
    most: float
    span: Span


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan as a file declares it. `model` is as written: `lean`, `snn[3]`."""

    name: str
    model: str
    target_name: str
    target: Target
    span: Span
    batch: int | None = None
    bind: Mapping[str, int] = field(default_factory=dict[str, int])
    steps: tuple[Step, ...] = ()
    """Those of `apply`."""
    layout: str | None = None
    dtype: DType | None = None
    fuse: tuple[FuseLine, ...] = ()
    tune: Tuning | None = None
    requirements: tuple[Requirement, ...] = ()
    places: Mapping[str, Span] = field(default_factory=dict[str, Span])
    """Where each clause stands that may stand once."""

    def __str__(self) -> str:
        return f"the plan {self.name}"

    def passes(self) -> tuple[Step, ...]:
        """All passes that the plan asks for, in order: the graph of inference, `apply`, `layout`, `dtype`."""
        known = library()
        steps = [Step(known[strip_phase.__name__], {"keep": "infer"}, self.span), *self.steps]
        if self.layout is not None:
            steps.append(Step(known["choose_layout"], {}, self.places["layout"]))
        if isinstance(self.target, LLVM) and self.dtype in (DType.F16, DType.BF16):
            steps.append(Step(known["mixed_precision"], {"dtype": str(self.dtype)}, self.places["dtype"]))
        return tuple(steps)

    def sizes(self, graph: Graph) -> dict[str, int]:
        """A number for every symbol of the graph's inputs.

        Raises:
            NetcError: where the plan gives one that the graph has not, or leaves one open.
        """
        shapes = {path: node.types[0].shape for path, node in graph.inputs.items()}
        names = list(dict.fromkeys(s for shape in shapes.values() for d in shape for s in sorted(symbols(d))))
        sizes = dict(self.bind)
        for name in sizes:
            if name not in names:
                notes = (f"its symbols: {', '.join(names) or 'none'}",)
                _refuse(f"{self.model} has no size {name}", self.places[name], notes, nearest(name, names))
        first = next((str(shape[0]) for shape in shapes.values() if shape), "")
        if self.batch is not None and first in self.bind:
            labels = (Label(self.places[first]), Label(self.places["batch"], "said here already"))
            raise NetcError([Diagnostic("plan", f"{first} is the batch of {self.model}, and is said twice", labels)])
        if self.batch is not None and first in names:
            sizes[first] = self.batch
        elif self.batch is not None and first != str(self.batch):
            inputs = ", ".join(f"{path}: {node.types[0]}" for path, node in graph.inputs.items()) or "nothing"
            _refuse(f"{self.model} takes {inputs}: its batch cannot be {self.batch}", self.places["batch"])
        for name in names:
            if name not in sizes:
                fix = "batch 1" if name == first else f"bind {name} = …"
                _refuse(f"the plan {self.name} leaves the size {name} of {self.model} open", self.span, (), fix)
        return sizes


# ------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Known:
    """What a plan's names are looked up in: `constant` evaluates, `steps` reads passes."""

    target: Callable[[t.Identifier], Target]
    model: Callable[[t.Expr], str]
    constant: Callable[[t.Expr], Any]
    steps: Callable[[t.Expr], Sequence[Step]]
    planners: Mapping[str, type[BaseModel]]
    """The options of each."""
    moves: Collection[str]
    """Operators that compute nothing, and stand in no group."""


def read_plan(declaration: t.Plan, known: Known) -> Plan:
    """The plan that a file declares.

    Raises:
        NetcError: with everything that is wrong with it.
    """
    return _Reader(declaration, known).plan()


class _Reader:
    def __init__(self, declaration: t.Plan, known: Known) -> None:
        self._text = declaration
        self._known = known
        self._problems: list[Diagnostic] = []
        self._places: dict[str, Span] = {}
        self._values: dict[str, Any] = {"bind": {}, "steps": (), "fuse": (), "requirements": ()}

    def plan(self) -> Plan:
        d = self._text
        self._attempt("model", lambda: self._known.model(d.model))
        self._attempt("target", lambda: self._known.target(d.target))
        for clause in d.clauses:
            self._attempt("", lambda clause=clause: self._clause(clause))
        self._attempt("", self._together)
        if self._problems:
            raise NetcError(self._problems)
        return Plan(name=d.name.text, target_name=d.target.text, span=d.span, places=self._places, **self._values)

    def _attempt(self, name: str, make: Callable[[], Any]) -> None:
        try:
            value = make()
        except NetcError as error:
            self._problems.extend(error.diagnostics)
        else:
            if name:
                self._values[name] = value

    def _clause(self, c: t.Clause) -> None:
        if isinstance(c, t.Batch):
            self._once("batch", c.span)
            self._values["batch"] = self._size("batch", c.size)
        elif isinstance(c, t.Bind):
            for name, size in c.sizes:
                self._once(name.text, name.span)
                self._values["bind"][name.text] = self._size(name.text, size)
        elif isinstance(c, t.Apply):
            self._values["steps"] += tuple(s for e in c.steps for s in self._known.steps(e))
        elif isinstance(c, t.Layout):
            self._once("layout", c.span)
            if c.name.text not in LAYOUTS:
                notes = (
                    "`layout auto` moves transpositions to where they cost least (the pass choose_layout)",
                    "how values lie in memory is the choice of the code generator, kernel by kernel",
                )
                _refuse(f"there is no layout {c.name.text}", c.name.span, notes, "layout auto")
            self._values["layout"] = c.name.text
        elif isinstance(c, t.Dtype):
            self._once("dtype", c.span)
            self._values["dtype"] = self._dtype(c.name)
        elif isinstance(c, t.Tune):
            self._once("tune", c.span)
            self._values["tune"] = self._tune(c)
        elif isinstance(c, t.Limits):
            self._values["requirements"] += tuple(map(self._requirement, c.conditions))
        else:
            self._values["fuse"] += (self._fuse(c),)

    def _together(self) -> None:
        """What clauses say of each other."""
        target, dtype = self._values.get("target"), self._values.get("dtype")
        if target is not None and dtype is not None and dtype not in (able := DTYPES.get(target.kind, (DType.F32,))):
            notes = (f"it can be {', '.join(map(str, able))}",)
            message = f"nothing is computed in {dtype} on {target.kind}"
            if dtype is DType.I8:
                message += ": there is no quantisation yet"
            _refuse(message, self._places["dtype"], notes, nearest(str(dtype), map(str, able)))
        if "tune" in self._values and target is not None and not target.compiles:
            message = f"tuning runs kernels, and nothing runs on {self._text.target.text}, a model of costs"
            _refuse(message, self._places["tune"])
        lines = self._values["fuse"]
        for before, line in pairwise(lines):
            if isinstance(before, AutoLine):
                labels = (Label(line.span), Label(before.span, "this takes all nodes that are left"))
                message = "nothing is left for a line after `fuse auto`"
                raise NetcError([Diagnostic("plan", message, labels, fix="put `fuse auto` last")])
        names: dict[str, Span] = {}
        for line in lines:
            if isinstance(line, GroupLine) and line.name in names:
                labels = (Label(line.span), Label(names[line.name], "the first one"))
                raise NetcError([Diagnostic("plan", f"two groups are called {line.name}", labels)])
            if isinstance(line, GroupLine):
                names[line.name] = line.span

    def _once(self, name: str, span: Span) -> None:
        if name in self._places:
            labels = (Label(span), Label(self._places[name], "said here already"))
            raise NetcError([Diagnostic("plan", f"{name} is said twice", labels)])
        self._places[name] = span

    # -- values

    def _size(self, name: str, e: t.Expr) -> int:
        value = self._known.constant(e)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            _refuse(f"{name} is a whole number of at least 1, not {e.span.text}", e.span)
        return value

    def _dtype(self, name: t.Identifier) -> DType:
        able = dict.fromkeys(d for dtypes in DTYPES.values() for d in dtypes)
        words = [str(d) for d in able]
        if name.text not in words:
            notes = (f"dtypes of plans: {', '.join(words)}",)
            _refuse(f"a plan cannot compute in {name.text}", name.span, notes, nearest(name.text, words))
        return DType(name.text)

    def _tune(self, c: t.Tune) -> Tuning:
        found: dict[str, Any] = {}
        for name, e in c.entries:
            if name.text not in TUNE:
                notes = (f"tuning stops after so many {' or '.join(TUNE)}",)
                _refuse(f"tune takes no {name.text}", name.span, notes, nearest(name.text, TUNE))
            if name.text in found:
                _refuse(f"{name.text} is said twice", name.span)
            value = self._known.constant(e)
            whole = name.text == "trials"
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not 0 < value < 1e9:
                what = "a whole number of at least 1" if whole else "a number above 0"
                _refuse(f"{name.text} is {what}, not {e.span.text}", e.span)
            found[name.text] = value
        return Tuning(found.get("trials"), found.get("minutes"), c.span)

    def _requirement(self, e: t.Expr) -> Requirement:
        if not isinstance(e, t.Binary) or not isinstance(e.left, t.Name) or e.op != "<=":
            fix = f"{e.left.span.text} <= {e.right.span.text}" if isinstance(e, t.Binary) and e.op == "<" else None
            _refuse("a requirement is a limit, such as `latency <= 20 ms`", e.span, (), fix)
        name = e.left.text
        if name not in LIMITS:
            notes = (f"limits: {', '.join(LIMITS)}",)
            _refuse(f"{name} cannot be required", e.left.span, notes, nearest(name, LIMITS))
        problem = wrong_unit(name, LIMITS[name], e.right)
        if problem is not None:
            raise NetcError([problem])
        value = self._known.constant(e.right)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            example = EXAMPLES[LIMITS[name]]
            _refuse(f"{name} is limited by a number above 0, not {e.right.span.text}", e.right.span, (), example)
        return Requirement(name, value, e.span)

    # -- fuse

    def _fuse(self, c: t.FuseGroup | t.FusePattern | t.FuseAuto) -> FuseLine:
        if isinstance(c, t.FusePattern):
            return PatternLine(_Patterns(self._known).read(c.pattern), c.span)
        if isinstance(c, t.FuseAuto):
            return self._auto(c)
        if not c.paths:
            _refuse(f"the group {c.name.text} is empty", c.span, (), f"fuse group {c.name.text} = [conv1, relu]")
        return GroupLine(c.name.text, tuple((self._known.constant(p.text), p.span) for p in c.paths), c.span)

    def _auto(self, c: t.FuseAuto) -> AutoLine:
        words = {a.name.text: a for a in c.arguments if a.name is not None and a.name.text in ("minimize", "planner")}
        minimize = self._word(words.get("minimize"), get_args(Minimize), "dram", "auto minimizes")
        raced = minimize == "latency" and getattr(self._values.get("target"), "compiles", False)
        if minimize == "latency" and not raced and "target" in self._values:
            message = f"latency is measured, and nothing runs on {self._text.target.text}, a model of costs"
            _refuse(message, words["minimize"].span, (), "fuse auto(minimize = dram)")
        planner = self._word(
            words.get("planner"), tuple(self._known.planners), RACED[0] if raced else PLANNER, "the planner is"
        )
        if raced and planner not in RACED:
            message = "what is joined for latency is measured, and no planner chooses it"
            notes = (f"the kernels to begin with are those of the planner {' or '.join(RACED)}",)
            _refuse(message, words["planner"].span, notes, "fuse auto(minimize = latency)")
        rest = [a for a in c.arguments if a not in words.values()]
        for argument in rest:
            if argument.name is not None and argument.name.text in words:
                _refuse(f"{argument.name.text} is given twice", words[argument.name.text].span)
            if argument.name is None:
                _refuse("auto takes its options by name", argument.span, (), "fuse auto(minimize = dram)")
        options = read_options(
            f"the planner {planner}", "plan", self._known.planners[planner], rest, c.span, self._option
        )
        return AutoLine(minimize, planner, options, c.span)  # pyright: ignore[reportArgumentType] (_word: one of them)

    def _word(self, argument: t.Argument | None, words: Sequence[str], default: str, what: str) -> str:
        if argument is None:
            return default
        written = argument.value.span.text.strip('"')
        if written not in words:
            notes = (f"it can be {', '.join(words)}",)
            _refuse(f"{what} {' or '.join(words)}, not {written}", argument.value.span, notes, nearest(written, words))
        return written

    def _option(self, e: t.Expr, wanted: Any) -> Any:
        """The value of a planner's option; a word where the option takes words."""
        if isinstance(e, t.Name) and any(isinstance(word, str) for word in _literals(wanted)):
            return e.text
        return self._known.constant(e)


def _literals(annotation: Any) -> Iterator[Any]:
    for part in get_args(annotation):
        yield from _literals(part) if get_args(part) else (part,)


# ------------------------------------------------------------------------------------------------------- patterns


class _Patterns:
    def __init__(self, known: Known) -> None:
        self._known = known

    def read(self, e: t.Expr) -> Pattern:
        pattern = self._part(e)
        if _may_be_nothing(pattern):
            message = "this pattern is met by no node at all: each of its operators may be left out"
            _refuse(message, e.span, (), "leave the `?` out at one of its operators")
        return pattern

    def _part(self, e: t.Expr) -> Pattern:
        if isinstance(e, t.Pipe):
            return Chain((*_flat(self._part(e.value), Chain), *_flat(self._part(e.stage), Chain)))
        if isinstance(e, t.Binary):
            return Either((*_flat(self._part(e.left), Either), *_flat(self._part(e.right), Either)))
        if isinstance(e, t.Quantified):
            return Maybe(self._part(e.stage)) if e.mark == "?" else Repeat(self._part(e.stage))
        arguments = e.arguments if isinstance(e, t.Call) else ()
        function = e.function if isinstance(e, t.Call) else e
        assert isinstance(function, t.Name)  # by the grammar
        return Operation(function.text, self._attributes(self._operator(function), arguments), e.span)

    def _operator(self, name: t.Name) -> type[Operator]:
        cls = OPERATORS.get(name.text)
        if cls is None or name.text == "input":
            raise NetcError([unknown_name(name.text, name.span, (), called=True)])
        if name.text in self._known.moves or cls.becomes in self._known.moves:
            note = "patterns look through what only moves values: leave it out"
            _refuse(f"{name.text} computes nothing, and belongs to no group", name.span, (note,))
        if cls.becomes:
            _refuse(f"{name.text} never stands in a graph, where it is {cls.becomes}", name.span, (), cls.becomes)
        return cls

    def _attributes(self, cls: type[Operator], arguments: Sequence[t.Argument]) -> dict[str, Any]:
        window = ["kernel_size"] if cls.name in WINDOWED else []
        known = [*(f.name for f in fields(cast(Any, cls))), *window]
        found: dict[str, Any] = {}
        for argument in arguments:
            name = "" if argument.name is None else argument.name.text
            notes = (f"attributes of {cls.name}: {', '.join(known) or 'none'}",)
            if not name:
                _refuse("a pattern names the attributes that it wants", argument.span, notes)
            if name not in known:
                operands = [o.name for o in cls.operands]
                what = "an operand, and patterns ask about attributes only" if name in operands else "no attribute"
                _refuse(f"{name} is {what} of {cls.name}", argument.span, notes, nearest(name, known))
            if name in found:
                _refuse(f"{name} is given twice", argument.span)
            found[name] = self._known.constant(argument.value)
            if name in window:
                _check_window(found[name], argument)
                continue
            try:
                validate(cls, {name: found[name]})
            except ValidationError as error:
                for one in error.errors():
                    if one["loc"] and one["loc"][0] == name:
                        reason = one["msg"].removeprefix("Value error, ").lower()
                        _refuse(f"{name} of {cls.name}: {reason}", argument.span)
        return found


def _check_window(value: Any, argument: t.Argument) -> None:
    sizes: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
    if not sizes or not all(type(size) is int and size > 0 for size in sizes):
        _refuse("kernel_size is a number, or a list of one for each axis", argument.span, (), "kernel_size = 3")


def _flat(pattern: Pattern, kind: type[Chain] | type[Either]) -> tuple[Pattern, ...]:
    if isinstance(pattern, kind):
        return pattern.parts if isinstance(pattern, Chain) else pattern.choices
    return (pattern,)


def _may_be_nothing(pattern: Pattern) -> bool:
    if isinstance(pattern, Chain):
        return all(map(_may_be_nothing, pattern.parts))
    if isinstance(pattern, Either):
        return any(map(_may_be_nothing, pattern.choices))
    return isinstance(pattern, Maybe) or (isinstance(pattern, Repeat) and _may_be_nothing(pattern.part))


def _refuse(message: str, span: Span, notes: tuple[str, ...] = (), fix: str | None = None) -> NoReturn:
    raise NetcError([Diagnostic("plan", message, (Label(span),), notes, fix)])
