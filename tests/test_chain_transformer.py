"""Feed-forward layers and attention as one kernel each: PyTorch's numbers, one PrimFunc, no whole intermediate."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import netc
import numpy as np
import pytest
import torch
import tvm
from netc.backends.relax import kernels as kernels
from netc.backends.relax.build import Built, build, prepare
from netc.backends.relax.formula import Formula, Formulas, held
from netc.backends.relax.kernels.feedforward import _task, _width
from netc.backends.relax.lower import Lowering, lower, rules
from netc.backends.relax.machine import host
from netc.backends.relax.optimise import fuse
from netc.backends.relax.untyped import walk
from netc.compiler.fusion.chains import decided
from netc.compiler.fusion.group import Group
from netc.compiler.fusion.kinds import Chain, Refusal
from netc.compiler.fusion.work import Work
from netc.compiler.graph import Graph, Input
from netc.compiler.operators.arithmetic import Elementwise
from netc.compiler.operators.attention import ScaledDotProductAttention
from netc.compiler.operators.operator import OPERATORS, SAMPLES
from netc.compiler.source import Source
from netc.compiler.types import DType, TensorType
from test_relax import drawn, execute, reference
from tvm import tirx

HERE = host(threads=1)
F = torch.nn.functional


def model(text: str) -> Graph:
    """The graph of inference of `module M(…)`, with its inputs' types as the module has them, in f32."""
    return prepare(netc.loads(Source("test.net", text)).model("m").graph, {})


def fused(graph: Graph, sizes: dict[str, int] | None = None, tolerance: float = 1e-4) -> Built:
    """The whole graph as one kernel, which gives what PyTorch does, written by its author."""
    built = build(graph, HERE, 0, [Group("all", tuple(Work(graph).nodes))])
    assert len(built.groups) == 1
    assert set(built.report.rules.values()) == {"own"}, built.report
    inputs = drawn(graph, sizes)
    found, wanted = execute(built, inputs), reference(graph, [a.astype(float) for a in inputs])
    for name, array in wanted.items():
        difference = np.abs(found[name].astype(float) - array).max()
        assert difference <= tolerance * max(1.0, float(np.abs(array).max()))
    return built


def kind(graph: Graph, *left_out: str) -> Chain | Refusal:
    work = Work(graph)
    return decided(work, [path for path in work.nodes if path not in left_out])


def buffers(graph: Graph) -> list[int]:
    """Elements of every buffer that the one kernel of a graph allocates."""
    lowered = lower(graph, HERE, [Group("all", tuple(Work(graph).nodes))])
    functions = [f for f in fuse(lowered.main, HERE).functions.values() if isinstance(f, tirx.PrimFunc)]
    (function,) = functions
    found: list[int] = []

    def visit(node: Any) -> None:
        found.append(int(np.prod([int(d) for d in node.buffer.shape])))

    walk(function.body, (tirx.AllocBuffer, visit))
    assert found
    return found


# -------------------------------------------------------------------------------------------------- feed-forward

PLAIN = """
    module M() (x: [{shape}]) -> y {{
        return y = x |> linear({hidden}) as up |> {act} |> linear({out}) as down{after}
    }}
    model m = M() (x: {dtype}[{shape}])
"""
GATED = """
    module M() (x: [{shape}]) -> y {{
        h = silu(x |> linear({hidden}, bias = false) as gate) * (x |> linear({hidden}, bias = false) as up)
        return y = h |> linear({out}, bias = false) as down{after}
    }}
    model m = M() (x: {dtype}[{shape}])
"""


def feed_forward(
    shape: str, hidden: int, out: int, *, text: str = PLAIN, act: str = "gelu", after: str = "", dtype: str = "f32"
) -> Graph:
    return model(text.format(shape=shape, hidden=hidden, out=out, act=act, after=after, dtype=dtype))


SHAPES = [
    ("3, 64", 128, 64),  # fewer rows than a register tile
    ("1, 20", 36, 7),  # no whole vector anywhere
    ("2, 197, 48", 192, 48),  # tokens of an odd number, over two images
    ("2, 5, 7, 33", 100, 50),
    ("1, 300, 96", 600, 96),  # several portions, the last one short
]


@pytest.mark.parametrize("text", [PLAIN, GATED], ids=["plain", "gated"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s[0].replace(", ", "x") if isinstance(s, tuple) else None)
def test_feed_forward_is_one_kernel(shape: tuple[str, int, int], text: str):
    fused(feed_forward(*shape, text=text))


@pytest.mark.parametrize("act", ["relu", 'gelu(approximate = "tanh")', "silu", "hardswish", "clip(-0.5, 0.5)"])
def test_activations_between(act: str):
    fused(feed_forward("2, 30, 32", 80, 32, act=act))


@pytest.mark.parametrize("text", [PLAIN, GATED], ids=["plain", "gated"])
def test_residual_after(text: str):
    graph = feed_forward("2, 31, 40", 72, 40, text=text.replace("as down{after}", "as down |> mul(0.5) |> add(x)"))
    fused(graph)


@pytest.mark.parametrize("text", [PLAIN, GATED], ids=["plain", "gated"])
def test_batch_of_any_size(text: str):
    graph = feed_forward("N, 9, 40", 72, 40, text=text)
    for n in (1, 5):
        fused(graph, {"N": n})


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_half_precision_feed_forward(dtype: str):
    fused(feed_forward("2, 30, 48", 96, 48, dtype=dtype), tolerance=3e-2)


def test_stored_with_other_axes_last():
    graph = model("""
        module M() (x: [2, 32, 9]) -> y {
            return y = x |> permute([0, 2, 1]) |> linear(64) as up |> relu |> linear(32) as down
        }
        model m = M() (x: f32[2, 32, 9])
    """)
    fused(graph)


def test_no_hidden_layer_is_whole():
    rows, features, hidden = 2048, 64, 512
    found = buffers(feed_forward(f"{rows}, {features}", hidden, features))
    assert max(found) < rows * hidden / 4
    assert 4 * sum(found) <= HERE.cache


@pytest.mark.parametrize("rows", [1, 13, 14, 197, 512, 100000])
@pytest.mark.parametrize("columns", [(64, 128), (768, 3072), (17, 40)])
def test_tasks_hold_whole_tiles_and_fit(rows: int, columns: tuple[int, int]):
    width = _width(columns, HERE)
    each = lambda n: 4 * n * (2 * columns[0] + 256)  # noqa: E731
    height, tiles = _task(rows, HERE.accumulators * HERE.lanes // width, each, HERE)
    assert height * width <= HERE.accumulators * HERE.lanes
    assert height <= rows
    assert tiles == 1 or each(height * tiles) <= HERE.cache


# ------------------------------------------------------------------------------------------------------ attention


def attention_op(
    q: Sequence[int], k: Sequence[int], width: int, mask: TensorType | None = None, **given: Any
) -> tuple[Graph, list[TensorType]]:
    types = [TensorType(DType.F32, tuple(s)) for s in (q, k, (*k[:-1], width))] + ([mask] if mask else [])
    edit = Graph("attention").edit()
    refs = [edit.add(f"in{i}", Input(t)).value for i, t in enumerate(types)]
    node = edit.add("attention", ScaledDotProductAttention(**given), *refs)
    edit.output("y", node.value)
    return prepare(edit.done(), {}), types


def attend(arrays: Sequence[np.ndarray], **given: Any) -> np.ndarray:
    """PyTorch in float64; rows that see nothing are zero."""
    q, k, v, *mask = (torch.from_numpy(a).double() if a.dtype != bool else torch.from_numpy(a) for a in arrays)
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    return F.scaled_dot_product_attention(q, k, v, *mask, **given).nan_to_num(0.0).numpy()


CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], int, dict[str, Any]]] = {
    "one query": ((1, 2, 1, 64), (1, 2, 77, 64), 64, {}),
    "odd": ((2, 3, 17, 5), (2, 3, 33, 5), 7, {}),
    "two blocks": ((1, 2, 197, 32), (1, 2, 300, 32), 48, {}),
    "grouped": ((2, 6, 70, 16), (2, 2, 70, 16), 16, {}),
    "one head of keys": ((2, 4, 33, 16), (2, 1, 40, 16), 32, {}),
    "causal": ((1, 2, 150, 32), (1, 2, 150, 32), 32, {"is_causal": True}),
    "causal, more keys": ((1, 2, 70, 16), (1, 2, 300, 16), 16, {"is_causal": True}),
    "causal, fewer keys": ((1, 4, 300, 16), (1, 2, 50, 16), 16, {"is_causal": True}),
    "scale": ((1, 1, 65, 8), (1, 1, 65, 8), 8, {"scale": 0.3}),
    "wide heads": ((1, 1, 40, 256), (1, 1, 90, 256), 200, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_attention_is_one_kernel(name: str):
    q, k, width, given = CASES[name]
    graph, _ = attention_op(q, k, width, **given)
    built = build(graph, HERE, 0, [Group("all", ("attention",))])
    (group,) = built.groups
    assert re.fullmatch("group_attention(_copy)?", group.kernel)
    inputs = drawn(graph)
    np.testing.assert_allclose(execute(built, inputs)["y"], attend(inputs, **given), atol=1e-5)


def test_few_queries_alone_leave_their_scores_in_memory():
    """One query fills one lane of sixteen."""
    graph, _ = attention_op((1, 2, 1, 64), (1, 2, 77, 64), 64)
    built = build(graph, HERE)
    assert "softmax" in built.report.rules
    inputs = drawn(graph)
    np.testing.assert_allclose(execute(built, inputs)["y"], attend(inputs), atol=1e-5)


MASKS = [(70, 90), (1, 90), (4, 70, 90), (2, 1, 1, 90), (2, 4, 70, 1), (70, 1)]


@pytest.mark.parametrize("shape", MASKS, ids=str)
@pytest.mark.parametrize("dtype", [DType.BOOL, DType.F32])
def test_masks(shape: tuple[int, ...], dtype: DType):
    graph, _ = attention_op((2, 4, 70, 16), (2, 2, 90, 16), 24, TensorType(dtype, shape))
    inputs = drawn(graph)
    if dtype is DType.BOOL:
        inputs[3] = np.random.default_rng(1).random(shape) < 0.4
        inputs[3].reshape(-1)[:5] = False
    built = build(graph, HERE)
    np.testing.assert_allclose(execute(built, inputs)["y"], attend(inputs[:3] + inputs[3:]), atol=1e-5)


@pytest.mark.parametrize("size", [1e4, -1e4, 1e30])
def test_large_scores(size: float):
    """Scores of ±10⁴ and more, of which the largest comes last or first."""
    graph, _ = attention_op((1, 1, 40, 8), (1, 1, 600, 8), 8, scale=1.0)
    q, k, v = drawn(graph)
    q[...], k[...] = size / 8, np.linspace(-1, 1, 600)[:, None]
    q[0, 0, 20:] *= -1
    found = execute(build(graph, HERE), [q, k, v])["y"]
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, attend([q, k, v], scale=1.0), atol=1e-4)


def test_rows_that_see_nothing_are_zero():
    graph, _ = attention_op((1, 2, 20, 8), (1, 2, 600, 8), 8, TensorType(DType.F32, (20, 600)))
    inputs = drawn(graph)
    inputs[3][...] = -np.inf
    inputs[3][5:, 550] = 0
    found = execute(build(graph, HERE), inputs)["y"]
    assert not found[:, :, :5].any()
    np.testing.assert_allclose(found[:, :, 5:], np.broadcast_to(inputs[2][:, :, 550:551], (1, 2, 15, 8)), atol=1e-6)


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16, DType.F64])
def test_other_precisions(dtype: DType):
    edit = Graph("attention").edit()
    refs = [edit.add(f"in{i}", Input(TensorType(dtype, (1, 2, 50, 16)))).value for i in range(3)]
    edit.output("y", edit.add("attention", ScaledDotProductAttention(), *refs).value)
    graph = prepare(edit.done(), {})
    inputs = drawn(graph)
    found = execute(build(graph, HERE), inputs)["y"].astype(float)
    wanted = reference(graph, [a.astype(float) for a in inputs])["y"]
    np.testing.assert_allclose(found, wanted, atol=1e-12 if dtype is DType.F64 else 2e-2)


STEPS = """
    module M() ({inputs}) -> y {{
        a = matmul(q, transpose(k, {first}, {second})){scale} |> softmax(dim = -1) |> dropout(0.1)
        return y = matmul(a, v){after}
    }}
    model m = M() ({types})
"""


def in_steps(lead: str, t: str, s: str, d: int, e: int, scale: str = " * 0.25", after: str = "", **more: str) -> Graph:
    rank = len(lead.split(",")) + 2 if lead else 2
    shapes = {"q": f"{t}, {d}", "k": f"{s}, {d}", "v": f"{s}, {e}"}
    shapes = {name: f"{lead}, {shape}" if lead else shape for name, shape in shapes.items()} | more
    inputs = ", ".join(f"{name}: [{shape.split(':')[-1]}]" for name, shape in shapes.items())
    types = ", ".join(
        f"{name}: {shape.split(':')[0] if ':' in shape else 'f32'}[{shape.split(':')[-1]}]"
        for name, shape in shapes.items()
    )
    text = STEPS.format(inputs=inputs, types=types, first=rank - 2, second=rank - 1, scale=scale, after=after)
    return model(text)


@pytest.mark.parametrize(
    "graph",
    [
        lambda: in_steps("2, 3", "70", "70", 16, 16),
        lambda: in_steps("2, 3", "197", "300", 16, 40, scale=" / 4.0"),
        lambda: in_steps("", "33", "20", 8, 8, scale=""),
        lambda: in_steps("5", "33", "20", 8, 8),
        lambda: in_steps("2, 3", "40", "50", 8, 8, scale=" * 0.35 + bias", bias="3, 40, 50"),
        lambda: in_steps("2, 3", "40", "50", 8, 8, scale=" * 0.35 + bias", bias="2, 1, 1, 50"),
        lambda: in_steps("N, 3", "40", "50", 8, 8),
        lambda: in_steps("N, 3", "T", "T", 8, 8),
    ],
    ids=["square", "odd", "matrices", "one batch axis", "bias", "key mask", "any batch", "any length"],
)
def test_attention_in_steps_is_one_kernel(graph: Callable[[], Graph]):
    made = graph()
    found = kind(made)
    assert isinstance(found, Chain)
    assert found.kind == "attention"
    fused(made, {"N": 2, "T": 37})


def test_softmax_of_nothing_is_none():
    graph = in_steps("1", "20", "300", 8, 8, scale=" + bias", bias="20, 300")
    inputs = drawn(graph)
    inputs[3][:4] = -np.inf
    found = execute(build(graph, HERE, 0, [Group("all", tuple(Work(graph).nodes))]), inputs)
    for name, array in reference(graph, inputs).items():
        assert np.isnan(array[:, :4]).all()
        np.testing.assert_allclose(found[name], array, atol=1e-5)


def test_no_matrix_of_scores_is_whole():
    found = buffers(in_steps("1, 2", "1024", "1024", 32, 32))
    assert max(found) < 1024 * 1024 / 8
    assert 4 * sum(found) <= HERE.cache


# ------------------------------------------------------------------------------------------------- what is a chain

WRONG = {
    "read outside": (
        "h = x |> linear(32) as up |> relu as act\nreturn y = h |> linear(16) as down, z = h * 2.0",
        "is read by",
    ),
    "moved": (
        "return y = x |> linear(32) as up |> reshape([4, 16]) |> relu |> linear(16) as down",
        "through",
    ),
    "normalised": ("return y = x |> linear(32) as up |> layer_norm as norm |> linear(16) as down", "nor element-wise"),
    "two inputs": (
        "return y = (x |> linear(32) as up) * (x * 2.0 |> linear(32) as gate) |> linear(16) as down",
        "reads another value",
    ),
    "one product": ("return y = x |> linear(32) as up |> relu", "two matrix products"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_chain_names_nodes(name: str):
    body, reason = WRONG[name]
    results = "(y, z)" if "z =" in body else "y"
    graph = model(f"module M() (x: [2, 16]) -> {results} {{\n{body}\n}}\nmodel m = M() (x: f32[2, 16])")
    found = kind(graph, *[p for p in graph.nodes if name == "read outside" and "mul" in p])
    assert isinstance(found, Refusal)
    assert reason in found.reason
    assert found.nodes
    assert all(path in graph.nodes for path in found.nodes)
    assert f"%{found.nodes[0]}" in found.reason or name == "one product"


@pytest.mark.parametrize("op", [o for o in OPERATORS.values() if issubclass(o, Elementwise)], ids=lambda o: o.name)
def test_every_element_wise_operator_is_a_formula(op: Any):
    sample = next(s for s in SAMPLES if type(s.op) is op)
    types = [TensorType(DType.F32, (4, 4)) if i is None else i for i in [None] * len(op.operands)]
    if op.name.startswith("logical") or op.name == "where":
        types[0] = TensorType(DType.BOOL, (4, 4))
    if op.name.startswith("logical"):
        types = [TensorType(DType.BOOL, (4, 4))] * len(types)
    if op.name in ("quantize", "dequantize"):
        types = [*types[:1], TensorType(DType.F32, ()), TensorType(DType.U8, ())]
        types[0] = types[0] if op.name == "quantize" else TensorType(DType.U8, (4, 4))
    low = Lowering(HERE)
    values = [held(t, f"v{i}") for i, t in enumerate(types)]
    if op.name == "prelu":
        values[1] = low.parameter("slopes", TensorType(DType.F32, (1,)))
        types[1] = TensorType(DType.F32, (1,))
    node = sample.op.canonical(*types)
    made = rules.get(op)(Formulas(low), node, values, node.shape(*types))
    assert isinstance(made, Formula)
    elements = {f"v{i}": tirx.Var(f"v{i}", "bool" if t.dtype is DType.BOOL else "float32") for i, t in enumerate(types)}
    if op.name != "prelu":
        assert isinstance(made.at([tirx.IntImm("int64", 0)] * 2, elements), tvm.ir.Expr)
