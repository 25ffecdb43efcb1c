"""Losses and metrics: scalars that say how far predictions are from their targets.

In: traced predictions and targets. Out: a traced scalar, or one value a row with ``reduction="none"``.
Each is a few pointwise ops and row reductions, so that it and its gradient fuse into one kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np

from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.frontend import functions as F
from graphc.frontend.activations import shifted, softplus
from graphc.frontend.array import Array, ArrayLike
from graphc.frontend.checks import is_integer, is_rate
from graphc.frontend.halves import in_f32
from graphc.ir.guard import guarded
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
def cross_entropy(
    logits: Array,
    target: Array,
    reduction: str = "mean",
    *,
    weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Array:
    """-Σ target · log softmax(logits) over the classes, its mean over the rows by default.

    `logits` is [..., C], with the classes in the last dimension unless `axis` says where they are (PyTorch has them at
    1). An integer `target` holds labels, of the shape without C; a float one probabilities of the logits' shape.
    `weight` [C] scales each class's part; the mean over labels is then weighted, too. Labels of `ignore_index` count
    nowhere. `label_smoothing` ε mixes the target with the uniform distribution: (1 - ε) target + ε / C.

    The row's maximum is subtracted before exp, so no logits overflow. A label must lie in [0, C): `graphc.fit` checks
    that before it trains. Compiled code doesn't: a label outside picks no logit, and its row counts as
    log Σ exp(x - max x).

    Bridle, Probabilistic Interpretation of Feedforward Classification Network Outputs, Neurocomputing 1990; smoothing:
    Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016.
    Raises `ShapeError` or `DTypeError` where the target is neither.

    >>> import graphc; from graphc.ir.interp import interpret
    >>> graph = graphc.trace(cross_entropy, graphc.f32[1, 2], graphc.i32[1])
    >>> interpret(graph, [np.float32([[0, 0]]), np.int32([1])])[0].round(4)
    np.float32(0.6931)
    """
    what = f"{here().prefix}cross_entropy"
    logits = _classes_last(what, logits, axis)
    if not (is_rate(label_smoothing) and label_smoothing <= 1):
        raise ArgumentError(
            f"{what}: label_smoothing: expected a number from 0 to 1, got {label_smoothing!r}"
        )
    classes = logits.shape[-1]
    shift = shifted(logits, -1)
    if target.dtype.is_float:
        target = _classes_last(what, target, axis)
        _same_shape("cross_entropy", logits, target)
        if label_smoothing:
            target = target * (1 - label_smoothing) + label_smoothing / classes
        if weight is not None:
            target = target * class_weights(what, weight, logits)
        log_total = F.log(F.sum(F.exp(shift), axis=-1, keepdims=True))
        return _reduced("cross_entropy", F.sum(target * (log_total - shift), axis=-1), reduction)
    check_target(what, logits, target, ignore_index)
    log_total = F.log(F.sum(F.exp(shift), axis=-1))
    is_label = _is_label(target, classes)
    rows = log_total - F.sum(F.where(is_label, shift, 0.0), axis=-1)
    weights = None if weight is None else class_weights(what, weight, logits)
    smooth: Array | None = None
    if label_smoothing:
        losses = F.expand_dims(log_total, axis=-1) - shift
        smooth = F.sum(losses if weights is None else losses * weights, axis=-1) / classes
    return label_loss(
        "cross_entropy", rows, target, is_label, weights, ignore_index, reduction, smooth, label_smoothing
    )


def label_loss(
    name: str, rows: Array, target: Array, is_label: Array, weights: Array | None, ignored: int | None,
    reduction: str, smooth: Array | None = None, smoothing: float = 0.0,
) -> Array:  # fmt: skip
    """Losses of labels, weighted by class and without the ignored ones; a mean is one over the weights."""
    share = None if weights is None else F.sum(F.where(is_label, weights, 0.0), axis=-1)
    if share is not None:
        rows = rows * share
    if smooth is not None:
        rows = (1 - smoothing) * rows + smoothing * smooth
    if ignored is not None:
        counts = target != ignored
        rows = F.where(counts, rows, 0.0)
        share = F.where(counts, 1.0 if share is None else share, F.zeros_like(rows))
    if reduction == "mean" and share is not None:
        return F.sum(rows) / F.sum(share)
    return _reduced(name, rows, reduction)


def _classes_last(what: str, logits: Array, axis: int) -> Array:
    if not logits.dtype.is_float:
        raise DTypeError(f"{what}: expected float logits, got {logits.dtype.name}")
    if not -logits.ndim <= axis < logits.ndim:
        raise ShapeError(
            f"{what}: expected logits with classes in dimension {axis}, got {list(logits.shape)}"
        )
    return logits if axis % logits.ndim == logits.ndim - 1 else F.moveaxis(logits, axis, -1)


def check_target(what: str, logits: Array, target: Array, ignored: int | None) -> None:
    """Raises `DTypeError` or `ShapeError` unless these are labels for rows of logits; `graphc.fit` learns of them."""
    if not target.dtype.is_integer:
        raise DTypeError(f"{what}: expected integer labels or float probabilities, got {target.dtype.name}")
    if tuple(target.shape) != tuple(logits.shape[:-1]):
        raise ShapeError(
            f"{what}: expected labels {list(logits.shape[:-1])} for logits {list(logits.shape)}, got {list(target.shape)}"
        )
    note_labels(target, logits.shape[-1], ignored)


def class_weights(what: str, weight: ArrayLike, logits: Array) -> Array:
    """The weights of classes in the logits' type; raises `ShapeError` unless there is one for each."""
    weights = F.astype(F.asarray(weight), logits.dtype)
    if tuple(weights.shape) != (logits.shape[-1],):
        raise ShapeError(f"{what}: weight: expected [{logits.shape[-1]}], got {list(weights.shape)}")
    return weights


@in_f32
def binary_cross_entropy_with_logits(
    logits: Array, target: Array, reduction: str = "mean", *, pos_weight: ArrayLike | None = None
) -> Array:
    """-t log σ(x) - (1 - t) log(1 - σ(x)), its mean over all elements by default; targets are in [0, 1].

    Computed as softplus(x) - x t, which is exact at both ends; the derivative is σ(x) - t everywhere. `pos_weight`
    scales the first term, for classes that are rare.
    Raises `ShapeError` where the shapes differ.

    >>> import graphc; from graphc.ir.interp import interpret
    >>> graph = graphc.trace(binary_cross_entropy_with_logits, graphc.f32[2], graphc.f32[2])
    >>> interpret(graph, [np.float32([0, 100]), np.float32([1, 1])])[0].round(4)
    np.float32(0.3466)
    """
    _same_shape("binary_cross_entropy_with_logits", logits, target)
    wanted = _as_float(target, logits)
    if pos_weight is None:
        values = softplus(logits) - logits * wanted
    else:
        share = 1.0 + (F.astype(F.asarray(pos_weight), logits.dtype) - 1.0) * wanted
        values = (1.0 - wanted) * logits + share * softplus(-logits)
    return _reduced("binary_cross_entropy_with_logits", values, reduction)


@guarded
def accuracy(prediction: Array, target: Array) -> Array:
    """The share of rows that are right: a metric, not a loss.

    For labels [...] or probabilities [..., C] the largest of C logits counts; where the shapes are equal and there is no
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
        note_labels(target, prediction.shape[-1])
        right = F.argmax(prediction, axis=-1) == F.astype(target, i32)
    else:
        _same_shape("accuracy", prediction, target)
        if prediction.ndim >= 2 and prediction.shape[-1] > 1:
            right = F.argmax(prediction, axis=-1) == F.argmax(target, axis=-1)
        else:
            right = (prediction > 0) == (_as_float(target, prediction) > 0.5)
    return F.mean(F.astype(right, prediction.dtype))


@guarded
def top_k_accuracy(prediction: Array, target: Array, k: int = 5) -> Array:
    """The share of labels whose logit is among the k largest of its row: a metric, not a loss.

    By counting the larger ones, so a logit that ties with the k-th counts. Raises `ArgumentError` where k is no integer of
    at least 1, `ShapeError` or `DTypeError` unless the target holds labels.

    >>> import graphc; from graphc.ir.interp import interpret
    >>> graph = graphc.trace(lambda p, t: top_k_accuracy(p, t, k=2), graphc.f32[2, 3], graphc.i32[2])
    >>> interpret(graph, [np.float32([[3, 2, 1], [3, 2, 1]]), np.int32([1, 2])])
    [array(0.5, dtype=float32)]
    """
    what = f"{here().prefix}top_k_accuracy"
    if not is_integer(k, least=1):
        raise ArgumentError(f"{what}: k: expected an integer of at least 1, got {k!r}")
    check_target(what, prediction, target, None)
    is_label = _is_label(target, prediction.shape[-1])
    picked = F.sum(F.where(is_label, prediction, 0.0), axis=-1, keepdims=True)
    larger = F.sum(F.astype(prediction > picked, i32), axis=-1)
    return F.mean(F.astype(larger < k, prediction.dtype))


@dataclass(frozen=True, eq=False)
class Labels:
    """What a loss or metric says of its labels: that they are to lie in [0, classes), or be the one that is ignored."""

    labels: Array
    classes: int
    ignored: int | None


_NOTED: ContextVar[list[Labels] | None] = ContextVar("graphc_labels", default=None)


@contextmanager
def noted_labels() -> Iterator[list[Labels]]:
    """Collects what losses that are traced in this context say of their labels: `graphc.fit` checks the data by it."""
    found: list[Labels] = []
    token = _NOTED.set(found)
    try:
        yield found
    finally:
        _NOTED.reset(token)


def note_labels(labels: Array, classes: int, ignored: int | None = None) -> None:
    """Says that these are labels of so many classes."""
    noted = _NOTED.get()
    if noted is not None:
        noted.append(Labels(labels, classes, ignored))


def check_labels(labels: np.ndarray, classes: int, ignored: int | None = None) -> None:
    """Raises `ArgumentError`, naming the first bad label and its row, where one is not in [0, classes) nor ignored.

    >>> check_labels(np.array([0, 3, 2]), 3)
    Traceback (most recent call last):
    graphc.errors.ArgumentError: labels: expected integers from 0 to 2, got 3 at row 1
    """
    bad = (labels < 0) | (labels >= classes)
    if ignored is not None:
        bad &= labels != ignored
    if bad.any():
        place = np.unravel_index(int(np.argmax(bad)), bad.shape)
        where = str(place[0]) if len(place) == 1 else f"{place[0]}, place {[int(i) for i in place[1:]]}"
        other = f" or {ignored}" if ignored is not None and not 0 <= ignored < classes else ""
        raise ArgumentError(
            f"labels: expected integers from 0 to {classes - 1}{other}, got {labels[place]} at row {where}"
        )


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
