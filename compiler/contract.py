"""What a pass or rule promises about the function of a model, and by how much a promise may be missed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["exact", "approx", "delayed", "alters"]

EXACT = 1e-9
"""Largest relative difference in float64 that counts as the same function: rounding, and nothing else."""


@dataclass(frozen=True, slots=True)
class Contract:
    """What is promised: `exact`, the same function up to rounding in float64; `approx(bound)`, outputs that differ by
    at most `bound` relative to the largest output; `delayed(bound)`, the same outputs `bound` steps later along their
    second axis (time); `alters`, nothing."""

    kind: Kind = "exact"
    bound: float = 0

    @property
    def tolerance(self) -> float | None:
        """The largest relative difference allowed; None where there is no promise."""
        return {"exact": EXACT, "approx": self.bound, "delayed": EXACT, "alters": None}[self.kind]

    def __str__(self) -> str:
        return f"{self.kind}({self.bound:g})" if self.kind in ("approx", "delayed") else self.kind
