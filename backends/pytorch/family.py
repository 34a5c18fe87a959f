"""A family as one `nn.Module` over one set of parameters, which runs the member that was chosen last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import numpy
import torch
from torch import nn

from ...compiler import weights
from ...compiler.family import Family
from ...compiler.graph import Parameter
from ...compiler.weights import InMemory
from .interpreter import array
from .module import module, tensor


class FamilyModule(nn.Module):
    """The parameters of a family, and its members over them: `use` chooses the one that `forward` runs.

    `state_dict` has the paths of the family's store. A member is made when it is first used, from the same source as
    the member taken out of the family, and shares the parameters: what trains one trains all that have them. In a call,
    those that the member does not have get no gradient.
    """

    def __init__(self, family: Family, seed: int = 0) -> None:
        super().__init__()
        self.family = family
        self.active = 0
        """The number of the member that runs."""
        self._members: dict[int, nn.Module] = {}
        for path, parameter in family.parameters.items():
            value = tensor(weights.value(parameter, seed))
            *above, name = path.split(".")
            owner: nn.Module = self
            for part in above:
                # Not `add_module`: a path may have a part that `nn.Module` has as an attribute.
                owner = owner._modules.setdefault(part, nn.Module()) or owner
            if parameter.buffer:
                owner._buffers[name] = value
            else:
                owner._parameters[name] = nn.Parameter(value, parameter.trainable and value.is_floating_point())
        self.eval()

    def use(self, member: int | str) -> Self:
        """Choose a member by its number, or an anchor by its name.

        Raises:
            IndexError: where there is no such member.
            KeyError: where there is no such anchor.
        """
        number = self.family.anchors[member] if isinstance(member, str) else member
        self.member(number)
        self.active = number
        return self

    def member(self, number: int) -> nn.Module:
        """A member as a module of its own, over the same parameters.

        Raises:
            IndexError: where there is no such member.
        """
        if number not in self._members:
            self._members[number] = self._made(number)
        return self._members[number]

    def forward(self, *inputs: torch.Tensor) -> Any:
        """What the chosen member gives."""
        return self.member(self.active)(*inputs)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for member in self._members.values():
            member.train(mode)
        return self

    def parameters_used(self) -> list[str]:
        """The paths of the parameters that the chosen member has."""
        return list(self.family.member(self.active).parameters)

    def stored(self) -> dict[str, Parameter]:
        """The parameters with the numbers of now, for `Family.with_parameters`."""
        now = self._tensors()
        return {
            path: replace(parameter, data=InMemory(array(now[path].detach().cpu())))
            for path, parameter in self.family.parameters.items()
        }

    def _made(self, number: int) -> nn.Module:
        graph = self.family.member(number)
        made = module(graph.with_parameters(map(_blank, graph.parameters.values())))
        self._share(made)
        return made.train(self.training)

    def _share(self, member: nn.Module) -> None:
        """Give a member the tensors of the store."""
        now = self._tensors()
        for path, part in member.named_modules():
            for name in (*part._parameters, *part._buffers):
                ours = now.get(f"{path}.{name}" if path else name)
                if ours is not None:
                    setattr(part, name, ours)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {**dict(self.named_parameters(remove_duplicate=False)), **dict(self.named_buffers())}

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move or cast everything: tensors that are new objects then are shared again."""
        super()._apply(fn, recurse)
        for member in self._members.values():
            member._apply(fn, recurse)
            self._share(member)
        return self


def _blank(parameter: Parameter) -> Parameter:
    """A parameter whose numbers do not matter."""
    kind = parameter.type
    shape = [d for d in kind.shape if isinstance(d, int)]
    return replace(parameter, data=InMemory(numpy.zeros(shape, kind.dtype.as_numpy)))


def family(family: Family, seed: int = 0) -> FamilyModule:
    """A family as a module, in evaluation mode; parameters without data are drawn from `seed`."""
    return FamilyModule(family, seed)
