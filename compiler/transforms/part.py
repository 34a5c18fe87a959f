"""Parts of models between joints, and where a joint is: how transforms that put models together address them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Literal

from ..blocks import Block, blocks, spine
from ..diagnostic import nearest
from ..graph import Edit, Graph, Parameter, Ref, Value
from ..place import place
from .choose import listed
from .numbers import filled
from .register import Refusal

Point = str | int
"""A joint: the path of a block, of a call or of a node (what it gives), the name of a tap, output or input; or a
number n, which stands for the output of the n-th block, and 0 for what the first one is given."""


Points = Literal["blocks", "stages"] | Point | list[Point]
"""Joints, or patterns over blocks and taps; `blocks` and `stages` stand for what each block, or the last block of each
size, gives."""


def all_blocks(graph: Graph) -> list[Block]:
    """The blocks on the way to the output that has most of them: a feature extractor has several outputs."""
    if len(graph.outputs) < 2:
        return blocks(graph)
    return max((blocks(graph, name) for name in graph.outputs), key=len)


def point(graph: Graph, at: Point, option: str = "at") -> Value:
    """The value that a joint's name stands for.

    Raises:
        Refusal: where the model has no such joint.
    """
    if isinstance(at, int):
        return _numbered(graph, at, option)
    node, _, index = at.partition(":")
    ref = graph.taps.get(at) or graph.outputs.get(at)
    if isinstance(ref, Value):
        return ref
    block = next((b for b in all_blocks(graph) if b.path == at), None)
    if block:
        return block.output
    if node in graph.nodes and (index or "0").isdecimal() and int(index or 0) < len(graph.nodes[node].types):
        return Value(node, int(index or 0))
    leaving = _leaving(graph, at) if at in graph.scopes else []
    if len(leaving) == 1:
        return leaving[0]
    if leaving:
        message = f"{at} gives {len(leaving)} values: {', '.join(map(str, leaving))}"
        raise Refusal(message, nodes=[v.node for v in leaving], option=option, fix=str(leaving[-1])[1:])
    known = [*graph.taps, *(b.path for b in all_blocks(graph)), *graph.scopes, *graph.nodes]
    notes = (f"its taps and blocks: {listed([*graph.taps, *(b.path for b in all_blocks(graph))])}",)
    raise Refusal(f"{graph.name} has no joint {at}", option=option, notes=notes, fix=nearest(at, known))


def _numbered(graph: Graph, number: int, option: str) -> Value:
    found = all_blocks(graph)
    if not 0 <= number <= len(found) or not found:
        raise Refusal(f"{graph.name} has {len(found)} blocks, so there is no joint {number}", option=option)
    return found[number - 1].output if number else found[0].input


def _leaving(graph: Graph, scope: str) -> list[Value]:
    """The values of a call that others read."""
    inside = {path for path in graph.nodes if path.startswith(f"{scope}.")}
    ends = set(graph.outputs.values())
    return [
        value
        for path in graph.nodes
        if path in inside
        for value in graph.nodes[path].values
        if value in ends or any(reader.path not in inside for reader in graph.users.get(value, ()))
    ]


def points(graph: Graph, at: Point | Sequence[Point], option: str = "at") -> dict[str, Value]:
    """Joints by name, in the order of the model: those that are named, or match patterns over taps and blocks;
    `blocks` stands for what each block gives, `stages` for what the last block of each size gives.

    Raises:
        Refusal: where a name or pattern stands for nothing.
    """
    if at == "stages":
        runs = groupby(all_blocks(graph), lambda b: graph.type(b.output).shape)
        last = [[*run][-1] for _, run in runs]
        return {b.path: b.output for b in last}
    known = {b.path: b.output for b in all_blocks(graph)}
    if at == "blocks":
        return known
    known |= {name: ref for name, ref in graph.taps.items() if isinstance(ref, Value)}
    found: dict[str, Value] = {}
    for one in [at] if isinstance(at, (str, int)) else at:
        own = {n: v for n, v in known.items() if isinstance(one, str) and "*" in one and fnmatchcase(n, one)}
        value = None if own else point(graph, one, option)
        found |= {_name(graph, one, value): value} if value else own
    number = {path: i for i, path in enumerate(graph.nodes)}
    return dict(sorted(found.items(), key=lambda item: number[item[1].node]))


def _name(graph: Graph, at: Point, value: Value) -> str:
    """A joint's name: that of its block where it is a number."""
    return at if isinstance(at, str) else all_blocks(graph)[at - 1].path if at else str(value)[1:]


@dataclass(frozen=True)
class Part:
    """What computes some values of a model from others. `nodes` are in order, inputs that it still needs among them."""

    graph: Graph
    starts: tuple[Value, ...]
    ends: tuple[Ref, ...]
    nodes: tuple[str, ...]


def part(graph: Graph, starts: Sequence[Value] = (), ends: Sequence[Ref] = ()) -> Part:
    """What leads from the values `starts` (the inputs) to `ends` (all outputs). What is made of other inputs, or of
    parameters alone, comes along.

    Raises:
        Refusal: where the ends do not depend on a start, or other values of the model's first input pass by the starts.
    """
    ends = tuple(ends) or tuple(graph.outputs.values())
    live: set[str] = set()
    waiting = [end for end in ends if isinstance(end, Value)]
    reached: set[Value] = set()
    while waiting:
        value = waiting.pop()
        if value in starts:
            reached.add(value)
        elif value.node not in live:
            live.add(value.node)
            waiting += [r for r in graph.nodes[value.node].refs if isinstance(r, Value)]
    missed = [v for v in starts if v not in reached]
    if missed:
        message = f"nothing leads from {missed[0]} to {', '.join(map(str, ends))}"
        raise Refusal(message, nodes=[missed[0].node], fix="name the joints in the order of the model")
    around = _around(graph, starts, ends, live) if starts else []
    if around:
        message = f"{listed(map(str, around))} of {graph.name} pass by {', '.join(map(str, starts))}"
        joints = listed(str(v)[1:] for v in spine(graph).joints)
        fix = ", ".join(f'"{str(v)[1:]}"' for v in (*around, *starts))
        raise Refusal(
            message,
            nodes=[v.node for v in around],
            notes=(f"everything passes through each of: {joints}",),
            fix=f"all of them, where a list is taken: [{fix}]",
        )
    return Part(graph, tuple(starts), ends, tuple(p for p in graph.nodes if p in live))


def _around(graph: Graph, starts: Sequence[Value], ends: Sequence[Ref], live: Collection[str]) -> list[Value]:
    """Values of the first input that are read behind the starts, or are ends, and do not come from them."""
    fed = {next(iter(graph.inputs))} if graph.inputs else set[str]()
    behind: set[str] = set()
    found: dict[Value, None] = {}
    for path, node in graph.nodes.items():
        values = [r for r in node.refs if isinstance(r, Value)]
        if any(v.node in fed for v in values):
            fed.add(path)
        if path in live and any(v in starts or v.node in behind for v in values):
            behind.add(path)
            found |= dict.fromkeys(v for v in values if v not in starts and v.node in fed and v.node not in behind)
    found |= dict.fromkeys(
        end for end in ends if isinstance(end, Value) and end not in starts and end.node in fed - behind
    )
    return list(found)


def prefixes(graphs: Sequence[Graph]) -> list[str]:
    """What stands before the paths of each model: its name, with a number where another has it."""
    found: list[str] = []
    for graph in graphs:
        number = 0
        while (name := f"{graph.name}_{number}" if number else graph.name) in found:
            number += 1
        found.append(name)
    return found


def plain(name: str) -> str:
    """A path as a name of an input or output."""
    return name.replace(".", "_").replace(":", "_")


def add_inputs(edit: Edit, own: Part) -> dict[Ref, Ref]:
    """What stands for the inputs that a part needs: those of the same names, which models share, or new ones.

    Raises:
        Refusal: where one is of another type.
    """
    given: dict[Ref, Ref] = {}
    for path, node in own.graph.inputs.items():
        if path not in own.nodes:
            continue
        if path not in edit:
            edit.add(path, node.op, origin=node.origin)
        there = edit.node(path)
        if there.types != node.types:
            message = (
                f"{own.graph.name} takes the input {path}: {node.types[0]}, which is {there.types[0]} in the others"
            )
            raise Refusal(message, nodes=[path], fix="give the models inputs of one type")
        given[node.value] = there.value
    return given


def add_part(
    edit: Edit, own: Part, prefix: str, given: Mapping[Ref, Ref], parameters: str | None = None
) -> dict[Ref, Ref]:
    """Place a part below a prefix, its parameters below that of `parameters` if one is given; `given` are what stands
    for its starts. Numbers that are not there are drawn, so that parameters mean the same under their new paths. Taps
    come along under the prefix.

    Returns:
        What stands for each value and parameter.
    """
    graph = own.graph.with_parameters(map(filled, own.graph.parameters.values())) if prefix else own.graph
    paths = None if parameters is None else {path: f"{parameters}.{path}" for path in graph.parameters}
    done = place(edit, graph, prefix, {**add_inputs(edit, own), **given}, own.nodes, paths)
    for name, ref in graph.taps.items():
        if isinstance(ref, Value) and ref in done and ref.node in own.nodes:
            edit.tap(f"{prefix}.{name}", done[ref])
    return done


def frozen(graph: Graph) -> Graph:
    """The model with parameters that are not trained."""
    return graph.with_parameters(replace(p, trainable=False) for p in graph.parameters.values())


def fresh(graph: Graph, seed: int) -> Graph:
    """The model with new numbers, drawn from its initialisers.

    Raises:
        Refusal: where a parameter's numbers were given, and cannot be drawn.
    """
    return graph.with_parameters(_drawn(p, seed) for p in graph.parameters.values())


def _drawn(parameter: Parameter, seed: int) -> Parameter:
    if parameter.initialiser.kind == "given":
        message = f"{parameter.path} was computed and has no initialiser to draw new numbers from"
        raise Refusal(message, nodes=[parameter.path], option="fresh")
    return filled(replace(parameter, data=None), seed)


def sources(prefix: str, own: Graph, result: Graph, *, new: bool = False) -> dict[str, tuple[str, ...]]:
    """Where the numbers of the parameters below a prefix in a result come from, for an `Outcome`: from those of a
    model, or they are new."""
    paths = {f"{prefix}.{path}": f"{own.name}.{path}" for path in own.parameters}
    return {there: () if new else (path,) for there, path in paths.items() if there in result.parameters}


def output_names(graph: Graph, ends: Mapping[str, Ref]) -> dict[str, Ref]:
    """Ends with the names they have as outputs: their own where they are outputs already."""
    known: dict[Ref, str] = {}
    for name, ref in graph.outputs.items():
        known.setdefault(ref, name)
    return {known.get(ref, plain(name)): ref for name, ref in ends.items()}


def chain(edit: Edit, pieces: Sequence[tuple[Part, str]]) -> dict[Ref, Ref]:
    """Place parts below their prefixes, one behind the other: each that has a start is given what the one before ends
    with. Parts of one prefix share what both need.

    Returns:
        What stands for each value and parameter of the last one.
    """
    done: dict[str, dict[Ref, Ref]] = {}
    last: Ref | None = None
    for own, prefix in pieces:
        given = dict(zip(own.starts, [] if last is None else [last], strict=False))
        done[prefix] = add_part(edit, own, prefix, {**done.get(prefix, {}), **given})
        last = done[prefix][own.ends[0]]
    return done[pieces[-1][1]] if pieces else {}
