"""What is decided before any code is written: which nodes are PyTorch layers, which calls form a sequence or a loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ...compiler.graph import Graph, Node, ParameterRef, Ref, Value
from ...compiler.types import DType
from ...compiler.types import Expression as Polynomial
from .call import LAYERS, MODULES, RULES, Call, local
from .hierarchy import Frame, InstanceRef, Outer, Step, is_scalar
from .slots import Slot
from .template import Expression, Hole, Rank, variable


@dataclass(frozen=True)
class Run:
    """Steps of a frame that call the children 0, 1, 2, … of one slot, each with the result of the one before.

    A sequence passes nothing else, and can hold sequences; in a loop, the other arguments are the same for all.
    """

    slot: Slot
    parts: tuple[Part, ...]
    start: Value
    result: Value
    kind: Literal["sequence", "loop"]

    @property
    def steps(self) -> list[Step]:
        return [s for part in self.parts for s in (part.steps if isinstance(part, Run) else [part])]


Part = Step | Run


@dataclass
class Plan:
    """The decisions for a whole model."""

    root: Slot
    layers: dict[str, str] = field(default_factory=dict[str, str])
    """Path of a node → path of the slot that holds its weights."""
    runs: dict[str, list[Run]] = field(default_factory=dict[str, list[Run]])
    """Path of a frame → its runs, those inside others before them."""


class _Blank:
    """A page for constructors: they take numbers alone."""

    def __init__(self) -> None:
        self.holes: list[Hole] = []

    def operand(self, ref: Ref, rank: Rank) -> str:
        return variable(0, rank)

    def write_size(self, dim: Polynomial) -> Expression:
        return Expression("None")

    def write_dtype(self, dtype: DType) -> str:
        return "dtype"

    def write_device(self) -> str:
        return "device"

    def helper(self, function: Callable[..., Any]) -> str:
        return function.__name__

    def external(self, place: str) -> str:
        return place

    def constant(self, node: Node) -> str:
        return "constant"


def plan(graph: Graph, frames: list[Frame], root: Slot) -> Plan:
    """Decide for all frames. Slots of layers and of sequences are marked in the tree."""
    made = Plan(root)
    _find_layers(graph, frames, made)
    for frame in frames:
        made.runs[frame.path] = _Runs(graph, frame, made).found
    return made


# ---------------------------------------------------------------------------------------------------------- layers


def weights(node: Node) -> dict[int, str]:
    """The operands of a layer that are its weights: index and name in PyTorch, present ones only."""
    operands = node.op.operands
    if operands and operands[-1].variadic:
        start = len(operands) - 1
        names = _recurrent_names(node.op, len(node.inputs) - start)
        return {start + i: name for i, name in enumerate(names)}
    return {
        i: o.name
        for i, o in enumerate(operands)
        if o.name in ("weight", "bias", "running_mean", "running_var") and node.inputs[i] is not None
    }


def _recurrent_names(op: Any, count: int) -> list[str]:
    kinds = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"] if op.bias else ["weight_ih", "weight_hh"]
    ways = ["", "_reverse"] if op.bidirectional else [""]
    names = [f"{kind}_l{layer}{way}" for layer in range(op.num_layers) for way in ways for kind in kinds]
    assert len(names) == count
    return names


def _find_layers(graph: Graph, frames: list[Frame], made: Plan) -> None:
    candidates: dict[str, list[tuple[Frame, Node]]] = {}
    for frame in frames:
        for step in frame.steps:
            if isinstance(step, Node) and type(step.op) in LAYERS:
                slot = _layer_slot(graph, frame, step, made.root)
                if slot:
                    candidates.setdefault(slot.path, []).append((frame, step))
    for path, nodes in candidates.items():
        own = [n for f, n in nodes if _own_path(f, n.path) == path]
        constructor = _construct(graph, (own or [nodes[0][1]])[0], path)
        if constructor is None:
            continue
        made.root.find(path).layer = constructor
        for _, node in nodes:
            if _construct(graph, node, path) == constructor:
                made.layers[node.path] = path


def _own_path(frame: Frame, path: str) -> str:
    """The path within the model of what a step of the frame calls, if that is called as the step is."""
    inner = path[len(frame.path) + 1 :] if frame.path else path
    inner = ".".join(part.partition("~")[0] for part in inner.split("."))
    return f"{frame.instance}.{inner}" if frame.instance else inner


def _layer_slot(graph: Graph, frame: Frame, node: Node, root: Slot) -> Slot | None:
    """The slot whose parameters are exactly the weights that the node reads."""
    path: str | None = None
    names = weights(node)
    for i, name in names.items():
        ref = node.inputs[i]
        if not isinstance(ref, ParameterRef):
            return None
        parameter = graph.parameters[ref.parameter]
        above, _, last = ref.parameter.rpartition(".")
        if last != name or path not in (None, above) or parameter.type.dtype is not DType.F32:
            return None
        if parameter.buffer != name.startswith("running_"):
            return None
        path = above
    if not path or not frame.owns(f"{path}."):
        return None
    slot = root.find(path)
    if slot.instance or slot.home.path != frame.instance or slot.below.keys() != set(names.values()):
        return None
    return slot


def _construct(graph: Graph, node: Node, path: str) -> tuple[Expression, list[Hole]] | None:
    page = _Blank()
    text = LAYERS[type(node.op)](Call(graph, node, page, local(node.op.name, path)))
    return None if text is None else (Expression(text), page.holes)


# ------------------------------------------------------------------------------------------------------------ runs


class _Runs:
    """The runs of one frame."""

    def __init__(self, graph: Graph, frame: Frame, made: Plan) -> None:
        self._graph = graph
        self._frame = frame
        self._made = made
        self._inputs = {step.path: _arguments(graph, step, made) for step in frame.steps}
        self._number = {step.path: i for i, step in enumerate(frame.steps)}
        self._makers: dict[Value, int] = {}
        self._readers: dict[Ref, int] = {}
        for i, step in enumerate(frame.steps):
            for value in _results(step):
                self._makers[value] = i
            for ref in self._inputs[step.path]:
                if isinstance(ref, Value):
                    self._readers[ref] = self._readers.get(ref, 0) + 1
        for ref in frame.results if frame.parent else graph.outputs.values():
            self._readers[ref] = self._readers.get(ref, 0) + 1
        self.found: list[Run] = []
        self._groups: dict[str, dict[int, list[Part]]] = {}
        for step in frame.steps:
            self._enter(_own_path(frame, step.path), step)
        for depth in range(max((c.count(".") for c in self._groups), default=-1), -1, -1):
            for container in [c for c in self._groups if c.count(".") == depth]:
                run = self._run(container, self._groups[container])
                if run:
                    self.found.append(run)
                    if run.kind == "sequence":
                        self._enter(container, run)

    def _enter(self, path: str, part: Part) -> None:
        """Note what is called at a path that ends in a number."""
        container, _, index = path.rpartition(".")
        if index.isdigit() and str(int(index)) == index and container != self._frame.instance:
            self._groups.setdefault(container, {}).setdefault(int(index), []).append(part)

    def _run(self, container: str, members: Mapping[int, list[Part]]) -> Run | None:
        parts = [members[i][0] for i in range(len(members)) if len(members.get(i, ())) == 1]
        if len(parts) < len(members) or not self._covers(container, parts):
            return None
        slot = self._made.root.find(container)
        chain = self._chain(parts)
        steps = [s for p in parts for s in (p.steps if isinstance(p, Run) else [p])]
        if chain is None or len({self._frame.relative(s) for s in steps}) > 1:
            return None
        start, alone = chain
        result = self._results(parts[-1])[0]
        if alone and self._adopt(slot, parts):
            slot.chained = True
            return Run(slot, tuple(parts), start, result, "sequence")
        if len(parts) > 1 and all(isinstance(p, Frame) for p in parts) and slot.kind == "list":
            return Run(slot, tuple(parts), start, result, "loop")
        return None

    def _given(self, part: Part) -> list[Outer]:
        return [part.start] if isinstance(part, Run) else self._inputs[part.path]

    @staticmethod
    def _results(part: Part) -> list[Value]:
        return [part.result] if isinstance(part, Run) else _results(part)

    def _covers(self, container: str, parts: list[Part]) -> bool:
        """Whether the parts call all the children there are, each at its own path."""
        slot = self._made.root
        for name in container.split("."):
            if name not in slot.below:
                return False
            slot = slot.below[name]
        if slot.instance or slot.layer or slot.home.path != self._frame.instance:
            return False
        numbers = {str(i) for i in range(len(parts))}
        if not slot.below.keys() <= numbers:
            return False
        for i, part in enumerate(parts):
            child = slot.below.get(str(i))
            if isinstance(part, Run):
                if part.slot is not child:
                    return False
            elif isinstance(part, Frame):
                if not child or not child.instance or part.instance != child.path:
                    return False
            elif child and self._made.layers.get(part.path) != child.path:
                return False
        return True

    def _chain(self, parts: list[Part]) -> tuple[Value, bool] | None:
        """The value that the first part takes and each replaces, and whether they take nothing else."""
        if any(len(self._results(p)) != 1 for p in parts):
            return None
        results = [self._results(p)[0] for p in parts]
        if any(self._readers.get(r) != 1 for r in results[:-1]):
            return None
        first = self._given(parts[0])
        for i, candidate in enumerate(first):
            if not isinstance(candidate, Value):
                continue
            shared = [r for j, r in enumerate(first) if j != i]
            if candidate in shared or not self._available(shared, parts[0]):
                continue
            expected = [[*first[:i], r, *first[i + 1 :]] for r in results[:-1]]
            if all(self._given(p) == e for p, e in zip(parts[1:], expected, strict=True)):
                return candidate, not shared
        return None

    def _available(self, refs: list[Outer], part: Part) -> bool:
        if not refs:
            return True
        assert not isinstance(part, Run)
        number = self._number[part.path]
        return all(not isinstance(r, Value) or self._makers.get(r, -1) < number for r in refs)

    def _adopt(self, slot: Slot, parts: list[Part]) -> bool:
        """Give nodes without weights a module of their own in the slot, so that it can be an `nn.Sequential`."""
        made: dict[str, tuple[Expression, list[Hole]]] = {}
        for i, part in enumerate(parts):
            if not isinstance(part, Node):
                continue
            if str(i) in slot.below and slot.below[str(i)].layer:
                if not self._is_plain(part):
                    return False
                continue
            rule = MODULES.get(type(part.op))
            if rule is None:
                return False
            page = _Blank()
            text = rule(Call(self._graph, part, page, local(part.op.name, part.path)))
            if text is None:
                return False
            made[str(i)] = (Expression(text), page.holes)
        for name, constructor in made.items():
            slot.insert(name).layer = constructor
        self._made.layers.update({p.path: f"{slot.path}.{i}" for i, p in enumerate(parts) if isinstance(p, Node)})
        return True

    def _is_plain(self, node: Node) -> bool:
        """Whether the layer is called with the node's one input as it is."""
        rule = RULES.get(node.op)
        assert rule
        written = rule(Call(self._graph, node, _Blank(), "", "layer"))
        return written == f"layer({variable(0, Rank.ANY)})"


def _arguments(graph: Graph, step: Step, made: Plan) -> list[Outer]:
    """What a step takes, weights of its own apart."""
    if isinstance(step, Frame):
        found: list[Outer] = list(step.inputs)
        parent = step.parent
        if parent and not parent.owns(step.instance):
            found.append(InstanceRef(step.instance))
        return found
    skip: Mapping[int, str] = weights(step) if step.path in made.layers else {}
    refs = [r for i, r in enumerate(step.inputs) if r is not None and i not in skip]
    return [r for r in refs if not (isinstance(r, Value) and is_scalar(graph.nodes[r.node]))]


def _results(step: Step) -> list[Value]:
    return list(step.results) if isinstance(step, Frame) else list(step.values)
