"""More or fewer blocks in the stages of a model: copies have parameters of their own, and paths are numbered anew."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from ..blocks import Block, stages
from ..graph import Edit, Graph, Input, Node, Parameter, ParameterRef, Ref, Scope
from ..operators.stochastic import DropPath
from ..paths import above, lies_in
from .proportion import Kind, Relation
from .register import Refusal
from .successor import Template, successor

_NUMBERED = re.compile(r"(.*?)(\d+)")


@dataclass(frozen=True)
class Restacked:
    """A graph with other blocks."""

    graph: Graph
    sources: Mapping[str, str]
    """By parameter that was there before, its path then, where that is another."""
    made: tuple[str, ...]
    """The paths of blocks that are new."""
    gone: tuple[str, ...]
    """Those, before, of blocks that are left out."""


@dataclass(frozen=True)
class Stages:
    """The stages of a graph: its blocks in runs whose outputs have one shape."""

    graph: Graph
    relations: Mapping[Kind, Relation]

    @cached_property
    def blocks(self) -> tuple[tuple[Block, ...], ...]:
        return tuple(tuple(own) for own in stages(self.graph))

    @cached_property
    def members(self) -> dict[str, list[str]]:
        """By the path of a block, its nodes in order, those of training among them."""
        found: dict[str, list[str]] = {b.path: [] for stage in self.blocks for b in stage}
        homes = {path: b.path for stage in self.blocks for b in stage for path in b.nodes}
        for path in self.graph.nodes:
            calls = {home for home in above(path) if home in found and home in self.graph.scopes}
            for home in calls | ({homes[path]} if path in homes else set[str]()):
                found[home].append(path)
        return found

    @property
    def repeats(self) -> tuple[int, ...]:
        return tuple(map(len, self.blocks))

    @cached_property
    def templates(self) -> tuple[Template | None, ...]:
        """What can be added to each stage: its last block that has the same type at both ends, or one like its last."""
        return tuple(map(self._template, self.blocks))

    def _template(self, stage: Sequence[Block]) -> Template | None:
        own = next((b for b in reversed(stage) if self.repeatable(b)), None)
        if own is not None:
            return Template(self.graph, own)
        every = [b for s in self.blocks for b in s]
        at = every.index(stage[-1])
        near = sorted((b for b in every if self.repeatable(b)), key=lambda b: abs(every.index(b) - at))
        return successor(self.graph, stage[-1], near, self.relations)

    def repeatable(self, block: Block) -> bool:
        """Whether it has the same type at both ends."""
        return self.graph.type(block.input) == self.graph.type(block.output)

    def droppable(self, stage: int) -> int:
        """How many blocks a stage may lose: those that have the same type at both ends."""
        own = self.blocks[stage]
        return min(sum(map(self.repeatable, own)), len(own) - 1)

    def clamped(self, repeats: Sequence[int]) -> tuple[int, ...]:
        """The numbers of blocks nearest to these that the stages can have."""
        found: list[int] = []
        for number, wanted in enumerate(repeats):
            count = len(self.blocks[number])
            least, most = count - self.droppable(number), wanted if self.templates[number] else count
            found.append(max(least, min(most, wanted)))
        return tuple(found)


def restack(found: Stages, repeats: Sequence[int]) -> Restacked:
    """The graph with so many blocks in each stage.

    Blocks at the end of a stage go first; new ones come after its last, as copies of the last that can be repeated.
    Numbers in paths stay consecutive. Rates of `drop_path` that rise evenly over the blocks rise evenly over the new
    ones.

    Raises:
        Refusal: where a stage has no block that can be repeated, or left out.
    """
    return _Restack(found, repeats).run()


@dataclass
class _Restack:
    found: Stages
    repeats: Sequence[int]
    plan: list[tuple[Template, int]] = field(default_factory=list[tuple[Template, int]])
    """The blocks of the new graph in order: which one, and 0 for itself, or the number of its copy."""

    def run(self) -> Restacked:
        for number, wanted in enumerate(self.repeats):
            self._plan(number, wanted)
        kept = {t.block.path for t, copy in self.plan if not copy}
        gone = tuple(b.path for stage in self.found.blocks for b in stage if b.path not in kept)
        graph = self.found.graph
        self._number()
        self.edit = Edit(Graph(graph.name), "scale")
        self.value: dict[Ref, Ref] = {}
        self.sources: dict[str, str] = {}
        self._emit(gone)
        for path in graph.parameters:
            if ParameterRef(path) not in graph.users:
                self._now(ParameterRef(path))
        for name, ref in graph.outputs.items():
            self.edit.output(name, self._now(ref))
        for name, ref in graph.taps.items():
            if isinstance(ref, ParameterRef) or ref in self.value:
                self.edit.tap(name, self._now(ref))
        made = self._ramped(replace(self.edit.done(), removed=graph.removed))
        changed = {new: old for new, old in self.sources.items() if new != old}
        return Restacked(made, changed, tuple(self.names[i] for i, (_, c) in enumerate(self.plan) if c), gone)

    def _plan(self, number: int, wanted: int) -> None:
        own = list(self.found.blocks[number])
        template = self.found.templates[number]
        for block in reversed(list(own)):
            if len(own) > wanted and self.found.repeatable(block) and len(own) > 1:
                own.remove(block)
        if len(own) > wanted or (len(own) < wanted and template is None):
            text = "left out" if len(own) > wanted else "repeated"
            shapes = (str(self.found.graph.type(v)) for v in (own[0].input, own[0].output))
            message = f"{own[0].path} changes the shape from {' to '.join(shapes)} and cannot be {text}"
            raise Refusal(message, nodes=[own[0].path], option="depth")
        self.plan += [(Template(self.found.graph, b), 0) for b in own]
        if template is not None:
            self.plan += [(template, i + 1) for i in range(wanted - len(own))]

    # ------------------------------------------------------------------------------------------------ paths

    def _number(self) -> None:
        """Names for the blocks of the plan, and new numbers for what stood beside them."""
        self.names: list[str] = []
        self.moves: dict[str, str] = {}
        """By prefix of paths: what it becomes, of blocks and of what is numbered with them."""
        numbers = self._siblings()
        shift: dict[str, int] = dict.fromkeys(numbers, 0)
        kept = {t.block.path for t, copy in self.plan if not copy}
        order = [b.path for stage in self.found.blocks for b in stage]
        position = {path: i for i, path in enumerate(order)}
        copies: dict[str, int] = {}
        last = ""
        for template, copy in self.plan:
            last = last if copy else template.block.path
            if copy:
                copies[last] = copies.get(last, 0) + 1
        for stem, children in numbers.items():
            for child in children:
                old = f"{stem}{child}"
                if old in position and old not in kept:
                    shift[stem] -= 1
                    continue
                self.moves[old] = f"{stem}{child + shift[stem]}"
                shift[stem] += copies.get(old, 0)
        used = set(self.moves.values())
        for template, copy in self.plan:
            if not copy:
                self.names.append(self.moves.get(template.block.path, template.block.path))
                continue
            before = _NUMBERED.fullmatch(self.names[-1])
            name = f"{before[1]}{int(before[2]) + 1}" if before and before[1] in numbers else f"{self.names[-1]}_1"
            while name in used or (before is None and name in self.found.graph.scopes):
                name += "_1"
            used.add(name)
            self.names.append(name)

    def _siblings(self) -> dict[str, list[int]]:
        """By what stands before the number in the paths of blocks: all numbers that paths have there."""
        graph = self.found.graph
        stems = {m[1] for stage in self.found.blocks for b in stage if (m := _NUMBERED.fullmatch(b.path))}
        found: dict[str, set[int]] = {stem: set() for stem in stems}
        for path in (*graph.nodes, *graph.scopes, *graph.parameters):
            parts = path.split(".")
            for i in range(len(parts)):
                match = _NUMBERED.fullmatch(".".join(parts[: i + 1]))
                if match and match[1] in found:
                    found[match[1]].add(int(match[2]))
        return {stem: sorted(numbers) for stem, numbers in found.items()}

    def _moved(self, path: str) -> str:
        """The path of what is no copy."""
        at = next((p for p in (path, *above(path)) if p in self.moves), None)
        return path if at is None else self.moves[at] + path[len(at) :]

    # ------------------------------------------------------------------------------------------------ nodes

    def _emit(self, gone: Sequence[str]) -> None:
        graph = self.found.graph
        every = [b for stage in self.found.blocks for b in stage]
        calls = {b.path for b in every}
        for scope in graph.scopes.values():
            if calls.isdisjoint((scope.path, *above(scope.path))):
                self.edit.scope(replace(scope, path=self._moved(scope.path), instance=self._moved(scope.instance)))
        inside = {path: b for b in every for path in self.found.members[b.path]}
        last = {self.found.members[b.path][-1]: b for b in every}
        after: dict[str, list[int]] = {}
        place = ""
        for index, (template, copy) in enumerate(self.plan):
            place = place if copy else template.block.path
            after.setdefault(place, []).append(index)
        for path, node in graph.nodes.items():
            if path not in inside:
                self._node(node, self._moved(path), self.value)
                continue
            block = last.get(path)
            if block is None:
                continue
            if block.path in gone:
                self.value[block.output] = self._now(block.input)
            else:
                self._stack(block, after[block.path])

    def _stack(self, block: Block, indices: Sequence[int]) -> None:
        """A block and its copies, one after the other."""
        current = self._now(block.input)
        for index in indices:
            template, copy = self.plan[index]
            source, name = template.block, self.names[index]
            given: dict[Ref, Ref] = {**self.value, source.input: current}
            for path in (
                template.graph.nodes if template.graph is not self.found.graph else self.found.members[source.path]
            ):
                node = template.graph.nodes[path]
                if not isinstance(node.op, Input):
                    self._node(node, self._renamed(path, source, name), given, template if copy else None, name)
            current = given[source.output]
            if not copy:
                self.value.update({v: w for v, w in given.items() if v != source.input})
            self._scopes(source, name)
        self.value[block.output] = current

    def _renamed(self, path: str, block: Block, name: str) -> str:
        if lies_in(path, block.path):
            return name + path[len(block.path) :]
        return self.edit.fresh(path)

    def _node(
        self, node: Node, path: str, given: dict[Ref, Ref], copied: Template | None = None, name: str = ""
    ) -> None:
        inputs = [
            None
            if ref is None
            else self._parameter(ref.parameter, copied, name)
            if isinstance(ref, ParameterRef)
            else given[ref]
            for ref in node.inputs
        ]
        new = self.edit.add(path, node.op, *inputs, phase=node.phase, origin=node.origin)
        given.update(zip(node.values, new.values, strict=True))

    def _parameter(self, path: str, copied: Template | None, name: str) -> ParameterRef:
        old = (copied.graph if copied else self.found.graph).parameters[path]
        if copied is not None and self._own(path, copied):
            inside = path.startswith(f"{copied.block.path}.")
            new = self._renamed(path, copied.block, name) if inside else f"{name}.{path.rpartition('.')[2]}"
            if self.edit.find_parameter(new) is None:
                self.edit.parameter(_fresh(replace(old, path=new)))
            return ParameterRef(new)
        new = self._moved(path)
        if self.edit.find_parameter(new) is None:
            self.edit.parameter(replace(old, path=new))
            self.sources[new] = path
        return ParameterRef(new)

    def _own(self, parameter: str, copied: Template) -> bool:
        """Whether a block alone reads a parameter: its copy gets one of its own, and shares others."""
        if copied.graph is not self.found.graph:
            return True
        own = set(self.found.members[copied.block.path])
        return all(node.path in own for node in self.found.graph.users[ParameterRef(parameter)])

    def _now(self, ref: Ref) -> Ref:
        if isinstance(ref, ParameterRef):
            return self._parameter(ref.parameter, None, "")
        return self.value[ref]

    def _scopes(self, block: Block, name: str) -> None:
        for scope in self.found.graph.scopes.values():
            if lies_in(scope.path, block.path):
                path = name + scope.path[len(block.path) :]
                inner = lies_in(scope.instance, block.path)
                instance = name + scope.instance[len(block.path) :] if inner else self._moved(scope.instance)
                self.edit.scope(Scope(path, scope.module, instance, scope.origin))

    # ------------------------------------------------------------------------------------------------ drop path

    def _ramped(self, graph: Graph) -> Graph:
        """Rates of drop path that rise evenly with the block's number do so over the new blocks."""
        old = [b.path for stage in self.found.blocks for b in stage]
        before = {p: r for i, b in enumerate(old) for p, r in _rates(self.found.graph, b, i)}
        slopes = {rate / i for i, rate in before.values() if i}
        even = all(rate == 0 for i, rate in before.values() if not i)
        if not before or not slopes or max(slopes) - min(slopes) > 1e-9 or not even:
            return graph
        most = round(max(slopes) * len(old), 12)
        edit = graph.edit("scale")
        for i, name in enumerate(self.names):
            for path, _ in _rates(graph, name, i):
                edit.set(path, op=DropPath(most * i / len(self.names)))
        return edit.done()


def _rates(graph: Graph, block: str, number: int) -> Iterator[tuple[str, tuple[int, float]]]:
    for path, node in graph.nodes.items():
        if isinstance(node.op, DropPath) and path.startswith(f"{block}."):
            yield path, (number, node.op.p)


def _fresh(parameter: Parameter) -> Parameter:
    """The parameter with the numbers that its initialiser draws; given ones stay."""
    return parameter if parameter.initialiser.kind == "given" else replace(parameter, data=None)
