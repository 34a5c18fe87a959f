"""Patterns over dotted paths: which parts of a model are meant."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

Paths = str | list[str]
"""Patterns over dotted paths, `*` for anything: `"layer2.*"`. A path stands for all below it: `"layer2"`."""


def above(path: str) -> Iterator[str]:
    """The paths that a path lies below, the nearest first."""
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def lies_in(path: str, call: str) -> bool:
    """Whether a path is that of a call, or of something in it."""
    return path == call or path.startswith(f"{call}.")


def matches(path: str, at: Paths) -> bool:
    """Whether a path, or one that it lies below, is among the patterns."""
    patterns = [at] if isinstance(at, str) else at
    ways = [path, *above(path)]
    return any(fnmatchcase(way, pattern) for pattern in patterns for way in ways)
