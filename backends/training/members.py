"""The members of a family as modules over one set of tensors. A model is a family of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ...compiler.cost import cost
from ...compiler.dataset import Dataset
from ...compiler.diagnostic import Diagnostic, NetcError, nearest
from ...compiler.family import Family
from ...compiler.graph import Graph, Parameter, Ref
from ...compiler.paths import matches
from ...compiler.types import substitute
from ...compiler.weights import InMemory, value
from .classifier import Classifier, classifier
from .task import Task, fit, sizes


def family_of(graph: Graph) -> Family:
    """The family whose only member is a model."""
    return Family(graph.name, 1, lambda _: graph, lambda _: graph.name, graph.parameters)


def frozen(family: Family, patterns: str) -> Family:
    """The family with the parameters frozen that patterns, with commas between, name.

    Raises:
        NetcError: with every pattern that names none.
    """
    given = [p.strip() for p in patterns.split(",")]
    idle = [p for p in given if not any(matches(path, p) for path in family.parameters)]
    if idle:
        raise NetcError(
            Diagnostic("bad-option", f'freeze: no parameter matches "{p}"', fix=nearest(p, family.parameters))
            for p in idle
        )
    changed = {path: replace(p, trainable=False) for path, p in family.parameters.items() if matches(path, given)}
    return family.with_parameters(changed)


class Members:
    """The members, built when they are first used, with the tensors of `parameters` and `buffers`, by path."""

    def __init__(
        self, family: Family, data: Dataset, device: torch.device, features: Sequence[Ref], *, freeze_statistics: bool
    ) -> None:
        self.family = family
        self.parameters: dict[str, torch.nn.Parameter] = {}
        self.buffers: dict[str, torch.Tensor] = {}
        for path, parameter in family.parameters.items():
            made = _tensor(parameter, device)
            if parameter.buffer:
                self.buffers[path] = made
            else:
                learnt = parameter.trainable and made.is_floating_point()
                self.parameters[path] = torch.nn.Parameter(made, requires_grad=learnt)
        self._data, self._device, self._features = data, device, features
        self._freeze_statistics = freeze_statistics
        self._made: dict[int, Classifier] = {}
        self._macs: list[int] = []

    def __len__(self) -> int:
        return self.family.count

    def __getitem__(self, number: int) -> Classifier:
        if number not in self._made:
            graph = self.family.member(number)
            made = classifier(graph, self._data, self._device, features=self._features)
            if self._freeze_statistics:
                made.freeze_statistics(graph)
            self._share(made.module)
            self._made[number] = made
        return self._made[number]

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers."""
        return {**self.parameters, **self.buffers}

    @property
    def macs(self) -> list[int]:
        """Of each member, for one example."""
        if not self._macs:
            graphs = [self.family.member(n) for n in range(len(self))]
            self._macs = [_macs(graph, fit(graph, self._data)) for graph in graphs]
        return self._macs

    @property
    def anchors(self) -> list[int]:
        """The members that stand for all: the anchors, or else the cheapest and the dearest."""
        if len(self) == 1:
            return [0]
        return sorted(set(self.family.anchors.values())) or self.extremes

    @property
    def extremes(self) -> list[int]:
        """The cheapest and the dearest member."""
        order = sorted(range(len(self)), key=lambda n: (self.macs[n], n))
        return [order[0], order[-1]]

    def spread(self, count: int) -> list[int]:
        """So many members at even distances in the order of their MACs (0 for all of them), and the anchors."""
        order = sorted(range(len(self)), key=lambda n: (self.macs[n], n))
        if 0 < count < len(order):
            order = [order[round(i * (len(order) - 1) / max(1, count - 1))] for i in range(count)]
        return sorted({*order, *self.anchors})

    def _share(self, module: torch.nn.Module) -> None:
        """Put the common tensors in the place of a module's own."""
        own: dict[int, str] = {id(t): path for path, t in (*module.named_parameters(), *module.named_buffers())}
        shared: dict[str, Any] = self.tensors
        for part in module.modules():
            tensors = [
                *part.named_parameters(recurse=False, remove_duplicate=False),
                *part.named_buffers(recurse=False, remove_duplicate=False),
            ]
            for name, tensor in tensors:
                if own[id(tensor)] in shared:
                    setattr(part, name, shared[own[id(tensor)]])


def with_numbers(family: Family, seed: int) -> Family:
    """The family with its numbers at hand: those that a transform computes are computed once, not for each member."""
    numbers = {path: replace(p, data=InMemory(value(p, seed))) for path, p in family.parameters.items()}
    return family.with_parameters(numbers)


def _tensor(parameter: Parameter, device: torch.device) -> torch.Tensor:
    from ..pytorch.module import tensor

    made = tensor(value(parameter)).to(device)
    # Convolutions are a fifth faster with channels last on CPUs too; only the strides differ.
    return made.to(memory_format=torch.channels_last) if made.ndim == 4 else made


def _macs(graph: Graph, task: Task) -> int:
    macs = substitute(cost(graph).macs, sizes(graph, task))
    assert isinstance(macs, int)
    return macs
