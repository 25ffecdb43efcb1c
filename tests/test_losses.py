"""Losses against plain numpy statements in f64, at ordinary and at extreme inputs, and their gradients."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.frontend import nn
from graphc.frontend.losses import check_labels
from graphc.frontend.tracer import trace
from graphc.ir.interp import interpret
from graphc.ir.types import bool_, f32, f64, i32
from graphc.transforms import grad

RNG = np.random.default_rng(5)
LOGITS = RNG.normal(0, 3, (6, 4))
LABELS = np.array([0, 3, 2, 2, 1, 0], np.int32)
SHARES = RNG.dirichlet(np.ones(4), 6)


def run(function: Callable[..., object], *arrays: np.ndarray) -> np.ndarray:
    return interpret(trace(function, *arrays), list(arrays))[0]


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.longdouble)
    top = x.max(-1, keepdims=True)
    return x - top - np.log(np.exp(x - top).sum(-1, keepdims=True))


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes)[labels]


def test_mse_is_the_mean_of_squares() -> None:
    x, y = RNG.normal(size=(5, 3)), RNG.normal(size=(5, 3))
    np.testing.assert_allclose(run(nn.mse, x, y), np.mean((x - y) ** 2), rtol=1e-15)
    np.testing.assert_allclose(run(grad(nn.mse), x, y), 2 * (x - y) / 15, rtol=1e-14)


def test_mse_takes_integer_targets_in_the_predictions_type() -> None:
    graph = trace(nn.mse, f32[3], i32[3])
    assert graph.output_types == (f32[()],)
    assert interpret(graph, [np.float32([1, 2, 3]), np.int32([1, 2, 6])])[0] == 3


def test_cross_entropy_of_labels_is_the_mean_negative_log_probability() -> None:
    expected = -log_softmax(LOGITS)[np.arange(6), LABELS]
    np.testing.assert_allclose(run(nn.cross_entropy, LOGITS, LABELS), expected.mean(), rtol=1e-14)
    none = run(lambda x, t: nn.cross_entropy(x, t, reduction="none"), LOGITS, LABELS)
    np.testing.assert_allclose(none, expected.astype(float), rtol=1e-13)
    total = run(lambda x, t: nn.cross_entropy(x, t, reduction="sum"), LOGITS, LABELS)
    np.testing.assert_allclose(total, float(expected.sum()), rtol=1e-14)


def test_cross_entropy_of_one_row_and_of_other_integer_types() -> None:
    expected = -float(log_softmax(LOGITS[0])[2])
    np.testing.assert_allclose(
        run(nn.cross_entropy, LOGITS[0], np.int32(2).reshape(())), expected, rtol=1e-14
    )
    for dtype in (np.int64, np.uint8):
        value = run(nn.cross_entropy, LOGITS, LABELS.astype(dtype))
        np.testing.assert_array_equal(value, run(nn.cross_entropy, LOGITS, LABELS))


def test_cross_entropy_of_probabilities() -> None:
    expected = -(SHARES * log_softmax(LOGITS)).sum(-1).mean()
    np.testing.assert_allclose(run(nn.cross_entropy, LOGITS, SHARES), float(expected), rtol=1e-14)


def test_the_gradient_of_cross_entropy_is_softmax_minus_target() -> None:
    softmax = np.exp(log_softmax(LOGITS)).astype(float)
    got = run(grad(nn.cross_entropy), LOGITS, LABELS)
    np.testing.assert_allclose(got, (softmax - one_hot(LABELS, 4)) / 6, rtol=1e-12, atol=1e-16)
    got = run(grad(nn.cross_entropy), LOGITS, SHARES)
    np.testing.assert_allclose(got, (softmax - SHARES) / 6, rtol=1e-11, atol=1e-15)


def test_cross_entropy_holds_at_logits_that_overflow_exp() -> None:
    logits = np.float32([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [3e38, 0, 0]])
    labels = np.int32([1, 0, 0])
    rows = run(lambda x, t: nn.cross_entropy(x, t, reduction="none"), logits, labels)
    np.testing.assert_allclose(rows, [2e4, np.log(3), 0], rtol=1e-6)
    gradient = run(grad(nn.cross_entropy), logits, labels)
    np.testing.assert_allclose(
        gradient * 3, [[1, -1, 0], [-2 / 3, 1 / 3, 1 / 3], [0, 0, 0]], rtol=1e-6, atol=1e-7
    )


def test_cross_entropy_is_a_minimal_graph() -> None:
    """One maximum, one exp, two row sums, and no derivative through the maximum."""

    def ops(function: Callable[..., object]) -> list[str]:
        graph = trace(function, f32[32, 10], i32[32])
        return [n.op.name for n in graph.nodes if n.op.name not in ("const", "broadcast", "reshape", "iota")]

    forward = [
        "reduce_max",
        "stop_gradient",
        "sub",
        "exp",
        "reduce_sum",
        "log",
        "eq",
        "select",
        "reduce_sum",
        "sub",
    ]
    found = ops(nn.cross_entropy)
    assert found[: len(forward)] == forward or sorted(found) == sorted([*forward, *found[len(forward) :]])
    assert len(found) - len(forward) <= 2  # the mean: a sum and a scale
    backward = ops(grad(nn.cross_entropy))
    assert backward.count("exp") == 1 and backward.count("reduce_max") == 1 and backward.count("eq") == 1


def test_binary_cross_entropy_with_logits_and_its_gradient() -> None:
    x, t = RNG.normal(0, 3, (5, 2)), RNG.uniform(0, 1, (5, 2))
    wide = x.astype(np.longdouble)
    expected = (np.log1p(np.exp(-wide)) * t + np.log1p(np.exp(wide)) * (1 - t)).mean()
    np.testing.assert_allclose(run(nn.binary_cross_entropy_with_logits, x, t), float(expected), rtol=1e-14)
    gradient = run(grad(nn.binary_cross_entropy_with_logits), x, t)
    np.testing.assert_allclose(gradient, (1 / (1 + np.exp(-x)) - t) / 10, rtol=1e-11, atol=1e-16)


def test_binary_cross_entropy_holds_at_both_ends_and_at_zero() -> None:
    x, t = np.float32([0, 200, -200, 200, -200]), np.float32([1, 1, 0, 0, 1])
    rows = run(lambda x, t: nn.binary_cross_entropy_with_logits(x, t, "none"), x, t)
    np.testing.assert_allclose(rows, [np.log(2), 0, 0, 200, 200], rtol=1e-6)
    gradient = run(grad(lambda x, t: nn.binary_cross_entropy_with_logits(x, t, "sum")), x, t)
    np.testing.assert_allclose(gradient, [-0.5, 0, 0, 1, -1], atol=1e-7)


def test_binary_targets_may_be_bools() -> None:
    x = np.array([0.5, -1.0])
    value = run(nn.binary_cross_entropy_with_logits, x, np.array([True, False]))
    np.testing.assert_allclose(value, (np.log1p(np.exp(-0.5)) + np.log1p(np.exp(-1.0))) / 2, rtol=1e-14)


@pytest.mark.parametrize(
    ("prediction", "target", "share"),
    [
        (LOGITS, LOGITS.argmax(1).astype(np.int32), 1.0),
        (np.eye(4), np.int32([0, 1, 0, 0]), 0.5),
        (np.eye(4), np.roll(np.eye(4), 1, 0), 0.0),
        (np.array([[1.0], [-1.0], [2.0], [3.0]]), np.array([[1], [0], [0], [1]]), 0.75),
        (np.array([1.0, -1.0]), np.array([0.0, 1.0]), 0.0),
    ],
)
def test_accuracy_counts_the_rows_that_are_right(
    prediction: np.ndarray, target: np.ndarray, share: float
) -> None:
    assert run(nn.accuracy, prediction, target) == share


def test_wrong_arguments_name_the_callers_line_and_what_was_expected() -> None:
    here = r".*test_losses\.py:\d+: "
    with pytest.raises(ShapeError, match=here + re.escape("mse: expected a target of shape [4, 1], got [4]")):
        trace(nn.mse, f32[4, 1], f32[4])
    with pytest.raises(
        ShapeError, match=here + re.escape("cross_entropy: expected labels [4] for logits [4, 3]")
    ):
        trace(nn.cross_entropy, f32[4, 3], i32[4, 1])
    with pytest.raises(
        ShapeError, match=here + re.escape("cross_entropy: expected labels [4, 3] for logits [4, 3, 2]")
    ):
        trace(nn.cross_entropy, f32[4, 3, 2], i32[4, 2])
    with pytest.raises(
        DTypeError, match=here + "cross_entropy: expected integer labels or float probabilities, got bool"
    ):
        trace(nn.cross_entropy, f32[4, 3], bool_[4])
    with pytest.raises(DTypeError, match=here + "cross_entropy: expected float logits, got i32"):
        trace(nn.cross_entropy, i32[4, 3], i32[4])
    with pytest.raises(ArgumentError, match=here + "mse: expected reduction of mean, sum, none, got 'avg'"):
        trace(lambda x, y: nn.mse(x, y, reduction="avg"), f64[2], f64[2])


def test_the_first_bad_label_is_named_with_its_row() -> None:
    check_labels(np.array([0, 9]), 10)
    with pytest.raises(ArgumentError, match="labels: expected integers from 0 to 9, got 10 at row 2"):
        check_labels(np.array([0, 9, 10, -1]), 10)
    with pytest.raises(ArgumentError, match="got -1 at row 1"):
        check_labels(np.array([0, -1]), 10)


@pytest.mark.peers
def test_losses_and_gradients_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    cases = [
        (nn.mse, functional.mse_loss, LOGITS, SHARES),
        (nn.cross_entropy, functional.cross_entropy, LOGITS, LABELS.astype(np.int64)),
        (nn.cross_entropy, functional.cross_entropy, LOGITS, SHARES),
        (nn.binary_cross_entropy_with_logits, functional.binary_cross_entropy_with_logits, LOGITS, SHARES),
    ]
    for ours, theirs, x, y in cases:
        leaf = torch.tensor(x, requires_grad=True)
        value = theirs(leaf, torch.tensor(y))
        value.backward()
        np.testing.assert_allclose(run(ours, x, y), value.item(), rtol=1e-14)
        np.testing.assert_allclose(run(grad(ours), x, y), leaf.grad.numpy(), rtol=1e-11, atol=1e-15)
