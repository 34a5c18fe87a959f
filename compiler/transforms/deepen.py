"""More blocks in a model, and the same function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import sqrt
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from ..blocks import Block, blocks
from ..contract import Contract
from ..graph import Edit, Graph, Node, Parameter, Ref, Value
from ..operators.convolution import Convolution
from ..operators.linear import Linear
from ..operators.normalization import BatchNorm
from ..operators.operator import Initialiser
from ..passes.computed import Made
from ..types import TensorType, volume
from .choose import Paths, chosen_blocks, named
from .copy_block import FreePaths, copy_block
from .identity import IDEMPOTENT, Closing, Numbers, constant, zeros
from .read_instead import read_instead
from .register import MOST_PARTS, Outcome, Refusal, refuse_many, transform

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@transform
def deepen(
    graph: Graph, at: Paths = "blocks", by: int = 1, how: Literal["residual", "net2deeper"] = "residual", seed: int = 0
) -> Outcome:
    """Insert layers that pass on what they are given: the same function, deeper.

    Contract: exact, in inference.

    - at: the blocks after which (`residual`) or in which (`net2deeper`) layers are inserted; all by default. A block
      that cannot have any is refused where it is asked for by its own path; else it is left out and noted.
    - by: how many copies, or layers, are inserted for each block.
    - how: `residual` inserts a copy of the block with its numbers, but for what closes each residual branch: the scale
      of its last normalisation, its layer scale, or its last layer with its bias are 0. A block that changes the shape
      is followed by a copy of one of its stage that does not. Copies of `layer2.1` are `layer2.1_1`, `layer2.1_2`. It
      refuses blocks that do not add branches to what they are given: concatenations, normalisation after the sum.
      `net2deeper` inserts, after the last activation in the block that changes nothing when it is applied again (relu,
      relu6), a layer like the one before it, with the identity for weights; a batch norm that undoes its own
      statistics, if the block has any; and that activation. After `layer1.0.conv2` they are `layer1.0.conv2_1`, …. It
      refuses blocks without such an activation: no layer with a gelu or silu is the identity.
    - seed: for parameters without data.

    Source: Chen, Goodfellow, Shlens, Net2Net, 2016, section 2.3; Goyal et al., Accurate, Large Minibatch SGD, 2017,
    section 5.1 (a scale of 0 makes a residual block the identity).
    """
    if by < 1:
        raise Refusal(f"deepen inserts at least one layer, not {by}", option="by")
    blocks = chosen_blocks(graph, at)
    refuse_many(len(blocks) * by, MOST_PARTS, "insertions", "by")
    edit = graph.edit("deepen")
    insert = _Residual(graph, edit, seed) if how == "residual" else _Deeper(graph, edit)
    stopped: list[tuple[str, str]] = []
    done: list[str] = []
    sources: dict[str, tuple[str, ...]] = {}
    for block in blocks:
        found = insert(block, by)
        if isinstance(found, _Stopped):
            if named(block.path, at):
                raise Refusal(f"nothing can be inserted at {block.path}: {found.text}", nodes=[found.node], option="at")
            stopped.append((found.node, f"nothing is inserted at {block.path}: {found.text}"))
        else:
            done += found.paths
            sources.update(found.sources)
    if not done:
        fix = "how = net2deeper" if how == "residual" else "how = residual"
        texts = [text for _, text in stopped]
        message = "no block of the model can be followed by the identity"
        raise Refusal(message, nodes=[n for n, _ in stopped], option="how", notes=texts, fix=fix)
    notes = (f"{len(done)} inserted: {', '.join(done)}", *(text for _, text in stopped))
    return Outcome(edit.done(), Contract(), notes, sources)


class _Stopped(NamedTuple):
    node: str
    text: str


class _Inserted(NamedTuple):
    paths: list[str]
    sources: Mapping[str, tuple[str, ...]]


class _Residual:
    """Copies of blocks whose branches give 0."""

    def __init__(self, graph: Graph, edit: Edit, seed: int) -> None:
        self._graph = graph
        self._edit = edit
        self._seed = seed
        self._blocks = blocks(graph)
        self._free = FreePaths(graph)

    def __call__(self, block: Block, by: int) -> _Inserted | _Stopped:
        stopped: _Stopped | None = None
        for model in self._models(block):
            closing = Closing.of(self._graph, model)
            numbers = closing.numbers(block.output)
            if numbers is not None:
                return self._insert(block, model, closing, numbers, by)
            stopped = stopped or _Stopped(*closing.stopped[0])
        assert stopped
        return stopped

    def _models(self, block: Block) -> list[Block]:
        """The block; where it changes the shape, those of its kind that keep that of its output, the next one first."""
        kind = self._graph.type(block.output)
        if self._graph.type(block.input) == kind:
            return [block]
        here = self._blocks.index(block)
        others = [*self._blocks[here + 1 :], *reversed(self._blocks[:here])]
        same = [b for b in others if b.module == block.module and self._graph.type(b.input) == kind]
        return [*[b for b in same if self._graph.type(b.output) == kind], block]

    def _insert(self, block: Block, model: Block, closing: Closing, numbers: Numbers, by: int) -> _Inserted:
        last: Ref = block.output
        paths: list[str] = []
        sources: dict[str, tuple[str, ...]] = {}
        for _ in range(by):
            path = self._free.after(block.path)
            given: dict[Ref, Ref] = {model.input: last}
            last, copies = copy_block(self._edit, self._graph, model, path, given, closing.own, numbers, self._seed)
            sources |= {new: (old,) for old, new in copies.items() if old not in numbers}
            paths.append(path)
        read_instead(self._edit, self._graph, block.output, last)
        return _Inserted(paths, sources)


class _Deeper:
    """Layers that are the identity, after activations."""

    def __init__(self, graph: Graph, edit: Edit) -> None:
        self._graph = graph
        self._edit = edit
        self._free = FreePaths(graph)

    def __call__(self, block: Block, by: int) -> _Inserted | _Stopped:
        nodes = [self._graph.nodes[path] for path in block.nodes]
        found = [i for i, n in enumerate(nodes) if n.op.name in IDEMPOTENT]
        if not found:
            return _Stopped(
                nodes[-1].path, "it has no activation that changes nothing when applied again (relu, relu6)"
            )
        activation = nodes[found[-1]]
        layers = [
            n for n in nodes[: found[-1]] if isinstance(n.op, (Convolution, Linear)) and self._fits(n, activation)
        ]
        if not layers:
            return _Stopped(activation.path, f"no layer before {activation.op.name} %{activation.path} has its shape")
        depth = self._depths(block)
        layer = max(layers, key=lambda n: (depth[n.path], volume(self._weight(n).shape[2:])))
        norms = [n for n in nodes if isinstance(n.op, BatchNorm)]
        last = activation.value
        paths: list[str] = []
        for _ in range(by):
            path = self._free.after(layer.path)
            last = self._layer(path, layer, norms[-1] if norms else None, activation, last)
            paths.append(path)
        read_instead(self._edit, self._graph, activation.value, last)
        return _Inserted(paths, {})

    def _fits(self, layer: Node, activation: Node) -> bool:
        a, b = layer.types[0], activation.types[0]
        axis = 1 if isinstance(layer.op, Convolution) else a.rank - 1
        return a.rank == b.rank and a.shape[axis] == b.shape[axis] and isinstance(a.shape[axis], int)

    def _depths(self, block: Block) -> dict[str, int]:
        """The number of nodes on the longest way to each: the branch that is deepest is what a block is about."""
        found: dict[str, int] = {}
        for path in block.nodes:
            read = [r.node for r in self._graph.nodes[path].refs if isinstance(r, Value)]
            found[path] = 1 + max((found.get(p, 0) for p in read), default=0)
        return found

    def _layer(self, path: str, like: Node, norm: Node | None, activation: Node, given: Value) -> Value:
        """The identity as a layer of this kind, with the normalisation and the activation."""
        edit, origin = self._edit, activation.origin
        edit.acting("deepen", activation.path)
        old = self._weight(like)
        op, weight = _identity(like, old, f"{path}.weight")
        refs: list[Ref | None] = [edit.parameter(weight)]
        if like.inputs[2] is not None:
            bias = self._graph.type(like.inputs[2])
            refs.append(edit.parameter(zeros(Parameter(f"{path}.bias", bias, Initialiser("zeros")))))
        made = edit.add(path, op, given, *refs, *[None] * (2 - len(refs)), origin=origin)
        if norm is not None:
            assert isinstance(norm.op, BatchNorm)
            made = edit.add(
                f"{path}_norm", norm.op, made.value, *self._standing(f"{path}_norm", norm.op, old), origin=origin
            )
        return edit.add(f"{path}_{activation.op.name}", activation.op, made.value, origin=origin).value

    def _weight(self, layer: Node) -> TensorType:
        assert layer.inputs[1] is not None
        return self._graph.type(layer.inputs[1])

    def _standing(self, path: str, op: BatchNorm, weight: TensorType) -> list[Ref]:
        """A batch norm that has seen mean 0 and variance 1, with a scale that undoes what `eps` takes from it."""
        kind = TensorType(weight.dtype, (weight.shape[0],))
        numbers = {"weight": sqrt(1 + op.eps), "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
        made: list[Ref] = []
        for name, number in numbers.items():
            buffer = name.startswith("running")
            parameter = Parameter(f"{path}.{name}", kind, Initialiser("zeros"), not buffer, buffer)
            made.append(self._edit.parameter(constant(parameter, number)))
        return made


def _identity(like: Node, weight: TensorType, path: str) -> tuple[Convolution | Linear, Parameter]:
    """The operator and weight of a layer of this kind that passes on its input."""
    op = like.op
    out, _, *kernel = weight.shape
    if isinstance(op, Linear):
        kind = TensorType(weight.dtype, (out, out))
        return op, _passing(path, kind, 1)
    assert isinstance(op, Convolution)
    size = tuple(k if isinstance(k, int) and k % 2 else 1 for k in kernel)
    assert isinstance(out, int)
    padding = tuple((k // 2, k // 2) for k in size)
    ones = tuple(1 for _ in size)
    made = replace(cast(Any, op), stride=ones, padding=padding, dilation=ones)
    return made, _passing(path, TensorType(weight.dtype, (out, out // op.groups, *size)), op.groups)


def _passing(path: str, kind: TensorType, groups: int) -> Parameter:
    data = Made(partial(_dirac, kind, groups), (), kind)
    return Parameter(path, kind, Initialiser("given"), data=data)


def _dirac(kind: TensorType, groups: int) -> Array:
    """Ones where a channel meets itself, in the middle of the kernel (as `torch.nn.init.dirac_`)."""
    import numpy

    out, inner, *size = cast("tuple[int, ...]", kind.shape)
    made = numpy.zeros((out, inner, *size))
    every = numpy.arange(out)
    made[(every, every % inner, *(k // 2 for k in size))] = 1
    return made
