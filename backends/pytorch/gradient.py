"""How much what a model gives changes with each of its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy
import torch

from ...compiler.graph import Graph
from .module import module, tensor

Array = numpy.ndarray[Any, Any]

_CHUNK = 16
"""So many examples run at once."""


def gradients(graph: Graph, inputs: Mapping[str, Array], *, seed: int = 0) -> dict[str, Array]:
    """The gradient, by every parameter of floats, of the sum of squares of all outputs of floats in inference, averaged
    over the examples. Parameters without data are drawn from `seed`.

    Raises:
        NetcError: where the graph holds an operator that PyTorch has no rule for.
    """
    net = module(graph, seed)
    learned = {path: p for path, p in net.named_parameters(remove_duplicate=False) if p.is_floating_point()}
    for parameter in learned.values():
        parameter.requires_grad_()
    given = [tensor(inputs[name]) for name in graph.inputs]
    count = min((len(x) for x in given), default=1)
    free = all(not isinstance(node.types[0].shape[0], int) for node in graph.inputs.values())
    size = _CHUNK if free else count
    for start in range(0, count, size):
        loss = sum(y.square().sum() for y in _floats(net(*(x[start : start + size] for x in given))))
        cast(torch.Tensor, loss / count).backward()
    zero = torch.zeros(())
    return {
        path: (zero.expand(p.shape) if p.grad is None else p.grad).numpy().astype("float64")
        for path, p in learned.items()
    }


def _floats(outputs: Any) -> Iterator[torch.Tensor]:
    """The tensors of floats among what a module gives."""
    if isinstance(outputs, torch.Tensor):
        if outputs.is_floating_point():
            yield outputs
    else:
        for each in outputs.values() if isinstance(outputs, dict) else outputs:  # pyright: ignore[reportUnknownVariableType]
            yield from _floats(each)
