"""What the body of a kernel is written with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from enum import IntEnum
from typing import Any

from ...compiler.types import Dim, Expression, divide
from .half import DTYPES, HALF, STORED, narrowed, widened
from .index import literal
from .machine import Machine
from .tensor import Code, Order, Tensor, index_expression, logical, plain
from .untyped import te, tirx


class Pattern(IntEnum):
    """How a kernel takes part in Relax's fusion (`relay::OpPatternKind`)."""

    ELEMENTWISE = 0
    BROADCAST = 1
    INJECTIVE = 2
    REDUCTION = 3
    FUSABLE = 4  # takes element-wise followers into its loops
    OPAQUE = 8


class View:
    """A kernel's argument, read by logical index whatever its storage."""

    def __init__(self, tensor: Tensor, kernel: Kernel, source: Any) -> None:
        self.type = tensor.type
        self.shape = tuple(kernel.dim(d) for d in tensor.type.shape)
        self.dtype = DTYPES[tensor.type.dtype]
        self.number = tensor.number
        self._order = tensor.storage[1]
        self._place = tensor.place
        self._kernel = kernel
        self._source = source
        self._code = tensor.code
        self._stored = tensor.kept
        self._decodes = True

    def kept(self) -> View:
        """A view of what is in memory: of the bits of bf16, and of integers that stand for other numbers."""
        view = copy(self)
        view.dtype = STORED[self._stored]
        view._decodes = False
        return view

    @property
    def tensor(self) -> Any:
        """The argument as it is stored: a `te.Tensor`, of one element for rank 0."""
        return self._source

    def __getitem__(self, index: Sequence[Any]) -> Any:
        """The element at a logical index, one expression an axis."""
        assert len(index) == len(self.shape), f"an index of {len(index)} into {self.type}"
        if isinstance(self.number, Expression):
            return self._rounded(tirx.Cast(self.dtype, self._kernel.dim(self.number)))
        if self.number is not None:
            return tirx.const(self._exact(self.number), self.dtype)
        if self._place is not None:
            index = self._place(index, self._kernel)
        value = self._source(*([index[a] for a in self._order] or [literal(0)]))
        if not self._decodes:
            return value
        return widened(value, self.type.dtype) if self._code is None else decoded(value, self._code, self.dtype)

    def _rounded(self, value: Any) -> Any:
        return widened(narrowed(value, self.type.dtype), self.type.dtype)

    def _exact(self, value: float) -> float:
        """A number as its dtype has it."""
        return type(value)(self.type.dtype.as_numpy.type(value)) if self.type.dtype in HALF else value

    def broadcast(self, index: Sequence[Any]) -> Any:
        """The element for an index into a shape that this one broadcasts to."""
        own = index[len(index) - len(self.shape) :]
        return self[[literal(0) if d == 1 else i for i, d in zip(own, self.type.shape, strict=True)]]


def decoded(value: Any, code: Code, dtype: str) -> Any:
    """The number that an integer in memory stands for."""
    number = tirx.Cast("int32", value)
    if code.zero:
        number = number - tirx.const(code.zero, "int32")
    number = number if dtype == "int32" else tirx.Cast(dtype, number)
    return number if code.scale is None else number * tirx.const(code.scale, dtype)


class Kernel:
    """What a kernel's body is written with: dimensions, reduction axes and stages."""

    def __init__(self, name: str, machine: Machine) -> None:
        self.name = name
        self.machine = machine
        self.symbols: dict[str, Any] = {}

    def dim(self, dim: Dim) -> Any:
        """A dimension as an expression over this kernel's variables."""
        return index_expression(dim, self._symbol)

    def _symbol(self, name: str) -> Any:
        return self.symbols.setdefault(name, tirx.Var(name, "int64"))

    def whole(self, dim: Dim, multiple: int) -> tuple[Any, bool]:
        """The extent of an axis brought to whole tiles, and whether that lengthens it.

        A symbolic one is padded in the very form that splitting a loop gives, in which the scheduler recognises it.
        """
        if divide(dim, multiple) is not None:
            return self.dim(dim), False
        if isinstance(dim, int):
            return literal(-(-dim // multiple) * multiple), True
        return tirx.floordiv(self.dim(dim) + literal(multiple - 1), literal(multiple)) * literal(multiple), True

    def axis(self, extent: Any, name: str) -> Any:
        """A reduction axis; the extent is a `Dim` or an expression."""
        return te.reduce_axis((literal(0), self._extent(extent)), name)

    def _extent(self, extent: Any) -> Any:
        return self.dim(extent) if isinstance(extent, int | Expression) else extent

    def stage(
        self,
        shape: Sequence[Any],
        function: Callable[..., Any],
        name: str | None = None,
        *,
        order: Order | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Any:
        """A tensor by formula: `function` takes a logical index; the result is stored in `order`.

        Attributes become block annotations, which the schedule rules read.
        """
        order = plain(len(shape)) if order is None else order
        # A block needs a loop: storage of rank 0 is one element.
        extents = [self._extent(shape[a]) for a in order] or [literal(1)]

        def body(*stored: Any) -> Any:
            return function(*logical(order, stored[: len(order)]))

        return te.compute(extents, body, name=name or self.name, attrs=dict(attributes or {}))
