"""The syntax tree: what a text says, before anything is known about it. Every node knows its span."""

from __future__ import annotations

from dataclasses import dataclass

from .source import Span


@dataclass(frozen=True, slots=True)
class Tree:
    span: Span


@dataclass(frozen=True, slots=True)
class Expr(Tree):
    pass


@dataclass(frozen=True, slots=True)
class Identifier(Tree):
    """A name where it is introduced or looked up by kind (not an expression)."""

    text: str


@dataclass(frozen=True, slots=True)
class Name(Expr):
    text: str


@dataclass(frozen=True, slots=True)
class Number(Expr):
    value: int | float
    unit: str | None


@dataclass(frozen=True, slots=True)
class Text(Expr):
    """A string: literal pieces and interpolated expressions. `raw` is the text between the quotes as written."""

    parts: tuple[str | Expr, ...]
    raw: str


@dataclass(frozen=True, slots=True)
class Constant(Expr):
    """`true`, `false`, `none`."""

    value: bool | None


@dataclass(frozen=True, slots=True)
class ValueName(Expr):
    """`%path` or `%path:1` of the normal form."""

    path: str
    index: int


@dataclass(frozen=True, slots=True)
class ParameterName(Expr):
    """`@path` of the normal form."""

    path: str


@dataclass(frozen=True, slots=True)
class ListOf(Expr):
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class TupleOf(Expr):
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Comprehension(Expr):
    body: Expr
    names: tuple[Identifier, ...]
    over: Expr
    condition: Expr | None


@dataclass(frozen=True, slots=True)
class Unary(Expr):
    op: str
    operand: Expr


@dataclass(frozen=True, slots=True)
class Binary(Expr):
    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Conditional(Expr):
    condition: Expr
    then: Expr
    other: Expr


@dataclass(frozen=True, slots=True)
class Range(Expr):
    start: Expr
    stop: Expr


@dataclass(frozen=True, slots=True)
class Argument(Tree):
    name: Identifier | None
    value: Expr


@dataclass(frozen=True, slots=True)
class Rest(Expr):
    """`*attrs` among arguments: in a pattern all attributes that are not named, elsewhere those attributes."""

    name: Identifier


@dataclass(frozen=True, slots=True)
class Quantified(Expr):
    """A stage of a pattern that may be absent (`?`), or stand several times in a row (`+`)."""

    stage: Expr
    mark: str


@dataclass(frozen=True, slots=True)
class Call(Expr):
    function: Expr
    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Slice(Tree):
    start: Expr | None
    stop: Expr | None
    step: Expr | None


@dataclass(frozen=True, slots=True)
class Ellipsis(Tree):
    pass


@dataclass(frozen=True, slots=True)
class Index(Expr):
    value: Expr
    items: tuple[Expr | Slice | Ellipsis, ...]


@dataclass(frozen=True, slots=True)
class Attribute(Expr):
    value: Expr
    name: Identifier


@dataclass(frozen=True, slots=True)
class Pipe(Expr):
    value: Expr
    stage: Expr


@dataclass(frozen=True, slots=True)
class Path(Tree):
    """A path after `as`: plain, or a string that may interpolate."""

    text: Text


@dataclass(frozen=True, slots=True)
class Named(Expr):
    value: Expr
    path: Path


@dataclass(frozen=True, slots=True)
class PlainType(Tree):
    """`int`, `module`, …: the kind of a compile-time value."""

    name: Identifier


@dataclass(frozen=True, slots=True)
class ShapeType(Tree):
    """`f32[N, ..., d]`; without a dtype any is accepted."""

    dtype: Identifier | None
    dimensions: tuple[Expr | Ellipsis, ...]


Type = PlainType | ShapeType


@dataclass(frozen=True, slots=True)
class Typed(Tree):
    name: Identifier
    type: Type


@dataclass(frozen=True, slots=True)
class Applied(Expr):
    """A module applied to formal inputs: `ResNet(Basic) (x: f32[N, 3, 224, 224])`."""

    function: Expr
    inputs: tuple[Typed, ...]


# ------------------------------------------------------------------------------------------------- statements


@dataclass(frozen=True, slots=True)
class Statement(Tree):
    pass


@dataclass(frozen=True, slots=True)
class Block(Tree):
    statements: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Assign(Statement):
    names: tuple[Identifier, ...]
    values: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Let(Statement):
    name: Identifier
    value: Expr


@dataclass(frozen=True, slots=True)
class Param(Statement):
    buffer: bool
    name: Identifier
    path: Path | None
    type: Type
    initial: Expr


@dataclass(frozen=True, slots=True)
class For(Statement):
    names: tuple[Identifier, ...]
    over: Expr
    body: Block


@dataclass(frozen=True, slots=True)
class If(Statement):
    condition: Expr
    then: Block
    other: Block | If | None


@dataclass(frozen=True, slots=True)
class Output(Tree):
    name: Identifier | None
    value: Expr


@dataclass(frozen=True, slots=True)
class Return(Statement):
    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True)
class Tap(Statement):
    name: Text
    value: Expr


@dataclass(frozen=True, slots=True)
class PhasePart(Statement):
    phase: str
    body: Block


@dataclass(frozen=True, slots=True)
class Freeze(Statement):
    pattern: Expr


@dataclass(frozen=True, slots=True)
class Require(Statement):
    condition: Expr
    message: Expr | None


# ------------------------------------------------------------------------------------------------- declarations


@dataclass(frozen=True, slots=True)
class Declaration(Tree):
    pass


@dataclass(frozen=True, slots=True)
class Import(Declaration):
    path: Text
    names: tuple[tuple[Identifier, Identifier], ...]
    """(name there, name here)."""


@dataclass(frozen=True, slots=True)
class Field(Tree):
    name: Identifier
    type: Type | None
    default: Expr | None


@dataclass(frozen=True, slots=True)
class Module(Declaration):
    name: Identifier
    parameters: tuple[Field, ...]
    inputs: tuple[Field, ...]
    outputs: tuple[Type, ...]
    body: Block


@dataclass(frozen=True, slots=True)
class Model(Declaration):
    name: Identifier
    value: Expr


@dataclass(frozen=True, slots=True)
class Family(Declaration):
    name: Identifier
    value: Expr


@dataclass(frozen=True, slots=True)
class Data(Declaration):
    name: Identifier
    value: Expr


@dataclass(frozen=True, slots=True)
class TopLet(Declaration):
    name: Identifier
    value: Expr


@dataclass(frozen=True, slots=True)
class Func(Declaration):
    name: Identifier
    parameters: tuple[Field, ...]
    body: Expr


@dataclass(frozen=True, slots=True)
class Extern(Declaration):
    name: Identifier
    parameters: tuple[Field, ...]
    inputs: tuple[Field, ...]
    outputs: tuple[Type, ...]
    implementations: tuple[tuple[Identifier, Text], ...]


@dataclass(frozen=True, slots=True)
class RenamePlace(Tree):
    pattern: Text
    part: tuple[int | str, int | str] | None
    """`[0 of 3]`: which of how many equal parts along axis 0."""


@dataclass(frozen=True, slots=True)
class RenameMove(Tree):
    source: RenamePlace
    target: RenamePlace
    steps: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class RenameDrop(Tree):
    pattern: Text


@dataclass(frozen=True, slots=True)
class Rename(Declaration):
    name: Identifier
    rules: tuple[RenameMove | RenameDrop, ...]


@dataclass(frozen=True, slots=True)
class Match(Tree):
    """`match a, b = pattern`: the values that are replaced, and what must compute them."""

    names: tuple[Identifier, ...]
    pattern: Expr


@dataclass(frozen=True, slots=True)
class Where(Tree):
    conditions: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Replace(Tree):
    names: tuple[Identifier, ...]
    values: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class ContractText(Tree):
    """`exact`, `approx(1e-5)`, `delayed(2)`, `alters`."""

    kind: Identifier
    bound: Expr | None


@dataclass(frozen=True, slots=True)
class Rewrite(Declaration):
    name: Identifier
    contract: ContractText
    when: Identifier | None
    clauses: tuple[Match | Where | Let | Replace, ...]


@dataclass(frozen=True, slots=True)
class Pipeline(Declaration):
    """`pipeline name = pass |> pass(option = …)`."""

    name: Identifier
    steps: Expr


@dataclass(frozen=True, slots=True)
class Remote(Tree):
    """`remote(host = "farm:9190", key = "pi4")`: the devices that a target is measured on."""

    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Target(Declaration):
    name: Identifier
    value: Expr
    remote: Remote | None


@dataclass(frozen=True, slots=True)
class Batch(Tree):
    size: Expr


@dataclass(frozen=True, slots=True)
class Bind(Tree):
    """`bind T = 128`: symbols by name."""

    sizes: tuple[tuple[Identifier, Expr], ...]


@dataclass(frozen=True, slots=True)
class Apply(Tree):
    """`apply fold, eliminate_dead(parameters = false)`."""

    steps: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Layout(Tree):
    name: Identifier


@dataclass(frozen=True, slots=True)
class Dtype(Tree):
    name: Identifier


@dataclass(frozen=True, slots=True)
class FuseGroup(Tree):
    """`fuse group stem = [conv1, "layer1.0.**"]`."""

    name: Identifier
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class FusePattern(Tree):
    """`fuse pattern conv2d |> batch_norm? |> (relu | silu)?`: names and calls of operators in `Pipe`, `Quantified` and
    `Binary` with the operator `|`."""

    pattern: Expr


@dataclass(frozen=True, slots=True)
class FuseAuto(Tree):
    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Tune(Tree):
    entries: tuple[tuple[Identifier, Expr], ...]


@dataclass(frozen=True, slots=True)
class Limits(Tree):
    """`require latency <= 20 ms, parameters <= 6 M`."""

    conditions: tuple[Expr, ...]


Clause = Batch | Bind | Apply | Layout | Dtype | FuseGroup | FusePattern | FuseAuto | Tune | Limits


@dataclass(frozen=True, slots=True)
class Plan(Declaration):
    """`plan name for model on target { … }`; the model is a `Name`, or an `Index` of a family's."""

    name: Identifier
    model: Expr
    target: Identifier
    clauses: tuple[Clause, ...]


@dataclass(frozen=True, slots=True)
class Expect(Declaration):
    name: Identifier
    arguments: tuple[Argument, ...]
    entries: tuple[tuple[Identifier, Expr], ...]


@dataclass(frozen=True, slots=True)
class GraphInput(Tree):
    value: ValueName
    type: Type


@dataclass(frozen=True, slots=True)
class GraphParameter(Tree):
    kind: str
    """`param`, `frozen` or `buffer`."""
    parameter: ParameterName
    type: Type
    initial: Expr


@dataclass(frozen=True, slots=True)
class GraphScope(Tree):
    path: str
    module: str
    instance: str | None


@dataclass(frozen=True, slots=True)
class GraphNode(Tree):
    phase: str | None
    value: ValueName
    types: tuple[Type, ...]
    expression: Expr


@dataclass(frozen=True, slots=True)
class GraphText(Declaration):
    name: Identifier
    lines: tuple[GraphInput | GraphParameter | GraphScope | GraphNode | Tap | Return, ...]


@dataclass(frozen=True, slots=True)
class File(Tree):
    declarations: tuple[Declaration, ...]
