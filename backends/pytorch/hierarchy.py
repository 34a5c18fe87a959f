"""The flat graph as nested calls of modules: which step belongs to which call, in what order, with which arguments.

`Graph.scopes` says which instance a node belongs to. Each call of an instance becomes a `Frame`: the steps that its
forward method takes, the values that come in from outside (its arguments) and those read outside (its results).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import networkx

from ...compiler.graph import Graph, Input, Node, ParameterRef, Phase, Ref, SelectPhase, Value
from ...compiler.operators.creation import Constant


class InstanceRef(NamedTuple):
    """A module that a call uses but does not own: it is handed down as an argument."""

    instance: str
    kind: str = "instance"


class SymbolRef(NamedTuple):
    """The size of a symbolic dimension that a call cannot read off its tensors."""

    symbol: str
    kind: str = "symbol"


Outer = Ref | InstanceRef | SymbolRef


@dataclass(eq=False)
class Frame:
    """One call of an instance of a module, or the whole model (path `""`)."""

    path: str
    instance: str
    module: str
    parent: Frame | None
    steps: list[Step] = field(default_factory=list["Step"])
    inputs: dict[Outer, None] = field(default_factory=dict["Outer", None])
    results: dict[Value, None] = field(default_factory=dict[Value, None])
    phase: Phase = "both"

    @property
    def chain(self) -> list[Frame]:
        """The frames from the model down to this one."""
        frames: list[Frame] = []
        frame: Frame | None = self
        while frame is not None:
            frames.append(frame)
            frame = frame.parent
        return frames[::-1]

    def owns(self, path: str) -> bool:
        """Whether a parameter or instance lies in the called instance."""
        return not self.instance or path.startswith(f"{self.instance}.")

    def relative(self, step: Step) -> Phase:
        """When the step runs, given that the frame does."""
        return "both" if step.phase == self.phase else step.phase


Step = Node | Frame


def _class_name(name: str) -> str:
    """A model's name as that of a class: `resnet18_small` → `Resnet18Small`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_")) or "Model"


def is_scalar(node: Node) -> bool:
    """Whether the node is a number, which is written where it is used rather than kept in a variable."""
    return isinstance(node.op, Constant) and not node.types[0].shape


def arrange(graph: Graph) -> list[Frame]:
    """The calls of the graph, callers before what they call; the first is the model.

    Scopes whose nodes cannot run as one call (a pass has moved values between them so that each needs the other), or
    that call themselves, are written out in their surroundings instead.
    """
    dissolved: set[str] = set()
    while True:
        arrangement = _Arrangement(graph, dissolved)
        tangled = arrangement.tangled
        if not tangled:
            return list(arrangement.frames.values())
        dissolved |= tangled


class _Arrangement:
    def __init__(self, graph: Graph, dissolved: set[str]) -> None:
        self._graph = graph
        self._scopes = {p: s for p, s in graph.scopes.items() if p and s.instance not in dissolved}
        self._owners: dict[str, str] = {"": ""}
        root = graph.scopes.get("")
        self.frames: dict[str, Frame] = {"": Frame("", "", root.module if root else _class_name(graph.name), None)}
        self.tangled: set[str] = set()
        self._homes: dict[str, list[Frame]] = {}
        self._chains: dict[str, list[Frame]] = {"": [self.frames[""]]}
        self._edges: dict[str, set[tuple[str, str]]] = {}
        live = _live(graph)
        nodes = [n for p, n in graph.nodes.items() if p in live and not isinstance(n.op, Input) and not is_scalar(n)]
        for node in nodes:
            self._place(node)
        if self.tangled:
            return
        for node in nodes:
            for ref in node.refs:
                self._read(node, ref)
        for ref in graph.outputs.values():
            if isinstance(ref, Value) and ref.node in self._homes:
                for frame in self._homes[ref.node][1:]:
                    frame.results[ref] = None
        for frame in list(self.frames.values())[1:]:
            self._call(frame)
        number = {path: i for i, path in enumerate(graph.nodes)}
        for frame in self.frames.values():
            frame.results = dict.fromkeys(sorted(frame.results, key=lambda v: (number[v.node], v.index)))
        self._set_phases()
        for frame in self.frames.values():
            self._order(frame)

    def _owner(self, prefix: str) -> str:
        """The innermost scope that a path with this prefix lies in."""
        found = self._owners.get(prefix)
        if found is None:
            found = prefix if prefix in self._scopes else self._owner(prefix.rpartition(".")[0])
            self._owners[prefix] = found
        return found

    def _chain(self, path: str) -> list[Frame]:
        chain = self._chains.get(path)
        if chain is None:
            above = self._chain(self._owner(path.rpartition(".")[0]))
            scope = self._scopes[path]
            frame = Frame(path, scope.instance, scope.module, above[-1])
            if any(f.instance == scope.instance for f in above):
                self.tangled.add(scope.instance)
            self.frames[path] = frame
            above[-1].steps.append(frame)
            chain = self._chains[path] = [*above, frame]
        return chain

    def _place(self, node: Node) -> None:
        chain = self._homes[node.path] = self._chain(self._owner(node.scope))
        chain[-1].steps.append(node)

    def _read(self, node: Node, ref: Ref) -> None:
        chain = self._homes[node.path]
        if isinstance(ref, ParameterRef):
            for frame in reversed(chain):
                if frame.owns(ref.parameter):
                    break
                frame.inputs[ref] = None
            return
        source = self._graph.nodes[ref.node]
        if is_scalar(source):
            return
        above = self._homes.get(ref.node, chain[:1])
        depth = 1
        while depth < min(len(chain), len(above)) and chain[depth] is above[depth]:
            depth += 1
        for frame in chain[depth:]:
            frame.inputs[ref] = None
        for frame in above[depth:]:
            frame.results[ref] = None
        if not isinstance(source.op, Input):
            start = above[depth].path if len(above) > depth else source.path
            end = chain[depth].path if len(chain) > depth else node.path
            self._edges.setdefault(chain[depth - 1].path, set()).add((start, end))

    def _call(self, frame: Frame) -> None:
        caller = frame.parent
        while caller is not None and not caller.owns(frame.instance):
            caller.inputs[InstanceRef(frame.instance)] = None
            caller = caller.parent

    def _set_phases(self) -> None:
        for frame in reversed(self.frames.values()):
            phases: set[Phase] = {step.phase for step in frame.steps}
            frame.phase = phases.pop() if len(phases) == 1 and frame.parent is not None else "both"

    def _order(self, frame: Frame) -> None:
        """Put the steps in an order in which they can run: the given one if possible, parts of one phase together."""
        edges = self._edges.get(frame.path, set())
        steps = {step.path: step for step in frame.steps}
        ordered = [steps[p] for p in _sort(list(steps), edges, {p for p, s in steps.items() if _is_phased(frame, s)})]
        if len(ordered) < len(steps):
            self.tangled |= _cyclic(steps, edges)
        frame.steps = ordered


def _is_phased(frame: Frame, step: Step) -> bool:
    return frame.relative(step) != "both" or (isinstance(step, Node) and isinstance(step.op, SelectPhase))


def _sort(paths: list[str], edges: Iterable[tuple[str, str]], phased: set[str]) -> Iterator[str]:
    number = {path: i for i, path in enumerate(paths)}
    readers: dict[str, list[str]] = {}
    waiting = dict.fromkeys(paths, 0)
    for start, end in edges:
        readers.setdefault(start, []).append(end)
        waiting[end] += 1
    ready: dict[bool, list[int]] = {False: [], True: []}
    for path in paths:
        if not waiting[path]:
            heapq.heappush(ready[path in phased], number[path])
    current = False
    while ready[False] or ready[True]:
        if not (current and ready[True]):
            current = not ready[False] or (bool(ready[True]) and ready[True][0] < ready[False][0])
        path = paths[heapq.heappop(ready[current])]
        yield path
        for reader in readers.get(path, ()):
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready[reader in phased], number[reader])


def _cyclic(steps: Mapping[str, Step], edges: Iterable[tuple[str, str]]) -> set[str]:
    """The instances that are called on a cycle."""
    found: set[str] = set()
    for component in networkx.strongly_connected_components(networkx.DiGraph(edges)):
        if len(component) > 1:
            found |= {step.instance for p in component if isinstance(step := steps[p], Frame)}
    return found


def _live(graph: Graph) -> set[str]:
    """The nodes that an output needs."""
    live: set[str] = set()
    waiting: list[Ref] = list(graph.outputs.values())
    while waiting:
        ref = waiting.pop()
        if isinstance(ref, Value) and ref.node not in live:
            live.add(ref.node)
            waiting.extend(graph.nodes[ref.node].refs)
    return live
