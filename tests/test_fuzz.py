"""Whatever the text, the answer is a graph or messages that point into it: never a traceback, never long.

What runs by default is a taste; `-m slow` draws the tens of thousands.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from fuzz import PROGRAMS, Drawer, mutate, problems, vocabulary, without_spans
from netc.compiler.budget import Budget
from netc.compiler.diagnostic import NetcError
from netc.compiler.format import format_text
from netc.compiler.graph import verify
from netc.compiler.program import read_source
from netc.compiler.source import Source
from netc.compiler.syntax import parse
from netc.compiler.text import print_graph, read_graph
from netc.compiler.tree import GraphText

SPECS = [path.read_text() for path in sorted((Path(__file__).parents[1] / "specs").glob("*.net"))]
DECLARATIONS = [d for text in [*PROGRAMS, *SPECS] for d in re.split(r"\n(?=[a-z@#])", text) if d.strip()]
WORDS = vocabulary([*PROGRAMS, *SPECS])
DRAWER = Drawer()

# A mistaken spec stops at these at the latest; the real ones are larger only in numbers.
SMALL = Budget(nodes=2_000, instances=500, steps=20_000)

TASTE = [pytest.param(range(i, i + 500), id=f"{i}") for i in (0, 500)]
MANY = [pytest.param(range(i, i + 2_500), id=f"{i}", marks=pytest.mark.slow) for i in range(10_000, 30_000, 2_500)]


def parsed(text: str) -> bool:
    """Whether the text parses; where it does not, the messages are checked."""
    return accepted(text, lambda: parse(Source("fuzz.net", text)))


def elaborated(text: str) -> bool:
    """Whether every model has a graph, which is verified, printed and read; else the messages are checked."""

    def check() -> None:
        program = read_source(Source("fuzz.net", text), budget=SMALL)
        errors = [d for d in program.check() if d.severity == "error"]
        if errors:
            raise NetcError(errors)
        for name in program.models:
            graph = program.model(name).graph
            verify(graph)
            (tree,) = parse(Source("graph.net", print_graph(graph))).declarations
            assert isinstance(tree, GraphText)
            assert read_graph(tree) == graph
        program.expectations()

    return accepted(text, check)


def accepted(text: str, check: Callable[[], object]) -> bool:
    refusal: NetcError | None = None
    try:
        check()
    except NetcError as error:
        refusal = error
    except Exception as error:
        error.add_note(text)
        raise
    assert refusal is None or list(problems(refusal, text)) == []
    return refusal is None


@pytest.mark.parametrize("seeds", [*TASTE, *MANY])
def test_texts_drawn_from_the_grammar_parse(seeds: range) -> None:
    """Most of them: a drawn name may be a keyword, a drawn number too large."""
    right = 0
    for seed in seeds:
        text = DRAWER.text(Random(seed), size=40)
        right += parsed(text)
    assert right > 0.9 * len(seeds)


@pytest.mark.parametrize("seeds", [*TASTE, *MANY])
def test_damaged_declarations_are_formatted_or_refused(seeds: range) -> None:
    right = 0
    for seed in seeds:
        random = Random(seed)
        text = mutate(random, random.choice(DECLARATIONS), WORDS)
        if parsed(text):
            right += 1
            once = format_text(Source("fuzz.net", text))
            assert without_spans(parse(Source("once.net", once))) == without_spans(parse(Source("fuzz.net", text)))
            assert format_text(Source("once.net", once)) == once
    assert 0.1 * len(seeds) < right < 0.9 * len(seeds)  # so that both ways are tried


@pytest.mark.parametrize("seeds", [*TASTE, *MANY])
def test_damaged_programs_elaborate_or_are_refused(seeds: range) -> None:
    right = 0
    for seed in seeds:
        random = Random(seed)
        text = mutate(random, random.choice(PROGRAMS), WORDS, most=2)
        right += elaborated(text)
    assert 0.03 * len(seeds) < right < 0.9 * len(seeds)


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_undamaged_programs_elaborate(program: str) -> None:
    assert elaborated(program)
    assert format_text(Source("fuzz.net", program)) == program


N = 10_000

HOSTILE = {
    "comments": "let a = b\n" + "# c\n" * N + "|> c\n",
    "blank lines": "let a = b\n" + "\n" * N + "|> c\n",
    "open brackets": "let a = " + "(" * N + "\n",
    "closed brackets": "let a = " + "(" * N + "1" + ")" * N + "\n",
    "signs": "let a = " + "-" * N + "1\n",
    "negations": "let a = " + "not " * N + "1\n",
    "powers": "let a = 1" + "**1" * N + "\n",
    "sums": "let a = 1" + " + 1" * N + "\n",
    "calls": "let a = f" + "()" * N + "\n",
    "attributes": "let a = f" + ".x" * N + "\n",
    "blocks": "module A(x: [N]) {\n" + "if a {\n" * N + "}\n" * N + "}\n",
    "mistakes": "let a = )\n" * N,
    "escapes": 'let a = "' + "\\q" * N + '"\n',
    "interpolations": 'let a = "' + "{1 +}" * N + '"\n',
    "zeros": "\0" * N,
    "a name": f"let {'a' * N} = 1\n",
    "digits": f"let a = {'1' * N}\n",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_texts_are_read_or_refused(text: str) -> None:
    parsed(text)
