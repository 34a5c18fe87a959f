"""Planners: what takes the nodes that no line of a plan names. Each is a module here, and registers itself."""

from . import anneal as anneal
from . import best as best
from . import exact as exact
from . import greedy as greedy
from . import intervals as intervals
from . import layers as layers
from . import pattern as pattern
from . import split as split
from .register import PLANNERS as PLANNERS
from .register import Planner as Planner
from .register import planner as planner
