"""Relax functions under construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...compiler.types import DType, Shape
from .half import STORED
from .tensor import index_expression
from .untyped import relax, tirx


class Stage:
    """One Relax function under construction: bindings in order, over one set of shape variables."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.parameters: list[Any] = []
        self.bindings: list[Any] = []
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

    def bind(self, value: Any, type: Any) -> Any:
        variable = relax.DataflowVar(f"v{len(self.bindings)}", type)
        self.bindings.append(relax.VarBinding(variable, value))
        return variable

    def module(self, outputs: Sequence[Any]) -> Any:
        """The IRModule of this function and its kernels; it returns the tuple of `outputs`."""
        result = relax.Var("result", relax.TupleType([o.ty for o in outputs]))
        block = relax.DataflowBlock([*self.bindings, relax.VarBinding(result, relax.Tuple(list(outputs)))])
        body = relax.SeqExpr([block], result)
        function = relax.Function(self.parameters, body, result.ty, is_pure=True)
        module = self.builder.get()
        module[self.name] = function.with_attr("global_symbol", self.name)
        return module
