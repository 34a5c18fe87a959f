"""Low-rank adapters on weights."""

from __future__ import annotations

from pydantic import PositiveInt

from ..contract import Contract
from ..graph import Graph, ParameterRef
from ..operators.operator import Initialiser
from ..operators.parameter import FAN_IN
from .choose import Paths
from .read_instead import read_instead
from .register import Outcome, transform
from .weight import beside, factor, frozen, low_rank, shape, weights


@transform
def lora(
    graph: Graph,
    at: Paths = "*",
    rank: PositiveInt = 8,
    alpha: float | None = None,
    freeze: bool = True,
    seed: int = 0,
) -> Outcome:
    """Add a low-rank product to the weights of linear and convolution layers: w becomes w + alpha / rank · b @ a.

    The sum is an expression over the parameters `<layer>.lora_a` [rank, in] and `<layer>.lora_b` [out, rank] (of a
    convolution, `in` are the channels and the kernel together); `fold_weights` makes one weight of it again. A weight
    that several layers share is adapted once, for all of them.

    Contract: exact, since b is zero at first.

    - at: weights, by their paths or by those of their layers; all of linear and convolution layers.
    - rank: of the product; where a layer is smaller, its own size.
    - alpha: how much the product counts, times rank; by default rank, so that it counts as it is.
    - freeze: nothing is trained any more but the new factors.
    - seed: for the numbers of `a`, uniform with a bound of 1 / √in.

    Refuses patterns that name no such weight, and weights that are expressions already: `fold_weights` them first.

    Source: Hu et al., "LoRA: low-rank adaptation of large language models" (2021), section 4.1.
    """
    edit = graph.edit("lora")
    new: set[str] = set()
    count = smaller = 0
    scale = 1.0 if alpha is None else alpha / rank
    chosen = weights(graph, at)
    for path, nodes in chosen.items():
        weight = graph.parameters[path]
        rows, columns = shape(weight)
        own = min(rank, rows, columns)
        a = factor(weight, beside(path, "lora_a"), (own, columns), FAN_IN, seed)
        b = factor(weight, beside(path, "lora_b"), (rows, own), Initialiser("zeros"), seed)
        ref = ParameterRef(path)
        read_instead(edit, graph, ref, low_rank(edit, "lora", nodes[0], ref, a, b, scale))
        new |= {a.path, b.path}
        count += own * (rows + columns)
        smaller += own < rank
    notes = [f"{len(chosen)} weights have a product of rank {rank} added, of {count:,} parameters in all"]
    if smaller:
        notes.append(f"{smaller} of them are smaller than the rank, and have their own")
    if freeze:
        notes.append(f"{frozen(edit, but=new):,} parameters are frozen")
    return Outcome(edit.done(), Contract(), tuple(notes))
