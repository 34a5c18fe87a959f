"""What an operator is: attributes, shape rule, axis rule, cost, and expansion into simpler operators.

An operator class says what a node *means*; backends say how it is translated. Attributes are the fields of a frozen
dataclass, validated by pydantic where text comes in. Tensor inputs are the declared operands. Operators whose
weights usually belong to the layer have a `Layer` besides: the constructor that users write, which knows the
parameters to create.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, Literal, Protocol, TypeVar, dataclass_transform

from pydantic import ConfigDict, TypeAdapter

from ..types import Dim, DType, Shape, TensorType

Types = tuple[TensorType, ...]
"""Types of a node's inputs in operand order; see `Operator.operands` for absent ones."""

OptionalTypes = Sequence[TensorType | None]

V = TypeVar("V")


class ShapeError(Exception):
    """Raised by a shape rule. `operands` are indices of the inputs that disagree (all if empty)."""

    def __init__(
        self,
        message: str,
        *,
        operands: Sequence[int] = (),
        code: str = "shape-mismatch",
        fix: str | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.operands = tuple(operands)
        self.code = code
        self.fix = fix
        self.notes = tuple(notes)


@dataclass(frozen=True, slots=True)
class Operand:
    """A declared tensor input. `variadic` takes a list; only the last operand may be variadic. An `optional` one that
    is absent stands for the number `absent` (a bias for 0, a scale for 1), or for nothing that a number could say."""

    name: str
    optional: bool = False
    variadic: bool = False
    absent: int | None = None


def operands(text: str) -> tuple[Operand, ...]:
    """`"x weight bias?=0 mask?"`, `"tensors*"`: names, `?` for optional (and what it is when absent), `*` for
    variadic."""
    found: list[Operand] = []
    for word in text.split():
        name, _, absent = word.partition("=")
        number = int(absent) if absent else None
        found.append(Operand(name.rstrip("?*"), name.endswith("?"), name.endswith("*"), number))
    return tuple(found)


class Emit(Protocol[V]):
    """What an expansion writes to: the graph builder, or directly a backend."""

    def __call__(self, op: Operator, *inputs: V | None) -> V:
        """Add a node of one output and return its value."""
        ...

    def many(self, op: Operator, *inputs: V | None) -> tuple[V, ...]:
        """Add a node and return all its values."""
        ...

    def type(self, value: V) -> TensorType: ...


@dataclass(frozen=True, slots=True)
class Cost:
    """Arithmetic of one node. `macs` counts convolutions and matrix products only (FlopCounterMode's convention / 2);
    `flops` everything else: one per element-wise operation, comparison or transcendental."""

    macs: Dim = 0
    flops: Dim = 0


@dataclass(frozen=True, slots=True)
class Axes:
    """Which axes are the same dimension, as an einops-like pattern over inputs → outputs.

    `"n (g i) y x, (g o) i ky kx, (g o) -> n (g o) y2 x2"`: one group of axes per *present* input, comma-separated;
    equal labels are one dimension; `(a b)` is a row-major product; `(a + b)` a concatenation; `1` an axis of size 1
    that is broadcast. `fixed` maps labels that no transform may resize or permute to the reason. Labels in `ordered`
    may be resized but not permuted; labels in `mixed` may be permuted or replicated but not cut without changing the
    function (a normalisation's statistics run over them). `sizes` gives those that do not follow from the types.
    `units` names what one index of a label is, where that is more than a channel: a head, a group.
    """

    pattern: str
    fixed: Mapping[str, str] = field(default_factory=dict[str, str])
    ordered: frozenset[str] = frozenset()
    mixed: frozenset[str] = frozenset()
    sizes: Mapping[str, Dim] = field(default_factory=dict[str, Dim])
    units: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def operator(name: str) -> Callable[[type[Op]], type[Op]]:
    """Register an operator class under its name in the language and make it a frozen, slotted dataclass."""

    def register(cls: type[Op]) -> type[Op]:
        made = dataclass(frozen=True, slots=True)(cls)
        made.name = name
        made.__pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)  # type: ignore[attr-defined]
        if name in OPERATORS:
            raise ValueError(f"operator {name} is registered twice")
        OPERATORS[name] = made
        return made

    return register


class Operator:
    """Base of all operators. Subclasses are decorated with `@operator("name")`."""

    __slots__ = ()
    name: ClassVar[str]
    operands: ClassVar[tuple[Operand, ...]] = ()
    outputs: ClassVar[tuple[str, ...]] = ("output",)
    effect: ClassVar[Literal["none", "random", "state"]] = "none"
    derived: ClassVar[bool] = False
    """Whether `expand` is defined: a backend without a rule of its own uses the expansion."""
    becomes: ClassVar[str] = ""
    """The operator that its canonical form is, where that is another one: this one never stands in a graph then."""

    def shape(self, *inputs: TensorType | None) -> Types:
        """The output types. Absent optional operands are None; a variadic operand fills the tail.

        Raises:
            ShapeError: where the inputs do not fit; never for attributes alone (pydantic has checked those).
        """
        raise NotImplementedError

    def canonical(self, *inputs: TensorType | None) -> Operator:
        """The same operator with attributes in their one canonical form for inputs of these types: negative `dim`s
        counted from the front, `-1` in shapes resolved, defaults filled in. Graphs hold only canonical operators.

        Raises:
            ShapeError: where an attribute does not fit the inputs (a `dim` out of range).
        """
        return self

    def axes(self, *inputs: TensorType | None) -> Axes:
        """The axis pattern for inputs of these types (absent operands are left out of the pattern)."""
        raise NotImplementedError

    def resized(self, sizes: Mapping[str, Dim], outputs: Types) -> Operator:
        """The same operator where the labels of its axes have these sizes and its outputs these types: attributes that
        hold sizes follow. Labels that `axes` fixes keep theirs."""
        return self

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        """Arithmetic of one execution; default: one operation per output element."""
        return Cost(flops=sum((t.elements for t in outputs), 0))

    def expand(self, emit: Emit[V], *inputs: V | None) -> V | tuple[V, ...]:
        """The same function in simpler operators; only where `derived`."""
        raise NotImplementedError

    def attributes(self) -> dict[str, Any]:
        """Field names and values in declaration order."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]


Op = TypeVar("Op", bound=Operator)

OPERATORS: dict[str, type[Operator]] = {}
"""Every operator by name."""


@dataclass(frozen=True, slots=True)
class Initialiser:
    """How a parameter is filled where no weights are loaded: a name from `INITIALISERS` and its arguments."""

    kind: str
    arguments: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(map(repr, self.arguments))})" if self.arguments else self.kind


INITIALISERS: dict[str, tuple[str, ...]] = {
    "zeros": (),
    "ones": (),
    "constant": ("value",),
    "normal": ("mean", "std"),
    "trunc_normal": ("mean", "std"),
    "uniform": ("low", "high"),
    "kaiming_normal": (),
    "kaiming_uniform": (),
    "xavier_uniform": (),
    "xavier_normal": (),
    "fan_in_uniform": (),
    "identity": (),
    "given": (),
}
"""Initialisers and the names of their arguments. `kaiming_*`: fan-out, gain √2; `fan_in_uniform`: U(±1/√fan_in),
PyTorch's default of convolution and linear layers; fans are of the shape `[out, in, *kernel]`. `given`: the numbers are
data that comes with the model, and cannot be drawn."""


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """A parameter that a layer asks for. `buffer`: state that no optimiser touches (running statistics)."""

    shape: Shape
    initialiser: Initialiser
    dtype: DType = DType.F32
    buffer: bool = False


class Layer:
    """The constructor users write for an operator that owns parameters: `conv2d(64, 3, padding = 1)`.

    Subclasses are dataclasses decorated with `@layer("name")`; the field order is the order of positional arguments.
    """

    name: ClassVar[str]
    result: ClassVar[type[Operator]]

    def parameters(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> dict[str, ParameterSpec]:
        """Specs by operand name, for those not in `given` (weights passed as expressions). Names that are no operand
        fill the variadic operand in order (`weight_ih_l0`, … of `lstm`).

        Raises:
            ShapeError: where an argument cannot be derived, or the data input does not fit.
        """
        raise NotImplementedError

    def operator(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> Operator:
        """The node's operator, for data inputs and weights of these types."""
        raise NotImplementedError


LAYERS: dict[str, type[Layer]] = {}
"""Every layer constructor by name; the name is that of the operator it makes."""

L = TypeVar("L", bound=Layer)


@dataclass_transform(frozen_default=True)
def layer(name: str) -> Callable[[type[L]], type[L]]:
    """Register the constructor of the operator `name`."""

    def register(cls: type[L]) -> type[L]:
        made = dataclass(frozen=True)(cls)
        made.name = name
        made.result = OPERATORS[name]
        made.__pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)  # type: ignore[attr-defined]
        LAYERS[name] = made
        return made

    return register


@cache
def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def validate(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """An operator or layer from named values.

    Raises:
        pydantic.ValidationError: each error's `loc[0]` is the attribute's name.
    """
    return _adapter(cls).validate_python(dict(values))


@dataclass(frozen=True, slots=True)
class Sample:
    """One small, typical use of an operator: the material of conformance and property tests.

    `inputs` are types as text (`"f32[2, 3, 8, 8]"`), None where absent. Floats are drawn from a normal distribution,
    from (0.1, 2) for inputs in `positive`; integers from `0 <= i < high[input]` (default 2).
    """

    op: Operator
    inputs: tuple[str | None, ...]
    high: Mapping[int, int] = field(default_factory=dict[int, int])
    positive: frozenset[int] = frozenset()


SAMPLES: list[Sample] = []
"""All samples, several for each operator; each family adds its own at the end of its file."""


def sample(
    op: Operator, *inputs: str | None, high: Mapping[int, int] | None = None, positive: Sequence[int] = ()
) -> None:
    """Add a sample of an operator for inputs of these types."""
    SAMPLES.append(Sample(op, inputs, high or {}, frozenset(positive)))
