"""Layer by layer: no fusion at all."""

from __future__ import annotations

import time

from ..partition import Partition, Task, bits
from .register import planner


@planner
def layers(task: Task) -> Partition:
    """Each node alone."""
    since = time.process_time()
    return task.partition([1 << i for i in bits(task.free)], "layers", since)
