"""The page of a trace: data, style and scripts in one HTML text that asks no network for anything."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..pipeline import Trace
from ..source import Span
from .collect import collect

_SCRIPTS = ("model.js", "layout.js", "plan.js", "page.js")


class Planned(NamedTuple):
    """What the page of a plan has besides: data of its groups, drawings as HTML, and the line of each group."""

    data: Mapping[str, Any]
    drawn: str
    origins: Sequence[Span | None]


def page(
    trace: Trace,
    bind: Mapping[str, int] | None = None,
    phase: Literal["train", "infer"] = "infer",
    plan: Planned | None = None,
) -> str:
    """One self-contained HTML page: the graph of every stage, what each pass changed, costs and source lines.

    Costs need numbers for symbolic dimensions: `bind` gives them, others are assumed as `collect` says. The page's
    policy lets no script run but its own and forbids every connection. `plan` are groups of the final graph.

    Raises:
        NetcError: where `bind` names no symbol of the model (`bind`).
    """
    style = "".join(map(text_of, ("page.css",) if plan is None else ("page.css", "chart.css", "plan.css")))
    data = collect(trace, bind, phase, () if plan is None else plan.origins)
    if plan is not None:
        data["plan"] = plan.data
    script = "(() => {\n" + "\n".join(map(text_of, _SCRIPTS)) + "})();\n"
    parts = {
        "title": html.escape(trace.start.name),
        "policy": f"default-src 'none'; img-src data:; style-src {hash_of(style)}; script-src {hash_of(script)}; "
        "base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "plan": "" if plan is None else plan.drawn,
        "data": _embedded(data),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], text_of("page.html"))


def _embedded(data: object) -> str:
    """JSON in which no character could end the element that holds it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def hash_of(text: str) -> str:
    """What a page's policy calls a style or script of its own."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def text_of(name: str) -> str:
    """A file of this folder."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
