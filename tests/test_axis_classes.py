"""Classes of axes: what a whole graph ties, in which units, and that permuting and cutting by them is right."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import netc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netc.compiler.axes import (
    Analysis,
    AxisClass,
    Place,
    Selection,
    analyse,
    axis,
    data,
    explain_axis,
    sums,
    table,
    why,
    why_fixed,
)
from netc.compiler.axes.structure import Form, Structure
from netc.compiler.axes.why import Seen
from netc.compiler.backend import backend
from netc.compiler.contract import Contract
from netc.compiler.diagnostic import NetcError
from netc.compiler.graph import Graph, ParameterRef, Ref, Value, verify
from netc.compiler.measure import measure
from netc.compiler.operators.operator import SAMPLES, Sample
from netc.compiler.passes.expand import expand
from netc.compiler.probe import bound, inputs, probed
from netc.compiler.types import symbol
from netc.compiler.weights import InMemory, value
from strategies import Builder, graphs, sample_graph
from test_specs import MODELS, program, small

SLOW = {"inception_v4", "vgg16", "bert"}


def parts(analysis: Analysis, at: str) -> list[str]:
    """The places of classes in an axis, without the axis: `[0:4:2]` or nothing where a class is all of it."""
    found = axis(analysis.graph, at)
    assert not isinstance(found, (Value, ParameterRef))
    return [str(place).removeprefix(f"{place.ref}[{place.axis}]") for _, place in analysis.of(*found)]


def numbers(analysis: Analysis, at: str) -> list[int]:
    """The classes of an axis, in order."""
    found = axis(analysis.graph, at)
    assert not isinstance(found, (Value, ParameterRef))
    return [c.number for c, _ in analysis.of(*found)]


def free(analysis: Analysis) -> list[AxisClass]:
    return [c for c in analysis.classes if c.cuttable]


def sizes(analysis: Analysis) -> list[tuple[object, str]]:
    return [(c.size, c.unit) for c in free(analysis)]


def conv(b: Builder, x: Ref, name: str, out: int, kernel: int = 1, groups: int = 1) -> Value:
    inner = b.edit.type(x).shape[1]
    assert isinstance(inner, int)
    weight = b.parameter(f"{name}.weight", (out, inner // groups, kernel, kernel))
    padding = ((kernel // 2, kernel // 2),) * 2
    return b("conv2d", x, weight, None, padding=padding, groups=groups, path=name)


def linear(b: Builder, x: Ref, name: str, out: int) -> Value:
    inner = b.edit.type(x).shape[-1]
    weight, bias = b.parameter(f"{name}.weight", (out, inner)), b.parameter(f"{name}.bias", (out,))
    return b("linear", x, weight, bias, path=name)


def norm(b: Builder, x: Ref, name: str) -> Value:
    size = b.edit.type(x).shape[1]
    drawn = [b.parameter(f"{name}.{p}", (size,)) for p in ("weight", "bias")]
    kept = [b.parameter(f"{name}.{p}", (size,), k, buffer=True) for p, k in (("mean", "zeros"), ("var", "ones"))]
    return b("batch_norm", x, *drawn, *kept, path=name)


def permuted(analysis: Analysis, seed: int = 0) -> Graph:
    """Every permutable class in a random order, never the one it has."""
    rng = np.random.default_rng(seed)
    orders = {c: rng.permutation(int(str(c.size))) for c in analysis.classes if c.permutable}
    orders = {c: o if (o != np.arange(len(o))).any() else np.roll(o, 1) for c, o in orders.items()}
    return Selection(analysis, orders).graph()


def cut(analysis: Analysis, seed: int = 0, least: int = 1) -> Graph:
    """Some units of every class that may be cut, in their order."""
    rng = np.random.default_rng(seed)
    kept: dict[AxisClass, np.ndarray] = {}
    for c in free(analysis):
        assert isinstance(c.size, int)
        kept[c] = np.sort(rng.permutation(c.size)[: rng.integers(min(least, c.size), c.size + 1)])
    return Selection(analysis, kept).graph()


def same(a: Graph, b: Graph) -> None:
    found = measure(a, b, Contract(), probes=1)
    assert found.kept, found


def runs(graph: Graph) -> None:
    bound_ = bound(graph)
    outputs = backend("pytorch").Interpreter(bound_, "infer")(inputs(bound_))  # training has others
    assert {n: a.shape for n, a in outputs.items()} == {n: bound_.type(bound_.outputs[n]).shape for n in outputs}


# ------------------------------------------------------------------------------------------------------- structure


def test_a_product_refines_an_atom() -> None:
    s = Structure()
    c, h, d = s.atom(12), s.atom(3), s.atom(4)
    s.equate(c, s.product([h, d]))
    assert [(o.atom, o.offset, o.step, o.loops) for o in s.occurrences(c)] == [(h, 0, 4, ()), (d, 0, 1, ((3, 4),))]


def test_two_products_meet_in_their_common_factors() -> None:
    s = Structure()
    c, parts_ = s.atom(24), [s.atom(n) for n in (4, 6, 2, 12)]
    s.equate(c, s.product(parts_[:2]))
    s.equate(s.product(parts_[2:]), c)
    assert [s.size(f) for f in s.factors(c)] == [2, 2, 6]
    assert not s.conflicts


def test_products_without_common_factors_conflict_where_they_disagree_only() -> None:
    s = Structure()
    a = s.product([lead := s.atom(5), s.atom(6), s.atom(4), tail := s.atom(7)])
    b = s.product([first := s.atom(5), s.atom(8), s.atom(3), last := s.atom(7)])
    s.equate(a, b)
    assert s.find(lead) == s.find(first)
    assert s.find(tail) == s.find(last)
    assert [sorted(map(s.size, c)) for c in s.conflicts] == [[3, 4, 6, 8]]


def test_sums_are_cut_at_the_borders_of_both() -> None:
    s = Structure()
    a, b = s.sum([s.atom(3), s.atom(5)]), s.sum([s.atom(6), s.atom(2)])
    s.equate(a, b)
    assert [s.size(p) for p in s.segments(a)] == [s.size(p) for p in s.segments(b)] == [3, 3, 2]
    assert s.segments(a) == s.segments(b)


def test_a_sum_cuts_a_product_in_its_first_factor() -> None:
    s = Structure()
    whole = s.product([g := s.atom(4), c := s.atom(3)])
    s.equate(whole, s.sum([a := s.atom(3), b := s.atom(9)]))
    assert s.find(a) == c
    assert [s.size(p) for p in s.segments(g)] == [1, 3]
    assert [s.size(f) for f in s.factors(b)] == [3, 3]


def test_a_sum_cuts_a_product_anywhere() -> None:
    """(4 × 3) cut at 5: one row is in both parts, and every row is cut where it is."""
    s = Structure()
    whole = s.product([s.atom(4), c := s.atom(3)])
    s.equate(whole, s.sum([s.atom(5), s.atom(7)]))
    assert [s.size(p) for p in s.segments(c)] == [2, 1]
    found = [(s.size(o.atom), o.offset, o.loops) for o in s.occurrences(whole) if o.atom in s.atoms(c)]
    assert found == [(2, 0, ()), (1, 2, ()), (2, 3, ()), (1, 5, ()), (2, 6, ((2, 3),)), (1, 8, ((2, 3),))]


def test_one_part_twice_is_one_class() -> None:
    s = Structure()
    half, a, b = s.atom(4), s.atom(4), s.atom(4)
    s.equate(s.sum([half, half]), s.sum([a, b]))
    assert s.find(a) == s.find(b) == s.find(half)


def test_symbolic_factors_are_divided() -> None:
    s = Structure()
    n, t = symbol("N"), symbol("T")
    whole = s.product([s.atom(n), rows := s.atom(t)])
    s.equate(whole, s.atom(n * t))
    s.equate(whole, s.product([s.atom(n), other := s.atom(t)]))
    assert s.find(rows) == s.find(other)
    assert not s.conflicts


# A dimension as its size and parts: (6, "atom"), (6, "product", parts), (6, "sum", parts).
Tree = tuple[int, str, tuple["Tree", ...]]


@st.composite
def trees(draw: st.DrawFn, size: int, depth: int = 3) -> Tree:
    kinds = ["atom"]
    divisors = [d for d in range(2, size) if size % d == 0]
    if depth and size > 1:
        kinds += ["sum"] + ["product"] * bool(divisors)
    kind = draw(st.sampled_from(kinds))
    if kind == "atom":
        return size, kind, ()
    first = draw(st.sampled_from(divisors) if kind == "product" else st.integers(1, size - 1))
    rest = size // first if kind == "product" else size - first
    return size, kind, (draw(trees(first, depth - 1)), draw(trees(rest, depth - 1)))


def planted(s: Structure, tree: Tree) -> int:
    size, kind, inner = tree
    made = [planted(s, t) for t in inner]
    return s.atom(size) if kind == "atom" else s.product(made) if kind == "product" else s.sum(made)


@settings(max_examples=300)
@given(st.data())
def test_equal_dimensions_are_refined_to_equal_orders(data_: st.DataObject) -> None:
    """Whatever the ways in which dimensions are seen: any order of the atoms that are left orders all ways alike."""
    s = Structure()
    size = data_.draw(st.sampled_from([6, 8, 12, 24, 30]))
    shared = s.atom(data_.draw(st.sampled_from([2, 3, 4])))
    ways: list[int] = []
    views: list[Form | None] = []
    for _ in range(data_.draw(st.integers(2, 4))):
        way = planted(s, data_.draw(trees(size)))
        if data_.draw(st.booleans()) and size % s.size(shared) == 0:
            way = s.product([s.atom(size // s.size(shared)), shared])
        ways.append(way)
        views.append(s.form(way))
    for a, b in pairwise(ways):
        s.equate(a, b)
    stuck = {atom for conflict in s.conflicts for part in conflict for atom in s.atoms(part)}
    rng = np.random.default_rng(data_.draw(st.integers(0, 9)))
    orders: dict[int, np.ndarray] = {}

    def order(dimension: int, form: Form | None) -> np.ndarray:
        if form is None:
            atom = s.find(dimension)
            if atom not in orders:
                orders[atom] = np.arange(s.size(atom)) if atom in stuck else rng.permutation(int(str(s.size(atom))))
            return orders[atom]
        found = np.zeros(1 if form.kind == "product" else 0, int)
        for part in form.parts:
            inner = order(part, s.form(part))
            found = (
                np.concatenate([found, inner + len(found)])
                if form.kind == "sum"
                else (found[:, None] * len(inner) + inner).ravel()
            )
        return found

    found = [order(w, v if v is not None else s.form(w)) for w, v in zip(ways, views, strict=True)]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def indices(place: Place) -> np.ndarray:
    """Every element of an axis that belongs to a place."""
    assert isinstance(place.size, int)
    assert isinstance(place.step, int)
    found = np.asarray([place.offset]) + np.arange(place.size * place.step)
    for count, stride in place.loops:
        found = (found[:, None] + np.arange(count) * stride).ravel()
    return np.sort(found)


# ------------------------------------------------------------------------------------------------- graphs by hand


def residual() -> Graph:
    b = Builder()
    x = conv(b, b.input("x", "f32[2, 3, 8, 8]"), "stem", 8, 3)
    y = b("relu", norm(b, conv(b, x, "a", 6), "n"))
    x = b("add", x, conv(b, y, "b", 8))
    return b.done(linear(b, b("mean", x, dim=(2, 3)), "fc", 5))


def test_a_residual_join_ties_what_it_adds() -> None:
    a = analyse(residual())
    assert sizes(a) == [(8, "channel"), (6, "channel")]
    wide, inner = free(a)
    assert [str(p) for p in wide.places] == ["@stem.weight[0]", "@a.weight[1]", "@b.weight[0]", "@fc.weight[1]"]
    assert [str(p) for p in inner.places] == [
        *("@a.weight[0]", "@n.weight[0]", "@n.bias[0]", "@n.mean[0]", "@n.var[0]", "@b.weight[1]"),
    ]
    assert a.tied((ParameterRef("stem.weight"), 0), (ParameterRef("fc.weight"), 1)) == (wide,)
    assert not a.tied((ParameterRef("stem.weight"), 0), (ParameterRef("a.weight"), 0))
    reasons = {c.fixed[0].text for c in a.classes if c.fixed}
    assert reasons == {
        *("it is an axis of the input x", "it is an axis of the output output", "it is a place in a window"),
    }


def test_the_interface_is_free_where_asked() -> None:
    a = analyse(residual(), interface=("x",))
    assert sizes(a) == [(8, "channel"), (6, "channel"), (5, "channel")]
    assert analyse(residual(), interface=()).of(Value("x"), 1)[0][0].cuttable


def test_concatenation_offsets_go_through_norms_into_weights() -> None:
    b = Builder()
    x = b.input("x", "f32[2, 3, 4, 4]")
    joined = b("concat", conv(b, x, "a", 4), conv(b, x, "b", 6), dim=1)
    joined = b("concat", joined, conv(b, joined, "c", 2), dim=1)
    a = analyse(b.done(conv(b, norm(b, joined, "n"), "d", 5)))
    assert sizes(a) == [(4, "channel"), (6, "channel"), (2, "channel")]
    assert parts(a, "n.weight[0]") == parts(a, "d.weight[1]") == ["[0:4]", "[4:10]", "[10:12]"]
    assert numbers(a, "d.weight[1]") == numbers(a, "a.weight[0]") + numbers(a, "b.weight[0]") + numbers(
        a, "c.weight[0]"
    )
    same(probed(a.graph), permuted(analyse(probed(a.graph))))


def test_depthwise_channels_are_groups_of_one() -> None:
    b = Builder()
    x = conv(b, b.input("x", "f32[2, 3, 4, 4]"), "a", 6)
    a = analyse(b.done(conv(b, conv(b, x, "dw", 6, 3, groups=6), "b", 2)))
    assert sizes(a) == [(6, "channel")]
    assert [(u.node, u.label) for u in a.uses(free(a)[0])] == [("a", "o"), ("dw", "g"), ("b", "i")]
    after = cut(a)
    verify(after)
    assert after.nodes["dw"].op.groups == after.parameters["a.weight"].type.shape[0]  # type: ignore[attr-defined]


def test_groups_are_cut_whole_and_channels_in_all_groups() -> None:
    b = Builder()
    x = conv(b, b.input("x", "f32[2, 3, 4, 4]"), "a", 12)
    a = analyse(b.done(conv(b, conv(b, x, "g", 8, groups=4), "b", 2)))
    assert sizes(a) == [(4, "group"), (3, "channel"), (2, "channel")]
    assert parts(a, "a.weight[0]") == ["[0:12:3]", "[0:3, 4 times every 3]"]
    assert parts(a, "b.weight[1]") == ["[0:8:2]", "[0:2, 4 times every 2]"]
    group = free(a)[0]
    after = Selection(a, {group: [0, 2, 3]}).graph()
    verify(after)
    assert after.nodes["g"].op.groups == 3  # type: ignore[attr-defined]
    assert after.parameters["g.weight"].type.shape == (6, 3, 1, 1)


def test_a_join_inside_the_groups_of_a_convolution() -> None:
    """24 + 8 channels in 4 groups of 8: the second part is a group, and its channels are those of every group."""
    b = Builder()
    x = b.input("x", "f32[2, 3, 4, 4]")
    joined = b("concat", conv(b, x, "a", 24), conv(b, x, "b", 8), dim=1)
    a = analyse(b.done(conv(b, joined, "g", 4, groups=4)))
    assert parts(a, "a.weight[0]") == ["[0:24:8]", "[0:8, 3 times every 8]"]
    assert numbers(a, "b.weight[0]") == numbers(a, "a.weight[0]")[1:]
    same(probed(a.graph), permuted(analyse(probed(a.graph))))


def test_flattened_maps_are_blocks_of_a_linear_layer() -> None:
    b = Builder()
    x = conv(b, b.input("x", "f32[2, 3, 4, 5]"), "a", 6)
    a = analyse(b.done(linear(b, b("flatten", x, start_dim=1), "fc", 2)))
    (channel,) = free(a)
    assert (channel.size, channel.unit) == (6, "block of 20")
    assert [str(p) for p in channel.places] == ["@a.weight[0]", "@fc.weight[1][0:120:20]"]
    after = Selection(a, {channel: [4, 1]}).graph()
    verify(after)
    assert after.parameters["fc.weight"].type.shape == (2, 40)


def attention(b: Builder, x: Value, heads: int, shared: int, size: int, *, fused: str) -> Value:
    """`fused`: query, key and value are one product, split in three before (`split`) or after (`reshape`) there are
    heads; or they are three (empty)."""
    d = b.edit.type(x).shape[-1]
    assert isinstance(d, int)
    if fused == "reshape":
        qkv = b(
            "rearrange",
            linear(b, x, "qkv", 3 * heads * size),
            pattern="n t (p h s) -> p n h t s",
            sizes={"p": 3, "h": heads},
        )
        three = [b("squeeze", b("slice", qkv, dim=0, start=i, stop=i + 1), dim=0) for i in range(3)]
    else:
        sizes_ = [heads * size, shared * size, shared * size]
        if fused:
            node = b.node("split", linear(b, x, "qkv", sum(sizes_)), sizes=sizes_, dim=-1)
            three = list(node.values)
        else:
            three = [linear(b, x, n, s) for n, s in zip("qkv", sizes_, strict=True)]
        three = [b("rearrange", v, pattern="n t (h s) -> n h t s", sizes={"s": size}) for v in three]
    y = b("scaled_dot_product_attention", *three, None)
    return linear(b, b("rearrange", y, pattern="n h t s -> n t (h s)"), "proj", d)


@pytest.mark.parametrize("fused", ["split", "reshape", ""])
def test_heads_of_fused_and_separate_products(fused: str) -> None:
    b = Builder()
    x = linear(b, b.input("x", "f32[2, 5, 7]"), "in", 8)
    a = analyse(b.done(linear(b, b("add", x, attention(b, x, 3, 3, 4, fused=fused)), "out", 2)))
    head = next(c for c in free(a) if c.unit.startswith("head"))
    assert (head.size, head.unit) == (3, "head of 4")
    if fused:
        own = [str(p) for p in head.places if p.ref == ParameterRef("qkv.weight")]
        assert own == ["@qkv.weight[0][0:12:4]", "@qkv.weight[0][12:24:4]", "@qkv.weight[0][24:36:4]"]
    # Split first, the features of queries and keys are one class and those of values another.
    assert sizes(a) == [(8, "channel"), (3, "head of 4"), *[(4, "channel")] * (1 if fused == "reshape" else 2)]
    after = Selection(a, {head: [2]}).graph()
    verify(after)
    assert after.parameters["proj.weight"].type.shape == (8, 4)
    same(probed(a.graph), permuted(analyse(probed(a.graph))))


@pytest.mark.parametrize("fused", ["split", ""])
def test_query_heads_of_a_key_head(fused: str) -> None:
    b = Builder()
    x = linear(b, b.input("x", "f32[2, 5, 7]"), "in", 8)
    a = analyse(b.done(attention(b, x, 6, 2, 4, fused=fused), linear(b, x, "out", 2)))
    assert sizes(a) == [(8, "channel"), (2, "key head"), (3, "query head of 4"), (4, "channel"), (4, "channel")]
    key, query = free(a)[1:3]
    assert parts(a, "proj.weight[1]") == [
        "[0:24:12]",
        "[0:12:4, 2 times every 12]",
        "[0:4, 2 times every 12, 3 times every 4]",
    ]
    for kept in ({key: [1]}, {query: [0, 2]}, {key: [0], query: [1]}):
        verify(Selection(a, kept).graph())
    same(probed(a.graph), permuted(analyse(probed(a.graph))))


def test_tied_embeddings_are_one_class_and_their_rows_are_fixed() -> None:
    b = Builder()
    table_ = b.parameter("wte", (11, 6))
    x = b("embedding", b.input("tokens", "i64[2, 5]"), table_)
    a = analyse(b.done(b("linear", linear(b, x, "mid", 6), table_, None)))
    assert sizes(a) == [(6, "channel")]
    rows = a.of(ParameterRef("wte"), 0)[0][0]
    assert [r.text for r in rows.fixed] == [
        "the integers embedding reads name its rows",
        "it is an axis of the output output",
    ]


def test_hidden_units_are_in_every_gate() -> None:
    b = Builder()
    x = linear(b, b.input("x", "f32[2, 5, 3]"), "in", 4)
    shapes = [(24, 4), (24, 6), (24,), (24,)]
    weights = [b.parameter(f"w{i}", s) for i, s in enumerate(shapes)]
    y = b.node("lstm", x, None, None, *weights, hidden_size=6).values[0]
    a = analyse(b.done(linear(b, y, "out", 2)))
    assert sizes(a) == [(4, "channel"), (6, "hidden unit")]
    assert parts(a, "w1[0]")[1] == "[0:6, 4 times every 6]"
    after = Selection(a, {free(a)[1]: [0, 3, 5]}).graph()
    verify(after)
    assert [after.parameters[f"w{i}"].type.shape for i in range(4)] == [(12, 4), (12, 3), (12,), (12,)]


def test_pixel_shuffle_makes_blocks() -> None:
    b = Builder()
    x = b("pixel_shuffle", conv(b, b.input("x", "f32[2, 3, 4, 4]"), "a", 12), upscale_factor=2)
    a = analyse(b.done(conv(b, x, "b", 2)))
    assert sizes(a) == [(3, "block of 4")]
    assert [str(p) for p in free(a)[0].places] == ["@a.weight[0][0:12:4]", "@b.weight[1]"]


def test_halves_of_a_gate_are_one_class() -> None:
    b = Builder()
    a = analyse(b.done(linear(b, b("glu", linear(b, b.input("x", "f32[2, 3]"), "a", 8)), "b", 2)))
    assert sizes(a) == [(4, "channel")]
    assert parts(a, "a.weight[0]") == ["[0:4]", "[4:8]"]


def test_a_slice_cuts_an_axis_in_three() -> None:
    b = Builder()
    x = linear(b, b.input("x", "f32[2, 3]"), "a", 10)
    some = linear(b, b("slice", x, dim=1, start=2, stop=6), "b", 2)
    a = analyse(b.done(some, linear(b, x, "c", 2)))
    assert parts(a, "c.weight[1]") == ["[0:2]", "[2:6]", "[6:10]"]
    assert numbers(a, "b.weight[1]") == numbers(a, "c.weight[1]")[1:2]
    after = Selection(a, {free(a)[0]: [1], free(a)[1]: [0, 3, 3]}).graph()
    verify(after)
    assert (after.nodes["slice"].op.start, after.nodes["slice"].op.stop) == (1, 4)  # type: ignore[attr-defined]


def test_normalised_parts_are_averaged_together() -> None:
    b = Builder()
    x = b.input("x", "f32[2, 3]")
    joined = b("concat", linear(b, x, "a", 4), linear(b, x, "b", 6), dim=1)
    y = b("layer_norm", joined, b.parameter("w", (10,)), None)
    a = analyse(b.done(linear(b, y, "c", 2)))
    first, second = free(a)
    assert (first.mixed_with, second.mixed_with) == ((second.number,), (first.number,))
    assert [r.text for r in first.mixed] == ["layer_norm takes statistics over it"]


def test_what_cannot_be_kept_apart_is_fixed() -> None:
    b = Builder()
    x = linear(b, b.input("x", "f32[2, 3]"), "a", 24)
    y = b("rearrange", x, pattern="n (g c) -> n c g", sizes={"g": 4})
    z = b("rearrange", x, pattern="n (g c) -> n c g", sizes={"g": 3})
    a = analyse(b.done(linear(b, y, "b", 2), linear(b, z, "c", 2)))
    assert not free(a)
    assert explain_axis(a, "b.weight[1]").splitlines()[2:] == [
        "    fixed: rearrange takes it apart in another way than others do",
        "      @b.weight[1]",
        "        %b, linear: i of d0 d1 i, o i, o -> d0 d1 o",
        "      %rearrange[2]",
        "        %rearrange, rearrange: g of n (g c) -> n c g",
        "      %a[1][0:24:6]",
        "    @b.weight[1]",
    ]


def test_an_order_is_kept_but_may_be_cut() -> None:
    b = Builder()
    x = b("cumsum", linear(b, b.input("x", "f32[2, 3]"), "a", 6), dim=1)
    a = analyse(b.done(linear(b, x, "b", 2)))
    (own,) = free(a)
    assert (own.cuttable, own.permutable, own.ordered[0].node) == (True, False, "cumsum")


def test_symbolic_sizes_are_fixed() -> None:
    b = Builder()
    a = analyse(b.done(linear(b, b.input("x", "f32[N, T, 3]"), "a", 2)), interface=())
    assert [(str(c.size), c.fixed[0].text) for c in a.every_class if c.fixed] == [
        ("N", "its size is N, which is known when the model runs"),
        ("T", "its size is T, which is known when the model runs"),
    ]


def test_phases_are_one_value() -> None:
    b = Builder()
    x = linear(b, b.input("x", "f32[2, 3]"), "a", 6)
    y = b("select_phase", linear(b, x, "t", 6), b("relu", x))
    a = analyse(b.done(linear(b, y, "b", 2)))
    assert sizes(a) == [(6, "channel")]
    assert a.tied((ParameterRef("t.weight"), 0), (ParameterRef("a.weight"), 0))


# ------------------------------------------------------------------------------------------- every operator, every spec


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: f"{s.op.name}-{'-'.join(map(str, s.inputs))}")
def test_operators_follow_when_their_labels_change(sample: Sample) -> None:
    """Each class of one node alone, cut and repeated: attributes that hold sizes are adapted."""
    a = analyse(sample_graph(sample), interface=())
    for own in a.every_class:
        if own.cuttable:
            assert isinstance(own.size, int)
            least = 2 if sample.op.name == "var" else 1  # the variance of one number is not defined
            for kept in (range(min(least, own.size)), range(own.size - 1), [*range(own.size)] * 2):
                if len(kept) >= least:
                    verify(Selection(a, {own: kept}).graph())


@cache
def reduced(path: Path, name: str) -> Analysis:
    return analyse(probed(small(path, name)))


ALL = [pytest.param(*p.values, id=p.id, marks=[pytest.mark.slow] * (p.values[1] in SLOW)) for p in MODELS]


@pytest.mark.parametrize(("path", "name"), MODELS)
def test_classes_cover_every_axis_of_a_parameter_once(path: Path, name: str) -> None:
    a = analyse(program(path).model(name).graph)
    assert free(a) or name == "perceptron"
    for place in (p for conflict in a.structure.conflicts for p in conflict):
        assert all(a.class_of(atom).fixed for atom in a.structure.atoms(place))
    assert all(a.uses(own) for own in a.classes)
    for ref, axes in a.axes.items():
        for number, dimension in enumerate(axes):
            places = list(a.places_in(ref, number))
            assert a.structure.size(dimension) == a.graph.type(ref).shape[number]
            if isinstance(ref, ParameterRef) and a.structure.form(dimension) is not None:
                _check_cover(a, dimension, [p for _, p in places])


@pytest.mark.parametrize(
    ("path", "name"),
    [p for p in MODELS if p.values[1] in {"densenet121", "llama_micro", "parnet_s", "swin_tiny", "vgg16"}],
)
def test_places_say_where_each_unit_is(path: Path, name: str) -> None:
    a = reduced(path, name)
    for own in a.classes:
        if own.cuttable:
            assert isinstance(own.size, int)
            turned = Selection(a, {own: np.roll(np.arange(own.size), 1)})
            for place in own.places:
                index = turned.index(a.dimension(place.ref, place.axis))
                assert index is not None
                size = a.graph.type(place.ref).shape[place.axis]
                assert isinstance(size, int)
                assert isinstance(place.step, int)
                here = place._replace(size=1)
                for unit in range(own.size):
                    before = indices(here._replace(offset=place.offset + (unit - 1) % own.size * place.step))
                    after = indices(here._replace(offset=place.offset + unit * place.step))
                    np.testing.assert_array_equal(index[after], before)


def _check_cover(a: Analysis, dimension: int, places: list[Place]) -> None:
    """Of parts that follow each other, each element is in one, once for each factor of its product."""
    size = a.structure.size(dimension)
    assert isinstance(size, int)
    counts = np.zeros(size, int)
    for place in places:
        np.add.at(counts, indices(place), 1)
    expected: list[int] = []
    for part in a.structure.segments(dimension):
        width = a.structure.size(part)
        assert isinstance(width, int)
        expected += [len(a.structure.factors(part))] * width
    assert counts.tolist() == expected


@pytest.mark.parametrize(("path", "name"), ALL)
def test_permuting_all_classes_of_a_model_leaves_its_function(path: Path, name: str) -> None:
    a = reduced(path, name)
    after = permuted(a)
    verify(after)
    for own in a.classes:
        if own.permutable:
            refs = {place.ref for place in own.places}
            moved = [
                r.parameter for r in refs if isinstance(r, ParameterRef) and not _alike(a.graph, after, r.parameter)
            ]
            assert moved, f"class {own.number} was to be permuted, and no parameter of it changed"
    same(a.graph, after)


def _alike(a: Graph, b: Graph, path: str) -> bool:
    return np.array_equal(value(a.parameters[path]), value(b.parameters[path]))


@pytest.mark.parametrize(("path", "name"), ALL)
def test_cutting_all_classes_of_a_model_leaves_a_model(path: Path, name: str) -> None:
    a = reduced(path, name)
    for seed in range(2):
        after = cut(a, seed)
        verify(after)
        assert {n: v.types for n, v in after.inputs.items()} == {n: v.types for n, v in a.graph.inputs.items()}
        assert [after.type(r) for r in after.outputs.values()] == [a.graph.type(r) for r in a.graph.outputs.values()]
    runs(after)


@pytest.mark.parametrize("way", ["expand", "optimise"])
@pytest.mark.parametrize(
    ("path", "name"),
    [p for p in MODELS if p.values[1] in {"swin_tiny", "llama_micro", "lstm_tagger", "resnext50_32x4d"}],
)
def test_simpler_operators_say_the_same(path: Path, name: str, way: str) -> None:
    """Attention as products, norms as arithmetic, recurrence unrolled; and what optimising leaves."""
    graph = small(path, name)
    after = expand(bound(graph)) if way == "expand" else netc.Model(name, graph).optimised(2).graph
    a = analyse(probed(after))
    assert sorted(str(c.size) for c in free(a)) == sorted(str(c.size) for c in free(analyse(graph)))
    same(a.graph, permuted(a))
    verify(cut(a))


def test_permuting_one_place_less_changes_the_function() -> None:
    """What the property above would not forgive."""
    a = analyse(probed(residual()))
    after = permuted(a)
    for place in free(a)[0].places:
        assert isinstance(place.ref, ParameterRef)
        path = place.ref.parameter
        broken = after.with_parameters([a.graph.parameters[path]])
        assert not measure(a.graph, broken, Contract(), probes=1).kept


@settings(max_examples=60)
@given(graphs(size=25))
def test_permuting_and_cutting_random_graphs(graph: Graph) -> None:
    a = analyse(probed(graph))
    after = permuted(a)
    verify(after)
    same(a.graph, after)
    after = cut(a, least=2)
    verify(after)
    runs(after)


@pytest.mark.parametrize(
    ("path", "name"),
    [p for p in MODELS if p.values[1] in {"densenet121", "llama_micro", "mobilenet_v2", "unet", "resnext50_32x4d"}],
)
def test_repeated_units_share_what_is_summed(path: Path, name: str) -> None:
    """Each class twice, and the weights halved that are summed over it: the same function."""
    before = reduced(path, name)
    for own in free(before)[:8]:
        halved: dict[str, np.ndarray] = {}
        for use, places in sums(before, own):
            weights = [p for p in places if isinstance(p.ref, ParameterRef)]
            assert weights or before.graph.nodes[use.node].op.name == "mean"
            for place in weights:
                assert isinstance(place.ref, ParameterRef)
                parameter = place.ref.parameter
                whole = halved.setdefault(parameter, value(before.graph.parameters[parameter]).copy())
                whole[(slice(None),) * place.axis + (indices(place),)] /= 2
        a = analyse(
            before.graph.with_parameters(
                [replace(before.graph.parameters[p], data=InMemory(w)) for p, w in halved.items()]
            )
        )
        same_class = a.classes[before.classes.index(own)]
        assert isinstance(same_class.size, int)
        wide = Selection(a, {same_class: [*range(same_class.size)] * 2}).graph()
        verify(wide)
        same(before.graph, wide)


def test_dead_units_are_cut_without_a_change() -> None:
    """Units whose readers multiply them by 0 are the same as none."""
    graph = probed(residual())
    dead = value(graph.parameters["b.weight"]).copy()
    dead[:, [1, 4]] = 0
    graph = graph.with_parameters([replace(graph.parameters["b.weight"], data=InMemory(dead))])
    a = analyse(graph)
    (inner,) = (c for c in free(a) if c.size == 6)
    after = Selection(a, {inner: [0, 2, 3, 5]}).graph()
    assert after.parameters["a.weight"].type.shape[0] == 4
    x = inputs(graph)
    before, after_ = (backend("pytorch").Interpreter(g, "infer")(x)["output"] for g in (graph, after))
    np.testing.assert_allclose(before, after_, rtol=1e-5, atol=1e-6)


def test_uses_say_where_a_class_is_summed() -> None:
    a = analyse(residual())
    wide, inner = free(a)
    assert [(u.node, u.label, u.inputs, u.outputs) for u in a.uses(inner)] == [
        ("a", "o", (1,), (0,)),
        ("n", "d1", (0, 1, 2, 3, 4), (0,)),
        ("relu", "d1", (0,), (0,)),
        ("b", "i", (0, 1), ()),
    ]
    assert [u.node for u in a.uses(wide) if u.reduced] == ["a", "fc"]


def test_a_selection_refuses_what_is_fixed_and_what_is_not_there() -> None:
    a = analyse(residual())
    fixed = next(c for c in a.classes if c.fixed)
    with pytest.raises(ValueError, match="is fixed: it is an axis of the input x"):
        Selection(a, {a.of(ParameterRef("stem.weight"), 1)[0][0]: [0]})
    with pytest.raises(ValueError, match="is fixed"):
        Selection(a, {fixed: [0]})
    for wrong in ([], [8], [-1]):
        with pytest.raises(ValueError, match="has the units 0 to 7"):
            Selection(a, {free(a)[0]: wrong})


def test_ten_thousand_nodes() -> None:
    b = Builder()
    x = linear(b, b.input("x", "f32[2, 3]"), "in", 8)
    for i in range(2_500):
        x = b("add", x, b("relu", linear(b, x, f"l{i}", 8)))
        x = b("neg", x)
    a = analyse(b.done(linear(b, x, "out", 2)))
    assert len(a.graph.nodes) > 10_000
    (own,) = free(a)
    assert len(own.places) == 3 + 2_500 * 3
    assert len(why(a, (ParameterRef("in.weight"), 0), (ParameterRef("out.weight"), 1))) > 5_000


def test_deep_nests_of_joins() -> None:
    b = Builder()
    x = linear(b, b.input("x", "f32[2, 3]"), "in", 2)
    parts_ = 1_500
    for i in range(parts_):
        x = b("concat", x, b.input(f"x{i}", "f32[2, 1]"), dim=1)
    a = analyse(b.done(linear(b, x, "out", 2)))
    assert parts(a, "out.weight[1]")[0] == "[0:2]"
    assert a.structure.size(a.dimension(ParameterRef("out.weight"), 1)) == parts_ + 2


# --------------------------------------------------------------------------------------------------------- why


@pytest.mark.parametrize(
    ("path", "name"), [p for p in MODELS if p.values[1] in {"resnet18", "deit_tiny", "densenet121"}]
)
def test_every_tie_and_every_fixed_axis_has_a_way(path: Path, name: str) -> None:
    a = reduced(path, name)
    for own in a.classes:
        first, last = own.places[0], own.places[-1]
        way = why(a, (first.ref, first.axis), (last.ref, last.axis))
        assert [isinstance(s, Seen) for s in way] == [i % 2 == 1 for i in range(len(way))]
        ends = [(s.ref, s.axis) for s in (way[0], way[-1]) if isinstance(s, Place)]
        assert ends == [(first.ref, first.axis), (last.ref, last.axis)]
        for before, seen, after in zip(way[::2], way[1::2], way[2::2], strict=False):
            assert isinstance(seen, Seen)
            node = a.graph.nodes[seen.node]
            assert all(isinstance(p, Place) and p.ref in (*node.refs, *node.values) for p in (before, after))
        if own.fixed:
            assert any(c is own and way for c, _, way in why_fixed(a, (first.ref, first.axis)))


def test_what_is_not_tied_has_no_way() -> None:
    a = analyse(residual())
    assert why(a, (ParameterRef("a.weight"), 0), (ParameterRef("b.weight"), 0)) == []
    said = explain_axis(a, "a.weight[0]", "b.weight[0]")
    assert said == "@a.weight[0] and @b.weight[0] have nothing in common"


def test_explanations() -> None:
    a = analyse(residual())
    assert (
        explain_axis(a, "stem.weight[0]", "@fc.weight[1]")
        == """\
@stem.weight[0] and @fc.weight[1] are tied: both have #1 (8, channel)
  @stem.weight[0]
    %stem, conv2d: o of n i y x, o i ky kx -> n o y2 x2
  %stem[1]
    %add, add: d1 of d0 d1 d2 d3, d0 d1 d2 d3 -> d0 d1 d2 d3
  %add[1]
    %mean, mean: d1 of d0 d1 d2 d3 -> d0 d1
  %mean[1]
    %fc, linear: i of d0 i, o i, o -> d0 o
  @fc.weight[1]"""
    )
    assert (
        explain_axis(a, "stem.weight[1]")
        == """\
@stem.weight[1], 3 = #2
  #2, 3, channel: fixed
    fixed: it is an axis of the input x
      @stem.weight[1]
        %stem, conv2d: i of n i y x, o i ky kx -> n o y2 x2
      %x[1]
    @stem.weight[1]"""
    )
    assert explain_axis(a, "stem.weight").count("@stem.weight[") >= 4


@pytest.mark.parametrize(
    ("at", "message", "fix"),
    [
        ("stm.weight[0]", "the model has no parameter or value stm.weight", "stem.weight"),
        ("%stem.weight[0]", "the model has no parameter or value %stem.weight", None),
        ("stem.weight[4]", "@stem.weight is f32[8, 3, 3, 3] and has no axis 4", None),
        ("a b[", "a b[ is no axis", None),
    ],
)
def test_axes_that_are_not_there(at: str, message: str, fix: str | None) -> None:
    with pytest.raises(NetcError) as error:
        explain_axis(analyse(residual()), at)
    (found,) = error.value.diagnostics
    assert found.message == message
    assert fix is None or found.fix == fix


def test_a_tie_is_of_two_axes() -> None:
    with pytest.raises(NetcError, match="has 4 axes; one is meant"):
        explain_axis(analyse(residual()), "stem.weight", "a.weight[1]")


def test_the_table_and_its_data() -> None:
    a = analyse(residual())
    assert (
        table(a)
        == """\
g: 2 dimensions may change, 4 are fixed

#  size  unit     may be         places  where
1     8  channel  cut, permuted       4  @stem.weight[0], @a.weight[1], @b.weight[0], …
5     6  channel  cut, permuted       6  @a.weight[0], @n.weight[0], @n.bias[0], …

fixed:
  1  it is an axis of the input x: @stem.weight[1]
  2  it is a place in a window: @stem.weight[2], @stem.weight[3]
  1  it is an axis of the output output: @fc.weight[0]"""
    )
    assert len(table(a, everything=True).splitlines()) == 3 + len(a.classes)
    found = data(a)
    assert [(c["size"], c["cut"], len(c["places"])) for c in found[:2]] == [(8, True, 4), (3, False, 1)]
    assert found[0]["places"][0] == {"parameter": "stem.weight", "axis": 0, "offset": 0, "step": 1, "loops": []}
