"""Models made of parts of models: cut, graft, assemble, composite, side, ensemble, interface, and their joints."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import netc
import numpy
import pytest
import torch
from netc.compiler.axes import analyse
from netc.compiler.backend import backend
from netc.compiler.graph import Graph, Value, verify
from netc.compiler.probe import probed
from netc.compiler.source import Source
from netc.compiler.syntax import parse
from netc.compiler.text import print_graph, read_graph
from netc.compiler.transforms.join import ZEROS, Joint, channel_axis, joined, misfit
from netc.compiler.transforms.register import Refusal
from netc.compiler.types import TensorType
from strategies import Builder, type_of

ROOT = Path(__file__).parents[1]


@cache
def model(spec: str, name: str, seed: int = 0) -> Graph:
    """A spec's reduced form with random numbers that hide nothing."""
    return probed(netc.load(ROOT / "tests/reduced" / f"{spec}.net", root=ROOT).model(name).graph, seed)


def checked(graph: Graph) -> Graph:
    """A graph that verifies, and that its text says completely."""
    verify(graph)
    (tree,) = parse(Source("graph", print_graph(graph))).declarations
    again: Any = read_graph(tree)  # pyright: ignore[reportArgumentType]
    assert print_graph(again) == print_graph(graph)
    return graph


def run(graph: Graph, *arrays: Any) -> list[Any]:
    return backend("pytorch").Reference(graph)([numpy.asarray(a) for a in arrays])


# ------------------------------------------------------------------------------------------------------------- joints


def joint(have: str, wanted: TensorType, how: Joint, axes: tuple[int, int] | None = None, numbers: Any = None) -> Graph:
    build = Builder()
    x = build.input("x", have)
    return checked(build.done(joined(build.edit, "link", x, wanted, how, axes=axes, numbers=numbers)))


@pytest.mark.parametrize(
    ("have", "wanted", "axes", "operators"),
    [
        ("f32[N, 8, 6, 6]", "f32[N, 8, 6, 6]", None, []),
        ("f32[N, 8, 6, 6]", "f32[N, 5, 6, 6]", None, ["conv2d"]),
        ("f32[N, 8, 6, 6]", "f32[N, 5, 3, 2]", None, ["conv2d"]),
        ("f32[N, 8, 6, 6]", "f32[N, 5, 4, 4]", None, ["interpolate", "conv2d"]),
        ("f32[N, 8, 6, 6]", "f32[N, 5, 12, 7]", None, ["conv2d", "interpolate"]),
        ("f32[N, 8, 6, 6]", "f32[N, 8, 3, 3]", None, ["interpolate"]),
        ("f32[N, 6, 6, 8]", "f32[N, 6, 6, 4]", (3, 3), ["linear"]),
        ("f32[N, 6, 6, 8]", "f32[N, 4, 3, 3]", (3, 1), ["permute", "conv2d"]),
        ("f32[N, 8, 6, 6]", "f32[N, 3, 3, 4]", (1, 3), ["conv2d", "permute"]),
        ("f32[N, 8, 6, 6]", "f32[N, 6, 6, 4]", (1, 3), ["permute", "linear"]),
        ("f32[N, T, 8]", "f32[N, T, 5]", None, ["linear"]),
        ("f32[N, 17, 8]", "f32[N, 9, 5]", None, ["permute", "interpolate", "permute", "linear"]),
        ("f32[N, 8, 17]", "f32[N, 5, 17]", (1, 1), ["conv1d"]),
        ("f32[N, 8, 4, 4, 4]", "f32[N, 5, 2, 2, 2]", None, ["conv3d"]),
        ("f32[N, 8]", "f32[N, 5]", None, ["linear"]),
        ("f16[N, 8]", "f32[N, 8]", None, ["cast"]),
    ],
)
def test_a_joint_has_the_type_that_is_wanted(
    have: str, wanted: str, axes: tuple[int, int] | None, operators: list[str]
) -> None:
    graph = joint(have, type_of(wanted), Joint(), axes)
    assert graph.type(graph.outputs["output"]) == type_of(wanted)
    assert [n.op.name for n in graph.nodes.values()][1:] == operators


def test_a_joint_projects_as_numpy_does() -> None:
    rng = numpy.random.default_rng(0)
    weight, bias = rng.standard_normal((5, 8)), rng.standard_normal(5)
    x = rng.standard_normal((2, 8, 6, 6)).astype("float32")
    (y,) = run(joint("f32[N, 8, 6, 6]", type_of("f32[N, 5, 3, 3]"), Joint(), None, (weight, bias)), x)
    expected = numpy.einsum("oc,nchw->nohw", weight, x[:, :, ::2, ::2]) + bias[:, None, None]
    assert numpy.allclose(y, expected, atol=1e-5)
    low = Joint(rank=3)
    (y,) = run(joint("f32[N, 8, 6, 6]", type_of("f32[N, 5, 6, 6]"), low, None, (weight, bias)), x)
    u, s, v = numpy.linalg.svd(weight)
    nearest = (u[:, :3] * s[:3]) @ v[:3]
    assert numpy.allclose(y, numpy.einsum("oc,nchw->nohw", nearest, x) + bias[:, None, None], atol=1e-5)
    assert torch.linalg.matrix_rank(torch.tensor(nearest)) == 3


@pytest.mark.parametrize("rank", [None, 2])
def test_a_joint_of_zeros_gives_zero(rank: int | None) -> None:
    x = numpy.ones((2, 8, 4, 4), "float32")
    (y,) = run(joint("f32[N, 8, 4, 4]", type_of("f32[N, 8, 7, 7]"), Joint(ZEROS, always=True, rank=rank)), x)
    assert y.shape == (2, 8, 7, 7)
    assert not y.any()


def test_a_joint_between_kinds_is_refused_with_both_types() -> None:
    assert misfit(type_of("f32[N, 8, 4, 4]"), type_of("f32[N, 16, 8]"))
    with pytest.raises(Refusal, match=r"x gives f32\[N, 8, 4, 4\] where f32\[N, 16, 8\] is wanted") as caught:
        joint("f32[N, 8, 4, 4]", type_of("f32[N, 16, 8]"), Joint())
    assert caught.value.nodes == ("x",)
    assert "sequence" in caught.value.notes[0]


@pytest.mark.parametrize(
    ("spec", "name", "node", "axis"),
    [
        ("resnet", "resnet18", "layer2.0.relu_1", 1),
        ("vit", "deit_tiny", "blocks.0.add_1", 2),
        ("swin", "swin_tiny", "layers.1.blocks.0.add_1", 3),
        ("mixer", "mixer_b16", "blocks.0.add_1", 2),
        ("gpt2", "gpt2", "h.0.add_1", 2),
        ("resnet", "resnet18", "mean", 1),
    ],
)
def test_the_axis_of_channels_follows_from_parameters(spec: str, name: str, node: str, axis: int) -> None:
    assert channel_axis(analyse(model(spec, name)), Value(node)) == axis
