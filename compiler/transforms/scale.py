"""Other widths, depths and resolutions of a model: by factors, or by what a budget leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from ..contract import Contract
from ..graph import Graph, Parameter
from .proportion import Ends, Grow, Policy
from .register import MOST_PARTS, MOST_UNITS, Limit, Outcome, Refusal, refuse_many, transform
from .rounding import DepthRounding
from .search import Method, Search
from .space import Built, Knob, Point, Space


@transform
def scale(
    graph: Graph,
    limits: tuple[Limit, ...] = (),
    width: float | None = None,
    depth: float | None = None,
    resolution: int | list[int] | None = None,
    heads: float | None = None,
    repeats: list[int] | None = None,
    channels: list[int] | None = None,
    prefer: list[Knob] | None = None,
    method: Method = "order",
    divisor: int = 8,
    resolution_divisor: int = 2,
    depth_rounding: DepthRounding = "ceil",
    stem: Ends = "scaled",
    head: Ends = "scaled",
    grow: Grow = "heads",
    inherit: bool = False,
) -> Outcome:
    """The model with other widths, depths and resolution, by given factors or to meet a budget.

    Limits are of `macs`, `flops` (2 · MACs), `parameters`, `weights` (bytes of parameters and buffers), `activations`
    (bytes of all nodes' outputs), `peak` (most bytes alive at once), `heads` (all heads of all attentions), and of
    `width`, `depth` and `resolution` themselves, as `netc cost` counts them for one example; `==` is within 1 %. A
    symbol of the model is given as `T == 128`, which is what symbols are where nothing is said; the batch is 1.

    What is not given is found: a point that meets all limits and reaches 99 % of an upper one, if there is such a
    point; of those the one that `method` says. Costs that fall where a knob rises are not looked for.

    Contract: alters. The structure, the inputs' ranks and the outputs' types stay, but for the size of pictures.
    Parameters are drawn anew by their initialisers, unless `inherit`.

    - limits: what the result may cost, or is to.
    - width: a factor for the channels between blocks. They are rounded to a multiple of `divisor`, or to a whole number
      of heads. Channels inside blocks keep their ratio to the block's input or output where all blocks of a kind have
      the same; others are scaled on their own.
    - depth: a factor for the blocks of each stage (a run of blocks with outputs of one shape). New blocks are copies;
      the last ones go first; what changes the shape stays.
    - resolution: the height of pictures in pixels, or a list of all sides. Tables of positions change with it.
    - heads: a factor for the number of heads alone, apart from `width`.
    - repeats: blocks of each stage, before factors.
    - channels: those of each stage's output, before factors.
    - prefer: which knobs `order` is to make large, the first one first: `[resolution, depth, width]` if not given. One
      that is left out stays.
    - method: `order`, the largest value of the first of `prefer`, of these the largest of the second, and so on; no
      knob goes above 1 where the model as it is meets the limits from below, and is too costly, and none below 1 where
      it is not too costly. `compound`, depth 1.2 ^ φ and resolution 1.15 ^ φ, where the budget is 2 ^ φ times the cost;
      then the largest width. `tiny`, resolution and depth on the line through the published TinyNets A to E, over the
      ratio of MACs; then the largest width.
    - divisor: channels are multiples of it, as in MobileNetV2: the nearest, but not less than nine tenths.
    - resolution_divisor: resolutions that are looked for are multiples of it.
    - depth_rounding: of the number of blocks of a stage, which is at least one.
    - stem, head: what happens before the first block, and after the last: `scaled`, `kept`, or `wider` (scaled only
      where they grow).
    - grow: whether the number of `heads` and groups is scaled, or the `head_size`.
    - inherit: keep the numbers of what stays.

    Refuses limits that no point meets, with the smallest (or largest) that is reached and what holds it there, and
    factors that change nothing.

    Source: Tan and Le, "EfficientNet" (ICML 2019), section 3.3, for `compound`; Han et al., "Model Rubik's cube"
    (NeurIPS 2020), section 3, for `tiny`.
    """
    _check_numbers(
        {"width": width, "depth": depth, "heads": heads},
        {
            "divisor": [divisor],
            "resolution_divisor": [resolution_divisor],
            "resolution": [resolution] if isinstance(resolution, int) else resolution,
            "repeats": repeats,
            "channels": channels,
        },
    )
    _bound(
        {"width": width, "depth": depth, "heads": heads},
        {"resolution": resolution, "repeats": repeats, "channels": channels},
    )
    policy = Policy(divisor, stem, head, grow, None if heads is None else _exact(heads), tuple(channels or ()))
    space = Space(graph, policy, depth_rounding, tuple(repeats or ()), limits)
    given = Point(
        None if width is None else _exact(width),
        None if depth is None else _exact(depth),
        None if resolution is None else space.sides(resolution),
    )
    _check(limits, given, asked=heads or repeats or channels)
    point = given._replace(width=given.width or Fraction(1), depth=given.depth or Fraction(1))
    notes: tuple[str, ...] = ()
    if any(not space.symbol(x.quantity) for x in limits):
        order = tuple(prefer or ("resolution", "depth", "width"))
        point, notes = Search(space, limits, given, order, method, resolution_divisor).run()
    made = space.build(point)
    if made.graph == graph:
        raise Refusal("this scales nothing", option="limits" if limits else None, notes=(*notes, *made.notes))
    result = made.graph if inherit else _fresh(made.graph)
    return Outcome(result, Contract("alters"), (*notes, *space.said(point), *made.notes), _sources(made, inherit))


def _exact(factor: float) -> Fraction:
    return Fraction(str(factor))


def _check(limits: tuple[Limit, ...], given: Point, *, asked: object) -> None:
    if not limits and given == Point(None, None, None) and not asked:
        raise Refusal("scale is given no factor and no limit", fix="width = 1.5, or macs <= 24 M")


def _check_numbers(factors: Mapping[str, float | None], counts: Mapping[str, list[int] | None]) -> None:
    for name, factor in factors.items():
        if factor is not None and factor <= 0:
            raise Refusal(f"{name} is {factor:g}, and must be above 0", option=name)
    for name, numbers in counts.items():
        least = min(numbers or [1])
        if least < 1:
            raise Refusal(f"{name} is {least}, and must be at least 1", option=name)


_MOST_FACTOR = 1000
_MOST_PIXELS = 2**16


def _bound(factors: Mapping[str, float | None], sizes: Mapping[str, int | list[int] | None]) -> None:
    """
    Raises:
        Refusal: for factors, blocks, channels or pixels on a side beyond what is sooner a mistake than meant.
    """
    for option, factor in factors.items():
        refuse_many(factor or 0, _MOST_FACTOR, "times as many", option)
    most = {"resolution": (_MOST_PIXELS, "pixels on a side"), "repeats": (MOST_PARTS, "blocks of a stage")}
    for option, size in sizes.items():
        limit, what = most.get(option, (MOST_UNITS, "channels"))
        refuse_many(max(size, default=0) if isinstance(size, list) else size or 0, limit, what, option)


def _fresh(graph: Graph) -> Graph:
    """The graph with what its initialisers draw; numbers that are given with the model stay."""

    def bare(parameter: Parameter) -> Parameter:
        return parameter if parameter.initialiser.kind == "given" else replace(parameter, data=None)

    return graph.with_parameters(map(bare, graph.parameters.values()))


def _sources(made: Built, inherit: bool) -> dict[str, tuple[str, ...]]:
    """Where numbers come from: nowhere, unless they are inherited, or given with the model."""
    if inherit:
        return {new: (old,) for new, old in made.sources.items()}
    return {path: () for path, p in made.graph.parameters.items() if p.initialiser.kind != "given"}
