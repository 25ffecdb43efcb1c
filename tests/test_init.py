"""Initialisers: the stated distributions from a seed and from a traced key, PyTorch's fans and gains, clear errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

import graphc
from graphc import nn, random
from graphc.errors import ArgumentError
from graphc.frontend import init
from graphc.frontend.init import Initializer
from graphc.ir.interp import interpret
from graphc.ir.types import f32, i64, u32

SHAPE = (64, 32, 5)  # fan_in = 160, fan_out = 320
UNIFORM = {
    init.uniform(-0.3, 0.3): 0.3,
    init.fan_in_uniform(25): 0.2,
    init.xavier_uniform(): math.sqrt(6 / 480),
    init.xavier_uniform(5 / 3): 5 / 3 * math.sqrt(6 / 480),
    init.kaiming_uniform(): math.sqrt(6 / 160),
    init.kaiming_uniform(math.sqrt(5)): math.sqrt(1 / 160),
    init.kaiming_uniform(mode="fan_out", nonlinearity="relu"): math.sqrt(6 / 320),
}
NORMAL = {
    init.normal(0, 0.5): 0.5,
    init.xavier_normal(2.0): 2 * math.sqrt(2 / 480),
    init.kaiming_normal(): math.sqrt(2 / 160),
    init.kaiming_normal(mode="fan_out", nonlinearity="tanh"): 5 / 3 / math.sqrt(320),
}


def from_seed(initializer: Initializer) -> np.ndarray:
    return init.draw(initializer, 3, SHAPE)


def from_key(initializer: Initializer) -> np.ndarray:
    graph = graphc.trace(lambda key: init.draw(initializer, key, SHAPE), u32[2])
    return interpret(graph, [random.key(3)])[0]


@pytest.mark.parametrize("drawn", [from_seed, from_key])
@pytest.mark.parametrize("initializer", UNIFORM, ids=repr)
def test_uniform_initialisers_fill_their_interval(initializer: Initializer, drawn: object) -> None:
    x, bound = drawn(initializer), UNIFORM[initializer]  # type: ignore[operator]
    assert x.dtype == np.float32 and x.shape == SHAPE
    assert 0.995 * bound < abs(x).max() <= np.float32(bound)
    assert x.std() == pytest.approx(bound / math.sqrt(3), rel=0.02) and abs(x.mean()) < 0.02 * bound


@pytest.mark.parametrize("drawn", [from_seed, from_key])
@pytest.mark.parametrize("initializer", NORMAL, ids=repr)
def test_normal_initialisers_have_their_deviation(initializer: Initializer, drawn: object) -> None:
    x, std = drawn(initializer), NORMAL[initializer]  # type: ignore[operator]
    assert x.std() == pytest.approx(std, rel=0.03) and abs(x.mean()) < 0.04 * std
    assert (abs(x) > std).mean() == pytest.approx(0.3173, abs=0.02)


@pytest.mark.parametrize("drawn", [from_seed, from_key])
@pytest.mark.parametrize("settings", [(0, 1, -2, 2), (0.5, 0.02, -2, 2), (1, 2, 2, 3), (0, 1, -0.1, 4)])
def test_truncated_normal_numbers_have_their_distribution_function(
    settings: tuple[float, ...], drawn: object
) -> None:
    mean, std, low, high = settings
    x = drawn(init.trunc_normal(*settings)).reshape(-1).astype(np.float64)  # type: ignore[operator]
    assert low - 1e-6 <= x.min() and x.max() <= high + 1e-6
    exact = stats.truncnorm((low - mean) / std, (high - mean) / std, mean, std)
    assert stats.kstest(x, exact.cdf).pvalue > 1e-3


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (4, 4), (3, 2, 5)])
def test_orthogonal_rows_or_columns_are_orthonormal(shape: tuple[int, ...]) -> None:
    w = init.draw(init.orthogonal(2.0), 1, shape).reshape(shape[0], -1) / 2
    product = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(product, np.eye(len(product)), atol=1e-6)


def test_an_exported_init_fills_the_parameters_of_a_model_from_a_seed() -> None:
    model = nn.Sequential(
        nn.Linear(8, 6, weight_init=init.constant(0.5)), nn.ReLU(), nn.Linear(6, 2), nn.Linear(2, 2)
    )
    model[3].count = nn.Buffer(np.float32([4, 5]))
    compiled = graphc.compile(lambda seed: model.init(random.key(seed)), i64[()])
    params, buffers = compiled(np.int64(3))
    assert {n: p.shape for n, p in params.items()} == {n: p.shape for n, p in model.parameters.items()}
    np.testing.assert_array_equal(params["0.weight"], np.full((6, 8), 0.5, np.float32))
    np.testing.assert_array_equal(buffers["3.count"], [4, 5])
    assert abs(params["2.weight"]).max() <= 1 / math.sqrt(6)
    assert (params["2.bias"] != params["3.bias"]).all()  # every entry has a stream of its own
    again, other = compiled(np.int64(3))[0], compiled(np.int64(4))[0]
    for name in ("2.weight", "2.bias", "3.weight"):
        np.testing.assert_array_equal(params[name], again[name])
        assert (params[name] != other[name]).all()


def test_wrong_settings_are_refused() -> None:
    for make, text in (
        (
            lambda: init.draw(init.xavier_uniform(), 0, 3),
            "expected a weight of at least 2 dimensions, got [3]",
        ),
        (lambda: init.kaiming_normal(mode="fan"), "kaiming: mode: expected 'fan_in' or 'fan_out', got 'fan'"),
        (lambda: init.kaiming_normal(nonlinearity="x"), "gain: expected one of leaky_relu, linear"),
        (lambda: init.trunc_normal(std=0), "trunc_normal: expected a finite mean and std > 0, got 0.0 and 0"),
        (
            lambda: init.trunc_normal(0, 1, 2, -2),
            "expected low < high within 6 std of the mean, got 2 and -2",
        ),
        (lambda: init.trunc_normal(0, 1, 8, 9), "expected low < high within 6 std of the mean, got 8 and 9"),
        (lambda: from_key(init.orthogonal()), "expected a seed, got a traced key"),
    ):
        with pytest.raises(ArgumentError) as caught:
            make()
        assert text in str(caught.value)
    with pytest.raises(ArgumentError, match="expected shape"):
        graphc.trace(lambda key: init.draw(lambda source, shape: source.normal(0, 1, (2,)), key, 3), u32[2])
    assert init.draw(init.ones(), 0, 2, f32).tolist() == [1, 1]


@pytest.mark.peers
def test_gains_and_bounds_are_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    for name in ("linear", "sigmoid", "tanh", "relu", "selu", "leaky_relu"):
        assert init.gain(name) == pytest.approx(torch.nn.init.calculate_gain(name), rel=1e-12)
    weight = torch.empty(SHAPE)
    for initializer, bound in UNIFORM.items():
        if isinstance(initializer, init.xavier_uniform):
            torch.nn.init.xavier_uniform_(weight, initializer.gain)
        elif isinstance(initializer, init.kaiming_uniform):
            torch.nn.init.kaiming_uniform_(weight, initializer.a, initializer.mode, initializer.nonlinearity)
        else:
            continue
        assert 0.99 * bound < float(weight.abs().max()) <= bound * 1.000001
