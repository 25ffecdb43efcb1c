"""Distributions of graphc.random: their distribution functions by SciPy, the same draws compiled, orders, clear errors."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from ptx.programs import build_program
from scipy import stats
from test_array_functions import check, run

import graphc
from graphc import random
from graphc.errors import ArgumentError, DTypeError, GraphcError, ShapeError
from graphc.frontend.array import Array
from graphc.ir.interp import interpret
from graphc.ir.types import f32, u32

LINE = re.escape(__file__) + r":\d+: "
KEY = random.key(2**33 + 5)
N = 50_000

Draw = Callable[[Array, object, str], Array]
CONTINUOUS: dict[str, tuple[Draw, object]] = {
    "exponential": (lambda k, n, t: random.exponential(k, n, t), stats.expon()),
    "laplace": (lambda k, n, t: random.laplace(k, n, t), stats.laplace()),
    "logistic": (lambda k, n, t: random.logistic(k, n, t), stats.logistic()),
    "cauchy": (lambda k, n, t: random.cauchy(k, n, t), stats.cauchy()),
    "gumbel": (lambda k, n, t: random.gumbel(k, n, t), stats.gumbel_r()),
    "truncated normal": (lambda k, n, t: random.truncated_normal(k, -1, 2.5, n, t), stats.truncnorm(-1, 2.5)),
    "one tail": (lambda k, n, t: random.truncated_normal(k, 2, math.inf, n, t), stats.truncnorm(2, np.inf)),
    "gamma 0.3": (lambda k, n, t: random.gamma(k, 0.3, n, t), stats.gamma(0.3)),
    "gamma 1": (lambda k, n, t: random.gamma(k, 1, n, t), stats.gamma(1)),
    "gamma 50": (lambda k, n, t: random.gamma(k, 50.0, n, t), stats.gamma(50)),
    "beta": (lambda k, n, t: random.beta(k, 0.5, 2.0, n, t), stats.beta(0.5, 2)),
    "t": (lambda k, n, t: random.student_t(k, 3.0, n, t), stats.t(3)),
}
both = pytest.mark.parametrize("dtype", ["f32", "f64"])


def drawn(fn: Callable[[Array], object], key: np.ndarray = KEY) -> np.ndarray:
    return np.asarray(graphc.compile(fn, u32[2])(key))


@both
@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_distribution_function_is_scipys(name: str, dtype: str) -> None:
    draw, distribution = CONTINUOUS[name]
    x = drawn(lambda key: draw(key, N, dtype))
    assert x.shape == (N,) and x.dtype == graphc.finfo(dtype).dtype.numpy and np.isfinite(x).all()
    assert stats.kstest(x.astype(np.float64), distribution.cdf).pvalue > 1e-3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name", ["exponential", "laplace", "logistic", "gumbel", "truncated normal", "gamma 50", "beta"]
)
def test_mean_and_variance_are_scipys(name: str) -> None:
    draw, distribution = CONTINUOUS[name]
    x = drawn(lambda key: draw(key, N, "f64"), random.key(77))
    mean, variance, excess = (float(m) for m in distribution.stats("mvk"))  # type: ignore[attr-defined]
    assert x.mean() == pytest.approx(mean, abs=4.5 * math.sqrt(variance / N))
    assert x.var() == pytest.approx(variance, abs=4.5 * variance * math.sqrt((excess + 2) / N))


@both
@pytest.mark.parametrize("name", CONTINUOUS)
def test_compiled_draws_are_the_interpreters_but_for_rounding(name: str, dtype: str) -> None:
    draw = CONTINUOUS[name][0]
    graph = graphc.trace(lambda key: draw(key, (7, 11), dtype), u32[2])
    (want,) = interpret(graph, [KEY])
    bound = 2e-5 if dtype == "f32" else 1e-12
    np.testing.assert_allclose(graphc.compile(graph)(KEY), want, bound, bound)


@pytest.mark.parametrize("mean", [0.0, 0.5, 9.9, 10.0, 30.0, 1000.0, 1e6])
def test_poisson_numbers_have_scipys_probabilities(mean: float) -> None:
    x = drawn(lambda key: random.poisson(key, mean, N))
    assert x.dtype == np.int32
    if mean == 0:
        assert not x.any()
        return
    distribution = stats.poisson(mean)
    edges = np.unique(distribution.ppf(np.linspace(0.02, 0.98, 25)))
    seen = np.histogram(x, np.array([-1, *(edges + 0.5), 1e9]))[0]
    asked = np.diff([0, *distribution.cdf(edges), 1]) * N
    assert stats.chisquare(seen, asked * seen.sum() / asked.sum()).pvalue > 1e-3


def test_poisson_means_may_be_an_array_on_both_sides_of_ten() -> None:
    means = np.float32([[0.5], [3], [20], [5000]])
    graph = graphc.trace(lambda key, m: random.poisson(key, m, (4, 4000)), u32[2], means)
    x = np.asarray(graphc.compile(graph)(KEY, means))
    np.testing.assert_array_equal(x[:, :50], interpret(graph, [KEY, means])[0][:, :50])
    for row, mean in zip(x, means[:, 0], strict=True):
        assert row.mean() == pytest.approx(mean, abs=4.5 * math.sqrt(mean / 4000))
        assert row.var() == pytest.approx(mean, rel=0.12)


def test_parameters_broadcast_and_give_the_shape() -> None:
    a = np.float32([[0.4], [5]])
    shapes = graphc.trace(
        lambda key, a: (random.gamma(key, a), random.beta(key, a, a[0]), random.student_t(key, a, (2, 3))),
        u32[2], a,
    ).output_types  # fmt: skip
    assert shapes == (f32[2, 1], f32[2, 1], f32[2, 3])
    x = np.asarray(graphc.compile(lambda key, a: random.gamma(key, a, (2, 20_000)), u32[2], a)(KEY, a))
    np.testing.assert_allclose(x.mean(axis=1), a[:, 0], rtol=0.06)


def test_dirichlet_vectors_sum_to_one_and_have_the_mean() -> None:
    concentration = np.float32([0.2, 1, 3])
    x = drawn(lambda key: random.dirichlet(key, concentration, N))
    assert x.shape == (N, 3) and (x >= 0).all()
    np.testing.assert_allclose(x.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(x.mean(0), concentration / concentration.sum(), atol=0.01)
    assert stats.kstest(x[:, 2], stats.beta(3, 1.2).cdf).pvalue > 1e-3


def test_multivariate_normal_vectors_have_mean_and_covariance() -> None:
    mean, factor = np.float64([1, -2]), np.float64([[2, 0], [-1, 0.5]])
    x = drawn(lambda key: random.multivariate_normal(key, mean, factor, N, "f64"))
    np.testing.assert_allclose(x.mean(0), mean, atol=0.05)
    np.testing.assert_allclose(np.cov(x.T), factor @ factor.T, atol=0.1)
    standard = np.linalg.solve(factor, (x - mean).T)
    assert stats.kstest(standard[1], stats.norm.cdf).pvalue > 1e-3
    graphc.check_grads(
        lambda m, f: random.multivariate_normal(KEY, m, f, 3, "f64") ** 2, [mean, factor], order=1
    )


# ---------------------------------------------------------------------------------------------------- picks and orders


def test_categorical_has_the_softmax_of_the_logits() -> None:
    p = np.array([0.1, 0.2, 0.3, 0.4])
    logits = np.log(p).astype(np.float32)
    x = drawn(lambda key: random.categorical(key, logits, shape=N))
    assert x.dtype == np.int32
    assert stats.chisquare(np.bincount(x, minlength=4), p * N).pvalue > 1e-3
    columns = np.stack([logits, -1e9 * (np.arange(4) != 2)], axis=1).astype(np.float32)
    y = drawn(lambda key: random.categorical(key, columns, axis=0, shape=(30, 2)))
    assert (y[:, 1] == 2).all() and len(set(y[:, 0])) == 4
    assert graphc.trace(lambda k, v: random.categorical(k, v, axis=0), u32[2], columns).output_types[
        0
    ].shape == (2,)


def test_permutations_are_permutations_and_equally_probable() -> None:
    x = drawn(lambda key: random.permutation(key, 1000))
    assert x.dtype == np.int32 and sorted(x) == list(range(1000)) and (x != np.arange(1000)).any()
    table = np.arange(24, dtype=np.float32).reshape(4, 6)
    y = drawn(lambda key: random.permutation(key, table, axis=1))
    assert sorted(map(tuple, y.T)) == sorted(map(tuple, table.T))

    def many(key: Array) -> Array:
        keys = random.split(key, 600)
        return graphc.stack([random.permutation(keys[i], 3) for i in range(600)])

    orders = interpret(graphc.trace(many, u32[2]), [KEY])[0]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 6 and stats.chisquare(counts).pvalue > 1e-3


def test_choice() -> None:
    table = np.float32([[0, 1], [10, 11], [20, 21], [30, 31]])
    p = np.float32([1, 0, 2, 5])
    x = drawn(lambda key: random.choice(key, 4, N, p=p))
    assert stats.chisquare(np.bincount(x, minlength=4)[[0, 2, 3]], N * np.array([1, 2, 5]) / 8).pvalue > 1e-3
    assert not (x == 1).any()
    y = drawn(lambda key: random.choice(key, table, (3, 5)))
    assert y.shape == (3, 5, 2) and set(map(tuple, y.reshape(-1, 2))) <= set(map(tuple, table))
    all_of_them = drawn(lambda key: random.choice(key, table, 4, replace=False))
    assert sorted(map(tuple, all_of_them)) == sorted(map(tuple, table))
    weighted = drawn(lambda key: random.choice(key, 4, 3, replace=False, p=p))
    assert sorted(weighted) == [0, 2, 3]
    assert drawn(lambda key: random.choice(key, table, 2, axis=1)).shape == (4, 2)
    assert 0 <= drawn(lambda key: random.choice(key, 7)) < 7


def test_draws_have_derivatives_along_locations_and_none_along_shapes() -> None:
    def fn(a: Array, s: Array) -> Array:
        return (random.gamma(KEY, a, 5, "f64") * s).sum()

    da, ds = run(graphc.grad(fn, wrt=(0, 1)), np.float64(2.0), np.float64(3.0))  # type: ignore[misc]
    assert np.asarray(da) == 0
    check(ds, drawn(lambda key: random.gamma(key, 2.0, 5, "f64")).sum(), tolerance=1e-9)
    bounds = [np.float64(-0.5), np.float64(1.5)]
    graphc.check_grads(lambda a, b: random.truncated_normal(KEY, a, b, 5, "f64"), bounds, order=1)


@pytest.mark.parametrize(
    "fn",
    [
        lambda key: random.gamma(key, 0.7, 9),
        lambda key: random.poisson(key, 12.0, 5),
        lambda key: random.permutation(key, 70),
        lambda key: random.truncated_normal(key, -2, 2, 33),
    ],
)
def test_threads_draw_the_same(fn: Callable[[Array], Array]) -> None:
    built = build_program(graphc.trace(fn, u32[2]))
    (want,) = interpret(built.graph, [KEY])
    np.testing.assert_allclose(built.run([KEY])[0], want, rtol=2e-5, atol=1e-6)


ERRORS: list[tuple[Callable[[Array], object], type[GraphcError], str]] = [
    (lambda key: random.exponential(key, 3, "i32"), DTypeError, "exponential: expected a float type, got i32"),
    (lambda key: random.gamma(key, 0.0), ArgumentError, "gamma: a: expected a finite number greater than 0, got 0.0"),
    (lambda key: random.student_t(key, -1), ArgumentError, "student_t: df: expected a finite number greater than 0, got -1"),
    (lambda key: random.gamma(key, np.ones(3), (2, 2)), ShapeError, "gamma: expected shapes that broadcast together"),
    (lambda key: random.gamma(key, np.ones((2, 3)), 3), ShapeError, r"gamma: expected parameters that broadcast to \[3\]"),
    (lambda key: random.truncated_normal(key, 1, 1), ArgumentError, "truncated_normal: expected low < high, got 1 and 1"),
    (lambda key: random.poisson(key, -1), ArgumentError, "poisson: lam: expected a finite number of at least 0, got -1"),
    (lambda key: random.poisson(key, 1, dtype="f32"), DTypeError, "poisson: expected an integer type, got f32"),
    (lambda key: random.dirichlet(key, 1.0), ShapeError, "dirichlet: expected a concentration of rank 1 or more"),
    (lambda key: random.categorical(key, np.ones((2, 3)), shape=3), ShapeError, "categorical: expected shapes"),
    (lambda key: random.permutation(key, -1), ArgumentError, "permutation: x: expected a number of at least 0, got -1"),
    (lambda key: random.choice(key, 3, 4, replace=False), ArgumentError, "choice: a: expected at least 4 to choose from"),
    (lambda key: random.permutation(key, 3.5), ShapeError, r"permutation: x: expected an int or an array .*, got f32\[\]"),
    (lambda key: random.choice(key, 0), ArgumentError, "choice: a: expected at least 1 to choose from, got 0"),
    (lambda key: random.choice(key, 3, p=np.ones(2)), ShapeError, r"choice: p: expected shape \[3\], got \[2\]"),
    (lambda key: random.multivariate_normal(key, np.ones(2), np.ones((3, 3))), ShapeError, "multivariate_normal: expected a"),
]  # fmt: skip


@pytest.mark.parametrize(("fn", "kind", "text"), ERRORS)
def test_errors_name_the_users_line_and_what_was_expected(
    fn: Callable[[Array], object], kind: type[GraphcError], text: str
) -> None:
    with pytest.raises(kind, match=LINE + text):
        graphc.trace(fn, u32[2])
