"""The other losses against numpy statements in f64, CTC against all alignments, and gradients against differences."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

import graphc
from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.frontend import nn
from graphc.frontend.losses import noted_labels
from graphc.frontend.tracer import trace
from graphc.ir.interp import interpret
from graphc.ir.types import f32, i32

RNG = np.random.default_rng(5)
X, Y, Z = (RNG.normal(size=(6, 4)) for _ in range(3))
P, SHARES = RNG.uniform(0.05, 0.95, (6, 4)), RNG.dirichlet(np.full(4, 5.0), 6)
LOG_P = np.log(RNG.dirichlet(np.full(4, 5.0), 6))
LABELS = np.array([0, 3, 2, 2, 1, 0], np.int32)
SIGNS, ROW_SIGNS = np.sign(RNG.normal(size=(6, 4))), np.sign(RNG.normal(size=6))
WEIGHT = np.array([0.5, 2.0, 1.0, 0.25])
ROWS = np.arange(6)


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def huber(d: np.ndarray) -> np.ndarray:
    return np.where(abs(d) < 0.7, d * d / 2, 0.7 * (abs(d) - 0.35))


def focal(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    p = np.where(t == 1, sigmoid(x), 1 - sigmoid(x))
    return np.where(t == 1, 0.25, 0.75) * (1 - p) ** 2 * -np.log(p)


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(((a - b + 1e-6) ** 2).sum(-1))


CE, NLL, W_ROW = -log_softmax(X)[ROWS, LABELS], -LOG_P[ROWS, LABELS], WEIGHT[LABELS]
SMOOTH = 0.9 * CE - 0.1 * log_softmax(X).mean(-1)
KEPT = LABELS != 2
GAPS = np.maximum(0, 1 - X[ROWS, LABELS][:, None] + X) * (np.arange(4) != LABELS[:, None])
COSINE = (X * Y).sum(-1) / np.sqrt((X * X).sum(-1) * (Y * Y).sum(-1))
BITS = (P > 0.5).astype(float)
CASES: dict[str, tuple[Callable[..., object], tuple[np.ndarray, ...], np.ndarray | float]] = {
    "l1": (nn.l1, (X, Y), abs(X - Y).mean()),
    "huber": (lambda x, y: nn.huber(x, y, delta=0.7), (X, Y), huber(X - Y).mean()),
    "smooth_l1": (lambda x, y: nn.smooth_l1(x, y, beta=0.7), (X, Y), huber(X - Y).mean() / 0.7),
    "log_cosh": (nn.log_cosh, (X, Y), np.log(np.cosh(X - Y)).mean()),
    "poisson": (nn.poisson_nll, (X, P), (np.exp(X) - P * X).mean()),
    "gaussian": (nn.gaussian_nll, (X, Y, P), ((np.log(P) + (X - Y) ** 2 / P) / 2).mean()),
    "hinge": (nn.hinge, (X, SIGNS), np.maximum(0, 1 - X * SIGNS).mean()),
    "hinge_embedding": (nn.hinge_embedding, (P, SIGNS), np.where(SIGNS == 1, P, 1 - P).mean()),
    "nll": (nn.nll, (LOG_P, LABELS), NLL.mean()),
    "nll weighted": (lambda x, t: nn.nll(x, t, weight=WEIGHT), (LOG_P, LABELS), (NLL * W_ROW).sum() / W_ROW.sum()),
    "ce weighted": (lambda x, t: nn.cross_entropy(x, t, weight=WEIGHT), (X, LABELS), (CE * W_ROW).sum() / W_ROW.sum()),
    "ce ignored": (lambda x, t: nn.cross_entropy(x, t, ignore_index=2), (X, LABELS), CE[KEPT].mean()),
    "ce smooth": (lambda x, t: nn.cross_entropy(x, t, label_smoothing=0.1), (X, LABELS), SMOOTH.mean()),
    "ce none": (lambda x, t: nn.cross_entropy(x, t, "none", ignore_index=2), (X, LABELS), CE * KEPT),
    "kl": (lambda x, t: nn.kl_div(x, t, "batchmean"), (LOG_P, SHARES), (SHARES * (np.log(SHARES) - LOG_P)).sum() / 6),
    "bce": (nn.binary_cross_entropy, (P, SHARES), -(SHARES * np.log(P) + (1 - SHARES) * np.log(1 - P)).mean()),
    "focal": (nn.sigmoid_focal, (X, BITS), focal(X, BITS).mean()),
    "softmax focal": (nn.softmax_focal, (X, LABELS), (CE * (1 - np.exp(-CE)) ** 2).mean()),
    "softmax focal of 0": (lambda x, t: nn.softmax_focal(x, t, gamma=0), (X, LABELS), CE.mean()),
    "multi_margin": (nn.multi_margin, (X, LABELS), GAPS.sum(-1).mean() / 4),
    "dice": (nn.dice, (P, BITS), (1 - (2 * (P * BITS).sum(-1) + 1) / (P.sum(-1) + BITS.sum(-1) + 1)).mean()),
    "cosine": (nn.cosine_similarity, (X, Y), COSINE),
    "cosine_embedding": (nn.cosine_embedding, (X, Y, ROW_SIGNS),
                         np.where(ROW_SIGNS == 1, 1 - COSINE, np.maximum(0, COSINE)).mean()),
    "ranking": (nn.margin_ranking, (X, Y, SIGNS), np.maximum(0, -SIGNS * (X - Y)).mean()),
    "triplet": (nn.triplet_margin, (X, Y, Z), np.maximum(0, distance(X, Y) - distance(X, Z) + 1).mean()),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_loss_is_its_statement_in_numpy_and_so_are_its_derivatives(name: str) -> None:
    loss, arrays, expected = CASES[name]
    (value,) = interpret(trace(loss, *arrays), list(arrays))
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)
    graphc.check_grads(loss, arrays, order=2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["huber", "ce ignored", "ce smooth", "softmax focal", "bce", "triplet", "gaussian"]
)
def test_compiled_losses_and_gradients_are_the_interpreted_ones(name: str) -> None:
    loss, arrays, _ = CASES[name]
    given = [a.astype(np.float32) if a.dtype.kind == "f" else a for a in arrays]

    def both(*args: graphc.Array) -> object:
        return graphc.value_and_grad(lambda *a: loss(*a).sum())(*args)  # type: ignore[attr-defined]

    compiled = graphc.compile(both, *given)(*given)
    for got, want in zip(compiled, interpret(trace(both, *given), given, float64=True), strict=True):  # type: ignore[call-overload]
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_binary_cross_entropy_is_bounded_where_a_probability_is_0_or_1() -> None:
    p, t = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0, 0.0])
    value, slope = graphc.value_and_grad(lambda p, t: nn.binary_cross_entropy(p, t, "sum"))(p, t)  # type: ignore[misc]
    np.testing.assert_allclose(value, 200.0)
    assert np.isfinite(slope).all()


def test_lengths_of_0_have_a_cosine_and_a_slope_of_0() -> None:
    zero = np.zeros(3)
    value, slope = graphc.value_and_grad(nn.cosine_similarity)(zero, np.ones(3))  # type: ignore[misc]
    assert value == 0 and np.isfinite(slope).all()


def test_top_k_accuracy_in_batches_is_that_of_the_whole_set() -> None:
    for k in (1, 2, 3):
        (got,) = interpret(trace(lambda x, t, k=k: nn.top_k_accuracy(x, t, k), X, LABELS), [X, LABELS])
        np.testing.assert_allclose(got, graphc.metrics.top_k_accuracy(X, LABELS, k))
    with pytest.raises(ArgumentError, match="top_k_accuracy: k: expected an integer of at least 1, got 0"):
        trace(lambda x, t: nn.top_k_accuracy(x, t, 0), X, LABELS)


# -- CTC ----------------------------------------------------------------------------------------------------------------


def spelled(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(c for i, c in enumerate(path) if c != 0 and (i == 0 or path[i - 1] != c))


def brute_force(log_p: np.ndarray, target: list[int]) -> float:
    """-log of the sum over every alignment."""
    steps, classes = log_p.shape
    total = sum(
        np.exp(log_p[range(steps), path].sum())
        for path in (
            np.array(p, int) for p in product(range(classes), repeat=steps) if spelled(p) == tuple(target)
        )
    )
    return float(-np.log(total)) if total else np.inf


def test_ctc_sums_over_all_alignments() -> None:
    log_p = log_softmax(RNG.normal(0, 2, (5, 4, 3)))
    targets = np.array([[1, 2], [2, 2], [1, 0], [0, 0]], np.int32)
    inputs, lengths = [5, 4, 3, 2], [2, 2, 1, 0]

    def loss(p: graphc.Array, t: graphc.Array) -> graphc.Array:
        return nn.ctc(p, t, inputs, lengths, reduction="none")

    (got,) = interpret(trace(loss, log_p, targets), [log_p, targets])
    want = [brute_force(log_p[:n, i], list(targets[i, :s])) for i, (n, s) in enumerate(zip(inputs, lengths))]
    np.testing.assert_allclose(got, want, rtol=1e-10)
    graphc.check_grads(loss, (log_p, targets), order=2, rtol=1e-5, atol=1e-6)
    compiled = graphc.compile(loss, log_p.astype(np.float32), targets)(log_p.astype(np.float32), targets)
    np.testing.assert_allclose(compiled, want, rtol=1e-5)  # type: ignore[arg-type]


def test_ctc_of_a_target_that_nothing_spells_is_infinite_or_left_out() -> None:
    log_p = log_softmax(RNG.normal(size=(2, 2, 3)))
    targets = np.array([[1, 1], [1, 2]], np.int32)  # "11" needs a blank between: three steps

    def loss(p: graphc.Array, zero: bool) -> graphc.Array:
        return nn.ctc(p, targets, [2, 2], [2, 2], reduction="sum", zero_infinity=zero)

    value, _ = graphc.value_and_grad(lambda p: loss(p, False))(log_p)  # type: ignore[misc]
    assert value == np.inf
    value, slope = graphc.value_and_grad(lambda p: loss(p, True))(log_p)  # type: ignore[misc]
    np.testing.assert_allclose(value, brute_force(log_p[:, 1], [1, 2]), rtol=1e-6)
    assert not slope[:, 0].any() and slope[:, 1].any()


def test_ctc_takes_one_sequence_and_targets_one_behind_the_other() -> None:
    log_p = log_softmax(RNG.normal(0, 2, (5, 3, 3)))
    packed, inputs, lengths = np.array([1, 2, 2, 2, 1], np.int32), [5, 4, 0], [3, 2, 0]
    padded = np.array([[1, 2, 2], [2, 1, 0], [0, 0, 0]], np.int32)
    want = [brute_force(log_p[:n, i], list(padded[i, :s])) for i, (n, s) in enumerate(zip(inputs, lengths))]

    def loss(p: graphc.Array, t: graphc.Array, n: graphc.Array) -> graphc.Array:
        return nn.ctc(p, t, inputs, n, reduction="none")

    for targets in (padded, packed):
        given = (log_p, targets, np.int32(lengths))
        np.testing.assert_allclose(graphc.compile(loss, *given)(*given), want, rtol=1e-10)  # type: ignore[arg-type]
    known = graphc.compile(lambda p, t: nn.ctc(p, t, inputs, lengths), log_p, packed)(log_p, packed)
    np.testing.assert_allclose(known, np.mean(want / np.maximum(lengths, 1)), rtol=1e-10)  # type: ignore[arg-type]
    for reduction, divisor in (("none", 1), ("sum", 1), ("mean", 2)):
        one = graphc.compile(lambda p, r=reduction: nn.ctc(p, [2, 1], 4, 2, reduction=r), log_p[:, 1])(
            log_p[:, 1]
        )
        assert one.shape == ()  # type: ignore[union-attr]
        np.testing.assert_allclose(one, want[1] / divisor, rtol=1e-10)  # type: ignore[arg-type]


def test_ctc_of_many_steps_is_as_large_a_graph_as_of_few() -> None:
    sizes = [
        len(trace(graphc.grad(lambda p: nn.ctc(p, [[1, 2]], [3], [2])), f32[steps, 1, 3]).nodes)  # type: ignore[arg-type]
        for steps in (30, 300)
    ]
    assert sizes[0] == sizes[1]


# -- what goes wrong ----------------------------------------------------------------------------------------------------


def test_losses_say_what_their_labels_are() -> None:
    with noted_labels() as noted:
        trace(lambda x, t: nn.nll(x, t, ignore_index=7) + nn.accuracy(x, t), f32[6, 4], i32[6])
    assert [(n.classes, n.ignored) for n in noted] == [(4, 7), (4, None)]


@pytest.mark.parametrize(
    ("loss", "types", "error", "text"),
    [
        (nn.l1, (f32[2], f32[3]), ShapeError, r"l1: expected a target of shape \[2\], got \[3\]"),
        (lambda x, y: nn.huber(x, y, delta=0), (f32[2], f32[2]), ArgumentError, "huber: delta: expected a finite"),
        (nn.nll, (f32[2, 3], f32[2]), DTypeError, "nll: expected integer labels or float probabilities, got f32"),
        (lambda x, t: nn.nll(x, t, weight=np.ones(4)), (f32[2, 3], i32[2]), ShapeError, r"nll: weight: expected \[3\], got"),
        (lambda x, t: nn.cross_entropy(x, t, label_smoothing=2), (f32[2, 3], i32[2]), ArgumentError,
         "cross_entropy: label_smoothing: expected a number from 0 to 1, got 2"),
        (lambda x, t: nn.multi_margin(x, t, p=3), (f32[2, 3], i32[2]), ArgumentError, "multi_margin: p: expected 1 or 2"),
        (lambda x, t: nn.ctc(x, t, [2], [1]), (f32[2, 3], i32[1, 1]), ShapeError, r"ctc: expected labels \[S\], got \[1, 1\]"),
        (lambda x, t: nn.ctc(x, t, [2], [1]), (f32[3], i32[1]), ShapeError, r"ctc: expected log-probabilities \[T, N, C\]"),
        (lambda x, t: nn.ctc(x, t, [3], [1]), (f32[2, 1, 3], i32[1, 1]), ArgumentError,
         r"input_lengths: expected numbers from 0 to 2, got \[3\]"),
        (lambda x, t: nn.ctc(x, t, [2, 2], [1, 1]), (f32[2, 2, 3], i32[3]), ShapeError,
         "expected as many labels as target_lengths sum to, 2, got 3"),
        (lambda x, t: nn.ctc(x, t, 2, [1]), (f32[2, 3], i32[1]), ShapeError, r"target_lengths: expected \[\], got \[1\]"),
        (lambda x, t: nn.ctc(x, t, [2], [1]), (f32[2, 1, 3], i32[2, 1]), ShapeError, r"ctc: expected labels \[1, S\]"),
        (lambda x, t: nn.ctc(x, t, [2, 2], [1]), (f32[2, 1, 3], i32[1, 1]), ShapeError, r"input_lengths: expected \[1\]"),
        (lambda x, t: nn.ctc(x, t, [2], [1], blank=3), (f32[2, 1, 3], i32[1, 1]), ArgumentError, "blank: expected a class"),
    ],
)  # fmt: skip
def test_wrong_arguments_name_the_line_and_what_was_expected(
    loss: Callable[..., object], types: tuple[object, ...], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=r"test_losses_more\.py:\d+: .*" + text):
        trace(loss, *types)
