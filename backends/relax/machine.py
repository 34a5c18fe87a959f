"""What schedules need to know of a processor, and a target as TVM wants it described."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...compiler.diagnostic import Diagnostic, NetcError
from ...compiler.target import CUDA, LLVM, Target
from .runtime import lacking
from .untyped import tvm

DEFAULT_CACHE = 1 << 19
"""Bytes of second-level cache assumed where neither the target nor the system says."""

BASES = {"riscv64": ("lp64d", ("+m", "+a", "+f", "+d", "+c"))}
"""Calling convention and features that Linux expects of an architecture where LLVM expects less: without them all
arithmetic on floats is a call of a library, and what is made cannot be linked with anything else."""

GPU_TRIPLE = "nvptx64-nvidia-cuda"


@dataclass(frozen=True)
class Machine:
    """A processor: `lanes` of float32 in a vector register, the number of those `registers`, `cache` bytes a core."""

    target: Any
    lanes: int
    registers: int
    cache: int
    threads: int
    features: tuple[str, ...]
    """LLVM's, instructions and tuning alike."""
    native: bool
    """Whether code for it runs here."""

    @property
    def gpu(self) -> bool:
        return str(self.target.kind.name) == "cuda"

    @property
    def triple(self) -> str:
        return GPU_TRIPLE if self.gpu else str(self.target.attrs["mtriple"])

    @property
    def cpu(self) -> str:
        return str(self.target.attrs["arch" if self.gpu else "mcpu"])

    @property
    def accumulators(self) -> int:
        """Vector registers that a reduction may accumulate in; the rest hold operands."""
        return 28 if self.registers >= 32 else 12


def machine(target: Target) -> Machine:
    """The processor that a target describes.

    Raises:
        NetcError: where the target names a processor that LLVM does not know, or needs what is not installed.
    """
    if isinstance(target, LLVM):
        return _processor(target)
    if isinstance(target, CUDA):
        return _gpu(target)
    raise NetcError([Diagnostic("unsupported-target", f"the TVM backend does not compile for {target.kind}")])


def host(threads: int | None = None) -> Machine:
    """The machine at hand."""
    return machine(LLVM(threads=threads))


def _processor(target: LLVM) -> Machine:
    query = tvm.get_global_func
    own = str(query("tvm.codegen.llvm.GetDefaultTargetTriple")())
    triple = target.triple or own
    native = _same_system(triple, own)
    _check_architecture(triple)
    if target.cpu != "native":
        cpu = target.cpu
        if not query("target.llvm_is_valid_cpu")(cpu, triple):
            raise NetcError([_unknown_cpu(cpu, triple)])
    elif native:
        cpu = str(query("tvm.codegen.llvm.GetHostCPUName")())
    else:
        raise NetcError(
            [
                Diagnostic(
                    "unknown-processor",
                    f'cpu = "native" is the processor of this machine, which is no {triple}',
                    fix=f'llvm(triple = "{triple}", cpu = "generic")',
                )
            ]
        )
    threads = target.threads or (len(os.sched_getaffinity(0)) if native else 1)
    description: dict[str, Any] = {"kind": "llvm", "mtriple": triple, "mcpu": cpu, "num-cores": threads}
    base = BASES.get(triple.partition("-")[0])
    if base is not None:
        description |= {"mabi": base[0], "mattr": [*base[1], *target.features]}
    elif target.features:
        description["mattr"] = list(target.features)
    if target.cpu == "native":
        own = lacking(_features(tvm.target.Target(description)))
        description["mattr"] = [*target.features, *(f"-{name}" for name in own)]
    made = tvm.target.Target(description)
    features = _features(made)
    lanes, registers = _vectors(triple, features)
    cache = target.cache or (_cache() if native else None) or DEFAULT_CACHE
    runs = native and not lacking(features)
    return Machine(made, lanes, registers, cache, threads, tuple(sorted(features)), runs)


def _features(target: Any) -> set[str]:
    return {str(name) for name in tvm.get_global_func("target.llvm_get_cpu_features")(target)}


def _vectors(triple: str, features: set[str]) -> tuple[int, int]:
    """Lanes of float32 and number of vector registers."""
    architecture = triple.partition("-")[0]
    if "avx512f" in features:
        return 16, 32
    if "avx" in features:
        return 8, 16
    return 4, 32 if architecture.startswith(("aarch64", "arm64", "riscv", "powerpc64")) else 16


def _same_system(triple: str, own: str) -> bool:
    """Whether triples name the same architecture and operating system (the vendor says nothing)."""
    a, b = triple.split("-"), own.split("-")
    return a[0] == b[0] and ("linux" in a) == ("linux" in b)


def _cache() -> int | None:
    """Bytes of second-level cache of the first core, from the kernel."""
    for entry in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (entry / "level").read_text().strip() == "2":
            size = (entry / "size").read_text().strip()
            return int(size.removesuffix("K")) << 10 if size.endswith("K") else int(size)
    return None


def _check_architecture(triple: str) -> None:
    known = sorted(str(t) for t in tvm.get_global_func("target.llvm_get_targets")())
    architecture = triple.partition("-")[0]
    alias = "arm" if architecture.startswith("armv") else architecture
    if alias not in known and architecture not in {"i686", "arm64"}:
        raise NetcError(
            [
                Diagnostic(
                    "unknown-architecture",
                    f"this LLVM generates no code for {triple}",
                    notes=(f"it knows {', '.join(known)}",),
                )
            ]
        )


def _unknown_cpu(cpu: str, triple: str) -> Diagnostic:
    from ...compiler.diagnostic import nearest

    known = [
        str(c)
        for c in tvm.get_global_func("target.llvm_get_cpu_archlist")(
            tvm.target.Target({"kind": "llvm", "mtriple": triple})
        )
    ]
    close = nearest(cpu, known)
    return Diagnostic(
        "unknown-processor",
        f"LLVM knows no processor {cpu} of {triple}",
        notes=(f"it knows {', '.join(known)}",),
        fix=f'cpu = "{close}"' if close else None,
    )


def _gpu(target: CUDA) -> Machine:
    """A GPU, for code that is not run here, whoever has one. Lanes and registers shape how weights are packed."""
    arch = target.arch
    if arch is None:
        if not tvm.cuda().exist:
            message = (
                "the target cuda needs an NVIDIA driver to learn its arch from, and none was found on this machine"
            )
            raise NetcError([Diagnostic("unsupported-target", message, fix='cuda(arch = "sm_80")')])
        arch = f"sm_{str(tvm.cuda().compute_version).replace('.', '')}"
    own = str(tvm.get_global_func("tvm.codegen.llvm.GetDefaultTargetTriple")())
    made = tvm.target.Target({"kind": "cuda", "arch": arch}, host={"kind": "llvm", "mtriple": own})
    return Machine(made, 4, 32, DEFAULT_CACHE, 1, (), False)
