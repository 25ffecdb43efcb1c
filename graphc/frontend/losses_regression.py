"""Losses of numbers: how far predictions are from targets that are no classes.

In: traced predictions and targets of one shape. Out: a traced scalar, or one value an element with ``reduction="none"``.
Definitions and argument names are PyTorch's.
"""

from __future__ import annotations

import math

import numpy as np  # noqa: F401  # for doctests

from graphc.errors import ArgumentError
from graphc.frontend import functions as F
from graphc.frontend.activations import relu, softplus
from graphc.frontend.array import Array
from graphc.frontend.checks import is_rate
from graphc.frontend.losses import _as_float, _reduced, _same_shape
from graphc.ir.guard import guarded
from graphc.ir.loc import here


@guarded
def l1(prediction: Array, target: Array, reduction: str = "mean") -> Array:
    """The absolute error |prediction - target|, its mean over all elements by default; its derivative at 0 is 0.

    Raises `ShapeError` where the shapes differ.

    >>> import graphc; from graphc.ir.interp import interpret
    >>> interpret(graphc.trace(l1, graphc.f32[2], graphc.f32[2]), [np.float32([1, 2]), np.float32([1, 4])])
    [array(1., dtype=float32)]
    """
    return _reduced("l1", F.abs(_difference("l1", prediction, target)), reduction)


@guarded
def huber(prediction: Array, target: Array, reduction: str = "mean", delta: float = 1.0) -> Array:
    """½ d² for |d| < delta, else delta (|d| - ½ delta): as the square near 0, straight beyond it.

    Huber, Robust Estimation of a Location Parameter, 1964. Raises `ArgumentError` for a delta that is not above 0,
    `ShapeError` where the shapes differ.
    """
    _check("huber", delta=delta, above=True)
    error = _difference("huber", prediction, target)
    size = F.abs(error)
    return _reduced(
        "huber", F.where(size < delta, 0.5 * (error * error), delta * (size - 0.5 * delta)), reduction
    )


@guarded
def smooth_l1(prediction: Array, target: Array, reduction: str = "mean", beta: float = 1.0) -> Array:
    """½ d² / beta for |d| < beta, else |d| - ½ beta; for beta = 0 it is `l1`.

    Girshick, Fast R-CNN, ICCV 2015. Raises `ArgumentError` for a negative beta, `ShapeError` where the shapes differ.
    """
    _check("smooth_l1", beta=beta)
    error = _difference("smooth_l1", prediction, target)
    size = F.abs(error)
    values = F.where(size < beta, error * error * (0.5 / beta), size - 0.5 * beta) if beta else size
    return _reduced("smooth_l1", values, reduction)


@guarded
def log_cosh(prediction: Array, target: Array, reduction: str = "mean") -> Array:
    """log cosh d as d + softplus(-2 d) - log 2, which does not overflow: nearly ½ d² at 0, |d| - log 2 far away."""
    error = _difference("log_cosh", prediction, target)
    return _reduced("log_cosh", error + softplus(-2.0 * error) - math.log(2), reduction)


@guarded
def poisson_nll(
    prediction: Array,
    target: Array,
    reduction: str = "mean",
    *,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
) -> Array:
    """exp(x) - t x for x the logarithm of the rate of a Poisson distribution, else x - t log(x + eps).

    `full` adds Stirling's approximation of log t!, t log t - t + ½ log(2 π t), for targets above 1.
    """
    wanted = _target("poisson_nll", prediction, target)
    if log_input:
        values = F.exp(prediction) - wanted * prediction
    else:
        values = prediction - wanted * F.log(prediction + eps)
    if full:
        large = wanted > 1
        safe = F.where(large, wanted, 1.0)
        stirling = safe * F.log(safe) - safe + 0.5 * F.log(2 * math.pi * safe)
        values = values + F.where(large, stirling, 0.0)
    return _reduced("poisson_nll", values, reduction)


@guarded
def gaussian_nll(
    prediction: Array,
    target: Array,
    var: Array,
    reduction: str = "mean",
    *,
    full: bool = False,
    eps: float = 1e-6,
) -> Array:
    """½ (log v + d² / v) with v = max(var, eps), for a normal distribution of this mean and variance.

    `var` broadcasts to the prediction. Where it is below `eps` its derivative is that at eps, as in PyTorch, so that it can
    grow again. `full` adds ½ log 2 π. Nix & Weigend, Estimating the Mean and Variance of the Target Probability
    Distribution, 1994.
    """
    _check("gaussian_nll", eps=eps, above=True)
    error = _difference("gaussian_nll", prediction, target)
    variance = var + F.stop_gradient(F.maximum(var, eps) - var)
    values = 0.5 * (F.log(variance) + error * error / variance)
    return _reduced("gaussian_nll", values + 0.5 * math.log(2 * math.pi) if full else values, reduction)


@guarded
def hinge(prediction: Array, target: Array, reduction: str = "mean", margin: float = 1.0) -> Array:
    """max(0, margin - t x) for targets t of -1 and 1.

    Cortes & Vapnik, Support-Vector Networks, 1995. Raises `ShapeError` where the shapes differ.
    """
    wanted = _target("hinge", prediction, target)
    return _reduced("hinge", relu(margin - wanted * prediction), reduction)


@guarded
def hinge_embedding(distance: Array, target: Array, reduction: str = "mean", margin: float = 1.0) -> Array:
    """The distance for pairs of target 1, max(0, margin - distance) for those of target -1."""
    wanted = _target("hinge_embedding", distance, target)
    return _reduced("hinge_embedding", F.where(wanted == 1, distance, relu(margin - distance)), reduction)


def _target(name: str, prediction: Array, target: Array) -> Array:
    _same_shape(name, prediction, target)
    return _as_float(target, prediction)


def _difference(name: str, prediction: Array, target: Array) -> Array:
    return prediction - _target(name, prediction, target)


def _check(name: str, *, above: bool = False, **settings: float) -> None:
    for setting, value in settings.items():
        if not is_rate(value) or (above and not value > 0):
            wanted = "above 0" if above else "of at least 0"
            raise ArgumentError(
                f"{here().prefix}{name}: {setting}: expected a finite number {wanted}, got {value!r}"
            )
