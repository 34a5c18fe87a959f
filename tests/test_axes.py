"""Axis patterns tell the truth: sizes add up, and permuting what may be permuted permutes the outputs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pytest
import torch
from netc.compiler.operators.operator import SAMPLES, Axes, Operator, Sample
from netc.compiler.types import TensorType
from oracle import call, doubled, draw
from strategies import type_of


class Parts(NamedTuple):
    """An axis that consists of others: their row-major product, or their concatenation."""

    kind: str
    items: list[Axis]


Axis = str | Parts


def parse(pattern: str) -> tuple[list[list[Axis]], list[list[Axis]]]:
    """The axes of each input and of each output."""
    inputs, outputs = pattern.split("->")
    return [_axes(g) for g in inputs.split(",")] if inputs.strip() else [], [_axes(g) for g in outputs.split(",")]


def _axes(text: str) -> list[Axis]:
    tokens = re.findall(r"\w+|[()+]", text)
    axes: list[Axis] = []
    while tokens:
        axes.append(_axis(tokens))
    return axes


def _axis(tokens: list[str]) -> Axis:
    first = tokens.pop(0)
    if first != "(":
        assert first not in ")+"
        return first
    items = [_axis(tokens)]
    kind = "sum" if tokens[0] == "+" else "product"
    while tokens[0] != ")":
        if kind == "sum":
            assert tokens.pop(0) == "+"
        items.append(_axis(tokens))
    tokens.pop(0)
    return Parts(kind, items)


def solve(axes: Axes, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> dict[str, int]:
    """The size of every label, or a failed assertion."""
    groups = [g for side in parse(axes.pattern) for g in side]
    types = [*inputs, *outputs]
    assert len(groups) == len(types)
    for group, kind in zip(groups, types, strict=True):
        assert len(group) == kind.rank, (axes.pattern, kind)
    places = [(a, int(str(d))) for g, t in zip(groups, types, strict=True) for a, d in zip(g, t.shape, strict=True)]
    sizes = {"1": 1, **axes.sizes}
    for _ in places:
        for axis, size in places:
            _deduce(axis, size, sizes)
    for axis, size in places:
        assert _size(axis, sizes) == size, (axes.pattern, axis, size, sizes)
    return sizes


def _deduce(axis: Axis, size: int, sizes: dict[str, int]) -> None:
    if isinstance(axis, str):
        sizes.setdefault(axis, size)
        return
    known = [s for item in axis.items if (s := _size(item, sizes)) is not None]
    unknown = [item for item in axis.items if _size(item, sizes) is None]
    if axis.kind == "sum" and len(set(map(str, unknown))) == 1:
        _deduce(unknown[0], (size - sum(known)) // len(unknown), sizes)
    elif axis.kind == "product" and len(unknown) == 1:
        _deduce(unknown[0], size // math.prod(known), sizes)


def _size(axis: Axis, sizes: Mapping[str, int]) -> int | None:
    if isinstance(axis, str):
        return sizes.get(axis)
    inner = [_size(item, sizes) for item in axis.items]
    if None in inner:
        return None
    return (sum if axis.kind == "sum" else math.prod)(s for s in inner if s is not None)


def order(axis: Axis, orders: Mapping[str, torch.Tensor], sizes: Mapping[str, int]) -> torch.Tensor:
    """Which index of an axis comes where, when its labels are put in these orders."""
    if isinstance(axis, str):
        return orders.get(axis, torch.arange(sizes[axis]))
    found = order(axis.items[0], orders, sizes)
    for item in axis.items[1:]:
        after = order(item, orders, sizes)
        if axis.kind == "sum":
            found = torch.cat([found, after + len(found)])
        else:
            found = (found[:, None] * len(after) + after).flatten()
    return found


def permuted(
    x: torch.Tensor, axes: Sequence[Axis], orders: Mapping[str, torch.Tensor], sizes: Mapping[str, int]
) -> torch.Tensor:
    for dim, axis in enumerate(axes):
        x = x.index_select(dim, order(axis, orders, sizes))
    return x


def prepared(sample: Sample) -> tuple[Operator, list[TensorType | None], Axes]:
    types = [None if text is None else type_of(text) for text in sample.inputs]
    op = sample.op.canonical(*types)
    return op, types, op.axes(*types)


def title(sample: Sample) -> str:
    return f"{sample.op.name}-{'-'.join(map(str, sample.inputs))}"


@pytest.mark.parametrize("sample", SAMPLES, ids=title)
def test_sizes_agree_wherever_a_label_occurs(sample: Sample) -> None:
    op, types, axes = prepared(sample)
    sizes = solve(axes, [t for t in types if t is not None], op.shape(*types))
    named = {*axes.fixed, *axes.ordered, *axes.mixed, *axes.sizes}
    assert named <= sizes.keys(), f"{axes} speaks of labels that its pattern does not have"
    assert not axes.fixed.keys() & (axes.ordered | axes.mixed)


@pytest.mark.parametrize("sample", SAMPLES, ids=title)
def test_permuting_a_label_everywhere_permutes_the_outputs(sample: Sample) -> None:
    op, types, axes = prepared(sample)
    sizes = solve(axes, [t for t in types if t is not None], op.shape(*types))
    before, after = parse(axes.pattern)
    generator = torch.Generator().manual_seed(1)
    free = [n for n in sizes if n not in axes.fixed and n not in axes.ordered and sizes[n] > 1]
    orders = {n: torch.randperm(sizes[n], generator=generator) for n in free}
    orders = {n: o if (o != torch.arange(len(o))).any() else o.roll(1) for n, o in orders.items()}  # not the identity
    inputs = doubled(draw(sample))
    groups = iter(before)
    moved = [None if x is None else permuted(x, next(groups), orders, sizes) for x in inputs]
    found = call(op, *moved)
    for result, group, expected in zip(call(op, *inputs), after, found, strict=True):
        torch.testing.assert_close(
            expected, permuted(result, group, orders, sizes), rtol=1e-9, atol=1e-9, msg=lambda m: f"{axes}: {m}"
        )


def test_most_operators_leave_something_to_permute() -> None:
    """A pattern that freezes everything would prove nothing above."""
    free: set[str] = set()
    for sample in SAMPLES:
        op, types, axes = prepared(sample)
        sizes = solve(axes, [t for t in types if t is not None], op.shape(*types))
        if any(n not in axes.fixed and n not in axes.ordered and sizes[n] > 1 for n in sizes):
            free.add(sample.op.name)
    assert {s.op.name for s in SAMPLES} - free == {"constant", "arange"}
