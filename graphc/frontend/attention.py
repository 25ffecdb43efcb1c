"""Attention: softmax(q kᵀ / √d) v with masks, and the layer of several heads.

In: queries, keys and values [..., T, D], masks. Out: traced arrays. A row of which every key is masked gives zeros, not
NaN. The matrix of scores of long sequences is never in memory, forward and backward. Names, layouts and defaults are
PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.frontend import activations
from graphc.frontend import functions as F
from graphc.frontend.array import Array, ArrayLike
from graphc.frontend.checks import is_integer
from graphc.frontend.control import scan
from graphc.frontend.init import xavier_uniform, zeros
from graphc.frontend.layers import Linear
from graphc.frontend.module_inputs import Tensor
from graphc.frontend.modules import Module
from graphc.frontend.parameters import Parameter
from graphc.frontend.random import fold_in
from graphc.ir.guard import guarded
from graphc.ir.loc import here
from graphc.ir.types import DType, bool_, f32

# Up to so many scores (4 MiB of f32) attention is computed at once: faster, since the backward pass reads them again.
# Beyond, memory counts: it grows with the length instead of its square, for 1.0 times the time forward and 1.1 to 1.3
# times backward (8 heads of 64 features, 512 and 1024 positions, one core).
_MOST_SCORES = 2**20
_BLOCK = 64  # queries; blocks of 128 and 256 take the same time and more memory


@guarded
def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: ArrayLike | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    dropout_key: ArrayLike | None = None,
) -> Array:
    """softmax(scale · query keyᵀ + mask) value, of [..., L, E], [..., S, E] and [..., S, V]: [..., L, V].

    `attn_mask` broadcasts to [..., L, S]: where a bool one is False the key is not seen, a float one is added to the
    scores. `is_causal` hides keys behind a query's own position. A query that sees no key gives zeros. `scale` is
    1/√E by default; `enable_gqa` repeats the heads (dimension -3) of keys and values as often as the queries' need.
    With `dropout_p` weights are dropped by `dropout_key` (`graphc.random`).

    Vaswani et al., Attention Is All You Need, arXiv:1706.03762, 3.2.1. Raises `ShapeError` for shapes or masks that don't
    fit, `DTypeError` for an integer mask or anything but floats to attend to.

    >>> import graphc; from graphc import f32
    >>> graphc.trace(scaled_dot_product_attention, f32[2, 4, 3], f32[2, 5, 3], f32[2, 5, 6]).output_types
    (f32[2,4,6],)
    """
    what = f"{here().prefix}scaled_dot_product_attention"
    if enable_gqa:
        key, value = (_repeated_heads(what, query, x) for x in (key, value))
    shapes = (query.shape, key.shape, value.shape)
    if (
        min(map(len, shapes)) < 2
        or key.shape[:-1] != value.shape[:-1]
        or query.shape[:-2] != key.shape[:-2]
        or query.shape[-1] != key.shape[-1]
    ):
        raise ShapeError(
            f"{what}: expected queries [..., L, E], keys [..., S, E] and values [..., S, V], "
            f"got {', '.join(str(list(s)) for s in shapes)}"
        )
    for x in (query, key, value):
        if not x.dtype.is_float:
            raise DTypeError(f"{what}: expected float queries, keys and values, got {x.dtype.name}")
    masks = [] if attn_mask is None else [_fitting(what, F.asarray(attn_mask), query, key)]
    activations.check_probability("scaled_dot_product_attention", dropout_p)
    if dropout_p and dropout_key is None:
        raise ArgumentError(f"{what}: expected a dropout_key with dropout_p={dropout_p}, got none")
    return attend(query, key, value, masks, is_causal, scale, dropout_p, dropout_key)


def _repeated_heads(what: str, query: Array, x: Array) -> Array:
    heads, own = (a.shape[-3] if a.ndim > 2 else 0 for a in (query, x))
    if not own or heads % own:
        raise ShapeError(
            f"{what}: expected heads (dimension -3) that divide those of the queries, "
            f"got {list(query.shape)} and {list(x.shape)}"
        )
    return F.repeat(x, heads // own, axis=-3)


def _fitting(what: str, mask: Array, query: Array, key: Array) -> Array:
    """The mask, if it broadcasts to the scores."""
    scores = (*query.shape[:-1], key.shape[-2])
    if mask.dtype is not bool_ and not mask.dtype.is_float:
        raise DTypeError(f"{what}: expected a mask of bools or floats, got {mask.dtype.name}")
    padded = (1,) * (len(scores) - mask.ndim) + mask.shape
    if len(padded) != len(scores) or any(m not in (1, n) for m, n in zip(padded, scores, strict=True)):
        raise ShapeError(f"{what}: expected a mask that broadcasts to {list(scores)}, got {list(mask.shape)}")
    return F.reshape(mask, padded)


def attend(
    query: Array,
    key: Array,
    value: Array,
    masks: Sequence[Array],
    is_causal: bool = False,
    scale: float | None = None,
    dropout_p: float = 0.0,
    dropout_key: ArrayLike | None = None,
) -> Array:
    """What `scaled_dot_product_attention` gives, of arguments that fit; every mask has the rank of the scores."""
    if math.prod((*query.shape[:-1], key.shape[-2])) > _MOST_SCORES:
        return _by_blocks(query, key, value, masks, is_causal, scale, dropout_p, dropout_key)
    return _tile(query, key, value, masks, is_causal, scale, dropout_p, dropout_key)


def _tile(
    query: Array,
    key: Array,
    value: Array,
    masks: Sequence[Array],
    is_causal: bool,
    scale: float | None,
    dropout_p: float,
    dropout_key: ArrayLike | None,
    first: ArrayLike = 0,
) -> Array:
    """Attention of queries whose scores are all in memory; `first` is the first query's position."""
    weights, total = _weights(query, key, masks, is_causal, scale, first)
    if dropout_p and dropout_key is not None:
        weights = activations.dropout(weights, dropout_key, dropout_p)
    # divided after the contraction: [L, V] elements instead of [L, S]
    return F.matmul(weights, value) / F.expand_dims(total, -1)


def _by_blocks(
    query: Array,
    key: Array,
    value: Array,
    masks: Sequence[Array],
    is_causal: bool,
    scale: float | None,
    dropout_p: float,
    dropout_key: ArrayLike | None,
) -> Array:
    """The same in a loop over heads and one over blocks of queries: the scores of one block are in memory at a time.

    Steps keep their inputs alone; the backward loops compute the scores of a block again from these. That is the
    recomputation of Dao, Fu, Ermon, Rudra & Ré, FlashAttention, arXiv:2205.14135; keys are not cut, as a block's scores
    [block, S] fit in a cache.
    """
    *lead, length, _ = query.shape
    heads, blocks = math.prod(lead), -(-length // _BLOCK)
    block = -(-length // blocks)
    spare = blocks * block - length  # rows of nothing, so that all blocks are of one size

    def in_blocks(x: Array) -> Array:
        """[heads or nothing, L, D] in blocks of rows."""
        padded = F.pad(x, [*[(0, 0)] * (x.ndim - 2), (0, spare), (0, 0)])
        return F.reshape(padded, (*x.shape[:-2], blocks, block, x.shape[-1]))

    def flat(x: Array) -> Array:
        return F.reshape(x, (heads, *x.shape[-2:]))

    own, shared = [], []  # masks that differ between heads, and those that don't
    for mask in masks:
        rows = mask.shape[-2:]
        if math.prod(mask.shape[:-2]) == 1:
            shared.append(F.reshape(mask, rows))
        else:
            own.append(flat(F.broadcast_to(mask, (*lead, *rows))))

    def of_head(_: object, given: tuple[Array, Array, Array, Array, list[Array]]) -> tuple[object, Array]:
        number, queries, keys, values, mine = given
        of_rows = [in_blocks(m) for m in (*mine, *shared) if m.shape[-2] == length]
        of_keys = [m for m in (*mine, *shared) if m.shape[-2] != length]

        def of_block(_: object, given: tuple[Array, Array, list[Array]]) -> tuple[object, Array]:
            position, rows, mask_rows = given
            seed = None if dropout_key is None else fold_in(dropout_key, number * blocks + position)
            masks = [*mask_rows, *of_keys]
            first = position * block
            return None, _tile(rows, keys, values, masks, is_causal, scale, dropout_p, seed, first)

        y = scan(of_block, None, (F.arange(blocks), queries, of_rows), checkpoint=True)[1]
        return None, cast(Array, y)

    queries = in_blocks(flat(query))
    y = scan(of_head, None, (F.arange(heads), queries, flat(key), flat(value), own), checkpoint=True)[1]
    joined = F.reshape(cast(Array, y), (heads, blocks * block, value.shape[-1]))
    return F.reshape(joined[:, :length], (*lead, length, value.shape[-1]))


def attention_weights(
    query: Array, key: Array, masks: Sequence[Array], is_causal: bool = False, scale: float | None = None
) -> Array:
    """The softmax itself, [..., L, S]; rows that see no key are zeros."""
    weights, total = _weights(query, key, masks, is_causal, scale)
    return weights / F.expand_dims(total, -1)


def _weights(
    query: Array,
    key: Array,
    masks: Sequence[Array],
    is_causal: bool,
    scale: float | None,
    first: ArrayLike = 0,
) -> tuple[Array, Array]:
    """exp(scores - their maximum), and its sums, 1 where there is nothing to see; `first` is the first query's position."""
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = F.matmul(query * factor, F.matrix_transpose(key))
    if is_causal:
        rows = F.expand_dims(F.arange(query.shape[-2]) + first, -1)
        scores = F.where(rows >= F.arange(key.shape[-2]), scores, -math.inf)
    for mask in masks:
        scores = F.where(mask, scores, -math.inf) if mask.dtype is bool_ else scores + mask
    largest = F.stop_gradient(F.max(scores, -1))
    if masks:  # a row that sees nothing: exp(-inf - 0) = 0 instead of exp(-inf + inf) = NaN
        largest = F.where(F.isfinite(largest), largest, 0.0)
    powers = F.exp(scores - F.expand_dims(largest, -1))
    total = F.sum(powers, -1)
    return powers, F.where(total == 0, 1.0, total) if masks else total


class MultiheadAttention(Module):
    """Attention of several heads, whose inputs and joined outputs are projected.

    ``attention(query, key, value)`` of [L, N, E], [S, N, kdim] and [S, N, vdim] ([N, L, E] … with `batch_first`; N may
    lack) gives the pair of output [L, N, E] and, with ``need_weights=True``, the weights [N, L, S], the mean over the heads
    ([N, heads, L, S] with ``average_attn_weights=False``), else None. PyTorch's default gives weights; ours doesn't, as
    they cost memory. `key_padding_mask` is [N, S], `attn_mask` [L, S] or [N · heads, L, S]: as in PyTorch a bool that is
    True *hides* a key here, a float is added. `is_causal` hides keys behind the query's position, by itself. A query
    that sees no key gets zeros from the heads.

    Parameters are `in_proj_weight` [3E, E] and `in_proj_bias` (`q_proj_weight`, `k_proj_weight`, `v_proj_weight` where
    `kdim` or `vdim` differ) and `out_proj`. `dropout` is of the weights, in training. Vaswani et al., arXiv:1706.03762,
    3.2.2. Raises `ArgumentError` for wrong settings and, when called, `ShapeError` or `DTypeError`.

    >>> import numpy as np
    >>> x = np.zeros((5, 2, 8), np.float32)
    >>> output, weights = MultiheadAttention(8, 2)(x, x, x, need_weights=True)
    >>> output.shape, weights.shape
    ((5, 2, 8), (2, 5, 5))
    """

    in_proj_weight: Array | None
    in_proj_bias: Array | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        *,
        dtype: DType = f32,
    ) -> None:
        what = f"{here().prefix}MultiheadAttention"
        sizes = {"embed_dim": embed_dim, "num_heads": num_heads, "kdim": kdim or 1, "vdim": vdim or 1}
        for name, size in sizes.items():
            if not is_integer(size, least=1):
                raise ArgumentError(f"{what}: expected {name} of at least 1, got {size!r}")
        if embed_dim % num_heads:
            raise ArgumentError(
                f"{what}: expected embed_dim a multiple of {num_heads} heads, got {embed_dim}"
            )
        activations.check_probability("MultiheadAttention", dropout)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.kdim = kdim or embed_dim
        self.vdim = vdim or embed_dim
        self.batch_first = batch_first
        start = xavier_uniform()
        self.packed = self.kdim == self.vdim == embed_dim
        shapes = {"in_proj_weight": (3 * embed_dim, embed_dim)}
        if not self.packed:
            widths = {"q": embed_dim, "k": self.kdim, "v": self.vdim}
            shapes = {f"{part}_proj_weight": (embed_dim, width) for part, width in widths.items()}
            self.in_proj_weight = None
        for name, shape in shapes.items():
            self.register_parameter(name, Parameter(shape=shape, initializer=start, dtype=dtype))
        if bias:
            entry = Parameter(shape=(3 * embed_dim,), initializer=zeros(), dtype=dtype)
            self.register_parameter("in_proj_bias", entry)
        else:
            self.in_proj_bias = None
        self.out_proj = Linear(embed_dim, embed_dim, bias, dtype=dtype, bias_init=zeros())

    def __call__(  # type: ignore[override]
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Array, Array | None]:
        inputs = (
            query,
            key,
            value,
            key_padding_mask,
            need_weights,
            attn_mask,
            average_attn_weights,
            is_causal,
        )
        return cast("tuple[Array, Array | None]", super().__call__(*inputs))

    def forward(  # type: ignore[override]
        self,
        query: Array,
        key: Array,
        value: Array,
        key_padding_mask: Array | None = None,
        need_weights: bool = False,
        attn_mask: Array | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Array, Array | None]:
        single = query.ndim == 2
        self._check(query, key, value)
        q, k, v = (self._heads(x, single) for x in self._projections(query, key, value))
        masks = self._masks(q, k, key_padding_mask, attn_mask)
        drop = self.training and self.dropout > 0
        weights = attention_weights(q, k, masks, is_causal) if need_weights else None
        if weights is None:
            y = attend(
                q, k, v, masks, is_causal, None, self.dropout * drop, self.next_key() if drop else None
            )
        else:
            if drop:
                weights = activations.dropout(weights, self.next_key(), self.dropout)
            y = F.matmul(weights, v)
            weights = F.mean(weights, 1) if average_attn_weights else weights
        joined = F.reshape(F.swapaxes(y, 1, 2), (y.shape[0], y.shape[2], self.embed_dim))
        output = self.out_proj(joined)
        if single:
            return F.squeeze(output, 0), None if weights is None else F.squeeze(weights, 0)
        return (output if self.batch_first else F.swapaxes(output, 0, 1)), weights

    def _check(self, query: Array, key: Array, value: Array) -> None:
        given = (query.shape, key.shape, value.shape)
        rank, batch = query.ndim, 0 if self.batch_first else 1
        widths = (self.embed_dim, self.kdim, self.vdim)
        if (
            rank not in (2, 3)
            or {len(s) for s in given} != {rank}
            or tuple(s[-1] for s in given) != widths
            or key.shape[:-1] != value.shape[:-1]
            or (rank == 3 and query.shape[batch] != key.shape[batch])
        ):
            order = "N, {}" if self.batch_first else "{}, N"
            forms = [
                f"[{order.format(length)}, {width}]" for length, width in zip("LSS", widths, strict=True)
            ]
            raise ShapeError(
                f"{here().prefix}MultiheadAttention: expected {', '.join(forms)} (or all without N), "
                f"got {', '.join(str(list(s)) for s in given)}"
            )

    def _projections(self, query: Array, key: Array, value: Array) -> list[Array]:
        size = self.embed_dim
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if weight is not None and query is key and key is value:  # one contraction for all three
            y = F.matmul(query, weight.T)
            return F.split(y if bias is None else y + bias, 3, axis=-1)
        projected = []
        for number, (x, part) in enumerate(zip((query, key, value), "qkv", strict=True)):
            rows = slice(number * size, (number + 1) * size)
            own = weight[rows] if weight is not None else cast(Array, getattr(self, f"{part}_proj_weight"))
            y = F.matmul(x, own.T)
            projected.append(y if bias is None else y + bias[rows])
        return projected

    def _heads(self, x: Array, single: bool) -> Array:
        """[N, heads, T, D] of the layout of the input."""
        if single:
            x = F.expand_dims(x, 0)
        elif not self.batch_first:
            x = F.swapaxes(x, 0, 1)
        split = F.reshape(x, (*x.shape[:2], self.num_heads, self.embed_dim // self.num_heads))
        return F.swapaxes(split, 1, 2)

    def _masks(self, q: Array, k: Array, padding: Array | None, mask: Array | None) -> list[Array]:
        """Both masks as [N or 1, heads or 1, L or 1, S], of bools that are True where a key is seen, or floats."""
        what = f"{here().prefix}MultiheadAttention"
        (batch, heads, length, _), source = q.shape, k.shape[-2]
        found = []
        if padding is not None:
            padding = F.asarray(padding)
            if padding.shape not in ((batch, source), *([(source,)] if batch == 1 else [])):
                raise ShapeError(
                    f"{what}: expected a key_padding_mask [{batch}, {source}], got {list(padding.shape)}"
                )
            found.append(F.reshape(padding, (batch, 1, 1, source)))
        if mask is not None:
            mask = F.asarray(mask)
            if mask.shape == (length, source):
                mask = F.reshape(mask, (1, 1, length, source))
            elif mask.shape == (batch * heads, length, source):
                mask = F.reshape(mask, (batch, heads, length, source))
            else:
                raise ShapeError(
                    f"{what}: expected an attn_mask [{length}, {source}] or [{batch * heads}, {length}, {source}], "
                    f"got {list(mask.shape)}"
                )
            found.append(mask)
        for m in found:
            if m.dtype is not bool_ and not m.dtype.is_float:
                raise DTypeError(f"{what}: expected a mask of bools or floats, got {m.dtype.name}")
        return [F.logical_not(m) if m.dtype is bool_ else m for m in found]

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}"
