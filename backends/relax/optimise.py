"""The pass sequence between lowering and code generation."""

from __future__ import annotations

from typing import Any

from .machine import Machine
from .schedule import Report, schedule
from .untyped import relax, tirx, tvm

RT: Any = relax.transform


def optimise(module: Any, machine: Machine) -> tuple[Any, Report]:
    """Fuse and schedule a module, and bring it to what the virtual machine's code generator takes."""
    with machine.target:
        module = _sequence(
            RT.Normalize(), RT.DeadCodeElimination(), RT.FuseOps(), RT.FuseTIR(), RT.DeadCodeElimination()
        )(module)
        module, report = schedule(module, machine)
        module = _sequence(
            RT.ToNonDataflow(),
            RT.RemovePurityChecking(),
            RT.CallTIRRewrite(),
            RT.StaticPlanBlockMemory(),
            RT.LowerAllocTensor(),
            RT.KillAfterLastUse(),
            RT.LowerRuntimeBuiltin(),
            RT.ComputePrimValue(),
            RT.VMShapeLower(),
            RT.AttachGlobalSymbol(),
        )(module)
    return _without_aliases(module), report


def _without_aliases(module: Any) -> Any:
    """Promise for every function that its buffers do not overlap.

    TVM's LLVM code generator drops the promise of all functions of a module where the last one, which may be the
    arithmetic on symbolic shapes, does not give it; reductions then go through memory at a third of the speed.
    """
    for variable, function in list(module.functions.items()):
        if isinstance(function, tirx.PrimFunc):
            module[variable] = function.with_attr("tirx.noalias", True)
    return module


def generate(module: Any, machine: Machine) -> Any:
    """Machine code and virtual-machine instructions for an optimised module."""
    return relax.build(module, machine.target, relax_pipeline=None)


def _sequence(*passes: Any) -> Any:
    return tvm.transform.Sequential(list(passes))
