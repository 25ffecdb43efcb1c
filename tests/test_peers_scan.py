"""Loops and branches, and their gradients, as JAX has them."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

import graphc

pytestmark = pytest.mark.peers

jax = pytest.importorskip("jax")


def rnn(np_: ModuleType, scan: Callable[..., object], reverse: bool) -> Callable[..., object]:
    def loss(p: dict[str, object], x: object) -> object:
        def step(h: object, x: object) -> tuple[object, object]:
            h = np_.tanh(x @ p["w"] + h @ p["u"] + p["b"])
            return h, h

        last, ys = scan(step, p["h"], x, reverse=reverse)
        return (ys**2).sum() + np_.sin(last).sum()

    return loss


def gru(np_: ModuleType, scan: Callable[..., object], reverse: bool) -> Callable[..., object]:
    def loss(p: dict[str, object], x: object) -> object:
        def step(h: object, x: object) -> tuple[object, object]:
            z = 1 / (1 + np_.exp(-(x @ p["w"] + h @ p["u"])))
            h = (1 - z) * h + z * np_.tanh(h * p["b"] + x @ p["w"])
            return h, (h * 2, z)

        last, (ys, zs) = scan(step, p["h"], x, reverse=reverse)
        return (ys * zs).sum() + (last**2).sum()

    return loss


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("model", [rnn, gru])
def test_gradients_are_those_of_jax(
    model: Callable[..., Callable[..., object]], length: int, reverse: bool
) -> None:
    rng = np.random.default_rng(length)
    shapes = {"w": (3, 4), "u": (4, 4), "b": (4,), "h": (2, 4)}
    p = {name: rng.normal(size=shape).astype(np.float32) * 0.5 for name, shape in shapes.items()}
    x = rng.normal(size=(length, 2, 3)).astype(np.float32)
    value, gradients = graphc.value_and_grad(model(graphc, graphc.scan, reverse), wrt=(0, 1))(p, x)
    wanted = jax.value_and_grad(model(jax.numpy, jax.lax.scan, reverse), argnums=(0, 1))(p, x)
    np.testing.assert_allclose(value, wanted[0], rtol=1e-5)
    for name in p:
        np.testing.assert_allclose(gradients[0][name], wanted[1][0][name], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradients[1], wanted[1][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("x", [0.7, -0.7])
def test_branches_are_those_of_jax(x: float) -> None:
    def f(np_: ModuleType, cond: Callable[..., object]) -> Callable[..., object]:
        return lambda x: cond(x > 0, lambda x: np_.sin(x) * x, lambda x: np_.exp(x), x)

    ours, theirs = graphc.grad(f(graphc, graphc.cond)), jax.grad(f(jax.numpy, jax.lax.cond))
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5)


def test_while_loops_are_those_of_jax() -> None:
    def steps(loop: Callable[..., object]) -> object:
        return loop(lambda c: c[0] < 100, lambda c: (c[0] * 3 + 1, c[1] + 1), (np.float32(1), np.int32(0)))

    for a, b in zip(steps(graphc.while_loop), steps(jax.lax.while_loop), strict=True):
        assert a == b
