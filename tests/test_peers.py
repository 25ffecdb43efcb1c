"""The same training in PyTorch and JAX: losses over 100 steps and gradients from the same start."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest

import graphc
from graphc.frontend import losses
from graphc.frontend.array import Array

pytestmark = pytest.mark.peers

RATE, MOMENTUM, STEPS = 0.1, 0.9, 100
SIZES = (64, 128, 64, 10)
Arrays = list[np.ndarray]


def start() -> tuple[Arrays, np.ndarray, np.ndarray]:
    """Weights [out, in] and biases by turns, a batch, its labels."""
    rng = np.random.default_rng(4)
    parameters: Arrays = []
    for fan_in, fan_out in pairwise(SIZES):
        bound = fan_in**-0.5
        parameters += [
            rng.uniform(-bound, bound, s).astype(np.float32) for s in ((fan_out, fan_in), (fan_out,))
        ]
    return parameters, rng.normal(size=(32, 64)).astype(np.float32), rng.integers(0, 10, 32).astype(np.int32)


def loss(parameters: list[Array], x: Array, y: Array) -> Array:
    h = x
    for i in range(0, len(parameters), 2):
        h = h @ parameters[i].T + parameters[i + 1]
        if i + 2 < len(parameters):
            h = graphc.tanh(h)
    return losses.cross_entropy(h, y)


def ours() -> tuple[list[float], Arrays]:
    """The loss of each step, and the first gradients."""
    parameters, x, y = start()
    velocity = [np.zeros_like(p) for p in parameters]

    def step(p: list[Array], v: list[Array], x: Array, y: Array) -> tuple[Array, list[Array], list[Array]]:
        value, gradients = graphc.value_and_grad(loss)(p, x, y)
        moved = [MOMENTUM * a + g for a, g in zip(v, gradients, strict=True)]
        return value, [a - RATE * m for a, m in zip(p, moved, strict=True)], moved

    gradients = graphc.compile(graphc.grad(loss), parameters, x, y)(parameters, x, y)
    train = graphc.compile(step, parameters, velocity, x, y, donate=("p", "v"))
    values = []
    for _ in range(STEPS):
        value, parameters, velocity = train(parameters, velocity, x, y)
        values.append(float(value))
    return values, gradients


def theirs_torch(torch: ModuleType) -> tuple[list[float], Arrays]:
    arrays, x, y = start()
    parameters = [torch.tensor(p, requires_grad=True) for p in arrays]
    optimizer = torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM)
    batch, labels = torch.tensor(x), torch.tensor(y.astype(np.int64))
    values, first = [], []
    for step in range(STEPS):
        h = batch
        for i in range(0, len(parameters), 2):
            h = torch.nn.functional.linear(h, parameters[i], parameters[i + 1])
            h = torch.tanh(h) if i + 2 < len(parameters) else h
        value = torch.nn.functional.cross_entropy(h, labels)
        optimizer.zero_grad()
        value.backward()
        if step == 0:
            first = [p.grad.numpy().copy() for p in parameters]
        optimizer.step()
        values.append(float(value.detach()))
    return values, first


def theirs_jax(jax: ModuleType) -> tuple[list[float], Arrays]:
    parameters, x, y = start()

    def objective(p: Arrays) -> object:
        h = x
        for i in range(0, len(p), 2):
            h = h @ p[i].T + p[i + 1]
            h = jax.numpy.tanh(h) if i + 2 < len(p) else h
        return -jax.nn.log_softmax(h)[np.arange(32), y].mean()

    both = jax.jit(jax.value_and_grad(objective))
    velocity = [np.zeros_like(p) for p in parameters]
    values, first = [], []
    for step in range(STEPS):
        value, gradients = both(parameters)
        if step == 0:
            first = [np.asarray(g) for g in gradients]
        velocity = [
            np.float32(MOMENTUM) * v + np.asarray(g) for v, g in zip(velocity, gradients, strict=True)
        ]
        parameters = [p - np.float32(RATE) * v for p, v in zip(parameters, velocity, strict=True)]
        values.append(float(value))
    return values, first


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("peer", "train"), [("torch", theirs_torch), ("jax", theirs_jax)])
def test_training_follows_the_peer(
    peer: str, train: Callable[[ModuleType], tuple[list[float], Arrays]]
) -> None:
    (values, gradients), (their_values, their_gradients) = ours(), train(pytest.importorskip(peer))
    assert values[-1] < 0.1 * values[0]
    np.testing.assert_allclose(values, their_values, rtol=1e-4)
    for ours_, theirs in zip(gradients, their_gradients, strict=True):
        assert np.linalg.norm(ours_ - theirs) <= 1e-5 * np.linalg.norm(theirs)
