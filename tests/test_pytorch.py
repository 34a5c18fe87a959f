"""The PyTorch backend: what the generated classes compute, how they are built and named, and the exported files."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import netc
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from netc.backends.pytorch import export, module, source
from netc.compiler.diagnostic import NetcError
from netc.compiler.graph import Edit, Graph, Input, Parameter, ParameterRef, Ref, Scope, SelectPhase, Value, verify
from netc.compiler.operators.activation import Relu, Tanh
from netc.compiler.operators.arithmetic import Add, Mul
from netc.compiler.operators.creation import Constant
from netc.compiler.operators.extern import Extern
from netc.compiler.operators.layout import Concat, Reshape, Slice, Split
from netc.compiler.operators.linear import Linear
from netc.compiler.operators.operator import Initialiser
from netc.compiler.source import Source
from netc.compiler.types import DType, TensorType, substitute, symbol
from netc.compiler.weights import values
from oracle import DTYPES, MEANING
from strategies import Builder, graphs

F32 = DType.F32


def model(text: str, name: str = "m") -> Graph:
    """The graph of a model in a spec."""
    return netc.loads(Source("test.net", text)).model(name).graph


def lines(graph: Graph) -> list[str]:
    return [line.strip() for line in source(graph).splitlines()]


def body(graph: Graph, cls: str, method: str = "forward") -> list[str]:
    """The lines of a method in the generated source."""
    tree = ast.parse(source(graph))
    found = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == cls)
    function = next(n for n in found.body if isinstance(n, ast.FunctionDef) and n.name == method)
    return [line for node in function.body for line in ast.unparse(node).splitlines()]


def classes(graph: Graph) -> list[str]:
    return [n.name for n in ast.parse(source(graph)).body if isinstance(n, ast.ClassDef)]


def parameters(graph: Graph, net: torch.nn.Module) -> bool:
    """Whether a module's state has exactly the graph's parameters (and the counters of batch norms)."""
    names = [n for n in net.state_dict() if not n.endswith("num_batches_tracked")]
    return sorted(names) == sorted(graph.parameters)


def interpret(
    graph: Graph, net: torch.nn.Module, inputs: Mapping[str, torch.Tensor], sizes: Mapping[str, int], training: bool
) -> list[Any]:
    """The outputs of a graph, node by node in the oracle's words, with a module's parameters."""
    state = net.state_dict()
    found: dict[Ref, torch.Tensor] = {ParameterRef(p): state[p].clone() for p in graph.parameters}
    absent = "infer" if training else "train"
    found.update({node.value: inputs[path] for path, node in graph.inputs.items()})
    for node in graph.nodes.values():
        if isinstance(node.op, Input) or node.phase == absent:
            continue
        given_ = [None if r is None else found.get(r) for r in node.inputs]
        if isinstance(node.op, SelectPhase):
            result: Any = given_[0 if training else 1]
        else:
            result = MEANING[node.op.name](_bound(node.op, sizes), *given_)
            # The standard's own constants are f32 where the graph says so.
            if isinstance(node.op, Constant) and node.op.dtype is F32:
                result = torch.tensor(node.op.value, dtype=torch.float64)
        results = tuple(result) if isinstance(result, (tuple, list)) else (result,)
        wanted = [_dtype(t.dtype) for t in node.types]
        found.update((v, r.to(d)) for v, r, d in zip(node.values, results, wanted, strict=True))
    return [found[r] for r in graph.outputs.values() if r in found]


def _dtype(dtype: DType) -> torch.dtype:
    return torch.float64 if dtype is F32 else DTYPES[dtype]


def _bound(op: Any, sizes: Mapping[str, int]) -> Any:
    """The operator with symbolic attributes as numbers."""

    def number(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(number, value))
        return substitute(value, dict(sizes)) if type(value).__name__ == "Expression" else value

    attributes = op.attributes()
    bound = {k: number(v) for k, v in attributes.items()}
    return op if bound == attributes else type(op)(**bound)


def drawn(graph: Graph, bind: Mapping[str, int], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, torch.Tensor] = {}
    for path, node in graph.inputs.items():
        shape = [int(str(substitute(d, dict(bind)))) for d in node.types[0].shape]
        if node.types[0].dtype.is_float:
            found[path] = torch.randn(shape, generator=generator, dtype=torch.float64)
        else:
            found[path] = torch.randint(0, 2, shape, generator=generator).to(DTYPES[node.types[0].dtype])
    return found


def check(graph: Graph, **bind: int) -> torch.nn.Module:
    """The generated module computes what the graph says, in both modes, and has its parameters; the module."""
    verify(graph)
    net = module(graph, dtype=torch.float64)
    assert parameters(graph, net)
    inputs = drawn(graph, bind)
    for training in (False, True):
        net.train(training)
        if training and any(n.op.name in ("batch_norm", "dropout", "drop_path") for n in graph.nodes.values()):
            continue
        wanted = interpret(graph, net, inputs, bind, training)
        with torch.no_grad():
            given_ = net(*inputs.values())
        got = given_ if isinstance(given_, tuple) else () if given_ is None else (given_,)
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    return net.eval()


# ---------------------------------------------------------------------------------------------------------- structure

RESNET = """
module Basic(c, stride = 1) (x: [N, cin, H, W]) {
    main = x |> conv2d(c, 3, stride, padding = 1, bias = false) as conv1 |> batch_norm as bn1 |> relu
             |> conv2d(c, 3, padding = 1, bias = false) as conv2 |> batch_norm as bn2
    skip = x
    if stride != 1 or cin != c {
        skip = x |> conv2d(c, 1, stride, bias = false) as downsample.0 |> batch_norm as downsample.1
    }
    return relu(main + skip)
}
module ResNet(block, depths, width, classes) (x: [N, 3, H, W]) {
    x = x |> conv2d(width, 7, 2, padding = 3, bias = false) as conv1 |> batch_norm as bn1 |> relu
          |> max_pool2d(3, 2, padding = 1)
    for i, depth in depths {
        for j in 0..depth {
            x = x |> block(width * 2**i, stride = 2 if i > 0 and j == 0 else 1) as "layer{i+1}.{j}"
        }
    }
    return x |> mean([2, 3]) |> linear(classes) as fc
}
model m = ResNet(Basic, [2, 2, 3], 4, 10) (x: f32[N, 3, 32, 32])
"""


def test_a_residual_network_reads_as_one_writes_it():
    graph = model(RESNET)
    check(graph, N=2)
    assert classes(graph) == ["Basic", "BasicDownsample", "ResNet"]
    assert body(graph, "Basic") == [
        "out = F.relu(self.bn1(self.conv1(x)))",
        "return F.relu(self.bn2(self.conv2(out)) + x)",
    ]
    assert body(graph, "BasicDownsample")[1] == "return F.relu(self.bn2(self.conv2(out)) + self.downsample(x))"
    assert body(graph, "ResNet", "__init__") == [
        "super().__init__()",
        "self.conv1 = nn.Conv2d(3, 4, 7, stride=2, padding=3, bias=False)",
        "self.bn1 = nn.BatchNorm2d(4)",
        "self.layer1 = nn.Sequential(Basic(4), Basic(4))",
        "self.layer2 = nn.Sequential(BasicDownsample(4), Basic(8))",
        "self.layer3 = nn.Sequential(BasicDownsample(8), Basic(16), Basic(16))",
        "self.fc = nn.Linear(16, 10)",
    ]


def test_what_instances_differ_in_becomes_arguments():
    graph = model("""
        module Unit(c, k, s) (x: [N, cin, H, W]) {
            return x |> conv2d(c, k, s, padding = k // 2) as conv |> leaky_relu(0.5 * k)
        }
        module Net() (x: [N, 3, H, W]) {
            x = x |> Unit(6, 3, 2) as a |> Unit(6, 3, 2) as b |> Unit(8, 1, 1) as c
            return x
        }
        model m = Net() (x: f32[N, 3, 16, 16])
    """)
    net = check(graph, N=2)
    assert classes(graph) == ["Unit", "Net"]
    signature = "def __init__(self, in_channels, out_channels, kernel_size, negative_slope, stride=1, padding=0):"
    assert signature in lines(graph)
    made = "self.c = Unit(in_channels=6, out_channels=8, kernel_size=1, negative_slope=0.5)"
    assert made in lines(graph)
    assert body(graph, "Unit") == ["return F.leaky_relu(self.conv(x), negative_slope=self.negative_slope)"]
    assert net.b.conv.in_channels == 6
    assert net.b.conv.out_channels == 6


def test_a_sequence_takes_layers_without_weights_in():
    graph = model("""
        module Vgg(classes) (x: [N, 3, H, W]) {
            x = x |> conv2d(8, 3, padding = 1) as features.0 |> relu as features.1 |> max_pool2d(2) as features.2
            x = x |> flatten(1)
            return x |> linear(6) as classifier.0 |> relu |> dropout |> linear(classes) as classifier.3
        }
        model m = Vgg(10) (x: f32[N, 3, 8, 8])
    """)
    net = check(graph, N=2)
    assert isinstance(net.features, torch.nn.Sequential)
    # Numbers with gaps name members, but no sequence.
    assert isinstance(net.classifier, torch.nn.ModuleDict)
    assert body(graph, "Vgg")[0] == "x = F.relu(self.classifier['0'](self.features(x).flatten(1)))"
    assert 'self.classifier["3"]' in source(graph)


def test_a_sequence_of_sequences():
    graph = model("""
        module Unit(c) (x: [N, cin]) { return x |> linear(c) as fc |> tanh }
        module Net() (x: [N, 4]) {
            for i in 0..2 { for j in 0..3 { x = x |> Unit(5) as "blocks.{i}.{j}" } }
            return x
        }
        model m = Net() (x: f32[N, 4])
    """)
    check(graph, N=3)
    assert body(graph, "Net") == ["return self.blocks(x)"]
    assert "nn.Sequential(Unit(4), Unit(5), Unit(5))," in lines(graph)
    assert "nn.Sequential(*(Unit(5) for _ in range(3)))," in lines(graph)


def test_calls_that_share_a_value_are_a_loop():
    graph = model("""
        module Unit(c) (x: [N, cin], y: [N, cin]) {
            return x + y |> linear(c) as fc.0 |> relu |> linear(c) as fc.2
        }
        module Net() (x: [N, 4]) {
            y = x |> tanh
            for i in 0..3 { x = Unit(4)(x, y) as "steps.{i}" }
            return x
        }
        model m = Net() (x: f32[N, 4])
    """)
    check(graph, N=3)
    assert "self.steps = nn.ModuleList(Unit() for _ in range(3))" in lines(graph)
    assert "for unit in self.steps:" in lines(graph)


@pytest.mark.parametrize("name", ["type", "class", "forward", "in", "0", "self", "F", "x", "keys", "0.type"])
def test_any_name_can_be_used(name: str):
    edit = Graph("m").edit()
    x = edit.add("x", Input(TensorType(F32, (2, 4)))).value
    for prefix in ("", "box."):
        path = f"{prefix}{name}" if prefix or name != "x" else "x_"
        weight = edit.parameter(Parameter(f"{path}.weight", TensorType(F32, (4, 4)), Initialiser("fan_in_uniform")))
        x = edit.add(path, Linear(), x, weight, None).value
        alone = edit.parameter(Parameter(f"{prefix}p.{name}", TensorType(F32, (4,)), Initialiser("normal", (0.0, 1.0))))
        x = edit.add(f"{prefix}add", Add(), x, alone).value
    edit.output("y", x)
    check(edit.done())


def test_a_name_for_a_parameter_and_for_others_below_it_is_refused():
    edit = Graph("m").edit()
    x = edit.add("x", Input(TensorType(F32, (4,)))).value
    for path in ("a", "a.b"):
        x = edit.add(
            f"add_{path}", Add(), x, edit.parameter(Parameter(path, TensorType(F32, (4,)), Initialiser("ones")))
        ).value
    edit.output("y", x)
    with pytest.raises(NetcError, match="cannot hold the parameter a and others below a"):
        source(edit.done())


# ---------------------------------------------------------------------------------------------------------- weights

WIDE = """
module Attention(d, heads) (x: [N, T, d], mask: [N, 1, 1, T]) {
    q, k, v = x |> linear(3 * d) as qkv |> chunk(3, 2)
    q = q |> rearrange("n t (h w) -> n h t w", sizes = [["h", heads]])
    k = k |> rearrange("n t (h w) -> n h t w", sizes = [["h", heads]])
    v = v |> rearrange("n t (h w) -> n h t w", sizes = [["h", heads]])
    return scaled_dot_product_attention(q, k, v, mask) |> rearrange("n h t w -> n t (h w)") |> linear(d) as out
}
module Wide(d, depth) (tokens: i64[N, T], mask: bool[N, T]) {
    let wte = embedding(20, d)
    let attn = Attention(d, 2)
    x = wte(tokens)
    m = mask |> unsqueeze(1) |> unsqueeze(1)
    for i in 0..depth { x = x + attn(x |> layer_norm as "norm.{i}", m) }
    return logits = x |> linear(weight = wte.weight, bias = false) as head
}
model m = Wide(8, 3) (tokens: i64[N, T], mask: bool[N, T])
"""


def test_ties_are_one_tensor_and_gather_all_gradients():
    graph = model(WIDE)
    net = module(graph, dtype=torch.float64)
    tokens, mask = torch.randint(0, 20, (2, 5)), torch.ones(2, 5, dtype=torch.bool)
    net(tokens, mask).square().sum().backward()
    assert body(graph, "Attention")[0] == "query, key, value = self.qkv(x).chunk(3, dim=-1)"
    assert body(graph, "Wide").count("x = x + self.attn(self.norm[1](x), mask)") == 1
    assert body(graph, "Wide")[-1].endswith(", self.wte.weight)")
    # The same sum by weights that differ in name only.
    apart = {n: p.detach().clone().requires_grad_() for n, p in net.named_parameters()}
    torch.func.functional_call(net, apart, (tokens, mask)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
        torch.testing.assert_close(parameter.grad, apart[name].grad)
    assert len(net.state_dict()) == len(graph.parameters) == 11


def test_gradients_of_ties_by_finite_differences():
    graph = model(WIDE)
    net = module(graph, dtype=torch.float64)
    tokens, mask = torch.tensor([[1, 2, 3]]), torch.tensor([[True, True, False]])
    net(tokens, mask).square().sum().backward()
    for parameter in (net.wte.weight, net.attn.qkv.weight):
        place = tuple(torch.unravel_index(parameter.grad.abs().argmax(), parameter.shape))
        values_: list[torch.Tensor] = []
        for step in (1e-6, -2e-6):
            with torch.no_grad():
                parameter[place] += step
                values_.append(net(tokens, mask).square().sum())
        slope = (values_[0] - values_[1]) / 2e-6
        torch.testing.assert_close(slope, parameter.grad[place], rtol=1e-5, atol=1e-5)


def test_weights_as_expressions_train():
    graph = model("""
        module Lora(d, r) (x: [N, d]) {
            let base = linear(d, bias = false, in_features = d)
            x = base(x)
            for i in 0..2 {
                param a: f32[r, d] = normal(0, 0.2)
                param b: f32[d, r] = normal(0, 0.2)
                x = x |> linear(weight = base.weight + b @ a) as "relaxed.{i}"
            }
            return x
        }
        model m = Lora(8, 2) (x: f32[N, 8])
    """)
    net = check(graph, N=3)
    net(torch.randn(3, 8, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert "x = F.linear(x, self.base.weight + self.b @ self.a, self.relaxed[0].bias)" in lines(graph)


def test_what_is_frozen_does_not_train():
    graph = model(RESNET)
    frozen = [
        replace(p, trainable=False) for n, p in graph.parameters.items() if n.startswith(("layer1", "bn1.weight"))
    ]
    graph = graph.with_parameters(frozen)
    net = check(graph, N=2)
    assert {n for n, p in net.named_parameters() if not p.requires_grad} == {p.path for p in frozen if not p.buffer}
    assert body(graph, "ResNet", "__init__")[-2:] == [
        "self.bn1.weight.requires_grad_(False)",
        "self.layer1.requires_grad_(False)",
    ]


def test_numbers_are_those_of_all_backends():
    graph = model(RESNET)
    net, wanted = module(graph, seed=3), values(graph, seed=3)
    for name, tensor in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert (tensor.numpy() == wanted[name]).all()


def test_the_callers_random_state_stays():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    module(model(RESNET))
    assert torch.equal(torch.rand(3), wanted)


# ---------------------------------------------------------------------------------------------------------- phases


def test_parts_of_one_phase():
    graph = model("""
        module Net(classes) (x: [N, C, H, W]) {
            train { aux = x |> mean([2, 3]) |> linear(classes) as aux }
            y = x |> conv2d(8, 3) as conv |> relu
            train { y = y + 1.0 }
            infer { y = y * 2.0 }
            return logits = (y |> mean([2, 3]) |> linear(classes) as fc), aux = aux
        }
        model m = Net(5) (x: f32[N, 3, 8, 8])
    """)
    net = check(graph, N=2)
    assert isinstance(net(torch.zeros(1, 3, 8, 8).double()), torch.Tensor)
    logits, aux = net.train()(torch.zeros(1, 3, 8, 8).double())
    assert logits.shape == aux.shape
    text = body(graph, "Net")
    at = text.index("    out = x + 1.0")
    assert text[at - 1 : at + 3] == ["if self.training:", "    out = x + 1.0", "else:", "    out = x * 2.0"]
    assert text[-3:] == ["if self.training:", "    return (out, aux)", "return out"]


def test_a_module_gives_what_exists_in_training_only():
    graph = model("""
        module Inner() (x: [N, D]) {
            train { aux = x |> linear(3) as aux }
            return x |> linear(4) as fc, aux
        }
        module Net() (x: [N, D]) {
            y, aux = x |> Inner as inner
            train { more = aux |> tanh }
            return y = y, aux = aux, more = more
        }
        model m = Net() (x: f32[N, 6])
    """)
    check(graph, N=2)


def test_dropout_and_batch_norm_follow_the_mode():
    graph = model("""
        module Net() (x: [N, C, H, W]) {
            return x |> batch_norm(momentum = 0.3) as bn |> dropout(0.5) |> drop_path(0.5)
        }
        model m = Net() (x: f32[N, 2, 4, 4])
    """)
    net = module(graph)
    x = torch.randn(8, 2, 4, 4) + 3
    assert torch.equal(net(x), net(x))
    net.train()
    torch.manual_seed(0)
    y = net(x)
    assert net.bn.running_mean.allclose(0.3 * x.mean((0, 2, 3)), atol=1e-5)
    kept = y.flatten(1).abs().sum(1) > 0
    assert 0 < kept.sum() < 8
    normal = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    ratio = (y / normal)[kept]
    assert set(ratio.round().unique().tolist()) == {0.0, 4.0}


def test_stop_gradient():
    graph = model("""
        module Net() (x: [N, D]) { return x + stop_gradient(x * 3.0) }
        model m = Net() (x: f32[N, 2])
    """)
    x = torch.ones(1, 2, requires_grad=True)
    module(graph)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[1.0, 1.0]]


# ---------------------------------------------------------------------------------------------------------- sizes


def test_symbolic_sizes_are_read_off_the_inputs():
    graph = model("""
        module Inner() (x: [N, C, H, W]) {
            y = x |> reshape([N, C * H, W]) |> transpose(1, 2)
            return y |> reshape([N, W, H, C]) |> slice(1, 0, W // 2)
        }
        module Net() (x: [N, C, H, W], p: [T, W]) {
            y = x |> max_pool2d(2) |> Inner as inner
            z = p |> expand([3, T, W]) |> reshape([3 * T, W])
            return y = y, z = z, n = arange(T + 1, 2 * T + W)
        }
        model m = Net() (x: f32[N, 6, H, W], p: f32[T, W])
    """)
    check(graph, N=2, H=5, W=8, T=3)
    check(graph, N=1, H=8, W=12, T=2)


def test_sizes_that_no_argument_shows_are_handed_down():
    n, t = symbol("N"), symbol("T")
    edit = Graph("m").edit()
    x = edit.add("x", Input(TensorType(F32, (n * t, 4)))).value
    y = edit.add("y", Input(TensorType(F32, (n, 2)))).value
    edit.scope(Scope("inner", "Inner", "inner"))
    edit.scope(Scope("inner.deep", "Deep", "inner.deep"))
    r = edit.add("inner.deep.reshape", Reshape((n, t, 4)), x).value
    r = edit.add("inner.relu", Relu(), r).value
    edit.output("r", r)
    edit.output("y", y)
    check(edit.done(), N=2, T=3)


def test_a_bound_that_only_shows_at_run_time_is_checked():
    t = symbol("T")
    edit = Graph("m").edit()
    x = edit.add("x", Input(TensorType(F32, (t, 4)))).value
    p = edit.parameter(Parameter("p", TensorType(F32, (6, 4)), Initialiser("normal", (0.0, 1.0))))
    cut = edit.add("slice", Slice(0, 0, t), p).value
    edit.output("y", edit.add("add", Add(), x, cut).value)
    net = check(edit.done(), T=5)
    with pytest.raises((RuntimeError, IndexError)):
        net(torch.zeros(7, 4, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_everything_that_is_f32_follows_the_dtype(dtype: torch.dtype):
    graph = model("""
        module Inner() (ids: i64[N, T]) { return cast(ids, f32) * 0.1 }
        module Net() (ids: i64[N, T]) {
            x = ids |> embedding(10, 4) as wte
            m = Inner()(ids) as inner
            return x * unsqueeze(m, 2) + full([4], 0.5) + constant([0.1, 0.2, 0.3, 0.4])
        }
        model m = Net() (ids: i64[N, T])
    """)
    found = module(graph, dtype=dtype)(torch.ones(2, 3, dtype=torch.int64))
    assert found.dtype == dtype
    if dtype is torch.float64:
        check(graph, N=2, T=3)


# ------------------------------------------------------------------------------------------------------ awkward graphs


def _linear(edit: Edit, path: str, x: Ref, parameter: str) -> Value:
    ref = ParameterRef(parameter)
    if edit.find_parameter(parameter) is None:
        edit.parameter(Parameter(parameter, TensorType(F32, (4, 4)), Initialiser("fan_in_uniform")))
    return edit.add(path, Linear(), x, ref, None).value


def test_an_instance_and_a_weight_of_elsewhere_are_handed_down():
    edit = Graph("m").edit()
    for path, name, instance in (
        ("a", "A", "a"), ("a.shared", "Shared", "a.shared"), ("b", "B", "b"), ("b.shared", "Shared", "a.shared"),
        ("b.deep", "Deep", "b.deep"),
    ):  # fmt: skip
        edit.scope(Scope(path, name, instance))
    x = edit.add("x", Input(TensorType(F32, (2, 4)))).value
    x = _linear(edit, "a.shared.fc", x, "a.shared.fc.weight")
    x = _linear(edit, "b.shared.fc", x, "a.shared.fc.weight")
    x = _linear(edit, "b.deep.fc", x, "a.shared.fc.weight")
    edit.output("y", x)
    graph = edit.done()
    check(graph)
    assert body(graph, "B") == ["return self.deep(shared(x), fc_weight)"]


def test_calls_of_one_instance_that_differ_are_methods_of_one_class():
    edit = Graph("m").edit()
    x = edit.add("x", Input(TensorType(F32, (2, 4)))).value
    for i in range(3):
        path = f"a~{i}" if i else "a"
        edit.scope(Scope(path, "A", "a"))
        x = _linear(edit, f"{path}.fc", x, "a.fc.weight")
        if i == 1:
            x = edit.add(f"{path}.tanh", Tanh(), x).value
    edit.output("y", x)
    graph = edit.done()
    check(graph)
    assert classes(graph) == ["A", "M"]
    assert body(graph, "A", "forward2") == ["return torch.tanh(self.fc(x))"]
    assert body(graph, "M") == ["return self.a(self.a.forward2(self.a(x)))"] or "self.a.forward2(" in source(graph)


def test_scopes_that_need_each_other_are_written_out():
    edit = Graph("m").edit()
    x = edit.add("x", Input(TensorType(F32, (2, 4)))).value
    edit.scope(Scope("a", "A", "a"))
    edit.scope(Scope("b", "B", "b"))
    one = _linear(edit, "a.one", x, "a.one.weight")
    two = _linear(edit, "b.two", one, "b.two.weight")
    three = _linear(edit, "a.three", two, "a.three.weight")
    edit.output("y", three)
    graph = edit.done()
    check(graph)
    assert classes(graph) == ["M"]


def test_padding_only_at_one_end():
    graph = model("""
        module Net() (x: [N, 3, H, W]) {
            a = x |> conv2d(4, 3, 2, padding = "same") as conv
            b = x |> max_pool2d(2, 1, padding = [[0, 1], [1, 0]])
            c = x |> conv_transpose2d(4, 3, 2, padding = [[0, 1], [1, 0]]) as up
            return a = a, b = b, c = c
        }
        model m = Net() (x: f32[N, 3, 8, 8])
    """)
    check(graph, N=2)
    assert "a = self.conv(F.pad(x, (0, 1, 0, 1)))" in lines(graph) or "self.conv(F.pad(x, (0, 1, 0, 1)))" in source(
        graph
    )


def test_a_users_own_function():
    kind = TensorType(F32, (2, 4))
    edit = Graph("m").edit()
    x = edit.add("x", Input(kind)).value
    op = Extern("swish", (kind,), (("beta", 2.0),), (("pytorch", "own_functions:swish"),))
    edit.output("y", edit.add("swish", op, x).value)
    graph = edit.done()
    assert "import own_functions" in lines(graph)
    net = module(graph)
    assert torch.equal(net(torch.ones(2, 4)), torch.ones(2, 4) * torch.tensor(2.0).sigmoid())
    edit = graph.edit()
    edit.set("swish", op=replace(op, implementations=(("tvm", "x:y"),)))
    with pytest.raises(NetcError, match="names no function for PyTorch"):
        module(edit.done())


def test_recurrent_networks():
    graph = model("""
        module Net() (x: [N, T, D], h: [2, N, 6]) {
            y, hn, cn = x |> lstm(6, bidirectional = true) as lstm
            z, last = y |> gru(5, 2) as gru
            return z = z, c = cn
        }
        model m = Net() (x: f32[N, T, 4], h: f32[2, N, 6])
    """)
    net = check(graph, N=2, T=3)
    assert isinstance(net.lstm, torch.nn.LSTM)
    assert "output, (_, c_n) = self.lstm(x)" in lines(graph)


@settings(max_examples=60)
@given(graphs())
def test_random_graphs(graph: Graph):
    check(graph, N=2, T=3)


@st.composite
def tangles(draw: st.DrawFn) -> Graph:
    """Graphs of small operations in scopes drawn at random: tied calls that differ, values that leave and come back,
    weights of elsewhere, parts of one phase, all of shape [2, 4]."""
    edit = Graph("m").edit()
    scopes = [
        ("", ""),
        ("a", "a"),
        ("a.b", "a.b"),
        ("a.b~1", "a.b"),
        ("c", "c"),
        ("c~1", "c"),
        ("c.a", "a"),
        ("d.0", "d.0"),
        ("d.1", "d.1"),
    ]
    for path, instance in scopes[1:]:
        edit.scope(Scope(path, instance[0].upper(), instance))
    kept: list[tuple[Value, str]] = [
        (edit.add(f"x{i}", Input(TensorType(F32, (2, 4)))).value, "both") for i in range(2)
    ]
    weights: list[str] = []
    order = draw(st.booleans())
    chosen = [draw(st.sampled_from(scopes)) for _ in range(draw(st.integers(2, 14)))]
    if order:  # all of one scope together: most of them stay calls
        chosen.sort(key=scopes.index)
    for i, (scope, instance) in enumerate(chosen):
        phase = draw(st.sampled_from(["both", "both", "both", "train", "infer"]))
        usable = [v for v, p in kept if p in ("both", phase)]
        near = usable[-4:] if draw(st.booleans()) else usable
        x, y = draw(st.sampled_from(near)), draw(st.sampled_from(usable))
        path = f"{scope}.n{i}" if scope else f"n{i}"
        kind = draw(st.sampled_from(["add", "tanh", "scale", "linear", "cut", "select", "add"]))
        if kind == "add":
            made = edit.add(path, Add(), x, y, phase=phase).values  # type: ignore[arg-type]
        elif kind == "tanh":
            made = edit.add(path, Tanh(), x, phase=phase).values  # type: ignore[arg-type]
        elif kind == "scale":
            number = edit.add(f"{path}.constant", Constant(draw(st.sampled_from([-0.5, 0.25])), F32), phase=phase)  # type: ignore[arg-type]
            made = edit.add(path, Mul(), number.value, x, phase=phase).values  # type: ignore[arg-type]
        elif kind == "linear":
            own = f"{instance}.n{i}.weight" if instance else f"n{i}.weight"
            name = draw(st.sampled_from([own, own, *weights]))
            weights.append(name)
            made = [_linear(edit, path, x, name)]
            phase = "both" if x in [v for v, p in kept if p == "both"] else phase
            edit._nodes[path] = replace(edit._nodes[path], phase=phase)  # type: ignore[arg-type]
        elif kind == "cut":
            parts = edit.add(f"{path}.split", Split((1, 3), 1), x, phase=phase).values  # type: ignore[arg-type]
            made = edit.add(path, Concat(1), parts[1], parts[0], phase=phase).values  # type: ignore[arg-type]
        else:
            train = [v for v, p in kept if p in ("both", "train")]
            infer = [v for v, p in kept if p in ("both", "infer")]
            phase = "both"
            made = edit.add(path, SelectPhase(), draw(st.sampled_from(train)), draw(st.sampled_from(infer))).values
        kept.extend((v, phase) for v in made)
    edit.output("last", kept[-1][0])
    for value, phase in draw(st.lists(st.sampled_from(kept), max_size=2)):
        edit.output(f"{phase}_{value.node}", value)
    return edit.done()


@settings(max_examples=300)
@given(tangles())
def test_tangled_graphs(graph: Graph):
    check(graph)


# ---------------------------------------------------------------------------------------------------------- files


def load(path: Path) -> Any:
    """The module of an exported Python file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize("text", [RESNET, WIDE])
def test_exported_files_give_the_same_bits(tmp_path: Path, text: str):
    graph = model(text)
    code, data = export(graph, tmp_path / "out", seed=1)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["m.py", "m.safetensors"]
    made = load(code)
    again, net = made.load(data), module(graph, seed=1)
    assert not again.training
    inputs = [t.float() if t.is_floating_point() else t for t in drawn(graph, {"N": 2, "T": 3}).values()]
    assert torch.equal(again(*inputs), net(*inputs))
    assert all(torch.equal(a, net.state_dict()[n]) for n, a in again.state_dict().items())
    # Nothing but PyTorch and Python itself.
    imported = {n.names[0].name for n in ast.walk(ast.parse(code.read_text())) if isinstance(n, ast.Import)}
    assert imported == {"json", "torch", "torch.nn.functional"}


def test_the_module_is_what_the_source_says(tmp_path: Path):
    graph = model(RESNET)
    assert inspect.getsource(type(module(graph)).forward) in source(graph)
    assert export(graph, tmp_path)[0].read_text() == source(graph)


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path):
    first = [p.read_bytes() for p in export(model(WIDE), tmp_path / "a")]
    assert first == [p.read_bytes() for p in export(model(WIDE), tmp_path / "b")]


def test_files_are_written_whole_or_not_at_all(tmp_path: Path):
    (tmp_path / "m.safetensors").mkdir()
    (tmp_path / "m.py").write_text("before")
    with pytest.raises(NetcError, match="cannot be written"):
        export(model(WIDE), tmp_path)
    assert (tmp_path / "m.py").read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.py", "m.safetensors"]
    (tmp_path / "file").touch()
    with pytest.raises(NetcError, match="cannot be made"):
        export(model(WIDE), tmp_path / "file" / "inner")


def test_a_long_chain_is_written_and_runs():
    edit = Graph("m").edit()
    x = edit.add("x", Input(TensorType(F32, (2, 4)))).value
    for i in range(3000):
        x = edit.add(f"n{i}", Tanh() if i % 3 else Relu(), x).value
    edit.output("y", x)
    check(edit.done())


@pytest.mark.parametrize("mask", ["f32[]", "f32[5]", "bool[5]"])
def test_masks_of_few_axes(mask: str):
    b = Builder()
    q, k = b.input("q", "f32[1, 2, 3, 4]"), b.input("k", "f32[1, 2, 5, 4]")
    graph = b.done(b("scaled_dot_product_attention", q, k, k, b.input("mask", mask)))
    x, y = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 5, 4)
    shape = [5] if "5" in mask else []
    drawn = torch.arange(5) > 1 if "bool" in mask else torch.randn(shape)
    wanted = torch.nn.functional.scaled_dot_product_attention(x, y, y, attn_mask=drawn.expand(3, 5))
    torch.testing.assert_close(module(graph)(x, y, drawn), wanted)


def test_a_whole_number_bounds_fractions():
    b = Builder()
    graph = b.done(b("minimum", b.input("x", "f32[2, 3]"), b("constant", value=1, dtype="i64")))
    x = torch.randn(2, 3) * 2
    torch.testing.assert_close(module(graph)(x), x.clamp(max=1))
