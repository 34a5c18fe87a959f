"""Element-wise, reduction, layout, indexing and resampling operators: shapes, expansions, what they refuse."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from netc.compiler.operators import (
    activation,
    arithmetic,
    creation,
    extern,
    indexing,
    layout,
    rearrange,
    reduction,
    resampling,
)
from netc.compiler.operators.factor import factors
from netc.compiler.operators.operator import OPERATORS, SAMPLES, Operator, Sample, ShapeError, validate
from netc.compiler.types import DType, Expression, TensorType, substitute
from oracle import DTYPES, call, type_of_tensor
from pydantic import ValidationError
from strategies import type_of

_FAMILIES = (activation, arithmetic, creation, extern, indexing, layout, rearrange, reduction, resampling)
OWN = [s for s in SAMPLES if type(s.op).__module__ in {m.__name__ for m in _FAMILIES}]


def title(sample: Sample) -> str:
    return f"{sample.op.name}-{'-'.join(map(str, sample.inputs))}"


class Value:
    """A tensor, and its type as the graph has it: perhaps with symbols."""

    def __init__(self, tensor: torch.Tensor, type_: TensorType) -> None:
        self.tensor = tensor
        self.type = type_


class Run:
    """Carries out what an expansion emits, at once, with symbols standing for given sizes."""

    def __init__(self, symbols: Mapping[str, int] | None = None) -> None:
        self.symbols = symbols or {}

    def type(self, value: Value) -> TensorType:
        return value.type

    def __call__(self, op: Operator, *inputs: Value | None) -> Value:
        (value,) = self.many(op, *inputs)
        return value

    def many(self, op: Operator, *inputs: Value | None) -> tuple[Value, ...]:
        types = [None if v is None else v.type for v in inputs]
        op = op.canonical(*types)
        made = op.shape(*types)
        if op.derived:
            found = op.expand(self, *inputs)
            values = found if isinstance(found, tuple) else (found,)
        else:
            tensors = call(self._fixed(op), *(None if v is None else v.tensor for v in inputs))
            values = tuple(Value(t, m) for t, m in zip(tensors, made, strict=True))
        for value, type_ in zip(values, made, strict=True):
            assert value.type == type_, op
            assert type_of_tensor(value.tensor) == type_.substitute(self.symbols), op
        return values

    def _fixed(self, op: Operator) -> Operator:
        return replace(op, **{f.name: self._number(getattr(op, f.name)) for f in fields(op)})  # type: ignore[arg-type, type-var]

    def _number(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(self._number, value))
        return substitute(value, self.symbols) if isinstance(value, Expression) else value


def types_of(sample: Sample) -> list[TensorType | None]:
    return [None if text is None else type_of(text) for text in sample.inputs]


def test_classes_are_named_after_operators() -> None:
    assert [n for n, cls in OPERATORS.items() if cls.__name__ != "".join(w.capitalize() for w in n.split("_"))] == []


@pytest.mark.parametrize("sample", OWN, ids=title)
def test_attributes_survive_text(sample: Sample) -> None:
    """Values as text gives them (lists for tuples, names for dtypes) validate to the same operator."""

    def plain(value: Any) -> Any:
        return (
            [plain(v) for v in value] if isinstance(value, tuple) else str(value) if isinstance(value, DType) else value
        )

    op = sample.op.canonical(*types_of(sample))
    assert validate(type(op), {k: plain(v) for k, v in op.attributes().items()}) == op
    assert hash(op) is not None


@pytest.mark.parametrize("sample", OWN, ids=title)
def test_costs_are_numbers(sample: Sample) -> None:
    types = types_of(sample)
    op = sample.op.canonical(*types)
    outputs = op.shape(*types)
    cost = op.cost(types, outputs)
    assert cost.macs == 0
    elements = sum(t.elements for t in [*outputs, *(t for t in types if t is not None)])
    assert isinstance(cost.flops, int)
    assert 0 <= cost.flops <= 40 * elements


def symbolic(text: str, name: str, dtype: str) -> TensorType:
    return type_of(text.replace("?", name).replace("float", dtype))


N = type_of("f32[N]").shape[0]

SYMBOLIC = [
    (creation.Full((2, N), 2 * N + 1), []),
    (reduction.Var((1,)), ["float[2, ?, 3]"]),
    (reduction.Var((0, 1), True, 0), ["float[2, ?, 3]"]),
    (indexing.Flip((1,)), ["float[2, ?]"]),
    (indexing.Roll((7, 1), (1, 0)), ["float[2, ?]"]),
    (indexing.Roll((-2,), (1,)), ["float[2, ?]"]),
    (indexing.Pad(((1, 2), (2, 1)), "reflect"), ["float[1, 4, ?]"]),
    (indexing.Pad(((1, 0), (9, 4)), "replicate"), ["float[1, 4, ?]"]),
    (indexing.Pad(((1, 0), (2, 1)), value=-1.5), ["float[1, 4, ?]"]),
    (layout.Repeat((2, 3)), ["float[2, ?]"]),
    (layout.Stack(-1), ["float[2, ?]", "float[2, ?]"]),
    (layout.Flatten(), ["float[2, ?, 3]"]),
    (rearrange.Rearrange("b (t s) d -> b t (s d)", (("s", 2),)), ["float[2, 2*?, 3]"]),
    (resampling.Interpolate(None, (2.0,)), ["float[1, 2, ?, 3]"]),
    (resampling.Interpolate(None, (0.5,)), ["float[1, 2, ?, 4]"]),
    (resampling.Interpolate(None, (1.5,), "bilinear"), ["float[1, 2, ?, 4]"]),
    (resampling.Interpolate(None, (2.0,), "bicubic"), ["float[1, 2, ?, 3]"]),
    (resampling.Interpolate((7, 7), None, "bilinear"), ["float[1, 2, ?, 3]"]),
    (resampling.Interpolate((7, 7), None, "bilinear", True), ["float[1, 2, ?, 3]"]),
    (resampling.Interpolate((N, 4), None, "bicubic"), ["float[1, 2, 6, 6]"]),
    (resampling.Interpolate((N, 4), None, "bicubic", True), ["float[1, 2, 6, 6]"]),
    (resampling.PixelShuffle(2), ["float[1, 8, ?, 3]"]),
    (resampling.Unfold((2, 2), (1, 1), ((1, 0), (1, 1)), (2, 1)), ["float[1, 2, ?, 4]"]),
    (resampling.GridSample("bilinear", "reflection"), ["float[1, 2, ?, 4]", "float[1, 3, 3, 2]"]),
    (resampling.GridSample("bilinear", "border", True), ["float[1, 2, ?, 4]", "float[1, 3, 3, 2]"]),
    (resampling.GridSample("bicubic", "zeros"), ["float[1, 2, ?, 4]", "float[1, ?, 3, 2]"]),
]


@pytest.mark.parametrize("size", [3, 5, 8])
@pytest.mark.parametrize(("op", "inputs"), SYMBOLIC, ids=[f"{i}-{o.name}" for i, (o, _) in enumerate(SYMBOLIC)])
def test_expansions_with_symbolic_sizes(op: Operator, inputs: list[str], size: int) -> None:
    """One expansion, made without knowing the size, is right for every size."""
    generator = torch.Generator().manual_seed(size)
    run = Run({"N": size})
    types = [symbolic(text, "N", "f64") for text in inputs]
    tensors = [
        torch.randn([substitute(d, run.symbols) for d in t.shape], dtype=torch.float64, generator=generator)  # type: ignore[misc]
        for t in types
    ]
    (value,) = run.many(op, *map(Value, tensors, types))
    (expected,) = call(run._fixed(op), *tensors)
    # The quotient of two sizes that are known only at run time is rounded once more.
    torch.testing.assert_close(value.tensor, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@given(before=st.tuples(st.integers(1, 9), st.integers(1, 9)), data=st.data())
def test_interpolate_is_pytorchs(mode: Any, before: tuple[int, int], data: st.DataObject) -> None:
    x = torch.randn(1, 2, *before, generator=torch.Generator().manual_seed(0))
    align = mode != "nearest" and data.draw(st.booleans())
    if data.draw(st.booleans()):
        size = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
        op = resampling.Interpolate(size, None, mode, align)
        expected = F.interpolate(x, size, None, mode, align if mode != "nearest" else None)
    else:
        least = 1 / min(before)
        factor = data.draw(
            st.sampled_from([f for f in (0.25, 0.3, 0.5, 0.7, 1.0, 1.5, 1.7, 2.0, 3.0, 3.3) if f > least])
        )
        op = resampling.Interpolate(None, (factor,), mode, align)
        expected = F.interpolate(x, None, factor, mode, align if mode != "nearest" else None)
    (value,) = Run().many(op, Value(x, type_of_tensor(x)))
    torch.testing.assert_close(value.tensor, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_grid_sample_is_pytorchs_far_outside(mode: Any, padding: Any, align: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    for size in ((5, 4), (1, 3)):
        x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
        grid = 4 * torch.randn(2, 6, 7, 2, generator=generator, dtype=torch.float64)
        op = resampling.GridSample(mode, padding, align)
        (value,) = Run().many(op, *(Value(t, type_of_tensor(t)) for t in (x, grid)))
        expected = F.grid_sample(x, grid, mode, padding, align)
        torch.testing.assert_close(value.tensor, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "name", ["gelu", "softplus", "mish", "elu", "selu", "silu", "softmax", "log_softmax", "hardswish"]
)
def test_expansions_do_not_overflow(name: str) -> None:
    x = torch.tensor([[-1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4]], dtype=torch.float32)
    (value,) = Run().many(OPERATORS[name](), Value(x, type_of_tensor(x)))
    torch.testing.assert_close(value.tensor, call(OPERATORS[name](), x)[0], rtol=1e-6, atol=1e-6)


@given(
    st.sampled_from([p for p in DType if p is not DType.BOOL]),
    st.sampled_from([p for p in DType if p is not DType.BOOL]),
)
def test_promotion_is_pytorchs(a: DType, b: DType) -> None:
    inputs = [TensorType(a, (2,)), TensorType(b, (2,))]
    tensors = [torch.ones(2, dtype=DTYPES[d]) for d in (a, b)]
    for op, function in ((arithmetic.Add(), torch.add), (arithmetic.Div(), torch.div), (arithmetic.Lt(), torch.lt)):
        assert op.shape(*inputs) == (type_of_tensor(function(*tensors)),)


@given(st.lists(st.integers(1, 12), max_size=4), st.data())
def test_factors_rebuild_both_shapes(before: list[int], data: st.DataObject) -> None:
    """Labels have one size wherever they stand, and follow one order."""
    numbers = [p for n in before for p in _primes(n)]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(numbers)), max_size=3)))
    bounds = [0, *cuts, len(numbers)]
    after = tuple(math.prod(numbers[a:b]) for a, b in pairwise(bounds))
    left, right, fixed = factors(tuple(before), after)
    assert not fixed, "both are cuts of one list of primes"
    names = [[n for axis in side for n in axis.strip("()").split() if n != "1"] for side in (left, right)]
    assert names[0] == names[1]
    sizes: dict[str, int] = {}
    axes = [*zip(left, before, strict=True), *zip(right, after, strict=True)]
    places = [([n for n in axis.strip("()").split() if n != "1"], size) for axis, size in axes]
    for _ in places:
        for parts, size in places:
            unknown = [n for n in parts if n not in sizes]
            if len(unknown) == 1:
                sizes[unknown[0]] = size // math.prod(sizes[n] for n in parts if n in sizes)
    for parts, size in places:
        assert math.prod(sizes[n] for n in parts) == size


def _primes(n: int) -> list[int]:
    for p in range(2, n + 1):
        if n % p == 0:
            return [p, *_primes(n // p)]
    return []


def test_factors_that_do_not_divide_are_fixed() -> None:
    op = layout.Reshape((2, 6, 4, 5))
    axes = op.axes(TensorType(DType.F32, (2, 4, 6, 5)))
    assert axes.pattern == "a0 x1 x2 a1 -> a0 y1 y2 a1"
    assert set(axes.fixed) == {"x1", "x2", "y1", "y2"}
    assert axes.fixed["x1"] == "reshape from [2, 4, 6, 5] to [2, 6, 4, 5] does not keep it apart"


def test_symbolic_reshape_keeps_heads_apart() -> None:
    x = type_of("f32[N, T, 64]")
    op = validate(layout.Reshape, {"size": [x.shape[0], x.shape[1], 8, -1]}).canonical(x)
    assert op.shape(x) == (TensorType(DType.F32, (*x.shape[:2], 8, 8)),)
    assert op.axes(x).pattern == "a0 a1 (a3 a2) -> a0 a1 a3 a2"


REFUSED = [
    ("add", {}, ["f32[N, 64, 56, 56]", "f32[N, 128, 28, 28]"], (0, 1),
     "add cannot combine f32[N, 64, 56, 56] and f32[N, 128, 28, 28]: axis 1 is 64 and 128", "make both sizes equal"),
    ("add", {}, ["f32[N, 3]", "f32[M, 3]"], (0, 1),
     "add cannot combine f32[N, 3] and f32[M, 3]: axis 0 is N and M", "the same name"),
    ("mul", {}, ["f32[2, 3, 4]", "f32[2, 3]"], (0, 1),
     "mul cannot combine f32[2, 3, 4] and f32[2, 3]: axis 1 (counted -2 from the right) is 3 and 2", "unsqueeze"),
    ("sub", {}, ["bool[2]", "bool[2]"], (0, 1), "sub of booleans means nothing", "logical_and"),
    ("logical_and", {}, ["bool[2]", "f32[2]"], (1,), "logical_and needs booleans, not f32[2]", "x > 0"),
    ("where", {}, ["f32[2]", "f32[2]", "f32[2]"], (0,), "where needs booleans, not f32[2]", "x > 0"),
    ("clip", {}, ["f32[2]"], (), "clip is given neither min nor max", None),
    ("clip", {"min": 0.5}, ["i64[2]"], (), "clip holds 0.5, which is no i64", None),
    ("gelu", {}, ["i64[2]"], (0,), "gelu needs floating-point numbers, not i64[2]", "cast(x, f32)"),
    ("softmax", {"dim": 2}, ["f32[2, 3]"], (0,),
     "softmax is given dim 2, but a tensor of rank 2 has dims -2 to 1", None),
    ("glu", {}, ["f32[2, 3]"], (0,), "glu halves dim 1 of f32[2, 3], but 3 is not even", None),
    ("prelu", {}, ["f32[2, 3, 4]", "f32[4]"], (0, 1),
     "prelu takes one weight or one for each of the 3 channels of f32[2, 3, 4], not f32[4]", "num_parameters = 3"),
    ("mean", {"dim": [1, -1]}, ["f32[2, 3]"], (0,), "mean names dim 1 twice", None),
    ("mean", {}, ["i64[2, 3]"], (0,), "mean needs floating-point numbers, not i64[2, 3]", "cast(x, f32)"),
    ("var", {"dim": 1}, ["f32[2, 1]"], (0,),
     "var over 1 element of f32[2, 1] with correction 1 divides by 0", "correction = 0"),
    ("topk", {"k": 9}, ["f32[2, 8]"], (0,),
     "topk takes k = 9 of the 8 elements along dim 1 of f32[2, 8]", "k = 8 or less"),
    ("reshape", {"size": [4, 2]}, ["f32[2, 3]"], (0,),
     "reshape cannot make [4, 2] of f32[2, 3]: 6 elements are not 8", "-1"),
    ("reshape", {"size": [4, -1]}, ["f32[2, 3]"], (0,),
     "reshape cannot make [4, -1] of f32[2, 3]: its 6 elements are no multiple of 4", None),
    ("reshape", {"size": [-1, -1]}, ["f32[2, 3]"], (0,),
     "reshape cannot make [-1, -1] of f32[2, 3]: only one size can be -1", None),
    ("permute", {"dims": [0, 1]}, ["f32[2, 3, 4]"], (0,), "permute orders 2 dims, but f32[2, 3, 4] has 3", "[0, 1, 2]"),
    ("permute", {"dims": [0, 0]}, ["f32[2, 3]"], (0,), "permute names dim 0 twice", None),
    ("squeeze", {"dim": 1}, ["f32[2, 3]"], (0,), "squeeze needs size 1 in dim 1, which is 3 in f32[2, 3]", None),
    ("expand", {"size": [2, 6]}, ["f32[2, 3]"], (0,),
     "expand repeats axes of size 1, but axis 1 of f32[2, 3] is 3 and should become 6", "repeat"),
    ("slice", {"dim": 1, "stop": 9}, ["f32[2, 8]"], (0,),
     "slice reaches to 9 in dim 1 of f32[2, 8], which has size 8", "leave"),
    ("slice", {"dim": 1, "start": 3, "stop": 3}, ["f32[2, 8]"], (0,), "slice 3:3 of dim 1 of f32[2, 8] is empty", None),
    ("split", {"sizes": [3, 4], "dim": 1}, ["f32[2, 8]"], (0,),
     "split into [3, 4] needs size 7 in dim 1, which is 8 in f32[2, 8]", None),
    ("chunk", {"chunks": 3}, ["f32[4]"], (0,), "dim 0 of f32[4] does not make 3 chunks, only 2", None),
    ("chunk", {"chunks": 2}, ["f32[N]"], (0,),
     "chunk into 2: dim 0 of f32[N] is N, not known to be a multiple of 2", None),
    ("concat", {"dim": 1}, ["f32[N, 64, 56, 56]", "f32[N, 64, 56, 56]", "f32[N, 32, 28, 56]"], (0, 2),
     "concat along dim 1: input 2 is f32[N, 32, 28, 56], but input 0 is f32[N, 64, 56, 56]: axis 2 is 28 and 56",
     "all axes but the joined one"),
    ("concat", {"dim": 0}, ["f32[2]", "i64[2]"], (0, 1),
     "concat joins f32[2] and i64[2], of different dtypes", "cast(x, f32)"),
    ("concat", {}, [], (), "concat is given no tensors", None),
    ("stack", {}, ["f32[2, 3]", "f32[2, 4]"], (0, 1),
     "stack: input 1 is f32[2, 4], but input 0 is f32[2, 3]: axis 1 is 4 and 3", None),
    ("rearrange", {"pattern": "b t (h d) -> b h t d", "sizes": {"h": 8}}, ["f32[2, 5, 100]"], (0,),
     'rearrange "b t (h d) -> b h t d": (h d) is 100 in f32[2, 5, 100], which h = 8 does not divide',
     "h = 5 or h = 10"),
    ("rearrange", {"pattern": "b t (h d) -> b h t d", "sizes": {"h": 8}}, ["f32[2, 5, D]"], (0,),
     'rearrange "b t (h d) -> b h t d": (h d) is D in f32[2, 5, D], which is not known to be a multiple of h = 8',
     "8*k"),
    ("rearrange", {"pattern": "b t (h d) -> b h t d"}, ["f32[2, 5, 64]"], (0,),
     'rearrange "b t (h d) -> b h t d": (h d) is 64 in f32[2, 5, 64], but how much of it h and d are does not follow',
     "such as h"),
    ("rearrange", {"pattern": "a b -> b a"}, ["f32[2, 5, 64]"], (0,),
     'rearrange "a b -> b a" takes 2 axes, but f32[2, 5, 64] has 3', None),
    ("gather", {"dim": 1}, ["f32[2, 3]", "f32[2, 3]"], (1,),
     "gather takes positions as i64 or i32, not f32[2, 3]", "cast"),
    ("gather", {"dim": 1}, ["f32[2, 3]", "i64[3]"], (0, 1),
     "gather takes an index with as many axes as x, not i64[3] for f32[2, 3]", "index_select"),
    ("gather", {"dim": 1}, ["f32[2, 3]", "i64[4, 3]"], (0, 1),
     "gather: the index i64[4, 3] is larger than f32[2, 3] in axis 0, 4 to 2", None),
    ("roll", {"shifts": [1, 2], "dims": 0}, ["f32[2]"], (), "roll is given 2 shifts for 1 dims", None),
    ("pad", {"padding": [[4, 0]], "mode": "reflect"}, ["f32[2, 4]"], (0,),
     "pad cannot mirror 4 elements of axis 1 of f32[2, 4]: only 3 lie inside the border", None),
    ("interpolate", {}, ["f32[1, 2, 3, 4]"], (), "interpolate needs size or scale_factor", None),
    ("interpolate", {"size": 4, "mode": "bilinear"}, ["f32[1, 2, 3]"], (0,),
     'interpolate with mode "bilinear" takes rank 4, not f32[1, 2, 3]', 'mode = "linear"'),
    ("interpolate", {"scale_factor": 1.7}, ["f32[1, 2, H, 4]"], (0,),
     "interpolate cannot multiply the symbolic size H of f32[1, 2, H, 4] by 1.7", "give size"),
    ("pixel_shuffle", {"upscale_factor": 2}, ["f32[1, 6, 3, 3]"], (0,),
     "pixel_shuffle by 2 needs a multiple of 4 channels, but f32[1, 6, 3, 3] has 6", None),
    ("unfold", {"kernel_size": 5}, ["f32[1, 2, 3, 9]"], (0,),
     "the kernel of unfold reaches over 5, but axis 2 of its input f32[1, 2, 3, 9] has 3", None),
    ("grid_sample", {}, ["f32[1, 2, 3, 3]", "f32[1, 4, 4, 3]"], (1,),
     "grid_sample takes points (x, y), so axis 3 of f32[1, 4, 4, 3] should be 2", None),
    ("arange", {"start": 3, "stop": 3}, [], (), "arange would make an axis of size 0", None),
    ("constant", {"value": 300, "dtype": "u8"}, [], (), "constant holds 300, which is no u8", None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "attributes", "inputs", "operands", "message", "fix"),
    REFUSED,
    ids=[f"{r[0]}-{i}" for i, r in enumerate(REFUSED)],
)
def test_refusals(
    name: str, attributes: dict[str, Any], inputs: list[str], operands: tuple[int, ...], message: str, fix: str | None
) -> None:
    types = [type_of(text) for text in inputs]
    with pytest.raises(ShapeError) as error:
        validate(OPERATORS[name], attributes).canonical(*types).shape(*types)
    assert error.value.message == message
    assert error.value.operands == operands
    if fix is not None:
        assert fix in (error.value.fix or "")


MALFORMED = [
    ("rearrange", {"pattern": "a b"}, "pattern", "two sides"),
    ("rearrange", {"pattern": "a b -> a"}, "pattern", "b on both sides, not only on the left"),
    ("rearrange", {"pattern": "a -> a b"}, "pattern", "b on both sides, not only on the right"),
    ("rearrange", {"pattern": "a a -> a"}, "pattern", "name a once"),
    ("rearrange", {"pattern": "(a b -> a b"}, "pattern", "close every parenthesis"),
    ("rearrange", {"pattern": "((a) b) -> a b"}, "pattern", "not nested"),
    ("rearrange", {"pattern": "a 3 -> a"}, "pattern", "3 is wrong"),
    ("rearrange", {"pattern": "a -> a", "sizes": 3}, "sizes", "sizes by name"),
    ("rearrange", {"pattern": "a -> a", "sizes": [["a"]]}, "sizes", "sizes by name"),
    ("rearrange", {"pattern": "a -> a", "sizes": [["a", "x"]]}, "sizes", "an integer or a dimension"),
    ("constant", {"value": [1, [2]]}, "value", "rectangular"),
    ("constant", {"value": "x"}, "value", "nested lists of numbers"),
    ("constant", {"value": []}, "value", "at least one number"),
    ("mean", {"dim": True}, "dim", "an integer"),
    ("mean", {"dim": [N]}, "dim", "known at compile time"),
    ("slice", {"dim": 0, "step": 0}, "step", "at least 1"),
    ("pad", {"padding": [1, 1]}, "padding", "[before, after]"),
    ("pad", {"padding": 1}, "padding", "[before, after]"),
    ("interpolate", {"scale_factor": 0}, "scale_factor", "above 0"),
    ("extern", {"name_": "f", "types": [], "implementations": [["pytorch", "os.system"]]}, "implementations",
     "module:function"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "attributes", "place", "message"), MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_attributes(name: str, attributes: dict[str, Any], place: str, message: str) -> None:
    with pytest.raises(ValidationError) as error:
        validate(OPERATORS[name], attributes)
    (found,) = error.value.errors()
    assert found["loc"][0] == place
    assert message in found["msg"]


def test_slices_of_symbolic_sizes_are_believed_where_they_may_fit() -> None:
    """The first T rows of a table of 1024: a longer T is an error of the run, not of the specification."""
    length = type_of("f32[T]").shape[0]
    table = type_of("f32[1024, 8]")
    op = layout.Slice(0, 0, length).canonical(table)
    assert op.shape(table) == (type_of("f32[T, 8]"),)
    assert op.axes(table).fixed.keys() == {"d0", "s"}


def test_extern_has_the_declared_types() -> None:
    types = (type_of("f32[N, 3]"), type_of("i64[N]"))
    implementations = [["pytorch", "my.ops:swish"]]
    op = validate(
        extern.Extern,
        {"name_": "swish", "types": types, "attributes_": [["beta", [1.0, 2.0]]], "implementations": implementations},
    )
    x = type_of("f32[N, 3]")
    assert op.canonical(x).shape(x) == types
    assert hash(op) == hash(replace(op))
    assert op.axes(x).pattern == "i0_0 i0_1 -> o0_0 o0_1, o1_0"
    assert set(op.axes(x).fixed) == {"i0_0", "i0_1", "o0_0", "o0_1", "o1_0"}


def test_prelu_owns_its_slopes() -> None:
    x = type_of("f32[N, 8, 4]")
    layer = activation.PreluLayer(8)
    (spec,) = layer.parameters([x], {}).values()
    assert (spec.shape, str(spec.initialiser), spec.buffer) == ((8,), "constant(0.25)", False)
    assert layer.parameters([x], {"weight": type_of("f32[8]")}) == {}
    assert layer.operator([x], {}).shape(x, TensorType(DType.F32, spec.shape)) == (x,)
