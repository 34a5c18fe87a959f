"""Memory on chip: a buffer of which every byte is counted, and the lines that are in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .slices import Region


class BufferExceeded(MemoryError):
    """More bytes were to be on chip than there is room for."""


class Buffer:
    """Memory on chip, which knows how much of it was in use at most."""

    def __init__(self, room: int | None) -> None:
        self.used = 0
        self.peak = 0
        self._room = room

    def take(self, count: int) -> None:
        """Put so many bytes in use.

        Raises:
            BufferExceeded: where there are fewer.
        """
        self.used += count
        self.peak = max(self.peak, self.used)
        if self._room is not None and self.used > self._room:
            raise BufferExceeded(f"{self.used} bytes are to be on chip, where there is room for {self._room}")

    def give(self, count: int) -> None:
        self.used -= count


class Store:
    """The lines of one value that are on chip, each by its number; a value without lines is one line.

    `element` are the bytes of an element, `axis` is where lines lie, and `origin` says where those that are held begin
    along other axes.
    """

    def __init__(self, buffer: Buffer, element: int, axis: int | None, origin: Mapping[int, int], dtype: Any) -> None:
        self.lines: dict[int, torch.Tensor] = {}
        self._buffer = buffer
        self._element = element
        self._axis = axis
        self._origin = origin
        self._dtype = dtype

    def put(self, first: int, made: torch.Tensor) -> None:
        """Take room for lines, from the number `first` on."""
        parts = (made,) if self._axis is None else made.split(1, self._axis)
        for number, line in enumerate(parts, first):
            if number in self.lines:
                raise AssertionError(f"line {number} is on chip already")
            self._buffer.take(line.numel() * self._element)
            self.lines[number] = line

    def drop(self, before: int | None) -> None:
        """Free the lines before a number; all of them where there is none."""
        for number in [n for n in self.lines if before is None or n < before]:
            self._buffer.give(self.lines.pop(number).numel() * self._element)

    def get(self, region: Region, shape: Sequence[int]) -> torch.Tensor:
        """A region of the value, which is of this shape as a whole. All of it has to be on chip."""
        wanted = [region.get(axis, (0, size)) for axis, size in enumerate(shape)]
        if any(start == stop for start, stop in wanted):
            return torch.empty([stop - start for start, stop in wanted], dtype=self._dtype)
        if self._axis is None:
            found = self.lines[0]
        else:
            parts = [self.lines[number] for number in range(*wanted[self._axis])]
            found = parts[0] if len(parts) == 1 else torch.cat(parts, self._axis)
        for axis, (start, stop) in enumerate(wanted):
            if axis != self._axis:
                found = found.narrow(axis, start - self._origin.get(axis, 0), stop - start)
        return found
