"""Settings for every test. They are made before torch or TVM is loaded, since both read them once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# One thread a process: pytest-xdist takes the cores, and sums in one order give the same bits in every run.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TVM_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# What was tuned on a developer's machine changes no test.
os.environ["NETC_RECORDS"] = "none"
# Nothing is fetched while testing: a model that is not in the tree or in an installed package is not used.
os.environ["HF_HUB_OFFLINE"] = "1"

# Time is never asserted: the machine may be busy. The same examples in every CI run, new ones at a developer's desk.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bless", action="store_true", help="rewrite what the pages of tests/book print")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Seed the global generators, for code under test that draws from them."""
    import random

    import numpy

    random.seed(0)
    numpy.random.seed(0)  # noqa: NPY002 - the legacy generator is global, and that is the point


@pytest.fixture
def interrupt() -> Iterator[Callable[[int], None]]:
    """Stop the next run inside a step: after the optimizer has changed the weights, before anything is counted."""
    from interruption import Interruption
    from torch.optim.optimizer import register_optimizer_step_post_hook

    handles: list[Any] = []

    def at(step: int) -> None:
        left = [step]

        def count(*_: object) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Interruption

        handles.append(register_optimizer_step_post_hook(count))

    yield at
    for handle in handles:
        handle.remove()
