"""Compute products in half precision, and what is delicate in single."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal

from ..contract import Contract
from ..diagnostic import Diagnostic, NetcError, nearest
from ..graph import Edit, Graph, Node, ParameterRef, Ref, Value
from ..operators.arithmetic import Cast
from ..operators.creation import Constant
from ..operators.operator import OPERATORS
from ..types import DType
from .fold_constants import constants
from .register import graph_pass

HALF = frozenset(
    {
        "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear",
        "matmul", "einsum", "embedding", "scaled_dot_product_attention",
    }
)  # fmt: skip
"""Operators that are always computed in half precision: products, whose sums hardware keeps in single."""

EITHER = frozenset(
    {
        "relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "gelu", "silu", "hardsigmoid", "hardswish",
        "sigmoid", "tanh", "mish", "glu", "add", "sub", "mul", "neg", "abs", "maximum", "minimum", "where",
        "clip", "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d", "gather", "index_select", "flip",
        "roll", "pad", "reshape", "flatten", "permute", "transpose", "squeeze", "unsqueeze", "expand", "repeat",
        "repeat_interleave", "slice", "split", "chunk", "concat", "stack", "rearrange", "pixel_shuffle",
        "pixel_unshuffle", "unfold", "dropout", "drop_path", "stop_gradient", "identity", "select_phase",
    }
)  # fmt: skip
"""Operators that follow their inputs: in half precision where all of them are. The others, normalisations, softmax,
exponentials and sums of many numbers among them, stay in single."""

Half = Literal["bf16", "f16"]


@graph_pass(contract=Contract("approx", 0.1))
def mixed_precision(graph: Graph, dtype: Half = "bf16", keep: Collection[str] = ()) -> Graph:
    """The graph with convolutions, products and attention in `dtype`, with normalisations, softmax and reductions in
    f32, and what lies between them in the dtype of its inputs. Inputs and outputs stay f32, and operators in `keep`.

    No value is cast twice, or there and back; casts of weights are computed by `fold_constants`, which halves what is
    stored.

    Before:
    ```net
    input %x: f32[N, 8]

    param @a.weight: f32[8, 8] = fan_in_uniform
    param @b.weight: f32[4, 8] = fan_in_uniform

    %a: f32[N, 8] = linear(%x, @a.weight)
    %relu: f32[N, 8] = relu(%a)
    %b: f32[N, 4] = linear(%relu, @b.weight)
    %softmax: f32[N, 4] = softmax(%b, dim = 1)

    return %softmax
    ```
    After (dtype = bf16):
    ```net
    input %x: f32[N, 8]

    param @a.weight: f32[8, 8] = fan_in_uniform
    param @b.weight: f32[4, 8] = fan_in_uniform

    %x.bf16: bf16[N, 8] = cast(%x, dtype = bf16)
    %a.weight.bf16: bf16[8, 8] = cast(@a.weight, dtype = bf16)
    %a: bf16[N, 8] = linear(%x.bf16, %a.weight.bf16)
    %relu: bf16[N, 8] = relu(%a)
    %b.weight.bf16: bf16[4, 8] = cast(@b.weight, dtype = bf16)
    %b: bf16[N, 4] = linear(%relu, %b.weight.bf16)
    %b.f32: f32[N, 4] = cast(%b, dtype = f32)
    %softmax: f32[N, 4] = softmax(%b.f32, dim = 1)

    return %softmax
    ```

    The contract is approximate: outputs differ by at most 0.1 of the largest. With bf16 and random weights the models
    of `specs/` differ by 0.004 to 0.04, but Inception-v4, which is deep and magnifies every difference, by 0.3; with
    f16 an eighth of that, but numbers above 65504 overflow. A choice (`argmax`, `topk`) between nearly equal numbers
    may fall otherwise.

    Refuses f64 and integers, which stay as they are.

    Raises:
        NetcError: for a name in `keep` that is no operator (`unknown-operator`).
    """
    unknown = [name for name in keep if name not in OPERATORS]
    if unknown:
        message = f"mixed_precision cannot keep {unknown[0]}, which is no operator"
        raise NetcError([Diagnostic("unknown-operator", message, fix=nearest(unknown[0], OPERATORS))])
    return _Mixing(graph, DType(dtype), frozenset(keep)).run()


class _Mixing:
    """One sweep. Every f32 value has one form of its own, and the other one is made when it is first asked for."""

    def __init__(self, graph: Graph, half: DType, keep: frozenset[str]) -> None:
        self._graph = graph
        self._half = half
        self._keep = keep
        self._edit: Edit = graph.edit("mixed_precision")
        self._fixed = constants(graph)
        self._lowered: set[str] = set()
        """Nodes that are computed in half precision."""
        self._other: dict[Ref, Ref] = {}
        """The form of a value that is not its own."""

    def run(self) -> Graph:
        for node in self._graph.nodes.values():
            if self._takes_half(node):
                self._lowered.add(node.path)
                self._edit.set(node.path, inputs=[self._as(i, half=True) for i in node.inputs])
            elif self._lowered:
                self._edit.set(node.path, inputs=[self._as(i, half=False) for i in node.inputs])
        for name, ref in self._graph.outputs.items():
            self._keep_type(name, ref, self._edit.output)
        for name, ref in self._graph.taps.items():
            self._keep_type(name, ref, self._edit.tap)
        return self._without_orphans(self._edit.done())

    def _takes_half(self, node: Node) -> bool:
        floats = [r for r in node.refs if self._graph.type(r).dtype.is_float]
        results = [t.dtype for t in node.types if t.dtype.is_float]
        kinds = {*results, *(self._graph.type(r).dtype for r in floats)}
        if not floats or kinds != {DType.F32} or node.path in self._fixed or node.op.name in self._keep:
            return False
        if node.op.name in HALF:
            return True
        loose = [r for r in floats if not self._is_half(r)]
        free = node.op.name == "prelu" or all(self._is_number(r) for r in loose)
        return node.op.name in EITHER and len(loose) < len(floats) and free

    def _is_half(self, ref: Ref) -> bool:
        return isinstance(ref, Value) and ref.node in self._lowered

    def _is_number(self, ref: Ref) -> bool:
        """Whether it is a single number, which takes the precision of what it is combined with."""
        return self._graph.type(ref).elements == 1 and (isinstance(ref, ParameterRef) or ref.node in self._fixed)

    def _as(self, ref: Ref | None, *, half: bool) -> Ref | None:
        """An f32 value of the graph in half precision, or in single; other values as they are."""
        if ref is None or self._graph.type(ref).dtype is not DType.F32 or self._is_half(ref) == half:
            return ref
        if ref not in self._other:
            self._other[ref] = self._cast(ref, self._half if half else DType.F32)
        return self._other[ref]

    def _cast(self, ref: Ref, dtype: DType) -> Ref:
        if isinstance(ref, ParameterRef):
            return self._edit.add(self._edit.fresh(f"{ref.parameter}.{dtype}"), Cast(dtype), ref).value
        node = self._graph.nodes[ref.node]
        path = self._edit.fresh(f"{node.path}.{dtype}")
        if isinstance(node.op, Constant):
            op = Constant(node.op.value, dtype)
            return self._edit.add(path, op, phase=node.phase, origin=node.origin).value
        return self._edit.add(path, Cast(dtype), ref, phase=node.phase, origin=node.origin).value

    def _without_orphans(self, mixed: Graph) -> Graph:
        """Without the constants that are only used in half precision now."""
        kept = {*mixed.outputs.values(), *mixed.taps.values(), *mixed.users}
        edit = mixed.edit("mixed_precision")
        for path, node in self._graph.nodes.items():
            if isinstance(node.op, Constant) and node.value in self._graph.users and node.value not in kept:
                edit.remove(path)
        return edit.done()

    def _keep_type(self, name: str, ref: Ref, put: Callable[[str, Ref], None]) -> None:
        single = self._as(ref, half=False)
        if single is not None and single != ref:
            put(name, single)
