"""Activation functions as compositions of array functions, written so that every derivative comes out right.

In: traced arrays. Out: traced arrays. A choice is a `where` whose branches are smooth, so NaN stays NaN and
derivatives of any order hold at the seam as well.
"""

from __future__ import annotations

import math

from graphc.errors import ArgumentError, ShapeError
from graphc.frontend import functions as F
from graphc.frontend import random
from graphc.frontend.array import Array, ArrayLike
from graphc.frontend.checks import is_rate
from graphc.frontend.halves import in_f32
from graphc.ir.guard import guarded
from graphc.ir.loc import here


@guarded
def relu(x: Array) -> Array:
    """max(x, 0) with derivative 0 at 0; NaN stays NaN.

    >>> import graphc; from graphc.ir.interp import interpret; import numpy as np
    >>> interpret(graphc.trace(relu, graphc.f32[3]), [np.float32([-1, 0, 2])])
    [array([0., 0., 2.], dtype=float32)]
    """
    return F.where(x <= 0, 0.0, x)


@guarded
def leaky_relu(x: Array, negative_slope: float = 0.01) -> Array:
    """x above 0, `negative_slope` · x up to it; the derivative at 0 is the slope, as PyTorch's."""
    return F.where(x <= 0, x * negative_slope, x)


@guarded
def sigmoid(x: Array) -> Array:
    """The logistic function 1 / (1 + exp(-x))."""
    return F.sigmoid(x)


@guarded
def tanh(x: Array) -> Array:
    """The hyperbolic tangent."""
    return F.tanh(x)


@in_f32
def softplus(x: Array) -> Array:
    """log(1 + exp(x)), as max(x, 0) + log1p(exp(-|x|)), which neither overflows nor cancels.

    Both parts choose by the same x ≤ 0: on either side the sum is one smooth function, so the derivative is the
    logistic function everywhere (1/2 at 0), and the higher ones hold too.
    """
    negative = x <= 0
    return F.where(negative, 0.0, x) + F.log1p(F.exp(F.where(negative, x, -x)))


@in_f32
def gelu(x: Array, approximate: str = "none") -> Array:
    """x Φ(x) with the normal distribution function Φ, exact by erf, or by its tanh formula (``approximate="tanh"``).

    Hendrycks & Gimpel, Gaussian Error Linear Units, arXiv:1606.08415. Raises `ArgumentError` for any other name.
    """
    if approximate == "none":
        return 0.5 * x * (1.0 + F.erf(x * math.sqrt(0.5)))
    if approximate == "tanh":
        return 0.5 * x * (1.0 + F.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))
    raise ArgumentError(f"{here().prefix}gelu: expected approximate='none' or 'tanh', got {approximate!r}")


@guarded
def elu(x: Array, alpha: float = 1.0) -> Array:
    """x above 0, `alpha` (exp(x) - 1) up to it; exp never sees a positive number, so nothing overflows.

    Clevert, Unterthiner & Hochreiter, Fast and Accurate Deep Network Learning by Exponential Linear Units,
    arXiv:1511.07289.
    """
    negative = x <= 0
    return F.where(negative, alpha * F.expm1(F.where(negative, x, 0.0)), x)


@guarded
def selu(x: Array) -> Array:
    """λ elu(x, α) with the α and λ for which zero mean and unit variance are a fixed point.

    Klambauer, Unterthiner, Mayr & Hochreiter, Self-Normalizing Neural Networks, arXiv:1706.02515.
    """
    return 1.0507009873554805 * elu(x, 1.6732632423543772)


@guarded
def silu(x: Array) -> Array:
    """x σ(x), also called swish. Elfwing, Uchibe & Doya, arXiv:1702.03118."""
    return x * F.sigmoid(x)


@guarded
def mish(x: Array) -> Array:
    """x tanh(softplus(x)). Misra, arXiv:1908.08681."""
    return x * F.tanh(softplus(x))


@guarded
def hardtanh(x: Array, min_val: float = -1.0, max_val: float = 1.0) -> Array:
    """x within bounds; the derivative at a bound is 0, as PyTorch's. Raises `ArgumentError` for bounds out of order."""
    if not min_val < max_val:
        raise ArgumentError(
            f"{here().prefix}hardtanh: expected min_val < max_val, got {min_val!r} and {max_val!r}"
        )
    return F.where(x <= min_val, min_val, F.where(x >= max_val, max_val, x))


@guarded
def hardsigmoid(x: Array) -> Array:
    """x / 6 + 1/2 within [0, 1]; the derivative is 0 from ±3 on, as PyTorch's."""
    return F.where(x <= -3, 0.0, F.where(x >= 3, 1.0, x * (1 / 6) + 0.5))


@guarded
def hardswish(x: Array) -> Array:
    """x times `hardsigmoid` of x; the derivative is 0 up to -3 and 1 from 3 on. Howard et al., arXiv:1905.02244."""
    return F.where(x <= -3, 0.0, F.where(x >= 3, x, x * (x * (1 / 6) + 0.5)))


@guarded
def prelu(x: Array, weight: Array) -> Array:
    """x above 0, `weight` · x up to it; `weight` has one element or one for each channel, which is dimension 1.

    He, Zhang, Ren & Sun, Delving Deep into Rectifiers, ICCV 2015. Raises `ShapeError` for another number of channels.
    """
    count = weight.shape[0]
    if count > 1:
        channels = x.shape[1] if x.ndim > 1 else 1
        if channels != count:
            raise ShapeError(
                f"{here().prefix}prelu: expected {count} channels in dimension 1, got {list(x.shape)}"
            )
        weight = F.reshape(weight, (count, *[1] * (x.ndim - 2)))
    return F.where(x <= 0, weight * x, x)


@guarded
def dropout(x: Array, key: ArrayLike, p: float = 0.5) -> Array:
    """Each element 0 with probability `p`, else x / (1 - p), so that the mean stays; `key` as of `graphc.random`.

    Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov, Dropout, JMLR 15, 2014. Raises `ArgumentError` where
    `p` is not within [0, 1].
    """
    check_probability("dropout", p)
    if p in (0, 1):
        return x if p == 0 else F.zeros_like(x)
    return F.where(random.bernoulli(key, 1 - p, x.shape), x * (1 / (1 - p)), 0.0)


def check_probability(what: str, p: float) -> None:
    """Raises `ArgumentError` where `p` is no number within [0, 1]."""
    if not is_rate(p) or p > 1:
        raise ArgumentError(f"{here().prefix}{what}: p: expected a probability from 0 to 1, got {p!r}")


def shifted(x: Array, dim: int) -> Array:
    """x minus its maximum along a dimension, so that exp can't overflow; the shift cancels: no derivative through it."""
    return x - F.expand_dims(F.stop_gradient(F.max(x, axis=dim)), axis=dim)


@in_f32
def softmax(x: Array, dim: int = -1) -> Array:
    """exp(x) / Σ exp(x) along a dimension, with the maximum subtracted first."""
    powers = F.exp(shifted(x, dim))
    return powers / F.sum(powers, axis=dim, keepdims=True)


@in_f32
def log_softmax(x: Array, dim: int = -1) -> Array:
    """x - log Σ exp(x) along a dimension, with the maximum subtracted first."""
    shift = shifted(x, dim)
    return shift - F.log(F.sum(F.exp(shift), axis=dim, keepdims=True))
