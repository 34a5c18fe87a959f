"""Why a rule applies at a node or not, and where a node comes from."""

from __future__ import annotations

from collections.abc import Iterator

from .diagnostic import Diagnostic, NetcError, nearest
from .graph import Graph, Node, ParameterRef
from .pipeline import Pass, Stage, Trace
from .rewrite.apply import Rewriter
from .rewrite.instance import generate
from .rewrite.match import Match, Matcher
from .rewrite.pattern import Rule, applications
from .source import Span
from .text import print_graph

_REACH = 16
"""The root of a match is looked for so many nodes after the one that is asked about."""


def explain_rule(rule: Rule, graph: Graph, at: str) -> str:
    """Whether a rule applies where a node is, and if not, the first condition that fails.

    Of several ways to match, the one is told that came furthest.

    Raises:
        NetcError: where the graph has no such node.
    """
    node = _node(graph, at)
    furthest: tuple[int, str, str] | None = None
    anchors = [node, *_after(graph, node)] if node.op.name not in rule.operators else [node]
    for anchor in (a for a in anchors if a.op.name in rule.operators):
        reasons: list[tuple[int, str]] = []
        matcher = Matcher(graph, lambda depth, reason, to=reasons: to.append((depth, reason)))
        match = matcher.find(rule, anchor)
        if match is not None and (at in match.nodes or anchor is node):
            return _applies(rule, graph, match)
        if match is None and reasons:
            depth, reason = max(reasons, key=lambda r: r[0])
            if furthest is None or depth > furthest[0]:
                furthest = (depth, anchor.path, reason)
    if furthest is not None:
        depth, path, reason = furthest
        how = f" (after {depth} node{'s' * (depth != 1)} had matched)" if depth else ""
        return f"{rule.name} does not apply at %{path}: {reason}{how}"
    wanted = ", ".join(dict.fromkeys(a.operator for root in rule.roots for a in applications(root.pattern)))
    return f"{rule.name} does not apply at %{at}: it is {node.op.name}; the rule's pattern is made of {wanted}"


def _applies(rule: Rule, graph: Graph, match: Match) -> str:
    nodes = ", ".join(f"%{path}" for path in reversed(tuple(match.nodes)))
    root = graph.nodes[match.roots[0]]
    after = Rewriter([rule])(graph)
    made = [n for n in after.nodes.values() if n.maker == rule.name and graph.nodes.get(n.path) != n]
    near = [n.path for n in made if n.path == root.path or n.path.startswith(f"{root.path}.") or n.path in match.nodes]
    lines = [f"{rule.name} applies at %{root.path}: it matches {nodes}"]
    if near:
        lines.append(f"in their place it puts {', '.join(f'%{path}' for path in near)}")
    return "\n".join(lines)


def _after(graph: Graph, node: Node) -> Iterator[Node]:
    """Nodes that read a node, and those that read them, near ones first."""
    seen = {node.path}
    level = [node]
    for _ in range(_REACH):
        level = list({n.path: n for m in level for v in m.values for n in graph.users.get(v, ())}.values())
        level = [n for n in level if n.path not in seen]
        seen.update(n.path for n in level)
        yield from level


def _node(graph: Graph, path: str) -> Node:
    path = path.removeprefix("%")
    if (parameter := path.removeprefix("@")) in graph.parameters:
        readers = [f"%{n.path}" for n in graph.users.get(ParameterRef(parameter), ())]
        note = f"its readers: {', '.join(readers[:8]) or 'none'}"
        raise NetcError([Diagnostic("unknown-node", f"{parameter} is a parameter, not a node", (), (note,))])
    if path not in graph.nodes:
        near = nearest(path, list(graph.nodes)) if len(graph.nodes) <= 10_000 else None
        raise NetcError([Diagnostic("unknown-node", f"the model has no node {path}", fix=near)])
    return graph.nodes[path]


def explain_node(trace: Trace, path: str) -> str:
    """Which lines of the spec a node comes from, which passes made or changed it, and what became of it.

    Raises:
        NetcError: where no stage has such a node.
    """
    path = path.removeprefix("%")
    graphs = [trace.start, *(s.after for s in trace.stages)]
    home = next((g for g in reversed(graphs) if path in g.nodes), None)
    gone = next((g.removed[path] for g in reversed(graphs) if path in g.removed), None)
    if home is None and gone is None:
        return str(_node(trace.final, path))
    node = home.nodes[path] if home is not None else gone.node if gone is not None else None
    assert node is not None
    lines = [f"%{path}: {', '.join(map(str, node.types))} = {node.op.name}"]
    lines += [f"  written at {_place(span)}" for span in node.origin]
    lines += _history(trace, path)
    if path not in trace.final.nodes:
        lines += _removed(trace, path)
    return "\n".join(lines)


def _history(trace: Trace, path: str) -> Iterator[str]:
    if path in trace.start.nodes:
        yield f"  made by {trace.start.nodes[path].maker or 'elaborating the spec'}"
    for stage in trace.stages:
        before, after = stage.before.nodes.get(path), stage.after.nodes.get(path)
        if before is None and after is not None:
            yield f"  made by {_who(stage, after)}"
        elif before is not None and after is not None and before != after:
            yield f"  changed by {_who(stage, after)}: {_changes(before, after)}"


def _who(stage: Stage, node: Node) -> str:
    name = stage.step.run.name
    return name if node.maker in ("", name) else f"{node.maker} (in {name})"


def _changes(before: Node, after: Node) -> str:
    if before.op.name != after.op.name:
        return f"it was {before.op.name}"
    parts: list[str] = []
    names = [o.name for o in after.op.operands]
    for i, (old, new) in enumerate(zip(before.inputs, after.inputs, strict=False)):
        if old != new:
            parts.append(f"{names[min(i, len(names) - 1)]} was {old if old is not None else 'absent'}, is {new}")
    olds, news = before.op.attributes(), after.op.attributes()
    parts += [f"{k} was {olds[k]}, is {news[k]}" for k in news if k in olds and olds[k] != news[k]]
    if before.types != after.types:
        parts.append(f"it was {', '.join(map(str, before.types))}")
    return "; ".join(parts) or "its inputs"


def _removed(trace: Trace, path: str) -> Iterator[str]:
    for stage in trace.stages:
        if path in stage.before.nodes and path not in stage.after.nodes:
            removal = stage.after.removed.get(path)
            maker = removal.maker if removal is not None and removal.maker else stage.step.run.name
            yield f"  removed by {maker}" + ("" if maker == stage.step.run.name else f" (in {stage.step.run.name})")
            if removal is not None and removal.by is not None:
                yield f"  {removal.by} stands in its place"
            else:
                readers = [n.path for v in stage.before.nodes[path].values for n in stage.before.users.get(v, ())]
                if readers:
                    yield f"  it was read by {', '.join(f'%{r}' for r in readers)}"


def _place(span: Span) -> str:
    line, column = span.source.position(span.start)
    return f"{span.source.name}:{line}:{column}: {span.source.line(line).strip()}"


def explain_pass(found: Pass) -> str:
    """What a pass does, with its contract, its options, and what it needs."""
    options = ", ".join(
        f"{name} = {field.default!r}" if not field.is_required() else name
        for name, field in found.options.model_fields.items()
    )
    lines = [f"{found.name}({options})", f"  contract  {found.contract}"]
    if found.needs:
        lines.append(f"  needs     {', '.join(sorted(found.needs))}")
    lines += ["", *(f"  {line}".rstrip() for line in found.doc.splitlines())]
    rules = found.run.rules if isinstance(found.run, Rewriter) else ()
    return "\n".join([*lines, *(line for rule in rules if len(rules) == 1 for line in _example(rule))])


def _example(rule: Rule) -> Iterator[str]:
    """The shortest of some graphs that the rule was made for, before and after."""
    graphs = [i.graph for i in generate(rule, 8).instances]
    if not graphs:
        return
    graph = min(graphs, key=lambda g: (len(g.nodes), len(print_graph(g))))
    for title, one in (("Before:", graph), ("After:", Rewriter([rule])(graph))):
        yield from ("", f"  {title}")
        yield from (f"    {line.strip()}" for line in print_graph(one).splitlines()[1:-1] if line.strip())
