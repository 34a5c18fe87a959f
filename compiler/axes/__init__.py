"""Which axes of a graph are one dimension, and what may be done to it."""

from .analysis import Analysis, AxisClass, Place, Reason, Use, analyse
from .select import Selected, Selection
from .table import data, table
from .why import axis, explain_axis, seen, sums, why, why_fixed

__all__ = [
    "Analysis",
    "AxisClass",
    "Place",
    "Reason",
    "Selected",
    "Selection",
    "Use",
    "analyse",
    "axis",
    "data",
    "explain_axis",
    "seen",
    "sums",
    "table",
    "why",
    "why_fixed",
]
