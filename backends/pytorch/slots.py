"""Where everything hangs on the model: the tree of attributes that gives each parameter exactly its path.

A slot is one component of a path. What it becomes in PyTorch (a module of ours, a layer, a list, a plain holder)
decides how code reaches what lies below: `self.layer1[0].conv1`.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from ...compiler.diagnostic import Diagnostic, Label, NetcError
from ...compiler.graph import Graph, Parameter
from .template import Expression, Hole

Kind = Literal["instance", "layer", "parameter", "list", "parameter list", "dictionary", "holder"]

TAKEN = frozenset(dir(nn.Module())) | {"training"}
"""Attributes of every module, which no member can be called."""

_TAKEN_BY_DICTIONARY = frozenset(dir(nn.ModuleDict()))


@dataclass(eq=False)
class Slot:
    """One component of a path. At most one of `instance`, `layer` and `parameter` holds."""

    path: str
    above: Slot | None = None
    below: dict[str, Slot] = field(default_factory=dict[str, "Slot"])
    parameter: Parameter | None = None
    instance: bool = False
    layer: tuple[Expression, list[Hole]] | None = None
    """The constructor of a PyTorch layer that stands here, with its holes."""
    chained: bool = False
    """Whether the children are called one after another, as `nn.Sequential` does."""

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def home(self) -> Slot:
        """The instance whose class creates this slot; for an instance, the one around it."""
        slot = self.above
        while slot is not None and not slot.instance:
            slot = slot.above
        assert slot is not None
        return slot

    @property
    def numbered(self) -> list[Slot] | None:
        """The children in order where their names are 0, 1, 2, …, else None."""
        found = [self.below.get(str(i)) for i in range(len(self.below))]
        return [s for s in found if s] if found and all(found) else None

    @property
    def kind(self) -> Kind:
        if self.instance:
            return "instance"
        if self.layer:
            return "layer"
        if self.parameter:
            return "parameter"
        leaves = [s.parameter for s in self.below.values() if s.parameter]
        if self.numbered:
            if not leaves:
                return "list"
            if len(leaves) == len(self.below) and not any(p.buffer for p in leaves):
                return "parameter list"
        elif not leaves and not _TAKEN_BY_DICTIONARY & self.below.keys():
            return "dictionary"
        return "holder"

    @property
    def is_list(self) -> bool:
        """Whether children are reached by index."""
        return self.kind in ("list", "parameter list")

    def access(self, name: str) -> str:
        """How to reach the child `name`, written after what reaches this slot."""
        child = self.below[name]
        if self.is_list:
            return f"[{name}]"
        if self.kind == "dictionary" and not name.isidentifier():
            return f'["{name}"]'
        if _is_attribute(name) and name not in TAKEN:
            return f".{name}"
        group = "_modules" if not child.parameter else "_buffers" if child.parameter.buffer else "_parameters"
        return f'.{group}["{name}"]'

    def find(self, path: str) -> Slot:
        """The slot at a path below this one."""
        slot = self
        rest = path[len(self.path) + 1 :] if self.path else path
        for name in rest.split("."):
            slot = slot.below[name]
        return slot

    def reach(self, path: str) -> str:
        """The code, written after `self` of this instance, that reaches a slot below it."""
        steps: list[str] = []
        slot = self.find(path)
        while slot is not self:
            assert slot.above
            steps.append(slot.above.access(slot.name))
            slot = slot.above
        return "".join(reversed(steps))

    def insert(self, path: str) -> Slot:
        slot = self
        for name in path.split("."):
            if name not in slot.below:
                slot.below[name] = Slot(f"{slot.path}.{name}" if slot.path else name, slot)
            slot = slot.below[name]
        return slot

    def walk(self) -> Iterator[Slot]:
        """This slot and all below, parents first."""
        waiting: list[Slot] = [self]
        while waiting:
            slot = waiting.pop()
            yield slot
            waiting.extend(reversed(slot.below.values()))


def _unusable(slot: Slot) -> Diagnostic:
    message = f"PyTorch keeps the mode of every module under the name training, which {slot.path} has"
    return Diagnostic("parameter-path", message, fix="as another_name")


def _is_attribute(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("__")


def plant(graph: Graph, paths: Iterable[str], instances: Iterable[str]) -> Slot:
    """The tree for a graph's parameters and the instances that are called; `paths` (of either) sets the order.

    Raises:
        NetcError: where a parameter's path is also the path of something that holds parameters.
    """
    root = Slot("", instance=True)
    for path in (*paths, *instances, *graph.parameters):
        root.insert(path)
    for path in instances:
        root.find(path).instance = True
    problems = [_unusable(slot) for slot in root.walk() if slot.name == "training"]
    for path, parameter in graph.parameters.items():
        slot = root.find(path)
        slot.parameter = parameter
        if slot.below or slot.instance:
            labels = tuple(Label(s) for s in parameter.origin[:1])
            message = f"PyTorch cannot hold the parameter {path} and others below {path}"
            problems.append(Diagnostic("parameter-path", message, labels))
    if problems:
        raise NetcError(problems)
    return root
