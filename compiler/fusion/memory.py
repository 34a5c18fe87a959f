"""What executing a group costs: bytes on chip, and bytes to and from DRAM, by formulas.

The machine has a buffer on chip and a DRAM. A **layer** reads its input from the buffer and writes its output there.
What enters or leaves a group goes through DRAM once for each time it is read or written; what stays inside goes
nowhere.

**Steps.** Lines of a value lie along one of its axes: rows of an image, tokens of a sequence. In each of `steps` steps
a group makes an equal share of the lines of every value that leaves it, and of each other value the lines that its
readers need for that (`stream.reads`), in order, those that windows skip among them, and none twice. Lines that are
needed again stay: a convolution with kernel k, stride s and dilation d keeps (k − 1)·d + 1 − s of them between steps of
one line, and a branch all those that its join waits for.

**Phases.** A node that needs all lines of a value (keys and values of attention; what a gate multiplies by the mean of
everything) runs in a later phase than what makes it: the group goes through its steps once for each phase. A mean, sum
or extremum over lines gathers them as they come, and holds only its result, from the first of them to the last.

**Strips.** Lines are cut into `strips` equal parts, one after the other. What overlaps between strips (the halo of a
convolution) is read, and computed, again. With `halo = "recompute"` steps begin afresh as well: the share of each step
is a tile, and nothing is kept between tiles.

**Within a step** nodes run one by one, in the order of the graph, each making all its lines of the step. A line of a
group's input is loaded before its first reader runs; lines that nobody wants any more are freed when the last of their
value's readers has had its turn, and an element-wise node that is the last reader of an operand of its own size takes
over its memory. Lines that leave are written as soon as they are made.

**Weights** are kept on chip from the first step to the last, and loaded once; or streamed, portion by portion, through
a staging buffer as large as the largest portion, in each step in which their node makes anything. Of a table that is
looked up, what is looked up is read each time.

**Batch.** Examples go through the group one after the other where no node looks across them; weights that are kept
stay.

Loading a line loads all of its elements, those between the columns that windows skip among them. Padding takes no
memory. Lines of one node take equal shares of its MACs. Address arithmetic, alignment, and the registers of the
arithmetic units are not counted. Depth-first execution by lines and tiles with recomputed or cached halos are those of
Mei et al., DeFiNES (HPCA 2023, section III).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from math import inf
from operator import mul
from typing import Any, Literal, NamedTuple

from ..graph import Value
from .workload import IN_PLACE, Edge, Path, Weight, Workload

Halo = Literal["cache", "recompute"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a group is executed; see the module. `resident` are the weights that are kept on chip."""

    steps: int
    strips: int = 1
    halo: Halo = "cache"
    resident: frozenset[str] = frozenset()

    def __str__(self) -> str:
        lines = f"{self.steps} step{'s' if self.steps > 1 else ''}"
        strips = f" in each of {self.strips} strips" if self.strips > 1 else ""
        return f"{lines}{strips}{', tiles alone' if self.halo == 'recompute' and self.steps * self.strips > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a schedule costs, in bytes, and multiply-accumulates with those that are repeated."""

    buffer: int
    """The most that is on chip at once."""
    inputs: int
    """Activations read from DRAM."""
    outputs: int
    """Activations written to DRAM."""
    weights: int
    """Weights read from DRAM."""
    macs: int

    @property
    def dram(self) -> int:
        """All bytes to and from DRAM."""
        return self.inputs + self.outputs + self.weights

    @property
    def intensity(self) -> float:
        """Operations (2 · MACs) for each byte to or from DRAM."""
        return 2 * self.macs / self.dram if self.dram else float("inf")


class Cost(NamedTuple):
    """A schedule and what it costs."""

    schedule: Schedule
    usage: Usage


class Lines(NamedTuple):
    """A value along one axis, at every step of every choice of steps: lines kept from before, and made anew."""

    carry: Any
    new: Any


class _Single:
    """What numpy does with arrays, for single numbers: a group that runs in one step is costed several times sooner."""

    minimum, maximum = staticmethod(min), staticmethod(max)

    @staticmethod
    def where(condition: Any, some: Any, others: Any) -> Any:
        return some if condition else others


@dataclass(frozen=True)
class Grid:
    """Steps of several choices of how many a phase has, one choice after the other in one array; `single` numbers may
    take the place of arrays where there is but one step in all."""

    choices: tuple[int, ...]
    phases: int = 1
    single: bool = False
    place: Any = field(init=False)
    count: Any = field(init=False)
    starts: Any = field(init=False)

    def __post_init__(self) -> None:
        import numpy as np

        lengths = [c * self.phases for c in self.choices]
        single = self.single and lengths == [1]
        object.__setattr__(self, "single", single)
        object.__setattr__(self, "place", 0 if single else np.concatenate([np.arange(n) for n in lengths]))
        object.__setattr__(self, "count", 1 if single else np.repeat(self.choices, lengths))
        object.__setattr__(self, "starts", np.concatenate([[0], np.cumsum(lengths)[:-1]]))

    @property
    def numbers(self) -> Any:
        """`minimum`, `maximum` and `where` of what it holds."""
        import numpy as np

        return _Single if self.single else np

    def full(self, value: int) -> Any:
        """A number at every step."""
        import numpy as np

        return value if self.single else np.full(len(self.place), value)

    def last(self, values: Any) -> int:
        """What is at the last step of the last choice."""
        return int(values if self.single else values[-1])

    def share(self, size: int, phase: int = 0) -> Any:
        """The last line that is made by each step when `size` lines are shared out evenly over the steps of a phase."""
        steps = self.place - phase * self.count + 1
        steps = self.numbers.minimum(self.numbers.maximum(steps, 0), self.count)
        return (steps * size + self.count - 1) // self.count - 1

    def before(self, values: Any, initial: int) -> Any:
        """For each step what was at the step before, `initial` at the first."""
        import numpy as np

        if self.single:
            return initial
        shifted = np.empty_like(values)
        shifted[1:] = values[:-1]
        shifted[self.starts] = initial
        return shifted

    def after(self, values: Any) -> Any:
        """For each step what will be at the next, 0 after the last."""
        import numpy as np

        if self.single:
            return 0
        shifted = np.zeros_like(values)
        shifted[:-1] = values[1:]
        shifted[self.starts[1:] - 1] = 0
        return shifted

    def sum(self, values: Any) -> Any:
        """Over the steps of each choice."""
        import numpy as np

        return values if self.single else np.add.reduceat(values, self.starts, axis=-1)


class Members:
    """A group within its workload: what it makes, reads and leaves."""

    def __init__(self, workload: Workload, nodes: Collection[str]) -> None:
        chosen = set(nodes)
        self.workload = workload
        self.order = [path for path in workload.work.nodes if path in chosen]
        self.made = [value for path in self.order for value in workload.values[path]]
        inside = set(self.made)
        self.edges = [edge for path in self.order for edge in workload.edges[path]]
        self.readers: dict[Value, list[Edge]] = {value: [] for value in self.made}
        for edge in self.edges:
            self.readers.setdefault(edge.source, []).append(edge)
        self.inputs = [value for value in self.readers if value not in inside]
        self.leaving = {
            value
            for value in self.made
            if value in workload.results or any(e.reader not in chosen for e in workload.readers.get(value, ()))
        }
        self.weights: dict[str, tuple[Weight, ...]] = {path: workload.weights[path] for path in self.order}
        self.place = {path: i for i, path in enumerate(self.order)}

    @cached_property
    def batch(self) -> int:
        """How many examples go through one after the other."""
        sizes = {next(iter(self.workload.sizes(v)), 1) for v in (*self.made, *self.inputs)}
        alone = len(sizes) == 1 and all(map(self.workload.batched, self.order))
        return sizes.pop() if alone and self.order else 1

    def axes(self, preferred: Sequence[int]) -> dict[Value, int | None]:
        """The axis along which the lines of each value lie: the one that its readers want, None where they want
        several or its node makes none alone. A value that nobody wants by lines has `preferred[rank]`."""
        found: dict[Value, int | None] = {}
        for value in [*reversed(self.made), *self.inputs]:
            wanted = {
                path.axis
                for edge in self.readers[value]
                if (path := self.workload.path(edge, found[Value(edge.reader)])) is not None
            }
            axis = next(iter(wanted)) if wanted else _preferred(self.workload, value, preferred)
            alone = value.node not in self.place or (axis is not None and self.workload.makes_lines(value.node, axis))
            found[value] = axis if len(wanted) < 2 and alone and (axis or self.batch == 1) else None
        # A reader that wants another axis than the one chosen reads all.
        return found

    @cached_property
    def rows(self) -> dict[Value, int | None]:
        return self.axes((-1, -1, -1, 1, 2, 2))

    @cached_property
    def columns(self) -> dict[Value, int | None]:
        found = self.axes((-1, -1, -1, -1, 3, 3))
        return {value: None if axis == self.rows[value] else axis for value, axis in found.items()}

    @cached_property
    def gathered(self) -> frozenset[Edge]:
        """Reads that gather all lines of a value, each as it comes, into a result that has no lines."""
        return frozenset(
            e
            for e in self.edges
            if self.rows[Value(e.reader)] is None and self.workload.gathers(e, self.rows[e.source])
        )

    @cached_property
    def _phases(self) -> dict[str, int]:
        """The phase in which each node runs at the earliest: one after those of which it needs all lines."""
        found: dict[str, int] = {}
        gathering = {e.reader for e in self.gathered}
        for path in self.order:
            at = 0
            for edge in self.workload.edges[path]:
                if edge.source.node in found:
                    later = edge.source.node in gathering or (edge not in self.gathered and self._takes_all(edge))
                    at = max(at, found[edge.source.node] + later)
            found[path] = at
        return found

    def _takes_all(self, edge: Edge) -> bool:
        return self.size(edge.source, self.rows) > 1 and _wanted(self, self.rows, edge) is None

    @property
    def phases(self) -> int:
        """How often a group goes through its steps: a node that needs all lines of a value runs in a later phase."""
        return 1 + max(self._phases.values(), default=0)

    @cached_property
    def even(self) -> dict[Value, int]:
        """Values whose lines are made evenly over the steps of a phase, and that phase: those that leave, and those of
        which somebody needs all."""
        found = {v: self._phases[v.node] for v in self.made if v in self.leaving or not self.readers[v]}
        for edge in self.edges:
            if edge in self.gathered:
                found[edge.source] = self._phases[edge.source.node if edge.source.node in self.place else edge.reader]
                found[Value(edge.reader)] = self._phases[edge.reader]
            elif edge.source.node in self.place and self._takes_all(edge):
                found[edge.source] = self._phases[edge.source.node]
        return found

    def size(self, value: Value, axes: Mapping[Value, int | None]) -> int:
        """How many lines a value has."""
        axis = axes[value]
        return 1 if axis is None else self.workload.sizes(value)[axis]


def _preferred(workload: Workload, value: Value, preferred: Sequence[int]) -> int | None:
    rank = workload.type(value).rank
    if rank == 3 and preferred[3] == 1 and workload.graph.nodes[value.node].op.name.endswith("1d"):
        return 2
    axis = preferred[min(rank, len(preferred) - 1)]
    return None if axis < 0 else axis


def flow(members: Members, axes: Mapping[Value, int | None], grid: Grid, halo: Halo) -> dict[Value, Lines]:
    """The lines of every value that a group touches, at every step."""
    return (_cached if halo == "cache" else _recomputed)(members, axes, grid)


def _wanted(members: Members, axes: Mapping[Value, int | None], edge: Edge) -> Path | None:
    """What a line of the reader reads of the source, as lines of the axis that the source is made by; None: all."""
    path = members.workload.path(edge, axes[Value(edge.reader)])
    return path if path is not None and path.axis == axes[edge.source] else None


def _cached(members: Members, axes: Mapping[Value, int | None], grid: Grid) -> dict[Value, Lines]:
    """No line is made twice: `last[value]` is the last line made by the end of each step."""
    numbers = grid.numbers
    gathering = {edge.reader for edge in members.gathered}
    last: dict[Value, Any] = {}
    first: dict[Value, int] = {}
    waiting: dict[Value, Any] = {}
    lines: dict[Value, Lines] = {}
    for value in [*reversed(members.made), *members.inputs]:
        size = members.size(value, axes)
        begin, need, oldest = size, grid.full(-1), grid.full(size)
        phase = members.even.get(value)
        if phase is not None:
            begin, need = 0, grid.share(size, phase)
        for edge in members.readers[value]:
            if edge in members.gathered:
                continue
            reader = Value(edge.reader)
            path = _wanted(members, axes, edge)
            end = grid.last(last[reader])
            start = grid.before(last[reader], first[reader] - 1) + 1
            low, high = _reach(numbers, path, size, start, last[reader])
            need = numbers.maximum(need, numbers.where(last[reader] >= first[reader], high, -1))
            oldest = numbers.minimum(oldest, numbers.where(start <= end, low, size))
            if end >= first[reader]:
                from_, to = _reach(_Single, path, size, first[reader], end)
                begin = min(begin, from_ if to >= from_ else size)
        if value.node in gathering:  # what gathers lines stays until it has all
            oldest = numbers.where(grid.place < (members.even[value] + 1) * grid.count, 0, oldest)
        need = numbers.maximum(need, begin - 1)
        waiting[value] = oldest
        # A node of several outputs makes them all as soon as one is needed; its first output is seen last.
        outputs = members.workload.values[value.node] if value.node in members.place else (value,)
        if value.index == 0:
            begin = min([begin, *(first[v] for v in outputs[1:])])
            need = reduce(numbers.maximum, (last[v] for v in outputs[1:]), need)
        first[value], last[value] = begin, need
        if value.index == 0 or value.node not in members.place:
            made = grid.before(need, begin - 1)
            for v in outputs:
                lines[v] = Lines(numbers.maximum(0, made + 1 - waiting[v]), need - made)
    return lines


def _reach(numbers: Any, path: Path | None, size: int, low: Any, high: Any) -> tuple[Any, Any]:
    """The first and last line of the source that lines from `low` to `high` of the reader read."""
    if path is None:
        return low * 0, high * 0 + size - 1
    minimum, maximum = numbers.minimum, numbers.maximum
    for window, length in path.steps:
        low = minimum(maximum(window.lowest(low), 0), length)  # np.clip takes three times as long
        high = minimum(maximum(window.highest(high), -1), length - 1)
    return low, high


def _recomputed(members: Members, axes: Mapping[Value, int | None], grid: Grid) -> dict[Value, Lines]:
    """Each step by itself: `spans[value]` are the first and last line that it needs."""
    numbers = grid.numbers
    spans: dict[Value, tuple[Any, Any]] = {}
    lines: dict[Value, Lines] = {}
    for value in [*reversed(members.made), *members.inputs]:
        size = members.size(value, axes)
        low, high = grid.full(size), grid.full(-1)
        if value in members.leaving or not members.readers[value]:
            high = grid.share(size)
            low = grid.before(high, -1) + 1
            low, high = numbers.where(high >= low, low, size), numbers.where(high >= low, high, -1)
        for edge in members.readers[value]:
            path = _wanted(members, axes, edge)
            some, end = spans[Value(edge.reader)]
            from_, to = _reach(numbers, path, size, some, end)
            read = (end >= some) & (to >= from_)  # and more than padding
            low = numbers.minimum(low, numbers.where(read, from_, size))
            high = numbers.maximum(high, numbers.where(read, to, -1))
        outputs = members.workload.values[value.node] if value.node in members.place else (value,)
        if value.index == 0:
            low = reduce(numbers.minimum, (spans[v][0] for v in outputs[1:]), low)
            high = reduce(numbers.maximum, (spans[v][1] for v in outputs[1:]), high)
        spans[value] = low, high
        new = numbers.maximum(0, high - low + 1)
        for v in outputs if value.index == 0 else (value,):
            lines[v] = Lines(new * 0, new)
    return lines


@dataclass(frozen=True)
class Table:
    """The costs of a group for every choice of strips and steps, in arrays `[strips, steps]`, weights apart."""

    strips: tuple[int, ...]
    steps: tuple[int, ...]
    halo: Halo
    peak: Any
    """Bytes of activations on chip."""
    inputs: Any
    outputs: int
    macs: Any
    rows: Any
    """Bytes of tables that are looked up."""
    loads: Mapping[str, Any]
    """How often a streamed weight of a node is loaded, by those that have weights."""


def tabulate(
    members: Members,
    steps: Sequence[int],
    strips: Sequence[int] = (1,),
    halo: Halo = "cache",
    lines: Mapping[Value, Lines] | None = None,
) -> Table:
    """Formulas for all choices at once. `lines` are those of these steps, where they are known already."""
    import numpy as np

    across, along = Grid(tuple(strips), single=True), _grid(members, steps, halo)
    outer = mul if across.single and along.single else np.outer
    lines = lines or flow(members, members.rows, along, halo)
    widths = {v: found.new for v, found in flow(members, members.columns, across, "recompute").items()}
    units = {v: unit(members, v) for v in (*members.made, *members.inputs)}
    inputs, macs, rows = 0, 0, 0
    for value in members.inputs:
        inputs += units[value] * outer(across.sum(widths[value]), along.sum(lines[value].new)) * members.batch
    loads: dict[str, Any] = {}
    for path in members.order:
        value = Value(path)
        area = outer(across.sum(widths[value]), along.sum(lines[value].new))
        whole = members.size(value, members.rows) * members.size(value, members.columns)
        macs += members.workload.macs(path) * area // whole
        if members.weights[path]:
            times = outer(across.sum(widths[value] > 0), along.sum(lines[value].new > 0)) * members.batch
            loads[path] = np.reshape(times, (len(strips), len(steps)))
        for weight in members.weights[path]:
            if weight.looked_up:
                rows += weight.bytes * area // whole
    peak = _peak(members, lines, widths, units, across, along)
    outputs = sum(members.workload.bytes(members.workload.type(v)) for v in members.leaving)
    made = (np.broadcast_to(np.asarray(found), (len(strips), len(steps))) for found in (peak, inputs, macs, rows))
    peak, inputs, macs, rows = made
    return Table(tuple(strips), tuple(steps), halo, peak, inputs, outputs, macs, rows, loads)


def _grid(members: Members, steps: Sequence[int], halo: Halo = "cache") -> Grid:
    return Grid(tuple(steps), members.phases if halo == "cache" else 1, single=True)


def unit(members: Members, value: Value) -> int:
    """Bytes of one line of one column of one example."""
    size = members.workload.bytes(members.workload.type(value))
    return size // (members.batch * members.size(value, members.rows) * members.size(value, members.columns))


def _peak(
    members: Members,
    lines: Mapping[Value, Lines],
    widths: Mapping[Value, Any],
    units: Mapping[Value, int],
    across: Grid,
    along: Grid,
) -> Any:
    """The most bytes of activations on chip, `[strips, steps]`."""
    import numpy as np

    outer = mul if across.single and along.single else np.outer
    after = {v: along.after(found.carry) for v, found in lines.items()}
    strips, steps = across.starts, along.starts
    if not across.single:  # most strips, and most steps, are like one another
        strip, strips = _distinct(list(widths.values()), across)
        widths = {v: found[strip] for v, found in widths.items()}
    if not across.single and not along.single:
        step, steps = _distinct([a for v, f in lines.items() for a in (*f, after[v])], along)
        lines = {v: Lines(found.carry[step], found.new[step]) for v, found in lines.items()}
        after = {v: found[step] for v, found in after.items()}

    def area(value: Value, count: Any) -> Any:
        return outer(units[value] * widths[value], count)

    def freed(value: Value) -> Any:
        found = lines[value]
        return area(value, found.carry + found.new - after[value])

    maximum = max if across.single and along.single else np.maximum
    carried = () if along.single else (v for v, found in lines.items() if found.carry.any())
    total: Any = sum(area(v, lines[v].carry) for v in carried)
    peak = total
    for event in events(members):
        for value in event.loaded:
            total = total + area(value, lines[value].new)
        if event.replaced:
            peak = maximum(peak, total)
        for value in event.replaced:
            total = total - freed(value)
        for value in event.made:
            total = total + area(value, lines[value].new)
        peak = maximum(peak, total)
        for value in event.freed:
            total = total - freed(value)
    if across.single and along.single:
        return peak
    return np.maximum.reduceat(np.maximum.reduceat(peak, steps, axis=1), strips, axis=0)


def _distinct(arrays: Sequence[Any], grid: Grid) -> tuple[Any, Any]:
    """Places of a grid of which each differs from the others of its choice in one of the arrays at least, and where
    among them each choice begins."""
    import numpy as np

    choice = np.repeat(np.arange(len(grid.starts)), np.diff([*grid.starts, len(grid.place)]))
    rows = np.ascontiguousarray(np.stack([choice, *arrays], axis=1))
    _, found = np.unique(rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel(), return_index=True)
    found.sort()
    return found, np.searchsorted(choice[found], np.arange(len(grid.starts)))


class Event(NamedTuple):
    """When a node runs in a step: values loaded before, one whose memory its output takes over, made, and freed."""

    node: str
    loaded: tuple[Value, ...]
    replaced: tuple[Value, ...]
    made: tuple[Value, ...]
    freed: tuple[Value, ...]


def events(members: Members) -> Iterator[Event]:
    """What happens in each step, in order."""
    workload = members.workload
    ends = {v: max((members.place[e.reader] for e in edges), default=-1) for v, edges in members.readers.items()}
    loaded: set[Value] = set()
    outside = set(members.inputs)
    for i, path in enumerate(members.order):
        values = workload.values[path]
        sources = list(dict.fromkeys(e.source for e in workload.edges[path]))
        fresh = tuple(v for v in sources if v in outside and v not in loaded)
        loaded.update(fresh)
        over = tuple(v for v in sources if ends[v] == i)
        replaced = tuple(v for v in over if _replaces(members, path, v))[:1]
        done = (*(v for v in over if v not in replaced), *(v for v in values if ends[v] < 0))
        yield Event(path, fresh, replaced, values, done)


def _replaces(members: Members, path: str, value: Value) -> bool:
    """Whether a node's output takes over the memory of an operand, of which it is the last reader."""
    node = members.workload.graph.nodes[path]
    if node.op.name not in IN_PLACE:
        return False
    ours, theirs = node.types[0], members.workload.type(value)
    direct = all(not e.through for e in members.workload.edges[path] if e.source == value)
    same = ours.shape == theirs.shape and members.workload.element(ours) == members.workload.element(theirs)
    return direct and same


def choices(members: Members) -> tuple[int, ...]:
    """How many steps to try: one line each of the longest value that leaves, half as many, …, one."""
    most = max((members.size(v, members.rows) for v in members.even), default=1)
    found = [most]
    while found[-1] > 1:
        found.append((found[-1] + 1) // 2)
    return tuple(found)


def cuts(members: Members) -> tuple[int, ...]:
    """How many strips to try beyond one: 2, 4, … as far as there are columns."""
    most = max((members.size(v, members.columns) for v in members.leaving), default=1)
    return tuple(2**i for i in range(1, most.bit_length()) if 2**i <= most)


def fitted(members: Members, table: Table, buffer: int | None, below: float = inf) -> Cost | None:
    """The choice of a table that moves the fewest bytes within a buffer, and fewer than `below`; of several, the one
    that needs least of it."""
    best: Cost | None = None
    once = _once(members, table)
    for i, strips in enumerate(table.strips):
        for j, steps in enumerate(table.steps):
            least = once + int(table.rows[i, j]) + int(table.inputs[i, j])
            if least >= below or (best is not None and least > best.usage.dram):
                continue
            cost = _with_weights(members, table, i, j, buffer)
            if cost is None or cost[1].dram >= below:
                continue
            made = Cost(Schedule(steps, strips, table.halo, cost[0]), cost[1])
            if best is None or (made.usage.dram, made.usage.buffer) < (best.usage.dram, best.usage.buffer):
                best = made
    return best


def _once(members: Members, table: Table) -> int:
    """Bytes of outputs, and of weights where each is loaded once; without tables that are looked up."""
    read = {w.name: w.bytes for weights in members.weights.values() for w in weights if not w.looked_up}
    return sum(read.values()) + table.outputs


def _with_weights(
    members: Members, table: Table, i: int, j: int, buffer: int | None
) -> tuple[frozenset[str], Usage] | None:
    """Which weights to keep, most often loaded first, and what all of it costs; None where it does not fit."""
    found, loads = _loads(members, table, i, j)
    activations = int(table.peak[i, j])
    if buffer is not None and activations + _portion(members) > buffer:
        return None
    kept: set[str] = set()
    held = 0
    row = _row(members)
    staged = sorted(found, key=lambda n: -found[n].portion)  # the first that is not kept fills the staging buffer
    for name in sorted(found, key=lambda n: (-loads[n], found[n].bytes)):
        weight = found[name]
        if not (loads[name] > 1 or weight.portion == weight.bytes):
            continue
        while staged[0] in kept:
            staged.pop(0)
        largest = next((n for n in staged if n != name and n not in kept), None)
        used = activations + held + weight.bytes + max(row, 0 if largest is None else found[largest].portion)
        if buffer is None or used <= buffer:
            kept.add(name)
            held += weight.bytes
    return frozenset(kept), _usage(members, table, i, j, kept)


def _loads(members: Members, table: Table, i: int, j: int) -> tuple[dict[str, Weight], dict[str, int]]:
    """Weights by name, and how often each is loaded where it is streamed; without tables that are looked up."""
    found: dict[str, Weight] = {}
    loads: dict[str, int] = {}
    for path, weights in members.weights.items():
        for weight in weights:
            if not weight.looked_up:
                found[weight.name] = weight
                loads[weight.name] = loads.get(weight.name, 0) + int(table.loads[path][i, j])
    return found, loads


def _usage(members: Members, table: Table, i: int, j: int, kept: Collection[str]) -> Usage:
    """What a choice of a table costs with these weights kept: on chip are activations, the weights that are kept, and
    the largest portion of those that are not."""
    found, loads = _loads(members, table, i, j)
    held = sum(weight.bytes for name, weight in found.items() if name in kept)
    staged = max((weight.portion for name, weight in found.items() if name not in kept), default=0)
    used = int(table.peak[i, j]) + held + max(staged, _row(members))
    moved = sum(weight.bytes * (1 if name in kept else loads[name]) for name, weight in found.items())
    return Usage(used, int(table.inputs[i, j]), table.outputs, moved + int(table.rows[i, j]), int(table.macs[i, j]))


def _portion(members: Members) -> int:
    """The largest portion of a weight: a group fits where this does beside its activations, for to keep a weight takes
    at least as much."""
    return max((w.portion for weights in members.weights.values() for w in weights), default=0)


def _row(members: Members) -> int:
    """The largest row of a table that is looked up."""
    return max((w.portion for weights in members.weights.values() for w in weights if w.looked_up), default=0)


def cheapest(workload: Workload, nodes: Collection[str], buffer: int | None, below: float = inf) -> Cost | None:
    """The schedule of a group that moves the fewest bytes within a buffer; None where none fits, or none moves fewer
    than `below`.

    Strips are tried where whole lines do not fit, or move more than inputs, outputs and weights once: where lines are
    wide, steps through parts of them may let weights stay.
    """
    members = Members(workload, nodes)
    steps = choices(members)
    lines = flow(members, members.rows, _grid(members, steps), "cache")
    table = tabulate(members, steps, lines=lines)
    best = fitted(members, table, buffer, below)
    below = below if best is None else best.usage.dram
    strips = cuts(members)
    if not strips or _once(members, table) + int((table.inputs + table.rows).min()) >= below:
        return best
    return fitted(members, tabulate(members, steps, strips, lines=lines), buffer, below) or best


def in_one_step(workload: Workload, nodes: Collection[str], buffer: int | None) -> int | None:
    """The bytes to and from DRAM of a group where all of it fits a buffer at once: no schedule moves fewer. None where
    it does not fit. Sooner told than what is cheapest."""
    members = Members(workload, nodes)
    found = fitted(members, tabulate(members, (1,)), buffer)
    return None if found is None else found.usage.dram


def price(workload: Workload, nodes: Collection[str], schedule: Schedule) -> Usage:
    """What one schedule costs."""
    members = Members(workload, nodes)
    table = tabulate(members, (schedule.steps,), (schedule.strips,), schedule.halo)
    return _usage(members, table, 0, 0, schedule.resident)
