"""Code for other machines: run under an emulator, or inspected, or run here with less than this processor has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from netc.backends.relax import Artifact, compile, gpu
from netc.backends.relax import build as building
from netc.backends.relax.machine import Machine, host, machine
from netc.backends.relax.untyped import mutate
from netc.compiler.diagnostic import NetcError
from netc.compiler.graph import Graph
from netc.compiler.target import CUDA, LLVM
from strategies import Builder
from test_relax import assert_close, drawn, execute, reference, small_resnet, transformer
from tvm import tirx

BOARDS = {
    "aarch64": LLVM(triple="aarch64-linux-gnu", cpu="cortex-a72"),
    "riscv64": LLVM(triple="riscv64-linux-gnu", cpu="generic-rv64"),
}


def mixed() -> Graph:
    """Outputs of several types, of rank 0, an input given back, a view, and a value twice."""
    b = Builder("mixed")
    x, n = b.input("x", "f32[3, 8]"), b.input("n", "i64[]")
    y = b("softmax", x, dim=-1)
    best = b("argmax", x, dim=1)
    shown = b("eq", best, b("remainder", n, b("full", size=[], value=8, dtype="i64")))
    return b.done(y=y, flat=b("reshape", y, size=[24]), best=best, shown=shown, total=b("sum", x), x=x, again=y)


GRAPHS: dict[str, tuple[Any, dict[str, int]]] = {
    "convolutions": (small_resnet, {"N": 1}),
    "attention": (transformer, {"N": 2, "T": 7}),
    "mixed": (mixed, {}),
}


def needed(*programs: str) -> None:
    missing = [p for p in programs if shutil.which(p) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")


def emulated(architecture: str, folder: Path, linked: list[str], inputs: list[np.ndarray], count: int) -> list[bytes]:
    """What the program of an artifact writes, run under qemu."""
    triple = f"{architecture}-linux-gnu"
    command = [f"{triple}-gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-DNETC_MAIN", "model.c", *linked, "-lm"]
    subprocess.run([*command, "-Wl,-rpath,$ORIGIN", "-o", "run"], cwd=folder, check=True)
    for i, array in enumerate(inputs):
        array.tofile(folder / f"in{i}")
    files = [f"in{i}" for i in range(len(inputs))] + [f"out{i}" for i in range(count)]
    run = ["./run", "constants.safetensors", *files]
    subprocess.run([f"qemu-{architecture}", "-L", f"/usr/{triple}", *run], cwd=folder, check=True)
    return [(folder / f"out{i}").read_bytes() for i in range(count)]


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("architecture", BOARDS)
def test_other_architectures_compute_what_pytorch_does(tmp_path: Path, architecture: str, kind: str):
    needed(f"{architecture}-linux-gnu-gcc", f"qemu-{architecture}")
    make, sizes = GRAPHS[kind]
    graph = make()
    assert compile(graph, BOARDS[architecture], tmp_path / "a", bind=sizes) is None
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["files"].keys() == {"library", "constants", "program"}
    inputs = drawn(graph, sizes)
    expected = reference(graph, inputs)
    found = emulated(architecture, tmp_path / "a", ["model.so"], inputs, len(expected))
    types = {o["name"]: o["dtype"] for o in manifest["outputs"]}
    for data, (name, wanted) in zip(found, expected.items(), strict=True):
        kind_ = {"f32": "f4", "i64": "i8", "bool": "?"}[types[name]]
        array = np.frombuffer(data, kind_).reshape(wanted.shape)
        np.testing.assert_allclose(array.astype(float), wanted, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("architecture", BOARDS)
def test_objects_are_linked_on_a_machine_that_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str):
    monkeypatch.setattr(building, "linker", lambda _: None)
    folder = tmp_path / "a"
    graph = mixed()
    assert compile(graph, BOARDS[architecture], folder) is None
    assert {p.name for p in folder.iterdir()} == {
        "manifest.json", "constants.safetensors", "model.c", "model.o", "program.o",
    }  # fmt: skip
    header = (folder / "model.o").read_bytes()[:64]
    assert header[:6] == b"\x7fELF\x02\x01"
    assert int.from_bytes(header[18:20], "little") == {"aarch64": 183, "riscv64": 243}[architecture]
    if architecture == "riscv64":  # floats are passed in registers, as Debian's libraries expect
        assert int.from_bytes(header[48:52], "little") & 6 == 4
    needed(f"{architecture}-linux-gnu-gcc", f"qemu-{architecture}")
    inputs = drawn(graph)
    (y, *_) = emulated(architecture, folder, ["model.o"], inputs, 7)
    np.testing.assert_allclose(np.frombuffer(y, "f4").reshape(3, 8), reference(graph, inputs)["y"], atol=1e-6)


def test_a_program_has_fixed_sizes(tmp_path: Path):
    assert compile(small_resnet(), BOARDS["aarch64"], tmp_path / "a") is None
    assert "program" not in json.loads((tmp_path / "a" / "manifest.json").read_text())["files"]
    assert not (tmp_path / "a" / "model.c").exists()


# ------------------------------------------------------------------------------------------------------- older x86

REGISTERS = {"nehalem": "xmm", "x86-64-v2": "xmm", "haswell": "ymm", "x86-64-v3": "ymm"}
"""The widest vector registers of processors."""

WIDER = {"xmm": re.compile(r"%[yz]mm|\bv[a-z0-9]+ "), "ymm": re.compile(r"%zmm|%k[0-7]|%[xy]mm(?:1[6-9]|2\d|3[01])")}
"""Instructions that processors with these registers do not have: wider registers, more of them, AVX's encoding."""


def instructions(library: Path) -> str:
    done = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(library)], check=True, capture_output=True, text=True
    )
    return done.stdout


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("cpu", REGISTERS)
def test_older_processors_of_this_architecture(tmp_path: Path, cpu: str, kind: str):
    make, sizes = GRAPHS[kind]
    graph = make()
    made = compile(graph, LLVM(cpu=cpu, threads=1), tmp_path / "a")
    if made is None:
        pytest.skip(f"this machine does not run code for {cpu}")
    inputs = drawn(graph, sizes)
    for found, wanted in zip(made.run(inputs), reference(graph, inputs).values(), strict=True):
        np.testing.assert_allclose(found.astype(float), wanted, atol=1e-5)
    needed("objdump")
    code = instructions(tmp_path / "a" / "model.so")
    assert REGISTERS[cpu] in code
    beyond = WIDER[REGISTERS[cpu]].search(code)
    assert not beyond, beyond


def test_a_processor_without_what_code_needs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = compile(mixed(), LLVM(threads=1), tmp_path / "a")
    assert made is not None
    has = made.manifest["processor"]["features"]
    from netc.backends.relax import runtime

    own = runtime._flags()
    if own is None or "avx2" not in own:
        pytest.skip("the flags of this processor are not AVX's")
    assert "avx2" in has
    monkeypatch.setattr(runtime, "_flags", lambda: own - {"avx2"})
    with pytest.raises(NetcError, match="this processor lacks avx2"):
        Artifact.load(tmp_path / "a")


# ------------------------------------------------------------------------------------------------------------ GPUs


@pytest.mark.parametrize("kind", GRAPHS)
def test_kernels_for_gpus_are_accepted_by_nvidias_compiler(tmp_path: Path, kind: str):
    graph = GRAPHS[kind][0]()
    assert compile(graph, CUDA(arch="sm_80"), tmp_path / "a") is None
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["processor"]["cpu"] == "sm_80"
    assert {k["schedule"] for k in manifest["kernels"]} == {"fallback"}
    text = (tmp_path / "a" / manifest["files"]["source"]).read_text()
    kernels = set(re.findall(r"__global__ void __launch_bounds__\(\d+\) (\w+)\(", text))
    for made in manifest["kernels"]:
        assert any(k.startswith(f"{made['name']}_kernel") for k in kernels), made
    with pytest.raises(NetcError, match="does not run here: netc runs nothing on GPUs"):
        Artifact.load(tmp_path / "a")
    needed("nvcc")
    command = ["nvcc", "-ptx", "-w", "-arch=sm_80", "model.cu", "-o", "model.ptx"]
    subprocess.run(command, cwd=tmp_path / "a", check=True)
    entries = set(re.findall(r"\.entry (\w+)\(", (tmp_path / "a" / "model.ptx").read_text()))
    assert entries == kernels


class Threadless(Machine):
    """This machine, taken for a GPU."""

    @property
    def gpu(self) -> bool:
        return True


def serial(function: Any) -> Any:
    """A kernel with loops over what would be its threads, none of which waits for another."""

    def looped(loop: Any, m: Any) -> Any:
        loop = m.default_mutate(loop)
        if loop.thread_binding is None:
            return loop
        return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body)

    assert "shared" not in str(function)
    body = mutate(function.body, (tirx.For, looped))
    return function.with_body(body).without_attr("target")


@pytest.mark.parametrize("kind", GRAPHS)
def test_schedules_for_gpus_compute_what_pytorch_does(monkeypatch: pytest.MonkeyPatch, kind: str):
    """There is no GPU here: the same schedules with loops in the place of threads."""
    scheduled = gpu.schedule

    def looped(module: Any) -> Any:
        with machine(CUDA(arch="sm_80")).target:
            module, report = scheduled(module)
        for variable, function in module.functions.items():
            if isinstance(function, tirx.PrimFunc):
                module[variable] = serial(function)
        return module, report

    monkeypatch.setattr(gpu, "schedule", looped)
    own = host(threads=1)
    here = Threadless(own.target, 4, 32, own.cache, 1, own.features, native=True)
    make, sizes = GRAPHS[kind]
    graph = make()
    built = building.build(building.prepare(graph, {}), here)
    assert set(built.report.rules.values()) == {"fallback"}
    inputs = drawn(graph, sizes)
    found = execute(built, inputs)
    for name, wanted in reference(graph, inputs).items():
        assert_close(found[name], wanted)


def test_a_program_for_processors_is_refused_on_gpus(tmp_path: Path):
    b = Builder("sums")
    graph = b.done(b("cumsum", b.input("x", "f32[4, 8]"), dim=1))
    with pytest.raises(NetcError, match="no schedule for GPUs of cumsum"):
        compile(graph, CUDA(arch="sm_80"), tmp_path / "a")
    assert not (tmp_path / "a").exists()
