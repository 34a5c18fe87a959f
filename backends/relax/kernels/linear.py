"""Matrix products: rows of the left operand by columns of the right, which lie contiguous or are packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....compiler.operators import linear as op
from ....compiler.types import Dim, TensorType, volume
from ..choice import Fact, size
from ..dot import Dot
from ..dot import dot as dot_product
from ..half import DTYPES
from ..index import flatten, literal, unflatten
from ..kernel import Kernel, Pattern, View
from ..lower import Inputs, Lowering, Types, rules
from ..machine import Machine
from ..schedule.tile import DOT, KEY
from ..tensor import Order, Tensor, logical, plain
from ..untyped import te, tirx
from .numeric import cast, zero
from .reduction import SUM, reduce
from .tiling import padded, read, symbolic_width, tiles, written
from .words import divides, halves
from .words import numbers as in_word
from .words import packed as words

LARGE = 4
"""Second-level caches that a left operand fills if it is not to be read once for each column of tiles."""

Epilogue = Callable[..., Any]
"""The element of a result from its accumulated value and its logical index: `(value, index, kernel, *views)`."""


def linear(
    low: Lowering, x: Tensor, weight: Tensor, bias: Tensor | None, type: TensorType, dot: Dot | None = None
) -> Tensor:
    """`x` [..., K] by `weight` [F, K] and `bias` [F]: all leading axes are rows, in the order they are stored.

    With a `dot`, of integers, the sums of its products.
    """
    rank = x.type.rank
    columns, inner = weight.type.shape
    if not isinstance(columns, int):
        made = matmul(low, x, low.renamed(weight, (1, 0)), type, name="linear")
        return made if bias is None else low.elementwise("bias", [made, bias], type, lambda a, b: a + b)
    order = (*(a for a in x.order if a != rank - 1), rank - 1)
    x = low.reorder(x, order)
    lead = [x.type.shape[a] for a in order[:-1]]
    rows = volume(lead)
    dot = dot or halves(low, x, weight)
    dot = dot if divides(dot, inner) else None
    dtype = x.kept if dot else type.dtype
    facts: dict[str, Fact] = {"rows": size(rows), "columns": columns, "inner": size(inner), "dtype": dtype.value}
    each = x.kept.bytes
    candidates = [written(tile) for tile in tiles(rows, columns, low.machine, apart=_bytes(inner, each))]
    blocks = _blocks(rows, columns, inner, each, low.machine)
    chosen = low.choose("linear", facts, {"tile": candidates, "block": blocks})
    height, width = read(chosen["tile"])
    block = _tiles_of(chosen["block"], rows, height)
    right = words(low, weight, width, dot) if dot else pack(low, low.renamed(weight, (1, 0)), width)

    def body(kernel: Kernel, x: View, w: View, *bias: View) -> Any:
        dtype = x.dtype
        k = kernel.axis(inner // dot.size if dot and isinstance(inner, int) else inner, "k")
        extents = [kernel.dim(d) for d in lead]
        last = kernel.dim(rows) - literal(1)
        whole, ragged = kernel.whole(rows, height)

        def product(i: Any, f: Any) -> Any:
            at = unflatten(tirx.min(i, last) if ragged else i, extents)
            factor = w[(f // literal(width), k.var, f % literal(width))]
            if dot is not None:
                kept = x.kept()
                numbers = in_word(lambda c: kept[logical(order, [*at, c])], k.var, dot)
                return te.sum(dot_product(dot, numbers, factor), axis=[k])
            value = x[logical(order, [*at, k.var])]
            return te.sum(cast(value, dtype) * cast(factor, dtype), axis=[k])

        shape = [whole, padded(columns, width)]
        marks = {KEY: f"{height} {width} flat {block}"} | ({DOT: 1} if dot else {})
        total = kernel.stage(shape, product, "linear_sum", attributes=marks)

        def result(*index: Any) -> Any:
            value = total(flatten([index[a] for a in order[:-1]], extents), index[-1])
            for b in bias:
                value = value + cast(b[(index[-1],)], dtype)
            return cast(value, DTYPES[type.dtype])

        return kernel.stage(type.shape, result, order=order)

    operands = [x, right, *([bias] if bias is not None else [])]
    return low.kernel("linear", operands, [type], body, pattern=Pattern.FUSABLE, orders=[order])[0]


def _blocks(rows: Dim, columns: int, inner: Dim, each: int, machine: Machine) -> list[int]:
    """Rows to take through all columns at a time, the best first; 1 for those of a tile, 0 for all.

    Numbers have `each` so many bytes. Weights that stay in cache are gone through for each tile of rows, which is then
    read once; others are read once.
    """
    if not isinstance(inner, int) or inner * columns * each <= machine.cache:
        first = 1
    elif isinstance(rows, int) and rows * inner * each > LARGE * machine.cache:
        first = 256
    else:
        first = 0
    return [first, 0, 1, 64, 256]


def _tiles_of(block: int, rows: Dim, height: int) -> int:
    """Rows of a block as tiles, whose number divides that of all; 0 for all."""
    if not isinstance(rows, int) or block == 0:
        return min(block, 1)
    tiles = -(-rows // height)
    return next(n for n in range(max(1, min(tiles, block // height)), 0, -1) if tiles % n == 0)


def matmul(
    low: Lowering,
    a: Tensor,
    b: Tensor,
    type: TensorType,
    *,
    name: str = "matmul",
    order: Order | None = None,
    extra: Sequence[Tensor] = (),
    epilogue: Epilogue | None = None,
    inner: Dim | None = None,
) -> Tensor:
    """`a` [..., M, K] by `b` [..., K, N], leading axes broadcast; surplus columns of the result are zero.

    `order`: how to store the result, columns last. `extra`: what the epilogue reads besides. `inner`: how much of K.
    """
    order = order or plain(type.rank)
    *batch, rows, columns = type.shape
    inner = a.type.shape[-1] if inner is None else inner
    facts: dict[str, Fact] = {
        "batch": size(volume(batch)), "rows": size(rows), "columns": size(columns), "inner": size(inner),
        "constant": b.constant, "dtype": type.dtype.value,
    }  # fmt: skip
    side_by_side = a.order[-2:] == (a.type.rank - 2, a.type.rank - 1)
    stride = _bytes(a.type.shape[-1], a.kept.bytes) if side_by_side else 0
    wide = columns if isinstance(columns, int) else symbolic_width(low.machine)
    candidates = [written(tile) for tile in tiles(rows, wide, low.machine, apart=stride)]
    height, width = read(low.choose("matmul", facts, {"tile": candidates})["tile"])
    direct = not b.constant and b.order[-1] == b.type.rank - 1 and isinstance(columns, int) and columns % width == 0
    right = b if direct else pack(low, b, width)

    def body(kernel: Kernel, a: View, b: View, *views: View) -> Any:
        k = kernel.axis(inner, "k")
        dtype = DTYPES[type.dtype]
        last = kernel.dim(rows) - literal(1)
        whole, ragged = kernel.whole(rows, height)

        def product(*index: Any) -> Any:
            *at, i, j = index
            row = tirx.min(i, last) if ragged else i
            value = a.broadcast([*at, row, k.var])
            tile = [k.var, j] if direct else [j // literal(width), k.var, j % literal(width)]
            lead = at[len(at) - (len(b.shape) - len(tile)) :]
            factor = b[[*(literal(0) if d == 1 else i for i, d in zip(lead, b.type.shape, strict=False)), *tile]]
            return te.sum(cast(value, dtype) * cast(factor, dtype), axis=[k])

        shape = [*batch, whole, kernel.whole(columns, width)[0]]
        tile = f"{height} {width} batch {order.index(len(batch))}"
        total = kernel.stage(shape, product, f"{name}_sum", order=order, attributes={KEY: tile})

        def result(*index: Any) -> Any:
            value = total(*(index[a] for a in order))
            return cast(epilogue(value, index, kernel, *views) if epilogue else value, DTYPES[type.dtype])

        return kernel.stage(type.shape, result, order=order)

    return low.kernel(name, [a, right, *extra], [type], body, pattern=Pattern.FUSABLE, orders=[order])[0]


def _bytes(row: Dim, each: int) -> int:
    """How far apart in memory rows of so many elements begin; 0 where that is not known."""
    return row * each if isinstance(row, int) else 0


def pack(low: Lowering, b: Tensor, width: int) -> Tensor:
    """`[..., K, N]` as `[..., N/width, K, width]`, surplus columns zero."""

    def make() -> Tensor:
        *lead, inner, columns = b.type.shape
        tiles = padded(columns, width) // width
        ragged = not isinstance(columns, int) or columns % width != 0

        def element(index: Sequence[Any], b: View) -> Any:
            *at, tile, k, lane = index
            j = tile * literal(width) + lane
            value = b[(*at, k, j)]
            return tirx.if_then_else(j < b.shape[-1], value, zero(b.dtype)) if ragged else value

        return low.map("pack", [b], TensorType(b.type.dtype, (*lead, tiles, inner, width)), element)

    return low.once(("pack", *b.key, width), make)


@rules(op.Matmul)
def _matmul(low: Lowering, node: op.Matmul, inputs: Inputs, types: Types) -> Tensor:
    a, b = inputs
    (type,) = types
    if b.constant and b.type.rank == 2 and isinstance(b.type.shape[1], int):
        return linear(low, a, low.renamed(b, (1, 0)), None, type)
    if a.type.rank == 1:
        a = low.reshape(a, TensorType(a.type.dtype, (1, *a.type.shape)))
    if b.type.rank == 1:
        b = low.reshape(b, TensorType(b.type.dtype, (*b.type.shape, 1)))
    lead = type.shape[: max(a.type.rank, b.type.rank) - 2]
    whole = TensorType(type.dtype, (*lead, a.type.shape[-2], b.type.shape[-1]))
    return low.reshape(matmul(low, a, b, whole), type)


@rules(op.Embedding)
def _embedding(low: Lowering, node: op.Embedding, inputs: Inputs, types: Types) -> Tensor:
    low.require_within(inputs[0], inputs[1].type.shape[0])

    def element(index: Sequence[Any], x: View, weight: View) -> Any:
        *place, feature = index
        return weight[(within(x[place], weight.shape[0]), feature)]

    return low.map("embedding", list(inputs), types[0], element)


def within(position: Any, size: Any) -> Any:
    """A position read from data, kept inside an axis: what lies outside must not be read."""
    return tirx.max(tirx.min(cast(position, "int64"), size - literal(1)), literal(0))


@rules(op.Einsum)
def _einsum(low: Lowering, node: op.Einsum, inputs: Inputs, types: Types) -> Tensor:
    """From left to right, two terms at a time, each letter summed as soon as no later term has it."""
    terms, right = node.terms(tuple(t.type for t in inputs))
    have, letters = inputs[0], terms[0]
    for i, (tensor, term) in enumerate(zip(inputs[1:], terms[1:], strict=True), 1):
        later = set(right).union(*terms[i + 1 :])
        have, letters = _contracted(low, have, letters, tensor, term, later)
    return _summed(low, have, letters, right)


def _summed(low: Lowering, x: Tensor, letters: str, wanted: str) -> Tensor:
    """Sum over the axes whose letters are not wanted, and put the rest in order."""
    gone = [i for i, c in enumerate(letters) if c not in wanted]
    if gone:
        kept = TensorType(x.type.dtype, tuple(d for i, d in enumerate(x.type.shape) if i not in gone))
        x = reduce(low, "sum", [x], gone, kept, SUM, keepdim=False)
        letters = "".join(c for c in letters if c in wanted)
    return low.renamed(x, [letters.index(c) for c in wanted]) if letters != wanted else x


def _contracted(low: Lowering, a: Tensor, left: str, b: Tensor, right: str, later: set[str]) -> tuple[Tensor, str]:
    """The product of two terms as a matrix product: shared letters that go on are its batch, others are summed."""
    sizes = dict(zip(left, a.type.shape, strict=True)) | dict(zip(right, b.type.shape, strict=True))
    batch = "".join(c for c in left if c in right and c in later)
    inner = "".join(c for c in left if c in right and c not in later)
    rows = "".join(c for c in left if c not in right and c in later)
    columns = "".join(c for c in right if c not in left and c in later)

    def shaped(x: Tensor, letters: str, *groups: str) -> Tensor:
        x = _summed(low, x, letters, "".join(groups))
        lead = [sizes[c] for c in groups[0]]
        return low.reshape(x, TensorType(x.type.dtype, (*lead, *(volume(sizes[c] for c in g) for g in groups[1:]))))

    x, y = shaped(a, left, batch, rows, inner), shaped(b, right, batch, inner, columns)
    type = TensorType(a.type.dtype, (*x.type.shape[:-1], y.type.shape[-1]))
    made = matmul(low, x, y, type, name="einsum")
    letters = batch + rows + columns
    return low.reshape(made, TensorType(type.dtype, tuple(sizes[c] for c in letters))), letters
