"""Winograd's minimal filtering: convolutions of 3 × 3, stride 1, with 2.25 or 4 times fewer multiplications.

An image is cut into tiles of m × m results, each of which reads (m + 2)². Tiles and weights are transformed, multiplied
position by position, which for all channels is one matrix product a position, and the products transformed back
(Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016, arXiv:1509.09308, section 4).

The error grows with m. The transforms evaluate polynomials at 0, ∞ and points of which those of Lavin and Gray for
m = 4, ±1 and ±2, are a bad choice: with ±2/3 and ±3/2 (reciprocal, of opposite signs, as Barabasz, Anderson, Soodhalter
and Gregg recommend in "Error analysis and improving the accuracy of Winograd convolution for deep neural networks",
2020, arXiv:1803.10986) the error is less than half. The root of the mean squared error, relative to that of results, is
at most 5 units of float32's rounding, 2⁻²⁴, for m = 2 and 16 for m = 4 (measured for 64 to 512 channels: 3 to 4, and 8
to 12; direct convolution, summed in order: 7 to 20), which tests hold these kernels to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import prod
from typing import Any

import numpy as np

from ....compiler.types import DType, TensorType
from ..half import DTYPES, HALF, single
from ..index import literal
from ..kernel import Kernel, Pattern, View
from ..lower import Lowering
from ..machine import Machine
from ..tensor import Tensor, channels_last
from ..untyped import build as T
from ..untyped import tirx
from .numeric import cast, const, zero
from .product import product
from .program import written

POINTS = {
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    4: (Fraction(0), Fraction(2, 3), Fraction(-2, 3), Fraction(3, 2), Fraction(-3, 2)),
}
"""Where polynomials are evaluated, besides at infinity, by the size of a tile of results."""

OFFERED = {4: 4, 2: 3}
"""How many plans to offer."""

FEW = 64
"""Channels below which tiles of 4 × 4 are not the default: in U-Net's last layers they save 3 % of ONNX Runtime's time,
and double the error of the network."""

FORTH = {4: 230.0, 2: 78.0}
BACK = {4: 220.0, 2: 70.0}
"""Cycles to transform a vector of tiles of the input, and back; measured on Zen 4 with AVX-512."""
DIRECT = 1.05
"""Cycles of direct convolution for each vector multiplied."""
NEAR, FAR = 12.0, 8.0
"""Bytes a cycle that one core reads of weights from the third-level cache, and all cores from memory."""
SHARED = 12 << 20
"""Bytes of weights that are taken to stay in a third-level cache until the next run."""

Matrix = tuple[tuple[Fraction, ...], ...]


@cache
def transforms(m: int) -> tuple[Matrix, Matrix, Matrix]:
    """A, G and B of `y = A · ((G · g) ∘ (B · d))`: y the m correlations of m + 2 numbers d with 3 weights g."""
    points = POINTS[m]
    last = len(points)
    output = [(*(p**i for p in points), Fraction(i == m - 1)) for i in range(m)]
    weights: list[tuple[Fraction, ...]] = []
    inputs: list[tuple[Fraction, ...]] = []
    for p in points:
        others = [q for q in points if q != p]
        scale = prod((p - q for q in others), start=Fraction(1))
        weights.append(tuple(p**i / scale for i in range(3)))
        inputs.append((*_with_roots(others), Fraction(0)))
    weights.append((Fraction(0), Fraction(0), Fraction(1)))
    inputs.append(_with_roots(points))
    assert len(inputs) == last + 1 == m + 2
    return tuple(output), tuple(weights), tuple(inputs)


def _with_roots(roots: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """Coefficients of ∏ (x - root), the lowest power first."""
    found = [Fraction(1)]
    for root in roots:
        found = [a - root * b for a, b in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return tuple(found)


@dataclass(frozen=True)
class Plan:
    """How to go about it: tiles of `m` × `m` results, of which a task takes `count`, and of output channels one in
    `shares`; products of `height` tiles by `width` output channels are summed in registers."""

    m: int
    count: int
    height: int
    width: int
    shares: int

    def __str__(self) -> str:
        return f"winograd{self.m} {self.count} {self.height} {self.width} {self.shares}"


def read(candidate: str) -> Plan | None:
    """A plan from a candidate; None for direct convolution."""
    kind, *numbers = candidate.split()
    if kind == "direct":
        return None
    count, height, width, shares = map(int, numbers)
    return Plan(int(kind.removeprefix("winograd")), count, height, width, shares)


def plans(low: Lowering, x: Tensor, weight: Tensor, type: TensorType, each: int = 1) -> list[str]:
    """Candidates for a convolution of one group, of stride and dilation 1, the best by estimate first; one is `direct`,
    which multiplies `each` so many vectors at once.

    None where the transforms would not go by whole vectors of channels, weights are not known at compile time, or the
    image is not two-dimensional or of symbolic size; a symbolic batch is taken for a single image.
    """
    lanes = low.machine.lanes
    if weight.type.shape[2:] != (3, 3) or type.dtype not in (DType.F32, *HALF) or not weight.constant:
        return []
    outputs, inputs = weight.type.shape[:2]
    batch, _, *space = type.shape
    known = all(isinstance(d, int) for d in (*space, *x.type.shape[2:], outputs, inputs))
    if not known or int(str(outputs)) % lanes or int(str(inputs)) % lanes:
        return []
    rows, columns = (int(str(d)) for d in space)
    work = _Work(batch if isinstance(batch, int) else 1, rows, columns, int(str(inputs)), int(str(outputs)))
    return work.plans(low.machine, each)


@dataclass(frozen=True)
class _Work:
    """A convolution to be estimated, in cycles of a core that multiplies and adds one vector in each."""

    batch: int
    rows: int
    columns: int
    inputs: int
    outputs: int

    def plans(self, machine: Machine, each: int) -> list[str]:
        best: list[tuple[float, str]] = [(self._direct(machine) / each, "direct")]
        for m, most in OFFERED.items():
            found = sorted((self._cycles(plan, machine), str(plan)) for plan in self._all(m, machine))
            best.extend(found[:most])
        # Where larger tiles gain least they come last, for what their errors do to whole networks.
        few = self.inputs < FEW or self.outputs < FEW
        return [text for _, text in sorted(best, key=lambda c: (few and c[1].startswith("winograd4"), c))]

    def _direct(self, machine: Machine) -> float:
        places = self.batch * self.rows * self.columns
        return DIRECT * 9 * places * self.inputs * self.outputs / machine.lanes / machine.threads

    def _tiles(self, m: int) -> int:
        return self.batch * -(-self.rows // m) * -(-self.columns // m)

    def _all(self, m: int, machine: Machine) -> Iterator[Plan]:
        tiles = self._tiles(m)
        for vectors in (v for v in (1, 2, 4) if self.outputs % (v * machine.lanes) == 0):
            panels = self.outputs // (vectors * machine.lanes)
            most = machine.accumulators * 4 // 7 // vectors  # sums of parts take as many registers again
            for height in range(2, min(most, tiles) + 1):
                for groups in range(1, min(16, -(-tiles // height)) + 1):
                    for shares in (s for s in (1, 2, 4, 8) if panels % s == 0 and s <= 2 * machine.threads):
                        yield Plan(m, groups * height, height, vectors * machine.lanes, shares)

    def _cycles(self, plan: Plan, machine: Machine) -> float:
        vectors, positions = plan.width // machine.lanes, (plan.m + 2) ** 2
        tasks = -(-self._tiles(plan.m) // plan.count) * plan.shares
        panels = self.outputs // plan.width // plan.shares
        held = 4 * positions * plan.count * (self.inputs + plan.width)
        crowded = 1 + 0.1 * max(0.0, held / machine.cache - 1)
        tile = plan.height * vectors
        step = (tile + 0.1 * (plan.height + vectors) + 1) / min(1.0, tile / 12) * (1.0 if vectors == 2 else 1.07)
        product = positions * (plan.count // plan.height) * self.inputs * step * crowded
        # All weights are read for each task, from further away than the second-level cache if they are many.
        read = 4 * positions * self.inputs * plan.width / NEAR
        each = plan.count * vectors * BACK[plan.m] + max(product, read) + 0.2 * read
        task = plan.count * self.inputs / machine.lanes * FORTH[plan.m] + panels * each
        weights = 4 * positions * self.inputs * self.outputs
        far = weights / FAR if weights > SHARED else 0.0
        return max(-(-tasks // machine.threads) * task, far) + 0.2 * far


def winograd(
    low: Lowering,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    type: TensorType,
    padding: Sequence[tuple[int, int]],
    plan: Plan,
) -> Tensor:
    """`x` [N, C, H, W] with `weight` [F, C, 3, 3]; C and F in whole vectors, F in whole panels of the plan.

    Half precision is read and rounded, and all between is computed in single.
    """
    if type.dtype in HALF:
        return low.converted(winograd(low, x, weight, bias, single(type), padding, plan), type)
    order = channels_last(4)
    x = low.reorder(x, order)
    packed = _packed(low, weight, plan)
    tops = (padding[0][0], padding[1][0])

    def write(kernel: Kernel, views: Sequence[View], out: Any) -> None:
        _Loops(kernel, plan, views, x.type, type, tops, low.machine, out).write()

    operands = [x, packed, *([bias] if bias is not None else [])]
    return written(low, "winograd", operands, type, write, order=order, pattern=Pattern.FUSABLE)


def _packed(low: Lowering, weight: Tensor, plan: Plan) -> Tensor:
    """The weights transformed: `[F/width, (m + 2)², C, width]`."""
    outputs, inputs, *_ = (low.known(d, "every size of the weight") for d in weight.type.shape)
    factors = np.array(transforms(plan.m)[1], np.float64)
    both = np.einsum("ia,jb->ijab", factors, factors).reshape(-1, 9)
    type = single(TensorType(weight.type.dtype, (outputs // plan.width, len(both), inputs, plan.width)))

    def element(index: Sequence[Any], w: View, both: View) -> Any:
        panel, position, c, lane = index
        total: Any = None
        for tap in range(9):
            y, x = divmod(tap, 3)
            value = cast(w[(panel * literal(plan.width) + lane, c, literal(y), literal(x))], "float64")
            term = both[(position, literal(tap))] * value
            total = term if total is None else total + term
        return cast(total, w.dtype)

    def make() -> Tensor:
        return low.map("transform", [weight, low.array(both, DType.F64)], type, element)

    return low.once(("winograd", *weight.key, plan.m, plan.width), make)


def _pairs(size: int) -> list[tuple[int, ...]]:
    """Rows of a transform of the input that share what they are made of: those of opposite points."""
    return [(0, size - 1), *((k, k + 1) for k in range(1, size - 1, 2))]


class _Loops:
    """Loops over tasks; in each its tiles are transformed, then panel by panel multiplied and transformed back."""

    def __init__(
        self,
        kernel: Kernel,
        plan: Plan,
        views: Sequence[View],
        given: TensorType,
        type: TensorType,
        tops: tuple[int, int],
        machine: Machine,
        out: Any,
    ) -> None:
        self.plan, self.out, self.machine = plan, out, machine
        self.x, self.weight, *self.bias = views
        self.dtype = DTYPES[type.dtype]
        self.size = plan.m + 2
        _, self.inputs, self.height, self.width = (d if isinstance(d, int) else 0 for d in given.shape)
        _, self.outputs, self.rows, self.columns = (d if isinstance(d, int) else 0 for d in type.shape)
        self.tops = tops
        self.down, self.across = -(-self.rows // plan.m), -(-self.columns // plan.m)
        self.tiles: Any = kernel.dim(type.shape[0]) * literal(self.down * self.across)
        self.lanes = machine.lanes

    def write(self) -> None:
        p = self.plan
        each = literal(p.count)
        blocks = tirx.floordiv(self.tiles + each - literal(1), each)
        with T.parallel(literal(0), blocks * literal(p.shares)) as task:
            begin = tirx.floordiv(task, literal(p.shares)) * each
            share = tirx.floormod(task, literal(p.shares))
            given = T.alloc_buffer(
                tuple(
                    map(literal, (self.size**2, p.count // p.height, self.inputs // self.lanes, p.height, self.lanes))
                ),
                self.dtype,
            )
            products = T.alloc_buffer(tuple(map(literal, (p.count, self.size**2, p.width))), self.dtype)
            with T.serial(literal(0), each) as i:
                self._transform(begin, i, given)
            panels = self.outputs // p.width // p.shares
            with T.serial(literal(0), literal(panels)) as n:
                panel = share * literal(panels) + n
                with (
                    T.serial(literal(0), literal(self.size**2)) as position,
                    T.serial(literal(0), literal(p.count // p.height)) as group,
                ):
                    self._product(given, panel, position, group, products)
                with T.serial(literal(0), each) as i:
                    self._result(begin, i, panel, products)

    def _tile(self, begin: Any, i: Any) -> tuple[Any, Any, Any]:
        """Image, row and column of the first result of a tile; what is too many repeats the last one."""
        tile = tirx.min(begin + i, self.tiles - literal(1))
        n = tirx.floordiv(tile, literal(self.down * self.across))
        place = tirx.floormod(tile, literal(self.down * self.across))
        m = literal(self.plan.m)
        return n, tirx.floordiv(place, literal(self.across)) * m, tirx.floormod(place, literal(self.across)) * m

    def _transform(self, begin: Any, i: Any, given: Any) -> None:
        """A tile of the input, transformed: from within the image as it is, at the border with zeros around."""
        n, y, x = self._tile(begin, i)
        y, x = y - literal(self.tops[0]), x - literal(self.tops[1])
        size, group = self.size, literal(self.plan.height)
        inside = tirx.all(
            y >= literal(0), x >= literal(0), y <= literal(self.height - size), x <= literal(self.width - size)
        )

        def plain(a: int, b: int, c: Any) -> Any:
            return self.x[(n, c, y + literal(a), x + literal(b))]

        def masked(a: int, b: int, c: Any) -> Any:
            row, column = y + literal(a), x + literal(b)
            exists = tirx.all(
                row >= literal(0), row < literal(self.height), column >= literal(0), column < literal(self.width)
            )
            # No `Select` of a place kept within the image: TVM knows in it that the place is, and drops what keeps it.
            return tirx.if_then_else(exists, self.x[(n, c, row, column)], zero(self.dtype))

        def vectors(element: Callable[[int, int, Any], Any]) -> None:
            for rows in _pairs(size):
                with T.serial(literal(0), literal(self.inputs // self.lanes)) as v:

                    def read(a: int, b: int, lane: Any, v: Any = v) -> Any:
                        return element(a, b, v * literal(self.lanes) + lane)

                    def store(a: int, b: int, lane: Any, value: Any, v: Any = v) -> None:
                        at = [literal(a * size + b), i // group, v, i % group, lane]
                        T.buffer_store(given, value, at)

                    self._both_ways(transforms(self.plan.m)[2], rows, read, store)

        with T.If(inside):
            with T.Then():
                vectors(plain)
            with T.Else():
                vectors(masked)

    def _both_ways(
        self,
        matrix: Matrix,
        rows: Sequence[int],
        read: Callable[[int, int, Any], Any],
        store: Callable[[int, int, Any, Any], None],
    ) -> None:
        """Some rows of `matrix · X · matrixᵀ`, of vectors X."""
        columns = len(matrix[0])
        half = T.alloc_buffer(tuple(map(literal, (len(rows), columns, self.lanes))), self.dtype, scope="local")
        for b in range(columns):
            for at, a in enumerate(rows):
                with T.vectorized(literal(0), literal(self.lanes)) as lane:
                    column = [read(k, b, lane) for k in range(columns)]
                    T.buffer_store(half, self._combined(matrix, a, column), [literal(at), literal(b), lane])
        for at, a in enumerate(rows):
            for b in range(len(matrix)):
                with T.vectorized(literal(0), literal(self.lanes)) as lane:
                    row = [half[literal(at), literal(k), lane] for k in range(columns)]
                    store(a, b, lane, self._combined(matrix, b, row))

    def _combined(self, matrix: Matrix, row: int, values: Sequence[Any]) -> Any:
        """A row of the matrix times values, written such that what two rows share is the same expression."""
        factors = matrix[row]
        if len(matrix) < len(factors):  # back: values of opposite points in pairs
            terms: list[tuple[Fraction, Any]] = [(factors[0], values[0])]
            for k in range(1, len(factors) - 1, 2):
                a, b = factors[k], factors[k + 1]
                assert abs(a) == abs(b)
                terms.append((a, values[k] + values[k + 1] if a == b else values[k] - values[k + 1]))
            return self._sum([*terms, (factors[-1], values[-1])])
        even, odd = ([(f, v) for f, v in zip(factors[k::2], values[k::2], strict=True) if f] for k in (0, 1))
        if not even or not odd:
            return self._sum(even or odd)
        sign = 1 if odd[-1][0] > 0 else -1
        left, right = self._sum(even), self._sum([(sign * f, v) for f, v in odd])
        return left + right if sign > 0 else left - right

    def _sum(self, terms: Sequence[tuple[Fraction, Any]]) -> Any:
        total: Any = None
        for factor, value in terms:
            if not factor:
                continue
            term = value if abs(factor) == 1 else value * const(float(abs(factor)), self.dtype)
            if total is None:
                total = term if factor > 0 else zero(self.dtype) - term
            else:
                total = total + term if factor > 0 else total - term
        return total

    def _product(self, given: Any, panel: Any, position: Any, group: Any, products: Any) -> None:
        p = self.plan

        def store(i: int, lane: Any, value: Any) -> None:
            T.buffer_store(products, value, [group * literal(p.height) + literal(i), position, lane])

        # Vectors of channels are summed each for itself: in order, errors are 1.4 × for 128 channels, 2.5 × for 512.
        product(
            (literal(self.inputs // self.lanes), literal(self.lanes)),
            p.height,
            p.width,
            self.machine,
            self.dtype,
            left=lambda i, v, k: given[position, group, v, literal(i), k],
            right=lambda v, k, lane: self.weight[(panel, position, v * literal(self.lanes) + k, lane)],
            store=store,
            parts=1,
        )

    def _result(self, begin: Any, i: Any, panel: Any, products: Any) -> None:
        n, y, x = self._tile(begin, i)
        m, lanes = self.plan.m, literal(self.lanes)
        with T.serial(literal(0), literal(self.plan.width // self.lanes)) as v:
            sums = T.alloc_buffer((literal(m), literal(m), lanes), self.dtype, scope="local")
            self._both_ways(
                transforms(m)[0],
                range(m),
                lambda a, b, lane: products[i, literal(a * self.size + b), v * lanes + lane],
                lambda a, b, lane, value: T.buffer_store(sums, value, [literal(a), literal(b), lane]),
            )
            for a, b in ((a, b) for a in range(m) for b in range(m)):
                row, column = y + literal(a), x + literal(b)
                # The last tile may reach beyond the image, unless its first rows and columns fill it.
                checks = [row < literal(self.rows)] if a >= (self.rows % m or m) else []
                checks += [column < literal(self.columns)] if b >= (self.columns % m or m) else []
                with ExitStack() as inside:
                    if checks:
                        inside.enter_context(T.If(tirx.all(*checks)))
                        inside.enter_context(T.Then())
                    with T.vectorized(literal(0), lanes) as lane:
                        f = panel * literal(self.plan.width) + v * lanes + lane
                        value = sums[literal(a), literal(b), lane]
                        for bias in self.bias:
                            value = value + bias[(f,)]
                        T.buffer_store(self.out, value, [n, row, column, f])
