"""Operators against PyTorch: shapes, expansions, arithmetic, layers; and what they say where inputs do not fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from netc.compiler.operators.convolution import Conv1d, Conv2d, Conv3d, ConvTranspose2d
from netc.compiler.operators.operator import (
    LAYERS,
    OPERATORS,
    SAMPLES,
    Initialiser,
    Operator,
    OptionalTypes,
    Sample,
    ShapeError,
    validate,
)
from netc.compiler.operators.pooling import AvgPool2d, MaxPool2d
from netc.compiler.types import DType, TensorType, substitute, symbol
from oracle import call, doubled, draw, type_of_tensor
from pydantic import ValidationError
from strategies import type_of
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def title(sample: Sample) -> str:
    return f"{sample.op.name}-{'-'.join(map(str, sample.inputs))}"


def types_of(*texts: str | None) -> list[TensorType | None]:
    return [None if t is None else type_of(t) for t in texts]


# ---------------------------------------------------------------------------------------------------------- samples


def test_every_operator_has_a_sample() -> None:
    # input and select_phase belong to the graph; extern is whatever its user says.
    assert OPERATORS.keys() - {s.op.name for s in SAMPLES} == {"input", "select_phase", "extern"}


@pytest.mark.parametrize("sample", SAMPLES, ids=title)
def test_types_are_those_of_pytorch(sample: Sample) -> None:
    types = types_of(*sample.inputs)
    found = tuple(type_of_tensor(t) for t in call(sample.op, *draw(sample)))
    assert sample.op.shape(*types) == found
    assert len(found) == len(sample.op.outputs) or sample.op.name in ("split", "chunk")


@pytest.mark.parametrize("sample", SAMPLES, ids=title)
def test_the_canonical_form_is_the_last(sample: Sample) -> None:
    types = types_of(*sample.inputs)
    op = sample.op.canonical(*types)
    assert op.canonical(*types) == op
    assert op.shape(*types) == sample.op.shape(*types)
    # What text gives for the attributes of a canonical operator is that operator again.
    assert validate(type(op), op.attributes()) == op


class Evaluate:
    """Computes an expansion on the spot, each operator by PyTorch's own function."""

    def __init__(self) -> None:
        self.used: list[Operator] = []

    def many(self, op: Operator, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        types = [None if x is None else type_of_tensor(x) for x in inputs]
        op = op.canonical(*types)
        self.used.append(op)
        found = call(op, *inputs)
        assert op.shape(*types) == tuple(map(type_of_tensor, found)), op
        return found

    def __call__(self, op: Operator, *inputs: Tensor | None) -> Tensor:
        return self.many(op, *inputs)[0]

    def type(self, value: Tensor) -> TensorType:
        return type_of_tensor(value)


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.op.derived], ids=title)
def test_an_expansion_is_the_operator(sample: Sample) -> None:
    for inputs in (doubled(draw(sample)), draw(sample)):
        types = [None if x is None else type_of_tensor(x) for x in inputs]
        op = sample.op.canonical(*types)
        if not op.derived:  # canonical as another operator, such as flatten as a reshape
            continue
        evaluate = Evaluate()
        result = op.expand(evaluate, *inputs)
        results = result if isinstance(result, tuple) else (result,)
        assert tuple(map(type_of_tensor, results)) == op.shape(*types)
        assert all(type(used) is not type(op) for used in evaluate.used)
        double = any(x is not None and x.dtype is torch.float64 for x in inputs)
        for found, wanted in zip(results, call(op, *inputs), strict=True):
            tolerance = 1e-9 if double else 1e-4
            torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["layer_norm", "group_norm", "instance_norm", "rms_norm", "rotary_embedding"])
def test_half_precision_expansions_compute_in_full(name: str, dtype: torch.dtype) -> None:
    """Numbers whose squares overflow 16 bits are normalised all the same; positions beyond 2048 keep apart."""
    for sample in (s for s in SAMPLES if s.op.name == name):
        x, *rest = draw(sample)
        assert x is not None
        big = (x * (3000 if "norm" in name else 1)).to(dtype)
        inputs = (big, *(r.to(dtype) if r is not None and r.is_floating_point() else r for r in rest))
        op = sample.op.canonical(*(None if i is None else type_of_tensor(i) for i in inputs))
        found = op.expand(Evaluate(), *inputs)
        assert isinstance(found, Tensor)
        assert found.dtype is dtype
        wanted = call(op, *doubled(inputs))[0]
        torch.testing.assert_close(found.double(), wanted, rtol=2e-2, atol=2e-2)


_SIZES = [1, 2, 7, 10**9, 2**200, symbol("N")]


def _mistaken(sample: Sample) -> Iterator[list[TensorType | None]]:
    """The types of a sample with one input's rank, one size or one dtype changed."""
    types = types_of(*sample.inputs)
    for i, kind in enumerate(types):
        if kind is None:
            continue
        changed = [TensorType(d, kind.shape) for d in DType]
        changed += [TensorType(kind.dtype, (2,) * rank) for rank in range(6)]
        changed += [TensorType(kind.dtype, tuple(symbol(f"S{j}") for j in range(rank))) for rank in range(6)]
        for axis in range(kind.rank):
            shapes = [(*kind.shape[:axis], size, *kind.shape[axis + 1 :]) for size in _SIZES]
            changed += [TensorType(kind.dtype, shape) for shape in shapes]
        for other in changed:
            yield [*types[:i], other, *types[i + 1 :]]


def _extreme(value: Any) -> Iterator[Any]:
    """An attribute with one of its integers far too large, too small, or 0."""
    if isinstance(value, int) and not isinstance(value, bool):
        yield from (0, -1, 10**9, -(10**9), 2**200)
    elif isinstance(value, tuple):
        items: tuple[Any, ...] = value
        for i, item in enumerate(items):
            yield from ((*items[:i], other, *items[i + 1 :]) for other in _extreme(item))


@pytest.mark.parametrize("sample", SAMPLES, ids=title)
def test_mistakes_and_enormous_sizes_give_types_or_a_message(sample: Sample) -> None:
    """Nothing else is raised, and nothing takes time or memory that grows with a size."""
    attributes = sample.op.attributes()
    made = [{**attributes, name: other} for name, value in attributes.items() for other in _extreme(value)]
    cases = [(attributes, types) for types in _mistaken(sample)] + [(m, types_of(*sample.inputs)) for m in made]
    for values, types in cases:
        try:
            op = validate(type(sample.op), values).canonical(*types)
            results = op.shape(*types)
        except (ShapeError, ValidationError):
            continue
        assert len(op.axes(*types).pattern.split("->")) == 2
        op.cost(types, results)


# --------------------------------------------------------------------------------------------------------- arithmetic

_COUNTED = {
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear", "matmul",
    "einsum",
    "scaled_dot_product_attention", "lstm", "gru",
}  # fmt: skip


@pytest.mark.parametrize("sample", SAMPLES, ids=title)
def test_products_are_counted_as_pytorch_counts(sample: Sample) -> None:
    types = types_of(*sample.inputs)
    op = sample.op.canonical(*types)
    macs = op.cost(types, op.shape(*types)).macs
    if op.name not in _COUNTED:
        assert macs == 0
        return
    # In float64, as oneDNN's fused recurrent kernels take float32 only; attention unfused. No fused kind is counted.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call(op, *doubled(draw(sample)))
    if op.name == "matmul" and types[1] is not None and types[1].rank == 1:
        assert counter.get_total_flops() == 0  # a product with a column is left out there
        return
    assert 2 * macs == counter.get_total_flops()


def test_flops_of_everything_else() -> None:
    def flops(name: str, *texts: str | None, **attributes: Any) -> Any:
        types = types_of(*texts)
        op = validate(OPERATORS[name], attributes).canonical(*types)
        return op.cost(types, op.shape(*types)).flops

    assert flops("conv2d", "f32[2, 3, 4, 4]", "f32[5, 3, 1, 1]", "f32[5]") == 2 * 5 * 16  # the bias
    assert flops("conv2d", "f32[2, 3, 4, 4]", "f32[5, 3, 1, 1]", None) == 0
    assert flops("max_pool2d", "f32[1, 2, 4, 4]", kernel_size=2, stride=2) == 2 * 4 * 4
    assert flops("batch_norm", "f32[2, 3, 4]", None, None, "f32[3]", "f32[3]") == 2 * 24
    assert flops("embedding", "i64[7]", "f32[9, 4]") == 0
    assert flops("identity", "f32[9]") == 0
    assert str(flops("rms_norm", "f32[N, 4]", "f32[4]")) == "16*N"


# ----------------------------------------------------------------------------------------------------- symbolic sizes


@pytest.mark.parametrize(
    ("op", "x", "weights", "expected"),
    [
        (Conv1d((2,), ((1, 1),)), "f32[N, 3, L]", ["f32[4, 3, 3]"], "f32[N, 4, (L + 1)//2]"),
        (Conv2d((1, 1), ((1, 1), (1, 1))), "f32[N, 3, H, W]", ["f32[4, 3, 3, 3]"], "f32[N, 4, H, W]"),
        (Conv2d((2, 2), ((3, 3), (3, 3))), "f32[N, 3, 32*a, W]", ["f32[4, 3, 7, 7]"], "f32[N, 4, 16*a, (W + 1)//2]"),
        (Conv3d((2, 1, 1)), "f32[N, 3, D, 4, W]", ["f32[4, 3, 2, 2, 2]"], "f32[N, 4, D//2, 3, W - 1]"),
        (ConvTranspose2d((2, 2)), "f32[N, 3, H, W]", ["f32[3, 4, 2, 2]"], "f32[N, 4, 2*H, 2*W]"),
        (MaxPool2d((3, 3), (2, 2), ((1, 1), (1, 1))), "f32[N, 3, H, 8]", [], "f32[N, 3, (H + 1)//2, 4]"),
        (MaxPool2d((3, 3), (2, 2), ceil_mode=True), "f32[N, 3, H, 8]", [], "f32[N, 3, H//2, 4]"),
        (AvgPool2d((2, 2), (2, 2), ceil_mode=True), "f32[N, 3, H, 8]", [], "f32[N, 3, (H + 1)//2, 4]"),
    ],
    ids=lambda v: v.name if isinstance(v, Operator) else None,
)
def test_windows_over_symbolic_sizes(op: Operator, x: str, weights: list[str], expected: str) -> None:
    (found,) = op.shape(*types_of(x, *weights))
    assert found == type_of(expected)
    for size in range(3, 12):
        sizes = {"N": 2, "L": size, "H": size, "W": 13 - size + 3, "D": size, "a": size}
        types = [t.substitute(dict(sizes)) for t in types_of(x, *weights) if t is not None]
        assert op.shape(*types) == (found.substitute(dict(sizes)),)


def test_attention_and_recurrence_over_symbolic_lengths() -> None:
    def shape(name: str, *texts: str | None, **attributes: Any) -> list[str]:
        types = types_of(*texts)
        op = validate(OPERATORS[name], attributes).canonical(*types)
        return [str(t) for t in op.shape(*types)]

    q = "f32[N, 8, T, 64]"
    assert shape("scaled_dot_product_attention", q, "f32[N, 2, S, 64]", "f32[N, 2, S, 32]", "bool[T, S]") == [
        "f32[N, 8, T, 32]"
    ]
    assert shape("rotary_embedding", q) == [q]
    assert shape("lstm", "f32[N, T, 5]", None, None, "f32[16, 5]", "f32[16, 4]", hidden_size=4, bias=False) == [
        "f32[N, T, 4]", "f32[1, N, 4]", "f32[1, N, 4]",
    ]  # fmt: skip
    assert shape("layer_norm", "f32[N, T, 5]", "f32[5]") == ["f32[N, T, 5]"]
    assert shape("linear", "f32[N, T, 5]", "f32[7, 5]") == ["f32[N, T, 7]"]
    assert shape("einsum", "f32[N, T, 5]", "f32[5, K]", equation="...i, ij") == ["f32[N, T, K]"]


# ------------------------------------------------------------------------------------------------------------- errors

# operator, attributes, inputs → the inputs that disagree, parts of the message, parts of the correction
_ERRORS: list[tuple[str, dict[str, Any], list[str | None], tuple[int, ...], list[str], list[str]]] = [
    ("conv2d", {}, ["f32[1, 3, 8, 8]", "f32[4, 2, 3, 3]"], (0, 1), ["2 input channels", "has 3"], ["3 channels"]),
    ("conv2d", {"groups": 4}, ["f32[1, 30, 8, 8]", "f32[8, 7, 3, 3]"], (0,), ["30 input channels", "groups = 4"],
     ["groups = 3 or 5", "28 or 32 input channels"]),
    ("conv2d", {"groups": 2}, ["f32[1, 4, 8, 8]", "f32[5, 2, 3, 3]"], (1,), ["5 output channels"],
     ["groups = 1 or 5", "4 or 6"]),
    ("conv2d", {}, ["f32[1, 3, 4, 8]", "f32[4, 3, 7, 7]"], (0,), ["reaches over 7", "axis 2", "has 4"],
     ["at most 4", "padding = 2 or more", "larger by 3"]),
    ("conv2d", {"dilation": 3, "padding": 1}, ["f32[1, 3, 9, 4]", "f32[4, 3, 3, 3]"], (0,),
     ["over 7", "axis 3", "padded to 6"], []),
    ("conv2d", {}, ["f32[3, 8, 8]", "f32[4, 3, 3, 3]"], (0,), ["[N, C, H, W]", "rank 3"], ["conv1d"]),
    ("conv1d", {}, ["f32[1, 3, 8]", "f32[4, 3, 3, 3]"], (1,), ["[out, in/groups, kernel]"], []),
    ("conv2d", {}, ["f16[1, 3, 8, 8]", "f32[4, 3, 3, 3]"], (0, 1), ["dtypes differ"], ["cast"]),
    ("conv2d", {}, ["i64[1, 3, 8, 8]", "i64[4, 3, 3, 3]"], (0,), ["floating-point"], ["cast"]),
    ("conv2d", {}, ["f32[1, 3, 8, 8]", "f32[4, 3, 3, 3]", "f32[5]"], (0, 2), ["bias", "f32[5]", "[4]"], []),
    ("conv_transpose2d", {}, ["f32[1, 3, 8, 8]", "f32[4, 2, 3, 3]"], (0, 1), ["4 input channels", "has 3"], []),
    ("conv_transpose2d", {"padding": 2}, ["f32[1, 3, 1, 1]", "f32[3, 2, 3, 3]"], (0,), ["-1 long"], ["below 3"]),
    ("conv_transpose2d", {"output_padding": 1}, ["f32[1, 3, 8, 8]", "f32[3, 2, 3, 3]"], (), ["output_padding 1"],
     ["0 or less"]),
    ("linear", {}, ["f32[2, 32]", "f32[10, 31]"], (0, 1), ["31 features", "has 32"], ["32 features"]),
    ("linear", {}, ["f32[]", "f32[10, 31]"], (0,), ["[..., in]"], []),
    ("embedding", {}, ["f32[2, 32]", "f32[10, 31]"], (0,), ["integers"], ["i64"]),
    ("matmul", {}, ["f32[2, 3]", "f32[4, 3]"], (0, 1), ["has 3", "axis 0 of the second 4"], ["transpose(b, 0, 1)"]),
    ("matmul", {}, ["f32[2, 3, 4]", "f32[3, 4, 5]"], (0, 1), ["axis 0 is 2 and 3"], []),
    ("matmul", {}, ["f32[]", "f32[3]"], (0,), ["not a number"], ["a * b"]),
    ("einsum", {"equation": "ij,jk->ik"}, ["f32[2, 3]", "f32[4, 5]"], (0, 1), ["axis j", "is 3", "4 in"],
     ["different letters"]),
    ("einsum", {"equation": "ij,jk->ik"}, ["f32[2, 3]"], (), ["2 terms", "1 tensors"], []),
    ("einsum", {"equation": "ij->ijk"}, ["f32[2, 3]"], (), ["axis k"], []),
    ("einsum", {"equation": "ii->i"}, ["f32[2, 2]"], (0,), ["twice", "diagonals"], []),
    ("einsum", {"equation": "ijk->i"}, ["f32[2, 3]"], (0,), ["3 axes", "rank 2"], []),
    ("batch_norm", {}, ["f32[2, 3]", None, None, "f32[4]", "f32[3]"], (0, 3), ["running_mean", "f32[4]", "[3]"], []),
    ("batch_norm", {}, ["f32[2]", None, None, "f32[2]", "f32[2]"], (0,), ["[N, C, ...]", "rank 1"], []),
    ("layer_norm", {}, ["f32[2, 3]", "f32[4]", None], (0, 1), ["weight", "last axis", "f32[3]"], []),
    ("layer_norm", {"rank": 3}, ["f32[2, 3]", None, None], (0,), ["last 3 axes", "has 2"], ["rank = 2 or less"]),
    ("group_norm", {"num_groups": 4}, ["f32[2, 6]", None, None], (0,), ["6 channels", "num_groups = 4"],
     ["num_groups = 3 or 6", "4 or 8"]),
    ("instance_norm", {}, ["f32[2, 6]", None, None], (0,), ["rank 2"], []),
    ("max_pool2d", {"kernel_size": 5, "stride": 1}, ["f32[1, 3, 4, 8]"], (0,), ["reaches over 5", "has 4"],
     ["at most 4"]),
    ("max_pool2d", {"kernel_size": 2, "stride": 1, "padding": 2}, ["f32[1, 3, 4, 8]"], (), ["half"],
     ["padding = 1 or less"]),
    ("avg_pool2d", {"kernel_size": 2, "stride": 5, "ceil_mode": True}, ["f32[1, 3, H, 8]"], (0,), ["ceil_mode", "H"],
     ["false"]),
    ("scaled_dot_product_attention", {}, ["f32[1, 6, 2, 4]", "f32[1, 4, 3, 4]", "f32[1, 4, 3, 4]", None], (0,),
     ["6 query heads", "key heads = 4"], ["key heads = 3 or 6", "4 or 8 query heads"]),
    ("scaled_dot_product_attention", {}, ["f32[1, 2, 2, 4]", "f32[1, 2, 3, 5]", "f32[1, 2, 3, 4]", None], (0, 1),
     ["head size", "4 and 5"], []),
    ("scaled_dot_product_attention", {}, ["f32[1, 2, 2, 4]", "f32[1, 2, 3, 4]", "f32[1, 2, 5, 4]", None], (1, 2),
     ["length", "3 and 5"], []),
    ("scaled_dot_product_attention", {}, ["f32[1, 2, 4]", "f32[1, 2, 3, 4]", "f32[1, 2, 5, 4]", None], (0,),
     ["rank 3"], ["rearrange"]),
    ("scaled_dot_product_attention", {}, [*["f32[1, 2, 3, 4]"] * 3, "bool[3, 4]"], (0, 1, 3), ["[1, 2, 3, 3]"], []),
    ("scaled_dot_product_attention", {}, [*["f32[1, 2, 3, 4]"] * 3, "i64[3, 3]"], (3,), ["bool"], ["cast(mask, bool)"]),
    ("scaled_dot_product_attention", {"is_causal": True}, [*["f32[1, 2, 3, 4]"] * 3, "bool[3, 3]"], (3,), ["only one"],
     ["is_causal = false"]),
    ("rotary_embedding", {}, ["f32[2, 3, 5]", None], (0,), ["5 features"], ["4 or 6 features"]),
    ("rotary_embedding", {}, ["f32[2, 3, 4]", "i64[4]"], (0, 1), ["i64[4]", "[3]"], []),
    ("lstm", {"hidden_size": 4}, ["f32[2, 3]", None, None], (0,), ["[N, T, features]"], []),
    ("lstm", {"hidden_size": 4}, ["f32[2, 3, 5]", None, None, "f32[16, 5]"], (), ["4 weights", "not 1"], []),
    ("gru", {"hidden_size": 4, "bias": False}, ["f32[2, 3, 5]", None, "f32[12, 6]", "f32[12, 4]"], (0, 2),
     ["weight_ih_l0", "f32[12, 5]"], []),
    ("gru", {"hidden_size": 4, "bias": False}, ["f32[2, 3, 5]", "f32[2, 4]", "f32[12, 5]", "f32[12, 4]"], (0, 1),
     ["h0", "f32[1, 2, 4]"], []),
    ("drop_path", {}, ["f32[]"], (), ["axis 0"], []),
]  # fmt: skip


@pytest.mark.parametrize(("name", "attributes", "inputs", "operands", "message", "fix"), _ERRORS)
def test_what_does_not_fit_is_said_in_numbers(
    name: str,
    attributes: dict[str, Any],
    inputs: list[str | None],
    operands: tuple[int, ...],
    message: list[str],
    fix: list[str],
) -> None:
    types = types_of(*inputs)
    with pytest.raises(ShapeError) as caught:
        validate(OPERATORS[name], attributes).canonical(*types).shape(*types)
    assert caught.value.operands == operands
    for part in message:
        assert part in caught.value.message
    for part in fix:
        assert part in (caught.value.fix or "")


def test_possible_sizes_are_not_refused() -> None:
    """Only what fails for every value of a symbol is an error before the model runs."""
    weight = "f32[4, 3, 7, 7]"
    assert Conv2d().shape(*types_of("f32[1, 3, H, 8]", weight))
    with pytest.raises(ShapeError, match="reaches over 7"):
        Conv2d().shape(*types_of("f32[1, 3, H, 6]", weight))


@pytest.mark.parametrize(
    ("name", "attributes", "reason"),
    [
        ("conv2d", {"stride": 0}, "at least 1"),
        ("conv2d", {"stride": [1, 2, 3]}, "one integer, or 2, one for each axis, not 3 of them"),
        ("conv2d", {"stride": True}, "one integer, or 2"),
        ("conv1d", {"stride": "2"}, "one integer"),
        ("conv2d", {"padding": -1}, "at least 0"),
        ("conv2d", {"padding": [[1, 2, 3], 1]}, "before, after"),
        ("conv2d", {"groups": 1.0}, "integer"),
        ("layer_norm", {"eps": 0}, "above 0"),
        ("layer_norm", {"eps": True}, "a number"),
        ("dropout", {"p": 1.5}, "between 0 and 1"),
        ("lstm", {"hidden_size": 4, "bias": 1}, "true or false"),
        ("einsum", {"equation": "i1->i"}, "letters"),
    ],
)
def test_attributes_are_checked(name: str, attributes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        validate(OPERATORS[name], attributes)


def test_one_integer_stands_for_every_axis() -> None:
    op = validate(OPERATORS["conv2d"], {"stride": 2, "padding": [1, [0, 2]]})
    assert op == Conv2d((2, 2), ((1, 1), (0, 2)), (1, 1), 1)


# ------------------------------------------------------------------------------------------------------------- layers


def applied(
    name: str, x: str | None, given: dict[str, str] | None = None, **attributes: Any
) -> tuple[dict[str, Any], Operator]:
    """The parameters that a layer asks for, and its operator."""
    inputs: OptionalTypes = types_of(x) if x else []
    weights = {k: type_of(v) for k, v in (given or {}).items()}
    layer = validate(LAYERS[name], attributes)
    return layer.parameters(inputs, weights), layer.operator(inputs, weights)


_MODULES: list[tuple[str, dict[str, Any], str, nn.Module]] = [
    ("conv1d", {"out_channels": 4, "kernel_size": 3}, "f32[2, 6, 9]", nn.Conv1d(6, 4, 3)),
    ("conv2d", {"out_channels": 4, "kernel_size": [3, 2], "groups": 2}, "f32[2, 6, 9, 9]",
     nn.Conv2d(6, 4, (3, 2), groups=2)),
    ("conv2d", {"out_channels": 4, "kernel_size": 1, "bias": False}, "f32[2, 6, 9, 9]", nn.Conv2d(6, 4, 1, bias=False)),
    ("conv3d", {"out_channels": 4, "kernel_size": 3}, "f32[2, 6, 9, 9, 9]", nn.Conv3d(6, 4, 3)),
    ("conv_transpose1d", {"out_channels": 4, "kernel_size": 3}, "f32[2, 6, 9]", nn.ConvTranspose1d(6, 4, 3)),
    ("conv_transpose2d", {"out_channels": 4, "kernel_size": 3, "groups": 2}, "f32[2, 6, 9, 9]",
     nn.ConvTranspose2d(6, 4, 3, groups=2)),
    ("conv_transpose3d", {"out_channels": 4, "kernel_size": 2}, "f32[2, 6, 4, 4, 4]", nn.ConvTranspose3d(6, 4, 2)),
    ("linear", {"out_features": 4}, "f32[2, 6]", nn.Linear(6, 4)),
    ("embedding", {"num_embeddings": 9, "embedding_dim": 4}, "i64[2, 6]", nn.Embedding(9, 4)),
    ("batch_norm", {}, "f32[2, 6, 3]", nn.BatchNorm1d(6)),
    ("batch_norm", {"affine": False}, "f32[2, 6, 3]", nn.BatchNorm1d(6, affine=False)),
    ("layer_norm", {"rank": 2}, "f32[2, 6, 3]", nn.LayerNorm((6, 3))),
    ("layer_norm", {"bias": False}, "f32[2, 6, 3]", nn.LayerNorm(3, bias=False)),
    ("group_norm", {"num_groups": 2}, "f32[2, 6, 3]", nn.GroupNorm(2, 6)),
    ("instance_norm", {}, "f32[2, 6, 3]", nn.InstanceNorm1d(6)),
    ("instance_norm", {"affine": True}, "f32[2, 6, 3]", nn.InstanceNorm1d(6, affine=True)),
    ("rms_norm", {}, "f32[2, 6, 3]", nn.RMSNorm(3)),
    ("lstm", {"hidden_size": 4, "num_layers": 2, "bidirectional": True}, "f32[2, 5, 6]",
     nn.LSTM(6, 4, 2, bidirectional=True)),
    ("gru", {"hidden_size": 4, "bias": False}, "f32[2, 5, 6]", nn.GRU(6, 4, bias=False)),
    ("max_pool2d", {"kernel_size": 2}, "f32[2, 6, 4, 4]", nn.MaxPool2d(2)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "attributes", "x", "module"), _MODULES, ids=lambda v: v if isinstance(v, str) else "")
def test_parameters_are_those_of_the_module(name: str, attributes: dict[str, Any], x: str, module: nn.Module) -> None:
    specs, op = applied(name, x, **attributes)
    state = {k: v for k, v in module.state_dict().items() if k != "num_batches_tracked"}
    assert {k: s.shape for k, s in specs.items()} == {k: tuple(v.shape) for k, v in state.items()}
    assert list(specs) == list(state)
    assert {k for k, s in specs.items() if s.buffer} == {k for k, _ in module.named_buffers()} - {"num_batches_tracked"}
    weights = [type_of(f"f32[{', '.join(map(str, s.shape))}]") for s in specs.values()]
    if name not in ("lstm", "gru", "batch_norm"):
        assert op.shape(type_of(x), *weights)
    for key, value in state.items():
        if value.numel() > 20:
            _check_initialiser(specs[key].initialiser, value, specs[key].shape)


def _check_initialiser(initialiser: Initialiser, value: Tensor, shape: Sequence[Any]) -> None:
    """The module's own random numbers look like the declared distribution."""
    if initialiser.kind == "fan_in_uniform":
        initialiser = Initialiser(
            "uniform", (-(1 / math.sqrt(math.prod(shape[1:]))), 1 / math.sqrt(math.prod(shape[1:])))
        )
    if initialiser.kind == "uniform":
        low, high = initialiser.arguments
        assert low <= value.min()
        assert value.max() <= high
        assert value.max() - value.min() > 0.7 * (high - low)
    else:
        assert initialiser == Initialiser("normal", (0.0, 1.0))
        assert 0.5 < value.std() < 1.5


def test_the_bias_of_a_layer_has_the_bound_of_pytorch() -> None:
    specs, _ = applied("conv2d", "f32[2, 6, 9, 9]", out_channels=4, kernel_size=3, groups=2)
    bound = 1 / math.sqrt(3 * 9)
    assert specs["bias"].initialiser.kind == "uniform"
    assert specs["bias"].initialiser.arguments == pytest.approx((-bound, bound))
    assert applied("lstm", "f32[2, 5, 6]", hidden_size=16)[0]["bias_hh_l0"].initialiser.arguments == (-0.25, 0.25)


def test_a_given_weight_says_the_sizes() -> None:
    specs, op = applied("conv2d", "f32[2, 6, 9, 9]", {"weight": "f32[4, 6, 3, 3]"}, padding="same")
    assert {k: s.shape for k, s in specs.items()} == {"bias": (4,)}
    assert op == Conv2d((1, 1), ((1, 1), (1, 1)))
    assert applied("linear", "f32[2, 6]", {"weight": "f32[4, 6]"}, bias=False)[0] == {}
    assert applied("embedding", "i64[2]", {"weight": "f32[4, 6]"})[0] == {}


def test_a_layer_that_states_its_input_has_parameters_before_it_is_applied() -> None:
    layer = validate(LAYERS["linear"], {"out_features": 4, "in_features": 6})
    assert {k: s.shape for k, s in layer.parameters([], {}).items()} == {"weight": (4, 6), "bias": (4,)}
    layer = validate(LAYERS["embedding"], {"num_embeddings": 9, "embedding_dim": 6})
    assert {k: s.shape for k, s in layer.parameters([], {}).items()} == {"weight": (9, 6)}


def test_parameters_follow_the_dtype_of_the_input() -> None:
    for dtype in ("f16", "f64"):
        specs, _ = applied("linear", f"{dtype}[2, 6]", out_features=4)
        assert {s.dtype.value for s in specs.values()} == {dtype}


@pytest.mark.parametrize(
    ("name", "x", "given", "attributes", "message", "fix"),
    [
        ("conv2d", "f32[2, 6, 9, 9]", {}, {"kernel_size": 3}, "needs out_channels", "out_channels = "),
        ("conv2d", "f32[2, 6, 9, 9]", {}, {"out_channels": 3}, "needs kernel_size", "kernel_size = "),
        ("conv2d", "f32[2, 6, 9]", {}, {"out_channels": 3, "kernel_size": 3}, "rank 3", "conv1d"),
        ("conv2d", "f32[2, 6, 9, 9]", {}, {"out_channels": 4, "kernel_size": 3, "groups": 4}, "6 input channels",
         "groups = 3 or 6"),
        ("conv2d", "f32[2, 6, 9, 9]", {}, {"out_channels": 4, "kernel_size": 3, "groups": 3}, "4 output channels",
         "groups = 2 or 4"),
        ("conv2d", "f32[2, 6, 9, 9]", {"weight": "f32[4, 6, 3, 3]"}, {"out_channels": 5}, "5, but its weight has 4",
         "leave"),
        ("conv2d", "f32[2, C, 9, 9]", {}, {"out_channels": 5, "kernel_size": 3}, "fixed shapes", "number"),
        ("conv2d", "f32[2, 6, H, 9]", {}, {"out_channels": 5, "kernel_size": 3, "stride": 2, "padding": "same"},
         "depends on H", "2*H"),
        ("linear", None, {}, {"out_features": 5}, "before it is applied", "in_features = "),
        ("linear", "f32[2, 6]", {}, {"out_features": 5, "in_features": 7}, "in_features = 7, but its input has 6",
         "in_features = 6"),
        ("linear", "f32[2, 6]", {}, {}, "needs out_features", "out_features = "),
        ("linear", "f32[]", {}, {"out_features": 5}, "[..., in]", ""),
        ("embedding", "i64[2, 6]", {}, {"num_embeddings": 5}, "needs embedding_dim", "embedding_dim = "),
        ("layer_norm", "f32[N, T]", {}, {}, "fixed shapes", "number"),
        ("layer_norm", None, {}, {}, "needs its input", ""),
        ("batch_norm", "f32[6]", {}, {}, "rank 1", ""),
        ("max_pool2d", "f32[2, 6, 9]", {}, {"kernel_size": 2}, "rank 3", "max_pool1d"),
        ("lstm", "f32[2, 6]", {}, {"hidden_size": 2}, "[N, T, features]", ""),
    ],
)  # fmt: skip
def test_what_a_layer_lacks_is_said(
    name: str, x: str | None, given: dict[str, str], attributes: dict[str, Any], message: str, fix: str
) -> None:
    with pytest.raises(ShapeError) as caught:
        applied(name, x, given, **attributes)
    assert message in caught.value.message
    assert fix in (caught.value.fix or "")


@pytest.mark.parametrize("size", range(4, 12))
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 1, 1), (2, 1, 1), (3, 2, 1), (2, 2, 1), (5, 3, 1), (3, 2, 2)]
)
def test_same_padding(size: int, kernel: int, stride: int, dilation: int) -> None:
    attributes = {"out_channels": 1, "kernel_size": kernel, "stride": stride, "dilation": dilation, "bias": False}
    shapes = {}
    for padding in ("same", "same_lower"):
        _, op = applied("conv1d", f"f32[1, 1, {size}]", padding=padding, **attributes)
        assert isinstance(op, Conv1d)
        shapes[padding] = op.padding[0]
        weight = type_of(f"f32[1, 1, {kernel}]")
        assert op.shape(type_of(f"f32[1, 1, {size}]"), weight)[0].shape == (1, 1, math.ceil(size / stride))
    before, after = shapes["same"]
    assert shapes["same_lower"] == (after, before)
    assert 0 <= after - before <= 1
    if stride == 1:
        x, w = torch.randn(1, 1, size), torch.randn(1, 1, kernel)
        wanted = F.conv1d(x, w, padding="same", dilation=dilation)
        torch.testing.assert_close(F.conv1d(F.pad(x, (before, after)), w, dilation=dilation), wanted)


def test_same_padding_of_a_symbolic_size_that_divides() -> None:
    _, op = applied("max_pool2d", "f32[N, 3, 32*a, H]", kernel_size=[3, 3], stride=[2, 1], padding="same")
    assert op == MaxPool2d((3, 3), (2, 1), ((0, 1), (1, 1)))


def test_the_stride_of_a_pool_is_its_kernel() -> None:
    assert applied("avg_pool2d", "f32[1, 3, 8, 8]", kernel_size=[2, 4])[1] == AvgPool2d((2, 4), (2, 4))


@pytest.mark.parametrize("make", [MaxPool2d, AvgPool2d])
def test_ceil_mode_is_that_of_pytorch(make: Callable[..., Operator]) -> None:
    """Every size, kernel, stride and padding: the last partial window counts only where it starts inside."""
    function = F.max_pool2d if make is MaxPool2d else F.avg_pool2d
    for size in range(4, 12):
        for kernel in (1, 2, 3, 4):
            for stride in (1, 2, 3, 5):
                for pad in range(kernel // 2 + 1):
                    op = make((kernel,) * 2, (stride,) * 2, ((pad, pad),) * 2, ceil_mode=True)
                    wanted = function(torch.zeros(1, 1, size, size), kernel, stride, pad, ceil_mode=True).shape
                    assert op.shape(type_of(f"f32[1, 1, {size}, {size}]"))[0].shape == tuple(wanted)


def test_attention_without_anything_to_see_is_zero() -> None:
    """As in PyTorch: a query whose boolean mask allows no key."""
    op = validate(OPERATORS["scaled_dot_product_attention"], {})
    q, k, v = torch.randn(3, 1, 2, 3, 4, dtype=torch.float64).unbind(0)
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    op = op.canonical(*(type_of_tensor(t) for t in (q, k, v, mask)))
    found = op.expand(Evaluate(), q, k, v, mask)
    assert (found[:, :, 1] == 0).all()
    torch.testing.assert_close(found, F.scaled_dot_product_attention(q, k, v, mask))


def test_an_unrolled_sequence_needs_a_length() -> None:
    op = validate(OPERATORS["gru"], {"hidden_size": 2, "bias": False})

    class Types:
        """Passes types through an expansion."""

        def many(self, op: Operator, *inputs: Any) -> Any:
            return op.canonical(*inputs).shape(*inputs)

        def __call__(self, op: Operator, *inputs: Any) -> Any:
            return self.many(op, *inputs)[0]

        def type(self, value: Any) -> Any:
            return value

    with pytest.raises(ShapeError, match="sequence length in numbers, not T"):
        op.expand(Types(), *types_of("f32[N, T, 3]", None, "f32[6, 3]", "f32[6, 2]"))
    output, last = op.expand(Types(), *types_of("f32[N, 5, 3]", None, "f32[6, 3]", "f32[6, 2]"))
    assert (str(output), str(last)) == ("f32[N, 5, 2]", "f32[1, N, 2]")
    assert substitute(output.shape[0], {"N": 3}) == 3
