"""A model's units brought into the order of another's."""

from __future__ import annotations

from ..axes import analyse
from ..contract import Contract
from ..graph import Graph
from .match_units import ActivationMatching, WeightMatching, moved, permutable, with_numbers
from .register import Outcome, transform


@transform
def align(
    graph: Graph,
    to: Graph,
    method: WeightMatching | ActivationMatching = WeightMatching(),  # noqa: B008 (frozen)
    seed: int = 0,
) -> Outcome:
    """Permute a model's units (channels, heads, hidden features) so that they lie as those of another model do.

    All permutable classes of dimensions are permuted, each at once wherever it occurs, so that the function stays. The
    result may then be averaged with the other model, compared with it, or merged by any method.

    Contract: exact.

    - method: `weight_matching` or `activation_matching(calibration = calib)`.
    - seed: for the order in which classes are looked at, and for parameters without numbers.

    Refuses a model of another architecture.

    Source: Ainsworth et al., "Git Re-Basin: merging models modulo permutation symmetries" (2023), sections 3.2
    (weights) and 3.1 (activations).
    """
    first, own = (analyse(with_numbers(m, seed)) for m in (to, graph))
    maps = method.maps(first, own, seed)
    changed = sum(int((maps.orders[c.number] != range(len(maps.orders[c.number]))).sum()) for c in permutable(first))
    whole = sum(len(maps.orders[c.number]) for c in permutable(first))
    note = f"{changed} of {whole} units in {len(permutable(first))} classes change their place, by {method.by}"
    return Outcome(moved(maps), Contract(), (note,))
