"""Layers of the transformer: attention and a feed-forward part with norms and residuals, and stacks of them.

In: sizes and settings. Out: modules with PyTorch's names, so that its weight files fit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np

from graphc.errors import ArgumentError
from graphc.frontend import activations
from graphc.frontend.array import Array
from graphc.frontend.attention import MultiheadAttention
from graphc.frontend.checks import is_integer
from graphc.frontend.init import xavier_uniform
from graphc.frontend.layers import Dropout, Linear
from graphc.frontend.modules import Module
from graphc.frontend.normalization import LayerNorm
from graphc.ir.loc import here
from graphc.ir.types import DType, f32

Activation = str | Callable[[Array], Array]
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": activations.relu, "gelu": activations.gelu}


class _Layer(Module):
    """What the layers of encoders and decoders share: the feed-forward part, and where norms stand."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int,
        dropout: float,
        activation: Activation,
        layer_norm_eps: float,
        batch_first: bool,
        norm_first: bool,
        bias: bool,
        dtype: DType,
    ) -> None:
        if not callable(activation) and activation not in _ACTIVATIONS:
            raise ArgumentError(
                f"{here().prefix}{type(self).__name__}: expected activation of relu, gelu or a function, "
                f"got {activation!r}"
            )
        self.norm_first = norm_first
        self.activation = activation
        self.self_attn = MultiheadAttention(
            d_model, nhead, dropout, bias, batch_first=batch_first, dtype=dtype
        )
        self.linear1 = Linear(d_model, dim_feedforward, bias, dtype=dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, dtype=dtype)
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)

    def _feed_forward(self, x: Array) -> Array:
        activation = self.activation
        function = _ACTIVATIONS[activation] if isinstance(activation, str) else activation
        return self.linear2(self.dropout(function(self.linear1(x))))

    def _with(self, x: Array, norm: Module, change: Callable[[Array], Array]) -> Array:
        """x plus a change of it, normalised before the change or after the sum."""
        return x + change(norm(x)) if self.norm_first else norm(x + change(x))


class TransformerEncoderLayer(_Layer):
    """Self-attention, then a feed-forward part, each with a residual and a layer norm.

    ``layer(src, src_mask, src_key_padding_mask, is_causal)`` of [T, N, d_model] ([N, T, d_model] with `batch_first`);
    masks are those of `MultiheadAttention`. `norm_first` normalises what goes into a part instead of the sum after it;
    `activation` is relu, gelu or a function. Vaswani et al., arXiv:1706.03762. Raises as `MultiheadAttention`.

    >>> import numpy as np
    >>> TransformerEncoderLayer(8, 2, 16)(np.zeros((5, 3, 8), np.float32), is_causal=True).shape
    (5, 3, 8)
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        dtype: DType = f32,
    ) -> None:
        super().__init__(
            d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias,
            dtype,
        )  # fmt: skip

    def forward(  # type: ignore[override]
        self,
        src: Array,
        src_mask: Array | None = None,
        src_key_padding_mask: Array | None = None,
        is_causal: bool = False,
    ) -> Array:
        def attention(x: Array) -> Array:
            y, _ = self.self_attn(x, x, x, src_key_padding_mask, attn_mask=src_mask, is_causal=is_causal)
            return self.dropout1(y)

        x = self._with(src, self.norm1, attention)
        return self._with(x, self.norm2, lambda x: self.dropout2(self._feed_forward(x)))


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to an encoder's output, then a feed-forward part; each with residual and norm.

    ``layer(tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask, tgt_is_causal,
    memory_is_causal)``; else as `TransformerEncoderLayer`.

    >>> import numpy as np
    >>> x, memory = np.zeros((5, 3, 8), np.float32), np.zeros((7, 3, 8), np.float32)
    >>> TransformerDecoderLayer(8, 2, 16)(x, memory, tgt_is_causal=True).shape
    (5, 3, 8)
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        dtype: DType = f32,
    ) -> None:
        super().__init__(
            d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias,
            dtype,
        )  # fmt: skip
        self.multihead_attn = MultiheadAttention(
            d_model, nhead, dropout, bias, batch_first=batch_first, dtype=dtype
        )
        self.norm3 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.dropout3 = Dropout(dropout)

    def forward(  # type: ignore[override]
        self,
        tgt: Array,
        memory: Array,
        tgt_mask: Array | None = None,
        memory_mask: Array | None = None,
        tgt_key_padding_mask: Array | None = None,
        memory_key_padding_mask: Array | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Array:
        def itself(x: Array) -> Array:
            y, _ = self.self_attn(x, x, x, tgt_key_padding_mask, attn_mask=tgt_mask, is_causal=tgt_is_causal)
            return self.dropout1(y)

        def others(x: Array) -> Array:
            y, _ = self.multihead_attn(
                x, memory, memory, memory_key_padding_mask, attn_mask=memory_mask, is_causal=memory_is_causal
            )
            return self.dropout2(y)

        x = self._with(tgt, self.norm1, itself)
        x = self._with(x, self.norm2, others)
        return self._with(x, self.norm3, lambda x: self.dropout3(self._feed_forward(x)))


def _copies(stack: Module, layer: Module, count: int) -> list[Module]:
    """Layers like this one; those that have no values yet draw their own."""
    if not is_integer(count, least=1):
        raise ArgumentError(
            f"{here().prefix}{type(stack).__name__}: expected num_layers of at least 1, got {count!r}"
        )
    return [copy.deepcopy(layer, {id(layer._owner): None}) for _ in range(count)]


class TransformerEncoder(Module):
    """`num_layers` layers like the given one, and a norm after the last if there is one.

    ``encoder(src, mask, src_key_padding_mask, is_causal)``. Each layer draws values of its own, unless the given one
    already has some: then, as in PyTorch, all start with those. Raises `ArgumentError` for less than one layer.

    >>> encoder = TransformerEncoder(TransformerEncoderLayer(8, 2, 16), num_layers=2)
    >>> encoder.layers[1].linear1.weight.shape
    (16, 8)
    """

    norm: Module | None

    def __init__(
        self, encoder_layer: TransformerEncoderLayer, num_layers: int, norm: Module | None = None
    ) -> None:
        self.layers = _copies(self, encoder_layer, num_layers)
        self.norm = norm

    def forward(  # type: ignore[override]
        self,
        src: Array,
        mask: Array | None = None,
        src_key_padding_mask: Array | None = None,
        is_causal: bool = False,
    ) -> Array:
        x = src
        for layer in self.layers:
            x = layer(x, mask, src_key_padding_mask, is_causal)
        return x if self.norm is None else self.norm(x)


class TransformerDecoder(Module):
    """`num_layers` layers like the given one, and a norm after the last if there is one.

    Arguments of a call are those of `TransformerDecoderLayer`; else as `TransformerEncoder`.

    >>> len(TransformerDecoder(TransformerDecoderLayer(8, 2, 16), num_layers=3).layers)
    3
    """

    norm: Module | None

    def __init__(
        self, decoder_layer: TransformerDecoderLayer, num_layers: int, norm: Module | None = None
    ) -> None:
        self.layers = _copies(self, decoder_layer, num_layers)
        self.norm = norm

    def forward(  # type: ignore[override]
        self,
        tgt: Array,
        memory: Array,
        tgt_mask: Array | None = None,
        memory_mask: Array | None = None,
        tgt_key_padding_mask: Array | None = None,
        memory_key_padding_mask: Array | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Array:
        x = tgt
        for layer in self.layers:
            x = layer(
                x, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask, tgt_is_causal,
                memory_is_causal,
            )  # fmt: skip
        return x if self.norm is None else self.norm(x)


class Transformer(Module):
    """An encoder and a decoder with their last norms: ``transformer(src, tgt)``; matrices start by Xavier's rule.

    Further arguments of a call, as PyTorch's: src_mask, tgt_mask, memory_mask, src_key_padding_mask,
    tgt_key_padding_mask, memory_key_padding_mask, src_is_causal, tgt_is_causal, memory_is_causal. Vaswani et al.,
    arXiv:1706.03762. Raises as `MultiheadAttention`.

    >>> import numpy as np
    >>> model = Transformer(8, 2, num_encoder_layers=1, num_decoder_layers=1, dim_feedforward=16)
    >>> model(np.zeros((7, 3, 8), np.float32), np.zeros((5, 3, 8), np.float32), tgt_is_causal=True).shape
    (5, 3, 8)
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        dtype: DType = f32,
    ) -> None:
        given = (
            d_model,
            nhead,
            dim_feedforward,
            dropout,
            activation,
            layer_norm_eps,
            batch_first,
            norm_first,
            bias,
        )

        def norm() -> LayerNorm:
            return LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)

        encoder, decoder = (
            TransformerEncoderLayer(*given, dtype=dtype),
            TransformerDecoderLayer(*given, dtype=dtype),
        )
        self.encoder = TransformerEncoder(encoder, num_encoder_layers, norm())
        self.decoder = TransformerDecoder(decoder, num_decoder_layers, norm())
        for entry in self.entries.values():
            if entry.type.rank > 1:
                entry.initializer = xavier_uniform()

    def forward(  # type: ignore[override]
        self,
        src: Array,
        tgt: Array,
        src_mask: Array | None = None,
        tgt_mask: Array | None = None,
        memory_mask: Array | None = None,
        src_key_padding_mask: Array | None = None,
        tgt_key_padding_mask: Array | None = None,
        memory_key_padding_mask: Array | None = None,
        src_is_causal: bool = False,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Array:
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        return self.decoder(
            tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask, tgt_is_causal,
            memory_is_causal,
        )  # fmt: skip

    @staticmethod
    def generate_square_subsequent_mask(sz: int) -> np.ndarray:
        """The causal mask [sz, sz] to add to scores: 0 up to the diagonal, -inf above; `is_causal` needs none.

        >>> Transformer.generate_square_subsequent_mask(2)
        array([[  0., -inf],
               [  0.,   0.]], dtype=float32)
        """
        return np.triu(np.full((sz, sz), -math.inf, np.float32), 1)
