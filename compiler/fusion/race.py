"""Which kernels to join, by running them: a chain is kept where it is measured to be faster than its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ..graph import Graph, ParameterRef, Ref
from .chains import CONVOLUTIONS
from .group import Group
from .isolate import isolate
from .lowering import Kernel, kernel
from .partition import Mask, Task, bits
from .summary import Measured

LONGEST = 3
"""Most kernels that are tried as one."""

KINDS = frozenset({*CONVOLUTIONS, "feed_forward", "attention"})
"""Chains that are tried: those whose intermediate values are worth keeping in the cache."""

MARGIN = 0.03
"""How much faster a group must be than its parts, as a part of their time: less is noise."""

SURE = 0.75
"""In which part of the turns it must be faster: on a busy machine medians alone say little."""


class Timing(NamedTuple):
    """Seconds of one run, medians of runs in turns; in which part of the turns the group was faster; `text` says how
    they were measured."""

    fused: float
    unfused: float
    faster: float
    text: str


Measure = Callable[[Group, Sequence[Group]], Timing]
"""Runs a group as one kernel, and as the kernels of its parts."""


def race(task: Task, parts: Sequence[Mask], measure: Measure) -> tuple[list[Mask], list[Measured]]:
    """Parts, some of them joined: where a kernel for several is measured to be faster than theirs one after the other.

    Groups that are equal but for their names and weights are measured once. Of overlapping ones those are joined that
    save most time, most first.
    """
    known: dict[Any, Timing] = {}
    timings: dict[Mask, tuple[Kernel, Timing]] = {}
    for joined, chosen in candidates(task, parts):
        made = kernel(task.workload, task.members(joined))
        if not isinstance(made, Kernel) or made.kind not in KINDS:
            continue
        key = likeness(isolate(task.workload, task.members(joined)))
        if key not in known:
            known[key] = measure(_group(task, joined), [_group(task, part) for part in chosen])
        timings[joined] = made, known[key]
    taken: list[Mask] = []
    reasons: dict[Mask, str] = {}
    for joined in sorted(timings, key=lambda m: (timings[m][1].fused - timings[m][1].unfused, m)):
        _, timing = timings[joined]
        if timing.fused > (1 - MARGIN) * timing.unfused:
            reasons[joined] = f"not faster by {100 * MARGIN:.0f} %"
        elif timing.faster < SURE:
            reasons[joined] = f"faster in {100 * timing.faster:.0f} % of the turns only"
        elif any(joined & other for other in taken):
            reasons[joined] = "a group that overlaps saves more"
        elif not task.acyclic([*taken, joined, *(p for p in parts if not any(p & o for o in (*taken, joined)))]):
            reasons[joined] = "groups would wait for each other"
        else:
            taken.append(joined)
    measured = [
        Measured(
            _group(task, joined),
            1e3 * timing.fused,
            1e3 * timing.unfused,
            joined in taken,
            f"{made.kind}: {reasons.get(joined, 'faster')} ({timing.text})",
        )
        for joined, (made, timing) in timings.items()
    ]
    return [*taken, *(p for p in parts if not any(p & o for o in taken))], measured


def candidates(task: Task, parts: Sequence[Mask]) -> Iterator[tuple[Mask, list[Mask]]]:
    """Two to `LONGEST` parts of which each but the first is read by, or reads, one before; valid as one group."""
    seen: set[Mask] = set()
    layer = [(part, [part]) for part in parts]
    for _ in range(LONGEST - 1):
        grown: list[tuple[Mask, list[Mask]]] = []
        for joined, chosen in layer:
            for part in parts:
                whole = joined | part
                if part & joined or whole in seen or not _reads(task, part, joined):
                    continue
                seen.add(whole)
                if task.valid(whole):
                    grown.append((whole, [*chosen, part]))
        yield from grown
        layer = grown


def _reads(task: Task, part: Mask, earlier: Mask) -> bool:
    return any(task.sources[i] & earlier for i in bits(part))


def _group(task: Task, mask: Mask) -> Group:
    names = task.members(mask)
    return Group(names[0], names)


def likeness(graph: Graph) -> Any:
    """Equal for graphs that are the same but for the names of things and the numbers in parameters."""
    names: dict[Any, int] = {}

    def place(ref: Ref | None) -> Any:
        if ref is None:
            return None
        if isinstance(ref, ParameterRef):
            return names.setdefault(ref, len(names)), graph.type(ref)
        return names.setdefault(ref.node, len(names)), ref.index

    rows = [(n.op, *map(place, n.inputs), *n.types, place(n.value)) for n in graph.nodes.values()]
    return tuple(rows), tuple(map(place, graph.outputs.values()))
