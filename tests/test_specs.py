"""Every model of every spec: what `netc check` and `netc fmt` say, its normal form, and three backends that agree.

Large models are compared in reduced form: `reduced/x.net` declares models of the same names as `specs/x.net`, made of
its modules by smaller arguments and inputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import netc
import numpy as np
import onnxruntime
import pytest
import torch
from netc.__main__ import app
from netc.backends.interchange import model as onnx_model
from netc.compiler import tree
from netc.compiler.graph import Graph, Parameter, Value, verify
from netc.compiler.source import Source
from netc.compiler.text import print_graph
from netc.compiler.types import Dim, substitute, symbols
from netc.compiler.weights import InMemory, value
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
SPECS = sorted((ROOT / "specs").glob("*.net"))
REDUCED = {path.stem: path for path in (Path(__file__).parent / "reduced").glob("*.net")}
SIZES = {"N": 2, "H": 64, "W": 64}
OTHER_SIZES = 8

program = cache(lambda path: netc.load(path, root=ROOT))


def names(path: Path) -> list[str]:
    """The models of a file, read off its text: a broken spec fails its own tests and not everyone's."""
    return re.findall(r"^(?:model|graph) (\w+)", path.read_text(), re.M)


MODELS = [pytest.param(path, name, id=f"{path.stem}-{name}") for path in SPECS for name in names(path)]


def small(path: Path, name: str) -> Graph:
    """A spec's model, or its reduced form where there is one."""
    there = REDUCED.get(path.stem, path)
    found = program(there if name in program(there).models else path).model(name)
    size = found.cost()
    assert (number(size.parameters) < 4e6, number(size.macs) < 1e9) == (True, True), (
        f"reduce {name} in tests/reduced/{path.name}"
    )
    return stirred(found.graph)


def number(dim: Dim) -> int:
    """A size, with every symbol as in the tests."""
    return int(str(substitute(dim, {s: SIZES.get(s, OTHER_SIZES) for s in symbols(dim)})))


def stirred(graph: Graph) -> Graph:
    """The graph with numbers that hide nothing: no norm, bias or scale is neutral, and no layer fades its input out."""
    rng = np.random.default_rng(0)

    def numbers(parameter: Parameter) -> np.ndarray:
        drawn = value(parameter, seed=1)
        if parameter.type.dtype.is_float and parameter.initialiser.kind in ("zeros", "ones", "constant"):
            drawn = drawn + rng.uniform(0, 0.2, drawn.shape).astype(drawn.dtype)
        # Weights drawn as by PyTorch have a third of the variance that keeps the size of what goes through them.
        return drawn * 3**0.5 if parameter.initialiser.kind == "fan_in_uniform" and drawn.ndim > 1 else drawn

    changed = [replace(p, data=InMemory(numbers(p).astype(p.type.dtype.as_numpy))) for p in graph.parameters.values()]
    return graph.with_parameters(changed)


def feeds(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Random inputs: normal numbers, bits, and indices of the tables that integers look up."""
    rng = np.random.default_rng(seed)
    made: dict[str, np.ndarray] = {}
    for path, node in graph.inputs.items():
        type = node.types[0]
        shape = [number(d) for d in type.shape]
        readers = [n for n in graph.nodes.values() if n.op.name == "embedding" and n.inputs[0] == Value(path)]
        high = min((number(graph.type(n.inputs[1]).shape[0]) for n in readers if n.inputs[1]), default=2)
        drawn = rng.standard_normal(shape) if type.dtype.is_float else rng.integers(0, high, shape)
        made[path] = drawn.astype(type.dtype.as_numpy)
    return made


def reference(graph: Graph, given: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What PyTorch computes in float32."""
    net = netc.Model(graph.name, graph).torch()
    with torch.no_grad():
        found = net(*(torch.from_numpy(x) for x in given.values()))
    return [y.numpy() for y in (found if isinstance(found, tuple) else (found,))]


def assert_agree(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * float(np.abs(b).max()) if b.dtype.kind == "f" else 0)


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_netc_check_finds_nothing(path: Path) -> None:
    result = CliRunner().invoke(app, ["check", str(path)])
    assert (result.exit_code, result.stderr) == (0, ""), result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()] == [f"{path}:{name}" for name in names(path)]


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_every_model_states_its_parameters_and_macs(path: Path) -> None:
    stated = {e.model: set(e.entries) for e in program(path).expectations()}
    for declaration in program(path).scope.tree.declarations:
        if isinstance(declaration, tree.Model) and not isinstance(declaration.value, tree.Pipe):
            assert stated.get(declaration.name.text, set()) >= {"params", "macs"}, declaration.name.text


@pytest.mark.parametrize("path", [*SPECS, *REDUCED.values()], ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_netc_fmt_changes_nothing(path: Path) -> None:
    result = CliRunner().invoke(app, ["fmt", "--check", str(path)])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(("path", "name"), MODELS)
def test_the_normal_form_is_the_graph(path: Path, name: str) -> None:
    graph = program(path).model(name).graph
    verify(graph)
    text = print_graph(graph)
    again = netc.loads(Source("normal.net", text)).model(graph.name).graph
    assert again == graph
    assert print_graph(again) == text


@pytest.mark.parametrize("path", REDUCED.values(), ids=lambda p: p.stem)
def test_reduced_models_are_those_of_a_spec(path: Path) -> None:
    assert set(program(path).models) <= set(program(ROOT / "specs" / path.name).models)


@pytest.mark.parametrize(("path", "name"), MODELS)
def test_outputs_depend_on_inputs(path: Path, name: str) -> None:
    """Else agreement would say nothing."""
    graph = small(path, name)
    for a, b in zip(reference(graph, feeds(graph, 0)), reference(graph, feeds(graph, 1)), strict=True):
        assert np.abs(a - b).max() > 0.01 * np.abs(a).max() > 0


@pytest.mark.parametrize(("path", "name"), MODELS)
def test_onnx_agrees_with_pytorch(path: Path, name: str) -> None:
    graph = small(path, name)
    given = feeds(graph, 0)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx_model(graph).SerializeToString(), options)
    assert_agree(session.run(list(graph.outputs), given), reference(graph, given))


def compiled_agrees(path: Path, name: str, folder: Path) -> None:
    graph = small(path, name)
    given = feeds(graph, 0)
    artifact = netc.Model(name, graph).compile(folder, netc.LLVM(threads=1))
    assert_agree(artifact.run(list(given.values())), reference(graph, given))


@pytest.mark.parametrize(("path", "name"), MODELS)
def test_tvm_agrees_with_pytorch(path: Path, name: str, tmp_path: Path) -> None:
    compiled_agrees(path, name, tmp_path / "artifact")
