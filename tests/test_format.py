"""`netc fmt`: what the layout is, that comments stay, and that nothing but layout changes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from fuzz import Drawer, without_spans
from hypothesis import given
from hypothesis import strategies as st
from netc.compiler import format as formatting
from netc.compiler.diagnostic import NetcError
from netc.compiler.format import format_text
from netc.compiler.source import Source
from netc.compiler.syntax import parse

SPECS = sorted((Path(__file__).parents[1] / "specs").rglob("*.net"))

# Texts that are laid out well already.
GOOD = {
    "modules": """\
# Deep residual learning (He et al., 2015). Names follow the usual checkpoints, so published weights load by name.

module Basic(c, stride = 1) (x: [N, cin, H, W]) {
    main = x |> conv2d(c, 3, stride, padding = 1, bias = false) as conv1 |> batch_norm as bn1 |> relu
             |> conv2d(c, 3, padding = 1, bias = false) as conv2 |> batch_norm as bn2
    skip = x
    if stride != 1 or cin != c {
        skip = x |> conv2d(c, 1, stride, bias = false) as downsample.0 |> batch_norm as downsample.1
    }
    return relu(main + skip)
}

module ResNet(block, depths, width = 64, classes = 1000) (x: [N, 3, H, W]) {
    x = x |> conv2d(width, 7, 2, padding = 3, bias = false) as conv1 |> batch_norm as bn1 |> relu
          |> max_pool2d(3, 2, padding = 1)
    for i, depth in depths {
        for j in 0..depth {
            x = x |> block(width * 2**i, stride = 2 if i > 0 and j == 0 else 1) as "layer{i+1}.{j}"
        }
    }
    return x |> mean([2, 3]) |> linear(classes) as fc
}

model resnet18 = ResNet(Basic, [2, 2, 2, 2]) (x: f32[N, 3, 224, 224])
""",
    "statements": """\
module Mixed(x: f32[N, C, H, W], mask: bool[N]?) -> (f32[N, C], i64[N]) {
    let attn = SelfAttention(d, heads)  # one instance for all depths
    param a as "lora.{i}.a": f32[r, d] = normal(0, 0.02)
    buffer ramp: f32[T] = ones
    train { x = x |> dropout(0.1) }
    if a { x = 1 } else if not b { x = 2 } else { x = -3 }

    # A tap is addressed from outside.
    tap "layer3" = x[:, 1:-1, ..., a + 1:b:2]
    freeze("stem.*")
    require d % heads == 0, "heads must divide d"
    y, z = (-x)**2 + x**-2 - (a - (b - c)), a @ b
    outs = outs ++ [f(i, j) for i, j in pairs if i > 2] ++ []
    return logits = x, features = outs[-1]
}
""".replace("[N]?)", "[N])"),
    "declarations": """\
import "resnet.net" { resnet18, resnet34 as r34 }

let widths = [64, 128, 256]
let small = 512 KiB  # one line each:
let fast = 8 GB/s    # they may stand together
func round_channels(c, by = 8) = max(by, (c + by // 2) // by * by)
target here = llvm(cpu = "native", threads = 2)
target pi4 = llvm(triple = "aarch64-linux-gnu", cpu = "cortex-a72") remote(host = "farm:9190", key = "pi4")

extern swish(beta: float = 1.0) (x: [N, C]) -> f32[N, C] { pytorch "my.ops:swish" }

rename timm {
    "stem.{rest}" -> "conv1.{rest}"
    "q.weight" -> "qkv.weight"[0 of 3] |> permute([1, 0])  # rows of q, k, v
    drop "*.mask"
}

expect resnet18 (N = 1) { params = 11_689_512 }
expect resnet18 (N = 2) { macs = 3_628 M }
""",
    "tables": """\
let stages = [
    # expand, channels, repeats
    [1, 16, 1], [6, 24, 2],  # two in a row stay so
    [6, 40, 2],

    [6, 80, 3],
]

model b0 = EfficientNet([
    [1, 3, 16],
    [6, 3, 24],
], width = 1.0) (x: f32[N, 3, 224, 224])
""",
    "graph": """\
graph g {
    input %x: f32[2*N + 1, 3, (H + 1)//2]

    frozen param @conv1.weight: f32[64, 3, 7, 7] = normal(0.0, 0.02)
    scope attn~1 = SelfAttention of attn

    train %a: (f32[N], i64[N]) = topk(%x, a_very_long_attribute = [1, 2, 3, 4, 5, 6, 7, 8], another = [1], k = 3)
    return logits = %a, features = %a:1
}
""",
}


def fmt(text: str) -> str:
    return format_text(Source("test.net", text))


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD.keys())
def test_good_layout_stays(text: str) -> None:
    assert fmt(text) == text


CASES = {
    "spaces": ("let a=f( 1,b =2 )+c [0]*-d\n", "let a = f(1, b = 2) + c[0] * -d\n"),
    "line ends": ("let a = 1   \r\nlet b = 2\r\n", "let a = 1\nlet b = 2\n"),
    "blank lines": (
        "\n\nlet a = 1\n\n\n\nlet b = 2\nmodule A(x: [N]) {\n\n\n    y = x\n\n\n    return y\n\n}\nlet c = 3\n\n\n",
        "let a = 1\n\nlet b = 2\n\nmodule A(x: [N]) {\n    y = x\n\n    return y\n}\n\nlet c = 3\n",
    ),
    "broken by chance": ("let a = [1,\n  2,\n  3]\n", "let a = [1, 2, 3]\n"),
    "broken on purpose": ("let a = [\n1,\n2, 3]\n", "let a = [\n    1,\n    2, 3,\n]\n"),
    "comma": ("let a = f(1, 2,)\n", "let a = f(1, 2)\n"),
    "import": ('import "a.net" {\na,\n b\n  c}\n', 'import "a.net" {\n    a,\n    b,\n    c,\n}\n'),
    "entries": ("expect a { b = 1,\n c = 2 }\n", "expect a {\n    b = 1\n    c = 2\n}\n"),
    "branches": (
        "module A(x: [N]) {\nif a { x = 1 } else {\nx = 2 }\nreturn x }\n",
        "module A(x: [N]) {\n    if a {\n        x = 1\n    } else {\n        x = 2\n    }\n    return x\n}\n",
    ),
    "chain": (
        "module A(x: [N]) {\n    y = x |> a\n  |> b\n    return y\n}\n",
        "module A(x: [N]) {\n    y = x |> a\n          |> b\n    return y\n}\n",
    ),
    "two values": ("let a = y[ %x:1 ]\nlet b = y[%x :1]\n", "let a = y[%x:1]\nlet b = y[%x :1]\n"),
    "own line": (
        "let a = [ # of a\n1, # of 1\n# of 2\n2\n# at the end\n]# after\n",
        "let a = [  # of a\n    1,  # of 1\n    # of 2\n    2,\n    # at the end\n]  # after\n",
    ),
    "in a chain": (
        "module A(x: [N]) {\n    return x |> a # of a\n  # of b\n  |> b\n}\n",
        "module A(x: [N]) {\n    return x |> a  # of a\n             # of b\n             |> b\n}\n",
    ),
    "in a block": (
        "module A(x: [N]) { # of A\n\n# first\n\n# second\nreturn x\n\n# last\n\n}# after\n# end",
        "module A(x: [N]) {  # of A\n    # first\n\n    # second\n    return x\n\n    # last\n}  # after\n\n# end\n",
    ),
    "empty block": ("module A(x: [N]) {\n# nothing yet\n}\n", "module A(x: [N]) {\n    # nothing yet\n}\n"),
    "above": (
        "let a = 1\n# of b\nlet b = 2\n\n# alone\n\nlet c = 3",
        "let a = 1\n# of b\nlet b = 2\n\n# alone\n\nlet c = 3\n",
    ),
    "before a comma": (
        "let a = [\n1 # of 1\n, # of the comma\n2]\n",
        "let a = [\n    1,  # of 1  # of the comma\n    2,\n]\n",
    ),
    "only comments": ("# a\n\n\n# b", "# a\n\n# b\n"),
    "nothing": ("", ""),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES.keys())
def test_layout(text: str, expected: str) -> None:
    assert fmt(text) == expected
    assert fmt(expected) == expected


def test_what_does_not_fit_is_broken() -> None:
    a, b, c, d = (f"value_with_a_rather_long_name_{i}" for i in range(4))
    text = f"""\
module Long(first = [1, 2, 3], second = "{a} {b}", third = 10**9, x = 5) (x: [N, C, H, W]) {{
    x = x |> conv2d(c, 3, stride, padding = 1, bias = false) as conv1 |> conv2d({a}, {b}) as conv2 |> relu
    y = {a} * 2 + {b} * 3 + {c} * 4 + {d}
    z = concat([{a}, {b}, {c}, {d}], 1)
    w = [f(i) for i, j in zip({a}, {b}) if i > 2 or j > 3 or i < {c}]
    v = {a} if {b} else {c} if {d} else w
    return {a}({b}({c}({d}, {a})))
}}
"""
    expected = f"""\
module Long(
    first = [1, 2, 3], second = "{a} {b}", third = 10**9, x = 5,
) (x: [N, C, H, W]) {{
    x = x |> conv2d(c, 3, stride, padding = 1, bias = false) as conv1
          |> conv2d({a}, {b}) as conv2 |> relu
    y = {a} * 2
        + {b} * 3
        + {c} * 4
        + {d}
    z = concat(
        [
            {a}, {b}, {c},
            {d},
        ], 1,
    )
    w = [
        f(i)
        for i, j in zip({a}, {b})
        if i > 2 or j > 3 or i < {c}
    ]
    v = {a} if {b}
        else {c} if {d}
        else w
    return {a}(
        {b}(
            {c}({d}, {a}),
        ),
    )
}}
"""
    assert fmt(text).splitlines() == expected.splitlines()


def test_a_wrong_text_is_refused() -> None:
    with pytest.raises(NetcError) as caught:
        fmt("let a = (\nlet b = 2\n")
    assert caught.value.diagnostics[0].code == "syntax"


def test_a_text_nested_too_deeply_is_refused() -> None:
    with pytest.raises(NetcError) as caught:
        fmt(f"let a = {'(' * 5000}1{')' * 5000}\n")
    assert caught.value.diagnostics[0].code == "budget"


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_specs_are_formatted(path: Path) -> None:
    text = path.read_text()
    assert fmt(text) == text


def comments(text: str) -> Counter[str]:
    """The words of all comments, since a comma may bring two of them onto one line."""
    found = re.findall(r'"(?:\\.|[^"\\\n])*"|#([^\n]*)', text)
    return Counter(word.lstrip("#") for comment in found for word in comment.split() if word != "#")


DRAWER = Drawer()


@given(st.randoms(use_true_random=False), st.sampled_from([120, 60, 30]))
def test_only_layout_changes(random: Random, width: int) -> None:
    """The formatted text has the same tree and comments, and stays as it is."""
    text = DRAWER.text(random, size=60)
    source = Source("drawn.net", text)
    try:
        tree = parse(source)
    except NetcError:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formatting, "WIDTH", width)
        once = format_text(source)
        assert without_spans(parse(Source("once.net", once))) == without_spans(tree)
        assert comments(once) == comments(text)
        assert format_text(Source("once.net", once)) == once
    assert not any(line.endswith(" ") for line in once.split("\n"))
