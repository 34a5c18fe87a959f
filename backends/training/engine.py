"""One process, or several started by torchrun and joined by Hugging Face's accelerate: gloo on CPUs, NCCL on GPUs."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch

# The functions in there take the process group that exists when they are defined as their default, and keep it alive.
# The first optimizer imports them; ours would then outlive its end, and its threads now and then abort Python's exit.
import torch.distributed.nn.functional  # pyright: ignore[reportUnusedImport]

from ...compiler.diagnostic import Diagnostic, NetcError


class Engine:
    """Where the run computes, and this process's part in it: `index` of `count`, on `device`."""

    def __init__(self, device: str) -> None:
        """Join the processes that torchrun has started, if any.

        Raises:
            NetcError: without a CUDA device where one is asked for, or without accelerate where it is needed.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise NetcError([Diagnostic("no-device", "PyTorch sees no CUDA device here", fix="device = cpu")])
        cpu = device == "cpu" or not torch.cuda.is_available()
        self._accelerator: Any = None
        self.device = torch.device("cpu" if cpu else "cuda")
        self.index, self.count = 0, int(os.environ.get("WORLD_SIZE", "1"))
        if self.count > 1:
            self._accelerator = _accelerator(cpu)
            self.device = self._accelerator.device
            self.index, self.count = self._accelerator.process_index, self._accelerator.num_processes

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.index == 0

    def average(self, parameters: Iterable[torch.Tensor]) -> None:
        """Average the gradients over the processes, all in one message.

        Not by DistributedDataParallel, which regroups the gradients after its first step: with three processes or more
        a resumed run would then add them in another order.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self._accelerator is not None and gradients:
            flat = self._accelerator.reduce(torch.cat([g.reshape(-1) for g in gradients]), "mean")
            for gradient, piece in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(piece.view_as(gradient))

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over the processes, in each of them."""
        return tensor if self._accelerator is None else self._accelerator.reduce(tensor, "sum")

    def share(self, buffers: Iterable[torch.Tensor]) -> None:
        """Give every process the first one's buffers: running statistics differ by each one's last batch."""
        if self._accelerator is not None:
            for buffer in buffers:
                torch.distributed.broadcast(buffer, 0)

    def close(self) -> None:
        """Leave the group; every process must come here when the run has succeeded."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()
            self._accelerator.end_training()


def _accelerator(cpu: bool) -> Any:
    try:
        from accelerate import Accelerator
    except ImportError as error:
        message = f"several processes are joined by accelerate: {error}"
        raise NetcError([Diagnostic("missing-package", message, fix="pip install accelerate")]) from error
    return Accelerator(cpu=cpu)


@contextmanager
def reproducible(device: torch.device) -> Generator[None]:
    """Deterministic kernels where PyTorch has them, and the caller's generators untouched."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    benchmark = torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            torch.backends.cudnn.benchmark = False
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
            torch.backends.cudnn.benchmark = benchmark
