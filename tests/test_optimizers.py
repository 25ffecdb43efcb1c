"""Adaptive optimisers, wrappers and L-BFGS against their formulas written down in numpy, in f64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import graphc
from graphc.errors import ArgumentError
from graphc.frontend import nn, optim
from graphc.frontend.array import Array
from graphc.frontend.optim import schedules
from graphc.frontend.tracer import trace

RNG = np.random.default_rng(2)
START = {"w": RNG.normal(size=(3, 2)), "b": RNG.normal(size=3)}
GRADS = [{name: RNG.normal(size=p.shape) for name, p in START.items()} for _ in range(8)]
Arrays = dict[str, np.ndarray]
RATE = 0.05


def follow(
    optimizer: optim.Optimizer, grads: list[Arrays] = GRADS, target: str = "interpreter"
) -> tuple[Arrays, Arrays]:
    params, state = START, optimizer.init(START)
    step = graphc.compile(optimizer.update, params, grads[0], state, np.float64(RATE), target=target)
    for grad in grads:
        params, state = step(params, grad, state, np.float64(RATE))  # type: ignore[misc]
    return params, state


def adagrad(w: np.ndarray, grads: list[np.ndarray]) -> np.ndarray:
    total = np.zeros_like(w)
    for t, g in enumerate(grads):
        g = g + 0.1 * w
        total = total + g * g
        w = w - RATE / (1 + t * 0.01) * g / (np.sqrt(total) + 1e-10)
    return w


def rmsprop(w: np.ndarray, grads: list[np.ndarray]) -> np.ndarray:
    v, mean, b = (np.zeros_like(w) for _ in range(3))
    for g in grads:
        v = 0.9 * v + 0.1 * g * g
        mean = 0.9 * mean + 0.1 * g
        b = 0.8 * b + g / (np.sqrt(v - mean * mean) + 1e-8)
        w = w - RATE * b
    return w


def adadelta(w: np.ndarray, grads: list[np.ndarray]) -> np.ndarray:
    v, u = np.zeros_like(w), np.zeros_like(w)
    for g in grads:
        v = 0.9 * v + 0.1 * g * g
        delta = np.sqrt(u + 1e-6) / np.sqrt(v + 1e-6) * g
        u = 0.9 * u + 0.1 * delta * delta
        w = w - RATE * delta
    return w


def nadam(w: np.ndarray, grads: list[np.ndarray]) -> np.ndarray:
    m, v, product = np.zeros_like(w), np.zeros_like(w), 1.0
    for t, g in enumerate(grads, 1):
        now, later = (0.9 * (1 - 0.5 * 0.96 ** (s * 4e-3)) for s in (t, t + 1))
        product *= now
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        root = np.sqrt(v / (1 - 0.999**t)) + 1e-8
        w = w - RATE * ((1 - now) / (1 - product) * g + later / (1 - product * later) * m) / root
    return w


def radam(w: np.ndarray, grads: list[np.ndarray]) -> np.ndarray:
    m, v, limit = np.zeros_like(w), np.zeros_like(w), 2 / 0.001 - 1
    for t, g in enumerate(grads, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        length = limit - 2 * t * 0.999**t / (1 - 0.999**t)
        step = m / (1 - 0.9**t)
        if length > 5:
            factor = (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)
            step = step * np.sqrt(1 - 0.999**t) / (np.sqrt(v) + 1e-8) * np.sqrt(factor)
        w = w - RATE * step
    return w


def lion(w: np.ndarray, grads: list[np.ndarray]) -> np.ndarray:
    m = np.zeros_like(w)
    for g in grads:
        w = w - RATE * 0.1 * w - RATE * np.sign(0.9 * m + 0.1 * g)
        m = 0.99 * m + 0.01 * g
    return w


def adafactor(w: np.ndarray, grads: list[np.ndarray]) -> np.ndarray:
    r, c, v = (np.zeros(w.shape[:1]), np.zeros(w.shape[-1:]), np.zeros_like(w))
    eps = np.finfo(np.float64).eps
    for t, g in enumerate(grads, 1):
        share = t**-0.8
        size = max(1e-3, np.sqrt((w**2).mean())) * min(RATE, t**-0.5)
        if w.ndim == 2:
            r, c = r + share * ((g**2).mean(1) - r), c + share * ((g**2).mean(0) - c)
            estimate = np.outer(r, c) / max(r.mean(), eps)
        else:
            estimate = v = v + share * (g**2 - v)
        u = g / np.sqrt(np.maximum(estimate, eps**2))
        w = w - size / max(1.0, np.sqrt((u**2).mean())) * u
    return w


FORMULAS: dict[str, tuple[optim.Optimizer, Callable[[np.ndarray, list[np.ndarray]], np.ndarray]]] = {
    "adagrad": (optim.Adagrad(1.0, lr_decay=0.01, weight_decay=0.1), adagrad),
    "rmsprop": (optim.RMSprop(1.0, alpha=0.9, momentum=0.8, centered=True), rmsprop),
    "adadelta": (optim.Adadelta(1.0), adadelta),
    "nadam": (optim.NAdam(1.0), nadam),
    "radam": (optim.RAdam(1.0), radam),
    "lion": (optim.Lion(1.0, weight_decay=0.1), lion),
    "adafactor": (optim.Adafactor(1.0), adafactor),
}


@pytest.mark.parametrize("target", ["interpreter", "cpu"])
@pytest.mark.parametrize("name", FORMULAS)
def test_an_optimiser_follows_its_formula(name: str, target: str) -> None:
    optimizer, formula = FORMULAS[name]
    got, _ = follow(optimizer, target=target)
    for name, start in START.items():
        np.testing.assert_allclose(got[name], formula(start, [g[name] for g in GRADS]), rtol=1e-10)


@pytest.mark.parametrize("name", FORMULAS)
def test_f32_weights_and_states_stay_f32_and_f32_is_near_f64(name: str) -> None:
    optimizer = FORMULAS[name][0]
    params = {n: p.astype(np.float32) for n, p in START.items()}
    state = optimizer.init(params)
    grads = [{n: g.astype(np.float32) for n, g in grad.items()} for grad in GRADS]
    step = graphc.compile(optimizer.update, params, grads[0], state, np.float64(RATE))
    for grad in grads:
        params, state = step(params, grad, state, np.float64(RATE))  # type: ignore[misc]
    assert {a.dtype.name for a in (*params.values(), *state.values())} <= {"float32", "int32"}
    want, _ = follow(optimizer)
    for n, p in params.items():
        np.testing.assert_allclose(p, want[n], rtol=2e-4, atol=2e-5)


def test_maximize_changes_the_sign_of_the_gradients() -> None:
    up, _ = follow(optim.Adam(maximize=True), [{n: -g for n, g in grad.items()} for grad in GRADS])
    down, _ = follow(optim.Adam())
    for name in START:
        np.testing.assert_array_equal(up[name], down[name])


# -- wrappers -----------------------------------------------------------------------------------------------------------


def test_clipping_by_norm_scales_all_gradients_by_one_factor() -> None:
    got, _ = follow(optim.clip_by_norm(optim.SGD(1.0), 0.5), GRADS[:1])
    norm = np.sqrt(sum((g**2).sum() for g in GRADS[0].values()))
    for name, start in START.items():
        np.testing.assert_allclose(got[name], start - RATE * GRADS[0][name] * 0.5 / (norm + 1e-6), rtol=1e-13)
    kept, _ = follow(optim.clip_by_norm(optim.SGD(1.0), 100.0), GRADS[:1])
    for name, start in START.items():
        np.testing.assert_allclose(kept[name], start - RATE * GRADS[0][name], rtol=1e-15)


def test_clipping_by_value_clips_each_element() -> None:
    got, _ = follow(optim.clip_by_value(optim.SGD(1.0), 0.5), GRADS[:1])
    for name, start in START.items():
        np.testing.assert_allclose(got[name], start - RATE * np.clip(GRADS[0][name], -0.5, 0.5), rtol=1e-15)


def test_accumulated_micro_batches_are_one_large_batch() -> None:
    small, state = follow(optim.accumulate(optim.Adam(1.0), 4), target="cpu")
    large, _ = follow(
        optim.Adam(1.0), [{n: sum(g[n] for g in GRADS[i : i + 4]) / 4 for n in START} for i in (0, 4)]
    )
    for name in START:
        np.testing.assert_allclose(small[name], large[name], rtol=1e-12)
    assert state["step"] == 2 and state["micro_step"] == 0 and not state["accumulated.w"].any()
    between, state = follow(optim.accumulate(optim.Adam(1.0), 4), GRADS[:3])
    np.testing.assert_array_equal(between["w"], START["w"])
    assert state["step"] == 0 and state["micro_step"] == 3


def test_averages_follow_the_weights() -> None:
    _, state = follow(optim.ema(optim.SGD(1.0), 0.9))
    w = average = START["w"]
    for grad in GRADS:
        w = w - RATE * grad["w"]
        average = 0.9 * average + 0.1 * w
    np.testing.assert_allclose(state["ema.w"], average, rtol=1e-13)


def test_groups_have_optimisers_rates_and_decays_of_their_own() -> None:
    mixed = optim.groups({"w": optim.SGD(0.1, momentum=0.9)}, default=optim.Lion(0.2, weight_decay=0.1))
    got, state = follow(mixed)
    alone, _ = follow(optim.SGD(0.1, momentum=0.9))
    np.testing.assert_allclose(got["w"], alone["w"], rtol=1e-13)
    m, b = np.zeros(3), START["b"]
    for grad in GRADS:
        b = (
            b - 2 * RATE * 0.1 * b - 2 * RATE * np.sign(0.9 * m + 0.1 * grad["b"])
        )  # the second rate is twice the first
        m = 0.99 * m + 0.01 * grad["b"]
    np.testing.assert_allclose(got["b"], b, rtol=1e-12)
    assert sorted(state) == ["groups.0.momentum.w", "groups.1.exp_avg.b"]


def test_groups_name_what_fits_nothing() -> None:
    with pytest.raises(
        ArgumentError, match=r"groups: bias.\*: expected a pattern of a parameter's name, got none of w, b"
    ):
        optim.groups({"bias.*": optim.SGD(0.1)}, default=optim.SGD(0.1)).init(START)
    with pytest.raises(ArgumentError, match="groups: b: expected a pattern that fits it or a default, got w"):
        optim.groups({"w": optim.SGD(0.1)}).init(START)
    with pytest.raises(
        ArgumentError, match=r"test_optimizers.py:\d+: groups: expected at least one optimiser"
    ):
        optim.groups({})


def test_a_state_that_is_not_the_parameters_is_one_clear_error() -> None:
    params, state = START, optim.Adam().init(START)
    bad = {**state, "exp_avg.w": np.zeros(4), "exp_avg_sq.b": np.zeros(3, np.float32)}
    with pytest.raises(
        ArgumentError,
        match=r"update: state: exp_avg.w: expected f64\[3,2\], got f64\[4\]; exp_avg_sq.b: expected f64\[3\], got f32\[3\]",
    ):
        trace(optim.Adam().update, params, params, bad, np.float64(0.1))
    del bad["step"]
    with pytest.raises(ArgumentError, match=r"update: state: .*missing \['step'\], unknown \[\]"):
        trace(optim.Adam().update, params, params, bad, np.float64(0.1))


def test_settings_out_of_range_are_named() -> None:
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: optim.RMSprop(alpha=1.5), "RMSprop: alpha: expected a number from 0 to 1, got 1.5"),
        (lambda: optim.Adafactor(beta2_decay=0.5), "Adafactor: beta2_decay: expected a number of at most 0, got 0.5"),
        (lambda: optim.Lion(betas=(1.0, 0.9)), r"Lion: betas: expected two numbers in \[0, 1\)"),
        (lambda: optim.clip_by_norm(optim.SGD(0.1), -1), r"py:\d+: clip_by_norm: limit: expected a finite number"),
        (lambda: optim.accumulate(optim.SGD(0.1), 0), "accumulate: steps: expected an integer of at least 1, got 0"),
        (lambda: optim.ema(optim.SGD(0.1), 2), "ema: decay: expected a number from 0 to 1, got 2"),
        (lambda: optim.LBFGS(line_search="armijo"), "line_search: expected 'strong_wolfe' or None, got 'armijo'"),
        (lambda: schedules.Step(0), "Step: size: expected an integer of at least 1, got 0"),
        (lambda: schedules.MultiStep((3, 1)), "MultiStep: milestones: expected growing integers"),
        (lambda: schedules.OneCycle(10, anneal="exp"), "OneCycle: anneal: expected 'cos' or 'linear', got 'exp'"),
        (lambda: schedules.sequence([schedules.Step(1)], [3]), "sequence: milestones: expected 0 growing integers"),
    ]  # fmt: skip
    for make, text in cases:
        with pytest.raises(ArgumentError, match=text):
            make()


# -- L-BFGS -------------------------------------------------------------------------------------------------------------


def rosenbrock(x: Array) -> Array:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


@pytest.mark.parametrize("target", ["interpreter", "cpu"])
def test_minimize_finds_the_valleys_floor_in_few_evaluations(target: str) -> None:
    found = graphc.minimize(rosenbrock, np.full(6, -0.5), target=target)
    np.testing.assert_allclose(found.x, np.ones(6), atol=1e-6)
    assert found.converged and found.value < 1e-12 and found.evaluations < 120


def test_minimize_takes_nests_and_other_optimisers() -> None:
    def distance(p: dict[str, Array]) -> Array:
        return ((p["a"] - 2) ** 2).sum() + ((p["b"][0] + 1) ** 2).sum()

    start = {"a": np.zeros((2, 2), np.float32), "b": [np.float32([5.0])]}
    for method in ("lbfgs", optim.SGD(0.1, momentum=0.5)):
        found = graphc.minimize(distance, start, method)
        np.testing.assert_allclose(found.x["a"], np.full((2, 2), 2.0), atol=1e-3)  # type: ignore[index]
        np.testing.assert_allclose(found.x["b"][0], [-1.0], atol=1e-3)  # type: ignore[index]
        assert found.converged
    short = graphc.minimize(distance, start, optim.SGD(0.01), steps=3)
    assert not short.converged and short.evaluations == 3
    assert start["b"][0] == 5  # type: ignore[index]


def test_minimize_meets_infinite_values_on_its_way() -> None:
    """-log x + x has its minimum at 1; a step to a negative x gives NaN, which the search must back away from."""
    found = graphc.minimize(lambda x: (100 * x - graphc.log(x)).sum(), np.array([3.0]))
    np.testing.assert_allclose(found.x, [0.01], rtol=1e-5)


def test_minimize_says_what_it_takes() -> None:
    here = r"test_optimizers.py:\d+: minimize: "
    with pytest.raises(ArgumentError, match=here + "method: expected 'lbfgs' or an optimiser, got 'newton'"):
        graphc.minimize(rosenbrock, np.zeros(2), "newton")
    with pytest.raises(ArgumentError, match=here + "x0: expected float arrays, got int64"):
        graphc.minimize(rosenbrock, np.zeros(2, np.int64))
    with pytest.raises(ArgumentError, match=here + "steps: expected an integer of at least 1, got 0"):
        graphc.minimize(rosenbrock, np.zeros(2), steps=0)


def test_lbfgs_in_fit_needs_one_batch_and_ends_with_accepted_weights() -> None:
    x = RNG.normal(size=(40, 3))
    y = x @ RNG.normal(size=(3, 2)) + 1
    model = nn.Sequential(nn.Linear(3, 2, dtype=graphc.f64)).init(0)
    given = {"loss": nn.mse, "optimizer": optim.LBFGS(), "progress": False}
    with pytest.raises(ArgumentError, match="batch_size: expected all 40 rows in one batch"):
        graphc.fit(model, (x, y), batch_size=16, **given)  # type: ignore[arg-type]
    history = graphc.fit(model, (x, y), batch_size=40, epochs=40, validation=(x, y), **given)  # type: ignore[arg-type]
    best, *_ = np.linalg.lstsq(np.hstack([x, np.ones((40, 1))]), y, rcond=None)
    np.testing.assert_allclose(model.parameters["0.weight"], best[:3].T, atol=1e-5)
    assert all(b <= a for a, b in zip(history["val_loss"], history["val_loss"][1:]))


# -- schedules ----------------------------------------------------------------------------------------------------------


def test_schedules_at_their_corners() -> None:
    warm = schedules.sequence([schedules.Linear(0.1, 1.0, 5), schedules.Cosine(10)], [5])
    np.testing.assert_allclose([warm(2.0, t) for t in (0, 5, 10, 15)], [0.2, 2.0, 1.0, 0.0], atol=1e-15)
    cycle = schedules.OneCycle(100)
    rates = [cycle(1.0, t) for t in range(100)]
    assert (
        max(rates) == rates[29] == 1.0
        and rates[0] == pytest.approx(0.04)
        and rates[-1] == pytest.approx(0.04e-4)
    )
    restarts = schedules.CosineRestarts(3, 2)
    assert [t for t in range(30) if restarts(1.0, t) == 1.0] == [0, 3, 9, 21]
