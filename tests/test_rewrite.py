"""Rules: patterns of every kind found, refused with reasons, and applied."""

from __future__ import annotations

from typing import Any

import pytest
from netc.compiler import tree as t
from netc.compiler.diagnostic import NetcError
from netc.compiler.graph import Graph, verify
from netc.compiler.importer import read_imports
from netc.compiler.operators.operator import SAMPLES
from netc.compiler.rewrite.apply import Rewriter
from netc.compiler.rewrite.match import Matcher
from netc.compiler.rewrite.pattern import Rule
from netc.compiler.rewrite.read import read_rule
from netc.compiler.source import Source
from netc.compiler.syntax import parse
from netc.compiler.text import print_graph, read_graph
from strategies import type_of


def rules(text: str) -> list[Rule]:
    scope = read_imports(Source("rules.net", text)).scope
    found = [d for d in scope.tree.declarations if isinstance(d, t.Rewrite)]
    return [read_rule(scope, d, lambda home, name, _: home.names[name]) for d in found]


def rule(body: str, contract: str = "exact") -> Rule:
    (one,) = rules(f"rewrite r {contract} {{\n{body}\n}}\n")
    return one


def graph(text: str) -> Graph:
    (tree,) = parse(Source("graph.net", f"graph g {{\n{text}\n}}\n")).declarations
    assert isinstance(tree, t.GraphText)
    return read_graph(tree)


def lines(g: Graph) -> list[str]:
    """The nodes and the return of the normal form, without indentation."""
    return [line.strip() for line in print_graph(g).splitlines() if line.strip().startswith(("%", "return"))]


def applied(one: Rule | list[Rule], g: Graph) -> Graph:
    result = Rewriter(one if isinstance(one, list) else [one])(g)
    verify(result)
    return result


X = "input %x: f32[N, 4]\n"
RELU = "match y = x |> relu |> relu\nreplace y = x |> relu"


def test_a_chain_collapses_to_one_and_keeps_its_first_path():
    g = graph(
        X + "\n".join(f"%r{i}: f32[N, 4] = relu(%{f'r{i - 1}' if i else 'x'})" for i in range(9)) + "\nreturn %r8"
    )
    result = applied(rule(RELU), g)
    assert [n.op.name for n in result.nodes.values()] == ["input", "relu"]


def test_nothing_to_do_gives_the_very_same_graph():
    g = graph(X + "%y: f32[N, 4] = relu(%x)\nreturn %y")
    assert applied(rule(RELU), g) is g


def test_commutative_operators_match_in_both_orders():
    one = rule("match y = x * sigmoid(x)\nreplace y = silu(x)")
    for text in ("mul(%x, %s)", "mul(%s, %x)"):
        g = graph(X + f"%s: f32[N, 4] = sigmoid(%x)\n%y: f32[N, 4] = {text}\nreturn %y")
        assert lines(applied(one, g)) == ["%y: f32[N, 4] = silu(%x)", "return %y"]
    g = graph(X + "%s: f32[N, 4] = sigmoid(%x)\n%y: f32[N, 4] = sub(%s, %x)\nreturn %y")
    assert applied(rule("match y = x - sigmoid(x)\nreplace y = x"), g) is g


def test_one_name_is_one_value():
    one = rule("match y = a + a\nreplace y = a * 2.0")
    g = graph(X + "input %z: f32[N, 4]\n%y: f32[N, 4] = add(%x, %z)\nreturn %y")
    assert applied(one, g) is g
    g = graph(X + "%y: f32[N, 4] = add(%x, %x)\nreturn %y")
    assert lines(applied(one, g))[-2] == "%y: f32[N, 4] = mul(%x, %y.constant)"


@pytest.mark.parametrize(("middle", "found"), [("", True), ("%i: f32[N, 4] = identity(%a)\n", True)])
def test_optional_stages(middle: str, found: bool):
    one = rule("match y = x |> relu |> identity? |> neg\nwhere single_use\nreplace y = x |> gelu")
    last = "i" if middle else "a"
    g = graph(X + f"%a: f32[N, 4] = relu(%x)\n{middle}%y: f32[N, 4] = neg(%{last})\nreturn %y")
    assert ("gelu" in print_graph(applied(one, g))) == found


def test_an_optional_stage_tells_whether_it_was_there():
    one = rule("match y = x |> relu? as act |> neg\nreplace y = (x if absent(act) else act) |> abs")
    g = graph(X + "%y: f32[N, 4] = neg(%x)\nreturn %y")
    assert lines(applied(one, g)) == ["%y: f32[N, 4] = abs(%x)", "return %y"]
    g = graph(X + "%a: f32[N, 4] = relu(%x)\n%y: f32[N, 4] = neg(%a)\nreturn %y")
    assert lines(applied(one, g))[1] == "%y: f32[N, 4] = abs(%a)"


def test_repetition_captures_lists_in_the_order_of_the_computation():
    one = rule("match y = x |> leaky_relu(negative_slope = s)+ |> neg\nreplace y = x |> leaky_relu(s[0] * 10 + s[-1])")
    text = "".join(
        f"%l{i}: f32[N, 4] = leaky_relu(%{f'l{i - 1}' if i else 'x'}, negative_slope = {i + 1}.0)\n" for i in range(3)
    )
    g = graph(X + text + "%y: f32[N, 4] = neg(%l2)\nreturn %y")
    assert lines(applied(one, g))[0].endswith("leaky_relu(%x, negative_slope = 13.0)")


def test_repeated_groups():
    one = rule("match y = x |> (relu |> neg)+\nreplace y = x |> abs")
    text = "%a: f32[N, 4] = relu(%x)\n%b: f32[N, 4] = neg(%a)\n%c: f32[N, 4] = relu(%b)\n%d: f32[N, 4] = neg(%c)\n"
    assert lines(applied(one, graph(X + text + "return %d")))[0] == "%d: f32[N, 4] = abs(%x)"


@pytest.mark.parametrize("name", ["relu", "silu"])
def test_alternatives(name: str):
    one = rule('match y = x |> (relu or silu) as act |> neg\nwhere op(act) == "silu"\nreplace y = x |> abs')
    g = graph(X + f"%a: f32[N, 4] = {name}(%x)\n%y: f32[N, 4] = neg(%a)\nreturn %y")
    assert ("abs" in print_graph(applied(one, g))) == (name == "silu")


def test_several_roots_that_share_a_value():
    one = rule(
        "match a = x |> linear(wa)\nmatch b = x |> linear(wb)\n"
        "replace a, b = x |> linear(concat([wa, wb], dim = 0)) |> split([wa.shape[0], wb.shape[0]], dim = -1)"
    )
    g = graph(
        X + "param @a: f32[3, 4] = zeros\nparam @b: f32[5, 4] = zeros\n"
        "%p: f32[N, 3] = linear(%x, @a)\n%q: f32[N, 5] = linear(%x, @b)\nreturn p = %p, q = %q"
    )
    result = applied(one, g)
    assert [n.op.name for n in result.nodes.values()] == ["input", "concat", "linear", "split"]
    assert {str(r) for r in result.outputs.values()} == {"%q", "%q:1"}


def test_several_roots_never_close_a_circle():
    pair = rule("match a = relu(x)\nmatch b = neg(z)\nreplace a, b = chunk(concat([x, z], dim = 1), 2, dim = 1)")
    g = graph(X + "%a: f32[N, 4] = relu(%x)\n%s: f32[N, 4] = abs(%a)\n%b: f32[N, 4] = neg(%s)\nreturn %b")
    assert applied(pair, g) is g


def test_outputs_of_one_node():
    one = rule("match a, b = split(x, [2, 2], dim = 1)\nreplace a, b = x[:, :2], x[:, 2:]")
    g = graph(
        X + "%c: (f32[N, 2], f32[N, 2]) = split(%x, sizes = [2, 2], dim = 1)\n%y: f32[N, 2] = add(%c, %c:1)\nreturn %y"
    )
    assert [n.op.name for n in applied(one, g).nodes.values()] == ["input", "slice", "slice", "add"]
    second = rule("match y = split(x, [2, 2], dim = 1)[1]\nreplace y = x[:, 2:]")
    assert applied(second, g) is g, "the first output is read as well"


def test_variadic_operands():
    listed = rule("match y = concat([a, b], dim = d)\nreplace y = concat([b, a], dim = d) |> relu", "alters")
    named = rule("match y = concat(xs, dim = d) |> relu\nreplace y = concat([relu(x) for x in xs], dim = d)")
    g = graph(X + "%c: f32[N, 12] = concat([%x, %x, %x], dim = 1)\n%y: f32[N, 12] = relu(%c)\nreturn %y")
    assert applied(listed, g) is g
    assert [n.op.name for n in applied(named, g).nodes.values()] == ["input", "relu", "relu", "relu", "concat"]


def test_attributes_compare_in_any_form_and_are_given_on():
    one = rule(
        "match y = x |> max_pool2d(kernel_size = 2, stride = s, *rest)\nreplace y = x |> avg_pool2d(2, s)", "alters"
    )
    image = "input %x: f32[N, 3, 8, 8]\n"
    rest = "stride = [2, 2], padding = [[0, 0], [0, 0]], dilation = [1, 1], ceil_mode = false"
    pool = f"max_pool2d(%x, kernel_size = [{{0}}, 2], {rest})"
    g = graph(image + f"%y: f32[N, 3, 4, 4] = {pool.format(2)}\nreturn %y")
    assert "avg_pool2d(%x, kernel_size = [2, 2], stride = [2, 2]" in print_graph(applied(one, g))
    g = graph(image + f"%y: f32[N, 3, 3, 4] = {pool.format(3)}\nreturn %y")
    assert applied(one, g) is g


def test_numbers_match_constants():
    one = rule("match y = x + 0\nreplace y = x")
    g = graph(
        X
        + "%c: f32[] = constant(value = 0.0, dtype = f32)\n%y: f32[N, 4] = add(%c, %x)\n"
        + "%z: f32[N, 4] = relu(%y)\nreturn %z"
    )
    assert lines(applied(one, g))[-2] == "%z: f32[N, 4] = relu(%x)"


def test_absent_operands_are_neutral_numbers():
    one = rule("match y = x |> linear(w, b) |> relu\nreplace y = x |> linear(w * 2.0, b * 1.0 + 0.0)", "alters")
    g = graph(X + "param @w: f32[4, 4] = zeros\n%a: f32[N, 4] = linear(%x, @w)\n%y: f32[N, 4] = relu(%a)\nreturn %y")
    with pytest.raises(NetcError):
        applied(rule("match y = x |> linear(w, b) |> relu\nreplace y = x |> linear(w, b @ w)", "alters"), g)
    assert "bias" not in lines(applied(one, g))[-2]


def test_an_operand_that_is_not_mentioned_must_be_absent():
    one = rule("match y = x |> linear(w) |> relu\nreplace y = x |> linear(w)", "alters")
    with_bias = graph(
        X + "param @w: f32[4, 4] = zeros\nparam @b: f32[4] = zeros\n"
        "%a: f32[N, 4] = linear(%x, @w, bias = @b)\n%y: f32[N, 4] = relu(%a)\nreturn %y"
    )
    assert applied(one, with_bias) is with_bias


def test_values_with_other_readers_stay():
    g = graph(X + "%a: f32[N, 4] = relu(%x)\n%y: f32[N, 4] = relu(%a)\n%z: f32[N, 4] = neg(%a)\nreturn y = %y, z = %z")
    shared = applied(rule("match y = x |> relu |> relu\nreplace y = x |> abs", "alters"), g)
    assert [n.op.name for n in shared.nodes.values()] == ["input", "relu", "abs", "neg"]
    assert applied(rule("match y = x |> relu |> relu\nwhere single_use\nreplace y = x |> abs", "alters"), g) is g


def test_what_replaces_has_the_type_of_what_is_replaced():
    g = graph(X + "%y: f32[N, 4] = relu(%x)\nreturn %y")
    with pytest.raises(NetcError, match=r"y is f32\[N, 4\], but what replaces it is f32\[4\]"):
        applied(rule("match y = relu(x)\nreplace y = x |> sum(dim = 0)", "alters"), g)


def test_rules_that_undo_each_other_are_named():
    g = graph(X + "%y: f32[N, 4] = relu(%x)\nreturn %y")
    pair = rules(
        "rewrite there alters {\n match y = relu(x)\n replace y = abs(x)\n}\n"
        "rewrite back alters {\n match y = abs(x)\n replace y = relu(x)\n}\n"
    )
    with pytest.raises(NetcError, match="the rules back, there undo each other"):
        applied(pair, g)


def test_provenance():
    g = graph(X + "%a: f32[N, 4] = relu(%x)\n%y: f32[N, 4] = neg(%a)\nreturn %y")
    result = applied(rule("match y = x |> relu |> neg\nreplace y = x |> gelu", "alters"), g)
    node = result.nodes["y"]
    assert node.maker == "r"
    assert [s.text.split(":")[0] for s in node.origin] == ["%a", "%y"]
    assert result.removed["a"].maker == "r"


def refusals(one: Rule, g: Graph, at: str) -> str:
    found: list[tuple[int, str]] = []
    assert Matcher(g, lambda depth, reason: found.append((depth, reason))).find(one, g.nodes[at]) is None
    return max(found)[1]


def test_reasons():
    g = graph(X + "%a: f32[N, 4] = relu(%x)\n%y: f32[N, 4] = relu(%a)\n%z: f32[N, 4] = neg(%a)\nreturn y = %y, z = %z")
    assert refusals(rule("match y = x |> neg |> relu\nreplace y = x"), g, "y") == "%a is relu, not neg"
    once = rule("match y = x |> relu |> relu\nwhere single_use\nreplace y = x |> relu")
    assert refusals(once, g, "y") == "%a is also read by %z"
    condition = rule("match y = x |> relu |> relu\nwhere x.rank == 3\nreplace y = x |> relu")
    assert refusals(condition, g, "y") == "the condition `x.rank == 3` does not hold"


BAD: list[tuple[str, Any]] = [
    ("replace y = x", "matches nothing"),
    ("match y = x\nreplace y = x", "begins with an operator"),
    ("match y = rellu(x)\nreplace y = x", "no operator, layer or module called rellu"),
    ("match y = relu(x)", "nothing says what replaces y"),
    ("match y = relu(x)\nreplace z = x", "z is not matched"),
    ("match y = relu(x)\nreplace y = w", "nothing here is called w"),
    ("match y = relu(x, 3)\nreplace y = x", "takes no more arguments"),
    ("match y = relu(x, slope = 3)\nreplace y = x", "slope is no argument of relu"),
    ("match y = conv2d(x)\nreplace y = x", "conv2d needs its input weight"),
    ("match y = relu(x)\nwhere single_use(x)\nreplace y = x", "names with `as`"),
    ("match y = transpose(x, 0, 1)\nreplace y = x", "never stands in a graph, where it is permute"),
    ("match y = relu(x)\nreplace y = x\nreplace y = x", "replaced twice"),
    ("match y = y |> relu |> relu\nreplace y = relu(y)", "y is the value that is matched, and stands in its own"),
    ("match y = topk(x, 2)[2] |> relu\nreplace y = x", "topk has no output 2"),
]


@pytest.mark.parametrize(("body", "message"), BAD)
def test_texts_that_are_no_rules(body: str, message: str):
    with pytest.raises(NetcError, match=message):
        rule(body)


@pytest.mark.parametrize("contract", ["exat", "approx", "exact(1)", "delayed(0)"])
def test_contracts_that_are_none(contract: str):
    with pytest.raises(NetcError, match="is no contract"):
        rule("match y = relu(x)\nreplace y = x", contract)


def test_modules_are_gone_from_graphs():
    with pytest.raises(NetcError, match="Net is no operator, which patterns are made of"):
        rules("module Net() (x) { return x }\nrewrite r exact { match y = x |> Net\n replace y = x }\n")


def test_operators_that_never_stand_in_a_graph_say_so():
    """A rule that looked for one would never apply, and nobody would know."""
    for one in SAMPLES:
        canonical = one.op.canonical(*(None if i is None else type_of(i) for i in one.inputs))
        assert canonical.name == (one.op.becomes or one.op.name)


def test_a_long_chain_that_vanishes_leads_to_its_beginning():
    """Each redirected value is passed once: a chain of thousands takes no longer a step than a short one."""
    steps = [f"%i{n}: f32[N, 4] = identity(%{f'i{n - 1}' if n else 'x'})" for n in range(3000)]
    g = graph(X + "\n".join(steps) + "\n%y: f32[N, 4] = relu(%i2999)\nreturn %y")
    result = applied(rule("match y = identity(x)\nreplace y = x"), g)
    assert lines(result)[0] == "%y: f32[N, 4] = relu(%x)"
    assert list(result.nodes) == ["x", "y"]
    assert all(str(result.removed[f"i{n}"].by) == "%x" for n in range(3000))
