"""The normal form: graph → text → graph is identity, and a wrong line is told from a right one."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netc.compiler import tree as t
from netc.compiler.diagnostic import Diagnostic, NetcError
from netc.compiler.format import format_text
from netc.compiler.graph import Graph, verify
from netc.compiler.operators.operator import SAMPLES, Initialiser, Sample
from netc.compiler.program import read as program_of
from netc.compiler.source import Source
from netc.compiler.syntax import parse
from netc.compiler.text import literal, print_graph, read_graph
from netc.compiler.types import Dim, DType, Expression, TensorType, floor_divide, substitute, symbol, symbols
from strategies import Builder, graphs, sample_graph, type_of

SPECS = sorted((Path(__file__).parents[1] / "specs").glob("*.net"))


def read(text: str) -> Graph:
    tree = parse(Source("test.net", text)).declarations[0]
    assert isinstance(tree, t.GraphText)
    return read_graph(tree)


def check_round_trip(graph: Graph) -> None:
    text = print_graph(graph)
    again = read(text)
    assert again == graph
    assert print_graph(again) == text
    assert format_text(Source("test.net", text)) == text
    verify(again)


EXAMPLE = """\
graph example {
    input %x: f32[N, 3, 2*H, W]
    input %tokens: i64[N, T]

    param @conv.weight: f32[8, 3, 3, 3] = fan_in_uniform
    frozen param @conv.bias: f32[8] = normal(0.0, 1e-05)
    buffer @shift: f32[8, 1, 1] = constant(-0.5)

    scope = Example
    scope layer1.0 = Basic
    scope layer1.0.attn~1 = SelfAttention of layer1.0.attn

    %layer1.0.conv: f32[N, 8, H, (W + 1)//2] = conv2d(%x, @conv.weight, bias = @conv.bias, stride = [2, 2], padding = [[0, 1], [1, 1]], dilation = [1, 1], groups = 1)
    train %layer1.0.drop: f32[N, 8, H, (W + 1)//2] = dropout(%layer1.0.conv, p = 0.1)
    %layer1.0.select: f32[N, 8, H, (W + 1)//2] = select_phase(%layer1.0.drop, %layer1.0.conv)
    %sum~1: f32[N, 8, H, (W + 1)//2] = add(%layer1.0.select, @shift)
    %halves: (f32[N, 4, H, (W + 1)//2], f32[N, 4, H, (W + 1)//2]) = split(%sum~1, sizes = [4, 4], dim = 1)
    %joined: f32[N, 8, H, (W + 1)//2] = concat([%halves, %halves:1], dim = 1)
    %flat: f32[8*H*N, (W + 1)//2] = reshape(%joined, size = [8*H*N, (W + 1)//2])

    tap "stem \\"1\\"" = %halves:1

    return logits = %flat, features = %halves:1, weight = @conv.weight
}
"""  # noqa: E501


def test_example_reads_and_prints_as_itself() -> None:
    graph = read(EXAMPLE)
    verify(graph)
    assert print_graph(graph) == EXAMPLE
    assert graph.taps.keys() == {'stem "1"'}
    assert graph.scopes[""].module == "Example"
    assert graph.scopes["layer1.0.attn~1"].instance == "layer1.0.attn"
    assert graph.parameters["conv.bias"].trainable is False
    assert graph.parameters["conv.bias"].initialiser == Initialiser("normal", (0.0, 1e-5))
    assert graph.nodes["layer1.0.drop"].phase == "train"
    node = graph.nodes["joined"]
    assert node.origin[0].text == "%joined: f32[N, 8, H, (W + 1)//2] = concat([%halves, %halves:1], dim = 1)"


def test_blank_lines_comments_and_order_of_arguments_are_free() -> None:
    plain = """
        graph g {
            input %x: f32[4, 2]
            param @w: f32[3, 2] = zeros
            %y: f32[4, 3] = linear(%x, @w)
            return %y
        }
    """
    free = plain.replace("linear(%x, @w)", "linear( # of x\n  weight = @w,\n x = %x)").replace(
        "return", "\n\n# end\n\nreturn"
    )
    assert read(free) == read(plain)


def test_attributes_are_validated_and_made_canonical() -> None:
    text = "graph g {\n input %x: f32[4, 6]\n %y: f32[4, 6] = softmax(%x, dim = -1)\n return %y\n}\n"
    assert read(text) == read(text.replace("-1", "1"))
    assert "dim = 1" in print_graph(read(text))


@pytest.mark.parametrize("parameters", [False, True], ids=["inputs", "parameters"])
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.op.name)
def test_samples_round_trip(sample: Sample, parameters: bool) -> None:
    check_round_trip(sample_graph(sample, parameters=parameters))


@given(graphs())
def test_random_graphs_round_trip(graph: Graph) -> None:
    check_round_trip(graph)


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_specs_round_trip(path: Path) -> None:
    """Of each spec its first model."""
    program = program_of(path)
    graph = program.model(program.models[0]).graph
    text = print_graph(graph)
    assert read(text) == graph
    assert print_graph(read(text)) == text


def test_single_outputs_may_have_a_name() -> None:
    build = Builder()
    check_round_trip(build.done(logits=build.input("x", "f32[2]")))


def test_a_parameter_may_be_returned() -> None:
    build = Builder()
    graph = build.done(build.parameter("w", (2, 3)))
    assert "return @w\n" in print_graph(graph)
    check_round_trip(graph)


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e22, 5e-324, -0.0, 0.1 + 0.2, 1.0, 2**63])
def test_numbers_round_trip(value: float) -> None:
    build = Builder()
    graph = build.done(build("constant", value=[[value, 1.0]], dtype=DType.F64))
    check_round_trip(graph)
    again = read(print_graph(graph)).nodes["constant"].op.attributes()["value"][0][0]
    assert repr(again) == repr(float(value))


def test_nan_round_trips() -> None:
    build = Builder()
    text = print_graph(build.done(build("constant", value=math.nan)))
    assert "value = nan," in text
    assert math.isnan(read(text).nodes["constant"].op.attributes()["value"])


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('\n\t"\\{}#')))
def test_strings_round_trip(text: str) -> None:
    build = Builder()
    build.edit.tap(text, build.input("x", "f32[2]"))
    check_round_trip(build.done(build.input("y", "f32[2]")))


@pytest.mark.parametrize("value", [{1: 2}, object(), 1j])
def test_values_without_a_text_are_refused(value: object) -> None:
    with pytest.raises(TypeError):
        literal(value)


def dims(depth: int = 3) -> st.SearchStrategy[Dim]:
    leaf: st.SearchStrategy[Dim] = st.sampled_from([symbol(n) for n in ("N", "H", "W_1")]) | st.integers(-5, 5)
    if depth == 0:
        return leaf
    inner = dims(depth - 1)
    quotient = st.builds(floor_divide, inner, st.integers(1, 4))
    return leaf | st.builds(lambda a, b: a + b, inner, inner) | st.builds(lambda a, b: a * b, inner, inner) | quotient


@given(dims())
def test_dimensions_print_and_read_as_themselves(dim: Dim) -> None:
    if isinstance(dim, int):
        dim = symbol("N") + dim
    assert type_of(f"f32[{dim}, 1]") == TensorType(DType.F32, (dim, 1))
    values: dict[str, Dim] = {"N": 3, "H": 5, "W_1": 7}
    text = str(substitute(dim, values))
    assert eval(str(dim), {"__builtins__": {}}, values) == int(text)  # noqa: S307 - the same operators mean the same


def test_symbols_of_dimensions_survive() -> None:
    (dim,) = type_of("f32[(H + 1)//2*N]").shape
    assert isinstance(dim, Expression)
    assert symbols(dim) == {"H", "N"}


def test_deep_and_long_graphs_are_read() -> None:
    build = Builder()
    x = build.input("x", "f32[N, 4]")
    for _ in range(1500):
        x = build("relu", x)
    check_round_trip(build.done(x))


# --------------------------------------------------------------------------------------------------- wrong texts

HEAD = """\
graph g {
    input %x: f32[N, 4]
    input %image: f32[N, 3, 8, 8]
    param @weight: f32[6, 4] = zeros
    %good: f32[N, 4] = relu(%x)
"""

# Lines; the code of each message, the text it is about, a part of what it says.
WRONG = {
    "unknown operator": ("%y: f32[N, 4] = rellu(%x)", "unknown-operator", "rellu", "no operator rellu", "relu"),
    "input as an operator": ("%y: f32[N, 4] = input(%x)", "unknown-operator", "input", "no operator input", None),
    "no operator": ("%y: f32[N, 4] = %x", "normal-form", "%x", "one operator applied to its inputs", None),
    "undefined": ("%y: f32[N, 4] = relu(%goof)", "undefined-value", "%goof", "no %goof", "%good"),
    "undefined parameter": (
        "%y: f32[N, 6] = linear(%x, @weigth)", "undefined-value", "@weigth", "no @weigth",
        "@weight",
    ),
    "itself": ("%y: f32[N, 4] = relu(%y)", "undefined-value", "%y", "before it is defined", None),
    "too early": (
        "%y: f32[N, 4] = relu(%z)\n%z: f32[N, 4] = relu(%x)",
        "undefined-value", "%z", "%z is used before it is defined",
        None,
    ),
    "no such output": ("%y: f32[N, 4] = relu(%good:1)", "undefined-value", "%good:1", "%good has 1 output", None),
    "missing operand": ("%y: f32[N, 6] = linear(%x)", "operand", "linear(%x)", "linear needs its input weight", None),
    "superfluous operand": ("%y: f32[N, 4] = relu(%x, %x)", "operand", "%x", "relu takes x; everything else", None),
    "operand twice": ("%y: f32[N, 4] = relu(%x, x = %x)", "operand", "x = %x", "x is given twice", None),
    "no list": ("%y: f32[N, 4] = concat(%x, dim = 1)", "operand", "%x", "tensors is a list", None),
    "number as operand": ("%y: f32[N, 4] = add(%x, 1)", "normal-form", "1", "an input is a value", None),
    "misspelt attribute": (
        "%y: f32[N, 4] = softmax(%x, dimm = 1)", "attribute", "dimm", "softmax has no argument dimm",
        "dim",
    ),
    "missing attribute": (
        "%y: f32[N, 4] = one_hot(%x)", "attribute", "one_hot(%x)", "one_hot needs num_classes",
        "num_classes = …",
    ),
    "wrong attribute": (
        '%y: f32[N, 4] = softmax(%x, dim = "last")', "attribute", 'dim = "last"', 'softmax cannot take `"last"` as dim',
        None,
    ),
    "no value": ("%y: f32[N, 4] = softmax(%x, dim = f(1))", "attribute", "f(1)", "`f(1)` is no value", None),
    "a unit": ("%y: f32[N, 4] = softmax(%x, dim = 1 KiB)", "attribute", "1 KiB", "`1 KiB` is no value", None),
    "dim out of range": ("%y: f32[N, 4] = softmax(%x, dim = 2)", None, "softmax(%x, dim = 2)", "dim", None),
    "shape": ("%y: f32[N, 4] = linear(%image, @weight)", None, "linear(%image, @weight)", "", None),
    "declared type": ("%y: f32[N, 5] = relu(%x)", "declared-type", "f32[N, 5]", "%y is f32[N, 4]", "%y: f32[N, 4] = …"),
    "declared types": (
        "%y: (f32[N, 2], f32[N, 2], f32[N, 2]) = chunk(%x, chunks = 2, dim = 1)", "declared-type",
        "f32[N, 2], f32[N, 2], f32[N, 2]", "%y is (f32[N, 2], f32[N, 2])", "%y: (f32[N, 2], f32[N, 2]) = …",
    ),
    "dtype": ("%y: bf32[N, 4] = relu(%x)", "dtype", "bf32", "no dtype bf32", "f32"),
    "no dtype": ("%y: [N, 4] = relu(%x)", "type", "[N, 4]", "a type is written with its dtype and shape", None),
    "kind": ("%y: int = relu(%x)", "type", "int", "a type is written with its dtype and shape", None),
    "ellipsis": ("%y: f32[..., 4] = relu(%x)", "dimension", "...", "every dimension is written out", None),
    "no dimension": ("%y: f32[N, 4.0] = relu(%x)", "dimension", "4.0", "this is no dimension", None),
    "negative": ("%y: f32[N, 3 - 7] = relu(%x)", "dimension", "3 - 7", "a dimension cannot be -4", None),
    "divided by 0": ("%y: f32[N, 4 // 0] = relu(%x)", "dimension", "4 // 0", "not defined", None),
    "divided by a symbol": ("%y: f32[N, 4 // N] = relu(%x)", "dimension", "4 // N", "4 is not a multiple of N", None),
    "remainder": ("%y: f32[N, N % 2] = relu(%x)", "dimension", "N % 2", "is no dimension", None),
    "huge": (
        "%y: f32[N, ((A + B + C + D)**8)**8] = relu(%x)", "dimension", "(A + B + C + D)**8",
        "more than 10000 terms", None,
    ),
    "defined twice": ("%good: f32[N, 4] = relu(%x)", "duplicate", "%good", "%good is defined twice", None),
    "declared twice": ("param @weight: f32[6, 4] = zeros", "duplicate", "@weight", "@weight is declared twice", None),
    "index": ("%y:1: f32[N, 4] = relu(%x)", "normal-form", "%y:1", "without an index", "%y"),
    "initialiser": ("param @w: f32[2] = zeroes", "initialiser", "zeroes", "no initialiser zeroes", "zeros"),
    "initialiser's arguments": (
        "param @w: f32[2] = normal(0)", "initialiser", "normal(0)", "normal takes mean, std",
        None,
    ),
    "no initialiser": ("param @w: f32[2] = 3", "initialiser", "3", "no initialiser 3", None),
    "scopes": ("scope a = A\nscope a = A", "duplicate", "scope a = A", "two scopes a", None),
    "taps": ('tap "a" = %x\ntap "a" = %x', "duplicate", '"a"', 'two taps "a"', None),
    "phase": (
        "train %y: f32[N, 4] = tanh(%x)\n%z: f32[N, 4] = relu(%y)", "phase", "%z: f32[N, 4] = relu(%y)",
        "%z (both) reads %y, which exists only in the train phase", None,
    ),
    "returned twice": ("return %x", "duplicate", "return %good", "a graph returns once", None),
}  # fmt: skip


def problems(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(NetcError) as caught:
        read(text)
    for diagnostic in caught.value.diagnostics:
        for label in diagnostic.labels:
            assert 0 <= label.span.start < label.span.end <= len(text)
    return caught.value.diagnostics


@pytest.mark.parametrize(("lines", "code", "place", "message", "fix"), WRONG.values(), ids=WRONG.keys())
def test_wrong_lines(lines: str, code: str | None, place: str, message: str, fix: str | None) -> None:
    """One message for each, at the right place, although later lines read what is wrong."""
    defined = re.match(r"(?:train )?(%[a-z]+)(?=: f32)", lines)
    reader = f'    tap "reader" = {defined[1]}\n' if defined and "before it" not in message else ""
    found = problems(f"{HEAD}    {lines}\n{reader}    return %good\n}}\n")
    assert len(found) == 1, [d.message for d in found]
    assert found[0].span is not None
    assert found[0].span.text == place
    assert message in found[0].message
    assert code is None or found[0].code == code
    assert found[0].fix == fix or fix is None


def test_all_problems_are_reported_at_once() -> None:
    found = problems(f"""{HEAD}
    %a: f32[N, 4] = rellu(%x)
    %b: f32[N, 4] = softmax(%a, dimm = 1)
    %c: f32[N, 4] = add(%missing, %a)
    %d: f32[N, 9] = relu(%c)
    %e: f32[N, 9] = relu(%good)
    tap "b" = %b
    return first = %e, second = %nowhere
}}
""")
    codes = [d.code for d in found]
    assert codes == ["unknown-operator", "attribute", "undefined-value", "declared-type", "undefined-value"]


def test_a_graph_returns_something() -> None:
    (found,) = problems("graph g {\n    input %x: f32[2]\n}\n")
    assert (found.code, found.span and found.span.text) == ("no-output", "g")


def test_several_outputs_have_names() -> None:
    found = problems("graph g {\n    input %x: f32[2]\n    return %x, %x\n}\n")
    assert {d.code for d in found} == {"normal-form"}


def test_types_need_every_dimension_of_the_right_kind() -> None:
    with pytest.raises(NetcError):
        type_of("f32[" + "(" * 200 + "N" + " + 1)" * 200 + "]")


def test_lists_nested_too_deeply_are_refused() -> None:
    (found,) = problems(f"{HEAD}    %y: f32[] = constant(value = {'[' * 5000}1{']' * 5000})\n    return %y\n}}\n")
    assert found.code == "too-deep"


def test_reading_stops_after_many_problems() -> None:
    lines = "".join(f"    %y{i}: f32[N, 4] = rellu(%x)\n" for i in range(1000))
    assert len(problems(f"{HEAD}{lines}    return %good\n}}\n")) < 200
