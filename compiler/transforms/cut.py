"""The part of a model between two joints, and what a model is inside: the values at several joints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..contract import Contract
from ..graph import Graph, Input, ParameterRef, Ref, Value
from ..place import place
from .part import Part, Point, Points, add_inputs, output_names, part, plain, points
from .register import Outcome, Refusal, transform


@transform
def cut(graph: Graph, start: Point | list[Point] | None = None, end: Point | list[Point] | None = None) -> Outcome:
    """The part of a model between two joints, as a model of its own.

    What stands at `start` becomes an input, what stands at `end` the output, with their types, and with the joint's
    name (dots as underlines). Nodes keep their paths, parameters their paths and numbers; those that the part does not
    need are left out. Other inputs, such as masks, stay where the part needs them.

    Contract: alters, since inputs and outputs do. What is preserved: the part computes exactly what the model does
    there, so `cut(end = j)` followed by `cut(start = j)` is the whole.

    - start, end: a joint: the path of a block, call or node, which stands for what it gives; the name of a tap; or a
      number n, for the output of the n-th block (0: what the first block is given). Without `start` the part begins at
      the inputs, without `end` it reaches all outputs. Several joints in a list become several inputs or outputs, for a
      model whose parts are connected by more than one value.

    Refuses joints that do not exist, a start that the end does not depend on, and a start that other values of the
    model's first input pass by.
    """
    starts = {} if start is None else points(graph, start, "start")
    starts = {name: value for name, value in starts.items() if value.node not in graph.inputs}
    ends = {} if end is None else output_names(graph, points(graph, end, "end"))
    own = part(graph, list(starts.values()), list(ends.values()))
    made = _alone(own, starts, ends or graph.outputs)
    dropped = len(graph.parameters) - len(made.parameters)
    notes = (
        f"from {_said(made, [n.value for n in made.inputs.values()])} to {_said(made, made.outputs.values())}",
        f"computes exactly what {graph.name} does there",
        f"{dropped} of its {len(graph.parameters)} parameters are left out",
    )
    return Outcome(made, Contract("alters"), notes)


@transform
def features(graph: Graph, at: Points = "stages") -> Outcome:
    """The values at several joints of a model as its outputs: a feature extractor.

    Outputs are named as the joints, dots as underlines. What only other outputs needed is left out.

    Contract: alters, since the outputs do. What is preserved: each value is exactly the one in the model.

    - at: joints, as for `cut`, or patterns over blocks and taps: `["layer1", "layer3.*"]`. `blocks` stands for what
      each block gives, `stages` for what the last block of each size gives.

    Refuses joints that do not exist.
    """
    ends = output_names(graph, points(graph, at))
    if not ends:
        raise Refusal(f"{graph.name} has no blocks", option="at", fix="name joints by paths of nodes")
    made = _alone(part(graph, (), list(ends.values())), {}, ends)
    return Outcome(made, Contract("alters"), (f"gives {_said(made, made.outputs.values())}",))


def _alone(own: Part, starts: Mapping[str, Value], ends: Mapping[str, Ref]) -> Graph:
    """A part as a model."""
    graph = own.graph
    edit = Graph(graph.name).edit("cut")
    given: dict[Ref, Ref] = {}
    for name, value in starts.items():
        path = plain(name)
        while path in own.nodes:
            path += "_in"
        given[value] = edit.add(path, Input(graph.type(value)), origin=graph.nodes[value.node].origin).value
    done = place(edit, graph, "", {**add_inputs(edit, own), **given}, own.nodes)
    for name, ref in ends.items():
        edit.output(
            name, edit.parameter(graph.parameters[ref.parameter]) if isinstance(ref, ParameterRef) else done[ref]
        )
    for name, ref in graph.taps.items():
        if ref in done:
            edit.tap(name, done[ref])
    return edit.done()


def _said(graph: Graph, refs: Iterable[Ref]) -> str:
    return ", ".join(f"{ref}: {graph.type(ref)}" for ref in refs)
