"""Which units of a dimension, and which blocks, add nothing: copies of others, and identities."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, cast

from ..axes import Analysis, AxisClass, Place
from ..blocks import Block
from ..graph import Graph, ParameterRef
from ..operators.recurrent import Recurrent
from .identity import Closing
from .numbers import arrays

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


def groups(analysis: Analysis, own: AxisClass, seed: int = 0) -> Array | None:
    """The number of the group that each unit of a class is in: units of a group have the same numbers wherever they
    are made, and so the same values in the whole model. None where no parameter makes them.

    Where units are summed over their numbers may differ: those of copies are added up.
    """
    import numpy

    places = made_places(analysis, own)
    assert isinstance(own.size, int)
    if not places:
        return None
    keys = [blake2b() for _ in range(own.size)]
    for place in places:
        assert isinstance(place.ref, ParameterRef)
        (array,) = arrays([analysis.graph.parameters[place.ref.parameter]], seed)
        rows = numpy.moveaxis(array, place.axis, 0)[_indices(place)]
        for key, row in zip(keys, rows, strict=True):
            key.update(numpy.ascontiguousarray(row).tobytes())
    numbers: dict[bytes, int] = {}
    return numpy.array([numbers.setdefault(key.digest(), len(numbers)) for key in keys])


def _indices(place: Place) -> Array:
    """By unit, its elements in the axis of a place."""
    import numpy

    offset, step, size = cast("tuple[int, int, int]", (place.offset, place.step, place.size))
    found: Array = numpy.arange(size)[:, None] * step + numpy.arange(step) + offset
    for count, stride in cast("tuple[tuple[int, int], ...]", place.loops):
        found = (found[:, :, None] + numpy.arange(count) * stride).reshape(size, -1)
    return found


def made_places(analysis: Analysis, own: AxisClass) -> list[Place]:
    """The places of a class where a parameter gives its units, and does not only serve to sum over them."""
    seen = {(use.node, i) for use in analysis.uses(own) if use.outputs for i in use.inputs}
    return [place for place in own.places if _made(analysis, place, seen)]


def _made(analysis: Analysis, place: Place, seen: set[tuple[str, int]]) -> bool:
    readers = analysis.graph.users.get(place.ref, ())
    at = [(n, i) for n in readers for i, ref in enumerate(n.inputs) if ref == place.ref and (n.path, i) in seen]
    return any(not (isinstance(n.op, Recurrent) and place.axis == 1) for n, _ in at)


def is_identity(graph: Graph, block: Block, seed: int = 0) -> bool:
    """Whether the numbers of a block are such that it passes on what it is given."""
    import numpy

    closing = Closing.of(graph, block)
    wanted = closing.numbers(block.input)
    if wanted is None:
        return False
    for path, change in wanted.items():
        parameter = graph.parameters[path]
        have, want = arrays([parameter, change(parameter)], seed)
        if not numpy.array_equal(have, want):
            return False
    return not _seen_inside(graph, block)


def _seen_inside(graph: Graph, block: Block) -> bool:
    """Whether anything but the block reads a value that is made in it and is not its output."""
    inside = set(block.nodes)
    ends = {*graph.outputs.values(), *graph.taps.values()}
    values = [v for p in block.nodes for v in graph.nodes[p].values if v != block.output]
    return any(v in ends or any(u.path not in inside for u in graph.users.get(v, ())) for v in values)
