"""What the unit of a number measures: bytes are no bytes per second, and neither are a time."""

from __future__ import annotations

from typing import Literal

from . import tree as t
from .diagnostic import Diagnostic, Label

Quantity = Literal["bytes", "bytes per second", "a count", "a count per second", "seconds", "a fraction"]

EXAMPLES: dict[Quantity, str] = {
    "bytes": "512 KiB",
    "bytes per second": "8 GB/s",
    "a count": "6 M",
    "a count per second": "1 T/s",
    "seconds": "20 ms",
    "a fraction": "1e-4",
}


def measured(unit: str) -> Quantity:
    """What a unit of the language measures."""
    if "B" in unit:
        return "bytes per second" if unit.endswith("/s") else "bytes"
    if unit.removesuffix("/s") in ("s", "ms", "us"):
        return "a fraction" if unit.endswith("/s") else "seconds"
    return "a count per second" if unit.endswith("/s") else "a count"


_WRITTEN: dict[Quantity, tuple[tuple[int, str], ...]] = {
    "bytes": ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")),
    "bytes per second": ((10**9, "GB/s"), (10**6, "MB/s")),
    "a count per second": ((10**12, "T/s"), (10**9, "G/s"), (10**6, "M/s")),
}


def written(value: int, quantity: Quantity) -> str:
    """A number with the largest unit of the language that it is a whole multiple of."""
    for scale, unit in _WRITTEN.get(quantity, ()):
        if value % scale == 0:
            return f"{value // scale} {unit}"
    return str(value)


def enough(count: int) -> str:
    """So many bytes as the language writes them, from 1 KiB on rounded up to whole ones."""
    return str(count) if count < 2**10 else written(-(-count // 2**10) * 2**10, "bytes")


def sized(count: object) -> str:
    """Bytes as people read them: `1536` → `1.50 KiB`. Symbolic ones are as they are."""
    if not isinstance(count, int | float):
        return f"{count} B"
    size = float(count)
    for suffix in ("B", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if suffix == "B" else f"{size:.2f} {suffix}"
        size /= 1024
    return f"{size:.2f} GiB"


def wrong_unit(name: str, wanted: Quantity, written: t.Expr) -> Diagnostic | None:
    """What is wrong with a number whose unit measures something else than `name` is. One without a unit is in bytes or
    seconds, and a count stands for a count per second as well."""
    if not isinstance(written, t.Number) or written.unit is None:
        return None
    found = measured(written.unit)
    if found == wanted or (found, wanted) == ("a count", "a count per second"):
        return None
    message = f"{name} is {wanted}, and {written.span.text} is {found}"
    return Diagnostic("unit", message, (Label(written.span),), fix=EXAMPLES[wanted])
