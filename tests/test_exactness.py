"""What is exact by contract is exact: in float64, on whole published models, with random numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import netc
import numpy
import pytest
from netc.compiler.axes import Selection, analyse
from netc.compiler.contract import EXACT, Contract
from netc.compiler.graph import verify
from netc.compiler.measure import measure
from netc.compiler.probe import probed
from netc.compiler.receipt import receipt
from netc.compiler.source import Source

SPECS = Path(__file__).parents[1] / "specs"
MODELS = {
    "resnet50": "resnet",
    "mobilenet_v2": "mobilenet_v2",
    "densenet121": "densenet",
    "swin_tiny": "swin",
    "gpt2": "gpt2",
    "llama_micro": "llama",
    "llama_micro_tied": "llama",
}
TRANSFORMS = {
    "wider": "widen(by = 2)",
    "half wider": "widen(by = 1.5)",
    "deeper": "deepen()",
    "deeper by layers": "deepen(how = net2deeper)",
    "branches": 'path("*", branches = 2)',
    "averaged branches": 'path("*", branches = 3, how = "average")',
    "branches and back": 'path("*") |> merge_paths()',
    "adapters": "lora(rank = 4)",
    "adapters folded": "lora(rank = 4) |> fold_weights()",
    "experts": "experts(count = 4)",
    "experts and back": "experts(count = 4) |> dense()",
    "copied experts": 'experts(count = 2, how = "upcycle")',
}
_CONVOLUTIONAL = ("resnet50", "mobilenet_v2", "densenet121")
_FEED_FORWARD = ("swin_tiny", "gpt2", "llama_micro", "llama_micro_tied")


def model(name: str, text: str) -> netc.Model:
    path = SPECS / "of_a_test.net"
    source = f'import "{MODELS[name]}.net" {{ {name} }}\nmodel m = {text}\n'
    return netc.loads(Source(str(path), source, path)).model("m")


def _suits(name: str, transform: str) -> bool:
    """Experts are made of linear layers; layers that are the identity follow a relu; blocks that are it, add."""
    if "experts" in transform:
        return name in _FEED_FORWARD
    return {"deeper by layers": name in _CONVOLUTIONAL, "deeper": name != "densenet121"}.get(transform, True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "transform"), [(m, x) for m in MODELS for x in TRANSFORMS if _suits(m, x)])
def test_the_function_stays(name: str, transform: str) -> None:
    made = model(name, f"{name} |> {TRANSFORMS[transform]}")
    verify(made.graph)
    for applied in made.applied:
        found = receipt(applied)
        assert str(found.contract) == "exact"
        assert found.measured is not None
        assert found.measured.relative <= EXACT, found


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_permutable_dimension_is_permuted(name: str) -> None:
    graph = probed(model(name, name).graph)
    analysis = analyse(graph)
    random = numpy.random.default_rng(0)
    units = {c: random.permutation(c.size) for c in analysis.classes if c.permutable and isinstance(c.size, int)}
    assert units
    permuted = Selection(analysis, units).graph()
    verify(permuted)
    found = measure(graph, permuted, Contract(), probes=2)
    assert found.relative <= EXACT, found


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_anchors_of_a_family_are_the_models(name: str) -> None:
    path = SPECS / "of_a_test.net"
    source = f'import "{MODELS[name]}.net" {{ {name} }}\nlet twin = {name}\nfamily f = stitch({name}, twin)\n'
    program = netc.loads(Source(str(path), source, path))
    family = program.family("f")
    assert len(family.anchors) == 2
    graph = probed(program.model(f"f[{next(iter(family.anchors))}]").graph)
    whole = model(name, name).graph
    data = {p.path.partition(".")[2]: p.data for p in graph.parameters.values()}
    whole = whole.with_parameters(replace(p, data=data[path]) for path, p in whole.parameters.items())
    assert measure(whole, graph, Contract(), probes=1).relative == 0
