"""Several models of one architecture made one."""

from __future__ import annotations

from ..graph import Graph
from .average import Average, Slerp
from .match_units import ActivationMatching, Transport, WeightMatching
from .register import Outcome, Refusal, transform
from .task_arithmetic import DareLinear, DareTies, TaskArithmetic, Ties

Method = (
    Average | Slerp | TaskArithmetic | Ties | DareLinear | DareTies | WeightMatching | ActivationMatching | Transport
)


@transform
def merge(*models: Graph, method: Method = Average(), seed: int = 0) -> Outcome:  # noqa: B008 (frozen)
    """Make one model of several, with the architecture of the first.

    `method` says how: `average`, `slerp(t = 0.5)`; `task_arithmetic(base)`, `ties(base, density = 0.5)`,
    `dare_linear(base, density = 0.5)`, `dare_ties(base)`, which add up what models differ from a base by;
    `weight_matching`, `activation_matching(calibration)` and `transport`, which first bring the units of all into the
    order of the first.

    `seed` draws what is random in a method, and the parameters of models that have no numbers yet.

    The contract is `alters`: what the models computed is lost, their architecture stays. Refused are models whose nodes
    or parameters differ, and whole numbers that differ.
    """
    if len(models) < 2:
        raise Refusal(f"merge takes two models or more, and here {'is one' if models else 'are none'}")
    return method.merge(models, seed)
