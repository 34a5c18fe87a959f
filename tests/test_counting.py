"""Groups executed by their schedules: the same values as the plain graph, and bytes as the formulas say."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import netc
import pytest
import torch
from groupings import Case, cases
from hypothesis import given, settings
from netc.backends.pytorch import Interpreter
from netc.backends.pytorch.counting import BufferExceeded, Counted, Parameters, execute, execute_plan
from netc.compiler.fusion.memory import Halo, Schedule, Usage, cheapest, price
from netc.compiler.fusion.workload import Workload
from netc.compiler.graph import Graph, ParameterRef, Ref, Value
from netc.compiler.library import level_steps
from netc.compiler.passes.bind import bind
from netc.compiler.pipeline import run
from netc.compiler.types import DType, TensorType, symbols
from strategies import Builder

ROOT = Path(__file__).parents[1]


def drawn(type: TensorType) -> torch.Tensor:
    shape = [int(str(d)) for d in type.shape]
    return torch.randn(*shape, dtype=torch.float64) if type.dtype.is_float else torch.randint(0, 2, shape)


def values(graph: Graph) -> dict[Value, torch.Tensor]:
    """What the plain graph computes everywhere."""
    inputs = {name: drawn(node.types[0]) for name, node in graph.inputs.items()}
    outputs = {str(v): v for node in graph.nodes.values() for v in node.values}
    found = Interpreter(replace(graph, outputs=outputs)).tensors(inputs)
    return {value: found[name] for name, value in outputs.items()}


def counted(workload: Workload, nodes: Collection[str], schedule: Schedule) -> Counted:
    """A group executed: its values have to be the plain graph's, and its counts the formulas'."""
    plain = values(workload.graph)
    parameters = Parameters(workload.graph)
    found = execute(workload, nodes, schedule, plain, parameters=parameters)
    for value, tensor in found.values.items():
        torch.testing.assert_close(tensor, plain[value], rtol=1e-9, atol=1e-9)
    assert found.usage == price(workload, nodes, schedule)
    return found


def check(case: Case) -> None:
    if case.nodes:
        counted(Workload(case.graph, case.dtype), case.nodes, case.schedule)


# ------------------------------------------------------------------------------------------------- by hand
#
# In bytes of int8: an element is a byte. x[t] is line t of x; "step t" is one far from the borders.


class Net(Builder):
    """A graph in f64 of which numbers are kept in int8."""

    def weight(self, name: str, *shape: int) -> ParameterRef:
        return self.parameter(name, shape, dtype=DType.F64)

    def conv(self, name: str, x: Ref, out: int, kernel: int = 3, **attributes: Any) -> Value:
        channels = int(str(self.edit.type(x).shape[1])) // attributes.get("groups", 1)
        weight = self.weight(name, out, channels, kernel, kernel)
        return self.node("conv2d", x, weight, None, path=name, **attributes).value

    def usage(self, schedule: Schedule, *outputs: Value, nodes: Collection[str] = ()) -> Usage:
        """What is counted, which has to be what the formulas say."""
        workload = Workload(self.done(*outputs), DType.I8)
        return counted(workload, nodes or list(workload.work.nodes), schedule).usage


SAME = ((1, 1), (1, 1))


def test_convolution_by_lines() -> None:
    # A line of x is 2·5 bytes, of y 3·5; the weight 3·2·3·3 = 54. Step t loads x[t + 1] beside x[t - 1] and x[t], and
    # makes y[t] of them: 3 lines of x and one of y.
    def usage(schedule: Schedule) -> Usage:
        net = Net()
        return net.usage(schedule, net.conv("w", net.input("x", "f64[1, 2, 8, 5]"), 3, padding=SAME))

    kept = usage(Schedule(8, resident=frozenset({"w"})))
    assert kept == Usage(buffer=3 * 10 + 15 + 54, inputs=80, outputs=120, weights=54, macs=8 * 5 * 54)
    # Filters one by one instead, of 18 bytes, in each of 8 steps.
    assert usage(Schedule(8)) == replace(kept, buffer=3 * 10 + 15 + 18, weights=8 * 54)
    # Two lines a step: x[2t - 1] … x[2t + 2], and two lines of y.
    assert usage(Schedule(4)) == replace(kept, buffer=4 * 10 + 2 * 15 + 18, weights=4 * 54)
    # All at once: layer by layer.
    assert usage(Schedule(1)) == replace(kept, buffer=80 + 120 + 18)


def test_a_buffer_is_large_enough_or_not() -> None:
    net = Net()
    workload = Workload(net.done(net.conv("w", net.input("x", "f64[1, 2, 8, 5]"), 3, padding=SAME)), DType.I8)
    given, schedule = values(workload.graph), Schedule(8)
    assert execute(workload, ["w"], schedule, given, buffer=63).usage.buffer == 63
    with pytest.raises(BufferExceeded, match="63 bytes are to be on chip, where there is room for 62"):
        execute(workload, ["w"], schedule, given, buffer=62)


def test_strips_and_tiles_read_their_halos_again() -> None:
    # Strips of 3 of 6 columns read 4; a line of a strip is 2·4 bytes of x and 3·3 of y.
    def usage(schedule: Schedule) -> Usage:
        net = Net()
        return net.usage(schedule, net.conv("w", net.input("x", "f64[1, 2, 8, 6]"), 3, padding=SAME))

    strips = usage(Schedule(8, 2, resident=frozenset({"w"})))
    assert strips == Usage(buffer=3 * 8 + 9 + 54, inputs=2 * 8 * 8, outputs=3 * 8 * 6, weights=54, macs=8 * 6 * 54)
    # Tiles of 4 lines read 5, since each has a border of the image on one side.
    tiles = usage(Schedule(2, 2, "recompute", frozenset({"w"})))
    assert tiles == replace(strips, buffer=5 * 8 + 4 * 9 + 54, inputs=4 * 5 * 8)


def test_tiles_compute_what_overlaps_again() -> None:
    # y = b(a(x)): tiles of 4 of 8 lines of y need 5 of a and 6 of x, all of 5 bytes. At most there are 6 + 5 lines, of
    # x and a, and then 5 + 4, of a and y.
    net = Net()
    b = net.conv("b", net.conv("a", net.input("x", "f64[1, 1, 8, 5]"), 1, padding=SAME), 1, padding=SAME)
    macs = 9 * 5 * (2 * 5 + 2 * 4)
    assert net.usage(Schedule(2, 1, "recompute"), b) == Usage((6 + 5) * 5 + 9, 2 * 6 * 5, 40, 2 * 2 * 9, macs)


def test_strides_and_dilation() -> None:
    # Kernel 3 with dilation 2 reaches over 5 lines, of which stride 2 leaves 3 for the next step.
    net = Net()
    x = net.input("x", "f64[1, 1, 16, 5]")
    y = net.conv("w", x, 2, stride=(2, 1), dilation=2, padding=((2, 2), (2, 2)))
    usage = net.usage(Schedule(8, resident=frozenset({"w"})), y)
    # The last line reads up to x[16], which is padding: x[15] is read, all lines are.
    assert usage == Usage(buffer=5 * 5 + 2 * 5 + 18, inputs=80, outputs=80, weights=18, macs=8 * 5 * 18)


def test_lines_that_windows_skip_pass_through() -> None:
    # Kernel 1 with stride 3 reads x[0], x[3], x[6]. x[7] is never loaded, x[1] and x[2] are.
    net = Net()
    y = net.conv("w", net.input("x", "f64[1, 1, 8, 1]"), 1, 1, stride=3)
    assert net.usage(Schedule(3), y) == Usage(buffer=3 + 1 + 1, inputs=7, outputs=3, weights=3, macs=3)


def test_padding_takes_no_memory() -> None:
    # Three lines of padding above: the first three lines of y read x[0] at most, and the first two nothing.
    net = Net()
    y = net.conv("w", net.input("x", "f64[1, 1, 6, 4]"), 1, 2, padding=((3, 0), (0, 1)))
    # y[t] reads x[t - 3] and x[t - 2]: at most two lines of x and one of y.
    assert net.usage(Schedule(8), y) == Usage(
        buffer=2 * 4 + 4 + 4, inputs=24, outputs=32, weights=8 * 4, macs=8 * 4 * 4
    )


def test_a_residual_is_held_until_it_joins() -> None:
    # c(b(a(x))) + x, lines of 4 bytes. Step t makes c[t], for which b[t + 1], a[t + 2] and x[t + 3] are made. The join
    # wants x[t], so that x[t] … x[t + 3] are there (a alone would keep 3 of them); of a and b, 2 lines are kept.
    # Before b is done with its line of a: 4 of x, 3 of a, 3 of b. The sum takes the place of c[t]. In the first step b
    # makes two lines and a three, so that they are through one and two steps before the last.
    net = Net()
    x = net.input("x", "f64[1, 1, 12, 4]")
    c = net.conv("c", net.conv("b", net.conv("a", x, 1, padding=SAME), 1, padding=SAME), 1, padding=SAME)
    usage = net.usage(Schedule(12), net("add", c, x))
    assert usage == Usage(
        buffer=(4 + 3 + 3) * 4 + 9, inputs=48, outputs=48, weights=9 * (10 + 11 + 12), macs=3 * 48 * 9
    )


def test_branches_that_are_concatenated() -> None:
    # Of x, lines of 8 bytes, 3 are there while both branches make a line of 4; then 2, both, and their concatenation.
    net = Net()
    x = net.input("x", "f64[1, 2, 8, 4]")
    y = net("concat", net.conv("a", x, 1, 1), net.conv("b", x, 1, padding=SAME), dim=1)
    usage = net.usage(Schedule(8, resident=frozenset({"a", "b"})), y)
    assert usage == Usage(
        buffer=max(3 * 8 + 4 + 4, 2 * 8 + 4 + 4 + 8) + 2 + 18, inputs=64, outputs=64, weights=20, macs=640
    )


def test_groups_of_channels() -> None:
    # A depthwise filter is 9 bytes, and a pointwise one 4.
    net = Net()
    d = net.conv("d", net.input("x", "f64[1, 4, 6, 3]"), 4, groups=4, padding=SAME)
    usage = net.usage(Schedule(6), net.conv("p", d, 5, 1))
    # Lines: 12 bytes of x and d, 15 of y. 3 of x and one of d, or 2 of x, one of d and one of y.
    assert usage == Usage(max(48, 51) + 9, 72, 90, 6 * (36 + 20), 18 * 36 + 18 * 20)
    net = Net()
    usage = net.usage(Schedule(6), net.conv("g", net.input("x", "f64[1, 4, 6, 3]"), 6, 1, groups=2))
    assert usage == Usage(12 + 18 + 2, 72, 108, 6 * 12, 18 * 12)


def test_a_gate_goes_through_its_steps_twice() -> None:
    # All of x is loaded in the first phase, beside its mean (a byte); in the second, each line of x · sigmoid(mean)
    # takes the place of one of x.
    net = Net()
    x = net.input("x", "f64[1, 1, 8, 4]")
    y = net("mul", x, net("sigmoid", net("mean", x, dim=(2, 3), keepdim=True)))
    assert net.usage(Schedule(8), y) == Usage(buffer=32 + 1, inputs=32, outputs=32, weights=0, macs=0)


def test_a_mean_holds_its_result_from_the_first_line_to_the_last() -> None:
    net = Net()
    y = net.conv("w", net.input("x", "f64[1, 1, 8, 4]"), 1, 1)
    usage = net.usage(Schedule(8), net("mean", y, dim=(2, 3)))
    assert usage == Usage(buffer=4 + 4 + 1 + 1, inputs=32, outputs=1, weights=8, macs=32)


def test_attention_holds_all_keys_and_values() -> None:
    # 6 keys and values of 4 bytes; a query makes its line.
    net = Net()
    q, k, v = (net.input(n, "f64[1, 1, 6, 4]") for n in "qkv")
    y = net("scaled_dot_product_attention", q, k, v, None)
    assert net.usage(Schedule(6), y) == Usage(
        buffer=24 + 24 + 4 + 4, inputs=72, outputs=24, weights=0, macs=2 * 6 * 6 * 4
    )


def test_keys_and_values_are_made_in_an_earlier_phase() -> None:
    net = Net()
    x = net.input("x", "f64[1, 6, 4]")
    q, k, v = (net("reshape", net("linear", x, net.weight(n, 4, 4), None), size=(1, 1, 6, 4)) for n in "qkv")
    y = net("scaled_dot_product_attention", q, k, v, None)
    # Phase 1: x whole (queries are made of it in phase 2), k and v whole. Phase 2: a query takes 4 bytes beside what
    # is left of x, all of it in its first step; and its result 4, when its line of x is gone.
    usage = net.usage(Schedule(6), y)
    assert usage == Usage(24 + 24 + 24 + 4 + 4, 24, 24, 3 * 6 * 16, 3 * 6 * 16 + 2 * 6 * 6 * 4)


def test_examples_go_one_after_the_other() -> None:
    def usage(n: int, resident: Collection[str]) -> Usage:
        net = Net()
        y = net.conv("w", net.input("x", f"f64[{n}, 2, 8, 5]"), 3, padding=SAME)
        return net.usage(Schedule(8, resident=frozenset(resident)), y)

    one, two = usage(1, "w"), usage(2, "w")
    assert two == Usage(one.buffer, 2 * one.inputs, 2 * one.outputs, one.weights, 2 * one.macs)
    one, two = usage(1, ""), usage(2, "")
    assert two == Usage(one.buffer, 2 * one.inputs, 2 * one.outputs, 2 * one.weights, 2 * one.macs)


def test_tied_weights_are_kept_once_and_streamed_by_each() -> None:
    def usage(*resident: str) -> Usage:
        net = Net()
        w = net.weight("w", 4, 4)
        first = net("linear", net.input("x", "f64[1, 6, 4]"), w, None)
        return net.usage(Schedule(1, resident=frozenset(resident)), net("linear", first, w, None))

    assert usage("w") == Usage(24 + 24 + 16, 24, 24, 16, 2 * 6 * 16)
    assert usage() == Usage(24 + 24 + 4, 24, 24, 2 * 16, 2 * 6 * 16)


def test_a_table_that_is_also_a_layer_is_looked_up_in_dram() -> None:
    net = Net()
    w = net.weight("w", 7, 4)
    found = net("embedding", net.input("x", "i64[1, 6]"), w)
    usage = net.usage(Schedule(1, resident=frozenset({"w"})), net("linear", found, w, None))
    # 6 rows of 4 bytes, and the table; a row in the staging buffer. Words are of 8 bytes.
    assert usage == Usage(max(48 + 24, 24 + 42) + 28 + 4, 48, 42, 24 + 28, 6 * 28)


def test_outputs_of_one_node_are_made_at_once() -> None:
    net = Net()
    node = net.node("topk", net("relu", net.input("x", "f64[1, 6, 5]")), k=2, dim=-1)
    values, indices = node.values
    usage = net.usage(Schedule(3), net("neg", values), indices)
    # Nothing makes lines of it: x is 30 bytes, values 12, indices 12 numbers of 8 bytes.
    assert usage == Usage(30 + 12 + 96, 30, 12 + 96, 0, 0)


def test_moves_take_nothing() -> None:
    """Between two nodes of a group every other line is cut out, and an axis comes and goes."""
    for steps in (1, 2, 3):
        net = Net()
        made = net.conv("w", net.input("x", "f64[1, 2, 5, 4]"), 3, padding=SAME)
        part = net("slice", made, dim=2, start=1, stop=5, step=2)
        y = net.conv("l", net("squeeze", net("unsqueeze", part, dim=4), dim=4), 2, 1)
        usage = net.usage(Schedule(steps), y)
        # Lines 1 … 3 of the convolution are made, of 12 bytes, and all of x is read for them.
        assert (usage.inputs, usage.outputs, usage.macs) == (40, 2 * 4 * 2, 3 * 4 * 54 + 8 * 6)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("strips", [1, 2, 3])
@pytest.mark.parametrize("halo", ["cache", "recompute"])
def test_windows_of_all_kinds(steps: int, strips: int, halo: Halo) -> None:
    """Down and up again: partial windows, uneven padding, output padding, half-pixel centres and aligned corners."""
    net = Net()
    x = net.input("x", "f64[2, 2, 11, 9]")
    pool = net("max_pool2d", x, kernel_size=3, stride=2, padding=SAME, ceil_mode=True)
    mean = net("avg_pool2d", pool, kernel_size=2, stride=2, padding=((1, 0), (0, 1)), ceil_mode=True,
               count_include_pad=False)  # fmt: skip
    up = net.node("conv_transpose2d", mean, net.weight("up", 2, 3, 3, 3), net.weight("bias", 3), stride=(2, 3),
                  padding=((1, 0), (1, 2)), output_padding=(1, 2), path="up").value  # fmt: skip
    wide = net("interpolate", up, size=(14, 10), mode="bilinear")
    cubic = net("interpolate", up, size=(9, 21), mode="bicubic", align_corners=True)
    outputs = [net("pad", wide, padding=((0, 0), (0, 0), (2, 1), (0, 3))), net("interpolate", cubic, size=(18, 21))]
    net.usage(Schedule(steps, strips, halo), *outputs)


# ------------------------------------------------------------------------------------------------- models


def prepared(spec: str, name: str) -> Graph:
    """A graph of inference with known sizes."""
    found = netc.load(ROOT / "tests" / "reduced" / f"{spec}.net", root=ROOT).model(name)
    graph = run(found.graph, level_steps(2, 0), facts=found.facts).final
    sizes = {"N": 1, "T": 12, "S": 12}
    used = {s for node in graph.inputs.values() for d in node.types[0].shape for s in symbols(d)}
    return bind(graph, {s: sizes[s] for s in used})


QUICK = (("resnet", "resnet50"), ("unet", "unet"), ("unet", "unet_classic"), ("swin", "swin_tiny"), ("gpt2", "gpt2"),
         ("llama", "tinyllama"), ("densenet", "densenet121"))  # fmt: skip
LONG = (("efficientnet", "b3"), ("inception", "inception_v4"), ("mobilenet_v2", "mobilenet_v2"),
        ("mobilenet_v3", "mobilenet_v3_large"), ("convnext", "convnext_tiny"), ("bert", "bert"))  # fmt: skip


@pytest.mark.parametrize(("spec", "model"), [*QUICK, *(pytest.param(*each, marks=pytest.mark.slow) for each in LONG)])
def test_models_group_by_group(spec: str, model: str) -> None:
    """A partition in groups of 1, 2, …, 9 nodes, each executed as is cheapest in 8 KiB, or in as much as it needs."""
    graph = prepared(spec, model)
    workload = Workload(graph, DType.I8)
    paths, groups = list(workload.work.nodes), list[tuple[list[str], Schedule]]()
    while paths:
        size = len(groups) % 9 + 1
        nodes, paths = paths[:size], paths[size:]
        cost = cheapest(workload, nodes, 8192) or cheapest(workload, nodes, None)
        assert cost is not None
        groups.append((nodes, cost.schedule))
    inputs = {path: drawn(node.types[0]) for path, node in graph.inputs.items()}
    inputs = {path: t.float() if t.is_floating_point() else t for path, t in inputs.items()}
    found = execute_plan(workload, groups, inputs)
    through = {str(value): value for value in found.values}
    plain = Interpreter(replace(graph, outputs={**graph.outputs, **through})).tensors(inputs)
    for name, tensor in (*found.outputs.items(), *((str(value), t) for value, t in found.values.items())):
        torch.testing.assert_close(tensor, plain[name], rtol=1e-4, atol=1e-4 * float(plain[name].double().abs().max()))
    for (nodes, schedule), usage in zip(groups, found.usages, strict=True):
        assert usage == price(workload, nodes, schedule), nodes
    assert found.dram == sum(usage.dram for usage in found.usages)


def test_groups_that_wait_for_each_other() -> None:
    net = Net()
    a = net("relu", net.input("x", "f64[1, 4]"))
    b = net("softmax", a, dim=1)
    workload = Workload(net.done(net("add", a, b)))
    inputs = {"x": torch.zeros(1, 4, dtype=torch.float64)}
    with pytest.raises(ValueError, match="wait"):
        execute_plan(workload, [(["relu", "add"], Schedule(1)), (["softmax"], Schedule(1))], inputs)


def test_an_output_that_is_moved_is_in_order() -> None:
    net = Net()
    x = net.input("x", "f64[2, 3]")
    workload = Workload(net.done(net("permute", net("relu", x), dims=(1, 0)), net("permute", x, dims=(1, 0))))
    given = torch.randn(2, 3, dtype=torch.float64)
    groups = [([path], Schedule(1)) for path in workload.work.nodes]
    found = execute_plan(workload, groups, {"x": given})
    torch.testing.assert_close(found.outputs, {"output0": given.relu().T, "output1": given.T})


# ------------------------------------------------------------------------------------------------- at random


@given(cases())
@settings(max_examples=60, derandomize=True)
def test_formulas_are_what_is_counted(case: Case) -> None:
    check(case)


@pytest.mark.slow
@given(cases(most=14))
@settings(max_examples=2000, derandomize=True)
def test_formulas_are_what_is_counted_in_2000_groups(case: Case) -> None:
    check(case)
