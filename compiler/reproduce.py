"""A failed pass as a `.net` file that runs it again."""

from __future__ import annotations

from collections.abc import Sequence

from . import tree as t
from .pipeline import Failure
from .rewrite.apply import Rewriter
from .rewrite.pattern import Rule
from .text import print_graph


def reproducer(failure: Failure) -> str:
    """The text of a file: the graph that the failing step was given, its rules, and a pipeline `again` of that step.

    Weights are not in it: where the failure depends on them, they are drawn from a seed again.
    """
    step = failure.step
    message = failure.diagnostics[0].message
    lines = [f"# {line}" for line in message.splitlines()]
    lines += ["# Run again: netc show THIS_FILE:" + failure.before.name + " -p again --verify", ""]
    rules = step.run.run.rules if isinstance(step.run.run, Rewriter) else ()
    lines += [text + "\n" for text in dict.fromkeys(_texts(rules))]
    first = 'strip_phase(keep = "infer") |> ' if "inference" in step.run.needs else ""
    lines += [f"pipeline again = {first}{step}", "", print_graph(failure.before)]
    return "\n".join(lines)


def _texts(rules: Sequence[Rule]) -> list[str]:
    """The rules, after the functions and values of their files that they may use."""
    found: list[str] = []
    for rule in rules:
        if rule.home.source.name.startswith("rewrites/"):
            continue
        used = [d for d in rule.home.tree.declarations if isinstance(d, (t.Func, t.TopLet))]
        found += [d.span.text for d in used] + [rule.span.text]
    return found
