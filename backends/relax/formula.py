"""Element-wise nodes as formulas of what a kernel holds, instead of kernels of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...compiler.types import TensorType
from .index import literal
from .kernel import View
from .lower import Lowering
from .tensor import Tensor, plain

Values = Mapping[Any, Any]
"""What formulas are of: for the name of a held value its element, for a tensor a view of it."""


@dataclass(frozen=True, eq=False)
class Formula(Tensor):
    """A value that is nowhere in memory: `element(index, values)` is the formula for it at an index."""

    element: Callable[[Sequence[Any], Values], Any] = lambda index, values: None
    reads: tuple[Tensor, ...] = ()
    """Tensors in memory whose views the formula needs."""

    def at(self, index: Sequence[Any], values: Values) -> Any:
        """The element for an index into a shape that this one broadcasts to."""
        return self.element(_own(index, self.type), values)


def held(type: TensorType, name: str) -> Formula:
    """A value of which the kernel holds the element at hand."""
    return Formula(type, None, plain(type.rank), False, element=lambda index, values: values[name])


class Formulas(Lowering):
    """A lowering of element-wise nodes whose results are formulas."""

    def __init__(self, low: Lowering) -> None:
        super().__init__(low.machine, low.choices, low.path)
        self._low = low

    def elementwise(
        self, name: str, inputs: Sequence[Tensor], type: TensorType, function: Callable[..., Any]
    ) -> Tensor:
        """The formula; a kernel where no input is one."""
        if not any(isinstance(t, Formula) for t in inputs):
            return self._low.elementwise(name, inputs, type, function)

        def element(index: Sequence[Any], values: Values) -> Any:
            return function(*(read(t, index, values) for t in inputs))

        reads = dict.fromkeys(r for t in inputs for r in (t.reads if isinstance(t, Formula) else (t,)))
        return Formula(type, None, plain(type.rank), False, element=element, reads=tuple(reads))

    def reshape(self, tensor: Tensor, type: TensorType) -> Tensor:
        """As the lowering at work does it: only what is in memory is put into another shape."""
        return self._low.reshape(tensor, type)


def read(tensor: Tensor, index: Sequence[Any], values: Values) -> Any:
    """The element of a formula, or of a tensor in memory, for an index that it broadcasts to."""
    if isinstance(tensor, Formula):
        return tensor.at(index, values)
    view: View = values[tensor]
    return view.broadcast(index)


def _own(index: Sequence[Any], type: TensorType) -> list[Any]:
    own = index[len(index) - type.rank :]
    return [literal(0) if d == 1 else i for i, d in zip(own, type.shape, strict=True)]
