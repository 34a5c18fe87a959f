"""Passes: the examples of their documentation, what they refuse, and their promises on random graphs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from netc.compiler import passes
from netc.compiler import tree as t
from netc.compiler.diagnostic import NetcError
from netc.compiler.graph import Graph, verify
from netc.compiler.passes.bind import bind
from netc.compiler.passes.eliminate_common import eliminate_common
from netc.compiler.passes.expand import expand
from netc.compiler.passes.register import PASSES
from netc.compiler.source import Source
from netc.compiler.syntax import parse
from netc.compiler.text import print_graph, read_graph

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
