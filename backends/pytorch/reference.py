"""The meaning of a model, and PyTorch's time for it, on arrays: what other backends are measured against."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy
import torch

from ...compiler.graph import Graph
from .module import module, tensor

Array = numpy.ndarray[Any, Any]


class Reference:
    """A graph in evaluation mode: called with one array for each input, it gives one for each output.

    `threads` is the number PyTorch computes with, process-wide; None leaves it as it is. When `training`, the graph is
    in training mode instead, and its random operators draw the same numbers in every call.
    """

    def __init__(self, graph: Graph, seed: int = 0, threads: int | None = None, *, training: bool = False) -> None:
        self._module = module(graph, seed=seed).train(training)
        self._seed = seed
        if threads is not None:
            torch.set_num_threads(threads)

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        with torch.inference_mode(), torch.random.fork_rng(devices=[], enabled=self._module.training):
            if self._module.training:
                torch.manual_seed(self._seed)
            result = self._module(*(tensor(a) for a in arrays))
        return [r.detach().numpy() for r in (result if isinstance(result, tuple) else (result,))]

    def seconds(self, arrays: Sequence[Array]) -> float:
        """The time of one run, without copies from and to numpy."""
        inputs = [tensor(a) for a in arrays]
        with torch.inference_mode():
            start = time.perf_counter()
            self._module(*inputs)
            return time.perf_counter() - start
