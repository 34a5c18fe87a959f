"""A graph as Graphviz text: one box a node, one cluster a module."""

from __future__ import annotations

from collections.abc import Iterator

from .graph import Graph, Input, Node, Scope, Value
from .types import TensorType


def dot(graph: Graph) -> str:
    """The graph in the DOT language, for `dot -Tsvg`. Nodes are numbered; what a graph is named cannot break out of its
    quotes. Parameters are left out."""
    numbers = {path: f"n{i}" for i, path in enumerate(graph.nodes)}
    lines = [
        f"digraph {_quoted(graph.name)} {{",
        "    node [shape=box, style=rounded, fontname=sans, fontsize=11]",
        "    edge [arrowsize=0.6, fontname=sans, fontsize=9]",
        *_cluster(numbers, "", _members(graph)),
        *_edges(graph, numbers),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _members(graph: Graph) -> dict[str, list[Node | Scope]]:
    """What stands directly in each scope, scopes without nodes left out."""
    members: dict[str, list[Node | Scope]] = {}
    for node in graph.nodes.values():
        member: Node | Scope = node
        while True:
            above = _around(graph, member.path)
            known = above in members
            members.setdefault(above, []).append(member)
            if known or not above:
                break
            member = graph.scopes[above]
    return members


def _around(graph: Graph, path: str) -> str:
    """The path of the scope around a path."""
    above = path.rpartition(".")[0]
    while above and above not in graph.scopes:
        above = above.rpartition(".")[0]
    return above


def _cluster(
    numbers: dict[str, str], scope: str, members: dict[str, list[Node | Scope]], indent: str = "    "
) -> Iterator[str]:
    for member in members.get(scope, ()):
        if isinstance(member, Scope):
            yield f"{indent}subgraph {_quoted(f'cluster {member.path}')} {{"
            yield f"{indent}    label={_quoted(f'{member.path}: {member.module}')}; color=gray60; fontname=sans"
            yield from _cluster(numbers, member.path, members, f"{indent}    ")
            yield f"{indent}}}"
        else:
            shape = ", shape=ellipse" if isinstance(member.op, Input) else ""
            yield f"{indent}{numbers[member.path]} [label={_quoted(_label(member))}{shape}]"


def _label(node: Node) -> str:
    op = f"{node.op.name}\n" if node.op.name != node.path.rpartition(".")[2] else ""
    return f"{op}{node.path}\n{', '.join(map(str, node.types))}"


def _edges(graph: Graph, numbers: dict[str, str]) -> Iterator[str]:
    for node in graph.nodes.values():
        for ref in node.refs:
            if isinstance(ref, Value):
                yield f"    {numbers[ref.node]} -> {numbers[node.path]}{_tail(ref, graph.nodes[ref.node].types)}"
    for i, (name, ref) in enumerate(graph.outputs.items()):
        yield f"    o{i} [label={_quoted(name)}, shape=ellipse]"
        if isinstance(ref, Value):
            yield f"    {numbers[ref.node]} -> o{i}{_tail(ref, graph.nodes[ref.node].types)}"


def _tail(ref: Value, types: tuple[TensorType, ...]) -> str:
    """Which output an edge starts at, where there are several."""
    return f' [taillabel="{ref.index}"]' if len(types) > 1 else ""


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
