"""A large model trained module by module, each with a shallow model around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from ..contract import Contract
from ..family import Family
from ..graph import Graph, Parameter, Value
from ..weights import value
from .choose import listed
from .numbers import filled, made, mean
from .part import Point, all_blocks, chain, frozen, part, points, prefixes, sources
from .register import Outcome, Refusal, transform

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

Partition = Literal["stages", "blocks"] | int | list[Point]


@transform
def assemble(
    target: Graph, meta: Graph, at: Partition = "stages", to: Partition | None = None, module: int | None = None
) -> Outcome | Family:
    """Hybrids for training a large model module by module: a shallow meta model, in which one of its modules is
    replaced by that of the target.

    The first model is the target, the second the meta model. Both are divided at corresponding joints into modules.
    Hybrid i has module i of the target, which is trained, and all others of the meta model, which are frozen. Paths
    stand below the models' names. `reassemble` puts the trained modules together. Without `module` the result is the
    family of all hybrids, as many as there are modules.

    Contract: alters. What is preserved: every module computes exactly what it does in its model; inputs and outputs are
    those of the target.

    - at: where the target is divided: `stages`, `blocks`, a number of modules with equally many blocks, or a list of
      the joints between them (see `cut`).
    - to: where the meta model is divided; without it as `at` says.
    - module: the number of the target's module in the hybrid, from 0.

    Refuses models that are divided into different numbers of modules, joints of different types, and different inputs
    or outputs.

    Source: Ni, Wang, Ding, Wang et al., "Deep Model Assembling" (2022), section 3.
    """
    ends, others = joints(target, at, "at"), joints(meta, at if to is None else to, "at" if to is None else "to")
    _check(target, meta, ends, others)
    a, b = prefixes([target, meta])
    if module is None:
        store = {f"{a}.{p.path}": p for p in map(filled, target.parameters.values())}
        store |= {f"{b}.{p.path}": p for p in map(filled, frozen(meta).parameters.values())}
        named = {path: _moved(p, path) for path, p in store.items()}
        names = [*ends, "the outputs"]
        return Family(
            f"{target.name}_hybrids",
            len(ends) + 1,
            lambda i: hybrid(target, meta, ends, others, i),
            lambda i: f"{a} up to {names[i]} in {b}" if i == 0 else f"{a} from {names[i - 1]} to {names[i]} in {b}",
            named,
        )
    if not 0 <= module <= len(ends):
        raise Refusal(f"{target.name} is divided into {len(ends) + 1} modules, 0 to {len(ends)}", option="module")
    graph = hybrid(target, meta, ends, others, module)
    own = [p for p in graph.parameters if p.startswith(f"{a}.")]
    rest = len(graph.parameters) - len(own)
    notes = (f"{len(own)} parameters of {a} are trained, {rest} of {b} are frozen",)
    return Outcome(graph, Contract("alters"), notes, sources(a, target, graph) | sources(b, meta, graph))


def hybrid(target: Graph, meta: Graph, ends: Mapping[str, Value], others: Mapping[str, Value], number: int) -> Graph:
    """The meta model with one module of the target."""
    a, b = prefixes([target, meta])
    here, there = list(ends.values()), list(others.values())
    around = frozen(meta)
    last = number == len(here)
    before, after = here[number - 1 : number] if number else [], [] if last else here[number : number + 1]
    pieces = [(part(target, before, after), a)]
    if number:
        pieces.insert(0, (part(around, (), there[number - 1 : number]), b))
    if not last:
        pieces.append((part(around, there[number : number + 1]), b))
    edit = Graph(target.name).edit("assemble")
    done = chain(edit, pieces)
    for name, ref in (target if last else meta).outputs.items():
        edit.output(name, done[ref])
    return edit.done()


def joints(graph: Graph, at: Partition, option: str) -> dict[str, Value]:
    """The joints that divide a model into modules, by name and in order: one less than modules.

    Raises:
        Refusal: where the model has no such joints.
    """
    if isinstance(at, int):
        own = all_blocks(graph)
        if not 1 <= at <= len(own):
            raise Refusal(f"{graph.name} has {len(own)} blocks, not enough for {at} modules", option=option)
        last = [own[len(own) * i // at - 1] for i in range(1, at)]
        return {b.path: b.output for b in last}
    if isinstance(at, list):
        return points(graph, at, option)
    found = points(graph, at, option)
    return dict(list(found.items())[:-1])


def _check(target: Graph, meta: Graph, ends: Mapping[str, Value], others: Mapping[str, Value]) -> None:
    if len(ends) != len(others):
        message = (
            f"{target.name} is divided into {len(ends) + 1} modules ({listed(ends)}), "
            f"{meta.name} into {len(others) + 1} ({listed(others)})"
        )
        raise Refusal(message, option="to", fix="give a list of joints for each, or a number of modules")
    for (name, end), (other, start) in zip(ends.items(), others.items(), strict=True):
        if target.type(end) != meta.type(start):
            message = f"{name} of {target.name} is {target.type(end)}, and {other} of {meta.name} {meta.type(start)}"
            fits = listed(n for n, v in points(meta, "blocks").items() if meta.type(v) == target.type(end))
            raise Refusal(message, nodes=[end.node, start.node], notes=(f"joints of {meta.name} that fit: {fits}",))
    for kind, a, b in (("input", _inputs(target), _inputs(meta)), ("output", _outputs(target), _outputs(meta))):
        if a != b:
            said = [", ".join(f"{n}: {t}" for n, t in c.items()) for c in (a, b)]
            raise Refusal(f"the {kind}s of {target.name} are {said[0]}, those of {meta.name} {said[1]}")


def _inputs(graph: Graph) -> dict[str, str]:
    return {n: str(node.types[0]) for n, node in graph.inputs.items()}


def _outputs(graph: Graph) -> dict[str, str]:
    return {n: str(graph.type(ref)) for n, ref in graph.outputs.items()}


def _moved(parameter: Parameter, path: str) -> Parameter:
    return replace(parameter, path=path)


@transform
def reassemble(target: Graph, *hybrids: Graph, shared: Literal["refuse", "first", "mean"] = "refuse") -> Outcome:
    """The target of `assemble` with the modules that its hybrids have trained: the target first, then all hybrids.

    Contract: alters. What is preserved: the target's structure and trained parameters; from hybrids that nothing was
    trained in comes the target itself.

    - shared: what becomes of a parameter that several modules use (a tied embedding), and that hybrids have trained
      apart: the first one's numbers are taken, or their mean, or that is refused.

    Refuses hybrids that lack a module, and parameters of other types.

    Source: Ni, Wang, Ding, Wang et al., "Deep Model Assembling" (2022), section 3.
    """
    found: dict[str, list[Parameter]] = {path: [] for path in target.parameters}
    for graph in hybrids:
        for path, parameter in graph.parameters.items():
            name = path.removeprefix(f"{target.name}.")
            if name == path or name not in found:
                continue
            if parameter.type != target.parameters[name].type:
                message = f"{path} is {parameter.type}, and {target.parameters[name].type} in {target.name}"
                raise Refusal(message, nodes=[path])
            found[name].append(parameter)
    missing = [path for path, own in found.items() if not own]
    if missing:
        message = f"no hybrid has {listed(missing)} of {target.name}"
        fix = f"after the target ({target.name} comes first here), give the hybrids of all modules"
        raise Refusal(message, nodes=missing, fix=fix)
    new = [_one(target.parameters[path], own, shared) for path, own in found.items()]
    notes = (f"{len(new)} parameters of {len(hybrids)} hybrids",)
    given = {path: tuple(p.path for p in own) for path, own in found.items()}
    return Outcome(target.with_parameters(new), Contract("alters"), notes, given)


def _one(parameter: Parameter, trained: Sequence[Parameter], shared: str) -> Parameter:
    """A parameter of the target with the numbers of the hybrids that have it."""
    import numpy

    first, *rest = trained
    if rest and shared != "first" and not all(numpy.array_equal(value(first), value(p)) for p in rest):
        if shared == "refuse":
            message = f"{parameter.path} is shared by modules, and {len(trained)} hybrids have trained it apart"
            raise Refusal(message, nodes=[parameter.path], option="shared", fix="shared = mean")
        return made(parameter, mean, *trained)
    return replace(parameter, data=first.data)
