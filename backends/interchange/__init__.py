"""ONNX out: a graph as a checked `.onnx` file, written whole or not at all."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import helper

from ...compiler.diagnostic import Diagnostic, NetcError
from ...compiler.files import refuse_folder
from ...compiler.graph import Graph
from ...compiler.passes.eliminate_common import eliminate_common
from ...compiler.passes.eliminate_dead import eliminate_dead
from ...compiler.passes.expand import expand
from ...compiler.passes.fold_constants import fold_constants
from ...compiler.passes.strip_phase import strip_phase
from . import elementwise as elementwise
from . import indexing as indexing
from . import layout as layout
from . import quantization as quantization
from . import recurrent as recurrent
from . import reduction as reduction
from . import resampling as resampling
from . import window as window
from .build import OPSET, RULES, Build, info

EXTERNAL = 2**30
"""Bytes of weights above which they go to a file of their own beside the model: protobuf ends at 2 GiB."""


def model(graph: Graph, seed: int = 0) -> onnx.ModelProto:
    """The graph's inference phase as an ONNX model. Parameters without data are drawn from `seed`.

    Node and value names are paths of the graph, symbolic sizes are `dim_param`s, and operators without an ONNX
    counterpart are expanded.

    Raises:
        NetcError: for an operator that ONNX cannot express (`unsupported-operator`), a symbolic size that no input's
            shape gives (`unsupported-dimension`), or a parameter that cannot be read or drawn.
    """
    # Taps are no outputs of the file: what only they need is left out.
    graph = _expanded(eliminate_dead(strip_phase(replace(graph, taps={}), "infer")), seed)
    RULES.check(graph)
    build = Build(graph, seed)
    build.run()
    made = helper.make_graph(
        build.nodes,
        graph.name,
        [info(path, node.types[0]) for path, node in graph.inputs.items()],
        [info(name, graph.type(ref)) for name, ref in graph.outputs.items()],
        list(build.initializers.values()),
        value_info=build.described(),
    )
    opsets = [helper.make_opsetid("", OPSET)]
    version = helper.find_min_ir_version_for(opsets)
    return helper.make_model(made, opset_imports=opsets, ir_version=version, producer_name="netc")


def _expanded(graph: Graph, seed: int) -> Graph:
    """The graph without derived operators. The tables and masks that their expansions make are computed once."""
    expanded = expand(graph, RULES.direct)
    if expanded is graph:
        return graph
    return eliminate_dead(fold_constants(eliminate_common(expanded), seed))


def export(graph: Graph, path: Path, seed: int = 0, check: bool = True) -> list[Path]:
    """Write the graph's inference phase to `path`, and its weights to `path.data` beside it where they are large.

    With `check` the file has passed ONNX's checker, whose own shape inference must agree with the graph's types.

    Returns:
        The files written.

    Raises:
        NetcError: as `model`, and where the file cannot be written (`cannot-write`).
    """
    refuse_folder(path)
    made = model(graph, seed)
    large = sum(len(tensor.raw_data) for tensor in made.graph.initializer) > EXTERNAL
    data = path.with_name(f"{path.name}.data")
    try:
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=path.parent) as folder:
            partial = Path(folder) / path.name
            onnx.save_model(made, partial, save_as_external_data=large, location=data.name)
            if check:
                onnx.checker.check_model(str(partial), full_check=True)
            if large:
                (Path(folder) / data.name).replace(data)
            partial.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise NetcError([Diagnostic("cannot-write", f"{path} cannot be written: {reason}")]) from error
    return [path, data] if large else [path]
