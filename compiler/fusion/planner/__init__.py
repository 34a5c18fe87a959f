"""Planners: what takes the nodes that no line of a plan names. Each is a module here, and registers itself."""

from . import greedy as greedy
from . import intervals as intervals
from . import layers as layers
from .register import PLANNERS as PLANNERS
from .register import Planner as Planner
from .register import planner as planner
