"""Losses of classes and probabilities, besides cross-entropy.

In: traced logits, probabilities or their logarithms, and targets. Out: a traced scalar, or one value a row or element
with ``reduction="none"``. Definitions and argument names are PyTorch's; classes are in the last dimension.
"""

from __future__ import annotations

import numpy as np

from graphc.errors import ArgumentError
from graphc.frontend import functions as F
from graphc.frontend.activations import relu, shifted
from graphc.frontend.array import Array, ArrayLike
from graphc.frontend.checks import is_rate
from graphc.frontend.losses import (
    _as_float,
    _classes_last,
    _is_label,
    _reduced,
    _same_shape,
    binary_cross_entropy_with_logits,
    check_target,
    class_weights,
    label_loss,
)
from graphc.ir.guard import guarded
from graphc.ir.loc import here


@guarded
def nll(
    log_probabilities: Array,
    target: Array,
    reduction: str = "mean",
    *,
    weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    axis: int = -1,
) -> Array:
    """-log p of the labels, from logarithms of probabilities [..., C]; `cross_entropy` is this of a log-softmax.

    `weight` [C], `ignore_index` and `axis` are as in `cross_entropy`. A label outside of [0, C) picks 0: `graphc.fit`
    checks labels before it trains. Raises `ShapeError` or `DTypeError` unless the target holds labels.

    >>> import graphc; from graphc.ir.interp import interpret
    >>> graph = graphc.trace(nll, graphc.f32[1, 2], graphc.i32[1])
    >>> interpret(graph, [np.float32([[-3, -1]]), np.int32([0])])
    [array(3., dtype=float32)]
    """
    what = f"{here().prefix}nll"
    values = _classes_last(what, log_probabilities, axis)
    check_target(what, values, target, ignore_index)
    is_label = _is_label(target, values.shape[-1])
    rows = -F.sum(F.where(is_label, values, 0.0), axis=-1)
    weights = None if weight is None else class_weights(what, weight, values)
    return label_loss("nll", rows, target, is_label, weights, ignore_index, reduction)


@guarded
def kl_div(
    log_probabilities: Array, target: Array, reduction: str = "mean", *, log_target: bool = False
) -> Array:
    """t (log t - x) for x the logarithm of a probability: the Kullback-Leibler divergence once summed.

    Where t is 0 it is 0. With `log_target` the target is a logarithm, too. Beside the usual reductions "batchmean" divides
    the sum by the rows, as the mathematics does. Kullback & Leibler, On Information and Sufficiency, 1951.
    """
    _same_shape("kl_div", log_probabilities, target)
    if log_target:
        values = F.exp(target) * (target - log_probabilities)
    else:
        positive = target > 0
        entropy = F.where(positive, target * F.log(F.where(positive, target, 1.0)), 0.0)
        values = entropy - target * log_probabilities
    if reduction == "batchmean":
        return F.sum(values) / log_probabilities.shape[0]
    return _reduced("kl_div", values, reduction)


@guarded
def binary_cross_entropy(probabilities: Array, target: Array, reduction: str = "mean") -> Array:
    """-t log p - (1 - t) log(1 - p), with logarithms of at least -100 as in PyTorch.

    From logits, `binary_cross_entropy_with_logits` is exact. Raises `ShapeError` where the shapes differ.
    """
    _same_shape("binary_cross_entropy", probabilities, target)
    wanted = _as_float(target, probabilities)
    values = wanted * _log(probabilities) + (1.0 - wanted) * _log(1.0 - probabilities)
    return _reduced("binary_cross_entropy", -values, reduction)


def _log(p: Array) -> Array:
    """max(log p, -100), flat where log p is less, so that its derivative at 0 is 0 and not infinite."""
    there = p > np.exp(-100.0)
    return F.where(there, F.log(F.where(there, p, 1.0)), -100.0)


@guarded
def sigmoid_focal(
    logits: Array, target: Array, reduction: str = "mean", *, alpha: float | None = 0.25, gamma: float = 2.0
) -> Array:
    """(1 - p)^γ times the binary cross-entropy, with p the probability of what is right: easy examples count less.

    `alpha` weights targets of 1, 1 - alpha those of 0; None weights none.
    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002, formula 5.
    """
    _check_gamma("sigmoid_focal", gamma)
    wanted = _as_float(target, logits)
    losses = binary_cross_entropy_with_logits(logits, wanted, "none")
    p = F.sigmoid(logits)
    wrong = p * (1.0 - wanted) + (1.0 - p) * wanted  # without the cancellation of 1 - (1 - p)
    values = losses * _power(wrong, gamma)
    if alpha is not None:
        values = values * (alpha * wanted + (1 - alpha) * (1.0 - wanted))
    return _reduced("sigmoid_focal", values, reduction)


@guarded
def softmax_focal(
    logits: Array,
    target: Array,
    reduction: str = "mean",
    *,
    weight: ArrayLike | None = None,
    gamma: float = 2.0,
    ignore_index: int | None = None,
) -> Array:
    """-(1 - p)^γ log p, with p the softmax of the label's logit: `cross_entropy` for γ = 0.

    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002. Labels are as in `cross_entropy`.
    """
    _check_gamma("softmax_focal", gamma)
    what = f"{here().prefix}softmax_focal"
    logits = _classes_last(what, logits, -1)
    check_target(what, logits, target, ignore_index)
    shift = shifted(logits, -1)
    is_label = _is_label(target, logits.shape[-1])
    exponentials = F.exp(shift)
    total = F.sum(exponentials, axis=-1)
    picked = F.sum(F.where(is_label, shift, 0.0), axis=-1)
    others = F.sum(F.where(is_label, 0.0, exponentials), axis=-1)
    rows = (F.log(total) - picked) * _power(others / total, gamma)
    weights = None if weight is None else class_weights(what, weight, logits)
    return label_loss("softmax_focal", rows, target, is_label, weights, ignore_index, reduction)


@guarded
def multi_margin(
    logits: Array,
    target: Array,
    reduction: str = "mean",
    *,
    p: int = 1,
    margin: float = 1.0,
    weight: ArrayLike | None = None,
) -> Array:
    """Σ max(0, margin - x_y + x_i)^p / C over the classes i that are not the label y: the hinge loss of many classes.

    `weight` [C] scales rows by their label; the mean is over the rows. Crammer & Singer, On the Algorithmic Implementation
    of Multiclass Kernel-based Vector Machines, JMLR 2001. Raises `ArgumentError` for a p other than 1 and 2.
    """
    what = f"{here().prefix}multi_margin"
    if p not in (1, 2):
        raise ArgumentError(f"{what}: p: expected 1 or 2, got {p!r}")
    logits = _classes_last(what, logits, -1)
    check_target(what, logits, target, None)
    is_label = _is_label(target, logits.shape[-1])
    picked = F.sum(F.where(is_label, logits, 0.0), axis=-1, keepdims=True)
    gaps = relu(margin - picked + logits)
    values = F.where(is_label, 0.0, gaps * gaps if p == 2 else gaps)
    rows = F.sum(values, axis=-1) / logits.shape[-1]
    if weight is not None:
        weights = class_weights(what, weight, logits)
        rows = rows * F.sum(F.where(is_label, weights, 0.0), axis=-1)
    return _reduced("multi_margin", rows, reduction)


@guarded
def dice(probabilities: Array, target: Array, reduction: str = "mean", *, smooth: float = 1.0) -> Array:
    """1 - (2 Σ p t + smooth) / (Σ p + Σ t + smooth), sums over all of an example, the mean over the examples.

    Milletari, Navab & Ahmadi, V-Net, 3DV 2016, with Σ p for Σ p². Raises `ShapeError` where the shapes differ.
    """
    _same_shape("dice", probabilities, target)
    wanted = _as_float(target, probabilities)
    axes = tuple(range(1, probabilities.ndim))
    both = F.sum(probabilities * wanted, axis=axes)
    total = F.sum(probabilities, axis=axes) + F.sum(wanted, axis=axes)
    return _reduced("dice", 1.0 - (2.0 * both + smooth) / (total + smooth), reduction)


def _power(x: Array, gamma: float) -> Array:
    if gamma == 0:
        return F.ones_like(x)
    return x * x if gamma == 2 else F.pow(x, gamma)


def _check_gamma(name: str, gamma: float) -> None:
    if not is_rate(gamma):
        raise ArgumentError(
            f"{here().prefix}{name}: gamma: expected a finite number of at least 0, got {gamma!r}"
        )
