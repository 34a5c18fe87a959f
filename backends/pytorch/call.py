"""What a rule sees of the node it translates: operands as text, numbers that may become arguments, sizes, dtypes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from ...compiler.graph import Graph, Node, Ref, Value
from ...compiler.operators.creation import Constant
from ...compiler.operators.operator import Operator
from ...compiler.types import Dim, DType, TensorType
from ...compiler.types import Expression as Polynomial
from ..rules import Rules
from .template import REQUIRED, Expression, Hole, Rank, bracket, literal, option


class Page(Protocol):
    """Where a rule's text goes: a forward method, or a constructor."""

    holes: list[Hole]

    def operand(self, ref: Ref, rank: Rank) -> str:
        """An operand, for a place that takes expressions up to `rank`."""
        ...

    def write_size(self, dim: Polynomial) -> Expression: ...

    def write_dtype(self, dtype: DType) -> str: ...

    def write_device(self) -> str: ...

    def helper(self, function: Callable[..., Any]) -> str:
        """The name of a function that the generated file then holds a copy of."""
        ...

    def external(self, place: str) -> str:
        """The name of a user's function, `module:function`, which the generated file then imports."""
        ...

    def constant(self, node: Node) -> str:
        """The buffer that holds a constant of rank ≥ 1."""
        ...


class Call:
    """One node, as a rule translates it. `layer` is the submodule that holds its weights, where it has one."""

    def __init__(self, graph: Graph, node: Node, page: Page, owner: str, layer: str | None = None) -> None:
        self.graph = graph
        self.node = node
        self.op: Any = node.op
        self.page = page
        self.layer = layer
        self.inputs = graph.input_types(node)
        self.outputs = node.types
        self._owner = owner

    def has(self, operand: int) -> bool:
        return operand < len(self.node.inputs) and self.node.inputs[operand] is not None

    def type(self, operand: int) -> TensorType:
        found = self.inputs[operand]
        assert found is not None
        return found

    def place(self, operand: int, rank: Rank = Rank.ANY) -> str:
        """An operand for a place that takes expressions up to `rank`; the default is an argument of a call."""
        ref = self.node.inputs[operand]
        assert ref is not None
        return self.page.operand(ref, rank)

    def __getitem__(self, operand: int) -> str:
        """An operand as an argument; `None` where it is absent."""
        return self.place(operand) if self.has(operand) else "None"

    def atom(self, operand: int) -> str:
        """An operand that a dot or bracket can follow."""
        return self.place(operand, Rank.ATOM)

    def rest(self, start: int = 0) -> list[str]:
        """The operands from `start` on, as arguments."""
        return [self[i] for i in range(start, len(self.node.inputs))]

    def scalar(self, operand: int) -> Any:
        """The number, or dimension, that an operand is; None where it is no constant of rank 0."""
        ref = self.node.inputs[operand]
        if not isinstance(ref, Value):
            return None
        node = self.graph.nodes[ref.node]
        return node.op.value if isinstance(node.op, Constant) and not node.types[0].shape else None

    def number(self, value: Any, hint: str) -> str:
        """A literal; where instances of a class differ in it, it becomes the constructor argument `hint`."""
        return literal(self._hole(value, hint))

    def option(self, name: str, value: Any, default: Any = REQUIRED) -> str:
        """`, name=value`, or nothing where it is the default."""
        return option(self._hole(value, name, default))

    def _hole(self, value: Any, hint: str, default: Any = REQUIRED) -> int:
        self.page.holes.append(Hole(value, hint, self._owner, default))
        return len(self.page.holes) - 1

    def size(self, dim: Dim, hint: str = "size", rank: Rank = Rank.ANY) -> str:
        """A size or position, read off the tensors where it is symbolic."""
        return bracket(self.page.write_size(dim), rank) if isinstance(dim, Polynomial) else self.number(dim, hint)

    def sizes(self, shape: Sequence[Dim], hint: str = "size") -> str:
        """Sizes, comma-separated."""
        return ", ".join(self.size(d, hint) for d in shape)

    def value(self, value: Any, hint: str = "value", rank: Rank = Rank.ANY) -> str:
        """What `scalar` gave, for a place that takes expressions up to `rank`."""
        if isinstance(value, Polynomial):
            return self.size(value, hint, rank)
        text = self.number(value, hint)
        return f"({text})" if rank < Rank.UNARY and value < 0 else text

    def axis(self, dim: int, rank: int) -> str:
        """A dim; the last is -1, as one writes it."""
        return self.number(-1 if dim == rank - 1 else dim, "dim")

    def axes(self, dims: Sequence[int], rank: int) -> str:
        """Dims as one literal; a single one is an int."""
        found = tuple(-1 if d == rank - 1 and len(dims) == 1 else d for d in dims)
        return self.number(found[0] if len(found) == 1 else found, "dim")

    def dtype(self, dtype: DType) -> str:
        return self.page.write_dtype(dtype)

    @property
    def device(self) -> str:
        return self.page.write_device()

    def helper(self, function: Callable[..., Any]) -> str:
        return self.page.helper(function)


Rule = Callable[[Call], str | Expression]

RULES: Rules[Rule] = Rules("pytorch")
"""How each operator is written in a forward method."""


class Layers(dict[type[Operator], Callable[[Call], "str | None"]]):
    """How the layers of operators are constructed; None where PyTorch's layer does not fit the node."""

    def __call__(self, *ops: type[Operator]) -> Callable[[Constructor], Constructor]:
        """Decorator: this function constructs the layer of these operators."""

        def register(function: Constructor) -> Constructor:
            self.update(dict.fromkeys(ops, function))
            return function

        return register


Constructor = TypeVar("Constructor", bound=Callable[[Call], "str | None"])

LAYERS = Layers()
"""Layers that own the weights of an operator."""

MODULES: dict[type[Operator], Callable[[Call], str | None]] = {}
"""Modules of operators without weights, for places in an `nn.Sequential`; None where there is none for the node."""


def compact(values: Iterable[int]) -> int | tuple[int, ...]:
    """One number where all are equal, as PyTorch's spatial arguments allow."""
    found = tuple(values)
    return found[0] if len(set(found)) == 1 else found


def local(op: str, path: str) -> str:
    """A readable name from a path: its last component that is no number, without the count of the call."""
    parts = [p.partition("~")[0] for p in path.split(".")]
    return next((p for p in reversed(parts) if p and not p.isdigit()), op)
