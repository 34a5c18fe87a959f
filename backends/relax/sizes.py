"""Sizes that fused kernels take as numbers, in an order of their own."""

from __future__ import annotations

from typing import Any

from .untyped import relax, tirx, tvm


def with_ordered_sizes(module: Any) -> Any:
    """The module with the scalar parameters of every kernel, and the arguments for them, in the order of their names.

    TVM's fusion puts them in the order of a hash of addresses; the same model should give the same bytes.
    """
    places: dict[str, list[int]] = {}
    for variable, function in list(module.functions.items()):
        if isinstance(function, tirx.PrimFunc):
            order = _order(function)
            if order != sorted(order):
                parameters = [function.params[i] for i in order]
                module[variable] = tirx.PrimFunc(parameters, function.body, function.ret_type, function.attrs)
                places[str(variable.name_hint)] = order
    for variable, function in list(module.functions.items()):
        if places and isinstance(function, relax.Function):
            module[variable] = _reordered(function, places)
    return module


def _order(function: Any) -> list[int]:
    """Where each parameter comes from: those that are buffers stay, the others among themselves are sorted."""
    scalars = [i for i, p in enumerate(function.params) if isinstance(p.ty, tvm.ir.PrimType)]
    ordered = iter(sorted(scalars, key=lambda i: str(function.params[i].name)))
    return [next(ordered) if i in scalars else i for i in range(len(function.params))]


def _reordered(function: Any, places: dict[str, list[int]]) -> Any:
    """A function whose calls of the kernels in `places` pass their arguments in the new order."""
    blocks: list[Any] = []
    for block in function.body.blocks:
        bindings: list[Any] = []
        for binding in block.bindings:
            value = binding.value
            if _calls(value) in places:
                order = places[_calls(value)][: len(value.args[1].fields)]
                arguments = relax.Tuple([value.args[1].fields[i] for i in order])
                changed = relax.Call(value.op, [value.args[0], arguments, *value.args[2:]], value.attrs, value.ty_args)
                bindings.append(relax.VarBinding(binding.var, changed))
            else:
                bindings.append(binding)
        blocks.append(relax.DataflowBlock(bindings))
    body = relax.SeqExpr(blocks, function.body.body)
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)


def _calls(value: Any) -> str:
    """The kernel that a binding calls, or nothing."""
    if isinstance(value, relax.Call) and str(getattr(value.op, "name", "")) == "relax.call_tir":
        return str(value.args[0].name_hint)
    return ""
