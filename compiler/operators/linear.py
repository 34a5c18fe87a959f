"""Products of matrices: linear layers, embeddings, matmul, einsum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_letters
from typing import Annotated, cast

from pydantic import AfterValidator

from ..types import Dim, Shape, TensorType, volume
from .attribute import Flag, Positive
from .dimension import aligned, broadcast, given, labels, pattern
from .operator import (
    Axes,
    Cost,
    Initialiser,
    Layer,
    Operator,
    OptionalTypes,
    ParameterSpec,
    ShapeError,
    Types,
    layer,
    operands,
    operator,
    sample,
)
from .parameter import FAN_IN, bias_of, check_vector, data, parameter_dtype, same_dtype, stated, weight_rank, width


@operator("linear")
class Linear(Operator):
    """`x @ weightᵀ + bias` over the last axis: `x [..., in]`, `weight [out, in]`, `bias [out]`."""

    operands = operands("x weight bias?=0")

    def shape(self, *inputs: TensorType | None) -> Types:
        x, weight, bias = (*inputs, None)[:3]
        assert x is not None
        assert weight is not None
        if x.rank == 0:
            raise ShapeError(f"linear takes [..., in], not {x}", operands=(0,), code="rank-mismatch")
        if weight.rank != 2:
            raise ShapeError(f"the weight of linear is [out, in], not {weight}", operands=(1,), code="rank-mismatch")
        same_dtype(self, x, weight, bias)
        out, inner = weight.shape
        if x.shape[-1] != inner:
            raise ShapeError(
                f"linear has a weight {weight} for {inner} features, but its input {x} has {x.shape[-1]}",
                operands=(0, 1),
                fix=f"a weight made for {x.shape[-1]} features, or an input of {inner}",
            )
        check_vector(self, "bias", bias, out, 2, "output features")
        return (TensorType(x.dtype, (*x.shape[:-1], out)),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        x, *weights = given(inputs)
        names = labels(x.rank - 1)
        return Axes(pattern([[*names, "i"], *[["o", "i"], ["o"]][: len(weights)]], [*names, "o"]))

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        x, _, bias = (*inputs, None)[:3]
        assert x is not None
        return Cost(outputs[0].elements * x.shape[-1], outputs[0].elements if bias else 0)


@layer("linear")
class LinearLayer(Layer):
    """`x |> linear(10)`: owns `weight` and, with `bias`, `bias`, both U(±1/√in)."""

    out_features: Positive | None = None
    bias: Flag = True
    in_features: Positive | None = None

    def parameters(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> dict[str, ParameterSpec]:
        x = data(inputs)
        if x is not None and x.rank == 0:
            raise ShapeError(f"linear takes [..., in], not {x}", operands=(0,), code="rank-mismatch")
        weight = weight_rank(self.name, given, 2, "out, in")
        out = cast(
            Dim, stated(self.name, "out_features", self.out_features, None if weight is None else weight.shape[0])
        )
        dtype = parameter_dtype(x)
        specs: dict[str, ParameterSpec] = {}
        if weight is None:
            shape: Shape = (out, width(self.name, "in_features", self.in_features, None if x is None else x.shape[-1]))
            specs["weight"] = ParameterSpec(shape, FAN_IN, dtype)
        else:
            shape = weight.shape
        if self.bias and "bias" not in given:
            specs["bias"] = bias_of(self.name, shape, out, dtype)
        return specs

    def operator(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> Operator:
        return Linear()


@operator("embedding")
class Embedding(Operator):
    """Rows of `weight [rows, features]` at the integers of `x [...]`: `[..., features]`."""

    operands = operands("x weight")

    def shape(self, *inputs: TensorType | None) -> Types:
        x, weight = given(inputs)
        if not x.dtype.is_integer:
            raise ShapeError(
                f"embedding looks rows up by integers, not by {x}",
                operands=(0,),
                code="dtype-mismatch",
                fix="declare the input as i64",
            )
        if weight.rank != 2:
            raise ShapeError(
                f"the weight of embedding is [rows, features], not {weight}", operands=(1,), code="rank-mismatch"
            )
        return (TensorType(weight.dtype, (*x.shape, weight.shape[1])),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        names = labels(given(inputs)[0].rank)
        return Axes(pattern([names, ["v", "f"]], [*names, "f"]), {"v": "the integers embedding reads name its rows"})

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        return Cost()


@layer("embedding")
class EmbeddingLayer(Layer):
    """`tokens |> embedding(30522, 768)`: owns `weight`, normal(0, 1)."""

    num_embeddings: Positive | None = None
    embedding_dim: Positive | None = None

    def parameters(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> dict[str, ParameterSpec]:
        weight = weight_rank(self.name, given, 2, "rows, features")
        rows, features = (None, None) if weight is None else weight.shape
        shape = (
            cast(Dim, stated(self.name, "num_embeddings", self.num_embeddings, rows)),
            cast(Dim, stated(self.name, "embedding_dim", self.embedding_dim, features)),
        )
        return {} if weight is not None else {"weight": ParameterSpec(shape, Initialiser("normal", (0.0, 1.0)))}

    def operator(self, inputs: OptionalTypes, given: Mapping[str, TensorType]) -> Operator:
        return Embedding()


@operator("matmul")
class Matmul(Operator):
    """The matrix product of the last two axes; leading axes broadcast, vectors are rows (left) or columns (right)."""

    operands = operands("a b")

    def shape(self, *inputs: TensorType | None) -> Types:
        a, b = given(inputs)
        for i, t in enumerate((a, b)):
            if t.rank == 0:
                raise ShapeError(
                    "matmul takes vectors or matrices, not a number", operands=(i,), code="rank-mismatch", fix="a * b"
                )
        same_dtype(self, a, b)
        inner, other = a.shape[-1], b.shape[0] if b.rank == 1 else b.shape[-2]
        if inner != other:
            turned = b.rank >= 2 and b.shape[-1] == inner
            raise ShapeError(
                f"matmul cannot multiply {a} by {b}: the last axis of the first has {inner}, "
                f"axis {max(b.rank - 2, 0)} of the second {other}",
                operands=(0, 1),
                fix=f"transpose(b, {b.rank - 2}, {b.rank - 1}) fits" if turned else "make both sizes equal",
            )
        return (TensorType(a.dtype, (*self._batch(a, b), *a.shape[-2:-1], *(b.shape[-1:] if b.rank > 1 else ()))),)

    def _batch(self, a: TensorType, b: TensorType) -> Shape:
        return broadcast(self, TensorType(a.dtype, a.shape[:-2]), TensorType(b.dtype, b.shape[:-2]))

    def axes(self, *inputs: TensorType | None) -> Axes:
        a, b = given(inputs)
        batch = self._batch(a, b)
        names = labels(len(batch))
        left = [*aligned(a.shape[:-2], batch, names), *["i"][: a.rank - 1], "k"]
        right = [*aligned(b.shape[:-2], batch, names), "k", *["j"][: b.rank - 1]]
        return Axes(pattern([left, right], [*names, *["i"][: a.rank - 1], *["j"][: b.rank - 1]]))

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        # FlopCounterMode leaves out products with vectors (mv, dot); they are matrix products all the same.
        return Cost(outputs[0].elements * given(inputs)[0].shape[-1])


def _equation(text: str) -> str:
    text = "".join(text.split())
    letters = text.replace("->", "", 1).replace(",", "").replace("...", "")
    strange = sorted(set(letters) - set(ascii_letters))
    if strange:
        raise ValueError(f'should name axes by letters, as in "bij,bjk->bik"; {" ".join(strange)} is none')
    return text


@operator("einsum")
class Einsum(Operator):
    """Products summed over the axes that the output does not name: `einsum(a, b, equation = "bij,bjk->bik")`."""

    operands = operands("tensors*")
    equation: Annotated[str, AfterValidator(_equation)]

    def canonical(self, *inputs: TensorType | None) -> Einsum:
        """Without blanks, with its output, and with letters in place of `...`."""
        types = given(inputs)
        left, arrow, right = "".join(self.equation.split()).partition("->")
        terms = left.split(",")
        self._check_count(terms, types)
        if not arrow:
            named = left.replace(",", "").replace("...", "")
            right = ("..." if "..." in left else "") + "".join(sorted(c for c in set(named) if named.count(c) == 1))
        if "..." in left or "..." in right:
            terms, right = self._without_dots(terms, right, types)
        return Einsum(f"{','.join(terms)}->{right}")

    def _check_count(self, terms: Sequence[str], types: Types) -> None:
        if len(terms) != len(types):
            raise ShapeError(
                f'einsum "{self.equation}" has {len(terms)} terms, but {len(types)} tensors are given',
                code="input-count",
            )

    def _without_dots(self, terms: Sequence[str], right: str, types: Types) -> tuple[list[str], str]:
        free = [c for c in reversed(ascii_letters) if c not in self.equation]
        hidden = [
            t.rank - len(term.replace("...", "")) if "..." in term else 0 for term, t in zip(terms, types, strict=True)
        ]
        letters = "".join(reversed(free[: max(hidden)]))
        full = [term.replace("...", letters[len(letters) - h :]) for term, h in zip(terms, hidden, strict=True)]
        return full, right.replace("...", letters)

    def shape(self, *inputs: TensorType | None) -> Types:
        types = given(inputs)
        terms, right = self.terms(types)
        sizes: dict[str, tuple[int, Dim]] = {}
        for i, (term, t) in enumerate(zip(terms, types, strict=True)):
            self._check_term(term, t, i)
            for letter, size in zip(term, t.shape, strict=True):
                j, other = sizes.setdefault(letter, (i, size))
                if size != other:
                    raise ShapeError(
                        f'the axis {letter} of einsum "{self.equation}" is {other} in {types[j]} and {size} in {t}',
                        operands=(j, i),
                        fix="give unequal axes different letters",
                    )
        same_dtype(self, *types)
        for letter in right:
            if letter not in sizes or right.count(letter) > 1:
                fault = "an input does not have" if letter not in sizes else "is named twice"
                raise ShapeError(f'the output of einsum "{self.equation}" has an axis {letter} that {fault}')
        return (TensorType(types[0].dtype, tuple(sizes[letter][1] for letter in right)),)

    def axes(self, *inputs: TensorType | None) -> Axes:
        terms, right = self.terms(given(inputs))
        return Axes(pattern(terms, right))

    def terms(self, types: Types) -> tuple[list[str], str]:
        """The letters of each input, and of the output."""
        left, _, right = self.canonical(*types).equation.partition("->")
        return left.split(","), right

    def _check_term(self, term: str, t: TensorType, i: int) -> None:
        if len(term) != t.rank:
            raise ShapeError(
                f'einsum "{self.equation}" names {len(term)} axes of its input {i}, but that is {t} of rank {t.rank}',
                operands=(i,),
                code="rank-mismatch",
            )
        if len(set(term)) < len(term):
            raise ShapeError(
                f'einsum "{self.equation}" names an axis twice in {term}; diagonals are not supported', operands=(i,)
            )

    def cost(self, inputs: Sequence[TensorType | None], outputs: Types) -> Cost:
        """Contraction from left to right, each letter summed as soon as no later term has it (as PyTorch)."""
        types = given(inputs)
        terms, right = self.terms(types)
        sizes = {
            letter: size
            for term, t in zip(terms, types, strict=True)
            for letter, size in zip(term, t.shape, strict=True)
        }
        macs: Dim = 0
        flops: Dim = 0
        have = set(terms[0])
        for i, term in enumerate(terms[1:], 1):
            later = set(right).union(*terms[i + 1 :])
            both = have | set(term)
            work = volume(sizes[c] for c in both if c in later or (c in have and c in term))
            if (have & set(term)) - later:
                macs += work
            else:
                flops += work
            have = both & later
        return Cost(macs, flops if len(terms) > 1 else types[0].elements)


sample(Linear(), "f32[2, 5]", "f32[3, 5]", "f32[3]")
sample(Linear(), "f32[2, 3, 4]", "f32[6, 4]")
sample(Embedding(), "i64[2, 3]", "f32[7, 4]", high={0: 7})
sample(Matmul(), "f32[3, 4]", "f32[4, 5]")
sample(Matmul(), "f32[2, 1, 3, 4]", "f32[3, 4, 2]")
sample(Matmul(), "f32[2, 3, 4]", "f32[4]")
sample(Matmul(), "f32[4]", "f32[2, 4, 3]")
sample(Einsum("bij,bjk->bik"), "f32[2, 3, 4]", "f32[2, 4, 5]")
sample(Einsum("bhqd,bkhd->bhqk"), "f32[2, 2, 3, 4]", "f32[2, 5, 2, 4]")
sample(Einsum("ab,bc,cd->da"), "f32[2, 3]", "f32[3, 4]", "f32[4, 2]")
sample(Einsum("i,j->ij"), "f32[3]", "f32[4]")
sample(Einsum("ijk->ki"), "f32[2, 3, 4]")
