"""How large a register tile to reduce into."""

from __future__ import annotations

from math import gcd

from ....compiler.types import Dim, Expression
from ..machine import Machine

SYMBOLIC_ROWS = (14, 4)
"""Heights to choose from where the number of rows is not known: at most, and at least if they are to divide it."""
PAGE, WAYS = 4096, 8
"""Rows so many bytes apart take the same few places of a first-level cache, in which each place holds so many lines."""
CROWDED = 0.78
"""Worth of a tile with more rows than these."""
RAGGED = 0.9
"""Worth of a tile whose last column is cut off: its results are stored one by one."""


def tiling(rows: Dim, columns: int, machine: Machine) -> tuple[int, int]:
    """Rows × columns of the tile to compute at once: the best of `tiles`."""
    return tiles(rows, columns, machine)[0]


def tiles(rows: Dim, columns: int, machine: Machine, most: int = 12, apart: int = 0) -> list[tuple[int, int]]:
    """Tiles of rows × columns to compute at once, the best first. Rows and columns are then padded to whole tiles.

    `apart` says how many bytes lie between two rows in memory, if that is known.

    Every step of the reduction loads one vector of weights for each column vector, one broadcast input for each row,
    and multiplies all pairs. The tile should be large (few loads for much arithmetic, and enough independent chains to
    hide the latency of a multiplication), fit the registers, and leave little padding.
    """
    scores: dict[tuple[int, int], float] = {}
    for width in _widths(columns, machine):
        vectors = -(-width // machine.lanes)
        tallest = max(1, machine.accumulators // vectors)
        heights = range(1, min(rows, tallest) + 1) if isinstance(rows, int) else (symbolic_height(rows, tallest),)
        for height in heights:
            score = _score(rows, columns, height, width, machine)
            scores[height, width] = round(
                score * (CROWDED if height > WAYS and apart and apart % PAGE == 0 else 1.0), 9
            )
    return sorted(scores, key=lambda tile: -scores[tile])[:most]


def written(tile: tuple[int, int]) -> str:
    """A tile as a candidate of a choice."""
    return f"{tile[0]} {tile[1]}"


def read(candidate: str) -> tuple[int, int]:
    """A tile from a candidate."""
    height, width = map(int, candidate.split())
    return height, width


def symbolic_height(rows: Dim, most: int) -> int:
    """Rows of a tile where their number is not known: a divisor of it, else 8 or a little less.

    The scheduler cannot prove that whole tiles cover `4·N` rows if the height and the factor have a common divisor,
    unless the one divides the other; so such heights are avoided.
    """
    assert isinstance(rows, Expression)
    factor = gcd(*(c for _, c in rows.terms))
    high, low = SYMBOLIC_ROWS
    dividing = [h for h in range(min(most, high), low - 1, -1) if factor % h == 0]
    return next(iter(dividing), next(h for h in range(min(most, 8), 0, -1) if gcd(h, factor) == 1))


def symbolic_width(machine: Machine) -> int:
    """The width of tiles where the number of columns is not known."""
    return 2 * machine.lanes


def channel_width(channels: int, machine: Machine) -> int:
    """Channels to compute at once where each is reduced for itself: the most vectors, at most four, that divide.

    1 where no vector does: LLVM then vectorises the loop over channels and peels its remainder.
    """
    widths = [v * machine.lanes for v in (4, 3, 2, 1)] + [w for w in (8, 4) if w < machine.lanes]
    return next((w for w in widths if channels % w == 0), 1)


def padded(extent: Dim, multiple: int) -> Dim:
    """The least multiple of `multiple` that is at least `extent`."""
    return (extent + (multiple - 1)) // multiple * multiple


def _widths(columns: int, machine: Machine) -> list[int]:
    """Candidates: whole vectors, or for few columns the least power of two that holds them."""
    lanes = machine.lanes
    if columns <= lanes // 2:
        return [1 << (columns - 1).bit_length()]
    return [v * lanes for v in (2, 4, 1, 8, 3) if v == 1 or v * lanes - columns < lanes]


def _score(rows: Dim, columns: int, height: int, width: int, machine: Machine) -> float:
    vectors = -(-width // machine.lanes)
    products = height * vectors
    chains = min(1.0, products / 12)
    loads = products / (products + 0.1 * (height + vectors) + 1)
    used = columns / (-(-columns // width) * vectors * machine.lanes)
    if isinstance(rows, int):
        used *= rows / (-(-rows // height) * height)
    if columns % width:
        used *= RAGGED
    return chains * loads * used * (0.93 if vectors != 2 else 1.0)
