"""Planners: what takes the nodes that no line of a plan names. Each is a module here, and registers itself."""

from . import layers as layers
from .register import PLANNERS as PLANNERS
from .register import Planner as Planner
from .register import Problem as Problem
