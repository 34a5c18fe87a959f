"""Which axes of a graph are one dimension, and what may be done to it."""

from .analysis import Analysis, AxisClass, Place, Reason, analyse
from .select import Selected, Selection

__all__ = ["Analysis", "AxisClass", "Place", "Reason", "Selected", "Selection", "analyse"]
