"""Relax functions under construction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...compiler.types import DType, Shape
from .half import STORED
from .tensor import index_expression
from .untyped import relax, tirx


@dataclass(frozen=True, eq=False)
class Binding:
    """One step of a function: a call of a kernel, part of its result, or a view (`within`) of what another made."""

    variable: Any
    value: Any
    owner: str = ""
    """The fusion group on whose account it is; nothing where there are no groups."""
    within: Callable[[Any], Any] | None = None
    """Of a view: the call of the kernel that computes it from its source, for use inside of one."""


class Stage:
    """One Relax function under construction: bindings in order, over one set of shape variables."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.parameters: list[Any] = []
        self.bindings: list[Binding] = []
        self.symbols: dict[str, Any] = {}
        self.builder: Any = relax.BlockBuilder()

    def symbol(self, name: str) -> Any:
        return self.symbols.setdefault(name, tirx.Var(name, "int64"))

    def type(self, dtype: DType, shape: Shape) -> Any:
        return relax.TensorType([index_expression(d, self.symbol) for d in shape], STORED[dtype])

    def parameter(self, name: str, dtype: DType, shape: Shape) -> Any:
        variable = relax.Var(name, self.type(dtype, shape))
        self.parameters.append(variable)
        return variable

    def bind(self, value: Any, type: Any, owner: str = "", within: Callable[[Any], Any] | None = None) -> Any:
        variable = relax.DataflowVar(f"v{len(self.bindings)}", type)
        self.bindings.append(Binding(variable, value, owner, within))
        return variable

    def module(self, outputs: Sequence[Any]) -> Any:
        """The IRModule of this function and its kernels; it returns the tuple of `outputs`."""
        return self.finished([relax.VarBinding(b.variable, b.value) for b in self.bindings], outputs)

    def finished(self, bindings: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """The module with these bindings as the body of the function."""
        result = relax.Var("result", relax.TupleType([o.ty for o in outputs]))
        block = relax.DataflowBlock([*bindings, relax.VarBinding(result, relax.Tuple(list(outputs)))])
        body = relax.SeqExpr([block], result)
        function = relax.Function(self.parameters, body, result.ty, is_pure=True)
        module = self.builder.get()
        module[self.name] = function.with_attr("global_symbol", self.name)
        return module
