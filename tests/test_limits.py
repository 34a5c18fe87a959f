"""Specs that would take forever, or more memory than there is: each ends in a message of the budget and its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from netc.compiler.diagnostic import NetcError
from netc.compiler.format import format_text
from netc.compiler.program import read, read_source
from netc.compiler.source import Source


def body(statements: str) -> str:
    return f"module A(x) {{\n    {statements}\n    return x\n}}\nmodel m = A (x: f32[N, 4])\n"


def modules(copies: Callable[[str], str], parameters: str = "", arguments: str = "") -> str:
    """40 modules, each with 40 copies of the one before."""
    inner = "".join(
        f"module M{i}{parameters}(x) {{\n{copies(f'M{i - 1}{arguments}')}    return x\n}}\n" for i in range(1, 41)
    )
    start = f"module M0{parameters}(x) {{\n    return relu(x)\n}}\n"
    return f"let forty = 40\n{start}{inner}model m = M40{arguments and '(40)'} (x: f32[N, 4])\n"


RECURSION = """\
module R(n) (x) {
    if n == 0 { return relu(x) }
    for i in 0..40 { x = x |> R(n - 1) }
    return x
}
model m = R(40) (x: f32[N, 4])
"""

LONG = "y = [1 for i in 0..50_000]\n    for i in 0..50_000 {{ z = {} }}"

BUDGET = {
    "loop": body("for i in 0..10**12 { x = relu(x) }"),
    "loops": body("for i in 0..1000 { for j in 0..1000 { for k in 0..1000 { y = 1 } } }"),
    "literal loops": modules(lambda m: f"    for i in 0..40 {{ x = x |> {m} }}\n"),
    "loops over a parameter": modules(lambda m: f"    for i in 0..n {{ x = x |> {m} }}\n", "(n)", "(n)"),
    "loops over a let": modules(lambda m: f"    for i in 0..forty {{ x = x |> {m} }}\n"),
    "written out": modules(lambda m: f"    x = x |> {m}\n" * 40),
    "tied": modules(lambda m: f"    let b = {m}\n    for i in 0..40 {{ x = x |> b }}\n"),
    "recursion": RECURSION,
    "endless recursion": "module R(n) (x) {\n    return x |> R(n + 1)\n}\nmodel m = R(0) (x: f32[N, 4])\n",
    "endless function": "func f(n) = f(n + 1)\n" + body("x = x * f(0)"),
    "doubling function": "func f(n) = 1 if n == 0 else f(n - 1) + f(n - 1)\n" + body("x = x * f(60)"),
    "list of lists": body("y = [[i for i in 0..1000] for j in 0..100_000]"),
    "comprehension": body("y = [1 for i in 0..10**9]"),
    "repeated list": body("y = [1] * 10**9"),
    "doubled list": body("y = [1]\n    for i in 0..100 { y = y ++ y }"),
    "doubled string": body('y = "a"\n    for i in 0..100 { y = "{y}{y}" }'),
    "sums of a long list": body(LONG.format("sum(y)")),
    "zips of a long list": body(LONG.format("zip(y, y)")),
    "slices of a long list": body(LONG.format("y[1:]")),
    "searches of a long list": body(LONG.format("2 in y")),
    "long lists made": body("for i in 0..50_000 { z = linspace(0, 1, 50_000) }"),
}

DEEP = {
    "chain": body("x = x" + " |> relu" * 10_000),
    "calls": body(f"x = {'relu(' * 5_000}x{')' * 5_000}"),
    "lists": body(f"y = {'[' * 5_000}1{']' * 5_000}"),
    "signs": body(f"y = {'-' * 5_000}1"),
    "sums": body("y = 1" + " + 1" * 10_000),
    "powers": body("y = 1" + "**1" * 10_000),
    "attributes": body("y = x" + ".shape" * 10_000),
    "blocks": body("if true {\n" * 3_000 + "y = 1\n" + "}\n" * 3_000),
    "else if": body("if false { y = 1 }" + " else if false { y = 1 }" * 5_000),
    "lets": "".join(f"let a{i} = a{i + 1}\n" for i in range(5_000)) + "let a5000 = 1\n" + body("x = x * a0"),
    "target": body("") + f"target t = llvm(threads = {'-' * 5_000}1)\n",
    "transforms": "module A(x) {\n    return x\n}\nmodel m = A (x: f32[N])" + ' |> load("x")' * 5_000 + "\n",
    "input's shape": f"module A(x) {{\n    return x\n}}\nmodel m = A (x: f32[N{' + 1' * 5_000}])\n",
}

INTEGERS = {
    "power of powers": body("y = 10**10**10"),
    "squares": body("y = 2\n    for i in 0..100 { y = y * y }"),
    "product": body("y = prod([10**60 for i in 0..50_000])"),
    "literal": body(f"y = {'9' * 90}"),
    "dimension": body("n = x.shape[0] + 1\n    for i in 0..100 { n = n * n }"),
    "numbers of linspace": body("y = linspace(0, 1, 10**9)"),
}


def codes(text: str) -> set[str]:
    """The codes of the messages, each of which points into the text."""

    def check() -> None:
        program = read_source(Source("limits.net", text))
        program.model()
        program.target()

    with pytest.raises(NetcError) as raised:
        check()
    for diagnostic in raised.value.diagnostics:
        assert diagnostic.span is not None
        assert 0 <= diagnostic.span.start < diagnostic.span.end <= len(text)
    return {d.code for d in raised.value.diagnostics}


@pytest.mark.parametrize(
    "text", [*BUDGET.values(), *DEEP.values(), *INTEGERS.values()], ids=[*BUDGET, *DEEP, *INTEGERS]
)
def test_what_would_never_end_is_refused(text: str) -> None:
    assert codes(text) == {"budget"}


def test_brackets_nest_as_deep_as_one_likes() -> None:
    model = read_source(Source("limits.net", body(f"x = {'(' * 5_000}relu(x){')' * 5_000}"))).model()
    assert len(model.graph.nodes) == 2


def test_a_long_chain_of_imports_is_refused(tmp_path: Path) -> None:
    for i in range(300):
        (tmp_path / f"f{i}.net").write_text(f'import "f{i + 1}.net" {{ A }}\n')
    (tmp_path / "f300.net").write_text("module A(x) {\n    return x\n}\n")
    with pytest.raises(NetcError) as raised:
        read(tmp_path / "f0.net")
    assert [d.code for d in raised.value.diagnostics] == ["budget"]


@pytest.mark.parametrize("name", ["calls", "lists", "signs", "powers", "attributes", "blocks"])
def test_what_nests_too_deeply_is_not_formatted(name: str) -> None:
    with pytest.raises(NetcError) as raised:
        format_text(Source("limits.net", DEEP[name]))
    assert [d.code for d in raised.value.diagnostics] == ["budget"]


@pytest.mark.parametrize("items", ["[{}]", "max({})"])
def test_long_lists_are_formatted_on_lines_that_fit(items: str) -> None:
    text = format_text(Source("limits.net", body(f"y = {items.format(', '.join(['1'] * 5_000))}")))
    assert max(map(len, text.splitlines())) <= 120
    assert text.count("1,") == 5_000
    assert format_text(Source("limits.net", text)) == text
