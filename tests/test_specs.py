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
from netc.compiler.types import Dim, DType, substitute, symbols
from netc.compiler.weights import InMemory, value
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
SPECS = sorted((ROOT / "specs").glob("*.net"))
REDUCED = {path.stem: path for path in (Path(__file__).parent / "reduced").glob("*.net")}
SIZES = {"N": 2, "H": 64, "W": 64}
OTHER_SIZES = 8
QUICK = {"digits", "deit_tiny", "gpt2", "llama_micro", "lstm_tagger", "mixer_b16", "mixtral_micro_each", "resnet18"}
"""Models that are compiled without `-m slow` too."""

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
    assert (number(size.parameters) < 5e7, number(size.macs) < 1e9) == (True, True), (
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
            drawn = drawn + rng.uniform(0, 0.2, drawn.shape)
        # PyTorch's own draw has a sixth of the variance that a rectifier keeps up (He et al., 2015).
        return drawn * 6**0.5 if parameter.initialiser.kind == "fan_in_uniform" and drawn.ndim > 1 else drawn

    graph = filled(graph, {path: numbers(p) for path, p in graph.parameters.items()})
    net = netc.Model(graph.name, graph).torch()
    norms = [m for m in net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train().momentum = None  # the statistics become those of the first batch
    if norms:
        with torch.no_grad():
            net(*map(torch.from_numpy, feeds(graph, 2, batch=8).values()))
            for norm in norms:
                # Else every layer of a random network makes differences, and rounding with them, 1.2 times larger (Yang
                # et al., A mean field theory of batch normalization, 2019).
                norm.running_var *= 1.12**2
    state = net.state_dict()
    return filled(graph, {path: state[path].numpy() for path in graph.parameters})


def filled(graph: Graph, numbers: Mapping[str, np.ndarray]) -> Graph:
    types = {path: p.type.dtype.as_numpy for path, p in graph.parameters.items()}
    return graph.with_parameters(
        [replace(p, data=InMemory(numbers[path].astype(types[path]))) for path, p in graph.parameters.items()]
    )


def feeds(graph: Graph, seed: int, batch: int = SIZES["N"]) -> dict[str, np.ndarray]:
    """Random inputs: normal numbers, bytes, indices of the tables that integers look up, and bits."""
    rng = np.random.default_rng(seed)
    made: dict[str, np.ndarray] = {}
    for path, node in graph.inputs.items():
        type = node.types[0]
        shape = [number(substitute(d, {"N": batch})) for d in type.shape]
        readers = [n for n in graph.nodes.values() if n.op.name == "embedding" and n.inputs[0] == Value(path)]
        high = min(
            (number(graph.type(n.inputs[1]).shape[0]) for n in readers if n.inputs[1]),
            default=256 if type.dtype is DType.U8 else 2,
        )
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
    declared = sorted([*names(path), *program(path).families, *program(path).plans])
    assert sorted(line.split()[0] for line in result.stdout.splitlines()) == [f"{path}:{name}" for name in declared]


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
def test_onnx_agrees_with_pytorch(path: Path, name: str) -> None:
    graph = small(path, name)
    given = feeds(graph, 0)
    wanted = reference(graph, given)
    for a, b in zip(wanted, reference(graph, feeds(graph, 1)), strict=True):
        assert np.abs(a - b).max() > 0.01 * np.abs(a).max() > 0, "where no input matters, agreement says nothing"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx_model(graph).SerializeToString(), options)
    assert_agree(session.run(None, given), wanted)


@pytest.mark.parametrize(
    ("path", "name"),
    [p if p.values[1] in QUICK else pytest.param(*p.values, id=p.id, marks=pytest.mark.slow) for p in MODELS],
)
def test_tvm_agrees_with_pytorch(path: Path, name: str, tmp_path: Path) -> None:
    graph = small(path, name)
    given = feeds(graph, 0)
    artifact = netc.Model(name, graph).compile(tmp_path / "artifact", netc.LLVM(threads=1))
    assert_agree(artifact.run(list(given.values())), reference(graph, given))
