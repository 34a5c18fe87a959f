"""What a model may cost: `macs <= 24 M`, for one example."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor
from typing import cast

from ..cost import Report, assumed, cost
from ..diagnostic import nearest
from ..graph import Graph
from ..types import Dim
from .register import Limit, Refusal

QUANTITIES: dict[str, Callable[[Report], Dim]] = {
    "macs": lambda report: report.macs,
    "parameters": lambda report: report.parameters,
    "activations": lambda report: report.total.activations,
    "peak": lambda report: report.total.peak,
    "bytes": lambda report: report.total.weight_bytes,
}
"""What a limit can be set to: multiply-accumulates, unique parameters, bytes of all activations, of those alive at one
time, and of the parameters."""

_NAMES = {"params": "parameters"}


def spent(graph: Graph, quantity: str) -> int:
    """What a model costs for one example, in inference. Symbols other than the batch count as `REFERENCE`.

    Raises:
        Refusal: where there is no such quantity.
    """
    name = _NAMES.get(quantity, quantity)
    if name not in QUANTITIES:
        message = f"there is no limit of {quantity}"
        raise Refusal(message, option="limit", notes=(", ".join(QUANTITIES),), fix=nearest(quantity, QUANTITIES))
    return cast(int, QUANTITIES[name](cost(graph, assumed(graph))))


def allowed(limit: Limit) -> int:
    """The most that a limit allows.

    Raises:
        Refusal: where it says how much there must be at least.
    """
    if limit.relation not in ("<=", "<"):
        raise Refusal(f"{said(limit)} is no upper limit", option="limit", fix=said(limit, "<="))
    return floor(limit.value) if limit.relation == "<=" else ceil(limit.value) - 1


def meets(graph: Graph, limit: Limit) -> bool:
    """Whether a model costs no more than a limit allows.

    Raises:
        Refusal: see `spent` and `allowed`.
    """
    return spent(graph, limit.quantity) <= allowed(limit)


def unmet(graph: Graph, limit: Limit) -> None:
    """
    Raises:
        Refusal: where a model meets a limit as it is, so that nothing is to be done; see `meets` too.
    """
    if meets(graph, limit):
        message = f"{said(limit)} holds already: {limit.quantity} = {spent(graph, limit.quantity):_}"
        raise Refusal(message, option="limit")


def said(limit: Limit, relation: str | None = None) -> str:
    """A limit in words."""
    return f"{limit.quantity} {relation or limit.relation} {limit.value:,.0f}".replace(",", "_")
