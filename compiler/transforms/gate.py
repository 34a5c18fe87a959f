"""Sums of values by weights that are learned."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Edit, Parameter, Ref
from ..operators.arithmetic import Add, Mul
from ..operators.operator import Initialiser
from ..types import DType, TensorType
from .numbers import filled


def weight(edit: Edit, path: str, start: float, size: int = 1, dtype: DType = DType.F32) -> Ref:
    """A parameter of `size` numbers that all begin as `start`."""
    initialiser = Initialiser("zeros") if not start else Initialiser("constant", (start,))
    return edit.parameter(filled(Parameter(path, TensorType(dtype, (size,)), initialiser)))


def weighted(edit: Edit, path: str, values: Sequence[Ref], weights: Sequence[Ref]) -> Ref:
    """The sum of values of one type, each times its weight, by nodes below `path`."""
    total: Ref | None = None
    for value, factor in zip(values, weights, strict=True):
        term = edit.add(edit.fresh(f"{path}.mul"), Mul(), value, factor).value
        total = term if total is None else edit.add(edit.fresh(f"{path}.add"), Add(), total, term).value
    assert total is not None
    return total
