"""The members of a family as modules over one set of tensors. A model is a family of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ...compiler.cost import cost
from ...compiler.dataset import Dataset
from ...compiler.diagnostic import Diagnostic, NetcError, nearest
from ...compiler.family import Family
from ...compiler.graph import Graph, Ref
from ...compiler.paths import matches
from ...compiler.types import substitute
from .classifier import Classifier, channels_last, classifier, with_features
from .task import sizes


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
    """The members as classifiers over one set of tensors, `parameters` and `buffers` by path; each is built when it is
    first used."""

    def __init__(
        self,
        family: Family,
        data: Dataset,
        device: torch.device,
        seed: int = 0,
        *,
        features: Sequence[Ref] = (),
        freeze_statistics: bool = False,
    ) -> None:
        from ..pytorch.family import family as module

        self.family = replace(family, build=lambda number: with_features(family.build(number), features))
        self._module = module(self.family, seed).to(device)
        channels_last(self._module)
        self.parameters = dict(self._module.named_parameters())
        self.buffers = dict(self._module.named_buffers())
        self._data, self._device = data, device
        self._freeze_statistics = freeze_statistics
        self._made: dict[int, Classifier] = {}
        self._macs: list[int] = []

    def __len__(self) -> int:
        return self.family.count

    def __getitem__(self, number: int) -> Classifier:
        if number not in self._made:
            graph = self.family.member(number)
            made = classifier(graph, self._module.member(number).to(self._device), self._data)
            if self._freeze_statistics:
                made.freeze_statistics(graph)
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
            self._macs = [_macs(self.family.member(n), self._data) for n in range(len(self))]
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


def _macs(graph: Graph, data: Dataset) -> int:
    macs = substitute(cost(graph).macs, sizes(graph, data))
    assert isinstance(macs, int)
    return macs
