"""A graph as a classifier on a device: standardised examples in, its outputs and the values asked for out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from ...compiler.dataset import Dataset
from ...compiler.diagnostic import Diagnostic, Label, NetcError
from ...compiler.graph import Graph, Node, ParameterRef, Ref
from ...compiler.operators.normalization import BatchNorm
from .task import Task, fit, phase_of

_FEATURE = "netc_feature_"


@dataclass(eq=False)
class Classifier:
    """A module with what an example is to it. `features` are the outputs that were asked for besides the graph's."""

    task: Task
    module: torch.nn.Module
    names: dict[bool, tuple[str, ...]]
    """Its outputs, by whether it is in training."""
    features: tuple[str, ...]
    _statistics: list[torch.nn.Module] = field(default_factory=list[torch.nn.Module])
    """Batch norms that never leave evaluation."""

    def __call__(self, x: torch.Tensor, *, mixed: bool = False) -> dict[str, torch.Tensor]:
        """Its outputs as f32 by name, for examples [N, …] of the data set. `mixed`: in bf16 where that is safe."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=mixed):
            result = self.module(x.reshape(len(x), *self.task.shape))
        values = (result,) if isinstance(result, torch.Tensor) else result
        return {n: v.float() for n, v in zip(self.names[self.module.training], values, strict=True)}

    def train(self) -> None:
        """Enter the phase of training."""
        self.module.train()
        for norm in self._statistics:
            norm.eval()

    def eval(self) -> None:
        """Enter the phase of inference."""
        self.module.eval()

    def freeze_statistics(self, graph: Graph) -> None:
        """Keep batch norms to their running statistics in training.

        Raises:
            NetcError: where one is not a layer of its own in PyTorch, and follows the mode of the module around it.
        """
        layers = dict(self.module.named_modules())
        for node in graph.nodes.values():
            if isinstance(node.op, BatchNorm):
                mean = node.inputs[3]
                path = mean.parameter.rpartition(".")[0] if isinstance(mean, ParameterRef) else None
                layer = layers.get(path) if path is not None else None
                if not isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):  # pyright: ignore[reportPrivateUsage]
                    raise _no_layer(node)
                self._statistics.append(layer)


def _no_layer(node: Node) -> NetcError:
    message = f"{node.path} is no layer of PyTorch's: its statistics cannot be frozen"
    return NetcError([Diagnostic("bad-option", message, tuple(Label(s) for s in node.origin[:1]))])


def with_features(graph: Graph, features: Sequence[Ref]) -> Graph:
    """The graph with values inside it among its outputs."""
    edit = graph.edit()
    for i, ref in enumerate(features):
        edit.output(f"{_FEATURE}{i}", ref)
    return edit.done()


def classifier(graph: Graph, module: torch.nn.Module, data: Dataset) -> Classifier:
    """A graph's module, perhaps `with_features`, as a classifier of the data.

    Raises:
        NetcError: where the graph does not fit the data.
    """
    own = {name: ref for name, ref in graph.outputs.items() if not name.startswith(_FEATURE)}
    phases = {name: phase_of(graph, ref) for name, ref in graph.outputs.items()}
    names = {
        training: tuple(n for n, phase in phases.items() if phase != ("infer" if training else "train"))
        for training in (True, False)
    }
    features = tuple(name for name in graph.outputs if name not in own)
    return Classifier(fit(replace(graph, outputs=own), data), module, names, features)


def channels_last(module: torch.nn.Module) -> None:
    """Convolutions are a fifth faster with channels last on CPUs too; only the strides differ."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
