"""Which blocks and parameters a transform is asked to work on: path patterns, as `freeze` takes them."""

from __future__ import annotations

from collections.abc import Iterable

from ..blocks import Block, blocks
from ..diagnostic import nearest
from ..graph import Graph
from ..paths import Paths, matches
from .register import Refusal

__all__ = ["Paths", "chosen_blocks", "chosen_parameters", "listed", "matches", "nothing"]


def named(path: str, at: Paths) -> bool:
    """Whether one of the patterns is this very path: what cannot be done with it is refused then, and not left out."""
    return path in ([at] if isinstance(at, str) else at)


def chosen_blocks(graph: Graph, at: Paths, option: str = "at") -> list[Block]:
    """The blocks of a model that patterns name; `blocks` stands for all.

    Raises:
        Refusal: where there are none.
    """
    found = blocks(graph)
    own = found if at == "blocks" else [b for b in found if matches(b.path, at)]
    if not own:
        raise nothing(at, (b.path for b in found), "block", option)
    return own


def chosen_parameters(graph: Graph, at: Paths, option: str = "at") -> list[str]:
    """The parameters that patterns name, by their paths or by those of their layers.

    Raises:
        Refusal: where there are none.
    """
    own = [path for path in graph.parameters if matches(path, at)]
    if not own:
        raise nothing(at, graph.parameters, "parameter", option)
    return own


def nothing(at: Paths, known: Iterable[str], kind: str, option: str = "at") -> Refusal:
    """What to say of patterns that match nothing."""
    known = list(known)
    text = at if isinstance(at, str) else ", ".join(at)
    notes = (f"its {kind}s: {listed(known)}",)
    return Refusal(f'no {kind} matches "{text}"', option=option, notes=notes, fix=nearest(text, known))


def listed(names: Iterable[str], most: int = 5) -> str:
    """Names in a row: the first few of many, and how many there are."""
    names = list(dict.fromkeys(names))
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return f"{', '.join(names[:most]) or 'none'}{more}"
