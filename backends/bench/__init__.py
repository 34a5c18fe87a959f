"""Other runtimes beside ours: the same model, the same inputs and threads, each in a process of its own, in turns."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .board import Board as Board
    from .board import Entry as Entry
    from .board import Failed as Failed
    from .board import Score as Score
    from .board import measure as measure
    from .peak import Peak as Peak
    from .peak import probe as probe
    from .peer import NETC as NETC
    from .peer import PEERS as PEERS
    from .peer import check as check
    from .subject import Subject as Subject
    from .weight import lively as lively

_HOME = {
    **dict.fromkeys(("Board", "Entry", "Failed", "Score", "measure"), "board"),
    **dict.fromkeys(("NETC", "PEERS", "check"), "peer"),
    **dict.fromkeys(("Peak", "probe"), "peak"),
    "Subject": "subject",
    "lively": "weight",
}


def __getattr__(name: str) -> Any:
    # The process of a candidate loads its runtime, and nothing that its start-up time would have to count for.
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
