"""What the stages of a chain of convolutions are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..index import literal
from ..untyped import tirx
from .block import number
from .expression import replaced


@dataclass(frozen=True)
class Frame:
    """How an image lies in a larger one filled with a constant: what is before it, and how large the whole is."""

    above: int
    left: int
    rows: int
    columns: int
    fill: Any


@dataclass(frozen=True)
class Head:
    """An input with padding around it, where a stage reads it as it is: `value` at `axes`, places in the image.

    `buffer` is what would hold the padded image; indices into it are what is to be read. A row y of results reads rows
    scale · y + first … scale · y + last of it, for `down` = (scale, first, last); columns likewise.
    """

    buffer: Any
    axes: tuple[Any, ...]
    value: Any
    frame: Frame
    height: int
    width: int
    down: tuple[int, int, int]
    across: tuple[int, int, int]

    def has_rows(self, y: Any) -> Any:
        """Whether all rows that a row of results reads are rows of the image."""
        scale, first, last = self.down
        top = y * literal(scale) + literal(first)
        bottom = y * literal(scale) + literal(last)
        return tirx.all(top >= literal(self.frame.above), bottom < literal(self.frame.above + self.height))

    def has_columns(self, x: int, count: int) -> bool:
        """Whether all columns that so many results from a column on read are columns of the image."""
        scale, first, last = self.across
        left = self.frame.left
        return x * scale + first >= left and (x + count - 1) * scale + last < left + self.width

    def read(self, index: Sequence[Any]) -> Any:
        """The element at an index that lies in the image."""
        n, y, x, c = index
        place = (n, y - literal(self.frame.above), x - literal(self.frame.left), c)
        return replaced(self.value, dict(zip(self.axes, place, strict=True)))

    def read_row(self, index: Sequence[Any]) -> Any:
        """The element at an index of a known column, whose row lies in the image."""
        column = number(index[2])
        assert column is not None
        return self.read(index) if 0 <= column - self.frame.left < self.width else self.frame.fill

    def read_any(self, index: Sequence[Any]) -> Any:
        y, x = index[1] - literal(self.frame.above), index[2] - literal(self.frame.left)
        inside = tirx.all(y >= literal(0), y < literal(self.height), x >= literal(0), x < literal(self.width))
        return tirx.if_then_else(inside, self.read(index), self.frame.fill)


@dataclass(frozen=True)
class Level:
    """A stage of a chain: `value` for each place `[n, y, x, c]` of the `shape`, which `axes` stand for.

    Where it reduces, `value` reads from `total` what comes of setting it to `term` in all `steps`. `scale`, `first` and
    `last` say which rows of `source` a row y reads: scale · y + first … scale · y + last.
    """

    shape: tuple[Any, int, int, int]
    axes: tuple[Any, ...]
    value: Any
    target: Any
    place: tuple[Any, ...]
    source: Any
    scale: int
    first: int
    last: int
    frame: Frame
    term: Any = None
    total: Any = None
    zero: Any = None
    steps: tuple[tuple[Any, int], ...] = ()
    inner: tuple[Any, ...] = ()
    """What stands for the place in `term`."""
    height: int = 1
    width: int = 1
    mode: str = ""
    head: Head | None = None
