"""Metrics over full predictions against scikit-learn's, and in batches against all at once."""

from __future__ import annotations

import numpy as np
import pytest

from graphc import metrics
from graphc.errors import ArgumentError, ShapeError

RNG = np.random.default_rng(3)
SCORES = RNG.normal(size=(200, 4))
LABELS = np.where(RNG.uniform(size=200) < 0.6, SCORES.argmax(1), RNG.integers(0, 4, 200))
BINARY = RNG.normal(size=200).round(1)  # with ties
ONES = (RNG.uniform(size=200) < 1 / (1 + np.exp(-BINARY))).astype(np.int64)


def test_scores_of_classes_are_those_of_scikit_learn() -> None:
    peers = pytest.importorskip("sklearn.metrics")
    predicted = SCORES.argmax(1)
    np.testing.assert_array_equal(
        metrics.confusion_matrix(SCORES, LABELS), peers.confusion_matrix(LABELS, predicted)
    )
    for average in ("macro", "micro", "weighted"):
        for ours, theirs in (
            (metrics.f1, peers.f1_score), (metrics.precision, peers.precision_score),
            (metrics.recall, peers.recall_score),
        ):  # fmt: skip
            np.testing.assert_allclose(
                ours(SCORES, LABELS, average), theirs(LABELS, predicted, average=average), rtol=1e-12
            )
    predicted = (BINARY > 0).astype(int)
    np.testing.assert_allclose(
        metrics.f1(BINARY, ONES, "binary"), peers.f1_score(ONES, predicted), rtol=1e-12
    )
    np.testing.assert_allclose(
        metrics.accuracy(SCORES, LABELS), peers.accuracy_score(LABELS, SCORES.argmax(1))
    )
    for k in (1, 2, 3):
        np.testing.assert_allclose(
            metrics.top_k_accuracy(SCORES, LABELS, k), peers.top_k_accuracy_score(LABELS, SCORES, k=k)
        )


def test_a_class_that_is_only_predicted_or_only_there_counts_as_in_scikit_learn() -> None:
    peers = pytest.importorskip("sklearn.metrics")
    predicted, target = np.array([0, 2, 2, 0, 3]), np.array([0, 1, 1, 0, 0])
    for average in ("macro", "micro", "weighted"):
        np.testing.assert_allclose(
            metrics.f1(predicted, target, average),
            peers.f1_score(target, predicted, average=average, zero_division=0),
        )


def test_areas_and_numbers_are_those_of_scikit_learn() -> None:
    peers = pytest.importorskip("sklearn.metrics")
    np.testing.assert_allclose(metrics.roc_auc(BINARY, ONES), peers.roc_auc_score(ONES, BINARY), rtol=1e-12)
    two = np.stack([-BINARY, BINARY], axis=1)
    np.testing.assert_allclose(metrics.roc_auc(two, ONES), peers.roc_auc_score(ONES, BINARY), rtol=1e-12)
    y, t = RNG.normal(size=(50, 3)), RNG.normal(size=(50, 3))
    np.testing.assert_allclose(metrics.r2(y, t), peers.r2_score(t, y), rtol=1e-12)
    np.testing.assert_allclose(metrics.mean_absolute_error(y, t), peers.mean_absolute_error(t, y), rtol=1e-12)
    shares = np.exp(SCORES) / np.exp(SCORES).sum(1, keepdims=True)
    np.testing.assert_allclose(
        np.log(metrics.perplexity(SCORES, LABELS)), peers.log_loss(LABELS, shares), rtol=1e-10
    )


def test_batches_give_what_the_whole_set_gives() -> None:
    for metric, function in (
        (metrics.F1(), metrics.f1),
        (metrics.Precision(), metrics.precision),
        (metrics.Recall(), metrics.recall),
        (metrics.Perplexity(), metrics.perplexity),
        (metrics.Whole(metrics.accuracy), metrics.accuracy),
    ):
        for _ in range(2):  # a second run begins anew
            metric.start()
            for begin in range(0, 200, 64):
                metric.accumulate(SCORES[begin : begin + 64], LABELS[begin : begin + 64])
            np.testing.assert_allclose(metric.finish(), function(SCORES, LABELS), rtol=1e-12)


def test_what_makes_no_sense_is_named() -> None:
    with pytest.raises(
        ArgumentError, match="f1: average: expected macro, micro, weighted, binary, got 'mean'"
    ):
        metrics.f1(SCORES, LABELS, "mean")
    with pytest.raises(ArgumentError, match="f1: average: expected 'macro' or 'micro' for 4 classes"):
        metrics.f1(SCORES, LABELS, "binary")
    with pytest.raises(ArgumentError, match="confusion_matrix: targets: expected classes from 0 to 3, got 4"):
        metrics.confusion_matrix(SCORES, np.full(200, 4))
    with pytest.raises(ShapeError, match="confusion_matrix: expected 200 targets, got 3"):
        metrics.confusion_matrix(SCORES, np.zeros(3))
    with pytest.raises(ArgumentError, match="F1: average: expected macro"):
        metrics.F1("sum")
    assert np.isnan(metrics.roc_auc(BINARY, np.zeros(200)))
