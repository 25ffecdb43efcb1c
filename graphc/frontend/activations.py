"""Activation functions as compositions of array functions, written so that every derivative comes out right.

In: traced arrays. Out: traced arrays. A choice is a `where` whose branches are smooth, so NaN stays NaN and
derivatives of any order hold at the seam as well.
"""

from __future__ import annotations

import math

from graphc.errors import ArgumentError
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.ir.loc import here


def relu(x: Array) -> Array:
    """max(x, 0) with derivative 0 at 0; NaN stays NaN.

    >>> import graphc; from graphc.ir.interp import interpret; import numpy as np
    >>> interpret(graphc.trace(relu, graphc.f32[3]), [np.float32([-1, 0, 2])])
    [array([0., 0., 2.], dtype=float32)]
    """
    return F.where(x <= 0, 0.0, x)


def leaky_relu(x: Array, negative_slope: float = 0.01) -> Array:
    """x above 0, `negative_slope` · x up to it; the derivative at 0 is the slope, as PyTorch's."""
    return F.where(x <= 0, x * negative_slope, x)


def sigmoid(x: Array) -> Array:
    """The logistic function 1 / (1 + exp(-x))."""
    return F.sigmoid(x)


def tanh(x: Array) -> Array:
    """The hyperbolic tangent."""
    return F.tanh(x)


def softplus(x: Array) -> Array:
    """log(1 + exp(x)), as max(x, 0) + log1p(exp(-|x|)), which neither overflows nor cancels.

    Both parts choose by the same x ≤ 0: on either side the sum is one smooth function, so the derivative is the
    logistic function everywhere (1/2 at 0), and the higher ones hold too.
    """
    negative = x <= 0
    return F.where(negative, 0.0, x) + F.log1p(F.exp(F.where(negative, x, -x)))


def gelu(x: Array, approximate: str = "none") -> Array:
    """x Φ(x) with the normal distribution function Φ, exact by erf, or by its tanh formula (``approximate="tanh"``).

    Hendrycks & Gimpel, Gaussian Error Linear Units, arXiv:1606.08415. Raises `ArgumentError` for any other name.
    """
    if approximate == "none":
        return 0.5 * x * (1.0 + F.erf(x * math.sqrt(0.5)))
    if approximate == "tanh":
        return 0.5 * x * (1.0 + F.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))
    raise ArgumentError(f"{here().prefix}gelu: expected approximate='none' or 'tanh', got {approximate!r}")


def shifted(x: Array, dim: int) -> Array:
    """x minus its maximum along a dimension, so that exp can't overflow; the shift cancels: no derivative through it."""
    return x - F.expand_dims(F.stop_gradient(F.max(x, axis=dim)), axis=dim)


def softmax(x: Array, dim: int = -1) -> Array:
    """exp(x) / Σ exp(x) along a dimension, with the maximum subtracted first."""
    powers = F.exp(shifted(x, dim))
    return powers / F.sum(powers, axis=dim, keepdims=True)


def log_softmax(x: Array, dim: int = -1) -> Array:
    """x - log Σ exp(x) along a dimension, with the maximum subtracted first."""
    shift = shifted(x, dim)
    return shift - F.log(F.sum(F.exp(shift), axis=dim, keepdims=True))
