"""Artifacts at run time: threads, memory, arrays of the caller, start-up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from netc.backends.relax import Artifact, compile
from netc.backends.relax import threads as placing
from netc.backends.relax.constants import mapped, save
from netc.backends.relax.exchange import ALIGNMENT, address, aligned, kept, restored, viewed
from netc.backends.relax.runtime import CODE, lacking, load_tvm
from netc.compiler.diagnostic import NetcError
from netc.compiler.graph import Graph
from netc.compiler.target import LLVM
from netc.compiler.types import DType
from strategies import Builder


def dense() -> Graph:
    """Two layers with an input that is given back, an output twice, and a view of it."""
    b = Builder("dense")
    x = b.input("x", "f32[N, 48]")
    y = b("relu", b("linear", x, b.parameter("up.weight", (64, 48), "fan_in_uniform"), b.parameter("up.bias", (64,))))
    y = b("linear", y, b.parameter("down.weight", (33, 64), "fan_in_uniform"), None)
    return b.done(y=y, same=x, again=y)


def wanted(graph: Graph, x: np.ndarray, seed: int = 0) -> np.ndarray:
    from netc.compiler import weights

    up, bias, down = (weights.value(graph.parameters[n], seed) for n in ("up.weight", "up.bias", "down.weight"))
    return np.maximum(x.astype(float) @ up.T.astype(float) + bias, 0) @ down.T.astype(float)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "dense"
    assert compile(dense(), LLVM(threads=2), path) is not None
    return path


@pytest.fixture
def artifact(folder: Path) -> Artifact:
    return Artifact.load(folder)


def numbers(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 48)).astype("f4")


def child(code: str, **environment: str) -> str:
    """What a fresh process prints."""
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("TVM_", "OMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=bare | environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# -------------------------------------------------------------------------------------------------------- start-up


def test_an_artifact_runs_without_the_compiler(folder: Path):
    loaded = child(
        "import sys, numpy, netc\n"
        f"a = netc.Artifact.load({str(folder)!r})\n"
        "a(numpy.ones((2, 48), 'f4'))\n"
        "print([m for m in ('torch', 'tvm', 'onnx', 'safetensors', 'pydantic', 'lark') if m in sys.modules])\n"
        "print([l for l in open('/proc/self/maps') if 'tvm_compiler' in l])\n"
    )
    assert loaded.split() == ["[]", "[]"]


def test_the_runtime_and_the_compiler_live_in_one_process(folder: Path):
    code = (
        "import numpy, netc\n"
        f"a = netc.Artifact.load({str(folder)!r})\n"
        "x = numpy.ones((2, 48), 'f4')\n"
        "before = a(x)['y']\n"
        "from netc.backends.relax.runtime import load_tvm\n"
        "tvm = load_tvm()\n"
        "assert tvm.get_global_func('target.llvm_version_major')() > 10\n"
        "assert (a(x)['y'] == before).all()\n"
        "print('fine')"
    )
    assert child(code) == "fine"


def test_what_linux_says_of_this_processor_is_what_llvm_says():
    own = dict(load_tvm().get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")())
    code = {str(name): bool(has) for name, has in own.items() if CODE.match(str(name))}
    assert lacking(code) == sorted(name for name, has in code.items() if not has)


# ---------------------------------------------------------------------------------------------------------- memory


def test_sizes_are_reported(folder: Path):
    manifest = json.loads((folder / "manifest.json").read_text())
    files = manifest["files"]
    assert manifest["sizes"] == {what: (folder / name).stat().st_size for what, name in files.items()}
    assert manifest["sizes"].keys() == {"library", "constants"}


def test_constants_are_mapped(folder: Path, artifact: Artifact):
    assert f"{folder / 'constants.safetensors'}\n" in Path("/proc/self/maps").read_text()
    found = mapped(folder / "constants.safetensors")
    assert all(address(a) % ALIGNMENT == 0 for a in found.values())
    stored = safetensors.numpy.load_file(folder / "constants.safetensors")
    for name, array in found.items():
        np.testing.assert_array_equal(array, stored[name])
    before = artifact(numbers(1))["y"]
    next(iter(found.values()))[...] = 0  # reaches neither the file nor who else reads it
    np.testing.assert_array_equal(Artifact.load(folder)(numbers(1))["y"], before)


@pytest.mark.parametrize("kind", ["f4", "f2", "f8", "i8", "i4", "u2", "?"])
def test_constants_of_all_types_and_sizes(tmp_path: Path, kind: str):
    arrays = {f"a{i}": np.arange(n).astype(kind) for i, n in enumerate((1, 0, 16, 17, 100))}
    arrays |= {"scalar": np.ones((), kind), "strided": np.ones((4, 6), kind)[:, ::2]}
    save(tmp_path / "c", arrays)
    for found in (mapped(tmp_path / "c"), safetensors.numpy.load_file(tmp_path / "c")):
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


def test_inputs_are_read_in_place_where_they_are_aligned(artifact: Artifact):
    x = artifact.array("x", N=3)
    assert x.shape == (3, 48)
    assert address(x) % ALIGNMENT == 0
    assert kept(x).data_ptr() == address(x)
    room = aligned((4, 48), "f4").reshape(-1)
    off = room[1 : 1 + 144].reshape(3, 48)
    off[:] = numbers(3)
    assert kept(off).data_ptr() != address(off)
    graph = dense()
    backwards = np.ascontiguousarray(off[:, ::-1])[:, ::-1]
    shut = off.copy()
    shut.flags.writeable = False
    for given in (off, np.asfortranarray(off), backwards, shut, torch.from_numpy(off)):
        found = artifact(given)["y"]
        np.testing.assert_allclose(found, wanted(graph, off), atol=1e-5)


def test_tensors_of_others_are_viewed_not_copied():
    t = torch.arange(32.0)
    assert address(viewed(t)) == t.data_ptr()
    assert kept(viewed(t)).data_ptr() == t.data_ptr()
    half = torch.arange(32.0).bfloat16()
    view = viewed(half)
    assert view.dtype == DType.BF16.as_numpy
    assert address(view) == half.data_ptr()
    np.testing.assert_array_equal(view.astype("f4"), half.float().numpy())
    np.testing.assert_array_equal(restored(kept(view), DType.BF16), view)


def test_what_cannot_be_shared(artifact: Artifact):
    with pytest.raises(NetcError, match=r"a Tensor cannot be shared with the model: .*requires? grad"):
        artifact(torch.ones(2, 48, requires_grad=True))
    with pytest.raises(NetcError, match=r"the input x is .* but the array is float64"):
        artifact([[1.0] * 48])


def test_outputs_are_the_callers_alone(artifact: Artifact):
    """An input that is given back, a constant, and a second output of the same value are copies."""
    x = artifact.array("x", N=2)
    x[:] = numbers(2)
    found = artifact(x)
    kept_values = {name: array.copy() for name, array in found.items()}
    for a in found:
        for b in found:
            assert a == b or not np.shares_memory(found[a], found[b])
    assert not np.shares_memory(found["same"], x)
    assert torch.from_dlpack(found["y"]).data_ptr() == address(found["y"])
    later = artifact(numbers(2, seed=1))  # writes into none of them
    for name, array in found.items():
        np.testing.assert_array_equal(array, kept_values[name])
        array += 1
    assert not np.shares_memory(later["y"], found["y"])


@pytest.mark.parametrize("offset", [0, 1])
def test_outputs_of_the_caller(artifact: Artifact, offset: int):
    x = numbers(5)
    expected = artifact(x)

    def room(name: str) -> np.ndarray:
        like = artifact.array(name, N=5)
        flat = aligned((like.size + offset,), like.dtype)[offset:]
        return flat.reshape(like.shape)

    outputs = [room(name) for name in artifact.outputs]
    assert artifact.run_into([x], outputs) is None
    for array, (name, value) in zip(outputs, expected.items(), strict=True):
        np.testing.assert_array_equal(array, value, err_msg=name)
    tensors = [torch.zeros(value.shape) for value in expected.values()]
    artifact.run_into([torch.from_numpy(x)], tensors)
    for t, value in zip(tensors, expected.values(), strict=True):
        np.testing.assert_array_equal(t.numpy(), value)
    strided = [np.zeros((value.shape[0], 2 * value.shape[1]), "f4")[:, ::2] for value in expected.values()]
    artifact.run_into([x], strided)
    for array, value in zip(strided, expected.values(), strict=True):
        np.testing.assert_array_equal(array, value)


def test_outputs_of_the_caller_that_do_not_fit(artifact: Artifact):
    x = artifact.array("x", N=2)
    x[:] = 0

    def fresh() -> list[np.ndarray]:
        return [artifact.array(name, N=2) for name in artifact.outputs]

    def shut(array: np.ndarray) -> np.ndarray:
        array.flags.writeable = False
        return array

    y, same, again = fresh()
    for outputs, message in (
        ([y, same], "gives 3 outputs, not 2"),
        ([y[:1], same, again], r"the output y is f32\[2, 33\], but the array is float32 of shape \[1, 33\]"),
        ([y.astype("f8"), same, again], "but the array is float64"),
        ([y, x, again], "the array for same shares memory with an input"),
        ([y, same, y], "the array for again shares memory"),
        ([shut(fresh()[0]), same, again], "the array for y may not be written to"),
    ):
        with pytest.raises(NetcError, match=message):
            artifact.run_into([x], outputs)


COUNTER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
static long calls, bytes;
int posix_memalign(void **p, size_t alignment, size_t size) {
    static int (*next)(void **, size_t, size_t);
    if (!next) next = dlsym(RTLD_NEXT, "posix_memalign");
    __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&bytes, size, __ATOMIC_RELAXED);
    return next(p, alignment, size);
}
long allocations(void) { return calls; }
long allocated(void) { return bytes; }
"""


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library that counts what TVM allocates, which all goes through `posix_memalign`."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler, "artifacts cannot be linked either"
    path = tmp_path_factory.mktemp("counter")
    (path / "counter.c").write_text(COUNTER)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", path / "counter.so", path / "counter.c", "-ldl"], check=True)
    return str(path / "counter.so")


def network(path: Path) -> Path:
    b = Builder("network")
    x = b.input("x", "f32[N, 3, 32, 32]")
    for i, (inner, outer) in enumerate(((3, 16), (16, 32), (32, 32))):
        x = b("relu", b("conv2d", x, b.parameter(f"c{i}", (outer, inner, 5, 5), "kaiming_normal"), None, padding=2))
        x = b("max_pool2d", x, kernel_size=2, stride=2)
    y = b("softmax", b("flatten", x, start_dim=1), dim=-1)
    assert compile(b.done(y=y), LLVM(threads=2), path / "network") is not None
    return path / "network"


def test_runs_allocate_nothing_but_outputs(tmp_path: Path, counter: str):
    folder = network(tmp_path)
    code = (
        "import ctypes, numpy, netc\n"
        "count = ctypes.CDLL(None).allocations\n"
        f"a = netc.Artifact.load({str(folder)!r})\n"
        "x, y = a.array('x', N=2), a.array('y', N=2)\n"
        "off = numpy.zeros((2, 3, 32, 33), 'f4')[..., 1:]\n"
        "x[:] = 1\n"
        "def counted(run):\n"
        "    run(); run()\n"
        "    before = count()\n"
        "    for _ in range(20): run()\n"
        "    return count() - before\n"
        "start = count()\n"
        "a.run_into([x], [y])\n"
        "print(count() - start > 0)\n"
        "print(counted(lambda: a.run_into([x], [y])))\n"
        "print(counted(lambda: a.run_into([off], [y])))\n"
        "print(counted(lambda: a.run([x])))\n"  # the outputs' memory is used again when they are gone
        "held = []\n"
        "print(counted(lambda: held.append(a.run([x]))))\n"
    )
    # Outputs that are held are the only memory that is new: one for each run.
    assert child(code, LD_PRELOAD=counter).split() == ["True", "0", "0", "0", "20"]


def test_memory_of_many_sizes_is_given_back(tmp_path: Path, counter: str):
    folder = network(tmp_path)
    code = (
        "import numpy, netc, resource\n"
        f"a = netc.Artifact.load({str(folder)!r})\n"
        "def resident(): return int(open('/proc/self/statm').read().split()[1]) * 4096 >> 20\n"
        "x = numpy.ones((160, 3, 32, 32), 'f4')\n"
        "a(x)\n"
        "before = resident()\n"
        "for n in range(1, 160): a(x[:n])\n"
        "print(resident() - before)\n"
    )
    # Kept, they would be 160 sizes of 80 times 80 KiB and more on average: over a gigabyte.
    assert int(child(code)) < 400


GUARD = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
static char *blocks[1 << 16];
static int count;
/* Each block between pages that cannot be touched: next to the one before it, or the one after it. */
int posix_memalign(void **place, size_t alignment, size_t size) {
    size_t room = (size + 4095) / 4096 * 4096;
    char *all = mmap(0, room + 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED || count == 1 << 16) return ENOMEM;
    mprotect(all, 4096, PROT_NONE);
    mprotect(all + 4096 + room, 4096, PROT_NONE);
    char *start = all + 4096;
    if (getenv("GUARD_END")) start += (room - size) / alignment * alignment;
    blocks[__atomic_fetch_add(&count, 1, __ATOMIC_RELAXED)] = start;
    *place = start;
    return 0;
}
void free(void *place) {
    static void (*next)(void *);
    for (int i = 0; place && i < count; i++) if (blocks[i] == place) return; /* for good */
    if (!next) next = dlsym(RTLD_NEXT, "free");
    next(place);
}
"""


def images() -> Graph:
    b = Builder("images")
    x = b.input("x", "f32[1, 16, 20, 20]")
    for i, (size, groups) in enumerate(((3, 1), (5, 1), (3, 16), (1, 1), (3, 1))):
        weight = b.parameter(f"c{i}", (16, 16 // groups, size, size), "kaiming_normal")
        x = b("relu", b("conv2d", x, weight, None, padding=size // 2, groups=groups))
    x = b("max_pool2d", x, kernel_size=3, stride=2, padding=1)
    return b.done(y=b("softmax", b("flatten", x, start_dim=1), dim=-1))


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("kind", ["images", "dense"])
def test_kernels_touch_no_memory_beside_theirs(tmp_path: Path, kind: str, end: bool):
    graph = {"images": images, "dense": dense}[kind]()
    assert compile(graph, LLVM(threads=2), tmp_path / "a") is not None
    (tmp_path / "guard.c").write_text(GUARD)
    command = ["gcc", "-shared", "-fPIC", "-o", tmp_path / "guard.so", tmp_path / "guard.c", "-ldl"]
    subprocess.run(command, check=True)
    code = (
        "import netc, numpy\n"
        f"a = netc.Artifact.load({str(tmp_path / 'a')!r})\n"
        "x = a.array('x', N=3)\n"
        "x[:] = 1\n"
        "print(all(numpy.isfinite(y).all() for y in a(x).values()))\n"
    )
    environment = {"LD_PRELOAD": str(tmp_path / "guard.so")} | ({"GUARD_END": "1"} if end else {})
    assert child(code, **environment) == "True"


# --------------------------------------------------------------------------------------------------------- threads

TASKS = (
    "import os, numpy, netc\n"
    "def tasks(): return {int(t): sorted(os.sched_getaffinity(int(t))) for t in os.listdir('/proc/self/task')}\n"
    "def load(**given): return netc.Artifact.load(FOLDER, **given)\n"
    "x = numpy.ones((64, 3, 32, 32), 'f4')\n"
    "own = sorted(os.sched_getaffinity(0))\n"
)


def threads(folder: Path, code: str, **environment: str) -> str:
    return child(TASKS.replace("FOLDER", repr(str(folder))) + code, **environment)


@pytest.fixture(scope="module")
def parallel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return network(tmp_path_factory.mktemp("parallel"))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_as_many_threads_as_asked_for_wherever_they_like(parallel: Path, count: int):
    code = (
        f"a = load(threads={count})\n"
        "before = tasks()\n"
        "a(x); a(x)\n"
        "after = tasks()\n"
        "print(len(after) - len(before) + 1, all(c == own for c in after.values()))\n"
    )
    assert threads(parallel, code) == f"{count} True"
    assert threads(parallel, code, OMP_NUM_THREADS="7") == f"{count} True"


def test_the_number_of_threads_is_the_targets_unless_said_otherwise(parallel: Path):
    code = "before = len(tasks()); a = load(); a(x); print(a.threads, len(tasks()) - before + 1, a.pin)"
    assert threads(parallel, code) == "2 2 False"
    assert threads(parallel, code, TVM_NUM_THREADS="3") == "3 3 False"


def test_pinned_threads_have_a_processor_each(parallel: Path):
    code = (
        "before = tasks()\n"
        "a = load(threads=len(own), pin=True)\n"
        "a(x)\n"
        "ours = [c for t, c in tasks().items() if t not in before or t == os.getpid()]\n"
        "print(sorted(ours) == [[c] for c in own])\n"
        "load(threads=len(own))(x)\n"
        "print(all(c == own for t, c in tasks().items() if t not in before or t == os.getpid()))\n"
    )
    assert threads(parallel, code).split() == ["True", "True"]


def test_threads_take_a_processor_of_each_core_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 5})
    monkeypatch.setattr(placing, "_core", lambda p: str(p // 2))
    assert placing._processors.__wrapped__() == [0, 2, 5, 1, 3]
    monkeypatch.setattr(placing, "_core", str)
    assert placing._processors.__wrapped__() == [0, 1, 2, 3, 5]


def test_more_pinned_threads_than_processors_share_them(parallel: Path):
    code = (
        "before = tasks()\n"
        "a = load(threads=2 * len(own) + 1, pin=True); y = a(x)\n"
        "print(len(tasks()) - len(before) == 2 * len(own), set(map(tuple, tasks().values())) <= "
        "{(c,) for c in own} | {tuple(own)})\n"
    )
    assert threads(parallel, code).split() == ["True", "True"]


def test_pinning_is_an_option_of_the_target(tmp_path: Path):
    target = LLVM(threads=1, pin=True)
    assert str(target) == "llvm(threads = 1, pin = true)"
    made = compile(dense(), target, tmp_path / "a")
    assert made is not None
    assert made.pin
    assert not Artifact.load(tmp_path / "a", pin=False).pin


def test_several_numbers_of_threads_in_one_process(parallel: Path):
    """TVM's threads for one of ours never grow in number: more are those of another of ours."""
    code = (
        "from netc.backends.relax.runtime import load_runtime\n"
        "before = tasks()\n"
        "one, two, four = (load(threads=n) for n in (1, 2, 4))\n"
        "expected = one(x)['y']\n"
        "print(len(tasks()) - len(before))\n"
        "for a in (two, four, one, four, two): assert numpy.allclose(a(x)['y'], expected)\n"
        "used = load_runtime().get_global_func('runtime.NumThreads')\n"
        "two(x); print(used())\n"
        "print(len(tasks()) - len(before))\n"
    )
    # None; two; one beside ours, and another thread with three beside it.
    assert threads(parallel, code).split() == ["0", "2", "5"]


def test_callers_may_be_many(folder: Path, artifact: Artifact):
    graph = dense()
    wrong: list[Any] = []

    def work(seed: int) -> None:
        try:
            for n in range(1, 30):
                x = numbers(n % 5 + 1, seed + n)
                np.testing.assert_allclose(artifact(x)["y"], wanted(graph, x), atol=1e-5)
        except Exception as error:  # noqa: BLE001  # of a thread
            wrong.append(error)

    workers = [threading.Thread(target=work, args=(100 * i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
