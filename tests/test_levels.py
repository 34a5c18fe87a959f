"""What `-O1` to `-O3` do to every model of every spec: it computes the same, and nothing about it grows."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import netc
import pytest
from netc.compiler.contract import Contract
from netc.compiler.graph import Graph, verify
from netc.compiler.library import LEVELS
from netc.compiler.measure import measure
from test_specs import MODELS, number, small

QUICK = {
    *("bert", "convnext_tiny", "densenet121", "deit_tiny", "fashion_mnist", "gpt2", "gru_tagger_deep", "llama_micro"),
    *("lite0_pretrained", "lstm_tagger", "mixtral_micro_each", "mobilenet_v3_large", "perceptron", "resnet50"),
    *("swin_tiny", "unet_classic", "vgg16", "widenet_digits_2"),
}
"""One model of every kind; the others are slow because they are many."""


@cache
def model(path: Path, name: str) -> netc.Model:
    return netc.Model(name, small(path, name))


def sizes(graph: Graph) -> dict[str, int]:
    found = netc.Model(graph.name, graph).cost()
    return {"nodes": len(graph.nodes), "macs": number(found.macs), "parameters": number(found.parameters)}


@pytest.mark.parametrize("level", [level for level in LEVELS if level])
@pytest.mark.parametrize(
    ("path", "name"),
    [p if p.values[1] in QUICK else pytest.param(*p.values, id=p.id, marks=pytest.mark.slow) for p in MODELS],
)
def test_models_compute_the_same_with_no_more(path: Path, name: str, level: int) -> None:
    before = model(path, name)
    after = before.optimised(level).graph
    verify(after)
    found = measure(before.graph, after, Contract(), probes=1)
    assert found.kept, found
    least = sizes(before.optimised(0).graph)
    grown = {what: (least[what], size) for what, size in sizes(after).items() if size > least[what]}
    assert not grown
