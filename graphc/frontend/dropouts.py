"""Dropout of whole channels, and dropout that keeps the fixed point of SELU.

In: traced arrays and a key. Out: traced arrays. In training alone, as `layers.Dropout`.
"""

from __future__ import annotations

import math

from graphc.errors import ShapeError
from graphc.frontend import functions as F
from graphc.frontend import random
from graphc.frontend.activations import check_probability
from graphc.frontend.array import Array, ArrayLike
from graphc.frontend.layers import Dropout
from graphc.ir.guard import guarded
from graphc.ir.loc import here

# what SELU gives far below 0: -λα of arXiv:1706.02515
_SATURATED = -1.7580993408473766


@guarded
def channel_dropout(x: Array, key: ArrayLike, p: float = 0.5) -> Array:
    """Whole channels (of x [N, C, ...], dimensions 0 and 1) 0 with probability `p`, else divided by 1 - p.

    Tompson, Goroshin, Jain, LeCun & Bregler, Efficient Object Localization Using Convolutional Networks,
    arXiv:1411.4280. Raises `ArgumentError` where `p` is not within [0, 1], `ShapeError` where there are no channels.

    >>> import graphc; from graphc import f32, u32
    >>> graphc.trace(channel_dropout, f32[2, 3, 4], u32[2]).output_types
    (f32[2,3,4],)
    """
    check_probability("channel_dropout", p)
    if x.ndim < 2:
        raise ShapeError(f"{here().prefix}channel_dropout: expected [N, C, ...], got {list(x.shape)}")
    if p in (0, 1):
        return x if p == 0 else F.zeros_like(x)
    kept = random.bernoulli(key, 1 - p, x.shape[:2])
    return F.where(F.reshape(kept, (*x.shape[:2], *(1 for _ in x.shape[2:]))), x * (1 / (1 - p)), 0.0)


@guarded
def alpha_dropout(x: Array, key: ArrayLike, p: float = 0.5) -> Array:
    """Each element at SELU's lower limit with probability `p`, then scaled so that mean 0 and variance 1 stay.

    Klambauer, Unterthiner, Mayr & Hochreiter, arXiv:1706.02515, section 3. Raises `ArgumentError` where `p` is not
    within [0, 1].

    >>> import graphc; from graphc import f32, u32
    >>> graphc.trace(alpha_dropout, f32[2, 3], u32[2]).output_types
    (f32[2,3],)
    """
    check_probability("alpha_dropout", p)
    if p in (0, 1):
        return x if p == 0 else F.zeros_like(x)
    scale = 1 / math.sqrt((1 - p) * (1 + p * _SATURATED**2))
    shift = -scale * p * _SATURATED
    return F.where(random.bernoulli(key, 1 - p, x.shape), x, _SATURATED) * scale + shift


class Dropout1d(Dropout):
    """`channel_dropout` of [N, C, L] or [C, L] in training.

    >>> Dropout1d(0.2)
    Dropout1d(p=0.2)
    """

    rank = 3

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        if x.ndim not in (self.rank, self.rank - 1):
            raise ShapeError(
                f"{here().prefix}{type(self).__name__}: expected {self.rank} dimensions or {self.rank - 1} without "
                f"the batch's, got {list(x.shape)}"
            )
        if not (self.training and self.p):
            return x
        single = x.ndim < self.rank
        y = channel_dropout(F.expand_dims(x, 0) if single else x, self.next_key(), self.p)
        return F.squeeze(y, 0) if single else y


class Dropout2d(Dropout1d):
    """`channel_dropout` of [N, C, H, W] or [C, H, W] in training.

    >>> Dropout2d()
    Dropout2d(p=0.5)
    """

    rank = 4


class Dropout3d(Dropout1d):
    """`channel_dropout` of [N, C, D, H, W] or [C, D, H, W] in training.

    >>> Dropout3d()
    Dropout3d(p=0.5)
    """

    rank = 5


class AlphaDropout(Dropout):
    """`alpha_dropout` in training: the dropout that goes with SELU.

    >>> AlphaDropout(0.1)
    AlphaDropout(p=0.1)
    """

    def forward(self, *inputs: Array) -> Array:
        (x,) = inputs
        return alpha_dropout(x, self.next_key(), self.p) if self.training and self.p else x
