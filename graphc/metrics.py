"""Metrics over a whole data set, for which a mean over batches would be wrong: F1, the area under the ROC curve, R².

In: predictions and targets as numpy arrays. Out: a number, or a matrix. Each is a function of full predictions; the
classes of the same names in capitals are what `graphc.fit(metrics={"f1": metrics.F1()})` takes: `start` it, `accumulate`
batches, `finish` it. `fit` computes them on its validation data after each epoch, and records them as ``val_f1``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from graphc.errors import ArgumentError, ShapeError
from graphc.frontend.checks import is_integer

AVERAGES = ("macro", "micro", "weighted", "binary")


@runtime_checkable
class Metric(Protocol):
    """What `graphc.fit` needs of a metric over a whole set."""

    def start(self) -> None: ...

    @property
    def accumulate(self) -> Callable[..., None]: ...

    def finish(self) -> float: ...


def classes_of(prediction: np.ndarray) -> np.ndarray:
    """The class of each row: the largest of its logits or probabilities; a logit alone is a class of 1 above 0.

    Integers are classes already.

    >>> classes_of(np.array([[0.1, 0.9], [2.0, -1.0]])), classes_of(np.array([0.3, -2.0]))
    (array([1, 0]), array([1, 0]))
    """
    prediction = np.asarray(prediction)
    if prediction.dtype.kind in "iub":
        return prediction.astype(np.int64)
    if prediction.ndim >= 2 and prediction.shape[-1] > 1:
        return np.asarray(np.argmax(prediction, axis=-1))
    return (prediction.reshape(len(prediction), -1)[:, 0] > 0).astype(np.int64)


def confusion_matrix(prediction: np.ndarray, target: np.ndarray, classes: int | None = None) -> np.ndarray:
    """How many examples of class i were predicted as class j, at [i, j].

    Predictions are classes, or scores as in `classes_of`. Raises `ShapeError` where the numbers of examples differ,
    `ArgumentError` for a class outside of [0, classes).

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]))
    array([[1, 1],
           [0, 1]])
    """
    prediction = np.asarray(prediction)
    if classes is None and prediction.dtype.kind == "f" and prediction.ndim >= 2 and prediction.shape[-1] > 1:
        classes = prediction.shape[-1]
    predicted, wanted = classes_of(prediction).reshape(-1), np.asarray(target).reshape(-1).astype(np.int64)
    if predicted.size != wanted.size:
        raise ShapeError(f"confusion_matrix: expected {predicted.size} targets, got {wanted.size}")
    largest = int(max(predicted.max(initial=0), wanted.max(initial=0)))
    count = max(largest + 1, 2) if classes is None else classes
    for what, given in (("predictions", predicted), ("targets", wanted)):
        if given.size and not 0 <= given.min() <= given.max() < count:
            bad = given[(given < 0) | (given >= count)][0]
            raise ArgumentError(
                f"confusion_matrix: {what}: expected classes from 0 to {count - 1}, got {bad}"
            )
    return np.bincount(wanted * count + predicted, minlength=count * count).reshape(count, count)


def precision(prediction: np.ndarray, target: np.ndarray, average: str = "macro") -> float:
    """The share of what was predicted as a class that is of it, averaged as `f1` is."""
    return _score(confusion_matrix(prediction, target), average, "precision")


def recall(prediction: np.ndarray, target: np.ndarray, average: str = "macro") -> float:
    """The share of a class that was predicted as it, averaged as `f1` is."""
    return _score(confusion_matrix(prediction, target), average, "recall")


def f1(prediction: np.ndarray, target: np.ndarray, average: str = "macro") -> float:
    """The harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN); 0 where there is nothing to count.

    `average` is "macro" (the mean over the classes that occur), "weighted" (by how often each occurs), "micro" (from
    the sums over all classes), or "binary" (of class 1). van Rijsbergen, Information Retrieval, 2nd ed., 1979.
    Raises `ArgumentError` for any other.

    >>> round(f1(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]), "binary"), 3)
    0.8
    """
    return _score(confusion_matrix(prediction, target), average, "f1")


def _score(matrix: np.ndarray, average: str, kind: str) -> float:
    right = np.diagonal(matrix).astype(np.float64)
    predicted, wanted = matrix.sum(0).astype(np.float64), matrix.sum(1).astype(np.float64)
    above, below = {
        "precision": (right, predicted),
        "recall": (right, wanted),
        "f1": (2 * right, predicted + wanted),
    }[kind]
    if average == "micro":
        return _ratio(above.sum(), below.sum())
    scores = np.array([_ratio(a, b) for a, b in zip(above, below)])
    if average == "binary":
        if len(scores) != 2:
            raise ArgumentError(f"{kind}: average: expected 'macro' or 'micro' for {len(scores)} classes")
        return float(scores[1])
    occurs = (predicted + wanted) > 0
    if average == "macro":
        return float(scores[occurs].mean()) if occurs.any() else 0.0
    if average == "weighted":
        return _ratio(float((scores * wanted).sum()), float(wanted.sum()))
    raise ArgumentError(f"{kind}: average: expected {', '.join(AVERAGES)}, got {average!r}")


def _ratio(above: float, below: float) -> float:
    return float(above / below) if below else 0.0


def roc_auc(score: np.ndarray, target: np.ndarray) -> float:
    """The area under the ROC curve: the chance that an example of class 1 scores above one of class 0; ties count half.

    `score` is any number that grows with the belief in class 1; two columns are scores of classes 0 and 1. By ranks:
    Hanley & McNeil, The Meaning and Use of the Area under a ROC Curve, Radiology 1982. NaN where a class is missing.

    >>> roc_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    0.75
    """
    score = np.asarray(score, np.float64)
    if score.ndim == 2 and score.shape[1] == 2:
        score = score[:, 1] - score[:, 0]
    score, positive = score.reshape(-1), np.asarray(target).reshape(-1) > 0.5
    if score.size != positive.size:
        raise ShapeError(
            f"roc_auc: expected a score and a class for each example, got {score.size} and {positive.size}"
        )
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place.reshape(-1)]  # ties share the mean of their ranks
    ones = int(positive.sum())
    zeros = positive.size - ones
    if not ones or not zeros:
        return float("nan")
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def accuracy(prediction: np.ndarray, target: np.ndarray) -> float:
    """The share of examples whose class is right.

    >>> accuracy(np.array([[0.1, 0.9], [2.0, -1.0]]), np.array([1, 1]))
    0.5
    """
    return float(np.mean(classes_of(prediction).reshape(-1) == np.asarray(target).reshape(-1)))


def top_k_accuracy(prediction: np.ndarray, target: np.ndarray, k: int = 5) -> float:
    """The share of examples whose label is among the k largest scores; a label that ties with the k-th is.

    >>> top_k_accuracy(np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), np.array([1, 2]), k=2)
    0.5
    """
    prediction, target = np.asarray(prediction), np.asarray(target)
    picked = np.take_along_axis(prediction, target[..., None].astype(np.int64), axis=-1)
    return float(np.mean((prediction > picked).sum(-1) < k))


def perplexity(logits: np.ndarray, target: np.ndarray) -> float:
    """exp of the mean cross-entropy: how many classes the model is as unsure as between.

    >>> round(perplexity(np.zeros((2, 8)), np.array([3, 5])), 6)
    8.0
    """
    return float(np.exp(-_log_likelihoods(logits, target).mean()))


def _log_likelihoods(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    shift = logits - logits.max(-1, keepdims=True)
    picked = np.take_along_axis(shift, np.asarray(target)[..., None].astype(np.int64), axis=-1)[..., 0]
    return np.asarray(picked - np.log(np.exp(shift).sum(-1)))


def r2(prediction: np.ndarray, target: np.ndarray) -> float:
    """1 - Σ (t - y)² / Σ (t - mean t)²: the share of the variance that is explained; the mean over columns.

    For a constant target it is 1 where all is right, else 0.

    >>> r2(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]))
    1.0
    """
    y, t = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (prediction, target))
    left, whole = ((t - y) ** 2).sum(0), ((t - t.mean(0)) ** 2).sum(0)
    varies = whole > 0
    scores = np.where(varies, 1 - left / np.where(varies, whole, 1.0), (left == 0).astype(np.float64))
    return float(scores.mean())


def mean_absolute_error(prediction: np.ndarray, target: np.ndarray) -> float:
    """The mean of |prediction - target|.

    >>> mean_absolute_error(np.array([1.0, 2.0]), np.array([2.0, 4.0]))
    1.5
    """
    return float(np.mean(np.abs(np.asarray(prediction, np.float64) - np.asarray(target, np.float64))))


@dataclass(eq=False)
class Whole:
    """A metric of one's own: any numpy function of all predictions and all targets. It keeps both until it is finished.

    >>> metric = Whole(roc_auc); metric.start()
    >>> for score, target in (([0.1, 0.4], [0, 0]), ([0.35, 0.8], [1, 1])):
    ...     metric.accumulate(np.array(score), np.array(target))
    >>> metric.finish()
    0.75
    """

    function: Callable[[np.ndarray, np.ndarray], float]
    _kept: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list, init=False, repr=False)

    def start(self) -> None:
        self._kept = []

    def accumulate(self, prediction: np.ndarray, target: np.ndarray) -> None:
        self._kept.append((np.array(prediction), np.array(target)))

    def finish(self) -> float:
        predictions, targets = (np.concatenate(parts) for parts in zip(*self._kept, strict=True))
        self._kept = []
        return float(self.function(predictions, targets))


@dataclass(eq=False)
class Of:
    """A metric of one output of a model that gives a dict, and of the targets of the same name.

    >>> Of("digit", Whole(accuracy)).output
    'digit'
    """

    output: str
    metric: Metric

    def start(self) -> None:
        self.metric.start()

    def accumulate(self, prediction: Mapping[str, np.ndarray], target: Mapping[str, np.ndarray]) -> None:
        for nest in (prediction, target):
            if not isinstance(nest, Mapping) or self.output not in nest:
                got = ", ".join(map(str, nest)) if isinstance(nest, Mapping) else "one array"
                raise ArgumentError(f"Of: expected an output and targets named {self.output!r}, got {got}")
        self.metric.accumulate(prediction[self.output], target[self.output])

    def finish(self) -> float:
        return self.metric.finish()


def ROCAUC() -> Whole:
    """`roc_auc` as a metric for `graphc.fit`."""
    return Whole(roc_auc)


def R2() -> Whole:
    """`r2` as a metric for `graphc.fit`."""
    return Whole(r2)


@dataclass(eq=False)
class _Counted:
    """A metric of the confusion matrix, which is all that it keeps."""

    average: str = "macro"
    classes: int | None = None
    matrix: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64), init=False, repr=False)

    kind = "f1"

    def __post_init__(self) -> None:
        if self.average not in AVERAGES:
            raise ArgumentError(
                f"{type(self).__name__}: average: expected {', '.join(AVERAGES)}, got {self.average!r}"
            )
        if self.classes is not None and not is_integer(self.classes, least=2):
            raise ArgumentError(
                f"{type(self).__name__}: classes: expected an integer of at least 2, got {self.classes!r}"
            )

    def start(self) -> None:
        self.matrix = np.zeros((0, 0), np.int64)

    def accumulate(self, prediction: np.ndarray, target: np.ndarray) -> None:
        more = confusion_matrix(prediction, target, self.classes)
        count = max(len(more), len(self.matrix))
        grown = np.zeros((count, count), np.int64)
        for part in (more, self.matrix):
            grown[: len(part), : len(part)] += part
        self.matrix = grown

    def finish(self) -> float:
        return _score(self.matrix, self.average, self.kind)


class F1(_Counted):
    """`f1` as a metric for `graphc.fit`; `matrix` is the confusion matrix of the last run.

    >>> metric = F1("binary"); metric.start()
    >>> metric.accumulate(np.array([0, 1]), np.array([0, 0])); metric.accumulate(np.array([1, 1]), np.array([1, 1]))
    >>> round(metric.finish(), 3)
    0.8
    """


class Precision(_Counted):
    """`precision` as a metric for `graphc.fit`."""

    kind = "precision"


class Recall(_Counted):
    """`recall` as a metric for `graphc.fit`."""

    kind = "recall"


@dataclass(eq=False)
class Perplexity:
    """`perplexity` as a metric for `graphc.fit`: exp of the mean over all rows, not the mean of batches' exps."""

    _total: float = field(default=0.0, init=False, repr=False)
    _count: int = field(default=0, init=False, repr=False)

    def start(self) -> None:
        self._total, self._count = 0.0, 0

    def accumulate(self, prediction: np.ndarray, target: np.ndarray) -> None:
        values = _log_likelihoods(prediction, target)
        self._total -= float(values.sum())
        self._count += values.size

    def finish(self) -> float:
        return float(np.exp(self._total / self._count)) if self._count else float("nan")
