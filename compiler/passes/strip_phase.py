"""Keep one phase of a model: training or inference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from ..graph import Graph, SelectPhase, Value
from .eliminate_dead import eliminate_dead
from .register import graph_pass


def _facts(options: Mapping[str, Any], _: Graph | None) -> frozenset[str]:
    return frozenset({"inference" if options.get("keep", "infer") == "infer" else "training"})


@graph_pass(gives=_facts)
def strip_phase(graph: Graph, keep: Literal["train", "infer"] = "infer") -> Graph:
    """The graph of one phase. Nodes and outputs of the other phase go; `select_phase` becomes the kept side.

    In inference, operators of effect `random` (dropout, drop path) are the identity and are removed. Parameters
    that only the other phase reads go with it. Gives the fact `inference` or `training`.

    Before:
    ```net
    input %x: f32[N, 3]

    train %noisy: f32[N, 3] = dropout(%x, p = 0.1)
    train %loss: f32[] = mean(%noisy, dim = [0, 1], keepdim = false)
    %chosen: f32[N, 3] = select_phase(%noisy, %x)
    %dropout: f32[N, 3] = dropout(%chosen, p = 0.5)
    %y: f32[N, 3] = relu(%dropout)

    return y = %y, loss = %loss
    ```
    After (keep = infer):
    ```net
    input %x: f32[N, 3]

    %y: f32[N, 3] = relu(%x)

    return y = %y
    ```

    Refuses nothing.
    """
    other = "infer" if keep == "train" else "train"
    edit = graph.edit("strip_phase")
    for path, node in graph.nodes.items():
        if isinstance(node.op, SelectPhase):
            kept = node.inputs[0 if keep == "train" else 1]
            assert kept is not None
            edit.redirect(node.value, kept)
            edit.remove(path)
        elif keep == "infer" and node.op.effect == "random":
            source = node.inputs[0]
            assert source is not None
            edit.redirect(node.value, source)
            edit.remove(path)
    stripped = edit.done()
    gone = {p for p, n in stripped.nodes.items() if n.phase == other}
    if gone:
        stripped = replace(
            stripped,
            outputs={k: r for k, r in stripped.outputs.items() if not (isinstance(r, Value) and r.node in gone)},
            taps={k: r for k, r in stripped.taps.items() if not (isinstance(r, Value) and r.node in gone)},
        )
    return _one_phase(eliminate_dead(stripped))


def _one_phase(graph: Graph) -> Graph:
    """The graph in which no node says its phase: there is no other left."""
    if all(n.phase == "both" for n in graph.nodes.values()):
        return graph
    return replace(graph, nodes={path: replace(node, phase="both") for path, node in graph.nodes.items()})
