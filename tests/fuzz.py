"""Texts nobody would write: drawn from the grammar itself, or good ones damaged. Every draw follows a seed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from random import Random
from typing import Any

from netc.compiler.syntax import grammar
from netc.compiler.tree import Tree

_WORDS = (
    "x y c d N H W T i j k depth block stride width conv2d linear relu batch_norm mean sum max concat layer_norm "
    "scan target input output scope graph param pass Basic f32 i64 int float s K ms"
)
_NAMES = _WORDS.split()
_PATHS = ["conv1", "layer1.0", "downsample.0.bn", "a~1", "a.b~2.c", "weight", "fc"]

_COMMENTS = ["# a comment", "#", "#:tight", '# with " and { and [ inside']

# What a terminal may look like; those of fixed text write themselves.
_TERMINALS: dict[str, Callable[[Random], str]] = {
    "NAME": lambda r: r.choice(_NAMES),
    "PATH": lambda r: r.choice(_PATHS),
    "VALUE": lambda r: "%" + r.choice(_PATHS) + r.choice(["", "", ":1"]),
    "PARAMETER": lambda r: "@" + r.choice(_PATHS),
    "NUMBER": lambda r: r.choice(["0", "1", "2", "3", "64", "11_689_512", "0.5", "1e-5", "1_0.2_5E+3"]),
    "UNIT": lambda r: r.choice(["KiB", "GB/s", "ms", "M"]),
    "STRING": lambda r: r.choice(['""', '"a"', '"layer{i+1}.{j}"', '"\\"\\{ # {2 * x}"', '"*.weight"']),
    "COMPARE": lambda r: r.choice(["==", "!=", "<=", ">=", "<", ">"]),
    "TIMES": lambda r: r.choice(["*", "/", "//"]),
    "PHASE": lambda r: r.choice(["train", "infer"]),
    "_NEWLINE": lambda r: r.choice(
        ["\n", "\n", "\n\n", f"  {r.choice(_COMMENTS)}\n", f"\n\n {r.choice(_COMMENTS)}\n\n"]
    ),
}

# Before these a statement may go on in the next line.
_CONTINUES = ("|>", "+", "*", "/", "else", "and", "or")


class Drawer:
    """Draws derivations of a grammar rule, deep at first and shortest once a budget of symbols is used up."""

    def __init__(self) -> None:
        parser = grammar()
        self._patterns = {t.name: t.pattern.value for t in parser.terminals if t.pattern.type == "str"}
        self._rules: dict[str, list[list[str]]] = {}
        for rule in parser.rules:
            self._rules.setdefault(rule.origin.name, []).append([symbol.name for symbol in rule.expansion])
        self._depth = self._depths()

    def _depths(self) -> dict[str, int]:
        """The height of the lowest derivation of each rule."""
        depth: dict[str, int] = {}
        while len(depth) < len(self._rules):
            for name, options in self._rules.items():
                known = [self._height(o, depth) for o in options if all(s in depth or s not in self._rules for s in o)]
                if known:
                    depth[name] = min(known)
        return depth

    def _height(self, option: Sequence[str], depth: dict[str, int]) -> int:
        return 1 + max((depth.get(s, 0) for s in option), default=0)

    def tokens(self, random: Random, size: int, start: str = "file") -> list[str]:
        """The terminals of one derivation as texts."""
        out: list[str] = []
        stack = [start]
        budget = size
        while stack:
            symbol = stack.pop()
            if symbol not in self._rules:
                make = _TERMINALS.get(symbol)
                out.append(make(random) if make else self._patterns[symbol])
                continue
            options = self._rules[symbol]
            if budget <= 0:
                options = [min(options, key=lambda o: self._height(o, self._depth))]
            budget -= 1
            stack.extend(reversed(random.choice(options)))
        return out

    def text(self, random: Random, size: int = 300) -> str:
        """One derivation of a file, laid out carelessly but so that lines end only where they may."""
        out: list[str] = []
        brackets: list[str] = []
        for token in self.tokens(random, size):
            inside = bool(brackets) and brackets[-1] != "{"
            if out and not out[-1].endswith("\n"):
                loose = inside or token in _CONTINUES
                comment = f"  {random.choice(_COMMENTS)}\n"
                own_line = f"\n  {random.choice(_COMMENTS)}\n"
                spaces = [" ", " ", " ", "   "] + (["\n", "\n  ", "\n\n", comment, own_line] if loose else [])
                out.append(random.choice(spaces))
            out.append(token)
            if token in ("(", "[", "{"):
                brackets.append(token)
            elif token in (")", "]", "}") and brackets:
                brackets.pop()
        return "".join(out)


_TOKEN = re.compile(r'"(?:\\.|[^"\\\n])*"|[A-Za-z_0-9.~]+|\s+|#[^\n]*|\|>|->|\*\*|//|[=!<>]=|\.\.|.', re.S)
_NOISE = "(){}[]\"'\\#@%|>=-+*/.,:;~!?\n\t \0\r\x0b\x0céß数\U0001f600{}01_aZ$&^`"


def mutate(random: Random, text: str, vocabulary: Sequence[str]) -> str:
    """A text with one to four things wrong with it."""
    for _ in range(random.randint(1, 4)):
        text = _mutate_once(random, text, vocabulary)
    return text


def _mutate_once(random: Random, text: str, vocabulary: Sequence[str]) -> str:
    tokens = _TOKEN.findall(text) or [""]
    at, other = random.randrange(len(tokens)), random.randrange(len(tokens))
    kind = random.randrange(7)
    if kind == 0:
        del tokens[at : at + random.choice([1, 1, 1, 3, 10])]
    elif kind == 1:
        tokens.insert(at, tokens[at])
    elif kind == 2:
        tokens[at], tokens[other] = tokens[other], tokens[at]
    elif kind == 3:
        tokens[at] = random.choice(vocabulary)
    elif kind == 4:
        tokens.insert(at, random.choice(vocabulary))
    elif kind == 5:
        tokens = tokens[:at]
    else:
        whole = "".join(tokens)
        place = random.randrange(len(whole) + 1)
        return whole[:place] + random.choice(_NOISE) + whole[place + random.randrange(2) :]
    return "".join(tokens)


def vocabulary(texts: Sequence[str]) -> list[str]:
    """The tokens of some texts, each once."""
    return sorted({t for text in texts for t in _TOKEN.findall(text) if not t.isspace()})


def without_spans(part: Any) -> Any:
    """A syntax tree as nested tuples that compare equal for texts that differ in layout only."""
    if isinstance(part, Tree):
        values = (without_spans(getattr(part, f.name)) for f in fields(part) if f.name != "span")
        return (type(part).__name__, *values)
    return tuple(map(without_spans, part)) if isinstance(part, tuple) else part
