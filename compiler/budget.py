"""Limits that stop a hostile or mistaken spec quickly. Each can be raised by the caller."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """How much elaborating one model may take.

    `nodes` and `instances` bound the graph, `steps` the loop iterations and function calls in total, `nesting` modules
    within modules and calls within calls, `bits` the size of an integer, `items` the length of a list or string.
    """

    nodes: int = 1_000_000
    instances: int = 16_000
    steps: int = 100_000
    nesting: int = 100
    bits: int = 256
    items: int = 100_000
