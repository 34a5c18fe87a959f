"""Several models made one."""

from __future__ import annotations

from ..graph import Graph
from .average import Average, Slerp
from .least_squares import LeastSquares
from .match_units import ActivationMatching, Transport, WeightMatching
from .pleas import Pleas
from .register import Outcome, Refusal, transform
from .task_arithmetic import DareLinear, DareTies, TaskArithmetic, Ties

Elementwise = Average | Slerp | TaskArithmetic | Ties | DareLinear | DareTies
Method = Elementwise | WeightMatching | ActivationMatching | Transport | LeastSquares | Pleas


@transform
def merge(*models: Graph, method: Method = Average(), seed: int = 0) -> Outcome:  # noqa: B008 (frozen)
    """Make one model of several, with the architecture of the first.

    Contract: alters. What the models computed is lost; the architecture of the first stays (but for `pleas`, which may
    widen it).

    - method: `average`, `slerp(t = 0.5)`; `task_arithmetic(base)`, `ties(base, density = 0.5)`, `dare_linear(base)` and
      `dare_ties(base)`, which add up what models differ from a base by; `weight_matching`,
      `activation_matching(calibration = calib)` and `transport`, which first bring the units of all into the order of
      the first; `least_squares(calibrations)`, for which each layer gives what it gave in each model; and
      `pleas(calibration, width = 1.5)`, which keeps some units of both.
    - seed: for what is random in a method, and for parameters without numbers.

    Refuses models whose nodes or parameters differ (`transport` takes other widths), and whole numbers that differ.
    """
    if not models:
        raise Refusal("merge takes a model or more, and here are none")
    return method.merge(models, seed)
