"""Nodes that no good partition parts, and orders of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..partition import Mask, Task, bits
from ..workload import IN_PLACE

Order = Literal["graph", "depth", "breadth"]
ORDERS: tuple[Order, ...] = ("graph", "depth", "breadth")


def atoms(task: Task) -> list[Mask]:
    """The free nodes, element-wise ones with what they read where nothing speaks for parting them.

    A node that takes over the memory of its only operand, whose only reader it is, costs nothing where that is made:
    parted from it, the same bytes would leave, and as many be read.
    """
    home: dict[int, Mask] = {}
    for i in bits(task.free):
        mask = 1 << i
        source = _only_source(task, i)
        if source is not None and task.valid(home[source] | mask):
            mask |= home[source]
        for member in bits(mask):
            home[member] = mask
    return list(dict.fromkeys(home.values()))


def _only_source(task: Task, number: int) -> int | None:
    workload = task.workload
    name = task.names[number]
    node = workload.graph.nodes[name]
    edges = workload.edges[name]
    if node.op.name not in IN_PLACE or len(edges) != 1 or edges[0].through or workload.weights[name]:
        return None
    value = edges[0].source
    source = task.number.get(value.node)
    if source is None or not task.free >> source & 1 or value in workload.results:
        return None
    given, made = workload.type(value), node.types[0]
    same = given.shape == made.shape and workload.element(given) == workload.element(made)
    alone = len(workload.graph.nodes[value.node].types) == 1 and len(workload.readers[value]) == 1
    return source if same and alone else None


def arrange(task: Task, units: Sequence[Mask], order: Order) -> list[Mask]:
    """Free units in an order in which each follows those it reads.

    `graph`: that of the graph. `depth`: a unit as soon as those it reads have run, so that branches run one after the
    other, the last begun first. `breadth`: those that wait longest first, so that branches run side by side.
    """
    everything = [*units, *task.units]
    home = {i: unit for unit in everything for i in bits(unit)}
    needs = {
        unit: {home[s] for i in bits(unit) for s in bits(task.sources[i]) if s in home} - {unit} for unit in everything
    }
    readers: dict[Mask, list[Mask]] = {unit: [] for unit in everything}
    for unit in sorted(everything, key=_first):
        for source in needs[unit]:
            readers[source].append(unit)
    ready = sorted((unit for unit in everything if not needs[unit]), key=_first)
    done: list[Mask] = []
    while ready:
        at = {"graph": ready.index(min(ready, key=_first)), "depth": len(ready) - 1, "breadth": 0}[order]
        unit = ready.pop(at)
        done.append(unit)
        fresh = [r for r in readers[unit] if needs[r] <= set(done) and r not in ready]
        ready.extend(reversed(fresh) if order == "depth" else fresh)
    chosen = set(units)
    return [unit for unit in done if unit in chosen]


def _first(mask: Mask) -> int:
    return mask & -mask
