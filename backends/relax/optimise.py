"""The pass sequence between lowering and code generation."""

from __future__ import annotations

from typing import Any

from . import gpu
from .destination import with_destinations
from .dot import PIPELINE
from .machine import Machine
from .schedule import HOST, SCHEDULED, Report, schedule, unscheduled
from .sizes import with_ordered_sizes
from .untyped import relax, tirx, tvm

RT: Any = relax.transform


def choose(module: Any, machine: Machine) -> Any:
    """Let TVM choose what is fused: primitive functions for kernels that become one, the others as they are."""
    with machine.target:
        return _sequence(RT.Normalize(), RT.DeadCodeElimination(), RT.FuseOps())(module)


def fuse(module: Any, machine: Machine) -> Any:
    """One kernel for each primitive function."""
    whole = {
        str(v.name_hint)
        for v, f in module.functions.items()
        if isinstance(f, relax.Function) and _is_program(module, f)
    }
    with machine.target:
        # A program may hold the same `let` twice, which schedules do not allow.
        module = _sequence(
            RT.Normalize(),
            RT.DeadCodeElimination(),
            RT.FuseTIR(),
            tirx.transform.ConvertSSA(),
            RT.DeadCodeElimination(),
        )(module)
    for variable in [v for v in module.functions if str(v.name_hint) in whole]:
        module[variable] = module[variable].with_attr(SCHEDULED, True)
    return with_ordered_sizes(module)


def _is_program(module: Any, function: Any) -> bool:
    """Whether a primitive function is a single kernel that is its own schedule, which TVM forgets where it fuses."""
    if not function.attrs or "Primitive" not in function.attrs:
        return False
    values = [b.value for block in function.body.blocks for b in block.bindings]
    called = [v.args[0] for v in values if isinstance(v, relax.Call) and str(v.op.name) == "relax.call_tir"]
    return len(called) == 1 and SCHEDULED in module[called[0]].attrs


def optimise(module: Any, machine: Machine) -> tuple[Any, Report]:
    """Schedule a module in which is chosen what is fused, and bring it to what the code generator takes."""
    with machine.target:
        module = fuse(module, machine)
        module, report = gpu.schedule(module) if machine.gpu else schedule(module, machine)
        module = _sequence(
            RT.ToNonDataflow(),
            RT.RemovePurityChecking(),
            RT.CallTIRRewrite(),
        )(module)
        if "main" in {str(v.name_hint) for v in module.functions}:  # else it prepares constants
            module = with_destinations(module)
        module = _sequence(
            RT.StaticPlanBlockMemory(),
            RT.LowerAllocTensor(),
            RT.KillAfterLastUse(),
            RT.LowerRuntimeBuiltin(),
            RT.ComputePrimValue(),
            RT.VMShapeLower(),
            RT.AttachGlobalSymbol(),
        )(module)
    return _finished(module), report


def _finished(module: Any) -> Any:
    """Put right two things that TVM's passes leave.

    Every function promises that its buffers do not overlap: the LLVM code generator drops the promise of all functions
    of a module where the last one, which may be the arithmetic on symbolic shapes, does not give it, and reductions
    then go through memory at a third of the speed. And that arithmetic is put in order: it comes in the order of a
    hash of addresses, and the same model should give the same bytes.
    """
    for variable, function in list(module.functions.items()):
        if isinstance(function, tirx.PrimFunc):
            if function.attrs and HOST in function.attrs:
                function = function.with_body(_ordered(function.body))
            module[variable] = function.with_attr("tirx.noalias", True)
    return module


def _ordered(body: Any) -> Any:
    """Stores of sizes in the order of their places; they read those of symbols alone, which none of them writes."""
    if not isinstance(body, tirx.SeqStmt):
        return body
    return tirx.SeqStmt(sorted(body.seq, key=lambda store: int(store.indices[0])))


def generate(module: Any, machine: Machine) -> Any:
    """Machine code and virtual-machine instructions for an optimised module.

    LLVM's vectoriser of straight-line code makes invalid code of some reads at a few odd places, such as those of a
    small float64 image that is interpolated; LLVM finds that itself, and then it goes without that vectoriser.

    Raises:
        AssertionError: where a kernel has no schedule, which would be 200 times slower than it need be.
    """
    missing = unscheduled(module)
    assert not missing, f"kernels without a schedule: {', '.join(missing)}"
    try:
        return relax.build(module, machine.target, relax_pipeline=None, tir_pipeline=PIPELINE)
    except RuntimeError as error:
        if "LLVM module verification failed" not in str(error):
            raise
    target = tvm.target.Target({**machine.target.export(), "cl-opt": ["-vectorize-slp:bool=0"]})
    return relax.build(module, target, relax_pipeline=None, tir_pipeline=PIPELINE)


def _sequence(*passes: Any) -> Any:
    return tvm.transform.Sequential(list(passes))
