"""A strip of a group in execution, step by step, on lines that are held on chip one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from ...compiler.fusion.memory import Event, Members, Schedule
from ...compiler.fusion.workload import Edge
from ...compiler.graph import Ref, Value
from ...compiler.operators.pooling import AdaptivePooling
from ...compiler.operators.reduction import Max, Mean, Min, Sum
from . import forward
from .demand import demand, reach, share, together
from .onchip import Buffer, Store
from .slices import Region, Span, compute, cut


class Machine(Protocol):
    """What a tile is executed on: memory on chip, and DRAM. It counts what goes between them."""

    members: Members
    schedule: Schedule
    buffer: Buffer
    events: tuple[Event, ...]

    def read(self, value: Value, region: Region) -> torch.Tensor:
        """Activations from DRAM."""
        ...

    def write(self, value: Value, made: torch.Tensor, region: Region) -> None: ...

    def constant(self, ref: Ref) -> torch.Tensor:
        """What no input determines; what loading it takes is counted by `ran`."""
        ...

    def ran(self, path: str, given: Mapping[int, torch.Tensor], made: Sequence[torch.Tensor]) -> None:
        """A node has made something of operands."""
        ...


class Tile:
    """A strip of one example, or with `halo = "recompute"` a tile of one, from its first step to its last."""

    def __init__(self, machine: Machine, example: int, strip: int, tile: int, tiles: int) -> None:
        members = machine.members
        self._machine = machine
        self._members = members
        self._graph = members.workload.graph
        self._cached = machine.schedule.halo == "cache"
        self._rows, self._columns = members.rows, members.columns
        self._parts = (tile, tiles), (strip, machine.schedule.strips)
        self._across = demand(members, members.columns, *self._parts[1])
        self._along = demand(members, members.rows, *self._parts[0])
        self._next = {value: start for value, (start, _) in self._along.items()}
        """The line that is made, or loaded, next."""
        self._gathers = {edge.reader: edge for edge in members.gathered} if self._cached else {}
        self._taken = dict.fromkeys(self._gathers, 0)
        """How many lines a gathering node has taken in."""
        self._example = {0: (example, example + 1)} if members.batch > 1 else {}
        self._stores = {value: self._store(value) for value in (*members.inputs, *members.made)}

    def execute(self) -> None:
        """All steps.

        Raises:
            BufferExceeded: where more is on chip than there is room for.
        """
        for step in range(self._machine.schedule.steps * self._members.phases if self._cached else 1):
            targets = self._targets(step)
            for event in self._machine.events:
                self._run(event, targets)

    def _store(self, value: Value) -> Store:
        type = self._members.workload.type(value)
        element = self._members.workload.element(type)
        origin = {axis: start for axis, (start, _) in self._region(value, (0, 0)).items() if axis != self._rows[value]}
        return Store(self._machine.buffer, element, self._rows[value], origin, _dtype(value, self._graph))

    def _region(self, value: Value, lines: Span) -> dict[int, Span]:
        """Where some lines of a value are, within its strip and example."""
        cuts = (self._rows[value], lines), (self._columns[value], self._across[value])
        return {**self._example, **{axis: span for axis, span in cuts if axis is not None}}

    def _targets(self, step: int) -> dict[Value, int]:
        """Up to which line each value is to be made in a step."""
        if not self._cached:
            return {value: stop for value, (_, stop) in self._along.items()}
        found: dict[Value, int] = {}
        for value in [*reversed(self._members.made), *self._members.inputs]:
            stop = max(self._next[value], self._due(value, step))
            for edge in self._members.readers[value]:
                span = self._next[Value(edge.reader)], found[Value(edge.reader)]
                if edge.reader not in self._gathers and span[0] < span[1]:
                    stop = max(stop, reach(self._members, self._rows, edge, span)[1])
            others = together(self._members, value)
            stop = max([stop, *(found[other] for other in others)])
            found.update(dict.fromkeys((value, *others), stop))
        return found

    def _due(self, value: Value, step: int) -> int:
        """Up to which line a value is made where its lines are made evenly over the steps of a phase."""
        phase, steps = self._members.even.get(value), self._machine.schedule.steps
        if phase is None or step < phase * steps:
            return 0
        return share(self._members.size(value, self._rows), min(step - phase * steps, steps - 1), steps)[1]

    def _run(self, event: Event, targets: Mapping[Value, int]) -> None:
        for value in event.loaded:
            self._load(value, targets[value])
        value = Value(event.node)
        lines = self._next[value], targets[value]
        edge = self._gathers.get(event.node)
        ended = edge is not None and self._complete(edge)
        made = self._gathered(edge, lines) if edge is not None else self._made(value, lines)
        for output in event.made:
            self._next[output] = targets[output]
        for source in event.replaced:
            self._drop(source)
        for output, tensor in zip(event.made, made, strict=False):
            self._stores[output].put(lines[0], tensor)
        if edge is None or (self._complete(edge) and not ended):
            for output in event.made:
                self._leave(output, lines if edge is None else (0, 1))
        for source in event.freed:
            self._drop(source)

    def _load(self, value: Value, stop: int) -> None:
        lines = self._next[value], stop
        if lines[0] < lines[1] and not self._idle(value):
            self._stores[value].put(lines[0], self._machine.read(value, self._region(value, lines)))
        self._next[value] = stop

    def _idle(self, value: Value) -> bool:
        """Whether nothing of a value is made in this strip."""
        return self._across[value][0] >= self._across[value][1]

    def _made(self, value: Value, lines: Span) -> tuple[torch.Tensor, ...]:
        """Lines of a node's outputs; nothing where there are none to make."""
        if lines[0] >= lines[1] or self._idle(value):
            return ()
        given: dict[int, torch.Tensor] = {}

        def fetch(operand: int, region: Region) -> torch.Tensor:
            given[operand] = self._operand(value.node, operand, region)
            return given[operand]

        made = compute(self._graph, value, self._region(value, lines), fetch)
        self._machine.ran(value.node, given, made)
        return made

    def _operand(self, path: str, operand: int, region: Region) -> torch.Tensor:
        """A region of what a node reads, from what is on chip."""
        for edge in self._members.workload.edges[path]:
            if edge.operand == operand:
                return self._carried(edge.source, edge.through, region)
        ref = self._graph.nodes[path].inputs[operand]
        assert ref is not None
        return cut(self._machine.constant(ref), region)

    def _carried(self, source: Value, through: tuple[Value, ...], region: Region) -> torch.Tensor:
        """A region of what moves, the last of them first, make of a value on chip."""
        if not through:
            shape = [int(str(d)) for d in self._members.workload.type(source).shape]
            return self._stores[source].get(region, shape)
        move, *rest = through
        outputs = compute(self._graph, move, region, lambda _, asked: self._carried(source, tuple(rest), asked))
        return outputs[move.index if len(outputs) > 1 else 0]

    def _gathered(self, edge: Edge, lines: Span) -> tuple[torch.Tensor, ...]:
        """Take in the lines of a value that came since: the result at first, which is then added to in its place."""
        value = Value(edge.reader)
        new = self._taken[edge.reader], self._next[edge.source]
        self._taken[edge.reader] = new[1]
        if new[0] >= new[1] or self._idle(value):
            return ()
        axis = self._rows[edge.source]
        assert axis is not None
        (made,) = compute(
            self._graph,
            value,
            self._region(value, (0, 1)),
            lambda _, asked: self._carried(edge.source, (), {**self._example, **asked, axis: new}),
        )
        part = (new[1] - new[0]) / self._members.size(edge.source, self._rows)
        joined = _joined(self._graph.nodes[edge.reader].op, made, part, self._stores[value].lines.get(0))
        if lines[0] < lines[1]:
            return (joined,)
        self._stores[value].lines[0] = joined
        return ()

    def _complete(self, edge: Edge) -> bool:
        """Whether a gathering node has taken in all lines."""
        return self._taken[edge.reader] == self._members.size(edge.source, self._rows)

    def _leave(self, value: Value, lines: Span) -> None:
        """Write lines that were made to DRAM, of those that overlap with other tiles only the share of this one."""
        if value not in self._members.leaving or self._idle(value):
            return
        ((tile, tiles), (strip, strips)) = self._parts
        mine = share(self._members.size(value, self._rows), tile, tiles)
        rows = max(lines[0], mine[0]), min(lines[1], mine[1])
        mine = share(self._members.size(value, self._columns), strip, strips)
        columns = max(self._across[value][0], mine[0]), min(self._across[value][1], mine[1])
        if rows[0] < rows[1] and columns[0] < columns[1]:
            region = self._region(value, rows)
            if self._columns[value] is not None:
                region[self._columns[value]] = columns  # pyright: ignore[reportArgumentType]
            self._machine.write(value, self._carried(value, (), region), region)

    def _drop(self, value: Value) -> None:
        """Free the lines that no reader will want; a result that is being gathered stays."""
        edge = self._gathers.get(value.node)
        if edge is not None and not self._complete(edge):
            return
        wanted = [
            reach(self._members, self._rows, e, (self._next[reader], self._next[reader] + 1))[0]
            for e in self._members.readers[value]
            if e.reader not in self._gathers and self._next[reader := Value(e.reader)] < self._along[reader][1]
        ]
        self._stores[value].drop(min(wanted, default=None))


def _joined(op: Any, made: torch.Tensor, part: float, before: torch.Tensor | None) -> torch.Tensor:
    """A reduction of some lines (`part` of all), and of those before them."""
    kind = type(op) if not isinstance(op, AdaptivePooling) else op.reduction
    if kind is Mean:
        made = made * part
    if before is None:
        return made
    joins = {Mean: torch.add, Sum: torch.add, Max: torch.maximum, Min: torch.minimum}
    return joins[kind](before, made)


def _dtype(value: Value, graph: Any) -> torch.dtype:
    return getattr(torch, forward.DTYPES[graph.nodes[value.node].types[value.index].dtype])
