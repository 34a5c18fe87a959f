"""Parsing: what the tree says of its text, and what a wrong text is told."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from importlib import resources
from random import Random
from typing import Any

import lark
import pytest
from fuzz import Drawer
from hypothesis import given
from hypothesis import strategies as st
from netc.compiler import syntax
from netc.compiler import tree as t
from netc.compiler.diagnostic import Diagnostic, NetcError, render
from netc.compiler.source import Source, Span
from netc.compiler.syntax import parse


def expression(text: str) -> t.Expr:
    (declaration,) = parse(Source("test.net", f"let x = {text}\n")).declarations
    assert isinstance(declaration, t.TopLet)
    return declaration.value


def brief(part: Any) -> Any:
    """A tree as nested lists of its words, to compare with."""
    if isinstance(part, t.Name | t.Identifier):
        return part.text
    if isinstance(part, t.Number):
        return part.value if part.unit is None else (part.value, part.unit)
    if isinstance(part, t.Binary):
        return [brief(part.left), part.op, brief(part.right)]
    if isinstance(part, t.Tree):
        inner = [brief(getattr(part, f.name)) for f in fields(part) if f.name != "span"]
        return [type(part).__name__, *inner]
    return [brief(p) for p in part] if isinstance(part, tuple) else part


EXPRESSIONS = {
    "a + b * c": ["a", "+", ["b", "*", "c"]],
    "a - b - c": [["a", "-", "b"], "-", "c"],
    "(a + b) * c": [["a", "+", "b"], "*", "c"],
    "a @ b // c % d": [[["a", "@", "b"], "//", "c"], "%", "d"],
    "-x**2": ["Unary", "-", ["x", "**", 2]],
    "(-x)**2": [["Unary", "-", "x"], "**", 2],
    "2**-i**j": [2, "**", ["Unary", "-", ["i", "**", "j"]]],
    "a or b and not c == d": ["a", "or", ["b", "and", ["Unary", "not", ["c", "==", "d"]]]],
    "a not in b": ["Unary", "not", ["a", "in", "b"]],
    "a ++ b + c": ["a", "++", ["b", "+", "c"]],
    "0..n + 1": ["Range", 0, ["n", "+", 1]],
    "a if c else b if d else e": ["Conditional", "c", "a", ["Conditional", "d", "b", "e"]],
    "f(a, b = 1).c[0]": [
        "Index",
        ["Attribute", ["Call", "f", [["Argument", None, "a"], ["Argument", "b", 1]]], "c"],
        [0],
    ],
    "x[:, 1:, ..., :-1:2]": [
        "Index",
        "x",
        [
            ["Slice", None, None, None], ["Slice", 1, None, None], ["Ellipsis"],
            ["Slice", None, ["Unary", "-", 1], 2],
        ],
    ],
    "x |> f as a.0 |> g": ["Pipe", ["Named", ["Pipe", "x", "f"], ["Path", ["Text", ["a.0"], "a.0"]]], "g"],
    "[i for i, j in xs if i > 2]": ["Comprehension", "i", ["i", "j"], "xs", ["i", ">", 2]],
    "[f(i) for i in 0..n]": ["Comprehension", ["Call", "f", [["Argument", None, "i"]]], ["i"], ["Range", 0, "n"], None],
    "512 KiB": (512, "KiB"),
    "8 GB/s": (8, "GB/s"),
    "1_000.5e-10": 1000.5e-10,
    "11_689_512": 11689512,
    '"a{i+1}.\\{b\\}\\n"': ["Text", ["a", ["i", "+", 1], ".{b}\n"], "a{i+1}.\\{b\\}\\n"],
    '"\\\\{i}"': ["Text", ["\\", "i"], "\\\\{i}"],
    "(a, b,)": ["TupleOf", ["a", "b"]],
    "[]": ["ListOf", []],
    "%a.0~1:2": ["ValueName", "a.0~1", 2],
    "@a.weight": ["ParameterName", "a.weight"],
    "b @ a": ["b", "@", "a"],
    "b @a": ["b", "@", "a"],
    "M(c) (x: f32[N, ...])": [
        "Applied", ["Call", "M", [["Argument", None, "c"]]],
        [["Typed", "x", ["ShapeType", "f32", ["N", ["Ellipsis"]]]]],
    ],
}  # fmt: skip


@pytest.mark.parametrize(("text", "tree"), EXPRESSIONS.items(), ids=EXPRESSIONS.keys())
def test_expressions(text: str, tree: Any) -> None:
    assert brief(expression(text)) == tree
    assert expression(text).span.text == text or text.startswith("(")


def test_words_are_keywords_only_where_one_can_stand() -> None:
    text = "module scan(target, input = graph) (x: [N]) {\n    graph = model(param, tap)\n    return graph\n}\n"
    (module,) = parse(Source("test.net", text)).declarations
    assert isinstance(module, t.Module)
    assert [f.name.text for f in module.parameters] == ["target", "input"]
    assert isinstance(module.body.statements[0], t.Assign)


@pytest.mark.parametrize(
    "operator", ["|> f", "+ 1", "- 1", "* 2", "/ 2", "// 2", "** 2", "++ y", "@ y", "and y", "or y"]
)
def test_a_line_goes_on_where_the_next_one_starts_with_an_operator(operator: str) -> None:
    text = f"let x = a  # one\n\n    # two\n    {operator}\n"
    (declaration,) = parse(Source("test.net", text)).declarations
    assert declaration.span.text == text.removeprefix("\n").rstrip("\n")


def test_the_grammar_has_no_conflicts(caplog: pytest.LogCaptureFixture) -> None:
    """LALR parsers settle conflicts silently, and so make some right texts wrong."""
    text = resources.files("netc.grammar").joinpath("net.lark").read_text("utf-8")
    lark.logger.setLevel(logging.DEBUG)
    lark.logger.addHandler(caplog.handler)
    try:
        lark.Lark(text, parser="lalr", start=["file", "expr"], postlex=syntax._Lines(), debug=True)
    finally:
        lark.logger.removeHandler(caplog.handler)
        lark.logger.setLevel(logging.CRITICAL)
    assert caplog.messages == []


# The text; for each message, the place it is about and a part of what it says; a part of the advice.
WRONG = {
    "open block": ("module A(x: [N]) {\n    return x\n", [("{", "this `{` is never closed")], None),
    "open bracket": ("let a = (1, 2\nlet b = 3\n", [("(", "this `(` is never closed")], None),
    "brace on its own line": ("module A(x: [N])\n{\n}\n", [("\n", "the line ends too early")], "stands on the line"),
    "single quotes": ("let a = 'x'\n", [("'", "unexpected \"'\"")], "double quotes"),
    "open string": ('let a = "x\n', [('"', "this string does not end on its line")], None),
    "semicolon": ("let a = 1;\n", [(";", "unexpected ';'")], "remove the `;`"),
    "colon": ("module A(x: [N]) {\n    for i in 0..3:\n        x = x\n}\n", [(":", "unexpected `:`")], "in braces"),
    "python": ("def A(x):\n    return x\n", [("def", "unexpected `def`")], "module Name(parameters)"),
    "elif": ("module A(x: [N]) {\n    if a { x = 1 } elif b { }\n}\n", [("elif", "unexpected `elif`")], "else if"),
    "ampersand": ("let a = a && b\n", [("&", "unexpected '&'")], "write `and`"),
    "question": ("let a = x ? 1 : 2\n", [("?", "unexpected `?`")], "if condition else"),
    "point": ("let a = .5\n", [(".", "unexpected `.`")], "the 0 before the point"),
    "open end": ("let a = 1 +\n    2\n", [("\n", "the line ends too early")], "put `+` there"),
    "pipe at the end": ("let a = x |>  # why\n    relu\n", [(" ", "the line ends too early")], "put `|>` there"),
    "two values": ("let a = f(x y)\n", [("y", "unexpected `y`")], None),
    "no value": ("let a = f(b = )\n", [(")", "unexpected `)`")], None),
    "no name": ("let = 1\n", [("=", "unexpected `=`")], None),
    "wrong bracket": ("model m = A (x: f32[N)\n", [(")", "unexpected `)`")], None),
    "not a declaration": ("foo = 1\n", [("foo", "unexpected `foo`")], None),
    "two on a line": ("let a = 1 let b = 2\n", [("let", "unexpected `let`")], None),
    "chained range": ("let a = 1..2..3\n", [("..", "unexpected `..`")], None),
    "arrow": ('rename r { "a" => "b" }\n', [("=", "unexpected `=`")], None),
    "entry": ("expect m { params: 3 }\n", [(":", "unexpected `:`")], None),
    "four parts": ("let a = x[1:2:3:4]\n", [(":", "unexpected `:`")], None),
    "path": ("let a = x as 3\n", [("3", "unexpected `3`")], None),
    "strange character": ("let a = $\n", [("$", "unexpected '$'")], None),
    "control character": ("\0", [("\0", "unexpected '\\x00'")], None),
    "letter": ("let a = 数\n", [("数", "unexpected '数'")], None),
    "interpolation": ('let a = "x{1 +}"\n', [("+", "the expression ends too early")], None),
    "empty interpolation": ('let a = "{}"\n', [("{", "the expression ends too early")], None),
    "escape": ('let a = "x\\q"\n', [("\\q", "unknown escape `\\q`")], "write `\\\\`"),
    "long integer": (f"let a = {'1' * 101}\n", [("1" * 101, "more than 100 digits")], None),
    "hostile integer": (f"let a = %x:{'1' * 5000}\n", [(f"%x:{'1' * 5000}", "more than 100 digits")], None),
    "large float": ("let a = 1e999\n", [("1e999", "too large for a float")], "inf"),
    "part": ('rename r { "a"[0 of 1.5] -> "b" }\n', [("1.5", "`1.5` is no whole number")], None),
    "several declarations": (
        "let a = (\nmodule A(x: [N]) {\n    return x)\n}\nlet b = 1\nlet c = ]\n",
        [("(", "never closed"), (")", "unexpected `)`"), ("]", "unexpected `]`")], None,
    ),
    "several in strings": (
        'let a = "\\q{1 +}\\w"\nlet b = "{)}"\n',
        [("\\q", "unknown escape"), ("+", "too early"), ("\\w", "unknown escape"), (")", "unexpected `)`")],
        "write `\\\\`",
    ),
    "names that look like declarations": (
        "let a = [\ntarget,\ngraph,\n]\nlet b = )\n", [(")", "unexpected `)`")], None,
    ),
    "a statement that is not indented": (
        "module A(x: [N]) {\nlet a = 1\nlet b = )\nreturn x\n}\n", [(")", "unexpected `)`")], None,
    ),
    "words that touch": ("let a = 1\nletx = 2\n", [("x", "unexpected `x`")], "put a space before `x`"),
    "a word and a number": ('rename r { "a"[0 of3] -> "b" }\n', [("3", "unexpected `3`")], "put a space before `3`"),
    "before the first": ("junk\nlet a = 1\n", [("junk", "unexpected `junk`")], None),
}  # fmt: skip


def problems(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(NetcError) as caught:
        parse(Source("test.net", text))
    return caught.value.diagnostics


@pytest.mark.parametrize(("text", "expected", "advice"), WRONG.values(), ids=WRONG.keys())
def test_wrong_texts(text: str, expected: list[tuple[str, str]], advice: str | None) -> None:
    found = problems(text)
    for diagnostic, (place, message) in zip(found, expected, strict=True):
        assert diagnostic.code == "syntax"
        assert diagnostic.span is not None
        assert diagnostic.span.text == place
        assert message in diagnostic.message
        assert render(diagnostic).count("\n") >= 3
    assert (found[0].fix is None) == (advice is None)
    assert advice is None or advice in str(found[0].fix)


def test_the_accepted_set_is_told() -> None:
    (found,) = problems("expect m { params: 3 }\n")
    assert found.notes == ("here may stand: `=`",)
    (found,) = problems("let a = )\n")
    assert found.notes == ("here may stand: an expression",)


def test_an_error_in_brackets_points_at_the_bracket_too() -> None:
    (found,) = problems("module A(x: [N]) {\n    x = relu(x\n    y = tanh(x)\n    return y\n}\n")
    assert [(label.span.text, label.text) for label in found.labels] == [("y", ""), ("(", "inside of this bracket")]


def test_at_most_twenty_declarations_are_reported() -> None:
    assert len(problems("let a = )\n" * 500)) == 20


def spans(part: Any) -> Iterator[Span]:
    if isinstance(part, t.Tree):
        yield part.span
    if is_dataclass(part):
        for f in fields(part):
            yield from spans(getattr(part, f.name))
    elif isinstance(part, tuple) and not isinstance(part, Span):
        for item in part:
            yield from spans(item)


DRAWER = Drawer()


@given(st.randoms(use_true_random=False))
def test_spans_lie_inside_of_the_text_and_of_each_other(random: Random) -> None:
    text = DRAWER.text(random, size=60)
    source = Source("drawn.net", text)
    try:
        tree = parse(source)
    except NetcError:
        return
    for declaration in tree.declarations:
        for span in spans(declaration):
            assert span.source is source
            assert declaration.span.start <= span.start <= span.end <= declaration.span.end


def test_names_are_at_their_spans() -> None:
    text = 'module A(c, d = "{c}x") (x: [N, c]) {\n    y, z = x[0], x |> relu as "a{c + 1}"\n    return y\n}\n'

    def check(part: Any) -> None:
        if isinstance(part, t.Name | t.Identifier):
            assert part.span.text == part.text
        if isinstance(part, t.Tree):
            for f in fields(part):
                check(getattr(part, f.name))
        elif isinstance(part, tuple) and not isinstance(part, Span):
            for item in part:
                check(item)

    check(parse(Source("test.net", text)))
