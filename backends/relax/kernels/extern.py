"""The rule of a user's own function: tensor expressions that its declaration names for TVM."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ....compiler.diagnostic import Diagnostic, NetcError
from ....compiler.operators.extern import Extern
from ....compiler.types import DType, Expression, TensorType
from ..half import STORED
from ..kernel import Kernel, Pattern, View
from ..lower import Inputs, Lowering, Types, rules
from ..tensor import Tensor
from ..untyped import tvm


@rules(Extern)
def _extern(low: Lowering, node: Extern, inputs: Inputs, types: Types) -> tuple[Tensor, ...]:
    """`function(*te.Tensor, **attributes)` gives a `te.Tensor`, or a tuple of them; it is scheduled like any kernel."""
    function = _implementation(low, node)
    if any(t.dtype is DType.BF16 for t in (*(x.type for x in inputs if x is not None), *types)):
        message = "takes or gives bf16, of which TVM computes wrong numbers"
        raise NetcError([_problem(low, node, message, fix="cast to f32 before it")])

    def body(kernel: Kernel, *views: View) -> tuple[Any, ...]:
        attributes = {n: kernel.dim(v) if isinstance(v, Expression) else v for n, v in node.attributes_}
        made = function(*(v.tensor for v in views), **attributes)
        outputs = tuple(made) if isinstance(made, tuple | list) else (made,)
        _check(low, node, kernel, outputs, types)
        return outputs

    stored = [low.plain(x) if x.number is None else low.fill(x) for x in inputs]
    return low.kernel(node.name_, stored, list(types), body, pattern=Pattern.OPAQUE)


def _implementation(low: Lowering, node: Extern) -> Any:
    places = dict(node.implementations)
    if "tvm" not in places:
        notes = (f"it has implementations for: {', '.join(sorted(places)) or 'nothing'}",)
        raise NetcError([_problem(low, node, "names no function for TVM", notes, 'tvm "module:function"')])
    module, _, name = places["tvm"].partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise NetcError([_problem(low, node, f"cannot be found at {places['tvm']}: {error}")]) from error


def _check(low: Lowering, node: Extern, kernel: Kernel, outputs: tuple[Any, ...], types: Types) -> None:
    """Hold what the function made to what its declaration says."""
    found = [f"{t.dtype}[{', '.join(str(getattr(d, 'value', d)) for d in t.shape)}]" for t in outputs]
    same = len(outputs) == len(types) and all(_fits(kernel, t, w) for t, w in zip(outputs, types, strict=True))
    if not same:
        wanted = ", ".join(map(str, types))
        raise NetcError([_problem(low, node, f"is declared to give {wanted}, but gives {', '.join(found)}")])


def _fits(kernel: Kernel, tensor: Any, type: TensorType) -> bool:
    wanted = [kernel.dim(d) for d in type.shape] or [kernel.dim(1)]
    equal = tvm.sym.Analyzer().can_prove_equal
    same = len(wanted) == len(tensor.shape) and all(equal(a, b) for a, b in zip(wanted, tensor.shape, strict=True))
    return same and str(tensor.dtype) == STORED[type.dtype]


def _problem(low: Lowering, node: Extern, text: str, notes: tuple[str, ...] = (), fix: str | None = None) -> Diagnostic:
    return Diagnostic("no-implementation", f"{node.name_} at %{low.path} {text}", (), notes, fix)
