"""Which members of a family learn in a step."""

from __future__ import annotations

from .members import Members
from .options import TrainingOptions
from .seed import MEMBER, generator


class Sampler:
    """A function of the step. `uniform` draws all members alike. `flops` draws a range of MACs, then a member in it.

    Most ways through a family cost about the same, so that drawn alike they leave its ends untrained. Complexity comes
    first in Zhang et al., "ShiftNAS", 2023, section 3 (who learn its probabilities); here all ranges, of equal width
    and with a member, are equally likely. Drawn by how many members they have, as in Pan et al., "Stitched ViTs are
    Flexible Vision Backbones", 2023, the members would be drawn alike.
    """

    def __init__(self, members: Members, options: TrainingOptions) -> None:
        self._seed = options.seed
        self._always = members.extremes if options.sandwich else []
        self.groups = _groups(members.macs, options.bins) if options.sampler == "flops" else [list(range(len(members)))]

    def __call__(self, step: int) -> list[int]:
        """The members, each once: the one that is drawn, and with the sandwich rule (Yu and Huang, 2019) both ends."""
        drawn = generator(self._seed, MEMBER, step)
        group = self.groups[drawn.integers(len(self.groups))]
        return list(dict.fromkeys([*self._always, group[drawn.integers(len(group))]]))


def _groups(macs: list[int], count: int) -> list[list[int]]:
    """Members by ranges of MACs of equal width, empty ones left out."""
    low, high = min(macs), max(macs)
    groups: list[list[int]] = [[] for _ in range(count)]
    for number, own in enumerate(macs):
        groups[min(count - 1, (own - low) * count // max(1, high - low))].append(number)
    return [group for group in groups if group]
