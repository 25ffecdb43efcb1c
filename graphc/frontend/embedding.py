"""Embeddings: rows of a trained table by their numbers, and encodings of positions.

In: integer ids, or sizes. Out: traced arrays. The gradient of a table is one scatter_add.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.frontend import functions as F
from graphc.frontend.activations import check_probability, dropout
from graphc.frontend.array import Array
from graphc.frontend.calls import Call
from graphc.frontend.checks import is_integer
from graphc.frontend.init import Initializer, Source, Values, normal
from graphc.frontend.modules import Module
from graphc.frontend.parameters import Parameter
from graphc.ir.guard import guarded
from graphc.ir.loc import here
from graphc.ir.types import DType, f32, i32, i64

# -- tables -------------------------------------------------------------------------------------------------------


@guarded
def embedding(ids: Array, weight: Array, padding_idx: int | None = None) -> Array:
    """The rows of `weight` [V, D] at integer ids of any shape: [..., D].

    An id outside of [0, V) reads zeros and has no gradient. The row `padding_idx` gets no gradient either.
    Raises `DTypeError` where ids are no integers, `ShapeError` where `weight` is no matrix.

    >>> import graphc; from graphc.ir.interp import interpret
    >>> graph = graphc.trace(embedding, graphc.i32[3], graphc.f32[2, 2])
    >>> interpret(graph, [np.int32([1, 0, 7]), np.float32([[1, 2], [3, 4]])])
    [array([[3., 4.],
           [1., 2.],
           [0., 0.]], dtype=float32)]
    """
    call = Call("embedding")
    if not ids.dtype.is_integer:
        raise call.error(DTypeError, f"expected integer ids, got {ids.dtype.name}")
    if weight.ndim != 2:
        raise call.error(ShapeError, f"expected a weight [V, D], got {list(weight.shape)}")
    index = call.trace.lift(ids)
    if ids.dtype not in (i32, i64):
        index = call.cast(index, i32)
    rows = call.wrap(call.build.gather(call.trace.lift(weight), index, axis=0))
    if padding_idx is None:
        return rows
    padding = F.expand_dims(call.wrap(index) == padding_idx, -1)
    return F.where(padding, F.stop_gradient(rows), rows)


@dataclass(frozen=True)
class _Rows:
    """Rows of an initialiser, one of them zero: the padding's."""

    rows: Initializer
    zero: int | None

    def __call__(self, source: Source, shape: tuple[int, ...], /) -> Values:
        values = self.rows(source, shape)
        if self.zero is None:
            return values
        kept = np.arange(shape[0])[:, None] != self.zero
        return F.where(kept, values, 0.0) if isinstance(values, Array) else np.where(kept, values, 0.0)


class _Table(Module):
    weight: Array

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None,
        dtype: DType,
        weight_init: Initializer | None,
    ) -> None:
        what = f"{here().prefix}{type(self).__name__}"
        for name, size in (("num_embeddings", num_embeddings), ("embedding_dim", embedding_dim)):
            if not is_integer(size, least=1):
                raise ArgumentError(f"{what}: expected {name} of at least 1, got {size!r}")
        if padding_idx is not None:
            if not is_integer(padding_idx, least=-num_embeddings) or padding_idx >= num_embeddings:
                raise ArgumentError(
                    f"{what}: expected a padding_idx within {num_embeddings} rows, got {padding_idx!r}"
                )
            padding_idx %= num_embeddings
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx
        start = _Rows(weight_init or normal(), padding_idx)
        shape = (num_embeddings, embedding_dim)
        self.register_parameter("weight", Parameter(shape=shape, initializer=start, dtype=dtype))

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


class Embedding(_Table):
    """`embedding` with a trained `weight` [V, D], normal at first.

    The row `padding_idx` starts as zeros and is never trained. An id outside of the table reads zeros, where PyTorch
    raises an error. Raises `ArgumentError` for wrong sizes and, when called, `DTypeError` where ids are no integers.

    >>> Embedding(10, 3, padding_idx=0)
    Embedding(10, 3, padding_idx=0)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        dtype: DType = f32,
        weight_init: Initializer | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, dtype, weight_init)

    def forward(self, *inputs: Array) -> Array:
        (ids,) = inputs
        return embedding(ids, self.weight, self.padding_idx)


class EmbeddingBag(_Table):
    """The sum, mean or maximum of the rows at ids [N, L]: [N, D], without the rows at `padding_idx`.

    A bag of padding alone gives zeros. Ids are [N, L] as PyTorch's without offsets; with ``mode="sum"`` a second
    argument of that shape weighs the rows. Raises `ArgumentError` for another mode and, when called, `ShapeError`.

    >>> EmbeddingBag(10, 3, mode="sum")
    EmbeddingBag(10, 3, mode='sum')
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        mode: str = "mean",
        padding_idx: int | None = None,
        *,
        dtype: DType = f32,
        weight_init: Initializer | None = None,
    ) -> None:
        if mode not in ("sum", "mean", "max"):
            raise ArgumentError(f"{here().prefix}EmbeddingBag: expected mode of sum, mean, max, got {mode!r}")
        super().__init__(num_embeddings, embedding_dim, padding_idx, dtype, weight_init)
        self.mode = mode

    def forward(self, *inputs: Array) -> Array:
        ids, *weights = inputs
        if ids.ndim != 2:
            raise ShapeError(f"{here().prefix}EmbeddingBag: expected ids [N, L], got {list(ids.shape)}")
        rows = embedding(ids, self.weight, self.padding_idx)
        if weights and (self.mode != "sum" or weights[0].shape != ids.shape):
            raise ShapeError(
                f"{here().prefix}EmbeddingBag: expected weights {list(ids.shape)} with mode='sum', "
                f"got {list(weights[0].shape)} with mode={self.mode!r}"
            )
        if weights:
            rows = rows * F.expand_dims(weights[0], -1)
        if self.padding_idx is None:
            return {"sum": F.sum, "mean": F.mean, "max": F.max}[self.mode](rows, 1)
        kept = ids != self.padding_idx
        wide = F.expand_dims(kept, -1)
        if self.mode == "max":
            return F.where(F.any(wide, 1), F.max(F.where(wide, rows, -math.inf), 1), 0.0)
        total = F.sum(F.where(wide, rows, 0.0), 1)
        if self.mode == "sum":
            return total
        count = F.sum(F.astype(kept, total.dtype), 1)
        return total / F.expand_dims(F.maximum(count, 1.0), -1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, mode={self.mode!r}"


# -- positions ----------------------------------------------------------------------------------------------------


@guarded
def sinusoidal_encoding(length: int, features: int, base: float = 10000.0, dtype: DType = f32) -> Array:
    """[length, features]: column 2i is sin(t / base^(2i / features)), column 2i + 1 the cosine of the same.

    Vaswani et al., Attention Is All You Need, arXiv:1706.03762, 3.5. Raises `ShapeError` for an odd number of features.

    >>> import graphc; from graphc.ir.interp import interpret
    >>> interpret(graphc.trace(lambda: sinusoidal_encoding(2, 2)), [])[0].round(4)
    array([[0.    , 1.    ],
           [0.8415, 0.5403]], dtype=float32)
    """
    angles = _angles("sinusoidal_encoding", np.arange(length), features, base)
    table = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, features)
    return F.asarray(table.astype(dtype.numpy))


def _angles(what: str, positions: np.ndarray, features: int, base: float) -> np.ndarray:
    """[T, features / 2], in double precision: an angle of thousands of turns has no digits to lose."""
    if not is_integer(features, least=2) or features % 2:
        raise ShapeError(f"{here().prefix}{what}: expected an even number of features, got {features!r}")
    return positions[:, None] / base ** (np.arange(0, features, 2) / features)


@guarded
def rotary(x: Array, offset: int = 0, base: float = 10000.0, interleaved: bool = False) -> Array:
    """x [..., T, D] with pairs of features turned by their position times a frequency of the pair.

    The scalar product of two turned vectors depends on the distance of their positions alone. The first half of the
    features is paired with the second; `interleaved` pairs neighbours, as in the paper. `offset` is the first
    position. Su, Lu, Pan, Murtadha, Wen & Liu, RoFormer, arXiv:2104.09864. Raises `ShapeError` for an odd D.

    >>> import graphc; from graphc.ir.interp import interpret
    >>> interpret(graphc.trace(rotary, graphc.f32[2, 2]), [np.float32([[1, 0], [1, 0]])])[0].round(4)
    array([[1.    , 0.    ],
           [0.5403, 0.8415]], dtype=float32)
    """
    if x.ndim < 2:
        raise ShapeError(f"{here().prefix}rotary: expected [..., T, D], got {list(x.shape)}")
    length, features = x.shape[-2:]
    angles = _angles("rotary", np.arange(offset, offset + length), features, base)
    cosine, sine = (F.asarray(f(angles).astype(x.dtype.numpy)) for f in (np.cos, np.sin))
    if interleaved:
        pairs = F.reshape(x, (*x.shape[:-1], features // 2, 2))
        first, second = pairs[..., 0], pairs[..., 1]
    else:
        first, second = x[..., : features // 2], x[..., features // 2 :]
    turned = [first * cosine - second * sine, first * sine + second * cosine]
    return F.reshape(F.stack(turned, -1), x.shape) if interleaved else F.concat(turned, -1)


@guarded
def alibi_bias(heads: int, queries: int, keys: int | None = None, dtype: DType = f32) -> Array:
    """[heads, queries, keys]: -slope · |distance|, to add to the scores of attention; slopes fall from head to head.

    The last query stands at the last key. Press, Smith & Lewis, Train Short, Test Long, arXiv:2108.12409; slopes for a
    number of heads that is no power of two as in its code: those of the power below, then every second of the next.
    Raises `ArgumentError` for fewer than one head.

    >>> import graphc; from graphc.ir.interp import interpret
    >>> interpret(graphc.trace(lambda: alibi_bias(8, 1, 3)), [])[0][:2].tolist()
    [[[-1.0, -0.5, -0.0]], [[-0.5, -0.25, -0.0]]]
    """
    if not is_integer(heads, least=1):
        raise ArgumentError(f"{here().prefix}alibi_bias: expected heads of at least 1, got {heads!r}")
    keys = queries if keys is None else keys
    power = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    slopes += [2 ** (-4 * (2 * h + 1) / power) for h in range(heads - power)]
    query = F.expand_dims(F.arange(keys - queries, keys), 1)
    distance = F.astype(F.abs(query - F.arange(keys)), dtype)
    return F.asarray(np.array(slopes, dtype.numpy).reshape(heads, 1, 1)) * -distance


class PositionalEncoding(Module):
    """x [..., T, D] plus the `sinusoidal_encoding` of its positions, then dropout.

    Raises `ShapeError` where x has other features.

    >>> PositionalEncoding(8)
    PositionalEncoding(8, dropout=0.0)
    """

    def __init__(self, features: int, dropout: float = 0.0) -> None:
        check_probability("PositionalEncoding", dropout)
        if not is_integer(features, least=2) or features % 2:
            raise ArgumentError(
                f"{here().prefix}PositionalEncoding: expected an even number of features, got {features!r}"
            )
        self.features = features
        self.dropout = dropout

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        if x.ndim < 2 or x.shape[-1] != self.features:
            raise ShapeError(
                f"{here().prefix}PositionalEncoding: expected [..., T, {self.features}], got {list(x.shape)}"
            )
        y = x + sinusoidal_encoding(x.shape[-2], self.features, dtype=x.dtype)
        return dropout(y, self.next_key(), self.dropout) if self.training and self.dropout else y

    def extra_repr(self) -> str:
        return f"{self.features}, dropout={self.dropout}"


class LearnedPositions(Module):
    """x [..., T, D] plus the first T rows of a trained `weight` [max_length, D], normal with deviation 0.02 at first.

    Radford et al., Improving Language Understanding by Generative Pre-Training, 2018. Raises `ShapeError` for other
    features or a longer x.

    >>> LearnedPositions(16, 8).weight.shape
    (16, 8)
    """

    weight: Array

    def __init__(self, max_length: int, features: int, *, dtype: DType = f32) -> None:
        for name, size in (("max_length", max_length), ("features", features)):
            if not is_integer(size, least=1):
                raise ArgumentError(
                    f"{here().prefix}LearnedPositions: expected {name} of at least 1, got {size!r}"
                )
        self.max_length = max_length
        self.features = features
        entry = Parameter(shape=(max_length, features), initializer=normal(0.0, 0.02), dtype=dtype)
        self.register_parameter("weight", entry)

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        if x.ndim < 2 or x.shape[-1] != self.features or x.shape[-2] > self.max_length:
            raise ShapeError(
                f"{here().prefix}LearnedPositions: expected [..., at most {self.max_length}, {self.features}], "
                f"got {list(x.shape)}"
            )
        return x + self.weight[: x.shape[-2]]

    def extra_repr(self) -> str:
        return f"{self.max_length}, {self.features}"
