"""Experts made one feed-forward part again."""

from __future__ import annotations

from ..axes import analyse
from ..contract import Contract
from ..graph import Graph
from .choose import Paths
from .concatenate import concatenated, siblings
from .feedforward import FeedForward, feed_forwards
from .register import Outcome, Refusal, transform


@transform
def dense(graph: Graph, at: Paths = "*", seed: int = 0) -> Outcome:
    """Make one feed-forward part of experts that read the same value and whose outputs are added as they are: with the
    hidden units of all of them, in their order. The reverse of `experts` without a router.

    Contract: exact.

    - at: experts, by their paths; all of them.
    - seed: for parameters without numbers.

    Refuses experts that a router weighs, and where no two are alike and added. Weights that are slices of others become
    an expert's own by `fold_weights`.
    """
    analysis = analyse(graph)
    groups, apart = siblings(graph, feed_forwards(analysis, at))
    if apart:
        beside = [part for part in apart if part.input == apart[0].input]
        readers = [user.path for part in beside for user in graph.users.get(part.output, ())]
        message = f"the outputs of {apart[0].path} and its siblings are not added as they are"
        raise Refusal(message, nodes=readers, option="at")
    if not groups:
        message = "no two feed-forward parts read the same value and are added"
        raise Refusal(message, option="at", fix="fold_weights, where their weights are slices of others")
    after, sources = concatenated(analysis, groups, "dense", [home(group.first) for group in groups], seed)
    count = sum(len(group.parts) for group in groups)
    return Outcome(after, Contract(), (f"{count} experts are {len(groups)} feed-forward parts again",), sources)


def home(first: FeedForward) -> str:
    """Where the part belongs: `mlp` for the expert `mlp.experts.0`."""
    above, _, own = first.path.rpartition(".")
    return above.removesuffix(".experts") if own.isdecimal() and above else first.path
