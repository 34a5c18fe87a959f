"""Texts nobody would write: drawn from the grammar itself, or good ones damaged. Every draw follows a seed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from random import Random
from typing import Any

from netc.compiler.diagnostic import NetcError, render
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
    "REPEATED": lambda _: "+",
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


def mutate(random: Random, text: str, vocabulary: Sequence[str], most: int = 4) -> str:
    """A text with one to `most` things wrong with it, or different in it."""
    for _ in range(random.randint(1, most)):
        text = _mutate_once(random, text, vocabulary)
    return text


def _mutate_once(random: Random, text: str, vocabulary: Sequence[str]) -> str:
    tokens = _TOKEN.findall(text) or [""]
    at, other = random.randrange(len(tokens)), random.randrange(len(tokens))
    kind = random.randrange(10)
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
    elif kind == 6:
        whole = "".join(tokens)
        place = random.randrange(len(whole) + 1)
        return whole[:place] + random.choice(_NOISE) + whole[place + random.randrange(2) :]
    else:  # most likely still a program
        words = [i for i, token in enumerate(tokens) if _class(token)]
        if words:
            at = random.choice(words)
            tokens[at] = random.choice([t for t in vocabulary if _class(t) == _class(tokens[at])] + _NUMBERS)
    return "".join(tokens)


_NUMBERS = ["0", "1", "-1", "2", "3.5", "1e30", "10**9", "true", "none", "[]", '""']


def _class(token: str) -> str:
    """Whether a token is a word, a number or a string; empty for all else."""
    first = token[:1]
    return (
        "word"
        if first.isalpha()
        else "number"
        if first.isdigit()
        else "string"
        if len(token) > 1 and first == '"'
        else ""
    )


def vocabulary(texts: Sequence[str]) -> list[str]:
    """The tokens of some texts, each once."""
    return sorted({t for text in texts for t in _TOKEN.findall(text) if not t.isspace()})


def without_spans(part: Any) -> Any:
    """A syntax tree as nested tuples that compare equal for texts that differ in layout only."""
    if isinstance(part, Tree):
        values = (without_spans(getattr(part, f.name)) for f in fields(part) if f.name != "span")
        return (type(part).__name__, *values)
    return tuple(map(without_spans, part)) if isinstance(part, tuple) else part


def problems(error: NetcError, text: str) -> Iterator[str]:
    """What is wrong with a refusal: no message, an empty one, a place outside of the text."""
    if not error.diagnostics:
        yield "a refusal without a message"
    for diagnostic in error.diagnostics:
        if not diagnostic.message or not diagnostic.code:
            yield f"an empty message: {diagnostic}"
        if not diagnostic.labels:
            yield f"a message without a place: {diagnostic.code}: {diagnostic.message}"
        for label in diagnostic.labels:
            if not (0 <= label.span.start <= label.span.end <= len(text)) or label.span.source.text != text:
                yield f"a place outside of the text: {label.span.start}..{label.span.end}: {diagnostic.message}"
        render(diagnostic)


PROGRAMS = [
    """\
# A small residual network.
module Basic(c, stride = 1) (x: [N, cin, H, W]) {
    main = x |> conv2d(c, 3, stride, padding = 1, bias = false) as conv1 |> batch_norm as bn1 |> relu
             |> conv2d(c, 3, padding = 1, bias = false) as conv2 |> batch_norm as bn2
    skip = x
    if stride != 1 or cin != c {
        skip = x |> conv2d(c, 1, stride, bias = false) as downsample.0 |> batch_norm as downsample.1
    }
    return relu(main + skip)
}

module Net(block, depths, width = 4, classes = 10) (x: [N, 3, H, W]) {
    x = x |> conv2d(width, 3, 2, padding = 1, bias = false) as conv1 |> max_pool2d(3, 2, padding = 1)
    for i, depth in depths {
        for j in 0..depth {
            x = x |> block(width * 2**i, stride = 2 if i > 0 and j == 0 else 1) as "layer{i+1}.{j}"
        }
        tap "layer{i + 1}" = x
    }
    return logits = x |> mean([2, 3]) |> linear(classes) as fc, features = x
}

model net = Net(Basic, [1, 1]) (x: f32[N, 3, 32, 32])
target here = llvm(cpu = "native", threads = 2)
target pi4 = llvm(triple = "aarch64-linux-gnu", cpu = "cortex-a72") remote(host = "farm:9190", key = "pi4")

rename timm {
    "stem.{rest}" -> "conv1.{rest}"
    "q.weight" -> "qkv.weight"[0 of 3] |> permute([1, 0])
    drop "*.mask"
}

expect net (N = 1) { params = 1_234, macs = 5 M }

plan edge for net on here {
    batch 1
    apply fold_batch_norm, eliminate_dead(parameters = false)
    layout auto
    dtype bf16
    fuse group stem = [conv1, bn1, "layer1.0.**"]
    fuse pattern conv2d(kernel_size = 3) |> batch_norm? |> (relu | silu |> add)+
    fuse auto(minimize = dram)
    require latency <= 20 ms, parameters <= 6 M
}
""",
    """\
let widths = [2 * w for w in [4, 8] if w > 3] ++ [32]
func rounded(c, by = 8) = max(by, (c + by // 2) // by * by)

module Attention(heads) (x: [N, T, d]) {
    require d % heads == 0, "heads must divide {d}"
    q, k, v = chunk(x |> linear(3 * d) as qkv, 3, 2)
    split = [rearrange(t, "n t (h d) -> n h t d", [["h", heads]]) for t in [q, k, v]]
    y = scaled_dot_product_attention(split[0], split[1], split[2], is_causal = true)
    return rearrange(y, "n h t d -> n t (h d)") |> linear(d) as proj
}

module Tied(d, depth) (tokens: i64[N, T]) {
    x = embedding(tokens, 100, d) as wte
    let attn = Attention(heads = 2)
    param base as "base.weight": f32[d, d] = xavier_uniform
    outs = []
    for i in 0..depth {
        x = x + (x |> layer_norm as "norm.{i}" |> attn)
        param a: f32[2, d] = normal(0, 0.02)
        param b: f32[d, 2] = zeros
        x = x |> linear(weight = base + b @ a) as "relaxed.{i}"
        train { x = x |> dropout(0.1) }
        outs = outs ++ [x]
    }
    freeze("norm.*")
    return concat(outs, 2)[:, 1:, ..., -1] |> stop_gradient
}

model tied = Tied(rounded(widths[0]), depth = 2) (tokens: i64[N, T])
""",
    """\
extern swish(beta: float = 1.0) (x: [N, C]) -> f32[N, C] { pytorch "my.ops:swish" }

module Deep(n) (x: f32[N, C]) -> f32[N, C] {
    if n == 0 { return x }
    return swish(x, beta = 0.5) |> Deep(n - 1) as inner
}

model deep = Deep(3) (x: f32[N, 4])

graph g {
    input %x: f32[N, 3, 8, 8]
    param @conv1.weight: f32[4, 3, 3, 3] = kaiming_normal
    buffer @mean: f32[4] = zeros
    scope layer1.0 = Basic
    %conv1: f32[N, 4, 4, 4] = conv2d(%x, @conv1.weight, stride = [2, 2], padding = 1)
    train %drop: f32[N, 4, 4, 4] = dropout(%conv1, p = 0.1)
    %top: (f32[N, 4, 4, 2], i64[N, 4, 4, 2]) = topk(%conv1, k = 2)
    %flat: f32[N, 32] = flatten(%top, start_dim = 1)
    tap "indices" = %top:1
    return values = %flat, mean = @mean
}
""",
]
"""Programs that use most of the language, small enough to elaborate in milliseconds."""
