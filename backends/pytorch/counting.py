"""Groups executed on real tensors as their schedules say, with what is on chip and what is moved counted on the way.

This is what `compiler.fusion.memory` is measured against. It knows the structure of a group (who reads which lines of
whom, the order of events) and none of the formulas: at run time it asks, backwards from what leaves, which lines are
still to be made, holds every line that is on chip by itself, and counts what it does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

import torch

from ...compiler import weights
from ...compiler.fusion.memory import Members, Schedule, Usage, events
from ...compiler.fusion.workload import Workload
from ...compiler.graph import Graph, ParameterRef, Ref, Value
from ...compiler.operators.convolution import Transposed
from ...compiler.operators.linear import Embedding
from .interpreter import Interpreter
from .module import tensor
from .onchip import Buffer
from .onchip import BufferExceeded as BufferExceeded
from .slices import Region, cut, evaluate
from .tile import Tile


class Counted(NamedTuple):
    """What a group makes for others, and what that took."""

    values: dict[Value, torch.Tensor]
    usage: Usage


class Executed(NamedTuple):
    """The outputs of a model that was executed group by group, and what each group took.

    `values` are all that went through DRAM, the inputs among them.
    """

    outputs: dict[str, torch.Tensor]
    usages: tuple[Usage, ...]
    values: dict[Value, torch.Tensor]

    @property
    def dram(self) -> int:
        """All bytes to and from DRAM."""
        return sum(usage.dram for usage in self.usages)


class Parameters:
    """What a model reads that no input determines: its parameters, and tables that are computed at compile time."""

    def __init__(self, graph: Graph, seed: int = 0) -> None:
        self._graph = graph
        self._seed = seed
        self._found: dict[Ref, torch.Tensor] = {}

    def __getitem__(self, ref: Ref) -> torch.Tensor:
        if ref not in self._found:
            if isinstance(ref, ParameterRef):
                self._found[ref] = tensor(weights.value(self._graph.parameters[ref.parameter], self._seed))
            else:
                self._found[ref] = self._computed(ref)
        return self._found[ref]

    def _computed(self, ref: Value) -> torch.Tensor:
        needed, waiting = set[str](), [ref.node]
        while waiting:
            path = waiting.pop()
            if path not in needed:
                needed.add(path)
                waiting.extend(r.node for r in self._graph.nodes[path].refs if isinstance(r, Value))
        nodes = {path: node for path, node in self._graph.nodes.items() if path in needed}
        graph = Graph("constant", nodes, {"output": ref}, self._graph.parameters)
        return Interpreter(graph, seed=self._seed).tensors({})["output"]


def execute(
    workload: Workload,
    nodes: Collection[str],
    schedule: Schedule,
    values: Mapping[Value, torch.Tensor],
    *,
    buffer: int | None = None,
    parameters: Parameters | None = None,
) -> Counted:
    """Execute a group as its schedule says. `values` are what it reads from DRAM, in the dtypes of the graph.

    Bytes are counted in the dtype of the workload, whatever PyTorch computes in. `buffer` is the room on chip in bytes.

    Raises:
        BufferExceeded: where the group needs more of it.
    """
    with torch.inference_mode():
        group = _Group(Members(workload, nodes), schedule, values, parameters or Parameters(workload.graph), buffer)
        group.execute()
        return Counted(group.written, group.usage)


def execute_plan(
    workload: Workload,
    groups: Sequence[tuple[Collection[str], Schedule]],
    inputs: Mapping[str, torch.Tensor],
    *,
    buffer: int | None = None,
    seed: int = 0,
) -> Executed:
    """Execute all groups of a partition, each as soon as what it reads is in DRAM; usages in the order of `groups`.

    Raises:
        BufferExceeded: as `execute`.
        ValueError: where groups wait for each other, or for a node that is in none.
    """
    graph, parameters = workload.graph, Parameters(workload.graph, seed)
    dram: dict[Value, torch.Tensor] = {node.value: inputs[name] for name, node in graph.inputs.items()}
    usages: dict[int, Usage] = {}
    while len(usages) < len(groups):
        waiting = [i for i in range(len(groups)) if i not in usages]
        ready = [i for i in waiting if all(v in dram for v in _entering(workload, groups[i][0]))]
        if not ready:
            raise ValueError("groups wait for each other, or for a node that is in none")
        for i in ready:
            nodes, schedule = groups[i]
            made, usages[i] = execute(workload, nodes, schedule, dram, buffer=buffer, parameters=parameters)
            dram.update(made)
    with torch.inference_mode():
        outputs = {name: _output(workload, ref, dram, parameters) for name, ref in graph.outputs.items()}
    return Executed(outputs, tuple(usages[i] for i in range(len(groups))), dram)


def _entering(workload: Workload, nodes: Collection[str]) -> Iterator[Value]:
    """What a group reads from DRAM."""
    chosen = set(nodes)
    return (e.source for path in nodes for e in workload.edges[path] if e.source.node not in chosen)


def _output(workload: Workload, ref: Ref, dram: Mapping[Value, torch.Tensor], parameters: Parameters) -> torch.Tensor:
    """An output of the model, brought into order."""
    found = workload.resolve(ref)
    if found is None:
        return parameters[ref]
    result = dram[found[0]]
    for move in reversed(found[1]):
        result = evaluate(workload.graph.nodes[move.node].op, [result])[move.index]
    return result


class _Weight(NamedTuple):
    """Bytes of a weight, of a portion of it, and of an element."""

    name: str
    bytes: int
    portion: int
    element: int


class _Group:
    """A group in execution: the machine of its tiles."""

    def __init__(
        self,
        members: Members,
        schedule: Schedule,
        values: Mapping[Value, torch.Tensor],
        parameters: Parameters,
        room: int | None,
    ) -> None:
        self.members = members
        self.schedule = schedule
        self.buffer = Buffer(room)
        self.events = tuple(events(members))
        self.written: dict[Value, torch.Tensor] = {}
        self._workload = members.workload
        self._graph = members.workload.graph
        self._values = values
        self._parameters = parameters
        self._weights = {path: tuple(self._read_by(path)) for path in members.order}
        self._unwritten = {v: int(str(self._workload.type(v).elements)) for v in members.leaving}
        self._inputs = self._outputs = self._loaded = 0
        self._macs: dict[str, Fraction] = dict.fromkeys(members.order, Fraction(0))

    @property
    def usage(self) -> Usage:
        macs = sum(int(count) for count in self._macs.values())
        return Usage(self.buffer.peak, self._inputs, self._outputs, self._loaded, macs)

    def execute(self) -> None:
        """All examples, strips and tiles, one after the other."""
        held = self._hold()
        tiles = self.schedule.steps if self.schedule.halo == "recompute" else 1
        for example in range(self.members.batch):
            for strip in range(self.schedule.strips):
                for tile in range(tiles):
                    Tile(self, example, strip, tile, tiles).execute()
                    if self.buffer.used != held:
                        raise AssertionError("lines are left on chip")
        if any(self._unwritten.values()):
            raise AssertionError("lines were not written, or twice")

    def _read_by(self, path: str) -> Iterator[_Weight]:
        """The weights of a node."""
        for ref in self._graph.nodes[path].inputs:
            if ref is None or self._workload.resolve(ref) is not None:
                continue
            type = self._graph.type(ref)
            if type.rank or isinstance(ref, ParameterRef):
                element = self._workload.element(type)
                size = int(str(type.elements)) * element
                name = ref.parameter if isinstance(ref, ParameterRef) else str(ref)
                yield _Weight(name, size, size // int(str(type.shape[0])) if type.rank > 1 else size, element)

    def _stays(self, path: str, weight: _Weight) -> bool:
        """Whether a weight is kept on chip; a table that is only looked up never is."""
        return weight.name in self.schedule.resident and not isinstance(self._graph.nodes[path].op, Embedding)

    def _hold(self) -> int:
        """Load the weights that stay, and set room aside for portions of the others; the bytes of both."""
        staging, loaded = 0, set[str]()
        for path, found in self._weights.items():
            for weight in found:
                if not self._stays(path, weight):
                    staging = max(staging, weight.portion)
                elif weight.name not in loaded:
                    loaded.add(weight.name)
                    self.buffer.take(weight.bytes)
                    self._loaded += weight.bytes
        self.buffer.take(staging)
        return self.buffer.used

    def read(self, value: Value, region: Region) -> torch.Tensor:
        found = cut(self._values[value], region)
        self._inputs += found.numel() * self._workload.element(self._workload.type(value))
        return found

    def write(self, value: Value, made: torch.Tensor, region: Region) -> None:
        type = self._workload.type(value)
        if value not in self.written:
            self.written[value] = made.new_empty([int(str(d)) for d in type.shape])
        cut(self.written[value], region).copy_(made)
        self._unwritten[value] -= made.numel()
        self._outputs += made.numel() * self._workload.element(type)

    def constant(self, ref: Ref) -> torch.Tensor:
        return self._parameters[ref]

    def ran(self, path: str, given: Mapping[int, torch.Tensor], made: Sequence[torch.Tensor]) -> None:
        for weight in self._weights[path]:
            if isinstance(self._graph.nodes[path].op, Embedding):
                self._loaded += made[0].numel() * weight.element
            elif not self._stays(path, weight):
                for _ in range(weight.bytes // weight.portion):
                    self._loaded += weight.portion
        self._macs[path] += self._computed(path, given, made)

    def _computed(self, path: str, given: Mapping[int, torch.Tensor], made: Sequence[torch.Tensor]) -> Fraction:
        """MACs of making something of operands."""
        node = self._graph.nodes[path]
        types = self._graph.input_types(node)
        if isinstance(node.op, Transposed):
            # What lines of the input add to lines beyond the region is cut off: lines count by their share of all.
            whole = int(str(node.op.cost(types, node.types).macs))
            return Fraction(whole * made[0].numel(), int(str(node.types[0].elements)))
        slices = [None if t is None else replace(t, shape=tuple(given[i].shape)) for i, t in enumerate(types)]
        outputs = tuple(replace(t, shape=tuple(m.shape)) for t, m in zip(node.types, made, strict=True))
        return Fraction(int(str(node.op.cost(slices, outputs).macs)))
