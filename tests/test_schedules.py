"""No kernel of any model of the specs reaches the code generator without a schedule."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import netc
import pytest
from netc.backends.relax.build import build, prepare
from netc.backends.relax.lower import lower
from netc.backends.relax.machine import host, machine
from netc.backends.relax.optimise import choose, fuse, generate, optimise
from netc.backends.relax.schedule import HOST, SCHEDULED, unscheduled
from netc.backends.relax.untyped import tirx
from netc.compiler.library import level_steps
from netc.compiler.pipeline import run
from netc.compiler.program import read_source
from netc.compiler.source import Source
from netc.compiler.target import LLVM

ROOT = Path(__file__).parents[1]
SPECS = sorted((ROOT / "specs").glob("*.net"))
RULES = {"chain", "channels", "follow", "injective", "tile", "rows", "pieces", "generic"}
"""What schedules formulas; `own` are the kernels that are written as programs."""
QUICK = {"digits", "lstm_tagger"}
MODELS = [
    pytest.param(path, name, id=f"{path.stem}-{name}", marks=[] if name in QUICK else [pytest.mark.slow])
    for path in SPECS
    for name in re.findall(r"^(?:model|graph) (\w+)", path.read_text(), re.M)
]
HERE = host(threads=2)
MANY = 1 << 14
"""Elements beyond which a loop over them that neither threads share nor vectors hold is no schedule."""


def kernels(module: Any) -> dict[str, Any]:
    """The kernels of a module by name, without the arithmetic on sizes."""
    found = {str(v.name_hint): f for v, f in module.functions.items() if isinstance(f, tirx.PrimFunc)}
    return {name: f for name, f in found.items() if not (f.attrs and HOST in f.attrs)}


def modules(path: Path, name: str) -> list[Any]:
    """What a model becomes, and what prepares its weights: each before it is scheduled."""
    made = netc.load(path, root=ROOT).model(name)
    graph = run(made.graph, level_steps(2, 0), facts=made.facts).final
    lowered = lower(prepare(graph, {}), HERE)
    return [choose(whole, HERE) for whole in (lowered.main, lowered.prepare)]


def plain(kernel: Any) -> bool:
    """Whether loops over many elements are as TVM makes them: one after the other, one element at a time."""
    text = kernel.script()
    if re.search(r"T\.(parallel|vectorized|Ramp|Broadcast)\(", text):
        return False
    extents = re.findall(r"T\.(?:serial|unroll|grid)\(([^\n]*)\):|range\(([^\n]*)\):", text)
    total = 1
    for number in re.findall(r"\d{2,}", " ".join(a or b for a, b in extents).replace("int64", "")):
        total *= int(number)
    return total > MANY


@pytest.mark.parametrize(("path", "name"), MODELS)
def test_every_kernel_is_scheduled(path: Path, name: str) -> None:
    for module in modules(path, name):
        made, report = optimise(module, HERE)
        found = kernels(made)
        assert report.rules.keys() == found.keys()
        assert set(report.rules.values()) <= RULES | {"own"}
        assert not unscheduled(made)
        assert not [n for n, rule in report.rules.items() if rule in RULES and plain(found[n])]


def test_a_kernel_without_a_schedule_is_not_built() -> None:
    module, report = optimise(modules(ROOT / "specs" / "digits.net", "digits")[0], HERE)
    for variable, function in list(module.functions.items()):
        if str(variable.name_hint) == (name := sorted(report.rules)[0]):
            module[variable] = function.without_attr(SCHEDULED)
    assert unscheduled(module) == [name]
    with pytest.raises(AssertionError, match=f"kernels without a schedule: {name}$"):
        generate(module, HERE)


def test_what_fusion_makes_is_plain() -> None:
    """The measure of the test above, on kernels before they are scheduled."""
    module = fuse(modules(ROOT / "specs" / "resnet.net", "resnet18")[0], HERE)
    found = kernels(module)
    assert len(unscheduled(module)) > 5
    assert sum(plain(found[name]) for name in unscheduled(module)) > len(unscheduled(module)) // 2


LAYERS = {
    "two parts": ("f32[1, 384, 14, 14]", "conv2d(64, 1)"),
    "two parts of taps": ("f32[1, 48, 29, 29]", "conv2d(64, 3, stride = 2) |> relu"),
    "three parts": ("f32[49, 768]", "linear(3072) |> gelu"),
    "three parts, tall": ("f32[1, 576, 14, 14]", "conv2d(96, 1)"),
}
"""Sums that are too long to be added up in turn, or nearly."""


def innermost(assembly: str) -> list[list[str]]:
    """The loops that hold no other."""
    lines = [line.strip() for line in assembly.splitlines()]
    at = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    ends = [(at[m[1]], i) for i, line in enumerate(lines) if (m := re.match(r"j\w+\s+(\S+)$", line)) and m[1] in at]
    loops = [(start, end) for start, end in ends if start < end]
    inner = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    return [lines[start:end] for start, end in inner]


@pytest.mark.parametrize(("x", "layers"), LAYERS.values(), ids=LAYERS)
def test_tiles_of_long_sums_stay_in_registers(x: str, layers: str) -> None:
    text = f"module M() (x: {x.removeprefix('f32')}) {{ return x |> {layers} }}\nmodel m = M() (x: {x})\n"
    model = read_source(Source("layers.net", text)).model("m")
    graph = run(model.graph, level_steps(2, 0), facts=model.facts).final
    processor = machine(LLVM(triple="x86_64-linux-gnu", cpu="znver4", threads=1))
    assembly = str(build(prepare(graph, {}), processor).executable.mod.imports[0].inspect_source("asm"))
    sums = [loop for loop in innermost(assembly) if sum("vfmadd" in line for line in loop) >= 14]
    assert sums
    assert not [line for loop in sums for line in loop if re.search(r"%zmm\d+, .*\(%r[sb]p\)", line)]
