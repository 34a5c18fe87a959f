"""A plan in numbers: what each group holds, moves and computes, beside the same nodes layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..graph import Input, Value
from ..target import LLVM, Accelerator, Target
from ..types import DType
from .group import Group
from .memory import Cost, cheapest
from .workload import Workload


@dataclass(frozen=True, slots=True)
class Machine:
    """What bounds a plan; None where unknown, or where it takes no time worth counting.

    `buffer` in bytes, `dram` in bytes per second, `macs` in multiply-accumulates per second.
    """

    buffer: int | None = None
    dram: float | None = None
    macs: float | None = None
    soft: bool = False
    """The buffer is a cache: what does not fit goes to memory and back all the same."""

    @classmethod
    def of(cls, target: Target) -> Machine:
        """What a target says of itself: of a processor no more than its cache."""
        if isinstance(target, Accelerator):
            return cls(target.buffer, target.dram, target.macs)
        return cls(target.cache if isinstance(target, LLVM) else None, soft=True)

    def seconds(self, macs: int, moved: int) -> float | None:
        """The least time: computing and moving go on at once. None where nothing is known of it."""
        if self.dram is None:
            return None
        return max(moved / self.dram, macs / self.macs if self.macs else 0.0)


@dataclass(frozen=True, slots=True)
class Measured:
    """A group as one kernel against the same nodes as several, in milliseconds, and why it was chosen or not."""

    group: Group
    fused: float
    unfused: float
    chosen: bool
    reason: str

    def __str__(self) -> str:
        first, last = self.group.nodes[0], self.group.nodes[-1]
        return f"{first} … {last}: {self.fused:.3f} ms as one kernel, {self.unfused:.3f} ms apart: {self.reason}"


@dataclass(frozen=True, slots=True)
class Share:
    """One group of a plan."""

    group: Group
    carried: tuple[str, ...]
    """Nodes that only carry, and come with it."""
    cost: Cost | None
    """None where it does not fit into the buffer."""
    alone: tuple[Cost | None, ...]
    """Each node as a group of its own."""
    macs: int
    """Multiply-accumulates, without those that are repeated."""
    maker: str = ""
    """The line or planner that made it."""
    kernel: str = ""
    """What executes it."""

    @property
    def before(self) -> int | None:
        """Bytes to and from DRAM layer by layer; None where a layer does not fit into the buffer."""
        return None if None in self.alone else sum(c.usage.dram for c in self.alone if c is not None)

    @property
    def after(self) -> int | None:
        return None if self.cost is None else self.cost.usage.dram

    def data(self) -> dict[str, Any]:
        """JSON-ready: bytes, and operations (two for each MAC) per byte."""
        told: dict[str, Any] = {
            "name": self.group.name,
            "nodes": list(self.group.nodes),
            "carried": list(self.carried),
            "maker": self.maker,
            "kernel": self.kernel,
            "macs": self.macs,
            "dram_before": self.before,
            "fits": self.cost is not None,
        }
        if self.cost is None:
            return told
        schedule, usage = self.cost
        return told | {
            "buffer": usage.buffer,
            "dram": usage.dram,
            "inputs": usage.inputs,
            "outputs": usage.outputs,
            "weights": usage.weights,
            "computed_macs": usage.macs,
            "intensity": usage.intensity if usage.dram else None,
            "schedule": {
                "text": str(schedule),
                "steps": schedule.steps,
                "strips": schedule.strips,
                "halo": schedule.halo,
                "kept_weights": sorted(schedule.resident),
            },
        }


@dataclass(frozen=True, slots=True)
class Summary:
    """A plan and its groups, in the order in which they run."""

    name: str
    target: str
    """As it is declared: `npu = accelerator(…)`."""
    machine: Machine
    dtype: DType | None
    shares: tuple[Share, ...]
    bound: int | None = None
    """No plan can move fewer bytes; None where no bound is known."""
    measured: tuple[Measured, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def before(self) -> int | None:
        """Bytes to and from DRAM layer by layer."""
        return _sum(s.before for s in self.shares)

    @property
    def after(self) -> int | None:
        return _sum(s.after for s in self.shares)

    @property
    def buffer(self) -> int:
        """The most of any group on chip."""
        return max((s.cost.usage.buffer for s in self.shares if s.cost is not None), default=0)

    @property
    def seconds(self) -> float | None:
        """The least time of one run on a machine whose memory and arithmetic work at once, group after group; None
        where nothing is known of it."""
        times = [
            None if s.cost is None else self.machine.seconds(s.cost.usage.macs, s.cost.usage.dram) for s in self.shares
        ]
        return None if None in times else sum(t for t in times if t is not None)

    @property
    def gap(self) -> float | None:
        """How far above the bound, as a part of it."""
        return None if not self.bound or self.after is None else self.after / self.bound - 1

    def data(self) -> dict[str, Any]:
        """JSON-ready; sizes in bytes, rates per second."""
        return {
            "plan": self.name,
            "target": self.target,
            "machine": {"buffer": self.machine.buffer, "dram": self.machine.dram, "macs": self.machine.macs},
            "dtype": None if self.dtype is None else str(self.dtype),
            "dram_before": self.before,
            "dram": self.after,
            "bound": self.bound,
            "gap": self.gap,
            "seconds": self.seconds,
            "buffer": self.buffer,
            "macs": sum(s.macs for s in self.shares),
            "groups": [s.data() for s in self.shares],
            "measured": [
                {
                    "group": m.group.name,
                    "nodes": list(m.group.nodes),
                    "fused_ms": m.fused,
                    "unfused_ms": m.unfused,
                    "chosen": m.chosen,
                    "reason": m.reason,
                }
                for m in self.measured
            ],
            "notes": list(self.notes),
        }


def _sum(numbers: Iterable[int | None]) -> int | None:
    found = list(numbers)
    return None if None in found else sum(n for n in found if n is not None)


def shares(
    workload: Workload,
    groups: Sequence[Group],
    buffer: int | None,
    costs: Mapping[str, Cost | None] | None = None,
    *,
    makers: Mapping[str, str] | None = None,
    kernels: Mapping[str, str] | None = None,
    soft: bool = False,
) -> tuple[Share, ...]:
    """The groups of a plan with what they cost. By a group's name: `costs` where they are known already, `makers`, and
    `kernels`."""
    together = carried(workload, groups)
    found: list[Share] = []

    def cost_of(nodes: Sequence[str]) -> Cost | None:
        return cheapest(workload, nodes, buffer) or (cheapest(workload, nodes, None) if soft else None)

    for group in groups:
        alone = tuple(cost_of((path,)) for path in group.nodes)
        if costs is not None and group.name in costs:
            cost = costs[group.name]
        else:
            cost = alone[0] if len(alone) == 1 else cost_of(group.nodes)
        macs = sum(map(workload.macs, group.nodes))
        maker, kernel = (makers or {}).get(group.name, ""), (kernels or {}).get(group.name, "")
        found.append(Share(group, together[group.name], cost, alone, macs, maker, kernel))
    return tuple(found)


def carried(workload: Workload, groups: Sequence[Group]) -> dict[str, tuple[str, ...]]:
    """Of each group by name the nodes that come with it: carried ones that it reads from, directly or through others,
    and those that carry what it makes to an output of the model."""
    work, graph = workload.work, workload.graph
    home = {path: group.name for group in groups for path in group.nodes}
    found: dict[str, set[str]] = {group.name: set() for group in groups}

    def follow(path: str, name: str) -> None:
        waiting = [path]
        while waiting:
            at = waiting.pop()
            if at in work.nodes or at in found[name] or isinstance(graph.nodes[at].op, Input):
                continue
            found[name].add(at)
            waiting.extend(ref.node for ref in graph.nodes[at].inputs if isinstance(ref, Value))

    for path, name in home.items():
        for ref in graph.nodes[path].inputs:
            if isinstance(ref, Value):
                follow(ref.node, name)
    for ref in graph.outputs.values():
        for source in work.sources(ref):
            if isinstance(ref, Value) and source in home:
                follow(ref.node, home[source])
    return {name: tuple(path for path in graph.nodes if path in nodes) for name, nodes in found.items()}
