from __future__ import annotations

import numpy as np
import pytest
from netc.compiler.diagnostic import NetcError
from netc.compiler.rename import Drop, Move, Part, Permute, RenameMap, Reshape, Rule
from netc.compiler.source import Source, Span


def targets(rename: RenameMap, name: str) -> list[str]:
    moves = rename.moves(name)
    assert isinstance(moves, tuple)
    return [m.target for m in moves]


def moved(source: str, target: str, name: str) -> str | None:
    move = Rule(source, target).move(name)
    return move.target if move else None


@pytest.mark.parametrize(
    ("source", "target", "name", "expected"),
    [
        ("a.{x}", "b.{x}", "a.c", "b.c"),
        ("a.{x}", "b.{x}", "a.c.d", None),
        ("a.{x}", "b.{x}", "a.", None),
        ("a{x}c", "{x}", "abc", "b"),
        ("layer{s}.{b}", "s{s}b{b}", "layer10.2", "s10b2"),
        ("{rest}", "m.{rest}", "a.b.c", "m.a.b.c"),
        ("m.{rest}", "{rest}", "m.a.b", "a.b"),
        ("{head**}.q.{p}", "{head}.k.{p}", "a.b.q.w", "a.b.k.w"),
        ("{x}.{x}", "{x}", "a.a", "a"),
        ("{x}.{x}", "{x}", "a.b", None),
        ("*.b", "c", "a.b", "c"),
        ("*.b", "c", "a.a.b", None),
        ("**.b", "c", "a.a.b", "c"),
        ("a.**", "c", "a.b.d", "c"),
        ("w*", "c", "w", "c"),
        ("w(.", "c", "w(.", "c"),
        ("w(.", "c", "w(x", None),
        ("h.{i}", "{i+1}", "h.9", "10"),
        ("h.{i}", "{i + 1}", "h.x", None),
        ("h.{i}", "{(i + 3) * 2 - 7 // 2 % 2}", "h.1", "7"),
        ("h.{i}", "{-i + 5}", "h.2", "3"),
        ("h.{i}", "{i}", "h.007", "007"),
        ("h.{i}.{j}", "{i * 10 + j}", "h.3.4", "34"),
        ("e.s.{s}.l.{b}.c.{c}.{p}", "layer{s+1}.{b}.conv{c+1}.{p}", "e.s.0.l.2.c.1.weight", "layer1.2.conv2.weight"),
    ],
)
def test_patterns_and_targets(source: str, target: str, name: str, expected: str | None):
    assert moved(source, target, name) == expected


def test_the_first_rule_wins_and_others_keep_their_names():
    rename = RenameMap("m", (Rule("a.norm", "norm"), Rule("a.{rest}", "b.{rest}")), (Drop("**.mask"),))
    assert targets(rename, "a.norm") == ["norm"]
    assert targets(rename, "a.x.y") == ["b.x.y"]
    assert targets(rename, "z") == ["z"]
    assert rename.moves("a.mask") == rename.drops[0]


def test_a_source_can_be_cut():
    cut = [Rule("{p**}.gate_up", f"{{p}}.{name}", Part(i, 2)) for i, name in enumerate(("gate", "up"))]
    rename = RenameMap("m", (*cut, Rule("{rest}", "other.{rest}")))
    assert targets(rename, "mlp.gate_up") == ["mlp.gate", "mlp.up"]
    array = np.arange(12).reshape(6, 2)
    moves = rename.moves("mlp.gate_up")
    assert isinstance(moves, tuple)
    assert [m.size((6, 2)) for m in moves] == [(3, 2), (3, 2)]
    assert (np.concatenate([m.apply(array) for m in moves]) == array).all()


def test_a_source_can_be_cut_along_another_axis():
    move = Move("t", Rule("s", "t", Part(1, 3, axis=1)))
    array = np.arange(12).reshape(2, 6)
    assert (move.apply(array) == array[:, 2:4]).all()
    assert move.size((2, 6)) == (2, 2)


def test_steps():
    rule = Rule("s", "t", steps=(Permute((1, 0)), Reshape((2, -1))))
    array = np.arange(12).reshape(3, 4)
    assert Move("t", rule).size((3, 4)) == (2, 6)
    assert (Move("t", rule).apply(array) == array.T.reshape(2, -1)).all()
    assert str(rule) == '"s" -> "t" |> permute([1, 0]) |> reshape([2, -1])'


@pytest.mark.parametrize("step", [Permute((0, 2)), Permute((0,)), Reshape((5, -1)), Reshape((7, 2)), Reshape((0, -1))])
def test_steps_that_do_not_fit(step: Permute | Reshape):
    with pytest.raises(ValueError, match="does not fit"):
        step.size((3, 4))


def code(build: object) -> str:
    with pytest.raises(NetcError) as caught:
        build()  # type: ignore[operator]
    (diagnostic,) = caught.value.diagnostics
    return diagnostic.code


@pytest.mark.parametrize("source", ["{", "}", "{}", "{1}", "a{x", "{x y}", "**.**.**", "{a}{b}{c}{d}"])
def test_malformed_patterns(source: str):
    assert code(lambda: Rule(source, "t")) == "bad-pattern"


@pytest.mark.parametrize(
    "target",
    ["{", "{x", "{}", "{x+}", "{x y}", "{x**2}", "{(x}", "{x)}", "{__import__('os')}", "{x.y}", "{" + "(" * 99 + "}"],
)
def test_malformed_targets(target: str):
    assert code(lambda: Rule("{x}", target)) == "bad-target"


def test_a_target_must_use_captured_names():
    with pytest.raises(NetcError) as caught:
        Rule("{stage}.{p}", "{stages}.{p}")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "bad-target"
    assert diagnostic.fix == "write stage"


def test_division_by_zero_is_an_error():
    assert code(lambda: Rule("{i}", "{1 // i}").move("0")) == "bad-target"


def test_parts_out_of_range():
    assert code(lambda: Rule("a", "b", target_part=Part(3, 3))) == "bad-target"
    assert code(lambda: Rule("{e}", "b", target_part=Part("e", 3)).move("3")) == "bad-target"
    assert code(lambda: Rule("{e}", "b", Part("e", 3))) == "bad-pattern"


def test_parts_left_over_are_named_with_the_rule():
    source = Source("m.net", 'x "a"[0 of 3] -> "b"')
    rule = Rule("a", "b", Part(0, 3), span=Span(source, 2, 20))
    with pytest.raises(NetcError) as caught:
        RenameMap("m", (rule,)).moves("a")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "rename-parts"
    assert "[1 of 3], [2 of 3]" in diagnostic.message
    assert diagnostic.span == rule.span


def test_cuts_of_two_kinds():
    rename = RenameMap("m", (Rule("a", "b", Part(0, 2)), Rule("a", "c", Part(1, 3))))
    assert code(lambda: rename.moves("a")) == "rename-parts"


def test_hostile_patterns_do_not_backtrack_for_ever():
    """The worst a pattern can do is quadratic in the name; a naive translation would run for years here."""
    rule = Rule(".".join(["*x*x*"] * 20) + ".!", "t")
    wide = Rule("**x**.!", "t")
    assert rule.move(".".join(["x" * 30] * 20) + ".?") is None
    assert wide.move("x" * 500) is None
