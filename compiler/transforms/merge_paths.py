"""Several layers beside each other as one."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ..contract import Contract
from ..graph import Edit, Graph, Node, Parameter, ParameterRef, Ref, Value
from ..operators.arithmetic import Add, Mul
from ..operators.convolution import Convolution
from ..operators.creation import Constant
from ..operators.layout import Concat
from ..passes.computed import Made
from ..types import Shape, TensorType
from .choose import Paths, matches, nothing
from .numbers import filled
from .path import channels, drop_unread, join, layer, out_axis
from .register import Outcome, Refusal, transform

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@transform
def merge_paths(graph: Graph, at: Paths = "*", seed: int = 0) -> Outcome:
    """Make one layer of linear or convolution layers that read the same value and are added, averaged or concatenated.

    Layers that are added may have kernels of different sizes, as a 1×1 beside a 3×3 convolution: smaller ones are
    padded with zeros to the place they have in the larger. What else is added stays. Layers that are concatenated are
    alike in all but the number of channels, and ungrouped. Batch norms between are folded before by optimising.

    Contract: exact. It undoes `path`, and merges branches that were trained apart, or designed so.

    - at: the sums, averages and concatenations, or layers in them. All by default.
    - seed: for parameters without data.

    Source: Cai et al., Path-Level Network Transformation, 2018; Ding et al., RepVGG, 2021, section 3.3.
    """
    lines: list[str] = []
    sources: dict[str, tuple[str, ...]] = {}
    while sites := _chosen(graph, at, first=not lines):
        edit = graph.edit("merge_paths")
        merger = _Merger(edit, graph, seed)
        for site in sites:
            merger.merge(site)
        merger.clean()
        lines += [f"{s.root.path}: {' and '.join(n.path for n in g)} are one" for s in sites for g in s.groups]
        graph = edit.done()
        made = {new: tuple(p for o in old for p in sources.get(o, (o,))) for new, old in merger.sources.items()}
        sources = {p: s for p, s in {**sources, **made}.items() if p in graph.parameters}
    return Outcome(graph, Contract(), tuple(lines), sources)


def _chosen(graph: Graph, at: Paths, *, first: bool) -> list[_Site]:
    """What can be merged now: branches of branches are layers the next time.

    Raises:
        Refusal: where there is nothing the first time.
    """
    found = [site for node in graph.nodes.values() for site in _sites(graph, node)]
    if first and not found:
        raise Refusal("no layers that read the same value are added or concatenated", option="at")
    chosen = [s for s in found if matches(s.root.path, at) or any(matches(n.path, at) for g in s.groups for n in g)]
    if first and not chosen:
        raise nothing(at, (s.root.path for s in found), "sum of layers")
    return chosen


class _Site(NamedTuple):
    """A sum, average or concatenation, whose leaves are in groups that become one layer each, and others."""

    root: Node
    inner: tuple[Node, ...]
    """Sums that go."""
    groups: tuple[tuple[Node, ...], ...]
    others: tuple[Ref, ...]
    factor: float = 1


def _sites(graph: Graph, node: Node) -> list[_Site]:
    if isinstance(node.op, Concat):
        return _concatenated(graph, node)
    if isinstance(node.op, Mul):
        return _averaged(graph, node)
    above = graph.users.get(node.value, [])
    if not isinstance(node.op, Add) or (_only(graph, node) and isinstance(above[0].op, Add)):
        return []
    if _only(graph, node) and isinstance(above[0].op, Mul) and _averaged(graph, above[0]):
        return []
    whole = _whole(graph, node)
    if whole is not None:
        return [whole]
    inner, leaves = _leaves(graph, node)
    sets = [set(map(_path, group)) for group in _grouped(graph, leaves)[0]]
    below = [site for n in inner if (site := _whole(graph, n)) and set(map(_path, site.groups[0])) in sets]
    inner, leaves = _leaves(graph, node, frozenset(site.root.path for site in below))
    groups, others = _grouped(graph, leaves)
    return [*below, _Site(node, inner, groups, others)] if groups else below


def _path(node: Node) -> str:
    return node.path


def _whole(graph: Graph, node: Node) -> _Site | None:
    """A sum of layers that become one, and of nothing else."""
    inner, leaves = _leaves(graph, node)
    groups, others = _grouped(graph, leaves)
    return _Site(node, inner, groups, ()) if len(groups) == 1 and not others else None


def _averaged(graph: Graph, node: Node) -> list[_Site]:
    """A sum of layers alone, times a number."""
    for total, factor in (node.inputs, node.inputs[::-1]):
        if isinstance(total, Value) and isinstance(factor, Value):
            added, constant = graph.nodes[total.node], graph.nodes[factor.node].op
            number = constant.value if isinstance(constant, Constant) else None
            if isinstance(added.op, Add) and isinstance(number, (int, float)) and _only(graph, added):
                whole = _whole(graph, added)
                if whole is not None:
                    return [whole._replace(root=node, inner=(added, *whole.inner), factor=float(number))]
    return []


def _concatenated(graph: Graph, node: Node) -> list[_Site]:
    assert isinstance(node.op, Concat)
    leaves = [graph.nodes[r.node] for r in node.inputs if isinstance(r, Value)]
    if (
        len(leaves) < 2
        or len({n.path for n in leaves}) < len(node.inputs)
        or not all(_mergeable(graph, n) and getattr(n.op, "groups", 1) == 1 for n in leaves)
    ):
        return []
    kinds = {(n.inputs[0], n.op, n.phase, n.inputs[2] is None, _kernel(graph, n)) for n in leaves}
    along = node.op.dim == channels(leaves[0])
    return [_Site(node, (), (tuple(leaves),), ())] if len(kinds) == 1 and along else []


def _kernel(graph: Graph, node: Node) -> Shape:
    assert node.inputs[1] is not None
    return graph.type(node.inputs[1]).shape[2:]


def _only(graph: Graph, node: Node) -> bool:
    """Whether one node alone reads what a node gives."""
    ends = {*graph.outputs.values(), *graph.taps.values()}
    return len(graph.users.get(node.value, ())) == 1 and node.value not in ends


def _mergeable(graph: Graph, node: Node) -> bool:
    return layer(node) and _only(graph, node)


def _leaves(graph: Graph, node: Node, kept: frozenset[str] = frozenset()) -> tuple[tuple[Node, ...], list[Ref]]:
    """What a sum adds, through sums that nothing else reads and that are not `kept`."""
    inner: list[Node] = []
    leaves: list[Ref] = []
    for ref in node.refs:
        read = graph.nodes[ref.node] if isinstance(ref, Value) else None
        sums = read is not None and isinstance(read.op, Add) and read.types == node.types and _only(graph, read)
        if read is not None and sums and read.path not in kept:
            more, below = _leaves(graph, read, kept)
            inner += [read, *more]
            leaves += below
        else:
            leaves.append(ref)
    return tuple(inner), leaves


def _grouped(graph: Graph, leaves: Sequence[Ref]) -> tuple[tuple[tuple[Node, ...], ...], tuple[Ref, ...]]:
    """Layers that can be one, each set with the one of the largest kernel first; and all else."""
    kinds: dict[Hashable, list[Node]] = {}
    for ref in leaves:
        node = graph.nodes[ref.node] if isinstance(ref, Value) else None
        if node is not None and _mergeable(graph, node) and leaves.count(ref) == 1:
            kinds.setdefault(_kind(graph, node), []).append(node)
    groups: list[tuple[Node, ...]] = []
    for nodes in kinds.values():
        largest = max(nodes, key=lambda n: _reach(graph, n))
        fit = [n for n in nodes if n is not largest and _offsets(graph, n, largest) is not None]
        if fit:
            groups.append((largest, *fit))
    merged = {n.value for group in groups for n in group}
    return tuple(groups), tuple(r for r in leaves if r not in merged)


def _reach(graph: Graph, node: Node) -> tuple[int, ...]:
    return tuple(k for k in _kernel(graph, node) if isinstance(k, int))


def _kind(graph: Graph, node: Node) -> Hashable:
    """What layers have in common that are added to one."""
    op: Any = node.op
    if isinstance(op, Convolution):
        op = replace(cast(Any, op), padding=tuple((0, 0) for _ in cast(Any, op).padding))
        return node.inputs[0], op, node.types, node.phase
    return node.inputs[0], op, node.types, node.phase, _kernel(graph, node)


def _offsets(graph: Graph, small: Node, large: Node) -> tuple[int, ...] | None:
    """Where the kernel of one convolution lies in that of another; none where it does not."""
    if not isinstance(small.op, Convolution):
        return ()
    a, b = cast(Any, small.op), cast(Any, large.op)
    found: list[int] = []
    sizes = zip(_reach(graph, small), _reach(graph, large), a.padding, b.padding, a.dilation, strict=True)
    for k, size, (p, _), (q, _), step in sizes:
        offset, rest = divmod(q - p, step)
        if rest or offset < 0 or offset + k > size:
            return None
        found.append(offset)
    return tuple(found)


@dataclass
class _Merger:
    edit: Edit
    graph: Graph
    seed: int
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    gone: set[str] = field(default_factory=set[str])
    changed: set[str] = field(default_factory=set[str])

    def merge(self, site: _Site) -> None:
        self.edit.acting("merge_paths", site.root.path)
        alone = len(site.groups) == 1 and not site.others
        leaves: list[Ref] = []
        for group in site.groups:
            path = site.root.path if alone else group[0].path
            weights = self._weights(path, group, site)
            refs = [group[0].inputs[0], *weights]
            self.changed |= {n.path for n in group}
            self.gone |= {n.path for n in group} - {path}
            self.edit.set(path, op=group[0].op, inputs=refs)
            leaves.append(Value(path))
        self.gone |= {n.path for n in site.inner}
        if site.factor != 1:
            read = [self.graph.nodes[r.node] for r in site.root.refs if isinstance(r, Value)]
            self.gone |= {n.path for n in read if isinstance(n.op, Constant) and _only(self.graph, n)}
        if not alone:
            join(self.edit, site.root, [*leaves, *site.others])

    def _weights(self, path: str, group: Sequence[Node], site: _Site) -> list[Ref | None]:
        found: list[Ref | None] = []
        for position in range(1, len(group[0].inputs)):
            refs = [n.inputs[position] for n in group]
            present = [r for r in refs if isinstance(r, ParameterRef)]
            if not present:
                found.append(None)
                continue
            old = [self.graph.parameters[r.parameter] for r in present]
            made = self._parameter(f"{path}.{present[0].parameter.rpartition('.')[2]}", position, old, group, site)
            self.sources[made.path] = tuple(p.path for p in old)
            found.append(self.edit.parameter(made))
        return found

    def _parameter(
        self, path: str, position: int, old: Sequence[Parameter], group: Sequence[Node], site: _Site
    ) -> Parameter:
        first = old[0]
        given = tuple(filled(p, self.seed) for p in old)
        if isinstance(site.root.op, Concat):
            axis = out_axis(group[0]) if position == 1 else 0
            size = sum((p.type.shape[axis] for p in old), 0)
            kind = TensorType(first.type.dtype, (*first.type.shape[:axis], size, *first.type.shape[axis + 1 :]))
            return replace(first, path=path, type=kind, data=Made(partial(_joined, axis), given, kind))
        offsets = tuple(_offsets(self.graph, n, group[0]) or () for n in group) if position == 1 else None
        data = Made(partial(_summed, site.factor, offsets), given, first.type)
        return replace(first, path=path, data=data)

    def clean(self) -> None:
        for path in self.gone:
            self.edit.remove(path)
        drop_unread(self.edit, self.graph, self.changed, self.sources.__contains__)


def _joined(axis: int, *arrays: Array) -> Array:
    import numpy

    return numpy.concatenate(arrays, axis)


def _summed(factor: float, offsets: Sequence[tuple[int, ...]] | None, *arrays: Array) -> Array:
    """The sum, of kernels at their places in the first."""
    total = arrays[0] * factor
    for number, array in enumerate(arrays[1:], 1):
        at = offsets[number] if offsets else ()
        where = tuple(slice(o, o + k) for o, k in zip(at, array.shape[2:], strict=False))
        total[(slice(None), slice(None), *where) if where else ...] += array * factor
    return total
