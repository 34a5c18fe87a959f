"""A program whose result a formula takes further: the formula is computed where the program stores the result.

That is for programs which store every element of their result once and read none of it (kernels/program.py); they say
so on their block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..index import literal
from ..untyped import mutate, s_tir, tirx, tvm, walk
from .block import PROGRAM, STORES, annotation, blocks, number, reduces
from .expression import instead, loads, replaced
from .inline import inline


def follow(function: Any) -> tuple[Any, bool]:
    """The function with all such programs joined with their readers, and whether nothing else is left of it."""
    sch = s_tir.Schedule(function)
    if not any(annotation(sch, block, STORES) is not None for block in blocks(sch)):
        return function, False
    inline(sch)
    while (pair := _pair(sch)) is not None:
        sch = s_tir.Schedule(_joined(sch.mod["main"], *pair))
    return sch.mod["main"], all(annotation(sch, block, PROGRAM) is not None for block in blocks(sch))


def _pair(sch: Any) -> tuple[Any, Any] | None:
    """A program and the block that is its only reader, where this reads each element for one of its own."""
    allocated = sch.mod["main"].body.block.alloc_buffers
    for program in blocks(sch):
        if annotation(sch, program, STORES) is None:
            continue
        readers = list(sch.get_consumers(program))
        if len(readers) != 1 or reduces(sch, readers[0]) or annotation(sch, readers[0], PROGRAM) is not None:
            continue
        pair = sch.get(program), sch.get(readers[0])
        result = pair[0].writes[0].source
        if any(result.same_as(b) for b in allocated) and _places(pair[1], result) is not None:
            return pair
    return None


def _places(reader: Any, result: Any) -> Mapping[Any, int] | None:
    """Which axis of a result each axis of its reader goes along; those of one element go along none."""
    found = [load.indices for load in loads(reader.body.value) if load.source.same_as(result)]
    if not found or any(str(f) != str(found[0]) for f in found):
        return None
    at = {index: axis for axis, index in enumerate(found[0]) if isinstance(index, tirx.Var)}
    fixed = [extent for extent, index in zip(result.shape, found[0], strict=True) if index not in at]
    free = [v.dom.extent for v in reader.iter_vars if v.var not in at]
    return at if all(number(extent) == 1 for extent in (*fixed, *free)) else None


def _joined(function: Any, program: Any, reader: Any) -> Any:
    """The function with the formula in the program, and no reader."""
    result, target = program.writes[0].source, reader.body.buffer
    places = _places(reader, result)
    assert places is not None

    def store(given: Any, mutator: Any) -> Any:
        if not given.buffer.same_as(result):
            return mutator.default_mutate(given)
        names = {v.var: given.indices[places[v.var]] if v.var in places else literal(0) for v in reader.iter_vars}
        value = instead(replaced(reader.body.value, names), result, given.value)
        return tirx.BufferStore(target, value, [replaced(index, names) for index in reader.body.indices])

    read = {region.source: region for region in program.reads}
    read |= {b: _all(b) for b in (region.source for region in reader.reads) if b not in read and not b.same_as(result)}
    block = s_tir.SBlock(
        [],
        list(read.values()),
        [_all(target)],
        program.name_hint,
        mutate(program.body, (tirx.BufferStore, store)),
        annotations={PROGRAM: 1},
    )
    root = function.body.block
    statements = list(root.body.seq) if isinstance(root.body, tirx.SeqStmt) else [root.body]
    # The program takes the reader's place, before which all is made that the formula reads.
    last = max(i for i, s in enumerate(statements) if _holds(s, reader))
    before = [s for s in statements[:last] if not _holds(s, program)]
    after = statements[last + 1 :]
    kept = [*before, s_tir.SBlockRealize([], True, block), *after]
    whole = s_tir.SBlock(
        [],
        [],
        [],
        root.name_hint,
        kept[0] if len(kept) == 1 else tirx.SeqStmt(kept),
        alloc_buffers=[b for b in root.alloc_buffers if not b.same_as(result)],
        annotations=root.annotations,
    )
    made = function.with_body(s_tir.SBlockRealize([], True, whole))
    # Each store has a copy of the formula, and with it of the variables in it.
    return tirx.transform.ConvertSSA()(tvm.IRModule({"main": made}))["main"]


def _all(buffer: Any) -> Any:
    return tirx.BufferRegion(buffer, [tvm.ir.Range.from_min_extent(literal(0), e) for e in buffer.shape])


def _holds(statement: Any, block: Any) -> bool:
    found: list[Any] = []
    walk(statement, (s_tir.SBlock, found.append))
    return any(b.same_as(block) for b in found)
