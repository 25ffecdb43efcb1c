"""Losses and metrics: scalars that say how far predictions are from their targets.

In: traced predictions and targets. Out: a traced scalar, or one value a row with ``reduction="none"``.
Each is a few pointwise ops and row reductions, so that it and its gradient fuse into one kernel.
"""

from __future__ import annotations

import numpy as np

from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.frontend import functions as F
from graphc.frontend.activations import shifted, softplus
from graphc.frontend.array import Array
from graphc.frontend.halves import in_f32
from graphc.ir.loc import here
from graphc.ir.types import i32, i64

REDUCTIONS = ("mean", "sum", "none")


@in_f32
def mse(prediction: Array, target: Array, reduction: str = "mean") -> Array:
    """The squared error (prediction - target)², its mean over all elements by default.

    Raises `ShapeError` where the shapes differ: a broadcast would hide a mistake.

    >>> import graphc; from graphc.ir.interp import interpret
    >>> interpret(graphc.trace(mse, graphc.f32[2], graphc.f32[2]), [np.float32([1, 2]), np.float32([1, 4])])
    [array(2., dtype=float32)]
    """
    _same_shape("mse", prediction, target)
    difference = prediction - _as_float(target, prediction)
    return _reduced("mse", difference * difference, reduction)


@in_f32
def cross_entropy(logits: Array, target: Array, reduction: str = "mean") -> Array:
    """-Σ target · log softmax(logits) over the last dimension, its mean over the rows by default.

    `logits` is [N, C], or [C] for one row. An integer `target` holds labels [N]; a float one probabilities [N, C].
    The row's maximum is subtracted before exp, so no logits overflow. A label must lie in [0, C): `graphc.fit` checks
    that before it trains. Compiled code doesn't: a label outside picks no logit, and its row counts as
    log Σ exp(x - max x).

    Bridle, Probabilistic Interpretation of Feedforward Classification Network Outputs, Neurocomputing 1990.
    Raises `ShapeError` or `DTypeError` where the target is neither.

    >>> import graphc; from graphc.ir.interp import interpret
    >>> graph = graphc.trace(cross_entropy, graphc.f32[1, 2], graphc.i32[1])
    >>> interpret(graph, [np.float32([[0, 0]]), np.int32([1])])[0].round(4)
    np.float32(0.6931)
    """
    what = f"{here().prefix}cross_entropy"
    if logits.ndim not in (1, 2):
        raise ShapeError(f"{what}: expected logits [N, C] or [C], got {list(logits.shape)}")
    if not logits.dtype.is_float:
        raise DTypeError(f"{what}: expected float logits, got {logits.dtype.name}")
    if target.dtype.is_float:
        _same_shape("cross_entropy", logits, target)
    elif not target.dtype.is_integer:
        raise DTypeError(f"{what}: expected integer labels or float probabilities, got {target.dtype.name}")
    elif tuple(target.shape) != tuple(logits.shape[:-1]):
        raise ShapeError(
            f"{what}: expected labels {list(logits.shape[:-1])} for logits {list(logits.shape)}, got {list(target.shape)}"
        )
    shift = shifted(logits, -1)
    log_total = F.log(F.sum(F.exp(shift), axis=-1, keepdims=target.dtype.is_float))
    if target.dtype.is_float:
        rows = F.sum(target * (log_total - shift), axis=-1)
    else:
        picked = F.sum(F.where(_is_label(target, logits.shape[-1]), shift, 0.0), axis=-1)
        rows = log_total - picked
    return _reduced("cross_entropy", rows, reduction)


@in_f32
def binary_cross_entropy_with_logits(logits: Array, target: Array, reduction: str = "mean") -> Array:
    """-t log σ(x) - (1 - t) log(1 - σ(x)), its mean over all elements by default; targets are in [0, 1].

    Computed as softplus(x) - x t, which is exact at both ends; the derivative is σ(x) - t everywhere.
    Raises `ShapeError` where the shapes differ.

    >>> import graphc; from graphc.ir.interp import interpret
    >>> graph = graphc.trace(binary_cross_entropy_with_logits, graphc.f32[2], graphc.f32[2])
    >>> interpret(graph, [np.float32([0, 100]), np.float32([1, 1])])[0].round(4)
    np.float32(0.3466)
    """
    _same_shape("binary_cross_entropy_with_logits", logits, target)
    values = softplus(logits) - logits * _as_float(target, logits)
    return _reduced("binary_cross_entropy_with_logits", values, reduction)


def accuracy(prediction: Array, target: Array) -> Array:
    """The share of rows that are right: a metric, not a loss.

    For labels [N] or probabilities [N, C] the largest of C logits counts; where the shapes are equal and there is no
    more than one column, a logit above 0 says yes to a target above 1/2.

    >>> import graphc; from graphc.ir.interp import interpret
    >>> graph = graphc.trace(accuracy, graphc.f32[2, 2], graphc.i32[2])
    >>> interpret(graph, [np.float32([[0, 1], [0, 1]]), np.int32([1, 0])])
    [array(0.5, dtype=float32)]
    """
    if (
        prediction.ndim == target.ndim + 1
        and target.dtype.is_integer
        and prediction.shape[:-1] == target.shape
    ):
        right = F.argmax(prediction, axis=-1) == F.astype(target, i32)
    else:
        _same_shape("accuracy", prediction, target)
        if prediction.ndim >= 2 and prediction.shape[-1] > 1:
            right = F.argmax(prediction, axis=-1) == F.argmax(target, axis=-1)
        else:
            right = (prediction > 0) == (_as_float(target, prediction) > 0.5)
    return F.mean(F.astype(right, prediction.dtype))


def check_labels(labels: np.ndarray, classes: int) -> None:
    """Raises `ArgumentError`, naming the first bad label and its row, where one is not in [0, classes).

    >>> check_labels(np.array([0, 3, 2]), 3)
    Traceback (most recent call last):
    graphc.errors.ArgumentError: labels: expected integers from 0 to 2, got 3 at row 1
    """
    bad = (labels < 0) | (labels >= classes)
    if bad.any():
        row = int(np.argmax(bad.reshape(-1)))
        got = labels.reshape(-1)[row]
        raise ArgumentError(f"labels: expected integers from 0 to {classes - 1}, got {got} at row {row}")


def _is_label(labels: Array, classes: int) -> Array:
    """[N, C]: true where the column is the row's label."""
    index = labels if labels.dtype in (i32, i64) else F.astype(labels, i32)
    return F.expand_dims(index, axis=-1) == F.arange(classes, dtype=index.dtype)


def _reduced(name: str, values: Array, reduction: str) -> Array:
    if reduction not in REDUCTIONS:
        raise ArgumentError(
            f"{here().prefix}{name}: expected reduction of {', '.join(REDUCTIONS)}, got {reduction!r}"
        )
    if reduction == "none":
        return values
    return F.mean(values) if reduction == "mean" else F.sum(values)


def _as_float(target: Array, prediction: Array) -> Array:
    """Integer and bool targets in the prediction's data type; an i32 beside an f32 would promote to f64."""
    return target if target.dtype.is_float else F.astype(target, prediction.dtype)


def _same_shape(name: str, prediction: Array, target: Array) -> None:
    if tuple(prediction.shape) != tuple(target.shape):
        raise ShapeError(
            f"{here().prefix}{name}: expected a target of shape {list(prediction.shape)}, got {list(target.shape)}"
        )
