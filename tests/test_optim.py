"""Optimisers against their formulas written down in numpy, step by step in f64."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.errors import ArgumentError
from graphc.frontend import optim
from graphc.frontend.optim import Optimizer
from graphc.frontend.tracer import trace
from graphc.frontend.tree import flatten
from graphc.ir.interp import interpret

RNG = np.random.default_rng(2)
START = {"0.weight": RNG.normal(size=(3, 2)), "0.bias": RNG.normal(size=3)}
GRADS = [{name: RNG.normal(size=p.shape) for name, p in START.items()} for _ in range(4)]
Arrays = dict[str, np.ndarray]


def step(
    optimizer: Optimizer, params: Arrays, grads: Arrays, state: Arrays, rate: float
) -> tuple[Arrays, Arrays]:
    dtype = next(iter(params.values())).dtype
    args = (params, grads, state, np.array(rate, dtype))
    graph = trace(optimizer.update, *args)
    results = interpret(graph, [np.asarray(a) for a in flatten(args)[0]])
    count = len(params)
    return dict(zip(params, results[:count], strict=True)), dict(
        zip(state_names(optimizer, params), results[count:], strict=True)
    )


def state_names(optimizer: Optimizer, params: Arrays) -> list[str]:
    """The names of the new state, in the order in which update gives them."""
    found: list[str] = []

    def names(params: Arrays, grads: Arrays, state: Arrays, rate: np.ndarray) -> object:
        new_params, new_state = optimizer.update(params, grads, state, rate)  # type: ignore[arg-type]
        found.extend(new_state)
        return new_params

    trace(names, params, params, optimizer.init(params), np.array(0.0))
    return found


def follow(optimizer: Optimizer, start: Arrays, grads: list[Arrays], rate: float) -> Arrays:
    params, state = start, optimizer.init(start)
    for grad in grads:
        params, state = step(optimizer, params, grad, state, rate)
    return params


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.1), (0.8, 0.01)])
def test_sgd_follows_its_formula(momentum: float, decay: float) -> None:
    got = follow(optim.SGD(1.0, momentum=momentum, weight_decay=decay), START, GRADS, 0.05)
    for name, start in START.items():
        w, b = start.copy(), np.zeros_like(start)
        for grads in GRADS:
            b = momentum * b + (grads[name] + decay * w)
            w = w - 0.05 * b
        np.testing.assert_allclose(got[name], w, rtol=1e-14)


@pytest.mark.parametrize(("betas", "decay"), [((0.9, 0.999), 0.0), ((0.5, 0.9), 0.1), ((0.0, 0.0), 0.0)])
def test_adam_follows_its_formula(betas: tuple[float, float], decay: float) -> None:
    got = follow(optim.Adam(1.0, betas=betas, eps=1e-8, weight_decay=decay), START, GRADS, 0.05)
    for name, start in START.items():
        w, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
        for t, grads in enumerate(GRADS, start=1):
            g = grads[name] + decay * w
            m = betas[0] * m + (1 - betas[0]) * g
            v = betas[1] * v + (1 - betas[1]) * g * g
            w = w - 0.05 * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + 1e-8)
        np.testing.assert_allclose(got[name], w, rtol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_nesterovs_momentum_follows_its_formula(decay: float) -> None:
    got = follow(optim.SGD(1.0, momentum=0.9, weight_decay=decay, nesterov=True), START, GRADS, 0.05)
    for name, start in START.items():
        w, b = start.copy(), np.zeros_like(start)
        for grads in GRADS:
            g = grads[name] + decay * w
            b = 0.9 * b + g
            w = w - 0.05 * (g + 0.9 * b)
        np.testing.assert_allclose(got[name], w, rtol=1e-13)


def test_adamw_shrinks_the_weights_apart_from_the_gradients() -> None:
    got = follow(optim.AdamW(1.0, weight_decay=0.1), START, GRADS, 0.05)
    for name, start in START.items():
        w, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
        for t, grads in enumerate(GRADS, start=1):
            m = 0.9 * m + 0.1 * grads[name]
            v = 0.999 * v + 0.001 * grads[name] ** 2
            w = w - 0.05 * 0.1 * w - 0.05 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(got[name], w, rtol=1e-12)


def test_adams_first_step_in_f32_keeps_its_digits() -> None:
    """1 - 0.999 in f32 is off by 5e-5 of itself; the step must not be."""
    params, grads = {"w": np.float32([0.0])}, {"w": np.float32([0.3])}
    new, state = step(optim.Adam(), params, grads, optim.Adam().init(params), 1.0)
    np.testing.assert_allclose(new["w"], [-1.0], rtol=5e-7)
    assert state["step"] == 1 and state["step"].dtype == np.int32


def test_a_step_keeps_f32_weights_f32_whatever_the_rates_type() -> None:
    params = {"w": np.float32([1.0])}
    for optimizer in (optim.SGD(0.1, 0.9, 0.1, nesterov=True), optim.Adam(), optim.AdamW()):
        args = (params, params, optimizer.init(params), np.float64(0.1).reshape(()))
        graph = trace(optimizer.update, *args)
        assert {t.dtype.name for t in graph.output_types} <= {"f32", "i32"}


def test_state_names_follow_the_parameters() -> None:
    assert list(optim.SGD(0.1).init(START)) == []
    assert list(optim.SGD(0.1, momentum=0.9).init(START)) == ["momentum.0.weight", "momentum.0.bias"]
    state = optim.Adam().init(START)
    assert state["step"] == 0 and state["exp_avg.0.weight"].shape == (3, 2) and "exp_avg_sq.0.bias" in state


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(
        ArgumentError, match="SGD: learning_rate: expected a finite number of at least 0, got -1"
    ):
        optim.SGD(-1)
    with pytest.raises(ArgumentError, match="SGD: momentum: expected a finite number of at least 0, got nan"):
        optim.SGD(0.1, momentum=float("nan"))
    with pytest.raises(
        ArgumentError, match=r"Adam: betas: expected two numbers in \[0, 1\), got \(0.9, 1.0\)"
    ):
        optim.Adam(betas=(0.9, 1.0))
    with pytest.raises(ArgumentError, match="AdamW: eps: expected a finite number of at least 0, got -1"):
        optim.AdamW(eps=-1)
    with pytest.raises(ArgumentError, match="SGD: nesterov: expected a momentum above 0, got 0"):
        optim.SGD(0.1, nesterov=True)


def test_dicts_that_do_not_fit_together_are_named() -> None:
    params = {"w": np.float32([1.0])}
    with pytest.raises(ArgumentError, match=r"update: grads: .* missing \['w'\], unknown \['v'\]"):
        trace(optim.SGD(0.1).update, params, {"v": np.float32([1.0])}, {}, np.float32(0.1))
    with pytest.raises(ArgumentError, match=r"update: state: .* missing \['momentum.w'\]"):
        trace(optim.SGD(0.1, momentum=0.9).update, params, params, {}, np.float32(0.1))


@pytest.mark.peers
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_those_of_pytorch(decay: float) -> None:
    torch = pytest.importorskip("torch")
    pairs = [
        (optim.SGD(0.1, momentum=0.9, weight_decay=decay), torch.optim.SGD, {"momentum": 0.9}),
        (
            optim.SGD(0.1, momentum=0.9, weight_decay=decay, nesterov=True),
            torch.optim.SGD,
            {"momentum": 0.9, "nesterov": True},
        ),
        (optim.Adam(0.1, weight_decay=decay), torch.optim.Adam, {}),
        (optim.AdamW(0.1, weight_decay=decay), torch.optim.AdamW, {}),
    ]
    for ours, theirs, settings in pairs:
        leaves = {name: torch.nn.Parameter(torch.tensor(p)) for name, p in START.items()}
        peer = theirs(leaves.values(), lr=0.1, weight_decay=decay, **settings)
        for grads in GRADS:
            for name, leaf in leaves.items():
                leaf.grad = torch.tensor(grads[name])
            peer.step()
        got = follow(ours, START, GRADS, 0.1)
        for name, leaf in leaves.items():
            np.testing.assert_allclose(got[name], leaf.detach().numpy(), rtol=1e-12)
