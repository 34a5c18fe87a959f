"""Passes: the examples of their documentation, what they refuse, and their promises on random graphs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netc.compiler import passes
from netc.compiler import tree as t
from netc.compiler.backend import backend
from netc.compiler.diagnostic import NetcError
from netc.compiler.graph import Graph, ParameterRef, Value, verify
from netc.compiler.operators.operator import OPERATORS
from netc.compiler.passes.bind import bind
from netc.compiler.passes.choose_layout import choose_layout
from netc.compiler.passes.eliminate_common import eliminate_common
from netc.compiler.passes.eliminate_dead import eliminate_dead
from netc.compiler.passes.expand import expand
from netc.compiler.passes.fold_constants import constants, fold_constants
from netc.compiler.passes.merge_siblings import merge_siblings
from netc.compiler.passes.mixed_precision import HALF, mixed_precision
from netc.compiler.passes.register import PASSES
from netc.compiler.passes.simplify_joins import simplify_joins
from netc.compiler.passes.strip_phase import strip_phase
from netc.compiler.passes.widen import widen
from netc.compiler.source import Source
from netc.compiler.syntax import parse
from netc.compiler.text import print_graph, read_graph
from netc.compiler.types import DType, substitute, symbols
from netc.compiler.weights import value

from .strategies import Builder, graphs

assert passes  # importing the package registers every pass

# ----------------------------------------------------------------------------------------- examples of documentation


def text(lines: str) -> str:
    """Lines in normal form as the text of a graph."""
    return "graph example {\n" + "".join(f"    {line}\n" if line else "\n" for line in lines.splitlines()) + "}\n"


def read(lines: str) -> Graph:
    declaration = parse(Source("example", text(lines))).declarations[0]
    assert isinstance(declaration, t.GraphText)
    return read_graph(declaration)


class Example(NamedTuple):
    """One example in a pass's documentation: `before` becomes `after` with these options."""

    name: str
    options: dict[str, Any]
    before: str
    after: str


_BLOCK = r"\n```net\n(?P<{0}>.*?)\n```\n"
_EXAMPLE = re.compile(
    "Before:" + _BLOCK.format("before") + r"After(?: \((?P<options>.*)\))?:" + _BLOCK.format("after"), re.DOTALL
)


def examples(name: str) -> Iterator[Example]:
    """`Before:` and a block of `net`, `After:` or `After (option = value):` and another."""
    for match in _EXAMPLE.finditer(PASSES[name].doc):
        options = dict(re.findall(r"(\w+) = (\[.*\]|[^,]+)", match["options"] or ""))
        yield Example(name, {k: _value(v) for k, v in options.items()}, match["before"], match["after"])


def _value(text: str) -> Any:
    """Numbers, words and lists of them: as an option of a pass is written."""
    if text.startswith("["):
        return [_value(part) for part in re.findall(r"\[.*?\]|[^,\s]+", text[1:-1])]
    return int(text) if text.isdigit() else text.strip('"')


EXAMPLES = [example for name in PASSES for example in examples(name)]


def test_every_pass_is_documented_by_an_example():
    assert {e.name for e in EXAMPLES} == PASSES.keys()
    for name, each in PASSES.items():
        assert "Refuses " in each.doc, f"{name} says not what it refuses"
        assert each.doc.count("```net") == 2 * len(list(examples(name))), f"an example of {name} cannot be read"


@pytest.mark.parametrize("example", EXAMPLES, ids=[e.name for e in EXAMPLES])
def test_examples_are_true(example: Example):
    each = PASSES[example.name]
    options = each.options.model_validate(example.options)
    before = read(example.before)
    after = each.run(before, **{name: getattr(options, name) for name in example.options})
    verify(after)
    assert print_graph(after) == text(example.after)
    assert print_graph(before) == text(example.before), "an example is in normal form"


# ------------------------------------------------------------------------------------------------ the smaller passes


def test_facts():
    assert PASSES["strip_phase"].facts({}) == {"inference"}
    assert PASSES["strip_phase"].facts({"keep": "train"}) == {"training"}
    graph = read("input %x: f32[N, T]\n\n%y: f32[N, T] = relu(%x)\n\nreturn %y")
    facts = PASSES["bind"].facts
    assert facts({}, bind(graph, {"N": 1})) == frozenset()
    assert facts({}, bind(graph, {"N": 1, "T": 2})) == {"static"}
    assert facts({}) == frozenset()


def test_expand_keeps_operators_by_name():
    graph = read("input %x: f32[N, 3]\n\n%y: f32[N, 3] = silu(%x)\n\nreturn %y")
    assert expand(graph, keep=["silu"]) is graph
    with pytest.raises(NetcError) as caught:
        expand(graph, keep=["sillu"])
    assert (caught.value.diagnostics[0].code, caught.value.diagnostics[0].fix) == ("unknown-operator", "silu")


# --------------------------------------------------------------------------------------------------- common values


def test_nearly_equal_numbers_stay_apart():
    graph = read(
        "input %x: f32[N]\n\n"
        "%a: f32[] = constant(value = 0.0, dtype = f32)\n%b: f32[] = constant(value = -0.0, dtype = f32)\n"
        "%c: f32[N] = div(%x, %a)\n%d: f32[N] = div(%x, %b)\n%e: f32[N] = sub(%c, %d)\n\nreturn %e"
    )
    assert eliminate_common(graph) is graph


def test_random_values_and_phases_stay_apart():
    graph = read(
        "input %x: f32[N]\n\n"
        "%a: f32[N] = dropout(%x, p = 0.5)\n%b: f32[N] = dropout(%x, p = 0.5)\n%c: f32[N] = sub(%a, %b)\n"
        "train %d: f32[N] = tanh(%x)\ninfer %e: f32[N] = tanh(%x)\n%f: f32[N] = select_phase(%d, %e)\n"
        "%g: f32[N] = add(%c, %f)\n\nreturn %g"
    )
    assert eliminate_common(graph) is graph


def test_what_became_of_a_common_value():
    graph = read(
        "input %x: f32[N, 4]\n\n"
        "%a: (f32[N, 2], f32[N, 2]) = chunk(%x, chunks = 2, dim = 1)\n"
        "%b: (f32[N, 2], f32[N, 2]) = chunk(%x, chunks = 2, dim = 1)\n"
        '%c: f32[N, 2] = sub(%a:1, %b:1)\n\ntap "half" = %b\nreturn %c'
    )
    once = eliminate_common(graph)
    verify(once)
    assert [str(r) for r in once.nodes["c"].inputs] == ["%a:1", "%a:1"]
    assert str(once.taps["half"]) == "%a"
    assert (str(once.removed["b"].by), once.removed["b"].maker) == ("%a", "eliminate_common")
    assert eliminate_common(once) is once


# ------------------------------------------------------------------------------------------------ promises, measured

SIZES = {"N": 2, "T": 3}


def feeds(graph: Graph) -> list[np.ndarray]:
    """Random inputs in f64; tokens below 10."""
    rng = np.random.default_rng(0)
    arrays: list[np.ndarray] = []
    for node in graph.inputs.values():
        shape = [int(str(substitute(d, {s: SIZES.get(s, 4) for s in symbols(d)}))) for d in node.types[0].shape]
        drawn = rng.standard_normal(shape) if node.types[0].dtype.is_float else rng.integers(0, 10, shape)
        arrays.append(drawn)
    return arrays


def outputs(graph: Graph) -> list[np.ndarray]:
    """What the graph means, in f64."""
    return backend("pytorch").Reference(widen(graph))(feeds(graph))


def assert_same(before: Graph, after: Graph, tolerance: float = 1e-9) -> None:
    verify(after)
    assert list(after.inputs) == list(before.inputs)
    assert list(after.outputs) == list(before.outputs)
    assert list(after.taps) == list(before.taps)
    assert [after.type(r) for r in after.outputs.values()] == [before.type(r) for r in before.outputs.values()]
    for found, wanted in zip(outputs(after), outputs(before), strict=True):
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= tolerance * max(np.abs(wanted).max(), 1e-6)


def stored(graph: Graph) -> int:
    return sum(int(str(p.type.bytes)) for p in graph.parameters.values())


EXACT: list[Callable[[Graph], Graph]] = [
    choose_layout,
    eliminate_common,
    eliminate_dead,
    fold_constants,
    merge_siblings,
    simplify_joins,
]


@pytest.mark.parametrize("run", EXACT, ids=[f.__name__ for f in EXACT])
@settings(max_examples=25)
@given(graph=graphs())
def test_the_function_stays_and_the_pass_comes_to_rest(run: Callable[[Graph], Graph], graph: Graph):
    before = strip_phase(graph, "infer")
    after = run(before)
    assert_same(before, after)
    assert len(fold_constants(after).nodes) <= len(before.nodes)
    assert stored(after) <= stored(before) * 1.1 + 2**16
    assert run(after) is after
    assert all(after.nodes[p].maker == run.__name__ for p in after.nodes.keys() - before.nodes.keys())
    assert before.nodes.keys() - after.nodes.keys() == after.removed.keys() - before.removed.keys()


# ------------------------------------------------------------------------------------------------- constant folding


def folded_convolution() -> Graph:
    """A convolution whose weight is scaled, as batch norms are folded."""
    build = Builder()
    x = build.input("x", "f32[N, 3, 8, 8]")
    weight = build.parameter("block.conv.weight", (4, 3, 3, 3))
    variance = build.parameter("block.bn.running_var", (4,), "uniform", 0.5, 2.0, buffer=True)
    scale = build("rsqrt", build("add", variance, build("constant", value=1e-5)))
    weight = build("mul", weight, build("reshape", scale, size=[4, 1, 1, 1]))
    mean = build.parameter("block.bn.running_mean", (4,), buffer=True)
    bias = build("neg", build("mul", mean, scale))
    return build.done(build.node("conv2d", x, weight, bias, path="block.conv").value)


def test_a_folded_weight_keeps_its_name():
    before = folded_convolution()
    after = fold_constants(before)
    verify(after)
    assert list(after.nodes) == ["x", "block.conv"]
    weight, bias = after.parameters["block.conv.weight"], after.parameters["block.conv.bias"]
    assert [(p.buffer, p.trainable, str(p.initialiser)) for p in (weight, bias)] == [
        (False, True, "given"),
        (True, False, "given"),
    ]
    w, v = (value(before.parameters[f"block.{n}"]) for n in ("conv.weight", "bn.running_var"))
    expected = w / np.sqrt(v + 1e-5)[:, None, None, None]
    assert weight.data is not None
    np.testing.assert_allclose(weight.data.load(), expected, rtol=1e-6)
    assert weight.data.load() is weight.data.load(), "computed once"
    assert weight.data.load().dtype == np.float32
    assert_same(before, after)


def test_numbers_come_from_data_or_the_seed():
    before = folded_convolution()
    loaded = before.with_parameters(
        [replace(before.parameters["block.conv.weight"], data=Ones((4, 3, 3, 3)))],
    )
    for graph, seed in ((before, 3), (loaded, 3)):
        after = fold_constants(graph, seed=seed)
        expected = value(graph.parameters["block.conv.weight"], seed)
        expected = expected / np.sqrt(value(graph.parameters["block.bn.running_var"], seed) + 1e-5)[:, None, None, None]
        np.testing.assert_allclose(value(after.parameters["block.conv.weight"]), expected, rtol=1e-6)


class Ones:
    """Data that counts how often they are read."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.loaded = 0

    def load(self) -> np.ndarray:
        self.loaded += 1
        return np.ones(self.shape, np.float32)


def test_data_are_read_when_asked_for():
    data = Ones((4, 3, 3, 3))
    graph = folded_convolution()
    graph = graph.with_parameters([replace(graph.parameters["block.conv.weight"], data=data)])
    after = fold_constants(graph)
    assert data.loaded == 0
    for parameter in after.parameters.values():
        value(parameter)
    assert data.loaded == 1


def test_folding_does_not_enlarge():
    build = Builder()
    x = build.input("x", "f32[N, 512]")
    thin = build.parameter("thin", (512, 2))
    tied = build.parameter("tied", (512, 512))
    wide = build("matmul", build("square", thin), build("transpose", thin, dim0=0, dim1=1))
    y = build("linear", build("linear", x, wide, None), tied, None)
    y = build("linear", y, build("abs", tied), None)
    before = build.done(y)
    after = fold_constants(before)
    verify(after)
    assert stored(after) <= stored(before) + 2**14
    assert [n.op.name for n in after.nodes.values() if n.op.name in ("matmul", "abs")] == ["matmul", "abs"]
    assert "square" not in after.nodes, "the part before that is not larger is folded"
    assert fold_constants(before, growth=10.0).nodes.keys() == {"x", "linear", "linear_1", "linear_2"}


def test_small_tables_become_buffers():
    build = Builder()
    x = build.input("x", "f32[N, 7]")
    position = build("mul", build("arange", start=7, dtype="f32"), build("constant", value=0.5))
    scale = build("exp", build("expand", build.parameter("log_scale", (1,)), size=[7]))
    before = build.done(build("mul", build("add", x, position), scale))
    after = fold_constants(before)
    assert_same(before, after)
    assert [n.op.name for n in after.nodes.values()] == ["input", "add", "mul"]
    assert [(p, a.buffer) for p, a in after.parameters.items()] == [("mul", True), ("exp", True)]
    np.testing.assert_array_equal(value(after.parameters["mul"]), np.arange(7, dtype=np.float32) / 2)


def test_numbers_made_of_numbers_are_constants():
    build = Builder()
    x = build.input("x", "f32[N]")
    root = build("sqrt", build("constant", value=2.0))
    before = build.done(build("mul", x, root))
    after = fold_constants(before)
    assert_same(before, after)
    assert not after.parameters
    assert [n.op.name for n in after.nodes.values()] == ["input", "constant", "mul"]
    assert str(after.removed["sqrt"].by) == "%sqrt.constant"


def test_random_symbolic_and_foreign_values_are_not_folded():
    build = Builder()
    x = build.input("x", "f32[N, 3]")
    noise = build("dropout", build.parameter("w", (3,)))
    n = build("reshape", build("cast", build("arange", start=build.edit.type(x).shape[0]), dtype="f32"), size=[-1, 1])
    graph = build.done(build("add", build("mul", x, noise), n))
    assert fold_constants(graph) is graph


def test_names_do_not_nest():
    """A parameter cannot lie below another one: modules of PyTorch could not hold both."""
    build = Builder()
    x = build.input("x", "f32[N, 3]")
    weight = build.parameter("part.w", (3,))
    double = build.node("concat", weight, weight, path="part.w.twice", dim=0).value
    y = build("concat", build("mul", x, weight), x, dim=1)
    before = build.done(build("mul", y, double))
    after = fold_constants(before)
    assert_same(before, after)
    assert list(after.parameters) == ["part.w", "part.w_twice"]


def test_folding_after_folding():
    before = folded_convolution()
    once = fold_constants(before)
    build = once.edit()
    double = build.add(
        "double", OPERATORS["add"](), ParameterRef("block.conv.weight"), ParameterRef("block.conv.weight")
    )
    build.set("block.conv", inputs=[Value("x"), double.value, None])
    twice = build.done()
    after = fold_constants(twice)
    assert_same(twice, after)
    np.testing.assert_array_equal(
        value(after.parameters["block.conv.weight"]), 2 * value(once.parameters["block.conv.weight"])
    )


@pytest.mark.parametrize("dtype", ["f64", "f16", "bf16", "i64"])
def test_folding_keeps_the_dtype(dtype: str):
    build = Builder()
    x = build.input("x", f"{dtype}[N, 3]")
    kind = ("normal", 0.0, 1.0) if dtype != "i64" else ("constant", 3.0)
    weight = build.parameter("w", (3,), *kind, dtype=DType(dtype))
    graph = fold_constants(build.done(build("add", x, build("mul", weight, weight))))
    found = value(graph.parameters["w"])
    assert found.dtype == DType(dtype).as_numpy
    expected = value(build.done(x).parameters["w"])
    np.testing.assert_array_equal(found, expected * expected)


# ------------------------------------------------------------------------------------------------- sibling products


def attention_like(**changed: Any) -> Graph:
    """Three linear layers over one value; `tied` reads the second weight again, `bias` gives the third one a bias."""
    build = Builder()
    x = build.input("x", "f32[N, T, 4]")
    weights = {n: build.parameter(f"attn.{n}.weight", (4, 4)) for n in "qkv"}
    bias = build.parameter("attn.v.bias", (4,)) if changed.get("bias") else None
    parts = [build.node("linear", x, w, bias if n == "v" else None, path=f"attn.{n}").value for n, w in weights.items()]
    y = build("add", build("mul", parts[0], parts[1]), parts[2])
    if changed.get("tied"):
        y = build("linear", y, weights["k"], None)
    return build.done(y, first=parts[0])


def operators(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes.values()]


def test_merged_weights_fold_into_one():
    before = attention_like()
    after = fold_constants(merge_siblings(before))
    assert_same(before, after)
    assert operators(after) == ["input", "linear", "split", "mul", "add"]
    assert list(after.parameters) == ["attn.q_k_v.weight"]
    assert stored(after) == stored(before)
    assert str(after.outputs["first"]) == "%attn.q_k_v.split"
    assert str(after.removed["attn.k"].by) == "%attn.q_k_v.split:1"


def test_tied_weights_and_biases_keep_siblings_apart():
    for after in (merge_siblings(attention_like(tied=True)), merge_siblings(attention_like(bias=True))):
        assert operators(after).count("linear") == (3 if "attn.v.bias" not in after.parameters else 2)
    assert "attn.q_v" in merge_siblings(attention_like(tied=True)).nodes
    assert "attn.q_k" in merge_siblings(attention_like(bias=True)).nodes


@pytest.mark.parametrize(("operator", "weight"), [("conv2d", (2, 3, 1, 1)), ("conv_transpose2d", (3, 2, 2, 2))])
def test_sibling_convolutions(operator: str, weight: tuple[int, ...]):
    build = Builder()
    x = build.input("x", "f32[N, 3, 5, 5]")
    branches: list[Value] = []
    for i in range(4):
        sizes = [d + i if d == 2 and j == weight.index(2) else d for j, d in enumerate(weight)]
        bias = build.parameter(f"{i}.bias", (2 + i,))
        stride = 2 if i == 3 else 1
        branches.append(build(operator, x, build.parameter(f"{i}.weight", tuple(sizes)), bias, stride=stride))
    before = build.done(build("concat", *(build("relu", b) for b in branches[:3]), dim=1), other=branches[3])
    after = fold_constants(merge_siblings(before))
    assert_same(before, after)
    assert operators(after).count(operator) == 2
    assert operators(after).count("split") == 1
    assert stored(after) == stored(before)


# --------------------------------------------------------------------------------------------------- half precision


@settings(max_examples=25)
@given(graph=graphs(), dtype=st.sampled_from(["bf16", "f16"]))
def test_products_are_in_half_precision_and_casts_are_needed(graph: Graph, dtype: Any):
    after = mixed_precision(graph, dtype)
    verify(after)
    assert [after.type(r) for r in after.outputs.values()] == [graph.type(r) for r in graph.outputs.values()]
    assert [after.type(r) for r in after.taps.values()] == [graph.type(r) for r in graph.taps.values()]
    assert mixed_precision(after, dtype) is after
    computed_once = constants(graph)
    casts: list[Any] = []
    for path, node in after.nodes.items():
        if node.op.name in HALF and path not in computed_once:
            assert node.types[0].dtype is DType(dtype)
        if node.op.name == "cast" and path not in graph.nodes:
            casts.append((node.inputs[0], node.op))
            source = node.inputs[0]
            assert node.value in {*after.users, *after.outputs.values(), *after.taps.values()}
            if isinstance(source, Value) and after.nodes[source.node].op.name == "cast":
                assert source.node in graph.nodes, "there and back"
    assert len(set(casts)) == len(casts), "no value is cast twice"
    assert all(n.path in after.nodes for n in graph.nodes.values() if n.op.name != "constant")


@pytest.mark.parametrize(("dtype", "tolerance"), [("bf16", 2e-2), ("f16", 2e-3)])
def test_half_precision_is_near(dtype: Any, tolerance: float):
    build = Builder()
    x = build.input("x", "f32[N, 3, 8, 8]")
    y = build("relu", build("conv2d", x, build.parameter("conv.weight", (8, 3, 3, 3), "fan_in_uniform"), None))
    y = build("mul", y, build("constant", value=1.7))
    y = build("rearrange", y, pattern="n c h w -> n (h w) c")
    y = build("layer_norm", y, None, None)
    for i in range(3):
        weight = build.parameter(f"{i}.weight", (8, 8), "fan_in_uniform")
        y = build("add", y, build("gelu", build("linear", y, weight, None)))
    before = build.done(build("softmax", build("mean", y, dim=[1])))
    after = mixed_precision(before, dtype)
    assert {n.types[0].dtype for n in after.nodes.values() if n.op.name in ("relu", "mul", "gelu")} == {DType(dtype)}
    assert {n.types[0].dtype for n in after.nodes.values() if n.op.name in ("mean", "layer_norm", "add")} == {DType.F32}
    assert_same(before, after, tolerance)
    folded = fold_constants(after)
    assert_same(after, folded, tolerance)
    assert stored(folded) == stored(before) // 2
    assert folded.parameters["conv.weight"].type.dtype is DType(dtype)


def test_operators_that_stay_in_single_precision():
    before = attention_like()
    after = mixed_precision(before, keep=["linear"])
    assert after is before
    with pytest.raises(NetcError, match="linera"):
        mixed_precision(before, keep=["linera"])


# ------------------------------------------------------------------------------------------------------------- joins


@st.composite
def joined(draw: Any) -> Graph:
    """Graphs of nothing but concats and splits along two axes, with several readers."""
    build = Builder()
    values = [build.input("x", "f32[2, 4, 4]"), build.input("y", "f32[2, 4, 4]")]
    for _ in range(draw(st.integers(1, 10))):
        dim = draw(st.integers(1, 2))
        x = draw(st.sampled_from(values[-6:]))
        shape = [int(str(d)) for d in build.edit.type(x).shape]
        rest = shape[:dim] + shape[dim + 1 :]
        if draw(st.booleans()) and shape[dim] > 1:
            first = draw(st.integers(1, shape[dim]))
            sizes = [first, shape[dim] - first] if first < shape[dim] else [first]
            values += build.node("split", x, sizes=sizes, dim=dim).values
        else:
            fitting = [v for v in values[-6:] if [*(t := build.edit.type(v).shape)][:dim] + [*t][dim + 1 :] == rest]
            parts = draw(st.lists(st.sampled_from(fitting), min_size=1, max_size=4)) if fitting else [x]
            values.append(build("concat", *parts, dim=dim))
    return build.done(*dict.fromkeys([values[-1], draw(st.sampled_from(values))]))


@settings(max_examples=60)
@given(graph=joined())
def test_joins_and_parts(graph: Graph):
    graph = eliminate_dead(graph)
    after = simplify_joins(graph)
    assert_same(graph, after, 0)
    assert len(after.nodes) <= len(graph.nodes)
    assert simplify_joins(after) is after
    assert len(eliminate_dead(after).nodes) == len(after.nodes), "nothing dead is left"


# ------------------------------------------------------------------------------------------------------------ layout

_MOVES = ["add", "mul", "concat", "relu", "tanh", "scale", "softmax", "permute", "permute", "permute", "rearrange"]


@st.composite
def transposed(draw: Any) -> Graph:
    """Graphs that are mostly transpositions and operators of any order, of several sizes and readers."""
    build = Builder()
    values = [build.input("x", "f32[N, 2, 3, 4]"), build.input("y", "f32[N, 2, 3, 4]")]
    scale = build.parameter("scale", (1, 2, 1, 1))
    for _ in range(draw(st.integers(2, 14))):
        move = draw(st.sampled_from(_MOVES))
        x = draw(st.sampled_from(values[-4:]))
        shape = build.edit.type(x).shape
        if move in ("add", "mul", "concat"):
            other = draw(st.sampled_from([v for v in values if build.edit.type(v).shape == shape]))
            made = build(move, x, other, **({"dim": draw(st.integers(1, 3))} if move == "concat" else {}))
        elif move == "scale":
            made = build("mul", x, scale) if shape[1] == 2 else build("mul", x, build("constant", value=0.5))
        elif move == "softmax":
            made = build("softmax", x, dim=-1)
        elif move == "permute":
            made = build("permute", x, dims=draw(st.permutations(range(4))))
        elif move == "rearrange":
            made = build("rearrange", x, pattern="a b c d -> a d b c")
        else:
            made = build(move, x)
        values.append(made)
    if draw(st.booleans()):
        build.edit.tap("seen", draw(st.sampled_from(values)))
    return build.done(*dict.fromkeys([values[-1], draw(st.sampled_from(values))]))


def moved(graph: Graph) -> int:
    """Elements that transpositions of values move, with N = 128."""
    fixed = constants(graph)
    nodes = [n for p, n in graph.nodes.items() if n.op.name in ("permute", "rearrange") and p not in fixed]
    return sum(int(str(substitute(n.types[0].elements, {"N": 128}))) for n in nodes)


@settings(max_examples=60)
@given(graph=transposed())
def test_layouts_keep_the_function_and_move_less(graph: Graph):
    graph = eliminate_dead(graph)
    after = choose_layout(graph)
    assert_same(graph, after)
    assert choose_layout(after) is after
    after = fold_constants(after)
    assert moved(after) < moved(graph) or after is graph or fold_constants(graph) is not graph
    assert moved(after) <= moved(graph)


def test_an_imported_network_becomes_channels_first():
    """Convolutions between transpositions, as converters of channels-last models write them."""
    build = Builder()
    x = build.input("x", "f32[N, 8, 8, 4]")
    skip = x
    for i in range(3):
        y = build("permute", x, dims=[0, 3, 1, 2])
        y = build("conv2d", y, build.parameter(f"{i}.weight", (4, 4, 3, 3)), None, padding=1)
        y = build("permute", y, dims=[0, 2, 3, 1])
        y = build("relu", build("add", y, build.parameter(f"{i}.bias", (1, 1, 1, 4))))
        x = build("add", y, skip)
        skip = x
    before = build.done(build("mean", x, dim=[1, 2]))
    after = fold_constants(eliminate_common(choose_layout(before)))
    assert_same(before, after)
    assert (operators(before).count("permute"), operators(after).count("permute")) == (6, 2)
    assert after.parameters["0.bias"].type.shape == (1, 4, 1, 1)


# ------------------------------------------------------------------------------------------------------- large graphs


@pytest.mark.parametrize("run", [*EXACT, mixed_precision], ids=lambda f: f.__name__)
def test_ten_thousand_nodes(run: Callable[[Graph], Graph]):
    """Quadratic passes do not come to an end here."""
    build = Builder()
    x = build.input("x", "f32[N, 4]")
    one = build("constant", value=1.0)
    for i in range(1_250):
        weight = build.parameter(f"{i}.weight", (4, 4))
        left = build("linear", x, build("mul", build("abs", weight), one), None)
        right = build("linear", x, build.parameter(f"{i}.other", (4, 4)), None)
        x = build("add", build("relu", left), build("relu", left))
        x = build("maximum", x, right)
    before = build.done(x)
    assert len(before.nodes) == 10_002
    after = run(before)
    verify(after)
    assert (after is before) == (run in (choose_layout, eliminate_dead, merge_siblings, simplify_joins))
