"""How each candidate opens a model and runs it on given arrays. All of it happens in a process of its own, which
imports nothing but that candidate's runtime: inputs are handed over once, outputs stay where the runtime puts them."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

CHANNELS_LAST = {"NETC_BENCH_MEMORY_FORMAT": "channels_last"}
"""Of the environment of a process: PyTorch keeps images with their channels together."""


@dataclass(frozen=True)
class Opened:
    """A model that is ready to run on arrays that it has already."""

    run: Callable[[], Any]
    results: Callable[[], list[Array]]
    """What the last run gave."""
    threads: Callable[[], int]
    """As the runtime itself says, once the model has run."""
    version: str
    context: Callable[[], Any] = nullcontext
    """Around any number of runs."""

    def seconds(self, count: int) -> list[float]:
        """The time of each of so many runs, after one that does not count: others had the caches before."""
        taken: list[float] = []
        with self.context():
            self.run()
            for _ in range(count):
                start = time.perf_counter()
                self.run()
                taken.append(time.perf_counter() - start)
        return taken


def netc(folder: Path, arrays: Sequence[Array], threads: int) -> Opened:
    """An artifact."""
    from ..relax.artifact import Artifact, kept, restored
    from ..relax.runtime import load_runtime

    artifact = Artifact.load(folder, threads=threads)
    artifact.check(arrays)
    tensors = [kept(a) for a in arrays]
    last: list[Any] = []

    def run() -> None:
        last[:] = artifact.call(tensors)

    def results() -> list[Array]:
        return [restored(r, s.dtype) for r, s in zip(last, artifact.outputs.values(), strict=True)]

    def number() -> int:
        return int(load_runtime().get_global_func("runtime.NumThreads")())

    return Opened(run, results, number, artifact.manifest["netc"])


def torch(folder: Path, arrays: Sequence[Array], threads: int, *, compiled: bool = False) -> Opened:
    """Generated source with weights, as it is or through `torch.compile`. `TORCHINDUCTOR_CACHE_DIR` keeps what that
    compiles; `CHANNELS_LAST` says how weights of convolutions and inputs of four axes lie in memory."""
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    (source,) = folder.glob("*.py")
    spec = importlib.util.spec_from_file_location(source.stem, source)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # The class of the whole model is the last: those of its parts stand before it.
    made = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == source.stem][-1]()
    made.load_state_dict(load_file(source.with_suffix(".safetensors")), assign=True)
    made.eval()
    call: Any = made
    if compiled:
        call = torch.compile(made, dynamic=False)
    given = [torch.from_numpy(a) for a in arrays]
    version = torch.__version__
    if CHANNELS_LAST.items() <= os.environ.items():
        made.to(memory_format=torch.channels_last)
        given = [a.contiguous(memory_format=torch.channels_last) if a.ndim == 4 else a for a in given]
        version += " channels_last"
    last: list[Any] = []

    def run() -> None:
        found = call(*given)
        last[:] = found if isinstance(found, tuple) else (found,)

    def results() -> list[Array]:
        return [r.numpy() for r in last]

    return Opened(run, results, torch.get_num_threads, version, torch.inference_mode)


def inductor(folder: Path, arrays: Sequence[Array], threads: int) -> Opened:
    """`torch.compile` as it is. Freezing the weights makes it no faster: 1.00 to 1.01 times on ResNet-18, MobileNet-V2,
    DeiT-Ti and BERT-Mini."""
    return torch(folder, arrays, threads, compiled=True)


def onnxruntime(folder: Path, arrays: Sequence[Array], threads: int) -> Opened:
    """An ONNX file with all of the session's own optimisations, inputs and outputs bound."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for slot, array in zip(session.get_inputs(), arrays, strict=True):
        binding.bind_ortvalue_input(slot.name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    for slot in session.get_outputs():
        binding.bind_output(slot.name)

    def run() -> None:
        session.run_with_iobinding(binding)

    def number() -> int:
        return session.get_session_options().intra_op_num_threads

    return Opened(run, binding.copy_outputs_to_cpu, number, onnxruntime.__version__)


def openvino(folder: Path, arrays: Sequence[Array], threads: int) -> Opened:
    """An ONNX file, computed in float32: left alone, OpenVINO takes bf16 where the processor has it."""
    openvino: Any = import_module("openvino")  # of the extra `bench`, so perhaps not there when types are checked
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(folder / "model.onnx", "CPU", settings)
    request = compiled.create_infer_request()
    for i, array in enumerate(arrays):
        request.set_input_tensor(i, openvino.Tensor(array, shared_memory=True))

    def results() -> list[Array]:
        return [request.get_output_tensor(i).data.copy() for i in range(len(compiled.outputs))]

    def number() -> int:
        return int(compiled.get_property("INFERENCE_NUM_THREADS"))

    return Opened(request.infer, results, number, openvino.__version__.partition("-")[0])


RUNTIMES: dict[str, Callable[[Path, Sequence[Array], int], Opened]] = {
    "netc": netc,
    "torch": torch,
    "inductor": inductor,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}
"""By the names of the candidates."""
