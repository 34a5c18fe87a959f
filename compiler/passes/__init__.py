"""Optimisations and preparations: functions from a graph to a graph, one verb a file. Importing it registers them."""

from . import bind as bind
from . import choose_layout as choose_layout
from . import eliminate_common as eliminate_common
from . import eliminate_dead as eliminate_dead
from . import expand as expand
from . import fold_constants as fold_constants
from . import merge_siblings as merge_siblings
from . import mixed_precision as mixed_precision
from . import simplify_joins as simplify_joins
from . import strip_phase as strip_phase
from . import widen as widen
