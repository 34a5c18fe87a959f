"""Graph → artifact: prepare, lower, optimise, generate code, link, measure, and write, whole or not at all."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ...compiler import weights
from ...compiler.diagnostic import Diagnostic, NetcError
from ...compiler.difference import apart
from ...compiler.fusion.group import Group
from ...compiler.fusion.work import Work
from ...compiler.graph import Graph
from ...compiler.operators.quantization import Quantize
from ...compiler.passes.bind import bind as bind_symbols
from ...compiler.passes.eliminate_dead import eliminate_dead
from ...compiler.passes.expand import expand
from ...compiler.passes.strip_phase import strip_phase
from ...compiler.target import Target
from ...compiler.types import TensorType, symbols
from . import kernels as kernels
from .artifact import CONSTANTS, FORMAT, LIBRARY, MANIFEST, SOURCE, Array, Artifact, kept
from .choice import Analytic, Choices, Option, Question
from .constants import save
from .foreign import PROGRAM, program
from .gpu import Formulas, source
from .grouping import Fused, chosen, correspondence
from .link import link, linker, write_objects
from .lower import Lowered, lower, rules
from .machine import Machine, host, machine
from .optimise import choose, fuse, generate, optimise
from .schedule import Report
from .tuning.recorded import Recorded
from .untyped import tvm

Reference = Callable[[list[Array]], Sequence[Array]]
"""What the model means: outputs in order for inputs in order."""

PROBE = {"N": 2, "B": 2, "H": 64, "W": 64}
"""Sizes that symbolic dimensions take when a model is measured; `PROBE_SIZE` for other names."""
PROBE_SIZE = 16

TOLERANCE = 1e-3
"""Largest difference to the reference, relative to its largest element, before a model counts as miscompiled."""
ROUNDED = 0.1
"""The same for a model that rounds to integers: numbers at the edge between two fall either way, and others follow."""


@dataclass(frozen=True)
class Built:
    """A model compiled in memory."""

    lowered: Lowered
    executable: Any
    constants: Mapping[str, Array]
    report: Report
    machine: Machine
    groups: Sequence[Fused]
    """What each call of a kernel computes, in order: the groups that were asked for, else those that TVM has made."""
    module: Any = None
    """What the executable was made of."""


def compile(
    graph: Graph,
    target: Target,
    folder: Path,
    *,
    seed: int = 0,
    bind: Mapping[str, int] | None = None,
    reference: Reference | None = None,
    tolerance: float = 0,
    spec_hash: str = "",
    passes: Sequence[Mapping[str, Any]] = (),
    groups: Sequence[Group] | None = None,
    choices: Choices | None = None,
) -> Artifact | None:
    """Compile a model for inference into an artifact folder, and open it; None where it does not run on this machine.

    Symbols stay symbolic, except those that `bind` gives numbers. Parameters without data are initialised from `seed`.
    `passes` says in the manifest which passes the graph has gone through, and how well each kept its contract.
    With `groups`, which hold every working node of the prepared graph once, the kernels are these groups;
    else TVM's own fusion chooses. With a `reference`, both are run on random inputs and the largest difference is
    written into the manifest. The same graph, target and seed give the same bytes.

    Raises:
        NetcError: where the target cannot be built for, the graph holds an operator without a rule, a symbol cannot
            be read from the inputs, the folder cannot be written or holds something else, or the difference to the
            reference, relative to the largest element, is above `TOLERANCE`, or `ROUNDED` where the model rounds to
            integers, and above `tolerance`, which is what passes may take (`miscompiled`).
    """
    processor = machine(target)
    prepared = prepare(graph, bind or {})
    built = build(prepared, processor, seed, groups, choices)
    with written_whole(folder) as partial:
        manifest = {
            "format": FORMAT,
            "netc": version("netc"),
            "tvm": version("apache-tvm"),
            "llvm": int(tvm.get_global_func("target.llvm_version_major")()),
            "model": graph.name,
            "spec": spec_hash,
            "passes": list(passes),
            "target": target.data(),
            "processor": {
                "triple": processor.triple,
                "cpu": processor.cpu,
                "lanes": processor.lanes,
                "cache": processor.cache,
                "threads": processor.threads,
                "features": list(processor.features),
            },
            "bind": dict(bind or {}),
            "seed": seed,
            "inputs": _signatures(built.lowered.inputs),
            "outputs": _signatures(built.lowered.outputs),
            "requirements": [[_size(d) for d in pair] for pair in built.lowered.requirements],
            "constants": list(built.constants),
            "kernels": _kernels(built.report),
            "groups": _groups(built),
            "answers": _answers(built, choices),
            "difference": None,
            "files": (files := _write(built, partial)),
            "sizes": {what: _bytes(partial, names) for what, names in files.items()},
        }
        _write_manifest(partial, manifest)
        if reference is not None and processor.native:
            quantized = any(isinstance(n.op, Quantize) for n in prepared.nodes.values())
            tolerance = max(tolerance, ROUNDED if quantized else TOLERANCE)
            difference = _measure(Artifact.load(partial), reference, prepared)
            manifest["difference"] = {**difference, "allowed": tolerance}
            _write_manifest(partial, manifest)
            if not difference["relative"] <= tolerance:
                raise NetcError([_miscompiled(graph, difference, tolerance)])
    return Artifact.load(folder) if processor.native else None


def prepare(graph: Graph, bind: Mapping[str, int]) -> Graph:
    """The graph of inference, in operators that have a rule, and without taps, which a compiled model does not give.

    Raises:
        NetcError: where a bound symbol does not exist or fit, or an operator has no rule.
    """
    graph = strip_phase(bind_symbols(graph, bind), "infer")
    graph = eliminate_dead(replace(expand(graph, rules.direct), taps={}))
    rules.check(graph)
    return graph


def fused(graph: Graph, processor: Machine, groups: Sequence[Group] | None = None) -> dict[str, Any]:
    """The kernels of a prepared graph before they are scheduled, by group; without groups all of it is one."""
    groups = groups if groups is not None else [Group("all", tuple(Work(graph).nodes))]
    lowered = lower(graph, processor, groups)
    module = fuse(lowered.main, processor)
    return {f.group.name: module[f.kernel] for f in lowered.groups or ()}


def build(
    graph: Graph,
    processor: Machine,
    seed: int = 0,
    groups: Sequence[Group] | None = None,
    choices: Choices | None = None,
) -> Built:
    """Compile a prepared graph in memory, and work out its constants on this machine.

    With `groups`, a partition of its working nodes, each of them becomes one kernel. `choices` answer what kernels
    leave open, analytically where there are none.
    """
    if processor.gpu:
        choices = Formulas(choices or Analytic())
    lowered = lower(graph, processor, groups, choices)
    constants = _constants(lowered, graph, seed, processor if processor.native else host())
    module, kernels = lowered.main, lowered.groups
    if kernels is None:
        module = choose(module, processor)
        kernels = chosen(module, lowered.main)
    module, report = optimise(module, processor)
    executable = generate(module, processor)
    correspondence(module, executable, kernels)
    return Built(lowered, executable, constants, report, processor, kernels, module)


def _constants(lowered: Lowered, graph: Graph, seed: int, here: Machine) -> dict[str, Array]:
    """Run `prepare`: what depends on parameters alone."""
    if not lowered.constants:
        return {}
    module, _ = optimise(choose(lowered.prepare, here), here)
    run = tvm.runtime.vm.VirtualMachine(generate(module, here), tvm.cpu())["prepare"]
    given: list[Any] = []
    for name in lowered.arrays:
        array = lowered.data[name] if name in lowered.data else weights.value(graph.parameters[name], seed)
        given.append(kept(array))
    results = run(*given)
    return {name: result.numpy() for name, result in zip(lowered.constants, results, strict=True)}


def _write(built: Built, folder: Path) -> dict[str, Any]:
    """Write library and constants; the names of the files by what they are."""
    save(folder / CONSTANTS, built.constants)
    objects = write_objects(built.executable, folder)
    files: dict[str, Any] = {"constants": CONSTANTS}
    if built.machine.gpu:
        (folder / SOURCE).write_text(source(built.executable.mod))
        files["source"] = SOURCE
    elif not built.machine.native:
        text = program(built.module, folder / CONSTANTS, list(built.constants), len(built.lowered.inputs))
        if text is not None:
            (folder / PROGRAM).write_text(text)
            files["program"] = PROGRAM
        if linker(built.machine) is None:
            return {"objects": [o.name for o in objects], **files}
    link(objects, folder / LIBRARY, built.machine)
    for file in objects:
        file.unlink()
    return {"library": LIBRARY, **files}


def _bytes(folder: Path, names: str | list[str]) -> int:
    return sum((folder / n).stat().st_size for n in ([names] if isinstance(names, str) else names))


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def _signatures(types: Mapping[str, TensorType]) -> list[dict[str, Any]]:
    return [
        {"name": name, "dtype": type.dtype.value, "shape": [_size(d) for d in type.shape]}
        for name, type in types.items()
    ]


def _size(dim: Any) -> int | str:
    return dim if isinstance(dim, int) else str(dim)


def _kernels(report: Report) -> list[dict[str, str]]:
    return [
        {"name": name, "schedule": rule} | ({"instead_of": report.failures[name]} if name in report.failures else {})
        for name, rule in sorted(report.rules.items())
    ]


def _groups(built: Built) -> list[dict[str, Any]]:
    return [
        {
            "name": fused.group.name,
            "nodes": list(fused.group.nodes),
            "kernel": fused.kernel,
            "schedule": built.report.rules[fused.kernel],
        }
        for fused in built.groups
    ]


def _answers(built: Built, choices: Choices | None) -> list[dict[str, Any]]:
    """How kernels were written where they leave it open, for which nodes, and where each answer came from."""
    origins = choices.origins if isinstance(choices, Recorded) else {}
    nodes: dict[Question, dict[str, None]] = {}
    answers: dict[Question, Mapping[str, Option]] = {}
    for asked in built.lowered.asked:
        nodes.setdefault(asked.question, {})[asked.path] = None
        answers[asked.question] = asked.answer
    return [
        {
            "kind": question.kind,
            "facts": dict(question.facts),
            "answer": dict(answers[question]),
            "from": origins.get(question, "analytic" if choices is None else "given"),
            "nodes": list(paths),
        }
        for question, paths in nodes.items()
    ]


def _measure(artifact: Artifact, reference: Reference, graph: Graph) -> dict[str, float]:
    """Run both on random inputs: the largest difference, and its size relative to the largest element."""
    inputs = probe({name: node.types[0] for name, node in graph.inputs.items()})
    found, wanted = artifact.run(inputs), reference(inputs)
    pairs = [(0.0, 0.0), *(apart(np.asarray(b), a) for a, b in zip(found, wanted, strict=True))]
    absolute, relative = (float(np.max(each)) for each in zip(*pairs, strict=True))  # NaN, where one is
    return {"absolute": absolute, "relative": relative}


def probe(types: Mapping[str, TensorType], seed: int = 0) -> list[Array]:
    """Random inputs: normal floats, and integers 0 and 1, which every vocabulary has."""
    generator = np.random.default_rng(seed)
    sizes = {s: PROBE.get(s, PROBE_SIZE) for t in types.values() for d in t.shape for s in symbols(d)}
    arrays: list[Array] = []
    for type in types.values():
        shape = tuple(int(str(d)) for d in type.substitute(sizes).shape)
        if type.dtype.is_float:
            arrays.append(generator.standard_normal(shape).astype(type.dtype.as_numpy))
        else:
            arrays.append(generator.integers(0, 2, shape).astype(type.dtype.as_numpy))
    return arrays


def _miscompiled(graph: Graph, difference: Mapping[str, float], tolerance: float) -> Diagnostic:
    return Diagnostic(
        "miscompiled",
        f"the compiled {graph.name} differs from its meaning by {difference['relative']:.1e} of the largest element, "
        f"more than {tolerance:.0e}",
        notes=(f"the largest difference is {difference['absolute']:.1e}",),
    )


@contextmanager
def written_whole(folder: Path) -> Generator[Path]:
    """An empty folder beside `folder` to write to, which takes its place when the block ends, and goes when it fails.

    Raises:
        NetcError: where `folder` holds something that is no artifact (`not-an-artifact`), or cannot be written to
            (`cannot-write`).
    """
    if folder.exists() and not (folder / MANIFEST).exists() and (not folder.is_dir() or any(folder.iterdir())):
        message = f"{folder} exists and holds no artifact; it is left as it is"
        raise NetcError([Diagnostic("not-an-artifact", message, fix="another folder, or an empty one")])
    mark = secrets.token_hex(4)
    partial = folder.with_name(f".{folder.name}.{mark}.partial")
    old = folder.with_name(f".{folder.name}.{mark}.old")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise NetcError([Diagnostic("cannot-write", f"{folder} cannot be written: {reason}")]) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
