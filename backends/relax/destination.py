"""Results where the caller wants them: `main_into` is `main`, but takes a tensor for every output, and writes there."""

from __future__ import annotations

from typing import Any

from .untyped import relax, tvm

INTO = "main_into"


def with_destinations(module: Any) -> Any:
    """The module with `main_into`, which takes `main`'s arguments and one for each output.

    It returns the outputs too: those tensors, but where an output is an argument of `main`, a view, or one that was
    there before; then the caller copies.
    """
    function = tvm.relax.utils.copy_with_new_vars(module["main"])
    values = {b.var: b.value for block in function.body.blocks for b in block.bindings}
    targets: list[Any] = []
    made: dict[Any, Any] = {}
    for i, output in enumerate(_followed(function.body.body, values).fields):
        target = relax.Var(f"to_{i}", output.ty)
        targets.append(target)
        variable = _source(output, values)
        if variable is not None and variable not in made:
            made[variable] = target
    blocks: list[Any] = []
    for block in function.body.blocks:
        blocks.append(
            relax.BindingBlock([relax.VarBinding(b.var, made.get(b.var, _fresh(b.value))) for b in block.bindings])
        )
    body = relax.SeqExpr(blocks, function.body.body)
    parameters = [*function.params, *targets]
    into = relax.Function(parameters, body, function.ret_ty, function.is_pure, function.attrs)
    module[INTO] = into.with_attr("global_symbol", INTO)
    return relax.transform.Normalize()(module)


def _fresh(value: Any) -> Any:
    """An allocation of its own: TVM plans memory by the identity of calls, and the copy of a function shares them."""
    if not _allocates(value):
        return value
    return relax.Call(value.op, value.args, value.attrs, value.ty_args, value.span)


def _allocates(value: Any) -> bool:
    return isinstance(value, relax.Call) and str(getattr(value.op, "name", "")) == "relax.builtin.alloc_tensor"


def _followed(value: Any, values: dict[Any, Any]) -> Any:
    while value in values and not isinstance(value, relax.Tuple):
        value = values[value]
    return value


def _source(output: Any, values: dict[Any, Any]) -> Any:
    """The variable of the allocation that an output is, if it is one."""
    while output in values:
        value = values[output]
        if _allocates(value):
            return output if list(value.ty.shape) == list(output.ty.shape) else None
        output = value
    return None
