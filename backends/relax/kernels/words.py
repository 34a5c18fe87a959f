"""Layers whose steps are dot products (../dot.py): what they read, and weights packed for them.

Numbers that follow each other along the inner axis, channels or columns, make words of 32 bits: two of bf16, four of
bytes. They are multiplied as they are kept in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....compiler.types import DType, TensorType
from ..dot import HALVES, Dot, has, word
from ..index import literal
from ..kernel import View
from ..lower import Lowering
from ..tensor import Tensor
from ..untyped import tirx
from .numeric import const


def halves(low: Lowering, x: Tensor, weight: Tensor) -> Dot | None:
    """The instruction for products of bf16, where both are and the machine has it.

    Not in chains of convolutions, whose loop is made of other steps, and not for what is computed at compile time,
    which may be on another machine.
    """
    both = all(t.type.dtype is DType.BF16 and t.code is None and t.number is None for t in (x, weight))
    fits = both and not x.constant and low.owner not in low.chains
    return HALVES if fits and has(HALVES, low.machine) else None


def divides(dot: Dot | None, inner: Any) -> bool:
    """Whether so many numbers are whole words."""
    return dot is None or (isinstance(inner, int) and inner % dot.size == 0)


def numbers(read: Callable[[Any], Any], word: Any, dot: Dot) -> list[Any]:
    """The numbers of a word, in a row."""
    return [read(word * literal(dot.size) + literal(i)) for i in range(dot.size)]


def packed(low: Lowering, weight: Tensor, width: int, dot: Dot) -> Tensor:
    """`[F, C, *kernel]` as `[F/width, *kernel, C/size, width]` of words; what is surplus is zero."""
    outputs, inputs, *taps = (low.known(d, "every size of the weight") for d in weight.type.shape)
    words = -(-inputs // dot.size)
    whole = outputs % width == 0 and inputs % dot.size == 0

    def element(index: Sequence[Any], w: View) -> Any:
        tile, *at, place, lane = index
        w = w.kept()
        f = tile * literal(width) + lane

        def number(c: Any) -> Any:
            inside = tirx.all(f < literal(outputs), c < literal(inputs))
            return w[(f, c, *at)] if whole else tirx.if_then_else(inside, w[(f, c, *at)], const(0, w.dtype))

        return word(numbers(number, place, dot))

    type = TensorType(DType.I32, (-(-outputs // width), *taps, words, width))
    return low.once(("words", *weight.key, width), lambda: low.map("pack", [weight], type, element))
